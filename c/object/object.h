/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The folder object: the property table, values, the records of backends and thread-contexts, and
 * the set of objects that they belong to. Calls go one way: backend.c, thread_context.c, objects.c,
 * value.c, table.c.
 */
#ifndef HOSTMEM_OBJECT_H
#define HOSTMEM_OBJECT_H

#include "host.h"

/* ---- records ---- */

enum hm_thp {
	HM_THP_AUTO,
	HM_THP_ALWAYS,
	HM_THP_NEVER,
};

enum hm_prealloc_mode {
	HM_PREALLOC_WAIT,
	HM_PREALLOC_BACKGROUND,
};

/* The first two are the values of a boolean. */
enum hm_reserve {
	HM_RESERVE_OFF,
	HM_RESERVE_ON,
	HM_RESERVE_TRY,
};

enum hm_rom {
	HM_ROM_AUTO,
	HM_ROM_ON,
	HM_ROM_OFF,
};

#define HM_FD_NONE     UINT64_MAX
#define HM_THREAD_NONE UINT64_MAX

/*
 * The values of all properties that kinds of backends have. A copy of the struct is a snapshot; the
 * descriptor in it stays the backend's.
 */
struct hm_values {
	uint64_t align;
	uint64_t contents_offset;
	uint64_t fd;
	uint64_t hugetlbsize;
	uint64_t offset;
	uint64_t rom;
	uint64_t size;
	uint64_t home_node;
	uint64_t policy;
	uint64_t prealloc_mode;
	uint64_t prealloc_threads;
	uint64_t reserve;
	uint64_t thp;
	struct hm_set host_nodes;
	/* In the record of the backend, where they change only while it is configuring. */
	char *contents;
	char *contents_order;
	char *mem_path;
	char prealloc_context[HOSTMEM_ID_MAX + 1];
	bool canonical_name;
	bool contents_poison;
	bool discard_data;
	bool dump;
	bool guard;
	bool hugetlb;
	bool hugetlbfs;
	bool lock;
	bool merge;
	bool pmem;
	bool prealloc;
	bool prealloc_watch;
	bool readonly;
	bool seal;
	bool share;
};

/* The values of the properties of a thread-context. */
struct hm_context_values {
	struct hm_set cpu_affinity;
	struct hm_set node_affinity;
	uint64_t thread_id;
};

enum hm_property {
	HM_PROPERTY_ALIGN,
	HM_PROPERTY_CONTENTS,
	HM_PROPERTY_CONTENTS_OFFSET,
	HM_PROPERTY_CONTENTS_ORDER,
	HM_PROPERTY_CONTENTS_POISON,
	HM_PROPERTY_CPU_AFFINITY,
	HM_PROPERTY_DISCARD_DATA,
	HM_PROPERTY_DUMP,
	HM_PROPERTY_FD,
	HM_PROPERTY_GUARD,
	HM_PROPERTY_HOME_NODE,
	HM_PROPERTY_HOST_NODES,
	HM_PROPERTY_HUGETLB,
	HM_PROPERTY_HUGETLBFS,
	HM_PROPERTY_HUGETLBSIZE,
	HM_PROPERTY_LOCK,
	HM_PROPERTY_MEM_PATH,
	HM_PROPERTY_MERGE,
	HM_PROPERTY_NODE_AFFINITY,
	HM_PROPERTY_OFFSET,
	HM_PROPERTY_PMEM,
	HM_PROPERTY_POLICY,
	HM_PROPERTY_PREALLOC,
	HM_PROPERTY_PREALLOC_CONTEXT,
	HM_PROPERTY_PREALLOC_MODE,
	HM_PROPERTY_PREALLOC_THREADS,
	HM_PROPERTY_PREALLOC_WATCH,
	HM_PROPERTY_READONLY,
	HM_PROPERTY_RESERVE,
	HM_PROPERTY_ROM,
	HM_PROPERTY_SEAL,
	HM_PROPERTY_SHARE,
	HM_PROPERTY_SIZE,
	HM_PROPERTY_THP,
	HM_PROPERTY_THREAD_ID,
	HM_PROPERTY_CANONICAL_NAME,
	HM_PROPERTY_COUNT,
};

/* An object in its set: one of the two. */
struct hm_entry {
	const char *id;
	struct hostmem_backend *backend;
	struct hostmem_thread_context *context;
	/* Guarded by the set's lock. */
	struct hm_entry *next;
};

/* Why a backend has a warning about a property. */
enum hm_warning_cause {
	/* It was given in a deprecated form. */
	HM_WARNING_FORM,
	/* Its value has no effect. */
	HM_WARNING_EFFECT,
};

struct hm_warning {
	struct hm_warning *next;
	enum hm_property property;
	enum hm_warning_cause cause;
	char text[256];
};

/* A device that has pinned the memory; as long as there is one, discard is refused. */
struct hm_inhibitor {
	struct hm_inhibitor *next;
	char name[HOSTMEM_ID_MAX + 1];
};

/* Whether a preallocation of ready memory runs, and where. */
enum hm_running {
	HM_RUNNING_NONE,
	/* The caller waits for it. */
	HM_RUNNING_FOREGROUND,
	HM_RUNNING_BACKGROUND,
};

struct hostmem_backend {
	char id[HOSTMEM_ID_MAX + 1];
	/* What messages call it; the id unless another was set while configuring. */
	char label[HOSTMEM_ID_MAX + 1];
	struct hm_entry entry;
	struct hostmem_objects *objects;
	const struct hostmem_kind *kind;
	const struct hostmem_host *host;
	/* What prealloc-context links to, guarded by the set's lock. */
	struct hostmem_thread_context *context;

	/* One live change at a time. Taken before `lock`, never after. */
	pthread_mutex_t change;
	/* Guards what follows, held for a few instructions only, never during a system call. */
	pthread_mutex_t lock;
	enum hostmem_state state;
	enum hm_running running;
	/* The error of the background preallocation, kind 0 for none; signalled at its end. */
	struct hostmem_error fill_error;
	pthread_cond_t filled;
	/* Freed in a callback of the filling thread, which frees the record when it ends. */
	bool orphaned;
	/* It was freed in a callback of `teller`, which does that in its place. */
	bool orphaned_by_teller;
	char owner[HOSTMEM_ID_MAX + 1];
	/* The devices that have pinned the memory. */
	struct hm_inhibitor *inhibitors;
	struct hm_values values;
	uint8_t origins[HM_PROPERTY_COUNT];
	/* Oldest first. */
	struct hm_warning *warnings;
	hostmem_progress_callback progress;
	void *progress_data;
	/* The completion callback of background preallocations. */
	hostmem_prealloc_callback done;
	void *done_data;
	struct hostmem_prealloc_result result;

	/* Written while completing, read when ready. */
	struct hm_mapping mapping;
	struct hostmem_backing backing;
	uint64_t page_size;
	/* The kind has made the backing, so undo has to be called. */
	bool allocated;
	bool shared, readonly;
	/* It is completed by threads of SCHED_IDLE, for a pool. */
	bool idle;
	/* These begin no chunk before that time, by hm_os_nanoseconds(). */
	_Atomic uint64_t rest_until;

	/* The process that completed it and has its memory and threads; 0: none yet. */
	_Atomic pid_t process;
	/* The last process that used the record, for hm_backend_enter(). */
	_Atomic pid_t here;

	/* The thread that calls the callbacks of the running preallocation. */
	pthread_t reporter;
	bool has_reporter;

	/* The background thread, and the eventfd that is signalled at its end (-1: none). */
	pthread_t filler;
	bool has_filler, filler_ended;
	/* Completing failed, so that thread is to end without having filled anything. */
	bool filler_dropped;
	int fill_event;

	/* The thread that reports reads on demand that failed; ready: it is in `teller`. */
	pthread_t teller;
	bool has_teller, teller_ready, teller_ended;
	/* There is one to report, in fill_error. */
	bool tell, failed_on_demand;

	/* Ranges discarded during a preallocation, which it leaves out. */
	struct hm_gaps gaps;
	/* Ranges that are inaccessible; changed under `change` while nothing fills, scrubs or
	 * saves.
	 */
	struct hm_ranges inaccessible;
	/* Contents that are read on demand; NULL: none. Changes only while completing or deleting.
	 */
	struct hm_lazy *lazy;
	/* Some of them are not read. */
	_Atomic bool unread;

	/* Stops the running preallocation within one chunk. */
	_Atomic bool cancel;
	_Atomic uint64_t bytes_done;
	_Atomic uint64_t bytes_total;

	/*
	 * What the paths among the values point to, so that copies of the values stay small. Last,
	 * since hm_backend_alloc() does not clear them.
	 */
	char contents[PATH_MAX], contents_order[PATH_MAX], mem_path[PATH_MAX];
};

struct hostmem_thread_context {
	char id[HOSTMEM_ID_MAX + 1];
	struct hm_entry entry;
	struct hostmem_objects *objects;
	/* Guarded by the set's lock: references by links, and the one by its user. */
	size_t links;
	bool has_handle;

	/* One change at a time; guards state and values. */
	pthread_mutex_t change;
	enum hostmem_state state;
	struct hm_context_values values;

	/* Its thread, HM_THREAD_NONE for none, and the process of that thread; 0: none. */
	pthread_t thread;
	uint64_t thread_id;
	_Atomic pid_t process;
	/* The last process that used the record, for hm_thread_enter(). */
	_Atomic pid_t here;

	/* Held by a caller that wants threads created, until they are. */
	pthread_mutex_t turn;
	/* Guards the request to the thread. */
	pthread_mutex_t lock;
	pthread_cond_t asked, served;
	struct hm_creation *creation;
	bool ending;
};

/* ---- table.c: the property table ---- */

struct hm_row {
	struct hostmem_property public;
	enum hm_property property;
	/* Where the value is in struct hm_values, or in struct hm_context_values. */
	size_t offset;
	/* Of a bool, a number or an enum. */
	uint64_t initial;
	/* Of a size, a number or a node: the least and the largest value. */
	uint64_t least, largest;
	/* What a number reads as while it is 0; NULL: as 0. */
	uint32_t (*automatic)(const struct hostmem_host *host);
};

const struct hm_row *hm_table_get(enum hm_property property);
/* Whether the value is in struct hm_values. */
bool hm_table_is_of_backends(const struct hm_row *row);
/* NULL, with the error written, when objects of that kind have no such property. */
const struct hm_row *hm_table_find(const char *id, const char *kind, const char *property,
				   struct hostmem_error *err);

/* ---- value.c: one value of a property ---- */

/* The form in which a value is given or read. */
enum hm_form {
	HM_FORM_TEXT,
	HM_FORM_BOOL,
	HM_FORM_NUMBER,
	HM_FORM_LIST,
	HM_FORM_FD,
};

/* A value on its way into a record of values, or out of one. */
struct hm_value {
	enum hm_form form;
	/* Borrowed. The list is read by hm_value_check() only, which makes a set of it. */
	const char *text;
	const uint32_t *list;
	size_t list_len;
	/* The value of a bool, a number, an enum or a descriptor. */
	uint64_t number;
	struct hm_set set;
};

/* Whether it is a boolean without other choices. */
bool hm_value_is_plain_bool(const struct hm_row *row);
/* Whether it is a set, whose parts may be given one by one. */
bool hm_value_is_set(const struct hm_row *row);
/* Turns a value in the form it was given in into what the row stores, or fails. */
int hm_value_check(const char *id, const struct hm_row *row, struct hm_value *value,
		   struct hostmem_error *err);
/* TYPE unless values of the row can be given and read in that form. */
int hm_value_check_form(const char *id, const struct hm_row *row, enum hm_form form,
			struct hostmem_error *err);
/* Copies a checked value to its place in a record of the row's kind, or the initial value. */
void hm_value_store(const struct hm_row *row, const struct hm_value *value, void *record);
void hm_value_store_initial(const struct hm_row *row, void *record);
/* The value in a record, whose text is borrowed. */
void hm_value_load(const struct hostmem_host *host, const struct hm_row *row, const void *record,
		   struct hm_value *value);
/* Formats the value as text; returns the length as snprintf does. */
int hm_value_format(const struct hm_row *row, const struct hm_value *value, char *buffer,
		    size_t size);

/* ---- backend.c: the record of a backend ---- */

/* A zeroed record; NULL: no memory. */
struct hostmem_backend *hm_backend_alloc(void);
/*
 * Initialises a zeroed record: configuring, with the defaults of its set and kind. Without an id
 * (NULL) messages name the kind until hm_objects_add_anonymous().
 */
void hm_backend_init(struct hostmem_backend *backend, struct hostmem_objects *objects,
		     const struct hostmem_kind *kind, const char *id);
/* Frees a record without memory, and closes the descriptor that it owns. */
void hm_backend_destroy(struct hostmem_backend *backend);
/*
 * What a public function does before anything that takes a lock or asks hm_backend_is_forked(): in
 * a forked child the locks of the backend and of its set are made new.
 */
void hm_backend_enter(const struct hostmem_backend *backend);
/*
 * Whether this process is a forked child of the one that completed the backend. The child has the
 * record, but neither the memory (MADV_DONTFORK) nor the threads.
 */
bool hm_backend_is_forked(const struct hostmem_backend *backend);
/* Enters; STATE in a forked child, where another mapping may be at the backend's addresses. */
int hm_backend_check_process(const struct hostmem_backend *backend, const char *what,
			     struct hostmem_error *err);
/* Whether a backend in this state has its memory: ready or mapped. */
bool hm_backend_has_memory(enum hostmem_state state);
/* Whether the memory consists of hugetlb pages. */
bool hm_backend_is_hugetlb(const struct hostmem_backend *backend);
/* Makes the values those of another backend, whose lock is held. */
void hm_backend_copy_values(struct hostmem_backend *backend, const struct hostmem_backend *from);
/* A copy of all values at this moment. */
void hm_backend_snapshot(const struct hostmem_backend *backend, struct hm_values *values);
int hm_backend_fail_not_ready(const struct hostmem_backend *backend, enum hostmem_state state,
			      struct hostmem_error *err);
/* With `change` held. STATE where some of the memory was lost: what is there may be another
 * thread's. */
int hm_backend_check_whole(const struct hostmem_backend *backend, struct hostmem_error *err);
/* With `change` held, so that the memory stays where it is: ready or mapped, and whole. */
int hm_backend_check_usable(const struct hostmem_backend *backend, struct hostmem_error *err);
/*
 * Adds a warning that begins with the property's name, in place of one of the same property and
 * cause. Takes `lock`. Without memory for it there is none.
 */
void hm_backend_warn(struct hostmem_backend *backend, enum hm_property property,
		     enum hm_warning_cause cause, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* Once it is not true any more. */
void hm_backend_unwarn(struct hostmem_backend *backend, enum hm_property property,
		       enum hm_warning_cause cause);
/* Whether it was freed in a callback of the filling thread. */
bool hm_backend_is_orphaned(const struct hostmem_backend *backend);
/* Whether a preallocation of its ready memory runs. */
bool hm_backend_is_running(const struct hostmem_backend *backend);
/* The state now, for functions that have entered. */
enum hostmem_state hm_backend_get_state(const struct hostmem_backend *backend);
/* The lock of a const backend: it is taken for reading too. */
pthread_mutex_t *hm_backend_lock_of(const struct hostmem_backend *backend);

/* ---- thread_context.c ---- */

void hm_thread_context_init(struct hostmem_thread_context *context, struct hostmem_objects *objects,
			    const char *id);
/* Frees a context that is in no set. */
void hm_thread_context_destroy(struct hostmem_thread_context *context);
int hm_thread_context_check_settable(const struct hostmem_thread_context *context,
				     const struct hm_row *row, struct hostmem_error *err);
/* Stores a checked value; the thread of a complete one is moved. */
int hm_thread_context_change(struct hostmem_thread_context *context, const struct hm_row *row,
			     const struct hm_value *value, struct hostmem_error *err);
/* The effective values. */
void hm_thread_context_read(const struct hostmem_thread_context *context,
			    struct hm_context_values *values);
/* How many CPUs its threads can run on. */
size_t hm_thread_context_count_cpus(const struct hostmem_thread_context *context);
/* Whether it can create threads for the backend `user`. */
int hm_thread_context_check_ready(const struct hostmem_thread_context *context, const char *user,
				  struct hostmem_error *err);
struct hm_creation;
/* Has its thread create threads, which inherit its affinity. */
void hm_thread_context_create(struct hostmem_thread_context *context, struct hm_creation *creation);
/* Drops a link that hm_objects_link() or hm_objects_get_link() returned; NULL is allowed. */
void hm_thread_context_unlink(struct hostmem_thread_context *context);

/* ---- objects.c: ids, kinds, defaults, links ---- */

struct hostmem_objects {
	pthread_mutex_t lock;
	/* The last process that used the set, for hm_objects_enter(). */
	_Atomic pid_t here;
	/* One of the embedder and one of each object. */
	size_t references;
	struct hostmem_host host;
	struct hostmem_defaults defaults;
	struct hm_compat *compat;
	size_t compat_len;
	struct hm_registered_kind *registered;
	struct hm_entry *entries;
	/* Ids made so far. */
	uint64_t anonymous;
};

/* The parent of all kinds of backends; what is set for it applies to each. */
#define HM_ABSTRACT_KIND "memory-backend"

struct hm_compat {
	char *kind, *property, *value;
};

struct hm_registered_kind {
	struct hostmem_kind kind;
	struct hm_registered_kind *next;
};

/* A set without kinds; the arguments are those of hostmem_objects_new(). */
int hm_objects_new(struct hostmem_objects **objects, const struct hostmem_host *host,
		   const struct hostmem_defaults *defaults, const struct hostmem_compat *compat,
		   size_t compat_len, struct hostmem_error *err);
/* What a public function of the set does before it takes its lock; as hm_backend_enter(). */
void hm_objects_enter(const struct hostmem_objects *objects);
/* NULL when the set has no kind of that name. */
const struct hostmem_kind *hm_objects_find_kind(struct hostmem_objects *objects, const char *name);
/* Takes the object's id in the set, and a reference to the set. */
int hm_objects_add(struct hostmem_objects *objects, struct hm_entry *entry,
		   struct hostmem_error *err);
/* Makes an id for a backend without one, which is its label too, and adds it. */
void hm_objects_add_anonymous(struct hostmem_objects *objects, struct hostmem_backend *backend);
/* Removes the object; its id is free again. */
void hm_objects_remove(struct hostmem_objects *objects, const struct hm_entry *entry);
/* A new link to the thread-context of that id; NULL if there is none. */
struct hostmem_thread_context *hm_objects_link(struct hostmem_objects *objects, const char *id);
/* A new link to the context of a backend; NULL if it has none. */
struct hostmem_thread_context *hm_objects_get_link(const struct hostmem_backend *backend);
/* Gives the backend a link, NULL for none, and returns the one that it had. */
struct hostmem_thread_context *hm_objects_swap_link(struct hostmem_backend *backend,
						    struct hostmem_thread_context *context);
/* Each drops a reference and returns whether it was the last; then the id is free again. */
bool hm_objects_unlink(struct hostmem_thread_context *context);
bool hm_objects_drop_handle(struct hostmem_thread_context *context);
/* Whether a backend links to it; its id is written to *user. */
bool hm_objects_find_user(const struct hostmem_thread_context *context, char *user, size_t size);
/* Removes it unless a backend links to it, whose id is written to *user. Returns whether it did. */
bool hm_objects_remove_unlinked(struct hostmem_thread_context *context, char *user, size_t size);
/* Whether the text can be an id. */
int hm_objects_check_id(const char *id, struct hostmem_error *err);
/* Takes a reference, for a backend whose id is not in the set. */
void hm_objects_ref(struct hostmem_objects *objects);
/* Drops a reference; the last one frees the set. */
void hm_objects_unref(struct hostmem_objects *objects);

#endif

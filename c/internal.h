/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the C files share with each other. Owns no behaviour.
 *
 * A file calls only files that stand below it here:
 *
 *     options.c                                  objects from option strings
 *     create.c                                   new objects
 *     life.c                                     a backend from state to state
 *     props.c                                    setting and reading properties
 *     live.c  discard.c  inhibit.c  piece.c      changes while it lives
 *     complete.c                                 the steps from configuration to memory
 *     kind_*.c                                   make the backing
 *     check.c                                    is this configuration possible
 *     background.c  rebind.c                     fill it, or move it, while it is in use
 *     prealloc.c  placement.c                    fill it; see where it is
 *     judge.c                                    is it where it was asked for
 *     watch.c  fill.c  gaps.c                    memory left; chunks of one; what leaves them
 *     crew.c  thread_context.c                   threads together; what creates them
 *     map.c  advise.c  policy.c  populate*.c     one thing done to memory
 *     process.c  backend.c                       what a forked child lacks; what a backend is
 *     snapshot.c                                 what there is, as it is handed out
 *     topology.c  cgroup.c  host.c  objects.c    what there is
 *     table.c  value.c                           properties; their values
 *     thread.c                                   how threads begin
 *     numa.c  os.c  text.c  error.c              libnuma, system calls, words
 */
#ifndef HOSTMEM_INTERNAL_H
#define HOSTMEM_INTERNAL_H

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "hostmem.h"

#define HM_ARRAY_LEN(array) (sizeof(array) / sizeof((array)[0]))

/* Bit n stands for NUMA node n. */
struct hm_nodes {
	uint64_t bits[HOSTMEM_NODES_MAX / 64];
};

/* Bit n stands for CPU n. */
struct hm_cpus {
	uint64_t bits[HOSTMEM_CPUS_MAX / 64];
};

/* ---- error.c ---- */

/* Writes *err, unless it is NULL, and returns -1. os_error is a positive errno or 0. */
int hm_fail(struct hostmem_error *err, enum hostmem_error_kind kind, int os_error,
	    const char *format, ...) __attribute__((format(printf, 4, 5)));
/* Adds to the message of an error that was written. */
void hm_fail_more(struct hostmem_error *err, const char *text);
/* NO_MEMORY for our own bookkeeping. */
int hm_fail_alloc(struct hostmem_error *err);
/* The kind of error that an errno (positive) of a memory call amounts to. */
enum hostmem_error_kind hm_error_kind_of(int os_error);

/* ---- text.c: words and values, no system ---- */

/* Each returns 0, or -1 when the text is not of that form or does not fit. */
int hm_text_parse_size(const char *text, uint64_t *value);
int hm_text_parse_number(const char *text, uint64_t *value);
int hm_text_parse_bool(const char *text, bool *value);
/* "0-3,5" into bits [0, bits_len * 64). */
int hm_text_parse_set(const char *text, uint64_t *bits, size_t bits_len);
/* The inverse; returns the length of the whole text as snprintf does. */
int hm_text_format_set(const uint64_t *bits, size_t bits_len, char *buffer, size_t size);
/* The same of what is in `wanted` and not in `have`; 0 when that is nothing. */
int hm_text_format_missing(const uint64_t *wanted, const uint64_t *have, size_t bits_len,
			   char *buffer, size_t size);
/* Turns control characters and broken UTF-8 into '?', so that the text is one line. */
void hm_text_clean(char *text);
/* Copies with snprintf's contract. */
int hm_text_copy(const char *text, char *buffer, size_t size);
/* Whether it is a letter, then letters, digits, '-', '.', '_', at most HOSTMEM_ID_MAX bytes. */
bool hm_text_is_id(const char *text);
/*
 * Takes the next "key=value" or "value" off *options, which moves past it; ",," in a value is one
 * comma. *key is NULL for a lone value. Both are cut out of the caller's writable string. Returns
 * 1, or 0 at the end.
 */
int hm_text_next_option(char **options, char **key, char **value);

const char *hm_text_state(enum hostmem_state state);

bool hm_set_has(const uint64_t *bits, size_t bits_len, uint64_t bit);
void hm_set_add(uint64_t *bits, uint64_t bit);
bool hm_set_is_empty(const uint64_t *bits, size_t bits_len);
/* Whether all of it is in `whole`. */
bool hm_set_is_subset(const uint64_t *bits, const uint64_t *whole, size_t bits_len);
size_t hm_set_count(const uint64_t *bits, size_t bits_len);

/* ---- os.c: each system call, once; 0 or a value >= 0, or -errno ---- */

/* What a descriptor is of. */
struct hm_file {
	mode_t mode;
	dev_t device, special;
	ino_t inode;
	/* Bytes; UINT64_MAX where it has no size of its own. */
	uint64_t size;
	/* Bytes of it that are allocated. */
	uint64_t allocated;
	/* Of a hugetlb file its huge page, of any other the base page. */
	uint64_t page_size;
	/* Its contents are in memory and nowhere else (tmpfs, memfd). */
	bool shmem;
};

int hm_os_map(void **address, size_t size, int protection, int flags, int fd, uint64_t offset);
int hm_os_unmap(void *address, size_t size);
int hm_os_protect(void *address, size_t size, int protection);
int hm_os_advise(void *address, size_t size, int advice);
int hm_os_lock(void *address, size_t size, unsigned int flags);
int hm_os_unlock(void *address, size_t size);
/* Whether any of it is locked, by mlock(2) or mlockall(2). */
bool hm_os_is_locked(void *address, size_t size);
int hm_os_name(void *address, size_t size, const char *name);
int hm_os_set_home_node(void *address, size_t size, unsigned int node);
int hm_os_memfd(const char *name, unsigned int flags);
int hm_os_set_size(int fd, uint64_t size);
int hm_os_stat(int fd, struct hm_file *file);
int hm_os_open(const char *path, int flags);
/* Where a symbolic link leads to; returns the length. */
int hm_os_read_link(const char *path, char *buffer, size_t size);
/* Makes a file of no name in a directory. */
int hm_os_open_temporary(const char *directory);
int hm_os_open_shm(const char *name);
int hm_os_unlink(const char *path);
int hm_os_duplicate(int fd);
int hm_os_random(void *buffer, size_t size);
int hm_os_get_access(int fd);
/* The seals of a memfd; -EINVAL where a file cannot have any. */
int hm_os_get_seals(int fd);
int hm_os_punch_hole(int fd, uint64_t offset, uint64_t length);
/* Gives a file blocks, without changing its size. */
int hm_os_allocate(int fd, uint64_t offset, uint64_t length);
/* userfaultfd(2), for faults of user space only, which needs no privilege. */
int hm_os_fault_open(void);
int hm_os_fault_register(int fault_fd, uint8_t *address, uint64_t size);
int hm_os_fault_unregister(int fault_fd, uint8_t *address, uint64_t size);
/* Puts zero pages into absent places; *done: bytes up to the first place that was not absent. */
int hm_os_fault_zero(int fault_fd, uint8_t *address, uint64_t size, uint64_t *done);
/* Counts the bytes of a range that are in memory. */
int hm_os_count_resident(uint8_t *address, uint64_t size, uint64_t *resident);
/* The same of pages that no file and no other mapping has, nor the kernel, as it has the zero page.
 */
int hm_os_count_own(const uint8_t *address, uint64_t size, uint64_t *own);
int hm_os_add_seals(int fd, unsigned int seals);
int hm_os_close_on_exec(int fd);
int hm_os_close(int fd);
int hm_os_get_limit(int resource, uint64_t *limit);
/* thread 0: the calling one. */
int hm_os_get_affinity(pid_t thread, struct hm_cpus *cpus);
/* A file's text, cut to size - 1 bytes and ended by NUL; returns its length. */
int hm_os_read_file(const char *path, char *buffer, size_t size);
int hm_os_set_affinity(pid_t thread, const struct hm_cpus *cpus);
int hm_os_set_thread_name(const char *name);
/* eventfd(2), close-on-exec, not blocking. */
int hm_os_event_open(void);
void hm_os_event_clear(int event);
void hm_os_event_signal(int event);
uint64_t hm_os_page_size(void);
uint64_t hm_os_nanoseconds(void);
pid_t hm_os_process(void);

/* ---- numa.c: libnuma, or -ENOSYS where it is not built in ---- */

enum hm_policy {
	HM_POLICY_DEFAULT,
	HM_POLICY_PREFERRED,
	HM_POLICY_BIND,
	HM_POLICY_INTERLEAVE,
	HM_POLICY_PREFERRED_MANY,
	HM_POLICY_WEIGHTED_INTERLEAVE,
	HM_POLICY_LOCAL,
	HM_POLICY_COUNT,
};

/*
 * Fail when pages cannot be where the policy wants them; move those that can; and those that others
 * use too.
 */
#define HM_NUMA_STRICT   1u
#define HM_NUMA_MOVE     2u
#define HM_NUMA_MOVE_ALL 4u

/* NULL-terminated; the index is enum hm_policy. */
extern const char *const hm_numa_policy_names[];
/* The first kernel that has the policy, where some in use do not; else NULL. */
extern const char *const hm_numa_policy_since[];

bool hm_numa_is_built(void);
/* nodes may be NULL. */
int hm_numa_bind(void *address, size_t size, enum hm_policy policy, const struct hm_nodes *nodes,
		 unsigned int flags);
/* Of the calling thread, which has to be one of ours. */
int hm_numa_set_thread(enum hm_policy policy, const struct hm_nodes *nodes);
/* The nodes that the calling thread is bound to; -ENOENT when its policy is another one. */
int hm_numa_get_bound(struct hm_nodes *nodes);

/* ---- host.c ---- */

/* What not every kernel in use, or every process, can do. */
enum hm_feature {
	HM_FEATURE_POPULATE,
	HM_FEATURE_COLLAPSE,
	HM_FEATURE_USERFAULTFD,
	HM_FEATURE_DONTNEED_LOCKED,
	HM_FEATURE_NOEXEC_SEAL,
	HM_FEATURE_MERGE,
	HM_FEATURE_HOME_NODE,
	HM_FEATURE_COUNT,
};

struct hostmem_host {
	struct hostmem_host_info info;
	/* The same as in the info. */
	uint64_t page_size, thp_size;
	/* MADV_POPULATE_READ and _WRITE. */
	bool populate;
	/* The errno of each feature, 0 where the kernel can. */
	int feature_error[HM_FEATURE_COUNT];
	/* errno with which mbind refuses the mode of each policy, 0 where it takes it. */
	int policy_error[HM_POLICY_COUNT];
	/* errno of set_mempolicy_home_node, 0 where the kernel has it. */
	int home_node_error;
	uint32_t methods;
};

/* ---- topology.c: nodes and CPUs as they are now ---- */

struct hm_topology {
	/* Nodes that are online, that have memory, that this process may use. */
	struct hm_nodes online, memory, allowed;
};

/* Fills what the kernel tells; a kernel without NUMA leaves all sets empty. */
void hm_topology_read(struct hm_topology *topology);
/*
 * The CPUs that this process may use and that are nearest to the nodes: their own, and for a node
 * without CPUs those of the closest node that has some. Returns their number; 0: unknown.
 */
size_t hm_topology_get_cpus(const struct hm_nodes *nodes, struct hm_cpus *cpus);
/* The same, whether this process may use them or not. */
void hm_topology_get_node_cpus(const struct hm_nodes *nodes, struct hm_cpus *cpus);
void hm_topology_get_online_cpus(struct hm_cpus *cpus);
/* How many CPUs this process may use, at least 1. */
uint32_t hm_topology_count_cpus(void);
/* The CPUs of a node, none where it has none. */
void hm_topology_get_own_cpus(uint64_t node, struct hm_cpus *cpus);
/* Bytes of a node, 0 where the kernel does not tell. */
void hm_topology_get_node_memory(uint64_t node, uint64_t *total, uint64_t *free);
/*
 * Bytes of small-page memory that can be had without the OOM killer: free and file pages and
 * reclaimable slab, less what the kernel keeps for itself, and swap. nodes: on these; NULL:
 * anywhere. UINT64_MAX when the kernel does not tell.
 */
uint64_t hm_topology_get_available(const struct hm_nodes *nodes);
uint64_t hm_topology_get_free_swap(void);

/* The sizes of huge pages that the architectures of Linux have lie between these. */
#define HM_HUGE_SIZE_MIN (UINT64_C(1) << 16)
#define HM_HUGE_SIZE_MAX (UINT64_C(1) << 34)

/* A pool of huge pages, in pages. */
struct hm_huge_pool {
	uint64_t total, free;
	/* Of the free ones, promised to memory that has not touched them. */
	uint64_t reserved;
	/* Pages that the kernel may still add when the pool is short. */
	uint64_t overcommit;
};

/* Returns -1 when this host has no huge pages of that size. */
int hm_topology_get_pool(uint64_t page_size, struct hm_huge_pool *pool);
/* What is free and total on one node; 0 where that has no pool. */
void hm_topology_get_node_pool(uint64_t node, uint64_t page_size, struct hm_huge_pool *pool);
/* The size of huge pages where none is asked for; 0: this host has none. */
uint64_t hm_topology_get_default_huge_size(void);
/* How many pages in turn a node gets of weighted interleaving. */
uint8_t hm_topology_get_weight(uint64_t node);
/* Whether shared memory of a file system is made huge where that is advised. */
bool hm_topology_is_shmem_huge(dev_t device);
/* Whether a character device is direct access memory. */
bool hm_topology_is_dax(dev_t device);
/* "2M, 1G": the sizes of huge pages that this host has; "none". */
void hm_topology_list_huge_sizes(char *text, size_t size);

/* ---- cgroup.c: what the control groups of this process leave it ---- */

/* The directories of this process's groups, v1 and v2; "" where there is none. */
struct hm_cgroup {
	/* Each is below its mount point, whose length is here, and so are its ancestors. */
	char v1[PATH_MAX], v2[PATH_MAX];
	size_t v1_mount, v2_mount;
};

void hm_cgroup_find(struct hm_cgroup *cgroup);
/*
 * Bytes that can still be allocated in all of them, with as much swap space there is; UINT64_MAX
 * for no limit.
 */
uint64_t hm_cgroup_get_available(const struct hm_cgroup *cgroup, uint64_t swap);

/* A limit, in bytes. */
struct hm_cgroup_limit {
	/* The file that has it, behind its directory. */
	char file[PATH_MAX + 64];
	uint64_t limit, available;
};

/* The one that leaves least of huge pages of a size; false when none limits them. */
bool hm_cgroup_find_huge_limit(uint64_t page_size, struct hm_cgroup_limit *limit);

/* ---- gaps.c ---- */

/* A range of a backend's memory, or of what a fill has to fill, in bytes. */
struct hm_range {
	uint64_t offset, length;
};

struct hm_gaps {
	/* Held for reading by whoever fills a chunk. */
	pthread_rwlock_t lock;
	/* Held by who adds a range, so that no reader comes before it. */
	pthread_mutex_t turn;
	_Atomic bool wanted;
	/* Sorted, apart from each other. */
	struct hm_range *ranges;
	size_t len;
};

void hm_gaps_init(struct hm_gaps *gaps);
void hm_gaps_destroy(struct hm_gaps *gaps);
void hm_gaps_clear(struct hm_gaps *gaps);
/*
 * Discards the range while nobody fills a chunk; it is a gap from then on where that went well.
 * Returns 0, -ENOMEM, or what discarding returned.
 */
int hm_gaps_add(struct hm_gaps *gaps, const struct hm_range *range,
		int (*discard)(const struct hostmem_backend *backend, const struct hm_range *range),
		const struct hostmem_backend *backend);
/* What is done in between is done before a gap is added, or after. */
void hm_gaps_hold(struct hm_gaps *gaps);
void hm_gaps_let_go(struct hm_gaps *gaps);
/* Takes the next part that is in no gap off *rest; false when there is none. Called held. */
bool hm_gaps_next_part(const struct hm_gaps *gaps, struct hm_range *rest, struct hm_range *part);
/* Bytes of a range that are in gaps. */
uint64_t hm_gaps_count(struct hm_gaps *gaps, const struct hm_range *range);

/* ---- map.c ---- */

/* Provenance: what was mapped, so that exactly this is unmapped. */
struct hm_mapping {
	/* The reservation: guard page, memory, guard page. NULL: nothing is mapped. */
	uint8_t *base;
	size_t base_size;
	uint8_t *address;
	size_t size;
	/* Between the guards nothing is mapped by us; what is there is somebody else's. */
	bool hole;
};

struct hm_map_request {
	size_t size;
	/* The address is this many bytes above a multiple of the alignment. */
	size_t alignment, skew;
	/* -1 for anonymous memory. */
	int fd;
	uint64_t offset;
	bool shared;
	bool reserve;
	/* Shared memory whose stores need no flush by the file system (DAX). */
	bool sync;
};

/* Reserves address space with a guard page on both sides. Returns 0 or -errno, nothing left. */
int hm_map_reserve(struct hm_mapping *mapping, const struct hm_map_request *request);
/*
 * Maps the backing, inaccessible, between the guard pages. Returns 0 or -errno: -EEXIST when
 * another thread has mapped something there meanwhile. After a failure only hm_map_destroy() may
 * follow.
 */
int hm_map_fill(struct hm_mapping *mapping, const struct hm_map_request *request);
void hm_map_destroy(struct hm_mapping *mapping);

/* ---- a backend ---- */

enum hm_thp {
	HM_THP_AUTO,
	HM_THP_ALWAYS,
	HM_THP_NEVER,
};

enum hm_prealloc_mode {
	HM_PREALLOC_WAIT,
	HM_PREALLOC_BACKGROUND,
};

#define HM_NODE_NONE UINT64_MAX

enum hm_rom {
	HM_ROM_AUTO,
	HM_ROM_ON,
	HM_ROM_OFF,
};

#define HM_FD_NONE     UINT64_MAX
#define HM_THREAD_NONE UINT64_MAX

/*
 * The value of every property, of whichever kind. A copy of the struct is a snapshot; the
 * descriptor in it stays the backend's.
 */
struct hm_values {
	uint64_t align;
	uint64_t fd;
	uint64_t hugetlbsize;
	uint64_t offset;
	uint64_t rom;
	uint64_t size;
	uint64_t home_node;
	uint64_t policy;
	uint64_t prealloc_mode;
	uint64_t prealloc_threads;
	uint64_t thp;
	uint64_t thread_id;
	struct hm_nodes host_nodes;
	struct hm_nodes node_affinity;
	struct hm_cpus cpu_affinity;
	char mem_path[PATH_MAX];
	char prealloc_context[HOSTMEM_ID_MAX + 1];
	bool canonical_name;
	bool discard_data;
	bool dump;
	bool hugetlb;
	bool lock;
	bool merge;
	bool pmem;
	bool prealloc;
	bool readonly;
	bool reserve;
	bool seal;
	bool share;
};

enum hm_property {
	HM_PROPERTY_ALIGN,
	HM_PROPERTY_CPU_AFFINITY,
	HM_PROPERTY_DISCARD_DATA,
	HM_PROPERTY_DUMP,
	HM_PROPERTY_FD,
	HM_PROPERTY_HOME_NODE,
	HM_PROPERTY_HOST_NODES,
	HM_PROPERTY_HUGETLB,
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

/* One who has pinned memory, so that it is not discarded. */
struct hm_inhibitor {
	struct hm_inhibitor *next;
	char name[HOSTMEM_ID_MAX + 1];
};

/* The preallocation of ready memory that runs. */
enum hm_running {
	HM_RUNNING_NONE,
	/* Whoever asked for it waits. */
	HM_RUNNING_FOREGROUND,
	HM_RUNNING_BACKGROUND,
};

struct hostmem_backend {
	char id[HOSTMEM_ID_MAX + 1];
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
	/* Why the one in the background failed, kind 0 if it did not, and who waits for its end. */
	struct hostmem_error fill_error;
	pthread_cond_t filled;
	/* The last owner went away on the thread that fills: that frees. */
	bool orphaned;
	char owner[HOSTMEM_ID_MAX + 1];
	/* Who has pinned the memory. */
	struct hm_inhibitor *inhibitors;
	struct hm_values values;
	uint8_t origins[HM_PROPERTY_COUNT];
	hostmem_progress_callback progress;
	void *progress_data;
	/* Told the end of what runs in the background. */
	hostmem_prealloc_callback done;
	void *done_data;
	struct hostmem_prealloc_result result;

	/* Written while completing, read when ready. */
	struct hm_mapping mapping;
	struct hostmem_backing backing;
	uint64_t page_size;
	/* The kind has made the backing, which undo may have to know. */
	bool allocated;
	bool shared, readonly;

	/* The process that completes it, which has its memory and threads; 0: none does. */
	_Atomic pid_t process;

	/* Where the callbacks of the preallocation that runs are called. */
	pthread_t reporter;
	bool has_reporter;

	/* Of the background: its thread, and what says to event loops that it ended (-1: none). */
	pthread_t filler;
	bool has_filler, filler_ended;
	int fill_event;

	/* What was discarded while a preallocation runs. */
	struct hm_gaps gaps;

	/* Stops the running preallocation within one chunk. */
	_Atomic bool cancel;
	_Atomic uint64_t bytes_done;
	_Atomic uint64_t bytes_total;
};

struct hostmem_thread_context {
	char id[HOSTMEM_ID_MAX + 1];
	struct hm_entry entry;
	struct hostmem_objects *objects;
	/* Guarded by the set's lock: how many link to it, and whether it was freed. */
	size_t links;
	bool has_handle;

	/* One change at a time; guards state and values. */
	pthread_mutex_t change;
	enum hostmem_state state;
	struct hm_values values;

	/* Its thread, HM_THREAD_NONE for none, and the process that has it; 0: none has. */
	pthread_t thread;
	uint64_t thread_id;
	_Atomic pid_t process;

	/* Held by whoever asks for threads, until they are there. */
	pthread_mutex_t turn;
	/* Guards what is asked. */
	pthread_mutex_t lock;
	pthread_cond_t asked, served;
	struct hm_creation *creation;
	bool ending;
};

/* ---- table.c ---- */

struct hm_row {
	struct hostmem_property public;
	enum hm_property property;
	/* Where the value is in struct hm_values. */
	size_t offset;
	/* Of a bool, a number or an enum. */
	uint64_t initial;
	/* Of a size, a number or a node: the least and the largest value. */
	uint64_t least, largest;
};

/* Whose property it is. */
struct hm_subject {
	const char *id, *kind;
};

const struct hm_row *hm_table_get(enum hm_property property);
/* NULL, with the error written, when the kind has none of that name. */
const struct hm_row *hm_table_find(const struct hm_subject *subject, const char *property,
				   struct hostmem_error *err);

/* ---- value.c ---- */

/* Whether it is a set, whose parts may be given one by one. */
bool hm_value_is_set(const struct hm_row *row);
void hm_value_reset(const struct hm_row *row, struct hm_values *values);
void hm_value_copy(const struct hm_row *row, struct hm_values *to, const struct hm_values *from);
/* Each puts a value into its place in *values, or fails. */
int hm_value_parse(const struct hm_subject *subject, const struct hm_row *row, const char *text,
		   struct hm_values *values, struct hostmem_error *err);
int hm_value_put_bool(const struct hm_subject *subject, const struct hm_row *row, bool value,
		      struct hm_values *values, struct hostmem_error *err);
int hm_value_put_number(const struct hm_subject *subject, const struct hm_row *row, uint64_t number,
			struct hm_values *values, struct hostmem_error *err);
int hm_value_put_list(const struct hm_subject *subject, const struct hm_row *row,
		      const uint32_t *list, size_t list_len, struct hm_values *values,
		      struct hostmem_error *err);
/* As text, with snprintf's contract. */
int hm_value_format(const struct hm_row *row, const struct hm_values *values, char *buffer,
		    size_t size);
int hm_value_get_bool(const struct hm_subject *subject, const struct hm_row *row,
		      const struct hm_values *values, bool *value, struct hostmem_error *err);
int hm_value_get_number(const struct hm_subject *subject, const struct hm_row *row,
			const struct hm_values *values, uint64_t *value, struct hostmem_error *err);
/* Writes at most list_size ids and returns how many there are. */
int hm_value_get_list(const struct hm_subject *subject, const struct hm_row *row,
		      const struct hm_values *values, uint32_t *list, size_t list_size,
		      struct hostmem_error *err);

/* ---- backend.c ---- */

/* A copy of all values at this moment. */
void hm_backend_snapshot(const struct hostmem_backend *backend, struct hm_values *values);
int hm_fail_no_memory_yet(const struct hostmem_backend *backend, enum hostmem_state state,
			  struct hostmem_error *err);
/* Whether the last owner went away on the thread that fills, in its callback. */
bool hm_backend_is_orphaned(const struct hostmem_backend *backend);
/* Whether a preallocation of its ready memory runs. */
bool hm_backend_is_running(const struct hostmem_backend *backend);
/* The lock is no part of a backend's value: reading takes it too. */
pthread_mutex_t *hm_backend_lock_of(const struct hostmem_backend *backend);

/* ---- thread_context.c ---- */

void hm_thread_context_init(struct hostmem_thread_context *context, struct hostmem_objects *objects,
			    const char *id);
/* Of one that is in no set. */
void hm_thread_context_destroy(struct hostmem_thread_context *context);
int hm_thread_context_check_settable(const struct hostmem_thread_context *context,
				     const struct hm_row *row, struct hostmem_error *err);
/* Makes the value of the row in `from`, in which nothing else is set, the context's. */
int hm_thread_context_change(struct hostmem_thread_context *context, const struct hm_row *row,
			     const struct hm_values *from, struct hostmem_error *err);
/* The effective values. */
void hm_thread_context_read(const struct hostmem_thread_context *context, struct hm_values *values);
/* How many CPUs its threads can run on. */
size_t hm_thread_context_count_cpus(const struct hostmem_thread_context *context);
/* Whether it can create threads for the backend `user`. */
int hm_thread_context_check_ready(const struct hostmem_thread_context *context, const char *user,
				  struct hostmem_error *err);
struct hm_creation;
/* Creates threads that run where its own does. */
void hm_thread_context_create(struct hostmem_thread_context *context, struct hm_creation *creation);
/* Gives up a link that one of hm_objects_*link() gave. NULL is allowed. */
void hm_thread_context_unlink(struct hostmem_thread_context *context);

/* ---- process.c ---- */

/* Whether this process is a forked child of the one that completed an object; 0: none did. */
bool hm_process_is_forked(const _Atomic pid_t *completer);
/* STATE in a forked child, where something else may be at the backend's addresses by now. */
int hm_process_check(const struct hostmem_backend *backend, const char *what,
		     struct hostmem_error *err);

/* ---- inhibit.c ---- */

/* BUSY, with the name, while somebody has pinned the memory. */
int hm_inhibit_check(const struct hostmem_backend *backend, const char *what,
		     struct hostmem_error *err);
/* Forgets who has; nobody uses the backend any more. */
void hm_inhibit_clear(struct hostmem_backend *backend);

/* ---- advise.c ---- */

/* Page sharing, dumping, huge pages as the properties say, and no copies in forked children. */
int hm_advise_all(const struct hostmem_backend *backend, const struct hm_values *values,
		  struct hostmem_error *err);
/* asked: whether the user asked for it, so that a kernel that cannot is an error. */
int hm_advise_merge(const struct hostmem_backend *backend, bool merge, bool asked,
		    struct hostmem_error *err);
int hm_advise_dump(const struct hostmem_backend *backend, bool dump, struct hostmem_error *err);
int hm_advise_thp(const struct hostmem_backend *backend, enum hm_thp thp,
		  struct hostmem_error *err);
/* populated: whether the pages are there, so that they are locked now and not on first use. */
int hm_advise_lock(const struct hostmem_backend *backend, bool lock, bool populated,
		   struct hostmem_error *err);

/* ---- policy.c ---- */

/* Whether policy, host nodes and home node go together and this host can do them. */
int hm_policy_check(const struct hostmem_backend *backend, const struct hm_values *values,
		    struct hostmem_error *err);
/* Binds fresh memory. Makes no system call for the default policy. */
int hm_policy_bind(const struct hostmem_backend *backend, const struct hm_values *values,
		   struct hostmem_error *err);
/* Sets policy and home node; flags: HM_NUMA_*. Returns 0 or -errno of *call. */
int hm_policy_set(const struct hostmem_backend *backend, const struct hm_values *values,
		  unsigned int flags, const char **call);
/* Puts what hm_policy_set() returned into words. */
int hm_policy_fail(const struct hostmem_backend *backend, const struct hm_values *values,
		   const char *call, int result, struct hostmem_error *err);
/*
 * Calls run(data) on a thread of ours that has the policy, and returns what that does; on the
 * caller's own, without, where there cannot be one.
 */
int hm_policy_run(const struct hostmem_backend *backend, const struct hm_values *values,
		  int (*run)(void *data), void *data);
/* What the kernel is asked for: preferred is preferred-many wherever that exists. */
enum hm_policy hm_policy_in_kernel(const struct hostmem_backend *backend, uint64_t policy);
/* Whether the memory may only be on the host nodes. */
bool hm_policy_is_strict(const struct hm_values *values);
/* Whether the policy is about nodes. */
bool hm_policy_takes_nodes(uint64_t policy);
/* What /proc/self/numa_maps says where the policy is in force. */
void hm_policy_format(const struct hostmem_backend *backend, const struct hm_values *values,
		      char *text, size_t size);

/* ---- judge.c ---- */

/* Bytes on other nodes than a policy names; 0 where it names none. */
uint64_t hm_judge_outside(const struct hm_values *values,
			  const struct hostmem_placement *placement);
/*
 * Whether memory is where the threads that touch it are told to take it from, whatever the
 * mapping's policy: shared memory of a file that is not in memory alone.
 */
bool hm_judge_follows_threads(const struct hostmem_backend *backend);
/* Fills in whether what was counted satisfies the policy. */
void hm_judge_placement(const struct hostmem_backend *backend, const struct hm_values *values,
			struct hostmem_placement *placement);

/* ---- populate.c ---- */

enum hm_populate_way {
	/* MADV_POPULATE alone; every other way ends in it unless it did all there is. */
	HM_POPULATE_PLAIN,
	/* The last base page of each huge page first, so that it is zeroed upwards. */
	HM_POPULATE_LAST_PAGE_FIRST,
	/* Zero pages put into shared memory by userfaultfd(2). */
	HM_POPULATE_ZEROPAGE,
	/* A page in each huge page's place, made huge by MADV_COLLAPSE. */
	HM_POPULATE_COLLAPSE,
	/* Blocks of a disk file first. */
	HM_POPULATE_FALLOCATE,
};

/* How the memory of a backend is populated. */
struct hm_populate {
	enum hm_populate_way way;
	uint64_t page_size;
	/* Bytes of the huge pages that the memory is expected to be made of; 0: small pages. */
	uint64_t huge_size;
	bool readonly;
	/* The kernel cannot be asked to populate, so each page is touched. */
	bool touch;
	/* The whole memory, and what is mapped there. */
	uint8_t *address;
	uint64_t size;
	int fd;
	uint64_t fd_offset;
	/* Of userfaultfd(2), -1 for none. */
	int fault_fd;
};

void hm_populate_begin(struct hm_populate *plan, const struct hostmem_backend *backend,
		       const struct hm_values *values);
/* Gives up what the way needs; from then on it is the plain one. */
void hm_populate_end(struct hm_populate *plan);
/* Some of a range is not there yet and can only be populated after hm_populate_end(). */
#define HM_POPULATE_AGAIN 1

/*
 * Makes [address, address + size) present, contents untouched. Returns 0, HM_POPULATE_AGAIN or
 * -errno.
 */
int hm_populate_range(const struct hm_populate *plan, uint8_t *address, uint64_t size);

/* ---- populate_touch.c ---- */

/* The same by touching, for a kernel that cannot be asked. Returns 0 or -EFAULT. */
int hm_populate_touch(uint8_t *address, uint64_t size, uint64_t page, bool readonly);

/* ---- fill.c ---- */

/* The filling of one range of a backend's memory. */
struct hm_fill {
	struct hostmem_backend *backend;
	struct hm_populate plan;
	/* Of the memory; what is below counts from its begin, where the address is. */
	struct hm_range range;
	uint8_t *address;
	uint64_t chunk;
	/* Bytes that it may still take from the memory for small pages, if there are so many left.
	 */
	_Atomic int64_t to_come;
	/* Nobody else could have made any of it present. */
	bool fresh;
	/* What is there already is left out of what is to come. */
	bool counted;
	/* The nodes that its policy binds it to; NULL: any. */
	const struct hm_nodes *nodes;
	/* It has no policy of its own. */
	bool follows_process;
	/* Small pages that nobody can take away again but by killing. */
	bool takes_memory;
	/* They cannot go to swap. */
	bool locked;
	/* What the backend links to, held so that it stays; NULL: nothing. */
	struct hostmem_thread_context *context;
	hostmem_progress_callback callback;
	void *callback_data;
	/* Where the next chunk begins. */
	_Atomic uint64_t next;
	/* Some of it can only be filled the plain way. */
	_Atomic bool again;
	/* Of prealloc.c: who fills it. */
	size_t pool;
	struct hm_fill *next_in_pool;
};

/* values live as long as the fill. */
void hm_fill_init(struct hm_fill *fill, struct hostmem_backend *backend,
		  const struct hm_values *values, const struct hm_range *range);
void hm_fill_destroy(struct hm_fill *fill);
/* The bytes of huge pages that would take as long. */
uint64_t hm_fill_count_work(const struct hm_fill *fill);
uint64_t hm_fill_count_chunks(const struct hm_fill *fill);
/* Bytes that it may still take from the memory for small pages. */
uint64_t hm_fill_count_to_come(const struct hm_fill *fill);
/*
 * Leaves what is there already out of what is to come, while nobody fills; no longer looks when
 * more than `most` bytes are absent. False when it was cancelled meanwhile.
 */
bool hm_fill_count_absent(struct hm_fill *fill, uint64_t most);
bool hm_fill_is_all_taken(const struct hm_fill *fill);
/* Whether it is to end before it is all taken. */
bool hm_fill_is_cancelled(const struct hm_fill *fill);
/* Takes the next chunk, counted from the begin of the range; false when there is none. */
bool hm_fill_take(struct hm_fill *fill, struct hm_range *chunk);
/* Fills a chunk that was taken. Returns 0 or -errno. */
int hm_fill_do(struct hm_fill *fill, const struct hm_range *chunk);
/* Once all chunks are done: begins anew, the plain way, where its own did not do all there is. */
bool hm_fill_begin_again(struct hm_fill *fill);

/* ---- watch.c ---- */

struct hm_watch {
	struct hm_fill *fills;
	size_t fills_len;
	struct hm_cgroup cgroup;
	/* Where the cpuset, and with it the policy of this process, lets memory be; empty:
	 * anywhere. */
	struct hm_nodes allowed, process;
	/* When to look; UINT64_MAX while somebody does. */
	_Atomic uint64_t next;
	/* Held for reading by whoever fills a chunk, after its turn. */
	pthread_rwlock_t filling;
	pthread_mutex_t turn;
};

/* More is needed than there is; bytes. */
struct hm_shortage {
	uint64_t available, needed;
	/* Swap does not count, for this is of what is locked. */
	bool locked;
	/* There is too little on these nodes; else anywhere. */
	bool on_nodes;
	struct hm_nodes nodes;
	/* A control group's limit leaves less than there is. */
	bool in_group;
	/* The first that still needs some of it. */
	const struct hm_fill *fill;
};

void hm_watch_init(struct hm_watch *watch, struct hm_fill *fills, size_t fills_len);
void hm_watch_destroy(struct hm_watch *watch);
/* Around taking a chunk and filling it: a shortage is judged while nobody does. */
void hm_watch_begin_chunk(struct hm_watch *watch);
void hm_watch_end_chunk(struct hm_watch *watch);
/*
 * Looks when it is time to, never between the two above; only the thread that finds a shortage is
 * told.
 */
bool hm_watch_finds_shortage(struct hm_watch *watch, struct hm_shortage *shortage);

/* ---- prealloc.c ---- */

/* A range of a backend's memory to be populated, and what is to be said of it. */
struct hm_prealloc_request {
	struct hostmem_backend *backend;
	const struct hm_values *values;
	struct hm_range range;
	struct hostmem_prealloc_result *result;
};

/*
 * Adds to an error what pools of huge pages have, of each node asked for and of the whole host, and
 * what a control group's limit leaves. Nothing for small pages.
 */
void hm_prealloc_tell_pools(const struct hostmem_backend *backend, const struct hm_values *values,
			    struct hostmem_error *err);
/* Populates all ranges together. Returns 0 with all results, or -1 with the first failure. */
int hm_prealloc_run(const struct hm_prealloc_request *requests, size_t len,
		    struct hostmem_error *err);

/* ---- placement.c ---- */

/*
 * Counts what is mapped on each node, and says whether the policy of `values` is the kernel's; what
 * only smaps tells, and whether the policy is satisfied, is left 0. Returns 0 or -errno.
 */
int hm_placement_count(const struct hostmem_backend *backend, const struct hm_values *values,
		       struct hostmem_placement *placement);
/* Puts what hm_placement_count() returned into words. */
int hm_placement_fail(const struct hostmem_backend *backend, int result, struct hostmem_error *err);

/* ---- rebind.c ---- */

/*
 * Makes policy, host nodes and home node be those of `new` and moves the pages of memory in use; on
 * failure the old ones are back. flags: enum hostmem_rebind_flag.
 */
int hm_rebind(const struct hostmem_backend *backend, const struct hm_values *old,
	      const struct hm_values *new, uint32_t flags, struct hostmem_rebind_result *rebound,
	      struct hostmem_error *err);

/* ---- background.c ---- */

/* Begins to fill the memory of a backend that is completing, once it is ready. */
int hm_background_start(struct hostmem_backend *backend, struct hostmem_error *err);
/*
 * Waits for the end of the thread whose fill has ended, and for the callback that it may be in, so
 * that another one can start; BUSY from inside that callback.
 */
int hm_background_clear(struct hostmem_backend *backend, struct hostmem_error *err);
/* Cancels what runs, waits for its end and forgets it. Never on the thread itself. */
void hm_background_end(struct hostmem_backend *backend);
/* Whether this is the thread that fills the backend, in a callback. Called with the lock held. */
bool hm_background_is_own_thread(const struct hostmem_backend *backend);

/* ---- crew.c ---- */

/* Where threads run, and where what they touch comes from. */
struct hm_place {
	/* What creates them; NULL: whoever adds them. */
	struct hostmem_thread_context *context;
	/* What they are pinned to; anywhere when cpus_len is 0. */
	struct hm_cpus cpus;
	size_t cpus_len;
	/* Their memory policy; HM_POLICY_DEFAULT: none is set. */
	enum hm_policy policy;
	struct hm_nodes nodes;
	/* errno of a thread that could not go there, or not have the policy, else 0. */
	_Atomic int error, policy_error;
};

struct hm_crew {
	/* Held while threads are created: the start barrier. */
	pthread_mutex_t gate;
	pthread_mutex_t lock;
	pthread_cond_t finished;
	uint32_t running;
	struct hm_post *posts;
};

void hm_crew_init(struct hm_crew *crew);
/*
 * Creates up to `count` threads, named after an id, that wait for hm_crew_begin() and then call
 * work(data) until it is false, as the caller does too where they are beside it. Returns how many
 * there are. Place and id live as long as the crew.
 */
uint32_t hm_crew_add(struct hm_crew *crew, struct hm_place *place, const char *id, uint32_t count,
		     bool beside_caller, bool (*work)(void *data), void *data);
void hm_crew_begin(struct hm_crew *crew);
/* Whether all have finished, when they have or the time is over. */
bool hm_crew_wait(struct hm_crew *crew, uint64_t nanoseconds);
void hm_crew_end(struct hm_crew *crew);

/* ---- thread.c ---- */

/* Threads that work together. */
struct hm_creation {
	pthread_t *threads;
	uint32_t wanted, created;
	/* Where they may run; NULL: where whoever creates them may. */
	const struct hm_cpus *cpus;
	/* Whoever creates them works too. */
	bool beside_caller;
	void *(*run)(void *data);
	void *data;
};

/* Returns 0 or -errno. */
int hm_thread_create(pthread_t *thread, void *(*run)(void *), void *data);
/* Creates as many as can be had. Where they are enough for all CPUs, each begins on its own. */
void hm_thread_create_all(struct hm_creation *creation);
/* Names the calling thread hm-<id>, cut to 15 bytes. */
void hm_thread_name(const char *id);

/* ---- check.c ---- */

/* Whether the whole configuration is possible here; touches nothing. */
int hm_check_all(const struct hostmem_backend *backend, const struct hm_values *values,
		 struct hostmem_error *err);
/* Whether memory of the backend's size may be reserved in huge pages of this size. */
int hm_check_huge_pages(const struct hostmem_backend *backend, uint64_t page_size,
			const struct hm_values *values, struct hostmem_error *err);
/* Whether a file of this type can be mapped. property: what named it. */
int hm_check_file_type(const struct hostmem_backend *backend, const char *property,
		       const struct hm_file *file, struct hostmem_error *err);
/* Whether reserve=off has an effect on memory with this page size. */
int hm_check_reserve(const struct hostmem_backend *backend, const struct hm_values *values,
		     uint64_t page_size, struct hostmem_error *err);
/* Whether a file may be grown to this size. */
int hm_check_file_limit(const struct hostmem_backend *backend, uint64_t size,
			struct hostmem_error *err);
/* Whether the memory is mapped for reading only. */
bool hm_check_is_readonly(const struct hm_values *values);
/* Whether `lock` may be switched on, by what of it this process may still lock. */
int hm_check_lock(const struct hostmem_backend *backend, const struct hm_values *values,
		  struct hostmem_error *err);

/* ---- complete.c ---- */

/* One of the backends that are completed together. */
struct hm_completion {
	struct hostmem_backend *backend;
	struct hm_values values;
	struct hostmem_prealloc_result result;
};

/* Makes the memory of the configuration. On failure hm_complete_undo() has to follow. */
int hm_complete_build(struct hostmem_backend *backend, const struct hm_values *values,
		      struct hostmem_error *err);
/* Preallocates what was built, where that is not left to the background. */
int hm_complete_fill(struct hm_completion *completions, size_t len, struct hostmem_error *err);
/* Whether filling the memory is left to the background; locking it then is too. */
bool hm_complete_is_background(const struct hm_values *values);
/* Takes a half built backend as well as a whole one. failed: building did not succeed. */
void hm_complete_undo(struct hostmem_backend *backend, bool failed);

/* ---- kind_*.c ---- */

extern const struct hostmem_kind hm_kind_fd;
extern const struct hostmem_kind hm_kind_file;
extern const struct hostmem_kind hm_kind_memfd;
extern const struct hostmem_kind hm_kind_ram;
extern const struct hostmem_kind hm_kind_shm;

/* A memfd of that many bytes, of pages of that size (0: small ones). Returns its descriptor or -1.
 */
int hm_memfd_create(const struct hostmem_backend *backend, uint64_t size, uint64_t page_size,
		    struct hostmem_error *err);

/* ---- live.c ---- */

int hm_live_fail_busy(const struct hostmem_backend *backend, const char *what,
		      struct hostmem_error *err);
/* Populates a range of ready memory; called with `change`, which it gives up meanwhile. */
int hm_live_populate(struct hostmem_backend *backend, const struct hm_values *values,
		     const struct hm_range *range, struct hostmem_error *err);
/* Rebinds a ready backend from `old` to `new`. Called with `change`. */
int hm_live_rebind(struct hostmem_backend *backend, const struct hm_values *old,
		   const struct hm_values *new, uint32_t flags,
		   struct hostmem_rebind_result *rebound, struct hostmem_error *err);
/*
 * Makes a ready backend be as `new` says where that differs from `old`; what will be so only later
 * is put back in `new`. Called with `change`.
 */
int hm_live_apply(struct hostmem_backend *backend, enum hm_property property,
		  const struct hm_values *old, struct hm_values *new, struct hostmem_error *err);

/* ---- props.c ---- */

/* The values and origins that a fresh backend begins with, compat values excluded. */
void hm_props_reset(struct hostmem_backend *backend, const struct hostmem_defaults *defaults);
int hm_props_set_compat(struct hostmem_backend *backend, const char *property, const char *text,
			struct hostmem_error *err);
/* Closes what values own. */
void hm_props_clear(struct hostmem_backend *backend);

/* ---- create.c ---- */

/* Whether there are backends of this kind. */
int hm_create_check_kind(struct hostmem_objects *objects, const char *kind,
			 struct hostmem_error *err);

/* ---- objects.c ---- */

struct hostmem_objects {
	pthread_mutex_t lock;
	/* The embedder's hold on the set and one for each backend. */
	size_t references;
	struct hostmem_host host;
	struct hostmem_defaults defaults;
	struct hm_compat *compat;
	size_t compat_len;
	struct hm_registered_kind *registered;
	struct hm_entry *entries;
};

struct hm_compat {
	char *kind, *property, *value;
};

struct hm_registered_kind {
	struct hostmem_kind kind;
	struct hm_registered_kind *next;
};

/* NULL when the set has no kind of that name. */
const struct hostmem_kind *hm_objects_find_kind(struct hostmem_objects *objects, const char *name);
/* Takes the object's id in the set, and a reference to the set. */
int hm_objects_add(struct hostmem_objects *objects, struct hm_entry *entry,
		   struct hostmem_error *err);
/* Gives the id back. */
void hm_objects_remove(struct hostmem_objects *objects, const struct hm_entry *entry);
/* Links to the thread-context of that id; NULL when there is none. */
struct hostmem_thread_context *hm_objects_link(struct hostmem_objects *objects, const char *id);
/* Links to what the backend links to; NULL when that is nothing. */
struct hostmem_thread_context *hm_objects_get_link(const struct hostmem_backend *backend);
/* Makes a link, NULL for none, the backend's, which gives up the one it had. */
struct hostmem_thread_context *hm_objects_swap_link(struct hostmem_backend *backend,
						    struct hostmem_thread_context *context);
/* Each says whether nobody is left who knows it; its id is free again then. */
bool hm_objects_unlink(struct hostmem_thread_context *context);
bool hm_objects_drop_handle(struct hostmem_thread_context *context);
/* Whether it is linked to, and by which backend. */
bool hm_objects_find_user(const struct hostmem_thread_context *context, char *user, size_t size);
/* Gives its id back, and says that it did, unless it is linked to; by whom is in *user then. */
bool hm_objects_remove_unlinked(struct hostmem_thread_context *context, char *user, size_t size);
/* Gives a reference up; the last one frees the set. */
void hm_objects_unref(struct hostmem_objects *objects);

#endif

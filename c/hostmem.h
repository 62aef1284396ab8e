/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * hostmem: host memory backends for virtual machine monitors.
 *
 * A backend is one piece of host memory meant to become guest RAM. It is configured by named
 * properties, completed (backed, mapped, advised, bound to NUMA nodes, preallocated), claimed by
 * the device or VMM that gives it to a guest, and deleted when no claim is left.
 *
 *     hostmem_host ──► hostmem_objects ──► hostmem_backend
 *     (what the kernel  (ids, kinds,        configuring ─complete─► ready ─claim─► mapped
 *      can do)           defaults)               ▲______failed_____│     ◄─release─
 *
 * Rules that hold for every function here
 *
 * - Arguments: the object, then results, then inputs (a length follows its array), then flags, then
 *   `struct hostmem_error *err`, which may be NULL.
 * - Results: a function that can fail returns 0 or a length for success and -1 for failure; *err is
 *   written on failure only, results on success only.
 * - Ownership: what goes in is copied. Strings that come out are written to the caller's buffer: at
 *   most `size` bytes with the final NUL; the return value is the length of the whole text, so a
 *   value >= size means it was cut. Constant strings inside structs live as long as the library, or
 *   as the registered kind, that they describe.
 * - Threads: every function may be called from any thread. Calls on one backend are serialised
 *   inside; reading a property, the state, the claim or the progress never waits for a running
 *   preallocation. Only the _free functions need exclusive use of the object.
 * - Callbacks: run without any lock held, on the thread that called the function that caused them;
 *   those of the background, and of reads on demand that fail, on a thread of the library.
 * - Forked children: a child has the records of the objects, but neither the memory (MADV_DONTFORK,
 *   madvise(2)) nor the threads of the process that completed them. There, changing, filling,
 *   discarding, inhibiting, rebinding, undoing and placement fail with STATE, at once, whatever
 *   other threads were doing at the fork; reading properties, releasing, deleting and freeing work
 *   on the records alone. A backend that was not completed before the fork can be, in either.
 * - Process: nothing is printed; no global, thread-local or process-wide state is kept or changed;
 *   affinity and memory policy are set on the library's own threads only; no signal is caught.
 */
#ifndef HOSTMEM_H
#define HOSTMEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Longest object id and longest owner name, in bytes, without the final NUL. */
#define HOSTMEM_ID_MAX 128
/* Size of an error message with its final NUL; a longer message is cut and ends in "...". */
#define HOSTMEM_MESSAGE_SIZE 1024
/* NUMA node ids are below this: the kernel's own limit (MAX_NUMNODES, x86-64 and arm64). */
#define HOSTMEM_NODES_MAX 1024
/* CPU ids are below this: the kernel's own limit (NR_CPUS, x86-64 with MAXSMP). */
#define HOSTMEM_CPUS_MAX 8192
/* The kind of a thread-context, which is an object of a set, but no backend. */
#define HOSTMEM_THREAD_CONTEXT "thread-context"
/* Size of the kernel's description of a policy with its final NUL. */
#define HOSTMEM_POLICY_SIZE 256
/* Size of the reason in a placement with its final NUL. */
#define HOSTMEM_REASON_SIZE 256

/* What the kernel can do, asked once by hostmem_host_probe(). */
struct hostmem_host;
/* A snapshot of the host's nodes, CPUs and huge pages, read by hostmem_topology_read(). */
struct hostmem_topology;
/* A set of backends with unique ids, the kinds it can make and the defaults it makes them with. */
struct hostmem_objects;
/* One piece of host memory. */
struct hostmem_backend;
/* Backends of one configuration that are complete before they are asked for. */
struct hostmem_pool;
/* A thread that creates the threads that preallocate, so that they run where it does. */
struct hostmem_thread_context;

/* ---- Errors ---- */

/* What went wrong, for programs. */
enum hostmem_error_kind {
	HOSTMEM_ERROR_UNKNOWN_PROPERTY = 1, /* the kind of object has no property of that name */
	HOSTMEM_ERROR_TYPE,                 /* the value has another type than the property */
	HOSTMEM_ERROR_VALUE,       /* the value, or its combination with others, is not allowed */
	HOSTMEM_ERROR_STATE,       /* not in this state of the object */
	HOSTMEM_ERROR_BUSY,        /* the object is claimed, or an operation on it is running */
	HOSTMEM_ERROR_UNSUPPORTED, /* this kernel, host or build cannot do it */
	HOSTMEM_ERROR_NO_MEMORY,   /* memory, address space or huge pages are short */
	HOSTMEM_ERROR_IO,          /* a system call failed for another reason */
};

/* The caller's own record of a failure. */
struct hostmem_error {
	enum hostmem_error_kind kind;
	/* errno of the system call that failed, 0 where none did. */
	int32_t os_error;
	/* For people, UTF-8, one line: the object's id, the property, the value, what was expected
	 * and, where one exists, the way out. */
	char message[HOSTMEM_MESSAGE_SIZE];
};

/* ---- Host ---- */

/* Ways to populate memory beyond the plain one, which is MADV_POPULATE_WRITE or _READ over a chunk.
 * A bit set means: use it where it fits. */
enum hostmem_method {
	/* Huge pages: fault the last base page of each first, so that the kernel zeroes it upwards.
	 */
	HOSTMEM_METHOD_LAST_PAGE_FIRST = 1,
	/* New shared memory in small pages: put zero pages in place by userfaultfd(2). */
	HOSTMEM_METHOD_ZEROPAGE = 2,
	/* thp=always where the host gives shared memory small pages: MADV_COLLAPSE (Linux 6.1). */
	HOSTMEM_METHOD_COLLAPSE = 4,
	/* Shared files on disk: fallocate(2) first. */
	HOSTMEM_METHOD_FALLOCATE = 8,
	/* Contents that are read on demand: move whole huge pages into place (Linux 6.8). */
	HOSTMEM_METHOD_MOVE = 16,
	/* Contents of shared memory in huge pages that are read on demand: write them through a
	 * second mapping (Linux 5.14). */
	HOSTMEM_METHOD_CONTINUE = 32,
};

/* All of enum hostmem_method. */
#define HOSTMEM_METHODS_ALL 63

/*
 * Asks the kernel what it can do, on scratch memory: page sizes, populate (Linux 5.14), advice
 * values, memory policies (preferred-many 5.15, weighted interleave 6.9), home nodes (5.17). Call
 * it before a seccomp filter is installed; completing a backend relies on the record and does not
 * ask again. docs/seccomp.md lists the system calls it makes. One that is forbidden counts as a
 * feature that is missing. Errors: NO_MEMORY.
 */
int hostmem_host_probe(struct hostmem_host **host, struct hostmem_error *err);
/* Frees the record. Objects made with it keep their own copy. NULL is allowed. */
void hostmem_host_free(struct hostmem_host *host);
/* What the host is and how it is set, when it was probed. */
struct hostmem_host_info {
	/* Bytes of a base page. */
	uint64_t page_size;
	/* Bytes of a transparent huge page, 0 where the kernel has none. Without /sys it is found
	 * by asking the kernel whether it takes the advice. */
	uint64_t thp_size;
	/* How much this process may lock (RLIMIT_MEMLOCK) and how large it may make a file
	 * (RLIMIT_FSIZE); bytes, UINT64_MAX for no limit. */
	uint64_t memlock_limit;
	uint64_t file_limit;
	/* /proc/sys/vm/overcommit_memory: 0 to 2; -1 where it cannot be read. */
	int32_t overcommit;
	/* Whether hostmem is built with NUMA policies, and whether it reaches them through libnuma;
	 * else by system calls of its own. */
	bool numa;
	bool libnuma;
	/* Whether this process gets no transparent huge pages, not even where it advises them
	 * (PR_SET_THP_DISABLE, prctl(2)). */
	bool thp_disabled;
	/* The kernel's release, e.g. "6.1.0-50-amd64". */
	char kernel[65];
	/* In force in /sys/kernel/mm/transparent_hugepage: `enabled` (always, madvise, never) and
	 * `shmem_enabled` (that of memfds: always, within_size, advise, never, deny, force); ""
	 * where the kernel has none or they cannot be read. */
	char thp[16];
	char thp_shmem[16];
	/* Page merging (KSM): "on" while it runs, "off", "" where the kernel has none. */
	char merging[16];
};

void hostmem_host_get_info(const struct hostmem_host *host, struct hostmem_host_info *info);

/* Something that not every kernel in use, or every process, can do. */
struct hostmem_feature {
	/*
	 * populate (pages made present without writing to them), collapse (small pages made huge on
	 * request), userfaultfd (the faster way to fill new shared memory), userfaultfd-kvm
	 * (contents can be read on demand, also where KVM or a system call touches the memory:
	 * needs a userfaultfd for faults of the kernel), dontneed-locked (locked
	 * memory given back as it is), noexec-seal (memfds that can never be executed), merge (page
	 * merging), home-node, and for each policy "policy=" and its name.
	 */
	char name[32];
	/* The errno that the kernel gave, 0 where it can. */
	int32_t os_error;
	/* Why not, for people, e.g. "needs Linux 5.14"; "" where it can. */
	char reason[HOSTMEM_REASON_SIZE];
};

/* The feature at an index: 0, or -1 beyond the end. */
int hostmem_host_get_feature(const struct hostmem_host *host, size_t index,
			     struct hostmem_feature *feature);
/* The methods, a mask of enum hostmem_method, that preallocation, and reading contents on demand,
 * may use. */
uint32_t hostmem_host_get_methods(const struct hostmem_host *host);
/* Narrows the methods to those in the mask, for measuring and for narrow seccomp filters. The
 * contents of memory are the same; pages may be small where COLLAPSE, MOVE or CONTINUE is left out.
 * Applies to sets of objects that are made later. */
void hostmem_host_narrow_methods(struct hostmem_host *host, uint32_t methods);

/*
 * System calls that are optional after the probe: the library works without them. docs/seccomp.md
 * says for which uses each is optional, and what is lost without it.
 */
enum hostmem_call {
	HOSTMEM_CALL_CACHESTAT = 1,
	HOSTMEM_CALL_GET_MEMPOLICY = 2,
	HOSTMEM_CALL_LSEEK = 4,
	HOSTMEM_CALL_MINCORE = 8,
	HOSTMEM_CALL_MLOCK2 = 16,
	HOSTMEM_CALL_MSYNC = 32,
	HOSTMEM_CALL_PRCTL = 64,
	HOSTMEM_CALL_PREAD64 = 128,
	HOSTMEM_CALL_PRLIMIT64 = 256,
	/* And readlinkat. */
	HOSTMEM_CALL_READLINK = 512,
	HOSTMEM_CALL_SCHED_GETAFFINITY = 1024,
	/* And getcpu. */
	HOSTMEM_CALL_SCHED_SETAFFINITY = 2048,
	HOSTMEM_CALL_SCHED_SETSCHEDULER = 4096,
	HOSTMEM_CALL_SET_MEMPOLICY = 8192,
};

/* All of enum hostmem_call. */
#define HOSTMEM_CALLS_ALL 16383

/* The optional calls, a mask of enum hostmem_call, that may be made. */
uint32_t hostmem_host_get_calls(const struct hostmem_host *host);
/*
 * Narrows the optional calls to those in the mask, for seccomp filters that kill: where the others
 * are optional they are not made, and the result is as if the kernel had refused them. Uses that
 * need a call make it all the same. Applies to sets of objects that are made later.
 */
void hostmem_host_narrow_calls(struct hostmem_host *host, uint32_t calls);

/* ---- Topology ---- */

/* Huge pages of one size, in pages. Of a node, what is promised and what the kernel may add are not
 * known (0): it counts them for the host alone. */
struct hostmem_huge_pages {
	/* Bytes of one. */
	uint64_t page_size;
	uint64_t total;
	uint64_t free;
	/* Of the free ones, reserved for mappings that have not faulted them in. */
	uint64_t reserved;
	/* May still be added when the pool is short. */
	uint64_t overcommit;
};

/* A NUMA node that is online. Sizes are in bytes. */
struct hostmem_node {
	uint32_t id;
	/* Whether this process may have memory from it: it has some, and the cpuset has the node
	 * (Mems_allowed_list, proc(5)). */
	bool allowed;
	/* 0 for a node of CPUs alone. */
	uint64_t memory_total;
	uint64_t memory_free;
};

/*
 * Reads all of it from /sys and /proc/self/status, which need no permission. Each call reads them
 * again. A kernel without NUMA has no nodes. Errors: NO_MEMORY.
 */
int hostmem_topology_read(struct hostmem_topology **topology, struct hostmem_error *err);
/* Frees it. NULL is allowed. */
void hostmem_topology_free(struct hostmem_topology *topology);
/* The node at an index, by rising id; NULL beyond the end. It lives as long as the topology. */
const struct hostmem_node *hostmem_topology_get_node(const struct hostmem_topology *topology,
						     size_t index);
/* The distance from one node to another, by their indices, as the firmware says (10: itself); 0
 * where it is not known. */
uint32_t hostmem_topology_get_distance(const struct hostmem_topology *topology, size_t from,
				       size_t to);
/*
 * The CPUs of the node at an index; with SIZE_MAX those that this process may run on. Writes at
 * most cpus_size ids, rising, and returns how many there are.
 */
size_t hostmem_topology_get_cpus(const struct hostmem_topology *topology, size_t index,
				 uint32_t *cpus, size_t cpus_size);
/*
 * The huge pages of the host, one size at an index, rising; with a node's index instead of SIZE_MAX
 * what that node has of the size. NULL beyond the end. It lives as long as the topology.
 */
const struct hostmem_huge_pages *
hostmem_topology_get_huge_pages(const struct hostmem_topology *topology, size_t node, size_t index);

/* ---- Kinds ---- */

/* What is special about a backing. */
enum hostmem_backing_flag {
	/*
	 * No other process can reach the descriptor's contents: discarding frees them even where
	 * the mapping is private. Without it a private mapping never changes what is behind it.
	 */
	HOSTMEM_BACKING_OWN = 1,
};

/* What a kind's memory is made of. */
struct hostmem_backing {
	/* An open descriptor, owned by the library from here on, or -1 for anonymous private
	 * memory. */
	int32_t fd;
	/* Seals (F_SEAL_*) to be added once the memory is mapped, 0 for none. */
	uint32_t seals;
	/* Where in the descriptor the memory begins, in bytes, a multiple of its page size. */
	uint64_t offset;
	/* A mask of enum hostmem_backing_flag. */
	uint32_t flags;
	/* For the kind itself: what undo has to know. The library does not look at it. */
	uint32_t made;
	/* Of anonymous memory: the bytes of the huge pages of the host's pools that it is made of
	 * (MAP_HUGETLB, mmap(2)); 0 for base pages. */
	uint64_t huge_page;
};

/*
 * A kind of backend. Fill one and register it to have backends of your own; the kinds that come
 * with the library are filled the same way.
 */
struct hostmem_kind {
	/* As in an option string, e.g. "memory-backend-ram"; formed like an id. */
	const char *name;
	/* One sentence for people. */
	const char *description;
	/* Whether the property `share` is on unless said otherwise. */
	bool share;
	/* Handed to the functions below. */
	void *data;
	/*
	 * Checks the kind's own rules over the whole configuration, before anything is made; makes
	 * nothing. On failure returns -1 with *err written. May be NULL.
	 */
	int (*check)(void *data, const struct hostmem_backend *backend, struct hostmem_error *err);
	/*
	 * Makes the backing and says what it is in *backing; reads the backend's properties by the
	 * getters. Called while the backend is completing, without locks, on the thread that
	 * completes it. On failure returns -1 with *err written and nothing left behind. The
	 * library checks the descriptor (its access mode and its size, where it has one) and maps
	 * it. NULL: backends of this kind complete without memory, and check is not called.
	 */
	int (*allocate)(void *data, const struct hostmem_backend *backend,
			struct hostmem_backing *backing, struct hostmem_error *err);
	/* Undoes what allocate did beyond opening the descriptor, when a later step of completing
	 * failed or by hostmem_backend_undo(); the descriptor is still open. err has the failure
	 * that led here, or nothing; the library's own kinds append to it what stays. Must not
	 * change properties of the backend. May be NULL. */
	void (*undo)(void *data, const struct hostmem_backend *backend,
		     const struct hostmem_backing *backing, struct hostmem_error *err);
	/* Frees data, when the set of objects is freed or when registering failed. May be NULL. */
	void (*free_data)(void *data);
};

/* ---- Objects ---- */

/* Defaults for properties that the embedder decides for all its backends, as a machine type does.
 */
struct hostmem_defaults {
	bool merge;
	bool dump;
	bool prealloc;
	/*
	 * Whether properties of type HOSTMEM_TYPE_FD take the number of a descriptor as text or
	 * number, as a command line has to give it. A number may by now be another file's that the
	 * process has open; hostmem_backend_set_fd() always works.
	 */
	bool fd_by_number;
	/* 0: as many threads as there are usable CPUs. */
	uint32_t prealloc_threads;
};

/* A value that every new object of a kind begins with instead of the default, as an old machine
 * type needs. */
struct hostmem_compat {
	const char *kind;
	const char *property;
	const char *value;
};

/*
 * Makes an empty set of objects. Compat values are applied in order to each new backend; one that
 * names an unknown kind or property, or a value the property does not take, makes creating that
 * backend fail. Errors: NO_MEMORY.
 */
int hostmem_objects_new(struct hostmem_objects **objects, const struct hostmem_host *host,
			const struct hostmem_defaults *defaults,
			const struct hostmem_compat *compat, size_t compat_len,
			struct hostmem_error *err);
/* Drops the caller's reference; the set is freed with its last backend. NULL is allowed. */
void hostmem_objects_free(struct hostmem_objects *objects);
/*
 * Adds a kind to the set; the table is copied, its strings and data must live until free_data.
 * Takes data over in any case: on failure free_data has been called. Errors: VALUE (name malformed
 * or taken, as memory-backend and thread-context are), NO_MEMORY.
 */
int hostmem_objects_register_kind(struct hostmem_objects *objects, const struct hostmem_kind *kind,
				  struct hostmem_error *err);
/* The kinds of the set: how many, and the one at an index (NULL beyond the end), in alphabetical
 * order of the library's own, then as registered. */
size_t hostmem_objects_get_kind_count(const struct hostmem_objects *objects);
const struct hostmem_kind *hostmem_objects_get_kind(const struct hostmem_objects *objects,
						    size_t index);

/* ---- Properties ---- */

/* What a property's value is, and how it is written as text. */
enum hostmem_type {
	HOSTMEM_TYPE_BOOL = 1, /* on, yes, true, y; off, no, false, n; or one of the choices */
	HOSTMEM_TYPE_SIZE,     /* bytes: decimal or a fraction, then one of B K M G T P E (powers of
				  1024) in either case; or 0x hex */
	HOSTMEM_TYPE_UINT32,   /* decimal or 0x hex */
	HOSTMEM_TYPE_ENUM,     /* one of the choices */
	HOSTMEM_TYPE_NODES,    /* a set of NUMA nodes: ids and ranges, "0-1,3" */
	HOSTMEM_TYPE_NODE,     /* one NUMA node id, or "none" */
	HOSTMEM_TYPE_LINK,     /* the id of another object, or /objects/ID, or "" for none */
	HOSTMEM_TYPE_PATH,     /* a file's path, at most 4095 bytes of any encoding, "" for none */
	HOSTMEM_TYPE_FD,   /* an open descriptor's number, duplicated when it is set, or "none" */
	HOSTMEM_TYPE_CPUS, /* a set of CPUs: ids and ranges, "0-1,3" */
};

/* When a property may be set. While completing nothing may be. */
enum hostmem_settable {
	HOSTMEM_SETTABLE_CONFIGURING = 1, /* configuring only */
	HOSTMEM_SETTABLE_ALWAYS,          /* also when ready or mapped, and then it acts at once */
	HOSTMEM_SETTABLE_LATER_USE, /* also when ready or mapped; used by the next prealloc, or
				       delete */
	HOSTMEM_SETTABLE_NEVER,     /* it can only be read */
};

/* One row of the property table. */
struct hostmem_property {
	const char *name;
	enum hostmem_type type;
	enum hostmem_settable settable;
	/* The value of a fresh object as text, or in words where that depends on host, kind or
	 * defaults record. "" where there is none. */
	const char *default_text;
	/* For HOSTMEM_TYPE_ENUM, and HOSTMEM_TYPE_BOOL with more than on and off: the choices,
	 * ended by NULL. Else NULL. */
	const char *const *choices;
	/* The kinds that have it, ended by NULL; NULL: all kinds of backends. */
	const char *const *kinds;
	/* One sentence for people. */
	const char *description;
	/* It can be set, and not read. */
	bool write_only;
};

/* Where a property's value comes from. A later one replaces an earlier one. */
enum hostmem_origin {
	HOSTMEM_ORIGIN_DEFAULT = 1, /* the table or the defaults record */
	HOSTMEM_ORIGIN_COMPAT,      /* a compat value of the set */
	HOSTMEM_ORIGIN_USER,        /* set on the object itself */
};

/* The property table: the row at an index, in alphabetical order; NULL beyond the end. */
const struct hostmem_property *hostmem_property_get(size_t index);

/* ---- Backends: life ---- */

/* Where a backend is in its life. */
enum hostmem_state {
	HOSTMEM_STATE_CONFIGURING = 1, /* no memory; every property may be set */
	HOSTMEM_STATE_COMPLETING, /* hostmem_backend_complete() is running; nothing may be set */
	HOSTMEM_STATE_READY,      /* the memory is mapped in this process */
	HOSTMEM_STATE_MAPPED,     /* ready and claimed; cannot be deleted */
	HOSTMEM_STATE_DELETED,    /* memory and id are given back; only to be freed */
};

/*
 * Makes a backend in state configuring. The id is a letter, then letters, digits, '-', '.', '_', at
 * most HOSTMEM_ID_MAX bytes, not taken in the set; NULL makes one. Errors: VALUE (id malformed or
 * taken, kind unknown or abstract, bad compat value), UNKNOWN_PROPERTY (compat value), NO_MEMORY.
 */
int hostmem_backend_new(struct hostmem_objects *objects, struct hostmem_backend **backend,
			const char *kind, const char *id, struct hostmem_error *err);
/*
 * Checks the whole configuration, then makes, maps, advises, binds and preallocates the memory:
 * state ready. When a step fails everything is undone, the state is configuring again with the
 * properties as they were, and the call may be repeated. Only in state configuring. Errors: STATE,
 * BUSY (completing already), VALUE, UNSUPPORTED, NO_MEMORY, IO.
 */
int hostmem_backend_complete(struct hostmem_backend *backend, struct hostmem_error *err);
/*
 * Completes several backends together: the memory of all is made and bound to its nodes first, then
 * one pool of threads for each place that threads have to run in preallocates all of it, which
 * beats one backend after the other where each has its nodes, or little to do. All or nothing: when
 * one fails all are undone and configuring again. What hostmem_backend_get_prealloc_result() tells
 * of time and threads is of the whole pool. A pool has as many threads as the one of its backends
 * that may have most. Errors: as hostmem_backend_complete(), naming the backend; BUSY (one is given
 * twice).
 */
int hostmem_backend_complete_all(struct hostmem_backend *const *backends, size_t backends_len,
				 struct hostmem_error *err);
/*
 * Takes a ready backend for an owner, whose name (1 to HOSTMEM_ID_MAX bytes) is shown to others:
 * state mapped. Errors: STATE (not complete), BUSY (claimed; says by whom), VALUE (name empty or
 * too long).
 */
int hostmem_backend_claim(struct hostmem_backend *backend, const char *owner,
			  struct hostmem_error *err);
/* Ends the claim: state ready. Errors: STATE (not claimed). */
int hostmem_backend_release(struct hostmem_backend *backend, struct hostmem_error *err);
/* 0 when hostmem_backend_delete() would succeed now; else its error. */
int hostmem_backend_can_be_deleted(const struct hostmem_backend *backend,
				   struct hostmem_error *err);
/*
 * Unmaps the memory, closes its descriptor and gives the id back: state deleted. A preallocation in
 * the background is cancelled, within one chunk. Errors: BUSY (claimed, completing, preallocating
 * in the foreground, or from inside a callback of the background; says by whom or what), STATE
 * (deleted already).
 */
int hostmem_backend_delete(struct hostmem_backend *backend, struct hostmem_error *err);
/*
 * Deletes it as hostmem_backend_delete() does, and undoes what completing made, as a completing
 * that fails does: a file that it made is removed, one that it made larger is empty again. For a
 * caller that gives up after completing, as when the preallocation in the background has failed.
 * Errors: those of hostmem_backend_delete(), STATE (a forked child), IO (the backend is deleted,
 * but something that completing made stays, for example a file that others have open; says what,
 * and why).
 */
int hostmem_backend_undo(struct hostmem_backend *backend, struct hostmem_error *err);
/*
 * Frees the object, deleting it first if that was not done. No other thread may use it, and no
 * claim may be left; what still inhibits discard ends with it: a device keeps the pages that it has
 * pinned. Waits for the callbacks of a preallocation in the background to end, unless called from
 * inside them: so callbacks of two backends must not free each other's. NULL is allowed.
 */
void hostmem_backend_free(struct hostmem_backend *backend);

/* The state now. */
enum hostmem_state hostmem_backend_get_state(const struct hostmem_backend *backend);
/*
 * What messages call the backend: any text of 1 to HOSTMEM_ID_MAX bytes, the id unless set. No
 * other thread may use the backend meanwhile. Errors: STATE (not configuring), VALUE (length).
 */
int hostmem_backend_set_label(struct hostmem_backend *backend, const char *label,
			      struct hostmem_error *err);
/* It lives as long as the object, and setting the label changes it. */
const char *hostmem_backend_get_label(const struct hostmem_backend *backend);
/* The id, and the kind's name, given to hostmem_backend_new(). They live as long as the object. */
const char *hostmem_backend_get_id(const struct hostmem_backend *backend);
const char *hostmem_backend_get_kind(const struct hostmem_backend *backend);
/* The name of the RAM block for migration: the id, or /objects/<id> with
 * x-use-canonical-path-for-ramblock-id. Returns its length. */
int hostmem_backend_get_name(const struct hostmem_backend *backend, char *buffer, size_t size,
			     struct hostmem_error *err);
/* The owner's name, "" when not claimed. Returns its length. */
int hostmem_backend_get_owner(const struct hostmem_backend *backend, char *buffer, size_t size,
			      struct hostmem_error *err);

/* Mapped memory. */
struct hostmem_memory {
	/* First byte; NULL for a kind that allocates nothing. */
	void *address;
	/* Bytes. */
	uint64_t size;
	/* What the memory is made of: the base page, or the huge page of a hugetlb descriptor or
	 * mapping; bytes. */
	uint64_t page_size;
	/* The descriptor behind the memory, owned by the backend; -1 for anonymous memory, and for
	 * shared memory while some of its contents are unread, see hostmem_backend_get_unread(). */
	int32_t fd;
	/* Whether writes reach everyone who maps the descriptor (MAP_SHARED). */
	bool shared;
	/* Whether it is mapped for reading only. */
	bool readonly;
	/* Whether it is made of hugetlb pages, from the host's pools. */
	bool hugetlb;
	/* Where in the descriptor the memory begins; bytes. */
	uint64_t offset;
};

/* The memory. Errors: STATE (not ready or mapped). */
int hostmem_backend_get_memory(const struct hostmem_backend *backend, struct hostmem_memory *memory,
			       struct hostmem_error *err);
/*
 * The descriptor of shared memory, owned by the backend, to be given to another process
 * (vhost-user). Errors: STATE (not ready or mapped), VALUE (the memory is private to this process),
 * BUSY (some of its contents are unread, see hostmem_backend_get_unread(): the other process would
 * find zero).
 */
int hostmem_backend_get_shared_fd(const struct hostmem_backend *backend, int32_t *fd,
				  struct hostmem_error *err);

/*
 * A piece of the memory and where the guest sees it. RAM is cut into pieces where a machine has
 * holes, as a PC has one below 4 GiB. Bytes.
 */
struct hostmem_piece {
	/* UINT64_MAX: the guest does not see it. */
	uint64_t guest_address;
	/* From the beginning of the memory. */
	uint64_t offset;
	uint64_t length;
};

/*
 * Checks whether a piece can be used beside others, which were checked before: it is not empty and
 * inside the memory, its offset is a multiple of the page size, its guest addresses end below 2^64,
 * and it overlaps none of the others, neither in the memory nor in guest addresses. A memory slot
 * needs a guest address and a length that are multiples of the page size too. Errors: STATE (not
 * ready or mapped), VALUE (which of these it is).
 */
int hostmem_backend_check_piece(const struct hostmem_backend *backend,
				const struct hostmem_piece *piece,
				const struct hostmem_piece *others, size_t others_len,
				struct hostmem_error *err);

/* ---- Backends: properties ---- */

/*
 * Set a property, by text (any type, forms as enum hostmem_type says) or typed: bool; number for
 * size, uint32 and node; list for node sets, which replaces the whole set, an empty list empties
 * it; an open descriptor for fd. Text and number set a descriptor only where the defaults' record
 * has fd_by_number. In state configuring only the value by itself is checked; combinations are
 * checked by complete. In ready and mapped a live property acts before the call returns; when the
 * kernel refuses, the old value stays. Errors: UNKNOWN_PROPERTY, TYPE (typed call for another
 * type), VALUE, STATE (not settable now; says what would work), BUSY (prealloc or rebinding while a
 * preallocation runs), UNSUPPORTED, NO_MEMORY, IO (live changes).
 */
int hostmem_backend_set_text(struct hostmem_backend *backend, const char *property,
			     const char *text, struct hostmem_error *err);
int hostmem_backend_set_bool(struct hostmem_backend *backend, const char *property, bool value,
			     struct hostmem_error *err);
int hostmem_backend_set_number(struct hostmem_backend *backend, const char *property,
			       uint64_t value, struct hostmem_error *err);
int hostmem_backend_set_list(struct hostmem_backend *backend, const char *property,
			     const uint32_t *values, size_t values_len, struct hostmem_error *err);
int hostmem_backend_set_fd(struct hostmem_backend *backend, const char *property, int32_t fd,
			   struct hostmem_error *err);

/*
 * Read a property's effective value, in every state. The text of a size is its number of bytes in
 * decimal. The text of a value can be set again, but for that of an empty set, which only a list
 * sets. An unset link, and an empty set, read as "", an unset node as "none" and as a number is
 * UINT64_MAX. get_list writes at most values_size ids and
 * returns how many there are. Errors: UNKNOWN_PROPERTY, TYPE.
 */
int hostmem_backend_get_text(const struct hostmem_backend *backend, const char *property,
			     char *buffer, size_t size, struct hostmem_error *err);
int hostmem_backend_get_bool(const struct hostmem_backend *backend, const char *property,
			     bool *value, struct hostmem_error *err);
int hostmem_backend_get_number(const struct hostmem_backend *backend, const char *property,
			       uint64_t *value, struct hostmem_error *err);
int hostmem_backend_get_list(const struct hostmem_backend *backend, const char *property,
			     uint32_t *values, size_t values_size, struct hostmem_error *err);
/* Where the value comes from. Errors: UNKNOWN_PROPERTY. */
int hostmem_backend_get_origin(const struct hostmem_backend *backend, const char *property,
			       enum hostmem_origin *origin, struct hostmem_error *err);

/*
 * A warning about the backend, at an index: it was configured in a deprecated form, or something
 * that it was asked for has no effect. Returns its length, 0 beyond the last one. They change as
 * the backend does. One for which there was no memory is missing.
 */
int hostmem_backend_get_warning(const struct hostmem_backend *backend, size_t index, char *buffer,
				size_t size, struct hostmem_error *err);

/* ---- Option strings ---- */

/*
 * Makes a backend from "kind,id=ID,property=value,...", the grammar of QEMU's -object: ",," is a
 * comma inside a value, a key given twice is refused unless it is a set, whose parts add up. A
 * boolean property alone is on, and off with "no" before its name, with a warning; any other key
 * without value is refused. Without id one is made. The backend is configuring; nothing is left
 * behind on failure. Errors: as hostmem_backend_new() and hostmem_backend_set_text().
 */
int hostmem_backend_new_from_options(struct hostmem_objects *objects,
				     struct hostmem_backend **backend, const char *options,
				     struct hostmem_error *err);

/* The kind that an option string names, which says whether it is a backend's or a thread-context's.
 * Returns its length. Errors: VALUE (no kind, a key without value), NO_MEMORY. */
int hostmem_options_get_kind(const char *options, char *buffer, size_t size,
			     struct hostmem_error *err);

/* ---- Thread-contexts ---- */

/*
 * A backend whose prealloc-context names a thread-context has all threads that preallocate it, be
 * it one, created by the context's own thread, and none that the caller brings: they inherit its
 * CPU affinity, control groups and scheduling, however those were set: by cpu-affinity,
 * node-affinity or from outside by thread-id.
 */

/*
 * Makes a thread-context in state configuring, in which its properties are collected. Errors: as
 * hostmem_backend_new().
 */
int hostmem_thread_context_new(struct hostmem_objects *objects,
			       struct hostmem_thread_context **context, const char *id,
			       struct hostmem_error *err);
/* The same from "thread-context,id=ID,property=value,...", as hostmem_backend_new_from_options().
 */
int hostmem_thread_context_new_from_options(struct hostmem_objects *objects,
					    struct hostmem_thread_context **context,
					    const char *options, struct hostmem_error *err);
/*
 * Starts its thread and moves it to its CPUs: state ready. On failure there is no thread, and it is
 * configuring as before. Errors: STATE (not configuring), VALUE (both affinities set; a CPU that is
 * not there or outside the cpuset; a node that is not there), NO_MEMORY, IO (sched_setaffinity(2)
 * is refused).
 */
int hostmem_thread_context_complete(struct hostmem_thread_context *context,
				    struct hostmem_error *err);
/* 0 when hostmem_thread_context_delete() would succeed now; else its error. */
int hostmem_thread_context_can_be_deleted(const struct hostmem_thread_context *context,
					  struct hostmem_error *err);
/* Ends its thread and gives the id back: state deleted. Errors: BUSY (a backend links to it; says
 * which), STATE (deleted already). */
int hostmem_thread_context_delete(struct hostmem_thread_context *context,
				  struct hostmem_error *err);
/* Drops the caller's reference; the object is deleted when no backend links to it any more. NULL is
 * allowed. */
void hostmem_thread_context_free(struct hostmem_thread_context *context);
/* CONFIGURING, READY or DELETED. */
enum hostmem_state hostmem_thread_context_get_state(const struct hostmem_thread_context *context);
/* The id; it lives as long as the object. */
const char *hostmem_thread_context_get_id(const struct hostmem_thread_context *context);

/*
 * Set a property, by text or as a list of ids; an empty set is refused. In state configuring
 * whether the CPUs are there is checked by complete. In state ready the thread is moved before the
 * call returns, each of the two affinities replaces the other, and when that fails the thread
 * stays; threads that it has created stay where they are. Errors: UNKNOWN_PROPERTY, TYPE, VALUE,
 * STATE (thread-id; deleted), IO.
 */
int hostmem_thread_context_set_text(struct hostmem_thread_context *context, const char *property,
				    const char *text, struct hostmem_error *err);
int hostmem_thread_context_set_list(struct hostmem_thread_context *context, const char *property,
				    const uint32_t *values, size_t values_len,
				    struct hostmem_error *err);
/*
 * Read a property. cpu-affinity is what the kernel says of its thread; before there is one, what
 * was set, or else the affinity of the calling thread. thread-id reads as "none", as a number
 * UINT64_MAX, while there is no thread, as in a forked child. Errors: UNKNOWN_PROPERTY, TYPE, STATE
 * (node-affinity can only be set).
 */
int hostmem_thread_context_get_text(const struct hostmem_thread_context *context,
				    const char *property, char *buffer, size_t size,
				    struct hostmem_error *err);
int hostmem_thread_context_get_number(const struct hostmem_thread_context *context,
				      const char *property, uint64_t *value,
				      struct hostmem_error *err);
int hostmem_thread_context_get_list(const struct hostmem_thread_context *context,
				    const char *property, uint32_t *values, size_t values_size,
				    struct hostmem_error *err);

/* ---- Preallocation ---- */

/* Progress callback of a preallocation: bytes done of total. At most every 100 ms, and once at the
 * end of a successful one. It begins again at 0 where the first way to populate left something to
 * the plain one. On a thread of the library's there are 256 KiB of stack. */
typedef void (*hostmem_progress_callback)(void *data, uint64_t done, uint64_t total);

/*
 * Sets the callback for the preallocations that begin from now on; NULL for none. data must live
 * until it is replaced, or the object freed, and a preallocation that runs then has ended.
 */
void hostmem_backend_set_progress(struct hostmem_backend *backend,
				  hostmem_progress_callback callback, void *data);
/* How far the running or last preallocation, scrub or save is, in bytes; both 0 when there was
 * none. Never waits. */
void hostmem_backend_get_progress(const struct hostmem_backend *backend, uint64_t *done,
				  uint64_t *total);

/*
 * With prealloc-mode=background completing returns at once, and the memory fills while it is
 * claimed and used; `prealloc` reads on only when that has succeeded. Meanwhile deleting cancels it
 * and waits for its end; rebinding, populate and another prealloc are BUSY; what is discarded is
 * left out.
 */

/* End callback of a preallocation in the background: error is NULL when it succeeded, else its
 * failure. */
typedef void (*hostmem_prealloc_callback)(void *data, const struct hostmem_error *error);

/*
 * Sets the callback for the end of each preallocation in the background; NULL for none. It is also
 * called for a read of contents on demand that fails while no background runs: the first one, and
 * the first after each hostmem_backend_retry_contents(). To be set before completing. It runs on a
 * thread of the library, and must not wait for threads that touch the memory. The backend may be
 * freed in it; waiting for, deleting or preallocating the backend is BUSY there. A waiting caller
 * may return before it runs. A preallocation that is cancelled, by deleting too, has ended with
 * that error. It is not called when the backend was freed in its progress callback.
 */
void hostmem_backend_set_prealloc_done(struct hostmem_backend *backend,
				       hostmem_prealloc_callback callback, void *data);

/*
 * Waits for the end of the background preallocation: 0 when it succeeded or there was none. A read
 * of contents on demand that failed while none ran is returned as its failure, until
 * hostmem_backend_retry_contents(). milliseconds: how long at most; above INT32_MAX: as long as it
 * takes. Errors: BUSY with os_error ETIMEDOUT (still running), BUSY (from inside its own
 * callbacks), else its own failure.
 */
int hostmem_backend_wait_prealloc(struct hostmem_backend *backend, uint64_t milliseconds,
				  struct hostmem_error *err);
/*
 * Stops the preallocation that runs in the background, within one chunk, and waits for its end;
 * what was populated stays, and hostmem_backend_get_progress() says how much. Its failure is then
 * STATE with os_error ECANCELED. Does nothing when none runs. Errors: BUSY (from inside its own
 * callbacks).
 */
int hostmem_backend_cancel_prealloc(struct hostmem_backend *backend, struct hostmem_error *err);
/*
 * Stops the preallocation, scrub or save of the backend, within one chunk, and returns at once: one
 * in the background, and one that a caller waits for (complete, populate, scrub, save,
 * prealloc=on). That caller gets STATE with os_error ECANCELED; backends that complete together all
 * fail. Does nothing when none runs, and does not affect the next one. May be called from inside
 * callbacks. For a program that is asked to end.
 */
void hostmem_backend_interrupt(struct hostmem_backend *backend);
/*
 * A descriptor for event loops (eventfd(2)) that becomes readable when the background preallocation
 * has ended, and when a read of contents on demand fails after that, until another preallocation
 * begins; it belongs to the backend. -1 where there was none.
 */
int32_t hostmem_backend_get_prealloc_event(const struct hostmem_backend *backend);

/* What the last successful preallocation did. All 0 when there was none. */
struct hostmem_prealloc_result {
	/* Threads that populated, the caller included where it took part. */
	uint32_t threads;
	/* errno where the workers could not be pinned to the CPUs of the bound nodes, and
	 * populated all the same, or where neither these nor the thread-context's could be created
	 * and the calling thread populated. Else 0. */
	int32_t affinity_error;
	/* errno where the workers could not have the memory policy, which only shared memory of a
	 * file on disk needs: the kernel ignores that of the mapping. Else 0. They populated all
	 * the same, and so does any thread that touches that memory later, by its own policy. */
	int32_t policy_error;
	/* Bytes that are now present. */
	uint64_t bytes;
	/* Wall-clock time, thread creation included. */
	uint64_t nanoseconds;
};

void hostmem_backend_get_prealloc_result(const struct hostmem_backend *backend,
					 struct hostmem_prealloc_result *result);

/* ---- Contents that are read on demand ---- */

/*
 * Contents are unread until they are in the memory. They are read in units: one huge page where the
 * memory is made of these, else 64 KiB, or one page if that is larger.
 */

/*
 * How many bytes of the memory are unread, in whole units; what is discarded counts until its unit
 * is read. 0 where there are no contents, no memory, or in a forked child. *failed, unless NULL:
 * the first read on demand that failed since the last retry; kind 0: none.
 */
uint64_t hostmem_backend_get_unread(struct hostmem_backend *backend, struct hostmem_error *failed);
/* A range of the memory, in bytes. */
struct hostmem_range {
	/* From the beginning of the memory; at least 1. */
	uint64_t offset, length;
};

/*
 * The units that were touched before they were read, in the order of the touches, each once. A file
 * with a line "OFFSET LENGTH" for each, in decimal, is a contents-order for the next guest that
 * begins with the same image. Writes at most ranges_size, and returns how many there are: 0 where
 * contents were read while completing, where there are none, without memory, and in a forked child.
 */
size_t hostmem_backend_get_faulted(struct hostmem_backend *backend, struct hostmem_range *ranges,
				   size_t ranges_size);
/*
 * Reads contents again whose read on demand failed. Those that threads wait for are read by a
 * thread of the library, after this returns; with contents-poison=on those whose touch gave SIGBUS
 * are read before it returns. A read that fails again is reported as the first one was. Does
 * nothing where none failed. Errors: STATE (not ready or mapped).
 */
int hostmem_backend_retry_contents(struct hostmem_backend *backend, struct hostmem_error *err);

/* ---- Saving the memory ---- */

/* What a save did. */
struct hostmem_save_result {
	/* Bytes of the memory that were written, and that are holes in the file. */
	uint64_t written, holes;
	/* Wall-clock time. */
	uint64_t nanoseconds;
};

/*
 * Writes the memory of a ready or mapped backend to a file as a raw image, which `contents` reads:
 * byte N of the memory is at offset + N. What is absent or all zero becomes a hole. Threads as for
 * preallocation (prealloc-threads), with the backend's progress callback; while it runs, deleting,
 * rebinding and preallocating are BUSY, and hostmem_backend_interrupt() stops it. What a guest
 * writes meanwhile may be saved or not: pause it.
 *
 * fd: a regular file or a block device, open for writing without O_APPEND, borrowed; offset: bytes,
 * a multiple of the base page. The file grows to offset plus size if it is smaller; what it has
 * elsewhere stays. After a failure the range is incomplete. Errors: STATE (not ready or mapped;
 * ECANCELED: interrupted), BUSY (a preallocation is running; in a callback), VALUE (the file;
 * offset; EFBIG: RLIMIT_FSIZE), NO_MEMORY (ENOSPC: no room, and how much is missing), IO.
 */
int hostmem_backend_save(struct hostmem_backend *backend, struct hostmem_save_result *result,
			 int32_t fd, uint64_t offset, struct hostmem_error *err);

/* ---- Ranges of the memory ---- */

/*
 * Each takes a range of a ready or mapped backend: offset and length in bytes, multiples of the
 * page size of hostmem_backend_get_memory(), inside the memory; length 0 does nothing.
 */

/*
 * Gives the range back to the host: it is absent afterwards, and reads as zero once it is touched
 * again, or as the file where the mapping is private and the file is the user's, which is never
 * changed. What hugetlb memory gives back is no longer reserved: populate it before a guest touches
 * it. Locked memory (mlock(2)) is given back too. A preallocation that is running leaves the range
 * out from here on; the call waits for the chunks that are being filled, a few milliseconds.
 * Errors: STATE (not ready or mapped), BUSY (inhibited; says by whom), VALUE (range; read-only
 * memory), UNSUPPORTED (the file system cannot make holes), NO_MEMORY (to remember the range while
 * a preallocation runs), IO.
 */
int hostmem_backend_discard(struct hostmem_backend *backend, uint64_t offset, uint64_t length,
			    struct hostmem_error *err);

/* What a discarded range reads as. */
enum hostmem_discard_to {
	HOSTMEM_DISCARD_TO_BACKING = 1, /* zero; a private mapping of a user's file: the file */
	HOSTMEM_DISCARD_TO_ZERO,        /* zero */
};

/*
 * Discards as hostmem_backend_discard() does. To ZERO anonymous memory takes the place of a private
 * mapping of a user's file, for good: the file is not seen there any more. Its errors, and
 * NO_MEMORY (mappings, vm.max_map_count). After an error the range is as it was, or zero where only
 * locking it or making it inaccessible again has failed. But IO with ENOTRECOVERABLE: the kernel
 * failed twice, and the memory of the range is lost. Its uses are STATE from then on; deleting the
 * backend leaves alone what another thread has mapped there.
 */
int hostmem_backend_discard_to(struct hostmem_backend *backend, uint64_t offset, uint64_t length,
			       enum hostmem_discard_to to, struct hostmem_error *err);

/* How a range may be accessed. */
enum hostmem_access {
	HOSTMEM_ACCESS_NONE = 1, /* an access raises SIGSEGV, in KVM_RUN it is EFAULT */
	HOSTMEM_ACCESS_ALL,      /* as when the backend was completed */
};

/*
 * Makes a range inaccessible, as memory that is unplugged, or accessible again. Contents stay.
 * Inaccessible memory cannot be populated; it can be saved and scrubbed where it is absent, and
 * shared memory of a file can always be saved: else these are VALUE with EACCES. While contents are
 * unread the range has to consist of whole units of them. Errors: STATE (not ready or mapped), BUSY
 * (a preallocation is running; part of an unread unit), VALUE (range), NO_MEMORY (mappings,
 * vm.max_map_count), IO.
 */
int hostmem_backend_protect(struct hostmem_backend *backend, uint64_t offset, uint64_t length,
			    enum hostmem_access access, struct hostmem_error *err);
/*
 * Inhibits discard, and deleting, from when this returns until hostmem_backend_allow_discard() with
 * the same name (1 to HOSTMEM_ID_MAX bytes, shown to others): for a device that has pinned the
 * pages (VFIO), which would go on using what was given back. Any number may inhibit it, one name
 * more than once; each is ended by itself. Errors: STATE (not ready or mapped), VALUE (name empty
 * or too long), NO_MEMORY.
 */
int hostmem_backend_inhibit_discard(struct hostmem_backend *backend, const char *name,
				    struct hostmem_error *err);
/* Ends what hostmem_backend_inhibit_discard() began. Errors: STATE (nothing of that name did). */
int hostmem_backend_allow_discard(struct hostmem_backend *backend, const char *name,
				  struct hostmem_error *err);
/*
 * Preallocates the range, contents untouched, with the properties and the progress callback of the
 * backend. Errors: STATE (not ready or mapped), VALUE (range), BUSY (a preallocation is running),
 * UNSUPPORTED, NO_MEMORY, IO.
 */
int hostmem_backend_populate(struct hostmem_backend *backend, uint64_t offset, uint64_t length,
			     struct hostmem_error *err);
/*
 * Makes the range read as zero, for everyone who maps it, and leaves it where it is: pages that are
 * present keep their node, their size and their lock; those that are absent stay absent; those that
 * are swapped out are given back. For a guest that starts again: it is faster than discarding and
 * populating, needs no free memory, and leaves huge pages huge. Nobody may be using the range
 * meanwhile: what is written there during the call may be lost.
 *
 * The threads are those that would preallocate the backend. The progress callback is called, and
 * hostmem_backend_interrupt() stops it: what is not zero by then is unchanged. What is discarded
 * meanwhile is left out. It is allowed while discard is inhibited: pinned pages stay.
 *
 * Of a file on disk the parts that are not in memory become holes, which are allocated again with
 * prealloc=on; on a file system that cannot make holes they are overwritten, and so present. Small
 * pages that are merged with others (KSM) and not zero get memory of their own.
 *
 * Errors: STATE (not ready or mapped; interrupted, with os_error ECANCELED), VALUE (range;
 * read-only memory; a private mapping of a file of the user's, which reads as the file: discard
 * gives that back), BUSY (a preallocation or scrub is running), NO_MEMORY, IO.
 */
int hostmem_backend_scrub(struct hostmem_backend *backend, uint64_t offset, uint64_t length,
			  struct hostmem_error *err);

/* ---- Rebinding ---- */

enum hostmem_rebind_flag {
	/* Move pages that other mappings or processes use too (MPOL_MF_MOVE_ALL, mbind(2)); needs
	 * CAP_SYS_NICE. */
	HOSTMEM_REBIND_MOVE_ALL = 1,
};

/* The likely cause why pages stayed where they were. */
enum hostmem_unmoved {
	HOSTMEM_UNMOVED_NONE,   /* all are on the host nodes */
	HOSTMEM_UNMOVED_SHARED, /* another mapping or process uses them too */
	HOSTMEM_UNMOVED_PINNED, /* none of the others: a device or the kernel holds them */
	HOSTMEM_UNMOVED_FULL,   /* the host nodes have no room for them */
};

/* What rebinding did with the pages that were mapped here, counted from the kernel. Bytes; exact as
 * long as no new memory is touched meanwhile. */
struct hostmem_rebind_result {
	/* On another node than before. */
	uint64_t moved;
	/* Still on a node that is none of the host nodes; 0 for a policy without nodes. */
	uint64_t not_moved;
	enum hostmem_unmoved cause;
};

/*
 * Changes policy, host nodes and home node of a ready or mapped backend in one step, and moves its
 * pages there while it is used. policy: a name, as in an option string. home_node: UINT64_MAX for
 * none. flags: a mask of enum hostmem_rebind_flag. A change of one of the three properties does the
 * same without flags.
 *
 * What comes from the new nodes is fixed at once. Pages that are on any of them stay; the others
 * move, but for those in the result. With policy bind it is refused beforehand where the new nodes
 * have less memory available than would have to move. On failure the old policy is back, and pages
 * that had moved go back to its nodes as far as they can.
 *
 * On Linux 6.12 transparent huge pages that were never written may be dropped instead of moved
 * when the new nodes are short: they read as zero, and are absent until they are populated again.
 *
 * Errors: STATE (not ready or mapped), VALUE (policy, nodes, their combination, flags), BUSY (a
 * preallocation is running), UNSUPPORTED (as completing; MOVE_ALL without CAP_SYS_NICE), NO_MEMORY
 * (the new nodes are short), IO (EIO: pages could not be moved, the message says how many and why).
 */
int hostmem_backend_rebind(struct hostmem_backend *backend, struct hostmem_rebind_result *result,
			   const char *policy, const uint32_t *host_nodes, size_t host_nodes_len,
			   uint64_t home_node, uint32_t flags, struct hostmem_error *err);

/* ---- Placement ---- */

/* Whether memory is where its policy wants it. */
enum hostmem_satisfied {
	HOSTMEM_SATISFIED_YES = 1,        /* all that is mapped here is */
	HOSTMEM_SATISFIED_SPILLED,        /* some of it is not; `outside` says how much */
	HOSTMEM_SATISFIED_NOT_APPLICABLE, /* the policy, default or local, names no nodes */
	HOSTMEM_SATISFIED_UNKNOWN, /* shared memory of a file on disk, whose policy the kernel
				      ignores; interleaved memory that is not all there */
};

/* Where the memory is, as the kernel says now. Sizes are in bytes. */
struct hostmem_placement {
	/* Mapped here, on all nodes. */
	uint64_t resident;
	/* Of that, in huge pages (transparent or hugetlb). */
	uint64_t huge;
	/* Swapped out. */
	uint64_t swapped;
	/*
	 * In memory but not mapped here: what only others have touched of shared memory
	 * (cachestat(2) or mincore(2); of hugetlb memory, and where both are forbidden, the blocks
	 * of the file if it is mapped whole). 0 where the kernel does not say: a part of a hugetlb
	 * file, a read-only map.
	 */
	uint64_t unmapped;
	/* Absent because its contents are unread, see hostmem_backend_get_unread(). */
	uint64_t unread;
	/* Absent for another reason. The parts resident, swapped, unmapped, unread and absent add
	 * up to the size. */
	uint64_t absent;
	/* Of what is resident, on other nodes than the host nodes, or more than the share of its
	 * node. 0 where the policy names no nodes. */
	uint64_t outside;
	/*
	 * By the policy that was set. bind: all is on the host nodes; preferred, preferred-many:
	 * likewise, else spilled; interleave, weighted-interleave: each share is right within one
	 * cycle, in huge pages where the memory may have some.
	 */
	enum hostmem_satisfied satisfied;
	/* Whether the kernel's policy is not, or not everywhere, the one that was set: shared
	 * memory's belongs to the object, so any process that maps it can change it; a cpuset can
	 * too. */
	bool policy_changed;
	/* Whether the kernel lets identical pages be merged here; false for shared and hugetlb
	 * memory whatever `merge` says (VmFlags, proc(5)). */
	bool mergeable;
	/* The most mappings, of all processes, that one of the pages has (numa(7)): pages with more
	 * than one do not move. 0 where none is mapped here. */
	uint32_t mapmax;
	/* The policy as /proc/self/numa_maps words it, e.g. "bind:0-1", "prefer (many):0", cut to
	 * 63 bytes; "" where the kernel has no NUMA. Where it differs, from the one that was set.
	 */
	char policy[HOSTMEM_POLICY_SIZE];
	/* Why `satisfied` is as it is, for people; "" for yes. */
	char reason[HOSTMEM_REASON_SIZE];
	/* Mapped here, on each node. */
	uint64_t nodes[HOSTMEM_NODES_MAX];
	/* How many pages in turn each node gets of an interleaved memory: 1, or for
	 * weighted-interleave what the host is set to now; 0 for all others. */
	uint8_t weights[HOSTMEM_NODES_MAX];
};

/*
 * Reads /proc/self/smaps and /proc/self/numa_maps (numa(7)), which need no permission, and makes no
 * call that a container forbids; the cost grows with the mappings of the whole process. Errors:
 * STATE (not ready or mapped), IO (they cannot be read).
 */
int hostmem_backend_get_placement(const struct hostmem_backend *backend,
				  struct hostmem_placement *placement, struct hostmem_error *err);

/* ---- Pools ---- */

/*
 * A pool keeps backends of one configuration complete and preallocated, and makes new ones in the
 * background when one is taken. So memory is there when it is asked for, however much: fresh
 * memory is not to be had faster than the kernel zeroes it.
 *
 * The memory of a pool is taken from the host as that of any backend. It is filled one backend at a
 * time, by threads of SCHED_IDLE (sched(7)), those of a prealloc-context too: all other work of the
 * CPUs goes first. Where memory is short, filling stops as any preallocation does; the reason is in
 * the status, and it is tried again after a pause, 1 second at first and at most 60.
 */

/*
 * Makes a pool whose backends are configured as a template, a backend in state configuring, which
 * is copied. They are preallocated whether the template says so or not; its id is the pool's name
 * in messages and the name of its threads. count: how many are kept ready, from 1 on. Fills nothing
 * before it returns. Errors: STATE (the template is not configuring), VALUE (the template is not
 * possible on this host, as completing would say; prealloc=off; its memory would be the same for
 * all, as that of a shared fd or file; more than the host has; count 0), NO_MEMORY, and those of
 * completing but for what is short now.
 */
int hostmem_pool_new(struct hostmem_pool **pool, const struct hostmem_backend *template_backend,
		     uint32_t count, struct hostmem_error *err);
/* The same from an option string without id, as hostmem_backend_new_from_options(). Its name is
 * that of the kind. */
int hostmem_pool_new_from_options(struct hostmem_objects *objects, struct hostmem_pool **pool,
				  const char *options, uint32_t count, struct hostmem_error *err);
/* Cancels what is being filled, within one chunk, and deletes what is ready. What was taken stays.
 * NULL is allowed. */
void hostmem_pool_free(struct hostmem_pool *pool);
/*
 * Takes a backend, which gets the id in the template's set of objects, as hostmem_backend_new()
 * says, and is from then on like one that was completed just now. *was_ready: it was there, and
 * taking it takes less than a millisecond; else it was made at once, the ordinary way. Errors:
 * those of hostmem_backend_new(); of hostmem_backend_complete() when none was ready; STATE (a
 * forked child). When it fails what was ready stays so.
 */
int hostmem_pool_take(struct hostmem_pool *pool, struct hostmem_backend **backend, bool *was_ready,
		      const char *id, struct hostmem_error *err);
/*
 * Takes a backend that is ready, as hostmem_pool_take() does, and lowers the count by one, also to
 * 0, so that the pool does not replace it before hostmem_pool_set_count(). It neither makes one nor
 * lets filling rest. For a caller that keeps ready backends itself, for example to hand out their
 * descriptors. Errors: those of hostmem_backend_new(), BUSY (none is ready), STATE (a forked
 * child). When it fails the count, and what was ready, stay the same.
 */
int hostmem_pool_withdraw(struct hostmem_pool *pool, struct hostmem_backend **backend,
			  const char *id, struct hostmem_error *err);
/*
 * Lets filling rest: it begins no chunk for this time; more than 60 s counts as 60 s. So urgent
 * work does not wait for locks of the kernel that a thread of SCHED_IDLE holds. Filling
 * then goes on for at least the same time; another rest before the end of that has no effect. Each
 * hostmem_pool_take() lets filling rest for 100 ms. Does nothing in a forked child.
 */
void hostmem_pool_rest(struct hostmem_pool *pool, uint64_t milliseconds);
/* How many are kept ready from now on; what is ready above that is deleted before it returns. An
 * attempt that is waited for begins at once. Errors: VALUE (as hostmem_pool_new()), STATE (a forked
 * child). */
int hostmem_pool_set_count(struct hostmem_pool *pool, uint32_t count, struct hostmem_error *err);
/* Waits until as many are ready, at most the count. milliseconds: as for
 * hostmem_backend_wait_prealloc(). Errors: BUSY with os_error ETIMEDOUT, STATE (a forked child). */
int hostmem_pool_wait(struct hostmem_pool *pool, uint32_t ready, uint64_t milliseconds,
		      struct hostmem_error *err);

/* What a pool has. All 0 in a forked child. */
struct hostmem_pool_status {
	/* How many are to be ready, and are. */
	uint32_t count;
	uint32_t ready;
	/* Whether one is being filled. */
	bool filling;
	/* Bytes of those that are ready, and of the one that is being filled so far. */
	uint64_t bytes;
	/* How many were ready when they were taken, and how many were not and made then. */
	uint64_t taken;
	uint64_t made;
	/* Attempts to fill one that failed. */
	uint64_t failures;
	/* Until the next attempt, 0 when none is waited for. */
	uint64_t retry_milliseconds;
	/* Why the last attempt failed; kind 0 if it did not. */
	struct hostmem_error failure;
};

void hostmem_pool_get_status(const struct hostmem_pool *pool, struct hostmem_pool_status *status);

#ifdef __cplusplus
}
#endif

#endif

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The folder base: system calls, libnuma, threads, address space, errors and text. Knows no backend
 * and no property.
 */
#ifndef HOSTMEM_BASE_H
#define HOSTMEM_BASE_H

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <time.h>

#include "hostmem.h"

#define HM_ARRAY_LEN(array) (sizeof(array) / sizeof((array)[0]))

/* ---- set.c: sets of NUMA nodes and of CPUs ---- */

/* A set of NUMA nodes or of CPUs, by id, each below HM_SET_MAX. */
#define HM_SET_MAX HOSTMEM_CPUS_MAX

struct hm_set {
	uint64_t bits[HM_SET_MAX / 64];
};

bool hm_set_has(const struct hm_set *set, uint64_t id);
void hm_set_add(struct hm_set *set, uint64_t id);
bool hm_set_is_empty(const struct hm_set *set);
size_t hm_set_count(const struct hm_set *set);
/* The first id of the set that is at least `from`; HM_SET_MAX when there is none. */
uint64_t hm_set_next(const struct hm_set *set, uint64_t from);
bool hm_set_equals(const struct hm_set *set, const struct hm_set *other);
/* Whether all of the set is in `whole`. */
bool hm_set_is_subset(const struct hm_set *set, const struct hm_set *whole);
bool hm_set_overlaps(const struct hm_set *set, const struct hm_set *other);
/* Each changes the set. */
void hm_set_unite(struct hm_set *set, const struct hm_set *other);
void hm_set_intersect(struct hm_set *set, const struct hm_set *other);
void hm_set_subtract(struct hm_set *set, const struct hm_set *other);
/* Reads "0-3,5", whose ids are below `limit`. Returns 0, or -1 when the text is not of that form.
 */
int hm_set_parse(struct hm_set *set, const char *text, uint64_t limit);
/* The inverse; returns the length of the whole text as snprintf does. */
int hm_set_format(const struct hm_set *set, char *buffer, size_t size);
/* The same of what is in `wanted` and not in `have`; 0 when that is nothing. */
int hm_set_format_missing(const struct hm_set *wanted, const struct hm_set *have, char *buffer,
			  size_t size);

/* ---- error.c: the caller's error ---- */

/* Writes *err, unless it is NULL, and returns -1. os_error is a positive errno or 0. */
int hm_fail(struct hostmem_error *err, enum hostmem_error_kind kind, int os_error,
	    const char *format, ...) __attribute__((format(printf, 4, 5)));
/* Adds to the message of an error that was written. */
void hm_error_append(struct hostmem_error *err, const char *text);
/* NO_MEMORY for our own bookkeeping. */
int hm_fail_alloc(struct hostmem_error *err);
/* The kind of error that an errno (positive) of a memory call amounts to. */
enum hostmem_error_kind hm_error_kind_of(int os_error);

/* ---- text.c: words and values as text ---- */

/* Each returns 0, or -1 when the text is not of that form or does not fit. */
int hm_text_parse_size(const char *text, uint64_t *value);
/* Of a size with a unit such as "1GiB": the length of what can be read, "1G"; else 0. */
size_t hm_text_find_size_unit(const char *text);
int hm_text_parse_number(const char *text, uint64_t *value);
int hm_text_parse_bool(const char *text, bool *value);
/* Takes the digits at the start of *text, of which there is at least one. */
int hm_text_take_digits(const char **text, int base, uint64_t *value);
/* Turns control characters and broken UTF-8 into '?', so that the text is one line. */
void hm_text_clean(char *text);
/* Copies with snprintf's contract. */
int hm_text_copy(const char *text, char *buffer, size_t size);
/* Whether it is a letter, then letters, digits, '-', '.', '_', at most HOSTMEM_ID_MAX bytes. */
bool hm_text_is_id(const char *text);
/*
 * Takes the next "key=value" or "value" off *options, which moves past it; ",," in a value is one
 * comma. *key is NULL for a lone value. Both are cut out of the caller's writable string. Returns
 * false at the end.
 */
bool hm_text_next_option(char **options, char **key, char **value);

const char *hm_text_state(enum hostmem_state state);

/* Appends a word to a list; the separator comes before it unless the text is empty. */
void hm_text_join(char *text, size_t size, const char *separator, const char *word);
/* What follows `name` in the first line that begins with it; NULL when no line does. */
const char *hm_text_find_line(const char *text, const char *name);

/* ---- os.c: system calls; each returns a value >= 0 or -errno ---- */

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
	/* The same, and it is never swapped out (ramfs). */
	bool ramfs;
	/* What is in the page cache is there under a file of another file system (overlayfs). */
	bool overlay;
};

int hm_os_map(void **address, size_t size, int protection, int flags, int fd, uint64_t offset);
int hm_os_unmap(void *address, size_t size);
/* Moves a mapping to where another one is, which is unmapped in the same step. */
int hm_os_move(void *from, size_t size, void *to);
int hm_os_protect(void *address, size_t size, int protection);
int hm_os_advise(void *address, size_t size, int advice);
/*
 * Makes the page at an address that is a multiple of 4 present, contents untouched. -EFAULT where
 * an access would raise SIGBUS.
 */
int hm_os_touch(uint8_t *address, bool write);
int hm_os_lock(void *address, size_t size, unsigned int flags);
int hm_os_unlock(void *address, size_t size);
/* Whether any of it is locked, by mlock(2) or mlockall(2). */
bool hm_os_is_locked(void *address, size_t size);
/* Whether nothing is mapped in some of it. */
bool hm_os_is_unmapped(void *address, size_t size);
int hm_os_name(void *address, size_t size, const char *name);
int hm_os_set_home_node(void *address, size_t size, unsigned int node);
int hm_os_memfd(const char *name, unsigned int flags);
int hm_os_set_size(int fd, uint64_t size);
int hm_os_stat(int fd, struct hm_file *file);
/* Whether a path leads to the file that a descriptor is of. Opens nothing. */
int hm_os_is_at(const char *path, int fd);
int hm_os_open(const char *path, int flags);
/* Where a symbolic link leads to; returns the length. */
int hm_os_read_link(const char *path, char *buffer, size_t size);
/*
 * The same file with flags and a position of its own: seeking must not move that of the descriptor,
 * which others may share. Needs /proc.
 */
int hm_os_reopen(int fd, int flags);
/* Makes a file of no name in a directory. *stays: its name, hostmem-*, could not be removed. */
int hm_os_open_temporary(const char *directory, bool *stays);
/* Makes POSIX shared memory of no name. *stays: the name could not be removed. */
int hm_os_open_shm(const char *name, bool *stays);
int hm_os_unlink(const char *path);
int hm_os_duplicate(int fd);
/*
 * Whether no other descriptor of the file is open, in any process, nor a mapping made with one: 1
 * or 0, or -errno where that cannot be told. Asked by a lease (F_SETLEASE, fcntl(2)), which is
 * given back at once.
 */
int hm_os_is_sole_user(int fd);
int hm_os_random(void *buffer, size_t size);
int hm_os_get_access(int fd);
/* Whether each write goes to the end of the file. */
bool hm_os_appends(int fd);
/* The seals of a memfd; -EINVAL where a file cannot have any. */
int hm_os_get_seals(int fd);
int hm_os_punch_hole(int fd, uint64_t offset, uint64_t length);
/*
 * Bytes of the file system of a descriptor, and how many of them can still be allocated. -ENODATA
 * where it has no limit of its own.
 */
int hm_os_get_room(int fd, uint64_t *total, uint64_t *room);
/* lseek(2), which moves the offset for everybody who has the descriptor from a common source. */
int hm_os_seek(int fd, uint64_t offset, int whence, uint64_t *found);
/* Gives a file blocks, without changing its size. */
int hm_os_allocate(int fd, uint64_t offset, uint64_t length);
/* Reads all of a range of a file; what is behind its end is zero. */
int hm_os_read_at(int fd, void *buffer, size_t size, uint64_t offset);
int hm_os_add_seals(int fd, unsigned int seals);
/* Reads up to length bytes at an offset of a file; returns how many, 0 at the end. */
int64_t hm_os_read_some(int fd, void *buffer, uint64_t length, uint64_t offset);
/* Writes up to length bytes at an offset of a file; returns how many. */
int64_t hm_os_write_some(int fd, const void *buffer, uint64_t length, uint64_t offset);
/* The first place with data, or of a hole, from an offset on; -ENXIO when there is none. */
int64_t hm_os_find_data(int fd, uint64_t offset);
int64_t hm_os_find_hole(int fd, uint64_t offset);
int hm_os_close_on_exec(int fd);
int hm_os_close(int fd);
int hm_os_get_limit(int resource, uint64_t *limit);
/* thread 0: the calling one. */
int hm_os_get_affinity(pid_t thread, struct hm_set *cpus);
/* A file's text, cut to size - 1 bytes and ended by NUL; returns its length. */
int hm_os_read_file(const char *path, char *buffer, size_t size);
/* The first line of a file; of a choice, the word in brackets. "" where it cannot be read. */
void hm_os_read_setting(const char *path, char *setting, size_t size);
/* Calls `read` for each line of a file, newline included, until it returns false. */
int hm_os_read_lines(const char *path, bool (*read)(char *line, void *data), void *data);
/* The calling thread runs only on CPUs that are idle otherwise (SCHED_IDLE, sched(7)). */
int hm_os_set_idle(void);
int hm_os_set_affinity(pid_t thread, const struct hm_set *cpus);
/* Whether this process gets no transparent huge pages, not even where it advises them. */
bool hm_os_is_thp_disabled(void);
/* The CPU and the id of the calling thread. */
int hm_os_cpu(void);
pid_t hm_os_thread(void);
int hm_os_set_thread_name(const char *name);
/* eventfd(2), close-on-exec, not blocking. */
int hm_os_event_open(void);
void hm_os_event_clear(int event);
void hm_os_event_signal(int event);
uint64_t hm_os_page_size(void);
uint64_t hm_os_nanoseconds(void);
/* The time on the clock of pthread_cond_timedwait() here, CLOCK_MONOTONIC, that long from now. */
struct timespec hm_os_deadline(uint64_t nanoseconds);
pid_t hm_os_process(void);
/* Whether this is not the process of that id, which is 0 where there is none. */
bool hm_os_is_other_process(pid_t process);

/* ---- fault.c: userfaultfd(2) ---- */

/* For faults of user space only, which needs no privilege. */
int hm_fault_open(void);
/* What this kernel has. */
struct hm_fault_features {
	/* hm_fault_poison(), Linux 6.6. */
	bool poison;
	/* hm_fault_move(), Linux 6.8. */
	bool move;
};

/* For those that the kernel runs into too, as KVM does. */
int hm_fault_open_kernel(struct hm_fault_features *features);
/*
 * Puts copies of pages, or the pages themselves (6.8), into absent places and wakes the threads
 * that wait there; *done: bytes up to the first place where that failed.
 */
int hm_fault_copy(int fault_fd, uint8_t *address, const uint8_t *source, uint64_t size,
		  uint64_t *done);
int hm_fault_move(int fault_fd, uint8_t *address, uint8_t *source, uint64_t size, uint64_t *done);
/* Maps what another mapping has made, and wakes likewise. */
int hm_fault_continue(int fault_fd, uint8_t *address, uint64_t size, uint64_t *done);
/* A touch of an absent page raises SIGBUS, as for broken hardware, until the page is in place. */
int hm_fault_poison(int fault_fd, uint8_t *address, uint64_t size);
int hm_fault_wake(int fault_fd, uint8_t *address, uint64_t size);
/* Waits for a thread that needs the page at *address: 1; 0 once the event is signalled; -errno. */
int hm_fault_wait(int fault_fd, int stop_event, uint8_t **address);
/*
 * A thread that touches an absent page waits from here on; minor: also one that touches a page that
 * is present in another mapping of shared memory only (Linux 5.14).
 */
int hm_fault_register(int fault_fd, uint8_t *address, uint64_t size, bool minor);
int hm_fault_unregister(int fault_fd, uint8_t *address, uint64_t size);
/* Puts zero pages into absent places; *done: bytes up to the first place that was not absent. */
int hm_fault_zero(int fault_fd, uint8_t *address, uint64_t size, uint64_t *done);

/* ---- resident.c: how much of a range is in memory ---- */

/* The system calls that counting may make. */
#define HM_RESIDENT_CACHESTAT 1u
#define HM_RESIDENT_MINCORE   2u
#define HM_RESIDENT_LSEEK     4u

/*
 * Counts the bytes of a range of a file, mapped at `address`, that are in memory, in a time that
 * does not grow with the holes of the file. ways: of HM_RESIDENT_*.
 */
int hm_resident_count(unsigned int ways, int fd, uint64_t offset, uint8_t *address, uint64_t size,
		      uint64_t *resident);
/*
 * The same of a file that is not mapped, in a time that does not grow with what is absent (Linux
 * 6.5).
 */
int hm_resident_count_cached(int fd, uint64_t offset, uint64_t size, uint64_t *cached);
/* The same of pages that no file and no other mapping has, nor the kernel, as it has the zero page.
 */
int hm_resident_count_own(const uint8_t *address, uint64_t size, uint64_t *own);
/* Which base pages of a range are in memory: bit 0 of a byte for each. */
int hm_resident_get(uint8_t *address, uint64_t size, unsigned char *pages);
/* Whether a range is in huge pages, and mapped as such; true where the kernel does not tell (6.7).
 */
bool hm_resident_is_huge(const uint8_t *address, uint64_t size);
/* Of an entry of pagemap: the page is present; swapped out or being moved; of a file or shared; in
 * this one mapping only. */
#define HM_PAGEMAP_PRESENT   (UINT64_C(1) << 63)
#define HM_PAGEMAP_SWAPPED   (UINT64_C(1) << 62)
#define HM_PAGEMAP_FILE      (UINT64_C(1) << 61)
#define HM_PAGEMAP_EXCLUSIVE (UINT64_C(1) << 56)
/* The entry of /proc/self/pagemap of each base page. */
int hm_resident_get_pagemap(const uint8_t *address, size_t pages, uint64_t *entries);

/* ---- numa.c: NUMA policies of ranges and threads ---- */

/* In the place of a node's id. */
#define HM_NODE_NONE UINT64_MAX

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
/* Whether the calls go through libnuma; else they are made by syscall(2). */
bool hm_numa_is_through_libnuma(void);
/* nodes may be NULL. */
int hm_numa_bind(void *address, size_t size, enum hm_policy policy, const struct hm_set *nodes,
		 unsigned int flags);
/* Of the calling thread, which has to be one of ours. */
int hm_numa_set_thread(enum hm_policy policy, const struct hm_set *nodes);
/* The nodes that the cpuset lets this process use. */
int hm_numa_get_allowed(struct hm_set *nodes);
/* The nodes that the calling thread is bound to; -ENOENT when its policy is another one. */
int hm_numa_get_bound(struct hm_set *nodes);

/* ---- thread.c: how threads of the library start ---- */

/* Threads that work together. */
struct hm_creation {
	pthread_t *threads;
	uint32_t wanted, created;
	/* -errno of the first that could not be created, else 0. */
	int error;
	/* Where they may run; NULL: where the thread that creates them may. */
	const struct hm_set *cpus;
	/* The thread that creates them works too. */
	bool beside_caller;
	/* Each is left to begin where the kernel chooses. */
	bool no_spread;
	void *(*run)(void *data);
	void *data;
};

/* Returns 0 or -errno. */
int hm_thread_create(pthread_t *thread, void *(*run)(void *), void *data);
/* Creates as many as can be had. Where they are enough for all CPUs, each begins on its own. */
void hm_thread_create_all(struct hm_creation *creation);
/* Names the calling thread hm-<id>, cut to 15 bytes. */
void hm_thread_name(const char *id);
/* At least for that time, unless it is woken for no reason. */
void hm_thread_sleep(uint64_t nanoseconds);
/*
 * Calls `renew` where *process, the last one that used the record, is not this process but one that
 * it was forked from. A lock that another thread held at the fork is never unlocked in the child,
 * so `renew` makes the record's locks new.
 */
void hm_thread_enter(_Atomic pid_t *process, void (*renew)(void *record), void *record);

/* ---- map.c: address space ---- */

/* Provenance: what was mapped, so that exactly this is unmapped. */
struct hm_mapping {
	/* The reservation: the memory and its guard pages. NULL: nothing is mapped. */
	uint8_t *base;
	size_t base_size;
	uint8_t *address;
	size_t size;
	/* From and to, in bytes of the memory: nothing there is mapped by us, what is there is
	 * somebody else's. Equal: there is no hole. */
	size_t hole_begin, hole_end;
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
	/* A guard page on each side, which costs two mappings (vm.max_map_count). */
	bool guard;
	/* Bytes of the huge pages of anonymous memory; 0: base pages. */
	uint64_t huge_page;
	/* Shared memory whose stores need no flush by the file system (DAX). */
	bool sync;
};

/* Reserves address space, with its guard pages. Returns 0 or -errno, nothing left. */
int hm_map_reserve(struct hm_mapping *mapping, const struct hm_map_request *request);
/*
 * Maps the backing, inaccessible, between the guard pages. Returns 0 or -errno: -EEXIST when
 * another thread has mapped something there meanwhile. After a failure only hm_map_destroy() may
 * follow.
 */
int hm_map_fill(struct hm_mapping *mapping, const struct hm_map_request *request);
/* Part of the memory is not mapped by us any more: only hm_map_destroy() may follow. */
void hm_map_note_hole(struct hm_mapping *mapping, size_t offset, size_t length);
bool hm_map_has_hole(const struct hm_mapping *mapping);
void hm_map_destroy(struct hm_mapping *mapping);

/* ---- rwlock.c: a reader-writer lock that prefers writers ---- */

struct hm_rwlock {
	pthread_rwlock_t lock;
	/* Held by a writer while it waits; new readers queue up behind it. */
	pthread_mutex_t writers;
	_Atomic bool writer_waits;
};

void hm_rwlock_init(struct hm_rwlock *rwlock);
void hm_rwlock_destroy(struct hm_rwlock *rwlock);
/* A thread that holds it must not read it again: a writer may be waiting in between. */
void hm_rwlock_read(struct hm_rwlock *rwlock);
void hm_rwlock_write(struct hm_rwlock *rwlock);
void hm_rwlock_unlock(struct hm_rwlock *rwlock);

/* ---- range_list.c: ranges of memory ---- */

/* A range of a backend's memory, or of a fill, in bytes. */
struct hm_range {
	uint64_t offset, length;
};

/* Sorted, apart from each other. All 0: none. */
struct hm_ranges {
	struct hm_range *all;
	size_t len;
};

/* Makes room for the next call of add or remove, which then cannot fail. Returns 0 or -ENOMEM. */
int hm_ranges_reserve(struct hm_ranges *ranges);
void hm_ranges_add(struct hm_ranges *ranges, struct hm_range range);
void hm_ranges_remove(struct hm_ranges *ranges, struct hm_range range);
void hm_ranges_clear(struct hm_ranges *ranges);
bool hm_ranges_overlap(const struct hm_ranges *ranges, const struct hm_range *range);
/* Takes the next part outside all ranges off *rest; false when there is none. */
bool hm_ranges_next_part(const struct hm_ranges *ranges, struct hm_range *rest,
			 struct hm_range *part);

/* ---- gaps.c: ranges that a fill skips ---- */

struct hm_gaps {
	/* Held for reading while a chunk is populated, for writing to add a range. */
	struct hm_rwlock lock;
	struct hm_ranges ranges;
};

void hm_gaps_init(struct hm_gaps *gaps);
void hm_gaps_destroy(struct hm_gaps *gaps);
void hm_gaps_clear(struct hm_gaps *gaps);
/*
 * Discards the range while no chunk is being populated; on success it is a gap from then on.
 * Returns 0, -ENOMEM, or the result of discard.
 */
int hm_gaps_add(struct hm_gaps *gaps, const struct hm_range *range,
		int (*discard)(const struct hostmem_backend *backend, const struct hm_range *range),
		const struct hostmem_backend *backend);
/* No gap is added between the two. */
void hm_gaps_lock(struct hm_gaps *gaps);
void hm_gaps_unlock(struct hm_gaps *gaps);
/* Takes the next part outside all gaps off *rest; false when there is none. Lock held. */
bool hm_gaps_next_part(const struct hm_gaps *gaps, struct hm_range *rest, struct hm_range *part);
/* Bytes of a range that are in gaps. */
uint64_t hm_gaps_count(struct hm_gaps *gaps, const struct hm_range *range);

#endif

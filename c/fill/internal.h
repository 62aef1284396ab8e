/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the files of the folder fill share, in the order in which they build on each other.
 */
#ifndef HOSTMEM_FILL_INTERNAL_H
#define HOSTMEM_FILL_INTERNAL_H

#include "fill.h"

/* ---- fill.c: one range of one backend ---- */

/* The fill of one range of a backend's memory. */
struct hm_fill {
	struct hostmem_backend *backend;
	struct hm_populate plan;
	/* It is scrubbed and not populated. */
	bool scrubs;
	struct hm_scrub scrub;
	/* Of the memory. Offsets of chunks count from its begin, which is at the address. */
	struct hm_range range;
	uint8_t *address;
	/* What is read into chunks that are populated; NULL: nothing. */
	const struct hm_contents *contents;
	uint64_t chunk;
	/* Bytes of small pages still to be allocated, as far as is known. */
	_Atomic int64_t absent;
	/* New memory of our own, of which nothing is present. */
	bool fresh;
	/* Pages that were present already are left out of `absent`. */
	bool counted;
	/* The nodes that its policy binds it to; NULL: any. */
	const struct hm_set *nodes;
	/* It has no policy of its own. */
	bool follows_process;
	/*
	 * Bytes of small pages that it holds at once at most and that only the OOM killer gets
	 * back: UINT64_MAX where it keeps them all, 0 without prealloc-watch.
	 */
	uint64_t most_memory;
	/* Each page is a copy of one that the file in shared memory has besides. */
	bool copied;
	/* They cannot go to swap. */
	bool locked;
	/* Blocks of a file system that has a limit, and prealloc-watch is on. */
	bool takes_room;
	dev_t device;
	ino_t inode;
	/* Of file_room.c: the next fill on the device; of the first one, that of the next device.
	 */
	struct hm_fill *next_on_device, *next_device;
	/* A reference to prealloc-context; NULL: none. */
	struct hostmem_thread_context *context;
	hostmem_progress_callback callback;
	void *callback_data;
	/* Where the next chunk begins. */
	_Atomic uint64_t next;
	/* Some chunks can only be populated the plain way. */
	_Atomic bool again;
	/* Of pools.c: the index of its pool, and the next fill there. */
	size_t pool;
	struct hm_fill *next_in_pool;
};

/* What the request points to lives as long as the fill. */
void hm_fill_init(struct hm_fill *fill, const struct hm_prealloc_request *request);
void hm_fill_destroy(struct hm_fill *fill);
/* The bytes of huge pages that would take as long. */
uint64_t hm_fill_count_work(const struct hm_fill *fill);
uint64_t hm_fill_count_chunks(const struct hm_fill *fill);
/* An upper bound of the small-page memory that it still allocates, in bytes. */
uint64_t hm_fill_count_needed(const struct hm_fill *fill);
/*
 * Counts what is absent, while no chunk is being populated; stops once more than `most` bytes are.
 * False when it was cancelled meanwhile.
 */
bool hm_fill_count_absent(struct hm_fill *fill, uint64_t most);
bool hm_fill_is_all_taken(const struct hm_fill *fill);
/* Whether it was cancelled before all chunks were taken. */
bool hm_fill_is_cancelled(const struct hm_fill *fill);
/* Takes the next chunk; false when there is none. */
bool hm_fill_take(struct hm_fill *fill, struct hm_range *chunk);
/*
 * Populates a chunk that was taken, and reads its contents. Returns 0 or -errno; *unread: the range
 * of the image where reading failed, else of length 0.
 */
int hm_fill_populate(struct hm_fill *fill, const struct hm_range *chunk, struct hm_range *unread);
/* After all chunks: starts over the plain way if some could not be populated. */
bool hm_fill_begin_again(struct hm_fill *fill);

/* ---- staging.c: how contents that are read on demand get into place ---- */

enum hm_staging_way {
	/* Out of scratch memory, UFFDIO_COPY. */
	HM_STAGING_COPY,
	/* Whole huge pages of scratch memory, UFFDIO_MOVE. */
	HM_STAGING_MOVE,
	/* Shared memory in huge pages: written through a second mapping, UFFDIO_CONTINUE. */
	HM_STAGING_CONTINUE,
};

/* The same for all threads. */
struct hm_staging {
	struct hostmem_backend *backend;
	int fault_fd;
	enum hm_staging_way way;
	/* What HM_STAGING_MOVE would move is copied, since that follows the memory's policy. */
	_Atomic bool copies;
	/* No huge pages until all was read; then as `thp` says. */
	bool keeps_small;
	enum hm_thp thp;
	/* What is read and put in place at once, in bytes. */
	uint64_t unit;
	/* Where the memory is mapped once more, and how it is populated there. */
	struct hm_mapping second;
	struct hm_populate populate;
};

/* Memory of one thread's, zero at first; unused by HM_STAGING_CONTINUE. */
struct hm_scratch {
	void *base;
	uint64_t base_size;
	uint8_t *memory;
	/* It is not zero. */
	bool dirty;
	/* Pages of it are moved, this time. */
	bool moves;
	/* What new pages of it are under. */
	bool locked;
	uint64_t policy, home_node;
	struct hm_set nodes;
};

/* Registers the memory with the userfaultfd, which can move pages or not. Returns 0 or -errno;
 * hm_staging_end() may follow. */
int hm_staging_begin(struct hm_staging *staging, struct hostmem_backend *backend,
		     const struct hm_values *values, int fault_fd, bool moves);
/* Changes the advice for huge pages, now or when all was read. */
int hm_staging_advise_thp(struct hm_staging *staging, enum hm_thp thp, struct hostmem_error *err);
/* When all was read. Returns 0, or -1 with the reason: then there stay none. */
int hm_staging_allow_huge(struct hm_staging *staging, struct hostmem_error *err);
/* Once nothing is put in place any more. May be called again. */
void hm_staging_end(struct hm_staging *staging);
/*
 * Reads the contents of a range inside one unit and puts them in place; what is there already
 * stays. Returns 0, or -errno with what could not be read, if anything.
 */
int hm_staging_read(const struct hm_staging *staging, struct hm_scratch *scratch,
		    const struct hm_contents *contents, const struct hm_range *part,
		    struct hm_range *unread);
/*
 * Makes absent pages of a range inside one unit zero, and wakes the threads that wait for the
 * range. Returns 0 or -errno.
 */
int hm_staging_put_zero(const struct hm_staging *staging, struct hm_scratch *scratch,
			const struct hm_range *range);
/* Has what is put in place from now on be where the policy of `values` says. Returns 0 or -errno.
 */
int hm_staging_follow(struct hm_staging *staging, const struct hm_values *values);
/* Makes a unit that was touched before it was read huge where that has kept it from being so. */
void hm_staging_keep_huge(const struct hm_staging *staging, uint64_t offset);
void hm_scratch_free(const struct hm_scratch *scratch);

/* ---- workers.c: threads that work together ---- */

/* Where workers run, and where the memory that they touch comes from. */
struct hm_place {
	/* What creates them; NULL: the caller. */
	struct hostmem_thread_context *context;
	/* Their affinity; none is set when cpus_len is 0. */
	struct hm_set cpus;
	size_t cpus_len;
	/* Their memory policy; HM_POLICY_DEFAULT: none is set. */
	enum hm_policy policy;
	struct hm_set nodes;
	/* They have SCHED_IDLE, also where a thread-context creates them. */
	bool idle;
};

/* Workers of one place. */
struct hm_crew {
	const struct hostmem_host *host;
	struct hm_place place;
	/* Each names itself after the id and calls work(data) until that is false. */
	const char *id;
	bool (*work)(void *data);
	void *data;
	/* The caller of hm_workers_add() works too. */
	bool beside_caller;
	/* errno of a worker that could not be created, 0 when all were. */
	int create_error;
	/* errno of a worker whose affinity or policy could not be set, else 0. */
	_Atomic int affinity_error, policy_error;
};

struct hm_workers {
	/* Held while threads are created: the start barrier. */
	pthread_mutex_t barrier;
	pthread_mutex_t lock;
	pthread_cond_t finished;
	uint32_t running;
	struct hm_worker_group *groups;
};

void hm_workers_init(struct hm_workers *workers);
/*
 * Creates up to `count` threads that wait for hm_workers_start(). Returns how many could be
 * created. The crew lives as long as the workers.
 */
uint32_t hm_workers_add(struct hm_workers *workers, struct hm_crew *crew, uint32_t count);
void hm_workers_start(struct hm_workers *workers);
/* Returns true when all have finished, false after the time. */
bool hm_workers_wait(struct hm_workers *workers, uint64_t nanoseconds);
void hm_workers_destroy(struct hm_workers *workers);

/* ---- pools.c: which threads populate what ---- */

/* Fills that are populated by the same workers, since they belong in the same place. */
struct hm_pool {
	struct hm_crew crew;
	/* A list of its fills; those before the current one are all taken. */
	struct hm_fill *first;
	_Atomic(struct hm_fill *) current;
	/* How many threads the work is worth, and how many workers there are. */
	uint64_t threads;
	uint32_t workers;
};

/* Fills in at most `len` pools, which are zero, and returns how many there are. */
size_t hm_pools_assign(struct hm_pool *pools, struct hm_fill *fills,
		       const struct hm_prealloc_request *requests, size_t len);
/* Whether the caller works too: never where affinity or policy would have to be set on it. */
bool hm_pools_takes_caller(const struct hm_pool *pool);
void hm_pools_add_workers(struct hm_pool *pool, struct hm_workers *workers,
			  bool (*work)(void *data), void *data);
/* Reads contents that come before all chunks; false when there are none left. */
bool hm_pools_read_first(const struct hm_pool *pool);
/* Takes a chunk of the first fill that has one left; NULL when none has. */
struct hm_fill *hm_pools_take(struct hm_pool *pool, struct hm_range *chunk);

/* ---- file_room.c: room on a file system that runs out ---- */

/* More is needed than is available, in bytes. */
struct hm_shortage {
	uint64_t available, needed;
	/* Of room on a file system of this size; 0: of memory. */
	uint64_t total_room;
	/* Of locked memory, for which swap does not count. */
	bool locked;
	/* On these nodes; else on the whole host. */
	bool on_nodes;
	struct hm_set nodes;
	/* The limit of a control group is the least. */
	bool in_group;
	/* The first fill that still needs some of it. */
	const struct hm_fill *fill;
};

/* Links the fills on each file system, and returns the first on the first one. */
struct hm_fill *hm_file_room_group(struct hm_fill *fills, size_t fills_len);
/* Lowers *spare to what is left beyond the need. */
bool hm_file_room_is_short(const struct hm_fill *heads, struct hm_shortage *shortage,
			   uint64_t *spare);

/* ---- pressure.c: memory that runs out ---- */

struct hm_pressure {
	struct hm_fill *fills;
	size_t fills_len;
	struct hm_cgroup cgroup;
	/*
	 * The nodes where the cpuset lets memory be, and where the policy of this process does too;
	 * empty: any.
	 */
	struct hm_set allowed, process;
	/* When to check next; UINT64_MAX while a thread checks. */
	_Atomic uint64_t next;
	/* Held for reading while a chunk is populated. */
	struct hm_rwlock populating;
	/* The first fill on each file system. */
	struct hm_fill *on_files;
};

void hm_pressure_init(struct hm_pressure *pressure, struct hm_fill *fills, size_t fills_len);
void hm_pressure_destroy(struct hm_pressure *pressure);
/* Around taking and populating a chunk: a shortage is confirmed while no thread does. */
void hm_pressure_begin_chunk(struct hm_pressure *pressure);
void hm_pressure_end_chunk(struct hm_pressure *pressure);
/*
 * Checks if it is time to, never between the two above. Only the thread that finds the shortage
 * gets true.
 */
bool hm_pressure_find_shortage(struct hm_pressure *pressure, struct hm_shortage *shortage);

/* ---- failure.c: the first failure ---- */

struct hm_failure {
	/* Stops all workers within one chunk. */
	_Atomic bool happened;
	pthread_mutex_t lock;
	const struct hm_fill *fill;
	int error;
	uint64_t offset;
	/* Of the image of contents, where reading failed; else of length 0. */
	struct hm_range unread;
	/* needed is 0 when it is not a shortage. */
	struct hm_shortage shortage;
};

/* Only the first one counts. error is a positive errno, unread and shortage may be NULL. */
void hm_failure_set(struct hm_failure *failure, const struct hm_fill *fill, int error,
		    uint64_t offset, const struct hm_range *unread,
		    const struct hm_shortage *shortage);
/* Formats the message. Returns -1. */
int hm_failure_report(const struct hm_failure *failure, const struct hm_values *values,
		      struct hostmem_error *err);

#endif

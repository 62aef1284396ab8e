/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the files of the folder fill share with each other.
 */
#ifndef HOSTMEM_FILL_INTERNAL_H
#define HOSTMEM_FILL_INTERNAL_H

#include "fill.h"

/* ---- workers.c ---- */

/* Where threads run, and where what they touch comes from. */
struct hm_place {
	/* What creates them; NULL: whoever adds them. */
	struct hostmem_thread_context *context;
	/* What they are pinned to; anywhere when cpus_len is 0. */
	struct hm_set cpus;
	size_t cpus_len;
	/* Their memory policy; HM_POLICY_DEFAULT: none is set. */
	enum hm_policy policy;
	struct hm_set nodes;
	/* errno of a thread that could not go there, or not have the policy, else 0. */
	_Atomic int error, policy_error;
};

struct hm_workers {
	/* Held while threads are created: the start barrier. */
	pthread_mutex_t gate;
	pthread_mutex_t lock;
	pthread_cond_t finished;
	uint32_t running;
	struct hm_worker_group *groups;
};

void hm_workers_init(struct hm_workers *workers);
/*
 * Creates up to `count` threads, named after an id, that wait for hm_workers_begin() and then call
 * work(data) until it is false, as the caller does too where they are beside it. Returns how many
 * there are. Place and id live as long as the workers.
 */
uint32_t hm_workers_add(struct hm_workers *workers, struct hm_place *place, const char *id,
			uint32_t count, bool beside_caller, bool (*work)(void *data), void *data);
void hm_workers_begin(struct hm_workers *workers);
/* Whether all have finished, when they have or the time is over. */
bool hm_workers_wait(struct hm_workers *workers, uint64_t nanoseconds);
void hm_workers_end(struct hm_workers *workers);

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
	const struct hm_set *nodes;
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

/* ---- pressure.c ---- */

struct hm_pressure {
	struct hm_fill *fills;
	size_t fills_len;
	struct hm_cgroup cgroup;
	/* Where the cpuset, and with it the policy of this process, lets memory be; empty:
	 * anywhere. */
	struct hm_set allowed, process;
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
	struct hm_set nodes;
	/* A control group's limit leaves less than there is. */
	bool in_group;
	/* The first that still needs some of it. */
	const struct hm_fill *fill;
};

void hm_pressure_init(struct hm_pressure *pressure, struct hm_fill *fills, size_t fills_len);
void hm_pressure_destroy(struct hm_pressure *pressure);
/* Around taking a chunk and filling it: a shortage is judged while nobody does. */
void hm_pressure_begin_chunk(struct hm_pressure *pressure);
void hm_pressure_end_chunk(struct hm_pressure *pressure);
/*
 * Looks when it is time to, never between the two above; only the thread that finds a shortage is
 * told.
 */
bool hm_pressure_find_shortage(struct hm_pressure *pressure, struct hm_shortage *shortage);

#endif

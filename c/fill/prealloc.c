/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Preallocation of one or several backends at once: which threads fill which of them, progress, and
 * the end of all at the first failure. How a backend is filled is fill.c's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* In bytes of huge pages: with less to do one more thread costs more than it saves. */
#define WORK_PER_THREAD UINT64_C(8388608)

#define CALLBACK_INTERVAL_NS UINT64_C(100000000)

/* What is filled by the same threads, since it has to be filled in the same place. */
struct pool {
	struct run *run;
	struct hm_place place;
	/* Its fills, in a list; those before the current one are all taken. */
	struct hm_fill *first;
	_Atomic(struct hm_fill *) current;
	/* How many threads it is worth and may have. */
	uint64_t threads;
	uint32_t workers;
};

struct run {
	const struct hm_prealloc_request *requests;
	struct hm_fill *fills;
	struct pool *pools;
	size_t len, pools_len;
	struct hm_pressure pressure;
	struct hm_workers workers;
	uint64_t start, next_callback;

	_Atomic bool stop;
	pthread_mutex_t lock;
	/* The first failure. */
	const struct hm_fill *failed;
	int error;
	uint64_t error_offset;
	struct hm_shortage shortage;
};

/* ---- Working ---- */

/* The first failure stops everybody within one chunk. */
static void stop_with(struct run *run, const struct hm_fill *fill, int error, uint64_t offset,
		      const struct hm_shortage *shortage)
{
	pthread_mutex_lock(&run->lock);
	if (!run->failed) {
		run->failed = fill;
		run->error = error;
		run->error_offset = offset;
		if (shortage)
			run->shortage = *shortage;
	}
	pthread_mutex_unlock(&run->lock);
	atomic_store(&run->stop, true);
}

static bool look_at_memory(struct run *run)
{
	const struct hm_fill *fill;
	struct hm_shortage shortage;

	if (!hm_pressure_find_shortage(&run->pressure, &shortage))
		return true;
	fill = shortage.fill;
	stop_with(run, fill, ENOMEM,
		  hm_fill_is_all_taken(fill) ? fill->range.length : atomic_load(&fill->next),
		  &shortage);
	return false;
}

/* Any of them, since those that are filled together fail together. */
static const struct hm_fill *find_cancelled(const struct run *run)
{
	for (size_t i = 0; i < run->len; i++) {
		if (hm_fill_is_cancelled(&run->fills[i]))
			return &run->fills[i];
	}
	return NULL;
}

/* Takes a chunk of the first fill that has one left; NULL when none has or the end has come. */
static struct hm_fill *take_chunk(struct pool *pool, struct hm_range *chunk)
{
	struct run *run = pool->run;
	struct hm_fill *fill = atomic_load(&pool->current);

	while (fill && !atomic_load(&run->stop)) {
		const struct hm_fill *cancelled = find_cancelled(run);
		struct hm_fill *before = fill;

		if (cancelled) {
			stop_with(run, cancelled, ECANCELED, atomic_load(&cancelled->next), NULL);
			return NULL;
		}
		if (hm_fill_take(fill, chunk))
			return fill;
		fill = fill->next_in_pool;
		if (!atomic_compare_exchange_strong(&pool->current, &before, fill))
			fill = before;
	}
	return NULL;
}

/* Takes one chunk and fills it; false when there is nothing left to do. */
static bool fill_chunk(struct pool *pool)
{
	struct hm_range chunk;
	struct hm_fill *fill = take_chunk(pool, &chunk);
	int result;

	if (!fill)
		return false;
	result = hm_fill_do(fill, &chunk);
	if (result)
		stop_with(pool->run, fill, -result, chunk.offset, NULL);
	return !result;
}

static bool work_on_chunk(void *data)
{
	struct pool *pool = data;
	bool more;

	if (!look_at_memory(pool->run))
		return false;
	hm_pressure_begin_chunk(&pool->run->pressure);
	more = fill_chunk(pool);
	hm_pressure_end_chunk(&pool->run->pressure);
	return more;
}

/* ---- Progress ---- */

/* The last owner may have gone away in the callback, and what the callback needs with it. */
static bool may_call_back(const struct hm_fill *fill)
{
	return fill->callback && !hm_backend_is_orphaned(fill->backend);
}

static void report_progress(struct run *run)
{
	uint64_t now = hm_os_nanoseconds();

	if (now < run->next_callback)
		return;
	run->next_callback = now + CALLBACK_INTERVAL_NS;
	for (size_t i = 0; i < run->len; i++) {
		const struct hm_fill *fill = &run->fills[i];

		if (may_call_back(fill))
			fill->callback(fill->callback_data, atomic_load(&fill->backend->bytes_done),
				       fill->range.length);
	}
}

static void report_end(const struct run *run)
{
	for (size_t i = 0; i < run->len; i++) {
		const struct hm_fill *fill = &run->fills[i];

		if (may_call_back(fill))
			fill->callback(fill->callback_data, fill->range.length, fill->range.length);
	}
}

/* ---- Threads ---- */

/* The caller works where nothing has to be set on the thread: nothing ever is on one not ours. */
static bool takes_caller(const struct pool *pool)
{
	return !pool->place.cpus_len && !pool->place.context &&
	       pool->place.policy == HM_POLICY_DEFAULT;
}

static void add_workers(struct run *run, struct pool *pool)
{
	bool beside_caller = takes_caller(pool);

	pool->workers = hm_workers_add(&run->workers, &pool->place, pool->first->backend->id,
				       (uint32_t)pool->threads - beside_caller, beside_caller,
				       work_on_chunk, pool);
	/* Nobody else is there to do it. */
	if (!pool->workers && !beside_caller) {
		if (pool->place.cpus_len || pool->place.context)
			atomic_store(&pool->place.error, EAGAIN);
		if (pool->place.policy != HM_POLICY_DEFAULT)
			atomic_store(&pool->place.policy_error, EAGAIN);
		pool->place.cpus_len = 0;
		pool->place.context = NULL;
		pool->place.policy = HM_POLICY_DEFAULT;
	}
}

/* Fills what is left of all fills; the caller takes part and reports. */
static void work(struct run *run)
{
	hm_workers_init(&run->workers);
	for (size_t i = 0; i < run->pools_len; i++)
		add_workers(run, &run->pools[i]);
	hm_workers_begin(&run->workers);
	for (size_t i = 0; i < run->pools_len; i++) {
		struct pool *pool = &run->pools[i];

		while (takes_caller(pool) && work_on_chunk(pool))
			report_progress(run);
	}
	while (!hm_workers_wait(&run->workers, CALLBACK_INTERVAL_NS))
		report_progress(run);
	hm_workers_end(&run->workers);
}

/* Whether some fills are not done yet, and have to be filled again the plain way. */
static bool begin_again(struct run *run)
{
	bool again = false;

	for (size_t i = 0; i < run->len; i++)
		again |= hm_fill_begin_again(&run->fills[i]);
	for (size_t i = 0; i < run->pools_len; i++)
		atomic_store(&run->pools[i].current, run->pools[i].first);
	return again;
}

/* ---- Which threads fill what ---- */

/*
 * A thread-context knows better where threads belong than the nodes of the memory do. Where memory
 * follows the threads, they have its policy.
 */
static void choose_place(const struct hm_fill *fill, const struct hm_values *values,
			 struct hm_place *place)
{
	const struct hostmem_backend *backend = fill->backend;
	const struct hm_set *nodes = &values->host_nodes;

	memset(place, 0, sizeof(*place));
	place->context = fill->context;
	if (!place->context && !hm_set_is_empty(nodes))
		place->cpus_len = hm_topology_get_cpus(nodes, &place->cpus);
	if (values->policy != HM_POLICY_DEFAULT && hm_policy_follows_threads(backend)) {
		place->policy = hm_policy_in_kernel(backend, values->policy);
		place->nodes = *nodes;
	}
}

static struct pool *find_pool(struct run *run, const struct hm_place *place)
{
	for (size_t i = 0; i < run->pools_len; i++) {
		if (!memcmp(&run->pools[i].place, place, sizeof(*place)))
			return &run->pools[i];
	}
	run->pools[run->pools_len] = (struct pool){ .run = run, .place = *place };
	return &run->pools[run->pools_len++];
}

static uint64_t count_allowed(const struct pool *pool, const struct hm_values *values)
{
	if (values->prealloc_threads)
		return values->prealloc_threads;
	if (pool->place.context)
		return hm_thread_context_count_cpus(pool->place.context);
	return pool->place.cpus_len ? pool->place.cpus_len : hm_topology_count_cpus();
}

/* As many threads as one of the fills may have and all of them together are worth. */
static void set_thread_count(struct pool *pool)
{
	const struct run *run = pool->run;
	uint64_t work = 0, chunks = 0, allowed = 0;

	for (const struct hm_fill *fill = pool->first; fill; fill = fill->next_in_pool) {
		uint64_t count = count_allowed(pool, run->requests[fill - run->fills].values);

		allowed = count > allowed ? count : allowed;
		work += hm_fill_count_work(fill);
		chunks += hm_fill_count_chunks(fill);
	}
	pool->threads = work / WORK_PER_THREAD;
	if (pool->threads > chunks)
		pool->threads = chunks;
	if (pool->threads > allowed)
		pool->threads = allowed;
	if (!pool->threads)
		pool->threads = 1;
}

static void assign(struct run *run)
{
	for (size_t i = run->len; i-- > 0;) {
		struct hm_place place;
		struct pool *pool;

		choose_place(&run->fills[i], run->requests[i].values, &place);
		pool = find_pool(run, &place);
		run->fills[i].pool = (size_t)(pool - run->pools);
		run->fills[i].next_in_pool = pool->first;
		pool->first = &run->fills[i];
	}
	for (size_t i = 0; i < run->pools_len; i++) {
		atomic_store(&run->pools[i].current, run->pools[i].first);
		set_thread_count(&run->pools[i]);
	}
}

/* ---- A run from begin to end ---- */

static int check_contexts(const struct run *run, struct hostmem_error *err)
{
	for (size_t i = 0; i < run->len; i++) {
		const struct hm_fill *fill = &run->fills[i];

		if (fill->context &&
		    hm_thread_context_check_ready(fill->context, fill->backend->id, err))
			return -1;
	}
	return 0;
}

static void set_reporter(const struct run *run, bool runs)
{
	for (size_t i = 0; i < run->len; i++) {
		struct hostmem_backend *backend = run->requests[i].backend;

		pthread_mutex_lock(&backend->lock);
		backend->reporter = pthread_self();
		backend->has_reporter = runs;
		pthread_mutex_unlock(&backend->lock);
	}
}

static int begin_run(struct run *run, const struct hm_prealloc_request *requests, size_t len)
{
	*run = (struct run){
		.requests = requests,
		.len = len,
		.start = hm_os_nanoseconds(),
		.fills = calloc(len, sizeof(*run->fills)),
		.pools = calloc(len, sizeof(*run->pools)),
	};
	run->next_callback = run->start + CALLBACK_INTERVAL_NS;
	if (!run->fills || !run->pools) {
		free(run->fills);
		free(run->pools);
		return -1;
	}
	pthread_mutex_init(&run->lock, NULL);
	for (size_t i = 0; i < len; i++)
		hm_fill_init(&run->fills[i], requests[i].backend, requests[i].values,
			     &requests[i].range);
	hm_pressure_init(&run->pressure, run->fills, len);
	set_reporter(run, true);
	return 0;
}

static void end_run(struct run *run)
{
	set_reporter(run, false);
	hm_pressure_destroy(&run->pressure);
	for (size_t i = 0; i < run->len; i++)
		hm_fill_destroy(&run->fills[i]);
	pthread_mutex_destroy(&run->lock);
	free(run->pools);
	free(run->fills);
}

/* " on node 2-3" where only these count, or that a limit counts; whether swap does. */
static void name_place(const struct hm_shortage *shortage, char *text, size_t size)
{
	const struct hm_set *nodes = &shortage->nodes;
	const char *swap = shortage->locked ? " without swap, which lock leaves out" : "";
	char set[128];

	if (!shortage->on_nodes) {
		snprintf(text, size, "%s%s",
			 shortage->in_group ? " under the memory limit of the control group" : "",
			 swap);
		return;
	}
	hm_set_format(nodes, set, sizeof(set));
	snprintf(text, size, " on node %s%s", set, swap);
}

static int fail_short(const struct run *run, struct hostmem_error *err)
{
	const struct hm_fill *fill = run->failed;
	const struct hm_shortage *shortage = &run->shortage;
	char where[224];

	name_place(shortage, where, sizeof(where));
	return hm_fail(err, HOSTMEM_ERROR_NO_MEMORY, run->error,
		       "%s: prealloc: stopped before memory runs out, after %ju of %ju bytes, at "
		       "offset %ju: %ju bytes are available%s and %ju are needed with a margin; "
		       "use a smaller size or free memory",
		       fill->backend->id, (uintmax_t)atomic_load(&fill->backend->bytes_done),
		       (uintmax_t)fill->range.length,
		       (uintmax_t)(fill->range.offset + run->error_offset),
		       (uintmax_t)shortage->available, where, (uintmax_t)shortage->needed);
}

static int fail_run(const struct run *run, struct hostmem_error *err)
{
	const struct hostmem_backend *backend = run->failed->backend;
	uintmax_t done = atomic_load(&backend->bytes_done);
	uintmax_t size = run->failed->range.length;
	const char *why = "";

	if (run->error == ECANCELED)
		return hm_fail(err, HOSTMEM_ERROR_STATE, ECANCELED,
			       "%s: prealloc: cancelled after %ju of %ju bytes", backend->id, done,
			       size);
	if (run->shortage.needed)
		return fail_short(run, err);
	if (run->error == EFAULT)
		why = "; the backing has no memory left for it, touching it would be SIGBUS";
	else if (run->error == EHWPOISON)
		why = "; a page there is broken hardware";
	return hm_fail(
		err, run->error == EFAULT ? HOSTMEM_ERROR_NO_MEMORY : hm_error_kind_of(run->error),
		run->error, "%s: prealloc: failed after %ju of %ju bytes, at offset %ju: %s%s",
		backend->id, done, size, (uintmax_t)(run->failed->range.offset + run->error_offset),
		strerror(run->error), why);
}

/* What is said of each backend: the time is that of all together. */
static void tell_results(const struct run *run)
{
	for (size_t i = 0; i < run->len; i++) {
		const struct hm_fill *fill = &run->fills[i];
		const struct pool *pool = &run->pools[fill->pool];

		*run->requests[i].result = (struct hostmem_prealloc_result){
			.threads = pool->workers + takes_caller(pool),
			.affinity_error = atomic_load(&pool->place.error),
			.policy_error = atomic_load(&pool->place.policy_error),
			.bytes = fill->range.length -
				 hm_gaps_count(&fill->backend->gaps, &fill->range),
			.nanoseconds = hm_os_nanoseconds() - run->start,
		};
	}
}

int hm_prealloc_run(const struct hm_prealloc_request *requests, size_t len,
		    struct hostmem_error *err)
{
	struct run run;
	int failed = 0;

	if (begin_run(&run, requests, len))
		return hm_fail_alloc(err);
	if (check_contexts(&run, err)) {
		end_run(&run);
		return -1;
	}
	assign(&run);
	if (look_at_memory(&run)) {
		do
			work(&run);
		while (!run.failed && begin_again(&run));
	}
	if (run.failed) {
		size_t index = (size_t)(run.failed - run.fills);

		failed = fail_run(&run, err);
		hm_huge_pages_append(run.failed->backend, requests[index].values, err);
	} else {
		report_end(&run);
		tell_results(&run);
	}
	end_run(&run);
	return failed;
}

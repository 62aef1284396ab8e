/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A run of preallocation from begin to end: fills of one or several backends, the loop of their
 * workers, progress callbacks and results. The first failure ends all of them.
 */
#include <errno.h>
#include <stdlib.h>

#include "internal.h"

#define CALLBACK_INTERVAL_NS UINT64_C(100000000)

/* How soon workers that rest notice a cancel. */
#define REST_NS UINT64_C(5000000)

struct run;

/* What a worker needs. */
struct job {
	struct run *run;
	struct hm_pool *pool;
};

struct run {
	const struct hm_prealloc_request *requests;
	struct hm_fill *fills;
	struct hm_pool *pools;
	struct job *jobs;
	size_t len, pools_len;
	struct hm_pressure pressure;
	struct hm_failure failure;
	uint64_t start, next_callback;
};

/* ---- Workers ---- */

/* Fails the run when memory, or room on a file system, runs out. */
static bool check_shortage(struct run *run)
{
	const struct hm_fill *fill;
	struct hm_shortage shortage;

	if (!hm_pressure_find_shortage(&run->pressure, &shortage))
		return true;
	fill = shortage.fill;
	hm_failure_set(&run->failure, fill, shortage.total_room ? ENOSPC : ENOMEM,
		       hm_fill_is_all_taken(fill) ? fill->range.length : atomic_load(&fill->next),
		       NULL, &shortage);
	return false;
}

/* A cancel of any fails the run: those that are filled together fail together. */
static bool check_cancel(struct run *run)
{
	for (size_t i = 0; i < run->len; i++) {
		const struct hm_fill *fill = &run->fills[i];

		if (!hm_fill_is_cancelled(fill))
			continue;
		hm_failure_set(&run->failure, fill, ECANCELED, atomic_load(&fill->next), NULL,
			       NULL);
		return false;
	}
	return true;
}

/* While somebody else's work goes first, between two chunks. */
static void rest(const struct run *run)
{
	for (size_t i = 0; i < run->len; i++) {
		const struct hostmem_backend *backend = run->fills[i].backend;

		/* Only a pool's fill ever rests: of others the clock is not read. */
		while (atomic_load(&backend->rest_until) > 0 &&
		       hm_os_nanoseconds() < atomic_load(&backend->rest_until) &&
		       !atomic_load(&backend->cancel))
			hm_thread_sleep(REST_NS);
	}
}

/* Takes one chunk and populates it; false when none is left or the run has failed. */
static bool work(void *data)
{
	const struct job *job = data;
	struct run *run = job->run;
	struct hm_range chunk, unread;
	struct hm_fill *fill;
	int result = 0;
	bool first;

	rest(run);
	if (atomic_load(&run->failure.happened) || !check_shortage(run) || !check_cancel(run))
		return false;
	hm_pressure_begin_chunk(&run->pressure);
	first = hm_pools_read_first(job->pool);
	fill = first ? NULL : hm_pools_take(job->pool, &chunk);
	if (fill)
		result = hm_fill_populate(fill, &chunk, &unread);
	hm_pressure_end_chunk(&run->pressure);
	if (result)
		hm_failure_set(&run->failure, fill, -result, chunk.offset, &unread, NULL);
	return first || (fill && !result);
}

/* ---- Progress and results ---- */

static void call_back(const struct hm_fill *fill, uint64_t done)
{
	/* The callback may have dropped the last owner, and its own data with it. */
	if (fill->callback && !hm_backend_is_orphaned(fill->backend))
		fill->callback(fill->callback_data, done, fill->range.length);
}

static void report_progress(struct run *run)
{
	uint64_t now = hm_os_nanoseconds();

	if (now < run->next_callback)
		return;
	run->next_callback = now + CALLBACK_INTERVAL_NS;
	for (size_t i = 0; i < run->len; i++)
		call_back(&run->fills[i], atomic_load(&run->fills[i].backend->bytes_done));
}

/* The time is that of all together. */
static void write_results(const struct run *run)
{
	for (size_t i = 0; i < run->len; i++) {
		const struct hm_fill *fill = &run->fills[i];
		const struct hm_pool *pool = &run->pools[fill->pool];

		*run->requests[i].result = (struct hostmem_prealloc_result){
			.threads = pool->workers + hm_pools_takes_caller(pool),
			.affinity_error = atomic_load(&pool->crew.affinity_error),
			.policy_error = atomic_load(&pool->crew.policy_error),
			.bytes = fill->range.length -
				 hm_gaps_count(&fill->backend->gaps, &fill->range),
			.nanoseconds = hm_os_nanoseconds() - run->start,
		};
	}
}

/* ---- The run ---- */

/* Populates what is left of all fills. The caller takes part where it may, and reports. */
static void fill_all(struct run *run)
{
	struct hm_workers workers;

	hm_workers_init(&workers);
	for (size_t i = 0; i < run->pools_len; i++)
		hm_pools_add_workers(&run->pools[i], &workers, work, &run->jobs[i]);
	hm_workers_start(&workers);
	for (size_t i = 0; i < run->pools_len; i++) {
		while (hm_pools_takes_caller(&run->pools[i]) && work(&run->jobs[i]))
			report_progress(run);
	}
	while (!hm_workers_wait(&workers, CALLBACK_INTERVAL_NS))
		report_progress(run);
	hm_workers_destroy(&workers);
}

/* Whether some fills have to start over. */
static bool begin_again(struct run *run)
{
	bool again = false;

	for (size_t i = 0; i < run->len; i++)
		again |= hm_fill_begin_again(&run->fills[i]);
	return again;
}

/* The thread that calls the callbacks: from inside one, other calls on the backend are BUSY. */
static void set_reporter(const struct run *run, bool running)
{
	for (size_t i = 0; i < run->len; i++) {
		struct hostmem_backend *backend = run->requests[i].backend;

		pthread_mutex_lock(&backend->lock);
		backend->reporter = pthread_self();
		backend->has_reporter = running;
		pthread_mutex_unlock(&backend->lock);
	}
}

static void free_arrays(const struct run *run)
{
	free(run->jobs);
	free(run->pools);
	free(run->fills);
}

static int begin_run(struct run *run, const struct hm_prealloc_request *requests, size_t len)
{
	*run = (struct run){
		.requests = requests,
		.len = len,
		.start = hm_os_nanoseconds(),
		.fills = calloc(len, sizeof(*run->fills)),
		.pools = calloc(len, sizeof(*run->pools)),
		.jobs = calloc(len, sizeof(*run->jobs)),
	};
	run->next_callback = run->start + CALLBACK_INTERVAL_NS;
	if (!run->fills || !run->pools || !run->jobs) {
		free_arrays(run);
		return -1;
	}
	pthread_mutex_init(&run->failure.lock, NULL);
	for (size_t i = 0; i < len; i++)
		hm_fill_init(&run->fills[i], &requests[i]);
	run->pools_len = hm_pools_assign(run->pools, run->fills, requests, len);
	for (size_t i = 0; i < run->pools_len; i++)
		run->jobs[i] = (struct job){ .run = run, .pool = &run->pools[i] };
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
	pthread_mutex_destroy(&run->failure.lock);
	free_arrays(run);
}

static int check_contexts(const struct run *run, struct hostmem_error *err)
{
	for (size_t i = 0; i < run->len; i++) {
		const struct hm_fill *fill = &run->fills[i];

		if (fill->context &&
		    hm_thread_context_check_ready(fill->context, fill->backend->label, err))
			return -1;
	}
	return 0;
}

int hm_prealloc_run(const struct hm_prealloc_request *requests, size_t len,
		    struct hostmem_error *err)
{
	const struct hm_fill *failed;
	struct run run;
	int result;

	if (begin_run(&run, requests, len))
		return hm_fail_alloc(err);
	result = check_contexts(&run, err);
	if (!result && check_shortage(&run)) {
		do
			fill_all(&run);
		while (!run.failure.fill && begin_again(&run));
	}
	failed = run.failure.fill;
	if (failed) {
		result = hm_failure_report(&run.failure, requests[failed - run.fills].values, err);
	} else if (!result) {
		for (size_t i = 0; i < len; i++)
			call_back(&run.fills[i], run.fills[i].range.length);
		write_results(&run);
	}
	end_run(&run);
	return result;
}

bool hm_prealloc_fits(const struct hm_prealloc_request *request)
{
	struct hostmem_backend *backend = request->backend;
	struct hm_pressure pressure;
	struct hm_shortage shortage;
	struct hm_fill fill;
	bool fits;

	hm_fill_init(&fill, request);
	hm_pressure_init(&pressure, &fill, 1);
	fits = !hm_pressure_find_shortage(&pressure, &shortage);
	hm_pressure_destroy(&pressure);
	hm_fill_destroy(&fill);
	atomic_store(&backend->bytes_total, 0);
	return fits;
}

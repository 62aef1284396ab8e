/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Preallocation: a queue of chunks, the workers that take them, progress, early stop, and the
 * watch on memory that runs out. How a chunk is populated is populate.c's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "internal.h"

#define MIB UINT64_C(1048576)

/* Small enough that a slow CPU holds nobody back, large enough that taking it costs nothing. */
#define CHUNK_SIZE (8 * MIB)
/* Work below which one more thread costs more than it saves. */
#define WORK_PER_THREAD_HUGE  (8 * MIB)
#define WORK_PER_THREAD_SMALL (MIB / 2)

#define CALLBACK_INTERVAL_NS UINT64_C(100000000)
#define WATCH_INTERVAL_NS    UINT64_C(10000000)
/* Between looks at the memory left when it is short of this more than needed. */
#define WATCH_CLOSELY_BELOW (1024 * MIB)
#define WATCH_CLOSELY_NS    UINT64_C(1000000)
/* Left for everybody else, besides page tables for what is to come. */
#define MARGIN (64 * MIB)

struct job {
	struct hostmem_backend *backend;
	struct hm_populate plan;
	/* Where the range begins in the memory, for messages. */
	uint64_t offset;
	uint8_t *address;
	uint64_t size, chunk, absent;
	/* The nodes that the memory has to come from; NULL: any. */
	const struct hm_nodes *nodes;
	/* What the workers are pinned to; none when cpus_len is 0. */
	struct hm_cpus cpus;
	size_t cpus_len;
	/* Small pages that nobody can take away again but by killing. */
	bool takes_memory;
	struct hm_cgroup cgroup;
	hostmem_progress_callback callback;
	void *callback_data;
	uint64_t next_callback;

	_Atomic uint64_t next;
	_Atomic uint64_t next_watch;
	_Atomic bool stop;
	/* Some chunks have to be populated again, the plain way. */
	_Atomic bool again;
	_Atomic int affinity_error;

	/* Held while the workers are created: the start barrier. */
	pthread_mutex_t gate;

	pthread_mutex_t lock;
	pthread_cond_t finished;
	uint32_t running;
	/* The first failure. */
	int error;
	uint64_t error_offset, available, needed;
};

/* The first failure stops everybody within one chunk. */
static void stop_with(struct job *job, int error, uint64_t offset, uint64_t available,
		      uint64_t needed)
{
	pthread_mutex_lock(&job->lock);
	if (!job->error) {
		job->error = error;
		job->error_offset = offset;
		job->available = available;
		job->needed = needed;
	}
	pthread_mutex_unlock(&job->lock);
	atomic_store(&job->stop, true);
}

static uint64_t bytes_to_come(const struct job *job)
{
	uint64_t left = job->size - atomic_load(&job->backend->bytes_done);

	return left < job->absent ? left : job->absent;
}

/*
 * Small pages that run out end in the OOM killer, often of a bystander, never in an errno. So stop
 * while there is room. Best effort: others allocate too.
 */
static void watch_memory(struct job *job, uint64_t offset)
{
	uint64_t now = hm_os_nanoseconds();
	uint64_t due = atomic_load(&job->next_watch);
	uint64_t available, in_groups, needed;

	if (!job->takes_memory)
		return;
	if (now < due ||
	    !atomic_compare_exchange_strong(&job->next_watch, &due, now + WATCH_INTERVAL_NS))
		return;
	needed = bytes_to_come(job);
	if (!needed)
		return;
	needed += MARGIN + needed / 512;
	available = hm_topology_get_available(job->nodes);
	in_groups = hm_cgroup_get_available(&job->cgroup);
	if (in_groups < available)
		available = in_groups;
	if (available < needed)
		stop_with(job, ENOMEM, offset, available, needed);
	else if (available - needed < WATCH_CLOSELY_BELOW)
		atomic_store(&job->next_watch, now + WATCH_CLOSELY_NS);
}

/* Takes one chunk and populates it; false when there is nothing left to do. */
static bool work_on_chunk(struct job *job)
{
	uint64_t offset, size;
	int result;

	if (atomic_load(&job->backend->cancel) && atomic_load(&job->next) < job->size)
		stop_with(job, ECANCELED, atomic_load(&job->next), 0, 0);
	if (atomic_load(&job->stop))
		return false;
	offset = atomic_fetch_add(&job->next, job->chunk);
	if (offset >= job->size)
		return false;
	size = job->size - offset < job->chunk ? job->size - offset : job->chunk;
	watch_memory(job, offset);
	if (atomic_load(&job->stop))
		return false;
	result = hm_populate_range(&job->plan, job->address + offset, size);
	if (result == HM_POPULATE_AGAIN) {
		atomic_store(&job->again, true);
	} else if (result) {
		stop_with(job, -result, offset, 0, 0);
		return false;
	}
	atomic_fetch_add(&job->backend->bytes_done, size);
	return true;
}

/* Named last, so that what has the name is settled. */
static void settle_worker(struct job *job)
{
	int result = 0;

	if (job->cpus_len)
		result = hm_os_set_affinity(&job->cpus);
	if (result < 0)
		atomic_store(&job->affinity_error, -result);
	hm_thread_name(job->backend->id);
}

static void *run_worker(void *data)
{
	struct job *job = data;

	settle_worker(job);
	/* A new thread's stack needs the lock that populating holds, so all begin together. */
	pthread_mutex_lock(&job->gate);
	pthread_mutex_unlock(&job->gate);
	while (work_on_chunk(job))
		;
	pthread_mutex_lock(&job->lock);
	job->running--;
	pthread_cond_signal(&job->finished);
	pthread_mutex_unlock(&job->lock);
	return NULL;
}

/* Creates up to `count` workers that wait at the gate; returns how many there are. */
static uint32_t create_workers(struct job *job, pthread_t *workers, uint32_t count)
{
	uint32_t created = 0;

	while (created < count && !hm_thread_create(&workers[created], run_worker, job))
		created++;
	return created;
}

/* The last owner may have gone away in the callback, and what the callback needs with it. */
static bool may_call_back(const struct job *job)
{
	return job->callback && !hm_background_is_orphaned(job->backend);
}

static void report_progress(struct job *job)
{
	uint64_t now = hm_os_nanoseconds();

	if (!may_call_back(job) || now < job->next_callback)
		return;
	job->next_callback = now + CALLBACK_INTERVAL_NS;
	job->callback(job->callback_data, atomic_load(&job->backend->bytes_done), job->size);
}

static struct timespec after_callback_interval(void)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long)CALLBACK_INTERVAL_NS;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	return until;
}

static void wait_for_workers(struct job *job)
{
	pthread_mutex_lock(&job->lock);
	while (job->running) {
		struct timespec until = after_callback_interval();

		pthread_cond_timedwait(&job->finished, &job->lock, &until);
		pthread_mutex_unlock(&job->lock);
		report_progress(job);
		pthread_mutex_lock(&job->lock);
	}
	pthread_mutex_unlock(&job->lock);
}

/*
 * Runs the job on `count` threads. The caller is one of them unless the workers are pinned: nothing
 * is ever pinned that is not ours. Returns the number of threads that took part, 0 when there is no
 * memory to remember them.
 */
static uint32_t run_job(struct job *job, uint32_t count)
{
	bool caller_works = !job->cpus_len;
	uint32_t wanted = caller_works ? count - 1 : count;
	pthread_t *workers = calloc(wanted ? wanted : 1, sizeof(*workers));
	uint32_t created;

	if (!workers)
		return 0;
	pthread_mutex_lock(&job->gate);
	created = create_workers(job, workers, wanted);
	job->running = created;
	pthread_mutex_unlock(&job->gate);
	if (!created && !caller_works) {
		atomic_store(&job->affinity_error, EAGAIN);
		caller_works = true;
	}
	while (caller_works && work_on_chunk(job))
		report_progress(job);
	wait_for_workers(job);
	for (uint32_t i = 0; i < created; i++)
		pthread_join(workers[i], NULL);
	free(workers);
	return created + caller_works;
}

/*
 * Bytes of the range that are still to come; all of it when the kernel does not tell. Of a private
 * file it tells what the file has, not what was copied.
 */
static uint64_t count_absent(const struct job *job)
{
	const struct hostmem_backend *backend = job->backend;
	uint64_t resident;

	if ((backend->backing.fd >= 0 && !backend->shared) ||
	    hm_os_count_resident(job->address, job->size, &resident))
		return job->size;
	return job->size - resident;
}

/* New memory of our own has nothing yet, which need not be asked. */
static bool is_fresh(const struct hostmem_backend *backend)
{
	return hostmem_backend_get_state(backend) == HOSTMEM_STATE_COMPLETING &&
	       (backend->backing.fd < 0 || backend->backing.flags & HOSTMEM_BACKING_OWN);
}

/* Runs the job, and again the plain way where its own did not do all there is. */
static uint32_t run_job_to_end(struct job *job, uint32_t count)
{
	uint32_t threads = run_job(job, count);

	if (!threads || job->error || !atomic_load(&job->again))
		return threads;
	hm_populate_end(&job->plan);
	job->absent = count_absent(job);
	atomic_store(&job->next, 0);
	atomic_store(&job->backend->bytes_done, 0);
	return run_job(job, count);
}

static uint32_t count_threads(const struct job *job, const struct hm_values *values)
{
	uint64_t least = job->plan.huge_size ? WORK_PER_THREAD_HUGE : WORK_PER_THREAD_SMALL;
	uint64_t useful = job->size / least, chunks = (job->size - 1) / job->chunk + 1;
	uint64_t count = values->prealloc_threads;

	if (!count)
		count = job->cpus_len ? job->cpus_len : hm_topology_count_cpus();
	if (count > useful)
		count = useful;
	if (count > chunks)
		count = chunks;
	return count ? (uint32_t)count : 1;
}

/* Small pages take longer, so they are cut finer. */
static uint64_t choose_chunk(const struct hostmem_backend *backend, const struct hm_populate *plan)
{
	uint64_t chunk = plan->huge_size ? CHUNK_SIZE : CHUNK_SIZE / 4;

	return backend->page_size > chunk ? backend->page_size : chunk;
}

/*
 * hugetlb pages come from their own pool, direct access memory is the device, and what is on disk
 * can be read again: none of it brings the OOM killer.
 */
static bool takes_memory(const struct hostmem_backend *backend)
{
	struct hm_file file;

	if (backend->page_size > backend->host->page_size)
		return false;
	if (backend->backing.fd < 0 || (!backend->shared && !backend->readonly) ||
	    hm_os_stat(backend->backing.fd, &file))
		return true;
	return file.shmem || !(S_ISREG(file.mode) || S_ISBLK(file.mode) || S_ISCHR(file.mode)) ||
	       backend->backing.flags & HOSTMEM_BACKING_OWN;
}

static void init_job(struct job *job, struct hostmem_backend *backend,
		     const struct hm_values *values, const struct hm_range *range)
{
	pthread_condattr_t attributes;
	bool has_nodes =
		!hm_set_is_empty(values->host_nodes.bits, HM_ARRAY_LEN(values->host_nodes.bits));

	*job = (struct job){
		.backend = backend,
		.offset = range->offset,
		.address = backend->mapping.address + range->offset,
		.size = range->length,
		.nodes = hm_policy_is_strict(values) ? &values->host_nodes : NULL,
		.next_callback = hm_os_nanoseconds() + CALLBACK_INTERVAL_NS,
	};
	job->absent = is_fresh(backend) ? job->size : count_absent(job);
	job->takes_memory = takes_memory(backend);
	pthread_mutex_lock(&backend->lock);
	job->callback = backend->progress;
	job->callback_data = backend->progress_data;
	pthread_mutex_unlock(&backend->lock);
	hm_populate_begin(&job->plan, backend, values);
	hm_cgroup_find(&job->cgroup);
	job->chunk = choose_chunk(backend, &job->plan);
	if (has_nodes)
		job->cpus_len = hm_topology_get_cpus(&values->host_nodes, &job->cpus);
	pthread_mutex_init(&job->gate, NULL);
	pthread_mutex_init(&job->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&job->finished, &attributes);
	pthread_condattr_destroy(&attributes);
	atomic_store(&backend->bytes_done, 0);
	atomic_store(&backend->bytes_total, job->size);
}

static void destroy_job(struct job *job)
{
	hm_populate_end(&job->plan);
	pthread_cond_destroy(&job->finished);
	pthread_mutex_destroy(&job->lock);
	pthread_mutex_destroy(&job->gate);
}

static int fail_job(const struct job *job, struct hostmem_error *err)
{
	const struct hostmem_backend *backend = job->backend;
	uintmax_t done = atomic_load(&backend->bytes_done);
	const char *why = "";

	if (job->error == ECANCELED)
		return hm_fail(err, HOSTMEM_ERROR_STATE, ECANCELED,
			       "%s: prealloc: cancelled after %ju of %ju bytes", backend->id, done,
			       (uintmax_t)job->size);
	if (job->needed)
		return hm_fail(err, HOSTMEM_ERROR_NO_MEMORY, job->error,
			       "%s: prealloc: stopped before memory runs out, after %ju of %ju "
			       "bytes, at offset %ju: %ju bytes are available%s and %ju are needed "
			       "with a margin; use a smaller size or free memory",
			       backend->id, done, (uintmax_t)job->size,
			       (uintmax_t)(job->offset + job->error_offset),
			       (uintmax_t)job->available, job->nodes ? " on the host nodes" : "",
			       (uintmax_t)job->needed);
	if (job->error == EFAULT)
		why = "; the backing has no memory left for it, touching it would be SIGBUS";
	else if (job->error == EHWPOISON)
		why = "; a page there is broken hardware";
	return hm_fail(
		err, job->error == EFAULT ? HOSTMEM_ERROR_NO_MEMORY : hm_error_kind_of(job->error),
		job->error, "%s: prealloc: failed after %ju of %ju bytes, at offset %ju: %s%s",
		backend->id, done, (uintmax_t)job->size,
		(uintmax_t)(job->offset + job->error_offset), strerror(job->error), why);
}

/* Adds what the pools of huge pages have, of each node asked for or of the whole host. */
static void tell_pools(const struct hostmem_backend *backend, const struct hm_values *values,
		       struct hostmem_error *err)
{
	struct hm_huge_pool pool;
	char text[96];

	if (!hm_topology_get_pool(backend->page_size, &pool)) {
		snprintf(text, sizeof(text), "; huge pages of %ju KiB: %ju of %ju free",
			 (uintmax_t)(backend->page_size / 1024), (uintmax_t)pool.free,
			 (uintmax_t)pool.total);
		hm_fail_more(err, text);
	}
	for (uint64_t node = 0; node < HOSTMEM_NODES_MAX; node++) {
		if (!hm_set_has(values->host_nodes.bits, HM_ARRAY_LEN(values->host_nodes.bits),
				node))
			continue;
		hm_topology_get_node_pool(node, backend->page_size, &pool);
		snprintf(text, sizeof(text), ", on node %ju %ju of %ju", (uintmax_t)node,
			 (uintmax_t)pool.free, (uintmax_t)pool.total);
		hm_fail_more(err, text);
	}
}

int hm_prealloc_run(struct hostmem_backend *backend, const struct hm_values *values,
		    const struct hm_range *range, struct hostmem_prealloc_result *result,
		    struct hostmem_error *err)
{
	uint64_t start = hm_os_nanoseconds();
	uint32_t threads;
	struct job job;
	int failed = 0;

	init_job(&job, backend, values, range);
	watch_memory(&job, 0);
	threads = run_job_to_end(&job, count_threads(&job, values));
	if (!threads)
		failed = hm_fail_alloc(err);
	else if (job.error)
		failed = fail_job(&job, err);
	else if (may_call_back(&job))
		job.callback(job.callback_data, job.size, job.size);
	if (failed && backend->page_size > backend->host->page_size)
		tell_pools(backend, values, err);
	*result = (struct hostmem_prealloc_result){
		.threads = threads,
		.affinity_error = atomic_load(&job.affinity_error),
		.bytes = job.size,
		.nanoseconds = hm_os_nanoseconds() - start,
	};
	destroy_job(&job);
	return failed;
}

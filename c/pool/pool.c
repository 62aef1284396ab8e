/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A pool: its backends that are ready, the thread that makes more, and taking one. What they are
 * made from is template.c's.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pool.h"

/* Between two attempts to fill while they fail. */
#define PAUSE_MIN_NS UINT64_C(1000000000)
#define PAUSE_MAX_NS UINT64_C(60000000000)
/* After each take. */
#define REST_NS UINT64_C(100000000)
/* How soon a fill is cancelled that begins just when the pool is freed. */
#define CANCEL_INTERVAL_NS UINT64_C(10000000)

/* A backend that is ready. */
struct entry {
	struct entry *next;
	struct hostmem_backend *backend;
};

struct hostmem_pool {
	/* In no set, and never completed. */
	struct hostmem_backend *template;
	/* The process that has the thread and the memory. */
	pid_t process;
	pthread_t thread;

	/* Guards what follows; never held while a backend is made, deleted or renamed. */
	pthread_mutex_t lock;
	/* Of the pool: a backend was taken or is ready, the count was changed, it ends. */
	pthread_cond_t changed;
	struct entry *ready;
	uint32_t ready_len, count;
	/* Being taken, which may fail: they are ready again then. */
	uint32_t leaving;
	/* The largest count that the host was found to have memory for. */
	uint32_t checked;
	/* What the thread makes now; NULL: nothing. */
	struct hostmem_backend *filling;
	bool ending, ended;
	uint64_t taken, made, failures;
	/* The last attempt's, kind 0 if it succeeded; when the next one is. */
	struct hostmem_error failure;
	uint64_t pause, retry_at;
	/* When filling has to go on, and when it may rest again. */
	uint64_t rest_until, rest_again;
};

static bool is_forked(const struct hostmem_pool *pool)
{
	return hm_os_is_other_process(pool->process);
}

static const char *name_of(const struct hostmem_pool *pool)
{
	return pool->template->label;
}

/* ---- Backends that are ready; called with the lock held ---- */

static void push(struct hostmem_pool *pool, struct entry *entry)
{
	entry->next = pool->ready;
	pool->ready = entry;
	pool->ready_len++;
}

static struct entry *pop(struct hostmem_pool *pool)
{
	struct entry *first = pool->ready;

	if (first) {
		pool->ready = first->next;
		pool->ready_len--;
	}
	return first;
}

/* Takes the ones above the count out. */
static struct entry *pop_surplus(struct hostmem_pool *pool)
{
	struct entry *surplus = NULL;

	while (pool->ready_len > pool->count) {
		struct entry *entry = pop(pool);

		entry->next = surplus;
		surplus = entry;
	}
	return surplus;
}

/* Called without the lock. */
static void free_entries(struct entry *entries)
{
	while (entries) {
		struct entry *next = entries->next;

		hostmem_backend_free(entries->backend);
		free(entries);
		entries = next;
	}
}

/* ---- Refilling ---- */

/* Completes a copy of the template, by threads of SCHED_IDLE. */
static int fill(struct hostmem_backend *backend, struct hostmem_error *err)
{
	backend->idle = true;
	/* This thread waits for it. */
	backend->values.prealloc_mode = HM_PREALLOC_WAIT;
	if (hostmem_backend_complete(backend, err) || hm_template_check_own(backend, err))
		return -1;
	backend->idle = false;
	return 0;
}

/* Called with the lock held. */
static void store_failure(struct hostmem_pool *pool, const struct hostmem_error *err)
{
	pool->failure = *err;
	pool->failures++;
	pool->pause = pool->pause ? pool->pause * 2 : PAUSE_MIN_NS;
	if (pool->pause > PAUSE_MAX_NS)
		pool->pause = PAUSE_MAX_NS;
	pool->retry_at = hm_os_nanoseconds() + pool->pause;
}

/* Called with the lock held. */
static void store_success(struct hostmem_pool *pool, struct entry *entry)
{
	pool->failure = (struct hostmem_error){ 0 };
	pool->pause = 0;
	pool->retry_at = 0;
	push(pool, entry);
}

/* Makes one backend; called with the lock, which it unlocks meanwhile. */
static void refill_one(struct hostmem_pool *pool)
{
	struct hostmem_error err = { 0 };
	struct entry *entry, *surplus;
	int failed = -1;

	pthread_mutex_unlock(&pool->lock);
	entry = calloc(1, sizeof(*entry));
	if (entry)
		entry->backend = hm_template_copy(pool->template, &err);
	else
		hm_fail_alloc(&err);
	pthread_mutex_lock(&pool->lock);
	if (entry && entry->backend && !pool->ending) {
		pool->filling = entry->backend;
		atomic_store(&entry->backend->rest_until, pool->rest_until);
		pthread_mutex_unlock(&pool->lock);
		failed = fill(entry->backend, &err);
		pthread_mutex_lock(&pool->lock);
		pool->filling = NULL;
	}
	if (!failed)
		store_success(pool, entry);
	else if (!pool->ending)
		store_failure(pool, &err);
	surplus = failed ? entry : pop_surplus(pool);
	pthread_cond_broadcast(&pool->changed);
	pthread_mutex_unlock(&pool->lock);
	free_entries(surplus);
	pthread_mutex_lock(&pool->lock);
}

/* Called with the lock held. */
static void wait_until(struct hostmem_pool *pool, uint64_t nanoseconds)
{
	struct timespec until = {
		.tv_sec = (time_t)(nanoseconds / 1000000000),
		.tv_nsec = (long)(nanoseconds % 1000000000),
	};

	pthread_cond_timedwait(&pool->changed, &pool->lock, &until);
}

static void *refill(void *data)
{
	struct hostmem_pool *pool = data;

	/* Whatever else the CPUs have to do goes first. */
	hm_call_set_idle(pool->template->host);
	hm_call_name_thread(pool->template->host, name_of(pool));
	pthread_mutex_lock(&pool->lock);
	while (!pool->ending) {
		if (pool->ready_len + pool->leaving >= pool->count)
			pthread_cond_wait(&pool->changed, &pool->lock);
		else if (hm_os_nanoseconds() < pool->retry_at)
			wait_until(pool, pool->retry_at);
		else
			refill_one(pool);
	}
	pool->ended = true;
	pthread_cond_broadcast(&pool->changed);
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

/* ---- The pool from begin to end ---- */

static void init(struct hostmem_pool *pool, uint32_t count)
{
	pthread_condattr_t attributes;

	pool->count = count;
	pool->checked = count;
	pool->process = hm_os_process();
	pthread_mutex_init(&pool->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&pool->changed, &attributes);
	pthread_condattr_destroy(&attributes);
}

static int start(struct hostmem_pool *pool, struct hostmem_error *err)
{
	int result = hm_thread_create(&pool->thread, refill, pool);

	return result ? hm_fail(err, hm_error_kind_of(-result), -result,
				"%s: pool: cannot create a thread: %s", name_of(pool),
				strerror(-result))
		      : 0;
}

static void destroy(struct hostmem_pool *pool)
{
	free_entries(pool->ready);
	hostmem_backend_free(pool->template);
	/* In a forked child the thread that waited does not exist, for which destroying waits. */
	if (!is_forked(pool))
		pthread_cond_destroy(&pool->changed);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

int hostmem_pool_new(struct hostmem_pool **pool, const struct hostmem_backend *template,
		     uint32_t count, struct hostmem_error *err)
{
	struct hostmem_pool *made;

	if (hostmem_backend_get_state(template) != HOSTMEM_STATE_CONFIGURING)
		return hm_fail(err, HOSTMEM_ERROR_STATE, 0,
			       "%s: pool: the template is %s; use a backend that is configuring",
			       template->label, hm_text_state(hostmem_backend_get_state(template)));
	if (hm_template_check(template, count, err))
		return -1;
	made = calloc(1, sizeof(*made));
	if (!made)
		return hm_fail_alloc(err);
	made->template = hm_template_copy(template, err);
	if (!made->template) {
		free(made);
		return -1;
	}
	init(made, count);
	if (start(made, err)) {
		destroy(made);
		return -1;
	}
	*pool = made;
	return 0;
}

/*
 * Cancels what is being filled again and again: one that is about to begin is not stopped by it.
 * The thread ends soon where CPUs are busy too.
 */
static void stop(struct hostmem_pool *pool)
{
	const struct sched_param none = { 0 };

	if (hm_call_is_allowed(pool->template->host, HOSTMEM_CALL_SCHED_SETSCHEDULER))
		pthread_setschedparam(pool->thread, SCHED_OTHER, &none);
	pthread_mutex_lock(&pool->lock);
	pool->ending = true;
	pthread_cond_broadcast(&pool->changed);
	while (!pool->ended) {
		if (pool->filling)
			hostmem_backend_interrupt(pool->filling);
		wait_until(pool, hm_os_nanoseconds() + CANCEL_INTERVAL_NS);
	}
	pthread_mutex_unlock(&pool->lock);
	pthread_join(pool->thread, NULL);
}

void hostmem_pool_free(struct hostmem_pool *pool)
{
	if (!pool)
		return;
	if (!is_forked(pool))
		stop(pool);
	destroy(pool);
}

/* ---- Taking ---- */

static int check_process(const struct hostmem_pool *pool, const char *what,
			 struct hostmem_error *err)
{
	if (!is_forked(pool))
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_STATE, 0,
		       "%s: pool: %s: the memory belongs to the process that made the pool, not to "
		       "its forked children",
		       name_of(pool), what);
}

/*
 * A program that takes memory maps it next, for which the kernel has locks that an idle thread
 * would hold while it zeroes a page. Filling goes on for as long as it has rested before it rests
 * again. Called with the lock held.
 */
static void rest(struct hostmem_pool *pool, uint64_t nanoseconds)
{
	uint64_t now = hm_os_nanoseconds();

	if (now < pool->rest_again)
		return;
	pool->rest_until = now + nanoseconds;
	pool->rest_again = now + 2 * nanoseconds;
	if (pool->filling)
		atomic_store(&pool->filling->rest_until, pool->rest_until);
}

/* Gives the backend its id in the set. */
static int enter(struct hostmem_backend *backend, const char *id, struct hostmem_error *err)
{
	hm_text_copy(id, backend->id, sizeof(backend->id));
	hm_text_copy(id, backend->label, sizeof(backend->label));
	if (hm_objects_add(backend->objects, &backend->entry, err))
		return -1;
	/* The set is referenced once for each backend, in the set or not. */
	hm_objects_unref(backend->objects);
	return 0;
}

/* One that is not replaced before it is taken for good. Called with the lock held. */
static struct entry *begin_taking(struct hostmem_pool *pool)
{
	struct entry *entry = pop(pool);

	pool->leaving += entry != NULL;
	return entry;
}

/* The count may have been lowered meanwhile. */
static void put_back(struct hostmem_pool *pool, struct entry *entry)
{
	struct hostmem_backend *backend = entry->backend;
	struct entry *surplus;

	hm_text_copy(name_of(pool), backend->id, sizeof(backend->id));
	hm_text_copy(name_of(pool), backend->label, sizeof(backend->label));
	pthread_mutex_lock(&pool->lock);
	pool->leaving--;
	push(pool, entry);
	surplus = pop_surplus(pool);
	pthread_cond_broadcast(&pool->changed);
	pthread_mutex_unlock(&pool->lock);
	free_entries(surplus);
}

static struct hostmem_backend *take_ready(struct hostmem_pool *pool, const char *id,
					  struct entry *entry, bool lower_count,
					  struct hostmem_error *err)
{
	struct hostmem_backend *backend = entry->backend;

	if (enter(backend, id, err)) {
		put_back(pool, entry);
		return NULL;
	}
	pthread_mutex_lock(&pool->lock);
	pool->leaving--;
	pool->taken++;
	if (lower_count && pool->count)
		pool->count--;
	pthread_cond_broadcast(&pool->changed);
	pthread_mutex_unlock(&pool->lock);
	free(entry);
	backend->values.prealloc_mode = pool->template->values.prealloc_mode;
	hm_mapping_name(backend);
	return backend;
}

static struct hostmem_backend *make(struct hostmem_pool *pool, const char *id,
				    struct hostmem_error *err)
{
	struct hostmem_backend *backend = hm_template_copy(pool->template, err);

	if (!backend)
		return NULL;
	if (enter(backend, id, err) || hostmem_backend_complete(backend, err) ||
	    hm_template_check_own(backend, err)) {
		hostmem_backend_free(backend);
		return NULL;
	}
	pthread_mutex_lock(&pool->lock);
	pool->made++;
	pthread_mutex_unlock(&pool->lock);
	return backend;
}

int hostmem_pool_take(struct hostmem_pool *pool, struct hostmem_backend **backend, bool *was_ready,
		      const char *id, struct hostmem_error *err)
{
	struct hostmem_backend *taken;
	struct entry *entry;

	if (check_process(pool, "take", err) || hm_objects_check_id(id, err))
		return -1;
	pthread_mutex_lock(&pool->lock);
	entry = begin_taking(pool);
	rest(pool, REST_NS);
	pthread_mutex_unlock(&pool->lock);
	taken = entry ? take_ready(pool, id, entry, false, err) : make(pool, id, err);
	if (!taken)
		return -1;
	*backend = taken;
	*was_ready = entry != NULL;
	return 0;
}

int hostmem_pool_withdraw(struct hostmem_pool *pool, struct hostmem_backend **backend,
			  const char *id, struct hostmem_error *err)
{
	struct hostmem_backend *taken;
	struct entry *entry;

	if (check_process(pool, "withdraw", err) || hm_objects_check_id(id, err))
		return -1;
	pthread_mutex_lock(&pool->lock);
	entry = begin_taking(pool);
	pthread_mutex_unlock(&pool->lock);
	if (!entry)
		return hm_fail(err, HOSTMEM_ERROR_BUSY, 0, "%s: pool: withdraw: none is ready",
			       name_of(pool));
	taken = take_ready(pool, id, entry, true, err);
	if (!taken)
		return -1;
	*backend = taken;
	return 0;
}

void hostmem_pool_rest(struct hostmem_pool *pool, uint64_t milliseconds)
{
	const uint64_t most = 60000;

	/* A lock that another thread held at the fork is never unlocked in the child. */
	if (is_forked(pool))
		return;
	pthread_mutex_lock(&pool->lock);
	rest(pool, (milliseconds < most ? milliseconds : most) * 1000000);
	pthread_mutex_unlock(&pool->lock);
}

/* ---- Status and count ---- */

void hostmem_pool_get_status(const struct hostmem_pool *pool, struct hostmem_pool_status *status)
{
	/* The lock is no part of the pool's value. */
	struct hostmem_pool *own = (struct hostmem_pool *)(uintptr_t)pool;
	uint64_t done, total, now = hm_os_nanoseconds();

	*status = (struct hostmem_pool_status){ 0 };
	/* A lock that another thread held at the fork is never unlocked in the child. */
	if (is_forked(pool))
		return;
	pthread_mutex_lock(&own->lock);
	*status = (struct hostmem_pool_status){
		.count = pool->count,
		.ready = pool->ready_len,
		.filling = pool->filling != NULL,
		.bytes = pool->ready_len * pool->template->values.size,
		.taken = pool->taken,
		.made = pool->made,
		.failures = pool->failures,
		.failure = pool->failure,
	};
	if (pool->filling) {
		hostmem_backend_get_progress(pool->filling, &done, &total);
		status->bytes += done;
	}
	/* Never while one is filled. */
	if (pool->retry_at > now)
		status->retry_milliseconds = (pool->retry_at - now + 999999) / 1000000;
	pthread_mutex_unlock(&own->lock);
}

int hostmem_pool_set_count(struct hostmem_pool *pool, uint32_t count, struct hostmem_error *err)
{
	struct entry *surplus;
	uint32_t checked;

	if (check_process(pool, "set count", err))
		return -1;
	pthread_mutex_lock(&pool->lock);
	checked = pool->checked;
	pthread_mutex_unlock(&pool->lock);
	if ((!count || count > checked) && hm_template_check(pool->template, count, err))
		return -1;
	pthread_mutex_lock(&pool->lock);
	pool->checked = count > pool->checked ? count : pool->checked;
	pool->count = count;
	pool->retry_at = 0;
	surplus = pop_surplus(pool);
	pthread_cond_broadcast(&pool->changed);
	pthread_mutex_unlock(&pool->lock);
	free_entries(surplus);
	return 0;
}

int hostmem_pool_wait(struct hostmem_pool *pool, uint32_t ready, uint64_t milliseconds,
		      struct hostmem_error *err)
{
	uint64_t until = hm_os_nanoseconds() +
			 (milliseconds < INT32_MAX ? milliseconds : INT32_MAX) * 1000000;
	bool forever = milliseconds > INT32_MAX;
	uint32_t wanted, there;

	if (check_process(pool, "wait", err))
		return -1;
	pthread_mutex_lock(&pool->lock);
	for (;;) {
		wanted = ready < pool->count ? ready : pool->count;
		there = pool->ready_len;
		if (there >= wanted || (!forever && hm_os_nanoseconds() >= until))
			break;
		if (forever)
			pthread_cond_wait(&pool->changed, &pool->lock);
		else
			wait_until(pool, until);
	}
	pthread_mutex_unlock(&pool->lock);
	if (there >= wanted)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_BUSY, ETIMEDOUT,
		       "%s: pool: %u of %u are ready after %ju ms", name_of(pool), there, wanted,
		       (uintmax_t)milliseconds);
}

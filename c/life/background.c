/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Preallocation that goes on after completing: one thread of ours does what a waiting caller would
 * do, and then says how it went. Owns waiting, cancelling and the descriptor for event loops.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "life.h"

/* Called with the lock held. */
static bool is_running(const struct hostmem_backend *backend)
{
	return backend->running == HM_RUNNING_BACKGROUND;
}

/* Which thread fills; NULL: none. Known before completing ends, which that thread waits for. */
static void set_filler(struct hostmem_backend *backend, const pthread_t *filler)
{
	pthread_mutex_lock(&backend->lock);
	backend->has_filler = filler;
	backend->filler_ended = false;
	if (filler)
		backend->filler = *filler;
	pthread_mutex_unlock(&backend->lock);
}

/* Says how it went, err NULL: well; the memory is preallocated from here on, or it is not. */
static void finish(struct hostmem_backend *backend, const struct hostmem_prealloc_result *result,
		   const struct hostmem_error *err)
{
	pthread_mutex_lock(&backend->lock);
	backend->values.prealloc = !err;
	if (err)
		backend->fill_error = *err;
	else
		backend->result = *result;
	backend->running = HM_RUNNING_NONE;
	/* What comes next was not meant. */
	atomic_store(&backend->cancel, false);
	hm_os_event_signal(backend->fill_event);
	pthread_cond_broadcast(&backend->filled);
	pthread_mutex_unlock(&backend->lock);
}

/* err NULL: it succeeded. */
static void tell(struct hostmem_backend *backend, const struct hostmem_error *err)
{
	hostmem_prealloc_callback callback;
	void *data;

	pthread_mutex_lock(&backend->lock);
	callback = backend->orphaned ? NULL : backend->done;
	data = backend->done_data;
	pthread_mutex_unlock(&backend->lock);
	if (callback)
		callback(data, err);
}

/* From here on it neither calls back nor takes a lock. */
static void end_thread(struct hostmem_backend *backend)
{
	pthread_mutex_lock(&backend->lock);
	backend->filler_ended = true;
	pthread_cond_broadcast(&backend->filled);
	pthread_mutex_unlock(&backend->lock);
}

/* False when completing failed after all. */
static bool wait_until_ready(struct hostmem_backend *backend)
{
	bool ready;

	/* Whoever changes prealloc stores its value first. */
	pthread_mutex_lock(&backend->change);
	pthread_mutex_unlock(&backend->change);
	pthread_mutex_lock(&backend->lock);
	while (backend->state == HOSTMEM_STATE_COMPLETING && !atomic_load(&backend->cancel))
		pthread_cond_wait(&backend->filled, &backend->lock);
	ready = is_running(backend);
	pthread_mutex_unlock(&backend->lock);
	return ready;
}

static int fill(struct hostmem_backend *backend, struct hostmem_prealloc_result *result,
		struct hostmem_error *err)
{
	struct hm_values values;
	const struct hm_prealloc_request all = {
		.backend = backend,
		.values = &values,
		.range.length = backend->mapping.size,
		.result = result,
	};

	hm_backend_snapshot(backend, &values);
	return hm_prealloc_run(&all, 1, err);
}

static void *run(void *data)
{
	struct hostmem_backend *backend = data;
	struct hostmem_prealloc_result result = { 0 };
	struct hostmem_error err = { 0 };
	int failed;

	hm_thread_name(backend->id);
	if (!wait_until_ready(backend))
		return NULL;
	failed = fill(backend, &result, &err);
	finish(backend, &result, failed ? &err : NULL);
	tell(backend, failed ? &err : NULL);
	/* Whoever else frees the backend waits for this thread to end first. */
	if (hm_backend_is_orphaned(backend)) {
		pthread_detach(pthread_self());
		set_filler(backend, NULL);
		hostmem_backend_free(backend);
		return NULL;
	}
	end_thread(backend);
	return NULL;
}

/* The same one as long as there is memory, since event loops have it. */
static int prepare_event(struct hostmem_backend *backend)
{
	int result;

	if (backend->fill_event >= 0) {
		hm_os_event_clear(backend->fill_event);
		return 0;
	}
	result = hm_os_event_open();
	pthread_mutex_lock(&backend->lock);
	backend->fill_event = result < 0 ? -1 : result;
	pthread_mutex_unlock(&backend->lock);
	return result < 0 ? result : 0;
}

int hm_background_start(struct hostmem_backend *backend, struct hostmem_error *err)
{
	int result = prepare_event(backend);
	pthread_t filler;

	if (result)
		return hm_fail(err, hm_error_kind_of(-result), -result,
			       "%s: prealloc-mode=background: cannot make an eventfd: %s",
			       backend->id, strerror(-result));
	atomic_store(&backend->bytes_total, backend->mapping.size);
	result = hm_thread_create(&filler, run, backend);
	if (!result)
		set_filler(backend, &filler);
	return result ? hm_fail(err, hm_error_kind_of(-result), -result,
				"%s: prealloc-mode=background: cannot create a thread: %s; use "
				"prealloc-mode=wait",
				backend->id, strerror(-result))
		      : 0;
}

bool hm_background_is_own_thread(const struct hostmem_backend *backend)
{
	return backend->has_filler && pthread_equal(backend->filler, pthread_self()) &&
	       !hm_backend_is_forked(backend);
}

static void join_filler(struct hostmem_backend *backend)
{
	pthread_join(backend->filler, NULL);
	set_filler(backend, NULL);
}

/* Cancels what runs, waits for its end and forgets it. Never on the thread itself. */
void hm_background_end(struct hostmem_backend *backend)
{
	int event;

	/* A forked child does not have the thread. */
	if (backend->has_filler && !hm_backend_is_forked(backend)) {
		pthread_mutex_lock(&backend->lock);
		atomic_store(&backend->cancel, true);
		pthread_cond_broadcast(&backend->filled);
		pthread_mutex_unlock(&backend->lock);
		join_filler(backend);
	}
	pthread_mutex_lock(&backend->lock);
	backend->has_filler = false;
	event = backend->fill_event;
	backend->fill_event = -1;
	pthread_mutex_unlock(&backend->lock);
	if (event >= 0)
		hm_os_close(event);
	atomic_store(&backend->cancel, false);
}

/* From inside a callback of the fill, waiting for it would never end. */
static int check_not_own_thread(struct hostmem_backend *backend, const char *what,
				struct hostmem_error *err)
{
	bool own;

	pthread_mutex_lock(&backend->lock);
	own = hm_background_is_own_thread(backend) ||
	      (backend->has_reporter && pthread_equal(backend->reporter, pthread_self()) &&
	       !hm_backend_is_forked(backend));
	pthread_mutex_unlock(&backend->lock);
	if (!own)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_BUSY, 0,
		       "%s: %s: not from inside the preallocation's own callback", backend->id,
		       what);
}

int hm_background_clear(struct hostmem_backend *backend, struct hostmem_error *err)
{
	bool there;

	if (check_not_own_thread(backend, "prealloc", err))
		return -1;
	pthread_mutex_lock(&backend->lock);
	there = backend->has_filler;
	while (there && !backend->filler_ended)
		pthread_cond_wait(&backend->filled, &backend->lock);
	pthread_mutex_unlock(&backend->lock);
	if (there)
		join_filler(backend);
	return 0;
}

static struct timespec after(uint64_t milliseconds)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(milliseconds / 1000);
	until.tv_nsec += (long)(milliseconds % 1000 * 1000000);
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	return until;
}

/* Whether it runs where no thread of this process ends it. Called with the lock held. */
static bool is_elsewhere(const struct hostmem_backend *backend)
{
	return is_running(backend) && hm_backend_is_forked(backend);
}

/* Waits for the end; false when the time is over first. Called with the lock held. */
static bool wait_locked(struct hostmem_backend *backend, uint64_t milliseconds)
{
	bool forever = milliseconds > INT32_MAX;
	struct timespec until = after(forever ? 0 : milliseconds);
	int result = 0;

	while (is_running(backend) && !result)
		result = forever ? pthread_cond_wait(&backend->filled, &backend->lock)
				 : pthread_cond_timedwait(&backend->filled, &backend->lock, &until);
	return !is_running(backend);
}

int hostmem_backend_wait_prealloc(struct hostmem_backend *backend, uint64_t milliseconds,
				  struct hostmem_error *err)
{
	bool elsewhere, ended, failed;

	if (check_not_own_thread(backend, "wait", err))
		return -1;
	pthread_mutex_lock(&backend->lock);
	elsewhere = is_elsewhere(backend);
	ended = !elsewhere && wait_locked(backend, milliseconds);
	failed = ended && backend->fill_error.kind;
	if (failed && err)
		*err = backend->fill_error;
	pthread_mutex_unlock(&backend->lock);
	if (elsewhere)
		return hm_backend_check_process(backend, "wait", err);
	if (!ended)
		return hm_fail(err, HOSTMEM_ERROR_BUSY, ETIMEDOUT,
			       "%s: prealloc: still running after %ju ms", backend->id,
			       (uintmax_t)milliseconds);
	return failed ? -1 : 0;
}

int hostmem_backend_cancel_prealloc(struct hostmem_backend *backend, struct hostmem_error *err)
{
	bool elsewhere;

	if (check_not_own_thread(backend, "cancel", err))
		return -1;
	pthread_mutex_lock(&backend->lock);
	elsewhere = is_elsewhere(backend);
	if (is_running(backend) && !elsewhere) {
		atomic_store(&backend->cancel, true);
		wait_locked(backend, UINT64_MAX);
	}
	pthread_mutex_unlock(&backend->lock);
	return elsewhere ? hm_backend_check_process(backend, "cancel", err) : 0;
}

int32_t hostmem_backend_get_prealloc_event(const struct hostmem_backend *backend)
{
	int event;

	pthread_mutex_lock(hm_backend_lock_of(backend));
	event = backend->fill_event;
	pthread_mutex_unlock(hm_backend_lock_of(backend));
	return event;
}

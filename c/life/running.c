/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The one preallocation of a backend that runs, in the foreground or in the background: whether it
 * may begin, waiting for its end, cancelling it. What it does is prealloc.c's.
 */
#include <errno.h>
#include <time.h>

#include "life.h"

/* ---- Beginning and ending ---- */

bool hm_running_is_background(const struct hm_values *values)
{
	return values->prealloc && values->prealloc_mode == HM_PREALLOC_BACKGROUND;
}

bool hm_running_is_teller(const struct hostmem_backend *backend)
{
	return backend->has_teller && backend->teller_ready &&
	       pthread_equal(backend->teller, pthread_self()) && !hm_backend_is_forked(backend);
}

bool hm_running_is_filler(const struct hostmem_backend *backend)
{
	return backend->has_filler && pthread_equal(backend->filler, pthread_self()) &&
	       !hm_backend_is_forked(backend);
}

/* Whether this is the thread on which its callbacks are called. Called with the lock held. */
static bool is_callback_thread(const struct hostmem_backend *backend)
{
	return hm_running_is_filler(backend) || hm_running_is_teller(backend) ||
	       (backend->has_reporter && pthread_equal(backend->reporter, pthread_self()) &&
		!hm_backend_is_forked(backend));
}

static int fail_own_callback(const struct hostmem_backend *backend, const char *what,
			     struct hostmem_error *err)
{
	return hm_fail(err, HOSTMEM_ERROR_BUSY, 0,
		       "%s: %s: not from inside the preallocation's own callback", backend->label,
		       what);
}

int hm_running_fail_busy(const struct hostmem_backend *backend, const char *what,
			 struct hostmem_error *err)
{
	return hm_fail(err, HOSTMEM_ERROR_BUSY, 0,
		       "%s: %s: a preallocation or scrub is running; try again when it is done",
		       backend->label, what);
}

/*
 * All questions at one moment: deleting, which is decided under the lock alone, goes on once
 * `change` is unlocked.
 */
int hm_running_begin(struct hostmem_backend *backend, const char *what, struct hostmem_error *err)
{
	enum hostmem_state state;
	bool own, runs;

	pthread_mutex_lock(&backend->lock);
	state = backend->state;
	own = is_callback_thread(backend);
	runs = backend->running;
	if (hm_backend_has_memory(state) && !runs && !own)
		backend->running = HM_RUNNING_FOREGROUND;
	pthread_mutex_unlock(&backend->lock);
	if (!hm_backend_has_memory(state))
		return hm_backend_fail_not_ready(backend, state, err);
	if (own)
		return fail_own_callback(backend, what, err);
	return runs ? hm_running_fail_busy(backend, what, err) : 0;
}

void hm_running_end(struct hostmem_backend *backend, const struct hostmem_prealloc_result *result)
{
	pthread_mutex_lock(&backend->lock);
	backend->running = HM_RUNNING_NONE;
	if (result)
		backend->result = *result;
	/* A cancel is of this preallocation alone. */
	atomic_store(&backend->cancel, false);
	pthread_cond_broadcast(&backend->filled);
	pthread_mutex_unlock(&backend->lock);
}

/* ---- The thread of the background ---- */

void hm_running_set_filler(struct hostmem_backend *backend, const pthread_t *filler)
{
	pthread_mutex_lock(&backend->lock);
	backend->has_filler = filler;
	backend->filler_ended = false;
	if (filler)
		backend->filler = *filler;
	pthread_mutex_unlock(&backend->lock);
}

static void join_filler(struct hostmem_backend *backend)
{
	pthread_join(backend->filler, NULL);
	hm_running_set_filler(backend, NULL);
}

void hm_running_clear(struct hostmem_backend *backend)
{
	bool there;

	pthread_mutex_lock(&backend->lock);
	there = backend->has_filler;
	while (there && !backend->filler_ended)
		pthread_cond_wait(&backend->filled, &backend->lock);
	pthread_mutex_unlock(&backend->lock);
	if (there)
		join_filler(backend);
}

void hm_running_stop(struct hostmem_backend *backend)
{
	int event;

	/* A forked child has neither the thread nor the one that waits in the foreground. */
	if (!hm_backend_is_forked(backend)) {
		pthread_mutex_lock(&backend->lock);
		atomic_store(&backend->cancel, true);
		backend->filler_dropped = true;
		pthread_cond_broadcast(&backend->filled);
		while (backend->running == HM_RUNNING_FOREGROUND)
			pthread_cond_wait(&backend->filled, &backend->lock);
		pthread_mutex_unlock(&backend->lock);
		if (backend->has_filler)
			join_filler(backend);
		hm_background_join_teller(backend);
	}
	pthread_mutex_lock(&backend->lock);
	backend->has_filler = false;
	backend->filler_dropped = false;
	event = backend->fill_event;
	backend->fill_event = -1;
	pthread_mutex_unlock(&backend->lock);
	if (event >= 0)
		hm_os_close(event);
	atomic_store(&backend->cancel, false);
}

/* ---- Waiting and cancelling ---- */

/* Called with the lock held. */
static bool runs_in_background(const struct hostmem_backend *backend)
{
	return backend->running == HM_RUNNING_BACKGROUND;
}

/* Whether it runs where no thread of this process ends it. Called with the lock held. */
static bool is_elsewhere(const struct hostmem_backend *backend)
{
	return runs_in_background(backend) && hm_backend_is_forked(backend);
}

/* Waits for the end; false when the time is over first. Called with the lock held. */
static bool wait_locked(struct hostmem_backend *backend, uint64_t milliseconds)
{
	bool forever = milliseconds > INT32_MAX;
	struct timespec until = hm_os_deadline(forever ? 0 : milliseconds * 1000000);
	int result = 0;

	while (runs_in_background(backend) && !result)
		result = forever ? pthread_cond_wait(&backend->filled, &backend->lock)
				 : pthread_cond_timedwait(&backend->filled, &backend->lock, &until);
	return !runs_in_background(backend);
}

int hostmem_backend_wait_prealloc(struct hostmem_backend *backend, uint64_t milliseconds,
				  struct hostmem_error *err)
{
	bool elsewhere, ended, failed;

	hm_backend_enter(backend);
	pthread_mutex_lock(&backend->lock);
	if (is_callback_thread(backend)) {
		pthread_mutex_unlock(&backend->lock);
		return fail_own_callback(backend, "wait", err);
	}
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
			       "%s: prealloc: still running after %ju ms", backend->label,
			       (uintmax_t)milliseconds);
	return failed ? -1 : 0;
}

int hostmem_backend_cancel_prealloc(struct hostmem_backend *backend, struct hostmem_error *err)
{
	bool elsewhere;

	hm_backend_enter(backend);
	pthread_mutex_lock(&backend->lock);
	if (is_callback_thread(backend)) {
		pthread_mutex_unlock(&backend->lock);
		return fail_own_callback(backend, "cancel", err);
	}
	elsewhere = is_elsewhere(backend);
	if (runs_in_background(backend) && !elsewhere) {
		atomic_store(&backend->cancel, true);
		wait_locked(backend, UINT64_MAX);
	}
	pthread_mutex_unlock(&backend->lock);
	return elsewhere ? hm_backend_check_process(backend, "cancel", err) : 0;
}

void hostmem_backend_interrupt(struct hostmem_backend *backend)
{
	if (hm_backend_check_process(backend, "interrupt", NULL))
		return;
	pthread_mutex_lock(&backend->lock);
	if (backend->running || backend->state == HOSTMEM_STATE_COMPLETING)
		atomic_store(&backend->cancel, true);
	pthread_mutex_unlock(&backend->lock);
}

int32_t hostmem_backend_get_prealloc_event(const struct hostmem_backend *backend)
{
	int event;

	hm_backend_enter(backend);
	pthread_mutex_lock(hm_backend_lock_of(backend));
	event = backend->fill_event;
	pthread_mutex_unlock(hm_backend_lock_of(backend));
	return event;
}

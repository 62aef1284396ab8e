/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Preallocation in the background: a thread of the library's that preallocates what a caller would
 * otherwise wait for, and reports the end.
 */
#include <string.h>

#include "life.h"

/* Stores the end; err NULL: it succeeded. */
static void finish(struct hostmem_backend *backend, const struct hostmem_prealloc_result *result,
		   const struct hostmem_error *err)
{
	pthread_mutex_lock(&backend->lock);
	backend->values.prealloc = !err;
	backend->failed_on_demand = false;
	if (err)
		backend->fill_error = *err;
	else
		backend->result = *result;
	backend->running = HM_RUNNING_NONE;
	/* A cancel is of this preallocation alone. */
	atomic_store(&backend->cancel, false);
	hm_os_event_signal(backend->fill_event);
	pthread_cond_broadcast(&backend->filled);
	pthread_mutex_unlock(&backend->lock);
}

/* err NULL: it succeeded. */
static void report(struct hostmem_backend *backend, const struct hostmem_error *err)
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

/* Whether it was freed in a callback of this thread. */
static bool is_left_to(struct hostmem_backend *backend, bool teller)
{
	bool left;

	pthread_mutex_lock(&backend->lock);
	left = backend->orphaned && backend->orphaned_by_teller == teller;
	pthread_mutex_unlock(&backend->lock);
	return left;
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

	/* The thread that changes prealloc stores its value first. */
	pthread_mutex_lock(&backend->change);
	pthread_mutex_unlock(&backend->change);
	pthread_mutex_lock(&backend->lock);
	while (backend->state == HOSTMEM_STATE_COMPLETING && !backend->filler_dropped)
		pthread_cond_wait(&backend->filled, &backend->lock);
	ready = backend->running == HM_RUNNING_BACKGROUND;
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

	hm_call_name_thread(backend->host, backend->id);
	if (!wait_until_ready(backend))
		return NULL;
	failed = fill(backend, &result, &err);
	finish(backend, &result, failed ? &err : NULL);
	report(backend, failed ? &err : NULL);
	/* On any other thread, freeing the backend waits for the end of this one first. */
	if (is_left_to(backend, false)) {
		pthread_detach(pthread_self());
		hm_running_set_filler(backend, NULL);
		hostmem_backend_free(backend);
		return NULL;
	}
	end_thread(backend);
	return NULL;
}

/* ---- Reads on demand that fail ---- */

/* Whether there is a failure to report; else the thread ends. Called with the lock held. */
static bool take_failure(struct hostmem_backend *backend, struct hostmem_error *err)
{
	bool tell = backend->tell && hm_backend_has_memory(backend->state) && !backend->orphaned;

	backend->tell = false;
	*err = backend->fill_error;
	backend->teller_ended = !tell;
	return tell;
}

static void *tell(void *data)
{
	struct hostmem_backend *backend = data;
	struct hostmem_error err;

	hm_call_name_thread(backend->host, backend->id);
	pthread_mutex_lock(&backend->lock);
	while (!backend->teller_ready)
		pthread_cond_wait(&backend->filled, &backend->lock);
	while (take_failure(backend, &err)) {
		pthread_mutex_unlock(&backend->lock);
		/* Retried meanwhile, there is none. */
		if (err.kind)
			report(backend, &err);
		if (is_left_to(backend, true)) {
			pthread_detach(pthread_self());
			pthread_mutex_lock(&backend->lock);
			backend->has_teller = false;
			pthread_mutex_unlock(&backend->lock);
			hostmem_backend_free(backend);
			return NULL;
		}
		pthread_mutex_lock(&backend->lock);
	}
	pthread_mutex_unlock(&backend->lock);
	return NULL;
}

/* Takes over the thread that has to be joined, never the caller's; called with the lock held. */
static bool take_teller(struct hostmem_backend *backend, pthread_t *teller)
{
	bool there;

	while (backend->has_teller && !backend->teller_ready)
		pthread_cond_wait(&backend->filled, &backend->lock);
	there = backend->has_teller;
	backend->has_teller = false;
	*teller = backend->teller;
	return there;
}

void hm_background_join_teller(struct hostmem_backend *backend)
{
	pthread_t teller;
	bool there;

	pthread_mutex_lock(&backend->lock);
	there = take_teller(backend, &teller);
	pthread_mutex_unlock(&backend->lock);
	if (there)
		pthread_join(teller, NULL);
}

/* Without a thread the failure is kept all the same. */
static void start_teller(struct hostmem_backend *backend)
{
	pthread_t teller;
	int result = hm_thread_create(&teller, tell, backend);

	pthread_mutex_lock(&backend->lock);
	if (result)
		backend->has_teller = false;
	else
		backend->teller = teller;
	backend->teller_ready = true;
	pthread_cond_broadcast(&backend->filled);
	pthread_mutex_unlock(&backend->lock);
}

void hm_background_fail(struct hostmem_backend *backend, const struct hostmem_error *err)
{
	bool ended = false, start = false;
	pthread_t before;

	pthread_mutex_lock(&backend->lock);
	if (hm_backend_has_memory(backend->state) && !backend->orphaned &&
	    backend->running != HM_RUNNING_BACKGROUND) {
		backend->fill_error = *err;
		backend->failed_on_demand = true;
		backend->tell = true;
		pthread_cond_broadcast(&backend->filled);
		if (backend->fill_event >= 0)
			hm_os_event_signal(backend->fill_event);
		if (backend->has_teller && backend->teller_ended)
			ended = take_teller(backend, &before);
		start = backend->done && !backend->has_teller;
	}
	if (start) {
		backend->has_teller = true;
		backend->teller_ready = false;
		backend->teller_ended = false;
	}
	pthread_mutex_unlock(&backend->lock);
	if (ended)
		pthread_join(before, NULL);
	if (start)
		start_teller(backend);
}

void hm_background_forget(struct hostmem_backend *backend)
{
	pthread_mutex_lock(&backend->lock);
	if (backend->failed_on_demand)
		backend->fill_error = (struct hostmem_error){ 0 };
	backend->failed_on_demand = false;
	pthread_mutex_unlock(&backend->lock);
}

/* ---- Starting ---- */

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

/* One that nothing will signal is closed, so that event loops do not wait for it. */
static void drop_event(struct hostmem_backend *backend)
{
	int event;

	pthread_mutex_lock(&backend->lock);
	event = backend->fill_event;
	backend->fill_event = -1;
	pthread_mutex_unlock(&backend->lock);
	hm_os_close(event);
}

int hm_background_start(struct hostmem_backend *backend, struct hostmem_error *err)
{
	bool is_first = backend->fill_event < 0;
	int result = prepare_event(backend);
	pthread_t filler;

	if (result)
		return hm_fail(err, hm_error_kind_of(-result), -result,
			       "%s: prealloc-mode=background: cannot make an eventfd: %s",
			       backend->label, strerror(-result));
	atomic_store(&backend->bytes_total, backend->mapping.size);
	result = hm_thread_create(&filler, run, backend);
	if (!result)
		hm_running_set_filler(backend, &filler);
	else if (is_first)
		drop_event(backend);
	return result ? hm_fail(err, hm_error_kind_of(-result), -result,
				"%s: prealloc-mode=background: cannot create a thread: %s; use "
				"prealloc-mode=wait",
				backend->label, strerror(-result))
		      : 0;
}

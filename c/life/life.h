/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The folder life: a backend from state to state, and what may change while it has its memory.
 */
#ifndef HOSTMEM_LIFE_H
#define HOSTMEM_LIFE_H

#include "fill.h"

/* ---- running.c ---- */

/* Whether filling the memory is left to the background. */
bool hm_running_is_background(const struct hm_values *values);
/*
 * Begins a preallocation of ready memory in the foreground: from here on deleting, rebinding and
 * another one are BUSY. BUSY while one runs or in a callback of one, STATE without memory.
 */
int hm_running_begin(struct hostmem_backend *backend, const char *what, struct hostmem_error *err);
/* Ends it; result NULL: it failed. */
void hm_running_end(struct hostmem_backend *backend, const struct hostmem_prealloc_result *result);
int hm_running_fail_busy(const struct hostmem_backend *backend, const char *what,
			 struct hostmem_error *err);
/* Which thread fills in the background; NULL: none. */
void hm_running_set_filler(struct hostmem_backend *backend, const pthread_t *filler);
/* Whether this is that thread, in a callback. Called with the lock held. */
bool hm_running_is_filler(const struct hostmem_backend *backend);
/* Whether this is the thread that reports reads on demand. Called with the lock held. */
bool hm_running_is_teller(const struct hostmem_backend *backend);
/* Waits for the end of that thread and of its callback, so that another one can start. */
void hm_running_clear(struct hostmem_backend *backend);
/* Cancels what runs, waits for its end and forgets it. Never on the thread that fills. */
void hm_running_stop(struct hostmem_backend *backend);

/* ---- background.c ---- */

/* Starts the thread that fills the memory once the backend is ready. */
int hm_background_start(struct hostmem_backend *backend, struct hostmem_error *err);

/*
 * A read on demand has failed. A background that runs fails too, and reports that. Where none runs,
 * waiting returns this error, and the callback gets it on a thread of its own. Called by one thread
 * at a time.
 */
void hm_background_fail(struct hostmem_backend *backend, const struct hostmem_error *err);
/* Waits for the end of that thread, unless this is it. */
void hm_background_join_teller(struct hostmem_backend *backend);
/* Forgets such a failure, since contents are retried. */
void hm_background_forget(struct hostmem_backend *backend);

/* ---- delete.c ---- */

/*
 * Unmaps the memory and closes its backing, of a half built backend too. failed: completing failed,
 * so what it made on file systems goes too, and what has to stay is appended to err.
 */
void hm_delete_memory(struct hostmem_backend *backend, bool failed, struct hostmem_error *err);

/* ---- live.c ---- */

/* Populates a range of ready memory; called with `change`, which it unlocks meanwhile. */
int hm_live_populate(struct hostmem_backend *backend, const char *what,
		     const struct hm_values *values, const struct hm_range *range,
		     struct hostmem_error *err);
/* Scrubs a range of ready memory, likewise. */
int hm_live_scrub(struct hostmem_backend *backend, const struct hm_values *values,
		  const struct hm_range *range, struct hostmem_error *err);
/* Rebinds a ready backend from `old` to `new`. Called with `change`. */
int hm_live_rebind(struct hostmem_backend *backend, const struct hm_values *old,
		   const struct hm_values *new, uint32_t flags,
		   struct hostmem_rebind_result *rebound, struct hostmem_error *err);
/*
 * Applies the difference between `old` and `new` to a ready backend; resets in `new` what takes
 * effect later (prealloc). Called with `change`.
 */
int hm_live_apply(struct hostmem_backend *backend, enum hm_property property,
		  const struct hm_values *old, struct hm_values *new, struct hostmem_error *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The folder life: a backend from state to state, and what may change while it has its memory.
 */
#ifndef HOSTMEM_LIFE_H
#define HOSTMEM_LIFE_H

#include "fill.h"

/* ---- inhibit.c ---- */

/* BUSY, with the name, while somebody has pinned the memory. */
int hm_inhibit_check(const struct hostmem_backend *backend, const char *what,
		     struct hostmem_error *err);
/* Forgets who has; nobody uses the backend any more. */
void hm_inhibit_clear(struct hostmem_backend *backend);

/* ---- background.c ---- */

/* Begins to fill the memory of a backend that is completing, once it is ready. */
int hm_background_start(struct hostmem_backend *backend, struct hostmem_error *err);
/*
 * Waits for the end of the thread whose fill has ended, and for the callback that it may be in, so
 * that another one can start; BUSY from inside that callback.
 */
int hm_background_clear(struct hostmem_backend *backend, struct hostmem_error *err);
/* Cancels what runs, waits for its end and forgets it. Never on the thread itself. */
void hm_background_end(struct hostmem_backend *backend);
/* Whether this is the thread that fills the backend, in a callback. Called with the lock held. */
bool hm_background_is_own_thread(const struct hostmem_backend *backend);

/* ---- complete.c ---- */

/* One of the backends that are completed together. */
struct hm_completion {
	struct hostmem_backend *backend;
	struct hm_values values;
	struct hostmem_prealloc_result result;
};

/* Makes the memory of the configuration. On failure hm_complete_undo() has to follow. */
int hm_complete_build(struct hostmem_backend *backend, const struct hm_values *values,
		      struct hostmem_error *err);
/* Preallocates what was built, where that is not left to the background. */
int hm_complete_fill(struct hm_completion *completions, size_t len, struct hostmem_error *err);
/* Whether filling the memory is left to the background; locking it then is too. */
bool hm_complete_is_background(const struct hm_values *values);
/* Takes a half built backend as well as a whole one. failed: building did not succeed. */
void hm_complete_undo(struct hostmem_backend *backend, bool failed);

/* ---- live.c ---- */

int hm_live_fail_busy(const struct hostmem_backend *backend, const char *what,
		      struct hostmem_error *err);
/* Populates a range of ready memory; called with `change`, which it gives up meanwhile. */
int hm_live_populate(struct hostmem_backend *backend, const struct hm_values *values,
		     const struct hm_range *range, struct hostmem_error *err);
/* Rebinds a ready backend from `old` to `new`. Called with `change`. */
int hm_live_rebind(struct hostmem_backend *backend, const struct hm_values *old,
		   const struct hm_values *new, uint32_t flags,
		   struct hostmem_rebind_result *rebound, struct hostmem_error *err);
/*
 * Makes a ready backend be as `new` says where that differs from `old`; what will be so only later
 * is put back in `new`. Called with `change`.
 */
int hm_live_apply(struct hostmem_backend *backend, enum hm_property property,
		  const struct hm_values *old, struct hm_values *new, struct hostmem_error *err);

#endif

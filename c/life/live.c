/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What a change of a property does to ready memory. Gets the old values and the new; the caller
 * stores the new ones.
 */
#include "life.h"

/* Another preallocation of all takes the place of one that failed. */
static void forget_failure(struct hostmem_backend *backend)
{
	pthread_mutex_lock(&backend->lock);
	backend->fill_error = (struct hostmem_error){ 0 };
	pthread_mutex_unlock(&backend->lock);
}

static void leave_to_background(struct hostmem_backend *backend)
{
	pthread_mutex_lock(&backend->lock);
	backend->running = HM_RUNNING_BACKGROUND;
	pthread_mutex_unlock(&backend->lock);
}

static int run_waiting(struct hostmem_backend *backend, const char *what,
		       const struct hm_prealloc_request *request, struct hostmem_error *err)
{
	int failed;

	if (hm_running_begin(backend, what, err))
		return -1;
	hm_gaps_clear(&backend->gaps);
	/* Other changes, from the progress callback too, need not wait for this one. */
	pthread_mutex_unlock(&backend->change);
	failed = hm_prealloc_run(request, 1, err);
	pthread_mutex_lock(&backend->change);
	hm_running_end(backend, failed || request->scrub ? NULL : request->result);
	return failed;
}

int hm_live_populate(struct hostmem_backend *backend, const char *what,
		     const struct hm_values *values, const struct hm_range *range,
		     struct hostmem_error *err)
{
	struct hostmem_prealloc_result result;
	const struct hm_prealloc_request request = {
		.backend = backend,
		.values = values,
		.range = *range,
		.result = &result,
	};

	return run_waiting(backend, what, &request, err);
}

int hm_live_scrub(struct hostmem_backend *backend, const struct hm_values *values,
		  const struct hm_range *range, struct hostmem_error *err)
{
	struct hostmem_prealloc_result result;
	const struct hm_prealloc_request request = {
		.backend = backend,
		.values = values,
		.range = *range,
		.scrub = true,
		.result = &result,
	};

	return run_waiting(backend, "scrub", &request, err);
}

static int populate_in_background(struct hostmem_backend *backend, struct hm_values *new,
				  struct hostmem_error *err)
{
	if (hm_running_begin(backend, "prealloc", err))
		return -1;
	hm_gaps_clear(&backend->gaps);
	/* A callback of the last one, which has to end first, may be about to take it. */
	pthread_mutex_unlock(&backend->change);
	hm_running_clear(backend);
	pthread_mutex_lock(&backend->change);
	if (hm_background_start(backend, err)) {
		hm_running_end(backend, NULL);
		return -1;
	}
	forget_failure(backend);
	leave_to_background(backend);
	/* It reads on when the memory is there. */
	new->prealloc = false;
	return 0;
}

static int populate_waiting(struct hostmem_backend *backend, const struct hm_values *new,
			    struct hostmem_error *err)
{
	const struct hm_range all = { .length = backend->mapping.size };

	if (hm_live_populate(backend, "prealloc", new, &all, err))
		return -1;
	forget_failure(backend);
	return 0;
}

static int change_prealloc(struct hostmem_backend *backend, const struct hm_values *old,
			   struct hm_values *new, struct hostmem_error *err)
{
	if (hm_backend_is_running(backend))
		return hm_running_fail_busy(backend, "prealloc", err);
	if (old->prealloc == new->prealloc)
		return 0;
	if (!new->prealloc)
		return hm_fail(err, HOSTMEM_ERROR_STATE, 0,
			       "%s: prealloc cannot be switched off: the memory is already there; "
			       "discard gives it back",
			       backend->label);
	if (new->reserve == HM_RESERVE_OFF)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: prealloc=on and reserve=off exclude each other; make a backend "
			       "with reserve=on or reserve=try",
			       backend->label);
	if (!backend->mapping.size)
		return 0;
	return hm_running_is_background(new) ? populate_in_background(backend, new, err)
					     : populate_waiting(backend, new, err);
}

int hm_live_rebind(struct hostmem_backend *backend, const struct hm_values *old,
		   const struct hm_values *new, uint32_t flags,
		   struct hostmem_rebind_result *rebound, struct hostmem_error *err)
{
	bool unread = backend->lazy &&
		      (old->policy != HM_POLICY_DEFAULT || new->policy != HM_POLICY_DEFAULT);
	int result;

	if (hm_backend_is_running(backend))
		return hm_running_fail_busy(backend, "policy", err);
	if (unread) {
		if (hm_policy_check(backend, new, err))
			return -1;
		result = hm_lazy_follow_policy(backend->lazy, new);
		if (result)
			return hm_policy_fail(backend, new, "mbind", result, err);
	}
	result = hm_rebind(backend, old, new, flags, rebound, err);
	if (result && unread)
		hm_lazy_follow_policy(backend->lazy, old);
	return result;
}

static int change_lock(struct hostmem_backend *backend, const struct hm_values *old,
		       const struct hm_values *new, struct hostmem_error *err)
{
	if (new->lock && !old->lock && hm_check_lock(backend, new, err))
		return -1;
	return hm_advise_lock(backend, new->lock, new->prealloc, err);
}

static int change_thp(struct hostmem_backend *backend, enum hm_thp thp, struct hostmem_error *err)
{
	if (hm_advise_check_thp(backend, thp, err))
		return -1;
	return backend->lazy ? hm_lazy_advise_thp(backend->lazy, thp, err)
			     : hm_advise_thp(backend, thp, err);
}

static int apply(struct hostmem_backend *backend, enum hm_property property,
		 const struct hm_values *old, struct hm_values *new, struct hostmem_error *err)
{
	struct hostmem_rebind_result rebound;

	switch (property) {
	case HM_PROPERTY_PREALLOC:
		return change_prealloc(backend, old, new, err);
	case HM_PROPERTY_HOME_NODE:
	case HM_PROPERTY_HOST_NODES:
	case HM_PROPERTY_POLICY:
		return hm_live_rebind(backend, old, new, 0, &rebound, err);
	default:
		break;
	}
	if (!backend->mapping.size)
		return 0;
	switch (property) {
	case HM_PROPERTY_MERGE:
		return hm_advise_merge(backend, new->merge, true, err);
	case HM_PROPERTY_DUMP:
		return hm_advise_dump(backend, new->dump, true, err);
	case HM_PROPERTY_THP:
		return change_thp(backend, (enum hm_thp) new->thp, err);
	case HM_PROPERTY_LOCK:
		return change_lock(backend, old, new, err);
	default:
		return 0;
	}
}

int hm_live_apply(struct hostmem_backend *backend, enum hm_property property,
		  const struct hm_values *old, struct hm_values *new, struct hostmem_error *err)
{
	int result = apply(backend, property, old, new, err);

	if (result || !backend->mapping.size)
		return result;
	hm_backend_unwarn(backend, property, HM_WARNING_EFFECT);
	hm_effect_warn(backend, property, new);
	return result;
}

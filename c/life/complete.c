/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The steps that turn configurations into memory, in the order that makes them right. Each step is
 * in a file of its own below: check.c, backing.c, mapping.c, advise.c, policy.c, prealloc.c.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kind.h"
#include "life.h"

/* One of the backends that are completed together. */
struct completion {
	struct hostmem_backend *backend;
	struct hm_values values;
	struct hm_contents contents;
	struct hostmem_prealloc_result result;
};

/* ---- The steps ---- */

/*
 * Page by page as they come, so that a limit is met before anything is filled, and memory stays
 * locked however its fill ends. Where mlockall(2) has locked all that is mapped, becoming
 * accessible would populate it: on one thread what prealloc is there for, and past the limit of a
 * control group what does not fit.
 */
static int lock_memory(struct hostmem_backend *backend, const struct hm_values *values,
		       struct hostmem_error *err)
{
	const struct hm_mapping *mapping = &backend->mapping;
	const struct hm_prealloc_request all = {
		.backend = backend,
		.values = values,
		.range.length = mapping->size,
	};

	if (values->lock)
		return hm_advise_lock(backend, true, false, err);
	if (!hm_call_is_locked(backend->host, mapping->address, mapping->size))
		return 0;
	if (values->prealloc || hm_contents_is_lazy(values)) {
		hm_call_lock(backend->host, mapping->address, mapping->size, MLOCK_ONFAULT);
	} else if (!hm_prealloc_fits(&all)) {
		hm_call_lock(backend->host, mapping->address, mapping->size, MLOCK_ONFAULT);
		hm_backend_warn(backend, HM_PROPERTY_PREALLOC, HM_WARNING_EFFECT,
				"mlockall(2) would populate the memory, which does not fit; each "
				"page is locked when it is first used");
	}
	return 0;
}

static int build(struct completion *completion, struct hostmem_error *err)
{
	struct hostmem_backend *backend = completion->backend;
	const struct hm_values *values = &completion->values;

	/* A kind that allocates nothing has no memory to check, map or fill. */
	if (!backend->kind->allocate)
		return hm_policy_check(backend, values, err);
	if (hm_check_all(backend, values, err) || hm_contents_check(backend, values, err) ||
	    hm_backing_make(backend, values, err) ||
	    hm_contents_open(&completion->contents, backend, values, err) ||
	    hm_mapping_make(backend, values, err) || hm_backing_seal(backend, err) ||
	    hm_advise_check_thp(backend, (enum hm_thp)values->thp, err) ||
	    hm_advise_all(backend, values, err))
		return -1;
	hm_mapping_name(backend);
	/*
	 * Accessible only after advice and policy, so that not even mlockall(MCL_FUTURE) populates
	 * the memory before.
	 */
	if (hm_policy_bind(backend, values, err) || lock_memory(backend, values, err))
		return -1;
	/* What is populated before it is registered would read as zero instead of its contents. */
	if (hm_contents_is_lazy(values) &&
	    hm_lazy_start(backend, values, &completion->contents, hm_background_fail, err))
		return -1;
	return hm_mapping_open(backend, values, err);
}

/* Which blocks of a user's file were filled by us and which before is not known. */
static bool fills_users_file(const struct hostmem_backend *backend)
{
	return backend->backing.fd >= 0 && backend->shared && !backend->readonly &&
	       !(backend->backing.flags & HOSTMEM_BACKING_OWN) && !backend->backing.made;
}

static void report_what_stays(const struct hm_prealloc_request *requests, size_t len,
			      struct hostmem_error *err)
{
	for (size_t i = 0; i < len; i++) {
		if (!fills_users_file(requests[i].backend))
			continue;
		hm_error_append(err, "; what was filled in the file stays filled");
		return;
	}
}

/* Preallocates all that was built, where that is not left to the background. */
static int fill_all(struct completion *completions, size_t len, struct hostmem_error *err)
{
	struct hm_prealloc_request *requests = calloc(len, sizeof(*requests));
	size_t wanted = 0;
	int result = 0;

	if (!requests)
		return hm_fail_alloc(err);
	for (size_t i = 0; i < len; i++) {
		const struct hm_values *values = &completions[i].values;
		struct hostmem_backend *backend = completions[i].backend;

		if (!values->prealloc || hm_running_is_background(values) || !backend->mapping.size)
			continue;
		requests[wanted++] = (struct hm_prealloc_request){
			.backend = backend,
			.values = values,
			.range.length = values->size,
			.contents =
				completions[i].contents.fd < 0 ? NULL : &completions[i].contents,
			.result = &completions[i].result,
		};
	}
	if (wanted)
		result = hm_prealloc_run(requests, wanted, err);
	if (result)
		report_what_stays(requests, wanted, err);
	free(requests);
	return result;
}

/* ---- The states ---- */

/* Changes configuring into completing and takes a snapshot of the values. */
static int begin_completing(struct hostmem_backend *backend, struct completion *completion,
			    struct hostmem_error *err)
{
	enum hostmem_state state;

	hm_backend_enter(backend);
	pthread_mutex_lock(&backend->lock);
	state = backend->state;
	if (state == HOSTMEM_STATE_CONFIGURING) {
		backend->state = HOSTMEM_STATE_COMPLETING;
		atomic_store(&backend->process, atomic_load(&backend->here));
		completion->backend = backend;
		completion->values = backend->values;
		completion->contents = (struct hm_contents){ .fd = -1, .direct_fd = -1 };
	}
	pthread_mutex_unlock(&backend->lock);
	if (state == HOSTMEM_STATE_CONFIGURING)
		return 0;
	return hm_fail(
		err, state == HOSTMEM_STATE_COMPLETING ? HOSTMEM_ERROR_BUSY : HOSTMEM_ERROR_STATE,
		0, "%s: complete: the backend is %s already", backend->label, hm_text_state(state));
}

/* Makes a backend that is completing ready. Called with the lock held. */
static void make_ready(const struct completion *completion)
{
	struct hostmem_backend *backend = completion->backend;
	const struct hm_values *values = &completion->values;

	backend->result = completion->result;
	/* It reads on when the memory is there. */
	if (hm_running_is_background(values)) {
		backend->running = HM_RUNNING_BACKGROUND;
		backend->values.prealloc = false;
	}
	/* What auto came to is what is read from here on. */
	if (values->rom == HM_ROM_AUTO)
		backend->values.rom = values->readonly ? HM_ROM_ON : HM_ROM_OFF;
}

/* Makes a backend that is completing ready, or configuring again. */
static void end_completing(const struct completion *completion, bool failed)
{
	struct hostmem_backend *backend = completion->backend;

	pthread_mutex_lock(&backend->lock);
	backend->state = failed ? HOSTMEM_STATE_CONFIGURING : HOSTMEM_STATE_READY;
	if (failed)
		atomic_store(&backend->process, 0);
	else
		make_ready(completion);
	/* A cancel is of the call that it was meant for alone. */
	if (!backend->running)
		atomic_store(&backend->cancel, false);
	/* The background begins when all of this is there. */
	pthread_cond_broadcast(&backend->filled);
	pthread_mutex_unlock(&backend->lock);
}

/* Takes backends that are completing back to configuring. */
static void undo_all(struct completion *completions, size_t len, struct hostmem_error *err)
{
	for (size_t i = 0; i < len; i++) {
		struct completion *completion = &completions[i];

		hm_running_stop(completion->backend);
		hm_delete_memory(completion->backend, true, err);
		end_completing(completion, true);
	}
}

static int build_all(struct completion *completions, size_t len, struct hostmem_error *err)
{
	for (size_t i = 0; i < len; i++) {
		if (build(&completions[i], err))
			return -1;
	}
	if (fill_all(completions, len, err))
		return -1;
	for (size_t i = 0; i < len; i++) {
		if (hm_running_is_background(&completions[i].values) &&
		    hm_background_start(completions[i].backend, err))
			return -1;
	}
	return 0;
}

/* Of what has no effect, or will not fit once it is touched; only where completing succeeded. */
static void warn(const struct completion *completion)
{
	if (!completion->backend->mapping.size)
		return;
	if (!completion->values.prealloc)
		hm_room_warn(completion->backend);
	hm_effect_warn_all(completion->backend, &completion->values);
}

static int complete_all(struct completion *completions, struct hostmem_backend *const *backends,
			size_t len, struct hostmem_error *err)
{
	size_t begun = 0;
	bool failed;

	for (; begun < len; begun++) {
		if (begin_completing(backends[begun], &completions[begun], err))
			break;
	}
	failed = begun < len || build_all(completions, len, err);
	for (size_t i = 0; i < begun; i++)
		hm_contents_close(&completions[i].contents);
	if (failed) {
		undo_all(completions, begun, err);
		return -1;
	}
	for (size_t i = 0; i < len; i++) {
		warn(&completions[i]);
		end_completing(&completions[i], false);
	}
	return 0;
}

int hostmem_backend_complete_all(struct hostmem_backend *const *backends, size_t backends_len,
				 struct hostmem_error *err)
{
	struct completion *completions;
	int result;

	if (!backends_len)
		return 0;
	completions = calloc(backends_len, sizeof(*completions));
	if (!completions)
		return hm_fail_alloc(err);
	result = complete_all(completions, backends, backends_len, err);
	free(completions);
	return result;
}

int hostmem_backend_complete(struct hostmem_backend *backend, struct hostmem_error *err)
{
	return hostmem_backend_complete_all(&backend, 1, err);
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A backend's life: who moves it from one state to the next, and whether that may be. How memory is
 * made and undone is complete.c's.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "life.h"

/* Changes configuring into completing and takes a snapshot of the values. */
static int begin_completing(struct hostmem_backend *backend, struct hm_completion *completion,
			    struct hostmem_error *err)
{
	enum hostmem_state state;

	pthread_mutex_lock(&backend->lock);
	state = backend->state;
	if (state == HOSTMEM_STATE_CONFIGURING) {
		backend->state = HOSTMEM_STATE_COMPLETING;
		atomic_store(&backend->process, hm_os_process());
		completion->backend = backend;
		completion->values = backend->values;
	}
	pthread_mutex_unlock(&backend->lock);
	if (state == HOSTMEM_STATE_CONFIGURING)
		return 0;
	return hm_fail(
		err, state == HOSTMEM_STATE_COMPLETING ? HOSTMEM_ERROR_BUSY : HOSTMEM_ERROR_STATE,
		0, "%s: complete: the backend is %s already", backend->id, hm_text_state(state));
}

/* Makes a backend that is completing ready. Called with the lock held. */
static void make_ready(const struct hm_completion *completion)
{
	struct hostmem_backend *backend = completion->backend;
	const struct hm_values *values = &completion->values;

	backend->result = completion->result;
	/* It reads on when the memory is there. */
	if (hm_complete_is_background(values)) {
		backend->running = HM_RUNNING_BACKGROUND;
		backend->values.prealloc = false;
	}
	/* What auto came to is what is read from here on. */
	if (values->rom == HM_ROM_AUTO)
		backend->values.rom = values->readonly ? HM_ROM_ON : HM_ROM_OFF;
}

/* Makes a backend that is completing ready, or configuring again. */
static void end_completing(const struct hm_completion *completion, bool failed)
{
	struct hostmem_backend *backend = completion->backend;

	pthread_mutex_lock(&backend->lock);
	backend->state = failed ? HOSTMEM_STATE_CONFIGURING : HOSTMEM_STATE_READY;
	if (failed)
		atomic_store(&backend->process, 0);
	else
		make_ready(completion);
	/* The background begins when all of this is there. */
	pthread_cond_broadcast(&backend->filled);
	pthread_mutex_unlock(&backend->lock);
}

/* Takes backends that are completing back to configuring. */
static void undo_all(struct hm_completion *completions, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		struct hm_completion *completion = &completions[i];

		hm_background_end(completion->backend);
		hm_complete_undo(completion->backend, true);
		end_completing(completion, true);
	}
}

static int build_all(struct hm_completion *completions, size_t len, struct hostmem_error *err)
{
	for (size_t i = 0; i < len; i++) {
		if (hm_complete_build(completions[i].backend, &completions[i].values, err))
			return -1;
	}
	if (hm_complete_fill(completions, len, err))
		return -1;
	for (size_t i = 0; i < len; i++) {
		if (hm_complete_is_background(&completions[i].values) &&
		    hm_background_start(completions[i].backend, err))
			return -1;
	}
	return 0;
}

static int complete_all(struct hm_completion *completions, struct hostmem_backend *const *backends,
			size_t len, struct hostmem_error *err)
{
	size_t begun = 0;

	for (; begun < len; begun++) {
		if (begin_completing(backends[begun], &completions[begun], err))
			break;
	}
	if (begun < len || build_all(completions, len, err)) {
		undo_all(completions, begun);
		return -1;
	}
	for (size_t i = 0; i < len; i++)
		end_completing(&completions[i], false);
	return 0;
}

int hostmem_backend_complete_all(struct hostmem_backend *const *backends, size_t backends_len,
				 struct hostmem_error *err)
{
	struct hm_completion *completions;
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

/* Called with the lock held. */
static int claim_locked(struct hostmem_backend *backend, const char *owner,
			struct hostmem_error *err)
{
	if (backend->state == HOSTMEM_STATE_MAPPED)
		return hm_fail(err, HOSTMEM_ERROR_BUSY, 0,
			       "%s: cannot be claimed by '%s': '%s' holds it", backend->id, owner,
			       backend->owner);
	if (backend->state != HOSTMEM_STATE_READY)
		return hm_fail(err, HOSTMEM_ERROR_STATE, 0,
			       "%s: cannot be claimed while it is %s; complete it first",
			       backend->id, hm_text_state(backend->state));
	backend->state = HOSTMEM_STATE_MAPPED;
	hm_text_copy(owner, backend->owner, sizeof(backend->owner));
	return 0;
}

int hostmem_backend_claim(struct hostmem_backend *backend, const char *owner,
			  struct hostmem_error *err)
{
	int result;

	if (!*owner || strlen(owner) > HOSTMEM_ID_MAX)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: an owner's name has 1 to %d bytes, this one has %zu",
			       backend->id, HOSTMEM_ID_MAX, strlen(owner));
	pthread_mutex_lock(&backend->lock);
	result = claim_locked(backend, owner, err);
	pthread_mutex_unlock(&backend->lock);
	return result;
}

int hostmem_backend_release(struct hostmem_backend *backend, struct hostmem_error *err)
{
	enum hostmem_state state;

	pthread_mutex_lock(&backend->lock);
	state = backend->state;
	if (state == HOSTMEM_STATE_MAPPED) {
		backend->state = HOSTMEM_STATE_READY;
		backend->owner[0] = '\0';
	}
	pthread_mutex_unlock(&backend->lock);
	if (state == HOSTMEM_STATE_MAPPED)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_STATE, 0,
		       "%s: cannot be released: nobody holds it, it is %s", backend->id,
		       hm_text_state(state));
}

/* Called with the lock held. */
static int check_deletable(const struct hostmem_backend *backend, struct hostmem_error *err)
{
	if (backend->state == HOSTMEM_STATE_MAPPED)
		return hm_fail(err, HOSTMEM_ERROR_BUSY, 0,
			       "%s: cannot be deleted: '%s' holds it; release it first",
			       backend->id, backend->owner);
	if (hm_background_is_own_thread(backend))
		return hm_fail(err, HOSTMEM_ERROR_BUSY, 0,
			       "%s: cannot be deleted from inside its preallocation's callback",
			       backend->id);
	/*
	 * What runs in the background is cancelled; what somebody waits for is not. In a forked
	 * child nothing runs.
	 */
	if (!hm_backend_is_forked(backend) && (backend->state == HOSTMEM_STATE_COMPLETING ||
					       backend->running == HM_RUNNING_FOREGROUND))
		return hm_fail(err, HOSTMEM_ERROR_BUSY, 0, "%s: cannot be deleted while it is %s",
			       backend->id, backend->running ? "being preallocated" : "completing");
	if (backend->inhibitors)
		return hm_fail(err, HOSTMEM_ERROR_BUSY, 0,
			       "%s: cannot be deleted: '%s' has pinned its pages; allow discard "
			       "first",
			       backend->id, backend->inhibitors->name);
	if (backend->state == HOSTMEM_STATE_DELETED)
		return hm_fail(err, HOSTMEM_ERROR_STATE, 0, "%s: is deleted already", backend->id);
	return 0;
}

int hostmem_backend_can_be_deleted(const struct hostmem_backend *backend, struct hostmem_error *err)
{
	int result;

	pthread_mutex_lock(hm_backend_lock_of(backend));
	result = check_deletable(backend, err);
	pthread_mutex_unlock(hm_backend_lock_of(backend));
	return result;
}

static int give_back(struct hostmem_backend *backend, bool undo, struct hostmem_error *err)
{
	/* Who held `change` when this process was forked does not let go of it here. */
	bool forked = hm_backend_is_forked(backend);
	int result;

	pthread_mutex_lock(&backend->lock);
	result = check_deletable(backend, err);
	if (!result)
		backend->state = HOSTMEM_STATE_DELETED;
	pthread_mutex_unlock(&backend->lock);
	if (result)
		return -1;
	/* Without `change`, which a callback of what is cancelled may be about to take. */
	hm_background_end(backend);
	if (!forked)
		pthread_mutex_lock(&backend->change);
	hm_complete_undo(backend, undo);
	hm_objects_remove(backend->objects, &backend->entry);
	hm_thread_context_unlink(hm_objects_swap_link(backend, NULL));
	if (!forked)
		pthread_mutex_unlock(&backend->change);
	return 0;
}

int hostmem_backend_delete(struct hostmem_backend *backend, struct hostmem_error *err)
{
	return give_back(backend, false, err);
}

int hostmem_backend_undo(struct hostmem_backend *backend, struct hostmem_error *err)
{
	if (hm_backend_check_process(backend, "undo", err))
		return -1;
	return give_back(backend, true, err);
}

/* On the thread that fills it the backend is still in use: that frees it in the end. */
static bool leave_to_filler(struct hostmem_backend *backend)
{
	bool own;

	pthread_mutex_lock(&backend->lock);
	own = hm_background_is_own_thread(backend);
	if (own) {
		backend->orphaned = true;
		atomic_store(&backend->cancel, true);
	}
	pthread_mutex_unlock(&backend->lock);
	return own;
}

void hostmem_backend_free(struct hostmem_backend *backend)
{
	struct hostmem_objects *objects;

	if (!backend || leave_to_filler(backend))
		return;
	if (hostmem_backend_get_state(backend) != HOSTMEM_STATE_DELETED) {
		int result;

		hm_inhibit_clear(backend);
		result = hostmem_backend_delete(backend, NULL);
		assert(!result);
		(void)result;
	}
	objects = backend->objects;
	hm_backend_destroy(backend);
	hm_objects_unref(objects);
}

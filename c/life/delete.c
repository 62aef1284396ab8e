/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The end of a backend: whether it may be deleted, deleting it, undoing what completing made, also
 * when that failed, freeing the object.
 */
#include "kind.h"
#include "life.h"

/* Called with the lock held. */
static int check_deletable(const struct hostmem_backend *backend, struct hostmem_error *err)
{
	if (backend->state == HOSTMEM_STATE_MAPPED)
		return hm_fail(err, HOSTMEM_ERROR_BUSY, 0,
			       "%s: cannot be deleted: '%s' holds it; release it first",
			       backend->label, backend->owner);
	if (hm_running_is_filler(backend) || hm_running_is_teller(backend))
		return hm_fail(err, HOSTMEM_ERROR_BUSY, 0,
			       "%s: cannot be deleted from inside its preallocation's callback",
			       backend->label);
	/*
	 * A preallocation in the background is cancelled; one that a caller waits for is not. In a
	 * forked child nothing runs.
	 */
	if (!hm_backend_is_forked(backend) && (backend->state == HOSTMEM_STATE_COMPLETING ||
					       backend->running == HM_RUNNING_FOREGROUND))
		return hm_fail(err, HOSTMEM_ERROR_BUSY, 0, "%s: cannot be deleted while it is %s",
			       backend->label,
			       backend->running ? "being preallocated" : "completing");
	if (backend->inhibitors)
		return hm_fail(err, HOSTMEM_ERROR_BUSY, 0,
			       "%s: cannot be deleted: '%s' has pinned its pages; allow discard "
			       "first",
			       backend->label, backend->inhibitors->name);
	if (backend->state == HOSTMEM_STATE_DELETED)
		return hm_fail(err, HOSTMEM_ERROR_STATE, 0, "%s: is deleted already",
			       backend->label);
	return 0;
}

int hostmem_backend_can_be_deleted(const struct hostmem_backend *backend, struct hostmem_error *err)
{
	int result;

	hm_backend_enter(backend);
	pthread_mutex_lock(hm_backend_lock_of(backend));
	result = check_deletable(backend, err);
	pthread_mutex_unlock(hm_backend_lock_of(backend));
	return result;
}

void hm_delete_memory(struct hostmem_backend *backend, bool failed, struct hostmem_error *err)
{
	hm_lazy_stop(backend);
	/* One that it began to start when others were joined, which has called nobody. */
	if (!hm_backend_is_forked(backend))
		hm_background_join_teller(backend);
	/* A forked child does not have the memory: something else may be there by now. */
	if (hm_backend_is_forked(backend)) {
		backend->mapping = (struct hm_mapping){ 0 };
	} else {
		if (!failed)
			hm_backing_discard_data(backend);
		hm_map_destroy(&backend->mapping);
	}
	hm_backing_undo(backend, failed, err);
	atomic_store(&backend->bytes_done, 0);
	atomic_store(&backend->bytes_total, 0);
}

/* stays not NULL: what completing made goes too, and what of it stays is written there. */
static void take_down(struct hostmem_backend *backend, struct hostmem_error *stays)
{
	/* Without `change`, which a callback of what is cancelled may be about to lock. */
	hm_running_stop(backend);
	pthread_mutex_lock(&backend->change);
	hm_delete_memory(backend, stays, stays);
	hm_objects_remove(backend->objects, &backend->entry);
	hm_thread_context_unlink(hm_objects_swap_link(backend, NULL));
	pthread_mutex_unlock(&backend->change);
}

static int delete (struct hostmem_backend *backend, struct hostmem_error *stays,
		   struct hostmem_error *err)
{
	int result;

	hm_backend_enter(backend);
	pthread_mutex_lock(&backend->lock);
	result = check_deletable(backend, err);
	if (!result)
		backend->state = HOSTMEM_STATE_DELETED;
	pthread_mutex_unlock(&backend->lock);
	if (!result)
		take_down(backend, stays);
	return result;
}

int hostmem_backend_delete(struct hostmem_backend *backend, struct hostmem_error *err)
{
	return delete (backend, NULL, err);
}

int hostmem_backend_undo(struct hostmem_backend *backend, struct hostmem_error *err)
{
	struct hostmem_error stays = { 0 };

	if (hm_backend_check_process(backend, "undo", err) || delete (backend, &stays, err))
		return -1;
	return *stays.message ? hm_fail(err, HOSTMEM_ERROR_IO, stays.os_error,
					"%s: undo: it is deleted%s", backend->label, stays.message)
			      : 0;
}

/* On the thread that fills it the backend is still in use: that frees it in the end. */
static bool leave_to_filler(struct hostmem_backend *backend)
{
	bool own;

	pthread_mutex_lock(&backend->lock);
	own = hm_running_is_filler(backend) || hm_running_is_teller(backend);
	if (own) {
		backend->orphaned_by_teller = hm_running_is_teller(backend);
		backend->orphaned = true;
		atomic_store(&backend->cancel, true);
	}
	pthread_mutex_unlock(&backend->lock);
	return own;
}

void hostmem_backend_free(struct hostmem_backend *backend)
{
	struct hostmem_objects *objects;
	enum hostmem_state before;

	if (!backend)
		return;
	hm_backend_enter(backend);
	if (leave_to_filler(backend))
		return;
	pthread_mutex_lock(&backend->lock);
	before = backend->state;
	backend->state = HOSTMEM_STATE_DELETED;
	pthread_mutex_unlock(&backend->lock);
	if (before != HOSTMEM_STATE_DELETED)
		take_down(backend, NULL);
	objects = backend->objects;
	hm_backend_destroy(backend);
	hm_objects_unref(objects);
}

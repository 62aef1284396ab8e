/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Who has pinned a backend's memory and must not have it taken away. What taking away means is
 * discard.c's.
 */
#include <stdlib.h>
#include <string.h>

#include "life.h"

int hm_inhibit_check(const struct hostmem_backend *backend, const char *what,
		     struct hostmem_error *err)
{
	char name[HOSTMEM_ID_MAX + 1] = "";

	pthread_mutex_lock(hm_backend_lock_of(backend));
	if (backend->inhibitors)
		hm_text_copy(backend->inhibitors->name, name, sizeof(name));
	pthread_mutex_unlock(hm_backend_lock_of(backend));
	if (!*name)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_BUSY, 0,
		       "%s: %s: '%s' has inhibited it, since its device has pinned the pages",
		       backend->id, what, name);
}

static struct hm_inhibitor *new_inhibitor(const struct hostmem_backend *backend, const char *name,
					  struct hostmem_error *err)
{
	struct hm_inhibitor *inhibitor;

	if (!*name || strlen(name) > HOSTMEM_ID_MAX) {
		hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			"%s: the name of who inhibits discard has 1 to %d bytes, this one has %zu",
			backend->id, HOSTMEM_ID_MAX, strlen(name));
		return NULL;
	}
	inhibitor = calloc(1, sizeof(*inhibitor));
	if (!inhibitor) {
		hm_fail_alloc(err);
		return NULL;
	}
	hm_text_copy(name, inhibitor->name, sizeof(inhibitor->name));
	return inhibitor;
}

/* Called with the lock held. */
static int add(struct hostmem_backend *backend, struct hm_inhibitor *inhibitor)
{
	if (!hm_backend_has_memory(backend->state))
		return -1;
	inhibitor->next = backend->inhibitors;
	backend->inhibitors = inhibitor;
	return 0;
}

int hostmem_backend_inhibit_discard(struct hostmem_backend *backend, const char *name,
				    struct hostmem_error *err)
{
	struct hm_inhibitor *inhibitor;
	enum hostmem_state state;
	int result;

	if (hm_backend_check_process(backend, "inhibit discard", err))
		return -1;
	inhibitor = new_inhibitor(backend, name, err);
	if (!inhibitor)
		return -1;
	/* So that a discard that has begun is over when this returns. */
	pthread_mutex_lock(&backend->change);
	pthread_mutex_lock(&backend->lock);
	state = backend->state;
	result = add(backend, inhibitor);
	pthread_mutex_unlock(&backend->lock);
	pthread_mutex_unlock(&backend->change);
	if (!result)
		return 0;
	free(inhibitor);
	return hm_backend_fail_not_ready(backend, state, err);
}

/* Takes the first of that name out of the list, called with the lock held; NULL: there is none. */
static struct hm_inhibitor *take_out(struct hostmem_backend *backend, const char *name)
{
	struct hm_inhibitor **link = &backend->inhibitors, *found;

	while (*link && strcmp((*link)->name, name))
		link = &(*link)->next;
	found = *link;
	if (found)
		*link = found->next;
	return found;
}

int hostmem_backend_allow_discard(struct hostmem_backend *backend, const char *name,
				  struct hostmem_error *err)
{
	struct hm_inhibitor *found;

	pthread_mutex_lock(&backend->lock);
	found = take_out(backend, name);
	pthread_mutex_unlock(&backend->lock);
	if (!found)
		return hm_fail(err, HOSTMEM_ERROR_STATE, 0, "%s: discard is not inhibited by '%s'",
			       backend->id, name);
	free(found);
	return 0;
}

void hm_inhibit_clear(struct hostmem_backend *backend)
{
	while (backend->inhibitors) {
		struct hm_inhibitor *first = backend->inhibitors;

		backend->inhibitors = first->next;
		free(first);
	}
}

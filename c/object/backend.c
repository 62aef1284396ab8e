/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The record of a backend: state, values, memory, warnings, progress and callbacks, with the
 * getters of each. Does not change the state: that is the folder life.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "object.h"

static void reset_values(struct hostmem_backend *backend, const struct hostmem_defaults *defaults)
{
	struct hm_values *values = &backend->values;

	*values = (struct hm_values){
		.contents = backend->contents,
		.contents_order = backend->contents_order,
		.mem_path = backend->mem_path,
	};
	for (int i = 0; i < HM_PROPERTY_COUNT; i++) {
		const struct hm_row *row = hm_table_get((enum hm_property)i);

		backend->origins[i] = HOSTMEM_ORIGIN_DEFAULT;
		if (hm_table_is_of_backends(row))
			hm_value_store_initial(row, values);
	}
	values->merge = defaults->merge;
	values->dump = defaults->dump;
	values->prealloc = defaults->prealloc;
	values->prealloc_threads = defaults->prealloc_threads;
	values->share = backend->kind->share;
}

struct hostmem_backend *hm_backend_alloc(void)
{
	struct hostmem_backend *made = malloc(sizeof(*made));

	if (!made)
		return NULL;
	/* Clearing all bytes of the paths would take a third of the instructions of a small life.
	 */
	memset(made, 0, offsetof(struct hostmem_backend, contents));
	made->contents[0] = made->contents_order[0] = made->mem_path[0] = '\0';
	return made;
}

void hm_backend_init(struct hostmem_backend *backend, struct hostmem_objects *objects,
		     const struct hostmem_kind *kind, const char *id)
{
	pthread_condattr_t attributes;

	hm_text_copy(id ? id : "", backend->id, sizeof(backend->id));
	hm_text_copy(id ? id : kind->name, backend->label, sizeof(backend->label));
	backend->entry.id = backend->id;
	backend->entry.backend = backend;
	backend->fill_event = -1;
	backend->objects = objects;
	backend->kind = kind;
	backend->host = &objects->host;
	backend->state = HOSTMEM_STATE_CONFIGURING;
	atomic_init(&backend->here, atomic_load(&objects->here));
	backend->backing.fd = -1;
	backend->page_size = objects->host.page_size;
	pthread_mutex_init(&backend->change, NULL);
	pthread_mutex_init(&backend->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&backend->filled, &attributes);
	pthread_condattr_destroy(&attributes);
	hm_gaps_init(&backend->gaps);
	reset_values(backend, &objects->defaults);
}

static void free_warnings(struct hostmem_backend *backend)
{
	while (backend->warnings) {
		struct hm_warning *first = backend->warnings;

		backend->warnings = first->next;
		free(first);
	}
}

static void free_inhibitors(struct hostmem_backend *backend)
{
	while (backend->inhibitors) {
		struct hm_inhibitor *first = backend->inhibitors;

		backend->inhibitors = first->next;
		free(first);
	}
}

void hm_backend_destroy(struct hostmem_backend *backend)
{
	free_inhibitors(backend);
	if (backend->values.fd != HM_FD_NONE)
		hm_os_close((int)backend->values.fd);
	hm_thread_context_unlink(hm_objects_swap_link(backend, NULL));
	hm_gaps_destroy(&backend->gaps);
	hm_ranges_clear(&backend->inaccessible);
	free_warnings(backend);
	/* Destroying it waits for its waiters, which do not exist in a forked child. */
	if (!hm_backend_is_forked(backend))
		pthread_cond_destroy(&backend->filled);
	pthread_mutex_destroy(&backend->lock);
	pthread_mutex_destroy(&backend->change);
	free(backend);
}

static void renew(void *record)
{
	struct hostmem_backend *backend = record;

	hm_objects_enter(backend->objects);
	pthread_mutex_init(&backend->change, NULL);
	pthread_mutex_init(&backend->lock, NULL);
}

void hm_backend_enter(const struct hostmem_backend *backend)
{
	/* Which process it is in is no part of the backend's value. */
	struct hostmem_backend *own = (struct hostmem_backend *)(uintptr_t)backend;

	hm_thread_enter(&own->here, renew, own);
}

bool hm_backend_is_forked(const struct hostmem_backend *backend)
{
	pid_t process = atomic_load(&backend->process);

	return process && process != atomic_load(&backend->here);
}

int hm_backend_check_process(const struct hostmem_backend *backend, const char *what,
			     struct hostmem_error *err)
{
	hm_backend_enter(backend);
	if (!hm_backend_is_forked(backend))
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_STATE, 0,
		       "%s: %s: memory and preallocation belong to the process that completed the "
		       "backend, not to its forked children",
		       backend->label, what);
}

bool hm_backend_has_memory(enum hostmem_state state)
{
	return state == HOSTMEM_STATE_READY || state == HOSTMEM_STATE_MAPPED;
}

bool hm_backend_is_hugetlb(const struct hostmem_backend *backend)
{
	return backend->page_size > backend->host->page_size;
}

int hm_backend_fail_not_ready(const struct hostmem_backend *backend, enum hostmem_state state,
			      struct hostmem_error *err)
{
	return hm_fail(err, HOSTMEM_ERROR_STATE, 0,
		       "%s: there is no memory while the backend is %s; complete it first",
		       backend->label, hm_text_state(state));
}

pthread_mutex_t *hm_backend_lock_of(const struct hostmem_backend *backend)
{
	return &((struct hostmem_backend *)(uintptr_t)backend)->lock;
}

enum hostmem_state hm_backend_get_state(const struct hostmem_backend *backend)
{
	enum hostmem_state state;

	pthread_mutex_lock(hm_backend_lock_of(backend));
	state = backend->state;
	pthread_mutex_unlock(hm_backend_lock_of(backend));
	return state;
}

int hm_backend_check_whole(const struct hostmem_backend *backend, struct hostmem_error *err)
{
	if (!hm_map_has_hole(&backend->mapping))
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_STATE, 0,
		       "%s: the memory at offset %zu is lost, since the kernel failed twice to "
		       "replace it: delete the backend",
		       backend->label, backend->mapping.hole_begin);
}

int hm_backend_check_usable(const struct hostmem_backend *backend, struct hostmem_error *err)
{
	enum hostmem_state state = hm_backend_get_state(backend);

	if (!hm_backend_has_memory(state))
		return hm_backend_fail_not_ready(backend, state, err);
	return hm_backend_check_whole(backend, err);
}

enum hostmem_state hostmem_backend_get_state(const struct hostmem_backend *backend)
{
	hm_backend_enter(backend);
	return hm_backend_get_state(backend);
}

void hm_backend_copy_values(struct hostmem_backend *backend, const struct hostmem_backend *from)
{
	backend->values = from->values;
	backend->values.contents = backend->contents;
	backend->values.contents_order = backend->contents_order;
	backend->values.mem_path = backend->mem_path;
	hm_text_copy(from->contents, backend->contents, PATH_MAX);
	hm_text_copy(from->contents_order, backend->contents_order, PATH_MAX);
	hm_text_copy(from->mem_path, backend->mem_path, PATH_MAX);
	memcpy(backend->origins, from->origins, sizeof(backend->origins));
}

void hm_backend_snapshot(const struct hostmem_backend *backend, struct hm_values *values)
{
	pthread_mutex_lock(hm_backend_lock_of(backend));
	*values = backend->values;
	pthread_mutex_unlock(hm_backend_lock_of(backend));
}

const char *hostmem_backend_get_id(const struct hostmem_backend *backend)
{
	return backend->id;
}

const char *hostmem_backend_get_label(const struct hostmem_backend *backend)
{
	return backend->label;
}

int hostmem_backend_set_label(struct hostmem_backend *backend, const char *label,
			      struct hostmem_error *err)
{
	size_t length = strlen(label);

	if (hostmem_backend_get_state(backend) != HOSTMEM_STATE_CONFIGURING)
		return hm_fail(err, HOSTMEM_ERROR_STATE, 0,
			       "%s: its label can only be set before it is completed",
			       backend->label);
	if (!length || length > HOSTMEM_ID_MAX)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: a label has 1 to %d bytes, this one has %zu", backend->label,
			       HOSTMEM_ID_MAX, length);
	hm_text_copy(label, backend->label, sizeof(backend->label));
	return 0;
}

const char *hostmem_backend_get_kind(const struct hostmem_backend *backend)
{
	return backend->kind->name;
}

int hostmem_backend_get_name(const struct hostmem_backend *backend, char *buffer, size_t size,
			     struct hostmem_error *err)
{
	struct hm_values values;

	(void)err;
	hm_backend_enter(backend);
	hm_backend_snapshot(backend, &values);
	return snprintf(buffer, size, "%s%s", values.canonical_name ? "/objects/" : "",
			backend->id);
}

int hostmem_backend_get_owner(const struct hostmem_backend *backend, char *buffer, size_t size,
			      struct hostmem_error *err)
{
	int length;

	(void)err;
	hm_backend_enter(backend);
	pthread_mutex_lock(hm_backend_lock_of(backend));
	length = hm_text_copy(backend->owner, buffer, size);
	pthread_mutex_unlock(hm_backend_lock_of(backend));
	return length;
}

int hostmem_backend_get_memory(const struct hostmem_backend *backend, struct hostmem_memory *memory,
			       struct hostmem_error *err)
{
	enum hostmem_state state;
	bool there;

	hm_backend_enter(backend);
	pthread_mutex_lock(hm_backend_lock_of(backend));
	state = backend->state;
	there = hm_backend_has_memory(state);
	if (there)
		*memory = (struct hostmem_memory){
			.address = backend->mapping.address,
			.size = backend->mapping.size,
			.page_size = backend->page_size,
			.fd = backend->shared && atomic_load(&backend->unread)
				      ? -1
				      : backend->backing.fd,
			.shared = backend->shared,
			.readonly = backend->readonly,
			.hugetlb = hm_backend_is_hugetlb(backend),
			.offset = backend->backing.offset,
		};
	pthread_mutex_unlock(hm_backend_lock_of(backend));
	return there ? 0 : hm_backend_fail_not_ready(backend, state, err);
}

bool hm_backend_is_orphaned(const struct hostmem_backend *backend)
{
	bool orphaned;

	pthread_mutex_lock(hm_backend_lock_of(backend));
	orphaned = backend->orphaned;
	pthread_mutex_unlock(hm_backend_lock_of(backend));
	return orphaned;
}

bool hm_backend_is_running(const struct hostmem_backend *backend)
{
	bool running;

	pthread_mutex_lock(hm_backend_lock_of(backend));
	running = backend->running;
	pthread_mutex_unlock(hm_backend_lock_of(backend));
	return running;
}

/* ---- Warnings ---- */

/* Where that warning is, or where the next one comes. Called with the lock held. */
static struct hm_warning **find_warning(struct hostmem_backend *backend, enum hm_property property,
					enum hm_warning_cause cause)
{
	struct hm_warning **place = &backend->warnings;

	while (*place && ((*place)->property != property || (*place)->cause != cause))
		place = &(*place)->next;
	return place;
}

void hm_backend_unwarn(struct hostmem_backend *backend, enum hm_property property,
		       enum hm_warning_cause cause)
{
	struct hm_warning **place, *old;

	pthread_mutex_lock(&backend->lock);
	place = find_warning(backend, property, cause);
	old = *place;
	if (old)
		*place = old->next;
	pthread_mutex_unlock(&backend->lock);
	free(old);
}

void hm_backend_warn(struct hostmem_backend *backend, enum hm_property property,
		     enum hm_warning_cause cause, const char *format, ...)
{
	struct hm_warning *added = calloc(1, sizeof(*added));
	struct hm_warning **place, *replaced;
	va_list arguments;
	int length;

	if (!added)
		return;
	added->property = property;
	added->cause = cause;
	length = snprintf(added->text, sizeof(added->text),
			  "%s: ", hm_table_get(property)->public.name);
	va_start(arguments, format);
	vsnprintf(added->text + length, sizeof(added->text) - (size_t)length, format, arguments);
	va_end(arguments);
	hm_text_clean(added->text);
	pthread_mutex_lock(&backend->lock);
	place = find_warning(backend, property, cause);
	replaced = *place;
	added->next = replaced ? replaced->next : NULL;
	*place = added;
	pthread_mutex_unlock(&backend->lock);
	free(replaced);
}

int hostmem_backend_get_warning(const struct hostmem_backend *backend, size_t index, char *buffer,
				size_t size, struct hostmem_error *err)
{
	const struct hm_warning *warning;
	int length;

	(void)err;
	hm_backend_enter(backend);
	pthread_mutex_lock(hm_backend_lock_of(backend));
	warning = backend->warnings;
	while (warning && index--)
		warning = warning->next;
	length = hm_text_copy(warning ? warning->text : "", buffer, size);
	pthread_mutex_unlock(hm_backend_lock_of(backend));
	return length;
}

/* ---- Progress ---- */

void hostmem_backend_set_progress(struct hostmem_backend *backend,
				  hostmem_progress_callback callback, void *data)
{
	hm_backend_enter(backend);
	pthread_mutex_lock(&backend->lock);
	backend->progress = callback;
	backend->progress_data = data;
	pthread_mutex_unlock(&backend->lock);
}

void hostmem_backend_set_prealloc_done(struct hostmem_backend *backend,
				       hostmem_prealloc_callback callback, void *data)
{
	hm_backend_enter(backend);
	pthread_mutex_lock(&backend->lock);
	backend->done = callback;
	backend->done_data = data;
	pthread_mutex_unlock(&backend->lock);
}

void hostmem_backend_get_progress(const struct hostmem_backend *backend, uint64_t *done,
				  uint64_t *total)
{
	uint64_t all = atomic_load(&backend->bytes_total),
		 so_far = atomic_load(&backend->bytes_done);

	/* A larger preallocation may have begun between the two reads. */
	*done = so_far < all ? so_far : all;
	*total = all;
}

void hostmem_backend_get_prealloc_result(const struct hostmem_backend *backend,
					 struct hostmem_prealloc_result *result)
{
	hm_backend_enter(backend);
	pthread_mutex_lock(hm_backend_lock_of(backend));
	*result = backend->result;
	pthread_mutex_unlock(hm_backend_lock_of(backend));
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A set of objects: ids, kinds, defaults, links to thread-contexts, and the reference counts of the
 * set and of contexts. Does not know what a backend does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "object.h"

static void free_compat(struct hostmem_objects *objects)
{
	for (size_t i = 0; i < objects->compat_len; i++) {
		free(objects->compat[i].kind);
		free(objects->compat[i].property);
		free(objects->compat[i].value);
	}
	free(objects->compat);
}

static void free_kinds(struct hostmem_objects *objects)
{
	while (objects->registered) {
		struct hm_registered_kind *first = objects->registered;

		objects->registered = first->next;
		if (first->kind.free_data)
			first->kind.free_data(first->kind.data);
		free(first);
	}
}

static void destroy(struct hostmem_objects *objects)
{
	free_kinds(objects);
	free_compat(objects);
	pthread_mutex_destroy(&objects->lock);
	free(objects);
}

static int copy_compat(struct hostmem_objects *objects, const struct hostmem_compat *compat,
		       size_t compat_len)
{
	if (!compat_len)
		return 0;
	objects->compat = calloc(compat_len, sizeof(*objects->compat));
	if (!objects->compat)
		return -1;
	objects->compat_len = compat_len;
	for (size_t i = 0; i < compat_len; i++) {
		struct hm_compat *copy = &objects->compat[i];

		copy->kind = strdup(compat[i].kind);
		copy->property = strdup(compat[i].property);
		copy->value = strdup(compat[i].value);
		if (!copy->kind || !copy->property || !copy->value)
			return -1;
	}
	return 0;
}

int hm_objects_new(struct hostmem_objects **objects, const struct hostmem_host *host,
		   const struct hostmem_defaults *defaults, const struct hostmem_compat *compat,
		   size_t compat_len, struct hostmem_error *err)
{
	struct hostmem_objects *made = calloc(1, sizeof(*made));

	if (!made)
		return hm_fail_alloc(err);
	pthread_mutex_init(&made->lock, NULL);
	atomic_init(&made->here, hm_os_process());
	made->references = 1;
	made->host = *host;
	made->defaults = *defaults;
	if (copy_compat(made, compat, compat_len)) {
		destroy(made);
		return hm_fail_alloc(err);
	}
	*objects = made;
	return 0;
}

static void renew(void *record)
{
	struct hostmem_objects *objects = record;

	pthread_mutex_init(&objects->lock, NULL);
}

void hm_objects_enter(const struct hostmem_objects *objects)
{
	/* Which process it is in is no part of the set's value. */
	struct hostmem_objects *own = (struct hostmem_objects *)(uintptr_t)objects;

	hm_thread_enter(&own->here, renew, own);
}

void hm_objects_ref(struct hostmem_objects *objects)
{
	pthread_mutex_lock(&objects->lock);
	objects->references++;
	pthread_mutex_unlock(&objects->lock);
}

void hm_objects_unref(struct hostmem_objects *objects)
{
	size_t left;

	pthread_mutex_lock(&objects->lock);
	left = --objects->references;
	pthread_mutex_unlock(&objects->lock);
	if (!left)
		destroy(objects);
}

void hostmem_objects_free(struct hostmem_objects *objects)
{
	if (!objects)
		return;
	hm_objects_enter(objects);
	hm_objects_unref(objects);
}

/* ---- Kinds ---- */

/* Called with the lock held. */
static const struct hostmem_kind *kind_at(const struct hostmem_objects *objects, size_t index)
{
	const struct hm_registered_kind *registered = objects->registered;

	for (; registered && index; index--)
		registered = registered->next;
	return registered ? &registered->kind : NULL;
}

static const struct hostmem_kind *find_kind_locked(const struct hostmem_objects *objects,
						   const char *name)
{
	const struct hostmem_kind *kind;

	for (size_t i = 0; (kind = kind_at(objects, i)); i++) {
		if (!strcmp(kind->name, name))
			return kind;
	}
	return NULL;
}

const struct hostmem_kind *hm_objects_find_kind(struct hostmem_objects *objects, const char *name)
{
	const struct hostmem_kind *kind;

	pthread_mutex_lock(&objects->lock);
	kind = find_kind_locked(objects, name);
	pthread_mutex_unlock(&objects->lock);
	return kind;
}

const struct hostmem_kind *hostmem_objects_get_kind(const struct hostmem_objects *objects,
						    size_t index)
{
	/* The lock is taken for reading too. */
	pthread_mutex_t *lock = &((struct hostmem_objects *)(uintptr_t)objects)->lock;
	const struct hostmem_kind *kind;

	hm_objects_enter(objects);
	pthread_mutex_lock(lock);
	kind = kind_at(objects, index);
	pthread_mutex_unlock(lock);
	return kind;
}

size_t hostmem_objects_get_kind_count(const struct hostmem_objects *objects)
{
	size_t count = 0;

	while (hostmem_objects_get_kind(objects, count))
		count++;
	return count;
}

/* Appends, so that kinds keep their places. Called with the lock held. */
static int append_kind(struct hostmem_objects *objects, const struct hostmem_kind *kind,
		       struct hostmem_error *err)
{
	struct hm_registered_kind **end = &objects->registered;
	struct hm_registered_kind *added;

	if (find_kind_locked(objects, kind->name) || !strcmp(kind->name, HM_ABSTRACT_KIND) ||
	    !strcmp(kind->name, HOSTMEM_THREAD_CONTEXT))
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "kind '%s' exists already; choose another name", kind->name);
	added = calloc(1, sizeof(*added));
	if (!added)
		return hm_fail_alloc(err);
	added->kind = *kind;
	while (*end)
		end = &(*end)->next;
	*end = added;
	return 0;
}

int hostmem_objects_register_kind(struct hostmem_objects *objects, const struct hostmem_kind *kind,
				  struct hostmem_error *err)
{
	int result;

	hm_objects_enter(objects);
	if (hm_text_is_id(kind->name)) {
		pthread_mutex_lock(&objects->lock);
		result = append_kind(objects, kind, err);
		pthread_mutex_unlock(&objects->lock);
	} else {
		result = hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
				 "kind '%.128s': a name is a letter, then letters, digits, '-', "
				 "'.', '_', at most %d bytes",
				 kind->name, HOSTMEM_ID_MAX);
	}
	if (result && kind->free_data)
		kind->free_data(kind->data);
	return result;
}

/* ---- Ids ---- */

int hm_objects_check_id(const char *id, struct hostmem_error *err)
{
	if (hm_text_is_id(id))
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "id '%.128s': an id is a letter, then letters, digits, '-', '.', '_', at "
		       "most %d bytes",
		       id, HOSTMEM_ID_MAX);
}

/* Called with the set's lock held. */
static struct hm_entry *find_entry(const struct hostmem_objects *objects, const char *id)
{
	struct hm_entry *entry = objects->entries;

	while (entry && strcmp(entry->id, id) != 0)
		entry = entry->next;
	return entry;
}

/* Called with the set's lock held; false when the id is taken. */
static bool add_locked(struct hostmem_objects *objects, struct hm_entry *entry)
{
	if (find_entry(objects, entry->id))
		return false;
	entry->next = objects->entries;
	objects->entries = entry;
	objects->references++;
	return true;
}

int hm_objects_add(struct hostmem_objects *objects, struct hm_entry *entry,
		   struct hostmem_error *err)
{
	bool added;

	pthread_mutex_lock(&objects->lock);
	added = add_locked(objects, entry);
	pthread_mutex_unlock(&objects->lock);
	return added ? 0
		     : hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "id '%s' is taken by another object; choose another", entry->id);
}

void hm_objects_add_anonymous(struct hostmem_objects *objects, struct hostmem_backend *backend)
{
	pthread_mutex_lock(&objects->lock);
	do {
		snprintf(backend->id, sizeof(backend->id), "anonymous-%ju",
			 (uintmax_t)++objects->anonymous);
	} while (!add_locked(objects, &backend->entry));
	pthread_mutex_unlock(&objects->lock);
	hm_text_copy(backend->id, backend->label, sizeof(backend->label));
}

/* Called with the set's lock held. */
static void remove_locked(struct hostmem_objects *objects, const struct hm_entry *entry)
{
	struct hm_entry **link = &objects->entries;

	while (*link && *link != entry)
		link = &(*link)->next;
	if (*link)
		*link = entry->next;
}

void hm_objects_remove(struct hostmem_objects *objects, const struct hm_entry *entry)
{
	pthread_mutex_lock(&objects->lock);
	remove_locked(objects, entry);
	pthread_mutex_unlock(&objects->lock);
}

/* ---- Links to thread-contexts ---- */

struct hostmem_thread_context *hm_objects_link(struct hostmem_objects *objects, const char *id)
{
	struct hostmem_thread_context *context;
	const struct hm_entry *entry;

	pthread_mutex_lock(&objects->lock);
	entry = find_entry(objects, id);
	context = entry ? entry->context : NULL;
	if (context)
		context->links++;
	pthread_mutex_unlock(&objects->lock);
	return context;
}

struct hostmem_thread_context *hm_objects_get_link(const struct hostmem_backend *backend)
{
	struct hostmem_thread_context *context;

	pthread_mutex_lock(&backend->objects->lock);
	context = backend->context;
	if (context)
		context->links++;
	pthread_mutex_unlock(&backend->objects->lock);
	return context;
}

struct hostmem_thread_context *hm_objects_swap_link(struct hostmem_backend *backend,
						    struct hostmem_thread_context *context)
{
	struct hostmem_thread_context *before;

	pthread_mutex_lock(&backend->objects->lock);
	before = backend->context;
	backend->context = context;
	pthread_mutex_unlock(&backend->objects->lock);
	return before;
}

/* Removes it in the same critical section, so that no new link is made. With the set's lock held.
 */
static bool remove_if_unknown(struct hostmem_thread_context *context)
{
	if (context->links || context->has_handle)
		return false;
	remove_locked(context->objects, &context->entry);
	return true;
}

bool hm_objects_unlink(struct hostmem_thread_context *context)
{
	bool last;

	pthread_mutex_lock(&context->objects->lock);
	context->links--;
	last = remove_if_unknown(context);
	pthread_mutex_unlock(&context->objects->lock);
	return last;
}

bool hm_objects_drop_handle(struct hostmem_thread_context *context)
{
	bool last;

	pthread_mutex_lock(&context->objects->lock);
	context->has_handle = false;
	last = remove_if_unknown(context);
	pthread_mutex_unlock(&context->objects->lock);
	return last;
}

/* Called with the set's lock held. */
static bool find_user_locked(const struct hostmem_thread_context *context, char *user, size_t size)
{
	hm_text_copy("a preallocation", user, size);
	for (const struct hm_entry *entry = context->objects->entries; entry; entry = entry->next) {
		if (entry->backend && entry->backend->context == context)
			hm_text_copy(entry->id, user, size);
	}
	return context->links;
}

bool hm_objects_find_user(const struct hostmem_thread_context *context, char *user, size_t size)
{
	bool linked;

	pthread_mutex_lock(&context->objects->lock);
	linked = find_user_locked(context, user, size);
	pthread_mutex_unlock(&context->objects->lock);
	return linked;
}

bool hm_objects_remove_unlinked(struct hostmem_thread_context *context, char *user, size_t size)
{
	bool linked;

	pthread_mutex_lock(&context->objects->lock);
	linked = find_user_locked(context, user, size);
	if (!linked)
		remove_locked(context->objects, &context->entry);
	pthread_mutex_unlock(&context->objects->lock);
	return !linked;
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * New objects, with the defaults and compat values of their set.
 */
#include <stdlib.h>
#include <string.h>

#include "api.h"

int hostmem_objects_new(struct hostmem_objects **objects, const struct hostmem_host *host,
			const struct hostmem_defaults *defaults,
			const struct hostmem_compat *compat, size_t compat_len,
			struct hostmem_error *err)
{
	struct hostmem_objects *made;

	if (hm_objects_new(&made, host, defaults, compat, compat_len, err))
		return -1;
	if (hm_kinds_register(made, err)) {
		hostmem_objects_free(made);
		return -1;
	}
	*objects = made;
	return 0;
}

/* "a, b": the kinds of a set, for messages. */
static void list_kinds(const struct hostmem_objects *objects, char *text, size_t size)
{
	const struct hostmem_kind *kind;

	*text = '\0';
	for (size_t i = 0; (kind = hostmem_objects_get_kind(objects, i)); i++)
		hm_text_join(text, size, ", ", kind->name);
}

static const struct hostmem_kind *find_kind(struct hostmem_objects *objects, const char *name,
					    struct hostmem_error *err)
{
	const struct hostmem_kind *kind = hm_objects_find_kind(objects, name);
	const char *why = "does not exist";
	char kinds[512];

	if (kind)
		return kind;
	list_kinds(objects, kinds, sizeof(kinds));
	if (!strcmp(name, HM_ABSTRACT_KIND))
		why = "is abstract, no object can be made of it";
	else if (!strcmp(name, HOSTMEM_THREAD_CONTEXT))
		why = "is no backend";
	hm_fail(err, HOSTMEM_ERROR_VALUE, 0, "kind '%.128s' %s; kinds: %s", name, why, kinds);
	return NULL;
}

int hm_create_check_kind(struct hostmem_objects *objects, const char *kind,
			 struct hostmem_error *err)
{
	return find_kind(objects, kind, err) ? 0 : -1;
}

/* Whether a compat value applies to the backend's kind: 1 or 0; -1 if its kind does not exist. */
static int is_about(const struct hm_compat *compat, const struct hostmem_backend *backend,
		    struct hostmem_error *err)
{
	if (!strcmp(compat->kind, backend->kind->name) || !strcmp(compat->kind, HM_ABSTRACT_KIND))
		return 1;
	if (!strcmp(compat->kind, HOSTMEM_THREAD_CONTEXT))
		return 0;
	return find_kind(backend->objects, compat->kind, err) ? 0 : -1;
}

static int apply_compat(struct hostmem_backend *backend, struct hostmem_error *err)
{
	const struct hostmem_objects *objects = backend->objects;

	for (size_t i = 0; i < objects->compat_len; i++) {
		const struct hm_compat *compat = &objects->compat[i];
		int applies = is_about(compat, backend, err);

		if (applies < 0)
			return -1;
		if (applies && hm_props_set_compat(backend, compat->property, compat->value, err))
			return -1;
	}
	return 0;
}

static int apply_compat_to_context(struct hostmem_thread_context *context,
				   struct hostmem_error *err)
{
	const struct hostmem_objects *objects = context->objects;

	for (size_t i = 0; i < objects->compat_len; i++) {
		const struct hm_compat *compat = &objects->compat[i];

		if (!strcmp(compat->kind, HOSTMEM_THREAD_CONTEXT) &&
		    hostmem_thread_context_set_text(context, compat->property, compat->value, err))
			return -1;
	}
	return 0;
}

/* The record, which neither has its id in the set nor a reference to it. NULL on failure. */
static struct hostmem_backend *make_backend(struct hostmem_objects *objects, const char *kind,
					    const char *id, struct hostmem_error *err)
{
	const struct hostmem_kind *found = find_kind(objects, kind, err);
	struct hostmem_backend *made;

	if (!found)
		return NULL;
	made = hm_backend_alloc();
	if (!made) {
		hm_fail_alloc(err);
		return NULL;
	}
	hm_backend_init(made, objects, found, id);
	if (apply_compat(made, err)) {
		hm_backend_destroy(made);
		return NULL;
	}
	return made;
}

int hm_create_unlisted(struct hostmem_objects *objects, struct hostmem_backend **backend,
		       const char *kind, const char *id, struct hostmem_error *err)
{
	struct hostmem_backend *made = make_backend(objects, kind, id, err);

	if (!made)
		return -1;
	hm_objects_ref(objects);
	*backend = made;
	return 0;
}

int hostmem_backend_new(struct hostmem_objects *objects, struct hostmem_backend **backend,
			const char *kind, const char *id, struct hostmem_error *err)
{
	struct hostmem_backend *made;

	hm_objects_enter(objects);
	if (hm_create_check_kind(objects, kind, err) || (id && hm_objects_check_id(id, err)))
		return -1;
	made = make_backend(objects, kind, id, err);
	if (!made)
		return -1;
	if (id && hm_objects_add(objects, &made->entry, err)) {
		hm_backend_destroy(made);
		return -1;
	}
	if (!id)
		hm_objects_add_anonymous(objects, made);
	*backend = made;
	return 0;
}

int hostmem_thread_context_new(struct hostmem_objects *objects,
			       struct hostmem_thread_context **context, const char *id,
			       struct hostmem_error *err)
{
	struct hostmem_thread_context *made;

	hm_objects_enter(objects);
	if (hm_objects_check_id(id, err))
		return -1;
	made = calloc(1, sizeof(*made));
	if (!made)
		return hm_fail_alloc(err);
	hm_thread_context_init(made, objects, id);
	if (apply_compat_to_context(made, err) || hm_objects_add(objects, &made->entry, err)) {
		hm_thread_context_destroy(made);
		return -1;
	}
	*context = made;
	return 0;
}

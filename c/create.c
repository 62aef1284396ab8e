/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * New backends: empty ones with their defaults, and ones described by an option string.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"

/* The parent of all kinds; what is said of it holds for each. */
static const char abstract_kind[] = "memory-backend";

/* "a, b": the kinds of a set, for messages. */
static void list_kinds(const struct hostmem_objects *objects, char *text, size_t size)
{
	const struct hostmem_kind *kind;
	size_t length = 0;

	for (size_t i = 0; (kind = hostmem_objects_get_kind(objects, i)) && length < size; i++) {
		if (i)
			length += (size_t)hm_text_copy(", ", text + length, size - length);
		if (length < size)
			length += (size_t)hm_text_copy(kind->name, text + length, size - length);
	}
}

static const struct hostmem_kind *find_kind(struct hostmem_objects *objects, const char *name,
					    struct hostmem_error *err)
{
	const struct hostmem_kind *kind = hm_objects_find_kind(objects, name);
	char kinds[512];

	if (kind)
		return kind;
	list_kinds(objects, kinds, sizeof(kinds));
	hm_fail(err, HOSTMEM_ERROR_VALUE, 0, "kind '%.128s' %s; kinds: %s", name,
		strcmp(name, abstract_kind) ? "does not exist"
					    : "is abstract, no object can be made of it",
		kinds);
	return NULL;
}

static int check_id(const char *id, struct hostmem_error *err)
{
	if (hm_text_is_id(id))
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "id '%.128s': an id is a letter, then letters, digits, '-', '.', '_', at "
		       "most %d bytes",
		       id, HOSTMEM_ID_MAX);
}

/* Whether a compat value is about the kind: 1 or 0; -1 when it is about none that exists. */
static int is_about(const struct hm_compat *compat, const struct hostmem_backend *backend,
		    struct hostmem_error *err)
{
	if (!strcmp(compat->kind, backend->kind->name) || !strcmp(compat->kind, abstract_kind))
		return 1;
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

static void init(struct hostmem_backend *backend, struct hostmem_objects *objects,
		 const struct hostmem_kind *kind, const char *id)
{
	pthread_condattr_t attributes;

	hm_text_copy(id, backend->id, sizeof(backend->id));
	backend->fill_event = -1;
	backend->process = hm_os_process();
	backend->objects = objects;
	backend->kind = kind;
	backend->host = &objects->host;
	backend->state = HOSTMEM_STATE_CONFIGURING;
	backend->backing.fd = -1;
	backend->page_size = objects->host.page_size;
	pthread_mutex_init(&backend->change, NULL);
	pthread_mutex_init(&backend->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&backend->filled, &attributes);
	pthread_condattr_destroy(&attributes);
	hm_gaps_init(&backend->gaps);
	hm_props_reset(backend, &objects->defaults);
}

static void destroy(struct hostmem_backend *backend)
{
	hm_props_clear(backend);
	hm_gaps_destroy(&backend->gaps);
	pthread_cond_destroy(&backend->filled);
	pthread_mutex_destroy(&backend->lock);
	pthread_mutex_destroy(&backend->change);
	free(backend);
}

int hostmem_backend_new(struct hostmem_objects *objects, struct hostmem_backend **backend,
			const char *kind, const char *id, struct hostmem_error *err)
{
	const struct hostmem_kind *found = find_kind(objects, kind, err);
	struct hostmem_backend *made;

	if (!found || check_id(id, err))
		return -1;
	made = calloc(1, sizeof(*made));
	if (!made)
		return hm_fail_alloc(err);
	init(made, objects, found, id);
	if (apply_compat(made, err) || hm_objects_add(made, err)) {
		destroy(made);
		return -1;
	}
	*backend = made;
	return 0;
}

/* ---- Option strings ---- */

/* The parts of an option string; they point into a copy of it. */
struct option {
	char *key, *value;
};

static struct option *find_option(struct option *options, size_t count, const char *key)
{
	for (size_t i = 0; i < count; i++) {
		if (!strcmp(options[i].key, key))
			return &options[i];
	}
	return NULL;
}

/* Cuts `text` into options; the first part is the kind. */
static int split(char *text, struct option *options, size_t *count, struct hostmem_error *err)
{
	char *key, *value;

	*count = 0;
	while (hm_text_next_option(&text, &key, &value)) {
		if (!key && *count)
			return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
				       "option '%.128s' has no value; write %.128s=VALUE", value,
				       value);
		options[*count].key = key ? key : (char *)(uintptr_t) "qom-type";
		options[*count].value = value;
		(*count)++;
	}
	return 0;
}

/* The parts of a set that is given in several, as one text; NULL without memory. */
static char *join_values(const struct option *options, size_t count, const char *key)
{
	bool first = true;
	char *joined;
	size_t size = 1;

	for (size_t i = 0; i < count; i++)
		size += strlen(options[i].value) + 1;
	joined = calloc(1, size);
	for (size_t i = 0; joined && i < count; i++) {
		if (strcmp(options[i].key, key))
			continue;
		if (!first)
			strcat(joined, ",");
		strcat(joined, options[i].value);
		first = false;
	}
	return joined;
}

static int set_in_parts(struct hostmem_backend *backend, const struct option *options, size_t count,
			const char *key, struct hostmem_error *err)
{
	char *joined;
	int result = hm_props_is_set(backend, key, err);

	if (result < 0)
		return -1;
	if (!result)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0, "%s: %s is given twice", backend->id,
			       key);
	joined = join_values(options, count, key);
	if (!joined)
		return hm_fail_alloc(err);
	result = hostmem_backend_set_text(backend, key, joined, err);
	free(joined);
	return result;
}

static int set_options(struct hostmem_backend *backend, struct option *options, size_t count,
		       struct hostmem_error *err)
{
	for (size_t i = 0; i < count; i++) {
		const char *key = options[i].key;
		int result;

		if (!strcmp(key, "qom-type") || !strcmp(key, "id")) {
			if (find_option(&options[i + 1], count - i - 1, key))
				return hm_fail(err, HOSTMEM_ERROR_VALUE, 0, "%s: %s is given twice",
					       backend->id, key);
			continue;
		}
		if (find_option(options, i, key))
			continue;
		if (find_option(&options[i + 1], count - i - 1, key))
			result = set_in_parts(backend, options, count, key, err);
		else
			result = hostmem_backend_set_text(backend, key, options[i].value, err);
		if (result)
			return -1;
	}
	return 0;
}

static int new_from_parts(struct hostmem_objects *objects, struct hostmem_backend **backend,
			  struct option *options, size_t count, struct hostmem_error *err)
{
	const struct option *kind = find_option(options, count, "qom-type");
	const struct option *id = find_option(options, count, "id");

	if (!kind)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "the kind is missing; begin with it, as in "
			       "memory-backend-ram,id=ram0,size=1G");
	if (!find_kind(objects, kind->value, err))
		return -1;
	if (!id)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: id is missing; add one, for example id=ram0", kind->value);
	if (hostmem_backend_new(objects, backend, kind->value, id->value, err))
		return -1;
	if (set_options(*backend, options, count, err)) {
		hostmem_backend_free(*backend);
		return -1;
	}
	return 0;
}

int hostmem_backend_new_from_options(struct hostmem_objects *objects,
				     struct hostmem_backend **backend, const char *options,
				     struct hostmem_error *err)
{
	struct hostmem_backend *made = NULL;
	char *text = strdup(options);
	/* Each part but the last ends in a comma. */
	struct option *parts = calloc(strlen(options) + 1, sizeof(*parts));
	size_t count;
	int result;

	if (!text || !parts)
		result = hm_fail_alloc(err);
	else if (split(text, parts, &count, err))
		result = -1;
	else
		result = new_from_parts(objects, &made, parts, count, err);
	if (!result)
		*backend = made;
	free(parts);
	free(text);
	return result;
}

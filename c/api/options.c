/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Option strings, in the grammar of QEMU's -object: cut into parts, which are set on a new object.
 */
#include <stdlib.h>
#include <string.h>

#include "api.h"

/* What the options are set on: one of the two. */
struct target {
	const char *id, *kind;
	struct hostmem_backend *backend;
	struct hostmem_thread_context *context;
};

static int set(const struct target *target, const char *property, const char *text,
	       struct hostmem_error *err)
{
	if (target->context)
		return hostmem_thread_context_set_text(target->context, property, text, err);
	return hostmem_backend_set_text(target->backend, property, text, err);
}

/* The parts of an option string; they point into a copy of it. */
struct option {
	char *key, *value;
	/* What was given, where that is a property's name alone. */
	const char *alone;
};

static struct option *find_option(struct option *options, size_t count, const char *key)
{
	for (size_t i = 0; i < count; i++) {
		if (!strcmp(options[i].key, key))
			return &options[i];
	}
	return NULL;
}

/* Cuts `text` into options; a first part without a key is the kind. */
static size_t split(char *text, struct option *options)
{
	size_t count = 0;
	char *key, *value;

	for (; hm_text_next_option(&text, &key, &value); count++) {
		options[count] = (struct option){ .key = key, .value = value };
		if (key)
			continue;
		options[count].key = value;
		options[count].value = NULL;
		options[count].alone = value;
		if (!count)
			options[count] =
				(struct option){ (char *)(uintptr_t) "qom-type", value, NULL };
	}
	return count;
}

static bool is_bool(const struct target *target, const char *property)
{
	const struct hm_row *row = hm_table_find(target->id, target->kind, property, NULL);

	return row && row->public.type == HOSTMEM_TYPE_BOOL;
}

/* Gives a boolean property that is named alone its value, on, or off behind "no". */
static int complete_option(const struct target *target, struct option *option,
			   struct hostmem_error *err)
{
	if (option->value)
		return 0;
	if (is_bool(target, option->key)) {
		option->value = (char *)(uintptr_t) "on";
		return 0;
	}
	if (!strncmp(option->key, "no", 2) && is_bool(target, option->key + 2)) {
		option->key += 2;
		option->value = (char *)(uintptr_t) "off";
		return 0;
	}
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: option '%.128s' has no value; write %.128s=VALUE", target->id,
		       option->key, option->key);
}

static void warn_of_short_form(const struct target *target, const struct option *option)
{
	const struct hm_row *row = hm_table_find(target->id, target->kind, option->key, NULL);

	hm_backend_warn(target->backend, row->property, HM_WARNING_FORM,
			"'%s' without a value is deprecated; write %s=%s", option->alone,
			option->key, option->value);
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

static int set_in_parts(const struct target *target, const struct option *options, size_t count,
			const char *key, struct hostmem_error *err)
{
	const struct hm_row *row = hm_table_find(target->id, target->kind, key, err);
	char *joined;
	int result;

	if (!row)
		return -1;
	if (!hm_value_is_set(row))
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0, "%s: %s is given twice", target->id,
			       key);
	joined = join_values(options, count, key);
	if (!joined)
		return hm_fail_alloc(err);
	result = set(target, key, joined, err);
	free(joined);
	return result;
}

static int set_options(const struct target *target, struct option *options, size_t count,
		       struct hostmem_error *err)
{
	for (size_t i = 0; i < count; i++) {
		if (complete_option(target, &options[i], err))
			return -1;
	}
	for (size_t i = 0; i < count; i++) {
		const char *key = options[i].key;
		int result;

		if (!strcmp(key, "qom-type") || !strcmp(key, "id")) {
			if (find_option(&options[i + 1], count - i - 1, key))
				return hm_fail(err, HOSTMEM_ERROR_VALUE, 0, "%s: %s is given twice",
					       target->id, key);
			continue;
		}
		if (find_option(options, i, key))
			continue;
		if (find_option(&options[i + 1], count - i - 1, key))
			result = set_in_parts(target, options, count, key, err);
		else
			result = set(target, key, options[i].value, err);
		if (result)
			return -1;
		if (options[i].alone)
			warn_of_short_form(target, &options[i]);
	}
	return 0;
}

/* The parts of an option string, and the text that they point into. */
struct options {
	char *text;
	struct option *parts;
	size_t count;
};

static void free_options(struct options *options)
{
	free(options->parts);
	free(options->text);
}

static int parse_options(struct options *options, const char *text, struct hostmem_error *err)
{
	options->text = strdup(text);
	/* Each part but the last ends in a comma. */
	options->parts = calloc(strlen(text) + 1, sizeof(*options->parts));
	if (!options->text || !options->parts) {
		free_options(options);
		return hm_fail_alloc(err);
	}
	options->count = split(options->text, options->parts);
	return 0;
}

static const char *get_kind(const struct options *options, struct hostmem_error *err)
{
	const struct option *kind = find_option(options->parts, options->count, "qom-type");

	if (kind && kind->value)
		return kind->value;
	hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		"the kind is missing; begin with it, as in memory-backend-ram,id=ram0,size=1G");
	return NULL;
}

/* *id is NULL when there is none. */
static int get_id(const struct options *options, const char *kind, const char **id,
		  struct hostmem_error *err)
{
	const struct option *option = find_option(options->parts, options->count, "id");

	*id = option ? option->value : NULL;
	if (!option || option->value)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: id has no value; write id=VALUE, for example id=ram0", kind);
}

int hostmem_options_get_kind(const char *text, char *buffer, size_t size, struct hostmem_error *err)
{
	struct options options;
	const char *kind;
	int length = -1;

	if (parse_options(&options, text, err))
		return -1;
	kind = get_kind(&options, err);
	if (kind)
		length = hm_text_copy(kind, buffer, size);
	free_options(&options);
	return length;
}

static int new_backend(struct hostmem_objects *objects, struct hostmem_backend **backend,
		       const struct options *options, struct hostmem_error *err)
{
	const char *kind = get_kind(options, err), *id;
	struct target target = { 0 };

	if (!kind || hm_create_check_kind(objects, kind, err))
		return -1;
	if (get_id(options, kind, &id, err) ||
	    hostmem_backend_new(objects, &target.backend, kind, id, err))
		return -1;
	target.id = hostmem_backend_get_label(target.backend);
	target.kind = kind;
	if (set_options(&target, options->parts, options->count, err)) {
		hostmem_backend_free(target.backend);
		return -1;
	}
	*backend = target.backend;
	return 0;
}

int hostmem_backend_new_from_options(struct hostmem_objects *objects,
				     struct hostmem_backend **backend, const char *text,
				     struct hostmem_error *err)
{
	struct options options;
	int result;

	hm_objects_enter(objects);
	if (parse_options(&options, text, err))
		return -1;
	result = new_backend(objects, backend, &options, err);
	free_options(&options);
	return result;
}

/* The template's id is the name of its kind, for messages and names of threads. */
static int new_template(struct hostmem_objects *objects, struct hostmem_backend **template,
			const struct options *options, struct hostmem_error *err)
{
	const char *kind = get_kind(options, err);
	const struct option *id = find_option(options->parts, options->count, "id");
	struct target target = { 0 };

	if (!kind)
		return -1;
	if (id)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: pool: id=%.128s: a template has no id; each backend gets one "
			       "when it is taken",
			       kind, id->value ? id->value : "");
	if (hm_create_unlisted(objects, &target.backend, kind, kind, err))
		return -1;
	target.id = kind;
	target.kind = kind;
	if (set_options(&target, options->parts, options->count, err)) {
		hostmem_backend_free(target.backend);
		return -1;
	}
	*template = target.backend;
	return 0;
}

int hostmem_pool_new_from_options(struct hostmem_objects *objects, struct hostmem_pool **pool,
				  const char *text, uint32_t count, struct hostmem_error *err)
{
	struct hostmem_backend *template = NULL;
	struct options options;
	int result;

	hm_objects_enter(objects);
	if (parse_options(&options, text, err))
		return -1;
	result = new_template(objects, &template, &options, err);
	free_options(&options);
	if (result)
		return -1;
	result = hostmem_pool_new(pool, template, count, err);
	hostmem_backend_free(template);
	return result;
}

static int new_context(struct hostmem_objects *objects, struct hostmem_thread_context **context,
		       const struct options *options, struct hostmem_error *err)
{
	const char *kind = get_kind(options, err), *id;
	struct target target = { 0 };

	if (!kind)
		return -1;
	if (strcmp(kind, HOSTMEM_THREAD_CONTEXT) != 0)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "kind '%.128s' is no " HOSTMEM_THREAD_CONTEXT, kind);
	if (get_id(options, kind, &id, err))
		return -1;
	if (!id)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       HOSTMEM_THREAD_CONTEXT
			       ": id is missing; add one, for example id=tc0");
	if (hostmem_thread_context_new(objects, &target.context, id, err))
		return -1;
	target.id = id;
	target.kind = kind;
	if (set_options(&target, options->parts, options->count, err)) {
		hostmem_thread_context_free(target.context);
		return -1;
	}
	*context = target.context;
	return 0;
}

int hostmem_thread_context_new_from_options(struct hostmem_objects *objects,
					    struct hostmem_thread_context **context,
					    const char *text, struct hostmem_error *err)
{
	struct options options;
	int result;

	if (parse_options(&options, text, err))
		return -1;
	result = new_context(objects, context, &options, err);
	free_options(&options);
	return result;
}

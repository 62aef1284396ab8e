/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Setting and reading a property of an object, by its row of the table. What a change of a complete
 * object does is live.c's and thread_context.c's.
 */
#include <string.h>

#include "api.h"

/* ---- Setting a property of a backend ---- */

/*
 * Whether the property may be set now; called with the lock held. *live: the memory exists and has
 * to follow.
 */
static int check_settable(const struct hostmem_backend *backend, const struct hm_row *row,
			  bool *live, struct hostmem_error *err)
{
	bool ready = hm_backend_has_memory(backend->state);

	*live = ready;
	if (backend->state == HOSTMEM_STATE_CONFIGURING ||
	    (ready && row->public.settable != HOSTMEM_SETTABLE_CONFIGURING))
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_STATE, 0, "%s: %s cannot be set while it is %s; %s",
		       backend->label, row->public.name, hm_text_state(backend->state),
		       backend->state == HOSTMEM_STATE_COMPLETING
			       ? "wait until it is complete"
			       : "set it before completing, or make a new backend");
}

static void store_locked(struct hostmem_backend *backend, const struct hm_row *row,
			 const struct hm_value *value, enum hostmem_origin origin)
{
	hm_value_store(row, value, &backend->values);
	backend->origins[row->property] = (uint8_t)origin;
}

/* Called with `change` held. */
static int store(struct hostmem_backend *backend, const struct hm_row *row, struct hm_value *value,
		 enum hostmem_origin origin, struct hostmem_error *err)
{
	struct hm_values old, new;
	bool live;
	int failed;

	pthread_mutex_lock(&backend->lock);
	failed = check_settable(backend, row, &live, err);
	if (!failed && !live)
		store_locked(backend, row, value, origin);
	old = backend->values;
	pthread_mutex_unlock(&backend->lock);
	if (failed || !live)
		return failed;
	new = old;
	hm_value_store(row, value, &new);
	if (hm_backend_check_whole(backend, err) ||
	    hm_live_apply(backend, row->property, &old, &new, err))
		return -1;
	/* Applying may have changed the value: prealloc stays off while it runs. */
	hm_value_load(backend->host, row, &new, value);
	pthread_mutex_lock(&backend->lock);
	store_locked(backend, row, value, origin);
	pthread_mutex_unlock(&backend->lock);
	return 0;
}

/* Stores a duplicate of the descriptor, which the backend owns; called with `change` held. */
static int store_fd(struct hostmem_backend *backend, const struct hm_row *row,
		    struct hm_value *value, enum hostmem_origin origin, struct hostmem_error *err)
{
	uint64_t unused;
	int duplicate, result;

	if (value->number != HM_FD_NONE) {
		duplicate = hm_os_duplicate((int)value->number);
		if (duplicate < 0)
			return hm_fail(err, HOSTMEM_ERROR_VALUE, -duplicate,
				       "%s: %s=%ju cannot be duplicated: %s", backend->label,
				       row->public.name, (uintmax_t)value->number,
				       strerror(-duplicate));
		value->number = (uint64_t)duplicate;
	}
	unused = backend->values.fd;
	result = store(backend, row, value, origin, err);
	if (result)
		unused = value->number;
	if (unused != HM_FD_NONE)
		hm_os_close((int)unused);
	return result;
}

/* The linked object cannot be deleted while the link exists; called with `change` held. */
static int store_link(struct hostmem_backend *backend, const struct hm_row *row,
		      struct hm_value *value, enum hostmem_origin origin, struct hostmem_error *err)
{
	struct hostmem_thread_context *linked = NULL;
	int result;

	if (*value->text) {
		linked = hm_objects_link(backend->objects, value->text);
		if (!linked)
			return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
				       "%s: %s=%s: there is no thread-context of that id; make it "
				       "first",
				       backend->label, row->public.name, value->text);
	}
	result = store(backend, row, value, origin, err);
	if (!result)
		linked = hm_objects_swap_link(backend, linked);
	hm_thread_context_unlink(linked);
	return result;
}

/* By its number a descriptor may be one that other code of the process has opened. */
static int check_source(const struct hostmem_backend *backend, const struct hm_row *row,
			const struct hm_value *value, struct hostmem_error *err)
{
	if (row->public.type != HOSTMEM_TYPE_FD || value->form == HM_FORM_FD ||
	    value->number == row->initial || backend->objects->defaults.fd_by_number)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: %s=%ju: a descriptor is not accepted by its number, which may be "
		       "another file's; use Builder::fd (hostmem_backend_set_fd), or set "
		       "fd_by_number in the defaults",
		       backend->label, row->public.name, (uintmax_t)value->number);
}

static int set(struct hostmem_backend *backend, const char *property, struct hm_value *value,
	       enum hostmem_origin origin, struct hostmem_error *err)
{
	const struct hm_row *row =
		hm_table_find(backend->label, backend->kind->name, property, err);
	int result;

	if (!row || hm_value_check(backend->label, row, value, err) ||
	    check_source(backend, row, value, err) ||
	    hm_backend_check_process(backend, row->public.name, err))
		return -1;
	pthread_mutex_lock(&backend->change);
	if (row->public.type == HOSTMEM_TYPE_FD)
		result = store_fd(backend, row, value, origin, err);
	else if (row->public.type == HOSTMEM_TYPE_LINK)
		result = store_link(backend, row, value, origin, err);
	else
		result = store(backend, row, value, origin, err);
	pthread_mutex_unlock(&backend->change);
	return result;
}

int hm_props_set_compat(struct hostmem_backend *backend, const char *property, const char *text,
			struct hostmem_error *err)
{
	struct hm_value value = { .form = HM_FORM_TEXT, .text = text };

	return set(backend, property, &value, HOSTMEM_ORIGIN_COMPAT, err);
}

int hostmem_backend_set_text(struct hostmem_backend *backend, const char *property,
			     const char *text, struct hostmem_error *err)
{
	struct hm_value value = { .form = HM_FORM_TEXT, .text = text };

	return set(backend, property, &value, HOSTMEM_ORIGIN_USER, err);
}

int hostmem_backend_set_bool(struct hostmem_backend *backend, const char *property, bool value,
			     struct hostmem_error *err)
{
	struct hm_value boolean = { .form = HM_FORM_BOOL, .number = value };

	return set(backend, property, &boolean, HOSTMEM_ORIGIN_USER, err);
}

int hostmem_backend_set_number(struct hostmem_backend *backend, const char *property,
			       uint64_t value, struct hostmem_error *err)
{
	struct hm_value number = { .form = HM_FORM_NUMBER, .number = value };

	return set(backend, property, &number, HOSTMEM_ORIGIN_USER, err);
}

int hostmem_backend_set_list(struct hostmem_backend *backend, const char *property,
			     const uint32_t *list, size_t list_len, struct hostmem_error *err)
{
	struct hm_value value = { .form = HM_FORM_LIST, .list = list, .list_len = list_len };

	return set(backend, property, &value, HOSTMEM_ORIGIN_USER, err);
}

int hostmem_backend_set_fd(struct hostmem_backend *backend, const char *property, int32_t fd,
			   struct hostmem_error *err)
{
	/* A negative one is no descriptor, and too large a number. */
	struct hm_value value = { .form = HM_FORM_FD, .number = (uint32_t)fd };

	return set(backend, property, &value, HOSTMEM_ORIGIN_USER, err);
}

/* ---- Setting policy, host-nodes and home-node in one step ---- */

static const enum hm_property binding[] = {
	HM_PROPERTY_POLICY,
	HM_PROPERTY_HOST_NODES,
	HM_PROPERTY_HOME_NODE,
};

/* Called with `change` held. */
static int store_binding(struct hostmem_backend *backend, const struct hm_value *bound,
			 uint32_t flags, struct hostmem_rebind_result *rebound,
			 struct hostmem_error *err)
{
	struct hm_values old, new;

	if (hm_backend_check_usable(backend, err))
		return -1;
	hm_backend_snapshot(backend, &old);
	new = old;
	for (size_t i = 0; i < HM_ARRAY_LEN(binding); i++)
		hm_value_store(hm_table_get(binding[i]), &bound[i], &new);
	if (hm_live_rebind(backend, &old, &new, flags, rebound, err))
		return -1;
	pthread_mutex_lock(&backend->lock);
	for (size_t i = 0; i < HM_ARRAY_LEN(binding); i++)
		store_locked(backend, hm_table_get(binding[i]), &bound[i], HOSTMEM_ORIGIN_USER);
	pthread_mutex_unlock(&backend->lock);
	return 0;
}

int hostmem_backend_rebind(struct hostmem_backend *backend, struct hostmem_rebind_result *result,
			   const char *policy, const uint32_t *host_nodes, size_t host_nodes_len,
			   uint64_t home_node, uint32_t flags, struct hostmem_error *err)
{
	struct hm_value bound[HM_ARRAY_LEN(binding)] = {
		{ .form = HM_FORM_TEXT, .text = policy },
		{ .form = HM_FORM_LIST, .list = host_nodes, .list_len = host_nodes_len },
		{ .form = HM_FORM_NUMBER, .number = home_node },
	};
	struct hostmem_rebind_result rebound;
	int failed;

	for (size_t i = 0; i < HM_ARRAY_LEN(binding); i++) {
		if (hm_value_check(backend->label, hm_table_get(binding[i]), &bound[i], err))
			return -1;
	}
	if (flags & ~(uint32_t)HOSTMEM_REBIND_MOVE_ALL)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: rebind: flags 0x%x: expected enum hostmem_rebind_flag",
			       backend->label, flags);
	if (hm_backend_check_process(backend, "rebind", err))
		return -1;
	pthread_mutex_lock(&backend->change);
	failed = store_binding(backend, bound, flags, &rebound, err);
	pthread_mutex_unlock(&backend->change);
	if (!failed)
		*result = rebound;
	return failed;
}

/* ---- Reading a property of a backend ---- */

/* The value's text is in *values. */
static const struct hm_row *read_backend(const struct hostmem_backend *backend,
					 const char *property, enum hm_form form,
					 struct hm_values *values, struct hm_value *value,
					 struct hostmem_error *err)
{
	const struct hm_row *row =
		hm_table_find(backend->label, backend->kind->name, property, err);

	if (!row || hm_value_check_form(backend->label, row, form, err))
		return NULL;
	hm_backend_enter(backend);
	hm_backend_snapshot(backend, values);
	hm_value_load(backend->host, row, values, value);
	return row;
}

/* Writes at most list_size ids and returns how many the set has. */
static int list_ids(const struct hm_set *set, uint32_t *list, size_t list_size)
{
	size_t count = 0;

	for (uint64_t id = hm_set_next(set, 0); id < HM_SET_MAX; id = hm_set_next(set, id + 1)) {
		if (count < list_size)
			list[count] = (uint32_t)id;
		count++;
	}
	return (int)count;
}

int hostmem_backend_get_text(const struct hostmem_backend *backend, const char *property,
			     char *buffer, size_t size, struct hostmem_error *err)
{
	struct hm_values values;
	struct hm_value value;
	const struct hm_row *row =
		read_backend(backend, property, HM_FORM_TEXT, &values, &value, err);
	int length;

	if (!row)
		return -1;
	/* A path is in the record, where another thread may be setting it. */
	pthread_mutex_lock(hm_backend_lock_of(backend));
	length = hm_value_format(row, &value, buffer, size);
	pthread_mutex_unlock(hm_backend_lock_of(backend));
	return length;
}

int hostmem_backend_get_bool(const struct hostmem_backend *backend, const char *property,
			     bool *value, struct hostmem_error *err)
{
	struct hm_values values;
	struct hm_value boolean;
	const struct hm_row *row =
		read_backend(backend, property, HM_FORM_BOOL, &values, &boolean, err);

	if (!row)
		return -1;
	if (boolean.number > 1)
		return hm_fail(err, HOSTMEM_ERROR_TYPE, 0,
			       "%s: %s is '%s', which is no boolean; read it as text",
			       backend->label, row->public.name,
			       row->public.choices[boolean.number]);
	*value = boolean.number;
	return 0;
}

int hostmem_backend_get_number(const struct hostmem_backend *backend, const char *property,
			       uint64_t *value, struct hostmem_error *err)
{
	struct hm_values values;
	struct hm_value number;

	if (!read_backend(backend, property, HM_FORM_NUMBER, &values, &number, err))
		return -1;
	*value = number.number;
	return 0;
}

int hostmem_backend_get_list(const struct hostmem_backend *backend, const char *property,
			     uint32_t *list, size_t list_size, struct hostmem_error *err)
{
	struct hm_values values;
	struct hm_value value;

	if (!read_backend(backend, property, HM_FORM_LIST, &values, &value, err))
		return -1;
	return list_ids(&value.set, list, list_size);
}

int hostmem_backend_get_origin(const struct hostmem_backend *backend, const char *property,
			       enum hostmem_origin *origin, struct hostmem_error *err)
{
	const struct hm_row *row =
		hm_table_find(backend->label, backend->kind->name, property, err);

	if (!row)
		return -1;
	hm_backend_enter(backend);
	pthread_mutex_lock(hm_backend_lock_of(backend));
	*origin = (enum hostmem_origin)backend->origins[row->property];
	pthread_mutex_unlock(hm_backend_lock_of(backend));
	return 0;
}

/* ---- The properties of a thread-context ---- */

static int set_context(struct hostmem_thread_context *context, const char *property,
		       struct hm_value *value, struct hostmem_error *err)
{
	const struct hm_row *row =
		hm_table_find(context->id, HOSTMEM_THREAD_CONTEXT, property, err);

	if (!row || hm_thread_context_check_settable(context, row, err) ||
	    hm_value_check(context->id, row, value, err))
		return -1;
	return hm_thread_context_change(context, row, value, err);
}

int hostmem_thread_context_set_text(struct hostmem_thread_context *context, const char *property,
				    const char *text, struct hostmem_error *err)
{
	struct hm_value value = { .form = HM_FORM_TEXT, .text = text };

	return set_context(context, property, &value, err);
}

int hostmem_thread_context_set_list(struct hostmem_thread_context *context, const char *property,
				    const uint32_t *list, size_t list_len,
				    struct hostmem_error *err)
{
	struct hm_value value = { .form = HM_FORM_LIST, .list = list, .list_len = list_len };

	return set_context(context, property, &value, err);
}

/* As read_backend(); no property of a thread-context is text. */
static const struct hm_row *read_context(const struct hostmem_thread_context *context,
					 const char *property, enum hm_form form,
					 struct hm_value *value, struct hostmem_error *err)
{
	const struct hm_row *row =
		hm_table_find(context->id, HOSTMEM_THREAD_CONTEXT, property, err);
	struct hm_context_values values;

	if (row && row->public.write_only) {
		hm_fail(err, HOSTMEM_ERROR_STATE, 0, "%s: %s can only be set, not read",
			context->id, property);
		return NULL;
	}
	if (!row || hm_value_check_form(context->id, row, form, err))
		return NULL;
	hm_thread_context_read(context, &values);
	hm_value_load(&context->objects->host, row, &values, value);
	return row;
}

int hostmem_thread_context_get_text(const struct hostmem_thread_context *context,
				    const char *property, char *buffer, size_t size,
				    struct hostmem_error *err)
{
	struct hm_value value;
	const struct hm_row *row = read_context(context, property, HM_FORM_TEXT, &value, err);

	return row ? hm_value_format(row, &value, buffer, size) : -1;
}

int hostmem_thread_context_get_number(const struct hostmem_thread_context *context,
				      const char *property, uint64_t *value,
				      struct hostmem_error *err)
{
	struct hm_value number;

	if (!read_context(context, property, HM_FORM_NUMBER, &number, err))
		return -1;
	*value = number.number;
	return 0;
}

int hostmem_thread_context_get_list(const struct hostmem_thread_context *context,
				    const char *property, uint32_t *list, size_t list_size,
				    struct hostmem_error *err)
{
	struct hm_value value;

	return read_context(context, property, HM_FORM_LIST, &value, err)
		       ? list_ids(&value.set, list, list_size)
		       : -1;
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Setting and reading a property of an object, by its row of the table. What a change of a complete
 * object does is live.c's and thread_context.c's.
 */
#include <string.h>

#include "api.h"

static struct hm_subject subject_of(const struct hostmem_backend *backend)
{
	return (struct hm_subject){ .id = backend->id, .kind = backend->kind->name };
}

/* ---- Setting ---- */

static const char *settable_hint(const struct hostmem_backend *backend)
{
	return backend->state == HOSTMEM_STATE_COMPLETING
		       ? "wait until it is complete"
		       : "set it before completing, or make a new backend";
}

/*
 * Whether the property may be set now; called with the lock held. *live: the memory is there and
 * has to follow.
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
		       backend->id, row->public.name, hm_text_state(backend->state),
		       settable_hint(backend));
}

static void store_locked(struct hostmem_backend *backend, const struct hm_row *row,
			 const struct hm_values *values, enum hostmem_origin origin)
{
	hm_value_copy(row, &backend->values, values);
	backend->origins[row->property] = (uint8_t)origin;
}

/* Makes the value of the row in `from` the backend's; called with `change` held. */
static int store(struct hostmem_backend *backend, const struct hm_row *row,
		 const struct hm_values *from, enum hostmem_origin origin,
		 struct hostmem_error *err)
{
	struct hm_values old, new;
	bool live;
	int failed;

	pthread_mutex_lock(&backend->lock);
	failed = check_settable(backend, row, &live, err);
	if (!failed && !live)
		store_locked(backend, row, from, origin);
	old = backend->values;
	pthread_mutex_unlock(&backend->lock);
	if (failed || !live)
		return failed;
	new = old;
	hm_value_copy(row, &new, from);
	if (hm_live_apply(backend, row->property, &old, &new, err))
		return -1;
	pthread_mutex_lock(&backend->lock);
	store_locked(backend, row, &new, origin);
	pthread_mutex_unlock(&backend->lock);
	return 0;
}

static void close_fd(uint64_t fd)
{
	if (fd != HM_FD_NONE)
		hm_os_close((int)fd);
}

/* A descriptor is stored as a duplicate that the backend owns; called with `change` held. */
static int store_fd(struct hostmem_backend *backend, const struct hm_row *row,
		    struct hm_values *from, enum hostmem_origin origin, struct hostmem_error *err)
{
	uint64_t old = backend->values.fd;
	int duplicate, result;

	if (from->fd != HM_FD_NONE) {
		duplicate = hm_os_duplicate((int)from->fd);
		if (duplicate < 0)
			return hm_fail(err, HOSTMEM_ERROR_VALUE, -duplicate,
				       "%s: fd=%ju cannot be duplicated: %s", backend->id,
				       (uintmax_t)from->fd, strerror(-duplicate));
		from->fd = (uint64_t)duplicate;
	}
	result = store(backend, row, from, origin, err);
	close_fd(result ? from->fd : old);
	return result;
}

/* What is linked to cannot be deleted as long as the link is there; called with `change` held. */
static int store_link(struct hostmem_backend *backend, const struct hm_row *row,
		      const struct hm_values *from, enum hostmem_origin origin,
		      struct hostmem_error *err)
{
	struct hostmem_thread_context *linked = NULL;
	int result;

	if (*from->prealloc_context) {
		linked = hm_objects_link(backend->objects, from->prealloc_context);
		if (!linked)
			return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
				       "%s: %s=%s: there is no thread-context of that id; make it "
				       "first",
				       backend->id, row->public.name, from->prealloc_context);
	}
	result = store(backend, row, from, origin, err);
	if (!result)
		linked = hm_objects_swap_link(backend, linked);
	hm_thread_context_unlink(linked);
	return result;
}

static int store_as(struct hostmem_backend *backend, const struct hm_row *row,
		    struct hm_values *from, enum hostmem_origin origin, struct hostmem_error *err)
{
	int result;

	if (hm_backend_check_process(backend, row->public.name, err))
		return -1;
	pthread_mutex_lock(&backend->change);
	if (row->public.type == HOSTMEM_TYPE_FD)
		result = store_fd(backend, row, from, origin, err);
	else if (row->public.type == HOSTMEM_TYPE_LINK)
		result = store_link(backend, row, from, origin, err);
	else
		result = store(backend, row, from, origin, err);
	pthread_mutex_unlock(&backend->change);
	return result;
}

static int set_text(struct hostmem_backend *backend, const char *property, const char *text,
		    enum hostmem_origin origin, struct hostmem_error *err)
{
	const struct hm_subject subject = subject_of(backend);
	const struct hm_row *row = hm_table_find(&subject, property, err);
	struct hm_values values;

	if (!row || hm_value_parse(&subject, row, text, &values, err))
		return -1;
	return store_as(backend, row, &values, origin, err);
}

int hostmem_backend_set_text(struct hostmem_backend *backend, const char *property,
			     const char *text, struct hostmem_error *err)
{
	return set_text(backend, property, text, HOSTMEM_ORIGIN_USER, err);
}

int hm_props_set_compat(struct hostmem_backend *backend, const char *property, const char *text,
			struct hostmem_error *err)
{
	return set_text(backend, property, text, HOSTMEM_ORIGIN_COMPAT, err);
}

int hostmem_backend_set_bool(struct hostmem_backend *backend, const char *property, bool value,
			     struct hostmem_error *err)
{
	const struct hm_subject subject = subject_of(backend);
	const struct hm_row *row = hm_table_find(&subject, property, err);
	struct hm_values values;

	if (!row || hm_value_put_bool(&subject, row, value, &values, err))
		return -1;
	return store_as(backend, row, &values, HOSTMEM_ORIGIN_USER, err);
}

int hostmem_backend_set_number(struct hostmem_backend *backend, const char *property,
			       uint64_t value, struct hostmem_error *err)
{
	const struct hm_subject subject = subject_of(backend);
	const struct hm_row *row = hm_table_find(&subject, property, err);
	struct hm_values values;

	if (!row || hm_value_put_number(&subject, row, value, &values, err))
		return -1;
	return store_as(backend, row, &values, HOSTMEM_ORIGIN_USER, err);
}

int hostmem_backend_set_list(struct hostmem_backend *backend, const char *property,
			     const uint32_t *list, size_t list_len, struct hostmem_error *err)
{
	const struct hm_subject subject = subject_of(backend);
	const struct hm_row *row = hm_table_find(&subject, property, err);
	struct hm_values values;

	if (!row || hm_value_put_list(&subject, row, list, list_len, &values, err))
		return -1;
	return store_as(backend, row, &values, HOSTMEM_ORIGIN_USER, err);
}

/* ---- Setting what belongs together ---- */

static const enum hm_property binding[] = {
	HM_PROPERTY_POLICY,
	HM_PROPERTY_HOST_NODES,
	HM_PROPERTY_HOME_NODE,
};

/* As store(), for the three at once; called with `change` held. */
static int store_binding(struct hostmem_backend *backend, const struct hm_values *from,
			 uint32_t flags, struct hostmem_rebind_result *rebound,
			 struct hostmem_error *err)
{
	enum hostmem_state state = hostmem_backend_get_state(backend);
	struct hm_values old, new;

	if (!hm_backend_has_memory(state))
		return hm_backend_fail_not_ready(backend, state, err);
	hm_backend_snapshot(backend, &old);
	new = old;
	new.policy = from->policy;
	new.host_nodes = from->host_nodes;
	new.home_node = from->home_node;
	if (hm_live_rebind(backend, &old, &new, flags, rebound, err))
		return -1;
	pthread_mutex_lock(&backend->lock);
	for (size_t i = 0; i < HM_ARRAY_LEN(binding); i++)
		store_locked(backend, hm_table_get(binding[i]), &new, HOSTMEM_ORIGIN_USER);
	pthread_mutex_unlock(&backend->lock);
	return 0;
}

int hostmem_backend_rebind(struct hostmem_backend *backend, struct hostmem_rebind_result *result,
			   const char *policy, const uint32_t *host_nodes, size_t host_nodes_len,
			   uint64_t home_node, uint32_t flags, struct hostmem_error *err)
{
	const struct hm_subject subject = subject_of(backend);
	struct hostmem_rebind_result rebound;
	struct hm_values values;
	int failed;

	if (hm_value_parse(&subject, hm_table_get(HM_PROPERTY_POLICY), policy, &values, err) ||
	    hm_value_put_list(&subject, hm_table_get(HM_PROPERTY_HOST_NODES), host_nodes,
			      host_nodes_len, &values, err) ||
	    hm_value_put_number(&subject, hm_table_get(HM_PROPERTY_HOME_NODE), home_node, &values,
				err))
		return -1;
	if (flags & ~(uint32_t)HOSTMEM_REBIND_MOVE_ALL)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: rebind: flags 0x%x: expected enum hostmem_rebind_flag",
			       backend->id, flags);
	if (hm_backend_check_process(backend, "rebind", err))
		return -1;
	pthread_mutex_lock(&backend->change);
	failed = store_binding(backend, &values, flags, &rebound, err);
	pthread_mutex_unlock(&backend->change);
	if (!failed)
		*result = rebound;
	return failed;
}

/* ---- Reading ---- */

/* The effective value of every property. */
static void read_values(const struct hostmem_backend *backend, struct hm_values *values)
{
	hm_backend_snapshot(backend, values);
	if (!values->prealloc_threads)
		values->prealloc_threads = hm_topology_count_cpus();
}

int hostmem_backend_get_text(const struct hostmem_backend *backend, const char *property,
			     char *buffer, size_t size, struct hostmem_error *err)
{
	const struct hm_subject subject = subject_of(backend);
	const struct hm_row *row = hm_table_find(&subject, property, err);
	struct hm_values values;

	if (!row)
		return -1;
	read_values(backend, &values);
	return hm_value_format(row, &values, buffer, size);
}

int hostmem_backend_get_bool(const struct hostmem_backend *backend, const char *property,
			     bool *value, struct hostmem_error *err)
{
	const struct hm_subject subject = subject_of(backend);
	const struct hm_row *row = hm_table_find(&subject, property, err);
	struct hm_values values;

	if (!row)
		return -1;
	read_values(backend, &values);
	return hm_value_get_bool(&subject, row, &values, value, err);
}

int hostmem_backend_get_number(const struct hostmem_backend *backend, const char *property,
			       uint64_t *value, struct hostmem_error *err)
{
	const struct hm_subject subject = subject_of(backend);
	const struct hm_row *row = hm_table_find(&subject, property, err);
	struct hm_values values;

	if (!row)
		return -1;
	read_values(backend, &values);
	return hm_value_get_number(&subject, row, &values, value, err);
}

int hostmem_backend_get_list(const struct hostmem_backend *backend, const char *property,
			     uint32_t *list, size_t list_size, struct hostmem_error *err)
{
	const struct hm_subject subject = subject_of(backend);
	const struct hm_row *row = hm_table_find(&subject, property, err);
	struct hm_values values;

	if (!row)
		return -1;
	read_values(backend, &values);
	return hm_value_get_list(&subject, row, &values, list, list_size, err);
}

int hostmem_backend_get_origin(const struct hostmem_backend *backend, const char *property,
			       enum hostmem_origin *origin, struct hostmem_error *err)
{
	const struct hm_subject subject = subject_of(backend);
	const struct hm_row *row = hm_table_find(&subject, property, err);

	if (!row)
		return -1;
	pthread_mutex_lock(hm_backend_lock_of(backend));
	*origin = (enum hostmem_origin)backend->origins[row->property];
	pthread_mutex_unlock(hm_backend_lock_of(backend));
	return 0;
}

/* ---- Of a thread-context ---- */

static struct hm_subject subject_of_context(const struct hostmem_thread_context *context)
{
	return (struct hm_subject){ .id = context->id, .kind = HOSTMEM_THREAD_CONTEXT };
}

int hostmem_thread_context_set_text(struct hostmem_thread_context *context, const char *property,
				    const char *text, struct hostmem_error *err)
{
	const struct hm_subject subject = subject_of_context(context);
	const struct hm_row *row = hm_table_find(&subject, property, err);
	struct hm_values values = { 0 };

	if (!row || hm_thread_context_check_settable(context, row, err) ||
	    hm_value_parse(&subject, row, text, &values, err))
		return -1;
	return hm_thread_context_change(context, row, &values, err);
}

int hostmem_thread_context_set_list(struct hostmem_thread_context *context, const char *property,
				    const uint32_t *list, size_t list_len,
				    struct hostmem_error *err)
{
	const struct hm_subject subject = subject_of_context(context);
	const struct hm_row *row = hm_table_find(&subject, property, err);
	struct hm_values values = { 0 };

	if (!row || hm_thread_context_check_settable(context, row, err) ||
	    hm_value_put_list(&subject, row, list, list_len, &values, err))
		return -1;
	return hm_thread_context_change(context, row, &values, err);
}

/* The row of a property and the values to read it from; NULL when it cannot be read. */
static const struct hm_row *read_context(const struct hostmem_thread_context *context,
					 const char *property, struct hm_values *values,
					 struct hostmem_error *err)
{
	const struct hm_subject subject = subject_of_context(context);
	const struct hm_row *row = hm_table_find(&subject, property, err);

	if (row && row->public.write_only) {
		hm_fail(err, HOSTMEM_ERROR_STATE, 0, "%s: %s can only be set; read cpu-affinity",
			context->id, property);
		return NULL;
	}
	if (row)
		hm_thread_context_read(context, values);
	return row;
}

int hostmem_thread_context_get_text(const struct hostmem_thread_context *context,
				    const char *property, char *buffer, size_t size,
				    struct hostmem_error *err)
{
	struct hm_values values;
	const struct hm_row *row = read_context(context, property, &values, err);

	return row ? hm_value_format(row, &values, buffer, size) : -1;
}

int hostmem_thread_context_get_number(const struct hostmem_thread_context *context,
				      const char *property, uint64_t *value,
				      struct hostmem_error *err)
{
	const struct hm_subject subject = subject_of_context(context);
	struct hm_values values;
	const struct hm_row *row = read_context(context, property, &values, err);

	return row ? hm_value_get_number(&subject, row, &values, value, err) : -1;
}

int hostmem_thread_context_get_list(const struct hostmem_thread_context *context,
				    const char *property, uint32_t *list, size_t list_size,
				    struct hostmem_error *err)
{
	const struct hm_subject subject = subject_of_context(context);
	struct hm_values values;
	const struct hm_row *row = read_context(context, property, &values, err);

	return row ? hm_value_get_list(&subject, row, &values, list, list_size, err) : -1;
}

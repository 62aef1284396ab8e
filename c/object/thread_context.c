/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Thread-contexts: a thread that creates other threads, which inherit its CPU affinity, however
 * that was set. Owns that thread, the affinity, and the life of the context.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "object.h"

/* ---- Forked children, and the lock ---- */

static bool is_forked(const struct hostmem_thread_context *context)
{
	return hm_os_is_other_process(atomic_load(&context->process));
}

static int check_process(const struct hostmem_thread_context *context, const char *what,
			 struct hostmem_error *err)
{
	return is_forked(context) ? hm_fail(err, HOSTMEM_ERROR_STATE, 0,
					    "%s: %s: its thread belongs to the process that "
					    "completed it, not to its forked children",
					    context->id, what)
				  : 0;
}

/* The lock is taken for reading too. */
static pthread_mutex_t *change_of(const struct hostmem_thread_context *context)
{
	return &((struct hostmem_thread_context *)(uintptr_t)context)->change;
}

static void renew(void *record)
{
	struct hostmem_thread_context *context = record;

	hm_objects_enter(context->objects);
	pthread_mutex_init(&context->change, NULL);
}

/* In a forked child the locks of the context and of its set are made new. */
static void enter(const struct hostmem_thread_context *context)
{
	/* Which process it is in is no part of the context's value. */
	struct hostmem_thread_context *own = (struct hostmem_thread_context *)(uintptr_t)context;

	hm_thread_enter(&own->here, renew, own);
}

static void begin_change(const struct hostmem_thread_context *context)
{
	enter(context);
	pthread_mutex_lock(change_of(context));
}

static void end_change(const struct hostmem_thread_context *context)
{
	pthread_mutex_unlock(change_of(context));
}

/* ---- Its thread ---- */

static void serve(struct hostmem_thread_context *context)
{
	hm_thread_create_all(context->creation);
	context->creation = NULL;
	pthread_cond_broadcast(&context->served);
}

static void *run(void *data)
{
	struct hostmem_thread_context *context = data;

	hm_call_name_thread(&context->objects->host, context->id);
	pthread_mutex_lock(&context->lock);
	context->thread_id = (uint64_t)hm_os_thread();
	pthread_cond_broadcast(&context->served);
	while (!context->ending) {
		if (context->creation)
			serve(context);
		else
			pthread_cond_wait(&context->asked, &context->lock);
	}
	pthread_mutex_unlock(&context->lock);
	return NULL;
}

static bool has_thread(const struct hostmem_thread_context *context)
{
	return context->thread_id != HM_THREAD_NONE && !is_forked(context);
}

void hm_thread_context_create(struct hostmem_thread_context *context, struct hm_creation *creation)
{
	if (!has_thread(context))
		return;
	/* One request at a time. */
	pthread_mutex_lock(&context->turn);
	pthread_mutex_lock(&context->lock);
	context->creation = creation;
	pthread_cond_signal(&context->asked);
	while (context->creation)
		pthread_cond_wait(&context->served, &context->lock);
	pthread_mutex_unlock(&context->lock);
	pthread_mutex_unlock(&context->turn);
}

static int start_thread(struct hostmem_thread_context *context, struct hostmem_error *err)
{
	int result;

	context->ending = false;
	result = hm_thread_create(&context->thread, run, context);
	if (result)
		return hm_fail(err, hm_error_kind_of(-result), -result,
			       "%s: cannot create its thread: %s%s", context->id, strerror(-result),
			       result == -EAGAIN ? "; the limits are RLIMIT_NPROC (ulimit -u) and "
						   "pids.max of the control group"
						 : "");
	pthread_mutex_lock(&context->lock);
	while (context->thread_id == HM_THREAD_NONE)
		pthread_cond_wait(&context->served, &context->lock);
	pthread_mutex_unlock(&context->lock);
	return 0;
}

static void end_thread(struct hostmem_thread_context *context)
{
	if (!has_thread(context))
		return;
	pthread_mutex_lock(&context->lock);
	context->ending = true;
	pthread_cond_signal(&context->asked);
	pthread_mutex_unlock(&context->lock);
	pthread_join(context->thread, NULL);
	context->thread_id = HM_THREAD_NONE;
}

/* ---- CPU affinity ---- */

static int find_cpus_of_nodes(const struct hostmem_thread_context *context,
			      const struct hm_set *nodes, struct hm_set *cpus,
			      struct hostmem_error *err)
{
	const struct hm_seen *seen = &context->objects->host.seen;
	struct hm_topology topology;
	struct hm_set missing = *nodes;
	char bad[128];

	hm_topology_read(&topology, seen);
	hm_set_subtract(&missing, &topology.online);
	hm_set_format(&missing, bad, sizeof(bad));
	if (!hm_set_is_empty(&topology.online) && !hm_set_is_empty(&missing))
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       hm_set_count(&missing) == 1
				       ? "%s: node-affinity: node %s is not a node of this host"
				       : "%s: node-affinity: nodes %s are not nodes of this host",
			       context->id, bad);
	hm_topology_get_node_cpus(nodes, cpus, seen);
	if (!hm_set_is_empty(cpus))
		return 0;
	if (hm_set_is_empty(&topology.online))
		return hm_fail(
			err, HOSTMEM_ERROR_UNSUPPORTED, 0,
			"%s: node-affinity: the CPUs of the nodes cannot be told without "
			"/sys/devices/system/node; use cpu-affinity, or probe the host before "
			"it is hidden",
			context->id);
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: node-affinity: there is no CPU on or near these nodes", context->id);
}

static int check_online(const struct hostmem_thread_context *context, const struct hm_set *cpus,
			struct hostmem_error *err)
{
	struct hm_set online, missing = *cpus;
	char bad[128], have[128];

	hm_topology_get_online_cpus(&online);
	hm_set_subtract(&missing, &online);
	/* Where that cannot be told the kernel decides. */
	if (hm_set_is_empty(&online) || hm_set_is_empty(&missing))
		return 0;
	hm_set_format(&missing, bad, sizeof(bad));
	hm_set_format(&online, have, sizeof(have));
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       hm_set_count(&missing) == 1
			       ? "%s: cpu-affinity: CPU %s is not online; online CPUs: %s"
			       : "%s: cpu-affinity: CPUs %s are not online; online CPUs: %s",
		       context->id, bad, have);
}

/* Moves its thread, and back where the cpuset allows only a part of the CPUs. */
static int pin(struct hostmem_thread_context *context, const struct hm_set *cpus,
	       struct hostmem_error *err)
{
	pid_t thread = (pid_t)context->thread_id;
	struct hm_set before, now;
	char bad[128];
	int result;

	if (!has_thread(context))
		return hm_fail(err, HOSTMEM_ERROR_STATE, 0,
			       "%s: cpu-affinity: the thread-context is deleted", context->id);
	if (check_online(context, cpus, err))
		return -1;
	result = hm_os_get_affinity(thread, &before);
	if (result >= 0)
		result = hm_os_set_affinity(thread, cpus);
	if (result >= 0)
		result = hm_os_get_affinity(thread, &now);
	if (result < 0)
		return hm_fail(err, hm_error_kind_of(-result), -result,
			       "%s: cpu-affinity: cannot move its thread: %s%s", context->id,
			       strerror(-result),
			       result == -EINVAL ? "; the CPUs are not there or outside this "
						   "process's cpuset (cpuset.cpus)"
						 : "");
	if (!hm_set_format_missing(cpus, &now, bad, sizeof(bad)))
		return 0;
	hm_os_set_affinity(thread, &before);
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: cpu-affinity: CPU %s is outside this process's cpuset (cpuset.cpus)",
		       context->id, bad);
}

/* Does nothing where neither property is set: a thread begins where its creator runs. */
static int apply_affinity(struct hostmem_thread_context *context,
			  const struct hm_context_values *values, struct hostmem_error *err)
{
	struct hm_set cpus = values->cpu_affinity;

	if (!hm_set_is_empty(&values->node_affinity) &&
	    find_cpus_of_nodes(context, &values->node_affinity, &cpus, err))
		return -1;
	return hm_set_is_empty(&cpus) ? 0 : pin(context, &cpus, err);
}

size_t hm_thread_context_count_cpus(const struct hostmem_thread_context *context)
{
	struct hm_context_values values;

	hm_thread_context_read(context, &values);
	return hm_set_count(&values.cpu_affinity);
}

/* ---- Properties ---- */

int hm_thread_context_check_settable(const struct hostmem_thread_context *context,
				     const struct hm_row *row, struct hostmem_error *err)
{
	enum hostmem_state state = hostmem_thread_context_get_state(context);

	if (row->public.settable == HOSTMEM_SETTABLE_NEVER)
		return hm_fail(err, HOSTMEM_ERROR_STATE, 0, "%s: %s can only be read", context->id,
			       row->public.name);
	if (state == HOSTMEM_STATE_DELETED)
		return hm_fail(err, HOSTMEM_ERROR_STATE, 0, "%s: %s cannot be set: it is deleted",
			       context->id, row->public.name);
	return 0;
}

int hm_thread_context_change(struct hostmem_thread_context *context, const struct hm_row *row,
			     const struct hm_value *value, struct hostmem_error *err)
{
	struct hm_context_values new = { 0 };
	int result = 0;

	if (hm_set_is_empty(&value->set))
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: %s is empty: a thread has to run somewhere", context->id,
			       row->public.name);
	if (check_process(context, row->public.name, err))
		return -1;
	begin_change(context);
	if (context->state == HOSTMEM_STATE_CONFIGURING) {
		hm_value_store(row, value, &context->values);
	} else {
		/* Both properties set the CPUs; of a complete context the last one set counts. */
		hm_value_store(row, value, &new);
		result = apply_affinity(context, &new, err);
		if (!result)
			context->values = new;
	}
	end_change(context);
	return result;
}

void hm_thread_context_read(const struct hostmem_thread_context *context,
			    struct hm_context_values *values)
{
	bool has;

	begin_change(context);
	has = has_thread(context);
	*values = context->values;
	values->thread_id = has ? context->thread_id : HM_THREAD_NONE;
	/* Others may have moved the thread; a new one starts on its creator's CPUs. */
	if (has || hm_set_is_empty(&values->cpu_affinity))
		hm_os_get_affinity(has ? (pid_t)context->thread_id : 0, &values->cpu_affinity);
	end_change(context);
}

/* ---- Life ---- */

static int check_combination(const struct hostmem_thread_context *context,
			     struct hostmem_error *err)
{
	if (hm_set_is_empty(&context->values.cpu_affinity) ||
	    hm_set_is_empty(&context->values.node_affinity))
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: cpu-affinity and node-affinity exclude each other; set one of them",
		       context->id);
}

static int start(struct hostmem_thread_context *context, struct hostmem_error *err)
{
	if (start_thread(context, err))
		return -1;
	if (!apply_affinity(context, &context->values, err))
		return 0;
	end_thread(context);
	return -1;
}

/* Called with `change` held. */
static int complete_locked(struct hostmem_thread_context *context, struct hostmem_error *err)
{
	if (context->state != HOSTMEM_STATE_CONFIGURING)
		return hm_fail(err, HOSTMEM_ERROR_STATE, 0, "%s: complete: it is %s already",
			       context->id, hm_text_state(context->state));
	if (check_combination(context, err))
		return -1;
	atomic_store(&context->process, hm_os_process());
	if (start(context, err)) {
		atomic_store(&context->process, 0);
		return -1;
	}
	context->state = HOSTMEM_STATE_READY;
	return 0;
}

int hostmem_thread_context_complete(struct hostmem_thread_context *context,
				    struct hostmem_error *err)
{
	int result;

	if (check_process(context, "complete", err))
		return -1;
	begin_change(context);
	result = complete_locked(context, err);
	end_change(context);
	return result;
}

enum hostmem_state hostmem_thread_context_get_state(const struct hostmem_thread_context *context)
{
	enum hostmem_state state;

	begin_change(context);
	state = context->state;
	end_change(context);
	return state;
}

const char *hostmem_thread_context_get_id(const struct hostmem_thread_context *context)
{
	return context->id;
}

int hm_thread_context_check_ready(const struct hostmem_thread_context *context, const char *user,
				  struct hostmem_error *err)
{
	enum hostmem_state state = hostmem_thread_context_get_state(context);

	if (state == HOSTMEM_STATE_READY)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_STATE, 0,
		       "%s: prealloc-context: thread-context '%s' is %s; complete it first", user,
		       context->id, hm_text_state(state));
}

static int fail_deleted(const struct hostmem_thread_context *context, struct hostmem_error *err)
{
	return hm_fail(err, HOSTMEM_ERROR_STATE, 0, "%s: is deleted already", context->id);
}

static int fail_linked(const struct hostmem_thread_context *context, const char *user,
		       struct hostmem_error *err)
{
	return hm_fail(err, HOSTMEM_ERROR_BUSY, 0,
		       "%s: cannot be deleted: '%s' links to it by prealloc-context; delete that "
		       "first, or empty the property",
		       context->id, user);
}

int hostmem_thread_context_can_be_deleted(const struct hostmem_thread_context *context,
					  struct hostmem_error *err)
{
	char user[HOSTMEM_ID_MAX + 1];

	if (hostmem_thread_context_get_state(context) == HOSTMEM_STATE_DELETED)
		return fail_deleted(context, err);
	return hm_objects_find_user(context, user, sizeof(user)) ? fail_linked(context, user, err)
								 : 0;
}

/* Called with `change` held. */
static int delete_locked(struct hostmem_thread_context *context, struct hostmem_error *err)
{
	char user[HOSTMEM_ID_MAX + 1];

	if (context->state == HOSTMEM_STATE_DELETED)
		return fail_deleted(context, err);
	/* Removed first, so that no new link is made. */
	if (!hm_objects_remove_unlinked(context, user, sizeof(user)))
		return fail_linked(context, user, err);
	context->state = HOSTMEM_STATE_DELETED;
	end_thread(context);
	return 0;
}

int hostmem_thread_context_delete(struct hostmem_thread_context *context, struct hostmem_error *err)
{
	int result;

	begin_change(context);
	result = delete_locked(context, err);
	end_change(context);
	return result;
}

void hm_thread_context_init(struct hostmem_thread_context *context, struct hostmem_objects *objects,
			    const char *id)
{
	hm_text_copy(id, context->id, sizeof(context->id));
	context->entry.id = context->id;
	context->entry.context = context;
	context->objects = objects;
	context->state = HOSTMEM_STATE_CONFIGURING;
	atomic_init(&context->here, atomic_load(&objects->here));
	context->thread_id = HM_THREAD_NONE;
	context->has_handle = true;
	pthread_mutex_init(&context->change, NULL);
	pthread_mutex_init(&context->turn, NULL);
	pthread_mutex_init(&context->lock, NULL);
	pthread_cond_init(&context->asked, NULL);
	pthread_cond_init(&context->served, NULL);
}

void hm_thread_context_destroy(struct hostmem_thread_context *context)
{
	end_thread(context);
	/* Destroying them waits for the thread, which does not exist in a forked child. */
	if (!is_forked(context)) {
		pthread_cond_destroy(&context->served);
		pthread_cond_destroy(&context->asked);
	}
	pthread_mutex_destroy(&context->lock);
	pthread_mutex_destroy(&context->turn);
	pthread_mutex_destroy(&context->change);
	free(context);
}

static void destroy_last(struct hostmem_thread_context *context)
{
	struct hostmem_objects *objects = context->objects;

	hm_thread_context_destroy(context);
	hm_objects_unref(objects);
}

void hm_thread_context_unlink(struct hostmem_thread_context *context)
{
	if (context && hm_objects_unlink(context))
		destroy_last(context);
}

void hostmem_thread_context_free(struct hostmem_thread_context *context)
{
	if (!context)
		return;
	enter(context);
	if (hm_objects_drop_handle(context))
		destroy_last(context);
}

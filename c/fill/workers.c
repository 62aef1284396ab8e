/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Threads that work together: created one by one, begun at once, waited for as one. Knows where
 * they run, not what they do.
 */
#include <stdlib.h>
#include <time.h>

#include "internal.h"

struct hm_worker_group {
	struct hm_worker_group *next;
	struct hm_workers *workers;
	struct hm_place *place;
	const char *id;
	bool (*work)(void *data);
	void *data;
	uint32_t threads_len;
	pthread_t threads[];
};

static void settle(const struct hm_worker_group *group)
{
	struct hm_place *place = group->place;
	bool takes_nodes = !hm_set_is_empty(&place->nodes);
	int result = 0;

	if (place->cpus_len)
		result = hm_os_set_affinity(0, &place->cpus);
	if (result < 0)
		atomic_store(&place->error, -result);
	result = 0;
	if (place->policy != HM_POLICY_DEFAULT)
		result = hm_numa_set_thread(place->policy, takes_nodes ? &place->nodes : NULL);
	if (result)
		atomic_store(&place->policy_error, -result);
}

static void *run(void *data)
{
	const struct hm_worker_group *group = data;
	struct hm_workers *workers = group->workers;

	settle(group);
	/* A new thread's stack needs the lock that populating holds, so all begin together. */
	pthread_mutex_lock(&workers->gate);
	pthread_mutex_unlock(&workers->gate);
	/* Late, so that what has the name is where it is to be. */
	hm_thread_name(group->id);
	while (group->work(group->data))
		;
	pthread_mutex_lock(&workers->lock);
	workers->running--;
	pthread_cond_signal(&workers->finished);
	pthread_mutex_unlock(&workers->lock);
	return NULL;
}

void hm_workers_init(struct hm_workers *workers)
{
	pthread_condattr_t attributes;

	*workers = (struct hm_workers){ 0 };
	pthread_mutex_init(&workers->gate, NULL);
	pthread_mutex_init(&workers->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&workers->finished, &attributes);
	pthread_condattr_destroy(&attributes);
	pthread_mutex_lock(&workers->gate);
}

/* As many as can be had. */
static void create(struct hm_worker_group *group, uint32_t count, bool beside_caller)
{
	const struct hm_place *place = group->place;
	struct hm_creation creation = {
		.threads = group->threads,
		.wanted = count,
		.cpus = place->cpus_len ? &place->cpus : NULL,
		.beside_caller = beside_caller,
		.run = run,
		.data = group,
	};

	if (place->context)
		hm_thread_context_create(place->context, &creation);
	else
		hm_thread_create_all(&creation);
	group->threads_len = creation.created;
}

uint32_t hm_workers_add(struct hm_workers *workers, struct hm_place *place, const char *id,
			uint32_t count, bool beside_caller, bool (*work)(void *data), void *data)
{
	struct hm_worker_group *group = malloc(sizeof(*group) + count * sizeof(group->threads[0]));

	if (!group)
		return 0;
	*group = (struct hm_worker_group){
		.next = workers->groups,
		.workers = workers,
		.place = place,
		.id = id,
		.work = work,
		.data = data,
	};
	workers->groups = group;
	create(group, count, beside_caller);
	workers->running += group->threads_len;
	return group->threads_len;
}

void hm_workers_begin(struct hm_workers *workers)
{
	pthread_mutex_unlock(&workers->gate);
}

static struct timespec after(uint64_t nanoseconds)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	nanoseconds += (uint64_t)until.tv_nsec;
	until.tv_sec += (time_t)(nanoseconds / 1000000000);
	until.tv_nsec = (long)(nanoseconds % 1000000000);
	return until;
}

bool hm_workers_wait(struct hm_workers *workers, uint64_t nanoseconds)
{
	struct timespec until = after(nanoseconds);
	bool finished;
	int result = 0;

	pthread_mutex_lock(&workers->lock);
	while (workers->running && !result)
		result = pthread_cond_timedwait(&workers->finished, &workers->lock, &until);
	finished = !workers->running;
	pthread_mutex_unlock(&workers->lock);
	return finished;
}

static void end_group(struct hm_worker_group *group)
{
	for (uint32_t i = 0; i < group->threads_len; i++)
		pthread_join(group->threads[i], NULL);
	free(group);
}

void hm_workers_end(struct hm_workers *workers)
{
	while (workers->groups) {
		struct hm_worker_group *group = workers->groups;

		workers->groups = group->next;
		end_group(group);
	}
	pthread_cond_destroy(&workers->finished);
	pthread_mutex_destroy(&workers->lock);
	pthread_mutex_destroy(&workers->gate);
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Worker threads: created one by one, started together, waited for as one. Sets their affinity and
 * memory policy; knows nothing of the work.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "internal.h"

struct hm_worker_group {
	struct hm_worker_group *next;
	struct hm_workers *workers;
	struct hm_crew *crew;
	uint32_t threads_len;
	pthread_t threads[];
};

/* Sets affinity and policy of the calling worker. */
static void apply_place(struct hm_crew *crew)
{
	const struct hm_place *place = &crew->place;
	const struct hm_set *nodes = hm_set_is_empty(&place->nodes) ? NULL : &place->nodes;
	int result = 0;

	if (place->idle)
		hm_call_set_idle(crew->host);
	if (place->cpus_len)
		result = hm_call_set_affinity(crew->host, &place->cpus);
	if (result < 0)
		atomic_store(&crew->affinity_error, -result);
	result = 0;
	if (place->policy != HM_POLICY_DEFAULT)
		result = hm_call_set_thread_policy(crew->host, place->policy, nodes);
	if (result)
		atomic_store(&crew->policy_error, -result);
}

static void *run(void *data)
{
	const struct hm_worker_group *group = data;
	struct hm_workers *workers = group->workers;
	struct hm_crew *crew = group->crew;

	apply_place(crew);
	/* Mapping a new thread's stack waits for the lock that populating holds: start together. */
	pthread_mutex_lock(&workers->barrier);
	pthread_mutex_unlock(&workers->barrier);
	/* Last, so that a thread of that name is in its place. */
	hm_call_name_thread(crew->host, crew->id);
	while (crew->work(crew->data))
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
	pthread_mutex_init(&workers->barrier, NULL);
	pthread_mutex_init(&workers->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&workers->finished, &attributes);
	pthread_condattr_destroy(&attributes);
	pthread_mutex_lock(&workers->barrier);
}

uint32_t hm_workers_add(struct hm_workers *workers, struct hm_crew *crew, uint32_t count)
{
	const struct hm_place *place = &crew->place;
	struct hm_worker_group *group = malloc(sizeof(*group) + count * sizeof(group->threads[0]));
	struct hm_creation creation;

	crew->create_error = ENOMEM;
	if (!group)
		return 0;
	*group = (struct hm_worker_group){
		.next = workers->groups,
		.workers = workers,
		.crew = crew,
	};
	workers->groups = group;
	creation = (struct hm_creation){
		.threads = group->threads,
		.wanted = count,
		.cpus = place->cpus_len ? &place->cpus : NULL,
		.beside_caller = crew->beside_caller,
		.no_spread = !hm_call_may_spread(crew->host),
		.run = run,
		.data = group,
	};
	if (place->context)
		hm_thread_context_create(place->context, &creation);
	else
		hm_thread_create_all(&creation);
	crew->create_error = -creation.error;
	group->threads_len = creation.created;
	workers->running += group->threads_len;
	return group->threads_len;
}

void hm_workers_start(struct hm_workers *workers)
{
	pthread_mutex_unlock(&workers->barrier);
}

bool hm_workers_wait(struct hm_workers *workers, uint64_t nanoseconds)
{
	struct timespec until = hm_os_deadline(nanoseconds);
	bool finished;
	int result = 0;

	pthread_mutex_lock(&workers->lock);
	while (workers->running && !result)
		result = pthread_cond_timedwait(&workers->finished, &workers->lock, &until);
	finished = !workers->running;
	pthread_mutex_unlock(&workers->lock);
	return finished;
}

void hm_workers_destroy(struct hm_workers *workers)
{
	while (workers->groups) {
		struct hm_worker_group *group = workers->groups;

		workers->groups = group->next;
		for (uint32_t i = 0; i < group->threads_len; i++)
			pthread_join(group->threads[i], NULL);
		free(group);
	}
	pthread_cond_destroy(&workers->finished);
	pthread_mutex_destroy(&workers->lock);
	pthread_mutex_destroy(&workers->barrier);
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Threads that work together: created one by one, begun at once, waited for as one. Knows where
 * they run, not what they do.
 */
#include <stdlib.h>
#include <time.h>

#include "internal.h"

struct hm_post {
	struct hm_post *next;
	struct hm_crew *crew;
	struct hm_place *place;
	const char *id;
	bool (*work)(void *data);
	void *data;
	uint32_t threads_len;
	pthread_t threads[];
};

static void settle(const struct hm_post *post)
{
	struct hm_place *place = post->place;
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
	const struct hm_post *post = data;
	struct hm_crew *crew = post->crew;

	settle(post);
	/* A new thread's stack needs the lock that populating holds, so all begin together. */
	pthread_mutex_lock(&crew->gate);
	pthread_mutex_unlock(&crew->gate);
	/* Late, so that what has the name is where it is to be. */
	hm_thread_name(post->id);
	while (post->work(post->data))
		;
	pthread_mutex_lock(&crew->lock);
	crew->running--;
	pthread_cond_signal(&crew->finished);
	pthread_mutex_unlock(&crew->lock);
	return NULL;
}

void hm_crew_init(struct hm_crew *crew)
{
	pthread_condattr_t attributes;

	*crew = (struct hm_crew){ 0 };
	pthread_mutex_init(&crew->gate, NULL);
	pthread_mutex_init(&crew->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&crew->finished, &attributes);
	pthread_condattr_destroy(&attributes);
	pthread_mutex_lock(&crew->gate);
}

/* As many as can be had. */
static void create(struct hm_post *post, uint32_t count, bool beside_caller)
{
	const struct hm_place *place = post->place;
	struct hm_creation creation = {
		.threads = post->threads,
		.wanted = count,
		.cpus = place->cpus_len ? &place->cpus : NULL,
		.beside_caller = beside_caller,
		.run = run,
		.data = post,
	};

	if (place->context)
		hm_thread_context_create(place->context, &creation);
	else
		hm_thread_create_all(&creation);
	post->threads_len = creation.created;
}

uint32_t hm_crew_add(struct hm_crew *crew, struct hm_place *place, const char *id, uint32_t count,
		     bool beside_caller, bool (*work)(void *data), void *data)
{
	struct hm_post *post = malloc(sizeof(*post) + count * sizeof(post->threads[0]));

	if (!post)
		return 0;
	*post = (struct hm_post){
		.next = crew->posts,
		.crew = crew,
		.place = place,
		.id = id,
		.work = work,
		.data = data,
	};
	crew->posts = post;
	create(post, count, beside_caller);
	crew->running += post->threads_len;
	return post->threads_len;
}

void hm_crew_begin(struct hm_crew *crew)
{
	pthread_mutex_unlock(&crew->gate);
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

bool hm_crew_wait(struct hm_crew *crew, uint64_t nanoseconds)
{
	struct timespec until = after(nanoseconds);
	bool finished;
	int result = 0;

	pthread_mutex_lock(&crew->lock);
	while (crew->running && !result)
		result = pthread_cond_timedwait(&crew->finished, &crew->lock, &until);
	finished = !crew->running;
	pthread_mutex_unlock(&crew->lock);
	return finished;
}

static void end_post(struct hm_post *post)
{
	for (uint32_t i = 0; i < post->threads_len; i++)
		pthread_join(post->threads[i], NULL);
	free(post);
}

void hm_crew_end(struct hm_crew *crew)
{
	while (crew->posts) {
		struct hm_post *post = crew->posts;

		crew->posts = post->next;
		end_post(post);
	}
	pthread_cond_destroy(&crew->finished);
	pthread_mutex_destroy(&crew->lock);
	pthread_mutex_destroy(&crew->gate);
}

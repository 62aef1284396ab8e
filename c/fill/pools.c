/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Which threads populate what: fills that belong in the same place share one pool of workers, as
 * many as the work is worth.
 */
#include "internal.h"

/* In bytes of huge pages: with less to do one more thread costs more than it saves. */
#define WORK_PER_THREAD UINT64_C(8388608)

/*
 * A thread-context's affinity goes before that of the memory's nodes. Where memory is allocated by
 * the policy of the thread that touches it, the workers get the policy.
 */
static void choose_place(const struct hm_fill *fill, const struct hm_values *values,
			 struct hm_place *place)
{
	const struct hostmem_backend *backend = fill->backend;
	const struct hm_set *nodes = &values->host_nodes;

	*place = (struct hm_place){ .context = fill->context, .idle = backend->idle };
	if (!place->context && !hm_set_is_empty(nodes))
		place->cpus_len = hm_topology_get_cpus(fill->backend->host, nodes, &place->cpus);
	if (values->policy != HM_POLICY_DEFAULT && hm_policy_follows_threads(backend)) {
		place->policy = hm_policy_in_kernel(backend, values->policy);
		place->nodes = *nodes;
	}
}

static bool is_same_place(const struct hm_place *one, const struct hm_place *other)
{
	return one->context == other->context && one->policy == other->policy &&
	       one->idle == other->idle && hm_set_equals(&one->cpus, &other->cpus) &&
	       hm_set_equals(&one->nodes, &other->nodes);
}

static uint64_t count_allowed(const struct hostmem_host *host, const struct hm_place *place,
			      const struct hm_values *values)
{
	if (values->prealloc_threads)
		return values->prealloc_threads;
	if (place->context)
		return hm_thread_context_count_cpus(place->context);
	return place->cpus_len ? place->cpus_len : hm_topology_count_cpus(host);
}

/* As many threads as one of the fills may have and all of them together are worth. */
static uint64_t count_threads(const struct hm_pool *pool, const struct hm_fill *fills,
			      const struct hm_prealloc_request *requests)
{
	uint64_t work = 0, chunks = 0, allowed = 0, threads;

	for (const struct hm_fill *fill = pool->first; fill; fill = fill->next_in_pool) {
		uint64_t count = count_allowed(fill->backend->host, &pool->crew.place,
					       requests[fill - fills].values);

		allowed = count > allowed ? count : allowed;
		work += hm_fill_count_work(fill);
		chunks += hm_fill_count_chunks(fill);
	}
	threads = work / WORK_PER_THREAD;
	if (threads > chunks)
		threads = chunks;
	if (threads > allowed)
		threads = allowed;
	return threads ? threads : 1;
}

size_t hm_pools_assign(struct hm_pool *pools, struct hm_fill *fills,
		       const struct hm_prealloc_request *requests, size_t len)
{
	size_t pools_len = 0;

	for (size_t i = len; i-- > 0;) {
		struct hm_place place;
		size_t at = 0;

		choose_place(&fills[i], requests[i].values, &place);
		while (at < pools_len && !is_same_place(&pools[at].crew.place, &place))
			at++;
		if (at == pools_len)
			pools[pools_len++].crew.place = place;
		fills[i].pool = at;
		fills[i].next_in_pool = pools[at].first;
		pools[at].first = &fills[i];
	}
	for (size_t i = 0; i < pools_len; i++)
		pools[i].threads = count_threads(&pools[i], fills, requests);
	return pools_len;
}

bool hm_pools_takes_caller(const struct hm_pool *pool)
{
	const struct hm_place *place = &pool->crew.place;

	return !place->cpus_len && !place->context && place->policy == HM_POLICY_DEFAULT;
}

void hm_pools_add_workers(struct hm_pool *pool, struct hm_workers *workers,
			  bool (*work)(void *data), void *data)
{
	struct hm_place *place = &pool->crew.place;
	bool beside_caller = hm_pools_takes_caller(pool);

	atomic_store(&pool->current, pool->first);
	pool->crew.host = pool->first->backend->host;
	pool->crew.id = pool->first->backend->id;
	pool->crew.work = work;
	pool->crew.data = data;
	pool->crew.beside_caller = beside_caller;
	pool->workers =
		hm_workers_add(workers, &pool->crew, (uint32_t)pool->threads - beside_caller);
	if (pool->workers || beside_caller)
		return;
	/* Only the caller is left to do it. */
	if (place->cpus_len || place->context)
		atomic_store(&pool->crew.affinity_error, pool->crew.create_error);
	if (place->policy != HM_POLICY_DEFAULT)
		atomic_store(&pool->crew.policy_error, pool->crew.create_error);
	place->cpus_len = 0;
	place->context = NULL;
	place->policy = HM_POLICY_DEFAULT;
}

bool hm_pools_read_first(const struct hm_pool *pool)
{
	for (struct hm_fill *fill = pool->first; fill; fill = fill->next_in_pool) {
		struct hostmem_backend *backend = fill->backend;

		/* A caller that populates a range waits for that range alone. */
		if (backend->lazy && fill->range.length == backend->mapping.size &&
		    hm_lazy_read_first(backend->lazy))
			return true;
	}
	return false;
}

struct hm_fill *hm_pools_take(struct hm_pool *pool, struct hm_range *chunk)
{
	struct hm_fill *fill = atomic_load(&pool->current);

	while (fill && !hm_fill_take(fill, chunk)) {
		struct hm_fill *before = fill;

		fill = fill->next_in_pool;
		if (!atomic_compare_exchange_strong(&pool->current, &before, fill))
			fill = before;
	}
	return fill;
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The pressure on memory that runs out. Small pages that run out end in the OOM killer, often of a
 * bystander, never in an errno; so what is still to come is compared with what there is while there
 * is room. Best effort: others allocate too.
 */
#include <string.h>

#include "internal.h"

#define MIB UINT64_C(1048576)

#define INTERVAL_NS UINT64_C(10000000)
/* Between looks at the memory left when it is short of this more than needed. */
#define CLOSELY_BELOW (1024 * MIB)
#define CLOSELY_NS    UINT64_C(1000000)
/*
 * Left for everybody else, besides page tables for what is to come: as much as the backends have,
 * between these two.
 */
#define MARGIN_MIN (1 * MIB)
#define MARGIN_MAX (64 * MIB)

/* Leaves of *nodes what is in the others too; nothing, which is anywhere, where that is all. */
static void cut(struct hm_set *nodes, const struct hm_set *others, const struct hm_set *all)
{
	hm_set_intersect(nodes, others);
	if (hm_set_is_subset(all, nodes))
		*nodes = (struct hm_set){ 0 };
}

static void find_allowed(struct hm_pressure *pressure)
{
	struct hm_topology topology;
	struct hm_set bound;

	hm_topology_read(&topology);
	pressure->allowed = topology.memory;
	cut(&pressure->allowed, &topology.allowed, &topology.memory);
	pressure->process = pressure->allowed;
	if (hm_set_count(&topology.memory) < 2 || hm_numa_get_bound(&bound))
		return;
	if (hm_set_is_empty(&pressure->process))
		pressure->process = topology.memory;
	cut(&pressure->process, &bound, &topology.memory);
}

void hm_pressure_init(struct hm_pressure *pressure, struct hm_fill *fills, size_t fills_len)
{
	bool needed = false;

	*pressure = (struct hm_pressure){ .fills = fills, .fills_len = fills_len };
	for (size_t i = 0; i < fills_len; i++)
		needed |= fills[i].takes_memory;
	if (needed) {
		find_allowed(pressure);
		hm_cgroup_find(&pressure->cgroup);
	}
	pthread_rwlock_init(&pressure->filling, NULL);
	pthread_mutex_init(&pressure->turn, NULL);
}

void hm_pressure_destroy(struct hm_pressure *pressure)
{
	pthread_mutex_destroy(&pressure->turn);
	pthread_rwlock_destroy(&pressure->filling);
}

/* Readers come one after the other, so a writer would wait forever were it not its turn first. */
void hm_pressure_begin_chunk(struct hm_pressure *pressure)
{
	pthread_mutex_lock(&pressure->turn);
	pthread_rwlock_rdlock(&pressure->filling);
	pthread_mutex_unlock(&pressure->turn);
}

void hm_pressure_end_chunk(struct hm_pressure *pressure)
{
	pthread_rwlock_unlock(&pressure->filling);
}

/* The nodes that the memory of a fill has to come from; NULL: any. */
static const struct hm_set *nodes_of(const struct hm_pressure *pressure, const struct hm_fill *fill)
{
	const struct hm_set *nodes =
		fill->follows_process ? &pressure->process : &pressure->allowed;

	if (fill->nodes)
		return fill->nodes;
	return hm_set_is_empty(nodes) ? NULL : nodes;
}

/* Whether its memory can come from these nodes alone; NULL: any. */
static bool is_bound_to(const struct hm_pressure *pressure, const struct hm_fill *fill,
			const struct hm_set *nodes)
{
	const struct hm_set *own = nodes_of(pressure, fill);

	return !nodes || (own && hm_set_is_subset(own, nodes));
}

static uint64_t choose_margin(uint64_t size)
{
	if (size < MARGIN_MIN)
		return MARGIN_MIN;
	return size < MARGIN_MAX ? size : MARGIN_MAX;
}

/* Finds, with its margin, what all fills that are bound to these nodes still need. */
static void find_needed(const struct hm_pressure *pressure, const struct hm_set *nodes, bool locked,
			struct hm_shortage *shortage)
{
	uint64_t sum = 0, size = 0;

	*shortage = (struct hm_shortage){ .locked = locked, .on_nodes = nodes };
	if (nodes)
		shortage->nodes = *nodes;
	for (size_t i = 0; i < pressure->fills_len; i++) {
		const struct hm_fill *fill = &pressure->fills[i];
		bool counts = is_bound_to(pressure, fill, nodes) && (fill->locked || !locked);
		uint64_t needed = counts ? hm_fill_count_to_come(fill) : 0;

		if (needed && !shortage->fill)
			shortage->fill = fill;
		sum += needed;
		size += counts ? fill->backend->mapping.size : 0;
	}
	shortage->needed = sum ? sum + choose_margin(size) + sum / 512 : 0;
}

static bool is_short(struct hm_shortage *shortage, uint64_t *spare)
{
	uint64_t left = shortage->available - shortage->needed;

	if (shortage->available < shortage->needed)
		return true;
	*spare = left < *spare ? left : *spare;
	return false;
}

static uint64_t get_available(const struct hm_set *nodes, bool locked)
{
	uint64_t available = hm_topology_get_available(nodes);
	uint64_t swap = locked ? hm_topology_get_free_swap() : 0;

	return available > swap ? available - swap : 0;
}

static bool is_short_anywhere(const struct hm_pressure *pressure, bool locked,
			      struct hm_shortage *shortage, uint64_t *spare)
{
	uint64_t in_groups;

	find_needed(pressure, NULL, locked, shortage);
	if (!shortage->needed)
		return false;
	shortage->available = get_available(NULL, locked);
	in_groups = hm_cgroup_get_available(&pressure->cgroup, 0);
	if (in_groups < shortage->needed && !locked)
		in_groups = hm_cgroup_get_available(&pressure->cgroup, hm_topology_get_free_swap());
	shortage->in_group = in_groups < shortage->available;
	if (shortage->in_group)
		shortage->available = in_groups;
	return is_short(shortage, spare);
}

static bool is_short_on(const struct hm_pressure *pressure, const struct hm_set *nodes, bool locked,
			struct hm_shortage *shortage, uint64_t *spare)
{
	find_needed(pressure, nodes, locked, shortage);
	if (!shortage->needed)
		return false;
	shortage->available = get_available(nodes, locked);
	return is_short(shortage, spare);
}

/* Adds the nodes of all fills that are bound to some of these; false when there are no more. */
static bool widen(const struct hm_pressure *pressure, struct hm_set *nodes)
{
	const struct hm_set before = *nodes;

	for (size_t i = 0; i < pressure->fills_len; i++) {
		const struct hm_set *more = nodes_of(pressure, &pressure->fills[i]);

		if (!more || !hm_set_overlaps(more, &before))
			continue;
		hm_set_unite(nodes, more);
	}
	return !hm_set_equals(nodes, &before);
}

/* Whether an earlier fill has the same nodes, which were looked at for both. */
static bool is_looked_at(const struct hm_pressure *pressure, size_t index)
{
	const struct hm_set *nodes = nodes_of(pressure, &pressure->fills[index]);

	for (size_t i = 0; i < index; i++) {
		const struct hm_set *other = nodes_of(pressure, &pressure->fills[i]);

		if (other && hm_set_equals(other, nodes))
			return true;
	}
	return false;
}

/*
 * Whatever is bound to nodes of a set has to fit on that set: so for the nodes of each fill, and
 * for those together that overlap, from which some memory may go to either.
 */
static bool is_short_on_nodes(const struct hm_pressure *pressure, bool locked,
			      struct hm_shortage *shortage, uint64_t *spare)
{
	for (size_t i = 0; i < pressure->fills_len; i++) {
		const struct hm_set *own = nodes_of(pressure, &pressure->fills[i]);
		struct hm_set nodes;

		if (!own || is_looked_at(pressure, i))
			continue;
		nodes = *own;
		do {
			if (is_short_on(pressure, &nodes, locked, shortage, spare))
				return true;
		} while (widen(pressure, &nodes));
	}
	return false;
}

static bool is_short_now(const struct hm_pressure *pressure, struct hm_shortage *shortage,
			 uint64_t *spare)
{
	/* What is locked has to fit without swap, and all of it with that. */
	for (int locked = 0; locked <= 1; locked++) {
		if (is_short_on_nodes(pressure, locked, shortage, spare) ||
		    is_short_anywhere(pressure, locked, shortage, spare))
			return true;
	}
	return false;
}

/* False when a fill is cancelled meanwhile. */
static bool count_absent(struct hm_pressure *pressure)
{
	uint64_t most = hm_topology_get_available(NULL);

	for (size_t i = 0; i < pressure->fills_len; i++) {
		if (!hm_fill_count_absent(&pressure->fills[i], most))
			return false;
	}
	return true;
}

/*
 * What is being filled counts twice, as taken and as still to come, and some of what is to come may
 * be there already: so a shortage is one when nobody fills and what is there was left out.
 */
static bool is_short_indeed(struct hm_pressure *pressure, struct hm_shortage *shortage,
			    uint64_t *spare)
{
	bool is_short;

	pthread_mutex_lock(&pressure->turn);
	pthread_rwlock_wrlock(&pressure->filling);
	is_short = is_short_now(pressure, shortage, spare) && count_absent(pressure) &&
		   is_short_now(pressure, shortage, spare);
	pthread_rwlock_unlock(&pressure->filling);
	pthread_mutex_unlock(&pressure->turn);
	return is_short;
}

bool hm_pressure_find_shortage(struct hm_pressure *pressure, struct hm_shortage *shortage)
{
	uint64_t due = atomic_load(&pressure->next), spare = UINT64_MAX;

	if (hm_os_nanoseconds() < due ||
	    !atomic_compare_exchange_strong(&pressure->next, &due, UINT64_MAX))
		return false;
	if (is_short_now(pressure, shortage, &spare)) {
		spare = 0;
		if (is_short_indeed(pressure, shortage, &spare))
			return true;
	}
	atomic_store(&pressure->next,
		     hm_os_nanoseconds() + (spare < CLOSELY_BELOW ? CLOSELY_NS : INTERVAL_NS));
	return false;
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The watch on memory that runs out. Running out of small pages ends in the OOM killer, often of
 * another process, never in an errno; so what is still needed is compared with what is available
 * while there is room. Best effort: others allocate at the same time.
 */
#include "internal.h"

#define MIB UINT64_C(1048576)

#define INTERVAL_NS UINT64_C(10000000)
/* Checked more often when less than this remains. */
#define CLOSELY_BELOW (1024 * MIB)
#define CLOSELY_NS    UINT64_C(1000000)
/*
 * Page tables take 1/512 of small pages, the index of the page cache about as much of shared
 * memory.
 */
#define BOOKKEEPING(bytes) ((bytes) / 256)
/*
 * Left to everybody else. On a host, where the OOM killer may end any process: as much as is to be
 * populated, between 1 and 64 MiB. In a control group, whose limit was chosen for what is in it:
 * 1/64 of it, between 1 and 16 MiB. Stacks of 32 workers were measured to take 0.7 MiB.
 */
#define MARGIN_MIN   (1 * MIB)
#define HOST_MAX     (64 * MIB)
#define CGROUP_SHARE 64
#define CGROUP_MAX   (16 * MIB)

/* Intersects *nodes with others; empty, which stands for any, where that leaves all. */
static void narrow(struct hm_set *nodes, const struct hm_set *others, const struct hm_set *all)
{
	hm_set_intersect(nodes, others);
	if (hm_set_is_subset(all, nodes))
		*nodes = (struct hm_set){ 0 };
}

static void find_allowed(struct hm_pressure *pressure)
{
	struct hm_topology topology;
	struct hm_set bound;

	hm_topology_read(&topology, &pressure->fills[0].backend->host->seen);
	pressure->allowed = topology.memory;
	narrow(&pressure->allowed, &topology.allowed, &topology.memory);
	pressure->process = pressure->allowed;
	if (hm_set_count(&topology.memory) < 2 ||
	    hm_call_get_bound(pressure->fills[0].backend->host, &bound))
		return;
	if (hm_set_is_empty(&pressure->process))
		pressure->process = topology.memory;
	narrow(&pressure->process, &bound, &topology.memory);
}

void hm_pressure_init(struct hm_pressure *pressure, struct hm_fill *fills, size_t fills_len)
{
	bool needed = false;

	*pressure = (struct hm_pressure){ .fills = fills, .fills_len = fills_len };
	for (size_t i = 0; i < fills_len; i++)
		needed |= fills[i].most_memory != 0;
	if (needed) {
		find_allowed(pressure);
		hm_cgroup_find(&pressure->cgroup);
	}
	hm_rwlock_init(&pressure->populating);
	pressure->on_files = hm_file_room_group(fills, fills_len);
}

void hm_pressure_destroy(struct hm_pressure *pressure)
{
	hm_rwlock_destroy(&pressure->populating);
}

void hm_pressure_begin_chunk(struct hm_pressure *pressure)
{
	hm_rwlock_read(&pressure->populating);
}

void hm_pressure_end_chunk(struct hm_pressure *pressure)
{
	hm_rwlock_unlock(&pressure->populating);
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

static uint64_t clamp(uint64_t size, uint64_t most)
{
	if (size < MARGIN_MIN)
		return MARGIN_MIN;
	return size < most ? size : most;
}

/* What all fills that are bound to these nodes still need. */
struct demand {
	uint64_t bytes;
	/* Of all their ranges. */
	uint64_t size;
};

static struct demand find_demand(const struct hm_pressure *pressure, const struct hm_set *nodes,
				 bool locked, struct hm_shortage *shortage)
{
	struct demand demand = { 0 };

	*shortage = (struct hm_shortage){ .locked = locked, .on_nodes = nodes };
	if (nodes)
		shortage->nodes = *nodes;
	for (size_t i = 0; i < pressure->fills_len; i++) {
		const struct hm_fill *fill = &pressure->fills[i];
		uint64_t needed;

		if (!fill->most_memory || !is_bound_to(pressure, fill, nodes) ||
		    (locked && !fill->locked))
			continue;
		needed = hm_fill_count_needed(fill);
		if (needed && !shortage->fill)
			shortage->fill = fill;
		demand.bytes += needed;
		demand.size += fill->range.length < fill->most_memory ? fill->range.length
								      : fill->most_memory;
	}
	return demand;
}

static uint64_t needed_of_host(const struct demand *demand)
{
	return demand->bytes + BOOKKEEPING(demand->bytes) + clamp(demand->size, HOST_MAX);
}

static uint64_t needed_in_cgroup(const struct demand *demand)
{
	return demand->bytes + BOOKKEEPING(demand->bytes) +
	       clamp(demand->size / CGROUP_SHARE, CGROUP_MAX);
}

/* Writes the figures; lowers *spare to what is left beyond the need. */
static bool is_short(struct hm_shortage *shortage, uint64_t available, uint64_t needed,
		     uint64_t *spare)
{
	shortage->available = available;
	shortage->needed = needed;
	if (available < needed)
		return true;
	*spare = available - needed < *spare ? available - needed : *spare;
	return false;
}

static uint64_t get_available(const struct hm_set *nodes, bool locked)
{
	uint64_t available = hm_meminfo_get_available(nodes);
	uint64_t swap = locked ? hm_meminfo_get_free_swap() : 0;

	return available > swap ? available - swap : 0;
}

/* On these nodes; NULL: anywhere. */
static bool is_short_on(const struct hm_pressure *pressure, const struct hm_set *nodes, bool locked,
			struct hm_shortage *shortage, uint64_t *spare)
{
	struct demand demand = find_demand(pressure, nodes, locked, shortage);

	return demand.bytes &&
	       is_short(shortage, get_available(nodes, locked), needed_of_host(&demand), spare);
}

static bool is_short_in_cgroup(const struct hm_pressure *pressure, bool locked,
			       struct hm_shortage *shortage, uint64_t *spare)
{
	struct demand demand = find_demand(pressure, NULL, locked, shortage);
	uint64_t needed = needed_in_cgroup(&demand), available;

	if (!demand.bytes)
		return false;
	available = hm_cgroup_get_available(&pressure->cgroup, 0);
	if (available < needed && !locked)
		available = hm_cgroup_get_available(&pressure->cgroup, hm_meminfo_get_free_swap());
	shortage->in_group = true;
	return is_short(shortage, available, needed, spare);
}

/* Adds the nodes of all fills that are bound to some of these; false when that adds none. */
static bool add_overlapping(const struct hm_pressure *pressure, struct hm_set *nodes)
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

/* Whether an earlier fill has the same nodes, so that they were checked already. */
static bool is_checked(const struct hm_pressure *pressure, size_t index)
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
 * What is bound to a set of nodes has to fit there. Checked for the nodes of each fill, and for the
 * union of sets that overlap, since memory on the common nodes counts for one of them only.
 */
static bool is_short_on_nodes(const struct hm_pressure *pressure, bool locked,
			      struct hm_shortage *shortage, uint64_t *spare)
{
	for (size_t i = 0; i < pressure->fills_len; i++) {
		const struct hm_set *own = nodes_of(pressure, &pressure->fills[i]);
		struct hm_set nodes;

		if (!own || is_checked(pressure, i))
			continue;
		nodes = *own;
		do {
			if (is_short_on(pressure, &nodes, locked, shortage, spare))
				return true;
		} while (add_overlapping(pressure, &nodes));
	}
	return false;
}

static bool is_short_now(const struct hm_pressure *pressure, struct hm_shortage *shortage,
			 uint64_t *spare)
{
	/* Locked memory has to fit without swap, and all of it with swap. */
	for (int locked = 0; locked <= 1; locked++) {
		if (is_short_on_nodes(pressure, locked, shortage, spare) ||
		    is_short_on(pressure, NULL, locked, shortage, spare) ||
		    is_short_in_cgroup(pressure, locked, shortage, spare))
			return true;
	}
	return false;
}

/* False when a fill is cancelled meanwhile. */
static bool count_absent(struct hm_pressure *pressure)
{
	uint64_t most = hm_meminfo_get_available(NULL);

	for (size_t i = 0; i < pressure->fills_len; i++) {
		if (!hm_fill_count_absent(&pressure->fills[i], most))
			return false;
	}
	return true;
}

/*
 * A chunk that is being populated counts twice, as used and as needed, and some of what is needed
 * may be present already. So a shortage is confirmed while no thread populates, after counting.
 */
static bool confirm_shortage(struct hm_pressure *pressure, struct hm_shortage *shortage,
			     uint64_t *spare)
{
	bool is_short;

	hm_rwlock_write(&pressure->populating);
	is_short = hm_file_room_is_short(pressure->on_files, shortage, spare) ||
		   (is_short_now(pressure, shortage, spare) && count_absent(pressure) &&
		    is_short_now(pressure, shortage, spare));
	hm_rwlock_unlock(&pressure->populating);
	return is_short;
}

bool hm_pressure_find_shortage(struct hm_pressure *pressure, struct hm_shortage *shortage)
{
	uint64_t due = atomic_load(&pressure->next), spare = UINT64_MAX;

	if (hm_os_nanoseconds() < due ||
	    !atomic_compare_exchange_strong(&pressure->next, &due, UINT64_MAX))
		return false;
	if (hm_file_room_is_short(pressure->on_files, shortage, &spare) ||
	    is_short_now(pressure, shortage, &spare)) {
		spare = 0;
		if (confirm_shortage(pressure, shortage, &spare))
			return true;
	}
	atomic_store(&pressure->next,
		     hm_os_nanoseconds() + (spare < CLOSELY_BELOW ? CLOSELY_NS : INTERVAL_NS));
	return false;
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The watch on memory that runs out. Small pages that run out end in the OOM killer, often of a
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
/* Left for everybody else, besides page tables for what is to come. */
#define MARGIN (64 * MIB)

void hm_watch_init(struct hm_watch *watch, const struct hm_fill *fills, size_t fills_len)
{
	bool needed = false;

	*watch = (struct hm_watch){ .fills = fills, .fills_len = fills_len };
	for (size_t i = 0; i < fills_len; i++)
		needed |= fills[i].takes_memory;
	if (needed)
		hm_cgroup_find(&watch->cgroup);
}

/* nodes NULL: whatever they are. */
static bool has_nodes(const struct hm_fill *fill, const struct hm_nodes *nodes)
{
	return !nodes || (fill->nodes && !memcmp(fill->nodes, nodes, sizeof(*nodes)));
}

/* With its margin, what all fills that want these nodes still need; 0 for nothing. */
static uint64_t count_needed(const struct hm_watch *watch, const struct hm_nodes *nodes)
{
	uint64_t needed = 0;

	for (size_t i = 0; i < watch->fills_len; i++) {
		if (has_nodes(&watch->fills[i], nodes))
			needed += hm_fill_count_to_come(&watch->fills[i]);
	}
	return needed ? needed + MARGIN + needed / 512 : 0;
}

static bool is_short(struct hm_shortage *shortage, uint64_t *spare)
{
	uint64_t left = shortage->available - shortage->needed;

	if (!shortage->needed)
		return false;
	if (shortage->available < shortage->needed)
		return true;
	*spare = left < *spare ? left : *spare;
	return false;
}

static bool is_short_anywhere(const struct hm_watch *watch, struct hm_shortage *shortage,
			      uint64_t *spare)
{
	uint64_t in_groups;

	shortage->fill = watch->fills;
	shortage->on_nodes = false;
	shortage->in_group = false;
	shortage->needed = count_needed(watch, NULL);
	if (!shortage->needed)
		return false;
	shortage->available = hm_topology_get_available(NULL);
	in_groups = hm_cgroup_get_available(&watch->cgroup, 0);
	if (in_groups < shortage->needed)
		in_groups = hm_cgroup_get_available(&watch->cgroup, hm_topology_get_free_swap());
	shortage->in_group = in_groups < shortage->available;
	if (shortage->in_group)
		shortage->available = in_groups;
	return is_short(shortage, spare);
}

/* Whether an earlier fill has the same nodes, which were looked at for both. */
static bool is_looked_at(const struct hm_watch *watch, const struct hm_fill *fill)
{
	for (const struct hm_fill *other = watch->fills; other != fill; other++) {
		if (has_nodes(other, fill->nodes))
			return true;
	}
	return false;
}

static bool is_short_on_nodes(const struct hm_watch *watch, struct hm_shortage *shortage,
			      uint64_t *spare)
{
	for (size_t i = 0; i < watch->fills_len; i++) {
		const struct hm_fill *fill = &watch->fills[i];

		if (!fill->nodes || is_looked_at(watch, fill))
			continue;
		shortage->fill = fill;
		shortage->on_nodes = true;
		shortage->in_group = false;
		shortage->needed = count_needed(watch, fill->nodes);
		if (!shortage->needed)
			continue;
		shortage->available = hm_topology_get_available(fill->nodes);
		if (is_short(shortage, spare))
			return true;
	}
	return false;
}

bool hm_watch_finds_shortage(struct hm_watch *watch, struct hm_shortage *shortage)
{
	uint64_t now = hm_os_nanoseconds(), due = atomic_load(&watch->next);
	uint64_t spare = UINT64_MAX;

	if (now < due || !atomic_compare_exchange_strong(&watch->next, &due, now + INTERVAL_NS))
		return false;
	if (is_short_on_nodes(watch, shortage, &spare) ||
	    is_short_anywhere(watch, shortage, &spare))
		return true;
	if (spare < CLOSELY_BELOW)
		atomic_store(&watch->next, now + CLOSELY_NS);
	return false;
}

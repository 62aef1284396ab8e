/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Gives memory in use another policy and moves its pages there. What mbind(2) answers is not what
 * happened: it is 0 where pages stayed because others use them, and EIO comes after the policy was
 * replaced. So pages are counted before and after, and a failure puts the old policy back.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "memory.h"

/* A page that moves is on one node less and on another more; one that vanishes is only less. */
static uint64_t count_moved(const struct hostmem_placement *before,
			    const struct hostmem_placement *after)
{
	uint64_t less = 0, more = 0;

	for (uint64_t node = 0; node < HOSTMEM_NODES_MAX; node++) {
		uint64_t was = before->nodes[node], is = after->nodes[node];

		less += was > is ? was - is : 0;
		more += is > was ? is - was : 0;
	}
	return less < more ? less : more;
}

/* Bytes that the host nodes can take. For huge pages the kernel makes new ones where it can. */
static uint64_t get_room(const struct hostmem_backend *backend, const struct hm_values *values)
{
	const struct hm_set *nodes = &values->host_nodes;
	uint64_t room = hm_meminfo_get_available(nodes), page = backend->page_size;
	struct hm_huge_pool pool;

	for (uint64_t node = 0; page > backend->host->page_size && node < HOSTMEM_NODES_MAX;
	     node++) {
		if (!hm_set_has(nodes, node))
			continue;
		if (hm_huge_pools_get_node(node, page, &pool) ||
		    __builtin_add_overflow(room, pool.free * page, &room))
			return UINT64_MAX;
	}
	return room;
}

/* Only where all of it has to fit. */
static int check_room(const struct hostmem_backend *backend, const struct hm_values *new,
		      const struct hostmem_placement *before, struct hostmem_error *err)
{
	uint64_t wanted = hm_policy_status_outside(new, before), room;
	char nodes[128];

	if (!wanted || !hm_policy_is_strict(new))
		return 0;
	room = get_room(backend, new);
	if (wanted <= room)
		return 0;
	hm_set_format(&new->host_nodes, nodes, sizeof(nodes));
	return hm_fail(err, HOSTMEM_ERROR_NO_MEMORY, ENOMEM,
		       "%s: policy=%s,host-nodes=%s: %ju bytes would have to move there, where %ju "
		       "are available; free memory on these nodes, or give more nodes",
		       backend->label, hm_numa_policy_names[new->policy], nodes, (uintmax_t)wanted,
		       (uintmax_t)room);
}

static enum hostmem_unmoved find_cause(const struct hostmem_backend *backend,
				       const struct hm_values *new,
				       const struct hostmem_placement *after)
{
	uint64_t outside = hm_policy_status_outside(new, after);

	if (!outside)
		return HOSTMEM_UNMOVED_NONE;
	if (after->mapmax > 1)
		return HOSTMEM_UNMOVED_SHARED;
	return get_room(backend, new) < outside ? HOSTMEM_UNMOVED_FULL : HOSTMEM_UNMOVED_PINNED;
}

static void tell_cause(const struct hostmem_backend *backend, const struct hm_values *new,
		       const struct hostmem_placement *after, struct hostmem_error *err)
{
	static const char *const causes[] = {
		[HOSTMEM_UNMOVED_SHARED] = "others use them too, which MOVE_ALL would override",
		[HOSTMEM_UNMOVED_PINNED] =
			"they are pinned, as for a device, or busy at the moment",
		[HOSTMEM_UNMOVED_FULL] = "the host nodes are full",
	};
	enum hostmem_unmoved cause = find_cause(backend, new, after);
	char text[160];

	if (cause == HOSTMEM_UNMOVED_NONE)
		return;
	snprintf(text, sizeof(text), "; %ju bytes stayed elsewhere, likely because %s",
		 (uintmax_t)hm_policy_status_outside(new, after), causes[cause]);
	hm_error_append(err, text);
}

/* Pages that moved go back where the old policy says where that is. */
static void put_back(const struct hostmem_backend *backend, const struct hm_values *old,
		     struct hostmem_error *err)
{
	unsigned int how = hm_policy_takes_nodes(old->policy) ? HM_NUMA_MOVE : 0;
	const char *call;

	if (hm_policy_set(backend, old, how, &call))
		hm_error_append(err, "; the policy before it could not be put back");
}

static int fail(const struct hostmem_backend *backend, const struct hm_values *new, uint32_t flags,
		const char *call, int result, struct hostmem_error *err)
{
	if (result == -EPERM && flags & HOSTMEM_REBIND_MOVE_ALL)
		return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, EPERM,
			       "%s: policy: moving pages that others use too (MOVE_ALL) needs "
			       "CAP_SYS_NICE; rebind without it",
			       backend->label);
	return hm_policy_fail(backend, new, call, result, err);
}

/*
 * The kernel also answers EIO for pages that it has moved (merged ones, Linux 6.12), so what was
 * counted decides.
 */
static bool is_done(const struct hm_values *new, const struct hostmem_placement *after, int result)
{
	return !result || (result == -EIO && hm_policy_takes_nodes(new->policy) &&
			   !after->policy_changed && !hm_policy_status_outside(new, after));
}

static int move(const struct hostmem_backend *backend, const struct hm_values *old,
		const struct hm_values *new, uint32_t flags, struct hostmem_rebind_result *rebound,
		struct hostmem_error *err)
{
	unsigned int how = flags & HOSTMEM_REBIND_MOVE_ALL ? HM_NUMA_MOVE_ALL : HM_NUMA_MOVE;
	struct hostmem_placement before, after;
	int result = hm_placement_count(backend, old, &before);
	const char *call;

	if (result)
		return hm_placement_fail(backend, result, err);
	if (check_room(backend, new, &before, err))
		return -1;
	result = hm_policy_set(backend, new, HM_NUMA_STRICT | how, &call);
	if (hm_placement_count(backend, new, &after))
		after = before;
	if (!is_done(new, &after, result)) {
		fail(backend, new, flags, call, result, err);
		if (result == -EIO)
			tell_cause(backend, new, &after, err);
		put_back(backend, old, err);
		return -1;
	}
	*rebound = (struct hostmem_rebind_result){
		.moved = count_moved(&before, &after),
		.not_moved = hm_policy_status_outside(new, &after),
		.cause = find_cause(backend, new, &after),
	};
	return 0;
}

int hm_rebind(const struct hostmem_backend *backend, const struct hm_values *old,
	      const struct hm_values *new, uint32_t flags, struct hostmem_rebind_result *rebound,
	      struct hostmem_error *err)
{
	*rebound = (struct hostmem_rebind_result){ 0 };
	if (hm_policy_check(backend, new, err))
		return -1;
	/* Containers that block mbind must work as long as nothing but the default is wanted. */
	if (!backend->mapping.size ||
	    (old->policy == HM_POLICY_DEFAULT && new->policy == HM_POLICY_DEFAULT))
		return 0;
	return move(backend, old, new, flags, rebound, err);
}

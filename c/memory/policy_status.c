/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Whether memory is where its policy wants it. Looks only at what placement.c has counted, and at
 * the host's weights.
 */
#include <stdio.h>
#include <string.h>

#include "memory.h"

static bool is_interleaved(const struct hm_values *values)
{
	return values->policy == HM_POLICY_INTERLEAVE ||
	       values->policy == HM_POLICY_WEIGHTED_INTERLEAVE;
}

static bool is_wanted(const struct hm_values *values, uint64_t node)
{
	return hm_set_has(&values->host_nodes, node);
}

uint64_t hm_policy_status_outside(const struct hm_values *values,
				  const struct hostmem_placement *placement)
{
	uint64_t outside = 0;

	if (!hm_policy_takes_nodes(values->policy))
		return 0;
	for (uint64_t node = 0; node < HOSTMEM_NODES_MAX; node++)
		outside += is_wanted(values, node) ? 0 : placement->nodes[node];
	return outside;
}

bool hm_policy_follows_threads(const struct hostmem_backend *backend)
{
	struct hm_file file;

	return backend->backing.fd >= 0 && backend->shared && !hm_backend_is_hugetlb(backend) &&
	       !hm_os_stat(backend->backing.fd, &file) && !file.shmem;
}

/* How many pages in turn each node gets; returns their sum, 0 when one is not known. */
static uint64_t read_weights(const struct hm_values *values, struct hostmem_placement *placement)
{
	uint64_t sum = 0;

	for (uint64_t node = 0; node < HOSTMEM_NODES_MAX; node++) {
		if (!is_wanted(values, node))
			continue;
		placement->weights[node] = values->policy == HM_POLICY_WEIGHTED_INTERLEAVE
						   ? hm_topology_get_weight(node)
						   : 1;
		if (!placement->weights[node])
			return 0;
		sum += placement->weights[node];
	}
	return sum;
}

/* What is interleaved as one piece: huge pages where the memory may be made of them. */
static uint64_t choose_unit(const struct hostmem_backend *backend, const struct hm_values *values)
{
	bool huge = !hm_backend_is_hugetlb(backend) && backend->host->thp_size &&
		    values->thp != HM_THP_NEVER;

	return huge ? backend->host->thp_size : backend->page_size;
}

/*
 * Bytes that nodes have above their shares where one is off by more than a cycle. A place without
 * its huge page may have been any node's, so such places may be off too.
 */
static uint64_t count_uneven(const struct hostmem_backend *backend, const struct hm_values *values,
			     const struct hostmem_placement *placement, uint64_t weights)
{
	uint64_t unit = choose_unit(backend, values), excess = 0;
	uint64_t broken = placement->huge ? placement->resident - placement->huge : 0;
	bool even = true;

	for (uint64_t node = 0; node < HOSTMEM_NODES_MAX; node++) {
		uint64_t weight = placement->weights[node], have = placement->nodes[node];
		uint64_t share = placement->resident / weights * weight;
		uint64_t off = have > share ? have - share : share - have;

		even = even && off <= weight * unit + broken;
		excess += have > share ? have - share : 0;
	}
	return even ? 0 : excess;
}

static void judge_shares(const struct hostmem_backend *backend, const struct hm_values *values,
			 struct hostmem_placement *placement)
{
	uint64_t weights = read_weights(values, placement);

	if (placement->outside)
		return;
	if (!weights) {
		placement->satisfied = HOSTMEM_SATISFIED_UNKNOWN;
		hm_text_copy("the host's weights cannot be read", placement->reason,
			     sizeof(placement->reason));
		return;
	}
	if (placement->resident < backend->mapping.size) {
		placement->satisfied = HOSTMEM_SATISFIED_UNKNOWN;
		hm_text_copy("shares are known only when all of the memory is mapped here",
			     placement->reason, sizeof(placement->reason));
		return;
	}
	placement->outside = count_uneven(backend, values, placement, weights);
	if (!placement->outside)
		return;
	placement->satisfied = HOSTMEM_SATISFIED_SPILLED;
	snprintf(placement->reason, sizeof(placement->reason),
		 "%ju bytes are above the shares of their nodes: these were short, or the pages "
		 "were there before the policy",
		 (uintmax_t)placement->outside);
}

static void judge_nodes(const struct hostmem_backend *backend, const struct hm_values *values,
			struct hostmem_placement *placement)
{
	char nodes[128];

	placement->satisfied = HOSTMEM_SATISFIED_YES;
	if (placement->outside) {
		hm_set_format(&values->host_nodes, nodes, sizeof(nodes));
		placement->satisfied = HOSTMEM_SATISFIED_SPILLED;
		snprintf(placement->reason, sizeof(placement->reason),
			 "%ju bytes are outside host-nodes=%s", (uintmax_t)placement->outside,
			 nodes);
	}
	if (is_interleaved(values))
		judge_shares(backend, values, placement);
}

void hm_policy_status_set(const struct hostmem_backend *backend, const struct hm_values *values,
			  struct hostmem_placement *placement)
{
	if (!hm_policy_takes_nodes(values->policy)) {
		placement->satisfied = HOSTMEM_SATISFIED_NOT_APPLICABLE;
		snprintf(placement->reason, sizeof(placement->reason), "policy=%s names no nodes",
			 hm_numa_policy_names[values->policy]);
		return;
	}
	placement->outside = hm_policy_status_outside(values, placement);
	if (!hm_policy_follows_threads(backend)) {
		judge_nodes(backend, values, placement);
		return;
	}
	placement->satisfied = HOSTMEM_SATISFIED_UNKNOWN;
	hm_text_copy("the kernel ignores the policy of shared memory of a file on disk; the policy "
		     "of the thread that faults a page counts",
		     placement->reason, sizeof(placement->reason));
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the kernel can do, asked once, of scratch memory: the host record. Knows nothing of what
 * there is at the moment; that is topology.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "internal.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static uint64_t read_thp_size(void)
{
	char text[64];

	if (hm_os_read_file("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", text,
			    sizeof(text)) <= 0)
		return 0;
	return strtoull(text, NULL, 10);
}

/* Any node that this process may use is good for asking whether a mode exists. */
static bool find_allowed_node(struct hm_nodes *node)
{
	struct hm_topology topology;

	*node = (struct hm_nodes){ 0 };
	hm_topology_read(&topology);
	for (uint64_t i = 0; i < HOSTMEM_NODES_MAX; i++) {
		if (hm_set_has(topology.allowed.bits, HM_ARRAY_LEN(topology.allowed.bits), i)) {
			hm_set_add(node->bits, i);
			return true;
		}
	}
	return false;
}

static void probe_policies(struct hostmem_host *host, void *scratch)
{
	struct hm_nodes node;
	bool found = find_allowed_node(&node);

	for (int policy = 0; policy < HM_POLICY_COUNT; policy++) {
		bool takes_nodes = policy != HM_POLICY_DEFAULT && policy != HM_POLICY_LOCAL;
		int result = -ENOSYS;

		if (found || !takes_nodes)
			result = hm_numa_bind(scratch, host->page_size, (enum hm_policy)policy,
					      takes_nodes ? &node : NULL, 0);
		host->policy_error[policy] = -result;
	}
}

static void probe_home_node(struct hostmem_host *host, void *scratch)
{
	int result = hm_os_set_home_node(scratch, host->page_size, 0);

	/* Memory without a policy is ENOENT; a kernel that lacks the call says ENOSYS. */
	host->home_node_error = result == -ENOSYS || result == -EPERM ? -result : 0;
}

static void probe_scratch(struct hostmem_host *host, void *scratch)
{
	host->populate = !hm_os_advise(scratch, host->page_size, MADV_POPULATE_WRITE);
	probe_home_node(host, scratch);
	probe_policies(host, scratch);
}

int hostmem_host_probe(struct hostmem_host **host, struct hostmem_error *err)
{
	struct hostmem_host *probed = calloc(1, sizeof(*probed));
	void *scratch = NULL;
	int result;

	if (!probed)
		return hm_fail_alloc(err);
	probed->page_size = hm_os_page_size();
	probed->thp_size = read_thp_size();
	probed->methods = HOSTMEM_METHODS_ALL;
	result = hm_os_map(&scratch, probed->page_size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (result) {
		free(probed);
		return hm_fail(err, HOSTMEM_ERROR_NO_MEMORY, -result,
			       "cannot map a page of scratch memory to ask the kernel what it can "
			       "do: %s",
			       strerror(-result));
	}
	probe_scratch(probed, scratch);
	hm_os_unmap(scratch, probed->page_size);
	*host = probed;
	return 0;
}

void hostmem_host_free(struct hostmem_host *host)
{
	free(host);
}

uint32_t hostmem_host_get_methods(const struct hostmem_host *host)
{
	return host->methods;
}

void hostmem_host_narrow_methods(struct hostmem_host *host, uint32_t methods)
{
	host->methods &= methods;
}

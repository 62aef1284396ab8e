/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The topology as it is handed out: read at once, the same from then on. How things are read is
 * topology.c's.
 */
#include <stdio.h>
#include <stdlib.h>

#include "internal.h"

/* The sizes from 64 KiB to 16 GiB, of which a host has a few. */
#define MOST_HUGE_SIZES 19

_Static_assert(HM_HUGE_SIZE_MIN << (MOST_HUGE_SIZES - 1) == HM_HUGE_SIZE_MAX,
	       "each size has a place");

struct node_record {
	struct hostmem_node node;
	struct hm_set cpus;
	struct hostmem_huge_pages pages[MOST_HUGE_SIZES];
};

struct hostmem_topology {
	size_t nodes_len, sizes_len;
	struct node_record *nodes;
	/* A row for each node. */
	uint32_t *distances;
	struct hm_set cpus;
	struct hostmem_huge_pages pages[MOST_HUGE_SIZES];
};

static void read_huge_pages(struct hostmem_topology *topology)
{
	struct hm_huge_pool pool;

	for (uint64_t size = HM_HUGE_SIZE_MIN; size <= HM_HUGE_SIZE_MAX; size <<= 1) {
		if (hm_huge_pools_get(size, &pool))
			continue;
		topology->pages[topology->sizes_len++] = (struct hostmem_huge_pages){
			.page_size = size,
			.total = pool.total,
			.free = pool.free,
			.reserved = pool.reserved,
			.overcommit = pool.overcommit,
		};
	}
}

static void read_node(const struct hostmem_topology *topology, const struct hm_topology *now,
		      uint64_t id, struct node_record *record)
{
	struct hm_huge_pool pool;

	record->node.id = (uint32_t)id;
	record->node.allowed = hm_set_has(&now->allowed, id);
	hm_meminfo_get_node(id, &record->node.memory_total, &record->node.memory_free);
	hm_topology_get_own_cpus(id, &record->cpus);
	for (size_t i = 0; i < topology->sizes_len; i++) {
		hm_huge_pools_get_node(id, topology->pages[i].page_size, &pool);
		record->pages[i].page_size = topology->pages[i].page_size;
		record->pages[i].total = pool.total;
		record->pages[i].free = pool.free;
	}
}

/* The file has one number for each online node, in order. */
static void read_distances(const struct hostmem_topology *topology, size_t from)
{
	char path[80], text[8192], *next = text;

	snprintf(path, sizeof(path), HM_NODE_DIR "node%u/distance", topology->nodes[from].node.id);
	if (hm_os_read_file(path, text, sizeof(text)) < 0)
		return;
	for (size_t to = 0; to < topology->nodes_len; to++)
		topology->distances[from * topology->nodes_len + to] =
			(uint32_t)strtoul(next, &next, 10);
}

static void read_nodes(struct hostmem_topology *topology, const struct hm_topology *now)
{
	size_t index = 0;

	for (uint64_t id = 0; id < HOSTMEM_NODES_MAX; id++) {
		if (hm_set_has(&now->online, id))
			read_node(topology, now, id, &topology->nodes[index++]);
	}
	for (size_t from = 0; from < topology->nodes_len; from++)
		read_distances(topology, from);
}

int hostmem_topology_read(struct hostmem_topology **topology, struct hostmem_error *err)
{
	struct hostmem_topology *read = calloc(1, sizeof(*read));
	struct hm_topology now;

	if (!read)
		return hm_fail_alloc(err);
	hm_topology_read(&now, NULL);
	read->nodes_len = hm_set_count(&now.online);
	read->nodes = calloc(read->nodes_len + 1, sizeof(*read->nodes));
	read->distances = calloc(read->nodes_len * read->nodes_len + 1, sizeof(*read->distances));
	if (!read->nodes || !read->distances) {
		hostmem_topology_free(read);
		return hm_fail_alloc(err);
	}
	hm_os_get_affinity(0, &read->cpus);
	read_huge_pages(read);
	read_nodes(read, &now);
	*topology = read;
	return 0;
}

void hostmem_topology_free(struct hostmem_topology *topology)
{
	if (!topology)
		return;
	free(topology->distances);
	free(topology->nodes);
	free(topology);
}

const struct hostmem_node *hostmem_topology_get_node(const struct hostmem_topology *topology,
						     size_t index)
{
	return index < topology->nodes_len ? &topology->nodes[index].node : NULL;
}

uint32_t hostmem_topology_get_distance(const struct hostmem_topology *topology, size_t from,
				       size_t to)
{
	size_t len = topology->nodes_len;

	return from < len && to < len ? topology->distances[from * len + to] : 0;
}

size_t hostmem_topology_get_cpus(const struct hostmem_topology *topology, size_t index,
				 uint32_t *cpus, size_t cpus_size)
{
	const struct hm_set *set = &topology->cpus;
	size_t count = 0;

	if (index != SIZE_MAX && index >= topology->nodes_len)
		return 0;
	if (index != SIZE_MAX)
		set = &topology->nodes[index].cpus;
	for (uint32_t cpu = 0; cpu < HOSTMEM_CPUS_MAX; cpu++) {
		if (!hm_set_has(set, cpu))
			continue;
		if (count < cpus_size)
			cpus[count] = cpu;
		count++;
	}
	return count;
}

const struct hostmem_huge_pages *
hostmem_topology_get_huge_pages(const struct hostmem_topology *topology, size_t node, size_t index)
{
	if (index >= topology->sizes_len || (node != SIZE_MAX && node >= topology->nodes_len))
		return NULL;
	return node == SIZE_MAX ? &topology->pages[index] : &topology->nodes[node].pages[index];
}

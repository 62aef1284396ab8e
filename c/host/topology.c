/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The nodes and CPUs of this machine, and those that this process may use, from sysfs and proc,
 * which need no permission and no system call that a VMM's filter forbids. Remembers nothing:
 * cpusets change.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* Parses a kernel list up to the end of its line; what cannot be read is an empty set. */
static void parse_list(const char *text, struct hm_set *set)
{
	char line[4096];
	size_t length = strcspn(text, "\n");

	*set = (struct hm_set){ 0 };
	if (length >= sizeof(line))
		return;
	memcpy(line, text, length);
	line[length] = '\0';
	if (hm_set_parse(set, line, HM_SET_MAX))
		*set = (struct hm_set){ 0 };
}

static void read_list(const char *path, struct hm_set *set)
{
	char text[4096];

	if (hm_os_read_file(path, text, sizeof(text)) < 0)
		text[0] = '\0';
	parse_list(text, set);
}

static void use_seen(struct hm_set *set, const struct hm_set *seen)
{
	if (hm_set_is_empty(set))
		*set = *seen;
}

void hm_topology_read(struct hm_topology *topology, const struct hm_seen *seen)
{
	char status[65536];
	const char *allowed = NULL;

	*topology = (struct hm_topology){ 0 };
	read_list(HM_NODE_DIR "online", &topology->online);
	read_list(HM_NODE_DIR "has_memory", &topology->memory);
	if (hm_os_read_file("/proc/self/status", status, sizeof(status)) > 0)
		allowed = hm_text_find_line(status, "Mems_allowed_list:\t");
	if (allowed)
		parse_list(allowed, &topology->allowed);
	if (!seen)
		return;
	use_seen(&topology->online, &seen->topology.online);
	use_seen(&topology->memory, &seen->topology.memory);
	use_seen(&topology->allowed, &seen->topology.allowed);
}

void hm_topology_get_own_cpus(uint64_t node, struct hm_set *cpus)
{
	char path[80];

	snprintf(path, sizeof(path), HM_NODE_DIR "node%ju/cpulist", (uintmax_t)node);
	read_list(path, cpus);
}

/*
 * The node with CPUs that is closest to a node; HM_NODE_NONE when the kernel does not tell. The
 * distance file has one number for each online node, in order.
 */
static uint64_t nearest_node_with_cpus(const struct hm_topology *topology, uint64_t node)
{
	struct hm_set with_cpus;
	uint64_t nearest = HM_NODE_NONE;
	unsigned long least = ULONG_MAX;
	char path[80], text[8192], *next = text;

	read_list(HM_NODE_DIR "has_cpu", &with_cpus);
	snprintf(path, sizeof(path), HM_NODE_DIR "node%ju/distance", (uintmax_t)node);
	if (hm_os_read_file(path, text, sizeof(text)) < 0)
		return HM_NODE_NONE;
	for (uint64_t other = 0; other < HOSTMEM_NODES_MAX; other++) {
		unsigned long distance;

		if (!hm_set_has(&topology->online, other))
			continue;
		distance = strtoul(next, &next, 10);
		if (distance < least && hm_set_has(&with_cpus, other)) {
			least = distance;
			nearest = other;
		}
	}
	return nearest;
}

/* The node whose CPUs are a node's or closest to it; HM_NODE_NONE when that is not known. */
static uint64_t find_node_with_cpus(const struct hm_topology *topology, uint64_t node,
				    struct hm_set *cpus)
{
	hm_topology_get_own_cpus(node, cpus);
	if (!hm_set_is_empty(cpus))
		return node;
	node = nearest_node_with_cpus(topology, node);
	if (node != HM_NODE_NONE)
		hm_topology_get_own_cpus(node, cpus);
	return node;
}

void hm_topology_see(struct hm_seen *seen)
{
	hm_topology_read(&seen->topology, NULL);
	hm_os_get_affinity(0, &seen->cpus);
	if (hm_set_is_empty(&seen->topology.allowed))
		hm_numa_get_allowed(&seen->topology.allowed);
	memset(seen->node_of_cpu, 0xff, sizeof(seen->node_of_cpu));
	memset(seen->closest_with_cpus, 0xff, sizeof(seen->closest_with_cpus));
	for (uint64_t node = 0; node < HOSTMEM_NODES_MAX; node++) {
		struct hm_set cpus;
		uint64_t closest;

		if (!hm_set_has(&seen->topology.online, node))
			continue;
		closest = find_node_with_cpus(&seen->topology, node, &cpus);
		seen->closest_with_cpus[node] = (uint16_t)closest;
		for (uint64_t cpu = 0; closest == node && cpu < HOSTMEM_CPUS_MAX; cpu++) {
			if (hm_set_has(&cpus, cpu))
				seen->node_of_cpu[cpu] = (uint16_t)node;
		}
	}
}

static void add_seen_cpus(const struct hm_seen *seen, uint64_t node, struct hm_set *cpus)
{
	uint16_t closest = seen->closest_with_cpus[node];

	for (uint64_t cpu = 0; closest != HM_SEEN_NO_NODE && cpu < HOSTMEM_CPUS_MAX; cpu++) {
		if (seen->node_of_cpu[cpu] == closest)
			hm_set_add(cpus, cpu);
	}
}

void hm_topology_get_node_cpus(const struct hm_set *nodes, struct hm_set *cpus,
			       const struct hm_seen *seen)
{
	struct hm_topology topology;

	*cpus = (struct hm_set){ 0 };
	hm_topology_read(&topology, NULL);
	for (uint64_t node = 0; node < HOSTMEM_NODES_MAX; node++) {
		struct hm_set own;

		if (!hm_set_has(nodes, node))
			continue;
		if (find_node_with_cpus(&topology, node, &own) != HM_NODE_NONE)
			hm_set_unite(cpus, &own);
		else
			add_seen_cpus(seen, node, cpus);
	}
}

size_t hm_topology_get_cpus(const struct hostmem_host *host, const struct hm_set *nodes,
			    struct hm_set *cpus)
{
	struct hm_set allowed;

	hm_topology_get_node_cpus(nodes, cpus, &host->seen);
	if (hm_call_get_affinity(host, &allowed) < 0)
		return 0;
	hm_set_intersect(cpus, &allowed);
	return hm_set_count(cpus);
}

void hm_topology_get_online_cpus(struct hm_set *cpus)
{
	read_list("/sys/devices/system/cpu/online", cpus);
}

uint32_t hm_topology_count_cpus(const struct hostmem_host *host)
{
	struct hm_set cpus;
	size_t count = 0;

	if (hm_call_get_affinity(host, &cpus) >= 0)
		count = hm_set_count(&cpus);
	return count ? (uint32_t)count : 1;
}

uint8_t hm_topology_get_weight(uint64_t node)
{
	char path[80], text[16];
	unsigned long weight = 0;

	snprintf(path, sizeof(path), "/sys/kernel/mm/mempolicy/weighted_interleave/node%ju",
		 (uintmax_t)node);
	if (hm_os_read_file(path, text, sizeof(text)) > 0)
		weight = strtoul(text, NULL, 10);
	return weight <= UINT8_MAX ? (uint8_t)weight : 0;
}

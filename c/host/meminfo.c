/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Memory in small pages: what a node has, what can still be had of it and of swap, from the meminfo
 * files and zoneinfo (proc(5)). Knows no control groups.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

bool hm_meminfo_add(const char *text, const char *name, uint64_t *bytes)
{
	const char *value = hm_text_find_line(text, name);

	if (value)
		*bytes += strtoull(value, NULL, 10) * 1024;
	return value != NULL;
}

/*
 * Sums what a node's meminfo file says can be had. File pages leave out shared memory, which is on
 * the anonymous lists.
 */
static bool sum_meminfo(uint64_t node, uint64_t *bytes)
{
	static const char *const names[] = { "Active(file):", "Inactive(file):", "SReclaimable:" };
	char path[80], text[8192], name[64];

	snprintf(path, sizeof(path), HM_NODE_DIR "node%ju/meminfo", (uintmax_t)node);
	if (hm_os_read_file(path, text, sizeof(text)) < 0)
		return false;
	snprintf(name, sizeof(name), "Node %ju MemFree:", (uintmax_t)node);
	if (!hm_meminfo_add(text, name, bytes))
		return false;
	for (size_t i = 0; i < HM_ARRAY_LEN(names); i++) {
		snprintf(name, sizeof(name), "Node %ju %s", (uintmax_t)node, names[i]);
		hm_meminfo_add(text, name, bytes);
	}
	return true;
}

/* What the kernel can give is its own estimate, which leaves its reserves out. */
static uint64_t get_available_anywhere(void)
{
	uint64_t bytes = 0;
	char text[8192];

	if (hm_os_read_file("/proc/meminfo", text, sizeof(text)) < 0 ||
	    !hm_meminfo_add(text, "MemAvailable:", &bytes))
		return UINT64_MAX;
	hm_meminfo_add(text, "SwapFree:", &bytes);
	return bytes;
}

/* A zone of a node as far as it is read, in pages. */
struct zone {
	uint64_t node, high, managed;
};

/* "(0, 1800, 22000)": what each higher kind of allocation has to leave. */
static uint64_t most_of(const char *list)
{
	uint64_t most = 0;

	while (*list) {
		char *end;
		uint64_t number = strtoull(list + 1, &end, 10);

		most = number > most ? number : most;
		list = strchr(end, ',') ? strchr(end, ',') : "";
	}
	return most;
}

/* Reads a line of zoneinfo; the pages that the zone never gives where it tells these, else 0. */
static uint64_t read_zone_line(const char *line, struct zone *zone)
{
	uintmax_t number;
	uint64_t reserve;
	const char *list = strstr(line, "protection: (");

	if (sscanf(line, "Node %ju, zone", &number) == 1)
		*zone = (struct zone){ .node = number };
	else if (sscanf(line, " high %ju", &number) == 1)
		zone->high = number;
	else if (sscanf(line, " managed %ju", &number) == 1)
		zone->managed = number;
	if (!list)
		return 0;
	reserve = zone->high + most_of(strchr(list, '('));
	return reserve < zone->managed ? reserve : zone->managed;
}

struct reserves {
	const struct hm_set *nodes;
	struct zone zone;
	uint64_t pages;
};

static bool add_reserve(char *line, void *data)
{
	struct reserves *reserves = data;
	uint64_t pages = read_zone_line(line, &reserves->zone);

	if (hm_set_has(reserves->nodes, reserves->zone.node))
		reserves->pages += pages;
	return true;
}

/* Free bytes of nodes that the kernel keeps for itself: watermarks, and what lower zones hold. */
static uint64_t get_reserves(const struct hm_set *nodes)
{
	struct reserves reserves = { .nodes = nodes };

	hm_os_read_lines("/proc/zoneinfo", add_reserve, &reserves);
	return reserves.pages * hm_os_page_size();
}

uint64_t hm_meminfo_get(const char *name)
{
	uint64_t bytes = 0;
	char text[8192];

	if (hm_os_read_file("/proc/meminfo", text, sizeof(text)) > 0)
		hm_meminfo_add(text, name, &bytes);
	return bytes;
}

uint64_t hm_meminfo_get_free_swap(void)
{
	return hm_meminfo_get("SwapFree:");
}

static uint64_t get_available_on(const struct hm_set *nodes)
{
	uint64_t bytes = 0, reserves = get_reserves(nodes);

	for (uint64_t node = 0; node < HOSTMEM_NODES_MAX; node++) {
		if (hm_set_has(nodes, node) && !sum_meminfo(node, &bytes))
			return UINT64_MAX;
	}
	bytes -= reserves < bytes ? reserves : bytes;
	return bytes + hm_meminfo_get_free_swap();
}

/*
 * A set that covers every node with memory is the whole machine: only its own figures then count
 * memory that hypervisors plugged in behind the nodes' back.
 */
static bool covers_all(const struct hm_set *nodes)
{
	struct hm_topology topology;

	hm_topology_read(&topology, NULL);
	return hm_set_is_subset(&topology.memory, nodes);
}

uint64_t hm_meminfo_get_available(const struct hm_set *nodes)
{
	return !nodes || covers_all(nodes) ? get_available_anywhere() : get_available_on(nodes);
}

void hm_meminfo_get_node(uint64_t node, uint64_t *total, uint64_t *free)
{
	char path[80], name[48], text[8192];

	*total = 0;
	*free = 0;
	snprintf(path, sizeof(path), HM_NODE_DIR "node%ju/meminfo", (uintmax_t)node);
	if (hm_os_read_file(path, text, sizeof(text)) < 0)
		return;
	snprintf(name, sizeof(name), "Node %ju MemTotal:", (uintmax_t)node);
	hm_meminfo_add(text, name, total);
	snprintf(name, sizeof(name), "Node %ju MemFree:", (uintmax_t)node);
	hm_meminfo_add(text, name, free);
}

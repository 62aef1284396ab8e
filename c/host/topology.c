/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What nodes, CPUs and memory there are now, from sysfs and proc, which need no permission and no
 * system call that a VMM's filter forbids. Remembers nothing: cpusets and memory change.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "host.h"

#define NODE_DIR "/sys/devices/system/node/"

/* The text after "name" in a file of "name value" lines; NULL when it has none. */
static const char *find_line(const char *text, const char *name)
{
	const char *found = strstr(text, name);

	return found ? found + strlen(name) : NULL;
}

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

void hm_topology_read(struct hm_topology *topology)
{
	char status[65536];
	const char *allowed = NULL;

	*topology = (struct hm_topology){ 0 };
	read_list(NODE_DIR "online", &topology->online);
	read_list(NODE_DIR "has_memory", &topology->memory);
	if (hm_os_read_file("/proc/self/status", status, sizeof(status)) > 0)
		allowed = find_line(status, "\nMems_allowed_list:\t");
	if (allowed)
		parse_list(allowed, &topology->allowed);
}

void hm_topology_get_own_cpus(uint64_t node, struct hm_set *cpus)
{
	char path[80];

	snprintf(path, sizeof(path), NODE_DIR "node%ju/cpulist", (uintmax_t)node);
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

	read_list(NODE_DIR "has_cpu", &with_cpus);
	snprintf(path, sizeof(path), NODE_DIR "node%ju/distance", (uintmax_t)node);
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

static void add_node_cpus(const struct hm_topology *topology, uint64_t node, struct hm_set *cpus)
{
	struct hm_set own;
	uint64_t nearest;

	hm_topology_get_own_cpus(node, &own);
	if (hm_set_is_empty(&own)) {
		nearest = nearest_node_with_cpus(topology, node);
		if (nearest != HM_NODE_NONE)
			hm_topology_get_own_cpus(nearest, &own);
	}
	hm_set_unite(cpus, &own);
}

void hm_topology_get_node_cpus(const struct hm_set *nodes, struct hm_set *cpus)
{
	struct hm_topology topology;

	*cpus = (struct hm_set){ 0 };
	hm_topology_read(&topology);
	for (uint64_t node = 0; node < HOSTMEM_NODES_MAX; node++) {
		if (hm_set_has(nodes, node))
			add_node_cpus(&topology, node, cpus);
	}
}

size_t hm_topology_get_cpus(const struct hm_set *nodes, struct hm_set *cpus)
{
	struct hm_set allowed;

	hm_topology_get_node_cpus(nodes, cpus);
	if (hm_os_get_affinity(0, &allowed) < 0)
		return 0;
	hm_set_intersect(cpus, &allowed);
	return hm_set_count(cpus);
}

void hm_topology_get_online_cpus(struct hm_set *cpus)
{
	read_list("/sys/devices/system/cpu/online", cpus);
}

uint32_t hm_topology_count_cpus(void)
{
	struct hm_set cpus;
	size_t count = 0;

	if (hm_os_get_affinity(0, &cpus) >= 0)
		count = hm_set_count(&cpus);
	return count ? (uint32_t)count : 1;
}

/* Adds a "name: 123 kB" line to *bytes; says whether there was one. */
static bool add_meminfo(const char *text, const char *name, uint64_t *bytes)
{
	const char *line = find_line(text, name);

	if (line)
		*bytes += strtoull(line, NULL, 10) * 1024;
	return line != NULL;
}

/*
 * Sums what a node's meminfo file says can be had. File pages leave out shared memory, which is on
 * the anonymous lists.
 */
static bool sum_meminfo(uint64_t node, uint64_t *bytes)
{
	static const char *const names[] = { "Active(file):", "Inactive(file):", "SReclaimable:" };
	char path[80], text[8192], name[64];

	snprintf(path, sizeof(path), NODE_DIR "node%ju/meminfo", (uintmax_t)node);
	if (hm_os_read_file(path, text, sizeof(text)) < 0)
		return false;
	snprintf(name, sizeof(name), "Node %ju MemFree:", (uintmax_t)node);
	if (!add_meminfo(text, name, bytes))
		return false;
	for (size_t i = 0; i < HM_ARRAY_LEN(names); i++) {
		snprintf(name, sizeof(name), "Node %ju %s", (uintmax_t)node, names[i]);
		add_meminfo(text, name, bytes);
	}
	return true;
}

/* What the kernel can give is its own estimate, which leaves its reserves out. */
static uint64_t get_available_anywhere(void)
{
	uint64_t bytes = 0;
	char text[8192];

	if (hm_os_read_file("/proc/meminfo", text, sizeof(text)) < 0 ||
	    !add_meminfo(text, "\nMemAvailable:", &bytes))
		return UINT64_MAX;
	add_meminfo(text, "\nSwapFree:", &bytes);
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

/* Free bytes of nodes that the kernel keeps for itself: watermarks, and what lower zones hold. */
static uint64_t get_reserves(const struct hm_set *nodes)
{
	FILE *file = fopen("/proc/zoneinfo", "re");
	struct zone zone = { 0 };
	uint64_t pages = 0;
	char *line = NULL;
	size_t size = 0;

	while (file && getline(&line, &size, file) >= 0) {
		uint64_t reserve = read_zone_line(line, &zone);

		if (hm_set_has(nodes, zone.node))
			pages += reserve;
	}
	free(line);
	if (file)
		fclose(file);
	return pages * hm_os_page_size();
}

/* 0 where the kernel does not tell. */
static uint64_t get_meminfo(const char *name)
{
	uint64_t bytes = 0;
	char text[8192];

	if (hm_os_read_file("/proc/meminfo", text, sizeof(text)) > 0)
		add_meminfo(text, name, &bytes);
	return bytes;
}

uint64_t hm_topology_get_free_swap(void)
{
	return get_meminfo("\nSwapFree:");
}

static uint64_t get_available_on(const struct hm_set *nodes)
{
	uint64_t bytes = 0, reserves = get_reserves(nodes);

	for (uint64_t node = 0; node < HOSTMEM_NODES_MAX; node++) {
		if (hm_set_has(nodes, node) && !sum_meminfo(node, &bytes))
			return UINT64_MAX;
	}
	bytes -= reserves < bytes ? reserves : bytes;
	return bytes + hm_topology_get_free_swap();
}

/*
 * A set that covers every node with memory is the whole machine: only its own figures then count
 * memory that hypervisors plugged in behind the nodes' back.
 */
static bool covers_all(const struct hm_set *nodes)
{
	struct hm_topology topology;

	hm_topology_read(&topology);
	return hm_set_is_subset(&topology.memory, nodes);
}

uint64_t hm_topology_get_available(const struct hm_set *nodes)
{
	return !nodes || covers_all(nodes) ? get_available_anywhere() : get_available_on(nodes);
}

void hm_topology_get_node_memory(uint64_t node, uint64_t *total, uint64_t *free)
{
	char path[80], name[48], text[8192];

	*total = 0;
	*free = 0;
	snprintf(path, sizeof(path), NODE_DIR "node%ju/meminfo", (uintmax_t)node);
	if (hm_os_read_file(path, text, sizeof(text)) < 0)
		return;
	snprintf(name, sizeof(name), "Node %ju MemTotal:", (uintmax_t)node);
	add_meminfo(text, name, total);
	snprintf(name, sizeof(name), "Node %ju MemFree:", (uintmax_t)node);
	add_meminfo(text, name, free);
}

uint8_t hm_topology_get_weight(uint64_t node)
{
	char path[80], text[16];
	unsigned long weight = 0;

	snprintf(path, sizeof(path), "/sys/kernel/mm/mempolicy/weighted_interleave/node%ju",
		 (uintmax_t)node);
	if (hm_os_read_file(path, text, sizeof(text)) > 0)
		weight = strtoul(text, NULL, 10);
	return weight && weight <= UINT8_MAX ? (uint8_t)weight : 1;
}

/* ---- Huge pages ---- */

#define POOL_DIR "/sys/kernel/mm/hugepages/"

/* A number in a file; false when there is none. */
static bool read_number(const char *directory, const char *name, uint64_t *number)
{
	char path[160], text[32];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	if (hm_os_read_file(path, text, sizeof(text)) <= 0)
		return false;
	*number = strtoull(text, NULL, 10);
	return true;
}

int hm_topology_get_pool(uint64_t page_size, struct hm_huge_pool *pool)
{
	uint64_t surplus = 0;
	char directory[96];

	*pool = (struct hm_huge_pool){ 0 };
	snprintf(directory, sizeof(directory), POOL_DIR "hugepages-%jukB",
		 (uintmax_t)(page_size / 1024));
	if (!read_number(directory, "nr_hugepages", &pool->total))
		return -1;
	read_number(directory, "free_hugepages", &pool->free);
	read_number(directory, "resv_hugepages", &pool->reserved);
	read_number(directory, "nr_overcommit_hugepages", &pool->overcommit);
	read_number(directory, "surplus_hugepages", &surplus);
	pool->overcommit -= surplus < pool->overcommit ? surplus : pool->overcommit;
	return 0;
}

void hm_topology_get_node_pool(uint64_t node, uint64_t page_size, struct hm_huge_pool *pool)
{
	char directory[96];

	*pool = (struct hm_huge_pool){ 0 };
	snprintf(directory, sizeof(directory), NODE_DIR "node%ju/hugepages/hugepages-%jukB",
		 (uintmax_t)node, (uintmax_t)(page_size / 1024));
	read_number(directory, "nr_hugepages", &pool->total);
	read_number(directory, "free_hugepages", &pool->free);
}

uint64_t hm_topology_get_default_huge_size(void)
{
	return get_meminfo("\nHugepagesize:");
}

void hm_topology_list_huge_sizes(char *text, size_t size)
{
	struct hm_huge_pool pool;
	size_t length = 0;

	hm_text_copy("none", text, size);
	for (uint64_t page = HM_HUGE_SIZE_MIN; page <= HM_HUGE_SIZE_MAX; page <<= 1) {
		if (length >= size || hm_topology_get_pool(page, &pool))
			continue;
		length += (size_t)snprintf(text + length, size - length, "%s%ju%c",
					   length ? ", " : "",
					   (uintmax_t)(page >> (page >> 30   ? 30
								: page >> 20 ? 20
									     : 10)),
					   page >> 30   ? 'G'
					   : page >> 20 ? 'M'
							: 'K');
	}
}

bool hm_topology_is_dax(dev_t device)
{
	static const char name[] = "/dax";
	char path[64], target[256];
	int length;

	snprintf(path, sizeof(path), "/sys/dev/char/%u:%u/subsystem", major(device), minor(device));
	length = hm_os_read_link(path, target, sizeof(target));
	return length >= (int)strlen(name) && !strcmp(target + length - strlen(name), name);
}

/* ---- Shared memory ---- */

/* The options of the mount that a device is; "" when it is none that this thread sees. */
static void find_mount_options(dev_t device, char *options, size_t size)
{
	FILE *file = fopen("/proc/thread-self/mountinfo", "re");
	char key[48], *line = NULL;
	size_t line_size = 0;

	*options = '\0';
	snprintf(key, sizeof(key), " %u:%u ", major(device), minor(device));
	while (file && !*options && getline(&line, &line_size, file) >= 0) {
		const char *last = strrchr(line, ' ');

		if (strstr(line, key) && last)
			hm_text_copy(last + 1, options, size);
	}
	free(line);
	if (file)
		fclose(file);
}

bool hm_topology_is_shmem_huge(dev_t device)
{
	char setting[128], options[512];

	if (hm_os_read_file("/sys/kernel/mm/transparent_hugepage/shmem_enabled", setting,
			    sizeof(setting)) <= 0 ||
	    strstr(setting, "[deny]"))
		return false;
	if (strstr(setting, "[force]"))
		return true;
	find_mount_options(device, options, sizeof(options));
	/* What is on no mount, a memfd, follows the setting of the host. */
	if (!*options)
		return !strstr(setting, "[never]");
	return strstr(options, "huge=") && !strstr(options, "huge=never");
}

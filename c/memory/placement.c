/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Where the memory is, as the kernel reports it in /proc/self/numa_maps (numa(7)) and smaps
 * (proc(5)). Moves nothing, remembers nothing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"

struct reading {
	const struct hostmem_backend *backend;
	struct hostmem_placement *placement;
	/* What the policy reads as where it is in force. */
	char expected[HOSTMEM_POLICY_SIZE];
	/* The policy of the guard page before the memory, which is the process's own. */
	char own[HOSTMEM_POLICY_SIZE];
};

typedef void (*line_reader)(const char *line, bool ours, struct reading *reading);

/* A walk over the lines of a file: a line that begins with an address opens a mapping, the lines
 * after it belong to that mapping. */
struct walk {
	struct reading *reading;
	line_reader read;
	/* Of the backend's memory. */
	uint64_t first, end;
	/* Whether the present mapping is part of it. */
	bool ours;
};

/* The address that a line begins with, in hex; false when it begins otherwise. */
static bool take_address(const char *line, uint64_t *address)
{
	char *end;

	*address = strtoull(line, &end, 16);
	return end != line && (*end == ' ' || *end == '-');
}

static bool walk_line(char *line, void *data)
{
	struct walk *walk = data;
	uint64_t address = walk->first;

	if (take_address(line, &address))
		walk->ours = address >= walk->first && address < walk->end;
	walk->read(line, walk->ours, walk->reading);
	return address < walk->end;
}

/* Hands the lines up to the end of the backend's memory to `read`, with whether they are its own.
 */
static int read_lines(struct reading *reading, const char *path, line_reader read)
{
	const struct hm_mapping *mapping = &reading->backend->mapping;
	uint64_t first = (uint64_t)(uintptr_t)mapping->address;
	struct walk walk = {
		.reading = reading,
		.read = read,
		.first = first,
		.end = first + mapping->size,
	};

	return hm_os_read_lines(path, walk_line, &walk);
}

/* Some policies have a space in their name: "prefer (many):0", "weighted interleave:0-1". */
static size_t policy_length(const char *text)
{
	size_t length = strcspn(text, " \n");
	const char *more = text + length + 1;

	if (text[length] == ' ' &&
	    (!strncmp(more, "(many)", 6) || !strncmp(more, "interleave", 10)))
		length += 1 + strcspn(more, " \n");
	return length;
}

static void copy_policy(const char *line, char *policy)
{
	const char *text = strchr(line, ' ');
	size_t length = text ? policy_length(++text) : 0;

	if (length >= HOSTMEM_POLICY_SIZE)
		length = HOSTMEM_POLICY_SIZE - 1;
	memcpy(policy, text ? text : "", length);
	policy[length] = '\0';
}

/* The kernel cuts its words to 63 bytes. */
static bool is_same_policy(const char *expected, const char *policy)
{
	return !strncmp(expected, policy, 63);
}

/* Of several mappings with several policies, the one that differs from what was set is reported. */
static void read_policy(const char *line, struct reading *reading)
{
	struct hostmem_placement *placement = reading->placement;
	char policy[HOSTMEM_POLICY_SIZE];

	if (placement->policy_changed)
		return;
	copy_policy(line, policy);
	if (!strcmp(reading->expected, "default"))
		hm_text_copy(reading->own, reading->expected, sizeof(reading->expected));
	placement->policy_changed = !is_same_policy(reading->expected, policy);
	hm_text_copy(policy, placement->policy, sizeof(placement->policy));
}

/* " N3=17": 17 pages, of the size that the line's last word gives, on node 3. */
static void read_node_counts(const char *line, struct hostmem_placement *placement)
{
	static const char page_word[] = " kernelpagesize_kB=";
	const char *page = strstr(line, page_word);
	uint64_t page_size = page ? strtoull(page + strlen(page_word), NULL, 10) * 1024 : 0;

	for (const char *word = strchr(line, ' '); word; word = strchr(word + 1, ' ')) {
		char *end;
		uint64_t node, bytes;

		if (word[1] != 'N')
			continue;
		node = strtoull(word + 2, &end, 10);
		if (end == word + 2 || *end != '=' || node >= HOSTMEM_NODES_MAX)
			continue;
		bytes = strtoull(end + 1, NULL, 10) * page_size;
		placement->nodes[node] += bytes;
		placement->resident += bytes;
	}
}

static void read_mapmax(const char *line, struct hostmem_placement *placement)
{
	static const char word[] = " mapmax=";
	const char *text = strstr(line, word);
	/* The kernel leaves a 1 out. */
	unsigned long mapmax = text ? strtoul(text + strlen(word), NULL, 10) : 1;

	if (strstr(line, " kernelpagesize_kB=") && mapmax > placement->mapmax)
		placement->mapmax = (uint32_t)mapmax;
}

static void read_numa_line(const char *line, bool ours, struct reading *reading)
{
	if (!ours) {
		copy_policy(line, reading->own);
		return;
	}
	read_policy(line, reading);
	read_node_counts(line, reading->placement);
	read_mapmax(line, reading->placement);
}

static void read_smaps_line(const char *line, bool ours, struct reading *reading)
{
	static const char *const huge[] = { "AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:",
					    "Shared_Hugetlb:", "Private_Hugetlb:" };
	static const char flags[] = "VmFlags:";
	struct hostmem_placement *placement = reading->placement;

	if (!ours)
		return;
	for (size_t i = 0; i < HM_ARRAY_LEN(huge); i++)
		hm_meminfo_add(line, huge[i], &placement->huge);
	hm_meminfo_add(line, "Swap:", &placement->swapped);
	if (!strncmp(line, flags, strlen(flags)) && strstr(line, " mg"))
		placement->mergeable = true;
}

/* For a kernel without NUMA, where smaps is all there is. hugetlb pages are not in Rss. */
static void read_resident_line(const char *line, bool ours, struct reading *reading)
{
	static const char *const names[] = { "Rss:", "Shared_Hugetlb:", "Private_Hugetlb:" };

	for (size_t i = 0; ours && i < HM_ARRAY_LEN(names); i++)
		hm_meminfo_add(line, names[i], &reading->placement->resident);
}

/* Bytes of the file behind the memory that are allocated; 0 where they are not known. */
static uint64_t count_allocated(const struct hostmem_backend *backend)
{
	struct hm_file file;

	if (hm_os_stat(backend->backing.fd, &file) || file.size != backend->mapping.size)
		return 0;
	return file.shmem || hm_backend_is_hugetlb(backend) ? file.allocated : 0;
}

/* Bytes of shared memory that are in memory, whichever process touched them. */
static uint64_t count_present(const struct hostmem_backend *backend,
			      const struct hostmem_placement *placement)
{
	uint64_t present, allocated;

	if (!hm_backend_is_hugetlb(backend) &&
	    !hm_call_count_resident(backend->host, backend->backing.fd, backend->backing.offset,
				    backend->mapping.address, backend->mapping.size, &present))
		return present;
	allocated = count_allocated(backend);
	return allocated > placement->swapped ? allocated - placement->swapped : 0;
}

/* The rest of the memory: touched by other processes only, or never. */
static void read_rest(const struct hostmem_backend *backend, struct hostmem_placement *placement)
{
	uint64_t size = backend->mapping.size, there = placement->resident + placement->swapped;
	uint64_t rest = there < size ? size - there : 0, present = 0;

	/* For memory that this process may not write, the kernel reports nothing. */
	if (rest && backend->shared && !backend->readonly)
		present = count_present(backend, placement);
	if (present > placement->resident)
		placement->unmapped = present - placement->resident;
	if (placement->unmapped > rest)
		placement->unmapped = rest;
	placement->absent = rest - placement->unmapped;
}

int hm_placement_fail(const struct hostmem_backend *backend, int result, struct hostmem_error *err)
{
	return hm_fail(err, HOSTMEM_ERROR_IO, -result,
		       "%s: placement: /proc/self/smaps and numa_maps cannot be read: %s",
		       backend->label, strerror(-result));
}

int hm_placement_count(const struct hostmem_backend *backend, const struct hm_values *values,
		       struct hostmem_placement *placement)
{
	struct reading reading = { .backend = backend, .placement = placement };

	memset(placement, 0, sizeof(*placement));
	hm_policy_format(backend, values, reading.expected, sizeof(reading.expected));
	return read_lines(&reading, "/proc/self/numa_maps", read_numa_line);
}

int hm_placement_read(const struct hostmem_backend *backend, const struct hm_values *values,
		      struct hostmem_placement *placement, struct hostmem_error *err)
{
	struct reading reading = { .backend = backend, .placement = placement };
	int result = 0;

	memset(placement, 0, sizeof(*placement));
	if (backend->mapping.size)
		result = hm_placement_count(backend, values, placement);
	if (result == -ENOENT)
		result = read_lines(&reading, "/proc/self/smaps", read_resident_line);
	if (!result && backend->mapping.size)
		result = read_lines(&reading, "/proc/self/smaps", read_smaps_line);
	if (result)
		return hm_placement_fail(backend, result, err);
	read_rest(backend, placement);
	hm_policy_status_set(backend, values, placement);
	return 0;
}

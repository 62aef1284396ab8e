/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Where the memory is, as the kernel tells in /proc/self/numa_maps (numa(7)) and smaps (proc(5)).
 * Moves nothing, remembers nothing.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

typedef void (*line_reader)(const char *line, struct hostmem_placement *placement);

/* The address that a line begins with, in hex; false when it begins otherwise. */
static bool take_address(const char *line, uint64_t *address)
{
	char *end;

	*address = strtoull(line, &end, 16);
	return end != line && (*end == ' ' || *end == '-');
}

/*
 * Hands to `read` those lines of a file that belong to the backend's memory: a line that begins
 * with an address opens a mapping, the lines after it belong to that mapping.
 */
static int read_lines(const struct hostmem_backend *backend, const char *path, line_reader read,
		      struct hostmem_placement *placement)
{
	uint64_t first = (uint64_t)(uintptr_t)backend->mapping.address;
	uint64_t end = first + backend->mapping.size, address;
	FILE *file = fopen(path, "re");
	bool ours = false;
	char *line = NULL;
	size_t size = 0;

	if (!file)
		return -errno;
	while (getline(&line, &size, file) >= 0) {
		if (take_address(line, &address))
			ours = address >= first && address < end;
		if (ours)
			read(line, placement);
	}
	free(line);
	fclose(file);
	return 0;
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

static void read_policy(const char *line, struct hostmem_placement *placement)
{
	const char *text = strchr(line, ' ');
	size_t length;

	/* Every mapping of the memory has the policy of the first. */
	if (!text || *placement->policy)
		return;
	length = policy_length(++text);
	if (length >= sizeof(placement->policy))
		length = sizeof(placement->policy) - 1;
	memcpy(placement->policy, text, length);
	placement->policy[length] = '\0';
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

static void read_numa_line(const char *line, struct hostmem_placement *placement)
{
	read_policy(line, placement);
	read_node_counts(line, placement);
}

static void read_smaps_line(const char *line, struct hostmem_placement *placement)
{
	static const char *const huge[] = { "AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:",
					    "Shared_Hugetlb:", "Private_Hugetlb:" };
	static const char swapped[] = "Swap:", flags[] = "VmFlags:";

	for (size_t i = 0; i < HM_ARRAY_LEN(huge); i++) {
		if (!strncmp(line, huge[i], strlen(huge[i])))
			placement->huge += strtoull(line + strlen(huge[i]), NULL, 10) * 1024;
	}
	if (!strncmp(line, swapped, strlen(swapped)))
		placement->swapped += strtoull(line + strlen(swapped), NULL, 10) * 1024;
	if (!strncmp(line, flags, strlen(flags)) && strstr(line, " mg"))
		placement->mergeable = true;
}

/* For a kernel without NUMA, where smaps is all there is. hugetlb pages are not in Rss. */
static void read_resident_line(const char *line, struct hostmem_placement *placement)
{
	static const char *const names[] = { "Rss:", "Shared_Hugetlb:", "Private_Hugetlb:" };

	for (size_t i = 0; i < HM_ARRAY_LEN(names); i++) {
		if (!strncmp(line, names[i], strlen(names[i])))
			placement->resident += strtoull(line + strlen(names[i]), NULL, 10) * 1024;
	}
}

static int fail_read(const struct hostmem_backend *backend, int result, struct hostmem_error *err)
{
	return hm_fail(err, HOSTMEM_ERROR_IO, -result,
		       "%s: placement: /proc/self/smaps and numa_maps cannot be read: %s",
		       backend->id, strerror(-result));
}

static int read_placement(const struct hostmem_backend *backend,
			  struct hostmem_placement *placement, struct hostmem_error *err)
{
	int result;
	uint64_t there;

	memset(placement, 0, sizeof(*placement));
	if (!backend->mapping.size)
		return 0;
	result = read_lines(backend, "/proc/self/smaps", read_smaps_line, placement);
	if (result)
		return fail_read(backend, result, err);
	result = read_lines(backend, "/proc/self/numa_maps", read_numa_line, placement);
	if (result == -ENOENT)
		result = read_lines(backend, "/proc/self/smaps", read_resident_line, placement);
	if (result)
		return fail_read(backend, result, err);
	there = placement->resident + placement->swapped;
	placement->absent = there < backend->mapping.size ? backend->mapping.size - there : 0;
	return 0;
}

int hostmem_backend_get_placement(const struct hostmem_backend *backend,
				  struct hostmem_placement *placement, struct hostmem_error *err)
{
	/* Held so that the memory is not deleted meanwhile; no part of the backend's value. */
	pthread_mutex_t *change = &((struct hostmem_backend *)(uintptr_t)backend)->change;
	enum hostmem_state state;
	int result;

	pthread_mutex_lock(change);
	state = hostmem_backend_get_state(backend);
	if (state == HOSTMEM_STATE_READY || state == HOSTMEM_STATE_MAPPED)
		result = read_placement(backend, placement, err);
	else
		result = hm_fail_no_memory_yet(backend, state, err);
	pthread_mutex_unlock(change);
	return result;
}

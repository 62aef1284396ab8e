/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The host's pools of huge pages (hugetlbfs): their sizes, and how many pages each has, on all
 * nodes and on one. Knows no control groups.
 */
#include <stdio.h>
#include <stdlib.h>

#include "compat.h"
#include "internal.h"

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

int hm_huge_pools_get(uint64_t page_size, struct hm_huge_pool *pool)
{
	char directory[96];

	*pool = (struct hm_huge_pool){ 0 };
	snprintf(directory, sizeof(directory), POOL_DIR "hugepages-%jukB",
		 (uintmax_t)(page_size / 1024));
	if (!read_number(directory, "nr_hugepages", &pool->total))
		return -1;
	read_number(directory, "free_hugepages", &pool->free);
	read_number(directory, "resv_hugepages", &pool->reserved);
	read_number(directory, "nr_overcommit_hugepages", &pool->overcommit);
	read_number(directory, "surplus_hugepages", &pool->surplus);
	pool->overcommit -= pool->surplus < pool->overcommit ? pool->surplus : pool->overcommit;
	return 0;
}

int hm_huge_pools_get_node(uint64_t node, uint64_t page_size, struct hm_huge_pool *pool)
{
	char directory[96];

	*pool = (struct hm_huge_pool){ 0 };
	snprintf(directory, sizeof(directory), HM_NODE_DIR "node%ju/hugepages/hugepages-%jukB",
		 (uintmax_t)node, (uintmax_t)(page_size / 1024));
	if (!read_number(directory, "nr_hugepages", &pool->total))
		return -1;
	read_number(directory, "free_hugepages", &pool->free);
	read_number(directory, "surplus_hugepages", &pool->surplus);
	return 0;
}

uint64_t hm_huge_pools_get_sizes(const struct hm_seen *seen)
{
	struct hm_huge_pool pool;
	uint64_t sizes = 0;

	for (uint64_t page = HM_HUGE_SIZE_MIN; page <= HM_HUGE_SIZE_MAX; page <<= 1)
		sizes |= hm_huge_pools_get(page, &pool) ? 0 : page;
	return sizes || !seen ? sizes : seen->huge_sizes;
}

uint64_t hm_huge_pools_get_default_size(const struct hm_seen *seen)
{
	uint64_t size = hm_meminfo_get("Hugepagesize:");

	return size || !seen ? size : seen->default_huge_size;
}

/* The page size of a memfd of huge pages of that size, 0: of the default; 0 when there are none. */
static uint64_t ask_size(uint64_t page_size)
{
	unsigned int shift = page_size ? (unsigned int)__builtin_ctzll(page_size) : 0;
	int fd = hm_os_memfd("hostmem-probe", MFD_CLOEXEC | MFD_HUGETLB | shift << MFD_HUGE_SHIFT);
	struct hm_file file;

	if (fd < 0)
		return 0;
	if (hm_os_stat(fd, &file))
		file.page_size = 0;
	hm_os_close(fd);
	return file.page_size;
}

void hm_huge_pools_see(struct hm_seen *seen)
{
	seen->huge_sizes = hm_huge_pools_get_sizes(NULL);
	seen->default_huge_size = hm_huge_pools_get_default_size(NULL);
	if (!seen->default_huge_size)
		seen->default_huge_size = ask_size(0);
	if (seen->huge_sizes)
		return;
	for (uint64_t page = HM_HUGE_SIZE_MIN; page <= HM_HUGE_SIZE_MAX; page <<= 1)
		seen->huge_sizes |= ask_size(page);
}

void hm_huge_pools_format_sizes(uint64_t sizes, char *text, size_t size)
{
	*text = '\0';
	for (uint64_t page = HM_HUGE_SIZE_MIN; page <= HM_HUGE_SIZE_MAX; page <<= 1) {
		unsigned int shift = page >> 30 ? 30 : page >> 20 ? 20 : 10;
		char word[32];

		if (!(sizes & page))
			continue;
		snprintf(word, sizeof(word), "%ju%c", (uintmax_t)(page >> shift),
			 shift == 30   ? 'G'
			 : shift == 20 ? 'M'
				       : 'K');
		hm_text_join(text, size, ", ", word);
	}
}

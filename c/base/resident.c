/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * How much of a range is in memory, and whether in huge pages, as cachestat(2), mincore(2) and
 * pagemap (proc(5)) tell. Says nothing of nodes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base.h"
#include "compat.h"

/* A range whose pages are looked at one by one in a few milliseconds. */
#define LOOK_AT_EACH (UINT64_C(1) << 30)

/* The range and the answer of cachestat(2). */
struct cache_range {
	uint64_t offset, length;
};

struct cache {
	uint64_t present, dirty, written_back, evicted, lately_evicted;
};

int hm_resident_count_cached(int fd, uint64_t offset, uint64_t size, uint64_t *cached)
{
	struct cache_range range = { .offset = offset, .length = size };
	struct cache cache;

	if (syscall(SYS_cachestat, fd, &range, &cache, 0))
		return -errno;
	*cached = cache.present * hm_os_page_size();
	return 0;
}

static int count_mapped(uint8_t *address, uint64_t size, uint64_t *resident)
{
	uint64_t page = hm_os_page_size();
	unsigned char pages[16384];

	for (uint64_t offset = 0; offset < size; offset += sizeof(pages) * page) {
		uint64_t part = size - offset;

		if (part > sizeof(pages) * page)
			part = sizeof(pages) * page;
		if (mincore(address + offset, (size_t)part, pages))
			return -errno;
		for (uint64_t i = 0; i < part / page; i++)
			*resident += pages[i] & 1 ? page : 0;
	}
	return 0;
}

/* Moves the range to its first data, in whole pages. Returns 1, 0 when it has none, or -errno. */
static int find_data(int fd, uint64_t *begin, uint64_t *end)
{
	uint64_t page = hm_os_page_size();
	off_t data = lseek(fd, (off_t)*begin, SEEK_DATA);
	off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);

	if (hole < 0)
		return errno == ENXIO ? 0 : -errno;
	*begin = (uint64_t)data / page * page;
	if ((uint64_t)hole < *end)
		*end = ((uint64_t)hole + page - 1) / page * page;
	return *begin < *end;
}

/* By mincore(2), which looks at every page: holes of the file, which have none, are left out. */
static int count_data(int fd, uint64_t offset, uint8_t *address, uint64_t size, uint64_t *resident)
{
	uint64_t begin = offset, end = offset + size;
	int own = hm_os_reopen(fd, O_RDONLY), result;

	if (own < 0)
		return own;
	while ((result = find_data(own, &begin, &end)) > 0) {
		result = count_mapped(address + (begin - offset), end - begin, resident);
		if (result)
			break;
		begin = end;
		end = offset + size;
	}
	hm_os_close(own);
	return result;
}

int hm_resident_count(unsigned int ways, int fd, uint64_t offset, uint8_t *address, uint64_t size,
		      uint64_t *resident)
{
	*resident = 0;
	if (ways & HM_RESIDENT_CACHESTAT && !hm_resident_count_cached(fd, offset, size, resident))
		return 0;
	if (!(ways & HM_RESIDENT_MINCORE))
		return -EPERM;
	if (size <= LOOK_AT_EACH || !(ways & HM_RESIDENT_LSEEK))
		return count_mapped(address, size, resident);
	return count_data(fd, offset, address, size, resident);
}

int hm_resident_get(uint8_t *address, uint64_t size, unsigned char *pages)
{
	return mincore(address, (size_t)size, pages) ? -errno : 0;
}

static uint64_t count_own_pages(const uint64_t *entries, size_t len)
{
	const uint64_t own = HM_PAGEMAP_PRESENT | HM_PAGEMAP_EXCLUSIVE;
	uint64_t count = 0;

	for (size_t i = 0; i < len; i++)
		count += (entries[i] & (own | HM_PAGEMAP_FILE)) == own;
	return count;
}

int hm_resident_count_own(const uint8_t *address, uint64_t size, uint64_t *own)
{
	uint64_t page = hm_os_page_size(), entries[2048];
	uint64_t next = (uintptr_t)address / page, left = size / page;
	int fd = hm_os_open("/proc/self/pagemap", O_RDONLY), result = 0;

	*own = 0;
	if (fd < 0)
		return fd;
	while (left && !result) {
		size_t want = left < HM_ARRAY_LEN(entries) ? left : HM_ARRAY_LEN(entries);
		ssize_t got = pread(fd, entries, want * sizeof(entries[0]),
				    (off_t)(next * sizeof(entries[0])));

		if (got < (ssize_t)sizeof(entries[0])) {
			result = got < 0 ? -errno : -EIO;
			break;
		}
		*own += count_own_pages(entries, (size_t)got / sizeof(entries[0])) * page;
		next += (size_t)got / sizeof(entries[0]);
		left -= (size_t)got / sizeof(entries[0]);
	}
	close(fd);
	return result;
}

int hm_resident_get_pagemap(const uint8_t *address, size_t pages, uint64_t *entries)
{
	uint64_t first = (uintptr_t)address / hm_os_page_size();
	int fd = hm_os_open("/proc/self/pagemap", O_RDONLY);
	int result;

	if (fd < 0)
		return fd;
	result = hm_os_read_at(fd, entries, pages * sizeof(entries[0]), first * sizeof(entries[0]));
	close(fd);
	return result;
}

/* Of PAGEMAP_SCAN, which not every C library's compiler finds in <linux/fs.h>. */
struct region {
	uint64_t start, end, categories;
};

struct scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define IOCTL_SCAN    _IOWR('f', 16, struct scan)
#define CATEGORY_HUGE (1u << 6)

bool hm_resident_is_huge(const uint8_t *address, uint64_t size)
{
	struct region region = { 0 };
	struct scan scan = {
		.size = sizeof(scan),
		.start = (uintptr_t)address,
		.end = (uintptr_t)address + size,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = CATEGORY_HUGE,
		.return_mask = CATEGORY_HUGE,
	};
	int fd = hm_os_open("/proc/self/pagemap", O_RDONLY), found;

	if (fd < 0)
		return true;
	found = (int)syscall(SYS_ioctl, fd, IOCTL_SCAN, &scan);
	close(fd);
	return found < 0 || (region.start == scan.start && region.end == scan.end);
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * How much of a range is in memory, as mincore(2) and pagemap (proc(5)) tell. Says nothing of nodes
 * or of huge pages.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base.h"

int hm_resident_count(uint8_t *address, uint64_t size, uint64_t *resident)
{
	uint64_t page = hm_os_page_size();
	unsigned char pages[16384];

	*resident = 0;
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

/* Of an entry of pagemap: the page is present, of a file or shared, in this one mapping only. */
#define PAGEMAP_PRESENT   (UINT64_C(1) << 63)
#define PAGEMAP_FILE      (UINT64_C(1) << 61)
#define PAGEMAP_EXCLUSIVE (UINT64_C(1) << 56)

static uint64_t count_own_pages(const uint64_t *entries, size_t len)
{
	const uint64_t own = PAGEMAP_PRESENT | PAGEMAP_EXCLUSIVE;
	uint64_t count = 0;

	for (size_t i = 0; i < len; i++)
		count += (entries[i] & (own | PAGEMAP_FILE)) == own;
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

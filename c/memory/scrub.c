/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Scrubs one range of memory: it reads as zero afterwards, and its pages stay where they are. What
 * is present is overwritten, what is absent stays so, what is swapped out is given back. Knows
 * neither threads nor whether scrubbing is allowed.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "memory.h"

/* ---- Storing zeros ---- */

/*
 * Past the caches: memory of a guest is larger than they are, and what they hold is somebody's.
 * size is a multiple of the page size.
 */
#if defined(__SSE2__)
static void store_zeros(uint8_t *address, uint64_t size)
{
	const __m128i zero = _mm_setzero_si128();

	for (uint64_t offset = 0; offset < size; offset += 64) {
		__m128i *line = (__m128i *)(void *)(address + offset);

		_mm_stream_si128(line, zero);
		_mm_stream_si128(line + 1, zero);
		_mm_stream_si128(line + 2, zero);
		_mm_stream_si128(line + 3, zero);
	}
	/* These stores are ordered with others by this alone. */
	_mm_sfence();
}
#elif defined(__aarch64__)
static void store_zeros(uint8_t *address, uint64_t size)
{
	uint64_t id, block;

	__asm__("mrs %0, dczid_el0" : "=r"(id));
	block = UINT64_C(4) << (id & 15);
	/* Bit 4: the instruction is prohibited. */
	if (id & 16) {
		memset(address, 0, size);
		return;
	}
	for (uint64_t offset = 0; offset < size; offset += block)
		__asm__ volatile("dc zva, %0" : : "r"(address + offset) : "memory");
}
#else
static void store_zeros(uint8_t *address, uint64_t size)
{
	memset(address, 0, size);
}
#endif

/* ---- What is to be done with each page ---- */

enum action {
	/* It is absent. */
	DO_NOTHING,
	DO_STORE,
	/* Stored where it is not zero: the zero page stays, and so does what a file has. */
	DO_LOOK,
	/* It is not mapped here. Reading the file tells whether anything is there. */
	DO_READ_FILE,
	DO_GIVE_BACK,
};

/* Base pages that are looked at together: of a huge page that has more, a part. */
#define MOST_PAGES 2048

struct part {
	uint8_t *address;
	uint64_t page_size;
	/* In the descriptor. */
	uint64_t offset;
	size_t len;
	uint8_t actions[MOST_PAGES];
};

static int look_at_residence(const struct hm_scrub *scrub, const struct part *part,
			     unsigned char *pages)
{
	return hm_call_get_resident(scrub->host, part->address, part->len * part->page_size, pages);
}

static enum action choose_by_entry(const struct hm_scrub *scrub, uint64_t entry)
{
	if (entry & HM_PAGEMAP_SWAPPED)
		return DO_GIVE_BACK;
	if (!(entry & HM_PAGEMAP_PRESENT))
		return scrub->has_file ? DO_READ_FILE : DO_NOTHING;
	return (entry & (HM_PAGEMAP_FILE | HM_PAGEMAP_EXCLUSIVE)) == HM_PAGEMAP_EXCLUSIVE ? DO_STORE
											  : DO_LOOK;
}

/* The pages of a private mapping: this process's own, or those of a file that nobody else has. */
static int look_at_private(const struct hm_scrub *scrub, struct part *part)
{
	unsigned char resident[MOST_PAGES];
	uint64_t entries[MOST_PAGES];
	bool swapped = false;
	int result = hm_resident_get_pagemap(part->address, part->len, entries);

	if (result)
		return result;
	for (size_t i = 0; i < part->len; i++) {
		part->actions[i] = (uint8_t)choose_by_entry(scrub, entries[i]);
		swapped |= part->actions[i] == DO_GIVE_BACK;
	}
	if (!swapped)
		return 0;
	/* A page that is being moved looks swapped out, but is in memory and stays. */
	result = look_at_residence(scrub, part, resident);
	/* Not known: reading it in again is what keeps it present in either case. */
	if (result == -EPERM)
		memset(resident, 1, part->len);
	else if (result)
		return result;
	for (size_t i = 0; i < part->len; i++) {
		if (part->actions[i] == DO_GIVE_BACK && resident[i] & 1)
			part->actions[i] = DO_STORE;
	}
	return 0;
}

/* What others have of shared memory counts as well. */
static int look_at_shared(const struct hm_scrub *scrub, struct part *part)
{
	unsigned char resident[MOST_PAGES];
	enum action absent = scrub->hugetlb ? DO_READ_FILE : DO_GIVE_BACK;
	int result;

	/* The memory of a device is all there is, whatever is mapped. */
	if (scrub->device) {
		memset(part->actions, DO_STORE, part->len);
		return 0;
	}
	result = look_at_residence(scrub, part, resident);
	/* Not known: reading the file makes no page present. */
	if (result == -EPERM) {
		memset(part->actions, DO_READ_FILE, part->len);
		return 0;
	}
	for (size_t i = 0; !result && i < part->len; i++)
		part->actions[i] = (uint8_t)(resident[i] & 1 ? DO_STORE : absent);
	return result;
}

/* ---- Doing it ---- */

static bool is_inaccessible(const struct hm_scrub *scrub, const uint8_t *address, uint64_t size)
{
	const struct hm_range range = { (uint64_t)(address - scrub->address), size };

	return hm_ranges_overlap(scrub->inaccessible, &range);
}

/*
 * Where the file may have been cut short, or its disk be full, storing would be SIGBUS: populating
 * says so instead.
 */
static int store(const struct hm_scrub *scrub, uint8_t *address, uint64_t size)
{
	int result = is_inaccessible(scrub, address, size) ? -EACCES : 0;

	if (!result)
		result = hm_populate_range(&scrub->populate, address, size);
	if (!result)
		store_zeros(address, size);
	return result;
}

static bool is_zero(const uint8_t *bytes, uint64_t size)
{
	return !bytes[0] && !memcmp(bytes, bytes + 1, size - 1);
}

static int store_where_not_zero(const struct hm_scrub *scrub, uint8_t *address, uint64_t size)
{
	uint64_t page = scrub->populate.page_size;

	if (is_inaccessible(scrub, address, size))
		return -EACCES;
	for (uint64_t offset = 0; offset < size; offset += page) {
		int result;

		if (is_zero(address + offset, page))
			continue;
		result = store(scrub, address + offset, page);
		if (result)
			return result;
	}
	return 0;
}

/* Whether a page of the file has something. Reading one that is absent leaves it absent. */
static int is_file_zero(const struct hm_scrub *scrub, uint64_t offset, bool *zero)
{
	uint8_t bytes[16384];
	int result = 0;

	*zero = true;
	for (uint64_t done = 0; *zero && !result && done < scrub->file_page;
	     done += sizeof(bytes)) {
		uint64_t left = scrub->file_page - done;
		size_t want = left < sizeof(bytes) ? (size_t)left : sizeof(bytes);

		result = hm_os_read_at(scrub->fd, bytes, want, offset + done);
		*zero = result || is_zero(bytes, want);
	}
	return result;
}

static int store_where_file_is_not_zero(const struct hm_scrub *scrub, uint8_t *address,
					uint64_t size, uint64_t offset)
{
	for (uint64_t done = 0; done < size; done += scrub->file_page) {
		bool zero;
		int result = is_file_zero(scrub, offset + done, &zero);

		if (!result && !zero)
			result = store(scrub, address + done, scrub->file_page);
		if (result)
			return result;
	}
	return 0;
}

/*
 * The file system may not be able to make holes: then what is absent is overwritten too. Blocks
 * that were preallocated are again, so that the disk cannot be full later.
 */
static int give_back(const struct hm_scrub *scrub, uint8_t *address, uint64_t size, uint64_t offset)
{
	int result;

	if (!scrub->shared) {
		result = hm_discard_pages(scrub->host, address, size);
		if (result || !scrub->has_file)
			return result;
		return store_where_file_is_not_zero(scrub, address, size, offset);
	}
	result = hm_os_punch_hole(scrub->fd, offset, size);
	if (result)
		return store(scrub, address, size);
	return scrub->keeps_blocks ? hm_os_allocate(scrub->fd, offset, size) : 0;
}

static int do_run(const struct hm_scrub *scrub, const struct part *part, size_t first, size_t end)
{
	uint8_t *address = part->address + first * part->page_size;
	uint64_t size = (end - first) * part->page_size;
	uint64_t offset = part->offset + first * part->page_size;

	switch ((enum action)part->actions[first]) {
	case DO_NOTHING:
		break;
	case DO_STORE:
		if (!scrub->stores_directly)
			return store(scrub, address, size);
		if (is_inaccessible(scrub, address, size))
			return -EACCES;
		store_zeros(address, size);
		break;
	case DO_LOOK:
		return store_where_not_zero(scrub, address, size);
	case DO_READ_FILE:
		return store_where_file_is_not_zero(scrub, address, size, offset);
	case DO_GIVE_BACK:
		return give_back(scrub, address, size, offset);
	}
	return 0;
}

/* Pages one after the other for which the same is to be done. */
static int do_part(const struct hm_scrub *scrub, const struct part *part)
{
	size_t end;

	for (size_t first = 0; first < part->len; first = end) {
		int result;

		for (end = first; end < part->len && part->actions[end] == part->actions[first];)
			end++;
		result = do_run(scrub, part, first, end);
		if (result)
			return result;
	}
	return 0;
}

/* Pages of a private mapping, and those of a memory file that keeps its size, cannot be missing. */
static bool stores_directly(const struct hostmem_backend *backend, const struct hm_file *file)
{
	int seals;

	if (!backend->shared)
		return true;
	seals = file->shmem ? hm_os_get_seals(backend->backing.fd) : 0;
	return seals > 0 && seals & F_SEAL_SHRINK;
}

void hm_scrub_begin(struct hm_scrub *scrub, const struct hostmem_backend *backend,
		    const struct hm_values *values)
{
	uint64_t page = backend->page_size, most = backend->host->page_size * MOST_PAGES;
	struct hm_file file = { 0 };

	*scrub = (struct hm_scrub){
		.host = backend->host,
		.address = backend->mapping.address,
		.inaccessible = &backend->inaccessible,
		.fd = backend->backing.fd,
		.fd_offset = backend->backing.offset,
		.shared = backend->shared,
		.hugetlb = hm_backend_is_hugetlb(backend),
		.file_page = page < most ? page : most,
	};
	hm_populate_begin(&scrub->populate, backend, values);
	hm_populate_end(&scrub->populate);
	scrub->stores_directly = !scrub->shared;
	if (scrub->fd < 0 || hm_os_stat(scrub->fd, &file))
		return;
	scrub->stores_directly = stores_directly(backend, &file);
	scrub->device = S_ISCHR(file.mode);
	scrub->has_file = !scrub->shared && file.allocated;
	scrub->keeps_blocks = values->prealloc && S_ISREG(file.mode) && !file.shmem;
}

int hm_scrub_range(const struct hm_scrub *scrub, uint8_t *address, uint64_t size)
{
	struct part part = { .page_size = scrub->populate.page_size };
	int result = 0;

	for (uint64_t done = 0; !result && done < size; done += part.len * part.page_size) {
		uint64_t left = (size - done) / part.page_size;

		part.address = address + done;
		part.offset = scrub->fd_offset + (uint64_t)(part.address - scrub->address);
		part.len = left < MOST_PAGES ? (size_t)left : MOST_PAGES;
		result = scrub->shared ? look_at_shared(scrub, &part)
				       : look_at_private(scrub, &part);
		if (!result)
			result = do_part(scrub, &part);
	}
	return result;
}

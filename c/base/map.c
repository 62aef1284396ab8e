/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Address space: reserves it, aligns it, maps the backing in between guard pages where these are
 * wanted, and unmaps exactly what it mapped. Does not know what the memory is for.
 *
 *     base                address                        address + size
 *      │ (trimmed) │ guard │ memory, inaccessible at first │ guard │ (trimmed) │
 */
#include <errno.h>

#include "base.h"
#include "compat.h"

/* Bytes of the guard on each side. */
static size_t guard_size(const struct hm_map_request *request)
{
	return request->guard ? (size_t)hm_os_page_size() : 0;
}

/* Bytes that leave room to align the memory and for both guards; -1 when there are none. */
static int reservation_size(const struct hm_map_request *request, size_t guard, size_t *size)
{
	if (__builtin_add_overflow(request->size, request->alignment, size) ||
	    __builtin_add_overflow(*size, 2 * guard, size))
		return -1;
	return *size > PTRDIFF_MAX ? -1 : 0;
}

/* Unmaps what the alignment left over on both sides of the guards. */
static int trim(struct hm_mapping *mapping, size_t guard)
{
	uint8_t *first = mapping->address - guard;
	uint8_t *end = mapping->address + mapping->size + guard;
	size_t front = (size_t)(first - mapping->base);
	size_t back = (size_t)(mapping->base + mapping->base_size - end);
	int result = 0;

	if (front)
		result = hm_os_unmap(mapping->base, front);
	if (result)
		return result;
	mapping->base = first;
	mapping->base_size -= front;
	if (back)
		result = hm_os_unmap(end, back);
	if (!result)
		mapping->base_size -= back;
	return result;
}

int hm_map_reserve(struct hm_mapping *mapping, const struct hm_map_request *request)
{
	size_t guard = guard_size(request);
	void *base = NULL;
	uintptr_t first, over;
	int result;

	if (reservation_size(request, guard, &mapping->base_size))
		return -ENOMEM;
	result = hm_os_map(&base, mapping->base_size, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (result)
		return result;
	mapping->base = base;
	mapping->size = request->size;
	first = (uintptr_t)base + guard;
	over = (first - request->skew) % request->alignment;
	first += over ? request->alignment - over : 0;
	mapping->address = mapping->base + (first - (uintptr_t)base);
	result = trim(mapping, guard);
	if (result)
		hm_map_destroy(mapping);
	return result;
}

/*
 * A mapping over the reservation, MAP_FIXED, can fail when the kernel has unmapped what was there
 * (mmap(2)): the range is then anybody's, and so must not be unmapped by us. So it is given back
 * first, and taken again only if nobody else has it.
 */
int hm_map_fill(struct hm_mapping *mapping, const struct hm_map_request *request)
{
	int flags = MAP_FIXED_NOREPLACE | (request->shared ? MAP_SHARED : MAP_PRIVATE);
	void *address = mapping->address;
	int result;

	if (request->fd < 0)
		flags |= MAP_ANONYMOUS;
	if (request->huge_page)
		flags |= MAP_HUGETLB | __builtin_ctzll(request->huge_page) << MAP_HUGE_SHIFT;
	if (!request->reserve)
		flags |= MAP_NORESERVE;
	if (request->sync)
		flags = (flags & ~MAP_SHARED) | MAP_SHARED_VALIDATE | MAP_SYNC;
	result = hm_os_unmap(mapping->address, mapping->size);
	if (result)
		return result;
	result = hm_os_map(&address, mapping->size, PROT_NONE, flags, request->fd, request->offset);
	if (result)
		hm_map_note_hole(mapping, 0, mapping->size);
	return result;
}

void hm_map_note_hole(struct hm_mapping *mapping, size_t offset, size_t length)
{
	mapping->hole_begin = offset;
	mapping->hole_end = offset + length;
}

bool hm_map_has_hole(const struct hm_mapping *mapping)
{
	return mapping->hole_begin < mapping->hole_end;
}

static void unmap_part(uint8_t *begin, uint8_t *end)
{
	if (begin < end)
		hm_os_unmap(begin, (size_t)(end - begin));
}

static void unmap_around_hole(const struct hm_mapping *mapping)
{
	uint8_t *hole = mapping->base, *behind = hole;

	if (hm_map_has_hole(mapping)) {
		hole = mapping->address + mapping->hole_begin;
		behind = mapping->address + mapping->hole_end;
	}
	unmap_part(mapping->base, hole);
	unmap_part(behind, mapping->base + mapping->base_size);
}

void hm_map_destroy(struct hm_mapping *mapping)
{
	if (mapping->base)
		unmap_around_hole(mapping);
	*mapping = (struct hm_mapping){ 0 };
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Where contents that are read on demand are read to, and how they get from there into place at
 * once, so that nobody sees half of them. Does not know which of them are unread, nor threads.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "internal.h"

/* Of small pages: what one touch reads. */
#define SMALL_UNIT UINT64_C(65536)

/* ---- Choosing a way ---- */

static bool may(const struct hostmem_backend *backend, enum hostmem_method method)
{
	return backend->host->methods & method && backend->host->populate;
}

static bool can_move(const struct hostmem_backend *backend, const struct hm_values *values)
{
	uint64_t thp = backend->host->thp_size;

	return may(backend, HOSTMEM_METHOD_MOVE) && thp && backend->backing.fd < 0 &&
	       values->thp != HM_THP_NEVER && backend->mapping.size >= thp &&
	       !hm_backend_is_hugetlb(backend);
}

/* The policy of shared memory is the object's, but that of hugetlb memory each mapping's. */
static int bind_second(const struct hm_staging *staging, const struct hm_values *values)
{
	const char *call;

	if (!hm_backend_is_hugetlb(staging->backend))
		return 0;
	return hm_policy_set_at(staging->backend, values, staging->second.address,
				staging->second.size, 0, &call);
}

/* Address and offset agree modulo the huge page, as those of the memory do. */
static int map_again(struct hm_staging *staging, const struct hm_values *values)
{
	const struct hostmem_backend *backend = staging->backend;
	const struct hm_map_request request = {
		.size = backend->mapping.size,
		.alignment = (size_t)staging->unit,
		.skew = (size_t)(backend->backing.offset % staging->unit),
		.fd = backend->backing.fd,
		.offset = backend->backing.offset,
		.shared = true,
	};
	struct hm_mapping *second = &staging->second;
	int result = hm_map_reserve(second, &request);

	if (!result)
		result = hm_map_fill(second, &request);
	if (!result && values->policy != HM_POLICY_DEFAULT)
		result = bind_second(staging, values);
	/* What it has is the memory's own: a child and a dump have it from there, or not at all. */
	if (!result)
		result = hm_os_advise(second->address, second->size, MADV_DONTFORK);
	if (!result)
		result = hm_os_protect(second->address, second->size, PROT_READ | PROT_WRITE);
	if (result) {
		hm_map_destroy(second);
		return result;
	}
	hm_os_advise(second->address, second->size, MADV_DONTDUMP);
	if (!hm_backend_is_hugetlb(backend))
		hm_os_advise(second->address, second->size, MADV_HUGEPAGE);
	return 0;
}

/* Small pages are faster copied. */
static bool can_map_again(struct hm_staging *staging, const struct hm_values *values)
{
	struct hostmem_backend *backend = staging->backend;

	if (!may(backend, HOSTMEM_METHOD_CONTINUE) || !backend->shared)
		return false;
	hm_populate_begin(&staging->populate, backend, values);
	if (!staging->populate.huge_size)
		return false;
	staging->unit = staging->populate.huge_size;
	return !map_again(staging, values);
}

static void choose_copying(struct hm_staging *staging)
{
	uint64_t page = staging->backend->page_size;

	staging->way = HM_STAGING_COPY;
	staging->unit = page > SMALL_UNIT ? page : SMALL_UNIT;
}

static void choose_way(struct hm_staging *staging, const struct hm_values *values, bool moves)
{
	const struct hostmem_backend *backend = staging->backend;

	if (moves && can_move(backend, values)) {
		staging->way = HM_STAGING_MOVE;
		staging->unit = backend->host->thp_size;
	} else if (can_map_again(staging, values)) {
		staging->way = HM_STAGING_CONTINUE;
		staging->populate.address = staging->second.address;
	} else {
		choose_copying(staging);
	}
}

static int register_memory(struct hm_staging *staging)
{
	const struct hm_mapping *mapping = &staging->backend->mapping;

	return hm_fault_register(staging->fault_fd, mapping->address, mapping->size,
				 staging->way == HM_STAGING_CONTINUE);
}

/*
 * What the second mapping has made can only be put in place by this call, so it has to be known
 * before: of an absent page it answers EFAULT.
 */
static bool may_continue(const struct hm_staging *staging)
{
	const struct hostmem_backend *backend = staging->backend;
	uint64_t done;

	return hm_fault_continue(staging->fault_fd, backend->mapping.address, backend->page_size,
				 &done) == -EFAULT;
}

/*
 * Before Linux 6.4 khugepaged makes a huge page also of shared memory that is registered, and fills
 * what is absent with zeros, which a touch would find. Where a second mapping is written these are
 * not mapped, and asked for.
 */
static int keep_small(struct hm_staging *staging, const struct hm_values *values)
{
	const struct hostmem_backend *backend = staging->backend;
	int result;

	if (staging->way != HM_STAGING_COPY || backend->backing.fd < 0 ||
	    hm_backend_is_hugetlb(backend))
		return 0;
	staging->keeps_small = true;
	staging->thp = (enum hm_thp)values->thp;
	result = hm_os_advise(backend->mapping.address, backend->mapping.size, MADV_NOHUGEPAGE);
	/* A kernel without huge pages. */
	return result == -EINVAL ? 0 : result;
}

int hm_staging_begin(struct hm_staging *staging, struct hostmem_backend *backend,
		     const struct hm_values *values, int fault_fd, bool moves)
{
	int result;

	*staging = (struct hm_staging){ .backend = backend, .fault_fd = fault_fd };
	choose_way(staging, values, moves);
	result = register_memory(staging);
	if (staging->way != HM_STAGING_CONTINUE)
		return result ? result : keep_small(staging, values);
	if (!result && may_continue(staging))
		return 0;
	/* Before Linux 5.14 there is no second mapping. */
	if (!result)
		hm_fault_unregister(fault_fd, backend->mapping.address, backend->mapping.size);
	hm_staging_end(staging);
	choose_copying(staging);
	result = register_memory(staging);
	return result ? result : keep_small(staging, values);
}

int hm_staging_advise_thp(struct hm_staging *staging, enum hm_thp thp, struct hostmem_error *err)
{
	if (!staging->keeps_small)
		return hm_advise_thp(staging->backend, thp, err);
	staging->thp = thp;
	return 0;
}

int hm_staging_allow_huge(struct hm_staging *staging, struct hostmem_error *err)
{
	if (!staging->keeps_small)
		return 0;
	staging->keeps_small = false;
	return hm_advise_thp(staging->backend, staging->thp, err);
}

void hm_staging_end(struct hm_staging *staging)
{
	/* A forked child does not have it. */
	if (!staging->backend || !hm_backend_is_forked(staging->backend))
		hm_map_destroy(&staging->second);
}

/* ---- Scratch memory ---- */

/* A forked child must not share the pages, which could not be moved then. */
static int make_scratch(struct hm_scratch *scratch, const struct hm_staging *staging)
{
	uint64_t over, unit = staging->unit;
	int result;

	*scratch = (struct hm_scratch){ .base_size = 2 * unit, .home_node = HM_NODE_NONE };
	result = hm_os_map(&scratch->base, scratch->base_size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (result < 0)
		return result;
	over = (uintptr_t)scratch->base % unit;
	scratch->memory = (uint8_t *)scratch->base + (over ? unit - over : 0);
	hm_os_advise(scratch->base, scratch->base_size, MADV_DONTFORK);
	if (staging->way == HM_STAGING_MOVE)
		hm_os_advise(scratch->memory, unit, MADV_HUGEPAGE);
	return 0;
}

void hm_scratch_free(const struct hm_scratch *scratch)
{
	if (scratch->base)
		hm_os_unmap(scratch->base, scratch->base_size);
}

static bool has_policy(const struct hm_scratch *scratch, const struct hm_values *values)
{
	return scratch->policy == values->policy && scratch->home_node == values->home_node &&
	       hm_set_equals(&scratch->nodes, &values->host_nodes);
}

/*
 * Pages that are moved come from where the memory's would, which may change at any time; and both
 * or none are locked. False where that cannot be had: then pages are copied.
 */
static bool follow(const struct hm_staging *staging, struct hm_scratch *scratch)
{
	uint64_t unit = staging->unit;
	struct hm_values values;
	const char *call;

	hm_backend_snapshot(staging->backend, &values);
	/* These choose a node by the place of a page, of which scratch memory has one. */
	if (values.policy == HM_POLICY_INTERLEAVE || values.policy == HM_POLICY_WEIGHTED_INTERLEAVE)
		return false;
	if (values.lock != scratch->locked) {
		if (values.lock ? hm_os_lock(scratch->memory, unit, MLOCK_ONFAULT)
				: hm_os_unlock(scratch->memory, unit))
			return false;
		scratch->locked = values.lock;
	}
	if (has_policy(scratch, &values))
		return true;
	if (hm_discard_pages(staging->backend->host, scratch->memory, unit) ||
	    hm_policy_set_at(staging->backend, &values, scratch->memory, unit, 0, &call))
		return false;
	scratch->dirty = false;
	scratch->policy = values.policy;
	scratch->home_node = values.home_node;
	scratch->nodes = values.host_nodes;
	return true;
}

/*
 * Of huge pages the kernel answers EEXIST also where the pool has none left: waking threads would
 * make them touch the place again, for ever. Nobody else has the file as long as this is unread, so
 * what is there is mapped here.
 */
static bool is_there(const struct hostmem_backend *backend, const uint8_t *address)
{
	uint64_t entry;

	return !hm_backend_is_hugetlb(backend) || hm_resident_get_pagemap(address, 1, &entry) ||
	       entry & HM_PAGEMAP_PRESENT;
}

/* Puts pages of scratch memory into absent places; what is there already stays. */
static int put(const struct hm_staging *staging, struct hm_scratch *scratch,
	       const struct hm_range *range)
{
	uint64_t page = staging->backend->page_size, offset = 0, done;
	uint8_t *address = staging->backend->mapping.address + range->offset;
	bool moves = scratch->moves && range->length == staging->unit;
	int result;

	while (offset < range->length) {
		uint64_t left = range->length - offset;

		if (moves)
			result = hm_fault_move(staging->fault_fd, address + offset,
					       scratch->memory + offset, left, &done);
		else
			result = hm_fault_copy(staging->fault_fd, address + offset,
					       scratch->memory + offset, left, &done);
		scratch->dirty |= !moves;
		offset += done;
		if (result == -EEXIST && !is_there(staging->backend, address + offset))
			return -ENOMEM;
		if (result == -EEXIST && !moves) {
			hm_fault_wake(staging->fault_fd, address + offset, page);
			offset += page;
		} else if (result && result != -EAGAIN) {
			if (!moves)
				return result;
			/* A poisoned page can only be copied over. What stays is not zero. */
			scratch->dirty = true;
			moves = false;
		}
	}
	return 0;
}

static int clear_scratch(const struct hm_staging *staging, struct hm_scratch *scratch)
{
	uint64_t page = staging->backend->host->page_size;
	int result = scratch->base ? 0 : make_scratch(scratch, staging);

	if (result)
		return result;
	scratch->moves = staging->way == HM_STAGING_MOVE && !atomic_load(&staging->copies) &&
			 follow(staging, scratch);
	if (scratch->dirty)
		memset(scratch->memory, 0, staging->unit);
	else if (scratch->moves)
		/* The last page first, so that a huge page is zeroed upwards. */
		hm_os_advise(scratch->memory + staging->unit - page, page, MADV_POPULATE_WRITE);
	scratch->dirty = false;
	return 0;
}

static int read_through_scratch(const struct hm_staging *staging, struct hm_scratch *scratch,
				const struct hm_contents *contents, const struct hm_range *part,
				struct hm_range *unread)
{
	int result = clear_scratch(staging, scratch);

	if (result)
		return result;
	/* Also when reading fails in the middle. */
	scratch->dirty = true;
	result = hm_contents_read(contents, scratch->memory, part, unread);
	if (result)
		return result;
	scratch->dirty = false;
	return put(staging, scratch, part);
}

/* ---- The second mapping ---- */

/* Puts pages that the second mapping has made into place. */
static int put_made(const struct hm_staging *staging, const struct hm_range *range)
{
	uint64_t page = staging->backend->page_size, offset = 0, done;
	uint8_t *address = staging->backend->mapping.address + range->offset;
	int result;

	/* Only this maps a transparent huge page as one. */
	if (range->length == staging->unit && page < staging->unit &&
	    !hm_os_advise(address, range->length, MADV_COLLAPSE))
		return hm_fault_wake(staging->fault_fd, address, range->length);
	while (offset < range->length) {
		result = hm_fault_continue(staging->fault_fd, address + offset,
					   range->length - offset, &done);
		offset += done;
		if (result == -EEXIST) {
			hm_fault_wake(staging->fault_fd, address + offset, page);
			offset += page;
		} else if (result && result != -EAGAIN) {
			return result;
		}
	}
	return 0;
}

/* contents NULL: what is absent becomes zero. */
static int read_through_second(const struct hm_staging *staging, const struct hm_contents *contents,
			       const struct hm_range *part, struct hm_range *unread)
{
	uint8_t *address = staging->second.address + part->offset;
	int result = hm_populate_range(&staging->populate, address, part->length);

	if (!result && contents)
		result = hm_contents_read(contents, address, part, unread);
	if (!result)
		result = put_made(staging, part);
	/* Pages with two mappings do not move to other nodes. */
	hm_discard_pages(staging->backend->host, address, part->length);
	/* Where touching it would be SIGBUS. */
	return result == -EFAULT ? -ENOMEM : result;
}

/* ---- Both ---- */

int hm_staging_read(const struct hm_staging *staging, struct hm_scratch *scratch,
		    const struct hm_contents *contents, const struct hm_range *part,
		    struct hm_range *unread)
{
	if (staging->way == HM_STAGING_CONTINUE)
		return read_through_second(staging, contents, part, unread);
	return read_through_scratch(staging, scratch, contents, part, unread);
}

/* The kernel's zero page, which is copied at the first write. */
static int put_zero_pages(const struct hm_staging *staging, const struct hm_range *range)
{
	uint8_t *address = staging->backend->mapping.address + range->offset;
	uint64_t offset = 0, done;
	int result = 0;

	while (!result && offset < range->length) {
		result = hm_fault_zero(staging->fault_fd, address + offset, range->length - offset,
				       &done);
		offset += done;
		if (result == -EEXIST)
			offset += staging->backend->page_size;
		if (result == -EEXIST || result == -EAGAIN)
			result = 0;
	}
	hm_fault_wake(staging->fault_fd, address, range->length);
	return result;
}

int hm_staging_put_zero(const struct hm_staging *staging, struct hm_scratch *scratch,
			const struct hm_range *range)
{
	int result;

	if (staging->way == HM_STAGING_CONTINUE)
		return read_through_second(staging, NULL, range, NULL);
	if (!hm_backend_is_hugetlb(staging->backend))
		return put_zero_pages(staging, range);
	result = clear_scratch(staging, scratch);
	return result ? result : put(staging, scratch, range);
}

int hm_staging_follow(struct hm_staging *staging, const struct hm_values *values)
{
	/* Scratch memory would follow the old values until the new ones are stored. */
	atomic_store(&staging->copies, true);
	return staging->way == HM_STAGING_CONTINUE ? bind_second(staging, values) : 0;
}

/*
 * Where the kernel had no huge page for the touch, there is a page table, into which a huge page
 * can only be moved in small ones. Of memory with thp=never the kernel makes none.
 */
void hm_staging_keep_huge(const struct hm_staging *staging, uint64_t offset)
{
	uint8_t *address = staging->backend->mapping.address + offset;

	if (staging->way == HM_STAGING_MOVE &&
	    staging->unit <= staging->backend->mapping.size - offset &&
	    !hm_resident_is_huge(address, staging->unit))
		hm_os_advise(address, staging->unit, MADV_COLLAPSE);
}

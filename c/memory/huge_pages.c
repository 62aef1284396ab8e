/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Pages of the host's hugetlb pools: whether those that are free suffice for a backend, and how a
 * shortage is described.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "memory.h"

/* ", 1 of them surplus": pages that overcommit added to the pool, which leave it when freed. */
static const char *format_surplus(const struct hm_huge_pool *pool, char *text, size_t size)
{
	*text = '\0';
	if (pool->surplus)
		snprintf(text, size, ", %ju of them surplus", (uintmax_t)pool->surplus);
	return text;
}

static int fail_pool(const struct hostmem_backend *backend, uint64_t page_size, uint64_t wanted,
		     const char *where, const struct hm_huge_pool *pool, struct hostmem_error *err)
{
	char surplus[48], more[64] = "";

	if (pool->overcommit)
		snprintf(more, sizeof(more), ", %ju more may be added",
			 (uintmax_t)pool->overcommit);
	return hm_fail(
		err, HOSTMEM_ERROR_NO_MEMORY, ENOMEM,
		"%s: size: %ju huge pages of %ju KiB are wanted; %s has %ju%s, %ju of them free, "
		"of which %ju are promised to others%s; raise "
		"/sys/kernel/mm/hugepages/hugepages-%jukB/nr_hugepages, or use a smaller size",
		backend->label, (uintmax_t)wanted, (uintmax_t)(page_size / 1024), where,
		(uintmax_t)pool->total, format_surplus(pool, surplus, sizeof(surplus)),
		(uintmax_t)pool->free, (uintmax_t)pool->reserved, more,
		(uintmax_t)(page_size / 1024));
}

/* Beyond it the kernel refuses to reserve, or a touch is SIGBUS. */
static int check_huge_limit(const struct hostmem_backend *backend, uint64_t page_size,
			    const struct hm_values *values, struct hostmem_error *err)
{
	struct hm_cgroup_limit limit;

	if (!hm_cgroup_find_huge_limit(page_size, &limit) || values->size <= limit.available)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_NO_MEMORY, ENOMEM,
		       "%s: size: %ju huge pages of %ju KiB are wanted; the control group's limit "
		       "%.512s is %ju bytes, %ju of them left; raise it, or use a smaller size",
		       backend->label, (uintmax_t)(values->size / page_size),
		       (uintmax_t)(page_size / 1024), limit.file, (uintmax_t)limit.limit,
		       (uintmax_t)limit.available);
}

/* The limit of a mount of hugetlbfs (size=), from which the kernel reserves as well. */
static int check_mount(const struct hostmem_backend *backend, uint64_t page_size,
		       const struct hm_values *values, struct hostmem_error *err)
{
	struct hm_room room;
	uint64_t wanted;
	char path[512];

	if (!hm_room_read(backend, &room))
		return 0;
	/* What is written to a private mapping needs pages of its own. */
	wanted = values->share && room.absent < values->size ? room.absent : values->size;
	if (wanted <= room.left)
		return 0;
	hm_room_format_path(backend, path, sizeof(path));
	return hm_fail(err, HOSTMEM_ERROR_NO_MEMORY, ENOSPC,
		       "%s: size: %ju huge pages of %ju KiB are wanted; the mount that %s is on "
		       "has room for %ju (size=), %ju of them free; mount it with a larger size, "
		       "or use a smaller size",
		       backend->label, (uintmax_t)(wanted / page_size),
		       (uintmax_t)(page_size / 1024), path, (uintmax_t)(room.total / page_size),
		       (uintmax_t)(room.left / page_size));
}

/* The kernel reserves from the whole pool, so a shortage of the bound nodes would show too late. */
static int check_node_pools(const struct hostmem_backend *backend, uint64_t page_size,
			    uint64_t wanted, const struct hm_values *values, uint64_t overcommit,
			    struct hostmem_error *err)
{
	struct hm_huge_pool sum = { .overcommit = overcommit }, pool;
	char nodes[128], where[160];

	for (uint64_t node = 0; node < HOSTMEM_NODES_MAX; node++) {
		if (!hm_set_has(&values->host_nodes, node))
			continue;
		if (hm_huge_pools_get_node(node, page_size, &pool))
			return 0;
		sum.total += pool.total;
		sum.free += pool.free;
		sum.surplus += pool.surplus;
	}
	if (wanted <= sum.free + overcommit)
		return 0;
	hm_set_format(&values->host_nodes, nodes, sizeof(nodes));
	snprintf(where, sizeof(where), "node %s", nodes);
	return fail_pool(backend, page_size, wanted, where, &sum, err);
}

int hm_huge_pages_check(const struct hostmem_backend *backend, uint64_t page_size,
			const struct hm_values *values, struct hostmem_error *err)
{
	uint64_t wanted = values->size / page_size;
	struct hm_huge_pool pool;

	if (values->size % page_size)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: size=%ju is not a multiple of the huge page size, %ju bytes",
			       backend->label, (uintmax_t)values->size, (uintmax_t)page_size);
	if (values->offset % page_size)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: offset=%ju is not a multiple of the huge page size, %ju bytes",
			       backend->label, (uintmax_t)values->offset, (uintmax_t)page_size);
	if (!hm_check_reserves(values, true))
		return 0;
	if (check_mount(backend, page_size, values, err))
		return -1;
	if (hm_huge_pools_get(page_size, &pool))
		return 0;
	if (pool.reserved > pool.free)
		pool.reserved = pool.free;
	if (wanted > pool.free - pool.reserved + pool.overcommit)
		return fail_pool(backend, page_size, wanted, "the pool", &pool, err);
	if (check_huge_limit(backend, page_size, values, err))
		return -1;
	if (!hm_policy_is_strict(values))
		return 0;
	return check_node_pools(backend, page_size, wanted, values, pool.overcommit, err);
}

uint64_t hm_huge_pages_wanted(const struct hostmem_backend *backend, const struct hm_values *values)
{
	if (!values->hugetlb)
		return 0;
	return values->hugetlbsize ? values->hugetlbsize
				   : hm_huge_pools_get_default_size(&backend->host->seen);
}

int hm_huge_pages_check_wanted(const struct hostmem_backend *backend,
			       const struct hm_values *values, struct hostmem_error *err)
{
	uint64_t page, sizes;
	char text[128];

	if (values->hugetlbsize && !values->hugetlb)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: hugetlbsize=%ju has no effect without hugetlb=on; add it, or "
			       "leave hugetlbsize out",
			       backend->label, (uintmax_t)values->hugetlbsize);
	if (!values->hugetlb)
		return 0;
	page = hm_huge_pages_wanted(backend, values);
	sizes = hm_huge_pools_get_sizes(&backend->host->seen);
	/* Where no size is known the kernel decides. */
	if (page && !(page & (page - 1)) && (sizes & page || !sizes))
		return hm_huge_pages_check(backend, page, values, err);
	hm_huge_pools_format_sizes(sizes, text, sizeof(text));
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: hugetlbsize=%ju: this host has no huge pages of that size; it has %s",
		       backend->label, (uintmax_t)page, *text ? text : "none");
}

void hm_huge_pages_append(const struct hostmem_backend *backend, const struct hm_values *values,
			  struct hostmem_error *err)
{
	struct hm_huge_pool pool;
	struct hm_cgroup_limit limit;
	struct hm_room room;
	bool is_limited;
	char text[640], surplus[48];

	if (!hm_backend_is_hugetlb(backend))
		return;
	if (hm_room_read(backend, &room) && room.left < backend->page_size) {
		snprintf(text, sizeof(text),
			 "; the mount of its file has room for %ju huge pages (size=), none free",
			 (uintmax_t)(room.total / backend->page_size));
		hm_error_append(err, text);
	}
	is_limited = hm_cgroup_find_huge_limit(backend->page_size, &limit) &&
		     limit.available < backend->page_size;
	if (is_limited) {
		snprintf(text, sizeof(text),
			 "; the control group's limit %.512s is %ju bytes, %ju of them left",
			 limit.file, (uintmax_t)limit.limit, (uintmax_t)limit.available);
		hm_error_append(err, text);
	}
	if (!hm_huge_pools_get(backend->page_size, &pool)) {
		snprintf(text, sizeof(text), "; huge pages of %ju KiB: %ju of %ju free%s",
			 (uintmax_t)(backend->page_size / 1024), (uintmax_t)pool.free,
			 (uintmax_t)pool.total, format_surplus(&pool, surplus, sizeof(surplus)));
		hm_error_append(err, text);
		if (pool.free && !is_limited && hm_cgroup_is_hidden(true))
			hm_error_append(err, "; a limit of a control group that cannot be seen "
					     "from here may be the cause");
	}
	for (uint64_t node = 0; node < HOSTMEM_NODES_MAX; node++) {
		if (!hm_set_has(&values->host_nodes, node))
			continue;
		if (hm_huge_pools_get_node(node, backend->page_size, &pool))
			continue;
		snprintf(text, sizeof(text), ", on node %ju %ju of %ju%s", (uintmax_t)node,
			 (uintmax_t)pool.free, (uintmax_t)pool.total,
			 format_surplus(&pool, surplus, sizeof(surplus)));
		hm_error_append(err, text);
	}
}

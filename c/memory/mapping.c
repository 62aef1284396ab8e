/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The mapping of a backend's memory: where it is aligned, on which thread it is mapped, when it
 * becomes accessible. The address space itself, guards included, is base/map.c's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "memory.h"

/* Other threads map memory all the time; that they are first so often is not to be expected. */
#define MOST_PLACES 1000

/* What may help where the kernel refused to map. Address space comes first, then the backing. */
static const char *map_hint(const struct hostmem_backend *backend, const struct hm_values *values,
			    int result)
{
	if (result == -ENOMEM && backend->mapping.size && hm_backend_is_hugetlb(backend))
		return "; the pool of huge pages is short: raise nr_hugepages in "
		       "/sys/kernel/mm/hugepages, or use a smaller size";
	if (result == -ENOMEM)
		return "; use a smaller size, or look at RLIMIT_AS (ulimit -v) and "
		       "/proc/sys/vm/overcommit_memory";
	if (result == -EOPNOTSUPP && values->pmem)
		return "; pmem=on needs a file system with DAX: use pmem=off";
	if (result == -ENODEV)
		return "; what its descriptor is of cannot be mapped";
	if (result == -EINVAL && backend->backing.fd >= 0 && !values->share)
		return "; a guest_memfd, for one, can only be mapped with share=on";
	if (result == -EPERM && values->share && hm_os_get_seals(backend->backing.fd) > 0)
		return "; what is sealed against writing can be mapped with share=on since Linux "
		       "6.7: use share=off";
	return "";
}

static bool count_line(char *line, void *data)
{
	uint64_t *count = data;

	(void)line;
	++*count;
	return true;
}

/* How many mappings this process has; 0 where /proc cannot be read. */
static uint64_t count_mappings(void)
{
	uint64_t count = 0;

	hm_os_read_lines("/proc/self/maps", count_line, &count);
	return count;
}

/* Appends the limits that the kernel answers ENOMEM for, where they are near. */
static void append_limits(const struct hostmem_backend *backend, const struct hm_values *values,
			  struct hostmem_error *err)
{
	uint64_t limit, mappings = count_mappings();
	char text[160], number[32];

	if (!values->share && !hm_call_get_limit(backend->host, RLIMIT_DATA, &limit) &&
	    limit != UINT64_MAX) {
		snprintf(text, sizeof(text),
			 "; RLIMIT_DATA, which counts private memory, is %ju bytes (ulimit -d)",
			 (uintmax_t)limit);
		hm_error_append(err, text);
	}
	if (hm_os_read_file("/proc/sys/vm/max_map_count", number, sizeof(number)) <= 0)
		return;
	limit = strtoull(number, NULL, 10);
	/* A backend needs up to four, and the kernel keeps some room. */
	if (mappings + 8 < limit)
		return;
	snprintf(text, sizeof(text),
		 "; the process has %ju mappings and may have %ju: raise vm.max_map_count, or use "
		 "guard=off, which saves two for each backend",
		 (uintmax_t)mappings, (uintmax_t)limit);
	hm_error_append(err, text);
}

/* A private mapping reserves pages, also of a file that has its own and is only read. */
static void append_rom_hint(const struct hostmem_backend *backend, const struct hm_values *values,
			    struct hostmem_error *err)
{
	if (hm_backend_is_hugetlb(backend) && backend->readonly && !values->share)
		hm_error_append(err,
				"; with share=on, reading the file takes no pages of the pool");
}

/* EAGAIN is how the kernel answers where mlockall(2) locks all that is mapped (mmap(2)). */
static void append_lock_limit(const struct hostmem_backend *backend, struct hostmem_error *err)
{
	uint64_t limit;
	char text[160];

	if (hm_call_get_limit(backend->host, RLIMIT_MEMLOCK, &limit))
		return;
	snprintf(text, sizeof(text),
		 "; this process locks all that it maps (mlockall), and RLIMIT_MEMLOCK is %ju "
		 "bytes: raise it (ulimit -l)",
		 (uintmax_t)limit);
	hm_error_append(err, text);
}

static int fail_map(const struct hostmem_backend *backend, const struct hm_values *values,
		    int result, struct hostmem_error *err)
{
	/* The descriptor is the user's choice or the kind's, and none that can be mapped like this.
	 */
	bool is_value = result == -ENODEV || result == -EINVAL;

	hm_fail(err, is_value ? HOSTMEM_ERROR_VALUE : hm_error_kind_of(-result), -result,
		"%s: cannot map %ju bytes: %s%s", backend->label, (uintmax_t)values->size,
		strerror(-result), map_hint(backend, values, result));
	if (result == -EAGAIN)
		append_lock_limit(backend, err);
	if (result == -ENOMEM) {
		hm_huge_pages_append(backend, values, err);
		append_limits(backend, values, err);
		append_rom_hint(backend, values, err);
	}
	return -1;
}

/*
 * Aligned to the page size, which of hugetlb memory is that of its pool (kind/backing.c), and so
 * that transparent huge pages fit: for descriptors too, and there modulo the offset, without which
 * the kernel never maps shared memory huge.
 */
static void choose_alignment(const struct hostmem_backend *backend, const struct hm_values *values,
			     struct hm_map_request *request)
{
	uint64_t huge = backend->host->thp_size, page = backend->page_size;

	request->alignment = (size_t)page;
	if (values->align)
		request->alignment = (size_t)values->align;
	else if (huge > page && values->size >= huge)
		request->alignment = (size_t)huge;
	if (!values->align)
		request->skew = (size_t)(backend->backing.offset % request->alignment);
}

struct map_call {
	struct hm_mapping *mapping;
	const struct hm_map_request *request;
};

static int call_map_fill(void *data)
{
	struct map_call *call = data;

	return hm_map_fill(call->mapping, call->request);
}

/*
 * The kernel reserves huge pages from all nodes together, but for a thread that is bound it looks
 * at its nodes: a shortage there fails here, and not when the memory is touched. It does not count
 * what it could still add to a pool.
 */
static bool maps_by_policy(const struct hostmem_backend *backend, const struct hm_values *values)
{
	struct hm_huge_pool pool;

	return hm_backend_is_hugetlb(backend) && hm_check_reserves(values, true) &&
	       hm_policy_is_strict(values) && !hm_huge_pools_get(backend->page_size, &pool) &&
	       !pool.overcommit;
}

static int fill_mapping(struct hostmem_backend *backend, const struct hm_values *values,
			const struct hm_map_request *request)
{
	struct map_call call = { .mapping = &backend->mapping, .request = request };

	if (maps_by_policy(backend, values))
		return hm_policy_run(backend, values, call_map_fill, &call);
	return call_map_fill(&call);
}

/* Elsewhere when another thread has mapped something in the place that was reserved. */
static int reserve_and_fill(struct hostmem_backend *backend, const struct hm_values *values,
			    const struct hm_map_request *request)
{
	int result = -EEXIST;

	for (int i = 0; i < MOST_PLACES && result == -EEXIST; i++) {
		hm_map_destroy(&backend->mapping);
		result = hm_map_reserve(&backend->mapping, request);
		if (!result)
			result = fill_mapping(backend, values, request);
	}
	return result;
}

int hm_mapping_make(struct hostmem_backend *backend, const struct hm_values *values,
		    struct hostmem_error *err)
{
	struct hm_map_request request = {
		.size = (size_t)values->size,
		.fd = backend->backing.fd,
		.offset = backend->backing.offset,
		.shared = values->share,
		.reserve = hm_check_reserves(values, hm_backend_is_hugetlb(backend)),
		.sync = values->pmem,
		.guard = values->guard,
		.huge_page = backend->backing.huge_page,
	};
	int result;

	choose_alignment(backend, values, &request);
	result = reserve_and_fill(backend, values, &request);
	/* The pools may have become short since they were looked at; then this says it better. */
	if (result == -ENOMEM && hm_backend_is_hugetlb(backend) &&
	    hm_huge_pages_check(backend, backend->page_size, values, err)) {
		append_rom_hint(backend, values, err);
		return -1;
	}
	return result ? fail_map(backend, values, result, err) : 0;
}

/* Advice and policy of the backend's memory for a mapping that takes the place of some of it. */
static int prepare(const struct hostmem_backend *backend, const struct hm_values *values,
		   uint8_t *address, size_t length)
{
	struct hostmem_error err = { 0 };
	struct hostmem_backend place = {
		.host = backend->host,
		.backing = backend->backing,
		.page_size = backend->page_size,
		.mapping = { .address = address, .size = length },
	};

	memcpy(place.origins, backend->origins, sizeof(place.origins));
	if (hm_advise_all(&place, values, &err) || hm_policy_bind(&place, values, &err))
		return err.os_error ? -err.os_error : -EIO;
	return 0;
}

/*
 * Moves a mapping to where it replaces another. A kernel that runs out of memory meanwhile may have
 * unmapped that already: then new memory is mapped there, unless another thread was faster.
 * -ENOTRECOVERABLE: that failed too, and nothing of ours is there.
 */
static int move_in(const struct hostmem_backend *backend, const struct hm_values *values,
		   uint8_t *from, uint8_t *to, size_t length, int flags)
{
	int result = hm_os_move(from, length, to);
	void *place = to;
	bool unmapped;

	if (!result)
		return 0;
	hm_os_unmap(from, length);
	unmapped = hm_call_is_unmapped(backend->host, to, length);
	if (hm_os_map(&place, length, PROT_READ | PROT_WRITE, flags | MAP_FIXED_NOREPLACE, -1, 0))
		return unmapped ? -ENOTRECOVERABLE : result;
	if (!prepare(backend, values, to, length))
		return 0;
	hm_os_unmap(to, length);
	return -ENOTRECOVERABLE;
}

/*
 * Mapped and advised elsewhere first, so that at no time anything else, or nothing, is in its
 * place, and forked children never get it: what fails leaves the range as it was, but for
 * -ENOTRECOVERABLE.
 */
int hm_mapping_replace(const struct hostmem_backend *backend, const struct hm_range *range)
{
	uint8_t *to = backend->mapping.address + range->offset;
	size_t length = (size_t)range->length;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	bool huge = hm_backend_is_hugetlb(backend);
	struct hm_values values;
	void *address = NULL;
	int result;

	hm_backend_snapshot(backend, &values);
	if (huge)
		flags |= MAP_HUGETLB | __builtin_ctzll(backend->page_size) << MAP_HUGE_SHIFT;
	if (!hm_check_reserves(&values, huge))
		flags |= MAP_NORESERVE;
	result = hm_os_map(&address, length, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (result)
		return result;
	result = prepare(backend, &values, address, length);
	if (result) {
		hm_os_unmap(address, length);
		return result;
	}
	result = move_in(backend, &values, address, to, length, flags);
	if (!result && values.lock && !huge)
		result = hm_os_lock(to, length, MLOCK_ONFAULT);
	return result;
}

/* For /proc/self/maps; a kernel without names for anonymous memory (5.17) does without. */
void hm_mapping_name(const struct hostmem_backend *backend)
{
	/* The kernel takes at most 79 bytes (PR_SET_VMA_ANON_NAME, prctl(2)). */
	char name[80];

	snprintf(name, sizeof(name), "hostmem:%.71s", backend->id);
	if (backend->backing.fd < 0)
		hm_call_name(backend->host, backend->mapping.address, backend->mapping.size, name);
}

/*
 * The memory becomes accessible only after advice and policy, so that not even
 * mlockall(MCL_FUTURE) populates it before.
 */
int hm_mapping_open(const struct hostmem_backend *backend, const struct hm_values *values,
		    struct hostmem_error *err)
{
	int protection = backend->readonly ? PROT_READ : PROT_READ | PROT_WRITE;
	int result = hm_os_protect(backend->mapping.address, backend->mapping.size, protection);

	return result ? fail_map(backend, values, result, err) : 0;
}

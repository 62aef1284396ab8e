/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The steps that turn a configuration into memory, in the order that makes them right, and the one
 * place that undoes them. What each step does is in the file named after it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "life.h"

/* Other threads map memory all the time; that they are first so often is not to be expected. */
#define MOST_PLACES 1000

static int check_file_size(const struct hostmem_backend *backend, const struct hm_values *values,
			   uint64_t size, struct hostmem_error *err)
{
	uint64_t end;

	if (__builtin_add_overflow(backend->backing.offset, values->size, &end))
		end = UINT64_MAX;
	if (end <= size)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: size=%ju from offset %ju on does not fit its backing, which has %ju "
		       "bytes; use a smaller size",
		       backend->id, (uintmax_t)values->size, (uintmax_t)backend->backing.offset,
		       (uintmax_t)size);
}

static int check_pages(const struct hostmem_backend *backend, const struct hm_values *values,
		       struct hostmem_error *err)
{
	uint64_t page = backend->page_size;

	if (values->size % page)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: size=%ju is not a multiple of the backing's page size, %ju "
			       "bytes",
			       backend->id, (uintmax_t)values->size, (uintmax_t)page);
	if (values->align % page)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: align=%ju is not a multiple of the backing's page size, %ju "
			       "bytes",
			       backend->id, (uintmax_t)values->align, (uintmax_t)page);
	if (backend->backing.offset % page)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: offset %ju is not a multiple of the backing's page size, %ju "
			       "bytes",
			       backend->id, (uintmax_t)backend->backing.offset, (uintmax_t)page);
	return 0;
}

static int check_access(const struct hostmem_backend *backend, const struct hm_values *values,
			struct hostmem_error *err)
{
	int access = hm_os_get_access(backend->backing.fd);

	if (access == O_RDWR || (access == O_RDONLY && (!values->share || backend->readonly)))
		return 0;
	if (access < 0)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, -access,
			       "%s: its backing is no open descriptor: %s", backend->id,
			       strerror(-access));
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: share=on needs a backing that is open for reading and writing, this "
		       "one is %s",
		       backend->id, access == O_RDONLY ? "read-only" : "write-only");
}

/* A kind may be the embedder's, so what it answered is looked at before it is used. */
static int check_backing(struct hostmem_backend *backend, const struct hm_values *values,
			 struct hostmem_error *err)
{
	struct hm_file file;
	int result;

	if (backend->backing.fd < 0) {
		if (!values->share)
			return hm_check_reserve(backend, values, backend->page_size, err);
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: share=on needs a backing with a descriptor, this kind gave "
			       "anonymous memory; use share=off",
			       backend->id);
	}
	if (check_access(backend, values, err))
		return -1;
	result = hm_os_stat(backend->backing.fd, &file);
	if (result)
		return hm_fail(err, HOSTMEM_ERROR_IO, -result, "%s: cannot look at its backing: %s",
			       backend->id, strerror(-result));
	backend->page_size = file.page_size;
	if (check_pages(backend, values, err) || check_file_size(backend, values, file.size, err))
		return -1;
	return hm_check_reserve(backend, values, file.page_size, err);
}

static int make_backing(struct hostmem_backend *backend, const struct hm_values *values,
			struct hostmem_error *err)
{
	struct hostmem_backing backing = { .fd = -1 };

	backend->readonly = hm_check_is_readonly(values);
	backend->shared = values->share;
	if (backend->kind->allocate(backend->kind->data, backend, &backing, err))
		return -1;
	backend->backing = backing;
	backend->allocated = true;
	if (backing.fd >= 0)
		hm_os_close_on_exec(backing.fd);
	return check_backing(backend, values, err);
}

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
	return "";
}

static int fail_map(const struct hostmem_backend *backend, const struct hm_values *values,
		    int result, struct hostmem_error *err)
{
	/* The descriptor is the user's choice or the kind's, and none that can be mapped like this.
	 */
	bool is_value = result == -ENODEV || result == -EINVAL;

	hm_fail(err, is_value ? HOSTMEM_ERROR_VALUE : hm_error_kind_of(-result), -result,
		"%s: cannot map %ju bytes: %s%s", backend->id, (uintmax_t)values->size,
		strerror(-result), map_hint(backend, values, result));
	if (result == -ENOMEM)
		hm_prealloc_tell_pools(backend, values, err);
	return -1;
}

/*
 * Aligned so that huge pages fit: for descriptors too, and there modulo the offset, without which
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

	return hm_backend_is_hugetlb(backend) && values->reserve && hm_policy_is_strict(values) &&
	       !hm_topology_get_pool(backend->page_size, &pool) && !pool.overcommit;
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

static int map_memory(struct hostmem_backend *backend, const struct hm_values *values,
		      struct hostmem_error *err)
{
	struct hm_map_request request = {
		.size = (size_t)values->size,
		.fd = backend->backing.fd,
		.offset = backend->backing.offset,
		.shared = values->share,
		.reserve = values->reserve,
		.sync = values->pmem,
	};
	int result;

	choose_alignment(backend, values, &request);
	result = reserve_and_fill(backend, values, &request);
	/* The pools may have become short since they were looked at; then this says it better. */
	if (result == -ENOMEM && hm_backend_is_hugetlb(backend) &&
	    hm_check_huge_pages(backend, backend->page_size, values, err))
		return -1;
	return result ? fail_map(backend, values, result, err) : 0;
}

static int seal(const struct hostmem_backend *backend, struct hostmem_error *err)
{
	int result;

	if (backend->backing.fd < 0 || !backend->backing.seals)
		return 0;
	result = hm_os_add_seals(backend->backing.fd, backend->backing.seals);
	return result ? hm_fail(err, hm_error_kind_of(-result), -result,
				"%s: cannot seal its backing: %s", backend->id, strerror(-result))
		      : 0;
}

/* For /proc/self/maps; a kernel without names for anonymous memory (5.17) does without. */
static void name_memory(const struct hostmem_backend *backend)
{
	/* The kernel takes at most 79 bytes (PR_SET_VMA_ANON_NAME, prctl(2)). */
	char name[80];

	snprintf(name, sizeof(name), "hostmem:%.71s", backend->id);
	if (backend->backing.fd < 0)
		hm_os_name(backend->mapping.address, backend->mapping.size, name);
}

/*
 * Page by page as they come, so that a limit is met before anything is filled, and memory stays
 * locked however its fill ends. Where mlockall(2) has locked all that is mapped, becoming
 * accessible would populate what prealloc is there for, on one thread.
 */
static int lock_memory(const struct hostmem_backend *backend, const struct hm_values *values,
		       struct hostmem_error *err)
{
	const struct hm_mapping *mapping = &backend->mapping;

	if (values->lock)
		return hm_advise_lock(backend, true, false, err);
	if (values->prealloc && hm_os_is_locked(mapping->address, mapping->size))
		hm_os_lock(mapping->address, mapping->size, MLOCK_ONFAULT);
	return 0;
}

/*
 * The memory becomes accessible only after advice and policy, so that not even
 * mlockall(MCL_FUTURE) populates it before.
 */
static int open_memory(const struct hostmem_backend *backend, const struct hm_values *values,
		       struct hostmem_error *err)
{
	int protection = backend->readonly ? PROT_READ : PROT_READ | PROT_WRITE;
	int result = hm_os_protect(backend->mapping.address, backend->mapping.size, protection);

	return result ? fail_map(backend, values, result, err) : 0;
}

bool hm_complete_is_background(const struct hm_values *values)
{
	return values->prealloc && values->prealloc_mode == HM_PREALLOC_BACKGROUND;
}

/* Blocks that were filled in a file of the user's cannot be told from those that were there. */
static bool fills_users_file(const struct hostmem_backend *backend)
{
	return backend->backing.fd >= 0 && backend->shared && !backend->readonly &&
	       !(backend->backing.flags & HOSTMEM_BACKING_OWN) && !backend->backing.made;
}

int hm_complete_build(struct hostmem_backend *backend, const struct hm_values *values,
		      struct hostmem_error *err)
{
	/* A kind that allocates nothing has no memory to check, map or fill. */
	if (!backend->kind->allocate)
		return hm_policy_check(backend, values, err);
	if (hm_check_all(backend, values, err) || make_backing(backend, values, err) ||
	    map_memory(backend, values, err) || seal(backend, err) ||
	    hm_advise_all(backend, values, err))
		return -1;
	name_memory(backend);
	if (hm_policy_bind(backend, values, err) || lock_memory(backend, values, err))
		return -1;
	return open_memory(backend, values, err);
}

static void tell_what_stays(const struct hm_prealloc_request *requests, size_t len,
			    struct hostmem_error *err)
{
	for (size_t i = 0; i < len; i++) {
		if (!fills_users_file(requests[i].backend))
			continue;
		hm_error_append(err, "; what was filled in the file stays filled");
		return;
	}
}

int hm_complete_fill(struct hm_completion *completions, size_t len, struct hostmem_error *err)
{
	struct hm_prealloc_request *requests = calloc(len, sizeof(*requests));
	size_t wanted = 0;
	int result = 0;

	if (!requests)
		return hm_fail_alloc(err);
	for (size_t i = 0; i < len; i++) {
		const struct hm_values *values = &completions[i].values;
		struct hostmem_backend *backend = completions[i].backend;

		if (!values->prealloc || hm_complete_is_background(values) ||
		    !backend->mapping.size)
			continue;
		requests[wanted++] = (struct hm_prealloc_request){
			.backend = backend,
			.values = values,
			.range.length = values->size,
			.result = &completions[i].result,
		};
	}
	if (wanted)
		result = hm_prealloc_run(requests, wanted, err);
	if (result)
		tell_what_stays(requests, wanted, err);
	free(requests);
	return result;
}

/* Only in a file that others see. */
static void discard_data(const struct hostmem_backend *backend)
{
	if (backend->values.discard_data && backend->backing.fd >= 0 && backend->shared &&
	    !backend->readonly)
		hm_os_punch_hole(backend->backing.fd, backend->backing.offset,
				 backend->mapping.size);
}

void hm_complete_undo(struct hostmem_backend *backend, bool failed)
{
	/* A forked child does not have the memory: something else may be there by now. */
	if (hm_backend_is_forked(backend)) {
		backend->mapping = (struct hm_mapping){ 0 };
	} else {
		if (!failed)
			discard_data(backend);
		hm_map_destroy(&backend->mapping);
	}
	if (failed && backend->allocated && backend->kind->undo)
		backend->kind->undo(backend->kind->data, backend, &backend->backing);
	if (backend->backing.fd >= 0)
		hm_os_close(backend->backing.fd);
	backend->backing = (struct hostmem_backing){ .fd = -1 };
	backend->allocated = false;
	backend->page_size = backend->host->page_size;
	atomic_store(&backend->bytes_done, 0);
	atomic_store(&backend->bytes_total, 0);
}

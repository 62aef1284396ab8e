/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The template of a pool: a backend that is never completed, whose values others get. Which of
 * them can be kept ready, and whether the host is large enough for so many.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "pool.h"

/* ---- Whether each backend has memory of its own ---- */

static int fail_not_own(const struct hostmem_backend *template, const char *what,
			struct hostmem_error *err)
{
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: pool: %s with share=on is the same memory for every backend; use "
		       "memory-backend-memfd, a directory as mem-path, or share=off",
		       template->label, what);
}

static bool is_directory(const char *path)
{
	int fd = hm_os_open(path, O_PATH);
	struct hm_file file = { 0 };

	if (fd < 0)
		return false;
	hm_os_stat(fd, &file);
	hm_os_close(fd);
	return S_ISDIR(file.mode);
}

static int check_own_values(const struct hostmem_backend *template, const struct hm_values *values,
			    struct hostmem_error *err)
{
	if (!values->share)
		return 0;
	if (values->fd != HM_FD_NONE)
		return fail_not_own(template, "fd", err);
	if (*values->mem_path && !is_directory(values->mem_path))
		return fail_not_own(template, "a file as mem-path", err);
	return 0;
}

int hm_template_check_own(const struct hostmem_backend *backend, struct hostmem_error *err)
{
	if (backend->backing.fd < 0 || !backend->shared ||
	    backend->backing.flags & HOSTMEM_BACKING_OWN)
		return 0;
	return fail_not_own(backend, "a backing that its kind does not call its own", err);
}

/* ---- Whether the host has so much ---- */

static uint64_t get_total(void)
{
	char text[8192];
	uint64_t bytes = 0;

	if (hm_os_read_file("/proc/meminfo", text, sizeof(text)) < 0 ||
	    !hm_meminfo_add(text, "MemTotal:", &bytes))
		return UINT64_MAX;
	hm_meminfo_add(text, "SwapTotal:", &bytes);
	return bytes;
}

static uint64_t get_huge_total(const struct hostmem_backend *template,
			       const struct hm_values *values)
{
	uint64_t size = values->hugetlbsize, bytes;
	struct hm_huge_pool pool;

	if (!size)
		size = hm_huge_pools_get_default_size(&template->host->seen);
	if (hm_huge_pools_get(size, &pool) ||
	    __builtin_mul_overflow(pool.total + pool.overcommit, size, &bytes))
		return UINT64_MAX;
	return bytes;
}

static uint64_t get_total_of_nodes(const struct hm_values *values)
{
	uint64_t sum = 0;

	for (uint64_t node = hm_set_next(&values->host_nodes, 0); node < HM_SET_MAX;
	     node = hm_set_next(&values->host_nodes, node + 1)) {
		uint64_t total = 0, free;

		hm_meminfo_get_node(node, &total, &free);
		sum += total;
	}
	return sum ? sum : UINT64_MAX;
}

/* What is free now is refilling's to find out. Memory of a file system has a limit of its own. */
static int check_total(const struct hostmem_backend *template, const struct hm_values *values,
		       uint32_t count, struct hostmem_error *err)
{
	uint64_t total = get_total(), wanted;

	if (*values->mem_path)
		return 0;
	if (values->hugetlb)
		total = get_huge_total(template, values);
	else if (hm_policy_is_strict(values))
		total = get_total_of_nodes(values);
	if (!__builtin_mul_overflow(values->size, (uint64_t)count, &wanted) && wanted <= total)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: pool: %u backends of %ju bytes are more than the %ju bytes of %s that "
		       "this host has; use a smaller count or size",
		       template->label, count, (uintmax_t)values->size, (uintmax_t)total,
		       values->hugetlb ? "huge pages" : "memory");
}

/* ---- Checking and copying ---- */

static int check_prealloc(const struct hostmem_backend *template, const struct hm_values *values,
			  struct hostmem_error *err)
{
	if (values->prealloc || template->origins[HM_PROPERTY_PREALLOC] != HOSTMEM_ORIGIN_USER)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: pool: prealloc=off: the memory of a pool is always preallocated; leave "
		       "prealloc out",
		       template->label);
}

static int check_configuration(const struct hostmem_backend *template, struct hm_values *values,
			       struct hostmem_error *err)
{
	struct hostmem_error found;

	values->prealloc = true;
	if (!hm_check_all(template, values, &found))
		return 0;
	/* That memory is short now is no property of the configuration. */
	if (found.kind == HOSTMEM_ERROR_NO_MEMORY)
		return 0;
	if (err)
		*err = found;
	return -1;
}

int hm_template_check(const struct hostmem_backend *template, uint32_t count,
		      struct hostmem_error *err)
{
	struct hm_values values;

	if (!count)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: pool: a count of 0 keeps nothing ready; use at least 1",
			       template->label);
	if (!template->kind->allocate)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: pool: a %s has no memory to keep ready", template->label,
			       template->kind->name);
	hm_backend_snapshot(template, &values);
	if (check_prealloc(template, &values, err) || check_configuration(template, &values, err) ||
	    check_own_values(template, &values, err))
		return -1;
	return check_total(template, &values, count, err);
}

static int copy_fd(struct hostmem_backend *copy, struct hostmem_error *err)
{
	int duplicate;

	if (copy->values.fd == HM_FD_NONE)
		return 0;
	duplicate = hm_os_duplicate((int)copy->values.fd);
	/* It is the template's. */
	copy->values.fd = duplicate < 0 ? HM_FD_NONE : (uint64_t)duplicate;
	if (duplicate >= 0)
		return 0;
	return hm_fail(err, hm_error_kind_of(-duplicate), -duplicate,
		       "%s: pool: fd cannot be duplicated: %s", copy->label, strerror(-duplicate));
}

struct hostmem_backend *hm_template_copy(const struct hostmem_backend *template,
					 struct hostmem_error *err)
{
	struct hostmem_backend *copy = hm_backend_alloc();

	if (!copy) {
		hm_fail_alloc(err);
		return NULL;
	}
	hm_backend_init(copy, template->objects, template->kind, template->label);
	pthread_mutex_lock(hm_backend_lock_of(template));
	hm_backend_copy_values(copy, template);
	pthread_mutex_unlock(hm_backend_lock_of(template));
	copy->values.prealloc = true;
	if (copy_fd(copy, err)) {
		hm_backend_destroy(copy);
		return NULL;
	}
	hm_objects_swap_link(copy, hm_objects_get_link(template));
	hm_objects_ref(copy->objects);
	return copy;
}

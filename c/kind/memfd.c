/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * memory-backend-memfd: a nameless file in memory, of small pages or of the host's huge pages. Also
 * makes the memfds of other kinds.
 */
#include <errno.h>
#include <string.h>

#include "compat.h"
#include "kind.h"

/* Kernels before 6.3 do not know that a memfd may be not executable, later ones warn without it. */
static int create(const char *name, unsigned int flags)
{
	int fd = hm_os_memfd(name, flags | MFD_NOEXEC_SEAL);

	return fd == -EINVAL ? hm_os_memfd(name, flags) : fd;
}

static unsigned int huge_flags(uint64_t page_size)
{
	if (!page_size)
		return 0;
	return MFD_HUGETLB | (unsigned int)__builtin_ctzll(page_size) << MFD_HUGE_SHIFT;
}

static int fail(const struct hostmem_backend *backend, const char *what, uint64_t size, int result,
		struct hostmem_error *err)
{
	return hm_fail(err, hm_error_kind_of(-result), -result,
		       "%s: cannot %s a memfd of %ju bytes: %s", backend->label, what,
		       (uintmax_t)size, strerror(-result));
}

int hm_memfd_create(const struct hostmem_backend *backend, uint64_t size, uint64_t page_size,
		    struct hostmem_error *err)
{
	int fd = create(backend->id, MFD_CLOEXEC | MFD_ALLOW_SEALING | huge_flags(page_size));
	int result;

	if (fd < 0)
		return fail(backend, "create", size, fd, err);
	result = hm_os_set_size(fd, size);
	if (!result)
		return fd;
	hm_os_close(fd);
	return fail(backend, "size", size, result, err);
}

static int check(void *data, const struct hostmem_backend *backend, struct hostmem_error *err)
{
	struct hm_values values;

	(void)data;
	hm_backend_snapshot(backend, &values);
	if (hm_huge_pages_check_wanted(backend, &values, err))
		return -1;
	return hm_check_file_limit(backend, values.size, err);
}

static int allocate(void *data, const struct hostmem_backend *backend,
		    struct hostmem_backing *backing, struct hostmem_error *err)
{
	struct hm_values values;
	int fd;

	(void)data;
	hm_backend_snapshot(backend, &values);
	fd = hm_memfd_create(backend, values.size, hm_huge_pages_wanted(backend, &values), err);
	if (fd < 0)
		return -1;
	*backing = (struct hostmem_backing){
		.fd = fd,
		.flags = HOSTMEM_BACKING_OWN,
		.seals = F_SEAL_SEAL | (values.seal ? F_SEAL_GROW | F_SEAL_SHRINK : 0),
	};
	return 0;
}

const struct hostmem_kind hm_kind_memfd = {
	.name = "memory-backend-memfd",
	.description = "A nameless file in memory that can be handed to other processes; of huge "
		       "pages from the host's pool with hugetlb=on.",
	.share = true,
	.check = check,
	.allocate = allocate,
};

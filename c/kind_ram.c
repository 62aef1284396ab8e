/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * memory-backend-ram: anonymous memory, or with share=on a sealed memfd named after the id, so that
 * there is a descriptor to hand out.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "internal.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

/* Kernels before 6.3 do not know that a memfd may be not executable, later ones warn without it. */
static int create_memfd(const char *name)
{
	int fd = hm_os_memfd(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

	return fd == -EINVAL ? hm_os_memfd(name, MFD_CLOEXEC | MFD_ALLOW_SEALING) : fd;
}

static int fail(const char *id, const char *what, uint64_t size, int result,
		struct hostmem_error *err)
{
	return hm_fail(err, hm_error_kind_of(-result), -result, "%s: share=on: %s of %ju bytes: %s",
		       id, what, (uintmax_t)size, strerror(-result));
}

static int allocate_shared(const char *id, uint64_t size, struct hostmem_backing *backing,
			   struct hostmem_error *err)
{
	int fd = create_memfd(id);
	int result;

	if (fd < 0)
		return fail(id, "cannot create a memfd", size, fd, err);
	result = hm_os_set_size(fd, size);
	if (result) {
		hm_os_close(fd);
		return fail(id, "cannot size a memfd", size, result, err);
	}
	backing->fd = fd;
	backing->seals = F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
	return 0;
}

static int allocate(void *data, const struct hostmem_backend *backend,
		    struct hostmem_backing *backing, struct hostmem_error *err)
{
	uint64_t size;
	bool share;

	(void)data;
	if (hostmem_backend_get_number(backend, "size", &size, err) ||
	    hostmem_backend_get_bool(backend, "share", &share, err))
		return -1;
	*backing = (struct hostmem_backing){ .fd = -1 };
	return share ? allocate_shared(hostmem_backend_get_id(backend), size, backing, err) : 0;
}

const struct hostmem_kind hm_kind_ram = {
	.name = "memory-backend-ram",
	.description = "Anonymous memory of this process; with share=on a memfd that can be "
		       "handed to other processes.",
	.allocate = allocate,
};

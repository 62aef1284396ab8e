/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * userfaultfd(2): puts zero pages where memory is absent. Owns the kernel's structures for it,
 * which not every C library's compiler finds in <linux/userfaultfd.h>.
 */
#include <errno.h>
#include <unistd.h>

#include "base.h"
#include "compat.h"

#define API            0xaaUL
#define USER_MODE_ONLY 1
#define MODE_MISSING   1u
#define MODE_DONTWAKE  1u

struct api {
	uint64_t api, features, ioctls;
};

struct range {
	uint64_t start, len;
};

struct registration {
	struct range range;
	uint64_t mode, ioctls;
};

struct zero {
	struct range range;
	uint64_t mode;
	/* Bytes done, or -errno. */
	int64_t done;
};

#define IOCTL_API        _IOWR(0xaa, 0x3f, struct api)
#define IOCTL_REGISTER   _IOWR(0xaa, 0x00, struct registration)
#define IOCTL_UNREGISTER _IOR(0xaa, 0x01, struct range)
#define IOCTL_ZERO       _IOWR(0xaa, 0x04, struct zero)

/* musl's ioctl() takes an int, whose bits are the same. */
static int call(int fd, unsigned long request, void *argument)
{
	return syscall(SYS_ioctl, fd, request, argument) < 0 ? -errno : 0;
}

int hm_fault_open(void)
{
	struct api api = { .api = API };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | USER_MODE_ONLY);
	int result;

	if (fd < 0)
		return -errno;
	result = call(fd, IOCTL_API, &api);
	if (!result)
		return fd;
	close(fd);
	return result;
}

int hm_fault_register(int fault_fd, uint8_t *address, uint64_t size)
{
	struct registration registration = {
		.range = { .start = (uintptr_t)address, .len = size },
		.mode = MODE_MISSING,
	};

	return call(fault_fd, IOCTL_REGISTER, &registration);
}

int hm_fault_unregister(int fault_fd, uint8_t *address, uint64_t size)
{
	struct range range = { .start = (uintptr_t)address, .len = size };

	return call(fault_fd, IOCTL_UNREGISTER, &range);
}

int hm_fault_zero(int fault_fd, uint8_t *address, uint64_t size, uint64_t *done)
{
	struct zero zero = {
		.range = { .start = (uintptr_t)address, .len = size },
		.mode = MODE_DONTWAKE,
	};
	int result = call(fault_fd, IOCTL_ZERO, &zero);

	/* What was done before a failure is told as bytes; a failure at once as -errno. */
	*done = zero.done > 0 ? (uint64_t)zero.done : 0;
	return result;
}

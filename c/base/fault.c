/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * userfaultfd(2): puts pages where memory is absent, and tells of threads that wait for one. Owns
 * the kernel's structures for it, which not every C library's compiler finds in
 * <linux/userfaultfd.h>.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "base.h"
#include "compat.h"

#define API            0xaaUL
#define USER_MODE_ONLY 1
#define MODE_MISSING   1u
#define MODE_MINOR     4u
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

/* Pages that are put in place without being given. */
struct pages {
	struct range range;
	uint64_t mode;
	/* Bytes done, or -errno. */
	int64_t done;
};

/* Of pages that are copied or moved into place. */
struct transfer {
	uint64_t destination, source, length, mode;
	/* Bytes done, or -errno. */
	int64_t done;
};

struct message {
	uint8_t event, reserved[7];
	uint64_t flags, address, thread;
};

#define EVENT_PAGEFAULT 0x12

#define FEATURE_POISON (1u << 14)
#define FEATURE_MOVE   (1u << 16)

#define IOCTL_NEW        _IO(0xaa, 0x00)
#define IOCTL_WAKE       _IOR(0xaa, 0x02, struct range)
#define IOCTL_COPY       _IOWR(0xaa, 0x03, struct transfer)
#define IOCTL_MOVE       _IOWR(0xaa, 0x05, struct transfer)
#define IOCTL_API        _IOWR(0xaa, 0x3f, struct api)
#define IOCTL_REGISTER   _IOWR(0xaa, 0x00, struct registration)
#define IOCTL_UNREGISTER _IOR(0xaa, 0x01, struct range)
#define IOCTL_ZERO       _IOWR(0xaa, 0x04, struct pages)
#define IOCTL_POISON     _IOWR(0xaa, 0x08, struct pages)
#define IOCTL_CONTINUE   _IOWR(0xaa, 0x07, struct pages)

/* musl's ioctl() takes an int, whose bits are the same. */
static int call(int fd, unsigned long request, void *argument)
{
	return syscall(SYS_ioctl, fd, request, argument) < 0 ? -errno : 0;
}

/* fd: a userfaultfd, or -errno. */
static int agree(int fd, struct hm_fault_features *features)
{
	struct api api = { .api = API };
	int result;

	if (fd < 0)
		return fd;
	result = call(fd, IOCTL_API, &api);
	features->poison = api.features & FEATURE_POISON;
	features->move = api.features & FEATURE_MOVE;
	if (!result)
		return fd;
	close(fd);
	return result;
}

int hm_fault_open(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | USER_MODE_ONLY);
	struct hm_fault_features features;

	return agree(fd < 0 ? -errno : fd, &features);
}

int hm_fault_open_kernel(struct hm_fault_features *features)
{
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd = -1;

	if (device >= 0) {
		fd = (int)syscall(SYS_ioctl, device, IOCTL_NEW, O_CLOEXEC | O_NONBLOCK);
		close(device);
	}
	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return agree(fd < 0 ? -errno : fd, features);
}

int hm_fault_register(int fault_fd, uint8_t *address, uint64_t size, bool minor)
{
	struct registration registration = {
		.range = { .start = (uintptr_t)address, .len = size },
		.mode = minor ? MODE_MISSING | MODE_MINOR : MODE_MISSING,
	};

	return call(fault_fd, IOCTL_REGISTER, &registration);
}

int hm_fault_unregister(int fault_fd, uint8_t *address, uint64_t size)
{
	struct range range = { .start = (uintptr_t)address, .len = size };

	return call(fault_fd, IOCTL_UNREGISTER, &range);
}

static int put_pages(int fault_fd, unsigned long request, uint8_t *address, uint64_t size,
		     uint64_t mode, uint64_t *done)
{
	struct pages pages = {
		.range = { .start = (uintptr_t)address, .len = size },
		.mode = mode,
	};
	int result = call(fault_fd, request, &pages);

	/* A failure after some bytes gives their number; a failure at once gives -errno. */
	*done = pages.done > 0 ? (uint64_t)pages.done : 0;
	return result;
}

int hm_fault_zero(int fault_fd, uint8_t *address, uint64_t size, uint64_t *done)
{
	return put_pages(fault_fd, IOCTL_ZERO, address, size, MODE_DONTWAKE, done);
}

int hm_fault_continue(int fault_fd, uint8_t *address, uint64_t size, uint64_t *done)
{
	return put_pages(fault_fd, IOCTL_CONTINUE, address, size, 0, done);
}

int hm_fault_poison(int fault_fd, uint8_t *address, uint64_t size)
{
	uint64_t done;

	return put_pages(fault_fd, IOCTL_POISON, address, size, 0, &done);
}

static int transfer(int fault_fd, unsigned long request, uint8_t *address, const uint8_t *source,
		    uint64_t size, uint64_t *done)
{
	struct transfer pages = {
		.destination = (uintptr_t)address,
		.source = (uintptr_t)source,
		.length = size,
	};
	int result = call(fault_fd, request, &pages);

	*done = pages.done > 0 ? (uint64_t)pages.done : 0;
	return result;
}

int hm_fault_copy(int fault_fd, uint8_t *address, const uint8_t *source, uint64_t size,
		  uint64_t *done)
{
	return transfer(fault_fd, IOCTL_COPY, address, source, size, done);
}

int hm_fault_move(int fault_fd, uint8_t *address, uint8_t *source, uint64_t size, uint64_t *done)
{
	return transfer(fault_fd, IOCTL_MOVE, address, source, size, done);
}

int hm_fault_wake(int fault_fd, uint8_t *address, uint64_t size)
{
	struct range range = { .start = (uintptr_t)address, .len = size };

	return call(fault_fd, IOCTL_WAKE, &range);
}

int hm_fault_wait(int fault_fd, int stop_event, uint8_t **address)
{
	struct pollfd ready[] = {
		{ .fd = stop_event, .events = POLLIN },
		{ .fd = fault_fd, .events = POLLIN },
	};
	struct message message;

	for (;;) {
		ssize_t got;

		if (poll(ready, 2, -1) < 0 && errno != EINTR)
			return -errno;
		if (ready[0].revents)
			return 0;
		got = read(fault_fd, &message, sizeof(message));
		if (got < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (got != (ssize_t)sizeof(message) || message.event != EVENT_PAGEFAULT)
			continue;
		*address = (uint8_t *)(uintptr_t)message.address;
		return 1;
	}
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * See shim.h. A function hook_X() takes the place of X() in the library's object file.
 */
#include "shim.h"

#include "hostmem.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/userfaultfd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xaa, 0x00)
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif
#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif
#ifndef SYS_set_mempolicy_home_node
#define SYS_set_mempolicy_home_node 450
#endif

/* ---- Which calls, and which of them fails ---- */

#define CALLS(X)                                                                                   \
	X(malloc, ENOMEM)                                                                          \
	X(calloc, ENOMEM)                                                                          \
	X(realloc, ENOMEM)                                                                         \
	X(strdup, ENOMEM)                                                                          \
	X(getline, ENOMEM)                                                                         \
	X(fopen, EMFILE, ENOENT, EACCES, ENOMEM)                                                   \
	X(mmap, ENOMEM, EAGAIN, EINVAL, ENODEV, EPERM, EEXIST)                                     \
	X(munmap, ENOMEM)                                                                          \
	X(mprotect, ENOMEM, EACCES)                                                                \
	X(madvise, ENOMEM, EAGAIN, EINVAL, EFAULT, EPERM, EHWPOISON, EINTR)                        \
	X(msync, ENOMEM)                                                                           \
	X(mincore, ENOMEM, EPERM)                                                                  \
	X(mlock2, ENOMEM, EPERM, EAGAIN, ENOSYS)                                                   \
	X(munlock, ENOMEM)                                                                         \
	X(mbind, EPERM, EINVAL, EIO, ENOMEM)                                                       \
	X(set_mempolicy, EPERM, EINVAL)                                                            \
	X(get_mempolicy, EPERM)                                                                    \
	X(set_mempolicy_home_node, EPERM, ENOSYS, EINVAL)                                          \
	X(userfaultfd, EPERM, ENOSYS, EMFILE)                                                      \
	X(ioctl, EINVAL, ENOMEM, EAGAIN, EBUSY)                                                    \
	X(prctl, EINVAL)                                                                           \
	X(memfd_create, EMFILE, ENFILE, ENOMEM, EINVAL)                                            \
	X(open, EMFILE, EACCES, ENOENT, EINTR, EROFS)                                              \
	X(mkostemp, EACCES, ENOSPC)                                                                \
	X(shm_open, EMFILE, EACCES, ENOENT)                                                        \
	X(shm_unlink, EACCES)                                                                      \
	X(unlink, EACCES, EROFS)                                                                   \
	X(close, EIO)                                                                              \
	X(read, EIO, EINTR)                                                                        \
	X(pread, EIO, EPERM)                                                                       \
	X(readlink, ENOENT, EACCES)                                                                \
	X(stat, EIO, ENOMEM, EACCES)                                                               \
	X(fstat, EIO, ENOMEM)                                                                      \
	X(fstatfs, EIO, ENOSYS)                                                                    \
	X(ftruncate, EFBIG, ENOSPC, EINTR, EINVAL)                                                 \
	X(fallocate, ENOSPC, EOPNOTSUPP, EIO, EINTR)                                               \
	X(fcntl, EINVAL, EMFILE, EBUSY, EAGAIN)                                                    \
	X(getrandom, EAGAIN, ENOSYS)                                                               \
	X(prlimit64, EPERM)                                                                        \
	X(futex, EFAULT, ENOMEM)                                                                   \
	X(cachestat, ENOSYS, EPERM)                                                                \
	X(lseek, EINVAL)                                                                           \
	X(mremap, ENOMEM, EFAULT)                                                                  \
	X(pwrite, EIO, ENOSPC)                                                                     \
	X(pthread_setschedparam, EPERM)                                                            \
	X(sched_setscheduler, EPERM)                                                               \
	X(eventfd, EMFILE, ENOMEM)                                                                 \
	X(eventfd_read, EAGAIN)                                                                    \
	X(eventfd_write, EAGAIN)                                                                   \
	X(pthread_create, EAGAIN)                                                                  \
	X(pthread_attr_init, ENOMEM)                                                               \
	X(pthread_setaffinity_np, EINVAL)                                                          \
	X(sched_getaffinity, EPERM)                                                                \
	X(sched_setaffinity, EPERM, EINVAL)

#define ENUMERATOR(NAME, ...) CALL_##NAME,
enum call { CALLS(ENUMERATOR) CALL_COUNT };

#define ROW(NAME, ...) { #NAME, { __VA_ARGS__ } },
const struct shim_call shim_calls[] = { CALLS(ROW){ NULL, { 0 } } };

int (*shim_open_instead)(const char *path);
void (*shim_before_open)(const char *path);

struct fault {
	_Atomic int call, error;
	_Atomic int64_t left;
	_Atomic bool fired;
};

static struct fault fault = { .call = CALL_COUNT }, second = { .call = CALL_COUNT };
/* Since the fault was armed, and since it came up. */
static _Atomic size_t calls_armed[CALL_COUNT], calls_since[CALL_COUNT];

static void arm(struct fault *armed, size_t call, uint64_t nth, int error)
{
	armed->error = error;
	armed->left = (int64_t)nth;
	armed->fired = false;
	armed->call = (int)call;
}

void shim_arm(size_t call, uint64_t nth, int error)
{
	for (size_t i = 0; i < CALL_COUNT; i++)
		calls_armed[i] = calls_since[i] = 0;
	arm(&fault, call, nth, error);
}

void shim_arm_second(size_t call, uint64_t nth, int error)
{
	arm(&second, call, nth, error);
}

bool shim_disarm(void)
{
	fault.call = second.call = CALL_COUNT;
	return fault.fired;
}

bool shim_second_failed(void)
{
	return second.fired;
}

size_t shim_count_armed(size_t call)
{
	return calls_armed[call];
}

size_t shim_count_since(size_t call)
{
	return calls_since[call];
}

static bool fires(struct fault *armed, enum call call)
{
	if (armed->call != (int)call || atomic_fetch_sub(&armed->left, 1) != 1)
		return false;
	armed->fired = true;
	errno = armed->error;
	return true;
}

/* Whether this call is one that fails; sets errno. */
static bool fails(enum call call)
{
	if (fault.call == CALL_COUNT)
		return false;
	calls_armed[call]++;
	if (!fault.fired)
		return fires(&fault, call);
	calls_since[call]++;
	return fires(&second, call);
}

__attribute__((format(printf, 1, 2))) static void violation(const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "shim: the library ");
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, "\n");
	abort();
}

/* ---- Ranges of addresses ---- */

struct range {
	uintptr_t first, end;
};

struct ranges {
	struct range *all;
	size_t len, room;
};

/* Held while something is mapped or unmapped, so that the list is what the kernel has. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct ranges owned, stuck, bystanders, neighbours;

static void add(struct ranges *ranges, uintptr_t first, size_t size)
{
	if (ranges->len == ranges->room) {
		ranges->room = ranges->room ? 2 * ranges->room : 64;
		ranges->all = realloc(ranges->all, ranges->room * sizeof(*ranges->all));
		if (!ranges->all)
			abort();
	}
	ranges->all[ranges->len++] = (struct range){ first, first + size };
}

static void take_out(struct ranges *ranges, uintptr_t first, size_t size)
{
	uintptr_t end = first + size;

	for (size_t i = ranges->len; i-- > 0;) {
		struct range range = ranges->all[i];

		if (range.end <= first || range.first >= end)
			continue;
		ranges->all[i] = ranges->all[--ranges->len];
		if (range.first < first)
			add(ranges, range.first, first - range.first);
		if (range.end > end)
			add(ranges, end, range.end - end);
	}
}

static bool covers(const struct ranges *ranges, uintptr_t first, size_t size)
{
	uintptr_t end = first + size;

	for (size_t i = 0; first < end && i < ranges->len; i++) {
		const struct range *range = &ranges->all[i];

		if (range->first > first || range->end <= first)
			continue;
		first = range->end;
		i = SIZE_MAX;
	}
	return first >= end;
}

/* The kernel works on whole pages. */
static size_t whole_pages(size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	return (size + page - 1) / page * page;
}

/* Called with the lock. */
static void check_owned(const char *call, const void *address, size_t size)
{
	if (!covers(&owned, (uintptr_t)address, whole_pages(size)))
		violation("calls %s(%p, %#zx) on what it does not have", call, address, size);
}

static void check(const char *call, const void *address, size_t size)
{
	pthread_mutex_lock(&lock);
	check_owned(call, address, size);
	pthread_mutex_unlock(&lock);
}

/* ---- Bystanders ---- */

#define PATTERN 0x5a

/* What another thread would have mapped there meanwhile. Called with the lock. */
static void put_bystander(void *address, size_t size)
{
	char *mapped =
		mmap(address, size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

	if (mapped == MAP_FAILED)
		return;
	mapped[0] = mapped[size - 1] = PATTERN;
	add(&bystanders, (uintptr_t)mapped, size);
}

/* Reads by a system call, which fails instead of raising a signal. */
static bool is_whole(const struct range *range)
{
	const size_t offsets[] = { 0, range->end - range->first - 1 };
	int pipes[2];
	bool whole = true;

	if (pipe(pipes))
		abort();
	for (size_t i = 0; whole && i < 2; i++) {
		char byte = 0;

		whole = write(pipes[1], (const char *)range->first + offsets[i], 1) == 1 &&
			read(pipes[0], &byte, 1) == 1 && byte == PATTERN;
	}
	close(pipes[0]);
	close(pipes[1]);
	return whole;
}

bool shim_bystanders_are_whole(void)
{
	bool whole = true;

	pthread_mutex_lock(&lock);
	while (bystanders.len) {
		const struct range *range = &bystanders.all[--bystanders.len];

		whole = is_whole(range) && whole;
		munmap((void *)range->first, range->end - range->first);
	}
	pthread_mutex_unlock(&lock);
	return whole;
}

/* ---- Neighbours ---- */

/*
 * A page on each side of what the library has, filled with a pattern: whether the library writes
 * beyond its memory. Shared, so that the kernel never joins it with the memory. Called with the
 * lock.
 */
static void put_neighbour(uintptr_t first)
{
	size_t page = whole_pages(1);
	void *mapped = mmap((void *)first, page, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (mapped == MAP_FAILED)
		return;
	memset(mapped, PATTERN, page);
	add(&neighbours, first, page);
}

static bool without_neighbours;

void shim_leave_out_neighbours(void)
{
	without_neighbours = true;
}

static bool is_next_to(const struct range *range, uintptr_t first, uintptr_t end)
{
	return range->end == first || range->first == end;
}

/* Around all that the library has next to this range. Called with the lock. */
static void put_neighbours(uintptr_t first, uintptr_t end)
{
	bool grows = true;

	if (without_neighbours)
		return;

	while (grows) {
		grows = false;
		for (size_t i = 0; i < owned.len; i++) {
			const struct range *range = &owned.all[i];

			if (is_next_to(range, first, end)) {
				first = range->end == first ? range->first : first;
				end = range->first == end ? range->end : end;
				grows = true;
			}
		}
	}
	put_neighbour(first - whole_pages(1));
	put_neighbour(end);
}

static void check_neighbour(const struct range *range)
{
	const char *bytes = (const char *)range->first;

	if (bytes[0] != PATTERN || memcmp(bytes, bytes + 1, range->end - range->first - 1))
		violation("has written next to its memory, at %p", (const void *)bytes);
}

static bool is_next_to_owned(const struct range *range)
{
	for (size_t i = 0; i < owned.len; i++) {
		if (is_next_to(range, owned.all[i].first, owned.all[i].end))
			return true;
	}
	return false;
}

/*
 * After this range was unmapped; one that is next to another range of the library's stays. Called
 * with the lock.
 */
static void take_neighbours(uintptr_t first, uintptr_t end)
{
	for (size_t i = neighbours.len; i-- > 0;) {
		const struct range range = neighbours.all[i];

		if (!is_next_to(&range, first, end) || is_next_to_owned(&range))
			continue;
		check_neighbour(&range);
		munmap((void *)range.first, range.end - range.first);
		neighbours.all[i] = neighbours.all[--neighbours.len];
	}
}

/* Of memory that is there to the end of the process. */
__attribute__((destructor)) static void check_neighbours(void)
{
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < neighbours.len; i++)
		check_neighbour(&neighbours.all[i]);
	pthread_mutex_unlock(&lock);
}

/* ---- What could not be unmapped ---- */

void shim_unmap_stuck(void)
{
	pthread_mutex_lock(&lock);
	while (stuck.len) {
		const struct range range = stuck.all[--stuck.len];
		size_t size = range.end - range.first;

		if (!covers(&owned, range.first, size))
			continue;
		munmap((void *)range.first, size);
		take_out(&owned, range.first, size);
		take_neighbours(range.first, range.end);
	}
	pthread_mutex_unlock(&lock);
}

/* ---- Memory ---- */

/* A mapping at a fixed place that fails has left the place to others (mmap(2)). */
static void *fail_map(void *address, size_t size, int flags)
{
	int error = errno;

	if (flags & MAP_FIXED) {
		munmap(address, size);
		take_out(&owned, (uintptr_t)address, size);
	}
	if (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE))
		put_bystander(address, size);
	errno = error;
	return MAP_FAILED;
}

static _Atomic size_t largest_mapping = SIZE_MAX;

void shim_limit_mappings(size_t bytes)
{
	largest_mapping = bytes;
}

void *hook_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
	void *mapped;

	if (size > largest_mapping) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	size = whole_pages(size);
	pthread_mutex_lock(&lock);
	if (flags & MAP_FIXED)
		check_owned("mmap", address, size);
	if (fails(CALL_mmap))
		mapped = fail_map(address, size, flags);
	else
		mapped = mmap(address, size, protection, flags, fd, offset);
	if (mapped != MAP_FAILED) {
		take_out(&owned, (uintptr_t)mapped, size);
		add(&owned, (uintptr_t)mapped, size);
	}
	if (mapped != MAP_FAILED && flags & MAP_FIXED_NOREPLACE)
		put_neighbours((uintptr_t)mapped, (uintptr_t)mapped + size);
	pthread_mutex_unlock(&lock);
	return mapped;
}

int hook_munmap(void *address, size_t size)
{
	int result = -1;

	pthread_mutex_lock(&lock);
	check_owned("munmap", address, size);
	if (fails(CALL_munmap)) {
		add(&stuck, (uintptr_t)address, whole_pages(size));
	} else {
		result = munmap(address, size);
		if (!result)
			take_out(&owned, (uintptr_t)address, whole_pages(size));
		take_neighbours((uintptr_t)address, (uintptr_t)address + whole_pages(size));
	}
	pthread_mutex_unlock(&lock);
	return result;
}

/*
 * A move to a fixed address replaces what is there, as a fixed mapping does. Where it fails for
 * want of memory, the kernel may have unmapped that before.
 */
void *hook_mremap(void *from, size_t size, size_t to_size, int flags, void *to)
{
	void *moved = MAP_FAILED;

	pthread_mutex_lock(&lock);
	check_owned("mremap", from, size);
	if (!(flags & MREMAP_FIXED) || size != to_size)
		violation("moves a mapping in a way that the shim does not know");
	check_owned("mremap", to, to_size);
	if (!fails(CALL_mremap)) {
		moved = mremap(from, size, to_size, flags, to);
	} else if (errno == ENOMEM) {
		munmap(to, to_size);
		take_out(&owned, (uintptr_t)to, whole_pages(to_size));
		errno = ENOMEM;
	}
	if (moved != MAP_FAILED)
		take_out(&owned, (uintptr_t)from, whole_pages(size));
	pthread_mutex_unlock(&lock);
	return moved;
}

/* The kernel goes from mapping to mapping: where one fails, those before it have been changed. */
int hook_mprotect(void *address, size_t size, int protection)
{
	int error;

	check("mprotect", address, size);
	if (!fails(CALL_mprotect))
		return mprotect(address, size, protection);
	error = errno;
	mprotect(address, whole_pages(1), protection);
	errno = error;
	return -1;
}

int hook_madvise(void *address, size_t size, int advice)
{
	check("madvise", address, size);
	return fails(CALL_madvise) ? -1 : madvise(address, size, advice);
}

/* Asynchronous, it only looks. */
int hook_msync(void *address, size_t size, int flags)
{
	if (flags != MS_ASYNC)
		check("msync", address, size);
	return fails(CALL_msync) ? -1 : msync(address, size, flags);
}

int hook_mincore(void *address, size_t size, unsigned char *pages)
{
	check("mincore", address, size);
	return fails(CALL_mincore) ? -1 : mincore(address, size, pages);
}

int hook_prctl(int option, unsigned long second, unsigned long third, unsigned long fourth,
	       unsigned long fifth)
{
	if (option == PR_SET_VMA)
		check("prctl(PR_SET_VMA)", (void *)third, fourth);
	return fails(CALL_prctl) ? -1 : prctl(option, second, third, fourth, fifth);
}

/* ---- Descriptors and files ---- */

#define MOST_DESCRIPTORS 65536

enum origin {
	FOREIGN,
	MADE,
	/* Of a file of the user's. */
	DUPLICATE,
	/* The user's own, to be written to during one call. */
	LENT,
};

static _Atomic uint8_t descriptors[MOST_DESCRIPTORS];
static _Atomic size_t descriptors_len;

static int take(int fd, enum origin origin)
{
	if (fd < 0)
		return fd;
	if (fd >= MOST_DESCRIPTORS)
		violation("has descriptor %d, beyond what the shim can remember", fd);
	descriptors[fd] = (uint8_t)origin;
	descriptors_len++;
	return fd;
}

static _Atomic bool lends_descriptors;

void shim_lend_descriptors(void)
{
	lends_descriptors = true;
}

static void check_own_fd(const char *call, int fd)
{
	if (fd < 0 || fd >= MOST_DESCRIPTORS || descriptors[fd] == FOREIGN)
		violation("calls %s on descriptor %d, which it does not have", call, fd);
}

static void check_fd(const char *call, int fd)
{
	if (!lends_descriptors)
		check_own_fd(call, fd);
}

int real_hostmem_backend_save(struct hostmem_backend *backend, struct hostmem_save_result *saved,
			      int fd, uint64_t offset, struct hostmem_error *err);

/* Takes the place of the library's (see build), for the file that it writes to. */
int hostmem_backend_save(struct hostmem_backend *backend, struct hostmem_save_result *saved, int fd,
			 uint64_t offset, struct hostmem_error *err)
{
	bool lends = fd >= 0 && fd < MOST_DESCRIPTORS && descriptors[fd] == FOREIGN;
	int result;

	if (lends)
		descriptors[fd] = LENT;
	result = real_hostmem_backend_save(backend, saved, fd, offset, err);
	if (lends)
		descriptors[fd] = FOREIGN;
	return result;
}

/* The calls that have no function of their own in every C library. */
static const struct {
	long number;
	enum call call;
	/* Its first two arguments are a range of memory. */
	bool has_range;
} by_number[] = {
	{ SYS_mlock2, CALL_mlock2, true },
	{ SYS_munlock, CALL_munlock, true },
	{ SYS_mbind, CALL_mbind, true },
	{ SYS_set_mempolicy_home_node, CALL_set_mempolicy_home_node, true },
	{ SYS_set_mempolicy, CALL_set_mempolicy, false },
	{ SYS_get_mempolicy, CALL_get_mempolicy, false },
	{ SYS_userfaultfd, CALL_userfaultfd, false },
	{ SYS_prlimit64, CALL_prlimit64, false },
	{ SYS_sched_setscheduler, CALL_sched_setscheduler, false },
	{ SYS_futex, CALL_futex, false },
	{ SYS_ioctl, CALL_ioctl, false },
	{ SYS_cachestat, CALL_cachestat, false },
	{ SYS_gettid, CALL_COUNT, false },
};

#define NUMBER_OF_COPY     0x03
#define NUMBER_OF_MOVE     0x05
#define NUMBER_OF_CONTINUE 0x07
#define NUMBER_OF_POISON   0x08

/* What begins the structure of a copy and of a move. */
struct transfer {
	uint64_t destination, source, length;
};

/* Where pages are put, or watched. */
static void check_ioctl(unsigned long request, unsigned long argument)
{
	const struct uffdio_range *range = (const void *)argument;
	const struct transfer *transfer = (const void *)argument;
	unsigned int number = _IOC_NR(request);

	if (_IOC_TYPE(request) != UFFDIO || request == USERFAULTFD_IOC_NEW)
		return;
	if (request == UFFDIO_REGISTER || request == UFFDIO_UNREGISTER ||
	    request == UFFDIO_ZEROPAGE || request == UFFDIO_WAKE || number == NUMBER_OF_CONTINUE ||
	    number == NUMBER_OF_POISON)
		check("ioctl", (void *)(uintptr_t)range->start, range->len);
	if (number == NUMBER_OF_MOVE)
		check("ioctl", (void *)(uintptr_t)transfer->source, transfer->length);
	if (number == NUMBER_OF_COPY || number == NUMBER_OF_MOVE)
		check("ioctl", (void *)(uintptr_t)transfer->destination, transfer->length);
}

/* Memory is populated by a futex call that accesses a word of it: one of both is the caller's. */
static void check_futex(unsigned long first, unsigned long second)
{
	pthread_mutex_lock(&lock);
	if (!covers(&owned, first, sizeof(uint32_t)) && !covers(&owned, second, sizeof(uint32_t)))
		violation("calls futex on what it does not have");
	pthread_mutex_unlock(&lock);
}

static enum call check_number(long number, const unsigned long *arguments)
{
	size_t i = 0;

	while (i < sizeof(by_number) / sizeof(by_number[0]) && by_number[i].number != number)
		i++;
	if (i == sizeof(by_number) / sizeof(by_number[0]))
		violation("makes system call %ld, which the shim does not know", number);
	if (by_number[i].has_range)
		check(shim_calls[by_number[i].call].name, (void *)arguments[0], arguments[1]);
	if (number == SYS_ioctl)
		check_ioctl(arguments[1], arguments[2]);
	if (number == SYS_futex)
		check_futex(arguments[0], arguments[4]);
	return by_number[i].call;
}

long hook_syscall(long number, unsigned long first, unsigned long second, unsigned long third,
		  unsigned long fourth, unsigned long fifth, unsigned long sixth)
{
	const unsigned long arguments[] = { first, second, third, fourth, fifth, sixth };
	enum call call = check_number(number, arguments);
	long result;

	if (call != CALL_COUNT && fails(call))
		return -1;
	result = syscall(number, first, second, third, fourth, fifth, sixth);
	if (number == SYS_userfaultfd || (number == SYS_ioctl && second == USERFAULTFD_IOC_NEW))
		return take((int)result, MADE);
	return result;
}

/* Names that the library made, which it may remove. */
static struct {
	struct name {
		char *text;
		int (*remove)(const char *name);
		/* Removing it was made to fail. */
		bool stuck;
	} * all;
	size_t len, room;
} names;

static void remember(const char *text, int (*remove)(const char *name))
{
	pthread_mutex_lock(&lock);
	if (names.len == names.room) {
		names.room = names.room ? 2 * names.room : 64;
		names.all = realloc(names.all, names.room * sizeof(*names.all));
		if (!names.all)
			abort();
	}
	names.all[names.len++] = (struct name){ .text = strdup(text), .remove = remove };
	pthread_mutex_unlock(&lock);
}

static void forget(struct name *name)
{
	free(name->text);
	*name = names.all[--names.len];
}

/* As unlink() and shm_unlink(). */
static int remove_name(const char *text, int (*remove)(const char *name), bool fails)
{
	int error = errno, result = -1;
	bool found = false;

	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < names.len && !found; i++) {
		struct name *name = &names.all[i];

		found = name->remove == remove && !strcmp(name->text, text);
		if (!found)
			continue;
		name->stuck = fails;
		if (!fails)
			forget(name);
	}
	pthread_mutex_unlock(&lock);
	if (!found)
		violation("removes %s, which it did not make", text);
	if (!fails)
		result = remove(text);
	else
		errno = error;
	return result;
}

bool shim_remove_stuck(void)
{
	bool any = false;

	pthread_mutex_lock(&lock);
	for (size_t i = names.len; i-- > 0;) {
		if (!names.all[i].stuck)
			continue;
		names.all[i].remove(names.all[i].text);
		forget(&names.all[i]);
		any = true;
	}
	pthread_mutex_unlock(&lock);
	return any;
}

bool shim_remove_names(void)
{
	bool any;

	pthread_mutex_lock(&lock);
	any = names.len;
	while (names.len) {
		struct name *last = &names.all[names.len - 1];

		last->remove(last->text);
		forget(last);
	}
	pthread_mutex_unlock(&lock);
	return any;
}

void shim_forget_names(void)
{
	pthread_mutex_lock(&lock);
	while (names.len)
		forget(&names.all[names.len - 1]);
	pthread_mutex_unlock(&lock);
}

static bool is_for_reading(int flags)
{
	return (flags & O_ACCMODE) == O_RDONLY && !(flags & O_PATH);
}

int hook_open(const char *path, int flags, ...)
{
	va_list arguments;
	mode_t mode = 0;
	int fd;

	if (shim_before_open)
		shim_before_open(path);
	if (fails(CALL_open))
		return -1;
	if (shim_open_instead && is_for_reading(flags)) {
		fd = shim_open_instead(path);
		if (fd < 0 && fd != SHIM_REAL)
			errno = -fd;
		if (fd != SHIM_REAL)
			return fd < 0 ? -1 : take(fd, MADE);
	}
	va_start(arguments, flags);
	if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE)
		mode = va_arg(arguments, mode_t);
	va_end(arguments);
	fd = open(path, flags, mode);
	if (fd >= 0 && flags & O_CREAT) {
		if (!(flags & O_EXCL))
			violation("creates %s without O_EXCL", path);
		remember(path, unlink);
	}
	return take(fd, MADE);
}

int hook_mkostemp(char *path, int flags)
{
	int fd;

	if (fails(CALL_mkostemp))
		return -1;
	fd = mkostemp(path, flags);
	if (fd >= 0)
		remember(path, unlink);
	return take(fd, MADE);
}

int hook_shm_open(const char *name, int flags, mode_t mode)
{
	int fd;

	if (fails(CALL_shm_open))
		return -1;
	fd = shm_open(name, flags, mode);
	if (fd >= 0)
		remember(name, shm_unlink);
	return take(fd, MADE);
}

int hook_shm_unlink(const char *name)
{
	return remove_name(name, shm_unlink, fails(CALL_shm_unlink));
}

int hook_unlink(const char *path)
{
	return remove_name(path, unlink, fails(CALL_unlink));
}

int hook_memfd_create(const char *name, unsigned int flags)
{
	return fails(CALL_memfd_create) ? -1 : take(memfd_create(name, flags), MADE);
}

int hook_eventfd(unsigned int count, int flags)
{
	return fails(CALL_eventfd) ? -1 : take(eventfd(count, flags), MADE);
}

int hook_eventfd_read(int fd, eventfd_t *value)
{
	check_fd("eventfd_read", fd);
	return fails(CALL_eventfd_read) ? -1 : eventfd_read(fd, value);
}

/* It fails only where the count is at its most, which wakes all the same (eventfd(2)). */
int hook_eventfd_write(int fd, eventfd_t value)
{
	int result;

	check_fd("eventfd_write", fd);
	result = eventfd_write(fd, value);
	return fails(CALL_eventfd_write) ? -1 : result;
}

/* A close that fails has closed all the same (close(2)). */
int hook_close(int fd)
{
	int result;

	check_own_fd("close", fd);
	if (descriptors[fd] == LENT)
		violation("closes descriptor %d of the user's", fd);
	descriptors[fd] = FOREIGN;
	descriptors_len--;
	result = close(fd);
	return fails(CALL_close) ? -1 : result;
}

int hook_fcntl(int fd, int command, unsigned long argument)
{
	bool duplicates = command == F_DUPFD_CLOEXEC;
	int result;

	/* What an embedder's kind returns becomes the library's, which closes it on exec first. It
	 * may be closed. */
	bool is_of_kind = command == F_SETFD && fd >= 0 && fd < MOST_DESCRIPTORS &&
			  descriptors[fd] == FOREIGN;

	if (is_of_kind && fcntl(fd, F_GETFD) >= 0)
		take(fd, DUPLICATE);
	if (!duplicates && !is_of_kind && command != F_GETFL && command != F_GET_SEALS)
		check_fd("fcntl", fd);
	if (fails(CALL_fcntl))
		return -1;
	result = fcntl(fd, command, argument);
	return duplicates ? take(result, DUPLICATE) : result;
}

int hook_ftruncate(int fd, off_t size)
{
	check_fd("ftruncate", fd);
	if (descriptors[fd] == DUPLICATE)
		violation("changes the size of a file of the user's");
	return fails(CALL_ftruncate) ? -1 : ftruncate(fd, size);
}

int hook_fallocate(int fd, int mode, off_t offset, off_t size)
{
	check_fd("fallocate", fd);
	return fails(CALL_fallocate) ? -1 : fallocate(fd, mode, offset, size);
}

int hook_stat(const char *path, struct stat *status)
{
	return fails(CALL_stat) ? -1 : stat(path, status);
}

int hook_fstat(int fd, struct stat *status)
{
	return fails(CALL_fstat) ? -1 : fstat(fd, status);
}

int hook_fstatfs(int fd, struct statfs *status)
{
	return fails(CALL_fstatfs) ? -1 : fstatfs(fd, status);
}

ssize_t hook_read(int fd, void *buffer, size_t size)
{
	check_fd("read", fd);
	return fails(CALL_read) ? -1 : read(fd, buffer, size);
}

ssize_t hook_pread(int fd, void *buffer, size_t size, off_t offset)
{
	check_fd("pread", fd);
	return fails(CALL_pread) ? -1 : pread(fd, buffer, size, offset);
}

ssize_t hook_pwrite(int fd, const void *buffer, size_t size, off_t offset)
{
	check_fd("pwrite", fd);
	return fails(CALL_pwrite) ? -1 : pwrite(fd, buffer, size, offset);
}

int hook_pthread_setschedparam(pthread_t thread, int policy, const struct sched_param *parameter)
{
	return fails(CALL_pthread_setschedparam) ? errno
						 : pthread_setschedparam(thread, policy, parameter);
}

ssize_t hook_readlink(const char *path, char *buffer, size_t size)
{
	return fails(CALL_readlink) ? -1 : readlink(path, buffer, size);
}

int hook_ioctl(int fd, unsigned long request, void *argument)
{
	return fails(CALL_ioctl) ? -1 : ioctl(fd, request, argument);
}

/* The position of a duplicate is that of the user's descriptor too. */
off_t hook_lseek(int fd, off_t offset, int whence)
{
	check_fd("lseek", fd);
	if (descriptors[fd] == DUPLICATE)
		violation("moves the position of a descriptor of the user's");
	return fails(CALL_lseek) ? -1 : lseek(fd, offset, whence);
}

static _Atomic size_t files_len;

FILE *hook_fopen(const char *path, const char *mode)
{
	FILE *file;
	int fd = SHIM_REAL;

	if (fails(CALL_fopen))
		return NULL;
	if (shim_open_instead)
		fd = shim_open_instead(path);
	if (fd < 0 && fd != SHIM_REAL) {
		errno = -fd;
		return NULL;
	}
	file = fd == SHIM_REAL ? fopen(path, mode) : fdopen(fd, "r");
	files_len += file != NULL;
	return file;
}

int hook_fclose(FILE *file)
{
	files_len--;
	return fclose(file);
}

/* ---- The process ---- */

ssize_t hook_getrandom(void *buffer, size_t size, unsigned int flags)
{
	return fails(CALL_getrandom) ? -1 : getrandom(buffer, size, flags);
}

int hook_sched_getaffinity(pid_t thread, size_t size, cpu_set_t *cpus)
{
	return fails(CALL_sched_getaffinity) ? -1 : sched_getaffinity(thread, size, cpus);
}

int hook_sched_setaffinity(pid_t thread, size_t size, const cpu_set_t *cpus)
{
	return fails(CALL_sched_setaffinity) ? -1 : sched_setaffinity(thread, size, cpus);
}

/* ---- Threads ---- */

static _Atomic size_t threads_len;

int hook_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
			void *data)
{
	int result;

	if (fails(CALL_pthread_create))
		return errno;
	threads_len++;
	result = pthread_create(thread, attributes, run, data);
	threads_len -= result != 0;
	return result;
}

int hook_pthread_join(pthread_t thread, void **result)
{
	int failed = pthread_join(thread, result);

	threads_len -= !failed;
	return failed;
}

int hook_pthread_detach(pthread_t thread)
{
	threads_len--;
	return pthread_detach(thread);
}

int hook_pthread_attr_init(pthread_attr_t *attributes)
{
	return fails(CALL_pthread_attr_init) ? errno : pthread_attr_init(attributes);
}

int hook_pthread_setaffinity_np(pthread_t thread, size_t size, const cpu_set_t *cpus)
{
	return fails(CALL_pthread_setaffinity_np) ? errno
						  : pthread_setaffinity_np(thread, size, cpus);
}

/* ---- Allocations ---- */

static _Atomic size_t allocations;

static void *count(void *allocated)
{
	allocations += allocated != NULL;
	return allocated;
}

void *hook_malloc(size_t size)
{
	return fails(CALL_malloc) ? NULL : count(malloc(size));
}

void *hook_calloc(size_t len, size_t size)
{
	return fails(CALL_calloc) ? NULL : count(calloc(len, size));
}

void *hook_realloc(void *before, size_t size)
{
	void *after;

	if (fails(CALL_realloc))
		return NULL;
	after = realloc(before, size);
	allocations += after && !before;
	return after;
}

char *hook_strdup(const char *text)
{
	return fails(CALL_strdup) ? NULL : count(strdup(text));
}

void hook_free(void *allocated)
{
	allocations -= allocated != NULL;
	free(allocated);
}

ssize_t hook___getdelim(char **line, size_t *size, int delimiter, FILE *file)
{
	bool had = *line;
	ssize_t length;

	if (fails(CALL_getline))
		return -1;
	length = getdelim(line, size, delimiter, file);
	allocations += *line && !had;
	return length;
}

ssize_t hook_getline(char **line, size_t *size, FILE *file)
{
	return hook___getdelim(line, size, '\n', file);
}

/* ---- Forks ---- */

static void before_fork(void)
{
	pthread_mutex_lock(&lock);
}

static void in_parent(void)
{
	pthread_mutex_unlock(&lock);
}

/* Guest memory is not in a forked child, whose kernel may put anything else there. */
static void in_child(void)
{
	owned.len = 0;
	neighbours.len = 0;
	pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(before_fork, in_parent, in_child);
}

/* ---- Counts ---- */

struct shim_count shim_count(void)
{
	struct shim_count now = {
		.descriptors = descriptors_len,
		.files = files_len,
		.threads = threads_len,
		.allocations = allocations,
	};

	pthread_mutex_lock(&lock);
	now.ranges = owned.len;
	for (size_t i = 0; i < owned.len; i++)
		now.bytes += owned.all[i].end - owned.all[i].first;
	now.names = names.len;
	pthread_mutex_unlock(&lock);
	return now;
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * System calls about memory, files, the process and its threads: each returns a value >= 0 or
 * -errno. Does not decide anything. Those of userfaultfd(2) are in fault.c, those of NUMA policies
 * in numa.c, those that count pages in resident.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include "base.h"
#include "compat.h"

static int or_errno(long result)
{
	return result < 0 ? -errno : (int)result;
}

int hm_os_map(void **address, size_t size, int protection, int flags, int fd, uint64_t offset)
{
	void *mapped = mmap(*address, size, protection, flags, fd, (off_t)offset);

	if (mapped == MAP_FAILED)
		return -errno;
	*address = mapped;
	return 0;
}

int hm_os_unmap(void *address, size_t size)
{
	return or_errno(munmap(address, size));
}

int hm_os_protect(void *address, size_t size, int protection)
{
	return or_errno(mprotect(address, size, protection));
}

int hm_os_move(void *from, size_t size, void *to)
{
	void *moved = mremap(from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to);

	return moved == MAP_FAILED ? -errno : 0;
}

int hm_os_advise(void *address, size_t size, int advice)
{
	return or_errno(madvise(address, size, advice));
}

/* A value that a word rarely has; a futex operation has 12 bits for it and extends their sign. */
#define RARE_VALUE 0x800

/*
 * A futex call accesses a word of the caller's memory in the kernel, where a page that cannot be
 * had is EFAULT and no SIGBUS. Neither operation waits or changes the word. FUTEX_WAKE_OP wakes one
 * waiter even for a count of 0: of the first word, which is this function's own, and of the second
 * if that had the value to compare with.
 */
static int touch_for_writing(uint8_t *address)
{
	uint32_t own = 0;

	return or_errno(
		syscall(SYS_futex, &own, FUTEX_WAKE_OP_PRIVATE, 0, 0, address,
			(unsigned int)FUTEX_OP_OR << 28 | FUTEX_OP_CMP_EQ << 24 | RARE_VALUE));
}

static int touch_for_reading(uint8_t *address)
{
	uint32_t own = 0;
	int result = or_errno(
		syscall(SYS_futex, address, FUTEX_CMP_REQUEUE_PRIVATE, 0, 0, &own, RARE_VALUE));

	/* The word does not have the value to compare with. */
	return result == -EAGAIN ? 0 : result;
}

int hm_os_touch(uint8_t *address, bool write)
{
	int result = write ? touch_for_writing(address) : touch_for_reading(address);

	/* A page that the program supplies by userfaultfd(2) is waited for by reading alone. */
	if (write && result == -EFAULT && !touch_for_reading(address))
		result = touch_for_writing(address);
	return result;
}

/*
 * Locking is not left to the C library, whose mlock2() makes another call where there are no flags,
 * and in whose place sanitizers do nothing.
 */
int hm_os_lock(void *address, size_t size, unsigned int flags)
{
	int result = or_errno(syscall(SYS_mlock2, address, size, flags));

	/* Old kernels, as 5.10, answer so of what is not accessible, and have locked it. */
	if (result == -ENOMEM && flags & MLOCK_ONFAULT && hm_os_is_locked(address, size))
		return 0;
	return result;
}

int hm_os_unlock(void *address, size_t size)
{
	return or_errno(syscall(SYS_munlock, address, size));
}

/* Invalidating is refused where there is a lock and does nothing else (msync(2)). */
bool hm_os_is_locked(void *address, size_t size)
{
	return msync(address, size, MS_ASYNC | MS_INVALIDATE) && errno == EBUSY;
}

/* It does nothing else (msync(2)). */
bool hm_os_is_unmapped(void *address, size_t size)
{
	return msync(address, size, MS_ASYNC) && errno == ENOMEM;
}

int hm_os_name(void *address, size_t size, const char *name)
{
	return or_errno(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, address, size, name));
}

int hm_os_set_home_node(void *address, size_t size, unsigned int node)
{
	return or_errno(syscall(SYS_set_mempolicy_home_node, address, size, node, 0));
}

int hm_os_memfd(const char *name, unsigned int flags)
{
	return or_errno(memfd_create(name, flags));
}

int hm_os_set_size(int fd, uint64_t size)
{
	int result;

	do
		result = or_errno(ftruncate(fd, (off_t)size));
	while (result == -EINTR);
	return result;
}

static uint64_t size_of(int fd, const struct stat *status)
{
	uint64_t bytes;

	if (S_ISREG(status->st_mode))
		return (uint64_t)status->st_size;
	return S_ISBLK(status->st_mode) && !ioctl(fd, BLKGETSIZE64, &bytes) ? bytes : UINT64_MAX;
}

int hm_os_stat(int fd, struct hm_file *file)
{
	struct stat status;
	struct statfs file_system;

	if (fstat(fd, &status) || fstatfs(fd, &file_system))
		return -errno;
	*file = (struct hm_file){
		.mode = status.st_mode,
		.device = status.st_dev,
		.special = status.st_rdev,
		.inode = status.st_ino,
		.size = size_of(fd, &status),
		.allocated = (uint64_t)status.st_blocks * 512,
		.page_size = file_system.f_type == HUGETLBFS_MAGIC ? (uint64_t)file_system.f_bsize
								   : hm_os_page_size(),
		.shmem = S_ISREG(status.st_mode) && file_system.f_type == TMPFS_MAGIC,
		.ramfs = S_ISREG(status.st_mode) && file_system.f_type == RAMFS_MAGIC,
		.overlay = file_system.f_type == OVERLAYFS_SUPER_MAGIC,
	};
	return 0;
}

int hm_os_is_at(const char *path, int fd)
{
	struct stat found, file;

	if (stat(path, &found))
		return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	if (fstat(fd, &file))
		return -errno;
	return found.st_ino == file.st_ino && found.st_dev == file.st_dev;
}

/* What is created is for its owner only. */
int hm_os_open(const char *path, int flags)
{
	int result;

	do
		result = or_errno(open(path, flags | O_CLOEXEC, 0600));
	while (result == -EINTR);
	return result;
}

int hm_os_read_link(const char *path, char *buffer, size_t size)
{
	ssize_t length = readlink(path, buffer, size - 1);

	if (length < 0)
		return -errno;
	buffer[length] = '\0';
	return (int)length;
}

/* Under a name for an instant, for file systems that cannot do without. */
static int open_and_unlink(const char *directory, bool *stays)
{
	char path[PATH_MAX];
	int fd;

	if (snprintf(path, sizeof(path), "%s/hostmem-XXXXXX", directory) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (unlink(path)) {
		int result = -errno;

		*stays = true;
		close(fd);
		return result;
	}
	return fd;
}

int hm_os_reopen(int fd, int flags)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return hm_os_open(path, flags);
}

int hm_os_open_temporary(const char *directory, bool *stays)
{
	int fd = hm_os_open(directory, O_TMPFILE | O_EXCL | O_RDWR);

	*stays = false;
	return fd == -EOPNOTSUPP || fd == -EISDIR ? open_and_unlink(directory, stays) : fd;
}

int hm_os_open_shm(const char *name, bool *stays)
{
	int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	*stays = false;
	if (fd < 0)
		return -errno;
	if (shm_unlink(name)) {
		int result = -errno;

		*stays = true;
		close(fd);
		return result;
	}
	return fd;
}

int hm_os_unlink(const char *path)
{
	return or_errno(unlink(path));
}

int hm_os_duplicate(int fd)
{
	return or_errno(fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

int hm_os_is_sole_user(int fd)
{
	if (!fcntl(fd, F_SETLEASE, F_WRLCK)) {
		fcntl(fd, F_SETLEASE, F_UNLCK);
		return 1;
	}
	return errno == EAGAIN ? 0 : -errno;
}

int hm_os_random(void *buffer, size_t size)
{
	ssize_t got = getrandom(buffer, size, 0);

	if (got < 0)
		return -errno;
	return (size_t)got == size ? 0 : -EAGAIN;
}

/* O_RDONLY, O_WRONLY or O_RDWR. */
int hm_os_get_access(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	/* A descriptor of a mere path can do nothing, though it looks like one for reading. */
	return flags & O_PATH ? -EBADF : flags & O_ACCMODE;
}

bool hm_os_appends(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags >= 0 && flags & O_APPEND;
}

int hm_os_get_seals(int fd)
{
	return or_errno(fcntl(fd, F_GET_SEALS));
}

int hm_os_punch_hole(int fd, uint64_t offset, uint64_t length)
{
	int result;

	do
		result = or_errno(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					    (off_t)offset, (off_t)length));
	while (result == -EINTR);
	return result;
}

int hm_os_get_room(int fd, uint64_t *total, uint64_t *room)
{
	struct statfs file_system;
	uint64_t block, left;

	if (fstatfs(fd, &file_system))
		return -errno;
	/* What has no limit says 0 blocks, or -1. */
	if (!file_system.f_blocks || file_system.f_blocks > UINT64_MAX >> 12)
		return -ENODATA;
	/* Some blocks are kept for root, and the auxiliary vector needs no system call. */
	left = getauxval(AT_EUID) ? file_system.f_bavail : file_system.f_bfree;
	block = (uint64_t)(file_system.f_frsize ? file_system.f_frsize : file_system.f_bsize);
	*total = file_system.f_blocks * block;
	*room = left * block;
	return 0;
}

int hm_os_seek(int fd, uint64_t offset, int whence, uint64_t *found)
{
	off_t result = lseek(fd, (off_t)offset, whence);

	if (result < 0)
		return -errno;
	*found = (uint64_t)result;
	return 0;
}

int hm_os_allocate(int fd, uint64_t offset, uint64_t length)
{
	int result;

	do
		result = or_errno(fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length));
	while (result == -EINTR);
	return result;
}

int hm_os_read_at(int fd, void *buffer, size_t size, uint64_t offset)
{
	size_t length = 0;

	while (length < size) {
		ssize_t got =
			pread(fd, (char *)buffer + length, size - length, (off_t)(offset + length));

		if (got < 0 && errno != EINTR)
			return -errno;
		if (got == 0) {
			memset((char *)buffer + length, 0, size - length);
			break;
		}
		length += got > 0 ? (size_t)got : 0;
	}
	return 0;
}

int hm_os_add_seals(int fd, unsigned int seals)
{
	return or_errno(fcntl(fd, F_ADD_SEALS, seals));
}

int64_t hm_os_read_some(int fd, void *buffer, uint64_t length, uint64_t offset)
{
	ssize_t got;

	do
		got = pread(fd, buffer, length, (off_t)offset);
	while (got < 0 && errno == EINTR);
	return got < 0 ? -errno : got;
}

int64_t hm_os_write_some(int fd, const void *buffer, uint64_t length, uint64_t offset)
{
	ssize_t put;

	do
		put = pwrite(fd, buffer, length, (off_t)offset);
	while (put < 0 && errno == EINTR);
	return put < 0 ? -errno : put;
}

static int64_t seek(int fd, uint64_t offset, int whence)
{
	off_t found = lseek(fd, (off_t)offset, whence);

	return found < 0 ? -errno : found;
}

int64_t hm_os_find_data(int fd, uint64_t offset)
{
	return seek(fd, offset, SEEK_DATA);
}

int64_t hm_os_find_hole(int fd, uint64_t offset)
{
	return seek(fd, offset, SEEK_HOLE);
}

int hm_os_close_on_exec(int fd)
{
	return or_errno(fcntl(fd, F_SETFD, FD_CLOEXEC));
}

int hm_os_close(int fd)
{
	return or_errno(close(fd));
}

/* UINT64_MAX for no limit. */
int hm_os_get_limit(int resource, uint64_t *limit)
{
	struct rlimit now;

	/* prlimit(2) takes the resource as an int in every C library. */
	if (syscall(SYS_prlimit64, 0, resource, NULL, &now))
		return -errno;
	*limit = now.rlim_cur == RLIM_INFINITY ? UINT64_MAX : now.rlim_cur;
	return 0;
}

int hm_os_get_affinity(pid_t thread, struct hm_set *cpus)
{
	*cpus = (struct hm_set){ 0 };
	return or_errno(sched_getaffinity(thread, sizeof(*cpus), (cpu_set_t *)cpus));
}

/* Not left to the C library: musl's function refuses always. */
int hm_os_set_idle(void)
{
	const struct sched_param none = { 0 };

	return or_errno(syscall(SYS_sched_setscheduler, 0, SCHED_IDLE, &none));
}

int hm_os_set_affinity(pid_t thread, const struct hm_set *cpus)
{
	return or_errno(sched_setaffinity(thread, sizeof(*cpus), (const cpu_set_t *)cpus));
}

/* From Linux 6.18 on the second bit says that memory with MADV_HUGEPAGE is left out. */
bool hm_os_is_thp_disabled(void)
{
	return prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1;
}

int hm_os_cpu(void)
{
	return or_errno(sched_getcpu());
}

pid_t hm_os_thread(void)
{
	return (pid_t)syscall(SYS_gettid);
}

/* Of the calling thread; the kernel cuts it to 15 bytes. */
int hm_os_set_thread_name(const char *name)
{
	return or_errno(prctl(PR_SET_NAME, name));
}

static int read_all(int fd, char *buffer, size_t size)
{
	size_t length = 0;

	while (length < size - 1) {
		ssize_t got = read(fd, buffer + length, size - 1 - length);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		length += (size_t)got;
	}
	buffer[length] = '\0';
	return (int)length;
}

int hm_os_read_file(const char *path, char *buffer, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int result;

	if (fd < 0)
		return -errno;
	result = read_all(fd, buffer, size);
	close(fd);
	return result;
}

void hm_os_read_setting(const char *path, char *setting, size_t size)
{
	char text[256], *begin, *bracket;

	if (hm_os_read_file(path, text, sizeof(text)) <= 0)
		text[0] = '\0';
	bracket = strchr(text, '[');
	begin = bracket ? bracket + 1 : text;
	begin[strcspn(begin, "]\n")] = '\0';
	hm_text_copy(begin, setting, size);
}

int hm_os_read_lines(const char *path, bool (*read)(char *line, void *data), void *data)
{
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t size = 0;

	if (!file)
		return -errno;
	while (getline(&line, &size, file) >= 0 && read(line, data))
		continue;
	free(line);
	fclose(file);
	return 0;
}

int hm_os_event_open(void)
{
	return or_errno(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

void hm_os_event_clear(int event)
{
	eventfd_t count;

	eventfd_read(event, &count);
}

void hm_os_event_signal(int event)
{
	eventfd_write(event, 1);
}

uint64_t hm_os_page_size(void)
{
	return (uint64_t)sysconf(_SC_PAGESIZE);
}

uint64_t hm_os_nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

struct timespec hm_os_deadline(uint64_t nanoseconds)
{
	uint64_t end = hm_os_nanoseconds() + nanoseconds;

	return (struct timespec){ .tv_sec = (time_t)(end / 1000000000u),
				  .tv_nsec = (long)(end % 1000000000u) };
}

pid_t hm_os_process(void)
{
	return getpid();
}

bool hm_os_is_other_process(pid_t process)
{
	return process && process != getpid();
}

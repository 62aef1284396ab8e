/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Whether a whole configuration is possible on this host, whatever order it was set in. Makes and
 * changes nothing, so that a refusal leaves nothing to undo.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "memory.h"

/* The largest size whose reservation, with alignment and guards, is no wrapped number. */
#define SIZE_LIMIT ((uint64_t)PTRDIFF_MAX - (UINT64_C(1) << 31))

static int check_size(const struct hostmem_backend *backend, const struct hm_values *values,
		      struct hostmem_error *err)
{
	uint64_t page = backend->host->page_size;

	if (!values->size)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: size is required, for example size=1G", backend->label);
	if (values->size % page)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: size=%ju is not a multiple of the page size, %ju bytes",
			       backend->label, (uintmax_t)values->size, (uintmax_t)page);
	if (values->size > SIZE_LIMIT)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: size=%ju is more than an address space holds", backend->label,
			       (uintmax_t)values->size);
	return 0;
}

static int check_offset(const struct hostmem_backend *backend, const struct hm_values *values,
			struct hostmem_error *err)
{
	uint64_t page = backend->host->page_size;

	if (values->offset % page)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: offset=%ju is not a multiple of the page size, %ju bytes",
			       backend->label, (uintmax_t)values->offset, (uintmax_t)page);
	if (values->offset > SIZE_LIMIT - values->size)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: offset=%ju with size=%ju is more than a file holds",
			       backend->label, (uintmax_t)values->offset, (uintmax_t)values->size);
	return 0;
}

static int check_align(const struct hostmem_backend *backend, const struct hm_values *values,
		       struct hostmem_error *err)
{
	uint64_t page = backend->host->page_size;

	if (!values->align)
		return 0;
	if (values->align & (values->align - 1) || values->align < page)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: align=%ju: expected a power of two from the page size on, %ju "
			       "bytes; 0 chooses one",
			       backend->label, (uintmax_t)values->align, (uintmax_t)page);
	return 0;
}

bool hm_check_is_readonly(const struct hm_values *values)
{
	return values->rom == HM_ROM_ON || (values->rom == HM_ROM_AUTO && values->readonly);
}

static int check_rom(const struct hostmem_backend *backend, const struct hm_values *values,
		     struct hostmem_error *err)
{
	if (values->rom == HM_ROM_ON && !values->readonly)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: rom=on needs readonly=on; add it, or use rom=auto",
			       backend->label);
	if (values->rom == HM_ROM_OFF && values->readonly && values->share)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: rom=off with readonly=on needs share=off: memory that is read "
			       "only and shared cannot be written",
			       backend->label);
	return 0;
}

static const char *type_name(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return "a directory";
	case S_IFIFO:
		return "a FIFO";
	case S_IFSOCK:
		return "a socket";
	case S_IFCHR:
		return "a character device that has no memory of its own";
	default:
		return "of a type without contents";
	}
}

/*
 * Whether a character device is one of the kernel's that are no driver's memory, or that opening
 * disturbs, as a watchdog. By number, since /sys may be hidden (devices.txt of the kernel), and by
 * class, since others have no fixed number.
 */
static bool is_without_memory(const struct hostmem_host *host, dev_t device)
{
	static const struct {
		unsigned int first, last;
		/* -1: all. */
		int minor;
	} numbers[] = {
		{ 1, 1, -1 },     /* mem, null, zero, random */
		{ 2, 5, -1 },     /* terminals */
		{ 7, 7, -1 },     /* screens of virtual consoles */
		{ 10, 10, 130 },  /* watchdog */
		{ 10, 10, 183 },  /* hwrng */
		{ 128, 143, -1 }, /* pseudo terminals */
	};
	static const char *const classes[] = { "tty", "watchdog" };

	for (size_t i = 0; i < HM_ARRAY_LEN(numbers); i++) {
		if (major(device) >= numbers[i].first && major(device) <= numbers[i].last &&
		    (numbers[i].minor < 0 || minor(device) == (unsigned int)numbers[i].minor))
			return true;
	}
	for (size_t i = 0; i < HM_ARRAY_LEN(classes); i++) {
		if (hm_mounts_is_of_class(host, device, classes[i]))
			return true;
	}
	return false;
}

int hm_check_file_type(const struct hostmem_backend *backend, const char *property,
		       const char *path, const struct hm_file *file, struct hostmem_error *err)
{
	/* Whether a device has memory that can be mapped is only known when it is mapped. */
	if (S_ISREG(file->mode) || S_ISBLK(file->mode) ||
	    (S_ISCHR(file->mode) && !is_without_memory(backend->host, file->special)))
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: %s%s%.512s is %s; use a regular file, a block device, a DAX device or "
		       "another character device whose driver provides memory",
		       backend->label, property, *path ? "=" : "", path, type_name(file->mode));
}

/* Growing a file past the limit does not fail: it kills the process (SIGXFSZ, setrlimit(2)). */
int hm_check_file_limit(const struct hostmem_backend *backend, uint64_t size,
			struct hostmem_error *err)
{
	uint64_t limit;

	if (hm_call_get_limit(backend->host, RLIMIT_FSIZE, &limit) || size <= limit)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: size: a file of %ju bytes is above RLIMIT_FSIZE, %ju bytes: raise it "
		       "(ulimit -f), or use a smaller size",
		       backend->label, (uintmax_t)size, (uintmax_t)limit);
}

/* The kernel's overcommit mode now, else when the host was probed; -1: unknown. */
static int get_overcommit_mode(const struct hostmem_backend *backend)
{
	char text[16];

	hm_os_read_setting("/proc/sys/vm/overcommit_memory", text, sizeof(text));
	return *text ? atoi(text) : backend->host->info.overcommit;
}

static int check_reserve(const struct hostmem_backend *backend, const struct hm_values *values,
			 struct hostmem_error *err)
{
	if (values->reserve != HM_RESERVE_OFF || !values->prealloc)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: reserve=off and prealloc=on exclude each other: use reserve=on, "
		       "reserve=try or prealloc=off",
		       backend->label);
}

bool hm_check_reserves(const struct hm_values *values, bool huge)
{
	if (values->reserve == HM_RESERVE_TRY)
		return huge && values->prealloc;
	return values->reserve == HM_RESERVE_ON;
}

int hm_check_reserve(const struct hostmem_backend *backend, const struct hm_values *values,
		     uint64_t page_size, struct hostmem_error *err)
{
	/* The kernel accounts as a whole for private memory that can be written only. */
	if (values->reserve != HM_RESERVE_OFF || values->share || hm_check_is_readonly(values) ||
	    page_size > backend->host->page_size)
		return 0;
	if (get_overcommit_mode(backend) != 2)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, 0,
		       "%s: reserve=off has no effect on private memory while "
		       "/proc/sys/vm/overcommit_memory is 2: set it to 0 or 1, or use reserve=on "
		       "or reserve=try",
		       backend->label);
}

/* The number after a name in /proc/self/status; 0 when there is none. */
static uint64_t read_status(const char *status, const char *name, int base)
{
	const char *value = hm_text_find_line(status, name);

	return value ? strtoull(value, NULL, base) : 0;
}

int hm_check_lock(const struct hostmem_backend *backend, const struct hm_values *values,
		  struct hostmem_error *err)
{
	static const uint64_t cap_ipc_lock = UINT64_C(1) << 14;
	uint64_t size = values->size, limit, locked;
	char status[65536];

	/* Huge pages of the pool are never swapped, so neither locked nor counted. */
	if (values->hugetlb || hm_backend_is_hugetlb(backend))
		return 0;
	if (hm_call_get_limit(backend->host, RLIMIT_MEMLOCK, &limit) ||
	    hm_os_read_file("/proc/self/status", status, sizeof(status)) <= 0 ||
	    read_status(status, "CapEff:", 16) & cap_ipc_lock)
		return 0;
	locked = read_status(status, "VmLck:", 10) * 1024;
	if (locked <= limit && size <= limit - locked)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: lock=on: %ju bytes do not fit RLIMIT_MEMLOCK, %ju bytes, of which %ju "
		       "are locked: raise it (ulimit -l), or use lock=off",
		       backend->label, (uintmax_t)size, (uintmax_t)limit, (uintmax_t)locked);
}

static int check_context(const struct hostmem_backend *backend, const struct hm_values *values,
			 struct hostmem_error *err)
{
	struct hostmem_thread_context *context = hm_objects_get_link(backend);
	int result = 0;

	if (context && values->prealloc)
		result = hm_thread_context_check_ready(context, backend->label, err);
	hm_thread_context_unlink(context);
	return result;
}

/* The kind's own rules come after all that need no look at the world. */
static int check_kind(const struct hostmem_backend *backend, struct hostmem_error *err)
{
	const struct hostmem_kind *kind = backend->kind;

	return kind->check ? kind->check(kind->data, backend, err) : 0;
}

int hm_check_all(const struct hostmem_backend *backend, const struct hm_values *values,
		 struct hostmem_error *err)
{
	if (check_size(backend, values, err) || check_offset(backend, values, err) ||
	    check_align(backend, values, err) || check_rom(backend, values, err) ||
	    check_reserve(backend, values, err) || check_context(backend, values, err) ||
	    hm_policy_check(backend, values, err) || check_kind(backend, err))
		return -1;
	/* Whether these are huge pages is known once they are open. */
	if (*values->mem_path || values->fd != HM_FD_NONE)
		return 0;
	return values->lock ? hm_check_lock(backend, values, err) : 0;
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Whether a whole configuration is possible on this host, whatever order it was set in. Makes and
 * changes nothing, so that a refusal leaves nothing to undo.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "internal.h"

/* The largest size whose reservation, with alignment and guards, is no wrapped number. */
#define SIZE_LIMIT ((uint64_t)PTRDIFF_MAX - (UINT64_C(1) << 31))

static int check_size(const struct hostmem_backend *backend, const struct hm_values *values,
		      struct hostmem_error *err)
{
	uint64_t page = backend->host->page_size;

	if (!values->size)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: size is required, for example size=1G", backend->id);
	if (values->size % page)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: size=%ju is not a multiple of the page size, %ju bytes",
			       backend->id, (uintmax_t)values->size, (uintmax_t)page);
	if (values->size > SIZE_LIMIT)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: size=%ju is more than an address space holds", backend->id,
			       (uintmax_t)values->size);
	return 0;
}

/* Growing a file past the limit does not fail: it kills the process (SIGXFSZ, setrlimit(2)). */
static int check_file_limit(const struct hostmem_backend *backend, const struct hm_values *values,
			    struct hostmem_error *err)
{
	uint64_t limit;

	if (!values->share || hm_os_get_limit(RLIMIT_FSIZE, &limit) || values->size <= limit)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: size=%ju with share=on is above RLIMIT_FSIZE, %ju bytes: raise it "
		       "(ulimit -f), or use share=off",
		       backend->id, (uintmax_t)values->size, (uintmax_t)limit);
}

/* What the kernel's overcommit mode leaves of NORESERVE; -1 when it cannot be read. */
static int read_overcommit_mode(void)
{
	char text[16];

	if (hm_os_read_file("/proc/sys/vm/overcommit_memory", text, sizeof(text)) <= 0)
		return -1;
	return atoi(text);
}

static int check_reserve(const struct hostmem_backend *backend, const struct hm_values *values,
			 struct hostmem_error *err)
{
	int mode;

	if (values->reserve)
		return 0;
	if (values->prealloc)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: reserve=off and prealloc=on exclude each other: use reserve=on "
			       "or prealloc=off",
			       backend->id);
	/* Shared memory behind a descriptor is not accounted for as a whole in any mode. */
	if (values->share)
		return 0;
	mode = read_overcommit_mode();
	if (mode == 0 || mode == 1)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, 0,
		       "%s: reserve=off has no effect on private memory while "
		       "/proc/sys/vm/overcommit_memory is %s: set it to 0 or 1, or use reserve=on",
		       backend->id, mode < 0 ? "unreadable" : "2");
}

/* The number after a name in /proc/self/status; 0 when there is none. */
static uint64_t read_status(const char *status, const char *name, int base)
{
	const char *found = strstr(status, name);

	return found ? strtoull(found + strlen(name), NULL, base) : 0;
}

int hm_check_lock(const struct hostmem_backend *backend, uint64_t size, struct hostmem_error *err)
{
	static const uint64_t cap_ipc_lock = UINT64_C(1) << 14;
	uint64_t limit, locked;
	char status[16384];

	if (hm_os_get_limit(RLIMIT_MEMLOCK, &limit) || limit == UINT64_MAX ||
	    hm_os_read_file("/proc/self/status", status, sizeof(status)) <= 0 ||
	    read_status(status, "\nCapEff:", 16) & cap_ipc_lock)
		return 0;
	locked = read_status(status, "\nVmLck:", 10) * 1024;
	if (locked <= limit && size <= limit - locked)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: lock=on: %ju bytes do not fit RLIMIT_MEMLOCK, %ju bytes, of which %ju "
		       "are locked: raise it (ulimit -l), or use lock=off",
		       backend->id, (uintmax_t)size, (uintmax_t)limit, (uintmax_t)locked);
}

static int check_prealloc(const struct hostmem_backend *backend, const struct hm_values *values,
			  struct hostmem_error *err)
{
	if (values->prealloc && values->prealloc_mode == HM_PREALLOC_BACKGROUND)
		return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, 0,
			       "%s: prealloc-mode=background: this version preallocates in the "
			       "foreground only; use prealloc-mode=wait",
			       backend->id);
	return 0;
}

int hm_check_all(const struct hostmem_backend *backend, const struct hm_values *values,
		 struct hostmem_error *err)
{
	if (check_size(backend, values, err) || check_reserve(backend, values, err) ||
	    check_prealloc(backend, values, err) || check_file_limit(backend, values, err) ||
	    hm_policy_check(backend, values, err))
		return -1;
	return values->lock ? hm_check_lock(backend, values->size, err) : 0;
}

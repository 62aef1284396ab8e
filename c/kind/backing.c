/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The backing of a backend: asks the kind for it, checks the answer, seals it, and undoes it. A
 * kind may be an embedder's, so nothing of its answer is taken for granted.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "kind.h"

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
		       backend->label, (uintmax_t)values->size, (uintmax_t)backend->backing.offset,
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
			       backend->label, (uintmax_t)values->size, (uintmax_t)page);
	if (values->align % page)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: align=%ju is not a multiple of the backing's page size, %ju "
			       "bytes",
			       backend->label, (uintmax_t)values->align, (uintmax_t)page);
	if (backend->backing.offset % page)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: offset %ju is not a multiple of the backing's page size, %ju "
			       "bytes",
			       backend->label, (uintmax_t)backend->backing.offset, (uintmax_t)page);
	return 0;
}

static int fail_access(const struct hostmem_backend *backend, int result, struct hostmem_error *err)
{
	return hm_fail(err, HOSTMEM_ERROR_VALUE, -result,
		       "%s: its backing is no open descriptor: %s", backend->label,
		       strerror(-result));
}

static int check_access(const struct hostmem_backend *backend, const struct hm_values *values,
			struct hostmem_error *err)
{
	int access = hm_os_get_access(backend->backing.fd);

	if (access == O_RDWR || (access == O_RDONLY && (!values->share || backend->readonly)))
		return 0;
	if (access < 0)
		return fail_access(backend, access, err);
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: share=on needs a backing that is open for reading and writing, this "
		       "one is %s",
		       backend->label, access == O_RDONLY ? "read-only" : "write-only");
}

/* A kind may be the embedder's, so what it answered is looked at before it is used. */
static int check_backing(struct hostmem_backend *backend, const struct hm_values *values,
			 struct hostmem_error *err)
{
	struct hm_file file;
	int result;

	if (backend->backing.fd < 0) {
		if (backend->backing.huge_page)
			backend->page_size = backend->backing.huge_page;
		if (!values->share)
			return check_pages(backend, values, err) ||
					       hm_check_reserve(backend, values, backend->page_size,
								err)
				       ? -1
				       : 0;
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: share=on needs a backing with a descriptor, this kind gave "
			       "anonymous memory; use share=off",
			       backend->label);
	}
	if (check_access(backend, values, err))
		return -1;
	result = hm_os_stat(backend->backing.fd, &file);
	if (result)
		return hm_fail(err, HOSTMEM_ERROR_IO, -result, "%s: cannot look at its backing: %s",
			       backend->label, strerror(-result));
	backend->page_size = file.page_size;
	if (check_pages(backend, values, err) || check_file_size(backend, values, file.size, err) ||
	    hm_check_reserve(backend, values, file.page_size, err))
		return -1;
	return values->lock ? hm_check_lock(backend, values, err) : 0;
}

int hm_backing_make(struct hostmem_backend *backend, const struct hm_values *values,
		    struct hostmem_error *err)
{
	struct hostmem_backing backing = { .fd = -1 };

	backend->readonly = hm_check_is_readonly(values);
	backend->shared = values->share;
	if (backend->kind->allocate(backend->kind->data, backend, &backing, err))
		return -1;
	backend->backing = backing;
	backend->allocated = true;
	if (backing.fd >= 0 && hm_os_close_on_exec(backing.fd) == -EBADF) {
		/* The number may be another thread's by the time it would be closed. */
		backend->backing.fd = -1;
		return fail_access(backend, -EBADF, err);
	}
	return check_backing(backend, values, err);
}

int hm_backing_seal(const struct hostmem_backend *backend, struct hostmem_error *err)
{
	int result;

	if (backend->backing.fd < 0 || !backend->backing.seals)
		return 0;
	result = hm_os_add_seals(backend->backing.fd, backend->backing.seals);
	return result ? hm_fail(err, hm_error_kind_of(-result), -result,
				"%s: cannot seal its backing: %s", backend->label,
				strerror(-result))
		      : 0;
}

/* The contents are others' too only where they are shared and could be written. */
void hm_backing_discard_data(const struct hostmem_backend *backend)
{
	if (backend->values.discard_data && backend->backing.fd >= 0 && backend->shared &&
	    !backend->readonly)
		hm_os_punch_hole(backend->backing.fd, backend->backing.offset,
				 backend->mapping.size);
}

void hm_backing_undo(struct hostmem_backend *backend, bool failed, struct hostmem_error *err)
{
	if (failed && backend->allocated && backend->kind->undo)
		backend->kind->undo(backend->kind->data, backend, &backend->backing, err);
	if (backend->backing.fd >= 0)
		hm_os_close(backend->backing.fd);
	backend->backing = (struct hostmem_backing){ .fd = -1 };
	backend->allocated = false;
	backend->page_size = backend->host->page_size;
}

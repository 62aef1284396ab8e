/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The image that memory begins with: whether it can be used, opening it, and reading a range of it
 * into memory that is present and zero. Does not know threads.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "fill.h"

/* ---- Checking ---- */

static int fail(const struct hostmem_backend *backend, const struct hm_values *values,
		const char *what, int result, struct hostmem_error *err)
{
	return hm_fail(err, hm_error_kind_of(-result), -result,
		       "%s: contents=%.512s: cannot %s: %s", backend->label, values->contents, what,
		       strerror(-result));
}

int hm_contents_fail_faults(const struct hostmem_backend *backend, int os_error,
			    struct hostmem_error *err)
{
	return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, os_error,
		       "%s: contents: reading on demand needs a userfaultfd for faults of the "
		       "kernel (userfaultfd-kvm): %s; give " HM_FEATURE_USERFAULTFD_KVM_HINT
		       ", or use prealloc=on with prealloc-mode=wait",
		       backend->label, strerror(os_error));
}

static int check_type(const struct hostmem_backend *backend, const struct hm_values *values,
		      const struct hm_file *file, struct hostmem_error *err)
{
	if (!S_ISCHR(file->mode))
		return hm_check_file_type(backend, "contents", values->contents, file, err);
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: contents=%.512s is a character device; use a regular file or a block "
		       "device",
		       backend->label, values->contents);
}

/* A shorter image is fine: the rest of the memory is zero. */
static int check_length(const struct hostmem_backend *backend, const struct hm_values *values,
			const struct hm_file *file, struct hostmem_error *err)
{
	uint64_t offset = values->contents_offset;

	if (offset > file->size)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: contents-offset=%ju is beyond the end of contents=%.512s, "
			       "which has %ju bytes",
			       backend->label, (uintmax_t)offset, values->contents,
			       (uintmax_t)file->size);
	if (file->size - offset <= values->size)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: contents=%.512s has %ju bytes from contents-offset=%ju on, more than "
		       "size=%ju; use the size of the memory that was saved",
		       backend->label, values->contents, (uintmax_t)(file->size - offset),
		       (uintmax_t)offset, (uintmax_t)values->size);
}

static int check_values(const struct hostmem_backend *backend, const struct hm_values *values,
			struct hostmem_error *err)
{
	uint64_t page = backend->host->page_size;
	int faults = backend->host->feature_error[HM_FEATURE_USERFAULTFD_KVM];

	if (!*values->contents && values->contents_offset)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: contents-offset=%ju needs contents, the image that it is in",
			       backend->label, (uintmax_t)values->contents_offset);
	if (!*values->contents && values->contents_poison)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: contents-poison=on needs contents, the image that is read",
			       backend->label);
	if (!*values->contents && *values->contents_order)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: contents-order=%.512s needs contents, the image that is read",
			       backend->label, values->contents_order);
	if (values->contents_offset % page)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: contents-offset=%ju is not a multiple of the page size, %ju "
			       "bytes",
			       backend->label, (uintmax_t)values->contents_offset, (uintmax_t)page);
	if (hm_contents_is_lazy(values) && faults)
		return hm_contents_fail_faults(backend, faults, err);
	/* Others who open the file would find zero where contents are unread. */
	if (!hm_contents_is_lazy(values) || strcmp(backend->kind->name, "memory-backend-file"))
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, 0,
		       "%s: contents of a file cannot be read on demand or in the background, "
		       "since another process that opens it would read zero: use prealloc=on "
		       "with prealloc-mode=wait, or memory-backend-memfd",
		       backend->label);
}

bool hm_contents_is_lazy(const struct hm_values *values)
{
	return *values->contents &&
	       !(values->prealloc && values->prealloc_mode == HM_PREALLOC_WAIT);
}

int hm_contents_check(const struct hostmem_backend *backend, const struct hm_values *values,
		      struct hostmem_error *err)
{
	struct hm_file file;
	int fd, result;

	if (check_values(backend, values, err))
		return -1;
	if (!*values->contents)
		return 0;
	/* Without opening it for use, which waits for a FIFO and starts a device. */
	fd = hm_os_open(values->contents, O_PATH);
	if (fd < 0)
		return fail(backend, values, "find it", fd, err);
	result = hm_os_stat(fd, &file);
	hm_os_close(fd);
	if (result)
		return fail(backend, values, "look at it", result, err);
	if (check_type(backend, values, &file, err))
		return -1;
	/* The size of a block device is only known once it is open. */
	return S_ISBLK(file.mode) ? 0 : check_length(backend, values, &file, err);
}

/* ---- Opening ---- */

/* What others have in a file is not overwritten. */
static int check_backing(const struct hostmem_backend *backend, struct hostmem_error *err)
{
	const struct hostmem_backing *backing = &backend->backing;

	if (backing->fd < 0 || backing->flags & HOSTMEM_BACKING_OWN || backing->made)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: contents would overwrite the file of the memory, which is not empty; "
		       "use a new or an empty file, or a directory",
		       backend->label);
}

/* So many parts of an image are looked at, however long it is, and so much of each. */
#define PARTS     64
#define PART_SIZE UINT64_C(1048576)
/* What has been read of an image that was only looked into, as its first page with readahead. */
#define MOST_CACHED UINT64_C(131072)

/* What the kernel does not tell counts as cached. */
static bool is_cached(const struct hm_contents *contents, const struct hostmem_host *host)
{
	uint64_t step = contents->length / PARTS, cached = 0, part;

	if (step < PART_SIZE)
		step = PART_SIZE;
	for (uint64_t offset = 0; offset < contents->length; offset += step) {
		if (hm_call_count_cached(host, contents->fd, contents->offset + offset, PART_SIZE,
					 &part))
			return true;
		cached += part;
		if (cached > MOST_CACHED)
			return true;
	}
	return false;
}

/* Reading it would fill the page cache with the image, and push out of it what others use. */
static void open_direct(struct hm_contents *contents, const struct hm_file *file,
			const struct hostmem_host *host)
{
	if (file->shmem || file->overlay || contents->length < PART_SIZE ||
	    is_cached(contents, host))
		return;
	contents->direct_fd =
		hm_os_reopen(contents->fd, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_DIRECT);
}

int hm_contents_open(struct hm_contents *contents, const struct hostmem_backend *backend,
		     const struct hm_values *values, struct hostmem_error *err)
{
	struct hm_file file;
	int result;

	*contents = (struct hm_contents){ .fd = -1, .direct_fd = -1 };
	if (!*values->contents)
		return 0;
	if (check_backing(backend, err))
		return -1;
	contents->fd = hm_os_open(values->contents, O_RDONLY | O_NONBLOCK | O_NOCTTY);
	if (contents->fd < 0)
		return fail(backend, values, "open it", contents->fd, err);
	result = hm_os_stat(contents->fd, &file);
	if (result)
		fail(backend, values, "look at it", result, err);
	/* It may be another file by now. */
	if (result || check_type(backend, values, &file, err) ||
	    check_length(backend, values, &file, err) ||
	    hm_order_read(&contents->order, backend, values, err)) {
		hm_contents_close(contents);
		return -1;
	}
	contents->offset = values->contents_offset;
	contents->length = file.size - contents->offset;
	contents->dense = !hm_call_is_allowed(backend->host, HOSTMEM_CALL_LSEEK);
	open_direct(contents, &file, backend->host);
	return 0;
}

void hm_contents_close(struct hm_contents *contents)
{
	if (contents->fd >= 0)
		hm_os_close(contents->fd);
	if (contents->direct_fd >= 0)
		hm_os_close(contents->direct_fd);
	contents->fd = contents->direct_fd = -1;
	hm_order_free(&contents->order);
}

/* ---- Reading ---- */

/* Shorter reads are faster through the page cache, which reads ahead. */
#define LEAST_DIRECT UINT64_C(262144)

/*
 * Whole pages are aligned enough for nearly all devices. What cannot be read directly is read
 * through the page cache, and the error is that of this read.
 */
static int64_t read_some(const struct hm_contents *contents, uint8_t *address, uint64_t length,
			 uint64_t offset)
{
	uint64_t page = hm_os_page_size(), whole = length - length % page;
	int64_t got = 0;

	if (contents->direct_fd >= 0 && whole >= LEAST_DIRECT && !((uintptr_t)address % page) &&
	    !(offset % page))
		got = hm_os_read_some(contents->direct_fd, address, whole, offset);
	return got > 0 ? got : hm_os_read_some(contents->fd, address, length, offset);
}

/* Fewer bytes than asked for are there only where the image became shorter. */
static int read_all(const struct hm_contents *contents, uint8_t *address,
		    const struct hm_range *image, struct hm_range *unread)
{
	*unread = *image;
	while (unread->length) {
		int64_t got = read_some(contents, address + (unread->offset - image->offset),
					unread->length, unread->offset);

		if (got <= 0)
			return got ? (int)got : -ENODATA;
		unread->offset += (uint64_t)got;
		unread->length -= (uint64_t)got;
	}
	return 0;
}

/*
 * The next range of the image with data, from image->offset on; length 0 when there is none. Where
 * the file system does not know holes, all is data.
 */
static int find_data(const struct hm_contents *contents, const struct hm_range *image,
		     struct hm_range *data)
{
	uint64_t end = image->offset + image->length;
	int fd = contents->fd;
	struct hm_file file;
	int64_t first, last;

	*data = *image;
	if (contents->dense)
		return 0;
	first = hm_os_find_data(fd, image->offset);
	if (first == -ENXIO) {
		/* No data is right up to the end of the image, if that is where it was. */
		data->length = 0;
		return hm_os_stat(fd, &file) || file.size < end ? -ENODATA : 0;
	}
	if (first < 0)
		return 0;
	data->offset = (uint64_t)first < end ? (uint64_t)first : end;
	last = hm_os_find_hole(fd, data->offset);
	data->length = (last < 0 || (uint64_t)last > end ? end : (uint64_t)last) - data->offset;
	return 0;
}

int hm_contents_read(const struct hm_contents *contents, uint8_t *address,
		     const struct hm_range *range, struct hm_range *unread)
{
	struct hm_range rest = { .offset = contents->offset + range->offset }, data;
	uint64_t begin = rest.offset, end;
	int result;

	unread->length = 0;
	if (range->offset >= contents->length)
		return 0;
	rest.length = contents->length - range->offset;
	if (rest.length > range->length)
		rest.length = range->length;
	end = begin + rest.length;
	while (rest.length) {
		result = find_data(contents, &rest, &data);
		*unread = rest;
		if (!result && !data.length)
			break;
		if (!result)
			result = read_all(contents, address + (data.offset - begin), &data, unread);
		if (result)
			return result;
		rest.offset = data.offset + data.length;
		rest.length = end - rest.offset;
	}
	unread->length = 0;
	return 0;
}

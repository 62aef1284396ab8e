/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Saving ready memory to a file: whether the file is one to write to, room and holes in it. Writing
 * is fill/save.c's.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "life.h"

/* ---- The file ---- */

static int check_access(const struct hostmem_backend *backend, int fd, struct hostmem_error *err)
{
	int access = hm_os_get_access(fd);

	if (access < 0)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, -access,
			       "%s: save: the file is no open descriptor: %s", backend->label,
			       strerror(-access));
	if (access == O_RDONLY)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, EBADF,
			       "%s: save: the file is open for reading only; open it for writing",
			       backend->label);
	if (hm_os_appends(fd))
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: save: the file is open for appending (O_APPEND), where an "
			       "offset has no effect; open it without",
			       backend->label);
	return 0;
}

/* Making holes in the memory's own file would destroy what is to be saved. */
static bool is_own_file(const struct hostmem_backend *backend, const struct hm_file *file)
{
	struct hm_file own;

	return backend->backing.fd >= 0 && !hm_os_stat(backend->backing.fd, &own) &&
	       own.device == file->device && own.inode == file->inode;
}

/* Writing past the limit does not fail: it kills the process (SIGXFSZ, setrlimit(2)). */
static int check_limit(const struct hostmem_backend *backend, uint64_t end,
		       struct hostmem_error *err)
{
	uint64_t limit;

	if (hm_call_get_limit(backend->host, RLIMIT_FSIZE, &limit) || end <= limit)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, EFBIG,
		       "%s: save: a file of %ju bytes is above RLIMIT_FSIZE, %ju bytes: raise it "
		       "(ulimit -f)",
		       backend->label, (uintmax_t)end, (uintmax_t)limit);
}

static int check_file(const struct hostmem_backend *backend, int fd, uint64_t offset,
		      struct hm_file *file, struct hostmem_error *err)
{
	uint64_t page = backend->host->page_size, end;
	int result;

	if (offset % page || __builtin_add_overflow(offset, backend->mapping.size, &end) ||
	    end > INT64_MAX)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: save: offset %ju is not a multiple of the page size, %ju "
			       "bytes, or more than a file holds",
			       backend->label, (uintmax_t)offset, (uintmax_t)page);
	if (check_access(backend, fd, err))
		return -1;
	result = hm_os_stat(fd, file);
	if (result)
		return hm_fail(err, HOSTMEM_ERROR_IO, -result,
			       "%s: save: cannot look at the file: %s", backend->label,
			       strerror(-result));
	if (!S_ISREG(file->mode) && !S_ISBLK(file->mode))
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: save: the file is neither a regular file nor a block device",
			       backend->label);
	if (is_own_file(backend, file))
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: save: the file is that of the memory itself; use another one",
			       backend->label);
	if (S_ISBLK(file->mode))
		return end <= file->size
			       ? 0
			       : hm_fail(err, HOSTMEM_ERROR_VALUE, ENOSPC,
					 "%s: save: the device has %ju bytes, and %ju are needed",
					 backend->label, (uintmax_t)file->size, (uintmax_t)end);
	return check_limit(backend, end, err);
}

/*
 * Makes the range of the file one hole, and the file long enough for it. *dense: there is something
 * in it that cannot be made a hole.
 */
static int clear_file(const struct hm_save_request *request, const struct hm_file *file,
		      bool *dense)
{
	uint64_t size = request->backend->mapping.size, end = request->offset + size;

	*dense = file->size > request->offset &&
		 hm_os_punch_hole(request->fd, request->offset, size);
	return file->size < end ? hm_os_set_size(request->fd, end) : 0;
}

/* ---- Saving ---- */

/* What has to be written is counted only where all of the memory would not fit. */
static int check_room(const struct hm_save_request *request, struct hostmem_error *err)
{
	struct hm_save_request counting = *request;
	uint64_t total, room, needed;

	if (hm_os_get_room(request->fd, &total, &room) || room >= request->backend->mapping.size)
		return 0;
	counting.count_only = true;
	if (hm_save_run(&counting, &needed, err))
		return -1;
	if (needed <= room)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_NO_MEMORY, ENOSPC,
		       "%s: save: %ju bytes have to be written and the file system has room for "
		       "%ju: %ju bytes are missing",
		       request->backend->label, (uintmax_t)needed, (uintmax_t)room,
		       (uintmax_t)(needed - room));
}

static int save(struct hm_save_request *request, uint64_t *written, struct hostmem_error *err)
{
	const struct hostmem_backend *backend = request->backend;
	struct hm_file file;
	int result;

	if (check_file(backend, request->fd, request->offset, &file, err))
		return -1;
	result = clear_file(request, &file, &request->dense);
	if (result)
		return hm_fail(err, hm_error_kind_of(-result), -result,
			       "%s: save: cannot give the file its size: %s", backend->label,
			       strerror(-result));
	if ((!S_ISREG(file.mode) || !check_room(request, err)) &&
	    !hm_save_run(request, written, err))
		return 0;
	hm_error_append(err, "; the image is incomplete");
	return -1;
}

int hostmem_backend_save(struct hostmem_backend *backend, struct hostmem_save_result *saved,
			 int32_t fd, uint64_t offset, struct hostmem_error *err)
{
	struct hm_save_request request = { .backend = backend, .fd = fd, .offset = offset };
	uint64_t start = hm_os_nanoseconds(), written = 0, size;
	struct hm_values values;
	int failed;

	if (hm_backend_check_process(backend, "save", err))
		return -1;
	pthread_mutex_lock(&backend->change);
	failed = hm_backend_check_usable(backend, err) || hm_running_begin(backend, "save", err);
	if (!failed)
		hm_gaps_clear(&backend->gaps);
	pthread_mutex_unlock(&backend->change);
	if (failed)
		return -1;
	hm_backend_snapshot(backend, &values);
	pthread_mutex_lock(&backend->lock);
	request.progress = backend->progress;
	request.progress_data = backend->progress_data;
	pthread_mutex_unlock(&backend->lock);
	request.threads = values.prealloc_threads ? values.prealloc_threads
						  : hm_topology_count_cpus(backend->host);
	failed = save(&request, &written, err);
	/* From here on the backend may be deleted. */
	size = backend->mapping.size;
	hm_running_end(backend, NULL);
	if (!failed)
		*saved = (struct hostmem_save_result){
			.written = written,
			.holes = size - written,
			.nanoseconds = hm_os_nanoseconds() - start,
		};
	return failed;
}

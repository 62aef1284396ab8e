/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * memory-backend-file: a file by its path: made, grown when it is empty, otherwise as it is.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "kind.h"

/* What completing has made, for undo. */
enum made {
	MADE_FILE = 1,
	MADE_SIZE = 2,
};

/* Races between looking at a path and making the file that are not worth an error. */
#define MOST_TRIES 8

static int fail(const struct hostmem_backend *backend, const struct hm_values *values,
		const char *what, int result, struct hostmem_error *err)
{
	return hm_fail(err, hm_error_kind_of(-result), -result,
		       "%s: mem-path=%.512s: cannot %s: %s", backend->label, values->mem_path, what,
		       strerror(-result));
}

/* ---- Checking ---- */

/* Looks at what the path leads to without opening it for use. */
static int look(const char *path, struct hm_file *file)
{
	int fd = hm_os_open(path, O_PATH);
	int result;

	if (fd < 0)
		return fd;
	result = hm_os_stat(fd, file);
	hm_os_close(fd);
	return result;
}

/* The same of the directory that the path is in. */
static int look_at_parent(const char *path, struct hm_file *file)
{
	char parent[PATH_MAX];
	char *slash;

	hm_text_copy(path, parent, sizeof(parent));
	slash = strrchr(parent, '/');
	if (!slash)
		hm_text_copy(".", parent, sizeof(parent));
	else
		slash[slash == parent] = '\0';
	return look(parent, file);
}

static int check_new(const struct hostmem_backend *backend, const struct hm_values *values,
		     const struct hm_file *where, struct hostmem_error *err)
{
	if (values->readonly)
		return hm_fail(
			err, HOSTMEM_ERROR_VALUE, 0,
			"%s: mem-path=%.512s: readonly=on needs a file that is there; nothing "
			"can be made for reading only",
			backend->label, values->mem_path);
	if (hm_check_file_limit(backend, values->offset + values->size, err))
		return -1;
	if (where->page_size > backend->host->page_size)
		return hm_huge_pages_check(backend, where->page_size, values, err);
	return 0;
}

static int check_hugetlbfs(const struct hostmem_backend *backend, const struct hm_values *values,
			   const struct hm_file *file, struct hostmem_error *err)
{
	if (!values->hugetlbfs || file->page_size > backend->host->page_size)
		return 0;
	return hm_fail(
		err, HOSTMEM_ERROR_VALUE, 0,
		"%s: hugetlbfs=on: mem-path=%.512s is not on a hugetlbfs; mount one (mount -t "
		"hugetlbfs), or use hugetlbfs=off",
		backend->label, values->mem_path);
}

/* A file is made by its name, never where a link leads to that is not there. */
static int fail_dangling(const struct hostmem_backend *backend, const struct hm_values *values,
			 const char *target, struct hostmem_error *err)
{
	return hm_fail(err, values->readonly ? HOSTMEM_ERROR_VALUE : HOSTMEM_ERROR_IO, ENOENT,
		       "%s: mem-path=%.512s is a symbolic link to %.512s, which does not exist; "
		       "make that file, or give its path",
		       backend->label, values->mem_path, target);
}

static int check_path(const struct hostmem_backend *backend, const struct hm_values *values,
		      struct hostmem_error *err)
{
	struct hm_file file;
	int result = look(values->mem_path, &file);
	bool missing = result == -ENOENT;
	char target[PATH_MAX];

	if (missing &&
	    hm_call_read_link(backend->host, values->mem_path, target, sizeof(target)) >= 0)
		return fail_dangling(backend, values, target, err);
	if (missing)
		result = look_at_parent(values->mem_path, &file);
	if (result)
		return fail(backend, values, "look at it", result, err);
	if (check_hugetlbfs(backend, values, &file, err))
		return -1;
	/* Of what kind a file is, is looked at when it is opened. */
	if (missing || S_ISDIR(file.mode) || (!file.size && !values->readonly))
		return check_new(backend, values, &file, err);
	return 0;
}

static int check(void *data, const struct hostmem_backend *backend, struct hostmem_error *err)
{
	struct hm_values values;

	(void)data;
	hm_backend_snapshot(backend, &values);
	if (!*values.mem_path)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: mem-path is required, a file or a directory", backend->label);
	if (values.pmem && !values.share)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: pmem=on needs share=on: what is written to a private mapping "
			       "never reaches the file",
			       backend->label);
	return check_path(backend, &values, err);
}

/* ---- Making ---- */

static bool is_same_file(const struct hm_file *one, const struct hm_file *other)
{
	return one->inode == other->inode && one->device == other->device;
}

/*
 * Opens what was looked at and nothing else, neither waiting for it nor becoming its terminal. By
 * its path, since a jail may have no /proc. -ESTALE when it is another file by now: the path was
 * given another one, or overlayfs copied the file to open it for writing.
 */
static int reopen(const struct hm_values *values, const struct hm_file *looked_at)
{
	int flags = (values->readonly ? O_RDONLY : O_RDWR) | O_NONBLOCK | O_NOCTTY;
	int fd = hm_os_open(values->mem_path, flags);
	struct hm_file opened;

	if (fd < 0 || (!hm_os_stat(fd, &opened) && is_same_file(&opened, looked_at)))
		return fd;
	hm_os_close(fd);
	return -ESTALE;
}

/* Makes a file without a name in the directory, which no other process can open. */
static int make_nameless(const struct hostmem_backend *backend, const struct hm_values *values,
			 struct hostmem_backing *backing, struct hostmem_error *err)
{
	bool stays;
	int fd = hm_os_open_temporary(values->mem_path, &stays);

	backing->flags = HOSTMEM_BACKING_OWN;
	if (fd >= 0)
		return fd;
	return fail(backend, values,
		    stays ? "remove the name, hostmem-*, of the file made in it, which stays"
			  : "make a file in it",
		    fd, err);
}

/* Opens the existing file or directory that `fd` has looked up. -ESTALE: look it up again. */
static int open_found(const struct hostmem_backend *backend, const struct hm_values *values, int fd,
		      struct hostmem_backing *backing, struct hostmem_error *err)
{
	struct hm_file file;
	int result = hm_os_stat(fd, &file);
	int opened;

	if (result)
		return fail(backend, values, "look at it", result, err);
	if (S_ISDIR(file.mode))
		return make_nameless(backend, values, backing, err);
	if (hm_check_file_type(backend, "mem-path", values->mem_path, &file, err))
		return -1;
	opened = reopen(values, &file);
	if ((opened == -EACCES || opened == -EROFS) && !values->share && !values->readonly)
		return hm_fail(err, HOSTMEM_ERROR_IO, -opened,
			       "%s: mem-path=%.512s: cannot be opened for writing; for a private "
			       "copy of a file that may only be read use readonly=on,rom=off",
			       backend->label, values->mem_path);
	if (opened >= 0 || opened == -ESTALE)
		return opened;
	return fail(backend, values, "open it", opened, err);
}

/* Opens or makes the file; returns its descriptor. */
static int open_or_make(const struct hostmem_backend *backend, const struct hm_values *values,
			struct hostmem_backing *backing, struct hostmem_error *err)
{
	int fd = -ENOENT;

	for (int i = 0; i < MOST_TRIES; i++) {
		fd = hm_os_open(values->mem_path, O_PATH);
		if (fd >= 0) {
			int opened = open_found(backend, values, fd, backing, err);

			hm_os_close(fd);
			if (opened != -ESTALE)
				return opened;
			fd = opened;
			continue;
		}
		if (fd != -ENOENT || values->readonly)
			break;
		fd = hm_os_open(values->mem_path, O_RDWR | O_CREAT | O_EXCL);
		if (fd >= 0) {
			backing->made |= MADE_FILE;
			return fd;
		}
		if (fd != -EEXIST)
			break;
	}
	return fail(backend, values,
		    fd == -ENOENT   ? "find it"
		    : fd == -ESTALE ? "open it"
				    : "make it",
		    fd, err);
}

/* An empty file gets the size that is wanted; any other keeps its own. */
static int grow(const struct hostmem_backend *backend, const struct hm_values *values, int fd,
		uint32_t *made, struct hostmem_error *err)
{
	struct hm_file file;
	int result = hm_os_stat(fd, &file);

	if (result)
		return fail(backend, values, "look at it", result, err);
	if (!S_ISREG(file.mode) || file.size || values->readonly)
		return 0;
	result = hm_os_set_size(fd, values->offset + values->size);
	if (result)
		return fail(backend, values, "grow it", result, err);
	*made |= MADE_SIZE;
	return 0;
}

/* errno of what could not be undone; that of the failure that led here stays. */
static void append_stays(struct hostmem_error *err, const char *what, int result)
{
	if (!result || !err)
		return;
	if (!err->kind)
		err->os_error = -result;
	hm_error_append(err, what);
	hm_error_append(err, strerror(-result));
}

/*
 * Others may have opened the file since it got its size, and written to it. Where the kernel cannot
 * say that they have not, contents stay; a name may go, since removing it loses nothing to those
 * who have the file open.
 */
static void undo(void *data, const struct hostmem_backend *backend,
		 const struct hostmem_backing *backing, struct hostmem_error *err)
{
	struct hm_values values;
	int sole, result;

	(void)data;
	/* A file without a name goes with its descriptor. */
	if (!backing->made || backing->flags & HOSTMEM_BACKING_OWN)
		return;
	sole = hm_os_is_sole_user(backing->fd);
	hm_backend_snapshot(backend, &values);
	if (backing->made & MADE_FILE && sole) {
		result = hm_os_is_at(values.mem_path, backing->fd);
		if (result > 0)
			result = hm_os_unlink(values.mem_path);
		append_stays(err, "; the file that was made stays: ", result);
	} else if (sole > 0) {
		append_stays(err, "; the file keeps the size it was given: ",
			     hm_os_set_size(backing->fd, 0));
	} else {
		hm_error_append(err, backing->made & MADE_FILE
					     ? "; the file that was made stays: others have it open"
					     : "; the file keeps the size it was given: others may "
					       "have it open");
	}
}

static int allocate(void *data, const struct hostmem_backend *backend,
		    struct hostmem_backing *backing, struct hostmem_error *err)
{
	struct hm_values values;

	hm_backend_snapshot(backend, &values);
	*backing = (struct hostmem_backing){ .offset = values.offset };
	backing->fd = open_or_make(backend, &values, backing, err);
	if (backing->fd < 0)
		return -1;
	if (!grow(backend, &values, backing->fd, &backing->made, err))
		return 0;
	undo(data, backend, backing, err);
	hm_os_close(backing->fd);
	return -1;
}

const struct hostmem_kind hm_kind_file = {
	.name = "memory-backend-file",
	.description =
		"A file, on disk, tmpfs, hugetlbfs or DAX, or a nameless one in a directory.",
	.check = check,
	.allocate = allocate,
	.undo = undo,
};

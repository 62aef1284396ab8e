/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * memory-backend-shm: POSIX shared memory under a random name that is removed at once.
 */
#include <stdio.h>
#include <string.h>

#include "kind.h"

static int check(void *data, const struct hostmem_backend *backend, struct hostmem_error *err)
{
	struct hm_values values;

	(void)data;
	hm_backend_snapshot(backend, &values);
	if (!values.share)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: share=off: POSIX shared memory is always shared; use share=on, "
			       "or memory-backend-ram",
			       backend->label);
	return hm_check_file_limit(backend, values.size, err);
}

static int fail(const struct hostmem_backend *backend, const char *what, int result,
		struct hostmem_error *err)
{
	return hm_fail(err, hm_error_kind_of(-result), -result,
		       "%s: cannot %s POSIX shared memory: %s; is /dev/shm there and writable?",
		       backend->label, what, strerror(-result));
}

/* Returns its descriptor. */
static int create(const struct hostmem_backend *backend, struct hostmem_error *err)
{
	uint64_t name[2];
	bool stays = false;
	char text[48];
	int result = hm_os_random(name, sizeof(name));

	if (!result) {
		snprintf(text, sizeof(text), "/hostmem-%016jx%016jx", (uintmax_t)name[0],
			 (uintmax_t)name[1]);
		result = hm_os_open_shm(text, &stays);
	}
	if (!stays)
		return result < 0 ? fail(backend, "create", result, err) : result;
	return hm_fail(
		err, HOSTMEM_ERROR_IO, -result,
		"%s: cannot remove the name of its POSIX shared memory: %s; /dev/shm%s stays",
		backend->label, strerror(-result), text);
}

static int allocate(void *data, const struct hostmem_backend *backend,
		    struct hostmem_backing *backing, struct hostmem_error *err)
{
	struct hm_values values;
	int fd, result;

	(void)data;
	hm_backend_snapshot(backend, &values);
	fd = create(backend, err);
	if (fd < 0)
		return -1;
	result = hm_os_set_size(fd, values.size);
	if (result) {
		hm_os_close(fd);
		return fail(backend, "size", result, err);
	}
	*backing = (struct hostmem_backing){ .fd = fd, .flags = HOSTMEM_BACKING_OWN };
	return 0;
}

const struct hostmem_kind hm_kind_shm = {
	.name = "memory-backend-shm",
	.description = "POSIX shared memory, within the limits of /dev/shm.",
	.share = true,
	.check = check,
	.allocate = allocate,
};

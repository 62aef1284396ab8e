/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * memory-backend-fd: a descriptor from elsewhere that can be mapped, whatever made it.
 */
#include <errno.h>
#include <string.h>

#include "compat.h"
#include "kind.h"

/* What the descriptor allows against what is asked of it. */
static int check_access(const struct hostmem_backend *backend, const struct hm_values *values,
			struct hostmem_error *err)
{
	int access = hm_os_get_access((int)values->fd);

	if (access < 0)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, -access, "%s: fd cannot be used: %s",
			       backend->label, strerror(-access));
	if (access == O_WRONLY)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: fd is open for writing only and cannot be mapped; open it "
			       "for reading too",
			       backend->label);
	if (access == O_RDONLY && !values->readonly)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: fd is open for reading only; use readonly=on, with "
			       "rom=off,share=off for a private copy that can be written",
			       backend->label);
	return 0;
}

static int check_seals(const struct hostmem_backend *backend, const struct hm_values *values,
		       struct hostmem_error *err)
{
	int seals = hm_os_get_seals((int)values->fd);

	if (seals < 0 || !(seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) || !values->share ||
	    hm_check_is_readonly(values))
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: fd is sealed against writing; use readonly=on, or share=off",
		       backend->label);
}

static int check(void *data, const struct hostmem_backend *backend, struct hostmem_error *err)
{
	struct hm_values values;
	struct hm_file file;
	int result;

	(void)data;
	hm_backend_snapshot(backend, &values);
	if (values.fd == HM_FD_NONE)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: fd is required, the number of an open descriptor",
			       backend->label);
	result = hm_os_stat((int)values.fd, &file);
	if (result)
		return hm_fail(err, HOSTMEM_ERROR_IO, -result, "%s: cannot look at fd: %s",
			       backend->label, strerror(-result));
	if (hm_check_file_type(backend, "fd", "", &file, err) ||
	    check_access(backend, &values, err))
		return -1;
	return check_seals(backend, &values, err);
}

static int allocate(void *data, const struct hostmem_backend *backend,
		    struct hostmem_backing *backing, struct hostmem_error *err)
{
	struct hm_values values;
	int fd;

	(void)data;
	hm_backend_snapshot(backend, &values);
	fd = hm_os_duplicate((int)values.fd);
	if (fd < 0)
		return hm_fail(err, hm_error_kind_of(-fd), -fd, "%s: cannot duplicate fd: %s",
			       backend->label, strerror(-fd));
	*backing = (struct hostmem_backing){ .fd = fd, .offset = values.offset };
	return 0;
}

const struct hostmem_kind hm_kind_fd = {
	.name = "memory-backend-fd",
	.description =
		"A descriptor from elsewhere that can be mapped: a memfd, a file, DAX, a KVM "
		"guest_memfd.",
	.share = true,
	.check = check,
	.allocate = allocate,
};

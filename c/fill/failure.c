/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The first failure of a run of fills: it stops the workers, and it is what the error says.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

void hm_failure_set(struct hm_failure *failure, const struct hm_fill *fill, int error,
		    uint64_t offset, const struct hm_range *unread,
		    const struct hm_shortage *shortage)
{
	pthread_mutex_lock(&failure->lock);
	if (!failure->fill) {
		failure->fill = fill;
		failure->error = error;
		failure->offset = offset;
		if (unread)
			failure->unread = *unread;
		if (shortage)
			failure->shortage = *shortage;
	}
	pthread_mutex_unlock(&failure->lock);
	atomic_store(&failure->happened, true);
}

/* Which limit the available bytes are of: " on node 2-3", a control group's; without swap. */
static void format_limit(const struct hm_shortage *shortage, char *text, size_t size)
{
	const char *swap = shortage->locked ? " without swap, which lock leaves out" : "";
	char set[128];

	if (!shortage->on_nodes) {
		snprintf(text, size, "%s%s",
			 shortage->in_group ? " under the memory limit of the control group" : "",
			 swap);
		return;
	}
	hm_set_format(&shortage->nodes, set, sizeof(set));
	snprintf(text, size, " on node %s%s", set, swap);
}

static int report_shortage(const struct hm_failure *failure, struct hostmem_error *err)
{
	const struct hm_fill *fill = failure->fill;
	const struct hm_shortage *shortage = &failure->shortage;
	char limit[224];

	format_limit(shortage, limit, sizeof(limit));
	return hm_fail(err, HOSTMEM_ERROR_NO_MEMORY, failure->error,
		       "%s: prealloc: stopped before memory runs out, after %ju of %ju bytes, at "
		       "offset %ju: %ju bytes are available%s and %ju are needed with a margin; "
		       "use a smaller size, free memory, or leave the shortage to the kernel with "
		       "prealloc-watch=off",
		       fill->backend->label, (uintmax_t)atomic_load(&fill->backend->bytes_done),
		       (uintmax_t)fill->range.length,
		       (uintmax_t)(fill->range.offset + failure->offset),
		       (uintmax_t)shortage->available, limit, (uintmax_t)shortage->needed);
}

static int report_room(const struct hm_failure *failure, struct hostmem_error *err)
{
	const struct hm_fill *fill = failure->fill;
	const struct hm_shortage *shortage = &failure->shortage;
	char path[512];

	hm_room_format_path(fill->backend, path, sizeof(path));
	return hm_fail(
		err, HOSTMEM_ERROR_NO_MEMORY, ENOSPC,
		"%s: prealloc: stopped before the file system of %s is full, after %ju of "
		"%ju bytes, at offset %ju: %ju of its %ju bytes are free and %ju are "
		"needed; use a smaller size, or make room there",
		fill->backend->label, path, (uintmax_t)atomic_load(&fill->backend->bytes_done),
		(uintmax_t)fill->range.length, (uintmax_t)(fill->range.offset + failure->offset),
		(uintmax_t)shortage->available, (uintmax_t)shortage->total_room,
		(uintmax_t)shortage->needed);
}

/* EFAULT is what the kernel answers where touching the page would be SIGBUS. */
static int report_fault(const struct hm_failure *failure, struct hostmem_error *err)
{
	const struct hm_fill *fill = failure->fill;
	uintmax_t done = atomic_load(&fill->backend->bytes_done), size = fill->range.length;
	uintmax_t offset = fill->range.offset + failure->offset;
	struct hm_room room;
	char path[512];

	if (hm_backend_is_hugetlb(fill->backend) || !hm_room_read(fill->backend, &room) ||
	    (failure->error == EFAULT && room.left >= fill->chunk))
		return hm_fail(err, HOSTMEM_ERROR_NO_MEMORY, failure->error,
			       "%s: prealloc: failed after %ju of %ju bytes, at offset %ju: %s; "
			       "the backing has no memory left for it, touching it would be SIGBUS",
			       fill->backend->label, done, size, offset, strerror(failure->error));
	hm_room_format_path(fill->backend, path, sizeof(path));
	return hm_fail(err, HOSTMEM_ERROR_NO_MEMORY,
		       failure->error == EFAULT ? ENOSPC : failure->error,
		       "%s: prealloc: failed after %ju of %ju bytes, at offset %ju: %s: no room is "
		       "left on the file system of %s, or in its quota: %ju of %ju bytes are free",
		       fill->backend->label, done, size, offset,
		       strerror(failure->error == EFAULT ? ENOSPC : failure->error), path,
		       (uintmax_t)room.left, (uintmax_t)room.total);
}

static const char *get_name(const struct hm_fill *fill)
{
	return fill->scrubs ? "scrub" : "prealloc";
}

static int report_error(const struct hm_failure *failure, struct hostmem_error *err)
{
	const struct hm_fill *fill = failure->fill;
	enum hostmem_error_kind kind = hm_error_kind_of(failure->error);
	const char *why = failure->error == EHWPOISON ? "; a page there is broken hardware" : "";

	if (failure->error == EACCES && fill->scrubs) {
		kind = HOSTMEM_ERROR_VALUE;
		why = "; memory there is inaccessible and not known to be zero: make it "
		      "accessible, or discard it";
	}
	if (failure->error == EFAULT || failure->error == ENOSPC || failure->error == EDQUOT)
		return report_fault(failure, err);
	return hm_fail(
		err, kind, failure->error,
		"%s: %s: failed after %ju of %ju bytes, at offset %ju: %s%s", fill->backend->label,
		get_name(fill), (uintmax_t)atomic_load(&fill->backend->bytes_done),
		(uintmax_t)fill->range.length, (uintmax_t)(fill->range.offset + failure->offset),
		strerror(failure->error), why);
}

static int report_unread(const struct hm_failure *failure, const struct hm_values *values,
			 struct hostmem_error *err)
{
	const struct hm_range *unread = &failure->unread;
	const char *why = failure->error == ENODATA ? "the image became shorter meanwhile"
						    : strerror(failure->error);

	return hm_fail(err, hm_error_kind_of(failure->error), failure->error,
		       "%s: contents=%.512s: cannot read %ju bytes at offset %ju of it: %s",
		       failure->fill->backend->label, values->contents, (uintmax_t)unread->length,
		       (uintmax_t)unread->offset, why);
}

int hm_failure_report(const struct hm_failure *failure, const struct hm_values *values,
		      struct hostmem_error *err)
{
	const struct hm_fill *fill = failure->fill;

	if (failure->error == ECANCELED)
		hm_fail(err, HOSTMEM_ERROR_STATE, ECANCELED,
			"%s: %s: cancelled after %ju of %ju bytes", fill->backend->label,
			get_name(fill), (uintmax_t)atomic_load(&fill->backend->bytes_done),
			(uintmax_t)fill->range.length);
	else if (failure->unread.length)
		return report_unread(failure, values, err);
	else if (failure->shortage.total_room)
		report_room(failure, err);
	else if (failure->shortage.needed)
		report_shortage(failure, err);
	else
		report_error(failure, err);
	hm_huge_pages_append(fill->backend, values, err);
	if (fill->most_memory && failure->error == ENOMEM && !failure->shortage.needed &&
	    hm_cgroup_is_hidden(false))
		hm_error_append(err, "; a memory limit of a control group that cannot be seen from "
				     "here may be the cause");
	return -1;
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Ranges of ready memory: discarding them, populating them again, scrubbing them, and what inhibits
 * discarding.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "life.h"

/* ---- Inhibiting ---- */

static int check_inhibited(const struct hostmem_backend *backend, const char *what,
			   struct hostmem_error *err)
{
	char name[HOSTMEM_ID_MAX + 1] = "";

	pthread_mutex_lock(hm_backend_lock_of(backend));
	if (backend->inhibitors)
		hm_text_copy(backend->inhibitors->name, name, sizeof(name));
	pthread_mutex_unlock(hm_backend_lock_of(backend));
	if (!*name)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_BUSY, 0,
		       "%s: %s: '%s' has inhibited it, since its device has pinned the pages",
		       backend->label, what, name);
}

static struct hm_inhibitor *new_inhibitor(const struct hostmem_backend *backend, const char *name,
					  struct hostmem_error *err)
{
	struct hm_inhibitor *inhibitor;

	if (!*name || strlen(name) > HOSTMEM_ID_MAX) {
		hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			"%s: the name of an inhibitor of discard has 1 to %d bytes, this one has "
			"%zu",
			backend->label, HOSTMEM_ID_MAX, strlen(name));
		return NULL;
	}
	inhibitor = calloc(1, sizeof(*inhibitor));
	if (!inhibitor) {
		hm_fail_alloc(err);
		return NULL;
	}
	hm_text_copy(name, inhibitor->name, sizeof(inhibitor->name));
	return inhibitor;
}

/* Called with the lock held. */
static int add(struct hostmem_backend *backend, struct hm_inhibitor *inhibitor)
{
	if (!hm_backend_has_memory(backend->state))
		return -1;
	inhibitor->next = backend->inhibitors;
	backend->inhibitors = inhibitor;
	return 0;
}

int hostmem_backend_inhibit_discard(struct hostmem_backend *backend, const char *name,
				    struct hostmem_error *err)
{
	struct hm_inhibitor *inhibitor;
	enum hostmem_state state;
	int result;

	if (hm_backend_check_process(backend, "inhibit discard", err))
		return -1;
	inhibitor = new_inhibitor(backend, name, err);
	if (!inhibitor)
		return -1;
	/* So that a discard that has begun is over when this returns. */
	pthread_mutex_lock(&backend->change);
	pthread_mutex_lock(&backend->lock);
	state = backend->state;
	result = add(backend, inhibitor);
	pthread_mutex_unlock(&backend->lock);
	pthread_mutex_unlock(&backend->change);
	if (!result)
		return 0;
	free(inhibitor);
	return hm_backend_fail_not_ready(backend, state, err);
}

/* Takes the first of that name out of the list, called with the lock held; NULL: there is none. */
static struct hm_inhibitor *take_out(struct hostmem_backend *backend, const char *name)
{
	struct hm_inhibitor **link = &backend->inhibitors, *found;

	while (*link && strcmp((*link)->name, name))
		link = &(*link)->next;
	found = *link;
	if (found)
		*link = found->next;
	return found;
}

int hostmem_backend_allow_discard(struct hostmem_backend *backend, const char *name,
				  struct hostmem_error *err)
{
	struct hm_inhibitor *found;

	hm_backend_enter(backend);
	pthread_mutex_lock(&backend->lock);
	found = take_out(backend, name);
	pthread_mutex_unlock(&backend->lock);
	if (!found)
		return hm_fail(err, HOSTMEM_ERROR_STATE, 0, "%s: discard is not inhibited by '%s'",
			       backend->label, name);
	free(found);
	return 0;
}

/* ---- Discarding, populating, scrubbing ---- */

static int check_range(const struct hostmem_backend *backend, const char *what,
		       const struct hm_range *range, struct hostmem_error *err)
{
	uint64_t page = backend->page_size, size = backend->mapping.size;

	if (range->offset % page || range->length % page)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: %s: offset %ju and length %ju are not both multiples of the "
			       "page size, %ju bytes",
			       backend->label, what, (uintmax_t)range->offset,
			       (uintmax_t)range->length, (uintmax_t)page);
	if (range->offset > size || range->length > size - range->offset)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: %s: offset %ju with length %ju is outside the memory of %ju "
			       "bytes",
			       backend->label, what, (uintmax_t)range->offset,
			       (uintmax_t)range->length, (uintmax_t)size);
	return 0;
}

static int protect_range(const struct hostmem_backend *backend, const struct hm_range *range,
			 int protection)
{
	return hm_os_protect(backend->mapping.address + range->offset, (size_t)range->length,
			     protection);
}

/* What is mapped in the place of a range is accessible. */
static int protect_again(const struct hostmem_backend *backend, const struct hm_range *range)
{
	const struct hm_ranges *inaccessible = &backend->inaccessible;
	uint64_t end = range->offset + range->length;
	int result = 0;

	for (size_t i = 0; !result && i < inaccessible->len; i++) {
		const struct hm_range *one = &inaccessible->all[i];
		uint64_t from = one->offset, to = from + one->length;
		struct hm_range part = { .offset = from > range->offset ? from : range->offset };

		to = to < end ? to : end;
		if (part.offset >= to)
			continue;
		part.length = to - part.offset;
		result = protect_range(backend, &part, PROT_NONE);
	}
	return result;
}

/* All but private mappings of a user's file read as zero already. */
static int discard_to_zero(const struct hostmem_backend *backend, const struct hm_range *range)
{
	bool own = backend->backing.flags & HOSTMEM_BACKING_OWN;
	int result;

	if (backend->backing.fd < 0 || backend->shared || own)
		return hm_discard_range(backend, range);
	result = hm_mapping_replace(backend, range);
	return result ? result : protect_again(backend, range);
}

/* Of contents that are read on demand: they are not any more. */
static int discard_contents(const struct hostmem_backend *backend, const struct hm_range *range)
{
	return hm_lazy_discard(backend->lazy, range, hm_discard_range);
}

/* What is discarded while a preallocation runs is not filled by it any more. */
static int discard_for_good(struct hostmem_backend *backend, const struct hm_range *range,
			    enum hostmem_discard_to to)
{
	int (*run)(const struct hostmem_backend *, const struct hm_range *) =
		to == HOSTMEM_DISCARD_TO_ZERO ? discard_to_zero : hm_discard_range;

	if (backend->lazy)
		run = discard_contents;
	return hm_backend_is_running(backend) ? hm_gaps_add(&backend->gaps, range, run, backend)
					      : run(backend, range);
}

static int fail_discard(const struct hostmem_backend *backend, const struct hm_range *range,
			int result, struct hostmem_error *err)
{
	enum hostmem_error_kind kind = hm_error_kind_of(-result);
	const char *hint = "";

	if (result == -EOPNOTSUPP)
		hint = "; this file system cannot make holes";
	if (result == -ENOTRECOVERABLE)
		hint = "; the kernel failed twice, and this memory is lost: delete the backend";
	/* So the kernel answers before it could (madvise(2), mremap(2)). */
	if (result == -EINVAL && hm_backend_is_hugetlb(backend) && !backend->shared) {
		kind = HOSTMEM_ERROR_UNSUPPORTED;
		hint = "; private huge pages can be given back since Linux 5.18, with share=on "
		       "before too";
	}
	return hm_fail(err, kind, -result, "%s: discard of %ju bytes at offset %ju: %s%s",
		       backend->label, (uintmax_t)range->length, (uintmax_t)range->offset,
		       strerror(-result), hint);
}

static int discard_checked(struct hostmem_backend *backend, const struct hm_range *range,
			   enum hostmem_discard_to to, struct hostmem_error *err)
{
	int result;

	if (check_range(backend, "discard", range, err))
		return -1;
	if (backend->readonly)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: discard: the memory is for reading only and keeps its contents",
			       backend->label);
	if (!range->length)
		return 0;
	result = discard_for_good(backend, range, to);
	if (result == -ENOTRECOVERABLE)
		hm_map_note_hole(&backend->mapping, (size_t)range->offset, (size_t)range->length);
	return result ? fail_discard(backend, range, result, err) : 0;
}

int hostmem_backend_discard(struct hostmem_backend *backend, uint64_t offset, uint64_t length,
			    struct hostmem_error *err)
{
	return hostmem_backend_discard_to(backend, offset, length, HOSTMEM_DISCARD_TO_BACKING, err);
}

int hostmem_backend_discard_to(struct hostmem_backend *backend, uint64_t offset, uint64_t length,
			       enum hostmem_discard_to to, struct hostmem_error *err)
{
	const struct hm_range range = { .offset = offset, .length = length };
	int result;

	if (hm_backend_check_process(backend, "discard", err))
		return -1;
	pthread_mutex_lock(&backend->change);
	result = hm_backend_check_usable(backend, err);
	if (!result)
		result = check_inhibited(backend, "discard", err);
	if (!result)
		result = discard_checked(backend, &range, to, err);
	pthread_mutex_unlock(&backend->change);
	return result;
}

static int make_accessible(const struct hostmem_backend *backend, const struct hm_range *range)
{
	return protect_range(backend, range,
			     backend->readonly ? PROT_READ : PROT_READ | PROT_WRITE);
}

/* A failure may come after the kernel has changed some of it. */
static int make_inaccessible(const struct hostmem_backend *backend, const struct hm_range *range)
{
	int result = protect_range(backend, range, PROT_NONE);
	struct hm_range rest = *range, part;

	while (result && hm_ranges_next_part(&backend->inaccessible, &rest, &part))
		make_accessible(backend, &part);
	return result;
}

static int change_access(struct hostmem_backend *backend, const struct hm_range *range,
			 enum hostmem_access access)
{
	struct hm_ranges *inaccessible = &backend->inaccessible;
	int result = hm_ranges_reserve(inaccessible);

	if (result)
		return result;
	if (access == HOSTMEM_ACCESS_NONE) {
		result = make_inaccessible(backend, range);
		if (!result)
			hm_ranges_add(inaccessible, *range);
	} else {
		result = make_accessible(backend, range);
		if (!result)
			hm_ranges_remove(inaccessible, *range);
	}
	if (!inaccessible->len)
		hm_ranges_clear(inaccessible);
	return result;
}

/* The kernel puts a unit of contents into one mapping, and threads would wait for it for ever. */
static int check_units(const struct hostmem_backend *backend, const struct hm_range *range,
		       struct hostmem_error *err)
{
	uint64_t end = range->offset + range->length, unit;

	if (!backend->lazy || !atomic_load(&backend->unread))
		return 0;
	unit = hm_lazy_get_unit(backend->lazy);
	if (!(range->offset % unit) && (!(end % unit) || end == backend->mapping.size))
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_BUSY, 0,
		       "%s: protect of %ju bytes at offset %ju: while contents are unread, a range "
		       "begins and ends at multiples of %ju bytes",
		       backend->label, (uintmax_t)range->length, (uintmax_t)range->offset,
		       (uintmax_t)unit);
}

static int protect_checked(struct hostmem_backend *backend, const struct hm_range *range,
			   enum hostmem_access access, struct hostmem_error *err)
{
	int result;

	if (check_range(backend, "protect", range, err))
		return -1;
	/* It would fail there. */
	if (hm_backend_is_running(backend))
		return hm_running_fail_busy(backend, "protect", err);
	if (!range->length)
		return 0;
	if (check_units(backend, range, err))
		return -1;
	result = change_access(backend, range, access);
	return result ? hm_fail(err, hm_error_kind_of(-result), -result,
				"%s: protect of %ju bytes at offset %ju: %s%s", backend->label,
				(uintmax_t)range->length, (uintmax_t)range->offset,
				strerror(-result),
				result == -ENOMEM ? "; each such range is a mapping of its own: "
						    "raise vm.max_map_count"
						  : "")
		      : 0;
}

int hostmem_backend_protect(struct hostmem_backend *backend, uint64_t offset, uint64_t length,
			    enum hostmem_access access, struct hostmem_error *err)
{
	const struct hm_range range = { .offset = offset, .length = length };
	int result;

	if (hm_backend_check_process(backend, "protect", err))
		return -1;
	pthread_mutex_lock(&backend->change);
	result = hm_backend_check_usable(backend, err);
	if (!result)
		result = protect_checked(backend, &range, access, err);
	pthread_mutex_unlock(&backend->change);
	return result;
}

static int check_accessible(const struct hostmem_backend *backend, const struct hm_range *range,
			    struct hostmem_error *err)
{
	if (!hm_ranges_overlap(&backend->inaccessible, range))
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, EACCES,
		       "%s: populate of %ju bytes at offset %ju: some of it is inaccessible; make "
		       "it accessible first",
		       backend->label, (uintmax_t)range->length, (uintmax_t)range->offset);
}

int hostmem_backend_populate(struct hostmem_backend *backend, uint64_t offset, uint64_t length,
			     struct hostmem_error *err)
{
	const struct hm_range range = { .offset = offset, .length = length };
	struct hm_values values;
	int result;

	if (hm_backend_check_process(backend, "populate", err))
		return -1;
	pthread_mutex_lock(&backend->change);
	result = hm_backend_check_usable(backend, err);
	if (!result)
		result = check_range(backend, "populate", &range, err);
	if (!result)
		result = check_accessible(backend, &range, err);
	if (!result && length) {
		hm_backend_snapshot(backend, &values);
		result = hm_live_populate(backend, "populate", &values, &range, err);
	}
	pthread_mutex_unlock(&backend->change);
	return result;
}

/* What a private mapping of the user's file reads as is the file's to say. */
static int check_scrubbable(const struct hostmem_backend *backend, struct hostmem_error *err)
{
	const struct hostmem_backing *backing = &backend->backing;

	if (backend->readonly)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: scrub: the memory is for reading only and keeps its contents; "
			       "give its file new contents instead",
			       backend->label);
	if (backing->fd >= 0 && !backend->shared && !(backing->flags & HOSTMEM_BACKING_OWN))
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: scrub: the memory is a private copy of a file, which is not "
			       "zero; discard makes it the file again",
			       backend->label);
	return 0;
}

int hostmem_backend_scrub(struct hostmem_backend *backend, uint64_t offset, uint64_t length,
			  struct hostmem_error *err)
{
	const struct hm_range range = { .offset = offset, .length = length };
	struct hm_values values;
	int result;

	if (hm_backend_check_process(backend, "scrub", err))
		return -1;
	pthread_mutex_lock(&backend->change);
	result = hm_backend_check_usable(backend, err);
	if (!result)
		result = check_range(backend, "scrub", &range, err);
	if (!result)
		result = check_scrubbable(backend, err);
	if (!result && length) {
		hm_backend_snapshot(backend, &values);
		result = hm_live_scrub(backend, &values, &range, err);
	}
	pthread_mutex_unlock(&backend->change);
	return result;
}

/* ---- Contents that are read on demand ---- */

uint64_t hostmem_backend_get_unread(struct hostmem_backend *backend, struct hostmem_error *failed)
{
	uint64_t unread = 0;

	if (failed)
		*failed = (struct hostmem_error){ 0 };
	if (hm_backend_check_process(backend, "contents", NULL))
		return 0;
	pthread_mutex_lock(&backend->change);
	if (!hm_backend_check_usable(backend, NULL) && backend->lazy)
		unread = hm_lazy_count_unread(backend->lazy, failed);
	pthread_mutex_unlock(&backend->change);
	return unread;
}

/* Pages are absent while they are unread; some may have been read since they were counted. */
static void tell_unread_apart(struct hm_lazy *lazy, struct hostmem_placement *placement)
{
	uint64_t unread = hm_lazy_count_unread(lazy, NULL);

	placement->unread = unread < placement->absent ? unread : placement->absent;
	placement->absent -= placement->unread;
}

int hostmem_backend_get_placement(const struct hostmem_backend *backend,
				  struct hostmem_placement *placement, struct hostmem_error *err)
{
	/* Held so that the memory is not deleted meanwhile; no part of the backend's value. */
	pthread_mutex_t *change = &((struct hostmem_backend *)(uintptr_t)backend)->change;
	struct hm_values values;
	int result;

	if (hm_backend_check_process(backend, "placement", err))
		return -1;
	pthread_mutex_lock(change);
	hm_backend_snapshot(backend, &values);
	result = hm_backend_check_usable(backend, err);
	if (!result)
		result = hm_placement_read(backend, &values, placement, err);
	if (!result && backend->lazy)
		tell_unread_apart(backend->lazy, placement);
	pthread_mutex_unlock(change);
	return result;
}

size_t hostmem_backend_get_faulted(struct hostmem_backend *backend, struct hostmem_range *ranges,
				   size_t ranges_size)
{
	size_t len = 0;

	if (hm_backend_check_process(backend, "contents", NULL))
		return 0;
	pthread_mutex_lock(&backend->change);
	if (!hm_backend_check_usable(backend, NULL) && backend->lazy)
		len = hm_lazy_get_faulted(backend->lazy, ranges, ranges_size);
	pthread_mutex_unlock(&backend->change);
	return len;
}

int hostmem_backend_retry_contents(struct hostmem_backend *backend, struct hostmem_error *err)
{
	int result;

	if (hm_backend_check_process(backend, "retry contents", err))
		return -1;
	pthread_mutex_lock(&backend->change);
	result = hm_backend_check_usable(backend, err);
	if (!result && backend->lazy) {
		hm_background_forget(backend);
		hm_lazy_retry(backend->lazy);
	}
	pthread_mutex_unlock(&backend->change);
	return result;
}

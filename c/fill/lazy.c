/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Memory whose contents are read when they are needed: a userfaultfd that holds back who touches
 * what is unread, a thread that serves it, and reading ahead for the workers of a fill. A touch
 * never finds zero instead of contents, also when the image cannot be read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "internal.h"

/* Of small pages: what one touch reads. */
#define SMALL_UNIT UINT64_C(65536)

enum unit {
	UNIT_UNREAD,
	/* By a thread, which others wait for. */
	UNIT_READING,
	UNIT_READ,
};

struct hm_lazy {
	struct hostmem_backend *backend;
	struct hm_contents contents;
	int fault_fd, stop_event;
	uint64_t unit;
	/* Whole huge pages are moved into place, and stay huge. */
	bool moves;
	/* Discarded ranges, for which the image is not read any more. */
	struct hm_gaps gaps;
	pthread_t server;
	bool has_server;
	/* Guards what follows. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint8_t *units;
	uint64_t unread_units;
	/* Of the first read on demand that failed since the last retry. */
	struct hostmem_error error;
};

/* Where a unit is read to before it is put in place. */
struct scratch {
	void *base;
	uint64_t base_size;
	uint8_t *memory;
	/* It is not zero. */
	bool dirty;
};

/* ---- Scratch memory ---- */

/* A forked child must not share the pages, which could not be moved then. */
static int make_scratch(struct scratch *scratch, const struct hm_lazy *lazy)
{
	uint64_t over;
	int result;

	*scratch = (struct scratch){ .base_size = 2 * lazy->unit };
	result = hm_os_map(&scratch->base, scratch->base_size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (result < 0)
		return result;
	over = (uintptr_t)scratch->base % lazy->unit;
	scratch->memory = (uint8_t *)scratch->base + (over ? lazy->unit - over : 0);
	hm_os_advise(scratch->base, scratch->base_size, MADV_DONTFORK);
	if (lazy->moves)
		hm_os_advise(scratch->memory, lazy->unit, MADV_HUGEPAGE);
	return 0;
}

static void free_scratch(const struct scratch *scratch)
{
	if (scratch->base)
		hm_os_unmap(scratch->base, scratch->base_size);
}

/* ---- Reading one unit ---- */

/* Puts pages of scratch memory into absent places; what is there already stays. */
static int put(struct hm_lazy *lazy, struct scratch *scratch, const struct hm_range *range)
{
	uint64_t page = lazy->backend->page_size, offset = 0, done;
	uint8_t *address = lazy->backend->mapping.address + range->offset;
	bool moves = lazy->moves && range->length == lazy->unit;
	int result;

	while (offset < range->length) {
		uint64_t left = range->length - offset;

		if (moves)
			result = hm_fault_move(lazy->fault_fd, address + offset,
					       scratch->memory + offset, left, &done);
		else
			result = hm_fault_copy(lazy->fault_fd, address + offset,
					       scratch->memory + offset, left, &done);
		scratch->dirty |= !moves;
		offset += done;
		if (result == -EEXIST) {
			/* A page that is not moved stays in scratch memory. */
			scratch->dirty = true;
			hm_fault_wake(lazy->fault_fd, address + offset, page);
			offset += page;
		} else if (result && result != -EAGAIN) {
			if (!moves)
				return result;
			scratch->dirty = true;
			moves = false;
		}
	}
	return 0;
}

/* Reads the contents of a range inside one unit, and puts them in place. */
static int read_part(struct hm_lazy *lazy, struct scratch *scratch, const struct hm_range *part,
		     struct hm_range *unread)
{
	uint64_t page = lazy->backend->host->page_size;
	int result;

	if (scratch->dirty)
		memset(scratch->memory, 0, lazy->unit);
	else if (lazy->moves)
		/* The last page first, so that a huge page is zeroed upwards. */
		hm_os_advise(scratch->memory + lazy->unit - page, page, MADV_POPULATE_WRITE);
	/* Also when reading fails in the middle. */
	scratch->dirty = true;
	result = hm_contents_read(&lazy->contents, scratch->memory, part, unread);
	if (result)
		return result;
	scratch->dirty = false;
	return put(lazy, scratch, part);
}

static int read_unit(struct hm_lazy *lazy, uint64_t unit, struct scratch *scratch,
		     struct hm_range *unread)
{
	uint64_t size = lazy->backend->mapping.size;
	struct hm_range rest = { .offset = unit * lazy->unit, .length = lazy->unit }, part;
	int result = scratch->base ? 0 : make_scratch(scratch, lazy);

	if (rest.length > size - rest.offset)
		rest.length = size - rest.offset;
	/* A discard waits until this has been put in place. */
	hm_gaps_lock(&lazy->gaps);
	while (!result && hm_gaps_next_part(&lazy->gaps, &rest, &part))
		result = read_part(lazy, scratch, &part, unread);
	hm_gaps_unlock(&lazy->gaps);
	return result;
}

static void end_unit(struct hm_lazy *lazy, uint64_t unit, bool read)
{
	bool all = false;

	pthread_mutex_lock(&lazy->lock);
	lazy->units[unit] = read ? UNIT_READ : UNIT_UNREAD;
	if (read)
		all = !--lazy->unread_units;
	pthread_cond_broadcast(&lazy->changed);
	pthread_mutex_unlock(&lazy->lock);
	/* Nobody has to be held back any more. */
	if (all)
		hm_os_event_signal(lazy->stop_event);
}

/* Reads a unit, or waits for the thread that reads it, unless it was read. */
static int need_unit(struct hm_lazy *lazy, uint64_t unit, struct scratch *scratch,
		     struct hm_range *unread)
{
	bool read;
	int result;

	unread->length = 0;
	pthread_mutex_lock(&lazy->lock);
	while (lazy->units[unit] == UNIT_READING)
		pthread_cond_wait(&lazy->changed, &lazy->lock);
	read = lazy->units[unit] == UNIT_READ;
	if (!read)
		lazy->units[unit] = UNIT_READING;
	pthread_mutex_unlock(&lazy->lock);
	if (read)
		return 0;
	result = read_unit(lazy, unit, scratch, unread);
	end_unit(lazy, unit, !result);
	return result;
}

int hm_lazy_read(struct hm_lazy *lazy, const struct hm_range *range, struct hm_range *unread)
{
	uint64_t end = range->offset + range->length;
	struct scratch scratch = { 0 };
	int result = 0;

	unread->length = 0;
	for (uint64_t unit = range->offset / lazy->unit; !result && unit * lazy->unit < end; unit++)
		result = need_unit(lazy, unit, &scratch, unread);
	free_scratch(&scratch);
	return result;
}

/* ---- Serving ---- */

/* Kept for those who ask, since nobody is called from the thread that waits. */
static void keep_failure(struct hm_lazy *lazy, uint64_t offset, int result,
			 const struct hm_range *unread)
{
	const char *id = lazy->backend->label;

	pthread_mutex_lock(&lazy->lock);
	if (!lazy->error.kind && !unread->length)
		hm_fail(&lazy->error, hm_error_kind_of(-result), -result,
			"%s: contents: cannot put them in place at offset %ju of the memory: %s; "
			"who touches them waits until contents are retried",
			id, (uintmax_t)offset, strerror(-result));
	else if (!lazy->error.kind)
		hm_fail(&lazy->error, hm_error_kind_of(-result), -result,
			"%s: contents: cannot read %ju bytes at offset %ju of the image: %s; who "
			"touches them waits until contents are retried",
			id, (uintmax_t)unread->length, (uintmax_t)unread->offset,
			strerror(-result));
	pthread_mutex_unlock(&lazy->lock);
}

/* Of a page that is absent though its unit was read: it was discarded, and is zero. */
static void put_zero(struct hm_lazy *lazy, uint64_t offset, struct scratch *scratch)
{
	uint64_t page = lazy->backend->page_size, done;
	const struct hm_range range = { .offset = offset - offset % page, .length = page };
	uint8_t *address = lazy->backend->mapping.address + range.offset;

	if (!hm_backend_is_hugetlb(lazy->backend)) {
		hm_fault_zero(lazy->fault_fd, address, page, &done);
		hm_fault_wake(lazy->fault_fd, address, page);
	} else if (scratch->base || !make_scratch(scratch, lazy)) {
		memset(scratch->memory, 0, page);
		put(lazy, scratch, &range);
	}
}

static void serve_fault(struct hm_lazy *lazy, const uint8_t *address, struct scratch *scratch)
{
	uint64_t offset = (uint64_t)(address - lazy->backend->mapping.address);
	struct hm_range unread;
	int result = need_unit(lazy, offset / lazy->unit, scratch, &unread);

	if (result)
		keep_failure(lazy, offset, result, &unread);
	else
		put_zero(lazy, offset, scratch);
}

static void *serve(void *data)
{
	struct hm_lazy *lazy = data;
	struct scratch scratch = { 0 };
	uint8_t *address;
	int result;

	hm_thread_name(lazy->backend->id);
	while ((result = hm_fault_wait(lazy->fault_fd, lazy->stop_event, &address))) {
		/* Nobody is let go for a failure of ours: they would find zero. */
		if (result > 0)
			serve_fault(lazy, address, &scratch);
	}
	free_scratch(&scratch);
	/* Wakes all who still wait: when all was read, or with the memory about to go. */
	hm_fault_unregister(lazy->fault_fd, lazy->backend->mapping.address,
			    lazy->backend->mapping.size);
	return NULL;
}

/* ---- Beginning and ending ---- */

static bool can_move(const struct hostmem_backend *backend, const struct hm_values *values)
{
	uint64_t thp = backend->host->thp_size;

	/* Pages come from where the thread that reads may allocate; and locked ones do not move. */
	return backend->host->methods & HOSTMEM_METHOD_MOVE && thp && backend->host->populate &&
	       values->thp != HM_THP_NEVER && values->policy == HM_POLICY_DEFAULT &&
	       !values->lock && backend->mapping.size >= thp && !hm_backend_is_hugetlb(backend);
}

static uint64_t choose_unit(const struct hm_lazy *lazy)
{
	if (lazy->moves)
		return lazy->backend->host->thp_size;
	return lazy->backend->page_size > SMALL_UNIT ? lazy->backend->page_size : SMALL_UNIT;
}

static int fail_start(const struct hm_lazy *lazy, const char *what, int result,
		      struct hostmem_error *err)
{
	return hm_fail(err, hm_error_kind_of(-result), -result, "%s: contents: cannot %s: %s",
		       lazy->backend->label, what, strerror(-result));
}

static int open_fault(struct hm_lazy *lazy, struct hostmem_error *err)
{
	const struct hm_mapping *mapping = &lazy->backend->mapping;
	int result;

	lazy->fault_fd = hm_fault_open_kernel();
	if (lazy->fault_fd < 0)
		return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, -lazy->fault_fd,
			       "%s: contents: reading on demand needs a userfaultfd for faults of "
			       "the kernel: %s; give permission on /dev/userfaultfd, set "
			       "vm.unprivileged_userfaultfd=1 or give CAP_SYS_PTRACE, or use "
			       "prealloc=on with prealloc-mode=wait",
			       lazy->backend->label, strerror(-lazy->fault_fd));
	result = hm_fault_register(lazy->fault_fd, mapping->address, mapping->size);
	return result ? fail_start(lazy, "register with the userfaultfd", result, err) : 0;
}

static int start(struct hm_lazy *lazy, struct hostmem_error *err)
{
	uint64_t size = lazy->backend->mapping.size;
	int result;

	lazy->unread_units = (size + lazy->unit - 1) / lazy->unit;
	lazy->units = calloc(lazy->unread_units, sizeof(lazy->units[0]));
	if (!lazy->units)
		return hm_fail_alloc(err);
	lazy->stop_event = hm_os_event_open();
	if (lazy->stop_event < 0)
		return fail_start(lazy, "make an eventfd", lazy->stop_event, err);
	if (open_fault(lazy, err))
		return -1;
	result = hm_thread_create(&lazy->server, serve, lazy);
	if (result)
		return fail_start(lazy, "create a thread", result, err);
	lazy->has_server = true;
	return 0;
}

int hm_lazy_start(struct hostmem_backend *backend, const struct hm_values *values,
		  struct hm_contents *contents, struct hostmem_error *err)
{
	struct hm_lazy *lazy = calloc(1, sizeof(*lazy));

	if (!lazy)
		return hm_fail_alloc(err);
	*lazy = (struct hm_lazy){
		.backend = backend,
		.contents = *contents,
		.fault_fd = -1,
		.stop_event = -1,
		.moves = can_move(backend, values),
	};
	contents->fd = -1;
	lazy->unit = choose_unit(lazy);
	hm_gaps_init(&lazy->gaps);
	pthread_mutex_init(&lazy->lock, NULL);
	pthread_cond_init(&lazy->changed, NULL);
	backend->lazy = lazy;
	/* On failure hm_lazy_stop() follows, when completing is undone. */
	return start(lazy, err);
}

void hm_lazy_stop(struct hostmem_backend *backend)
{
	struct hm_lazy *lazy = backend->lazy;
	/* A forked child has the descriptors, and neither the thread nor the memory. */
	bool forked = hm_backend_is_forked(backend);

	if (!lazy)
		return;
	backend->lazy = NULL;
	if (lazy->has_server && !forked) {
		hm_os_event_signal(lazy->stop_event);
		pthread_join(lazy->server, NULL);
	}
	if (lazy->fault_fd >= 0)
		hm_os_close(lazy->fault_fd);
	if (lazy->stop_event >= 0)
		hm_os_close(lazy->stop_event);
	hm_contents_close(&lazy->contents);
	hm_gaps_destroy(&lazy->gaps);
	if (!forked)
		pthread_cond_destroy(&lazy->changed);
	pthread_mutex_destroy(&lazy->lock);
	free(lazy->units);
	free(lazy);
}

int hm_lazy_discard(struct hm_lazy *lazy, const struct hm_range *range,
		    int (*discard)(const struct hostmem_backend *backend,
				   const struct hm_range *range))
{
	return hm_gaps_add(&lazy->gaps, range, discard, lazy->backend);
}

void hm_lazy_retry(struct hm_lazy *lazy)
{
	const struct hm_mapping *mapping = &lazy->backend->mapping;

	pthread_mutex_lock(&lazy->lock);
	lazy->error = (struct hostmem_error){ 0 };
	pthread_mutex_unlock(&lazy->lock);
	/* Each then touches its page again, which asks for it again. */
	hm_fault_wake(lazy->fault_fd, mapping->address, mapping->size);
}

uint64_t hm_lazy_count_unread(struct hm_lazy *lazy, struct hostmem_error *err)
{
	uint64_t size = lazy->backend->mapping.size, unread;

	pthread_mutex_lock(&lazy->lock);
	unread = lazy->unread_units * lazy->unit;
	if (err)
		*err = lazy->error;
	pthread_mutex_unlock(&lazy->lock);
	return unread < size ? unread : size;
}

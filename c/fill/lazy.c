/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Memory whose contents are read when they are needed: a userfaultfd on which a thread that touches
 * unread contents waits, a thread that serves it, and reading ahead for the workers of a fill. A
 * touch never finds zero instead of contents, also when the image cannot be read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "compat.h"
#include "internal.h"

enum unit {
	UNIT_UNREAD,
	/* By a thread, which others wait for. */
	UNIT_READING,
	UNIT_READ,
};

/* The state of a unit is the lower part of its byte. */
#define UNIT_STATE 3u
/* It was touched before it was read. */
#define UNIT_FAULTED 4u
/* Pages of it are poisoned. */
#define UNIT_POISONED 8u
/* It was made huge again, where that was needed. */
#define UNIT_HUGE 16u

/* Scratch memory that is kept. */
#define MOST_IDLE 16

/* About what a chunk of a fill is. */
#define FIRST_SIZE UINT64_C(8388608)

struct hm_lazy {
	struct hostmem_backend *backend;
	struct hm_contents contents;
	int fault_fd, stop_event;
	struct hm_staging staging;
	/* Discarded ranges, for which the image is not read any more. */
	struct hm_gaps gaps;
	/* What of contents.order comes next. */
	pthread_mutex_t order_lock;
	size_t order_next;
	pthread_t server;
	bool has_server;
	/* The memory is about to go. */
	atomic_bool stops;
	/* A touch of what cannot be read raises SIGBUS and does not wait. */
	bool poisons;
	void (*failed)(struct hostmem_backend *backend, const struct hostmem_error *err);
	/* Guards what follows. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint8_t *units;
	uint64_t unread_units;
	/* Scratch memory between two chunks of a fill. */
	struct hm_scratch idle[MOST_IDLE];
	size_t idle_len;
	/* Units that were touched before they were read, in order. */
	uint32_t *faulted;
	size_t faulted_len;
	/* Of the first read on demand that failed since the last retry. */
	struct hostmem_error error;
};

/* ---- Reading one unit ---- */

static int read_unit(struct hm_lazy *lazy, uint64_t unit, struct hm_scratch *scratch,
		     struct hm_range *unread)
{
	uint64_t size = lazy->backend->mapping.size, length = lazy->staging.unit;
	struct hm_range rest = { .offset = unit * length, .length = length }, part;
	int result = 0;

	if (rest.length > size - rest.offset)
		rest.length = size - rest.offset;
	/* A discard waits until this has been put in place. */
	hm_gaps_lock(&lazy->gaps);
	while (!result && hm_gaps_next_part(&lazy->gaps, &rest, &part))
		result = hm_staging_read(&lazy->staging, scratch, &lazy->contents, &part, unread);
	hm_gaps_unlock(&lazy->gaps);
	return result;
}

/* Called with the lock held. */
static enum unit get_state(const struct hm_lazy *lazy, uint64_t unit)
{
	return (enum unit)(lazy->units[unit] & UNIT_STATE);
}

/* Called with the lock held. */
static void set_state(struct hm_lazy *lazy, uint64_t unit, enum unit state)
{
	lazy->units[unit] = (uint8_t)((lazy->units[unit] & ~UNIT_STATE) | state);
}

static void end_unit(struct hm_lazy *lazy, uint64_t unit, bool read)
{
	struct hostmem_error err;
	bool all = false, refused = false;

	pthread_mutex_lock(&lazy->lock);
	set_state(lazy, unit, read ? UNIT_READ : UNIT_UNREAD);
	if (read)
		lazy->units[unit] &= (uint8_t)~UNIT_POISONED;
	if (read)
		all = !--lazy->unread_units;
	if (all)
		refused = hm_staging_allow_huge(&lazy->staging, &err);
	pthread_cond_broadcast(&lazy->changed);
	pthread_mutex_unlock(&lazy->lock);
	if (refused)
		hm_backend_warn(lazy->backend, HM_PROPERTY_THP, HM_WARNING_EFFECT,
				"huge pages stay off: madvise failed when all contents were read "
				"(%s); set it again",
				strerror(err.os_error));
	if (!all)
		return;
	/* Nobody has to be held back any more. */
	atomic_store(&lazy->backend->unread, false);
	hm_os_event_signal(lazy->stop_event);
}

/* Reads a unit, or waits for the thread that reads it, unless it was read. */
static int need_unit(struct hm_lazy *lazy, uint64_t unit, struct hm_scratch *scratch,
		     struct hm_range *unread)
{
	bool read;
	int result;

	unread->length = 0;
	pthread_mutex_lock(&lazy->lock);
	while (get_state(lazy, unit) == UNIT_READING)
		pthread_cond_wait(&lazy->changed, &lazy->lock);
	read = get_state(lazy, unit) == UNIT_READ;
	if (!read)
		set_state(lazy, unit, UNIT_READING);
	pthread_mutex_unlock(&lazy->lock);
	if (read)
		return 0;
	result = read_unit(lazy, unit, scratch, unread);
	end_unit(lazy, unit, !result);
	return result;
}

static int read_range(struct hm_lazy *lazy, const struct hm_range *range,
		      struct hm_scratch *scratch, struct hm_range *unread)
{
	uint64_t end = range->offset + range->length, size = lazy->staging.unit;
	int result = 0;

	unread->length = 0;
	for (uint64_t unit = range->offset / size; !result && unit * size < end; unit++)
		result = need_unit(lazy, unit, scratch, unread);
	return result;
}

static void take_scratch(struct hm_lazy *lazy, struct hm_scratch *scratch)
{
	*scratch = (struct hm_scratch){ 0 };
	pthread_mutex_lock(&lazy->lock);
	if (lazy->idle_len)
		*scratch = lazy->idle[--lazy->idle_len];
	pthread_mutex_unlock(&lazy->lock);
}

/*
 * Making it anew for each chunk changes the address space, for which all threads' faults wait. It
 * is kept where it has no page, since all were moved.
 */
static void give_back(struct hm_lazy *lazy, const struct hm_scratch *scratch)
{
	bool keeps = scratch->base && lazy->staging.way == HM_STAGING_MOVE && !scratch->dirty;

	pthread_mutex_lock(&lazy->lock);
	keeps = keeps && lazy->unread_units && lazy->idle_len < MOST_IDLE;
	if (keeps)
		lazy->idle[lazy->idle_len++] = *scratch;
	pthread_mutex_unlock(&lazy->lock);
	if (!keeps)
		hm_scratch_free(scratch);
}

/* While no thread reads any more, or when all was read. */
static void free_idle(struct hm_lazy *lazy)
{
	struct hm_scratch scratch;

	for (;;) {
		take_scratch(lazy, &scratch);
		if (!scratch.base)
			return;
		hm_scratch_free(&scratch);
	}
}

int hm_lazy_read(struct hm_lazy *lazy, const struct hm_range *range, struct hm_range *unread)
{
	struct hm_scratch scratch;
	int result;

	take_scratch(lazy, &scratch);
	result = read_range(lazy, range, &scratch, unread);
	give_back(lazy, &scratch);
	return result;
}

/* Zero, unit by unit, for what was discarded. Called with the gaps locked. */
static int put_zeros(struct hm_lazy *lazy, struct hm_range gap, struct hm_scratch *scratch)
{
	uint64_t size = lazy->staging.unit, end = gap.offset + gap.length;
	int result = 0;

	while (!result && gap.offset < end) {
		uint64_t unit_end = gap.offset - gap.offset % size + size;

		gap.length = (unit_end < end ? unit_end : end) - gap.offset;
		result = hm_staging_put_zero(&lazy->staging, scratch, &gap);
		gap.offset += gap.length;
	}
	return result;
}

/* Called with the gaps locked. */
static int fill_gaps(struct hm_lazy *lazy, const struct hm_range *range, struct hm_scratch *scratch)
{
	struct hm_range rest = *range, part, gap = *range;
	int result = 0;

	while (!result && hm_gaps_next_part(&lazy->gaps, &rest, &part)) {
		gap.length = part.offset - gap.offset;
		result = put_zeros(lazy, gap, scratch);
		gap.offset = part.offset + part.length;
	}
	gap.length = range->offset + range->length - gap.offset;
	return result ? result : put_zeros(lazy, gap, scratch);
}

int hm_lazy_fill_gaps(struct hm_lazy *lazy, const struct hm_range *range)
{
	struct hm_scratch scratch;
	int result = 0;

	take_scratch(lazy, &scratch);
	hm_gaps_lock(&lazy->gaps);
	/* When all was read the kernel makes zeros by itself. */
	if (atomic_load(&lazy->backend->unread))
		result = fill_gaps(lazy, range, &scratch);
	hm_gaps_unlock(&lazy->gaps);
	give_back(lazy, &scratch);
	return result;
}

/* Takes the next part of the order; false when there is none. */
static bool take_first(struct hm_lazy *lazy, struct hm_range *part)
{
	struct hm_order *order = &lazy->contents.order;
	bool there;

	pthread_mutex_lock(&lazy->order_lock);
	there = lazy->order_next < order->len;
	if (there) {
		struct hm_range *range = &order->ranges[lazy->order_next];

		*part = *range;
		if (part->length > FIRST_SIZE)
			part->length = FIRST_SIZE;
		range->offset += part->length;
		range->length -= part->length;
		lazy->order_next += !range->length;
	}
	pthread_mutex_unlock(&lazy->order_lock);
	return there;
}

bool hm_lazy_read_first(struct hm_lazy *lazy)
{
	struct hm_scratch scratch;
	uint64_t bytes = 0;
	struct hm_range part, unread;

	take_scratch(lazy, &scratch);
	while (bytes < FIRST_SIZE && take_first(lazy, &part)) {
		/* The fill meets a failure again, where it comes to it. */
		read_range(lazy, &part, &scratch, &unread);
		bytes += part.length;
	}
	give_back(lazy, &scratch);
	return bytes;
}

/* ---- Serving ---- */

static void format_failure(const struct hm_lazy *lazy, uint64_t offset, int result,
			   const struct hm_range *unread, struct hostmem_error *err)
{
	const char *id = lazy->backend->label;
	const char *then = lazy->poisons
				   ? "a thread that touches them gets SIGBUS"
				   : "a thread that touches them waits until contents are retried";

	if (unread->length)
		hm_fail(err, hm_error_kind_of(-result), -result,
			"%s: contents: cannot read %ju bytes at offset %ju of the image: %s; %s",
			id, (uintmax_t)unread->length, (uintmax_t)unread->offset, strerror(-result),
			then);
	else
		hm_fail(err, hm_error_kind_of(-result), -result,
			"%s: contents: cannot put them in place at offset %ju of the memory: %s; "
			"%s",
			id, (uintmax_t)offset, strerror(-result), then);
}

/* Only the first one counts, until contents are retried. */
static void keep_failure(struct hm_lazy *lazy, uint64_t offset, int result,
			 const struct hm_range *unread)
{
	struct hostmem_error err;
	bool first;

	format_failure(lazy, offset, result, unread, &err);
	pthread_mutex_lock(&lazy->lock);
	first = !lazy->error.kind;
	if (first)
		lazy->error = err;
	pthread_mutex_unlock(&lazy->lock);
	if (first)
		lazy->failed(lazy->backend, &err);
}

/* The page alone: others of the unit are tried again when they are touched. */
static void poison(struct hm_lazy *lazy, uint64_t offset)
{
	uint64_t page = lazy->backend->page_size, unit = offset / lazy->staging.unit;

	pthread_mutex_lock(&lazy->lock);
	lazy->units[unit] |= UNIT_POISONED;
	pthread_mutex_unlock(&lazy->lock);
	hm_fault_poison(lazy->fault_fd, lazy->backend->mapping.address + (offset - offset % page),
			page);
}

/* A unit that is read already is not counted: it was only discarded. */
static void keep_faulted(struct hm_lazy *lazy, uint64_t unit)
{
	pthread_mutex_lock(&lazy->lock);
	if (get_state(lazy, unit) != UNIT_READ && !(lazy->units[unit] & UNIT_FAULTED)) {
		lazy->units[unit] |= UNIT_FAULTED;
		lazy->faulted[lazy->faulted_len++] = (uint32_t)unit;
	}
	pthread_mutex_unlock(&lazy->lock);
}

/* What is absent though its unit was read was discarded, and is zero. */
static int serve_page(struct hm_lazy *lazy, uint64_t offset, struct hm_scratch *scratch,
		      struct hm_range *unread)
{
	uint64_t page = lazy->backend->page_size;
	const struct hm_range range = { .offset = offset - offset % page, .length = page };
	int result = need_unit(lazy, offset / lazy->staging.unit, scratch, unread);

	if (result)
		return result;
	/* It must not be discarded between being made and being put in place. */
	hm_gaps_lock(&lazy->gaps);
	result = hm_staging_put_zero(&lazy->staging, scratch, &range);
	hm_gaps_unlock(&lazy->gaps);
	return result;
}

/* Once, after it was read. */
static void keep_huge(struct hm_lazy *lazy, uint64_t unit)
{
	bool before;

	pthread_mutex_lock(&lazy->lock);
	before = lazy->units[unit] & UNIT_HUGE;
	lazy->units[unit] |= UNIT_HUGE;
	pthread_mutex_unlock(&lazy->lock);
	if (!before)
		hm_staging_keep_huge(&lazy->staging, unit * lazy->staging.unit);
}

static void serve_fault(struct hm_lazy *lazy, const uint8_t *address, struct hm_scratch *scratch)
{
	uint64_t offset = (uint64_t)(address - lazy->backend->mapping.address);
	struct hm_range unread;
	int result;

	keep_faulted(lazy, offset / lazy->staging.unit);
	result = serve_page(lazy, offset, scratch, &unread);
	if (!result) {
		keep_huge(lazy, offset / lazy->staging.unit);
		return;
	}
	keep_failure(lazy, offset, result, &unread);
	if (lazy->poisons)
		poison(lazy, offset);
}

/*
 * When all was read, or with the memory about to go. Wakes the threads that still wait. False when
 * the memory stays registered, and has to be served further.
 */
static bool end_serving(struct hm_lazy *lazy)
{
	const struct hm_mapping *mapping = &lazy->backend->mapping;
	bool ends;

	/* Until zeros that are being put are in place. */
	hm_rwlock_write(&lazy->gaps.lock);
	ends = !hm_fault_unregister(lazy->fault_fd, mapping->address, mapping->size);
	if (!ends)
		hm_os_event_clear(lazy->stop_event);
	/* Closing the descriptor then does the same. */
	ends = ends || atomic_load(&lazy->stops);
	if (ends)
		hm_staging_end(&lazy->staging);
	hm_rwlock_unlock(&lazy->gaps.lock);
	return ends;
}

static void *serve(void *data)
{
	struct hm_lazy *lazy = data;
	struct hm_scratch scratch = { 0 };
	uint8_t *address;
	int result;

	hm_call_name_thread(lazy->backend->host, lazy->backend->id);
	do {
		while ((result = hm_fault_wait(lazy->fault_fd, lazy->stop_event, &address))) {
			/* Nobody is let go for a failure of ours: they would find zero. */
			if (result > 0)
				serve_fault(lazy, address, &scratch);
		}
	} while (!end_serving(lazy));
	hm_scratch_free(&scratch);
	free_idle(lazy);
	return NULL;
}

/* ---- Beginning and ending ---- */

static int fail_start(const struct hm_lazy *lazy, const char *what, int result,
		      struct hostmem_error *err)
{
	return hm_fail(err, hm_error_kind_of(-result), -result, "%s: contents: cannot %s: %s",
		       lazy->backend->label, what, strerror(-result));
}

static int open_fault(struct hm_lazy *lazy, const struct hm_values *values,
		      struct hostmem_error *err)
{
	struct hm_fault_features features;
	int result;

	lazy->fault_fd = hm_fault_open_kernel(&features);
	if (lazy->fault_fd < 0)
		return hm_contents_fail_faults(lazy->backend, -lazy->fault_fd, err);
	if (lazy->poisons && !features.poison)
		return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, 0,
			       "%s: contents-poison=on needs Linux 6.6; use contents-poison=off",
			       lazy->backend->label);
	result = hm_staging_begin(&lazy->staging, lazy->backend, values, lazy->fault_fd,
				  features.move);
	return result ? fail_start(lazy, "register with the userfaultfd", result, err) : 0;
}

static int start(struct hm_lazy *lazy, const struct hm_values *values, struct hostmem_error *err)
{
	uint64_t size = lazy->backend->mapping.size;
	int result;

	if (open_fault(lazy, values, err))
		return -1;
	lazy->unread_units = (size + lazy->staging.unit - 1) / lazy->staging.unit;
	lazy->units = calloc(lazy->unread_units, sizeof(lazy->units[0]));
	lazy->faulted = calloc(lazy->unread_units, sizeof(lazy->faulted[0]));
	if (!lazy->units || !lazy->faulted)
		return hm_fail_alloc(err);
	lazy->stop_event = hm_os_event_open();
	if (lazy->stop_event < 0)
		return fail_start(lazy, "make an eventfd", lazy->stop_event, err);
	result = hm_thread_create(&lazy->server, serve, lazy);
	if (result)
		return fail_start(lazy, "create a thread", result, err);
	lazy->has_server = true;
	atomic_store(&lazy->backend->unread, true);
	return 0;
}

int hm_lazy_start(struct hostmem_backend *backend, const struct hm_values *values,
		  struct hm_contents *contents,
		  void (*failed)(struct hostmem_backend *backend, const struct hostmem_error *err),
		  struct hostmem_error *err)
{
	struct hm_lazy *lazy = calloc(1, sizeof(*lazy));

	if (!lazy)
		return hm_fail_alloc(err);
	*lazy = (struct hm_lazy){
		.backend = backend,
		.contents = *contents,
		.fault_fd = -1,
		.stop_event = -1,
		.poisons = values->contents_poison,
		.failed = failed,
	};
	*contents = (struct hm_contents){ .fd = -1, .direct_fd = -1 };
	hm_gaps_init(&lazy->gaps);
	pthread_mutex_init(&lazy->order_lock, NULL);
	pthread_mutex_init(&lazy->lock, NULL);
	pthread_cond_init(&lazy->changed, NULL);
	backend->lazy = lazy;
	/* On failure hm_lazy_stop() follows, when completing is undone. */
	return start(lazy, values, err);
}

void hm_lazy_stop(struct hostmem_backend *backend)
{
	struct hm_lazy *lazy = backend->lazy;
	/* A forked child has the descriptors, and neither the thread nor the memory. */
	bool forked = hm_backend_is_forked(backend);

	if (!lazy)
		return;
	backend->lazy = NULL;
	atomic_store(&backend->unread, false);
	if (lazy->has_server && !forked) {
		atomic_store(&lazy->stops, true);
		hm_os_event_signal(lazy->stop_event);
		pthread_join(lazy->server, NULL);
	}
	/* A forked child does not have it. */
	if (!forked)
		free_idle(lazy);
	hm_staging_end(&lazy->staging);
	if (lazy->fault_fd >= 0)
		hm_os_close(lazy->fault_fd);
	if (lazy->stop_event >= 0)
		hm_os_close(lazy->stop_event);
	hm_contents_close(&lazy->contents);
	hm_gaps_destroy(&lazy->gaps);
	if (!forked)
		pthread_cond_destroy(&lazy->changed);
	pthread_mutex_destroy(&lazy->lock);
	pthread_mutex_destroy(&lazy->order_lock);
	free(lazy->faulted);
	free(lazy->units);
	free(lazy);
}

int hm_lazy_discard(struct hm_lazy *lazy, const struct hm_range *range,
		    int (*discard)(const struct hostmem_backend *backend,
				   const struct hm_range *range))
{
	return hm_gaps_add(&lazy->gaps, range, discard, lazy->backend);
}

int hm_lazy_advise_thp(struct hm_lazy *lazy, enum hm_thp thp, struct hostmem_error *err)
{
	int result;

	/* All may have been read meanwhile. */
	pthread_mutex_lock(&lazy->lock);
	result = hm_staging_advise_thp(&lazy->staging, thp, err);
	pthread_mutex_unlock(&lazy->lock);
	return result;
}

int hm_lazy_follow_policy(struct hm_lazy *lazy, const struct hm_values *values)
{
	int result = hm_staging_follow(&lazy->staging, values);

	/* Until what is being read is in place. */
	hm_rwlock_write(&lazy->gaps.lock);
	hm_rwlock_unlock(&lazy->gaps.lock);
	return result;
}

/* The kernel does not ask for them again. */
static void retry_poisoned(struct hm_lazy *lazy)
{
	uint64_t len = (lazy->backend->mapping.size + lazy->staging.unit - 1) / lazy->staging.unit;
	struct hm_scratch scratch = { 0 };

	for (uint64_t unit = 0; unit < len; unit++) {
		struct hm_range unread;
		int result = 0;
		bool poisoned;

		pthread_mutex_lock(&lazy->lock);
		poisoned = lazy->units[unit] & UNIT_POISONED;
		pthread_mutex_unlock(&lazy->lock);
		if (poisoned)
			result = need_unit(lazy, unit, &scratch, &unread);
		if (result)
			keep_failure(lazy, unit * lazy->staging.unit, result, &unread);
	}
	hm_scratch_free(&scratch);
}

void hm_lazy_retry(struct hm_lazy *lazy)
{
	const struct hm_mapping *mapping = &lazy->backend->mapping;

	pthread_mutex_lock(&lazy->lock);
	lazy->error = (struct hostmem_error){ 0 };
	pthread_mutex_unlock(&lazy->lock);
	if (lazy->poisons)
		retry_poisoned(lazy);
	/* Each then touches its page again, which asks for it again. */
	hm_fault_wake(lazy->fault_fd, mapping->address, mapping->size);
}

uint64_t hm_lazy_get_unit(const struct hm_lazy *lazy)
{
	return lazy->staging.unit;
}

uint64_t hm_lazy_count_unread(struct hm_lazy *lazy, struct hostmem_error *err)
{
	uint64_t size = lazy->backend->mapping.size, unread;

	pthread_mutex_lock(&lazy->lock);
	unread = lazy->unread_units * lazy->staging.unit;
	if (err)
		*err = lazy->error;
	pthread_mutex_unlock(&lazy->lock);
	return unread < size ? unread : size;
}

size_t hm_lazy_get_faulted(struct hm_lazy *lazy, struct hostmem_range *ranges, size_t size)
{
	uint64_t unit = lazy->staging.unit, end = lazy->backend->mapping.size;
	size_t len;

	pthread_mutex_lock(&lazy->lock);
	len = lazy->faulted_len;
	for (size_t i = 0; i < len && i < size; i++) {
		uint64_t offset = lazy->faulted[i] * unit;

		ranges[i].offset = offset;
		ranges[i].length = unit < end - offset ? unit : end - offset;
	}
	pthread_mutex_unlock(&lazy->lock);
	return len;
}

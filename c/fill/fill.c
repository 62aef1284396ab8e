/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The fill of one range of a backend's memory: a queue of chunks that workers take and populate,
 * and what of it is absent. Skips what was discarded meanwhile.
 */
#include <sys/stat.h>

#include "internal.h"

#define MIB UINT64_C(1048576)

/* Small enough that no worker waits for a slow CPU, large enough that taking one costs nothing. */
#define CHUNK_SIZE (8 * MIB)
/* Base pages of this size take as long as the same bytes in huge pages; smaller ones longer. */
#define FAST_PAGE_SIZE UINT64_C(65536)

/* Scrubbing takes this many times less, whatever the pages are. */
#define SCRUB_FACTOR 4

/*
 * Mapping a huge page that the file has takes as long as zeroing so many bytes. Threads hardly
 * share the work inside of one page table, which has room for so many huge pages on most machines.
 */
#define MAPPING_WORK   UINT64_C(8192)
#define PAGES_OF_TABLE 512

/* What populating a file on disk keeps at once, besides page tables: the chunks of a few threads.
 */
#define CACHE_AT_ONCE (8 * MIB)
/* Bytes that are counted between two checks for a cancel. */
#define COUNT_SIZE (64 * MIB)

/* Small pages that so many bytes of the fill take when all of them are absent. */
static uint64_t count_pages(const struct hm_fill *fill, uint64_t length)
{
	return fill->copied ? 2 * length : length;
}

static uint64_t count_absent_in_file(const struct hm_fill *fill, const struct hm_range *range)
{
	const struct hostmem_backend *backend = fill->backend;
	uint8_t *address = fill->address + range->offset;
	uint64_t offset = backend->backing.offset + (uint64_t)(address - backend->mapping.address);
	uint64_t present;

	if (hm_call_count_resident(backend->host, backend->backing.fd, offset, address,
				   range->length, &present))
		return range->length;
	return range->length - present;
}

/*
 * Absent bytes of a range of the fill; all of it when the kernel does not tell. Private writable
 * memory is counted by pages of its own: mincore(2) would count the zero page and the file's.
 */
static uint64_t count_absent(const struct hm_fill *fill, const struct hm_range *range)
{
	const struct hostmem_backend *backend = fill->backend;
	uint64_t own;

	if (backend->shared || backend->readonly)
		return count_absent_in_file(fill, range);
	if (hm_call_count_own(backend->host, fill->address + range->offset, range->length, &own))
		own = 0;
	return range->length - own + (fill->copied ? count_absent_in_file(fill, range) : 0);
}

/* New memory of our own is absent, without asking the kernel. */
static bool is_fresh(const struct hostmem_backend *backend)
{
	return hm_backend_get_state(backend) == HOSTMEM_STATE_COMPLETING &&
	       (backend->backing.fd < 0 || backend->backing.flags & HOSTMEM_BACKING_OWN);
}

/* Nothing is zeroed, read or stored to. */
static bool only_maps(const struct hm_fill *fill)
{
	return fill->plan.filled && !fill->scrubs && !fill->contents && !fill->backend->lazy;
}

/* Small pages take longer, so they are cut finer. A huge page is made by one worker. */
static uint64_t choose_chunk(const struct hm_fill *fill)
{
	const struct hostmem_backend *backend = fill->backend;
	const struct hm_populate *plan = &fill->plan;
	uint64_t chunk = plan->huge_size ? CHUNK_SIZE : CHUNK_SIZE / 4;
	uint64_t least = plan->huge_size ? plan->huge_size : backend->page_size;

	if (only_maps(fill))
		return plan->huge_size * PAGES_OF_TABLE;
	/* Those who map memory wait for a chunk to end, which takes long where CPUs are busy. */
	if (backend->idle)
		chunk /= 4;
	return least > chunk ? least : chunk;
}

/*
 * hugetlb pages come from their own pool, and direct access memory is the device: neither brings
 * the OOM killer. What is on disk can be read again, unless it is locked, but not at once: while a
 * file system writes a page it cannot give others back.
 */
static void find_memory(struct hm_fill *fill)
{
	const struct hostmem_backend *backend = fill->backend;
	bool is_private = !backend->shared && !backend->readonly, in_memory;
	struct hm_file file;

	if (hm_backend_is_hugetlb(backend))
		return;
	fill->most_memory = UINT64_MAX;
	if (backend->backing.fd < 0 || hm_os_stat(backend->backing.fd, &file))
		return;
	in_memory = file.shmem || file.ramfs;
	fill->copied = is_private && in_memory;
	if (is_private || in_memory)
		return;
	if (S_ISCHR(file.mode))
		fill->most_memory = 0;
	else if (!fill->locked)
		fill->most_memory = CACHE_AT_ONCE;
}

/* Pages of hugetlbfs are reserved when they are mapped. */
static void find_room(struct hm_fill *fill)
{
	struct hm_room room;

	fill->takes_room =
		!hm_backend_is_hugetlb(fill->backend) && hm_room_read(fill->backend, &room);
	if (fill->takes_room) {
		fill->device = room.device;
		fill->inode = room.inode;
	}
}

void hm_fill_init(struct hm_fill *fill, const struct hm_prealloc_request *request)
{
	struct hostmem_backend *backend = request->backend;
	const struct hm_values *values = request->values;
	const struct hm_range *range = &request->range;

	*fill = (struct hm_fill){
		.backend = backend,
		.range = *range,
		.address = backend->mapping.address + range->offset,
		.contents = request->contents,
		.nodes = hm_policy_is_strict(values) ? &values->host_nodes : NULL,
		.follows_process = values->policy == HM_POLICY_DEFAULT,
		.context = hm_objects_get_link(backend),
	};
	fill->fresh = is_fresh(backend);
	fill->scrubs = request->scrub;
	fill->locked =
		values->lock || hm_call_is_locked(backend->host, fill->address, range->length);
	if (values->prealloc_watch && !request->scrub) {
		find_memory(fill);
		find_room(fill);
	}
	atomic_store(&fill->absent, (int64_t)count_pages(fill, range->length));
	pthread_mutex_lock(&backend->lock);
	fill->callback = backend->progress;
	fill->callback_data = backend->progress_data;
	pthread_mutex_unlock(&backend->lock);
	hm_populate_begin(&fill->plan, backend, values);
	if (request->scrub)
		hm_scrub_begin(&fill->scrub, backend, values);
	fill->chunk = choose_chunk(fill);
	atomic_store(&backend->bytes_done, 0);
	atomic_store(&backend->bytes_total, range->length);
}

void hm_fill_destroy(struct hm_fill *fill)
{
	hm_populate_end(&fill->plan);
	hm_thread_context_unlink(fill->context);
}

bool hm_fill_begin_again(struct hm_fill *fill)
{
	if (!atomic_load(&fill->again))
		return false;
	atomic_store(&fill->again, false);
	hm_populate_end(&fill->plan);
	fill->fresh = false;
	fill->counted = false;
	atomic_store(&fill->absent, (int64_t)count_pages(fill, fill->range.length));
	atomic_store(&fill->next, 0);
	atomic_store(&fill->backend->bytes_done, 0);
	return true;
}

uint64_t hm_fill_count_work(const struct hm_fill *fill)
{
	uint64_t page = fill->backend->page_size;

	if (fill->scrubs)
		return fill->range.length / SCRUB_FACTOR;
	if (only_maps(fill))
		return fill->range.length / fill->plan.huge_size * MAPPING_WORK;
	if (fill->plan.huge_size || page >= FAST_PAGE_SIZE)
		return fill->range.length;
	return fill->range.length * (FAST_PAGE_SIZE / page);
}

uint64_t hm_fill_count_chunks(const struct hm_fill *fill)
{
	return (fill->range.length + fill->chunk - 1) / fill->chunk;
}

uint64_t hm_fill_count_needed(const struct hm_fill *fill)
{
	uint64_t left =
		count_pages(fill, fill->range.length - atomic_load(&fill->backend->bytes_done));
	int64_t absent = atomic_load(&fill->absent);

	/* Below 0 where others discarded pages that were counted as present. */
	if (absent < 0)
		return 0;
	left = left < (uint64_t)absent ? left : (uint64_t)absent;
	return left < fill->most_memory ? left : fill->most_memory;
}

bool hm_fill_count_absent(struct hm_fill *fill, uint64_t most)
{
	struct hm_range rest = { .offset = atomic_load(&fill->next), .length = 0 };
	uint64_t absent = 0;

	if (!fill->most_memory || fill->fresh || hm_fill_is_all_taken(fill))
		return true;
	while (rest.offset < fill->range.length && absent <= most) {
		if (hm_fill_is_cancelled(fill))
			return false;
		rest.length = fill->range.length - rest.offset;
		if (rest.length > COUNT_SIZE)
			rest.length = COUNT_SIZE;
		absent += count_absent(fill, &rest);
		rest.offset += rest.length;
	}
	fill->counted = true;
	absent += count_pages(fill, fill->range.length - rest.offset);
	atomic_store(&fill->absent, (int64_t)absent);
	return true;
}

bool hm_fill_is_all_taken(const struct hm_fill *fill)
{
	return atomic_load(&fill->next) >= fill->range.length;
}

bool hm_fill_is_cancelled(const struct hm_fill *fill)
{
	return atomic_load(&fill->backend->cancel) && !hm_fill_is_all_taken(fill);
}

/* How far into a huge page a chunk at this offset begins: it is as much shorter. */
static uint64_t find_overlap(const struct hm_fill *fill, uint64_t offset)
{
	uint64_t huge = fill->plan.huge_size;

	return huge ? (uintptr_t)(fill->address + offset) % huge : 0;
}

bool hm_fill_take(struct hm_fill *fill, struct hm_range *chunk)
{
	uint64_t size = fill->range.length;

	chunk->offset = atomic_load(&fill->next);
	do {
		if (chunk->offset >= size)
			return false;
		chunk->length = fill->chunk - find_overlap(fill, chunk->offset);
		if (chunk->length > size - chunk->offset)
			chunk->length = size - chunk->offset;
	} while (!atomic_compare_exchange_weak(&fill->next, &chunk->offset,
					       chunk->offset + chunk->length));
	return true;
}

/* Scrubs a range of the memory, or populates it and reads its contents. */
static int populate_part(struct hm_fill *fill, const struct hm_range *part, struct hm_range *unread)
{
	struct hostmem_backend *backend = fill->backend;
	uint8_t *address = backend->mapping.address + part->offset;
	int result = backend->lazy ? hm_lazy_read(backend->lazy, part, unread) : 0;

	/* Else populating would wait, in the kernel, for a thread that may fail. */
	if (!result && backend->lazy && !fill->scrubs)
		result = hm_lazy_fill_gaps(backend->lazy, part);
	if (!result)
		result = fill->scrubs ? hm_scrub_range(&fill->scrub, address, part->length)
				      : hm_populate_range(&fill->plan, address, part->length);
	if (result == HM_POPULATE_AGAIN) {
		atomic_store(&fill->again, true);
		return 0;
	}
	if (result || !fill->contents)
		return result;
	return hm_contents_read(fill->contents, address, part, unread);
}

/* The same of the parts of a range that were not discarded. */
static int populate_parts(struct hm_fill *fill, struct hm_range rest, struct hm_range *unread)
{
	const struct hostmem_backend *backend = fill->backend;
	struct hm_range part;
	int result = 0;

	while (!result && hm_gaps_next_part(&backend->gaps, &rest, &part))
		result = populate_part(fill, &part, unread);
	return result;
}

int hm_fill_populate(struct hm_fill *fill, const struct hm_range *chunk, struct hm_range *unread)
{
	struct hostmem_backend *backend = fill->backend;
	const struct hm_range memory = { .offset = fill->range.offset + chunk->offset,
					 .length = chunk->length };
	uint64_t absent =
		fill->counted ? count_absent(fill, chunk) : count_pages(fill, chunk->length);
	int result;

	unread->length = 0;
	hm_gaps_lock(&backend->gaps);
	result = populate_parts(fill, memory, unread);
	hm_gaps_unlock(&backend->gaps);
	if (result)
		return result;
	atomic_fetch_sub(&fill->absent, (int64_t)absent);
	atomic_fetch_add(&backend->bytes_done, chunk->length);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Writes memory as a raw image, in parallel, without what is absent or zero. Whether the file is
 * one to write to, and making room in it, is left to the caller.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "internal.h"

#define CHUNK_SIZE           UINT64_C(8388608)
#define CALLBACK_INTERVAL_NS UINT64_C(100000000)
/* Small enough for the stack and to stay in the CPU's cache between reading and writing. */
#define BLOCK_SIZE 65536
/* Base pages of a chunk, none smaller than 4 KiB. */
#define MOST_PAGES (CHUNK_SIZE / 4096)

/* Where the bytes are read from, so that reading makes no page and raises no signal. */
enum source {
	/* The descriptor, which tells its holes. */
	SOURCE_FILE,
	/* The mapping, where pagemap tells what is absent, and that is zero. */
	SOURCE_OWN,
	/* The mapping, each page of which is asked for first. */
	SOURCE_MAPPING,
};

struct save {
	const struct hm_save_request *request;
	struct hostmem_backend *backend;
	enum source source;
	/* The file of the memory again, to look for its holes; -1 where that cannot be had. */
	int file;
	uint64_t page;
	_Atomic uint64_t next, written;
	/* Of the first failure: a positive errno, and where in the memory. */
	_Atomic bool failed;
	pthread_mutex_t lock;
	int error;
	uint64_t failed_offset;
};

/* ---- One chunk ---- */

static bool is_zero(const uint8_t *bytes, uint64_t length)
{
	return !*bytes && !memcmp(bytes, bytes + 1, length - 1);
}

static int write_all(struct save *save, const uint8_t *bytes, struct hm_range range)
{
	const struct hm_save_request *request = save->request;

	atomic_fetch_add(&save->written, range.length);
	while (!request->count_only && range.length) {
		int64_t put = hm_os_write_some(request->fd, bytes, range.length,
					       request->offset + range.offset);

		if (put <= 0)
			return put ? (int)put : -ENOSPC;
		bytes += put;
		range.offset += (uint64_t)put;
		range.length -= (uint64_t)put;
	}
	return 0;
}

/* Writes the bytes of a range of the memory, as few calls as there are runs of pages with data. */
static int write_data(struct save *save, const uint8_t *bytes, const struct hm_range *range)
{
	uint64_t page = save->page, begin = 0, end = 0;
	int result = 0;

	if (save->request->dense)
		return write_all(save, bytes, *range);
	while (!result && end < range->length) {
		bool zero = is_zero(bytes + end, page);

		if (zero && begin < end)
			result = write_all(save, bytes + begin,
					   (struct hm_range){ range->offset + begin, end - begin });
		end += page;
		if (zero)
			begin = end;
	}
	if (result || begin == end)
		return result;
	return write_all(save, bytes + begin,
			 (struct hm_range){ range->offset + begin, end - begin });
}

/* Of nothing but zeros, which have to be written only where no hole can be made. */
static int write_zeros(struct save *save, struct hm_range range)
{
	static const uint8_t zeros[BLOCK_SIZE];
	int result = 0;

	while (save->request->dense && !result && range.length) {
		uint64_t part = range.length < BLOCK_SIZE ? range.length : BLOCK_SIZE;

		result = write_all(save, zeros, (struct hm_range){ range.offset, part });
		range.offset += part;
		range.length -= part;
	}
	return result;
}

/* Copies a range of the backing, all of which is in the file. */
static int copy_file(struct save *save, struct hm_range range)
{
	uint64_t offset = save->backend->backing.offset;
	uint8_t block[BLOCK_SIZE];
	int result = 0;

	while (!result && range.length) {
		uint64_t part = range.length < BLOCK_SIZE ? range.length : BLOCK_SIZE;
		int64_t got = hm_os_read_some(save->backend->backing.fd, block, part,
					      offset + range.offset);

		if (got < 0)
			return (int)got;
		/* Behind the end of a file that others have cut there is nothing to save. */
		if ((uint64_t)got < part)
			return -ENODATA;
		result = write_data(save, block, &(struct hm_range){ range.offset, part });
		range.offset += part;
		range.length -= part;
	}
	return result;
}

/* No data is right up to the end of the memory, where the file is that long still. */
static bool is_cut(const struct save *save)
{
	const struct hostmem_backend *backend = save->backend;
	struct hm_file file;

	return hm_os_stat(save->file, &file) ||
	       file.size < backend->backing.offset + backend->mapping.size;
}

static int save_file(struct save *save, struct hm_range rest)
{
	uint64_t offset = save->backend->backing.offset, end = rest.offset + rest.length;
	int result = 0;

	if (save->file < 0 || !hm_call_is_allowed(save->backend->host, HOSTMEM_CALL_LSEEK))
		return copy_file(save, rest);
	while (!result && rest.length) {
		int64_t data = hm_os_find_data(save->file, offset + rest.offset), hole;
		struct hm_range part = rest;

		if (data < 0 && data != -ENXIO)
			return copy_file(save, rest);
		if (data == -ENXIO && is_cut(save))
			return -ENODATA;
		if (data == -ENXIO || (uint64_t)data - offset > end)
			data = (int64_t)(offset + end);
		part.length = (uint64_t)data - offset - rest.offset;
		result = write_zeros(save, part);
		part.offset += part.length;
		hole = part.offset < end ? hm_os_find_hole(save->file, (uint64_t)data) : data;
		if (hole < 0 || (uint64_t)hole - offset > end)
			hole = (int64_t)(offset + end);
		part.length = (uint64_t)hole - offset - part.offset;
		if (!result && part.length)
			result = copy_file(save, part);
		rest.offset = part.offset + part.length;
		rest.length = end - rest.offset;
	}
	return result;
}

/* Without pagemap all of it is asked for. */
static int save_mapping(struct save *save, const struct hm_range *range)
{
	uint8_t *address = save->backend->mapping.address + range->offset;
	int result = 0;

	if (hm_ranges_overlap(&save->backend->inaccessible, range))
		return -EACCES;
	/* Else touching would wait, in the kernel, for a thread that may fail. */
	if (save->backend->lazy)
		result = hm_lazy_fill_gaps(save->backend->lazy, range);
	for (uint64_t offset = 0; !result && offset < range->length; offset += save->page)
		result = hm_os_touch(address + offset, false);
	return result ? result : write_data(save, address, range);
}

static bool is_there(uint64_t entry)
{
	return entry & (HM_PAGEMAP_PRESENT | HM_PAGEMAP_SWAPPED);
}

static int save_own(struct save *save, const struct hm_range *range)
{
	uint8_t *address = save->backend->mapping.address;
	uint64_t entries[MOST_PAGES];
	uint64_t page = save->page, count = range->length / page, first = 0;
	int result = hm_resident_get_pagemap(address + range->offset, count, entries);

	if (result < 0)
		return save_mapping(save, range);
	result = 0;
	while (!result && first < count) {
		struct hm_range run = { .offset = range->offset + first * page };
		bool there = is_there(entries[first]);
		uint64_t end = first;

		while (end < count && is_there(entries[end]) == there)
			end++;
		run.length = (end - first) * page;
		if (!there)
			result = write_zeros(save, run);
		else if (hm_ranges_overlap(&save->backend->inaccessible, &run))
			result = -EACCES;
		else
			result = write_data(save, address + run.offset, &run);
		first = end;
	}
	return result;
}

static int save_chunk(struct save *save, const struct hm_range *chunk)
{
	/* What is unread is saved too. */
	if (save->backend->lazy) {
		struct hm_range unread;
		int result = hm_lazy_read(save->backend->lazy, chunk, &unread);

		if (result)
			return result;
	}
	switch (save->source) {
	case SOURCE_FILE:
		return save_file(save, *chunk);
	case SOURCE_OWN:
		return save_own(save, chunk);
	case SOURCE_MAPPING:
		return save_mapping(save, chunk);
	}
	return -EINVAL;
}

/* ---- The run ---- */

static void fail(struct save *save, int error, uint64_t offset)
{
	pthread_mutex_lock(&save->lock);
	if (!save->error) {
		save->error = error;
		save->failed_offset = offset;
	}
	pthread_mutex_unlock(&save->lock);
	atomic_store(&save->failed, true);
}

/* Takes one chunk and saves it; false when none is left or the save has failed. */
static bool work(void *data)
{
	struct save *save = data;
	struct hostmem_backend *backend = save->backend;
	struct hm_range chunk = { .length = CHUNK_SIZE };
	uint64_t size = backend->mapping.size;
	int result;

	if (atomic_load(&save->failed) || atomic_load(&save->next) >= size)
		return false;
	if (atomic_load(&backend->cancel)) {
		fail(save, ECANCELED, atomic_load(&save->next));
		return false;
	}
	chunk.offset = atomic_fetch_add(&save->next, CHUNK_SIZE);
	if (chunk.offset >= size)
		return false;
	if (chunk.length > size - chunk.offset)
		chunk.length = size - chunk.offset;
	/* What is discarded meanwhile is there or not, and never touched in between. */
	hm_gaps_lock(&backend->gaps);
	result = save_chunk(save, &chunk);
	hm_gaps_unlock(&backend->gaps);
	if (result < 0)
		fail(save, -result, chunk.offset);
	else
		atomic_fetch_add(&backend->bytes_done, chunk.length);
	return result >= 0;
}

/* Memory of a file is shared with others, so that all of it is in the file. */
static enum source choose_source(const struct hostmem_backend *backend)
{
	const struct hostmem_backing *backing = &backend->backing;
	struct hm_file file;

	if (backing->fd < 0 || (!backend->shared && backing->flags & HOSTMEM_BACKING_OWN))
		return SOURCE_OWN;
	if (backend->shared && !hm_os_stat(backing->fd, &file) &&
	    (S_ISREG(file.mode) || S_ISBLK(file.mode)))
		return SOURCE_FILE;
	return SOURCE_MAPPING;
}

static void set_reporter(struct hostmem_backend *backend, bool running)
{
	pthread_mutex_lock(&backend->lock);
	backend->reporter = pthread_self();
	backend->has_reporter = running;
	pthread_mutex_unlock(&backend->lock);
}

static void report_progress(const struct save *save, uint64_t *next)
{
	const struct hm_save_request *request = save->request;
	uint64_t now = hm_os_nanoseconds();

	if (!request->progress || request->count_only || now < *next)
		return;
	*next = now + CALLBACK_INTERVAL_NS;
	request->progress(request->progress_data, atomic_load(&save->backend->bytes_done),
			  save->backend->mapping.size);
}

/* The caller is one of the threads, and reports. */
static void save_all(struct save *save, uint32_t threads)
{
	struct hm_crew crew = {
		.host = save->backend->host,
		.id = save->backend->id,
		.work = work,
		.data = save,
		.beside_caller = true,
	};
	uint64_t next = hm_os_nanoseconds() + CALLBACK_INTERVAL_NS;
	struct hm_workers workers;

	hm_workers_init(&workers);
	hm_workers_add(&workers, &crew, threads - 1);
	hm_workers_start(&workers);
	while (work(save))
		report_progress(save, &next);
	while (!hm_workers_wait(&workers, CALLBACK_INTERVAL_NS))
		report_progress(save, &next);
	hm_workers_destroy(&workers);
}

static int report_failure(const struct save *save, struct hostmem_error *err)
{
	const char *id = save->backend->label;
	uint64_t done = atomic_load(&save->backend->bytes_done);

	if (save->error == ECANCELED)
		return hm_fail(err, HOSTMEM_ERROR_STATE, ECANCELED,
			       "%s: save: cancelled after %ju of %ju bytes", id, (uintmax_t)done,
			       (uintmax_t)save->backend->mapping.size);
	if (save->error == EACCES)
		return hm_fail(
			err, HOSTMEM_ERROR_VALUE, EACCES,
			"%s: save: memory in the %ju bytes at offset %ju is inaccessible and "
			"has contents: make it accessible, or discard it",
			id, (uintmax_t)CHUNK_SIZE, (uintmax_t)save->failed_offset);
	return hm_fail(err, hm_error_kind_of(save->error), save->error,
		       "%s: save: failed after %ju of %ju bytes, in the %ju bytes at offset %ju of "
		       "the memory: %s",
		       id, (uintmax_t)done, (uintmax_t)save->backend->mapping.size,
		       (uintmax_t)CHUNK_SIZE, (uintmax_t)save->failed_offset,
		       strerror(save->error));
}

int hm_save_run(const struct hm_save_request *request, uint64_t *written, struct hostmem_error *err)
{
	struct hostmem_backend *backend = request->backend;
	uint64_t chunks = (backend->mapping.size + CHUNK_SIZE - 1) / CHUNK_SIZE;
	struct save save = {
		.request = request,
		.backend = backend,
		.source = choose_source(backend),
		.file = -1,
		.page = backend->host->page_size,
	};
	uint64_t threads = request->threads < chunks ? request->threads : chunks;
	int result = 0;

	if (save.source == SOURCE_FILE)
		save.file = hm_os_reopen(backend->backing.fd, O_RDONLY);
	pthread_mutex_init(&save.lock, NULL);
	atomic_store(&backend->bytes_done, 0);
	atomic_store(&backend->bytes_total, backend->mapping.size);
	set_reporter(backend, true);
	save_all(&save, threads ? (uint32_t)threads : 1);
	if (save.error)
		result = report_failure(&save, err);
	else if (request->progress && !request->count_only)
		request->progress(request->progress_data, backend->mapping.size,
				  backend->mapping.size);
	set_reporter(backend, false);
	pthread_mutex_destroy(&save.lock);
	if (save.file >= 0)
		hm_os_close(save.file);
	*written = atomic_load(&save.written);
	return result;
}

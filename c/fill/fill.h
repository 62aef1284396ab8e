/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The folder fill: preallocates or scrubs ranges of one or several backends at once.
 */
#ifndef HOSTMEM_FILL_H
#define HOSTMEM_FILL_H

#include "memory.h"

/* ---- order.c: which contents are read first ---- */

/* Ranges of the memory. */
struct hm_order {
	struct hm_range *ranges;
	size_t len;
};

/* Of the file of contents-order, if there is one; hm_order_free() follows, also on failure. */
int hm_order_read(struct hm_order *order, const struct hostmem_backend *backend,
		  const struct hm_values *values, struct hostmem_error *err);
void hm_order_free(struct hm_order *order);

/* ---- contents.c: the image that memory begins with ---- */

/* An open image; -1: none. Behind `length` bytes the memory is zero. */
struct hm_contents {
	int fd;
	/* The same past the page cache (O_DIRECT); -1: it is read through `fd` alone. */
	int direct_fd;
	/* Its holes are not looked for. */
	bool dense;
	uint64_t offset, length;
	struct hm_order order;
};

/* Whether an image can be used as the values say; touches nothing. */
int hm_contents_check(const struct hostmem_backend *backend, const struct hm_values *values,
		      struct hostmem_error *err);
/* Opens the image, if there is one, once the backing is made. */
int hm_contents_open(struct hm_contents *contents, const struct hostmem_backend *backend,
		     const struct hm_values *values, struct hostmem_error *err);
void hm_contents_close(struct hm_contents *contents);
/*
 * Reads what the image has for a range of the memory, which is at the address and reads as zero;
 * holes are left out. Returns 0, or -errno with what could not be read, as a range of the image.
 */
int hm_contents_read(const struct hm_contents *contents, uint8_t *address,
		     const struct hm_range *range, struct hm_range *unread);

/* For what is read on demand there is no userfaultfd. */
int hm_contents_fail_faults(const struct hostmem_backend *backend, int os_error,
			    struct hostmem_error *err);
/* Whether the image is read when it is needed, not while completing. */
bool hm_contents_is_lazy(const struct hm_values *values);

/* ---- lazy.c: contents that are read on demand ---- */

/*
 * From here on a thread that touches the memory waits until its contents are in place. Takes the
 * image over. failed: called for the first read on demand that fails, and that after each retry.
 * Whether it fails or not, hm_lazy_stop() has to follow.
 */
int hm_lazy_start(struct hostmem_backend *backend, const struct hm_values *values,
		  struct hm_contents *contents,
		  void (*failed)(struct hostmem_backend *backend, const struct hostmem_error *err),
		  struct hostmem_error *err);
/* Ends it, if there is any; before the memory is unmapped. */
void hm_lazy_stop(struct hostmem_backend *backend);
/*
 * Reads the contents of a range of the memory that are unread. Returns 0, or -errno with what could
 * not be read, as a range of the image.
 */
int hm_lazy_read(struct hm_lazy *lazy, const struct hm_range *range, struct hm_range *unread);
/*
 * Puts zero where a discard has made pages of a range absent, so that no thread has to be served
 * when it touches the range, of which the contents were read. Returns 0 or -errno.
 */
int hm_lazy_fill_gaps(struct hm_lazy *lazy, const struct hm_range *range);
/*
 * Reads some of what contents-order names, in turn; false when all of it was. What cannot be read
 * is left out.
 */
bool hm_lazy_read_first(struct hm_lazy *lazy);
/* Discards a range, which is not read any more. Returns 0, -ENOMEM or the result of discard. */
int hm_lazy_discard(struct hm_lazy *lazy, const struct hm_range *range,
		    int (*discard)(const struct hostmem_backend *backend,
				   const struct hm_range *range));
/* Gives the advice for huge pages, now or when all was read. */
int hm_lazy_advise_thp(struct hm_lazy *lazy, enum hm_thp thp, struct hostmem_error *err);
/*
 * Before the memory gets the policy of `values`: what is unread follows it too. Returns 0 or
 * -errno.
 */
int hm_lazy_follow_policy(struct hm_lazy *lazy, const struct hm_values *values);
/* Reads again what could not be read, for the threads that wait for it. */
void hm_lazy_retry(struct hm_lazy *lazy);
/* What is read at once: no mapping may end inside it while contents are unread. */
uint64_t hm_lazy_get_unit(const struct hm_lazy *lazy);
/* Bytes; *err, unless NULL: of the first failure since the last retry, or kind 0. */
uint64_t hm_lazy_count_unread(struct hm_lazy *lazy, struct hostmem_error *err);
/* Writes at most `size` of the ranges that were read on demand, in order; returns how many. */
size_t hm_lazy_get_faulted(struct hm_lazy *lazy, struct hostmem_range *ranges, size_t size);

/* ---- prealloc.c ---- */

/* A range of a backend's memory to populate or to scrub, and where its result goes. */
struct hm_prealloc_request {
	struct hostmem_backend *backend;
	const struct hm_values *values;
	struct hm_range range;
	/* Present pages become zero and absent ones stay so; else all are made present. */
	bool scrub;
	/* What is read into it once it is populated; NULL: nothing. */
	const struct hm_contents *contents;
	struct hostmem_prealloc_result *result;
};

/* Populates or scrubs all ranges together. Returns 0 with all results, or -1 with the first
 * failure. */
int hm_prealloc_run(const struct hm_prealloc_request *requests, size_t len,
		    struct hostmem_error *err);
/* Whether the watch would let the range be populated now. Populates nothing. */
bool hm_prealloc_fits(const struct hm_prealloc_request *request);

/* ---- save.c ---- */

/* Writing all of a backend's memory to a file, from an offset in it on. */
struct hm_save_request {
	struct hostmem_backend *backend;
	int fd;
	uint64_t offset;
	uint64_t threads;
	/* Zeros have to be written too, since the range of the file is not one hole. */
	bool dense;
	/* Nothing is written, only what would be is counted. */
	bool count_only;
	hostmem_progress_callback progress;
	void *progress_data;
};

/* *written: bytes written, the rest being holes. */
int hm_save_run(const struct hm_save_request *request, uint64_t *written,
		struct hostmem_error *err);

#endif

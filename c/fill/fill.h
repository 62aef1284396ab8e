/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The folder fill: preallocates or scrubs ranges of one or several backends at once.
 */
#ifndef HOSTMEM_FILL_H
#define HOSTMEM_FILL_H

#include "memory.h"

/* A range of a backend's memory to populate or to scrub, and where its result goes. */
struct hm_prealloc_request {
	struct hostmem_backend *backend;
	const struct hm_values *values;
	struct hm_range range;
	/* Present pages become zero and absent ones stay so; else all are made present. */
	bool scrub;
	struct hostmem_prealloc_result *result;
};

/* Populates or scrubs all ranges together. Returns 0 with all results, or -1 with the first
 * failure. */
int hm_prealloc_run(const struct hm_prealloc_request *requests, size_t len,
		    struct hostmem_error *err);
/* Whether the watch would let the range be populated now. Populates nothing. */
bool hm_prealloc_fits(const struct hm_prealloc_request *request);

#endif

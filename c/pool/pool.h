/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The folder pool: backends that are complete before they are asked for. Above life, because a pool
 * completes and deletes backends as any caller does; below api, which makes its template from text.
 */
#ifndef HOSTMEM_POOL_H
#define HOSTMEM_POOL_H

#include "life.h"

/* Whether backends with the template's values can be kept ready, as many as `count`. */
int hm_template_check(const struct hostmem_backend *template, uint32_t count,
		      struct hostmem_error *err);
/* A backend in state configuring with the same values, whose id is not in its set. */
struct hostmem_backend *hm_template_copy(const struct hostmem_backend *template,
					 struct hostmem_error *err);
/* Whether the memory of a complete backend is its own; another one would have the same. */
int hm_template_check_own(const struct hostmem_backend *backend, struct hostmem_error *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The folder api: the public functions that take names and text.
 */
#ifndef HOSTMEM_API_H
#define HOSTMEM_API_H

#include "kind.h"
#include "pool.h"

/* ---- props.c ---- */

int hm_props_set_compat(struct hostmem_backend *backend, const char *property, const char *text,
			struct hostmem_error *err);

/* ---- create.c ---- */

/* A backend in state configuring whose id, any text, is not in the set. */
int hm_create_unlisted(struct hostmem_objects *objects, struct hostmem_backend **backend,
		       const char *kind, const char *id, struct hostmem_error *err);
/* Whether there are backends of this kind. */
int hm_create_check_kind(struct hostmem_objects *objects, const char *kind,
			 struct hostmem_error *err);

#endif

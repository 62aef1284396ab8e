/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The folder kind: the kinds of backends that come with the library, each a table of operations,
 * and what is done with the backing that a kind, also an embedder's, has made.
 */
#ifndef HOSTMEM_KIND_H
#define HOSTMEM_KIND_H

#include "memory.h"

/* ---- kinds.c ---- */

/* The table of each kind; its functions are in the file of that name. */
extern const struct hostmem_kind hm_kind_fd;
extern const struct hostmem_kind hm_kind_file;
extern const struct hostmem_kind hm_kind_memfd;
extern const struct hostmem_kind hm_kind_ram;
extern const struct hostmem_kind hm_kind_shm;

/* Registers the kinds of the library, as an embedder registers its own. */
int hm_kinds_register(struct hostmem_objects *objects, struct hostmem_error *err);

/* ---- backing.c ---- */

/* Has the kind make the backing, and checks it. On failure hm_backing_undo() has to follow. */
int hm_backing_make(struct hostmem_backend *backend, const struct hm_values *values,
		    struct hostmem_error *err);
int hm_backing_seal(const struct hostmem_backend *backend, struct hostmem_error *err);
/* Discards the contents on delete, where discard-data asks for it. */
void hm_backing_discard_data(const struct hostmem_backend *backend);
/* Closes the backing, if there is one. failed: completing failed, so what it made goes too, and
 * what has to stay is appended to err. */
void hm_backing_undo(struct hostmem_backend *backend, bool failed, struct hostmem_error *err);

/* ---- memfd.c ---- */

/*
 * Makes a memfd of that many bytes, of pages of that size (0: small ones). Returns its descriptor
 * or -1.
 */
int hm_memfd_create(const struct hostmem_backend *backend, uint64_t size, uint64_t page_size,
		    struct hostmem_error *err);

#endif

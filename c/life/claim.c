/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Claims of ready memory, and whether a claim can be cut into given pieces for a guest. The caller
 * keeps the list of pieces, since it hands them out.
 */
#include <stdio.h>
#include <string.h>

#include "life.h"

/* Called with the lock held. */
static int claim_locked(struct hostmem_backend *backend, const char *owner,
			struct hostmem_error *err)
{
	if (backend->state == HOSTMEM_STATE_MAPPED)
		return hm_fail(err, HOSTMEM_ERROR_BUSY, 0,
			       "%s: cannot be claimed by '%s': '%s' holds it", backend->label,
			       owner, backend->owner);
	if (backend->state != HOSTMEM_STATE_READY)
		return hm_fail(err, HOSTMEM_ERROR_STATE, 0,
			       "%s: cannot be claimed while it is %s; complete it first",
			       backend->label, hm_text_state(backend->state));
	backend->state = HOSTMEM_STATE_MAPPED;
	hm_text_copy(owner, backend->owner, sizeof(backend->owner));
	return 0;
}

int hostmem_backend_claim(struct hostmem_backend *backend, const char *owner,
			  struct hostmem_error *err)
{
	int result;

	if (!*owner || strlen(owner) > HOSTMEM_ID_MAX)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: an owner's name has 1 to %d bytes, this one has %zu",
			       backend->label, HOSTMEM_ID_MAX, strlen(owner));
	hm_backend_enter(backend);
	pthread_mutex_lock(&backend->lock);
	result = claim_locked(backend, owner, err);
	pthread_mutex_unlock(&backend->lock);
	return result;
}

int hostmem_backend_release(struct hostmem_backend *backend, struct hostmem_error *err)
{
	enum hostmem_state state;

	hm_backend_enter(backend);
	pthread_mutex_lock(&backend->lock);
	state = backend->state;
	if (state == HOSTMEM_STATE_MAPPED) {
		backend->state = HOSTMEM_STATE_READY;
		backend->owner[0] = '\0';
	}
	pthread_mutex_unlock(&backend->lock);
	if (state == HOSTMEM_STATE_MAPPED)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_STATE, 0,
		       "%s: cannot be released: it is not claimed, it is %s", backend->label,
		       hm_text_state(state));
}

/* ---- The descriptor ---- */

int hostmem_backend_get_shared_fd(const struct hostmem_backend *backend, int32_t *fd,
				  struct hostmem_error *err)
{
	struct hostmem_memory memory;

	if (hostmem_backend_get_memory(backend, &memory, err))
		return -1;
	if (!memory.shared)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: the memory is private to this process; make the backend with "
			       "share=on to share it with another",
			       backend->label);
	if (memory.fd < 0)
		return hm_fail(err, HOSTMEM_ERROR_BUSY, 0,
			       "%s: contents are not all read, and another process would find zero "
			       "instead: share the memory once the fill has ended",
			       backend->label);
	*fd = memory.fd;
	return 0;
}

/* ---- Pieces ---- */

static int fail_piece(const struct hostmem_backend *backend, const struct hostmem_piece *piece,
		      struct hostmem_error *err, const char *why)
{
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: piece of %ju bytes at offset %ju for guest address 0x%jx: %s",
		       backend->label, (uintmax_t)piece->length, (uintmax_t)piece->offset,
		       (uintmax_t)piece->guest_address, why);
}

static int fail_offset(const struct hostmem_backend *backend, const struct hostmem_memory *memory,
		       const struct hostmem_piece *piece, struct hostmem_error *err)
{
	char why[128];

	snprintf(why, sizeof(why), "its offset is no multiple of the page size, %ju bytes",
		 (uintmax_t)memory->page_size);
	return fail_piece(backend, piece, err, why);
}

static bool has_guest_address(const struct hostmem_piece *piece)
{
	return piece->guest_address != UINT64_MAX;
}

/* Neither end wraps: both were checked. */
static bool overlap(uint64_t start, uint64_t length, uint64_t other, uint64_t other_length)
{
	return start < other + other_length && other < start + length;
}

static int check_bounds(const struct hostmem_backend *backend, const struct hostmem_memory *memory,
			const struct hostmem_piece *piece, struct hostmem_error *err)
{
	if (!piece->length)
		return fail_piece(backend, piece, err, "it is empty");
	if (piece->offset > memory->size || piece->length > memory->size - piece->offset)
		return fail_piece(backend, piece, err, "it is not inside the memory");
	if (piece->offset % memory->page_size)
		return fail_offset(backend, memory, piece, err);
	if (has_guest_address(piece) && piece->length > UINT64_MAX - piece->guest_address)
		return fail_piece(backend, piece, err, "its end is beyond the last guest address");
	return 0;
}

int hostmem_backend_check_piece(const struct hostmem_backend *backend,
				const struct hostmem_piece *piece,
				const struct hostmem_piece *others, size_t others_len,
				struct hostmem_error *err)
{
	struct hostmem_memory memory;

	if (hostmem_backend_get_memory(backend, &memory, err) ||
	    check_bounds(backend, &memory, piece, err))
		return -1;
	for (const struct hostmem_piece *other = others; other < others + others_len; other++) {
		if (overlap(piece->offset, piece->length, other->offset, other->length))
			return fail_piece(backend, piece, err,
					  "another piece has part of that memory");
		if (has_guest_address(piece) && has_guest_address(other) &&
		    overlap(piece->guest_address, piece->length, other->guest_address,
			    other->length))
			return fail_piece(backend, piece, err,
					  "another piece has some of these guest addresses");
	}
	return 0;
}

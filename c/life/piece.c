/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * How memory may be cut into pieces for a guest. Which pieces there are is known to who hands them
 * out.
 */
#include "life.h"

static int fail(const struct hostmem_backend *backend, const struct hostmem_piece *piece,
		struct hostmem_error *err, const char *why)
{
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
		       "%s: piece of %ju bytes at offset %ju for guest address 0x%jx: %s",
		       backend->id, (uintmax_t)piece->length, (uintmax_t)piece->offset,
		       (uintmax_t)piece->guest_address, why);
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
		return fail(backend, piece, err, "it is empty");
	if (piece->offset > memory->size || piece->length > memory->size - piece->offset)
		return fail(backend, piece, err, "it is not inside the memory");
	if ((piece->guest_address | piece->offset | piece->length) % memory->page_size)
		return fail(backend, piece, err, "not all three are multiples of the page size");
	if (piece->length > UINT64_MAX - piece->guest_address)
		return fail(backend, piece, err, "its end is beyond the last guest address");
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
			return fail(backend, piece, err, "another piece has part of that memory");
		if (overlap(piece->guest_address, piece->length, other->guest_address,
			    other->length))
			return fail(backend, piece, err,
				    "another piece has some of these guest addresses");
	}
	return 0;
}

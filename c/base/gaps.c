/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Ranges of a backend's memory that were discarded while a fill runs, so that it skips them.
 * Workers hold the lock for reading while they populate a chunk: once hm_gaps_add() has returned,
 * no worker populates that range any more.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base.h"

void hm_gaps_init(struct hm_gaps *gaps)
{
	*gaps = (struct hm_gaps){ 0 };
	hm_rwlock_init(&gaps->lock);
}

void hm_gaps_destroy(struct hm_gaps *gaps)
{
	free(gaps->ranges);
	hm_rwlock_destroy(&gaps->lock);
}

void hm_gaps_clear(struct hm_gaps *gaps)
{
	hm_rwlock_write(&gaps->lock);
	free(gaps->ranges);
	gaps->ranges = NULL;
	gaps->len = 0;
	hm_rwlock_unlock(&gaps->lock);
}

static uint64_t end_of(const struct hm_range *range)
{
	return range->offset + range->length;
}

/* How many of the ranges end before the offset. */
static size_t count_before(const struct hm_gaps *gaps, uint64_t offset)
{
	size_t first = 0, end = gaps->len;

	while (first < end) {
		size_t middle = first + (end - first) / 2;

		if (end_of(&gaps->ranges[middle]) < offset)
			first = middle + 1;
		else
			end = middle;
	}
	return first;
}

/* Puts the range in the place of all that it touches, so that ranges stay sorted and apart. */
static void insert(struct hm_gaps *gaps, struct hm_range range)
{
	struct hm_range *ranges = gaps->ranges;
	size_t first = count_before(gaps, range.offset), after = first;

	for (; after < gaps->len && ranges[after].offset <= end_of(&range); after++) {
		uint64_t end = end_of(&range), other = end_of(&ranges[after]);

		if (ranges[after].offset < range.offset)
			range.offset = ranges[after].offset;
		range.length = (other > end ? other : end) - range.offset;
	}
	memmove(&ranges[first + 1], &ranges[after], (gaps->len - after) * sizeof(ranges[0]));
	ranges[first] = range;
	gaps->len += 1 + first - after;
}

int hm_gaps_add(struct hm_gaps *gaps, const struct hm_range *range,
		int (*discard)(const struct hostmem_backend *backend, const struct hm_range *range),
		const struct hostmem_backend *backend)
{
	struct hm_range *grown;
	int result = -ENOMEM;

	hm_rwlock_write(&gaps->lock);
	/* First, so that nothing can fail once the range is discarded. */
	grown = realloc(gaps->ranges, (gaps->len + 1) * sizeof(gaps->ranges[0]));
	if (grown) {
		gaps->ranges = grown;
		result = discard(backend, range);
	}
	if (!result)
		insert(gaps, *range);
	hm_rwlock_unlock(&gaps->lock);
	return result;
}

void hm_gaps_lock(struct hm_gaps *gaps)
{
	hm_rwlock_read(&gaps->lock);
}

void hm_gaps_unlock(struct hm_gaps *gaps)
{
	hm_rwlock_unlock(&gaps->lock);
}

bool hm_gaps_next_part(const struct hm_gaps *gaps, struct hm_range *rest, struct hm_range *part)
{
	uint64_t end = end_of(rest), offset = rest->offset;
	size_t i = count_before(gaps, offset + 1);

	for (; i < gaps->len && gaps->ranges[i].offset <= offset; i++)
		offset = end_of(&gaps->ranges[i]);
	if (offset >= end)
		return false;
	part->offset = offset;
	part->length = end - offset;
	if (i < gaps->len && gaps->ranges[i].offset < end)
		part->length = gaps->ranges[i].offset - offset;
	rest->offset = end_of(part);
	rest->length = end - rest->offset;
	return true;
}

uint64_t hm_gaps_count(struct hm_gaps *gaps, const struct hm_range *range)
{
	struct hm_range rest = *range, part;
	uint64_t left = range->length;

	hm_gaps_lock(gaps);
	while (hm_gaps_next_part(gaps, &rest, &part))
		left -= part.length;
	hm_gaps_unlock(gaps);
	return left;
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A list of ranges of a backend's memory: those that a fill leaves out, and those that are
 * inaccessible.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base.h"

static uint64_t end_of(const struct hm_range *range)
{
	return range->offset + range->length;
}

/* How many of the ranges end before the offset. */
static size_t count_before(const struct hm_ranges *ranges, uint64_t offset)
{
	size_t first = 0, end = ranges->len;

	while (first < end) {
		size_t middle = first + (end - first) / 2;

		if (end_of(&ranges->all[middle]) < offset)
			first = middle + 1;
		else
			end = middle;
	}
	return first;
}

int hm_ranges_reserve(struct hm_ranges *ranges)
{
	struct hm_range *grown = realloc(ranges->all, (ranges->len + 1) * sizeof(grown[0]));

	if (!grown)
		return -ENOMEM;
	ranges->all = grown;
	return 0;
}

/* Puts the range in the place of all that it touches, so that ranges stay sorted and apart. */
void hm_ranges_add(struct hm_ranges *ranges, struct hm_range range)
{
	struct hm_range *all = ranges->all;
	size_t first = count_before(ranges, range.offset), after = first;

	for (; after < ranges->len && all[after].offset <= end_of(&range); after++) {
		uint64_t end = end_of(&range), other = end_of(&all[after]);

		if (all[after].offset < range.offset)
			range.offset = all[after].offset;
		range.length = (other > end ? other : end) - range.offset;
	}
	memmove(&all[first + 1], &all[after], (ranges->len - after) * sizeof(all[0]));
	all[first] = range;
	ranges->len += 1 + first - after;
}

/* Out of the middle of one it makes two. */
void hm_ranges_remove(struct hm_ranges *ranges, struct hm_range range)
{
	struct hm_range *all = ranges->all, parts[2];
	size_t first = count_before(ranges, range.offset + 1), after = first, len = 0;
	uint64_t end = end_of(&range);

	for (; after < ranges->len && all[after].offset < end; after++) {
		uint64_t offset = all[after].offset, other = end_of(&all[after]);

		if (offset < range.offset)
			parts[len++] = (struct hm_range){ offset, range.offset - offset };
		if (other > end)
			parts[len++] = (struct hm_range){ end, other - end };
	}
	memmove(&all[first + len], &all[after], (ranges->len - after) * sizeof(all[0]));
	memcpy(&all[first], parts, len * sizeof(all[0]));
	ranges->len += len + first - after;
}

bool hm_ranges_next_part(const struct hm_ranges *ranges, struct hm_range *rest,
			 struct hm_range *part)
{
	uint64_t end = end_of(rest), offset = rest->offset;
	size_t i = count_before(ranges, offset + 1);

	for (; i < ranges->len && ranges->all[i].offset <= offset; i++)
		offset = end_of(&ranges->all[i]);
	if (offset >= end)
		return false;
	part->offset = offset;
	part->length = end - offset;
	if (i < ranges->len && ranges->all[i].offset < end)
		part->length = ranges->all[i].offset - offset;
	rest->offset = end_of(part);
	rest->length = end - rest->offset;
	return true;
}

bool hm_ranges_overlap(const struct hm_ranges *ranges, const struct hm_range *range)
{
	struct hm_range rest = *range, part;

	return range->length &&
	       !(hm_ranges_next_part(ranges, &rest, &part) && part.length == range->length);
}

void hm_ranges_clear(struct hm_ranges *ranges)
{
	free(ranges->all);
	*ranges = (struct hm_ranges){ 0 };
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The watch on room that runs out on a file system: what all fills of files there still need
 * together. No margin is kept, since file systems count their blocks exactly.
 */
#include "internal.h"

struct hm_fill *hm_file_room_group(struct hm_fill *fills, size_t fills_len)
{
	struct hm_fill *heads = NULL, *head;

	for (size_t i = fills_len; i-- > 0;) {
		struct hm_fill *fill = &fills[i];

		if (!fill->takes_room)
			continue;
		for (head = heads; head && head->device != fill->device;)
			head = head->next_device;
		if (head) {
			fill->next_on_device = head->next_on_device;
			head->next_on_device = fill;
		} else {
			fill->next_device = heads;
			heads = fill;
		}
	}
	return heads;
}

/* Whether a fill before it on the device has some of the same range of the same file. */
static bool is_repeated(const struct hm_fill *head, const struct hm_fill *fill)
{
	uint64_t begin = fill->backend->backing.offset + fill->range.offset;

	for (; head != fill; head = head->next_on_device) {
		uint64_t other = head->backend->backing.offset + head->range.offset;

		if (head->inode == fill->inode && begin < other + head->range.length &&
		    other < begin + fill->range.length)
			return true;
	}
	return false;
}

static uint64_t count_needed(const struct hm_fill *head)
{
	uint64_t needed = 0;

	for (const struct hm_fill *fill = head; fill; fill = fill->next_on_device) {
		struct hm_room room;

		if (!is_repeated(head, fill) && hm_room_read(fill->backend, &room))
			needed += hm_room_count_needed(fill->backend, &fill->range, &room);
	}
	return needed;
}

static bool is_short_on(const struct hm_fill *head, struct hm_shortage *shortage, uint64_t *spare)
{
	uint64_t needed = 0;
	struct hm_room room;

	if (!hm_room_read(head->backend, &room))
		return false;
	for (const struct hm_fill *fill = head; fill; fill = fill->next_on_device)
		needed += fill->range.length - atomic_load(&fill->backend->bytes_done);
	/* An upper bound, which is enough most of the time. */
	if (needed > room.left)
		needed = count_needed(head);
	if (needed <= room.left) {
		*spare = room.left - needed < *spare ? room.left - needed : *spare;
		return false;
	}
	*shortage = (struct hm_shortage){
		.available = room.left,
		.needed = needed,
		.total_room = room.total,
		.fill = head,
	};
	while (hm_fill_is_all_taken(shortage->fill) && shortage->fill->next_on_device)
		shortage->fill = shortage->fill->next_on_device;
	return true;
}

bool hm_file_room_is_short(const struct hm_fill *heads, struct hm_shortage *shortage,
			   uint64_t *spare)
{
	for (; heads; heads = heads->next_device) {
		if (is_short_on(heads, shortage, spare))
			return true;
	}
	return false;
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Ranges of a backend's memory that were discarded while a fill runs, so that it skips them.
 * Workers hold the lock for reading while they populate a chunk: once hm_gaps_add() has returned,
 * no worker populates that range any more.
 */
#include "base.h"

void hm_gaps_init(struct hm_gaps *gaps)
{
	*gaps = (struct hm_gaps){ 0 };
	hm_rwlock_init(&gaps->lock);
}

void hm_gaps_destroy(struct hm_gaps *gaps)
{
	hm_ranges_clear(&gaps->ranges);
	hm_rwlock_destroy(&gaps->lock);
}

void hm_gaps_clear(struct hm_gaps *gaps)
{
	hm_rwlock_write(&gaps->lock);
	hm_ranges_clear(&gaps->ranges);
	hm_rwlock_unlock(&gaps->lock);
}

int hm_gaps_add(struct hm_gaps *gaps, const struct hm_range *range,
		int (*discard)(const struct hostmem_backend *backend, const struct hm_range *range),
		const struct hostmem_backend *backend)
{
	int result;

	hm_rwlock_write(&gaps->lock);
	/* First, so that nothing can fail once the range is discarded. */
	result = hm_ranges_reserve(&gaps->ranges);
	if (!result)
		result = discard(backend, range);
	if (!result)
		hm_ranges_add(&gaps->ranges, *range);
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
	return hm_ranges_next_part(&gaps->ranges, rest, part);
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

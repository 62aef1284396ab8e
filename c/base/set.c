/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Sets of NUMA nodes and of CPUs: what is in them, and their text, "0-3,5". Asks the system
 * nothing.
 */
#include <stdio.h>
#include <string.h>

#include "base.h"

#define WORDS HM_ARRAY_LEN(((struct hm_set *)0)->bits)

bool hm_set_has(const struct hm_set *set, uint64_t id)
{
	return id < HM_SET_MAX && (set->bits[id / 64] >> (id % 64) & 1);
}

void hm_set_add(struct hm_set *set, uint64_t id)
{
	set->bits[id / 64] |= UINT64_C(1) << (id % 64);
}

uint64_t hm_set_next(const struct hm_set *set, uint64_t from)
{
	for (; from < HM_SET_MAX; from = (from / 64 + 1) * 64) {
		uint64_t rest = set->bits[from / 64] >> (from % 64);

		if (rest)
			return from + (uint64_t)__builtin_ctzll(rest);
	}
	return HM_SET_MAX;
}

bool hm_set_is_empty(const struct hm_set *set)
{
	return hm_set_next(set, 0) == HM_SET_MAX;
}

size_t hm_set_count(const struct hm_set *set)
{
	size_t count = 0;

	for (size_t i = 0; i < WORDS; i++)
		count += (size_t)__builtin_popcountll(set->bits[i]);
	return count;
}

bool hm_set_equals(const struct hm_set *set, const struct hm_set *other)
{
	return !memcmp(set->bits, other->bits, sizeof(set->bits));
}

bool hm_set_is_subset(const struct hm_set *set, const struct hm_set *whole)
{
	for (size_t i = 0; i < WORDS; i++) {
		if (set->bits[i] & ~whole->bits[i])
			return false;
	}
	return true;
}

bool hm_set_overlaps(const struct hm_set *set, const struct hm_set *other)
{
	for (size_t i = 0; i < WORDS; i++) {
		if (set->bits[i] & other->bits[i])
			return true;
	}
	return false;
}

void hm_set_unite(struct hm_set *set, const struct hm_set *other)
{
	for (size_t i = 0; i < WORDS; i++)
		set->bits[i] |= other->bits[i];
}

void hm_set_intersect(struct hm_set *set, const struct hm_set *other)
{
	for (size_t i = 0; i < WORDS; i++)
		set->bits[i] &= other->bits[i];
}

void hm_set_subtract(struct hm_set *set, const struct hm_set *other)
{
	for (size_t i = 0; i < WORDS; i++)
		set->bits[i] &= ~other->bits[i];
}

/* Takes "3" or "0-3" off *text. */
static int take_range(const char **text, uint64_t limit, uint64_t *first, uint64_t *last)
{
	if (hm_text_take_digits(text, 10, first))
		return -1;
	*last = *first;
	if (**text == '-') {
		(*text)++;
		if (hm_text_take_digits(text, 10, last))
			return -1;
	}
	return *first <= *last && *last < limit ? 0 : -1;
}

int hm_set_parse(struct hm_set *set, const char *text, uint64_t limit)
{
	uint64_t first, last;

	*set = (struct hm_set){ 0 };
	for (;;) {
		if (take_range(&text, limit, &first, &last))
			return -1;
		for (uint64_t id = first; id <= last; id++)
			hm_set_add(set, id);
		if (!*text)
			return 0;
		if (*text++ != ',')
			return -1;
	}
}

int hm_set_format(const struct hm_set *set, char *buffer, size_t size)
{
	uint64_t first = hm_set_next(set, 0), last;
	size_t length = 0;

	if (size)
		*buffer = '\0';
	for (; first < HM_SET_MAX; first = hm_set_next(set, last + 1)) {
		char part[48];

		for (last = first; hm_set_has(set, last + 1);)
			last++;
		snprintf(part, sizeof(part), first == last ? "%s%ju" : "%s%ju-%ju",
			 length ? "," : "", (uintmax_t)first, (uintmax_t)last);
		if (length < size)
			hm_text_copy(part, buffer + length, size - length);
		length += strlen(part);
	}
	return (int)length;
}

int hm_set_format_missing(const struct hm_set *wanted, const struct hm_set *have, char *buffer,
			  size_t size)
{
	struct hm_set missing = *wanted;

	hm_set_subtract(&missing, have);
	return hm_set_format(&missing, buffer, size);
}

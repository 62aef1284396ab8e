/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Sets of numbers, each of which is in a word of 64: what is said of two of them.
 */
#include <stdio.h>
#include <string.h>

#include "base/base.h"

static size_t problems;

static void check(bool good, const char *what, const char *one, const char *other)
{
	if (good)
		return;
	printf("PROBLEM: %s: '%s' and '%s'\n", what, one, other);
	problems++;
}

/* A text without a number is no set; here it is the empty one. */
static struct hm_set parse(const char *text)
{
	struct hm_set set = { 0 };

	check(!*text || !hm_set_parse(&set, text, HM_SET_MAX), "parse", text, "");
	return set;
}

static const struct {
	const char *one, *other;
	bool is_subset, overlaps;
	const char *united, *common, *rest;
} pairs[] = {
	{ "", "", true, false, "", "", "" },
	{ "", "0", true, false, "0", "", "" },
	{ "0", "", false, false, "0", "", "0" },
	{ "0", "0", true, true, "0", "0", "" },
	{ "0", "1", false, false, "0-1", "", "0" },
	{ "0-1", "1-2", false, true, "0-2", "1", "0" },
	{ "1", "0-2", true, true, "0-2", "1", "" },
	{ "63", "64", false, false, "63-64", "", "63" },
	{ "63-64", "64", false, true, "63-64", "64", "63" },
	{ "64", "63-64", true, true, "63-64", "64", "" },
	{ "0,128", "0-1", false, true, "0-1,128", "0", "128" },
	{ "8191", "8191", true, true, "8191", "8191", "" },
	{ "8190-8191", "0,8190", false, true, "0,8190-8191", "8190", "8191" },
	{ "0-63,128-191", "64-127", false, false, "0-191", "", "0-63,128-191" },
};

static void check_text(const struct hm_set *set, const char *text, const char *what, size_t pair)
{
	char buffer[64];
	int length = hm_set_format(set, buffer, sizeof(buffer));

	check(!strcmp(buffer, text) && length == (int)strlen(text), what, pairs[pair].one,
	      pairs[pair].other);
}

static void try_pair(size_t i)
{
	const struct hm_set one = parse(pairs[i].one), other = parse(pairs[i].other);
	struct hm_set united = one, common = one, rest = one;

	check(hm_set_is_subset(&one, &other) == pairs[i].is_subset, "is_subset", pairs[i].one,
	      pairs[i].other);
	check(hm_set_overlaps(&one, &other) == pairs[i].overlaps, "overlaps", pairs[i].one,
	      pairs[i].other);
	hm_set_unite(&united, &other);
	check_text(&united, pairs[i].united, "unite", i);
	hm_set_intersect(&common, &other);
	check_text(&common, pairs[i].common, "intersect", i);
	hm_set_subtract(&rest, &other);
	check_text(&rest, pairs[i].rest, "subtract", i);
	check(hm_set_count(&united) ==
		      hm_set_count(&one) + hm_set_count(&other) - hm_set_count(&common),
	      "count", pairs[i].one, pairs[i].other);
}

/* The length is told whatever there is room for, and nothing behind the room is written. */
static void try_room(void)
{
	const struct hm_set set = parse("1,3-5,700");
	static const char whole[] = "1,3-5,700";

	for (size_t size = 0; size <= sizeof(whole); size++) {
		char buffer[16];

		memset(buffer, '#', sizeof(buffer));
		check(hm_set_format(&set, buffer, size) == (int)sizeof(whole) - 1, "length", whole,
		      "");
		check(buffer[size] == '#', "beyond", whole, buffer);
		check(!size || (strlen(buffer) < size && !strncmp(buffer, whole, strlen(buffer))),
		      "cut", whole, buffer);
	}
}

int main(void)
{
	const struct hm_set full = parse("0-8191");

	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
		try_pair(i);
	try_room();
	check(!hm_set_has(&full, HM_SET_MAX) && hm_set_has(&full, HM_SET_MAX - 1), "has", "", "");
	check(hm_set_next(&full, HM_SET_MAX - 1) == HM_SET_MAX - 1, "next", "", "");
	printf("%zu problems\n", problems);
	return problems != 0;
}

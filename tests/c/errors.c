/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Messages at the limit of their length, of one part and of two.
 */
#include <stdio.h>
#include <string.h>

#include "base/base.h"

#define LONGEST (HOSTMEM_MESSAGE_SIZE - 1)

/* What is written behind an error shows. */
static struct {
	struct hostmem_error err;
	char behind[64];
} place;

static const char *repeat(char letter, size_t length, char *text)
{
	memset(text, letter, length);
	text[length] = '\0';
	return text;
}

static bool is_right(size_t first, size_t second)
{
	static char one[2 * HOSTMEM_MESSAGE_SIZE], other[2 * HOSTMEM_MESSAGE_SIZE];
	static char whole[4 * HOSTMEM_MESSAGE_SIZE];
	char untouched[sizeof(place.behind)];
	struct hostmem_error *err = &place.err;

	memset(untouched, '#', sizeof(untouched));
	repeat('x', first, one);
	repeat('y', second, other);
	snprintf(whole, sizeof(whole), "%s%s", one, other);
	if (first + second > LONGEST)
		snprintf(whole + LONGEST - 3, 4, "...");
	memset(&place, '#', sizeof(place));
	if (hm_fail(err, HOSTMEM_ERROR_VALUE, 7, "%s", one) != -1)
		return false;
	hm_error_append(err, other);
	return !strcmp(err->message, whole) && err->kind == HOSTMEM_ERROR_VALUE &&
	       err->os_error == 7 && !memcmp(place.behind, untouched, sizeof(place.behind));
}

int main(void)
{
	static const size_t lengths[] = {
		0,           1,           2,           3,       500,         523,           524,
		LONGEST - 4, LONGEST - 3, LONGEST - 1, LONGEST, LONGEST + 1, LONGEST + 500,
	};
	size_t problems = 0;

	for (size_t i = 0; i < HM_ARRAY_LEN(lengths); i++) {
		for (size_t j = 0; j < HM_ARRAY_LEN(lengths); j++) {
			if (is_right(lengths[i], lengths[j]))
				continue;
			printf("PROBLEM: %zu bytes, then %zu: %s\n", lengths[i], lengths[j],
			       place.err.message);
			problems++;
		}
	}
	hm_fail(&place.err, HOSTMEM_ERROR_VALUE, 0, "%s", "a\n");
	hm_error_append(&place.err, "\n\xff");
	problems += strcmp(place.err.message, "a???") != 0;
	/* Nobody wants to know. */
	problems += hm_fail(NULL, HOSTMEM_ERROR_VALUE, 0, "%s", "") != -1;
	hm_error_append(NULL, "");
	printf("%zu problems\n", problems);
	return problems != 0;
}

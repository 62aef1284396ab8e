/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the fuzz targets (fuzz_*.c, built by scripts/fuzz) share: reading the input, and what holds
 * of every error.
 */
#ifndef HOSTMEM_TEST_FUZZ_H
#define HOSTMEM_TEST_FUZZ_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hostmem.h"

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *data;
	size_t size;
};

/* 0 beyond the end. */
static inline uint8_t take_byte(struct input *input)
{
	if (!input->size)
		return 0;
	input->size--;
	return *input->data++;
}

/* At most `size` bytes as a text that is freed by the caller. */
static inline char *take_text(struct input *input, size_t size)
{
	char *text;

	if (size > input->size)
		size = input->size;
	text = calloc(1, size + 1);
	if (!text)
		abort();
	memcpy(text, input->data, size);
	input->data += size;
	input->size -= size;
	return text;
}

#define MUST(CONDITION)                                                                            \
	do {                                                                                       \
		if (!(CONDITION)) {                                                                \
			fprintf(stderr, "fuzz: %s:%d: %s\n", __FILE__, __LINE__, #CONDITION);      \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* What a failure has to have written; the result again. */
static inline int checked(int result, struct hostmem_error *err)
{
	if (result >= 0)
		return result;
	MUST(result == -1);
	MUST(err->kind >= HOSTMEM_ERROR_UNKNOWN_PROPERTY && err->kind <= HOSTMEM_ERROR_IO);
	MUST(*err->message && memchr(err->message, '\0', sizeof(err->message)));
	for (const char *c = err->message; *c; c++)
		MUST((unsigned char)*c >= 0x20 && *c != 0x7f);
	*err = (struct hostmem_error){ 0 };
	return result;
}

/* Without libFuzzer: the target with each of the files that are named. */
#ifdef FUZZ_OF_FILES
int main(int argc, char **argv)
{
	static uint8_t data[1 << 16];

	for (int i = 1; i < argc; i++) {
		FILE *file = fopen(argv[i], "r");
		size_t size;

		MUST(file);
		size = fread(data, 1, sizeof(data), file);
		fclose(file);
		LLVMFuzzerTestOneInput(data, size);
	}
	return 0;
}
#endif

#endif

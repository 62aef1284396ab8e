/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The file that says which contents are read first: a line "OFFSET LENGTH" for each range of the
 * memory, in bytes. Reading it; following it is lazy.c's.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "internal.h"

struct reader {
	struct hm_order *order;
	size_t capacity, line;
	uint64_t size;
	/* What is wrong with the last line; NULL: nothing. */
	const char *wrong;
	bool no_memory;
};

static bool is_blank(char letter)
{
	return letter == ' ' || letter == '\t';
}

/* Two decimal numbers; what is behind them is the end of the line. */
static bool parse(const char *text, struct hm_range *range)
{
	if (hm_text_take_digits(&text, 10, &range->offset) || !is_blank(*text))
		return false;
	while (is_blank(*text))
		text++;
	if (hm_text_take_digits(&text, 10, &range->length))
		return false;
	while (is_blank(*text) || *text == '\r' || *text == '\n')
		text++;
	return !*text;
}

static bool add(struct reader *reader, const struct hm_range *range)
{
	struct hm_order *order = reader->order;

	if (order->len == reader->capacity) {
		/* Below the bytes of the file, so it cannot wrap. */
		size_t capacity = reader->capacity ? 2 * reader->capacity : 64;
		struct hm_range *ranges =
			realloc(order->ranges, capacity * sizeof(order->ranges[0]));

		reader->no_memory = !ranges;
		if (!ranges)
			return false;
		order->ranges = ranges;
		reader->capacity = capacity;
	}
	order->ranges[order->len++] = *range;
	return true;
}

static bool read_line(char *line, void *data)
{
	struct reader *reader = data;
	struct hm_range range;

	reader->line++;
	if (!parse(line, &range))
		reader->wrong = "is not \"OFFSET LENGTH\", two decimal numbers of bytes";
	else if (range.offset > reader->size || range.length > reader->size - range.offset)
		reader->wrong = "is not inside the memory";
	return !reader->wrong && add(reader, &range);
}

static int fail(const struct hostmem_backend *backend, const struct hm_values *values, int result,
		struct hostmem_error *err)
{
	return hm_fail(err, hm_error_kind_of(-result), -result,
		       "%s: contents-order=%.512s: cannot read it: %s", backend->label,
		       values->contents_order, strerror(-result));
}

/* Without opening it for use, which waits for a FIFO. */
static int check_file(const struct hostmem_backend *backend, const struct hm_values *values,
		      struct hostmem_error *err)
{
	int fd = hm_os_open(values->contents_order, O_PATH), result;
	struct hm_file file;

	if (fd < 0)
		return fail(backend, values, fd, err);
	result = hm_os_stat(fd, &file);
	hm_os_close(fd);
	if (result)
		return fail(backend, values, result, err);
	return S_ISREG(file.mode) ? 0
				  : hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
					    "%s: contents-order=%.512s is not a regular file",
					    backend->label, values->contents_order);
}

int hm_order_read(struct hm_order *order, const struct hostmem_backend *backend,
		  const struct hm_values *values, struct hostmem_error *err)
{
	struct reader reader = { .order = order, .size = values->size };
	int result;

	if (!*values->contents_order)
		return 0;
	if (check_file(backend, values, err))
		return -1;
	result = hm_os_read_lines(values->contents_order, read_line, &reader);
	if (result)
		return fail(backend, values, result, err);
	if (reader.no_memory)
		return hm_fail_alloc(err);
	return reader.wrong ? hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
				      "%s: contents-order=%.512s: line %zu %s", backend->label,
				      values->contents_order, reader.line, reader.wrong)
			    : 0;
}

void hm_order_free(struct hm_order *order)
{
	free(order->ranges);
	*order = (struct hm_order){ 0 };
}

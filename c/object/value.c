/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Values of properties, between the forms they are given in, text or typed, and the struct that
 * holds them. A value by itself is checked here, by its row of the table.
 */
#include <stdio.h>
#include <string.h>

#include "object.h"

static void *field_of(struct hm_values *values, const struct hm_row *row)
{
	return (char *)values + row->offset;
}

static size_t size_of_field(const struct hm_row *row)
{
	switch (row->public.type) {
	case HOSTMEM_TYPE_BOOL:
		return sizeof(bool);
	case HOSTMEM_TYPE_NODES:
	case HOSTMEM_TYPE_CPUS:
		return sizeof(struct hm_set);
	case HOSTMEM_TYPE_LINK:
		return HOSTMEM_ID_MAX + 1;
	case HOSTMEM_TYPE_PATH:
		return PATH_MAX;
	default:
		return sizeof(uint64_t);
	}
}

bool hm_value_is_set(const struct hm_row *row)
{
	return row->public.type == HOSTMEM_TYPE_NODES || row->public.type == HOSTMEM_TYPE_CPUS;
}

static uint64_t set_limit(const struct hm_row *row)
{
	return row->public.type == HOSTMEM_TYPE_NODES ? HOSTMEM_NODES_MAX : HOSTMEM_CPUS_MAX;
}

void hm_value_copy(const struct hm_row *row, struct hm_values *to, const struct hm_values *from)
{
	memcpy((char *)to + row->offset, (const char *)from + row->offset, size_of_field(row));
}

void hm_value_reset(const struct hm_row *row, struct hm_values *values)
{
	void *field = field_of(values, row);

	if (row->public.type == HOSTMEM_TYPE_BOOL)
		*(bool *)field = row->initial;
	else if (size_of_field(row) == sizeof(uint64_t))
		*(uint64_t *)field = row->initial;
}

/* ---- Messages ---- */

static int fail_value(const struct hm_subject *subject, const struct hm_row *row, const char *text,
		      const char *expected, struct hostmem_error *err)
{
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0, "%s: %s=%.128s: expected %s", subject->id,
		       row->public.name, text, expected);
}

static int fail_type(const struct hm_subject *subject, const struct hm_row *row, const char *got,
		     struct hostmem_error *err)
{
	static const char *const types[] = {
		[HOSTMEM_TYPE_BOOL] = "a boolean",      [HOSTMEM_TYPE_SIZE] = "a size in bytes",
		[HOSTMEM_TYPE_UINT32] = "a number",     [HOSTMEM_TYPE_ENUM] = "one of its choices",
		[HOSTMEM_TYPE_NODES] = "a node list",   [HOSTMEM_TYPE_NODE] = "a node",
		[HOSTMEM_TYPE_LINK] = "an object's id", [HOSTMEM_TYPE_PATH] = "a path",
		[HOSTMEM_TYPE_FD] = "a descriptor",     [HOSTMEM_TYPE_CPUS] = "a CPU list",
	};

	return hm_fail(err, HOSTMEM_ERROR_TYPE, 0, "%s: %s is %s, not %s", subject->id,
		       row->public.name, types[row->public.type], got);
}

/* Puts a number into the row's field of *values, within the row's bounds. */
static int put_number(const struct hm_subject *subject, const struct hm_row *row, uint64_t number,
		      struct hm_values *values, struct hostmem_error *err)
{
	if (number < row->least || number > row->largest)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: %s=%ju: expected a value from %ju to %ju", subject->id,
			       row->public.name, (uintmax_t)number, (uintmax_t)row->least,
			       (uintmax_t)row->largest);
	*(uint64_t *)field_of(values, row) = number;
	return 0;
}

static int parse_bool(const struct hm_subject *subject, const struct hm_row *row, const char *text,
		      struct hm_values *values, struct hostmem_error *err)
{
	if (hm_text_parse_bool(text, field_of(values, row)))
		return fail_value(subject, row, text, "on or off", err);
	return 0;
}

static int parse_size(const struct hm_subject *subject, const struct hm_row *row, const char *text,
		      struct hm_values *values, struct hostmem_error *err)
{
	uint64_t number;

	if (hm_text_parse_size(text, &number))
		return fail_value(subject, row, text,
				  "a size below 16E such as 4096, 512M, 1.5G or 0x40000000 (one "
				  "suffix of B k K M G T P E)",
				  err);
	return put_number(subject, row, number, values, err);
}

static int parse_number(const struct hm_subject *subject, const struct hm_row *row,
			const char *text, struct hm_values *values, struct hostmem_error *err)
{
	uint64_t number;

	if (hm_text_parse_number(text, &number))
		return fail_value(subject, row, text, "a whole number", err);
	return put_number(subject, row, number, values, err);
}

/* A node or a descriptor. */
static int parse_or_none(const struct hm_subject *subject, const struct hm_row *row,
			 const char *text, struct hm_values *values, struct hostmem_error *err)
{
	if (!strcmp(text, "none")) {
		*(uint64_t *)field_of(values, row) = row->initial;
		return 0;
	}
	return parse_number(subject, row, text, values, err);
}

static int parse_set(const struct hm_subject *subject, const struct hm_row *row, const char *text,
		     struct hm_values *values, struct hostmem_error *err)
{
	bool nodes = row->public.type == HOSTMEM_TYPE_NODES;

	if (hm_set_parse(field_of(values, row), text, set_limit(row)))
		return fail_value(subject, row, text,
				  nodes ? "node ids below 1024 and rising ranges, such as 0 or 0-1"
					: "CPU ids below 8192 and rising ranges, such as 0 or 0-3",
				  err);
	return 0;
}

/* "a, b or c" */
static void list_choices(const char *const *choices, char *text, size_t size)
{
	size_t length = 0;

	for (size_t i = 0; choices[i] && length < size; i++)
		length += (size_t)snprintf(text + length, size - length, "%s%s",
					   i == 0           ? ""
					   : choices[i + 1] ? ", "
							    : " or ",
					   choices[i]);
}

static int parse_enum(const struct hm_subject *subject, const struct hm_row *row, const char *text,
		      struct hm_values *values, struct hostmem_error *err)
{
	char choices[256];

	for (uint64_t i = 0; row->public.choices[i]; i++) {
		if (!strcmp(row->public.choices[i], text)) {
			*(uint64_t *)field_of(values, row) = i;
			return 0;
		}
	}
	list_choices(row->public.choices, choices, sizeof(choices));
	return fail_value(subject, row, text, choices, err);
}

/* Whether there is such an object is seen when the value is stored. */
static int parse_link(const struct hm_subject *subject, const struct hm_row *row, const char *text,
		      struct hm_values *values, struct hostmem_error *err)
{
	if (*text && !hm_text_is_id(text))
		return fail_value(subject, row, text, "the id of a thread-context, or nothing",
				  err);
	hm_text_copy(text, field_of(values, row), HOSTMEM_ID_MAX + 1);
	return 0;
}

static int parse_path(const struct hm_subject *subject, const struct hm_row *row, const char *text,
		      struct hm_values *values, struct hostmem_error *err)
{
	if (hm_text_copy(text, field_of(values, row), PATH_MAX) >= PATH_MAX)
		return fail_value(subject, row, text, "a path of at most 4095 bytes", err);
	return 0;
}

int hm_value_parse(const struct hm_subject *subject, const struct hm_row *row, const char *text,
		   struct hm_values *values, struct hostmem_error *err)
{
	switch (row->public.type) {
	case HOSTMEM_TYPE_BOOL:
		return parse_bool(subject, row, text, values, err);
	case HOSTMEM_TYPE_SIZE:
		return parse_size(subject, row, text, values, err);
	case HOSTMEM_TYPE_UINT32:
		return parse_number(subject, row, text, values, err);
	case HOSTMEM_TYPE_ENUM:
		return parse_enum(subject, row, text, values, err);
	case HOSTMEM_TYPE_NODES:
	case HOSTMEM_TYPE_CPUS:
		return parse_set(subject, row, text, values, err);
	case HOSTMEM_TYPE_NODE:
	case HOSTMEM_TYPE_FD:
		return parse_or_none(subject, row, text, values, err);
	case HOSTMEM_TYPE_LINK:
		return parse_link(subject, row, text, values, err);
	case HOSTMEM_TYPE_PATH:
		return parse_path(subject, row, text, values, err);
	}
	return -1;
}

/* ---- Typed ---- */

int hm_value_put_bool(const struct hm_subject *subject, const struct hm_row *row, bool value,
		      struct hm_values *values, struct hostmem_error *err)
{
	if (row->public.type != HOSTMEM_TYPE_BOOL)
		return fail_type(subject, row, "a boolean", err);
	*(bool *)field_of(values, row) = value;
	return 0;
}

static bool can_be_none(const struct hm_row *row)
{
	return row->public.type == HOSTMEM_TYPE_NODE || row->public.type == HOSTMEM_TYPE_FD ||
	       row->public.settable == HOSTMEM_SETTABLE_NEVER;
}

static bool is_number(const struct hm_row *row)
{
	switch (row->public.type) {
	case HOSTMEM_TYPE_SIZE:
	case HOSTMEM_TYPE_UINT32:
	case HOSTMEM_TYPE_NODE:
	case HOSTMEM_TYPE_FD:
		return true;
	default:
		return false;
	}
}

int hm_value_put_number(const struct hm_subject *subject, const struct hm_row *row, uint64_t number,
			struct hm_values *values, struct hostmem_error *err)
{
	if (!is_number(row))
		return fail_type(subject, row, "a number", err);
	if (!can_be_none(row) || number != row->initial)
		return put_number(subject, row, number, values, err);
	*(uint64_t *)field_of(values, row) = number;
	return 0;
}

int hm_value_put_list(const struct hm_subject *subject, const struct hm_row *row,
		      const uint32_t *list, size_t list_len, struct hm_values *values,
		      struct hostmem_error *err)
{
	struct hm_set *set = field_of(values, row);

	if (!hm_value_is_set(row))
		return fail_type(subject, row, "a list", err);
	*set = (struct hm_set){ 0 };
	for (size_t i = 0; i < list_len; i++) {
		if (list[i] >= set_limit(row))
			return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
				       "%s: %s: %s %u: expected ids below %ju", subject->id,
				       row->public.name,
				       row->public.type == HOSTMEM_TYPE_NODES ? "node" : "CPU",
				       list[i], (uintmax_t)set_limit(row));
		hm_set_add(set, list[i]);
	}
	return 0;
}

/* ---- Reading ---- */

int hm_value_format(const struct hm_row *row, const struct hm_values *values, char *buffer,
		    size_t size)
{
	const void *field = (const char *)values + row->offset;
	uint64_t number = 0;

	if (size_of_field(row) == sizeof(number))
		memcpy(&number, field, sizeof(number));
	switch (row->public.type) {
	case HOSTMEM_TYPE_BOOL:
		return hm_text_copy(*(const bool *)field ? "on" : "off", buffer, size);
	case HOSTMEM_TYPE_ENUM:
		return hm_text_copy(row->public.choices[number], buffer, size);
	case HOSTMEM_TYPE_NODES:
	case HOSTMEM_TYPE_CPUS:
		return hm_set_format(field, buffer, size);
	case HOSTMEM_TYPE_LINK:
	case HOSTMEM_TYPE_PATH:
		return hm_text_copy(field, buffer, size);
	default:
		break;
	}
	if (can_be_none(row) && number == row->initial)
		return hm_text_copy("none", buffer, size);
	return snprintf(buffer, size, "%ju", (uintmax_t)number);
}

int hm_value_get_bool(const struct hm_subject *subject, const struct hm_row *row,
		      const struct hm_values *values, bool *value, struct hostmem_error *err)
{
	if (row->public.type != HOSTMEM_TYPE_BOOL)
		return fail_type(subject, row, "a boolean", err);
	memcpy(value, (const char *)values + row->offset, sizeof(*value));
	return 0;
}

int hm_value_get_number(const struct hm_subject *subject, const struct hm_row *row,
			const struct hm_values *values, uint64_t *value, struct hostmem_error *err)
{
	if (!is_number(row))
		return fail_type(subject, row, "a number", err);
	memcpy(value, (const char *)values + row->offset, sizeof(*value));
	return 0;
}

int hm_value_get_list(const struct hm_subject *subject, const struct hm_row *row,
		      const struct hm_values *values, uint32_t *list, size_t list_size,
		      struct hostmem_error *err)
{
	const void *set = (const char *)values + row->offset;
	size_t count = 0;

	if (!hm_value_is_set(row))
		return fail_type(subject, row, "a list", err);
	for (uint32_t id = 0; id < set_limit(row); id++) {
		if (!hm_set_has(set, id))
			continue;
		if (count < list_size)
			list[count] = id;
		count++;
	}
	return (int)count;
}

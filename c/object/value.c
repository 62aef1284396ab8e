/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * One value of a property: checked by its row of the table, stored in a record and read from it. A
 * value is checked by itself here; combinations are check.c's.
 */
#include <stdio.h>
#include <string.h>

#include "object.h"

bool hm_value_is_plain_bool(const struct hm_row *row)
{
	return row->public.type == HOSTMEM_TYPE_BOOL && !row->public.choices;
}

bool hm_value_is_set(const struct hm_row *row)
{
	return row->public.type == HOSTMEM_TYPE_NODES || row->public.type == HOSTMEM_TYPE_CPUS;
}

static uint64_t set_limit(const struct hm_row *row)
{
	return row->public.type == HOSTMEM_TYPE_NODES ? HOSTMEM_NODES_MAX : HOSTMEM_CPUS_MAX;
}

/* The form of the row's values besides text, which all have. */
static enum hm_form form_of(const struct hm_row *row)
{
	switch (row->public.type) {
	case HOSTMEM_TYPE_BOOL:
		return HM_FORM_BOOL;
	case HOSTMEM_TYPE_SIZE:
	case HOSTMEM_TYPE_UINT32:
	case HOSTMEM_TYPE_NODE:
	case HOSTMEM_TYPE_FD:
		return HM_FORM_NUMBER;
	case HOSTMEM_TYPE_NODES:
	case HOSTMEM_TYPE_CPUS:
		return HM_FORM_LIST;
	default:
		return HM_FORM_TEXT;
	}
}

/* Whether the initial value, which may be out of bounds, stands for "none". */
static bool can_be_none(const struct hm_row *row)
{
	return row->public.type == HOSTMEM_TYPE_NODE || row->public.type == HOSTMEM_TYPE_FD ||
	       row->public.settable == HOSTMEM_SETTABLE_NEVER;
}

/* ---- Checking ---- */

int hm_value_check_form(const char *id, const struct hm_row *row, enum hm_form form,
			struct hostmem_error *err)
{
	static const char *const types[] = {
		[HOSTMEM_TYPE_BOOL] = "a boolean",      [HOSTMEM_TYPE_SIZE] = "a size in bytes",
		[HOSTMEM_TYPE_UINT32] = "a number",     [HOSTMEM_TYPE_ENUM] = "one of its choices",
		[HOSTMEM_TYPE_NODES] = "a node list",   [HOSTMEM_TYPE_NODE] = "a node",
		[HOSTMEM_TYPE_LINK] = "an object's id", [HOSTMEM_TYPE_PATH] = "a path",
		[HOSTMEM_TYPE_FD] = "a descriptor",     [HOSTMEM_TYPE_CPUS] = "a CPU list",
	};
	static const char *const forms[] = {
		[HM_FORM_BOOL] = "a boolean",
		[HM_FORM_NUMBER] = "a number",
		[HM_FORM_LIST] = "a list",
		[HM_FORM_FD] = "a descriptor",
	};

	if (form == HM_FORM_TEXT || form == form_of(row) ||
	    (form == HM_FORM_FD && row->public.type == HOSTMEM_TYPE_FD))
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_TYPE, 0, "%s: %s is %s, not %s", id, row->public.name,
		       types[row->public.type], forms[form]);
}

static int fail_text(const char *id, const struct hm_row *row, const char *text,
		     const char *expected, struct hostmem_error *err)
{
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0, "%s: %s=%.128s: expected %s", id,
		       row->public.name, text, expected);
}

/* "a, b or c" */
static void list_choices(const char *const *choices, char *text, size_t size)
{
	*text = '\0';
	for (size_t i = 0; choices[i]; i++)
		hm_text_join(text, size, choices[i + 1] ? ", " : " or ", choices[i]);
}

static bool find_choice(const struct hm_row *row, struct hm_value *value)
{
	for (uint64_t i = 0; row->public.choices[i]; i++) {
		if (!strcmp(row->public.choices[i], value->text)) {
			value->number = i;
			return true;
		}
	}
	return false;
}

static int parse_enum(const char *id, const struct hm_row *row, struct hm_value *value,
		      struct hostmem_error *err)
{
	char choices[256];

	if (find_choice(row, value))
		return 0;
	list_choices(row->public.choices, choices, sizeof(choices));
	return fail_text(id, row, value->text, choices, err);
}

static int parse_bool(const char *id, const struct hm_row *row, struct hm_value *value,
		      struct hostmem_error *err)
{
	const char *name = row->public.name;
	bool is_on;

	if (!hm_text_parse_bool(value->text, &is_on)) {
		value->number = is_on;
		return 0;
	}
	/* The choices begin with off and on. */
	if (row->public.choices && find_choice(row, value))
		return 0;
	if (row->public.choices)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: %s=%.128s: write %s=on, %s=off or %s=%s", id, name, value->text,
			       name, name, name, row->public.choices[2]);
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0, "%s: %s=%.128s: write %s=on or %s=off", id,
		       name, value->text, name, name);
}

static int check_number(const char *id, const struct hm_row *row, uint64_t number,
			struct hostmem_error *err)
{
	if (number >= row->least && number <= row->largest)
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0, "%s: %s=%ju: expected a value from %ju to %ju",
		       id, row->public.name, (uintmax_t)number, (uintmax_t)row->least,
		       (uintmax_t)row->largest);
}

static int fail_size(const char *id, const struct hm_row *row, const char *text,
		     struct hostmem_error *err)
{
	int length = (int)hm_text_find_size_unit(text);

	if (length)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0, "%s: %s=%.128s: write %s=%.*s", id,
			       row->public.name, text, row->public.name, length, text);
	return fail_text(id, row, text,
			 "a size below 16E such as 4096, 512M, 1.5g or 0x40000000; the suffixes "
			 "are B K M G T P E, in either case",
			 err);
}

static int parse_number(const char *id, const struct hm_row *row, struct hm_value *value,
			struct hostmem_error *err)
{
	bool is_size = row->public.type == HOSTMEM_TYPE_SIZE;

	if (can_be_none(row) && !strcmp(value->text, "none")) {
		value->number = row->initial;
		return 0;
	}
	if (is_size && hm_text_parse_size(value->text, &value->number))
		return fail_size(id, row, value->text, err);
	if (!is_size && hm_text_parse_number(value->text, &value->number))
		return fail_text(id, row, value->text, "a whole number", err);
	return check_number(id, row, value->number, err);
}

/* Whether a linked object exists is checked when the value is stored. */
static int parse(const char *id, const struct hm_row *row, struct hm_value *value,
		 struct hostmem_error *err)
{
	const char *text = value->text;
	static const char objects[] = "/objects/";

	switch (row->public.type) {
	case HOSTMEM_TYPE_BOOL:
		return parse_bool(id, row, value, err);
	case HOSTMEM_TYPE_ENUM:
		return parse_enum(id, row, value, err);
	case HOSTMEM_TYPE_NODES:
		return hm_set_parse(&value->set, text, set_limit(row))
			       ? fail_text(id, row, text,
					   "node ids below 1024 and rising ranges, such as 0 or "
					   "0-1",
					   err)
			       : 0;
	case HOSTMEM_TYPE_CPUS:
		return hm_set_parse(&value->set, text, set_limit(row))
			       ? fail_text(id, row, text,
					   "CPU ids below 8192 and rising ranges, such as 0 or 0-3",
					   err)
			       : 0;
	case HOSTMEM_TYPE_LINK:
		if (!strncmp(text, objects, strlen(objects)))
			value->text += strlen(objects);
		return *text && !hm_text_is_id(value->text)
			       ? fail_text(id, row, text, "the id of a thread-context, or nothing",
					   err)
			       : 0;
	case HOSTMEM_TYPE_PATH:
		return strlen(text) >= PATH_MAX
			       ? fail_text(id, row, text, "a path of at most 4095 bytes", err)
			       : 0;
	default:
		return parse_number(id, row, value, err);
	}
}

static int make_set(const char *id, const struct hm_row *row, struct hm_value *value,
		    struct hostmem_error *err)
{
	for (size_t i = 0; i < value->list_len; i++) {
		if (value->list[i] >= set_limit(row))
			return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
				       "%s: %s: %s %u: expected ids below %ju", id,
				       row->public.name,
				       row->public.type == HOSTMEM_TYPE_NODES ? "node" : "CPU",
				       value->list[i], (uintmax_t)set_limit(row));
		hm_set_add(&value->set, value->list[i]);
	}
	return 0;
}

int hm_value_check(const char *id, const struct hm_row *row, struct hm_value *value,
		   struct hostmem_error *err)
{
	if (hm_value_check_form(id, row, value->form, err))
		return -1;
	switch (value->form) {
	case HM_FORM_TEXT:
		return parse(id, row, value, err);
	case HM_FORM_NUMBER:
		if (can_be_none(row) && value->number == row->initial)
			return 0;
		return check_number(id, row, value->number, err);
	case HM_FORM_LIST:
		return make_set(id, row, value, err);
	case HM_FORM_FD:
		return check_number(id, row, value->number, err);
	case HM_FORM_BOOL:
		break;
	}
	return 0;
}

/* ---- Records ---- */

void hm_value_store(const struct hm_row *row, const struct hm_value *value, void *record)
{
	void *field = (char *)record + row->offset;

	if (hm_value_is_plain_bool(row)) {
		*(bool *)field = value->number;
		return;
	}
	switch (row->public.type) {
	case HOSTMEM_TYPE_NODES:
	case HOSTMEM_TYPE_CPUS:
		*(struct hm_set *)field = value->set;
		break;
	case HOSTMEM_TYPE_LINK:
		hm_text_copy(value->text, field, HOSTMEM_ID_MAX + 1);
		break;
	case HOSTMEM_TYPE_PATH:
		hm_text_copy(value->text, *(char **)field, PATH_MAX);
		break;
	default:
		*(uint64_t *)field = value->number;
	}
}

void hm_value_store_initial(const struct hm_row *row, void *record)
{
	const struct hm_value initial = { .text = "", .number = row->initial };

	hm_value_store(row, &initial, record);
}

void hm_value_load(const struct hostmem_host *host, const struct hm_row *row, const void *record,
		   struct hm_value *value)
{
	const void *field = (const char *)record + row->offset;

	*value = (struct hm_value){ 0 };
	if (hm_value_is_plain_bool(row)) {
		value->number = *(const bool *)field;
		return;
	}
	switch (row->public.type) {
	case HOSTMEM_TYPE_NODES:
	case HOSTMEM_TYPE_CPUS:
		value->set = *(const struct hm_set *)field;
		break;
	case HOSTMEM_TYPE_LINK:
		value->text = field;
		break;
	case HOSTMEM_TYPE_PATH:
		value->text = *(char *const *)field;
		break;
	default:
		value->number = *(const uint64_t *)field;
		if (!value->number && row->automatic)
			value->number = row->automatic(host);
	}
}

int hm_value_format(const struct hm_row *row, const struct hm_value *value, char *buffer,
		    size_t size)
{
	if (hm_value_is_plain_bool(row))
		return hm_text_copy(value->number ? "on" : "off", buffer, size);
	switch (row->public.type) {
	case HOSTMEM_TYPE_BOOL:
	case HOSTMEM_TYPE_ENUM:
		return hm_text_copy(row->public.choices[value->number], buffer, size);
	case HOSTMEM_TYPE_NODES:
	case HOSTMEM_TYPE_CPUS:
		return hm_set_format(&value->set, buffer, size);
	case HOSTMEM_TYPE_LINK:
	case HOSTMEM_TYPE_PATH:
		return hm_text_copy(value->text, buffer, size);
	default:
		if (can_be_none(row) && value->number == row->initial)
			return hm_text_copy("none", buffer, size);
		return snprintf(buffer, size, "%ju", (uintmax_t)value->number);
	}
}

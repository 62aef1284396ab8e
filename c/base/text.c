/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Values as text: sizes, numbers, booleans, ids, key=value strings. Pure: no system call, no
 * allocation, no locale. Does not know any property.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base.h"

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* The value of a digit in base 10 or 16; -1 when it is none. */
static int digit_value(char c, int base)
{
	if (is_digit(c))
		return c - '0';
	if (base == 16 && c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (base == 16 && c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int hm_text_take_digits(const char **text, int base, uint64_t *value)
{
	const char *start = *text;
	uint64_t result = 0;
	int digit;

	while ((digit = digit_value(**text, base)) >= 0) {
		(*text)++;
		if (__builtin_mul_overflow(result, (uint64_t)base, &result) ||
		    __builtin_add_overflow(result, (uint64_t)digit, &result))
			return -1;
	}
	if (*text == start)
		return -1;
	*value = result;
	return 0;
}

static bool is_hex(const char *text)
{
	return text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
}

static int take_number(const char **text, uint64_t *value)
{
	if (is_hex(*text)) {
		*text += 2;
		return hm_text_take_digits(text, 16, value);
	}
	return hm_text_take_digits(text, 10, value);
}

/* The exponent of two that a size suffix stands for, 0 for none; -1 when it is not one. */
static int suffix_shift(const char *text)
{
	static const char suffixes[] = "BbKkMmGgTtPpEe";
	const char *found;

	if (!*text)
		return 0;
	found = strchr(suffixes, *text);
	if (!found || text[1])
		return -1;
	return (int)(found - suffixes) / 2 * 10;
}

/*
 * The decimals of a fraction. 2^-60 of a byte has no more of them, so what follows cannot change a
 * whole byte, whatever the suffix.
 */
struct fraction {
	uint8_t digits[60];
	size_t len;
	bool is_zero;
};

/* Takes ".5" off *text, if it is there. */
static int take_fraction(const char **text, struct fraction *fraction)
{
	*fraction = (struct fraction){ .is_zero = true };
	if (**text != '.')
		return 0;
	(*text)++;
	if (!is_digit(**text))
		return -1;
	for (; is_digit(**text); (*text)++) {
		if (fraction->len < sizeof(fraction->digits))
			fraction->digits[fraction->len++] = (uint8_t)(**text - '0');
		fraction->is_zero = fraction->is_zero && **text == '0';
	}
	return 0;
}

/* The fraction times 2^shift, rounded down: doubled that often, the carries are the bits. */
static uint64_t scale_fraction(struct fraction *fraction, int shift)
{
	uint64_t result = 0;

	while (shift-- > 0) {
		unsigned int carry = 0;

		for (size_t i = fraction->len; i-- > 0;) {
			unsigned int doubled = fraction->digits[i] * 2u + carry;

			carry = doubled > 9;
			fraction->digits[i] = (uint8_t)(doubled % 10);
		}
		result = result * 2 + carry;
	}
	return result;
}

int hm_text_parse_size(const char *text, uint64_t *value)
{
	bool hex = is_hex(text);
	struct fraction fraction;
	uint64_t whole;
	int shift;

	if (take_number(&text, &whole))
		return -1;
	if ((hex && *text) || take_fraction(&text, &fraction))
		return -1;
	shift = suffix_shift(text);
	if (shift < 0 || (!fraction.is_zero && !shift))
		return -1;
	if (shift && whole >> (64 - shift))
		return -1;
	/* The fraction is below 2^shift, where the shifted number has no bits. */
	*value = whole << shift | scale_fraction(&fraction, shift);
	return 0;
}

int hm_text_parse_number(const char *text, uint64_t *value)
{
	return take_number(&text, value) || *text ? -1 : 0;
}

int hm_text_parse_bool(const char *text, bool *value)
{
	static const char *const words[][2] = {
		{ "on", "off" }, { "yes", "no" }, { "true", "false" }, { "y", "n" }
	};

	for (size_t i = 0; i < HM_ARRAY_LEN(words); i++) {
		if (!strcmp(text, words[i][0]) || !strcmp(text, words[i][1])) {
			*value = !strcmp(text, words[i][0]);
			return 0;
		}
	}
	return -1;
}

/*
 * Whether the first two bytes of a longer character begin one that could be shorter, a surrogate,
 * or one above U+10FFFF (RFC 3629, section 4).
 */
static bool is_out_of_range(unsigned char first, unsigned char second)
{
	switch (first) {
	case 0xe0:
		return second < 0xa0;
	case 0xed:
		return second > 0x9f;
	case 0xf0:
		return second < 0x90;
	case 0xf4:
		return second > 0x8f;
	default:
		return false;
	}
}

/* How many bytes the UTF-8 character at `text` has; 0 when it is none. */
static size_t character_length(const unsigned char *text)
{
	size_t length = *text < 0x80   ? 1
			: *text < 0xc2 ? 0
			: *text < 0xe0 ? 2
			: *text < 0xf0 ? 3
				       : 4;

	if (*text > 0xf4 || is_out_of_range(*text, text[1]))
		return 0;
	for (size_t i = 1; i < length; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	}
	return length;
}

/* One of ASCII or of C1, U+0080 to U+009F, of which NEL ends a line and CSI commands a terminal. */
static bool is_control(const unsigned char *text)
{
	return *text < 0x20 || *text == 0x7f || (*text == 0xc2 && text[1] < 0xa0);
}

void hm_text_clean(char *text)
{
	while (*text) {
		const unsigned char *first = (const unsigned char *)text;
		size_t length = is_control(first) ? 0 : character_length(first);

		if (!length)
			*text = '?';
		text += length ? length : 1;
	}
}

int hm_text_copy(const char *text, char *buffer, size_t size)
{
	return snprintf(buffer, size, "%s", text);
}

size_t hm_text_find_size_unit(const char *text)
{
	static const char *const rest[] = { "b", "i", "ib" };
	size_t unit = strspn(text, "0123456789.") + 1;
	uint64_t value;
	/* As much as a message quotes. */
	char size[128];

	if (unit >= sizeof(size))
		return 0;
	hm_text_copy(text, size, unit + 1);
	if (hm_text_parse_size(size, &value))
		return 0;
	for (size_t i = 0; i < HM_ARRAY_LEN(rest); i++) {
		if (!strcasecmp(text + unit, rest[i]))
			return unit;
	}
	return 0;
}

bool hm_text_is_id(const char *text)
{
	size_t length = strlen(text);

	if (!is_letter(*text) || length > HOSTMEM_ID_MAX)
		return false;
	for (; *text; text++) {
		if (!is_letter(*text) && !is_digit(*text) && !strchr("-._", *text))
			return false;
	}
	return true;
}

/* Cuts the part before the next single comma off *options, turning ",," into ",". */
static char *take_part(char **options)
{
	char *part = *options;
	char *read = part, *write = part;

	while (*read) {
		if (*read == ',' && read[1] != ',') {
			read++;
			break;
		}
		read += *read == ',' ? 1 : 0;
		*write++ = *read++;
	}
	*options = read;
	*write = '\0';
	return part;
}

bool hm_text_next_option(char **options, char **key, char **value)
{
	char *part, *equals;

	if (!**options)
		return false;
	part = take_part(options);
	equals = strchr(part, '=');
	*key = equals ? part : NULL;
	*value = equals ? equals + 1 : part;
	if (equals)
		*equals = '\0';
	return true;
}

void hm_text_join(char *text, size_t size, const char *separator, const char *word)
{
	size_t length = strlen(text);

	snprintf(text + length, size - length, "%s%s", length ? separator : "", word);
}

const char *hm_text_find_line(const char *text, const char *name)
{
	size_t length = strlen(name);

	while (text && strncmp(text, name, length)) {
		text = strchr(text, '\n');
		if (text)
			text++;
	}
	return text ? text + length : NULL;
}

const char *hm_text_state(enum hostmem_state state)
{
	switch (state) {
	case HOSTMEM_STATE_CONFIGURING:
		return "configuring";
	case HOSTMEM_STATE_COMPLETING:
		return "completing";
	case HOSTMEM_STATE_READY:
		return "ready";
	case HOSTMEM_STATE_MAPPED:
		return "mapped";
	case HOSTMEM_STATE_DELETED:
		return "deleted";
	}
	return "in no state";
}

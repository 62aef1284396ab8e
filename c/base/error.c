/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Writes errors into the caller's struct. Does not decide what is an error.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base.h"

/* Marks a message that was too long, not in the middle of a character. */
static void cut(char *message)
{
	static const char mark[] = "...";
	size_t end = HOSTMEM_MESSAGE_SIZE - sizeof(mark);

	while ((message[end] & 0xc0) == 0x80)
		end--;
	memcpy(message + end, mark, sizeof(mark));
}

int hm_fail(struct hostmem_error *err, enum hostmem_error_kind kind, int os_error,
	    const char *format, ...)
{
	va_list arguments;
	int length;

	if (!err)
		return -1;
	err->kind = kind;
	err->os_error = os_error;
	va_start(arguments, format);
	length = vsnprintf(err->message, sizeof(err->message), format, arguments);
	va_end(arguments);
	if (length >= (int)sizeof(err->message))
		cut(err->message);
	hm_text_clean(err->message);
	return -1;
}

void hm_error_append(struct hostmem_error *err, const char *text)
{
	size_t length, room;

	if (!err)
		return;
	length = strlen(err->message);
	room = sizeof(err->message) - length;
	if (hm_text_copy(text, err->message + length, room) >= (int)room)
		cut(err->message);
	hm_text_clean(err->message + length);
}

int hm_fail_alloc(struct hostmem_error *err)
{
	return hm_fail(err, HOSTMEM_ERROR_NO_MEMORY, ENOMEM,
		       "out of memory for the library's own bookkeeping");
}

enum hostmem_error_kind hm_error_kind_of(int os_error)
{
	switch (os_error) {
	case ENOMEM:
	case ENOSPC:
	case EDQUOT:
	case EAGAIN:
	case EMFILE:
	case ENFILE:
		return HOSTMEM_ERROR_NO_MEMORY;
	case ENOSYS:
	case EOPNOTSUPP:
		return HOSTMEM_ERROR_UNSUPPORTED;
	default:
		return HOSTMEM_ERROR_IO;
	}
}

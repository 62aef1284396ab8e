/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Option strings, values and sets from anywhere. What was taken reads as a text that is taken again
 * and reads the same.
 */
#include "fuzz.h"

static struct hostmem_objects *objects;
static struct hostmem_error err;

static void prepare(void)
{
	static const struct hostmem_defaults defaults = { .fd_by_number = true };
	struct hostmem_host *host;

	if (objects)
		return;
	MUST(!hostmem_host_probe(&host, NULL));
	MUST(!hostmem_objects_new(&objects, host, &defaults, NULL, 0, NULL));
	hostmem_host_free(host);
}

/* A descriptor's number is that of a duplicate. */
static bool is_exact(const struct hostmem_property *property)
{
	return property->type != HOSTMEM_TYPE_FD && property->settable != HOSTMEM_SETTABLE_NEVER;
}

static void read_and_set_again(struct hostmem_backend *backend,
			       const struct hostmem_property *property)
{
	char first[20000], again[20000], cut[4];
	int length = hostmem_backend_get_text(backend, property->name, first, sizeof(first), &err);

	if (checked(length, &err) < 0)
		return;
	MUST((size_t)length == strlen(first));
	MUST(hostmem_backend_get_text(backend, property->name, cut, sizeof(cut), NULL) == length);
	/* Of an empty set only a list makes one; the size has none yet. */
	if (!is_exact(property) || !*first ||
	    (property->type == HOSTMEM_TYPE_SIZE && !strcmp(first, "0")))
		return;
	MUST(!checked(hostmem_backend_set_text(backend, property->name, first, &err), &err));
	MUST(hostmem_backend_get_text(backend, property->name, again, sizeof(again), NULL) ==
	     length);
	MUST(!strcmp(first, again));
}

static void use(struct hostmem_backend *backend)
{
	const struct hostmem_property *property;

	for (size_t i = 0; (property = hostmem_property_get(i)); i++)
		read_and_set_again(backend, property);
	hostmem_backend_free(backend);
}

static void try_options(const char *text)
{
	struct hostmem_thread_context *context;
	struct hostmem_backend *backend;
	char kind[32];

	checked(hostmem_options_get_kind(text, kind, sizeof(kind), &err), &err);
	if (!checked(hostmem_backend_new_from_options(objects, &backend, text, &err), &err))
		use(backend);
	if (!checked(hostmem_thread_context_new_from_options(objects, &context, text, &err), &err))
		hostmem_thread_context_free(context);
}

static struct hostmem_backend *new_backend(uint8_t number)
{
	const struct hostmem_kind *kind =
		hostmem_objects_get_kind(objects, number % hostmem_objects_get_kind_count(objects));
	struct hostmem_backend *backend;

	MUST(!hostmem_backend_new(objects, &backend, kind->name, "ram", NULL));
	return backend;
}

static void try_value(struct input *input)
{
	struct hostmem_backend *backend = new_backend(take_byte(input));
	const struct hostmem_property *property = hostmem_property_get(take_byte(input) % 32);
	char *text = take_text(input, input->size);

	if (property) {
		checked(hostmem_backend_set_text(backend, property->name, text, &err), &err);
		checked(hostmem_backend_set_number(backend, property->name, strtoull(text, NULL, 0),
						   &err),
			&err);
	}
	checked(hostmem_backend_set_text(backend, text, "1", &err), &err);
	free(text);
	use(backend);
}

static void try_list(struct input *input)
{
	struct hostmem_backend *backend = new_backend(0);
	uint32_t list[64], back[HOSTMEM_NODES_MAX];
	size_t count = 0;
	int length;

	while (input->size && count < ARRAY_LEN(list)) {
		list[count] = (uint32_t)(take_byte(input) << 8);
		list[count++] |= take_byte(input);
	}
	if (!checked(hostmem_backend_set_list(backend, "host-nodes", list, count, &err), &err)) {
		length = hostmem_backend_get_list(backend, "host-nodes", back, ARRAY_LEN(back),
						  NULL);
		MUST(length >= 0 && (size_t)length <= count);
		for (int i = 1; i < length; i++)
			MUST(back[i - 1] < back[i]);
	}
	use(backend);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	char *text;

	prepare();
	switch (take_byte(&input) % 3) {
	case 0:
		text = take_text(&input, input.size);
		try_options(text);
		free(text);
		break;
	case 1:
		try_value(&input);
		break;
	default:
		try_list(&input);
		break;
	}
	return 0;
}

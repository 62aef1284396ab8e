/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * THE property table, and reading and setting a property by it. What a value means is not known
 * here: combinations are check.c's, changes of ready memory live.c's.
 */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

struct row {
	struct hostmem_property public;
	/* Where the value is in struct hm_values. */
	size_t offset;
	/* Of a bool, a number or an enum. */
	uint64_t initial;
	/* Of a size, a number or a node: the least and the largest value. */
	uint64_t least, largest;
};

static const char *const prealloc_modes[] = { "wait", "background", NULL };
static const char *const rom_choices[] = { "auto", "on", "off", NULL };
static const char *const thp_choices[] = { "auto", "always", "never", NULL };

#define ALL_KINDS NULL
static const char *const file_kind[] = { "memory-backend-file", NULL };
static const char *const file_and_fd_kinds[] = { "memory-backend-file", "memory-backend-fd", NULL };
static const char *const fd_kind[] = { "memory-backend-fd", NULL };
static const char *const memfd_kind[] = { "memory-backend-memfd", NULL };

#define ROW(ID, FIELD, NAME, TYPE, WHEN, DEFAULT, CHOICES, KINDS, DESCRIPTION, ...)                \
	[HM_PROPERTY_##ID] = { .public = { .name = NAME,                                           \
					   .type = HOSTMEM_TYPE_##TYPE,                            \
					   .settable = HOSTMEM_SETTABLE_##WHEN,                    \
					   .default_text = DEFAULT,                                \
					   .choices = CHOICES,                                     \
					   .kinds = KINDS,                                         \
					   .description = DESCRIPTION },                           \
			       .offset = offsetof(struct hm_values, FIELD),                        \
			       __VA_ARGS__ }

static const struct row rows[HM_PROPERTY_COUNT] = {
	ROW(ALIGN, align, "align", SIZE, CONFIGURING, "0", NULL, file_kind,
	    "What the memory's address is a multiple of, a power of two; 0 chooses what lets huge "
	    "pages fit.",
	    .initial = 0, .largest = UINT64_MAX),
	ROW(DISCARD_DATA, discard_data, "discard-data", BOOL, LATER_USE, "off", NULL, file_kind,
	    "Whether deleting the backend gives the contents of a shared file up.",
	    .initial = false),
	ROW(DUMP, dump, "dump", BOOL, ALWAYS, "on", NULL, ALL_KINDS,
	    "Whether core dumps of this process contain the memory; the default comes from the "
	    "defaults record.",
	    .initial = true),
	ROW(FD, fd, "fd", FD, CONFIGURING, "none", NULL, fd_kind,
	    "The open descriptor to map, required; the backend has a duplicate of its own.",
	    .initial = HM_FD_NONE, .largest = INT_MAX),
	ROW(HOME_NODE, home_node, "home-node", NODE, ALWAYS, "none", NULL, ALL_KINDS,
	    "The node of host-nodes to fill first, with policy bind or preferred-many; needs Linux "
	    "5.17.",
	    .initial = HM_NODE_NONE, .largest = HOSTMEM_NODES_MAX - 1),
	ROW(HOST_NODES, host_nodes, "host-nodes", NODES, ALWAYS, "", NULL, ALL_KINDS,
	    "The NUMA nodes of the host that the policy is about; setting it replaces the whole "
	    "set.",
	    .initial = 0),
	ROW(HUGETLB, hugetlb, "hugetlb", BOOL, CONFIGURING, "off", NULL, memfd_kind,
	    "Whether the memory is made of huge pages from the host's pool.", .initial = false),
	ROW(HUGETLBSIZE, hugetlbsize, "hugetlbsize", SIZE, CONFIGURING, "0", NULL, memfd_kind,
	    "The size of the huge pages, with hugetlb=on; 0 is the host's default.", .initial = 0,
	    .largest = UINT64_MAX),
	ROW(LOCK, lock, "lock", BOOL, ALWAYS, "off", NULL, ALL_KINDS,
	    "Whether the memory is locked against being swapped: all of it after prealloc, else "
	    "each page once it is there.",
	    .initial = false),
	ROW(MEM_PATH, mem_path, "mem-path", PATH, CONFIGURING, "", NULL, file_kind,
	    "The file to map, made when it is missing, or a directory to make a nameless one in; "
	    "required.",
	    .initial = 0),
	ROW(MERGE, merge, "merge", BOOL, ALWAYS, "on", NULL, ALL_KINDS,
	    "Whether the kernel may merge identical pages (KSM); the default comes from the "
	    "defaults record.",
	    .initial = true),
	ROW(OFFSET, offset, "offset", SIZE, CONFIGURING, "0", NULL, file_and_fd_kinds,
	    "Where in the file the memory begins; a multiple of the page size of what it is made "
	    "of.",
	    .initial = 0, .largest = UINT64_MAX),
	ROW(PMEM, pmem, "pmem", BOOL, CONFIGURING, "off", NULL, file_kind,
	    "Whether the file is persistent memory whose stores survive a crash; needs share=on "
	    "and a DAX file system.",
	    .initial = false),
	ROW(POLICY, policy, "policy", ENUM, ALWAYS, "default", hm_numa_policy_names, ALL_KINDS,
	    "Where the memory comes from; all but default and local need host-nodes.",
	    .initial = HM_POLICY_DEFAULT),
	ROW(PREALLOC, prealloc, "prealloc", BOOL, ALWAYS, "off", NULL, ALL_KINDS,
	    "Whether all memory is made present when the backend is completed; the default comes "
	    "from the defaults record.",
	    .initial = false),
	ROW(PREALLOC_CONTEXT, prealloc_context, "prealloc-context", LINK, LATER_USE, "", NULL,
	    ALL_KINDS, "The thread-context that creates the threads that preallocate.",
	    .initial = 0),
	ROW(PREALLOC_MODE, prealloc_mode, "prealloc-mode", ENUM, LATER_USE, "wait", prealloc_modes,
	    ALL_KINDS, "Whether completing waits for prealloc or lets it run in the background.",
	    .initial = HM_PREALLOC_WAIT),
	ROW(PREALLOC_THREADS, prealloc_threads, "prealloc-threads", UINT32, LATER_USE,
	    "usable CPUs", NULL, ALL_KINDS,
	    "How many threads preallocate at most; fewer where there is little to do.",
	    .initial = 0, .least = 1, .largest = UINT32_MAX),
	ROW(READONLY, readonly, "readonly", BOOL, CONFIGURING, "off", NULL, file_and_fd_kinds,
	    "Whether the file is opened, or the descriptor used, for reading only.",
	    .initial = false),
	ROW(RESERVE, reserve, "reserve", BOOL, CONFIGURING, "on", NULL, ALL_KINDS,
	    "Whether the kernel sets swap space or huge pages aside for the whole memory.",
	    .initial = true),
	ROW(ROM, rom, "rom", ENUM, CONFIGURING, "auto", rom_choices, file_and_fd_kinds,
	    "Whether the guest may only read the memory; auto is as readonly. off with readonly=on "
	    "gives each guest a private copy of a template.",
	    .initial = HM_ROM_AUTO),
	ROW(SEAL, seal, "seal", BOOL, CONFIGURING, "on", NULL, memfd_kind,
	    "Whether the memfd's size is sealed; off seals only against further seals.",
	    .initial = true),
	ROW(SHARE, share, "share", BOOL, CONFIGURING, "off, but on for memfd, shm and fd", NULL,
	    ALL_KINDS, "Whether processes that map the same descriptor share the memory.",
	    .initial = false),
	ROW(SIZE, size, "size", SIZE, CONFIGURING, "0", NULL, ALL_KINDS,
	    "Bytes of memory, required; a multiple of the page size of what it is made of.",
	    .initial = 0, .least = 1, .largest = UINT64_MAX),
	ROW(THP, thp, "thp", ENUM, ALWAYS, "auto", thp_choices, ALL_KINDS,
	    "Transparent huge pages: auto asks for them where the memory is large enough, always "
	    "insists, never forbids.",
	    .initial = HM_THP_AUTO),
	ROW(CANONICAL_NAME, canonical_name, "x-use-canonical-path-for-ramblock-id", BOOL,
	    CONFIGURING, "off", NULL, ALL_KINDS,
	    "Whether the name of the memory in a migration is /objects/<id> instead of <id>.",
	    .initial = false),
};

const struct hostmem_property *hostmem_property_get(size_t index)
{
	return index < HM_PROPERTY_COUNT ? &rows[index].public : NULL;
}

static void *field_of(struct hm_values *values, const struct row *row)
{
	return (char *)values + row->offset;
}

static size_t size_of_field(const struct row *row)
{
	switch (row->public.type) {
	case HOSTMEM_TYPE_BOOL:
		return sizeof(bool);
	case HOSTMEM_TYPE_NODES:
		return sizeof(struct hm_nodes);
	case HOSTMEM_TYPE_LINK:
		return HOSTMEM_ID_MAX + 1;
	case HOSTMEM_TYPE_PATH:
		return PATH_MAX;
	default:
		return sizeof(uint64_t);
	}
}

static bool has_kind(const struct row *row, const char *kind)
{
	if (!row->public.kinds)
		return true;
	for (const char *const *name = row->public.kinds; *name; name++) {
		if (!strcmp(*name, kind))
			return true;
	}
	return false;
}

/* "a, b, c": the names of a kind's properties, for messages. */
static void list_names(const char *kind, char *text, size_t size)
{
	size_t length = 0;

	*text = '\0';
	for (size_t i = 0; i < HM_PROPERTY_COUNT; i++) {
		if (has_kind(&rows[i], kind) && length < size)
			length += (size_t)snprintf(text + length, size - length, "%s%s",
						   length ? ", " : "", rows[i].public.name);
	}
}

static const struct row *find(const struct hostmem_backend *backend, const char *property,
			      struct hostmem_error *err)
{
	char names[512];

	for (size_t i = 0; i < HM_PROPERTY_COUNT; i++) {
		if (!strcmp(rows[i].public.name, property) &&
		    has_kind(&rows[i], backend->kind->name))
			return &rows[i];
	}
	list_names(backend->kind->name, names, sizeof(names));
	hm_fail(err, HOSTMEM_ERROR_UNKNOWN_PROPERTY, 0,
		"%s: %s has no property '%.128s'; it has %s", backend->id, backend->kind->name,
		property, names);
	return NULL;
}

int hm_props_is_set(const struct hostmem_backend *backend, const char *property,
		    struct hostmem_error *err)
{
	const struct row *row = find(backend, property, err);

	return row ? row->public.type == HOSTMEM_TYPE_NODES : -1;
}

void hm_props_reset(struct hostmem_backend *backend, const struct hostmem_defaults *defaults)
{
	struct hm_values *values = &backend->values;

	*values = (struct hm_values){ 0 };
	for (size_t i = 0; i < HM_PROPERTY_COUNT; i++) {
		void *field = field_of(values, &rows[i]);

		backend->origins[i] = HOSTMEM_ORIGIN_DEFAULT;
		if (rows[i].public.type == HOSTMEM_TYPE_BOOL)
			*(bool *)field = rows[i].initial;
		else if (size_of_field(&rows[i]) == sizeof(uint64_t))
			*(uint64_t *)field = rows[i].initial;
	}
	values->merge = defaults->merge;
	values->dump = defaults->dump;
	values->prealloc = defaults->prealloc;
	values->prealloc_threads = defaults->prealloc_threads;
	values->share = backend->kind->share;
}

/* ---- Setting ---- */

static const char *settable_hint(const struct hostmem_backend *backend)
{
	return backend->state == HOSTMEM_STATE_COMPLETING
		       ? "wait until it is complete"
		       : "set it before completing, or make a new backend";
}

/*
 * Whether the property may be set now; called with the lock held. *live: the memory is there and
 * has to follow.
 */
static int check_settable(const struct hostmem_backend *backend, const struct row *row, bool *live,
			  struct hostmem_error *err)
{
	bool ready =
		backend->state == HOSTMEM_STATE_READY || backend->state == HOSTMEM_STATE_MAPPED;

	*live = ready;
	if (backend->state == HOSTMEM_STATE_CONFIGURING ||
	    (ready && row->public.settable != HOSTMEM_SETTABLE_CONFIGURING))
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_STATE, 0, "%s: %s cannot be set while it is %s; %s",
		       backend->id, row->public.name, hm_backend_state_name(backend->state),
		       settable_hint(backend));
}

static void store_locked(struct hostmem_backend *backend, const struct row *row,
			 const struct hm_values *values, enum hostmem_origin origin)
{
	memcpy((char *)&backend->values + row->offset, (const char *)values + row->offset,
	       size_of_field(row));
	backend->origins[row - rows] = (uint8_t)origin;
}

/* Makes the value of the row in `from` the backend's; called with `change` held. */
static int store(struct hostmem_backend *backend, const struct row *row,
		 const struct hm_values *from, enum hostmem_origin origin,
		 struct hostmem_error *err)
{
	struct hm_values old, new;
	bool live;
	int failed;

	pthread_mutex_lock(&backend->lock);
	failed = check_settable(backend, row, &live, err);
	if (!failed && !live)
		store_locked(backend, row, from, origin);
	old = backend->values;
	pthread_mutex_unlock(&backend->lock);
	if (failed || !live)
		return failed;
	new = old;
	memcpy(field_of(&new, row), (const char *)from + row->offset, size_of_field(row));
	if (hm_live_apply(backend, (enum hm_property)(row - rows), &old, &new, err))
		return -1;
	pthread_mutex_lock(&backend->lock);
	store_locked(backend, row, &new, origin);
	pthread_mutex_unlock(&backend->lock);
	return 0;
}

static void close_fd(uint64_t fd)
{
	if (fd != HM_FD_NONE)
		hm_os_close((int)fd);
}

/* A descriptor is stored as a duplicate that the backend owns; called with `change` held. */
static int store_fd(struct hostmem_backend *backend, const struct row *row, struct hm_values *from,
		    enum hostmem_origin origin, struct hostmem_error *err)
{
	uint64_t old = backend->values.fd;
	int duplicate, result;

	if (from->fd != HM_FD_NONE) {
		duplicate = hm_os_duplicate((int)from->fd);
		if (duplicate < 0)
			return hm_fail(err, HOSTMEM_ERROR_VALUE, -duplicate,
				       "%s: fd=%ju cannot be duplicated: %s", backend->id,
				       (uintmax_t)from->fd, strerror(-duplicate));
		from->fd = (uint64_t)duplicate;
	}
	result = store(backend, row, from, origin, err);
	close_fd(result ? from->fd : old);
	return result;
}

void hm_props_clear(struct hostmem_backend *backend)
{
	close_fd(backend->values.fd);
	backend->values.fd = HM_FD_NONE;
}

static int store_as(struct hostmem_backend *backend, const struct row *row, struct hm_values *from,
		    enum hostmem_origin origin, struct hostmem_error *err)
{
	int result;

	pthread_mutex_lock(&backend->change);
	if (row->public.type == HOSTMEM_TYPE_FD)
		result = store_fd(backend, row, from, origin, err);
	else
		result = store(backend, row, from, origin, err);
	pthread_mutex_unlock(&backend->change);
	return result;
}

static int fail_value(const struct hostmem_backend *backend, const struct row *row,
		      const char *text, const char *expected, struct hostmem_error *err)
{
	return hm_fail(err, HOSTMEM_ERROR_VALUE, 0, "%s: %s=%.128s: expected %s", backend->id,
		       row->public.name, text, expected);
}

static int fail_type(const struct hostmem_backend *backend, const struct row *row, const char *got,
		     struct hostmem_error *err)
{
	static const char *const types[] = {
		[HOSTMEM_TYPE_BOOL] = "a boolean",      [HOSTMEM_TYPE_SIZE] = "a size in bytes",
		[HOSTMEM_TYPE_UINT32] = "a number",     [HOSTMEM_TYPE_ENUM] = "one of its choices",
		[HOSTMEM_TYPE_NODES] = "a node list",   [HOSTMEM_TYPE_NODE] = "a node",
		[HOSTMEM_TYPE_LINK] = "an object's id", [HOSTMEM_TYPE_PATH] = "a path",
		[HOSTMEM_TYPE_FD] = "a descriptor",
	};

	return hm_fail(err, HOSTMEM_ERROR_TYPE, 0, "%s: %s is %s, not %s", backend->id,
		       row->public.name, types[row->public.type], got);
}

/* Puts a number into the row's field of *values, within the row's bounds. */
static int put_number(const struct hostmem_backend *backend, const struct row *row, uint64_t number,
		      struct hm_values *values, struct hostmem_error *err)
{
	if (number < row->least || number > row->largest)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: %s=%ju: expected a value from %ju to %ju", backend->id,
			       row->public.name, (uintmax_t)number, (uintmax_t)row->least,
			       (uintmax_t)row->largest);
	*(uint64_t *)field_of(values, row) = number;
	return 0;
}

static int parse_bool(const struct hostmem_backend *backend, const struct row *row,
		      const char *text, struct hm_values *values, struct hostmem_error *err)
{
	if (hm_text_parse_bool(text, field_of(values, row)))
		return fail_value(backend, row, text, "on or off", err);
	return 0;
}

static int parse_size(const struct hostmem_backend *backend, const struct row *row,
		      const char *text, struct hm_values *values, struct hostmem_error *err)
{
	uint64_t number;

	if (hm_text_parse_size(text, &number))
		return fail_value(backend, row, text,
				  "a size below 16E such as 4096, 512M, 1.5G or 0x40000000 (one "
				  "suffix of B k K M G T P E)",
				  err);
	return put_number(backend, row, number, values, err);
}

static int parse_number(const struct hostmem_backend *backend, const struct row *row,
			const char *text, struct hm_values *values, struct hostmem_error *err)
{
	uint64_t number;

	if (hm_text_parse_number(text, &number))
		return fail_value(backend, row, text, "a whole number", err);
	return put_number(backend, row, number, values, err);
}

/* A node or a descriptor. */
static int parse_or_none(const struct hostmem_backend *backend, const struct row *row,
			 const char *text, struct hm_values *values, struct hostmem_error *err)
{
	if (!strcmp(text, "none")) {
		*(uint64_t *)field_of(values, row) = row->initial;
		return 0;
	}
	return parse_number(backend, row, text, values, err);
}

static int parse_nodes(const struct hostmem_backend *backend, const struct row *row,
		       const char *text, struct hm_values *values, struct hostmem_error *err)
{
	struct hm_nodes *nodes = field_of(values, row);

	if (hm_text_parse_set(text, nodes->bits, HM_ARRAY_LEN(nodes->bits)))
		return fail_value(backend, row, text,
				  "node ids below 1024 and rising ranges, such as 0 or 0-1", err);
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

static int parse_enum(const struct hostmem_backend *backend, const struct row *row,
		      const char *text, struct hm_values *values, struct hostmem_error *err)
{
	char choices[256];

	for (uint64_t i = 0; row->public.choices[i]; i++) {
		if (!strcmp(row->public.choices[i], text)) {
			*(uint64_t *)field_of(values, row) = i;
			return 0;
		}
	}
	list_choices(row->public.choices, choices, sizeof(choices));
	return fail_value(backend, row, text, choices, err);
}

/* No object but a backend can be made yet, and a backend is not what a link here wants. */
static int parse_link(const struct hostmem_backend *backend, const struct row *row,
		      const char *text, struct hm_values *values, struct hostmem_error *err)
{
	char *link = field_of(values, row);

	if (*text)
		return fail_value(backend, row, text, "the id of a thread-context, there is none",
				  err);
	link[0] = '\0';
	return 0;
}

static int parse_path(const struct hostmem_backend *backend, const struct row *row,
		      const char *text, struct hm_values *values, struct hostmem_error *err)
{
	if (hm_text_copy(text, field_of(values, row), PATH_MAX) >= PATH_MAX)
		return fail_value(backend, row, text, "a path of at most 4095 bytes", err);
	return 0;
}

static int parse(const struct hostmem_backend *backend, const struct row *row, const char *text,
		 struct hm_values *values, struct hostmem_error *err)
{
	switch (row->public.type) {
	case HOSTMEM_TYPE_BOOL:
		return parse_bool(backend, row, text, values, err);
	case HOSTMEM_TYPE_SIZE:
		return parse_size(backend, row, text, values, err);
	case HOSTMEM_TYPE_UINT32:
		return parse_number(backend, row, text, values, err);
	case HOSTMEM_TYPE_ENUM:
		return parse_enum(backend, row, text, values, err);
	case HOSTMEM_TYPE_NODES:
		return parse_nodes(backend, row, text, values, err);
	case HOSTMEM_TYPE_NODE:
	case HOSTMEM_TYPE_FD:
		return parse_or_none(backend, row, text, values, err);
	case HOSTMEM_TYPE_LINK:
		return parse_link(backend, row, text, values, err);
	case HOSTMEM_TYPE_PATH:
		return parse_path(backend, row, text, values, err);
	}
	return -1;
}

int hostmem_backend_set_text(struct hostmem_backend *backend, const char *property,
			     const char *text, struct hostmem_error *err)
{
	const struct row *row = find(backend, property, err);
	struct hm_values values;

	if (!row || parse(backend, row, text, &values, err))
		return -1;
	return store_as(backend, row, &values, HOSTMEM_ORIGIN_USER, err);
}

int hm_props_set_compat(struct hostmem_backend *backend, const char *property, const char *text,
			struct hostmem_error *err)
{
	const struct row *row = find(backend, property, err);
	struct hm_values values;

	if (!row || parse(backend, row, text, &values, err))
		return -1;
	return store_as(backend, row, &values, HOSTMEM_ORIGIN_COMPAT, err);
}

int hostmem_backend_set_bool(struct hostmem_backend *backend, const char *property, bool value,
			     struct hostmem_error *err)
{
	const struct row *row = find(backend, property, err);
	struct hm_values values;

	if (!row)
		return -1;
	if (row->public.type != HOSTMEM_TYPE_BOOL)
		return fail_type(backend, row, "a boolean", err);
	*(bool *)field_of(&values, row) = value;
	return store_as(backend, row, &values, HOSTMEM_ORIGIN_USER, err);
}

static bool can_be_none(const struct row *row)
{
	return row->public.type == HOSTMEM_TYPE_NODE || row->public.type == HOSTMEM_TYPE_FD;
}

static bool is_number(const struct row *row)
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

/* A number, which for a node or a descriptor may stand for none. */
static int put_number_or_none(const struct hostmem_backend *backend, const struct row *row,
			      uint64_t number, struct hm_values *values, struct hostmem_error *err)
{
	if (!can_be_none(row) || number != row->initial)
		return put_number(backend, row, number, values, err);
	*(uint64_t *)field_of(values, row) = number;
	return 0;
}

int hostmem_backend_set_number(struct hostmem_backend *backend, const char *property,
			       uint64_t value, struct hostmem_error *err)
{
	const struct row *row = find(backend, property, err);
	struct hm_values values;

	if (!row)
		return -1;
	if (!is_number(row))
		return fail_type(backend, row, "a number", err);
	if (put_number_or_none(backend, row, value, &values, err))
		return -1;
	return store_as(backend, row, &values, HOSTMEM_ORIGIN_USER, err);
}

static int put_list(const struct hostmem_backend *backend, const struct row *row,
		    const uint32_t *list, size_t list_len, struct hm_values *values,
		    struct hostmem_error *err)
{
	struct hm_nodes *nodes = field_of(values, row);

	*nodes = (struct hm_nodes){ 0 };
	for (size_t i = 0; i < list_len; i++) {
		if (list[i] >= HOSTMEM_NODES_MAX)
			return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
				       "%s: %s: node %u: expected node ids below %d", backend->id,
				       row->public.name, list[i], HOSTMEM_NODES_MAX);
		hm_set_add(nodes->bits, list[i]);
	}
	return 0;
}

int hostmem_backend_set_list(struct hostmem_backend *backend, const char *property,
			     const uint32_t *list, size_t list_len, struct hostmem_error *err)
{
	const struct row *row = find(backend, property, err);
	struct hm_values values;

	if (!row)
		return -1;
	if (row->public.type != HOSTMEM_TYPE_NODES)
		return fail_type(backend, row, "a list", err);
	if (put_list(backend, row, list, list_len, &values, err))
		return -1;
	return store_as(backend, row, &values, HOSTMEM_ORIGIN_USER, err);
}

/* ---- Setting what belongs together ---- */

static const struct row *const binding[] = {
	&rows[HM_PROPERTY_POLICY],
	&rows[HM_PROPERTY_HOST_NODES],
	&rows[HM_PROPERTY_HOME_NODE],
};

/* As store(), for the three at once; called with `change` held. */
static int store_binding(struct hostmem_backend *backend, const struct hm_values *from,
			 uint32_t flags, struct hostmem_rebind_result *rebound,
			 struct hostmem_error *err)
{
	enum hostmem_state state = hostmem_backend_get_state(backend);
	struct hm_values old, new;

	if (state != HOSTMEM_STATE_READY && state != HOSTMEM_STATE_MAPPED)
		return hm_fail_no_memory_yet(backend, state, err);
	hm_backend_snapshot(backend, &old);
	new = old;
	new.policy = from->policy;
	new.host_nodes = from->host_nodes;
	new.home_node = from->home_node;
	if (hm_live_rebind(backend, &old, &new, flags, rebound, err))
		return -1;
	pthread_mutex_lock(&backend->lock);
	for (size_t i = 0; i < HM_ARRAY_LEN(binding); i++)
		store_locked(backend, binding[i], &new, HOSTMEM_ORIGIN_USER);
	pthread_mutex_unlock(&backend->lock);
	return 0;
}

int hostmem_backend_rebind(struct hostmem_backend *backend, struct hostmem_rebind_result *result,
			   const char *policy, const uint32_t *host_nodes, size_t host_nodes_len,
			   uint64_t home_node, uint32_t flags, struct hostmem_error *err)
{
	struct hostmem_rebind_result rebound;
	struct hm_values values;
	int failed;

	if (parse(backend, binding[0], policy, &values, err) ||
	    put_list(backend, binding[1], host_nodes, host_nodes_len, &values, err) ||
	    put_number_or_none(backend, binding[2], home_node, &values, err))
		return -1;
	if (flags & ~(uint32_t)HOSTMEM_REBIND_MOVE_ALL)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: rebind: flags 0x%x: expected enum hostmem_rebind_flag",
			       backend->id, flags);
	pthread_mutex_lock(&backend->change);
	failed = store_binding(backend, &values, flags, &rebound, err);
	pthread_mutex_unlock(&backend->change);
	if (!failed)
		*result = rebound;
	return failed;
}

/* ---- Reading ---- */

/* The effective value of every property. */
static void read_values(const struct hostmem_backend *backend, struct hm_values *values)
{
	hm_backend_snapshot(backend, values);
	if (!values->prealloc_threads)
		values->prealloc_threads = hm_topology_count_cpus();
}

static int format(const struct row *row, struct hm_values *values, char *buffer, size_t size)
{
	const void *field = field_of(values, row);
	uint64_t number = 0;

	if (size_of_field(row) == sizeof(number))
		memcpy(&number, field, sizeof(number));
	switch (row->public.type) {
	case HOSTMEM_TYPE_BOOL:
		return hm_text_copy(*(const bool *)field ? "on" : "off", buffer, size);
	case HOSTMEM_TYPE_ENUM:
		return hm_text_copy(row->public.choices[number], buffer, size);
	case HOSTMEM_TYPE_NODES:
		return hm_text_format_set(((const struct hm_nodes *)field)->bits,
					  HOSTMEM_NODES_MAX / 64, buffer, size);
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

int hostmem_backend_get_text(const struct hostmem_backend *backend, const char *property,
			     char *buffer, size_t size, struct hostmem_error *err)
{
	const struct row *row = find(backend, property, err);
	struct hm_values values;

	if (!row)
		return -1;
	read_values(backend, &values);
	return format(row, &values, buffer, size);
}

int hostmem_backend_get_bool(const struct hostmem_backend *backend, const char *property,
			     bool *value, struct hostmem_error *err)
{
	const struct row *row = find(backend, property, err);
	struct hm_values values;

	if (!row)
		return -1;
	if (row->public.type != HOSTMEM_TYPE_BOOL)
		return fail_type(backend, row, "a boolean", err);
	read_values(backend, &values);
	*value = *(const bool *)field_of(&values, row);
	return 0;
}

int hostmem_backend_get_number(const struct hostmem_backend *backend, const char *property,
			       uint64_t *value, struct hostmem_error *err)
{
	const struct row *row = find(backend, property, err);
	struct hm_values values;

	if (!row)
		return -1;
	if (!is_number(row))
		return fail_type(backend, row, "a number", err);
	read_values(backend, &values);
	*value = *(const uint64_t *)field_of(&values, row);
	return 0;
}

int hostmem_backend_get_list(const struct hostmem_backend *backend, const char *property,
			     uint32_t *list, size_t list_size, struct hostmem_error *err)
{
	const struct row *row = find(backend, property, err);
	const struct hm_nodes *nodes;
	struct hm_values values;
	size_t count = 0;

	if (!row)
		return -1;
	if (row->public.type != HOSTMEM_TYPE_NODES)
		return fail_type(backend, row, "a list", err);
	read_values(backend, &values);
	nodes = field_of(&values, row);
	for (uint32_t node = 0; node < HOSTMEM_NODES_MAX; node++) {
		if (!hm_set_has(nodes->bits, HM_ARRAY_LEN(nodes->bits), node))
			continue;
		if (count < list_size)
			list[count] = node;
		count++;
	}
	return (int)count;
}

int hostmem_backend_get_origin(const struct hostmem_backend *backend, const char *property,
			       enum hostmem_origin *origin, struct hostmem_error *err)
{
	const struct row *row = find(backend, property, err);
	pthread_mutex_t *lock = &((struct hostmem_backend *)(uintptr_t)backend)->lock;

	if (!row)
		return -1;
	pthread_mutex_lock(lock);
	*origin = (enum hostmem_origin)backend->origins[row - rows];
	pthread_mutex_unlock(lock);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The property table: name, type, default, kinds and description of every property. It does not
 * know what a value does: check.c checks combinations, live.c changes ready memory.
 */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "object.h"

static const char *const prealloc_modes[] = { "wait", "background", NULL };
static const char *const reserve_choices[] = { "off", "on", "try", NULL };
static const char *const rom_choices[] = { "auto", "on", "off", NULL };
static const char *const thp_choices[] = { "auto", "always", "never", NULL };

#define ALL_KINDS NULL
static const char *const contents_kinds[] = { "memory-backend-ram", "memory-backend-memfd",
					      "memory-backend-shm", "memory-backend-file", NULL };
static const char *const context_kind[] = { HOSTMEM_THREAD_CONTEXT, NULL };
static const char *const file_kind[] = { "memory-backend-file", NULL };
static const char *const file_and_fd_kinds[] = { "memory-backend-file", "memory-backend-fd", NULL };
static const char *const fd_kind[] = { "memory-backend-fd", NULL };
static const char *const hugetlb_kinds[] = { "memory-backend-memfd", "memory-backend-ram", NULL };
static const char *const memfd_kind[] = { "memory-backend-memfd", NULL };

#define ROW_OF(RECORD, ID, FIELD, NAME, TYPE, WHEN, DEFAULT, CHOICES, KINDS, DESCRIPTION, ...)     \
	[HM_PROPERTY_##ID] = { .property = HM_PROPERTY_##ID,                                       \
			       .public = { .name = NAME,                                           \
					   .type = HOSTMEM_TYPE_##TYPE,                            \
					   .settable = HOSTMEM_SETTABLE_##WHEN,                    \
					   .default_text = DEFAULT,                                \
					   .choices = CHOICES,                                     \
					   .kinds = KINDS,                                         \
					   .description = DESCRIPTION },                           \
			       .offset = offsetof(struct RECORD, FIELD),                           \
			       __VA_ARGS__ }

/* A property of backends. */
#define ROW(...)         ROW_OF(hm_values, __VA_ARGS__)
#define CONTEXT_ROW(...) ROW_OF(hm_context_values, __VA_ARGS__)

static const struct hm_row rows[HM_PROPERTY_COUNT] = {
	ROW(ALIGN, align, "align", SIZE, CONFIGURING, "0", NULL, file_kind,
	    "The alignment of the memory's address, a power of two; 0 aligns to huge pages where "
	    "they fit.",
	    .initial = 0, .largest = UINT64_MAX),
	ROW(CONTENTS, contents, "contents", PATH, CONFIGURING, "", NULL, contents_kinds,
	    "The raw image that the memory begins with, zero behind its end. It is read before "
	    "completing returns, in the background, or on demand, as prealloc says.",
	    .initial = 0),
	ROW(CONTENTS_OFFSET, contents_offset, "contents-offset", SIZE, CONFIGURING, "0", NULL,
	    contents_kinds,
	    "Where in the image of contents the memory begins; a multiple of the page size.",
	    .initial = 0, .largest = UINT64_MAX),
	ROW(CONTENTS_ORDER, contents_order, "contents-order", PATH, CONFIGURING, "", NULL,
	    contents_kinds,
	    "A text file of the ranges of contents that the background reads first: a line "
	    "\"OFFSET "
	    "LENGTH\" each, in bytes of the memory.",
	    .initial = 0),
	ROW(CONTENTS_POISON, contents_poison, "contents-poison", BOOL, CONFIGURING, "off", NULL,
	    contents_kinds,
	    "Whether a thread that touches contents that cannot be read on demand gets SIGBUS, "
	    "and a guest a machine check, instead of waiting until they can be read; needs Linux "
	    "6.6.",
	    .initial = false),
	CONTEXT_ROW(CPU_AFFINITY, cpu_affinity, "cpu-affinity", CPUS, ALWAYS, "the creator's", NULL,
		    context_kind,
		    "The CPUs that the context's threads run on; setting it moves the context's "
		    "own thread.",
		    .initial = 0),
	ROW(DISCARD_DATA, discard_data, "discard-data", BOOL, LATER_USE, "off", NULL, file_kind,
	    "Whether deleting the backend discards the contents of the file (punches a hole), "
	    "where it is shared and writable.",
	    .initial = false),
	ROW(DUMP, dump, "dump", BOOL, ALWAYS, "on", NULL, ALL_KINDS,
	    "Whether core dumps of this process contain the memory; the default comes from the "
	    "defaults record.",
	    .initial = true),
	ROW(FD, fd, "fd", FD, CONFIGURING, "none", NULL, fd_kind,
	    "The open descriptor to map, required; the backend has a duplicate of its own.",
	    .initial = HM_FD_NONE, .largest = INT_MAX),
	ROW(GUARD, guard, "guard", BOOL, CONFIGURING, "on", NULL, ALL_KINDS,
	    "Whether an inaccessible page is kept on each side of the memory; off saves two "
	    "mappings (vm.max_map_count).",
	    .initial = true),
	ROW(HOME_NODE, home_node, "home-node", NODE, ALWAYS, "none", NULL, ALL_KINDS,
	    "The node of host-nodes to allocate from first, with policy bind or preferred-many; "
	    "needs Linux 5.17.",
	    .initial = HM_NODE_NONE, .largest = HOSTMEM_NODES_MAX - 1),
	ROW(HOST_NODES, host_nodes, "host-nodes", NODES, ALWAYS, "", NULL, ALL_KINDS,
	    "The NUMA nodes of the host that the policy applies to; setting it replaces the whole "
	    "set.",
	    .initial = 0),
	ROW(HUGETLB, hugetlb, "hugetlb", BOOL, CONFIGURING, "off", NULL, hugetlb_kinds,
	    "Whether the memory consists of huge pages from the host's hugetlb pool.",
	    .initial = false),
	ROW(HUGETLBFS, hugetlbfs, "hugetlbfs", BOOL, CONFIGURING, "off", NULL, file_kind,
	    "Whether mem-path has to be on a hugetlbfs.", .initial = false),
	ROW(HUGETLBSIZE, hugetlbsize, "hugetlbsize", SIZE, CONFIGURING, "0", NULL, hugetlb_kinds,
	    "The size of the huge pages, with hugetlb=on; 0 is the host's default.", .initial = 0,
	    .largest = UINT64_MAX),
	ROW(LOCK, lock, "lock", BOOL, ALWAYS, "off", NULL, ALL_KINDS,
	    "Whether the memory is locked (mlock): all of it after prealloc, else each page once "
	    "it is present.",
	    .initial = false),
	ROW(MEM_PATH, mem_path, "mem-path", PATH, CONFIGURING, "", NULL, file_kind,
	    "The file to map, created if it is missing, or a directory to create an unnamed "
	    "temporary file in; required.",
	    .initial = 0),
	ROW(MERGE, merge, "merge", BOOL, ALWAYS, "on", NULL, ALL_KINDS,
	    "Whether the kernel may merge identical pages (KSM); the default comes from the "
	    "defaults record.",
	    .initial = true),
	CONTEXT_ROW(NODE_AFFINITY, node_affinity, "node-affinity", NODES, ALWAYS, "", NULL,
		    context_kind,
		    "The host nodes whose CPUs the threads run on, instead of cpu-affinity; read "
		    "the CPUs from there.",
		    .initial = 0, .public.write_only = true),
	ROW(OFFSET, offset, "offset", SIZE, CONFIGURING, "0", NULL, file_and_fd_kinds,
	    "Where in the file the memory begins; a multiple of its page size.", .initial = 0,
	    .largest = UINT64_MAX),
	ROW(PMEM, pmem, "pmem", BOOL, CONFIGURING, "off", NULL, file_kind,
	    "Whether the file is persistent memory whose stores survive a crash; needs share=on "
	    "and a DAX file system.",
	    .initial = false),
	ROW(POLICY, policy, "policy", ENUM, ALWAYS, "default", hm_numa_policy_names, ALL_KINDS,
	    "The NUMA memory policy; all but default and local need host-nodes.",
	    .initial = HM_POLICY_DEFAULT),
	ROW(PREALLOC, prealloc, "prealloc", BOOL, ALWAYS, "off", NULL, ALL_KINDS,
	    "Whether all memory is populated when the backend is completed; the default comes from "
	    "the defaults record.",
	    .initial = false),
	ROW(PREALLOC_CONTEXT, prealloc_context, "prealloc-context", LINK, LATER_USE, "", NULL,
	    ALL_KINDS,
	    "The id of the thread-context that creates the threads that populate the memory.",
	    .initial = 0),
	ROW(PREALLOC_MODE, prealloc_mode, "prealloc-mode", ENUM, LATER_USE, "wait", prealloc_modes,
	    ALL_KINDS,
	    "Whether prealloc runs before completing (or setting prealloc) returns, or in the "
	    "background.",
	    .initial = HM_PREALLOC_WAIT),
	ROW(PREALLOC_THREADS, prealloc_threads, "prealloc-threads", UINT32, LATER_USE,
	    "usable CPUs", NULL, ALL_KINDS,
	    "The largest number of threads that populate the memory; little memory is populated by "
	    "fewer.",
	    .initial = 0, .least = 1, .largest = UINT32_MAX, .automatic = hm_topology_count_cpus),
	ROW(PREALLOC_WATCH, prealloc_watch, "prealloc-watch", BOOL, LATER_USE, "on", NULL,
	    ALL_KINDS,
	    "Whether preallocation stops with an error before memory or room on the file system "
	    "runs out.",
	    .initial = true),
	ROW(READONLY, readonly, "readonly", BOOL, CONFIGURING, "off", NULL, file_and_fd_kinds,
	    "Whether the file is opened, or the descriptor used, for reading only.",
	    .initial = false),
	ROW(RESERVE, reserve, "reserve", BOOL, CONFIGURING, "on", reserve_choices, ALL_KINDS,
	    "Whether the kernel reserves swap space or huge pages for all of the memory; try does "
	    "without where that has an effect, is never refused, and goes with prealloc.",
	    .initial = HM_RESERVE_ON),
	ROW(ROM, rom, "rom", ENUM, CONFIGURING, "auto", rom_choices, file_and_fd_kinds,
	    "Whether the memory is read-only for the guest; auto is as readonly. off with "
	    "readonly=on and share=off maps a private, writable copy of a template.",
	    .initial = HM_ROM_AUTO),
	ROW(SEAL, seal, "seal", BOOL, CONFIGURING, "on", NULL, memfd_kind,
	    "Whether the memfd's size is sealed; off only prevents further seals.",
	    .initial = true),
	ROW(SHARE, share, "share", BOOL, CONFIGURING, "off, but on for memfd, shm and fd", NULL,
	    ALL_KINDS, "Whether processes that map the same descriptor share the memory.",
	    .initial = false),
	ROW(SIZE, size, "size", SIZE, CONFIGURING, "0", NULL, ALL_KINDS,
	    "Bytes of memory, required; a multiple of the memory's page size.", .initial = 0,
	    .least = 1, .largest = UINT64_MAX),
	ROW(THP, thp, "thp", ENUM, ALWAYS, "auto", thp_choices, ALL_KINDS,
	    "Transparent huge pages: auto asks for them where the memory is large enough, always "
	    "everywhere, never turns them off.",
	    .initial = HM_THP_AUTO),
	CONTEXT_ROW(THREAD_ID, thread_id, "thread-id", UINT32, NEVER, "none", NULL, context_kind,
		    "The kernel's id of the context's own thread, while the context is complete.",
		    .initial = HM_THREAD_NONE, .largest = UINT32_MAX),
	ROW(CANONICAL_NAME, canonical_name, "x-use-canonical-path-for-ramblock-id", BOOL,
	    CONFIGURING, "off", NULL, ALL_KINDS,
	    "Whether the name of the memory in a migration is /objects/<id> instead of <id>.",
	    .initial = false),
};

const struct hostmem_property *hostmem_property_get(size_t index)
{
	return index < HM_PROPERTY_COUNT ? &rows[index].public : NULL;
}

const struct hm_row *hm_table_get(enum hm_property property)
{
	return &rows[property];
}

bool hm_table_is_of_backends(const struct hm_row *row)
{
	return row->public.kinds != context_kind;
}

static bool has_kind(const struct hm_row *row, const char *kind)
{
	if (!row->public.kinds)
		return strcmp(kind, HOSTMEM_THREAD_CONTEXT) != 0;
	for (const char *const *name = row->public.kinds; *name; name++) {
		if (!strcmp(*name, kind))
			return true;
	}
	return false;
}

/* "a, b, c": the names of a kind's properties, for messages. */
static void list_names(const char *kind, char *text, size_t size)
{
	*text = '\0';
	for (size_t i = 0; i < HM_PROPERTY_COUNT; i++) {
		if (has_kind(&rows[i], kind))
			hm_text_join(text, size, ", ", rows[i].public.name);
	}
}

const struct hm_row *hm_table_find(const char *id, const char *kind, const char *property,
				   struct hostmem_error *err)
{
	char names[512];

	for (size_t i = 0; i < HM_PROPERTY_COUNT; i++) {
		if (!strcmp(rows[i].public.name, property) && has_kind(&rows[i], kind))
			return &rows[i];
	}
	list_names(kind, names, sizeof(names));
	hm_fail(err, HOSTMEM_ERROR_UNKNOWN_PROPERTY, 0,
		"%s: %s has no property '%.128s'; it has %s", id, kind, property, names);
	return NULL;
}

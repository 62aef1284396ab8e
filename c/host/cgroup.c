/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the control groups that this process is in leave it of memory, v1 and v2 (cgroups(7)). A
 * group over its limit is met by the OOM killer, not by an errno; huge pages over theirs by SIGBUS.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* The words for the same things in both versions. */
struct version {
	/* Of the file system, and what its mount options have to name. */
	const char *type, *option;
	/* In the second field of /proc/self/cgroup, among others; "" when that is empty. */
	const char *controller;
	const char *limit, *usage;
	/* Of swap; in v1 of memory and swap together. */
	const char *swap_limit, *swap_usage;
	bool swap_has_memory;
	/* Lines of memory.stat with the least limit of the group and all above, in view or not. */
	const char *limit_above, *swap_limit_above;
	/* Lines of memory.stat that can be given up. */
	const char *reclaimable[3];
	/* Behind "hugetlb.<size of the page>.". */
	const char *huge_limit, *huge_usage;
};

static const struct version version_1 = {
	.type = "cgroup",
	.option = "memory",
	.controller = "memory",
	.limit = "memory.limit_in_bytes",
	.usage = "memory.usage_in_bytes",
	.swap_limit = "memory.memsw.limit_in_bytes",
	.swap_usage = "memory.memsw.usage_in_bytes",
	.swap_has_memory = true,
	.limit_above = "hierarchical_memory_limit ",
	.swap_limit_above = "hierarchical_memsw_limit ",
	.reclaimable = { "total_inactive_file ", "total_active_file ", NULL },
};

static const struct version version_2 = {
	.type = "cgroup2",
	.option = "",
	.controller = "",
	.limit = "memory.max",
	.usage = "memory.current",
	.swap_limit = "memory.swap.max",
	.swap_usage = "memory.swap.current",
	.reclaimable = { "inactive_file ", "active_file ", "slab_reclaimable " },
	.huge_limit = "max",
	.huge_usage = "current",
};

/* In v1 it is a controller of its own. */
static const struct version huge_1 = {
	.type = "cgroup",
	.option = "hugetlb",
	.controller = "hugetlb",
	.huge_limit = "limit_in_bytes",
	.huge_usage = "usage_in_bytes",
};

/* Whether a list "a,b" has the word; an empty list has the empty word alone. */
static bool has_word(const char *list, size_t list_len, const char *word)
{
	size_t length = strlen(word);

	if (!list_len)
		return !length;
	while (list_len) {
		size_t part = 0;

		while (part < list_len && list[part] != ',')
			part++;
		if (part == length && !strncmp(list, word, length))
			return true;
		part += part < list_len;
		list += part;
		list_len -= part;
	}
	return false;
}

/* The path of this process's group, from a line "id:controllers:path"; "" when it has none. */
static void read_path(const struct version *version, char *path, size_t size)
{
	char text[8192];
	const char *line = text;

	*path = '\0';
	if (hm_os_read_file("/proc/self/cgroup", text, sizeof(text)) <= 0)
		return;
	while (*line && !*path) {
		const char *list = line + strcspn(line, ":\n");
		const char *end;
		bool ours;

		list += *list == ':';
		end = list + strcspn(list, ":\n");
		ours = *end == ':' && has_word(list, (size_t)(end - list), version->controller);
		if (ours)
			snprintf(path, size, "%.*s", (int)strcspn(end + 1, "\n"), end + 1);
		line += strcspn(line, "\n");
		line += *line == '\n';
	}
}

/* Whether a root is above the namespace that the paths are seen from (cgroup_namespaces(7)). */
static bool is_above(const char *root)
{
	while (!strncmp(root, "/..", 3))
		root += 3;
	return !*root;
}

/*
 * Where the group's directory is: a mount shows the tree from its root on, which in a container is
 * the container's own group. Of a root above the namespace only that one group is known to be an
 * ancestor. False when the mount does not show the group.
 */
static bool place(const struct hm_mount *mount, const char *path, char *directory,
		  size_t *mount_len)
{
	size_t root = strcmp(mount->root, "/") ? strlen(mount->root) : 0;

	if (is_above(mount->root))
		path = "";
	else if (root && (strncmp(path, mount->root, root) || (path[root] && path[root] != '/')))
		return false;
	else
		path += root;
	snprintf(directory, PATH_MAX, "%s%s", mount->point, strcmp(path, "/") ? path : "");
	*mount_len = strlen(mount->point);
	return true;
}

static bool is_directory(const char *path)
{
	int fd = hm_os_open(path, O_RDONLY | O_DIRECTORY);

	if (fd >= 0)
		hm_os_close(fd);
	return fd >= 0;
}

struct search {
	const struct version *version;
	/* Of this process's group. */
	char path[1024];
	char *directory;
	size_t *mount_len;
};

static bool look_at_mount(const struct hm_mount *mount, void *data)
{
	const struct search *search = data;
	const struct version *version = search->version;

	if (strcmp(mount->type, version->type) ||
	    (*version->option &&
	     !has_word(mount->options, strlen(mount->options), version->option)))
		return true;
	/* Another mount may be over this one. */
	if (place(mount, search->path, search->directory, search->mount_len) &&
	    is_directory(search->directory))
		return false;
	*search->directory = '\0';
	return true;
}

static void find(const struct version *version, char *directory, size_t *mount_len)
{
	struct search search = {
		.version = version,
		.directory = directory,
		.mount_len = mount_len,
	};

	*directory = '\0';
	read_path(version, search.path, sizeof(search.path));
	if (*search.path)
		hm_mounts_read(look_at_mount, &search);
}

void hm_cgroup_find(struct hm_cgroup *cgroup)
{
	find(&version_1, cgroup->v1, &cgroup->v1_mount);
	find(&version_2, cgroup->v2, &cgroup->v2_mount);
}

static int read_file(const char *directory, const char *name, char *text, size_t size)
{
	char path[PATH_MAX + 64];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return hm_os_read_file(path, text, size);
}

/* UINT64_MAX for a file that is not there or has the word max. */
static uint64_t read_number(const char *directory, const char *name)
{
	char text[32];

	if (read_file(directory, name, text, sizeof(text)) <= 0 || *text == 'm')
		return UINT64_MAX;
	return strtoull(text, NULL, 10);
}

/* What a limit leaves; UINT64_MAX without one, in whose place v1 has a number near 2^63. */
static uint64_t left_of(uint64_t limit, uint64_t usage, uint64_t reclaimable)
{
	if (limit > INT64_MAX / 2 || usage == UINT64_MAX)
		return UINT64_MAX;
	usage -= reclaimable < usage ? reclaimable : usage;
	return limit > usage ? limit - usage : 0;
}

/* The number of a line of memory.stat; `otherwise` when it has none. */
static uint64_t stat_number(const char *stat, const char *name, uint64_t otherwise)
{
	const char *value = name ? hm_text_find_line(stat, name) : NULL;

	return value ? strtoull(value, NULL, 10) : otherwise;
}

static uint64_t count_reclaimable(const struct version *version, const char *stat)
{
	uint64_t reclaimable = 0;

	for (size_t i = 0; i < HM_ARRAY_LEN(version->reclaimable); i++)
		reclaimable += stat_number(stat, version->reclaimable[i], 0);
	return reclaimable;
}

/* The lower of a group's own limit and that of all groups above it, where the kernel gives it. */
static uint64_t read_limit(const char *directory, const char *name, const char *stat,
			   const char *hierarchical)
{
	uint64_t own = read_number(directory, name);
	uint64_t above = stat_number(stat, hierarchical, UINT64_MAX);

	return own < above ? own : above;
}

/* What one group leaves, its page cache counted as free; UINT64_MAX without a limit. */
static uint64_t available_in(const struct version *version, const char *directory, uint64_t swap)
{
	uint64_t reclaimable, memory, left;
	char stat[8192];

	if (read_file(directory, "memory.stat", stat, sizeof(stat)) <= 0)
		*stat = '\0';
	reclaimable = count_reclaimable(version, stat);
	memory = left_of(read_limit(directory, version->limit, stat, version->limit_above),
			 read_number(directory, version->usage), reclaimable);
	if (!swap || memory == UINT64_MAX)
		return memory;
	left = left_of(read_limit(directory, version->swap_limit, stat, version->swap_limit_above),
		       read_number(directory, version->swap_usage),
		       version->swap_has_memory ? reclaimable : 0);
	if (version->swap_has_memory)
		return left < memory + swap ? left : memory + swap;
	return memory + (left < swap ? left : swap);
}

/* Makes a directory that of the group above; false at the mount point. */
static bool go_up(char *directory, size_t mount_len)
{
	char *slash = strrchr(directory, '/');

	if (!slash || strlen(directory) <= mount_len)
		return false;
	*slash = '\0';
	return true;
}

/* The least of a group and its ancestors up to the mount point. */
static uint64_t available_up(const struct version *version, const char *directory, size_t mount_len,
			     uint64_t swap)
{
	uint64_t least = UINT64_MAX;
	char path[PATH_MAX];

	if (!*directory)
		return least;
	hm_text_copy(directory, path, sizeof(path));
	do {
		uint64_t available = available_in(version, path, swap);

		least = available < least ? available : least;
	} while (go_up(path, mount_len));
	return least;
}

uint64_t hm_cgroup_get_available(const struct hm_cgroup *cgroup, uint64_t swap)
{
	uint64_t v1 = available_up(&version_1, cgroup->v1, cgroup->v1_mount, swap);
	uint64_t v2 = available_up(&version_2, cgroup->v2, cgroup->v2_mount, swap);

	return v1 < v2 ? v1 : v2;
}

/* ---- Huge pages ---- */

/* What is in use is limited, and what is reserved. */
static const char *const huge_kinds[] = { "", "rsvd." };

/* The size in names of files. */
static void format_page_size(uint64_t size, char *text, size_t text_size)
{
	unsigned int shift = size >> 30 ? 30 : size >> 20 ? 20 : 10;

	snprintf(text, text_size, "%ju%cB", (uintmax_t)(size >> shift),
		 shift == 30   ? 'G'
		 : shift == 20 ? 'M'
			       : 'K');
}

/*
 * Makes *least this group's limit where that leaves less. What is reserved is promised: it will be
 * in use, though only pages that were touched are.
 */
static void look_at_huge(const struct version *version, const char *directory, const char *size,
			 struct hm_cgroup_limit *least)
{
	uint64_t promised = 0;

	for (size_t i = HM_ARRAY_LEN(huge_kinds); i-- > 0;) {
		char limit[63], usage[63];
		uint64_t used, available;

		snprintf(limit, sizeof(limit), "hugetlb.%s.%s%s", size, huge_kinds[i],
			 version->huge_limit);
		snprintf(usage, sizeof(usage), "hugetlb.%s.%s%s", size, huge_kinds[i],
			 version->huge_usage);
		used = read_number(directory, usage);
		if (used != UINT64_MAX && used > promised)
			promised = used;
		available = left_of(read_number(directory, limit), promised, 0);
		if (available >= least->available)
			continue;
		least->available = available;
		least->limit = read_number(directory, limit);
		snprintf(least->file, sizeof(least->file), "%s/%s", directory, limit);
	}
}

bool hm_cgroup_find_huge_limit(uint64_t page_size, struct hm_cgroup_limit *limit)
{
	static const struct version *const versions[] = { &huge_1, &version_2 };
	char directory[PATH_MAX], size[32];
	size_t mount_len = 0;

	*limit = (struct hm_cgroup_limit){ .available = UINT64_MAX };
	format_page_size(page_size, size, sizeof(size));
	for (size_t i = 0; i < HM_ARRAY_LEN(versions); i++) {
		find(versions[i], directory, &mount_len);
		if (!*directory)
			continue;
		do
			look_at_huge(versions[i], directory, size, limit);
		while (go_up(directory, mount_len));
	}
	return limit->available != UINT64_MAX;
}

/* ---- Groups out of view ---- */

/*
 * Whether a group in view has others above it that are not. The root of all has no limits and, in
 * v2, no type; in v1 it alone has an agent.
 */
static bool is_cut_off(const struct version *version)
{
	bool is_unified = !*version->option;
	char directory[PATH_MAX], path[1024], text[8];
	size_t mount_len = 0;
	int length;

	read_path(version, path, sizeof(path));
	find(version, directory, &mount_len);
	if (!*directory)
		return *path && strcmp(path, "/");
	directory[mount_len] = '\0';
	length = read_file(directory, is_unified ? "cgroup.type" : "release_agent", text,
			   sizeof(text));
	return is_unified ? length >= 0 : length < 0;
}

bool hm_cgroup_is_hidden(bool huge)
{
	return is_cut_off(huge ? &huge_1 : &version_1) || is_cut_off(&version_2);
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the control groups that this process is in leave it of memory, v1 and v2 (cgroups(7)): a
 * group over its limit is met by the OOM killer, not by an errno.
 */
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
	/* Lines of memory.stat that can be given up. */
	const char *reclaimable[3];
};

static const struct version version_1 = {
	.type = "cgroup",
	.option = "memory",
	.controller = "memory",
	.limit = "memory.limit_in_bytes",
	.usage = "memory.usage_in_bytes",
	.reclaimable = { "\ntotal_inactive_file ", "\ntotal_active_file ", NULL },
};

static const struct version version_2 = {
	.type = "cgroup2",
	.option = "",
	.controller = "",
	.limit = "memory.max",
	.usage = "memory.current",
	.reclaimable = { "\ninactive_file ", "\nactive_file ", "\nslab_reclaimable " },
};

/* Whether a list "a,b" has the word; an empty list has the empty word alone. */
static bool has_word(const char *list, size_t list_len, const char *word)
{
	size_t length = strlen(word);

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
	return !length && !list_len;
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

/* One line of mountinfo (proc(5)), as far as it is looked at. */
struct mount {
	char root[1024], point[1024], type[32], options[512];
};

static bool parse_mount(const char *line, struct mount *mount)
{
	const char *tail = strstr(line, " - ");

	return tail && sscanf(line, "%*s %*s %*s %1023s %1023s", mount->root, mount->point) == 2 &&
	       sscanf(tail, " - %31s %*s %511s", mount->type, mount->options) == 2;
}

/*
 * Where the group's directory is: a mount shows the tree from its root on, which in a container is
 * the container's own group.
 */
static void place(const struct mount *mount, const char *path, char *directory, size_t *mount_len)
{
	size_t root = strcmp(mount->root, "/") ? strlen(mount->root) : 0;

	if (root && (strncmp(path, mount->root, root) || (path[root] && path[root] != '/')))
		path = "";
	else
		path += root;
	snprintf(directory, PATH_MAX, "%s%s", mount->point, strcmp(path, "/") ? path : "");
	*mount_len = strlen(mount->point);
}

static void find(const struct version *version, char *directory, size_t *mount_len)
{
	FILE *file = fopen("/proc/thread-self/mountinfo", "re");
	char path[1024], *line = NULL;
	struct mount mount;
	size_t size = 0;

	*directory = '\0';
	read_path(version, path, sizeof(path));
	while (file && *path && !*directory && getline(&line, &size, file) >= 0) {
		if (parse_mount(line, &mount) && !strcmp(mount.type, version->type) &&
		    (!*version->option ||
		     has_word(mount.options, strlen(mount.options), version->option)))
			place(&mount, path, directory, mount_len);
	}
	free(line);
	if (file)
		fclose(file);
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

/* What one group leaves, its page cache counted as free; UINT64_MAX without a limit. */
static uint64_t available_in(const struct version *version, const char *directory)
{
	uint64_t limit, usage, reclaimable = 0;
	char text[8192];

	/* v2 has the word max, v1 a number near 2^63. */
	if (read_file(directory, version->limit, text, sizeof(text)) <= 0 || *text == 'm')
		return UINT64_MAX;
	limit = strtoull(text, NULL, 10);
	if (limit > INT64_MAX / 2 || read_file(directory, version->usage, text, sizeof(text)) <= 0)
		return UINT64_MAX;
	usage = strtoull(text, NULL, 10);
	if (read_file(directory, "memory.stat", text + 1, sizeof(text) - 1) > 0) {
		*text = '\n';
		for (size_t i = 0; i < HM_ARRAY_LEN(version->reclaimable); i++) {
			const char *name = version->reclaimable[i];
			const char *found = name ? strstr(text, name) : NULL;

			reclaimable += found ? strtoull(found + strlen(name), NULL, 10) : 0;
		}
	}
	usage -= reclaimable < usage ? reclaimable : usage;
	return limit > usage ? limit - usage : 0;
}

/* The least of a group and its ancestors up to the mount point. */
static uint64_t available_up(const struct version *version, const char *directory, size_t mount_len)
{
	uint64_t least = UINT64_MAX;
	char path[PATH_MAX];

	if (!*directory)
		return least;
	hm_text_copy(directory, path, sizeof(path));
	for (;;) {
		uint64_t available = available_in(version, path);
		char *slash = strrchr(path, '/');

		least = available < least ? available : least;
		if (!slash || strlen(path) <= mount_len)
			return least;
		*slash = '\0';
	}
}

uint64_t hm_cgroup_get_available(const struct hm_cgroup *cgroup)
{
	uint64_t v1 = available_up(&version_1, cgroup->v1, cgroup->v1_mount);
	uint64_t v2 = available_up(&version_2, cgroup->v2, cgroup->v2_mount);

	return v1 < v2 ? v1 : v2;
}

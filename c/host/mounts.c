/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Mounts (mountinfo, proc(5)) and devices: whether memory of a file there is huge, or is direct
 * access memory. Remembers nothing.
 */
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "internal.h"

static bool is_octal(char character)
{
	return character >= '0' && character <= '7';
}

/* Space, tab, newline and backslash are three octal digits in mountinfo, as in "\040". */
static void unescape(char *text)
{
	char *write = text;

	for (const char *read = text; *read; write++) {
		bool escaped = *read == '\\' && is_octal(read[1]) && is_octal(read[2]) &&
			       is_octal(read[3]);

		*write = escaped ? (char)((read[1] - '0') << 6 | (read[2] - '0') << 3 |
					  (read[3] - '0'))
				 : *read;
		read += escaped ? 4 : 1;
	}
	*write = '\0';
}

static bool parse(const char *line, struct hm_mount *mount)
{
	const char *tail = strstr(line, " - "), *last = strrchr(line, ' ');
	unsigned int major, minor;

	if (!tail ||
	    sscanf(line, "%*s %*s %u:%u %1023s %1023s", &major, &minor, mount->root,
		   mount->point) != 4 ||
	    sscanf(tail, " - %31s", mount->type) != 1)
		return false;
	hm_text_copy(last + 1, mount->options, sizeof(mount->options));
	mount->options[strcspn(mount->options, "\n")] = '\0';
	mount->device = makedev(major, minor);
	unescape(mount->root);
	unescape(mount->point);
	return true;
}

struct search {
	bool (*read)(const struct hm_mount *mount, void *data);
	void *data;
};

static bool read_line(char *line, void *data)
{
	const struct search *search = data;
	struct hm_mount mount;

	return !parse(line, &mount) || search->read(&mount, search->data);
}

void hm_mounts_read(bool (*read)(const struct hm_mount *mount, void *data), void *data)
{
	struct search search = { .read = read, .data = data };

	hm_os_read_lines("/proc/thread-self/mountinfo", read_line, &search);
}

struct options {
	dev_t device;
	/* "" when the device is no mount that this thread sees. */
	char text[512];
};

static bool read_options(const struct hm_mount *mount, void *data)
{
	struct options *options = data;

	if (mount->device != options->device)
		return true;
	hm_text_copy(mount->options, options->text, sizeof(options->text));
	return false;
}

bool hm_mounts_is_shmem_huge(dev_t device, const char *setting)
{
	struct options options = { .device = device };
	char now[32];

	hm_os_read_setting("/sys/kernel/mm/transparent_hugepage/shmem_enabled", now, sizeof(now));
	if (*now)
		setting = now;
	if (!*setting || !strcmp(setting, "deny"))
		return false;
	if (!strcmp(setting, "force"))
		return true;
	hm_mounts_read(read_options, &options);
	/* What is on no mount, a memfd, follows the setting of the host. */
	if (!*options.text)
		return strcmp(setting, "never");
	return strstr(options.text, "huge=") && !strstr(options.text, "huge=never");
}

bool hm_mounts_is_of_class(const struct hostmem_host *host, dev_t device, const char *class)
{
	char path[64], target[256];
	const char *name;

	snprintf(path, sizeof(path), "/sys/dev/char/%u:%u/subsystem", major(device), minor(device));
	if (hm_call_read_link(host, path, target, sizeof(target)) < 0)
		return false;
	name = strrchr(target, '/');
	return !strcmp(name ? name + 1 : target, class);
}

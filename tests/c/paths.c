/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A path at which another process puts something else between two calls of the library: it uses
 * nothing that it has not looked at, waits for nothing, and leaves what is there.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hostmem.h"
#include "shim.h"

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define PATH         "paths.directory/path"
#define NEXT         "paths.directory/next"
#define SIZE         65536

enum thing { NOTHING, OURS, OTHERS, LONGER, SHORTER, FIFO, DIRECTORY, LINK };

/*
 * The path is opened to look at it, then when it is made, then as what was found; where that has
 * changed meanwhile, the last two again.
 */
static const struct change {
	const char *options;
	enum thing before, then;
	/* Changes before it is opened for that time. */
	int at;
	/* NULL: it completes, with memory that begins with `byte`. */
	const char *message;
	int error;
	char byte;
	/* Changes each time that it is opened as what was found. */
	bool always;
} changes[] = {
	{ "share=on", OURS, OTHERS, 2, NULL, 0, OTHERS, false },
	{ "share=on", OURS, OTHERS, 3, NULL, 0, OTHERS, false },
	{ "readonly=on", OURS, OTHERS, 3, NULL, 0, OTHERS, false },
	{ "share=on", OURS, OTHERS, 3, "cannot open it", ESTALE, 0, true },
	{ "readonly=on", OURS, OTHERS, 3, "cannot open it", ESTALE, 0, true },
	{ "share=on", OURS, NOTHING, 2, NULL, 0, 0, false },
	{ "share=on", OURS, NOTHING, 3, "cannot open it", ENOENT, 0, false },
	{ "readonly=on", OURS, NOTHING, 2, "cannot find it", ENOENT, 0, false },
	{ "readonly=on", OURS, NOTHING, 3, "cannot open it", ENOENT, 0, false },
	{ "share=on", OURS, FIFO, 2, "is a FIFO", 0, 0, false },
	{ "share=on", OURS, FIFO, 3, "is a FIFO", 0, 0, false },
	{ "readonly=on", OURS, FIFO, 3, "is a FIFO", 0, 0, false },
	{ "share=on", OURS, DIRECTORY, 2, NULL, 0, 0, false },
	{ "share=on", OURS, DIRECTORY, 3, "cannot open it", EISDIR, 0, false },
	{ "share=on", OURS, LINK, 2, "cannot make it", EEXIST, 0, false },
	{ "share=on", NOTHING, NOTHING, 0, NULL, 0, 0, false },
	{ "share=on", NOTHING, OTHERS, 2, NULL, 0, OTHERS, false },
	{ "share=on", NOTHING, OTHERS, 3, NULL, 0, OTHERS, false },
	{ "share=on", NOTHING, FIFO, 3, "is a FIFO", 0, 0, false },
	{ "share=on", NOTHING, LINK, 3, "cannot make it", EEXIST, 0, false },
	{ "share=on", DIRECTORY, NOTHING, 3, "cannot make a file in it", ENOENT, 0, false },
	{ "share=on", DIRECTORY, OTHERS, 3, "cannot make a file in it", ENOTDIR, 0, false },
};

/* The image of contents is opened to look at it, then to read it: what is there then is read. */
static const struct change contents[] = {
	{ "prealloc=on", OURS, OTHERS, 2, NULL, 0, OTHERS, false },
	{ "prealloc=on", OURS, NOTHING, 2, "cannot open it", ENOENT, 0, false },
	{ "prealloc=on", OURS, FIFO, 2, "is a FIFO", 0, 0, false },
	{ "prealloc=on", OURS, DIRECTORY, 2, "is a directory", 0, 0, false },
	{ "prealloc=on", OURS, LINK, 2, "cannot open it", ENOENT, 0, false },
	{ "prealloc=on", OURS, LONGER, 2, "has 131072 bytes", 0, 0, false },
	{ "prealloc=on,contents-offset=4K", OURS, SHORTER, 2, "is beyond the end", 0, 0, false },
};

static size_t problems;

static void must(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "paths: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void check(bool good, const struct change *change, const char *what, const char *have)
{
	if (good)
		return;
	printf("PROBLEM %s, %d before, then %d at %d: %s: %s\n", change->options, change->before,
	       change->then, change->at, what, have);
	problems++;
}

/* ---- What is at the path ---- */

static off_t size_of(enum thing thing)
{
	return thing == LONGER ? 2 * SIZE : thing == SHORTER ? SIZE / 32 : SIZE;
}

static void make_file(const char *path, enum thing thing)
{
	char bytes[SIZE];
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	memset(bytes, (int)thing, sizeof(bytes));
	must(fd >= 0 && write(fd, bytes, SIZE) == SIZE && !ftruncate(fd, size_of(thing)), path);
	close(fd);
}

/* Made under another name, so that it is another file even where a number is used again. */
static void put(enum thing thing)
{
	switch (thing) {
	case NOTHING:
		break;
	case OURS:
	case OTHERS:
	case LONGER:
	case SHORTER:
		make_file(NEXT, thing);
		break;
	case FIFO:
		must(!mkfifo(NEXT, 0600), NEXT);
		break;
	case DIRECTORY:
		must(!mkdir(NEXT, 0700), NEXT);
		break;
	case LINK:
		must(!symlink("nowhere", NEXT), NEXT);
		break;
	}
	must(!remove(PATH) || errno == ENOENT, PATH);
	must(thing == NOTHING || !rename(NEXT, PATH), PATH);
}

/* Whether nothing else is there, and the file has its contents. */
static bool is_as_put(enum thing thing)
{
	static const mode_t modes[] = { 0,       S_IFREG, S_IFREG, S_IFREG,
					S_IFREG, S_IFIFO, S_IFDIR, S_IFLNK };
	DIR *directory = opendir("paths.directory");
	const struct dirent *entry;
	struct stat status;
	size_t count = 0;
	char byte = 0;
	int fd;

	must(directory, "paths.directory");
	while ((entry = readdir(directory)))
		count += entry->d_name[0] != '.';
	closedir(directory);
	if (thing == NOTHING)
		return !count;
	if (count != 1 || lstat(PATH, &status) || (status.st_mode & S_IFMT) != modes[thing])
		return false;
	if (modes[thing] == S_IFDIR)
		return status.st_nlink == 2;
	if (modes[thing] != S_IFREG)
		return true;
	fd = open(PATH, O_RDONLY | O_CLOEXEC);
	must(fd >= 0 && read(fd, &byte, 1) == 1, PATH);
	close(fd);
	return status.st_size == size_of(thing) && byte == (char)thing;
}

/* ---- Trials ---- */

static const struct change *now;
static int opened;

static void before_open(const char *path)
{
	if (strcmp(path, PATH) != 0)
		return;
	opened++;
	if (opened == now->at || (now->always && opened > now->at && (opened - now->at) % 2 == 0))
		put(now->then);
}

static void check_completed(struct hostmem_backend *backend, const struct change *change)
{
	struct hostmem_error err = { 0 };
	struct hostmem_memory memory;

	must(!hostmem_backend_get_memory(backend, &memory, &err), err.message);
	check(*(char *)memory.address == change->byte, change, "contents are", "others");
	check(!hostmem_backend_undo(backend, &err), change, "is undone", err.message);
}

static void try(struct hostmem_objects *objects, const char *backend_options,
		const struct change *change)
{
	const struct shim_count before = shim_count();
	struct hostmem_error err = { 0 };
	struct hostmem_backend *backend;
	struct shim_count after;
	char options[256];
	int result;

	put(change->before);
	now = change;
	opened = 0;
	snprintf(options, sizeof(options), "%s=" PATH ",id=m0,size=64K,%s", backend_options,
		 change->options);
	must(!hostmem_backend_new_from_options(objects, &backend, options, &err), err.message);
	result = hostmem_backend_complete(backend, &err);
	check(opened >= change->at, change, "it is opened", "less often");
	check(!result == !change->message, change, "another result", err.message);
	if (change->message) {
		check(strstr(err.message, change->message), change, change->message, err.message);
		check(err.os_error == change->error, change, strerror(change->error), err.message);
	} else if (!result) {
		check_completed(backend, change);
	}
	hostmem_backend_free(backend);
	check(is_as_put(change->then), change, "what is at the path", "is not as it was put");
	after = shim_count();
	check(after.descriptors == before.descriptors && after.ranges == before.ranges &&
		      after.names == before.names,
	      change, "a descriptor, a mapping or a file", "is left");
}

int main(void)
{
	static const struct hostmem_defaults defaults;
	struct hostmem_error err = { 0 };
	struct hostmem_objects *objects;
	struct hostmem_host *host;

	must(!mkdir("paths.directory", 0700), "paths.directory");
	must(!hostmem_host_probe(&host, &err), err.message);
	must(!hostmem_objects_new(&objects, host, &defaults, NULL, 0, &err), err.message);
	shim_before_open = before_open;
	/* A FIFO that is waited for ends it. */
	alarm(60);
	for (size_t i = 0; i < ARRAY_LEN(changes); i++)
		try(objects, "memory-backend-file,mem-path", &changes[i]);
	for (size_t i = 0; i < ARRAY_LEN(contents); i++)
		try(objects, "memory-backend-ram,contents", &contents[i]);
	put(NOTHING);
	must(!rmdir("paths.directory"), "paths.directory");
	hostmem_objects_free(objects);
	hostmem_host_free(host);
	printf("%zu changes, %zu problems\n", ARRAY_LEN(changes) + ARRAY_LEN(contents), problems);
	return problems != 0;
}

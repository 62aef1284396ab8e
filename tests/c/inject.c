/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Fault injection: everything that the library does to a backend is done again and again, and each
 * time another call fails: each allocation and each system call, with each likely errno, in every
 * kind. After each failure the error has to be there, nothing may be left, nothing of others
 * touched, and the same thing has to work when it is done again. What succeeds in spite of the
 * fault has to be complete.
 *
 *     inject <directory on a disk> <directory in shared memory> [huge]
 *
 * huge: there is a pool of at least 8 free huge pages of 2 MiB. With HOSTMEM_EVERY_ERRNO in the
 * environment each call fails with each of its errnos, otherwise with one of them. A second call
 * fails after every n-th fault, n being HOSTMEM_EVERY_PAIR, otherwise 120. With ONLY only kinds of
 * that name are tried, with OPERATION only the operation of that name, with PART=k/n only every
 * n-th kind, from the k-th on. Prints a line for each kind, and each problem once; exits with 1
 * when there was one.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hostmem.h"
#include "shim.h"

#define PAGE 4096ul
/* Where nothing else is said; a huge page; so much that two threads have something to do. */
#define SIZE           (256ul << 10)
#define SIZE_HUGE      (2ul << 20)
#define SIZE_MAX_TRIED (4ul << 20)
#define FILL           0x77
/* Descriptors of an image that memory begins with, and of the file that it is saved to. */
#define IMAGE      900
#define SAVED      901
#define ORDER      902
#define ORDER_PATH "/proc/self/fd/902"
#define IMAGE_SIZE (200ul << 10)
#define IMAGE_PATH "/proc/self/fd/900"
#define KEPT       0x33
/* At least as many as shim_calls has. */
#define CALLS_MAX 128

static const char *disk, *shared, *only_operation;
static struct hostmem_host *host, *old_host;
static bool every_errno;
static size_t pairs, pairs_every = 120;

/* ---- What is tried ---- */

struct subject {
	const char *name;
	/* %s is a directory; {fd} a descriptor of the user's. */
	const char *options;
	bool on_disk, needs_huge;
	/* What is in it belongs to the user, so it has to stay as it was. */
	bool is_users;
};

static const struct subject subjects[] = {
	{ .name = "ram", .options = "memory-backend-ram" },
	{ .name = "ram shared", .options = "memory-backend-ram,share=on" },
	{ .name = "memfd", .options = "memory-backend-memfd" },
	{ .name = "memfd private", .options = "memory-backend-memfd,share=off" },
	{ .name = "memfd of huge pages",
	  .options = "memory-backend-memfd,hugetlb=on,hugetlbsize=2M",
	  .needs_huge = true },
	{ .name = "shm", .options = "memory-backend-shm" },
	{ .name = "file new", .options = "memory-backend-file,share=on,mem-path=%s/new" },
	{ .name = "file new on disk",
	  .options = "memory-backend-file,share=on,mem-path=%s/new",
	  .on_disk = true },
	{ .name = "file that is there",
	  .options = "memory-backend-file,share=on,mem-path=%s/kept",
	  .is_users = true },
	{ .name = "file copied",
	  .options = "memory-backend-file,share=off,mem-path=%s/kept",
	  .on_disk = true,
	  .is_users = true },
	{ .name = "file in directory", .options = "memory-backend-file,share=on,mem-path=%s" },
	{ .name = "fd", .options = "memory-backend-fd,fd=%d", .is_users = true },
	{ .name = "embedder's", .options = "embedder" },
};

struct trial {
	const struct subject *subject;
	const struct operation *operation;
	struct hostmem_objects *objects;
	struct hostmem_backend *backend, *second;
	struct hostmem_thread_context *context;
	struct hostmem_memory memory;
	int fd;
	/* A preallocation in the background has begun. */
	bool began;
};

struct operation {
	const char *name;
	/* Added to the subject's options. */
	const char *options;
	/* Bytes, 0 for SIZE. */
	size_t size;
	/* Set once it is complete. */
	const char *property, *value;
	/* Begins with a complete backend. */
	bool live;
	/* Ends the backend, and fails only where a file stays that it should have removed. */
	bool ends;
	/* Changes what the memory has, from the beginning to its middle. */
	bool discards;
	/* On a host whose kernel cannot populate, and that makes no optional call. */
	bool old;
	int (*run)(struct trial *trial, struct hostmem_error *err);
};

/* Half of it is whole pages, also of huge ones. */
static size_t size_of(const struct trial *trial)
{
	if (trial->subject->needs_huge)
		return SIZE_MAX_TRIED;
	return trial->operation->size ? trial->operation->size : SIZE;
}

/* ---- Problems ---- */

static size_t problems;

/* Each once, since one cause makes many. */
__attribute__((format(printf, 1, 2))) static void problem(const char *format, ...)
{
	static char *seen[1024];
	static size_t seen_len;
	va_list arguments;
	char *text;

	va_start(arguments, format);
	if (vasprintf(&text, format, arguments) < 0)
		abort();
	va_end(arguments);
	problems++;
	for (size_t i = 0; i < seen_len; i++) {
		if (strcmp(seen[i], text) == 0)
			return;
	}
	if (seen_len < sizeof(seen) / sizeof(seen[0]))
		seen[seen_len++] = text;
	printf("PROBLEM %s\n", text);
	fflush(stdout);
}

static void must(bool good, const char *what)
{
	if (good)
		return;
	printf("PROBLEM cannot set the trial up: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* ---- What the process has ---- */

static char *read_text(const char *path)
{
	size_t size = 1 << 20, length = 0;
	char *text = malloc(size);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got;

	must(text && fd >= 0, path);
	while ((got = read(fd, text + length, size - 1 - length)) > 0)
		length += (size_t)got;
	text[length] = '\0';
	close(fd);
	return text;
}

/* A line of /proc/self/maps: proc(5). */
struct mapping {
	unsigned long start, end, offset;
	char rights[5];
	/* The file. */
	const char *what;
	size_t what_len;
};

static struct mapping parse_mapping(const char *line, size_t length)
{
	struct mapping mapping = { 0 };
	int begin = 0;

	must(sscanf(line, "%lx-%lx %4s %lx %n", &mapping.start, &mapping.end, mapping.rights,
		    &mapping.offset, &begin) == 4,
	     "maps");
	mapping.what = line + begin;
	mapping.what_len = length - (size_t)begin;
	return mapping;
}

/* Whether the two would be one mapping, had the kernel joined them. Anonymous ones have no offset.
 */
static bool goes_on(const struct mapping *first, const struct mapping *next)
{
	unsigned long offset = first->offset + (first->end - first->start);

	return next->start == first->end && !strcmp(next->rights, first->rights) &&
	       (next->offset == offset || !(next->offset | first->offset)) &&
	       next->what_len == first->what_len &&
	       !memcmp(next->what, first->what, next->what_len);
}

static bool ends_with(const struct mapping *mapping, const char *end)
{
	size_t len = strlen(end);

	return mapping->what_len >= len &&
	       !memcmp(mapping->what + mapping->what_len - len, end, len);
}

/* What the allocator has is its own business. */
static bool is_of_allocator(const struct mapping *mapping)
{
	return ends_with(mapping, "[heap]\n") || ends_with(mapping, "[stack]\n");
}

static uint64_t add_to_sum(uint64_t sum, const void *data, size_t length)
{
	for (size_t i = 0; i < length; i++)
		sum = (sum ^ ((const unsigned char *)data)[i]) * 1099511628211u;
	return sum;
}

/*
 * Sum over address, rights and file of each mapping, so that any difference shows, but for that
 * where the kernel does not join again what it has divided, as of huge pages.
 */
static uint64_t sum_maps(void)
{
	char *text = read_text("/proc/self/maps");
	uint64_t sum = 14695981039346656037u;
	struct mapping last = { .what = "" };

	for (const char *line = text; *line;) {
		size_t length = strcspn(line, "\n") + 1;
		struct mapping next = parse_mapping(line, length);

		line += length;
		if (is_of_allocator(&next))
			continue;
		if (!goes_on(&last, &next)) {
			sum = add_to_sum(sum, &last.end, sizeof(last.end));
			sum = add_to_sum(sum, &next.start, sizeof(next.start));
			sum = add_to_sum(sum, &next.offset, sizeof(next.offset));
			sum = add_to_sum(sum, next.rights, sizeof(next.rights));
			sum = add_to_sum(sum, next.what, next.what_len);
		}
		last = next;
	}
	sum = add_to_sum(sum, &last.end, sizeof(last.end));
	free(text);
	return sum;
}

static size_t count_entries(const char *path)
{
	DIR *directory = opendir(path);
	const struct dirent *entry;
	size_t count = 0;

	must(directory, path);
	while ((entry = readdir(directory)))
		count += entry->d_name[0] != '.';
	closedir(directory);
	return count;
}

struct belongings {
	struct shim_count count;
	uint64_t maps;
	size_t descriptors, tasks, files;
};

static struct belongings look(void)
{
	struct belongings now = {
		.count = shim_count(),
		.maps = sum_maps(),
		.descriptors = count_entries("/proc/self/fd"),
		.tasks = count_entries("/proc/self/task"),
		.files = count_entries(disk) + count_entries(shared) + shim_count().names,
	};

	return now;
}

/* A thread that was joined can be in /proc for a moment longer. */
static struct belongings look_when_quiet(const struct belongings *expected)
{
	struct belongings now = look();

	for (int i = 0; i < 1000 && now.tasks > expected->tasks; i++) {
		usleep(100);
		now = look();
	}
	return now;
}

static const char *find_difference(const struct belongings *before, const struct belongings *now)
{
	if (now->count.ranges != before->count.ranges || now->count.bytes != before->count.bytes)
		return "a mapping of the library's";
	if (now->count.descriptors != before->count.descriptors ||
	    now->descriptors != before->descriptors)
		return "a descriptor";
	if (now->count.files != before->count.files)
		return "an open file";
	if (now->count.threads != before->count.threads || now->tasks != before->tasks)
		return "a thread";
	if (now->count.allocations != before->count.allocations)
		return "an allocation";
	if (now->files != before->files)
		return "a file";
	if (now->maps != before->maps)
		return "something in /proc/self/maps";
	return NULL;
}

/* ---- Operations ---- */

static int set_and_wait(struct trial *trial, const char *property, const char *value,
			struct hostmem_error *err)
{
	int result = hostmem_backend_set_text(trial->backend, property, value, err);

	trial->began = !result && hostmem_backend_get_prealloc_event(trial->backend) >= 0;
	return result ? result : hostmem_backend_wait_prealloc(trial->backend, UINT64_MAX, err);
}

static int complete(struct trial *trial, struct hostmem_error *err)
{
	int result;

	/* Done before in the background, where it failed, it is left to do that again. */
	if (trial->began)
		return set_and_wait(trial, "prealloc", "on", err);
	result = hostmem_backend_complete(trial->backend, err);
	trial->began = !result && hostmem_backend_get_prealloc_event(trial->backend) >= 0;
	return result ? result : hostmem_backend_wait_prealloc(trial->backend, UINT64_MAX, err);
}

static int complete_both(struct trial *trial, struct hostmem_error *err)
{
	struct hostmem_backend *const both[] = { trial->backend, trial->second };

	return hostmem_backend_complete_all(both, 2, err);
}

static int set(struct trial *trial, struct hostmem_error *err)
{
	return set_and_wait(trial, trial->operation->property, trial->operation->value, err);
}

static int rebind(struct trial *trial, struct hostmem_error *err)
{
	struct hostmem_rebind_result result;
	const uint32_t node = 0;

	return hostmem_backend_rebind(trial->backend, &result, "bind", &node, 1, 0, 0, err);
}

static int discard(struct trial *trial, struct hostmem_error *err)
{
	return hostmem_backend_discard(trial->backend, 0, size_of(trial) / 2, err);
}

/* Accessible again in the end, also where that fails at first, and then once more. */
static int protect(struct trial *trial, struct hostmem_error *err)
{
	size_t half = size_of(trial) / 2;

	if (hostmem_backend_protect(trial->backend, 0, half, HOSTMEM_ACCESS_NONE, err))
		return -1;
	if (!hostmem_backend_protect(trial->backend, 0, half, HOSTMEM_ACCESS_ALL, err))
		return 0;
	for (int i = 0; i < 2; i++) {
		if (!hostmem_backend_protect(trial->backend, 0, half, HOSTMEM_ACCESS_ALL, NULL))
			break;
	}
	return -1;
}

static int scrub(struct trial *trial, struct hostmem_error *err)
{
	return hostmem_backend_scrub(trial->backend, 0, size_of(trial) / 2, err);
}

static int populate(struct trial *trial, struct hostmem_error *err)
{
	return hostmem_backend_populate(trial->backend, 0, size_of(trial), err);
}

static void discard_in_callback(void *data, uint64_t done, uint64_t total)
{
	struct trial *trial = data;

	if (done == total)
		hostmem_backend_discard(trial->backend, 0, size_of(trial) / 2, NULL);
}

static int populate_and_discard(struct trial *trial, struct hostmem_error *err)
{
	int result;

	hostmem_backend_set_progress(trial->backend, discard_in_callback, trial);
	result = populate(trial, err);
	hostmem_backend_set_progress(trial->backend, NULL, NULL);
	return result;
}

static int placement(struct trial *trial, struct hostmem_error *err)
{
	struct hostmem_placement now;

	return hostmem_backend_get_placement(trial->backend, &now, err);
}

static int inhibit(struct trial *trial, struct hostmem_error *err)
{
	int result = hostmem_backend_inhibit_discard(trial->backend, "device", err);

	return result ? result : hostmem_backend_allow_discard(trial->backend, "device", err);
}

static int discard_to_zero(struct trial *trial, struct hostmem_error *err)
{
	return hostmem_backend_discard_to(trial->backend, 0, size_of(trial) / 2,
					  HOSTMEM_DISCARD_TO_ZERO, err);
}

/* The list of what is not read any more may have grown, also where discarding then fails. */
static int discard_unread(struct trial *trial, struct hostmem_error *err)
{
	trial->began = true;
	return discard(trial, err);
}

/* Contents are right whenever completing, and the background after it, have succeeded. */
static int restore(struct trial *trial, struct hostmem_error *err)
{
	int result = complete(trial, err);
	struct hostmem_memory memory;

	if (result || hostmem_backend_get_memory(trial->backend, &memory, err))
		return -1;
	for (size_t i = 0; i < memory.size; i++) {
		if (((const unsigned char *)memory.address)[i] == (i < IMAGE_SIZE ? FILL : 0))
			continue;
		problem("%s: %s: contents are wrong", trial->subject->name, trial->operation->name);
		break;
	}
	return 0;
}

static int save(struct trial *trial, struct hostmem_error *err)
{
	struct hostmem_save_result saved;

	return hostmem_backend_save(trial->backend, &saved, SAVED, 0, err);
}

static int delete_it(struct trial *trial, struct hostmem_error *err)
{
	return hostmem_backend_delete(trial->backend, err);
}

static int undo(struct trial *trial, struct hostmem_error *err)
{
	return hostmem_backend_undo(trial->backend, err);
}

static int free_it(struct trial *trial, struct hostmem_error *err)
{
	(void)err;
	hostmem_backend_free(trial->backend);
	trial->backend = NULL;
	return 0;
}

static const struct operation operations[] = {
	{ .name = "complete", .options = "", .run = complete },
	{ .name = "complete, prealloc",
	  .size = SIZE_HUGE,
	  .options = ",prealloc=on",
	  .run = complete },
	{ .name = "complete, prealloc by touching",
	  .options = ",prealloc=on",
	  .run = complete,
	  .old = true },
	{ .name = "complete, bound, two threads",
	  .options = ",prealloc=on,prealloc-threads=2,policy=bind,host-nodes=0,home-node=0",
	  .run = complete },
	{ .name = "complete, advised, locked",
	  .size = SIZE_HUGE,
	  .options = ",prealloc=on,lock=on,merge=on,dump=off,thp=always",
	  .run = complete },
	{ .name = "complete, background",
	  .options = ",prealloc=on,prealloc-mode=background",
	  .run = complete },
	{ .name = "complete, thread-context",
	  .options = ",prealloc=on,prealloc-context=context",
	  .run = complete },
	{ .name = "restore", .options = ",prealloc=on,contents=" IMAGE_PATH, .run = restore },
	{ .name = "restore, background",
	  .options = ",prealloc=on,prealloc-mode=background,contents=" IMAGE_PATH
		     ",contents-order=" ORDER_PATH,
	  .run = restore },
	{ .name = "restore, background, huge, bound, locked",
	  .size = SIZE_HUGE,
	  .options = ",prealloc=on,prealloc-mode=background,thp=always,lock=on,policy=bind,"
		     "host-nodes=0,contents=" IMAGE_PATH,
	  .run = restore },
	{ .name = "complete two", .options = ",prealloc=on", .run = complete_both },
	{ .name = "merge=off",
	  .options = "",
	  .property = "merge",
	  .value = "off",
	  .live = true,
	  .run = set },
	{ .name = "dump=off",
	  .options = "",
	  .property = "dump",
	  .value = "off",
	  .live = true,
	  .run = set },
	{ .name = "thp=always",
	  .options = "",
	  .property = "thp",
	  .value = "always",
	  .live = true,
	  .run = set },
	{ .name = "lock=on",
	  .options = "",
	  .property = "lock",
	  .value = "on",
	  .live = true,
	  .run = set },
	{ .name = "lock=off",
	  .options = ",lock=on",
	  .property = "lock",
	  .value = "off",
	  .live = true,
	  .run = set },
	{ .name = "prealloc=on",
	  .options = "",
	  .property = "prealloc",
	  .value = "on",
	  .live = true,
	  .run = set },
	{ .name = "prealloc=on in the background",
	  .options = ",prealloc-mode=background",
	  .property = "prealloc",
	  .value = "on",
	  .live = true,
	  .run = set },
	{ .name = "prealloc-context",
	  .options = "",
	  .property = "prealloc-context",
	  .value = "context",
	  .live = true,
	  .run = set },
	{ .name = "rebind", .options = "", .live = true, .run = rebind },
	{ .name = "rebind back",
	  .options = ",policy=bind,host-nodes=0",
	  .property = "policy",
	  .value = "interleave",
	  .live = true,
	  .run = set },
	{ .name = "discard", .options = "", .live = true, .discards = true, .run = discard },
	{ .name = "discard locked",
	  .options = ",lock=on",
	  .live = true,
	  .discards = true,
	  .run = discard },
	{ .name = "discard to zero",
	  .options = "",
	  .live = true,
	  .discards = true,
	  .run = discard_to_zero },
	{ .name = "discard of contents on demand",
	  .options = ",contents=" IMAGE_PATH,
	  .live = true,
	  .run = discard_unread },
	{ .name = "protect", .options = "", .live = true, .run = protect },
	{ .name = "scrub",
	  .size = SIZE_MAX_TRIED,
	  .options = "",
	  .live = true,
	  .discards = true,
	  .run = scrub },
	{ .name = "scrub without optional calls",
	  .size = SIZE_MAX_TRIED,
	  .options = "",
	  .live = true,
	  .discards = true,
	  .old = true,
	  .run = scrub },
	{ .name = "save", .size = SIZE_HUGE, .options = "", .live = true, .run = save },
	{ .name = "populate", .options = "", .live = true, .run = populate },
	{ .name = "populate, bound",
	  .size = SIZE_MAX_TRIED,
	  .options = ",prealloc-threads=2,policy=bind,host-nodes=0",
	  .live = true,
	  .run = populate },
	{ .name = "populate and discard",
	  .size = SIZE_MAX_TRIED,
	  .options = "",
	  .live = true,
	  .discards = true,
	  .run = populate_and_discard },
	{ .name = "placement",
	  .options = ",policy=bind,host-nodes=0",
	  .live = true,
	  .run = placement },
	{ .name = "placement without optional calls",
	  .options = "",
	  .live = true,
	  .old = true,
	  .run = placement },
	{ .name = "inhibit", .options = "", .live = true, .run = inhibit },
	{ .name = "delete", .options = "", .live = true, .ends = true, .run = delete_it },
	{ .name = "undo", .options = "", .live = true, .ends = true, .run = undo },
	{ .name = "free", .options = "", .live = true, .ends = true, .run = free_it },
};

/* ---- Setting a trial up ---- */

static int embedder_allocate(void *data, const struct hostmem_backend *backend,
			     struct hostmem_backing *backing, struct hostmem_error *err)
{
	int fd = memfd_create("embedder", MFD_CLOEXEC);

	(void)data, (void)backend, (void)err;
	must(fd >= 0 && !ftruncate(fd, SIZE_MAX_TRIED), "memfd");
	backing->fd = fd;
	backing->flags = HOSTMEM_BACKING_OWN;
	return 0;
}

static const struct hostmem_kind embedder = {
	.name = "embedder",
	.description = "A kind of the embedder's.",
	.share = true,
	.allocate = embedder_allocate,
};

static void fill_file(int fd, int byte, size_t size)
{
	static char contents[SIZE_MAX_TRIED];

	memset(contents, byte, size);
	must(pwrite(fd, contents, size, 0) == (ssize_t)size, "write");
}

static bool has_only(int fd, int byte, size_t size)
{
	static char contents[SIZE_MAX_TRIED], expected[SIZE_MAX_TRIED];

	memset(expected, byte, size);
	return pread(fd, contents, size, 0) == (ssize_t)size && !memcmp(contents, expected, size);
}

static const char *directory_of(const struct subject *subject)
{
	return subject->on_disk ? disk : shared;
}

static struct hostmem_backend *new_backend(const struct trial *trial, const char *id)
{
	struct hostmem_error err = { 0 };
	struct hostmem_backend *backend;
	char subject[512], options[1024];

	if (strstr(trial->subject->options, "%d"))
		snprintf(subject, sizeof(subject), trial->subject->options, trial->fd);
	else
		snprintf(subject, sizeof(subject), trial->subject->options,
			 directory_of(trial->subject));
	snprintf(options, sizeof(options), "%s,id=%s,size=%zu%s", subject, id, size_of(trial),
		 trial->operation->options);
	if (!hostmem_backend_new_from_options(trial->objects, &backend, options, &err))
		return backend;
	problem("%s: %s", options, err.message);
	exit(1);
}

/* So that it shows what was lost, and what was not done. */
static bool is_filled(const struct operation *operation)
{
	return operation->discards || operation->run == rebind || operation->run == save;
}

static void set_up(struct trial *trial)
{
	static const struct hostmem_defaults defaults = { .merge = true,
							  .dump = true,
							  .fd_by_number = true };
	const struct operation *operation = trial->operation;
	struct hostmem_error err = { 0 };
	char path[512];

	snprintf(path, sizeof(path), "%s/kept", directory_of(trial->subject));
	if (strstr(trial->subject->options, "kept"))
		trial->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	else
		trial->fd = memfd_create("user", MFD_CLOEXEC);
	must(trial->fd >= 0, path);
	if (trial->subject->is_users)
		fill_file(trial->fd, KEPT, size_of(trial));
	must(!hostmem_objects_new(&trial->objects, operation->old ? old_host : host, &defaults,
				  NULL, 0, &err) &&
		     !hostmem_objects_register_kind(trial->objects, &embedder, &err) &&
		     !hostmem_thread_context_new(trial->objects, &trial->context, "context",
						 &err) &&
		     !hostmem_thread_context_complete(trial->context, &err),
	     err.message);
	trial->backend = new_backend(trial, "first");
	if (operation->run == complete_both && !strstr(trial->subject->options, "/new"))
		trial->second = new_backend(trial, "second");
	if (!operation->live)
		return;
	if (hostmem_backend_complete(trial->backend, &err))
		problem("%s: %s: cannot set up: %s", trial->subject->name, operation->name,
			err.message);
	hostmem_backend_get_memory(trial->backend, &trial->memory, NULL);
	if (is_filled(operation))
		memset(trial->memory.address, FILL, trial->memory.size);
	if (operation->run == save)
		fill_file(SAVED, KEPT, size_of(trial));
}

static void take_down(struct trial *trial)
{
	char path[512];

	hostmem_backend_free(trial->backend);
	hostmem_backend_free(trial->second);
	hostmem_thread_context_free(trial->context);
	hostmem_objects_free(trial->objects);
	if (trial->fd >= 0)
		close(trial->fd);
	/* The kept one too, since the kernel keeps the policy of shared memory with it. */
	for (size_t i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", directory_of(trial->subject),
			 i ? "new" : "kept");
		unlink(path);
	}
	shim_remove_stuck();
	shim_forget_names();
	*trial = (struct trial){ .subject = trial->subject,
				 .operation = trial->operation,
				 .fd = -1 };
}

/* ---- Looking at the outcome ---- */

/* All that can be read of the backend as one text. */
static char *describe(const struct trial *trial)
{
	const struct hostmem_property *property;
	char value[5000], *text = NULL;
	size_t size;
	FILE *stream = open_memstream(&text, &size);

	must(stream, "memory");
	fprintf(stream, "state=%d\n", (int)hostmem_backend_get_state(trial->backend));
	for (size_t i = 0; (property = hostmem_property_get(i)); i++) {
		if (hostmem_backend_get_text(trial->backend, property->name, value, sizeof(value),
					     NULL) < 0)
			*value = '\0';
		fprintf(stream, "%s=%s\n", property->name, value);
	}
	fclose(stream);
	return text;
}

/* The VmFlags (proc(5)) of the mapping at the address. */
static void read_flags(const void *address, char *flags, size_t size)
{
	char *text = read_text("/proc/self/smaps"), start[32];
	const char *found;

	snprintf(start, sizeof(start), "\n%lx-", (unsigned long)(uintptr_t)address);
	found = strstr(text, start);
	found = found ? strstr(found, "VmFlags:") : NULL;
	snprintf(flags, size, "%.*s ", found ? (int)strcspn(found, "\n") : 0, found);
	free(text);
}

static bool is_on(const struct trial *trial, const char *property, const char *value)
{
	char now[64] = "";

	hostmem_backend_get_text(trial->backend, property, now, sizeof(now), NULL);
	return !strcmp(now, value);
}

static bool is_resident(const struct hostmem_memory *memory)
{
	static unsigned char pages[SIZE_MAX_TRIED / PAGE];
	size_t count = 0;

	must(!mincore(memory->address, memory->size, pages), "mincore");
	for (size_t i = 0; i < memory->size / PAGE; i++)
		count += pages[i] & 1;
	return count == memory->size / PAGE;
}

static bool is_warned_of(const struct trial *trial, const char *property)
{
	char text[256];

	for (size_t i = 0; hostmem_backend_get_warning(trial->backend, i, text, sizeof(text), NULL);
	     i++) {
		if (!strncmp(text, property, strlen(property)))
			return true;
	}
	return false;
}

static bool is_sealed(const struct hostmem_memory *memory)
{
	int seals = fcntl(memory->fd, F_GET_SEALS);

	return seals > 0 && seals & F_SEAL_SHRINK;
}

/* What a ready backend says of itself against what the kernel says. */
static const char *find_lie(const struct trial *trial)
{
	struct hostmem_placement now;
	struct hostmem_memory memory;
	enum hostmem_origin merge;
	char flags[256];

	if (hostmem_backend_get_memory(trial->backend, &memory, NULL))
		return "there is no memory";
	read_flags(memory.address, flags, sizeof(flags));
	if (is_on(trial, "dump", "off") != !!strstr(flags, " dd "))
		return "`dump` is not what the kernel does";
	if (!memory.hugetlb && is_on(trial, "lock", "on") != !!strstr(flags, " lo "))
		return "`lock` is not what the kernel does";
	if (!memory.hugetlb && is_on(trial, "thp", "always") && !strstr(flags, " hg ") &&
	    !is_warned_of(trial, "thp"))
		return "`thp` is not what the kernel does";
	/* A kernel without page merging is no failure unless it was asked for. */
	hostmem_backend_get_origin(trial->backend, "merge", &merge, NULL);
	if (memory.fd < 0 && merge == HOSTMEM_ORIGIN_USER &&
	    is_on(trial, "merge", "on") != !!strstr(flags, " mg "))
		return "`merge` is not what the kernel does";
	if (!strstr(flags, " rd ") || !strstr(flags, " wr "))
		return "the memory is not accessible";
	if ((is_on(trial, "seal", "on") || !strcmp(trial->subject->name, "ram shared")) &&
	    memory.fd >= 0 && !is_sealed(&memory))
		return "the memory is not sealed";
	if (!strstr(flags, " dc "))
		return "forked children get the memory";
	if (is_on(trial, "prealloc", "on") && !is_resident(&memory))
		return "not all memory is there";
	if (hostmem_backend_get_placement(trial->backend, &now, NULL))
		return "the placement cannot be read";
	if (now.policy_changed)
		return "the policy is not what the kernel does";
	return NULL;
}

static bool is_only(const unsigned char *bytes, int byte, size_t size)
{
	return bytes[0] == byte && !memcmp(bytes, bytes + 1, size - 1);
}

/* What an operation that has succeeded did not do. */
static const char *find_undone(const struct trial *trial)
{
	int (*run)(struct trial *, struct hostmem_error *) = trial->operation->run;
	bool is_private = strstr(trial->subject->options, "share=off");
	int byte = run == discard && trial->subject->is_users && is_private ? KEPT : 0;

	if (strstr(trial->operation->options, ",prealloc=on") && !is_on(trial, "prealloc", "on"))
		return "it is not preallocated";
	if (trial->operation->property &&
	    !is_on(trial, trial->operation->property, trial->operation->value))
		return "the property is not set";
	if (run == save)
		return has_only(SAVED, FILL, size_of(trial)) ? NULL : "not all was saved";
	if (run != discard && run != discard_to_zero && run != scrub)
		return NULL;
	return is_only(trial->memory.address, byte, size_of(trial) / 2) ? NULL : "contents stay";
}

/* The contents where nothing was discarded. */
static bool is_untouched(const struct trial *trial)
{
	const struct operation *operation = trial->operation;
	const unsigned char *address = trial->memory.address;
	size_t size = size_of(trial), first = operation->discards ? size / 2 : 0;

	if (operation->ends)
		return true;
	if (!is_filled(operation))
		return !trial->subject->is_users || trial->memory.address == NULL ||
		       (address[0] == KEPT && address[size - 1] == KEPT);
	for (size_t i = first; i < size; i += 64) {
		if (address[i] != FILL)
			return false;
	}
	return true;
}

struct fault {
	size_t call;
	uint64_t nth;
	int error;
	/* Fails after it, as undoing may; NULL: nothing. */
	const struct fault *second;
};

static const struct fault no_fault = { .nth = UINT32_MAX, .error = ENOMEM };

/* Which calls were made while no fault came up: only these can fail first. */
static void note_calls(bool made[CALLS_MAX])
{
	for (size_t call = 0; shim_calls[call].name; call++) {
		must(call < CALLS_MAX, "CALLS_MAX");
		made[call] = made[call] || shim_count_armed(call);
	}
}

/* "mmap #2 fails with ENOMEM, then munmap #1 with ENOMEM" */
static void describe_fault(const struct fault *fault, char *text, size_t size)
{
	const struct fault *second = fault->second;
	int length = snprintf(text, size, "%s #%lu fails with %s", shim_calls[fault->call].name,
			      (unsigned long)fault->nth, strerrorname_np(fault->error));

	if (second)
		snprintf(text + length, size - (size_t)length, ", then %s #%lu with %s",
			 shim_calls[second->call].name, (unsigned long)second->nth,
			 strerrorname_np(second->error));
}

static void report(const struct trial *trial, const struct fault *fault, const char *what,
		   const char *more)
{
	char text[200];

	describe_fault(fault, text, sizeof(text));
	problem("%s: %s: %s: %s%s%s", trial->subject->name, trial->operation->name, text, what,
		*more ? ": " : "", more);
}

/*
 * Without memory for it there is no warning. And a kernel without page merging, which says EINVAL,
 * merges nothing.
 */
static bool is_excused(const struct fault *fault, const char *lie)
{
	if (!strncmp(lie, "`merge`", 7))
		return fault->error == EINVAL && !strcmp(shim_calls[fault->call].name, "madvise");
	return !strncmp(lie, "`thp`", 5) && fault->second &&
	       !strcmp(shim_calls[fault->second->call].name, "calloc");
}

static void report_lie(const struct trial *trial, const struct fault *fault, const char *what)
{
	const char *lie = find_lie(trial);

	if (lie && !is_excused(fault, lie))
		report(trial, fault, what, lie);
}

static void check_success(const struct trial *trial, const struct fault *fault, const char *what)
{
	const char *undone = find_undone(trial);

	report_lie(trial, fault, what);
	if (undone)
		report(trial, fault, what, undone);
}

static void check_error(const struct trial *trial, const struct fault *fault,
			const struct hostmem_error *err)
{
	if (err->kind < HOSTMEM_ERROR_UNKNOWN_PROPERTY || err->kind > HOSTMEM_ERROR_IO)
		report(trial, fault, "the error has no kind", err->message);
	if (!*err->message)
		report(trial, fault, "the error has no message", "");
	else if (!strstr(err->message, "first") && !strstr(err->message, "second") &&
		 !strstr(err->message, "bookkeeping"))
		report(trial, fault, "the error does not name the backend", err->message);
}

static void check_nothing_changed(const struct trial *trial, const struct fault *fault,
				  const struct belongings *before, const char *described)
{
	struct belongings now = look_when_quiet(before);
	const char *left = find_difference(before, &now);
	char *description = describe(trial);

	if (left)
		report(trial, fault, "a failure left or took", left);
	if (strcmp(description, described) != 0)
		report(trial, fault, "a failure changed state or properties", description);
	free(description);
}

/* The failed operation has changed nothing, and works now. */
static void check_failure(struct trial *trial, const struct fault *fault,
			  const struct belongings *before, const char *described,
			  const struct hostmem_error *failure)
{
	/* Only where putting back fails too. */
	bool said = strstr(failure->message, "could not be put back");
	struct hostmem_error err = { 0 };

	/* Where replacing memory fails twice. */
	if (strstr(failure->message, "is lost"))
		return;
	/* What failed in the background leaves the backend complete, with the thread and the event.
	 */
	if (!trial->began)
		check_nothing_changed(trial, fault, before, described);
	if (trial->operation->live && !said)
		report_lie(trial, fault, "after the failure");
	if (trial->operation->run(trial, &err))
		report(trial, fault, "it does not work again", err.message);
	else
		check_success(trial, fault, "done again, but");
}

static void check_outcome(struct trial *trial, const struct fault *fault, int result,
			  const struct hostmem_error *err, const struct belongings *before,
			  const char *described)
{
	bool stays;

	if (!shim_bystanders_are_whole())
		report(trial, fault, "a mapping of another thread's was changed", "");
	shim_unmap_stuck();
	stays = shim_remove_stuck();
	/* It could not be looked at, or not whether others have it open. */
	if (result && (!trial->operation->live || trial->operation->ends) &&
	    strstr(err->message, "stays"))
		stays = shim_remove_names() || stays;
	if (!result && stays)
		report(trial, fault, "success, but a file stays", "");
	if (result && stays && !strstr(err->message, "stays"))
		report(trial, fault, "the error does not say that a file stays", err->message);
	if (result) {
		check_error(trial, fault, err);
		if (trial->operation->ends && !stays)
			report(trial, fault, "it cannot fail, and did", err->message);
		else if (!trial->operation->ends)
			check_failure(trial, fault, before, described, err);
	} else if (!trial->operation->ends) {
		check_success(trial, fault, "success, but");
	}
	if (trial->operation->live && !is_untouched(trial))
		report(trial, fault, "contents were lost", "");
}

/* ---- Trials ---- */

static void arm(const struct fault *fault)
{
	const struct fault *second = fault->second;

	if (second)
		shim_arm_second(second->call, second->nth, second->error);
	shim_arm(fault->call, fault->nth, fault->error);
}

/* Whether the fault came up, or of two the second. */
static bool try(struct trial *trial, const struct fault *fault, const struct belongings *at_rest)
{
	struct hostmem_error err = { 0 };
	struct belongings before, after;
	char *described;
	const char *left;
	bool fired;
	int result;

	set_up(trial);
	described = describe(trial);
	before = look();
	arm(fault);
	result = trial->operation->run(trial, &err);
	fired = shim_disarm();
	if (fired)
		check_outcome(trial, fault, result, &err, &before, described);
	else if (result)
		report(trial, fault, "fails without the fault", err.message);
	if (trial->subject->is_users && !is_filled(trial->operation) &&
	    !has_only(trial->fd, KEPT, size_of(trial)))
		report(trial, fault, "the user's file has changed", "");
	free(described);
	take_down(trial);
	shim_unmap_stuck();
	after = look_when_quiet(at_rest);
	left = find_difference(at_rest, &after);
	if (left)
		report(trial, fault, "in the end there is, or is not any more", left);
	return fault->second ? shim_second_failed() : fired;
}

/* The first and the last of the calls of each function that followed the fault fail too. */
static void try_second(struct trial *trial, const struct fault *fault,
		       const struct belongings *at_rest)
{
	static size_t faults;
	size_t *counts, calls = 0;

	if (faults++ % pairs_every)
		return;
	while (shim_calls[calls].name)
		calls++;
	counts = calloc(calls, sizeof(counts[0]));
	must(counts, "memory");
	for (size_t call = 0; call < calls; call++)
		counts[call] = shim_count_since(call);
	for (size_t call = 0; call < calls; call++) {
		const size_t nths[] = { 1, counts[call] };

		for (size_t i = 0; i < 2 && nths[i] > i; i++) {
			const struct fault second = {
				.call = call,
				.nth = nths[i],
				.error = shim_calls[call].errors[0],
			};
			struct fault both = *fault;

			both.second = &second;
			pairs += try(trial, &both, at_rest);
		}
	}
	free(counts);
}

/* With one errno for each call, another one each time. Of many calls some of the later ones. */
static size_t try_call(struct trial *trial, size_t call, const struct belongings *at_rest)
{
	const int *errors = shim_calls[call].errors;
	struct fault fault = { .call = call, .nth = 1, .error = errors[0] };
	size_t errors_len = 0, count = 0;

	while (errors[errors_len])
		errors_len++;
	while (try(trial, &fault, at_rest)) {
		try_second(trial, &fault, at_rest);
		fault.error = errors[++count % errors_len];
		fault.nth += fault.nth < 12 ? 1 : fault.nth / 4;
	}
	return count;
}

static size_t try_call_fully(struct trial *trial, size_t call, const struct belongings *at_rest)
{
	size_t count = 0;

	for (const int *error = shim_calls[call].errors; *error; error++) {
		struct fault fault = { .call = call, .nth = 1, .error = *error };

		for (; try(trial, &fault, at_rest); fault.nth++)
			count++;
	}
	return count;
}

/* Every call of the operation, one after the other; returns how many failed. */
static size_t try_all(struct trial *trial)
{
	struct belongings at_rest = { 0 };
	bool made[CALLS_MAX] = { 0 };
	size_t count = 0;

	/* Twice, so that what the C library keeps is there. */
	for (int i = 0; i < 2; i++) {
		set_up(trial);
		trial->operation->run(trial, NULL);
		take_down(trial);
	}
	at_rest = look();
	/* Twice, since a thread does not always wait. */
	for (int i = 0; i < 2; i++) {
		try(trial, &no_fault, &at_rest);
		note_calls(made);
	}
	for (size_t call = 0; shim_calls[call].name; call++) {
		if (!made[call])
			continue;
		count += every_errno ? try_call_fully(trial, call, &at_rest)
				     : try_call(trial, call, &at_rest);
	}
	return count;
}

static bool has_feature(const char *name)
{
	struct hostmem_feature feature;

	for (size_t i = 0; !hostmem_host_get_feature(host, i, &feature); i++) {
		if (!strcmp(feature.name, name))
			return !feature.os_error;
	}
	return false;
}

/* Whether the host can do it at all. */
static bool is_possible(const struct operation *operation)
{
	struct hostmem_host_info info;

	hostmem_host_get_info(host, &info);
	if (strstr(operation->options, "contents=") && operation->run != complete &&
	    !has_feature("userfaultfd-kvm"))
		return false;
	if (operation->run == rebind || strstr(operation->options, "host-nodes"))
		return has_feature("policy=bind") && has_feature("home-node");
	if (strstr(operation->options, "merge=on"))
		return has_feature("merge") && info.thp_size;
	return !operation->property || strcmp(operation->property, "thp") || info.thp_size;
}

/* A new file has one path, and so one backend. */
static bool is_for(const struct operation *operation, const struct subject *subject)
{
	/* Contents are not for what is the user's; and not on demand for a file. */
	if (strstr(operation->options, "contents="))
		return !strstr(subject->options, "file") && !subject->is_users &&
		       strcmp(subject->name, "embedder's") != 0;
	/* Of memory that reads as a file of the user's there is no scrubbing. */
	if (operation->run == scrub && subject->is_users && strstr(subject->options, "share=off"))
		return false;
	return operation->run != complete_both || !strstr(subject->options, "/new");
}

static size_t try_subject(const struct subject *subject)
{
	struct trial trial = { .subject = subject, .fd = -1 };
	size_t count = 0;

	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
		trial.operation = &operations[i];
		if (only_operation && strcmp(operations[i].name, only_operation) != 0)
			continue;
		if (!is_possible(&operations[i]))
			printf("skipped: %s: this host cannot do it\n", operations[i].name);
		else if (is_for(&operations[i], subject))
			count += try_all(&trial);
	}
	printf("%s: %zu faults\n", subject->name, count);
	fflush(stdout);
	return count;
}

/* ---- What needs no backend ---- */

static const struct hostmem_defaults no_defaults;

static int probe(struct hostmem_error *err)
{
	struct hostmem_host *probed;

	if (hostmem_host_probe(&probed, err))
		return -1;
	hostmem_host_free(probed);
	return 0;
}

static int read_topology(struct hostmem_error *err)
{
	struct hostmem_topology *topology;

	if (hostmem_topology_read(&topology, err))
		return -1;
	hostmem_topology_free(topology);
	return 0;
}

static int make_objects(struct hostmem_error *err)
{
	static const struct hostmem_compat compat[] = { { "memory-backend", "merge", "off" },
							{ "memory-backend-ram", "dump", "off" } };
	struct hostmem_objects *objects;
	int result;

	if (hostmem_objects_new(&objects, host, &no_defaults, compat, 2, err))
		return -1;
	result = hostmem_objects_register_kind(objects, &embedder, err);
	hostmem_objects_free(objects);
	return result;
}

static int make_backend(struct hostmem_objects *objects, struct hostmem_error *err)
{
	struct hostmem_backend *backend;
	char kind[64];

	if (hostmem_options_get_kind("memory-backend-ram,id=ram", kind, sizeof(kind), err) < 0 ||
	    hostmem_backend_new_from_options(
		    objects, &backend, "memory-backend-ram,id=ram,host-nodes=0,host-nodes=1", err))
		return -1;
	hostmem_backend_free(backend);
	return 0;
}

static int parse(struct hostmem_error *err)
{
	struct hostmem_objects *objects;
	int result;

	if (hostmem_objects_new(&objects, host, &no_defaults, NULL, 0, err))
		return -1;
	result = make_backend(objects, err);
	hostmem_objects_free(objects);
	return result;
}

static int use_context(struct hostmem_objects *objects, struct hostmem_error *err)
{
	struct hostmem_thread_context *context;
	uint32_t cpu = (uint32_t)sched_getcpu();
	char options[64];
	int result;

	snprintf(options, sizeof(options), "thread-context,id=context,cpu-affinity=%u", cpu);
	if (hostmem_thread_context_new_from_options(objects, &context, options, err))
		return -1;
	result = hostmem_thread_context_complete(context, err);
	if (!result)
		result = hostmem_thread_context_set_list(context, "cpu-affinity", &cpu, 1, err);
	if (!result)
		result = hostmem_thread_context_delete(context, err);
	hostmem_thread_context_free(context);
	return result;
}

static int make_context(struct hostmem_error *err)
{
	struct hostmem_objects *objects;
	int result;

	if (hostmem_objects_new(&objects, host, &no_defaults, NULL, 0, err))
		return -1;
	result = use_context(objects, err);
	hostmem_objects_free(objects);
	return result;
}

/* What fails on the pool's own thread is tried again, after a pause unless the count is set. */
static int withdraw(struct hostmem_pool *pool, struct hostmem_error *err)
{
	struct hostmem_backend *backend;

	while (hostmem_pool_wait(pool, 1, 10, NULL)) {
		if (hostmem_pool_set_count(pool, 1, err))
			return -1;
	}
	if (hostmem_pool_withdraw(pool, &backend, "taken", err))
		return -1;
	hostmem_backend_free(backend);
	return 0;
}

/* Where none is ready one is made at once. */
static int withdraw_and_take(struct hostmem_pool *pool, struct hostmem_error *err)
{
	struct hostmem_backend *backend;
	bool was_ready;

	if (withdraw(pool, err) || hostmem_pool_take(pool, &backend, &was_ready, "taken", err))
		return -1;
	hostmem_backend_free(backend);
	return 0;
}

static int use_pool(struct hostmem_objects *objects, struct hostmem_error *err)
{
	struct hostmem_backend *template;
	struct hostmem_pool *pool;
	int result;

	if (hostmem_backend_new_from_options(
		    objects, &template, "memory-backend-fd,id=template,size=64K,share=off", err))
		return -1;
	result = hostmem_backend_set_fd(template, "fd", IMAGE, err);
	if (!result)
		result = hostmem_pool_new(&pool, template, 1, err);
	hostmem_backend_free(template);
	if (result)
		return -1;
	result = withdraw_and_take(pool, err);
	hostmem_pool_free(pool);
	return result;
}

static int use_directory(struct hostmem_objects *objects, struct hostmem_error *err)
{
	struct hostmem_pool *pool;
	char options[PATH_MAX + 64];
	int result;

	snprintf(options, sizeof(options), "memory-backend-file,size=64K,share=on,mem-path=%s",
		 shared);
	if (hostmem_pool_new_from_options(objects, &pool, options, 1, err))
		return -1;
	result = withdraw_and_take(pool, err);
	hostmem_pool_free(pool);
	return result;
}

static int make_pools(struct hostmem_error *err)
{
	struct hostmem_objects *objects;
	int result;

	if (hostmem_objects_new(&objects, host, &no_defaults, NULL, 0, err))
		return -1;
	result = use_pool(objects, err);
	if (!result)
		result = use_directory(objects, err);
	hostmem_objects_free(objects);
	return result;
}

static const struct {
	const char *name;
	int (*run)(struct hostmem_error *err);
} others[] = {
	{ "probe", probe },   { "topology", read_topology },      { "objects", make_objects },
	{ "options", parse }, { "thread-context", make_context }, { "pool", make_pools },
};

static bool try_other(size_t index, const struct fault *fault)
{
	const struct subject subject = { .name = "no backend" };
	const struct operation operation = { .name = others[index].name };
	const struct trial trial = { .subject = &subject, .operation = &operation };
	const struct belongings before = look();
	struct hostmem_error err = { 0 };
	struct belongings after;
	const char *left;
	bool fired;
	int result;

	shim_arm(fault->call, fault->nth, fault->error);
	result = others[index].run(&err);
	fired = shim_disarm();
	if (!shim_bystanders_are_whole())
		report(&trial, fault, "a mapping of another thread's was changed", "");
	shim_unmap_stuck();
	if (result && (!err.kind || !*err.message))
		report(&trial, fault, "there is no error", "");
	if (result && others[index].run(&err))
		report(&trial, fault, "it does not work again", err.message);
	after = look_when_quiet(&before);
	left = find_difference(&before, &after);
	if (left)
		report(&trial, fault, "in the end there is, or is not any more", left);
	return fired;
}

static size_t try_others(void)
{
	size_t count = 0;

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		bool made[CALLS_MAX] = { 0 };

		must(!others[i].run(NULL) && !others[i].run(NULL), others[i].name);
		try_other(i, &no_fault);
		note_calls(made);
		for (size_t call = 0; shim_calls[call].name; call++) {
			const int *errors = shim_calls[call].errors;

			for (; made[call] && *errors; errors++) {
				struct fault fault = { .call = call, .nth = 1, .error = *errors };

				for (; try_other(i, &fault); fault.nth++)
					count++;
			}
		}
	}
	printf("no backend: %zu faults\n", count);
	return count;
}

/* ---- All of it ---- */

/* One that has a kernel before 5.14, of which the first advice is asked first, and a filter against
 * all optional calls. */
static void probe_hosts(void)
{
	struct hostmem_error err = { 0 };
	size_t call = 0;

	while (strcmp(shim_calls[call].name, "madvise") != 0)
		call++;
	must(!hostmem_host_probe(&host, &err), err.message);
	shim_arm(call, 1, EINVAL);
	must(!hostmem_host_probe(&old_host, &err) && shim_disarm(), err.message);
	hostmem_host_narrow_calls(old_host, 0);
}

static void make_files(void)
{
	static char image[IMAGE_SIZE];
	static const char order[] = "4096 4096\n0 4096\n";
	int fd = memfd_create("image", MFD_CLOEXEC);

	memset(image, FILL, sizeof(image));
	must(fd >= 0 && write(fd, image, sizeof(image)) == sizeof(image) &&
		     dup3(fd, IMAGE, O_CLOEXEC) == IMAGE &&
		     dup3(memfd_create("saved", MFD_CLOEXEC), SAVED, O_CLOEXEC) == SAVED &&
		     !ftruncate(SAVED, SIZE_MAX_TRIED),
	     "image");
	fd = memfd_create("order", MFD_CLOEXEC);
	must(fd >= 0 && write(fd, order, strlen(order)) == (ssize_t)strlen(order) &&
		     dup3(fd, ORDER, O_CLOEXEC) == ORDER,
	     "order");
}

int main(int argc, char **argv)
{
	const char *only = getenv("ONLY"), *part = getenv("PART");
	const char *every_pair = getenv("HOSTMEM_EVERY_PAIR");
	size_t first = 1, step = 1, count = 0;

	must(argc >= 3, "usage: inject <directory on a disk> <directory in shared memory> [huge]");
	disk = argv[1];
	shared = argv[2];
	every_errno = getenv("HOSTMEM_EVERY_ERRNO");
	only_operation = getenv("OPERATION");
	must(!every_pair || (sscanf(every_pair, "%zu", &pairs_every) == 1 && pairs_every),
	     "HOSTMEM_EVERY_PAIR=n");
	must(!part || (sscanf(part, "%zu/%zu", &first, &step) == 2 && first && step), "PART=k/n");
	/* One heap, apart from all other mappings, that does not shrink. */
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_THRESHOLD, 1 << 30);
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	make_files();
	probe_hosts();
	if (first == 1 && !only && !only_operation)
		count = try_others();
	for (size_t i = first - 1; i < sizeof(subjects) / sizeof(subjects[0]); i += step) {
		if (only && !strstr(subjects[i].name, only))
			continue;
		if (subjects[i].needs_huge && argc < 4)
			printf("skipped: %s: there is no pool of huge pages\n", subjects[i].name);
		else
			count += try_subject(&subjects[i]);
	}
	hostmem_host_free(old_host);
	hostmem_host_free(host);
	printf("%zu faults, %zu pairs, %zu problems\n", count, pairs, problems);
	return problems != 0;
}

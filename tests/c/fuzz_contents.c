/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Memory that begins as an image of any size, holes and offset, read at once, in the background or
 * on demand, in any order, in which calls fail and the image is cut. What is read is the image and
 * zeros behind it, or an error: never zeros in the place of contents.
 *
 * The first bytes of an input make the backend and the image (see begin()), then come steps of two
 * bytes: what, and a detail.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shim.h"

#define SIZE  (512ul << 10)
#define PAGE  4096ul
#define STEPS 32
/* Of image sizes and extents: no multiple of a page. */
#define UNIT 2500ul

static struct hostmem_host *host;
static struct hostmem_error err;

static struct {
	struct hostmem_objects *objects;
	struct hostmem_backend *backend;
	int image, order, target;
	/* What the memory has, and what it has where the image was cut before it was opened. */
	uint8_t expected[SIZE], cut[SIZE];
	/* The image is as it was. */
	bool is_whole;
	/* No call was made to fail, so that touching ends. */
	bool is_calm;
	/* A discard failed in the middle. */
	bool is_unknown;
} run;

/* ---- The image ---- */

/* Differs from page to page, and is nowhere zero. */
static uint8_t byte_at(size_t offset)
{
	return (uint8_t)(offset / 64 * 7 | 1);
}

static void write_extent(size_t first, size_t size, size_t image_size)
{
	static uint8_t bytes[256 * UNIT];

	if (first >= image_size)
		return;
	if (size > image_size - first)
		size = image_size - first;
	for (size_t i = 0; i < size; i++)
		bytes[i] = byte_at(first + i);
	MUST(pwrite(run.image, bytes, size, (off_t)first) == (ssize_t)size);
}

/* Reads behind the end as zero. */
static void read_image(uint8_t *bytes, size_t offset)
{
	memset(bytes, 0, SIZE);
	MUST(pread(run.image, bytes, SIZE, (off_t)offset) >= 0);
}

static void make_image(struct input *input, size_t offset)
{
	size_t size = take_byte(input) * UNIT;

	run.image = memfd_create("image", MFD_CLOEXEC);
	MUST(run.image >= 0 && !ftruncate(run.image, (off_t)size));
	for (size_t extents = take_byte(input) % 8; extents; extents--) {
		size_t first = take_byte(input) * UNIT;

		write_extent(first, take_byte(input) * UNIT, size);
	}
	read_image(run.expected, offset);
}

static void cut_image(uint8_t detail)
{
	off_t size = lseek(run.image, 0, SEEK_END), shorter = (off_t)(detail * UNIT);

	if (shorter >= size)
		return;
	run.is_whole = false;
	MUST(!ftruncate(run.image, shorter));
}

/* ---- Completing ---- */

static void cut_in_callback(void *data, uint64_t done, uint64_t total)
{
	(void)done, (void)total;
	cut_image(*(const uint8_t *)data);
}

static void *cut_in_thread(void *data)
{
	cut_image(*(const uint8_t *)data);
	return NULL;
}

/*
 * The image may be cut meanwhile: by the progress callback, which a background has longer than this
 * runs, or by another thread.
 */
static int complete(uint8_t when, uint8_t length, size_t offset)
{
	static uint8_t detail;
	pthread_t thread;
	int result;

	detail = length;
	if (when % 4 == 1)
		hostmem_backend_set_progress(run.backend, cut_in_callback, &detail);
	if (when % 4 == 2)
		MUST(!pthread_create(&thread, NULL, cut_in_thread, &detail));
	result = checked(hostmem_backend_complete(run.backend, &err), &err);
	if (when % 4 == 2)
		MUST(!pthread_join(thread, NULL));
	hostmem_backend_set_progress(run.backend, NULL, NULL);
	memcpy(run.cut, run.expected, SIZE);
	if (when % 4 == 2)
		read_image(run.cut, offset);
	return result;
}

static void make_order(struct input *input)
{
	uint8_t size = take_byte(input);
	char *text = take_text(input, size % 64);

	run.order = memfd_create("order", MFD_CLOEXEC);
	MUST(run.order >= 0);
	/* Of more lines than there is room for at first. */
	for (int i = 0; i <= size / 64 * 16; i++)
		MUST(write(run.order, text, strlen(text)) == (ssize_t)strlen(text));
	free(text);
}

static int make_backend(uint8_t kind, uint8_t mode, size_t offset)
{
	static const char *const kinds[] = {
		"ram",         "ram,share=on",    "memfd",
		"shm",         "memfd,share=off", "file,share=on,mem-path=/dev/shm",
		"ram,lock=on",
	};
	static const char *const modes[] = {
		"prealloc=on",
		"prealloc=on,prealloc-threads=2",
		"prealloc=on,prealloc-mode=background",
		"prealloc=off",
		"prealloc=off,policy=bind,host-nodes=0",
		"prealloc=on,prealloc-mode=background,thp=always",
	};
	char options[512];
	int length = snprintf(options, sizeof(options),
			      "memory-backend-%s,id=ram,size=%lu,%s,contents=/proc/self/fd/%d,"
			      "contents-offset=%zu",
			      kinds[kind % ARRAY_LEN(kinds)], SIZE, modes[mode % ARRAY_LEN(modes)],
			      run.image, offset);

	if (lseek(run.order, 0, SEEK_END))
		snprintf(options + length, sizeof(options) - (size_t)length,
			 ",contents-order=/proc/self/fd/%d", run.order);
	return checked(hostmem_backend_new_from_options(run.objects, &run.backend, options, &err),
		       &err);
}

/* ---- Steps ---- */

static void expect_zeros(uint64_t offset, uint64_t length)
{
	memset(run.expected + offset, 0, length);
	memset(run.cut + offset, 0, length);
}

static void discard(uint64_t offset, uint64_t length)
{
	if (!checked(hostmem_backend_discard(run.backend, offset, length, &err), &err))
		expect_zeros(offset, length);
	else
		run.is_unknown = true;
}

/* A thread that touches what cannot be read waits for ever. */
static void touch(uint64_t offset, uint8_t detail)
{
	struct hostmem_memory memory;
	volatile uint8_t *byte;

	if (!run.is_whole || !run.is_calm || run.is_unknown)
		return;
	MUST(!hostmem_backend_get_memory(run.backend, &memory, NULL));
	byte = (volatile uint8_t *)memory.address + offset;
	MUST(*byte == run.expected[offset]);
	if (detail % 2)
		*byte = run.expected[offset] = run.cut[offset] = detail;
}

static int save(void)
{
	struct hostmem_save_result saved;

	MUST(!ftruncate(run.target, 0));
	return checked(hostmem_backend_save(run.backend, &saved, run.target, 0, &err), &err);
}

static void save_and_compare(void)
{
	static uint8_t found[SIZE];

	if (save() || run.is_unknown)
		return;
	MUST(pread(run.target, found, SIZE, 0) == SIZE);
	MUST(!memcmp(found, run.expected, SIZE) || !memcmp(found, run.cut, SIZE));
}

static void change_owner(uint8_t detail)
{
	if (detail % 2)
		checked(hostmem_backend_claim(run.backend, "owner", &err), &err);
	else
		checked(hostmem_backend_release(run.backend, &err), &err);
	/* It has its memory already. */
	MUST(checked(hostmem_backend_complete(run.backend, &err), &err));
}

static void ask(void)
{
	struct hostmem_range ranges[4];
	int32_t fd;

	MUST(hostmem_backend_get_unread(run.backend, NULL) <= SIZE);
	hostmem_backend_get_faulted(run.backend, ranges, ARRAY_LEN(ranges));
	checked(hostmem_backend_get_shared_fd(run.backend, &fd, &err), &err);
}

static void arm(uint8_t detail)
{
	static const char *const names[] = { "pread", "ioctl",  "malloc", "mmap",
					     "lseek", "pwrite", "madvise" };
	const char *name = names[detail % ARRAY_LEN(names)];
	size_t call = 0;

	while (strcmp(shim_calls[call].name, name) != 0)
		call++;
	run.is_calm = false;
	shim_arm(call, 1 + detail / 16, shim_calls[call].errors[0]);
}

static void step(uint8_t what, uint8_t detail)
{
	uint64_t offset = detail % 16 * (SIZE / 16), length = detail / 16 * (2 * PAGE);

	switch (what % 13) {
	case 0:
		discard(offset, length);
		break;
	case 1:
		checked(hostmem_backend_populate(run.backend, offset, length, &err), &err);
		break;
	case 2:
	case 3:
		touch(offset + detail, detail);
		break;
	case 4:
		cut_image(detail);
		break;
	case 5:
		save_and_compare();
		break;
	case 6:
		checked(hostmem_backend_cancel_prealloc(run.backend, &err), &err);
		break;
	case 7:
		checked(hostmem_backend_wait_prealloc(run.backend, detail % 4, &err), &err);
		break;
	case 8:
		checked(hostmem_backend_retry_contents(run.backend, &err), &err);
		break;
	case 9:
		ask();
		break;
	case 10:
		checked(hostmem_backend_set_text(run.backend, "prealloc", "on", &err), &err);
		break;
	case 11:
		change_owner(detail);
		break;
	default:
		arm(detail);
		break;
	}
}

/* What could not be read because a call failed is read in the end. */
static void finish(void)
{
	shim_disarm();
	MUST(!hostmem_backend_cancel_prealloc(run.backend, NULL));
	MUST(!hostmem_backend_retry_contents(run.backend, NULL));
	MUST(!run.is_whole || !save());
	save_and_compare();
}

/* ---- A life ---- */

static void begin(void)
{
	static const struct hostmem_defaults defaults = { 0 };

	if (!host)
		MUST(!hostmem_host_probe(&host, NULL));
	run.backend = NULL;
	run.is_whole = run.is_calm = true;
	run.is_unknown = false;
	run.target = memfd_create("target", MFD_CLOEXEC);
	MUST(run.target >= 0);
	MUST(!hostmem_objects_new(&run.objects, host, &defaults, NULL, 0, NULL));
	shim_lend_descriptors();
}

static void end(void)
{
	struct shim_count left;

	shim_disarm();
	hostmem_backend_release(run.backend, NULL);
	hostmem_backend_free(run.backend);
	hostmem_objects_free(run.objects);
	close(run.image);
	close(run.order);
	close(run.target);
	MUST(shim_bystanders_are_whole());
	shim_unmap_stuck();
	shim_remove_stuck();
	left = shim_count();
	/* The probed host is kept. */
	MUST(!left.ranges && !left.descriptors && !left.files && !left.threads);
	MUST(left.allocations == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	uint8_t kind = take_byte(&input), mode = take_byte(&input), when = take_byte(&input);
	uint8_t detail = take_byte(&input), pages = take_byte(&input);
	size_t offset = pages % 16 * PAGE + pages / 128;

	begin();
	make_image(&input, offset);
	make_order(&input);
	if (!make_backend(kind, mode, offset) && !complete(when, detail, offset)) {
		for (int i = 0; i < STEPS && input.size; i++) {
			uint8_t what = take_byte(&input);

			step(what, take_byte(&input));
		}
		finish();
	}
	end();
	return 0;
}

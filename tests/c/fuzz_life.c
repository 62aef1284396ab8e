/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Whole lives of backends, in any order and by two threads at once, in which calls fail. Each step
 * is three bytes: what, with which backend, and a detail. In the end all is given back, and nothing
 * of others was touched.
 */
#include "fuzz.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim.h"

#define BACKENDS 3
#define SIZE     (256ul << 10)
#define STEPS    64

static struct hostmem_host *host;
static struct hostmem_objects *objects;
static struct hostmem_backend *backends[BACKENDS];
static struct hostmem_thread_context *context;
static __thread struct hostmem_error err;
/* Some of the memory of one of them is inaccessible. */
static _Atomic bool any_inaccessible;
static int user_fd;
static bool has_forked;

static void new_backend(size_t index, uint8_t detail)
{
	static const char *const kinds[] = {
		"memory-backend-ram",
		"memory-backend-ram,share=on",
		"memory-backend-memfd",
		"memory-backend-memfd,share=off",
		"memory-backend-shm",
		"memory-backend-file,share=on,mem-path=/dev/shm",
		"memory-backend-file,share=on,mem-path=/dev/shm/hostmem-fuzz-%d",
		"memory-backend-fd,fd=%d",
	};
	char kind[128], options[256];

	if (backends[index])
		return;
	snprintf(kind, sizeof(kind), kinds[detail % ARRAY_LEN(kinds)],
		 detail % ARRAY_LEN(kinds) == 7 ? user_fd : (int)getpid());
	snprintf(options, sizeof(options), "%s,id=backend%zu,size=%lu", kind, index, SIZE);
	if (checked(hostmem_backend_new_from_options(objects, &backends[index], options, &err),
		    &err))
		backends[index] = NULL;
}

static void set(struct hostmem_backend *backend, uint8_t detail)
{
	static const char *const values[][2] = {
		{ "prealloc", "on" },
		{ "prealloc-mode", "background" },
		{ "prealloc-mode", "wait" },
		{ "prealloc-threads", "2" },
		{ "prealloc-context", "context" },
		{ "prealloc-context", "" },
		{ "policy", "bind" },
		{ "policy", "default" },
		{ "host-nodes", "0" },
		{ "merge", "on" },
		{ "dump", "off" },
		{ "thp", "always" },
		{ "thp", "never" },
		{ "lock", "on" },
		{ "lock", "off" },
		{ "reserve", "off" },
		{ "share", "off" },
		{ "discard-data", "on" },
	};
	const char *const *value = values[detail % ARRAY_LEN(values)];

	checked(hostmem_backend_set_text(backend, value[0], value[1], &err), &err);
}

static void use_context(uint8_t detail)
{
	const char *options = "thread-context,id=context";

	if (!context) {
		if (checked(hostmem_thread_context_new_from_options(objects, &context, options,
								    &err),
			    &err))
			context = NULL;
	} else if (detail % 3 == 0) {
		checked(hostmem_thread_context_complete(context, &err), &err);
	} else if (detail % 3 == 1) {
		checked(hostmem_thread_context_delete(context, &err), &err);
	} else {
		hostmem_thread_context_free(context);
		context = NULL;
	}
}

/* What a claim is for: what was written is read until it is discarded. */
static void touch(struct hostmem_backend *backend, uint8_t detail)
{
	struct hostmem_memory memory;
	volatile uint8_t *byte;

	if (any_inaccessible)
		return;
	if (hostmem_backend_get_memory(backend, &memory, NULL) || !memory.address)
		return;
	byte = (volatile uint8_t *)memory.address + detail * 1024ul % memory.size;
	*byte = detail;
	MUST(*byte == detail);
}

static void arm(uint8_t which, uint8_t detail)
{
	size_t len = 0, errors = 0;

	while (shim_calls[len].name)
		len++;
	which = (uint8_t)(which % len);
	while (shim_calls[which].errors[errors])
		errors++;
	shim_arm(which, 1 + detail / 8 % 8, shim_calls[which].errors[detail % errors]);
}

/* The child knows the objects, has none of the memory and can give its own up. */
static void fork_and_free(void)
{
	int status;
	pid_t child;

	if (has_forked)
		return;
	has_forked = true;
	child = fork();
	MUST(child >= 0);
	if (!child) {
		signal(SIGALRM, SIG_DFL);
		alarm(20);
		for (size_t i = 0; i < BACKENDS; i++) {
			if (backends[i])
				hostmem_backend_delete(backends[i], NULL);
		}
		_exit(0);
	}
	/* libFuzzer has a timer. */
	while (waitpid(child, &status, 0) < 0)
		MUST(errno == EINTR);
	MUST(WIFEXITED(status) && !WEXITSTATUS(status));
}

/* ---- What is done to a backend ---- */

static void complete(struct hostmem_backend *backend, uint8_t detail)
{
	(void)detail;
	checked(hostmem_backend_complete(backend, &err), &err);
}

static void complete_two(struct hostmem_backend *backend, uint8_t detail)
{
	struct hostmem_backend *const both[] = { backend, backends[detail % BACKENDS] };

	if (both[1])
		checked(hostmem_backend_complete_all(both, 2, &err), &err);
}

static void claim(struct hostmem_backend *backend, uint8_t detail)
{
	(void)detail;
	checked(hostmem_backend_claim(backend, "owner", &err), &err);
}

static void release(struct hostmem_backend *backend, uint8_t detail)
{
	(void)detail;
	checked(hostmem_backend_release(backend, &err), &err);
}

static uint64_t offset_of(uint8_t detail)
{
	return detail % 16 * 4096ul;
}

static uint64_t length_of(uint8_t detail)
{
	return detail / 16 * 8192ul;
}

static void discard(struct hostmem_backend *backend, uint8_t detail)
{
	checked(hostmem_backend_discard(backend, offset_of(detail), length_of(detail), &err), &err);
}

static void populate(struct hostmem_backend *backend, uint8_t detail)
{
	checked(hostmem_backend_populate(backend, offset_of(detail), length_of(detail), &err),
		&err);
}

static void rebind(struct hostmem_backend *backend, uint8_t detail)
{
	struct hostmem_rebind_result rebound;
	const uint32_t node = 0;

	checked(hostmem_backend_rebind(backend, &rebound, detail % 2 ? "bind" : "preferred", &node,
				       1, UINT64_MAX, 0, &err),
		&err);
}

static void placement(struct hostmem_backend *backend, uint8_t detail)
{
	struct hostmem_placement now;

	(void)detail;
	checked(hostmem_backend_get_placement(backend, &now, &err), &err);
}

static void inhibit(struct hostmem_backend *backend, uint8_t detail)
{
	(void)detail;
	checked(hostmem_backend_inhibit_discard(backend, "device", &err), &err);
}

static void allow(struct hostmem_backend *backend, uint8_t detail)
{
	(void)detail;
	checked(hostmem_backend_allow_discard(backend, "device", &err), &err);
}

static void wait_or_cancel(struct hostmem_backend *backend, uint8_t detail)
{
	checked(detail % 2 ? hostmem_backend_cancel_prealloc(backend, &err)
			   : hostmem_backend_wait_prealloc(backend, detail, &err),
		&err);
}

static void delete_or_undo(struct hostmem_backend *backend, uint8_t detail)
{
	checked(detail % 2 ? hostmem_backend_delete(backend, &err)
			   : hostmem_backend_undo(backend, &err),
		&err);
}

/* Into a file of its own. */
static void save(struct hostmem_backend *backend, uint8_t detail)
{
	struct hostmem_save_result saved;
	int fd = memfd_create("saved", MFD_CLOEXEC);

	MUST(fd >= 0);
	checked(hostmem_backend_save(backend, &saved, fd, offset_of(detail), &err), &err);
	close(fd);
}

static void scrub(struct hostmem_backend *backend, uint8_t detail)
{
	checked(hostmem_backend_scrub(backend, offset_of(detail), length_of(detail), &err), &err);
}

static void protect(struct hostmem_backend *backend, uint8_t detail)
{
	any_inaccessible = true;
	checked(hostmem_backend_protect(backend, offset_of(detail), length_of(detail),
					detail % 2 ? HOSTMEM_ACCESS_NONE : HOSTMEM_ACCESS_ALL,
					&err),
		&err);
}

static void discard_to_zero(struct hostmem_backend *backend, uint8_t detail)
{
	checked(hostmem_backend_discard_to(backend, offset_of(detail), length_of(detail),
					   HOSTMEM_DISCARD_TO_ZERO, &err),
		&err);
}

static void interrupt(struct hostmem_backend *backend, uint8_t detail)
{
	(void)detail;
	hostmem_backend_interrupt(backend);
}

static void ask(struct hostmem_backend *backend, uint8_t detail)
{
	const struct hostmem_piece piece = { .offset = offset_of(detail),
					     .length = length_of(detail) };
	uint64_t done, total;
	char text[200];
	int32_t fd;

	checked(hostmem_backend_can_be_deleted(backend, &err), &err);
	checked(hostmem_backend_check_piece(backend, &piece, &piece, 1, &err), &err);
	checked(hostmem_backend_get_shared_fd(backend, &fd, &err), &err);
	checked(hostmem_backend_get_owner(backend, text, sizeof(text), &err), &err);
	checked(hostmem_backend_get_text(backend, "prealloc-context", text, sizeof(text), &err),
		&err);
	for (size_t i = 0; hostmem_backend_get_warning(backend, i, text, sizeof(text), NULL); i++)
		MUST(*text);
	hostmem_backend_get_progress(backend, &done, &total);
	MUST(hostmem_backend_get_state(backend) >= HOSTMEM_STATE_CONFIGURING);
}

static void free_it(struct hostmem_backend *backend, uint8_t detail)
{
	(void)detail;
	hostmem_backend_free(backend);
	for (size_t i = 0; i < BACKENDS; i++) {
		if (backends[i] == backend)
			backends[i] = NULL;
	}
}

/* A place in the table is what an input means: new ones go to the end. */
static void (*const deeds[])(struct hostmem_backend *backend, uint8_t detail) = {
	complete,  complete,     set,       set,     claim, release,        discard,
	populate,  rebind,       placement, inhibit, allow, wait_or_cancel, delete_or_undo,
	touch,     complete_two, free_it,   save,    scrub, protect,        discard_to_zero,
	interrupt, ask,
};

struct deed {
	void (*run)(struct hostmem_backend *backend, uint8_t detail);
	struct hostmem_backend *backend;
	uint8_t detail;
};

/* One that may be done while another is; with run NULL it is nothing. */
static struct deed take_deed(struct input *input)
{
	uint8_t what = take_byte(input), which = take_byte(input);
	struct deed deed = {
		.run = deeds[what % ARRAY_LEN(deeds)],
		.backend = backends[which % BACKENDS],
		.detail = take_byte(input),
	};

	if (!deed.backend || deed.run == touch || deed.run == free_it)
		deed.run = NULL;
	return deed;
}

static void *run_deed(void *data)
{
	const struct deed *deed = data;

	if (deed->run)
		deed->run(deed->backend, deed->detail);
	return NULL;
}

static void do_at_once(struct input *input)
{
	struct deed first = take_deed(input), second = take_deed(input);
	pthread_t thread;

	MUST(!pthread_create(&thread, NULL, run_deed, &first));
	run_deed(&second);
	MUST(!pthread_join(thread, NULL));
}

static void step(struct input *input)
{
	uint8_t what = take_byte(input), which = take_byte(input), detail = take_byte(input);

	if (what % 8 == 0)
		new_backend(which % BACKENDS, detail);
	else if (what % 32 == 1)
		use_context(detail);
	else if (what % 32 == 9)
		arm(which, detail);
	else if (what == 255)
		fork_and_free();
	else if (what == 254)
		do_at_once(input);
	else if (backends[which % BACKENDS])
		deeds[what / 8 % ARRAY_LEN(deeds)](backends[which % BACKENDS], detail);
}

static void begin(void)
{
	static const struct hostmem_defaults defaults = { .merge = true,
							  .dump = true,
							  .fd_by_number = true };

	if (!host)
		MUST(!hostmem_host_probe(&host, NULL));
	MUST(!hostmem_objects_new(&objects, host, &defaults, NULL, 0, NULL));
	user_fd = memfd_create("user", 0);
	MUST(user_fd >= 0 && !ftruncate(user_fd, SIZE));
	has_forked = false;
	any_inaccessible = false;
	shim_lend_descriptors();
}

static void end(void)
{
	struct shim_count left;
	char path[64];

	shim_disarm();
	for (size_t i = 0; i < BACKENDS; i++) {
		hostmem_backend_free(backends[i]);
		backends[i] = NULL;
	}
	hostmem_thread_context_free(context);
	context = NULL;
	hostmem_objects_free(objects);
	close(user_fd);
	snprintf(path, sizeof(path), "/dev/shm/hostmem-fuzz-%d", (int)getpid());
	unlink(path);
	MUST(shim_bystanders_are_whole());
	shim_unmap_stuck();
	shim_remove_stuck();
	shim_forget_names();
	left = shim_count();
	/* The probed host is kept. */
	MUST(!left.ranges && !left.descriptors && !left.files && !left.threads);
	MUST(left.allocations == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };

	begin();
	for (int i = 0; i < STEPS && input.size; i++)
		step(&input);
	end();
	return 0;
}

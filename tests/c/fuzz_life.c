/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Whole lives of backends, in any order, in which calls fail. Each step is three bytes: what, with
 * which backend, and a detail. In the end all is given back, and nothing of others was touched.
 */
#include "fuzz.h"

#include <errno.h>
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
static struct hostmem_error err;
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

static void complete_two(struct hostmem_backend *backend, uint8_t detail)
{
	struct hostmem_backend *const both[] = { backend, backends[detail % BACKENDS] };

	if (both[1])
		checked(hostmem_backend_complete_all(both, 2, &err), &err);
}

static void live(size_t index, uint8_t what, uint8_t detail)
{
	struct hostmem_backend *backend = backends[index];
	uint64_t offset = detail % 16 * 4096ul, length = detail / 16 * 8192ul;
	struct hostmem_rebind_result rebound;
	struct hostmem_placement placement;
	const uint32_t node = 0;

	switch (what % 17) {
	case 0:
	case 1:
		checked(hostmem_backend_complete(backend, &err), &err);
		break;
	case 2:
	case 3:
		set(backend, detail);
		break;
	case 4:
		checked(hostmem_backend_claim(backend, "owner", &err), &err);
		break;
	case 5:
		checked(hostmem_backend_release(backend, &err), &err);
		break;
	case 6:
		checked(hostmem_backend_discard(backend, offset, length, &err), &err);
		break;
	case 7:
		checked(hostmem_backend_populate(backend, offset, length, &err), &err);
		break;
	case 8:
		checked(hostmem_backend_rebind(backend, &rebound, detail % 2 ? "bind" : "preferred",
					       &node, 1, UINT64_MAX, 0, &err),
			&err);
		break;
	case 9:
		checked(hostmem_backend_get_placement(backend, &placement, &err), &err);
		break;
	case 10:
		checked(hostmem_backend_inhibit_discard(backend, "device", &err), &err);
		break;
	case 11:
		checked(hostmem_backend_allow_discard(backend, "device", &err), &err);
		break;
	case 12:
		checked(detail % 2 ? hostmem_backend_cancel_prealloc(backend, &err)
				   : hostmem_backend_wait_prealloc(backend, detail, &err),
			&err);
		break;
	case 13:
		checked(detail % 2 ? hostmem_backend_delete(backend, &err)
				   : hostmem_backend_undo(backend, &err),
			&err);
		break;
	case 14:
		touch(backend, detail);
		break;
	case 15:
		complete_two(backend, detail);
		break;
	default:
		hostmem_backend_free(backend);
		backends[index] = NULL;
		break;
	}
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
	else if (backends[which % BACKENDS])
		live(which % BACKENDS, what / 8, detail);
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

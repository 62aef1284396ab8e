/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Calls that the Rust API never makes: of another form than the property's, with room for less than
 * there is, and in the middle of completing.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hostmem.h"

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

static struct hostmem_objects *objects;
static size_t checks;

static void check(bool good, const char *what, const struct hostmem_error *err)
{
	checks++;
	if (good)
		return;
	fprintf(stderr, "PROBLEM: %s: %s\n", what, err->message);
	exit(1);
}

#define CHECK(good) check(good, #good, &err)
/* The call returns -1, with an error of that kind that has these words. */
#define FAILS(how, words, call)                                                                    \
	do {                                                                                       \
		struct hostmem_error err = { 0 };                                                  \
		CHECK((call) == -1);                                                               \
		check(err.kind == HOSTMEM_ERROR_##how, #call, &err);                               \
		check(strstr(err.message, words), words, &err);                                    \
		check(!err.os_error || strstr(err.message, strerror(err.os_error)), #call, &err);  \
	} while (0)

static struct hostmem_backend *make(const char *options)
{
	struct hostmem_error err = { 0 };
	struct hostmem_backend *backend;

	CHECK(!hostmem_backend_new_from_options(objects, &backend, options, &err));
	return backend;
}

/* ---- Another form, or another place ---- */

static void set_in_another_form(void)
{
	struct hostmem_backend *backend = make("memory-backend-ram,id=m0,size=64K");
	const uint32_t list[] = { 0 };

	FAILS(TYPE, "m0: size", hostmem_backend_set_bool(backend, "size", true, &err));
	FAILS(TYPE, "m0: size", hostmem_backend_set_list(backend, "size", list, 1, &err));
	FAILS(TYPE, "m0: size", hostmem_backend_set_fd(backend, "size", 0, &err));
	FAILS(TYPE, "m0: share", hostmem_backend_set_number(backend, "share", 1, &err));
	FAILS(TYPE, "m0: policy", hostmem_backend_set_number(backend, "policy", 1, &err));
	FAILS(TYPE, "m0: host-nodes", hostmem_backend_set_number(backend, "host-nodes", 1, &err));
	FAILS(VALUE, "m0: home-node=1024",
	      hostmem_backend_set_number(backend, "home-node", 1024, &err));
	hostmem_backend_free(backend);
}

static void read_in_another_form(void)
{
	struct hostmem_backend *backend =
		make("memory-backend-ram,id=m0,size=64K,reserve=try,policy=bind,host-nodes=0-2");
	struct hostmem_error err = { 0 };
	uint32_t list[] = { 7, 7, 7, 7 };
	enum hostmem_origin origin;
	char text[8] = "1234567";
	uint64_t number = 7;
	bool truth = false;

	FAILS(TYPE, "m0: share", hostmem_backend_get_number(backend, "share", &number, &err));
	FAILS(TYPE, "m0: policy", hostmem_backend_get_number(backend, "policy", &number, &err));
	FAILS(TYPE, "m0: size", hostmem_backend_get_bool(backend, "size", &truth, &err));
	FAILS(TYPE, "m0: reserve is 'try'",
	      hostmem_backend_get_bool(backend, "reserve", &truth, &err));
	FAILS(TYPE, "m0: size", hostmem_backend_get_list(backend, "size", list, 4, &err));
	FAILS(UNKNOWN_PROPERTY, "'x'", hostmem_backend_get_text(backend, "x", text, 8, &err));
	FAILS(UNKNOWN_PROPERTY, "'x'", hostmem_backend_get_origin(backend, "x", &origin, &err));
	CHECK(number == 7 && !truth && list[0] == 7 && !strcmp(text, "1234567"));
	/* The length is told where the buffer is too small, and nothing behind it is written. */
	CHECK(hostmem_backend_get_list(backend, "host-nodes", list, 2, &err) == 3);
	CHECK(list[0] == 0 && list[1] == 1 && list[2] == 7);
	CHECK(hostmem_backend_get_list(backend, "host-nodes", NULL, 0, &err) == 3);
	CHECK(hostmem_backend_get_text(backend, "policy", text, 3, &err) == 4);
	CHECK(!strcmp(text, "bi") && text[3] == '4');
	hostmem_backend_free(backend);
}

static void descriptors_that_are_none(void)
{
	struct hostmem_backend *backend = make("memory-backend-fd,id=m0,size=64K");

	FAILS(VALUE, "m0: fd", hostmem_backend_set_fd(backend, "fd", -1, &err));
	FAILS(VALUE, "cannot be duplicated", hostmem_backend_set_fd(backend, "fd", 1 << 20, &err));
	FAILS(VALUE, "not accepted by its number",
	      hostmem_backend_set_number(backend, "fd", 0, &err));
	hostmem_backend_free(backend);
}

static int allocate_plain(void *data, const struct hostmem_backend *backend,
			  struct hostmem_backing *backing, struct hostmem_error *err)
{
	(void)data, (void)backend, (void)err;
	backing->fd = memfd_create("plain", 0);
	return ftruncate(backing->fd, 65536);
}

static const struct hostmem_kind plain = {
	.name = "plain",
	.description = "A descriptor that stays open when a program is executed.",
	.allocate = allocate_plain,
};

/* In a process without standard input the next descriptor has number 0. */
static void with_descriptor_0(const char *options, int fd)
{
	struct hostmem_backend *backend = make(options);
	struct hostmem_error err = { 0 };
	struct hostmem_memory memory;
	int seals;

	if (fd >= 0)
		CHECK(!hostmem_backend_set_fd(backend, "fd", fd, &err));
	close(0);
	CHECK(!hostmem_backend_complete(backend, &err));
	CHECK(!hostmem_backend_get_memory(backend, &memory, &err));
	/* What is found by its path is looked at by that number first. */
	check(memory.fd == 0 || strstr(options, "file"), options, &err);
	CHECK(fcntl(memory.fd, F_GETFD) == FD_CLOEXEC);
	seals = fcntl(memory.fd, F_GET_SEALS);
	if (strstr(options, "memfd"))
		CHECK((seals & 7) == (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	memset(memory.address, 1, memory.size);
	CHECK(!hostmem_backend_discard(backend, 0, memory.size, &err) && !*(char *)memory.address);
	memset(memory.address, 1, memory.size);
	hostmem_backend_free(backend);
	CHECK(fcntl(0, F_GETFD) < 0);
	/* For what follows. */
	CHECK(open("/dev/null", O_RDONLY | O_CLOEXEC) == 0);
}

static void check_zero(const char *path)
{
	struct hostmem_error err = { 0 };
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char byte = 1;

	CHECK(fd >= 0 && read(fd, &byte, 1) == 1 && !byte);
	close(fd);
}

static void the_lowest_descriptor(void)
{
	int fd = memfd_create("file", MFD_CLOEXEC), kept = dup(0);
	static const char path[] = "c_api.directory";
	char options[128];
	struct hostmem_error err = { 0 };
	struct hostmem_backend *backend;
	char text[16];

	CHECK(!ftruncate(fd, 65536));
	CHECK(!hostmem_objects_register_kind(objects, &plain, &err));
	backend = make("memory-backend-fd,id=m0,size=64K");
	close(0);
	CHECK(!hostmem_backend_set_fd(backend, "fd", fd, &err));
	CHECK(hostmem_backend_get_text(backend, "fd", text, sizeof(text), &err) == 1);
	CHECK(!strcmp(text, "0"));
	hostmem_backend_free(backend);
	CHECK(open("/dev/null", O_RDONLY | O_CLOEXEC) == 0);
	with_descriptor_0("memory-backend-fd,id=m0,size=64K", fd);
	with_descriptor_0("plain,id=m0,size=64K,share=on", -1);
	with_descriptor_0("memory-backend-memfd,id=m0,size=64K", -1);
	with_descriptor_0("memory-backend-ram,id=m0,size=64K,share=on", -1);
	with_descriptor_0("memory-backend-shm,id=m0,size=64K", -1);
	with_descriptor_0("memory-backend-file,id=m0,size=64K,share=on,mem-path=.", -1);
	CHECK(!mkdir(path, 0700));
	snprintf(options, sizeof(options),
		 "memory-backend-file,id=m0,size=64K,share=on,discard-data=on,mem-path=%s/new",
		 path);
	with_descriptor_0(options, -1);
	check_zero(strstr(options, path));
	/* Now it is there. */
	with_descriptor_0(options, -1);
	CHECK(!unlink(strstr(options, path)) && !rmdir(path));
	close(fd);
	if (kept >= 0) {
		CHECK(dup2(kept, 0) == 0);
		close(kept);
	}
}

static void thread_contexts(void)
{
	struct hostmem_error err = { 0 };
	struct hostmem_thread_context *context;
	const uint32_t list[] = { 0 };
	uint64_t number = 7;
	uint32_t ids[] = { 7 };
	char text[8];

	CHECK(!hostmem_thread_context_new_from_options(
		objects, &context, "thread-context,id=t0,cpu-affinity=0", &err));
	FAILS(TYPE, "t0: cpu-affinity",
	      hostmem_thread_context_get_number(context, "cpu-affinity", &number, &err));
	FAILS(TYPE, "t0: thread-id",
	      hostmem_thread_context_get_list(context, "thread-id", ids, 1, &err));
	FAILS(STATE, "can only be set, not read",
	      hostmem_thread_context_get_text(context, "node-affinity", text, 8, &err));
	FAILS(STATE, "can only be read",
	      hostmem_thread_context_set_list(context, "thread-id", list, 1, &err));
	FAILS(VALUE, "t0: cpu-affinity",
	      hostmem_thread_context_set_text(context, "cpu-affinity", "x", &err));
	CHECK(number == 7 && ids[0] == 7);
	CHECK(hostmem_thread_context_get_list(context, "cpu-affinity", ids, 1, &err) == 1);
	CHECK(ids[0] == 0);
	hostmem_thread_context_free(context);
}

/* ---- In the middle of completing ---- */

static struct hostmem_backend *completing;

static int allocate(void *data, const struct hostmem_backend *backend,
		    struct hostmem_backing *backing, struct hostmem_error *unused)
{
	struct hostmem_rebind_result rebound;
	struct hostmem_error err = { 0 };

	(void)data, (void)backing, (void)unused;
	CHECK(hostmem_backend_get_state(backend) == HOSTMEM_STATE_COMPLETING);
	FAILS(STATE, "dump cannot be set while it is completing; wait until it is complete",
	      hostmem_backend_set_text(completing, "dump", "off", &err));
	FAILS(BUSY, "completing already", hostmem_backend_complete(completing, &err));
	FAILS(STATE, "completing",
	      hostmem_backend_rebind(completing, &rebound, "default", NULL, 0, UINT64_MAX, 0,
				     &err));
	return 0;
}

static const struct hostmem_kind embedder = {
	.name = "embedder",
	.description = "Calls the backend that is being made.",
	.allocate = allocate,
};

static void while_completing(void)
{
	struct hostmem_rebind_result rebound;
	struct hostmem_error err = { 0 };

	CHECK(!hostmem_objects_register_kind(objects, &embedder, &err));
	completing = make("embedder,id=m0,size=64K");
	CHECK(!hostmem_backend_complete(completing, &err));
	FAILS(STATE, "size cannot be set while it is ready; set it before completing",
	      hostmem_backend_set_text(completing, "size", "1M", &err));
	CHECK(!hostmem_backend_set_text(completing, "dump", "off", &err));
	memset(&rebound, 0xff, sizeof(rebound));
	CHECK(!hostmem_backend_rebind(completing, &rebound, "default", NULL, 0, UINT64_MAX, 0,
				      &err));
	CHECK(!rebound.moved && !rebound.not_moved && !rebound.cause);
	FAILS(VALUE, "rebind: flags 0x80",
	      hostmem_backend_rebind(completing, NULL, "default", NULL, 0, UINT64_MAX, 0x80, &err));
	hostmem_backend_free(completing);
}

static const struct hostmem_kind nothing = {
	.name = "nothing",
	.description = "Has no memory.",
};

static void without_memory(void)
{
	static struct hostmem_placement placement;
	static const char *const properties[] = { "prealloc", "lock", "merge", "dump" };
	struct hostmem_error err = { 0 };
	struct hostmem_backend *backend;
	struct hostmem_pool *pool;

	CHECK(!hostmem_objects_register_kind(objects, &nothing, &err));
	backend = make("nothing,id=m0,size=64K");
	CHECK(!hostmem_backend_complete(backend, &err));
	memset(&placement, 0xff, sizeof(placement));
	CHECK(!hostmem_backend_get_placement(backend, &placement, &err));
	CHECK(!placement.resident && !placement.absent && !placement.swapped && !placement.huge &&
	      !placement.unmapped && !placement.outside && !placement.nodes[1] &&
	      !placement.policy_changed && !*placement.policy);
	/* There is nothing to do it to. */
	for (size_t i = 0; i < ARRAY_LEN(properties); i++)
		CHECK(!hostmem_backend_set_text(backend, properties[i], "on", &err));
	hostmem_backend_free(backend);
	FAILS(VALUE, "nothing: pool: a nothing has no memory to keep ready",
	      hostmem_pool_new_from_options(objects, &pool, "nothing,size=64K", 1, &err));
}

/* ---- Objects that are not what a call needs ---- */

static void templates(void)
{
	struct hostmem_backend *backend = make("memory-backend-ram,id=m0,size=64K");
	struct hostmem_error err = { 0 };
	struct hostmem_thread_context *context;
	struct hostmem_pool *pool = NULL;

	CHECK(!hostmem_backend_complete(backend, &err));
	FAILS(STATE, "m0: pool: the template is ready", hostmem_pool_new(&pool, backend, 1, &err));
	FAILS(STATE, "can only be set before", hostmem_backend_set_label(backend, "a", &err));
	hostmem_backend_free(backend);
	FAILS(VALUE, "the kind is missing",
	      hostmem_pool_new_from_options(objects, &pool, "size=64K", 1, &err));
	FAILS(VALUE, "the kind is missing",
	      hostmem_thread_context_new_from_options(objects, &context, "id=t0", &err));
	FAILS(VALUE, "does not exist", hostmem_pool_new_from_options(objects, &pool, "x", 1, &err));
	CHECK(!pool);
}

static void nothing_to_free(void)
{
	struct hostmem_error err = { 0 };
	struct hostmem_topology *topology;
	uint32_t cpu = 7;

	hostmem_backend_free(NULL);
	hostmem_thread_context_free(NULL);
	hostmem_pool_free(NULL);
	hostmem_objects_free(NULL);
	hostmem_host_free(NULL);
	hostmem_topology_free(NULL);
	CHECK(!hostmem_topology_read(&topology, &err));
	CHECK(!hostmem_topology_get_cpus(topology, 1000, &cpu, 1) && cpu == 7);
	hostmem_topology_free(topology);
}

/* The memory cannot be saved to it, also where nobody wants to know why. */
static void errors_for_nobody(void)
{
	struct hostmem_backend *backend = make("memory-backend-ram,id=m0,size=64K");
	int fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct hostmem_save_result saved;
	struct hostmem_error err = { 0 };
	struct hostmem_memory memory;

	CHECK(fd >= 0 && !ftruncate(fd, 65536) && !fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
	CHECK(!hostmem_backend_complete(backend, &err));
	CHECK(!hostmem_backend_get_memory(backend, &memory, &err));
	memset(memory.address, 1, memory.size);
	FAILS(IO, "the image is incomplete", hostmem_backend_save(backend, &saved, fd, 0, &err));
	CHECK(hostmem_backend_save(backend, &saved, fd, 0, NULL) == -1);
	hostmem_backend_free(backend);
	close(fd);
}

/* ---- All of it ---- */

int main(void)
{
	static const struct hostmem_defaults defaults;
	struct hostmem_error err = { 0 };
	struct hostmem_host *host;

	CHECK(!hostmem_host_probe(&host, &err));
	CHECK(!hostmem_objects_new(&objects, host, &defaults, NULL, 0, &err));
	set_in_another_form();
	read_in_another_form();
	descriptors_that_are_none();
	the_lowest_descriptor();
	thread_contexts();
	while_completing();
	without_memory();
	templates();
	nothing_to_free();
	errors_for_nobody();
	hostmem_objects_free(objects);
	hostmem_host_free(host);
	printf("%zu checks\n", checks);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Calls that the Rust API never makes: of another form than the property's, with room for less than
 * there is, in the middle of completing, before it, and without an error to write; and what only a
 * whole process can have: threads that cannot be created, huge pages that are disabled.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hostmem.h"
#include "shim.h"

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

/* The nth call of that name from here on fails; returns its index. */
static size_t arm(const char *name, uint64_t nth, int error)
{
	size_t call = 0;

	while (strcmp(shim_calls[call].name, name) != 0)
		call++;
	shim_arm(call, nth, error);
	return call;
}

static int make_memfd(const char *name, unsigned int flags, size_t size)
{
	struct hostmem_error err = { 0 };
	int fd = memfd_create(name, MFD_CLOEXEC | flags);

	CHECK(fd >= 0 && !ftruncate(fd, (off_t)size));
	return fd;
}

/* One whose fd is given by its number. */
static struct hostmem_backend *make_of_fd(const char *options, int fd)
{
	struct hostmem_backend *backend = make(options);
	struct hostmem_error err = { 0 };

	CHECK(!hostmem_backend_set_fd(backend, "fd", fd, &err));
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

/* There is no memory yet. */
static void before_completing(void)
{
	struct hostmem_backend *backend = make("memory-backend-ram,id=m0,size=64K");
	const struct hostmem_piece piece = { .length = 65536, .guest_address = UINT64_MAX };
	struct hostmem_error err = { .kind = HOSTMEM_ERROR_IO };
	struct hostmem_range range;
	int32_t fd = 7;

	FAILS(STATE, "m0: ", hostmem_backend_get_shared_fd(backend, &fd, &err));
	FAILS(STATE, "m0: ", hostmem_backend_check_piece(backend, &piece, NULL, 0, &err));
	FAILS(STATE, "m0: ", hostmem_backend_protect(backend, 0, 65536, HOSTMEM_ACCESS_NONE, &err));
	FAILS(STATE, "m0: ", hostmem_backend_retry_contents(backend, &err));
	CHECK(!hostmem_backend_get_unread(backend, &err) && !err.kind && fd == 7);
	CHECK(!hostmem_backend_get_faulted(backend, &range, 1));
	hostmem_backend_free(backend);
}

static const struct hostmem_kind nothing = {
	.name = "nothing",
	.description = "Has no memory.",
};

static void without_memory(void)
{
	static struct hostmem_placement placement;
	static const char *const properties[] = { "prealloc", "lock", "merge", "dump" };
	struct hostmem_save_result saved = { .written = 7, .holes = 7 };
	struct hostmem_error err = { 0 };
	struct hostmem_backend *backend;
	struct hostmem_pool *pool;
	int fd = make_memfd("saved", 0, 0);

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
	CHECK(!hostmem_backend_save(backend, &saved, fd, 0, &err));
	CHECK(!saved.written && !saved.holes && !lseek(fd, 0, SEEK_END));
	close(fd);
	hostmem_backend_free(backend);
	backend = make("nothing,id=m0,size=64K,prealloc=on");
	CHECK(!hostmem_backend_complete(backend, &err));
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
	FAILS(VALUE, "the kind is missing",
	      hostmem_thread_context_new_from_options(objects, &context, "id=t0,qom-type", &err));
	FAILS(VALUE, "id has no value",
	      hostmem_thread_context_new_from_options(objects, &context, "thread-context,id",
						      &err));
	FAILS(VALUE, "does not exist", hostmem_pool_new_from_options(objects, &pool, "x", 1, &err));
	FAILS(VALUE, "a template has no id",
	      hostmem_pool_new_from_options(objects, &pool, "memory-backend-ram,size=64K,id", 1,
					    &err));
	/* Of the default size, also where the host has none of these pages. */
	FAILS(VALUE, "huge pages",
	      hostmem_pool_new_from_options(
		      objects, &pool, "memory-backend-memfd,size=1G,hugetlb=on", 4000000000, &err));
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
	CHECK(hostmem_topology_get_distance(topology, 0, 0));
	CHECK(!hostmem_topology_get_distance(topology, 1000, 0));
	CHECK(!hostmem_topology_get_distance(topology, 0, 1000));
	CHECK(!hostmem_topology_get_huge_pages(topology, 1000, 0));
	hostmem_topology_free(topology);
}

/* Each cause has a warning of its own about a property, and goes by itself. */
static void two_warnings_of_a_property(void)
{
	struct hostmem_backend *backend = make("memory-backend-ram,id=m0,size=64K,share=on,merge");
	struct hostmem_error err = { 0 };
	char text[256];

	CHECK(!hostmem_backend_complete(backend, &err));
	CHECK(hostmem_backend_get_warning(backend, 1, text, sizeof(text), &err) > 0);
	CHECK(!hostmem_backend_set_text(backend, "merge", "off", &err));
	CHECK(hostmem_backend_get_warning(backend, 0, text, sizeof(text), &err) > 0);
	CHECK(strstr(text, "deprecated"));
	CHECK(!hostmem_backend_get_warning(backend, 1, text, sizeof(text), &err));
	hostmem_backend_free(backend);
}

/* ---- Pools that have nothing ready ---- */

/* Takes while nothing is ready, with a call that fails; the thread that refills may be first. */
static void take_without_descriptors(struct hostmem_pool *pool)
{
	struct hostmem_error err = { 0 };
	struct hostmem_backend *taken;
	bool ready;

	for (int i = 0; i < 10 && !strstr(err.message, "cannot be duplicated"); i++) {
		arm("fcntl", 1, EMFILE);
		CHECK(hostmem_pool_take(pool, &taken, &ready, "taken", &err) == -1);
		shim_disarm();
	}
	CHECK(strstr(err.message, "cannot be duplicated") && err.os_error == EMFILE);
}

/* The descriptor is too short, which shows when a backend is completed. */
static void pools(void)
{
	struct hostmem_backend *other = make("memory-backend-ram,id=m0,size=64K"), *taken;
	int fd = make_memfd("short", 0, 4096);
	struct hostmem_backend *template =
		make_of_fd("memory-backend-fd,id=template,size=64K,share=off", fd);
	struct hostmem_error err = { 0 };
	struct hostmem_pool *pool;
	bool ready;

	CHECK(!hostmem_pool_new(&pool, template, 1, &err));
	take_without_descriptors(pool);
	FAILS(VALUE, "m0", hostmem_pool_take(pool, &taken, &ready, "m0", &err));
	FAILS(VALUE, "does not fit", hostmem_pool_take(pool, &taken, &ready, "m1", &err));
	FAILS(VALUE, "id", hostmem_pool_withdraw(pool, &taken, "m 1", &err));
	FAILS(BUSY, "none is ready", hostmem_pool_withdraw(pool, &taken, "m1", &err));
	hostmem_pool_free(pool);
	hostmem_backend_free(template);
	hostmem_backend_free(other);
	close(fd);
}

/* ---- Saving ---- */

static void save_fails(struct hostmem_backend *backend, int fd)
{
	struct hostmem_save_result saved;

	FAILS(IO, "the image is incomplete", hostmem_backend_save(backend, &saved, fd, 0, &err));
}

/* What has data, and what would have to be zero where no hole can be made. */
static void save_to_what_is_sealed(const char *options, size_t size)
{
	int fd = make_memfd("sealed", MFD_ALLOW_SEALING, size);
	struct hostmem_backend *backend = make(options);
	struct hostmem_error err = { 0 };
	struct hostmem_save_result saved;
	struct hostmem_memory memory;

	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
	CHECK(!hostmem_backend_complete(backend, &err));
	CHECK(!hostmem_backend_get_memory(backend, &memory, &err));
	save_fails(backend, fd);
	/* Something, zeros and something. */
	memset(memory.address, 0, 65536);
	memset(memory.address, 1, 4096);
	memset((char *)memory.address + 32768, 1, 4096);
	save_fails(backend, fd);
	/* Also where nobody wants to know why. */
	CHECK(hostmem_backend_save(backend, &saved, fd, 0, NULL) == -1);
	hostmem_backend_free(backend);
	close(fd);
}

/* Another process has made the file shorter: what was behind its end is lost. */
static void save_what_was_cut(size_t left)
{
	int file = make_memfd("file", 0, 131072), fd = make_memfd("image", 0, 0);
	struct hostmem_backend *backend = make_of_fd("memory-backend-fd,id=m0,size=128K", file);
	struct hostmem_error err = { 0 };
	struct hostmem_memory memory;

	CHECK(!hostmem_backend_complete(backend, &err));
	CHECK(!hostmem_backend_get_memory(backend, &memory, &err));
	memset(memory.address, 1, memory.size);
	CHECK(!ftruncate(file, (off_t)left));
	save_fails(backend, fd);
	hostmem_backend_free(backend);
	close(file);
	close(fd);
}

static void saving(void)
{
	struct hostmem_backend *backend = make("memory-backend-ram,id=m0,size=64K");
	struct hostmem_error err = { 0 };
	struct hostmem_save_result saved;
	int fd = make_memfd("image", 0, 0);

	CHECK(!hostmem_backend_complete(backend, &err));
	FAILS(VALUE, "more than a file holds",
	      hostmem_backend_save(backend, &saved, fd, (uint64_t)INT64_MAX - 4095, &err));
	CHECK(!lseek(fd, 0, SEEK_END));
	hostmem_backend_free(backend);
	close(fd);
	save_to_what_is_sealed("memory-backend-ram,id=m0,size=1M", 1 << 20);
	save_to_what_is_sealed("memory-backend-memfd,id=m0,size=1M", 1 << 20);
	save_what_was_cut(0);
	save_what_was_cut(65536);
}

/* ---- Errors for nobody ---- */

static void write_file(const char *path, const char *text, size_t size)
{
	struct hostmem_error err = { 0 };
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0 && write(fd, text, size) == (ssize_t)size);
	close(fd);
}

/* What completing made stays, and nobody asks why; with an error it says so. */
static void files_that_stay(void)
{
	static const char options[] = "memory-backend-file,id=m0,share=on,size=64K,prealloc=on,"
				      "mem-path=c_api.new,contents=c_api.image,"
				      "contents-order=c_api.order";
	struct hostmem_error err = { 0 };

	write_file("c_api.image", "image", 5);
	write_file("c_api.order", "x\n", 2);
	for (int asked = 0; asked < 2; asked++) {
		struct hostmem_backend *backend = make(options);

		arm("unlink", 1, EROFS);
		CHECK(hostmem_backend_complete(backend, asked ? &err : NULL) == -1);
		CHECK(shim_disarm() && !access("c_api.new", F_OK));
		shim_remove_stuck();
		unlink("c_api.new");
		hostmem_backend_free(backend);
	}
	CHECK(strstr(err.message, "c_api.order: line 1") &&
	      strstr(err.message, "the file that was made stays"));
	CHECK(!unlink("c_api.image") && !unlink("c_api.order"));
}

static void errors_for_nobody(void)
{
	struct hostmem_pool *pool = NULL;
	struct hostmem_error err = { 0 };

	CHECK(hostmem_pool_new_from_options(objects, &pool, "memory-backend-ram,size=100", 1,
					    NULL) == -1 &&
	      !pool);
	files_that_stay();
}

/* ---- The background ---- */

/* Of two the second cannot begin: neither does the first. */
static void two_in_the_background(void)
{
	struct hostmem_backend *backends[] = {
		make("memory-backend-ram,id=m0,size=64K,prealloc=on,prealloc-mode=background"),
		make("memory-backend-ram,id=m1,size=64K,prealloc=on,prealloc-mode=background"),
	};
	struct hostmem_error err = { 0 };

	arm("eventfd", 2, EMFILE);
	FAILS(NO_MEMORY, "m1: prealloc-mode=background: cannot make an eventfd",
	      hostmem_backend_complete_all(backends, 2, &err));
	CHECK(shim_disarm());
	for (size_t i = 0; i < 2; i++)
		CHECK(hostmem_backend_get_state(backends[i]) == HOSTMEM_STATE_CONFIGURING);
	CHECK(hostmem_backend_get_prealloc_event(backends[0]) == -1);
	CHECK(!hostmem_backend_complete_all(backends, 2, &err));
	for (size_t i = 0; i < 2; i++) {
		CHECK(!hostmem_backend_wait_prealloc(backends[i], UINT64_MAX, &err));
		hostmem_backend_free(backends[i]);
	}
}

/* It fails, cannot begin again, and then succeeds: event loops keep the descriptor. */
static void again_in_the_background(void)
{
	int fd = make_memfd("file", 0, 65536), event;
	struct hostmem_backend *backend =
		make_of_fd("memory-backend-fd,id=m0,size=64K,prealloc-mode=background", fd);
	struct hostmem_error err = { 0 };
	bool on = true;

	CHECK(!hostmem_backend_complete(backend, &err) && !ftruncate(fd, 0));
	CHECK(!hostmem_backend_set_text(backend, "prealloc", "on", &err));
	CHECK(hostmem_backend_wait_prealloc(backend, UINT64_MAX, NULL) == -1);
	FAILS(NO_MEMORY, "m0: prealloc", hostmem_backend_wait_prealloc(backend, UINT64_MAX, &err));
	event = hostmem_backend_get_prealloc_event(backend);
	CHECK(event >= 0 && !ftruncate(fd, 65536));
	arm("pthread_create", 1, EAGAIN);
	FAILS(NO_MEMORY, "cannot create a thread",
	      hostmem_backend_set_text(backend, "prealloc", "on", &err));
	CHECK(shim_disarm() && hostmem_backend_get_prealloc_event(backend) == event);
	CHECK(fcntl(event, F_GETFD) == FD_CLOEXEC);
	CHECK(!hostmem_backend_get_bool(backend, "prealloc", &on, &err) && !on);
	CHECK(!hostmem_backend_set_text(backend, "prealloc", "on", &err));
	CHECK(!hostmem_backend_wait_prealloc(backend, UINT64_MAX, &err));
	CHECK(hostmem_backend_get_prealloc_event(backend) == event);
	hostmem_backend_free(backend);
	close(fd);
}

/* Neither the context's thread nor the caller's can create one: the caller does the work. */
static void without_threads_of_a_context(void)
{
	struct hostmem_thread_context *context;
	struct hostmem_prealloc_result result;
	struct hostmem_error err = { 0 };
	struct hostmem_backend *backend;

	CHECK(!hostmem_thread_context_new_from_options(objects, &context, "thread-context,id=t0",
						       &err));
	CHECK(!hostmem_thread_context_complete(context, &err));
	backend = make("memory-backend-ram,id=m0,size=64K,prealloc=on,prealloc-context=t0");
	arm("pthread_create", 1, EAGAIN);
	CHECK(!hostmem_backend_complete(backend, &err));
	CHECK(shim_disarm());
	hostmem_backend_get_prealloc_result(backend, &result);
	CHECK(result.threads == 1 && result.affinity_error == EAGAIN && result.bytes == 65536);
	hostmem_backend_free(backend);
	hostmem_thread_context_free(context);
}

/* ---- Contents that are read on demand ---- */

static void *touch(void *data)
{
	return (void *)(uintptr_t) * (volatile unsigned char *)data;
}

static void count_call(void *data, const struct hostmem_error *err)
{
	(void)err;
	++*(_Atomic int *)data;
}

static void write_image(size_t size)
{
	static char image[131072];

	memset(image, 'i', sizeof(image));
	write_file("c_api.image", image, size);
}

/* NULL where the kernel does not supply pages for itself. */
static struct hostmem_backend *make_lazy(const char *options)
{
	struct hostmem_error err = { 0 };
	struct hostmem_backend *backend;

	write_image(131072);
	backend = make(options);
	if (!hostmem_backend_complete(backend, &err))
		return backend;
	check(err.kind == HOSTMEM_ERROR_UNSUPPORTED, options, &err);
	printf("skipped: %s\n", err.message);
	hostmem_backend_free(backend);
	return NULL;
}

/* A thread waits for the byte, which cannot be read until the image is whole again. */
static pthread_t wait_for(void *byte, size_t image_size)
{
	struct hostmem_error err = { 0 };
	pthread_t thread;

	write_image(image_size);
	CHECK(!pthread_create(&thread, NULL, touch, byte));
	return thread;
}

static void let_go_on(struct hostmem_backend *backend, pthread_t thread)
{
	struct hostmem_error err = { 0 };
	void *byte;

	FAILS(IO, "cannot read", hostmem_backend_wait_prealloc(backend, 0, &err));
	write_image(131072);
	CHECK(!hostmem_backend_retry_contents(backend, &err));
	CHECK(!pthread_join(thread, &byte) && (uintptr_t)byte == 'i');
	CHECK(!hostmem_backend_wait_prealloc(backend, 0, &err));
}

/* Without a thread to report a failed read it is kept all the same, and the next is reported. */
static void without_a_thread_that_reports(void)
{
	static const char options[] =
		"memory-backend-ram,id=m0,size=128K,thp=never,contents=c_api.image";
	struct hostmem_backend *backend = make_lazy(options);
	struct hostmem_error err = { 0 };
	struct hostmem_memory memory;
	pthread_t thread;
	size_t creating;
	_Atomic int calls = 0;

	if (!backend)
		return;
	hostmem_backend_set_prealloc_done(backend, count_call, &calls);
	CHECK(!hostmem_backend_get_memory(backend, &memory, &err));
	creating = arm("pthread_create", 1, EAGAIN);
	thread = wait_for(memory.address, 0);
	while (!shim_count_armed(creating))
		usleep(1000);
	CHECK(shim_disarm());
	let_go_on(backend, thread);
	CHECK(!calls);
	thread = wait_for((char *)memory.address + 65536, 65536);
	while (!calls)
		usleep(1000);
	let_go_on(backend, thread);
	CHECK(calls == 1);
	hostmem_backend_free(backend);
}

/* ---- Memory that is lost ---- */

static void use_what_is_lost(struct hostmem_backend *backend)
{
	static struct hostmem_placement placement;
	struct hostmem_rebind_result rebound;
	struct hostmem_save_result saved;
	int fd = make_memfd("saved", 0, 0);

	FAILS(STATE, "is lost", hostmem_backend_discard(backend, 0, 4096, &err));
	FAILS(STATE, "is lost", hostmem_backend_populate(backend, 0, 131072, &err));
	FAILS(STATE, "is lost", hostmem_backend_scrub(backend, 65536, 65536, &err));
	FAILS(STATE, "is lost",
	      hostmem_backend_protect(backend, 65536, 4096, HOSTMEM_ACCESS_NONE, &err));
	FAILS(STATE, "is lost", hostmem_backend_set_text(backend, "dump", "off", &err));
	FAILS(STATE, "is lost", hostmem_backend_set_text(backend, "prealloc", "on", &err));
	FAILS(STATE, "is lost",
	      hostmem_backend_rebind(backend, &rebound, "default", NULL, 0, UINT64_MAX, 0, &err));
	FAILS(STATE, "is lost", hostmem_backend_save(backend, &saved, fd, 0, &err));
	FAILS(STATE, "is lost", hostmem_backend_get_placement(backend, &placement, &err));
	close(fd);
}

/*
 * Replacing it fails twice, the second time in that call: another thread may map something there,
 * which has to stay as it is.
 */
static void lose_memory(const char *second, int error)
{
	int fd = make_memfd("file", 0, 131072);
	struct hostmem_backend *backend =
		make_of_fd("memory-backend-fd,id=m0,size=128K,share=off", fd);
	struct hostmem_error err = { 0 };
	struct hostmem_memory memory;
	size_t call = 0;
	unsigned char there;
	char *other;

	CHECK(!hostmem_backend_complete(backend, &err));
	CHECK(!hostmem_backend_get_memory(backend, &memory, &err));
	while (strcmp(shim_calls[call].name, second) != 0)
		call++;
	shim_arm_second(call, 1, error);
	arm("mremap", 1, ENOMEM);
	FAILS(IO, "is lost: delete the backend",
	      hostmem_backend_discard_to(backend, 65536, 65536, HOSTMEM_DISCARD_TO_ZERO, &err));
	CHECK(shim_disarm() && shim_second_failed() && shim_bystanders_are_whole());
	other = mmap((char *)memory.address + 65536, 65536, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	CHECK(other == (char *)memory.address + 65536);
	*other = 7;
	use_what_is_lost(backend);
	hostmem_backend_free(backend);
	CHECK(mincore(memory.address, 4096, &there) && errno == ENOMEM && *other == 7);
	CHECK(!munmap(other, 65536));
	close(fd);
}

/* ---- A process without transparent huge pages ---- */

/* Memory that takes the place of some that was to be huge is no reason to ask for more. */
static void replace_without_huge_pages(void)
{
	int fd = make_memfd("file", 0, 65536);
	struct hostmem_backend *backend =
		make_of_fd("memory-backend-fd,id=m0,size=64K,share=off,thp=always", fd);
	struct hostmem_error err = { 0 };
	struct hostmem_memory memory;

	if (hostmem_backend_complete(backend, &err)) {
		check(err.kind == HOSTMEM_ERROR_UNSUPPORTED, "thp=always", &err);
		printf("skipped: %s\n", err.message);
		hostmem_backend_free(backend);
		close(fd);
		return;
	}
	CHECK(!hostmem_backend_get_memory(backend, &memory, &err));
	memset(memory.address, 1, memory.size);
	CHECK(!prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	CHECK(!hostmem_backend_discard_to(backend, 0, memory.size, HOSTMEM_DISCARD_TO_ZERO, &err));
	CHECK(!*(char *)memory.address);
	FAILS(UNSUPPORTED, "PR_SET_THP_DISABLE",
	      hostmem_backend_set_text(backend, "thp", "always", &err));
	CHECK(!prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0));
	hostmem_backend_free(backend);
	close(fd);
}

/* Of memory that stays in small pages until it is read. */
static void ask_for_huge_pages_later(void)
{
	static const char options[] = "memory-backend-memfd,id=m0,size=128K,contents=c_api.image";
	struct hostmem_backend *backend = make_lazy(options);
	struct hostmem_error err = { 0 };
	struct hostmem_memory memory;
	char text[256];

	if (!backend)
		return;
	CHECK(!prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	FAILS(UNSUPPORTED, "PR_SET_THP_DISABLE",
	      hostmem_backend_set_text(backend, "thp", "always", &err));
	CHECK(!prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0));
	CHECK(!hostmem_backend_set_text(backend, "thp", "always", &err));
	CHECK(!hostmem_backend_get_memory(backend, &memory, &err));
	CHECK(*(char *)memory.address == 'i');
	/* What was asked for in time is advised all the same. */
	CHECK(!prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	CHECK(!hostmem_backend_populate(backend, 0, memory.size, &err));
	CHECK(!prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0));
	CHECK(!hostmem_backend_get_unread(backend, NULL));
	CHECK(!hostmem_backend_get_warning(backend, 0, text, sizeof(text), &err));
	hostmem_backend_free(backend);
}

/* ---- Hints that would mislead ---- */

/* The mapping fails, which is the second call: the first reserves address space. */
static void no_hint(const char *options, unsigned int flags, size_t size, int error,
		    const char *hint, bool hinted)
{
	int fd = make_memfd("file", flags, size);
	struct hostmem_backend *backend = make_of_fd(options, fd);
	struct hostmem_error err = { 0 };

	arm("mmap", 2, error);
	check(hostmem_backend_complete(backend, &err) == -1 && shim_disarm(), options, &err);
	check(!strstr(err.message, hint) == !hinted, options, &err);
	hostmem_backend_free(backend);
	close(fd);
	shim_bystanders_are_whole();
}

static void hints(void)
{
	static const char rom[] = "with share=on, reading the file takes no pages";

	no_hint("memory-backend-fd,id=m0,size=64K", 0, 65536, EOPNOTSUPP, "pmem", false);
	no_hint("memory-backend-fd,id=m0,size=2M,readonly=on,reserve=off", MFD_HUGETLB, 2 << 20,
		ENOMEM, rom, false);
	no_hint("memory-backend-fd,id=m0,size=2M,readonly=on,reserve=off,share=off", MFD_HUGETLB,
		2 << 20, ENOMEM, rom, true);
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
	before_completing();
	while_completing();
	without_memory();
	templates();
	nothing_to_free();
	two_warnings_of_a_property();
	pools();
	saving();
	errors_for_nobody();
	two_in_the_background();
	again_in_the_background();
	without_threads_of_a_context();
	without_a_thread_that_reports();
	lose_memory("mmap", ENOMEM);
	lose_memory("madvise", ENOMEM);
	replace_without_huge_pages();
	ask_for_huge_pages_later();
	unlink("c_api.image");
	hints();
	hostmem_objects_free(objects);
	hostmem_host_free(host);
	printf("%zu checks\n", checks);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Forked children, while another thread is in the middle of a call and holds a lock: there each
 * function ends at once with what hostmem.h says of it. That thread writes to, or reads from, a
 * page that is supplied by userfaultfd(2) only when the child is over.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hostmem.h"

#define SIZE UINT64_C(0x200000)

static struct hostmem_objects *objects;
/* One that is mapped, one that is configuring. */
static struct hostmem_backend *mapped, *configuring;
static struct hostmem_thread_context *context;
static struct hostmem_pool *pool;
static long page;
static int fault_fd;

/* A process writes what it has run, which coverage counts, only where it exits otherwise. */
static _Noreturn void leave(int status)
{
#ifdef FORKED_FOR_COVERAGE
	extern void __gcov_dump(void);

	__gcov_dump();
#endif
	_exit(status);
}

static void check(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "PROBLEM: %s\n", what);
	leave(1);
}

#define CHECK(good) check(good, #good)
/* The call fails with an error of that kind. */
#define FAILS(how, ...)                                                                            \
	do {                                                                                       \
		struct hostmem_error err = { 0 };                                                  \
		check((__VA_ARGS__) < 0 && err.kind == HOSTMEM_ERROR_##how, #__VA_ARGS__);         \
	} while (0)

/* ---- What a child does ---- */

static void change_memory_of_the_parent(void)
{
	static const uint32_t nodes[] = { 0 };
	struct hostmem_save_result saved;
	struct hostmem_rebind_result rebound;
	struct hostmem_placement *placement = malloc(sizeof(*placement));

	FAILS(STATE, hostmem_backend_complete(mapped, &err));
	FAILS(STATE, hostmem_backend_set_label(mapped, "other", &err));
	FAILS(STATE, hostmem_backend_set_text(mapped, "dump", "off", &err));
	FAILS(STATE, hostmem_backend_set_bool(mapped, "merge", false, &err));
	FAILS(STATE, hostmem_backend_set_number(mapped, "prealloc-threads", 2, &err));
	FAILS(STATE, hostmem_backend_set_list(mapped, "host-nodes", nodes, 1, &err));
	FAILS(STATE,
	      hostmem_backend_rebind(mapped, &rebound, "default", NULL, 0, UINT64_MAX, 0, &err));
	FAILS(STATE, hostmem_backend_populate(mapped, 0, SIZE, &err));
	FAILS(STATE, hostmem_backend_scrub(mapped, 0, SIZE, &err));
	FAILS(STATE, hostmem_backend_discard(mapped, 0, SIZE, &err));
	FAILS(STATE, hostmem_backend_discard_to(mapped, 0, SIZE, HOSTMEM_DISCARD_TO_ZERO, &err));
	FAILS(STATE, hostmem_backend_protect(mapped, 0, SIZE, HOSTMEM_ACCESS_NONE, &err));
	FAILS(STATE, hostmem_backend_inhibit_discard(mapped, "vfio", &err));
	FAILS(STATE, hostmem_backend_retry_contents(mapped, &err));
	FAILS(STATE, hostmem_backend_save(mapped, &saved, 1, 0, &err));
	FAILS(STATE, hostmem_backend_get_placement(mapped, placement, &err));
	FAILS(STATE, hostmem_backend_undo(mapped, &err));
	free(placement);
}

static void read_records(void)
{
	struct hostmem_piece piece = { .length = SIZE, .guest_address = UINT64_MAX };
	struct hostmem_prealloc_result result;
	struct hostmem_memory memory;
	enum hostmem_origin origin;
	uint64_t number, done, total;
	uint32_t list[8];
	char text[64];
	bool on;

	CHECK(hostmem_backend_get_state(mapped) == HOSTMEM_STATE_MAPPED);
	CHECK(hostmem_backend_get_owner(mapped, text, sizeof(text), NULL) == 5 &&
	      !strcmp(text, "guest"));
	CHECK(hostmem_backend_get_name(mapped, text, sizeof(text), NULL) == 6 &&
	      !strcmp(text, "mapped"));
	CHECK(!strcmp(hostmem_backend_get_id(mapped), "mapped") &&
	      !strcmp(hostmem_backend_get_label(mapped), "mapped") &&
	      !strcmp(hostmem_backend_get_kind(mapped), "memory-backend-ram"));
	CHECK(!hostmem_backend_get_memory(mapped, &memory, NULL) && memory.size == SIZE);
	CHECK(!hostmem_backend_check_piece(mapped, &piece, NULL, 0, NULL));
	CHECK(hostmem_backend_get_text(mapped, "size", text, sizeof(text), NULL) == 7 &&
	      !strcmp(text, "2097152"));
	CHECK(!hostmem_backend_get_number(mapped, "size", &number, NULL) && number == SIZE);
	CHECK(!hostmem_backend_get_bool(mapped, "prealloc", &on, NULL) && on);
	CHECK(!hostmem_backend_get_list(mapped, "host-nodes", list, 8, NULL));
	CHECK(!hostmem_backend_get_origin(mapped, "size", &origin, NULL) &&
	      origin == HOSTMEM_ORIGIN_USER);
	CHECK(!hostmem_backend_get_warning(mapped, 0, text, sizeof(text), NULL));
	hostmem_backend_set_progress(mapped, NULL, NULL);
	hostmem_backend_set_prealloc_done(mapped, NULL, NULL);
	hostmem_backend_get_progress(mapped, &done, &total);
	CHECK(done == SIZE && total == SIZE);
	hostmem_backend_get_prealloc_result(mapped, &result);
	CHECK(result.bytes == SIZE);
	CHECK(hostmem_backend_get_prealloc_event(mapped) == -1);
	CHECK(!hostmem_backend_get_unread(mapped, NULL));
	CHECK(!hostmem_backend_get_faulted(mapped, NULL, 0));
	CHECK(!hostmem_backend_wait_prealloc(mapped, UINT64_MAX, NULL));
	CHECK(!hostmem_backend_cancel_prealloc(mapped, NULL));
	hostmem_backend_interrupt(mapped);
}

static void end_records(void)
{
	FAILS(BUSY, hostmem_backend_claim(mapped, "other", &err));
	FAILS(BUSY, hostmem_backend_can_be_deleted(mapped, &err));
	FAILS(BUSY, hostmem_backend_delete(mapped, &err));
	FAILS(STATE, hostmem_backend_allow_discard(mapped, "vfio", &err));
	CHECK(!hostmem_backend_release(mapped, NULL));
	FAILS(STATE, hostmem_backend_release(mapped, &err));
	CHECK(!hostmem_backend_can_be_deleted(mapped, NULL));
	CHECK(!hostmem_backend_delete(mapped, NULL));
	FAILS(STATE, hostmem_backend_delete(mapped, &err));
	hostmem_backend_free(mapped);
}

static void complete_what_was_configuring(void)
{
	struct hostmem_memory memory;

	CHECK(!hostmem_backend_set_text(configuring, "dump", "off", NULL));
	CHECK(!hostmem_backend_complete(configuring, NULL));
	CHECK(!hostmem_backend_claim(configuring, "child", NULL));
	CHECK(!hostmem_backend_get_memory(configuring, &memory, NULL));
	memset(memory.address, 1, SIZE);
	CHECK(!hostmem_backend_discard(configuring, 0, SIZE, NULL) && !*(char *)memory.address);
	CHECK(!hostmem_backend_release(configuring, NULL));
	CHECK(!hostmem_backend_delete(configuring, NULL));
	hostmem_backend_free(configuring);
}

static void use_thread_contexts(void)
{
	struct hostmem_thread_context *own;
	uint64_t id;

	CHECK(hostmem_thread_context_get_state(context) == HOSTMEM_STATE_READY);
	CHECK(!hostmem_thread_context_get_number(context, "thread-id", &id, NULL) &&
	      id == UINT64_MAX);
	FAILS(STATE, hostmem_thread_context_complete(context, &err));
	FAILS(STATE, hostmem_thread_context_set_text(context, "cpu-affinity", "0", &err));
	CHECK(!hostmem_thread_context_can_be_deleted(context, NULL));
	CHECK(!hostmem_thread_context_delete(context, NULL));
	hostmem_thread_context_free(context);
	CHECK(!hostmem_thread_context_new(objects, &own, "own", NULL));
	CHECK(!hostmem_thread_context_complete(own, NULL));
	hostmem_thread_context_free(own);
}

static void use_the_pool(void)
{
	struct hostmem_pool_status status;
	struct hostmem_backend *taken;
	bool ready;

	FAILS(STATE, hostmem_pool_take(pool, &taken, &ready, "taken", &err));
	FAILS(STATE, hostmem_pool_withdraw(pool, &taken, "taken", &err));
	FAILS(STATE, hostmem_pool_set_count(pool, 2, &err));
	FAILS(STATE, hostmem_pool_wait(pool, 1, UINT64_MAX, &err));
	hostmem_pool_rest(pool, 1);
	hostmem_pool_get_status(pool, &status);
	CHECK(!status.count && !status.ready && !status.taken);
	hostmem_pool_free(pool);
}

static void use_the_set(void)
{
	static const struct hostmem_kind kind = { .name = "memory-backend-child" };
	struct hostmem_backend *made, *other;

	CHECK(hostmem_objects_get_kind_count(objects) >= 5);
	CHECK(!hostmem_objects_register_kind(objects, &kind, NULL));
	CHECK(!hostmem_backend_new(objects, &made, "memory-backend-child", "made", NULL));
	FAILS(VALUE, hostmem_backend_new(objects, &other, "memory-backend-ram", "made", &err));
	hostmem_backend_free(made);
	CHECK(!hostmem_backend_new_from_options(objects, &made, "memory-backend-ram,size=2M",
						NULL));
	CHECK(!hostmem_backend_complete(made, NULL));
	hostmem_backend_free(made);
}

static void *use_the_set_meanwhile(void *unused)
{
	(void)unused;
	use_the_set();
	return NULL;
}

static void do_all(void)
{
	static void (*const parts[])(void) = { read_records,        change_memory_of_the_parent,
					       end_records,         complete_what_was_configuring,
					       use_thread_contexts, use_the_pool };
	pthread_t other;

	/* The child's own threads wait for each other as ever. */
	CHECK(!pthread_create(&other, NULL, use_the_set_meanwhile, NULL));
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		parts[i]();
	CHECK(!pthread_join(other, NULL));
	hostmem_objects_free(objects);
}

/* ---- Each function as the first that a child calls ---- */

/* What these return is checked above, where other calls came before. */
#define FIRST_CALLS(CALL)                                                                          \
	CALL(hostmem_backend_get_state(mapped))                                                    \
	CALL(hostmem_backend_get_owner(mapped, text, sizeof(text), NULL))                          \
	CALL(hostmem_backend_get_name(mapped, text, sizeof(text), NULL))                           \
	CALL(hostmem_backend_get_label(mapped))                                                    \
	CALL(hostmem_backend_set_label(configuring, "other", NULL))                                \
	CALL(hostmem_backend_get_memory(mapped, &memory, NULL))                                    \
	CALL(hostmem_backend_check_piece(mapped, &piece, NULL, 0, NULL))                           \
	CALL(hostmem_backend_get_text(mapped, "size", text, sizeof(text), NULL))                   \
	CALL(hostmem_backend_get_number(mapped, "size", &number, NULL))                            \
	CALL(hostmem_backend_get_bool(mapped, "prealloc", &on, NULL))                              \
	CALL(hostmem_backend_get_list(mapped, "host-nodes", list, 8, NULL))                        \
	CALL(hostmem_backend_get_origin(mapped, "size", &origin, NULL))                            \
	CALL(hostmem_backend_set_text(configuring, "dump", "off", NULL))                           \
	CALL(hostmem_backend_set_bool(configuring, "dump", false, NULL))                           \
	CALL(hostmem_backend_set_number(configuring, "size", SIZE, NULL))                          \
	CALL(hostmem_backend_set_list(configuring, "host-nodes", list, 0, NULL))                   \
	CALL(hostmem_backend_rebind(mapped, &rebound, "default", NULL, 0, UINT64_MAX, 0, NULL))    \
	CALL(hostmem_backend_get_warning(mapped, 0, text, sizeof(text), NULL))                     \
	CALL(hostmem_backend_set_progress(mapped, NULL, NULL))                                     \
	CALL(hostmem_backend_set_prealloc_done(mapped, NULL, NULL))                                \
	CALL(hostmem_backend_get_progress(mapped, &number, &number))                               \
	CALL(hostmem_backend_get_prealloc_result(mapped, &result))                                 \
	CALL(hostmem_backend_get_prealloc_event(mapped))                                           \
	CALL(hostmem_backend_get_unread(mapped, NULL))                                             \
	CALL(hostmem_backend_get_faulted(mapped, NULL, 0))                                         \
	CALL(hostmem_backend_wait_prealloc(mapped, 0, NULL))                                       \
	CALL(hostmem_backend_cancel_prealloc(mapped, NULL))                                        \
	CALL(hostmem_backend_interrupt(mapped))                                                    \
	CALL(hostmem_backend_complete(mapped, NULL))                                               \
	CALL(hostmem_backend_complete(configuring, NULL))                                          \
	CALL(hostmem_backend_claim(mapped, "other", NULL))                                         \
	CALL(hostmem_backend_release(mapped, NULL))                                                \
	CALL(hostmem_backend_populate(mapped, 0, SIZE, NULL))                                      \
	CALL(hostmem_backend_scrub(mapped, 0, SIZE, NULL))                                         \
	CALL(hostmem_backend_discard(mapped, 0, SIZE, NULL))                                       \
	CALL(hostmem_backend_protect(mapped, 0, SIZE, HOSTMEM_ACCESS_NONE, NULL))                  \
	CALL(hostmem_backend_inhibit_discard(mapped, "vfio", NULL))                                \
	CALL(hostmem_backend_allow_discard(mapped, "vfio", NULL))                                  \
	CALL(hostmem_backend_retry_contents(mapped, NULL))                                         \
	CALL(hostmem_backend_save(mapped, &saved, 1, 0, NULL))                                     \
	CALL(hostmem_backend_get_placement(mapped, &placement, NULL))                              \
	CALL(hostmem_backend_undo(mapped, NULL))                                                   \
	CALL(hostmem_backend_can_be_deleted(mapped, NULL))                                         \
	CALL(hostmem_backend_delete(mapped, NULL))                                                 \
	CALL(hostmem_backend_free(mapped))                                                         \
	CALL(hostmem_backend_free(configuring))                                                    \
	CALL(hostmem_objects_get_kind_count(objects))                                              \
	CALL(hostmem_objects_register_kind(objects, &kind, NULL))                                  \
	CALL(hostmem_backend_new(objects, &made, "memory-backend-ram", "made", NULL))              \
	CALL(hostmem_backend_new_from_options(objects, &made, "memory-backend-ram,size=2M", NULL)) \
	CALL(hostmem_thread_context_get_state(context))                                            \
	CALL(hostmem_thread_context_get_number(context, "thread-id", &number, NULL))               \
	CALL(hostmem_thread_context_get_list(context, "cpu-affinity", list, 8, NULL))              \
	CALL(hostmem_thread_context_set_text(context, "cpu-affinity", "0", NULL))                  \
	CALL(hostmem_thread_context_complete(context, NULL))                                       \
	CALL(hostmem_thread_context_can_be_deleted(context, NULL))                                 \
	CALL(hostmem_thread_context_delete(context, NULL))                                         \
	CALL(hostmem_thread_context_free(context))                                                 \
	CALL(hostmem_thread_context_new(objects, &made_context, "own", NULL))                      \
	CALL(hostmem_pool_take(pool, &made, &on, "taken", NULL))                                   \
	CALL(hostmem_pool_withdraw(pool, &made, "taken", NULL))                                    \
	CALL(hostmem_pool_rest(pool, 1))                                                           \
	CALL(hostmem_pool_set_count(pool, 2, NULL))                                                \
	CALL(hostmem_pool_wait(pool, 1, UINT64_MAX, NULL))                                         \
	CALL(hostmem_pool_get_status(pool, &status))                                               \
	CALL(hostmem_pool_free(pool))

/* Makes one of them; false: there are fewer. */
static bool call_first(size_t index)
{
	static const struct hostmem_kind kind = { .name = "memory-backend-child" };
	struct hostmem_piece piece = { .length = SIZE, .guest_address = UINT64_MAX };
	static struct hostmem_placement placement;
	struct hostmem_thread_context *made_context;
	struct hostmem_prealloc_result result;
	struct hostmem_rebind_result rebound;
	struct hostmem_save_result saved;
	struct hostmem_pool_status status;
	struct hostmem_memory memory;
	struct hostmem_backend *made;
	enum hostmem_origin origin;
	uint32_t list[8] = { 0 };
	uint64_t number;
	char text[64];
	size_t at = 0;
	bool on;

#define CALL(call)                                                                                 \
	if (index == at++) {                                                                       \
		(void)(call);                                                                      \
		return true;                                                                       \
	}
	FIRST_CALLS(CALL)
#undef CALL
	return false;
}

/* ---- The thread that holds a lock ---- */

/* The first byte of a page that nobody can access until it is supplied. */
static uint8_t *make_absent(void)
{
	uint8_t *memory = mmap(NULL, 2 * (size_t)page, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register registered = {
		.range = { .start = (uintptr_t)memory + (uintptr_t)page, .len = (uint64_t)page },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	CHECK(memory != MAP_FAILED && !ioctl(fault_fd, UFFDIO_REGISTER, &registered));
	return memory + page;
}

static void *write_owner_of_mapped(void *absent)
{
	hostmem_backend_get_owner(mapped, absent, 16, NULL);
	return NULL;
}

static void *write_owner_of_configuring(void *absent)
{
	hostmem_backend_get_owner(configuring, absent, 16, NULL);
	return NULL;
}

/* A kind whose name is there, and the rest of it is not. */
static void *read_kind(void *absent)
{
	struct hostmem_kind *kind = (void *)((uint8_t *)absent - sizeof(kind->name));

	kind->name = "memory-backend-other";
	hostmem_objects_register_kind(objects, kind, NULL);
	return NULL;
}

static const struct {
	const char *name;
	void *(*run)(void *absent);
} holders[] = {
	{ "of a backend that is mapped", write_owner_of_mapped },
	{ "of a backend that is configuring", write_owner_of_configuring },
	{ "of the set of objects", read_kind },
};

static void supply(uint8_t *absent)
{
	struct uffdio_zeropage zero = {
		.range = { .start = (uintptr_t)absent, .len = (uint64_t)page },
	};

	CHECK(!ioctl(fault_fd, UFFDIO_ZEROPAGE, &zero));
}

/* Index of call_first(), or beyond: all functions one after the other. */
static void run_child(size_t index, const char *holder)
{
	pid_t child = fork();
	int status;

	if (!child) {
		/* Ends it where it hangs. */
		alarm(20);
		if (!call_first(index))
			do_all();
		leave(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	if (status)
		fprintf(stderr, "PROBLEM: call %zu while the lock %s is held: status 0x%x\n", index,
			holder, status);
	CHECK(!status);
}

#define CALL(call) +1
static const size_t first_calls_len = 0 FIRST_CALLS(CALL);
#undef CALL

static void fork_while(size_t holder)
{
	uint8_t *absent = make_absent();
	struct pollfd fault = { .fd = fault_fd, .events = POLLIN };
	struct uffd_msg message;
	pthread_t thread;

	CHECK(!pthread_create(&thread, NULL, holders[holder].run, absent));
	CHECK(poll(&fault, 1, -1) == 1 && read(fault_fd, &message, sizeof(message)) > 0);
	for (size_t index = 0; index <= first_calls_len; index++)
		run_child(index, holders[holder].name);
	supply(absent);
	pthread_join(thread, NULL);
	munmap(absent - page, 2 * (size_t)page);
}

int main(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	static const struct hostmem_defaults defaults;
	struct hostmem_host *host;

	page = sysconf(_SC_PAGESIZE);
	fault_fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (fault_fd < 0) {
		printf("skipped: userfaultfd: %s\n", strerror(errno));
		return 0;
	}
	CHECK(!ioctl(fault_fd, UFFDIO_API, &api));
	CHECK(!hostmem_host_probe(&host, NULL) &&
	      !hostmem_objects_new(&objects, host, &defaults, NULL, 0, NULL));
	CHECK(!hostmem_thread_context_new(objects, &context, "context", NULL) &&
	      !hostmem_thread_context_complete(context, NULL));
	CHECK(!hostmem_backend_new_from_options(
		objects, &mapped, "memory-backend-ram,id=mapped,size=2M,prealloc=on,thp=never",
		NULL));
	CHECK(!hostmem_backend_complete(mapped, NULL) &&
	      !hostmem_backend_claim(mapped, "guest", NULL));
	CHECK(!hostmem_backend_new_from_options(
		objects, &configuring, "memory-backend-memfd,id=configuring,size=2M", NULL));
	CHECK(!hostmem_pool_new_from_options(objects, &pool,
					     "memory-backend-ram,size=2M,prealloc=on", 1, NULL) &&
	      !hostmem_pool_wait(pool, 1, UINT64_MAX, NULL));
	for (size_t i = 0; i < sizeof(holders) / sizeof(holders[0]); i++)
		fork_while(i);
	/* Nothing of the parent has changed. */
	CHECK(!hostmem_backend_release(mapped, NULL) && !hostmem_backend_delete(mapped, NULL));
	hostmem_backend_free(mapped);
	hostmem_backend_free(configuring);
	hostmem_thread_context_free(context);
	hostmem_pool_free(pool);
	hostmem_objects_free(objects);
	hostmem_host_free(host);
	return 0;
}

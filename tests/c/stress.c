/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Six threads that do everything with the same backends and the same pool at random, and callbacks
 * that do so too. tests/inject.rs looks whether every function of hostmem.h is called here.
 * Built with ThreadSanitizer (scripts/race) or with the shim (tests/inject.rs), which find what is
 * wrong; here it counts that each thing also succeeds now and then, and that errors are written.
 *
 *     stress <seconds> [<seed>]
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "hostmem.h"
#ifdef STRESS_WITH_SHIM
#include "shim.h"
#endif

#define THREADS   6
#define POOL_MAX  2
#define SLOTS     8
#define CONTEXTS  2
#define PER_ROUND 60
#define SIZE      (4ul << 20)
/* The descriptor of the image that some backends begin with, what is in it, and its bytes. */
#define IMAGE        900
#define IMAGE_PATH   "/proc/self/fd/900"
#define IMAGE_BYTE   0x77
#define IMAGE_SIZE   (1ul << 20)
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

static struct hostmem_host *host;
static struct hostmem_objects *objects;
static struct hostmem_backend *slots[SLOTS];
static struct hostmem_thread_context *contexts[CONTEXTS];
static struct hostmem_pool *pool;
static pthread_barrier_t barrier;
static bool ended;
static bool has_numa, has_demand;

/* ---- Chance ---- */

struct worker {
	uint64_t seed;
	unsigned int number;
	unsigned int made;
	/* The file that it saves to. */
	int saved;
	struct hostmem_error err;
};

static uint64_t next(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed >> 11;
}

static size_t choose(struct worker *worker, size_t len)
{
	return next(&worker->seed) % len;
}

static struct hostmem_backend *any(struct worker *worker)
{
	return slots[choose(worker, SLOTS)];
}

static struct hostmem_thread_context *any_context(struct worker *worker)
{
	return contexts[choose(worker, CONTEXTS)];
}

static const char *one_of(struct worker *worker, const char *const *texts, size_t len)
{
	return texts[choose(worker, len)];
}

/* ---- Callbacks ---- */

/* What is refused in a callback is refused without an end. */
static void use_in_callback(struct hostmem_backend *backend)
{
	struct hostmem_placement *placement = malloc(sizeof(*placement));
	uint64_t done, total;
	char text[64];

	hostmem_backend_get_progress(backend, &done, &total);
	hostmem_backend_get_text(backend, "policy", text, sizeof(text), NULL);
	hostmem_backend_get_state(backend);
	if (placement)
		hostmem_backend_get_placement(backend, placement, NULL);
	free(placement);
	hostmem_backend_set_text(backend, "dump", done % 3 ? "on" : "off", NULL);
	hostmem_backend_discard(backend, 0, SIZE / 4, NULL);
	hostmem_backend_populate(backend, 0, SIZE, NULL);
	hostmem_backend_wait_prealloc(backend, 1, NULL);
	hostmem_backend_cancel_prealloc(backend, NULL);
	hostmem_backend_can_be_deleted(backend, NULL);
	if (done % 5 == 4)
		hostmem_backend_interrupt(backend);
}

static _Atomic uint64_t progress_calls, done_calls;

static void progress(void *data, uint64_t done, uint64_t total)
{
	progress_calls++;
	if (done <= total)
		use_in_callback(data);
}

static void done(void *data, const struct hostmem_error *error)
{
	done_calls++;
	if (!error || *error->message)
		use_in_callback(data);
}

static void free_in_callback(void *data, const struct hostmem_error *error)
{
	(void)error;
	done_calls++;
	hostmem_backend_free(data);
}

/* ---- What the threads do: 0 or more for success, -1 for an error ---- */

static int complete(struct worker *worker)
{
	return hostmem_backend_complete(any(worker), &worker->err);
}

static int complete_all(struct worker *worker)
{
	struct hostmem_backend *const both[] = { any(worker), any(worker) };

	return hostmem_backend_complete_all(both, 2, &worker->err);
}

static int claim(struct worker *worker)
{
	return hostmem_backend_claim(any(worker), "owner", &worker->err);
}

static int release(struct worker *worker)
{
	return hostmem_backend_release(any(worker), &worker->err);
}

static int delete_it(struct worker *worker)
{
	struct hostmem_backend *backend = any(worker);

	/* Seldom, so that there is something to work with. */
	if (choose(worker, 8))
		return hostmem_backend_can_be_deleted(backend, &worker->err);
	return hostmem_backend_delete(backend, &worker->err);
}

static int undo(struct worker *worker)
{
	return choose(worker, 8) ? 0 : hostmem_backend_undo(any(worker), &worker->err);
}

static int read_all(struct worker *worker)
{
	struct hostmem_backend *backend = any(worker);
	struct hostmem_prealloc_result result;
	char text[256];

	hostmem_backend_get_state(backend);
	hostmem_backend_get_warning(backend, 0, text, sizeof(text), NULL);
	hostmem_backend_get_prealloc_result(backend, &result);
	hostmem_backend_get_prealloc_event(backend);
	if (!*hostmem_backend_get_id(backend) || !*hostmem_backend_get_kind(backend))
		return -1;
	if (hostmem_backend_get_owner(backend, text, sizeof(text), &worker->err) < 0)
		return -1;
	return hostmem_backend_get_name(backend, text, sizeof(text), &worker->err);
}

static int get_memory(struct worker *worker)
{
	const struct hostmem_piece piece = { .length = SIZE };
	struct hostmem_backend *backend = any(worker);
	struct hostmem_memory memory;
	int32_t fd;

	if (hostmem_backend_get_memory(backend, &memory, &worker->err))
		return -1;
	if (choose(worker, 2))
		return hostmem_backend_get_shared_fd(backend, &fd, &worker->err);
	return hostmem_backend_check_piece(backend, &piece, NULL, 0, &worker->err);
}

static int set_text(struct worker *worker)
{
	static const char *const changes[][2] = {
		{ "merge", "on" },
		{ "merge", "off" },
		{ "dump", "on" },
		{ "dump", "off" },
		{ "thp", "always" },
		{ "thp", "never" },
		{ "lock", "on" },
		{ "lock", "off" },
		{ "prealloc", "on" },
		{ "discard-data", "on" },
		{ "prealloc-mode", "background" },
		{ "prealloc-mode", "wait" },
		{ "prealloc-context", "context0" },
		{ "prealloc-context", "" },
	};
	const char *const *change = changes[choose(worker, ARRAY_LEN(changes))];

	return hostmem_backend_set_text(any(worker), change[0], change[1], &worker->err);
}

static int set_typed(struct worker *worker)
{
	const uint32_t node = 0;

	switch (choose(worker, 3)) {
	case 0:
		return hostmem_backend_set_bool(any(worker), "dump", choose(worker, 2),
						&worker->err);
	case 1:
		return hostmem_backend_set_number(any(worker), "prealloc-threads",
						  1 + choose(worker, 3), &worker->err);
	default:
		return hostmem_backend_set_list(any(worker), "host-nodes", &node, choose(worker, 2),
						&worker->err);
	}
}

static int get_typed(struct worker *worker)
{
	struct hostmem_backend *backend = any(worker);
	enum hostmem_origin origin;
	uint32_t list[4];
	uint64_t number;
	char text[5000];
	bool value;

	if (hostmem_backend_get_bool(backend, "prealloc", &value, &worker->err) ||
	    hostmem_backend_get_number(backend, "size", &number, &worker->err) ||
	    hostmem_backend_get_list(backend, "host-nodes", list, 4, &worker->err) < 0 ||
	    hostmem_backend_get_origin(backend, "merge", &origin, &worker->err))
		return -1;
	return hostmem_backend_get_text(backend, "prealloc-context", text, sizeof(text),
					&worker->err);
}

static int set_callbacks(struct worker *worker)
{
	struct hostmem_backend *backend = any(worker);
	bool on = choose(worker, 4);

	hostmem_backend_set_progress(backend, on ? progress : NULL, backend);
	hostmem_backend_set_prealloc_done(backend, on ? done : NULL, backend);
	return 0;
}

static int wait_for_it(struct worker *worker)
{
	return hostmem_backend_wait_prealloc(any(worker), choose(worker, 3), &worker->err);
}

static int cancel(struct worker *worker)
{
	return hostmem_backend_cancel_prealloc(any(worker), &worker->err);
}

static int interrupt(struct worker *worker)
{
	hostmem_backend_interrupt(any(worker));
	return 0;
}

static int discard(struct worker *worker)
{
	uint64_t page = 4096 * choose(worker, 16);

	if (choose(worker, 4))
		return hostmem_backend_discard(any(worker), page, SIZE / 2, &worker->err);
	return hostmem_backend_discard_to(any(worker), page, SIZE / 2, HOSTMEM_DISCARD_TO_ZERO,
					  &worker->err);
}

static int protect(struct worker *worker)
{
	uint64_t page = 4096 * choose(worker, 16);

	return hostmem_backend_protect(any(worker), page, SIZE / 4,
				       choose(worker, 4) ? HOSTMEM_ACCESS_ALL : HOSTMEM_ACCESS_NONE,
				       &worker->err);
}

static int scrub(struct worker *worker)
{
	return hostmem_backend_scrub(any(worker), 0, SIZE / 2, &worker->err);
}

static int save(struct worker *worker)
{
	struct hostmem_save_result saved;
	int result = hostmem_backend_save(any(worker), &saved, worker->saved, 0, &worker->err);

	if (result || saved.written + saved.holes == SIZE)
		return result;
	fprintf(stderr, "stress: %lu bytes were saved and %lu left out, of %lu\n",
		(unsigned long)saved.written, (unsigned long)saved.holes, SIZE);
	abort();
}

static int read_contents(struct worker *worker)
{
	struct hostmem_backend *backend = any(worker);
	struct hostmem_range ranges[4];
	struct hostmem_error failed;

	hostmem_backend_get_unread(backend, &failed);
	hostmem_backend_get_faulted(backend, ranges, ARRAY_LEN(ranges));
	return hostmem_backend_retry_contents(backend, &worker->err);
}

static int inhibit(struct worker *worker)
{
	return hostmem_backend_inhibit_discard(any(worker), "device", &worker->err);
}

static int allow(struct worker *worker)
{
	return hostmem_backend_allow_discard(any(worker), "device", &worker->err);
}

static int populate(struct worker *worker)
{
	return hostmem_backend_populate(any(worker), 0, SIZE, &worker->err);
}

static int rebind(struct worker *worker)
{
	struct hostmem_rebind_result result;
	const uint32_t node = 0;

	if (!has_numa)
		return 0;
	return hostmem_backend_rebind(any(worker), &result,
				      choose(worker, 2) ? "bind" : "preferred", &node, 1,
				      UINT64_MAX, 0, &worker->err);
}

static int placement(struct worker *worker)
{
	struct hostmem_placement now;

	return hostmem_backend_get_placement(any(worker), &now, &worker->err);
}

static int use_context(struct worker *worker)
{
	struct hostmem_thread_context *context = any_context(worker);
	uint32_t cpu = (uint32_t)sched_getcpu(), list[8];
	uint64_t id;
	char text[64];

	hostmem_thread_context_get_state(context);
	if (!*hostmem_thread_context_get_id(context))
		return -1;
	switch (choose(worker, 8)) {
	case 0:
		return hostmem_thread_context_complete(context, &worker->err);
	case 6:
		snprintf(text, sizeof(text), "%u", cpu);
		return hostmem_thread_context_set_text(context, "cpu-affinity", text, &worker->err);
	case 1:
		return hostmem_thread_context_set_list(context, "cpu-affinity", &cpu, 1,
						       &worker->err);
	case 2:
		return hostmem_thread_context_get_list(context, "cpu-affinity", list, 8,
						       &worker->err);
	case 3:
		return hostmem_thread_context_get_number(context, "thread-id", &id, &worker->err);
	case 4:
		return hostmem_thread_context_get_text(context, "cpu-affinity", text, sizeof(text),
						       &worker->err);
	case 5:
		return hostmem_thread_context_can_be_deleted(context, &worker->err);
	default:
		return choose(worker, 8) ? 0 : hostmem_thread_context_delete(context, &worker->err);
	}
}

/* A descriptor is taken by the kind that has the property alone. */
static int set_fd(struct worker *worker)
{
	struct hostmem_backend *backend;
	int fd = memfd_create("user", MFD_CLOEXEC), result;

	if (hostmem_backend_new(objects, &backend, "memory-backend-fd", "fd", &worker->err)) {
		close(fd);
		return -1;
	}
	result = hostmem_backend_set_fd(backend, "fd", fd, &worker->err);
	close(fd);
	if (!result)
		result = hostmem_backend_set_label(backend, "labelled", &worker->err);
	if (!result && strcmp(hostmem_backend_get_label(backend), "labelled") != 0)
		abort();
	hostmem_backend_free(backend);
	return result;
}

/* Read on demand, or when it was completed. */
static void use_memory(const struct hostmem_memory *memory, bool has_contents)
{
	volatile unsigned char *bytes = memory->address;

	if (bytes[IMAGE_SIZE - 1] != (has_contents ? IMAGE_BYTE : 0) || bytes[IMAGE_SIZE])
		abort();
	memset(memory->address, 1, memory->size);
}

/* One of the thread's own in the common set, freed in its callback, or by the thread. */
static int live_alone(struct worker *worker)
{
	struct hostmem_backend *backend;
	struct hostmem_memory memory;
	char options[256];
	bool callback = choose(worker, 2), has_contents = has_demand && choose(worker, 2);

	snprintf(options, sizeof(options),
		 "memory-backend-ram,id=own%u.%u,size=%lu,prealloc=%s,prealloc-mode=%s,share=%s%s",
		 worker->number, worker->made++, SIZE, callback || choose(worker, 2) ? "on" : "off",
		 callback ? "background" : "wait", choose(worker, 2) ? "on" : "off",
		 has_contents ? ",contents=" IMAGE_PATH : "");
	if (hostmem_backend_new_from_options(objects, &backend, options, &worker->err))
		return -1;
	if (callback)
		hostmem_backend_set_prealloc_done(backend, free_in_callback, backend);
	if (hostmem_backend_complete(backend, &worker->err)) {
		hostmem_backend_free(backend);
		return -1;
	}
	if (callback)
		return 0;
	if (!hostmem_backend_get_memory(backend, &memory, &worker->err))
		use_memory(&memory, has_contents);
	hostmem_backend_free(backend);
	return 0;
}

/* ---- Pools ---- */

/* Seldom with an id that another thread may use too. */
static const char *new_id(struct worker *worker, char *id, size_t size)
{
	if (choose(worker, 4))
		snprintf(id, size, "taken%u.%u", worker->number, worker->made++);
	else
		snprintf(id, size, "taken");
	return id;
}

static int take(struct worker *worker)
{
	struct hostmem_backend *backend;
	bool was_ready;
	char id[32];

	if (hostmem_pool_take(pool, &backend, &was_ready, new_id(worker, id, sizeof(id)),
			      &worker->err))
		return -1;
	hostmem_backend_free(backend);
	return 0;
}

static int withdraw(struct worker *worker)
{
	struct hostmem_backend *backend;
	char id[32];

	/* On a busy machine the thread that fills may have had no time yet. */
	if (hostmem_pool_withdraw(pool, &backend, new_id(worker, id, sizeof(id)), &worker->err))
		return worker->err.kind == HOSTMEM_ERROR_BUSY ? 0 : -1;
	hostmem_backend_free(backend);
	return 0;
}

static int change_pool(struct worker *worker)
{
	struct hostmem_pool_status status;

	switch (choose(worker, 4)) {
	case 0:
		hostmem_pool_rest(pool, choose(worker, 3));
		return 0;
	case 1:
		return hostmem_pool_wait(pool, 1, choose(worker, 3), &worker->err);
	case 2:
		return hostmem_pool_set_count(pool, (uint32_t)choose(worker, POOL_MAX + 1),
					      &worker->err);
	default:
		hostmem_pool_get_status(pool, &status);
		if (status.count <= POOL_MAX && status.ready <= POOL_MAX)
			return 0;
		fprintf(stderr, "stress: of %u of a pool %u are ready\n", status.count,
			status.ready);
		abort();
	}
}

/* One that ends while it is filled. */
static int make_pool(struct worker *worker)
{
	struct hostmem_backend *template;
	struct hostmem_pool *own;
	int result;

	/* Ending its thread takes long. */
	if (choose(worker, 8))
		return 0;
	if (hostmem_backend_new(objects, &template, "memory-backend-ram", "template", &worker->err))
		return -1;
	result = hostmem_backend_set_number(template, "size", SIZE, &worker->err);
	if (!result)
		result = hostmem_pool_new(&own, template, 1, &worker->err);
	hostmem_backend_free(template);
	if (!result)
		hostmem_pool_free(own);
	return result;
}

/* ---- The host ---- */

/* One of the thread's own, that makes no optional call and populates by touching. */
static int use_own_host(struct worker *worker)
{
	static const struct hostmem_defaults none;
	struct hostmem_backend *backend;
	struct hostmem_objects *own;
	struct hostmem_host *narrow;
	int result;

	/* Probing takes long. */
	if (choose(worker, 8))
		return 0;
	if (hostmem_host_probe(&narrow, &worker->err))
		return -1;
	hostmem_host_narrow_methods(narrow, 0);
	hostmem_host_narrow_calls(narrow, 0);
	if (hostmem_host_get_calls(narrow))
		abort();
	result = hostmem_objects_new(&own, narrow, &none, NULL, 0, &worker->err);
	hostmem_host_free(narrow);
	if (result)
		return -1;
	result = hostmem_backend_new_from_options(
		own, &backend, "memory-backend-ram,id=ram,size=64K,prealloc=on", &worker->err);
	if (!result) {
		result = hostmem_backend_complete(backend, &worker->err);
		hostmem_backend_free(backend);
	}
	hostmem_objects_free(own);
	return result;
}

static int look_around(struct worker *worker)
{
	struct hostmem_topology *topology;
	struct hostmem_feature feature;
	struct hostmem_host_info info;
	char kind[64];

	hostmem_host_get_info(host, &info);
	hostmem_host_get_methods(host);
	hostmem_host_get_feature(host, 0, &feature);
	hostmem_objects_get_kind_count(objects);
	if (!hostmem_objects_get_kind(objects, 0) || !hostmem_property_get(0))
		return -1;
	if (hostmem_topology_read(&topology, &worker->err))
		return -1;
	hostmem_topology_get_node(topology, 0);
	hostmem_topology_get_distance(topology, 0, 0);
	hostmem_topology_get_cpus(topology, SIZE_MAX, NULL, 0);
	hostmem_topology_get_huge_pages(topology, SIZE_MAX, 0);
	hostmem_topology_free(topology);
	return hostmem_options_get_kind("memory-backend-ram,id=a", kind, sizeof(kind),
					&worker->err);
}

static int register_kind(struct worker *worker)
{
	static _Atomic unsigned int registered;
	static char names[64][16];
	struct hostmem_kind kind = { .description = "A kind of the embedder's." };
	unsigned int index = registered++;

	if (index >= ARRAY_LEN(names))
		return 0;
	snprintf(names[index], sizeof(names[index]), "kind%u", index);
	kind.name = names[index];
	return hostmem_objects_register_kind(objects, &kind, &worker->err);
}

#define ACTION(NAME)                                                                               \
	{                                                                                          \
		.name = #NAME, .run = NAME                                                         \
	}

static struct action {
	const char *name;
	int (*run)(struct worker *worker);
	_Atomic uint64_t succeeded, failed;
} actions[] = {
	ACTION(complete),      ACTION(complete_all), ACTION(claim),         ACTION(release),
	ACTION(release),       ACTION(delete_it),    ACTION(undo),          ACTION(read_all),
	ACTION(get_memory),    ACTION(set_text),     ACTION(set_typed),     ACTION(get_typed),
	ACTION(set_callbacks), ACTION(wait_for_it),  ACTION(cancel),        ACTION(interrupt),
	ACTION(discard),       ACTION(inhibit),      ACTION(allow),         ACTION(allow),
	ACTION(populate),      ACTION(rebind),       ACTION(placement),     ACTION(use_context),
	ACTION(live_alone),    ACTION(look_around),  ACTION(register_kind), ACTION(set_fd),
	ACTION(protect),       ACTION(scrub),        ACTION(save),          ACTION(read_contents),
	ACTION(take),          ACTION(withdraw),     ACTION(change_pool),   ACTION(make_pool),
	ACTION(use_own_host),
};

static void act(struct worker *worker)
{
	struct action *action = &actions[choose(worker, ARRAY_LEN(actions))];

	worker->err = (struct hostmem_error){ 0 };
	if (action->run(worker) >= 0) {
		action->succeeded++;
		return;
	}
	action->failed++;
	if (worker->err.kind && *worker->err.message)
		return;
	fprintf(stderr, "stress: %s failed without an error\n", action->name);
	abort();
}

/* ---- Rounds ---- */

static void *work(void *data)
{
	struct worker *worker = data;

	for (;;) {
		pthread_barrier_wait(&barrier);
		if (ended)
			return NULL;
		for (int i = 0; i < PER_ROUND; i++)
			act(worker);
		pthread_barrier_wait(&barrier);
	}
}

static void must(bool good, const struct hostmem_error *err)
{
	if (good)
		return;
	fprintf(stderr, "stress: %s\n", err->message);
	abort();
}

static void begin_round(struct worker *worker)
{
	static const char *const kinds[] = {
		"memory-backend-ram",
		"memory-backend-ram,share=on",
		"memory-backend-memfd",
		"memory-backend-memfd,share=off",
		"memory-backend-shm",
		"memory-backend-file,share=on,mem-path=/dev/shm",
		"memory-backend-ram,contents=" IMAGE_PATH,
		"memory-backend-memfd,contents=" IMAGE_PATH,
	};
	static const char *const more[] = {
		"",
		",prealloc=on",
		",prealloc=on,prealloc-mode=background",
		",prealloc=on,prealloc-mode=background,prealloc-context=context1",
		",prealloc=on,prealloc-threads=2",
		",lock=on",
	};
	struct hostmem_error err = { 0 };
	char options[512];

	must(!hostmem_thread_context_new(objects, &contexts[0], "context0", &err), &err);
	must(!hostmem_thread_context_new_from_options(objects, &contexts[1],
						      "thread-context,id=context1", &err),
	     &err);
	snprintf(options, sizeof(options), "memory-backend-ram,size=%lu,share=%s", SIZE,
		 choose(worker, 2) ? "on" : "off");
	must(!hostmem_pool_new_from_options(objects, &pool, options, POOL_MAX, &err), &err);
	for (int i = 0; i < SLOTS; i++) {
		snprintf(options, sizeof(options), "%s,id=slot%d,size=%lu%s",
			 one_of(worker, kinds, ARRAY_LEN(kinds) - (has_demand ? 0 : 2)), i, SIZE,
			 one_of(worker, more, ARRAY_LEN(more)));
		must(!hostmem_backend_new_from_options(objects, &slots[i], options, &err), &err);
	}
}

static void end_round(void)
{
	hostmem_pool_free(pool);
	for (int i = 0; i < SLOTS; i++)
		hostmem_backend_free(slots[i]);
	for (int i = 0; i < CONTEXTS; i++)
		hostmem_thread_context_free(contexts[i]);
}

static void run_rounds(struct worker *worker, time_t seconds)
{
	time_t end = time(NULL) + seconds;

	do {
		begin_round(worker);
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		end_round();
	} while (time(NULL) < end);
	ended = true;
	pthread_barrier_wait(&barrier);
}

static bool report(void)
{
	uint64_t sum = 0;
	bool all = true;

	for (size_t i = 0; i < ARRAY_LEN(actions); i++) {
		const struct action *action = &actions[i];

		sum += action->succeeded + action->failed;
		printf("%-14s %8lu succeeded %8lu refused\n", action->name,
		       (unsigned long)action->succeeded, (unsigned long)action->failed);
		all = all && action->succeeded;
	}
	printf("%lu operations, %lu calls of progress and %lu of done callbacks\n",
	       (unsigned long)sum, (unsigned long)progress_calls, (unsigned long)done_calls);
	return all;
}

/* Background preallocations whose callback frees them may outlive the last round. */
static bool is_all_given_back(void)
{
#ifdef STRESS_WITH_SHIM
	struct shim_count now = shim_count();

	/* The probed host is the one allocation left. */
	for (int i = 0; i < 10000 && (now.allocations > 1 || now.ranges); i++) {
		usleep(1000);
		now = shim_count();
	}
	return now.allocations == 1 && !now.ranges && !now.descriptors && !now.files &&
	       !now.threads && !now.names;
#else
	return true;
#endif
}

static void make_image(void)
{
	static char image[IMAGE_SIZE];
	int fd = memfd_create("image", MFD_CLOEXEC);

	memset(image, IMAGE_BYTE, sizeof(image));
	if (fd < 0 || write(fd, image, sizeof(image)) != sizeof(image) || dup2(fd, IMAGE) != IMAGE)
		abort();
	close(fd);
}

static void look_at_host(void)
{
	struct hostmem_error err;
	struct hostmem_feature feature;

	must(!hostmem_host_probe(&host, &err), &err);
	for (size_t i = 0; !hostmem_host_get_feature(host, i, &feature); i++) {
		has_numa |= !strcmp(feature.name, "policy=bind") && !feature.os_error;
		has_demand |= !strcmp(feature.name, "userfaultfd-kvm") && !feature.os_error;
	}
}

int main(int argc, char **argv)
{
	static const struct hostmem_defaults defaults = { .merge = true, .dump = true };
	struct worker workers[THREADS + 1];
	pthread_t threads[THREADS];
	struct hostmem_error err;

	if (argc < 2)
		return 2;
	make_image();
	look_at_host();
	must(!hostmem_objects_new(&objects, host, &defaults, NULL, 0, &err), &err);
	pthread_barrier_init(&barrier, NULL, THREADS + 1);
	for (unsigned int i = 0; i <= THREADS; i++)
		workers[i] = (struct worker){
			.number = i,
			.saved = memfd_create("saved", MFD_CLOEXEC),
			.seed = (argc > 2 ? strtoull(argv[2], NULL, 0) : 1) * 7919 + i + 1
		};
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, work, &workers[i]);
	run_rounds(&workers[THREADS], atol(argv[1]));
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	hostmem_objects_free(objects);
	if (!is_all_given_back()) {
		fprintf(stderr, "stress: something is left\n");
		return 1;
	}
	hostmem_host_free(host);
	return report() ? 0 : 1;
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Hosts that this one is not, as files of /sys and /proc describe them: which nodes a policy may
 * name, whether memory is where its policy wants it, what the overcommit mode forbids, what may be
 * locked, what control groups leave, which shared memory is huge, and how much pools can have.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "hostmem.h"
#include "shim.h"

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define NODES        4
#define KIB4         UINT64_C(4096)
#define MIB1         (UINT64_C(1) << 20)
#define GIB1         (UINT64_C(1) << 30)

static size_t problems;

static void must(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "hosts: %s\n", what);
	exit(1);
}

static void check(bool good, const char *options, const char *what, const char *have)
{
	if (good)
		return;
	printf("PROBLEM %s: %s: %s\n", options, what, have);
	problems++;
}

/* ---- The host's files ---- */

/* Of the memory that is looked at; "" where it is not. */
static char numa_maps[512], smaps[512];
static char overcommit[4];
static int numa_maps_error;
static char has_memory[16], status[128];

static const struct {
	const char *path, *contents;
} files[] = {
	{ "/sys/devices/system/node/online", "0-3\n" },
	{ "/sys/devices/system/node/has_memory", has_memory },
	{ "/proc/self/status", status },
	{ "/sys/kernel/mm/mempolicy/weighted_interleave/node0", "3\n" },
	{ "/sys/kernel/mm/mempolicy/weighted_interleave/node1", "1\n" },
	{ "/sys/kernel/mm/mempolicy/weighted_interleave/node2", "0\n" },
	{ "/sys/kernel/mm/mempolicy/weighted_interleave/node3", "256\n" },
	{ "/proc/self/numa_maps", numa_maps },
	{ "/proc/self/smaps", smaps },
	{ "/proc/sys/vm/overcommit_memory", overcommit },
};

static void use_nodes(const char *with_memory, const char *allowed)
{
	snprintf(has_memory, sizeof(has_memory), "%s\n", with_memory);
	snprintf(status, sizeof(status), "Mems_allowed_list:\t%s\n", allowed);
}

/* More of them: paths and contents by turns; one without contents is a directory. */
static const char *const *more_files;
/* What /proc/meminfo has when it is read again; NULL: the same. */
static const char *later_meminfo;
static size_t meminfo_reads;

static const char *contents_of(const char *path)
{
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		if (!strcmp(path, files[i].path) && *files[i].contents)
			return files[i].contents;
	}
	for (size_t i = 0; more_files && more_files[i]; i += 2) {
		if (!strcmp(path, more_files[i]))
			return more_files[i + 1];
	}
	return NULL;
}

static int open_instead(const char *path)
{
	const char *contents = contents_of(path);
	size_t length;
	int fd;

	if (numa_maps_error && !strcmp(path, "/proc/self/numa_maps"))
		return -numa_maps_error;
	if (later_meminfo && !strcmp(path, "/proc/meminfo") && meminfo_reads++)
		contents = later_meminfo;
	if (!contents)
		return SHIM_REAL;
	length = strlen(contents);
	fd = memfd_create("invented", MFD_CLOEXEC);
	must(fd >= 0 && write(fd, contents, length) == (ssize_t)length && !lseek(fd, 0, SEEK_SET),
	     "memfd_create");
	return fd;
}

static struct hostmem_backend *make(struct hostmem_objects *objects, const char *options)
{
	struct hostmem_backend *backend;
	struct hostmem_error err;

	must(!hostmem_backend_new_from_options(objects, &backend, options, &err), err.message);
	return backend;
}

/* ---- Memory without a reservation ---- */

/* The kernel reserves for private memory that can be written, in mode 2 whatever is asked for. */
static const struct {
	const char *mode, *options;
	bool refused;
} reservations[] = {
	{ "0\n", "ram,reserve=off", false },
	{ "1\n", "ram,reserve=off", false },
	{ "2\n", "ram,reserve=on", false },
	{ "2\n", "ram,reserve=try", false },
	{ "2\n", "ram,reserve=off", true },
	{ "1\n", "anonymous,reserve=off", false },
	{ "2\n", "anonymous,reserve=off", true },
	{ "2\n", "memfd,share=off,reserve=off", true },
	{ "2\n", "ram,reserve=off,share=on", false },
	{ "2\n", "fd,reserve=off,share=off,readonly=on,fd=%d", false },
	{ "2\n", "fd,reserve=off,share=off,readonly=on,rom=off,fd=%d", true },
	{ "2\n", "memfd,reserve=off,share=off,hugetlb=on,hugetlbsize=2M", false },
};

static int give_nothing(void *data, const struct hostmem_backend *backend,
			struct hostmem_backing *backing, struct hostmem_error *err)
{
	(void)data, (void)backend, (void)backing, (void)err;
	return 0;
}

/* An embedder's, of which only its backing tells what memory it has. */
static const struct hostmem_kind anonymous = {
	.name = "memory-backend-anonymous",
	.description = "Gives no descriptor.",
	.allocate = give_nothing,
};

static void try_reservations(struct hostmem_objects *objects)
{
	int fd = memfd_create("file", MFD_CLOEXEC);
	struct hostmem_error unused;

	must(!hostmem_objects_register_kind(objects, &anonymous, &unused), unused.message);
	must(fd >= 0 && !ftruncate(fd, 2 * MIB1), "memfd_create");
	for (size_t i = 0; i < ARRAY_LEN(reservations); i++) {
		struct hostmem_error err = { 0 };
		struct hostmem_backend *backend;
		char options[256], form[256];

		snprintf(overcommit, sizeof(overcommit), "%s", reservations[i].mode);
		snprintf(form, sizeof(form), "memory-backend-%s,id=m0,size=2M",
			 reservations[i].options);
		snprintf(options, sizeof(options), form, fd);
		backend = make(objects, options);
		check(!hostmem_backend_complete(backend, &err) == !reservations[i].refused, options,
		      reservations[i].mode, err.message);
		check(!reservations[i].refused ||
			      (strstr(err.message, "overcommit_memory is 2") && !err.os_error),
		      options, reservations[i].mode, err.message);
		hostmem_backend_free(backend);
	}
	close(fd);
	overcommit[0] = '\0';
}

/* ---- Memory that is locked ---- */

/* With a limit of 64 KiB. CAP_IPC_LOCK, bit 14, is an exemption. */
static const struct {
	const char *status;
	uint64_t size;
	bool refused;
} locks[] = {
	{ "CapEff:\t0000000000000000\n", 65536, false },
	{ "VmLck:\t       0 kB\nCapEff:\t0000000000000000\n", 65536, false },
	{ "VmLck:\t      60 kB\nCapEff:\t0000000000000000\n", 4096, false },
	{ "VmLck:\t      60 kB\nCapEff:\t0000000000000000\n", 8192, true },
	{ "VmLck:\t      64 kB\nCapEff:\tffffffffffffbfff\n", 4096, true },
	{ "VmLck:\t      68 kB\nCapEff:\tffffffffffffbfff\n", 4096, true },
	{ "VmLck:\t      64 kB\nCapEff:\t0000000000004000\n", 4096, false },
};

/* Locked from the beginning, or later. */
static void try_lock(struct hostmem_objects *objects, size_t row, bool later)
{
	struct hostmem_error err = { 0 };
	struct hostmem_backend *backend;
	char options[128];
	bool locked = false;
	int result;

	snprintf(status, sizeof(status), "%s", locks[row].status);
	snprintf(options, sizeof(options), "memory-backend-ram,id=m0,lock=%s,size=%ju",
		 later ? "off" : "on", (uintmax_t)locks[row].size);
	backend = make(objects, options);
	result = hostmem_backend_complete(backend, &err);
	if (later) {
		must(!result, err.message);
		result = hostmem_backend_set_text(backend, "lock", "on", &err);
		must(!hostmem_backend_get_bool(backend, "lock", &locked, NULL), "lock");
		check(locked == !locks[row].refused, options, locks[row].status, "lock");
	}
	check(!result == !locks[row].refused, options, locks[row].status, err.message);
	check(!locks[row].refused || (strstr(err.message, "RLIMIT_MEMLOCK") && !err.os_error),
	      options, locks[row].status, err.message);
	hostmem_backend_free(backend);
}

static void try_locks(struct hostmem_objects *objects)
{
	struct rlimit before, limit;

	must(!getrlimit(RLIMIT_MEMLOCK, &before), "getrlimit");
	limit = (struct rlimit){ 65536, before.rlim_max };
	if (before.rlim_max < 65536 || setrlimit(RLIMIT_MEMLOCK, &limit)) {
		printf("skipped: locks: the limit cannot be 64 KiB\n");
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(locks); i++) {
		try_lock(objects, i, false);
		try_lock(objects, i, true);
	}
	setrlimit(RLIMIT_MEMLOCK, &before);
}

/* ---- Which nodes may be named ---- */

/* Of nodes 0 to 3 the last has no memory, and a cpuset forbids those that are not `allowed`. */
static const struct {
	const char *allowed, *options, *message;
	/* On a kernel before 5.15. */
	bool old;
} refused[] = {
	{ "0,2", "policy=bind,host-nodes=4",
	  "host-nodes: node 4 is not a node of this host; usable nodes: 0,2", false },
	{ "0,2", "policy=bind,host-nodes=0,host-nodes=4-5",
	  "host-nodes: nodes 4-5 are not nodes of this host; usable nodes: 0,2", false },
	{ "0,2", "policy=bind,host-nodes=3", "host-nodes: node 3 has no memory; usable nodes: 0,2",
	  false },
	{ "0,2", "policy=bind,host-nodes=0-1",
	  "host-nodes: node 1 is outside this process's cpuset (cpuset.mems); usable nodes: 0,2",
	  false },
	{ "0,2", "policy=bind,host-nodes=0,home-node=3",
	  "home-node: node 3 has no memory; usable nodes: 0,2", false },
	{ "2", "policy=bind,host-nodes=2,home-node=1",
	  "home-node: node 1 is outside this process's cpuset (cpuset.mems); usable nodes: 2",
	  false },
	{ "0,2", "home-node=2", "home-node goes with policy=bind or preferred-many, not default",
	  false },
	{ "0-2", "policy=preferred,host-nodes=0-1",
	  "policy=preferred with several host-nodes needs Linux 5.15", true },
	{ "0-2", "policy=preferred-many,host-nodes=0-1", "policy=preferred-many needs Linux 5.15",
	  true },
};

static void try_refused(struct hostmem_objects *objects, bool old)
{
	for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
		struct hostmem_error err = { 0 };
		struct hostmem_backend *backend;
		char options[256];
		int expected;

		if (refused[i].old != old)
			continue;
		use_nodes("0-2", refused[i].allowed);
		snprintf(options, sizeof(options), "memory-backend-ram,id=m0,size=64K,%s",
			 refused[i].options);
		backend = make(objects, options);
		check(hostmem_backend_complete(backend, &err), options, "is refused", "it is not");
		check(strstr(err.message, refused[i].message), options, refused[i].message,
		      err.message);
		/* Of the probe, which was told that by mbind. */
		expected = strstr(refused[i].message, "many needs") ? EINVAL : 0;
		check(err.os_error == expected, options, "another errno", err.message);
		hostmem_backend_free(backend);
	}
}

static bool has_policy(const struct hostmem_host *host, const char *name)
{
	struct hostmem_feature feature;

	for (size_t i = 0; !hostmem_host_get_feature(host, i, &feature); i++) {
		if (!strcmp(feature.name, name))
			return !feature.os_error;
	}
	return false;
}

/* A host whose kernel refuses preferred-many, which is asked by one of some calls of mbind(2). */
static struct hostmem_host *probe_old_host(void)
{
	struct hostmem_error err = { 0 };
	struct hostmem_host *host;
	size_t call = 0;

	while (strcmp(shim_calls[call].name, "mbind") != 0)
		call++;
	for (uint64_t nth = 1;; nth++) {
		shim_arm(call, nth, EINVAL);
		must(!hostmem_host_probe(&host, &err), err.message);
		must(shim_disarm(), "a probe asks for preferred-many");
		if (!has_policy(host, "policy=preferred-many"))
			return host;
		hostmem_host_free(host);
	}
}

/* ---- Where memory is ---- */

#define YES     HOSTMEM_SATISFIED_YES
#define SPILLED HOSTMEM_SATISFIED_SPILLED
#define UNKNOWN HOSTMEM_SATISFIED_UNKNOWN
#define NONE    HOSTMEM_SATISFIED_NOT_APPLICABLE

#define SMALL "ram,size=256K,thp=never"
#define THP   "ram,size=16M,thp=always"
/* Nothing of it is ever taken. */
#define GIGANTIC "memfd,size=4G,hugetlb=on,hugetlbsize=1G,reserve=off"

struct policy {
	const char *options, *words;
	uint8_t weights[NODES];
};

static const struct policy by_default = { "policy=default", "default", { 0 } };
static const struct policy local = { "policy=local", "local", { 0 } };
static const struct policy bound = { "policy=bind,host-nodes=0", "bind:0", { 0 } };
static const struct policy bound_to_two = { "policy=bind,host-nodes=0-1", "bind:0-1", { 0 } };
static const struct policy preferred = { "policy=preferred-many,host-nodes=0",
					 "prefer (many):0",
					 { 0 } };
static const struct policy interleaved = { "policy=interleave,host-nodes=0-1",
					   "interleave:0-1",
					   { 1, 1 } };
static const struct policy interleaved_on_four = { "policy=interleave,host-nodes=0-3",
						   "interleave:0-3",
						   { 1, 1, 1, 1 } };
static const struct policy weighted = { "policy=weighted-interleave,host-nodes=0-1",
					"weighted interleave:0-1",
					{ 3, 1 } };
static const struct policy without_weight = {
	"policy=weighted-interleave,host-nodes=0,host-nodes=2", "weighted interleave:0,2", { 3 }
};

/* More than the kernel takes, and more than a byte has. */
static const struct policy of_large_weight = {
	"policy=weighted-interleave,host-nodes=0,host-nodes=3", "weighted interleave:0,3", { 3 }
};

/* What numa_maps and smaps say, in pages of `page` bytes and in bytes, and what is made of it. */
static const struct seen {
	const char *memory;
	const struct policy *policy;
	uint64_t page, nodes[NODES], huge;
	enum hostmem_satisfied satisfied;
	uint64_t outside;
	const char *reason;
} seen[] = {
	{ SMALL, &by_default, KIB4, { 32, 32 }, 0, NONE, 0, "policy=default names no nodes" },
	{ SMALL, &local, KIB4, { 32, 32 }, 0, NONE, 0, "policy=local names no nodes" },
	{ SMALL, &bound_to_two, KIB4, { 63, 1 }, 0, YES, 0, "" },
	{ SMALL,
	  &bound,
	  KIB4,
	  { 60, 4 },
	  0,
	  SPILLED,
	  16384,
	  "16384 bytes are outside host-nodes=0" },
	{ SMALL,
	  &bound_to_two,
	  KIB4,
	  { 1, 0, 2, 3 },
	  0,
	  SPILLED,
	  20480,
	  "20480 bytes are outside host-nodes=0-1" },
	{ SMALL, &preferred, KIB4, { 64 }, 0, YES, 0, "" },
	{ SMALL,
	  &preferred,
	  KIB4,
	  { 0, 64 },
	  0,
	  SPILLED,
	  262144,
	  "262144 bytes are outside host-nodes=0" },
	/* One page more or less is where the cycle began. */
	{ SMALL, &interleaved, KIB4, { 33, 31 }, 0, YES, 0, "" },
	{ SMALL, &interleaved, KIB4, { 31, 33 }, 0, YES, 0, "" },
	{ SMALL,
	  &interleaved,
	  KIB4,
	  { 34, 30 },
	  0,
	  SPILLED,
	  8192,
	  "8192 bytes are above the shares" },
	{ SMALL,
	  &interleaved,
	  KIB4,
	  { 30, 34 },
	  0,
	  SPILLED,
	  8192,
	  "8192 bytes are above the shares" },
	{ SMALL,
	  &interleaved_on_four,
	  KIB4,
	  { 18, 17, 15, 14 },
	  0,
	  SPILLED,
	  12288,
	  "12288 bytes are above the shares" },
	{ SMALL,
	  &interleaved,
	  KIB4,
	  { 32, 31 },
	  0,
	  UNKNOWN,
	  0,
	  "shares are known only when all of the memory is mapped here" },
	{ SMALL,
	  &interleaved,
	  KIB4,
	  { 30, 30, 4 },
	  0,
	  SPILLED,
	  16384,
	  "16384 bytes are outside host-nodes=0-1" },
	/* Three pages on node 0 for each one on node 1. */
	{ SMALL, &weighted, KIB4, { 48, 16 }, 0, YES, 0, "" },
	{ SMALL, &weighted, KIB4, { 49, 15 }, 0, YES, 0, "" },
	{ SMALL, &weighted, KIB4, { 50, 14 }, 0, SPILLED, 8192, "8192 bytes are above the shares" },
	{ SMALL,
	  &weighted,
	  KIB4,
	  { 32, 32 },
	  0,
	  SPILLED,
	  65536,
	  "65536 bytes are above the shares" },
	{ SMALL,
	  &without_weight,
	  KIB4,
	  { 64 },
	  0,
	  UNKNOWN,
	  0,
	  "the host's weights cannot be read" },
	{ SMALL,
	  &of_large_weight,
	  KIB4,
	  { 64 },
	  0,
	  UNKNOWN,
	  0,
	  "the host's weights cannot be read" },
	/* Huge pages are interleaved; one that is missing may have been any node's. */
	{ THP, &interleaved, MIB1, { 10, 6 }, 0, YES, 0, "" },
	{ THP, &interleaved, MIB1, { 11, 5 }, 0, SPILLED, 3 * MIB1, "3145728 bytes are above" },
	{ THP,
	  &interleaved,
	  MIB1,
	  { 11, 5 },
	  16 * MIB1,
	  SPILLED,
	  3 * MIB1,
	  "3145728 bytes are above" },
	{ THP, &interleaved, MIB1, { 14, 2 }, 12 * MIB1, YES, 0, "" },
	{ THP,
	  &interleaved,
	  MIB1,
	  { 15, 1 },
	  12 * MIB1,
	  SPILLED,
	  7 * MIB1,
	  "7340032 bytes are above" },
	{ GIGANTIC, &interleaved, GIB1, { 3, 1 }, 4 * GIB1, YES, 0, "" },
	{ GIGANTIC,
	  &interleaved,
	  GIB1,
	  { 4, 0 },
	  4 * GIB1,
	  SPILLED,
	  2 * GIB1,
	  "2147483648 bytes are above" },
};

/* The guard page before the memory has the process's policy. */
static void describe(const struct seen *seen, const struct hostmem_memory *memory)
{
	unsigned long address = (unsigned long)(uintptr_t)memory->address;
	size_t length = (size_t)snprintf(numa_maps, sizeof(numa_maps), "%lx default\n%lx %s anon=1",
					 address - 4096, address, seen->policy->words);

	for (size_t node = 0; node < NODES; node++) {
		if (seen->nodes[node])
			length += (size_t)snprintf(numa_maps + length, sizeof(numa_maps) - length,
						   " N%zu=%ju", node, (uintmax_t)seen->nodes[node]);
	}
	/* Words that count nothing on a node of this library's. */
	snprintf(numa_maps + length, sizeof(numa_maps) - length,
		 " N=7 Nx=7 N1 N2:7 N1024=7 kernelpagesize_kB=%ju\n", (uintmax_t)seen->page / 1024);
	snprintf(smaps, sizeof(smaps), "%lx-%lx rw-p 00000000 00:00 0\nAnonHugePages: %ju kB\n",
		 address, address + memory->size, (uintmax_t)seen->huge / 1024);
}

static void check_number(uint64_t have, uint64_t wanted, const struct seen *seen, const char *what)
{
	if (have == wanted)
		return;
	printf("PROBLEM %s,%s %ju %ju: %s is %ju, not %ju\n", seen->memory, seen->policy->options,
	       (uintmax_t)seen->nodes[0], (uintmax_t)seen->nodes[1], what, (uintmax_t)have,
	       (uintmax_t)wanted);
	problems++;
}

static void check_placement(const struct seen *seen, const struct hostmem_placement *placement)
{
	size_t length = strlen(seen->reason);

	check_number(placement->satisfied, seen->satisfied, seen, "satisfied");
	check_number(placement->outside, seen->outside, seen, "outside");
	check_number(placement->policy_changed, false, seen, "policy_changed");
	check(!strncmp(placement->reason, seen->reason, length) && (length || !*placement->reason),
	      seen->policy->options, seen->reason, placement->reason);
	check(!strcmp(placement->policy, seen->policy->words), seen->policy->options,
	      seen->policy->words, placement->policy);
	for (size_t node = 0; node < NODES; node++) {
		check_number(placement->nodes[node], seen->nodes[node] * seen->page, seen, "node");
		check_number(placement->weights[node], seen->policy->weights[node], seen, "weight");
	}
}

static void try_placement(struct hostmem_objects *objects, const struct seen *seen)
{
	static struct hostmem_placement placement;
	struct hostmem_backend *backend;
	struct hostmem_error err = { 0 };
	struct hostmem_memory memory;
	char options[256];

	snprintf(options, sizeof(options), "memory-backend-%s,id=m0,%s", seen->memory,
		 seen->policy->options);
	backend = make(objects, options);
	if (hostmem_backend_complete(backend, &err)) {
		/* Older kernels lack some policies, and some processors pages of 1 GiB. */
		check(err.os_error || !strcmp(seen->memory, GIGANTIC), options, "is refused",
		      err.message);
		printf("skipped: %s\n", err.message);
	} else {
		must(!hostmem_backend_get_memory(backend, &memory, &err), err.message);
		describe(seen, &memory);
		must(!hostmem_backend_get_placement(backend, &placement, &err), err.message);
		check_placement(seen, &placement);
		numa_maps[0] = smaps[0] = '\0';
	}
	hostmem_backend_free(backend);
}

static void try_placements(struct hostmem_objects *objects, uint64_t huge)
{
	use_nodes("0-3", "0-3");
	for (size_t i = 0; i < ARRAY_LEN(seen); i++) {
		if (!strcmp(seen[i].memory, THP) && huge != 2 * MIB1)
			printf("skipped: huge pages of 2 MiB: the kernel has none\n");
		else
			try_placement(objects, &seen[i]);
	}
}

/* Without NUMA the kernel has no numa_maps, and smaps tells what is there. */
static void try_without_numa(struct hostmem_objects *objects)
{
	static struct hostmem_placement placement;
	struct hostmem_backend *backend = make(objects, "memory-backend-" SMALL ",id=m0");
	struct hostmem_error err = { 0 };
	struct hostmem_memory memory;
	unsigned long address, end;

	must(!hostmem_backend_complete(backend, &err) &&
		     !hostmem_backend_get_memory(backend, &memory, &err),
	     err.message);
	address = (unsigned long)(uintptr_t)memory.address;
	end = address + memory.size;
	snprintf(smaps, sizeof(smaps),
		 "%lx-%lx r--p 00000000 00:00 0\nRss: 7 kB\nSwap: 7 kB\nVmFlags: rd mg\n"
		 "%lx-%lx rw-p 00000000 00:00 0\nRss: 40 kB\nAnonHugePages: 4 kB\n"
		 "ShmemPmdMapped: 8 kB\nFilePmdMapped: 16 kB\nShared_Hugetlb: 20 kB\n"
		 "Private_Hugetlb: 64 kB\nSwap: 32 kB\nVmFlags: rd wr\n",
		 address - 4096, address, address, end);
	numa_maps_error = ENOENT;
	must(!hostmem_backend_get_placement(backend, &placement, &err), err.message);
	check(placement.resident == 124 << 10 && placement.huge == 112 << 10 &&
		      placement.swapped == 32 << 10 && placement.absent == 100 << 10 &&
		      !placement.mergeable && !*placement.policy,
	      SMALL, "without numa_maps", placement.policy);
	numa_maps_error = EACCES;
	check(hostmem_backend_get_placement(backend, &placement, &err) && err.os_error == EACCES,
	      SMALL, "numa_maps that cannot be read", "no error");
	numa_maps_error = 0;
	smaps[0] = '\0';
	hostmem_backend_free(backend);
}

/* Of 64 pages, what the kernel says of this mapping; what it says of the file is real. */
static const struct {
	const char *memory;
	/* Where neither cachestat(2) nor mincore(2) may be called, the file's blocks are asked. */
	bool by_blocks;
	uint64_t touched, resident, swapped, unmapped, absent;
} rests[] = {
	{ "memfd,share=on", false, 32, 32, 0, 0, 32 },
	{ "memfd,share=on", false, 32, 8, 0, 24, 32 },
	{ "memfd,share=on", false, 32, 8, 16, 24, 16 },
	{ "memfd,share=on", false, 64, 8, 16, 40, 0 },
	{ "memfd,share=on", false, 16, 60, 16, 0, 0 },
	{ "memfd,share=on", false, 0, 0, 0, 0, 64 },
	{ "memfd,share=off", false, 64, 8, 16, 0, 40 },
	{ "memfd,share=off", false, 0, 0, 0, 0, 64 },
	{ "memfd,share=on", true, 32, 8, 0, 24, 32 },
	{ "memfd,share=on", true, 32, 8, 16, 8, 32 },
	{ "memfd,share=on", true, 16, 8, 16, 0, 40 },
};

static void try_rests(struct hostmem_objects *objects, bool by_blocks)
{
	static struct hostmem_placement placement;

	for (size_t i = 0; i < ARRAY_LEN(rests); i++) {
		struct hostmem_error err = { 0 };
		struct hostmem_backend *backend;
		struct hostmem_memory memory;
		unsigned long address;
		char options[128], have[96];

		if (rests[i].by_blocks != by_blocks)
			continue;
		snprintf(options, sizeof(options), "memory-backend-%s,id=m0,size=256K,thp=never",
			 rests[i].memory);
		backend = make(objects, options);
		must(!hostmem_backend_complete(backend, &err) &&
			     !hostmem_backend_get_memory(backend, &memory, &err),
		     err.message);
		address = (unsigned long)(uintptr_t)memory.address;
		memset(memory.address, 1, rests[i].touched * KIB4);
		snprintf(numa_maps, sizeof(numa_maps), "%lx default N0=%ju kernelpagesize_kB=4\n",
			 address, (uintmax_t)rests[i].resident);
		snprintf(smaps, sizeof(smaps), "%lx-%lx rw-s 00000000 00:00 0\nSwap: %ju kB\n",
			 address, address + memory.size, (uintmax_t)rests[i].swapped * 4);
		must(!hostmem_backend_get_placement(backend, &placement, &err), err.message);
		snprintf(have, sizeof(have), "row %zu: %ju unmapped, %ju absent", i,
			 (uintmax_t)placement.unmapped / KIB4, (uintmax_t)placement.absent / KIB4);
		check(placement.unmapped == rests[i].unmapped * KIB4 &&
			      placement.absent == rests[i].absent * KIB4 &&
			      placement.swapped == rests[i].swapped * KIB4,
		      options, "the rest", have);
		numa_maps[0] = smaps[0] = '\0';
		hostmem_backend_free(backend);
	}
}

/* The kernel ignores the policy of shared memory of a file on disk, here of the current directory.
 */
static void try_file_on_disk(struct hostmem_objects *objects)
{
	static struct hostmem_placement placement;
	static const char path[] = "hosts.file";
	char options[128];
	struct hostmem_error err = { 0 };
	struct hostmem_backend *backend;
	struct statfs system;
	int fd;

	unlink(path);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	must(fd >= 0 && !unlink(path) && !ftruncate(fd, 65536) && !fstatfs(fd, &system), path);
	if (system.f_type == TMPFS_MAGIC) {
		printf("skipped: a file on disk: the current directory is in memory\n");
	} else {
		snprintf(options, sizeof(options),
			 "memory-backend-fd,id=m0,size=64K,policy=bind,host-nodes=0,fd=%d", fd);
		backend = make(objects, options);
		/* The memory's own may have the lowest number. */
		close(0);
		must(!hostmem_backend_complete(backend, &err) &&
			     !hostmem_backend_get_placement(backend, &placement, &err),
		     err.message);
		check(!placement.unmapped && placement.absent == 65536, options, "absent", "");
		check(placement.satisfied == UNKNOWN, options, "satisfied", placement.reason);
		check(strstr(placement.reason, "the kernel ignores the policy"), options, "reason",
		      placement.reason);
		hostmem_backend_free(backend);
	}
	close(fd);
}

/* ---- Control groups ---- */

#define UNIFIED         "1 1 0:1 / /groups rw - cgroup2 cgroup2 rw\n"
#define MEMORY          "1 1 0:1 / /groups rw - cgroup cgroup rw,memory\n"
#define MEMINFO(swap)   "/proc/meminfo", "MemAvailable: 8388608 kB\nSwapFree: " swap " kB\n"
#define LIMIT_IN(group) group "/memory.max", "2097152\n", group "/memory.current", "0\n"
#define LIMIT_OF_2M     LIMIT_IN("/groups/a")
#define OLD_LIMIT(usage)                                                                           \
	"/groups/a/memory.limit_in_bytes", "2097152\n", "/groups/a/memory.usage_in_bytes",         \
		usage "\n"

/* What is left of the 3153920 bytes that 2 MiB and their margin need; NULL: enough. */
static const struct {
	const char *mounts, *group, *available;
	const char *files[16];
} groups[] = {
	{ UNIFIED, "0::/a\n", "2097152", { "/groups/a", "", LIMIT_OF_2M, MEMINFO("0") } },
	{ UNIFIED,
	  "0::/a\n",
	  "2097152",
	  { "/groups/a", "", LIMIT_OF_2M, MEMINFO("8192"), "/groups/a/memory.swap.max", "0\n",
	    "/groups/a/memory.swap.current", "0\n" } },
	{ UNIFIED,
	  "0::/a\n",
	  NULL,
	  { "/groups/a", "", LIMIT_OF_2M, MEMINFO("8192"), "/groups/a/memory.swap.max", "max\n",
	    "/groups/a/memory.swap.current", "0\n" } },
	{ UNIFIED,
	  "0::/a\n",
	  "2621440",
	  { "/groups/a", "", LIMIT_OF_2M, MEMINFO("512"), "/groups/a/memory.swap.max", "max\n",
	    "/groups/a/memory.swap.current", "0\n" } },
	{ UNIFIED,
	  "0::/a\n",
	  "2621440",
	  { "/groups/a", "", LIMIT_OF_2M, MEMINFO("8192"), "/groups/a/memory.swap.max", "2097152\n",
	    "/groups/a/memory.swap.current", "1572864\n" } },
	{ MEMORY,
	  "1:memory:/a\n",
	  "2621440",
	  { "/groups/a", "", OLD_LIMIT("0"), MEMINFO("8192"),
	    "/groups/a/memory.memsw.limit_in_bytes", "2621440\n",
	    "/groups/a/memory.memsw.usage_in_bytes", "0\n" } },
	{ MEMORY,
	  "1:memory:/a\n",
	  "2621440",
	  { "/groups/a", "", OLD_LIMIT("0"), MEMINFO("512"),
	    "/groups/a/memory.memsw.limit_in_bytes", "9223372036854771712\n",
	    "/groups/a/memory.memsw.usage_in_bytes", "0\n" } },
	/* What is in the page cache counts as free in both. */
	{ MEMORY,
	  "1:memory:/a\n",
	  "2621440",
	  { "/groups/a", "", OLD_LIMIT("65536"), MEMINFO("8192"), "/groups/a/memory.stat",
	    "total_inactive_file 65536\n", "/groups/a/memory.memsw.limit_in_bytes", "2621440\n",
	    "/groups/a/memory.memsw.usage_in_bytes", "65536\n" } },
	/* The mount shows a group above the namespace that the paths are seen from. */
	{ "1 1 0:1 /../.. /groups/a rw - cgroup2 cgroup2 rw\n",
	  "0::/b\n",
	  "2097152",
	  { "/groups/a", "", LIMIT_OF_2M, MEMINFO("0") } },
	/* The mount does not show the group. */
	{ "1 1 0:1 /b /groups/a rw - cgroup2 cgroup2 rw\n",
	  "0::/a\n",
	  NULL,
	  { "/groups/a", "", LIMIT_OF_2M, MEMINFO("0") } },
	{ "1 1 0:1 /b /groups/ rw - cgroup2 cgroup2 rw\n",
	  "0::/ba\n",
	  NULL,
	  { "/groups/a", "", LIMIT_OF_2M, MEMINFO("0") } },
	/* What is in use is not told. */
	{ UNIFIED,
	  "0::/a\n",
	  NULL,
	  { "/groups/a", "", "/groups/a/memory.max", "2097152\n", MEMINFO("0") } },
	/* A name with a space, and backslashes that are no three octal digits. */
	{ "1 1 0:1 / /groups\\040a rw - cgroup2 cgroup2 rw\n",
	  "0::/\n",
	  "2097152",
	  { "/groups a", "", LIMIT_IN("/groups a"), MEMINFO("0") } },
	{ "1 1 0:1 / /groups\\a00 rw - cgroup2 cgroup2 rw\n",
	  "0::/\n",
	  "2097152",
	  { "/groups\\a00", "", LIMIT_IN("/groups\\a00"), MEMINFO("0") } },
	{ "1 1 0:1 / /groups\\0a0 rw - cgroup2 cgroup2 rw\n",
	  "0::/\n",
	  "2097152",
	  { "/groups\\0a0", "", LIMIT_IN("/groups\\0a0"), MEMINFO("0") } },
	{ "1 1 0:1 / /groups\\00/a rw - cgroup2 cgroup2 rw\n",
	  "0::/\n",
	  "2097152",
	  { "/groups\\00/a", "", LIMIT_IN("/groups\\00/a"), MEMINFO("0") } },
	{ "1 1 0:1 / /groups\\018 rw - cgroup2 cgroup2 rw\n",
	  "0::/\n",
	  "2097152",
	  { "/groups\\018", "", LIMIT_IN("/groups\\018"), MEMINFO("0") } },
};

static void try_groups(struct hostmem_objects *objects)
{
	static const char options[] = "memory-backend-ram,id=m0,size=2M,prealloc=on";

	for (size_t i = 0; i < ARRAY_LEN(groups); i++) {
		struct hostmem_backend *backend = make(objects, options);
		const char *all[ARRAY_LEN(groups[i].files) + 5] = {
			"/proc/self/cgroup",
			groups[i].group,
			"/proc/thread-self/mountinfo",
			groups[i].mounts,
		};
		struct hostmem_error err = { 0 };
		char row[96], what[96];
		bool is_short;

		memcpy(all + 4, groups[i].files, sizeof(groups[i].files));
		more_files = all;
		is_short = hostmem_backend_complete(backend, &err);
		more_files = NULL;
		snprintf(what, sizeof(what), ": %s bytes are available under the memory limit of",
			 groups[i].available ? groups[i].available : "");
		snprintf(row, sizeof(row), "group %zu", i);
		check(is_short == !!groups[i].available && (!is_short || strstr(err.message, what)),
		      options, row, err.message);
		hostmem_backend_free(backend);
	}
}

#define POOL(size)                                                                                 \
	"/sys/kernel/mm/hugepages/hugepages-" size "/nr_hugepages", "4\n",                         \
		"/sys/kernel/mm/hugepages/hugepages-" size "/free_hugepages", "4\n"

/* Of pages that this host may not have: the size is in the names of the files. */
static const struct {
	const char *options, *message;
	const char *files[8];
} huge_groups[] = {
	{ "hugetlbsize=1G,size=1G",
	  "/groups/a/hugetlb.1GB.max is 0 bytes",
	  { POOL("1048576kB"), "/groups/a/hugetlb.1GB.max", "0\n", "/groups/a/hugetlb.1GB.current",
	    "0\n" } },
	{ "hugetlbsize=64K,size=64K",
	  "/groups/a/hugetlb.64KB.max is 0 bytes",
	  { POOL("64kB"), "/groups/a/hugetlb.64KB.max", "0\n", "/groups/a/hugetlb.64KB.current",
	    "0\n" } },
};

static void try_huge_groups(struct hostmem_objects *objects)
{
	for (size_t i = 0; i < ARRAY_LEN(huge_groups); i++) {
		const char *all[] = { "/proc/self/cgroup",
				      "0::/a\n",
				      "/proc/thread-self/mountinfo",
				      UNIFIED,
				      "/groups/a",
				      "",
				      NULL,
				      NULL,
				      NULL,
				      NULL,
				      NULL,
				      NULL,
				      NULL,
				      NULL,
				      NULL };
		struct hostmem_error err = { 0 };
		struct hostmem_backend *backend;
		char options[128];

		snprintf(options, sizeof(options), "memory-backend-memfd,id=m0,hugetlb=on,%s",
			 huge_groups[i].options);
		backend = make(objects, options);
		memcpy(all + 6, huge_groups[i].files, sizeof(huge_groups[i].files));
		more_files = all;
		check(hostmem_backend_complete(backend, &err), options, "is refused", "it is not");
		more_files = NULL;
		check(strstr(err.message, huge_groups[i].message), options, huge_groups[i].message,
		      err.message);
		hostmem_backend_free(backend);
	}
}

/* ---- Memory that others take meanwhile ---- */

#define PLENTY "MemAvailable: 409600 kB\nSwapFree: 0 kB\n"
#define LITTLE "MemAvailable: 1024 kB\nSwapFree: 0 kB\n"

/* There is enough at first. Less than 1 GiB remains, so it is looked at each millisecond. */
static void try_shortage(struct hostmem_objects *objects)
{
	static const char options[] =
		"memory-backend-ram,id=m0,size=64M,thp=never,prealloc=on,prealloc-threads=1";
	const char *all[] = { "/proc/meminfo", PLENTY, NULL };
	struct hostmem_backend *backend = make(objects, options);
	struct hostmem_error err = { 0 };
	uintmax_t done = 0;
	const char *after;

	more_files = all;
	later_meminfo = LITTLE;
	meminfo_reads = 0;
	check(hostmem_backend_complete(backend, &err) && err.kind == HOSTMEM_ERROR_NO_MEMORY,
	      options, "is stopped", err.message);
	more_files = NULL;
	later_meminfo = NULL;
	after = strstr(err.message, "stopped before memory runs out, after ");
	check(after && sscanf(after, "%*[^0-9]%ju", &done) == 1 && done && done < 64 * MIB1,
	      options, "after some of it", err.message);
	check(!hostmem_backend_complete(backend, &err), options, "is made again", err.message);
	hostmem_backend_free(backend);
}

/* ---- Shared memory in huge pages ---- */

#define SHMEM_ENABLED "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

/* Whether it is read on demand in huge pages. The device of a memfd is on no mount. */
static const struct {
	const char *kind, *setting, *mount;
	bool huge;
} shared[] = {
	{ "memfd", "always within_size advise never deny [force]\n", NULL, true },
	{ "memfd", "[always] within_size advise never deny force\n", NULL, true },
	{ "memfd", "always within_size advise [never] deny force\n", NULL, false },
	{ "memfd", "always within_size advise never [deny] force\n", NULL, false },
	{ "shm", "always within_size advise [never] deny force\n", "rw,huge=advise", true },
	{ "shm", "always within_size advise [never] deny force\n", "rw,huge=never", false },
	{ "shm", "[always] within_size advise never deny force\n", "rw", false },
	{ "shm", "always within_size advise never deny [force]\n", "rw,huge=never", true },
	{ "shm", "always within_size advise never [deny] force\n", "rw,huge=always", false },
};

static uint64_t read_unit(struct hostmem_objects *objects, const char *kind)
{
	struct hostmem_range range = { 0 };
	struct hostmem_error err = { 0 };
	struct hostmem_memory memory;
	struct hostmem_backend *backend;
	char options[128];

	snprintf(options, sizeof(options), "memory-backend-%s,id=m0,size=4M,contents=hosts.image",
		 kind);
	backend = make(objects, options);
	if (!hostmem_backend_complete(backend, &err)) {
		must(!hostmem_backend_get_memory(backend, &memory, &err), err.message);
		must(*(volatile char *)memory.address == 'i', "contents");
		must(hostmem_backend_get_faulted(backend, &range, 1) == 1, "a unit");
	}
	hostmem_backend_free(backend);
	return range.length;
}

static void try_shared(struct hostmem_objects *objects)
{
	int fd = open("hosts.image", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct stat status_of_shm;

	must(fd >= 0 && write(fd, "image", 5) == 5 && !stat("/dev/shm", &status_of_shm),
	     "hosts.image");
	close(fd);
	for (size_t i = 0; i < ARRAY_LEN(shared); i++) {
		char mount[160] = "\n", have[32];
		const char *all[] = { SHMEM_ENABLED, shared[i].setting,
				      "/proc/thread-self/mountinfo", mount, NULL };
		uint64_t unit;

		if (shared[i].mount)
			snprintf(mount, sizeof(mount), "1 1 %u:%u / /dev/shm rw - tmpfs tmpfs %s\n",
				 major(status_of_shm.st_dev), minor(status_of_shm.st_dev),
				 shared[i].mount);
		more_files = all;
		unit = read_unit(objects, shared[i].kind);
		more_files = NULL;
		if (!i && unit != 2 * MIB1) {
			printf("skipped: shared memory is not read in huge pages of 2 MiB\n");
			break;
		}
		snprintf(have, sizeof(have), "read in %ju bytes", (uintmax_t)unit);
		check(unit == (shared[i].huge ? 2 * MIB1 : 65536), shared[i].kind,
		      shared[i].setting, have);
	}
	unlink("hosts.image");
}

/* ---- Pools that no host can fill ---- */

/* NULL: where the host does not tell how much it has, any count is taken. */
static const struct {
	const char *options, *message;
	const char *files[3];
} totals[] = {
	{ "",
	  "more than the 1048576 bytes of memory",
	  { "/proc/meminfo", "MemTotal: 1024 kB\nSwapTotal: 0 kB\n" } },
	{ "",
	  "more than the 3145728 bytes of memory",
	  { "/proc/meminfo", "MemTotal: 1024 kB\nSwapTotal: 2048 kB\n" } },
	{ "", NULL, { "/proc/meminfo", "MemAvailable: 1024 kB\n" } },
	{ ",policy=bind,host-nodes=1",
	  "more than the 65536 bytes of memory",
	  { "/sys/devices/system/node/node1/meminfo", "Node 1 MemTotal: 64 kB\n" } },
	{ ",policy=bind,host-nodes=1",
	  NULL,
	  { "/sys/devices/system/node/node1/meminfo", "Node 1 MemFree: 64 kB\n" } },
};

/* The descriptor is too short, so that nothing is ever filled. */
static void try_totals(struct hostmem_objects *objects)
{
	int fd = memfd_create("short", MFD_CLOEXEC);

	use_nodes("0-3", "0-3");
	must(fd >= 0, "memfd_create");
	for (size_t i = 0; i < ARRAY_LEN(totals); i++) {
		struct hostmem_error err = { 0 };
		struct hostmem_pool *pool = NULL;
		char options[128];
		int result;

		snprintf(options, sizeof(options), "memory-backend-fd,size=64K,share=off,fd=%d%s",
			 fd, totals[i].options);
		more_files = totals[i].files;
		result = hostmem_pool_new_from_options(objects, &pool, options, UINT32_MAX, &err);
		check(!result == !totals[i].message, options, totals[i].files[1], err.message);
		check(!totals[i].message || strstr(err.message, totals[i].message), options,
		      totals[i].files[1], err.message);
		hostmem_pool_free(pool);
		more_files = NULL;
	}
	close(fd);
}

/* ---- All of it ---- */

static struct hostmem_objects *objects_on(const struct hostmem_host *host)
{
	static const struct hostmem_defaults defaults = { .fd_by_number = true };
	struct hostmem_error err = { 0 };
	struct hostmem_objects *objects;

	must(!hostmem_objects_new(&objects, host, &defaults, NULL, 0, &err), err.message);
	return objects;
}

int main(void)
{
	struct hostmem_objects *objects, *old_objects;
	struct hostmem_error err = { 0 };
	struct hostmem_host *host, *old;
	struct hostmem_host_info info;

	if (access("/proc/self/numa_maps", R_OK)) {
		printf("skipped: this kernel has no NUMA\n");
		return 0;
	}
	must(!hostmem_host_probe(&host, &err), err.message);
	old = probe_old_host();
	hostmem_host_narrow_calls(old, 0);
	hostmem_host_get_info(host, &info);
	objects = objects_on(host);
	old_objects = objects_on(old);
	shim_open_instead = open_instead;
	use_nodes("0-3", "0-3");
	try_reservations(objects);
	try_locks(objects);
	try_refused(objects, false);
	try_refused(old_objects, true);
	try_placements(objects, info.thp_size);
	try_file_on_disk(objects);
	try_file_on_disk(old_objects);
	try_without_numa(objects);
	try_rests(objects, false);
	try_rests(old_objects, true);
	try_groups(objects);
	try_huge_groups(objects);
	try_shortage(objects);
	try_shared(objects);
	try_totals(objects);
	hostmem_objects_free(old_objects);
	hostmem_objects_free(objects);
	hostmem_host_free(old);
	hostmem_host_free(host);
	printf("%zu problems\n", problems);
	return problems != 0;
}

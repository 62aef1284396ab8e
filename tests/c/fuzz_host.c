/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Invented contents of the kernel's files: sysfs, meminfo, zoneinfo, control groups, status, smaps
 * and numa_maps. Whatever they say, the library stays within its memory and gives all back.
 *
 * The input is a list of files: a byte for which one, two for how long, then the contents, in which
 * '@' is the address of the memory in hex, '#' that of its second page and '$' its end, and '~' is
 * a list that is longer than any that the library has room for.
 */
#include "fuzz.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shim.h"

#define PAGE 4096
#define SIZE (64 * PAGE)
/* Numbers; an input itself has at most 4096 bytes. */
#define LONG_LIST 6000

/* How a path ends. */
static const char *const files[] = {
	"transparent_hugepage/hpage_pmd_size",
	"transparent_hugepage/enabled",
	"transparent_hugepage/shmem_enabled",
	"ksm/run",
	"vm/overcommit_memory",
	"kernel/osrelease",
	"node/online",
	"node/has_memory",
	"node/has_cpu",
	"node0/cpulist",
	"node1/cpulist",
	"/distance",
	"node0/meminfo",
	"node1/meminfo",
	"/proc/meminfo",
	"/proc/self/status",
	"/proc/zoneinfo",
	"/proc/self/cgroup",
	"/mountinfo",
	"/memory.max",
	"/memory.current",
	"/memory.stat",
	"/memory.swap.max",
	"/memory.swap.current",
	".limit_in_bytes",
	".usage_in_bytes",
	"/nr_hugepages",
	"/free_hugepages",
	"/resv_hugepages",
	"/nr_overcommit_hugepages",
	"/surplus_hugepages",
	"weighted_interleave/node0",
	"/proc/self/numa_maps",
	"/proc/self/smaps",
	"cpu/online",
};

static const struct file {
	const uint8_t *data;
	size_t size;
} * contents_of(const char *path);

static struct file contents[ARRAY_LEN(files)];
static _Atomic uintptr_t address;

static const struct file *contents_of(const char *path)
{
	size_t length = strlen(path);

	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		size_t end = strlen(files[i]);

		if (end <= length && !strcmp(path + length - end, files[i]))
			return contents[i].data ? &contents[i] : NULL;
	}
	return NULL;
}

static void write_byte(FILE *stream, uint8_t byte)
{
	if (byte == '@')
		fprintf(stream, "%lx", (unsigned long)address);
	else if (byte == '#')
		fprintf(stream, "%lx", (unsigned long)address + PAGE);
	else if (byte == '$')
		fprintf(stream, "%lx", (unsigned long)address + SIZE);
	else if (byte == '~')
		for (int i = 0; i < LONG_LIST; i++)
			fputs("1,", stream);
	else
		fputc(byte, stream);
}

static int open_instead(const char *path)
{
	const struct file *file = contents_of(path);
	FILE *stream;
	int fd, kept;

	if (!strcmp(path, "/proc/self/pagemap"))
		return SHIM_REAL;
	if (!file)
		return -ENOENT;
	fd = memfd_create("invented", MFD_CLOEXEC);
	MUST(fd >= 0);
	kept = dup(fd);
	stream = fdopen(fd, "w");
	MUST(stream && kept >= 0);
	for (size_t i = 0; i < file->size; i++)
		write_byte(stream, file->data[i]);
	fclose(stream);
	MUST(!lseek(kept, 0, SEEK_SET));
	return kept;
}

static void read_contents(struct input *input)
{
	memset(contents, 0, sizeof(contents));
	while (input->size) {
		struct file *file = &contents[take_byte(input) % ARRAY_LEN(files)];
		size_t size = take_byte(input);

		size |= (size_t)take_byte(input) << 8;
		if (size > input->size)
			size = input->size;
		*file = (struct file){ input->data, size };
		input->data += size;
		input->size -= size;
	}
}

static struct hostmem_error err;

static void look_at_topology(void)
{
	struct hostmem_topology *topology;
	const struct hostmem_node *node;
	uint32_t cpus[16];

	if (checked(hostmem_topology_read(&topology, &err), &err))
		return;
	for (size_t i = 0; (node = hostmem_topology_get_node(topology, i)); i++) {
		MUST(node->id < HOSTMEM_NODES_MAX);
		hostmem_topology_get_distance(topology, 0, i);
		hostmem_topology_get_cpus(topology, i, cpus, ARRAY_LEN(cpus));
		hostmem_topology_get_huge_pages(topology, i, 0);
	}
	hostmem_topology_free(topology);
}

static void look_at_host(const struct hostmem_host *host)
{
	struct hostmem_feature feature;
	struct hostmem_host_info info;

	hostmem_host_get_info(host, &info);
	for (size_t i = 0; !hostmem_host_get_feature(host, i, &feature); i++)
		MUST(memchr(feature.reason, '\0', sizeof(feature.reason)));
}

static void use_memory(struct hostmem_backend *backend)
{
	struct hostmem_rebind_result rebound;
	struct hostmem_placement placement;
	struct hostmem_memory memory;
	const uint32_t node = 0;

	if (hostmem_backend_get_memory(backend, &memory, NULL))
		return;
	address = (uintptr_t)memory.address;
	memset(memory.address, 1, memory.size);
	if (!checked(hostmem_backend_get_placement(backend, &placement, &err), &err)) {
		MUST(memchr(placement.policy, '\0', sizeof(placement.policy)));
		MUST(memchr(placement.reason, '\0', sizeof(placement.reason)));
	}
	checked(hostmem_backend_populate(backend, 0, memory.size, &err), &err);
	checked(hostmem_backend_rebind(backend, &rebound, "interleave", &node, 1, UINT64_MAX, 0,
				       &err),
		&err);
	MUST(*(char *)memory.address == 1);
}

static void use_backend(struct hostmem_objects *objects, const char *options)
{
	struct hostmem_backend *backend;

	MUST(!hostmem_backend_new_from_options(objects, &backend, options, &err));
	if (!checked(hostmem_backend_complete(backend, &err), &err))
		use_memory(backend);
	hostmem_backend_free(backend);
}

static void use_context(struct hostmem_objects *objects)
{
	struct hostmem_thread_context *context;
	const char *options = "thread-context,id=context,node-affinity=0";

	MUST(!hostmem_thread_context_new_from_options(objects, &context, options, &err));
	checked(hostmem_thread_context_complete(context, &err), &err);
	hostmem_thread_context_free(context);
}

static void use_objects(const struct hostmem_host *host)
{
	/* The kernel has no huge pages of 64 KiB, so no pool of the host's is used. */
	static const char *const options[] = {
		"memory-backend-ram,id=ram,size=256K,prealloc=on,policy=bind,host-nodes=0",
		"memory-backend-ram,id=ram,size=256K,prealloc=on,policy=weighted-interleave,host-"
		"nodes=0",
		"memory-backend-memfd,id=ram,size=256K,prealloc=on,thp=always",
		"memory-backend-memfd,id=ram,size=256K,hugetlb=on,hugetlbsize=64K",
	};
	static const struct hostmem_defaults defaults;
	struct hostmem_objects *objects;

	MUST(!hostmem_objects_new(&objects, host, &defaults, NULL, 0, NULL));
	for (size_t i = 0; i < ARRAY_LEN(options); i++)
		use_backend(objects, options[i]);
	use_context(objects);
	hostmem_objects_free(objects);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	struct hostmem_host *host;
	struct shim_count left;

	read_contents(&input);
	shim_open_instead = open_instead;
	MUST(!hostmem_host_probe(&host, NULL));
	look_at_host(host);
	look_at_topology();
	use_objects(host);
	hostmem_host_free(host);
	left = shim_count();
	MUST(!left.ranges && !left.descriptors && !left.files && !left.threads &&
	     !left.allocations);
	return 0;
}

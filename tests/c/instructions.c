/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What tests/instructions.rs counts the instructions of, under callgrind: instructions <what>. The
 * kernel's files have invented contents, so that every machine counts the same.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hostmem.h"
#include "shim.h"

#define OTHER_MAPPINGS 200

static struct hostmem_objects *objects;
static struct hostmem_backend *backend;

static void must(bool good)
{
	if (!good)
		abort();
}

/* ---- What is counted: one function for each ---- */

static void live(const char *kind)
{
	struct hostmem_backend *made;

	must(!hostmem_backend_new(objects, &made, kind, "counted", NULL) &&
	     !hostmem_backend_set_number(made, "size", 2 << 20, NULL) &&
	     !hostmem_backend_complete(made, NULL) && !hostmem_backend_claim(made, "guest", NULL) &&
	     !hostmem_backend_release(made, NULL) && !hostmem_backend_delete(made, NULL));
	hostmem_backend_free(made);
}

__attribute__((noinline)) void count_life_ram(void)
{
	live("memory-backend-ram");
}

__attribute__((noinline)) void count_life_memfd(void)
{
	live("memory-backend-memfd");
}

__attribute__((noinline)) void count_set(void)
{
	must(!hostmem_backend_set_text(backend, "dump", "off", NULL));
}

__attribute__((noinline)) void count_get(void)
{
	char text[16];

	must(hostmem_backend_get_text(backend, "size", text, sizeof(text), NULL) > 0);
}

__attribute__((noinline)) void count_options(void)
{
	struct hostmem_backend *made;

	must(!hostmem_backend_new_from_options(
		objects, &made,
		"memory-backend-memfd,id=counted,size=1.5G,hugetlb=on,hugetlbsize=2M,"
		"policy=bind,host-nodes=0-3,host-nodes=5,prealloc=on,prealloc-threads=4",
		NULL));
	hostmem_backend_free(made);
}

__attribute__((noinline)) void count_placement(void)
{
	struct hostmem_placement placement;

	must(!hostmem_backend_get_placement(backend, &placement, NULL));
	must(placement.resident == 1 << 20);
}

static const struct {
	const char *name;
	void (*run)(void);
} counted[] = {
	{ "life_ram", count_life_ram }, { "life_memfd", count_life_memfd },
	{ "set", count_set },           { "get", count_get },
	{ "options", count_options },   { "placement", count_placement },
};

/* ---- The kernel's files ---- */

static void write_smaps(FILE *stream, unsigned long address, unsigned int kib)
{
	fprintf(stream,
		"%lx-%lx rw-p 00000000 00:00 0\nSize: 2048 kB\nKernelPageSize: 4 kB\n"
		"MMUPageSize: 4 kB\nRss: %u kB\nPss: %u kB\nAnonHugePages: 0 kB\nSwap: 0 kB\n"
		"Locked: 0 kB\nTHPeligible: 0\nVmFlags: rd wr mr mw me ac dc\n",
		address, address + (2 << 20), kib, kib);
}

static void write_numa_maps(FILE *stream, unsigned long address, unsigned int pages)
{
	fprintf(stream, "%lx default anon=%u dirty=%u N0=%u kernelpagesize_kB=4\n", address, pages,
		pages, pages);
}

static void write_file(FILE *stream, bool is_smaps)
{
	struct hostmem_memory memory;
	unsigned long address;

	must(!hostmem_backend_get_memory(backend, &memory, NULL));
	address = (unsigned long)memory.address;
	for (unsigned long i = OTHER_MAPPINGS; i > 0; i--) {
		if (is_smaps)
			write_smaps(stream, address - (i << 12), 1024);
		else
			write_numa_maps(stream, address - (i << 12), 256);
	}
	if (is_smaps)
		write_smaps(stream, address, 1024);
	else
		write_numa_maps(stream, address, 256);
}

static int open_instead(const char *path)
{
	bool is_smaps = strstr(path, "/smaps");
	FILE *stream;
	int fd, kept;

	if (!is_smaps && !strstr(path, "/numa_maps"))
		return -ENOENT;
	fd = memfd_create("invented", MFD_CLOEXEC);
	kept = dup(fd);
	stream = fdopen(fd, "w");
	must(stream && kept >= 0);
	write_file(stream, is_smaps);
	fclose(stream);
	must(!lseek(kept, 0, SEEK_SET));
	return kept;
}

int main(int argc, char **argv)
{
	static const struct hostmem_defaults defaults;
	struct hostmem_host *host;

	must(argc == 2);
	shim_open_instead = open_instead;
	shim_leave_out_neighbours();
	must(!hostmem_host_probe(&host, NULL) &&
	     !hostmem_objects_new(&objects, host, &defaults, NULL, 0, NULL) &&
	     !hostmem_backend_new_from_options(objects, &backend,
					       "memory-backend-ram,id=ram,size=2M", NULL) &&
	     !hostmem_backend_complete(backend, NULL));
	for (size_t i = 0; i < sizeof(counted) / sizeof(counted[0]); i++) {
		if (strcmp(counted[i].name, argv[1]) != 0)
			continue;
		/* Twice, so that all is linked and allocated; the second one counts. */
		counted[i].run();
		counted[i].run();
		return 0;
	}
	return 1;
}

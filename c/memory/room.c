/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Room on the file system of a backing: how much is left, and how much populating a range still
 * needs. Running out of it is SIGBUS for every process that maps a sparse file there.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memory.h"

/* A bound of the time that counting holes takes. */
#define MOST_HOLES 65536

bool hm_room_read(const struct hostmem_backend *backend, struct hm_room *room)
{
	struct hm_file file;
	int fd = backend->backing.fd;

	/* The room first: what is allocated in between is then needed no more, never twice. */
	if (fd < 0 || hm_os_get_room(fd, &room->total, &room->left) || hm_os_stat(fd, &file) ||
	    !S_ISREG(file.mode))
		return false;
	room->device = file.device;
	room->inode = file.inode;
	room->size = file.size;
	room->absent = file.size > file.allocated ? file.size - file.allocated : 0;
	/* Elsewhere a file is written to, and gets blocks, through shared mappings alone. */
	return file.shmem || hm_backend_is_hugetlb(backend) ||
	       (backend->shared && !backend->readonly);
}

/* Bytes in holes of a range of the file; fewer than there are when it has very many. */
static uint64_t count_holes(int fd, uint64_t offset, uint64_t length)
{
	uint64_t at = offset, end = offset + length, holes = 0;

	for (int i = 0; i < MOST_HOLES && at < end; i++) {
		uint64_t hole, data;

		/* The end of the file counts as a hole. */
		if (hm_os_seek(fd, at, SEEK_HOLE, &hole) || hole >= end)
			break;
		if (hm_os_seek(fd, hole, SEEK_DATA, &data) || data > end)
			data = end;
		holes += data - hole;
		at = data;
	}
	return holes;
}

uint64_t hm_room_count_needed(const struct hostmem_backend *backend, const struct hm_range *range,
			      const struct hm_room *room)
{
	uint64_t needed = range->length < room->absent ? range->length : room->absent;
	uint64_t elsewhere = room->size - range->length, holes;
	char path[32];
	int own;

	/* Counting takes time, so only where it matters. */
	if (needed <= room->left)
		return needed;
	/* Opened anew: through our descriptor a seek would move the offset of other processes. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", backend->backing.fd);
	own = hm_call_is_allowed(backend->host, HOSTMEM_CALL_LSEEK) ? hm_os_open(path, O_RDONLY)
								    : -EPERM;
	/* Without it is what cannot be elsewhere in the file. */
	if (own < 0)
		return room->absent > elsewhere ? room->absent - elsewhere : 0;
	/* Blocks that were allocated and not written count as holes: either figure may be high. */
	holes = count_holes(own, backend->backing.offset + range->offset, range->length);
	hm_os_close(own);
	return holes < needed ? holes : needed;
}

void hm_room_format_path(const struct hostmem_backend *backend, char *path, size_t size)
{
	char link[32];
	int length;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", backend->backing.fd);
	length = hm_call_read_link(backend->host, link, path, size);
	if (length < 0)
		hm_text_copy("its file", path, size);
}

void hm_room_warn(struct hostmem_backend *backend)
{
	const struct hm_range all = { .length = backend->mapping.size };
	struct hm_room room;
	uint64_t needed;
	char path[96];

	if (hm_backend_is_hugetlb(backend) || !hm_room_read(backend, &room))
		return;
	needed = hm_room_count_needed(backend, &all, &room);
	if (needed <= room.left)
		return;
	hm_room_format_path(backend, path, sizeof(path));
	hm_backend_warn(backend, HM_PROPERTY_SIZE, HM_WARNING_EFFECT,
			"the memory still needs %ju bytes and the file system of %s has %ju free; "
			"using more than that is SIGBUS",
			(uintmax_t)needed, path, (uintmax_t)room.left);
}

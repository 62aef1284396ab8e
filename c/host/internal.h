/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* What the files of the folder host share among themselves. */
#ifndef HOSTMEM_HOST_INTERNAL_H
#define HOSTMEM_HOST_INTERNAL_H

#include "host.h"

#define HM_NODE_DIR "/sys/devices/system/node/"

/* ---- mounts.c ---- */

/* A line of mountinfo (proc(5)). */
struct hm_mount {
	dev_t device;
	char root[1024], point[1024], type[32], options[512];
};

/* Calls `read` for each mount that the calling thread sees, until it returns false. */
void hm_mounts_read(bool (*read)(const struct hm_mount *mount, void *data), void *data);

/* ---- meminfo.c ---- */

/* Bytes of a line of /proc/meminfo; 0 where the kernel does not tell. */
uint64_t hm_meminfo_get(const char *name);

#endif

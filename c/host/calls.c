/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * System calls that are optional: made where the host was not narrowed, else as good as refused.
 * What is done without the answer is the caller's.
 */
#include <errno.h>
#include <sys/resource.h>

#include "host.h"

bool hm_call_is_allowed(const struct hostmem_host *host, enum hostmem_call call)
{
	return host->calls & call;
}

bool hm_call_is_locked(const struct hostmem_host *host, void *address, size_t size)
{
	return hm_call_is_allowed(host, HOSTMEM_CALL_MSYNC) && hm_os_is_locked(address, size);
}

bool hm_call_is_unmapped(const struct hostmem_host *host, void *address, size_t size)
{
	return hm_call_is_allowed(host, HOSTMEM_CALL_MSYNC) && hm_os_is_unmapped(address, size);
}

int hm_call_lock(const struct hostmem_host *host, void *address, size_t size, unsigned int flags)
{
	if (!hm_call_is_allowed(host, HOSTMEM_CALL_MLOCK2))
		return -EPERM;
	return hm_os_lock(address, size, flags);
}

int hm_call_count_resident(const struct hostmem_host *host, int fd, uint64_t offset,
			   uint8_t *address, uint64_t size, uint64_t *resident)
{
	unsigned int ways = 0;

	if (hm_call_is_allowed(host, HOSTMEM_CALL_CACHESTAT))
		ways |= HM_RESIDENT_CACHESTAT;
	if (hm_call_is_allowed(host, HOSTMEM_CALL_MINCORE))
		ways |= HM_RESIDENT_MINCORE;
	if (hm_call_is_allowed(host, HOSTMEM_CALL_LSEEK))
		ways |= HM_RESIDENT_LSEEK;
	return hm_resident_count(ways, fd, offset, address, size, resident);
}

int hm_call_count_cached(const struct hostmem_host *host, int fd, uint64_t offset, uint64_t size,
			 uint64_t *cached)
{
	if (!hm_call_is_allowed(host, HOSTMEM_CALL_CACHESTAT))
		return -EPERM;
	return hm_resident_count_cached(fd, offset, size, cached);
}

int hm_call_count_own(const struct hostmem_host *host, const uint8_t *address, uint64_t size,
		      uint64_t *own)
{
	if (!hm_call_is_allowed(host, HOSTMEM_CALL_PREAD64))
		return -EPERM;
	return hm_resident_count_own(address, size, own);
}

int hm_call_get_resident(const struct hostmem_host *host, uint8_t *address, uint64_t size,
			 unsigned char *pages)
{
	if (!hm_call_is_allowed(host, HOSTMEM_CALL_MINCORE))
		return -EPERM;
	return hm_resident_get(address, size, pages);
}

int hm_call_get_bound(const struct hostmem_host *host, struct hm_set *nodes)
{
	if (!hm_call_is_allowed(host, HOSTMEM_CALL_GET_MEMPOLICY))
		return -EPERM;
	return hm_numa_get_bound(nodes);
}

int hm_call_set_thread_policy(const struct hostmem_host *host, enum hm_policy policy,
			      const struct hm_set *nodes)
{
	if (!hm_call_is_allowed(host, HOSTMEM_CALL_SET_MEMPOLICY))
		return -EPERM;
	return hm_numa_set_thread(policy, nodes);
}

int hm_call_set_affinity(const struct hostmem_host *host, const struct hm_set *cpus)
{
	if (!hm_call_is_allowed(host, HOSTMEM_CALL_SCHED_SETAFFINITY))
		return -EPERM;
	return hm_os_set_affinity(0, cpus);
}

int hm_call_get_affinity(const struct hostmem_host *host, struct hm_set *cpus)
{
	if (hm_call_is_allowed(host, HOSTMEM_CALL_SCHED_GETAFFINITY))
		return hm_os_get_affinity(0, cpus);
	*cpus = host->seen.cpus;
	return 0;
}

bool hm_call_may_spread(const struct hostmem_host *host)
{
	return hm_call_is_allowed(host, HOSTMEM_CALL_SCHED_SETAFFINITY) &&
	       hm_call_is_allowed(host, HOSTMEM_CALL_SCHED_GETAFFINITY);
}

int hm_call_set_idle(const struct hostmem_host *host)
{
	if (!hm_call_is_allowed(host, HOSTMEM_CALL_SCHED_SETSCHEDULER))
		return -EPERM;
	return hm_os_set_idle();
}

int hm_call_read_link(const struct hostmem_host *host, const char *path, char *buffer, size_t size)
{
	if (!hm_call_is_allowed(host, HOSTMEM_CALL_READLINK))
		return -EPERM;
	return hm_os_read_link(path, buffer, size);
}

int hm_call_get_limit(const struct hostmem_host *host, int resource, uint64_t *limit)
{
	if (hm_call_is_allowed(host, HOSTMEM_CALL_PRLIMIT64))
		return hm_os_get_limit(resource, limit);
	if (resource != RLIMIT_MEMLOCK && resource != RLIMIT_FSIZE)
		return -EPERM;
	*limit = resource == RLIMIT_FSIZE ? host->info.file_limit : host->info.memlock_limit;
	return 0;
}

bool hm_call_is_thp_disabled(const struct hostmem_host *host)
{
	if (!hm_call_is_allowed(host, HOSTMEM_CALL_PRCTL))
		return host->info.thp_disabled;
	return hm_os_is_thp_disabled();
}

void hm_call_name(const struct hostmem_host *host, void *address, size_t size, const char *name)
{
	if (hm_call_is_allowed(host, HOSTMEM_CALL_PRCTL))
		hm_os_name(address, size, name);
}

void hm_call_name_thread(const struct hostmem_host *host, const char *id)
{
	if (hm_call_is_allowed(host, HOSTMEM_CALL_PRCTL))
		hm_thread_name(id);
}

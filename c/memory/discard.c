/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Gives one range of memory back to the host, by the calls that suit what it is made of. Does not
 * check whether that is allowed.
 */
#include <errno.h>
#include <sys/mman.h>

#include "memory.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

/* Kernels before 5.18 give locked pages back only when they are unlocked. */
static int drop_locked_pages(const struct hostmem_host *host, uint8_t *address, uint64_t length)
{
	int result = hm_os_advise(address, length, MADV_DONTNEED_LOCKED);
	int locked;

	/* It may have been refused for another reason than a lock. */
	if (result != -EINVAL || !hm_call_is_locked(host, address, length))
		return result;
	result = hm_os_unlock(address, length);
	if (result)
		return result;
	result = hm_os_advise(address, length, MADV_DONTNEED);
	locked = hm_os_lock(address, length, MLOCK_ONFAULT);
	return result ? result : locked;
}

/* EINVAL is how the kernel answers for locked memory, by us or by mlockall(2) (madvise(2)). */
int hm_discard_pages(const struct hostmem_host *host, uint8_t *address, uint64_t length)
{
	int result = hm_os_advise(address, length, MADV_DONTNEED);

	return result == -EINVAL ? drop_locked_pages(host, address, length) : result;
}

/*
 * Shared memory, and memory that no other process can reach, is freed behind the mapping. The pages
 * of a private mapping are this process's own copies, which go as well.
 */
int hm_discard_range(const struct hostmem_backend *backend, const struct hm_range *range)
{
	uint8_t *address = backend->mapping.address + range->offset;
	bool own = backend->backing.flags & HOSTMEM_BACKING_OWN;
	int result;

	if (backend->backing.fd >= 0 && (backend->shared || own)) {
		result = hm_os_punch_hole(backend->backing.fd,
					  backend->backing.offset + range->offset, range->length);
		/* A hole in huge pages unmaps them everywhere, private copies too; kernels before
		 * 5.18 refuse the advice. */
		if (result || hm_backend_is_hugetlb(backend))
			return result;
	}
	return hm_discard_pages(backend->host, address, range->length);
}

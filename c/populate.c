/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Makes one range of memory present by the method that suits what it is made of. Does not know
 * threads.
 */
#include <errno.h>
#include <sys/mman.h>

#include "internal.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

/* More than any signal storm or passing shortage of a kernel resource takes (madvise(2)). */
#define MOST_RETRIES 1000

static int advise_again(void *address, size_t size, int advice)
{
	int result = 0;

	for (int i = 0; i < MOST_RETRIES; i++) {
		result = hm_os_advise(address, size, advice);
		if (result != -EINTR && result != -EAGAIN)
			break;
	}
	return result;
}

static uint64_t expected_huge_size(const struct hostmem_backend *backend,
				   const struct hm_values *values)
{
	uint64_t base = backend->host->page_size, thp = backend->host->thp_size;

	if (backend->page_size > base)
		return backend->page_size;
	/* Shared memory in huge pages is zeroed upwards as it is. */
	if (backend->backing.fd >= 0 || values->thp == HM_THP_NEVER || backend->mapping.size < thp)
		return 0;
	return thp;
}

void hm_populate_plan(const struct hostmem_backend *backend, const struct hm_values *values,
		      struct hm_populate *plan)
{
	plan->page_size = backend->host->page_size;
	plan->huge_size = expected_huge_size(backend, values);
	plan->readonly = backend->readonly;
	plan->last_page_first = plan->huge_size && !plan->readonly &&
				backend->host->methods & HOSTMEM_METHOD_LAST_PAGE_FIRST;
}

/*
 * Kernels before 2026 zero a huge page towards the address that faulted: from its last base page
 * they go upwards, which memory serves up to twice as fast. Failures show again in the pass over
 * the whole range.
 */
static void fault_last_pages(const struct hm_populate *plan, uint8_t *address, uint64_t size)
{
	for (uint64_t end = plan->huge_size; end <= size; end += plan->huge_size)
		hm_os_advise(address + end - plan->page_size, plan->page_size, MADV_POPULATE_WRITE);
}

int hm_populate_range(const struct hm_populate *plan, uint8_t *address, uint64_t size)
{
	if (plan->last_page_first)
		fault_last_pages(plan, address, size);
	return advise_again(address, size,
			    plan->readonly ? MADV_POPULATE_READ : MADV_POPULATE_WRITE);
}

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Makes one range of memory present by the way that suits what it is made of. Does not know
 * threads. Every way but the plain one is an optimisation: where it does not do all there is, the
 * plain one follows, and its result is the result.
 */
#include <errno.h>
#include <sys/stat.h>

#include "compat.h"
#include "memory.h"

/* More than any signal storm or passing shortage of a kernel resource takes (madvise(2)). */
#define MOST_RETRIES 1000

/* ---- Choosing a way ---- */

static bool may(const struct hostmem_backend *backend, enum hostmem_method method)
{
	return backend->host->methods & method;
}

/* Collapsing takes all of a huge page from where its first page is. */
static bool is_interleaved(const struct hm_values *values)
{
	return values->policy == HM_POLICY_INTERLEAVE ||
	       values->policy == HM_POLICY_WEIGHTED_INTERLEAVE;
}

/* All at once, since registering stops every thread that fills. */
static void begin_zero_pages(struct hm_populate *plan)
{
	plan->fault_fd = hm_fault_open();
	if (plan->fault_fd < 0)
		return;
	plan->way = HM_POPULATE_ZEROPAGE;
	if (hm_fault_register(plan->fault_fd, plan->address, plan->size, false))
		hm_populate_end(plan);
}

/* Where others may have filled it, each page that is there would cost a call of its own. */
static bool is_new(const struct hostmem_backend *backend)
{
	return backend->backing.flags & HOSTMEM_BACKING_OWN || backend->backing.made;
}

/* All pages of a file that others have filled are there: nothing is zeroed. */
static bool is_filled(const struct hostmem_backend *backend)
{
	struct hm_file file;

	return backend->backing.fd >= 0 && backend->shared && !is_new(backend) &&
	       !hm_os_stat(backend->backing.fd, &file) && file.allocated >= file.size;
}

/*
 * Collapsing overrides the host's setting, so it has to be asked for. Zero pages need memory that
 * no other thread touches yet: a touch of a registered page would wait for ever. Memory whose
 * contents are read on demand is registered already.
 */
static void choose_for_shmem(struct hm_populate *plan, const struct hostmem_backend *backend,
			     const struct hm_values *values, dev_t device)
{
	uint64_t thp = backend->host->thp_size;
	bool large = thp && values->thp != HM_THP_NEVER && plan->size >= thp;

	if (large && hm_mounts_is_shmem_huge(device, backend->host->info.thp_shmem)) {
		plan->huge_size = thp;
	} else if (large && values->thp == HM_THP_ALWAYS && !is_interleaved(values) &&
		   may(backend, HOSTMEM_METHOD_COLLAPSE)) {
		plan->huge_size = thp;
		plan->way = HM_POPULATE_COLLAPSE;
	} else if (hm_backend_get_state(backend) == HOSTMEM_STATE_COMPLETING && is_new(backend) &&
		   !backend->lazy && may(backend, HOSTMEM_METHOD_ZEROPAGE)) {
		begin_zero_pages(plan);
	} else if (is_filled(backend)) {
		plan->way = HM_POPULATE_READ_FIRST;
	}
}

static void choose_for_file(struct hm_populate *plan, const struct hostmem_backend *backend,
			    const struct hm_values *values)
{
	struct hm_file file;

	/* A private mapping copies pages, for which the file needs none of its own. */
	if (!backend->shared || plan->readonly || hm_os_stat(plan->fd, &file))
		return;
	if (file.shmem)
		choose_for_shmem(plan, backend, values, file.device);
	else if (S_ISREG(file.mode) && may(backend, HOSTMEM_METHOD_FALLOCATE))
		plan->way = HM_POPULATE_FALLOCATE;
}

static void choose_for_huge_pages(struct hm_populate *plan, const struct hostmem_backend *backend,
				  uint64_t huge_size)
{
	plan->huge_size = huge_size;
	plan->filled = is_filled(backend);
	if (!plan->readonly && !plan->filled && may(backend, HOSTMEM_METHOD_LAST_PAGE_FIRST))
		plan->way = HM_POPULATE_LAST_PAGE_FIRST;
}

void hm_populate_begin(struct hm_populate *plan, const struct hostmem_backend *backend,
		       const struct hm_values *values)
{
	uint64_t thp = backend->host->thp_size;

	*plan = (struct hm_populate){
		.page_size = backend->host->page_size,
		.readonly = backend->readonly,
		.fd = backend->backing.fd,
		.fd_offset = backend->backing.offset,
		.address = backend->mapping.address,
		.size = backend->mapping.size,
		.fault_fd = -1,
	};
	if (!backend->host->populate) {
		plan->touch_size = backend->page_size;
		return;
	}
	if (backend->page_size > plan->page_size)
		choose_for_huge_pages(plan, backend, backend->page_size);
	else if (plan->fd >= 0)
		choose_for_file(plan, backend, values);
	else if (thp && values->thp != HM_THP_NEVER && plan->size >= thp)
		choose_for_huge_pages(plan, backend, thp);
}

void hm_populate_end(struct hm_populate *plan)
{
	if (plan->fault_fd >= 0) {
		/* Closing alone would not end it: a child forked meanwhile has the descriptor too.
		 */
		hm_fault_unregister(plan->fault_fd, plan->address, plan->size);
		hm_os_close(plan->fault_fd);
	}
	plan->fault_fd = -1;
	plan->way = HM_POPULATE_PLAIN;
}

/* ---- Going it ---- */

/* For kernels before 5.14. */
static int touch(const struct hm_populate *plan, uint8_t *address, uint64_t size)
{
	int result = 0;

	for (uint64_t offset = 0; offset < size && !result; offset += plan->touch_size)
		result = hm_os_touch(address + offset, !plan->readonly);
	return result;
}

static int populate(const struct hm_populate *plan, uint8_t *address, uint64_t size)
{
	int advice = plan->readonly ? MADV_POPULATE_READ : MADV_POPULATE_WRITE;
	int result = 0;

	if (plan->touch_size)
		return touch(plan, address, size);
	for (int i = 0; i < MOST_RETRIES; i++) {
		result = hm_os_advise(address, size, advice);
		if (result != -EINTR && result != -EAGAIN)
			break;
	}
	return result;
}

/* Bytes to the first place in the memory where a whole huge page can begin. */
static uint64_t skip_to_huge(const struct hm_populate *plan, const uint8_t *address)
{
	uint64_t over = (uintptr_t)address % plan->huge_size;

	return over ? plan->huge_size - over : 0;
}

/*
 * Kernels before 2026 zero a huge page towards the address that faulted: from its last base page
 * they go upwards, which memory serves up to twice as fast.
 */
static void fault_last_pages(const struct hm_populate *plan, uint8_t *address, uint64_t size)
{
	uint64_t end = skip_to_huge(plan, address) + plan->huge_size;

	for (; end <= size; end += plan->huge_size)
		hm_os_advise(address + end - plan->page_size, plan->page_size, MADV_POPULATE_WRITE);
}

static uint64_t offset_in_file(const struct hm_populate *plan, const uint8_t *address)
{
	return plan->fd_offset + (uint64_t)(address - plan->address);
}

/*
 * Huge page by huge page, since one that cannot be made must not hold back the rest. The errno is
 * no verdict: some kernels give EINVAL where they succeed.
 */
static void collapse(const struct hm_populate *plan, uint8_t *address, uint64_t size)
{
	uint64_t offset = skip_to_huge(plan, address);

	for (; offset + plan->huge_size <= size; offset += plan->huge_size) {
		hm_os_allocate(plan->fd, offset_in_file(plan, address + offset), plan->page_size);
		hm_os_advise(address + offset, plan->huge_size, MADV_COLLAPSE);
	}
}

/* Whether every page of a registered range was absent and is there now. */
static bool fill_with_zero(const struct hm_populate *plan, uint8_t *address, uint64_t size)
{
	bool all = true;
	uint64_t done;

	for (uint64_t offset = 0; offset < size; offset += done) {
		int result = hm_fault_zero(plan->fault_fd, address + offset, size - offset, &done);

		if (!result || (result == -EAGAIN && done))
			continue;
		if (result != -EEXIST)
			return false;
		/* A page that is there keeps its contents. */
		all = false;
		done = done ? done : plan->page_size;
	}
	return all;
}

int hm_populate_range(const struct hm_populate *plan, uint8_t *address, uint64_t size)
{
	int allocated = 0, result;

	switch (plan->way) {
	case HM_POPULATE_PLAIN:
		break;
	case HM_POPULATE_LAST_PAGE_FIRST:
		fault_last_pages(plan, address, size);
		break;
	case HM_POPULATE_ZEROPAGE:
		/* The plain way would wait for itself as long as the memory is registered. */
		return fill_with_zero(plan, address, size) ? 0 : HM_POPULATE_AGAIN;
	case HM_POPULATE_COLLAPSE:
		collapse(plan, address, size);
		break;
	case HM_POPULATE_FALLOCATE:
		allocated = hm_os_allocate(plan->fd, offset_in_file(plan, address), size);
		break;
	case HM_POPULATE_READ_FIRST:
		/* A fault that reads maps the pages around it too; one that writes maps its own. */
		hm_os_advise(address, size, MADV_POPULATE_READ);
		break;
	}
	result = populate(plan, address, size);
	/* Says why, where populating only says that the page cannot be touched. */
	return result == -EFAULT && (allocated == -ENOSPC || allocated == -EDQUOT) ? allocated
										   : result;
}

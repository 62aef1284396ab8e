/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * memory-backend-ram: anonymous memory, of huge pages from the host's pools with hugetlb=on; with
 * share=on a sealed memfd named after the id, so that there is a descriptor to hand out.
 */
#include <fcntl.h>

#include "kind.h"

static int check(void *data, const struct hostmem_backend *backend, struct hostmem_error *err)
{
	struct hm_values values;

	(void)data;
	hm_backend_snapshot(backend, &values);
	if (hm_huge_pages_check_wanted(backend, &values, err))
		return -1;
	return values.share ? hm_check_file_limit(backend, values.size, err) : 0;
}

static int allocate(void *data, const struct hostmem_backend *backend,
		    struct hostmem_backing *backing, struct hostmem_error *err)
{
	struct hm_values values;

	(void)data;
	hm_backend_snapshot(backend, &values);
	*backing = (struct hostmem_backing){ .fd = -1 };
	if (!values.share) {
		backing->huge_page = hm_huge_pages_wanted(backend, &values);
		return 0;
	}
	backing->fd =
		hm_memfd_create(backend, values.size, hm_huge_pages_wanted(backend, &values), err);
	backing->flags = HOSTMEM_BACKING_OWN;
	backing->seals = F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
	return backing->fd < 0 ? -1 : 0;
}

const struct hostmem_kind hm_kind_ram = {
	.name = "memory-backend-ram",
	.description = "Anonymous memory of this process; with share=on a memfd that can be "
		       "handed to other processes.",
	.check = check,
	.allocate = allocate,
};

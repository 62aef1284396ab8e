/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The list of the kinds that come with the library. CONTRIBUTING.md says what adding one
 * means.
 */
#include "kind.h"

/* In alphabetical order, which is the order in which users are shown them. */
static const struct hostmem_kind *const kinds[] = {
	&hm_kind_fd, &hm_kind_file, &hm_kind_memfd, &hm_kind_ram, &hm_kind_shm,
};

int hm_kinds_register(struct hostmem_objects *objects, struct hostmem_error *err)
{
	for (size_t i = 0; i < HM_ARRAY_LEN(kinds); i++) {
		if (hostmem_objects_register_kind(objects, kinds[i], err))
			return -1;
	}
	return 0;
}

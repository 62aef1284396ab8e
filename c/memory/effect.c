/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Warnings about values that were asked for and do nothing with the memory that a backend has. The
 * kernel accepts them in silence.
 */
#include "memory.h"

static bool is_merged_nowhere(const struct hostmem_backend *backend, const struct hm_values *values)
{
	return values->merge && (backend->shared || hm_backend_is_hugetlb(backend));
}

static bool is_huge_already(const struct hostmem_backend *backend, const struct hm_values *values)
{
	return values->thp != HM_THP_AUTO && hm_backend_is_hugetlb(backend);
}

static bool is_never_swapped(const struct hostmem_backend *backend, const struct hm_values *values)
{
	return values->lock && hm_backend_is_hugetlb(backend);
}

static bool discards_nothing(const struct hostmem_backend *backend, const struct hm_values *values)
{
	return values->discard_data && (!backend->shared || backend->readonly);
}

/* Populated, a private mapping has copies of pages that the descriptor has as well. */
static bool is_there_twice(const struct hostmem_backend *backend, const struct hm_values *values)
{
	return !values->share && backend->backing.fd >= 0 &&
	       backend->backing.flags & HOSTMEM_BACKING_OWN;
}

static bool is_in_no_order(const struct hostmem_backend *backend, const struct hm_values *values)
{
	(void)backend;
	return *values->contents_order &&
	       !(values->prealloc && values->prealloc_mode == HM_PREALLOC_BACKGROUND);
}

static const struct row {
	enum hm_property property;
	bool (*applies)(const struct hostmem_backend *backend, const struct hm_values *values);
	const char *text;
} rows[] = {
	{ HM_PROPERTY_MERGE, is_merged_nowhere,
	  "merge=on has no effect: the kernel merges private small pages only" },
	{ HM_PROPERTY_THP, is_huge_already, "it has no effect on hugetlb pages" },
	{ HM_PROPERTY_LOCK, is_never_swapped,
	  "lock=on has no effect on hugetlb pages, which are never swapped" },
	{ HM_PROPERTY_CONTENTS_ORDER, is_in_no_order,
	  "it has no effect without prealloc=on and prealloc-mode=background" },
	{ HM_PROPERTY_DISCARD_DATA, discards_nothing,
	  "discard-data=on has no effect without share=on, nor on a file that is only read" },
	{ HM_PROPERTY_SHARE, is_there_twice,
	  "share=off takes the memory twice, in the memfd and as private copies of what is "
	  "written; memory-backend-ram takes it once" },
};

void hm_effect_warn(struct hostmem_backend *backend, enum hm_property property,
		    const struct hm_values *values)
{
	for (size_t i = 0; i < HM_ARRAY_LEN(rows); i++) {
		if (rows[i].property == property && rows[i].applies(backend, values))
			hm_backend_warn(backend, property, HM_WARNING_EFFECT, "%s", rows[i].text);
	}
}

void hm_effect_warn_all(struct hostmem_backend *backend, const struct hm_values *values)
{
	for (size_t i = 0; i < HM_ARRAY_LEN(rows); i++) {
		if (backend->origins[rows[i].property] != HOSTMEM_ORIGIN_DEFAULT)
			hm_effect_warn(backend, rows[i].property, values);
	}
}

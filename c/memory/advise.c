/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Advice to the kernel about the memory as a whole: huge pages, page merging, dumps, forks,
 * locking. Each is done as asked, off as well as on. Owns no values.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "memory.h"

static int advise(const struct hostmem_backend *backend, int advice)
{
	return hm_os_advise(backend->mapping.address, backend->mapping.size, advice);
}

static int fail(const struct hostmem_backend *backend, const char *property, const char *name,
		int result, struct hostmem_error *err)
{
	return hm_fail(err, hm_error_kind_of(-result), -result, "%s: %s: madvise(%s) failed: %s",
		       backend->label, property, name, strerror(-result));
}

/* EINVAL is how a kernel built without page sharing answers (madvise(2)). */
int hm_advise_merge(const struct hostmem_backend *backend, bool merge, bool asked,
		    struct hostmem_error *err)
{
	int result = advise(backend, merge ? MADV_MERGEABLE : MADV_UNMERGEABLE);

	if (!result || (result == -EINVAL && !(merge && asked)))
		return 0;
	if (result == -EINVAL)
		return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, EINVAL,
			       "%s: merge=on: this kernel has no same-page merging (CONFIG_KSM); "
			       "use merge=off",
			       backend->label);
	return fail(backend, "merge", merge ? "MADV_MERGEABLE" : "MADV_UNMERGEABLE", result, err);
}

/* Memory of a device that the kernel does not manage is in no dump: EINVAL. */
int hm_advise_dump(const struct hostmem_backend *backend, bool dump, bool asked,
		   struct hostmem_error *err)
{
	int result = advise(backend, dump ? MADV_DODUMP : MADV_DONTDUMP);

	if (!result || (result == -EINVAL && dump && !asked))
		return 0;
	if (result == -EINVAL && dump)
		return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, EINVAL,
			       "%s: dump=on: the kernel does not dump memory of this device; use "
			       "dump=off",
			       backend->label);
	return fail(backend, "dump", dump ? "MADV_DODUMP" : "MADV_DONTDUMP", result, err);
}

static int advise_never_huge(const struct hostmem_backend *backend, struct hostmem_error *err)
{
	int result = advise(backend, MADV_NOHUGEPAGE);

	/* A kernel without huge pages gives none. */
	return result && result != -EINVAL ? fail(backend, "thp", "MADV_NOHUGEPAGE", result, err)
					   : 0;
}

/*
 * The setting that decides for anonymous memory: since Linux 6.8 that of the page size, unless it
 * leaves the choice to the one of all sizes. What cannot be read is what the probe saw.
 */
static void read_thp_setting(const struct hostmem_backend *backend, char *path, size_t path_size,
			     char *setting, size_t size)
{
#define THP_DIR "/sys/kernel/mm/transparent_hugepage/"
	snprintf(path, path_size, THP_DIR "hugepages-%jukB/enabled",
		 (uintmax_t)(backend->host->thp_size / 1024));
	hm_os_read_setting(path, setting, size);
	if (*setting && strcmp(setting, "inherit"))
		return;
	snprintf(path, path_size, THP_DIR "enabled");
	hm_os_read_setting(path, setting, size);
	if (!*setting)
		hm_text_copy(backend->host->info.thp, setting, size);
}

/* The kernel takes the advice all the same where it gives no huge pages. */
int hm_advise_check_thp(const struct hostmem_backend *backend, enum hm_thp thp,
			struct hostmem_error *err)
{
	char path[80], setting[16];

	if (thp != HM_THP_ALWAYS || hm_backend_is_hugetlb(backend))
		return 0;
	if (hm_call_is_thp_disabled(backend->host))
		return hm_fail(
			err, HOSTMEM_ERROR_UNSUPPORTED, 0,
			"%s: thp=always: transparent huge pages are disabled for this process "
			"(PR_SET_THP_DISABLE, prctl(2)): enable them, or use thp=auto",
			backend->label);
	/* Shared memory is collapsed into huge pages, whatever the setting. */
	if (backend->backing.fd >= 0)
		return 0;
	read_thp_setting(backend, path, sizeof(path), setting, sizeof(setting));
	if (strcmp(setting, "never"))
		return 0;
	return hm_fail(
		err, HOSTMEM_ERROR_UNSUPPORTED, 0,
		"%s: thp=always: this host gives no transparent huge pages, %s is never: set "
		"it to madvise or always, or use thp=auto",
		backend->label, path);
}

int hm_advise_thp(const struct hostmem_backend *backend, enum hm_thp thp, struct hostmem_error *err)
{
	uint64_t huge = backend->host->thp_size;
	int result;

	/* hugetlb memory has its page size already. */
	if (hm_backend_is_hugetlb(backend))
		return 0;
	if (thp == HM_THP_NEVER)
		return advise_never_huge(backend, err);
	if (thp == HM_THP_AUTO && (!huge || backend->mapping.size < huge))
		return 0;
	result = advise(backend, MADV_HUGEPAGE);
	if (!result || (result == -EINVAL && thp == HM_THP_AUTO))
		return 0;
	if (result == -EINVAL)
		return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, EINVAL,
			       "%s: thp=always: this kernel has no transparent huge pages for this "
			       "memory; use thp=auto",
			       backend->label);
	return fail(backend, "thp", "MADV_HUGEPAGE", result, err);
}

static int keep_out_of_children(const struct hostmem_backend *backend, struct hostmem_error *err)
{
	int result = advise(backend, MADV_DONTFORK);

	return result ? fail(backend, "complete", "MADV_DONTFORK", result, err) : 0;
}

int hm_advise_all(const struct hostmem_backend *backend, const struct hm_values *values,
		  struct hostmem_error *err)
{
	const uint8_t *origins = backend->origins;
	bool asked_merge = origins[HM_PROPERTY_MERGE] != HOSTMEM_ORIGIN_DEFAULT;
	bool asked_dump = origins[HM_PROPERTY_DUMP] != HOSTMEM_ORIGIN_DEFAULT;

	if (hm_advise_thp(backend, (enum hm_thp)values->thp, err) ||
	    keep_out_of_children(backend, err) ||
	    hm_advise_merge(backend, values->merge, asked_merge, err))
		return -1;
	return hm_advise_dump(backend, values->dump, asked_dump, err);
}

static int fail_lock(const struct hostmem_backend *backend, int result, struct hostmem_error *err)
{
	uint64_t limit;
	char text[96];

	if (result != -ENOMEM && result != -EPERM && result != -EAGAIN)
		return hm_fail(err, hm_error_kind_of(-result), -result,
			       "%s: lock=on: the kernel refused to lock %zu bytes: %s",
			       backend->label, backend->mapping.size, strerror(-result));
	hm_fail(err, HOSTMEM_ERROR_NO_MEMORY, -result,
		"%s: lock=on: the kernel refused to lock %zu bytes (%s)", backend->label,
		backend->mapping.size, strerror(-result));
	/* Where it cannot be read it is the likely reason all the same. */
	if (hm_call_get_limit(backend->host, RLIMIT_MEMLOCK, &limit))
		snprintf(text, sizeof(text), "; raise RLIMIT_MEMLOCK (ulimit -l) or use lock=off");
	else
		snprintf(text, sizeof(text),
			 "; RLIMIT_MEMLOCK is %ju bytes: raise it (ulimit -l) or use lock=off",
			 (uintmax_t)limit);
	hm_error_append(err, text);
	return -1;
}

int hm_advise_lock(const struct hostmem_backend *backend, bool lock, bool populated,
		   struct hostmem_error *err)
{
	int result;

	/* Never swapped; mlock2(2) would populate them, or fail where they are not accessible. */
	if (hm_backend_is_hugetlb(backend))
		return 0;
	if (lock)
		result = hm_os_lock(backend->mapping.address, backend->mapping.size,
				    populated ? 0 : MLOCK_ONFAULT);
	else
		result = hm_os_unlock(backend->mapping.address, backend->mapping.size);
	return result ? fail_lock(backend, result, err) : 0;
}

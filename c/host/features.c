/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the kernel can do, tried once on scratch memory: the host record. The other files read what
 * changes: memory, pools, limits.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "compat.h"
#include "host.h"

struct row {
	const char *name;
	/* The first kernel that has it, where some in use do not. */
	const char *since;
	/* What it needs where it is forbidden; NULL: that is a filter's doing. */
	const char *needs;
};

static const struct row rows[HM_FEATURE_COUNT] = {
	[HM_FEATURE_POPULATE] = { "populate", "5.14", NULL },
	[HM_FEATURE_COLLAPSE] = { "collapse", "6.1", NULL },
	[HM_FEATURE_USERFAULTFD] = { "userfaultfd", "5.11", NULL },
	[HM_FEATURE_USERFAULTFD_KVM] = { "userfaultfd-kvm", NULL, HM_FEATURE_USERFAULTFD_KVM_HINT },
	[HM_FEATURE_DONTNEED_LOCKED] = { "dontneed-locked", "5.18", NULL },
	[HM_FEATURE_NOEXEC_SEAL] = { "noexec-seal", "6.3", NULL },
	[HM_FEATURE_MERGE] = { "merge", NULL, NULL },
	[HM_FEATURE_HOME_NODE] = { "home-node", "5.17", NULL },
};

/*
 * Without /sys a kernel that takes the advice has transparent huge pages, of as many base pages as
 * fit a page table, whose entries are of 8 bytes.
 */
static uint64_t find_thp_size(uint64_t page_size, void *scratch)
{
	uint64_t size;
	char text[64];

	hm_os_read_setting("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", text,
			   sizeof(text));
	size = strtoull(text, NULL, 10);
	/* What is no power of two cannot be aligned to. */
	if (*text)
		return size & (size - 1) ? 0 : size;
	return hm_os_advise(scratch, page_size, MADV_HUGEPAGE) ? 0 : page_size * (page_size / 8);
}

/*
 * Any node that this process may use is good for asking whether a mode exists. Where none is known
 * it is the first that the kernel takes.
 */
static void find_allowed_node(const struct hostmem_host *host, void *scratch, struct hm_set *node)
{
	uint64_t id = hm_set_next(&host->seen.topology.allowed, 0);
	int result = -EINVAL;

	*node = (struct hm_set){ 0 };
	hm_set_add(node, id < HOSTMEM_NODES_MAX ? id : 0);
	for (id = 0; hm_set_is_empty(&host->seen.topology.allowed) && result == -EINVAL &&
		     id < HOSTMEM_NODES_MAX;
	     id++) {
		*node = (struct hm_set){ 0 };
		hm_set_add(node, id);
		result = hm_numa_bind(scratch, host->page_size, HM_POLICY_BIND, node, 0);
	}
}

static void probe_policies(struct hostmem_host *host, void *scratch)
{
	struct hm_set node;

	find_allowed_node(host, scratch, &node);
	/* The default asks nothing of the kernel. */
	for (int policy = HM_POLICY_DEFAULT + 1; policy < HM_POLICY_COUNT; policy++) {
		bool takes_nodes = policy != HM_POLICY_LOCAL;
		int result = hm_numa_bind(scratch, host->page_size, (enum hm_policy)policy,
					  takes_nodes ? &node : NULL, 0);

		host->policy_error[policy] = -result;
	}
}

/* Without a length nothing is done, but the advice has to be one that the kernel knows. */
static int ask_advice(void *scratch, int advice)
{
	return -hm_os_advise(scratch, 0, advice);
}

static int ask_fault(void)
{
	int fd = hm_fault_open();

	if (fd < 0)
		return -fd;
	hm_os_close(fd);
	return 0;
}

static int ask_fault_kernel(void)
{
	struct hm_fault_features features;
	int fd = hm_fault_open_kernel(&features);

	if (fd < 0)
		return -fd;
	hm_os_close(fd);
	return 0;
}

static int ask_noexec_seal(void)
{
	int fd = hm_os_memfd("hostmem-probe", MFD_NOEXEC_SEAL);

	if (fd < 0)
		return -fd;
	hm_os_close(fd);
	return 0;
}

static void probe_features(struct hostmem_host *host, void *scratch)
{
	int *errors = host->feature_error;

	errors[HM_FEATURE_POPULATE] = -hm_os_advise(scratch, host->page_size, MADV_POPULATE_WRITE);
	errors[HM_FEATURE_COLLAPSE] = ask_advice(scratch, MADV_COLLAPSE);
	errors[HM_FEATURE_DONTNEED_LOCKED] = ask_advice(scratch, MADV_DONTNEED_LOCKED);
	errors[HM_FEATURE_MERGE] = ask_advice(scratch, MADV_MERGEABLE);
	errors[HM_FEATURE_USERFAULTFD] = ask_fault();
	errors[HM_FEATURE_USERFAULTFD_KVM] = ask_fault_kernel();
	errors[HM_FEATURE_NOEXEC_SEAL] = ask_noexec_seal();
	errors[HM_FEATURE_HOME_NODE] = host->home_node_error;
}

static void probe_home_node(struct hostmem_host *host, void *scratch)
{
	int result =
		hm_numa_is_built() ? hm_os_set_home_node(scratch, host->page_size, 0) : -ENOSYS;

	/* Memory without a policy is ENOENT; a kernel that lacks the call says ENOSYS. */
	host->home_node_error = result == -ENOSYS || result == -EPERM ? -result : 0;
	/* It goes with policies alone, of which there are none without the feature `numa`. */
	if (!hm_numa_is_built())
		host->home_node_error = ENOSYS;
}

static void probe_scratch(struct hostmem_host *host, void *scratch)
{
	probe_home_node(host, scratch);
	host->info.thp_size = host->thp_size = find_thp_size(host->page_size, scratch);
	probe_policies(host, scratch);
	probe_features(host, scratch);
	host->populate = !host->feature_error[HM_FEATURE_POPULATE];
}

static void probe_info(struct hostmem_host *host)
{
	struct hostmem_host_info *info = &host->info;
	char number[16];

	info->page_size = host->page_size = hm_os_page_size();
	info->numa = hm_numa_is_built();
	info->libnuma = hm_numa_is_through_libnuma();
	info->thp_disabled = hm_os_is_thp_disabled();
	if (hm_os_get_limit(RLIMIT_MEMLOCK, &info->memlock_limit))
		info->memlock_limit = UINT64_MAX;
	if (hm_os_get_limit(RLIMIT_FSIZE, &info->file_limit))
		info->file_limit = UINT64_MAX;
	hm_os_read_setting("/proc/sys/vm/overcommit_memory", number, sizeof(number));
	info->overcommit = *number ? atoi(number) : -1;
	hm_os_read_setting("/proc/sys/kernel/osrelease", info->kernel, sizeof(info->kernel));
	hm_os_read_setting("/sys/kernel/mm/transparent_hugepage/enabled", info->thp,
			   sizeof(info->thp));
	hm_os_read_setting("/sys/kernel/mm/transparent_hugepage/shmem_enabled", info->thp_shmem,
			   sizeof(info->thp_shmem));
	hm_os_read_setting("/sys/kernel/mm/ksm/run", number, sizeof(number));
	if (*number)
		hm_text_copy(*number == '1' ? "on" : "off", info->merging, sizeof(info->merging));
}

int hostmem_host_probe(struct hostmem_host **host, struct hostmem_error *err)
{
	struct hostmem_host *probed = calloc(1, sizeof(*probed));
	void *scratch = NULL;
	int result;

	if (!probed)
		return hm_fail_alloc(err);
	probe_info(probed);
	hm_topology_see(&probed->seen);
	hm_huge_pools_see(&probed->seen);
	probed->methods = HOSTMEM_METHODS_ALL;
	probed->calls = HOSTMEM_CALLS_ALL;
	result = hm_os_map(&scratch, probed->page_size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (result) {
		free(probed);
		return hm_fail(err, HOSTMEM_ERROR_NO_MEMORY, -result,
			       "cannot map a page of scratch memory to ask the kernel what it can "
			       "do: %s",
			       strerror(-result));
	}
	probe_scratch(probed, scratch);
	hm_os_unmap(scratch, probed->page_size);
	*host = probed;
	return 0;
}

void hostmem_host_free(struct hostmem_host *host)
{
	free(host);
}

void hostmem_host_get_info(const struct hostmem_host *host, struct hostmem_host_info *info)
{
	*info = host->info;
}

static void explain(int os_error, const char *since, const char *needs, char *reason, size_t size)
{
	if (!os_error)
		*reason = '\0';
	else if (since && (os_error == EINVAL || os_error == ENOSYS))
		snprintf(reason, size, "needs Linux %s", since);
	else if ((os_error == EPERM || os_error == EACCES) && needs)
		snprintf(reason, size, "needs %s", needs);
	else if (os_error == EPERM || os_error == EACCES)
		hm_text_copy("forbidden in this process (a container's seccomp profile?)", reason,
			     size);
	else
		hm_text_copy(strerror(os_error), reason, size);
}

static void describe(struct hostmem_feature *feature, int os_error, bool needs_numa,
		     const char *since, const char *needs)
{
	feature->os_error = os_error;
	if (needs_numa && !hm_numa_is_built() && os_error)
		hm_text_copy("needs hostmem to be built with the feature `numa`", feature->reason,
			     sizeof(feature->reason));
	else
		explain(os_error, since, needs, feature->reason, sizeof(feature->reason));
}

int hostmem_host_get_feature(const struct hostmem_host *host, size_t index,
			     struct hostmem_feature *feature)
{
	size_t policy = index - HM_FEATURE_COUNT;

	*feature = (struct hostmem_feature){ 0 };
	if (index < HM_FEATURE_COUNT) {
		hm_text_copy(rows[index].name, feature->name, sizeof(feature->name));
		describe(feature, host->feature_error[index], index == HM_FEATURE_HOME_NODE,
			 rows[index].since, rows[index].needs);
		return 0;
	}
	if (policy >= HM_POLICY_COUNT)
		return -1;
	snprintf(feature->name, sizeof(feature->name), "policy=%s", hm_numa_policy_names[policy]);
	describe(feature, host->policy_error[policy], true, hm_numa_policy_since[policy], NULL);
	return 0;
}

uint32_t hostmem_host_get_methods(const struct hostmem_host *host)
{
	return host->methods;
}

void hostmem_host_narrow_methods(struct hostmem_host *host, uint32_t methods)
{
	host->methods &= methods;
}

uint32_t hostmem_host_get_calls(const struct hostmem_host *host)
{
	return host->calls;
}

void hostmem_host_narrow_calls(struct hostmem_host *host, uint32_t calls)
{
	host->calls &= calls;
}

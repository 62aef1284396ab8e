/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The folder host: what this machine offers. The host record says what the kernel can do and is
 * read once; all else is read anew each time, since it changes.
 */
#ifndef HOSTMEM_HOST_H
#define HOSTMEM_HOST_H

#include "base.h"

/* ---- features.c: the host record ---- */

/* What not every kernel in use, or every process, can do. */
enum hm_feature {
	HM_FEATURE_POPULATE,
	HM_FEATURE_COLLAPSE,
	HM_FEATURE_USERFAULTFD,
	HM_FEATURE_USERFAULTFD_KVM,
	HM_FEATURE_DONTNEED_LOCKED,
	HM_FEATURE_NOEXEC_SEAL,
	HM_FEATURE_MERGE,
	HM_FEATURE_HOME_NODE,
	HM_FEATURE_COUNT,
};

/* What a process needs for HM_FEATURE_USERFAULTFD_KVM. */
#define HM_FEATURE_USERFAULTFD_KVM_HINT                                                            \
	"permission on /dev/userfaultfd, vm.unprivileged_userfaultfd=1 or CAP_SYS_PTRACE"

/* Nodes that are online, that have memory, that this process may use. A set that is empty is not
 * known. */
struct hm_topology {
	struct hm_set online, memory, allowed;
};

/* In the place of a node. */
#define HM_SEEN_NO_NODE UINT16_MAX

/*
 * What /sys and /proc said when the host was probed: serves when they are hidden later, as by
 * chroot(2). What could not be read then either stays empty, which means unknown, never none.
 */
struct hm_seen {
	struct hm_topology topology;
	/* The node of each CPU, and for each node the closest one that has CPUs. */
	uint16_t node_of_cpu[HOSTMEM_CPUS_MAX], closest_with_cpus[HOSTMEM_NODES_MAX];
	/* The CPUs that the process could use. */
	struct hm_set cpus;
	/* The sizes of huge pages, each a bit, and the one where none is asked for. */
	uint64_t huge_sizes, default_huge_size;
};

struct hostmem_host {
	struct hostmem_host_info info;
	struct hm_seen seen;
	/* The same as in the info. */
	uint64_t page_size, thp_size;
	/* MADV_POPULATE_READ and _WRITE. */
	bool populate;
	/* The errno of each feature, 0 where the kernel can. */
	int feature_error[HM_FEATURE_COUNT];
	/* errno with which mbind refuses the mode of each policy, 0 where it takes it. */
	int policy_error[HM_POLICY_COUNT];
	/* errno of set_mempolicy_home_node, 0 where the kernel has it. */
	int home_node_error;
	uint32_t methods;
	/* Of enum hostmem_call: the optional calls that may be made. */
	uint32_t calls;
};

/* ---- calls.c: optional system calls ---- */

/*
 * Each returns what the function of base of that name does, and -EPERM, or what the call is asked
 * for as it is unknown, where the host may not make the call.
 */
bool hm_call_is_allowed(const struct hostmem_host *host, enum hostmem_call call);
bool hm_call_is_locked(const struct hostmem_host *host, void *address, size_t size);
/* Whether nothing is mapped in some of it; false where that may not be asked. */
bool hm_call_is_unmapped(const struct hostmem_host *host, void *address, size_t size);
int hm_call_lock(const struct hostmem_host *host, void *address, size_t size, unsigned int flags);
int hm_call_count_resident(const struct hostmem_host *host, int fd, uint64_t offset,
			   uint8_t *address, uint64_t size, uint64_t *resident);
int hm_call_count_cached(const struct hostmem_host *host, int fd, uint64_t offset, uint64_t size,
			 uint64_t *cached);
int hm_call_count_own(const struct hostmem_host *host, const uint8_t *address, uint64_t size,
		      uint64_t *own);
int hm_call_get_resident(const struct hostmem_host *host, uint8_t *address, uint64_t size,
			 unsigned char *pages);
int hm_call_get_bound(const struct hostmem_host *host, struct hm_set *nodes);
int hm_call_set_thread_policy(const struct hostmem_host *host, enum hm_policy policy,
			      const struct hm_set *nodes);
int hm_call_set_affinity(const struct hostmem_host *host, const struct hm_set *cpus);
/* What the probe said stands in. */
int hm_call_get_affinity(const struct hostmem_host *host, struct hm_set *cpus);
/* Whether new threads may be moved to different CPUs. */
bool hm_call_may_spread(const struct hostmem_host *host);
int hm_call_set_idle(const struct hostmem_host *host);
int hm_call_read_link(const struct hostmem_host *host, const char *path, char *buffer, size_t size);
/* What the probe said stands in, of the limits that it has asked for. */
int hm_call_get_limit(const struct hostmem_host *host, int resource, uint64_t *limit);
bool hm_call_is_thp_disabled(const struct hostmem_host *host);
void hm_call_name(const struct hostmem_host *host, void *address, size_t size, const char *name);
void hm_call_name_thread(const struct hostmem_host *host, const char *id);

/* ---- topology.c: nodes and CPUs ---- */

/*
 * In all of these `seen` stands in for what cannot be read now; NULL: nothing does. A kernel
 * without NUMA leaves all sets empty.
 */
void hm_topology_read(struct hm_topology *topology, const struct hm_seen *seen);
/* Fills nodes and CPUs; asks the kernel by get_mempolicy(2) where /proc is hidden. */
void hm_topology_see(struct hm_seen *seen);
/*
 * The CPUs that this process may use and that are nearest to the nodes: their own, and for a node
 * without CPUs those of the closest node that has some. Returns their number; 0: unknown.
 */
size_t hm_topology_get_cpus(const struct hostmem_host *host, const struct hm_set *nodes,
			    struct hm_set *cpus);
/* The same, whether this process may use them or not. */
void hm_topology_get_node_cpus(const struct hm_set *nodes, struct hm_set *cpus,
			       const struct hm_seen *seen);
/* Empty: unknown. */
void hm_topology_get_online_cpus(struct hm_set *cpus);
/* How many CPUs this process may use, at least 1. */
uint32_t hm_topology_count_cpus(const struct hostmem_host *host);
/* The CPUs of a node, none where it has none. */
void hm_topology_get_own_cpus(uint64_t node, struct hm_set *cpus);
/* How many pages in turn a node gets of weighted interleaving; 0: unknown. */
uint8_t hm_topology_get_weight(uint64_t node);

/* ---- meminfo.c: memory in small pages ---- */

/* Adds the value of a "name: 123 kB" line to *bytes; says whether there was one. */
bool hm_meminfo_add(const char *text, const char *name, uint64_t *bytes);
/* Bytes of a node, 0 where the kernel does not tell. */
void hm_meminfo_get_node(uint64_t node, uint64_t *total, uint64_t *free);
/*
 * Bytes of small-page memory that can be had without the OOM killer: free and file pages and
 * reclaimable slab, less what the kernel keeps for itself, and swap. nodes: on these; NULL:
 * anywhere. UINT64_MAX when the kernel does not tell.
 */
uint64_t hm_meminfo_get_available(const struct hm_set *nodes);
uint64_t hm_meminfo_get_free_swap(void);

/* ---- huge_pools.c: huge pages ---- */

/* The sizes of huge pages that the architectures of Linux have lie between these. */
#define HM_HUGE_SIZE_MIN (UINT64_C(1) << 16)
#define HM_HUGE_SIZE_MAX (UINT64_C(1) << 34)

/* A pool of huge pages, in pages. */
struct hm_huge_pool {
	uint64_t total, free;
	/* Of the total, added by overcommit; they go when they are free. */
	uint64_t surplus;
	/* Of the free ones, promised to memory that has not touched them. */
	uint64_t reserved;
	/* Pages that the kernel may still add when the pool is short. */
	uint64_t overcommit;
};

/* Fills the sizes of huge pages; asks the kernel by memfd_create(2) where /sys is hidden. */
void hm_huge_pools_see(struct hm_seen *seen);
/* Returns -1 when this host has no huge pages of that size, or does not say so. */
int hm_huge_pools_get(uint64_t page_size, struct hm_huge_pool *pool);
/* What is free and total on one node. Returns -1 where the kernel does not tell. */
int hm_huge_pools_get_node(uint64_t node, uint64_t page_size, struct hm_huge_pool *pool);
/* The sizes that this host has, each a bit; 0: unknown. */
uint64_t hm_huge_pools_get_sizes(const struct hm_seen *seen);
/* The size of huge pages where none is asked for; 0: unknown. */
uint64_t hm_huge_pools_get_default_size(const struct hm_seen *seen);
/* "2M, 1G" */
void hm_huge_pools_format_sizes(uint64_t sizes, char *text, size_t size);

/* ---- mounts.c: file systems and devices ---- */

/*
 * Whether shared memory of a file system is made huge where that is advised. setting: what
 * shmem_enabled was when the host was probed, for when it cannot be read now.
 */
bool hm_mounts_is_shmem_huge(dev_t device, const char *setting);
/* Whether a character device is of a class of /sys/class; false where /sys cannot be read. */
bool hm_mounts_is_of_class(const struct hostmem_host *host, dev_t device, const char *class);

/* ---- cgroup.c: what control groups leave of memory and of huge pages ---- */

/* The directories of this process's groups, v1 and v2; "" where there is none. */
struct hm_cgroup {
	/* Each is below its mount point, whose length is here, and so are its ancestors. */
	char v1[PATH_MAX], v2[PATH_MAX];
	size_t v1_mount, v2_mount;
};

void hm_cgroup_find(struct hm_cgroup *cgroup);
/*
 * Bytes that can still be allocated in all of them, given this much free swap; UINT64_MAX
 * for no limit.
 */
uint64_t hm_cgroup_get_available(const struct hm_cgroup *cgroup, uint64_t swap);

/*
 * Whether this process is in groups that it does not see, whose limits hold all the same: of huge
 * pages, or of memory.
 */
bool hm_cgroup_is_hidden(bool huge);

/* A limit, in bytes. */
struct hm_cgroup_limit {
	/* The file that has it, behind its directory. */
	char file[PATH_MAX + 64];
	uint64_t limit, available;
};

/* The one that leaves least of huge pages of a size; false when none limits them. */
bool hm_cgroup_find_huge_limit(uint64_t page_size, struct hm_cgroup_limit *limit);

#endif

/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The only file that knows libnuma. Of it only mbind(), set_mempolicy() and get_mempolicy() are
 * used, bare system calls, which this file makes itself where it is built without: the rest of
 * libnuma parses sysfs in a load-time constructor, prints, or exits. Owns the policies: their
 * names, the kernels that have them and the kernel's numbers for them.
 */
#include <errno.h>
#include <unistd.h>

#include "base.h"

const char *const hm_numa_policy_names[] = {
	[HM_POLICY_DEFAULT] = "default",
	[HM_POLICY_PREFERRED] = "preferred",
	[HM_POLICY_BIND] = "bind",
	[HM_POLICY_INTERLEAVE] = "interleave",
	[HM_POLICY_PREFERRED_MANY] = "preferred-many",
	[HM_POLICY_WEIGHTED_INTERLEAVE] = "weighted-interleave",
	[HM_POLICY_LOCAL] = "local",
	[HM_POLICY_COUNT] = NULL,
};

const char *const hm_numa_policy_since[HM_POLICY_COUNT] = {
	[HM_POLICY_PREFERRED_MANY] = "5.15",
	[HM_POLICY_WEIGHTED_INTERLEAVE] = "6.9",
};

#if HOSTMEM_NUMA

#if HOSTMEM_LIBNUMA
#include <numaif.h>
#endif

#include "compat.h"

#if !HOSTMEM_LIBNUMA
static long mbind(void *address, unsigned long size, int mode, const unsigned long *nodes,
		  unsigned long nodes_len, unsigned int flags)
{
	return syscall(SYS_mbind, address, size, mode, nodes, nodes_len, flags);
}

static long set_mempolicy(int mode, const unsigned long *nodes, unsigned long nodes_len)
{
	return syscall(SYS_set_mempolicy, mode, nodes, nodes_len);
}

static long get_mempolicy(int *mode, unsigned long *nodes, unsigned long nodes_len, void *address,
			  unsigned int flags)
{
	return syscall(SYS_get_mempolicy, mode, nodes, nodes_len, address, flags);
}
#endif

_Static_assert(HM_NUMA_STRICT == MPOL_MF_STRICT, "strict");
_Static_assert(HM_NUMA_MOVE == MPOL_MF_MOVE, "move");
_Static_assert(HM_NUMA_MOVE_ALL == MPOL_MF_MOVE_ALL, "move all");

static const int modes[HM_POLICY_COUNT] = {
	[HM_POLICY_DEFAULT] = MPOL_DEFAULT,
	[HM_POLICY_PREFERRED] = MPOL_PREFERRED,
	[HM_POLICY_BIND] = MPOL_BIND,
	[HM_POLICY_INTERLEAVE] = MPOL_INTERLEAVE,
	[HM_POLICY_PREFERRED_MANY] = MPOL_PREFERRED_MANY,
	[HM_POLICY_WEIGHTED_INTERLEAVE] = MPOL_WEIGHTED_INTERLEAVE,
	[HM_POLICY_LOCAL] = MPOL_LOCAL,
};

bool hm_numa_is_built(void)
{
	return true;
}

bool hm_numa_is_through_libnuma(void)
{
	return HOSTMEM_LIBNUMA;
}

/* The kernel ignores the last bit of the count that is passed, so a node n needs n + 2. */
static unsigned long count_bits(const struct hm_set *nodes)
{
	unsigned long count = 0;

	for (unsigned long node = 0; nodes && node < HOSTMEM_NODES_MAX; node++) {
		if (hm_set_has(nodes, node))
			count = node + 2;
	}
	return count;
}

static const unsigned long *mask_of(const struct hm_set *nodes)
{
	_Static_assert(sizeof(unsigned long) == sizeof(uint64_t), "node masks are of longs");
	return count_bits(nodes) ? (const unsigned long *)nodes->bits : NULL;
}

int hm_numa_bind(void *address, size_t size, enum hm_policy policy, const struct hm_set *nodes,
		 unsigned int flags)
{
	if (mbind(address, size, modes[policy], mask_of(nodes), count_bits(nodes), flags))
		return -errno;
	return 0;
}

int hm_numa_set_thread(enum hm_policy policy, const struct hm_set *nodes)
{
	return set_mempolicy(modes[policy], mask_of(nodes), count_bits(nodes)) ? -errno : 0;
}

int hm_numa_get_allowed(struct hm_set *nodes)
{
	*nodes = (struct hm_set){ 0 };
	return get_mempolicy(NULL, (unsigned long *)nodes->bits, HOSTMEM_NODES_MAX, NULL,
			     MPOL_F_MEMS_ALLOWED)
		       ? -errno
		       : 0;
}

int hm_numa_get_bound(struct hm_set *nodes)
{
	/* What is beside the mode, such as MPOL_F_STATIC_NODES. */
	const int flags = 7 << 13;
	int mode;

	*nodes = (struct hm_set){ 0 };
	if (get_mempolicy(&mode, (unsigned long *)nodes->bits, HOSTMEM_NODES_MAX, NULL, 0))
		return -errno;
	return (mode & ~flags) == MPOL_BIND ? 0 : -ENOENT;
}

#else

bool hm_numa_is_built(void)
{
	return false;
}

bool hm_numa_is_through_libnuma(void)
{
	return false;
}

int hm_numa_bind(void *address, size_t size, enum hm_policy policy, const struct hm_set *nodes,
		 unsigned int flags)
{
	(void)address, (void)size, (void)policy, (void)nodes, (void)flags;
	return -ENOSYS;
}

int hm_numa_set_thread(enum hm_policy policy, const struct hm_set *nodes)
{
	(void)policy, (void)nodes;
	return -ENOSYS;
}

int hm_numa_get_allowed(struct hm_set *nodes)
{
	*nodes = (struct hm_set){ 0 };
	return -ENOSYS;
}

int hm_numa_get_bound(struct hm_set *nodes)
{
	(void)nodes;
	return -ENOSYS;
}

#endif

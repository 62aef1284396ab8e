/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * NUMA policy: whether one is possible here, binding memory or a short-lived thread to it, changing
 * it. Does not count pages.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "memory.h"

static bool has_nodes(const struct hm_values *values)
{
	return !hm_set_is_empty(&values->host_nodes);
}

bool hm_policy_takes_nodes(uint64_t policy)
{
	return policy != HM_POLICY_DEFAULT && policy != HM_POLICY_LOCAL;
}

bool hm_policy_is_strict(const struct hm_values *values)
{
	return values->policy == HM_POLICY_BIND;
}

enum hm_policy hm_policy_in_kernel(const struct hostmem_backend *backend, uint64_t policy)
{
	if (policy == HM_POLICY_PREFERRED && !backend->host->policy_error[HM_POLICY_PREFERRED_MANY])
		return HM_POLICY_PREFERRED_MANY;
	return (enum hm_policy)policy;
}

void hm_policy_format(const struct hostmem_backend *backend, const struct hm_values *values,
		      char *text, size_t size)
{
	/* As mpol_to_str() of the kernel has them. */
	static const char *const words[HM_POLICY_COUNT] = {
		[HM_POLICY_DEFAULT] = "default",
		[HM_POLICY_PREFERRED] = "prefer",
		[HM_POLICY_BIND] = "bind",
		[HM_POLICY_INTERLEAVE] = "interleave",
		[HM_POLICY_PREFERRED_MANY] = "prefer (many)",
		[HM_POLICY_WEIGHTED_INTERLEAVE] = "weighted interleave",
		[HM_POLICY_LOCAL] = "local",
	};
	const char *word = words[hm_policy_in_kernel(backend, values->policy)];
	char nodes[128] = "";

	if (hm_policy_takes_nodes(values->policy))
		hm_set_format(&values->host_nodes, nodes, sizeof(nodes));
	snprintf(text, size, "%s%s%s", word, *nodes ? ":" : "", nodes);
}

/*
 * The kernel drops bad nodes in silence when one is good, so all are looked at beforehand. What
 * cannot be told is left to the kernel.
 */
static int check_nodes(const struct hostmem_backend *backend, const char *property,
		       const struct hm_set *nodes, struct hostmem_error *err)
{
	struct hm_topology topology;
	const struct {
		const struct hm_set *nodes;
		const char *one, *several;
	} needs[] = {
		{ &topology.online, "is not a node of this host", "are not nodes of this host" },
		{ &topology.memory, "has no memory", "have no memory" },
		{ &topology.allowed, "is outside this process's cpuset (cpuset.mems)",
		  "are outside this process's cpuset (cpuset.mems)" },
	};
	char bad[128], have[128];

	hm_topology_read(&topology, &backend->host->seen);
	for (size_t i = 0; i < HM_ARRAY_LEN(needs); i++) {
		struct hm_set missing = *nodes;
		bool one;

		hm_set_subtract(&missing, needs[i].nodes);
		if (hm_set_is_empty(needs[i].nodes) || hm_set_is_empty(&missing))
			continue;
		one = hm_set_count(&missing) == 1;
		hm_set_format(&missing, bad, sizeof(bad));
		hm_set_format(&topology.allowed, have, sizeof(have));
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0, "%s: %s: %s %s %s; usable nodes: %s",
			       backend->label, property, one ? "node" : "nodes", bad,
			       one ? needs[i].one : needs[i].several, *have ? have : "none");
	}
	return 0;
}

static int check_combination(const struct hostmem_backend *backend, const struct hm_values *values,
			     struct hostmem_error *err)
{
	const char *policy = hm_numa_policy_names[values->policy];

	if (hm_policy_takes_nodes(values->policy) && !has_nodes(values))
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: policy=%s needs host-nodes, for example host-nodes=0",
			       backend->label, policy);
	if (!hm_policy_takes_nodes(values->policy) && has_nodes(values))
		return hm_fail(
			err, HOSTMEM_ERROR_VALUE, 0,
			"%s: host-nodes is set but policy=%s takes no nodes; say policy=bind, "
			"preferred or interleave, or leave host-nodes out",
			backend->label, policy);
	if (values->home_node != HM_NODE_NONE && values->policy != HM_POLICY_BIND &&
	    values->policy != HM_POLICY_PREFERRED_MANY)
		return hm_fail(err, HOSTMEM_ERROR_VALUE, 0,
			       "%s: home-node goes with policy=bind or preferred-many, not %s",
			       backend->label, policy);
	return 0;
}

static int check_kernel(const struct hostmem_backend *backend, const struct hm_values *values,
			struct hostmem_error *err)
{
	enum hm_policy policy = hm_policy_in_kernel(backend, values->policy);
	const char *name = hm_numa_policy_names[values->policy];
	size_t count = hm_set_count(&values->host_nodes);
	int os_error = backend->host->policy_error[policy];

	if (os_error == EINVAL && hm_numa_policy_since[policy])
		return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, os_error,
			       "%s: policy=%s needs Linux %s", backend->label, name,
			       hm_numa_policy_since[policy]);
	if (os_error == EPERM)
		return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, os_error,
			       "%s: policy=%s: mbind is forbidden in this process (a container's "
			       "seccomp profile?): allow it, or use policy=default",
			       backend->label, name);
	if (os_error)
		return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, os_error,
			       "%s: policy=%s: this host cannot do it (mbind: %s)", backend->label,
			       name, strerror(os_error));
	if (policy == HM_POLICY_PREFERRED && count > 1)
		return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, 0,
			       "%s: policy=preferred with several host-nodes needs Linux 5.15; "
			       "this kernel would use only the first: give one node",
			       backend->label);
	return 0;
}

static int check_home_node(const struct hostmem_backend *backend, const struct hm_values *values,
			   struct hostmem_error *err)
{
	struct hm_set node = { 0 };
	int os_error = backend->host->home_node_error;

	if (values->home_node == HM_NODE_NONE)
		return 0;
	if (os_error)
		return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, os_error,
			       "%s: home-node needs Linux 5.17 and set_mempolicy_home_node allowed "
			       "(%s)",
			       backend->label, strerror(os_error));
	hm_set_add(&node, values->home_node);
	return check_nodes(backend, "home-node", &node, err);
}

int hm_policy_check(const struct hostmem_backend *backend, const struct hm_values *values,
		    struct hostmem_error *err)
{
	if (values->policy == HM_POLICY_DEFAULT && !has_nodes(values) &&
	    values->home_node == HM_NODE_NONE)
		return 0;
	if (!hm_numa_is_built())
		return hm_fail(err, HOSTMEM_ERROR_UNSUPPORTED, 0,
			       "%s: %s: hostmem is built without NUMA (feature `numa`); build with "
			       "it, or use policy=default without host-nodes and home-node",
			       backend->label,
			       values->policy != HM_POLICY_DEFAULT ? "policy"
			       : has_nodes(values)                 ? "host-nodes"
								   : "home-node");
	if (check_combination(backend, values, err) ||
	    check_nodes(backend, "host-nodes", &values->host_nodes, err) ||
	    check_kernel(backend, values, err))
		return -1;
	return check_home_node(backend, values, err);
}

static const char *hint_of(int result)
{
	switch (result) {
	case -EPERM:
		return "; it is forbidden in this process (a container's seccomp profile?): allow "
		       "it, or use policy=default";
	case -EINVAL:
		return "; are all host-nodes still there and allowed?";
	case -EIO:
		return "; some pages could not be moved (pinned, shared, or the nodes are full)";
	default:
		return "";
	}
}

int hm_policy_fail(const struct hostmem_backend *backend, const struct hm_values *values,
		   const char *call, int result, struct hostmem_error *err)
{
	enum hostmem_error_kind kind =
		result == -EPERM ? HOSTMEM_ERROR_UNSUPPORTED : hm_error_kind_of(-result);
	char nodes[128];

	hm_set_format(&values->host_nodes, nodes, sizeof(nodes));
	return hm_fail(err, kind, -result, "%s: policy=%s,host-nodes=%s: %s failed: %s%s",
		       backend->label, hm_numa_policy_names[values->policy], nodes, call,
		       strerror(-result), hint_of(result));
}

/* mbind forgets the home node, so it is set again after each. */
int hm_policy_set_at(const struct hostmem_backend *backend, const struct hm_values *values,
		     uint8_t *address, size_t size, unsigned int flags, const char **call)
{
	const struct hm_set *nodes = &values->host_nodes;
	int result;

	*call = "mbind";
	result = hm_numa_bind(address, size, hm_policy_in_kernel(backend, values->policy),
			      hm_policy_takes_nodes(values->policy) ? nodes : NULL, flags);
	if (result || values->home_node == HM_NODE_NONE)
		return result;
	*call = "set_mempolicy_home_node";
	return hm_os_set_home_node(address, size, (unsigned int)values->home_node);
}

int hm_policy_set(const struct hostmem_backend *backend, const struct hm_values *values,
		  unsigned int flags, const char **call)
{
	const struct hm_mapping *mapping = &backend->mapping;

	return hm_policy_set_at(backend, values, mapping->address, mapping->size, flags, call);
}

int hm_policy_bind(const struct hostmem_backend *backend, const struct hm_values *values,
		   struct hostmem_error *err)
{
	const char *call;
	int result;

	if (values->policy == HM_POLICY_DEFAULT)
		return 0;
	result = hm_policy_set(backend, values, HM_NUMA_STRICT | HM_NUMA_MOVE, &call);
	return result ? hm_policy_fail(backend, values, call, result, err) : 0;
}

struct call {
	const struct hostmem_host *host;
	enum hm_policy policy;
	const struct hm_set *nodes;
	int (*run)(void *data);
	void *data;
	/* Whether it was called, and what it returned. */
	bool called;
	int result;
};

static void *call_under_policy(void *data)
{
	struct call *call = data;

	if (hm_call_set_thread_policy(call->host, call->policy, call->nodes))
		return NULL;
	call->result = call->run(call->data);
	call->called = true;
	return NULL;
}

int hm_policy_run(const struct hostmem_backend *backend, const struct hm_values *values,
		  int (*run)(void *data), void *data)
{
	struct call call = {
		.host = backend->host,
		.policy = hm_policy_in_kernel(backend, values->policy),
		.nodes = hm_policy_takes_nodes(values->policy) ? &values->host_nodes : NULL,
		.run = run,
		.data = data,
	};
	pthread_t thread;

	if (!hm_thread_create(&thread, call_under_policy, &call))
		pthread_join(thread, NULL);
	return call.called ? call.result : run(data);
}

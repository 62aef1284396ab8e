// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! NUMA nodes, CPUs and huge pages of the host.

use std::collections::BTreeMap;

use crate::handle::TopologyHandle;
use crate::sys;
use crate::Result;

/// NUMA nodes, CPUs and huge pages at the time of reading.
#[doc(alias = "hostmem_topology")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Topology {
    /// The online nodes by ascending id; empty on a kernel without NUMA.
    pub nodes: Vec<Node>,
    /// The CPUs that this process may run on.
    pub cpus: Vec<u32>,
    /// The huge pages of the host by ascending page size.
    pub huge_pages: Vec<HugePages>,
}

impl Topology {
    /// Reads `/sys` and `/proc/self/status`, which needs no privileges.
    ///
    /// # Errors
    ///
    /// [`NoMemory`](crate::ErrorKind::NoMemory).
    #[doc(alias = "hostmem_topology_read")]
    pub fn read() -> Result<Self> {
        let handle = TopologyHandle::read()?;
        let ids: Vec<_> = (0..)
            .map_while(|index| handle.node(index))
            .map(|node| node.id)
            .collect();
        let node = |index, node| Node::from_raw(&handle, &ids, index, node);
        Ok(Self {
            nodes: (0..)
                .map_while(|index| handle.node(index).map(|raw| node(index, raw)))
                .collect(),
            cpus: handle.cpus(None),
            huge_pages: huge_pages(&handle, None),
        })
    }
}

fn huge_pages(handle: &TopologyHandle, node: Option<usize>) -> Vec<HugePages> {
    (0..)
        .map_while(|index| handle.huge_pages(node, index))
        .map(HugePages::from_raw)
        .collect()
}

/// An online NUMA node. Sizes are in bytes.
#[doc(alias = "hostmem_node")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// The node id.
    pub id: u32,
    /// Whether this process can allocate from it: the node has memory and is in the cpuset.
    pub allowed: bool,
    /// Its CPUs, allowed or not; empty for a node without CPUs.
    pub cpus: Vec<u32>,
    /// Total memory; 0 for a node without memory.
    pub memory_total: u64,
    /// Free memory.
    pub memory_free: u64,
    /// Its huge pages by ascending page size. `reserved` and `overcommit` are 0: the kernel counts
    /// them for the host only.
    pub huge_pages: Vec<HugePages>,
    /// The distance to each node id, as reported by the firmware (10: itself; 0: unknown).
    pub distances: BTreeMap<u32, u32>,
}

impl Node {
    fn from_raw(
        handle: &TopologyHandle,
        ids: &[u32],
        index: usize,
        raw: &sys::hostmem_node,
    ) -> Self {
        Self {
            id: raw.id,
            allowed: raw.allowed,
            cpus: handle.cpus(Some(index)),
            memory_total: raw.memory_total,
            memory_free: raw.memory_free,
            huge_pages: huge_pages(handle, Some(index)),
            distances: (0..)
                .zip(ids)
                .map(|(to, &id)| (id, handle.distance(index, to)))
                .collect(),
        }
    }
}

/// The pool of huge pages of one size. Counts are in pages.
#[doc(alias = "hostmem_huge_pages")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct HugePages {
    /// Size of a page in bytes.
    pub page_size: u64,
    /// All pages of the pool.
    pub total: u64,
    /// Pages that are not allocated.
    pub free: u64,
    /// Free pages that are reserved for existing mappings.
    pub reserved: u64,
    /// Pages that the kernel may still add if the pool is empty.
    pub overcommit: u64,
}

impl HugePages {
    fn from_raw(raw: &sys::hostmem_huge_pages) -> Self {
        Self {
            page_size: raw.page_size,
            total: raw.total,
            free: raw.free,
            reserved: raw.reserved,
            overcommit: raw.overcommit,
        }
    }
}

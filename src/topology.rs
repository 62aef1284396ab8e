// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! NUMA nodes, CPUs and huge pages as they are.

use std::collections::BTreeMap;

use crate::handle::TopologyHandle;
use crate::sys;
use crate::Result;

/// NUMA nodes, CPUs and huge pages, as they were when it was read.
#[doc(alias = "hostmem_topology")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Topology {
    /// The nodes that are online, by rising id; none on a kernel without NUMA.
    pub nodes: Vec<Node>,
    /// The CPUs that this process may run on.
    pub cpus: Vec<u32>,
    /// The huge pages of the host, by their rising sizes.
    pub huge_pages: Vec<HugePages>,
}

impl Topology {
    /// Reads all of it from `/sys` and `/proc/self/status`, which need no permission.
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

/// A NUMA node that is online. Sizes are in bytes.
#[doc(alias = "hostmem_node")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Whether this process may have memory from it: it has some, and the cpuset has the node.
    pub allowed: bool,
    /// Its CPUs, allowed or not; none for a node of memory alone.
    pub cpus: Vec<u32>,
    /// 0 for a node of CPUs alone.
    pub memory_total: u64,
    /// Free now.
    pub memory_free: u64,
    /// Of each size that the host has, by their rising sizes. What is promised and what may be
    /// added the kernel counts for the host alone.
    pub huge_pages: Vec<HugePages>,
    /// How far each node is, as the firmware says (10: itself).
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

/// Huge pages of one size, in pages.
#[doc(alias = "hostmem_huge_pages")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct HugePages {
    /// Bytes of one.
    pub page_size: u64,
    /// In the pool.
    pub total: u64,
    /// Not in use.
    pub free: u64,
    /// Of the free ones, promised to memory that has not touched them.
    pub reserved: u64,
    /// May still be added when the pool is short.
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

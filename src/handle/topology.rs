// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Owned topologies.

use std::ptr;
use std::ptr::NonNull;

use super::call::make;
use crate::error::Result;
use crate::sys;

/// Owns a topology, which never changes.
pub(crate) struct TopologyHandle(pub(super) NonNull<sys::hostmem_topology>);

impl TopologyHandle {
    pub(crate) fn read() -> Result<Self> {
        // SAFETY: both pointers are of variables that outlive the call.
        make(|topology, err| unsafe { sys::hostmem_topology_read(topology, err) }).map(Self)
    }

    pub(crate) fn node(&self, index: usize) -> Option<&sys::hostmem_node> {
        // SAFETY: the topology is ours and alive; takes any index.
        let node = unsafe { sys::hostmem_topology_get_node(self.0.as_ptr(), index) };
        // SAFETY: NULL, or a record that lives as long as the topology.
        unsafe { node.as_ref() }
    }

    pub(crate) fn distance(&self, from: usize, to: usize) -> u32 {
        // SAFETY: the topology is ours and alive; takes any index.
        unsafe { sys::hostmem_topology_get_distance(self.0.as_ptr(), from, to) }
    }

    /// The CPUs of the node at an index, or those of the process.
    pub(crate) fn cpus(&self, node: Option<usize>) -> Vec<u32> {
        let index = node.unwrap_or(usize::MAX);
        // SAFETY: the topology is ours and alive; no length, so nothing is written.
        let len =
            unsafe { sys::hostmem_topology_get_cpus(self.0.as_ptr(), index, ptr::null_mut(), 0) };
        let mut cpus = vec![0; len];
        // SAFETY: likewise; the array has that length.
        unsafe {
            sys::hostmem_topology_get_cpus(self.0.as_ptr(), index, cpus.as_mut_ptr(), cpus.len())
        };
        cpus
    }

    /// The huge pages of the node at an index, or those of the host.
    pub(crate) fn huge_pages(
        &self,
        node: Option<usize>,
        index: usize,
    ) -> Option<&sys::hostmem_huge_pages> {
        let node = node.unwrap_or(usize::MAX);
        // SAFETY: the topology is ours and alive; takes any indices.
        let pages = unsafe { sys::hostmem_topology_get_huge_pages(self.0.as_ptr(), node, index) };
        // SAFETY: NULL, or a record that lives as long as the topology.
        unsafe { pages.as_ref() }
    }
}

impl Drop for TopologyHandle {
    fn drop(&mut self) {
        // SAFETY: made by hostmem_topology_read(), freed once.
        unsafe { sys::hostmem_topology_free(self.0.as_ptr()) }
    }
}

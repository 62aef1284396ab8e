// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the memory is, as the kernel says.

use std::collections::BTreeMap;

use crate::sys;

/// Where a backend's memory is, as the kernel says at the moment of asking. Everything is in bytes.
#[doc(alias = "hostmem_placement")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Placement {
    /// Mapped here, on all nodes.
    pub resident: u64,
    /// Of that, in huge pages (transparent or hugetlb).
    pub huge: u64,
    /// Swapped out.
    pub swapped: u64,
    /// Neither resident nor swapped.
    pub absent: u64,
    /// Whether the kernel lets identical pages be merged here; false for shared and hugetlb memory
    /// whatever `merge` says.
    pub mergeable: bool,
    /// The policy as `/proc/self/numa_maps` words it, e.g. `bind:0-1`; empty where the kernel has
    /// no NUMA.
    pub policy: String,
    /// Mapped here, on each node that has some.
    pub nodes: BTreeMap<u32, u64>,
}

impl Placement {
    pub(crate) fn from_raw(raw: &sys::hostmem_placement) -> Self {
        let policy: Vec<u8> = raw
            .policy
            .iter()
            .map(|&byte| byte as u8)
            .take_while(|&byte| byte != 0)
            .collect();
        Self {
            resident: raw.resident,
            huge: raw.huge,
            swapped: raw.swapped,
            absent: raw.absent,
            mergeable: raw.mergeable,
            policy: String::from_utf8_lossy(&policy).into_owned(),
            nodes: (0..)
                .zip(raw.nodes)
                .filter(|&(_, bytes)| bytes != 0)
                .collect(),
        }
    }
}

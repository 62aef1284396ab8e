// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the memory is, as the kernel says.

use std::collections::BTreeMap;

use crate::error::text_from_raw;
use crate::sys;

/// Where a backend's memory is, as the kernel says at the moment of asking. Sizes are in bytes.
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
    /// In memory but not mapped here: what only others have touched of shared memory. 0 where that
    /// cannot be told: a part of a hugetlb file, a read-only map.
    pub unmapped: u64,
    /// None of these.
    pub absent: u64,
    /// Of what is resident, on other nodes than the host nodes, or more than the share of its node.
    /// 0 where the policy names no nodes.
    pub outside: u64,
    /// Whether the memory is where the policy that was set wants it.
    pub satisfied: Satisfied,
    /// Why `satisfied` is as it is, for people; empty for yes.
    pub reason: String,
    /// Whether the kernel's policy is not, or not everywhere, the one that was set: shared memory's
    /// belongs to the object, so whoever maps it can change it; a cpuset can too.
    pub policy_changed: bool,
    /// Whether the kernel lets identical pages be merged here; false for shared and hugetlb memory
    /// whatever `merge` says.
    pub mergeable: bool,
    /// The most mappings, of all processes, that one of the pages has: pages with more than one do
    /// not move. 0 where none is mapped here.
    pub mapmax: u32,
    /// The policy as `/proc/self/numa_maps` words it, e.g. `bind:0-1`, cut to 63 bytes; empty where
    /// the kernel has no NUMA.
    pub policy: String,
    /// Mapped here, on each node that has some.
    pub nodes: BTreeMap<u32, u64>,
    /// How many pages in turn each host node gets of interleaved memory: 1, or for
    /// `weighted-interleave` what the host is set to now. Empty for other policies.
    pub weights: BTreeMap<u32, u8>,
}

impl Placement {
    pub(crate) fn from_raw(raw: &sys::hostmem_placement) -> Self {
        Self {
            resident: raw.resident,
            huge: raw.huge,
            swapped: raw.swapped,
            unmapped: raw.unmapped,
            absent: raw.absent,
            outside: raw.outside,
            satisfied: Satisfied::from_raw(raw.satisfied),
            reason: text_from_raw(&raw.reason),
            policy_changed: raw.policy_changed,
            mergeable: raw.mergeable,
            mapmax: raw.mapmax,
            policy: text_from_raw(&raw.policy),
            nodes: nonzero(raw.nodes),
            weights: nonzero(raw.weights),
        }
    }
}

/// The nodes that have something, and what.
fn nonzero<T: Default + PartialEq>(of_nodes: impl IntoIterator<Item = T>) -> BTreeMap<u32, T> {
    (0..)
        .zip(of_nodes)
        .filter(|(_, of_node)| *of_node != T::default())
        .collect()
}

/// Whether memory is where its policy wants it.
///
/// `bind`: all is on the host nodes; `preferred`, `preferred-many`: likewise, else spilled;
/// `interleave`, `weighted-interleave`: each share is right within one cycle, in huge pages where
/// the memory may have some.
#[doc(alias = "hostmem_satisfied")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Satisfied {
    /// All that is mapped here is.
    Yes,
    /// Some of it is not; [`outside`](Placement::outside) says how much.
    Spilled,
    /// The policy, `default` or `local`, names no nodes.
    NotApplicable,
    /// Shared memory of a file on disk, whose policy the kernel ignores; interleaved memory that is
    /// not all there.
    Unknown,
}

impl Satisfied {
    fn from_raw(raw: sys::hostmem_satisfied) -> Self {
        match raw {
            sys::hostmem_satisfied::HOSTMEM_SATISFIED_YES => Self::Yes,
            sys::hostmem_satisfied::HOSTMEM_SATISFIED_SPILLED => Self::Spilled,
            sys::hostmem_satisfied::HOSTMEM_SATISFIED_NOT_APPLICABLE => Self::NotApplicable,
            // Also for anything that C has no name for.
            _ => Self::Unknown,
        }
    }

    /// In words, for people and for JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Spilled => "spilled",
            Self::NotApplicable => "not applicable",
            Self::Unknown => "unknown",
        }
    }
}

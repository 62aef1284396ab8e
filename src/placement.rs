// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Placement of memory on NUMA nodes.

use std::collections::BTreeMap;

use crate::error::text_from_raw;
use crate::sys;

/// The placement of a backend's memory at one moment, as reported by the kernel. Sizes are in
/// bytes.
#[doc(alias = "hostmem_placement")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Placement {
    /// Present in this process's page tables, on all nodes.
    pub resident: u64,
    /// The part of `resident` in huge pages (transparent or hugetlb).
    pub huge: u64,
    /// Swapped out.
    pub swapped: u64,
    /// Shared memory that is in memory but not in this process's page tables. 0 if unknown: a part
    /// of a hugetlb file, a read-only mapping.
    pub unmapped: u64,
    /// Absent because its [contents](crate::Builder::contents) are
    /// [unread](crate::Claim::unread).
    pub unread: u64,
    /// Absent for another reason. The parts `resident`, `swapped`, `unmapped`, `unread` and
    /// `absent` add up to the size.
    pub absent: u64,
    /// The part of `resident` on other nodes than the host nodes, or above the share of its node. 0
    /// for a policy without nodes.
    pub outside: u64,
    /// Whether the placement satisfies the policy that was set.
    pub satisfied: Satisfied,
    /// The reason for `satisfied`, for people; empty for [`Satisfied::Yes`].
    pub reason: String,
    /// Whether the kernel's policy differs from the one that was set, on all or part of the memory.
    /// The policy of shared memory belongs to the shared object: another process that maps it can
    /// change it; so can a cpuset.
    pub policy_changed: bool,
    /// Whether the kernel may merge identical pages (KSM). False for shared and hugetlb memory,
    /// independent of the property `merge`.
    pub mergeable: bool,
    /// The largest number of mappings, in all processes, of one of the pages; pages with more than
    /// one do not move. 0 if none is resident.
    pub mapmax: u32,
    /// The policy in the form of `/proc/self/numa_maps`, e.g. `bind:0-1`, at most 63 bytes; empty
    /// on a kernel without NUMA.
    pub policy: String,
    /// The part of `resident` on each node; nodes without any are left out.
    pub nodes: BTreeMap<u32, u64>,
    /// For interleaving policies, the number of consecutive pages that each host node gets: 1, or
    /// the host's current weight for `weighted-interleave`. Empty for other policies.
    pub weights: BTreeMap<u32, u8>,
}

impl Placement {
    pub(crate) fn from_raw(raw: &sys::hostmem_placement) -> Self {
        Self {
            resident: raw.resident,
            huge: raw.huge,
            swapped: raw.swapped,
            unmapped: raw.unmapped,
            unread: raw.unread,
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

/// The nodes whose value is not zero.
fn nonzero<T: Default + PartialEq>(of_nodes: impl IntoIterator<Item = T>) -> BTreeMap<u32, T> {
    (0..)
        .zip(of_nodes)
        .filter(|(_, of_node)| *of_node != T::default())
        .collect()
}

/// Whether the placement of memory satisfies its policy.
///
/// For `bind`, `preferred` and `preferred-many`: all resident memory is on the host nodes. For
/// `interleave` and `weighted-interleave`: the amount on each node is right within one cycle, of
/// huge pages if the memory can have them.
#[doc(alias = "hostmem_satisfied")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Satisfied {
    /// All resident memory does.
    Yes,
    /// Some does not; [`outside`](Placement::outside) says how much.
    Spilled,
    /// The policy has no nodes: `default` or `local`.
    NotApplicable,
    /// Not known: a shared file on disk, whose policy the kernel ignores, or interleaved memory
    /// that is not all present.
    Unknown,
}

impl Satisfied {
    fn from_raw(raw: sys::hostmem_satisfied) -> Self {
        match raw {
            sys::hostmem_satisfied::HOSTMEM_SATISFIED_YES => Self::Yes,
            sys::hostmem_satisfied::HOSTMEM_SATISFIED_SPILLED => Self::Spilled,
            sys::hostmem_satisfied::HOSTMEM_SATISFIED_NOT_APPLICABLE => Self::NotApplicable,
            // Also any value without a name.
            _ => Self::Unknown,
        }
    }

    /// The name, for people and for JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Spilled => "spilled",
            Self::NotApplicable => "not applicable",
            Self::Unknown => "unknown",
        }
    }
}

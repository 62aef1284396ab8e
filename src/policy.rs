// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! NUMA policies, and rebinding memory in use.

use std::borrow::Cow;

use crate::sys;
use crate::value::choices;

choices! {
    /// From which NUMA nodes memory is allocated; the property `policy`. All but
    /// [`Default`](Policy::Default) and [`Local`](Policy::Local) need host nodes.
    Policy {
        /// No policy is set: that of the faulting thread applies. No host nodes.
        #[default]
        Default = "default",
        /// From the host nodes, or from the nearest other node if they are full. Before Linux 5.15
        /// with one host node only.
        Preferred = "preferred",
        /// From the host nodes only; a shortage there is an error.
        Bind = "bind",
        /// Page by page in turn from the host nodes.
        Interleave = "interleave",
        /// As [`Preferred`](Policy::Preferred), but always an error before Linux 5.15.
        PreferredMany = "preferred-many",
        /// In turn from the host nodes, in proportion to the host's weights. Linux 6.9.
        WeightedInterleave = "weighted-interleave",
        /// From the node of the faulting CPU. No host nodes.
        Local = "local",
    }
}

impl From<Policy> for Cow<'static, str> {
    fn from(policy: Policy) -> Self {
        policy.as_str().into()
    }
}

/// A new policy with its host nodes and home node, for [`Backend::rebind`](crate::Backend::rebind).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rebind {
    pub(crate) policy: Cow<'static, str>,
    pub(crate) host_nodes: Vec<u32>,
    pub(crate) home_node: u64,
    pub(crate) flags: u32,
}

impl Rebind {
    /// A [`Policy`], or its name as in an option string. No host nodes, no home node.
    pub fn new(policy: impl Into<Cow<'static, str>>) -> Self {
        Self {
            policy: policy.into(),
            host_nodes: Vec::new(),
            home_node: u64::MAX,
            flags: 0,
        }
    }

    /// The host nodes: ids below 1024, in any order.
    #[must_use]
    pub fn host_nodes(mut self, nodes: impl Into<Vec<u32>>) -> Self {
        self.host_nodes = nodes.into();
        self
    }

    /// The node that is preferred among the host nodes, with [`Policy::Bind`] or
    /// [`Policy::PreferredMany`]. Linux 5.17.
    #[must_use]
    pub fn home_node(mut self, node: u32) -> Self {
        self.home_node = node.into();
        self
    }

    /// Whether to move pages that other mappings or processes use too (`MPOL_MF_MOVE_ALL`). Needs
    /// `CAP_SYS_NICE`.
    #[doc(alias = "HOSTMEM_REBIND_MOVE_ALL")]
    #[must_use]
    pub fn move_all(mut self, yes: bool) -> Self {
        let flag = sys::hostmem_rebind_flag::HOSTMEM_REBIND_MOVE_ALL.0;
        self.flags = if yes { flag } else { 0 };
        self
    }
}

/// The result of rebinding, in bytes of pages that were mapped in this process. Exact unless other
/// threads fault in new pages meanwhile.
#[doc(alias = "hostmem_rebind_result")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Rebound {
    /// Moved to another node.
    pub moved: u64,
    /// Still on a node that is not a host node; 0 for a policy without nodes.
    pub not_moved: u64,
    /// The likely reason why they did not move; `None` if all did.
    pub cause: Option<MoveFailure>,
}

impl Rebound {
    pub(crate) fn from_raw(raw: &sys::hostmem_rebind_result) -> Self {
        Self {
            moved: raw.moved,
            not_moved: raw.not_moved,
            cause: MoveFailure::from_raw(raw.cause),
        }
    }
}

/// The likely reason why pages did not move.
#[doc(alias = "hostmem_unmoved")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MoveFailure {
    /// They are mapped more than once; [`Rebind::move_all`] moves them.
    Shared,
    /// They are pinned by a device or the kernel, or the reason is unknown.
    Pinned,
    /// The host nodes do not have enough free memory.
    Full,
}

impl MoveFailure {
    fn from_raw(raw: sys::hostmem_unmoved) -> Option<Self> {
        match raw {
            sys::hostmem_unmoved::HOSTMEM_UNMOVED_NONE => None,
            sys::hostmem_unmoved::HOSTMEM_UNMOVED_SHARED => Some(Self::Shared),
            sys::hostmem_unmoved::HOSTMEM_UNMOVED_FULL => Some(Self::Full),
            // Also any value without a name.
            _ => Some(Self::Pinned),
        }
    }
}

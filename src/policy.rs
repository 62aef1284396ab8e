// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! NUMA policy, and changing it while the memory is used.

use std::borrow::Cow;

use crate::sys;
use crate::Value;

/// Which NUMA nodes memory comes from; the property `policy`. Each but [`Default`](Policy::Default)
/// and [`Local`](Policy::Local) needs host nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// Nothing is asked of the kernel: memory follows the process. No host nodes.
    #[default]
    Default,
    /// From the host nodes while they have some, else from the nearest other. On a kernel before
    /// 5.15 of one node only.
    Preferred,
    /// From the host nodes only; a shortage there is an error.
    Bind,
    /// Page by page in turn from the host nodes.
    Interleave,
    /// As [`Preferred`](Policy::Preferred), refused by a kernel before 5.15 for one node too.
    PreferredMany,
    /// In turn from the host nodes, as many pages each as the host's weights say. Linux 6.9.
    WeightedInterleave,
    /// From the node of the CPU that touches it first. No host nodes.
    Local,
}

impl Policy {
    /// The name, as in an option string.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Preferred => "preferred",
            Self::Bind => "bind",
            Self::Interleave => "interleave",
            Self::PreferredMany => "preferred-many",
            Self::WeightedInterleave => "weighted-interleave",
            Self::Local => "local",
        }
    }
}

impl From<Policy> for Value {
    fn from(policy: Policy) -> Self {
        policy.as_str().into()
    }
}

impl From<Policy> for Cow<'static, str> {
    fn from(policy: Policy) -> Self {
        policy.as_str().into()
    }
}

/// Another policy for memory in use, for [`Backend::rebind`](crate::Backend::rebind): policy, host
/// nodes and home node in one step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rebind {
    pub(crate) policy: Cow<'static, str>,
    pub(crate) host_nodes: Vec<u32>,
    pub(crate) home_node: u64,
    pub(crate) flags: u32,
}

impl Rebind {
    /// To a [`Policy`], or one by its name as in an option string; without nodes.
    pub fn new(policy: impl Into<Cow<'static, str>>) -> Self {
        Self {
            policy: policy.into(),
            host_nodes: Vec::new(),
            home_node: u64::MAX,
            flags: 0,
        }
    }

    /// The nodes that the policy is about.
    #[must_use]
    pub fn host_nodes(mut self, nodes: impl Into<Vec<u32>>) -> Self {
        self.host_nodes = nodes.into();
        self
    }

    /// The node to fill first, with [`Policy::Bind`] or [`Policy::PreferredMany`]. Linux 5.17.
    #[must_use]
    pub fn home_node(mut self, node: u32) -> Self {
        self.home_node = node.into();
        self
    }

    /// Move pages that other mappings or processes use too, which needs `CAP_SYS_NICE`.
    #[doc(alias = "HOSTMEM_REBIND_MOVE_ALL")]
    #[must_use]
    pub fn move_all(mut self, yes: bool) -> Self {
        let flag = sys::hostmem_rebind_flag::HOSTMEM_REBIND_MOVE_ALL.0;
        self.flags = if yes { flag } else { 0 };
        self
    }
}

/// What rebinding did with the pages that were mapped here, counted from the kernel, in bytes; exact
/// as long as nobody touches new memory meanwhile.
#[doc(alias = "hostmem_rebind_result")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Rebound {
    /// On another node than before.
    pub moved: u64,
    /// Still on a node that is none of the host nodes; 0 for a policy without nodes.
    pub not_moved: u64,
    /// Why, most likely, they stayed; `None` where none did.
    pub cause: Option<Stay>,
}

impl Rebound {
    pub(crate) fn from_raw(raw: &sys::hostmem_rebind_result) -> Self {
        Self {
            moved: raw.moved,
            not_moved: raw.not_moved,
            cause: Stay::from_raw(raw.cause),
        }
    }
}

/// The likely cause why pages stayed where they were.
#[doc(alias = "hostmem_unmoved")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stay {
    /// Another mapping or process uses them too; [`Rebind::move_all`] moves them.
    Shared,
    /// None of the others: a device or the kernel holds them.
    Pinned,
    /// The host nodes have no room for them.
    Full,
}

impl Stay {
    fn from_raw(raw: sys::hostmem_unmoved) -> Option<Self> {
        match raw {
            sys::hostmem_unmoved::HOSTMEM_UNMOVED_NONE => None,
            sys::hostmem_unmoved::HOSTMEM_UNMOVED_SHARED => Some(Self::Shared),
            sys::hostmem_unmoved::HOSTMEM_UNMOVED_FULL => Some(Self::Full),
            // Also for anything that C has no name for.
            _ => Some(Self::Pinned),
        }
    }
}

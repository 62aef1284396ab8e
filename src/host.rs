// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel can do, asked once.

use std::fmt;
use std::ops::BitAnd;
use std::ops::BitOr;
use std::ops::Not;

use crate::handle::HostHandle;
use crate::sys;
use crate::Result;

/// What the kernel can do, asked once.
///
/// [`Objects`](crate::Objects) made with a host keep their own copy of it.
#[doc(alias = "hostmem_host")]
#[derive(Debug)]
pub struct Host {
    pub(crate) handle: HostHandle,
}

impl Host {
    /// Asks the kernel what it can do, on scratch memory: page sizes, populate, advice values,
    /// memory policies, home nodes.
    ///
    /// Call it before a seccomp filter is installed: completing a backend relies on the record and
    /// does not ask again. A system call that is forbidden counts as a feature that is missing.
    ///
    /// # Errors
    ///
    /// [`NoMemory`](crate::ErrorKind::NoMemory).
    #[doc(alias = "hostmem_host_probe")]
    pub fn probe() -> Result<Self> {
        HostHandle::probe().map(|handle| Self { handle })
    }

    /// The methods that preallocation may use.
    #[doc(alias = "hostmem_host_get_methods")]
    pub fn methods(&self) -> Methods {
        Methods(self.handle.methods())
    }

    /// Narrows the methods to those also in `methods`, for measuring and for narrow seccomp
    /// filters. The result of preallocation is the same. Acts on the objects made from then on.
    #[doc(alias = "hostmem_host_narrow_methods")]
    pub fn narrow_methods(&mut self, methods: Methods) {
        self.handle.narrow_methods(methods.0);
    }
}

/// A set of ways to populate memory beyond the plain one, which is `MADV_POPULATE_WRITE` or
/// `MADV_POPULATE_READ` over a chunk. A method in the set is used where it fits.
#[doc(alias = "hostmem_method")]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Methods(u32);

impl Methods {
    /// The plain way only.
    pub const NONE: Self = Self(0);
    /// Every method there is.
    #[doc(alias = "HOSTMEM_METHODS_ALL")]
    pub const ALL: Self = Self(sys::HOSTMEM_METHODS_ALL);
    /// Huge pages: fault the last base page of each first, so that the kernel zeroes it upwards.
    #[doc(alias = "HOSTMEM_METHOD_LAST_PAGE_FIRST")]
    pub const LAST_PAGE_FIRST: Self = Self(sys::hostmem_method::HOSTMEM_METHOD_LAST_PAGE_FIRST.0);

    /// New shared memory in small pages: put zero pages in place by `userfaultfd(2)`.
    #[doc(alias = "HOSTMEM_METHOD_ZEROPAGE")]
    pub const ZEROPAGE: Self = Self(sys::hostmem_method::HOSTMEM_METHOD_ZEROPAGE.0);
    /// `thp=always` where the host gives shared memory small pages: `MADV_COLLAPSE` (Linux 6.1).
    #[doc(alias = "HOSTMEM_METHOD_COLLAPSE")]
    pub const COLLAPSE: Self = Self(sys::hostmem_method::HOSTMEM_METHOD_COLLAPSE.0);
    /// Shared files on disk: `fallocate(2)` first.
    #[doc(alias = "HOSTMEM_METHOD_FALLOCATE")]
    pub const FALLOCATE: Self = Self(sys::hostmem_method::HOSTMEM_METHOD_FALLOCATE.0);

    const NAMES: [(Self, &'static str); 4] = [
        (Self::LAST_PAGE_FIRST, "LAST_PAGE_FIRST"),
        (Self::ZEROPAGE, "ZEROPAGE"),
        (Self::COLLAPSE, "COLLAPSE"),
        (Self::FALLOCATE, "FALLOCATE"),
    ];

    /// Whether every method of `other` is in this set.
    pub fn contains(self, other: Self) -> bool {
        self & other == other
    }
}

impl BitOr for Methods {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Methods {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// The methods that are not in the set.
impl Not for Methods {
    type Output = Self;

    fn not(self) -> Self {
        Self(!self.0 & Self::ALL.0)
    }
}

impl fmt::Debug for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::NAMES
            .iter()
            .filter(|(method, _)| self.contains(*method))
            .map(|(_, name)| name);
        f.debug_set().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_a_name() {
        let all = Methods::NAMES
            .iter()
            .fold(Methods::NONE, |all, (method, _)| all | *method);
        assert_eq!(all, Methods::ALL);
        assert_eq!(!Methods::ALL, Methods::NONE);
    }

    #[test]
    fn a_host_can_be_narrowed() {
        let mut host = Host::probe().unwrap();
        host.narrow_methods(Methods::NONE);
        assert_eq!(host.methods(), Methods::NONE);
    }
}

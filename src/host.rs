// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel can do, asked once.

use std::fmt;
use std::ops::BitAnd;
use std::ops::BitOr;
use std::ops::Not;

use crate::error::text_from_raw;
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

    /// What the host is and how it is set, when it was probed.
    #[doc(alias = "hostmem_host_get_info")]
    pub fn info(&self) -> HostInfo {
        HostInfo::from_raw(&self.handle.info())
    }

    /// What not every kernel in use, or every process, can do, and whether this one can:
    /// `populate`, `collapse`, `userfaultfd`, `dontneed-locked`, `noexec-seal`, `merge`,
    /// `home-node`, and each policy as `policy=bind`.
    #[doc(alias = "hostmem_host_get_feature")]
    pub fn features(&self) -> Vec<Feature> {
        (0..)
            .map_while(|index| self.handle.feature(index))
            .map(|raw| Feature::from_raw(&raw))
            .collect()
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

/// What a host is and how it is set, when it was probed.
#[doc(alias = "hostmem_host_info")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostInfo {
    /// The kernel's release, e.g. `6.1.0-50-amd64`.
    pub kernel: String,
    /// Bytes of a base page.
    pub page_size: u64,
    /// Bytes of a transparent huge page; `None` where the kernel has none.
    pub thp_size: Option<u64>,
    /// Whether private memory is made of them: `always`, `madvise` or `never`; empty where the
    /// kernel has none.
    pub thp: String,
    /// Whether memfds are: `always`, `within_size`, `advise`, `never`, `deny` or `force`; empty
    /// where the kernel has none.
    pub thp_shmem: String,
    /// Whether the kernel merges identical pages (KSM): `on`, `off`; empty where it cannot.
    pub merging: String,
    /// `/proc/sys/vm/overcommit_memory`: 0 to 2; `None` where it cannot be read.
    pub overcommit: Option<u32>,
    /// How much this process may lock (`RLIMIT_MEMLOCK`), in bytes; `None` for no limit.
    pub memlock_limit: Option<u64>,
    /// How large this process may make a file (`RLIMIT_FSIZE`), in bytes; `None` for no limit.
    pub file_limit: Option<u64>,
    /// Whether hostmem is built with libnuma.
    pub numa: bool,
}

impl HostInfo {
    fn from_raw(raw: &sys::hostmem_host_info) -> Self {
        let limit = |bytes| (bytes != u64::MAX).then_some(bytes);
        Self {
            kernel: text_from_raw(&raw.kernel),
            page_size: raw.page_size,
            thp_size: (raw.thp_size != 0).then_some(raw.thp_size),
            thp: text_from_raw(&raw.thp),
            thp_shmem: text_from_raw(&raw.thp_shmem),
            merging: text_from_raw(&raw.merging),
            overcommit: raw.overcommit.try_into().ok(),
            memlock_limit: limit(raw.memlock_limit),
            file_limit: limit(raw.file_limit),
            numa: raw.numa,
        }
    }
}

/// Something that not every kernel in use, or every process, can do.
#[doc(alias = "hostmem_feature")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// The errno that the kernel gave; `None` where it can.
    pub os_error: Option<i32>,
    /// Why not, for people, e.g. `needs Linux 5.14`; empty where it can.
    pub reason: String,
}

impl Feature {
    fn from_raw(raw: &sys::hostmem_feature) -> Self {
        Self {
            name: text_from_raw(&raw.name),
            os_error: (raw.os_error != 0).then_some(raw.os_error),
            reason: text_from_raw(&raw.reason),
        }
    }

    /// Whether the host can.
    pub fn is_available(&self) -> bool {
        self.os_error.is_none()
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

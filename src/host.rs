// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Host capabilities, probed once.

use std::fmt;
use std::ops::BitAnd;
use std::ops::BitOr;
use std::ops::Not;

use crate::error::text_from_raw;
use crate::handle::HostHandle;
use crate::sys;
use crate::Result;

/// The functions that each set of bits has, from its `ALL` and `NAMES`.
macro_rules! set_of_bits {
    ($set:ident) => {
        impl $set {
            /// Whether each element of `other` is in this set.
            pub fn contains(self, other: Self) -> bool {
                self & other == other
            }
        }

        impl BitOr for $set {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }

        impl BitAnd for $set {
            type Output = Self;

            fn bitand(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }
        }

        /// The elements of `ALL` that are not in the set.
        impl Not for $set {
            type Output = Self;

            fn not(self) -> Self {
                Self(!self.0 & Self::ALL.0)
            }
        }

        impl fmt::Debug for $set {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let names = Self::NAMES
                    .iter()
                    .filter(|(one, _)| self.contains(*one))
                    .map(|(_, name)| name);
                f.debug_set().entries(names).finish()
            }
        }
    };
}

/// Host capabilities: the result of one probe.
///
/// [`Objects`](crate::Objects) copy it, so it may be dropped before them.
#[doc(alias = "hostmem_host")]
#[derive(Debug)]
pub struct Host {
    pub(crate) handle: HostHandle,
}

impl Host {
    /// Probes the kernel with system calls on scratch memory: page sizes, populate, advice values,
    /// memory policies, home nodes.
    ///
    /// Call it before installing a seccomp filter: completing a backend uses the result and does
    /// not probe again. A system call that is not permitted counts as a missing feature.
    ///
    /// # Errors
    ///
    /// [`NoMemory`](crate::ErrorKind::NoMemory).
    #[doc(alias = "hostmem_host_probe")]
    pub fn probe() -> Result<Self> {
        HostHandle::probe().map(|handle| Self { handle })
    }

    /// The host's properties and settings at the time of the probe.
    #[doc(alias = "hostmem_host_get_info")]
    pub fn info(&self) -> HostInfo {
        HostInfo::from_raw(&self.handle.info())
    }

    /// Optional features and whether they are available: `populate`, `collapse`, `userfaultfd`,
    /// `userfaultfd-kvm` ([contents](crate::Builder::contents) can be read on demand, also where
    /// KVM or a system call touches the memory),
    /// `dontneed-locked`, `noexec-seal`, `merge`, `home-node`, and each policy, for example
    /// `policy=bind`.
    #[doc(alias = "hostmem_host_get_feature")]
    pub fn features(&self) -> Vec<Feature> {
        (0..)
            .map_while(|index| self.handle.feature(index))
            .map(|raw| Feature::from_raw(&raw))
            .collect()
    }

    /// The methods that preallocation, and reading [contents](crate::Builder::contents) on demand,
    /// may use.
    #[doc(alias = "hostmem_host_get_methods")]
    pub fn methods(&self) -> Methods {
        Methods(self.handle.methods())
    }

    /// Removes the populate methods that are not in `methods`, for measurements and for strict
    /// seccomp filters. The contents of memory are the same; pages may be small where
    /// [`COLLAPSE`](Methods::COLLAPSE), [`MOVE`](Methods::MOVE) or [`CONTINUE`](Methods::CONTINUE)
    /// is left out. Applies to sets of objects that are made later, and to
    /// [`syscalls`](Host::syscalls).
    #[doc(alias = "hostmem_host_narrow_methods")]
    pub fn narrow_methods(&mut self, methods: Methods) {
        self.handle.narrow_methods(methods.0);
    }

    /// The optional system calls that may be made.
    #[doc(alias = "hostmem_host_get_calls")]
    pub fn calls(&self) -> Calls {
        Calls(self.handle.calls())
    }

    /// Removes the optional system calls that are not in `calls`, for seccomp filters that kill.
    /// Where they are optional they are not made; uses that need a call make it all the same.
    /// docs/seccomp.md says for which uses each call is optional, and what is lost without it.
    /// Applies to sets of objects that are made later, and to [`syscalls`](Host::syscalls).
    #[doc(alias = "hostmem_host_narrow_calls")]
    pub fn narrow_calls(&mut self, calls: Calls) {
        self.handle.narrow_calls(calls.0);
    }
}

/// The host's properties and settings at the time of the probe.
#[doc(alias = "hostmem_host_info")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostInfo {
    /// The kernel release, e.g. `6.1.0-50-amd64`.
    pub kernel: String,
    /// Size of a base page in bytes.
    pub page_size: u64,
    /// Size of a transparent huge page in bytes; `None` if the kernel has none.
    pub thp_size: Option<u64>,
    /// Their use for anonymous memory: `always`, `madvise` or `never`; empty if the kernel has
    /// none or it cannot be read.
    pub thp: String,
    /// Their use for memfds: `always`, `within_size`, `advise`, `never`, `deny` or `force`; empty
    /// if the kernel has none.
    pub thp_shmem: String,
    /// Whether the kernel merges identical pages (KSM): `on` or `off`; empty if it cannot.
    pub merging: String,
    /// `/proc/sys/vm/overcommit_memory`: 0 to 2; `None` if it cannot be read.
    pub overcommit: Option<u32>,
    /// Limit of locked memory (`RLIMIT_MEMLOCK`) in bytes; `None`: no limit.
    pub memlock_limit: Option<u64>,
    /// Limit of the size of files (`RLIMIT_FSIZE`) in bytes; `None`: no limit.
    pub file_limit: Option<u64>,
    /// Whether this process gets no transparent huge pages, not even where it advises them
    /// (`PR_SET_THP_DISABLE`).
    pub thp_disabled: bool,
    /// Whether hostmem is built with NUMA policies (feature `numa`).
    pub numa: bool,
    /// Whether it reaches them through libnuma (feature `libnuma`), or by system calls of its own.
    pub libnuma: bool,
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
            thp_disabled: raw.thp_disabled,
            numa: raw.numa,
            libnuma: raw.libnuma,
        }
    }
}

/// A feature that some kernels lack or some processes may not use.
#[doc(alias = "hostmem_feature")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Feature {
    /// The name.
    pub name: String,
    /// The errno of the probe; `None` if the feature is available.
    pub os_error: Option<i32>,
    /// Why it is not available, for people, e.g. `needs Linux 5.14`; else empty.
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

    /// Whether the feature is available.
    pub fn is_available(&self) -> bool {
        self.os_error.is_none()
    }
}

/// A set of methods to populate memory besides the basic one, `MADV_POPULATE_WRITE` or
/// `MADV_POPULATE_READ` of a chunk. A method is used for the memory that it is for.
#[doc(alias = "hostmem_method")]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Methods(u32);

impl Methods {
    /// Only the basic method.
    pub const NONE: Self = Self(0);
    /// All methods.
    #[doc(alias = "HOSTMEM_METHODS_ALL")]
    pub const ALL: Self = Self(sys::HOSTMEM_METHODS_ALL);
    /// For huge pages: fault the last base page of each first, so that the kernel clears the page
    /// in ascending order.
    #[doc(alias = "HOSTMEM_METHOD_LAST_PAGE_FIRST")]
    pub const LAST_PAGE_FIRST: Self = Self(sys::hostmem_method::HOSTMEM_METHOD_LAST_PAGE_FIRST.0);

    /// For new shared memory in base pages: `UFFDIO_ZEROPAGE` of `userfaultfd(2)`.
    #[doc(alias = "HOSTMEM_METHOD_ZEROPAGE")]
    pub const ZEROPAGE: Self = Self(sys::hostmem_method::HOSTMEM_METHOD_ZEROPAGE.0);
    /// For shared memory with `thp=always` if the host's setting gives it base pages:
    /// `MADV_COLLAPSE` (Linux 6.1).
    #[doc(alias = "HOSTMEM_METHOD_COLLAPSE")]
    pub const COLLAPSE: Self = Self(sys::hostmem_method::HOSTMEM_METHOD_COLLAPSE.0);
    /// For shared files on disk: `fallocate(2)` first.
    #[doc(alias = "HOSTMEM_METHOD_FALLOCATE")]
    pub const FALLOCATE: Self = Self(sys::hostmem_method::HOSTMEM_METHOD_FALLOCATE.0);

    /// For contents that are read on demand: moves whole huge pages into place, `UFFDIO_MOVE` of
    /// `userfaultfd(2)` (Linux 6.8).
    #[doc(alias = "HOSTMEM_METHOD_MOVE")]
    pub const MOVE: Self = Self(sys::hostmem_method::HOSTMEM_METHOD_MOVE.0);

    /// For contents of shared memory in huge pages that are read on demand: writes them through a
    /// second mapping, `UFFDIO_CONTINUE` of `userfaultfd(2)` (Linux 5.14).
    #[doc(alias = "HOSTMEM_METHOD_CONTINUE")]
    pub const CONTINUE: Self = Self(sys::hostmem_method::HOSTMEM_METHOD_CONTINUE.0);

    const NAMES: [(Self, &'static str); 6] = [
        (Self::LAST_PAGE_FIRST, "LAST_PAGE_FIRST"),
        (Self::ZEROPAGE, "ZEROPAGE"),
        (Self::COLLAPSE, "COLLAPSE"),
        (Self::FALLOCATE, "FALLOCATE"),
        (Self::MOVE, "MOVE"),
        (Self::CONTINUE, "CONTINUE"),
    ];
}

set_of_bits!(Methods);

/// A set of system calls that are optional: the library works without them. See
/// [`Host::narrow_calls`].
#[doc(alias = "hostmem_call")]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Calls(u32);

impl Calls {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// All of them.
    #[doc(alias = "HOSTMEM_CALLS_ALL")]
    pub const ALL: Self = Self(sys::HOSTMEM_CALLS_ALL);
    /// cachestat(2).
    #[doc(alias = "HOSTMEM_CALL_CACHESTAT")]
    pub const CACHESTAT: Self = Self(sys::hostmem_call::HOSTMEM_CALL_CACHESTAT.0);
    /// get_mempolicy(2).
    #[doc(alias = "HOSTMEM_CALL_GET_MEMPOLICY")]
    pub const GET_MEMPOLICY: Self = Self(sys::hostmem_call::HOSTMEM_CALL_GET_MEMPOLICY.0);
    /// lseek(2).
    #[doc(alias = "HOSTMEM_CALL_LSEEK")]
    pub const LSEEK: Self = Self(sys::hostmem_call::HOSTMEM_CALL_LSEEK.0);
    /// mincore(2).
    #[doc(alias = "HOSTMEM_CALL_MINCORE")]
    pub const MINCORE: Self = Self(sys::hostmem_call::HOSTMEM_CALL_MINCORE.0);
    /// mlock2(2).
    #[doc(alias = "HOSTMEM_CALL_MLOCK2")]
    pub const MLOCK2: Self = Self(sys::hostmem_call::HOSTMEM_CALL_MLOCK2.0);
    /// msync(2).
    #[doc(alias = "HOSTMEM_CALL_MSYNC")]
    pub const MSYNC: Self = Self(sys::hostmem_call::HOSTMEM_CALL_MSYNC.0);
    /// prctl(2).
    #[doc(alias = "HOSTMEM_CALL_PRCTL")]
    pub const PRCTL: Self = Self(sys::hostmem_call::HOSTMEM_CALL_PRCTL.0);
    /// pread64(2).
    #[doc(alias = "HOSTMEM_CALL_PREAD64")]
    pub const PREAD64: Self = Self(sys::hostmem_call::HOSTMEM_CALL_PREAD64.0);
    /// prlimit64(2).
    #[doc(alias = "HOSTMEM_CALL_PRLIMIT64")]
    pub const PRLIMIT64: Self = Self(sys::hostmem_call::HOSTMEM_CALL_PRLIMIT64.0);
    /// readlink(2) and readlinkat(2).
    #[doc(alias = "HOSTMEM_CALL_READLINK")]
    pub const READLINK: Self = Self(sys::hostmem_call::HOSTMEM_CALL_READLINK.0);
    /// sched_getaffinity(2).
    #[doc(alias = "HOSTMEM_CALL_SCHED_GETAFFINITY")]
    pub const SCHED_GETAFFINITY: Self = Self(sys::hostmem_call::HOSTMEM_CALL_SCHED_GETAFFINITY.0);
    /// sched_setaffinity(2) and getcpu(2).
    #[doc(alias = "HOSTMEM_CALL_SCHED_SETAFFINITY")]
    pub const SCHED_SETAFFINITY: Self = Self(sys::hostmem_call::HOSTMEM_CALL_SCHED_SETAFFINITY.0);
    /// sched_setscheduler(2).
    #[doc(alias = "HOSTMEM_CALL_SCHED_SETSCHEDULER")]
    pub const SCHED_SETSCHEDULER: Self = Self(sys::hostmem_call::HOSTMEM_CALL_SCHED_SETSCHEDULER.0);
    /// set_mempolicy(2).
    #[doc(alias = "HOSTMEM_CALL_SET_MEMPOLICY")]
    pub const SET_MEMPOLICY: Self = Self(sys::hostmem_call::HOSTMEM_CALL_SET_MEMPOLICY.0);

    const NAMES: [(Self, &'static str); 14] = [
        (Self::CACHESTAT, "CACHESTAT"),
        (Self::GET_MEMPOLICY, "GET_MEMPOLICY"),
        (Self::LSEEK, "LSEEK"),
        (Self::MINCORE, "MINCORE"),
        (Self::MLOCK2, "MLOCK2"),
        (Self::MSYNC, "MSYNC"),
        (Self::PRCTL, "PRCTL"),
        (Self::PREAD64, "PREAD64"),
        (Self::PRLIMIT64, "PRLIMIT64"),
        (Self::READLINK, "READLINK"),
        (Self::SCHED_GETAFFINITY, "SCHED_GETAFFINITY"),
        (Self::SCHED_SETAFFINITY, "SCHED_SETAFFINITY"),
        (Self::SCHED_SETSCHEDULER, "SCHED_SETSCHEDULER"),
        (Self::SET_MEMPOLICY, "SET_MEMPOLICY"),
    ];

    /// The call that has to be allowed for a system call that is optional where a
    /// [`Use`](crate::Use) says so; `None`: none has to.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let name = match name {
            "getcpu" => "sched_setaffinity",
            "readlinkat" => "readlink",
            name => name,
        };
        let found = Self::NAMES
            .iter()
            .find(|(_, own)| own.eq_ignore_ascii_case(name));
        found.map(|(call, _)| *call)
    }
}

set_of_bits!(Calls);

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
    fn every_call_has_a_name() {
        let all = Calls::NAMES
            .iter()
            .fold(Calls::NONE, |all, (call, _)| all | *call);
        assert_eq!(all, Calls::ALL);
        assert_eq!(Calls::of("readlinkat"), Some(Calls::READLINK));
        assert_eq!(Calls::of("mmap"), None);
    }

    #[test]
    fn a_host_can_be_narrowed() {
        let mut host = Host::probe().unwrap();
        host.narrow_methods(Methods::NONE);
        assert_eq!(host.methods(), Methods::NONE);
        assert_eq!(host.calls(), Calls::ALL);
        host.narrow_calls(!Calls::MSYNC);
        host.narrow_calls(!Calls::MINCORE);
        assert_eq!(host.calls(), !(Calls::MSYNC | Calls::MINCORE));
    }
}

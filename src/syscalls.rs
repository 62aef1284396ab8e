// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system calls of the library, for seccomp filters. docs/seccomp.md has them for people.

use crate::Host;
use crate::Methods;

/// What a program does with backends after it has installed its seccomp filter; for
/// [`Host::syscalls`].
///
/// Completing, changing and deleting a backend without preallocation is part of every use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Use {
    /// Backends without any of the following.
    Backend,
    /// `prealloc`, [`Claim::populate`](crate::Claim::populate), with the
    /// [methods](Host::methods) of the host.
    Prealloc,
    /// Preallocation, also in the background.
    BackgroundPrealloc,
    /// `policy` and `host-nodes`.
    Policy,
    /// `home-node`.
    HomeNode,
    /// A `policy` for huge pages, or for shared files on disk.
    PolicyOfThreads,
    /// `lock`.
    Lock,
    /// `memory-backend-memfd`, and `memory-backend-ram` with `share`.
    Memfd,
    /// `memory-backend-shm`.
    Shm,
    /// `memory-backend-file`.
    File,
    /// `memory-backend-fd`.
    Fd,
    /// [`Backend::rebind`](crate::Backend::rebind).
    Rebind,
    /// [`Claim::discard`](crate::Claim::discard), and `discard-data`.
    Discard,
    /// [`Claim::scrub`](crate::Claim::scrub), with [`Prealloc`](Use::Prealloc).
    Scrub,
    /// [`Backend::placement`](crate::Backend::placement) and
    /// [`Topology::read`](crate::Topology::read).
    Placement,
}

/// A system call that the library makes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Syscall {
    /// The name, e.g. `madvise`.
    pub name: &'static str,
    /// Its number on this architecture.
    pub number: i64,
    /// The argument that has one of a few values; `None`: any arguments.
    pub argument: Option<SyscallArgument>,
    /// Whether a filter may refuse it with an errno: the library does without it then. A filter
    /// that kills has to allow it.
    pub optional: bool,
}

/// An argument of a system call, and the values that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyscallArgument {
    /// Which argument, from 0. It has 32 bits.
    pub index: u8,
    /// The bits to compare; the others are flags that may be set or not.
    pub mask: u32,
    /// The values.
    pub values: Vec<u32>,
}

/// The calls of one use: required and optional ones, and arguments.
struct Row {
    calls: &'static [&'static str],
    optional: &'static [&'static str],
    advice: &'static [libc::c_int],
    futex: &'static [libc::c_int],
    ioctl: &'static [u32],
    prctl: &'static [libc::c_int],
}

const NOTHING: Row = Row {
    calls: &[],
    optional: &[],
    advice: &[],
    futex: &[],
    ioctl: &[],
    prctl: &[],
};

/// linux/mman.h, prctl.h, fs.h, userfaultfd.h.
const MADV_POPULATE_READ: libc::c_int = 22;
const MADV_POPULATE_WRITE: libc::c_int = 23;
const MADV_DONTNEED_LOCKED: libc::c_int = 24;
const MADV_COLLAPSE: libc::c_int = 25;
const PR_GET_THP_DISABLE: libc::c_int = 42;
const PR_SET_VMA: libc::c_int = 0x5356_4d41;
const BLKGETSIZE64: u32 = 0x8008_1272;
const UFFDIO: [u32; 4] = [0xc018_aa3f, 0xc020_aa00, 0x8010_aa01, 0xc020_aa04];

const BACKEND: Row = Row {
    calls: &[
        "mmap",
        "munmap",
        "mprotect",
        "mremap",
        "madvise",
        "brk",
        "prctl",
        "getpid",
        "futex",
        "openat",
        "read",
        "close",
        "fstat",
        "newfstatat",
        "prlimit64",
        "sched_getaffinity",
    ],
    optional: &["msync"],
    advice: &[
        libc::MADV_DONTFORK,
        libc::MADV_DODUMP,
        libc::MADV_DONTDUMP,
        libc::MADV_MERGEABLE,
        libc::MADV_UNMERGEABLE,
        libc::MADV_HUGEPAGE,
        libc::MADV_NOHUGEPAGE,
    ],
    futex: &[libc::FUTEX_WAIT, libc::FUTEX_WAIT_BITSET, libc::FUTEX_WAKE],
    ioctl: &[],
    prctl: &[PR_SET_VMA, PR_GET_THP_DISABLE],
};

/// What musl calls in addition, for any backend.
const MUSL: Row = Row {
    calls: &["open", "fcntl", "lseek"],
    futex: &[libc::FUTEX_REQUEUE],
    ..NOTHING
};

const PREALLOC: Row = Row {
    calls: &[
        "clone3",
        "clone",
        "set_robust_list",
        "rseq",
        "rt_sigprocmask",
        "exit",
        "mincore",
        "sched_yield",
        "clock_gettime",
        "fstatfs",
    ],
    optional: &[
        "get_mempolicy",
        "pread64",
        "sched_setaffinity",
        "mlock2",
        "cachestat",
    ],
    advice: &[MADV_POPULATE_READ, MADV_POPULATE_WRITE, libc::MADV_DONTNEED],
    prctl: &[libc::PR_SET_NAME],
    ..NOTHING
};

/// Preallocation before Linux 5.14.
const TOUCH: Row = Row {
    futex: &[libc::FUTEX_WAKE_OP, libc::FUTEX_CMP_REQUEUE],
    ..NOTHING
};

const METHODS: [(Methods, Row); 4] = [
    (
        Methods::LAST_PAGE_FIRST,
        Row {
            advice: &[MADV_POPULATE_WRITE],
            ..NOTHING
        },
    ),
    (
        Methods::ZEROPAGE,
        Row {
            calls: &["ioctl"],
            optional: &["userfaultfd"],
            ioctl: &UFFDIO,
            ..NOTHING
        },
    ),
    (
        Methods::COLLAPSE,
        Row {
            optional: &["fallocate"],
            advice: &[MADV_COLLAPSE],
            ..NOTHING
        },
    ),
    (
        Methods::FALLOCATE,
        Row {
            optional: &["fallocate"],
            ..NOTHING
        },
    ),
];

impl Use {
    /// What it adds to the calls of any backend.
    fn row(self) -> Row {
        match self {
            Self::Backend => NOTHING,
            Self::Prealloc => PREALLOC,
            Self::BackgroundPrealloc => Row {
                calls: &["eventfd2", "write"],
                ..NOTHING
            },
            Self::Policy => Row {
                calls: &["mbind"],
                optional: &["sched_setaffinity"],
                ..NOTHING
            },
            Self::HomeNode => Row {
                calls: &["set_mempolicy_home_node"],
                ..NOTHING
            },
            Self::PolicyOfThreads => Row {
                calls: &[
                    "clone3",
                    "clone",
                    "set_robust_list",
                    "rseq",
                    "rt_sigprocmask",
                    "exit",
                ],
                optional: &["set_mempolicy"],
                advice: &[libc::MADV_DONTNEED],
                prctl: &[libc::PR_SET_NAME],
                ..NOTHING
            },
            Self::Lock => Row {
                calls: &["mlock2", "munlock"],
                ..NOTHING
            },
            Self::Memfd => Row {
                calls: &["memfd_create", "ftruncate", "fstatfs", "fcntl"],
                ..NOTHING
            },
            Self::Shm => Row {
                calls: &[
                    "getrandom",
                    "unlink",
                    "unlinkat",
                    "ftruncate",
                    "fstatfs",
                    "fcntl",
                ],
                optional: &["readlink", "readlinkat", "lseek"],
                ..NOTHING
            },
            Self::File => Row {
                calls: &[
                    "readlink",
                    "readlinkat",
                    "ftruncate",
                    "fstatfs",
                    "fcntl",
                    "ioctl",
                    "unlink",
                    "unlinkat",
                    "getrandom",
                ],
                optional: &["lseek"],
                ioctl: &[BLKGETSIZE64],
                ..NOTHING
            },
            Self::Fd => Row {
                calls: &["fstatfs", "fcntl", "ioctl"],
                optional: &["readlink", "readlinkat", "lseek"],
                ioctl: &[BLKGETSIZE64],
                ..NOTHING
            },
            Self::Rebind => Row {
                calls: &["mbind"],
                ..NOTHING
            },
            Self::Discard => Row {
                calls: &["fallocate", "msync", "munlock", "mlock2"],
                advice: &[libc::MADV_DONTNEED, MADV_DONTNEED_LOCKED],
                ..NOTHING
            },
            Self::Scrub => Row {
                calls: &[
                    "pread64",
                    "mincore",
                    "fallocate",
                    "munlock",
                    "mlock2",
                    "msync",
                ],
                advice: &[libc::MADV_DONTNEED, MADV_DONTNEED_LOCKED],
                ..NOTHING
            },
            Self::Placement => Row {
                calls: &["fstatfs"],
                optional: &["cachestat", "lseek", "mincore"],
                ..NOTHING
            },
        }
    }
}

impl Host {
    /// The system calls that the library makes after the probe for these uses, with the C library
    /// it is built with (GNU's or musl), for a seccomp filter. Without the calls of the VMM itself
    /// and of its threads.
    ///
    /// The calls of populate [methods](Host::methods) are among those of
    /// [`Use::Prealloc`]; [`narrow_methods`](Host::narrow_methods) leaves them out.
    pub fn syscalls(&self, uses: &[Use]) -> Vec<Syscall> {
        let mut rows = vec![BACKEND];
        if cfg!(target_env = "musl") {
            rows.push(MUSL);
        }
        for one in uses {
            rows.push(one.row());
            if *one == Use::BackgroundPrealloc {
                rows.push(PREALLOC);
            }
        }
        if uses.contains(&Use::Prealloc) || uses.contains(&Use::BackgroundPrealloc) {
            let methods = self.methods();
            let allowed = METHODS.into_iter();
            rows.extend(
                allowed.filter_map(|(method, row)| methods.contains(method).then_some(row)),
            );
            let features = self.features();
            if features
                .iter()
                .any(|one| one.name == "populate" && !one.is_available())
            {
                rows.push(TOUCH);
            }
        }
        collect(&rows)
    }
}

fn collect(rows: &[Row]) -> Vec<Syscall> {
    let mut calls: Vec<Syscall> = Vec::new();
    let mut add = |name: &&'static str, optional| {
        let Some(number) = number(name) else {
            return;
        };
        match calls.iter_mut().find(|call| call.name == *name) {
            Some(call) => call.optional &= optional,
            None => calls.push(Syscall {
                name,
                number,
                argument: argument(name, rows),
                optional,
            }),
        }
    };
    for row in rows {
        row.calls.iter().for_each(|name| add(name, false));
        row.optional.iter().for_each(|name| add(name, true));
    }
    calls
}

fn argument(name: &str, rows: &[Row]) -> Option<SyscallArgument> {
    const FUTEX_FLAGS: libc::c_int = libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME;
    let numbers = |of: fn(&Row) -> &'static [libc::c_int]| {
        let values = rows.iter().flat_map(of);
        values.map(|value| *value as u32).collect::<Vec<_>>()
    };
    let (index, mask, mut values) = match name {
        "madvise" => (2, u32::MAX, numbers(|row| row.advice)),
        "futex" => (1, !FUTEX_FLAGS as u32, numbers(|row| row.futex)),
        "prctl" => (0, u32::MAX, numbers(|row| row.prctl)),
        "ioctl" => (
            1,
            u32::MAX,
            rows.iter().flat_map(|row| row.ioctl).copied().collect(),
        ),
        _ => return None,
    };
    values.sort_unstable();
    values.dedup();
    Some(SyscallArgument {
        index,
        mask,
        values,
    })
}

/// `None`: this architecture has no such call.
fn number(name: &str) -> Option<i64> {
    let number = match name {
        "brk" => libc::SYS_brk,
        "cachestat" => 451,
        "clock_gettime" => libc::SYS_clock_gettime,
        "clone" => libc::SYS_clone,
        "clone3" => libc::SYS_clone3,
        "close" => libc::SYS_close,
        "eventfd2" => libc::SYS_eventfd2,
        "exit" => libc::SYS_exit,
        "fallocate" => libc::SYS_fallocate,
        "fcntl" => libc::SYS_fcntl,
        "fstat" => libc::SYS_fstat,
        "fstatfs" => libc::SYS_fstatfs,
        "ftruncate" => libc::SYS_ftruncate,
        "futex" => libc::SYS_futex,
        "get_mempolicy" => libc::SYS_get_mempolicy,
        "getpid" => libc::SYS_getpid,
        "getrandom" => libc::SYS_getrandom,
        "ioctl" => libc::SYS_ioctl,
        "lseek" => libc::SYS_lseek,
        "madvise" => libc::SYS_madvise,
        "mbind" => libc::SYS_mbind,
        "memfd_create" => libc::SYS_memfd_create,
        "mincore" => libc::SYS_mincore,
        "mlock2" => libc::SYS_mlock2,
        "mmap" => libc::SYS_mmap,
        "mprotect" => libc::SYS_mprotect,
        "mremap" => libc::SYS_mremap,
        "msync" => libc::SYS_msync,
        "munlock" => libc::SYS_munlock,
        "munmap" => libc::SYS_munmap,
        "newfstatat" => libc::SYS_newfstatat,
        #[cfg(target_arch = "x86_64")]
        "open" => libc::SYS_open,
        "openat" => libc::SYS_openat,
        "prctl" => libc::SYS_prctl,
        "pread64" => libc::SYS_pread64,
        "prlimit64" => libc::SYS_prlimit64,
        "read" => libc::SYS_read,
        #[cfg(target_arch = "x86_64")]
        "readlink" => libc::SYS_readlink,
        "readlinkat" => libc::SYS_readlinkat,
        "rseq" => libc::SYS_rseq,
        "rt_sigprocmask" => libc::SYS_rt_sigprocmask,
        "sched_getaffinity" => libc::SYS_sched_getaffinity,
        "sched_setaffinity" => libc::SYS_sched_setaffinity,
        "sched_yield" => libc::SYS_sched_yield,
        "set_mempolicy" => libc::SYS_set_mempolicy,
        "set_mempolicy_home_node" => 450,
        "set_robust_list" => libc::SYS_set_robust_list,
        #[cfg(target_arch = "x86_64")]
        "unlink" => libc::SYS_unlink,
        "unlinkat" => libc::SYS_unlinkat,
        "userfaultfd" => libc::SYS_userfaultfd,
        "write" => libc::SYS_write,
        _ => return None,
    };
    // `c_long`, of 32 bits on some targets.
    #[allow(clippy::useless_conversion)]
    Some(number.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USES: [(Use, &str); 15] = [
        (Use::Backend, "any backend"),
        (Use::Prealloc, "preallocation"),
        (Use::BackgroundPrealloc, "preallocation in the background"),
        (Use::Policy, "policy"),
        (Use::HomeNode, "home-node"),
        (
            Use::PolicyOfThreads,
            "bound huge pages, shared files on disk",
        ),
        (Use::Lock, "lock"),
        (Use::Memfd, "memfd, ram with share=on"),
        (Use::Shm, "shm"),
        (Use::File, "file"),
        (Use::Fd, "fd"),
        (Use::Rebind, "rebind"),
        (Use::Discard, "discard, discard-data"),
        (Use::Scrub, "scrub"),
        (Use::Placement, "placement, topology"),
    ];

    /// The words in backticks of a cell: required ones, and those in brackets.
    fn words(cell: &str) -> (Vec<&str>, Vec<&str>) {
        let parts: Vec<_> = cell.split('`').collect();
        let words = parts.chunks(2).filter(|pair| pair.len() == 2);
        let (optional, required): (Vec<_>, Vec<_>) = words.partition(|pair| pair[0].ends_with('('));
        (
            required.iter().map(|pair| pair[1]).collect(),
            optional.iter().map(|pair| pair[1]).collect(),
        )
    }

    fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
        list.sort_unstable();
        list
    }

    /// docs/seccomp.md and this table are the same, and every name has a number.
    #[test]
    fn the_document_has_the_same_calls() {
        let document = include_str!("../docs/seccomp.md");
        let uses = USES.map(|(one, name)| match one {
            Use::Backend => (BACKEND, name),
            _ => (one.row(), name),
        });
        let musl = (MUSL, "musl, for any backend");
        for (row, name) in uses.into_iter().chain([musl]) {
            let line = document.lines().find_map(|line| {
                let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
                (cells.len() == 3 && cells[0] == name).then(|| cells[1].to_owned())
            });
            let line = line.expect(name);
            let (required, optional) = words(&line);
            assert_eq!(sorted(required), sorted(row.calls.to_vec()), "{name}");
            assert_eq!(sorted(optional), sorted(row.optional.to_vec()), "{name}");
            for call in row.calls.iter().chain(row.optional) {
                let old = ["open", "readlink", "unlink"].contains(call);
                assert!(old || number(call).is_some(), "{call}");
            }
        }
    }
}

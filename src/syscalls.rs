// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system calls of the library, for seccomp filters. docs/seccomp.md has them for people.

use crate::Calls;
use crate::Feature;
use crate::Host;
use crate::Methods;

/// What a program does with backends after it has installed its seccomp filter; for
/// [`Host::syscalls`].
///
/// Completing, changing and deleting a backend without preallocation is part of every use but
/// [`DiscardAlone`](Use::DiscardAlone).
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
    /// `contents` with `prealloc`, read while completing.
    Contents,
    /// `contents` that are read on demand; in the background with
    /// [`BackgroundPrealloc`](Use::BackgroundPrealloc).
    LazyContents,
    /// [`Claim::save`](crate::Claim::save).
    Save,
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
    /// [`Piece::discard`](crate::Piece::discard) and [`Piece::protect`](crate::Piece::protect), for
    /// the filter of a thread that makes no other calls of the library, as that of a balloon. Another
    /// thread has the last clone of the piece. [`DiscardTo::Zero`](crate::DiscardTo::Zero) for a
    /// private mapping of a file makes new memory, and needs [`Discard`](Use::Discard).
    DiscardAlone,
    /// [`Claim::scrub`](crate::Claim::scrub), with [`Prealloc`](Use::Prealloc).
    Scrub,
    /// [`Backend::placement`](crate::Backend::placement) and
    /// [`Topology::read`](crate::Topology::read).
    Placement,
    /// [`ThreadContext`](crate::ThreadContext), with `cpu-affinity` or `node-affinity`.
    ThreadContext,
    /// [`Pool`](crate::Pool), besides the calls of its kind.
    Pool,
    /// `hostmem::pool::take` (feature `pool`), with [`Fd`](Use::Fd).
    PoolClient,
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
    /// Whether a filter may refuse it with an errno: the library works without it then. A filter
    /// that kills has to allow it, or the host is [narrowed](Host::narrow_calls), which leaves it
    /// out of the list.
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

/// A line of docs/seccomp.md: what is called for one thing, beyond the lines that it includes.
struct Row {
    name: &'static str,
    includes: &'static [&'static Row],
    calls: &'static [&'static str],
    /// Not made where the host was narrowed.
    optional: &'static [&'static str],
    /// Of arguments that have one of a few.
    values: &'static [&'static str],
}

const NOTHING: Row = Row {
    name: "",
    includes: &[],
    calls: &[],
    optional: &[],
    values: &[],
};

const BACKEND: Row = Row {
    name: "any backend",
    calls: &[
        "mmap",
        "munmap",
        "mprotect",
        "mremap",
        "madvise",
        "brk",
        "getpid",
        "futex",
        "openat",
        "read",
        "close",
        "fstat",
        "newfstatat",
    ],
    optional: &["msync", "prctl", "prlimit64", "sched_getaffinity"],
    values: &[
        "DONTFORK",
        "DODUMP",
        "DONTDUMP",
        "MERGEABLE",
        "UNMERGEABLE",
        "HUGEPAGE",
        "NOHUGEPAGE",
        "WAIT",
        "WAIT_BITSET",
        "WAKE",
        "PR_SET_VMA",
        "PR_GET_THP_DISABLE",
    ],
    ..NOTHING
};

const MUSL: Row = Row {
    name: "musl, for any backend",
    calls: &["open", "stat", "fcntl", "lseek"],
    values: &["REQUEUE"],
    ..NOTHING
};

const THREADS: Row = Row {
    name: "threads",
    calls: &[
        "clone3",
        "clone",
        "set_robust_list",
        "rseq",
        "rt_sigprocmask",
        "exit",
    ],
    optional: &["prctl"],
    values: &["DONTNEED", "PR_SET_NAME"],
    ..NOTHING
};

const PREALLOC: Row = Row {
    name: "preallocation",
    includes: &[&THREADS],
    calls: &["clock_gettime", "fstatfs"],
    optional: &[
        "cachestat",
        "get_mempolicy",
        "getcpu",
        "lseek",
        "mincore",
        "mlock2",
        "pread64",
        "sched_setaffinity",
    ],
    values: &["POPULATE_READ", "POPULATE_WRITE"],
};

const TOUCH: Row = Row {
    name: "preallocation before Linux 5.14",
    values: &["WAKE_OP", "CMP_REQUEUE"],
    ..NOTHING
};

const BACKGROUND: Row = Row {
    name: "preallocation in the background",
    includes: &[&PREALLOC],
    calls: &["eventfd2", "write"],
    ..NOTHING
};

const CONTENTS: Row = Row {
    name: "contents",
    includes: &[&PREALLOC],
    calls: &["pread64", "fstatfs", "ioctl"],
    optional: &["lseek"],
    values: &["BLKGETSIZE64"],
};

const LAZY: Row = Row {
    name: "contents on demand",
    includes: &[&THREADS],
    calls: &[
        "userfaultfd",
        "ioctl",
        "eventfd2",
        "poll",
        "ppoll",
        "write",
        "pread64",
        "fstatfs",
    ],
    optional: &["cachestat", "lseek"],
    values: &[
        "UFFDIO_API",
        "UFFDIO_REGISTER",
        "UFFDIO_UNREGISTER",
        "UFFDIO_COPY",
        "UFFDIO_ZEROPAGE",
        "UFFDIO_WAKE",
        "UFFDIO_POISON",
        "USERFAULTFD_IOC_NEW",
        "BLKGETSIZE64",
        "POPULATE_WRITE",
    ],
};

const SAVE: Row = Row {
    name: "save",
    includes: &[&THREADS],
    calls: &[
        "pread64",
        "pwrite64",
        "ftruncate",
        "fallocate",
        "fstatfs",
        "fcntl",
        "ioctl",
        "clock_gettime",
    ],
    optional: &["getcpu", "lseek", "sched_setaffinity"],
    values: &["CMP_REQUEUE", "BLKGETSIZE64"],
};

const POLICY: Row = Row {
    name: "policy",
    calls: &["mbind"],
    ..NOTHING
};

const HOME_NODE: Row = Row {
    name: "home-node",
    calls: &["set_mempolicy_home_node"],
    ..NOTHING
};

const POLICY_OF_THREADS: Row = Row {
    name: "bound huge pages, shared files on disk",
    includes: &[&THREADS],
    optional: &["set_mempolicy", "sched_setaffinity"],
    ..NOTHING
};

const LOCK: Row = Row {
    name: "lock",
    calls: &["mlock2", "munlock"],
    ..NOTHING
};

const MEMFD: Row = Row {
    name: "memfd, ram with share=on",
    calls: &["memfd_create", "ftruncate", "fstatfs", "fcntl"],
    ..NOTHING
};

const SHM: Row = Row {
    name: "shm",
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
};

const FILE: Row = Row {
    name: "file",
    calls: &[
        "ftruncate",
        "fstatfs",
        "fcntl",
        "ioctl",
        "unlink",
        "unlinkat",
        "getrandom",
    ],
    optional: &["readlink", "readlinkat", "lseek"],
    values: &["BLKGETSIZE64"],
    ..NOTHING
};

const FD: Row = Row {
    name: "fd",
    calls: &["fstatfs", "fcntl", "ioctl"],
    optional: &["readlink", "readlinkat", "lseek"],
    values: &["BLKGETSIZE64"],
    ..NOTHING
};

const ZEROPAGE: Row = Row {
    name: "method ZEROPAGE",
    calls: &["ioctl"],
    optional: &["userfaultfd"],
    values: &[
        "UFFDIO_API",
        "UFFDIO_REGISTER",
        "UFFDIO_UNREGISTER",
        "UFFDIO_ZEROPAGE",
    ],
    ..NOTHING
};

const LAST_PAGE_FIRST: Row = Row {
    name: "method LAST_PAGE_FIRST",
    values: &["POPULATE_WRITE"],
    ..NOTHING
};

const COLLAPSE: Row = Row {
    name: "method COLLAPSE",
    optional: &["fallocate"],
    values: &["COLLAPSE"],
    ..NOTHING
};

const FALLOCATE: Row = Row {
    name: "method FALLOCATE",
    optional: &["fallocate"],
    ..NOTHING
};

const MOVE: Row = Row {
    name: "method MOVE",
    includes: &[&DISCARD],
    values: &["UFFDIO_MOVE", "PAGEMAP_SCAN", "COLLAPSE"],
    ..NOTHING
};

const REBIND: Row = Row {
    name: "rebind",
    calls: &["mbind"],
    ..NOTHING
};

const DISCARD: Row = Row {
    name: "discard, discard-data",
    calls: &["fallocate", "munlock", "mlock2"],
    optional: &["msync"],
    values: &["DONTNEED", "DONTNEED_LOCKED"],
    ..NOTHING
};

const DISCARD_ALONE: Row = Row {
    name: "discard and protect alone",
    includes: &[&DISCARD],
    calls: &[
        "mmap", "munmap", "mprotect", "mremap", "madvise", "brk", "getpid", "futex",
    ],
    values: &["WAIT", "WAIT_BITSET", "WAKE"],
    ..NOTHING
};

const SCRUB: Row = Row {
    name: "scrub",
    calls: &["pread64", "fallocate", "munlock", "mlock2"],
    optional: &["mincore", "msync"],
    values: &["DONTNEED", "DONTNEED_LOCKED"],
    ..NOTHING
};

const PLACEMENT: Row = Row {
    name: "placement, topology",
    calls: &["fstatfs", "sched_getaffinity"],
    optional: &["cachestat", "lseek", "mincore"],
    ..NOTHING
};

const THREAD_CONTEXT: Row = Row {
    name: "thread-context",
    includes: &[&THREADS],
    calls: &["gettid", "sched_setaffinity", "sched_getaffinity"],
    ..NOTHING
};

const POOL: Row = Row {
    name: "pool",
    includes: &[&PREALLOC],
    calls: &["fcntl"],
    optional: &["sched_setscheduler"],
    ..NOTHING
};

const POOL_CLIENT: Row = Row {
    name: "taking from a pool",
    calls: &["socket", "connect", "write", "sendto", "recvmsg", "fcntl"],
    ..NOTHING
};

const CONTINUE: Row = Row {
    name: "method CONTINUE",
    includes: &[&DISCARD],
    values: &["UFFDIO_CONTINUE"],
    ..NOTHING
};

/// Of the methods to populate, whether they are for contents on demand alone.
const METHODS: [(Methods, bool, Row); 6] = [
    (Methods::LAST_PAGE_FIRST, false, LAST_PAGE_FIRST),
    (Methods::ZEROPAGE, false, ZEROPAGE),
    (Methods::COLLAPSE, false, COLLAPSE),
    (Methods::FALLOCATE, false, FALLOCATE),
    (Methods::MOVE, true, MOVE),
    (Methods::CONTINUE, true, CONTINUE),
];

impl Use {
    /// What it adds to the calls of any backend.
    fn row(self) -> Row {
        match self {
            Self::Backend => BACKEND,
            Self::Prealloc => PREALLOC,
            Self::BackgroundPrealloc => BACKGROUND,
            Self::Contents => CONTENTS,
            Self::LazyContents => LAZY,
            Self::Save => SAVE,
            Self::Policy => POLICY,
            Self::HomeNode => HOME_NODE,
            Self::PolicyOfThreads => POLICY_OF_THREADS,
            Self::Lock => LOCK,
            Self::Memfd => MEMFD,
            Self::Shm => SHM,
            Self::File => FILE,
            Self::Fd => FD,
            Self::Rebind => REBIND,
            Self::Discard => DISCARD,
            Self::DiscardAlone => DISCARD_ALONE,
            Self::Scrub => SCRUB,
            Self::Placement => PLACEMENT,
            Self::ThreadContext => THREAD_CONTEXT,
            Self::Pool => POOL,
            Self::PoolClient => POOL_CLIENT,
        }
    }
}

impl Host {
    /// The system calls that the library makes after the probe for these uses, with the C library
    /// it is built with (GNU's or musl), for a seccomp filter. Without the calls of the VMM itself
    /// and of its threads.
    ///
    /// The calls of populate [methods](Host::methods) are among those of [`Use::Prealloc`] and
    /// [`Use::LazyContents`]; [`narrow_methods`](Host::narrow_methods) leaves them out, and
    /// [`narrow_calls`](Host::narrow_calls) calls that are optional.
    pub fn syscalls(&self, uses: &[Use]) -> Vec<Syscall> {
        let mut list = List::default();
        let makes_backends = |one: &Use| *one != Use::DiscardAlone;
        if uses.is_empty() || uses.iter().any(makes_backends) {
            list.include(&BACKEND);
            if cfg!(target_env = "musl") {
                list.include(&MUSL);
            }
        }
        for one in uses {
            list.include(&one.row());
        }
        let has = |list: &List, row: &Row| list.names.contains(&row.name);
        for (method, on_demand, row) in METHODS {
            let used = has(&list, &LAZY) || (!on_demand && has(&list, &PREALLOC));
            if used && self.methods().contains(method) {
                list.include(&row);
            }
        }
        let populates = |feature: &Feature| feature.name == "populate" && feature.is_available();
        if has(&list, &PREALLOC) && !self.features().iter().any(populates) {
            list.include(&TOUCH);
        }
        list.into_syscalls(self.calls())
    }
}

/// What some rows have together.
#[derive(Default)]
struct List {
    names: Vec<&'static str>,
    calls: Vec<&'static str>,
    optional: Vec<&'static str>,
    values: Vec<&'static str>,
}

impl List {
    fn include(&mut self, row: &Row) {
        if self.names.contains(&row.name) {
            return;
        }
        self.names.push(row.name);
        self.calls.extend(row.calls);
        self.optional.extend(row.optional);
        self.values.extend(row.values);
        row.includes.iter().for_each(|one| self.include(one));
    }

    /// One entry for each call; a call that is needed for one thing and optional for another is
    /// needed.
    fn into_syscalls(self, allowed: Calls) -> Vec<Syscall> {
        let made = |name: &&&str| Calls::of(name).is_none_or(|call| allowed.contains(call));
        let optional = self.optional.iter().filter(made).map(|name| (*name, true));
        let needed = self.calls.iter().map(|name| (*name, false));
        let mut calls: Vec<Syscall> = Vec::new();
        for (name, optional) in needed.chain(optional) {
            let Some(number) = number(name) else { continue };
            if calls.iter().all(|call| call.name != name) {
                let argument = self.argument(name);
                calls.push(Syscall {
                    name,
                    number,
                    argument,
                    optional,
                });
            }
        }
        calls
    }

    fn argument(&self, call: &str) -> Option<SyscallArgument> {
        const FUTEX_FLAGS: libc::c_int = libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME;
        let (index, mask) = match call {
            "madvise" => (2, u32::MAX),
            "futex" => (1, !FUTEX_FLAGS as u32),
            "prctl" => (0, u32::MAX),
            "ioctl" => (1, u32::MAX),
            _ => return None,
        };
        let of_this = self
            .values
            .iter()
            .map(|word| value(word))
            .filter(|(of, _)| *of == call);
        let mut values: Vec<u32> = of_this.map(|(_, value)| value).collect();
        values.sort_unstable();
        values.dedup();
        Some(SyscallArgument {
            index,
            mask,
            values,
        })
    }
}

/// The call that a word is for, and its number there.
fn value(word: &str) -> (&'static str, u32) {
    let advice = |value: libc::c_int| ("madvise", value as u32);
    let operation = |value: libc::c_int| ("futex", value as u32);
    match word {
        "DONTNEED" => advice(libc::MADV_DONTNEED),
        "DONTFORK" => advice(libc::MADV_DONTFORK),
        "MERGEABLE" => advice(libc::MADV_MERGEABLE),
        "UNMERGEABLE" => advice(libc::MADV_UNMERGEABLE),
        "HUGEPAGE" => advice(libc::MADV_HUGEPAGE),
        "NOHUGEPAGE" => advice(libc::MADV_NOHUGEPAGE),
        "DONTDUMP" => advice(libc::MADV_DONTDUMP),
        "DODUMP" => advice(libc::MADV_DODUMP),
        "POPULATE_READ" => advice(22),
        "POPULATE_WRITE" => advice(23),
        "DONTNEED_LOCKED" => advice(24),
        "COLLAPSE" => advice(25),
        "WAIT" => operation(libc::FUTEX_WAIT),
        "WAKE" => operation(libc::FUTEX_WAKE),
        "REQUEUE" => operation(libc::FUTEX_REQUEUE),
        "CMP_REQUEUE" => operation(libc::FUTEX_CMP_REQUEUE),
        "WAKE_OP" => operation(libc::FUTEX_WAKE_OP),
        "WAIT_BITSET" => operation(libc::FUTEX_WAIT_BITSET),
        "PR_SET_NAME" => ("prctl", libc::PR_SET_NAME as u32),
        "PR_GET_THP_DISABLE" => ("prctl", 42),
        "PR_SET_VMA" => ("prctl", 0x5356_4d41),
        "BLKGETSIZE64" => ("ioctl", 0x8008_1272),
        "USERFAULTFD_IOC_NEW" => ("ioctl", 0xaa00),
        "UFFDIO_API" => ("ioctl", 0xc018_aa3f),
        "UFFDIO_REGISTER" => ("ioctl", 0xc020_aa00),
        "UFFDIO_UNREGISTER" => ("ioctl", 0x8010_aa01),
        "UFFDIO_WAKE" => ("ioctl", 0x8010_aa02),
        "UFFDIO_COPY" => ("ioctl", 0xc028_aa03),
        "UFFDIO_ZEROPAGE" => ("ioctl", 0xc020_aa04),
        "UFFDIO_MOVE" => ("ioctl", 0xc028_aa05),
        "UFFDIO_POISON" => ("ioctl", 0xc020_aa08),
        "PAGEMAP_SCAN" => ("ioctl", 0xc060_6610),
        "UFFDIO_CONTINUE" => ("ioctl", 0xc020_aa07),
        _ => unreachable!("{word} is in no row"),
    }
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
        "connect" => libc::SYS_connect,
        "eventfd2" => libc::SYS_eventfd2,
        "exit" => libc::SYS_exit,
        "fallocate" => libc::SYS_fallocate,
        "fcntl" => libc::SYS_fcntl,
        "fstat" => libc::SYS_fstat,
        "fstatfs" => libc::SYS_fstatfs,
        "ftruncate" => libc::SYS_ftruncate,
        "futex" => libc::SYS_futex,
        "get_mempolicy" => libc::SYS_get_mempolicy,
        "getcpu" => libc::SYS_getcpu,
        "getpid" => libc::SYS_getpid,
        "getrandom" => libc::SYS_getrandom,
        "gettid" => libc::SYS_gettid,
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
        #[cfg(target_arch = "x86_64")]
        "poll" => libc::SYS_poll,
        "ppoll" => libc::SYS_ppoll,
        "prctl" => libc::SYS_prctl,
        "pread64" => libc::SYS_pread64,
        "prlimit64" => libc::SYS_prlimit64,
        "pwrite64" => libc::SYS_pwrite64,
        "read" => libc::SYS_read,
        #[cfg(target_arch = "x86_64")]
        "readlink" => libc::SYS_readlink,
        "readlinkat" => libc::SYS_readlinkat,
        "recvmsg" => libc::SYS_recvmsg,
        "rseq" => libc::SYS_rseq,
        "rt_sigprocmask" => libc::SYS_rt_sigprocmask,
        "sched_getaffinity" => libc::SYS_sched_getaffinity,
        "sched_setaffinity" => libc::SYS_sched_setaffinity,
        "sched_setscheduler" => libc::SYS_sched_setscheduler,
        "sendto" => libc::SYS_sendto,
        "set_mempolicy" => libc::SYS_set_mempolicy,
        "set_mempolicy_home_node" => 450,
        "set_robust_list" => libc::SYS_set_robust_list,
        "socket" => libc::SYS_socket,
        #[cfg(target_arch = "x86_64")]
        "stat" => libc::SYS_stat,
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

    const ROWS: [Row; 31] = [
        BACKEND,
        MUSL,
        THREADS,
        PREALLOC,
        TOUCH,
        BACKGROUND,
        CONTENTS,
        LAZY,
        SAVE,
        POLICY,
        HOME_NODE,
        POLICY_OF_THREADS,
        LOCK,
        MEMFD,
        SHM,
        FILE,
        FD,
        ZEROPAGE,
        LAST_PAGE_FIRST,
        COLLAPSE,
        FALLOCATE,
        MOVE,
        CONTINUE,
        REBIND,
        DISCARD,
        DISCARD_ALONE,
        SCRUB,
        PLACEMENT,
        THREAD_CONTEXT,
        POOL,
        POOL_CLIENT,
    ];

    /// The words between two marks of a cell: all, and those in brackets.
    fn words(cell: &str, mark: char) -> (Vec<&str>, Vec<&str>) {
        let parts: Vec<_> = cell.split(mark).collect();
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
        for row in ROWS {
            let name = row.name;
            let line = document.lines().find_map(|line| {
                let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
                (cells.len() == 3 && cells[0] == name)
                    .then(|| (cells[1].to_owned(), cells[2].to_owned()))
            });
            let line = line.expect(name);
            let (required, optional) = words(&line.0, '`');
            assert_eq!(sorted(required), sorted(row.calls.to_vec()), "{name}");
            assert_eq!(sorted(optional), sorted(row.optional.to_vec()), "{name}");
            let included: Vec<_> = row.includes.iter().map(|row| row.name).collect();
            assert_eq!(words(&line.0, '*').0, included, "{name}");
            let (always, sometimes) = words(&line.1, '`');
            let values = [always, sometimes].concat();
            assert_eq!(sorted(values), sorted(row.values.to_vec()), "{name}");
            for call in row.calls.iter().chain(row.optional) {
                let old = ["open", "poll", "readlink", "stat", "unlink"].contains(call);
                assert!(old || number(call).is_some(), "{call}");
            }
            for word in row.values {
                let of = value(word).0;
                assert!(!of.is_empty(), "{word}");
            }
        }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system calls that docs/seccomp.md lists are all that the library makes: each thing is done
//! under a filter that kills at anything else.

mod common;

use std::collections::BTreeMap;
use std::env;
use std::os::fd::AsRawFd;
use std::thread;

use common::access;
use common::bindable_node;
use common::host::HugePages;
use common::host::HUGE;
use common::in_child;
use common::kernel;
use common::skip;
use hostmem::Backend;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::Methods;
use hostmem::Objects;
use hostmem::Policy;
use hostmem::Rebind;
use hostmem::Topology;
use seccompiler::SeccompAction;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::Eq;
use seccompiler::SeccompCondition;
use seccompiler::SeccompFilter;
use seccompiler::SeccompRule;

const TABLE: &str = include_str!("../docs/seccomp.md");
const ANY: &str = "any backend";

/// What a thread of Rust's own does as it ends, and how a test that fails is told.
const OF_THE_TEST: [libc::c_long; 4] = [
    libc::SYS_exit,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

/// What the table may name.
const CALLS: &[(&str, libc::c_long)] = &[
    ("brk", libc::SYS_brk),
    ("clock_gettime", libc::SYS_clock_gettime),
    ("clone", libc::SYS_clone),
    ("clone3", libc::SYS_clone3),
    ("close", libc::SYS_close),
    ("eventfd2", libc::SYS_eventfd2),
    ("exit", libc::SYS_exit),
    ("fallocate", libc::SYS_fallocate),
    ("fcntl", libc::SYS_fcntl),
    ("fstat", libc::SYS_fstat),
    ("fstatfs", libc::SYS_fstatfs),
    ("ftruncate", libc::SYS_ftruncate),
    ("futex", libc::SYS_futex),
    ("get_mempolicy", libc::SYS_get_mempolicy),
    ("getpid", libc::SYS_getpid),
    ("getrandom", libc::SYS_getrandom),
    ("ioctl", libc::SYS_ioctl),
    ("madvise", libc::SYS_madvise),
    ("mbind", libc::SYS_mbind),
    ("memfd_create", libc::SYS_memfd_create),
    ("mincore", libc::SYS_mincore),
    ("mlock2", libc::SYS_mlock2),
    ("mmap", libc::SYS_mmap),
    ("mprotect", libc::SYS_mprotect),
    ("mremap", libc::SYS_mremap),
    ("msync", libc::SYS_msync),
    ("munlock", libc::SYS_munlock),
    ("munmap", libc::SYS_munmap),
    ("newfstatat", libc::SYS_newfstatat),
    ("openat", libc::SYS_openat),
    ("prctl", libc::SYS_prctl),
    ("pread64", libc::SYS_pread64),
    ("prlimit64", libc::SYS_prlimit64),
    ("read", libc::SYS_read),
    ("readlinkat", libc::SYS_readlinkat),
    ("rseq", libc::SYS_rseq),
    ("rt_sigaction", libc::SYS_rt_sigaction),
    ("rt_sigprocmask", libc::SYS_rt_sigprocmask),
    ("rt_sigreturn", libc::SYS_rt_sigreturn),
    ("sched_getaffinity", libc::SYS_sched_getaffinity),
    ("sched_setaffinity", libc::SYS_sched_setaffinity),
    ("sched_yield", libc::SYS_sched_yield),
    ("set_mempolicy", libc::SYS_set_mempolicy),
    ("set_robust_list", libc::SYS_set_robust_list),
    ("unlinkat", libc::SYS_unlinkat),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("write", libc::SYS_write),
    ("set_mempolicy_home_node", 450),
    // Of older architectures.
    #[cfg(target_arch = "x86_64")]
    ("readlink", libc::SYS_readlink),
    #[cfg(target_arch = "x86_64")]
    ("unlink", libc::SYS_unlink),
];
const ADVICE: &[(&str, libc::c_int)] = &[
    ("DONTNEED", libc::MADV_DONTNEED),
    ("DONTFORK", libc::MADV_DONTFORK),
    ("MERGEABLE", libc::MADV_MERGEABLE),
    ("UNMERGEABLE", libc::MADV_UNMERGEABLE),
    ("HUGEPAGE", libc::MADV_HUGEPAGE),
    ("NOHUGEPAGE", libc::MADV_NOHUGEPAGE),
    ("DONTDUMP", libc::MADV_DONTDUMP),
    ("DODUMP", libc::MADV_DODUMP),
    ("POPULATE_READ", 22),
    ("POPULATE_WRITE", 23),
    ("DONTNEED_LOCKED", 24),
    ("COLLAPSE", 25),
];

/// The words of a cell that are in backticks.
fn words(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The calls and the advice that a line of the table names.
fn line(name: &str) -> (Vec<&'static str>, Vec<&'static str>) {
    let line = TABLE.lines().find_map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        (cells.len() == 3 && cells[0] == name).then(|| (words(cells[1]), words(cells[2])))
    });
    line.unwrap_or_else(|| panic!("docs/seccomp.md has a line {name:?}"))
}

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|row| row.0 == name).map(|row| row.1)
}

/// From here on the calling thread, and what it creates, may do only what these lines say.
fn confine(lines: &[&str]) {
    let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> = BTreeMap::new();
    rules.extend(OF_THE_TEST.map(|call| (call, Vec::new())));
    let mut advice = vec![libc::MADV_DONTNEED];
    for name in [&[ANY], lines].concat() {
        let (calls, advices) = line(name);
        let calls = calls.iter().filter_map(|call| find(CALLS, call));
        rules.extend(calls.map(|call| (call, Vec::new())));
        advice.extend(advices.iter().filter_map(|name| find(ADVICE, name)));
    }
    let advice = advice.into_iter().map(|advice| {
        let condition = SeccompCondition::new(2, Dword, Eq, advice as u64).unwrap();
        SeccompRule::new(vec![condition]).unwrap()
    });
    rules.insert(libc::SYS_madvise, advice.collect());
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        env::consts::ARCH.try_into().unwrap(),
    );
    let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

#[test]
fn every_word_of_the_table_is_known() {
    let rows = TABLE.lines().filter(|line| line.starts_with("| "));
    let mut seen = 0;
    for row in rows.skip(1) {
        let cells: Vec<_> = row.trim_matches('|').split('|').collect();
        for call in words(cells[1]) {
            let old = ["readlink", "unlink"].contains(&call);
            assert!(old || find(CALLS, call).is_some(), "{call}");
        }
        for advice in words(cells[2]) {
            assert!(find(ADVICE, advice).is_some(), "{advice}");
        }
        seen += 1;
    }
    assert_eq!(seen, 19);
}

/// Does something with a set of objects, whose host may use the methods, on a thread that may do
/// nothing else than what the lines say.
fn may(lines: &[&str], methods: Methods, body: impl FnOnce(&Objects) + Send) {
    let mut host = Host::probe().unwrap();
    host.narrow_methods(methods);
    let objects = Objects::new(&host, &Defaults::qemu()).unwrap();
    // What a killed process was at.
    eprintln!("{lines:?} {methods:?}");
    thread::scope(|scope| {
        let confined = scope.spawn(|| {
            confine(lines);
            body(&objects);
        });
        confined.join().unwrap();
    });
}

/// Makes a backend of 32 MiB, looks at it and deletes it.
fn make(objects: &Objects, kind: &str, options: &str) -> Backend {
    let options = format!("memory-backend-{kind},id=m0,size=32M,prealloc-threads=2,{options}");
    objects.parse(options).unwrap().complete().unwrap()
}

/// The whole of a test in a child, for a killed process is the end of all tests in it.
macro_rules! confined {
    ($($name:ident: $body:expr;)*) => {
        $(#[test]
        fn $name() {
            if kernel() < (5, 14) {
                return skip("preallocation before Linux 5.14 raises signals");
            }
            if common::is_instrumented() {
                return;
            }
            in_child(stringify!($name), || $body());
        })*
    };
}

const PREALLOC: &str = "preallocation";
const MEMFD: &str = "memfd, ram with share=on";
const DISCARD: &str = "discard, discard-data";
const BY_POLICY: &str = "bound huge pages, shared files on disk";

confined! {
    memory_without_preallocation: || {
        may(&[], Methods::ALL, |objects| {
            let backend = make(objects, "ram", "merge=off,dump=off");
            backend.set("dump", true).unwrap();
            backend.set("merge", true).unwrap();
            backend.set("thp", "never").unwrap();
            backend.delete().unwrap();
        });
    };

    plain_preallocation: || {
        for thp in ["always", "never"] {
            may(&[PREALLOC], Methods::NONE, |objects| {
                drop(make(objects, "ram", &format!("prealloc=on,thp={thp}")));
            });
            may(&[PREALLOC, MEMFD], Methods::NONE, |objects| {
                drop(make(objects, "ram", &format!("prealloc=on,share=on,thp={thp}")));
                drop(make(objects, "memfd", &format!("prealloc=on,thp={thp}")));
            });
        }
    };

    preallocation_in_the_background: || {
        may(&[PREALLOC, "preallocation in the background"], Methods::NONE, |objects| {
            let backend = make(objects, "ram", "prealloc=on,prealloc-mode=background");
            backend.wait_prealloc(None).unwrap();
            backend.delete().unwrap();
        });
    };

    each_method: || {
        may(&[PREALLOC, "method LAST_PAGE_FIRST"], Methods::LAST_PAGE_FIRST, |objects| {
            drop(make(objects, "ram", "prealloc=on,thp=always"));
        });
        may(&[PREALLOC, MEMFD, "method ZEROPAGE"], Methods::ZEROPAGE, |objects| {
            drop(make(objects, "memfd", "prealloc=on,thp=never"));
        });
        may(&[PREALLOC, MEMFD, "method COLLAPSE"], Methods::COLLAPSE, |objects| {
            drop(make(objects, "memfd", "prealloc=on,thp=always"));
        });
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let options = format!("prealloc=on,share=on,mem-path={}", directory.path().display());
        may(&[PREALLOC, "file", "method FALLOCATE"], Methods::FALLOCATE, |objects| {
            drop(make(objects, "file", &options));
        });
    };

    every_kind: || {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().display();
        may(&[PREALLOC, "file", DISCARD], Methods::NONE, |objects| {
            for share in ["on", "off"] {
                let options = format!("prealloc=on,share={share}");
                drop(make(objects, "file", &format!("{options},mem-path={path}")));
                let file = format!("{options},mem-path={path}/m{share}");
                drop(make(objects, "file", &file));
                // It is there now.
                drop(make(objects, "file", &format!("{file},discard-data=on")));
            }
        });
        may(&[PREALLOC, "shm"], Methods::NONE, |objects| {
            drop(make(objects, "shm", "prealloc=on"));
        });
        let memfd = access::memfd("theirs", 0, 32 << 20);
        may(&[PREALLOC, "fd"], Methods::NONE, |objects| {
            drop(make(objects, "fd", &format!("prealloc=on,fd={}", memfd.as_raw_fd())));
        });
    };

    policies: || {
        let Some(node) = bindable_node() else {
            return;
        };
        let bound = format!("prealloc=on,policy=bind,host-nodes={node}");
        may(&[PREALLOC, "policy"], Methods::NONE, |objects| {
            drop(make(objects, "ram", &bound));
            drop(make(objects, "ram", "prealloc=on,policy=local"));
        });
        may(&["policy", "rebind", "placement, topology"], Methods::NONE, |objects| {
            let backend = make(objects, "ram", "");
            let to = Rebind::new(Policy::Interleave).host_nodes([node]);
            backend.rebind(&to).unwrap();
            backend.placement().unwrap();
            Topology::read().unwrap();
        });
        may(&[MEMFD, "placement, topology"], Methods::NONE, |objects| {
            make(objects, "memfd", "").placement().unwrap();
        });
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = format!("{bound},share=on,mem-path={}", directory.path().display());
        may(&[PREALLOC, "policy", BY_POLICY, "file"], Methods::NONE, |objects| {
            drop(make(objects, "file", &file));
        });
        if kernel() >= (5, 17) {
            may(&[PREALLOC, "policy", "home-node"], Methods::NONE, |objects| {
                drop(make(objects, "ram", &format!("{bound},home-node={node}")));
            });
        }
        let Some(_pool) = HugePages::have(16) else {
            return;
        };
        assert_eq!(16 * HUGE, 32 << 20);
        may(&[PREALLOC, "policy", BY_POLICY, MEMFD], Methods::NONE, |objects| {
            drop(make(objects, "memfd", &format!("{bound},hugetlb=on,hugetlbsize=2M")));
        });
    };

    memory_that_is_short: || {
        let lines = [PREALLOC, MEMFD, DISCARD];
        may(&lines, Methods::NONE, |objects| {
            for kind in ["ram", "memfd"] {
                let options = format!("memory-backend-{kind},id=m0,size=1T,reserve=off");
                let backend = objects.parse(options).unwrap().complete().unwrap();
                let error = backend.populate(0, 1 << 40).unwrap_err().to_string();
                assert!(error.contains("stopped before memory runs out"), "{error}");
            }
        });
    };

    ranges: || {
        may(&[PREALLOC, MEMFD, DISCARD, "lock"], Methods::NONE, |objects| {
            for kind in ["ram", "memfd"] {
                let backend = make(objects, kind, "prealloc=on,thp=never");
                let claim = backend.claim("vm0").unwrap();
                claim.discard(0, 1 << 20).unwrap();
                backend.populate(0, 1 << 20).unwrap();
            }
            // Little enough for anybody.
            let locked = "memory-backend-ram,id=m1,size=64K,lock=on,prealloc=on";
            let backend = objects.parse(locked).unwrap().complete().unwrap();
            let claim = backend.claim("vm0").unwrap();
            claim.discard(0, 4096).unwrap();
            backend.set("lock", false).unwrap();
        });
    };
}

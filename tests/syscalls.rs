// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `Host::syscalls` as a seccomp filter that kills: each use works under a filter of its calls.

mod common;

use std::collections::BTreeMap;
use std::env;
use std::os::fd::AsRawFd;
use std::thread;

use common::access;
use common::bindable_node;
use common::in_child;
use common::kernel;
use common::skip;
use hostmem::Access;
use hostmem::Backend;
use hostmem::DiscardTo;
use hostmem::Host;
use hostmem::Methods;
use hostmem::Objects;
use hostmem::Policy;
use hostmem::Rebind;
use hostmem::Syscall;
use hostmem::Topology;
use hostmem::Use;
use seccompiler::SeccompAction;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::MaskedEq;
use seccompiler::SeccompCondition;
use seccompiler::SeccompFilter;
use seccompiler::SeccompRule;

/// What a thread of Rust's own does as it ends, and how a test that fails is told.
const OF_THE_TEST: [libc::c_long; 5] = [
    libc::SYS_exit,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_munmap,
];

fn rules(call: &Syscall) -> Vec<SeccompRule> {
    let Some(argument) = &call.argument else {
        return Vec::new();
    };
    let mut values = argument.values.clone();
    // The stack of the test's thread.
    if call.name == "madvise" {
        values.push(libc::MADV_DONTNEED as u32);
    }
    let rule = |value: u32| {
        let masked = MaskedEq(argument.mask.into());
        let condition = SeccompCondition::new(argument.index, Dword, masked, value.into());
        SeccompRule::new(vec![condition.unwrap()]).unwrap()
    };
    values.into_iter().map(rule).collect()
}

/// From here on the calling thread, and what it creates, is killed at any other call.
fn confine(calls: &[Syscall]) {
    let mut filter: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    filter.extend(OF_THE_TEST.map(|call| (call, Vec::new())));
    filter.extend(calls.iter().map(|call| (call.number, rules(call))));
    let filter = SeccompFilter::new(
        filter,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        env::consts::ARCH.try_into().unwrap(),
    );
    let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

fn may(uses: &[Use], methods: Methods, body: impl FnOnce(&Objects) + Send) {
    let mut host = Host::probe().unwrap();
    host.narrow_methods(methods);
    let objects = Objects::new(&host, &common::defaults()).unwrap();
    // What a killed process was at.
    eprintln!("{uses:?} {methods:?}");
    thread::scope(|scope| {
        let confined = scope.spawn(|| {
            confine(&host.syscalls(uses));
            body(&objects);
        });
        confined.join().unwrap();
    });
}

fn make(objects: &Objects, kind: &str, options: &str) -> Backend {
    let options = format!("memory-backend-{kind},size=32M,prealloc-threads=2,{options}");
    objects.parse(options).unwrap().complete().unwrap()
}

/// A test in a child, for a killed process is the end of all tests in it.
macro_rules! confined {
    ($($name:ident: $body:expr;)*) => {
        $(#[test]
        fn $name() {
            if common::is_instrumented() {
                return;
            }
            in_child(stringify!($name), || $body());
        })*
    };
}

confined! {
    a_backend_needs_no_use: || {
        may(&[Use::Backend], Methods::ALL, |objects| {
            let backend = make(objects, "ram", "merge=off,dump=off");
            backend.set("dump", true).unwrap();
            let claim = backend.claim("vm0").unwrap();
            claim.protect(0, 1 << 20, Access::None).unwrap();
            drop(claim);
            backend.delete().unwrap();
        });
    };

    prealloc_by_each_method: || {
        let methods = [
            Methods::NONE,
            Methods::LAST_PAGE_FIRST,
            Methods::ZEROPAGE,
            Methods::COLLAPSE,
            Methods::FALLOCATE,
            Methods::ALL,
        ];
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = format!("share=on,prealloc=on,mem-path={}", directory.path().display());
        for methods in methods {
            let uses = [Use::Prealloc, Use::Memfd, Use::File];
            may(&uses, methods, |objects| {
                for thp in ["always", "never"] {
                    make(objects, "ram", &format!("prealloc=on,thp={thp}"));
                    make(objects, "memfd", &format!("prealloc=on,thp={thp}"));
                }
                make(objects, "file", &file);
            });
        }
    };

    prealloc_in_the_background: || {
        may(&[Use::BackgroundPrealloc], Methods::ALL, |objects| {
            let backend = make(objects, "ram", "prealloc=on,prealloc-mode=background");
            backend.wait_prealloc(None).unwrap();
        });
    };

    every_kind: || {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().display();
        may(&[Use::File, Use::Discard], Methods::ALL, |objects| {
            for share in ["on", "off"] {
                make(objects, "file", &format!("share={share},mem-path={path}"));
                let file = format!("share={share},mem-path={path}/m{share}");
                make(objects, "file", &file);
                make(objects, "file", &format!("{file},discard-data=on"));
            }
        });
        may(&[Use::Shm], Methods::ALL, |objects| drop(make(objects, "shm", "")));
        let memfd = access::memfd("theirs", 0, 32 << 20);
        let options = format!("fd={}", memfd.as_raw_fd());
        may(&[Use::Fd], Methods::ALL, |objects| drop(make(objects, "fd", &options)));
    };

    scrubbing: || {
        let uses = [Use::Prealloc, Use::Memfd, Use::Scrub];
        may(&uses, Methods::ALL, |objects| {
            for kind in ["ram", "memfd"] {
                let backend = make(objects, kind, "prealloc=on");
                backend.claim("vm0").unwrap().scrub(0, 32 << 20).unwrap();
            }
        });
    };

    policies: || {
        let Some(node) = bindable_node() else {
            return;
        };
        let bound = format!("policy=bind,host-nodes={node}");
        may(&[Use::Policy, Use::Prealloc], Methods::ALL, |objects| {
            make(objects, "ram", &format!("{bound},prealloc=on"));
        });
        may(&[Use::Rebind, Use::Placement], Methods::ALL, |objects| {
            let backend = make(objects, "ram", "");
            backend.rebind(&Rebind::new(Policy::Interleave).host_nodes([node])).unwrap();
            backend.placement().unwrap();
            Topology::read().unwrap();
        });
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = format!("{bound},prealloc=on,share=on,mem-path={}", directory.path().display());
        let uses = [Use::Policy, Use::PolicyOfThreads, Use::Prealloc, Use::File];
        may(&uses, Methods::ALL, |objects| drop(make(objects, "file", &file)));
        if kernel() < (5, 17) {
            return skip("home-node needs Linux 5.17");
        }
        may(&[Use::Policy, Use::HomeNode], Methods::ALL, |objects| {
            make(objects, "ram", &format!("{bound},home-node={node}"));
        });
    };

    ranges: || {
        let uses = [Use::Prealloc, Use::Memfd, Use::Discard, Use::Lock, Use::File];
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(32 << 20).unwrap();
        let private = format!("mem-path={}", file.path().display());
        may(&uses, Methods::ALL, |objects| {
            for (kind, options) in [("ram", ""), ("memfd", ""), ("file", &private)] {
                let backend = make(objects, kind, options);
                let claim = backend.claim("vm0").unwrap();
                claim.populate(0, 4 << 20).unwrap();
                claim.discard(0, 2 << 20).unwrap();
                claim.discard_to(2 << 20, 2 << 20, DiscardTo::Zero).unwrap();
            }
            let locked = "memory-backend-ram,size=64K,lock=on,prealloc=on";
            let backend = objects.parse(locked).unwrap().complete().unwrap();
            backend.claim("vm0").unwrap().discard(0, 65536).unwrap();
            backend.set("lock", false).unwrap();
        });
    };
}

#[test]
fn the_list_follows_uses_and_methods() {
    let mut host = Host::probe().unwrap();
    let names = |host: &Host, uses: &[Use]| {
        let calls = host.syscalls(uses);
        let mut names: Vec<_> = calls.iter().map(|call| call.name).collect();
        assert_eq!(calls.len(), names.len());
        names.sort_unstable();
        names.dedup();
        assert_eq!(calls.len(), names.len(), "one entry a call");
        names
    };
    assert_eq!(names(&host, &[]), names(&host, &[Use::Backend]));
    assert!(!names(&host, &[]).contains(&"mbind"));
    assert!(names(&host, &[Use::Policy]).contains(&"mbind"));
    assert!(names(&host, &[Use::Prealloc]).contains(&"userfaultfd"));
    let advice = |host: &Host| {
        let calls = host.syscalls(&[Use::Prealloc]);
        let call = calls.iter().find(|call| call.name == "madvise").unwrap();
        call.argument.clone().unwrap().values
    };
    const COLLAPSE: u32 = 25;
    assert!(advice(&host).contains(&COLLAPSE));
    host.narrow_methods(Methods::NONE);
    assert!(!names(&host, &[Use::Prealloc]).contains(&"userfaultfd"));
    assert!(!advice(&host).contains(&COLLAPSE));
    // Optional for one use and needed for another: needed.
    let mlock2 = |uses: &[Use]| {
        let calls = host.syscalls(uses);
        calls
            .iter()
            .find(|call| call.name == "mlock2")
            .unwrap()
            .optional
    };
    assert!(mlock2(&[Use::Prealloc]));
    assert!(!mlock2(&[Use::Prealloc, Use::Lock]));
}

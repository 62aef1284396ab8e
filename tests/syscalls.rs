// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `Host::syscalls` as a seccomp filter that kills: each use works under a filter of its calls.

mod common;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
#[cfg(feature = "cli")]
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use common::access;
use common::bindable_node;
use common::image;
use common::in_child;
use common::kernel;
use common::skip;
use hostmem::Access;
use hostmem::Backend;
use hostmem::Calls;
use hostmem::DiscardTo;
use hostmem::Host;
use hostmem::Methods;
use hostmem::Objects;
use hostmem::Policy;
use hostmem::Pool;
use hostmem::Rebind;
use hostmem::Syscall;
use hostmem::Topology;
use hostmem::Use;
use hostmem::Value;
use seccompiler::SeccompAction;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::MaskedEq;
use seccompiler::SeccompCondition;
use seccompiler::SeccompFilter;
use seccompiler::SeccompRule;

/// What a thread of Rust's own does as it ends, and how a test that fails is reported.
const OF_THE_TEST: [libc::c_long; 6] = [
    libc::SYS_gettid,
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
    may_on(&host, uses, body);
}

fn may_on(host: &Host, uses: &[Use], body: impl FnOnce(&Objects) + Send) {
    let objects = Objects::new(host, &common::defaults()).unwrap();
    // What a killed process was at.
    eprintln!("{uses:?} {:?} {:?}", host.methods(), host.calls());
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

/// Two parts with data and a hole between.
const IMAGE: u64 = 4 << 20;

/// A file with a hole, for contents.
fn image_of(directory: &tempfile::TempDir) -> (String, Vec<u8>) {
    let bytes = image::image_bytes(IMAGE);
    (image::image_in(directory.path(), 0, &bytes), bytes)
}

/// Whether this process may have a userfaultfd for the kernel's faults.
fn can_serve(image: &str) -> bool {
    let objects = Objects::new(&Host::probe().unwrap(), &common::defaults()).unwrap();
    let options = format!("memory-backend-ram,size=32M,contents={image}");
    let served = objects.parse(options).unwrap().complete().is_ok();
    if !served {
        skip("no userfaultfd for faults of the kernel");
    }
    served
}

/// Where memory is short, the kernel is asked for more.
fn fill_until_memory_is_short(objects: &Objects) {
    for kind in ["ram", "memfd"] {
        let options = format!("memory-backend-{kind},size=1T,reserve=off");
        let backend = objects.parse(options).unwrap().complete().unwrap();
        let error = backend.populate(0, 1 << 40).unwrap_err().to_string();
        assert!(error.contains("stopped before memory runs out"), "{error}");
    }
}

/// Backends of several kinds from begin to end.
fn live(objects: &Objects, directory: &tempfile::TempDir, contents: &str, out: &File) {
    let path = directory.path().display();
    let (contents, bytes) = (format!("contents={contents}"), image::image_bytes(IMAGE));
    for (kind, options) in [
        ("ram", contents.clone()),
        ("memfd", contents),
        ("ram", String::new()),
        ("memfd", "share=off".into()),
        ("shm", String::new()),
        ("file", format!("share=on,mem-path={path}/m0")),
        ("file", format!("share=off,mem-path={path}")),
        ("ram", "thp=always".into()),
    ] {
        let mut builder = objects
            .parse(format!(
                "memory-backend-{kind},size=4M,prealloc=on,{options}"
            ))
            .unwrap();
        // The number of CPUs.
        assert_ne!(builder.get("prealloc-threads").unwrap(), Value::Number(0));
        builder = builder.prealloc_threads(4);
        let backend = builder.complete().unwrap();
        if options.starts_with("contents") {
            image::assert_same(&backend, &bytes, kind);
        }
        let claim = backend.claim("vm0").unwrap();
        claim.save(out, 0).unwrap();
        claim.populate(0, 2 << 20).unwrap();
        claim.scrub(0, 2 << 20).unwrap();
        assert!(
            (0..2 << 20)
                .step_by(4096)
                .all(|at| access::read(&claim, at) == 0),
            "{kind}"
        );
        claim.discard(0, 1 << 20).unwrap();
        drop(claim);
        backend.placement().unwrap();
        backend.delete().unwrap();
    }
    let options = "memory-backend-ram,size=8M,prealloc=on,prealloc-mode=background";
    let builder = objects.parse(options).unwrap().on_prealloc_done(|_, _| ());
    builder.complete().unwrap().wait_prealloc(None).unwrap();
    fill_until_memory_is_short(objects);
    let pool = Pool::parse(objects, "memory-backend-memfd,size=8M", 1).unwrap();
    pool.wait(1, Some(Duration::from_secs(60))).unwrap();
    pool.take("vm0").unwrap();
}

#[cfg(feature = "cli")]
fn take_from_a_pool() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool");
    let mut server = Command::new(env!("CARGO_BIN_EXE_hostmem"));
    let server = server.arg("pool").arg("--socket").arg(&path);
    let server = server
        .arg("1:memory-backend-memfd,size=8M")
        .stdin(Stdio::null());
    let _server = common::qmp::Server::spawn(server).unwrap();
    // Until it listens.
    drop(common::qmp::Client::connect(&path));
    may(
        &[Use::PoolClient, Use::Fd, Use::Prealloc],
        Methods::ALL,
        |objects| {
            let builder = hostmem::pool::take(&path, "pool0", objects, "ram0").unwrap();
            builder.complete().unwrap();
        },
    );
}

#[cfg(not(feature = "cli"))]
fn take_from_a_pool() {
    skip("the feature `cli` has the pool");
}

const LIFE: [Use; 11] = [
    Use::BackgroundPrealloc,
    Use::Contents,
    Use::Save,
    Use::Memfd,
    Use::Shm,
    Use::File,
    Use::Discard,
    Use::Scrub,
    Use::Placement,
    Use::Pool,
    Use::PolicyOfThreads,
];

/// A life on a host that may make some of the optional calls, under a filter that kills.
fn live_with(calls: Calls, methods: Methods) {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let (contents, _) = image_of(&directory);
    let out = File::create(directory.path().join("saved")).unwrap();
    let mut host = Host::probe().unwrap();
    host.narrow_methods(methods);
    host.narrow_calls(calls);
    may_on(&host, &LIFE, |objects| {
        live(objects, &directory, &contents, &out)
    });
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

    contents: || {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let (contents, bytes) = image_of(&directory);
        let options = format!("prealloc=on,contents={contents}");
        may(&[Use::Contents, Use::Memfd], Methods::ALL, |objects| {
            for kind in ["ram", "memfd"] {
                image::assert_same(&make(objects, kind, &options), &bytes, kind);
            }
        });
    };

    contents_on_demand: || {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let (contents, bytes) = image_of(&directory);
        if !can_serve(&contents) {
            return;
        }
        let options = format!("contents={contents}");
        for methods in [Methods::ALL, Methods::NONE] {
            may(&[Use::LazyContents, Use::Memfd, Use::Discard], methods, |objects| {
                for (kind, thp) in [
                    ("ram", "always"),
                    ("ram", "never"),
                    ("memfd", "always"),
                    ("memfd", "never"),
                ] {
                    let backend = make(objects, kind, &format!("{options},thp={thp}"));
                    image::assert_same(&backend, &bytes, kind);
                    let claim = backend.claim("vm0").unwrap();
                    assert_eq!(claim.unread().0, 0);
                    // What was discarded is supplied too.
                    claim.discard(0, 2 << 20).unwrap();
                    assert_eq!(access::read(&claim, 0), 0);
                    claim.retry_contents().unwrap();
                }
            });
            may(&[Use::LazyContents, Use::BackgroundPrealloc], methods, |objects| {
                let options = format!("{options},prealloc=on,prealloc-mode=background");
                let backend = make(objects, "ram", &options);
                backend.wait_prealloc(None).unwrap();
                image::assert_same(&backend, &bytes, "background");
            });
        }
    };

    saving: || {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = File::create(directory.path().join("saved")).unwrap();
        let source = directory.path().join("source");
        fs::write(&source, vec![7; 32 << 20]).unwrap();
        let options = format!("share=off,mem-path={}", source.display());
        may(&[Use::Save, Use::Memfd, Use::File], Methods::ALL, |objects| {
            for (kind, options) in [("ram", ""), ("memfd", ""), ("file", &options)] {
                let backend = make(objects, kind, options);
                let claim = backend.claim("vm0").unwrap();
                access::fill(&claim, 0, 32 << 20, 9);
                let saved = claim.save(&file, 0).unwrap();
                assert_eq!(saved.written, 32 << 20);
            }
        });
    };

    pools: || {
        may(&[Use::Pool, Use::Memfd], Methods::ALL, |objects| {
            for kind in ["ram", "memfd"] {
                let options = format!("memory-backend-{kind},size=8M");
                let pool = Pool::parse(objects, options, 2).unwrap();
                pool.wait(2, Some(Duration::from_secs(60))).unwrap();
                assert!(pool.take("vm0").unwrap().was_ready);
                pool.set_count(1).unwrap();
            }
        });
    };

    taking_from_a_pool: take_from_a_pool;

    thread_contexts: || {
        may(&[Use::ThreadContext, Use::Prealloc], Methods::ALL, |objects| {
            let mut context = objects.thread_context("tc0").unwrap();
            context.set("cpu-affinity", [0]).unwrap();
            let _context = context.complete().unwrap();
            make(objects, "ram", "prealloc=on,prealloc-context=tc0");
        });
    };

    without_any_optional_call: || {
        live_with(Calls::NONE, Methods::NONE);
        live_with(Calls::NONE, Methods::ALL);
    };

    without_one_optional_call: || {
        for call in CALLS {
            live_with(!call, Methods::ALL);
        }
    };

    // What is there to be looked at is of a kind that only some calls tell.
    without_what_tells_pages: || {
        let calls = [
            Calls::CACHESTAT,
            Calls::CACHESTAT | Calls::MINCORE,
            Calls::CACHESTAT | Calls::LSEEK,
        ];
        for call in calls {
            live_with(!call, Methods::NONE);
        }
    };

    // Those that other uses need.
    without_calls_that_preallocation_can_do_without: || {
        let mut host = Host::probe().unwrap();
        host.narrow_calls(!(Calls::PREAD64 | Calls::SCHED_GETAFFINITY | Calls::SET_MEMPOLICY));
        // Only there threads need a policy of their own.
        let Some(directory) = common::directory_on_disk() else {
            return;
        };
        let mut file = format!("share=on,prealloc=on,mem-path={}", directory.path().display());
        if let Some(node) = bindable_node() {
            file += &format!(",policy=bind,host-nodes={node}");
        }
        let uses = [
            Use::Prealloc,
            Use::Policy,
            Use::PolicyOfThreads,
            Use::Memfd,
            Use::File,
        ];
        may_on(&host, &uses, |objects| {
            let backend = make(objects, "file", &file);
            let result = backend.prealloc_result().unwrap();
            if file.contains("bind") {
                assert_eq!(result.policy_error, Some(libc::EPERM));
            }
            fill_until_memory_is_short(objects);
        });
    };

    where_all_memory_is_locked: || {
        let mut host = Host::probe().unwrap();
        host.narrow_calls(!Calls::MLOCK2);
        // SAFETY: takes numbers; memory of this process only, which is about to end.
        if unsafe { libc::mlockall(libc::MCL_FUTURE) } != 0 {
            return skip("mlockall is not permitted");
        }
        may_on(&host, &[Use::Prealloc], |objects| {
            make(objects, "ram", "");
            make(objects, "ram", "prealloc=on");
        });
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

confined! {
    a_device_only_discards: || {
        let host = Host::probe().unwrap();
        let objects = Objects::new(&host, &common::defaults()).unwrap();
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().display();
        let file = format!("mem-path={path}/m0");
        let kinds = [
            ("ram", "lock=on"),
            ("ram", "thp=always,prealloc=on"),
            ("memfd", "prealloc=on"),
            ("memfd", "share=off"),
            ("shm", ""),
            ("file", &format!("share=on,{file}")),
            ("file", &format!("share=off,{file}")),
        ];
        let backends = kinds.map(|(kind, options)| make(&objects, kind, options));
        let pieces = backends.each_ref().map(|one| one.claim("vm0").unwrap().piece(0).unwrap());
        let calls = host.syscalls(&[Use::DiscardAlone]);
        assert!(!calls.iter().any(|call| call.name == "openat"));
        let confined = || {
            confine(&calls);
            for piece in &pieces {
                piece.discard(0, 4 << 20).unwrap();
                if piece.memory().fd().is_none() || piece.memory().is_shared() {
                    piece.discard_to(0, 4 << 20, DiscardTo::Zero).unwrap();
                }
                piece.protect(0, 2 << 20, Access::None).unwrap();
                piece.protect(0, 2 << 20, Access::All).unwrap();
                piece.discard(1, 1).unwrap_err();
                piece.discard(0, 1 << 40).unwrap_err();
                let inhibited = piece.inhibit_discard("vfio0").unwrap();
                piece.discard(0, 4 << 20).unwrap_err();
                drop(inhibited);
            }
        };
        thread::scope(|scope| scope.spawn(confined).join().unwrap());
    };
}

const CALLS: [Calls; 14] = [
    Calls::CACHESTAT,
    Calls::GET_MEMPOLICY,
    Calls::LSEEK,
    Calls::MINCORE,
    Calls::MLOCK2,
    Calls::MSYNC,
    Calls::PRCTL,
    Calls::PREAD64,
    Calls::PRLIMIT64,
    Calls::READLINK,
    Calls::SCHED_GETAFFINITY,
    Calls::SCHED_SETAFFINITY,
    Calls::SCHED_SETSCHEDULER,
    Calls::SET_MEMPOLICY,
];

/// The signal that ends this test binary with only the named test, which is confined there.
fn signal_of(test: &str) -> Option<i32> {
    let mut child = Command::new(env::current_exe().unwrap());
    let child = child.args([test, "--exact", "--ignored", "--test-threads=1"]);
    child.output().unwrap().status.signal()
}

/// Does one call with an argument under the filter of all uses.
fn call_confined(call: libc::c_long, arguments: [libc::c_long; 3]) {
    let host = Host::probe().unwrap();
    let calls = host.syscalls(&[Use::Prealloc, Use::LazyContents, Use::File]);
    assert!(calls.iter().any(|one| one.number == call));
    let call = || {
        confine(&calls);
        // SAFETY: no argument is of memory that is in use.
        unsafe { libc::syscall(call, arguments[0], arguments[1], arguments[2]) };
    };
    thread::scope(|scope| scope.spawn(call).join().unwrap());
}

macro_rules! called_alone {
    ($($name:ident: $call:expr, $arguments:expr;)*) => {
        $(#[test]
        #[ignore = "run by an_argument_that_is_not_listed_kills"]
        fn $name() {
            call_confined($call, $arguments);
        })*
    };
}

called_alone! {
    listed_advice: libc::SYS_madvise, [0, 0, libc::MADV_DONTFORK as _];
    other_advice: libc::SYS_madvise, [0, 0, libc::MADV_WILLNEED as _];
    listed_option: libc::SYS_prctl, [libc::PR_GET_THP_DISABLE as _, 0, 0];
    other_option: libc::SYS_prctl, [libc::PR_GET_DUMPABLE as _, 0, 0];
    listed_request: libc::SYS_ioctl, [-1, 0xc028_aa03, 0];
    other_request: libc::SYS_ioctl, [-1, libc::FIONREAD as _, 0];
    listed_operation: libc::SYS_futex, [0, libc::FUTEX_WAKE as _, 0];
    other_operation: libc::SYS_futex, [0, libc::FUTEX_FD as _, 0];
}

#[test]
fn an_argument_that_is_not_listed_kills() {
    for name in ["advice", "option", "request", "operation"] {
        assert_eq!(signal_of(&format!("listed_{name}")), None, "{name}");
        assert_eq!(
            signal_of(&format!("other_{name}")),
            Some(libc::SIGSYS),
            "{name}"
        );
    }
}

/// What is optional is not in the list of a host that was narrowed, unless a use needs it.
#[test]
fn the_list_follows_narrowed_calls() {
    let mut host = Host::probe().unwrap();
    let optional = |host: &Host, uses: &[Use]| {
        let calls = host.syscalls(uses).into_iter();
        calls
            .filter(|call| call.optional)
            .map(|call| call.name)
            .collect::<Vec<_>>()
    };
    let names = optional(&host, &[Use::Prealloc]);
    for name in ["msync", "mincore", "mlock2", "get_mempolicy", "prctl"] {
        assert!(names.contains(&name), "{name}");
    }
    host.narrow_methods(Methods::NONE);
    host.narrow_calls(Calls::NONE);
    assert_eq!(optional(&host, &LIFE), Vec::<&str>::new());
    let calls = host.syscalls(&[Use::Prealloc, Use::Lock]);
    assert!(calls.iter().any(|call| call.name == "mlock2"));
    assert!(!calls.iter().any(|call| call.name == "mincore"));
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

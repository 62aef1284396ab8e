// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system calls that docs/seccomp.md lists are all that the library makes: each thing is done
//! under a filter that kills at anything else.

mod common;

use std::os::fd::AsRawFd;
use std::thread;

use common::access;
use common::bindable_node;
use common::host::HugePages;
use common::host::HUGE;
use common::in_child;
use common::kernel;
use common::seccomp;
use common::seccomp::confine;
use common::seccomp::MEMFD;
use common::seccomp::PREALLOC;
use common::seccomp::TOUCH;
use common::skip;
use common::touch::without_populate;
use hostmem::Backend;
use hostmem::Host;
use hostmem::Methods;
use hostmem::Objects;
use hostmem::Policy;
use hostmem::Rebind;
use hostmem::Topology;

#[test]
fn every_word_of_the_table_is_known() {
    assert_eq!(seccomp::check_words(), 31);
}

/// Does something with a set of objects, whose host may use the methods, on a thread that may do
/// nothing else than what the lines say.
fn may(lines: &[&str], methods: Methods, body: impl FnOnce(&Objects) + Send) {
    let mut host = Host::probe().unwrap();
    host.narrow_methods(methods);
    may_on(&host, lines, body);
}

fn may_on(host: &Host, lines: &[&str], body: impl FnOnce(&Objects) + Send) {
    let objects = Objects::new(host, &common::defaults()).unwrap();
    // What a killed process was at.
    eprintln!("{lines:?} {host:?}");
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
                return skip("these lines are for kernels that have MADV_POPULATE; tests/numa tests the one without");
            }
            if common::is_instrumented() {
                return;
            }
            in_child(stringify!($name), || $body());
        })*
    };
}

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

    preallocation_by_touching: || {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().display();
        may_on(&without_populate(), &[PREALLOC, TOUCH, MEMFD, "file"], |objects| {
            drop(make(objects, "ram", "prealloc=on"));
            drop(make(objects, "memfd", "prealloc=on"));
            drop(make(objects, "file", &format!("prealloc=on,share=on,mem-path={path}/m0")));
            let readonly = format!("prealloc=on,readonly=on,mem-path={path}/m0");
            drop(make(objects, "file", &readonly));
        });
    };

    // Words of an error need calls of their own.
    a_file_system_without_room: || {
        let mut room = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: reads the text and fills the struct.
        let room = unsafe {
            assert_eq!(libc::statvfs(c"/dev/shm".as_ptr(), room.as_mut_ptr()), 0);
            room.assume_init()
        };
        let size = room.f_blocks * room.f_frsize + common::page_size();
        if room.f_blocks == 0 || size > common::meminfo("MemTotal:") {
            return skip("/dev/shm has no limit that is less than memory");
        }
        may(&[PREALLOC, "shm"], Methods::NONE, |objects| {
            let options = format!("memory-backend-shm,id=m0,size={size}");
            let backend = objects.parse(&options).unwrap().complete().unwrap();
            assert!(backend.warnings().concat().contains("/dev/shm/"));
            backend.delete().unwrap();
            let failed = objects.parse(format!("{options},prealloc=on")).unwrap().complete();
            let failed = failed.unwrap_err().error;
            assert_eq!(failed.raw_os_error(), Some(libc::ENOSPC), "{failed}");
            assert!(failed.to_string().contains("the file system of /dev/shm/"), "{failed}");
        });
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
            claim.discard(0, common::page_size()).unwrap();
            backend.set("lock", false).unwrap();
        });
    };

    scrubbing: || {
        may(&[PREALLOC, "scrub", "memfd, ram with share=on"], Methods::NONE, |objects| {
            for (kind, options) in [
                ("ram", "prealloc=on"),
                ("memfd", "thp=never"),
                ("memfd", "share=off"),
            ] {
                let backend = make(objects, kind, options);
                let claim = backend.claim("vm0").unwrap();
                claim.scrub(0, claim.memory().len()).unwrap();
            }
        });
    };
}

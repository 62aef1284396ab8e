// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Faults that other implementations of host memory have had, and that this one must not have.
//!
//! The comment at each test is what must hold. These faults have no test here, since the library has
//! no code in which they could be:
//!
//! | fault | why it cannot happen here |
//! |---|---|
//! | the code for a kernel without memory policies is never reached | tests/policy.rs checks that the default policy makes no call |
//! | error exits that leave the list of all RAM locked; a guest_memfd that failed goes on forbidding discards | the library has no list of all RAM and makes no guest_memfd |
//! | a device that failed to start goes on using its backend | devices are the VMM's; that a failed claim claims nothing is tested |

mod common;

use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;

use common::access::assert_refused;
use common::access::descriptor;
use common::access::fill;
use common::access::has;
use common::access::memfd;
use common::access::new;
use common::access::read;
use common::access::smaps_field;
use common::host;
use common::host::HugePages;
use common::host::HUGE;
use common::in_child;
use common::page_size;
use common::refusing;
use common::skip;
use common::vm_flags;
use common::Belongings;
use common::Refusal;
use hostmem::Backend;
use hostmem::Builder;
use hostmem::Defaults;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Objects;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Each kind that is not private anonymous memory, as the rest of an option string; `{dir}` is a
/// directory.
const WITH_DESCRIPTOR: &[(&str, &str)] = &[
    ("ram", "share=on"),
    ("memfd", ""),
    ("memfd", "share=off"),
    ("shm", ""),
    ("file", "mem-path={dir}/new,share=on"),
    ("file", "mem-path={dir}/new,share=off"),
    ("file", "mem-path={dir}"),
];

fn builder(kind: &str, options: &str, directory: &TempDir, more: &str) -> Builder {
    let options = options.replace("{dir}", directory.path().to_str().unwrap());
    let options = [more, &options].join(",");
    new(kind, options.trim_end_matches(','))
}

fn is_empty(directory: &TempDir) -> bool {
    fs::read_dir(directory.path()).unwrap().next().is_none()
}

fn flags(backend: &Backend) -> Vec<String> {
    vm_flags(backend.claim("test").unwrap().memory().as_ptr())
}

fn with_defaults(merge: bool, dump: bool) -> Objects {
    let mut defaults = Defaults::qemu();
    defaults.merge = merge;
    defaults.dump = dump;
    Objects::new(&Host::probe().unwrap(), &defaults).unwrap()
}

fn has_numa() -> bool {
    cfg!(feature = "numa") && fs::exists("/sys/devices/system/node/node0").unwrap()
}

/// Nodes are checked before memory is mapped and files are made.
#[test]
fn nodes_are_checked_before_anything_is_made() {
    for &(kind, options) in WITH_DESCRIPTOR {
        for more in [
            "policy=bind,host-nodes=1000",
            "policy=bind",
            "host-nodes=0",
            "policy=local,host-nodes=0",
        ] {
            let directory = tempfile::tempdir().unwrap();
            let builder = builder(kind, options, &directory, &format!("size=1M,{more}"));
            let made = [
                Refusal::new(libc::SYS_memfd_create, libc::EIO),
                Refusal::new(libc::SYS_mmap, libc::EIO).only(1, MIB),
                Refusal::new(libc::SYS_openat, libc::EIO).only_masked(
                    2,
                    libc::O_CREAT as u64,
                    libc::O_CREAT as u64,
                ),
            ];
            let failed = refusing(&made, || builder.complete().unwrap_err());
            let expected = if cfg!(feature = "numa") {
                ErrorKind::Value
            } else {
                ErrorKind::Unsupported
            };
            assert_eq!(failed.error.kind(), expected, "{kind}: {failed}");
            assert!(is_empty(&directory), "{kind}: {more}");
        }
    }
}

/// A failure removes the new file, with the memory that it holds.
#[test]
fn a_new_file_does_not_outlive_a_failure() {
    in_child("a_new_file_does_not_outlive_a_failure", || {
        let directory = tempfile::tempdir().unwrap();
        if !host::mount("tmpfs", directory.path(), "size=8M") {
            return;
        }
        for more in ["size=4097", "size=1M,policy=bind", "size=32M,prealloc=on"] {
            for share in ["share=on", "share=off,lock=on"] {
                let options = format!("mem-path={{dir}}/new,{share}");
                // Private memory does not fill the file.
                if more.contains("prealloc") && share.contains("off") {
                    continue;
                }
                let failed = builder("file", &options, &directory, more).complete();
                assert!(failed.is_err(), "{more},{share}");
                assert!(is_empty(&directory), "{more},{share}");
            }
        }
        let left = fs::metadata(directory.path()).unwrap();
        assert_eq!(left.blocks(), 0);
    });
}

/// merge=off acts also where the default is on.
#[test]
fn merge_off_is_done_whatever_the_default_is() {
    for share in ["off", "on"] {
        for default in [true, false] {
            for (merge, value) in [("on", true), ("off", false)] {
                let objects = with_defaults(default, true);
                let options =
                    format!("memory-backend-ram,id=m0,size=1M,share={share},merge={merge}");
                let backend = match objects.parse(options).unwrap().complete() {
                    Ok(backend) => backend,
                    Err(failed) if failed.error.kind() == ErrorKind::Unsupported => {
                        return skip("this kernel merges no pages");
                    }
                    Err(failed) => panic!("{failed}"),
                };
                // The kernel never merges shared memory.
                let expected = value && share == "off";
                assert_eq!(flags(&backend).contains(&"mg".into()), expected, "{merge}");
                backend.set("merge", !value).unwrap();
                let expected = !value && share == "off";
                assert_eq!(flags(&backend).contains(&"mg".into()), expected, "{merge}");
            }
        }
    }
}

/// dump=on acts also where the default is off.
#[test]
fn dump_on_is_done_whatever_the_default_is() {
    for default in [true, false] {
        for (dump, value) in [("on", true), ("off", false)] {
            for kind in ["ram", "memfd", "shm"] {
                let objects = with_defaults(true, default);
                let options = format!("memory-backend-{kind},id=m0,size=1M,dump={dump}");
                let backend = objects.parse(options).unwrap().complete().unwrap();
                assert_eq!(flags(&backend).contains(&"dd".into()), !value, "{kind}");
                backend.set("dump", !value).unwrap();
                assert_eq!(flags(&backend).contains(&"dd".into()), value, "{kind}");
            }
        }
    }
}

/// A node that does not exist is an error, also beside one that exists.
#[test]
fn a_node_that_does_not_exist_is_not_dropped() {
    if !has_numa() {
        return skip("no NUMA");
    }
    for &(kind, options) in WITH_DESCRIPTOR {
        for policy in ["bind", "interleave", "preferred"] {
            let directory = tempfile::tempdir().unwrap();
            let more = format!("size=1M,policy={policy},host-nodes=0,host-nodes=1000");
            let builder = builder(kind, options, &directory, &more);
            assert_refused(builder, ErrorKind::Value, &["node 1000 "]);
        }
    }
}

/// mbind(2) ignores the last bit of its mask; the highest node is not in that bit.
#[test]
fn the_highest_node_is_not_lost() {
    if !has_numa() {
        return skip("no NUMA");
    }
    for kind in ["ram", "memfd", "shm"] {
        let backend = new(kind, "size=1M,policy=bind,host-nodes=0")
            .complete()
            .unwrap();
        let policy = backend.placement().unwrap().policy;
        assert_eq!(policy, "bind:0", "{kind}");
    }
    // For node 0: one bit, and the one that is ignored.
    let refusal = [Refusal::new(libc::SYS_mbind, libc::EHWPOISON).only(4, 2)];
    let builder = new("memfd", "size=1M,policy=bind,host-nodes=0");
    let failed = refusing(&refusal, || builder.complete().unwrap_err());
    assert_eq!(
        failed.error.raw_os_error(),
        Some(libc::EHWPOISON),
        "{failed}"
    );
}

/// Node ids end at 1023, as in the kernel.
#[test]
fn nodes_end_where_the_kernels_do() {
    let mut builder = new(
        "ram",
        "size=1M,policy=bind,host-nodes=127-128,host-nodes=1023",
    );
    assert_eq!(builder.get_text("host-nodes").unwrap(), "127-128,1023");
    for nodes in ["1024", "0-1024", "4294967296"] {
        let error = builder.set("host-nodes", nodes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{error}");
    }
    assert_eq!(builder.get_text("host-nodes").unwrap(), "127-128,1023");
}

/// The nodes of huge pages are read from the kernel.
#[test]
fn the_place_of_huge_pages_is_the_kernels_word() {
    if !has_numa() {
        return skip("no NUMA");
    }
    let Some(_pool) = HugePages::have(2) else {
        return;
    };
    let options = "hugetlb=on,hugetlbsize=2M,policy=bind,host-nodes=0,prealloc=on";
    let backend = new("memfd", &format!("size=4M,{options}"))
        .complete()
        .unwrap();
    let placement = backend.placement().unwrap();
    assert_eq!((placement.resident, placement.huge), (4 * MIB, 4 * MIB));
    assert_eq!(placement.nodes.get(&0), Some(&(4 * MIB)), "{placement:?}");
    drop(backend);
    // A shortage of the node is an error before anything is made.
    let message = assert_refused(
        new("memfd", &format!("size=6M,{options}")),
        ErrorKind::NoMemory,
        &["3 huge pages", "2 of them free"],
    );
    assert!(!message.contains("prealloc"), "{message}");
}

/// Each of three refusals of mbind(2) has its own message.
#[test]
fn refusals_of_a_policy_tell_what_to_do() {
    if !has_numa() {
        return skip("no NUMA");
    }
    for kind in ["ram", "memfd", "shm"] {
        let messages: Vec<_> = [libc::EPERM, libc::EINVAL, libc::EIO]
            .into_iter()
            .map(|errno| {
                let builder = new(kind, "size=1M,policy=bind,host-nodes=0");
                let refusal = [Refusal::new(libc::SYS_mbind, errno)];
                let failed = refusing(&refusal, || builder.complete().unwrap_err());
                assert_eq!(failed.error.raw_os_error(), Some(errno));
                let message = failed.to_string();
                let text = std::io::Error::from_raw_os_error(errno).to_string();
                let text = text.split(" (os").next().unwrap().to_owned();
                message.replace(&text, "")
            })
            .collect();
        assert_ne!(messages[0], messages[1]);
        assert_ne!(messages[1], messages[2]);
        assert_ne!(messages[0], messages[2]);
    }
}

/// A retry with the same id does not use the descriptor of the attempt that failed.
#[test]
fn a_retry_uses_nothing_of_what_failed() {
    in_child("a_retry_uses_nothing_of_what_failed", || {
        let pool = HugePages::have(1);
        let objects = common::objects();
        let parse = |options: String| objects.parse(options).unwrap();
        for round in 0..3 {
            let mut open = None;
            if pool.is_some() {
                let huge = "memory-backend-memfd,id=m0,hugetlb=on,hugetlbsize=2M";
                let failed = parse(format!("{huge},size=4M")).complete();
                assert!(failed.is_err());
                drop(failed);
                let backend = parse(format!("{huge},size=2M")).complete().unwrap();
                assert_eq!(backend.claim("test").unwrap().memory().page_size(), HUGE);
            }
            for kind in ["memfd", "shm"] {
                let options = format!("memory-backend-{kind},id=m0,size=1M");
                let builder = parse(options.clone());
                let refusal = [Refusal::new(libc::SYS_mprotect, libc::ENOMEM).only(1, MIB)];
                let failed = refusing(&refusal, || builder.complete().unwrap_err());
                let backend = failed.object.size(3 * MIB).complete().unwrap();
                let claim = backend.claim("test").unwrap();
                assert_eq!(claim.memory().len(), 3 * MIB);
                assert_eq!(claim.memory().page_size(), page_size());
                assert_eq!(descriptor(&claim).metadata().unwrap().len(), 3 * MIB);
                drop((claim, backend));
                let backend = parse(options).complete().unwrap();
                assert_eq!(backend.claim("test").unwrap().memory().len(), MIB);
                drop(backend);
                let now = fs::read_dir("/proc/self/fd").unwrap().count();
                assert_eq!(*open.get_or_insert(now), now, "{kind}, round {round}");
            }
        }
    });
}

/// A size that is not a multiple of the page size is not reported as a file that is too small.
#[test]
fn an_odd_size_is_told_as_one() {
    for &(kind, options) in WITH_DESCRIPTOR {
        let directory = tempfile::tempdir().unwrap();
        let builder = builder(kind, options, &directory, "size=1000001");
        let message = assert_refused(builder, ErrorKind::Value, &["size=1000001", "multiple"]);
        assert!(message.contains(&page_size().to_string()), "{message}");
        assert!(!message.contains("fit"), "{message}");
    }
}

/// Preallocating read-only memory does not write to it, which would kill the process.
#[test]
fn read_only_memory_is_preallocated_by_reading() {
    in_child("read_only_memory_is_preallocated_by_reading", || {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rom");
        fs::write(&path, vec![5; 4 * MIB as usize]).unwrap();
        let file = File::open(&path).unwrap();
        let path = path.display();
        for (kind, options) in [
            ("file", format!("mem-path={path}")),
            ("file", format!("mem-path={path},share=on")),
            ("fd", format!("fd={}", file.as_raw_fd())),
            ("fd", format!("fd={},share=off", file.as_raw_fd())),
        ] {
            let options = format!("size=4M,{options},readonly=on");
            let at_once = new(kind, &format!("{options},prealloc=on"));
            let at_once = at_once.complete().unwrap();
            let later = new(kind, &options).complete().unwrap();
            later.set("prealloc", true).unwrap();
            for backend in [at_once, later] {
                assert_eq!(backend.placement().unwrap().resident, 4 * MIB, "{options}");
                let claim = backend.claim("test").unwrap();
                assert!(has(&claim, 0, 4 * MIB, 5), "{options}");
            }
            // A kernel without it is an error, not a reason to write.
            let builder = new(kind, &format!("{options},prealloc=on"));
            let refusal = [Refusal::new(libc::SYS_madvise, libc::EINVAL).only(2, 22)];
            let failed = refusing(&refusal, || builder.complete().unwrap_err());
            assert_eq!(failed.error.raw_os_error(), Some(libc::EINVAL), "{failed}");
        }
    });
}

/// Memory of descriptors is aligned to huge pages, so that they fit.
#[test]
fn memory_of_descriptors_is_aligned_for_huge_pages() {
    let huge = common::thp_size().unwrap_or(HUGE);
    let size = 2 * huge + huge / 2;
    let file = memfd("user", 0, size);
    for i in 0..4 {
        // Something small in between, so that one after the other would be odd.
        let _small = new("memfd", &format!("size={}", (i + 1) * page_size()))
            .complete()
            .unwrap();
        let fd = format!("fd={}", file.as_raw_fd());
        for (kind, options) in WITH_DESCRIPTOR.iter().copied().chain([("fd", &*fd)]) {
            let directory = tempfile::tempdir().unwrap();
            let backend = builder(kind, options, &directory, &format!("size={size}"))
                .complete()
                .unwrap();
            let claim = backend.claim("test").unwrap();
            assert_eq!(claim.memory().as_ptr() as u64 % huge, 0, "{kind} {options}");
        }
    }
}

/// The mapping of a descriptor is unmapped when a later step fails.
#[test]
fn memory_of_descriptors_is_unmapped_by_a_failure() {
    in_child("memory_of_descriptors_is_unmapped_by_a_failure", || {
        const SIZE: u64 = 37 * MIB;
        for &(kind, options) in WITH_DESCRIPTOR {
            let directory = tempfile::tempdir().unwrap();
            let fail = || {
                let more = format!("size={SIZE}");
                let builder = builder(kind, options, &directory, &more);
                let refusal = [Refusal::new(libc::SYS_madvise, libc::EPERM)
                    .only(1, SIZE)
                    .only(2, libc::MADV_DODUMP as u64)];
                drop(refusing(&refusal, || builder.complete().unwrap_err()));
            };
            fail();
            let before = Belongings::now();
            fail();
            assert_eq!(Belongings::now(), before, "{kind} {options}");
        }
    });
}

/// A claim that fails claims nothing.
#[test]
fn a_claim_that_fails_does_not_keep_the_backend_busy() {
    let backend = new("memfd", "size=1M").complete().unwrap();
    for owner in ["", &"a".repeat(129)] {
        assert!(backend.claim(owner).is_err());
        assert_eq!(backend.owner(), None);
        backend.can_be_deleted().unwrap();
    }
    let claim = backend.claim("first").unwrap();
    assert!(backend.claim("second").is_err());
    drop(claim);
    backend.delete().unwrap();
}

/// A second object of the same id is an error and does not end the process.
#[test]
fn a_name_that_is_taken_is_an_error() {
    let objects = common::objects();
    let options = "memory-backend-memfd,id=m0,size=1M";
    let first = objects.parse(options).unwrap().complete().unwrap();
    for kind in ["ram", "memfd", "shm", "file", "fd"] {
        for canonical in ["on", "off"] {
            let options = format!(
                "memory-backend-{kind},id=m0,size=1M,x-use-canonical-path-for-ramblock-id={canonical}"
            );
            let error = objects.parse(options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Value, "{error}");
            assert!(error.to_string().contains("m0"), "{error}");
        }
    }
    assert_eq!(first.name(), "m0");
}

/// Whether shared memory has its policy is read from the kernel.
#[test]
fn shared_memory_has_its_policy_and_the_caller_keeps_its_own() {
    if !has_numa() {
        return skip("no NUMA");
    }
    let own = || {
        let maps = fs::read_to_string("/proc/thread-self/numa_maps").unwrap();
        let stack = maps
            .lines()
            .find(|line| line.contains("stack"))
            .unwrap()
            .to_owned();
        stack.split(' ').nth(1).unwrap().to_owned()
    };
    let before = own();
    for &(kind, options) in WITH_DESCRIPTOR {
        for place in ["/dev/shm".into(), std::env::temp_dir()] {
            let directory = tempfile::tempdir_in(place).unwrap();
            let more = "size=4M,policy=bind,host-nodes=0,prealloc=on";
            let backend = builder(kind, options, &directory, more).complete().unwrap();
            let placement = backend.placement().unwrap();
            assert_eq!(placement.resident, 4 * MIB, "{kind} {options}");
            assert_eq!(
                placement.nodes.get(&0),
                Some(&(4 * MIB)),
                "{kind} {options}"
            );
            // Of a file on disk that is shared the kernel ignores it.
            if kind != "file" {
                assert_eq!(placement.policy, "bind:0", "{kind} {options}");
            }
            assert_eq!(own(), before, "{kind} {options}");
        }
    }
}

/// Guests below 4 GiB are populated by several threads too.
#[test]
fn small_guests_are_populated_by_several_threads() {
    for kind in ["ram", "memfd", "shm"] {
        let options = "size=256M,thp=never,prealloc=on,prealloc-threads=4";
        let backend = new(kind, options).complete().unwrap();
        assert_eq!(backend.prealloc_result().unwrap().threads, 4, "{kind}");
    }
}

/// Huge pages are advised before any small page is present.
#[test]
fn huge_pages_are_advised_before_memory_is_populated() {
    let enabled = "/sys/kernel/mm/transparent_hugepage/enabled";
    let enabled = fs::read_to_string(enabled).unwrap_or_default();
    if !enabled.contains("[madvise]") && !enabled.contains("[always]") {
        return skip("no transparent huge pages");
    }
    let backend = new("ram", "size=32M,thp=always,prealloc=on")
        .complete()
        .unwrap();
    let huge = backend.placement().unwrap().huge;
    // Memory may be too much in pieces for some of them.
    assert!(huge >= 16 * MIB, "{huge}");
}

/// A tail is populated, and less than a page is not a division by zero.
#[test]
fn the_tail_is_populated_too() {
    let page = page_size();
    for size in [page, 3 * page, HUGE - page, HUGE + page, 33 * MIB + page] {
        for &(kind, options) in WITH_DESCRIPTOR {
            let directory = tempfile::tempdir().unwrap();
            let more = format!("size={size},prealloc=on,prealloc-threads=3");
            let backend = builder(kind, options, &directory, &more)
                .complete()
                .unwrap();
            let placement = backend.placement().unwrap();
            assert_eq!(placement.resident, size, "{kind} {options} {size}");
        }
    }
    let Some(_pool) = HugePages::have(1) else {
        return;
    };
    let options = "size=2M,hugetlb=on,hugetlbsize=2M,prealloc=on,prealloc-threads=3";
    let backend = new("memfd", options).complete().unwrap();
    assert_eq!(backend.placement().unwrap().resident, HUGE);
}

/// The policy is set before memory is populated.
#[test]
fn nothing_is_populated_before_its_policy_is_set() {
    if !has_numa() {
        return skip("no NUMA");
    }
    let file = memfd("user", 0, 4 * MIB);
    let options = format!("fd={},size=4M,prealloc=on", file.as_raw_fd());
    let refusal = || [Refusal::new(libc::SYS_mbind, libc::EIO)];
    let builder = new("fd", &format!("{options},policy=bind,host-nodes=0"));
    drop(refusing(&refusal(), || builder.complete().unwrap_err()));
    assert_eq!(file.metadata().unwrap().blocks(), 0);
    drop(new("fd", &options).complete().unwrap());
    assert_eq!(file.metadata().unwrap().blocks() * 512, 4 * MIB);
}

/// Huge pages are not allocated by fallocate(2), which knows no policy.
#[test]
fn huge_pages_are_not_taken_before_their_policy_is_set() {
    let Some(_pool) = HugePages::have(2) else {
        return;
    };
    let policy = if has_numa() {
        ",policy=bind,host-nodes=0"
    } else {
        ""
    };
    let options = format!("size=4M,hugetlb=on,hugetlbsize=2M,prealloc=on{policy}");
    let builder = new("memfd", &options);
    let refusal = [Refusal::new(libc::SYS_fallocate, libc::EIO)];
    let backend = refusing(&refusal, || builder.complete().unwrap());
    assert_eq!(backend.placement().unwrap().huge, 4 * MIB);
}

/// Memory that is configured with huge pages is made of them.
#[test]
fn huge_pages_that_are_asked_for_are_huge() {
    let Some(_pool) = HugePages::have(1) else {
        return;
    };
    let backend = new("memfd", "size=2M,hugetlb=on,hugetlbsize=2M")
        .complete()
        .unwrap();
    let claim = backend.claim("test").unwrap();
    fill(&claim, 0, 2 * MIB, 1);
    assert_eq!(smaps_field(&claim, "KernelPageSize"), HUGE);
    assert_eq!(HugePages::free(), 0);
}

/// Discarding a memfd's memory frees it and leaves it mapped.
#[test]
fn discarding_shared_memory_frees_it() {
    for (kind, options) in [("ram", "share=on"), ("memfd", ""), ("shm", "")] {
        let backend = new(kind, &format!("size=4M,prealloc=on,{options}"));
        let backend = backend.complete().unwrap();
        let claim = backend.claim("test").unwrap();
        let file = descriptor(&claim);
        assert_eq!(file.metadata().unwrap().blocks() * 512, 4 * MIB);
        claim.discard(MIB, 2 * MIB).unwrap();
        assert_eq!(file.metadata().unwrap().blocks() * 512, 2 * MIB, "{kind}");
        assert_eq!(read(&claim, MIB), 0);
    }
}

/// merge and dump do not take a value that the kernel refuses; more than 16 threads are possible.
#[test]
fn a_value_is_what_was_done() {
    const SIZE: u64 = 37 * MIB;
    for (kind, property, value, advice) in [
        ("ram", "merge", false, libc::MADV_UNMERGEABLE),
        ("ram", "dump", false, libc::MADV_DONTDUMP),
        ("memfd", "merge", false, libc::MADV_UNMERGEABLE),
        ("shm", "dump", false, libc::MADV_DONTDUMP),
    ] {
        let backend = new(kind, &format!("size={SIZE}")).complete().unwrap();
        let before = backend.get_text(property).unwrap();
        let refusal = [Refusal::new(libc::SYS_madvise, libc::EPERM)
            .only(1, SIZE)
            .only(2, advice as u64)];
        let error = refusing(&refusal, || backend.set(property, value).unwrap_err());
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
        assert_eq!(
            backend.get_text(property).unwrap(),
            before,
            "{kind} {property}"
        );
        backend.set(property, value).unwrap();
        assert_ne!(
            backend.get_text(property).unwrap(),
            before,
            "{kind} {property}"
        );
    }
    let options = "size=64M,thp=never,prealloc=on,prealloc-threads=20";
    let backend = new("memfd", options).complete().unwrap();
    assert_eq!(backend.get_text("prealloc-threads").unwrap(), "20");
    assert_eq!(backend.prealloc_result().unwrap().threads, 20);
}

/// Private memory does not take twice its size, as a private mapping of a memfd does.
#[test]
fn private_memory_is_there_once() {
    let backend = new("ram", "size=16M").complete().unwrap();
    let claim = backend.claim("test").unwrap();
    assert!(claim.memory().fd().is_none());
    fill(&claim, 0, 16 * MIB, 1);
    assert_eq!(smaps_field(&claim, "Anonymous"), 16 * MIB);
    drop((claim, backend));

    // Where that is asked for it is accepted; what is written is this process's own.
    let backend = new("memfd", "size=16M,share=off,prealloc=on")
        .complete()
        .unwrap();
    let claim = backend.claim("test").unwrap();
    fill(&claim, 0, 16 * MIB, 1);
    assert_eq!(smaps_field(&claim, "Anonymous"), 16 * MIB);
    let mut byte = [9];
    descriptor(&claim).read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [0]);
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where memory is said to be, against what was done to it.

mod common;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use common::access;
use common::access::descriptor;
use common::bindable_node;
use common::host::HugePages;
use common::host::HUGE;
use common::in_child;
use common::in_forked_child;
use common::kernel;
use common::page_size;
use common::ram;
use common::refusing;
use common::skip;
use common::smaps;
use common::Refusal;
use hostmem::Backend;
use hostmem::Calls;
use hostmem::Claim;
use hostmem::Host;
use hostmem::Objects;
use hostmem::Placement;
use hostmem::Satisfied;

/// Of Linux 6.5.
const CACHESTAT: libc::c_long = 451;

/// Small pages only, so that what is touched is what is there.
fn small_pages(size: u64, options: &str) -> Backend {
    ram(&format!("size={size},thp=never,{options}"))
        .complete()
        .unwrap()
}

fn touch(claim: &Claim, offset: u64) {
    assert!(offset < claim.memory().len());
    let address = claim.memory().as_ptr().wrapping_add(offset as usize);
    // SAFETY: inside the memory, which nobody else uses.
    unsafe { address.write_volatile(1) };
}

#[track_caller]
fn placement(backend: &Backend, size: u64) -> Placement {
    let placement = backend.placement().unwrap();
    assert_eq!(
        placement.absent + placement.unmapped + placement.resident + placement.swapped,
        size,
        "{placement:?}"
    );
    assert!(placement.huge <= placement.resident, "{placement:?}");
    if Path::new("/proc/self/numa_maps").exists() {
        let on_nodes: u64 = placement.nodes.values().sum();
        assert_eq!(on_nodes, placement.resident, "{placement:?}");
        assert!(placement.nodes.values().all(|&bytes| bytes != 0));
    }
    placement
}

#[test]
fn nothing_is_there_before_and_all_after_prealloc() {
    let page = page_size();
    for size in [page, 3 * page, 1 << 20, (4 << 20) + page] {
        for options in ["share=off", "share=on", "thp=never", "thp=always"] {
            let options = format!("size={size},{options}");
            let backend = ram(&options).complete().unwrap();
            let before = placement(&backend, size);
            assert_eq!((before.resident, before.swapped), (0, 0), "{options}");
            assert!(before.nodes.is_empty(), "{before:?}");
            backend.set("prealloc", true).unwrap();
            let after = placement(&backend, size);
            assert_eq!((after.resident, after.absent), (size, 0), "{options}");
        }
        let options = format!("size={size},prealloc=on");
        let backend = ram(&options).complete().unwrap();
        assert_eq!(placement(&backend, size).resident, size);
    }
}

#[test]
fn touched_memory_is_counted_to_the_page() {
    let page = page_size();
    let size = 64 * page;
    for options in ["share=off", "share=on"] {
        let backend = small_pages(size, options);
        let claim = backend.claim("vm0").unwrap();
        let pages = [0, 1, 2, 17, 40, 62, 63];
        for (count, index) in (1..).zip(pages) {
            touch(&claim, index * page + index);
            assert_eq!(
                placement(&backend, size).resident,
                count * page,
                "{options}"
            );
        }
        // Again is no more.
        touch(&claim, 0);
        let count = pages.len() as u64;
        assert_eq!(
            placement(&backend, size).resident,
            count * page,
            "{options}"
        );
    }
}

#[test]
fn what_is_given_back_is_no_longer_counted() {
    let page = page_size();
    let size = 16 * page;
    let backend = small_pages(size, "");
    let claim = backend.claim("vm0").unwrap();
    for index in 0..16 {
        touch(&claim, index * page);
    }
    assert_eq!(placement(&backend, size).resident, size);
    let begin = claim.memory().as_ptr().wrapping_add(4 * page as usize);
    // SAFETY: inside the memory, which nobody else uses.
    let result = unsafe { libc::madvise(begin.cast(), 3 * page as usize, libc::MADV_DONTNEED) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    assert_eq!(placement(&backend, size).resident, 13 * page);
}

/// A peer that has written the first half of shared memory, and what is said of it.
fn half_written_by_a_peer(backend: &Backend, size: u64) -> Placement {
    let claim = backend.claim("vm0").unwrap();
    let peer = descriptor(&claim);
    let page = claim.memory().page_size();
    if page == page_size() {
        peer.write_all_at(&vec![7; size as usize / 2], 0).unwrap();
    } else {
        // A file of huge pages cannot be written to, so the peer maps it.
        let backend = access::new("fd", &format!("fd={},size={size}", peer.as_raw_fd()));
        let backend = backend.complete().unwrap();
        access::fill(&backend.claim("peer").unwrap(), 0, size / 2, 7);
    }
    placement(backend, size)
}

#[test]
fn shared_memory_that_only_a_peer_has_touched_is_not_mapped_here() {
    let page = page_size();
    let size = 16 * page;
    let backend = small_pages(size, "share=on");
    let seen = half_written_by_a_peer(&backend, size);
    assert_eq!((seen.resident, seen.mapmax), (0, 0));
    assert_eq!((seen.unmapped, seen.absent), (8 * page, 8 * page));
    let claim = backend.claim("vm0").unwrap();
    touch(&claim, 15 * page);
    let seen = placement(&backend, size);
    assert_eq!((seen.resident, seen.mapmax), (page, 1));
    assert_eq!((seen.unmapped, seen.absent), (8 * page, 7 * page));
    touch(&claim, 0);
    let mut byte = [0];
    let peer = descriptor(&claim);
    peer.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [1]);
    // Nobody else can have private memory.
    let private = small_pages(size, "");
    touch(&private.claim("vm0").unwrap(), 0);
    let seen = placement(&private, size);
    assert_eq!((seen.resident, seen.unmapped), (page, 0));
}

#[test]
fn the_files_blocks_tell_where_the_kernel_may_not_be_asked() {
    let page = page_size();
    let size = 16 * page;
    let backend = small_pages(size, "share=on");
    let calls = [libc::SYS_mincore, CACHESTAT].map(|call| Refusal::new(call, libc::EPERM));
    refusing(&calls, || {
        let seen = half_written_by_a_peer(&backend, size);
        assert_eq!((seen.unmapped, seen.absent), (8 * page, 8 * page));
        // Of a part of a file that is not known.
        let claim = backend.claim("vm0").unwrap();
        let fd = descriptor(&claim);
        let part = format!("fd={},size={}", fd.as_raw_fd(), size / 2);
        let part = access::new("fd", &part).complete().unwrap();
        let seen = placement(&part, size / 2);
        assert_eq!((seen.unmapped, seen.absent), (0, size / 2));
    });
}

/// Before Linux 6.5 each page is looked at, some thousand at once.
#[test]
fn shared_memory_is_counted_without_cachestat() {
    const SIZE: u64 = 192 << 20;
    let mut host = Host::probe().unwrap();
    host.narrow_calls(!Calls::CACHESTAT);
    let objects = Objects::new(&host, &common::defaults()).unwrap();
    let options = format!("memory-backend-memfd,id=m0,size={SIZE},thp=never");
    let backend = objects.parse(options).unwrap().complete().unwrap();
    let claim = backend.claim("test").unwrap();
    // On both sides of where one look ends and the next begins.
    let page = page_size();
    for at in (0..SIZE).step_by(32 << 20) {
        claim.populate(at, 3 * page).unwrap();
    }
    claim.populate((64 << 20) - page, page).unwrap();
    let placement = backend.placement().unwrap();
    assert_eq!(placement.resident, 19 * page);
    assert_eq!(placement.absent, SIZE - 19 * page);
}

/// Looked for page by page, it would take minutes.
#[test]
fn memory_of_many_tib_that_nobody_has_touched_is_quickly_seen() {
    let size = 16 << 40;
    for kind in ["ram,share=on", "memfd", "shm"] {
        let (kind, share) = kind.split_once(',').unwrap_or((kind, "share=on"));
        let backend = access::new(kind, &format!("size={size},{share}")).complete();
        let backend = backend.unwrap();
        let begun = Instant::now();
        let seen = placement(&backend, size);
        assert_eq!((seen.unmapped, seen.absent), (0, size), "{kind}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{kind}");
    }
}

#[test]
fn huge_pages_that_only_a_peer_has_touched_are_not_mapped_here() {
    let Some(_pool) = HugePages::have(4) else {
        return;
    };
    let size = 4 * HUGE;
    let backend = access::new("memfd", &format!("size={size},hugetlb=on,hugetlbsize=2M"));
    let backend = backend.complete().unwrap();
    let seen = half_written_by_a_peer(&backend, size);
    assert_eq!((seen.unmapped, seen.absent), (2 * HUGE, 2 * HUGE));
    touch(&backend.claim("vm0").unwrap(), 3 * HUGE);
    let seen = placement(&backend, size);
    assert_eq!((seen.resident, seen.huge), (HUGE, HUGE));
    assert_eq!((seen.unmapped, seen.absent), (2 * HUGE, HUGE));
}

#[test]
fn each_backend_counts_its_own() {
    let page = page_size();
    let backends: Vec<_> = (1..=5).map(|n| small_pages(n * page, "")).collect();
    let claims: Vec<_> = backends
        .iter()
        .map(|backend| backend.claim("vm0").unwrap())
        .collect();
    for index in 0..4 {
        touch(&claims[3], index * page);
    }
    for (n, backend) in (1..).zip(&backends) {
        let expected = if n == 4 { 4 * page } else { 0 };
        assert_eq!(placement(backend, n * page).resident, expected, "{n}");
    }
}

/// The kernel lists a mapping in pieces when they differ, say because a guest device locked some.
#[test]
fn memory_in_several_mappings_is_counted_whole() {
    let page = page_size();
    let size = 16 * page;
    for options in ["share=off", "share=on"] {
        let backend = small_pages(size, options);
        let claim = backend.claim("vm0").unwrap();
        let address = claim.memory().as_ptr();
        for index in [2, 9] {
            let begin = address.wrapping_add((index * page) as usize);
            // SAFETY: inside the memory, which nobody else uses. Not mlock(), which a sanitizer
            // takes for itself.
            let result = unsafe { libc::syscall(libc::SYS_mlock, begin, page) };
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        }
        touch(&claim, 15 * page);
        assert!(smaps(address as u64, size).len() > 1);
        let seen = placement(&backend, size);
        assert_eq!(seen.resident, 3 * page, "{options}");
        assert_eq!(
            seen.policy.is_empty(),
            !Path::new("/proc/self/numa_maps").exists()
        );
    }
}

/// Bytes of the kernel's transparent huge page, where a process may have some by asking.
fn huge_page_on_request() -> Option<u64> {
    let setting = "/sys/kernel/mm/transparent_hugepage";
    let Ok(enabled) = fs::read_to_string(format!("{setting}/enabled")) else {
        skip("this kernel has no transparent huge pages");
        return None;
    };
    if enabled.contains("[never]") {
        skip("transparent huge pages are switched off on this host");
        return None;
    }
    let size = fs::read_to_string(format!("{setting}/hpage_pmd_size")).unwrap();
    Some(size.trim().parse().unwrap())
}

#[test]
fn huge_pages_are_counted() {
    let Some(huge) = huge_page_on_request() else {
        return;
    };
    if huge > 32 << 20 {
        return skip("huge pages are too large here to allocate some for a test");
    }
    let size = 4 * huge + page_size();
    for thp in ["auto", "always"] {
        let backend = ram(&format!("size={size},thp={thp},prealloc=on"))
            .complete()
            .unwrap();
        let seen = placement(&backend, size);
        assert_eq!(seen.resident, size);
        // All of it, unless memory is fragmented.
        assert_ne!(seen.huge, 0, "thp={thp}");
        assert_eq!(seen.huge % huge, 0, "thp={thp}");
        let claim = backend.claim("vm0").unwrap();
        let kernels: u64 = smaps(claim.memory().as_ptr() as u64, size)
            .iter()
            .map(|(_, fields)| {
                let kib = fields["AnonHugePages"].trim_end_matches(" kB");
                kib.parse::<u64>().unwrap() << 10
            })
            .sum();
        assert_eq!(seen.huge, kernels, "thp={thp}");
    }
    let backend = ram(&format!("size={size},thp=never,prealloc=on"))
        .complete()
        .unwrap();
    assert_eq!(placement(&backend, size).huge, 0);
}

#[test]
fn mergeable_is_what_the_kernel_would_do() {
    if !Path::new("/sys/kernel/mm/ksm").exists() {
        return skip("this kernel has no same-page merging");
    }
    for (options, mergeable) in [
        ("share=off,merge=on", true),
        ("share=off,merge=off", false),
        ("share=on,merge=on", false),
        ("share=on,merge=off", false),
    ] {
        let backend = ram(&format!("size=64K,{options}")).complete().unwrap();
        let seen = backend.placement().unwrap();
        assert_eq!(seen.mergeable, mergeable, "{options}");
    }
}

#[test]
fn the_policy_is_in_the_kernels_words() {
    if !Path::new("/proc/self/numa_maps").exists() {
        return skip("this kernel has no NUMA");
    }
    for share in ["off", "on"] {
        let options = format!("size=64K,share={share}");
        let backend = ram(&options).complete().unwrap();
        assert_eq!(backend.placement().unwrap().policy, "default", "{options}");
    }
    let Some(node) = bindable_node() else {
        return;
    };
    for (policy, text, since) in [
        ("bind", format!("bind:{node}"), (0, 0)),
        ("interleave", format!("interleave:{node}"), (0, 0)),
        ("preferred", format!("prefer (many):{node}"), (5, 15)),
        ("preferred-many", format!("prefer (many):{node}"), (5, 15)),
        (
            "weighted-interleave",
            format!("weighted interleave:{node}"),
            (6, 9),
        ),
    ] {
        if kernel() < since {
            skip(&format!("policy={policy} needs a later kernel"));
            continue;
        }
        for share in ["off", "on"] {
            let options = format!("size=64K,share={share},policy={policy},host-nodes={node}");
            let backend = ram(&options).complete().unwrap();
            assert_eq!(backend.placement().unwrap().policy, text, "{options}");
        }
    }
    let backend = ram("size=64K,policy=local").complete().unwrap();
    assert_eq!(backend.placement().unwrap().policy, "local");
}

#[test]
fn bound_memory_is_on_its_node() {
    let Some(node) = bindable_node() else {
        return;
    };
    for share in ["off", "on"] {
        let options = format!("size=1M,share={share},prealloc=on,policy=bind,host-nodes={node}");
        let backend = ram(&options).complete().unwrap();
        let seen = placement(&backend, 1 << 20);
        assert_eq!(
            seen.nodes.into_iter().collect::<Vec<_>>(),
            [(node, 1 << 20)]
        );
    }
}

/// On one node there is nowhere to spill to; tests/numa.rs sees that on several.
#[test]
fn satisfied_is_said_by_policy_and_memory() {
    let Some(node) = bindable_node().filter(|_| kernel() >= (6, 9)) else {
        return skip("every policy needs Linux 6.9");
    };
    let Some(disk) = common::directory_on_disk() else {
        return;
    };
    let file = format!("mem-path={},align=2M", disk.path().display());
    let some = "host-nodes=";
    for (kind, options, satisfied, reason) in [
        (
            "ram",
            "policy=default",
            Satisfied::NotApplicable,
            "policy=default",
        ),
        (
            "ram",
            "policy=local",
            Satisfied::NotApplicable,
            "policy=local",
        ),
        ("ram", "policy=bind", Satisfied::Yes, ""),
        ("ram", "policy=bind,share=on", Satisfied::Yes, ""),
        ("ram", "policy=bind,prealloc=off", Satisfied::Yes, ""),
        ("ram", "policy=preferred", Satisfied::Yes, ""),
        ("ram", "policy=preferred-many", Satisfied::Yes, ""),
        ("ram", "policy=interleave", Satisfied::Yes, ""),
        (
            "ram",
            "policy=interleave,prealloc=off",
            Satisfied::Unknown,
            "all of the memory",
        ),
        ("memfd", "policy=weighted-interleave", Satisfied::Yes, ""),
        (
            "file",
            "policy=bind,share=on",
            Satisfied::Unknown,
            "on disk",
        ),
        ("file", "policy=bind,share=off", Satisfied::Yes, ""),
        (
            "file",
            "policy=local,share=on",
            Satisfied::NotApplicable,
            "policy=local",
        ),
    ] {
        let takes_nodes = !options.contains("default") && !options.contains("local");
        let mut all = format!("size=4M,{options}");
        if takes_nodes {
            all += &format!(",{some}{node}");
        }
        if !options.contains("prealloc") {
            all += ",prealloc=on";
        }
        if kind == "file" {
            all += &format!(",{file}");
        }
        let seen = access::new(kind, &all)
            .complete()
            .unwrap()
            .placement()
            .unwrap();
        assert_eq!(seen.satisfied, satisfied, "{kind} {all}: {seen:?}");
        assert_eq!(seen.reason.is_empty(), reason.is_empty(), "{seen:?}");
        assert!(seen.reason.contains(reason), "{seen:?}");
        assert_eq!((seen.outside, seen.policy_changed), (0, false), "{all}");
        let weighs = options.contains("interleave");
        assert_eq!(seen.weights.contains_key(&node), weighs, "{all}: {seen:?}");
    }
}

/// The policy of shared memory is the object's.
#[test]
fn a_policy_that_a_peer_changed_is_told() {
    let Some(node) = bindable_node() else {
        return;
    };
    let size = 16 * page_size();
    for (options, set, changed) in [
        (format!("policy=bind,host-nodes={node}"), "bind", "prefer"),
        ("policy=default".to_owned(), "default", "prefer"),
    ] {
        let backend = small_pages(size, &format!("share=on,{options}"));
        let seen = placement(&backend, size);
        assert!(
            seen.policy.starts_with(set) && !seen.policy_changed,
            "{seen:?}"
        );
        let claim = backend.claim("vm0").unwrap();
        let fd = descriptor(&claim);
        // In its second half only: there is more than one policy then.
        let peer = format!(
            "fd={},offset={},size={}",
            fd.as_raw_fd(),
            size / 2,
            size / 2
        );
        let peer = format!("{peer},policy=preferred,host-nodes={node}");
        let _peer = access::new("fd", &peer).complete().unwrap();
        // It shows where a mapping begins there.
        let middle = claim.memory().as_ptr().wrapping_add(size as usize / 2);
        // SAFETY: inside the memory, which nobody else uses.
        let result = unsafe { libc::syscall(libc::SYS_mlock, middle, size / 2) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        let seen = placement(&backend, size);
        assert!(seen.policy_changed, "{options}: {seen:?}");
        assert!(seen.policy.starts_with(changed), "{options}: {seen:?}");
    }
}

/// Memory without a policy has that of the process, which is not one that somebody changed.
#[test]
fn the_processs_own_policy_changes_nothing() {
    const TEST: &str = "the_processs_own_policy_changes_nothing";
    let Some(node) = bindable_node() else {
        return;
    };
    // The kernel lists the first thread's.
    in_child(TEST, || {
        in_forked_child(|| {
            let mask = 1u64 << node;
            const MPOL_BIND: libc::c_int = 2;
            // SAFETY: reads the mask.
            let set = unsafe {
                libc::syscall(
                    libc::SYS_set_mempolicy,
                    MPOL_BIND,
                    &mask,
                    64 as libc::c_long,
                )
            };
            let backend = small_pages(1 << 20, "");
            let seen = placement(&backend, 1 << 20);
            set == 0 && seen.policy == format!("bind:{node}") && !seen.policy_changed
        });
    });
}

/// A VMM's filter forbids most of what asks the kernel about memory.
#[test]
fn nothing_but_proc_is_asked() {
    let Some(node) = bindable_node() else {
        return;
    };
    let options = format!("policy=bind,host-nodes={node}");
    let calls = [
        libc::SYS_move_pages,
        libc::SYS_get_mempolicy,
        libc::SYS_mbind,
        libc::SYS_set_mempolicy,
        libc::SYS_mincore,
        CACHESTAT,
        libc::SYS_madvise,
    ];
    for share in ["off", "on"] {
        let backend = small_pages(1 << 20, &format!("share={share},prealloc=on,{options}"));
        let expected = placement(&backend, 1 << 20);
        let refusals = calls.map(|call| Refusal::new(call, libc::EPERM));
        let seen = refusing(&refusals, || placement(&backend, 1 << 20));
        assert_eq!(seen, expected);
        assert_eq!(seen.satisfied, Satisfied::Yes);
    }
}

#[test]
fn mapmax_tells_of_other_mappings() {
    if !Path::new("/proc/self/numa_maps").exists() {
        return skip("this kernel has no NUMA");
    }
    let size = 16 * page_size();
    let backend = small_pages(size, "share=on,prealloc=on");
    assert_eq!(placement(&backend, size).mapmax, 1);
    let fd = descriptor(&backend.claim("vm0").unwrap());
    let peer = format!("fd={},size={size}", fd.as_raw_fd());
    let peer = access::new("fd", &peer).complete().unwrap();
    assert_eq!(placement(&backend, size).mapmax, 1);
    touch(&peer.claim("peer").unwrap(), 0);
    assert_eq!(placement(&backend, size).mapmax, 2);
}

/// A page that is not there costs nothing, whether the kernel counts them by itself or not.
#[test]
fn what_is_sparse_is_reported_at_once() {
    const TIB: u64 = 1 << 40;
    let size = 9 * TIB;
    let file = access::memfd("sparse", 0, size);
    // Some of it begins or ends inside of pages, and one place is all that others have.
    file.write_all_at(&[1; 3 << 20], 5 * TIB + 100).unwrap();
    file.write_all_at(&[1], 0).unwrap();
    file.write_all_at(&[1], size - 1).unwrap();
    let pages = 2 + 1 + (3 << 20) / page_size();
    let options = "size=9T,reserve=off,guard=off";
    let mut builder = common::objects()
        .builder("memory-backend-fd", "m0")
        .unwrap();
    for option in options.split(',') {
        let (name, value) = option.split_once('=').unwrap();
        builder.set(name, value).unwrap();
    }
    let builder = builder.fd(&file);
    let backend = builder.complete().unwrap();
    for errno in [None, Some(libc::ENOSYS), Some(libc::EPERM)] {
        let refusals: Vec<_> = errno
            .iter()
            .map(|&errno| Refusal::new(CACHESTAT, errno))
            .collect();
        let begin = Instant::now();
        let placement = refusing(&refusals, || backend.placement().unwrap());
        assert!(begin.elapsed() < Duration::from_secs(5));
        assert_eq!(placement.unmapped, pages * page_size(), "{errno:?}");
        assert_eq!(placement.absent, size - pages * page_size());
        // It is the descriptor's, which others share.
        // SAFETY: takes numbers.
        let position = unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_CUR) };
        assert_eq!(position, 0);
    }
}

/// The kernel accepts in silence what it does not do: asking for it is a warning.
#[test]
fn what_has_no_effect_is_a_warning() {
    in_child("what_has_no_effect_is_a_warning", || {
        let warnings = |kind: &str, options: &str| {
            let backend = access::new(kind, options).complete().unwrap();
            let warnings = backend.warnings();
            (warnings, backend)
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = format!("size=64K,mem-path={},discard-data=on", path.display());
        for (kind, options, words) in [
            (
                "ram",
                "size=64K,share=on,merge=on",
                "merge=on has no effect",
            ),
            ("memfd", "size=64K,share=off", "takes the memory twice"),
            (
                "file",
                &format!("{file},share=off"),
                "discard-data=on has no effect",
            ),
        ] {
            let (warnings, _) = warnings(kind, options);
            assert_eq!(warnings.len(), 1, "{options}: {warnings:?}");
            assert!(warnings[0].contains(words), "{warnings:?}");
        }
        for (kind, options) in [
            ("ram", "size=64K,share=on"),
            ("ram", "size=64K,merge=on"),
            ("memfd", "size=64K"),
            ("file", &*format!("{file},share=on")),
        ] {
            assert_eq!(warnings(kind, options).0, [""; 0], "{options}");
        }
        // A live change says so too.
        let (_, backend) = warnings("memfd", "size=64K");
        backend.set("merge", true).unwrap();
        assert!(backend.warnings()[0].contains("merge=on has no effect"));
        backend.set("merge", false).unwrap();
        assert_eq!(backend.warnings(), [""; 0]);
        let Some(_pool) = HugePages::have(1) else {
            return;
        };
        let options = "size=2M,hugetlb=on,hugetlbsize=2M,thp=always,lock=on,merge=on";
        let (warnings, _) = warnings("memfd", options);
        for words in [
            "merge=on has",
            "thp: it has no effect",
            "lock=on has no effect",
        ] {
            assert!(warnings.iter().any(|it| it.contains(words)), "{warnings:?}");
        }
    });
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where memory is said to be, against what was done to it.

mod common;

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::bindable_node;
use common::kernel;
use common::page_size;
use common::ram;
use common::skip;
use common::smaps;
use hostmem::Backend;
use hostmem::Claim;
use hostmem::Placement;

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
        placement.absent + placement.resident + placement.swapped,
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
    if kernel() < (5, 14) {
        return skip("prealloc needs Linux 5.14");
    }
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

/// Resident is what is mapped here, as far as a peer's writes are concerned.
#[test]
fn shared_memory_that_only_a_peer_has_touched_is_absent() {
    let page = page_size();
    let size = 16 * page;
    let backend = small_pages(size, "share=on");
    let claim = backend.claim("vm0").unwrap();
    let fd = claim.memory().fd().unwrap().try_clone_to_owned().unwrap();
    let peer = File::from(fd);
    peer.write_all_at(&vec![7; 8 * page as usize], 0).unwrap();
    assert_eq!(placement(&backend, size).resident, 0);
    touch(&claim, 3 * page);
    assert!(placement(&backend, size).resident >= page);
    let mut byte = [0];
    peer.read_exact_at(&mut byte, 3 * page).unwrap();
    assert_eq!(byte, [1]);
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
    let Some(huge) = huge_page_on_request().filter(|_| kernel() >= (5, 14)) else {
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
    let Some(node) = bindable_node().filter(|_| kernel() >= (5, 14)) else {
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

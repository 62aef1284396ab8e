// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Address space: guards, alignment, and exactly what was mapped is unmapped.

mod common;

use std::fs;

use common::in_child;
use common::page_size;
use common::ram;
use common::skip;
use common::Belongings;

const MIB: u64 = 1 << 20;

/// Start, end and permissions of each mapping.
fn mappings() -> Vec<(u64, u64, String)> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .map(|line| {
            let (first, rest) = line.split_once('-').unwrap();
            let (end, rest) = rest.split_once(' ').unwrap();
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            (number(first), number(end), rest[..4].to_owned())
        })
        .collect()
}

fn permissions(address: u64) -> Option<String> {
    mappings()
        .into_iter()
        .find(|(first, end, _)| (*first..*end).contains(&address))
        .map(|(_, _, permissions)| permissions)
}

fn thp_size() -> Option<u64> {
    fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[test]
fn memory_lies_between_guard_pages() {
    for options in [
        "size=64K",
        "size=64K,share=on",
        "size=4M",
        "size=4M,share=on",
    ] {
        let backend = ram(options).complete().unwrap();
        let claim = backend.claim("test").unwrap();
        let first = claim.memory().as_ptr() as u64;
        let end = first + claim.memory().len();
        let shared = if options.contains("share") { "s" } else { "p" };
        assert_eq!(
            permissions(first - 1).as_deref(),
            Some("---p"),
            "{options}: before"
        );
        assert_eq!(
            permissions(end).as_deref(),
            Some("---p"),
            "{options}: after"
        );
        for address in [first, end - 1] {
            let expected = format!("rw-{shared}");
            assert_eq!(permissions(address), Some(expected), "{options}");
        }
    }
}

#[test]
fn touching_a_guard_page_ends_the_process() {
    for before in [true, false] {
        // SAFETY: the child only touches its own memory, and _exit leaves all else as it is.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let backend = ram("size=64K").complete().unwrap();
            let claim = backend.claim("test").unwrap();
            let memory = claim.memory();
            let offset = if before { -1 } else { memory.len() as isize };
            // SAFETY: not sound on purpose: the fault is what is tested; nothing is there.
            unsafe {
                memory.as_ptr().wrapping_offset(offset).write_volatile(1);
                libc::_exit(0);
            }
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert!(libc::WIFSIGNALED(status), "before: {before}: {status}");
        assert_eq!(libc::WTERMSIG(status), libc::SIGSEGV);
    }
}

#[test]
fn large_memory_is_aligned_for_huge_pages() {
    let Some(huge) = thp_size() else {
        return skip("this kernel has no transparent huge pages");
    };
    let page = page_size();
    for share in ["off", "on"] {
        for (size, alignment) in [
            (huge - page, page),
            (huge, huge),
            (huge + page, huge),
            (64 * MIB, huge),
        ] {
            let backend = ram(&format!("size={size},share={share}"))
                .complete()
                .unwrap();
            let claim = backend.claim("test").unwrap();
            let address = claim.memory().as_ptr() as u64;
            assert_eq!(address % alignment, 0, "size {size}, share {share}");
        }
    }
}

#[test]
fn deleting_unmaps_exactly_what_was_mapped() {
    in_child("deleting_unmaps_exactly_what_was_mapped", || {
        // The first one makes the allocator's own mappings.
        drop(ram("size=4M,share=on,prealloc=on").complete().unwrap());
        let before = Belongings::now();
        for options in ["size=4096", "size=4M", "size=5M,share=on,prealloc=on"] {
            ram(options).complete().unwrap().delete().unwrap();
            assert_eq!(Belongings::now(), before, "{options}");
        }
    });
}

#[test]
fn many_backends_live_side_by_side() {
    let objects = common::objects();
    let backends: Vec<_> = (0..64)
        .map(|i| {
            let options = format!("memory-backend-ram,id=ram{i},size=2M");
            objects.parse(&options).unwrap().complete().unwrap()
        })
        .collect();
    let mut ranges: Vec<_> = backends
        .iter()
        .map(|backend| {
            let claim = backend.claim("test").unwrap();
            let address = claim.memory().as_ptr() as u64;
            (address, address + claim.memory().len())
        })
        .collect();
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        assert!(pair[0].1 + page_size() <= pair[1].0, "{pair:x?}");
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Address space: guards, alignment, and exactly what was mapped is unmapped.

mod common;

use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use common::access::memfd;
use common::access::new;
use common::host::HugePages;
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
        for options in ["size=64K", "size=4M", "size=5M,share=on,prealloc=on"] {
            ram(options).complete().unwrap().delete().unwrap();
            assert_eq!(Belongings::now(), before, "{options}");
        }
    });
}

/// Maps memory, and finds in it what it has written.
fn use_fresh_memory(byte: u8) {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: fresh memory of this function's own, used inside its bounds, unmapped at the end.
    unsafe {
        let address = libc::mmap(std::ptr::null_mut(), MIB as usize, protection, flags, -1, 0);
        assert_ne!(address, libc::MAP_FAILED);
        let pages = (0..MIB).step_by(page_size() as usize);
        let bytes = pages.map(|offset| address.cast::<u8>().add(offset as usize));
        bytes.clone().for_each(|it| it.write_volatile(byte));
        bytes.for_each(|it| assert_eq!(it.read_volatile(), byte));
        assert_eq!(libc::munmap(address, MIB as usize), 0);
    }
}

/// The kernel refuses to map huge pages that its pool does not have after it has unmapped what was
/// there, and another thread may have mapped something in that place before the failure is undone.
#[test]
fn a_failed_mapping_does_not_unmap_the_memory_of_other_threads() {
    in_child(
        "a_failed_mapping_does_not_unmap_the_memory_of_other_threads",
        || {
            let Some(_empty) = HugePages::have(0) else {
                return;
            };
            let huge = libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
            let file = memfd("huge", huge, 256 * MIB);
            let ended = AtomicBool::new(false);
            thread::scope(|scope| {
                for byte in 1..=2u8 {
                    let ended = &ended;
                    scope.spawn(move || {
                        while !ended.load(Ordering::Relaxed) {
                            use_fresh_memory(byte);
                        }
                    });
                }
                let until = Instant::now() + Duration::from_secs(3);
                let mut refusals = 0;
                while Instant::now() < until || refusals < 2 {
                    let builder = new("fd", "size=256M").fd(&file);
                    refusals += u32::from(builder.complete().is_err());
                }
                ended.store(true, Ordering::Relaxed);
            });
        },
    );
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

#[test]
fn guard_pages_can_be_left_out() {
    in_child("guard_pages_can_be_left_out", || {
        drop(ram("size=4M").complete().unwrap());
        let before = Belongings::now();
        let count = || mappings().len();
        for options in ["size=64K", "size=4M,share=on", "size=5M"] {
            let none = count();
            let guarded = ram(options).complete().unwrap();
            let with = count() - none;
            drop(guarded);
            let bare = ram(&format!("{options},guard=off")).complete().unwrap();
            // The kernel may join what lies side by side.
            assert!(
                count() - none < with,
                "{options}: {} and {with}",
                count() - none
            );
            let claim = bare.claim("test").unwrap();
            let first = claim.memory().as_ptr() as u64;
            assert_ne!(permissions(first - 1).as_deref(), Some("---p"), "{options}");
            drop((claim, bare));
            assert_eq!(Belongings::now(), before, "{options}");
        }
    });
}

/// The kernel answers ENOMEM for three limits and says which to nobody.
#[test]
fn a_limit_that_is_in_the_way_is_named() {
    in_child("a_limit_that_is_in_the_way_is_named", || {
        if common::is_instrumented() {
            return;
        }
        let limit = libc::rlimit {
            rlim_cur: 64 * MIB,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: reads the limit.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_DATA, &limit) }, 0);
        let message = ram("size=1G").complete().unwrap_err().error.to_string();
        assert!(message.contains("RLIMIT_DATA"), "{message}");
        assert!(message.contains("67108864 bytes (ulimit -d)"), "{message}");
        assert!(!message.contains("max_map_count"), "{message}");
        ram("size=1G,share=on").complete().unwrap();
    });
}

#[test]
fn too_many_mappings_are_named() {
    if std::env::var_os("HOSTMEM_ORACLE").is_some() {
        return common::skip("the shim has mappings of its own");
    }
    if cfg!(target_env = "musl") {
        return common::skip("musl needs a mapping for the message, and aborts without");
    }
    in_child("too_many_mappings_are_named", || {
        if common::is_instrumented() {
            return;
        }
        let Some(_most) = common::host::Setting::set("/proc/sys/vm/max_map_count", "400") else {
            return;
        };
        let objects = common::objects();
        let make = |i: u32| {
            let options = format!("memory-backend-ram,id=ram{i},size=64K,share=on");
            objects.parse(options).unwrap().complete()
        };
        let mut kept = Vec::new();
        let failed = (0..400).find_map(|i| match make(i) {
            Ok(backend) => {
                kept.push(backend);
                None
            }
            Err(failed) => Some(failed.error.to_string()),
        });
        let message = failed.unwrap();
        assert!(message.contains("vm.max_map_count"), "{message}");
        assert!(message.contains("guard=off"), "{message}");
        assert!(kept.len() > 40, "{}", kept.len());
    });
}

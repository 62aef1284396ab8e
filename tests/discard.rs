// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ranges of memory: given back to the host, and filled again.

mod common;

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread;

use common::in_child;
use common::in_forked_child;
use common::page_size;
use common::ram;
use common::refusing;
use common::Refusal;
use hostmem::Backend;
use hostmem::Claim;
use hostmem::ErrorKind;
use hostmem::Placement;

const SIZE: u64 = 8 << 20;

/// Ready memory of memory-backend-ram and the claim on it.
fn ready(options: &str) -> (Backend, Claim) {
    let builder = ram(&format!("size={SIZE},{options}"));
    let backend = builder.complete().unwrap();
    let claim = backend.claim("test").unwrap();
    (backend, claim)
}

fn write(claim: &Claim, offset: u64, value: u8) {
    assert!(offset < claim.memory().len());
    // SAFETY: inside the memory, which only the test uses.
    unsafe {
        let byte = claim.memory().as_ptr().add(offset as usize);
        byte.write_volatile(value);
    }
}

fn read(claim: &Claim, offset: u64) -> u8 {
    assert!(offset < claim.memory().len());
    // SAFETY: inside the memory, which only the test uses.
    unsafe {
        let byte = claim.memory().as_ptr().add(offset as usize);
        byte.read_volatile()
    }
}

/// Writes 7 to each page.
fn fill(claim: &Claim) {
    for offset in (0..SIZE).step_by(page_size() as usize) {
        write(claim, offset, 7);
    }
}

fn resident(backend: &Backend) -> u64 {
    let Placement {
        resident, absent, ..
    } = backend.placement().unwrap();
    assert_eq!(resident + absent, SIZE);
    resident
}

/// Bytes behind the descriptor of shared memory, whoever maps them.
fn allocated(claim: &Claim) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let fd = claim.memory().fd().unwrap().try_clone_to_owned().unwrap();
    std::fs::File::from(fd).metadata().unwrap().blocks() * 512
}

const SHARES: [&str; 2] = ["share=off", "share=on"];

#[test]
fn a_range_goes_and_nothing_else_does() {
    let page = page_size();
    for share in SHARES {
        // Small pages, so that what is absent is exactly what was discarded.
        let (backend, claim) = ready(&format!("{share},thp=never"));
        fill(&claim);
        assert_eq!(resident(&backend), SIZE, "{share}");
        let (offset, length) = (3 * page, 5 * page);
        claim.discard(offset, length).unwrap();
        assert_eq!(resident(&backend), SIZE - length, "{share}");
        if share == "share=on" {
            assert_eq!(allocated(&claim), SIZE - length);
        }
        for at in (0..SIZE).step_by(page as usize) {
            let gone = (offset..offset + length).contains(&at);
            let expected = if gone { 0 } else { 7 };
            assert_eq!(read(&claim, at), expected, "{share}, at {at:#x}");
        }
    }
}

#[test]
fn the_whole_goes_and_comes_again() {
    for share in SHARES {
        let (backend, claim) = ready(&format!("{share},prealloc=on"));
        fill(&claim);
        for round in 1..=3 {
            claim.discard(0, SIZE).unwrap();
            assert_eq!(resident(&backend), 0, "{share}, round {round}");
            claim.populate(0, SIZE).unwrap();
            assert_eq!(resident(&backend), SIZE, "{share}, round {round}");
            assert_eq!(read(&claim, SIZE - 1), 0);
            write(&claim, SIZE - 1, round);
        }
        // Whoever has the backend may populate, claimed or not.
        claim.discard(0, SIZE).unwrap();
        backend.populate(0, SIZE).unwrap();
        assert_eq!(resident(&backend), SIZE);
        drop(claim);
        backend.populate(0, SIZE).unwrap();
    }
}

#[test]
fn what_is_discarded_may_be_absent_already() {
    for share in SHARES {
        let (backend, claim) = ready(share);
        claim.discard(0, SIZE).unwrap();
        claim.discard(0, SIZE).unwrap();
        assert_eq!(resident(&backend), 0, "{share}");
    }
}

#[test]
fn populating_keeps_contents_and_stays_inside_its_range() {
    let page = page_size();
    for share in SHARES {
        let (backend, claim) = ready(&format!("{share},thp=never"));
        write(&claim, 2 * page, 7);
        claim.populate(page, 4 * page).unwrap();
        assert_eq!(resident(&backend), 4 * page, "{share}");
        assert_eq!(read(&claim, 2 * page), 7);
        claim.populate(SIZE - page, page).unwrap();
        assert_eq!(resident(&backend), 5 * page, "{share}");
        // It was asked for by range, so the property says what it said.
        assert_eq!(backend.get_text("prealloc").unwrap(), "off");
        let result = backend.prealloc_result().unwrap();
        assert_eq!(result.bytes, page);
    }
}

#[test]
fn populating_reports_its_progress() {
    let last = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&last);
    let backend = ram(&format!("size={SIZE}"))
        .on_progress(move |done, total| {
            assert!(done <= total);
            seen.store(total, Ordering::Relaxed);
        })
        .complete()
        .unwrap();
    backend.populate(SIZE / 2, SIZE / 4).unwrap();
    assert_eq!(last.load(Ordering::Relaxed), SIZE / 4);
    assert_eq!(backend.progress().done, SIZE / 4);
}

#[test]
fn a_range_has_to_be_of_whole_pages_inside_the_memory() {
    let page = page_size();
    let wrong = [
        (1, page),
        (0, 1),
        (page / 2, page / 2),
        (0, SIZE + page),
        (SIZE, page),
        (SIZE - page, 2 * page),
        (SIZE + page, 0),
        (page, 0u64.wrapping_sub(page)),
        (0u64.wrapping_sub(page), page),
        (0u64.wrapping_sub(page), 2 * page),
        (u64::MAX, u64::MAX),
    ];
    for share in SHARES {
        let (backend, claim) = ready(&format!("{share},prealloc=on"));
        fill(&claim);
        for (offset, length) in wrong {
            let discarded = claim.discard(offset, length).unwrap_err();
            let populated = claim.populate(offset, length).unwrap_err();
            for error in [discarded, populated] {
                assert_eq!(error.kind(), ErrorKind::Value, "{error}");
                let message = error.to_string();
                let numbers = [offset.to_string(), length.to_string()];
                for part in ["ram0", &numbers[0], &numbers[1]] {
                    assert!(message.contains(part), "{message}");
                }
            }
        }
        assert_eq!(resident(&backend), SIZE);
        for (offset, length) in [(0, 0), (page, 0), (SIZE, 0)] {
            claim.discard(offset, length).unwrap();
            claim.populate(offset, length).unwrap();
        }
        assert_eq!(resident(&backend), SIZE);
    }
}

#[test]
fn locked_memory_is_given_back_and_stays_locked() {
    for share in SHARES {
        let options = format!("{share},lock=on,prealloc=on");
        let Ok(backend) = ram(&format!("size={SIZE},{options}")).complete() else {
            return common::skip("RLIMIT_MEMLOCK is too low");
        };
        let claim = backend.claim("test").unwrap();
        fill(&claim);
        claim.discard(0, SIZE / 2).unwrap();
        assert_eq!(resident(&backend), SIZE / 2, "{share}");
        assert_eq!(read(&claim, 0), 0);
        assert_eq!(read(&claim, SIZE / 2), 7);
        let flags = common::vm_flags(claim.memory().as_ptr());
        assert!(flags.contains(&"lo".to_owned()), "{share}: {flags:?}");
        claim.populate(0, SIZE).unwrap();
        assert_eq!(resident(&backend), SIZE, "{share}");
    }
}

#[test]
fn memory_that_the_embedder_locked_is_given_back_too() {
    in_child("memory_that_the_embedder_locked_is_given_back_too", || {
        // SAFETY: takes no pointers.
        let failed = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
        if failed != 0 {
            return common::skip("RLIMIT_MEMLOCK is too low");
        }
        for share in SHARES {
            let (backend, claim) = ready(share);
            fill(&claim);
            claim.discard(0, SIZE).unwrap();
            assert_eq!(resident(&backend), 0, "{share}");
        }
    });
}

/// MADV_DONTNEED_LOCKED, which Linux has since 5.18.
const DONTNEED_LOCKED: u64 = 24;

#[test]
fn locked_memory_is_given_back_by_an_older_kernel_too() {
    if common::has_address_sanitizer() {
        return;
    }
    in_child("locked_memory_is_given_back_by_an_older_kernel_too", || {
        for share in SHARES {
            let options = format!("size={SIZE},{share},lock=on,prealloc=on");
            let Ok(backend) = ram(&options).complete() else {
                return common::skip("RLIMIT_MEMLOCK is too low");
            };
            let claim = backend.claim("test").unwrap();
            fill(&claim);
            let older = [Refusal::new(libc::SYS_madvise, libc::EINVAL).only(2, DONTNEED_LOCKED)];
            refusing(&older, || claim.discard(0, SIZE)).unwrap();
            assert_eq!(resident(&backend), 0, "{share}");
            assert_eq!(read(&claim, 0), 0);
            let flags = common::vm_flags(claim.memory().as_ptr());
            assert!(flags.contains(&"lo".to_owned()), "{share}: {flags:?}");
        }
    });
}

#[test]
fn what_the_kernel_refuses_is_told_with_its_errno() {
    let cases = [
        (SHARES[0], libc::SYS_madvise, libc::EPERM, ErrorKind::Io),
        (SHARES[1], libc::SYS_fallocate, libc::EIO, ErrorKind::Io),
        (
            SHARES[1],
            libc::SYS_fallocate,
            libc::EOPNOTSUPP,
            ErrorKind::Unsupported,
        ),
    ];
    for (share, call, errno, kind) in cases {
        let (_backend, claim) = ready(share);
        fill(&claim);
        let refusals = [Refusal::new(call, errno)];
        let error = refusing(&refusals, || claim.discard(0, SIZE)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.raw_os_error(), Some(errno), "{error}");
        assert!(error.to_string().contains("ram0"), "{error}");
        // It works again where it is allowed.
        claim.discard(0, SIZE).unwrap();
        assert_eq!(read(&claim, 0), 0);
    }
}

#[test]
fn a_discard_reaches_whoever_maps_shared_memory() {
    let (_backend, claim) = ready("share=on");
    fill(&claim);
    let fd = claim.memory().fd().unwrap();
    let peer = common::objects()
        .builder("memory-backend-fd", "peer")
        .unwrap()
        .size(SIZE)
        .fd(fd)
        .complete()
        .unwrap();
    let peers = peer.claim("peer").unwrap();
    assert_eq!(read(&peers, 0), 7);
    claim.discard(0, page_size()).unwrap();
    assert_eq!(read(&peers, 0), 0);
    assert_eq!(read(&peers, page_size()), 7);
}

#[test]
fn memory_without_a_backend_value_can_still_be_discarded() {
    let (backend, claim) = ready("share=off");
    fill(&claim);
    drop(backend);
    claim.discard(0, SIZE).unwrap();
    assert_eq!(read(&claim, 0), 0);
    claim.populate(0, SIZE).unwrap();
}

#[test]
fn many_threads_discard_and_populate() {
    let (backend, claim) = ready("share=off");
    let part = SIZE / 4;
    thread::scope(|scope| {
        for n in 0..4 {
            let claim = &claim;
            scope.spawn(move || {
                for _ in 0..50 {
                    // One preallocation at a time; it keeps discards out too.
                    for result in [
                        claim.populate(n * part, part),
                        claim.discard(n * part, part),
                    ] {
                        if let Err(error) = result {
                            assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
                        }
                    }
                }
            });
        }
    });
    claim.discard(0, SIZE).unwrap();
    assert_eq!(resident(&backend), 0);
}

#[test]
fn a_forked_child_has_nothing_to_discard() {
    in_child("a_forked_child_has_nothing_to_discard", || {
        for share in SHARES {
            let (_backend, claim) = ready(share);
            fill(&claim);
            in_forked_child(|| {
                // The child's own memory, where the parent has the backend's.
                let address = claim.memory().as_ptr().cast();
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
                let access = libc::PROT_READ | libc::PROT_WRITE;
                // SAFETY: NOREPLACE leaves everything that is mapped alone.
                let own = unsafe { libc::mmap(address, SIZE as usize, access, flags, -1, 0) };
                assert_eq!(own, address);
                write(&claim, 0, 3);
                for result in [claim.discard(0, SIZE), claim.populate(0, SIZE)] {
                    assert_eq!(result.unwrap_err().kind(), ErrorKind::State);
                }
                read(&claim, 0) == 3
            });
            assert_eq!(read(&claim, 0), 7, "{share}");
        }
    });
}

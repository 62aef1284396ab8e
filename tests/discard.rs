// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ranges of memory: given back to the host, and filled again.

mod common;

use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread;

use common::access::memfd;
use common::host::HugePages;
use common::host::HUGE;
use common::in_child;
use common::in_forked_child;
use common::page_size;
use common::ram;
use common::refusing;
use common::skip;
use common::Refusal;
use hostmem::Access;
use hostmem::Backend;
use hostmem::Claim;
use hostmem::DiscardTo;
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

/// Bytes behind the descriptor of shared memory, mapped or not.
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
        // The backend can be populated with a claim and without.
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
fn a_discard_reaches_each_mapping_of_shared_memory() {
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

/// A file of sevens, mapped privately, and the claim on it.
fn private_file(options: &str) -> (tempfile::NamedTempFile, Backend, Claim) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![7; SIZE as usize]).unwrap();
    let options = format!(
        "memory-backend-file,id=f0,size={SIZE},mem-path={},{options}",
        file.path().display()
    );
    let backend = common::objects()
        .parse(options)
        .unwrap()
        .complete()
        .unwrap();
    let claim = backend.claim("test").unwrap();
    (file, backend, claim)
}

#[test]
fn a_private_file_can_be_discarded_to_zero() {
    // Alone, since other threads may map what was unmapped.
    common::in_child("a_private_file_can_be_discarded_to_zero", || {
        let node = common::bindable_node();
        let policy = node.map_or(String::new(), |node| {
            format!("policy=bind,host-nodes={node},")
        });
        let (file, backend, claim) = private_file(&format!("{policy}thp=never,dump=off"));
        let page = page_size();
        write(&claim, 0, 9);
        write(&claim, 3 * page, 9);
        claim.discard_to(0, page, DiscardTo::Backing).unwrap();
        assert_eq!(read(&claim, 0), 7);
        let piece = claim.piece(0).unwrap();
        piece
            .discard_to(2 * page, 2 * page, DiscardTo::Zero)
            .unwrap();
        assert_eq!([read(&claim, page), read(&claim, 2 * page)], [7, 0]);
        assert_eq!([read(&claim, 3 * page), read(&claim, 4 * page)], [0, 7]);
        assert!(std::fs::read(file.path())
            .unwrap()
            .iter()
            .all(|byte| *byte == 7));

        // The new memory has the properties of the rest, and goes on being the backend's.
        let at = claim.memory().as_ptr().wrapping_add(2 * page as usize);
        let flags = common::vm_flags(at);
        for flag in ["dc", "dd", "nh"] {
            assert!(flags.contains(&flag.to_owned()), "{flag}: {flags:?}");
        }
        if let Some(node) = node {
            let maps = std::fs::read_to_string("/proc/self/numa_maps").unwrap();
            let start = format!("{:08x} ", at as usize);
            let line = maps.lines().find(|line| line.starts_with(&start)).unwrap();
            assert!(line.contains(&format!("bind:{node}")), "{line}");
        }
        claim.populate(0, SIZE).unwrap();
        assert_eq!(resident(&backend), SIZE);
        write(&claim, 2 * page, 9);
        claim.discard(2 * page, page).unwrap();
        assert_eq!(read(&claim, 2 * page), 0);
        drop((claim, piece));
        let address = at as usize;
        backend.delete().unwrap();
        assert!(!common::is_mapped(address));
    });
}

#[test]
fn zero_in_the_place_of_a_file_is_locked_and_reserved_as_it_was() {
    common::in_child(
        "zero_in_the_place_of_a_file_is_locked_and_reserved_as_it_was",
        || {
            for (options, flag) in [("lock=on", "lo"), ("reserve=off", "nr")] {
                if options == "lock=on" && !common::host::is_root() {
                    skip("this process may not lock its memory");
                    continue;
                }
                let (_file, _backend, claim) = private_file(options);
                let page = page_size();
                claim.discard_to(page, page, DiscardTo::Zero).unwrap();
                assert_eq!([read(&claim, 0), read(&claim, page)], [7, 0]);
                let at = claim.memory().as_ptr().wrapping_add(page as usize);
                let flags = common::vm_flags(at);
                assert!(flags.contains(&flag.to_owned()), "{options}: {flags:?}");
            }
        },
    );
}

/// Of the file's huge pages, one for what takes their place, and what the mapping reserves.
#[test]
fn zero_in_the_place_of_a_huge_file_is_huge() {
    common::in_child("zero_in_the_place_of_a_huge_file_is_huge", || {
        let Some(_pool) = HugePages::have(6) else {
            return;
        };
        let file = memfd("huge", libc::MFD_HUGETLB | libc::MFD_HUGE_2MB, 2 * HUGE);
        let complete = |share| {
            let fd = file.as_raw_fd();
            let options = format!("memory-backend-fd,id=f0,size=4M,share={share},fd={fd}");
            let backend = common::objects().parse(options).unwrap().complete();
            backend.unwrap().claim("test").unwrap()
        };
        let shared = complete("on");
        for at in [0, HUGE] {
            write(&shared, at, 7);
        }
        let private = complete("off");
        private.discard_to(HUGE, HUGE, DiscardTo::Zero).unwrap();
        assert_eq!([read(&private, 0), read(&private, HUGE)], [7, 0]);
        assert_eq!(read(&shared, HUGE), 7);
        let at = private.memory().as_ptr().wrapping_add(HUGE as usize);
        let flags = common::vm_flags(at);
        assert!(flags.contains(&"ht".to_owned()), "{flags:?}");
    });
}

#[test]
fn what_cannot_be_mapped_leaves_the_range_as_it_was() {
    if common::has_address_sanitizer() {
        return;
    }
    let (_file, _backend, claim) = private_file("thp=never");
    write(&claim, 0, 9);
    let refusals = [
        Refusal::new(libc::SYS_mmap, libc::ENOMEM),
        Refusal::new(libc::SYS_mremap, libc::ENOMEM),
    ];
    for refusal in refusals {
        let error = refusing(&[refusal], || claim.discard_to(0, SIZE, DiscardTo::Zero));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::NoMemory);
        assert_eq!([read(&claim, 0), read(&claim, page_size())], [9, 7]);
    }
    let pinned = claim.inhibit_discard("vfio0").unwrap();
    let error = claim.discard_to(0, SIZE, DiscardTo::Zero).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    drop(pinned);
    claim.discard_to(0, SIZE, DiscardTo::Zero).unwrap();
    assert_eq!(read(&claim, 0), 0);
}

/// The new memory would be on any node: it does not take the place of the old.
#[test]
fn what_cannot_be_bound_leaves_the_range_as_it_was() {
    let Some(node) = common::bindable_node() else {
        return;
    };
    let (_file, _backend, claim) = private_file(&format!("policy=bind,host-nodes={node}"));
    write(&claim, 0, 9);
    let refusal = [Refusal::new(libc::SYS_mbind, libc::EPERM)];
    let error = refusing(&refusal, || claim.discard_to(0, SIZE, DiscardTo::Zero));
    let error = error.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
    assert_eq!([read(&claim, 0), read(&claim, page_size())], [9, 7]);
    claim.discard_to(0, SIZE, DiscardTo::Zero).unwrap();
    assert_eq!(read(&claim, 0), 0);
}

#[test]
fn all_other_memory_is_discarded_to_zero_as_ever() {
    for options in ["share=off", "share=on"] {
        let (backend, claim) = ready(options);
        fill(&claim);
        claim.discard_to(0, SIZE, DiscardTo::Zero).unwrap();
        assert_eq!(resident(&backend), 0, "{options}");
        assert_eq!(read(&claim, 0), 0, "{options}");
    }
}

/// The permissions of the mapping at an offset, as in /proc/self/maps.
fn permissions(claim: &Claim, offset: u64) -> String {
    let at = claim.memory().as_ptr() as u64 + offset;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let of = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        (number(start)?..number(end)?)
            .contains(&at)
            .then(|| rest[..4].to_owned())
    };
    maps.lines().find_map(of).unwrap()
}

#[test]
fn a_range_is_made_inaccessible_and_back() {
    let page = page_size();
    for options in ["share=off", "share=on"] {
        let (_backend, claim) = ready(options);
        fill(&claim);
        let piece = claim.piece(0).unwrap();
        piece.protect(page, 2 * page, Access::None).unwrap();
        let seen = [0, 1, 2, 3].map(|n| permissions(&claim, n * page)[..3].to_owned());
        assert_eq!(seen, ["rw-", "---", "---", "rw-"], "{options}");
        // The kernel does not reach it for the process either.
        let mut pipe = [0; 2];
        let address = claim.memory().as_ptr().wrapping_add(page as usize);
        // SAFETY: the array has room for two; the kernel checks the address.
        let written = unsafe {
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            let written = libc::write(pipe[1], address.cast(), 1);
            libc::close(pipe[0]);
            libc::close(pipe[1]);
            written
        };
        assert_eq!(written, -1, "{options}");
        assert_inaccessible(claim.populate(page, page));
        claim.protect(page, page, Access::All).unwrap();
        assert_eq!(read(&claim, page), 7, "{options}");
        claim.discard(2 * page, page).unwrap();
        claim.protect(0, SIZE, Access::All).unwrap();
        assert_eq!(read(&claim, 2 * page), 0, "{options}");
        claim.protect(page, 0, Access::None).unwrap();
        assert_eq!(read(&claim, page), 7, "{options}");
        let refusal = [Refusal::new(libc::SYS_mprotect, libc::ENOMEM).only(1, page)];
        let error = refusing(&refusal, || claim.protect(page, page, Access::None));
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoMemory, "{error}");
        assert!(error.to_string().contains("vm.max_map_count"), "{error}");
        // Another refusal has another reason.
        let refusal = [Refusal::new(libc::SYS_mprotect, libc::EACCES).only(1, page)];
        let error = refusing(&refusal, || claim.protect(page, page, Access::None));
        let error = error.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
        assert!(!error.to_string().contains("vm.max_map_count"), "{error}");
        let error = claim.protect(0, SIZE + page, Access::None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        piece.protect(SIZE, page, Access::None).unwrap_err();
    }
    let (_file, _backend, claim) = private_file("readonly=on");
    claim.protect(0, SIZE, Access::None).unwrap();
    claim.protect(0, SIZE, Access::All).unwrap();
    assert_eq!(&permissions(&claim, 0)[..3], "r--");
}

/// The bytes that saving the memory writes.
fn saved(claim: &Claim) -> hostmem::Result<Vec<u8>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    claim.save(&file, 0)?;
    Ok(std::fs::read(file.path()).unwrap())
}

#[track_caller]
fn assert_inaccessible(result: hostmem::Result<impl std::fmt::Debug>) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value, "{error}");
    assert!(error.to_string().contains("inaccessible"), "{error}");
}

/// Saving reads memory and scrubbing writes it: each on the thread that asks for it, or on others.
#[test]
fn what_is_inaccessible_is_neither_read_nor_overwritten() {
    let page = page_size();
    for options in ["share=off", "share=on", "share=off,prealloc-threads=4"] {
        let (_backend, claim) = ready(&format!("{options},thp=never"));
        fill(&claim);
        // Two ranges become one, and its middle accessible again.
        claim.protect(page, 2 * page, Access::None).unwrap();
        claim.protect(3 * page, 2 * page, Access::None).unwrap();
        claim.protect(2 * page, page, Access::All).unwrap();
        assert_inaccessible(claim.scrub(0, SIZE));
        assert_inaccessible(claim.scrub(4 * page, page));
        claim.scrub(2 * page, page).unwrap();
        claim.scrub(5 * page, page).unwrap();
        write(&claim, 0, 7);
        assert_inaccessible(claim.populate(0, 2 * page));
        claim.populate(2 * page, page).unwrap();
        match saved(&claim) {
            // Its file is read, which can be.
            Ok(bytes) if options == "share=on" => assert_eq!(bytes[3 * page as usize], 7),
            result => assert_inaccessible(result.map(|bytes| bytes.len())),
        }
        // What is absent is known to be zero.
        claim.discard(page, page).unwrap();
        claim.discard(3 * page, 2 * page).unwrap();
        claim.scrub(page, page).unwrap();
        claim.scrub(3 * page, 2 * page).unwrap();
        let bytes = saved(&claim).unwrap();
        let firsts: Vec<_> = bytes.chunks(page as usize).map(|page| page[0]).collect();
        assert_eq!(firsts[..8], [7, 0, 0, 0, 0, 0, 7, 7], "{options}");
        assert!(firsts[8..].iter().all(|&byte| byte == 7), "{options}");
        claim.protect(0, SIZE, Access::All).unwrap();
        claim.scrub(0, SIZE).unwrap();
        assert_eq!(read(&claim, SIZE - page), 0);
    }
}

#[test]
fn what_takes_the_place_of_inaccessible_memory_is_inaccessible() {
    let page = page_size();
    let (_file, _backend, claim) = private_file("share=off");
    claim.protect(2 * page, 2 * page, Access::None).unwrap();
    claim.protect(5 * page, page, Access::None).unwrap();
    claim.discard_to(0, 3 * page, DiscardTo::Zero).unwrap();
    let seen = [0, 1, 2, 3, 4, 5].map(|n| permissions(&claim, n * page)[..3].to_owned());
    assert_eq!(seen, ["rw-", "rw-", "---", "---", "rw-", "---"]);
    claim.discard_to(0, SIZE, DiscardTo::Zero).unwrap();
    let seen = [0, 1, 2, 3, 4, 5].map(|n| permissions(&claim, n * page)[..3].to_owned());
    assert_eq!(seen, ["rw-", "rw-", "---", "---", "rw-", "---"]);
    claim.protect(0, SIZE, Access::All).unwrap();
    assert_eq!(read(&claim, 2 * page), 0);
}

#[test]
fn nothing_is_made_inaccessible_while_it_is_filled() {
    let options = "memory-backend-ram,id=m0,size=4G,thp=never,prealloc=on,\
                   prealloc-mode=background,prealloc-threads=1";
    let backend = common::objects()
        .parse(options)
        .unwrap()
        .complete()
        .unwrap();
    let claim = backend.claim("test").unwrap();
    let error = claim.protect(0, page_size(), Access::None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    backend.cancel_prealloc().unwrap();
    assert!(backend.wait_prealloc(None).is_err());
    claim.protect(0, page_size(), Access::None).unwrap();
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Contents that are read when they are needed: on demand, and in the background meanwhile.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use common::access::new;
use common::access::smaps_field;
use common::host::HugePages;
use common::image::assert_same;
use common::image::complete;
use common::image::image_bytes;
use common::image::image_in;
use common::image::pattern;
use common::image::MIB;
use common::image::SIZE;
use common::in_child;
use common::in_forked_child;
use common::lazy::assert_changes_are_kept;
use common::lazy::assert_threads_find;
use common::lazy::assert_unread;
use common::lazy::can_serve;
use common::lazy::touch;
use common::lazy::DEMAND;
use common::lazy::LAZY;
use common::objects;
use common::page_size;
use common::refusing;
use common::skip;
use common::Belongings;
use common::Refusal;
use hostmem::Access;
use hostmem::Backend;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Methods;
use hostmem::Objects;
use hostmem::PieceRange;

const MEMORIES: [&str; 3] = ["thp=always", "thp=never", "thp=always,lock=on"];

#[test]
fn what_is_touched_is_there() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    for length in [SIZE, SIZE - 3 * MIB - 555, 1, 0] {
        let bytes = image_bytes(length);
        let image = image_in(images.path(), page_size(), &bytes);
        for memory in MEMORIES {
            for mode in [DEMAND, LAZY] {
                let options = format!(
                    "size={SIZE},{mode},{memory},contents={image},contents-offset={}",
                    page_size()
                );
                assert_same(&complete("ram", &options), &bytes, &options);
            }
        }
    }
}

/// A unit of which a part is inaccessible cannot be put in place.
#[test]
fn only_whole_units_are_made_inaccessible_while_they_are_unread() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(7, SIZE - 4096);
    let image = image_in(images.path(), 0, &bytes);
    for kind in ["ram", "memfd"] {
        let options = format!("size={SIZE},{DEMAND},thp=never,contents={image}");
        let backend = complete(kind, &options);
        let claim = backend.claim("test").unwrap();
        let page = page_size();
        let unit = page.max(64 << 10);
        for (offset, length) in [(page, unit - page), (0, unit + page)] {
            if unit == page {
                break;
            }
            let error = claim.protect(offset, length, Access::None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Busy, "{kind}: {error}");
            assert!(error.to_string().contains("unread"), "{kind}: {error}");
        }
        claim.protect(unit, 2 * unit, Access::None).unwrap();
        claim.protect(SIZE - unit, unit, Access::None).unwrap();
        assert_eq!(touch(&claim, 0), bytes[0], "{kind}");
        assert_eq!(touch(&claim, 3 * unit as usize), bytes[3 * unit as usize]);
        claim.protect(0, SIZE, Access::All).unwrap();
        drop(claim);
        assert_same(&backend, &bytes, kind);
        // Nothing is unread any more.
        let claim = backend.claim("test").unwrap();
        assert_unread(&claim, 0);
        claim.protect(page, page, Access::None).unwrap();
    }
}

#[test]
fn eight_threads_find_every_byte_while_it_is_read() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(42, 64 * MIB);
    let image = image_in(images.path(), 0, &bytes);
    for memory in MEMORIES {
        for mode in [DEMAND, LAZY] {
            let options = format!("size=64M,{mode},{memory},contents={image}");
            assert_threads_find(&complete("ram", &options), &bytes, 8, &options);
        }
    }
}

#[test]
fn only_what_is_touched_is_read() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(7, SIZE);
    let image = image_in(images.path(), 0, &bytes);
    let Some(huge) = common::thp_size() else {
        return;
    };
    // Memory without room for a huge page, or that the kernel cannot move, is read in small units.
    let moves = SIZE >= huge && common::kernel() >= (6, 8);
    let large = if moves { huge } else { 65536 };
    for (memory, unit) in [("thp=always", large), ("thp=never", 65536)] {
        let options = format!("size={SIZE},{DEMAND},{memory},contents={image}");
        let backend = complete("ram", &options);
        let claim = backend.claim("test").unwrap();
        assert_eq!(claim.unread().0, SIZE);
        assert_eq!(touch(&claim, 5 << 20), bytes[5 << 20]);
        assert_unread(&claim, SIZE - unit);
        let placement = backend.placement().unwrap();
        assert_eq!(placement.resident, unit);
        assert_eq!((placement.unread, placement.absent), (SIZE - unit, 0));
    }
}

/// Where the host has no free huge page at the moment memory stays small, so it is tried again.
#[test]
fn huge_pages_stay_huge() {
    let huge = |backend: &Backend| smaps_field(&backend.claim("test").unwrap(), "AnonHugePages");
    if !can_serve() || common::kernel() < (6, 8) {
        return skip("needs UFFDIO_MOVE");
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(8, SIZE);
    let image = image_in(images.path(), 0, &bytes);
    let is_huge = |mode: &str| {
        let options = format!("size={SIZE},{mode},thp=always,contents={image}");
        let backend = complete("ram", &options);
        assert_same(&backend, &bytes, &options);
        backend.wait_prealloc(None).unwrap();
        huge(&backend) == SIZE
    };
    for mode in [DEMAND, LAZY] {
        let plain = || {
            huge(&complete(
                "ram",
                &format!("size={SIZE},prealloc=on,thp=always"),
            ))
        };
        if !(0..10).any(|_| is_huge(mode)) {
            if plain() != SIZE {
                return skip("this host has no huge pages now");
            }
            panic!("{mode}: small pages");
        }
    }
}

/// Bound to a node and locked too: the pages that are moved are fresh ones under the same policy.
#[test]
fn huge_pages_stay_huge_under_a_policy_and_locked() {
    let Some(node) = common::bindable_node() else {
        return;
    };
    if !can_serve() || common::kernel() < (6, 8) {
        return skip("needs UFFDIO_MOVE");
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(8, SIZE);
    let image = image_in(images.path(), 0, &bytes);
    for memory in [
        format!("policy=bind,host-nodes={node}"),
        format!("policy=preferred,host-nodes={node}"),
        "policy=local".into(),
        "lock=on".into(),
        format!("lock=on,policy=bind,host-nodes={node}"),
    ] {
        for mode in [DEMAND, LAZY] {
            let options = format!("size={SIZE},{mode},thp=always,{memory},contents={image}");
            let huge = (0..10).any(|_| {
                let backend = complete("ram", &options);
                assert_same(&backend, &bytes, &options);
                backend.wait_prealloc(None).unwrap();
                let claim = backend.claim("test").unwrap();
                let locked = smaps_field(&claim, "Locked");
                assert_eq!(locked, if memory.contains("lock") { SIZE } else { 0 });
                smaps_field(&claim, "AnonHugePages") == SIZE
            });
            assert!(
                huge || !common::lazy::host_has_huge_pages(SIZE),
                "{options}"
            );
        }
    }
}

/// What changes while it is read holds for what is read from then on.
#[test]
fn a_policy_and_a_lock_that_change_meanwhile_are_followed() {
    let Some(node) = common::bindable_node() else {
        return;
    };
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(9, SIZE);
    let image = image_in(images.path(), 0, &bytes);
    let options = format!("size={SIZE},{DEMAND},thp=always,contents={image}");
    let backend = complete("ram", &options);
    let claim = backend.claim("test").unwrap();
    let touch = |mib: u64| {
        let at = (mib * MIB) as usize + 7;
        assert_eq!(touch(&claim, at), bytes[at], "{mib}");
    };
    touch(0);
    let to = |policy| hostmem::Rebind::new(policy).host_nodes([node]);
    backend.rebind(&to(hostmem::Policy::Bind)).unwrap();
    touch(2);
    backend.set("lock", true).unwrap();
    touch(4);
    backend.rebind(&to(hostmem::Policy::Interleave)).unwrap();
    touch(6);
    backend.set("lock", false).unwrap();
    touch(8);
    backend.rebind(&to(hostmem::Policy::Preferred)).unwrap();
    touch(10);
    drop(claim);
    assert_same(&backend, &bytes, &options);
}

/// What cannot be changed stays, and so does what is unread.
#[test]
fn a_policy_that_cannot_change_meanwhile_stays() {
    let Some(node) = common::bindable_node() else {
        return;
    };
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(9, SIZE);
    let image = image_in(images.path(), 0, &bytes);
    for (kind, thp) in [("ram", "always"), ("ram", "never"), ("memfd", "always")] {
        let options = format!("size={SIZE},{DEMAND},thp={thp},contents={image}");
        let backend = complete(kind, &options);
        let claim = backend.claim("test").unwrap();
        assert_eq!(touch(&claim, 7), bytes[7]);
        let unread = SIZE - claim.faulted()[0].length;
        assert_unread(&claim, unread);
        let to = |nodes: [u32; 1]| hostmem::Rebind::new(hostmem::Policy::Bind).host_nodes(nodes);
        let error = backend.rebind(&to([1023])).unwrap_err();
        assert_eq!(error.kind(), hostmem::ErrorKind::Value, "{error}");
        let refusal = [Refusal::new(libc::SYS_mbind, libc::EPERM)];
        let error = refusing(&refusal, || backend.rebind(&to([node])).unwrap_err());
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
        assert_eq!(backend.get_text("policy").unwrap(), "default");
        assert_eq!(claim.unread().0, unread, "{options}");
        backend.rebind(&to([node])).unwrap();
        drop(claim);
        assert_same(&backend, &bytes, &options);
    }
}

/// From then on what is read is in small pages.
#[test]
fn huge_pages_can_be_switched_off_meanwhile() {
    if !can_serve() || common::kernel() < (6, 8) {
        return skip("needs UFFDIO_MOVE");
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(12, SIZE);
    let image = image_in(images.path(), 0, &bytes);
    for mode in [DEMAND, LAZY] {
        let options = format!("size={SIZE},{mode},thp=always,contents={image}");
        let backend = complete("ram", &options);
        let claim = backend.claim("test").unwrap();
        backend.set("thp", "never").unwrap();
        let before = smaps_field(&claim, "AnonHugePages");
        assert_eq!(touch(&claim, 4 << 20), bytes[4 << 20]);
        assert_eq!(touch(&claim, 9 << 20), bytes[9 << 20]);
        if mode == DEMAND {
            assert_unread(&claim, SIZE - 4 * MIB);
            thread::sleep(Duration::from_millis(10));
            assert_eq!(smaps_field(&claim, "AnonHugePages"), before);
        }
        drop(claim);
        assert_same(&backend, &bytes, &options);
    }
}

/// The last unit ends with the memory.
#[test]
fn the_end_of_memory_is_read_on_demand() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(11, 5 * MIB);
    let image = image_in(images.path(), 0, &bytes);
    for (kind, thp) in [("ram", "always"), ("ram", "never"), ("memfd", "always")] {
        let options = format!("size=5M,{DEMAND},thp={thp},contents={image}");
        let backend = complete(kind, &options);
        let claim = backend.claim("test").unwrap();
        let last = bytes.len() - 1;
        assert_eq!(touch(&claim, last), bytes[last], "{kind},{options}");
        let read = claim.faulted()[0];
        assert_eq!(read.offset + read.length, 5 * MIB, "{kind},{options}");
        assert_unread(&claim, 5 * MIB - read.length);
        drop(claim);
        assert_same(&backend, &bytes, &options);
    }
}

/// A touch that finds no huge page leaves a page table, into which the kernel moves small pages.
#[test]
fn what_was_touched_in_small_pages_becomes_huge() {
    if !can_serve() || common::kernel() < (6, 8) {
        return skip("needs UFFDIO_MOVE");
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(10, SIZE);
    let image = image_in(images.path(), 0, &bytes);
    let options = format!("size={SIZE},{DEMAND},thp=always,contents={image}");
    let huge = (0..3).any(|_| {
        let backend = complete("ram", &options);
        let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
        file.set_len(8 * MIB).unwrap();
        let claim = backend.claim("test").unwrap();
        backend.set("thp", "never").unwrap();
        thread::scope(|scope| {
            let (claim, bytes) = (&claim, &bytes);
            let at = (12 << 20) + 5;
            scope.spawn(move || assert_eq!(touch(claim, at), bytes[at]));
            while claim.unread().1.is_none() {
                thread::yield_now();
            }
            backend.set("thp", "always").unwrap();
            file.write_all_at(&bytes[8 << 20..], 8 * MIB).unwrap();
            claim.retry_contents().unwrap();
        });
        // The thread that touched it goes on a moment before.
        let start = Instant::now();
        while smaps_field(&claim, "AnonHugePages") != 2 * MIB {
            if start.elapsed() > Duration::from_secs(1) {
                return false;
            }
            thread::yield_now();
        }
        drop(claim);
        assert_same(&backend, &bytes, &options);
        true
    });
    assert!(huge || !common::lazy::host_has_huge_pages(SIZE));
}

/// Each way by itself: copying, where moving is switched off or the kernel refuses it.
#[test]
fn contents_are_equal_without_moving() {
    if !can_serve() {
        return;
    }
    const UFFDIO_MOVE: u64 = 0xc028_aa05;
    let images = tempfile::tempdir().unwrap();
    let bytes = image_bytes(SIZE);
    let image = image_in(images.path(), 0, &bytes);
    let options =
        |mode| format!("memory-backend-ram,id=m0,size={SIZE},{mode},thp=always,contents={image}");
    for mode in [DEMAND, LAZY] {
        let mut host = Host::probe().unwrap();
        host.narrow_methods(Methods::NONE);
        let narrow = Objects::new(&host, &common::defaults()).unwrap();
        let backend = narrow.parse(options(mode)).unwrap().complete().unwrap();
        assert_same(&backend, &bytes, "narrowed");
        for errno in [libc::EINVAL, libc::EBUSY] {
            let refusal = Refusal::new(libc::SYS_ioctl, errno).only(1, UFFDIO_MOVE);
            refusing(&[refusal], || {
                let backend = objects().parse(options(mode)).unwrap().complete().unwrap();
                assert_same(&backend, &bytes, "refused");
            });
        }
    }
}

#[test]
fn huge_pages_of_a_pool_are_served() {
    let Some(_pages) = HugePages::have(SIZE / (2 * MIB)) else {
        return;
    };
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let mut bytes = image_bytes(SIZE - 100);
    let image = image_in(images.path(), 0, &bytes);
    for mode in [DEMAND, LAZY] {
        let options = format!("size={SIZE},{mode},hugetlb=on,hugetlbsize=2M,contents={image}");
        let backend = complete("ram", &options);
        // Private huge pages can be given back since 5.18.
        if common::kernel() >= (5, 18) {
            let claim = backend.claim("test").unwrap();
            claim.discard(2 * MIB, 2 * MIB).unwrap();
            bytes[2 << 20..4 << 20].fill(0);
        }
        assert_same(&backend, &bytes, &options);
    }
}

/// What the kernel writes to by itself, as KVM and vhost do.
#[test]
fn the_kernel_is_served_too() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(11, SIZE);
    let image = image_in(images.path(), 0, &bytes);
    let backend = complete("ram", &format!("size={SIZE},{DEMAND},contents={image}"));
    let claim = backend.claim("test").unwrap();
    let memory = claim.memory();
    let file = tempfile::tempfile().unwrap();
    // SAFETY: reads memory that is mapped as long as the claim lives.
    let put = unsafe {
        use std::os::fd::AsRawFd;
        libc::write(file.as_raw_fd(), memory.as_ptr().cast(), SIZE as usize)
    };
    assert_eq!(put, SIZE as isize);
    let mut seen = vec![0; SIZE as usize];
    file.read_exact_at(&mut seen, 0).unwrap();
    assert!(seen == bytes);
}

#[test]
fn discard_and_populate_and_save_know_what_is_unread() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(13, SIZE);
    let image = image_in(images.path(), 0, &bytes);
    for memory in MEMORIES {
        for mode in [DEMAND, LAZY] {
            let options = format!("size={SIZE},{mode},{memory},contents={image}");
            assert_changes_are_kept(&complete("ram", &options), bytes.clone(), &options);
        }
    }
}

#[test]
fn cancelling_the_background_leaves_it_on_demand() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(17, 128 * MIB);
    let image = image_in(images.path(), 0, &bytes);
    let backend = complete(
        "ram",
        &format!("size=128M,{LAZY},thp=never,contents={image}"),
    );
    backend.cancel_prealloc().unwrap();
    assert_same(&backend, &bytes, "cancelled");
}

/// Claimed, released and claimed again in pieces while it is read, each time at another moment.
#[test]
fn pieces_come_and_go_while_it_is_read() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let image = pattern(29, SIZE);
    let path = image_in(images.path(), 0, &image);
    let page = page_size();
    for memory in MEMORIES {
        let options = format!("size={SIZE},{LAZY},{memory},contents={path}");
        for moment in 0..5 {
            let backend = complete("ram", &options);
            thread::sleep(Duration::from_micros(600 * moment));
            let mut expected = image.clone();
            for turn in 0..3 {
                let claim = backend.claim("test").unwrap();
                let ranges = [0, 1].map(|number| PieceRange {
                    guest_address: number << 32,
                    offset: number * (SIZE / 2),
                    length: SIZE / 2,
                });
                let pieces = claim.pieces(&ranges).unwrap();
                assert_eq!(backend.claim("other").unwrap_err().kind(), ErrorKind::Busy);
                // The last page of the second piece, then the one before it.
                let offset = SIZE / 2 - (turn + 1) * page;
                pieces[1].discard(offset, page).unwrap();
                let at = (SIZE / 2 + offset) as usize;
                expected[at..at + page as usize].fill(0);
                assert_eq!(touch(&claim, at), 0);
                assert_eq!(touch(&claim, turn as usize), expected[turn as usize]);
                drop(claim);
                // The pieces keep the claim.
                assert_eq!(
                    backend.can_be_deleted().unwrap_err().kind(),
                    ErrorKind::Busy
                );
            }
            assert_same(&backend, &expected, &options);
        }
    }
}

#[test]
fn it_ends_with_the_backend_at_any_moment() {
    if !can_serve() {
        return;
    }
    in_child("it_ends_with_the_backend_at_any_moment", || {
        let images = tempfile::tempdir().unwrap();
        let bytes = pattern(19, SIZE);
        let image = image_in(images.path(), 0, &bytes);
        drop(complete(
            "ram",
            &format!("size={SIZE},{LAZY},contents={image}"),
        ));
        let before = Belongings::now();
        for round in 0..20 {
            let mode = if round % 2 == 0 { DEMAND } else { LAZY };
            let backend = complete("ram", &format!("size={SIZE},{mode},contents={image}"));
            thread::sleep(Duration::from_micros(round * 300));
            match round % 3 {
                0 => drop(backend),
                1 => backend.delete().map_err(|failed| failed.error).unwrap(),
                _ => {
                    let claim = backend.claim("test").unwrap();
                    assert_eq!(touch(&claim, 1 << 20), bytes[1 << 20]);
                    // The child has neither memory nor server, and ends all the same.
                    in_forked_child(|| {
                        let failed = claim.retry_contents().is_err();
                        drop(backend);
                        failed
                    });
                }
            }
        }
        assert_eq!(Belongings::now(), before);
    });
}

/// Waiting is right where contents cannot be had: zero would be wrong.
#[test]
fn a_touch_waits_until_the_image_can_be_read() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(23, SIZE);
    let image = image_in(images.path(), 0, &bytes);
    let options = format!("size={SIZE},{DEMAND},thp=never,contents={image}");
    let backend = complete("ram", &options);
    let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.set_len(8 * MIB).unwrap();
    let claim = backend.claim("test").unwrap();
    assert_eq!(touch(&claim, 5), bytes[5]);
    thread::scope(|scope| {
        let (sender, touched) = mpsc::channel();
        let (claim, expected) = (&claim, bytes[12 << 20]);
        scope.spawn(move || sender.send(touch(claim, 12 << 20)));
        let start = Instant::now();
        let error = loop {
            if let (_, Some(error)) = claim.unread() {
                break error;
            }
            assert!(start.elapsed() < Duration::from_secs(10));
            thread::yield_now();
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENODATA), "{error}");
        let words = format!("bytes at offset {}", 12 * MIB);
        assert!(error.to_string().contains(&words), "{error}");
        assert!(touched.recv_timeout(Duration::from_millis(50)).is_err());
        // In vain while the image is as it was.
        claim.retry_contents().unwrap();
        assert!(touched.recv_timeout(Duration::from_millis(50)).is_err());
        file.write_all_at(&bytes[8 << 20..], 8 * MIB).unwrap();
        claim.retry_contents().unwrap();
        assert_eq!(touched.recv_timeout(Duration::from_secs(10)), Ok(expected));
    });
    drop(claim);
    assert_same(&backend, &bytes, &options);
}

/// A cancelled or failed background leaves what is unread to those who touch it.
#[test]
fn a_background_that_cannot_read_says_so() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let image = image_in(images.path(), 0, &pattern(29, SIZE));
    let refusal = Refusal::new(libc::SYS_pread64, libc::EIO);
    refusing(&[refusal], || {
        let backend = complete("ram", &format!("size={SIZE},{LAZY},contents={image}"));
        let error = backend.wait_prealloc(None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
        let message = error.to_string();
        assert!(
            message.contains("bytes at offset") && message.contains(&image),
            "{message}"
        );
        assert_eq!(backend.claim("test").unwrap().unread().0, SIZE);
    });
}

#[test]
fn without_a_userfaultfd_it_is_refused_by_name() {
    let image = tempfile::NamedTempFile::new().unwrap();
    let path = image.path().display().to_string();
    // Opening /dev/userfaultfd is not refused, making one of it is.
    let new_of_device = Refusal::new(libc::SYS_ioctl, libc::EPERM).only(1, 0xaa00);
    let call = Refusal::new(libc::SYS_userfaultfd, libc::EPERM);
    refusing(&[new_of_device, call], || {
        let host = Host::probe().unwrap();
        let feature = host.features();
        let feature = feature.iter().find(|one| one.name == "userfaultfd-kvm");
        let reason = &feature.unwrap().reason;
        assert!(reason.contains("/dev/userfaultfd"), "{reason}");
        for mode in [DEMAND, LAZY] {
            let failed = new("ram", &format!("size=1M,{mode},contents={path}"));
            let failed = failed.complete().unwrap_err();
            let message = failed.error.to_string();
            assert_eq!(failed.error.kind(), ErrorKind::Unsupported, "{message}");
            assert!(message.contains("/dev/userfaultfd"), "{message}");
            assert!(message.contains("prealloc-mode=wait"), "{message}");
        }
        complete("ram", &format!("size=1M,prealloc=on,contents={path}"));
    });
}

#[test]
fn completing_does_not_wait_for_the_image() {
    if !can_serve() {
        return;
    }
    let image = common::access::memfd("image", 0, 4 << 30);
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", image.as_raw_fd());
    let backend = complete("ram", &format!("size=4G,{LAZY},contents={path}"));
    let claim = backend.claim("test").unwrap();
    assert!(claim.unread().0 > 0, "all was read before");
    backend.cancel_prealloc().unwrap();
}

/// Root may; everybody else where the administrator says so.
#[test]
fn nobody_reads_eagerly() {
    in_child("nobody_reads_eagerly", || {
        let directory = tempfile::tempdir().unwrap();
        common::host::give_to_nobody(directory.path());
        let bytes = image_bytes(SIZE);
        let image = image_in(directory.path(), 0, &bytes);
        common::host::give_to_nobody(image.as_ref());
        common::host::become_nobody();
        let setting = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
        let may = setting.is_ok_and(|setting| setting.trim() == "1");
        let probed = Host::probe().unwrap().features();
        let feature = probed.iter().find(|one| one.name == "userfaultfd-kvm");
        if !may && feature.unwrap().is_available() {
            return skip("/dev/userfaultfd is open to everybody");
        }
        assert_eq!(feature.unwrap().is_available(), may);
        for mode in [DEMAND, LAZY] {
            let options = format!("size={SIZE},{mode},contents={image}");
            match new("ram", &options).complete() {
                Ok(backend) => assert_same(&backend, &bytes, mode),
                Err(failed) => {
                    let message = failed.error.to_string();
                    assert_eq!(failed.error.kind(), ErrorKind::Unsupported, "{message}");
                    assert!(
                        message.contains("vm.unprivileged_userfaultfd=1"),
                        "{message}"
                    );
                }
            }
        }
        let options = format!("size={SIZE},prealloc=on,contents={image}");
        assert_same(&complete("ram", &options), &bytes, &options);
    });
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Contents that are read when they are needed, of memory of every kind.

mod common;

use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use common::access::smaps_field;
use common::host::HostLock;
use common::host::HugePages;
use common::host::Setting;
use common::image::assert_same;
use common::image::complete;
use common::image::image_bytes;
use common::image::image_in;
use common::image::pattern;
use common::image::MIB;
use common::image::SIZE;
use common::kernel;
use common::lazy::assert_changes_are_kept;
use common::lazy::assert_threads_find;
use common::lazy::assert_unread;
use common::lazy::can_serve;
use common::lazy::touch;
use common::lazy::DEMAND;
use common::lazy::LAZY;
use common::page_size;
use common::refusing;
use common::skip;
use common::smaps;
use common::thp_size;
use common::Refusal;
use hostmem::Claim;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Methods;
use hostmem::Objects;

/// Memory that has a descriptor, in small pages and in huge ones.
const MEMORIES: [(&str, &str); 8] = [
    ("memfd", "thp=never"),
    ("memfd", "thp=always"),
    ("memfd", "thp=always,lock=on"),
    ("memfd", "share=off"),
    ("ram", "share=on,guard=off"),
    ("shm", "thp=auto"),
    ("memfd", "hugetlb=on,hugetlbsize=2M"),
    ("memfd", "hugetlb=on,hugetlbsize=2M,share=off"),
];

/// Those of them that this host has the pages for, at most two at a time.
fn memories() -> (Option<HugePages>, Vec<(&'static str, &'static str)>) {
    let pool = HugePages::have(SIZE / MIB);
    let mut memories = MEMORIES.to_vec();
    memories.retain(|(_, options)| pool.is_some() || !options.contains("hugetlb"));
    (pool, memories)
}

#[test]
fn every_byte_is_there_when_it_is_first_touched() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let (_pool, memories) = memories();
    for length in [SIZE, SIZE - 3 * MIB - 555] {
        let bytes = image_bytes(length);
        let image = image_in(images.path(), 0, &bytes);
        // Zeros follow.
        let mut expected = bytes;
        expected.resize(SIZE as usize, 0);
        for (kind, options) in &memories {
            for mode in [DEMAND, LAZY] {
                let options = format!("size={SIZE},{mode},{options},contents={image}");
                assert_threads_find(&complete(kind, &options), &expected, 4, &options);
            }
        }
    }
}

#[test]
fn discard_and_populate_and_save_know_what_is_unread() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(13, SIZE);
    let image = image_in(images.path(), 0, &bytes);
    let (_pool, memories) = memories();
    for (kind, options) in memories {
        for mode in [DEMAND, LAZY] {
            let options = format!("size={SIZE},{mode},{options},contents={image}");
            assert_changes_are_kept(&complete(kind, &options), bytes.clone(), &options);
        }
    }
}

/// A peer's touch of what is unread would find zero.
#[test]
fn the_descriptor_is_given_away_when_all_is_read() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(3, SIZE);
    let image = image_in(images.path(), 0, &bytes);
    for (kind, options) in [
        ("memfd", "thp=never"),
        ("shm", "thp=auto"),
        ("ram", "share=on"),
    ] {
        let options = format!("size={SIZE},{DEMAND},{options},contents={image}");
        let backend = complete(kind, &options);
        let claim = backend.claim("test").unwrap();
        assert!(claim.memory().fd().is_none(), "{options}");
        assert_eq!(touch(&claim, 5), bytes[5]);
        let error = claim.memory().shared_fd().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        let message = error.to_string();
        assert!(message.starts_with("m0: contents"), "{message}");
        assert!(message.contains("once the fill has ended"), "{message}");
        backend.set("prealloc", true).unwrap();
        assert_unread(&claim, 0);
        let fd = claim.memory().shared_fd().unwrap().try_clone_to_owned();
        let mut peer = vec![0; SIZE as usize];
        let file = std::fs::File::from(fd.unwrap());
        file.read_exact_at(&mut peer, 0).unwrap();
        assert!(peer == bytes, "{options}");
        assert!(claim.memory().fd().is_some());
    }
    let backend = complete("ram", &format!("size={SIZE},{DEMAND},contents={image}"));
    let claim = backend.claim("test").unwrap();
    let error = claim.memory().shared_fd().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value, "{error}");
    assert!(error.to_string().contains("share=on"), "{error}");
}

/// Whether all of new memory like this is huge when it is preallocated without contents.
fn is_huge_without_contents(options: &str) -> bool {
    let backend = complete("memfd", &format!("size={SIZE},prealloc=on,{options}"));
    let claim = backend.claim("test").unwrap();
    smaps_field(&claim, "ShmemPmdMapped") == SIZE
}

fn assert_shared_memory_is_huge(options: &str) {
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(5, SIZE);
    let image = image_in(images.path(), 0, &bytes);
    for mode in [DEMAND, LAZY] {
        let with_contents = format!("size={SIZE},{mode},{options},contents={image}");
        let is_huge = || {
            let backend = complete("memfd", &with_contents);
            assert_same(&backend, &bytes, &with_contents);
            backend.wait_prealloc(None).unwrap();
            let claim = backend.claim("test").unwrap();
            let huge = smaps_field(&claim, "ShmemPmdMapped");
            // Nothing is left of the second mapping.
            let memory = claim.memory();
            assert_eq!(smaps(memory.as_ptr() as u64, memory.len()).len(), 1);
            huge == SIZE
        };
        // Where the host has no free huge page at the moment memory stays small.
        if !(0..10).any(|_| is_huge()) && is_huge_without_contents(options) {
            panic!("{with_contents}: small pages");
        }
    }
}

#[test]
fn shared_memory_stays_huge() {
    if !can_serve() || kernel() < (6, 1) {
        return skip("needs UFFDIO_CONTINUE and MADV_COLLAPSE");
    }
    let _lock = HostLock::take();
    assert_shared_memory_is_huge("thp=always");
    let setting = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    if let Some(_advise) = Setting::set(setting, "advise") {
        assert_shared_memory_is_huge("thp=auto");
    }
}

/// The advice about huge pages of the one mapping.
fn has_flag(claim: &Claim, flag: &str) -> bool {
    let memory = claim.memory();
    let entries = smaps(memory.as_ptr() as u64, memory.len());
    entries[0].1["VmFlags"].split(' ').any(|each| each == flag)
}

/// Shared memory that is copied, of which older kernels would make huge pages with zeros.
#[test]
fn there_are_no_huge_pages_until_all_is_read() {
    if !can_serve() || common::thp_size().is_none() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let image = image_in(images.path(), 0, &pattern(8, SIZE));
    let mut host = Host::probe().unwrap();
    host.narrow_methods(!Methods::CONTINUE);
    let objects = Objects::new(&host, &common::defaults()).unwrap();
    let make = |kind: &str, thp: &str| {
        let options = format!("size={SIZE},{DEMAND},thp={thp},contents={image}");
        let builder = objects.parse(format!("memory-backend-{kind},id=m0,{options}"));
        builder.unwrap().complete().unwrap()
    };
    for (kind, before, after, flag) in [
        ("memfd", "always", "always", "hg"),
        ("memfd", "never", "always", "hg"),
        ("memfd", "always", "never", "nh"),
        ("shm", "always", "auto", "hg"),
    ] {
        let what = format!("{kind}, {before}, {after}");
        let backend = make(kind, before);
        let claim = backend.claim("test").unwrap();
        touch(&claim, 0);
        backend.set("thp", after).unwrap();
        assert!(has_flag(&claim, "nh") && !has_flag(&claim, "hg"), "{what}");
        backend.set("prealloc", true).unwrap();
        assert!(has_flag(&claim, flag), "{what}");
        backend.set("thp", "never").unwrap();
        assert!(has_flag(&claim, "nh"), "{what}");
    }
    // Refused when all is read, it is a warning, and can be given again.
    let backend = make("memfd", "always");
    let refusal = Refusal::new(libc::SYS_madvise, libc::EAGAIN).only(2, libc::MADV_HUGEPAGE as u64);
    refusing(&[refusal], || backend.set("prealloc", true)).unwrap();
    let warnings = backend.warnings();
    assert!(
        warnings
            .iter()
            .any(|text| text.starts_with("thp: huge pages stay off")),
        "{warnings:?}"
    );
    backend.set("thp", "always").unwrap();
    assert!(has_flag(&backend.claim("test").unwrap(), "hg"));
    assert_eq!(backend.warnings(), [""; 0]);
}

/// Memory of each page is mapped once, so that it can move to another node.
#[test]
fn nothing_is_mapped_twice_afterwards() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let image = image_in(images.path(), 0, &pattern(6, SIZE));
    let (_pool, memories) = memories();
    for (kind, options) in memories {
        let options = format!("size={SIZE},{DEMAND},{options},contents={image}");
        let backend = complete(kind, &options);
        let claim = backend.claim("test").unwrap();
        for at in (0..SIZE / 2).step_by(page_size() as usize) {
            touch(&claim, at as usize);
        }
        // The thread that touches goes on a moment before the second mapping gives the page up.
        let start = Instant::now();
        while backend.placement().unwrap().mapmax != 1 {
            assert!(start.elapsed() < Duration::from_secs(10), "{options}");
            thread::yield_now();
        }
    }
}

/// What `thp` says while shared memory is unread holds from when it was read: before, where contents
/// are copied, it has no huge pages.
#[test]
fn advice_for_unread_memory_holds_when_it_was_read() {
    if !can_serve() || thp_size().is_none() {
        return skip("contents are not served, or there are no transparent huge pages");
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = image_bytes(SIZE);
    let image = image_in(images.path(), 0, &bytes);
    let mut host = Host::probe().unwrap();
    host.narrow_methods(Methods::NONE);
    let objects = Objects::new(&host, &common::defaults()).unwrap();
    for (before, after) in [("never", "always"), ("always", "never")] {
        let options = format!(
            "memory-backend-memfd,id=m0,size={SIZE},{DEMAND},thp={before},contents={image}"
        );
        let backend = objects.parse(&options).unwrap().complete().unwrap();
        let address = backend.claim("test").unwrap().memory().as_ptr();
        let advice = || {
            let flags = common::vm_flags(address);
            let has = |flag: &str| flags.contains(&flag.to_owned());
            (has("hg"), has("nh"))
        };
        assert_eq!(advice(), (false, true), "{before}");
        backend.set("thp", after).unwrap();
        assert_eq!(advice(), (false, true), "{before} to {after}");
        assert_eq!(backend.get_text("thp").unwrap(), after);
        assert_same(&backend, &bytes, &options);
        let start = Instant::now();
        let expected = (after == "always", after == "never");
        // The thread that serves it says so after the last page is there.
        while advice() != expected && start.elapsed().as_secs() < 20 {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(advice(), expected, "{before} to {after}");
    }
}

/// Contents are equal whatever of the kernel is missing or refused.
#[test]
fn each_way_falls_back_to_another() {
    const UFFDIO_MOVE: u64 = 0xc028_aa05;
    const UFFDIO_CONTINUE: u64 = 0xc020_aa07;
    const PAGEMAP_SCAN: u64 = 0xc060_6610;
    const SMALL: u64 = 6 * MIB;
    if !can_serve() {
        return;
    }
    let ioctl = |request| Refusal::new(libc::SYS_ioctl, libc::EINVAL).only(1, request);
    let advice = |advice| {
        let mask = u64::from(u32::MAX);
        Refusal::new(libc::SYS_madvise, libc::EINVAL).only_masked(2, mask, advice)
    };
    let ways: Vec<(&str, Methods, Vec<Refusal>)> = vec![
        ("no methods", Methods::NONE, vec![]),
        ("MOVE alone", Methods::MOVE, vec![]),
        ("CONTINUE alone", Methods::CONTINUE, vec![]),
        ("no UFFDIO_MOVE", Methods::ALL, vec![ioctl(UFFDIO_MOVE)]),
        (
            "no UFFDIO_CONTINUE",
            Methods::ALL,
            vec![ioctl(UFFDIO_CONTINUE)],
        ),
        ("no PAGEMAP_SCAN", Methods::ALL, vec![ioctl(PAGEMAP_SCAN)]),
        ("no MADV_COLLAPSE", Methods::ALL, vec![advice(25)]),
        ("no MADV_POPULATE_WRITE", Methods::ALL, vec![advice(23)]),
        (
            "no huge pages",
            Methods::ALL,
            vec![advice(libc::MADV_HUGEPAGE as u64)],
        ),
        (
            "no holes",
            Methods::ALL,
            vec![Refusal::new(libc::SYS_lseek, libc::EINVAL)],
        ),
    ];
    let images = tempfile::tempdir().unwrap();
    let bytes = image_bytes(SMALL);
    let image = image_in(images.path(), 0, &bytes);
    let (_pool, mut memories) = memories();
    memories.extend([
        ("ram", "thp=auto"),
        ("ram", "thp=never"),
        ("ram", "lock=on"),
    ]);
    for (what, methods, refusals) in ways {
        // The threads of a backend have the filter of the one that completes it.
        let run = || {
            let mut host = Host::probe().unwrap();
            host.narrow_methods(methods);
            let objects = Objects::new(&host, &common::defaults()).unwrap();
            for (kind, memory) in &memories {
                // Advice that is refused is an error where it is asked for.
                if what == "no huge pages" && memory.contains("thp=always") {
                    continue;
                }
                for mode in [DEMAND, LAZY] {
                    let options = format!(
                        "memory-backend-{kind},id=m0,size={SMALL},{mode},{memory},contents={image}"
                    );
                    let backend = objects.parse(&options).unwrap().complete().unwrap();
                    let what = format!("{what}: {options}");
                    assert_same(&backend, &bytes, &what);
                    assert!(backend.wait_prealloc(None).unwrap(), "{what}");
                }
            }
        };
        refusing(&refusals, run);
    }
}

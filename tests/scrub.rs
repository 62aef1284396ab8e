// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Scrubbing ranges of everything that memory can be made of: what is read afterwards, by whom, and
//! what the kernel has.

mod common;

use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use common::access::descriptor;
use common::access::fill;
use common::access::has;
use common::access::memfd;
use common::access::new;
use common::access::read;
use common::access::smaps_field;
use common::access::write;
use common::host::Group;
use common::host::HugePages;
use common::host::Swap;
use common::host::HUGE;
use common::in_child;
use common::in_forked_child;
use common::page_size;
use common::refusing;
use common::skip;
use common::Refusal;
use hostmem::Backend;
use hostmem::Calls;
use hostmem::Claim;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Objects;
use hostmem::Placement;

const SIZE: u64 = 8 << 20;
/// What is scrubbed; before it the memory keeps its contents.
const START: u64 = 2 << 20;
/// What is behind was never touched.
const END: u64 = 6 << 20;

fn make(kind: &str, options: &str) -> Backend {
    new(kind, options)
        .complete()
        .unwrap_or_else(|error| panic!("{kind},{options}: {error}"))
}

fn claim(backend: &Backend) -> Claim {
    backend.claim("test").unwrap()
}

/// Writes every byte of a range.
fn dirty(claim: &Claim, start: u64, end: u64) {
    (start..end).for_each(|at| write(claim, at, at as u8 | 1));
}

fn is_dirty(claim: &Claim, start: u64, end: u64) -> bool {
    (start..end).all(|at| read(claim, at) == at as u8 | 1)
}

fn is_zero(claim: &Claim, start: u64, end: u64) -> bool {
    (start..end).all(|at| read(claim, at) == 0)
}

/// Where the kernel is not asked which pages are there, what is absent stays so all the same.
#[test]
fn without_mincore_what_is_absent_stays_absent() {
    let mut host = Host::probe().unwrap();
    host.narrow_calls(!Calls::MINCORE);
    let objects = Objects::new(&host, &common::defaults()).unwrap();
    for kind in ["ram", "memfd", "shm"] {
        let options = format!("memory-backend-{kind},size={SIZE},thp=never");
        let backend = objects.parse(options).unwrap().complete().unwrap();
        let claim = claim(&backend);
        dirty(&claim, 0, END);
        claim.scrub(START, SIZE - START).unwrap();
        assert_eq!(backend.placement().unwrap().absent, SIZE - END, "{kind}");
        assert!(is_dirty(&claim, 0, START), "{kind}");
        assert!(is_zero(&claim, START, SIZE), "{kind}");
    }
}

/// Where each base page is, as /proc/self/pagemap says: 0 where it is absent, or where this process
/// may not know.
fn frames(claim: &Claim) -> Vec<u64> {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let memory = claim.memory();
    let (first, len) = (
        memory.as_ptr() as u64 / page_size(),
        memory.len() / page_size(),
    );
    let mut bytes = vec![0; len as usize * 8];
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    pagemap.read_exact_at(&mut bytes, first * 8).unwrap();
    let entry = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap());
    let frame = |entry| match entry & PRESENT {
        0 => 0,
        _ => entry & FRAME,
    };
    bytes.chunks(8).map(entry).map(frame).collect()
}

/// What is present, huge, absent. Reading ahead brings more of a file on disk than is mapped here.
fn counts(placement: &Placement) -> [u64; 3] {
    [
        placement.resident + placement.unmapped,
        placement.huge,
        placement.absent,
    ]
}

/// Memory whose end is absent: the middle becomes zero, and all is where it was.
fn check_in_place(kind: &str, options: &str) {
    let what = format!("{kind},{options}");
    let backend = make(kind, &format!("size={SIZE},{options}"));
    let claim = claim(&backend);
    dirty(&claim, 0, END);
    let (before, at) = (backend.placement().unwrap(), frames(&claim));
    let locked = smaps_field(&claim, "Locked");

    claim.scrub(START, SIZE - START).unwrap();

    let after = backend.placement().unwrap();
    assert_eq!(counts(&after), counts(&before), "{what}");
    if before.unmapped == 0 {
        assert_eq!(after.nodes, before.nodes, "{what}");
    }
    let now = frames(&claim);
    let stays = |(&before, &now): (&u64, &u64)| before == 0 || before == now;
    assert!(at.iter().zip(&now).all(stays), "{what}");
    assert_eq!(smaps_field(&claim, "Locked"), locked, "{what}");
    assert!(is_dirty(&claim, 0, START), "{what}");
    assert!(is_zero(&claim, START, END), "{what}");
    assert!(has(&claim, END, SIZE, 0), "{what}");
    let progress = backend.progress();
    let all = SIZE - START;
    assert_eq!((progress.done, progress.total), (all, all), "{what}");
    assert_eq!(backend.prealloc_result(), None, "{what}");
}

#[test]
fn memory_becomes_zero_where_it_is() {
    let place = tempfile::tempdir().unwrap();
    let on_disk = format!("mem-path={},share=on,thp=never", place.path().display());
    for (kind, options) in [
        ("ram", "thp=never"),
        ("ram", "thp=never,merge=on"),
        ("ram", "thp=never,prealloc-threads=2"),
        ("ram", "share=on"),
        ("memfd", ""),
        ("memfd", "share=off,thp=never"),
        ("shm", ""),
        ("file", "mem-path=/dev/shm,share=on"),
        ("file", "mem-path=/dev/shm,thp=never"),
        ("file", on_disk.as_str()),
    ] {
        check_in_place(kind, options);
    }
}

#[test]
fn huge_pages_stay_huge() {
    let backend = make("ram", &format!("size={SIZE},thp=always,prealloc=on"));
    let claim = claim(&backend);
    let (before, at) = (backend.placement().unwrap(), frames(&claim));
    if before.huge != SIZE {
        return skip("this kernel gives no transparent huge pages now");
    }
    dirty(&claim, 0, SIZE);
    claim.scrub(0, SIZE).unwrap();
    assert_eq!(
        counts(&backend.placement().unwrap()),
        [SIZE, SIZE, 0],
        "present, huge, absent"
    );
    assert_eq!(frames(&claim), at);
    assert!(is_zero(&claim, 0, SIZE));
}

#[test]
fn huge_pages_of_the_pool_stay_and_keep_their_reservation() {
    let Some(_pool) = HugePages::have(SIZE / HUGE) else {
        return;
    };
    for (kind, options) in [
        ("memfd", "hugetlb=on,hugetlbsize=2M"),
        ("memfd", "hugetlb=on,hugetlbsize=2M,share=off"),
        ("ram", "hugetlb=on,hugetlbsize=2M"),
    ] {
        check_in_place(kind, options);
        assert_eq!(HugePages::available(), SIZE / HUGE, "{kind},{options}");

        // Nothing is there yet, and what is promised stays promised.
        let backend = make(kind, &format!("size={SIZE},{options}"));
        assert_eq!(HugePages::available(), 0, "{kind},{options}");
        claim(&backend).scrub(0, SIZE).unwrap();
        assert_eq!(HugePages::available(), 0, "{kind},{options}");
        assert_eq!(backend.placement().unwrap().resident, 0);
    }
}

/// A mapping of the descriptor that a device process has.
struct Peer {
    address: *mut u8,
    len: u64,
}

impl Peer {
    fn new(file: &File, len: u64) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, anywhere.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len as usize,
                protection,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(address, libc::MAP_FAILED);
        Self {
            address: address.cast(),
            len,
        }
    }

    fn write(&self, at: u64, byte: u8) {
        assert!(at < self.len);
        // SAFETY: inside the mapping.
        unsafe { self.address.add(at as usize).write_volatile(byte) }
    }

    fn read(&self, at: u64) -> u8 {
        assert!(at < self.len);
        // SAFETY: inside the mapping.
        unsafe { self.address.add(at as usize).read_volatile() }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // SAFETY: mapped by new(), and nobody has a pointer to it.
        unsafe { libc::munmap(self.address.cast(), self.len as usize) };
    }
}

/// What a peer alone has touched is zero too, and stays in the file.
fn check_peer(kind: &str, options: &str, unit: u64) {
    let backend = make(kind, &format!("size={SIZE},{options}"));
    let claim = claim(&backend);
    let file = descriptor(&claim);
    let peer = Peer::new(&file, SIZE);
    write(&claim, 0, 7);
    peer.write(unit, 8);
    // In the middle of a page, so that all of it has to be looked at.
    peer.write(2 * unit + unit / 2 + 1, 9);
    let blocks = file.metadata().unwrap().blocks();

    claim.scrub(0, SIZE).unwrap();

    assert_eq!(
        file.metadata().unwrap().blocks(),
        blocks,
        "{kind},{options}"
    );
    for at in [0, unit, 2 * unit + unit / 2 + 1] {
        assert_eq!(peer.read(at), 0, "{kind},{options}: {at}");
        assert_eq!(read(&claim, at), 0, "{kind},{options}: {at}");
    }
}

#[test]
fn a_peer_sees_zeros() {
    for (kind, options) in [("ram", "share=on"), ("memfd", ""), ("shm", "")] {
        check_peer(kind, options, page_size());
    }
    if let Some(_pool) = HugePages::have(SIZE / HUGE) {
        check_peer("memfd", "hugetlb=on,hugetlbsize=2M", HUGE);
    }
}

/// The zero page is what reading memory that is absent maps.
#[test]
fn what_was_only_read_takes_no_memory() {
    for (kind, options) in [
        ("ram", "thp=never"),
        ("ram", "thp=always"),
        ("memfd", "share=off"),
    ] {
        let backend = make(kind, &format!("size={SIZE},{options}"));
        let claim = claim(&backend);
        assert!(has(&claim, 0, SIZE, 0));
        write(&claim, START, 9);
        let before = smaps_field(&claim, "Anonymous");
        claim.scrub(0, SIZE).unwrap();
        assert_eq!(smaps_field(&claim, "Anonymous"), before, "{kind},{options}");
        assert!(has(&claim, 0, SIZE, 0));
    }
}

/// A process that has the descriptor of private memory may have written to the file behind it.
#[test]
fn what_is_behind_a_private_mapping_is_not_seen() {
    let backend = make("memfd", &format!("size={SIZE},share=off"));
    let claim = claim(&backend);
    let file = descriptor(&claim);
    file.write_all_at(&vec![9; SIZE as usize], 0).unwrap();
    assert_eq!(read(&claim, START), 9);
    write(&claim, END, 7);
    claim.scrub(0, SIZE).unwrap();
    assert!(is_zero(&claim, 0, SIZE));
}

#[test]
fn locked_memory_stays_locked() {
    in_child("locked_memory_stays_locked", || {
        for options in [
            "lock=on,thp=never",
            "lock=on,prealloc=on,thp=never",
            "lock=on,share=on",
        ] {
            let builder = new("ram", &format!("size={SIZE},{options}"));
            if builder.complete().is_err() {
                return skip("this process may not lock its memory");
            }
            if !options.contains("prealloc") {
                check_in_place("ram", options);
            }
            let backend = make("ram", &format!("size={SIZE},{options}"));
            let claim = claim(&backend);
            fill(&claim, 0, SIZE, 9);
            claim.scrub(0, SIZE).unwrap();
            assert_eq!(smaps_field(&claim, "Locked"), SIZE, "{options}");
            assert!(has(&claim, 0, SIZE, 0));
        }
    });
}

#[test]
fn what_is_swapped_out_is_given_back() {
    in_child("what_is_swapped_out_is_given_back", || {
        const LARGE: u64 = 64 << 20;
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = directory.path().join("swap");
        let Some(_lock) = common::without_swap() else {
            return;
        };
        let Some(_swap) = Swap::start(&path, 2 * LARGE) else {
            return;
        };
        let Some(group) = Group::enter("memory") else {
            return;
        };
        for (kind, options) in [("ram", "thp=never"), ("memfd", "thp=never"), ("shm", "")] {
            let what = format!("{kind},{options}");
            let backend = make(kind, &format!("size={LARGE},{options}"));
            let claim = claim(&backend);
            fill(&claim, 0, LARGE, 9);
            group.limit_memory(LARGE / 2);
            let before = backend.placement().unwrap();
            group.limit_memory(4 * LARGE);
            assert!(before.swapped > LARGE / 4, "{what}: {before:?}");
            claim.scrub(0, LARGE).unwrap();
            let after = backend.placement().unwrap();
            assert_eq!(after.swapped, 0, "{what}");
            assert!(after.absent > before.swapped / 2, "{what}: {after:?}");
            assert!(has(&claim, 0, LARGE, 0), "{what}");
        }
        drop(group);
    });
}

/// Has the kernel drop the pages of a file that it can read again.
fn evict(file: &File) -> bool {
    file.sync_all().unwrap();
    // SAFETY: takes numbers.
    let result = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    result == 0
}

fn user_file(directory: &Path) -> File {
    let path = directory.join("file");
    fs::write(&path, vec![9; SIZE as usize]).unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}

/// What is on the disk alone is zero there, and takes as much of the disk as was asked for.
#[test]
fn what_is_on_disk_alone_is_zero_too() {
    let place = tempfile::tempdir().unwrap();
    for prealloc in ["on", "off"] {
        let file = user_file(place.path());
        let path = place.path().join("file");
        let backend = make(
            "file",
            &format!("size={SIZE},share=on,mem-path={}", path.display()),
        );
        if prealloc == "on" {
            backend.set("prealloc", true).unwrap();
        }
        let claim = claim(&backend);
        let memory = claim.memory();
        // SAFETY: a range of our own mapping, whose pages the file has.
        unsafe { libc::madvise(memory.as_ptr().cast(), SIZE as usize, libc::MADV_DONTNEED) };
        assert!(evict(&file));
        let blocks = file.metadata().unwrap().blocks();
        claim.scrub(0, SIZE).unwrap();
        let mut contents = vec![1; SIZE as usize];
        file.read_exact_at(&mut contents, 0).unwrap();
        assert!(contents.iter().all(|&byte| byte == 0), "{prealloc}");
        assert!(has(&claim, 0, SIZE, 0), "{prealloc}");
        if prealloc == "on" {
            assert!(file.metadata().unwrap().blocks() >= blocks, "{prealloc}");
        }
    }
}

#[test]
fn a_file_system_without_holes_is_overwritten() {
    let place = tempfile::tempdir().unwrap();
    for mem_path in [Path::new("/dev/shm"), place.path()] {
        let options = format!("size={SIZE},share=on,mem-path={}", mem_path.display());
        let backend = make("file", &options);
        let claim = claim(&backend);
        dirty(&claim, 0, START);
        let refusals = [Refusal::new(libc::SYS_fallocate, libc::EOPNOTSUPP)];
        refusing(&refusals, || claim.scrub(0, SIZE)).unwrap();
        assert!(is_zero(&claim, 0, START), "{options}");
        assert!(has(&claim, START, SIZE, 0), "{options}");
    }
}

/// A guest that uses 5.10 begins there: nothing is populated but by touching.
#[test]
fn without_populate_pages_are_touched() {
    let refusals = [
        Refusal::new(libc::SYS_madvise, libc::EINVAL).only(2, 22),
        Refusal::new(libc::SYS_madvise, libc::EINVAL).only(2, 23),
    ];
    refusing(&refusals, || {
        for (kind, options) in [("ram", "thp=never"), ("memfd", "")] {
            check_in_place(kind, options);
        }
    });
}

#[test]
fn memory_that_keeps_its_contents_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let file = user_file(place.path());
    let path = place.path().join("file");
    let fd = memfd("user", 0, SIZE);
    for (kind, options, words) in [
        (
            "file",
            format!("mem-path={},share=on,readonly=on", path.display()),
            "reading only",
        ),
        ("file", format!("mem-path={}", path.display()), "discard"),
        (
            "file",
            format!("mem-path={},readonly=on,rom=off", path.display()),
            "discard",
        ),
        ("fd", format!("fd={},share=off", fd.as_raw_fd()), "discard"),
    ] {
        let backend = make(kind, &format!("size={SIZE},{options}"));
        let claim = claim(&backend);
        let error = claim.scrub(0, SIZE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{options}: {error}");
        let message = error.to_string();
        assert!(message.starts_with("m0: scrub: "), "{message}");
        assert!(message.contains(words), "{message}");
    }
    let mut contents = vec![0; SIZE as usize];
    file.read_exact_at(&mut contents, 0).unwrap();
    assert!(contents.iter().all(|&byte| byte == 9));
}

#[test]
fn ranges_are_checked() {
    let page = page_size();
    let backend = make("ram", &format!("size={SIZE}"));
    let claim = claim(&backend);
    fill(&claim, 0, SIZE, 9);
    for (offset, length) in [
        (1, page),
        (0, page - 1),
        (0, SIZE + page),
        (SIZE, page),
        (page, SIZE),
        (!(page - 1), page),
        (page, !(page - 1)),
    ] {
        let error = claim.scrub(offset, length).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{offset} {length}: {error}");
    }
    claim.scrub(page, 0).unwrap();
    claim.scrub(SIZE, 0).unwrap();
    assert!(has(&claim, 0, SIZE, 9));
    claim.scrub(page, page).unwrap();
    assert!(is_zero(&claim, page, 2 * page));
    assert!(has(&claim, 0, page, 9) && has(&claim, 2 * page, SIZE, 9));
}

#[test]
fn pinned_memory_is_scrubbed() {
    let backend = make("memfd", &format!("size={SIZE},prealloc=on"));
    let claim = claim(&backend);
    fill(&claim, 0, SIZE, 9);
    let _pinned = claim.inhibit_discard("vfio0").unwrap();
    let at = frames(&claim);
    claim.scrub(0, SIZE).unwrap();
    assert!(is_zero(&claim, 0, SIZE));
    assert_eq!(frames(&claim), at);
}

#[test]
fn a_forked_child_is_told_so() {
    let backend = make("ram", &format!("size={SIZE}"));
    let claim = claim(&backend);
    in_forked_child(|| claim.scrub(0, SIZE).unwrap_err().kind() == ErrorKind::State);
}

/// Small pages in a file of the kernel's take long enough that a scrub is met while it runs.
const LONG: u64 = 512 << 20;

#[test]
fn a_scrub_is_interrupted_and_can_be_repeated() {
    let backend = make("memfd", &format!("size={LONG},prealloc=on,thp=never"));
    let claim = claim(&backend);
    let ended = AtomicBool::new(false);
    let interrupter = backend.interrupter();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                interrupter.interrupt();
                thread::yield_now();
            }
        });
        let interrupted = (0..100).any(|_| {
            fill(&claim, 0, LONG, 9);
            let Err(error) = claim.scrub(0, LONG) else {
                return false;
            };
            assert_eq!(error.kind(), ErrorKind::State, "{error}");
            assert_eq!(error.raw_os_error(), Some(libc::ECANCELED), "{error}");
            assert!(error.to_string().contains("scrub: cancelled"), "{error}");
            true
        });
        ended.store(true, Ordering::Relaxed);
        assert!(interrupted);
    });
    let progress = backend.progress();
    assert!(progress.done < progress.total, "{progress:?}");
    claim.scrub(0, LONG).unwrap();
    assert!(has(&claim, 0, LONG, 0));
    let result = backend.prealloc_result().unwrap();
    assert_eq!(result.bytes, LONG, "that of the preallocation stays");
}

#[test]
fn one_scrub_at_a_time() {
    let backend = make("memfd", &format!("size={LONG},prealloc=on,thp=never"));
    let claim = claim(&backend);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                // The other one may be the one that is refused.
                let _ = claim.scrub(0, LONG);
            }
        });
        let start = Instant::now();
        let mut refused = None;
        while refused.is_none() && start.elapsed() < Duration::from_secs(30) {
            refused = claim.scrub(0, page_size()).err();
        }
        ended.store(true, Ordering::Relaxed);
        let error = refused.expect("one is met while it runs");
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    });
}

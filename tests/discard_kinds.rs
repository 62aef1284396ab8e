// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Discarding and populating ranges, of everything that memory can be made of: what the kernel has
//! afterwards, and who else sees it.

mod common;

use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use common::access::descriptor;
use common::access::fill;
use common::access::has;
use common::access::memfd;
use common::access::new;
use common::access::smaps_field;
use common::host::HugePages;
use common::host::HUGE;
use common::in_child;
use common::kernel;
use common::page_size;
use common::refusing;
use common::skip;
use common::Refusal;
use hostmem::Backend;
use hostmem::Claim;
use hostmem::ErrorKind;
use tempfile::TempDir;

const SIZE: u64 = 8 << 20;
/// What is discarded, in the middle.
const START: u64 = 2 << 20;
const END: u64 = 6 << 20;
const MADV_DONTNEED: u64 = 4;
const MADV_DONTNEED_LOCKED: u64 = 24;

/// What the memory is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Backing {
    Ram,
    RamShared,
    Memfd,
    MemfdPrivate,
    Huge,
    HugePrivate,
    /// A file of the user's, in tmpfs or on disk.
    File(&'static str),
    FilePrivate(&'static str),
    /// A template: opened for reading only, written privately.
    Template,
    Directory,
    DirectoryPrivate,
    Shm,
    Fd,
    FdPrivate,
    HugeFd,
    HugeFdPrivate,
}

use Backing::*;

const TMPFS: &str = "/dev/shm";
const DISK: &str = "";

const SMALL: &[Backing] = &[
    Ram,
    RamShared,
    Memfd,
    MemfdPrivate,
    File(TMPFS),
    File(DISK),
    FilePrivate(TMPFS),
    FilePrivate(DISK),
    Template,
    Directory,
    DirectoryPrivate,
    Shm,
    Fd,
    FdPrivate,
];
const LARGE: &[Backing] = &[Huge, HugePrivate, HugeFd, HugeFdPrivate];

/// Those that the kernel can give back.
fn large() -> &'static [Backing] {
    if kernel() >= (5, 18) {
        return LARGE;
    }
    skip("Linux before 5.18 cannot give back private huge pages of a user's descriptor");
    &LARGE[..3]
}

impl Backing {
    /// Whether the contents behind the memory are the user's and not to be changed.
    fn keeps_contents(self) -> bool {
        matches!(self, FilePrivate(_) | Template | FdPrivate | HugeFdPrivate)
    }

    fn is_huge(self) -> bool {
        LARGE.contains(&self)
    }
}

/// A backend and what the user has of it.
struct Made {
    backend: Backend,
    user: Option<File>,
    _directory: Option<TempDir>,
}

/// What the user's file has in each page.
const OLD: u8 = 3;

fn user_file(directory: &Path) -> File {
    let path = directory.join("file");
    fs::write(&path, vec![OLD; SIZE as usize]).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    file.sync_all().unwrap();
    file
}

fn make(backing: Backing, rest: &str) -> Made {
    let huge = libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
    let mut directory = None;
    let mut user = None;
    let mut place = |base: &str| {
        let made = match base {
            DISK => tempfile::tempdir(),
            base => tempfile::tempdir_in(base),
        };
        directory.insert(made.unwrap()).path().to_owned()
    };
    let (kind, options) = match backing {
        Ram => ("ram", String::new()),
        RamShared => ("ram", "share=on".into()),
        Memfd => ("memfd", String::new()),
        MemfdPrivate => ("memfd", "share=off".into()),
        Huge => ("memfd", "hugetlb=on,hugetlbsize=2M".into()),
        HugePrivate => ("memfd", "hugetlb=on,hugetlbsize=2M,share=off".into()),
        File(base) | FilePrivate(base) => {
            let path = place(base);
            user = Some(user_file(&path));
            let share = matches!(backing, File(_));
            let share = if share { "on" } else { "off" };
            let path = path.display();
            ("file", format!("mem-path={path}/file,share={share}"))
        }
        Template => {
            let path = place(DISK);
            user = Some(user_file(&path));
            let path = path.display();
            ("file", format!("mem-path={path}/file,readonly=on,rom=off"))
        }
        Directory => (
            "file",
            format!("mem-path={},share=on", place(DISK).display()),
        ),
        DirectoryPrivate => ("file", format!("mem-path={}", place(TMPFS).display())),
        Shm => ("shm", String::new()),
        Fd | FdPrivate => {
            let file = memfd("user", 0, SIZE);
            file.write_all_at(&vec![OLD; SIZE as usize], 0).unwrap();
            let share = if backing == Fd { "on" } else { "off" };
            let options = format!("fd={},share={share}", file.as_raw_fd());
            user = Some(file);
            ("fd", options)
        }
        HugeFd | HugeFdPrivate => {
            let file = memfd("user", huge, SIZE);
            let share = if backing == HugeFd { "on" } else { "off" };
            let options = format!("fd={},share={share}", file.as_raw_fd());
            user = Some(file);
            ("fd", options)
        }
    };
    let backend = new(
        kind,
        &format!("size={SIZE},{options}{rest}").replace(",,", ","),
    )
    .complete()
    .unwrap_or_else(|error| panic!("{backing:?}{rest}: {error}"));
    Made {
        backend,
        user,
        _directory: directory,
    }
}

fn blocks(file: &File) -> u64 {
    file.metadata().unwrap().blocks() * 512
}

/// Discards the middle and looks at everything; then populates it again.
fn discard_and_populate(backing: Backing, rest: &str) {
    let what = format!("{backing:?}{rest}");
    let made = make(backing, rest);
    let claim = made.backend.claim("test").unwrap();
    let resident = || made.backend.placement().unwrap().resident;
    fill(&claim, 0, SIZE, 9);
    assert_eq!(resident(), SIZE, "{what}");
    let behind = claim.memory().fd().map(|_| descriptor(&claim));
    let full = behind.as_ref().map(blocks);
    let free = HugePages::free();

    claim.discard(START, END - START).unwrap();

    // Before anything is touched again.
    assert_eq!(resident(), SIZE - (END - START), "{what}");
    let locked = smaps_field(&claim, "Locked");
    if let (Some(behind), Some(full)) = (&behind, full) {
        let now = blocks(behind);
        if backing.keeps_contents() {
            assert_eq!(now, full, "{what}");
        } else if full >= SIZE {
            assert_eq!(full - now, END - START, "{what}");
        }
        assert_eq!(behind.metadata().unwrap().len(), SIZE, "{what}");
    }
    if backing.is_huge() && backing != HugeFdPrivate {
        let pages = (END - START) / HUGE;
        assert_eq!(HugePages::free(), free + pages, "{what}");
    }
    assert!(locked <= SIZE, "{what}");

    // Each side is as it was.
    assert!(has(&claim, 0, START, 9), "{what}");
    assert!(has(&claim, END, SIZE, 9), "{what}");
    let empty = match backing {
        HugeFdPrivate => 0,
        _ if backing.keeps_contents() => OLD,
        _ => 0,
    };
    assert!(has(&claim, START, END, empty), "{what}");

    claim.discard(0, SIZE).unwrap();
    assert_eq!(resident(), 0, "{what}");
    claim.populate(START, END - START).unwrap();
    assert_eq!(resident(), END - START, "{what}");
    claim.populate(0, SIZE).unwrap();
    assert_eq!(resident(), SIZE, "{what}");
    assert!(has(&claim, 0, SIZE, empty), "{what}");

    if let Some(user) = made
        .user
        .filter(|_| backing.keeps_contents() && !backing.is_huge())
    {
        let mut contents = vec![0; SIZE as usize];
        user.read_exact_at(&mut contents, 0).unwrap();
        assert!(contents == vec![OLD; SIZE as usize], "{what}");
    }
}

#[test]
fn what_is_discarded_is_given_back_and_populated_again() {
    for &backing in SMALL {
        for rest in [
            "",
            ",prealloc=on",
            ",reserve=off",
            ",thp=never",
            ",thp=always",
        ] {
            if rest == ",thp=always" && !matches!(backing, Ram | RamShared | Memfd) {
                continue;
            }
            discard_and_populate(backing, rest);
        }
    }
}

#[test]
fn huge_pages_are_given_back_to_their_pool() {
    // A private mapping has its own copies, beside those of the descriptor.
    let Some(_pool) = HugePages::have(2 * SIZE / HUGE) else {
        return;
    };
    for &backing in large() {
        for rest in ["", ",prealloc=on"] {
            discard_and_populate(backing, rest);
            assert_eq!(HugePages::available(), 2 * SIZE / HUGE, "{backing:?}");
        }
    }
}

/// As on kernels before 5.18.
#[test]
fn private_huge_pages_that_cannot_be_given_back_stay() {
    let Some(_pool) = HugePages::have(3 * SIZE / HUGE) else {
        return;
    };
    let refusals = [MADV_DONTNEED, MADV_DONTNEED_LOCKED]
        .map(|advice| Refusal::new(libc::SYS_madvise, libc::EINVAL).only(2, advice));
    let discard = |claim: &Claim| refusing(&refusals, || claim.discard(START, END - START));
    // A hole in our own file gives back the private copies too.
    let made = make(HugePrivate, "");
    let claim = made.backend.claim("test").unwrap();
    fill(&claim, 0, SIZE, 9);
    discard(&claim).unwrap();
    assert!(has(&claim, START, END, 0));
    drop(claim);
    drop(made);
    let anonymous = format!("size={SIZE},hugetlb=on,hugetlbsize=2M");
    let anonymous = new("ram", &anonymous).complete().unwrap();
    let made = make(HugeFdPrivate, "");
    for backend in [&anonymous, &made.backend] {
        let claim = backend.claim("test").unwrap();
        fill(&claim, 0, SIZE, 9);
        let error = discard(&claim).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("5.18"), "{error}");
        assert!(error.to_string().contains("share=on"), "{error}");
        assert!(has(&claim, 0, SIZE, 9), "{error}");
    }
}

fn may_lock() -> bool {
    // SAFETY: takes flags; what it locks is unlocked at once.
    let result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
    // SAFETY: takes nothing.
    unsafe { libc::munlockall() };
    result == 0
}

#[test]
fn locked_memory_is_given_back_too() {
    in_child("locked_memory_is_given_back_too", || {
        if !may_lock() {
            return skip("this process may not lock its memory");
        }
        for &backing in SMALL {
            for rest in [",lock=on", ",lock=on,prealloc=on"] {
                discard_and_populate(backing, rest);
            }
        }
        // SAFETY: takes flags; the child ends with its locks.
        let result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
        assert_eq!(result, 0);
        for &backing in SMALL {
            discard_and_populate(backing, "");
        }
        // SAFETY: takes nothing.
        unsafe { libc::munlockall() };
        let Some(_pool) = HugePages::have(2 * SIZE / HUGE) else {
            return;
        };
        for &backing in large() {
            discard_and_populate(backing, ",lock=on");
        }
        // SAFETY: takes flags.
        let result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
        assert_eq!(result, 0);
        for &backing in large() {
            discard_and_populate(backing, "");
        }
    });
}

/// Whether all of the memory is locked.
fn is_locked(made: &Made) -> bool {
    let claim = made.backend.claim("test").unwrap();
    let memory = claim.memory();
    let entries = common::smaps(memory.as_ptr() as u64, memory.len());
    entries
        .iter()
        .all(|(_, fields)| fields["VmFlags"].split(' ').any(|flag| flag == "lo"))
}

/// As on kernels before 5.18, which give locked pages back only when they are unlocked.
#[test]
fn an_older_kernel_gives_locked_memory_back_and_locks_it_again() {
    in_child(
        "an_older_kernel_gives_locked_memory_back_and_locks_it_again",
        || {
            if !may_lock() {
                return skip("this process may not lock its memory");
            }
            for backing in [Ram, RamShared, Memfd, MemfdPrivate, FilePrivate(TMPFS), Fd] {
                for rest in [",lock=on", ",lock=on,prealloc=on"] {
                    let refusals =
                        [Refusal::new(libc::SYS_madvise, libc::EINVAL)
                            .only(2, MADV_DONTNEED_LOCKED)];
                    refusing(&refusals, || discard_and_populate(backing, rest));
                    let made = make(backing, rest);
                    refusing(&refusals, || {
                        let claim = made.backend.claim("test").unwrap();
                        claim.discard(START, END - START).unwrap();
                    });
                    assert!(is_locked(&made), "{backing:?}{rest}");
                }
            }
        },
    );
}

/// A discard that fails half way must not leave memory that can be swapped out.
#[test]
fn memory_stays_locked_where_discarding_fails() {
    in_child("memory_stays_locked_where_discarding_fails", || {
        if !may_lock() {
            return skip("this process may not lock its memory");
        }
        let made = make(Ram, ",lock=on,prealloc=on");
        for (last, errno) in [
            // What the lock does not keep, and the lock itself.
            (
                Refusal::new(libc::SYS_madvise, libc::EINVAL).only(2, MADV_DONTNEED),
                libc::EINVAL,
            ),
            (Refusal::new(libc::SYS_munlock, libc::EPERM), libc::EPERM),
        ] {
            let locked = Refusal::new(libc::SYS_madvise, libc::EINVAL);
            let locked = locked.only(2, MADV_DONTNEED_LOCKED);
            refusing(&[locked, last], || {
                let claim = made.backend.claim("test").unwrap();
                let error = claim.discard(START, END - START).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                assert_eq!(error.raw_os_error(), Some(errno), "{error}");
            });
            assert!(is_locked(&made));
        }
    });
}

/// Nor lock what was not, where the kernel refuses for another reason.
#[test]
fn memory_that_is_not_locked_stays_so_where_discarding_fails() {
    for backing in [Ram, RamShared, MemfdPrivate] {
        let made = make(backing, ",prealloc=on");
        let refusals = [
            Refusal::new(libc::SYS_madvise, libc::EINVAL).only(2, MADV_DONTNEED),
            Refusal::new(libc::SYS_madvise, libc::EINVAL).only(2, MADV_DONTNEED_LOCKED),
        ];
        refusing(&refusals, || {
            let claim = made.backend.claim("test").unwrap();
            let error = claim.discard(START, END - START).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
        });
        assert!(!is_locked(&made), "{backing:?}");
    }
}

#[test]
fn ranges_are_checked() {
    let page = page_size();
    let last = !(page - 1);
    let mut checks = 0;
    let mut check = |backing: Backing, unit: u64| {
        let made = make(backing, "");
        let claim = made.backend.claim("test").unwrap();
        fill(&claim, 0, SIZE, 9);
        let bad = [
            (1, unit),
            (unit - 1, unit),
            (unit + 1, unit),
            (0, 1),
            (0, unit - 1),
            (0, unit + 1),
            (unit / 2, unit),
            (0, SIZE + unit),
            (unit, SIZE),
            (SIZE - unit, 2 * unit),
            (SIZE, unit),
            (SIZE + unit, 0),
            (SIZE + unit, unit),
            (last, unit),
            (unit, last),
            (last / unit * unit, unit),
            (unit, u64::MAX / unit * unit),
            (unit, u64::MAX / unit * unit - unit + unit),
            (1 << 63, 1 << 63),
            (u64::MAX, u64::MAX),
            (u64::MAX, 1),
        ];
        for (offset, length) in bad {
            for (name, error) in [
                ("discard", claim.discard(offset, length)),
                ("populate", claim.populate(offset, length)),
            ] {
                let error = error.expect_err(&format!("{name} {offset} {length}"));
                assert_eq!(error.kind(), ErrorKind::Value, "{error}");
                let message = error.to_string();
                assert!(message.starts_with(&format!("m0: {name}: ")), "{message}");
                assert!(message.contains(&offset.to_string()), "{message}");
                checks += 1;
            }
        }
        assert!(has(&claim, 0, SIZE, 9), "{backing:?}");
        // Nothing at all is fine wherever it is.
        for offset in [0, unit, SIZE] {
            claim.discard(offset, 0).unwrap();
            claim.populate(offset, 0).unwrap();
        }
        assert!(has(&claim, 0, SIZE, 9), "{backing:?}");
        // The first and the last.
        for offset in [0, SIZE - unit] {
            claim.discard(offset, unit).unwrap();
            assert!(!has(&claim, offset, offset + unit, 9), "{backing:?}");
            claim.populate(offset, unit).unwrap();
        }
        assert!(has(&claim, unit, SIZE - unit, 9), "{backing:?}");
    };
    for &backing in SMALL {
        check(backing, page);
    }
    if let Some(_pool) = HugePages::have(2 * SIZE / HUGE) {
        for &backing in large() {
            check(backing, HUGE);
        }
    }
    eprintln!("{checks} checks");
}

/// Where the memory begins inside the descriptor, and nowhere else.
#[test]
fn only_the_backends_part_of_a_descriptor_is_discarded() {
    let file = memfd("user", 0, 3 * SIZE);
    file.write_all_at(&vec![OLD; 3 * SIZE as usize], 0).unwrap();
    let options = format!("fd={},offset={SIZE},size={SIZE}", file.as_raw_fd());
    let backend = new("fd", &options).complete().unwrap();
    let claim = backend.claim("test").unwrap();
    claim.discard(0, SIZE).unwrap();
    assert_eq!(blocks(&file), 2 * SIZE);
    let mut contents = vec![0; 3 * SIZE as usize];
    file.read_exact_at(&mut contents, 0).unwrap();
    for (at, &byte) in contents.iter().enumerate().step_by(4096) {
        let inside = (SIZE..2 * SIZE).contains(&(at as u64));
        assert_eq!(byte, if inside { 0 } else { OLD }, "{at}");
    }
}

#[test]
fn read_only_memory_keeps_its_contents() {
    let directory = tempfile::tempdir().unwrap();
    let user = user_file(directory.path());
    let path = directory.path().display();
    for (kind, options) in [
        ("file", format!("mem-path={path}/file,readonly=on")),
        ("file", format!("mem-path={path}/file,readonly=on,share=on")),
        ("fd", format!("fd={},readonly=on", user.as_raw_fd())),
        (
            "fd",
            format!("fd={},readonly=on,share=off", user.as_raw_fd()),
        ),
    ] {
        let backend = new(kind, &format!("size={SIZE},{options}"));
        let backend = backend.complete().unwrap();
        let claim = backend.claim("test").unwrap();
        let before = blocks(&user);
        let error = claim.discard(START, END - START).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{options}: {error}");
        assert!(error.to_string().contains("read"), "{error}");
        assert_eq!(blocks(&user), before);
        claim.populate(START, END - START).unwrap();
        assert!(backend.placement().unwrap().resident >= END - START);
        assert!(has(&claim, 0, SIZE, OLD), "{options}");
    }
}

#[test]
fn a_file_system_without_holes_is_named() {
    for backing in [Memfd, File(DISK), Shm, Fd] {
        let made = make(backing, "");
        let refusal = [Refusal::new(libc::SYS_fallocate, libc::EOPNOTSUPP)];
        refusing(&refusal, || {
            let claim = made.backend.claim("test").unwrap();
            fill(&claim, 0, SIZE, 9);
            let error = claim.discard(START, END - START).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains("holes"), "{error}");
            assert!(has(&claim, 0, SIZE, 9), "{backing:?}");
        });
    }
}

#[test]
fn populating_again_may_find_no_memory() {
    let Some(_pool) = HugePages::have(SIZE / HUGE) else {
        return;
    };
    let made = make(Huge, ",prealloc=on");
    let claim = made.backend.claim("test").unwrap();
    fill(&claim, 0, SIZE, 9);
    claim.discard(START, END - START).unwrap();
    // What is given back is no longer reserved, so somebody else may have it.
    let other = new(
        "memfd",
        &format!("size={},hugetlb=on,hugetlbsize=2M", END - START),
    );
    let other = other.complete().unwrap();
    let error = claim.populate(START, END - START).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoMemory, "{error}");
    assert!(
        error.to_string().contains("huge pages of 2048 KiB"),
        "{error}"
    );
    assert!(has(&claim, 0, START, 9));
    drop(other);
    claim.populate(START, END - START).unwrap();
    assert!(has(&claim, START, END, 0));
}

#[test]
fn a_running_preallocation_keeps_others_waiting() {
    let (told, tells) = mpsc::channel();
    let (answer, answered) = mpsc::channel::<()>();
    let builder = new("ram", "size=8M").on_progress(move |_, _| {
        told.send(()).unwrap();
        // Until the answer, and then as often as it is called.
        let _ = answered.recv();
    });
    let backend = builder.complete().unwrap();
    let claim = backend.claim("test").unwrap();
    thread::scope(|scope| {
        let running = scope.spawn(|| backend.populate(0, SIZE));
        tells.recv().unwrap();
        let populated = claim.populate(0, SIZE);
        let switched = backend.set("prealloc", true);
        // A discard need not wait, and its range leaves what is filled.
        let discarded = claim.discard(0, SIZE);
        drop(answer);
        running.join().unwrap().unwrap();
        for error in [populated.unwrap_err(), switched.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
            assert!(error.to_string().contains("preallocation"), "{error}");
        }
        discarded.unwrap();
    });
    assert_eq!(backend.placement().unwrap().resident, 0);
}

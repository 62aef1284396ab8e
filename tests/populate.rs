// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The ways to populate memory: whichever is taken, all of it is there and nothing in it is changed.

mod common;

use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering;
use std::sync::LazyLock;
use std::thread;

use common::access;
use common::host::HugePages;
use common::host::HUGE;
use common::in_child;
use common::refusing;
use common::skip;
use common::touch;
use common::touch::without_populate;
use common::Refusal;
use hostmem::Backend;
use hostmem::Host;
use hostmem::Methods;
use hostmem::Objects;

const MIB: u64 = 1 << 20;
/// Pages of any size, but not a whole number of huge pages or chunks.
const SIZE: u64 = 20 * MIB + 192 * 1024;

/// A host that may use the methods.
fn narrowed(methods: Methods) -> Host {
    let mut host = Host::probe().unwrap();
    host.narrow_methods(methods);
    host
}

fn complete(host: &Host, options: &str) -> Result<Backend, hostmem::Error> {
    let objects = Objects::new(host, &common::defaults()).unwrap();
    Ok(objects.parse(options)?.complete()?)
}

/// Added to the options of files on disk, whose pages the kernel may take back at any time, though
/// they were populated.
fn keep_pages() -> &'static str {
    match common::host::is_root() {
        true => ",lock=on",
        // The limit may be below the size.
        false => "",
    }
}

/// Backends of everything that memory is made of, but for huge pages from a pool; `file` is a file
/// of that size on disk with a mark in each MiB.
fn subjects(file: &str) -> Vec<String> {
    let mut subjects = Vec::new();
    let file = format!("{file}{}", keep_pages());
    for thp in ["auto", "always", "never"] {
        for rest in [
            "memory-backend-ram",
            "memory-backend-ram,share=on",
            "memory-backend-memfd",
            "memory-backend-memfd,share=off",
            "memory-backend-shm",
            &format!("memory-backend-file,share=on,mem-path={file}"),
            &format!("memory-backend-file,share=off,mem-path={file}"),
            &format!("memory-backend-file,share=on,readonly=on,mem-path={file}"),
        ] {
            subjects.push(format!("{rest},id=m0,size={SIZE},thp={thp}"));
        }
    }
    subjects
}

fn marked_file(directory: &tempfile::TempDir) -> String {
    let path = directory.path().join("marked");
    let file = File::create(&path).unwrap();
    file.set_len(SIZE).unwrap();
    for at in (0..SIZE).step_by(MIB as usize) {
        file.write_all_at(&[7], at).unwrap();
    }
    path.to_str().unwrap().to_owned()
}

fn assert_whole(backend: &Backend, what: &str) {
    assert_eq!(backend.placement().unwrap().absent, 0, "{what}");
    if what.contains("mem-path") {
        let claim = backend.claim("test").unwrap();
        for at in (0..SIZE).step_by(MIB as usize) {
            assert_eq!(access::read(&claim, at), 7, "{what}: {at}");
        }
    }
}

#[test]
fn every_method_comes_to_the_same() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = marked_file(&directory);
    for methods in [
        Methods::NONE,
        Methods::LAST_PAGE_FIRST,
        Methods::ZEROPAGE,
        Methods::COLLAPSE,
        Methods::FALLOCATE,
        Methods::ALL,
    ] {
        let host = narrowed(methods);
        for subject in subjects(&file) {
            let what = format!("{methods:?}: {subject}");
            let backend = complete(&host, &format!("{subject},prealloc=on")).expect(&what);
            assert_whole(&backend, &what);
        }
    }
    let host = without_populate();
    for subject in subjects(&file) {
        let backend = complete(&host, &format!("{subject},prealloc=on")).expect(&subject);
        assert_whole(&backend, &subject);
    }
}

#[test]
fn a_method_that_the_kernel_refuses_comes_to_the_same() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = marked_file(&directory);
    for (name, refusal) in [
        (
            "userfaultfd",
            Refusal::new(libc::SYS_userfaultfd, libc::EPERM),
        ),
        (
            "registering",
            Refusal::new(libc::SYS_ioctl, libc::EPERM).only(1, 0xc020_aa00),
        ),
        (
            "zero pages",
            Refusal::new(libc::SYS_ioctl, libc::ENOSPC).only(1, 0xc020_aa04),
        ),
        (
            "fallocate",
            Refusal::new(libc::SYS_fallocate, libc::EOPNOTSUPP),
        ),
        (
            "collapse",
            Refusal::new(libc::SYS_madvise, libc::EINVAL).only(2, 25),
        ),
    ] {
        for subject in subjects(&file) {
            let what = format!("{name} refused: {subject}");
            let host = narrowed(Methods::ALL);
            let backend = refusing(
                &[Refusal {
                    ..refusal_like(&refusal)
                }],
                || complete(&host, &format!("{subject},prealloc=on")),
            );
            assert_whole(&backend.expect(&what), &what);
        }
    }
}

/// Populating says only that a page cannot be touched; allocating its block before has said why.
#[test]
fn a_disk_without_room_is_named() {
    let Some(disk) = common::directory_on_disk() else {
        return;
    };
    let path = disk.path().join("new");
    let options = format!(
        "memory-backend-file,id=m0,share=on,size={SIZE},prealloc=on,prealloc-watch=off,mem-path={}",
        path.display()
    );
    let host = narrowed(Methods::ALL);
    for (errno, free) in [
        (libc::ENOSPC, true),
        (libc::EDQUOT, true),
        (libc::EIO, false),
    ] {
        let full = [
            Refusal::new(libc::SYS_fallocate, errno),
            Refusal::new(libc::SYS_madvise, libc::EFAULT).only(2, 23),
        ];
        let error = refusing(&full, || complete(&host, &options));
        let error = error.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), hostmem::ErrorKind::NoMemory, "{text}");
        let expected = if free { errno } else { libc::EFAULT };
        assert_eq!(error.raw_os_error(), Some(expected), "{text}");
        assert_eq!(
            text.contains("no room is left on the file system"),
            free,
            "{text}"
        );
        assert!(text.contains(&format!("after 0 of {SIZE} bytes")), "{text}");
        assert!(!path.exists());
    }
}

/// Collapsing would take a huge page from where its first small page is.
#[test]
fn interleaved_shared_memory_is_not_collapsed() {
    let Some(node) = common::bindable_node() else {
        return;
    };
    let collapses = |policy: &str| {
        let options = format!(
            "memory-backend-memfd,id=m0,size={SIZE},thp=always,prealloc=on,policy={policy},\
             host-nodes={node}"
        );
        let backend = match complete(&narrowed(Methods::COLLAPSE), &options) {
            Ok(backend) => backend,
            Err(error) => {
                skip(&error.to_string());
                return false;
            }
        };
        assert_eq!(backend.placement().unwrap().absent, 0);
        backend.placement().unwrap().huge > 0
    };
    let setting = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let setting = fs::read_to_string(setting).unwrap_or_default();
    if !setting.contains("[never]") || !(0..10).any(|_| collapses("bind")) {
        return skip("shared memory is not collapsed, or huge without that");
    }
    for policy in ["interleave", "weighted-interleave"] {
        assert!(!collapses(policy), "{policy}");
    }
}

fn refusal_like(refusal: &Refusal) -> Refusal {
    Refusal {
        call: refusal.call,
        only: refusal.only.clone(),
        errno: refusal.errno,
    }
}

/// Pages that are in a file on tmpfs already keep what is in them.
#[test]
fn zero_pages_go_only_where_nothing_is() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = marked_file(&directory);
    for methods in [Methods::ZEROPAGE, Methods::COLLAPSE, Methods::ALL] {
        let subject = format!("memory-backend-file,id=m0,share=on,size={SIZE},mem-path={file}");
        for thp in ["auto", "always"] {
            let what = format!("{subject},thp={thp},prealloc=on");
            let backend = complete(&narrowed(methods), &what).unwrap();
            assert_whole(&backend, &what);
        }
    }
}

/// A child that another part of the program forks meanwhile has the descriptors too, and keeps
/// nothing of the filling alive: a touch would wait for somebody to serve it.
#[test]
fn a_child_that_was_forked_meanwhile_holds_nothing_up() {
    let test = "a_child_that_was_forked_meanwhile_holds_nothing_up";
    in_child(test, || {
        static CHILD: AtomicI32 = AtomicI32::new(0);
        let objects = Objects::new(&Host::probe().unwrap(), &common::defaults()).unwrap();
        let options = format!("memory-backend-memfd,id=m0,thp=never,prealloc=on,size={SIZE}");
        let builder = objects.parse(options).unwrap().on_progress(|_, _| {
            // SAFETY: the child only waits, and ends with its parent.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: likewise.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                loop {
                    thread::park();
                }
            }
            CHILD.store(child, Ordering::Relaxed);
        });
        let backend = builder.complete().unwrap();
        let child = CHILD.load(Ordering::Relaxed);
        assert!(child > 0);
        let claim = backend.claim("vm0").unwrap();
        claim.discard(0, MIB).unwrap();
        // SAFETY: ends the process where the touch hangs.
        unsafe { libc::alarm(5) };
        assert_eq!(access::read(&claim, 0), 0);
        // SAFETY: our own child.
        assert_eq!(unsafe { libc::kill(child, libc::SIGKILL) }, 0);
    });
}

fn shmem_is_small() -> bool {
    let setting = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    fs::read_to_string(setting).is_ok_and(|setting| setting.contains("[never]"))
}

/// It overrides the host's setting, so it is done only when asked for, and never against a policy
/// that spreads pages.
#[test]
fn shared_memory_becomes_huge_when_that_is_asked_for() {
    if common::kernel() < (6, 1) || !shmem_is_small() {
        return skip("shared memory is huge anyway here, or cannot become so");
    }
    let Some(size) = common::thp_size() else {
        return;
    };
    let huge = |options: &str| {
        let all = 16 * size;
        let options = format!("memory-backend-memfd,id=m0,size={all},prealloc=on,{options}");
        let backend = complete(&narrowed(Methods::ALL), &options).unwrap();
        backend.placement().unwrap().huge
    };
    assert_eq!(huge("thp=auto"), 0);
    assert_eq!(huge("thp=never"), 0);
    assert!(huge("thp=always") >= 15 * size);
    if common::bindable_node().is_some() {
        assert_eq!(huge("thp=always,policy=interleave,host-nodes=0"), 0);
        assert!(huge("thp=always,policy=bind,host-nodes=0") >= 15 * size);
    }
}

// ---- Touching, for kernels that cannot be asked ----

#[test]
fn touching_loses_no_write() {
    let _pool = HugePages::have(8);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    touch::loses_no_write(&without_populate(), directory.path(), 10_000);
}

#[test]
fn touching_what_is_read_only_keeps_it() {
    let _pool = HugePages::have(8);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    touch::only_reads(&without_populate(), directory.path());
}

#[test]
fn a_page_that_cannot_be_had_is_an_error_and_no_signal() {
    let _pool = HugePages::have(8);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // With populate it is the same error.
    for host in [without_populate(), Host::probe().unwrap()] {
        touch::fails_without_a_signal(&host, directory.path());
    }
}

#[test]
fn touching_wakes_nobody() {
    touch::wakes_nobody(&without_populate());
}

#[test]
fn touching_waits_for_pages_that_the_program_supplies() {
    touch::waits_for_pages(&without_populate());
}

#[test]
fn touching_fills_several_at_once() {
    let set = Objects::new(&without_populate(), &common::defaults()).unwrap();
    let parse = |i: usize, rest: &str| {
        let options = format!("memory-backend-{rest},id=m{i},size={SIZE},prealloc=on");
        set.parse(options).unwrap()
    };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = marked_file(&directory);
    let all = [
        "ram,thp=never".to_owned(),
        "ram,share=on,prealloc-threads=4".to_owned(),
        "memfd,share=off".to_owned(),
        "shm".to_owned(),
        format!("file,share=on,mem-path={file}"),
        format!("file,share=on,readonly=on,mem-path={file}"),
        "ram,thp=never,prealloc-mode=background".to_owned(),
        "memfd,prealloc-mode=background".to_owned(),
    ];
    for _ in 0..5 {
        let builders = all.iter().enumerate().map(|(i, rest)| parse(i, rest));
        let backends = hostmem::Builder::complete_all(builders.collect()).unwrap();
        for (backend, what) in backends.iter().zip(&all) {
            assert!(backend.wait_prealloc(None).unwrap());
            assert_whole(backend, what);
        }
    }
}

/// Wherever a fill begins, and however large huge pages are.
#[test]
fn each_whole_huge_page_of_a_range_is_made_huge() {
    let host = Host::probe().unwrap();
    let Some(huge) = common::thp_size() else {
        return;
    };
    if !host.methods().contains(Methods::COLLAPSE) || common::kernel() < (6, 1) {
        return skip("MADV_COLLAPSE needs Linux 6.1");
    }
    // More than a chunk of 8 MiB on x86-64.
    let size = 6 * huge;
    if common::meminfo("MemAvailable:") / 2 < size {
        return skip("too little memory for huge pages of this size");
    }
    let page = common::page_size();
    for begin in [0, page, huge - page] {
        let options = format!("memory-backend-memfd,id=m0,size={size},thp=always");
        let backend = complete(&host, &options).unwrap();
        let claim = backend.claim("test").unwrap();
        claim.populate(begin, size - begin).unwrap();
        let whole = (size - begin) / huge * huge;
        assert_eq!(backend.placement().unwrap().huge, whole, "from {begin}");
    }
}

// ---- What is there already ----

/// What is written at once: a base page or a part of one.
const PAGE: usize = 4096;
/// Not a whole number of huge pages or chunks either.
const PARTLY: u64 = 6 * MIB + 192 * 1024;

/// Made once, for they are looked at half a million times.
static CONTENTS: LazyLock<Vec<[u8; PAGE]>> = LazyLock::new(|| {
    let contents = |number| std::array::from_fn(|at| (number + at * 7) as u8 | 1);
    (0..256).map(contents).collect()
});

/// What the page of that number has in it: every `step`th something, from its first byte to its
/// last.
fn page_contents(number: usize, step: usize) -> &'static [u8; PAGE] {
    match number % step {
        0 => &CONTENTS[number % 256],
        _ => &[0; PAGE],
    }
}

fn write_some(claim: &hostmem::Claim, step: usize) {
    for number in (0..claim.memory().len() as usize / PAGE).step_by(step) {
        let contents = page_contents(number, step);
        // SAFETY: a page inside the memory, which nobody else uses.
        unsafe {
            let to = claim.memory().as_ptr().add(number * PAGE);
            std::ptr::copy_nonoverlapping(contents.as_ptr(), to, PAGE);
        }
    }
}

fn write_some_to(file: &File, size: u64, step: usize) {
    file.set_len(0).unwrap();
    file.set_len(size).unwrap();
    for number in (0..size as usize / PAGE).step_by(step) {
        let at = (number * PAGE) as u64;
        file.write_all_at(page_contents(number, step), at).unwrap();
    }
}

fn assert_kept(backend: &Backend, step: usize, what: &str) {
    assert_eq!(backend.placement().unwrap().absent, 0, "{what}");
    let claim = backend.claim("test").unwrap();
    for number in 0..claim.memory().len() as usize / PAGE {
        let mut found = [0; PAGE];
        // SAFETY: a page inside the memory, which nobody else uses.
        unsafe {
            let from = claim.memory().as_ptr().add(number * PAGE);
            std::ptr::copy_nonoverlapping(from, found.as_mut_ptr(), PAGE);
        }
        let expected = page_contents(number, step);
        assert!(found == *expected, "{what}: page {number}");
    }
}

/// Hosts with each method alone, with none, with all, and one that can only touch.
fn hosts() -> Vec<(String, Host)> {
    let mut hosts: Vec<_> = [
        Methods::NONE,
        Methods::LAST_PAGE_FIRST,
        Methods::ZEROPAGE,
        Methods::COLLAPSE,
        Methods::FALLOCATE,
        Methods::ALL,
    ]
    .map(|methods| (format!("{methods:?}"), narrowed(methods)))
    .into();
    hosts.push(("touching".to_owned(), without_populate()));
    hosts
}

const STEPS: [usize; 3] = [3, 21, 147];

/// Written while it is ready, then filled.
#[test]
fn what_was_written_before_a_fill_is_kept() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("file");
    let file = File::create(&path).unwrap();
    let file_kind = format!(
        "memory-backend-file,mem-path={}{}",
        path.display(),
        keep_pages()
    );
    for (name, host) in hosts() {
        for thp in ["auto", "always", "never"] {
            for kind in [
                "memory-backend-ram",
                "memory-backend-ram,share=on",
                "memory-backend-memfd",
                "memory-backend-memfd,share=off",
                "memory-backend-shm",
                &format!("{file_kind},share=on"),
                &format!("{file_kind},share=off"),
            ] {
                for step in STEPS {
                    file.set_len(0).unwrap();
                    file.set_len(PARTLY).unwrap();
                    let options = format!("{kind},id=m0,size={PARTLY},thp={thp}");
                    let what = format!("{name}: {options}: {step}");
                    let backend = complete(&host, &options).expect(&what);
                    write_some(&backend.claim("test").unwrap(), step);
                    backend.populate(0, PARTLY).expect(&what);
                    assert_kept(&backend, step, &what);
                }
            }
        }
    }
}

/// Written by others, before the memory was made of it.
#[test]
fn what_a_file_has_is_kept() {
    let on_disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let in_memory = tempfile::tempdir_in("/dev/shm").unwrap();
    for directory in [&on_disk, &in_memory] {
        let path = directory.path().join("file");
        let file = File::create(&path).unwrap();
        let readable = File::open(&path).unwrap();
        for (name, host) in hosts() {
            for rest in [
                format!("file,mem-path={},share=on", path.display()),
                format!("file,mem-path={},share=off", path.display()),
                format!("file,mem-path={},share=on,readonly=on", path.display()),
                format!("file,mem-path={},share=off,readonly=on", path.display()),
                format!("fd,fd={},readonly=on", readable.as_raw_fd()),
            ] {
                // Of files in memory alone pages may be huge.
                let (thps, keep) = match directory.path() == on_disk.path() {
                    true => (&["auto"][..], keep_pages()),
                    false => (&["auto", "always", "never"][..], ""),
                };
                for (thp, step) in thps.iter().flat_map(|thp| STEPS.map(|step| (thp, step))) {
                    write_some_to(&file, PARTLY, step);
                    let options = format!("memory-backend-{rest},id=m0,size={PARTLY},thp={thp}");
                    let options = options + keep;
                    let what = format!("{name}: {options}: {step}");
                    let backend = complete(&host, &format!("{options},prealloc=on")).expect(&what);
                    assert_kept(&backend, step, &what);
                }
            }
        }
    }
}

/// Reading brings pages in, but no blocks into the file.
#[test]
fn what_is_read_only_is_only_read() {
    use std::os::unix::fs::MetadataExt;
    // In memory a page that is read is the file's.
    let Some(directory) = common::directory_on_disk() else {
        return;
    };
    let path = marked_file(&directory);
    let file = File::open(&path).unwrap();
    file.sync_all().unwrap();
    let before = file.metadata().unwrap().blocks();
    for (name, host) in hosts() {
        for rest in [
            format!("file,mem-path={path},share=on,readonly=on"),
            format!("file,mem-path={path},share=off,readonly=on"),
            format!("fd,fd={},readonly=on", file.as_raw_fd()),
        ] {
            let what = format!("memory-backend-{rest},id=m0,size={SIZE}{}", keep_pages());
            let backend = complete(&host, &format!("{what},prealloc=on")).expect(&what);
            assert_eq!(backend.placement().unwrap().absent, 0, "{name}: {what}");
        }
    }
    file.sync_all().unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), before);
}

#[test]
fn what_huge_pages_have_is_kept() {
    const PAGES: u64 = 7;
    let Some(_pool) = HugePages::have(2 * PAGES) else {
        return;
    };
    for (name, host) in hosts() {
        for share in ["on", "off"] {
            // Each third huge page, and each second and third base page of a huge page.
            for step in [3 * 512, 1024, 3] {
                let size = PAGES * HUGE;
                let options = format!(
                    "memory-backend-memfd,id=m0,hugetlb=on,hugetlbsize=2M,size={size},share={share}"
                );
                let what = format!("{name}: {options}: {step}");
                let backend = complete(&host, &options).expect(&what);
                write_some(&backend.claim("test").unwrap(), step);
                backend.populate(0, size).expect(&what);
                assert_kept(&backend, step, &what);
            }
        }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The ways to populate memory: whichever is taken, all of it is there and nothing in it is changed.

mod common;

use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

use common::access;
use common::in_child;
use common::refusing;
use common::skip;
use common::Refusal;
use hostmem::Backend;
use hostmem::Defaults;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Methods;
use hostmem::Objects;

const MIB: u64 = 1 << 20;
/// Not a whole number of huge pages or chunks.
const SIZE: u64 = 20 * MIB + 12 * 1024;

/// A host that may use the methods.
fn narrowed(methods: Methods) -> Host {
    let mut host = Host::probe().unwrap();
    host.narrow_methods(methods);
    host
}

/// A host whose kernel cannot be asked to populate, as before 5.14.
fn without_populate() -> Host {
    let refusals =
        [22, 23].map(|advice| Refusal::new(libc::SYS_madvise, libc::EINVAL).only(2, advice));
    refusing(&refusals, || Host::probe().unwrap())
}

fn complete(host: &Host, options: &str) -> Result<Backend, hostmem::Error> {
    let objects = Objects::new(host, &Defaults::qemu()).unwrap();
    Ok(objects.parse(options)?.complete()?)
}

/// Backends of everything that memory is made of, but for huge pages from a pool; `file` is a file
/// of that size on disk with a mark in each MiB.
fn subjects(file: &str) -> Vec<String> {
    let mut subjects = Vec::new();
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
    let huge = |options: &str| {
        let options = format!("memory-backend-memfd,id=m0,size=32M,prealloc=on,{options}");
        let backend = complete(&narrowed(Methods::ALL), &options).unwrap();
        backend.placement().unwrap().huge
    };
    assert_eq!(huge("thp=auto"), 0);
    assert_eq!(huge("thp=never"), 0);
    assert!(huge("thp=always") >= 30 * MIB);
    if common::bindable_node().is_some() {
        assert_eq!(huge("thp=always,policy=interleave,host-nodes=0"), 0);
        assert!(huge("thp=always,policy=bind,host-nodes=0") >= 30 * MIB);
    }
}

// ---- Touching, for kernels that cannot be asked ----

/// A guest's own writes are never lost to a touch.
#[test]
fn touching_loses_no_write() {
    let host = without_populate();
    for options in ["thp=never", "share=on"] {
        let options = format!("memory-backend-ram,id=m0,size=64M,{options}");
        let backend = complete(&host, &options).unwrap();
        let claim = backend.claim("test").unwrap();
        let address = claim.memory().as_ptr() as usize;
        let begun = AtomicBool::new(false);
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 1..=200u32 {
                    for page in (0..64 * MIB as usize).step_by(64 * 1024) {
                        // SAFETY: inside the memory, mapped as long as the claim lives; all who
                        // use it meanwhile do so atomically.
                        let byte = unsafe { &*((address + page) as *const AtomicU8) };
                        let before = byte.fetch_add(1, Ordering::Relaxed);
                        assert_eq!(before, (round - 1) as u8, "page {page}");
                    }
                    begun.store(true, Ordering::Relaxed);
                }
            });
            while !begun.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            backend.set("prealloc", true).unwrap();
            for _ in 0..20 {
                backend.populate(0, 64 * MIB).unwrap();
            }
            writer.join().unwrap();
        });
    }
}

/// A file that is too small for its mapping: every touch beyond is SIGBUS.
fn short_memfd() -> File {
    access::memfd("short", 0, 4 * MIB)
}

/// Completes over a file that shrinks before it is filled, and says how.
fn fill_shrunk(host: &Host) -> hostmem::Error {
    let file = short_memfd();
    let options = format!("memory-backend-fd,id=m0,size=4M,fd={}", file.as_raw_fd());
    let backend = complete(host, &options).unwrap();
    file.set_len(MIB).unwrap();
    backend.set("prealloc", true).unwrap_err()
}

static FORWARDED: AtomicU32 = AtomicU32::new(0);
static JUMP_OVER: AtomicUsize = AtomicUsize::new(0);

/// The program's own handler: counts, and gives the page that is missing.
extern "C" fn own_handler(_: libc::c_int) {
    FORWARDED.fetch_add(1, Ordering::SeqCst);
    // SAFETY: replaces the program's own page, which was mapped for this.
    unsafe {
        libc::mmap(
            JUMP_OVER.load(Ordering::SeqCst) as *mut libc::c_void,
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        );
    }
}

fn current_handler() -> usize {
    // SAFETY: zeros are a value of it; it is only read into.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut action);
        action.sa_sigaction
    }
}

#[test]
fn a_page_that_cannot_be_had_is_an_error_and_no_signal() {
    in_child(
        "a_page_that_cannot_be_had_is_an_error_and_no_signal",
        || {
            let host = without_populate();
            let before = current_handler();
            for _ in 0..100 {
                let error = fill_shrunk(&host);
                assert_eq!(error.kind(), ErrorKind::NoMemory, "{error}");
                assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
                assert!(error.to_string().contains("SIGBUS"), "{error}");
                assert_eq!(current_handler(), before);
            }
            // With populate it is the same error.
            let error = fill_shrunk(&Host::probe().unwrap());
            assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        },
    );
}

/// Several at once, of which some fail, while the program takes signals of its own.
#[test]
fn a_signal_that_is_not_ours_reaches_the_program() {
    in_child("a_signal_that_is_not_ours_reaches_the_program", || {
        // SAFETY: the handler only does what a handler may.
        unsafe { libc::signal(libc::SIGBUS, own_handler as *const () as usize) };
        let program = current_handler();
        let host = without_populate();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let options = "memory-backend-ram,id=m0,size=16M,thp=never,prealloc=on";
                        complete(&host, options).unwrap();
                        assert_eq!(fill_shrunk(&host).raw_os_error(), Some(libc::EFAULT));
                    }
                });
            }
            for round in 1..=50 {
                let file = access::memfd("own", 0, 4096);
                // SAFETY: a new mapping of a file that then loses its page.
                let page = unsafe {
                    let protection = libc::PROT_READ | libc::PROT_WRITE;
                    let fd = file.as_raw_fd();
                    libc::mmap(
                        std::ptr::null_mut(),
                        4096,
                        protection,
                        libc::MAP_SHARED,
                        fd,
                        0,
                    )
                };
                assert_ne!(page, libc::MAP_FAILED);
                file.set_len(0).unwrap();
                JUMP_OVER.store(page as usize, Ordering::SeqCst);
                // SAFETY: SIGBUS, in whose handler the page is replaced; then the write succeeds.
                unsafe { page.cast::<u8>().write_volatile(1) };
                assert_eq!(FORWARDED.load(Ordering::SeqCst), round);
                // SAFETY: mapped above, used no more.
                unsafe { libc::munmap(page, 4096) };
                thread::sleep(std::time::Duration::from_millis(2));
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(current_handler(), program);
    });
}

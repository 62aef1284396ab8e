// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Populating by touching from within the kernel, as kernels before 5.14 need: on a kernel that is
//! refused MADV_POPULATE, and on one that does not have it (tests/numa).

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use hostmem::Backend;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Objects;

use super::access;
use super::host::HugePages;
use super::host::HUGE;
use super::refusing;
use super::Refusal;

const SIZE: u64 = 2 * HUGE;

/// A host whose kernel cannot be asked to populate, as before 5.14.
pub fn without_populate() -> Host {
    let refusals =
        [22, 23].map(|advice| Refusal::new(libc::SYS_madvise, libc::EINVAL).only(2, advice));
    refusing(&refusals, || Host::probe().unwrap())
}

fn complete(host: &Host, options: &str) -> Backend {
    let options = format!("memory-backend-{options},id=m0,size={SIZE}");
    let objects = Objects::new(host, &super::defaults()).unwrap();
    let builder = objects.parse(&options).unwrap();
    builder
        .complete()
        .unwrap_or_else(|failed| panic!("{options}: {}", failed.error))
}

/// Whether a pool has huge pages for one backend.
fn has_huge_pages() -> bool {
    HugePages::available() >= SIZE / HUGE
}

/// A file whose page n begins with the number n + 1.
fn number_pages(file: &File) {
    let page = super::page_size();
    file.set_len(SIZE).unwrap();
    for number in 0..SIZE / page {
        file.write_all_at(&(number as u32 + 1).to_ne_bytes(), number * page)
            .unwrap();
    }
}

fn new_file(path: &Path) -> File {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(true);
    options.open(path).unwrap()
}

/// The first word of a page, which is the one that is touched.
fn first_word(address: usize, number: u64) -> &'static AtomicU32 {
    let word = address + (number * super::page_size()) as usize;
    // SAFETY: of a backend's memory, which the caller keeps; all who use it do so atomically.
    unsafe { &*(word as *const AtomicU32) }
}

/// Adds to both halves of the first word of each third page, `rounds` times; two threads do so.
fn add_to_halves(address: usize, high: bool, rounds: u16) {
    for before in 0..rounds {
        for number in (0..SIZE / super::page_size()).step_by(3) {
            let half = (address + (number * super::page_size()) as usize) + usize::from(high) * 2;
            // SAFETY: as for the whole word.
            let half = unsafe { &*(half as *const AtomicU16) };
            assert_eq!(half.fetch_add(1, Ordering::Relaxed), before);
        }
    }
}

/// Of every backing that can be written: what threads write meanwhile, what was written before, and
/// zeros elsewhere.
pub fn loses_no_write(host: &Host, disk: &Path, rounds: u16) {
    let disk = disk.display();
    let mut all: Vec<_> = [
        "ram,thp=never",
        "ram,thp=always",
        "ram,share=on",
        "memfd,thp=never",
        "memfd,thp=always",
        "memfd,share=off",
        "shm",
        "file,share=on,mem-path=/dev/shm",
        "file,share=off,mem-path=/dev/shm",
    ]
    .map(str::to_owned)
    .into();
    for share in ["on", "off"] {
        all.push(format!("file,share={share},mem-path={disk}/{share}"));
        if has_huge_pages() {
            all.push(format!("memfd,share={share},hugetlb=on,hugetlbsize=2M"));
        }
    }
    for what in &all {
        let backend = complete(host, what);
        let claim = backend.claim("test").unwrap();
        let address = claim.memory().as_ptr() as usize;
        let pages = SIZE / super::page_size();
        for number in (1..pages).step_by(3) {
            first_word(address, number).store(number as u32, Ordering::Relaxed);
        }
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let add = |high| scope.spawn(move || add_to_halves(address, high, rounds));
            let writers = [add(false), add(true)];
            let populate = scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    backend.populate(0, SIZE).unwrap();
                }
                backend.populate(0, SIZE).unwrap();
            });
            let ends = writers.map(thread::ScopedJoinHandle::join);
            ended.store(true, Ordering::Relaxed);
            populate.join().unwrap();
            assert!(ends.iter().all(Result::is_ok), "{what}");
        });
        assert_eq!(backend.placement().unwrap().absent, 0, "{what}");
        for number in 0..pages {
            let expected = match number % 3 {
                0 => u32::from(rounds) << 16 | u32::from(rounds),
                1 => number as u32,
                _ => 0,
            };
            let word = first_word(address, number).load(Ordering::Relaxed);
            assert_eq!(word, expected, "{what}: page {number}");
        }
    }
}

/// Of every backing that can be mapped for reading only, while others write it.
pub fn only_reads(host: &Host, disk: &Path) {
    let [on_disk, in_memory] = [disk, Path::new("/dev/shm")].map(|directory| {
        let directory = tempfile::tempdir_in(directory).unwrap();
        let path = directory.path().join("file");
        (new_file(&path), path, directory)
    });
    for (file, path, _) in [&on_disk, &in_memory] {
        for share in ["on", "off"] {
            number_pages(file);
            let path = path.display();
            let what = format!("file,readonly=on,share={share},mem-path={path}");
            reads(&complete(host, &what), Some(file), &what);
        }
    }
    if has_huge_pages() {
        let file = access::memfd("huge", libc::MFD_HUGETLB | libc::MFD_HUGE_2MB, SIZE);
        let readable = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        let what = format!("fd,readonly=on,fd={}", readable.as_raw_fd());
        let writer = complete(host, &format!("fd,fd={}", file.as_raw_fd()));
        let claim = writer.claim("test").unwrap();
        for number in 0..SIZE / super::page_size() {
            let word = first_word(claim.memory().as_ptr() as usize, number);
            word.store(number as u32 + 1, Ordering::Relaxed);
        }
        reads(&complete(host, &what), None, &what);
    }
}

fn reads(backend: &Backend, file: Option<&File>, what: &str) {
    let page = super::page_size();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        if let Some(file) = file {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    number_pages(file);
                }
            });
        }
        let result = (0..5).try_for_each(|_| backend.populate(0, SIZE));
        ended.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|error| panic!("{what}: {error}"));
    });
    assert_eq!(backend.placement().unwrap().absent, 0, "{what}");
    let claim = backend.claim("test").unwrap();
    for number in 0..SIZE / page {
        let word = first_word(claim.memory().as_ptr() as usize, number);
        assert_eq!(word.load(Ordering::Relaxed), number as u32 + 1, "{what}");
    }
}

/// No page beyond the end of a file and none in an empty pool. With SIGBUS the process would end.
pub fn fails_without_a_signal(host: &Host, disk: &Path) {
    let directories = [disk, Path::new("/dev/shm")];
    let directories = directories.map(|directory| tempfile::tempdir_in(directory).unwrap());
    let mut files = vec![access::memfd("short", 0, SIZE)];
    files.extend(
        directories
            .iter()
            .map(|directory| new_file(&directory.path().join("file"))),
    );
    for file in &files {
        for options in ["share=on", "share=off", "share=on,readonly=on"] {
            file.set_len(SIZE).unwrap();
            let readonly = options.contains("readonly");
            let mut again = OpenOptions::new();
            let again = again.read(true).write(!readonly);
            let again = again
                .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
                .unwrap();
            let backend = complete(host, &format!("fd,{options},fd={}", again.as_raw_fd()));
            file.set_len(SIZE / 2).unwrap();
            assert_fails(&backend, options);
        }
    }
    // Beyond the pool: what is left of it is mapped by nobody.
    let taken = has_huge_pages().then(|| {
        let pages = HugePages::available();
        let file = access::memfd(
            "taken",
            libc::MFD_HUGETLB | libc::MFD_HUGE_2MB,
            pages * HUGE,
        );
        // SAFETY: takes numbers.
        let result =
            unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, (pages * HUGE) as libc::off_t) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        file
    });
    if taken.is_some() {
        for share in ["on", "off"] {
            let options = format!("memfd,reserve=off,share={share},hugetlb=on,hugetlbsize=2M");
            assert_fails(&complete(host, &options), &options);
        }
    }
}

fn assert_fails(backend: &Backend, what: &str) {
    let error = backend.populate(0, SIZE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoMemory, "{what}: {error}");
    assert_eq!(error.raw_os_error(), Some(libc::EFAULT), "{what}: {error}");
    assert!(error.to_string().contains("SIGBUS"), "{what}: {error}");
}

/// Waits until it is woken, or half a second has passed: whether it was woken.
fn waits_in_vain(word: usize, operation: libc::c_int) -> bool {
    let timeout = libc::timespec {
        tv_sec: 0,
        tv_nsec: 500_000_000,
    };
    // SAFETY: a word of memory that is mapped; the timeout outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word,
            operation,
            0,
            &raw const timeout,
            ptr::null::<u32>(),
            0,
        )
    };
    let error = io::Error::last_os_error().raw_os_error();
    result == -1 && error == Some(libc::ETIMEDOUT)
}

/// No thread that waits for a word of the memory wakes.
pub fn wakes_nobody(host: &Host) {
    let file = access::memfd("waited for", 0, SIZE);
    let writable = complete(host, &format!("fd,fd={}", file.as_raw_fd()));
    let readable = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    let readonly = complete(host, &format!("fd,readonly=on,fd={}", readable.as_raw_fd()));
    for backend in [&writable, &readonly] {
        backend.populate(0, SIZE).unwrap();
        let claim = backend.claim("test").unwrap();
        let word = claim.memory().as_ptr() as usize;
        let ended = AtomicU8::new(0);
        thread::scope(|scope| {
            let waiters = [0, libc::FUTEX_PRIVATE_FLAG].map(|private| {
                let ended = &ended;
                scope.spawn(move || {
                    let in_vain = waits_in_vain(word, libc::FUTEX_WAIT | private);
                    ended.fetch_add(1, Ordering::Relaxed);
                    in_vain
                })
            });
            let mut touches = 0;
            while ended.load(Ordering::Relaxed) < 2 {
                backend.populate(0, super::page_size()).unwrap();
                touches += 1;
                thread::sleep(Duration::from_millis(5));
            }
            assert!(touches > 3);
            for waiter in waiters {
                assert!(waiter.join().unwrap(), "it was woken");
            }
        });
    }
}

/// Supplies pages by userfaultfd(2), one for each fault; their number.
fn supply_pages(descriptor: &File, pages: u64) -> io::Result<u64> {
    const UFFDIO_ZEROPAGE: libc::c_ulong = 0xc020_aa04;
    for supplied in 0..pages {
        // A struct uffd_msg: the address is its third part.
        let mut message = [0u8; 32];
        (&mut &*descriptor).read_exact(&mut message)?;
        let address = u64::from_ne_bytes(message[16..24].try_into().unwrap());
        let page = super::page_size();
        let mut zero = [address / page * page, page, 0, 0];
        control(descriptor, UFFDIO_ZEROPAGE, &mut zero).map_err(|error| {
            io::Error::new(error.kind(), format!("after {supplied} pages: {error}"))
        })?;
    }
    Ok(pages)
}

fn control<const N: usize>(
    descriptor: &File,
    request: libc::c_ulong,
    argument: &mut [u64; N],
) -> io::Result<()> {
    // SAFETY: each request's struct consists of as many 64-bit fields, and outlives the call.
    match unsafe { libc::ioctl(descriptor.as_raw_fd(), request as _, argument.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Pages that the program supplies as they are asked for.
pub fn waits_for_pages(host: &Host) {
    const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
    const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
    // SAFETY: takes flags.
    let descriptor = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    if descriptor < 0 {
        return super::skip("userfaultfd for faults in the kernel needs a privilege");
    }
    // SAFETY: opened above, owned by nobody else.
    let descriptor = unsafe { File::from_raw_fd(descriptor as libc::c_int) };
    control(&descriptor, UFFDIO_API, &mut [0xaa, 0, 0]).unwrap();
    let backend = complete(host, "ram,thp=never");
    let claim = backend.claim("test").unwrap();
    let mut range = [claim.memory().as_ptr() as u64, SIZE, 1, 0];
    control(&descriptor, UFFDIO_REGISTER, &mut range).unwrap();
    let pages = 16;
    thread::scope(|scope| {
        let supplier = scope.spawn(|| supply_pages(&descriptor, pages));
        let result = backend.populate(0, pages * super::page_size());
        // Where it failed, the supplier still waits.
        for page in 0..pages {
            access::read(&claim, page * super::page_size());
        }
        assert_eq!(supplier.join().unwrap().unwrap(), pages);
        result.unwrap();
    });
}

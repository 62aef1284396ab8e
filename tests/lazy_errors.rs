// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Contents that cannot be read when they are needed: what reports it, what waits, and going on.

mod common;

use std::fs;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use common::access::assert_refused;
use common::access::new;
use common::host::become_nobody;
use common::host::HugePages;
use common::image::assert_same;
use common::image::complete;
use common::image::image_in;
use common::image::pattern;
use common::image::MIB;
use common::image::SIZE;
use common::in_child;
use common::kernel;
use common::lazy::assert_unread;
use common::lazy::can_serve;
use common::lazy::touch;
use common::lazy::DEMAND;
use common::lazy::LAZY;
use common::page_size;
use common::skip;
use common::Belongings;
use common::Refusal;
use hostmem::Backend;
use hostmem::Claim;
use hostmem::ErrorKind;

const TIME: Duration = Duration::from_secs(20);

/// An image that is cut to its first 8 MiB, and what it had.
struct Cut {
    file: File,
    path: String,
    bytes: Vec<u8>,
    _directory: tempfile::TempDir,
}

impl Cut {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bytes = pattern(23, SIZE);
        let path = image_in(directory.path(), 0, &bytes);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        Self {
            file,
            path,
            bytes,
            _directory: directory,
        }
    }

    fn cut(&self) {
        self.file.set_len(8 * MIB).unwrap();
    }

    fn mend(&self) {
        self.file
            .write_all_at(&self.bytes[8 << 20..], 8 * MIB)
            .unwrap();
    }
}

const MEMORIES: [(&str, &str); 3] = [
    ("ram", "thp=always"),
    ("ram", "thp=never"),
    ("memfd", "thp=never"),
];

/// The callback, those who wait for the end, and event loops.
#[test]
fn a_failed_read_on_demand_is_told_to_all() {
    if !can_serve() {
        return;
    }
    for (kind, memory) in MEMORIES {
        let image = Cut::new();
        let (sender, told) = mpsc::channel();
        let options = format!("size={SIZE},{DEMAND},{memory},contents={}", image.path);
        let builder = new(kind, &options);
        let builder = builder.on_prealloc_done(move |result, _| sender.send(result).unwrap());
        let backend = builder.complete().unwrap();
        image.cut();
        let claim = backend.claim("test").unwrap();
        assert!(backend.wait_prealloc(None).unwrap());
        thread::scope(|scope| {
            let (claim, bytes) = (&claim, &image.bytes);
            for at in [12 << 20, 15 << 20] {
                scope.spawn(move || assert_eq!(touch(claim, at), bytes[at]));
            }
            // As often as it is tried again, and in vain.
            for _ in 0..3 {
                let error = told.recv_timeout(TIME).unwrap().unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ENODATA), "{error}");
                let message = error.to_string();
                assert!(message.contains("bytes at offset 1"), "{message}");
                assert_eq!(backend.wait_prealloc(None).unwrap_err(), error);
                assert_eq!(claim.unread().1.unwrap(), error);
                assert!(told.try_recv().is_err());
                claim.retry_contents().unwrap();
            }
            told.recv_timeout(TIME).unwrap().unwrap_err();
            image.mend();
            claim.retry_contents().unwrap();
        });
        assert!(backend.wait_prealloc(None).unwrap());
        assert!(claim.unread().1.is_none());
        drop(claim);
        assert_same(&backend, &image.bytes, &options);
    }
}

/// What the background says is its own, and retrying does not take it back.
#[test]
fn a_failed_background_stays_failed_until_it_begins_again() {
    if !can_serve() {
        return;
    }
    let image = Cut::new();
    let options = format!("size={SIZE},{DEMAND},contents={}", image.path);
    let backend = complete("ram", &options);
    image.cut();
    backend.set("prealloc-mode", "background").unwrap();
    backend.set("prealloc", true).unwrap();
    let error = backend.wait_prealloc(None).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENODATA), "{error}");
    let claim = backend.claim("test").unwrap();
    claim.retry_contents().unwrap();
    assert_eq!(backend.wait_prealloc(None).unwrap_err(), error);
    image.mend();
    backend.set("prealloc", true).unwrap();
    assert!(backend.wait_prealloc(None).unwrap());
    assert_unread(&claim, 0);
    drop(claim);
    assert_same(&backend, &image.bytes, &options);
}

/// For event loops that were told of the background by it.
#[test]
fn the_event_of_a_background_tells_of_later_reads_that_fail() {
    if !can_serve() {
        return;
    }
    let image = Cut::new();
    let options = format!("size={SIZE},{DEMAND},contents={}", image.path);
    let backend = complete("ram", &options);
    assert!(backend.prealloc_event().is_none());
    image.cut();
    backend.set("prealloc-mode", "background").unwrap();
    backend.set("prealloc", true).unwrap();
    backend.wait_prealloc(None).unwrap_err();
    let mut event: File = backend
        .prealloc_event()
        .unwrap()
        .try_clone_to_owned()
        .unwrap()
        .into();
    let is_readable = |milliseconds| {
        let fd = backend.prealloc_event().unwrap().as_raw_fd();
        let mut poll = libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry, which outlives the call.
        unsafe { libc::poll(&mut poll, 1, milliseconds) == 1 }
    };
    assert!(is_readable(0));
    event.read_exact(&mut [0; 8]).unwrap();
    assert!(!is_readable(0));
    let claim = backend.claim("test").unwrap();
    thread::scope(|scope| {
        let (claim, bytes) = (&claim, &image.bytes);
        scope.spawn(move || assert_eq!(touch(claim, 12 << 20), bytes[12 << 20]));
        let told = is_readable(TIME.as_millis() as i32);
        image.mend();
        claim.retry_contents().unwrap();
        assert!(told);
    });
}

const UFFDIO_UNREGISTER: u64 = 0x8010_aa01;
const UFFDIO_COPY: u64 = 0xc028_aa03;
const UFFDIO_ZEROPAGE: u64 = 0xc020_aa04;

/// Runs the body where an ioctl is refused. A body that does not end is left in the kernel.
fn within_time(request: u64, body: impl FnOnce() + Send + 'static) {
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        Refusal::new(libc::SYS_ioctl, libc::ENOMEM)
            .only(1, request)
            .install();
        body();
        ended.send(()).unwrap();
    });
    end.recv_timeout(TIME).expect("the body has not ended");
}

/// Populating would wait in the kernel for a thread that cannot make the page.
#[test]
fn zeros_that_cannot_be_put_fail_what_needs_them() {
    let memories = [
        (UFFDIO_ZEROPAGE, "thp=never", page_size()),
        (UFFDIO_COPY, "hugetlb=on,hugetlbsize=2M,share=off", 2 * MIB),
    ];
    if !can_serve() {
        return;
    }
    for (request, memory, page) in memories {
        let Some(_pool) = HugePages::have(SIZE / (2 * MIB)) else {
            continue;
        };
        within_time(request, move || {
            let image = Cut::new();
            let options = format!("size={SIZE},{DEMAND},{memory},contents={}", image.path);
            let kind = if page == page_size() { "ram" } else { "memfd" };
            let claim = complete(kind, &options).claim("test").unwrap();
            // What is discarded is not read, and becomes zero.
            claim.discard(0, page).unwrap();
            let error = claim.populate(0, page).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOMEM), "{error}");
        });
    }
}

/// The image was read, but the kernel has no page for it.
#[test]
fn contents_that_cannot_be_put_in_place_are_said() {
    in_child("contents_that_cannot_be_put_in_place_are_said", || {
        if !can_serve() {
            return;
        }
        let image = Cut::new();
        let options = format!("size={SIZE},{DEMAND},thp=never,contents={}", image.path);
        let refusal = Refusal::new(libc::SYS_ioctl, libc::ENOMEM).only(1, UFFDIO_COPY);
        let backend = common::refusing(&[refusal], || complete("ram", &options));
        // Its thread waits for ever, so that the memory has to stay as long as the process.
        let claim: &Claim = Box::leak(Box::new(backend.claim("test").unwrap()));
        thread::spawn(|| touch(claim, 5 << 20));
        let start = Instant::now();
        let error = loop {
            if let (_, Some(error)) = claim.unread() {
                break error;
            }
            assert!(start.elapsed() < TIME, "it is not said");
            thread::sleep(Duration::from_millis(5));
        };
        let message = error.to_string();
        let words = "cannot put them in place at offset 5242880 of the memory";
        assert!(message.contains(words), "{message}");
        assert_eq!(error.kind(), ErrorKind::NoMemory, "{message}");
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM), "{message}");
    });
}

/// mlockall(2) populates memory as it becomes accessible, where mlock2(2) cannot prevent it.
#[test]
fn what_is_locked_as_it_is_mapped_is_read_from_the_image() {
    if !can_serve() {
        return;
    }
    in_child(
        "what_is_locked_as_it_is_mapped_is_read_from_the_image",
        || {
            // SAFETY: takes flags.
            if unsafe { libc::mlockall(libc::MCL_FUTURE) } != 0 {
                return skip("mlockall is refused");
            }
            Refusal::new(libc::SYS_mlock2, libc::EPERM).install();
            let image = Cut::new();
            for (kind, memory) in MEMORIES.into_iter().chain([("memfd", "share=off")]) {
                for mode in [DEMAND, LAZY] {
                    let options = format!("size={SIZE},{mode},{memory},contents={}", image.path);
                    assert_same(&complete(kind, &options), &image.bytes, &options);
                }
            }
        },
    );
}

/// Memory that stays registered is served as long as it is there.
#[test]
fn what_stays_registered_is_served() {
    if !can_serve() {
        return;
    }
    within_time(UFFDIO_UNREGISTER, || {
        let image = Cut::new();
        let options = format!("size={SIZE},{LAZY},thp=never,contents={}", image.path);
        let backend = complete("ram", &options);
        assert!(backend.wait_prealloc(Some(TIME)).unwrap());
        let claim = backend.claim("test").unwrap();
        assert_unread(&claim, 0);
        let page = page_size();
        claim.discard(0, page).unwrap();
        assert_eq!(touch(&claim, 1), 0);
        claim.discard(0, page).unwrap();
        claim.populate(0, page).unwrap();
        assert_eq!(touch(&claim, page as usize), image.bytes[page as usize]);
    });
}

/// From inside the callback: what is BUSY, trying again, and dropping the backend.
#[test]
fn the_callback_may_retry_and_drop() {
    if !can_serve() {
        return;
    }
    in_child("the_callback_may_retry_and_drop", || {
        let image = Cut::new();
        let options = format!("size={SIZE},{DEMAND},contents={}", image.path);
        drop(complete("ram", &options));
        let before = Belongings::now().without_stacks();
        for _ in 0..10 {
            image.mend();
            let backend: Arc<Mutex<Option<Backend>>> = Arc::default();
            let (mine, calls) = (Arc::clone(&backend), Arc::new(AtomicUsize::new(0)));
            let (sender, done) = mpsc::channel();
            let counted = Arc::clone(&calls);
            let builder = new("ram", &options).on_prealloc_done(move |result, _| {
                result.unwrap_err();
                let mut mine = mine.lock().unwrap();
                let backend = mine.as_ref().unwrap();
                assert_eq!(
                    backend.wait_prealloc(None).unwrap_err().kind(),
                    ErrorKind::Busy
                );
                assert_eq!(
                    backend.can_be_deleted().unwrap_err().kind(),
                    ErrorKind::Busy
                );
                if counted.fetch_add(1, Ordering::Relaxed) < 2 {
                    // Not through a claim, which the thread that waits has.
                    sender.send(false).unwrap();
                    return;
                }
                *mine = None;
                sender.send(true).unwrap();
            });
            *backend.lock().unwrap() = Some(builder.complete().unwrap());
            image.cut();
            let claim = backend
                .lock()
                .unwrap()
                .as_ref()
                .unwrap()
                .claim("t")
                .unwrap();
            let file = tempfile::tempfile().unwrap();
            // Reading for a save fails as a touch does not: it goes on.
            claim.save(&file, 0).unwrap_err();
            thread::scope(|scope| {
                let (claim, bytes) = (&claim, &image.bytes);
                scope.spawn(move || assert_eq!(touch(claim, 12 << 20), bytes[12 << 20]));
                while !done.recv_timeout(TIME).unwrap() {
                    claim.retry_contents().unwrap();
                }
                // The claim keeps what the callback has dropped.
                assert!(backend.lock().unwrap().is_none());
                image.mend();
                claim.retry_contents().unwrap();
            });
            assert_eq!(calls.load(Ordering::Relaxed), 3);
            drop(claim);
        }
        let after = Belongings::now().without_stacks();
        assert_eq!(after, before);
    });
}

/// Where the callback's is the last owner the thread that calls it frees the backend.
#[test]
fn it_ends_while_a_failure_is_told() {
    if !can_serve() {
        return;
    }
    in_child("it_ends_while_a_failure_is_told", || {
        let image = Cut::new();
        let options = format!("size={SIZE},{DEMAND},contents={}", image.path);
        drop(complete("ram", &options));
        let before = Belongings::now().without_stacks();
        for round in 0..40 {
            image.mend();
            let slot: Arc<Mutex<Option<Backend>>> = Arc::default();
            let mine = Arc::clone(&slot);
            let (sender, told) = mpsc::channel();
            let builder = new("ram", &options).on_prealloc_done(move |result, _| {
                result.unwrap_err();
                if round % 2 == 0 {
                    let backend = mine.lock().unwrap().take().unwrap();
                    let error = backend.can_be_deleted().unwrap_err();
                    assert!(error.to_string().contains("callback"), "{error}");
                    drop(backend);
                }
                sender.send(()).unwrap();
            });
            let backend = builder.complete().unwrap();
            image.cut();
            let address = {
                let claim = backend.claim("t").unwrap();
                claim.memory().as_ptr() as usize + (12 << 20)
            };
            *slot.lock().unwrap() = Some(backend);
            // Its touch ends with EFAULT or with the byte zero, when the memory goes.
            let writer = thread::spawn(move || {
                let file = tempfile::tempfile().unwrap();
                use std::os::fd::AsRawFd;
                // SAFETY: the kernel reads the byte, or finds no memory there.
                unsafe { libc::write(file.as_raw_fd(), address as *const _, 1) }
            });
            if round % 2 == 0 {
                told.recv_timeout(TIME).unwrap();
            } else {
                thread::sleep(Duration::from_micros(100 * round));
                drop(slot.lock().unwrap().take());
            }
            writer.join().unwrap();
        }
        // Freed a moment after the callback has returned.
        let start = std::time::Instant::now();
        while Belongings::now().without_stacks() != before && start.elapsed() < TIME {
            thread::yield_now();
        }
        let after = Belongings::now().without_stacks();
        assert_eq!(after, before);
    });
}

/// Of a pool that is short: nothing is read then, and all of it later.
#[test]
fn contents_wait_for_huge_pages() {
    if !can_serve() {
        return;
    }
    in_child("contents_wait_for_huge_pages", || {
        let Some(pool) = HugePages::have(2) else {
            return;
        };
        let images = tempfile::tempdir().unwrap();
        let bytes = pattern(13, 4 * MIB);
        let image = image_in(images.path(), 0, &bytes);
        let mut copying = hostmem::Host::probe().unwrap();
        copying.narrow_methods(hostmem::Methods::NONE);
        let copying = hostmem::Objects::new(&copying, &common::defaults()).unwrap();
        let mapping = common::objects();
        for (objects, share) in [(&mapping, "on"), (&mapping, "off"), (&copying, "on")] {
            let options = format!(
                "memory-backend-memfd,id=m0,size=4M,hugetlb=on,hugetlbsize=2M,reserve=off,\
                 share={share},{DEMAND},contents={image}"
            );
            let backend = objects.parse(&options).unwrap().complete().unwrap();
            let claim = backend.claim("test").unwrap();
            pool.resize(0);
            let error = claim.populate(0, 2 * MIB).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoMemory, "{options}: {error}");
            assert_eq!(
                error.raw_os_error(),
                Some(libc::ENOMEM),
                "{options}: {error}"
            );
            assert_eq!(claim.unread().0, 4 * MIB, "{options}");
            pool.resize(4);
            claim.populate(0, 4 * MIB).unwrap();
            drop(claim);
            assert_same(&backend, &bytes, &options);
        }
    });
}

/// While the background reads the rest, whose thread leaves the backend to the one that frees it.
#[test]
fn who_is_told_of_a_failure_may_drop_it_in_the_background() {
    let test = "who_is_told_of_a_failure_may_drop_it_in_the_background";
    if !can_serve() {
        return;
    }
    in_child(test, || {
        let image = Cut::new();
        let options = format!(
            "size={SIZE},{DEMAND},prealloc-mode=background,contents={}",
            image.path
        );
        drop(complete("ram", &options));
        let before = Belongings::now().without_stacks();
        let slot: Arc<Mutex<Option<Backend>>> = Arc::default();
        let (mine, (told, is_told)) = (Arc::clone(&slot), mpsc::channel());
        let (read, is_read) = mpsc::channel();
        let (dropped, is_dropped) = mpsc::channel();
        let builder = new("ram", &options)
            .on_prealloc_done(move |result, _| {
                result.unwrap_err();
                told.send(()).unwrap();
                is_read.recv_timeout(TIME).unwrap();
                drop(mine.lock().unwrap().take());
                dropped.send(()).unwrap();
                // Long enough for the other thread to end.
                thread::sleep(Duration::from_millis(100));
            })
            .on_progress(move |done, total| {
                if done == total {
                    read.send(()).unwrap();
                    is_dropped.recv_timeout(TIME).unwrap();
                }
            });
        let backend = builder.complete().unwrap();
        image.cut();
        let address = backend.claim("t").unwrap().memory().as_ptr() as usize + (12 << 20);
        *slot.lock().unwrap() = Some(backend);
        let writer = thread::spawn(move || {
            let file = tempfile::tempfile().unwrap();
            // SAFETY: the kernel reads the byte, or finds no memory there.
            unsafe { libc::write(file.as_raw_fd(), address as *const _, 1) }
        });
        is_told.recv_timeout(TIME).unwrap();
        image.mend();
        let begun = slot.lock().unwrap().as_ref().unwrap().set("prealloc", true);
        begun.unwrap();
        assert_eq!(writer.join().unwrap(), 1);
        let start = Instant::now();
        while Belongings::now().without_stacks() != before && start.elapsed() < TIME {
            thread::yield_now();
        }
        assert_eq!(Belongings::now().without_stacks(), before);
    });
}

// ---- contents-poison ----

static CAUGHT: AtomicUsize = AtomicUsize::new(0);
static MENDED: AtomicUsize = AtomicUsize::new(0);
static CODE: AtomicUsize = AtomicUsize::new(0);
static ADDRESS: AtomicUsize = AtomicUsize::new(0);

/// What a kernel without CONFIG_MEMORY_FAILURE says in place of broken hardware.
fn code_of_broken_memory() -> usize {
    const BUS_ADRERR: usize = 2;
    const BUS_MCEERR_AR: usize = 4;
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    match text.contains("HardwareCorrupted:") {
        true => BUS_MCEERR_AR,
        false => BUS_ADRERR,
    }
}

/// Holds the thread until the image is mended; then it touches again.
extern "C" fn catch(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's record, of a SIGBUS.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr()) };
    CODE.store(code as usize, Ordering::Relaxed);
    ADDRESS.store(address as usize, Ordering::Relaxed);
    let caught = 1 + CAUGHT.fetch_add(1, Ordering::Relaxed);
    while MENDED.load(Ordering::Relaxed) < caught {
        // SAFETY: takes a number, and may be called in a handler.
        unsafe { libc::usleep(1000) };
    }
}

fn catch_sigbus() {
    // SAFETY: the handler makes only calls that a handler may.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = catch as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()),
            0
        );
    }
}

fn wait_until_caught(times: usize) {
    let start = std::time::Instant::now();
    while CAUGHT.load(Ordering::Relaxed) < times {
        assert!(start.elapsed() < TIME, "no SIGBUS");
        thread::yield_now();
    }
}

/// A guest would get a machine check there; other places are served as ever.
#[test]
fn poisoned_contents_are_sigbus_until_they_are_retried() {
    if !can_serve() || kernel() < (6, 6) {
        return skip("needs UFFDIO_POISON");
    }
    in_child(
        "poisoned_contents_are_sigbus_until_they_are_retried",
        || {
            catch_sigbus();
            for (kind, memory) in MEMORIES {
                CAUGHT.store(0, Ordering::Relaxed);
                MENDED.store(0, Ordering::Relaxed);
                let image = Cut::new();
                let options = format!("size={SIZE},{DEMAND},contents-poison=on,{memory}");
                let options = format!("contents={},{}", image.path, &options);
                let backend = complete(kind, &options);
                image.cut();
                let claim = backend.claim("test").unwrap();
                thread::scope(|scope| {
                    let (claim, bytes) = (&claim, &image.bytes);
                    let at = (12 << 20) + 8;
                    scope.spawn(move || assert_eq!(touch(claim, at), bytes[at]));
                    wait_until_caught(1);
                    assert_eq!(CODE.load(Ordering::Relaxed), code_of_broken_memory());
                    // The kernel names the page.
                    let touched = claim.memory().as_ptr() as usize + at;
                    assert_eq!(ADDRESS.load(Ordering::Relaxed) >> 12, touched >> 12);
                    let error = backend.wait_prealloc(None).unwrap_err().to_string();
                    assert!(
                        error.contains("a thread that touches them gets SIGBUS"),
                        "{error}"
                    );
                    assert_eq!(touch(claim, 5), bytes[5]);
                    // In vain: it is caught again.
                    claim.retry_contents().unwrap();
                    MENDED.store(1, Ordering::Relaxed);
                    wait_until_caught(2);
                    image.mend();
                    claim.retry_contents().unwrap();
                    assert!(backend.wait_prealloc(None).unwrap());
                    MENDED.store(2, Ordering::Relaxed);
                });
                assert_eq!(CAUGHT.load(Ordering::Relaxed), 2, "{options}");
                drop(claim);
                assert_same(&backend, &image.bytes, &options);
                assert_eq!(CAUGHT.load(Ordering::Relaxed), 2, "{options}");
            }
        },
    );
}

// ---- Images that cannot be used ----

#[test]
fn images_that_cannot_be_used_are_refused_in_every_mode() {
    in_child(
        "images_that_cannot_be_used_are_refused_in_every_mode",
        || {
            let directory = tempfile::tempdir().unwrap();
            let open = |path: &std::path::Path| {
                fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
            };
            open(directory.path());
            let page = page_size();
            let long = image_in(directory.path(), 0, &vec![1; page as usize + 1]);
            open(long.as_ref());
            let secret = directory.path().join("secret");
            fs::write(&secret, [1]).unwrap();
            fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
            let secret = secret.to_str().unwrap();
            let with =
                |image: &str, mode| new("ram", &format!("size={page},{mode},contents={image}"));
            for mode in [DEMAND, LAZY, "prealloc=on"] {
                let parts = ["contents=", &(page + 1).to_string(), &page.to_string()];
                assert_refused(with(&long, mode), ErrorKind::Value, &parts);
            }
            // Reading on demand may be refused to nobody before the image is looked at.
            become_nobody();
            let parts = ["contents=", secret, "cannot open it: Permission denied"];
            assert_refused(with(secret, "prealloc=on"), ErrorKind::Io, &parts);
        },
    );
}

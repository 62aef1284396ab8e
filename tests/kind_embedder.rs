// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kinds that the embedder brings: good ones, failing ones, and ones that lie.

mod common;
#[path = "../examples/guest_memfd/kind.rs"]
mod guest_memfd;

use std::error::Error as StdError;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::sync::Mutex;

use common::access::closes_on_exec;
use common::in_child;
use common::page_size;
use common::skip;
use common::Belongings;
use guest_memfd::GuestMemfd;
use hostmem::Backing;
use hostmem::BackingFd;
use hostmem::Builder;
use hostmem::CompleteError;
use hostmem::Defaults;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Kind;
use hostmem::Objects;
use hostmem::Request;
use hostmem::Undo;
use hostmem::Value;
use kvm_ioctls::Kvm;

const NAME: &str = "my-kind";
const SIZE: u64 = 256 * 1024;

type Answer = Result<Backing, Box<dyn StdError + Send + Sync>>;

/// A kind made of a function, which counts what is done with it.
struct Fake<F> {
    answer: F,
    count: Arc<Count>,
}

#[derive(Default)]
struct Count {
    undone: AtomicU32,
    dropped: AtomicU32,
}

impl Count {
    fn undone(&self) -> u32 {
        self.undone.load(Ordering::Relaxed)
    }

    fn dropped(&self) -> u32 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl<F: Fn(&Request<'_>) -> Answer + Send + Sync + 'static> Kind for Fake<F> {
    fn allocate(&self, request: &Request<'_>) -> Answer {
        (self.answer)(request)
    }

    fn undo(&self, _: &Request<'_>, _: &Undo<'_>) {
        self.count.undone.fetch_add(1, Ordering::Relaxed);
    }
}

impl<F> Drop for Fake<F> {
    fn drop(&mut self) {
        self.count.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

fn fake<F>(answer: F) -> (Fake<F>, Arc<Count>)
where
    F: Fn(&Request<'_>) -> Answer + Send + Sync + 'static,
{
    let count = Arc::new(Count::default());
    let kind = Fake {
        answer,
        count: Arc::clone(&count),
    };
    (kind, count)
}

fn objects() -> Objects {
    Objects::new(&Host::probe().unwrap(), &Defaults::default()).unwrap()
}

/// A builder of a set that has the kind, `share` on.
fn builder(kind: impl Kind) -> Builder {
    let objects = objects();
    objects.register_kind(NAME, "A test.", true, kind).unwrap();
    objects.builder(NAME, "ram0").unwrap().size(SIZE)
}

fn refused(builder: Builder) -> CompleteError {
    let failed = builder.complete().unwrap_err();
    common::access::assert_names_errno(&failed.error);
    failed
}

fn memfd(size: u64) -> OwnedFd {
    memfd_with(libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING, size).unwrap()
}

/// None where the kernel cannot make one with these flags.
fn memfd_with(flags: libc::c_uint, size: u64) -> Option<OwnedFd> {
    let name = CString::new("test").unwrap();
    // SAFETY: the text outlives the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd < 0 {
        return None;
    }
    // SAFETY: just made, and nobody else's.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(size).unwrap();
    Some(file.into())
}

fn backing(fd: impl Into<OwnedFd>) -> Answer {
    Ok(BackingFd::new(fd).into())
}

#[test]
fn a_memfd_becomes_memory() {
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    let (kind, count) = fake(move |request| {
        assert_eq!(request.id(), "ram0");
        assert_eq!(request.size()?, SIZE);
        assert!(request.share()?);
        assert_eq!(request.get("dump")?, Value::Bool(true));
        let error = request.get("no-such").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownProperty);
        let fd = memfd(2 * SIZE);
        *keep.lock().unwrap() = Some(fd.try_clone()?);
        let seals = libc::F_SEAL_SHRINK as u32;
        Ok(BackingFd::new(fd).offset(SIZE).seals(seals).into())
    });
    let backend = builder(kind).prealloc(true).complete().unwrap();
    assert_eq!(backend.kind(), NAME);
    let claim = backend.claim("vm0").unwrap();
    let memory = claim.memory();
    assert_eq!(memory.len(), SIZE);
    assert!(memory.is_shared());
    assert_eq!(memory.fd_offset(), SIZE);
    assert!(memory.fd().is_some());
    // SAFETY: inside the memory, which nobody else uses.
    unsafe { memory.as_ptr().write_volatile(0x5a) };

    let peer = File::from(kept.lock().unwrap().take().unwrap());
    let mut byte = [0];
    peer.read_exact_at(&mut byte, SIZE).unwrap();
    assert_eq!(byte, [0x5a]);
    // SAFETY: an open descriptor.
    let seals = unsafe { libc::fcntl(peer.as_raw_fd(), libc::F_GET_SEALS) };
    assert_eq!(seals & libc::F_SEAL_SHRINK, libc::F_SEAL_SHRINK);

    assert_eq!((count.undone(), count.dropped()), (0, 0));
    drop(backend);
    assert_eq!(count.dropped(), 0);
    drop(claim);
    assert_eq!(count.dropped(), 1);
}

#[test]
fn anonymous_memory_is_private() {
    let (kind, _) = fake(|_| Ok(Backing::Anonymous));
    let failed = refused(builder(kind));
    assert_eq!(failed.error.kind(), ErrorKind::Value, "{failed}");
    let backend = failed.object.share(false).complete().unwrap();
    assert!(backend.claim("vm0").unwrap().memory().fd().is_none());
}

#[test]
fn a_kind_is_listed_behind_the_librarys_own() {
    let objects = objects();
    let own = objects.kinds();
    let (kind, _) = fake(|_| Ok(Backing::Anonymous));
    objects.register_kind(NAME, "A test.", true, kind).unwrap();
    let all = objects.kinds();
    assert_eq!(all[..own.len()], own);
    let [added] = &all[own.len()..] else {
        panic!("{all:?}");
    };
    assert_eq!(
        (added.name.as_str(), added.description.as_str()),
        (NAME, "A test.")
    );
    assert!(added.share && added.has_memory);
    // The kind works in option strings too.
    let builder = objects
        .parse("my-kind,id=ram0,size=256K,share=off")
        .unwrap();
    builder.complete().unwrap();
}

#[test]
fn one_kind_serves_many_backends_from_many_threads() {
    let (kind, count) = fake(|request| backing(memfd(request.size()?)));
    let objects = objects();
    objects.register_kind(NAME, "A test.", true, kind).unwrap();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let objects = &objects;
            scope.spawn(move || {
                let builder = objects.builder(NAME, &format!("ram{n}")).unwrap();
                builder.size(SIZE).complete().unwrap();
            });
        }
    });
    assert_eq!(count.dropped(), 0);
    drop(objects);
    assert_eq!(count.dropped(), 1);
}

#[test]
fn kinds_can_be_added_while_they_are_read() {
    let objects = objects();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let objects = &objects;
            scope.spawn(move || {
                for n in 0..100 {
                    let (kind, _) = fake(|_| Ok(Backing::Anonymous));
                    let name = format!("my-kind-{thread}-{n}");
                    objects
                        .register_kind(&name, "A test.", false, kind)
                        .unwrap();
                    let builder = objects.builder(&name, &name).unwrap();
                    assert_eq!(builder.kind(), name);
                }
            });
        }
        for _ in 0..100 {
            for kind in objects.kinds() {
                assert!(!kind.name.is_empty() && !kind.description.is_empty());
            }
        }
    });
}

#[test]
fn a_panic_becomes_an_error() {
    let calls = AtomicU32::new(0);
    let (kind, count) = fake(move |request| {
        if calls.fetch_add(1, Ordering::Relaxed) == 0 {
            panic!("out of luck");
        }
        backing(memfd(request.size()?))
    });
    let failed = refused(builder(kind));
    assert_eq!(failed.error.kind(), ErrorKind::Io);
    let message = failed.to_string();
    for part in ["ram0", NAME, "panicked", "out of luck"] {
        assert!(message.contains(part), "{message}");
    }
    // It had nothing to undo, and may be asked again.
    assert_eq!(count.undone(), 0);
    failed.object.complete().unwrap();
}

#[test]
fn a_panic_with_a_strange_payload_becomes_an_error() {
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("again");
        }
    }

    let (kind, _) = fake(|_| std::panic::panic_any(Bomb));
    let failed = refused(builder(kind));
    assert!(failed.to_string().contains("panicked"), "{failed}");
}

#[test]
fn an_error_keeps_its_words_and_errno() {
    let (kind, count) = fake(|_| Err(io::Error::from_raw_os_error(libc::ENOSPC).into()));
    let failed = refused(builder(kind));
    assert_eq!(failed.error.kind(), ErrorKind::Io);
    assert_eq!(failed.error.raw_os_error(), Some(libc::ENOSPC));
    let message = failed.to_string();
    assert!(message.contains("ram0"), "{message}");
    assert!(message.contains("No space left"), "{message}");
    assert_eq!(count.undone(), 0);

    let (kind, _) = fake(|_| Err("two\nlines\0".into()));
    let message = refused(builder(kind)).to_string();
    assert!(message.contains("two lines"), "{message}");

    let (kind, _) = fake(|request| Err(request.get("no-such").unwrap_err().into()));
    let failed = refused(builder(kind));
    assert_eq!(failed.error.kind(), ErrorKind::UnknownProperty);
}

#[test]
fn a_descriptor_that_is_too_small_is_refused() {
    for (len, offset) in [(0, 0), (SIZE - 1, 0), (SIZE, 4096), (SIZE, u64::MAX - 4095)] {
        let (kind, count) = fake(move |_| Ok(BackingFd::new(memfd(len)).offset(offset).into()));
        let failed = refused(builder(kind));
        assert_eq!(failed.error.kind(), ErrorKind::Value, "{failed}");
        assert!(failed.to_string().contains("ram0"), "{failed}");
        assert_eq!(count.undone(), 1);
    }
}

#[test]
fn an_offset_inside_a_page_is_refused() {
    let (kind, _) = fake(|_| Ok(BackingFd::new(memfd(2 * SIZE)).offset(100).into()));
    let failed = refused(builder(kind));
    assert_eq!(failed.error.kind(), ErrorKind::Value, "{failed}");
}

/// Also where what failed before was of larger pages, which then leave no trace.
#[test]
fn a_backing_decides_which_pages_there_are() {
    let huge = || memfd_with(libc::MFD_HUGETLB | libc::MFD_HUGE_2MB, 4 << 20);
    if huge().is_none() {
        return skip("this kernel has no huge pages of 2 MiB");
    }
    let first = AtomicBool::new(true);
    let (kind, count) = fake(move |_| match first.swap(false, Ordering::Relaxed) {
        true => backing(huge().unwrap()),
        false => Ok(Backing::Anonymous),
    });
    let failed = refused(builder(kind));
    let words = "size=262144 is not a multiple of the backing's page size, 2097152 bytes";
    assert!(failed.to_string().contains(words), "{failed}");
    assert_eq!((failed.error.kind(), count.undone()), (ErrorKind::Value, 1));
    // What fails before it is asked has nothing to undo.
    let failed = refused(failed.object.share(false).size(100));
    assert_eq!(count.undone(), 1, "{failed}");
    let backend = failed.object.size(SIZE).complete().unwrap();
    let claim = backend.claim("vm0").unwrap();
    assert_eq!(claim.memory().page_size(), page_size());
}

#[test]
fn a_descriptor_is_closed_when_a_program_is_executed() {
    let (kind, _) = fake(|request| backing(memfd_with(0, request.size()?).unwrap()));
    let backend = builder(kind).complete().unwrap();
    assert!(closes_on_exec(&backend.claim("vm0").unwrap()));
}

#[test]
fn a_descriptor_of_the_wrong_access_is_refused() {
    for write in [false, true] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(SIZE).unwrap();
        let path = file.path().to_owned();
        let (kind, count) = fake(move |_| {
            let mut options = File::options();
            backing(options.read(!write).write(write).open(&path)?)
        });
        let failed = refused(builder(kind));
        assert_eq!(failed.error.kind(), ErrorKind::Value, "{failed}");
        assert_eq!(count.undone(), 1);
    }
}

#[test]
fn a_descriptor_that_cannot_be_mapped_is_refused_and_closed() {
    let (mut reader, writer) = UnixStream::pair().unwrap();
    let writer = Mutex::new(Some(writer));
    let (kind, count) = fake(move |_| backing(writer.lock().unwrap().take().unwrap()));
    let failed = refused(builder(kind));
    assert_eq!(count.undone(), 1);
    // Ends only when nobody has the other end any more.
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    drop(failed);

    let (kind, count) = fake(|_| {
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        // SAFETY: just made, and nobody else's.
        backing(unsafe { OwnedFd::from_raw_fd(fd) })
    });
    let failed = refused(builder(kind));
    assert!(failed.to_string().contains("ram0"), "{failed}");
    assert_eq!(count.undone(), 1);
}

#[test]
fn a_panic_while_undoing_is_ignored() {
    struct Bad;

    impl Kind for Bad {
        fn allocate(&self, _: &Request<'_>) -> Answer {
            backing(memfd(0))
        }

        fn undo(&self, _: &Request<'_>, _: &Undo<'_>) {
            panic!("from undo");
        }
    }

    let failed = refused(builder(Bad));
    assert_eq!(failed.error.kind(), ErrorKind::Value);
    refused(failed.object);
}

#[test]
fn a_name_is_taken_once_and_well_formed() {
    let objects = objects();
    let (kind, first) = fake(|_| Ok(Backing::Anonymous));
    objects.register_kind(NAME, "A test.", false, kind).unwrap();
    let long = "x".repeat(129);
    let names = [
        NAME,
        "memory-backend-ram",
        "memory-backend",
        "thread-context",
        "",
        "1kind",
        "a kind",
        "a,kind",
        "a\0kind",
        &long,
    ];
    for name in names {
        let (kind, count) = fake(|_| Ok(Backing::Anonymous));
        let error = objects
            .register_kind(name, "A test.", false, kind)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{error}");
        // One that is refused is dropped at once.
        assert_eq!(count.dropped(), 1, "{name:?}");
    }
    assert_eq!(first.dropped(), 0);
    objects
        .builder(NAME, "ram0")
        .unwrap()
        .size(SIZE)
        .complete()
        .unwrap();
}

#[test]
fn a_kind_that_panics_when_dropped_harms_nobody() {
    struct Bad;

    impl Kind for Bad {
        fn allocate(&self, _: &Request<'_>) -> Answer {
            Ok(Backing::Anonymous)
        }
    }

    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("from drop");
        }
    }

    drop(builder(Bad));
}

/// A kind that has its say before anything is made.
struct Checked {
    check: fn(&Request<'_>) -> Result<(), Box<dyn StdError + Send + Sync>>,
    allocated: Arc<AtomicU32>,
}

impl Kind for Checked {
    fn check(&self, request: &Request<'_>) -> Result<(), Box<dyn StdError + Send + Sync>> {
        (self.check)(request)
    }

    fn allocate(&self, request: &Request<'_>) -> Answer {
        self.allocated.fetch_add(1, Ordering::Relaxed);
        backing(memfd(request.size()?))
    }

    fn undo(&self, _: &Request<'_>, _: &Undo<'_>) {
        panic!("there is nothing to undo");
    }
}

#[test]
fn a_check_refuses_before_anything_is_made() {
    let allocated = Arc::new(AtomicU32::new(0));
    let failed = refused(builder(Checked {
        check: |request| match request.get("thp")? {
            Value::Text(thp) if thp == "never" => Ok(()),
            thp => Err(format!("thp={thp:?} is not for this kind").into()),
        },
        allocated: Arc::clone(&allocated),
    }));
    assert_eq!(failed.error.kind(), ErrorKind::Io);
    let message = failed.to_string();
    for part in ["ram0", "check", NAME, "is not for this kind"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(allocated.load(Ordering::Relaxed), 0);
    failed.object.thp(hostmem::Thp::Never).complete().unwrap();
    assert_eq!(allocated.load(Ordering::Relaxed), 1);
}

#[test]
fn a_panicking_check_is_an_error() {
    let allocated = Arc::new(AtomicU32::new(0));
    let failed = refused(builder(Checked {
        check: |_| panic!("out of luck"),
        allocated: Arc::clone(&allocated),
    }));
    assert_eq!(failed.error.kind(), ErrorKind::Io);
    let message = failed.to_string();
    for part in ["ram0", "check", NAME, "panicked", "out of luck"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(allocated.load(Ordering::Relaxed), 0);
}

#[test]
fn undo_is_told_what_was_made() {
    struct Noting(Arc<Mutex<Vec<(u64, u32)>>>);

    impl Kind for Noting {
        fn allocate(&self, _: &Request<'_>) -> Answer {
            Ok(BackingFd::new(memfd(SIZE - 1)).made(42).into())
        }

        fn undo(&self, request: &Request<'_>, undo: &Undo<'_>) {
            assert_eq!(request.id(), "ram0");
            let file = File::from(undo.fd().unwrap().try_clone_to_owned().unwrap());
            let len = file.metadata().unwrap().len();
            self.0.lock().unwrap().push((len, undo.made()));
        }
    }

    let seen = Arc::default();
    refused(builder(Noting(Arc::clone(&seen))));
    assert_eq!(*seen.lock().unwrap(), [(SIZE - 1, 42)]);
}

/// The blocks that a memfd has, in bytes.
fn blocks(fd: &OwnedFd) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let file = File::from(fd.try_clone().unwrap());
    file.metadata().unwrap().blocks() * 512
}

#[test]
fn discarding_frees_what_nobody_else_can_have() {
    for own in [false, true] {
        let fd = memfd(SIZE);
        let contents = vec![7; SIZE as usize];
        let file = File::from(fd.try_clone().unwrap());
        file.write_all_at(&contents, 0).unwrap();
        let given = fd.try_clone().unwrap();
        let (kind, _) = fake(move |_| Ok(BackingFd::new(given.try_clone()?).own(own).into()));
        let backend = builder(kind).share(false).complete().unwrap();
        let claim = backend.claim("vm0").unwrap();
        let first = claim.memory().as_ptr();
        // SAFETY: inside the memory, which nobody else uses; here and below.
        assert_eq!(unsafe { first.read_volatile() }, 7);
        // SAFETY: likewise.
        unsafe { first.write_volatile(8) };
        claim.discard(0, SIZE).unwrap();
        let expected = if own { (0, 0) } else { (7, SIZE) };
        // SAFETY: likewise.
        let byte = unsafe { first.add(page_size() as usize).read_volatile() };
        assert_eq!(byte, expected.0, "own: {own}");
        // Reading a hole of a private mapping may have made the one page.
        assert!(blocks(&fd) <= expected.1 + page_size(), "own: {own}");
    }
}

/// Opens a path as a kind that believes in it does.
fn opened(path: &std::path::Path, flags: libc::c_int) -> OwnedFd {
    use std::os::unix::fs::OpenOptionsExt;
    let read_only = flags & libc::O_DIRECTORY != 0;
    let mut options = File::options();
    let options = options.read(true).write(!read_only).custom_flags(flags);
    options.open(path).unwrap().into()
}

/// A descriptor whose number stands for nothing. Only in a process with one thread.
fn closed() -> OwnedFd {
    let fd = memfd(SIZE).as_raw_fd();
    // SAFETY: not what it claims to be, on purpose; nothing opens a descriptor until the library
    // has closed this one in vain.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[test]
fn what_is_no_memory_is_refused_and_nothing_is_left() {
    in_child("what_is_no_memory_is_refused_and_nothing_is_left", || {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let name = CString::new(fifo.to_str().unwrap()).unwrap();
        // SAFETY: the text outlives the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let file = dir.path().join("file");
        File::create(&file).unwrap().set_len(SIZE).unwrap();
        let folder = dir.path().to_owned();

        type Make = Box<dyn Fn() -> BackingFd + Send + Sync>;
        let whole = page_size() - 1;
        // What the kind answers, and what the error must say of it.
        let cases: [(&str, &str, Make); 8] = [
            ("empty", "0 bytes", Box::new(|| BackingFd::new(memfd(0)))),
            (
                "too small",
                "does not fit",
                Box::new(|| BackingFd::new(memfd(SIZE - 1))),
            ),
            (
                "too small behind the offset",
                "does not fit",
                Box::new(|| BackingFd::new(memfd(SIZE)).offset(page_size())),
            ),
            (
                "offset",
                "page size",
                Box::new(move || BackingFd::new(memfd(2 * SIZE)).offset(whole)),
            ),
            ("read-only", "read-only", {
                Box::new(move || BackingFd::new(File::open(&file).unwrap()))
            }),
            (
                "closed",
                "descriptor",
                Box::new(|| BackingFd::new(closed())),
            ),
            ("FIFO", "cannot be mapped", {
                Box::new(move || BackingFd::new(opened(&fifo, libc::O_NONBLOCK)))
            }),
            ("directory", "read-only", {
                Box::new(move || BackingFd::new(opened(&folder, libc::O_DIRECTORY)))
            }),
        ];
        for (case, words, make) in cases {
            let (kind, count) = fake(move |_| Ok(make().into()));
            let builder = builder(kind);
            let before = Belongings::now();
            let failed = refused(builder);
            let message = failed.error.to_string();
            println!("{case}: {message}");
            assert_eq!(failed.error.kind(), ErrorKind::Value, "{case}: {message}");
            for part in ["ram0: ", words] {
                assert!(message.contains(part), "{case}: {message}");
            }
            assert!(!message.contains('\n'), "{case}: {message}");
            assert_eq!(count.undone(), 1, "{case}");
            // The same again: it did not get worse.
            let failed = refused(failed.object);
            assert_eq!(failed.error.to_string(), message, "{case}");
            assert_eq!(Belongings::now(), before, "{case}");
        }
    });
}

#[test]
fn a_panic_leaves_nothing() {
    in_child("a_panic_leaves_nothing", || {
        let (kind, count) = fake(|_| {
            let _fd = memfd(SIZE);
            panic!("out of luck");
        });
        let mut failed = refused(builder(kind));
        let before = Belongings::now();
        for _ in 0..3 {
            failed = refused(failed.object);
            assert!(failed.to_string().contains("out of luck"), "{failed}");
        }
        assert_eq!(Belongings::now(), before);
        assert_eq!(count.undone(), 0);
    });
}

/// Whether the descriptor stays out of programs that this one executes.
fn is_close_on_exec(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: an open descriptor.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
    flags & libc::FD_CLOEXEC != 0
}

/// The example's kind, or why there is none here.
fn guest_memfd() -> Result<GuestMemfd, Box<dyn StdError + Send + Sync>> {
    GuestMemfd::new(Arc::new(Kvm::new()?.create_vm()?))
}

#[test]
fn a_guest_memfd_becomes_memory() {
    let kind = match guest_memfd() {
        Ok(kind) => kind,
        Err(why) => return skip(&format!("no guest_memfd: {why}")),
    };
    // Large enough for huge pages, which it has none of; every advice is taken all the same.
    let size = 16 << 20;
    let failed = refused(builder(kind).size(size).share(false));
    assert!(failed.to_string().contains("share=on"), "{failed}");
    let backend = failed
        .object
        .share(true)
        .prealloc(true)
        .merge(true)
        .dump(false)
        .thp(hostmem::Thp::Always)
        .complete()
        .unwrap();
    let placement = backend.placement().unwrap();
    assert_eq!((placement.resident, placement.huge), (size, 0));
    assert!(!placement.mergeable);

    let claim = backend.claim("vm0").unwrap();
    let memory = claim.memory();
    assert!(memory.is_shared() && !memory.is_readonly());
    assert!(is_close_on_exec(memory.fd().unwrap()));
    let last = memory.as_ptr().wrapping_add(size as usize - 1);
    for byte in [memory.as_ptr(), last] {
        // SAFETY: inside the memory, which nobody else uses.
        unsafe { byte.write_volatile(0x5a) };
    }
    for (name, value) in [("dump", true), ("merge", false)] {
        backend.set(name, value).unwrap();
    }
    backend.set("thp", hostmem::Thp::Never).unwrap();
    // SAFETY: as above.
    assert_eq!(unsafe { last.read_volatile() }, 0x5a);

    claim.discard(0, size / 2).unwrap();
    assert_eq!(backend.placement().unwrap().resident, size / 2);
    // SAFETY: as above.
    assert_eq!(unsafe { last.read_volatile() }, 0x5a);
    claim.populate(0, size / 2).unwrap();
    assert_eq!(backend.placement().unwrap().resident, size);
    // SAFETY: as above.
    assert_eq!(unsafe { memory.as_ptr().read_volatile() }, 0);
}

#[test]
fn what_only_looks_like_a_descriptor_is_refused() {
    // SAFETY: hands the constant around in this type, as others do; it cannot be closed.
    let fd = unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) };
    let builder = objects().builder("memory-backend-fd", "ram0").unwrap();
    let failed = refused(builder.size(SIZE).fd(fd));
    assert_eq!(failed.error.kind(), ErrorKind::Value);
    assert!(failed.to_string().contains("fd"), "{failed}");
}

#[test]
fn a_guest_memfd_goes_through_memory_backend_fd() {
    let kind = match guest_memfd() {
        Ok(kind) => kind,
        Err(why) => return skip(&format!("no guest_memfd: {why}")),
    };
    let maker = builder(kind).complete().unwrap();
    let claim = maker.claim("maker").unwrap();
    let fd = claim.memory().fd().unwrap();
    let objects = objects();
    let builder = objects.builder("memory-backend-fd", "ram1").unwrap();
    let failed = refused(builder.size(SIZE).fd(fd).share(false));
    assert_eq!(failed.error.kind(), ErrorKind::Value, "{failed}");
    assert!(failed.to_string().contains("share=on"), "{failed}");

    let builder = failed.object.share(true).prealloc(true);
    let backend = builder.complete().unwrap();
    let peer = backend.claim("peer").unwrap();
    // SAFETY: inside both memories, which nobody else uses.
    unsafe { claim.memory().as_ptr().write_volatile(0x5a) };
    // SAFETY: likewise.
    let byte = unsafe { peer.memory().as_ptr().read_volatile() };
    assert_eq!(byte, 0x5a);
    assert!(is_close_on_exec(peer.memory().fd().unwrap()));
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kinds that the embedder brings: good ones, failing ones, and ones that lie.

use std::error::Error as StdError;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::sync::Mutex;

use hostmem::Backing;
use hostmem::Builder;
use hostmem::CompleteError;
use hostmem::Defaults;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Kind;
use hostmem::Objects;
use hostmem::Request;
use hostmem::Value;

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

    fn undo(&self, _: &Request<'_>) {
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
    builder.complete().unwrap_err()
}

fn memfd(size: u64) -> OwnedFd {
    let name = CString::new("test").unwrap();
    // SAFETY: the text outlives the call.
    let fd =
        unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    assert!(fd >= 0);
    // SAFETY: just made, and nobody else's.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(size).unwrap();
    file.into()
}

fn backing(fd: impl Into<OwnedFd>) -> Answer {
    Ok(Backing::Fd {
        fd: fd.into(),
        offset: 0,
        seals: 0,
    })
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
        Ok(Backing::Fd {
            fd,
            offset: SIZE,
            seals: libc::F_SEAL_SHRINK as u32,
        })
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
    let backend = failed.builder.share(false).complete().unwrap();
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
    failed.builder.complete().unwrap();
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
        let (kind, count) = fake(move |_| {
            Ok(Backing::Fd {
                fd: memfd(len),
                offset,
                seals: 0,
            })
        });
        let failed = refused(builder(kind));
        assert_eq!(failed.error.kind(), ErrorKind::Value, "{failed}");
        assert!(failed.to_string().contains("ram0"), "{failed}");
        assert_eq!(count.undone(), 1);
    }
}

#[test]
fn an_offset_inside_a_page_is_refused() {
    let (kind, _) = fake(|_| {
        Ok(Backing::Fd {
            fd: memfd(2 * SIZE),
            offset: 100,
            seals: 0,
        })
    });
    let failed = refused(builder(kind));
    assert_eq!(failed.error.kind(), ErrorKind::Value, "{failed}");
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
    let (mut reader, writer) = io::pipe().unwrap();
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

        fn undo(&self, _: &Request<'_>) {
            panic!("from undo");
        }
    }

    let failed = refused(builder(Bad));
    assert_eq!(failed.error.kind(), ErrorKind::Value);
    refused(failed.builder);
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

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Completing: every step that fails is undone, and can be tried again.

mod common;

use common::in_child;
use common::ram;
use common::refusing;
use common::Belongings;
use common::Refusal;
use hostmem::Backend;
use hostmem::Builder;
use hostmem::ErrorKind;
use hostmem::State;

/// Not a size that anything else here has, so that conditions on it hit nothing else.
const SIZE: u64 = 37 * 0x10_0000;

fn madvise(advice: libc::c_int, errno: libc::c_int) -> Refusal {
    Refusal::new(libc::SYS_madvise, errno)
        .only(1, SIZE)
        .only(2, advice as u64)
}

/// A step of completing that fails, the backends that have the step, and the error it becomes.
struct Case {
    name: &'static str,
    refusal: fn() -> Refusal,
    options: &'static [&'static str],
    kind: ErrorKind,
    words: &'static str,
}

const PRIVATE: &str = "";
const SHARED: &str = ",share=on";
const BOTH: &[&str] = &[PRIVATE, SHARED];

const CASES: &[Case] = &[
    Case {
        name: "memfd_create without descriptors left",
        refusal: || Refusal::new(libc::SYS_memfd_create, libc::EMFILE),
        options: &[SHARED],
        kind: ErrorKind::NoMemory,
        words: "memfd",
    },
    Case {
        name: "memfd_create forbidden",
        refusal: || Refusal::new(libc::SYS_memfd_create, libc::EPERM),
        options: &[SHARED],
        kind: ErrorKind::Io,
        words: "memfd",
    },
    Case {
        name: "ftruncate",
        refusal: || Refusal::new(libc::SYS_ftruncate, libc::ENOSPC),
        options: &[SHARED],
        kind: ErrorKind::NoMemory,
        words: "memfd",
    },
    Case {
        name: "looking at the descriptor",
        refusal: || Refusal::new(libc::SYS_fstatfs, libc::EIO),
        options: &[SHARED],
        kind: ErrorKind::Io,
        words: "backing",
    },
    Case {
        name: "reserving address space",
        refusal: || {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            Refusal::new(libc::SYS_mmap, libc::ENOMEM).only(3, flags as u64)
        },
        options: BOTH,
        kind: ErrorKind::NoMemory,
        words: "RLIMIT_AS",
    },
    Case {
        name: "mapping",
        refusal: || {
            Refusal::new(libc::SYS_mmap, libc::ENOMEM)
                .only(1, SIZE)
                .only_masked(
                    3,
                    libc::MAP_FIXED_NOREPLACE as u64,
                    libc::MAP_FIXED_NOREPLACE as u64,
                )
        },
        options: BOTH,
        kind: ErrorKind::NoMemory,
        words: "cannot map",
    },
    Case {
        name: "sealing",
        refusal: || Refusal::new(libc::SYS_fcntl, libc::EPERM).only(1, libc::F_ADD_SEALS as u64),
        options: &[SHARED],
        kind: ErrorKind::Io,
        words: "seal",
    },
    Case {
        name: "MADV_HUGEPAGE",
        refusal: || madvise(libc::MADV_HUGEPAGE, libc::EPERM),
        options: BOTH,
        kind: ErrorKind::Io,
        words: "thp",
    },
    Case {
        name: "MADV_HUGEPAGE on a kernel without it",
        refusal: || madvise(libc::MADV_HUGEPAGE, libc::EINVAL),
        options: &[",thp=always"],
        kind: ErrorKind::Unsupported,
        words: "thp=always",
    },
    Case {
        name: "MADV_NOHUGEPAGE",
        refusal: || madvise(libc::MADV_NOHUGEPAGE, libc::EPERM),
        options: &[",thp=never"],
        kind: ErrorKind::Io,
        words: "thp",
    },
    Case {
        name: "MADV_DONTFORK",
        refusal: || madvise(libc::MADV_DONTFORK, libc::EPERM),
        options: BOTH,
        kind: ErrorKind::Io,
        words: "MADV_DONTFORK",
    },
    Case {
        name: "MADV_MERGEABLE",
        refusal: || madvise(libc::MADV_MERGEABLE, libc::ENOMEM),
        options: BOTH,
        kind: ErrorKind::NoMemory,
        words: "merge",
    },
    Case {
        name: "MADV_MERGEABLE on a kernel without it",
        refusal: || madvise(libc::MADV_MERGEABLE, libc::EINVAL),
        options: &[",merge=on"],
        kind: ErrorKind::Unsupported,
        words: "merge=off",
    },
    Case {
        name: "MADV_UNMERGEABLE",
        refusal: || madvise(libc::MADV_UNMERGEABLE, libc::EPERM),
        options: &[",merge=off"],
        kind: ErrorKind::Io,
        words: "merge",
    },
    Case {
        name: "MADV_DONTDUMP",
        refusal: || madvise(libc::MADV_DONTDUMP, libc::EPERM),
        options: &[",dump=off"],
        kind: ErrorKind::Io,
        words: "dump",
    },
    Case {
        name: "MADV_DODUMP",
        refusal: || madvise(libc::MADV_DODUMP, libc::EPERM),
        options: BOTH,
        kind: ErrorKind::Io,
        words: "dump",
    },
    #[cfg(feature = "numa")]
    Case {
        name: "mbind",
        refusal: || Refusal::new(libc::SYS_mbind, libc::EIO),
        options: &[
            ",policy=bind,host-nodes=0",
            ",policy=bind,host-nodes=0,share=on",
        ],
        kind: ErrorKind::Io,
        words: "policy=bind",
    },
    Case {
        name: "mprotect",
        refusal: || Refusal::new(libc::SYS_mprotect, libc::ENOMEM).only(1, SIZE),
        options: BOTH,
        kind: ErrorKind::NoMemory,
        words: "cannot map",
    },
    Case {
        name: "MADV_POPULATE_WRITE",
        refusal: || Refusal::new(libc::SYS_madvise, libc::EFAULT).only(2, 23),
        options: &[",prealloc=on", ",prealloc=on,share=on"],
        kind: ErrorKind::NoMemory,
        words: "prealloc",
    },
    Case {
        name: "mlock2",
        refusal: || Refusal::new(libc::SYS_mlock2, libc::ENOMEM),
        options: &[",lock=on", ",lock=on,prealloc=on", ",lock=on,share=on"],
        kind: ErrorKind::NoMemory,
        words: "RLIMIT_MEMLOCK",
    },
];

fn builder(options: &str) -> Builder {
    ram(&format!("size={SIZE}{options}"))
}

/// Completes in vain; gives the builder back.
fn fail(case: &Case, options: &str) -> Builder {
    let builder = builder(options);
    let before: Vec<_> = values(&builder);
    // Without it shared memory is filled by MADV_POPULATE_WRITE too, whose failure is a case.
    let zero_pages = Refusal::new(libc::SYS_userfaultfd, libc::ENOSYS);
    let failed = refusing(&[(case.refusal)(), zero_pages], || builder.complete())
        .expect_err(&format!("{}{options}", case.name));
    let message = failed.to_string();
    assert_eq!(failed.error.kind(), case.kind, "{}: {message}", case.name);
    assert!(message.contains(case.words), "{}: {message}", case.name);
    assert!(message.starts_with("ram0: "), "{}: {message}", case.name);
    assert_eq!(values(&failed.object), before, "{}", case.name);
    failed.object
}

fn values(builder: &Builder) -> Vec<String> {
    hostmem::properties()
        .filter_map(|property| builder.get_text(property.name()).ok())
        .collect()
}

#[test]
fn a_step_that_fails_is_undone_and_can_be_tried_again() {
    in_child("a_step_that_fails_is_undone_and_can_be_tried_again", || {
        for case in CASES {
            for options in case.options {
                // The first time the allocator maps what it keeps.
                drop(fail(case, options));
                let before = Belongings::now();
                drop(fail(case, options));
                assert_eq!(Belongings::now(), before, "{}{options}", case.name);

                // It is configuring: everything can be set, and it completes.
                let mut builder = fail(case, options);
                builder.set("size", SIZE).unwrap();
                let backend = builder.complete().unwrap();
                assert_eq!(backend.state(), State::Ready);
                drop(backend);
                assert_eq!(Belongings::now(), before, "{}{options}", case.name);
            }
        }
    });
}

#[test]
fn too_little_address_space_is_an_error() {
    in_child("too_little_address_space_is_an_error", || {
        let limit = |bytes| {
            let limit = libc::rlimit {
                rlim_cur: bytes,
                rlim_max: libc::RLIM_INFINITY,
            };
            // SAFETY: reads the struct given.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
        };
        if common::is_instrumented() {
            return;
        }
        for share in ["off", "on"] {
            let builder = ram(&format!("size=64G,reserve=off,share={share}"));
            let before = Belongings::now();
            limit(32 << 30);
            let failed = builder.complete().unwrap_err();
            limit(libc::RLIM_INFINITY);
            assert_eq!(Belongings::now(), before);
            assert_eq!(failed.error.kind(), ErrorKind::NoMemory);
            assert!(failed.to_string().contains("RLIMIT_AS"), "{failed}");
            assert!(failed.object.complete().is_ok());
        }
    });
}

/// What only came from defaults and this kernel cannot do is passed over.
#[test]
fn advice_the_kernel_lacks_is_skipped_unless_asked_for() {
    for (advice, options, property, value) in [
        (libc::MADV_HUGEPAGE, "", "thp", "auto"),
        (libc::MADV_MERGEABLE, "", "merge", "on"),
        (libc::MADV_UNMERGEABLE, ",merge=off", "merge", "off"),
        (libc::MADV_NOHUGEPAGE, ",thp=never", "thp", "never"),
    ] {
        let builder = builder(options);
        let refusals = [madvise(advice, libc::EINVAL)];
        let backend = refusing(&refusals, || builder.complete().unwrap());
        assert_eq!(backend.get_text(property).unwrap(), value);
    }
}

/// In a child, which ends with its locks. False, having said why, where that cannot be.
fn lock_all_to_come() -> bool {
    if common::has_address_sanitizer() {
        return false;
    }
    // SAFETY: takes flags.
    let locked = unsafe { libc::mlockall(libc::MCL_FUTURE) } == 0;
    if !locked {
        common::skip("this process may not lock its memory");
    }
    locked
}

/// Advice and policy come before any page can be there, so the memory is inaccessible until then.
#[test]
fn locking_everything_to_come_populates_by_policy_and_advice() {
    in_child(
        "locking_everything_to_come_populates_by_policy_and_advice",
        || {
            if !lock_all_to_come() {
                return;
            }
            let backend = builder(",thp=always").complete().unwrap();
            let placement = backend.placement().unwrap();
            assert_eq!(placement.resident, SIZE);
            let enabled = "/sys/kernel/mm/transparent_hugepage/enabled";
            let enabled = std::fs::read_to_string(enabled).unwrap_or_default();
            if enabled.contains("[never]") || enabled.is_empty() {
                return common::skip("this host has no transparent huge pages");
            }
            assert!(placement.huge > 0, "{placement:?}");
        },
    );
}

/// By all its threads, in the background too, and not by the kernel as it becomes accessible.
#[test]
fn locking_everything_to_come_leaves_prealloc_its_work() {
    in_child(
        "locking_everything_to_come_leaves_prealloc_its_work",
        || {
            if !lock_all_to_come() {
                return;
            }
            let options = "size=1G,thp=never,prealloc=on,prealloc-mode=background";
            let backend = ram(options).complete().unwrap();
            assert!(backend.placement().unwrap().resident < 1 << 30);
            backend.wait_prealloc(None).unwrap();
            assert_eq!(backend.placement().unwrap().resident, 1 << 30);
            let claim = backend.claim("test").unwrap();
            let address = claim.memory().as_ptr() as u64;
            let (_, fields) = common::smaps(address, 1).remove(0);
            let mut flags = fields["VmFlags"].split(' ');
            assert!(flags.any(|flag| flag == "lo"), "{fields:?}");
        },
    );
}

#[test]
fn memory_appears_in_the_process_by_name_where_the_kernel_can() {
    let name = c"probe";
    // SAFETY: names no memory: length 0.
    let result = unsafe { libc::prctl(0x53564d41, 0, 0, 0, name.as_ptr()) };
    let backend = ram("size=64K").complete().unwrap();
    let claim = backend.claim("test").unwrap();
    let address = claim.memory().as_ptr() as u64;
    let header = common::smaps(address, 1).remove(0).0;
    if result != 0 {
        assert!(!header.contains("hostmem"), "{header}");
        return common::skip("this kernel has no names for anonymous memory");
    }
    assert!(header.ends_with("[anon:hostmem:ram0]"), "{header}");
}

/// QEMU's migration knows the memory by this name.
#[test]
fn the_name_is_the_id_or_its_path() {
    let name = |options| builder(options).complete().unwrap().name();
    assert_eq!(name(""), "ram0");
    let canonical = ",x-use-canonical-path-for-ramblock-id=on";
    assert_eq!(name(canonical), "/objects/ram0");
}

#[test]
fn what_was_completed_has_its_memory_at_once() {
    let backend: Backend = builder("").complete().unwrap();
    assert_eq!(backend.state(), State::Ready);
    let claim = backend.claim("test").unwrap();
    assert_eq!(claim.memory().len(), SIZE);
    assert_eq!(claim.memory().page_size(), common::page_size());
}

/// What it is and its name, and nothing of the memory's contents.
#[test]
fn what_is_printed_names_the_object() {
    let objects = common::objects();
    let context = objects.thread_context("tc0").unwrap();
    assert!(format!("{context:?}").starts_with("ThreadContextBuilder { id: \"tc0\""));
    assert_eq!(context.id(), "tc0");
    let context = context.complete().unwrap();
    assert!(format!("{context:?}").starts_with("ThreadContext { id: \"tc0\", state: Ready"));
    let backend = ram("size=64K").complete().unwrap();
    let words = "Backend { id: \"ram0\", kind: \"memory-backend-ram\", state: Ready";
    assert!(format!("{backend:?}").starts_with(words), "{backend:?}");
    let claim = backend.claim("vm0").unwrap();
    let words = "Claim { id: \"ram0\", owner: \"vm0\"";
    assert!(format!("{claim:?}").starts_with(words), "{claim:?}");
    let memory = format!("{:?}", claim.memory());
    assert!(memory.contains("len: 65536, page_size: "), "{memory}");
    let inhibited = claim.inhibit_discard("vfio0").unwrap();
    let words = "DiscardInhibited { id: \"ram0\", name: \"vfio0\" }";
    assert_eq!(format!("{inhibited:?}"), words);
    let piece = format!("{:?}", claim.piece(1 << 30).unwrap());
    let words = "Piece { id: \"ram0\", guest_address: Some(1073741824), offset: 0, length: 65536";
    assert!(piece.starts_with(words), "{piece}");
    let dump = hostmem::properties()
        .find(|one| one.name() == "dump")
        .unwrap();
    let words = "Property { name: \"dump\", value_type: Bool";
    assert!(format!("{dump:?}").starts_with(words), "{dump:?}");
    assert!(!dump.is_write_only());
}

/// Where a program has errors of std alone.
#[test]
fn an_error_becomes_one_of_std() {
    let refused = |options: &str| ram(options).complete().unwrap_err().error;
    let error = refused("size=3");
    let (message, error) = (error.to_string(), std::io::Error::from(error));
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert_eq!(error.to_string(), message);
    let protect = [Refusal::new(libc::SYS_mprotect, libc::ENOMEM).only(1, 65536)];
    let error = refusing(&protect, || refused("size=64K"));
    let error = std::io::Error::from(error);
    assert_eq!(error.kind(), std::io::ErrorKind::OutOfMemory);
    let inner = error.get_ref().unwrap().downcast_ref::<hostmem::Error>();
    assert_eq!(inner.unwrap().raw_os_error(), Some(libc::ENOMEM));
    let backend = ram("size=64K").complete().unwrap();
    let claim = backend.claim("vm0").unwrap();
    let _inhibited = claim.inhibit_discard("vfio0").unwrap();
    for (error, kind) in [
        (
            claim.discard(0, 65536).unwrap_err(),
            std::io::ErrorKind::ResourceBusy,
        ),
        (
            backend.set("size", 1u64).unwrap_err(),
            std::io::ErrorKind::Other,
        ),
        (
            backend.set("no", 1u64).unwrap_err(),
            std::io::ErrorKind::InvalidInput,
        ),
    ] {
        let message = error.to_string();
        assert_eq!(std::io::Error::from(error).kind(), kind, "{message}");
    }
}

/// By the names that options have.
#[test]
fn a_builder_sets_what_options_set() {
    let builder = ram("size=64K")
        .prealloc_mode(hostmem::PreallocMode::Background)
        .prealloc_watch(false)
        .prealloc_context("tc0");
    let error = builder.complete().unwrap_err();
    // There is no such thread-context; it is the first error of the chain.
    assert!(error.to_string().contains("tc0"), "{error}");
    let objects = common::objects();
    let _context = objects.thread_context("tc0").unwrap().complete().unwrap();
    let builder = objects
        .builder("memory-backend-ram", "ram0")
        .unwrap()
        .prealloc_mode(hostmem::PreallocMode::Background)
        .prealloc_watch(false)
        .prealloc_context("tc0");
    for (property, value) in [
        ("prealloc-mode", "background"),
        ("prealloc-watch", "off"),
        ("prealloc-context", "tc0"),
    ] {
        assert_eq!(builder.get_text(property).unwrap(), value, "{property}");
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The whole configuration is checked before anything is made, whatever order it was set in.

mod common;

use std::fs;
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use common::host::is_root;
use common::host::HugePages;
use common::in_child;
use common::objects;
use common::page_size;
use common::ram;
use common::refusing;
use common::skip;
use common::Refusal;
use hostmem::Builder;
use hostmem::DiscardTo;
use hostmem::ErrorKind;
use hostmem::Reserve;
use hostmem::Value;

/// Completes a configuration that cannot be; returns the kind of error and its message.
fn refused(options: &str) -> (ErrorKind, String) {
    let failed = ram(options).complete().unwrap_err();
    common::access::assert_names_errno(&failed.error);
    (failed.error.kind(), failed.error.to_string())
}

#[test]
fn size_is_required() {
    let failed = common::objects()
        .builder("memory-backend-ram", "ram0")
        .unwrap()
        .complete()
        .unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Value);
    assert_eq!(
        failed.error.to_string(),
        "ram0: size is required, for example size=1G"
    );
}

#[test]
fn size_is_a_multiple_of_the_page_size() {
    let page = page_size();
    for (size, good) in [
        (1, false),
        (page - 1, false),
        (page, true),
        (page + 1, false),
        (2 * page - 1, false),
        (2 * page, true),
    ] {
        for share in ["off", "on"] {
            let result = ram(&format!("size={size},share={share}")).complete();
            assert_eq!(result.is_ok(), good, "size {size}");
            if let Err(failed) = result {
                assert_eq!(failed.error.kind(), ErrorKind::Value);
                let message = failed.error.to_string();
                assert!(message.contains(&page.to_string()), "{message}");
            }
        }
    }
}

/// So many bytes no process can map, without asking for more (arm64: Documentation/arch/arm64/memory.rst).
const ADDRESS_BITS: u32 = if cfg!(target_arch = "x86_64") { 47 } else { 52 };

#[test]
fn no_size_wraps() {
    let page = page_size();
    for size in [
        u64::MAX,
        u64::MAX - page + 1,
        u64::MAX - 2 * page + 1,
        1 << 63,
        (1 << 63) - page,
        1 << 62,
        1 << ADDRESS_BITS,
    ] {
        for share in ["off", "on"] {
            let (kind, message) = refused(&format!("size={size},share={share}"));
            let expected = [ErrorKind::Value, ErrorKind::NoMemory, ErrorKind::Io];
            assert!(expected.contains(&kind), "size {size}: {message}");
            assert!(message.starts_with("ram0: "), "{message}");
        }
    }
}

#[test]
fn reserve_off_excludes_prealloc_in_either_order() {
    for options in [
        "size=1M,reserve=off,prealloc=on",
        "size=1M,prealloc=on,reserve=off",
    ] {
        let (kind, message) = refused(options);
        assert_eq!(kind, ErrorKind::Value);
        assert!(
            message.contains("reserve=off") && message.contains("prealloc=on"),
            "{message}"
        );
    }
    let _turn = Overcommit::turn();
    // What is asked for last is what counts: prealloc off and reserve off go together.
    let mut builder = ram("size=1M,prealloc=on,reserve=off");
    builder.set("prealloc", false).unwrap();
    assert!(builder.complete().is_ok());
}

/// The kernel's overcommit settings, put back in the end. Tests that depend on them take turns.
struct Overcommit {
    _turn: MutexGuard<'static, ()>,
    mode: String,
    ratio: String,
}

impl Overcommit {
    const MODE: &'static str = "/proc/sys/vm/overcommit_memory";
    const RATIO: &'static str = "/proc/sys/vm/overcommit_ratio";

    fn turn() -> MutexGuard<'static, ()> {
        static TURN: Mutex<()> = Mutex::new(());
        TURN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Strict accounting with a limit that nobody meets; None without the permission.
    fn strict() -> Option<Self> {
        let before = Self {
            _turn: Self::turn(),
            mode: fs::read_to_string(Self::MODE).ok()?,
            ratio: fs::read_to_string(Self::RATIO).ok()?,
        };
        fs::write(Self::RATIO, "100000").ok()?;
        fs::write(Self::MODE, "2").ok()?;
        Some(before)
    }
}

impl Drop for Overcommit {
    fn drop(&mut self) {
        fs::write(Self::MODE, &self.mode).unwrap();
        fs::write(Self::RATIO, &self.ratio).unwrap();
    }
}

#[test]
fn reserve_off_is_effective_or_refused() {
    let Some(_strict) = Overcommit::strict() else {
        return skip("/proc/sys/vm/overcommit_memory cannot be set");
    };
    let (kind, message) = refused("size=1M,reserve=off");
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(message.contains("overcommit_memory is 2"), "{message}");
    // Shared memory behind a descriptor is not accounted for as a whole.
    assert!(ram("size=1M,reserve=off,share=on").complete().is_ok());
    assert!(ram("size=1M").complete().is_ok());
}

#[test]
fn reserve_off_maps_without_reserving() {
    let _turn = Overcommit::turn();
    for (options, noreserve) in [("size=1M,reserve=off", true), ("size=1M", false)] {
        let backend = ram(options).complete().unwrap();
        let claim = backend.claim("test").unwrap();
        let flags = common::vm_flags(claim.memory().as_ptr());
        assert_eq!(flags.contains(&"nr".to_owned()), noreserve, "{options}");
    }
}

/// Whether the kernel does without a reservation for memory of these options.
fn is_noreserve(options: &str) -> bool {
    let backend = ram(options).complete().expect(options);
    let claim = backend.claim("test").unwrap();
    common::vm_flags(claim.memory().as_ptr()).contains(&"nr".to_owned())
}

#[test]
fn reserve_try_is_never_refused() {
    {
        let _turn = Overcommit::turn();
        for share in ["off", "on"] {
            let options = format!("size=1M,reserve=try,share={share}");
            assert!(is_noreserve(&options), "{options}");
        }
        assert!(is_noreserve("size=1M,reserve=try,prealloc=on"));
        let backend = ram("size=1M,reserve=try").complete().unwrap();
        backend.set("prealloc", true).unwrap();
        assert_eq!(backend.placement().unwrap().absent, 0);
    }
    let Some(_strict) = Overcommit::strict() else {
        return skip("/proc/sys/vm/overcommit_memory cannot be set");
    };
    for options in ["size=1M,reserve=try", "size=1M,reserve=try,prealloc=on"] {
        // The kernel reserves all the same in this mode.
        assert!(!is_noreserve(options), "{options}");
    }
}

/// Huge pages that prealloc takes at once are reserved, so that a shortage shows up front.
#[test]
fn reserve_try_leaves_a_short_pool_to_later() {
    let Some(_pool) = HugePages::have(1) else {
        return skip("no pool of 2 MiB pages can be had");
    };
    let size = (HugePages::available() + 8) << 21;
    let options = format!("memory-backend-memfd,id=m0,size={size},hugetlb=on,hugetlbsize=2M");
    let options = format!("{options},reserve=try");
    let objects = objects();
    assert!(objects.parse(&options).unwrap().complete().is_ok());
    let builder = objects.parse(format!("{options},prealloc=on")).unwrap();
    let error = builder.complete().unwrap_err().error;
    assert_eq!(error.kind(), ErrorKind::NoMemory);
    assert!(error.to_string().contains("the pool has"), "{error}");
}

/// As in a jail without /proc.
#[test]
fn reserve_off_is_tried_where_the_mode_cannot_be_read() {
    let _turn = Overcommit::turn();
    let builder = ram("size=1M,reserve=off");
    let backend = refusing(&[Refusal::new(libc::SYS_openat, libc::ENOENT)], || {
        builder.complete()
    });
    let backend = backend.unwrap();
    let claim = backend.claim("test").unwrap();
    assert!(common::vm_flags(claim.memory().as_ptr()).contains(&"nr".to_owned()));
}

#[test]
fn reserve_is_a_boolean_with_a_third_choice() {
    let mut builder = ram("size=1M,reserve=try");
    assert_eq!(builder.get("reserve").unwrap(), "try".into());
    for (value, text) in [
        (Value::from(true), "on"),
        (false.into(), "off"),
        ("yes".into(), "on"),
        (Reserve::Off.into(), "off"),
        (Reserve::Try.into(), "try"),
        (Reserve::from(true).into(), "on"),
    ] {
        builder.set("reserve", value).unwrap();
        assert_eq!(builder.get_text("reserve").unwrap(), text);
    }
    assert_eq!(builder.get("reserve").unwrap(), true.into());
    let builder = builder.reserve(Reserve::Try);
    assert_eq!(builder.get("reserve").unwrap(), "try".into());
    let mut builder = builder.reserve(false);
    assert_eq!(builder.get("reserve").unwrap(), false.into());
    let error = builder.set("reserve", "perhaps").unwrap_err();
    assert!(error.to_string().contains("reserve=try"), "{error}");
    // A plain boolean has no third choice.
    let error = builder.set("share", "try").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value);
}

fn set_limit(resource: common::host::Resource, bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: reads the struct given.
    assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
}

/// Growing a file past the limit would kill the process by SIGXFSZ.
#[test]
fn a_size_above_the_file_limit_is_refused() {
    in_child("a_size_above_the_file_limit_is_refused", || {
        let page = page_size();
        let limit = 64 * page;
        set_limit(libc::RLIMIT_FSIZE, limit);
        for (size, good) in [(limit - page, true), (limit, true), (limit + page, false)] {
            let result = ram(&format!("size={size},share=on")).complete();
            assert_eq!(result.is_ok(), good, "size {size}");
            if let Err(failed) = result {
                assert_eq!(failed.error.kind(), ErrorKind::Value);
                let message = failed.error.to_string();
                assert!(message.contains("RLIMIT_FSIZE"), "{message}");
                // It is gone with the limit.
                set_limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
                assert!(failed.object.complete().is_ok());
            }
        }
        set_limit(libc::RLIMIT_FSIZE, limit);
        assert!(ram(&format!("size={}", limit + page)).complete().is_ok());
    });
}

/// Root may lock without limit, so the child gives that up.
#[test]
fn locking_above_the_limit_is_refused_beforehand() {
    in_child("locking_above_the_limit_is_refused_beforehand", || {
        let page = page_size();
        let limit = 64 * page;
        let now = libc::rlimit {
            rlim_cur: limit,
            rlim_max: limit,
        };
        // SAFETY: reads the struct given.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &now) }, 0);
        if is_root() {
            let options = format!("size={},lock=on,prealloc=on", limit + page);
            ram(&options).complete().unwrap();
        }
        // SAFETY: changes this process's credentials only, which is the child's.
        if unsafe { libc::geteuid() == 0 && libc::setresuid(65534, 65534, 65534) != 0 } {
            return skip("the privilege to lock cannot be given up");
        }
        for (size, good) in [(limit - page, true), (limit, true), (limit + page, false)] {
            let result = ram(&format!("size={size},lock=on,prealloc=on")).complete();
            assert_eq!(result.is_ok(), good, "size {size}");
            if let Err(failed) = result {
                assert_eq!(failed.error.kind(), ErrorKind::Value);
                common::access::assert_names_errno(&failed.error);
                let message = failed.error.to_string();
                assert!(
                    message.contains("RLIMIT_MEMLOCK") && message.contains("ulimit -l"),
                    "{message}"
                );
            }
        }
        // What is locked already counts.
        let first = ram(&format!("size={limit},lock=on")).complete().unwrap();
        let second = ram(&format!("size={page}")).complete().unwrap();
        let error = second.set("lock", true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        assert_eq!(second.get_text("lock").unwrap(), "off");
        first.delete().unwrap();
        second.set("lock", true).unwrap();
        second.delete().unwrap();
        // Pages of the pool are not counted, whenever they are to be locked.
        let huge = "memory-backend-memfd,id=huge,size=4M,hugetlb=on,hugetlbsize=2M,reserve=off";
        for lock in ["on", "off"] {
            let builder = objects().parse(format!("{huge},lock={lock}")).unwrap();
            builder.complete().unwrap().set("lock", true).unwrap();
        }
        let file = common::access::memfd("huge", libc::MFD_HUGETLB, 4 << 20);
        for lock in ["on", "off"] {
            let options = format!("fd={},size=4M,reserve=off,lock={lock}", file.as_raw_fd());
            let builder = common::access::new("fd", &options);
            builder.complete().unwrap().set("lock", true).unwrap();
        }
        // Nor those that take their place.
        let options = format!(
            "fd={},size=4M,reserve=off,share=off,lock=on",
            file.as_raw_fd()
        );
        let private = common::access::new("fd", &options).complete().unwrap();
        let claim = private.claim("test").unwrap();
        claim.discard_to(0, 2 << 20, DiscardTo::Zero).unwrap();
        // Of a file's it is known when it is open; one that was made for it goes again.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new");
        let options = format!("mem-path={},size={}", path.display(), limit + page);
        let failed = common::access::new("file", &format!("{options},share=on,lock=on")).complete();
        let error = failed.unwrap_err().error;
        assert!(error.to_string().contains("RLIMIT_MEMLOCK"), "{error}");
        assert!(!path.exists());
        // What is completed together counts together.
        let objects = objects();
        for (more, good) in [(0, true), (page, false)] {
            let half = |id, size| {
                let options = format!("memory-backend-ram,id={id},size={size},lock=on,prealloc=on");
                objects.parse(&options).unwrap()
            };
            let both = vec![half("a", limit / 2), half("b", limit / 2 + more)];
            let result = Builder::complete_all(both);
            assert_eq!(result.is_ok(), good);
            if let Err(failed) = result {
                let message = failed.error.to_string();
                assert!(message.starts_with("b: lock=on") && message.contains("RLIMIT_MEMLOCK"));
            }
        }
    });
}

/// What the first page of a configuration needs is no reason to refuse the next one.
#[test]
fn a_refused_configuration_can_be_mended() {
    let mut builder = ram("size=100,reserve=off,prealloc=on");
    for (property, value, problem) in [
        ("size", "64K", "size=100"),
        ("prealloc", "off", "reserve=off"),
    ] {
        let failed = builder.complete().unwrap_err();
        assert!(failed.to_string().contains(problem), "{failed}");
        builder = failed.object;
        builder.set(property, value).unwrap();
    }
    assert!(builder.complete().is_ok());
}

/// On a kernel without page merging: an error where it was set, and can be tried again afterwards.
#[test]
fn merge_may_be_tried_after_completing() {
    let without_ksm = [Refusal::new(libc::SYS_madvise, libc::EINVAL).only(2, 12)];
    let mut builder = ram("size=1M,merge=on");
    builder = refusing(&without_ksm, || builder.complete().unwrap_err().object);
    builder.set("merge", false).unwrap();
    refusing(&without_ksm, || {
        let backend = builder.complete().unwrap();
        let error = backend.set("merge", true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(backend.get("merge").unwrap(), false.into());
        backend.claim("vm0").unwrap().populate(0, 1 << 20).unwrap();
    });
}

/// As of memory of a device that the kernel does not manage: an error only where it was asked for.
#[test]
fn memory_that_cannot_be_dumped_is_refused_where_it_has_to_be() {
    const MADV_DODUMP: u64 = 17;
    let undumped = [Refusal::new(libc::SYS_madvise, libc::EINVAL).only(2, MADV_DODUMP)];
    refusing(&undumped, || {
        let backend = ram("size=1M").complete().unwrap();
        let error = backend.set("dump", true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let (kind, message) = refused("size=1M,dump=on");
        assert_eq!(kind, ErrorKind::Unsupported);
        assert!(message.contains("use dump=off"), "{message}");
    });
}

/// For another reason than the limit, which is not named then.
#[test]
fn a_lock_that_the_kernel_refuses_is_an_error() {
    let refusal = [Refusal::new(libc::SYS_mlock2, libc::ENOSYS)];
    let (kind, message) = refusing(&refusal, || refused("size=1M,lock=on"));
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(message.contains("lock=on: the kernel refused"), "{message}");
    assert!(!message.contains("RLIMIT"), "{message}");
}

/// Where the limit cannot be read it is named without a number.
#[test]
fn a_limit_of_locked_memory_that_cannot_be_read_is_named() {
    for (unreadable, errno) in [
        (false, libc::ENOMEM),
        (true, libc::ENOMEM),
        (false, libc::EPERM),
        (false, libc::EAGAIN),
    ] {
        let mut refusals = vec![Refusal::new(libc::SYS_mlock2, errno)];
        refusals.extend(unreadable.then(|| Refusal::new(libc::SYS_prlimit64, libc::EPERM)));
        let error = refusing(&refusals, || ram("size=64K,lock=on").complete().map(drop));
        let message = error.unwrap_err().to_string();
        assert!(message.contains("RLIMIT_MEMLOCK"), "{message}");
        assert_eq!(
            message.contains("RLIMIT_MEMLOCK is"),
            !unreadable,
            "{message}"
        );
    }
}

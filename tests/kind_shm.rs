// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! memory-backend-shm: POSIX shared memory that has a name for an instant only.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use common::access::assert_refused;
use common::access::closes_on_exec;
use common::access::descriptor;
use common::access::new;
use common::access::write;
use common::host;
use common::host::HUGE;
use common::in_child;
use common::page_size;
use common::refusing;
use common::skip;
use common::unlinking;
use common::Belongings;
use common::Refusal;
use hostmem::Builder;
use hostmem::ErrorKind;

fn shm(options: &str) -> Builder {
    new("shm", options)
}

/// The names in /dev/shm that are the library's.
fn names() -> BTreeSet<String> {
    let entries = fs::read_dir("/dev/shm").unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("hostmem"))
        .collect()
}

/// Nothing stays but what was there. Other tests' objects have a name for an instant too.
fn assert_none_new(before: &BTreeSet<String>) {
    for _ in 0..200 {
        if names().is_subset(before) {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("{:?} and before {before:?}", names());
}

/// Fails if an object is made.
fn nothing_made() -> Refusal {
    let create = libc::O_CREAT as u64;
    Refusal::new(libc::SYS_openat, libc::EIO).only_masked(2, create, create)
}

#[test]
fn a_fresh_one_has_its_defaults() {
    let builder = shm("");
    for (property, value) in [("share", "on"), ("reserve", "on"), ("prealloc", "off")] {
        assert_eq!(builder.get_text(property).unwrap(), value, "{property}");
    }
    for property in [
        "mem-path", "offset", "align", "readonly", "rom", "fd", "seal", "hugetlb",
    ] {
        let error = builder.get_text(property).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownProperty, "{property}");
    }
}

#[test]
fn it_is_always_shared() {
    let builder = shm("size=1M,share=off");
    refusing(&[nothing_made()], || {
        assert_refused(
            builder,
            ErrorKind::Value,
            &["share=off", "share=on", "memory-backend-ram"],
        )
    });
}

#[test]
fn the_size_is_a_multiple_of_the_page_size() {
    let page = page_size();
    let huge = common::thp_size().unwrap_or(HUGE);
    for size in [page, 2 * page, huge + page] {
        let backend = shm(&format!("size={size}")).complete().unwrap();
        let claim = backend.claim("test").unwrap();
        assert_eq!(claim.memory().len(), size);
        assert_eq!(descriptor(&claim).metadata().unwrap().len(), size);
        if size >= huge {
            assert_eq!(claim.memory().as_ptr() as u64 % huge, 0);
        }
    }
    for size in [1, page - 1, page + 1, u64::MAX] {
        let builder = shm(&format!("size={size}"));
        refusing(&[nothing_made()], || {
            assert_refused(builder, ErrorKind::Value, &[&format!("size={size}")])
        });
    }
}

#[test]
fn the_object_has_no_name_and_is_for_its_owner_only() {
    in_child("the_object_has_no_name_and_is_for_its_owner_only", || {
        // SAFETY: takes a mask, which no other thread here uses.
        unsafe { libc::umask(0) };
        let before = names();
        let mut seen = BTreeSet::new();
        for _ in 0..8 {
            let backend = shm("size=64K").complete().unwrap();
            assert_none_new(&before);
            let claim = backend.claim("test").unwrap();
            assert!(closes_on_exec(&claim));
            assert!(claim.memory().is_shared());
            let file = descriptor(&claim);
            let status = file.metadata().unwrap();
            assert_eq!(status.mode() & 0o7777, 0o600);
            assert_eq!(status.nlink(), 0);
            let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
            let link = link.to_str().unwrap().to_owned();
            assert!(link.starts_with("/dev/shm/hostmem-"), "{link}");
            assert!(link.ends_with(" (deleted)"), "{link}");
            assert!(seen.insert(link), "a name came twice");
            write(&claim, 4096, 7);
            let mut byte = [0];
            file.read_exact_at(&mut byte, 4096).unwrap();
            assert_eq!(byte, [7]);
        }
    });
}

#[test]
fn without_random_numbers_there_is_no_name_to_guess() {
    let builder = shm("size=64K");
    let refusal = [Refusal::new(libc::SYS_getrandom, libc::ENOSYS)];
    let failed = refusing(&refusal, || builder.complete().unwrap_err());
    assert_eq!(failed.error.raw_os_error(), Some(libc::ENOSYS));
    let words = "cannot create POSIX shared memory";
    assert!(failed.to_string().contains(words), "{failed}");
    assert!(failed.object.complete().is_ok());
}

#[test]
fn a_name_that_cannot_be_removed_is_said() {
    in_child("a_name_that_cannot_be_removed_is_said", || {
        let before = Belongings::now().without_stacks();
        let builder = shm("size=64K");
        let refusals = unlinking(libc::EACCES);
        let failed = refusing(&refusals, || builder.complete().unwrap_err());
        let message = failed.error.to_string();
        let mut words = message.split_whitespace();
        let stays = words.find(|word| word.starts_with("/dev/shm/hostmem-"));
        fs::remove_file(stays.unwrap_or_else(|| panic!("{message}"))).unwrap();
        assert!(message.ends_with("stays"), "{message}");
        assert_eq!(failed.error.kind(), ErrorKind::Io);
        assert_eq!(failed.error.raw_os_error(), Some(libc::EACCES));
        drop(failed);
        assert_eq!(Belongings::now().without_stacks(), before);
    });
}

#[test]
fn the_limit_of_file_sizes_is_an_error() {
    in_child("the_limit_of_file_sizes_is_an_error", || {
        if !host::has_no_hard_limit(libc::RLIMIT_FSIZE) {
            return skip("the limit cannot be raised again");
        }
        for (limit, fits) in [((64 << 10) - 1, false), (64 << 10, true)] {
            let builder = shm("size=64K");
            host::limit(libc::RLIMIT_FSIZE, limit);
            let result = builder.complete();
            host::limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
            assert_eq!(result.is_ok(), fits, "{result:?}");
            if let Err(failed) = result {
                assert!(failed.to_string().contains("RLIMIT_FSIZE"), "{failed}");
            }
        }
    });
}

/// Filling it would be SIGBUS; preallocation says so while completing.
#[test]
fn a_full_dev_shm_is_an_error() {
    in_child("a_full_dev_shm_is_an_error", || {
        if !host::mount("tmpfs", Path::new("/dev/shm"), "size=1M") {
            return;
        }
        assert!(shm("size=1M,prealloc=on").complete().is_ok());
        let _ = shm("size=2M,prealloc=on").complete();
        let builder = shm("size=2M,prealloc=on");
        let before = Belongings::now();
        let failed = builder.complete().unwrap_err();
        assert_eq!(Belongings::now(), before);
        assert_eq!(failed.error.kind(), ErrorKind::NoMemory, "{failed}");
        assert!(failed.to_string().contains("prealloc"), "{failed}");
        assert_eq!(names(), BTreeSet::new());
        let backend = failed.object.size(1 << 20).complete().unwrap();
        assert_eq!(backend.placement().unwrap().resident, 1 << 20);
        drop(backend);
        // As many bytes as one likes, as long as nobody touches them.
        assert!(shm("size=1G").complete().is_ok());
    });
}

#[test]
fn a_dev_shm_that_cannot_be_written_is_named() {
    in_child("a_dev_shm_that_cannot_be_written_is_named", || {
        if !host::mount("tmpfs", Path::new("/dev/shm"), "size=1M") {
            return;
        }
        let at = c"/dev/shm";
        let flags = libc::MS_REMOUNT | libc::MS_RDONLY;
        // SAFETY: the text lives across the call.
        let result = unsafe {
            libc::mount(
                std::ptr::null(),
                at.as_ptr(),
                std::ptr::null(),
                flags,
                std::ptr::null(),
            )
        };
        assert_eq!(result, 0);
        assert_refused(shm("size=64K"), ErrorKind::Io, &["/dev/shm", "create"]);
    });
}

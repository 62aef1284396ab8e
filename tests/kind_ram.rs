// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! memory-backend-ram: anonymous memory, or a sealed memfd.

mod common;

use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::PermissionsExt;

use common::access::new;
use common::host::HugePages;
use common::in_child;
use common::kernel;
use common::populates_by_call;
use common::ram;
use common::refusing;
use common::Refusal;
use hostmem::Claim;

const MFD_NOEXEC_SEAL: u64 = 8;

fn descriptor(claim: &Claim) -> File {
    let fd = claim.memory().fd().unwrap();
    fd.try_clone_to_owned().unwrap().into()
}

#[test]
fn private_memory_has_no_descriptor() {
    let backend = ram("size=64K").complete().unwrap();
    let claim = backend.claim("test").unwrap();
    assert!(claim.memory().fd().is_none());
    assert!(!claim.memory().is_shared());
    assert!(!claim.memory().is_readonly());
}

#[test]
fn shared_memory_is_a_memfd_named_after_the_id() {
    let backend = ram("size=64K,share=on").complete().unwrap();
    let claim = backend.claim("test").unwrap();
    let file = descriptor(&claim);
    let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    assert!(
        link.to_str().unwrap().starts_with("/memfd:ram0"),
        "{link:?}"
    );
    assert!(claim.memory().is_shared());
    assert_eq!(file.metadata().unwrap().len(), 64 << 10);
    assert_eq!(claim.memory().fd_offset(), 0);

    let memory = claim.memory();
    // SAFETY: inside the memory, mapped as long as the claim lives, used by nobody else.
    unsafe { memory.as_ptr().add(4096).write_volatile(7) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, 4096).unwrap();
    assert_eq!(byte, [7]);
}

#[test]
fn the_descriptor_closes_when_a_program_is_executed() {
    let backend = ram("size=64K,share=on").complete().unwrap();
    let claim = backend.claim("test").unwrap();
    let fd = claim.memory().fd().unwrap().as_raw_fd();
    // SAFETY: asks for flags of a descriptor that is open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
}

/// A peer that has the descriptor can neither resize it nor add seals.
#[test]
fn shared_memory_is_sealed() {
    let backend = ram("size=64K,share=on").complete().unwrap();
    let claim = backend.claim("test").unwrap();
    let file = descriptor(&claim);
    for size in [0, 60 << 10, 68 << 10] {
        let error = file.set_len(size).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{size}");
    }
    // SAFETY: takes a number.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) };
    assert_eq!(result, -1);
}

#[test]
fn shared_memory_is_not_executable_where_the_kernel_can() {
    let backend = ram("size=64K,share=on").complete().unwrap();
    let claim = backend.claim("test").unwrap();
    let file = descriptor(&claim);
    let mode = file.metadata().unwrap().permissions().mode() & 0o777;
    let name = std::ffi::CString::new("probe").unwrap();
    // SAFETY: reads the name.
    let probe = unsafe { libc::memfd_create(name.as_ptr(), MFD_NOEXEC_SEAL as u32) };
    let expected = if probe >= 0 { 0o666 } else { 0o777 };
    if probe >= 0 {
        // SAFETY: opened above, owned by nobody else.
        unsafe { libc::close(probe) };
    }
    assert_eq!(mode, expected);
}

/// As on a kernel before 6.3.
#[test]
fn a_kernel_without_noexec_memfds_gives_an_ordinary_one() {
    let refusal = Refusal::new(libc::SYS_memfd_create, libc::EINVAL).only_masked(
        1,
        MFD_NOEXEC_SEAL,
        MFD_NOEXEC_SEAL,
    );
    let builder = ram("size=64K,share=on");
    let backend = refusing(&[refusal], || builder.complete().unwrap());
    let claim = backend.claim("test").unwrap();
    let mode = descriptor(&claim).metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o777);
}

#[test]
fn shared_memory_is_never_more_than_its_size() {
    for options in ["size=8M,share=on,prealloc=on", "size=8M,prealloc=on"] {
        let backend = ram(options).complete().unwrap();
        assert_eq!(backend.placement().unwrap().resident, 8 << 20, "{options}");
    }
    let backend = ram("size=8M,share=on,prealloc=on").complete().unwrap();
    let claim = backend.claim("test").unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(
        descriptor(&claim).metadata().unwrap().blocks() * 512,
        8 << 20
    );
}

#[test]
fn huge_pages_of_no_size_are_refused() {
    for share in ["off", "on"] {
        let builder = ram(&format!("size=8G,hugetlb=on,hugetlbsize=1,share={share}"));
        let failed = builder.complete().unwrap_err();
        let words = "hugetlbsize=1: this host has no huge pages of that size";
        assert!(failed.to_string().contains(words), "{failed}");
    }
}

/// Of a file that is the user's own, what was filled stays.
#[test]
fn of_memory_that_cannot_be_filled_nothing_stays() {
    if !populates_by_call() {
        return;
    }
    let populate = || Refusal::new(libc::SYS_madvise, libc::ENOMEM).only(2, 23);
    let fault = || Refusal::new(libc::SYS_userfaultfd, libc::ENOSYS);
    for kind in ["ram", "memfd", "shm"] {
        let builder = new(kind, "size=2M,share=on,prealloc=on,thp=never");
        let failed = refusing(&[populate(), fault()], || builder.complete().unwrap_err());
        let message = failed.to_string();
        assert_eq!(failed.error.raw_os_error(), Some(libc::ENOMEM), "{message}");
        assert!(!message.contains("stays"), "{message}");
    }
}

/// Anonymous huge pages from the host's pool: no descriptor, reserved, given back.
#[test]
fn huge_pages_need_no_descriptor() {
    in_child("huge_pages_need_no_descriptor", || {
        let Some(_pool) = HugePages::have(4) else {
            return;
        };
        for share in ["off", "on"] {
            let options = format!("size=8M,hugetlb=on,hugetlbsize=2M,share={share}");
            let backend = ram(&options).complete().unwrap();
            assert_eq!(HugePages::available(), 0, "reserved");
            let claim = backend.claim("test").unwrap();
            assert!(claim.memory().is_hugetlb());
            assert_eq!(claim.memory().page_size(), 2 << 20);
            assert_eq!(claim.memory().fd().is_some(), share == "on");
            backend.set("prealloc", true).unwrap();
            assert_eq!(backend.placement().unwrap().huge, 8 << 20);
            assert_eq!(HugePages::free(), 0);
            // Private huge pages can be given back since 5.18.
            if share == "on" || kernel() >= (5, 18) {
                claim.discard(2 << 20, 4 << 20).unwrap();
                assert_eq!(HugePages::free(), 2);
                backend.populate(2 << 20, 4 << 20).unwrap();
            }
            drop(claim);
            backend.delete().unwrap();
            assert_eq!(HugePages::available(), 4);
            let failed = ram(&options.replace("8M", "10M")).complete().unwrap_err();
            assert!(failed.to_string().contains("huge pages"), "{failed}");
            let failed = ram(&options.replace("8M", "3M")).complete().unwrap_err();
            common::access::assert_names_errno(&failed.error);
            assert!(failed.to_string().contains("multiple"), "{failed}");
            assert_eq!(HugePages::available(), 4);
        }
        let failed = ram("size=8M,hugetlbsize=2M").complete().unwrap_err();
        common::access::assert_names_errno(&failed.error);
        assert!(
            failed.to_string().contains("without hugetlb=on"),
            "{failed}"
        );
    });
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Backends of any kind, and what is in their memory.

use std::fs::File;
use std::os::fd::AsRawFd;

use hostmem::Builder;
use hostmem::Claim;
use hostmem::Error;
use hostmem::ErrorKind;

/// A backend with the id `m0` of a kind without its `memory-backend-`, from the rest of an option
/// string.
pub fn new(kind: &str, options: &str) -> Builder {
    super::objects()
        .parse(format!("memory-backend-{kind},id=m0,{options}"))
        .unwrap_or_else(|error| panic!("{kind},{options}: {error}"))
}

/// Completes in vain: the kind of error and its message.
pub fn refused(builder: Builder) -> (ErrorKind, String) {
    let failed = builder.complete().expect_err("it completes");
    assert_names_errno(&failed.error);
    (failed.error.kind(), failed.error.to_string())
}

/// Completes in vain, for a reason: the kind of error, and words that its message has.
#[track_caller]
pub fn assert_refused(builder: Builder, kind: ErrorKind, words: &[&str]) -> String {
    let what = format!("{builder:?}");
    let failed = builder.complete().expect_err(&what);
    let message = failed.error.to_string();
    assert_eq!(failed.error.kind(), kind, "{what}: {message}");
    assert!(message.starts_with("m0: "), "{message}");
    assert_names_errno(&failed.error);
    for word in words {
        assert!(message.contains(word), "{what}: {message}: lacks {word}");
    }
    message
}

/// A refusal has an errno only where a system call was asked, whose answer is in the message.
#[track_caller]
pub fn assert_names_errno(error: &Error) {
    let Some(errno) = error.raw_os_error() else {
        return;
    };
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap();
    let message = error.to_string();
    let names_it = match error.kind() {
        ErrorKind::Value | ErrorKind::State | ErrorKind::Type | ErrorKind::UnknownProperty => {
            message.contains(text)
        }
        _ => true,
    };
    assert!(names_it, "{errno}: {message}");
}

pub fn read(claim: &Claim, at: u64) -> u8 {
    assert!(at < claim.memory().len());
    // SAFETY: inside the memory, which is mapped as long as the claim lives.
    unsafe { claim.memory().as_ptr().add(at as usize).read_volatile() }
}

pub fn write(claim: &Claim, at: u64, byte: u8) {
    assert!(at < claim.memory().len() && !claim.memory().is_readonly());
    // SAFETY: inside the memory, which is mapped as long as the claim lives; the tests do not share
    // it among threads.
    unsafe {
        claim
            .memory()
            .as_ptr()
            .add(at as usize)
            .write_volatile(byte)
    }
}

/// Writes one byte into each base page of a range.
pub fn fill(claim: &Claim, start: u64, end: u64, byte: u8) {
    for at in (start..end).step_by(super::page_size() as usize) {
        write(claim, at, byte);
    }
}

/// Whether each base page of a range has the byte.
pub fn has(claim: &Claim, start: u64, end: u64, byte: u8) -> bool {
    (start..end)
        .step_by(super::page_size() as usize)
        .all(|at| read(claim, at) == byte)
}

/// A duplicate of the descriptor behind the memory.
pub fn descriptor(claim: &Claim) -> File {
    let fd = claim.memory().fd().unwrap();
    fd.try_clone_to_owned().unwrap().into()
}

/// Flags of the descriptor itself, not of a duplicate.
pub fn closes_on_exec(claim: &Claim) -> bool {
    let fd = claim.memory().fd().unwrap().as_raw_fd();
    // SAFETY: asks for flags of a descriptor that is open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags & libc::FD_CLOEXEC != 0
}

pub fn seals(file: &File) -> libc::c_int {
    // SAFETY: asks for the seals of a descriptor that is open.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) }
}

/// Sum of a field of /proc/self/smaps over the memory, in bytes.
pub fn smaps_field(claim: &Claim, field: &str) -> u64 {
    let memory = claim.memory();
    let entries = super::smaps(memory.as_ptr() as u64, memory.len());
    let kib = entries.iter().map(|(_, fields)| {
        let value = fields.get(field).map_or("0", |value| value.as_str());
        let value = value.split(' ').next().unwrap();
        value.parse::<u64>().unwrap()
    });
    kib.sum::<u64>() * 1024
}

/// A memfd of the test's own.
pub fn memfd(name: &str, flags: libc::c_uint, size: u64) -> File {
    use std::os::fd::FromRawFd;
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: reads the name.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | flags) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: opened above, owned by nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size).unwrap();
    file
}

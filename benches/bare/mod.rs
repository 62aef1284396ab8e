// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The best known way to preallocate each kind of memory with system calls alone: the floor for any
//! program on the same kernel.
//!
//! It assumes base pages of 4 KiB and huge pages of 2 MiB.

// Each benchmark uses what it needs.
#![allow(dead_code, unused_imports)]

mod fill;
mod threads;

use std::ffi::c_int;
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::ptr;

pub use threads::populate;
pub use threads::populate_slices;

const PAGE: usize = 4 << 10;
const HUGE_PAGE: usize = 2 << 20;

/// What the memory is made of, which decides how it is best populated.
#[derive(Clone, Copy)]
pub enum Kind<'a> {
    /// Anonymous, of small pages: populated.
    Small,
    /// Anonymous, of transparent huge pages: the last page of each first.
    Huge,
    /// A memfd of small pages: zero pages by userfaultfd.
    Memfd,
    /// A memfd where the host's setting gives huge pages on advice: advised and populated.
    MemfdHuge,
    /// A memfd where it does not: one page of each huge page allocated, then collapsed.
    MemfdCollapsed,
    /// A memfd of the pool of huge pages: the last page of each first.
    Pool,
    /// A file in the directory, on tmpfs: as a memfd of small pages.
    FileInMemory(&'a Path),
    /// A file in the directory, on disk: allocated and populated.
    FileOnDisk(&'a Path),
}

/// A mapping aligned to huge pages, unmapped on drop.
pub struct Memory<'a> {
    kind: Kind<'a>,
    base: *mut c_void,
    base_size: usize,
    address: *mut c_void,
    size: usize,
    file: Option<OwnedFd>,
}

/// Turns the result of a system call, -1 on failure, into a Result.
fn check(result: c_int) -> io::Result<c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

fn create_memfd(flags: libc::c_uint, size: usize) -> io::Result<OwnedFd> {
    // SAFETY: the name is a static string.
    let fd = check(unsafe { libc::memfd_create(c"bare".as_ptr(), flags | libc::MFD_CLOEXEC) })?;
    // SAFETY: just opened, and owned by nothing else.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(size as u64)?;
    Ok(file.into())
}

fn create_file(directory: &Path, size: usize) -> io::Result<OwnedFd> {
    let file = tempfile::tempfile_in(directory)?;
    file.set_len(size as u64)?;
    Ok(file.into())
}

fn map(
    at: *mut c_void,
    size: usize,
    protection: c_int,
    flags: c_int,
    file: Option<&OwnedFd>,
) -> io::Result<*mut c_void> {
    let (flags, fd) = match file {
        None => (flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        Some(file) => (flags | libc::MAP_SHARED, file.as_raw_fd()),
    };
    // SAFETY: without MAP_FIXED only free address space is used; the one caller with it passes
    // a range that it has reserved and that nothing else uses.
    let mapped = unsafe { libc::mmap(at, size, protection, flags, fd, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(mapped)
}

impl Kind<'_> {
    fn create(self, size: usize) -> io::Result<Option<OwnedFd>> {
        Ok(Some(match self {
            Kind::Small | Kind::Huge => return Ok(None),
            Kind::Memfd | Kind::MemfdHuge | Kind::MemfdCollapsed => create_memfd(0, size)?,
            Kind::Pool => create_memfd(libc::MFD_HUGETLB | libc::MFD_HUGE_2MB, size)?,
            Kind::FileInMemory(directory) | Kind::FileOnDisk(directory) => {
                create_file(directory, size)?
            }
        }))
    }

    fn advice(self) -> Option<c_int> {
        match self {
            Kind::Small => Some(libc::MADV_NOHUGEPAGE),
            Kind::Huge | Kind::MemfdHuge | Kind::MemfdCollapsed => Some(libc::MADV_HUGEPAGE),
            Kind::Memfd | Kind::Pool | Kind::FileInMemory(_) | Kind::FileOnDisk(_) => None,
        }
    }
}

impl<'a> Memory<'a> {
    pub fn new(size: u64, kind: Kind<'a>) -> io::Result<Self> {
        let size = usize::try_from(size).unwrap();
        let file = kind.create(size)?;
        let base_size = size + HUGE_PAGE;
        let reserved = libc::MAP_NORESERVE;
        let base = map(ptr::null_mut(), base_size, libc::PROT_NONE, reserved, None)?;
        let padding = (base as usize).next_multiple_of(HUGE_PAGE) - base as usize;
        let mut memory = Self {
            kind,
            base,
            base_size,
            address: base.wrapping_byte_add(padding),
            size,
            file,
        };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let file = memory.file.as_ref();
        memory.address = map(memory.address, size, access, libc::MAP_FIXED, file)?;
        if let Some(advice) = kind.advice() {
            memory.advise(0, size, advice)?;
        }
        Ok(memory)
    }

    pub fn address(&self) -> *mut u8 {
        self.address.cast()
    }

    pub fn advise(&self, offset: usize, size: usize, advice: c_int) -> io::Result<()> {
        assert!(offset + size <= self.size);
        let at = self.address.wrapping_byte_add(offset);
        // SAFETY: inside the mapping; no advice used here changes the contents.
        check(unsafe { libc::madvise(at, size, advice) }).map(drop)
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        // SAFETY: the whole range that new() reserved, and nothing refers to it any more.
        unsafe { libc::munmap(self.base, self.base_size) };
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Restoring and saving with system calls alone: as external handlers of page faults do, and the
//! fewest calls that are known.
//!
//! It assumes base pages of 4 KiB and huge pages of 2 MiB.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::bare::Kind;
use crate::bare::Memory;
use crate::elapsed;
use crate::touch;
use crate::HUGE_PAGE;

const PAGE: u64 = 4 << 10;

/// A part of the image.
type Range = std::ops::Range<u64>;

/// Constants of linux/userfaultfd.h.
mod uffd {
    pub const API: libc::c_ulong = 0xc018_aa3f;
    pub const REGISTER: libc::c_ulong = 0xc020_aa00;
    pub const COPY: libc::c_ulong = 0xc028_aa03;
    pub const MOVE: libc::c_ulong = 0xc028_aa05;
    pub const API_VERSION: u64 = 0xaa;
    pub const REGISTER_MODE_MISSING: u64 = 1;
    pub const EVENT_PAGEFAULT: u8 = 0x12;
}

fn check(result: libc::c_long) -> io::Result<c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(c_int::try_from(result).unwrap()),
    }
}

/// A userfaultfd with which the memory is registered.
struct Faults(OwnedFd);

impl Faults {
    fn of(memory: &Memory<'_>, size: u64) -> io::Result<Self> {
        // SAFETY: takes flags.
        let fd = check(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) })?;
        // SAFETY: just opened, and owned by nothing else.
        let faults = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        faults.call(uffd::API, &mut [uffd::API_VERSION, 0, 0])?;
        let address = memory.address() as u64;
        faults.call(
            uffd::REGISTER,
            &mut [address, size, uffd::REGISTER_MODE_MISSING, 0],
        )?;
        Ok(faults)
    }

    /// Calls with as many numbers as the structure of the call has.
    fn call(&self, request: libc::c_ulong, numbers: &mut [u64]) -> io::Result<()> {
        // SAFETY: the callers give the numbers of their structure, and addresses in memory that
        // lives.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request, numbers.as_mut_ptr()) };
        check(result.into()).map(drop)
    }

    fn put(&self, request: libc::c_ulong, to: u64, from: u64, length: u64) -> io::Result<()> {
        self.call(request, &mut [to, from, length, 0, 0])
    }

    /// Waits for a fault, and returns its address.
    fn wait(&self) -> io::Result<u64> {
        // The structure of a message has 32 bytes, the address in the third eight.
        let mut message = [0u64; 4];
        // SAFETY: writes as many bytes as the array has.
        let got = unsafe {
            let bytes = message.as_mut_ptr().cast();
            libc::read(self.0.as_raw_fd(), bytes, size_of_val(&message))
        };
        check(got as libc::c_long)?;
        assert_eq!(message[0].to_ne_bytes()[0], uffd::EVENT_PAGEFAULT);
        Ok(message[2])
    }
}

/// The image in memory, as a handler of faults maps it.
struct Mapped(*mut libc::c_void, usize);

impl Mapped {
    fn new(image: &File, size: u64) -> io::Result<Self> {
        let (fd, size) = (image.as_raw_fd(), usize::try_from(size).unwrap());
        let (access, flags) = (libc::PROT_READ, libc::MAP_PRIVATE);
        // SAFETY: only free address space is used.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), size, access, flags, fd, 0) };
        match mapped {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            mapped => Ok(Self(mapped, size)),
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: what new() mapped.
        unsafe { libc::munmap(self.0, self.1) };
    }
}

/// Copies the image page by page from a mapping of it.
pub fn time_copy_loop(image: &File, size: u64) -> io::Result<Duration> {
    let start = Instant::now();
    let memory = Memory::new(size, Kind::Small)?;
    let faults = Faults::of(&memory, size)?;
    let mapped = Mapped::new(image, size)?;
    for offset in (0..size).step_by(PAGE as usize) {
        let to = memory.address() as u64 + offset;
        faults.put(uffd::COPY, to, mapped.0 as u64 + offset, PAGE)?;
    }
    Ok(start.elapsed())
}

/// A fresh huge page is zeroed upwards where its last page is made first.
fn make_huge_page(memory: &Memory<'_>, at: u64) -> io::Result<()> {
    let last = (at + HUGE_PAGE - PAGE) as usize;
    memory.advise(last, PAGE as usize, libc::MADV_POPULATE_WRITE)
}

/// Makes a huge page and reads it from the image.
fn read_huge_page(memory: &Memory<'_>, at: u64, image: &File, offset: u64) -> io::Result<()> {
    make_huge_page(memory, at)?;
    let to = memory.address().wrapping_add(at as usize);
    // SAFETY: inside the memory, which nothing else uses.
    let bytes = unsafe { std::slice::from_raw_parts_mut(to, HUGE_PAGE as usize) };
    image.read_exact_at(bytes, offset)
}

/// Serves the faults of huge pages, so many: reads each into a fresh one and moves it in.
fn serve(faults: &Faults, to: u64, image: &File, count: usize) {
    let scratch = Memory::new(HUGE_PAGE, Kind::Huge).unwrap();
    for _ in 0..count {
        let offset = (faults.wait().unwrap() - to) / HUGE_PAGE * HUGE_PAGE;
        read_huge_page(&scratch, 0, image, offset).unwrap();
        let from = scratch.address() as u64;
        faults
            .put(uffd::MOVE, to + offset, from, HUGE_PAGE)
            .unwrap();
    }
}

/// How long each touch of memory takes that a handler fills.
pub fn time_faults(image: &File, size: u64, offsets: &[u64]) -> io::Result<Vec<Duration>> {
    let memory = Memory::new(size, Kind::Huge)?;
    let faults = Faults::of(&memory, size)?;
    let address = memory.address();
    let to = address as u64;
    thread::scope(|scope| {
        scope.spawn(|| serve(&faults, to, image, offsets.len()));
        let times = offsets
            .iter()
            .map(|&offset| elapsed(|| touch(address, offset)));
        Ok(times.collect())
    })
}

/// Reads ranges of the image into fresh huge pages, and makes the others.
pub fn time_read(image: &File, size: u64, ranges: &[Range]) -> io::Result<Duration> {
    let start = Instant::now();
    let memory = Memory::new(size, Kind::Huge)?;
    for offset in (0..size).step_by(HUGE_PAGE as usize) {
        let has = |range: &&Range| range.contains(&offset);
        match ranges.iter().find(has) {
            Some(_) => read_huge_page(&memory, offset, image, offset)?,
            None => make_huge_page(&memory, offset)?,
        }
    }
    Ok(start.elapsed())
}

/// Writes ranges of memory to the same place of a file.
pub fn write(address: *const u8, ranges: &[Range], file: &File) -> io::Result<()> {
    const CHUNK: u64 = 8 << 20;
    for range in ranges {
        for offset in range.clone().step_by(CHUNK as usize) {
            let length = CHUNK.min(range.end - offset);
            let from = address.wrapping_add(offset as usize);
            // SAFETY: the caller's memory, which nobody writes to.
            let bytes = unsafe { std::slice::from_raw_parts(from, length as usize) };
            file.write_all_at(bytes, offset)?;
        }
    }
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Populates one range of memory in the way that suits its kind.

use std::ffi::c_int;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use super::check;
use super::Kind;
use super::Memory;
use super::HUGE_PAGE;
use super::PAGE;

/// Constants of linux/userfaultfd.h.
mod uffd {
    use super::c_int;

    pub const USER_MODE_ONLY: c_int = 1;
    pub const API: libc::c_ulong = 0xc018_aa3f;
    pub const REGISTER: libc::c_ulong = 0xc020_aa00;
    pub const ZEROPAGE: libc::c_ulong = 0xc020_aa04;
    pub const API_VERSION: u64 = 0xaa;
    pub const REGISTER_MODE_MISSING: u64 = 1;
}

/// Memory that is ready to be populated by several threads.
pub struct Fill<'a> {
    memory: &'a Memory<'a>,
    /// The userfaultfd that the memory is registered with.
    faults: Option<OwnedFd>,
}

fn register(memory: &Memory<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | uffd::USER_MODE_ONLY;
    // SAFETY: takes flags.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let fd = check(c_int::try_from(fd).unwrap())?;
    // SAFETY: just opened, and owned by nothing else.
    let faults = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut api = [uffd::API_VERSION, 0, 0];
    // SAFETY: three numbers, which is what struct uffdio_api has.
    check(unsafe { libc::ioctl(fd, uffd::API, api.as_mut_ptr()) })?;
    let address = memory.address as u64;
    let mut range = [address, memory.size as u64, uffd::REGISTER_MODE_MISSING, 0];
    // SAFETY: four numbers, which is what struct uffdio_register has; all of the range is mapped,
    // and nothing touches it before the descriptor is closed.
    check(unsafe { libc::ioctl(fd, uffd::REGISTER, range.as_mut_ptr()) })?;
    Ok(faults)
}

impl<'a> Fill<'a> {
    pub fn new(memory: &'a Memory<'a>) -> io::Result<Self> {
        let faults = match memory.kind {
            Kind::Memfd | Kind::FileInMemory(_) => Some(register(memory)?),
            _ => None,
        };
        Ok(Self { memory, faults })
    }

    pub fn size(&self) -> usize {
        self.memory.size
    }

    pub fn populate(&self, offset: usize, size: usize) -> io::Result<()> {
        match self.memory.kind {
            Kind::Huge | Kind::Pool => self.populate_last_pages(offset, size)?,
            Kind::Memfd | Kind::FileInMemory(_) => return self.put_zero_pages(offset, size),
            Kind::MemfdCollapsed => self.collapse(offset, size),
            Kind::FileOnDisk(_) => self.allocate(offset, size)?,
            Kind::Small | Kind::MemfdHuge => {}
        }
        self.memory.advise(offset, size, libc::MADV_POPULATE_WRITE)
    }

    /// Kernels before 2026 zero a huge page towards the address that faulted, and zeroing upwards is
    /// faster.
    fn populate_last_pages(&self, offset: usize, size: usize) -> io::Result<()> {
        (offset + HUGE_PAGE..=offset + size)
            .step_by(HUGE_PAGE)
            .try_for_each(|end| {
                self.memory
                    .advise(end - PAGE, PAGE, libc::MADV_POPULATE_WRITE)
            })
    }

    fn put_zero_pages(&self, mut offset: usize, size: usize) -> io::Result<()> {
        let faults = self.faults.as_ref().unwrap();
        let end = offset + size;
        while offset < end {
            let address = self.memory.address as u64 + offset as u64;
            let mut request = [address, (end - offset) as u64, 0, 0];
            // SAFETY: four numbers, which is what struct uffdio_zeropage has; the range is
            // registered.
            let result =
                unsafe { libc::ioctl(faults.as_raw_fd(), uffd::ZEROPAGE, request.as_mut_ptr()) };
            match check(result) {
                Ok(_) => return Ok(()),
                // Interrupted; the last number is the bytes done.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    offset += usize::try_from(request[3] as i64).unwrap_or(0);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn allocate(&self, offset: usize, size: usize) -> io::Result<()> {
        let fd = self.memory.file.as_ref().unwrap().as_raw_fd();
        // SAFETY: takes numbers; the file is ours.
        check(unsafe { libc::fallocate(fd, 0, offset as i64, size as i64) }).map(drop)
    }

    /// A huge page that cannot be collapsed is populated in small pages.
    fn collapse(&self, offset: usize, size: usize) {
        for huge in (offset..offset + size).step_by(HUGE_PAGE) {
            let _ = self.allocate(huge, PAGE);
            let _ = self.memory.advise(huge, HUGE_PAGE, libc::MADV_COLLAPSE);
        }
    }
}

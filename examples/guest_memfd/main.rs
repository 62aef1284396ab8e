// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that hostmem does not create itself: a kind of the embedder, here KVM's guest_memfd, or a
//! descriptor created elsewhere if there is no guest_memfd.

mod kind;

use std::error::Error;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hostmem::Builder;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::Objects;
use kvm_ioctls::Kvm;

use crate::kind::GuestMemfd;

const SIZE: u64 = 16 << 20;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let objects = Objects::new(&Host::probe()?, &Defaults::default())?;
    let builder = from_kvm(&objects).or_else(|why| {
        println!("no guest_memfd: {why}");
        from_elsewhere(&objects)
    })?;
    let backend = builder.size(SIZE).prealloc(true).complete()?;
    println!("{}: {SIZE} bytes", backend.kind());

    let claim = backend.claim("vm0")?;
    let memory = claim.memory();
    println!("{memory:?}");
    for offset in [0, SIZE as usize - 1] {
        // SAFETY: inside the memory, which the claim keeps mapped and no guest uses yet.
        let byte = unsafe {
            memory.as_ptr().add(offset).write_volatile(0x5a);
            memory.as_ptr().add(offset).read_volatile()
        };
        println!("at {offset:#x}: wrote 0x5a, read {byte:#x}");
    }

    let placement = backend.placement()?;
    println!("resident {}, huge {}", placement.resident, placement.huge);
    for (node, bytes) in &placement.nodes {
        println!("node {node}: {bytes}");
    }
    Ok(())
}

/// A backend of a kind that creates its memory with KVM.
fn from_kvm(objects: &Objects) -> Result<Builder> {
    let vm = Kvm::new()?.create_vm()?;
    let kind = GuestMemfd::new(Arc::new(vm))?;
    objects.register_kind("guest-memfd", "Memory of a KVM guest.", true, kind)?;
    Ok(objects.builder("guest-memfd", "ram0")?)
}

/// A backend of a descriptor created elsewhere, for example by another process.
fn from_elsewhere(objects: &Objects) -> Result<Builder> {
    let memfd = memfd(c"elsewhere", SIZE)?;
    // The backend duplicates the descriptor; this one is closed on return.
    Ok(objects.builder("memory-backend-fd", "ram0")?.fd(&memfd))
}

fn memfd(name: &CStr, size: u64) -> Result<File> {
    // SAFETY: the name outlives the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: just created, and owned by nothing else.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(size)?;
    Ok(file)
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pieces of memory in KVM memory slots.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use hostmem::kvm::MemorySlot;
//! use hostmem::Builder;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let vm = Arc::new(kvm_ioctls::Kvm::new()?.create_vm()?);
//! let backend = Builder::new("memory-backend-ram", "ram0")?
//!     .size(64 << 20)
//!     .complete()?;
//! let piece = backend.claim("vm0")?.piece(0)?;
//! let slot = MemorySlot::new(&vm, 0, &piece)?;
//! # drop(slot);
//! # Ok(())
//! # }
//! ```

#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_bindings::kvm_userspace_memory_region2;
use kvm_bindings::KVM_MEM_GUEST_MEMFD;
use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_bindings::KVM_MEM_READONLY;
use kvm_ioctls::Cap;
use kvm_ioctls::VmFd;

use crate::piece::SlotKey;
use crate::Error;
use crate::ErrorKind;
use crate::Piece;
use crate::Result;

/// Options of a memory slot.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlotOptions<'fd> {
    readonly: bool,
    log_dirty_pages: bool,
    guest_memfd: Option<(BorrowedFd<'fd>, u64)>,
}

impl<'fd> SlotOptions<'fd> {
    /// No options: plain memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the slot read-only: guest writes exit to the VMM (`KVM_EXIT_MMIO`). Always on for
    /// memory that is mapped [read-only](crate::Memory::is_readonly).
    pub fn readonly(mut self, readonly: bool) -> Self {
        self.readonly = readonly;
        self
    }

    /// Enables the log of pages that the guest writes; see [`MemorySlot::dirty_log`].
    pub fn log_dirty_pages(mut self, log: bool) -> Self {
        self.log_dirty_pages = log;
        self
    }

    /// Backs the guest's private memory by a guest_memfd of this VM, from an offset in bytes. Needs
    /// Linux 6.8. The descriptor is duplicated.
    pub fn guest_memfd(mut self, fd: BorrowedFd<'fd>, offset: u64) -> Self {
        self.guest_memfd = Some((fd, offset));
        self
    }
}

/// A piece of memory in a memory slot of a KVM VM. Dropping it removes the slot.
///
/// It keeps references to the piece, so that the memory stays mapped, and to the VM. If KVM fails
/// to remove the slot, as in a forked child, the piece is leaked, so that its memory stays mapped
/// and claimed.
#[doc(alias = "kvm_userspace_memory_region")]
pub struct MemorySlot {
    slot: Slot,
}

impl MemorySlot {
    /// Puts a piece into a slot of the VM, without options. See [`with`](MemorySlot::with).
    ///
    /// # Errors
    ///
    /// Those of [`with`](MemorySlot::with).
    pub fn new(vm: &Arc<VmFd>, id: u32, piece: &Piece) -> Result<Self> {
        Self::with(vm, id, piece, SlotOptions::new())
    }

    /// Puts a piece into a slot of the VM, at its guest address. The low 16 bits of the id are the
    /// slot, below `KVM_CAP_NR_MEMSLOTS`; the high 16 bits are the address space.
    ///
    /// # Errors
    ///
    /// [`Value`](ErrorKind::Value) (id too high or in use; guest addresses overlap another slot or
    /// are outside the VM's address space; options that exclude each other),
    /// [`Unsupported`](ErrorKind::Unsupported) (this KVM or type of VM does not support read-only
    /// slots or guest_memfd), [`NoMemory`](ErrorKind::NoMemory), [`Io`](ErrorKind::Io).
    pub fn with(vm: &Arc<VmFd>, id: u32, piece: &Piece, options: SlotOptions<'_>) -> Result<Self> {
        let mut slot = Slot {
            vm: Arc::clone(vm),
            piece: piece.clone(),
            id,
            flags: flag(options.log_dirty_pages, KVM_MEM_LOG_DIRTY_PAGES),
            guest_memfd: None,
        };
        if options.readonly || piece.memory().is_readonly() {
            slot.flags |= KVM_MEM_READONLY;
        }
        if let Some((fd, offset)) = options.guest_memfd {
            let fd = fd.try_clone_to_owned();
            let fd = fd.map_err(|error| slot.fail(ErrorKind::Io, &error.to_string()))?;
            slot.guest_memfd = Some((fd, offset));
            slot.flags |= KVM_MEM_GUEST_MEMFD;
        }
        slot.check_support()?;
        slot.add()?;
        Ok(Self { slot })
    }

    /// The id of the slot.
    pub fn id(&self) -> u32 {
        self.slot.id
    }

    /// The piece of memory in the slot.
    pub fn piece(&self) -> &Piece {
        &self.slot.piece
    }

    /// Enables or disables the dirty log. The guest may be running.
    ///
    /// # Errors
    ///
    /// [`Value`](ErrorKind::Value) (a slot with guest_memfd), [`NoMemory`](ErrorKind::NoMemory),
    /// [`Io`](ErrorKind::Io). The slot does not change then.
    pub fn log_dirty_pages(&mut self, log: bool) -> Result<()> {
        let slot = &mut self.slot;
        let others = slot.flags & !KVM_MEM_LOG_DIRTY_PAGES;
        let flags = others | flag(log, KVM_MEM_LOG_DIRTY_PAGES);
        slot.set(flags, slot.size())
            .map_err(|errno| slot.explain(errno))?;
        slot.flags = flags;
        Ok(())
    }

    /// The pages that the guest has written since the last call, as a bitmap: bit n is base page n
    /// of the slot, from the lowest bit of the first word. Writes of the VMM are not included.
    ///
    /// # Errors
    ///
    /// [`State`](ErrorKind::State) (the dirty log is disabled), [`NoMemory`](ErrorKind::NoMemory),
    /// [`Io`](ErrorKind::Io).
    #[doc(alias = "KVM_GET_DIRTY_LOG")]
    pub fn dirty_log(&self) -> Result<Vec<u64>> {
        let slot = &self.slot;
        if slot.flags & KVM_MEM_LOG_DIRTY_PAGES == 0 {
            let why = "no dirty log is kept; switch it on by log_dirty_pages first";
            return Err(slot.fail(ErrorKind::State, why));
        }
        slot.vm
            .get_dirty_log(slot.id, slot.size() as usize)
            .map_err(|error| slot.explain(error.errno()))
    }
}

impl Drop for MemorySlot {
    fn drop(&mut self) {
        let slot = &self.slot;
        match slot.set(slot.flags, 0) {
            Ok(()) => slot.piece.give_slot(slot.key()),
            // A reference that is never dropped.
            Err(_) => mem::forget(slot.piece.clone()),
        }
    }
}

impl fmt::Debug for MemorySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySlot")
            .field("id", &self.slot.id)
            .field("flags", &self.slot.flags)
            .field("piece", &self.slot.piece)
            .finish_non_exhaustive()
    }
}

/// The data of a slot, in the VM or not.
struct Slot {
    vm: Arc<VmFd>,
    piece: Piece,
    id: u32,
    flags: u32,
    guest_memfd: Option<(OwnedFd, u64)>,
}

impl Slot {
    fn size(&self) -> u64 {
        self.piece.memory().len()
    }

    /// KVM accepts a slot that is set again with the same values. Two guards would then own one
    /// slot, so a second one is refused here.
    fn key(&self) -> SlotKey {
        (Arc::as_ptr(&self.vm) as usize, self.id)
    }

    fn check_support(&self) -> Result<()> {
        let has = |cap| self.vm.check_extension(cap);
        if self.flags & KVM_MEM_READONLY != 0 && !has(Cap::ReadonlyMem) {
            let why = "this KVM has no read-only slots";
            return Err(self.fail(ErrorKind::Unsupported, why));
        }
        if self.guest_memfd.is_some() && !(has(Cap::UserMemory2) && has(Cap::GuestMemfd)) {
            let why = "this KVM has no guest_memfd for this type of VM; Linux 6.8 has for some";
            return Err(self.fail(ErrorKind::Unsupported, why));
        }
        let slots = self.vm.check_extension_int(Cap::NrMemslots);
        if i64::from(self.id & 0xffff) >= i64::from(slots) {
            let why = format!("this KVM has {slots} slots, from 0");
            return Err(self.fail(ErrorKind::Value, &why));
        }
        Ok(())
    }

    fn add(&self) -> Result<()> {
        if !self.piece.take_slot(self.key()) {
            return Err(self.fail(ErrorKind::Value, "the piece is in that slot already"));
        }
        self.set(self.flags, self.size()).map_err(|errno| {
            self.piece.give_slot(self.key());
            self.explain(errno)
        })
    }

    /// Sets the slot, or removes it if the size is 0. Returns an errno on failure.
    fn set(&self, flags: u32, size: u64) -> Result<(), i32> {
        let address = self.piece.memory().as_ptr() as u64;
        let result = match &self.guest_memfd {
            None => {
                let region = kvm_userspace_memory_region {
                    slot: self.id,
                    flags,
                    guest_phys_addr: self.piece.guest_address(),
                    memory_size: size,
                    userspace_addr: address,
                };
                // SAFETY: the memory is mapped, of that size, and stays so while a reference to the
                // piece exists, so until KVM has removed the slot. `Memory` documents that the
                // guest may write to it at any time.
                unsafe { self.vm.set_user_memory_region(region) }
            }
            Some((fd, offset)) => {
                let region = kvm_userspace_memory_region2 {
                    slot: self.id,
                    flags,
                    guest_phys_addr: self.piece.guest_address(),
                    memory_size: size,
                    userspace_addr: address,
                    guest_memfd_offset: *offset,
                    // An open descriptor is not negative.
                    guest_memfd: fd.as_raw_fd() as u32,
                    ..Default::default()
                };
                // SAFETY: as above. KVM checks the type of the other descriptor.
                unsafe { self.vm.set_user_memory_region2(region) }
            }
        };
        result.map_err(|error| error.errno())
    }

    fn explain(&self, errno: i32) -> Error {
        let kind = match errno {
            libc::EEXIST | libc::EINVAL => ErrorKind::Value,
            libc::ENOMEM => ErrorKind::NoMemory,
            _ => ErrorKind::Io,
        };
        let why = match errno {
            libc::EEXIST => "its guest addresses overlap those of another slot".to_owned(),
            libc::EINVAL if self.guest_memfd.is_some() => {
                "KVM refuses it: the slot is taken, or the descriptor is no guest_memfd of this VM \
                 with that range free in it, or the slot is read-only or logs dirty pages, which \
                 guest_memfd excludes"
                    .to_owned()
            }
            libc::EINVAL => "KVM refuses it: the slot is taken by other memory, or the guest \
                             addresses are beyond those of this VM"
                .to_owned(),
            _ => io::Error::from_raw_os_error(errno).to_string(),
        };
        Error::with_os_error(kind, errno, self.message(&why))
    }

    fn fail(&self, kind: ErrorKind, why: &str) -> Error {
        Error::new(kind, self.message(why))
    }

    fn message(&self, why: &str) -> String {
        let (id, address) = (self.id, self.piece.guest_address());
        let backend = self.piece.label();
        format!("{backend}: memory slot {id} at guest address {address:#x}: {why}")
    }
}

fn flag(on: bool, flag: u32) -> u32 {
    if on {
        flag
    } else {
        0
    }
}

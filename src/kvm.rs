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
//! let slot = MemorySlot::new(Arc::clone(&vm), 0, &piece)?;
//! # drop(slot);
//! # Ok(())
//! # }
//! ```
//!
//! The VM may be borrowed (`&VmFd`), shared (`Arc<VmFd>`), or any type that implements [`SlotVm`].

#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::AsFd;
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
    range: Option<(u64, u64)>,
    guest_address: Option<u64>,
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

    /// Puts only a part of the piece into the slot: the offset in the piece and the length in
    /// bytes. Its guest address is the piece's plus the offset.
    pub fn range(mut self, offset: u64, length: u64) -> Self {
        self.range = Some((offset, length));
        self
    }

    /// The guest address of the slot, instead of the piece's; for pieces
    /// [without one](crate::Claim::host_piece).
    pub fn guest_address(mut self, address: u64) -> Self {
        self.guest_address = Some(address);
        self
    }
}

/// A VM whose memory slots can be set: kvm-ioctls' `VmFd`, a reference or `Arc` of a VM, or a VMM's
/// own type.
///
/// ```
/// use std::io;
/// use std::sync::Arc;
///
/// use hostmem::kvm::{SlotRegion, SlotVm};
///
/// /// A VMM's own trait of virtual machines.
/// trait Vm: Send + Sync {
///     fn create_region(&self, slot: u32, guest: u64, size: u64, host: u64) -> io::Result<()>;
///     fn remove_region(&self, slot: u32, guest: u64, size: u64, host: u64) -> io::Result<()>;
/// }
///
/// struct OwnVm(Arc<dyn Vm>);
///
/// // SAFETY: the VM uses the memory of a slot from create_region() on, until remove_region().
/// unsafe impl SlotVm for OwnVm {
///     fn identity(&self) -> usize {
///         Arc::as_ptr(&self.0).cast::<()>() as usize
///     }
///     fn set_slot(&self, slot: &SlotRegion) -> io::Result<()> {
///         let host = slot.host_address() as u64;
///         self.0.create_region(slot.id(), slot.guest_address(), slot.size(), host)
///     }
///     fn clear_slot(&self, slot: &SlotRegion) -> io::Result<()> {
///         let host = slot.host_address() as u64;
///         self.0.remove_region(slot.id(), slot.guest_address(), slot.size(), host)
///     }
/// }
/// ```
///
/// # Safety
///
/// The VM uses no other memory for a slot than that of the last [`set_slot`](SlotVm::set_slot) of
/// it that succeeded, and none after [`clear_slot`](SlotVm::clear_slot) has succeeded or the VM
/// itself has ended. It does not write to a slot that is [read-only](SlotRegion::is_readonly).
pub unsafe trait SlotVm {
    /// A number that handles of one VM share and two VMs that exist at the same time do not.
    fn identity(&self) -> usize;

    /// Sets a slot. It is called again for a slot that is set when
    /// [`logs_dirty_pages`](SlotRegion::logs_dirty_pages) changes.
    ///
    /// # Errors
    ///
    /// The slot does not change. With an errno (`io::Error::from_raw_os_error`) the message of
    /// [`MemorySlot`] explains it.
    fn set_slot(&self, slot: &SlotRegion) -> io::Result<()>;

    /// Removes a slot.
    ///
    /// # Errors
    ///
    /// The slot may still be in use; its memory is leaked then.
    fn clear_slot(&self, slot: &SlotRegion) -> io::Result<()>;

    /// Checks whether this VM can have such a slot, before it is set.
    ///
    /// # Errors
    ///
    /// Kind and message for people.
    fn check_slot(&self, slot: &SlotRegion) -> Result<(), (ErrorKind, String)> {
        let _ = slot;
        Ok(())
    }

    /// The pages that the guest has written since the last call; see [`MemorySlot::dirty_log`].
    ///
    /// # Errors
    ///
    /// `Unsupported` unless implemented.
    fn dirty_log(&self, slot: &SlotRegion) -> io::Result<Vec<u64>> {
        let _ = slot;
        Err(io::ErrorKind::Unsupported.into())
    }
}

// SAFETY: it is the same VM.
unsafe impl<T: SlotVm + ?Sized> SlotVm for &T {
    fn identity(&self) -> usize {
        T::identity(self)
    }
    fn set_slot(&self, slot: &SlotRegion) -> io::Result<()> {
        T::set_slot(self, slot)
    }
    fn clear_slot(&self, slot: &SlotRegion) -> io::Result<()> {
        T::clear_slot(self, slot)
    }
    fn check_slot(&self, slot: &SlotRegion) -> Result<(), (ErrorKind, String)> {
        T::check_slot(self, slot)
    }
    fn dirty_log(&self, slot: &SlotRegion) -> io::Result<Vec<u64>> {
        T::dirty_log(self, slot)
    }
}

// SAFETY: it is the same VM.
unsafe impl<T: SlotVm + ?Sized> SlotVm for Arc<T> {
    fn identity(&self) -> usize {
        T::identity(self)
    }
    fn set_slot(&self, slot: &SlotRegion) -> io::Result<()> {
        T::set_slot(self, slot)
    }
    fn clear_slot(&self, slot: &SlotRegion) -> io::Result<()> {
        T::clear_slot(self, slot)
    }
    fn check_slot(&self, slot: &SlotRegion) -> Result<(), (ErrorKind, String)> {
        T::check_slot(self, slot)
    }
    fn dirty_log(&self, slot: &SlotRegion) -> io::Result<Vec<u64>> {
        T::dirty_log(self, slot)
    }
}

// SAFETY: KVM uses the memory of a slot until it is set again or removed, and does not write to one
// with KVM_MEM_READONLY (KVM_SET_USER_MEMORY_REGION, Linux's Documentation/virt/kvm/api.rst).
unsafe impl SlotVm for VmFd {
    /// Open descriptors have different numbers.
    fn identity(&self) -> usize {
        self.as_raw_fd() as usize
    }

    fn set_slot(&self, slot: &SlotRegion) -> io::Result<()> {
        set_region(self, slot, slot.size())
    }

    fn clear_slot(&self, slot: &SlotRegion) -> io::Result<()> {
        set_region(self, slot, 0)
    }

    fn check_slot(&self, slot: &SlotRegion) -> Result<(), (ErrorKind, String)> {
        let has = |cap| self.check_extension(cap);
        if slot.is_readonly() && !has(Cap::ReadonlyMem) {
            let why = "this KVM has no read-only slots";
            return Err((ErrorKind::Unsupported, why.into()));
        }
        if slot.guest_memfd.is_some() && !(has(Cap::UserMemory2) && has(Cap::GuestMemfd)) {
            let why = "this KVM has no guest_memfd for this type of VM; Linux 6.8 has for some";
            return Err((ErrorKind::Unsupported, why.into()));
        }
        let slots = self.check_extension_int(Cap::NrMemslots);
        if i64::from(slot.id & 0xffff) >= i64::from(slots) {
            return Err((
                ErrorKind::Value,
                format!("this KVM has {slots} slots, from 0"),
            ));
        }
        Ok(())
    }

    fn dirty_log(&self, slot: &SlotRegion) -> io::Result<Vec<u64>> {
        self.get_dirty_log(slot.id, slot.size() as usize)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }
}

/// Sets the slot, or removes it if the size is 0.
fn set_region(vm: &VmFd, slot: &SlotRegion, size: u64) -> io::Result<()> {
    let (flags, address) = (slot.flags(), slot.host_address() as u64);
    let result = match &slot.guest_memfd {
        None => {
            let region = kvm_userspace_memory_region {
                slot: slot.id,
                flags,
                guest_phys_addr: slot.guest_address,
                memory_size: size,
                userspace_addr: address,
            };
            // SAFETY: the memory is mapped, of that size, and stays so while a reference to the
            // piece exists, so until KVM has removed the slot. `Memory` documents that the
            // guest may write to it at any time.
            unsafe { vm.set_user_memory_region(region) }
        }
        Some((fd, offset)) => {
            let region = kvm_userspace_memory_region2 {
                slot: slot.id,
                flags,
                guest_phys_addr: slot.guest_address,
                memory_size: size,
                userspace_addr: address,
                guest_memfd_offset: *offset,
                // An open descriptor is not negative.
                guest_memfd: fd.as_raw_fd() as u32,
                ..Default::default()
            };
            // SAFETY: as above. KVM checks the type of the other descriptor.
            unsafe { vm.set_user_memory_region2(region) }
        }
    };
    result.map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

/// What a slot has to be set to, for [`SlotVm`]. The memory is mapped while the VM uses it.
pub struct SlotRegion {
    piece: Piece,
    id: u32,
    guest_address: u64,
    /// In the piece.
    offset: u64,
    size: u64,
    readonly: bool,
    log_dirty_pages: bool,
    guest_memfd: Option<(OwnedFd, u64)>,
}

impl SlotRegion {
    /// The id of the slot: in the high 16 bits the address space.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The guest physical address in bytes.
    pub fn guest_address(&self) -> u64 {
        self.guest_address
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The address in this process.
    pub fn host_address(&self) -> *mut u8 {
        let first = self.piece.memory().as_ptr();
        first.wrapping_add(self.offset as usize)
    }

    /// Whether the guest must not write to it.
    pub fn is_readonly(&self) -> bool {
        self.readonly
    }

    /// Whether the VM keeps a log of the pages that the guest writes.
    pub fn logs_dirty_pages(&self) -> bool {
        self.log_dirty_pages
    }

    /// The guest_memfd of the guest's private memory, and the offset in it.
    pub fn guest_memfd(&self) -> Option<(BorrowedFd<'_>, u64)> {
        let fd = self.guest_memfd.as_ref();
        fd.map(|(fd, offset)| (fd.as_fd(), *offset))
    }

    /// The flags of `KVM_SET_USER_MEMORY_REGION`, `KVM_MEM_…`.
    pub fn flags(&self) -> u32 {
        let flag = |on, flag| if on { flag } else { 0 };
        flag(self.readonly, KVM_MEM_READONLY)
            | flag(self.log_dirty_pages, KVM_MEM_LOG_DIRTY_PAGES)
            | flag(self.guest_memfd.is_some(), KVM_MEM_GUEST_MEMFD)
    }

    fn new(id: u32, piece: &Piece, options: &SlotOptions<'_>) -> Result<Self> {
        let (offset, size) = options.range.unwrap_or((0, piece.memory().len()));
        piece.check("memory slot", offset, size)?;
        let guest_address = match (options.guest_address, piece.guest_address()) {
            (Some(address), _) => Some(address),
            (None, Some(address)) => address.checked_add(offset),
            (None, None) => None,
        };
        let mut slot = Self {
            piece: piece.clone(),
            id,
            guest_address: guest_address.unwrap_or_default(),
            offset,
            size,
            readonly: options.readonly || piece.memory().is_readonly(),
            log_dirty_pages: options.log_dirty_pages,
            guest_memfd: None,
        };
        if guest_address.is_none() {
            let label = piece.label();
            let message = format!(
                "{label}: memory slot {id}: the piece has no guest address; set the slot's by \
                 SlotOptions::guest_address"
            );
            return Err(Error::new(ErrorKind::Value, message));
        }
        slot.check_alignment()?;
        if let Some((fd, offset)) = options.guest_memfd {
            let fd = fd.try_clone_to_owned();
            let fd = fd.map_err(|error| slot.fail(ErrorKind::Io, &error.to_string()))?;
            slot.guest_memfd = Some((fd, offset));
        }
        Ok(slot)
    }

    /// Of whole pages, so that huge pages are whole in the guest too.
    fn check_alignment(&self) -> Result<()> {
        let page = self.piece.memory().page_size();
        for (what, value) in [
            ("guest address", self.guest_address),
            ("offset", self.offset),
            ("length", self.size),
        ] {
            if value % page != 0 || (what == "length" && value == 0) {
                let why = format!(
                    "its {what} is {value:#x}, but that of a slot is a multiple of the page size, \
                     {page} bytes"
                );
                return Err(self.fail(ErrorKind::Value, &why));
            }
        }
        Ok(())
    }

    fn explain(&self, error: &io::Error) -> Error {
        let Some(errno) = error.raw_os_error() else {
            return self.fail(ErrorKind::Io, &error.to_string());
        };
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
            _ => error.to_string(),
        };
        Error::with_os_error(kind, errno, self.message(&why))
    }

    fn fail(&self, kind: ErrorKind, why: &str) -> Error {
        Error::new(kind, self.message(why))
    }

    fn message(&self, why: &str) -> String {
        let (id, address) = (self.id, self.guest_address);
        let backend = self.piece.label();
        format!("{backend}: memory slot {id} at guest address {address:#x}: {why}")
    }
}

impl fmt::Debug for SlotRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotRegion")
            .field("id", &self.id)
            .field("flags", &self.flags())
            .field("guest_address", &format_args!("{:#x}", self.guest_address))
            .field("offset", &self.offset)
            .field("size", &self.size)
            .field("piece", &self.piece)
            .finish_non_exhaustive()
    }
}

/// A piece of memory, or a part of one, in a memory slot of a VM. Dropping it removes the slot.
///
/// It keeps references to the piece, so that the memory stays mapped, and to the VM. If KVM fails
/// to remove the slot, as in a forked child, the piece is leaked, so that its memory stays mapped
/// and claimed.
#[doc(alias = "kvm_userspace_memory_region")]
pub struct MemorySlot<V: SlotVm = Arc<VmFd>> {
    vm: V,
    region: SlotRegion,
    /// KVM accepts a slot that is set again with the same values. Two guards would then own one
    /// slot, so a second one is refused.
    key: SlotKey,
}

impl<V: SlotVm> MemorySlot<V> {
    /// Puts a piece into a slot of the VM, without options. See [`with`](MemorySlot::with).
    ///
    /// # Errors
    ///
    /// Those of [`with`](MemorySlot::with).
    pub fn new(vm: V, id: u32, piece: &Piece) -> Result<Self> {
        Self::with(vm, id, piece, SlotOptions::new())
    }

    /// Puts a piece into a slot of the VM, at its guest address. The low 16 bits of the id are the
    /// slot, below `KVM_CAP_NR_MEMSLOTS`; the high 16 bits are the address space.
    ///
    /// # Errors
    ///
    /// [`Value`](ErrorKind::Value) (id too high or in use; guest addresses overlap another slot or
    /// are outside the VM's address space, or there is none; a guest address, offset or length that
    /// is not a multiple of the page size; options that exclude each other),
    /// [`Unsupported`](ErrorKind::Unsupported) (this KVM or type of VM does not support read-only
    /// slots or guest_memfd), [`NoMemory`](ErrorKind::NoMemory), [`Io`](ErrorKind::Io).
    pub fn with(vm: V, id: u32, piece: &Piece, options: SlotOptions<'_>) -> Result<Self> {
        let region = SlotRegion::new(id, piece, &options)?;
        vm.check_slot(&region)
            .map_err(|(kind, why)| region.fail(kind, &why))?;
        let key = (vm.identity(), id);
        if !piece.take_slot(key) {
            return Err(region.fail(ErrorKind::Value, "the piece is in that slot already"));
        }
        if let Err(error) = vm.set_slot(&region) {
            piece.give_slot(key);
            return Err(region.explain(&error));
        }
        Ok(Self { vm, region, key })
    }

    /// The id of the slot.
    pub fn id(&self) -> u32 {
        self.region.id
    }

    /// The piece of memory in the slot.
    pub fn piece(&self) -> &Piece {
        &self.region.piece
    }

    /// What the slot is set to.
    pub fn region(&self) -> &SlotRegion {
        &self.region
    }

    /// Enables or disables the dirty log. The guest may be running. The other flags of a slot
    /// cannot be changed: KVM refuses that.
    ///
    /// # Errors
    ///
    /// [`Value`](ErrorKind::Value) (a slot with guest_memfd), [`NoMemory`](ErrorKind::NoMemory),
    /// [`Io`](ErrorKind::Io). The slot does not change then.
    pub fn log_dirty_pages(&mut self, log: bool) -> Result<()> {
        let before = mem::replace(&mut self.region.log_dirty_pages, log);
        self.vm.set_slot(&self.region).map_err(|error| {
            self.region.log_dirty_pages = before;
            self.region.explain(&error)
        })
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
        let region = &self.region;
        if !region.log_dirty_pages {
            let why = "no dirty log is kept; switch it on by log_dirty_pages first";
            return Err(region.fail(ErrorKind::State, why));
        }
        let log = self.vm.dirty_log(region);
        log.map_err(|error| region.explain(&error))
    }
}

impl<V: SlotVm> Drop for MemorySlot<V> {
    fn drop(&mut self) {
        let piece = &self.region.piece;
        match self.vm.clear_slot(&self.region) {
            Ok(()) => piece.give_slot(self.key),
            // A reference that is never dropped.
            Err(_) => mem::forget(piece.clone()),
        }
    }
}

impl<V: SlotVm> fmt::Debug for MemorySlot<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySlot")
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pieces of claimed memory, each at a guest address.

use std::fmt;
use std::sync::Arc;
#[cfg(feature = "kvm")]
use std::sync::Mutex;
#[cfg(feature = "kvm")]
use std::sync::MutexGuard;
#[cfg(feature = "kvm")]
use std::sync::PoisonError;

use crate::handle::ClaimHandle;
use crate::sys;
use crate::Access;
use crate::DiscardInhibited;
use crate::DiscardTo;
use crate::Error;
use crate::ErrorKind;
use crate::Memory;
use crate::Result;

/// A range of the memory and its guest address, in bytes.
#[doc(alias = "hostmem_piece")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PieceRange {
    /// The guest physical address. A KVM memory slot needs a multiple of the memory's [page
    /// size](Memory::page_size); regions of vm-memory and vhost-user do not.
    pub guest_address: u64,
    /// The offset in the memory, a multiple of its page size.
    pub offset: u64,
    /// The length, at least 1. A KVM memory slot needs a multiple of the page size.
    pub length: u64,
}

/// A piece of claimed memory: it becomes a KVM memory slot, a vm-memory region or a vhost-user
/// region at its guest address. Made by [`Claim::pieces`](crate::Claim::pieces), or without a guest
/// address by [`Claim::host_piece`](crate::Claim::host_piece).
///
/// Clones share the piece. Until the last clone is dropped, the whole memory stays claimed, and so
/// mapped, and no other piece can overlap this one.
#[derive(Clone)]
pub struct Piece {
    part: Arc<Part>,
}

impl Piece {
    /// Reserves the range, until the last clone of the piece is dropped.
    pub(crate) fn new(
        claim: &Arc<ClaimHandle>,
        guest_address: Option<u64>,
        offset: u64,
        length: u64,
    ) -> Result<Self> {
        let label = claim.backend().view().label();
        // C's word for no guest address, so as one it would not be checked.
        if guest_address == Some(u64::MAX) {
            let message = format!(
                "{label}: piece of {length} bytes at offset {offset} for guest address \
                 {:#x}: its end is beyond the last guest address",
                u64::MAX
            );
            return Err(Error::new(ErrorKind::Value, message));
        }
        claim.reserve_piece(sys::hostmem_piece {
            guest_address: guest_address.unwrap_or(u64::MAX),
            offset,
            length,
        })?;
        let part = Arc::new(Part {
            claim: Arc::clone(claim),
            guest_address,
            offset,
            length,
            #[cfg(feature = "kvm")]
            slots: Mutex::default(),
        });
        Ok(Self { part })
    }

    /// The guest physical address in bytes; `None` for a piece that no guest sees.
    pub fn guest_address(&self) -> Option<u64> {
        self.part.guest_address
    }

    /// The offset of the piece in the claim's memory, in bytes.
    pub fn offset(&self) -> u64 {
        self.part.offset
    }

    /// Discards a range of the piece, as [`Claim::discard`](crate::Claim::discard) does. The offset
    /// is in the piece. For the balloon or virtio-mem device that has the piece.
    ///
    /// # Errors
    ///
    /// Those of [`Claim::discard`](crate::Claim::discard), and [`Value`](ErrorKind::Value) (a range
    /// that is not inside the piece).
    #[doc(alias = "hostmem_backend_discard")]
    pub fn discard(&self, offset: u64, length: u64) -> Result<()> {
        let offset = self.check("discard", offset, length)?;
        self.part.claim.backend().discard(offset, length)
    }

    /// Discards a range as [`discard`](Piece::discard) does, and says what it reads as afterwards.
    ///
    /// # Errors
    ///
    /// Those of [`discard`](Piece::discard), and [`NoMemory`](ErrorKind::NoMemory) (too many
    /// mappings, `vm.max_map_count`).
    #[doc(alias = "hostmem_backend_discard_to")]
    pub fn discard_to(&self, offset: u64, length: u64, to: DiscardTo) -> Result<()> {
        let offset = self.check("discard", offset, length)?;
        let backend = self.part.claim.backend();
        backend.discard_to(offset, length, to.to_raw())
    }

    /// Makes a range inaccessible, as memory that is unplugged, or accessible again. Its contents
    /// stay. An access to inaccessible memory, by this process or through vm-memory, raises
    /// `SIGSEGV`; by a guest it ends `KVM_RUN` with `EFAULT`. It cannot be populated. It can be saved
    /// and scrubbed where it is absent, and shared memory of a file can always be saved; else these
    /// fail. While contents are unread the range has to consist of whole units of them: of huge pages
    /// where the memory is made of these, else of 64 KiB, or of pages if they are larger.
    ///
    /// Offset and length are in bytes, multiples of the [page size](Memory::page_size), inside the
    /// piece. Each inaccessible range takes up to two more mappings of the process.
    ///
    /// # Errors
    ///
    /// [`Value`](ErrorKind::Value) (range), [`Busy`](ErrorKind::Busy) (a
    /// preallocation is running; part of an unread unit), [`NoMemory`](ErrorKind::NoMemory) (too
    /// many mappings, `vm.max_map_count`), [`Io`](ErrorKind::Io).
    #[doc(alias = "hostmem_backend_protect")]
    pub fn protect(&self, offset: u64, length: u64, access: Access) -> Result<()> {
        let offset = self.check("protect", offset, length)?;
        let backend = self.part.claim.backend();
        backend.protect(offset, length, access.to_raw())
    }

    /// Populates a range of the piece, as [`Claim::populate`](crate::Claim::populate) does. The
    /// offset is in the piece.
    ///
    /// # Errors
    ///
    /// Those of [`Claim::populate`](crate::Claim::populate), and [`Value`](ErrorKind::Value) (a
    /// range that is not inside the piece).
    #[doc(alias = "hostmem_backend_populate")]
    pub fn populate(&self, offset: u64, length: u64) -> Result<()> {
        let offset = self.check("populate", offset, length)?;
        self.part.claim.backend().populate(offset, length)
    }

    /// The offset in the memory of a range that is inside the piece.
    pub(crate) fn check(&self, what: &str, offset: u64, length: u64) -> Result<u64> {
        let size = self.part.length;
        if offset <= size && length <= size - offset {
            return Ok(self.part.offset + offset);
        }
        let label = self.label();
        let message = format!(
            "{label}: {what}: offset {offset} with length {length} is outside the piece of {size} \
             bytes"
        );
        Err(Error::new(ErrorKind::Value, message))
    }

    /// The id of the backend.
    #[doc(alias = "hostmem_backend_get_id")]
    pub fn id(&self) -> &str {
        self.part.claim.backend().view().id()
    }

    /// What messages call the backend.
    pub(crate) fn label(&self) -> &str {
        self.part.claim.backend().view().label()
    }

    /// Does the same as [`Claim::inhibit_discard`](crate::Claim::inhibit_discard), for the whole
    /// memory.
    ///
    /// # Errors
    ///
    /// Those of [`Claim::inhibit_discard`](crate::Claim::inhibit_discard).
    #[doc(alias = "hostmem_backend_inhibit_discard")]
    pub fn inhibit_discard(&self, name: &str) -> Result<DiscardInhibited> {
        DiscardInhibited::new(&self.part.claim, name)
    }

    /// The piece's memory, borrowed from the piece.
    pub fn memory(&self) -> Memory<'_> {
        Memory::new(&self.part.claim, self.part.offset, self.part.length)
    }
}

/// A KVM memory slot: the identity of the VM, and the slot's id.
#[cfg(feature = "kvm")]
pub(crate) type SlotKey = (usize, u32);

#[cfg(feature = "kvm")]
impl Piece {
    /// Records that the piece is in a slot; false if it is already.
    pub(crate) fn take_slot(&self, key: SlotKey) -> bool {
        let mut slots = self.part.slots();
        let free = !slots.contains(&key);
        if free {
            slots.push(key);
        }
        free
    }

    pub(crate) fn give_slot(&self, key: SlotKey) {
        self.part.slots().retain(|slot| *slot != key);
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Piece")
            .field("id", &self.id())
            .field("guest_address", &self.guest_address())
            .field("offset", &self.offset())
            .field("length", &self.memory().len())
            .finish_non_exhaustive()
    }
}

/// What the clones of a piece share: the reserved range, freed when it is dropped.
struct Part {
    claim: Arc<ClaimHandle>,
    guest_address: Option<u64>,
    offset: u64,
    length: u64,
    /// The KVM memory slots it is in.
    #[cfg(feature = "kvm")]
    slots: Mutex<Vec<SlotKey>>,
}

#[cfg(feature = "kvm")]
impl Part {
    fn slots(&self) -> MutexGuard<'_, Vec<SlotKey>> {
        // No panic leaves them half changed.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.claim.free_piece(self.offset);
    }
}

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
use crate::DiscardInhibited;
use crate::Memory;
use crate::Result;

/// A range of the memory and its guest address, in bytes. All three are multiples of the memory's
/// [page size](Memory::page_size).
#[doc(alias = "hostmem_piece")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PieceRange {
    /// The guest physical address.
    pub guest_address: u64,
    /// The offset in the memory.
    pub offset: u64,
    /// The length, at least one page.
    pub length: u64,
}

impl PieceRange {
    fn to_raw(self) -> sys::hostmem_piece {
        sys::hostmem_piece {
            guest_address: self.guest_address,
            offset: self.offset,
            length: self.length,
        }
    }
}

/// A piece of claimed memory at its guest address, made by [`Claim::pieces`](crate::Claim::pieces):
/// it becomes a KVM memory slot, a vm-memory region or a vhost-user region.
///
/// Clones share the piece. Until the last clone is dropped, the whole memory stays claimed, and so
/// mapped, and no other piece can overlap this one.
#[derive(Clone)]
pub struct Piece {
    part: Arc<Part>,
}

impl Piece {
    /// Reserves the range, until the last clone of the piece is dropped.
    pub(crate) fn new(claim: &Arc<ClaimHandle>, range: PieceRange) -> Result<Self> {
        claim.reserve_piece(range.to_raw())?;
        let part = Arc::new(Part {
            claim: Arc::clone(claim),
            range,
            #[cfg(feature = "kvm")]
            slots: Mutex::default(),
        });
        Ok(Self { part })
    }

    /// The guest physical address in bytes.
    pub fn guest_address(&self) -> u64 {
        self.part.range.guest_address
    }

    /// The offset of the piece in the claim's memory, in bytes. Add it to an offset in the piece to
    /// get the offset that [`Claim::discard`](crate::Claim::discard) takes.
    pub fn offset(&self) -> u64 {
        self.part.range.offset
    }

    /// The id of the backend.
    #[doc(alias = "hostmem_backend_get_id")]
    pub fn id(&self) -> &str {
        self.part.claim.backend().view().id()
    }

    /// What messages call the backend.
    #[cfg(any(
        feature = "kvm",
        feature = "vhost",
        feature = "vm-memory-017",
        feature = "vm-memory-018"
    ))]
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
        let PieceRange { offset, length, .. } = self.part.range;
        Memory::new(&self.part.claim, offset, length)
    }
}

/// A KVM memory slot: the address of the `VmFd`, and the slot's id.
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
            .field(
                "guest_address",
                &format_args!("{:#x}", self.guest_address()),
            )
            .field("offset", &self.offset())
            .field("length", &self.memory().len())
            .finish_non_exhaustive()
    }
}

/// What the clones of a piece share: the reserved range, freed when it is dropped.
struct Part {
    claim: Arc<ClaimHandle>,
    range: PieceRange,
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
        self.claim.free_piece(self.range.offset);
    }
}

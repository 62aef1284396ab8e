// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who holds a backend, and the memory they hold.

use std::ffi::CString;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::handle::to_c;
use crate::handle::ClaimHandle;
use crate::Piece;
use crate::PieceRange;
use crate::Result;

/// The right to a backend's memory. There is at most one at a time; dropping it ends it, unless
/// [pieces](Claim::pieces) of it are left: then dropping the last of them does.
///
/// Until then the memory stays mapped where it is and cannot be deleted, whatever is dropped
/// elsewhere: a claim may outlive its [`Backend`](crate::Backend) and then deletes it.
#[doc(alias = "hostmem_backend_claim")]
#[doc(alias = "hostmem_backend_release")]
pub struct Claim {
    handle: Arc<ClaimHandle>,
}

impl Claim {
    pub(crate) fn from_handle(handle: Arc<ClaimHandle>) -> Self {
        Self { handle }
    }

    /// Hands the memory out in pieces, since a machine has holes in its guest addresses, as a PC has
    /// one below 4 GiB. All of them or, on failure, none.
    ///
    /// Pieces can be handed out at any time, one by one too. One whose last owner is gone can be
    /// handed out again.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value): a piece is empty, not inside the memory, ends beyond the
    /// last guest address, is not of whole [pages](Memory::page_size) at a guest address that is a
    /// multiple of them, or overlaps another one, of this call or an earlier one, in the memory or
    /// in guest addresses.
    #[doc(alias = "hostmem_backend_check_piece")]
    pub fn pieces(&self, ranges: &[PieceRange]) -> Result<Vec<Piece>> {
        // If one is refused, those before it are dropped with the result.
        let pieces = ranges.iter().map(|range| Piece::new(&self.handle, *range));
        pieces.collect()
    }

    /// Hands out all of the memory as one piece.
    ///
    /// # Errors
    ///
    /// As [`pieces`](Claim::pieces).
    pub fn piece(&self, guest_address: u64) -> Result<Piece> {
        let range = PieceRange {
            guest_address,
            offset: 0,
            length: self.memory().len(),
        };
        Piece::new(&self.handle, range)
    }

    /// The name given when claiming.
    #[doc(alias = "hostmem_backend_get_owner")]
    pub fn owner(&self) -> String {
        // Never fails, as far as C says.
        self.handle.backend().view().owner().unwrap_or_default()
    }

    /// The id of the backend.
    #[doc(alias = "hostmem_backend_get_id")]
    pub fn id(&self) -> &str {
        self.handle.backend().view().id()
    }

    /// Gives a range of the memory back to the host: it is absent afterwards, and reads as zero once
    /// it is touched again, or as the file where the mapping is private and the file is the user's,
    /// which is never changed. Offset and length are in bytes, multiples of the
    /// [page size](Memory::page_size), inside the memory; length 0 does nothing.
    ///
    /// Locked memory is given back too. What hugetlb memory gives back is no longer reserved:
    /// [`populate`](Claim::populate) it before a guest touches it, since that may find no huge page
    /// and end the process (`SIGBUS`).
    ///
    /// A preallocation that is running leaves the range out from here on; the call waits for the
    /// chunks that are being filled, a few milliseconds.
    ///
    /// Contents are lost, so this is the claim's to do, and no other code can take memory from under
    /// a guest: whoever wants to discard from an unclaimed backend claims it first.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) ([inhibited](Claim::inhibit_discard); says by whom),
    /// [`Value`](crate::ErrorKind::Value) (range; read-only memory),
    /// [`Unsupported`](crate::ErrorKind::Unsupported) (the file system cannot make holes),
    /// [`NoMemory`](crate::ErrorKind::NoMemory) (to remember the range while a preallocation runs),
    /// [`Io`](crate::ErrorKind::Io).
    #[doc(alias = "hostmem_backend_discard")]
    pub fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.handle.backend().discard(offset, length)
    }

    /// Inhibits [`discard`](Claim::discard) until the guard is dropped: for a device that has pinned
    /// the pages (VFIO), which would go on using what was given back. The name (1 to 128 bytes) is
    /// shown to whoever discards. A discard that has begun is over when this returns.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value) (name empty or too long),
    /// [`NoMemory`](crate::ErrorKind::NoMemory).
    #[doc(alias = "hostmem_backend_inhibit_discard")]
    pub fn inhibit_discard(&self, name: &str) -> Result<DiscardInhibited> {
        DiscardInhibited::new(&self.handle, name)
    }

    /// Preallocates a range of the memory, contents untouched, with the properties and the progress
    /// callback of the backend. Offset and length are in bytes, multiples of the
    /// [page size](Memory::page_size), inside the memory; length 0 does nothing.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value) (range), [`Busy`](crate::ErrorKind::Busy) (a
    /// preallocation is running), [`Unsupported`](crate::ErrorKind::Unsupported),
    /// [`NoMemory`](crate::ErrorKind::NoMemory), [`Io`](crate::ErrorKind::Io).
    #[doc(alias = "hostmem_backend_populate")]
    pub fn populate(&self, offset: u64, length: u64) -> Result<()> {
        self.handle.backend().populate(offset, length)
    }

    /// The memory, for as long as the claim is borrowed.
    #[doc(alias = "hostmem_backend_get_memory")]
    pub fn memory(&self) -> Memory<'_> {
        Memory::new(&self.handle, 0, self.handle.memory().size)
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("id", &self.id())
            .field("owner", &self.owner())
            .finish_non_exhaustive()
    }
}

/// A claimed backend's memory, or a piece of it. It cannot outlive the [claim](Claim::memory) or
/// [piece](Piece::memory) that gave it.
///
/// It is a pointer and a length and never a slice: a guest, or a process that maps the same
/// descriptor, may write at any time, and who has the claim may [discard](Claim::discard), so
/// accesses must be volatile or atomic.
#[doc(alias = "hostmem_memory")]
#[derive(Clone, Copy)]
pub struct Memory<'claim> {
    handle: &'claim ClaimHandle,
    /// Both inside the memory.
    offset: u64,
    length: u64,
}

impl<'claim> Memory<'claim> {
    /// Offset and length are inside the memory.
    pub(crate) fn new(handle: &'claim ClaimHandle, offset: u64, length: u64) -> Self {
        Self {
            handle,
            offset,
            length,
        }
    }

    /// The first byte, aligned to the [page size](Memory::page_size) at least; null for a kind
    /// without memory. Valid for reads of [`len`](Memory::len) bytes, and for writes unless
    /// [read-only](Memory::is_readonly), while the claim or piece lives. Not
    /// mapped in forked children.
    pub fn as_ptr(self) -> *mut u8 {
        let first: *mut u8 = self.handle.memory().address.cast();
        first.wrapping_add(self.offset as usize)
    }

    /// Bytes.
    pub fn len(self) -> u64 {
        self.length
    }

    /// Whether there is none, as for a kind without memory.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// What the memory is made of, in bytes: the base page, or the huge page of a hugetlb
    /// descriptor.
    pub fn page_size(self) -> u64 {
        self.handle.memory().page_size
    }

    /// Whether writes reach everyone who maps the descriptor.
    pub fn is_shared(self) -> bool {
        self.handle.memory().shared
    }

    /// Whether it is mapped for reading only.
    pub fn is_readonly(self) -> bool {
        self.handle.memory().readonly
    }

    /// Whether it is made of hugetlb pages, from the host's pools.
    pub fn is_hugetlb(self) -> bool {
        self.handle.memory().hugetlb
    }

    /// The descriptor behind the memory, which the backend owns; `None` for anonymous memory.
    pub fn fd(self) -> Option<BorrowedFd<'claim>> {
        self.handle.fd()
    }

    /// Where in the descriptor the memory begins, in bytes.
    pub fn fd_offset(self) -> u64 {
        self.handle.memory().offset + self.offset
    }
}

impl fmt::Debug for Memory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("address", &self.as_ptr())
            .field("len", &self.len())
            .field("page_size", &self.page_size())
            .field("shared", &self.is_shared())
            .field("readonly", &self.is_readonly())
            .field("fd", &self.fd())
            .field("fd_offset", &self.fd_offset())
            .finish()
    }
}

/// While it lives, the memory is not [discarded](crate::Claim::discard). Made by
/// [`Claim::inhibit_discard`](crate::Claim::inhibit_discard); holds the claim as a piece does.
#[doc(alias = "hostmem_backend_inhibit_discard")]
#[doc(alias = "hostmem_backend_allow_discard")]
pub struct DiscardInhibited {
    claim: Arc<ClaimHandle>,
    name: CString,
}

impl DiscardInhibited {
    pub(crate) fn new(claim: &Arc<ClaimHandle>, name: &str) -> Result<Self> {
        let name = to_c(name)?;
        claim.backend().inhibit_discard(&name)?;
        let claim = Arc::clone(claim);
        Ok(Self { claim, name })
    }

    /// The name that others are told.
    pub fn name(&self) -> &str {
        // It was made of one.
        self.name.to_str().unwrap_or_default()
    }
}

impl Drop for DiscardInhibited {
    fn drop(&mut self) {
        let allowed = self.claim.backend().allow_discard(&self.name);
        debug_assert!(allowed.is_ok(), "{allowed:?}");
    }
}

impl fmt::Debug for DiscardInhibited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscardInhibited")
            .field("id", &self.claim.backend().view().id())
            .field("name", &self.name())
            .finish()
    }
}

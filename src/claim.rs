// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who holds a backend, and the memory they hold.

use std::fmt;
use std::os::fd::BorrowedFd;

use crate::handle::ClaimHandle;

/// The right to a backend's memory. There is at most one at a time; dropping it ends it.
///
/// While it lives the memory stays mapped where it is and cannot be deleted, whatever is dropped
/// elsewhere: a claim may outlive its [`Backend`](crate::Backend) and then deletes it.
#[doc(alias = "hostmem_backend_claim")]
#[doc(alias = "hostmem_backend_release")]
pub struct Claim {
    handle: ClaimHandle,
}

impl Claim {
    pub(crate) fn from_handle(handle: ClaimHandle) -> Self {
        Self { handle }
    }

    /// The name given when claiming.
    #[doc(alias = "hostmem_backend_get_owner")]
    pub fn owner(&self) -> String {
        // Never fails, as far as C says.
        self.handle.view().owner().unwrap_or_default()
    }

    /// The id of the backend.
    #[doc(alias = "hostmem_backend_get_id")]
    pub fn id(&self) -> &str {
        self.handle.view().id()
    }

    /// The memory, for as long as the claim is borrowed.
    #[doc(alias = "hostmem_backend_get_memory")]
    pub fn memory(&self) -> Memory<'_> {
        Memory { claim: self }
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

/// A claimed backend's memory. It cannot outlive the claim.
///
/// It is a pointer and a length and never a slice: a guest, or a process that maps the same
/// descriptor, may write at any time, so accesses must be volatile or atomic.
#[doc(alias = "hostmem_memory")]
#[derive(Clone, Copy)]
pub struct Memory<'claim> {
    claim: &'claim Claim,
}

impl<'claim> Memory<'claim> {
    /// The first byte, aligned to the [page size](Memory::page_size) at least; null for a kind
    /// without memory. Valid for reads of [`len`](Memory::len) bytes, and for writes unless
    /// [read-only](Memory::is_readonly), while the claim lives. Not mapped in forked children.
    pub fn as_ptr(self) -> *mut u8 {
        self.claim.handle.memory().address.cast()
    }

    /// Bytes.
    pub fn len(self) -> u64 {
        self.claim.handle.memory().size
    }

    /// Whether there is none, as for a kind without memory.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// What the memory is made of, in bytes: the base page, or the huge page of a hugetlb
    /// descriptor.
    pub fn page_size(self) -> u64 {
        self.claim.handle.memory().page_size
    }

    /// Whether writes reach everyone who maps the descriptor.
    pub fn is_shared(self) -> bool {
        self.claim.handle.memory().shared
    }

    /// Whether the guest may only read it.
    pub fn is_readonly(self) -> bool {
        self.claim.handle.memory().readonly
    }

    /// The descriptor behind the memory, which the backend owns; `None` for anonymous memory.
    pub fn fd(self) -> Option<BorrowedFd<'claim>> {
        self.claim.handle.fd()
    }

    /// Where in the descriptor the memory begins, in bytes.
    pub fn fd_offset(self) -> u64 {
        self.claim.handle.memory().offset
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

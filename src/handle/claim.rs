// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Owned claims.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::backend::BackendHandle;
use super::call::check;
use crate::sys;

/// A backend that was claimed: released when dropped.
pub(super) struct Claimed(pub(super) Arc<BackendHandle>);

impl Drop for Claimed {
    fn drop(&mut self) {
        // SAFETY: the backend is alive, as the Arc is only given up after this.
        let released =
            check(|err| unsafe { sys::hostmem_backend_release(self.0.raw.as_ptr(), err) });
        debug_assert!(released.is_ok(), "{released:?}");
    }
}

/// Owns the claim on a backend, and so its memory.
pub(crate) struct ClaimHandle {
    pub(super) claimed: Claimed,
    /// What C says of the memory, which does not change while it is claimed.
    pub(super) memory: sys::hostmem_memory,
}

// SAFETY: the address in the record is of the process, not of a thread, and nothing here reads or
// writes through it.
unsafe impl Send for ClaimHandle {}
// SAFETY: as for Send; the record never changes.
unsafe impl Sync for ClaimHandle {}

impl ClaimHandle {
    pub(crate) fn backend(&self) -> &BackendHandle {
        &self.claimed.0
    }

    pub(crate) fn memory(&self) -> &sys::hostmem_memory {
        &self.memory
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the backend owns the descriptor and keeps it open until it is deleted, which it
        // refuses while claimed, so for as long as self is borrowed.
        (self.memory.fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(self.memory.fd) })
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Owned claims.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use super::backend::BackendHandle;
use super::call::check;
use super::call::to_c;
use crate::error::Result;
use crate::sys;

/// Owns the claim on a backend: released when the last reference is dropped.
pub(crate) struct ClaimHandle {
    backend: Arc<BackendHandle>,
    /// C's record of the memory, which does not change while it is claimed.
    memory: sys::hostmem_memory,
    /// The pieces in use.
    pieces: Mutex<Vec<sys::hostmem_piece>>,
}

// SAFETY: the address in the record belongs to the process, not to a thread, and nothing here reads
// or writes through it.
unsafe impl Send for ClaimHandle {}
// SAFETY: as for Send; the record never changes and the pieces have a lock.
unsafe impl Sync for ClaimHandle {}

impl ClaimHandle {
    pub(crate) fn new(backend: &Arc<BackendHandle>, owner: &str) -> Result<Arc<Self>> {
        let owner = to_c(owner)?;
        // SAFETY: the backend is alive; the text outlives the call.
        check(|err| unsafe { sys::hostmem_backend_claim(backend.raw(), owner.as_ptr(), err) })?;
        // From here on dropping it releases the claim.
        let mut claim = Self {
            backend: Arc::clone(backend),
            memory: sys::hostmem_memory::default(),
            pieces: Mutex::default(),
        };
        // SAFETY: the backend is alive; the record outlives the call.
        check(|err| unsafe {
            sys::hostmem_backend_get_memory(backend.raw(), &mut claim.memory, err)
        })?;
        Ok(Arc::new(claim))
    }

    pub(crate) fn backend(&self) -> &BackendHandle {
        &self.backend
    }

    pub(crate) fn memory(&self) -> &sys::hostmem_memory {
        &self.memory
    }

    /// None also while contents of shared memory are unread, which C decides each time.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        let mut now = sys::hostmem_memory::default();
        // SAFETY: the backend is alive; the record outlives the call.
        check(|err| unsafe { sys::hostmem_backend_get_memory(self.backend.raw(), &mut now, err) })
            .ok()?;
        // SAFETY: the backend owns the descriptor and closes it when it is deleted, which it
        // refuses while claimed, so it is open while self is borrowed.
        (now.fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(now.fd) })
    }

    pub(crate) fn shared_fd(&self) -> Result<BorrowedFd<'_>> {
        let mut fd = -1;
        // SAFETY: the backend is alive; the number outlives the call.
        check(|err| unsafe {
            sys::hostmem_backend_get_shared_fd(self.backend.raw(), &mut fd, err)
        })?;
        // SAFETY: as for fd().
        Ok(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Reserves a piece, unless C refuses it beside those in use.
    pub(crate) fn reserve_piece(&self, piece: sys::hostmem_piece) -> Result<()> {
        let mut others = self.pieces();
        let (backend, array, len) = (self.backend.raw(), others.as_ptr(), others.len());
        // SAFETY: the backend is alive; the piece and the array of that length outlive the call.
        check(|err| unsafe { sys::hostmem_backend_check_piece(backend, &piece, array, len, err) })?;
        others.push(piece);
        Ok(())
    }

    /// Gives back the piece at an offset; no two have the same.
    pub(crate) fn free_piece(&self, offset: u64) {
        self.pieces().retain(|piece| piece.offset != offset);
    }

    fn pieces(&self) -> MutexGuard<'_, Vec<sys::hostmem_piece>> {
        // No panic leaves them half changed.
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ClaimHandle {
    fn drop(&mut self) {
        // SAFETY: the backend is alive, as the reference to it is dropped after this.
        let released =
            check(|err| unsafe { sys::hostmem_backend_release(self.backend.raw(), err) });
        debug_assert!(released.is_ok(), "{released:?}");
    }
}

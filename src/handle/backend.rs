// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Owned backends.

use std::ffi::c_void;
use std::ffi::CStr;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::ptr::NonNull;
use std::sync::Arc;

use super::call::check;
use super::call::to_c;
use super::callback::CallbackSlot;
use super::property::set;
use super::view::BackendView;
use crate::error::Error;
use crate::error::Result;
use crate::sys;

/// The progress callback: bytes done, bytes in total.
pub(crate) type OnProgress = dyn FnMut(u64, u64) + Send;
/// The completion callback: the result, bytes done, bytes in total.
pub(crate) type OnDone = dyn FnMut(Result<()>, u64, u64) + Send;

/// Owns a backend, by reference counting: the last owner frees it.
pub(crate) struct BackendHandle {
    raw: NonNull<sys::hostmem_backend>,
    callbacks: Box<Callbacks>,
}

/// The callbacks of a backend; C has a pointer to it.
struct Callbacks {
    raw: NonNull<sys::hostmem_backend>,
    progress: Arc<CallbackSlot<OnProgress>>,
    done: Arc<CallbackSlot<OnDone>>,
}

// SAFETY: a backend belongs to no thread, its functions may be called from any thread, and its
// callbacks and its kind are Send.
unsafe impl Send for BackendHandle {}
// SAFETY: as for Send; C serialises calls on one backend, the slots have locks and kinds are Sync.
// Only freeing needs exclusive access, and that is in Drop.
unsafe impl Sync for BackendHandle {}

impl BackendHandle {
    pub(super) fn new(raw: NonNull<sys::hostmem_backend>) -> Arc<Self> {
        let callbacks = Box::new(Callbacks {
            raw,
            progress: Arc::default(),
            done: Arc::default(),
        });
        Arc::new(Self { raw, callbacks })
    }

    pub(super) fn raw(&self) -> *mut sys::hostmem_backend {
        self.raw.as_ptr()
    }

    pub(crate) fn view(&self) -> BackendView<'_> {
        // SAFETY: the handle owns the backend, so it lives as long as the borrow.
        unsafe { BackendView::from_raw(self.raw()) }
    }

    pub(crate) fn set_label(&self, label: &str) -> Result<()> {
        let label = to_c(label)?;
        // SAFETY: the backend is alive; the text outlives the call. Only a `Builder` that is owned
        // calls this, and nothing else reads the label until it is complete.
        check(|err| unsafe { sys::hostmem_backend_set_label(self.raw(), label.as_ptr(), err) })
    }

    pub(crate) fn set_text(&self, property: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let (text, call) = (to_c(text)?, sys::hostmem_backend_set_text);
        // SAFETY: the backend is alive; the text outlives the call.
        unsafe { set(call, self.raw(), property, text.as_ptr()) }
    }

    pub(crate) fn set_bool(&self, property: &str, value: bool) -> Result<()> {
        // SAFETY: the backend is alive.
        unsafe { set(sys::hostmem_backend_set_bool, self.raw(), property, value) }
    }

    pub(crate) fn set_number(&self, property: &str, value: u64) -> Result<()> {
        // SAFETY: the backend is alive.
        unsafe { set(sys::hostmem_backend_set_number, self.raw(), property, value) }
    }

    pub(crate) fn set_list(&self, property: &str, values: &[u32]) -> Result<()> {
        let (property, raw, len) = (to_c(property)?, self.raw(), values.len());
        // SAFETY: the backend is alive; the text and the array of that length outlive the call.
        check(|err| unsafe {
            sys::hostmem_backend_set_list(raw, property.as_ptr(), values.as_ptr(), len, err)
        })
    }

    pub(crate) fn set_fd(&self, property: &str, fd: BorrowedFd<'_>) -> Result<()> {
        let (property, raw) = (to_c(property)?, self.raw());
        // SAFETY: the backend is alive; the text outlives the call, and so does the descriptor,
        // which C duplicates.
        check(|err| unsafe {
            sys::hostmem_backend_set_fd(raw, property.as_ptr(), fd.as_raw_fd(), err)
        })
    }

    /// Sets the progress callback of later preallocations. Not while one runs.
    pub(crate) fn set_progress(&self, callback: Box<OnProgress>) {
        self.callbacks.progress.set(callback);
        let data = self.callbacks_for_c();
        // SAFETY: the backend is alive, and freed before the callbacks are; C only passes data back.
        unsafe { sys::hostmem_backend_set_progress(self.raw(), Some(report_progress), data) }
    }

    /// Sets the completion callback of background preallocations. Before completing.
    pub(crate) fn set_prealloc_done(&self, callback: Box<OnDone>) {
        self.callbacks.done.set(callback);
        let data = self.callbacks_for_c();
        // SAFETY: the backend is alive, and freed before the callbacks are; C only passes data back.
        unsafe { sys::hostmem_backend_set_prealloc_done(self.raw(), Some(report_done), data) }
    }

    fn callbacks_for_c(&self) -> *mut c_void {
        ptr::from_ref(&*self.callbacks).cast_mut().cast()
    }

    pub(crate) fn complete(&self) -> Result<()> {
        // SAFETY: the backend is alive.
        check(|err| unsafe { sys::hostmem_backend_complete(self.raw(), err) })
    }

    /// Completes all of them, or none.
    pub(crate) fn complete_all(backends: &[&Self]) -> Result<()> {
        let raw: Vec<_> = backends.iter().map(|backend| backend.raw()).collect();
        // SAFETY: the backends are alive; the array of that length outlives the call.
        check(|err| unsafe { sys::hostmem_backend_complete_all(raw.as_ptr(), raw.len(), err) })
    }

    pub(crate) fn wait_prealloc(&self, milliseconds: u64) -> Result<()> {
        // SAFETY: the backend is alive.
        check(|err| unsafe { sys::hostmem_backend_wait_prealloc(self.raw(), milliseconds, err) })
    }

    pub(crate) fn cancel_prealloc(&self) -> Result<()> {
        // SAFETY: the backend is alive.
        check(|err| unsafe { sys::hostmem_backend_cancel_prealloc(self.raw(), err) })
    }

    pub(crate) fn interrupt(&self) {
        // SAFETY: the backend is alive.
        unsafe { sys::hostmem_backend_interrupt(self.raw()) }
    }

    /// The descriptor stays open until the backend is deleted.
    pub(crate) fn prealloc_event(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the backend is alive.
        let fd = unsafe { sys::hostmem_backend_get_prealloc_event(self.raw()) };
        // SAFETY: open until the backend is deleted. Deleting consumes the `Backend` that this
        // borrows from, so the borrow has ended by then.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }

    pub(crate) fn rebind(
        &self,
        policy: &str,
        nodes: &[u32],
        home_node: u64,
        flags: u32,
    ) -> Result<sys::hostmem_rebind_result> {
        let policy = to_c(policy)?;
        let mut result = sys::hostmem_rebind_result::default();
        // SAFETY: the backend is alive; the text, the array of that length and the record outlive
        // the call.
        check(|err| unsafe {
            sys::hostmem_backend_rebind(
                self.raw(),
                &mut result,
                policy.as_ptr(),
                nodes.as_ptr(),
                nodes.len(),
                home_node,
                flags,
                err,
            )
        })?;
        Ok(result)
    }

    pub(crate) fn discard(&self, offset: u64, length: u64) -> Result<()> {
        // SAFETY: the backend is alive. The memory stays mapped and accessible. Its contents
        // change, which `Memory` says may happen at any time.
        check(|err| unsafe { sys::hostmem_backend_discard(self.raw(), offset, length, err) })
    }

    pub(crate) fn discard_to(
        &self,
        offset: u64,
        length: u64,
        to: sys::hostmem_discard_to,
    ) -> Result<()> {
        // SAFETY: as for discard(). Where other memory takes its place, that is mapped at the same
        // address in the same step.
        check(|err| unsafe { sys::hostmem_backend_discard_to(self.raw(), offset, length, to, err) })
    }

    pub(crate) fn protect(
        &self,
        offset: u64,
        length: u64,
        access: sys::hostmem_access,
    ) -> Result<()> {
        // SAFETY: the backend is alive. The memory stays mapped; an access to it while it is
        // inaccessible ends the process, as `Memory` says, and reaches no other memory.
        check(|err| unsafe {
            sys::hostmem_backend_protect(self.raw(), offset, length, access, err)
        })
    }

    /// The unread bytes, and the failure that keeps threads waiting.
    pub(crate) fn unread(&self) -> (u64, Option<Error>) {
        let mut failed = sys::hostmem_error::default();
        // SAFETY: the backend is alive; the record outlives the call.
        let unread = unsafe { sys::hostmem_backend_get_unread(self.raw(), &mut failed) };
        let failed = (failed.kind.0 != 0).then(|| Error::from_raw(&failed));
        (unread, failed)
    }

    pub(crate) fn faulted(&self) -> Vec<sys::hostmem_range> {
        let mut ranges = Vec::new();
        loop {
            let (raw, array, size) = (self.raw(), ranges.as_mut_ptr(), ranges.len());
            // SAFETY: the backend is alive; the array of that length outlives the call.
            let len = unsafe { sys::hostmem_backend_get_faulted(raw, array, size) };
            let all = len <= size;
            ranges.resize(len, sys::hostmem_range::default());
            if all {
                return ranges;
            }
        }
    }

    pub(crate) fn retry_contents(&self) -> Result<()> {
        // SAFETY: the backend is alive.
        check(|err| unsafe { sys::hostmem_backend_retry_contents(self.raw(), err) })
    }

    pub(crate) fn save(&self, fd: BorrowedFd<'_>, offset: u64) -> Result<sys::hostmem_save_result> {
        let mut result = sys::hostmem_save_result::default();
        let (raw, fd) = (self.raw(), fd.as_raw_fd());
        // SAFETY: the backend is alive; the record and the borrowed descriptor outlive the call.
        check(|err| unsafe { sys::hostmem_backend_save(raw, &mut result, fd, offset, err) })?;
        Ok(result)
    }

    pub(crate) fn inhibit_discard(&self, name: &CStr) -> Result<()> {
        // SAFETY: the backend is alive; the text outlives the call.
        check(|err| unsafe { sys::hostmem_backend_inhibit_discard(self.raw(), name.as_ptr(), err) })
    }

    pub(crate) fn allow_discard(&self, name: &CStr) -> Result<()> {
        // SAFETY: the backend is alive; the text outlives the call.
        check(|err| unsafe { sys::hostmem_backend_allow_discard(self.raw(), name.as_ptr(), err) })
    }

    pub(crate) fn populate(&self, offset: u64, length: u64) -> Result<()> {
        // SAFETY: the backend is alive.
        check(|err| unsafe { sys::hostmem_backend_populate(self.raw(), offset, length, err) })
    }

    pub(crate) fn scrub(&self, offset: u64, length: u64) -> Result<()> {
        // SAFETY: as for discard(): the contents go and the memory stays.
        check(|err| unsafe { sys::hostmem_backend_scrub(self.raw(), offset, length, err) })?;
        Ok(())
    }

    pub(crate) fn delete(&self) -> Result<()> {
        // SAFETY: the backend is alive, and its record stays so. C refuses while there is a claim,
        // so no memory that a claim gave access to is unmapped.
        check(|err| unsafe { sys::hostmem_backend_delete(self.raw(), err) })
    }

    pub(crate) fn undo(&self) -> Result<()> {
        // SAFETY: as for delete().
        check(|err| unsafe { sys::hostmem_backend_undo(self.raw(), err) })
    }
}

impl Drop for BackendHandle {
    fn drop(&mut self) {
        // SAFETY: made by hostmem_backend_new*(), freed once. A claim owns the handle, so there is
        // none, and no other thread is calling.
        unsafe { sys::hostmem_backend_free(self.raw()) }
    }
}

/// # Safety
///
/// `data` is the `Callbacks` of a handle whose backend is calling; `error` is NULL or a record.
unsafe extern "C" fn report_done(data: *mut c_void, error: *const sys::hostmem_error) {
    // SAFETY: alive as the call begins, since the handle frees its backend first.
    let callbacks = unsafe { &*data.cast::<Callbacks>() };
    // The callback may drop the last handle; the slot outlives that.
    let slot = Arc::clone(&callbacks.done);
    // SAFETY: NULL, or a record that is alive for the call.
    let error = unsafe { error.as_ref() }.map(Error::from_raw);
    // SAFETY: the backend is calling, so it is alive.
    let (bytes, total) = unsafe { BackendView::from_raw(callbacks.raw.as_ptr()) }.progress();
    slot.report(|callback| callback(error.map_or(Ok(()), Err), bytes, total));
}

/// # Safety
///
/// `data` is the `Callbacks` of a handle whose backend is calling.
unsafe extern "C" fn report_progress(data: *mut c_void, done: u64, total: u64) {
    // SAFETY: alive as the call begins, since the handle frees its backend first.
    let callbacks = unsafe { &*data.cast::<Callbacks>() };
    // The callback may drop the last handle; the slot outlives that.
    let slot = Arc::clone(&callbacks.progress);
    slot.report(|callback| callback(done, total));
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Owned backends, and what C calls while one is preallocated.

use std::ffi::c_void;
use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::ptr::NonNull;
use std::sync::Arc;

use super::call::check;
use super::call::to_c;
use super::claim::ClaimHandle;
use super::claim::Claimed;
use super::view::BackendView;
use crate::error::Error;
use crate::error::Result;
use crate::policy::Rebind;
use crate::prealloc::CallbackSlot;
use crate::prealloc::OnDone;
use crate::prealloc::OnProgress;
use crate::prealloc::Progress;
use crate::sys;

/// Owns a backend. Shared by everything that keeps it alive; the last owner frees it.
pub(crate) struct BackendHandle {
    pub(super) raw: NonNull<sys::hostmem_backend>,
    /// C holds a pointer to it; a callback that is running holds it too.
    progress: Arc<CallbackSlot<OnProgress>>,
    /// Likewise; what is running holds its slot.
    done: Box<DoneOf>,
}

/// What is told the end of a preallocation, and whose that is.
struct DoneOf {
    raw: NonNull<sys::hostmem_backend>,
    slot: Arc<CallbackSlot<OnDone>>,
}

// SAFETY: a backend belongs to no thread, every function on it may be called from any, and what it
// calls back, the callbacks of a preallocation and the kind, is Send.
unsafe impl Send for BackendHandle {}
// SAFETY: as for Send; calls on one backend are serialised inside, the slots have their locks
// and kinds are Sync. Freeing, which needs the object for itself, is in Drop.
unsafe impl Sync for BackendHandle {}

impl BackendHandle {
    pub(super) fn new(raw: NonNull<sys::hostmem_backend>) -> Arc<Self> {
        Arc::new(Self {
            raw,
            progress: Arc::default(),
            done: Box::new(DoneOf {
                raw,
                slot: Arc::default(),
            }),
        })
    }

    pub(crate) fn view(&self) -> BackendView<'_> {
        // SAFETY: the handle owns the backend, so it lives as long as the borrow.
        unsafe { BackendView::from_raw(self.raw.as_ptr()) }
    }

    pub(crate) fn set_text(&self, property: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let (property, text) = (to_c(property)?, to_c(text)?);
        check(|err| {
            // SAFETY: the backend is alive; the texts outlive the call.
            unsafe {
                sys::hostmem_backend_set_text(
                    self.raw.as_ptr(),
                    property.as_ptr(),
                    text.as_ptr(),
                    err,
                )
            }
        })?;
        Ok(())
    }

    pub(crate) fn set_bool(&self, property: &str, value: bool) -> Result<()> {
        let property = to_c(property)?;
        check(|err| {
            // SAFETY: the backend is alive; the text outlives the call.
            unsafe {
                sys::hostmem_backend_set_bool(self.raw.as_ptr(), property.as_ptr(), value, err)
            }
        })?;
        Ok(())
    }

    pub(crate) fn set_number(&self, property: &str, value: u64) -> Result<()> {
        let property = to_c(property)?;
        check(|err| {
            // SAFETY: the backend is alive; the text outlives the call.
            unsafe {
                sys::hostmem_backend_set_number(self.raw.as_ptr(), property.as_ptr(), value, err)
            }
        })?;
        Ok(())
    }

    pub(crate) fn set_list(&self, property: &str, values: &[u32]) -> Result<()> {
        let property = to_c(property)?;
        check(|err| {
            // SAFETY: the backend is alive; the text and the array of that length outlive the call.
            unsafe {
                sys::hostmem_backend_set_list(
                    self.raw.as_ptr(),
                    property.as_ptr(),
                    values.as_ptr(),
                    values.len(),
                    err,
                )
            }
        })?;
        Ok(())
    }

    /// Sets what is told the progress of the preallocations that begin from now on. To be called
    /// while none runs.
    pub(crate) fn set_progress(self: &Arc<Self>, callback: Box<OnProgress>) {
        self.progress.set(callback);
        let slot = Arc::as_ptr(&self.progress).cast_mut().cast();
        // SAFETY: the backend is alive. The slot is inside an Arc that the handle holds until it
        // has freed the backend; C only hands the pointer back.
        unsafe { sys::hostmem_backend_set_progress(self.raw.as_ptr(), Some(report_progress), slot) }
    }

    /// Sets what is told the end of a preallocation in the background. To be called before
    /// completing.
    pub(crate) fn set_prealloc_done(&self, callback: Box<OnDone>) {
        self.done.slot.set(callback);
        let done = ptr::from_ref(&*self.done).cast_mut().cast();
        // SAFETY: the backend is alive. It is inside a Box that the handle holds until it has freed
        // the backend; C only hands the pointer back.
        unsafe {
            sys::hostmem_backend_set_prealloc_done(self.raw.as_ptr(), Some(report_done), done)
        }
    }

    pub(crate) fn complete(&self) -> Result<()> {
        // SAFETY: the backend is alive.
        check(|err| unsafe { sys::hostmem_backend_complete(self.raw.as_ptr(), err) })?;
        Ok(())
    }

    /// Completes all of them, or none.
    pub(crate) fn complete_all(backends: &[&Self]) -> Result<()> {
        let raw: Vec<_> = backends
            .iter()
            .map(|backend| backend.raw.as_ptr())
            .collect();
        check(|err| {
            // SAFETY: the backends are alive; the array of that length outlives the call.
            unsafe { sys::hostmem_backend_complete_all(raw.as_ptr(), raw.len(), err) }
        })?;
        Ok(())
    }

    pub(crate) fn wait_prealloc(&self, milliseconds: u64) -> Result<()> {
        // SAFETY: the backend is alive.
        check(|err| unsafe {
            sys::hostmem_backend_wait_prealloc(self.raw.as_ptr(), milliseconds, err)
        })?;
        Ok(())
    }

    pub(crate) fn cancel_prealloc(&self) -> Result<()> {
        // SAFETY: the backend is alive.
        check(|err| unsafe { sys::hostmem_backend_cancel_prealloc(self.raw.as_ptr(), err) })?;
        Ok(())
    }

    /// The descriptor stays open until the backend is deleted.
    pub(crate) fn prealloc_event(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the backend is alive.
        let fd = unsafe { sys::hostmem_backend_get_prealloc_event(self.raw.as_ptr()) };
        // SAFETY: open for as long as the backend is not deleted. Deleting consumes the one value
        // that gives this out, so the borrow has ended then.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }

    pub(crate) fn rebind(&self, to: &Rebind) -> Result<sys::hostmem_rebind_result> {
        let policy = to_c(to.policy.as_bytes())?;
        let mut result = sys::hostmem_rebind_result {
            moved: 0,
            not_moved: 0,
            cause: sys::hostmem_unmoved(0),
        };
        // SAFETY: the backend is alive; the text, the array of that length and the variable outlive
        // the call.
        check(|err| unsafe {
            sys::hostmem_backend_rebind(
                self.raw.as_ptr(),
                &mut result,
                policy.as_ptr(),
                to.host_nodes.as_ptr(),
                to.host_nodes.len(),
                to.home_node,
                to.flags,
                err,
            )
        })?;
        Ok(result)
    }

    pub(crate) fn discard(&self, offset: u64, length: u64) -> Result<()> {
        // SAFETY: the backend is alive. Its memory stays mapped and accessible; the contents go,
        // as they may at any time for whoever holds a pointer to it (`Memory`).
        check(|err| unsafe {
            sys::hostmem_backend_discard(self.raw.as_ptr(), offset, length, err)
        })?;
        Ok(())
    }

    pub(crate) fn inhibit_discard(&self, name: &CStr) -> Result<()> {
        // SAFETY: the backend is alive; the text outlives the call.
        check(|err| unsafe {
            sys::hostmem_backend_inhibit_discard(self.raw.as_ptr(), name.as_ptr(), err)
        })?;
        Ok(())
    }

    pub(crate) fn allow_discard(&self, name: &CStr) -> Result<()> {
        // SAFETY: the backend is alive; the text outlives the call.
        check(|err| unsafe {
            sys::hostmem_backend_allow_discard(self.raw.as_ptr(), name.as_ptr(), err)
        })?;
        Ok(())
    }

    pub(crate) fn populate(&self, offset: u64, length: u64) -> Result<()> {
        // SAFETY: the backend is alive.
        check(|err| unsafe {
            sys::hostmem_backend_populate(self.raw.as_ptr(), offset, length, err)
        })?;
        Ok(())
    }

    pub(crate) fn delete(&self) -> Result<()> {
        // SAFETY: the backend is alive, and stays so; C refuses while there is a claim, so no
        // memory that a claim has shown goes away.
        check(|err| unsafe { sys::hostmem_backend_delete(self.raw.as_ptr(), err) })?;
        Ok(())
    }

    pub(crate) fn undo(&self) -> Result<()> {
        // SAFETY: as for delete().
        check(|err| unsafe { sys::hostmem_backend_undo(self.raw.as_ptr(), err) })?;
        Ok(())
    }

    pub(crate) fn claim(self: &Arc<Self>, owner: &str) -> Result<ClaimHandle> {
        let owner = to_c(owner)?;
        // SAFETY: the backend is alive; the text outlives the call.
        check(|err| unsafe { sys::hostmem_backend_claim(self.raw.as_ptr(), owner.as_ptr(), err) })?;
        let claimed = Claimed(Arc::clone(self));
        let memory = self.view().memory()?;
        Ok(ClaimHandle { claimed, memory })
    }
}

impl Drop for BackendHandle {
    fn drop(&mut self) {
        // SAFETY: made by hostmem_backend_new*(), freed once; a claim holds the handle, so there is
        // none, and nobody else can be calling.
        unsafe { sys::hostmem_backend_free(self.raw.as_ptr()) }
    }
}

/// # Safety
///
/// `data` is the `DoneOf` of a handle whose backend is calling, `error` NULL or a written one.
unsafe extern "C" fn report_done(data: *mut c_void, error: *const sys::hostmem_error) {
    // SAFETY: alive as the call begins, since the handle frees its backend before this goes.
    let done = unsafe { &*data.cast::<DoneOf>() };
    // With it the slot outlives its callback, which may drop the last handle.
    let slot = Arc::clone(&done.slot);
    // SAFETY: NULL, or written and alive for the call.
    let error = unsafe { error.as_ref() }.map(Error::from_raw);
    // SAFETY: the backend is calling, so it is alive.
    let (bytes, total) = unsafe { BackendView::from_raw(done.raw.as_ptr()) }.progress();
    let (result, progress) = (error.map_or(Ok(()), Err), Progress::new(bytes, total));
    slot.report(|callback| callback(result, progress));
}

/// # Safety
///
/// `data` is the progress slot of a handle whose backend is calling.
unsafe extern "C" fn report_progress(data: *mut c_void, done: u64, total: u64) {
    let slot: *const CallbackSlot<OnProgress> = data.cast();
    // SAFETY: alive as the call begins, since the handle frees its backend before the slot goes.
    unsafe { Arc::increment_strong_count(slot) };
    // SAFETY: the count just taken. With it the slot outlives its callback, which may drop the
    // last handle.
    let slot = unsafe { Arc::from_raw(slot) };
    slot.report(|callback| callback(done, total));
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Owned thread-contexts.

use std::ptr::NonNull;

use super::call::check;
use super::call::from_c;
use super::call::to_c;
use super::call::to_text;
use super::property::get;
use super::property::get_bytes;
use super::property::get_list;
use super::property::set;
use crate::error::Result;
use crate::sys;

/// Owns a thread-context.
#[derive(Debug)]
pub(crate) struct ThreadContextHandle(pub(super) NonNull<sys::hostmem_thread_context>);

// SAFETY: a thread-context belongs to no thread of the caller, and its functions may be called from
// any thread.
unsafe impl Send for ThreadContextHandle {}
// SAFETY: as for Send; C serialises calls on one. Only freeing needs exclusive access, in Drop.
unsafe impl Sync for ThreadContextHandle {}

impl ThreadContextHandle {
    fn raw(&self) -> *mut sys::hostmem_thread_context {
        self.0.as_ptr()
    }

    pub(crate) fn state(&self) -> sys::hostmem_state {
        // SAFETY: the thread-context is alive.
        unsafe { sys::hostmem_thread_context_get_state(self.raw()) }
    }

    pub(crate) fn id(&self) -> &str {
        // SAFETY: the thread-context is alive, and its id lives as long.
        unsafe { from_c(sys::hostmem_thread_context_get_id(self.raw())) }
    }

    pub(crate) fn complete(&self) -> Result<()> {
        // SAFETY: the thread-context is alive.
        check(|err| unsafe { sys::hostmem_thread_context_complete(self.raw(), err) })
    }

    pub(crate) fn can_be_deleted(&self) -> Result<()> {
        // SAFETY: the thread-context is alive.
        check(|err| unsafe { sys::hostmem_thread_context_can_be_deleted(self.raw(), err) })
    }

    pub(crate) fn delete(&self) -> Result<()> {
        // SAFETY: the thread-context is alive, and its record stays so.
        check(|err| unsafe { sys::hostmem_thread_context_delete(self.raw(), err) })
    }

    pub(crate) fn set_text(&self, property: &str, text: &str) -> Result<()> {
        let text = to_c(text)?;
        let call = sys::hostmem_thread_context_set_text;
        // SAFETY: the thread-context is alive; the text outlives the call.
        unsafe { set(call, self.raw(), property, text.as_ptr()) }
    }

    pub(crate) fn set_list(&self, property: &str, values: &[u32]) -> Result<()> {
        let (property, raw, len) = (to_c(property)?, self.raw(), values.len());
        // SAFETY: the thread-context is alive; the text and the array of that length outlive the
        // call.
        check(|err| unsafe {
            sys::hostmem_thread_context_set_list(raw, property.as_ptr(), values.as_ptr(), len, err)
        })
    }

    pub(crate) fn get_text(&self, property: &str) -> Result<String> {
        let call = sys::hostmem_thread_context_get_text;
        // SAFETY: the thread-context is alive.
        unsafe { get_bytes(call, self.raw(), property) }.map(to_text)
    }

    pub(crate) fn get_number(&self, property: &str) -> Result<u64> {
        let call = sys::hostmem_thread_context_get_number;
        // SAFETY: the thread-context is alive.
        unsafe { get(call, self.raw(), property, 0) }
    }

    pub(crate) fn get_list(&self, property: &str) -> Result<Vec<u32>> {
        let (call, max) = (sys::hostmem_thread_context_get_list, sys::HOSTMEM_CPUS_MAX);
        // SAFETY: the thread-context is alive.
        unsafe { get_list(call, self.raw(), property, max) }
    }
}

impl Drop for ThreadContextHandle {
    fn drop(&mut self) {
        // SAFETY: made by hostmem_thread_context_new*(), freed once; backends that link to it keep
        // a reference.
        unsafe { sys::hostmem_thread_context_free(self.raw()) }
    }
}

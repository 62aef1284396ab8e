// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Owned thread-contexts.

use std::ptr::NonNull;

use super::call::check;
use super::call::from_c;
use super::call::read_text;
use super::call::to_c;
use crate::error::Result;
use crate::sys;

/// Owns a thread-context.
#[derive(Debug)]
pub(crate) struct ThreadContextHandle(pub(super) NonNull<sys::hostmem_thread_context>);

// SAFETY: a thread-context belongs to no thread: its own is the library's, and every function on it
// may be called from any.
unsafe impl Send for ThreadContextHandle {}
// SAFETY: as for Send; calls on one are serialised inside. Freeing is in Drop.
unsafe impl Sync for ThreadContextHandle {}

impl ThreadContextHandle {
    pub(crate) fn state(&self) -> sys::hostmem_state {
        // SAFETY: the thread-context is alive.
        unsafe { sys::hostmem_thread_context_get_state(self.0.as_ptr()) }
    }

    pub(crate) fn id(&self) -> &str {
        // SAFETY: the thread-context is alive.
        let text = unsafe { sys::hostmem_thread_context_get_id(self.0.as_ptr()) };
        // SAFETY: lives as long as the thread-context.
        unsafe { from_c(text) }
    }

    pub(crate) fn complete(&self) -> Result<()> {
        // SAFETY: the thread-context is alive.
        check(|err| unsafe { sys::hostmem_thread_context_complete(self.0.as_ptr(), err) })?;
        Ok(())
    }

    pub(crate) fn can_be_deleted(&self) -> Result<()> {
        // SAFETY: the thread-context is alive.
        check(|err| unsafe { sys::hostmem_thread_context_can_be_deleted(self.0.as_ptr(), err) })?;
        Ok(())
    }

    pub(crate) fn delete(&self) -> Result<()> {
        // SAFETY: the thread-context is alive, and stays so.
        check(|err| unsafe { sys::hostmem_thread_context_delete(self.0.as_ptr(), err) })?;
        Ok(())
    }

    pub(crate) fn set_text(&self, property: &str, text: &str) -> Result<()> {
        let (property, text) = (to_c(property)?, to_c(text)?);
        check(|err| {
            // SAFETY: the thread-context is alive; the texts outlive the call.
            unsafe {
                sys::hostmem_thread_context_set_text(
                    self.0.as_ptr(),
                    property.as_ptr(),
                    text.as_ptr(),
                    err,
                )
            }
        })?;
        Ok(())
    }

    pub(crate) fn set_list(&self, property: &str, values: &[u32]) -> Result<()> {
        let property = to_c(property)?;
        check(|err| {
            // SAFETY: the thread-context is alive; the text and the array of that length outlive
            // the call.
            unsafe {
                sys::hostmem_thread_context_set_list(
                    self.0.as_ptr(),
                    property.as_ptr(),
                    values.as_ptr(),
                    values.len(),
                    err,
                )
            }
        })?;
        Ok(())
    }

    pub(crate) fn get_text(&self, property: &str) -> Result<String> {
        let property = to_c(property)?;
        // SAFETY: the thread-context is alive; the buffer has that size; the text outlives the
        // call.
        read_text(|buffer, size, err| unsafe {
            sys::hostmem_thread_context_get_text(
                self.0.as_ptr(),
                property.as_ptr(),
                buffer,
                size,
                err,
            )
        })
    }

    pub(crate) fn get_number(&self, property: &str) -> Result<u64> {
        let property = to_c(property)?;
        let mut value = 0;
        check(|err| {
            // SAFETY: the thread-context is alive; the text and the variable outlive the call.
            unsafe {
                sys::hostmem_thread_context_get_number(
                    self.0.as_ptr(),
                    property.as_ptr(),
                    &mut value,
                    err,
                )
            }
        })?;
        Ok(value)
    }

    pub(crate) fn get_list(&self, property: &str) -> Result<Vec<u32>> {
        let property = to_c(property)?;
        let mut values = vec![0; sys::HOSTMEM_CPUS_MAX as usize];
        let len = check(|err| {
            // SAFETY: the thread-context is alive; the array has that length; the text outlives the
            // call.
            unsafe {
                sys::hostmem_thread_context_get_list(
                    self.0.as_ptr(),
                    property.as_ptr(),
                    values.as_mut_ptr(),
                    values.len(),
                    err,
                )
            }
        })?;
        // Never cut: there are no more than HOSTMEM_CPUS_MAX CPUs.
        values.truncate(len);
        Ok(values)
    }
}

impl Drop for ThreadContextHandle {
    fn drop(&mut self) {
        // SAFETY: made by hostmem_thread_context_new*(), given up once; backends that link to it
        // keep it.
        unsafe { sys::hostmem_thread_context_free(self.0.as_ptr()) }
    }
}

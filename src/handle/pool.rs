// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Owned pools.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::ptr::NonNull;
use std::sync::Arc;

use super::backend::BackendHandle;
use super::call::check;
use super::call::make;
use super::call::to_c;
use super::objects::ObjectsHandle;
use crate::error::Result;
use crate::sys;

/// Owns a pool.
#[derive(Debug)]
pub(crate) struct PoolHandle(NonNull<sys::hostmem_pool>);

// SAFETY: a pool belongs to no thread of the caller, its functions may be called from any thread,
// and the kinds that its thread calls are Send + Sync.
unsafe impl Send for PoolHandle {}
// SAFETY: as for Send; C serialises calls on one. Only freeing needs exclusive access, in Drop.
unsafe impl Sync for PoolHandle {}

impl PoolHandle {
    fn raw(&self) -> *mut sys::hostmem_pool {
        self.0.as_ptr()
    }

    pub(crate) fn new(template: &BackendHandle, count: u32) -> Result<Self> {
        // SAFETY: the template is alive, and copied.
        make(|pool, err| unsafe { sys::hostmem_pool_new(pool, template.raw(), count, err) })
            .map(Self)
    }

    pub(crate) fn from_options(
        objects: &ObjectsHandle,
        options: &OsStr,
        count: u32,
    ) -> Result<Self> {
        let options = to_c(options.as_bytes())?;
        // SAFETY: the set is alive; the text outlives the call.
        make(|pool, err| unsafe {
            sys::hostmem_pool_new_from_options(objects.raw(), pool, options.as_ptr(), count, err)
        })
        .map(Self)
    }

    /// The backend, and whether it was ready.
    pub(crate) fn take(&self, id: &str) -> Result<(Arc<BackendHandle>, bool)> {
        let id = to_c(id)?;
        let mut was_ready = false;
        // SAFETY: the pool is alive; the text and the variable outlive the call.
        let backend = make(|backend, err| unsafe {
            sys::hostmem_pool_take(self.raw(), backend, &mut was_ready, id.as_ptr(), err)
        })?;
        Ok((BackendHandle::new(backend), was_ready))
    }

    pub(crate) fn withdraw(&self, id: &str) -> Result<Arc<BackendHandle>> {
        let id = to_c(id)?;
        // SAFETY: the pool is alive; the text outlives the call.
        let backend = make(|backend, err| unsafe {
            sys::hostmem_pool_withdraw(self.raw(), backend, id.as_ptr(), err)
        })?;
        Ok(BackendHandle::new(backend))
    }

    pub(crate) fn rest(&self, milliseconds: u64) {
        // SAFETY: the pool is alive.
        unsafe { sys::hostmem_pool_rest(self.raw(), milliseconds) }
    }

    pub(crate) fn set_count(&self, count: u32) -> Result<()> {
        // SAFETY: the pool is alive.
        check(|err| unsafe { sys::hostmem_pool_set_count(self.raw(), count, err) })
    }

    pub(crate) fn wait(&self, ready: u32, milliseconds: u64) -> Result<()> {
        // SAFETY: the pool is alive.
        check(|err| unsafe { sys::hostmem_pool_wait(self.raw(), ready, milliseconds, err) })
    }

    pub(crate) fn status(&self) -> sys::hostmem_pool_status {
        let mut status = sys::hostmem_pool_status::default();
        // SAFETY: the pool is alive; the variable outlives the call.
        unsafe { sys::hostmem_pool_get_status(self.raw(), &mut status) };
        status
    }
}

impl Drop for PoolHandle {
    fn drop(&mut self) {
        // SAFETY: made by hostmem_pool_new*(), freed once; nobody else can be calling.
        unsafe { sys::hostmem_pool_free(self.raw()) }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Owned probe results.

use std::ptr::NonNull;

use super::call::make;
use crate::error::Result;
use crate::sys;

/// Owns the result of a probe.
#[derive(Debug)]
pub(crate) struct HostHandle(pub(super) NonNull<sys::hostmem_host>);

// SAFETY: the record refers to no thread.
unsafe impl Send for HostHandle {}
// SAFETY: methods with &self only read the record; narrowing it needs &mut self.
unsafe impl Sync for HostHandle {}

impl HostHandle {
    pub(crate) fn probe() -> Result<Self> {
        // SAFETY: both pointers are of variables that outlive the call.
        make(|host, err| unsafe { sys::hostmem_host_probe(host, err) }).map(Self)
    }

    pub(crate) fn methods(&self) -> u32 {
        // SAFETY: the record is ours and alive.
        unsafe { sys::hostmem_host_get_methods(self.0.as_ptr()) }
    }

    pub(crate) fn info(&self) -> sys::hostmem_host_info {
        let mut info = sys::hostmem_host_info::default();
        // SAFETY: the record is ours and alive; the variable outlives the call.
        unsafe { sys::hostmem_host_get_info(self.0.as_ptr(), &mut info) };
        info
    }

    pub(crate) fn feature(&self, index: usize) -> Option<sys::hostmem_feature> {
        let mut feature = sys::hostmem_feature::default();
        // SAFETY: the record is ours and alive; takes any index; the variable outlives the call.
        let result = unsafe { sys::hostmem_host_get_feature(self.0.as_ptr(), index, &mut feature) };
        (result == 0).then_some(feature)
    }

    pub(crate) fn narrow_methods(&mut self, methods: u32) {
        // SAFETY: the record is ours and alive; &mut self excludes readers.
        unsafe { sys::hostmem_host_narrow_methods(self.0.as_ptr(), methods) }
    }

    pub(crate) fn calls(&self) -> u32 {
        // SAFETY: the record is ours and alive.
        unsafe { sys::hostmem_host_get_calls(self.0.as_ptr()) }
    }

    pub(crate) fn narrow_calls(&mut self, calls: u32) {
        // SAFETY: the record is ours and alive; &mut self excludes readers.
        unsafe { sys::hostmem_host_narrow_calls(self.0.as_ptr(), calls) }
    }
}

impl Drop for HostHandle {
    fn drop(&mut self) {
        // SAFETY: made by hostmem_host_probe(), freed once; objects keep their own copy.
        unsafe { sys::hostmem_host_free(self.0.as_ptr()) }
    }
}

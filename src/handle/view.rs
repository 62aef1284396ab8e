// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading a backend that is borrowed.

use std::ffi::OsString;
use std::marker::PhantomData;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::call::check;
use super::call::from_c;
use super::call::read_text;
use super::call::to_text;
use super::property::get;
use super::property::get_bytes;
use super::property::get_list;
use crate::error::Result;
use crate::sys;

/// A backend that is alive for `'a`, to be read only.
#[derive(Clone, Copy)]
pub(crate) struct BackendView<'a> {
    raw: *const sys::hostmem_backend,
    alive: PhantomData<&'a sys::hostmem_backend>,
}

impl<'a> BackendView<'a> {
    /// # Safety
    ///
    /// `raw` is a backend that lives for `'a`.
    pub(super) unsafe fn from_raw(raw: *const sys::hostmem_backend) -> Self {
        Self {
            raw,
            alive: PhantomData,
        }
    }

    pub(crate) fn state(self) -> sys::hostmem_state {
        // SAFETY: the backend lives for 'a.
        unsafe { sys::hostmem_backend_get_state(self.raw) }
    }

    pub(crate) fn id(self) -> &'a str {
        // SAFETY: the backend lives for 'a, and its id as long.
        unsafe { from_c(sys::hostmem_backend_get_id(self.raw)) }
    }

    /// Does not change while it is borrowed: setting it needs the only owner of the builder.
    pub(crate) fn label(self) -> &'a str {
        // SAFETY: the backend lives for 'a, and its label as long.
        unsafe { from_c(sys::hostmem_backend_get_label(self.raw)) }
    }

    pub(crate) fn kind(self) -> &'a str {
        // SAFETY: the backend lives for 'a, and the name of its kind as long.
        unsafe { from_c(sys::hostmem_backend_get_kind(self.raw)) }
    }

    pub(crate) fn name(self) -> Result<String> {
        // SAFETY: the backend lives for 'a; the buffer has that size.
        read_text(|buffer, size, err| unsafe {
            sys::hostmem_backend_get_name(self.raw, buffer, size, err)
        })
    }

    pub(crate) fn owner(self) -> Result<String> {
        // SAFETY: the backend lives for 'a; the buffer has that size.
        read_text(|buffer, size, err| unsafe {
            sys::hostmem_backend_get_owner(self.raw, buffer, size, err)
        })
    }

    pub(crate) fn warnings(self) -> Vec<String> {
        let warning = |index| {
            // SAFETY: the backend lives for 'a; the buffer has that size; takes any index.
            read_text(|buffer, size, err| unsafe {
                sys::hostmem_backend_get_warning(self.raw, index, buffer, size, err)
            })
        };
        // Never fails, as far as C says; beyond the last one is the empty text.
        (0..)
            .map(|index| warning(index).unwrap_or_default())
            .take_while(|text| !text.is_empty())
            .collect()
    }

    pub(crate) fn can_be_deleted(self) -> Result<()> {
        // SAFETY: the backend lives for 'a.
        check(|err| unsafe { sys::hostmem_backend_can_be_deleted(self.raw, err) })
    }

    fn get_bytes(self, property: &str) -> Result<Vec<u8>> {
        // SAFETY: the backend lives for 'a.
        unsafe { get_bytes(sys::hostmem_backend_get_text, self.raw, property) }
    }

    pub(crate) fn get_text(self, property: &str) -> Result<String> {
        self.get_bytes(property).map(to_text)
    }

    pub(crate) fn get_path(self, property: &str) -> Result<PathBuf> {
        let bytes = self.get_bytes(property)?;
        Ok(OsString::from_vec(bytes).into())
    }

    pub(crate) fn get_bool(self, property: &str) -> Result<bool> {
        // SAFETY: the backend lives for 'a.
        unsafe { get(sys::hostmem_backend_get_bool, self.raw, property, false) }
    }

    pub(crate) fn get_number(self, property: &str) -> Result<u64> {
        // SAFETY: the backend lives for 'a.
        unsafe { get(sys::hostmem_backend_get_number, self.raw, property, 0) }
    }

    pub(crate) fn get_list(self, property: &str) -> Result<Vec<u32>> {
        let (call, max) = (sys::hostmem_backend_get_list, sys::HOSTMEM_NODES_MAX);
        // SAFETY: the backend lives for 'a.
        unsafe { get_list(call, self.raw, property, max) }
    }

    pub(crate) fn origin(self, property: &str) -> Result<sys::hostmem_origin> {
        let (call, unset) = (sys::hostmem_backend_get_origin, sys::hostmem_origin(0));
        // SAFETY: the backend lives for 'a.
        unsafe { get(call, self.raw, property, unset) }
    }

    /// Bytes done, bytes in total.
    pub(crate) fn progress(self) -> (u64, u64) {
        let (mut done, mut total) = (0, 0);
        // SAFETY: the backend lives for 'a; the variables outlive the call.
        unsafe { sys::hostmem_backend_get_progress(self.raw, &mut done, &mut total) };
        (done, total)
    }

    pub(crate) fn prealloc_result(self) -> sys::hostmem_prealloc_result {
        let mut result = sys::hostmem_prealloc_result::default();
        // SAFETY: the backend lives for 'a; the record outlives the call.
        unsafe { sys::hostmem_backend_get_prealloc_result(self.raw, &mut result) };
        result
    }

    pub(crate) fn placement(self) -> Result<Box<sys::hostmem_placement>> {
        let mut placement = Box::<sys::hostmem_placement>::default();
        // SAFETY: the backend lives for 'a; the record outlives the call.
        check(|err| unsafe { sys::hostmem_backend_get_placement(self.raw, &mut *placement, err) })?;
        Ok(placement)
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading a backend that somebody keeps alive.

use std::ffi::OsString;
use std::marker::PhantomData;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::ptr;

use super::backend::BackendHandle;
use super::call::check;
use super::call::from_c;
use super::call::read_bytes;
use super::call::read_text;
use super::call::to_c;
use crate::error::Result;
use crate::property::Origin;
use crate::sys;

/// A backend that is alive for `'a`: everything that only reads it.
#[derive(Clone, Copy)]
pub(crate) struct BackendView<'a> {
    raw: *const sys::hostmem_backend,
    alive: PhantomData<&'a BackendHandle>,
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
        // SAFETY: the backend lives for 'a.
        let text = unsafe { sys::hostmem_backend_get_id(self.raw) };
        // SAFETY: lives as long as the backend.
        unsafe { from_c(text) }
    }

    pub(crate) fn kind(self) -> &'a str {
        // SAFETY: the backend lives for 'a.
        let text = unsafe { sys::hostmem_backend_get_kind(self.raw) };
        // SAFETY: lives as long as the backend.
        unsafe { from_c(text) }
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

    pub(crate) fn can_be_deleted(self) -> Result<()> {
        // SAFETY: the backend lives for 'a.
        check(|err| unsafe { sys::hostmem_backend_can_be_deleted(self.raw, err) })?;
        Ok(())
    }

    pub(crate) fn check_piece(
        self,
        piece: &sys::hostmem_piece,
        others: &[sys::hostmem_piece],
    ) -> Result<()> {
        check(|err| {
            // SAFETY: the backend lives for 'a; the piece and the array of that length outlive the
            // call.
            unsafe {
                sys::hostmem_backend_check_piece(
                    self.raw,
                    piece,
                    others.as_ptr(),
                    others.len(),
                    err,
                )
            }
        })?;
        Ok(())
    }

    pub(crate) fn get_text(self, property: &str) -> Result<String> {
        let property = to_c(property)?;
        // SAFETY: the backend lives for 'a; the buffer has that size; the text outlives the call.
        read_text(|buffer, size, err| unsafe {
            sys::hostmem_backend_get_text(self.raw, property.as_ptr(), buffer, size, err)
        })
    }

    pub(crate) fn get_path(self, property: &str) -> Result<PathBuf> {
        let property = to_c(property)?;
        // SAFETY: the backend lives for 'a; the buffer has that size; the text outlives the call.
        let bytes = read_bytes(|buffer, size, err| unsafe {
            sys::hostmem_backend_get_text(self.raw, property.as_ptr(), buffer, size, err)
        })?;
        Ok(OsString::from_vec(bytes).into())
    }

    pub(crate) fn get_bool(self, property: &str) -> Result<bool> {
        let property = to_c(property)?;
        let mut value = false;
        check(|err| {
            // SAFETY: the backend lives for 'a; the text and the variable outlive the call.
            unsafe { sys::hostmem_backend_get_bool(self.raw, property.as_ptr(), &mut value, err) }
        })?;
        Ok(value)
    }

    pub(crate) fn get_number(self, property: &str) -> Result<u64> {
        let property = to_c(property)?;
        let mut value = 0;
        check(|err| {
            // SAFETY: the backend lives for 'a; the text and the variable outlive the call.
            unsafe { sys::hostmem_backend_get_number(self.raw, property.as_ptr(), &mut value, err) }
        })?;
        Ok(value)
    }

    pub(crate) fn get_list(self, property: &str) -> Result<Vec<u32>> {
        let property = to_c(property)?;
        let mut values = vec![0; sys::HOSTMEM_NODES_MAX as usize];
        let len = check(|err| {
            // SAFETY: the backend lives for 'a; the array has that length; the text outlives the
            // call.
            unsafe {
                sys::hostmem_backend_get_list(
                    self.raw,
                    property.as_ptr(),
                    values.as_mut_ptr(),
                    values.len(),
                    err,
                )
            }
        })?;
        // Never cut: there are no more than HOSTMEM_NODES_MAX nodes.
        values.truncate(len);
        Ok(values)
    }

    pub(crate) fn origin(self, property: &str) -> Result<Origin> {
        let property = to_c(property)?;
        let mut origin = sys::hostmem_origin(0);
        check(|err| {
            // SAFETY: the backend lives for 'a; the text and the variable outlive the call.
            unsafe {
                sys::hostmem_backend_get_origin(self.raw, property.as_ptr(), &mut origin, err)
            }
        })?;
        Ok(Origin::from_raw(origin))
    }

    pub(crate) fn progress(self) -> (u64, u64) {
        let (mut done, mut total) = (0, 0);
        // SAFETY: the backend lives for 'a; the variables outlive the call.
        unsafe { sys::hostmem_backend_get_progress(self.raw, &mut done, &mut total) };
        (done, total)
    }

    pub(crate) fn prealloc_result(self) -> sys::hostmem_prealloc_result {
        let mut result = sys::hostmem_prealloc_result {
            threads: 0,
            affinity_error: 0,
            policy_error: 0,
            bytes: 0,
            nanoseconds: 0,
        };
        // SAFETY: the backend lives for 'a; the variable outlives the call.
        unsafe { sys::hostmem_backend_get_prealloc_result(self.raw, &mut result) };
        result
    }

    pub(crate) fn placement(self) -> Result<Box<sys::hostmem_placement>> {
        let mut placement = Box::new(sys::hostmem_placement {
            resident: 0,
            huge: 0,
            swapped: 0,
            unmapped: 0,
            absent: 0,
            outside: 0,
            satisfied: sys::hostmem_satisfied(0),
            policy_changed: false,
            mergeable: false,
            mapmax: 0,
            policy: [0; sys::HOSTMEM_POLICY_SIZE as usize],
            reason: [0; sys::HOSTMEM_REASON_SIZE as usize],
            nodes: [0; sys::HOSTMEM_NODES_MAX as usize],
            weights: [0; sys::HOSTMEM_NODES_MAX as usize],
        });
        check(|err| {
            // SAFETY: the backend lives for 'a; the record outlives the call.
            unsafe { sys::hostmem_backend_get_placement(self.raw, &mut *placement, err) }
        })?;
        Ok(placement)
    }

    pub(super) fn memory(self) -> Result<sys::hostmem_memory> {
        let mut memory = sys::hostmem_memory {
            address: ptr::null_mut(),
            size: 0,
            page_size: 0,
            fd: -1,
            shared: false,
            readonly: false,
            hugetlb: false,
            offset: 0,
        };
        // SAFETY: the backend lives for 'a; the variable outlives the call.
        check(|err| unsafe { sys::hostmem_backend_get_memory(self.raw, &mut memory, err) })?;
        Ok(memory)
    }
}

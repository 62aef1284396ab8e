// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Owned sets of objects.

use std::ffi::CStr;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::ptr::NonNull;
use std::sync::Arc;

use super::backend::BackendHandle;
use super::call::check;
use super::call::from_c;
use super::call::make;
use super::call::read_text;
use super::call::to_c;
use super::host::HostHandle;
use super::kind::allocate;
use super::kind::check_kind;
use super::kind::free_data;
use super::kind::undo;
use super::kind::KindFunctions;
use super::kind::RegisteredKind;
use super::thread_context::ThreadContextHandle;
use crate::error::Result;
use crate::sys;

/// Owns a set of objects.
#[derive(Debug)]
pub(crate) struct ObjectsHandle(NonNull<sys::hostmem_objects>);

// SAFETY: the functions on a set may be called from any thread, and the registered kinds, whose
// data it owns, are Send + Sync.
unsafe impl Send for ObjectsHandle {}
// SAFETY: as for Send; C serialises calls on one set.
unsafe impl Sync for ObjectsHandle {}

impl ObjectsHandle {
    pub(crate) fn new(
        host: &HostHandle,
        defaults: &sys::hostmem_defaults,
        compat: &[(&str, &str, &str)],
    ) -> Result<Self> {
        let texts = compat
            .iter()
            .map(|(kind, property, value)| Ok([to_c(kind)?, to_c(property)?, to_c(value)?]))
            .collect::<Result<Vec<_>>>()?;
        let compat: Vec<_> = texts
            .iter()
            .map(|[kind, property, value]| sys::hostmem_compat {
                kind: kind.as_ptr(),
                property: property.as_ptr(),
                value: value.as_ptr(),
            })
            .collect();
        let (host, array, len) = (host.0.as_ptr(), compat.as_ptr(), compat.len());
        // SAFETY: the host is alive; defaults, the array of that length and its texts outlive the
        // call, which copies them.
        make(|objects, err| unsafe {
            sys::hostmem_objects_new(objects, host, defaults, array, len, err)
        })
        .map(Self)
    }

    pub(super) fn raw(&self) -> *mut sys::hostmem_objects {
        self.0.as_ptr()
    }

    pub(crate) fn register_kind(
        &self,
        name: &str,
        description: &str,
        share: bool,
        functions: Box<dyn KindFunctions>,
    ) -> Result<()> {
        let data = Box::new(RegisteredKind {
            name: to_c(name)?,
            description: to_c(description)?,
            functions,
        });
        let kind = sys::hostmem_kind {
            name: data.name.as_ptr(),
            description: data.description.as_ptr(),
            share,
            check: Some(check_kind),
            allocate: Some(allocate),
            undo: Some(undo),
            free_data: Some(free_data),
            // The texts have allocations of their own, which do not move.
            data: Box::into_raw(data).cast(),
        };
        // SAFETY: the set is alive and copies the table; the texts are in data, which C owns from
        // here on, also on failure, and passes to free_data once.
        check(|err| unsafe { sys::hostmem_objects_register_kind(self.raw(), &kind, err) })
    }

    /// The kind at an index: name, description, and the other fields.
    pub(crate) fn kind(&self, index: usize) -> Option<(&str, &str, &sys::hostmem_kind)> {
        // SAFETY: the set is alive; takes any index.
        let kind = unsafe { sys::hostmem_objects_get_kind(self.raw(), index) };
        // SAFETY: NULL, or a table that lives and does not change as long as the set.
        let kind = unsafe { kind.as_ref() }?;
        // SAFETY: the texts live as long as the kind.
        let text = |text| unsafe { from_c(text) };
        Some((text(kind.name), text(kind.description), kind))
    }

    /// Without an id one is made.
    pub(crate) fn new_backend(&self, kind: &str, id: Option<&str>) -> Result<Arc<BackendHandle>> {
        let (kind, id) = (to_c(kind)?, id.map(to_c).transpose()?);
        let raw_id = id.as_deref().map_or(ptr::null(), CStr::as_ptr);
        // SAFETY: the set is alive; the texts outlive the call, and the id may be NULL.
        make(|backend, err| unsafe {
            sys::hostmem_backend_new(self.raw(), backend, kind.as_ptr(), raw_id, err)
        })
        .map(BackendHandle::new)
    }

    pub(crate) fn new_backend_from_options(&self, options: &OsStr) -> Result<Arc<BackendHandle>> {
        let options = to_c(options.as_bytes())?;
        // SAFETY: the set is alive; the text outlives the call.
        make(|backend, err| unsafe {
            sys::hostmem_backend_new_from_options(self.raw(), backend, options.as_ptr(), err)
        })
        .map(BackendHandle::new)
    }

    pub(crate) fn new_thread_context(&self, id: &str) -> Result<ThreadContextHandle> {
        let id = to_c(id)?;
        // SAFETY: the set is alive; the text outlives the call.
        make(|context, err| unsafe {
            sys::hostmem_thread_context_new(self.raw(), context, id.as_ptr(), err)
        })
        .map(ThreadContextHandle)
    }

    pub(crate) fn new_thread_context_from_options(
        &self,
        options: &OsStr,
    ) -> Result<ThreadContextHandle> {
        let options = to_c(options.as_bytes())?;
        // SAFETY: the set is alive; the text outlives the call.
        make(|context, err| unsafe {
            sys::hostmem_thread_context_new_from_options(self.raw(), context, options.as_ptr(), err)
        })
        .map(ThreadContextHandle)
    }
}

impl Drop for ObjectsHandle {
    fn drop(&mut self) {
        // SAFETY: made by hostmem_objects_new(), freed once; backends keep a reference to the set.
        unsafe { sys::hostmem_objects_free(self.raw()) }
    }
}

/// The kind that an option string names.
pub(crate) fn kind_of_options(options: &OsStr) -> Result<String> {
    let options = to_c(options.as_bytes())?;
    // SAFETY: the buffer has that size; the text outlives the call.
    read_text(|buffer, size, err| unsafe {
        sys::hostmem_options_get_kind(options.as_ptr(), buffer, size, err)
    })
}

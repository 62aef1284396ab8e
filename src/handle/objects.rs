// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Owned sets of objects.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
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
use super::kind::RegisteredKind;
use super::thread_context::ThreadContextHandle;
use crate::error::Result;
use crate::kind::KindRecord;
use crate::objects::Defaults;
use crate::objects::KindInfo;
use crate::sys;

/// Owns a set of objects.
#[derive(Debug)]
pub(crate) struct ObjectsHandle(NonNull<sys::hostmem_objects>);

// SAFETY: every function on a set may be called from any thread, and the kinds registered in it,
// whose data it holds, are Send + Sync.
unsafe impl Send for ObjectsHandle {}
// SAFETY: as for Send; calls on one set are serialised inside.
unsafe impl Sync for ObjectsHandle {}

impl ObjectsHandle {
    pub(crate) fn new(
        host: &HostHandle,
        defaults: &Defaults,
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
        let defaults = defaults.to_raw();
        make(|objects, err| {
            // SAFETY: the host is alive; defaults, the array of that length and its texts outlive
            // the call, which copies them.
            unsafe {
                sys::hostmem_objects_new(
                    objects,
                    host.0.as_ptr(),
                    &defaults,
                    compat.as_ptr(),
                    compat.len(),
                    err,
                )
            }
        })
        .map(Self)
    }

    pub(crate) fn register_kind(
        &self,
        name: &str,
        description: &str,
        share: bool,
        record: KindRecord,
    ) -> Result<()> {
        let record = Box::new(RegisteredKind {
            name: to_c(name)?,
            description: to_c(description)?,
            record,
        });
        let kind = sys::hostmem_kind {
            name: record.name.as_ptr(),
            description: record.description.as_ptr(),
            share,
            check: Some(check_kind),
            allocate: Some(allocate),
            undo: Some(undo),
            free_data: Some(free_data),
            // The texts are on the heap on their own, so they stay where they are.
            data: Box::into_raw(record).cast(),
        };
        // SAFETY: the set is alive and copies the table; the texts live in data, which it takes
        // over in any case and gives back to free_data once.
        check(|err| unsafe { sys::hostmem_objects_register_kind(self.0.as_ptr(), &kind, err) })?;
        Ok(())
    }

    pub(crate) fn kind(&self, index: usize) -> Option<KindInfo> {
        // SAFETY: the set is alive; takes any index.
        let kind = unsafe { sys::hostmem_objects_get_kind(self.0.as_ptr(), index) };
        // SAFETY: NULL, or a table that lives and does not change as long as the set.
        let kind = unsafe { kind.as_ref() }?;
        // SAFETY: its texts live as long as the kind, and are copied here.
        let text = |text| unsafe { from_c(text) }.to_owned();
        Some(KindInfo {
            name: text(kind.name),
            description: text(kind.description),
            share: kind.share,
            has_memory: kind.allocate.is_some(),
        })
    }

    pub(crate) fn new_backend(&self, kind: &str, id: &str) -> Result<Arc<BackendHandle>> {
        let (kind, id) = (to_c(kind)?, to_c(id)?);
        make(|backend, err| {
            // SAFETY: the set is alive; the texts outlive the call.
            unsafe {
                sys::hostmem_backend_new(self.0.as_ptr(), backend, kind.as_ptr(), id.as_ptr(), err)
            }
        })
        .map(BackendHandle::new)
    }

    pub(crate) fn new_backend_from_options(&self, options: &OsStr) -> Result<Arc<BackendHandle>> {
        let options = to_c(options.as_bytes())?;
        make(|backend, err| {
            // SAFETY: the set is alive; the text outlives the call.
            unsafe {
                sys::hostmem_backend_new_from_options(
                    self.0.as_ptr(),
                    backend,
                    options.as_ptr(),
                    err,
                )
            }
        })
        .map(BackendHandle::new)
    }
}

impl ObjectsHandle {
    pub(crate) fn new_thread_context(&self, id: &str) -> Result<ThreadContextHandle> {
        let id = to_c(id)?;
        make(|context, err| {
            // SAFETY: the set is alive; the text outlives the call.
            unsafe { sys::hostmem_thread_context_new(self.0.as_ptr(), context, id.as_ptr(), err) }
        })
        .map(ThreadContextHandle)
    }

    pub(crate) fn new_thread_context_from_options(
        &self,
        options: &OsStr,
    ) -> Result<ThreadContextHandle> {
        let options = to_c(options.as_bytes())?;
        make(|context, err| {
            // SAFETY: the set is alive; the text outlives the call.
            unsafe {
                sys::hostmem_thread_context_new_from_options(
                    self.0.as_ptr(),
                    context,
                    options.as_ptr(),
                    err,
                )
            }
        })
        .map(ThreadContextHandle)
    }
}

impl Drop for ObjectsHandle {
    fn drop(&mut self) {
        // SAFETY: made by hostmem_objects_new(), given up once; backends keep the set alive.
        unsafe { sys::hostmem_objects_free(self.0.as_ptr()) }
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

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Owned handles of the C library's objects: the only hand-written unsafe code.
//!
//! What the arguments below rest on:
//!
//! - C copies what goes in, and writes an error only where the call fails.
//! - Every C function may be called from any thread; only the `_free` ones need the object for
//!   themselves, and they are called in `Drop` alone, so after the last borrow.
//! - A pointer in a handle comes from the C function that made the object and is never replaced.

#![allow(unsafe_code)]

use std::ffi::c_char;
use std::ffi::c_int;
use std::ffi::c_void;
use std::ffi::CStr;
use std::ffi::CString;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::ptr;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::error;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::kind::KindRecord;
use crate::kind::Undo;
use crate::objects::Defaults;
use crate::objects::KindInfo;
use crate::policy::Rebind;
use crate::prealloc::DoneSlot;
use crate::prealloc::ProgressSlot;
use crate::property::Origin;
use crate::property::Property;
use crate::property::PropertyType;
use crate::property::Settable;
use crate::sys;

/// Runs one C call and turns what it returns into a result: a length, 0 where there is none.
fn check(call: impl FnOnce(*mut sys::hostmem_error) -> c_int) -> Result<usize> {
    let mut raw = error::empty_raw();
    let returned = call(&mut raw);
    usize::try_from(returned).map_err(|_| Error::from_raw(&raw))
}

/// Runs a C call that makes an object.
fn make<T>(call: impl FnOnce(*mut *mut T, *mut sys::hostmem_error) -> c_int) -> Result<NonNull<T>> {
    let mut object = ptr::null_mut();
    check(|err| call(&mut object, err))?;
    NonNull::new(object).ok_or_else(|| Error::new(ErrorKind::NoMemory, "no object was made"))
}

/// Runs a C call that writes text to a buffer of a size, again where the text was cut.
fn read_bytes(
    call: impl Fn(*mut c_char, usize, *mut sys::hostmem_error) -> c_int,
) -> Result<Vec<u8>> {
    let mut buffer = vec![0u8; 256];
    loop {
        let length = check(|err| call(buffer.as_mut_ptr().cast(), buffer.len(), err))?;
        if length < buffer.len() {
            buffer.truncate(length);
            return Ok(buffer);
        }
        buffer.resize(length + 1, 0);
    }
}

/// As `read_bytes`, for text; what is not UTF-8 in it, as a path may have, is replaced.
fn read_text(
    call: impl Fn(*mut c_char, usize, *mut sys::hostmem_error) -> c_int,
) -> Result<String> {
    let bytes = read_bytes(call)?;
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// Text for C, which ends at the first NUL.
pub(crate) fn to_c(text: impl AsRef<[u8]>) -> Result<CString> {
    let text = text.as_ref();
    CString::new(text).map_err(|_| {
        let text = String::from_utf8_lossy(text);
        Error::new(
            ErrorKind::Value,
            format!("{text:?}: text with a NUL byte inside"),
        )
    })
}

/// # Safety
///
/// NULL, or text ended by NUL that lives and does not change for `'a`.
unsafe fn from_c<'a>(text: *const c_char) -> &'a str {
    if text.is_null() {
        return "";
    }
    // SAFETY: not NULL; the rest is the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().unwrap_or_default()
}

/// # Safety
///
/// NULL, or an array ended by NULL of texts, all of which live and do not change for `'a`.
unsafe fn list_from_c<'a>(texts: *const *const c_char) -> Option<Vec<&'a str>> {
    if texts.is_null() {
        return None;
    }
    let at = |index| {
        // SAFETY: the array is read up to its NULL and no further.
        unsafe { *texts.add(index) }
    };
    let texts = (0..).map(at).take_while(|text| !text.is_null());
    // SAFETY: each is a text that lives for 'a by the caller's promise.
    Some(texts.map(|text| unsafe { from_c(text) }).collect())
}

/// The row of the property table at an index.
pub(crate) fn property(index: usize) -> Option<Property> {
    // SAFETY: takes any index.
    let row = unsafe { sys::hostmem_property_get(index) };
    // SAFETY: NULL, or a row of a constant table.
    let row: &'static sys::hostmem_property = unsafe { row.as_ref() }?;
    // SAFETY: constant strings live as long as the library, which is linked into the program.
    let text = |text| unsafe { from_c::<'static>(text) };
    // SAFETY: likewise, and the lists end in NULL.
    let list = |texts| unsafe { list_from_c::<'static>(texts) };
    Some(Property {
        name: text(row.name),
        value_type: PropertyType::from_raw(row.type_),
        settable: Settable::from_raw(row.settable),
        default_text: text(row.default_text),
        choices: list(row.choices).unwrap_or_default(),
        kinds: list(row.kinds),
        description: text(row.description),
        write_only: row.write_only,
    })
}

/// Owns a host record.
#[derive(Debug)]
pub(crate) struct HostHandle(NonNull<sys::hostmem_host>);

// SAFETY: the record belongs to no thread: nothing in it refers to the one that made it.
unsafe impl Send for HostHandle {}
// SAFETY: what takes &self only reads the record; narrowing it takes &mut self.
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
        let mut info = sys::hostmem_host_info {
            page_size: 0,
            thp_size: 0,
            memlock_limit: 0,
            file_limit: 0,
            overcommit: 0,
            numa: false,
            kernel: [0; 65],
            thp: [0; 16],
            thp_shmem: [0; 16],
            merging: [0; 16],
        };
        // SAFETY: the record is ours and alive; the variable outlives the call.
        unsafe { sys::hostmem_host_get_info(self.0.as_ptr(), &mut info) };
        info
    }

    pub(crate) fn feature(&self, index: usize) -> Option<sys::hostmem_feature> {
        let mut feature = sys::hostmem_feature {
            name: [0; 32],
            os_error: 0,
            reason: [0; sys::HOSTMEM_REASON_SIZE as usize],
        };
        // SAFETY: the record is ours and alive; takes any index; the variable outlives the call.
        let result = unsafe { sys::hostmem_host_get_feature(self.0.as_ptr(), index, &mut feature) };
        (result == 0).then_some(feature)
    }

    pub(crate) fn narrow_methods(&mut self, methods: u32) {
        // SAFETY: the record is ours and alive, and &mut self keeps readers out.
        unsafe { sys::hostmem_host_narrow_methods(self.0.as_ptr(), methods) }
    }
}

impl Drop for HostHandle {
    fn drop(&mut self) {
        // SAFETY: made by hostmem_host_probe(), freed once; objects keep their own copy.
        unsafe { sys::hostmem_host_free(self.0.as_ptr()) }
    }
}

/// Owns a topology, which never changes.
pub(crate) struct TopologyHandle(NonNull<sys::hostmem_topology>);

impl TopologyHandle {
    pub(crate) fn read() -> Result<Self> {
        // SAFETY: both pointers are of variables that outlive the call.
        make(|topology, err| unsafe { sys::hostmem_topology_read(topology, err) }).map(Self)
    }

    pub(crate) fn node(&self, index: usize) -> Option<&sys::hostmem_node> {
        // SAFETY: the topology is ours and alive; takes any index.
        let node = unsafe { sys::hostmem_topology_get_node(self.0.as_ptr(), index) };
        // SAFETY: NULL, or a record that lives as long as the topology.
        unsafe { node.as_ref() }
    }

    pub(crate) fn distance(&self, from: usize, to: usize) -> u32 {
        // SAFETY: the topology is ours and alive; takes any index.
        unsafe { sys::hostmem_topology_get_distance(self.0.as_ptr(), from, to) }
    }

    /// Of a node, by its index, or those of the process.
    pub(crate) fn cpus(&self, node: Option<usize>) -> Vec<u32> {
        let index = node.unwrap_or(usize::MAX);
        // SAFETY: the topology is ours and alive; no length, so nothing is written.
        let len =
            unsafe { sys::hostmem_topology_get_cpus(self.0.as_ptr(), index, ptr::null_mut(), 0) };
        let mut cpus = vec![0; len];
        // SAFETY: likewise; the array has that length.
        unsafe {
            sys::hostmem_topology_get_cpus(self.0.as_ptr(), index, cpus.as_mut_ptr(), cpus.len())
        };
        cpus
    }

    /// Of a node, by its index, or those of the host.
    pub(crate) fn huge_pages(
        &self,
        node: Option<usize>,
        index: usize,
    ) -> Option<&sys::hostmem_huge_pages> {
        let node = node.unwrap_or(usize::MAX);
        // SAFETY: the topology is ours and alive; takes any indices.
        let pages = unsafe { sys::hostmem_topology_get_huge_pages(self.0.as_ptr(), node, index) };
        // SAFETY: NULL, or a record that lives as long as the topology.
        unsafe { pages.as_ref() }
    }
}

impl Drop for TopologyHandle {
    fn drop(&mut self) {
        // SAFETY: made by hostmem_topology_read(), freed once.
        unsafe { sys::hostmem_topology_free(self.0.as_ptr()) }
    }
}

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

/// The kind that an option string names.
pub(crate) fn kind_of_options(options: &OsStr) -> Result<String> {
    let options = to_c(options.as_bytes())?;
    // SAFETY: the buffer has that size; the text outlives the call.
    read_text(|buffer, size, err| unsafe {
        sys::hostmem_options_get_kind(options.as_ptr(), buffer, size, err)
    })
}

/// Owns a thread-context.
#[derive(Debug)]
pub(crate) struct ThreadContextHandle(NonNull<sys::hostmem_thread_context>);

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

impl Drop for ObjectsHandle {
    fn drop(&mut self) {
        // SAFETY: made by hostmem_objects_new(), given up once; backends keep the set alive.
        unsafe { sys::hostmem_objects_free(self.0.as_ptr()) }
    }
}

/// The data of a registered kind.
struct RegisteredKind {
    name: CString,
    description: CString,
    record: KindRecord,
}

/// What a kind's function returns to C: 0, or -1 with the error written.
///
/// # Safety
///
/// `err` is NULL or to be written.
unsafe fn answer(result: Result<()>, err: *mut sys::hostmem_error) -> c_int {
    let Err(error) = result else {
        return 0;
    };
    if !err.is_null() {
        // SAFETY: not NULL, so the caller's variable.
        unsafe { err.write(error.to_raw()) };
    }
    -1
}

/// # Safety
///
/// As `check` of `struct hostmem_kind`: `data` is a `RegisteredKind`, `backend` a live backend that
/// is completing, `err` NULL or to be written.
unsafe extern "C" fn check_kind(
    data: *mut c_void,
    backend: *const sys::hostmem_backend,
    err: *mut sys::hostmem_error,
) -> c_int {
    // SAFETY: what was registered, alive until free_data and only ever shared.
    let kind = unsafe { &*data.cast::<RegisteredKind>() };
    // SAFETY: alive for the call, as the caller borrows it.
    let view = unsafe { BackendView::from_raw(backend) };
    // SAFETY: the caller's promise.
    unsafe { answer(kind.record.check(view), err) }
}

/// # Safety
///
/// As `allocate` of `struct hostmem_kind`: `data` is a `RegisteredKind`, `backend` a live backend
/// that is completing, `backing` to be written, `err` NULL or to be written.
unsafe extern "C" fn allocate(
    data: *mut c_void,
    backend: *const sys::hostmem_backend,
    backing: *mut sys::hostmem_backing,
    err: *mut sys::hostmem_error,
) -> c_int {
    // SAFETY: what was registered, alive until free_data and only ever shared.
    let kind = unsafe { &*data.cast::<RegisteredKind>() };
    // SAFETY: alive for the call, as the caller borrows it.
    let view = unsafe { BackendView::from_raw(backend) };
    let made = kind.record.allocate(view).map(|made| {
        // SAFETY: the caller's variable.
        unsafe { backing.write(made.into_raw()) };
    });
    // SAFETY: the caller's promise.
    unsafe { answer(made, err) }
}

/// # Safety
///
/// As `undo` of `struct hostmem_kind`: `data` is a `RegisteredKind`, `backend` a live backend,
/// `backing` what `allocate` wrote, its descriptor open.
unsafe extern "C" fn undo(
    data: *mut c_void,
    backend: *const sys::hostmem_backend,
    backing: *const sys::hostmem_backing,
) {
    // SAFETY: what was registered, alive until free_data and only ever shared.
    let kind = unsafe { &*data.cast::<RegisteredKind>() };
    // SAFETY: alive for the call, as the caller borrows it.
    let view = unsafe { BackendView::from_raw(backend) };
    // SAFETY: likewise.
    let backing = unsafe { &*backing };
    // SAFETY: the library owns the descriptor and closes it after the call.
    let fd = (backing.fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(backing.fd) });
    kind.record.undo(view, &Undo::new(fd, backing.made));
}

/// # Safety
///
/// As `free_data` of `struct hostmem_kind`: `data` is a `RegisteredKind`, used by nobody any more.
unsafe extern "C" fn free_data(data: *mut c_void) {
    // SAFETY: made by Box::into_raw() when registering, given back once.
    let kind = unsafe { Box::from_raw(data.cast::<RegisteredKind>()) };
    let _: Result<(), String> = error::catch_panic(|| drop(kind));
}

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
    unsafe fn from_raw(raw: *const sys::hostmem_backend) -> Self {
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

    fn memory(self) -> Result<sys::hostmem_memory> {
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

/// Owns a backend. Shared by everything that keeps it alive; the last owner frees it.
pub(crate) struct BackendHandle {
    raw: NonNull<sys::hostmem_backend>,
    /// C holds a pointer to it; a callback that is running holds it too.
    progress: Arc<ProgressSlot>,
    /// Likewise.
    done: Arc<DoneSlot>,
}

// SAFETY: a backend belongs to no thread, every function on it may be called from any, and what it
// calls back, the callbacks of a preallocation and the kind, is Send.
unsafe impl Send for BackendHandle {}
// SAFETY: as for Send; calls on one backend are serialised inside, the slots have their locks
// and kinds are Sync. Freeing, which needs the object for itself, is in Drop.
unsafe impl Sync for BackendHandle {}

impl BackendHandle {
    fn new(raw: NonNull<sys::hostmem_backend>) -> Arc<Self> {
        Arc::new(Self {
            raw,
            progress: Arc::default(),
            done: Arc::default(),
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
    pub(crate) fn set_progress(self: &Arc<Self>, callback: Box<dyn FnMut(u64, u64) + Send>) {
        self.progress.set(callback);
        let slot = Arc::as_ptr(&self.progress).cast_mut().cast();
        // SAFETY: the backend is alive. The slot is inside an Arc that the handle holds until it
        // has freed the backend; C only hands the pointer back.
        unsafe { sys::hostmem_backend_set_progress(self.raw.as_ptr(), Some(report_progress), slot) }
    }

    /// Sets what is told the end of a preallocation in the background. To be called before
    /// completing.
    pub(crate) fn set_prealloc_done(&self, callback: Box<dyn FnOnce(Result<()>) + Send>) {
        self.done.set(callback);
        let slot = Arc::as_ptr(&self.done).cast_mut().cast();
        // SAFETY: the backend is alive. The slot is inside an Arc that the handle holds until it
        // has freed the backend; C only hands the pointer back.
        unsafe {
            sys::hostmem_backend_set_prealloc_done(self.raw.as_ptr(), Some(report_done), slot)
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
            cause: sys::hostmem_stay(0),
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
/// `data` is the done slot of a handle whose backend is calling, `error` NULL or a written one.
unsafe extern "C" fn report_done(data: *mut c_void, error: *const sys::hostmem_error) {
    let slot: *const DoneSlot = data.cast();
    // SAFETY: alive as the call begins, since the handle frees its backend before the slot goes.
    unsafe { Arc::increment_strong_count(slot) };
    // SAFETY: the count just taken. With it the slot outlives its callback, which may drop the
    // last handle.
    let slot = unsafe { Arc::from_raw(slot) };
    // SAFETY: NULL, or written and alive for the call.
    let error = unsafe { error.as_ref() }.map(Error::from_raw);
    slot.report(error.map_or(Ok(()), Err));
}

/// # Safety
///
/// `data` is the progress slot of a handle whose backend is calling.
unsafe extern "C" fn report_progress(data: *mut c_void, done: u64, total: u64) {
    let slot: *const ProgressSlot = data.cast();
    // SAFETY: alive as the call begins, since the handle frees its backend before the slot goes.
    unsafe { Arc::increment_strong_count(slot) };
    // SAFETY: the count just taken. With it the slot outlives its callback, which may drop the
    // last handle.
    let slot = unsafe { Arc::from_raw(slot) };
    slot.report(done, total);
}

/// A backend that was claimed: released when dropped.
struct Claimed(Arc<BackendHandle>);

impl Drop for Claimed {
    fn drop(&mut self) {
        // SAFETY: the backend is alive, as the Arc is only given up after this.
        let released =
            check(|err| unsafe { sys::hostmem_backend_release(self.0.raw.as_ptr(), err) });
        debug_assert!(released.is_ok(), "{released:?}");
    }
}

/// Owns the claim on a backend, and so its memory.
pub(crate) struct ClaimHandle {
    claimed: Claimed,
    /// What C says of the memory, which does not change while it is claimed.
    memory: sys::hostmem_memory,
}

// SAFETY: the address in the record is of the process, not of a thread, and nothing here reads or
// writes through it.
unsafe impl Send for ClaimHandle {}
// SAFETY: as for Send; the record never changes.
unsafe impl Sync for ClaimHandle {}

impl ClaimHandle {
    pub(crate) fn backend(&self) -> &BackendHandle {
        &self.claimed.0
    }

    pub(crate) fn memory(&self) -> &sys::hostmem_memory {
        &self.memory
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the backend owns the descriptor and keeps it open until it is deleted, which it
        // refuses while claimed, so for as long as self is borrowed.
        (self.memory.fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(self.memory.fd) })
    }
}

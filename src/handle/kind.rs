// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kinds in Rust, as C calls them.

use std::ffi::c_int;
use std::ffi::c_void;
use std::ffi::CString;
use std::os::fd::BorrowedFd;

use super::view::BackendView;
use crate::error::catch_panic;
use crate::error::Result;
use crate::sys;

/// The functions of a kind. They do not panic.
pub(crate) trait KindFunctions: Send + Sync {
    fn check(&self, backend: BackendView<'_>) -> Result<()>;
    /// C owns the descriptor in the record from then on.
    fn allocate(&self, backend: BackendView<'_>) -> Result<sys::hostmem_backing>;
    fn undo(&self, backend: BackendView<'_>, fd: Option<BorrowedFd<'_>>, made: u32);
}

/// The data of a registered kind.
pub(super) struct RegisteredKind {
    pub(super) name: CString,
    pub(super) description: CString,
    pub(super) functions: Box<dyn KindFunctions>,
}

/// What a kind's function returns to C: 0, or -1 with the error written.
///
/// # Safety
///
/// `err` is NULL or may be written.
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
/// `data` is a `RegisteredKind`, and `backend` a backend that is alive for `'a`.
unsafe fn arguments<'a>(
    data: *mut c_void,
    backend: *const sys::hostmem_backend,
) -> (&'a dyn KindFunctions, BackendView<'a>) {
    // SAFETY: what was registered, alive until free_data and only ever shared.
    let kind = unsafe { &*data.cast::<RegisteredKind>() };
    // SAFETY: the caller's promise.
    (&*kind.functions, unsafe { BackendView::from_raw(backend) })
}

/// # Safety
///
/// As `check` of `struct hostmem_kind`: `data` is a `RegisteredKind`, `backend` a live backend that
/// is completing, `err` NULL or may be written.
pub(super) unsafe extern "C" fn check_kind(
    data: *mut c_void,
    backend: *const sys::hostmem_backend,
    err: *mut sys::hostmem_error,
) -> c_int {
    // SAFETY: alive for the call by the caller's promise.
    let (kind, view) = unsafe { arguments(data, backend) };
    // SAFETY: the caller's promise.
    unsafe { answer(kind.check(view), err) }
}

/// # Safety
///
/// As `allocate` of `struct hostmem_kind`: `data` is a `RegisteredKind`, `backend` a live backend
/// that is completing, `backing` may be written, `err` is NULL or may be written.
pub(super) unsafe extern "C" fn allocate(
    data: *mut c_void,
    backend: *const sys::hostmem_backend,
    backing: *mut sys::hostmem_backing,
    err: *mut sys::hostmem_error,
) -> c_int {
    // SAFETY: alive for the call by the caller's promise.
    let (kind, view) = unsafe { arguments(data, backend) };
    let made = kind.allocate(view).map(|made| {
        // SAFETY: the caller's variable.
        unsafe { backing.write(made) };
    });
    // SAFETY: the caller's promise.
    unsafe { answer(made, err) }
}

/// # Safety
///
/// As `undo` of `struct hostmem_kind`: `data` is a `RegisteredKind`, `backend` a live backend,
/// `backing` what `allocate` wrote, its descriptor open.
pub(super) unsafe extern "C" fn undo(
    data: *mut c_void,
    backend: *const sys::hostmem_backend,
    backing: *const sys::hostmem_backing,
    _err: *mut sys::hostmem_error,
) {
    // SAFETY: alive for the call by the caller's promise.
    let (kind, view) = unsafe { arguments(data, backend) };
    // SAFETY: likewise.
    let backing = unsafe { &*backing };
    // SAFETY: the library owns the descriptor and closes it after the call.
    let fd = (backing.fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(backing.fd) });
    kind.undo(view, fd, backing.made);
}

/// # Safety
///
/// As `free_data` of `struct hostmem_kind`: `data` is a `RegisteredKind` that is no longer used.
pub(super) unsafe extern "C" fn free_data(data: *mut c_void) {
    // SAFETY: made by Box::into_raw() when registering, given back once.
    let kind = unsafe { Box::from_raw(data.cast::<RegisteredKind>()) };
    let _: Result<(), String> = catch_panic(|| drop(kind));
}

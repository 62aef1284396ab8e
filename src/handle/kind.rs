// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What C calls of a kind in Rust.

use std::ffi::c_int;
use std::ffi::c_void;
use std::ffi::CString;
use std::os::fd::BorrowedFd;

use super::view::BackendView;
use crate::error;
use crate::error::Result;
use crate::kind::KindRecord;
use crate::kind::Undo;
use crate::sys;

/// The data of a registered kind.
pub(super) struct RegisteredKind {
    pub(super) name: CString,
    pub(super) description: CString,
    pub(super) record: KindRecord,
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
pub(super) unsafe extern "C" fn check_kind(
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
pub(super) unsafe extern "C" fn allocate(
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
pub(super) unsafe extern "C" fn undo(
    data: *mut c_void,
    backend: *const sys::hostmem_backend,
    backing: *const sys::hostmem_backing,
    _err: *mut sys::hostmem_error,
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
pub(super) unsafe extern "C" fn free_data(data: *mut c_void) {
    // SAFETY: made by Box::into_raw() when registering, given back once.
    let kind = unsafe { Box::from_raw(data.cast::<RegisteredKind>()) };
    let _: Result<(), String> = error::catch_panic(|| drop(kind));
}

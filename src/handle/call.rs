// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! C calls: their results, and text in both directions.

use std::ffi::c_char;
use std::ffi::c_int;
use std::ffi::CStr;
use std::ffi::CString;
use std::ptr;
use std::ptr::NonNull;

use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::sys;

/// Runs one C call that returns a length, and turns its result into ours.
pub(super) fn length(call: impl FnOnce(*mut sys::hostmem_error) -> c_int) -> Result<usize> {
    let mut raw = sys::hostmem_error::default();
    let returned = call(&mut raw);
    usize::try_from(returned).map_err(|_| Error::from_raw(&raw))
}

/// Runs one C call that returns 0, and turns its result into ours.
pub(super) fn check(call: impl FnOnce(*mut sys::hostmem_error) -> c_int) -> Result<()> {
    length(call).map(|_| ())
}

/// Runs a C call that makes an object.
pub(super) fn make<T>(
    call: impl FnOnce(*mut *mut T, *mut sys::hostmem_error) -> c_int,
) -> Result<NonNull<T>> {
    let mut object = ptr::null_mut();
    check(|err| call(&mut object, err))?;
    NonNull::new(object).ok_or_else(|| Error::new(ErrorKind::NoMemory, "no object was made"))
}

/// Runs a C call that writes text to a buffer of a size, with a larger buffer if the text was cut.
pub(super) fn read_bytes(
    call: impl Fn(*mut c_char, usize, *mut sys::hostmem_error) -> c_int,
) -> Result<Vec<u8>> {
    let mut buffer = vec![0u8; 256];
    loop {
        let length = length(|err| call(buffer.as_mut_ptr().cast(), buffer.len(), err))?;
        if length < buffer.len() {
            buffer.truncate(length);
            return Ok(buffer);
        }
        buffer.resize(length + 1, 0);
    }
}

/// As `read_bytes`, for text. Bytes that are not UTF-8, as in a path, are replaced.
pub(super) fn read_text(
    call: impl Fn(*mut c_char, usize, *mut sys::hostmem_error) -> c_int,
) -> Result<String> {
    read_bytes(call).map(to_text)
}

pub(super) fn to_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
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
pub(super) unsafe fn from_c<'a>(text: *const c_char) -> &'a str {
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
pub(super) unsafe fn list_from_c<'a>(texts: *const *const c_char) -> Option<Vec<&'a str>> {
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

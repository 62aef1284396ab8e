// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The property table, and reading and setting one property.

use std::ffi::c_char;
use std::ffi::c_int;

use super::call::check;
use super::call::from_c;
use super::call::length;
use super::call::list_from_c;
use super::call::read_bytes;
use super::call::to_c;
use crate::error::Result;
use crate::sys;

/// A row of the property table. All of it is constant.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PropertyRow {
    pub(crate) name: &'static str,
    pub(crate) value_type: sys::hostmem_type,
    pub(crate) settable: sys::hostmem_settable,
    pub(crate) default_text: &'static str,
    pub(crate) choices: Vec<&'static str>,
    pub(crate) kinds: Option<Vec<&'static str>>,
    pub(crate) description: &'static str,
    pub(crate) write_only: bool,
}

/// The row of the property table at an index.
pub(crate) fn property(index: usize) -> Option<PropertyRow> {
    // SAFETY: takes any index.
    let row = unsafe { sys::hostmem_property_get(index) };
    // SAFETY: NULL, or a row of a constant table.
    let row: &'static sys::hostmem_property = unsafe { row.as_ref() }?;
    // SAFETY: constant strings live as long as the library, which is linked into the program.
    let text = |text| unsafe { from_c::<'static>(text) };
    // SAFETY: likewise, and the lists end in NULL.
    let list = |texts| unsafe { list_from_c::<'static>(texts) };
    Some(PropertyRow {
        name: text(row.name),
        value_type: row.type_,
        settable: row.settable,
        default_text: text(row.default_text),
        choices: list(row.choices).unwrap_or_default(),
        kinds: list(row.kinds),
        description: text(row.description),
        write_only: row.write_only,
    })
}

/// A C function that writes a property's value, or as much of its text as fits.
type Getter<T, V> =
    unsafe extern "C" fn(*const T, *const c_char, *mut V, *mut sys::hostmem_error) -> c_int;
/// A C function that writes a property's text or list to a buffer of a length.
type BufferGetter<T, V> =
    unsafe extern "C" fn(*const T, *const c_char, *mut V, usize, *mut sys::hostmem_error) -> c_int;
/// A C function that sets a property.
type Setter<T, V> =
    unsafe extern "C" fn(*mut T, *const c_char, V, *mut sys::hostmem_error) -> c_int;

/// # Safety
///
/// `object` is alive and `call` a function of the library on objects of its type.
pub(super) unsafe fn get<T, V>(
    call: Getter<T, V>,
    object: *const T,
    property: &str,
    mut value: V,
) -> Result<V> {
    let property = to_c(property)?;
    // SAFETY: the caller's promise; the text and the variable outlive the call.
    check(|err| unsafe { call(object, property.as_ptr(), &mut value, err) })?;
    Ok(value)
}

/// # Safety
///
/// As for `get`.
pub(super) unsafe fn get_bytes<T>(
    call: BufferGetter<T, c_char>,
    object: *const T,
    property: &str,
) -> Result<Vec<u8>> {
    let property = to_c(property)?;
    // SAFETY: the caller's promise; the buffer has that size; the text outlives the call.
    read_bytes(|buffer, size, err| unsafe { call(object, property.as_ptr(), buffer, size, err) })
}

/// At most `max` ids.
///
/// # Safety
///
/// As for `get`.
pub(super) unsafe fn get_list<T>(
    call: BufferGetter<T, u32>,
    object: *const T,
    property: &str,
    max: u32,
) -> Result<Vec<u32>> {
    let (property, mut values) = (to_c(property)?, vec![0; max as usize]);
    let (array, size) = (values.as_mut_ptr(), values.len());
    // SAFETY: the caller's promise; the array has that length; the text outlives the call.
    let len = length(|err| unsafe { call(object, property.as_ptr(), array, size, err) })?;
    values.truncate(len);
    Ok(values)
}

/// # Safety
///
/// As for `get`. A value that is a pointer is to a text that outlives the call.
pub(super) unsafe fn set<T, V>(
    call: Setter<T, V>,
    object: *mut T,
    property: &str,
    value: V,
) -> Result<()> {
    let property = to_c(property)?;
    // SAFETY: the caller's promise; the text outlives the call.
    check(|err| unsafe { call(object, property.as_ptr(), value, err) })
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rows of the property table.

use super::call::from_c;
use super::call::list_from_c;
use crate::property::Property;
use crate::property::PropertyType;
use crate::property::Settable;
use crate::sys;

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

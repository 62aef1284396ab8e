// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The property table.

use std::ffi::CStr;
use std::fmt;

use crate::handle;
use crate::handle::PropertyRow;
use crate::sys;

/// One row of the property table: the name, type and meaning of a property.
#[doc(alias = "hostmem_property")]
#[derive(Clone, PartialEq, Eq)]
pub struct Property {
    row: PropertyRow,
}

impl Property {
    /// The name, as in an option string.
    pub fn name(&self) -> &'static str {
        self.row.name
    }

    /// The type of its value.
    pub fn value_type(&self) -> PropertyType {
        PropertyType::from_raw(self.row.value_type)
    }

    /// In which states it can be set.
    pub fn settable(&self) -> Settable {
        Settable::from_raw(self.row.settable)
    }

    /// The default value as text, or a description of it if it depends on host, kind or
    /// [`Defaults`](crate::Defaults). Empty if there is none.
    pub fn default_text(&self) -> &'static str {
        self.row.default_text
    }

    /// The choices of a [`PropertyType::Enum`], or of a [`PropertyType::Bool`] that has more than
    /// `on` and `off`; empty for other types.
    pub fn choices(&self) -> &[&'static str] {
        &self.row.choices
    }

    /// The kinds that have it; `None`: all kinds of backends.
    pub fn kinds(&self) -> Option<&[&'static str]> {
        self.row.kinds.as_deref()
    }

    /// Whether objects of a kind have it.
    pub fn is_of(&self, kind: &str) -> bool {
        match &self.row.kinds {
            Some(kinds) => kinds.contains(&kind),
            None => kind != THREAD_CONTEXT,
        }
    }

    /// One sentence for people.
    pub fn description(&self) -> &'static str {
        self.row.description
    }

    /// Whether it can be set but not read.
    pub fn is_write_only(&self) -> bool {
        self.row.write_only
    }
}

impl fmt::Debug for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Property")
            .field("name", &self.name())
            .field("value_type", &self.value_type())
            .field("settable", &self.settable())
            .finish_non_exhaustive()
    }
}

/// The kind name of a [`ThreadContext`](crate::ThreadContext).
#[doc(alias = "HOSTMEM_THREAD_CONTEXT")]
pub const THREAD_CONTEXT: &str = match CStr::from_bytes_with_nul(sys::HOSTMEM_THREAD_CONTEXT) {
    Ok(name) => match name.to_str() {
        Ok(name) => name,
        Err(_) => panic!("HOSTMEM_THREAD_CONTEXT is ASCII"),
    },
    Err(_) => panic!("HOSTMEM_THREAD_CONTEXT ends in NUL"),
};

/// The rows of the property table, in alphabetical order.
#[doc(alias = "hostmem_property_get")]
pub fn properties() -> impl Iterator<Item = Property> {
    (0..)
        .map_while(handle::property)
        .map(|row| Property { row })
}

pub(crate) fn find(name: &str) -> Option<Property> {
    properties().find(|property| property.name() == name)
}

/// The type of a property's value, and its form as text.
#[doc(alias = "hostmem_type")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PropertyType {
    /// `on`, `yes`, `true`, `y`; `off`, `no`, `false`, `n`; or one of the
    /// [choices](Property::choices), if there are any.
    Bool,
    /// A number of bytes: decimal or a fraction, then optionally one of `B K M G T P E` (powers of
    /// 1024) in either case; or 0x hex.
    Size,
    /// A number: decimal or 0x hex.
    Uint32,
    /// One of the [choices](Property::choices).
    Enum,
    /// A set of NUMA nodes: ids and ranges, `0-1,3`.
    Nodes,
    /// One NUMA node id, or `none`.
    Node,
    /// The id of another object; empty: none.
    Link,
    /// The path of a file or a directory: at most 4095 bytes of any encoding, without NUL; empty:
    /// none.
    Path,
    /// The number of an open descriptor of this process, or `none`. Setting it duplicates the
    /// descriptor; reading it returns the number of the duplicate.
    Fd,
    /// A set of CPUs: ids and ranges, `0-1,3`.
    Cpus,
}

impl PropertyType {
    pub(crate) fn from_raw(raw: sys::hostmem_type) -> Self {
        match raw {
            sys::hostmem_type::HOSTMEM_TYPE_BOOL => Self::Bool,
            sys::hostmem_type::HOSTMEM_TYPE_SIZE => Self::Size,
            sys::hostmem_type::HOSTMEM_TYPE_UINT32 => Self::Uint32,
            sys::hostmem_type::HOSTMEM_TYPE_ENUM => Self::Enum,
            sys::hostmem_type::HOSTMEM_TYPE_NODES => Self::Nodes,
            sys::hostmem_type::HOSTMEM_TYPE_NODE => Self::Node,
            sys::hostmem_type::HOSTMEM_TYPE_PATH => Self::Path,
            sys::hostmem_type::HOSTMEM_TYPE_FD => Self::Fd,
            sys::hostmem_type::HOSTMEM_TYPE_CPUS => Self::Cpus,
            // Link, and any value without a name: every type can be read and set as text.
            _ => Self::Link,
        }
    }
}

/// In which states a property can be set. While a backend is completing, none can.
#[doc(alias = "hostmem_settable")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Settable {
    /// Only while configuring.
    Configuring,
    /// Also when ready or mapped; it takes effect at once.
    Always,
    /// Also when ready or mapped; it takes effect at the next preallocation, or when deleting.
    LaterUse,
    /// Never: it is read-only.
    Never,
}

impl Settable {
    pub(crate) fn from_raw(raw: sys::hostmem_settable) -> Self {
        match raw {
            sys::hostmem_settable::HOSTMEM_SETTABLE_ALWAYS => Self::Always,
            sys::hostmem_settable::HOSTMEM_SETTABLE_LATER_USE => Self::LaterUse,
            sys::hostmem_settable::HOSTMEM_SETTABLE_NEVER => Self::Never,
            // The most restrictive one for any value without a name.
            _ => Self::Configuring,
        }
    }
}

/// Where a property's value comes from. Later variants override earlier ones.
#[doc(alias = "hostmem_origin")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The property table or the [`Defaults`](crate::Defaults).
    Default,
    /// A compat value of the [set](crate::Objects::with_compat).
    Compat,
    /// Set on the object itself.
    User,
}

impl Origin {
    pub(crate) fn from_raw(raw: sys::hostmem_origin) -> Self {
        match raw {
            sys::hostmem_origin::HOSTMEM_ORIGIN_DEFAULT => Self::Default,
            sys::hostmem_origin::HOSTMEM_ORIGIN_COMPAT => Self::Compat,
            // Also any value without a name.
            _ => Self::User,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_alphabetical_and_complete() {
        let table: Vec<_> = properties().collect();
        let names: Vec<_> = table.iter().map(Property::name).collect();
        assert!(names.is_sorted(), "{names:?}");
        for property in &table {
            assert!(!property.description().is_empty(), "{}", property.name());
            let choices = property.choices();
            let complete = match property.value_type() {
                PropertyType::Enum => !choices.is_empty(),
                PropertyType::Bool => choices.is_empty() || choices.starts_with(&["off", "on"]),
                _ => choices.is_empty(),
            };
            assert!(complete, "{}: {choices:?}", property.name());
        }
    }

    #[test]
    fn a_property_is_of_its_kinds() {
        assert!(find("cpu-affinity").unwrap().is_of(THREAD_CONTEXT));
        assert!(!find("cpu-affinity").unwrap().is_of("memory-backend-ram"));
        assert!(find("size").unwrap().is_of("memory-backend-ram"));
        assert!(!find("size").unwrap().is_of(THREAD_CONTEXT));
        assert!(!find("seal").unwrap().is_of("memory-backend-ram"));
    }

    #[test]
    fn a_property_is_found_by_name() {
        assert_eq!(find("size").unwrap().value_type(), PropertyType::Size);
        assert_eq!(find("dump").unwrap().settable(), Settable::Always);
        assert_eq!(find("no-such"), None);
    }
}

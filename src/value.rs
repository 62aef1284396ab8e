// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Property values, typed or as text.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::handle::BackendHandle;
use crate::handle::BackendView;
use crate::property;
use crate::property::PropertyType;
use crate::Result;

/// The value of a property. Every type can be set as text, in the form that [`PropertyType`] gives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Value {
    /// For [`PropertyType::Bool`]. One with [choices](crate::Property::choices) reads as text if it
    /// is neither on nor off.
    Bool(bool),
    /// For [`PropertyType::Size`] in bytes, [`PropertyType::Uint32`], [`PropertyType::Node`] and
    /// [`PropertyType::Fd`]. Setting a descriptor by its number has to be allowed
    /// ([`Defaults::fd_by_number`](crate::Defaults::fd_by_number));
    /// [`Builder::fd`](crate::Builder::fd) does not.
    Number(u64),
    /// For [`PropertyType::Nodes`] and [`PropertyType::Cpus`]: the whole set of ids, in any order.
    List(Vec<u32>),
    /// For every type.
    Text(String),
    /// For [`PropertyType::Path`], in any encoding.
    Path(PathBuf),
}

impl Value {
    pub(crate) fn set(&self, backend: &BackendHandle, name: &str) -> Result<()> {
        match self {
            Self::Bool(value) => backend.set_bool(name, *value),
            Self::Number(value) => backend.set_number(name, *value),
            Self::List(values) => backend.set_list(name, values),
            Self::Text(text) => backend.set_text(name, text),
            Self::Path(path) => backend.set_text(name, path.as_os_str().as_bytes()),
        }
    }

    /// Reads the value in the form of the property's type, or as text if no other form fits.
    pub(crate) fn get(backend: BackendView<'_>, name: &str) -> Result<Self> {
        let property = property::find(name);
        match property.as_ref().map(|property| property.value_type()) {
            Some(PropertyType::Bool) if has_choices(&property) => {
                Ok(match backend.get_text(name)?.as_str() {
                    "on" => Self::Bool(true),
                    "off" => Self::Bool(false),
                    other => other.into(),
                })
            }
            Some(PropertyType::Bool) => backend.get_bool(name).map(Self::Bool),
            Some(PropertyType::Size | PropertyType::Uint32) => {
                backend.get_number(name).map(Self::Number)
            }
            Some(PropertyType::Node | PropertyType::Fd) => match backend.get_number(name)? {
                u64::MAX => backend.get_text(name).map(Self::Text),
                number => Ok(Self::Number(number)),
            },
            Some(PropertyType::Nodes) => backend.get_list(name).map(Self::List),
            Some(PropertyType::Path) => backend.get_path(name).map(Self::Path),
            _ => backend.get_text(name).map(Self::Text),
        }
    }
}

fn has_choices(property: &Option<property::Property>) -> bool {
    let choices = property.as_ref().map(|property| property.choices());
    choices.is_some_and(|choices| !choices.is_empty())
}

macro_rules! value_from {
    ($($type:ty => $variant:ident,)*) => {
        $(impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value.into())
            }
        })*
    };
}

value_from! {
    bool => Bool,
    u32 => Number,
    u64 => Number,
    &[u32] => List,
    Vec<u32> => List,
    &str => Text,
    String => Text,
    &Path => Path,
    PathBuf => Path,
}

impl<const N: usize> From<[u32; N]> for Value {
    fn from(values: [u32; N]) -> Self {
        Self::List(values.into())
    }
}

/// Defines the choices of a property as an enum, each with its name in the property table.
macro_rules! choices {
    ($(#[$attribute:meta])* $choice:ident {
        $($(#[$variant_attribute:meta])* $variant:ident = $name:literal,)*
    }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $choice {
            $($(#[$variant_attribute])* $variant,)*
        }

        impl $choice {
            #[cfg(test)]
            pub(crate) const NAMES: &'static [&'static str] = &[$($name),*];

            /// The name, as in an option string.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }

        impl From<$choice> for crate::Value {
            fn from(choice: $choice) -> Self {
                choice.as_str().into()
            }
        }
    };
}

pub(crate) use choices;

choices! {
    /// Whether completing waits for preallocation; the property `prealloc-mode`.
    PreallocMode {
        /// Completing returns when the memory is populated.
        #[default]
        Wait = "wait",
        /// Completing returns at once; the memory is populated in the background and can be used
        /// meanwhile.
        Background = "background",
    }
}

choices! {
    /// Use of transparent huge pages; the property `thp`.
    Thp {
        /// Requested if the memory is large and aligned enough.
        #[default]
        Auto = "auto",
        /// Requested always.
        Always = "always",
        /// Disabled.
        Never = "never",
    }
}

choices! {
    /// Whether the kernel reserves swap space or huge pages for all of the memory when it is
    /// mapped; the property `reserve`.
    Reserve {
        /// Reserved.
        #[default]
        On = "on",
        /// Not reserved (`MAP_NORESERVE`); an error where that has no effect, and with `prealloc`.
        Off = "off",
        /// Not reserved where that has an effect; never an error. Huge pages from a pool are
        /// reserved if `prealloc` is on, which takes all of them.
        Try = "try",
    }
}

impl From<bool> for Reserve {
    fn from(on: bool) -> Self {
        if on {
            Self::On
        } else {
            Self::Off
        }
    }
}

choices! {
    /// Whether the memory is mapped read-only; the property `rom`.
    Rom {
        /// Read-only if the property `readonly` is on.
        #[default]
        Auto = "auto",
        /// Mapped read-only; needs `readonly`.
        On = "on",
        /// Mapped writable. With `readonly` and without `share` writes go to a private copy and the
        /// file is never changed.
        Off = "off",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;

    fn assert_choices(property: &str, names: &[&str]) {
        let property = property::find(property).unwrap();
        let (mut choices, mut names) = (property.choices().to_vec(), names.to_vec());
        choices.sort_unstable();
        names.sort_unstable();
        assert_eq!(choices, names);
    }

    #[test]
    fn the_names_are_the_tables() {
        assert_choices("policy", Policy::NAMES);
        assert_choices("reserve", Reserve::NAMES);
        assert_choices("rom", Rom::NAMES);
        assert_choices("prealloc-mode", PreallocMode::NAMES);
        assert_choices("thp", Thp::NAMES);
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Values of properties, typed or as text.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::handle::BackendHandle;
use crate::handle::BackendView;
use crate::property;
use crate::property::PropertyType;
use crate::Result;

/// A property's value. Text fits every type; [`PropertyType`] says in which form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Value {
    /// For [`PropertyType::Bool`].
    Bool(bool),
    /// For [`PropertyType::Size`] in bytes, [`PropertyType::Uint32`], [`PropertyType::Node`] and
    /// [`PropertyType::Fd`]. [`Builder::fd`](crate::Builder::fd) takes a descriptor that is sure to
    /// be open; a bare number is for one that the process was started with.
    Number(u64),
    /// For [`PropertyType::Nodes`]: the whole set, in any order; empty for none.
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

    /// The value as the property's type says; as text where no other form can hold it.
    pub(crate) fn get(backend: BackendView<'_>, name: &str) -> Result<Self> {
        match property::find(name).map(|property| property.value_type()) {
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

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Number(value.into())
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Number(value)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&[u32]> for Value {
    fn from(values: &[u32]) -> Self {
        Self::List(values.into())
    }
}

impl<const N: usize> From<[u32; N]> for Value {
    fn from(values: [u32; N]) -> Self {
        Self::List(values.into())
    }
}

impl From<Vec<u32>> for Value {
    fn from(values: Vec<u32>) -> Self {
        Self::List(values)
    }
}

impl From<&Path> for Value {
    fn from(path: &Path) -> Self {
        Self::Path(path.into())
    }
}

impl From<PathBuf> for Value {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

/// Who waits for preallocation; the property `prealloc-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PreallocMode {
    /// Completing does.
    #[default]
    Wait,
    /// Nobody: the memory fills while it is claimed and used.
    Background,
}

impl PreallocMode {
    /// The name, as in an option string.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Background => "background",
        }
    }
}

impl From<PreallocMode> for Value {
    fn from(mode: PreallocMode) -> Self {
        mode.as_str().into()
    }
}

/// Whether transparent huge pages back the memory; the property `thp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Thp {
    /// Asked for where the memory is big and aligned enough.
    #[default]
    Auto,
    /// Asked for.
    Always,
    /// Forbidden.
    Never,
}

impl Thp {
    /// The name, as in an option string.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

impl From<Thp> for Value {
    fn from(thp: Thp) -> Self {
        thp.as_str().into()
    }
}

/// Whether memory can only be read; the property `rom`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rom {
    /// As the property `readonly` says.
    #[default]
    Auto,
    /// Mapped for reading only; needs `readonly`.
    On,
    /// Mapped for writing too. With `readonly` and without `share` that is a template: writes go to
    /// a private copy and the file is never changed.
    Off,
}

impl Rom {
    /// The name, as in an option string.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

impl From<Rom> for Value {
    fn from(rom: Rom) -> Self {
        rom.as_str().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;

    fn choices(name: &str) -> Vec<&'static str> {
        property::find(name).unwrap().choices().to_vec()
    }

    #[test]
    fn the_names_are_the_tables() {
        let mut policies = [
            Policy::Default,
            Policy::Preferred,
            Policy::Bind,
            Policy::Interleave,
            Policy::PreferredMany,
            Policy::WeightedInterleave,
            Policy::Local,
        ]
        .map(Policy::as_str);
        let mut expected = choices("policy");
        policies.sort_unstable();
        expected.sort_unstable();
        assert_eq!(expected, policies);

        let mut rom = [Rom::Auto, Rom::On, Rom::Off].map(Rom::as_str);
        let mut expected = choices("rom");
        rom.sort_unstable();
        expected.sort_unstable();
        assert_eq!(expected, rom);

        let modes = [PreallocMode::Wait, PreallocMode::Background].map(PreallocMode::as_str);
        assert_eq!(choices("prealloc-mode"), modes);

        let mut thp = [Thp::Auto, Thp::Always, Thp::Never].map(Thp::as_str);
        let mut expected = choices("thp");
        thp.sort_unstable();
        expected.sort_unstable();
        assert_eq!(expected, thp);
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Errors: a kind for programs, a message for people.

use std::error::Error as StdError;
use std::ffi::c_char;
use std::fmt;
use std::io;
use std::mem;
use std::panic::catch_unwind;
use std::panic::AssertUnwindSafe;

use crate::sys;
use crate::sys::hostmem_error_kind as RawKind;

/// The result of every function here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: its [kind](Error::kind), the [errno](Error::raw_os_error) if a system call failed, and
/// a message of one line. The message names the object, the property, the value, what was expected
/// and, if possible, what to do.
#[doc(alias = "hostmem_error")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    os_error: Option<i32>,
    message: String,
}

/// The kind of an [`Error`], for programs.
#[doc(alias = "hostmem_error_kind")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The kind of object does not have the property.
    UnknownProperty,
    /// The value is not of the property's type.
    Type,
    /// The value, or its combination with others, is not allowed.
    Value,
    /// The object is not in the state that the operation needs.
    State,
    /// The object is in use, or another operation on it is running.
    Busy,
    /// This kernel, host or build does not support it.
    Unsupported,
    /// Not enough memory, address space or huge pages.
    NoMemory,
    /// A system call failed for another reason.
    Io,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            os_error: None,
            message: message.into(),
        }
    }

    /// As `new`, for a system call that failed.
    #[cfg(feature = "kvm")]
    pub(crate) fn with_os_error(
        kind: ErrorKind,
        os_error: i32,
        message: impl Into<String>,
    ) -> Self {
        Self {
            os_error: Some(os_error),
            ..Self::new(kind, message)
        }
    }

    /// The kind of error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The errno of the system call that failed; `None` if no system call failed.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.os_error
    }

    pub(crate) fn from_raw(raw: &sys::hostmem_error) -> Self {
        Self {
            kind: ErrorKind::from_raw(raw.kind),
            os_error: (raw.os_error != 0).then_some(raw.os_error),
            message: text_from_raw(&raw.message),
        }
    }

    /// The record for C: one line, cut if it is too long.
    pub(crate) fn to_raw(&self) -> sys::hostmem_error {
        const CUT: &str = "...";
        let mut raw = sys::hostmem_error {
            kind: self.kind.to_raw(),
            os_error: self.os_error.unwrap_or(0),
            ..Default::default()
        };
        let mut line = self.message.replace(|c: char| c.is_control(), " ");
        if line.len() >= raw.message.len() {
            let mut end = raw.message.len() - 1 - CUT.len();
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            line.truncate(end);
            line.push_str(CUT);
        }
        for (to, from) in raw.message.iter_mut().zip(line.bytes()) {
            *to = from as _;
        }
        raw
    }

    /// Converts an error of a [`Kind`](crate::Kind) to ours, with the messages of all its sources.
    pub(crate) fn from_foreign(
        prefix: &str,
        error: &(dyn StdError + Send + Sync + 'static),
    ) -> Self {
        if let Some(own) = error.downcast_ref::<Self>() {
            return own.clone();
        }
        let mut message = format!("{prefix}: {error}");
        let mut os_error = None;
        let mut link: Option<&(dyn StdError + 'static)> = Some(error);
        let mut first = true;
        while let Some(error) = link {
            if !first {
                message.push_str(&format!(": {error}"));
            }
            first = false;
            os_error = os_error.or(error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::raw_os_error));
            link = error.source();
        }
        Self {
            kind: ErrorKind::Io,
            os_error,
            message,
        }
    }
}

/// Catches a panic, which must not unwind into C. Returns the panic's message.
pub(crate) fn catch_panic<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let payload = match payload.downcast::<&str>() {
            Ok(text) => return text.to_string(),
            Err(payload) => payload,
        };
        match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(payload) => {
                // Dropping it may panic again.
                mem::forget(payload);
                String::new()
            }
        }
    })
}

impl ErrorKind {
    fn from_raw(kind: RawKind) -> Self {
        match kind {
            RawKind::HOSTMEM_ERROR_UNKNOWN_PROPERTY => Self::UnknownProperty,
            RawKind::HOSTMEM_ERROR_TYPE => Self::Type,
            RawKind::HOSTMEM_ERROR_VALUE => Self::Value,
            RawKind::HOSTMEM_ERROR_STATE => Self::State,
            RawKind::HOSTMEM_ERROR_BUSY => Self::Busy,
            RawKind::HOSTMEM_ERROR_UNSUPPORTED => Self::Unsupported,
            RawKind::HOSTMEM_ERROR_NO_MEMORY => Self::NoMemory,
            // IO, and any value without a name.
            _ => Self::Io,
        }
    }

    fn to_raw(self) -> RawKind {
        match self {
            Self::UnknownProperty => RawKind::HOSTMEM_ERROR_UNKNOWN_PROPERTY,
            Self::Type => RawKind::HOSTMEM_ERROR_TYPE,
            Self::Value => RawKind::HOSTMEM_ERROR_VALUE,
            Self::State => RawKind::HOSTMEM_ERROR_STATE,
            Self::Busy => RawKind::HOSTMEM_ERROR_BUSY,
            Self::Unsupported => RawKind::HOSTMEM_ERROR_UNSUPPORTED,
            Self::NoMemory => RawKind::HOSTMEM_ERROR_NO_MEMORY,
            Self::Io => RawKind::HOSTMEM_ERROR_IO,
        }
    }
}

impl From<ErrorKind> for io::ErrorKind {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::UnknownProperty | ErrorKind::Type | ErrorKind::Value => Self::InvalidInput,
            ErrorKind::Busy => Self::ResourceBusy,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::NoMemory => Self::OutOfMemory,
            ErrorKind::State | ErrorKind::Io => Self::Other,
        }
    }
}

/// Keeps the kind, as far as `io::ErrorKind` has it, and the message. The errno can be read from
/// the [inner error](std::io::Error::get_ref).
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.kind.into(), error)
    }
}

/// Why an operation that consumes an object failed, and the unchanged object.
///
/// Both `Display` and `Debug` print the error's message, so that a `main` that returns it prints
/// the message too.
#[non_exhaustive]
pub struct Failed<T> {
    /// The object, to be used again.
    pub object: T,
    /// Why the operation failed.
    pub error: Error,
}

impl<T> Failed<T> {
    pub(crate) fn new(object: T, error: Error) -> Self {
        Self { object, error }
    }
}

impl<T> fmt::Display for Failed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<T> fmt::Debug for Failed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<T> StdError for Failed<T> {}

/// Drops the object.
impl<T> From<Failed<T>> for Error {
    fn from(failed: Failed<T>) -> Self {
        failed.error
    }
}

/// The text in an array of a C record, up to its NUL.
pub(crate) fn text_from_raw(raw: &[c_char]) -> String {
    let bytes = raw.iter().map(|&byte| byte as u8);
    let bytes: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_way_to_c_and_back() {
        let error = Error {
            kind: ErrorKind::Busy,
            os_error: Some(16),
            message: "ram0: é".into(),
        };
        assert_eq!(Error::from_raw(&error.to_raw()), error);
    }

    #[test]
    fn is_one_line_of_whole_characters_for_c() {
        let size = sys::HOSTMEM_MESSAGE_SIZE as usize;
        // The cut is between two characters, and in the middle of one.
        for begin in ["a\nb\0", "a\nb\0c"] {
            let error = Error::new(ErrorKind::Io, begin.to_owned() + &"é".repeat(size));
            let back = Error::from_raw(&error.to_raw()).to_string();
            assert!(back.starts_with("a b "), "{back}");
            assert!(back.ends_with("é..."), "{back}");
            assert!((size - 2..size).contains(&back.len()), "{}", back.len());
        }
    }

    #[test]
    fn an_unknown_kind_is_io() {
        let raw = sys::hostmem_error {
            kind: RawKind(77),
            ..Default::default()
        };
        assert_eq!(Error::from_raw(&raw).kind(), ErrorKind::Io);
    }
}

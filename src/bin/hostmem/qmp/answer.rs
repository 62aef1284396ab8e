// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Answers and errors.

use std::error::Error;

use serde_json::json;
use serde_json::Value as Json;

/// The value of `return`, or why there is none.
pub(crate) type Answer = Result<Json, QmpError>;

/// A failure: one of QMP's classes for programs, a message for people.
#[derive(Debug)]
pub(crate) struct QmpError {
    class: &'static str,
    message: String,
}

impl QmpError {
    pub(crate) fn generic(message: impl Into<String>) -> Self {
        Self {
            class: "GenericError",
            message: message.into(),
        }
    }

    pub(crate) fn no_command(message: impl Into<String>) -> Self {
        Self {
            class: "CommandNotFound",
            message: message.into(),
        }
    }

    /// Also of a path and a type that do not exist.
    pub(crate) fn no_device(message: impl Into<String>) -> Self {
        Self {
            class: "DeviceNotFound",
            message: message.into(),
        }
    }

    pub(crate) fn to_json(&self) -> Json {
        json!({ "class": self.class, "desc": self.message })
    }
}

impl From<hostmem::Error> for QmpError {
    fn from(error: hostmem::Error) -> Self {
        Self::generic(error.to_string())
    }
}

impl From<Box<dyn Error>> for QmpError {
    fn from(error: Box<dyn Error>) -> Self {
        Self::generic(error.to_string())
    }
}

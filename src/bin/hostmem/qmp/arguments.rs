// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the arguments of several commands have in common.

use serde::de::DeserializeOwned;
use serde::Deserialize;
use serde::Deserializer;
use serde_json::Value as Json;

use super::answer::QmpError;

/// Of a command that takes none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoArguments {}

/// Of a command that is about one object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Id {
    pub(crate) id: String,
}

/// An argument that may be left out, but is not null where it is there.
pub(crate) fn given<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Arguments as the command's own type. None is missing, unknown or of another type.
pub(crate) fn parse<A: DeserializeOwned>(command: &str, json: Json) -> Result<A, QmpError> {
    serde_json::from_value(json).map_err(|error| QmpError::generic(format!("{command}: {error}")))
}

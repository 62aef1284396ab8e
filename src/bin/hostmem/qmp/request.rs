// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A message read as a request.

use serde_json::Map;
use serde_json::Value as Json;

use super::answer::QmpError;
use crate::json;

pub(crate) struct Request {
    /// What the answer has to carry too.
    pub(crate) id: Option<Json>,
    /// A message that has an id may be wrong all the same.
    pub(crate) call: Result<Call, QmpError>,
}

pub(crate) struct Call {
    pub(crate) command: String,
    pub(crate) arguments: Json,
}

impl Request {
    pub(crate) fn parse(message: &[u8]) -> Self {
        match members(message) {
            Ok(mut members) => Self {
                id: members.remove("id"),
                call: Call::from_members(members),
            },
            Err(error) => Self {
                id: None,
                call: Err(error),
            },
        }
    }
}

fn members(message: &[u8]) -> Result<Map<String, Json>, QmpError> {
    match json::parse(message) {
        Ok(Json::Object(members)) => Ok(members),
        Ok(_) => Err(QmpError::generic(
            "a request is an object, such as {\"execute\": \"query-version\"}",
        )),
        Err(error) => {
            let hint = match message.contains(&b'\'') {
                true => "; strings are in double quotes",
                false => "",
            };
            Err(QmpError::generic(format!("JSON: {error}{hint}")))
        }
    }
}

impl Call {
    fn from_members(mut members: Map<String, Json>) -> Result<Self, QmpError> {
        let command = members.remove("execute");
        let arguments = members.remove("arguments");
        if let Some(name) = members.keys().next() {
            return Err(QmpError::generic(format!(
                "{name}: unknown; a request has execute, arguments and id"
            )));
        }
        let Some(Json::String(command)) = command else {
            return Err(QmpError::generic(
                "execute is missing or no string; it names the command",
            ));
        };
        match arguments.unwrap_or_else(|| Map::new().into()) {
            arguments @ Json::Object(_) => Ok(Self { command, arguments }),
            _ => Err(QmpError::generic("arguments is no object")),
        }
    }
}

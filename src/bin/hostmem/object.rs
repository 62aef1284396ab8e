// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An object as a user gives it: an option string, or JSON.

use std::ffi::OsStr;

use hostmem::properties;
use hostmem::ObjectBuilder;
use hostmem::Objects;
use hostmem::PropertyType;
use hostmem::Value;
use hostmem::THREAD_CONTEXT;
use serde_json::Map;
use serde_json::Value as Json;

use crate::json;
use crate::Result;

/// Begins the object that `text` describes.
pub(crate) fn parse(objects: &Objects, text: &OsStr) -> Result<ObjectBuilder> {
    match text.to_str() {
        Some(text) if text.trim_start().starts_with('{') => from_json(objects, text),
        _ => Ok(objects.parse_object(text)?),
    }
}

fn from_json(objects: &Objects, text: &str) -> Result<ObjectBuilder> {
    let json = json::parse(text.as_bytes()).map_err(|error| format!("JSON object: {error}"))?;
    let object = json.as_object().ok_or("JSON object: this is none")?;
    from_members(objects, object)
}

/// Begins the object that the members of a JSON object describe.
pub(crate) fn from_members(objects: &Objects, object: &Map<String, Json>) -> Result<ObjectBuilder> {
    let kind = required(object, "qom-type", "memory-backend-ram")?;
    let id = required(object, "id", "ram0")?;
    let properties = object
        .iter()
        .filter(|(name, _)| *name != "qom-type" && *name != "id");
    if kind == THREAD_CONTEXT {
        let mut builder = objects.thread_context(id)?;
        for (name, json) in properties {
            builder.set(name, value(id, name, json)?)?;
        }
        return Ok(ObjectBuilder::ThreadContext(builder));
    }
    let mut builder = objects.builder(kind, id)?;
    for (name, json) in properties {
        builder.set(name, value(id, name, json)?)?;
    }
    Ok(ObjectBuilder::Backend(builder))
}

fn required<'a>(object: &'a Map<String, Json>, key: &str, example: &str) -> Result<&'a str> {
    object.get(key).and_then(Json::as_str).ok_or_else(|| {
        format!("JSON object: {key} is missing or no string; add \"{key}\": \"{example}\"").into()
    })
}

/// The value in the one JSON form that its property has. A property that does not exist is left
/// for the library to refuse.
pub(crate) fn value(id: &str, name: &str, json: &Json) -> Result<Value> {
    let value_type = properties()
        .find(|property| property.name() == name)
        .map(|property| property.value_type());
    let (value, expected) = match value_type {
        Some(PropertyType::Bool) => (json.as_bool().map(Value::Bool), "true or false"),
        Some(PropertyType::Size) => (json.as_u64().map(Value::Number), "a number of bytes"),
        Some(PropertyType::Uint32 | PropertyType::Node) => {
            (json.as_u64().map(Value::Number), "a whole number")
        }
        Some(PropertyType::Fd) => (
            json.as_u64().map(Value::Number),
            "the number of an open descriptor",
        ),
        Some(PropertyType::Nodes) => (list(json), "an array of node ids"),
        Some(PropertyType::Cpus) => (list(json), "an array of CPU numbers"),
        Some(_) => (text(json), "a string"),
        None => (Some(Value::Text(json.to_string())), "a value"),
    };
    value.ok_or_else(|| format!("{id}: {name}: {json} is not {expected}").into())
}

fn list(json: &Json) -> Option<Value> {
    let number = |json: &Json| u32::try_from(json.as_u64()?).ok();
    let numbers: Option<Vec<_>> = json.as_array()?.iter().map(number).collect();
    numbers.map(Value::List)
}

fn text(json: &Json) -> Option<Value> {
    json.as_str().map(Value::from)
}

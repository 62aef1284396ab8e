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

/// What an option string asks to be shown, instead of an object.
pub(crate) enum Help {
    Kinds,
    PropertiesOf(String),
}

impl Help {
    /// `help`, or `KIND,help`, wherever it stands; `?` means the same, as in QEMU.
    pub(crate) fn asked_by(text: &OsStr) -> Option<Self> {
        let text = text.to_str().filter(|text| !is_json(text))?;
        let is_help = |part: &str| matches!(part, "help" | "?");
        parts(text).into_iter().find(|part| is_help(part))?;
        Some(match kind_of(OsStr::new(text)) {
            Some(kind) if !is_help(&kind) => Self::PropertiesOf(kind),
            _ => Self::Kinds,
        })
    }
}

/// The kind that a text names, as far as it can be read.
pub(crate) fn kind_of(text: &OsStr) -> Option<String> {
    let text = text.to_string_lossy();
    if is_json(&text) {
        let object = json::parse(with_double_quotes(&text).as_bytes()).ok()?;
        return object.get("qom-type")?.as_str().map(str::to_owned);
    }
    let parts = parts(&text);
    let named = parts.iter().find_map(|part| part.strip_prefix("qom-type="));
    let first = parts.first().filter(|part| !part.contains('='));
    named.or(first.copied()).map(str::to_owned)
}

fn is_json(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// The parts of an option string. Two commas are one of a value.
fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while let Some(comma) = text[at..].find(',').map(|found| at + found) {
        at = comma + 1;
        if text[at..].starts_with(',') {
            at += 1;
        } else {
            parts.push(&text[start..comma]);
            start = at;
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Begins the object that `text` describes.
pub(crate) fn parse(objects: &Objects, text: &OsStr) -> Result<ObjectBuilder> {
    match text.to_str() {
        Some(text) if is_json(text) => from_json(objects, text),
        _ => Ok(objects.parse_object(text)?),
    }
}

/// The same of the template of a pool, which has no id: it gets the name of the pool.
pub(crate) fn parse_template(objects: &Objects, text: &str, name: &str) -> Result<ObjectBuilder> {
    let no_id = || format!("{name}: a template has no id; each backend gets one when it is taken");
    if is_json(text) {
        let json = json::parse(with_double_quotes(text).as_bytes())
            .map_err(|error| format!("JSON object: {error}"))?;
        let mut object = json
            .as_object()
            .ok_or("JSON object: not an object")?
            .clone();
        if object.insert("id".into(), name.into()).is_some() {
            return Err(no_id().into());
        }
        return from_members(objects, &object);
    }
    if parts(text).iter().any(|part| part.starts_with("id=")) {
        return Err(no_id().into());
    }
    Ok(objects.parse_object(format!("{text},id={name}"))?)
}

fn from_json(objects: &Objects, text: &str) -> Result<ObjectBuilder> {
    let json = json::parse(with_double_quotes(text).as_bytes())
        .map_err(|error| format!("JSON object: {error}"))?;
    let object = json.as_object().ok_or("JSON object: not an object")?;
    from_members(objects, object)
}

/// JSON whose strings may be in single quotes, as QEMU takes it on its command line, with all of
/// them in double quotes.
fn with_double_quotes(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', Some(_)) => match characters.next() {
                Some('\'') => result.push('\''),
                escaped => {
                    result.push('\\');
                    result.extend(escaped);
                }
            },
            ('"' | '\'', None) => {
                quote = Some(character);
                result.push('"');
            }
            (_, Some(open)) if character == open => {
                quote = None;
                result.push('"');
            }
            ('"', Some(_)) => result.push_str("\\\""),
            _ => result.push(character),
        }
    }
    result
}

/// Begins the object that the members of a JSON object describe.
pub(crate) fn from_members(objects: &Objects, object: &Map<String, Json>) -> Result<ObjectBuilder> {
    let kind = required(object, "qom-type", "memory-backend-ram")?;
    let id = object.get("id").map(|_| required(object, "id", "ram0"));
    let id = id.transpose()?;
    let properties = object
        .iter()
        .filter(|(name, _)| *name != "qom-type" && *name != "id");
    if kind == THREAD_CONTEXT {
        let id = required(object, "id", "tc0")?;
        let mut builder = objects.thread_context(id)?;
        for (name, json) in properties {
            builder.set(name, value(id, name, json)?)?;
        }
        return Ok(ObjectBuilder::ThreadContext(builder));
    }
    let mut builder = match id {
        Some(id) => objects.builder(kind, id),
        None => objects.builder_anonymous(kind),
    }?;
    let id = builder.id().to_owned();
    for (name, json) in properties {
        builder.set(name, value(&id, name, json)?)?;
    }
    Ok(ObjectBuilder::Backend(builder))
}

pub(crate) fn required<'a>(
    object: &'a Map<String, Json>,
    key: &str,
    example: &str,
) -> Result<&'a str> {
    object.get(key).and_then(Json::as_str).ok_or_else(|| {
        format!("JSON object: {key} is missing or no string; add \"{key}\": \"{example}\"").into()
    })
}

/// The value in the one JSON form that its property has. A property that does not exist is left
/// for the library to refuse.
pub(crate) fn value(id: &str, name: &str, json: &Json) -> Result<Value> {
    let property = properties().find(|property| property.name() == name);
    let value_type = property.as_ref().map(|property| property.value_type());
    // A boolean's other choices; on and off are true and false.
    let choice = |text: &str| {
        let choices = property.iter().flat_map(|property| property.choices());
        !matches!(text, "on" | "off") && choices.into_iter().any(|choice| *choice == text)
    };
    let (value, expected) = match value_type {
        Some(PropertyType::Bool) if json.as_str().is_some_and(choice) => (text(json), ""),
        Some(PropertyType::Bool) => (
            json.as_bool().map(Value::Bool),
            "true or false, without quotes",
        ),
        Some(PropertyType::Size) => (
            json.as_u64().map(Value::Number),
            "a number of bytes; JSON takes no suffix: 1G is 1073741824",
        ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserve_is_a_json_boolean_or_try() {
        let of = |json: Json| value("m0", "reserve", &json).ok();
        assert_eq!(of(true.into()), Some(Value::Bool(true)));
        assert_eq!(of("try".into()), Some("try".into()));
        assert_eq!(of("on".into()), None);
        assert_eq!(value("m0", "share", &"try".into()).ok(), None);
    }

    #[test]
    fn what_json_cannot_say_is_named_with_what_to_write() {
        let refusal = |name, json: &str| value("m0", name, &json.into()).unwrap_err().to_string();
        assert_eq!(
            refusal("size", "64M"),
            r#"m0: size: "64M" is not a number of bytes; JSON takes no suffix: 1G is 1073741824"#
        );
        assert_eq!(
            refusal("share", "on"),
            r#"m0: share: "on" is not true or false, without quotes"#
        );
    }

    #[test]
    fn strings_in_single_quotes_are_json() {
        for (text, expected) in [
            ("{'a': 'b'}", r#"{"a": "b"}"#),
            (r#"{"a": "b"}"#, r#"{"a": "b"}"#),
            (r#"{"it's": 1}"#, r#"{"it's": 1}"#),
            (r#"{'"': '\"'}"#, r#"{"\"": "\""}"#),
            (r"{'it\'s': 1}", r#"{"it's": 1}"#),
            (r#"{"it\'s": "\\"}"#, r#"{"it's": "\\"}"#),
            (r"{'\u0041\n': 1}", r#"{"\u0041\n": 1}"#),
            ("{'a", "{\"a"),
            ("{'a\\", "{\"a\\"),
        ] {
            assert_eq!(with_double_quotes(text), expected, "{text}");
        }
    }

    #[test]
    fn a_comma_of_a_value_ends_no_part() {
        for (text, expected) in [
            ("", &[""][..]),
            ("a", &["a"]),
            ("a,b=c", &["a", "b=c"]),
            ("a,,b,c", &["a,,b", "c"]),
            ("a,,,b", &["a,,", "b"]),
            ("a,", &["a", ""]),
            ("a,,", &["a,,"]),
        ] {
            assert_eq!(parts(text), expected, "{text}");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Objects as a user of the command writes them: option strings and JSON, alone or as what a pool
//! keeps ready. What was taken is taken again as the JSON that its values make, and reads the same.
//!
//! The first byte of an input chooses the form.

#![no_main]
// The commands use the rest.
#![allow(dead_code)]

#[path = "../../src/bin/hostmem/json.rs"]
mod json;
#[path = "../../src/bin/hostmem/object.rs"]
mod object;
mod support;
#[path = "../../src/bin/hostmem/pool/template.rs"]
mod template;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::slice;
use std::sync::OnceLock;

use hostmem::properties;
use hostmem::Builder;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::ObjectBuilder;
use hostmem::Objects;
use hostmem::Origin;
use hostmem::Property;
use hostmem::PropertyType;
use hostmem::Value;
use serde_json::json;
use serde_json::Map;
use serde_json::Value as Json;

use object::Help;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What the user gave, where it can be given again: not by the number of a descriptor, which is that
/// of a duplicate.
fn given(builder: &Builder) -> impl Iterator<Item = Property> + '_ {
    properties().filter(|property| {
        property.is_of(builder.kind())
            && property.value_type() != PropertyType::Fd
            && !property.is_write_only()
            && builder.origin(property.name()) == Ok(Origin::User)
    })
}

/// None for a path that is no text.
fn to_json(value: Value) -> Option<Json> {
    Some(match value {
        Value::Bool(value) => value.into(),
        Value::Number(value) => value.into(),
        Value::List(values) => values.into(),
        Value::Path(path) => path.to_str()?.into(),
        Value::Text(text) => text.into(),
        other => panic!("{other:?}"),
    })
}

fn members(builder: &Builder) -> Option<Map<String, Json>> {
    let mut members = Map::new();
    members.insert("qom-type".into(), builder.kind().into());
    for property in given(builder) {
        let value = builder.get(property.name()).unwrap();
        members.insert(property.name().into(), to_json(value)?);
    }
    Some(members)
}

/// Reads a backend as JSON; JSON is read as the same again.
fn check(objects: &Objects, builder: Builder) {
    let Some(first) = members(&builder) else {
        return;
    };
    let id = builder.id().to_owned();
    // The id is free again.
    drop(builder);
    let mut whole = first.clone();
    whole.insert("id".into(), json!(id));
    let text = Json::from(whole).to_string();
    match object::parse(objects, OsStr::new(&text)) {
        Ok(ObjectBuilder::Backend(again)) => assert_eq!(members(&again), Some(first), "{text}"),
        Ok(other) => panic!("{text}: {other:?}"),
        Err(error) => panic!("{text}: {error}"),
    }
}

fn check_error(error: &dyn std::error::Error) {
    assert!(!error.to_string().is_empty());
}

fn parse(objects: &Objects, text: &OsStr) {
    match object::parse(objects, text) {
        Ok(ObjectBuilder::Backend(builder)) => check(objects, builder),
        Ok(_) => {}
        Err(error) => check_error(&*error),
    }
}

fn run(form: u8, text: &OsStr) {
    static OBJECTS: OnceLock<Objects> = OnceLock::new();
    let objects = OBJECTS.get_or_init(|| {
        let mut defaults = Defaults::qemu();
        defaults.fd_by_number = true;
        Objects::new(&Host::probe().unwrap(), &defaults).unwrap()
    });
    support::run_parser(|| match form % 3 {
        0 => parse(objects, text),
        1 => match template::parse(objects, text, 0) {
            Ok((name, _, template)) => assert_eq!(name, template.id()),
            Err(error) => check_error(&*error),
        },
        _ => {
            let kind = object::kind_of(text);
            if let Some(Help::PropertiesOf(named)) = Help::asked_by(text) {
                assert_eq!(Some(named), kind);
            }
        }
    });
}

/// # Safety
///
/// `data` has `size` bytes.
#[no_mangle]
unsafe extern "C" fn LLVMFuzzerTestOneInput(data: *const u8, size: usize) -> i32 {
    // SAFETY: the caller's promise; of no bytes there may be no address.
    let input = match size {
        0 => &[],
        _ => unsafe { slice::from_raw_parts(data, size) },
    };
    if let Some((form, text)) = input.split_first() {
        run(*form, OsStr::from_bytes(text));
    }
    0
}

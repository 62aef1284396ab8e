// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Commands on the object tree: paths, types and properties of QEMU's object model.

use hostmem::properties;
use hostmem::KindInfo;
use hostmem::Property;
use hostmem::PropertyType;
use hostmem::Value;
use hostmem::THREAD_CONTEXT;
use serde::Deserialize;
use serde_json::json;
use serde_json::Value as Json;

use super::answer::Answer;
use super::answer::QmpError;
use super::arguments;
use super::monitor::Monitor;
use super::monitor::Object;
use super::prealloc;
use crate::object;

/// What is at a path.
#[derive(Clone, Copy)]
enum Node<'a> {
    Root,
    Objects,
    Object(&'a Object),
}

impl Node<'_> {
    fn type_name(&self) -> &str {
        match self {
            Self::Root | Self::Objects => "container",
            Self::Object(object) => object.kind(),
        }
    }
}

/// Finds what a path is of: from the root, `/objects/ram0`, or the end of one, `ram0`, where only
/// one ends so.
fn find<'a>(monitor: &'a Monitor, path: &str) -> Result<Node<'a>, QmpError> {
    let names: Vec<_> = path.split('/').filter(|name| !name.is_empty()).collect();
    let fits = |whole: &[&str]| {
        if path.starts_with('/') {
            whole == names
        } else {
            whole.ends_with(&names)
        }
    };
    let mut found = Vec::new();
    found.extend(fits(&[]).then_some(Node::Root));
    found.extend(fits(&["objects"]).then_some(Node::Objects));
    for (id, object) in &monitor.objects {
        found.extend(fits(&["objects", id]).then_some(Node::Object(object)));
    }
    match found[..] {
        [node] => Ok(node),
        [] => Err(QmpError::no_device(format!("'{path}': no such object"))),
        _ => Err(QmpError::generic(format!(
            "'{path}': several objects; write the whole path, /objects/ID"
        ))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Path {
    path: String,
}

pub(crate) fn list(monitor: &mut Monitor, Path { path }: Path) -> Answer {
    let mut entries = vec![json!({ "name": "type", "type": "string" })];
    match find(monitor, &path)? {
        Node::Root => entries.push(json!({ "name": "objects", "type": "child<container>" })),
        Node::Objects => entries.extend(monitor.objects.iter().map(|(id, object)| {
            let child = format!("child<{}>", object.kind());
            json!({ "name": id, "type": child })
        })),
        Node::Object(object) => entries.extend(
            properties()
                .filter(|property| property.is_of(object.kind()))
                .map(|property| json!({ "name": property.name(), "type": type_name(&property) })),
        ),
    }
    Ok(entries.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PropertyOf {
    path: String,
    property: String,
}

pub(crate) fn get(monitor: &mut Monitor, arguments: PropertyOf) -> Answer {
    let PropertyOf { path, property } = arguments;
    let node = find(monitor, &path)?;
    match node {
        _ if property == "type" => Ok(node.type_name().into()),
        Node::Root if property == "objects" => Ok("/objects".into()),
        Node::Objects if monitor.objects.contains_key(&property) => Ok(canonical(&property).into()),
        Node::Root | Node::Objects => Err(no_property(&node, &property)),
        Node::Object(object) => value_of(object, &property),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewValue {
    path: String,
    property: String,
    value: Json,
}

pub(crate) fn set(monitor: &mut Monitor, arguments: NewValue) -> Answer {
    let NewValue {
        path,
        property,
        mut value,
    } = arguments;
    let node = find(monitor, &path)?;
    match node {
        Node::Object(object) if property != "type" => {
            resolve_link(monitor, &property, &mut value)?;
            let value = object::value(object.id(), &property, &value)?;
            if let (Object::Memory(memory), "prealloc") = (object, &*property) {
                let set = || object.set(&property, value);
                let interrupter = memory.backend.interrupter();
                let set = monitor.foreground.run(object.id(), interrupter, set)?;
                prealloc::tell_end_by_mode(&memory.backend, &monitor.events, &set);
                set?;
            } else {
                object.set(&property, value)?;
            }
            Ok(json!({}))
        }
        _ => {
            let name = node.type_name();
            Err(QmpError::generic(format!(
                "{name}: {property} cannot be set"
            )))
        }
    }
}

fn no_property(node: &Node<'_>, property: &str) -> QmpError {
    QmpError::generic(format!("{}: no property {property}", node.type_name()))
}

fn canonical(id: &str) -> String {
    format!("/objects/{id}")
}

/// A property of an object as JSON.
pub(crate) fn value_of(object: &Object, name: &str) -> Answer {
    Ok(match object.get(name)? {
        Value::Bool(value) => value.into(),
        Value::Number(value) => value.into(),
        Value::List(values) => values.into(),
        Value::Path(path) => path.to_string_lossy().into(),
        Value::Text(id) if is_link(name) && !id.is_empty() => canonical(&id).into(),
        Value::Text(text) => text.into(),
        other => return Err(QmpError::generic(format!("{name}: {other:?} has no JSON"))),
    })
}

fn is_link(name: &str) -> bool {
    properties()
        .find(|property| property.name() == name)
        .is_some_and(|property| property.value_type() == PropertyType::Link)
}

/// Puts the id in the place of a path, where a property is a link. What is no text is left for the
/// property to refuse.
pub(crate) fn resolve_link(
    monitor: &Monitor,
    name: &str,
    value: &mut Json,
) -> Result<(), QmpError> {
    let path = match value.as_str() {
        Some(path) if !path.is_empty() && is_link(name) => path,
        _ => return Ok(()),
    };
    match find(monitor, path)? {
        Node::Object(object) => *value = object.id().into(),
        Node::Root | Node::Objects => {
            let message = format!("{name}: '{path}' is a container");
            return Err(QmpError::generic(message));
        }
    }
    Ok(())
}

/// A type of the object model.
struct Type {
    name: String,
    parent: Option<&'static str>,
    is_abstract: bool,
    /// What it is besides itself, parents included.
    implements: &'static [&'static str],
}

fn types(monitor: &Monitor) -> Vec<Type> {
    let of = |name: &str, parent, is_abstract, implements| Type {
        name: name.to_owned(),
        parent,
        is_abstract,
        implements,
    };
    let backend = |kind: KindInfo| {
        let parent = Some("memory-backend");
        of(
            &kind.name,
            parent,
            false,
            &["memory-backend", "user-creatable", "object"],
        )
    };
    let mut types = vec![
        of("container", Some("object"), false, &["object"]),
        of("interface", None, true, &[]),
        of(
            "memory-backend",
            Some("object"),
            true,
            &["user-creatable", "object"],
        ),
        of("object", None, true, &[]),
        of("user-creatable", Some("interface"), true, &["interface"]),
    ];
    types.push(of(
        THREAD_CONTEXT,
        Some("object"),
        false,
        &["user-creatable", "object"],
    ));
    types.extend(monitor.set.kinds().into_iter().map(backend));
    types
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    #[serde(default, deserialize_with = "arguments::given")]
    implements: Option<String>,
    #[serde(default, rename = "abstract")]
    with_abstract: bool,
}

pub(crate) fn list_types(monitor: &mut Monitor, filter: Filter) -> Answer {
    let wanted = |found: &Type| {
        let of_type = filter
            .implements
            .as_deref()
            .is_none_or(|name| found.name == name || found.implements.contains(&name));
        of_type && (filter.with_abstract || !found.is_abstract)
    };
    Ok(types(monitor)
        .into_iter()
        .filter(wanted)
        .map(say_type)
        .collect())
}

fn say_type(said: Type) -> Json {
    let mut json = json!({ "name": said.name });
    if let Some(parent) = said.parent {
        json["parent"] = parent.into();
    }
    if said.is_abstract {
        json["abstract"] = true.into();
    }
    json
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypeName {
    typename: String,
}

pub(crate) fn list_properties(monitor: &mut Monitor, arguments: TypeName) -> Answer {
    let TypeName { typename } = arguments;
    let Some(found) = types(monitor)
        .into_iter()
        .find(|found| found.name == typename)
    else {
        return Err(QmpError::no_device(format!(
            "'{typename}': no such type; qom-list-types lists them"
        )));
    };
    let can_be_made = found.implements.contains(&"user-creatable");
    let mut entries = vec![json!({ "name": "type", "type": "string" })];
    entries.extend(
        properties()
            .filter(|property| can_be_made && property.is_of(&typename))
            .map(|property| {
                json!({
                    "name": property.name(),
                    "type": type_name(&property),
                    "description": property.description(),
                })
            }),
    );
    Ok(entries.into())
}

/// The type in QEMU's words, where it has one: a list goes by the type of its elements, a choice by
/// the name of its enumeration.
fn type_name(property: &Property) -> String {
    match (property.value_type(), property.name()) {
        (PropertyType::Bool, _) => "bool".into(),
        (PropertyType::Path, _) => "string".into(),
        (PropertyType::Link, _) => format!("link<{THREAD_CONTEXT}>"),
        (PropertyType::Enum, "policy") => "HostMemPolicy".into(),
        (PropertyType::Enum, "rom") => "OnOffAuto".into(),
        (PropertyType::Enum, name) => camel_case(name),
        _ => "int".into(),
    }
}

fn camel_case(name: &str) -> String {
    name.split('-')
        .flat_map(|word| {
            let (first, rest) = word.split_at(1.min(word.len()));
            [first.to_ascii_uppercase(), rest.to_owned()]
        })
        .collect()
}

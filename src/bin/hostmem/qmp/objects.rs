// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Creates, deletes and lists objects.

use std::collections::btree_map::Entry;

use hostmem::Builder;
use hostmem::ObjectBuilder;
use hostmem::Value;
use serde_json::json;
use serde_json::Map;
use serde_json::Value as Json;

use super::answer::Answer;
use super::answer::QmpError;
use super::arguments::Id;
use super::arguments::NoArguments;
use super::monitor::Memory;
use super::monitor::Monitor;
use super::monitor::Object;
use super::prealloc;
use super::qom;
use crate::object;

pub(crate) fn add(monitor: &mut Monitor, mut members: Map<String, Json>) -> Answer {
    for (name, value) in &mut members {
        qom::resolve_link(monitor, name, value)?;
    }
    object::required(&members, "id", "ram0")?;
    let made = match object::from_members(&monitor.set, &members)? {
        ObjectBuilder::Backend(builder) => make_memory(monitor, builder)?,
        ObjectBuilder::ThreadContext(builder) => {
            Object::ThreadContext(builder.complete().map_err(hostmem::Error::from)?)
        }
        other => return Err(QmpError::generic(format!("{other:?} is of no known kind"))),
    };
    monitor.objects.insert(made.id().to_owned(), made);
    Ok(json!({}))
}

fn make_memory(monitor: &Monitor, builder: Builder) -> Result<Object, QmpError> {
    let builder = prealloc::tell(builder, &monitor.events);
    let fills = builder.get("prealloc")? == Value::Bool(true);
    let waits = builder.get_text("prealloc-mode")? == "wait";
    let made = if fills && waits {
        let (id, interrupter) = (builder.id().to_owned(), builder.interrupter());
        let complete = || builder.complete();
        monitor.foreground.run(&id, interrupter, complete)?
    } else {
        builder.complete()
    };
    let backend = made.map_err(hostmem::Error::from)?;
    prealloc::tell_end_by_mode(&backend, &monitor.events, &Ok(()));
    Ok(Object::Memory(Memory {
        claim: None,
        backend,
        fills_since_made: fills && !waits,
    }))
}

/// QEMU has no class of its own for an id that does not exist.
pub(crate) fn delete(monitor: &mut Monitor, Id { id }: Id) -> Answer {
    match monitor.objects.entry(id) {
        Entry::Occupied(entry) => {
            entry.get().can_be_deleted()?;
            entry.remove().delete()?;
            Ok(json!({}))
        }
        Entry::Vacant(entry) => {
            let message = format!("'{}': no such object", entry.key());
            Err(QmpError::generic(message))
        }
    }
}

/// Every backend with the properties that QEMU says of it.
pub(crate) fn query_memdev(monitor: &mut Monitor, NoArguments {}: NoArguments) -> Answer {
    let memory = |object: &&Object| matches!(object, Object::Memory(_));
    monitor
        .objects
        .values()
        .filter(memory)
        .map(memdev)
        .collect()
}

fn memdev(object: &Object) -> Answer {
    const SAID: [&str; 8] = [
        "size",
        "merge",
        "dump",
        "prealloc",
        "share",
        "reserve",
        "host-nodes",
        "policy",
    ];
    let mut members = Map::from_iter([("id".to_owned(), object.id().into())]);
    for name in SAID {
        members.insert(name.into(), qom::value_of(object, name)?);
    }
    Ok(members.into())
}

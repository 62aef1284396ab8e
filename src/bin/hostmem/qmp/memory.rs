// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Commands on memory: making and deleting it, who has it, where it is, ranges of it.

use std::collections::btree_map::Entry;
use std::sync::Arc;

use hostmem::Backend;
use hostmem::Claim;
use serde::Deserialize;
use serde_json::json;
use serde_json::Map;
use serde_json::Value as Json;

use super::commands::Answer;
use super::commands::NoArguments;
use super::error::QmpError;
use super::monitor::Monitor;
use super::monitor::Object;
use super::prealloc;
use super::qom;
use crate::object;
use crate::report::Report;

/// What a backend is claimed by for the time of one command.
const OWNER: &str = "hostmem";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Id {
    pub(crate) id: String,
}

pub(crate) fn add(monitor: &mut Monitor, members: Map<String, Json>) -> Answer {
    let builder = object::from_members(&monitor.set, &members)?;
    let id = builder.id().to_owned();
    let events = Arc::clone(&monitor.events);
    let backend = builder
        .on_progress(prealloc::progress_events(events, &id))
        .complete()
        .map_err(hostmem::Error::from)?;
    let object = Object {
        claim: None,
        backend,
    };
    monitor.objects.insert(id, object);
    Ok(json!({}))
}

/// QEMU has no class of its own for an id that does not exist.
pub(crate) fn delete(monitor: &mut Monitor, Id { id }: Id) -> Answer {
    let entry = match monitor.objects.entry(id) {
        Entry::Occupied(entry) => entry,
        Entry::Vacant(entry) => {
            let message = format!("'{}': no such object", entry.key());
            return Err(QmpError::generic(message));
        }
    };
    entry.get().backend.can_be_deleted()?;
    let (id, object) = entry.remove_entry();
    match object.backend.delete() {
        Ok(()) => Ok(json!({})),
        Err(failed) => {
            let object = Object {
                claim: object.claim,
                backend: failed.backend,
            };
            monitor.objects.insert(id, object);
            Err(failed.error.into())
        }
    }
}

/// Every backend with the properties that QEMU says of it.
pub(crate) fn query(monitor: &mut Monitor, NoArguments {}: NoArguments) -> Answer {
    monitor.objects.values().map(memdev).collect()
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
    let mut members = Map::from_iter([("id".to_owned(), object.backend.id().into())]);
    for name in SAID {
        members.insert(name.into(), qom::value_of(object, name)?);
    }
    Ok(members.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewOwner {
    id: String,
    owner: String,
}

pub(crate) fn claim(monitor: &mut Monitor, NewOwner { id, owner }: NewOwner) -> Answer {
    let object = monitor.object(&id)?;
    object.claim = Some(object.backend.claim(&owner)?);
    Ok(json!({}))
}

pub(crate) fn release(monitor: &mut Monitor, Id { id }: Id) -> Answer {
    match monitor.object(&id)?.claim.take() {
        Some(_) => Ok(json!({})),
        None => Err(QmpError::generic(format!("{id}: not claimed"))),
    }
}

pub(crate) fn placement(monitor: &mut Monitor, Id { id }: Id) -> Answer {
    let object = monitor.object(&id)?;
    let report = with_claim(object, |backend, claim| {
        Report::new(backend, claim.memory())
    })?;
    Ok(report?.to_json())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Range {
    id: String,
    offset: u64,
    length: u64,
}

pub(crate) fn discard(monitor: &mut Monitor, range: Range) -> Answer {
    let Range { id, offset, length } = range;
    let object = monitor.object(&id)?;
    with_claim(object, |_, claim| claim.discard(offset, length))??;
    Ok(json!({}))
}

pub(crate) fn populate(monitor: &mut Monitor, range: Range) -> Answer {
    let Range { id, offset, length } = range;
    monitor.object(&id)?.backend.populate(offset, length)?;
    Ok(json!({}))
}

/// Runs something with the claim that a client has taken, else with one for the time.
fn with_claim<T>(object: &Object, run: impl FnOnce(&Backend, &Claim) -> T) -> Result<T, QmpError> {
    match &object.claim {
        Some(claim) => Ok(run(&object.backend, claim)),
        None => Ok(run(&object.backend, &object.backend.claim(OWNER)?)),
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Commands on memory: claim, placement, discard, populate, scrub, save and reading contents again.

use std::path::PathBuf;
use std::sync::Arc;

use hostmem::Backend;
use hostmem::Claim;
use serde::Deserialize;
use serde_json::json;

use super::answer::Answer;
use super::answer::QmpError;
use super::arguments::Id;
use super::monitor::Memory;
use super::monitor::Monitor;
use super::new_file::NewFile;
use super::prealloc;
use crate::report::Report;

/// What a backend is claimed by for the time of one command.
const OWNER: &str = "hostmem";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewOwner {
    id: String,
    owner: String,
}

pub(crate) fn claim(monitor: &mut Monitor, NewOwner { id, owner }: NewOwner) -> Answer {
    let memory = monitor.memory(&id)?;
    memory.claim = Some(memory.backend.claim(&owner)?);
    Ok(json!({}))
}

pub(crate) fn release(monitor: &mut Monitor, Id { id }: Id) -> Answer {
    match monitor.memory(&id)?.claim.take() {
        Some(_) => Ok(json!({})),
        None => Err(QmpError::generic(format!("{id}: not claimed"))),
    }
}

pub(crate) fn placement(monitor: &mut Monitor, Id { id }: Id) -> Answer {
    let memory = monitor.memory(&id)?;
    let report = with_claim(memory, |backend, claim| {
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
    let memory = monitor.memory(&id)?;
    with_claim(memory, |_, claim| claim.discard(offset, length))??;
    Ok(json!({}))
}

pub(crate) fn populate(monitor: &mut Monitor, range: Range) -> Answer {
    let Range { id, offset, length } = range;
    let events = Arc::clone(&monitor.events);
    let foreground = Arc::clone(&monitor.foreground);
    let backend = &monitor.memory(&id)?.backend;
    let populate = || backend.populate(offset, length);
    let populated = foreground.run(&id, backend.interrupter(), populate)?;
    prealloc::tell_end(backend, &events, &populated);
    populated?;
    Ok(json!({}))
}

pub(crate) fn scrub(monitor: &mut Monitor, range: Range) -> Answer {
    let Range { id, offset, length } = range;
    let events = Arc::clone(&monitor.events);
    let foreground = Arc::clone(&monitor.foreground);
    let memory = monitor.memory(&id)?;
    with_claim(memory, |backend, claim| {
        let scrub = || claim.scrub(offset, length);
        let scrubbed = foreground.run(&id, backend.interrupter(), scrub)?;
        prealloc::tell_end(backend, &events, &scrubbed);
        Ok::<_, QmpError>(scrubbed?)
    })??;
    Ok(json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Image {
    id: String,
    path: PathBuf,
}

pub(crate) fn save(monitor: &mut Monitor, Image { id, path }: Image) -> Answer {
    let events = Arc::clone(&monitor.events);
    let foreground = Arc::clone(&monitor.foreground);
    let memory = monitor.memory(&id)?;
    let interrupter = memory.backend.interrupter();
    let failed = |error| QmpError::generic(format!("{id}: save: {}: {error}", path.display()));
    let image = NewFile::create(&path).map_err(failed)?;
    let saved = with_claim(memory, |backend, claim| {
        let saved = foreground.run(&id, interrupter, || claim.save(image.file(), 0))?;
        if saved.is_ok() {
            image.keep().map_err(failed)?;
        }
        prealloc::tell_end(backend, &events, &saved);
        Ok::<_, QmpError>(saved?)
    })??;
    Ok(json!({
        "written": saved.written,
        "holes": saved.holes,
        "seconds": saved.duration.as_secs_f64(),
    }))
}

pub(crate) fn retry_contents(monitor: &mut Monitor, Id { id }: Id) -> Answer {
    let memory = monitor.memory(&id)?;
    with_claim(memory, |_, claim| claim.retry_contents())??;
    Ok(json!({}))
}

/// Runs something with the claim that a client has taken, else with one for the time.
pub(crate) fn with_claim<T>(
    memory: &Memory,
    run: impl FnOnce(&Backend, &Claim) -> T,
) -> Result<T, QmpError> {
    match &memory.claim {
        Some(claim) => Ok(run(&memory.backend, claim)),
        None => Ok(run(&memory.backend, &memory.backend.claim(OWNER)?)),
    }
}

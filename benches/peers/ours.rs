// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Times hostmem.

use std::fmt::Display;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use hostmem::Backend;
use hostmem::Builder;
use hostmem::Claim;
use hostmem::Objects;
use hostmem::PreallocMode;
use hostmem::Value;
use serde_json::Value as Json;

use crate::cases::Case;

type Time = Result<Duration, String>;

fn to_value(json: &Json) -> Value {
    match json {
        Json::Bool(on) => Value::Bool(*on),
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(numbers) => Value::List(numbers.iter().map(to_number).collect()),
        other => panic!("{other}"),
    }
}

fn to_number(json: &Json) -> u32 {
    u32::try_from(json.as_u64().unwrap()).unwrap()
}

pub fn configure(objects: &Objects, case: &Case, id: &str) -> hostmem::Result<Builder> {
    let mut builder = objects.builder(&case.kind_name(), id)?;
    builder.set("size", case.size)?;
    builder.set("prealloc", true)?;
    if let Some(threads) = case.threads {
        builder.set("prealloc-threads", threads)?;
    }
    for properties in [&case.properties, &case.ours] {
        for (property, value) in properties.as_object().unwrap() {
            builder.set(property, to_value(value))?;
        }
    }
    Ok(builder)
}

fn one(objects: &Objects, case: &Case) -> Result<Builder, String> {
    configure(objects, case, "mem0").map_err(|error| error.to_string())
}

fn all(objects: &Objects, case: &Case) -> Result<Vec<Builder>, String> {
    (0..case.backends)
        .map(|index| configure(objects, case, &format!("mem{index}")))
        .collect::<hostmem::Result<_>>()
        .map_err(|error| error.to_string())
}

pub fn check(backend: &Backend, case: &Case) -> Result<(), String> {
    let placement = backend.placement().map_err(|error| error.to_string())?;
    match placement.resident == case.size {
        true => Ok(()),
        false => Err("hostmem's memory is not fully resident".into()),
    }
}

fn time_builder(builder: Builder, case: &Case) -> Time {
    let start = Instant::now();
    let backend = builder.complete();
    let time = start.elapsed();
    check(&backend.map_err(|failed| failed.error.to_string())?, case)?;
    Ok(time)
}

pub fn complete(objects: &Objects, case: &Case) -> Time {
    time_builder(one(objects, case)?, case)
}

pub fn complete_with(objects: &Objects, case: &Case, threads: u32) -> Time {
    time_builder(one(objects, case)?.prealloc_threads(threads), case)
}

pub fn complete_reporting(objects: &Objects, case: &Case) -> Time {
    let builder = one(objects, case)?.on_progress(|done, total| assert!(done <= total));
    time_builder(builder, case)
}

fn time_builders<E: Display>(
    objects: &Objects,
    case: &Case,
    complete: impl FnOnce(Vec<Builder>) -> Result<Vec<Backend>, E>,
) -> Time {
    let builders = all(objects, case)?;
    let start = Instant::now();
    let backends = complete(builders);
    let time = start.elapsed();
    let backends = backends.map_err(|failed| failed.to_string())?;
    backends
        .iter()
        .try_for_each(|backend| check(backend, case))?;
    Ok(time)
}

pub fn complete_all(objects: &Objects, case: &Case) -> Time {
    time_builders(objects, case, Builder::complete_all)
}

pub fn complete_one_after_another(objects: &Objects, case: &Case) -> Time {
    time_builders(objects, case, |builders| {
        builders.into_iter().map(Builder::complete).collect()
    })
}

fn in_background(objects: &Objects, case: &Case) -> Result<Builder, String> {
    Ok(one(objects, case)?.prealloc_mode(PreallocMode::Background))
}

/// The preallocation is cancelled afterwards, which is not counted.
pub fn begin(objects: &Objects, case: &Case) -> Time {
    let builder = in_background(objects, case)?;
    let start = Instant::now();
    let backend = builder.complete();
    let time = start.elapsed();
    let backend = backend.map_err(|failed| failed.error.to_string())?;
    backend
        .cancel_prealloc()
        .map_err(|error| error.to_string())?;
    Ok(time)
}

pub fn background(objects: &Objects, case: &Case) -> Time {
    fill_in_background(objects, case, &OnceLock::new())
}

/// The polling thread runs before the clock starts.
pub fn background_polled(objects: &Objects, case: &Case) -> Time {
    let (slot, done) = (OnceLock::<Backend>::new(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let progress = slot.get().map(Backend::progress);
                assert!(progress.is_none_or(|progress| progress.done <= progress.total));
                thread::sleep(Duration::from_millis(1));
            }
        });
        let time = fill_in_background(objects, case, &slot);
        done.store(true, Ordering::Relaxed);
        time
    })
}

/// The backend is in the slot while it fills.
fn fill_in_background(objects: &Objects, case: &Case, slot: &OnceLock<Backend>) -> Time {
    let builder = in_background(objects, case)?;
    let start = Instant::now();
    let backend = builder
        .complete()
        .map_err(|failed| failed.error.to_string())?;
    let backend = slot.get_or_init(|| backend);
    let waited = backend.wait_prealloc(None);
    let time = start.elapsed();
    waited.map_err(|error| error.to_string())?;
    check(backend, case)?;
    Ok(time)
}

/// Writes all of the memory, as a guest that has run, then times what makes it zero.
fn time_dirty(
    objects: &Objects,
    case: &Case,
    clear: impl FnOnce(&Claim) -> hostmem::Result<()>,
) -> Time {
    let backend = one(objects, case)?.complete();
    let backend = backend.map_err(|failed| failed.error.to_string())?;
    let claim = backend.claim("benchmark");
    let claim = claim.map_err(|error| error.to_string())?;
    let memory = claim.memory();
    // SAFETY: mapped and writable as long as the claim lives, and nobody else uses it.
    unsafe { memory.as_ptr().write_bytes(0x5a, memory.len() as usize) };
    let start = Instant::now();
    let cleared = clear(&claim);
    let time = start.elapsed();
    cleared.map_err(|error| error.to_string())?;
    check(&backend, case)?;
    Ok(time)
}

pub fn scrub(objects: &Objects, case: &Case) -> Time {
    time_dirty(objects, case, |claim| claim.scrub(0, case.size))
}

pub fn discard_and_populate(objects: &Objects, case: &Case) -> Time {
    time_dirty(objects, case, |claim| {
        claim.discard(0, case.size)?;
        claim.populate(0, case.size)
    })
}

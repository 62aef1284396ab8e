// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Preallocation: the progress event, status and cancel.

use std::sync::Arc;
use std::time::Duration;

use hostmem::Backend;
use hostmem::Builder;
use hostmem::Claim;
use hostmem::Progress;
use serde_json::json;
use serde_json::Value as Json;

use super::answer::Answer;
use super::arguments::Id;
use super::events::Events;
use super::memory;
use super::monitor::Monitor;

/// What the library gives for a cancelled preallocation (errno(3), Linux).
const ECANCELED: i32 = 125;

/// Has the events of a client tell how far preallocations are, and how one in the background ends.
pub(crate) fn tell(builder: Builder, events: &Arc<Events>) -> Builder {
    let [of_progress, of_end] = [(); 2].map(|()| Arc::clone(events));
    let [id, same] = [(); 2].map(|()| builder.id().to_owned());
    builder
        .on_progress(move |done, total| send(&of_progress, &id, describe(Ok(false), done, total)))
        .on_prealloc_done(move |result, Progress { done, total, .. }| {
            send(&of_end, &same, describe(result.map(|()| true), done, total));
        })
}

/// Tells how one has ended that a command waited for, which was answered so.
pub(crate) fn tell_end<T>(backend: &Backend, events: &Events, answer: &hostmem::Result<T>) {
    let status = describe_now(backend);
    let ended = match answer {
        Ok(_) => "completed",
        // Any other was refused before it began.
        Err(_) => "failed",
    };
    if status["status"] == ended {
        send(events, backend.id(), status);
    }
}

/// The same of one that the property asked for. In the background it tells its end itself.
pub(crate) fn tell_end_by_mode(backend: &Backend, events: &Events, answer: &hostmem::Result<()>) {
    if backend.get_text("prealloc-mode").as_deref() == Ok("wait") {
        tell_end(backend, events, answer);
    }
}

fn send(events: &Events, id: &str, mut status: Json) {
    status["id"] = id.into();
    events.send("X_PREALLOC_PROGRESS", id, &status);
}

pub(crate) fn status(monitor: &mut Monitor, Id { id }: Id) -> Answer {
    let memory = monitor.memory(&id)?;
    let mut status = describe_now(&memory.backend);
    memory::with_claim(memory, |_, claim| tell_unread(claim, &mut status))?;
    Ok(status)
}

/// While contents are unread: how many bytes, and why threads wait for some.
fn tell_unread(claim: &Claim, status: &mut Json) {
    let (bytes, failed) = claim.unread();
    if bytes != 0 {
        status["unread"] = bytes.into();
    }
    if let Some(error) = failed {
        status["unread-error"] = error.to_string().into();
    }
}

/// The status as it is then. Where none runs nothing is done. One that a command waited for was
/// cancelled as the request was read.
pub(crate) fn cancel(monitor: &mut Monitor, Id { id }: Id) -> Answer {
    let was_cancelled = monitor.foreground.take_cancelled(&id);
    if was_cancelled && !monitor.objects.contains_key(&id) {
        return Ok(json!({ "status": "cancelled", "done": 0, "total": 0 }));
    }
    let memory = monitor.memory(&id)?;
    memory.backend.cancel_prealloc()?;
    memory.fills_since_made = false;
    let mut status = describe_now(&memory.backend);
    if was_cancelled {
        status["status"] = "cancelled".into();
    }
    Ok(status)
}

fn describe_now(backend: &Backend) -> Json {
    let ended = backend.wait_prealloc(Some(Duration::ZERO));
    let progress = backend.progress();
    // Why, the command that waited for it was answered.
    let failed = ended == Ok(true) && progress.done < progress.total;
    if failed {
        return json!({ "status": "failed", "done": progress.done, "total": progress.total });
    }
    if progress.total == 0 && ended == Ok(true) {
        return json!({ "status": "none", "done": 0, "total": 0 });
    }
    describe(ended, progress.done, progress.total)
}

/// A preallocation that has ended well, or still runs, or has failed.
fn describe(ended: hostmem::Result<bool>, done: u64, total: u64) -> Json {
    let mut json = json!({ "done": done, "total": total });
    json["status"] = match ended {
        Ok(false) => "active",
        Ok(true) => "completed",
        Err(error) if error.raw_os_error() == Some(ECANCELED) => "cancelled",
        Err(error) => {
            json["error"] = error.to_string().into();
            "failed"
        }
    }
    .into();
    json
}

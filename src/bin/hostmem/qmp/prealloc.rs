// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Preallocations: the event that tells how far one is, asking, and cancelling.

use std::sync::Arc;
use std::time::Duration;

use hostmem::Backend;
use hostmem::Progress;
use serde_json::json;
use serde_json::Value as Json;

use super::commands::Answer;
use super::events::Events;
use super::memory::Id;
use super::monitor::Monitor;

/// What the library gives for a cancelled preallocation (errno(3), Linux).
const ECANCELED: i32 = 125;

const EVENT: &str = "X_PREALLOC_PROGRESS";

/// A callback that turns progress into events.
pub(crate) fn progress_events(
    events: Arc<Events>,
    id: &str,
) -> impl FnMut(u64, u64) + Send + 'static {
    let id = id.to_owned();
    move |done, total| {
        events.send(
            EVENT,
            &id,
            &json!({ "id": id, "done": done, "total": total }),
        );
    }
}

pub(crate) fn status(monitor: &mut Monitor, Id { id }: Id) -> Answer {
    Ok(say_status(&monitor.memory(&id)?.backend))
}

/// The status as it is then. Where none runs nothing is done.
pub(crate) fn cancel(monitor: &mut Monitor, Id { id }: Id) -> Answer {
    let backend = &monitor.memory(&id)?.backend;
    backend.cancel_prealloc()?;
    Ok(say_status(backend))
}

fn say_status(backend: &Backend) -> Json {
    let ended = backend.wait_prealloc(Some(Duration::ZERO));
    let Progress { done, total, .. } = backend.progress();
    let mut json = json!({ "done": done, "total": total });
    json["status"] = match ended {
        Ok(false) => "active",
        Ok(true) if total == 0 => "none",
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

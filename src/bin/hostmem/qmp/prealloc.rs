// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Preallocations: the event that tells how far one is, asking, and cancelling.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Duration;

use hostmem::Backend;
use hostmem::Builder;
use serde_json::json;
use serde_json::Value as Json;

use super::answer::Answer;
use super::arguments::Id;
use super::events::Events;
use super::monitor::Monitor;

/// What the library gives for a cancelled preallocation (errno(3), Linux).
const ECANCELED: i32 = 125;

/// Has the events of a client tell how far preallocations are, and how one in the background ends.
pub(crate) fn tell(builder: Builder, events: &Arc<Events>) -> Builder {
    let of_progress = Arc::new(Teller {
        events: Arc::clone(events),
        id: builder.id().to_owned(),
        done: AtomicU64::new(0),
        total: AtomicU64::new(0),
    });
    let of_end = Arc::clone(&of_progress);
    builder
        .on_progress(move |done, total| {
            of_progress.done.store(done, Relaxed);
            of_progress.total.store(total, Relaxed);
            of_progress.tell(Ok(false));
        })
        .on_prealloc_done(move |result| of_end.tell(result.map(|()| true)))
}

struct Teller {
    events: Arc<Events>,
    id: String,
    /// As they were told last.
    done: AtomicU64,
    total: AtomicU64,
}

impl Teller {
    fn tell(&self, ended: hostmem::Result<bool>) {
        let mut data = describe(ended, self.done.load(Relaxed), self.total.load(Relaxed));
        data["id"] = self.id.as_str().into();
        self.events.send("X_PREALLOC_PROGRESS", &self.id, &data);
    }
}

pub(crate) fn status(monitor: &mut Monitor, Id { id }: Id) -> Answer {
    Ok(describe_now(&monitor.memory(&id)?.backend))
}

/// The status as it is then. Where none runs nothing is done.
pub(crate) fn cancel(monitor: &mut Monitor, Id { id }: Id) -> Answer {
    let backend = &monitor.memory(&id)?.backend;
    backend.cancel_prealloc()?;
    Ok(describe_now(backend))
}

fn describe_now(backend: &Backend) -> Json {
    let ended = backend.wait_prealloc(Some(Duration::ZERO));
    let progress = backend.progress();
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

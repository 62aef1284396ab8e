// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sends events to the connected client.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::SystemTime;

use serde_json::json;
use serde_json::Value as Json;

use super::outbox::Outbox;

/// The connected client. Without one an event is dropped.
#[derive(Default)]
pub(crate) struct Events(Mutex<Option<Arc<Outbox>>>);

impl Events {
    /// From now on events go to a client, until [`detach`](Events::detach).
    pub(crate) fn attach(&self, outbox: &Arc<Outbox>) {
        *self.lock() = Some(Arc::clone(outbox));
    }

    pub(crate) fn detach(&self) {
        *self.lock() = None;
    }

    /// Sends an event, instead of one of the same subject that is still on its way.
    pub(crate) fn send(&self, name: &str, subject: &str, data: &Json) {
        if let Some(outbox) = &*self.lock() {
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            let event = json!({
                "timestamp": {
                    "seconds": now.as_secs(),
                    "microseconds": now.subsec_micros(),
                },
                "event": name,
                "data": data,
            });
            outbox.event(subject, event);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Outbox>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What commands work on: the objects, which outlive clients.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use hostmem::Backend;
use hostmem::Claim;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::Objects;
use serde_json::Value as Json;

use super::commands::Answer;
use super::commands::Command;
use super::error::QmpError;
use super::events::Events;

pub(crate) struct Monitor {
    /// The ids, kinds and defaults.
    pub(crate) set: Objects,
    pub(crate) objects: BTreeMap<String, Object>,
    pub(crate) events: Arc<Events>,
}

/// An object that is there.
pub(crate) struct Object {
    /// Given up before the backend is deleted.
    pub(crate) claim: Option<Claim>,
    pub(crate) backend: Backend,
}

impl Monitor {
    fn new() -> hostmem::Result<Self> {
        Ok(Self {
            set: Objects::new(&Host::probe()?, &Defaults::qemu())?,
            objects: BTreeMap::new(),
            events: Arc::default(),
        })
    }

    /// An object of our own commands.
    pub(crate) fn object(&mut self, id: &str) -> Result<&mut Object, QmpError> {
        self.objects
            .get_mut(id)
            .ok_or_else(|| QmpError::no_device(format!("'{id}': no such object")))
    }
}

/// A monitor with one command at a time, until it is closed.
pub(crate) struct SharedMonitor {
    monitor: Mutex<Option<Monitor>>,
    events: Arc<Events>,
}

impl SharedMonitor {
    pub(crate) fn new() -> hostmem::Result<Self> {
        let monitor = Monitor::new()?;
        let events = Arc::clone(&monitor.events);
        Ok(Self {
            monitor: Mutex::new(Some(monitor)),
            events,
        })
    }

    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    pub(crate) fn run(&self, command: &Command, arguments: Json) -> Answer {
        match &mut *self.lock() {
            Some(monitor) => (command.run)(monitor, arguments),
            None => Err(QmpError::generic("the program is about to end")),
        }
    }

    /// Waits for a running command and deletes everything.
    pub(crate) fn close(&self) {
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Monitor>> {
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

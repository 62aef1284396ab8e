// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The objects that commands work on. They persist across connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use hostmem::Backend;
use hostmem::Claim;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::Objects;
use hostmem::ThreadContext;
use hostmem::Value;
use hostmem::THREAD_CONTEXT;

use super::answer::Answer;
use super::answer::QmpError;
use super::events::Events;
use super::foreground::Foreground;
use super::foreground::Target;

pub(crate) struct Monitor {
    /// The ids, kinds and defaults.
    pub(crate) set: Objects,
    pub(crate) objects: BTreeMap<String, Object>,
    pub(crate) events: Arc<Events>,
    pub(crate) foreground: Arc<Foreground>,
}

/// An object that is there.
pub(crate) enum Object {
    Memory(Memory),
    ThreadContext(ThreadContext),
}

pub(crate) struct Memory {
    /// Given up before the backend is deleted.
    pub(crate) claim: Option<Claim>,
    pub(crate) backend: Backend,
    /// object-add began a background preallocation, and no client has cancelled it.
    pub(crate) fills_since_made: bool,
}

impl Memory {
    /// Undoes memory whose background preallocation did not succeed, as if completing had failed.
    fn delete(self) -> hostmem::Result<()> {
        let filled = self.backend.wait_prealloc(Some(Duration::ZERO));
        if self.fills_since_made && self.claim.is_none() && filled != Ok(true) {
            return Ok(self.backend.undo()?);
        }
        drop(self.claim);
        Ok(self.backend.delete()?)
    }
}

impl Object {
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Memory(memory) => memory.backend.id(),
            Self::ThreadContext(context) => context.id(),
        }
    }

    pub(crate) fn kind(&self) -> &str {
        match self {
            Self::Memory(memory) => memory.backend.kind(),
            Self::ThreadContext(_) => THREAD_CONTEXT,
        }
    }

    pub(crate) fn get(&self, property: &str) -> hostmem::Result<Value> {
        match self {
            Self::Memory(memory) => memory.backend.get(property),
            Self::ThreadContext(context) => context.get(property),
        }
    }

    pub(crate) fn set(&self, property: &str, value: Value) -> hostmem::Result<()> {
        match self {
            Self::Memory(memory) => memory.backend.set(property, value),
            Self::ThreadContext(context) => context.set(property, value),
        }
    }

    pub(crate) fn can_be_deleted(&self) -> hostmem::Result<()> {
        match self {
            Self::Memory(memory) => memory.backend.can_be_deleted(),
            Self::ThreadContext(context) => context.can_be_deleted(),
        }
    }

    /// What [`can_be_deleted`](Object::can_be_deleted) has allowed.
    pub(crate) fn delete(self) -> hostmem::Result<()> {
        match self {
            Self::Memory(memory) => memory.delete(),
            Self::ThreadContext(context) => Ok(context.delete()?),
        }
    }
}

impl Monitor {
    fn new(host: &Host) -> hostmem::Result<Self> {
        let mut defaults = Defaults::qemu();
        defaults.fd_by_number = true;
        Ok(Self {
            set: Objects::new(host, &defaults)?,
            objects: BTreeMap::new(),
            events: Arc::default(),
            foreground: Arc::default(),
        })
    }

    /// The memory that one of our own commands is about.
    pub(crate) fn memory(&mut self, id: &str) -> Result<&mut Memory, QmpError> {
        match self.objects.get_mut(id) {
            Some(Object::Memory(memory)) => Ok(memory),
            Some(other) => Err(QmpError::generic(format!(
                "'{id}': a {} has no memory",
                other.kind()
            ))),
            None => Err(QmpError::no_device(format!("'{id}': no such object"))),
        }
    }
}

/// A monitor with one command at a time, until it is closed.
pub(crate) struct SharedMonitor {
    monitor: Mutex<Option<Monitor>>,
    events: Arc<Events>,
    foreground: Arc<Foreground>,
}

impl SharedMonitor {
    pub(crate) fn new(host: &Host) -> hostmem::Result<Self> {
        let monitor = Monitor::new(host)?;
        Ok(Self {
            events: Arc::clone(&monitor.events),
            foreground: Arc::clone(&monitor.foreground),
            monitor: Mutex::new(Some(monitor)),
        })
    }

    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    pub(crate) fn foreground(&self) -> &Arc<Foreground> {
        &self.foreground
    }

    pub(crate) fn run(&self, command: impl FnOnce(&mut Monitor) -> Answer) -> Answer {
        match &mut *self.lock() {
            Some(monitor) => command(monitor),
            None => Err(QmpError::generic("the program is about to end")),
        }
    }

    /// Cancels the preallocation of a running command, waits for the command and deletes all objects.
    pub(crate) fn close(&self) {
        let _cancel = self.foreground.cancel(Target::All);
        let objects = self.lock().take().map(|monitor| monitor.objects);
        let (memory, contexts): (Vec<_>, Vec<_>) = objects
            .unwrap_or_default()
            .into_values()
            .partition(|object| matches!(object, Object::Memory(_)));
        for object in memory.into_iter().chain(contexts) {
            // A failure cannot be reported any more.
            let _ = object.delete();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Monitor>> {
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The preallocation that a command waits for, and cancelling it from other threads.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use hostmem::Interrupter;

use super::answer::QmpError;

/// How often a preallocation is cancelled that may only be about to begin.
const INTERVAL: Duration = Duration::from_millis(1);

/// At most one runs, since commands run one at a time.
#[derive(Default)]
pub(crate) struct Foreground {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    running: Option<(String, Interrupter)>,
    /// The cancels that hold.
    cancels: Vec<Target>,
    /// The object whose preallocation was cancelled last.
    cancelled: Option<String>,
}

/// Whose preallocation is cancelled.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Target {
    All,
    Object(String),
}

impl State {
    fn cancels(&self, id: &str) -> bool {
        self.cancels.iter().any(|target| target.includes(id))
    }

    fn running_of(&self, target: &Target) -> Option<&Interrupter> {
        let (id, interrupter) = self.running.as_ref()?;
        target.includes(id).then_some(interrupter)
    }
}

impl Target {
    fn includes(&self, id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Object(object) => object == id,
        }
    }
}

impl Foreground {
    /// Runs what preallocates memory of an object, so that it can be cancelled.
    pub(crate) fn run<T>(
        &self,
        id: &str,
        interrupter: Interrupter,
        fill: impl FnOnce() -> T,
    ) -> Result<T, QmpError> {
        let mut state = self.lock();
        if state.cancels(id) {
            state.cancelled = Some(id.to_owned());
            return Err(QmpError::generic(format!(
                "{id}: prealloc: cancelled before it began"
            )));
        }
        state.running = Some((id.to_owned(), interrupter));
        state.cancelled = None;
        drop(state);
        let filled = fill();
        let mut state = self.lock();
        state.running = None;
        state.cancelled = state.cancels(id).then(|| id.to_owned());
        self.ended.notify_all();
        Ok(filled)
    }

    /// Cancels the running preallocation and waits for its end, within a chunk. Others fail until
    /// the result is dropped.
    pub(crate) fn cancel(self: &Arc<Self>, target: Target) -> Cancel {
        let mut state = self.lock();
        state.cancels.push(target.clone());
        while let Some(interrupter) = state.running_of(&target) {
            interrupter.interrupt();
            let woken = self.ended.wait_timeout(state, INTERVAL);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        Cancel {
            foreground: Arc::clone(self),
            target,
        }
    }

    /// Whether the last one was of this object and was cancelled; says so once.
    pub(crate) fn take_cancelled(&self, id: &str) -> bool {
        let mut state = self.lock();
        state
            .cancelled
            .take_if(|cancelled| cancelled == id)
            .is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes preallocations fail until it is dropped.
#[must_use]
pub(crate) struct Cancel {
    foreground: Arc<Foreground>,
    target: Target,
}

impl Drop for Cancel {
    fn drop(&mut self) {
        let mut state = self.foreground.lock();
        let same = |target: &Target| *target == self.target;
        if let Some(index) = state.cancels.iter().position(same) {
            state.cancels.swap_remove(index);
        }
    }
}

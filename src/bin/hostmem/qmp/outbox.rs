// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The queue of answers and events to one client. Sending an event never waits for the client.

use std::collections::VecDeque;
use std::io;
use std::io::Write;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use serde_json::Value as Json;

/// A queue of at most one answer, since that is waited for, and one event of each subject.
pub(crate) struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    open: bool,
    queue: VecDeque<Message>,
    /// Messages that were queued, and that were written.
    queued: u64,
    written: u64,
}

struct Message {
    /// What an event is about; None for an answer.
    subject: Option<String>,
    json: Json,
}

/// The client has gone.
#[derive(Debug)]
pub(crate) struct Closed;

impl Outbox {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                open: true,
                queue: VecDeque::new(),
                queued: 0,
                written: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Sends an answer, when it is its turn, and waits until it was sent: a client that does not
    /// read is not served on.
    pub(crate) fn answer(&self, json: Json) -> Result<(), Closed> {
        let mut state = self.lock();
        state.push(None, json);
        let turn = state.queued;
        self.changed.notify_all();
        while state.open && state.written < turn {
            state = self.wait(state);
        }
        if state.written < turn {
            return Err(Closed);
        }
        Ok(())
    }

    /// Sends an event, instead of one about the same subject that has not been sent yet.
    pub(crate) fn event(&self, subject: &str, json: Json) {
        let mut state = self.lock();
        let is_old = |message: &&mut Message| message.subject.as_deref() == Some(subject);
        match state.queue.iter_mut().find(is_old) {
            Some(old) => old.json = json,
            None => state.push(Some(subject.to_owned()), json),
        }
        self.changed.notify_all();
    }

    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        state.queue.clear();
        self.changed.notify_all();
    }

    /// Writes what is sent until the outbox is closed or the client does not take it.
    pub(crate) fn deliver(&self, mut output: impl Write) {
        while let Some(json) = self.take() {
            if write_line(&mut output, &json).is_err() {
                self.close();
                return;
            }
            self.lock().written += 1;
            self.changed.notify_all();
        }
    }

    fn take(&self) -> Option<Json> {
        let mut state = self.lock();
        loop {
            if let Some(message) = state.queue.pop_front() {
                return Some(message.json);
            }
            if !state.open {
                return None;
            }
            state = self.wait(state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, subject: Option<String>, json: Json) {
        if self.open {
            self.queue.push_back(Message { subject, json });
        }
        self.queued += 1;
    }
}

/// Ends a line as QEMU does.
fn write_line(output: &mut impl Write, json: &Json) -> io::Result<()> {
    output.write_all(format!("{json}\r\n").as_bytes())?;
    output.flush()
}

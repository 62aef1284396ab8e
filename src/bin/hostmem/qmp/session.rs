// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One client, from the greeting until it hangs up or ends the program.

use std::io::BufRead;
use std::io::Write;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;
use std::sync::Arc;
use std::thread;

use serde_json::json;
use serde_json::Value as Json;

use super::answer::QmpError;
use super::commands;
use super::commands::Then;
use super::foreground::Cancel;
use super::foreground::Foreground;
use super::foreground::Target;
use super::messages::Message;
use super::messages::Messages;
use super::messages::DEPTH_LIMIT;
use super::monitor::SharedMonitor;
use super::outbox::Closed;
use super::outbox::Outbox;
use super::request::Call;
use super::request::Request;

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    HungUp,
    Quit,
}

/// How many messages are read ahead of the one that is executed.
const AHEAD: usize = 16;

/// Serves one client. Output that the client does not read stays with the writer thread. A reader
/// thread lets a request cancel the command that runs; it ends with the input.
pub(crate) fn serve(
    monitor: &SharedMonitor,
    input: impl BufRead + Send + 'static,
    output: impl Write + Send + 'static,
) -> End {
    let outbox = Arc::new(Outbox::new());
    let writer = Arc::clone(&outbox);
    let spawned = thread::Builder::new()
        .name("qmp-writer".into())
        .spawn(move || writer.deliver(output));
    // Without a thread there is no way to answer; the client sees its connection closed.
    if spawned.is_err() {
        return End::HungUp;
    }
    let (sender, requests) = mpsc::sync_channel(AHEAD);
    let foreground = Arc::clone(monitor.foreground());
    let spawned = thread::Builder::new()
        .name("qmp-reader".into())
        .spawn(move || read(input, &sender, &foreground));
    let mut session = Session {
        monitor,
        outbox,
        negotiated: false,
    };
    match spawned {
        Ok(_) => session.run(requests).unwrap_or(End::HungUp),
        Err(_) => End::HungUp,
    }
}

/// A message, and the cancel that holds from when it is read until it is answered.
type Received = (Message, Option<Cancel>);

/// Reads messages until the input or the session ends.
fn read(input: impl BufRead, sender: &SyncSender<Received>, foreground: &Arc<Foreground>) {
    let mut messages = Messages::new(input);
    while let Ok(Some(message)) = messages.next() {
        let cancel = target_of(&message).map(|target| foreground.cancel(target));
        if sender.send((message, cancel)).is_err() {
            return;
        }
    }
}

/// The preallocation that a message cancels when it is read.
fn target_of(message: &Message) -> Option<Target> {
    /// Neither command has long arguments.
    const LONGEST: usize = 4096;
    let Message::Whole(bytes) = message else {
        return None;
    };
    if bytes.len() > LONGEST {
        return None;
    }
    let Call { command, arguments } = Request::parse(bytes).call.ok()?;
    match (&*command, &arguments["id"]) {
        ("quit", _) => Some(Target::All),
        ("x-prealloc-cancel", Json::String(id)) => Some(Target::Object(id.clone())),
        _ => None,
    }
}

/// The answer to a message that is not parsed.
fn refuse(why: String) -> (Json, Option<Json>, Then) {
    let error = QmpError::generic(why).to_json();
    (json!({ "error": error }), None, Then::GoOn)
}

struct Session<'a> {
    monitor: &'a SharedMonitor,
    outbox: Arc<Outbox>,
    /// Whether capabilities are settled, so that commands and events are on.
    negotiated: bool,
}

impl Session<'_> {
    fn run(&mut self, requests: Receiver<Received>) -> Result<End, Closed> {
        self.outbox.answer(json!({
            "QMP": { "version": commands::version(), "capabilities": [] }
        }))?;
        for (message, _cancel) in requests {
            let (mut answer, id, then) = match message {
                Message::Whole(bytes) => self.execute(&bytes),
                Message::TooLong => refuse("a message has at most 1 MiB".into()),
                Message::TooDeep => refuse(format!("more than {DEPTH_LIMIT} brackets are open")),
            };
            if let Some(id) = id {
                answer["id"] = id;
            }
            self.outbox.answer(answer)?;
            match then {
                Then::GoOn => {}
                Then::Negotiated => {
                    self.negotiated = true;
                    self.monitor.events().attach(&self.outbox);
                }
                Then::Quit => return Ok(End::Quit),
            }
        }
        Ok(End::HungUp)
    }

    /// The answer without its id, the id, and what comes after answering.
    fn execute(&self, message: &[u8]) -> (Json, Option<Json>, Then) {
        let request = Request::parse(message);
        let (answer, then) = match request.call.and_then(|call| self.call(call)) {
            Ok((value, then)) => (json!({ "return": value }), then),
            Err(error) => (json!({ "error": error.to_json() }), Then::GoOn),
        };
        (answer, request.id, then)
    }

    fn call(&self, call: Call) -> Result<(Json, Then), QmpError> {
        let command = commands::find(&call.command)?;
        let negotiates = command.then == Then::Negotiated;
        if !self.negotiated && !negotiates {
            return Err(QmpError::no_command(format!(
                "{}: capabilities come first: {{\"execute\": \"qmp_capabilities\"}}",
                command.name
            )));
        }
        let value = self
            .monitor
            .run(|monitor| (command.run)(monitor, call.arguments))?;
        if self.negotiated && negotiates {
            return Err(QmpError::no_command(format!(
                "{}: done already, once for each connection",
                command.name
            )));
        }
        Ok((value, command.then))
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.monitor.events().detach();
        self.outbox.close();
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Serves clients, several at once, and hands memory over.

use std::io;
use std::io::BufReader;
use std::io::IoSlice;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;
use std::time::SystemTime;

use nix::sys::socket;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::ControlMessage;
use nix::sys::socket::MsgFlags;
use serde::Deserialize;
use serde::Serialize;
use serde_json::json;
use serde_json::Value as Json;

use super::pools::Pools;
use crate::qmp::accept;
use crate::qmp::arguments;
use crate::qmp::arguments::NoArguments;
use crate::qmp::commands::version;
use crate::qmp::messages::Message;
use crate::qmp::messages::Messages;
use crate::qmp::request::Call;
use crate::qmp::request::Request;
use crate::qmp::socket::SocketArguments;
use crate::qmp::QmpError;
use crate::signals;
use crate::Result;

/// Clients that are served at once; more wait until one hangs up.
const MOST_CLIENTS: usize = 256;
/// Threads that wait for a client, as long as fewer than `MOST_CLIENTS` are served. A new thread maps
/// memory, for which refilling may keep it waiting, and takes a CPU from the client that is served.
const SPARE: usize = 4;
/// When as many wait, a thread that has served a client ends.
const MOST_SPARE: usize = 2 * SPARE;
/// Events that wait for an answer to be read.
const MOST_EVENTS: usize = 64;
/// How long a client may leave an answer unread.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at what has changed, for events.
const INTERVAL: Duration = Duration::from_millis(100);

const COMMANDS: [&str; 6] = [
    "qmp_capabilities",
    "query-commands",
    "query-version",
    "quit",
    "x-pool-status",
    "x-pool-take",
];

struct Server {
    pools: Pools,
    /// What a client is sent first.
    greeting: Vec<u8>,
    clients: Mutex<Vec<Arc<Client>>>,
    threads: Mutex<Threads>,
    /// Of the threads: too few wait.
    changed: Condvar,
    end: mpsc::Sender<()>,
}

/// How many threads wait for a client, and serve one.
#[derive(Default)]
struct Threads {
    waiting: usize,
    serving: usize,
}

struct Client {
    stream: UnixStream,
    /// Process and user of the client.
    pid: i32,
    uid: u32,
    /// Held while something is written; whether capabilities are settled, so that events are on.
    negotiated: Mutex<bool>,
    /// Events that came while something was written, to be sent after it.
    events: Mutex<Vec<Vec<u8>>>,
}

/// Serves clients until a signal comes or one quits; then everything is freed.
pub(crate) fn run(pools: Pools, place: &SocketArguments) -> Result<()> {
    let (end, ended) = mpsc::channel();
    let of_signals = end.clone();
    signals::on_first(move |_| {
        let _ = of_signals.send(());
    })?;
    let (listener, _file) = match place.listen()? {
        Some((listener, file)) => (listener, Some(file)),
        None => (inherited()?, None),
    };
    let server = Arc::new(Server {
        pools,
        greeting: to_line(&json!({ "QMP": { "version": version(), "capabilities": [] } })),
        clients: Mutex::default(),
        threads: Mutex::default(),
        changed: Condvar::new(),
        end,
    });
    let spawning = Arc::clone(&server);
    thread::Builder::new()
        .name("spawn".into())
        .spawn(move || spawning.spawn_all(&Arc::new(listener)))?;
    let watching = Arc::downgrade(&server);
    thread::Builder::new()
        .name("events".into())
        .spawn(move || {
            let mut before = Json::Null;
            while let Some(server) = watching.upgrade() {
                server.send_changes(&mut before);
                drop(server);
                thread::sleep(INTERVAL);
            }
        })?;
    ended.recv()?;
    Ok(())
}

/// The socket that a service manager listens on (sd_listen_fds(3)).
fn inherited() -> Result<UnixListener> {
    let mut listeners = listenfd::ListenFd::from_env();
    match listeners.take_unix_listener(0) {
        Ok(Some(listener)) => {
            listener.set_nonblocking(false)?;
            Ok(listener)
        }
        Ok(None) => Err("no socket: use --socket PATH, or start it by socket activation".into()),
        Err(error) => Err(format!("LISTEN_FDS: {error}").into()),
    }
}

impl Server {
    fn clients(&self) -> MutexGuard<'_, Vec<Arc<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps threads waiting for clients.
    fn spawn_all(self: &Arc<Self>, listener: &Arc<UnixListener>) {
        loop {
            let mut threads = self.threads();
            while threads.waiting >= SPARE || threads.waiting + threads.serving >= MOST_CLIENTS {
                let woken = self.changed.wait(threads);
                threads = woken.unwrap_or_else(PoisonError::into_inner);
            }
            threads.waiting += 1;
            drop(threads);
            let (server, listener) = (Arc::clone(self), Arc::clone(listener));
            let spawned = thread::Builder::new()
                .name("client".into())
                .spawn(move || server.serve_one_after_another(&listener));
            if spawned.is_err() {
                self.threads().waiting -= 1;
                thread::sleep(INTERVAL);
            }
        }
    }

    /// Until enough other threads wait.
    fn serve_one_after_another(&self, listener: &UnixListener) {
        loop {
            let stream = accept(listener);
            let mut threads = self.threads();
            threads.waiting -= 1;
            threads.serving += 1;
            let is_short = threads.waiting < SPARE;
            drop(threads);
            if is_short {
                self.changed.notify_one();
            }
            if let Ok(client) = Client::new(stream) {
                let client = Arc::new(client);
                self.clients().push(Arc::clone(&client));
                self.serve(&client);
                let _ = client.stream.shutdown(Shutdown::Both);
                self.clients().retain(|other| !Arc::ptr_eq(other, &client));
            }
            let mut threads = self.threads();
            threads.serving -= 1;
            if threads.waiting >= MOST_SPARE {
                return;
            }
            threads.waiting += 1;
        }
    }

    fn serve(&self, client: &Client) {
        if client.send(&self.greeting, &[]).is_err() {
            return;
        }
        let mut messages = Messages::new(BufReader::new(&client.stream));
        while let Ok(Some(message)) = messages.next() {
            let Message::Whole(bytes) = message else {
                let error = QmpError::generic("the message is too long or has too many brackets");
                if client.answer(&json!({ "error": error.to_json() })).is_err() {
                    return;
                }
                continue;
            };
            let request = Request::parse(&bytes);
            let id = request.id;
            let done = request
                .call
                .and_then(|call| self.execute(client, call, id.as_ref()));
            match done {
                Ok(Done::Answered) => {}
                Ok(Done::Gone) => return,
                Err(error) => {
                    let answer = with_id(json!({ "error": error.to_json() }), id.as_ref());
                    if client.answer(&answer).is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn execute(
        &self,
        client: &Client,
        call: Call,
        id: Option<&Json>,
    ) -> std::result::Result<Done, QmpError> {
        let name = call.command.as_str();
        if !COMMANDS.contains(&name) {
            return Err(QmpError::no_command(format!(
                "{name}: no such command; query-commands lists them"
            )));
        }
        let negotiates = name == "qmp_capabilities";
        if *client.lock() == negotiates {
            return Err(QmpError::no_command(match negotiates {
                true => format!("{name}: done already, once for each connection"),
                false => format!(
                    "{name}: capabilities come first: {{\"execute\": \"qmp_capabilities\"}}"
                ),
            }));
        }
        if name == "x-pool-take" {
            let Take { pool } = arguments::parse(name, call.arguments)?;
            return self.hand_over(client, &pool, id);
        }
        let NoArguments {} = arguments::parse(name, call.arguments)?;
        let value = match name {
            "query-commands" => COMMANDS
                .iter()
                .map(|name| json!({ "name": name }))
                .collect(),
            "query-version" => version(),
            "x-pool-status" => self.pools.to_json(),
            _ => json!({}),
        };
        let answered = client.answer(&with_id(json!({ "return": value }), id));
        if negotiates {
            *client.lock() = true;
            client.send_events();
        }
        if name == "quit" {
            // It fails if the program is ending already.
            let _ = self.end.send(());
        }
        Ok(answered.map_or(Done::Gone, |()| Done::Answered))
    }

    /// Hands memory over: from then on the client alone has it. What did not leave is kept.
    fn hand_over(
        &self,
        client: &Client,
        name: &str,
        id: Option<&Json>,
    ) -> std::result::Result<Done, QmpError> {
        let (sent, bytes) = self.pools.hand_over(name, |offer| {
            let answer = Answer {
                value: offer.answer(),
                id,
            };
            let sent = client.answer_with(&answer, offer.fd());
            (!matches!(sent, Err(Sent::Nothing)), (sent, offer.bytes))
        })?;
        if !matches!(sent, Err(Sent::Nothing)) {
            let taken =
                json!({ "pool": name, "pid": client.pid, "uid": client.uid, "bytes": bytes });
            self.send_event("X_POOL_TAKEN", &taken);
        }
        Ok(match sent {
            Ok(()) => Done::Answered,
            Err(_) => Done::Gone,
        })
    }

    /// Sends an event for each pool that has become full, or whose filling fails.
    fn send_changes(&self, before: &mut Json) {
        let mut now = json!({});
        for (name, status) in self.pools.statuses() {
            let is_full = status.ready >= status.count;
            now[name] = json!([is_full, status.failures, status.taken]);
            // What was taken may have been made again since the last look.
            let was_taken = before[name].is_array() && before[name][2] != now[name][2];
            if is_full && (before[name][0] == false || was_taken) {
                self.send_event(
                    "X_POOL_FULL",
                    &json!({ "pool": name, "ready": status.ready }),
                );
            }
            if let Some(error) = status.failure {
                if before[name][1] != status.failures {
                    let failed = json!({ "pool": name, "error": error.to_string() });
                    self.send_event("X_POOL_FAILED", &failed);
                }
            }
        }
        *before = now;
    }

    fn send_event(&self, name: &str, data: &Json) {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let event = json!({
            "timestamp": { "seconds": now.as_secs(), "microseconds": now.subsec_micros() },
            "event": name,
            "data": data,
        });
        let clients = self.clients().clone();
        for client in clients {
            client.event(&event);
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Take {
    pool: String,
}

/// The description of an offer, written without a copy, since the taker waits.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(rename = "return")]
    value: &'a Json,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Json>,
}

enum Done {
    Answered,
    /// The client does not take it.
    Gone,
}

/// How much of an answer left before it failed; with its first byte its descriptor did.
enum Sent {
    Nothing,
    Part,
}

fn with_id(mut answer: Json, id: Option<&Json>) -> Json {
    if let Some(id) = id {
        answer["id"] = id.clone();
    }
    answer
}

fn to_line(answer: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(answer).expect("keys are text, and nothing of it can fail");
    line.extend(b"\r\n");
    line
}

impl Client {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let peer = socket::getsockopt(&stream, PeerCredentials)?;
        Ok(Self {
            stream,
            pid: peer.pid(),
            uid: peer.uid(),
            negotiated: Mutex::new(false),
            events: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.negotiated
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, line: &[u8], control: &[ControlMessage<'_>]) -> std::result::Result<(), Sent> {
        let lock = self.lock();
        let sent = self.write(line, control);
        drop(lock);
        self.send_events();
        sent
    }

    fn answer(&self, answer: &impl Serialize) -> std::result::Result<(), Sent> {
        self.send(&to_line(answer), &[])
    }

    fn answer_with(
        &self,
        answer: &impl Serialize,
        fd: std::os::fd::BorrowedFd<'_>,
    ) -> std::result::Result<(), Sent> {
        let descriptors = [fd.as_fd().as_raw_fd()];
        let control = [ControlMessage::ScmRights(&descriptors)];
        self.send(&to_line(answer), &control)
    }

    fn write(&self, bytes: &[u8], control: &[ControlMessage<'_>]) -> std::result::Result<(), Sent> {
        let mut written = 0;
        while written < bytes.len() {
            let buffer = [IoSlice::new(&bytes[written..])];
            let control = if written == 0 { control } else { &[] };
            let flags = MsgFlags::MSG_NOSIGNAL;
            match socket::sendmsg::<()>(self.stream.as_raw_fd(), &buffer, control, flags, None) {
                Ok(length) => written += length,
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) if written == 0 => return Err(Sent::Nothing),
                Err(_) => return Err(Sent::Part),
            }
        }
        Ok(())
    }

    /// One that is not read in time is dropped: it must not keep others waiting.
    fn event(&self, json: &Json) {
        let mut events = self.events();
        if events.len() < MOST_EVENTS {
            events.push(to_line(json));
        }
        drop(events);
        self.send_events();
    }

    fn events(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While another thread writes it is left to that one, which does the same afterwards.
    fn send_events(&self) {
        while !self.events().is_empty() {
            let Ok(negotiated) = self.negotiated.try_lock() else {
                return;
            };
            let events = std::mem::take(&mut *self.events());
            for line in events.iter().filter(|_| *negotiated) {
                let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
                let socket = self.stream.as_raw_fd();
                let _ = socket::sendmsg::<()>(socket, &[IoSlice::new(line)], &[], flags, None);
            }
        }
    }
}

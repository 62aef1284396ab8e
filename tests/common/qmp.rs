// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A plain QMP client, and the programs it speaks to.

use std::env;
use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use super::has_address_sanitizer;
use super::skip;

use serde_json::json;
use serde_json::Value as Json;

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A conversation. What is said goes as it is; what comes back is read on a thread of its own.
pub struct Client<W> {
    input: W,
    messages: mpsc::Receiver<Json>,
    pub greeting: Json,
    /// Those that came before an answer that was waited for, or by themselves.
    pub events: Vec<Json>,
}

impl<W: Write> Client<W> {
    fn new(input: W, output: impl Read + Send + 'static) -> Self {
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Shown as it is where it is no JSON.
                let message = serde_json::from_str(&line).unwrap_or(Json::String(line));
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let greeting = messages.recv_timeout(PATIENCE).expect("a greeting");
        Self {
            input,
            messages,
            greeting,
            events: Vec::new(),
        }
    }

    /// Sends bytes, whether they arrive or not.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.input.write_all(bytes.as_ref());
        let _ = self.input.flush();
    }

    /// The next message that is no event, or whether the other end hung up or is silent.
    pub fn try_answer(&mut self) -> Result<Json, RecvTimeoutError> {
        loop {
            let message = self.messages.recv_timeout(PATIENCE)?;
            if message.get("event").is_none() {
                return Ok(message);
            }
            self.events.push(message);
        }
    }

    #[track_caller]
    pub fn answer(&mut self) -> Json {
        self.try_answer().expect("an answer")
    }

    /// Waits for an event of which a test is true.
    #[track_caller]
    pub fn wait_event(&mut self, wanted: impl Fn(&Json) -> bool) -> Json {
        if let Some(at) = self.events.iter().position(&wanted) {
            return self.events.remove(at);
        }
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let message = self.messages.recv_timeout(PATIENCE).expect("an event");
            assert!(message.get("event").is_some(), "{message}");
            if wanted(&message) {
                return message;
            }
            self.events.push(message);
        }
        panic!("no such event: {:?}", self.events);
    }

    /// What `return` or `error` is.
    #[track_caller]
    pub fn execute(&mut self, command: &str, arguments: Json) -> Result<Json, Json> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.send(format!("{request}\n"));
        result(self.answer())
    }

    #[track_caller]
    pub fn must(&mut self, command: &str, arguments: Json) -> Json {
        self.execute(command, arguments)
            .unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// The error of a command that has to fail, its class checked.
    #[track_caller]
    pub fn fails(&mut self, class: &str, command: &str, arguments: Json) -> String {
        match self.execute(command, arguments) {
            Ok(value) => panic!("{command}: {value}"),
            Err(error) => {
                assert_eq!(error["class"], class, "{command}: {error}");
                error["desc"].as_str().unwrap().to_owned()
            }
        }
    }

    /// Waits until a preallocation has a status, and says it all.
    #[track_caller]
    pub fn wait_for_status(&mut self, id: &str, status: &str) -> Json {
        let start = Instant::now();
        loop {
            let answer = self.must("x-prealloc-status", json!({ "id": id }));
            if answer["status"] == status {
                return answer;
            }
            assert!(start.elapsed() < PATIENCE, "{answer}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn negotiate(mut self) -> Self {
        self.must("qmp_capabilities", json!({}));
        self
    }
}

/// What an answer's `return` or `error` is.
pub fn result(answer: Json) -> Result<Json, Json> {
    match answer.get("return") {
        Some(value) => Ok(value.clone()),
        None => Err(answer["error"].clone()),
    }
}

impl Client<UnixStream> {
    /// Connects, once there is somebody to connect to, and reads the greeting.
    pub fn connect(path: &Path) -> Self {
        let stream = connect(path);
        Self::new(stream.try_clone().unwrap(), stream)
    }

    pub fn hang_up(self) {
        self.input.shutdown(Shutdown::Both).unwrap();
    }
}

/// A bare connection, once there is somebody to connect to.
pub fn connect(path: &Path) -> UnixStream {
    let start = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{}: {error}", path.display()),
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// A program that runs until it is dropped.
pub struct Server {
    pub process: Child,
    stderr: File,
}

impl Server {
    /// The signals that end it are not ignored, whatever runs the tests.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        Self::spawn_with(command, libc::SIG_DFL)
    }

    /// As `nohup` does.
    pub fn spawn_without_hangup(command: &mut Command) -> io::Result<Self> {
        Self::spawn_with(command, libc::SIG_IGN)
    }

    fn spawn_with(command: &mut Command, hangup: libc::sighandler_t) -> io::Result<Self> {
        let prepare = move || {
            for (signal, action) in [
                (libc::SIGHUP, hangup),
                (libc::SIGINT, libc::SIG_DFL),
                (libc::SIGTERM, libc::SIG_DFL),
            ] {
                // SAFETY: one of the two actions that run no code.
                unsafe { libc::signal(signal, action) };
            }
            Ok(())
        };
        // SAFETY: only calls signal(2), which may be called there.
        unsafe { command.pre_exec(prepare) };
        let stderr = tempfile::tempfile()?;
        let process = command.stderr(stderr.try_clone()?).spawn()?;
        Ok(Self { process, stderr })
    }

    /// `hostmem qmp` with more arguments.
    pub fn hostmem(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostmem"));
        command.arg("qmp").args(arguments).stdin(Stdio::null());
        Self::spawn(&mut command).unwrap()
    }

    /// `hostmem qmp` on a socket.
    pub fn on_socket(path: &Path) -> Self {
        Self::hostmem(&["--socket", path.to_str().unwrap()])
    }

    /// A program that speaks QMP on its standard streams, after its greeting.
    pub fn on_streams(command: &mut Command) -> io::Result<(Self, Client<ChildStdin>)> {
        let mut server = Self::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let input = server.process.stdin.take().unwrap();
        let client = Client::new(input, server.process.stdout.take().unwrap());
        Ok((server, client))
    }

    /// A running QEMU without a machine, which has greeted. None, said, where there is
    /// none or only an old one.
    pub fn qemu() -> Option<(Self, Client<ChildStdin>)> {
        let mut command = Command::new("qemu-system-x86_64");
        command.args("-machine none -nodefaults -display none -S -qmp stdio".split(' '));
        let started = match Self::on_streams(&mut command) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                skip("qemu-system-x86_64 is not installed");
                return None;
            }
            started => started.unwrap(),
        };
        let major = started.1.greeting["QMP"]["version"]["qemu"]["major"].as_u64();
        if major.unwrap() < 10 {
            skip(&format!(
                "this is QEMU {}; 10 or later is needed",
                major.unwrap()
            ));
            return None;
        }
        Some(started)
    }

    /// `hostmem qmp` on its standard streams.
    pub fn hostmem_on_streams() -> (Self, Client<ChildStdin>) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostmem"));
        Self::on_streams(command.arg("qmp")).unwrap()
    }

    /// Waits for the end: exit code, -1 of a signal, and what was said on standard error.
    pub fn end(&mut self) -> (i32, String) {
        let status = self.process.wait().unwrap();
        let mut said = String::new();
        self.stderr.rewind().unwrap();
        self.stderr.read_to_string(&mut said).unwrap();
        (status.code().unwrap_or(-1), said)
    }

    /// Where coverage is counted, since a process that is killed does not write what it has run.
    fn end_by_itself(&mut self) {
        let start = Instant::now();
        if let Ok(None) = self.process.try_wait() {
            self.signal(libc::SIGTERM);
        }
        while let Ok(None) = self.process.try_wait() {
            if start.elapsed() > Duration::from_secs(5) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a child of ours that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.process.id() as i32, signal) }, 0);
    }

    /// Stops all of its threads: those on other CPUs run on for a moment after the signal.
    pub fn stop(&self) {
        self.signal(libc::SIGSTOP);
        let mut status = 0;
        // SAFETY: a child of ours; it stays to be waited for, since it has not ended.
        let found =
            unsafe { libc::waitpid(self.process.id() as i32, &mut status, libc::WUNTRACED) };
        assert_eq!(found, self.process.id() as i32);
        assert!(libc::WIFSTOPPED(status));
    }

    /// A number of /proc/PID/status, in KiB where it is a size.
    pub fn status(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        let number = line.split_whitespace().nth(1).unwrap();
        number.parse().unwrap()
    }

    /// What is mapped, in KiB. Nothing under a sanitizer that maps memory of its own.
    pub fn mapped(&self) -> u64 {
        match has_address_sanitizer() {
            true => 0,
            false => self.status("VmSize"),
        }
    }

    /// Whether it never took as much memory, in MiB.
    #[track_caller]
    pub fn check_peak(&self, limit: u64) {
        let peak = self.status("VmHWM");
        assert!(has_address_sanitizer() || peak < limit << 10, "{peak} KiB");
    }

    pub fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.process.id());
        std::fs::read_dir(path).unwrap().count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if env::var_os("LLVM_PROFILE_FILE").is_some() {
            self.end_by_itself();
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

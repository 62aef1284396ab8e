// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem qmp` and `hostmem pool`, which live as long as the soak, and their clients.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;
use serde_json::Value as Json;

use crate::common::qmp::Client;
use crate::common::qmp::Server;
use crate::held::MIB;
use crate::measure::Operation;
use crate::measure::Recorder;
use crate::random::Random;
use crate::shortage::Round;
use crate::verdict::Idle;

pub const POOL: &str = "pool0";

pub struct Servers {
    qmp: Mutex<Qmp>,
    pool: Server,
    pub pool_path: PathBuf,
}

/// It serves one client at a time.
struct Qmp {
    server: Server,
    path: PathBuf,
    /// The sizes of its backends, by their ids.
    objects: BTreeMap<String, u64>,
    made: u64,
}

fn spawn(arguments: &[&str], socket: &Path, more: &[&str]) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostmem"));
    command.args(arguments).arg("--socket").arg(socket);
    command.args(more).stdin(Stdio::null());
    // As the soak itself has it.
    command.stdout(Stdio::null());
    let die_with_parent = || {
        // SAFETY: takes numbers.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: makes one system call.
    unsafe { command.pre_exec(die_with_parent) };
    Server::spawn(&mut command).unwrap()
}

impl Servers {
    pub fn start(disk: &Path) -> Self {
        let (path, pool_path) = (disk.join("qmp"), disk.join("pool"));
        let qmp = Qmp {
            server: spawn(&["qmp"], &path, &[]),
            path,
            objects: BTreeMap::new(),
            made: 0,
        };
        Self {
            pool: spawn(&["pool"], &pool_path, &["2:memory-backend-memfd,size=4M"]),
            qmp: Mutex::new(qmp),
            pool_path,
        }
    }

    /// What a client does in one conversation; nothing while another one has it.
    pub fn converse(&self, recorder: &Recorder, random: &mut Random, round: Round) {
        let Ok(mut qmp) = self.qmp.try_lock() else {
            return;
        };
        let mut client = Client::connect(&qmp.path).negotiate();
        for _ in 0..1 + random.below(4) {
            qmp.act(&mut client, recorder, random, round);
        }
        client.hang_up();
    }

    /// What this process and both servers have once nobody works.
    pub fn idle(&self, recorder: &Recorder, before: Option<&[Idle; 3]>) -> [Idle; 3] {
        let mut qmp = self.qmp.lock().unwrap();
        qmp.clear(recorder);
        let full = self.wait_until_full();
        // SAFETY: takes a number; gives back what the allocator keeps.
        #[cfg(target_env = "gnu")]
        unsafe {
            libc::malloc_trim(0)
        };
        let before = |index: usize| before.map(|before| &before[index]);
        let mut pool = Idle::settle(self.pool.process.id(), before(2));
        pool.settled = full;
        [
            Idle::settle("self", before(0)),
            Idle::settle(qmp.server.process.id(), before(1)),
            pool,
        ]
    }

    /// Whether the pool has all it shall have; after a shortage it waits before it tries again.
    pub fn wait_until_full(&self) -> bool {
        let mut client = Client::connect(&self.pool_path).negotiate();
        let is_full = (0..300).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            let status = client.must("x-pool-status", json!({}));
            status[0]["ready"] == status[0]["count"] && status[0]["filling"] == false
        });
        client.hang_up();
        is_full
    }

    pub fn stop(self) {
        let mut qmp = self.qmp.into_inner().unwrap();
        for server in [&mut qmp.server, &mut { self.pool }] {
            server.signal(libc::SIGTERM);
            server.end();
        }
    }
}

const OBJECTS: [&str; 4] = [
    "memory-backend-ram",
    "memory-backend-memfd",
    "memory-backend-shm",
    "memory-backend-ram",
];

impl Qmp {
    /// Only what is short may fail, and the error says so.
    fn execute(
        &self,
        client: &mut Client<UnixStream>,
        recorder: &Recorder,
        round: Round,
        command: &str,
        arguments: Json,
    ) -> Option<Json> {
        let what = format!("qmp: {command} {arguments}");
        match recorder.time(Operation::Qmp, || client.execute(command, arguments)) {
            Ok(value) => Some(value),
            Err(error) => {
                let words = error["desc"].as_str().unwrap_or_default();
                let is_short = round == Round::Memory && words.contains("memory");
                let is_busy = words.contains("preallocation");
                if !is_short && !is_busy {
                    recorder.problem(format!("{what}: {error}"));
                }
                None
            }
        }
    }

    fn act(
        &mut self,
        client: &mut Client<UnixStream>,
        recorder: &Recorder,
        random: &mut Random,
        round: Round,
    ) {
        let ids: Vec<_> = self.objects.keys().cloned().collect();
        if ids.len() < 3 && (ids.is_empty() || random.one_in(3)) {
            return self.add(client, recorder, random, round);
        }
        let id = random.choose(&ids).clone();
        let size = self.objects[&id];
        let (offset, length) = (random.below(size / MIB / 2) * MIB, MIB);
        let range = json!({ "id": id, "offset": offset, "length": length });
        let this = json!({ "id": id });
        let (command, arguments) = match random.below(9) {
            0 => ("x-discard", range),
            1 => ("x-populate", range),
            2 => ("x-scrub", range),
            3 => ("x-placement", this),
            4 => ("query-memdev", json!({})),
            5 => ("x-prealloc-cancel", this),
            6 => (
                "qom-get",
                json!({ "path": format!("/objects/{id}"), "property": "size" }),
            ),
            7 => return self.save(client, recorder, &id, round),
            _ => return self.delete(client, recorder, &id),
        };
        let value = self.execute(client, recorder, round, command, arguments);
        if command == "qom-get" && value != Some(json!(size)) {
            recorder.problem(format!("qmp: {id} has a size of {value:?}, not {size}"));
        }
    }

    fn add(
        &mut self,
        client: &mut Client<UnixStream>,
        recorder: &Recorder,
        random: &mut Random,
        round: Round,
    ) {
        self.made += 1;
        let (id, size) = (format!("q{}", self.made), (2 + random.below(6)) * MIB);
        let mode = match round {
            // So that nothing is being filled when the conversation ends.
            Round::Memory => "wait",
            _ => *random.choose(&["wait", "background"]),
        };
        let arguments = json!({
            "qom-type": random.choose(&OBJECTS), "id": id, "size": size,
            "prealloc": round == Round::Memory || random.one_in(2), "prealloc-mode": mode,
        });
        let added = self.execute(client, recorder, round, "object-add", arguments);
        if added.is_some() {
            self.objects.insert(id, size);
        }
    }

    /// Nobody wrote to it.
    fn save(&self, client: &mut Client<UnixStream>, recorder: &Recorder, id: &str, round: Round) {
        let path = self.path.with_extension("saved");
        let _ = fs::remove_file(&path);
        let arguments = json!({ "id": id, "path": path });
        if self
            .execute(client, recorder, round, "x-save", arguments)
            .is_some()
        {
            let saved = fs::read(&path).unwrap();
            if saved.len() as u64 != self.objects[id] || saved.iter().any(|&byte| byte != 0) {
                recorder.problem(format!(
                    "qmp: {id}: what was saved is not {} zeros",
                    self.objects[id]
                ));
            }
        }
        let _ = fs::remove_file(&path);
    }

    fn delete(&mut self, client: &mut Client<UnixStream>, recorder: &Recorder, id: &str) {
        let arguments = json!({ "id": id });
        self.execute(client, recorder, Round::Plain, "object-del", arguments);
        self.objects.remove(id);
    }

    fn clear(&mut self, recorder: &Recorder) {
        let mut client = Client::connect(&self.path).negotiate();
        for id in self.objects.keys().cloned().collect::<Vec<_>>() {
            self.delete(&mut client, recorder, &id);
        }
        client.hang_up();
    }
}

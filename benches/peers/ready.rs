// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pools that have memory ready while a case is measured: of this process, or of `hostmem pool`.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use hostmem::Objects;
use hostmem::Pool;
use serde_json::json;
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::cases::Case;
use crate::cases::Side;
use crate::cpus;
use crate::machine;
use crate::ours;

type Time = Result<Duration, String>;

/// How long filling may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of the loop of a neighbour, on each CPU: about a second.
const STEPS: u64 = 500_000_000;

/// A pool with one backend.
pub enum Ready {
    Here(Pool),
    There(Server),
}

pub struct Server {
    process: Child,
    directory: TempDir,
}

impl Ready {
    /// None if the case takes no memory that is ready.
    pub fn start(objects: &Objects, case: &Case) -> Result<Option<Self>, String> {
        match case.hostmem {
            Side::Take => {
                let template = ours::configure(objects, case, "ready");
                let pool = template.and_then(|template| Pool::new(template, 1));
                Ok(Some(Self::Here(pool.map_err(|error| error.to_string())?)))
            }
            Side::Receive => Server::start(case).map(|server| Some(Self::There(server))),
            _ => Ok(None),
        }
    }

    /// Waits until the memory is ready, so that no refill disturbs what is measured next.
    pub fn wait(&self) -> Result<(), String> {
        match self {
            Self::Here(pool) => match pool.wait(1, Some(PATIENCE)) {
                Ok(true) => Ok(()),
                Ok(false) => Err(format!("the pool: {:?}", pool.status().failure)),
                Err(error) => Err(error.to_string()),
            },
            Self::There(server) => server.wait(),
        }
    }

    pub fn take(&self, objects: &Objects, case: &Case) -> Time {
        match self {
            Self::Here(pool) => {
                let start = Instant::now();
                let taken = pool.take("taken");
                let time = start.elapsed();
                let taken = taken.map_err(|error| error.to_string())?;
                if !taken.was_ready {
                    return Err("what was taken was not ready".into());
                }
                ours::check(&taken.backend, case)?;
                Ok(time)
            }
            Self::There(server) => server.take(objects, case),
        }
    }
}

impl Server {
    fn start(case: &Case) -> Result<Self, String> {
        let mut object = json!({ "qom-type": case.kind_name(), "size": case.size });
        for properties in [&case.properties, &case.ours] {
            for (name, value) in properties.as_object().unwrap() {
                object[name] = value.clone();
            }
        }
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let process = Command::new(env!("CARGO_BIN_EXE_hostmem"))
            .args(["pool", "--socket"])
            .arg(directory.path().join("pool"))
            .arg(format!("1:{object}"))
            .spawn()
            .map_err(|error| format!("hostmem pool: {error}"))?;
        Ok(Self { process, directory })
    }

    /// The status of its pool; None until it listens.
    fn status(&self) -> Option<Json> {
        let mut stream = UnixStream::connect(self.directory.path().join("pool")).ok()?;
        for command in ["qmp_capabilities", "x-pool-status"] {
            writeln!(stream, "{}", json!({ "execute": command })).ok()?;
        }
        // After the greeting and the answer of the first command.
        let line = BufReader::new(stream).lines().nth(2)?.ok()?;
        let answer: Json = serde_json::from_str(&line).ok()?;
        Some(answer["return"][0].clone())
    }

    fn wait(&self) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let status = self.status();
            if status.as_ref().is_some_and(|status| status["ready"] == 1) {
                // Its threads wait for clients again.
                thread::sleep(Duration::from_millis(10));
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("hostmem pool: {status:?}"));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn take(&self, objects: &Objects, case: &Case) -> Time {
        let path = self.directory.path().join("pool");
        let start = Instant::now();
        let builder = hostmem::pool::receive(&path, "pool0").and_then(|memory| {
            let builder = objects.builder("memory-backend-fd", "taken")?;
            let builder = builder.fd(&memory.fd).size(memory.size);
            Ok((builder.share(true).prealloc(true), memory.was_ready))
        });
        let (builder, was_ready) = builder.map_err(|error| error.to_string())?;
        let backend = builder.complete();
        let time = start.elapsed();
        if !was_ready {
            return Err("what was taken was not ready".into());
        }
        ours::check(&backend.map_err(|failed| failed.error.to_string())?, case)?;
        Ok(time)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The time of a loop on each CPU.
pub fn work() -> Time {
    Ok(cpus::time_steps(machine::cpus(), STEPS))
}

/// The same while a pool is filled that would take longer.
pub fn work_beside_refill(objects: &Objects, case: &Case) -> Time {
    let template = ours::configure(objects, case, "ready");
    let pool = template.and_then(|template| Pool::new(template, 1));
    let pool = pool.map_err(|error| error.to_string())?;
    let start = Instant::now();
    while pool.status().bytes == 0 && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(1));
    }
    let time = work();
    let status = pool.status();
    if !status.filling {
        return Err(format!(
            "the pool was not refilled all the time: {status:?}"
        ));
    }
    time
}

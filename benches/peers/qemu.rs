// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Times a running QEMU over QMP.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::json;
use serde_json::Value as Json;

use crate::cases::Case;
use crate::machine::field_bytes;

/// A running QEMU without a machine, with a QMP connection.
pub struct Qemu {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub version: String,
}

impl Qemu {
    /// Fails with the reason if there is no QEMU or it is too old.
    pub fn start() -> Result<Self, String> {
        let mut process = Command::new("qemu-system-x86_64")
            .args("-machine none -nodefaults -display none -S -qmp stdio".split(' '))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("qemu-system-x86_64: {error}"))?;
        let mut qemu = Self {
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()),
            process,
            version: String::new(),
        };
        let greeting = qemu.read()?;
        let version = &greeting["QMP"]["version"]["qemu"];
        let [major, minor, micro] = ["major", "minor", "micro"].map(|part| &version[part]);
        qemu.version = format!("{major}.{minor}.{micro}");
        if major.as_u64().is_none_or(|major| major < 10) {
            return Err(format!("this is QEMU {}; 10 is needed", qemu.version));
        }
        qemu.execute("qmp_capabilities", json!({}))?;
        Ok(qemu)
    }

    fn read(&mut self) -> Result<Json, String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err("QEMU has ended".into()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn execute(&mut self, command: &str, arguments: Json) -> Result<(), String> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.input, "{request}").map_err(|error| error.to_string())?;
        loop {
            let answer = self.read()?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                return Err(format!("QEMU: {command}: {}", error["desc"]));
            }
        }
    }

    /// Resident bytes, in small and in huge pages.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        field_bytes(&status, "VmRSS") + field_bytes(&status, "HugetlbPages")
    }

    fn is_idle(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        // A thread that has just ended is idle too.
        let stats =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
        let mut states = stats.filter_map(|stat| stat.rsplit(") ").next()?.chars().next());
        states.all(|state| state == 'S')
    }

    /// Waits until QEMU has freed the memory, which happens some time after its answer and must not
    /// overlap the next measurement.
    fn wait_freed(&self, size: u64) -> Result<(), String> {
        let start = Instant::now();
        let mut idle = 0;
        while idle < 3 {
            if start.elapsed() > Duration::from_secs(30) {
                return Err("QEMU does not free the memory".into());
            }
            thread::sleep(Duration::from_millis(2));
            idle = match self.resident() < size && self.is_idle() {
                true => idle + 1,
                false => 0,
            };
        }
        Ok(())
    }

    /// From the command until its answer.
    pub fn time(&mut self, case: &Case) -> Result<Duration, String> {
        let mut object = json!({
            "qom-type": case.kind_name(),
            "id": "mem0",
            "size": case.size,
            "prealloc": true,
        });
        if let Some(threads) = case.threads {
            object["prealloc-threads"] = threads.into();
        }
        for (property, value) in case.properties.as_object().unwrap() {
            object[property] = value.clone();
        }
        let start = Instant::now();
        self.execute("object-add", object)?;
        let time = start.elapsed();
        if self.resident() < case.size {
            return Err("QEMU's memory is not fully resident".into());
        }
        self.execute("object-del", json!({"id": "mem0"}))?;
        self.wait_freed(case.size)?;
        Ok(time)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

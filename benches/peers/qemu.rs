// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long a running QEMU takes. Of it only the program is asked, over QMP.

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

/// A running QEMU without a machine, spoken to over QMP.
pub struct Qemu {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub version: String,
}

impl Qemu {
    /// The reason where there is none, or only an old one.
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
            Ok(0) => Err("QEMU is gone".into()),
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

    /// What is mapped and present, of small and of huge pages.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        field_bytes(&status, "VmRSS") + field_bytes(&status, "HugetlbPages")
    }

    fn is_idle(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        // A thread that has ended meanwhile is idle too.
        let stats =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
        let mut states = stats.filter_map(|stat| stat.rsplit(") ").next()?.chars().next());
        states.all(|state| state == 'S')
    }

    /// It gives memory back some time after it says so, and must not do so beside the next.
    fn settle(&self, size: u64) -> Result<(), String> {
        let start = Instant::now();
        let mut idle = 0;
        while idle < 3 {
            if start.elapsed() > Duration::from_secs(30) {
                return Err("QEMU does not give the memory back".into());
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
            return Err("QEMU's memory is not all there".into());
        }
        self.execute("object-del", json!({"id": "mem0"}))?;
        self.settle(case.size)?;
        Ok(time)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

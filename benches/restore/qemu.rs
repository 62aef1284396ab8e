// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Times a running QEMU that migrates its memory to a file and back, over QMP.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
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

type Result<T> = std::result::Result<T, String>;

/// A PC that does not run, with memory of its own.
pub struct Qemu {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub version: String,
}

impl Qemu {
    /// The object is the memory, with id=mem0.
    pub fn start(object: &str, more: &[&str]) -> Result<Self> {
        let mut process = Command::new("qemu-system-x86_64")
            .args("-machine pc,memory-backend=mem0 -accel tcg -nodefaults".split(' '))
            .args("-vga none -display none -S -qmp stdio".split(' '))
            .args(["-m", "1G", "-object", object])
            .args(more)
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
        qemu.execute("qmp_capabilities", json!({}))?;
        Ok(qemu)
    }

    fn read(&mut self) -> Result<Json> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err("QEMU has ended".into()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn execute(&mut self, command: &str, arguments: Json) -> Result<Json> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.input, "{request}").map_err(|error| error.to_string())?;
        loop {
            let answer = self.read()?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                return Err(format!("QEMU: {command}: {}", error["desc"]));
            }
        }
    }

    /// Each page at its own place in the file, written or read by several threads.
    fn use_threads(&mut self, threads: usize) -> Result<()> {
        let on = |capability| json!({"capability": capability, "state": true});
        let capabilities = json!({"capabilities": [on("mapped-ram"), on("multifd")]});
        self.execute("migrate-set-capabilities", capabilities)?;
        let parameters = json!({"multifd-channels": threads, "max-bandwidth": 1u64 << 40});
        self.execute("migrate-set-parameters", parameters).map(drop)
    }

    /// From the command until the migration is complete.
    fn time(&mut self, command: &str, file: &Path) -> Result<Duration> {
        let start = Instant::now();
        self.execute(command, json!({"uri": format!("file:{}", file.display())}))?;
        loop {
            let state = self.execute("query-migrate", json!({}))?;
            match state["status"].as_str() {
                Some("completed") => return Ok(start.elapsed()),
                Some("failed" | "cancelled") => return Err(format!("QEMU: {command}: {state}")),
                _ if start.elapsed() > Duration::from_secs(120) => {
                    return Err(format!("QEMU: {command}: {state}"))
                }
                _ => thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Writes the memory of a PC, which is the image's, to a file.
pub fn time_save(image: &Path, file: &Path, threads: usize) -> Result<Duration> {
    let path = image.display();
    let object = format!("memory-backend-file,id=mem0,size=1G,share=off,mem-path={path}");
    let mut qemu = Qemu::start(&object, &[])?;
    qemu.use_threads(threads)?;
    qemu.time("migrate", file)
}

/// Reads that file into the fresh memory of another.
pub fn time_restore(file: &Path, threads: usize) -> Result<Duration> {
    let object = "memory-backend-ram,id=mem0,size=1G";
    let mut qemu = Qemu::start(object, &["-incoming", "defer"])?;
    qemu.use_threads(threads)?;
    qemu.time("migrate-incoming", file)
}

/// The version, or why none can be asked.
pub fn version() -> Result<String> {
    Qemu::start("memory-backend-ram,id=mem0,size=1G", &[]).map(|qemu| qemu.version.clone())
}

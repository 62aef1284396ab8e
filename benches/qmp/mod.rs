// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A running QEMU and the QMP connection to it.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;

use serde_json::json;
use serde_json::Value as Json;

pub type Result<T> = std::result::Result<T, String>;

pub struct Session {
    pub process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Major, minor and micro.
    pub version: [u64; 3],
}

impl Session {
    /// With these arguments beside those of the connection.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let mut process = Command::new("qemu-system-x86_64")
            .args("-nodefaults -display none -S -qmp stdio".split(' '))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("qemu-system-x86_64: {error}"))?;
        let mut session = Self {
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()),
            process,
            version: [0; 3],
        };
        let greeting = session.read()?;
        let version = &greeting["QMP"]["version"]["qemu"];
        session.version =
            ["major", "minor", "micro"].map(|part| version[part].as_u64().unwrap_or(0));
        session.execute("qmp_capabilities", json!({}))?;
        Ok(session)
    }

    pub fn version_text(&self) -> String {
        let [major, minor, micro] = self.version;
        format!("{major}.{minor}.{micro}")
    }

    fn read(&mut self) -> Result<Json> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err("QEMU has ended".into()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What the command returns. Events meanwhile are left out.
    pub fn execute(&mut self, command: &str, arguments: Json) -> Result<Json> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.input, "{request}").map_err(|error| error.to_string())?;
        loop {
            let mut answer = self.read()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(format!("QEMU: {command}: {}", error["desc"]));
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Times a running QEMU that migrates its memory to a file and back, over QMP.

use std::path::Path;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::json;

use crate::qmp::Result;
use crate::qmp::Session;

/// A PC that does not run. The object is its memory, with id=mem0.
fn start(object: &str, more: &[&str]) -> Result<Session> {
    let machine = "-machine pc,memory-backend=mem0 -accel tcg -vga none -m 1G -object";
    let mut arguments: Vec<_> = machine.split(' ').collect();
    arguments.push(object);
    arguments.extend(more);
    Session::start(&arguments)
}

/// Each page at its own place in the file, written or read by several threads.
fn use_threads(qemu: &mut Session, threads: usize) -> Result<()> {
    let on = |capability| json!({"capability": capability, "state": true});
    let capabilities = json!({"capabilities": [on("mapped-ram"), on("multifd")]});
    qemu.execute("migrate-set-capabilities", capabilities)?;
    let parameters = json!({"multifd-channels": threads, "max-bandwidth": 1u64 << 40});
    qemu.execute("migrate-set-parameters", parameters).map(drop)
}

/// From the command until the migration is complete.
fn time(qemu: &mut Session, command: &str, file: &Path) -> Result<Duration> {
    let start = Instant::now();
    qemu.execute(command, json!({"uri": format!("file:{}", file.display())}))?;
    loop {
        let state = qemu.execute("query-migrate", json!({}))?;
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

/// Writes the memory of a PC, which is the image's, to a file.
pub fn time_save(image: &Path, file: &Path, threads: usize) -> Result<Duration> {
    let path = image.display();
    let object = format!("memory-backend-file,id=mem0,size=1G,share=off,mem-path={path}");
    let mut qemu = start(&object, &[])?;
    use_threads(&mut qemu, threads)?;
    time(&mut qemu, "migrate", file)
}

/// Reads that file into the fresh memory of another.
pub fn time_restore(file: &Path, threads: usize) -> Result<Duration> {
    let object = "memory-backend-ram,id=mem0,size=1G";
    let mut qemu = start(object, &["-incoming", "defer"])?;
    use_threads(&mut qemu, threads)?;
    time(&mut qemu, "migrate-incoming", file)
}

/// The version, or why none can be asked.
pub fn version() -> Result<String> {
    start("memory-backend-ram,id=mem0,size=1G", &[]).map(|qemu| qemu.version_text())
}

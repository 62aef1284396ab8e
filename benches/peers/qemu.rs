// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Times a running QEMU over QMP.

use std::fs;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::json;

use crate::cases::Case;
use crate::machine::field_bytes;
use crate::qmp::Result;
use crate::qmp::Session;

/// A running QEMU without a machine.
pub struct Qemu {
    session: Session,
    pub version: String,
}

impl Qemu {
    /// Fails with the reason if there is no QEMU or it is too old.
    pub fn start() -> Result<Self> {
        let session = Session::start(&["-machine", "none"])?;
        let version = session.version_text();
        if session.version[0] < 10 {
            return Err(format!("this is QEMU {version}; 10 is needed"));
        }
        Ok(Self { session, version })
    }

    /// Resident bytes, in small and in huge pages.
    fn resident(&self) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.session.process.id())).unwrap();
        field_bytes(&status, "VmRSS") + field_bytes(&status, "HugetlbPages")
    }

    fn is_idle(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.session.process.id())).unwrap();
        // A thread that has just ended is idle too.
        let stats =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
        let mut states = stats.filter_map(|stat| stat.rsplit(") ").next()?.chars().next());
        states.all(|state| state == 'S')
    }

    /// Waits until QEMU has freed the memory, which happens some time after its answer and must not
    /// overlap the next measurement.
    fn wait_freed(&self, size: u64) -> Result<()> {
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
    pub fn time(&mut self, case: &Case) -> Result<Duration> {
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
        self.session.execute("object-add", object)?;
        let time = start.elapsed();
        if self.resident() < case.size {
            return Err("QEMU's memory is not fully resident".into());
        }
        self.session.execute("object-del", json!({"id": "mem0"}))?;
        self.wait_freed(case.size)?;
        Ok(time)
    }
}

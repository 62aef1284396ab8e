// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host: what it has, and the settings that a case needs.

use std::fs;
use std::thread;

use hostmem::Objects;

use crate::cases::Case;
use crate::cases::Needs;
use crate::cases::GIB;
use crate::cases::MIB;
use crate::host::HostLock;
use crate::host::HugePages;
use crate::host::Setting;
use crate::host::HUGE;
use crate::notes;

const THP: &str = "/sys/kernel/mm/transparent_hugepage";

pub fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn meminfo_bytes(name: &str) -> u64 {
    field_bytes(&fs::read_to_string("/proc/meminfo").unwrap(), name)
}

/// A field in KiB of a file in /proc; 0 where it is missing.
pub fn field_bytes(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let number = value.and_then(|value| value.trim_start_matches(':').split_whitespace().next());
    number.map_or(0, |number| number.parse::<u64>().unwrap() * 1024)
}

/// The chosen value of a setting of transparent huge pages.
pub fn thp_setting(name: &str) -> String {
    let text = fs::read_to_string(format!("{THP}/{name}")).unwrap_or_default();
    let (_, rest) = text.split_once('[').unwrap_or_default();
    rest.split(']').next().unwrap_or_default().to_owned()
}

pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

pub fn kernel() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim().to_owned()
}

/// The settings of the host that a case needs, locked against other tests until dropped.
pub enum Prepared {
    Setting {
        _setting: Option<Setting>,
        _lock: HostLock,
    },
    Pool {
        _pages: HugePages,
    },
}

/// None, with a note of the reason, if the host cannot have them.
pub fn prepare(case: &Case) -> Option<Prepared> {
    let value = match case.needs {
        Needs::Nothing => None,
        Needs::Shmem(value) => Some(value),
        Needs::Pool => {
            let _pages = HugePages::have(case.copies() * case.total() / HUGE)?;
            return Some(Prepared::Pool { _pages });
        }
    };
    let _lock = HostLock::take();
    let _setting = match value.filter(|value| thp_setting("shmem_enabled") != *value) {
        Some(value) => Some(Setting::set(format!("{THP}/shmem_enabled"), value)?),
        None => None,
    };
    Some(Prepared::Setting { _setting, _lock })
}

/// Halves the size until twice of it is available.
pub fn fit_size(case: &mut Case) {
    let wanted = case.size;
    let available = meminfo_bytes("MemAvailable");
    while case.size > 64 * MIB && 2 * case.total() > available {
        case.size /= 2;
    }
    if case.size != wanted {
        notes::add(format!(
            "{}: {} MiB instead of {} MiB, because {} MiB are available",
            case.name,
            case.size / MIB,
            wanted / MIB,
            available / MIB
        ));
    }
}

/// Gets back memory that a hypervisor took while it was idle, and lets the CPUs clock up.
pub fn warm_up(objects: &Objects) {
    let size = (8 * GIB).min(meminfo_bytes("MemAvailable") / 2) / HUGE * HUGE;
    for _ in 0..3 {
        let builder = objects.builder("memory-backend-ram", "warm").unwrap();
        let memory = builder.size(size).prealloc(true).complete();
        if let Err(failed) = memory {
            return notes::add(format!("memory is not warmed up: {}", failed.error));
        }
    }
}

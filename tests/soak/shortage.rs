// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rounds in which something is short: memory in a control group, huge pages, room on a tmpfs. All
//! is given back at the end, also when this process is killed.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::common::host;
use crate::common::host::Group;
use crate::common::host::HostLock;
use crate::common::host::HugePages;
use crate::common::meminfo;
use crate::held::MIB;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    Plain,
    /// The control group has little memory left now and then.
    Memory,
    /// The pool of huge pages has some, or fewer.
    HugePages,
    /// The tmpfs is nearly full.
    Room,
}

const ROUNDS: [Round; 4] = [Round::Plain, Round::Memory, Round::HugePages, Round::Room];

impl Round {
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Memory => "memory",
            Self::HugePages => "huge-pages",
            Self::Room => "room",
        }
    }
}

/// A shell that waits for the end of this process, however it ends, and then gives back what it was
/// told last.
struct Guard {
    shell: Child,
}

const GUARD: &str = r#"
trap '' INT TERM HUP
pages= overcommit= group= directory=
while read -r what value; do
    eval "$what=\$value"
done
[ -z "$group" ] || {
    kill -9 $(cat "$group/cgroup.procs") 2>&-
    for i in 1 2 3 4 5 6 7 8 9; do rmdir "$group" 2>&- && break; sleep 0.2; done
}
[ -z "$pages" ] || echo "$pages" >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
[ -z "$overcommit" ] ||
    echo "$overcommit" >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages
[ -z "$directory" ] || rm -rf "$directory"
"#;

impl Guard {
    fn start() -> Self {
        let shell = Command::new("sh")
            .args(["-c", GUARD])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn();
        Self {
            shell: shell.unwrap(),
        }
    }

    fn say(&self, what: &str, value: impl std::fmt::Display) {
        let mut pipe = self.shell.stdin.as_ref().unwrap();
        writeln!(pipe, "{what} {value}").unwrap();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().unwrap();
    }
}

/// Room of the tmpfs, and how much of it is left when it is short.
const TMPFS: u64 = 96 * MIB;
const ROOM: usize = 12;
const UNLIMITED: u64 = 1 << 50;
const PAGES: u64 = 24;

pub struct Shortage {
    huge_pages: Option<HugePages>,
    group: Option<Group>,
    /// A file system of its own, that only this process and its children see.
    pub tmpfs: Option<PathBuf>,
    changes: AtomicU64,
    guard: Guard,
}

impl Shortage {
    pub fn prepare(disk: &Path) -> Self {
        let guard = Guard::start();
        guard.say("directory", disk.display());
        let tmpfs = disk.join("tmpfs");
        fs::create_dir(&tmpfs).unwrap();
        let mounted = host::mount("tmpfs", &tmpfs, &format!("size={TMPFS}"));
        let group = Group::enter("memory");
        if let Some(group) = &group {
            guard.say("group", group.path.display());
        }
        Self {
            huge_pages: None,
            group,
            tmpfs: mounted.then_some(tmpfs),
            changes: AtomicU64::new(0),
            guard,
        }
    }

    pub fn begin(&mut self, number: u64) -> Round {
        let wanted = ROUNDS[number as usize % ROUNDS.len()];
        let begun = match wanted {
            Round::Plain => true,
            Round::Memory => self.group.is_some(),
            Round::HugePages => self.take_huge_pages(),
            Round::Room => self.fill_tmpfs(),
        };
        if begun {
            wanted
        } else {
            Round::Plain
        }
    }

    /// Leaves that much memory to the control group for as long as the function runs. The caller
    /// makes sure that nobody else allocates: the library's watch does not know what others are
    /// about to take.
    pub fn squeeze(&self, left: u64, run: impl FnOnce()) {
        let (Some(group), Some(_lock)) = (&self.group, HostLock::try_take()) else {
            return;
        };
        // Swap is memory too, until another test takes it away.
        if meminfo("SwapTotal:") > 0 {
            return;
        }
        let names = ["memory.usage_in_bytes", "memory.current"].map(str::to_owned);
        let used = fs::read_to_string(group.file(&names)).unwrap();
        group.limit_memory(used.trim().parse::<u64>().unwrap() + left);
        run();
        group.limit_memory(UNLIMITED);
    }

    /// Not while another test has them.
    fn take_huge_pages(&mut self) -> bool {
        let Some(lock) = HostLock::try_take() else {
            return false;
        };
        for (what, file) in [
            ("pages", "nr_hugepages"),
            ("overcommit", "nr_overcommit_hugepages"),
        ] {
            let before = fs::read_to_string(host::pool_file(file)).unwrap_or_default();
            self.guard.say(what, before.trim());
        }
        self.huge_pages = HugePages::have_locked(lock, PAGES);
        self.huge_pages.is_some()
    }

    fn fill_tmpfs(&self) -> bool {
        let Some(tmpfs) = &self.tmpfs else {
            return false;
        };
        let mut file = fs::File::create(tmpfs.join("filler")).unwrap();
        let block = vec![1; MIB as usize];
        for _ in ROOM..(TMPFS / MIB) as usize {
            file.write_all(&block).unwrap();
        }
        true
    }

    /// Once in a while during a round: none, half or all of the huge pages.
    pub fn change(&self) {
        if let Some(pages) = &self.huge_pages {
            let changes = self.changes.fetch_add(1, Ordering::Relaxed);
            pages.resize(changes % 3 * PAGES / 2);
        }
    }

    /// When nobody has memory any more.
    pub fn end(&mut self) {
        if self.huge_pages.take().is_some() {
            self.guard.say("pages", "");
            self.guard.say("overcommit", "");
        }
        if let Some(tmpfs) = &self.tmpfs {
            let _ = fs::remove_file(tmpfs.join("filler"));
        }
    }
}

impl Drop for Shortage {
    fn drop(&mut self) {
        drop(self.group.take());
        self.guard.say("group", "");
        self.guard.say("directory", "");
    }
}

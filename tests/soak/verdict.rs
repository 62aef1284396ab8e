// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether what processes have while nobody works stays the same.

use std::fmt;
use std::fs;

use crate::measure::Recorder;
use crate::measure::PROCESSES;

/// What a process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Idle {
    /// Its own memory, in KiB: neither of files nor shared.
    pub rss: u64,
    pub descriptors: u64,
    pub threads: u64,
    pub mappings: u64,
    /// Of it, those that only the library makes.
    pub guest: u64,
    /// Whether it is as it should be when nobody works; a pool may still be filling.
    pub settled: bool,
}

impl Idle {
    pub fn of_self() -> Self {
        Self::of("self")
    }

    pub fn of(process: impl fmt::Display) -> Self {
        let file = |name: &str| fs::read_to_string(format!("/proc/{process}/{name}")).unwrap();
        let status = file("status");
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.unwrap().split_whitespace().next().unwrap();
            number.parse().unwrap()
        };
        let maps = file("maps");
        let is_guest = |line: &&str| {
            ["hostmem", "/memfd:", "/dev/shm", "/anon_hugepage", "/SYSV"]
                .iter()
                .any(|name| line.contains(name) && !line.contains("/target/"))
        };
        let descriptors = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
        Self {
            rss: number("RssAnon:"),
            descriptors: descriptors.count() as u64,
            threads: number("Threads:"),
            mappings: maps.lines().count() as u64,
            guest: maps.lines().filter(is_guest).count() as u64,
            settled: true,
        }
    }

    fn is_as(&self, other: &Self) -> bool {
        self.descriptors == other.descriptors
            && self.threads == other.threads
            && self.guest == other.guest
    }

    /// Measures until it is as it was before, for ten seconds at most: threads of the process
    /// take a moment to end.
    pub fn settle(process: impl fmt::Display, before: Option<&Self>) -> Self {
        // Where nothing is to be compared with: half a second.
        let tries = if before.is_some() { 1000 } else { 50 };
        for _ in 0..tries {
            let now = Self::of(&process);
            if before.is_some_and(|before| now.is_as(before)) {
                return now;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Self::of(process)
    }
}

/// As columns of the samples.
impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.settled {
            return f.write_str(",,,");
        }
        write!(
            f,
            "{},{},{},{}",
            self.rss, self.descriptors, self.threads, self.mappings
        )
    }
}

/// What memory may grow by, in KiB, without being a leak: caches of allocators, tables of threads.
const SLACK_KIB: u64 = 2048;
const SLACK_MAPPINGS: u64 = 4;
/// `hostmem pool` keeps 4 to 8 threads waiting for clients, whose stacks are two mappings each.
const SLACK_POOL_THREADS: u64 = 4;
/// Fewer say nothing.
const FEWEST_POINTS: usize = 3;
/// The first one warms up.
pub const FEWEST_ROUNDS: u64 = FEWEST_POINTS as u64 + 1;

#[derive(Default)]
pub struct Verdict {
    points: Vec<[Idle; 3]>,
}

fn median(mut all: Vec<u64>) -> u64 {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or(0)
}

/// Of one process, without the round that warms up.
struct Growth {
    process: &'static str,
    points: Vec<Idle>,
}

impl Growth {
    /// The medians of the first and of the last third.
    fn ends(&self, what: impl Fn(&Idle) -> u64) -> (u64, u64) {
        let third = self.points.len().div_ceil(3);
        let first = self.points[..third].iter().map(&what).collect();
        let last = self.points[self.points.len() - third..].iter().map(&what);
        (median(first), median(last.collect()))
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut compare = |what: &str, (first, last): (u64, u64), slack: u64| {
            if last > first + slack {
                let process = self.process;
                problems.push(format!("{process}: {what} grew from {first} to {last}"));
            }
        };
        compare("memory in KiB", self.ends(|idle| idle.rss), SLACK_KIB);
        let threads = match self.process {
            "pool" => SLACK_POOL_THREADS,
            _ => 0,
        };
        let mappings = SLACK_MAPPINGS + 2 * threads;
        compare("mappings", self.ends(|idle| idle.mappings), mappings);
        let end = |what: fn(&Idle) -> u64| {
            let last = self.points.last().map_or(0, what);
            (self.points.first().map_or(0, what), last)
        };
        compare("descriptors", end(|idle| idle.descriptors), 0);
        compare("threads", end(|idle| idle.threads), threads);
        compare("mappings of guests", end(|idle| idle.guest), 0);
        problems
    }
}

impl Verdict {
    pub fn add(&mut self, idle: [Idle; 3]) {
        self.points.push(idle);
    }

    pub fn last(&self) -> Option<&[Idle; 3]> {
        self.points.last()
    }

    fn growths(&self) -> impl Iterator<Item = Growth> + '_ {
        PROCESSES.iter().enumerate().map(|(index, process)| Growth {
            process,
            points: self
                .points
                .iter()
                .skip(1)
                .map(|idle| idle[index])
                .filter(|idle| idle.settled)
                .collect(),
        })
    }

    pub fn problems(&self, recorder: &Recorder) -> Vec<String> {
        let mut problems = recorder.problems();
        for growth in self.growths() {
            let judged = growth.points.len();
            if judged >= FEWEST_POINTS {
                problems.extend(growth.problems());
            } else if self.points.len() > 4 * FEWEST_POINTS {
                let process = growth.process;
                problems.push(format!("{process}: was idle {judged} times only"));
            }
        }
        if let Some(guest) = self.points.iter().find(|idle| idle[0].guest > 0) {
            problems.push(format!("soak: guest memory is left: {:?}", guest[0]));
        }
        let missing = recorder.missing();
        if !missing.is_empty() {
            problems.push(format!("never done: {missing:?}"));
        }
        problems
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "while idle, in the first third -> in the last third:")?;
        for growth in self.growths().filter(|growth| !growth.points.is_empty()) {
            write!(f, "  {:<5}", growth.process)?;
            for (what, of) in [
                ("KiB", (|idle| idle.rss) as fn(&Idle) -> u64),
                ("descriptors", |idle| idle.descriptors),
                ("threads", |idle| idle.threads),
                ("mappings", |idle| idle.mappings),
            ] {
                let (first, last) = growth.ends(of);
                write!(f, " {first} -> {last} {what};")?;
            }
            writeln!(f, " {} points", growth.points.len())?;
        }
        Ok(())
    }
}

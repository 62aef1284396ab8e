// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What was done, how long it took, which errors there were; written down every few seconds. It
//! takes as much memory after hours as at the beginning.

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use hostmem::Error;
use hostmem::ErrorKind;

use crate::verdict::Idle;

/// The processes that are measured, in this order.
pub const PROCESSES: [&str; 3] = ["soak", "qmp", "pool"];

macro_rules! operations {
    ($($variant:ident $name:literal,)*) => {
        #[derive(Clone, Copy)]
        pub enum Operation { $($variant,)* }
        pub const OPERATIONS: &[&str] = &[$($name,)*];
    };
}

operations! {
    Create "create",
    CreateAll "create-all",
    Background "background",
    Cancel "cancel",
    Interrupt "interrupt",
    Claim "claim",
    Write "write",
    Check "check",
    Discard "discard",
    Protect "protect",
    Populate "populate",
    Scrub "scrub",
    Rebind "rebind",
    Set "set",
    Read "read",
    Save "save",
    Restore "restore",
    RestoreLazily "restore-lazily",
    Delete "delete",
    Undo "undo",
    PoolTake "pool-take",
    PoolCount "pool-count",
    ServerTake "server-take",
    Qmp "qmp",
    Context "context",
    Fork "fork",
    Probe "probe",
}

const KINDS: [&str; 8] = [
    "unknown-property",
    "type",
    "value",
    "state",
    "busy",
    "unsupported",
    "no-memory",
    "io",
];

fn index(kind: ErrorKind) -> usize {
    match kind {
        ErrorKind::UnknownProperty => 0,
        ErrorKind::Type => 1,
        ErrorKind::Value => 2,
        ErrorKind::State => 3,
        ErrorKind::Busy => 4,
        ErrorKind::Unsupported => 5,
        ErrorKind::NoMemory => 6,
        _ => 7,
    }
}

/// Times in steps of an eighth of a power of two of nanoseconds.
struct Times {
    counts: Vec<AtomicU64>,
    longest: AtomicU64,
}

const STEPS: u32 = 8;

impl Times {
    fn new() -> Self {
        Self {
            counts: (0..64 * STEPS).map(|_| AtomicU64::new(0)).collect(),
            longest: AtomicU64::new(0),
        }
    }

    fn add(&self, time: Duration) {
        let nanoseconds = (time.as_nanos() as u64).max(STEPS.into());
        let power = nanoseconds.ilog2();
        let step = (nanoseconds >> (power - 3)) as u32 % STEPS;
        self.counts[(power * STEPS + step) as usize].fetch_add(1, Relaxed);
        self.longest.fetch_max(nanoseconds, Relaxed);
    }

    fn len(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// In microseconds: what so many percent of the times are not above.
    fn percentile(&self, percent: u64) -> f64 {
        let wanted = (self.len() * percent).div_ceil(100);
        let mut sum = 0;
        for (at, count) in self.counts.iter().enumerate() {
            sum += count.load(Relaxed);
            if sum >= wanted && sum > 0 {
                let (power, step) = (at as u32 / STEPS, at as u32 % STEPS);
                let end = f64::from(power).exp2() * f64::from(STEPS + step + 1) / f64::from(STEPS);
                return (end / 1000.0).min(self.longest());
            }
        }
        0.0
    }

    fn longest(&self) -> f64 {
        self.longest.load(Relaxed) as f64 / 1000.0
    }

    fn clear(&self) {
        self.counts.iter().for_each(|count| count.store(0, Relaxed));
        self.longest.store(0, Relaxed);
    }
}

/// With as many operations each was done several times.
const MANY: u64 = 5000;

/// More problems than these are counted only.
const MOST_PROBLEMS: usize = 20;

pub struct Recorder {
    file: Mutex<BufWriter<File>>,
    /// Since the last sample, and in all.
    recent: Vec<Times>,
    all: Vec<Times>,
    /// Expected ones, by their kind.
    errors: [AtomicU64; KINDS.len()],
    checked: AtomicU64,
    left_out: Mutex<Vec<usize>>,
    problems: Mutex<Vec<String>>,
    problems_len: AtomicU64,
}

impl Recorder {
    pub fn create(path: &Path) -> Self {
        let mut file = BufWriter::new(File::create(path).unwrap());
        let mut header = "seconds,round".to_owned();
        for process in PROCESSES {
            for what in ["rss-kib", "descriptors", "threads", "mappings"] {
                write!(header, ",{process}-{what}").unwrap();
            }
        }
        for operation in OPERATIONS {
            for what in ["count", "median-us", "p99-us", "max-us"] {
                write!(header, ",{operation}-{what}").unwrap();
            }
        }
        for kind in KINDS {
            write!(header, ",errors-{kind}").unwrap();
        }
        writeln!(file, "{header},problems").unwrap();
        let times = || OPERATIONS.iter().map(|_| Times::new()).collect();
        Self {
            file: Mutex::new(file),
            recent: times(),
            all: times(),
            errors: Default::default(),
            checked: AtomicU64::new(0),
            left_out: Mutex::default(),
            problems: Mutex::default(),
            problems_len: AtomicU64::new(0),
        }
    }

    pub fn time<T>(&self, operation: Operation, run: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = run();
        let time = start.elapsed();
        self.recent[operation as usize].add(time);
        self.all[operation as usize].add(time);
        result
    }

    pub fn problem(&self, what: impl Into<String>) {
        let mut problems = self.problems.lock().unwrap();
        self.problems_len.fetch_add(1, Relaxed);
        if problems.len() < MOST_PROBLEMS {
            let what = what.into();
            eprintln!("soak: PROBLEM: {what}");
            problems.push(what);
        }
    }

    /// Counts an error of a kind that is expected; any other is a problem.
    pub fn expect(&self, allowed: &[ErrorKind], error: &Error, what: &str) {
        if allowed.contains(&error.kind()) {
            self.errors[index(error.kind())].fetch_add(1, Relaxed);
        } else {
            self.problem(format!("{what}: {:?}: {error}", error.kind()));
        }
    }

    pub fn may<T>(
        &self,
        allowed: &[ErrorKind],
        result: hostmem::Result<T>,
        what: &str,
    ) -> Option<T> {
        result
            .map_err(|error| self.expect(allowed, &error, what))
            .ok()
    }

    pub fn count_checked(&self, bytes: u64) {
        self.checked.fetch_add(bytes, Relaxed);
    }

    pub fn write_sample(&self, at: Duration, round: &str, processes: &[Idle; 3]) {
        let mut line = format!("{:.1},{round}", at.as_secs_f64());
        for process in processes {
            write!(line, ",{process}").unwrap();
        }
        for times in &self.recent {
            let (median, most) = (times.percentile(50), times.percentile(99));
            write!(
                line,
                ",{},{median:.1},{most:.1},{:.1}",
                times.len(),
                times.longest()
            )
            .unwrap();
            times.clear();
        }
        for count in &self.errors {
            write!(line, ",{}", count.load(Relaxed)).unwrap();
        }
        let mut file = self.file.lock().unwrap();
        writeln!(file, "{line},{}", self.problems_len.load(Relaxed)).unwrap();
        file.flush().unwrap();
    }

    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap().clone()
    }

    /// This machine cannot do it.
    pub fn leave_out(&self, operation: Operation) {
        self.left_out.lock().unwrap().push(operation as usize);
    }

    /// Operations that were never done although there was time for all.
    pub fn missing(&self) -> Vec<&'static str> {
        let left_out = self.left_out.lock().unwrap();
        let counts: Vec<_> = self.all.iter().map(Times::len).collect();
        let is_missing = |index: &usize| counts[*index] == 0 && !left_out.contains(index);
        if counts.iter().sum::<u64>() < MANY {
            return Vec::new();
        }
        (0..counts.len())
            .filter(is_missing)
            .map(|index| OPERATIONS[index])
            .collect()
    }

    pub fn totals(&self) -> String {
        let mut text = format!(
            "{:<16} {:>9} {:>12} {:>12} {:>12}\n",
            "operation", "count", "median us", "p99 us", "max us"
        );
        let mut sum = 0;
        for (name, times) in OPERATIONS.iter().zip(&self.all) {
            let (median, most) = (times.percentile(50), times.percentile(99));
            let (count, longest) = (times.len(), times.longest());
            sum += count;
            writeln!(
                text,
                "{name:<16} {count:>9} {median:>12.1} {most:>12.1} {longest:>12.1}"
            )
            .unwrap();
        }
        let errors = KINDS.iter().zip(&self.errors);
        let errors: Vec<_> = errors
            .map(|(kind, count)| (kind, count.load(Relaxed)))
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        let checked = self.checked.load(Relaxed) >> 30;
        write!(
            text,
            "{sum} operations; contents of {checked} GiB checked; expected errors: {}; {} problems",
            errors.join(", "),
            self.problems_len.load(Relaxed)
        )
        .unwrap();
        text
    }
}

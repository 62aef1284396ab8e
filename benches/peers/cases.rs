// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The cases: what is measured, what it is compared with, and the targets.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use serde_json::Value as Json;

use crate::bare;

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// Directories for the files on tmpfs and on disk.
pub const TMPFS: &str = "/dev/shm";
pub const DISK: &str = env!("CARGO_TARGET_TMPDIR");

/// What a case needs of the host.
#[derive(Clone, Copy)]
pub enum Needs {
    Nothing,
    /// shmem_enabled of transparent huge pages.
    Shmem(&'static str),
    /// A pool of huge pages of the case's size.
    Pool,
}

/// One side of a comparison.
#[derive(Clone, Copy)]
pub enum Side {
    /// `Builder::complete`.
    Complete,
    /// The same with another number of threads.
    CompleteWith(u32),
    /// `Builder::complete_all`.
    CompleteAll,
    /// `Builder::complete` of one backend after the other.
    OneAfterAnother,
    /// `Builder::complete` with a progress callback.
    CompleteReporting,
    /// `Builder::complete` in the background, until it returns.
    Begin,
    /// `Builder::complete` in the background, until the memory is populated.
    Background,
    /// The same while another thread asks for the progress each millisecond.
    BackgroundPolled,
    /// `Pool::take` of memory that is ready.
    Take,
    /// From connecting to the pool of another process until its memory is mapped here.
    Receive,
    /// `Claim::scrub` of dirty memory.
    Scrub,
    /// `Claim::discard` and `Claim::populate` of dirty memory.
    DiscardAndPopulate,
    /// A loop on each CPU while a pool is refilled.
    WorkBesideRefill,
    /// The same loop alone.
    Work,
    /// `object-add` of a running QEMU.
    Qemu,
    /// vm-memory's mapping, with MAP_POPULATE.
    VmMemoryMapped,
    /// vm-memory's mapping, populated by one thread.
    VmMemoryPopulated,
    /// vm-memory's mapping, advised to be of huge pages and populated by one thread.
    VmMemoryHuge,
    /// The bare system calls.
    Bare(bare::Kind<'static>),
    /// The bare system calls in fixed slices, each thread pinned to a CPU of its own.
    SlicesOnOne(bare::Kind<'static>),
    /// The bare system calls in fixed slices, each thread pinned to both CPUs.
    SlicesOnBoth(bare::Kind<'static>),
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Side::Complete => "hostmem, waiting",
            Side::CompleteWith(_) => "hostmem, more threads",
            Side::CompleteAll => "hostmem, all together",
            Side::OneAfterAnother => "hostmem, one after another",
            Side::CompleteReporting => "hostmem, with a callback",
            Side::Begin => "hostmem, started",
            Side::Background => "hostmem, in the background",
            Side::BackgroundPolled => "hostmem, polled each ms",
            Side::Take => "hostmem, taken",
            Side::Receive => "hostmem, from another process",
            Side::Scrub => "hostmem, scrubbed",
            Side::DiscardAndPopulate => "hostmem, discarded and populated",
            Side::WorkBesideRefill => "a loop beside a refill",
            Side::Work => "the loop alone",
            Side::Qemu => "QEMU",
            Side::VmMemoryMapped => "vm-memory, MAP_POPULATE",
            Side::VmMemoryPopulated => "vm-memory, populate",
            Side::VmMemoryHuge => "vm-memory, huge pages advised, populate",
            Side::Bare(_) => "bare calls",
            Side::SlicesOnOne(_) => "fixed slices, a CPU each",
            Side::SlicesOnBoth(_) => "fixed slices, on both CPUs",
        }
    }
}

/// The target of a comparison.
#[derive(Clone, Copy)]
pub enum Target {
    /// The least speedup; none if it is only reported.
    Faster(Option<f64>),
    /// The largest overhead, as a ratio.
    Within(f64),
    /// The most time that hostmem may take, whatever the other takes.
    Below(Duration),
}

pub struct Case {
    pub name: &'static str,
    pub kind: &'static str,
    /// Of each backend.
    pub size: u64,
    pub backends: u64,
    /// None: each side's default.
    pub threads: Option<u32>,
    /// Properties for both sides, besides size and prealloc.
    pub properties: Json,
    /// Properties for hostmem alone, because QEMU does not have them.
    pub ours: Json,
    pub needs: Needs,
    /// hostmem populates in the plain way only.
    pub plain: bool,
    /// Another process keeps a CPU busy.
    pub hogged: bool,
    /// Multiplies the number of rounds, to resolve small differences.
    pub more_rounds: usize,
    /// What hostmem does.
    pub hostmem: Side,
    pub others: Vec<(Side, Target)>,
}

impl Case {
    fn new(name: &'static str, kind: &'static str, size: u64) -> Self {
        Self {
            name,
            kind,
            size,
            backends: 1,
            threads: Some(1),
            properties: json!({}),
            ours: json!({}),
            needs: Needs::Nothing,
            plain: false,
            hogged: false,
            more_rounds: 1,
            hostmem: Side::Complete,
            others: Vec::new(),
        }
    }

    fn threads(self, threads: Option<u32>) -> Self {
        Self { threads, ..self }
    }

    fn properties(self, properties: Json) -> Self {
        Self { properties, ..self }
    }

    fn ours(self, ours: Json) -> Self {
        Self { ours, ..self }
    }

    fn needs(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    fn backends(self, backends: u64) -> Self {
        Self {
            backends,
            hostmem: Side::CompleteAll,
            ..self
        }
    }

    fn hostmem(self, hostmem: Side) -> Self {
        Self { hostmem, ..self }
    }

    fn more_rounds(self, more_rounds: usize) -> Self {
        Self {
            more_rounds,
            ..self
        }
    }

    fn compared(mut self, side: Side, target: Target) -> Self {
        self.others.push((side, target));
        self
    }

    fn faster(self, side: Side, times: f64) -> Self {
        self.compared(side, Target::Faster(Some(times)))
    }

    fn reported(self, side: Side) -> Self {
        self.compared(side, Target::Faster(None))
    }

    /// Compares with the bare system calls for the same memory; 5 % overhead are allowed.
    fn floor(self, kind: bare::Kind<'static>) -> Self {
        self.compared(Side::Bare(kind), Target::Within(1.05))
    }

    /// Of all backends together.
    pub fn total(&self) -> u64 {
        self.size * self.backends
    }

    /// Copies of the memory that exist at once: a pool has one ready, and fills or lends another.
    pub fn copies(&self) -> u64 {
        match self.hostmem {
            Side::Take | Side::Receive => 2,
            _ => 1,
        }
    }

    /// Whether any side uses two threads.
    pub fn needs_second_cpu(&self) -> bool {
        let more = |(side, _): &(Side, Target)| matches!(side, Side::CompleteWith(_));
        self.threads != Some(1) || self.others.iter().any(more)
    }

    pub fn kind_name(&self) -> String {
        format!("memory-backend-{}", self.kind)
    }

    /// With the size, which may have been reduced.
    pub fn title(&self) -> String {
        let size = match self.size {
            size if size % GIB == 0 => format!("{} GiB", size / GIB),
            size => format!("{} MiB", size / MIB),
        };
        let size = match self.backends {
            1 => size,
            backends => format!("{backends} times {size}"),
        };
        let threads = match self.threads {
            None => "default threads".into(),
            Some(1) => "1 thread".into(),
            Some(threads) => format!("{threads} threads"),
        };
        format!("{}, {size}, {threads}", self.name)
    }
}

/// Compared with a running QEMU, and with the bare system calls for the same memory.
fn against_qemu() -> Vec<Case> {
    use bare::Kind;

    let ram = || Case::new("ram", "ram", 2 * GIB).floor(Kind::Huge);
    let memfd = |name, needs, kind| {
        Case::new(name, "memfd", GIB)
            .needs(Needs::Shmem(needs))
            .floor(kind)
    };
    let small = || memfd("memfd", "never", Kind::Memfd).faster(Side::Qemu, 1.6);
    let advised =
        || memfd("memfd, shmem_enabled=advise", "advise", Kind::MemfdHuge).faster(Side::Qemu, 7.0);
    let collapsed =
        || memfd("memfd, thp=always", "never", Kind::MemfdCollapsed).ours(json!({"thp": "always"}));
    let pool = || {
        Case::new("memfd, hugetlb=on", "memfd", GIB)
            .needs(Needs::Pool)
            .properties(json!({"hugetlb": true}))
            .floor(Kind::Pool)
    };
    let file = |name, directory, kind| {
        Case::new(name, "file", 512 * MIB)
            .needs(Needs::Shmem("never"))
            .properties(json!({"mem-path": directory, "share": true}))
            .floor(kind)
            .faster(Side::Qemu, 1.4)
    };
    let tmpfs = || file("file on tmpfs", TMPFS, Kind::FileInMemory(Path::new(TMPFS)));
    let disk = || file("file on disk", DISK, Kind::FileOnDisk(Path::new(DISK)));
    let two = Some(2);
    vec![
        ram().faster(Side::Qemu, 2.2),
        ram().threads(None).faster(Side::Qemu, 2.2),
        ram().threads(two).faster(Side::Qemu, 1.3),
        small(),
        small().threads(two),
        advised(),
        advised().threads(two),
        collapsed().faster(Side::Qemu, 8.0),
        collapsed().threads(two).faster(Side::Qemu, 4.5),
        pool().faster(Side::Qemu, 2.1),
        pool().threads(two).reported(Side::Qemu),
        tmpfs(),
        tmpfs().threads(two),
        disk(),
        disk().threads(two),
    ]
}

fn against_vm_memory() -> Vec<Case> {
    let ram = || {
        Case::new("ram beside vm-memory", "ram", GIB)
            .reported(Side::VmMemoryMapped)
            .reported(Side::VmMemoryPopulated)
            .reported(Side::VmMemoryHuge)
    };
    let small = Case::new("ram of small pages", "ram", 512 * MIB)
        .ours(json!({"thp": "never"}))
        .floor(bare::Kind::Small);
    vec![
        ram(),
        ram().threads(None),
        small.reported(Side::VmMemoryMapped),
    ]
}

/// The pool of threads, its queue, and waiting.
fn threads_and_waiting() -> Vec<Case> {
    use bare::Kind;

    let small = || json!({"thp": "never"});
    let hogged = |name, size, kind, thp| Case {
        hogged: true,
        ..Case::new(name, "ram", size)
            .threads(Some(2))
            .ours(json!({"policy": "bind", "host-nodes": [0], "thp": thp}))
            .faster(Side::SlicesOnOne(kind), 1.3)
            .reported(Side::SlicesOnBoth(kind))
    };
    let four = |name, size, ours| {
        Case::new(name, "ram", size)
            .ours(ours)
            .threads(None)
            .backends(4)
            .faster(Side::OneAfterAnother, 1.0)
    };
    let background = |name, kind, size| Case {
        plain: true,
        ..Case::new(name, kind, size)
            .threads(None)
            .needs(Needs::Shmem("never"))
            .hostmem(Side::Background)
            .compared(Side::Complete, Target::Within(1.05))
    };
    vec![
        hogged(
            "ram, another process on CPU 1",
            2 * GIB,
            Kind::Huge,
            "always",
        ),
        hogged(
            "ram of small pages, another process on CPU 1",
            512 * MIB,
            Kind::Small,
            "never",
        ),
        four("ram together", 512 * MIB, json!({})),
        four("ram of small pages together", 128 * MIB, small()),
        Case::new("ram together", "ram", 2 * MIB)
            .backends(64)
            .more_rounds(10)
            .compared(Side::Bare(Kind::Huge), Target::Within(1.5)),
        Case::new("ram together", "ram", 2 * MIB)
            .threads(None)
            .backends(64)
            .more_rounds(10)
            .compared(Side::Bare(Kind::Huge), Target::Within(1.5)),
        Case::new("ram, to begin in the background", "ram", 8 * GIB)
            .threads(None)
            .hostmem(Side::Begin)
            .compared(Side::Complete, Target::Below(Duration::from_millis(1))),
        background("ram in the background, plain", "ram", GIB),
        background("memfd in the background, plain", "memfd", 512 * MIB),
        Case::new("ram with a progress callback", "ram", 512 * MIB)
            .more_rounds(10)
            .hostmem(Side::CompleteReporting)
            .compared(Side::Complete, Target::Within(1.01)),
        Case::new("ram, progress polled each ms", "ram", 512 * MIB)
            .more_rounds(10)
            .hostmem(Side::BackgroundPolled)
            .compared(Side::Background, Target::Within(1.01)),
    ]
}

/// Memory that is ready before it is asked for.
fn ready() -> Vec<Case> {
    let memfd = |name, size| Case::new(name, "memfd", size).threads(None);
    let hugetlb = |name, size| {
        memfd(name, size)
            .needs(Needs::Pool)
            .properties(json!({"hugetlb": true}))
    };
    // So many microseconds for each GiB.
    let received = |case: Case, microseconds: u64| {
        let most = Duration::from_micros(case.size / GIB * microseconds);
        case.hostmem(Side::Receive)
            .compared(Side::Complete, Target::Below(most))
    };
    let from_pool = "ready, from another process: memfd, hugetlb=on";
    let advised = "ready, from another process: memfd, shmem_enabled=advise";
    vec![
        hugetlb("ready, taken: memfd, hugetlb=on", 8 * GIB)
            .hostmem(Side::Take)
            .faster(Side::Complete, 100.0)
            .compared(Side::Complete, Target::Below(Duration::from_millis(1))),
        received(hugetlb(from_pool, GIB), 500).faster(Side::Qemu, 100.0),
        received(hugetlb(from_pool, 4 * GIB), 500).faster(Side::Qemu, 100.0),
        received(memfd(advised, GIB).needs(Needs::Shmem("advise")), 1500).reported(Side::Qemu),
        memfd("ready, from another process: memfd", GIB)
            .needs(Needs::Shmem("never"))
            .hostmem(Side::Receive)
            .faster(Side::Qemu, 3.0)
            .reported(Side::Complete),
        Case::new("ready, refilled beside a loop on every CPU", "ram", 4 * GIB)
            .threads(None)
            .ours(json!({"thp": "never"}))
            .hostmem(Side::WorkBesideRefill)
            .compared(Side::Work, Target::Within(1.05)),
    ]
}

/// Memory that is ready again. Huge pages are zeroed 2.5 times as fast by CPUs since Zen 4 only.
fn ready_again() -> Vec<Case> {
    let huge = |case: Case| {
        case.hostmem(Side::Scrub)
            .faster(Side::DiscardAndPopulate, 2.5)
    };
    let small = |case: Case| {
        case.hostmem(Side::Scrub)
            .faster(Side::DiscardAndPopulate, 10.0)
            .ours(json!({"thp": "never"}))
    };
    let ram = || Case::new("ready again, scrubbed: ram", "ram", GIB).ours(json!({"thp": "always"}));
    let of_pool = || {
        Case::new("ready again, scrubbed: memfd, hugetlb=on", "memfd", GIB)
            .needs(Needs::Pool)
            .properties(json!({"hugetlb": true}))
    };
    let small_ram = || Case::new("ready again, scrubbed: ram of small pages", "ram", GIB);
    let small_memfd = || {
        Case::new("ready again, scrubbed: memfd of small pages", "memfd", GIB)
            .needs(Needs::Shmem("never"))
    };
    vec![
        huge(ram()),
        huge(ram().threads(None)),
        huge(of_pool()),
        huge(of_pool().threads(None)),
        small(small_ram()),
        small(small_ram().threads(None)),
        small(small_memfd()),
        small(small_memfd().threads(None)),
    ]
}

pub fn comparisons() -> Vec<Case> {
    let mut cases = against_qemu();
    cases.extend(against_vm_memory());
    cases.extend(threads_and_waiting());
    cases.extend(ready());
    cases.extend(ready_again());
    cases
}

/// The numbers of threads in the scaling table. More threads than CPUs must do no harm.
pub const THREADS: [u32; 4] = [1, 2, 4, 8];

/// hostmem alone, with one thread and with more.
pub fn scaling() -> Vec<Case> {
    let cases = [
        Case::new("small pages (ram, thp=never)", "ram", 512 * MIB).ours(json!({"thp": "never"})),
        Case::new("transparent huge pages (ram)", "ram", 2 * GIB),
        Case::new("hugetlb (memfd, hugetlb=on)", "memfd", GIB)
            .needs(Needs::Pool)
            .properties(json!({"hugetlb": true})),
        Case::new("shared memory (memfd)", "memfd", 512 * MIB).needs(Needs::Shmem("never")),
        Case::new("shared memory, shmem_enabled=advise", "memfd", GIB)
            .needs(Needs::Shmem("advise")),
    ];
    let more = |case: Case| {
        THREADS[1..].iter().fold(case, |case, &threads| {
            case.reported(Side::CompleteWith(threads))
        })
    };
    cases.into_iter().map(more).collect()
}

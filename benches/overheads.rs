// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The cost of each part of preallocation without the kernel's work: the inputs of
//! docs/scaling.md.
//!
//! Populated memory is populated again, in the plain way, so that little of the kernel's work
//! remains: a walk over the page tables of huge pages.

use std::env;
use std::fs;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use hostmem::Backend;
use hostmem::Builder;
use hostmem::Claim;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::Methods;
use hostmem::Objects;
use hostmem::Thp;

const MIB: u64 = 1 << 20;
/// The chunk size for huge pages.
const CHUNK: u64 = 8 * MIB;
/// The CPUs of two sockets of 64 cores with two threads each.
const MANY: u32 = 256;
const ROUNDS: usize = 15;
const QUICK_ROUNDS: usize = 3;

/// The least time of several rounds.
fn least(rounds: usize, mut time: impl FnMut() -> Duration) -> f64 {
    (0..=rounds).map(|_| time()).min().unwrap().as_secs_f64()
}

fn elapsed(function: impl FnOnce()) -> Duration {
    let start = Instant::now();
    function();
    start.elapsed()
}

/// Populated memory with its claim.
struct Memory {
    backend: Backend,
    claim: Claim,
    size: u64,
}

impl Memory {
    fn new(objects: &Objects, size: u64) -> hostmem::Result<Self> {
        let builder = objects.builder("memory-backend-ram", "ram0")?;
        let builder = builder.size(size).thp(Thp::Always).prealloc(true);
        let backend = builder.complete()?;
        let claim = backend.claim("overheads")?;
        Ok(Self {
            backend,
            claim,
            size,
        })
    }

    /// Populates the first bytes again.
    fn populate(&self, rounds: usize, threads: u32, size: u64) -> f64 {
        self.backend.set("prealloc-threads", threads).unwrap();
        least(rounds, || {
            elapsed(|| self.backend.populate(0, size).unwrap())
        })
    }

    fn each_chunk(&self, mut call: impl FnMut(*mut libc::c_void, usize) -> libc::c_int) {
        for offset in (0..self.size).step_by(CHUNK as usize) {
            let address = self.claim.memory().as_ptr().wrapping_add(offset as usize);
            assert_eq!(call(address.cast(), CHUNK as usize), 0);
        }
    }

    /// The system calls that populating all of it again makes: mincore and populate for each chunk.
    fn bare(&self) {
        let mut pages = vec![0_u8; CHUNK as usize / 4096];
        // SAFETY: inside the memory, which the claim keeps mapped; a byte for each of the pages.
        self.each_chunk(|address, size| unsafe {
            libc::mincore(address, size, pages.as_mut_ptr())
        });
        // SAFETY: inside the memory, whose contents it leaves alone.
        self.each_chunk(|address, size| unsafe {
            libc::madvise(address, size, libc::MADV_POPULATE_WRITE)
        });
    }
}

/// What the watch on available memory reads if no control group has a limit.
fn read_meminfo() {
    assert!(fs::read_to_string("/proc/meminfo").is_ok());
}

/// Each small backend is one chunk.
fn complete_many(objects: &Objects, count: u32, prealloc: bool) -> Duration {
    let builders: Vec<Builder> = (0..count)
        .map(|index| {
            let builder = objects.builder("memory-backend-ram", &format!("m{index}"));
            builder.unwrap().size(4096).prealloc(prealloc)
        })
        .collect();
    elapsed(|| drop(Builder::complete_all(builders).unwrap()))
}

/// A row of the table: microseconds, what they are, and how they were computed.
struct Row(f64, &'static str, String);

fn measure(rounds: usize) -> hostmem::Result<Vec<Row>> {
    let mut host = Host::probe()?;
    host.narrow_methods(Methods::NONE);
    let objects = Objects::new(&host, &Defaults::default())?;
    let memory = Memory::new(&objects, 4096 * MIB)?;
    let (all, some) = (memory.size, u64::from(MANY) * CHUNK);
    let chunks = (all / CHUNK) as f64;
    let more_chunks = ((all - some) / CHUNK) as f64;

    let bare = least(rounds, || elapsed(|| memory.bare()));
    let one = memory.populate(rounds, 1, all);
    let two = memory.populate(rounds, 2, all);
    let many = memory.populate(rounds, MANY, all);
    let many_some = memory.populate(rounds, MANY, some);
    let one_some = memory.populate(rounds, 1, some);
    let run = memory.populate(rounds, 1, 4096);
    let meminfo = least(rounds * 20, || elapsed(read_meminfo));
    let count = 10_000;
    let with = least(rounds.div_ceil(5), || complete_many(&objects, count, true));
    let without = least(rounds.div_ceil(5), || complete_many(&objects, count, false));

    let us = |seconds: f64| seconds * 1e6;
    Ok(vec![
        Row(
            us(run),
            "a run of one page: start, watch, end",
            String::new(),
        ),
        Row(
            us(meminfo),
            "reading /proc/meminfo, which the watch does at most every 10 ms",
            format!("{:.2} % of one thread", meminfo / 10e-3 * 100.0),
        ),
        Row(
            us(bare / chunks),
            "bare calls for a chunk of 8 MiB that is already populated",
            String::new(),
        ),
        Row(
            us((one - bare) / chunks),
            "what one thread adds to them for each chunk",
            format!(
                "({:.3} - {:.3}) ms / {chunks} chunks",
                one * 1e3,
                bare * 1e3
            ),
        ),
        Row(
            us((two - bare / 2.0) / chunks),
            "the same for two threads, with half of the bare time",
            format!("{:.3} ms", two * 1e3),
        ),
        Row(
            us((many - many_some) / more_chunks),
            "each further chunk with 256 threads, with the kernel's work",
            format!(
                "({:.3} - {:.3}) ms / {more_chunks} chunks",
                many * 1e3,
                many_some * 1e3
            ),
        ),
        Row(
            us((many_some - one_some) / f64::from(MANY - 1)),
            "each of 255 workers: create, pass the barrier, join",
            format!("({:.3} - {:.3}) ms", many_some * 1e3, one_some * 1e3),
        ),
        Row(
            us((with - without) / f64::from(count)),
            "each of 10 000 chunks of one page in 10 000 backends, with the page",
            format!("({:.1} - {:.1}) ms", with * 1e3, without * 1e3),
        ),
    ])
}

fn main() -> ExitCode {
    let has = |wanted: &str| env::args().any(|argument| argument == wanted);
    if !has("--bench") {
        return ExitCode::SUCCESS;
    }
    let rounds = if has("--quick") { QUICK_ROUNDS } else { ROUNDS };
    let rows = match measure(rounds) {
        Ok(rows) => rows,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!("| µs | what | from |\n|--:|---|---|");
    for Row(number, what, from) in rows {
        println!("| {number:.2} | {what} | {from} |");
    }
    ExitCode::SUCCESS
}

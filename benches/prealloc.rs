// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Compares preallocation with the bare system calls that do the same: see docs/benchmarks.md.

mod bare;

use std::env;
use std::hint::black_box;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use bare::Kind;
use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::SamplingMode;
use criterion::Throughput;
use hostmem::Builder;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::Objects;
use hostmem::Thp;

const KIND: &str = "memory-backend-ram";
const MIB: u64 = 1 << 20;
const SIZES: [u64; 3] = [64 * MIB, 256 * MIB, 1024 * MIB];

/// Samples of each side of a case in the report: criterion's minimum.
const SAMPLES: u32 = 10;
/// Pairs of measurements behind one row of the table.
const ROUNDS: usize = 21;
/// Pairs before them, so that the hypervisor gives memory back and the CPUs clock up.
const WARM_UP_ROUNDS: usize = 2;

/// What the memory is made of.
#[derive(Clone, Copy)]
enum Pages {
    Small,
    Huge,
}

impl Pages {
    fn name(self) -> &'static str {
        match self {
            Pages::Small => "small",
            Pages::Huge => "huge",
        }
    }

    fn bare(self) -> Kind<'static> {
        match self {
            Pages::Small => Kind::Small,
            Pages::Huge => Kind::Huge,
        }
    }

    fn thp(self) -> Thp {
        match self {
            Pages::Small => Thp::Never,
            Pages::Huge => Thp::Always,
        }
    }
}

/// What both sides do.
#[derive(Clone, Copy)]
struct Case {
    pages: Pages,
    threads: usize,
    size: u64,
}

impl Case {
    fn group_name(self) -> String {
        let plural = if self.threads == 1 { "" } else { "s" };
        format!(
            "prealloc {} pages, {} thread{plural}",
            self.pages.name(),
            self.threads
        )
    }

    /// Enough for ten samples on a slow machine.
    fn measurement_time(self) -> Duration {
        let bytes_per_second = match self.pages {
            Pages::Small => 1024 * MIB,
            Pages::Huge => 10 * 1024 * MIB,
        };
        let sample = Duration::from_secs_f64(self.size as f64 / bytes_per_second as f64);
        (SAMPLES * sample).max(Duration::from_millis(500))
    }

    fn size_name(self) -> String {
        format!("{} MiB", self.size / MIB)
    }
}

/// One, two and all CPUs, without duplicates.
fn thread_counts() -> Vec<usize> {
    let all = thread::available_parallelism().map_or(1, usize::from);
    let mut counts = vec![1, 2, all];
    counts.sort_unstable();
    counts.dedup();
    counts
}

/// Groups of cases that differ only in size, so that a group's plot is time over size.
fn case_groups() -> Vec<Vec<Case>> {
    let mut groups = Vec::new();
    for pages in [Pages::Small, Pages::Huge] {
        for threads in thread_counts() {
            let case = |size| Case {
                pages,
                threads,
                size,
            };
            groups.push(SIZES.map(case).to_vec());
        }
    }
    groups
}

/// Maps, populates and unmaps with the bare system calls.
fn time_bare(case: Case) -> Duration {
    let start = Instant::now();
    let memory = [bare::Memory::new(case.size, case.pages.bare()).unwrap()];
    bare::populate(&memory, case.threads).unwrap();
    drop(black_box(memory));
    start.elapsed()
}

fn configure(objects: &Objects, case: Case) -> Builder {
    objects
        .builder(KIND, "ram0")
        .unwrap()
        .size(case.size)
        .thp(case.pages.thp())
        .prealloc(true)
        .prealloc_threads(u32::try_from(case.threads).unwrap())
}

/// The same with the library. Its properties are set before the clock starts.
fn time_hostmem(objects: &Objects, case: Case) -> Duration {
    let builder = configure(objects, case);
    let start = Instant::now();
    drop(black_box(builder.complete().unwrap()));
    start.elapsed()
}

/// Prints a note if the kernel does not give the pages that a case is named after.
fn check_pages(objects: &Objects, case: Case) {
    let backend = configure(objects, case).complete().unwrap();
    let placement = backend.placement().unwrap();
    assert_eq!(placement.resident, case.size);
    let wanted = match case.pages {
        Pages::Small => 0,
        Pages::Huge => case.size,
    };
    if placement.huge != wanted {
        println!(
            "note: {} MiB of {} are in huge pages, for a case of {} pages",
            placement.huge / MIB,
            case.size_name(),
            case.pages.name()
        );
    }
}

fn bench_groups(criterion: &mut Criterion, objects: &Objects) {
    for cases in case_groups() {
        let mut group = criterion.benchmark_group(cases[0].group_name());
        group
            .sampling_mode(SamplingMode::Flat)
            .sample_size(SAMPLES as usize)
            // Long enough for a hypervisor to give back memory that it took while idle.
            .warm_up_time(Duration::from_millis(700));
        for case in cases {
            group.measurement_time(case.measurement_time());
            group.throughput(Throughput::Bytes(case.size));
            group.bench_function(BenchmarkId::new("hostmem", case.size_name()), |bencher| {
                check_pages(objects, case);
                bencher.iter_custom(|count| (0..count).map(|_| time_hostmem(objects, case)).sum());
            });
            group.bench_function(BenchmarkId::new("bare", case.size_name()), |bencher| {
                bencher.iter_custom(|count| (0..count).map(|_| time_bare(case)).sum());
            });
        }
        group.finish();
    }
}

/// The times of both sides, measured in turns, each first in every other round, so that a
/// disturbance hits both.
fn alternate(objects: &Objects, case: Case) -> (Vec<Duration>, Vec<Duration>) {
    let (mut hostmem, mut bare) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP_ROUNDS + ROUNDS {
        let hostmem_first = round % 2 == 0;
        let before = hostmem_first.then(|| time_hostmem(objects, case));
        let bare_time = time_bare(case);
        let hostmem_time = before.unwrap_or_else(|| time_hostmem(objects, case));
        if round >= WARM_UP_ROUNDS {
            hostmem.push(hostmem_time);
            bare.push(bare_time);
        }
    }
    hostmem.sort_unstable();
    bare.sort_unstable();
    (hostmem, bare)
}

fn print_columns(hostmem: Duration, bare: Duration) {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    print!(
        " | {:>9.3} {:>9.3} {:>6.3}",
        milliseconds(hostmem),
        milliseconds(bare),
        hostmem.as_secs_f64() / bare.as_secs_f64()
    );
}

fn print_overhead(objects: &Objects) {
    let columns = "  hostmem      bare  ratio";
    println!("\nOverhead: milliseconds, {ROUNDS} rounds, ratio = hostmem / bare");
    println!("{:<39} | {:<26} | median", "", "minimum");
    println!("{:<39} | {columns} | {columns}", "");
    for case in case_groups().concat() {
        let (hostmem, bare) = alternate(objects, case);
        print!("{:<29} {:>9}", case.group_name(), case.size_name());
        print_columns(hostmem[0], bare[0]);
        print_columns(hostmem[ROUNDS / 2], bare[ROUNDS / 2]);
        println!();
    }
}

/// Cargo passes `--bench` to measure; listing and testing the benchmarks measure nothing.
fn is_measuring() -> bool {
    let has = |wanted: &str| env::args().any(|argument| argument == wanted);
    has("--bench") && !has("--list") && !has("--test")
}

fn main() {
    let host = Host::probe().unwrap();
    let objects = Objects::new(&host, &Defaults::default()).unwrap();
    let mut criterion = Criterion::default().configure_from_args();
    bench_groups(&mut criterion, &objects);
    criterion.final_summary();
    if is_measuring() {
        print_overhead(&objects);
    }
}

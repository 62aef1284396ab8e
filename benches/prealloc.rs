// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What preallocating memory costs beside the bare system calls that do the same: see
//! docs/benchmarks.md.

use std::env;
use std::hint::black_box;
use std::thread;
use std::time::Duration;
use std::time::Instant;

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

/// Of each side of a case, for the report. The fewest there can be.
const SAMPLES: u32 = 10;
/// Pairs of measurements behind one row of the table.
const ROUNDS: usize = 21;
/// Pairs before them, which bring the memory back from the hypervisor and the CPUs to speed.
const WARM_UP_ROUNDS: usize = 2;

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

    fn thp(self) -> Thp {
        match self {
            Pages::Small => Thp::Never,
            Pages::Huge => Thp::Always,
        }
    }
}

/// What is compared: the same for both sides.
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

/// One, two and all CPUs, without a number twice.
fn thread_counts() -> Vec<usize> {
    let all = thread::available_parallelism().map_or(1, usize::from);
    let mut counts = vec![1, 2, all];
    counts.sort_unstable();
    counts.dedup();
    counts
}

/// In groups that differ in size only, so that a group's plot is time over size.
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

/// The best known way with system calls alone.
///
/// It assumes base pages of 4 KiB and huge pages of 2 MiB.
mod bare {
    use std::ffi::c_int;
    use std::ffi::c_void;
    use std::mem::MaybeUninit;
    use std::ptr;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;
    use std::sync::Mutex;

    use crate::Case;
    use crate::Pages;

    const PAGE: usize = 4 << 10;
    const HUGE_PAGE: usize = 2 << 20;
    const CHUNK: usize = 8 << 20;

    /// Address space that is given back on drop, with memory at an address huge pages fit.
    pub struct Memory {
        base: *mut c_void,
        base_size: usize,
        address: *mut c_void,
        size: usize,
    }

    fn map(at: *mut c_void, size: usize, protection: c_int, flags: c_int) -> *mut c_void {
        let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: without MAP_FIXED only free address space is taken; the one caller with it gives
        // a range that it has reserved itself and that nothing uses.
        let mapped = unsafe { libc::mmap(at, size, protection, flags, -1, 0) };
        assert_ne!(mapped, libc::MAP_FAILED);
        mapped
    }

    impl Memory {
        pub fn new(case: Case) -> Self {
            let size = usize::try_from(case.size).unwrap();
            let base_size = size + HUGE_PAGE;
            let base = map(
                ptr::null_mut(),
                base_size,
                libc::PROT_NONE,
                libc::MAP_NORESERVE,
            );
            let padding = (base as usize).next_multiple_of(HUGE_PAGE) - base as usize;
            let at = base.wrapping_byte_add(padding);
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let memory = Self {
                base,
                base_size,
                address: map(at, size, access, libc::MAP_FIXED),
                size,
            };
            memory.advise(
                0,
                size,
                match case.pages {
                    Pages::Small => libc::MADV_NOHUGEPAGE,
                    Pages::Huge => libc::MADV_HUGEPAGE,
                },
            );
            memory
        }

        fn advise(&self, offset: usize, size: usize, advice: c_int) {
            assert!(offset + size <= self.size);
            let at = self.address.wrapping_byte_add(offset);
            // SAFETY: inside the mapping; no advice that is given here changes what memory holds.
            let result = unsafe { libc::madvise(at, size, advice) };
            assert_eq!(result, 0);
        }
    }

    impl Drop for Memory {
        fn drop(&mut self) {
            // SAFETY: the whole of what new() reserved, and nothing refers to it any more.
            unsafe { libc::munmap(self.base, self.base_size) };
        }
    }

    struct Work<'a> {
        memory: &'a Memory,
        pages: Pages,
        next: AtomicUsize,
        /// Held while threads are created, since they need locks that populating holds.
        gate: Mutex<()>,
    }

    // SAFETY: the memory behind the pointers is populated only, which any thread may do, and is
    // unmapped after the last one was joined; everything else is Sync by itself.
    unsafe impl Sync for Work<'_> {}

    impl Work<'_> {
        fn populate(&self, offset: usize, size: usize) {
            if let Pages::Huge = self.pages {
                // Kernels before 2026 zero a huge page towards the address that faulted, and do it
                // faster upwards.
                for last in (offset + HUGE_PAGE..=offset + size).step_by(HUGE_PAGE) {
                    self.memory
                        .advise(last - PAGE, PAGE, libc::MADV_POPULATE_WRITE);
                }
            }
            self.memory.advise(offset, size, libc::MADV_POPULATE_WRITE);
        }

        fn run(&self) {
            loop {
                let offset = self.next.fetch_add(CHUNK, Ordering::Relaxed);
                if offset >= self.memory.size {
                    return;
                }
                self.populate(offset, CHUNK.min(self.memory.size - offset));
            }
        }
    }

    extern "C" fn run_worker(data: *mut c_void) -> *mut c_void {
        // SAFETY: the Work that create_worker() was given; it outlives the thread, which
        // populate() joins.
        let work = unsafe { &*data.cast::<Work<'_>>() };
        drop(work.gate.lock());
        work.run();
        ptr::null_mut()
    }

    /// Not a thread of the standard library: that makes a signal stack first, of which hostmem's
    /// threads know nothing either.
    fn create_worker(work: &Work<'_>) -> libc::pthread_t {
        let mut thread = MaybeUninit::uninit();
        let data = ptr::from_ref(work).cast_mut().cast();
        // SAFETY: the function takes what data points to, which lives until the thread is joined,
        // and which is Sync.
        let error =
            unsafe { libc::pthread_create(thread.as_mut_ptr(), ptr::null(), run_worker, data) };
        assert_eq!(error, 0);
        // SAFETY: written by the call, which succeeded.
        unsafe { thread.assume_init() }
    }

    pub fn populate(memory: &Memory, case: Case) {
        let work = Work {
            memory,
            pages: case.pages,
            next: AtomicUsize::new(0),
            gate: Mutex::new(()),
        };
        let threads = case.threads.min(memory.size.div_ceil(CHUNK));
        let gate = work.gate.lock();
        let workers: Vec<_> = (1..threads).map(|_| create_worker(&work)).collect();
        drop(gate);
        work.run();
        for worker in workers {
            // SAFETY: created above, and joined once.
            unsafe { libc::pthread_join(worker, ptr::null_mut()) };
        }
    }
}

/// From nothing to populated memory and back to nothing, with the bare system calls.
fn time_bare(case: Case) -> Duration {
    let start = Instant::now();
    let memory = bare::Memory::new(case);
    bare::populate(&memory, case);
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

/// Says where the kernel does not give what a case is named after.
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
            // Long enough to bring the memory back from a hypervisor that takes idle memory.
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

/// The times of both sides, taken in turns and each going first every other time, so that what
/// disturbs a machine for a while disturbs both.
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

/// Cargo passes `--bench` when it measures; listing and trying the benchmarks out measure nothing.
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

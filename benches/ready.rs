// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that is ready again or ready already, compared with filling it fresh: scrubbing in place, and
//! taking it from a pool.
//! See docs/benchmarks.md.
//!
//! Both sides of a row are measured in turns in one run, so that a disturbance hits both.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use hostmem::pool;
use hostmem::Claim;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::Objects;
use hostmem::Pool;

const GIB: u64 = 1 << 30;
/// Pairs of measurements behind one row.
const ROUNDS: usize = 11;
/// Pairs before them, so that the CPUs clock up and the hypervisor gives memory back.
const WARM_UP_ROUNDS: usize = 2;

fn elapsed(function: impl FnOnce()) -> Duration {
    let start = Instant::now();
    function();
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

/// The median times of two sides, in turns, each first in every other round.
fn alternate(mut one: impl FnMut() -> Duration, mut other: impl FnMut() -> Duration) -> (f64, f64) {
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP_ROUNDS + ROUNDS {
        let before = (round % 2 == 0).then(&mut one);
        let other_time = other();
        let one_time = before.unwrap_or_else(&mut one);
        if round >= WARM_UP_ROUNDS {
            ones.push(one_time);
            others.push(other_time);
        }
    }
    (median(ones), median(others))
}

/// Writes all of the memory, as a guest that has run.
fn dirty(claim: &Claim) {
    let memory = claim.memory();
    // SAFETY: mapped and writable as long as the claim lives, and nobody else uses it.
    unsafe { memory.as_ptr().write_bytes(0x5a, memory.len() as usize) };
}

// ---- Scrubbing ----

/// What the memory is made of, and the rest of its option string.
const BACKINGS: [(&str, &str); 4] = [
    ("anonymous, huge", "memory-backend-ram,thp=always"),
    ("anonymous, small", "memory-backend-ram,thp=never"),
    (
        "memfd, hugetlb",
        "memory-backend-memfd,hugetlb=on,hugetlbsize=2M",
    ),
    ("memfd, small", "memory-backend-memfd,thp=never"),
];

fn print_scrub(objects: &Objects, name: &str, options: &str, threads: usize) {
    let options = format!("{options},id=ram0,size=1G,prealloc=on,prealloc-threads={threads}");
    let backend = match objects.parse(&options).unwrap().complete() {
        Ok(backend) => backend,
        Err(failed) => return println!("skipped: {name}: {}", failed.error),
    };
    let claim = backend.claim("benchmark").unwrap();
    let scrub = || {
        dirty(&claim);
        elapsed(|| claim.scrub(0, GIB).unwrap())
    };
    let fresh = || {
        dirty(&claim);
        elapsed(|| {
            claim.discard(0, GIB).unwrap();
            claim.populate(0, GIB).unwrap();
        })
    };
    let (scrub, fresh) = alternate(scrub, fresh);
    println!(
        "{name:<18} {threads:>7} | {:>7.1} {:>8.1} {:>6.1}",
        1.0 / scrub,
        1.0 / fresh,
        fresh / scrub
    );
}

fn print_scrubs(objects: &Objects) {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    println!("\nScrub: GiB/s of 1 GiB of dirty memory, median of {ROUNDS} rounds");
    println!("{:<18} {:>7} |   scrub discard+  ratio", "", "threads");
    println!("{:<18} {:>7} |         populate", "", "");
    for (name, options) in BACKINGS {
        for threads in [1, all] {
            print_scrub(objects, name, options, threads);
        }
    }
}

// ---- Pools ----

fn print_take(objects: &Objects, name: &str, options: &str) {
    let options = format!("{options},size=2G");
    let pool = match Pool::parse(objects, &options, 1) {
        Ok(pool) => pool,
        Err(error) => return println!("skipped: {name}: {error}"),
    };
    let (mut takes, mut fresh) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        if !pool.wait(1, Some(Duration::from_secs(120))).unwrap() {
            return println!("skipped: {name}: {:?}", pool.status().failure);
        }
        let mut taken = None;
        takes.push(elapsed(|| taken = Some(pool.take("ram0").unwrap())));
        let taken = taken.unwrap();
        assert!(taken.was_ready);
        // So that the refill does not disturb the other side, for which there may be no room.
        assert!(pool.wait(1, Some(Duration::from_secs(120))).unwrap());
        drop(taken);
        let builder = objects
            .parse(format!("{options},id=ram0,prealloc=on"))
            .unwrap();
        let mut backend = None;
        fresh.push(elapsed(|| backend = builder.complete().ok()));
        if backend.is_none() {
            return println!("skipped: {name}: memory is short");
        }
    }
    let (take, fresh) = (median(takes), median(fresh));
    println!(
        "{name:<18} | {:>9.3} {:>9.1} {:>8.0}",
        take * 1e3,
        fresh * 1e3,
        fresh / take
    );
}

/// Steps that loops on all CPUs make in a time.
fn count_steps() -> u64 {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let end = Instant::now() + Duration::from_secs(2);
    let spin = || {
        let mut steps = 0u64;
        while Instant::now() < end {
            for step in 0..10_000u64 {
                std::hint::black_box(step);
            }
            steps += 1;
        }
        steps
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..all).map(|_| scope.spawn(spin)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    })
}

/// What refilling takes from a neighbour that is busy on every CPU.
fn print_neighbour(objects: &Objects) {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        alone.push(count_steps());
        let pool = Pool::parse(objects, "memory-backend-ram,size=2G,thp=never", 1).unwrap();
        beside.push(count_steps());
        drop(pool);
    }
    alone.sort_unstable();
    beside.sort_unstable();
    println!(
        "\nA neighbour on every CPU has {:.1} % of its throughput while a pool refills",
        100.0 * beside[2] as f64 / alone[2] as f64
    );
}

/// From connecting to memory that is ready in the taker, of 1 GiB.
fn print_handover(objects: &Objects, name: &str, options: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool");
    let mut server = Command::new(env!("CARGO_BIN_EXE_hostmem"))
        .args(["pool", "--socket"])
        .arg(&path)
        .arg(format!("1:{options},size=1G"))
        .spawn()
        .unwrap();
    let is_ready = || loop {
        match pool::receive(&path, "pool0") {
            // What was not ready was made for this one, and another one is filled now.
            Ok(memory) if memory.was_ready => return true,
            Ok(_) => std::thread::sleep(Duration::from_secs(2)),
            Err(_) if server_has_ended(&path) => return false,
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let (mut takes, mut fresh) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        if !is_ready() {
            println!("skipped: {name}: the pool cannot be filled");
            break;
        }
        std::thread::sleep(Duration::from_secs(3));
        let mut backend = None;
        takes.push(elapsed(|| {
            let builder = pool::take(&path, "pool0", objects, "ram0").unwrap();
            backend = Some(builder.complete().unwrap());
        }));
        drop(backend);
        std::thread::sleep(Duration::from_secs(3));
        let builder = objects
            .parse(format!("{options},size=1G,id=ram0,prealloc=on"))
            .unwrap();
        let mut backend = None;
        fresh.push(elapsed(|| backend = builder.complete().ok()));
    }
    let _ = server.kill();
    let _ = server.wait();
    if fresh.len() < 5 {
        return;
    }
    let (take, fresh) = (median(takes), median(fresh));
    println!(
        "{name:<18} | {:>9.3} {:>9.1} {:>8.0}",
        take * 1e3,
        fresh * 1e3,
        fresh / take
    );
}

/// Whether no server listens after its start should be over.
fn server_has_ended(path: &Path) -> bool {
    std::thread::sleep(Duration::from_millis(500));
    std::os::unix::net::UnixStream::connect(path).is_err()
}

fn print_pools(objects: &Objects) {
    println!("\nTake 2 GiB: milliseconds, median of 5");
    println!("{:<18} |      take  complete    ratio", "");
    for (name, options) in BACKINGS {
        print_take(objects, name, options);
    }
    println!("\nTake 1 GiB from another process: milliseconds, median of 5");
    println!("{:<18} |      take  complete    ratio", "");
    for (name, options) in BACKINGS {
        if options.contains("memfd") {
            print_handover(objects, name, options);
        }
    }
    print_neighbour(objects);
}

fn main() {
    // Cargo passes `--bench` to measure; testing the benchmarks measures nothing.
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    let host = Host::probe().unwrap();
    let objects = Objects::new(&host, &Defaults::default()).unwrap();
    print_scrubs(&objects);
    print_pools(&objects);
}

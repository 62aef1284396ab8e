// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that is ready again or ready already, compared with filling it fresh: scrubbing in place.
//! See docs/benchmarks.md.
//!
//! Both sides of a row are measured in turns in one run, so that a disturbance hits both.

use std::env;
use std::time::Duration;
use std::time::Instant;

use hostmem::Claim;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::Objects;

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

fn main() {
    // Cargo passes `--bench` to measure; testing the benchmarks measures nothing.
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    let host = Host::probe().unwrap();
    let objects = Objects::new(&host, &Defaults::default()).unwrap();
    print_scrubs(&objects);
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A small backend from its creation to its end, compared with the same system calls alone: see
//! docs/benchmarks.md. tests/instructions.rs keeps the instructions that it takes.

use std::env;
use std::ffi::c_int;
use std::ffi::c_void;
use std::ptr;
use std::time::Duration;
use std::time::Instant;

use hostmem::Defaults;
use hostmem::Host;
use hostmem::Objects;

const SIZE: usize = 2 << 20;
const PAGE: usize = 4096;
const ROUNDS: usize = 60;
const LIVES: u32 = 2000;

fn live(objects: &Objects) {
    let builder = objects.builder("memory-backend-ram", "m1").unwrap();
    let backend = builder.size(SIZE as u64).complete().unwrap();
    drop(backend.claim("vm").unwrap());
    backend.delete().unwrap();
}

fn map(address: *mut c_void, size: usize, flags: c_int) -> *mut c_void {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: the kernel chooses the place, or nothing is at it.
    let mapped = unsafe { libc::mmap(address, size, libc::PROT_NONE, flags, -1, 0) };
    assert_ne!(mapped, libc::MAP_FAILED);
    mapped
}

/// What strace(1) shows of `live`: a range that holds the memory at a multiple of its size with a
/// guard page on each side, without what is beside them; then the memory, its advice, its name, and
/// the look whether it is locked.
fn call() {
    let all = SIZE * 2 + PAGE * 2;
    let base = map(ptr::null_mut(), all, libc::MAP_NORESERVE);
    let before = (base.addr() + PAGE).next_multiple_of(SIZE) - PAGE - base.addr();
    let first_guard = base.wrapping_byte_add(before);
    let place = first_guard.wrapping_byte_add(PAGE);
    let behind = place.wrapping_byte_add(SIZE + PAGE);
    // SAFETY: all of it is in the range that was mapped, and nobody else knows it.
    unsafe {
        if before > 0 {
            assert_eq!(libc::munmap(base, before), 0);
        }
        if all > before + PAGE + SIZE + PAGE {
            assert_eq!(libc::munmap(behind, all - before - PAGE - SIZE - PAGE), 0);
        }
        assert_eq!(libc::munmap(place, SIZE), 0);
    }
    let memory = map(place, SIZE, libc::MAP_FIXED_NOREPLACE);
    // SAFETY: the memory was mapped just now; prctl(2) reads a static string.
    unsafe {
        for advice in [
            libc::MADV_HUGEPAGE,
            libc::MADV_DONTFORK,
            libc::MADV_UNMERGEABLE,
            libc::MADV_DODUMP,
        ] {
            // Not every kernel has each of them.
            libc::madvise(memory, SIZE, advice);
        }
        let name = c"hostmem:m1".as_ptr();
        libc::prctl(
            libc::PR_SET_VMA,
            libc::PR_SET_VMA_ANON_NAME,
            memory,
            SIZE,
            name,
        );
        libc::msync(memory, SIZE, libc::MS_ASYNC | libc::MS_INVALIDATE);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        assert_eq!(libc::mprotect(memory, SIZE, access), 0);
        assert_eq!(libc::munmap(first_guard, SIZE + 2 * PAGE), 0);
    }
}

fn time(function: impl Fn()) -> Duration {
    let start = Instant::now();
    (0..LIVES).for_each(|_| function());
    start.elapsed() / LIVES
}

fn main() {
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    let host = Host::probe().unwrap();
    let objects = Objects::new(&host, &Defaults::default()).unwrap();
    // In turns, so that a disturbance hits both.
    let rounds = (0..ROUNDS).map(|_| (time(|| live(&objects)), time(call)));
    let (ours, bare) = rounds
        .reduce(|least, round| (least.0.min(round.0), least.1.min(round.1)))
        .unwrap();
    println!(
        "a life of 2 MiB: {:.2} us, its system calls alone: {:.2} us, ratio {:.2} (minima of \
         {ROUNDS} rounds of {LIVES})",
        ours.as_secs_f64() * 1e6,
        bare.as_secs_f64() * 1e6,
        ours.as_secs_f64() / bare.as_secs_f64()
    );
}

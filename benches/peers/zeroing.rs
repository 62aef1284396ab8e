// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What this CPU makes of the order in which a huge page is zeroed.
//!
//! The kernel zeroes small page by small page, by `rep stosb` on CPUs that have it fast, and, in
//! Linux 6.18 and before, from the last one to the first where the first one was asked for. Here the same is
//! done by the program itself, on memory that is there, so that nothing but the CPU has a part in
//! it.

use std::fs;
use std::time::Duration;
use std::time::Instant;

use hostmem::Objects;
use hostmem::Thp;

use crate::cases::GIB;
use crate::cases::MIB;

const SIZE: u64 = 512 * MIB;
const HUGE_PAGE: usize = 2 << 20;
const PAGE: usize = 4 << 10;
const ROUNDS: usize = 9;

#[derive(Clone, Copy)]
enum Order {
    Upwards,
    Downwards,
}

/// GiB a second.
struct Speeds {
    upwards: f64,
    downwards: f64,
}

/// # Safety
/// The page is writable memory, and what it holds is nobody's.
#[cfg(target_arch = "x86_64")]
unsafe fn zero_page(page: *mut u8) {
    // SAFETY: writes PAGE bytes from the page's begin on, as the caller allows. The ABI has the
    // direction flag clear.
    unsafe {
        std::arch::asm!("rep stosb", inout("rdi") page => _, inout("rcx") PAGE => _, in("al") 0_u8,
            options(nostack, preserves_flags));
    }
}

/// # Safety
/// As with the other.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn zero_page(page: *mut u8) {
    // SAFETY: as the caller says.
    unsafe { page.write_bytes(0, PAGE) }
}

/// # Safety
/// As for each page.
unsafe fn time(memory: *mut u8, size: usize, order: Order) -> Duration {
    const PAGES: usize = HUGE_PAGE / PAGE;
    let start = Instant::now();
    for huge_page in (0..size).step_by(HUGE_PAGE) {
        for index in 0..PAGES {
            let page = match order {
                Order::Upwards => index,
                Order::Downwards => PAGES - 1 - index,
            };
            // SAFETY: inside of the memory, as the caller says.
            unsafe { zero_page(memory.add(huge_page + page * PAGE)) };
        }
    }
    start.elapsed()
}

fn measure(objects: &Objects) -> hostmem::Result<Speeds> {
    let builder = objects.builder("memory-backend-ram", "zeroed")?;
    let backend = builder
        .size(SIZE)
        .thp(Thp::Always)
        .prealloc(true)
        .complete();
    let backend = backend.map_err(|failed| failed.error)?;
    let claim = backend.claim("zeroing")?;
    let (memory, size) = (claim.memory().as_ptr(), usize::try_from(SIZE).unwrap());
    let mut least = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        for (least, order) in least.iter_mut().zip([Order::Upwards, Order::Downwards]) {
            // SAFETY: all of the memory, which the claim keeps and nobody else reads.
            *least = (*least).min(unsafe { time(memory, size, order) });
        }
    }
    let [upwards, downwards] = least.map(|time| SIZE as f64 / GIB as f64 / time.as_secs_f64());
    Ok(Speeds { upwards, downwards })
}

/// The vendor, family and model, by which CPUs differ in this.
fn name_cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let value = lines.find(|(key, _)| key.trim() == name);
        value.map_or("?", |(_, value)| value.trim()).to_owned()
    };
    let [vendor, family, model] = ["vendor_id", "cpu family", "model"].map(field);
    format!("{vendor} family {family} model {model}")
}

/// What is said above the tables.
pub fn tell(objects: &Objects) -> String {
    match measure(objects) {
        Ok(speeds) => format!(
            "Small page by small page, as the kernel does it, this CPU ({}) zeroes {:.1} GiB/s \
             upwards and {:.1} downwards, with nothing of the kernel in it: what the order in \
             huge pages can gain is {:.2} times.\n",
            name_cpu(),
            speeds.upwards,
            speeds.downwards,
            speeds.upwards / speeds.downwards
        ),
        Err(error) => format!(
            "What this CPU ({}) zeroes is unknown: {error}\n",
            name_cpu()
        ),
    }
}

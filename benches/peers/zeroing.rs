// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How fast this CPU zeroes a huge page upwards and downwards.
//!
//! The kernel zeroes a huge page one small page at a time, by `rep stosb` on CPUs where that is
//! fast. Linux 6.18 and before zero from the last small page to the first if the first one faulted.
//! Here the program does the same itself, on populated memory, so that only the CPU is measured.

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

/// GiB/s.
struct Speeds {
    upwards: f64,
    downwards: f64,
}

/// # Safety
/// The page is writable memory, and nothing else reads or writes it.
#[cfg(target_arch = "x86_64")]
unsafe fn zero_page(page: *mut u8) {
    // SAFETY: writes PAGE bytes from the start of the page, as the caller allows. The ABI has the
    // direction flag clear.
    unsafe {
        std::arch::asm!("rep stosb", inout("rdi") page => _, inout("rcx") PAGE => _, in("al") 0_u8,
            options(nostack, preserves_flags));
    }
}

/// # Safety
/// As above.
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
            // SAFETY: all of the memory, which the claim keeps mapped and nothing else reads.
            *least = (*least).min(unsafe { time(memory, size, order) });
        }
    }
    let [upwards, downwards] = least.map(|time| SIZE as f64 / GIB as f64 / time.as_secs_f64());
    Ok(Speeds { upwards, downwards })
}

/// Vendor, family and model.
pub fn cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let value = lines.find(|(key, _)| key.trim() == name);
        value.map_or("?", |(_, value)| value.trim()).to_owned()
    };
    let [vendor, family, model] = ["vendor_id", "cpu family", "model"].map(field);
    format!("{vendor} family {family} model {model}")
}

/// The text above the tables.
pub fn report(objects: &Objects) -> String {
    match measure(objects) {
        Ok(speeds) => format!(
            "Without the kernel, this CPU zeroes {:.1} GiB/s upwards and {:.1} GiB/s downwards, one \
             small page\nat a time. So the order of zeroing in huge pages can gain {:.2} times.\n",
            speeds.upwards,
            speeds.downwards,
            speeds.upwards / speeds.downwards
        ),
        Err(error) => format!("How fast this CPU zeroes is unknown: {error}\n"),
    }
}

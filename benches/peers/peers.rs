// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Times the bare system calls and vm-memory, which run in this process.

use std::io;
use std::time::Duration;
use std::time::Instant;

use vm_memory_018 as vm_memory;

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::MmapRegion;

use crate::bare;
use crate::cases::Case;
use crate::machine;

type Time = Result<Duration, String>;

fn message(error: io::Error) -> String {
    format!("bare calls: {error}")
}

fn make<'a>(case: &Case, kind: bare::Kind<'a>) -> io::Result<Vec<bare::Memory<'a>>> {
    (0..case.backends)
        .map(|_| bare::Memory::new(case.size, kind))
        .collect()
}

/// Without a number of threads: as many as hostmem has by default.
pub fn bare(case: &Case, kind: bare::Kind<'_>) -> Time {
    let threads = case.threads.map_or(machine::cpus(), |count| count as usize);
    let start = Instant::now();
    let memory = make(case, kind).map_err(message)?;
    bare::populate(&memory, threads).map_err(message)?;
    Ok(start.elapsed())
}

/// A fixed slice for each thread, which is pinned to the CPUs given.
pub fn slices(case: &Case, kind: bare::Kind<'_>, cpus: [&[usize]; 2]) -> Time {
    let start = Instant::now();
    let memory = make(case, kind).map_err(message)?;
    bare::populate_slices(&memory, &cpus).map_err(message)?;
    Ok(start.elapsed())
}

/// Anonymous memory as vm-memory maps it by itself, with further flags and by advice.
pub fn vm_memory(case: &Case, flags: i32, advice: &[i32]) -> Time {
    let size = usize::try_from(case.size).unwrap();
    let own = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let start = Instant::now();
    let region: MmapRegion<()> = MmapRegionBuilder::new(size)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(own | flags)
        .build()
        .map_err(|error| error.to_string())?;
    for &advice in advice {
        // SAFETY: the whole of the region, which nothing else uses.
        if unsafe { libc::madvise(region.as_ptr().cast(), size, advice) } != 0 {
            return Err(format!("vm-memory: {}", io::Error::last_os_error()));
        }
    }
    Ok(start.elapsed())
}

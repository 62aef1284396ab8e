// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which thread populates what: chunks from one queue, or a fixed slice each.

use std::ffi::c_void;
use std::io;
use std::mem;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::Mutex;

use super::fill::Fill;
use super::Memory;
use super::HUGE_PAGE;

const CHUNK: usize = 8 << 20;

struct Work<'a> {
    fills: Vec<Fill<'a>>,
    /// The next chunk of the queue.
    next: AtomicUsize,
    /// Held while threads are created: creating them needs locks that populating holds.
    gate: Mutex<()>,
    /// The errno of a failure; 0 for none.
    error: AtomicI32,
}

// SAFETY: threads only populate the memory behind the pointers, which any thread may do, and it is
// unmapped after the last one is joined; everything else is Sync.
unsafe impl Sync for Work<'_> {}

impl<'a> Work<'a> {
    fn new(memory: &'a [Memory<'a>]) -> io::Result<Self> {
        let fills: io::Result<_> = memory.iter().map(Fill::new).collect();
        Ok(Self {
            fills: fills?,
            next: AtomicUsize::new(0),
            gate: Mutex::new(()),
            error: AtomicI32::new(0),
        })
    }

    /// All memory is of the same size.
    fn chunks_of_each(&self) -> usize {
        self.fills[0].size().div_ceil(CHUNK)
    }

    fn populate(&self, fill: &Fill<'_>, offset: usize, size: usize) {
        if let Err(error) = fill.populate(offset, size) {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            self.error.store(errno, Ordering::Relaxed);
        }
    }

    fn take_chunks(&self) {
        let of_each = self.chunks_of_each();
        loop {
            let chunk = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(fill) = self.fills.get(chunk / of_each) else {
                return;
            };
            let offset = chunk % of_each * CHUNK;
            self.populate(fill, offset, CHUNK.min(fill.size() - offset));
        }
    }

    fn take_slice(&self, index: usize, slices: usize) {
        for fill in &self.fills {
            let boundary = |index: usize| fill.size() / HUGE_PAGE * index / slices * HUGE_PAGE;
            let offset = boundary(index);
            self.populate(fill, offset, boundary(index + 1) - offset);
        }
    }

    fn result(&self) -> io::Result<()> {
        match self.error.load(Ordering::Relaxed) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// What one thread does.
struct Worker<'a> {
    work: &'a Work<'a>,
    /// None for chunks of the queue.
    slice: Option<(usize, usize)>,
    /// The CPUs to run on; empty for all.
    cpus: &'a [usize],
}

fn pin(cpus: &[usize]) {
    // SAFETY: all zeros are an empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    for &cpu in cpus {
        // SAFETY: the set is a local.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: reads the set, whose size is given.
    unsafe { libc::sched_setaffinity(0, mem::size_of_val(&set), &set) };
}

extern "C" fn run_worker(data: *mut c_void) -> *mut c_void {
    // SAFETY: the Worker that create() was given; it outlives the thread, which run() joins.
    let worker = unsafe { &*data.cast::<Worker<'_>>() };
    if !worker.cpus.is_empty() {
        pin(worker.cpus);
    }
    drop(worker.work.gate.lock());
    match worker.slice {
        None => worker.work.take_chunks(),
        Some((index, slices)) => worker.work.take_slice(index, slices),
    }
    ptr::null_mut()
}

/// Not a thread of the standard library, which allocates a signal stack first. hostmem's threads do
/// not either.
fn create(worker: &Worker<'_>) -> io::Result<libc::pthread_t> {
    let mut thread = MaybeUninit::uninit();
    let data = ptr::from_ref(worker).cast_mut().cast();
    // SAFETY: the function takes what data points to, which lives until the thread is joined,
    // and which is Sync.
    let error = unsafe { libc::pthread_create(thread.as_mut_ptr(), ptr::null(), run_worker, data) };
    match error {
        // SAFETY: written by the call, which succeeded.
        0 => Ok(unsafe { thread.assume_init() }),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Runs a thread for each worker, and the caller's function in this one.
fn run(work: &Work<'_>, workers: &[Worker<'_>], caller: impl FnOnce()) -> io::Result<()> {
    let gate = work.gate.lock();
    let threads: Vec<_> = workers.iter().map(create).collect();
    drop(gate);
    caller();
    let mut result = work.result();
    for thread in threads {
        match thread {
            // SAFETY: created above, and joined once.
            Ok(thread) => unsafe {
                libc::pthread_join(thread, ptr::null_mut());
            },
            Err(error) => result = Err(error),
        }
    }
    result.and(work.result())
}

/// Populates all of the memory, pieces of one size, from one queue of chunks.
pub fn populate(memory: &[Memory<'_>], threads: usize) -> io::Result<()> {
    let work = Work::new(memory)?;
    let threads = threads.min(memory.len() * work.chunks_of_each());
    let workers: Vec<_> = (1..threads)
        .map(|_| Worker {
            work: &work,
            slice: None,
            cpus: &[],
        })
        .collect();
    run(&work, &workers, || work.take_chunks())
}

/// Populates each piece of the memory in as many fixed slices as there are sets of CPUs, each by a
/// thread pinned to its set.
pub fn populate_slices(memory: &[Memory<'_>], cpus: &[&[usize]]) -> io::Result<()> {
    let work = Work::new(memory)?;
    let slices = cpus.len();
    let workers: Vec<_> = cpus
        .iter()
        .enumerate()
        .map(|(index, cpus)| Worker {
            work: &work,
            slice: Some((index, slices)),
            cpus,
        })
        .collect();
    run(&work, &workers, || {})
}

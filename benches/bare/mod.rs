// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The best known way to preallocate anonymous memory with system calls alone.
//!
//! It assumes base pages of 4 KiB and huge pages of 2 MiB.

use std::ffi::c_int;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::Mutex;

const PAGE: usize = 4 << 10;
const HUGE_PAGE: usize = 2 << 20;
const CHUNK: usize = 8 << 20;

/// What the memory is made of.
#[derive(Clone, Copy)]
pub enum Pages {
    Small,
    Huge,
}

/// Address space that is given back on drop, with memory at an address huge pages fit.
pub struct Memory {
    base: *mut c_void,
    base_size: usize,
    address: *mut c_void,
    size: usize,
    pages: Pages,
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
    pub fn new(size: u64, pages: Pages) -> Self {
        let size = usize::try_from(size).unwrap();
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
            pages,
        };
        memory.advise(
            0,
            size,
            match pages {
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
    next: AtomicUsize,
    /// Held while threads are created, since they need locks that populating holds.
    gate: Mutex<()>,
}

// SAFETY: the memory behind the pointers is populated only, which any thread may do, and is
// unmapped after the last one was joined; everything else is Sync by itself.
unsafe impl Sync for Work<'_> {}

impl Work<'_> {
    fn populate(&self, offset: usize, size: usize) {
        if let Pages::Huge = self.memory.pages {
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
    let error = unsafe { libc::pthread_create(thread.as_mut_ptr(), ptr::null(), run_worker, data) };
    assert_eq!(error, 0);
    // SAFETY: written by the call, which succeeded.
    unsafe { thread.assume_init() }
}

pub fn populate(memory: &Memory, threads: usize) {
    let work = Work {
        memory,
        next: AtomicUsize::new(0),
        gate: Mutex::new(()),
    };
    let threads = threads.min(memory.size.div_ceil(CHUNK));
    let gate = work.gate.lock();
    let workers: Vec<_> = (1..threads).map(|_| create_worker(&work)).collect();
    drop(gate);
    work.run();
    for worker in workers {
        // SAFETY: created above, and joined once.
        unsafe { libc::pthread_join(worker, ptr::null_mut()) };
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the targets share: the shim between the library and the C library (tests/c/shim.h), and
//! looking whether an input left something.

use std::env;
use std::ffi::c_char;
use std::ffi::c_int;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// Above the few hundred KiB that an input uses, below what a huge page takes.
const LARGEST_MAPPING: usize = 1 << 20;
const LARGEST_FILE: u64 = 4 << 20;

/// The descriptor of a file of 256 KiB that an input can name.
const FILE: c_int = 100;

const ERRORS_MAX: usize = 8;

/// `struct shim_call`.
#[repr(C)]
struct Call {
    name: *const c_char,
    errors: [c_int; ERRORS_MAX],
}

/// `struct shim_count`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    ranges: usize,
    bytes: usize,
    descriptors: usize,
    files: usize,
    threads: usize,
    allocations: usize,
    names: usize,
}

extern "C" {
    static shim_calls: [Call; 0];
    fn shim_arm(call: usize, nth: u64, error: c_int);
    fn shim_disarm() -> bool;
    fn shim_bystanders_are_whole() -> bool;
    fn shim_unmap_stuck();
    fn shim_remove_stuck();
    fn shim_forget_names();
    fn shim_limit_mappings(bytes: usize);
    fn shim_lend_descriptors();
    fn shim_count() -> Count;
}

/// Makes one call of the library fail: the bytes choose which, and with what.
pub(crate) fn arm(which: u8, detail: u8) {
    let (which, detail) = (usize::from(which), usize::from(detail));
    // SAFETY: rows of a constant table that a row without a name ends.
    let rows = unsafe {
        let first = (&raw const shim_calls).cast::<Call>();
        let len = (0..)
            .take_while(|&row| !(*first.add(row)).name.is_null())
            .count();
        std::slice::from_raw_parts(first, len)
    };
    let call = which % rows.len();
    let errors: Vec<_> = rows[call]
        .errors
        .iter()
        .take_while(|error| **error != 0)
        .collect();
    // SAFETY: a row of the table.
    unsafe { shim_arm(call, 1 + detail as u64 / 8, *errors[detail % errors.len()]) };
}

/// What the process and the library have.
#[derive(Debug, PartialEq, Eq)]
struct Belongings {
    library: Count,
    threads: usize,
    descriptors: usize,
}

fn look() -> Belongings {
    let entries = |path| fs::read_dir(path).unwrap().count();
    Belongings {
        // SAFETY: takes nothing.
        library: unsafe { shim_count() },
        threads: entries("/proc/self/task"),
        descriptors: entries("/proc/self/fd"),
    }
}

/// Runs an input that only parses. Afterwards the library has what it had before.
pub(crate) fn run_parser(input: impl FnOnce()) {
    // SAFETY: takes nothing.
    let count = || unsafe { shim_count() };
    let before = count();
    input();
    assert_eq!(count(), before);
}

/// Runs an input in an empty directory. Afterwards the process has what it had before.
pub(crate) fn run(input: impl FnOnce()) {
    static SCRATCH: OnceLock<PathBuf> = OnceLock::new();
    let scratch = SCRATCH.get_or_init(prepare);
    let home = env::current_dir().unwrap();
    fs::create_dir_all(scratch).unwrap();
    env::set_current_dir(scratch).unwrap();
    let before = look();
    input();
    // SAFETY: take nothing; what the library could not give back because of a fault goes now.
    unsafe {
        shim_disarm();
        assert!(shim_bystanders_are_whole());
        shim_unmap_stuck();
        shim_remove_stuck();
        shim_forget_names();
    }
    check_same(&before);
    env::set_current_dir(home).unwrap();
    fs::remove_dir_all(scratch).unwrap();
}

/// A thread that has ended can be in /proc for a moment longer.
#[track_caller]
fn check_same(before: &Belongings) {
    const PATIENCE: Duration = Duration::from_secs(20);
    let start = Instant::now();
    loop {
        let now = look();
        if now == *before {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "before {before:?}, now {now:?}");
        thread::yield_now();
    }
}

/// Keeps what an input can ask for small; returns the directory for its files.
fn prepare() -> PathBuf {
    let limit = libc::rlimit {
        rlim_cur: LARGEST_FILE,
        rlim_max: LARGEST_FILE,
    };
    // SAFETY: a limit that outlives the call, signals that are ignored from now on, and a descriptor
    // that nobody else has.
    unsafe {
        shim_limit_mappings(LARGEST_MAPPING);
        shim_lend_descriptors();
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        let file = libc::memfd_create(c"user".as_ptr(), 0);
        assert!(libc::ftruncate(file, 256 << 10) == 0 && libc::dup2(file, FILE) == FILE);
    }
    env::temp_dir().join(format!("hostmem-fuzz-{}", std::process::id()))
}

/// Whether an input names files of the directory that it runs in, and no others.
pub(crate) fn stays_here(input: &[u8]) -> bool {
    let mut text = String::from_utf8_lossy(input).to_ascii_lowercase();
    // The paths of objects, which are no files, and the root, in which nothing is made.
    for harmless in ["\"/\"", "/objects/"] {
        text = text.replace(harmless, "");
    }
    !text.contains('/') && !text.contains("u002f") && !input.is_empty()
}

/// A file of the directory that an input runs in.
pub(crate) fn make_file(name: &str, contents: &[u8]) -> io::Result<()> {
    fs::write(Path::new(name), contents)
}

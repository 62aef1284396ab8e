// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory whose contents are read when they are needed, and touching it meanwhile.

use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use hostmem::Backend;
use hostmem::Claim;
use hostmem::ErrorKind;

use super::access::new;
use super::access::read;
use super::image::assert_same;
use super::image::MIB;
use super::skip;

pub const DEMAND: &str = "prealloc=off";
pub const LAZY: &str = "prealloc=on,prealloc-mode=background";

/// Whether this process may have a userfaultfd for the kernel's faults.
pub fn can_serve() -> bool {
    let image = tempfile::NamedTempFile::new().unwrap();
    let options = format!("size=1M,contents={}", image.path().display());
    match new("ram", &options).complete() {
        Ok(_) => true,
        Err(failed) => {
            assert_eq!(
                failed.error.kind(),
                ErrorKind::Unsupported,
                "{}",
                failed.error
            );
            skip("no userfaultfd for faults of the kernel");
            false
        }
    }
}

/// A thread that touches a byte may go on a moment before it is counted.
#[track_caller]
pub fn assert_unread(claim: &Claim, expected: u64) {
    let start = Instant::now();
    while claim.unread().0 != expected && start.elapsed() < Duration::from_secs(10) {
        thread::yield_now();
    }
    assert_eq!(claim.unread().0, expected);
}

/// A byte of the memory, from any thread.
pub fn touch(claim: &Claim, at: usize) -> u8 {
    read(claim, at as u64)
}

/// Touches places in an order of its own until all have been.
pub fn touch_at_random(claim: &Claim, expected: &[u8], seed: usize) {
    let pages = expected.len() / 4096;
    for turn in 0..pages {
        let page = (turn * 7919 + seed * 104_729) % pages;
        let at = page * 4096 + (turn * 131 + seed) % 4096;
        assert_eq!(touch(claim, at), expected[at], "byte {at}");
    }
}

/// Several threads touch all of the memory, which begins as these bytes and is read by that.
#[track_caller]
pub fn assert_threads_find(backend: &Backend, bytes: &[u8], threads: usize, what: &str) {
    let claim = backend.claim("test").unwrap();
    thread::scope(|scope| {
        for seed in 0..threads {
            let claim = &claim;
            scope.spawn(move || touch_at_random(claim, bytes, seed));
        }
    });
    assert_unread(&claim, 0);
    drop(claim);
    assert!(backend.wait_prealloc(None).unwrap(), "{what}");
    assert_same(backend, bytes, what);
}

/// Discards, populates and saves memory that begins as these bytes, at least 10 MiB, and may be
/// unread.
#[track_caller]
pub fn assert_changes_are_kept(backend: &Backend, mut bytes: Vec<u8>, what: &str) {
    let claim = backend.claim("test").unwrap();
    let page = claim.memory().page_size();
    // In a unit that was read, in the middle of others, and of whole ones.
    assert_eq!(touch(&claim, 9 << 20), bytes[9 << 20], "{what}");
    for (from, length) in [(9 * MIB, page), (MIB, 5 * MIB)] {
        let (from, length) = (from / page * page, length / page * page);
        claim.discard(from, length).unwrap();
        bytes[from as usize..(from + length) as usize].fill(0);
    }
    assert_eq!(touch(&claim, 3 << 20), 0, "{what}");
    backend.wait_prealloc(None).unwrap();
    claim.populate(0, 2 * MIB).unwrap();
    let file = tempfile::tempfile().unwrap();
    claim.save(&file, 0).unwrap();
    let mut saved = vec![0; bytes.len()];
    file.read_exact_at(&mut saved, 0).unwrap();
    assert!(saved == bytes, "{what}");
    drop(claim);
    assert_same(backend, &bytes, what);
}

/// Whether memory of that size is huge now when it is preallocated.
pub fn host_has_huge_pages(size: u64) -> bool {
    let options = format!("size={size},prealloc=on,thp=always");
    let backend = new("ram", &options).complete().unwrap();
    super::access::smaps_field(&backend.claim("test").unwrap(), "AnonHugePages") == size
}

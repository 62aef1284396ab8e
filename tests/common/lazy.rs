// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory whose contents are read when they are needed, and touching it meanwhile.

use std::thread;
use std::time::Duration;
use std::time::Instant;

use hostmem::Claim;
use hostmem::ErrorKind;

use super::access::new;
use super::access::read;
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

/// Who touches a byte may go on a moment before it is counted.
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

/// Whether memory of that size is huge now when it is preallocated.
pub fn host_has_huge_pages(size: u64) -> bool {
    let options = format!("size={size},prealloc=on,thp=always");
    let backend = new("ram", &options).complete().unwrap();
    super::access::smaps_field(&backend.claim("test").unwrap(), "AnonHugePages") == size
}

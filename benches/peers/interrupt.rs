// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An end from outside, which has to leave the host as it was.

use std::ffi::c_int;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_signal: c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

pub fn catch() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler = interrupt as extern "C" fn(c_int) as libc::sighandler_t;
        // SAFETY: the handler stores to an atomic, which it may at any time.
        unsafe { libc::signal(signal, handler) };
    }
}

/// Unwinds, whereby everything is put back.
pub fn end_if_asked() {
    assert!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
}

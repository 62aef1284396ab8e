// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Signals that end the run; the host's settings must be restored.

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
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, handler) };
    }
}

/// Panics if interrupted; unwinding restores the host's settings.
pub fn end_if_asked() {
    assert!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Progress and results of preallocations.

use std::time::Duration;

use crate::sys;

/// Progress of the running or last preallocation, scrub or save, in bytes; both 0 if there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes populated so far.
    pub done: u64,
    /// Bytes to populate in total.
    pub total: u64,
}

impl Progress {
    pub(crate) fn new(done: u64, total: u64) -> Self {
        Self { done, total }
    }
}

/// The result of the last successful preallocation.
#[doc(alias = "hostmem_prealloc_result")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PreallocResult {
    /// The number of threads that populated memory, including the caller's if it did.
    pub threads: u32,
    /// The errno if the workers could not be pinned to the CPUs of the bound nodes and ran without,
    /// or if no worker could be created there, or by the thread-context, and the calling thread
    /// populated.
    pub affinity_error: Option<i32>,
    /// The errno if the workers could not set their own memory policy, which is needed only for
    /// shared files on disk, where the kernel ignores the mapping's policy. They ran without. Pages
    /// of such a file that other threads fault in later get the policy of those threads too.
    pub policy_error: Option<i32>,
    /// Bytes that are present now.
    pub bytes: u64,
    /// Wall-clock time, thread creation included.
    pub duration: Duration,
}

impl PreallocResult {
    /// `None` for the all-zero record of no preallocation.
    pub(crate) fn from_raw(raw: &sys::hostmem_prealloc_result) -> Option<Self> {
        let sys::hostmem_prealloc_result {
            threads,
            affinity_error,
            policy_error,
            bytes,
            nanoseconds,
        } = *raw;
        if (threads, bytes, nanoseconds) == (0, 0, 0) {
            return None;
        }
        Some(Self {
            threads,
            affinity_error: (affinity_error != 0).then_some(affinity_error),
            policy_error: (policy_error != 0).then_some(policy_error),
            bytes,
            duration: Duration::from_nanos(nanoseconds),
        })
    }
}

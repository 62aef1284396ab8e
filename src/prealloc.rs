// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How far a preallocation is and what it did.

use std::time::Duration;

use crate::sys;

/// How far the running or last preallocation is, in bytes; both 0 when there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes populated so far.
    pub done: u64,
    /// Bytes to populate in all.
    pub total: u64,
}

impl Progress {
    pub(crate) fn new(done: u64, total: u64) -> Self {
        Self { done, total }
    }
}

/// What the last successful preallocation did.
#[doc(alias = "hostmem_prealloc_result")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PreallocResult {
    /// Threads that populated, the caller's included where it took part.
    pub threads: u32,
    /// The errno where the workers could not be pinned to the CPUs of the bound nodes. They
    /// populated all the same.
    pub affinity_error: Option<i32>,
    /// The errno where the workers could not have the memory policy, which only shared memory of a
    /// file on disk needs: the kernel ignores that of the mapping. They populated all the same, and so
    /// does whoever touches that memory later, by a policy of its own.
    pub policy_error: Option<i32>,
    /// Bytes that are now present.
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

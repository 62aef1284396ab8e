// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How far a preallocation is and what it did.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use crate::error::catch_panic;
use crate::sys;
use crate::Result;

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

/// What is told how far it is.
pub(crate) type OnProgress = dyn FnMut(u64, u64) + Send;
/// What is told that it has ended.
pub(crate) type OnDone = dyn FnMut(Result<()>, Progress) + Send;

/// Holds a callback for C to call.
pub(crate) struct CallbackSlot<F: ?Sized>(Mutex<Option<Box<F>>>);

impl<F: ?Sized> CallbackSlot<F> {
    pub(crate) fn set(&self, callback: Box<F>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(callback);
        self.0.clear_poison();
    }

    /// Calls it. One that is running holds the lock, one that panicked has poisoned it: both are
    /// passed over.
    pub(crate) fn report(self: Arc<Self>, call: impl FnOnce(&mut F)) {
        let _: std::result::Result<(), String> = catch_panic(|| {
            if let Ok(mut callback) = self.0.try_lock() {
                if let Some(callback) = callback.as_mut() {
                    call(callback);
                }
            }
        });
        // The callback may have dropped the last handle. Then it goes here, with what it captured.
        let _: std::result::Result<(), String> = catch_panic(|| drop(self));
    }
}

impl<F: ?Sized> Default for CallbackSlot<F> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<F: ?Sized> fmt::Debug for CallbackSlot<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackSlot").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering;

    #[test]
    fn a_callback_that_panics_is_not_called_again() {
        let calls = Arc::new(AtomicU32::new(0));
        let slot = Arc::new(CallbackSlot::<OnProgress>::default());
        let report = |done, total| Arc::clone(&slot).report(|callback| callback(done, total));
        let seen = Arc::clone(&calls);
        slot.set(Box::new(move |_, _| {
            seen.fetch_add(1, Ordering::Relaxed);
            panic!("from the callback");
        }));
        report(1, 2);
        report(2, 2);
        assert_eq!(calls.load(Ordering::Relaxed), 1);

        let seen = Arc::clone(&calls);
        slot.set(Box::new(move |done, _| {
            seen.fetch_add(done as u32, Ordering::Relaxed);
        }));
        report(10, 20);
        assert_eq!(calls.load(Ordering::Relaxed), 11);
    }
}

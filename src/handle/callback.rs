// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Callbacks that C calls from any thread.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::error::catch_panic;

/// Holds a callback for C to call.
pub(super) struct CallbackSlot<F: ?Sized>(Mutex<Option<Box<F>>>);

impl<F: ?Sized> CallbackSlot<F> {
    pub(super) fn set(&self, callback: Box<F>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(callback);
        self.0.clear_poison();
    }

    /// Calls the callback. Skips one that is running, which holds the lock, and one that has
    /// panicked, which has poisoned it.
    pub(super) fn report(self: Arc<Self>, call: impl FnOnce(&mut F)) {
        let _: Result<(), String> = catch_panic(|| {
            if let Ok(mut callback) = self.0.try_lock() {
                if let Some(callback) = callback.as_mut() {
                    call(callback);
                }
            }
        });
        // If the callback dropped the last handle, it is dropped here, with what it captured.
        let _: Result<(), String> = catch_panic(|| drop(self));
    }
}

impl<F: ?Sized> Default for CallbackSlot<F> {
    fn default() -> Self {
        Self(Mutex::new(None))
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
        let slot = Arc::new(CallbackSlot::<dyn FnMut(u64, u64) + Send>::default());
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

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The signals that ask a program to end: SIGINT, SIGTERM, SIGHUP.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;

use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use signal_hook::low_level;

/// Calls something with the first signal, on a thread of its own, where it must not wait. The
/// second signal ends the program as if there were no handler, so that one which cannot end by
/// itself can be ended.
pub(crate) fn on_first(run: impl FnOnce(Signal) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new(not_ignored([SIGHUP, SIGINT, SIGTERM]))?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut pending = signals.forever();
            if let Some(signal) = pending.next() {
                run(Signal(signal));
            }
            if let Some(signal) = pending.next() {
                // It fails for a signal that does not exist.
                let _ = low_level::emulate_default_handler(signal);
            }
        })?;
    Ok(())
}

/// Without those that are ignored as the program starts, as by `nohup`: they stay ignored.
fn not_ignored(signals: [i32; 3]) -> impl Iterator<Item = i32> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok())
        .unwrap_or(0);
    signals
        .into_iter()
        .filter(move |signal| ignored >> (signal - 1) & 1 == 0)
}

/// A signal that asks the program to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signal(i32);

impl Signal {
    pub(crate) fn name(self) -> &'static str {
        low_level::signal_name(self.0).unwrap_or("signal")
    }
}

/// The first signal, once there is one.
#[derive(Clone, Default)]
pub(crate) struct FirstSignal(Arc<(Mutex<Option<Signal>>, Condvar)>);

impl FirstSignal {
    /// Waits for it from now on.
    pub(crate) fn watch() -> io::Result<Self> {
        let first = Self::default();
        let same = first.clone();
        on_first(move |signal| {
            *same.lock() = Some(signal);
            same.0 .1.notify_all();
        })?;
        Ok(first)
    }

    pub(crate) fn get(&self) -> Option<Signal> {
        *self.lock()
    }

    pub(crate) fn wait(&self) -> Signal {
        let mut signal = self.lock();
        loop {
            match *signal {
                Some(signal) => return signal,
                None => {
                    let woken = self.0 .1.wait(signal);
                    signal = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Signal>> {
        self.0 .0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

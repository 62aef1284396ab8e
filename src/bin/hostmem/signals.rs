// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The signals that ask a program to end: SIGINT, SIGTERM, SIGHUP.

use std::io;
use std::thread;

use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use signal_hook::low_level;

/// Calls something at the first signal, on a thread of its own. The second ends the program as if
/// there were no handler, so that one which cannot end by itself can be ended.
pub(crate) fn on_first(run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut pending = signals.forever();
            if pending.next().is_some() {
                run();
            }
            if let Some(signal) = pending.next() {
                // It fails for a signal that does not exist.
                let _ = low_level::emulate_default_handler(signal);
            }
        })?;
    Ok(())
}

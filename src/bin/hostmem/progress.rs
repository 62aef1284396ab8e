// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bars on standard error that show how far memory is filled, where that is a terminal.

use indicatif::MultiProgress;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;

use crate::Result;

/// A bar for each backend. They go when this is dropped.
pub(crate) struct Bars {
    screen: MultiProgress,
    bars: Vec<ProgressBar>,
}

impl Bars {
    pub(crate) fn new() -> Self {
        Self {
            screen: MultiProgress::new(),
            bars: Vec::new(),
        }
    }

    /// Adds a bar, and gives what moves it. It shows itself when it moves first.
    pub(crate) fn add(&mut self, name: &str) -> Result<impl FnMut(u64, u64) + Send + 'static> {
        let style = ProgressStyle::with_template(
            "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}",
        )?;
        let bar = ProgressBar::new(0).with_message(name.to_owned());
        let bar = self.screen.add(bar.with_style(style));
        self.bars.push(bar.clone());
        Ok(move |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        for bar in &self.bars {
            bar.finish_and_clear();
        }
    }
}

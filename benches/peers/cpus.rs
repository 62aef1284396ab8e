// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The speed of the CPUs during a measurement, and a process that keeps one busy.

use std::env;
use std::hint::black_box;
use std::io;
use std::mem;
use std::process::Child;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// The argument that makes this program the process that keeps CPU 1 busy.
pub const HOG: &str = "--hog";
const HOGGED_CPU: usize = 1;

/// Arithmetic only; each step needs the result of the one before.
fn count(steps: u64) {
    let mut number = 1_u64;
    for _ in 0..steps {
        number = black_box(number.wrapping_mul(6364136223846793005).wrapping_add(1));
    }
}

pub fn time_loop(threads: usize) -> Duration {
    const STEPS: u64 = 10_000_000;
    time_steps(threads, STEPS)
}

/// Of as many steps on each thread.
pub fn time_steps(threads: usize, steps: u64) -> Duration {
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| count(steps));
        }
        count(steps);
    });
    start.elapsed()
}

/// Another process that keeps CPU 1 busy, except while it is stopped.
pub struct Hog {
    process: Child,
}

impl Hog {
    pub fn start() -> io::Result<Self> {
        let process = Command::new(env::current_exe()?).arg(HOG).spawn()?;
        let hog = Self { process };
        hog.signal(libc::SIGSTOP);
        Ok(hog)
    }

    fn signal(&self, signal: libc::c_int) {
        let id = libc::pid_t::try_from(self.process.id()).unwrap();
        // SAFETY: takes numbers; the process is our child and not yet waited for.
        unsafe { libc::kill(id, signal) };
    }

    /// Runs the process while the function runs.
    pub fn beside<T>(&self, function: impl FnOnce() -> T) -> T {
        self.signal(libc::SIGCONT);
        // Until the scheduler runs it.
        thread::sleep(Duration::from_millis(20));
        let result = function();
        self.signal(libc::SIGSTOP);
        result
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs until it is killed or its parent ends.
pub fn be_hog() -> ! {
    // SAFETY: all zeros are an empty set, which the first call adds to and the second reads; the
    // third takes numbers.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(HOGGED_CPU, &mut set);
        libc::sched_setaffinity(0, mem::size_of_val(&set), &set);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    loop {
        count(1_000_000);
    }
}

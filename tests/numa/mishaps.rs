// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The lab itself: a test that fails, a process that is killed, a kernel that panics and a machine
//! that hangs are four things.

use std::fs;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::guest::Test;
use super::lab;
use super::machine::Machine;

pub const NAME: &str = "mishaps_are_told_apart";

/// Asked for by name alone, they are no tests of anything.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("mishap::fails", || panic!("a reason")),
        Test::new("mishap::is_killed", || {
            // SAFETY: ends this process.
            unsafe { libc::kill(process::id() as libc::pid_t, libc::SIGKILL) };
        }),
        Test::new("mishap::passes", || ()),
        Test::new("mishap::hangs", || loop {
            thread::sleep(Duration::from_secs(1));
        }),
        Test::new("mishap::panics", || {
            fs::write("/proc/sysrq-trigger", "c").unwrap();
            thread::sleep(Duration::from_secs(60));
        }),
    ]
}

/// Runs mishaps; the lab's error that they are, and the machine.
fn run(names: &[&str]) -> (String, Arc<Machine>) {
    let machine = Arc::new(Machine::new(lab::KERNELS[0], Duration::from_secs(15)));
    let names: Vec<_> = names.iter().map(|name| format!("mishap::{name}")).collect();
    (machine.run(&names).unwrap_err(), machine)
}

pub fn check() -> Result<(), libtest_mimic::Failed> {
    let (error, machine) = run(&["fails", "is_killed", "passes", "panics"]);
    let failure = |name: &str| machine.failure(&format!("mishap::{name}"));
    assert!(failure("fails").unwrap().contains("a reason"));
    let killed = failure("is_killed").unwrap();
    assert!(
        killed.contains("ended the whole process: signal: 9"),
        "{killed}"
    );
    assert_eq!(failure("passes"), None);
    assert_eq!(failure("panics"), None);
    assert!(
        error.starts_with("the kernel panicked in mishap::panics"),
        "{error}"
    );
    assert!(
        error.contains("Kernel panic - not syncing: sysrq"),
        "{error}"
    );

    let (error, _) = run(&["hangs"]);
    assert!(error.starts_with("it hangs in mishap::hangs"), "{error}");
    Ok(())
}

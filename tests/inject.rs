// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Each allocation and each system call of the library fails once, in every kind, by the test
//! program tests/c/inject.c. Meanwhile its shim aborts at whatever the library unmaps, protects,
//! advises, truncates, closes or removes that is not its own; also while six threads use it at
//! once, by tests/c/stress.c. And a process forks in the middle of a call, by tests/c/forked.c.
//! Hosts that this one is not are in tests/c/hosts.c, calls that Rust does not make in
//! tests/c/c_api.c, files that change while they are opened in tests/c/paths.c.

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::thread;

use common::host::HugePages;
use common::is_instrumented;
use tempfile::TempDir;

/// Builds a program of tests/c with the library's sources.
fn build(shim: &[&str], program: &str, output: &Path, options: &[&str]) {
    let numa = if cfg!(feature = "numa") { "1" } else { "0" };
    let built = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/c/build"))
        .args(shim)
        .arg(program)
        .arg(output)
        .args(["-O1", "-Wall", "-Wextra", "-Werror"])
        .args(options)
        .env("HOSTMEM_NUMA", numa)
        .status()
        .unwrap();
    assert!(built.success());
}

#[test]
fn each_call_fails_once() {
    if is_instrumented() {
        return;
    }
    let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = directory.path().join("inject");
    build(&["--shim"], "inject", &program, &[]);
    let pool = HugePages::have(8);
    // A process for each processor, with some of the kinds and directories of its own.
    let processors = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for part in 1..=processors {
            let (program, huge) = (&program, pool.is_some());
            scope.spawn(move || {
                let disk = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
                let shared = TempDir::new_in("/dev/shm").unwrap();
                let mut command = Command::new(program);
                command
                    .args([disk.path(), shared.path()])
                    .args(huge.then_some("huge"))
                    .env("PART", format!("{part}/{processors}"));
                assert_good(&mut command);
            });
        }
    });
}

/// Runs a program to its end, and shows what it printed.
fn assert_good(command: &mut Command) {
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    println!("{stdout}");
    for line in stdout.lines().filter(|line| line.starts_with("skipped")) {
        eprintln!("{line}");
    }
    assert!(
        output.status.success(),
        "{}\n{stdout}\n{stderr}",
        output.status
    );
}

/// Builds a program of tests/c, and runs it in a directory of its own.
fn assert_passes(name: &str, options: &[&str], flags: &[&str], arguments: &[&str]) {
    if is_instrumented() {
        return;
    }
    let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = directory.path().join(name);
    build(options, name, &program, flags);
    let mut command = Command::new(&program);
    assert_good(command.args(arguments).current_dir(directory.path()));
}

/// The names in a text that begin with hostmem_ and are called.
fn calls(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = text.match_indices("hostmem_").map(|(at, _)| {
        let end = text[at..].find(|c| !is_name(c)).unwrap();
        text[at..].split_at(end)
    });
    names
        .filter_map(|(name, rest)| rest.starts_with('(').then_some(name))
        .collect()
}

#[test]
fn every_function_is_called_by_several_threads_at_once() {
    let all = calls(include_str!("../c/hostmem.h"));
    assert!(all.len() > 90, "{all:?}");
    let called = calls(include_str!("c/stress.c"));
    let left: Vec<_> = all.difference(&called).collect();
    assert!(left.is_empty(), "tests/c/stress.c calls not {left:?}");
}

#[test]
fn threads_at_once_touch_and_leave_nothing_of_others() {
    assert_passes("stress", &["--shim"], &["-DSTRESS_WITH_SHIM"], &["5"]);
}

#[test]
fn a_child_that_is_forked_in_the_middle_of_a_call_waits_for_nothing() {
    assert_passes("forked", &[], &[], &[]);
}

#[cfg(feature = "numa")]
#[test]
fn hosts_are_judged_by_what_their_kernel_says() {
    assert_passes("hosts", &["--shim"], &[], &[]);
}

#[test]
fn calls_that_rust_does_not_make_are_refused() {
    assert_passes("c_api", &["--shim"], &[], &[]);
}

#[test]
fn a_path_that_changes_meanwhile_is_not_followed() {
    assert_passes("paths", &["--shim"], &[], &[]);
}

#[test]
fn messages_are_cut_at_their_limit() {
    assert_passes("errors", &[], &[], &[]);
}

#[test]
fn sets_of_numbers_are_compared_by_each() {
    assert_passes("sets", &[], &[], &[]);
}

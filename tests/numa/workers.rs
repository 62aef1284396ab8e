// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which processors the threads run on that fill bound memory, as the kernel says meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;

use super::common::access;
use super::guest;
use super::guest::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "workers::of_bound_memory_are_near",
            of_bound_memory_are_near,
        ),
        Test::new(
            "workers::stay_where_the_process_may_run",
            stay_where_the_process_may_run,
        ),
    ]
}

/// The processors of each worker of the backend m0 that there is at the moment.
fn see_workers(seen: &mut BTreeSet<String>) {
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
        let field = |name: &str| {
            let mut lines = status.lines();
            let text = lines.find_map(|line| line.strip_prefix(name));
            text.unwrap_or_default().trim().to_owned()
        };
        if field("Name:") == "hm-m0" {
            seen.insert(field("Cpus_allowed_list:"));
        }
    }
}

/// Waits for the workers of an earlier backend: a joined thread stays in /proc for a moment.
fn wait_until_no_worker_is_left() {
    loop {
        let mut seen = BTreeSet::new();
        see_workers(&mut seen);
        if seen.is_empty() {
            return;
        }
    }
}

/// Where the workers of an allocation may run: of each a list of processors.
fn workers_of(options: &str) -> Vec<String> {
    wait_until_no_worker_is_left();
    let options = format!("size=16M,thp=never,prealloc=on,{options}");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                see_workers(&mut seen);
            }
            seen.into_iter().collect()
        });
        let completed = access::new("ram", &options).complete();
        done.store(true, Ordering::Relaxed);
        completed.unwrap();
        watch.join().unwrap()
    })
}

fn of_bound_memory_are_near() {
    guest::run_on(&[0, 1, 2, 3, 4]);
    for (nodes, cpus) in [
        ("0", "0-1"),
        ("1", "2-3"),
        // Without processors of their own: of the nearest node that has some.
        ("3", "0-1"),
        ("4", "2-3"),
        ("3-4", "0-3"),
        ("0-1", "0-3"),
    ] {
        for policy in ["bind", "interleave"] {
            let options = format!("policy={policy},host-nodes={nodes}");
            assert_eq!(workers_of(&options), [cpus], "{options}");
        }
    }
    // What is not bound is not pinned.
    assert_eq!(workers_of("prealloc-threads=3"), ["0-4"]);
}

fn stay_where_the_process_may_run() {
    guest::run_on(&[1, 2]);
    for (nodes, cpus) in [("0", "1"), ("1", "2"), ("0-1", "1-2")] {
        let options = format!("policy=bind,host-nodes={nodes}");
        assert_eq!(workers_of(&options), [cpus], "{options}");
    }
    // Nothing near is left: then anywhere that it may.
    guest::run_on(&[2, 3]);
    assert_eq!(
        workers_of("policy=bind,host-nodes=0,prealloc-threads=2"),
        ["2-3"]
    );
}

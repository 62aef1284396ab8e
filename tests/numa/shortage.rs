// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Nodes that have too little, while others have plenty.

use std::env;
use std::fs;
use std::os::fd::AsRawFd;
use std::process::Child;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use hostmem::ErrorKind;
use hostmem::Satisfied;

use super::common::access;
use super::common::host::Setting;
use super::guest;
use super::guest::Test;

const MIB: u64 = 1 << 20;
/// A file that is there once a process has its memory.
pub const TAKEN: &str = "/tmp/taken";
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("shortage::huge_pages_of_a_node", huge_pages_of_a_node),
        Test::new(
            "shortage::huge_pages_that_overcommit_supplies",
            huge_pages_that_overcommit_supplies,
        ),
        Test::new(
            "shortage::huge_pages_that_nobody_looked_for",
            huge_pages_that_nobody_looked_for,
        ),
        Test::new("shortage::preferred_memory_spills", preferred_memory_spills),
        Test::new("shortage::small_pages_of_a_node", small_pages_of_a_node),
        Test::new(
            "shortage::a_node_that_fills_meanwhile",
            a_node_that_fills_meanwhile,
        ),
    ]
}

fn node_file(node: u32, name: &str) -> String {
    format!("/sys/devices/system/node/node{node}/{name}")
}

fn set_pool(node: u32, pages: u64) -> Setting {
    let file = node_file(node, "hugepages/hugepages-2048kB/nr_hugepages");
    let setting = Setting::set(&file, &pages.to_string()).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), pages.to_string());
    setting
}

fn huge_pages(pages: u64, policy: &str) -> hostmem::Builder {
    let options = format!("size={},hugetlb=on,prealloc=on,{policy}", pages * 2 * MIB);
    access::new("memfd", &options)
}

fn huge_pages_of_a_node() {
    let _pool = set_pool(3, 4);
    for (nodes, pages, where_, have) in [("3", 5, "node 3", 4), ("3-4", 13, "node 3-4", 12)] {
        let policy = format!("policy=bind,host-nodes={nodes}");
        let wanted = format!("{pages} huge pages of 2048 KiB are wanted");
        let has = format!("{where_} has {have}, {have} of them free");
        let refused = huge_pages(pages, &policy);
        access::assert_refused(refused, ErrorKind::NoMemory, &[&wanted, &has]);
        let backend = huge_pages(pages - 1, &policy).complete().unwrap();
        assert_eq!(backend.placement().unwrap().huge, (pages - 1) * 2 * MIB);
    }
    // The others do not insist on the nodes.
    for policy in [
        "policy=preferred,host-nodes=3",
        "policy=interleave,host-nodes=3-4",
    ] {
        let backend = huge_pages(13, policy).complete().unwrap();
        let seen = backend.placement().unwrap();
        assert_eq!(seen.nodes[&3], 4 * 2 * MIB, "{policy}: {seen:?}");
        assert_eq!(seen.resident, 13 * 2 * MIB, "{policy}: {seen:?}");
    }
}

fn huge_pages_that_overcommit_supplies() {
    let _pool = set_pool(3, 4);
    let _more = Setting::set(format!("{POOL}/nr_overcommit_hugepages"), "4").unwrap();
    let policy = "policy=bind,host-nodes=3";
    let backend = huge_pages(8, policy).complete().unwrap();
    let seen = backend.placement().unwrap();
    assert_eq!(seen.nodes, [(3, 8 * 2 * MIB)].into(), "{seen:?}");
    drop(backend);
    access::assert_refused(
        huge_pages(9, policy),
        ErrorKind::NoMemory,
        &["node 3 has 4"],
    );
}

/// Of a descriptor's pool nobody asks beforehand: mapping it on a thread that is bound fails.
fn huge_pages_that_nobody_looked_for() {
    let _pool = set_pool(3, 4);
    for (pages, fits) in [(4, true), (5, false)] {
        let file = access::memfd("short", libc::MFD_HUGETLB, pages * 2 * MIB);
        for share in ["on", "off"] {
            let fd = file.as_raw_fd();
            let size = pages * 2 * MIB;
            let options = format!("fd={fd},size={size},share={share},policy=bind,host-nodes=3");
            let builder = access::new("fd", &options);
            if fits {
                builder.complete().unwrap();
                continue;
            }
            let words = ["5 huge pages of 2048 KiB are wanted", "node 3 has 4"];
            access::assert_refused(builder, ErrorKind::NoMemory, &words);
        }
    }
}

fn free_on(node: u32) -> u64 {
    let text = fs::read_to_string(node_file(node, "meminfo")).unwrap();
    let line = text.lines().find_map(|line| line.split_once("MemFree:"));
    let kib = line.unwrap().1.trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() * 1024
}

pub fn more_than_is_free_on(node: u32) -> u64 {
    (free_on(node) + 32 * MIB) / (2 * MIB) * (2 * MIB)
}

fn preferred_memory_spills() {
    let size = more_than_is_free_on(3);
    let options = format!("size={size},thp=always,prealloc=on,policy=preferred,host-nodes=3");
    let backend = access::new("ram", &options).complete().unwrap();
    let seen = backend.placement().unwrap();
    assert_eq!(seen.resident, size, "{seen:?}");
    assert!(
        seen.nodes[&3] < size && seen.nodes[&3] > size / 2,
        "{seen:?}"
    );
    assert_eq!(seen.satisfied, Satisfied::Spilled);
    assert_eq!(seen.outside, size - seen.nodes[&3]);
    let reason = format!("{} bytes are outside host-nodes=3", seen.outside);
    assert_eq!(seen.reason, reason);
}

/// Starts a process that takes memory and then does nothing, and waits until it has it.
fn start_taker(options: &str) -> Child {
    let _ = fs::remove_file(TAKEN);
    let child = guest::start_child("taker", &[options]);
    wait_until_taken();
    child
}

pub fn wait_until_taken() {
    while fs::metadata(TAKEN).is_err() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Such a process, which lives until it is killed.
pub fn taker() {
    let options = env::args().nth(2).unwrap();
    let options = format!("thp=always,prealloc=on,{options}");
    let _backend = access::new("ram", &options).complete().unwrap();
    fs::write(TAKEN, "").unwrap();
    thread::sleep(Duration::from_secs(600));
}

#[track_caller]
fn end_living(mut child: Child) {
    assert_eq!(child.try_wait().unwrap(), None, "it lives");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The kernel would kill a process, and seldom this one.
fn small_pages_of_a_node() {
    let bystander = start_taker("size=200M,policy=bind,host-nodes=0");
    let size = more_than_is_free_on(3);
    for (kind, options) in [
        ("ram", "thp=never"),
        ("ram", "thp=always"),
        ("memfd", "thp=never"),
        ("ram", "thp=never,share=on"),
    ] {
        let options = format!("size={size},prealloc=on,policy=bind,host-nodes=3,{options}");
        let builder = access::new(kind, &options);
        let words = ["available on node 3 and "];
        access::assert_refused(builder, ErrorKind::NoMemory, &words);
    }
    // With the next node it fits.
    let options = format!("size={size},thp=always,prealloc=on,policy=bind,host-nodes=3-4");
    let backend = access::new("ram", &options).complete().unwrap();
    let seen = backend.placement().unwrap();
    assert_eq!(seen.resident, size, "{seen:?}");
    assert!(seen.nodes.keys().eq([&3, &4]), "{seen:?}");
    end_living(bystander);
}

/// What was enough at the beginning.
fn a_node_that_fills_meanwhile() {
    let bystander = start_taker("size=200M,policy=bind,host-nodes=0");
    let rival = Arc::new(Mutex::new(None));
    let started = Arc::clone(&rival);
    let options = "size=120M,thp=never,prealloc=on,policy=bind,host-nodes=3";
    let builder = access::new("ram", options).on_progress(move |_, _| {
        let mut rival = started.lock().unwrap();
        rival.get_or_insert_with(|| start_taker("size=100M,policy=preferred,host-nodes=3"));
    });
    let words = ["stopped before memory runs out", "available on node 3 and "];
    access::assert_refused(builder, ErrorKind::NoMemory, &words);
    end_living(rival.lock().unwrap().take().unwrap());
    end_living(bystander);
}

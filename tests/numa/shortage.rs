// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Nodes that have too little, while others have plenty.

use std::env;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use hostmem::Backend;
use hostmem::Builder;
use hostmem::Calls;
use hostmem::Defaults;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Objects;
use hostmem::Satisfied;
use seccompiler::BpfProgram;
use seccompiler::SeccompAction;
use seccompiler::SeccompFilter;

use super::common::access;
use super::common::host::Setting;
use super::guest;
use super::guest::Test;

const MIB: u64 = 1 << 20;
/// A file that is there once a process has its memory.
pub const TAKEN: &str = "/tmp/taken";
/// Below the silence after which a machine is taken as hung, which ends all its tests.
const PATIENCE: Duration = Duration::from_secs(90);
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
            "shortage::small_pages_of_nodes_that_overlap",
            small_pages_of_nodes_that_overlap,
        ),
        Test::new("shortage::what_the_kernel_keeps", what_the_kernel_keeps),
        Test::new("shortage::nodes_of_the_process", nodes_of_the_process),
        Test::new(
            "shortage::nodes_that_are_not_asked",
            nodes_that_are_not_asked,
        ),
        Test::new("shortage::nodes_of_the_cpuset", nodes_of_the_cpuset),
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
    let mut child = guest::start_child("taker", &[options]);
    wait_until_taken(&mut child);
    child
}

pub fn wait_until_taken(child: &mut Child) {
    let begun = Instant::now();
    while fs::metadata(TAKEN).is_err() {
        assert_eq!(child.try_wait().unwrap(), None, "it has ended before");
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it does not get its memory");
        }
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
    let bystander = start_taker("size=100M,policy=bind,host-nodes=0");
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

/// Each has enough on its nodes, all together have not, which is known before any is filled.
fn small_pages_of_nodes_that_overlap() {
    const MARGIN: u64 = 64 * MIB;
    let set = Objects::new(&Host::probe().unwrap(), &Defaults::default()).unwrap();
    let bound = |id: &str, size: u64, nodes: &str| {
        let nodes = nodes.replace(',', ",,");
        let options = format!("thp=always,prealloc=on,policy=bind,host-nodes={nodes}");
        let options = format!("memory-backend-ram,id={id},size={size},{options}");
        set.parse(&options).unwrap()
    };
    let free = |nodes: &[u32]| nodes.iter().map(|&node| free_on(node)).sum::<u64>();
    let whole = |bytes: u64| bytes / (2 * MIB) * (2 * MIB);
    // Besides the margin what the kernel keeps of each node.
    let nearly = |nodes: &[u32]| whole(free(nodes) - MARGIN - 56 * MIB);
    // One within the other, whichever comes first, and a row in which each overlaps the next.
    for (sizes, where_) in [
        (vec![(64 * MIB, "3"), (nearly(&[3, 4]), "3-4")], "3-4"),
        (vec![(nearly(&[3, 4]), "3-4"), (64 * MIB, "3")], "3-4"),
        (
            vec![
                (nearly(&[1, 3]), "1,3"),
                (nearly(&[3, 4]), "3-4"),
                (2 * MIB, "0"),
            ],
            "1,3-4",
        ),
    ] {
        let there = sizes.iter().filter(|size| size.1 != "0");
        let wanted: u64 = there.map(|size| size.0).sum();
        let needed = wanted + MARGIN + wanted / 256;
        let builders = sizes.iter().zip(["m0", "m1", "m2"]);
        let builders = builders.map(|((size, nodes), id)| bound(id, *size, nodes));
        let failed = Builder::complete_all(builders.collect()).unwrap_err();
        let message = failed.error.to_string();
        assert_eq!(failed.error.kind(), ErrorKind::NoMemory, "{message}");
        let figures = format!("available on node {where_} and {needed} are needed");
        for words in ["m0: prealloc: stopped", "after 0 of", &figures] {
            assert!(message.contains(words), "{message}: lacks {words}");
        }
    }
    let builders = [(32 * MIB, "3"), (120 * MIB, "3-4")];
    let builders = builders.iter().zip(["m0", "m1"]);
    let builders = builders.map(|((size, nodes), id)| bound(id, *size, nodes));
    let backends = Builder::complete_all(builders.collect()).unwrap();
    let resident = |backend: &Backend| backend.placement().unwrap().resident;
    assert_eq!(backends.iter().map(resident).sum::<u64>(), 152 * MIB);
}

/// Free memory that is never given out counts as none.
fn what_the_kernel_keeps() {
    let bystander = start_taker("size=100M,policy=bind,host-nodes=0");
    let _reserve = Setting::set("/proc/sys/vm/min_free_kbytes", "524288").unwrap();
    // In full without the reserve, on one node and on all.
    let size = free_on(3) - 72 * MIB;
    let all = [0, 1, 3, 4].map(free_on).iter().sum::<u64>() - 96 * MIB;
    for (size, options) in [
        (size, "policy=bind,host-nodes=3"),
        (all, "policy=bind,host-nodes=0-1,,3-4"),
        (all, "policy=default"),
    ] {
        let size = size / (2 * MIB) * (2 * MIB);
        let options = format!("size={size},thp=never,prealloc=on,{options}");
        let builder = access::new("ram", &options);
        access::assert_refused(builder, ErrorKind::NoMemory, &["stopped before memory"]);
    }
    end_living(bystander);
}

/// The policy of this thread and of those that it creates.
fn set_policy(mode: i32, nodes: u64) {
    // SAFETY: reads the nodes, which outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, &nodes, 64) };
    assert_eq!(result, 0);
}

/// Memory without a policy comes from where the process may take it.
fn nodes_of_the_process() {
    let bystander = start_taker("size=100M,policy=bind,host-nodes=0");
    let size = more_than_is_free_on(3);
    for options in ["thp=never", "thp=never,share=on"] {
        let options = format!("size={size},prealloc=on,{options}");
        set_policy(libc::MPOL_BIND, 1 << 3);
        let builder = access::new("ram", &options);
        access::assert_refused(builder, ErrorKind::NoMemory, &["available on node 3 and "]);
        set_policy(libc::MPOL_DEFAULT, 0);
        access::new("ram", &options).complete().unwrap();
    }
    end_living(bystander);
}

/// Where the filter kills at get_mempolicy, a narrowed host fills memory without it. A shortage of the
/// process's own nodes is not foreseen then, and the kernel ends the process.
fn nodes_that_are_not_asked() {
    let signal_of = |calls: &str, size: u64| {
        let child = guest::start_child("bound_and_confined", &[calls, &size.to_string()]).wait();
        child.unwrap().signal()
    };
    assert_eq!(signal_of("narrowed", 32 * MIB), None);
    assert_eq!(signal_of("all", 32 * MIB), Some(libc::SIGSYS));
    let bystander = start_taker("size=100M,policy=bind,host-nodes=0");
    let size = more_than_is_free_on(3);
    assert_eq!(signal_of("narrowed", size), Some(libc::SIGKILL));
    end_living(bystander);
}

/// Bound to node 3, under a filter that kills at get_mempolicy. The arguments are which optional calls
/// are made, and the size.
pub fn bound_and_confined() {
    fs::write("/proc/self/oom_score_adj", "1000").unwrap();
    let arguments: Vec<_> = env::args().skip(2).collect();
    let mut host = Host::probe().unwrap();
    if arguments[0] == "narrowed" {
        host.narrow_calls(Calls::NONE);
    }
    let objects = Objects::new(&host, &Defaults::default()).unwrap();
    set_policy(libc::MPOL_BIND, 1 << 3);
    let filter = SeccompFilter::new(
        [(libc::SYS_get_mempolicy, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::KillProcess,
        env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
    let options = format!("size={},thp=never,prealloc=on", arguments[1]);
    let options = format!("memory-backend-ram,id=m0,{options}");
    let backend = objects.parse(&options).unwrap().complete().unwrap();
    let size = arguments[1].parse().unwrap();
    assert_eq!(backend.placement().unwrap().nodes, [(3, size)].into());
}

fn nodes_of_the_cpuset() {
    let cgroups = "/sys/fs/cgroup";
    fs::write(format!("{cgroups}/cgroup.subtree_control"), "+cpuset").unwrap();
    let group = format!("{cgroups}/one");
    fs::create_dir(&group).unwrap();
    fs::write(format!("{group}/cpuset.mems"), "3").unwrap();
    let status = guest::start_child("confined_to_one", &[]).wait().unwrap();
    fs::remove_dir(&group).unwrap();
    assert!(status.success(), "{status}");
}

/// In a cpuset of node 3.
pub fn confined_to_one() {
    fs::write(
        "/sys/fs/cgroup/one/cgroup.procs",
        std::process::id().to_string(),
    )
    .unwrap();
    let size = more_than_is_free_on(3);
    for policy in ["default", "local"] {
        let options = format!("size={size},thp=never,prealloc=on,policy={policy}");
        let builder = access::new("ram", &options);
        access::assert_refused(builder, ErrorKind::NoMemory, &["available on node 3 and "]);
    }
}

/// What was enough at the beginning. What the test before has had may not all be free yet.
fn a_node_that_fills_meanwhile() {
    let bystander = start_taker("size=100M,policy=bind,host-nodes=0");
    let rival = (0..20).find_map(|_| {
        thread::sleep(Duration::from_millis(100));
        fill_beside_a_rival()
    });
    end_living(bystander);
    end_living(rival.expect("it is short from the beginning"));
}

/// The process that took what the node had; None when the memory was there before it came, or there
/// was too little of it from the beginning.
fn fill_beside_a_rival() -> Option<Child> {
    let rival = Arc::new(Mutex::new(None));
    let started = Arc::clone(&rival);
    let options = "size=100M,thp=never,prealloc=on,prealloc-threads=1,policy=bind,host-nodes=3";
    let builder = access::new("ram", options).on_progress(move |_, _| {
        let mut rival = started.lock().unwrap();
        rival.get_or_insert_with(|| start_taker("size=100M,policy=preferred,host-nodes=3"));
    });
    let result = builder.complete();
    let rival = rival.lock().unwrap().take()?;
    let Err(failed) = result else {
        end_living(rival);
        return None;
    };
    let message = failed.error.to_string();
    assert_eq!(failed.error.kind(), ErrorKind::NoMemory, "{message}");
    for words in ["stopped before memory runs out", "available on node 3 and "] {
        assert!(message.contains(words), "{message}");
    }
    Some(rival)
}

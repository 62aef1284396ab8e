// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Nodes, CPUs and huge pages, against what the kernel's files say.

mod common;

use std::fs;

use common::host::HugePages;
use common::host::HUGE;
use common::refusing;
use common::skip;
use common::Refusal;
use hostmem::Topology;

const NODES: &str = "/sys/devices/system/node";

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// `0-2,5` as numbers.
fn numbers(list: &str) -> Vec<u32> {
    let ranges = list.split(',').filter(|range| !range.is_empty());
    ranges
        .flat_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            first.parse::<u32>().unwrap()..=last.parse().unwrap()
        })
        .collect()
}

fn status(field: &str) -> Vec<u32> {
    let status = read("/proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    numbers(line.unwrap_or_default().trim())
}

#[test]
fn nodes_are_those_of_sysfs() {
    let topology = Topology::read().unwrap();
    let ids: Vec<_> = topology.nodes.iter().map(|node| node.id).collect();
    assert_eq!(ids, numbers(&read(&format!("{NODES}/online"))));
    if ids.is_empty() {
        return skip("this kernel has no NUMA nodes");
    }
    let allowed = topology.nodes.iter().filter(|node| node.allowed);
    let allowed: Vec<_> = allowed.map(|node| node.id).collect();
    assert_eq!(allowed, status("Mems_allowed_list:"));
    for node in &topology.nodes {
        let own = format!("{NODES}/node{}", node.id);
        assert_eq!(node.cpus, numbers(&read(&format!("{own}/cpulist"))));
        let row = read(&format!("{own}/distance"));
        let row: Vec<u32> = row.split(' ').map(|word| word.parse().unwrap()).collect();
        assert!(node.distances.keys().eq(&ids));
        assert!(node.distances.values().eq(&row), "{:?}", node.distances);
        let total = read(&format!("{own}/meminfo"));
        let total = total
            .lines()
            .find(|line| line.contains("MemTotal:"))
            .unwrap();
        let total: u64 = total.split_whitespace().nth(3).unwrap().parse().unwrap();
        assert_eq!(node.memory_total, total * 1024);
        assert!(node.memory_free <= node.memory_total);
        assert!(!node.allowed || node.memory_total != 0, "{node:?}");
        assert_eq!(node.huge_pages.len(), topology.huge_pages.len());
    }
}

#[test]
fn cpus_are_those_of_the_process() {
    let topology = Topology::read().unwrap();
    assert_eq!(topology.cpus, status("Cpus_allowed_list:"));
    let of_nodes = topology.nodes.iter().flat_map(|node| &node.cpus);
    let of_nodes: Vec<_> = of_nodes.collect();
    if !of_nodes.is_empty() {
        assert!(topology.cpus.iter().all(|cpu| of_nodes.contains(&cpu)));
    }
}

#[test]
fn huge_pages_are_counted_by_size() {
    let directories = fs::read_dir("/sys/kernel/mm/hugepages");
    let mut sizes: Vec<u64> = directories
        .into_iter()
        .flatten()
        .map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let kib = name.trim_start_matches("hugepages-").trim_end_matches("kB");
            kib.parse::<u64>().unwrap() * 1024
        })
        .collect();
    sizes.sort_unstable();
    let topology = Topology::read().unwrap();
    assert!(topology
        .huge_pages
        .iter()
        .map(|pages| pages.page_size)
        .eq(sizes));

    let Some(_pool) = HugePages::have(3) else {
        return;
    };
    let backend = common::access::new(
        "memfd",
        &format!("size={},hugetlb=on,hugetlbsize=2M", 2 * HUGE),
    );
    let backend = backend.complete().unwrap();
    let topology = Topology::read().unwrap();
    let find = |pages: &[hostmem::HugePages]| *pages.iter().find(|p| p.page_size == HUGE).unwrap();
    let host = find(&topology.huge_pages);
    assert!(host.free >= 3 && host.reserved >= 2, "{host:?}");
    assert!(host.total >= host.free && host.overcommit == 0, "{host:?}");
    let of_nodes = topology.nodes.iter().map(|node| find(&node.huge_pages));
    let (total, free) = of_nodes.fold((0, 0), |(total, free), pages| {
        assert_eq!((pages.reserved, pages.overcommit), (0, 0));
        (total + pages.total, free + pages.free)
    });
    if !topology.nodes.is_empty() {
        assert_eq!((total, free), (host.total, host.free));
    }
    drop(backend);
}

/// Reading asks with no call that a VMM's filter forbids.
#[test]
fn nothing_but_files_is_asked() {
    let expected = Topology::read().unwrap();
    let calls = [
        libc::SYS_get_mempolicy,
        libc::SYS_mbind,
        libc::SYS_move_pages,
        libc::SYS_getcpu,
        libc::SYS_sysinfo,
    ];
    let seen = refusing(&calls.map(|call| Refusal::new(call, libc::EPERM)), || {
        Topology::read().unwrap()
    });
    let ids = |topology: &Topology| -> Vec<u32> { topology.nodes.iter().map(|n| n.id).collect() };
    assert_eq!(ids(&seen), ids(&expected));
    assert_eq!(seen.cpus, expected.cpus);
}

#[test]
fn a_process_on_fewer_cpus_says_so() {
    let all = Topology::read().unwrap().cpus;
    // Of a thread, which is what asks.
    let seen = std::thread::spawn(move || {
        // SAFETY: an all-zero set is an empty one.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: writes the set; the CPU is one of the machine's.
        unsafe { libc::CPU_SET(all[all.len() - 1] as usize, &mut set) };
        let size = std::mem::size_of_val(&set);
        // SAFETY: reads the set.
        assert_eq!(unsafe { libc::sched_setaffinity(0, size, &set) }, 0);
        (Topology::read().unwrap().cpus, all)
    });
    let (cpus, all) = seen.join().unwrap();
    assert_eq!(cpus, all[all.len() - 1..]);
}

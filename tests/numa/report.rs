// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is said of the host and of memory on it.

use std::os::fd::AsRawFd;
use std::ptr;

use hostmem::Satisfied;
use hostmem::Topology;

use super::common::access;
use super::common::refusing;
use super::common::Refusal;
use super::guest::Test;

const MIB: u64 = 1 << 20;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("report::topology_is_the_machine", topology_is_the_machine),
        Test::new(
            "report::placement_needs_no_call_of_numa",
            placement_needs_no_call_of_numa,
        ),
        Test::new(
            "report::a_peer_changes_the_policy",
            a_peer_changes_the_policy,
        ),
    ]
}

/// As scripts/guest makes it.
fn topology_is_the_machine() {
    let topology = Topology::read().unwrap();
    let machine: [(&[u32], u64, [u32; 5]); 5] = [
        (&[0, 1], 512, [10, 21, 40, 17, 28]),
        (&[2, 3], 256, [21, 10, 40, 28, 17]),
        (&[4], 0, [40, 40, 10, 40, 40]),
        (&[], 256, [17, 28, 40, 10, 28]),
        (&[], 256, [28, 17, 40, 28, 10]),
    ];
    assert_eq!(topology.nodes.len(), 5);
    for (id, (node, (cpus, mib, distances))) in (0..).zip(topology.nodes.iter().zip(machine)) {
        assert_eq!(node.id, id);
        assert_eq!(node.cpus, cpus);
        assert_eq!(node.allowed, mib != 0);
        assert_eq!(node.distances, (0..).zip(distances).collect());
        // The kernel keeps some for itself.
        let total = node.memory_total / MIB;
        assert!(total <= mib && (total > mib / 2 || mib == 0), "{node:?}");
        assert!(node.memory_free <= node.memory_total, "{node:?}");
        let pages = node
            .huge_pages
            .iter()
            .filter(|pages| pages.page_size == 2 * MIB);
        let pages: Vec<_> = pages.map(|pages| (pages.total, pages.free)).collect();
        let wanted = if mib == 0 { (0, 0) } else { (8, 8) };
        assert_eq!(pages, [wanted], "{node:?}");
    }
    // What this thread was given.
    assert_eq!(topology.cpus, [0, 1]);
}

fn placement_needs_no_call_of_numa() {
    let options = "size=2M,thp=never,prealloc=on,policy=interleave,host-nodes=3-4";
    let backend = access::new("ram", options).complete().unwrap();
    let calls = [libc::SYS_move_pages, libc::SYS_get_mempolicy];
    let refusals = calls.map(|call| Refusal::new(call, libc::EPERM));
    let seen = refusing(&refusals, || backend.placement().unwrap());
    assert_eq!(seen.nodes, [(3, MIB), (4, MIB)].into(), "{seen:?}");
    assert_eq!(seen.satisfied, Satisfied::Yes);
}

/// The policy of shared memory is the object's: any mapping changes it.
fn a_peer_changes_the_policy() {
    const BIND: libc::c_int = 2;
    let options = "size=2M,thp=never,policy=bind,host-nodes=3";
    let backend = access::new("memfd", options).complete().unwrap();
    assert!(!backend.placement().unwrap().policy_changed);
    let claim = backend.claim("vm0").unwrap();
    let fd = claim.memory().fd().unwrap().as_raw_fd();
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let node_4 = 1u64 << 4;
    // SAFETY: a new mapping, which is left alone but for its policy; the mask is read only.
    let result = unsafe {
        let size = 2 * MIB as usize;
        let address = libc::mmap(ptr::null_mut(), size, protection, libc::MAP_SHARED, fd, 0);
        assert_ne!(address, libc::MAP_FAILED);
        libc::syscall(libc::SYS_mbind, address, size, BIND, &node_4, 64, 0)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    let seen = backend.placement().unwrap();
    assert!(seen.policy_changed, "{seen:?}");
    assert_eq!(seen.policy, "bind:4");
    backend.populate(0, 2 * MIB).unwrap();
    let seen = backend.placement().unwrap();
    assert_eq!(seen.nodes, [(4, 2 * MIB)].into(), "{seen:?}");
    assert_eq!(
        (seen.satisfied, seen.outside),
        (Satisfied::Spilled, 2 * MIB)
    );
}

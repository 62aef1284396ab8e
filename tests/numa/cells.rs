// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Each policy on each kind of memory: the kernel counts where the pages are.

use std::fs;

use hostmem::ErrorKind;
use hostmem::Satisfied;

use super::common::access;
use super::common::host::Setting;
use super::common::kernel;
use super::guest::Test;

const MIB: u64 = 1 << 20;
pub const SHMEM: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
const WEIGHTS: &str = "/sys/kernel/mm/mempolicy/weighted_interleave";

/// A policy, and what part of the memory is to be where.
pub struct Policy {
    pub name: &'static str,
    pub options: &'static str,
    /// Nodes with their weights.
    shares: &'static [(u32, u64)],
    /// The first kernel that has it, and words of the refusal by others.
    since: (u32, u32),
    refusal: &'static str,
}

pub const POLICIES: [Policy; 10] = [
    Policy {
        name: "default",
        options: "policy=default",
        shares: &[(0, 1)],
        since: (0, 0),
        refusal: "",
    },
    Policy {
        name: "local",
        options: "policy=local",
        shares: &[(0, 1)],
        since: (0, 0),
        refusal: "",
    },
    Policy {
        name: "preferred_one",
        options: "policy=preferred,host-nodes=4",
        shares: &[(4, 1)],
        since: (0, 0),
        refusal: "",
    },
    Policy {
        name: "preferred_several",
        options: "policy=preferred,host-nodes=3-4",
        shares: &[(3, 1)],
        since: (5, 15),
        refusal: "policy=preferred with several host-nodes needs Linux 5.15",
    },
    Policy {
        name: "preferred_many",
        options: "policy=preferred-many,host-nodes=3-4",
        shares: &[(3, 1)],
        since: (5, 15),
        refusal: "policy=preferred-many needs Linux 5.15",
    },
    Policy {
        name: "bind_one",
        options: "policy=bind,host-nodes=3",
        shares: &[(3, 1)],
        since: (0, 0),
        refusal: "",
    },
    Policy {
        name: "bind_several",
        options: "policy=bind,host-nodes=3-4",
        shares: &[(3, 1)],
        since: (0, 0),
        refusal: "",
    },
    Policy {
        name: "bind_home",
        options: "policy=bind,host-nodes=3-4,home-node=4",
        shares: &[(4, 1)],
        since: (5, 17),
        refusal: "home-node needs Linux 5.17",
    },
    Policy {
        name: "interleave",
        options: "policy=interleave,host-nodes=0-1,,3-4",
        shares: &[(0, 1), (1, 1), (3, 1), (4, 1)],
        since: (0, 0),
        refusal: "",
    },
    Policy {
        name: "weighted_interleave",
        options: "policy=weighted-interleave,host-nodes=0-1,,3-4",
        shares: &[(0, 3), (1, 1), (3, 2), (4, 2)],
        since: (6, 9),
        refusal: "policy=weighted-interleave needs Linux 6.9",
    },
];

/// Whether the memory shall be in huge pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Huge {
    Never,
    Always,
    /// By MADV_COLLAPSE, which puts all on one node and so does not go with interleaving.
    Collapse,
}

pub struct Backing {
    pub name: &'static str,
    pub kind: &'static str,
    pub options: &'static str,
    pub size: u64,
    huge: Huge,
    /// The host's setting for huge pages of shared memory.
    pub shmem: &'static str,
}

pub const BACKINGS: [Backing; 9] = [
    Backing {
        name: "private",
        kind: "ram",
        options: "thp=never",
        size: 2 * MIB,
        huge: Huge::Never,
        shmem: "never",
    },
    Backing {
        name: "private_thp",
        kind: "ram",
        options: "thp=always",
        size: 16 * MIB,
        huge: Huge::Always,
        shmem: "never",
    },
    Backing {
        name: "memfd",
        kind: "memfd",
        options: "thp=never",
        size: 2 * MIB,
        huge: Huge::Never,
        shmem: "never",
    },
    Backing {
        name: "memfd_thp_collapse",
        kind: "memfd",
        options: "thp=always",
        size: 16 * MIB,
        huge: Huge::Collapse,
        shmem: "never",
    },
    Backing {
        name: "memfd_thp_advise",
        kind: "memfd",
        options: "thp=auto",
        size: 16 * MIB,
        huge: Huge::Always,
        shmem: "advise",
    },
    Backing {
        name: "hugetlb",
        kind: "memfd",
        options: "hugetlb=on",
        size: 16 * MIB,
        huge: Huge::Always,
        shmem: "never",
    },
    Backing {
        name: "tmpfs",
        kind: "file",
        options: "share=on,mem-path=/dev/shm/m0",
        size: 2 * MIB,
        huge: Huge::Never,
        shmem: "never",
    },
    Backing {
        name: "ext4_shared",
        kind: "file",
        options: "share=on,mem-path=/mnt/m0",
        size: 2 * MIB,
        huge: Huge::Never,
        shmem: "never",
    },
    Backing {
        name: "ext4_private",
        kind: "file",
        options: "share=off,mem-path=/mnt/m0",
        size: 2 * MIB,
        huge: Huge::Never,
        shmem: "never",
    },
];

/// What is to be where. The kernel ignores the policy of a mapping of a shared file on disk: there
/// the threads that fill it have the policy, but a thread has no home node.
fn shares(policy: &Policy, backing: &Backing) -> &'static [(u32, u64)] {
    match (backing.name, policy.name) {
        ("ext4_shared", "bind_home") => &[(3, 1)],
        _ => policy.shares,
    }
}

pub fn name(policy: &Policy, backing: &Backing) -> String {
    format!("cell::{}::{}", policy.name, backing.name)
}

pub fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for policy in &POLICIES {
        for backing in &BACKINGS {
            tests.push(Test {
                name: name(policy, backing),
                run: Box::new(|| check(policy, backing)),
            });
        }
    }
    tests
}

/// Removes what a backend made in a file system.
pub fn clean() {
    for path in ["/dev/shm/m0", "/mnt/m0"] {
        let _ = fs::remove_file(path);
    }
}

fn set_weights(shares: &[(u32, u64)]) {
    for (node, weight) in shares {
        fs::write(format!("{WEIGHTS}/node{node}"), weight.to_string()).unwrap();
    }
}

fn check(policy: &Policy, backing: &Backing) -> String {
    clean();
    let _shmem = Setting::set(SHMEM, backing.shmem).unwrap();
    let options = format!(
        "size={},prealloc=on,{},{}",
        backing.size, backing.options, policy.options
    );
    let builder = access::new(backing.kind, &options);
    if kernel() < policy.since {
        access::assert_refused(builder, ErrorKind::Unsupported, &[policy.refusal]);
        return "–".into();
    }
    if policy.name == "weighted_interleave" {
        set_weights(policy.shares);
    }
    let backend = builder.complete().unwrap();
    let seen = backend.placement().unwrap();
    assert_eq!(seen.resident, backing.size, "{seen:?}");
    let shares = shares(policy, backing);
    let total: u64 = shares.iter().map(|(_, weight)| weight).sum();
    // What the file system needs for itself takes turns with the pages of a shared file.
    let slack = match backing.name {
        "ext4_shared" if shares.len() > 1 => 4 * 4096,
        _ => 0,
    };
    assert_eq!(seen.nodes.len(), shares.len(), "{seen:?}");
    for (node, weight) in shares {
        let wanted = backing.size / total * weight;
        assert!(seen.nodes[node].abs_diff(wanted) <= slack, "{seen:?}");
    }

    let satisfied = match (policy.name, backing.name) {
        ("default" | "local", _) => Satisfied::NotApplicable,
        // What is filled later need not be there.
        (_, "ext4_shared") => Satisfied::Unknown,
        _ => Satisfied::Yes,
    };
    assert_eq!(seen.satisfied, satisfied, "{seen:?}");
    assert_eq!((seen.outside, seen.policy_changed), (0, false), "{seen:?}");

    let spread = shares.len() > 1;
    let huge = match backing.huge {
        Huge::Never => false,
        Huge::Always => true,
        Huge::Collapse => !spread && kernel() >= (6, 1),
    };
    assert_eq!(seen.huge, if huge { backing.size } else { 0 }, "{seen:?}");
    drop(backend);
    clean();
    describe(shares)
}

/// The one node, or the ratio of all: `3:1:2:2`.
fn describe(shares: &[(u32, u64)]) -> String {
    if let [(node, _)] = shares {
        return node.to_string();
    }
    let weights = shares.iter().map(|(_, weight)| weight.to_string());
    weights.collect::<Vec<_>>().join(":")
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Nodes that cannot be had: refused by name, before the kernel drops them in silence.

use std::fs;
use std::process;

use hostmem::ErrorKind;

use super::common::access;
use super::common::kernel;
use super::guest;
use super::guest::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("refusal::nodes_that_do_not_exist", nodes_that_do_not_exist),
        Test::new("refusal::a_node_without_memory", a_node_without_memory),
        Test::new(
            "refusal::nodes_outside_the_cpuset",
            nodes_outside_the_cpuset,
        ),
        Test::new(
            "refusal::a_home_node_that_cannot_be",
            a_home_node_that_cannot_be,
        ),
    ]
}

#[track_caller]
fn assert_refused(options: &str, words: &[&str]) {
    let builder = access::new("ram", &format!("size=1M,{options}"));
    access::assert_refused(builder, ErrorKind::Value, words);
}

/// Of every policy that takes nodes and that this kernel has.
fn policies() -> impl Iterator<Item = &'static str> {
    let policies = [
        ("bind", (0, 0)),
        ("preferred", (0, 0)),
        ("interleave", (0, 0)),
        ("preferred-many", (5, 15)),
        ("weighted-interleave", (6, 9)),
    ];
    let here = policies.into_iter().filter(|&(_, since)| kernel() >= since);
    here.map(|(policy, _)| policy)
}

fn nodes_that_do_not_exist() {
    for policy in policies() {
        for (nodes, bad) in [
            ("host-nodes=5", "node 5 is not a node"),
            ("host-nodes=0,host-nodes=7", "node 7 is not a node"),
            ("host-nodes=4-9", "nodes 5-9 are not nodes"),
        ] {
            let why = " of this host; usable nodes: 0-1,3-4";
            let options = format!("policy={policy},{nodes}");
            assert_refused(&options, &["host-nodes: ", bad, why]);
        }
    }
}

fn a_node_without_memory() {
    for policy in policies() {
        for nodes in ["host-nodes=2", "host-nodes=0-4"] {
            let why = "host-nodes: node 2 has no memory; usable nodes: 0-1,3-4";
            assert_refused(&format!("policy={policy},{nodes}"), &[why]);
        }
    }
}

fn a_home_node_that_cannot_be() {
    if kernel() < (5, 17) {
        // Refused whatever the node, in the cells.
        return;
    }
    for (node, why) in [(9, "is not a node of this host"), (2, "has no memory")] {
        let options = format!("policy=bind,host-nodes=3-4,home-node={node}");
        assert_refused(&options, &[&format!("home-node: node {node} {why}")]);
    }
}

fn nodes_outside_the_cpuset() {
    let cgroups = "/sys/fs/cgroup";
    fs::write(format!("{cgroups}/cgroup.subtree_control"), "+cpuset").unwrap();
    let group = format!("{cgroups}/confined");
    fs::create_dir(&group).unwrap();
    fs::write(format!("{group}/cpuset.mems"), "0-1").unwrap();
    let status = guest::start_child("confined", &[]).wait().unwrap();
    fs::remove_dir(&group).unwrap();
    assert!(status.success(), "{status}");
}

/// A process that goes into the cpuset.
pub fn confined() {
    let outside = "size=1M,thp=never,prealloc=on,policy=bind,host-nodes=1,,3";
    let outside = access::new("ram", outside).complete().unwrap();
    assert!(!outside.placement().unwrap().policy_changed);
    let procs = "/sys/fs/cgroup/confined/cgroup.procs";
    fs::write(procs, process::id().to_string()).unwrap();
    // Of memory that was bound before, the kernel cuts the policy.
    let seen = outside.placement().unwrap();
    assert!(seen.policy_changed, "{seen:?}");
    assert_eq!(outside.get("host-nodes").unwrap(), [1, 3].into());
    for policy in policies() {
        for (nodes, bad) in [
            ("3", "node 3 is"),
            ("0-1,,3-4", "nodes 3-4 are"),
            ("1,,3", "node 3 is"),
        ] {
            let why = format!(
                "host-nodes: {bad} outside this process's cpuset (cpuset.mems); \
                 usable nodes: 0-1"
            );
            assert_refused(&format!("policy={policy},host-nodes={nodes}"), &[&why]);
        }
        let options = format!("size=1M,prealloc=on,policy={policy},host-nodes=1");
        let backend = access::new("ram", &options).complete().unwrap();
        let seen = backend.placement().unwrap();
        assert_eq!(seen.nodes, [(1, 1 << 20)].into(), "{policy}: {seen:?}");
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Hosts that do not tell: /sys and /proc are hidden, as in containers and jails. What is not known
//! is no reason to refuse; the kernel decides.

mod common;

use common::bindable_node;
use common::host::hiding;
use common::host::HugePages;
use common::host::HUGE;
use hostmem::Backend;
use hostmem::Defaults;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Objects;
use hostmem::Result;
use hostmem::ThreadContext;

const PLACES: [&[&str]; 2] = [&["/sys"], &["/sys", "/proc"]];

fn objects_of(host: &Host) -> Objects {
    Objects::new(host, &Defaults::qemu()).unwrap()
}

/// Does it on a thread from which places are hidden: with a host that was probed before, and with
/// one that was probed there.
fn hidden(body: impl Fn(&Objects, bool) + Sync) {
    for places in PLACES {
        let host = Host::probe().unwrap();
        let body = &body;
        hiding(places, move || {
            body(&objects_of(&host), true);
            body(&objects_of(&Host::probe().unwrap()), false);
        });
    }
}

fn make(objects: &Objects, options: &str) -> Result<Backend> {
    Ok(objects.parse(options)?.complete()?)
}

fn make_context(objects: &Objects, affinity: &str) -> Result<ThreadContext> {
    let mut context = objects.thread_context("tc0")?;
    let (property, value) = affinity.split_once('=').unwrap();
    context.set(property, value)?;
    context.complete().map_err(|failed| failed.error)
}

#[test]
fn memory_is_bound_to_a_node() {
    let Some(node) = bindable_node() else {
        return;
    };
    hidden(|objects, _| {
        for policy in ["bind", "preferred", "interleave"] {
            let policy = format!("policy={policy},host-nodes={node}");
            let options = format!("memory-backend-ram,id=m0,size=1M,prealloc=on,{policy}");
            make(objects, &options).unwrap();
        }
    });
}

/// The kernel would leave out the one that is not there, and use the other.
#[test]
fn a_node_that_is_not_there_is_refused() {
    let Some(node) = bindable_node() else {
        return;
    };
    hidden(|objects, _| {
        for nodes in [
            "host-nodes=1023".to_owned(),
            format!("host-nodes={node},host-nodes=1023"),
        ] {
            let options = format!("memory-backend-ram,id=m0,size=1M,policy=bind,{nodes}");
            let error = make(objects, &options).unwrap_err();
            assert!(error.to_string().contains("node 1023 "), "{error}");
        }
    });
}

#[test]
fn huge_pages_come_from_the_pool() {
    let Some(_pool) = HugePages::have(4) else {
        return;
    };
    let default = common::meminfo("Hugepagesize:");
    hidden(|objects, _| {
        let options = "memory-backend-memfd,id=m0,size=8M,hugetlb=on,prealloc=on";
        let page_size = |options: &str| {
            let backend = make(objects, options).unwrap();
            let claim = backend.claim("vm0").unwrap();
            claim.memory().page_size()
        };
        assert_eq!(page_size(&format!("{options},hugetlbsize=2M")), HUGE);
        let anonymous = "memory-backend-ram,id=m0,size=8M,hugetlb=on,prealloc=on,hugetlbsize=2M";
        assert_eq!(page_size(anonymous), HUGE);
        if default == HUGE {
            assert_eq!(page_size(options), HUGE);
        }
        // A power of two, but of no page.
        let error = make(objects, &format!("{options},hugetlbsize=4M")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{error}");
        let message = error.to_string();
        let (_, sizes) = message
            .split_once("no huge pages of that size; it has ")
            .unwrap();
        assert!(sizes.contains("2M"), "{message}");
        let odd = options.replace("size=8M", "size=5M");
        let error = make(objects, &format!("{odd},hugetlbsize=2M")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{error}");
        assert!(error.to_string().contains("multiple"), "{error}");
    });
}

#[test]
fn bound_huge_pages_come_from_the_pool() {
    let Some(node) = bindable_node() else {
        return;
    };
    let Some(_pool) = HugePages::have(4) else {
        return;
    };
    hidden(|objects, _| {
        let options = "memory-backend-memfd,id=m0,size=8M,hugetlb=on,hugetlbsize=2M,prealloc=on";
        make(objects, &format!("{options},policy=bind,host-nodes={node}")).unwrap();
    });
}

#[test]
fn memory_needs_no_reserve() {
    let mode = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap();
    if mode.trim() == "2" {
        return common::skip("the host does not overcommit");
    }
    hidden(|objects, _| {
        make(objects, "memory-backend-ram,id=m0,size=1M,reserve=off").unwrap();
    });
}

#[test]
fn transparent_huge_pages_are_found() {
    let here = Host::probe().unwrap().info().thp_size;
    for places in PLACES {
        hiding(places, move || {
            assert_eq!(Host::probe().unwrap().info().thp_size, here);
        });
    }
}

#[test]
fn threads_go_to_cpus_and_nodes() {
    let Some(node) = bindable_node() else {
        return;
    };
    let topology = hostmem::Topology::read().unwrap();
    let cpu = topology.cpus[0];
    hidden(|objects, seen| {
        make_context(objects, &format!("cpu-affinity={cpu}")).unwrap();
        make_context(objects, "cpu-affinity=8191").unwrap_err();
        let made = make_context(objects, &format!("node-affinity={node}"));
        match made {
            Ok(_) => assert!(seen),
            Err(error) => {
                assert!(!seen, "{error}");
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                assert!(error.to_string().contains("cannot be told"), "{error}");
            }
        }
    });
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Limits of control groups: what is promised counts, and so does what cannot be seen.

mod common;

use std::fs;

use common::host::Container;
use common::host::Group;
use common::host::HugePages;
use common::host::HUGE;
use common::in_child;
use common::objects;
use common::skip;
use hostmem::Backend;
use hostmem::Error;
use hostmem::ErrorKind;
use hostmem::Objects;

const MIB: u64 = 1 << 20;

fn make(objects: &Objects, options: &str) -> Result<Backend, Error> {
    Ok(objects.parse(options)?.complete()?)
}

/// Sets the limit of what a group has of the tests' huge pages.
fn limit_huge_pages(group: &Group, bytes: u64) {
    let names = ["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"].map(str::to_owned);
    fs::write(group.file(&names), bytes.to_string()).unwrap();
}

/// Pages that are reserved and not touched are in no count of use, but will be.
#[test]
fn reserved_huge_pages_count() {
    in_child("reserved_huge_pages_count", || {
        let Some(_pool) = HugePages::have(24) else {
            return;
        };
        let Some(group) = Group::enter("hugetlb") else {
            return;
        };
        limit_huge_pages(&group, 16 * HUGE);
        let objects = objects();
        let options = |id: &str, bytes: u64, more: &str| {
            format!(
                "memory-backend-memfd,id={id},size={bytes},hugetlb=on,hugetlbsize=2M,prealloc={more}"
            )
        };
        for prealloc in ["off", "on"] {
            let first = make(&objects, &options("m0", 12 * HUGE, prealloc)).unwrap();
            let error = make(&objects, &options("m1", 12 * HUGE, prealloc)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoMemory, "{error}");
            let words = format!("is {} bytes, {} of them left", 16 * HUGE, 4 * HUGE);
            assert!(error.to_string().contains(&words), "{error}");
            drop(make(&objects, &options("m1", 4 * HUGE, prealloc)).unwrap());
            drop(first);
            drop(make(&objects, &options("m1", 16 * HUGE, prealloc)).unwrap());
        }
    });
}

/// The group above that has the limit is outside of what a container sees.
#[test]
fn a_hidden_limit_of_huge_pages_is_named_as_the_likely_cause() {
    in_child(
        "a_hidden_limit_of_huge_pages_is_named_as_the_likely_cause",
        || {
            let Some(_pool) = HugePages::have(8) else {
                return;
            };
            let Some(group) = Group::enter("hugetlb") else {
                return;
            };
            limit_huge_pages(&group, 4 * HUGE);
            let Some(_container) = Container::enter(&group) else {
                return;
            };
            let options =
                "memory-backend-memfd,id=m0,size=16M,hugetlb=on,hugetlbsize=2M,prealloc=on";
            let error = make(&objects(), options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoMemory, "{error}");
            let words = "a limit of a control group that cannot be seen from here may be the cause";
            assert!(error.to_string().contains(words), "{error}");
        },
    );
}

/// In view the cause is known, and without a group there is none.
#[test]
fn no_limit_is_suspected_where_all_are_in_view() {
    in_child("no_limit_is_suspected_where_all_are_in_view", || {
        let Some(_pool) = HugePages::have(4) else {
            return;
        };
        let options = "memory-backend-memfd,id=m0,size=16M,hugetlb=on,hugetlbsize=2M,reserve=off";
        let backend = make(&objects(), options).unwrap();
        let error = backend.populate(0, 16 * MIB).unwrap_err();
        assert!(!error.to_string().contains("control group"), "{error}");
    });
}

/// Of version 1 the kernel tells the least limit of all groups above; over it is the OOM killer.
#[test]
fn a_hidden_limit_of_memory_is_kept() {
    in_child("a_hidden_limit_of_memory_is_kept", || {
        let Some(group) = Group::enter("memory") else {
            return;
        };
        if !group.path.join("memory.limit_in_bytes").exists() {
            return skip("version 2 of control groups does not tell limits that are out of view");
        }
        group.limit_memory(64 * MIB);
        let Some(_container) = Container::enter(&group) else {
            return;
        };
        let options = "memory-backend-ram,id=m0,size=128M,prealloc=on";
        let error = make(&objects(), options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoMemory, "{error}");
        let words = "stopped before memory runs out, after 0 of 134217728 bytes";
        assert!(error.to_string().contains(words), "{error}");
        let words = "under the memory limit of the control group";
        assert!(error.to_string().contains(words), "{error}");
    });
}

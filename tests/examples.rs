// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The examples that any host can run do what they say.

mod common;

use std::env;
use std::process::Command;

use common::page_size;
use common::skip;

/// What an example prints; None, said, where it was not built: `cargo test` builds all of them, but
/// not where it is asked for some tests alone.
fn run(name: &str, arguments: &[&str]) -> Option<String> {
    let ours = env::current_exe().unwrap();
    let directory = ours.ancestors().nth(2).unwrap().join("examples");
    let example = directory.join(name);
    if !example.exists() {
        skip(&format!("{} is not built", example.display()));
        return None;
    }
    let output = Command::new(example).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Blocks of 2 MiB come and go, and nothing else.
#[test]
fn hotplug_has_what_is_plugged_and_no_more() {
    if page_size() > 2 << 20 {
        return skip("a block is less than a page");
    }
    let object = "memory-backend-memfd,id=m0,size=64M,thp=never";
    let Some(said) = run("hotplug", &[object]) else {
        return;
    };
    let expected = [
        "before: 0 MiB plugged; resident 0 MiB,",
        "8 blocks plugged: 16 MiB plugged; resident 16 MiB,",
        "2 of them unplugged: 12 MiB plugged; resident 12 MiB,",
        "1 plugged again: 14 MiB plugged; resident 14 MiB,",
        "while pages are pinned: m0: discard: 'vfio0' has inhibited",
        "all unplugged: 0 MiB plugged; resident 0 MiB,",
    ];
    assert_eq!(said.lines().count(), expected.len(), "{said}");
    for (line, begin) in said.lines().zip(expected) {
        assert!(line.starts_with(begin), "{begin}\n{said}");
    }
}

/// What the guest counts comes back with its memory.
#[test]
#[cfg(all(feature = "kvm", feature = "vm-memory-018", target_arch = "x86_64"))]
fn restore_has_a_guest_go_on() {
    if let Err(error) = kvm_ioctls::Kvm::new().and_then(|kvm| kvm.create_vm().map(drop)) {
        return skip(&format!("no virtual machine by /dev/kvm: {error}"));
    }
    let Some(said) = run("restore", &[]) else {
        return;
    };
    let expected = [
        "the guest counts to 5000",
        "saved: 17 MiB of data, 47 MiB of holes",
        "restored: ",
        "the guest goes on at 5001",
        "the guest counts to 10000",
        "every page is right, 0 bytes are unread",
    ];
    assert_eq!(said.lines().count(), expected.len(), "{said}");
    for (line, begin) in said.lines().zip(expected) {
        assert!(line.starts_with(begin), "{begin}\n{said}");
    }
}

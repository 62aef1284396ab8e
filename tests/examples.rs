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

/// A kernel that is made here, for examples/vmm.
#[cfg(all(feature = "kvm", feature = "vm-memory-018", target_arch = "x86_64"))]
fn make_kernel(directory: &std::path::Path) -> String {
    let kernel = directory.join("guest").display().to_string();
    let root = env!("CARGO_MANIFEST_DIR");
    let mut compiler = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    let compiler = compiler
        .args([
            "-std=gnu11",
            "-O1",
            "-ffreestanding",
            "-nostdlib",
            "-static",
        ])
        .args(["-fno-pie", "-no-pie", "-fno-stack-protector"])
        .args(["-fno-asynchronous-unwind-tables", "-mno-red-zone"])
        // The CPU starts without vector registers.
        .args([
            "-mgeneral-regs-only",
            "-Wl,-Ttext=0x200000,-e,start,--build-id=none",
        ])
        .args(["-o", &kernel, &format!("{root}/tests/c/guest.c")]);
    let output = compiler.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    kernel
}

/// A kernel has all of the memory, whatever it is made of.
#[test]
#[cfg(all(feature = "kvm", feature = "vm-memory-018", target_arch = "x86_64"))]
fn vmm_boots_a_kernel_in_memory_of_any_kind() {
    if let Err(error) = kvm_ioctls::Kvm::new().and_then(|kvm| kvm.create_vm().map(drop)) {
        return skip(&format!("no virtual machine by /dev/kvm: {error}"));
    }
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let kernel = make_kernel(directory.path());
    let path = directory.path().display();
    let mut objects = vec![
        "memory-backend-ram,id=m0,size=32M".to_owned(),
        "memory-backend-ram,size=32M,thp=always,prealloc=on".into(),
        "memory-backend-memfd,id=m0,size=32M,prealloc=on".into(),
        "memory-backend-shm,size=32M,share=on".into(),
        format!("memory-backend-file,size=32M,share=on,mem-path={path}/m0"),
        format!("memory-backend-file,size=32M,share=off,mem-path={path}"),
        "memory-backend-ram,size=32M,guard=off,lock=on".into(),
    ];
    let pages = common::host::HugePages::have(16);
    if pages.is_some() {
        objects.push("memory-backend-memfd,size=32M,hugetlb=on,hugetlbsize=2M".into());
    }
    let mut sizes: Vec<_> = objects
        .iter()
        .map(|object| (object.as_str(), 32, 28))
        .collect();
    // On both sides of the addresses of devices.
    sizes.push(("memory-backend-ram,size=4G,reserve=try,thp=never", 4096, 60));
    for (object, all, good) in sizes {
        let Some(said) = run("vmm", &[object, &kernel, "hello=1", "from the test"]) else {
            return;
        };
        let expected =
            format!("memory: {all} MiB, good: {good} MiB\ncommand line: hello=1 from the test\n");
        assert_eq!(said, expected, "{object}");
    }
}

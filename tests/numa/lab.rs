// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the lab is made of: its kernels and scripts, and whether they are here.

use std::env;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// Series of kernels, as scripts/guest-kernels fetches them.
pub const KERNELS: [&str; 3] = ["5.10", "6.1", "6.12"];

/// Boots a machine and runs a program in it.
pub fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/guest")
}

pub fn kernel_directory(kernel: &str) -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = cache.filter(|cache| cache.is_absolute());
    let directory = format!("hostmem/linux-{kernel}");
    cache.unwrap_or_else(home).join(directory)
}

fn has_program(name: &str) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default());
    env::split_paths(&path).any(|directory| directory.join(name).exists())
}

/// Why the lab cannot be had here; None: it can.
pub fn find_missing() -> Option<String> {
    if env::consts::ARCH != "x86_64" {
        return Some("its machines are x86-64".into());
    }
    if super::common::is_instrumented() {
        return Some("a run under sanitizers leaves it out".into());
    }
    if !script().exists() {
        return Some("scripts/guest is not here, a packaged crate has no scripts".into());
    }
    for program in ["qemu-system-x86_64", "busybox", "mkfs.ext4", "strip", "ldd"] {
        if !has_program(program) {
            return Some(format!(
                "no {program}; `make test-numa` installs it where it can"
            ));
        }
    }
    let missing = |kernel: &&&str| !kernel_directory(kernel).join("vmlinuz").exists();
    if let Some(kernel) = KERNELS.iter().find(missing) {
        let place = kernel_directory(kernel);
        return Some(format!(
            "no Linux {kernel} in {}; scripts/guest-kernels fetches it",
            place.display()
        ));
    }
    None
}

/// A machine that boots and runs some tests, with what it says on its standard output.
pub fn command(kernel: &str, scratch: &Path, tests: &[String]) -> Command {
    let mut command = Command::new(script());
    command
        .arg(kernel_directory(kernel))
        .arg(scratch)
        .arg(env::current_exe().unwrap())
        .arg(super::guest::ALL)
        .args(tests);
    command
}

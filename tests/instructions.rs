// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How many instructions small things take, by callgrind, against tests/instructions.txt: so that
//! nothing becomes slower unnoticed. `HOSTMEM_UPDATE_INSTRUCTIONS=1 cargo test --test instructions`
//! writes that file again.

mod common;

use std::collections::BTreeMap;
use std::env;
use std::ffi::CStr;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::is_instrumented;
use common::skip;
use tempfile::TempDir;

const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/instructions.txt");
const COUNTED: [&str; 6] = [
    "life_ram",
    "life_memfd",
    "set",
    "get",
    "options",
    "placement",
];
/// By how much a count may differ.
const PERCENT: u64 = 3;

/// Counts are those of one compiler and one C library.
fn toolchain() -> String {
    let compiler = Command::new("gcc").arg("-dumpfullversion").output();
    let compiler = compiler.map_or_else(
        |_| "none".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    );
    // SAFETY: returns a text that lives as long as the process.
    let library = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    format!(
        "gcc {compiler}, glibc {}, {}, numa {}",
        library.to_str().unwrap(),
        env::consts::ARCH,
        cfg!(feature = "numa")
    )
}

fn has_valgrind() -> bool {
    let version = Command::new("valgrind").arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

/// What comparing and searching texts takes depends on where in a page they are, so on the length of
/// every text of the library.
fn depends_on_place(file: &str) -> bool {
    file.contains("/multiarch/str")
}

/// The sum of a profile, without what is the shim's own and what changes for no reason. The line
/// after a call has what the callee took, which is counted there.
fn sum(profile: &str) -> u64 {
    let mut file = "";
    let mut is_call = false;
    let mut sum = 0;
    for line in profile.lines() {
        if let Some(name) = ["fl=", "fi=", "fe="]
            .iter()
            .find_map(|key| line.strip_prefix(key))
        {
            file = name;
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            let cost: u64 = line.split(' ').nth(1).unwrap().parse().unwrap();
            if !is_call && !file.ends_with("/shim.c") && !depends_on_place(file) {
                sum += cost;
            }
            is_call = false;
        }
    }
    sum
}

fn count(program: &Path, what: &str) -> u64 {
    let profile = program.with_extension(what);
    // Only in the second call.
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--compress-strings=no",
            "--compress-pos=no",
        ])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(format!("--toggle-collect=count_{what}"))
        .arg(format!("--zero-before=count_{what}"))
        .arg(program)
        .arg(what)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {stderr}");
    sum(&fs::read_to_string(profile).unwrap())
}

fn count_all() -> BTreeMap<&'static str, u64> {
    let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = directory.path().join("instructions");
    let numa = if cfg!(feature = "numa") { "1" } else { "0" };
    let built = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/c/build"))
        .args(["--shim", "instructions"])
        .arg(&program)
        .arg("-O2")
        .env("CC", "gcc")
        .env("HOSTMEM_NUMA", numa)
        .status()
        .unwrap();
    assert!(built.success());
    COUNTED.map(|what| (what, count(&program, what))).into()
}

fn write_kept(toolchain: &str, counts: &BTreeMap<&str, u64>) {
    let mut text = format!("toolchain: {toolchain}\n");
    for what in COUNTED {
        writeln!(text, "{what}: {}", counts[what]).unwrap();
    }
    fs::write(KEPT, text).unwrap();
}

#[test]
fn small_things_take_as_many_instructions_as_before() {
    if is_instrumented() {
        return;
    }
    if !has_valgrind() {
        return skip("there is no valgrind");
    }
    let toolchain = toolchain();
    if env::var_os("HOSTMEM_UPDATE_INSTRUCTIONS").is_some() {
        return write_kept(&toolchain, &count_all());
    }
    let kept = fs::read_to_string(KEPT).unwrap();
    let kept: BTreeMap<_, _> = kept
        .lines()
        .filter_map(|line| line.split_once(": "))
        .collect();
    if kept["toolchain"] != toolchain {
        return skip(&format!(
            "tests/instructions.txt is of {}, this is {toolchain}",
            kept["toolchain"]
        ));
    }
    let mut bad = String::new();
    for (what, count) in count_all() {
        let before: u64 = kept[what].parse().unwrap();
        if count.abs_diff(before) * 100 > before * PERCENT {
            writeln!(bad, "{what}: {count} instructions, {before} before").unwrap();
        }
    }
    assert!(
        bad.is_empty(),
        "{bad}where that is as it should be, run with HOSTMEM_UPDATE_INSTRUCTIONS=1"
    );
}

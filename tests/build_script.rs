// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the build script says where it refuses to build.

mod common;

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use common::skip;

/// The latest build script in a directory such as target/debug/build.
fn latest_in(directory: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?;
    let scripts = entries
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("hostmem-"))
        .map(|entry| entry.path().join("build-script-build"));
    scripts
        .filter(|script| script.exists())
        .max_by_key(|script| fs::metadata(script).and_then(|file| file.modified()).ok())
}

/// The program that cargo has made of build.rs; for another target it is beside that target's
/// directory.
fn script() -> Option<PathBuf> {
    let out = Path::new(env!("OUT_DIR"));
    let directory = out.ancestors().nth(2)?;
    latest_in(directory).or_else(|| latest_in(&out.ancestors().nth(5)?.join("debug/build")))
}

#[test]
fn a_target_of_32_bits_is_refused_in_one_sentence() {
    let Some(script) = script() else {
        return skip("cargo has put the build script elsewhere");
    };
    let output = Command::new(script)
        .env_clear()
        .env("TARGET", "i686-unknown-linux-gnu")
        .env("CARGO_CFG_TARGET_POINTER_WIDTH", "32")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "hostmem needs a target of 64 bits, and i686-unknown-linux-gnu is one of 32\n"
    );
}

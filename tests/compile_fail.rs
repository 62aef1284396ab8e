// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Programs that the compiler must refuse, each with the reason it gives.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

const CASES: &str = "tests/compile_fail";

/// A crate for the programs to be in, which depends on what they use. Of this one's manifest
/// trybuild would build, twice, what any test and any feature needs.
fn make_crate(directory: &Path, hostmem: &str) -> io::Result<()> {
    let manifest = format!(
        r#"
        [package]
        name = "compile-fail"
        version = "0.0.0"
        edition = "2021"

        [dependencies]
        vm-memory-018 = {{ package = "vm-memory", version = "0.18", default-features = false }}

        [dependencies.hostmem]
        path = "{hostmem}"
        default-features = false
        features = ["vm-memory-018"]
        "#
    );
    fs::write(directory.join("Cargo.toml"), manifest)?;
    fs::create_dir(directory.join("src"))?;
    fs::write(directory.join("src/lib.rs"), "")?;
    // What trybuild shows and compares are paths in the crate.
    fs::create_dir(directory.join("tests"))?;
    symlink(Path::new(hostmem).join(CASES), directory.join(CASES))
}

#[test]
fn misuse_does_not_compile() {
    if env::var_os("HOSTMEM_SANITIZER").is_some() {
        println!("skipped: nothing of it runs, so there is nothing for a sanitizer to see");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    make_crate(directory.path(), env!("CARGO_MANIFEST_DIR")).unwrap();
    // Where trybuild looks for the manifest.
    env::set_var("CARGO_MANIFEST_DIR", directory.path());
    trybuild::TestCases::new().compile_fail(format!("{CASES}/*.rs"));
}

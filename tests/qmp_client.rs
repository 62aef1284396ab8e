// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem qmp` as ordinary clients see it: the published Python package `qemu.qmp`.

#![cfg(feature = "cli")]

mod common;

use std::env;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use common::qmp::connect;
use common::qmp::Server;
use common::skip;

/// A Python that has the package: the system's, or the one that `scripts/setup test` makes.
fn python() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")));
    let made = cache.map(|cache| cache.join("hostmem/qmp-client/bin/python3"));
    let has_package = |python: &PathBuf| {
        let import = Command::new(python)
            .args(["-c", "import qemu.qmp"])
            .output();
        import.is_ok_and(|output| output.status.success())
    };
    let found = [Some("python3".into()), made]
        .into_iter()
        .flatten()
        .find(has_package);
    if found.is_none() {
        skip("no Python with the package qemu.qmp; scripts/setup test installs it");
    }
    found
}

fn said(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!("{stdout}{stderr}")
}

#[test]
fn the_published_client_works() {
    let Some(python) = python() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let mut server = Server::on_socket(&path);
    drop(connect(&path));
    let output = Command::new(python)
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/qmp_client/session.py"
        ))
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = said(&output);
    print!("{said}");
    assert!(output.status.success(), "{said}");
    assert_eq!(server.end(), (0, String::new()));
}

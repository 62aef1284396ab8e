// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem alloc` over time: several objects together, filling in the background, keeping memory
//! until a signal. What it prints is tested in `cli.rs`.

#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use common::host::mount;
use common::qmp::Server;
use common::qmp::PATIENCE;
use common::skip;
use serde_json::json;
use serde_json::Value as Json;

fn alloc(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostmem"));
    command.arg("alloc").args(arguments).stdin(Stdio::null());
    command
}

#[track_caller]
fn report(arguments: &[&str]) -> Json {
    let output = alloc(arguments).arg("--json").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn objects_are_made_together() {
    let objects = [
        "memory-backend-ram,id=ram0,size=64M,prealloc=on",
        "memory-backend-memfd,id=ram1,size=32M,prealloc=on",
        "memory-backend-shm,id=ram2,size=16M",
    ];
    let report = report(&objects);
    let bytes = |object: &Json| {
        (
            object["resident"].clone(),
            object["prealloc"]["bytes"].clone(),
        )
    };
    let found: Vec<_> = report["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(bytes)
        .collect();
    let expected = [
        (json!(64 << 20), json!(64 << 20)),
        (json!(32 << 20), json!(32 << 20)),
        (json!(0), Json::Null),
    ];
    assert_eq!(found, expected);
    // One pool fills both, from one beginning to one end.
    let seconds = |index: usize| {
        let prealloc = &report["objects"][index]["prealloc"];
        prealloc["seconds"].as_f64().unwrap()
    };
    let ratio = seconds(0) / seconds(1);
    assert!((0.8..1.25).contains(&ratio), "{report}");
}

#[test]
fn a_thread_context_is_no_memory() {
    let report = report(&[
        "thread-context,id=tc0",
        "memory-backend-ram,id=ram0,size=4M,prealloc=on,prealloc-context=tc0",
        r#"{"qom-type": "thread-context", "id": "tc1", "cpu-affinity": [0]}"#,
    ]);
    let objects = report["objects"].as_array().unwrap();
    assert_eq!(objects.len(), 1, "{report}");
    assert_eq!(objects[0]["resident"], json!(4 << 20));

    // In any order, and in either form.
    let backend = "memory-backend-ram,id=ram0,size=4M,prealloc=on,prealloc-context=tc0";
    for context in [
        "thread-context,id=tc0",
        r#"{"qom-type": "thread-context", "id": "tc0"}"#,
        "{'id': 'tc0', 'qom-type': 'thread-context'}",
    ] {
        let report = crate::report(&[backend, context]);
        assert_eq!(report["objects"][0]["resident"], json!(4 << 20));
    }
    let output = alloc(&[backend, "thread-context,id=tc1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("make it first"), "{message}");
}

#[test]
fn all_are_made_or_none() {
    let directory = tempfile::tempdir().unwrap();
    let new = directory.path().join("new");
    let good = format!(
        "memory-backend-file,id=ram0,size=64K,mem-path={}",
        new.display()
    );
    for bad in [
        "memory-backend-ram,id=ram1,size=0",
        "memory-backend-ram,id=ram0,size=64K",
        "memory-backend-ram,id=ram1,size=1M,prealloc=on,reserve=off",
        "memory-backend-file,id=ram1,size=64K,mem-path=/dev/null",
        "memory-backend-ram,id=ram1,size=127T,prealloc=on",
    ] {
        for objects in [[&*good, bad], [bad, &good]] {
            let output = alloc(&objects).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{objects:?}: {stderr}");
            assert_eq!(stderr.lines().count(), 1, "{objects:?}: {stderr}");
            assert_eq!(output.stdout, b"", "{objects:?}");
            assert!(!new.exists(), "{objects:?}");
        }
    }
}

#[test]
fn what_fills_in_the_background_is_reported_full() {
    let objects = [
        "memory-backend-ram,id=ram0,size=64M,prealloc=on",
        "memory-backend-ram,id=ram1,size=32M,prealloc=on,prealloc-mode=wait",
        "memory-backend-ram,id=ram2,size=1M",
    ];
    let mut arguments = vec!["--background"];
    arguments.extend(objects);
    let report = report(&arguments);
    for (index, size) in [64 << 20, 32 << 20, 0].into_iter().enumerate() {
        assert_eq!(report["objects"][index]["resident"], json!(size));
    }
}

/// On a thread of its own, which alone sees the file system.
#[test]
fn what_fails_after_it_was_made_leaves_nothing() {
    thread::scope(|scope| scope.spawn(fail_after_making).join().unwrap());
}

fn fail_after_making() {
    let (full, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    if !mount("tmpfs", full.path(), "size=16M,huge=never") {
        return;
    }
    let file = |id: &str, size: &str, path: &Path| {
        let path = path.display();
        format!("memory-backend-file,id={id},size={size},mem-path={path},share=on,prealloc=on")
    };
    let paths = ["new", "empty", "kept"].map(|name| directory.path().join(name));
    let [new, empty, kept] = &paths;
    fs::write(empty, "").unwrap();
    fs::write(kept, [7; 1 << 20]).unwrap();
    let objects = [
        file("ram0", "1M", new),
        file("ram1", "64M", &full.path().join("new")),
        file("ram2", "1M", empty),
        file("ram3", "1M", kept),
    ];
    let fits = [&objects[0], &objects[2], &objects[3]].map(String::as_str);
    let all = objects.each_ref().map(String::as_str);
    for (option, objects) in [
        (&["--background"][..], &all[..]),
        (&[], &all),
        (&["--background", "--svg=/no-such/svg"], &fits),
        (&["--svg=/no-such/svg"], &fits),
    ] {
        let output = alloc(objects).args(option).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{option:?}: {message}");
        assert!(!new.exists(), "{option:?}: {message}");
        assert_eq!(fs::read_dir(full.path()).unwrap().count(), 0, "{option:?}");
        assert_eq!(fs::metadata(empty).unwrap().len(), 0, "{option:?}");
        assert_eq!(fs::read(kept).unwrap(), [7; 1 << 20], "{option:?}");
    }
}

#[test]
fn something_has_to_be_filled_in_the_background() {
    for objects in [
        &["memory-backend-ram,id=ram0,size=1M"][..],
        &[
            "thread-context,id=tc0",
            "memory-backend-ram,id=ram0,size=1M",
        ],
        &["memory-backend-ram,id=ram0,size=1M,prealloc=off,prealloc-mode=background"],
    ] {
        let output = alloc(objects).arg("--background").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{objects:?}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("add prealloc=on"), "{message}");
        assert_eq!(output.stdout, b"", "{objects:?}");
    }
}

/// Starts one that holds its memory, and reads its report.
fn hold(arguments: &[&str]) -> (Server, String) {
    let mut command = alloc(arguments);
    let mut server = Server::spawn(command.arg("--hold").stdout(Stdio::piped())).unwrap();
    let mut output = BufReader::new(server.process.stdout.take().unwrap());
    let mut report = String::new();
    let mut byte = [0];
    // JSON ends with its bracket, text with the last line's end.
    let is_whole = |report: &str| match report.starts_with('{') {
        true => report.ends_with("\n}\n"),
        false => report.contains("satisfied") && report.ends_with('\n'),
    };
    while !is_whole(&report) {
        output.read_exact(&mut byte).unwrap();
        report.push(byte[0].into());
    }
    (server, report)
}

#[test]
fn memory_is_held_until_a_signal() {
    let object = "memory-backend-memfd,id=ram0,size=8M,prealloc=on";
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        for arguments in [
            &["--json", object][..],
            &[object],
            &["--background", object],
        ] {
            let (mut server, report) = hold(arguments);
            assert!(report.contains("ram0"), "{report}");
            let maps = format!("/proc/{}/maps", server.process.id());
            assert!(fs::read_to_string(maps).unwrap().contains("/memfd:"));
            assert!(server.process.try_wait().unwrap().is_none());
            server.signal(signal);
            assert_eq!(server.end(), (0, String::new()));
        }
    }
}

/// A file in memory that is large enough to be seen half filled.
fn large_file(path: &Path) -> String {
    let path = path.display();
    format!("memory-backend-file,id=ram0,size=2G,mem-path={path},share=on,prealloc=on")
}

/// Waits until some of a file is filled.
#[track_caller]
fn wait_for_blocks(path: &Path) {
    let start = Instant::now();
    while !fs::metadata(path).is_ok_and(|found| found.blocks() > 0) {
        assert!(start.elapsed() < PATIENCE, "{}", path.display());
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_signal_while_it_fills_leaves_nothing() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let [new, empty] = ["new", "empty"].map(|name| directory.path().join(name));
    for (signal, name) in [
        (libc::SIGINT, "SIGINT"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGHUP, "SIGHUP"),
    ] {
        for option in [&["--json"][..], &["--background"], &["--hold"]] {
            for path in [&new, &empty] {
                fs::write(&empty, "").unwrap();
                let mut command = alloc(&[&large_file(path)]);
                command.args(option).stdout(Stdio::piped());
                let mut server = Server::spawn(&mut command).unwrap();
                wait_for_blocks(path);
                server.signal(signal);
                let begun = Instant::now();
                let (code, said) = server.end();
                let took = begun.elapsed();
                assert_eq!(code, 1, "{name} {option:?}: {said}");
                assert_eq!(said.lines().count(), 1, "{said}");
                let start = format!("hostmem: {name}: ram0: prealloc: cancelled after ");
                assert!(said.starts_with(&start), "{said}");
                assert!(took < Duration::from_secs(2), "{name} {option:?}: {took:?}");
                let mut output = String::new();
                let stdout = server.process.stdout.as_mut().unwrap();
                stdout.read_to_string(&mut output).unwrap();
                assert_eq!(output, "", "{name} {option:?}");
                assert!(!new.exists(), "{name} {option:?}");
                assert_eq!(fs::metadata(&empty).unwrap().len(), 0);
                assert_eq!(fs::metadata(&empty).unwrap().blocks(), 0);
            }
        }
    }
}

#[test]
fn a_report_that_nobody_reads_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let new = directory.path().join("new");
    let object = format!(
        "memory-backend-file,id=ram0,size=1M,mem-path={}",
        new.display()
    );
    for option in ["--json", "--hold"] {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let mut command = alloc(&[&object, option]);
        let output = command.stdout(OwnedFd::from(writer)).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(!new.exists(), "{option}");
    }
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = alloc(&[&object]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!new.exists());
    // What was reported stays.
    assert!(alloc(&[&object]).output().unwrap().status.success());
    assert!(new.exists());
}

#[test]
fn a_hangup_that_was_ignored_stays_ignored() {
    let mut command = alloc(&["--hold", "memory-backend-ram,id=ram0,size=1M"]);
    let command = command.stdout(Stdio::piped());
    let mut server = Server::spawn_without_hangup(command).unwrap();
    let mut output = BufReader::new(server.process.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    server.signal(libc::SIGHUP);
    thread::sleep(Duration::from_millis(200));
    assert!(server.process.try_wait().unwrap().is_none());
    server.signal(libc::SIGTERM);
    assert_eq!(server.end(), (0, String::new()));
}

#[test]
fn nothing_is_held_when_it_fails() {
    let output = alloc(&["--hold", "memory-backend-ram,id=ram0,size=0"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
}

/// What a terminal shows, which `script(1)` makes; None, said, where there is none.
fn on_terminal(arguments: &[&str]) -> Option<String> {
    let command = [env!("CARGO_BIN_EXE_hostmem"), "alloc"];
    let command = [&command[..], arguments].concat().join(" ");
    let run = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output();
    let Ok(output) = run else {
        skip("script(1) is not installed");
        return None;
    };
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{seen}");
    Some(seen)
}

/// They go again.
#[test]
fn bars_are_for_terminals() {
    let object = "memory-backend-ram,id=ram0,size=512M,prealloc=on,thp=never";
    // Without data, so that reading it takes as long as populating.
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(512 << 20).unwrap();
    let restored = format!("{object},contents={}", image.path().display());
    let mut cases = vec![
        vec!["--background", object],
        vec![&restored],
        vec!["--background", &restored],
    ];
    if common::image::complete_on_demand("ram", &on_demand(image.path(), 512 << 20)).is_none() {
        cases.pop();
    }
    for arguments in cases {
        let Some(seen) = on_terminal(&arguments) else {
            return;
        };
        assert!(seen.contains("of 512.00 MiB"), "{seen}");
        let report = seen.rsplit("ram0 (memory-backend-ram)").next().unwrap();
        assert!(report.contains("512.00 MiB (100 %)"), "{seen}");
        assert!(!report.contains("of 512.00 MiB"), "{seen}");
    }
}

fn on_demand(image: &Path, size: u64) -> String {
    format!("size={size},contents={}", image.display())
}

#[test]
fn what_is_restored_is_reported() {
    let size: u64 = 8 << 20;
    let image = tempfile::NamedTempFile::new().unwrap();
    fs::write(image.path(), common::image::pattern(3, size)).unwrap();
    let options = on_demand(image.path(), size);
    let object = format!("memory-backend-ram,id=ram0,thp=never,{options}");
    let parts = |report: &Json| {
        let object = &report["objects"][0];
        ["resident", "unread", "absent"].map(|part| object[part].as_u64().unwrap())
    };
    let filled = format!("{object},prealloc=on");
    assert_eq!(parts(&report(&[&filled])), [size, 0, 0]);
    if common::image::complete_on_demand("ram", &options).is_none() {
        return;
    }
    assert_eq!(parts(&report(&["--background", &filled])), [size, 0, 0]);
    assert_eq!(parts(&report(&[&object])), [0, size, 0]);
    let output = alloc(&[&object]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("unread")).unwrap();
    assert!(line.contains("8.00 MiB (100 %)"), "{text}");
}

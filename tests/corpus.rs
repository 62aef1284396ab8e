// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Objects as people write them for QEMU, in tests/corpus/objects.jsonl: each is accepted or refused
//! as `want` says. `why` says where that differs from QEMU.
//!
//! `@ROOT@` is a directory with a hugetlbfs `huge`, a tmpfs `shm`, and `files`, where the program
//! runs; `files` of an object are what is there before, by their size in bytes. `before` and
//! `after` are objects on the same command line.

#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use common::bindable_node;
use common::host::mount;
use common::host::HugePages;
use common::in_child;
use common::skip;
use serde::Deserialize;
use serde_json::Value as Json;

const CORPUS: &str = include_str!("corpus/objects.jsonl");

/// Of 2 MiB: the largest object has 64 MiB.
const PAGES: u64 = 40;

#[derive(Deserialize)]
struct Object {
    n: u32,
    source: String,
    object: String,
    before: Vec<String>,
    after: Vec<String>,
    files: BTreeMap<String, Json>,
    want: Want,
    #[serde(default)]
    why: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Want {
    Accept,
    Refuse,
}

impl Object {
    fn arguments(&self) -> impl Iterator<Item = &String> {
        self.before.iter().chain([&self.object]).chain(&self.after)
    }

    fn is_of_huge_pages(&self) -> bool {
        self.object.contains("@ROOT@/huge") || self.object.contains("hugetlb")
    }

    fn names_nodes(&self) -> bool {
        self.arguments()
            .any(|object| object.contains("host-nodes") || object.contains("node-affinity"))
    }

    /// What this host lacks, or has too much of, for the object.
    fn find_obstacle(&self, host: &Machine) -> Option<&'static str> {
        let accepted = self.want == Want::Accept;
        if self.files.values().any(|size| !size.is_u64()) {
            return Some("no character device of a driver that hands out memory");
        }
        if self.is_of_huge_pages() && !host.has_huge_pages {
            return Some("no huge pages");
        }
        if accepted && self.names_nodes() && !host.has_node_0 {
            return Some("memory cannot be bound to node 0");
        }
        let absent = self.why.contains("of this host");
        if absent && !(host.has_one_node && host.cpus <= 6) {
            return Some("this host has the nodes or CPUs that are to be absent");
        }
        None
    }
}

struct Machine {
    has_huge_pages: bool,
    has_node_0: bool,
    has_one_node: bool,
    cpus: usize,
}

fn empty(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }
}

/// Runs the program on an object and those beside it, in emptied directories.
fn run(object: &Object, root: &Path) -> Output {
    let files = root.join("files");
    let shm = root.join("shm");
    let huge = root.join("huge");
    for directory in [&files, &shm, &huge] {
        empty(directory);
    }
    fs::create_dir(files.join("dir")).unwrap();
    for (name, size) in &object.files {
        let path = match name.strip_prefix("shm:") {
            Some(name) => shm.join(name),
            None => files.join(name),
        };
        let file = File::create(path).unwrap();
        file.set_len(size.as_u64().unwrap()).unwrap();
    }
    let root = root.to_str().unwrap();
    Command::new(env!("CARGO_BIN_EXE_hostmem"))
        .args(["alloc", "--json"])
        .args(object.arguments().map(|text| text.replace("@ROOT@", root)))
        .current_dir(files)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What is wrong with how the program ended.
fn judge(object: &Object, output: &Output) -> Result<(), String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let done = match output.status.code() {
        Some(0) => Want::Accept,
        Some(1) => Want::Refuse,
        _ => return Err(format!("{}: {stderr}", output.status)),
    };
    if done != object.want {
        return Err(format!("{done:?}, not {:?}: {stderr}", object.want));
    }
    if done == Want::Refuse {
        let one_message = stderr.starts_with("hostmem: ") && stderr.lines().count() == 1;
        return one_message.then_some(()).ok_or_else(|| stderr.into_owned());
    }
    let report: Json = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let is_backend =
        |text: &&String| !text.contains("thread-context,") && !text.contains("\"thread-context\"");
    let backends = object.arguments().filter(is_backend).count();
    let reported = report["objects"].as_array().map_or(0, Vec::len);
    (reported == backends)
        .then_some(())
        .ok_or_else(|| format!("reported {reported} of {backends}"))
}

#[test]
fn each_object_is_accepted_or_refused_as_it_should_be() {
    in_child("each_object_is_accepted_or_refused_as_it_should_be", || {
        let objects: Vec<Object> = CORPUS
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(objects.len(), 280);
        let pool = HugePages::have(PAGES);
        let root = tempfile::tempdir().unwrap();
        for directory in ["huge", "shm", "files"] {
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        // Where it cannot be mounted an ordinary directory serves.
        mount("tmpfs", &root.path().join("shm"), "");
        let nodes = fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default();
        let host = Machine {
            has_huge_pages: pool.is_some()
                && mount("hugetlbfs", &root.path().join("huge"), "pagesize=2M"),
            has_node_0: bindable_node() == Some(0),
            has_one_node: nodes.trim() == "0",
            cpus: std::thread::available_parallelism().unwrap().get(),
        };
        let mut wrong = Vec::new();
        let mut right = 0;
        for object in &objects {
            if let Some(obstacle) = object.find_obstacle(&host) {
                skip(&format!("{} ({}): {obstacle}", object.n, object.source));
                continue;
            }
            match judge(object, &run(object, root.path())) {
                Ok(()) => right += 1,
                Err(error) => {
                    wrong.push(format!("{} {}\n  {error}", object.n, object.object));
                }
            }
        }
        eprintln!("{right} of {} as they should be", objects.len());
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

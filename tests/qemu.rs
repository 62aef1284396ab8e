// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! hostmem against a running QEMU: both accept and refuse the same configurations and have the same
//! defaults, but for the differences that are listed here with their reason.
//!
//! Only the program is asked, over QMP.

#![cfg(all(feature = "cli", feature = "numa"))]

mod common;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;
use std::fs;
use std::fs::File;
use std::fs::Permissions;
use std::os::unix::fs::symlink;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ChildStdin;
use std::process::Command;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;

use common::host::mount;
use common::host::HostLock;
use common::host::HugePages;
use common::host::HUGE;
use common::is_instrumented;
use common::page_size;
use common::qmp::result;
use common::qmp::Client;
use common::qmp::Server;
use common::skip;
use hostmem::Value;
use serde_json::json;
use serde_json::Value as Json;

const KINDS: [&str; 4] = ["ram", "memfd", "file", "shm"];

/// Configurations under what is expected of them, see [`Expected`]. A row is kinds and the inside
/// of a JSON object, in which `@/` is the directory of [`Files`]. Where it does not say them, it
/// gets a size of 64 KiB and, for a file, the path of a new one.
/// Shared files on disk are no larger than 128 GiB, for hostmem looks at each page to say where it is.
const ROWS: &str = r#"
# accepted
all "size": 4096
all "size": 65536
all "size": 2097152
# stricter: a size is a multiple of the page size, for every kind
ram "size": 1
ram "size": 100
ram "size": 4095
ram "size": 4097
ram "share": true, "size": 65535
# refused
memfd,file,shm "size": 1
memfd,file,shm "size": 100
memfd,file,shm "size": 4095
memfd,file,shm "size": 4097
memfd,file "share": false, "size": 65535
all "size": 0
all "size": 140737488355328
all "size": 4611686018427387904
all "size": 9223372036854771712
all "size": 9223372036854775807
all "size": 9223372036854775808
all "size": 18446744072635809792
# same
all "size": 1073741824
all "size": 1099511627776
all "size": 1099511627776, "reserve": false
ram,memfd,shm "size": 1099511627776, "share": true
file "size": 137438953472, "share": true

# accepted
ram,memfd,file "share": false
all "share": true
all "reserve": true
all "reserve": true, "prealloc": true
all "reserve": false, "share": true
all "reserve": false, "share": true, "prealloc": false
# same
ram,memfd,file "reserve": false, "share": false
# refused
shm "share": false
shm "share": false, "reserve": false
all "reserve": false, "prealloc": true
all "prealloc": true, "reserve": false
all "reserve": false, "share": true, "prealloc": true

# accepted
all "merge": false
all "dump": true
all "dump": false
all "merge": false, "dump": false
all "merge": false, "dump": true, "share": true
all "x-use-canonical-path-for-ramblock-id": true
all "x-use-canonical-path-for-ramblock-id": false

# accepted
all "prealloc": true
all "prealloc": false
all "prealloc": true, "size": 4096
all "prealloc": true, "size": 4194304, "prealloc-threads": 2
all "prealloc": true, "share": true
all "prealloc-threads": 1
all "prealloc-threads": 1, "prealloc": true
all "prealloc-threads": 17
all "prealloc-threads": 4294967295
all "prealloc-threads": 4294967295, "prealloc": true
all "prealloc-context": ""
# refused
all "prealloc-threads": 0
all "prealloc-threads": -1
all "prealloc-threads": 4294967296
all "prealloc-threads": 18446744073709551615
all "prealloc-context": "nothing"
all "prealloc-context": "/objects"

# accepted
all "policy": "default"
all "host-nodes": []
all "policy": "default", "host-nodes": []
# refused
all "policy": "preferred"
all "policy": "bind"
all "policy": "interleave"
all "policy": "bind", "host-nodes": []
all "policy": "preferred-many"
all "policy": "weighted-interleave"
all "policy": ""
all "policy": "BIND"
all "policy": "bind "
all "policy": "restrictive"
all "host-nodes": [65536]
all "host-nodes": [-1]

# refused
all "nonsense": true
all "nonsense": null
all "Share": true
all "share ": true
all "prealloc_threads": 1
all "": true
all "type": "memory-backend-ram"
all "fd": 0
ram,memfd,shm "mem-path": "@/full"
ram,memfd,shm "align": 4096
ram,memfd,shm "offset": 0
ram,memfd,shm "readonly": false
ram,memfd,shm "rom": "auto"
ram,memfd,shm "discard-data": false
ram,memfd,shm "pmem": false
file,shm "hugetlb": false
file,shm "hugetlbsize": 2097152
ram,file,shm "seal": true
# looser: an addition of hostmem's
all "thp": "never"
all "lock": false
all "prealloc-mode": "wait"

# accepted
memfd "seal": true
memfd "seal": false
memfd "seal": true, "share": false
memfd "seal": false, "share": false
memfd "seal": true, "prealloc": true
memfd "seal": false, "prealloc": true, "share": false

# accepted
file "mem-path": "@/full"
file "mem-path": "@/full", "share": true
file "mem-path": "@/full", "size": 4096
file "mem-path": "@/link"
file "mem-path": "@/empty"
file "mem-path": "@/empty", "share": true, "prealloc": true
file "mem-path": "@/new"
file "mem-path": "@/new", "share": true, "prealloc": true
file "mem-path": "@/a name, with=ünusual 'characters'"
file "mem-path": "@/dir"
file "mem-path": "@/dir/"
file "mem-path": "@/dir", "share": true, "prealloc": true
file "mem-path": "/dev/shm"
file "mem-path": "@/odd", "size": 4096
# refused
file "mem-path": ""
file "mem-path": "@/full/"
file "mem-path": "@/new/"
file "mem-path": "@/full/new"
file "mem-path": "@/nowhere/new"
file "mem-path": "@/loop"
file "mem-path": "@/fifo"
file "mem-path": "@/socket"
file "mem-path": "@/dangling", "readonly": true
file "mem-path": "/dev/null"
file "mem-path": "/proc/self/maps"
file "mem-path": "@/small", "size": 8192
file "mem-path": "@/full", "size": 69632
file "mem-path": "@/full", "size": 131072
file "mem-path": "@/full", "size": 1099511627776
file "mem-path": "@/odd", "size": 8192
file "mem-path": "@/odd", "size": 5000
file "mem-path": "@/full", "size": 5000
# stricter: a path that is cut at a NUL byte is another path
file "mem-path": "@/full\u0000"
# stricter: a character device has to be DAX
file "mem-path": "/dev/zero"
file "mem-path": "/dev/zero", "share": true

# same
file "mem-path": "@/locked"
file "mem-path": "@/locked", "share": true
file "mem-path": "@/locked/new"

# accepted
file "mem-path": "@/full", "offset": 0
file "mem-path": "@/full", "offset": 4096, "size": 4096
file "mem-path": "@/full", "offset": 61440, "size": 4096
file "mem-path": "@/full", "offset": 4096, "size": 61440, "share": true
file "mem-path": "@/full", "offset": 4096, "size": 4096, "readonly": true
file "mem-path": "@/new", "offset": 4096
file "mem-path": "@/empty", "offset": 8192
file "mem-path": "@/dir", "offset": 8192
# refused
file "mem-path": "@/full", "offset": 100, "size": 4096
file "mem-path": "@/full", "offset": 2048, "size": 4096
file "mem-path": "@/full", "offset": 65536, "size": 4096
file "mem-path": "@/full", "offset": 4096
file "mem-path": "@/full", "offset": 4096, "readonly": true
file "mem-path": "@/full", "offset": -1
file "mem-path": "@/full", "offset": -4096
file "mem-path": "@/full", "offset": 9223372036854775808
file "mem-path": "@/full", "offset": 18446744073709547520
file "mem-path": "@/full", "offset": 18446744073709486080
file "mem-path": "@/new", "offset": 100
file "mem-path": "@/new", "offset": 18446744073709547520

# accepted
file "mem-path": "@/full", "align": 0
file "mem-path": "@/full", "align": 4096
file "mem-path": "@/full", "align": 8192
file "mem-path": "@/full", "align": 2097152
file "mem-path": "@/full", "align": 1073741824
file "mem-path": "@/full", "align": 1099511627776
file "mem-path": "@/full", "align": 8192, "offset": 4096, "size": 4096
file "mem-path": "@/dir", "align": 2097152, "prealloc": true
# refused
file "mem-path": "@/full", "align": -1
file "mem-path": "@/full", "align": 1
file "mem-path": "@/full", "align": 2048
file "mem-path": "@/full", "align": 4097
file "mem-path": "@/full", "align": 12288
file "mem-path": "@/full", "align": 140737488355328
file "mem-path": "@/full", "align": 9223372036854775808
file "mem-path": "@/full", "align": 18446744073709551615

# accepted
file "mem-path": "@/locked", "readonly": true
file "mem-path": "@/locked", "readonly": true, "rom": "off"
file "mem-path": "@/full", "discard-data": false
file "mem-path": "@/full", "discard-data": true
file "mem-path": "@/full", "discard-data": true, "share": true
file "mem-path": "@/full", "discard-data": true, "readonly": true
file "mem-path": "@/full", "readonly": true, "rom": "off", "prealloc": true
file "mem-path": "@/full", "readonly": true, "merge": false, "dump": false
file "mem-path": "@/full", "readonly": true, "reserve": false
file "mem-path": "@/full", "readonly": true, "reserve": false, "share": true
# refused
file "mem-path": "@/full", "rom": "maybe"
file "mem-path": "@/full", "rom": ""
file "mem-path": "@/full", "rom": "On"
file "mem-path": "@/full", "readonly": true, "rom": "off", "share": true, "prealloc": true
"#;

/// Where the file system's largest file is smaller.
const FILE_SIZE_ROWS: &str = r#"
# stricter: a file that could not grow is an error, not memory that is not there
file "mem-path": "@/new", "offset": 4611686018427387904
file "mem-path": "@/empty", "offset": 4611686018427387904, "share": true
"#;

/// Where the kernel can merge pages.
const MERGE_ROWS: &str = r#"
# accepted
all "merge": true
all "merge": true, "share": true
all "merge": true, "dump": false
all "merge": true, "dump": true, "prealloc": true
file "merge": true, "mem-path": "@/full", "readonly": true
"#;

/// Where this process may bind memory; `@node` is a node it may use.
const NUMA_ROWS: &str = r#"
# accepted
all "policy": "preferred", "host-nodes": [@node]
all "policy": "bind", "host-nodes": [@node]
all "policy": "interleave", "host-nodes": [@node]
all "host-nodes": [@node], "policy": "bind"
all "policy": "bind", "host-nodes": [@node, @node]
all "policy": "bind", "host-nodes": [@node], "share": true
all "policy": "bind", "host-nodes": [@node], "prealloc": true
all "policy": "interleave", "host-nodes": [@node], "prealloc": true, "merge": false, "share": true
file "policy": "bind", "host-nodes": [@node], "mem-path": "@/full", "readonly": true
# refused
all "host-nodes": [@node]
all "policy": "default", "host-nodes": [@node]
all "policy": "local", "host-nodes": [@node]
all "host-nodes": [127]
all "policy": "bind", "host-nodes": [127]
all "policy": "preferred", "host-nodes": [127]
all "policy": "interleave", "host-nodes": [126, 127]
all "policy": "bind", "host-nodes": [128]
all "policy": "bind", "host-nodes": [@node, 128]
all "policy": "bind", "host-nodes": [1023]
all "policy": "bind", "host-nodes": [1024]
all "policy": "bind", "host-nodes": [65535]
all "policy": "bind", "host-nodes": [@node, 65536]
all "policy": "bind", "host-nodes": [@node, -1]
all "policy": "bind", "host-nodes": [@node, "@node"]
# stricter: every node has to be there; the kernel drops others in silence
all "policy": "bind", "host-nodes": [@node, 127]
all "policy": "preferred", "host-nodes": [127, @node]
all "policy": "interleave", "host-nodes": [@node, 127]
# looser: an addition of hostmem's
all "policy": "local"
all "policy": "preferred-many", "host-nodes": [@node]
"#;

/// Where there are huge pages of 2 MiB, however many.
const HUGETLB_ROWS: &str = r#"
# accepted
memfd "hugetlb": false
memfd "hugetlb": true, "reserve": false, "size": 2097152
memfd "hugetlb": true, "reserve": false, "size": 2097152, "share": false
memfd "hugetlb": true, "reserve": false, "size": 2097152, "hugetlbsize": 2097152
# same
memfd "hugetlb": true, "size": 2097152
memfd "hugetlb": true, "size": 2097152, "hugetlbsize": 2097152
memfd "hugetlb": true, "size": 2097152, "seal": false
memfd "hugetlb": true, "size": 2097152, "share": false
memfd "hugetlb": true, "size": 2097152, "prealloc": true
# refused
memfd "hugetlb": true, "size": 1099511627776
memfd "hugetlb": true, "reserve": false, "hugetlbsize": 2097152
memfd "hugetlb": true, "reserve": false, "hugetlbsize": 2097152, "size": 3145728
memfd "hugetlb": true, "reserve": false, "hugetlbsize": 1073741824, "size": 2097152
memfd "hugetlb": true, "reserve": false, "hugetlbsize": 2, "size": 2097152
memfd "hugetlb": true, "reserve": false, "hugetlbsize": 4096, "size": 2097152
memfd "hugetlb": true, "reserve": false, "hugetlbsize": 3145728, "size": 3145728
memfd "hugetlb": true, "reserve": false, "hugetlbsize": 8388608, "size": 8388608
memfd "hugetlb": true, "reserve": false, "hugetlbsize": 9223372036854775808, "size": 2097152
memfd "hugetlbsize": 3145728
# stricter: hugetlbsize is a size of this host's huge pages
memfd "hugetlb": true, "reserve": false, "hugetlbsize": 1, "size": 2097152
memfd "hugetlb": true, "reserve": false, "hugetlbsize": 3, "size": 2097152
memfd "hugetlb": true, "reserve": false, "hugetlbsize": 2097153, "size": 2097152
memfd "hugetlb": true, "reserve": false, "hugetlbsize": 18446744073709551615, "size": 2097152
# stricter: a negative number is no size
memfd "hugetlb": true, "reserve": false, "hugetlbsize": -1, "size": 2097152
memfd "hugetlbsize": -1
# stricter: hugetlbsize needs hugetlb=on, without which it does nothing
memfd "hugetlbsize": 2097152
memfd "hugetlbsize": 2097152, "size": 2097152
memfd "hugetlbsize": 2097152, "hugetlb": false
memfd "hugetlbsize": 1
memfd "hugetlbsize": 18446744073709551615
# looser: the default of a property can be said
memfd "hugetlbsize": 0
memfd "hugetlbsize": 0, "hugetlb": false
memfd "hugetlb": true, "reserve": false, "hugetlbsize": 0, "size": 2097152
"#;

/// Where two huge pages of 2 MiB are free, and `@/` is a directory made of them.
const HUGE_PAGE_ROWS: &str = r#"
# accepted
memfd "hugetlb": true, "size": 2097152
memfd "hugetlb": true, "size": 2097152, "hugetlbsize": 2097152
memfd "hugetlb": true, "size": 2097152, "seal": false
memfd "hugetlb": true, "size": 2097152, "share": false
memfd "hugetlb": true, "size": 4194304, "prealloc": true
memfd "hugetlb": true, "size": 4194304, "prealloc": true, "share": false
memfd "hugetlb": true, "size": 6291456, "reserve": false
file "mem-path": "@/", "size": 4194304
file "mem-path": "@/", "size": 2097152, "share": true, "prealloc": true
file "mem-path": "@/new", "size": 2097152
file "mem-path": "@/new", "size": 4194304, "share": true, "prealloc": true
file "mem-path": "@/new", "size": 2097152, "offset": 2097152
file "mem-path": "@/new", "size": 2097152, "align": 2097152
file "mem-path": "@/new", "size": 2097152, "align": 4194304
file "mem-path": "@/new", "size": 6291456, "reserve": false
file "mem-path": "@/full", "size": 2097152
file "mem-path": "@/full", "size": 2097152, "offset": 2097152, "share": true
file "mem-path": "@/full", "size": 4194304, "readonly": true
file "mem-path": "@/full", "size": 4194304, "readonly": true, "rom": "off"
# same
memfd "hugetlb": true, "size": 4194304, "policy": "bind", "host-nodes": [@node], "prealloc": true
file "size": 4194304, "policy": "bind", "host-nodes": [@node], "prealloc": true
# refused
memfd "hugetlb": true, "size": 6291456
memfd "hugetlb": true, "size": 6291456, "prealloc": true
memfd "hugetlb": true, "size": 2097152, "reserve": false, "prealloc": true
memfd "hugetlb": true, "size": 3145728
file "mem-path": "@/new", "size": 6291456
file "mem-path": "@/new", "size": 6291456, "share": true, "prealloc": true
file "mem-path": "@/new", "size": 4096
file "mem-path": "@/new", "size": 3145728
file "mem-path": "@/new", "size": 2097152, "offset": 4096
file "mem-path": "@/full", "size": 4194304, "offset": 2097152
file "mem-path": "@/full", "size": 6291456
file "mem-path": "@/", "size": 2097152, "readonly": true
file "mem-path": "@/new", "size": 2097152, "align": 4096
"#;

/// Where QEMU is built with libpmem.
const PMEM_ROWS: &str = r#"
# accepted
file "mem-path": "@/full", "pmem": false
# stricter: what pmem promises is not dropped in silence where it cannot be kept
file "mem-path": "@/full", "pmem": true
file "mem-path": "@/full", "pmem": true, "share": true
"#;

/// Whole objects.
const OBJECTS: &str = r#"
# accepted
- "qom-type": "memory-backend-ram", "id": "a", "size": 65536
- "id": "a", "size": 65536, "qom-type": "memory-backend-ram"
- "qom-type": "memory-backend-ram", "id": "A9-._", "size": 65536
- "qom-type": "memory-backend-ram", "id": "ram.node0", "size": 65536
# refused
- "qom-type": "memory-backend-ram", "id": "a"
- "qom-type": "memory-backend-memfd", "id": "a"
- "qom-type": "memory-backend-shm", "id": "a"
- "qom-type": "memory-backend-file", "id": "a"
- "qom-type": "memory-backend-file", "id": "a", "size": 65536
- "qom-type": "memory-backend-file", "id": "a", "mem-path": "@/full"
- "qom-type": "memory-backend-ram", "id": "", "size": 65536
- "qom-type": "memory-backend-ram", "id": "0a", "size": 65536
- "qom-type": "memory-backend-ram", "id": "-a", "size": 65536
- "qom-type": "memory-backend-ram", "id": "_a", "size": 65536
- "qom-type": "memory-backend-ram", "id": ".a", "size": 65536
- "qom-type": "memory-backend-ram", "id": " a", "size": 65536
- "qom-type": "memory-backend-ram", "id": "a b", "size": 65536
- "qom-type": "memory-backend-ram", "id": "a/b", "size": 65536
- "qom-type": "memory-backend-ram", "id": "a,b", "size": 65536
- "qom-type": "memory-backend-ram", "id": "a[0]", "size": 65536
- "qom-type": "memory-backend-ram", "id": "ä", "size": 65536
- "qom-type": "memory-backend-ram", "id": "a\u0000", "size": 65536
- "qom-type": "memory-backend-ram", "id": 1, "size": 65536
- "qom-type": "memory-backend-ram", "id": null, "size": 65536
- "qom-type": "memory-backend-ram", "id": ["a"], "size": 65536
- "id": "a", "size": 65536
- "qom-type": null, "id": "a", "size": 65536
- "qom-type": 1, "id": "a", "size": 65536
- "qom-type": "", "id": "a", "size": 65536
- "qom-type": "ram", "id": "a", "size": 65536
- "qom-type": "Memory-Backend-Ram", "id": "a", "size": 65536
- "qom-type": "memory-backend-nonsense", "id": "a", "size": 65536
- "qom-type": "memory-backend", "id": "a", "size": 65536
- "qom-type": "container", "id": "a", "size": 65536
- "type": "memory-backend-ram", "id": "a", "size": 65536
- "qom-type": "memory-backend-ram", "id": "a", "id": "b", "size": 65536
- "qom-type": "memory-backend-ram", "id": "a", "size": 65536, "size": 4096
- "qom-type": "memory-backend-ram", "id": "a", "size": 65536, "share": true, "share": true
# looser: an object without an id is given one
- "qom-type": "memory-backend-ram", "size": 65536
"#;

/// What QEMU does not survive, or never answers: hostmem alone is asked.
const NOT_SENT: &str = r#"
# accepted
file "mem-path": "@/full", "readonly": true, "prealloc": true
# refused
all "size": 18446744073709547520
all "size": 18446744073709551615
all "size": -1
file "mem-path": "@/dangling"
file "mem-path": "@/fifo", "readonly": true
"#;

/// What is expected of both, as the heads of the tables say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// `accepted`, by both.
    Accepted,
    /// `refused`, by both.
    Refused,
    /// `same`: one of the two, by what the host has.
    Same,
    /// `stricter: why`: only QEMU accepts it.
    Stricter,
    /// `looser: why`: only hostmem accepts it.
    Looser,
}

impl Expected {
    fn parse(head: &str) -> Self {
        match (head, head.split_once(": ")) {
            ("accepted", None) => Self::Accepted,
            ("refused", None) => Self::Refused,
            ("same", None) => Self::Same,
            (_, Some(("stricter", _))) => Self::Stricter,
            (_, Some(("looser", _))) => Self::Looser,
            _ => panic!("{head}"),
        }
    }
}

/// One configuration, and what is expected of it.
struct Case {
    /// The inside of the JSON object.
    object: String,
    /// The head of its table.
    head: &'static str,
}

impl Case {
    fn new(kind: &str, id: &str, properties: &str, head: &'static str) -> Self {
        let mut object =
            format!(r#""qom-type": "memory-backend-{kind}", "id": "{id}", {properties}"#);
        if !properties.contains(r#""size""#) {
            object += r#", "size": 65536"#;
        }
        if kind == "file" && !properties.contains(r#""mem-path""#) {
            object += r#", "mem-path": "@/new""#;
        }
        Self { object, head }
    }

    fn expected(&self) -> Expected {
        Expected::parse(self.head)
    }
}

/// The cases of one host and one QEMU.
#[derive(Default)]
struct Cases {
    cases: Vec<Case>,
}

impl Cases {
    /// No id comes twice, because QEMU keeps things of a refused object under its id.
    fn add(&mut self, kind: &str, properties: &str, head: &'static str) {
        let id = format!("{kind}{}", self.cases.len());
        self.cases.push(Case::new(kind, &id, properties, head));
    }

    fn add_table(&mut self, table: &'static str) {
        let mut head = "";
        for line in table.lines().filter(|line| !line.is_empty()) {
            if let Some(text) = line.strip_prefix("# ") {
                head = text;
                continue;
            }
            let (kinds, properties) = line.split_once(' ').unwrap();
            match kinds {
                "-" => self.cases.push(Case {
                    object: properties.into(),
                    head,
                }),
                "all" => KINDS
                    .iter()
                    .for_each(|kind| self.add(kind, properties, head)),
                kinds => kinds
                    .split(',')
                    .for_each(|kind| self.add(kind, properties, head)),
            }
        }
    }

    /// Tables that hold where the host has something.
    fn add_tables_of_the_host(&mut self, qemu: &mut Qemu) {
        let mut add = |table, has: bool, missing: &str| {
            if has {
                self.add_table(table);
            } else {
                skip(missing);
            }
        };
        let huge = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists()
            && qemu.has_property("memfd", "hugetlb");
        let ksm = Path::new("/sys/kernel/mm/ksm");
        add(
            FILE_SIZE_ROWS,
            !can_grow(1 << 62),
            "offset: this file system takes files of any size",
        );
        add(
            MERGE_ROWS,
            ksm.exists(),
            "merge=on: this kernel merges no pages",
        );
        add(
            NUMA_ROWS,
            can_bind(),
            "host-nodes: this process cannot bind memory",
        );
        add(
            HUGETLB_ROWS,
            huge,
            "hugetlb: this kernel or this QEMU has no huge pages of 2 MiB",
        );
        add(
            PMEM_ROWS,
            qemu.has_property("file", "pmem"),
            "pmem: this QEMU is built without",
        );
    }

    /// readonly, rom and share, each with each, on a file of each sort.
    fn add_read_only(&mut self) {
        for readonly in ["", r#", "readonly": false"#, r#", "readonly": true"#] {
            for rom in [
                "",
                r#", "rom": "auto""#,
                r#", "rom": "on""#,
                r#", "rom": "off""#,
            ] {
                for share in ["", r#", "share": true"#] {
                    for path in ["full", "empty", "new", "dir"] {
                        let properties = format!(r#""mem-path": "@/{path}"{readonly}{rom}{share}"#);
                        self.add("file", &properties, expect_read_only(&properties));
                    }
                }
            }
        }
    }

    /// Each property that QEMU has, with values of each other type.
    fn add_types(&mut self, qemu: &mut Qemu) {
        for kind in KINDS {
            for (property, property_type) in qemu.properties(kind) {
                for value in wrong_values(&property, &property_type) {
                    self.add(kind, &format!(r#""{property}": {value}"#), "refused");
                }
            }
        }
    }

    fn add_long_texts(&mut self) {
        const LONG: &str = "stricter: an id has at most 128 bytes";
        for (length, head) in [(128, "accepted"), (129, LONG)] {
            let id = "a".repeat(length);
            self.cases
                .push(Case::new("ram", &id, r#""share": false"#, head));
        }
        for name in ["a".repeat(256), "./".repeat(2048)] {
            self.add("file", &format!(r#""mem-path": "@/{name}new""#), "refused");
        }
    }
}

fn expect_read_only(properties: &str) -> &'static str {
    let has = |part| properties.contains(part);
    let readonly = has(r#""readonly": true"#);
    let impossible = if readonly {
        has(r#""rom": "off""#) && has("share")
    } else {
        has(r#""rom": "on""#)
    };
    if impossible || readonly && (has("@/new") || has("@/dir")) {
        "refused"
    } else if readonly && has("@/empty") {
        "stricter: an empty file that is only read does not grow to the size"
    } else {
        "accepted"
    }
}

/// JSON that a property does not take, by the type that QEMU gives it.
fn wrong_values(property: &str, property_type: &str) -> &'static [&'static str] {
    match (property, property_type) {
        ("host-nodes", _) => &[
            "0",
            r#""0""#,
            r#"["0"]"#,
            "[-1]",
            "[0.5]",
            "[[0]]",
            "[true]",
            "[null]",
            "null",
            "{}",
            "[4294967296]",
        ],
        (_, "bool") => &[
            r#""on""#,
            r#""true""#,
            r#""""#,
            "0",
            "1",
            "null",
            "[]",
            "{}",
        ],
        (_, "int") => &[
            r#""65536""#,
            r#""64K""#,
            r#""""#,
            "true",
            "null",
            "[65536]",
            "{}",
            "-65536",
            "65536.0",
            "65536.5",
            "1e5",
            "18446744073709551616",
            "1e30",
        ],
        (_, "string") => &["1", "true", "null", "[]", "{}", r#"["/tmp"]"#],
        // An enumeration or a link.
        _ => &[
            "1",
            "true",
            "null",
            "[]",
            "{}",
            r#""nonsense""#,
            r#""ON""#,
            r#"" ""#,
        ],
    }
}

fn can_grow(size: u64) -> bool {
    tempfile::tempfile().unwrap().set_len(size).is_ok()
}

fn can_bind() -> bool {
    let options = usable_node().map(|node| format!("size=64K,policy=bind,host-nodes={node}"));
    options.is_some_and(|options| common::ram(&options).complete().is_ok())
}

/// The first NUMA node that this process may use; None where the kernel has no NUMA.
fn usable_node() -> Option<u32> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let nodes = status
        .lines()
        .find_map(|line| line.strip_prefix("Mems_allowed_list:\t"))?;
    nodes.split(['-', ',']).next()?.parse().ok()
}

/// Files to make memory of, new for each case and each of the two.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for (name, bytes) in [
            ("full", 65536),
            ("small", 4096),
            ("odd", 5000),
            ("empty", 0),
        ] {
            fs::write(path(name), vec![1; bytes]).unwrap();
        }
        fs::create_dir(path("dir")).unwrap();
        fs::write(path("locked"), [1; 65536]).unwrap();
        fs::set_permissions(path("locked"), Permissions::from_mode(0o400)).unwrap();
        symlink("full", path("link")).unwrap();
        symlink("nothing", path("dangling")).unwrap();
        symlink("loop", path("loop")).unwrap();
        UnixListener::bind(path("socket")).unwrap();
        let fifo = CString::new(path("fifo").into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: reads the path.
        assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
        Self { directory }
    }

    /// In a file system made of huge pages, where nothing can be written.
    fn huge(parent: &Path) -> Self {
        let directory = tempfile::tempdir_in(parent).unwrap();
        let full = File::create(directory.path().join("full")).unwrap();
        full.set_len(2 * HUGE).unwrap();
        Self { directory }
    }

    /// An object of a case with paths and node filled in.
    fn fill(&self, object: &str) -> String {
        let directory = self.directory.path().to_str().unwrap();
        object
            .replace("@/", &format!("{directory}/"))
            .replace("@node", &usable_node().unwrap_or_default().to_string())
    }
}

// ---- The two ----

/// What one of them said.
#[derive(Debug)]
enum Answer {
    Accepted,
    Refused(String),
    /// No answer at all.
    Lost(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted => write!(f, "accepted"),
            Self::Refused(message) => write!(f, "refused: {message}"),
            Self::Lost(what) => write!(f, "lost: {what}"),
        }
    }
}

/// The command, which makes the memory and gives it back.
fn ask_hostmem(object: &str) -> Answer {
    let output = Command::new(env!("CARGO_BIN_EXE_hostmem"))
        .args(["alloc", "--json", &format!("{{{object}}}")])
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr)
        .trim_end()
        .to_owned();
    match output.status.code() {
        Some(0) => Answer::Accepted,
        Some(1) => Answer::Refused(message),
        _ => Answer::Lost(format!("{}: {message}", output.status)),
    }
}

/// A running QEMU without a machine.
struct Qemu {
    server: Server,
    client: Client<ChildStdin>,
}

impl Qemu {
    /// None, said, where there is none or only an old one.
    fn start() -> Option<Self> {
        let (server, client) = Server::qemu()?;
        let client = client.negotiate();
        Some(Self { server, client })
    }

    /// Runs a command; the arguments are the inside of a JSON object.
    fn execute(&mut self, command: &str, arguments: &str) -> Result<Json, Answer> {
        let request = format!(r#"{{"execute": "{command}", "arguments": {{{arguments}}}}}"#);
        // Where the process is gone the write fails, and no answer comes.
        self.client.send(request + "\n");
        match self.client.try_answer().map(result) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Answer::Refused(error["desc"].to_string())),
            Err(RecvTimeoutError::Timeout) => Err(Answer::Lost("no answer".into())),
            Err(RecvTimeoutError::Disconnected) => {
                let (code, said) = self.server.end();
                Err(Answer::Lost(format!("QEMU died, {code}: {said}")))
            }
        }
    }

    fn must(&mut self, command: &str, arguments: &str) -> Json {
        self.execute(command, arguments)
            .unwrap_or_else(|answer| panic!("{command} {arguments}: {answer}"))
    }

    /// Adds the object and deletes it again.
    fn ask(&mut self, object: &str) -> Answer {
        if let Err(answer) = self.execute("object-add", object) {
            return answer;
        }
        let object: Json = serde_json::from_str(&format!("{{{object}}}")).unwrap();
        match self.execute("object-del", &format!(r#""id": {}"#, object["id"])) {
            Ok(_) => Answer::Accepted,
            Err(answer) => Answer::Lost(format!("accepted, but not deleted: {answer}")),
        }
    }

    /// The properties of a kind, with their types.
    fn properties(&mut self, kind: &str) -> Vec<(String, String)> {
        let kind = format!(r#""typename": "memory-backend-{kind}""#);
        let list = self.must("qom-list-properties", &kind);
        let text = |property: &Json, key: &str| property[key].as_str().unwrap().to_owned();
        list.as_array()
            .unwrap()
            .iter()
            .map(|property| (text(property, "name"), text(property, "type")))
            .filter(|(name, _)| name != "type")
            .collect()
    }

    fn has_property(&mut self, kind: &str, name: &str) -> bool {
        let properties = self.properties(kind);
        properties.iter().any(|property| property.0 == name)
    }
}

// ---- Comparing ----

fn is_as_expected(expected: Expected, qemu: &Answer, hostmem: &Answer) -> bool {
    match (qemu, hostmem) {
        (Answer::Accepted, Answer::Accepted) => {
            matches!(expected, Expected::Accepted | Expected::Same)
        }
        (Answer::Refused(_), Answer::Refused(_)) => {
            matches!(expected, Expected::Refused | Expected::Same)
        }
        (Answer::Accepted, Answer::Refused(_)) => expected == Expected::Stricter,
        (Answer::Refused(_), Answer::Accepted) => expected == Expected::Looser,
        _ => false,
    }
}

/// How many of each head, the differences one by one.
fn print_counts(cases: &[Case]) {
    let mut heads = BTreeMap::new();
    for case in cases {
        *heads.entry(case.head).or_insert(0) += 1;
    }
    let count = |wanted: &[Expected]| {
        let wanted = |head| wanted.contains(&Expected::parse(head));
        let counts = heads.iter().filter(|(head, _)| wanted(head));
        counts.map(|(_, count)| count).sum::<usize>()
    };
    println!(
        "{} cases, {} the same, {} stricter, {} looser",
        cases.len(),
        count(&[Expected::Accepted, Expected::Refused, Expected::Same]),
        count(&[Expected::Stricter]),
        count(&[Expected::Looser]),
    );
    for (head, count) in heads {
        println!("{count:6} {head}");
    }
}

fn compare(cases: &[Case], files: impl Fn() -> Files, mut ask_qemu: impl FnMut(&str) -> Answer) {
    let mut surprises = Vec::new();
    for case in cases {
        let theirs = ask_qemu(&files().fill(&case.object));
        let ours = ask_hostmem(&files().fill(&case.object));
        if !is_as_expected(case.expected(), &theirs, &ours) {
            let Case { object, head } = case;
            surprises.push(format!(
                "{object}\n  expected: {head}\n  QEMU: {theirs}\n  hostmem: {ours}\n"
            ));
        }
    }
    print_counts(cases);
    assert!(
        surprises.is_empty(),
        "{} surprises:\n{}",
        surprises.len(),
        surprises.concat()
    );
}

#[test]
fn the_same_is_accepted_and_refused() {
    if is_instrumented() {
        return;
    }
    if page_size() != 4096 {
        return skip("the tables are for pages of 4 KiB");
    }
    // What is free stays as it is between asking the one and the other.
    let _host = HostLock::take();
    let Some(mut qemu) = Qemu::start() else {
        return;
    };
    let mut cases = Cases::default();
    cases.add_table(ROWS);
    cases.add_tables_of_the_host(&mut qemu);
    cases.add_table(OBJECTS);
    cases.add_read_only();
    cases.add_types(&mut qemu);
    cases.add_long_texts();

    compare(&cases.cases, Files::new, |object| {
        let answer = qemu.ask(object);
        if matches!(answer, Answer::Lost(_)) {
            qemu = Qemu::start().unwrap();
        }
        answer
    });
}

/// On a thread of its own, which alone sees the file system.
#[test]
fn the_same_is_accepted_and_refused_of_huge_pages() {
    thread::scope(|scope| scope.spawn(compare_huge_pages).join().unwrap());
}

fn compare_huge_pages() {
    if is_instrumented() || Qemu::start().is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(_pages) = HugePages::have(2) else {
        return;
    };
    if !mount("hugetlbfs", directory.path(), "pagesize=2M") {
        return;
    }
    let mut cases = Cases::default();
    cases.add_table(HUGE_PAGE_ROWS);
    // One process for each: QEMU gives memory back some time after the object is gone.
    compare(
        &cases.cases,
        || Files::huge(directory.path()),
        |object| Qemu::start().unwrap().ask(object),
    );
}

#[test]
fn what_qemu_does_not_answer_is_answered() {
    let mut cases = Cases::default();
    cases.add_table(NOT_SENT);
    for case in &cases.cases {
        let ours = ask_hostmem(&Files::new().fill(&case.object));
        let as_expected = matches!(
            (case.expected(), &ours),
            (Expected::Accepted, Answer::Accepted) | (Expected::Refused, Answer::Refused(_))
        );
        assert!(
            as_expected,
            "{}\n  expected: {}\n  hostmem: {ours}",
            case.object, case.head
        );
    }
    println!("{} cases that QEMU is not asked", cases.cases.len());
}

/// An object that was refused does not take it.
#[test]
fn an_id_is_taken_while_its_object_is_there() {
    let Some(mut qemu) = Qemu::start() else {
        return;
    };
    let objects = common::objects();
    let mut theirs = |command: &str, arguments: &str| qemu.execute(command, arguments).is_ok();
    let add = |size: u64| format!(r#""qom-type": "memory-backend-ram", "id": "a", "size": {size}"#);
    let delete = r#""id": "a""#;
    let ours = |size: u64| {
        objects
            .builder("memory-backend-ram", "a")?
            .size(size)
            .complete()
            .map_err(|failed| failed.error)
    };

    assert!(!theirs("object-add", &add(0)));
    assert!(ours(0).is_err());
    assert!(theirs("object-add", &add(65536)));
    let backend = ours(65536).unwrap();
    assert!(!theirs("object-add", &add(65536)));
    assert!(ours(65536).is_err());
    assert!(theirs("object-del", delete));
    backend.delete().unwrap();
    assert!(!theirs("object-del", delete));
    assert!(theirs("object-add", &add(65536)));
    assert!(ours(65536).is_ok());
}

/// A value in QEMU's JSON.
fn to_json(value: Value) -> Json {
    match value {
        Value::Bool(value) => json!(value),
        Value::Number(value) => json!(value),
        Value::List(value) => json!(value),
        Value::Text(value) => json!(value),
        Value::Path(value) => json!(value),
        other => panic!("{other:?}"),
    }
}

/// Of every property of QEMU's, after completing.
#[test]
fn what_is_not_said_is_the_same() {
    let Some(mut qemu) = Qemu::start() else {
        return;
    };
    let files = Files::new();
    for kind in KINDS {
        let case = Case::new(kind, kind, r#""size": 65536"#, "accepted");
        qemu.must("object-add", &files.fill(&case.object));
        let mut builder = common::objects()
            .builder(&format!("memory-backend-{kind}"), kind)
            .unwrap()
            .size(65536);
        if kind == "file" {
            builder = builder.mem_path(files.directory.path().join("new"));
        }
        let backend = builder.complete().unwrap();
        for (property, _) in qemu.properties(kind) {
            // QEMU counts the machine's CPUs, and there is no machine.
            if property == "prealloc-threads" {
                continue;
            }
            let arguments = format!(r#""path": "/objects/{kind}", "property": "{property}""#);
            let theirs = qemu.must("qom-get", &arguments);
            let ours = to_json(backend.get(&property).unwrap());
            assert_eq!(ours, theirs, "{kind}: {property}");
        }
    }
}

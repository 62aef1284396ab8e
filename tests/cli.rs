// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line program: what it prints where, and how it ends.

#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use common::bindable_node;
use common::host::HugePages;
use common::objects;
use common::skip;
use hostmem::properties;
use hostmem::Property;
use hostmem::PropertyType;
use hostmem::Settable;
use hostmem::THREAD_CONTEXT;
use serde_json::json;
use serde_json::Value as Json;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostmem"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// Standard output of a run that succeeds without a word on standard error.
#[track_caller]
fn succeeds(arguments: &[&str]) -> String {
    let output = run(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
    assert_eq!(stderr, "", "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The message of a run that was given something it cannot do.
#[track_caller]
fn fails(arguments: &[&str]) -> String {
    let output = run(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
    assert_eq!(output.stdout, b"", "{arguments:?}");
    assert!(stderr.starts_with("hostmem: "), "{arguments:?}: {stderr}");
    assert!(stderr.ends_with('\n'), "{arguments:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    stderr
}

fn json_of(arguments: &[&str]) -> Json {
    let text = succeeds(arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn keys(json: &Json) -> BTreeSet<&str> {
    json.as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

// ---- alloc ----

#[test]
fn alloc_reports_for_people() {
    let text = succeeds(&["alloc", "memory-backend-ram,id=ram0,size=1M"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "ram0 (memory-backend-ram)");
    for (name, value) in [
        ("size", "1.00 MiB"),
        ("policy", "default"),
        ("resident", "0 B (0 %)"),
        ("huge", "0 B (0 %)"),
    ] {
        let line = lines.iter().find(|line| line.trim().starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name}: {text}"));
        assert!(line.ends_with(value), "{line}");
    }
    assert!(text.contains("page size"), "{text}");
    for absent in ["threads", "GiB/s", "warning"] {
        assert!(!text.contains(absent), "{text}");
    }
    assert!(!text.contains('\x1b'), "{text:?}");
}

#[test]
fn alloc_reports_prealloc() {
    let text = succeeds(&[
        "alloc",
        "memory-backend-ram,id=ram0,size=16M,prealloc=on,prealloc-threads=2",
    ]);
    for part in ["16.00 MiB (100 %)", "threads", "seconds", "GiB/s"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn alloc_reports_in_json() {
    let report = json_of(&[
        "alloc",
        "--json",
        "memory-backend-ram,id=ram0,size=1M,prealloc=on",
        "memory-backend-ram,id=ram1,size=64K,share=on",
    ]);
    assert_eq!(keys(&report), ["objects"].into());
    let objects = report["objects"].as_array().unwrap();
    assert_eq!(objects.len(), 2);
    for (object, id, size) in [
        (&objects[0], "ram0", 1 << 20),
        (&objects[1], "ram1", 64 << 10),
    ] {
        for key in [
            "id",
            "kind",
            "size",
            "page-size",
            "policy",
            "host-nodes",
            "resident",
            "nodes",
            "huge",
            "prealloc",
        ] {
            assert!(keys(object).contains(key), "{key}: {object}");
        }
        assert_eq!(object["id"], id);
        assert_eq!(object["kind"], "memory-backend-ram");
        assert_eq!(object["size"], json!(size));
        assert_eq!(object["page-size"], json!(common::page_size()));
        assert_eq!(object["policy"], "default");
        assert_eq!(object["host-nodes"], json!([]));
        assert!(object["huge"].is_u64(), "{object}");
        let nodes = object["nodes"].as_object().unwrap();
        let mut on_nodes = 0;
        for (node, bytes) in nodes {
            node.parse::<u32>().unwrap();
            on_nodes += bytes.as_u64().unwrap();
        }
        assert_eq!(object["resident"], json!(on_nodes), "{object}");
    }

    assert_eq!(objects[0]["resident"], json!(1 << 20));
    let prealloc = &objects[0]["prealloc"];
    assert_eq!(
        keys(prealloc),
        ["threads", "seconds", "bytes", "bytes-per-second"].into()
    );
    assert!(prealloc["threads"].as_u64().unwrap() >= 1, "{prealloc}");
    assert_eq!(prealloc["bytes"], json!(1 << 20));
    let seconds = prealloc["seconds"].as_f64().unwrap();
    assert!(seconds > 0.0, "{prealloc}");
    let speed = prealloc["bytes-per-second"].as_u64().unwrap();
    let expected = f64::from(1 << 20) / seconds;
    assert!((speed as f64 / expected - 1.0).abs() < 0.01, "{prealloc}");

    assert_eq!(objects[1]["resident"], json!(0));
    assert_eq!(objects[1]["prealloc"], Json::Null);
}

#[test]
fn alloc_reports_the_policy() {
    let Some(node) = bindable_node() else {
        return;
    };
    let object = format!("memory-backend-ram,id=ram0,size=64K,policy=bind,host-nodes={node}");
    let report = json_of(&["alloc", "--json", &object]);
    let report = &report["objects"][0];
    assert_eq!(report["policy"], "bind");
    assert_eq!(report["host-nodes"], json!([node]));
    let text = succeeds(&["alloc", &object]);
    assert!(text.contains(&format!("bind:{node}")), "{text}");
}

#[test]
fn alloc_reports_each_object_in_order() {
    let objects: Vec<_> = (0..5)
        .map(|n| format!("memory-backend-ram,id=ram{n},size=64K"))
        .collect();
    let mut arguments = vec!["alloc"];
    arguments.extend(objects.iter().map(String::as_str));
    let text = succeeds(&arguments);
    let ids: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_suffix(" (memory-backend-ram)"))
        .collect();
    assert_eq!(ids, ["ram0", "ram1", "ram2", "ram3", "ram4"]);
}

#[test]
fn alloc_warns_of_short_forms() {
    let object = "memory-backend-ram,id=ram0,size=64K,share,nodump";
    let report = json_of(&["alloc", "--json", object]);
    let warnings = report["objects"][0]["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 2, "{report}");
    let text = succeeds(&["alloc", object]);
    for (warning, instead) in warnings.iter().zip(["write share=on", "write dump=off"]) {
        let warning = warning.as_str().unwrap();
        assert!(warning.ends_with(instead), "{report}");
        assert!(text.contains(warning), "{text}");
    }
}

#[test]
fn alloc_warns_of_merge_without_effect() {
    let without_effect = "memory-backend-ram,id=ram0,size=64K,share=on,merge=on";
    let report = json_of(&["alloc", "--json", without_effect]);
    let warnings = report["objects"][0]["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{report}");
    assert!(warnings[0].as_str().unwrap().contains("merge"), "{report}");
    assert!(succeeds(&["alloc", without_effect]).contains("merge=on has no effect"));
    // Not where nobody asked.
    let report = json_of(&[
        "alloc",
        "--json",
        "memory-backend-ram,id=ram0,size=64K,share=on",
    ]);
    assert_eq!(report["objects"][0]["warnings"], json!([]));
}

#[test]
fn an_object_may_be_json() {
    let object = json!({
        "qom-type": "memory-backend-ram",
        "id": "ram0",
        "size": 1 << 20,
        "share": true,
        "dump": false,
        "policy": "default",
        "host-nodes": [],
        "prealloc-threads": 2,
        "thp": "never",
        "prealloc-context": "",
    });
    for text in [object.to_string(), format!(" \n{object:#}\n")] {
        let report = json_of(&["alloc", "--json", &text]);
        let report = &report["objects"][0];
        assert_eq!(report["id"], "ram0");
        assert_eq!(report["size"], json!(1 << 20));
    }
    // Side by side with the other form.
    let text = object.to_string();
    succeeds(&["alloc", &text, "memory-backend-ram,id=ram1,size=64K"]);

    let Some(node) = bindable_node() else {
        return;
    };
    let object = json!({
        "qom-type": "memory-backend-ram",
        "id": "ram0",
        "size": 1 << 20,
        "policy": "bind",
        "host-nodes": [node, node],
    });
    let report = json_of(&["alloc", "--json", &object.to_string()]);
    assert_eq!(report["objects"][0]["host-nodes"], json!([node]));
}

/// As QEMU's users write it.
#[test]
fn json_may_have_single_quotes() {
    for (text, id) in [
        (
            "{'qom-type':'memory-backend-ram','id':'ram0','size':1048576}",
            "ram0",
        ),
        (
            " {'qom-type': \"memory-backend-ram\", \"id\": 'ram0', 'size': 1048576}",
            "ram0",
        ),
    ] {
        let report = json_of(&["alloc", "--json", text]);
        assert_eq!(report["objects"][0]["id"], id);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it's \"new\"");
    let quoted = path.to_str().unwrap().replace('\'', "\\'");
    succeeds(&[
        "alloc",
        &format!(
            "{{'qom-type':'memory-backend-file','id':'a','size':65536,'mem-path':'{quoted}'}}"
        ),
    ]);
    assert!(path.exists());
    for text in [
        "{'qom-type':'memory-backend-ram','id':'ram0','size':1048576",
        "{'qom-type':'memory-backend-ram','id':'ram0,'size':1048576}",
        "{'qom-type':'memory-backend-ram','id':'ram0\",'size':1048576}",
    ] {
        let message = fails(&["alloc", text]);
        assert!(message.contains("JSON"), "{message}");
    }
}

#[test]
fn help_among_objects_lists_kinds_and_properties() {
    let kinds = objects().kinds();
    for arguments in [
        &["alloc", "help"][..],
        &["alloc", "?"],
        &["alloc", "help", "memory-backend-ram,id=ram0,size=0"],
        &["props", "help"],
    ] {
        let text = succeeds(arguments);
        for name in kinds.iter().map(|kind| &*kind.name).chain([THREAD_CONTEXT]) {
            assert!(
                text.lines().any(|line| line == name),
                "{arguments:?}: {text}"
            );
        }
        for kind in &kinds {
            assert!(text.contains(&kind.description), "{text}");
        }
    }
    let names: Vec<_> = json_of(&["props", "help", "--json"])["kinds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| kind["name"].as_str().unwrap().to_owned())
        .collect();
    let mut expected: Vec<_> = kinds.iter().map(|kind| kind.name.clone()).collect();
    expected.push(THREAD_CONTEXT.into());
    assert_eq!(names, expected);

    for kind in ["memory-backend-file", THREAD_CONTEXT] {
        let properties = succeeds(&["props", kind]);
        for object in [
            format!("{kind},help"),
            format!("{kind},?"),
            format!("{kind},id=a,size=nonsense,help"),
            format!("qom-type={kind},help"),
            format!("help,qom-type={kind}"),
        ] {
            assert_eq!(succeeds(&["alloc", &object]), properties, "{object}");
            assert_eq!(succeeds(&["props", &object]), properties, "{object}");
        }
    }
    assert!(fails(&["alloc", "no-such,help"]).contains("memory-backend-ram"));
    // A value is no question.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a,help");
    let path_text = path.to_str().unwrap().replace(',', ",,");
    let file = format!("memory-backend-file,id=help,size=64K,mem-path={path_text}");
    succeeds(&["alloc", &file]);
    assert!(path.exists());
}

#[test]
fn objects_without_ids_get_one() {
    let json = "{'qom-type': 'memory-backend-ram', 'size': 65536}";
    let report = json_of(&["alloc", "memory-backend-ram,size=64K", json, "--json"]);
    assert_eq!(report["objects"][0]["id"], "anonymous-1");
    assert_eq!(report["objects"][1]["id"], "anonymous-2");
}

#[test]
fn wrong_input_is_one_message() {
    let ram = |options: &str| format!("memory-backend-ram,id=ram0,{options}");
    for (object, parts) in [
        ("".to_owned(), &["kind"][..]),
        ("no-such,id=ram0".into(), &["no-such", "memory-backend-ram"]),
        ("memory-backend,id=ram0,size=1M".into(), &["abstract"]),
        ("memory-backend-ram,id=0,size=1M".into(), &["letter"]),
        (ram("size=1MB"), &["ram0", "size", "1MB"]),
        (ram("prealloc=off"), &["ram0", "size"]),
        (ram("size=1"), &["ram0", "size", "page"]),
        (ram("size=1M,no-such=1"), &["ram0", "no-such", "prealloc"]),
        (ram("size=1M,policy"), &["policy=VALUE"]),
        (ram("size=1M,size=1M"), &["ram0", "size"]),
        (ram("size=1M,policy=bind"), &["ram0", "policy"]),
        (ram("size=1M,host-nodes=3-1"), &["ram0", "host-nodes"]),
        (ram("size=1M,reserve=off,prealloc=on"), &["ram0", "reserve"]),
        (ram("size=15E"), &["ram0", "size"]),
    ] {
        let message = fails(&["alloc", &object]);
        for part in parts {
            assert!(message.contains(part), "{object}: {message}");
        }
        assert_eq!(fails(&["alloc", "--json", &object]), message);
    }
}

#[test]
fn wrong_json_is_one_message() {
    let with = |name: &str, value: Json| {
        let mut object = json!({
            "qom-type": "memory-backend-ram", "id": "ram0", "size": 1 << 20
        });
        object[name] = value;
        object.to_string()
    };
    for (object, part) in [
        ("{".to_owned(), "JSON"),
        ("{}".into(), "qom-type"),
        ("{\"qom-type\": \"memory-backend-ram\",}".into(), "JSON"),
        ("{\"qom-type\": \"memory-backend-ram\"}".into(), "size"),
        ("{\"id\": \"ram0\"}".into(), "qom-type"),
        (with("size", json!(1)) + "x", "JSON"),
        (with("qom-type", json!("no-such")), "no-such"),
        (with("qom-type", json!(1)), "qom-type"),
        (with("id", json!(0)), "id"),
        (with("id", json!("a b")), "a b"),
        (with("id", json!("a\0b")), "NUL"),
        (with("size", json!("1M")), "size"),
        (with("size", json!(-1)), "size"),
        (with("size", json!(0)), "size"),
        (with("size", json!(4096.5)), "size"),
        (with("size", json!(1e30)), "size"),
        (with("size", Json::Null), "size"),
        (with("share", json!("on")), "share"),
        (with("share", json!(1)), "share"),
        (with("policy", json!(2)), "policy"),
        (with("policy", json!("nearest")), "nearest"),
        (with("host-nodes", json!(0)), "host-nodes"),
        (with("host-nodes", json!("0")), "host-nodes"),
        (with("host-nodes", json!([1024])), "1024"),
        (with("host-nodes", json!([-1])), "host-nodes"),
        (with("host-nodes", json!([1u64 << 32])), "host-nodes"),
        (with("host-nodes", json!([[0]])), "host-nodes"),
        (with("prealloc-threads", json!(0)), "prealloc-threads"),
        (with("prealloc-threads", json!(true)), "prealloc-threads"),
        (with("home-node", json!("0")), "home-node"),
        (with("no-such", json!({"a": [1, "b\nc"]})), "no-such"),
    ] {
        let message = fails(&["alloc", &object]);
        assert!(message.contains(part), "{object}: {message}");
    }
}

#[test]
fn what_is_quoted_does_not_break_the_line() {
    for object in [
        "memory-backend-ram,id=a\nb,size=1M",
        "memory-backend\n-ram,id=ram0",
        "memory-backend-ram,id=ram0,size=1\nM",
        "memory-backend-ram,id=ram0,si\nze=1M",
        r#"{"qom-type": "memory-backend-ram", "id": "a\nb"}"#,
        r#"{"qom-type": "memory-backend-ram", "id": "ram0", "no\nsuch": 1}"#,
    ] {
        fails(&["alloc", object]);
    }
}

#[test]
fn a_kind_that_is_quoted_does_not_break_the_line() {
    let message = fails(&["props", "memory-backend-ram\n"]);
    assert!(message.contains("does not exist"), "{message}");
}

#[test]
fn one_bad_object_is_the_end_of_all() {
    let good = "memory-backend-ram,id=ram0,size=64K";
    for bad in [
        "memory-backend-ram,id=ram1",
        "memory-backend-ram,id=ram1,size=1MB",
        "memory-backend-ram,id=ram0,size=64K",
        "{",
    ] {
        fails(&["alloc", good, bad]);
        fails(&["alloc", bad, good]);
    }
}

// ---- props ----

fn type_name(value_type: PropertyType) -> &'static str {
    match value_type {
        PropertyType::Bool => "bool",
        PropertyType::Size => "size",
        PropertyType::Uint32 => "uint32",
        PropertyType::Enum => "enum",
        PropertyType::Nodes => "nodes",
        PropertyType::Node => "node",
        PropertyType::Link => "id",
        PropertyType::Path => "path",
        PropertyType::Fd => "fd",
        PropertyType::Cpus => "cpus",
        other => panic!("{other:?}"),
    }
}

#[test]
fn props_in_json_are_the_table() {
    let expected: Vec<_> = properties()
        .map(|row| {
            json!({
                "name": row.name(),
                "type": type_name(row.value_type()),
                "choices": row.choices(),
                "default": row.default_text(),
                "settable": match row.settable() {
                    Settable::Configuring => "before completing",
                    Settable::Always => "always",
                    Settable::LaterUse => "for later use",
                    Settable::Never => "never",
                    other => panic!("{other:?}"),
                },
                "kinds": row.kinds(),
                "description": row.description(),
            })
        })
        .collect();
    assert_eq!(
        json_of(&["props", "--json"]),
        json!({ "properties": expected })
    );
}

#[test]
fn props_of_a_kind_are_those_it_has() {
    for kind in objects().kinds() {
        let expected: Vec<_> = properties()
            .filter(|row| {
                row.kinds()
                    .is_none_or(|kinds| kinds.contains(&kind.name.as_str()))
            })
            .map(|row| row.name())
            .collect();
        let json = json_of(&["props", "--json", &kind.name]);
        let names: Vec<_> = json["properties"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, expected, "{}", kind.name);
    }
}

#[test]
fn props_for_people_say_it_all() {
    for arguments in [&["props"][..], &["props", "memory-backend-ram"]] {
        let text = succeeds(arguments);
        let of_kind = |row: &Property| {
            let kinds = row.kinds();
            arguments.len() == 1 || kinds.is_none_or(|kinds| kinds.contains(&arguments[1]))
        };
        for row in properties().filter(of_kind) {
            let heading = format!("{}=", row.name());
            assert!(
                text.lines().any(|line| line.starts_with(&heading)),
                "{text}"
            );
            assert!(text.contains(row.description()), "{}", row.name());
            for choice in row.choices() {
                assert!(text.contains(choice), "{choice}");
            }
        }
        assert!(!text.contains('\x1b'), "{text:?}");
    }
}

#[test]
fn props_of_an_unknown_kind_name_the_known_ones() {
    for kind in ["no-such", "", "ram", "memory-backend-ram "] {
        for arguments in [&["props", kind][..], &["props", "--json", kind]] {
            let message = fails(arguments);
            assert!(message.contains("memory-backend-ram"), "{message}");
        }
    }
}

// ---- The program ----

/// The share of a bar that is drawn, of the line of a name.
fn bar_of(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.trim().starts_with(name));
    let line = line.unwrap_or_else(|| panic!("{text}: lacks {name}"));
    let bar: Vec<_> = line.chars().filter(|c| "█·".contains(*c)).collect();
    assert!(!bar.is_empty(), "{line}");
    bar.iter().filter(|&&c| c == '█').count() as f64 / bar.len() as f64
}

#[test]
fn alloc_draws_where_the_memory_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a & b.svg");
    let svg = file.to_str().unwrap();
    let text = succeeds(&[
        "alloc",
        "--svg",
        svg,
        "memory-backend-ram,id=full,size=4M,prealloc=on",
        "memory-backend-ram,id=empty,size=4M",
    ]);
    let (full, empty) = text.split_at(text.find("empty").unwrap());
    if std::path::Path::new("/proc/self/numa_maps").exists() {
        assert_eq!(bar_of(full, "node "), 1.0);
    }
    assert!(!full.contains("absent"), "{full}");
    assert_eq!(bar_of(empty, "absent"), 1.0);
    let picture = std::fs::read_to_string(&file).unwrap();
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    for words in [
        "full (memory-backend-ram, 4 MiB)",
        "empty (",
        "absent",
        "class=\"nowhere\"",
    ] {
        assert!(picture.contains(words), "{picture}: lacks {words}");
    }
    // What cannot be written is one message.
    let nowhere = directory.path().join("none/at/all.svg");
    let nowhere = nowhere.to_str().unwrap();
    let message = fails(&[
        "alloc",
        "--svg",
        nowhere,
        "memory-backend-ram,id=m0,size=64K",
    ]);
    assert!(
        message.contains(&format!("--svg {nowhere}: No such file")),
        "{message}"
    );
}

#[test]
fn probe_says_what_the_host_offers() {
    let host = hostmem::Host::probe().unwrap();
    let topology = hostmem::Topology::read().unwrap();
    let json = json_of(&["probe", "--json"]);
    let expected = [
        "cpus",
        "features",
        "huge-pages",
        "kernel",
        "libnuma",
        "limits",
        "merging",
        "nodes",
        "numa",
        "overcommit-memory",
        "page-size",
        "thp",
    ];
    assert_eq!(keys(&json), BTreeSet::from(expected));
    assert_eq!(json["kernel"], host.info().kernel);
    assert_eq!(json["page-size"], host.info().page_size);
    assert_eq!(
        json["limits"]["memlock"].as_u64(),
        host.info().memlock_limit
    );
    assert_eq!(
        json["nodes"].as_array().unwrap().len(),
        topology.nodes.len()
    );
    let text = succeeds(&["probe"]);
    for node in &topology.nodes {
        let json = &json["nodes"][topology.nodes.iter().position(|n| n == node).unwrap()];
        assert_eq!(json["id"], node.id);
        assert_eq!(json["memory"]["total"], node.memory_total);
        assert_eq!(json["distances"][node.id.to_string()], 10);
        let line = format!("{:>4}  ", node.id);
        assert!(text.lines().any(|text| text.starts_with(&line)), "{text}");
    }
    for feature in host.features() {
        let json = &json["features"][&feature.name];
        assert_eq!(json["available"], feature.is_available());
        assert_eq!(json["errno"].as_i64(), feature.os_error.map(i64::from));
        let line = text
            .lines()
            .find(|line| line.trim().starts_with(&feature.name));
        let word = if feature.is_available() { "yes" } else { "no" };
        let line = line.unwrap_or_else(|| panic!("{text}: lacks {}", feature.name));
        assert_eq!(line.split_whitespace().nth(1), Some(word), "{line}");
    }
    // No wider than a terminal.
    assert!(text.lines().all(|line| line.len() <= 100), "{text}");
}

#[test]
fn probe_says_what_is_left_of_a_pool() {
    let Some(pool) = HugePages::have(2) else {
        return;
    };
    let reserved = objects()
        .parse("memory-backend-memfd,id=m0,size=2M,hugetlb=on,hugetlbsize=2M")
        .unwrap()
        .complete()
        .unwrap();
    pool.allow_surplus(3);
    let text = succeeds(&["probe"]);
    let begin = "huge pages of 2.00 MiB: ";
    let line = text.lines().find(|line| line.starts_with(begin));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains(" of them promised"), "{line}");
    assert!(line.contains(", 3 more on demand"), "{line}");
    drop((reserved, pool));
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [
        &[][..],
        &["no-such"],
        &["--no-such"],
        &["alloc"],
        &["alloc", "--json"],
        &["alloc", "--no-such", "memory-backend-ram,id=ram0,size=64K"],
        &["props", "--no-such"],
        &["props", "memory-backend-ram", "memory-backend-ram"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
        assert_ne!(output.stderr, b"", "{arguments:?}");
    }
}

#[test]
fn help_is_an_answer() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["help"],
        &["alloc", "--help"],
        &["props", "--help"],
    ] {
        assert!(
            succeeds(arguments).contains("Usage: hostmem"),
            "{arguments:?}"
        );
    }
    let version = format!("hostmem {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(succeeds(&["--version"]), version);
}

/// Output into something that nobody reads any more.
#[test]
fn a_reader_that_has_gone_is_no_accident() {
    for arguments in [
        &["props"][..],
        &["props", "--json"],
        &["alloc", "memory-backend-ram,id=ram0,size=64K"],
        &["alloc", "--json", "memory-backend-ram,id=ram0,size=64K"],
        &["--help"],
    ] {
        // As a pipe, and closed before anything can be written.
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let output = command(arguments)
            .stdout(OwnedFd::from(writer))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr, "", "{arguments:?}");
        let status = output.status;
        assert!(
            matches!(status.code(), Some(0 | 1)) || status.signal() == Some(libc::SIGPIPE),
            "{arguments:?}: {status}"
        );
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    for arguments in [
        &["props"][..],
        &["alloc", "--json", "memory-backend-ram,id=ram0,size=64K"],
    ] {
        let output = command(arguments)
            .stdout(File::options().write(true).open("/dev/full").unwrap())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.starts_with("hostmem: standard output: "), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn there_is_no_progress_bar_without_a_terminal() {
    let object = "memory-backend-ram,id=ram0,size=32M,prealloc=on,thp=never";
    // succeeds() wants standard error empty.
    succeeds(&["alloc", object]);
    let report = json_of(&["alloc", "--json", object]);
    assert_eq!(report["objects"][0]["resident"], json!(32 << 20));
}

#[test]
fn alloc_waits_for_the_background() {
    let json = json_of(&[
        "alloc",
        "--json",
        "memory-backend-ram,id=ram0,size=64M,prealloc=on,prealloc-mode=background",
    ]);
    let report = &json["objects"][0];
    assert_eq!(report["resident"], 64 << 20);
    assert_eq!(report["prealloc"]["bytes"], 64 << 20);
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let text = succeeds(&["completions", shell]);
        for word in ["probe", "props", "alloc", "qmp", "hold", "socket"] {
            assert!(text.contains(word), "{shell}: {word}");
        }
    }
    let output = run(&["completions", "no-such"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn bash_takes_its_completions() {
    let script = format!(
        "{}\nCOMP_WORDS=(hostmem alloc --h)\nCOMP_CWORD=2\n_hostmem hostmem --h alloc\necho \"${{COMPREPLY[@]}}\"",
        succeeds(&["completions", "bash"])
    );
    let Ok(output) = Command::new("bash").args(["-c", &script]).output() else {
        return skip("bash is not installed");
    };
    let completed = String::from_utf8(output.stdout).unwrap();
    assert!(completed.contains("--hold"), "{completed}");
}

#[test]
fn manual_pages_are_whole() {
    for page in ["", "probe", "props", "alloc", "qmp", "completions", "man"] {
        let mut arguments = vec!["man"];
        arguments.extend((!page.is_empty()).then_some(page));
        let text = succeeds(&arguments);
        for part in [".TH hostmem", "NAME", "SYNOPSIS", "OPTIONS", "EXAMPLES"] {
            assert!(text.contains(part), "{page}: no {part}: {text}");
        }
    }
    for subcommand in ["probe", "props", "alloc", "qmp", "completions", "man"] {
        assert!(succeeds(&["man"]).contains(subcommand), "{subcommand}");
    }
    let message = fails(&["man", "no-such"]);
    assert!(message.contains("no-such"), "{message}");
}

/// What the help shows can be done, but for what this host may not have.
#[test]
fn examples_of_alloc_are_right() {
    let help = succeeds(&["alloc", "--help"]);
    let examples = help.split_once("Examples:").unwrap().1;
    let mut parsed = 0;
    for example in examples.split("hostmem alloc ") {
        let set = common::objects();
        let objects = example
            .split_whitespace()
            .filter(|word| word.contains(",id="));
        // Of one example all are there at once, since they link to each other.
        let builders: Vec<_> = objects
            .map(|object| set.parse_object(object).unwrap())
            .collect();
        parsed += builders.len();
    }
    assert!(parsed >= 5, "{help}");
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem qmp`: what it answers, to those who mean well and to others, and what is left of both.

#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::io::Read;
use std::io::Write;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ChildStdin;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use common::bindable_node;
use common::host::mount;
use common::page_size;
use common::qmp::connect;
use common::qmp::result;
use common::qmp::Client;
use common::qmp::Server;
use common::qmp::PATIENCE;
use common::skip;
use common::Refusal;
use hostmem::properties;
use hostmem::THREAD_CONTEXT;
use serde_json::json;
use serde_json::Value as Json;

/// A server on its standard streams with capabilities negotiated.
fn start() -> (Server, Client<ChildStdin>) {
    let (server, client) = Server::hostmem_on_streams();
    (server, client.negotiate())
}

fn ram(id: &str, size: u64) -> Json {
    json!({ "qom-type": "memory-backend-ram", "id": id, "size": size })
}

fn id(id: &str) -> Json {
    json!({ "id": id })
}

/// An object with more members.
fn with(mut object: Json, members: Json) -> Json {
    let more = members.as_object().unwrap().clone();
    object.as_object_mut().unwrap().extend(more);
    object
}

fn names(list: &Json) -> Vec<&str> {
    let entries = list.as_array().unwrap().iter();
    entries
        .map(|entry| entry["name"].as_str().unwrap())
        .collect()
}

/// Waits until something is so.
#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

// ---- A conversation ----

#[test]
fn capabilities_come_first() {
    let (_server, mut client) = Server::hostmem_on_streams();
    let version = &client.greeting["QMP"]["version"];
    assert_eq!(
        version["package"],
        format!("hostmem {}", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(client.greeting["QMP"]["capabilities"], json!([]));

    client.fails("CommandNotFound", "query-version", json!({}));
    client.fails("CommandNotFound", "no-such", json!({}));
    let message = client.fails(
        "GenericError",
        "qmp_capabilities",
        json!({ "enable": ["oob"] }),
    );
    assert!(message.contains("oob"), "{message}");
    assert_eq!(
        client.must("qmp_capabilities", json!({ "enable": [] })),
        json!({})
    );
    client.fails("CommandNotFound", "qmp_capabilities", json!({}));
    client.must("query-version", json!({}));
}

#[test]
fn an_id_comes_back() {
    let (_server, mut client) = start();
    for id in [
        json!(null),
        json!(1),
        json!("a\0é\u{1f600}"),
        json!({ "a": [1.5, { "b": [] }] }),
        json!(false),
        json!(u64::MAX),
        json!(i64::MIN),
    ] {
        for call in [
            r#""execute": "query-version""#,
            r#""execute": "no-such""#,
            r#""execute": 1"#,
        ] {
            client.send(format!("{{{call}, \"id\": {id}}}"));
            assert_eq!(client.answer().get("id"), Some(&id));
        }
    }
    client.send(r#"{"execute": "query-version"}"#);
    assert_eq!(client.answer().get("id"), None);
}

#[test]
fn what_is_listed_can_be_called() {
    let (_server, mut client) = start();
    let list = client.must("query-commands", json!({}));
    for name in names(&list) {
        if name == "quit" {
            continue;
        }
        // No command takes this argument, and none that does not exist says so.
        client.fails("GenericError", name, json!({ "no such": 1 }));
    }
    assert!(names(&list).contains(&"object-add"));
    client.fails("CommandNotFound", "no-such", json!({}));
    client.fails("CommandNotFound", "", json!({}));
}

#[test]
fn quit_ends_the_program() {
    let (mut server, mut client) = start();
    client.send("{\"execute\": \"quit\"}{\"execute\": \"query-version\"}");
    assert_eq!(client.answer(), json!({ "return": {} }));
    assert_eq!(client.try_answer(), Err(RecvTimeoutError::Disconnected));
    assert_eq!(server.end(), (0, String::new()));
}

#[test]
fn the_end_of_input_ends_the_program() {
    let (mut server, mut client) = start();
    client.must("object-add", ram("a", 65536));
    drop(client);
    assert_eq!(server.end(), (0, String::new()));
}

// ---- Objects ----

#[test]
fn objects_come_and_go() {
    let (_server, mut client) = start();
    assert_eq!(client.must("query-memdev", json!({})), json!([]));
    assert_eq!(client.must("object-add", ram("a", 65536)), json!({}));
    let message = client.fails("GenericError", "object-add", ram("a", 4096));
    assert!(message.contains("'a'"), "{message}");
    assert_eq!(
        client.must("query-memdev", json!({})),
        json!([{
            "id": "a", "size": 65536, "merge": true, "dump": true, "prealloc": false,
            "share": false, "reserve": true, "host-nodes": [], "policy": "default",
        }])
    );
    assert_eq!(
        client.must("qom-list", json!({ "path": "/objects" })),
        json!([
            { "name": "type", "type": "string" },
            { "name": "a", "type": "child<memory-backend-ram>" },
        ])
    );
    assert_eq!(client.must("object-del", id("a")), json!({}));
    let message = client.fails("GenericError", "object-del", id("a"));
    assert!(message.contains("'a'"), "{message}");
    assert_eq!(client.must("query-memdev", json!({})), json!([]));
    client.must("object-add", ram("a", 65536));
}

#[test]
fn what_failed_leaves_nothing() {
    let (server, mut client) = start();
    let failing = [
        json!({ "size": 0 }),
        json!({ "size": 1 }),
        json!({ "size": u64::MAX }),
        json!({ "size": "64K" }),
        json!({ "no-such": 1 }),
        json!({ "policy": "bind" }),
        json!({ "host-nodes": "0" }),
        json!({ "prealloc": true, "reserve": false }),
        json!({ "prealloc": true, "size": 1u64 << 46 }),
        json!({ "share": null }),
        json!({ "id": 1 }),
        json!({ "id": "a b" }),
        json!({ "qom-type": "memory-backend" }),
        json!({ "qom-type": ["memory-backend-ram"] }),
    ];
    let mut round = || {
        for members in &failing {
            let object = with(ram("a", 65536), members.clone());
            client.fails("GenericError", "object-add", object);
        }
        client.fails("GenericError", "object-add", json!({}));
        assert_eq!(client.must("query-memdev", json!({})), json!([]));
        (server.mapped(), server.descriptors())
    };
    // What the program keeps for itself it has after the first.
    let kept = round();
    let (mapped, descriptors) = round();
    // musl's heap grows by single pages; a backend takes more.
    let grown = if cfg!(target_env = "musl") { 32 } else { 0 };
    assert!(mapped <= kept.0 + grown, "{mapped} {kept:?}");
    assert_eq!(descriptors, kept.1);
    client.must("object-add", ram("a", 65536));
}

/// The VmFlags of the one mapping of a server that has a name.
fn vm_flags(server: &Server, name: &str) -> Vec<String> {
    let path = format!("/proc/{}/smaps", server.process.id());
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines().skip_while(|line| !line.contains(name));
    let flags = lines.find_map(|line| line.strip_prefix("VmFlags: "));
    flags
        .unwrap()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

#[test]
fn what_is_set_acts_and_is_read() {
    let (server, mut client) = start();
    client.must(
        "object-add",
        with(ram("a", 65536), json!({ "share": true })),
    );
    let property = |name: &str| json!({ "path": "/objects/a", "property": name });
    let dumped = || !vm_flags(&server, "/memfd:a").contains(&"dd".to_owned());
    assert!(dumped());
    for dump in [false, true] {
        let arguments = with(property("dump"), json!({ "value": dump }));
        assert_eq!(client.must("qom-set", arguments), json!({}));
        assert_eq!(client.must("qom-get", property("dump")), json!(dump));
        assert_eq!(dumped(), dump);
    }
    for (name, value) in [
        ("size", json!(65536)),
        ("host-nodes", json!([])),
        ("policy", json!("default")),
        ("prealloc-context", json!("")),
        ("type", json!("memory-backend-ram")),
    ] {
        assert_eq!(client.must("qom-get", property(name)), value, "{name}");
    }
    for (name, value) in [
        ("size", json!(4096)),
        ("share", json!(false)),
        ("dump", json!("off")),
        ("dump", json!(null)),
        ("prealloc-threads", json!(0)),
        ("no-such", json!(1)),
        ("type", json!("container")),
    ] {
        let arguments = with(property(name), json!({ "value": value }));
        client.fails("GenericError", "qom-set", arguments);
    }
    client.fails("GenericError", "qom-get", property("no-such"));
    client.fails(
        "DeviceNotFound",
        "qom-get",
        json!({ "path": "/objects/b", "property": "size" }),
    );
}

#[test]
fn a_path_may_be_a_part() {
    let (_server, mut client) = start();
    client.must("object-add", ram("a", 65536));
    let list = |path: &str| json!({ "path": path });
    let of_object = client.must("qom-list", list("/objects/a"));
    for path in ["a", "objects/a", "//objects//a/", "a/"] {
        assert_eq!(client.must("qom-list", list(path)), of_object, "{path}");
    }
    assert_eq!(
        names(&client.must("qom-list", list("/"))),
        ["type", "objects"]
    );
    for path in [
        "/a",
        "b",
        "/objects/b",
        "/objects/a/size",
        "x/a",
        "/objects/a/..",
    ] {
        client.fails("DeviceNotFound", "qom-list", list(path));
    }
    client.fails("GenericError", "qom-list", list(""));
    client.must("object-add", ram("objects", 65536));
    client.fails("GenericError", "qom-list", list("objects"));
    client.must("qom-list", list("objects/objects"));
}

#[test]
fn properties_are_those_of_the_table() {
    let (_server, mut client) = start();
    let kinds = client.must("qom-list-types", json!({ "implements": "memory-backend" }));
    let objects = common::objects();
    let mut ours: Vec<_> = objects.kinds().into_iter().map(|kind| kind.name).collect();
    assert_eq!(names(&kinds), ours);
    ours.push(THREAD_CONTEXT.into());
    for kind in ours {
        let expected: Vec<_> = properties().filter(|row| row.is_of(&kind)).collect();
        let list = client.must("qom-list-properties", json!({ "typename": kind }));
        let list = list.as_array().unwrap();
        assert_eq!(list[0], json!({ "name": "type", "type": "string" }));
        assert_eq!(list.len(), 1 + expected.len(), "{kind}");
        for (entry, row) in list[1..].iter().zip(&expected) {
            assert_eq!(entry["name"], row.name());
            assert_eq!(entry["description"], row.description());
            assert!(entry["type"].is_string(), "{entry}");
        }
    }
}

#[test]
fn the_abstract_parent_is_listed_as_such() {
    let (_server, mut client) = start();
    let filter = json!({ "implements": "memory-backend", "abstract": true });
    let types = client.must("qom-list-types", filter);
    let parent = json!({ "name": "memory-backend", "parent": "object", "abstract": true });
    assert!(types.as_array().unwrap().contains(&parent), "{types}");
    let kind = json!({ "name": "memory-backend-ram", "parent": "memory-backend" });
    assert!(types.as_array().unwrap().contains(&kind), "{types}");
    let filter = json!({ "implements": "no-such" });
    assert_eq!(client.must("qom-list-types", filter), json!([]));
    client.fails(
        "DeviceNotFound",
        "qom-list-properties",
        json!({ "typename": "no-such" }),
    );
}

#[test]
fn a_thread_context_has_no_memory() {
    let (server, mut client) = start();
    let threads = server.status("Threads");
    client.must(
        "object-add",
        json!({ "qom-type": "thread-context", "id": "tc0" }),
    );
    assert_eq!(server.status("Threads"), threads + 1);
    let property = json!({ "path": "/objects/tc0", "property": "thread-id" });
    let thread = client.must("qom-get", property);
    let task = format!("/proc/{}/task/{thread}", server.process.id());
    assert!(Path::new(&task).exists());
    for (command, arguments) in [
        ("x-placement", id("tc0")),
        ("x-claim", json!({ "id": "tc0", "owner": "vm0" })),
        ("x-prealloc-status", id("tc0")),
        (
            "x-discard",
            json!({ "id": "tc0", "offset": 0, "length": 0 }),
        ),
    ] {
        let message = client.fails("GenericError", command, arguments);
        assert!(message.contains("thread-context"), "{message}");
    }
    let linked = json!({ "prealloc": true, "prealloc-context": "/objects/tc0" });
    client.must("object-add", with(ram("a", 65536), linked));
    let message = client.fails("GenericError", "object-del", id("tc0"));
    assert!(message.contains("'a'"), "{message}");
    client.must("object-del", id("a"));
    client.must("object-del", id("tc0"));
    wait_until("its thread ends", || server.status("Threads") == threads);
}

// ---- Claims and ranges ----

#[test]
fn a_claimed_backend_is_not_deleted() {
    let (_server, mut client) = start();
    client.must("object-add", ram("a", 65536));
    client.fails("GenericError", "x-release", id("a"));
    client.must("x-claim", json!({ "id": "a", "owner": "vm0" }));
    let again = client.fails(
        "GenericError",
        "x-claim",
        json!({ "id": "a", "owner": "vm1" }),
    );
    let delete = client.fails("GenericError", "object-del", id("a"));
    for message in [again, delete] {
        assert!(message.contains("vm0"), "{message}");
    }
    client.must("x-release", id("a"));
    client.must("object-del", id("a"));
    client.fails(
        "DeviceNotFound",
        "x-claim",
        json!({ "id": "a", "owner": "vm0" }),
    );
}

#[test]
fn ranges_are_filled_and_given_back() {
    let (_server, mut client) = start();
    client.must(
        "object-add",
        with(ram("a", 1 << 20), json!({ "thp": "never" })),
    );
    let range = |offset: u64, length: u64| json!({ "id": "a", "offset": offset, "length": length });
    let page = page_size();
    for claimed in [false, true] {
        if claimed {
            client.must("x-claim", json!({ "id": "a", "owner": "vm0" }));
        }
        for (command, arguments, resident) in [
            ("x-populate", range(0, 1 << 20), 1 << 20),
            ("x-discard", range(page, 2 * page), (1 << 20) - 2 * page),
            ("x-populate", range(page, page), (1 << 20) - page),
            ("x-scrub", range(0, 1 << 20), (1 << 20) - page),
            ("x-discard", range(0, 1 << 20), 0),
            ("x-discard", range(0, 0), 0),
        ] {
            assert_eq!(client.must(command, arguments.clone()), json!({}));
            let placement = client.must("x-placement", id("a"));
            assert_eq!(placement["resident"], resident, "{command} {arguments}");
            assert_eq!(placement["id"], "a");
        }
        for arguments in [
            range(1, page),
            range(0, 1),
            range(1 << 20, page),
            range(u64::MAX - page + 1, page),
            json!({ "id": "a", "offset": -1, "length": page }),
            json!({ "id": "a", "offset": 0.0, "length": page }),
            json!({ "id": "a", "offset": 0 }),
        ] {
            client.fails("GenericError", "x-discard", arguments.clone());
            client.fails("GenericError", "x-populate", arguments.clone());
            client.fails("GenericError", "x-scrub", arguments);
        }
    }
}

#[test]
fn memory_is_saved_and_restored() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    // A pattern, and a page of nothing in the middle.
    let page = page_size() as usize;
    let mut bytes: Vec<u8> = (0..3 * page).map(|at| (at % 251) as u8).collect();
    bytes[page..2 * page].fill(0);
    fs::write(&image, &bytes).unwrap();
    let (_server, mut client) = start();
    let contents = json!({ "prealloc": true, "contents": image });
    client.must("object-add", with(ram("a", 65536), contents));

    let saved = directory.path().join("saved");
    let arguments = json!({ "id": "a", "path": saved });
    for claimed in [false, true] {
        if claimed {
            client.must("x-claim", json!({ "id": "a", "owner": "vm0" }));
        }
        let answer = client.must("x-save", arguments.clone());
        assert_eq!(answer["written"], 2 * page, "{answer}");
        assert_eq!(answer["holes"], 65536 - 2 * page, "{answer}");
        bytes.resize(65536, 0);
        assert_eq!(fs::read(&saved).unwrap(), bytes);
        // What is there is not overwritten.
        let message = client.fails("GenericError", "x-save", arguments.clone());
        assert!(message.contains("exists"), "{message}");
        assert_eq!(fs::read(&saved).unwrap(), bytes);
        fs::remove_file(&saved).unwrap();
    }
    let none = json!({ "id": "a", "path": directory.path().join("no/such") });
    client.fails("GenericError", "x-save", none);

    // Of what fails nothing stays.
    let cancels = json!({ "prealloc": true, "prealloc-mode": "background", "thp": "never" });
    client.must("object-add", with(ram("b", 1 << 30), cancels));
    let arguments = json!({ "id": "b", "path": saved });
    let message = client.fails("GenericError", "x-save", arguments);
    assert!(message.contains("is running"), "{message}");
    assert!(!saved.exists());
}

/// An image of random-looking bytes of a size, and the members of an object that begins with it.
fn image_of(directory: &Path, size: u64, mode: &str) -> Json {
    let path = directory.join("image");
    fs::write(&path, common::image::pattern(size, size)).unwrap();
    let fills = mode != "off";
    let mode = if fills { mode } else { "wait" };
    json!({ "prealloc": fills, "prealloc-mode": mode, "contents": path, "thp": "never" })
}

/// Whether contents can be read on demand; said where they cannot.
fn reads_on_demand(client: &mut Client<ChildStdin>, object: Json) -> bool {
    match client.execute("object-add", object) {
        Ok(_) => true,
        Err(error) => {
            let message = error["desc"].as_str().unwrap();
            assert!(message.contains("needs a userfaultfd"), "{message}");
            skip(message);
            false
        }
    }
}

#[test]
fn restoring_and_saving_tell_how_far_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let size: u64 = 64 << 20;
    for mode in ["wait", "background"] {
        let (_server, mut client) = start();
        let object = with(ram("a", size), image_of(directory.path(), size, mode));
        if !reads_on_demand(&mut client, object) {
            continue;
        }
        let ended = |client: &mut Client<_>| {
            let last = wait_for_end(client, "a");
            let data = json!({ "id": "a", "status": "completed", "done": size, "total": size });
            assert_eq!(last["data"], data, "{mode}");
            for event in client.events.drain(..) {
                assert!(is_about(&event, "a"), "{event}");
                assert_eq!(event["data"]["total"], size, "{event}");
            }
        };
        ended(&mut client);
        let status = client.must("x-prealloc-status", id("a"));
        assert_eq!(status.get("unread"), None, "{status}");
        let saved = directory.path().join(mode);
        let answer = client.must("x-save", json!({ "id": "a", "path": saved }));
        assert_eq!(answer["written"], size);
        ended(&mut client);
        let image = fs::read(directory.path().join("image")).unwrap();
        assert!(fs::read(&saved).unwrap() == image, "{mode}");
    }
}

/// Memory all of which has data, of 64 MiB.
fn restored(client: &mut Client<ChildStdin>, images: &Path) {
    let object = with(ram("a", 64 << 20), image_of(images, 64 << 20, "wait"));
    client.must("object-add", object);
}

/// On a file system that makes no file without a name the image has its name from the begin.
#[test]
fn an_image_with_a_name_goes_where_saving_fails() {
    let nameless = libc::O_TMPFILE as u64;
    let directory = tempfile::tempdir().unwrap();
    let saved = directory.path().join("saved");
    for fails in [true, false] {
        let mut refusals = common::opening(libc::EOPNOTSUPP, nameless, nameless);
        if fails {
            refusals.push(Refusal::new(libc::SYS_pwrite64, libc::ENXIO));
        }
        // A program has the filters of the thread that executes it.
        let (_server, client) = common::refusing(&refusals, Server::hostmem_on_streams);
        let mut client = client.negotiate();
        let image = directory.path().join("image");
        fs::write(&image, [7; 65536]).unwrap();
        let contents = json!({ "prealloc": true, "contents": image });
        client.must("object-add", with(ram("a", 65536), contents));
        let arguments = json!({ "id": "a", "path": saved });
        if fails {
            let message = client.fails("GenericError", "x-save", arguments);
            assert!(message.contains("No such device or address"), "{message}");
            assert!(!saved.exists());
        } else {
            client.must("x-save", arguments);
            assert_eq!(fs::read(&saved).unwrap(), [7; 65536]);
            assert_eq!(saved.metadata().unwrap().mode() & 0o777, 0o600);
        }
    }
}

#[test]
fn a_save_that_does_not_fit_leaves_no_file() {
    where_little_fits(|client, file| {
        let images = tempfile::tempdir().unwrap();
        restored(client, images.path());
        wait_for_end(client, "a");
        let directory = Path::new(file["mem-path"].as_str().unwrap());
        let saved = json!({ "id": "a", "path": directory.join("saved") });
        let message = client.fails("GenericError", "x-save", saved);
        let missing = format!("{} bytes are missing", 48 << 20);
        assert!(message.contains(&missing), "{message}");
        assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
    });
}

#[test]
fn a_signal_while_saving_leaves_a_whole_file_or_none() {
    let images = tempfile::tempdir().unwrap();
    let saved = images.path().join("saved");
    let request = json!({ "execute": "x-save", "arguments": { "id": "a", "path": saved } });
    for pause in [0, 5, 20, 60] {
        let (mut server, mut client) = start();
        restored(&mut client, images.path());
        client.send(format!("{request}\n"));
        thread::sleep(Duration::from_millis(pause));
        server.signal(libc::SIGTERM);
        assert_eq!(server.end(), (0, String::new()));
        if saved.exists() {
            let image = fs::read(images.path().join("image")).unwrap();
            assert!(fs::read(&saved).unwrap() == image);
            fs::remove_file(&saved).unwrap();
        }
        assert_eq!(fs::read_dir(images.path()).unwrap().count(), 1);
    }
}

#[test]
fn unread_contents_are_told_and_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let size: u64 = 1 << 20;
    let (_server, mut client) = start();
    let object = with(ram("a", size), image_of(directory.path(), size, "off"));
    if !reads_on_demand(&mut client, object) {
        return;
    }
    let status = client.must("x-prealloc-status", id("a"));
    let expected = json!({ "status": "none", "done": 0, "total": 0, "unread": size });
    assert_eq!(status, expected);
    let placement = client.must("x-placement", id("a"));
    let parts = ["resident", "absent", "unread"].map(|part| placement[part].clone());
    assert_eq!(parts, [json!(0), json!(0), json!(size)]);

    // What cannot be read stays unread, and can be read when the image is whole again.
    let image = directory.path().join("image");
    let bytes = fs::read(&image).unwrap();
    let file = fs::File::options().write(true).open(&image).unwrap();
    file.set_len(size / 2).unwrap();
    let all = json!({ "id": "a", "offset": 0, "length": size });
    let message = client.fails("GenericError", "x-populate", all.clone());
    assert!(message.contains("became shorter"), "{message}");
    let status = client.must("x-prealloc-status", id("a"));
    assert_eq!(status["unread"], size / 2, "{status}");
    client.must("x-retry-contents", id("a"));
    fs::write(&image, &bytes).unwrap();
    client.must("x-populate", all);
    let status = client.must("x-prealloc-status", id("a"));
    assert_eq!(status.get("unread"), None, "{status}");
    assert_eq!(client.must("x-placement", id("a"))["resident"], size);
    let saved = directory.path().join("saved");
    client.must("x-save", json!({ "id": "a", "path": saved }));
    assert!(fs::read(&saved).unwrap() == bytes);
    client.fails("DeviceNotFound", "x-retry-contents", id("b"));
}

#[test]
fn policy_and_nodes_change_in_one_step() {
    let (_server, mut client) = start();
    let fill = json!({ "prealloc": true });
    client.must("object-add", with(ram("a", 65536), fill));
    let rebind = |members: Json| with(id("a"), members);
    for members in [
        json!({ "policy": "bind" }),
        json!({ "policy": "no-such", "host-nodes": [0] }),
        json!({ "policy": "bind", "host-nodes": [1024] }),
        json!({ "policy": "bind", "host-nodes": ["0"] }),
        json!({ "policy": "bind", "host-nodes": [0], "home-node": null }),
        json!({ "host-nodes": [0] }),
    ] {
        client.fails("GenericError", "x-rebind", rebind(members));
    }
    let property = |name: &str| json!({ "path": "/objects/a", "property": name });
    assert_eq!(client.must("qom-get", property("policy")), "default");
    assert_eq!(client.must("qom-get", property("host-nodes")), json!([]));
    let Some(node) = bindable_node() else {
        return;
    };
    let wish = rebind(json!({ "policy": "bind", "host-nodes": [node] }));
    let rebound = client.must("x-rebind", wish);
    assert_eq!(rebound["not-moved"], 0, "{rebound}");
    assert_eq!(client.must("qom-get", property("policy")), "bind");
    assert_eq!(
        client.must("qom-get", property("host-nodes")),
        json!([node])
    );
    let placement = client.must("x-placement", id("a"));
    assert_eq!(placement["kernel-policy"], format!("bind:{node}"));
    assert_eq!(placement["satisfied"], "yes", "{placement}");
    client.must("x-rebind", rebind(json!({ "policy": "default" })));
    assert_eq!(
        client.must("x-placement", id("a"))["satisfied"],
        "not applicable"
    );
}

// ---- Preallocation ----

/// An object that fills on one thread, in small pages.
fn filling(id: &str, size: u64, mode: &str) -> Json {
    let members = json!({
        "prealloc": true, "prealloc-mode": mode, "prealloc-threads": 1, "thp": "never",
    });
    with(ram(id, size), members)
}

fn is_about(event: &Json, id: &str) -> bool {
    event["event"] == "X_PREALLOC_PROGRESS" && event["data"]["id"] == id
}

/// The event that a fill in the background has ended.
#[track_caller]
fn wait_for_end(client: &mut Client<ChildStdin>, id: &str) -> Json {
    client.wait_event(|event| is_about(event, id) && event["data"]["status"] != "active")
}

#[test]
fn a_fill_in_the_background_is_told_of() {
    let (_server, mut client) = start();
    let size: u64 = 512 << 20;
    client.must("object-add", filling("a", size, "background"));
    let status = client.must("x-prealloc-status", id("a"));
    assert_eq!(status["total"], size, "{status}");
    let last = wait_for_end(&mut client, "a");
    let data = json!({ "id": "a", "status": "completed", "done": size, "total": size });
    assert_eq!(last["data"], data);
    for event in client.events.iter().filter(|event| is_about(event, "a")) {
        assert_eq!(event["data"]["status"], "active", "{event}");
        assert_eq!(event["data"]["total"], size, "{event}");
    }
    let seconds = last["timestamp"]["seconds"].as_u64().unwrap();
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs();
    assert!((now - 60..=now).contains(&seconds), "{last}");
    assert!(last["timestamp"]["microseconds"].as_u64().unwrap() < 1_000_000);

    let expected = json!({ "status": "completed", "done": size, "total": size });
    assert_eq!(client.must("x-prealloc-status", id("a")), expected);
    assert_eq!(client.must("x-placement", id("a"))["resident"], size);
    let property = json!({ "path": "/objects/a", "property": "prealloc" });
    assert_eq!(client.must("qom-get", property), json!(true));
}

#[test]
fn a_fill_in_the_background_is_cancelled() {
    let (_server, mut client) = start();
    let size: u64 = 4 << 30;
    client.must("object-add", filling("a", size, "background"));
    let status = client.must("x-prealloc-cancel", id("a"));
    assert_eq!(status["status"], "cancelled", "{status}");
    assert!(status["done"].as_u64().unwrap() < size, "{status}");
    let last = wait_for_end(&mut client, "a");
    assert_eq!(last["data"]["status"], "cancelled", "{last}");
    assert_eq!(client.must("x-prealloc-status", id("a")), status);
    assert_eq!(client.must("x-prealloc-cancel", id("a")), status);
    let property = json!({ "path": "/objects/a", "property": "prealloc" });
    assert_eq!(client.must("qom-get", property), json!(false));

    client.must("object-add", ram("b", 65536));
    let none = json!({ "status": "none", "done": 0, "total": 0 });
    assert_eq!(client.must("x-prealloc-status", id("b")), none);
    assert_eq!(client.must("x-prealloc-cancel", id("b")), none);
    client.fails("DeviceNotFound", "x-prealloc-status", id("c"));
    client.fails("DeviceNotFound", "x-prealloc-cancel", id("c"));
}

/// Whatever fills memory, the last event of it says what the status does.
#[test]
fn the_last_event_is_the_status() {
    let (_server, mut client) = start();
    let ends = |client: &mut Client<_>, command: &str, arguments: Json, expected: &str| {
        client.must(command, arguments);
        let mut last = wait_for_end(client, "a")["data"].take();
        assert_eq!(last["status"], expected, "{command}: {last}");
        last.as_object_mut().unwrap().remove("id");
        let status = client.must("x-prealloc-status", id("a"));
        assert_eq!(status, last, "{command}");
    };
    let range = json!({ "id": "a", "offset": 0, "length": 1 << 20 });
    let switch = json!({ "path": "/objects/a", "property": "prealloc", "value": true });
    ends(
        &mut client,
        "object-add",
        filling("a", 4 << 20, "wait"),
        "completed",
    );
    ends(&mut client, "x-populate", range.clone(), "completed");
    client.must("object-del", id("a"));
    client.must("object-add", ram("a", 8 << 20));
    ends(&mut client, "qom-set", switch, "completed");
    client.must("object-del", id("a"));

    // Cancelled before it told of itself, or later.
    for pause in [0, 150] {
        client.must("object-add", filling("a", 4 << 30, "background"));
        thread::sleep(Duration::from_millis(pause));
        ends(&mut client, "x-prealloc-cancel", id("a"), "cancelled");
        client.must("object-del", id("a"));
    }
}

/// Calls the function with what makes a file where only 16 MiB fit, on a thread of its own, which
/// alone sees the file system.
fn where_little_fits(fail: fn(&mut Client<ChildStdin>, Json)) {
    let run = || {
        let directory = tempfile::tempdir().unwrap();
        if !mount("tmpfs", directory.path(), "size=16M,huge=never") {
            return;
        }
        let (_server, mut client) = start();
        let file = json!({
            "qom-type": "memory-backend-file", "mem-path": directory.path(), "share": true,
        });
        fail(&mut client, file);
    };
    thread::scope(|scope| scope.spawn(run).join().unwrap());
}

#[test]
fn a_fill_that_a_command_waits_for_fails() {
    where_little_fits(fail_while_waiting);
}

fn fail_while_waiting(client: &mut Client<ChildStdin>, file: Json) {
    client.must("object-add", with(ram("a", 64 << 20), file));
    let all = json!({ "id": "a", "offset": 0, "length": 64 << 20 });
    client.fails("GenericError", "x-populate", all);
    let last = wait_for_end(client, "a");
    assert_eq!(last["data"]["status"], "failed", "{last}");
    let status = client.must("x-prealloc-status", id("a"));
    assert_eq!(status["status"], "failed", "{status}");
    assert_eq!(status["done"], last["data"]["done"], "{last}");
}

#[test]
fn what_is_discarded_is_not_filled() {
    let (_server, mut client) = start();
    let size: u64 = 512 << 20;
    client.must("object-add", filling("a", size, "background"));
    let last = json!({ "id": "a", "offset": size - (2 << 20), "length": 2 << 20 });
    client.must("x-discard", last);
    let end = wait_for_end(&mut client, "a");
    assert_eq!(end["data"]["status"], "completed", "{end}");
    let placement = client.must("x-placement", id("a"));
    assert_eq!(placement["resident"], size - (2 << 20), "{placement}");
}

#[test]
fn a_fill_in_the_background_fails() {
    where_little_fits(fail_in_the_background);
}

fn fail_in_the_background(client: &mut Client<ChildStdin>, file: Json) {
    client.must(
        "object-add",
        with(filling("a", 64 << 20, "background"), file.clone()),
    );
    let last = wait_for_end(client, "a");
    assert_eq!(last["data"]["status"], "failed", "{last}");
    let message = last["data"]["error"].as_str().unwrap();
    assert!(message.starts_with("a: "), "{message}");
    let status = client.must("x-prealloc-status", id("a"));
    assert_eq!(status["error"], message);
    assert!(status["done"].as_u64().unwrap() <= 16 << 20, "{status}");
    client.must("object-del", id("a"));

    let directory = file["mem-path"].as_str().unwrap();
    let new = Path::new(directory).join("new");
    let file = with(file.clone(), json!({ "mem-path": new }));
    let object = with(filling("a", 64 << 20, "background"), file);
    client.must("object-add", object);
    let last = wait_for_end(client, "a");
    assert_eq!(last["data"]["status"], "failed", "{last}");
    assert!(new.exists());
    client.must("object-del", id("a"));
    assert!(!new.exists());
}

/// A large file in memory, filled on one thread.
fn filling_file(id: &str, path: &Path, mode: &str) -> Json {
    let file = json!({ "qom-type": "memory-backend-file", "mem-path": path, "share": true });
    with(filling(id, 4 << 30, mode), file)
}

fn has_blocks(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.blocks() > 0)
}

/// Sends a request and does not wait for its answer.
fn send(client: &mut Client<ChildStdin>, command: &str, arguments: &Json) {
    let request = json!({ "execute": command, "arguments": arguments });
    client.send(format!("{request}\n"));
}

/// The error of a command that was cancelled, which takes no longer than a chunk.
#[track_caller]
fn check_cancelled(begun: Instant, answer: Json) {
    let error = result(answer).unwrap_err();
    let message = error["desc"].as_str().unwrap();
    assert!(message.contains("cancelled"), "{message}");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_command_that_fills_is_cancelled_by_the_next_ones() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let new = directory.path().join("new");
    let (mut server, mut client) = start();
    for pipelined in [false, true] {
        send(&mut client, "object-add", &filling_file("a", &new, "wait"));
        if !pipelined {
            wait_until("it fills", || has_blocks(&new));
        }
        let begun = Instant::now();
        send(&mut client, "x-prealloc-cancel", &id("a"));
        check_cancelled(begun, client.answer());
        let none = json!({ "status": "cancelled", "done": 0, "total": 0 });
        assert_eq!(result(client.answer()).unwrap(), none);
        assert!(!new.exists());
        client.fails("DeviceNotFound", "x-prealloc-cancel", id("a"));
    }
    // One of another object does not.
    send(&mut client, "object-add", &filling("a", 64 << 20, "wait"));
    send(&mut client, "x-prealloc-cancel", &id("b"));
    result(client.answer()).unwrap();
    result(client.answer()).unwrap_err();
    client.must("object-del", id("a"));

    send(&mut client, "object-add", &filling_file("a", &new, "wait"));
    wait_until("it fills", || has_blocks(&new));
    let begun = Instant::now();
    send(&mut client, "object-add", &filling("b", 4 << 30, "wait"));
    send(&mut client, "quit", &json!({}));
    check_cancelled(begun, client.answer());
    check_cancelled(begun, client.answer());
    assert_eq!(result(client.answer()), Ok(json!({})));
    assert_eq!(server.end(), (0, String::new()));
    assert!(!new.exists());
}

#[test]
fn filling_memory_that_is_there_is_cancelled_too() {
    let (_server, mut client) = start();
    let size: u64 = 4 << 30;
    for (command, arguments) in [
        (
            "x-populate",
            json!({ "id": "a", "offset": 0, "length": size }),
        ),
        (
            "qom-set",
            json!({ "path": "a", "property": "prealloc", "value": true }),
        ),
    ] {
        let object = with(filling("a", size, "wait"), json!({ "prealloc": false }));
        client.must("object-add", object);
        send(&mut client, command, &arguments);
        thread::sleep(Duration::from_millis(50));
        let begun = Instant::now();
        send(&mut client, "x-prealloc-cancel", &id("a"));
        check_cancelled(begun, client.answer());
        let status = result(client.answer()).unwrap();
        assert_eq!(status["status"], "cancelled", "{command}: {status}");
        assert!(status["done"].as_u64().unwrap() < size, "{status}");
        // The next one is not affected.
        client.must(
            "x-populate",
            json!({ "id": "a", "offset": 0, "length": 1 << 20 }),
        );
        client.must("object-del", id("a"));
    }
}

#[test]
fn a_scrub_is_told_of_and_cancelled() {
    let (_server, mut client) = start();
    let size: u64 = 512 << 20;
    client.must(
        "object-add",
        with(filling("a", size, "wait"), json!({ "thp": "never" })),
    );
    let whole = json!({ "id": "a", "offset": 0, "length": size });
    client.events.clear();
    client.must("x-scrub", whole.clone());
    let last = wait_for_end(&mut client, "a");
    let data = json!({ "id": "a", "status": "completed", "done": size, "total": size });
    assert_eq!(last["data"], data);
    // The cancel is read while the scrub begins or runs, if it does not end before.
    for attempt in 0.. {
        assert!(attempt < 100, "no scrub was met by a cancel");
        client.events.clear();
        let begun = Instant::now();
        send(&mut client, "x-scrub", &whole);
        send(&mut client, "x-prealloc-cancel", &id("a"));
        let scrubbed = client.answer();
        let status = result(client.answer()).unwrap();
        if scrubbed.get("error").is_some() {
            check_cancelled(begun, scrubbed);
            assert_eq!(status["status"], "cancelled", "{status}");
            break;
        }
    }
    // The next one is not affected.
    client.must("x-scrub", whole);
    assert_eq!(client.must("x-placement", id("a"))["resident"], size);
}

#[test]
fn a_signal_cancels_a_command_that_fills() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let new = directory.path().join("new");
    for mode in ["wait", "background"] {
        let (mut server, mut client) = start();
        send(&mut client, "object-add", &filling_file("a", &new, mode));
        wait_until("it fills", || has_blocks(&new));
        let begun = Instant::now();
        server.signal(libc::SIGTERM);
        assert_eq!(server.end(), (0, String::new()));
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(2), "{mode}: {took:?}");
        assert!(!new.exists(), "{mode}");
    }
}

/// Memory that never was there as asked is undone, whatever ends it; what was is deleted only.
#[test]
fn a_background_that_did_not_end_well_is_undone() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let new = directory.path().join("new");
    for (end, stays) in [
        ("quit", false),
        ("end of input", false),
        ("object-del", false),
        ("cancelled", true),
        ("claimed", true),
    ] {
        let (mut server, mut client) = start();
        client.must("object-add", filling_file("a", &new, "background"));
        match end {
            "object-del" => drop(client.must("object-del", id("a"))),
            "cancelled" => drop(client.must("x-prealloc-cancel", id("a"))),
            "claimed" => drop(client.must("x-claim", json!({ "id": "a", "owner": "vm0" }))),
            _ => {}
        }
        match end {
            "end of input" => drop(client),
            _ => drop(client.must("quit", json!({}))),
        }
        assert_eq!(server.end(), (0, String::new()));
        assert_eq!(new.exists(), stays, "{end}");
        let _ = fs::remove_file(&new);
    }
}

#[test]
fn a_long_command_does_not_stop_events() {
    let (_server, mut client) = start();
    client.must("object-add", filling("behind", 2 << 30, "background"));
    loop {
        client.events.clear();
        client.must("object-add", filling("front", 256 << 20, "wait"));
        // Those that came before the answer.
        let events = mem::take(&mut client.events);
        assert!(events.iter().any(|event| is_about(event, "front")));
        client.must("object-del", id("front"));
        if events.iter().any(|event| is_about(event, "behind")) {
            break;
        }
        // On a fast machine one is not long enough.
        let status = client.must("x-prealloc-status", id("behind"));
        assert_eq!(status["status"], "active", "{status}");
    }
    client.must("object-del", id("behind"));
}

// ---- Hostile input ----

/// What is wrong, and how many errors it is answered with.
fn hostile() -> Vec<(&'static str, Vec<u8>, usize)> {
    let nested =
        |open: &str, close: &str, depth| (open.repeat(depth) + &close.repeat(depth)).into();
    // Each 129th open bracket is an error, and `behind` more are in what follows it. Those that are
    // open in the end make one message, and each closing bracket that is left is one.
    let errors = |depth: usize, behind: usize| depth / 129 * (1 + behind) + 1 + depth - depth % 129;
    vec![
        ("no object", b"[] 1 \"a\" null true 1.5".to_vec(), 6),
        ("no JSON", b"{]{,}{\"a\"}{\"a\":}nul".to_vec(), 5),
        ("closing what is not open", b"}}]".to_vec(), 3),
        ("an object without a command", b"{}{\"id\": 1}".to_vec(), 2),
        ("a command of another type", b"{\"execute\": {}}{\"execute\": null}".to_vec(), 2),
        ("arguments of another type", br#"{"execute": "quit", "arguments": []}"#.to_vec(), 1),
        ("a member too many", br#"{"execute": "quit", "exec": "quit"}"#.to_vec(), 1),
        ("a key given twice", br#"{"execute": "quit", "execute": "quit"}"#.to_vec(), 1),
        (
            "a key given twice inside",
            br#"{"execute": "object-del", "arguments": {"id": "a", "id": "a"}}"#.to_vec(),
            1,
        ),
        ("invalid UTF-8", b"{\"execute\": \"qui\xff\"}".to_vec(), 1),
        ("invalid UTF-8 alone", b"\xff\xfe\x00".to_vec(), 1),
        ("half a surrogate", br#"{"execute": "\ud800"}"#.to_vec(), 1),
        ("a raw control character", b"{\"execute\": \"qu\tit\"}".to_vec(), 1),
        ("a quote that stays open", b"{\"execute\": \"quit".to_vec(), 1),
        ("a number beyond all", br#"{"execute": "quit", "id": 1e999}"#.to_vec(), 1),
        ("deep arrays", nested("[", "]", 10_000), errors(10_000, 0)),
        ("deep objects", nested("{\"a\":", "}", 10_000), errors(10_000, 2)),
        ("a deep id", br#"{"execute": "quit", "id": "#.iter().copied().chain(nested("[", "]", 10_000)).chain(*b"}").collect(), errors(10_001, 0)),
        ("brackets that stay open", vec![b'['; 129 * 1000], 1000),
        ("a line of 100 MB", vec![b'a'; 100 << 20], 1),
        ("a string of 100 MB", [b"{\"execute\": \"".to_vec(), vec![b'q'; 100 << 20], b"\"}".to_vec()].concat(), 1),
        ("many small values", [b"[".to_vec(), b"0,".repeat(500_000), b"0]".to_vec()].concat(), 1),
    ]
}

#[test]
fn hostile_input_is_answered_and_forgotten() {
    let (server, mut client) = start();
    client.must("object-add", ram("a", 65536));
    for (what, bytes, errors) in hostile() {
        client.send(&bytes);
        client.send("\n");
        for _ in 0..errors {
            let answer = client.answer();
            assert_eq!(answer["error"]["class"], "GenericError", "{what}: {answer}");
        }
        // Nothing was taken for more, and nothing of it is left.
        let request = json!({ "execute": "query-version", "id": what });
        client.send(format!("{request}\n"));
        assert_eq!(client.answer()["id"], what);
    }
    server.check_peak(64);
    client.must("object-del", id("a"));
}

#[test]
fn a_long_message_is_within_the_limit() {
    let (_server, mut client) = start();
    let of = |length: usize| {
        let text = r#"{"execute": "query-version", "id": ""}"#;
        text.replace("\"\"", &format!("\"{}\"", "x".repeat(length - text.len())))
    };
    for (length, fits) in [
        ((1 << 20) - 1, true),
        (1 << 20, true),
        ((1 << 20) + 1, false),
    ] {
        client.send(of(length) + "\n");
        assert_eq!(result(client.answer()).is_ok(), fits, "{length}");
    }
}

#[test]
fn a_client_may_leave_at_any_byte() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let server = Server::on_socket(&path);
    let mut client = Client::connect(&path).negotiate();
    client.must("object-add", ram("a", 65536));
    let connected = (server.descriptors(), server.status("Threads"));
    client.hang_up();
    let said = [
        "{\"execute\": \"qmp_capabilities\"}\n",
        "{\"execute\": \"object-add\", \"arguments\": {\"qom-type\": \"memory-backend-ram\", ",
        "\"id\": \"b\", \"size\": 65536}}{\"execute\": \"object-del\", \"arguments\": {\"id\": \"b\"}}\n",
    ]
    .concat();
    for length in 0..=said.len() {
        let mut stream = connect(&path);
        let _ = stream.write_all(&said.as_bytes()[..length]);
    }
    let mut client = Client::connect(&path).negotiate();
    // It may have been left between adding and deleting.
    let _ = client.execute("object-del", id("b"));
    client.must("object-del", id("a"));
    client.hang_up();
    // The connection, and the threads that read from it and write to it.
    let alone = (connected.0 - 1, connected.1 - 2);
    let now = || (server.descriptors(), server.status("Threads"));
    wait_until("threads and descriptors are given back", || now() == alone);
}

/// Bytes that nobody chose.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    const PARTS: [&str; 16] = [
        "{",
        "}",
        "[",
        "]",
        "\"",
        ":",
        ",",
        "\\",
        "\n",
        "\"execute\"",
        "\"arguments\"",
        "\"id\"",
        "\"qom-get\"",
        "1",
        "\u{e9}",
        " ",
    ];
    let mut bytes = Vec::new();
    while bytes.len() < length {
        match next() {
            random if random % 4 == 0 => bytes.push((random >> 8) as u8),
            random => bytes.extend(PARTS[(random >> 8) as usize % PARTS.len()].as_bytes()),
        }
    }
    bytes
}

#[test]
fn noise_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let server = Server::on_socket(&path);
    for seed in 1..=40 {
        let mut stream = connect(&path);
        let mut reader = stream.try_clone().unwrap();
        let reading = thread::spawn(move || reader.read_to_end(&mut Vec::new()));
        let _ = stream.write_all(&noise(seed, 4096));
        let _ = stream.shutdown(std::net::Shutdown::Write);
        reading.join().unwrap().unwrap();
    }
    let mut client = Client::connect(&path).negotiate();
    assert_eq!(client.must("query-memdev", json!({})), json!([]));
    server.check_peak(64);
}

#[test]
fn a_client_that_does_not_read_is_not_served_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let server = Server::on_socket(&path);
    let mut client = Client::connect(&path).negotiate();
    client.must("object-add", filling("a", 256 << 20, "background"));
    client.hang_up();

    let mut stream = connect(&path);
    stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    stream
        .write_all(b"{\"execute\": \"qmp_capabilities\"}\n")
        .unwrap();
    let request = b"{\"execute\": \"qom-list-properties\", \"arguments\": {\"typename\": \"memory-backend-file\"}}\n";
    let mut sent = 0;
    while stream.write_all(request).is_ok() {
        sent += request.len();
        assert!(sent < 64 << 20, "somebody takes it all");
    }
    server.check_peak(256 + 64);
    drop(stream);
    // The fill did not wait for it.
    let mut client = Client::connect(&path).negotiate();
    client.wait_for_status("a", "completed");
    client.must("object-del", id("a"));
}

#[test]
fn single_quotes_are_for_the_command_line() {
    let (_server, mut client) = start();
    client.send("{'execute': 'query-version'}\n");
    let error = result(client.answer()).unwrap_err();
    let message = error["desc"].as_str().unwrap();
    assert!(message.contains("double quotes"), "{message}");
}

// ---- The socket ----

#[test]
fn clients_come_one_after_another() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let mut server = Server::on_socket(&path);
    let mut first = Client::connect(&path).negotiate();
    first.must("object-add", ram("a", 65536));
    first.must("x-claim", json!({ "id": "a", "owner": "vm0" }));

    // It is greeted when the first has gone.
    let waiting = connect(&path);
    waiting
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    assert!((&waiting).read(&mut [0]).is_err());
    first.hang_up();
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut greeting = [0; 7];
    (&waiting).read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"{\"QMP\":");
    drop(waiting);

    let mut third = Client::connect(&path);
    // Each negotiates for itself, and objects and claims live on.
    third.fails("CommandNotFound", "query-memdev", json!({}));
    let mut third = third.negotiate();
    assert_eq!(third.must("query-memdev", json!({}))[0]["id"], "a");
    let message = third.fails("GenericError", "object-del", id("a"));
    assert!(message.contains("vm0"), "{message}");
    third.must("quit", json!({}));
    assert_eq!(server.end(), (0, String::new()));
    assert!(!path.exists());
}

#[test]
fn a_signal_ends_it_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let file = directory.path().join("file");
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        for connected in [false, true] {
            let mut server = Server::on_socket(&path);
            let mut client = Client::connect(&path).negotiate();
            fs::write(&file, [1; 65536]).unwrap();
            // That it is deleted, and not merely gone, shows in what it gives up.
            let object = json!({
                "qom-type": "memory-backend-file", "id": "a", "size": 65536, "mem-path": file,
                "share": true, "discard-data": true,
            });
            client.must("object-add", object);
            let client = connected.then_some(client);
            server.signal(signal);
            assert_eq!(server.end(), (0, String::new()));
            assert!(!path.exists());
            assert_eq!(fs::read(&file).unwrap(), [0; 65536]);
            drop(client);
        }
    }
    let (mut server, client) = start();
    server.signal(libc::SIGTERM);
    assert_eq!(server.end(), (0, String::new()));
    drop(client);
}

#[test]
fn what_a_killed_server_left_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let mut server = Server::on_socket(&path);
    Client::connect(&path).hang_up();
    server.process.kill().unwrap();
    server.end();
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());

    let mut server = Server::on_socket(&path);
    Client::connect(&path).negotiate().must("quit", json!({}));
    assert_eq!(server.end(), (0, String::new()));
    assert!(!path.exists());
}

/// `hostmem qmp` on a socket, after preparing the process.
fn prepared(path: &Path, arguments: &[&str], prepare: impl Fn() + Send + Sync + 'static) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostmem"));
    command.args(["qmp", "--socket"]).arg(path).args(arguments);
    let prepare = move || {
        prepare();
        Ok(())
    };
    // SAFETY: umask(2) and seccomp(2) are called there, and malloc(), which glibc allows after fork.
    unsafe { command.pre_exec(prepare) };
    Server::spawn(command.stdin(Stdio::null())).unwrap()
}

#[test]
fn the_socket_has_its_mode_whatever_the_umask() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let mode_of = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for (umask, arguments, mode) in [
        (0o000, &[][..], 0o600),
        (0o022, &[], 0o600),
        (0o777, &[], 0o600),
        (0o077, &["--socket-mode", "660"], 0o660),
        (0o000, &["--socket-mode=0666"], 0o666),
        (0o022, &["--socket-mode=0"], 0o000),
    ] {
        let mut server = prepared(&path, arguments, move || {
            // SAFETY: takes a number.
            unsafe { libc::umask(umask) };
        });
        wait_until("it is there", || path.exists());
        // That it is not changed by name is the next test's.
        wait_until("it has its mode", || mode_of(&path) == mode);
        server.signal(libc::SIGTERM);
        assert_eq!(server.end(), (0, String::new()));
    }
    for mode in ["", "8", "1777", "-1", "rw", "0o600"] {
        let argument = format!("--socket-mode={mode}");
        let mut server = prepared(&path, &[&argument], || {});
        assert_eq!(server.end().0, 2, "{mode}");
    }
    let mut server = Server::hostmem(&["--socket-mode=600"]);
    assert_eq!(server.end().0, 2);
}

/// There is no moment at which others could connect: no mode is taken away later.
#[test]
fn the_socket_is_never_open_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let _server = prepared(&path, &[], || {
        // SAFETY: takes a number.
        unsafe { libc::umask(0) };
        for call in [
            #[cfg(target_arch = "x86_64")]
            libc::SYS_chmod,
            libc::SYS_fchmodat,
            // fchmodat2, for which libc has no name on every processor.
            452,
        ] {
            Refusal::new(call, libc::EPERM).install();
        }
    });
    Client::connect(&path);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn of_servers_that_start_together_one_listens() {
    const SERVERS: usize = 6;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    for round in 0..20 {
        // What a killed server leaves.
        drop(UnixListener::bind(&path).unwrap());
        let mut servers: Vec<_> = (0..SERVERS).map(|_| Server::on_socket(&path)).collect();
        let mut winner = Client::connect(&path).negotiate();
        let ended = |server: &mut Server| server.process.try_wait().unwrap().is_some();
        let start = Instant::now();
        while servers
            .iter_mut()
            .filter_map(|server| ended(server).then_some(()))
            .count()
            < SERVERS - 1
        {
            assert!(start.elapsed() < PATIENCE, "round {round}: several listen");
            thread::sleep(Duration::from_millis(2));
        }
        let (mut lost, mut won): (Vec<_>, Vec<_>) = servers
            .into_iter()
            .map(|mut server| (ended(&mut server), server))
            .partition(|(ended, _)| *ended);
        let won = &mut won[0].1;
        let who = format!("process {} (hostmem) listens there", won.process.id());
        for (_, server) in &mut lost {
            let (code, said) = server.end();
            assert_eq!(code, 1, "{said}");
            assert!(said.contains(&who), "{said}");
        }
        winner.must("quit", json!({}));
        assert_eq!(won.end(), (0, String::new()));
        assert!(!path.exists());
    }
}

#[test]
fn a_locked_directory_is_waited_for_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let lock = fs::File::open(directory.path()).unwrap();
    // SAFETY: an open descriptor.
    assert_eq!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }, 0);
    let mut server = Server::on_socket(&path);
    let (code, said) = server.end();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("cannot be locked"), "{said}");
    assert!(said.contains(directory.path().to_str().unwrap()), "{said}");

    let mut server = Server::on_socket(&path);
    thread::sleep(Duration::from_millis(200));
    assert!(!path.exists());
    drop(lock);
    Client::connect(&path).negotiate().must("quit", json!({}));
    assert_eq!(server.end(), (0, String::new()));
}

#[test]
fn a_shortage_of_descriptors_ends_no_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let mut server = Server::on_socket(&path);
    let mut client = Client::connect(&path).negotiate();
    client.must("object-add", ram("a", 65536));
    let limit = |soft: u64| {
        let limit = libc::rlimit {
            rlim_cur: soft,
            rlim_max: 1024,
        };
        let pid = server.process.id() as i32;
        // SAFETY: a child of ours; the limit outlives the call.
        let set = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
        assert_eq!(set, 0);
    };
    limit(3);
    client.hang_up();
    let waiting = connect(&path);
    waiting
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    assert!((&waiting).read(&mut [0]).is_err());
    limit(1024);
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut greeting = [0; 7];
    (&waiting).read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"{\"QMP\":");
    drop(waiting);
    let mut client = Client::connect(&path).negotiate();
    assert_eq!(client.must("query-memdev", json!({}))[0]["id"], "a");
    client.must("quit", json!({}));
    let (code, said) = server.end();
    assert_eq!(code, 0, "{said}");
    // Once, however long it takes.
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("(os error 24)"), "{said}");
}

#[test]
fn no_failure_to_accept_ends_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    for errno in [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
        libc::EPROTO,
        libc::EPERM,
    ] {
        let mut server = prepared(&path, &[], move || {
            Refusal::new(libc::SYS_accept4, errno).install();
        });
        drop(connect(&path));
        thread::sleep(Duration::from_millis(50));
        assert!(server.process.try_wait().unwrap().is_none(), "{errno}");
        server.signal(libc::SIGTERM);
        let (code, said) = server.end();
        assert_eq!(code, 0, "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn what_is_in_the_way_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("file"), "text").unwrap();
    fs::create_dir(path("dir")).unwrap();
    symlink("nothing", path("dangling")).unwrap();
    let _listener = UnixListener::bind(path("socket")).unwrap();
    drop(UnixListener::bind(path("stale")).unwrap());
    symlink("stale", path("link")).unwrap();
    let foreign = path("foreign");
    drop(UnixListener::bind(&foreign).unwrap());
    std::os::unix::fs::lchown(&foreign, Some(12345), None).ok();

    let refused = |path: &Path, part: &str| {
        let mut server = Server::on_socket(path);
        let (code, said) = server.end();
        assert_eq!(code, 1, "{said}");
        assert!(said.starts_with("hostmem: "), "{said}");
        assert!(said.contains(part), "{said}");
        assert!(said.contains(path.to_str().unwrap()), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    };
    for (name, part) in [
        ("file", "no socket"),
        ("dir", "no socket"),
        ("dangling", "no socket"),
        ("link", "no socket"),
        ("socket", "listens"),
    ] {
        refused(&path(name), part);
        assert!(path(name).symlink_metadata().is_ok(), "{name}");
    }
    if foreign
        .metadata()
        .is_ok_and(|found| std::os::unix::fs::MetadataExt::uid(&found) == 12345)
    {
        refused(&foreign, "another user");
        assert!(foreign.symlink_metadata().is_ok());
    }
    refused(&path("nowhere/qmp"), "No such file");
    refused(&path(&"a".repeat(200)), "SUN_LEN");
    assert_eq!(fs::read(path("file")).unwrap(), b"text");
}

#[test]
fn a_socket_that_is_no_longer_ours_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let mut server = Server::on_socket(&path);
    let mut client = Client::connect(&path).negotiate();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "another's").unwrap();
    client.must("quit", json!({}));
    assert_eq!(server.end(), (0, String::new()));
    assert_eq!(fs::read(&path).unwrap(), b"another's");
}

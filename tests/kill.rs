// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! SIGKILL at any moment of `hostmem alloc`, `qmp`, `pool` and of saving: what is left is what
//! docs/operation.md says, and the next start works. HOSTMEM_SEED chooses other moments.

#![cfg(feature = "cli")]

mod common;

use std::env;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use common::access::read;
use common::access::write;
use common::host::HugePages;
use common::image::image_bytes;
use common::qmp::Client;
use common::qmp::Server;
use common::qmp::PATIENCE;
use hostmem::pool;
use hostmem::Backend;
use serde_json::json;
use serde_json::Value as Json;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_hostmem");
const MIB: u64 = 1 << 20;

/// How often each program is killed.
const ROUNDS: u32 = 10;

/// Moments that are spread over a time, one in each part of it.
fn moments(whole: Duration) -> impl Iterator<Item = Duration> {
    let seed: u64 = env::var("HOSTMEM_SEED").map_or(1, |text| text.parse().unwrap());
    println!("HOSTMEM_SEED={seed}, {whole:?}");
    let mut state = seed * 2 + 1;
    (0..ROUNDS).map(move |round| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let part = f64::from(round) + (state % 1000) as f64 / 1000.0;
        whole.mul_f64(part / f64::from(ROUNDS))
    })
}

fn kill_after(mut server: Server, begin: Instant, moment: Duration) {
    thread::sleep(moment.saturating_sub(begin.elapsed()));
    server.process.kill().unwrap();
    server.end();
}

fn directory() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The names in a directory are among these.
fn check_names(directory: &Path, expected: &[&str]) {
    for entry in fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(expected.contains(&&*name), "{name} is left");
    }
}

/// A file has no bytes yet or all, or is not there.
fn check_size(path: &Path, whole: u64) {
    if let Ok(metadata) = fs::metadata(path) {
        let size = metadata.len();
        assert!(size == 0 || size == whole, "{}: {size}", path.display());
    }
}

/// Shared memory has a name for an instant, and no pages in it.
fn check_shared_memory() {
    for entry in fs::read_dir("/dev/shm").unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let is_ours = name
            .strip_prefix("hostmem-")
            .is_some_and(|rest| rest.len() == 32 && rest.chars().all(|c| c.is_ascii_hexdigit()));
        if is_ours {
            // It may be of another test, and gone.
            check_size(&entry.path(), 0);
        }
    }
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The huge pages that the host has are free again.
fn check_pool(huge: Option<&HugePages>, free: u64) {
    if huge.is_some() {
        wait_until("huge pages are free", || HugePages::free() == free);
    }
}

fn command(subcommand: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .arg(subcommand)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

#[test]
fn alloc_leaves_named_files_alone() {
    let huge = HugePages::have(8);
    let free = HugePages::free();
    let bytes = image_bytes(8 * MIB);
    let begin = |directory: &Path| {
        fs::write(directory.join("empty"), "").unwrap();
        fs::write(directory.join("image"), &bytes).unwrap();
        let path = directory.display();
        let mut command = command("alloc");
        command.args([
            "memory-backend-ram,id=ram,size=32M,prealloc=on".to_owned(),
            "memory-backend-shm,id=shm,size=8M,prealloc=on".to_owned(),
            format!("memory-backend-file,id=new,size=16M,mem-path={path}/new,share=on,prealloc=on"),
            format!("memory-backend-file,id=empty,size=8M,mem-path={path}/empty,share=on"),
            format!("memory-backend-file,id=nameless,size=8M,mem-path={path},share=on,prealloc=on"),
            format!("memory-backend-memfd,id=restored,size=8M,contents={path}/image,prealloc=on"),
        ]);
        if huge.is_some() {
            command
                .arg("memory-backend-memfd,id=huge,size=16M,hugetlb=on,hugetlbsize=2M,prealloc=on");
        }
        command
    };
    let run = |directory: &Path| {
        let start = Instant::now();
        let status = begin(directory).status().unwrap();
        assert!(status.success());
        start.elapsed()
    };
    for moment in moments(run(directory().path())) {
        let directory = directory();
        let path = directory.path();
        let start = Instant::now();
        let server = Server::spawn(&mut begin(path)).unwrap();
        kill_after(server, start, moment);
        check_names(path, &["empty", "image", "new"]);
        check_size(&path.join("new"), 16 * MIB);
        check_size(&path.join("empty"), 8 * MIB);
        assert!(fs::read(path.join("image")).unwrap() == bytes);
        check_shared_memory();
        check_pool(huge.as_ref(), free);
        run(path);
        check_pool(huge.as_ref(), free);
    }
}

#[test]
fn a_file_with_half_its_contents_is_refused() {
    let bytes = image_bytes(24 * MIB);
    let begin = |directory: &Path| {
        fs::write(directory.join("image"), &bytes).unwrap();
        let path = directory.display();
        let mut command = command("alloc");
        command.arg(format!(
            "memory-backend-file,id=new,size=24M,mem-path={path}/new,share=on,prealloc=on,\
             contents={path}/image"
        ));
        command
    };
    let first = directory();
    let start = Instant::now();
    assert!(begin(first.path()).status().unwrap().success());
    for moment in moments(start.elapsed()) {
        let directory = directory();
        let new = directory.path().join("new");
        let start = Instant::now();
        kill_after(
            Server::spawn(&mut begin(directory.path())).unwrap(),
            start,
            moment,
        );
        check_names(directory.path(), &["image", "new"]);
        check_size(&new, 24 * MIB);
        let has_bytes = fs::metadata(&new).is_ok_and(|metadata| metadata.len() > 0);
        let again = begin(directory.path()).output().unwrap();
        let said = String::from_utf8(again.stderr).unwrap();
        assert_eq!(again.status.success(), !has_bytes, "{said}");
        if has_bytes {
            assert!(said.contains("contents"), "{said}");
            fs::remove_file(&new).unwrap();
            assert!(begin(directory.path()).status().unwrap().success());
        }
        assert!(fs::read(&new).unwrap() == bytes);
    }
}

/// Adds objects, one of a file that is filled meanwhile, and uses them.
fn requests(file: &Path) -> Vec<Json> {
    let file = json!({
        "qom-type": "memory-backend-file", "id": "file", "size": 32 * MIB, "mem-path": file,
        "share": true, "prealloc": true, "prealloc-mode": "background",
    });
    let ram = json!({
        "qom-type": "memory-backend-ram", "id": "ram", "size": 32 * MIB, "prealloc": true,
    });
    let all = [
        ("qmp_capabilities", json!({})),
        ("object-add", file),
        ("object-add", ram),
        ("x-placement", json!({ "id": "ram" })),
        ("object-del", json!({ "id": "ram" })),
        ("object-del", json!({ "id": "file" })),
    ];
    all.map(|(command, arguments)| json!({ "execute": command, "arguments": arguments }))
        .into()
}

/// Sends all of it, once there is somebody to send it to and as long as the server lives.
fn use_until(socket: &Path, requests: &[Json], is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let Ok(mut stream) = UnixStream::connect(socket) else {
            continue;
        };
        for request in requests {
            let _ = stream.write_all(request.to_string().as_bytes());
        }
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

/// A server that does all of it and ends in order.
fn serve_all(socket: &Path, requests: &[Json]) {
    let mut server = Server::on_socket(socket);
    let mut client = Client::connect(socket);
    for request in requests {
        client.send(request.to_string());
        common::qmp::result(client.answer()).unwrap();
    }
    client.must("quit", json!({}));
    assert_eq!(server.end(), (0, String::new()));
}

#[test]
fn qmp_leaves_its_socket_and_named_files() {
    let places = |directory: &TempDir| ["socket", "file"].map(|name| directory.path().join(name));
    let first = directory();
    let [socket, file] = places(&first);
    let start = Instant::now();
    serve_all(&socket, &requests(&file));
    for moment in moments(start.elapsed()) {
        let directory = directory();
        let [socket, file] = places(&directory);
        let requests = requests(&file);
        let is_over = AtomicBool::new(false);
        let start = Instant::now();
        let server = Server::on_socket(&socket);
        thread::scope(|scope| {
            scope.spawn(|| use_until(&socket, &requests, &is_over));
            kill_after(server, start, moment);
            is_over.store(true, Ordering::Relaxed);
        });
        check_names(directory.path(), &["socket", "file"]);
        check_size(&file, 32 * MIB);
        serve_all(&socket, &requests);
        check_names(directory.path(), &["file"]);
    }
}

#[test]
fn an_image_is_whole_or_not_there() {
    let directory = directory();
    let [image, saved] = ["image", "saved"].map(|name| directory.path().join(name));
    let bytes = image_bytes(48 * MIB);
    fs::write(&image, &bytes).unwrap();
    let ram = json!({
        "qom-type": "memory-backend-ram", "id": "ram", "size": bytes.len(), "prealloc": true,
        "contents": image,
    });
    let begin = || {
        let (server, mut client) = Server::hostmem_on_streams();
        client.must("qmp_capabilities", json!({}));
        client.must("object-add", ram.clone());
        let start = Instant::now();
        let save = json!({ "execute": "x-save", "arguments": { "id": "ram", "path": saved } });
        client.send(save.to_string());
        (server, client, start)
    };
    let (_server, mut client, start) = begin();
    client.answer();
    let whole = start.elapsed();
    for moment in moments(whole) {
        let _ = fs::remove_file(&saved);
        let (server, _client, start) = begin();
        kill_after(server, start, moment);
        check_names(directory.path(), &["image", "saved"]);
        if saved.exists() {
            assert!(fs::read(&saved).unwrap() == bytes, "after {moment:?}");
        }
    }
}

fn start_pool(socket: &Path, options: &str) -> Server {
    let mut command = command("pool");
    command.arg("--socket").arg(socket);
    command.arg(format!("2:memory-backend-memfd,size=4M{options}"));
    Server::spawn(&mut command).unwrap()
}

/// Takes memory and gives it back as long as there is a server; keeps what was taken last.
fn take_until(socket: &Path, is_over: &AtomicBool) -> Option<Backend> {
    let objects = common::objects();
    let mut last = None;
    while !is_over.load(Ordering::Relaxed) {
        if let Ok(builder) = pool::take(socket, "pool0", &objects, "taken") {
            let backend = builder.complete().unwrap();
            write(&backend.claim("vm").unwrap(), 5, 7);
            last = Some(backend);
        }
    }
    last
}

#[test]
fn a_pool_leaves_its_socket_and_what_was_taken() {
    let huge = HugePages::have(12);
    let free = HugePages::free();
    let options = huge.as_ref().map_or("", |_| ",hugetlb=on,hugetlbsize=2M");
    for moment in moments(Duration::from_millis(250)) {
        let directory = directory();
        let socket = directory.path().join("socket");
        let is_over = AtomicBool::new(false);
        let start = Instant::now();
        let server = start_pool(&socket, options);
        let last = thread::scope(|scope| {
            let taker = scope.spawn(|| take_until(&socket, &is_over));
            kill_after(server, start, moment);
            is_over.store(true, Ordering::Relaxed);
            taker.join().unwrap()
        });
        if let Some(taken) = last {
            assert_eq!(read(&taken.claim("vm").unwrap(), 5), 7);
        }
        check_names(directory.path(), &["socket"]);
        check_pool(huge.as_ref(), free);
        let mut server = start_pool(&socket, options);
        let mut client = Client::connect(&socket).negotiate();
        pool::receive(&socket, "pool0").unwrap();
        client.must("quit", json!({}));
        assert_eq!(server.end(), (0, String::new()));
        check_names(directory.path(), &[]);
        check_pool(huge.as_ref(), free);
    }
}

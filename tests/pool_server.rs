// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem pool` and `hostmem take`: real processes that hand memory over.

#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use common::access::fill;
use common::access::has;
use common::host::HugePages;
use common::host::HUGE;
use common::objects;
use common::qmp::connect;
use common::qmp::Client;
use common::qmp::Server;
use hostmem::pool;
use hostmem::ErrorKind;
use serde_json::json;
use serde_json::Value as Json;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_hostmem");
const SIZE: u64 = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(300);

struct Pool {
    server: Server,
    path: PathBuf,
    _directory: TempDir,
}

impl Pool {
    fn start(pools: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pool");
        let mut command = Command::new(PROGRAM);
        command.arg("pool").arg("--socket").arg(&path).args(pools);
        let server = Server::spawn(command.stdin(Stdio::null())).unwrap();
        Self {
            server,
            path,
            _directory: directory,
        }
    }

    /// Once all are ready.
    fn full(pools: &[&str]) -> Self {
        let pool = Self::start(pools);
        pool.wait("all are ready", |status| {
            status["ready"].as_u64() >= status["count"].as_u64()
        });
        pool
    }

    fn client(&self) -> Client<std::os::unix::net::UnixStream> {
        Client::connect(&self.path).negotiate()
    }

    fn wait(&self, what: &str, wanted: impl Fn(&Json) -> bool) {
        let mut client = self.client();
        let start = Instant::now();
        loop {
            let status = client.must("x-pool-status", json!({}));
            if status.as_array().unwrap().iter().all(&wanted) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: {status}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the server has the file open or mapped.
    fn has(&self, file: &File) -> bool {
        let inode = file.metadata().unwrap().ino();
        let process = format!("/proc/{}", self.server.process.id());
        let maps = fs::read_to_string(format!("{process}/maps")).unwrap();
        let mapped = maps
            .lines()
            .any(|line| line.split_whitespace().nth(4) == Some(&inode.to_string()));
        let open = fs::read_dir(format!("{process}/fd"))
            .unwrap()
            .filter_map(|entry| fs::metadata(entry.unwrap().path()).ok())
            .any(|metadata| metadata.ino() == inode);
        mapped || open
    }
}

fn received(path: &Path, name: &str) -> (pool::Received, File) {
    let memory = pool::receive(path, name).unwrap();
    let file = memory.fd.try_clone().unwrap().into();
    (memory, file)
}

#[test]
fn what_is_taken_belongs_to_the_taker_alone() {
    let pool = Pool::full(&["2:memory-backend-memfd,size=8M"]);
    let mut inodes = BTreeSet::new();
    for i in 0..6 {
        let (memory, file) = received(&pool.path, "pool0");
        assert_eq!((memory.size, memory.offset), (SIZE, 0));
        assert_eq!(memory.page_size, common::page_size());
        assert!(i > 1 || memory.was_ready);
        // It is unmapped and closed when it has left.
        let start = Instant::now();
        while pool.has(&file) {
            assert!(start.elapsed() < PATIENCE, "{i}");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(inodes.insert(file.metadata().unwrap().ino()));
        assert_eq!(file.metadata().unwrap().blocks() * 512, SIZE);
        let mut contents = vec![1; SIZE as usize];
        file.read_exact_at(&mut contents, 0).unwrap();
        assert!(contents.iter().all(|&byte| byte == 0), "{i}");
        // What one has written nobody else gets.
        file.write_all_at(&vec![9; SIZE as usize], 0).unwrap();
    }
}

#[test]
fn a_builder_of_it_only_maps_what_is_there() {
    let check = |options: &str, name: &str| {
        let pool = Pool::full(&[options]);
        let objects = objects();
        let builder = pool::take(&pool.path, name, &objects, "ram0").unwrap();
        assert_eq!(builder.kind(), "memory-backend-fd");
        let backend = builder.complete().unwrap();
        let claim = backend.claim("vm0").unwrap();
        assert_eq!(claim.memory().len(), SIZE);
        assert_eq!(backend.placement().unwrap().resident, SIZE);
        assert!(has(&claim, 0, SIZE, 0));
        fill(&claim, 0, SIZE, 7);
        assert!(claim.memory().is_shared());
        // An id that is taken costs no memory.
        let before = pool.client().must("x-pool-status", json!({}));
        let error = pool::take(&pool.path, name, &objects, "ram0").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{error}");
        let after = pool.client().must("x-pool-status", json!({}));
        assert_eq!(before[0]["taken"], after[0]["taken"]);
    };
    check("1:memory-backend-memfd,size=8M", "pool0");
    check("named=1:memory-backend-shm,size=8M", "named");
    check("1:memory-backend-ram,size=8M,share=on", "pool0");
    check(
        "1:{'qom-type': 'memory-backend-memfd', 'size': 8388608}",
        "pool0",
    );
    if let Some(_pages) = HugePages::have(2 * SIZE / HUGE) {
        check(
            "1:memory-backend-memfd,size=8M,hugetlb=on,hugetlbsize=2M",
            "pool0",
        );
    }
}

#[test]
fn bad_input_is_one_message_and_nothing_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool");
    for (pools, words) in [
        (
            &["memory-backend-memfd,size=8M"][..],
            "expected COUNT:OBJECT",
        ),
        (&["x:memory-backend-memfd,size=8M"], "expected COUNT:OBJECT"),
        (
            &["-1:memory-backend-memfd,size=8M"],
            "expected COUNT:OBJECT",
        ),
        (&["0:memory-backend-memfd,size=8M"], "count of 0"),
        (&["1:memory-backend-ram,size=8M"], "no descriptor"),
        (
            &["1:memory-backend-memfd,size=8M,share=off"],
            "no descriptor",
        ),
        (&["1:memory-backend-memfd,size=8M,id=a"], "no id"),
        (
            &["1:{'qom-type': 'memory-backend-memfd', 'id': 'a', 'size': 4096}"],
            "no id",
        ),
        (
            &["1:memory-backend-memfd,size=8M,prealloc=off"],
            "prealloc=off",
        ),
        (&["1:memory-backend-memfd,size=1P"], "more than"),
        (&["4000000000:memory-backend-memfd,size=1G"], "more than"),
        (
            &[
                "a=1:memory-backend-memfd,size=8M",
                "a=1:memory-backend-memfd,size=8M",
            ],
            "two pools",
        ),
        (&["1:memory-backend-memfd"], "size is required"),
    ] {
        let mut command = Command::new(PROGRAM);
        command
            .args(["pool", "--socket"])
            .arg(&path)
            .arg("--")
            .args(pools);
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{pools:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(words), "{pools:?}: {said}");
        assert!(!path.exists());
    }
}

#[test]
fn the_socket_is_private_and_goes_with_the_server() {
    let mut pool = Pool::full(&["1:memory-backend-memfd,size=8M"]);
    let mode = fs::metadata(&pool.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    pool.server.signal(libc::SIGTERM);
    assert_eq!(pool.server.end().0, 0);
    assert!(!pool.path.exists());
    let error = pool::receive(&pool.path, "pool0").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
}

#[test]
fn requests_are_checked_and_events_say_who_took_what() {
    let pool = Pool::full(&["one=1:memory-backend-memfd,size=8M"]);
    let mut client = Client::connect(&pool.path);
    client.fails("CommandNotFound", "x-pool-status", json!({}));
    let mut client = client.negotiate();
    client.fails("CommandNotFound", "qmp_capabilities", json!({}));
    client.fails("CommandNotFound", "object-add", json!({}));
    let message = client.fails("GenericError", "x-pool-take", json!({ "pool": "two" }));
    assert!(message.contains("one"), "{message}");
    client.fails("GenericError", "x-pool-take", json!({}));
    client.fails("GenericError", "x-pool-status", json!({ "pool": "one" }));
    client.must("query-version", json!({}));
    for command in client.must("query-commands", json!({})).as_array().unwrap() {
        assert!(command["name"].is_string());
    }
    client.send("[1]\n");
    assert!(client.answer().get("error").is_some());
    let (memory, _file) = received(&pool.path, "one");
    let event = client.wait_event(|event| event["event"] == "X_POOL_TAKEN");
    assert_eq!(event["data"]["pool"], "one");
    assert_eq!(event["data"]["pid"], std::process::id());
    // SAFETY: takes and touches nothing.
    assert_eq!(event["data"]["uid"], unsafe { libc::getuid() });
    assert_eq!(event["data"]["bytes"], memory.size);
    client.wait_event(|event| event["event"] == "X_POOL_FULL");
    let error = pool::receive(&pool.path, "two").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value, "{error}");
}

#[test]
fn several_take_at_once() {
    let pool = Pool::full(&["4:memory-backend-memfd,size=1M"]);
    let take = || {
        let file = || received(&pool.path, "pool0").1;
        (0..10).map(|_| file()).collect::<Vec<_>>()
    };
    let files: Vec<_> = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..6).map(|_| scope.spawn(take)).collect();
        let files = takers.into_iter().flat_map(|taker| taker.join().unwrap());
        files.collect()
    });
    let inodes: BTreeSet<_> = files
        .iter()
        .map(|file| file.metadata().unwrap().ino())
        .collect();
    assert_eq!(inodes.len(), 60);
}

#[test]
fn a_taker_that_dies_in_the_middle_harms_nobody() {
    let pool = Pool::full(&["2:memory-backend-memfd,size=8M"]);
    let _settled = pool.client();
    let descriptors = pool.server.descriptors();
    for wait in [0, 1, 10] {
        for _ in 0..5 {
            let mut stream = connect(&pool.path);
            let take = json!({ "execute": "x-pool-take", "arguments": { "pool": "pool0" } });
            write!(
                stream,
                "{}\n{take}\n",
                json!({ "execute": "qmp_capabilities" })
            )
            .unwrap();
            std::thread::sleep(Duration::from_millis(wait));
        }
    }
    // Neither kept by the server nor by the kernel.
    pool.wait("all are ready", |status| {
        status["ready"].as_u64() >= status["count"].as_u64()
    });
    let start = Instant::now();
    while pool.server.descriptors() > descriptors + 15 {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    let (_, file) = received(&pool.path, "pool0");
    let mut contents = vec![1; SIZE as usize];
    file.read_exact_at(&mut contents, 0).unwrap();
    assert!(contents.iter().all(|&byte| byte == 0));
}

/// Sets how many descriptors the server may have.
fn limit_descriptors(pool: &Pool, number: u64) {
    let limit = libc::rlimit {
        rlim_cur: number,
        rlim_max: 1024,
    };
    let id = pool.server.process.id() as i32;
    // SAFETY: reads the struct, and writes nothing.
    let result = unsafe { libc::prlimit(id, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
    assert_eq!(result, 0);
}

#[test]
fn a_server_out_of_descriptors_goes_on_when_it_has_some() {
    let pool = Pool::full(&["1:memory-backend-memfd,size=8M"]);
    let mut client = pool.client();
    limit_descriptors(&pool, 3);
    // This connection is there; nothing can be opened, and what was to be handed over is kept.
    let message = client.fails("GenericError", "x-pool-take", json!({ "pool": "pool0" }));
    // In the C library's words.
    let is_it = |message: &str| {
        let words = std::io::Error::from_raw_os_error(libc::EMFILE).to_string();
        message.contains(words.split(" (").next().unwrap())
    };
    assert!(is_it(&message), "{message}");
    // Of others one is connected already, by a call that the server was in, and the rest wait.
    let receive = move |path: PathBuf| loop {
        match pool::receive(&path, "pool0") {
            Ok(memory) => return memory.size,
            Err(error) => assert!(is_it(&error.to_string()), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let waiting = [(); 2].map(|()| {
        let path = pool.path.clone();
        std::thread::spawn(move || receive(path))
    });
    std::thread::sleep(Duration::from_millis(300));
    limit_descriptors(&pool, 1024);
    for waiting in waiting {
        assert_eq!(waiting.join().unwrap(), SIZE);
    }
    drop(client);
}

#[test]
fn a_socket_is_inherited() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool");
    let listener = UnixListener::bind(&path).unwrap();
    let fd = listener.as_raw_fd();
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" pool 1:memory-backend-memfd,size=8M",
        PROGRAM,
    ]);
    let pass = move || {
        // SAFETY: takes numbers; the descriptor is open. One that is 3 already keeps its flags.
        let passed = unsafe { libc::dup2(fd, 3) == 3 && libc::fcntl(3, libc::F_SETFD, 0) == 0 };
        match passed {
            true => Ok(()),
            false => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: only calls dup2(2) and fcntl(2), which may be called there.
    unsafe { command.pre_exec(pass) };
    let mut server = Server::spawn(command.stdin(Stdio::null())).unwrap();
    drop(listener);
    let (memory, _file) = received(&path, "pool0");
    assert_eq!(memory.size, SIZE);
    server.signal(libc::SIGTERM);
    assert_eq!(server.end().0, 0);
    // It is the service manager's.
    assert!(path.exists());
    let output = Command::new(PROGRAM)
        .args(["pool", "1:memory-backend-memfd,size=8M"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("--socket"), "{said}");
}

#[test]
fn a_program_runs_with_memory_taken() {
    let pool = Pool::full(&["1:memory-backend-memfd,size=8M"]);
    let take = |name: &str, words: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.arg("take").arg("--socket").arg(&pool.path);
        command.arg(name).arg("--").args(words).output().unwrap()
    };
    let output = take(
        "pool0",
        &[
            "stat",
            "-L",
            "-c",
            "%s {size} {offset}",
            "/proc/self/fd/{fd}",
        ],
    );
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.trim(), "8388608 8388608 0", "{:?}", output.stderr);
    for (name, words, expected) in [
        ("two", &["true"][..], "no such pool"),
        ("pool0", &["/no/such/program"], "/no/such/program"),
    ] {
        let output = take(name, words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.lines().count() == 1 && said.contains(expected),
            "{said}"
        );
    }
    assert_eq!(take("pool0", &["false"]).status.code(), Some(1));
}

#[test]
fn qemu_boots_its_firmware_on_memory_taken() {
    let Some((probe, _)) = Server::qemu() else {
        return;
    };
    drop(probe);
    let pool = Pool::full(&["1:memory-backend-memfd,size=128M"]);
    let mut command = Command::new(PROGRAM);
    command.arg("take").arg("--socket").arg(&pool.path);
    command.args(["pool0", "--", "qemu-system-x86_64"]);
    command.args("-machine pc,memory-backend=ram0 -accel tcg -m 128M".split(' '));
    command.args("-nodefaults -display none -qmp stdio -object".split(' '));
    command.arg(
        "memory-backend-file,id=ram0,size={size},mem-path=/proc/self/fd/{fd},share=on,prealloc=on",
    );
    let (_qemu, client) = Server::on_streams(&mut command).unwrap();
    let mut client = client.negotiate();
    let devices = client.must("query-memdev", json!({}));
    assert_eq!(devices[0]["size"], 128 << 20, "{devices}");
    // The firmware writes the size of the memory below 1 MiB, in KiB, where a PC has it.
    let start = Instant::now();
    loop {
        let command = json!({ "command-line": "xp /1hd 0x413" });
        let answer = client.must("human-monitor-command", command);
        let text = answer.as_str().unwrap();
        let number = text
            .split(':')
            .nth(1)
            .and_then(|text| text.trim().parse().ok());
        if (512..=640).contains(&number.unwrap_or(0)) {
            break;
        }
        if start.elapsed() > Duration::from_secs(60) {
            panic!("{text}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    client.must("quit", json!({}));
}

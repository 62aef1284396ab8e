// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem pool` and `hostmem take`: real processes that hand memory over.

#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
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
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use common::access::fill;
use common::access::has;
use common::host::is_root;
use common::host::HugePages;
use common::host::HUGE;
use common::in_child;
use common::objects;
use common::qmp::connect;
use common::qmp::Client;
use common::qmp::Server;
use common::skip;
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
        let process = self.server.process.id();
        let inode = file.metadata().unwrap().ino();
        let is_it = |open: File| open.metadata().unwrap().ino() == inode;
        is_mapped(process, file) || memory_files(process).any(is_it)
    }
}

fn is_mapped(process: u32, file: &File) -> bool {
    let inode = file.metadata().unwrap().ino().to_string();
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    maps.lines()
        .any(|line| line.split_whitespace().nth(4) == Some(&inode))
}

/// The files without a name that a process has open, but for its standard streams.
fn memory_files(process: u32) -> impl Iterator<Item = File> {
    let directory = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    directory.filter_map(|entry| {
        let path = entry.unwrap().path();
        let name = fs::read_link(&path).ok()?;
        let is_memory = name.to_string_lossy().ends_with(" (deleted)")
            && !["0", "1", "2"].map(OsStr::new).contains(&path.file_name()?);
        is_memory.then(|| File::open(path).ok())?
    })
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
            &["1:{'qom-type': 'memory-backend-memfd', 'id': 'a', 'size': 65536}"],
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
        (&["1:thread-context"], "expected COUNT:OBJECT"),
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
fn a_path_may_be_relative() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(PROGRAM);
    command
        .args(["pool", "--socket", "here", "1:memory-backend-memfd,size=8M"])
        .current_dir(directory.path());
    let _server = Server::spawn(command.stdin(Stdio::null())).unwrap();
    let path = directory.path().join("here");
    Client::connect(&path).hang_up();
    assert_eq!(received(&path, "pool0").0.size, SIZE);
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

/// While memory is filled, at any moment of that.
/// Takes memory on a thread that has another user's rights. For root.
fn take_as_nobody(path: &Path) -> hostmem::Result<pool::Received> {
    const NOBODY: libc::uid_t = 65534;
    std::thread::scope(|scope| {
        let taker = scope.spawn(|| {
            // SAFETY: takes numbers. The system calls change this thread alone.
            let result = unsafe {
                libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY)
                    | libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY)
            };
            assert_eq!(result, 0);
            pool::receive(path, "pool0")
        });
        taker.join().unwrap()
    })
}

#[test]
fn others_connect_only_if_the_mode_lets_them() {
    if !is_root() {
        return skip("being another user takes root");
    }
    for (arguments, fits) in [(&[][..], false), (&["--socket-mode", "666"], true)] {
        let pools = ["1:memory-backend-memfd,size=8M"];
        let pool = Pool::full(&[arguments, &pools[..]].concat());
        let directory = pool.path.parent().unwrap();
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        let mut client = pool.client();
        match take_as_nobody(&pool.path) {
            Ok(memory) => {
                assert!(fits && memory.was_ready);
                let event = client.wait_event(|event| event["event"] == "X_POOL_TAKEN");
                assert_eq!(event["data"]["uid"], 65534, "{event}");
            }
            Err(error) => {
                assert!(!fits, "{error}");
                assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                let status = client.must("x-pool-status", json!({}));
                assert_eq!(status[0]["taken"], 0, "{status}");
            }
        }
    }
}

#[test]
fn a_signal_ends_it_soon_and_leaves_nothing() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let object = format!(
        "1:memory-backend-file,size=1G,share=on,mem-path={}",
        directory.path().display()
    );
    for (signal, milliseconds) in [
        (libc::SIGTERM, 0),
        (libc::SIGINT, 2),
        (libc::SIGHUP, 20),
        (libc::SIGTERM, 50),
    ] {
        let mut pool = Pool::start(&[&object, "1:memory-backend-shm,size=1G"]);
        let client = pool.client();
        std::thread::sleep(Duration::from_millis(milliseconds));
        let start = Instant::now();
        pool.server.signal(signal);
        assert_eq!(pool.server.end(), (0, String::new()));
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{:?}",
            start.elapsed()
        );
        assert!(!pool.path.exists());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        drop(client);
    }
}

/// As threads of the pool's own do, those of a thread-context fill with SCHED_IDLE and its affinity.
#[test]
fn a_thread_context_fills_where_it_says() {
    let pool = Pool::start(&[
        "thread-context,id=tc0,cpu-affinity=0",
        "1:memory-backend-memfd,size=512M,thp=never,prealloc-context=tc0,prealloc-threads=2",
    ]);
    let _client = pool.client();
    let tasks = format!("/proc/{}/task", pool.server.process.id());
    let start = Instant::now();
    let status = loop {
        let entries = fs::read_dir(&tasks).unwrap();
        // One that has just ended cannot be read.
        let mut statuses = entries.filter_map(|entry| {
            let directory = entry.ok()?.path();
            let name = fs::read_to_string(directory.join("comm")).ok()?;
            let status = fs::read_to_string(directory.join("status")).ok()?;
            (name.starts_with("hm-pool0") && status.contains("Cpus_allowed_list:\t0\n"))
                .then(|| fs::read_to_string(directory.join("stat")).ok())?
        });
        if let Some(status) = statuses.next() {
            break status;
        }
        assert!(start.elapsed() < PATIENCE);
    };
    let (_, rest) = status.rsplit_once(") ").unwrap();
    let policy = rest.split(' ').nth(38).unwrap().parse();
    assert_eq!(policy, Ok(libc::SCHED_IDLE), "{status}");
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
    client.send("[".repeat(129) + "\n");
    let answer = client.answer();
    let message = answer["error"]["desc"].as_str().unwrap();
    assert!(message.contains("too many brackets"), "{answer}");
    client.send(r#"{"execute": "x-pool-status", "id": [7]}"#);
    let answer = client.answer();
    assert_eq!(answer["id"], json!([7]), "{answer}");
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

/// A new thread maps memory and takes a CPU while the taker waits.
#[test]
fn threads_serve_one_taker_after_another() {
    const TAKERS: usize = 40;
    let pool = Pool::full(&["1:memory-backend-memfd,size=1M"]);
    let tasks = format!("/proc/{}/task", pool.server.process.id());
    let threads = || -> BTreeSet<_> {
        let threads = fs::read_dir(&tasks).unwrap();
        threads.map(|entry| entry.unwrap().file_name()).collect()
    };
    let before = threads();
    let mut seen = before.clone();
    for _ in 0..TAKERS {
        received(&pool.path, "pool0");
        seen.extend(threads());
    }
    // A taker may come before the last one's thread waits again.
    let new = seen.len() - before.len();
    assert!(new < TAKERS / 2, "{new} new threads");
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
    // What is ready needs no other; nothing can be made.
    client.must("x-pool-take", json!({ "pool": "pool0" }));
    let message = client.fails("GenericError", "x-pool-take", json!({ "pool": "pool0" }));
    // In the C library's words.
    let is_it = |message: &str| {
        let words = std::io::Error::from_raw_os_error(libc::EMFILE).to_string();
        message.contains(words.split(" (").next().unwrap())
    };
    assert!(is_it(&message), "{message}");
    let event = client.wait_event(|event| event["event"] == "X_POOL_FAILED");
    let error = event["data"]["error"].as_str().unwrap();
    assert!(is_it(error), "{event}");
    let status = client.must("x-pool-status", json!({}));
    assert!(is_it(status[0]["failure"].as_str().unwrap()), "{status}");
    // Of others some are connected already, by calls that the server was in, and the rest wait.
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
    let mut server = on_listener(&listener, "1:memory-backend-memfd,size=8M");
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

const SERVICE: &str = include_str!("../examples/systemd/hostmem-pool.service");
const SOCKET: &str = include_str!("../examples/systemd/hostmem-pool.socket");
/// Where the units expect the program.
const INSTALLED: &str = "/usr/bin/hostmem";

/// What a unit sets.
fn setting<'a>(unit: &'a str, name: &str) -> &'a str {
    let values = unit.lines().filter_map(|line| line.strip_prefix(name));
    let mut values = values.filter_map(|rest| rest.strip_prefix('='));
    let value = values.next().expect(name);
    assert!(values.next().is_none(), "{name} is there twice");
    value
}

/// The units, as systemd reads them.
#[test]
fn units_of_the_example_are_understood() {
    let directory = tempfile::tempdir().unwrap();
    let check = |service: &str| {
        let paths = [
            ("hostmem-pool.service", service),
            ("hostmem-pool.socket", SOCKET),
        ]
        .map(|(name, unit)| {
            let path = directory.path().join(name);
            fs::write(&path, unit.replace(INSTALLED, PROGRAM)).unwrap();
            path
        });
        let mut command = Command::new("systemd-analyze");
        let output = command.args(["verify", "--man=no"]).args(paths).output();
        let output = output.ok()?;
        let mut said = String::from_utf8(output.stderr).unwrap();
        said += std::str::from_utf8(&output.stdout).unwrap();
        // About units of this host it may say something too.
        Some(said.contains("hostmem-pool").then_some(said))
    };
    let Some(said) = check(SERVICE) else {
        return skip("systemd-analyze is not installed");
    };
    assert_eq!(said, None);
    let wrong = SERVICE.replace("LimitNOFILE", "LimitNofile");
    assert!(check(&wrong).unwrap().is_some());
}

/// The command line of the unit, on a socket that is made as the other unit says, with huge pages
/// of 4 MiB in the place of 8 GiB.
#[test]
fn the_service_of_the_example_hands_memory_over() {
    const EACH: u64 = 4 << 20;
    let command = setting(SERVICE, "ExecStart");
    let arguments = command.strip_prefix(INSTALLED).unwrap();
    let pools = arguments.strip_prefix(" pool ").unwrap();
    assert!(pools.starts_with("4:") && pools.contains("size=8G"));
    assert!(Path::new(setting(SOCKET, "ListenStream")).is_absolute());
    let mode = u32::from_str_radix(setting(SOCKET, "SocketMode"), 8).unwrap();
    assert_eq!(mode, 0o600);
    let Some(_pages) = HugePages::have(5 * EACH / HUGE) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool");
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    // A host may have others.
    let pools = pools.replace("8G", "4M") + ",hugetlbsize=2M";
    let mut server = on_listener(&listener, &pools);
    drop(listener);
    let objects = objects();
    let builder = pool::take(&path, "pool0", &objects, "ram0").unwrap();
    let backend = builder.complete().unwrap();
    assert_eq!(backend.placement().unwrap().huge, EACH);
    if is_root() {
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let error = take_as_nobody(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    }
    // As `systemctl stop` does.
    server.signal(libc::SIGTERM);
    let (status, said) = server.end();
    assert_eq!(status, 0, "{said}");
    assert_eq!(said, "");
}

/// Also those that come while an answer is written.
#[test]
fn no_event_is_lost_to_a_client_that_reads() {
    const TAKES: usize = 100;
    let pool = Pool::full(&["2:memory-backend-memfd,size=1M"]);
    let mut client = Client::connect(&pool.path).negotiate();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (0..TAKES).for_each(|_| drop(received(&pool.path, "pool0")));
            ended.store(true, Ordering::Relaxed);
        });
        while !ended.load(Ordering::Relaxed) {
            client.must("query-version", json!({}));
        }
    });
    for _ in 0..TAKES {
        client.wait_event(|event| event["event"] == "X_POOL_TAKEN");
    }
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
    let of_pool: BTreeSet<_> = memory_files(pool.server.process.id())
        .map(|file| file.metadata().unwrap().ino())
        .collect();
    assert_eq!(of_pool.len(), 1);
    let mut command = Command::new(PROGRAM);
    command.arg("take").arg("--socket").arg(&pool.path);
    command.args(["pool0", "--", "qemu-system-x86_64"]);
    command.args("-machine pc,memory-backend=ram0 -accel tcg -m 128M".split(' '));
    command.args("-nodefaults -display none -qmp stdio -object".split(' '));
    command.arg(
        "memory-backend-file,id=ram0,size={size},mem-path=/proc/self/fd/{fd},share=on,prealloc=on",
    );
    let (qemu, client) = Server::on_streams(&mut command).unwrap();
    let mut client = client.negotiate();
    let devices = client.must("query-memdev", json!({}));
    assert_eq!(devices[0]["size"], 128 << 20, "{devices}");
    // The very memory that was ready, and nobody else has it.
    let memory = memory_files(qemu.process.id())
        .find(|file| of_pool.contains(&file.metadata().unwrap().ino()))
        .expect("the memory of the pool");
    assert!(is_mapped(qemu.process.id(), &memory));
    assert!(!pool.has(&memory));
    // The firmware writes the size of the memory below 1 MiB, in KiB, where a PC has it.
    let read_size = || {
        let mut bytes = [0; 2];
        memory.read_exact_at(&mut bytes, 0x413).unwrap();
        u16::from_le_bytes(bytes)
    };
    let start = Instant::now();
    while !(512..=640).contains(&read_size()) {
        assert!(start.elapsed() < PATIENCE, "{}", read_size());
        std::thread::sleep(Duration::from_millis(50));
    }
    // What the guest sees there.
    let command = json!({ "command-line": "xp /1hd 0x413" });
    let answer = client.must("human-monitor-command", command);
    let text = answer.as_str().unwrap();
    let seen = text.split(':').nth(1).unwrap().trim().parse();
    assert_eq!(seen, Ok(read_size()), "{text}");
    client.must("quit", json!({}));
}

#[test]
fn what_is_ready_is_not_mapped_unless_it_is_locked() {
    let maps = |pool: &Pool| {
        let path = format!("/proc/{}/maps", pool.server.process.id());
        let text = fs::read_to_string(path).unwrap();
        text.lines().filter(|line| line.contains("memfd:")).count()
    };
    let pool = Pool::full(&["2:memory-backend-memfd,size=8M"]);
    assert_eq!(maps(&pool), 0);
    assert_eq!(memory_files(pool.server.process.id()).count(), 2);
    let pool = Pool::start(&["2:memory-backend-memfd,size=8M,lock=on"]);
    let (mut is_ready, mut can_lock) = (false, true);
    while can_lock && !is_ready {
        let status = &pool.client().must("x-pool-status", json!({}))[0];
        is_ready = status["ready"] == 2;
        can_lock = status["failures"] == 0;
        std::thread::sleep(Duration::from_millis(5));
    }
    if !can_lock {
        return skip("this process may not lock its memory");
    }
    assert_eq!(maps(&pool), 2);
    assert_eq!(pool.server.status("VmLck:"), (2 * SIZE) >> 10);
    let (_memory, file) = received(&pool.path, "pool0");
    let start = Instant::now();
    while pool.has(&file) {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(file.metadata().unwrap().blocks() * 512, SIZE);
}

/// Deleting a backend with discard-data frees its pages; what is handed over keeps them.
#[test]
fn what_is_handed_over_keeps_its_pages() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let object = format!(
        "1:memory-backend-file,size=8M,share=on,discard-data=on,mem-path={}",
        directory.path().display()
    );
    let pool = Pool::full(&[&object]);
    let (memory, file) = received(&pool.path, "pool0");
    assert!(memory.was_ready);
    assert_eq!(file.metadata().unwrap().blocks() * 512, SIZE);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_shortage_is_told_and_tried_again() {
    let Some(_pages) = HugePages::have(SIZE / HUGE) else {
        return;
    };
    let huge = "size=8M,hugetlb=on,hugetlbsize=2M";
    let other = objects()
        .parse(format!("memory-backend-memfd,id=other,{huge}"))
        .unwrap()
        .complete()
        .unwrap();
    let pool = Pool::start(&[&format!("huge=1:memory-backend-memfd,{huge}")]);
    let mut client = pool.client();
    let mut pauses = Vec::new();
    for failures in 1..=2 {
        pool.wait("a failure", |status| {
            status["failures"].as_u64() >= Some(failures)
        });
        let status = &client.must("x-pool-status", json!({}))[0];
        let failure = status["failure"].as_str().unwrap();
        assert!(failure.contains("huge pages"), "{status}");
        assert_eq!(status["ready"], 0);
        pauses.push(status["retry-milliseconds"].as_u64().unwrap());
    }
    assert!(pauses[1] > 1000, "{pauses:?}");
    let message = client.fails("GenericError", "x-pool-take", json!({ "pool": "huge" }));
    assert!(message.contains("huge pages"), "{message}");
    let event = client.wait_event(|event| event["event"] == "X_POOL_FAILED");
    assert_eq!(event["data"]["pool"], "huge");
    drop(other);
    client.wait_event(|event| event["event"] == "X_POOL_FULL");
    let status = &client.must("x-pool-status", json!({}))[0];
    assert_eq!(status["ready"], 1, "{status}");
    assert!(status["failure"].is_null(), "{status}");
}

/// Every place where a client can go: what has not left is kept, what has left is gone.
#[test]
fn a_taker_may_go_at_each_moment() {
    let pool = Pool::full(&["2:memory-backend-memfd,size=8M"]);
    let take = format!(
        "{}\n",
        json!({ "execute": "x-pool-take", "arguments": { "pool": "pool0" } })
    );
    let capabilities = format!("{}\n", json!({ "execute": "qmp_capabilities" }));
    let greeted = || {
        let stream = connect(&pool.path);
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        lines.next().unwrap().unwrap();
        (stream, lines)
    };
    let negotiated = || {
        let (mut stream, mut lines) = greeted();
        stream.write_all(capabilities.as_bytes()).unwrap();
        lines.next().unwrap().unwrap();
        (stream, lines)
    };
    let status = || pool.client().must("x-pool-status", json!({}))[0].clone();
    let before: BTreeSet<_> = memory_files(pool.server.process.id())
        .map(|file| file.metadata().unwrap().ino())
        .collect();

    drop(connect(&pool.path));
    drop(greeted());
    drop(negotiated());
    let (mut stream, _lines) = negotiated();
    stream
        .write_all(&take.as_bytes()[..take.len() / 2])
        .unwrap();
    drop((stream, _lines));
    // It takes no answer, so that the descriptor cannot leave.
    let (mut stream, lines) = negotiated();
    stream.shutdown(Shutdown::Read).unwrap();
    stream.write_all(take.as_bytes()).unwrap();
    // The server hangs up.
    assert!(stream.read(&mut [0; 1]).unwrap() == 0);
    stream.shutdown(Shutdown::Write).unwrap();
    drop((stream, lines));
    pool.wait("it is kept", |status| status["ready"] == 2);
    assert_eq!(status()["taken"], 0);
    let after: BTreeSet<_> = memory_files(pool.server.process.id())
        .map(|file| file.metadata().unwrap().ino())
        .collect();
    assert_eq!(after, before);

    // The descriptor is on its way, and nobody takes it.
    let (mut stream, lines) = negotiated();
    stream.write_all(take.as_bytes()).unwrap();
    pool.wait("it has left", |status| status["taken"] == 1);
    drop((stream, lines));
    // It is read without a place for the descriptor.
    let (mut stream, mut lines) = negotiated();
    stream.write_all(take.as_bytes()).unwrap();
    assert!(lines.next().unwrap().unwrap().contains("return"));
    drop((stream, lines));
    pool.wait("all are ready", |status| status["ready"] == 2);
    let status = status();
    let handed_over = status["taken"].as_u64().unwrap() + status["made"].as_u64().unwrap();
    assert_eq!(handed_over, 2, "{status}");
    let after: BTreeSet<_> = memory_files(pool.server.process.id())
        .map(|file| file.metadata().unwrap().ino())
        .collect();
    assert!(after.is_disjoint(&before));
}

/// A server on a listener that the test keeps.
fn on_listener(listener: &UnixListener, pools: &str) -> Server {
    let fd = listener.as_raw_fd();
    let mut command = Command::new("sh");
    let script = format!("LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" pool {pools}");
    command.args(["-c", &script, PROGRAM]);
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
    Server::spawn(command.stdin(Stdio::null())).unwrap()
}

#[test]
fn those_behind_a_full_backlog_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool");
    let listener = UnixListener::bind(&path).unwrap();
    // SAFETY: takes numbers. It listens with a shorter backlog.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 1) }, 0);
    let server = on_listener(&listener, "2:memory-backend-memfd,size=1M");
    received(&path, "pool0");
    server.stop();
    let takers: Vec<_> = (0..20)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || received(&path, "pool0").1)
        })
        .collect();
    std::thread::sleep(Duration::from_millis(100));
    assert!(takers.iter().all(|taker| !taker.is_finished()));
    server.signal(libc::SIGCONT);
    let files: Vec<_> = takers
        .into_iter()
        .map(|taker| taker.join().unwrap())
        .collect();
    let inodes: BTreeSet<_> = files
        .iter()
        .map(|file| file.metadata().unwrap().ino())
        .collect();
    assert_eq!(inodes.len(), 20);
}

#[test]
fn one_client_too_many_waits_for_another_to_go() {
    let pool = Pool::full(&["1:memory-backend-memfd,size=1M"]);
    let mut clients: Vec<_> = (0..256).map(|_| pool.client()).collect();
    let path = pool.path.clone();
    let waiting = std::thread::spawn(move || received(&path, "pool0").0.size);
    std::thread::sleep(Duration::from_millis(100));
    assert!(!waiting.is_finished());
    clients.pop().unwrap().hang_up();
    assert_eq!(waiting.join().unwrap(), 1 << 20);
}

#[test]
fn a_taker_out_of_descriptors_is_told_so() {
    in_child("a_taker_out_of_descriptors_is_told_so", || {
        let pool = Pool::full(&["1:memory-backend-memfd,size=8M"]);
        // All but one, which the connection takes.
        let mut open = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            open.push(file);
        }
        open.pop();
        let error = pool::receive(&pool.path, "pool0").unwrap_err();
        open.clear();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
        assert_eq!(received(&pool.path, "pool0").0.size, SIZE);
    });
}

/// Another program that listens there, or one that ends meanwhile.
#[test]
fn what_is_no_answer_of_a_pool_is_an_error() {
    let greeting = r#"{"QMP": {}}"#;
    let done = r#"{"return": {}}"#;
    let memory = r#"{"return": {"offset": 0, "page-size": 4096}}"#;
    for (answer, words) in [
        (String::new(), "end of file"),
        (greeting.to_owned(), "end of file"),
        ("x".repeat(8 << 20), "too long"),
        ("none\n".into(), "expected"),
        (
            format!("{greeting}\n{done}\n{memory}\n"),
            "has no descriptor",
        ),
        (format!("{greeting}\n{{}}\n"), "no answer"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                // It may have hung up.
                let _ = stream.write_all(answer.as_bytes());
                let _ = stream.shutdown(Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            });
            pool::receive(&path, "pool0").unwrap_err()
        });
        let message = error.to_string();
        assert!(message.starts_with(path.to_str().unwrap()), "{message}");
        assert!(message.contains(words), "{message}");
    }
}

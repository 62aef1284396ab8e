// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the tests share: children of their own, system calls that fail, and looking for what was
//! left behind.

// Each test binary uses a part of it.
#![allow(dead_code)]

pub mod access;
pub mod host;
pub mod image;
pub mod lazy;
#[cfg(feature = "cli")]
pub mod qmp;
pub mod seccomp;
pub mod touch;

use std::collections::BTreeMap;
use std::env;
use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;

use hostmem::Builder;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::Objects;
use seccompiler::SeccompAction;
use seccompiler::SeccompFilter;
use seccompiler::SeccompRule;

/// The base page size, in bytes.
pub fn page_size() -> u64 {
    // SAFETY: sysconf takes any name and touches no memory.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as u64 }
}

/// The size of transparent huge pages, in bytes; None, having said so, where there are none.
pub fn thp_size() -> Option<u64> {
    let size = Host::probe().unwrap().info().thp_size;
    if size.is_none() {
        skip("this kernel has no transparent huge pages");
    }
    size
}

/// The kind of a file's file system, as statfs(2) has it.
pub fn file_system(path: &Path) -> u64 {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: reads the text and fills the struct.
    unsafe {
        assert_eq!(libc::statfs(path.as_ptr(), found.as_mut_ptr()), 0);
        found.assume_init().f_type as u64
    }
}

/// A directory on a disk; None, having said so, where /var/tmp is in memory.
pub fn directory_on_disk() -> Option<tempfile::TempDir> {
    // tmpfs and ramfs.
    const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    if IN_MEMORY.contains(&file_system(directory.path())) {
        skip("/var/tmp is not on a disk");
        return None;
    }
    Some(directory)
}

/// What the command has: QEMU's defaults, and descriptors by their number.
pub fn defaults() -> Defaults {
    let mut defaults = Defaults::qemu();
    defaults.fd_by_number = true;
    defaults
}

/// A set of objects as the command has it.
pub fn objects() -> Objects {
    Objects::new(&Host::probe().unwrap(), &defaults()).unwrap()
}

/// A backend of memory-backend-ram that is being configured, from the rest of an option string.
pub fn ram(options: &str) -> Builder {
    objects()
        .parse(format!("memory-backend-ram,id=ram0,{options}"))
        .unwrap()
}

/// Says that a test, or a part of it, did not run, and why.
pub fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

const CHILD: &str = "HOSTMEM_TEST_CHILD";

/// Runs the body in a process of its own, which is this test binary with only the named test: for
/// what changes limits, filters or credentials, or counts what the whole process has.
pub fn in_child(test: &str, body: impl FnOnce()) {
    if env::var_os(CHILD).is_some() {
        return body();
    }
    let output = Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--test-threads=1", "--nocapture"])
        .env(CHILD, "1")
        // What the allocator keeps is then in the heap, apart from all other mappings.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "child {test}: {}\n{stdout}\n{stderr}",
        output.status
    );
    eprint!("{stderr}");
}

/// Forks and runs the function in the child, which must return true.
pub fn in_forked_child(run: impl FnOnce() -> bool) {
    // SAFETY: the child goes on in this thread alone and leaves by _exit().
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or(false);
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let mut status = 0;
    // SAFETY: our own child; status outlives the call.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status), "status {status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), 0);
}

/// Forks again and again while another thread goes on with something, and runs the function in each
/// child, where it must return true and not wait for that thread.
pub fn in_forked_children_while(go_on: impl Fn() + Sync, run: impl Fn() -> bool) {
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = End(&ended);
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                go_on();
            }
        });
        for _ in 0..20 {
            in_forked_child(|| {
                // SAFETY: takes a number; ends a child that hangs.
                unsafe { libc::alarm(5) };
                run()
            });
        }
    });
}

/// A system call that shall fail, and how.
pub struct Refusal {
    pub call: libc::c_long,
    /// Only where each argument of that index, masked, has that value: (index, mask, value).
    pub only: Vec<(u8, u64, u64)>,
    pub errno: libc::c_int,
}

impl Refusal {
    pub fn new(call: libc::c_long, errno: libc::c_int) -> Self {
        Self {
            call,
            only: Vec::new(),
            errno,
        }
    }

    pub fn only(mut self, argument: u8, value: u64) -> Self {
        self.only.push((argument, u64::MAX, value));
        self
    }

    pub fn only_masked(mut self, argument: u8, mask: u64, value: u64) -> Self {
        self.only.push((argument, mask, value));
        self
    }

    /// Installs it for the calling thread and what that creates; for good.
    pub fn install(&self) {
        use seccompiler::SeccompCmpArgLen::Qword;
        use seccompiler::SeccompCmpOp::MaskedEq;
        let conditions: Vec<_> = self
            .only
            .iter()
            .map(|&(argument, mask, value)| {
                seccompiler::SeccompCondition::new(argument, Qword, MaskedEq(mask), value).unwrap()
            })
            .collect();
        let rules = match conditions.len() {
            0 => Vec::new(),
            _ => vec![SeccompRule::new(conditions).unwrap()],
        };
        let filter = SeccompFilter::new(
            BTreeMap::from([(self.call, rules)]),
            SeccompAction::Allow,
            SeccompAction::Errno(self.errno as u32),
            env::consts::ARCH.try_into().unwrap(),
        )
        .unwrap();
        let program: seccompiler::BpfProgram = filter.try_into().unwrap();
        seccompiler::apply_filter(&program).unwrap();
    }
}

/// Runs the body on a thread of its own for which the calls fail.
pub fn refusing<T: Send>(refusals: &[Refusal], body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            refusals.iter().for_each(Refusal::install);
            body()
        });
        worker.join().unwrap()
    })
}

/// Refuses to open a file where the flags, masked, have that value, by each call that a C library
/// opens files with.
pub fn opening(errno: libc::c_int, mask: u64, flags: u64) -> Vec<Refusal> {
    vec![
        Refusal::new(libc::SYS_openat, errno).only_masked(2, mask, flags),
        // musl's.
        #[cfg(target_arch = "x86_64")]
        Refusal::new(libc::SYS_open, errno).only_masked(1, mask, flags),
    ]
}

/// Refuses to remove a name, by each call that a C library does it with.
pub fn unlinking(errno: libc::c_int) -> Vec<Refusal> {
    vec![
        Refusal::new(libc::SYS_unlinkat, errno),
        #[cfg(target_arch = "x86_64")]
        Refusal::new(libc::SYS_unlink, errno),
    ]
}

/// What a process has that a failed call must not add to.
#[derive(Debug, PartialEq, Eq)]
pub struct Belongings {
    mappings: Vec<String>,
    descriptors: Vec<String>,
    threads: usize,
}

/// Those of this process, without the ones that have left it and are still to be seen for a moment:
/// the kernel lets a thread that joins one go on before that.
fn count_threads() -> usize {
    /// PF_EXITING, in the flags of proc_pid_stat(5).
    const EXITING: u64 = 4;
    let is_there = |stat: &String| {
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let flags: u64 = fields.split(' ').nth(6).unwrap().parse().unwrap();
        flags & EXITING == 0
    };
    fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("stat")).ok())
        .filter(is_there)
        .count()
}

/// Waits for threads of that name: one that was joined stays in /proc/self/task for a moment.
pub fn wait_until_no_thread_is_named(name: &str) {
    let is_named = |task: fs::DirEntry| {
        let comm = fs::read_to_string(task.path().join("comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    };
    let tasks = || fs::read_dir("/proc/self/task").unwrap().flatten();
    while tasks().any(is_named) {
        thread::yield_now();
    }
}

/// Whether a mapping may be of musl's allocator, which has no other heap than anonymous mappings
/// without a name.
fn is_of_musl(line: &str) -> bool {
    cfg!(target_env = "musl") && line.split_ascii_whitespace().count() == 5
}

fn has_own_mappings() -> bool {
    let sanitizers = sanitizers();
    sanitizers.contains("address") || sanitizers.contains("thread")
}

/// ThreadSanitizer has one in the background.
fn own_threads() -> usize {
    usize::from(sanitizers().contains("thread"))
}

impl Belongings {
    pub fn now() -> Self {
        // Those of AddressSanitizer and ThreadSanitizer come and go.
        let maps = match has_own_mappings() {
            true => String::new(),
            false => fs::read_to_string("/proc/self/maps").unwrap(),
        };
        let descriptors = fs::read_dir("/proc/self/fd").unwrap();
        let mut descriptors: Vec<_> = descriptors
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .map(|link| link.display().to_string())
            .filter(|link| !link.starts_with("/proc/"))
            .collect();
        descriptors.sort();
        Self {
            mappings: maps
                .lines()
                .filter(|line| !line.ends_with("[heap]") && !line.ends_with("[stack]"))
                .filter(|line| !is_of_musl(line))
                .map(str::to_owned)
                .collect(),
            descriptors,
            threads: count_threads() - own_threads(),
        }
    }

    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Without what the C library keeps of stacks, where how many there are at once is left to
    /// chance: anonymous mappings of less than 4 MiB.
    pub fn without_stacks(mut self) -> Self {
        self.mappings.retain(|line| {
            let (range, rest) = line.split_once(' ').unwrap();
            let (start, end) = range.split_once('-').unwrap();
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            !rest.ends_with("00:00 0 ") || number(end) - number(start) >= 4 << 20
        });
        self
    }
}

/// The entries of /proc/self/smaps that begin inside a range: each header with its fields.
pub fn smaps(address: u64, size: u64) -> Vec<(String, BTreeMap<String, String>)> {
    let text = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut entries: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    for line in text.lines() {
        match line.split_once(':') {
            Some((name, value)) if !name.contains(' ') => {
                let fields = &mut entries.last_mut().unwrap().1;
                fields.insert(name.to_owned(), value.trim().to_owned());
            }
            _ => entries.push((line.to_owned(), BTreeMap::new())),
        }
    }
    entries.retain(|(header, _)| {
        let start = header.split('-').next().unwrap();
        let start = u64::from_str_radix(start, 16).unwrap();
        (address..address + size).contains(&start)
    });
    entries
}

/// The VmFlags of the one mapping that begins at an address.
pub fn vm_flags(address: *const u8) -> Vec<String> {
    let entries = smaps(address as u64, 1);
    assert_eq!(entries.len(), 1, "one mapping begins at {address:?}");
    let flags = entries[0].1["VmFlags"].split(' ').map(str::to_owned);
    flags.collect()
}

/// Whether the address is mapped in this process, and not as a guard page.
pub fn is_mapped(address: usize) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().any(|line| {
        let (first, rest) = line.split_once('-').unwrap();
        let end = rest.split(' ').next().unwrap();
        let [first, end] = [first, end].map(|text| usize::from_str_radix(text, 16).unwrap());
        (first..end).contains(&address) && !rest.contains(" ---p ")
    })
}

/// The kernel's version, as in `(5, 14)`.
pub fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Whether the kernel populates memory by a call, which a test refuses or counts.
pub fn populates_by_call() -> bool {
    let does = kernel() >= (5, 14);
    if !does {
        skip("MADV_POPULATE_WRITE needs Linux 5.14");
    }
    does
}

/// A field of /proc/meminfo, by its name with the colon, in bytes.
pub fn meminfo(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() * 1024
}

/// Held by a test that counts on memory to be short where there is no swap; None, having said so,
/// where there is some.
pub fn without_swap() -> Option<host::HostLock> {
    let lock = host::HostLock::take();
    if meminfo("SwapTotal:") > 0 {
        skip("there is swap, which is memory too");
        return None;
    }
    Some(lock)
}

/// A node that memory can be bound to here; None, having said why, where there is none.
pub fn bindable_node() -> Option<u32> {
    if cfg!(not(feature = "numa")) {
        skip("the feature `numa` is off");
        return None;
    }
    // SAFETY: a length of 0, so no memory and no node mask is looked at.
    if unsafe { libc::syscall(libc::SYS_mbind, 0u64, 0u64, 0u64, 0u64, 0u64, 0u64) } != 0 {
        skip("mbind is refused in this process");
        return None;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let nodes = status
        .lines()
        .find_map(|line| line.strip_prefix("Mems_allowed_list:\t"))
        .and_then(|nodes| nodes.split(['-', ',']).next()?.parse().ok());
    if nodes.is_none() {
        skip("this kernel has no NUMA nodes");
    }
    nodes
}

/// What scripts/sanitize or scripts/race-rust instrumented with, "address,undefined" say; mostly
/// nothing.
fn sanitizers() -> String {
    env::var("HOSTMEM_SANITIZER").unwrap_or_default()
}

/// Whether a sanitizer is in this process: each needs all of the address space and makes system
/// calls of its own.
pub fn is_instrumented() -> bool {
    let is = !sanitizers().is_empty();
    if is {
        skip("a sanitizer needs all of the address space and makes system calls of its own");
    }
    is
}

/// Whether AddressSanitizer is in this process: it maps memory of its own at any time, and takes
/// mlock and munlock for itself, which then do nothing.
pub fn has_address_sanitizer() -> bool {
    let has = sanitizers().contains("address");
    if has {
        skip("AddressSanitizer maps memory of its own and makes munlock do nothing");
    }
    has
}

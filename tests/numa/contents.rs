// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that begins as an image and is saved again: equal on each kernel, whichever calls it has,
//! and on the nodes that the policy names.

use std::fs;
use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use hostmem::Backend;
use hostmem::Placement;
use hostmem::Policy;
use hostmem::Rebind;
use hostmem::Satisfied;

use super::cells;
use super::cells::Backing;
use super::cells::BACKINGS;
use super::common::access;
use super::common::host::Setting;
use super::common::image;
use super::common::image::assert_same;
use super::common::image::complete;
use super::common::kernel;
use super::guest::Test;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 4 * MIB;
const PATIENCE: Duration = Duration::from_secs(20);
const IMAGES: &str = "/tmp";
const KHUGEPAGED: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged/";
const BOUND: &str = "policy=bind,host-nodes=3";

/// Memory that may be read on demand: kind, options, and the first kernel on which it stays huge.
const MEMORIES: [(&str, &str, (u32, u32)); 9] = [
    ("ram", "thp=never", NEVER),
    // UFFDIO_MOVE.
    ("ram", "thp=always", (6, 8)),
    ("ram", "thp=always,lock=on", NEVER),
    ("ram", "hugetlb=on,hugetlbsize=2M", (0, 0)),
    ("memfd", "thp=never", NEVER),
    ("memfd", "thp=never,share=off", NEVER),
    // MADV_COLLAPSE.
    ("memfd", "thp=auto", (6, 1)),
    ("memfd", "hugetlb=on,hugetlbsize=2M", (0, 0)),
    ("shm", "thp=never", NEVER),
];
const NEVER: (u32, u32) = (u32::MAX, 0);

pub fn tests() -> Vec<Test> {
    let mut tests = vec![
        Test::new("contents::of_unbound_memory", of_unbound_memory),
        Test::new("contents::rebound", rebound),
        Test::new("contents::discarded", discarded),
        Test::new("contents::beside_khugepaged", beside_khugepaged),
    ];
    for backing in &BACKINGS {
        tests.push(Test {
            name: format!("contents::of_{}", backing.name),
            run: Box::new(|| {
                of_backing(backing);
                String::new()
            }),
        });
    }
    for (index, mode) in ["alone", "in_background"].into_iter().enumerate() {
        for (bound, policy) in [("", "policy=default"), ("_bound", BOUND)] {
            tests.push(Test {
                name: format!("contents::on_demand_{mode}{bound}"),
                run: Box::new(move || {
                    on_demand(image::ON_DEMAND[index], policy);
                    String::new()
                }),
            });
        }
    }
    tests
}

/// Bytes of an image that is shorter than the memory and has a hole. An emulated machine takes long
/// to make each one by itself.
fn bytes() -> Vec<u8> {
    let block = image::pattern(5, 8192);
    let mut bytes = Vec::new();
    for number in 0..(SIZE - MIB / 2) / 4096 {
        let begin = number as usize * 8 % 4096;
        bytes.extend_from_slice(&block[begin..begin + 4096]);
        let end = bytes.len();
        bytes[end - 8..].copy_from_slice(&number.to_ne_bytes());
    }
    bytes[MIB as usize..5 << 19].fill(0);
    bytes.truncate(bytes.len() - 1000);
    bytes
}

fn with_image(bytes: &[u8]) -> String {
    image::image_in(Path::new(IMAGES), 0, bytes)
}

/// Saves the memory of a backend and compares the file with what it has to be.
fn save(backend: &Backend, bytes: &[u8], what: &str) {
    let path = Path::new(IMAGES).join("saved");
    let file = File::create(&path).unwrap();
    let saved = backend.claim("test").unwrap().save(&file, 0).unwrap();
    assert_eq!(saved.written + saved.holes, SIZE, "{what}");
    let mut expected = bytes.to_vec();
    expected.resize(SIZE as usize, 0);
    assert!(fs::read(&path).unwrap() == expected, "{what}");
    fs::remove_file(&path).unwrap();
}

/// The placement once all of it is there: the kernel unmaps shared pages while it makes them huge
/// (khugepaged).
fn all_there(backend: &Backend, what: &str) -> Placement {
    let start = Instant::now();
    loop {
        let seen = backend.placement().unwrap();
        if (seen.resident + seen.unmapped, seen.unread) == (SIZE, 0) {
            return seen;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: {seen:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// All of it is on node 3, by the kernel's count.
fn assert_bound(backend: &Backend, what: &str) {
    let seen = all_there(backend, what);
    let nodes: Vec<_> = seen.nodes.keys().collect();
    assert_eq!(nodes, [&3], "{what}: {seen:?}");
    assert_ne!(seen.satisfied, Satisfied::Spilled, "{what}: {seen:?}");
}

/// Read while completing, on a thread of another node than the memory.
fn of_backing(backing: &Backing) {
    cells::clean();
    let _shmem = Setting::set(cells::SHMEM, backing.shmem).unwrap();
    let bytes = bytes();
    let image = with_image(&bytes);
    let options = format!(
        "size={SIZE},prealloc=on,{},{BOUND},contents={image}",
        backing.options
    );
    let backend = complete(backing.kind, &options);
    assert_bound(&backend, &options);
    assert_same(&backend, &bytes, &options);
    save(&backend, &bytes, &options);
    drop(backend);
    cells::clean();
}

fn of_unbound_memory() {
    let bytes = bytes();
    let image = with_image(&bytes);
    for (kind, memory, _) in MEMORIES {
        let options = format!("size={SIZE},prealloc=on,{memory},contents={image}");
        let backend = complete(kind, &options);
        assert_same(&backend, &bytes, &options);
        save(&backend, &bytes, &options);
    }
}

/// Each page is touched by two threads, in orders of their own.
fn touch_all(backend: &Backend, bytes: &[u8]) {
    let claim = backend.claim("test").unwrap();
    let claim = &claim;
    let pages = SIZE / 4096;
    thread::scope(|scope| {
        for seed in 0..2 {
            scope.spawn(move || {
                for turn in 0..pages {
                    let at = (turn * 1021 + seed * 333) % pages * 4096 + turn % 4096;
                    let expected = bytes.get(at as usize).copied().unwrap_or(0);
                    assert_eq!(access::read(claim, at), expected, "byte {at}");
                }
            });
        }
    });
}

/// What is copied into place is put where the memory's policy says, whichever thread copies it.
fn on_demand(mode: &str, policy: &str) {
    let _shmem = Setting::set(cells::SHMEM, "advise").unwrap();
    let bytes = bytes();
    let image = with_image(&bytes);
    for (kind, memory, huge_since) in MEMORIES {
        let options = format!("size={SIZE},{mode},{memory},{policy},contents={image}");
        let backend = complete(kind, &options);
        let options = format!("{kind},{options}");
        touch_all(&backend, &bytes);
        backend.wait_prealloc(None).unwrap();
        if policy == BOUND {
            assert_bound(&backend, &options);
        }
        assert_same(&backend, &bytes, &options);
        save(&backend, &bytes, &options);
        let seen = all_there(&backend, &options);
        // With a policy private memory is copied.
        if kernel() >= huge_since && (policy != BOUND || !memory.contains("thp=always")) {
            assert_eq!(seen.huge, SIZE, "{options}");
        }
    }
}

fn scan_all_memory() {
    let scans = || fs::read_to_string(format!("{KHUGEPAGED}full_scans")).unwrap();
    // The first may have begun before.
    for _ in 0..2 {
        let (before, start) = (scans(), Instant::now());
        while scans() == before {
            assert!(start.elapsed() < PATIENCE, "khugepaged does not scan");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Huge pages that the kernel makes meanwhile have no zeros where contents are unread: before
/// Linux 6.4 it fills the absent parts of shared memory, also where they are registered.
fn beside_khugepaged() {
    let _shmem = Setting::set(cells::SHMEM, "advise").unwrap();
    let _sleep = Setting::set(format!("{KHUGEPAGED}scan_sleep_millisecs"), "1").unwrap();
    let bytes = bytes();
    let image = with_image(&bytes);
    let small = MEMORIES
        .iter()
        .filter(|(_, memory, _)| !memory.contains("hugetlb"));
    for (kind, memory, _) in small {
        let options = format!(
            "size={SIZE},{},{memory},contents={image}",
            image::ON_DEMAND[0]
        );
        let backend = complete(kind, &options);
        let options = format!("{kind},{options}");
        let claim = backend.claim("test").unwrap();
        backend.set("thp", "auto").unwrap();
        for at in (0..SIZE).step_by(MIB as usize) {
            access::read(&claim, at);
        }
        drop(claim);
        scan_all_memory();
        assert_same(&backend, &bytes, &options);
        if *memory == "thp=auto" {
            scan_all_memory();
            // What was made huge is mapped so when it is touched.
            assert_same(&backend, &bytes, &options);
            assert_eq!(all_there(&backend, &options).huge, SIZE, "{options}");
        }
    }
}

/// What is unread then goes to the new nodes too.
fn rebound() {
    let bytes = bytes();
    let image = with_image(&bytes);
    let to = Rebind::new(Policy::Bind).host_nodes([3]);
    for (kind, memory, _) in MEMORIES {
        let options = format!("size={SIZE},prealloc=off,{memory},contents={image}");
        let backend = complete(kind, &options);
        let claim = backend.claim("test").unwrap();
        assert_eq!(access::read(&claim, 5), bytes[5]);
        drop(claim);
        let options = format!("{kind},{options}");
        backend.rebind(&to).expect(&options);
        touch_all(&backend, &bytes);
        assert_bound(&backend, &options);
        assert_same(&backend, &bytes, &options);
    }
}

fn discarded() {
    let mut bytes = bytes();
    let image = with_image(&bytes);
    bytes[5 << 19..3 << 20].fill(0);
    for mode in image::ON_DEMAND {
        for (kind, memory) in [("ram", "thp=never"), ("ram", "thp=always"), ("memfd", "")] {
            let options = format!("size={SIZE},{mode},{memory},contents={image}");
            let options = options.replace(",,", ",");
            let backend = complete(kind, &options);
            let claim = backend.claim("test").unwrap();
            claim.discard(5 * MIB / 2, MIB / 2).unwrap();
            drop(claim);
            assert_same(&backend, &bytes, &options);
            save(&backend, &bytes, &options);
        }
    }
}

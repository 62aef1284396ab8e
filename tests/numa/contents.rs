// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that begins as an image and is saved again: equal on each kernel, whichever calls it has,
//! and on the nodes that the policy names.

use std::fs;
use std::fs::File;
use std::path::Path;
use std::thread;

use hostmem::Backend;
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
const SIZE: u64 = 8 * MIB;
const IMAGES: &str = "/tmp";
const BOUND: &str = "policy=bind,host-nodes=3";

/// Private memory, which may be read on demand, and whether it is made of whole huge pages of the
/// kernel's that can move.
const PRIVATE: [(&str, bool); 4] = [
    ("thp=never", false),
    ("thp=always", true),
    ("thp=always,lock=on", false),
    ("hugetlb=on,hugetlbsize=2M", false),
];

pub fn tests() -> Vec<Test> {
    let mut tests = vec![
        Test::new("contents::of_private_memory", of_private_memory),
        Test::new("contents::on_demand", on_demand),
        Test::new("contents::on_demand_and_bound", on_demand_and_bound),
        Test::new("contents::discarded", discarded),
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
    tests
}

/// Bytes of an image that is shorter than the memory and has a hole. An emulated machine takes long
/// to make each one by itself.
fn bytes() -> Vec<u8> {
    let block = image::pattern(5, 8192);
    let mut bytes = Vec::new();
    for number in 0..(SIZE - MIB) / 4096 {
        let begin = number as usize * 8 % 4096;
        bytes.extend_from_slice(&block[begin..begin + 4096]);
        let end = bytes.len();
        bytes[end - 8..].copy_from_slice(&number.to_ne_bytes());
    }
    bytes[3 << 20..6 << 20].fill(0);
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

/// All of it is on node 3, by the kernel's count.
fn assert_bound(backend: &Backend, what: &str) {
    let seen = backend.placement().unwrap();
    assert_eq!(seen.resident, SIZE, "{what}: {seen:?}");
    assert_eq!(seen.nodes, [(3, SIZE)].into(), "{what}: {seen:?}");
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

fn of_private_memory() {
    let bytes = bytes();
    let image = with_image(&bytes);
    for (memory, _) in PRIVATE {
        for policy in ["policy=default", BOUND] {
            let options = format!("size={SIZE},prealloc=on,{memory},{policy},contents={image}");
            let backend = complete("ram", &options);
            assert_same(&backend, &bytes, &options);
            save(&backend, &bytes, &options);
        }
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

fn on_demand() {
    let bytes = bytes();
    let image = with_image(&bytes);
    for (memory, moves) in PRIVATE {
        for mode in image::ON_DEMAND {
            let options = format!("size={SIZE},{mode},{memory},contents={image}");
            let backend = complete("ram", &options);
            touch_all(&backend, &bytes);
            backend.wait_prealloc(None).unwrap();
            assert_same(&backend, &bytes, &options);
            save(&backend, &bytes, &options);
            let seen = backend.placement().unwrap();
            assert_eq!((seen.resident, seen.unread), (SIZE, 0), "{options}");
            // UFFDIO_MOVE.
            if moves && kernel() >= (6, 8) {
                assert_eq!(seen.huge, SIZE, "{options}");
            }
        }
    }
}

/// What is copied into place is put where the memory's policy says, whoever copies it.
fn on_demand_and_bound() {
    let bytes = bytes();
    let image = with_image(&bytes);
    for (memory, _) in PRIVATE {
        for mode in image::ON_DEMAND {
            let options = format!("size={SIZE},{mode},{memory},{BOUND},contents={image}");
            let backend = complete("ram", &options);
            touch_all(&backend, &bytes);
            backend.wait_prealloc(None).unwrap();
            assert_bound(&backend, &options);
            assert_same(&backend, &bytes, &options);
        }
    }
}

fn discarded() {
    let mut bytes = bytes();
    let image = with_image(&bytes);
    bytes[2 << 20..3 << 20].fill(0);
    for mode in image::ON_DEMAND {
        for memory in ["thp=never", "thp=always"] {
            let options = format!("size={SIZE},{mode},{memory},contents={image}");
            let backend = complete("ram", &options);
            let claim = backend.claim("test").unwrap();
            claim.discard(2 * MIB, MIB).unwrap();
            drop(claim);
            assert_same(&backend, &bytes, &options);
            save(&backend, &bytes, &options);
        }
    }
}

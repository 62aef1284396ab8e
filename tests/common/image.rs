// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Images of memory: making them, and comparing memory with them.

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use hostmem::Backend;
use hostmem::ErrorKind;

use super::access::new;
use super::page_size;
use super::skip;

pub const MIB: u64 = 1 << 20;
/// Of the memory in most tests: not a multiple of a chunk, and of a huge page.
pub const SIZE: u64 = 20 * MIB;

/// Bytes that no two places near each other have in common, and no page of which is zero.
pub fn pattern(seed: u64, length: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let words = (0..length.div_ceil(8)).flat_map(|_| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        state.to_le_bytes()
    });
    words.take(length as usize).collect()
}

/// The bytes of an image of `length` with data in every other 3 MiB, and a hole between.
pub fn image_bytes(length: u64) -> Vec<u8> {
    let mut bytes = pattern(length, length);
    for hole in (3 * MIB..length).step_by(6 * MIB as usize) {
        let end = (hole + 3 * MIB).min(length);
        bytes[hole as usize..end as usize].fill(0);
    }
    bytes
}

/// Writes what is not zero only, so that the file has holes.
pub fn write_image(file: &File, at: u64, bytes: &[u8]) {
    file.set_len(at + bytes.len() as u64).unwrap();
    let page = page_size() as usize;
    for (index, part) in bytes.chunks(page).enumerate() {
        if part.iter().any(|&byte| byte != 0) {
            file.write_all_at(part, at + (index * page) as u64).unwrap();
        }
    }
}

pub fn image_in(directory: &Path, at: u64, bytes: &[u8]) -> String {
    let path = directory.join("image");
    write_image(&File::create(&path).unwrap(), at, bytes);
    path.to_str().unwrap().to_owned()
}

pub fn contents_of(backend: &Backend) -> Vec<u8> {
    let claim = backend.claim("test").unwrap();
    let memory = claim.memory();
    let mut bytes = vec![0; memory.len() as usize];
    // SAFETY: the memory is mapped as long as the claim lives, and nobody writes to it.
    unsafe { std::ptr::copy_nonoverlapping(memory.as_ptr(), bytes.as_mut_ptr(), bytes.len()) };
    bytes
}

/// Where two differ first, by whole pages, since comparing bytes takes long without optimisation.
fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    let pages = one.chunks(4096).zip(other.chunks(4096));
    let page = pages.enumerate().find(|(_, (one, other))| one != other)?.0 * 4096;
    let byte = (page..one.len()).find(|&at| one[at] != other[at]);
    Some(byte.unwrap())
}

/// Without printing megabytes.
#[track_caller]
pub fn assert_same(backend: &Backend, image: &[u8], what: &str) {
    let mut expected = image.to_vec();
    let bytes = contents_of(backend);
    expected.resize(bytes.len(), 0);
    let wrong = first_difference(&bytes, &expected);
    assert_eq!(wrong, None, "{what}: the first wrong byte");
}

pub fn complete(kind: &str, options: &str) -> Backend {
    let builder = new(kind, options);
    builder
        .complete()
        .unwrap_or_else(|failed| panic!("{kind},{options}: {}", failed.error))
}

/// Every kind of memory that may have contents, apart from huge pages of a pool.
pub fn backings(directory: &Path) -> Vec<(&'static str, String)> {
    let file = |name: &str| directory.join(name).display().to_string();
    fs::write(file("empty"), "").unwrap();
    vec![
        ("ram", "thp=always".to_owned()),
        ("ram", "thp=never".into()),
        ("ram", "thp=never,guard=off,lock=on".into()),
        ("memfd", "thp=auto".into()),
        ("memfd", "thp=always".into()),
        ("memfd", "share=off".into()),
        ("shm", "thp=auto".into()),
        ("file", format!("share=on,mem-path={}", directory.display())),
        ("file", format!("share=on,mem-path={}", file("new"))),
        (
            "file",
            format!("share=on,offset=64K,mem-path={}", file("empty")),
        ),
        ("file", format!("share=off,mem-path={}", file("private"))),
    ]
}

/// As `complete`, of contents that are read on demand; None, said, where the host forbids it.
pub fn complete_on_demand(kind: &str, options: &str) -> Option<Backend> {
    match new(kind, options).complete() {
        Ok(backend) => Some(backend),
        Err(failed) if failed.error.kind() == ErrorKind::Unsupported => {
            skip(&failed.error.to_string());
            None
        }
        Err(failed) => panic!("{kind},{options}: {}", failed.error),
    }
}

/// How contents are read when they are needed: on demand alone, or in the background too.
pub const ON_DEMAND: [&str; 2] = ["prealloc=off", "prealloc=on,prealloc-mode=background"];

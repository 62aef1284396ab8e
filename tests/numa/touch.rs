// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Populating by touching from within the kernel, on the kernel that cannot do it otherwise, and on
//! those that are refused it.

use std::fs;
use std::fs::File;
use std::path::Path;
use std::thread;

use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Objects;

use super::common::access;
use super::common::defaults;
use super::common::host;
use super::common::kernel;
use super::common::seccomp;
use super::common::seccomp::MEMFD;
use super::common::seccomp::PREALLOC;
use super::common::seccomp::TOUCH;
use super::common::touch;
use super::common::touch::without_populate;
use super::guest::Test;

const DISK: &str = "/mnt";

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("touch::loses_no_write", || {
            touch::loses_no_write(&host(), Path::new(DISK), 500);
            for file in ["on", "off"] {
                fs::remove_file(Path::new(DISK).join(file)).unwrap();
            }
        }),
        Test::new("touch::only_reads", || {
            touch::only_reads(&host(), Path::new(DISK));
        }),
        Test::new("touch::fails_without_a_signal", || {
            touch::fails_without_a_signal(&host(), Path::new(DISK));
        }),
        Test::new("touch::wakes_nobody", || touch::wakes_nobody(&host())),
        Test::new("touch::waits_for_pages", || touch::waits_for_pages(&host())),
        Test::new("touch::full_file_systems", full_file_systems),
        Test::new("touch::under_the_filter", under_the_filter),
    ]
}

fn host() -> Host {
    match kernel() < (5, 14) {
        true => Host::probe().unwrap(),
        false => without_populate(),
    }
}

/// A sparse file on a file system that has no block left for it.
fn full_file_systems() {
    let fails = |directory: &Path| {
        let path = directory.join("m0");
        File::create(&path).unwrap().set_len(64 << 20).unwrap();
        let objects = Objects::new(&host(), &defaults()).unwrap();
        let options = "memory-backend-file,id=m0,share=on,size=64M,prealloc=on,mem-path=";
        let builder = objects.parse(format!("{options}{}", path.display()));
        access::assert_refused(builder.unwrap(), ErrorKind::NoMemory, &["prealloc"]);
        fs::remove_file(&path).unwrap();
    };
    fails(Path::new(DISK));
    // The mount is for that thread alone.
    let small = thread::spawn(move || {
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        assert!(host::mount("tmpfs", directory.path(), "size=4M"));
        fails(directory.path());
    });
    small.join().unwrap();
}

/// With anything that docs/seccomp.md does not list, the process ends.
fn under_the_filter() {
    let host = host();
    let confined = thread::spawn(move || {
        let objects = Objects::new(&host, &defaults()).unwrap();
        seccomp::confine(&[PREALLOC, TOUCH, MEMFD, "file"]);
        for what in [
            "ram,thp=never",
            "ram,thp=always",
            "memfd",
            "memfd,hugetlb=on",
            "file,share=on,mem-path=/mnt/m0",
            "file,readonly=on,mem-path=/mnt/m0",
            "file,share=off,mem-path=/mnt/m0",
        ] {
            let options = format!("memory-backend-{what},id=m0,size=8M,prealloc=on");
            let backend = objects.parse(options).unwrap().complete().unwrap();
            backend.delete().unwrap();
        }
    });
    confined.join().unwrap();
    fs::remove_file("/mnt/m0").unwrap();
}

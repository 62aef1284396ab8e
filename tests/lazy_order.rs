// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What was read on demand, and reading it first the next time.

mod common;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use common::access::assert_refused;
use common::access::new;
use common::image::assert_same;
use common::image::complete;
use common::image::image_in;
use common::image::pattern;
use common::image::MIB;
use common::lazy::assert_unread;
use common::lazy::can_serve;
use common::lazy::touch;
use common::lazy::DEMAND;
use common::lazy::LAZY;
use common::page_size;
use common::refusing;
use common::Refusal;
use hostmem::Claim;
use hostmem::ErrorKind;
use hostmem::Faulted;

const SIZE: u64 = 64 * MIB;
const HALF: u64 = SIZE / 2;

/// What a guest does as it begins: it needs some places of the second half.
fn start_guest(claim: &Claim, bytes: &[u8]) {
    for turn in 0..200 {
        let at = (HALF + turn * 7_654_321 % HALF) as usize;
        assert_eq!(touch(claim, at), bytes[at], "byte {at}");
    }
}

fn write_order(directory: &Path, faulted: &[Faulted]) -> String {
    let path = directory.join("order");
    let mut lines = String::new();
    for range in faulted {
        writeln!(lines, "{range}").unwrap();
    }
    fs::write(&path, lines).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The background cannot read the first half, with which it would begin without an order.
#[test]
fn what_one_guest_touched_is_there_for_the_next() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(31, SIZE);
    let image = image_in(images.path(), 0, &bytes);
    // The second half is not one huge page, which a second worker would read meanwhile.
    let huge = common::thp_size().is_some_and(|size| size <= HALF / 4);
    for memory in ["thp=never", "thp=always"]
        .into_iter()
        .take(1 + usize::from(huge))
    {
        let options = format!("size={SIZE},{memory},contents={image}");
        let first = complete("ram", &format!("{options},{DEMAND}"));
        let claim = first.claim("test").unwrap();
        start_guest(&claim, &bytes);
        let faulted = claim.faulted();
        let order = write_order(images.path(), &faulted);
        let read: u64 = faulted.iter().map(|range| range.length).sum();
        assert_unread(&claim, SIZE - read);

        let faults_with = |order: &str| {
            let refusal = Refusal::new(libc::SYS_pread64, libc::EIO).only_masked(3, !(HALF - 1), 0);
            let options = format!("{options},{LAZY},{order}");
            // The threads of the backend have the filter of the one that completes it.
            refusing(&[refusal], || {
                let next = complete("ram", &options);
                let error = next.wait_prealloc(None).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
                let claim = next.claim("test").unwrap();
                start_guest(&claim, &bytes);
                claim.faulted().len()
            })
        };
        let without = faults_with("dump=on");
        let with = faults_with(&format!("contents-order={order}"));
        println!("{memory}: {without} faults without contents-order, {with} with");
        assert_eq!(without, faulted.len());
        assert_eq!(with, 0);
    }
}

#[test]
fn faulted_has_each_place_once_in_order() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let page = page_size();
    let bytes = pattern(33, MIB + page);
    let image = image_in(images.path(), 0, &bytes);
    let size = bytes.len();
    let backend = complete(
        "ram",
        &format!("size={size},{DEMAND},thp=never,contents={image}"),
    );
    let claim = backend.claim("test").unwrap();
    assert_eq!(claim.faulted(), []);
    for at in [700_000, 100, 65_535, 1 << 20, 700_001, 101] {
        touch(&claim, at);
    }
    // A discarded place is zero: it is not read again, and not of the order.
    claim.discard(0, 65536).unwrap();
    assert_eq!(touch(&claim, 5), 0);
    let lines: Vec<_> = claim.faulted().iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        ["655360 65536", "0 65536", &format!("1048576 {page}")]
    );
    assert_eq!(
        complete("ram", "size=1M").claim("test").unwrap().faulted(),
        []
    );
}

#[test]
fn with_an_order_every_byte_is_right() {
    if !can_serve() {
        return;
    }
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(35, SIZE);
    let image = image_in(images.path(), 0, &bytes);
    let order = images.path().join("order");
    // Over each other, all of it, nothing, unaligned, with blanks and line ends of any kind.
    fs::write(
        &order,
        "40000000 9000000\n1 1\r\n0 67108864\n67108864 0\n5\t 77 \n7 7",
    )
    .unwrap();
    let options = format!(
        "size={SIZE},contents={image},contents-order={}",
        order.display()
    );
    for kind in ["ram", "memfd"] {
        for mode in [LAZY, DEMAND, "prealloc=on"] {
            let backend = complete(kind, &format!("{options},{mode}"));
            assert_same(&backend, &bytes, mode);
            backend.wait_prealloc(None).unwrap();
            let warned = backend.warnings().concat().contains("contents-order");
            assert_eq!(warned, mode != LAZY, "{mode}: {:?}", backend.warnings());
        }
        let none = format!("size={SIZE},contents={image},contents-order=,{DEMAND}");
        assert_eq!(complete(kind, &none).warnings(), [""; 0]);
    }
}

#[test]
fn a_bad_order_is_refused_by_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let image = image_in(directory.path(), 0, &[1; 100]);
    let path = directory.path().join("order");
    let order = path.display();
    for (text, line, why) in [
        ("0 4096\n4096\n", "line 2", "OFFSET LENGTH"),
        ("0x0 4096\n", "line 1", "OFFSET LENGTH"),
        ("0 4096\n\n", "line 2", "OFFSET LENGTH"),
        ("0 4096\n0 1 2\n", "line 2", "OFFSET LENGTH"),
        ("0 18446744073709551616\n", "line 1", "OFFSET LENGTH"),
        (
            "0 4096\n1 1\n1048575 2\n",
            "line 3",
            "not inside the memory",
        ),
        (
            "18446744073709551615 2\n",
            "line 1",
            "not inside the memory",
        ),
        ("-1 2\n", "line 1", "OFFSET LENGTH"),
    ] {
        fs::write(&path, text).unwrap();
        // Eager too, where it has no effect.
        for mode in [LAZY, "prealloc=on"] {
            let options = format!("size=1M,{mode},contents={image},contents-order={order}");
            let words = [&format!("contents-order={order}"), line, why];
            assert_refused(new("ram", &options), ErrorKind::Value, &words);
        }
    }
    for (path, kind, why) in [
        ("/no/such", ErrorKind::Io, "cannot read it"),
        ("/dev/null", ErrorKind::Value, "not a regular file"),
    ] {
        let options = format!("size=1M,{LAZY},contents={image},contents-order={path}");
        assert_refused(new("ram", &options), kind, &["contents-order", path, why]);
    }
    let options = format!("size=1M,{LAZY},contents-order={order}");
    assert_refused(
        new("ram", &options),
        ErrorKind::Value,
        &["contents-order", "needs contents"],
    );
}

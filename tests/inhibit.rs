// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that a device has pinned is not discarded.

mod common;

use std::thread;

use common::page_size;
use hostmem::Backend;
use hostmem::Builder;
use hostmem::Claim;
use hostmem::ErrorKind;
use hostmem::State;

fn ready() -> (Backend, Claim) {
    let backend = Builder::new("memory-backend-ram", "ram0")
        .unwrap()
        .size(16 * page_size())
        .prealloc(true)
        .complete()
        .unwrap();
    let claim = backend.claim("vm0").unwrap();
    (backend, claim)
}

fn resident(backend: &Backend) -> u64 {
    backend.placement().unwrap().resident / page_size()
}

#[test]
fn discard_is_busy_while_a_device_has_pinned_the_pages() {
    let (backend, claim) = ready();
    let pinned = claim.inhibit_discard("vfio-net0").unwrap();
    assert_eq!(pinned.name(), "vfio-net0");
    for length in [0, 1, 16] {
        let error = claim.discard(0, length * page_size()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        for expected in ["ram0: discard: ", "'vfio-net0'"] {
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
    assert_eq!(resident(&backend), 16);
    // Everything else goes on.
    claim.populate(0, page_size()).unwrap();
    backend.set("dump", false).unwrap();
    drop(pinned);
    claim.discard(0, page_size()).unwrap();
    assert_eq!(resident(&backend), 15);
}

#[test]
fn each_that_inhibits_ends_by_itself() {
    let (_backend, claim) = ready();
    let piece = claim.piece(0).unwrap();
    let names = ["first", "second", "second"];
    let mut pinned: Vec<_> = names
        .map(|name| piece.inhibit_discard(name).unwrap())
        .into();
    for holder in ["'second'", "'second'", "'first'"] {
        let error = claim.discard(0, page_size()).unwrap_err();
        assert!(error.to_string().contains(holder), "{error}");
        pinned.pop();
    }
    claim.discard(0, page_size()).unwrap();
    // In the order in which they began too.
    let mut pinned: Vec<_> = names
        .map(|name| claim.inhibit_discard(name).unwrap())
        .into();
    for _ in names {
        claim.discard(0, page_size()).unwrap_err();
        pinned.remove(0);
    }
    claim.discard(0, page_size()).unwrap();
}

#[test]
fn it_holds_the_claim() {
    let (backend, claim) = ready();
    let pinned = claim.inhibit_discard("vfio0").unwrap();
    drop(claim);
    assert_eq!(backend.state(), State::Mapped);
    let backend = backend.delete().unwrap_err().object;
    thread::spawn(move || drop(pinned)).join().unwrap();
    assert_eq!(backend.state(), State::Ready);
    backend.delete().unwrap();
}

#[test]
fn it_needs_a_name_of_1_to_128_bytes() {
    let (_backend, claim) = ready();
    for name in ["", &"x".repeat(129), "a\0b"] {
        let error = claim.inhibit_discard(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{error}");
    }
    claim.discard(0, page_size()).unwrap();
    for name in ["x", &"x".repeat(128)] {
        assert_eq!(claim.inhibit_discard(name).unwrap().name(), name);
    }
    claim.discard(0, page_size()).unwrap();
}

#[test]
fn threads_inhibit_and_discard_as_they_like() {
    let (_backend, claim) = ready();
    thread::scope(|scope| {
        for thread in 0..3 {
            let claim = &claim;
            scope.spawn(move || {
                let name = format!("vfio{thread}");
                for _ in 0..200 {
                    let pinned = claim.inhibit_discard(&name).unwrap();
                    let error = claim.discard(0, page_size()).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
                    drop(pinned);
                }
            });
        }
    });
    claim.discard(0, page_size()).unwrap();
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory in use that gets other nodes: what moves, what does not, and that nothing is lost.

use std::time::Instant;

use hostmem::Claim;

use super::cells::Backing;
use super::cells::BACKINGS;
use super::common::access;
use super::common::host::Setting;
use super::guest;
use super::guest::Test;

const MIB: u64 = 1 << 20;

pub fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for backing in &BACKINGS {
        tests.push(Test {
            name: format!("rebind::moves::{}", backing.name),
            run: Box::new(|| moves(backing)),
        });
    }
    tests
}

/// Another byte in each page.
fn write_marks(claim: &Claim) {
    for at in (0..claim.memory().len()).step_by(4096) {
        access::write(claim, at, mark(at));
    }
}

fn mark(at: u64) -> u8 {
    (at / 4096 % 251) as u8
}

fn has_marks(claim: &Claim) -> bool {
    (0..claim.memory().len())
        .step_by(4096)
        .all(|at| access::read(claim, at) == mark(at))
}

fn moves(backing: &Backing) -> String {
    super::cells::clean();
    let _shmem = Setting::set(super::cells::SHMEM, backing.shmem).unwrap();
    let options = format!(
        "size={},prealloc=on,policy=bind,host-nodes=0,{}",
        backing.size, backing.options
    );
    let backend = access::new(backing.kind, &options).complete().unwrap();
    let claim = backend.claim("vm0").unwrap();
    write_marks(&claim);
    let before = backend.placement().unwrap();
    let began = Instant::now();
    backend.set("host-nodes", [1]).unwrap();
    let time = began.elapsed();
    let seen = backend.placement().unwrap();
    assert_eq!(seen.nodes, [(1, backing.size)].into(), "{seen:?}");
    assert_eq!(seen.huge, before.huge);
    assert_eq!(seen.policy, "bind:1");
    assert!(has_marks(&claim));
    super::cells::clean();
    guest::show(format!(
        "rebind {}: {} MiB in {} ms",
        backing.name,
        backing.size / MIB,
        time.as_millis()
    ));
    String::new()
}

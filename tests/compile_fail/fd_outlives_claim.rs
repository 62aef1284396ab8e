// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The descriptor cannot be kept beyond the claim.

fn main() {
    let backend = ready();
    let claim = backend.claim("vm0").unwrap();
    let fd = claim.memory().fd();
    drop(claim);
    println!("{fd:?}");
}

fn ready() -> hostmem::Backend {
    unimplemented!()
}

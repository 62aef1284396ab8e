// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A claim cannot be used after it was given up.

fn main() {
    let backend = ready();
    let claim = backend.claim("vm0").unwrap();
    drop(claim);
    claim.memory();
}

fn ready() -> hostmem::Backend {
    unimplemented!()
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory cannot be kept beyond its claim.

fn main() {
    let backend = ready();
    let claim = backend.claim("vm0").unwrap();
    let memory = claim.memory();
    drop(claim);
    println!("{:p}", memory.as_ptr());
}

fn ready() -> hostmem::Backend {
    unimplemented!()
}

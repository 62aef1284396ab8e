// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory cannot leave the function that owns its claim.

fn memory_of<'a>(claim: hostmem::Claim) -> hostmem::Memory<'a> {
    claim.memory()
}

fn main() {
    let _ = memory_of;
}

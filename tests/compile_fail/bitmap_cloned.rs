// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A pinned bitmap is its region's alone: a clone would go with memory that is another's.

use hostmem::vm_memory::v018::Pinned;

fn clone(pinned: &Pinned<()>) -> Pinned<()> {
    pinned.clone()
}

fn main() {
    let _ = clone;
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A pinned bitmap does not give its piece away.

use hostmem::vm_memory::v018::Pinned;

fn main() {
    let pinned: Pinned<()> = pinned();
    let _ = pinned.piece;
}

fn pinned() -> Pinned<()> {
    unimplemented!()
}

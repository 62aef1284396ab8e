// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A pinned bitmap is not made by hand.

use hostmem::vm_memory::v018::Pinned;

fn main() {
    let _ = Pinned {
        bitmap: (),
        piece: Some(piece()),
    };
}

fn piece() -> hostmem::Piece {
    unimplemented!()
}

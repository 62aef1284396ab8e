// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vm-memory cannot make the bitmap for memory of its own.

use hostmem::vm_memory::v018::Pinned;
use vm_memory_018::MmapRegion;

fn main() {
    let _ = MmapRegion::<Pinned<()>>::new(4096);
    let _ = Pinned::<()>::default();
}

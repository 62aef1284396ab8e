// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A builder cannot be changed after it was completed.

fn main() {
    let mut builder = hostmem::Builder::new("memory-backend-ram", "ram0").unwrap();
    let backend = builder.complete();
    builder.set("size", 4096u64).unwrap();
    drop(backend);
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A backend cannot be deleted while something of it is borrowed.

fn main() {
    let backend = ready();
    let id = backend.id();
    backend.delete().unwrap();
    println!("{id}");
}

fn ready() -> hostmem::Backend {
    unimplemented!()
}

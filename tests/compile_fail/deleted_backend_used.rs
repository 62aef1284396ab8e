// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A backend cannot be used after it was deleted.

fn main() {
    let backend = ready();
    backend.delete().unwrap();
    backend.claim("vm0").unwrap();
}

fn ready() -> hostmem::Backend {
    unimplemented!()
}

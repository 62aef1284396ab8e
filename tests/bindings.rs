// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bindings that are checked in are the ones that the header gives.

/// Set to rewrite the copy instead of comparing it.
const UPDATE: &str = "HOSTMEM_UPDATE_BINDINGS";

#[test]
fn the_copy_is_what_the_header_gives() {
    let Some(generated) = option_env!("HOSTMEM_GENERATED_BINDINGS") else {
        println!("skipped: the feature `bindgen` is off, so nothing was generated to compare with");
        return;
    };
    let copy = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bindings.rs");
    let expected = std::fs::read(generated).unwrap();
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(copy, expected).unwrap();
        return;
    }
    assert!(
        std::fs::read(copy).ok() == Some(expected),
        "src/bindings.rs is not what c/hostmem.h gives; refresh it with\n\
         {UPDATE}=1 cargo test --test bindings"
    );
}

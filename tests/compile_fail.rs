// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Programs that the compiler must refuse, each with the reason it gives.

#[test]
fn misuse_does_not_compile() {
    if std::env::var_os("HOSTMEM_SANITIZER").is_some() {
        println!("skipped: nothing of it runs, so there is nothing for a sanitizer to see");
        return;
    }
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/compile_fail/*.rs");
    if cfg!(feature = "vm-memory-018") {
        cases.compile_fail("tests/compile_fail/vm_memory/*.rs");
    }
}

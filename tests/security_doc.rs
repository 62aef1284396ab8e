// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Each test that SECURITY.md names is there.

use std::fs;
use std::path::Path;

const TEXT: &str = include_str!("../SECURITY.md");

#[test]
fn tests_that_are_named_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = 0;
    let rows = TEXT.lines().filter(|line| line.starts_with("| "));
    let cells = rows.filter_map(|line| line.trim_end_matches(" |").rsplit_once(" | "));
    for (_, tests) in cells.filter(|(_, tests)| *tests != "Test") {
        let mut words = tests.split('`').skip(1).step_by(2);
        while let Some(file) = words.next() {
            if file.starts_with("tests/") {
                // A crate in the crate is not part of its package.
                let is_packaged = !file.starts_with("tests/fuzz/");
                let is_package = !root.join("scripts").exists();
                assert!(
                    root.join(file).exists() || is_package && !is_packaged,
                    "{file}"
                );
                continue;
            }
            let source = fs::read_to_string(root.join("tests").join(file)).unwrap();
            let function = words.next().expect("a function follows its file");
            assert!(
                source.contains(&format!("#[test]\nfn {function}(")),
                "{file}: {function}"
            );
            named += 1;
        }
    }
    assert!(named > 15, "{named}");
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The order of the C files at the top of c/internal.h is true: a file calls only what stands below
//! it, or beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Whoever is left alone on the thread that fills a backend has to free it there.
const EXCEPTIONS: &[(&str, &str)] = &[("background.c", "hostmem_backend_free")];

/// Patterns of file names, from the top line to the bottom one.
fn read_layers(header: &str) -> Vec<Vec<String>> {
    let comment = header.split("*/").nth(1).unwrap();
    comment
        .lines()
        .filter_map(|line| line.strip_prefix(" *     "))
        .map(|line| line.split_whitespace().map(str::to_owned))
        .map(|words| words.take_while(|word| word.ends_with(".c")).collect())
        .filter(|files: &Vec<_>| !files.is_empty())
        .collect()
}

fn fits(file: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        Some((before, after)) => file.starts_with(before) && file.ends_with(after),
        None => file == pattern,
    }
}

/// The shared functions that a line names as it calls, declares or defines them.
fn functions(line: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.split_inclusive('(').filter_map(move |part| {
        let part = part.strip_suffix('(')?;
        let name = part.rsplit(|c| !is_word(c)).next()?;
        (name.starts_with("hm_") || name.starts_with("hostmem_")).then_some(name)
    })
}

/// A definition begins a line, a call is indented.
fn is_definition(line: &str) -> bool {
    line.starts_with(|c: char| c.is_ascii_alphabetic()) && !line.starts_with("static ")
}

#[test]
fn a_file_calls_only_what_stands_below_it() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("c");
    let layers = read_layers(&fs::read_to_string(directory.join("internal.h")).unwrap());
    let mut sources = BTreeMap::new();
    for entry in fs::read_dir(&directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".c") {
            let text = fs::read_to_string(directory.join(&name)).unwrap();
            sources.insert(name, text);
        }
    }
    let layer_of = |file: &str| {
        let has = |layer: &Vec<String>| layer.iter().any(|pattern| fits(file, pattern));
        let layer = layers.iter().position(has);
        layer.unwrap_or_else(|| panic!("{file} has no place in the order"))
    };
    let mut owners = BTreeMap::new();
    for (file, text) in &sources {
        let definitions = text.lines().filter(|line| is_definition(line));
        owners.extend(definitions.flat_map(functions).map(|name| (name, file)));
    }
    let mut calls = 0;
    for (file, text) in &sources {
        for name in text
            .lines()
            .filter(|line| !is_definition(line))
            .flat_map(functions)
        {
            let Some(owner) = owners.get(name) else {
                continue;
            };
            let allowed = EXCEPTIONS.contains(&(file.as_str(), name));
            assert!(
                allowed || layer_of(file) <= layer_of(owner),
                "{file} calls {name}() of {owner}, which stands above it"
            );
            calls += 1;
        }
    }
    assert!(calls > 500, "{calls} calls were found");
}

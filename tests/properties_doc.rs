// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! docs/properties.md is the property table, as text for people.

use std::env;
use std::fmt::Write;
use std::fs;

use hostmem::properties;
use hostmem::Property;
use hostmem::PropertyType;
use hostmem::Settable;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/properties.md");

const HEAD: &str = "# Properties

The property table of the library. Text forms: sizes are bytes in hex, or in decimal or with a fraction \
and then with one of the suffixes B K M G T P E (powers of 1024) in either case; booleans are on, yes, true, y and off, no, false, n \
(in an option string `share` alone means `share=on` and `noshare` means `share=off`, with a warning); \
sets of nodes or CPUs are ids and ranges such as `0-1,3` (in an option string `,` is written `,,`, or the key repeated).

| property | value | default | settable | kinds | |
|---|---|---|---|---|---|
";

fn value(property: &Property) -> String {
    match property.value_type() {
        PropertyType::Bool | PropertyType::Enum if !property.choices().is_empty() => {
            property.choices().join(", ")
        }
        other => format!("{other:?}").to_lowercase(),
    }
}

fn settable(property: &Property) -> &'static str {
    match property.settable() {
        Settable::Always => "always; acts at once",
        Settable::LaterUse => "always; used by the next prealloc, or on delete",
        Settable::Never => "never",
        _ => "before completing",
    }
}

fn document() -> String {
    let mut text = HEAD.to_owned();
    for property in properties() {
        let kinds = property
            .kinds()
            .map_or("all backends".into(), |kinds| kinds.join(", "));
        let default = match property.default_text() {
            "" => "none",
            default => default,
        };
        writeln!(
            text,
            "| `{}` | {} | {default} | {} | {kinds} | {} |",
            property.name(),
            value(&property),
            settable(&property),
            property.description(),
        )
        .unwrap();
    }
    text
}

#[test]
fn the_document_is_the_table() {
    if env::var_os("HOSTMEM_UPDATE_DOCS").is_some() {
        fs::write(FILE, document()).unwrap();
    }
    assert!(
        fs::read_to_string(FILE).unwrap() == document(),
        "docs/properties.md is not the table; HOSTMEM_UPDATE_DOCS=1 cargo test --test properties_doc"
    );
}

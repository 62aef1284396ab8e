// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem props`: the property table.

use std::fmt::Write;

use hostmem::properties;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::KindInfo;
use hostmem::Objects;
use hostmem::Property;
use hostmem::PropertyType;
use hostmem::Settable;
use hostmem::THREAD_CONTEXT;
use serde_json::json;

use crate::Result;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  hostmem props memory-backend-ram")]
pub(crate) struct Arguments {
    /// Only what this kind has, e.g. memory-backend-ram
    kind: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    let kinds = Objects::new(&Host::probe()?, &Defaults::qemu())?.kinds();
    if let Some(name) = &arguments.kind {
        check_kind(&kinds, name)?;
    }
    let rows: Vec<_> = properties()
        .filter(|property| has_kind(property, arguments.kind.as_deref()))
        .collect();
    Ok(if arguments.json {
        to_json(&rows)
    } else {
        to_text(&rows)
    })
}

fn check_kind(kinds: &[KindInfo], name: &str) -> Result<()> {
    if name == THREAD_CONTEXT || kinds.iter().any(|kind| kind.name == name) {
        return Ok(());
    }
    let names = kinds.iter().map(|kind| kind.name.as_str());
    let names: Vec<_> = names.chain([THREAD_CONTEXT]).collect();
    Err(format!("kind '{name}' does not exist; kinds: {}", names.join(", ")).into())
}

fn has_kind(property: &Property, kind: Option<&str>) -> bool {
    kind.is_none_or(|kind| property.is_of(kind))
}

fn type_name(property: &Property) -> String {
    match property.value_type() {
        PropertyType::Bool => "bool".into(),
        PropertyType::Size => "size".into(),
        PropertyType::Uint32 => "uint32".into(),
        PropertyType::Enum => property.choices().join("|"),
        PropertyType::Nodes => "nodes".into(),
        PropertyType::Node => "node".into(),
        PropertyType::Path => "path".into(),
        PropertyType::Fd => "fd".into(),
        PropertyType::Cpus => "cpus".into(),
        _ => "id".into(),
    }
}

fn settable_name(settable: Settable) -> &'static str {
    match settable {
        Settable::Always => "always",
        Settable::LaterUse => "for later use",
        Settable::Never => "never",
        _ => "before completing",
    }
}

fn to_text(rows: &[Property]) -> String {
    let mut text = String::new();
    for row in rows {
        let default = match row.default_text() {
            "" => "none",
            default => default,
        };
        let _ = write!(
            text,
            "{}={}\n    {}\n    default {default}; settable {}",
            row.name(),
            type_name(row),
            row.description(),
            settable_name(row.settable()),
        );
        if let Some(kinds) = row.kinds() {
            let _ = write!(text, "; only {}", kinds.join(", "));
        }
        text.push('\n');
    }
    text
}

fn to_json(rows: &[Property]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name(),
                "type": match row.value_type() {
                    PropertyType::Enum => "enum".into(),
                    _ => type_name(row),
                },
                "choices": row.choices(),
                "default": row.default_text(),
                "settable": settable_name(row.settable()),
                "kinds": row.kinds(),
                "description": row.description(),
            })
        })
        .collect();
    format!("{:#}\n", json!({ "properties": rows }))
}

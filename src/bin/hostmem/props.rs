// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem props`: the property table.

use std::ffi::OsStr;
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

use crate::object::Help;
use crate::Result;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  hostmem props memory-backend-ram")]
pub(crate) struct Arguments {
    /// Only properties of this kind, e.g. memory-backend-ram; help lists the kinds
    kind: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    let kinds = kinds()?;
    let kind = match arguments.kind.as_deref() {
        Some(text) => match Help::asked_by(OsStr::new(text)) {
            Some(Help::Kinds) if arguments.json => return Ok(kinds_to_json(&kinds)),
            Some(Help::Kinds) => return Ok(kinds_to_text(&kinds)),
            Some(Help::PropertiesOf(kind)) => Some(kind),
            None => Some(text.to_owned()),
        },
        None => None,
    };
    let rows = rows(&kinds, kind.as_deref())?;
    Ok(if arguments.json {
        to_json(&rows)
    } else {
        to_text(&rows)
    })
}

/// What an option string with `help` shows.
pub(crate) fn help(asked: &Help) -> Result<String> {
    let kinds = kinds()?;
    Ok(match asked {
        Help::Kinds => kinds_to_text(&kinds),
        Help::PropertiesOf(kind) => to_text(&rows(&kinds, Some(kind))?),
    })
}

fn kinds() -> Result<Vec<KindInfo>> {
    Ok(Objects::new(&Host::probe()?, &Defaults::qemu())?.kinds())
}

fn rows(kinds: &[KindInfo], kind: Option<&str>) -> Result<Vec<Property>> {
    if let Some(name) = kind {
        check_kind(kinds, name)?;
    }
    let rows = properties().filter(|property| has_kind(property, kind));
    Ok(rows.collect())
}

/// Names and descriptions.
fn described(kinds: &[KindInfo]) -> impl Iterator<Item = (&str, &str)> {
    let kinds = kinds.iter();
    let kinds = kinds.map(|kind| (kind.name.as_str(), kind.description.as_str()));
    kinds.chain([(
        THREAD_CONTEXT,
        "CPUs for the threads that preallocate backends.",
    )])
}

fn kinds_to_text(kinds: &[KindInfo]) -> String {
    let mut text = String::new();
    for (name, description) in described(kinds) {
        let _ = writeln!(text, "{name}\n    {description}");
    }
    text
}

fn kinds_to_json(kinds: &[KindInfo]) -> String {
    let kinds: Vec<_> = described(kinds)
        .map(|(name, description)| json!({ "name": name, "description": description }))
        .collect();
    format!("{:#}\n", json!({ "kinds": kinds }))
}

fn check_kind(kinds: &[KindInfo], name: &str) -> Result<()> {
    if described(kinds).any(|(kind, _)| kind == name) {
        return Ok(());
    }
    let names: Vec<_> = described(kinds).map(|(name, _)| name).collect();
    Err(format!("kind '{name}' does not exist; kinds: {}", names.join(", ")).into())
}

fn has_kind(property: &Property, kind: Option<&str>) -> bool {
    kind.is_none_or(|kind| property.is_of(kind))
}

fn type_name(property: &Property) -> String {
    match property.value_type() {
        PropertyType::Bool if property.choices().is_empty() => "bool".into(),
        PropertyType::Size => "size".into(),
        PropertyType::Uint32 => "uint32".into(),
        PropertyType::Bool | PropertyType::Enum => property.choices().join("|"),
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
                    PropertyType::Bool => "bool".into(),
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

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! THE table of commands: what can be called, and by which function.

use serde::Deserialize;
use serde_json::json;
use serde_json::Value as Json;

use super::answer::Answer;
use super::answer::QmpError;
use super::arguments;
use super::arguments::NoArguments;
use super::memory;
use super::monitor::Monitor;
use super::objects;
use super::prealloc;
use super::qom;
use super::rebind;

pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut Monitor, Json) -> Answer,
    pub(crate) then: Then,
}

/// What a session does when it has answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    GoOn,
    Negotiated,
    Quit,
}

/// A row whose function takes its arguments as a type of its own.
macro_rules! command {
    ($name:literal, $run:path) => {
        command!($name, $run, Then::GoOn)
    };
    ($name:literal, $run:path, $then:expr) => {
        Command {
            name: $name,
            run: |monitor, json| $run(monitor, arguments::parse($name, json)?),
            then: $then,
        }
    };
}

const COMMANDS: &[Command] = &[
    command!("object-add", objects::add),
    command!("object-del", objects::delete),
    command!("qmp_capabilities", negotiate, Then::Negotiated),
    command!("qom-get", qom::get),
    command!("qom-list", qom::list),
    command!("qom-list-properties", qom::list_properties),
    command!("qom-list-types", qom::list_types),
    command!("qom-set", qom::set),
    command!("query-commands", query_commands),
    command!("query-memdev", objects::query_memdev),
    command!("query-version", query_version),
    command!("quit", quit, Then::Quit),
    command!("x-claim", memory::claim),
    command!("x-discard", memory::discard),
    command!("x-placement", memory::placement),
    command!("x-populate", memory::populate),
    command!("x-prealloc-cancel", prealloc::cancel),
    command!("x-prealloc-status", prealloc::status),
    command!("x-rebind", rebind::rebind),
    command!("x-release", memory::release),
    command!("x-retry-contents", memory::retry_contents),
    command!("x-save", memory::save),
    command!("x-scrub", memory::scrub),
];

pub(crate) fn find(name: &str) -> Result<&'static Command, QmpError> {
    COMMANDS
        .iter()
        .find(|command| command.name == name)
        .ok_or_else(|| {
            QmpError::no_command(format!(
                "{name}: no such command; query-commands lists them"
            ))
        })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Negotiation {
    #[serde(default)]
    enable: Vec<String>,
}

/// There are no capabilities to be enabled.
fn negotiate(_: &mut Monitor, arguments: Negotiation) -> Answer {
    match arguments.enable.first() {
        None => Ok(json!({})),
        Some(name) => Err(QmpError::generic(format!(
            "enable: there is no capability {name}; the greeting lists none"
        ))),
    }
}

fn quit(_: &mut Monitor, NoArguments {}: NoArguments) -> Answer {
    Ok(json!({}))
}

fn query_commands(_: &mut Monitor, NoArguments {}: NoArguments) -> Answer {
    let name = |command: &Command| json!({ "name": command.name });
    Ok(COMMANDS.iter().map(name).collect())
}

fn query_version(_: &mut Monitor, NoArguments {}: NoArguments) -> Answer {
    Ok(version())
}

/// Our version in the members that QEMU's has.
pub(crate) fn version() -> Json {
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    json!({
        "qemu": {
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "micro": number(env!("CARGO_PKG_VERSION_PATCH")),
        },
        "package": concat!("hostmem ", env!("CARGO_PKG_VERSION")),
    })
}

#[cfg(test)]
mod tests {
    use super::COMMANDS;

    #[test]
    fn names_are_in_order_and_unique() {
        assert!(COMMANDS.is_sorted_by(|a, b| a.name < b.name));
    }
}

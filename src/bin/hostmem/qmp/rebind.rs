// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Changes policy, host nodes and home node of a ready backend in one step.

use hostmem::MoveFailure;
use hostmem::Rebind;
use hostmem::Rebound;
use serde::Deserialize;
use serde_json::json;

use super::answer::Answer;
use super::arguments;
use super::monitor::Monitor;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Wish {
    id: String,
    policy: String,
    #[serde(default)]
    host_nodes: Vec<u32>,
    #[serde(default, deserialize_with = "arguments::given")]
    home_node: Option<u32>,
}

pub(crate) fn rebind(monitor: &mut Monitor, wish: Wish) -> Answer {
    let backend = &monitor.memory(&wish.id)?.backend;
    let mut rebind = Rebind::new(wish.policy).host_nodes(wish.host_nodes);
    if let Some(node) = wish.home_node {
        rebind = rebind.home_node(node);
    }
    let Rebound {
        moved,
        not_moved,
        cause,
        ..
    } = backend.rebind(&rebind)?;
    let mut answer = json!({ "moved": moved, "not-moved": not_moved });
    if let Some(cause) = cause {
        answer["cause"] = cause_name(cause).into();
    }
    Ok(answer)
}

fn cause_name(cause: MoveFailure) -> &'static str {
    match cause {
        MoveFailure::Shared => "shared",
        MoveFailure::Full => "full",
        _ => "pinned",
    }
}

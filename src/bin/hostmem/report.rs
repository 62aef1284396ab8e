// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is said of a backend that has its memory: for people, and in JSON.

use std::fmt::Write;

use hostmem::Backend;
use hostmem::Memory;
use hostmem::Placement;
use hostmem::Policy;
use hostmem::PreallocResult;
use hostmem::Value;
use indicatif::BinaryBytes;
use serde_json::json;
use serde_json::Value as Json;

use crate::bars;
use crate::svg::Chart;
use crate::Result;

/// Columns of a bar.
const BAR: usize = 32;

/// What is said of one backend.
pub(crate) struct Report {
    id: String,
    kind: String,
    size: u64,
    page_size: u64,
    policy: String,
    host_nodes: Vec<u32>,
    placement: Placement,
    prealloc: Option<PreallocResult>,
    warnings: Vec<String>,
}

impl Report {
    /// Of a backend and its memory, as they are now.
    pub(crate) fn new(backend: &Backend, memory: Memory<'_>) -> Result<Self> {
        let placement = backend.placement()?;
        let prealloc = backend.prealloc_result();
        let host_nodes = match backend.get("host-nodes")? {
            Value::List(nodes) => nodes,
            _ => Vec::new(),
        };
        Ok(Self {
            id: backend.id().to_owned(),
            kind: backend.kind().to_owned(),
            size: memory.len(),
            page_size: memory.page_size(),
            policy: backend.get_text("policy")?,
            host_nodes,
            warnings: warnings(backend, &placement, prealloc.as_ref())?,
            placement,
            prealloc,
        })
    }

    pub(crate) fn to_json(&self) -> Json {
        let nodes: serde_json::Map<_, _> = self
            .placement
            .nodes
            .iter()
            .map(|(node, bytes)| (node.to_string(), json!(bytes)))
            .collect();
        json!({
            "id": self.id,
            "kind": self.kind,
            "size": self.size,
            "page-size": self.page_size,
            "policy": self.policy,
            "host-nodes": self.host_nodes,
            "kernel-policy": self.placement.policy,
            "resident": self.placement.resident,
            "nodes": nodes,
            "weights": self.placement.weights.iter()
                .map(|(node, weight)| (node.to_string(), json!(weight)))
                .collect::<serde_json::Map<_, _>>(),
            "huge": self.placement.huge,
            "swapped": self.placement.swapped,
            "unmapped": self.placement.unmapped,
            "unread": self.placement.unread,
            "absent": self.placement.absent,
            "satisfied": self.placement.satisfied.as_str(),
            "outside": self.placement.outside,
            "reason": self.placement.reason,
            "prealloc": self.prealloc.map(|prealloc| json!({
                "threads": prealloc.threads,
                "seconds": prealloc.duration.as_secs_f64(),
                "bytes": prealloc.bytes,
                "bytes-per-second": bytes_per_second(&prealloc) as u64,
            })),
            "warnings": self.warnings,
        })
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("{} ({})\n", self.id, self.kind);
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<16}{value}");
        };
        line("size", BinaryBytes(self.size).to_string());
        line("page size", BinaryBytes(self.page_size).to_string());
        line("policy", self.placement.policy.clone());
        if self.policy == Policy::WeightedInterleave.as_str() {
            line("weights", self.weights());
        }
        line("resident", self.share(self.placement.resident));
        for row in bars::rows(&self.placement, &self.host_nodes) {
            let bar = bars::text(row.bytes, self.size, BAR);
            line(
                &format!("  {}", row.name),
                format!("{:<20}{bar}", self.share(row.bytes)),
            );
        }
        line("huge", self.share(self.placement.huge));
        line("satisfied", self.satisfied());
        if let Some(prealloc) = &self.prealloc {
            line("threads", prealloc.threads.to_string());
            line("seconds", format!("{:.3}", prealloc.duration.as_secs_f64()));
            let speed = bytes_per_second(prealloc) / f64::from(1 << 30);
            line("speed", format!("{speed:.1} GiB/s"));
        }
        for warning in &self.warnings {
            line("warning", warning.clone());
        }
        text
    }

    /// Where the memory is, for a picture.
    pub(crate) fn chart(&self) -> Chart {
        Chart {
            title: format!("{} ({}, {})", self.id, self.kind, bars::bytes(self.size)),
            about: format!("{}; satisfied: {}", self.placement.policy, self.satisfied()),
            full: self.size as f64,
            reference: None,
            bars: bars::rows(&self.placement, &self.host_nodes)
                .iter()
                .map(|row| bars::bar(row, self.size))
                .collect(),
        }
    }

    /// How many pages in turn each node gets: `node 0: 3, node 1: 1`.
    fn weights(&self) -> String {
        let weights = self.placement.weights.iter();
        let weights = weights.map(|(node, weight)| format!("node {node}: {weight}"));
        weights.collect::<Vec<_>>().join(", ")
    }

    /// Whether the memory is where its policy wants it, and why.
    fn satisfied(&self) -> String {
        let Placement {
            satisfied, reason, ..
        } = &self.placement;
        match reason.as_str() {
            "" => satisfied.as_str().to_owned(),
            reason => format!("{}: {reason}", satisfied.as_str()),
        }
    }

    /// Bytes, and how much of the whole they are.
    fn share(&self, bytes: u64) -> String {
        let percent = 100.0 * bytes as f64 / self.size as f64;
        format!("{} ({percent:.0} %)", BinaryBytes(bytes))
    }
}

fn bytes_per_second(prealloc: &PreallocResult) -> f64 {
    prealloc.bytes as f64 / prealloc.duration.as_secs_f64()
}

/// What was done as asked and yet is not what it looks like.
fn warnings(
    backend: &Backend,
    placement: &Placement,
    prealloc: Option<&PreallocResult>,
) -> Result<Vec<String>> {
    let mut warnings = backend.warnings();
    if placement.policy_changed {
        warnings.push(format!(
            "the kernel's policy, {}, is not the one that was set",
            placement.policy
        ));
    }
    if let Some(error) = prealloc.and_then(|prealloc| prealloc.policy_error) {
        let error = std::io::Error::from_raw_os_error(error);
        warnings.push(format!(
            "the threads that preallocated could not have the policy: {error}"
        ));
    }
    if let Some(error) = prealloc.and_then(|prealloc| prealloc.affinity_error) {
        let error = std::io::Error::from_raw_os_error(error);
        warnings.push(format!(
            "no preallocation thread on the CPUs of prealloc-context or host-nodes: {error}"
        ));
    }
    Ok(warnings)
}

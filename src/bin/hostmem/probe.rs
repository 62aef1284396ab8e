// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem probe`: what this host offers.

use std::fmt::Write;

use hostmem::Host;
use hostmem::HostInfo;
use hostmem::HugePages;
use hostmem::Node;
use hostmem::Topology;
use indicatif::BinaryBytes;
use serde_json::json;
use serde_json::Map;
use serde_json::Value as Json;

use crate::Result;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  hostmem probe
  hostmem probe --json")]
pub(crate) struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    let host = Host::probe()?;
    let topology = Topology::read()?;
    Ok(if arguments.json {
        format!("{:#}\n", to_json(&host, &topology))
    } else {
        to_text(&host, &topology)
    })
}

// ---- For people ----

fn to_text(host: &Host, topology: &Topology) -> String {
    let info = host.info();
    let mut text = format!("Linux {}\n\n", info.kernel);
    write_nodes(&mut text, topology);
    let _ = writeln!(
        text,
        "\nthis process may run on CPUs {}",
        list(&topology.cpus)
    );
    write_huge_pages(&mut text, topology);
    text += "\nthis kernel and process can\n";
    for feature in host.features() {
        let word = if feature.is_available() { "yes" } else { "no" };
        let line = format!("  {:<28}{word:<5}{}", feature.name, feature.reason);
        let _ = writeln!(text, "{}", line.trim_end());
    }
    write_settings(&mut text, &info);
    text
}

fn write_nodes(text: &mut String, topology: &Topology) {
    if topology.nodes.is_empty() {
        text.push_str("this kernel has no NUMA nodes\n");
        return;
    }
    let _ = write!(
        text,
        "{:>4}  {:<12}{:>12}{:>12} ",
        "node", "CPUs", "free", "of memory"
    );
    for other in &topology.nodes {
        let _ = write!(text, "{:>6}", format!("to {}", other.id));
    }
    text.push('\n');
    for node in &topology.nodes {
        let free = BinaryBytes(node.memory_free).to_string();
        let total = BinaryBytes(node.memory_total).to_string();
        let cpus = list(&node.cpus);
        let _ = write!(text, "{:>4}  {cpus:<12}{free:>12}{total:>12} ", node.id);
        for distance in node.distances.values() {
            let _ = write!(text, "{distance:>6}");
        }
        text.push_str(match (node.allowed, node.memory_total) {
            (true, _) => "\n",
            (false, 0) => "  no memory\n",
            (false, _) => "  outside the cpuset\n",
        });
    }
}

fn write_huge_pages(text: &mut String, topology: &Topology) {
    for (index, pages) in topology.huge_pages.iter().enumerate() {
        let size = BinaryBytes(pages.page_size);
        let _ = write!(
            text,
            "huge pages of {size}: {} of {} free",
            pages.free, pages.total
        );
        if pages.reserved != 0 {
            let _ = write!(text, ", {} of them promised", pages.reserved);
        }
        if pages.overcommit != 0 {
            let _ = write!(text, ", {} more on demand", pages.overcommit);
        }
        for node in topology
            .nodes
            .iter()
            .filter(|node| node.huge_pages[index].total != 0)
        {
            let HugePages { free, total, .. } = node.huge_pages[index];
            let _ = write!(text, "; node {}: {free} of {total}", node.id);
        }
        text.push('\n');
    }
}

fn write_settings(text: &mut String, info: &HostInfo) {
    let or_none = |setting: &str| match setting {
        "" => "not in this kernel".to_owned(),
        setting => setting.to_owned(),
    };
    let limit = |bytes: Option<u64>| match bytes {
        Some(bytes) => BinaryBytes(bytes).to_string(),
        None => "unlimited".to_owned(),
    };
    let thp_size = info
        .thp_size
        .map_or("none".to_owned(), |size| BinaryBytes(size).to_string());
    text.push_str("\nsettings and limits\n");
    for (name, value) in [
        ("page", BinaryBytes(info.page_size).to_string()),
        ("transparent huge page", thp_size),
        ("  private memory", or_none(&info.thp)),
        ("  memfds", or_none(&info.thp_shmem)),
        ("page merging (KSM)", or_none(&info.merging)),
        (
            "overcommit_memory",
            info.overcommit
                .map_or("unknown".to_owned(), |mode| mode.to_string()),
        ),
        ("locked memory", limit(info.memlock_limit)),
        ("size of a file", limit(info.file_limit)),
        (
            "  in this process",
            if info.thp_disabled {
                "disabled"
            } else {
                "allowed"
            }
            .to_owned(),
        ),
        (
            "NUMA policies",
            match (info.numa, info.libnuma) {
                (false, _) => "not built in",
                (true, false) => "by system calls",
                (true, true) => "through libnuma",
            }
            .to_owned(),
        ),
    ] {
        let _ = writeln!(text, "  {name:<24}{value}");
    }
}

/// Rising numbers as ranges: `0-3,8`.
fn list(numbers: &[u32]) -> String {
    let mut text = String::new();
    let mut rest = numbers;
    while let Some(&first) = rest.first() {
        let run = rest
            .iter()
            .zip(first..)
            .take_while(|(number, next)| *number == next)
            .count();
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{first}");
        if run > 1 {
            let _ = write!(text, "-{}", rest[run - 1]);
        }
        rest = &rest[run..];
    }
    if text.is_empty() {
        "none".to_owned()
    } else {
        text
    }
}

// ---- For programs ----

fn to_json(host: &Host, topology: &Topology) -> Json {
    let info = host.info();
    let features: Map<_, _> = host
        .features()
        .into_iter()
        .map(|feature| {
            let available = feature.is_available();
            let json = json!({
                "available": available,
                "errno": feature.os_error,
                "reason": (!available).then_some(feature.reason),
            });
            (feature.name, json)
        })
        .collect();
    json!({
        "kernel": info.kernel,
        "page-size": info.page_size,
        "nodes": topology.nodes.iter().map(node_to_json).collect::<Vec<_>>(),
        "cpus": topology.cpus,
        "huge-pages": topology.huge_pages.iter().map(|pages| json!({
            "page-size": pages.page_size,
            "total": pages.total,
            "free": pages.free,
            "reserved": pages.reserved,
            "overcommit": pages.overcommit,
        })).collect::<Vec<_>>(),
        "features": features,
        "thp": {
            "size": info.thp_size,
            "enabled": info.thp,
            "shmem-enabled": info.thp_shmem,
            "disabled-in-process": info.thp_disabled,
        },
        "merging": info.merging,
        "overcommit-memory": info.overcommit,
        "limits": { "memlock": info.memlock_limit, "file-size": info.file_limit },
        "numa": info.numa,
        "libnuma": info.libnuma,
    })
}

fn node_to_json(node: &Node) -> Json {
    let distances: Map<_, _> = node
        .distances
        .iter()
        .map(|(to, distance)| (to.to_string(), json!(distance)))
        .collect();
    json!({
        "id": node.id,
        "allowed": node.allowed,
        "cpus": node.cpus,
        "memory": { "total": node.memory_total, "free": node.memory_free },
        "huge-pages": node.huge_pages.iter().map(|pages| json!({
            "page-size": pages.page_size,
            "total": pages.total,
            "free": pages.free,
        })).collect::<Vec<_>>(),
        "distances": distances,
    })
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn numbers_are_listed_as_ranges() {
        for (numbers, text) in [
            (&[][..], "none"),
            (&[3], "3"),
            (&[0, 1], "0-1"),
            (&[0, 2, 3, 4, 9], "0,2-4,9"),
        ] {
            assert_eq!(list(numbers), text);
        }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a backend's memory is, as bars: in text, or in a picture.

use hostmem::Placement;

use crate::svg;
use crate::svg::Bar;
use crate::svg::Chart;

/// A part of the memory.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) place: Place,
    /// Bytes that it would have where the policy is kept exactly.
    pub(crate) share: Option<u64>,
}

/// What a part is to the policy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On a node where it may be.
    Inside,
    /// On another node.
    Outside,
    /// On no node that can be told, or not there.
    Nowhere,
}

/// The parts of the memory: each node's, then what is on none. Without host nodes every node is as
/// good.
pub(crate) fn rows(placement: &Placement, host_nodes: &[u32]) -> Vec<Row> {
    let weights: u64 = placement
        .weights
        .values()
        .map(|&weight| u64::from(weight))
        .sum();
    let share = |node| {
        let weight = u64::from(*placement.weights.get(node)?);
        Some(placement.resident / weights * weight)
    };
    let mut nodes: Vec<_> = placement.nodes.keys().chain(host_nodes).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let on_nodes = nodes.into_iter().map(|node| Row {
        name: format!("node {node}"),
        bytes: placement.nodes.get(node).copied().unwrap_or(0),
        place: match host_nodes.is_empty() || host_nodes.contains(node) {
            true => Place::Inside,
            false => Place::Outside,
        },
        share: share(node),
    });
    let elsewhere = [
        ("others' only", placement.unmapped),
        ("swapped", placement.swapped),
        ("unread", placement.unread),
        ("absent", placement.absent),
    ];
    let elsewhere = elsewhere.into_iter().filter(|&(_, bytes)| bytes != 0);
    let elsewhere = elsewhere.map(|(name, bytes)| Row {
        name: name.to_owned(),
        bytes,
        place: Place::Nowhere,
        share: None,
    });
    on_nodes.chain(elsewhere).collect()
}

/// A bar of so many columns, to an eighth of one.
pub(crate) fn text(bytes: u64, size: u64, columns: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (bytes as f64 / size.max(1) as f64 * 8.0 * columns as f64).round() as usize;
    let eighths = eighths.min(8 * columns);
    let mut bar = "█".repeat(eighths / 8) + EIGHTHS[eighths % 8];
    let rest = columns - eighths.div_ceil(8);
    bar += &"·".repeat(rest);
    bar
}

/// `384 MiB`: three digits and their unit.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        _ if value.fract() == 0.0 => 0,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// The colours of a picture's bars by their place.
const COLOURS: [(&str, &str); 3] = [
    ("inside", "#2f6fb0"),
    ("outside", "#c4561b"),
    ("nowhere", "#8c959f"),
];

/// A picture of all charts.
pub(crate) fn picture(charts: &[Chart]) -> String {
    svg::draw(charts, &COLOURS)
}

/// A row as a bar of a picture.
pub(crate) fn bar(row: &Row, size: u64) -> Bar {
    let percent = 100.0 * row.bytes as f64 / size.max(1) as f64;
    Bar {
        label: row.name.clone(),
        value: row.bytes as f64,
        text: format!("{} ({percent:.0} %)", bytes(row.bytes)),
        class: match row.place {
            Place::Inside => "inside",
            Place::Outside => "outside",
            Place::Nowhere => "nowhere",
        },
        mark: row.share.map(|share| share as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        for (bytes, size, bar) in [
            (0, 4, "····"),
            (4, 4, "████"),
            (1, 4, "█···"),
            (1, 8, "▌···"),
            (1, 32, "▏···"),
            (31, 32, "███▉"),
            // More than all is not drawn, and nothing of nothing is nothing.
            (9, 4, "████"),
            (0, 0, "····"),
        ] {
            assert_eq!(text(bytes, size, 4), bar, "{bytes} of {size}");
        }
    }

    #[test]
    fn bytes_have_three_digits() {
        for (number, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (4096, "4 KiB"),
            (1 << 20, "1 MiB"),
            (3 << 19, "1.50 MiB"),
            ((384 << 20) + 1, "384 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }
}

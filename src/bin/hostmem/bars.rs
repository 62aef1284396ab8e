// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a backend's memory is, as bars: in text, or as a picture (SVG).

use std::fmt::Write;

use hostmem::Placement;

/// Bars for one backend.
pub(crate) struct Chart {
    pub(crate) title: String,
    /// What is said below the title.
    pub(crate) about: String,
    /// Bytes that are a whole bar.
    pub(crate) size: u64,
    pub(crate) rows: Vec<Row>,
}

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

// ---- The picture ----

const WIDTH: usize = 720;
const MARGIN: usize = 24;
const ROW: usize = 30;
const BAR: usize = 18;
/// Where bars begin, and how long a whole one is.
const LEFT: usize = 130;
const LENGTH: usize = 400;

/// All charts, one below the other.
pub(crate) fn svg(charts: &[Chart]) -> String {
    let heights = charts
        .iter()
        .map(|chart| 62 + ROW * chart.rows.len() + MARGIN);
    let height = heights.sum::<usize>() + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\">\n\
         <style>\n\
         text {{ font-family: sans-serif; font-size: 14px; fill: #24292f }}\n\
         .title {{ font-size: 17px; font-weight: bold }}\n\
         .about {{ fill: #57606a }}\n\
         .whole {{ fill: #eaeef2 }}\n\
         .inside {{ fill: #2f6fb0 }}\n\
         .outside {{ fill: #c4561b }}\n\
         .nowhere {{ fill: #8c959f }}\n\
         .share {{ stroke: #24292f; stroke-width: 2 }}\n\
         </style>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let mut top = MARGIN;
    for chart in charts {
        top = write_chart(&mut svg, chart, top);
    }
    svg += "</svg>\n";
    svg
}

/// Returns where the next one begins.
fn write_chart(svg: &mut String, chart: &Chart, top: usize) -> usize {
    let title = escape(&chart.title);
    let about = escape(&chart.about);
    let _ = writeln!(
        svg,
        "<text class=\"title\" x=\"{MARGIN}\" y=\"{}\">{title}</text>",
        top + 16
    );
    let _ = writeln!(
        svg,
        "<text class=\"about\" x=\"{MARGIN}\" y=\"{}\">{about}</text>",
        top + 40
    );
    let mut top = top + 62;
    for row in &chart.rows {
        write_row(svg, row, chart.size, top);
        top += ROW;
    }
    top + MARGIN
}

fn write_row(svg: &mut String, row: &Row, size: u64, top: usize) {
    let length = |bytes: u64| bytes as f64 / size.max(1) as f64 * LENGTH as f64;
    let class = match row.place {
        Place::Inside => "inside",
        Place::Outside => "outside",
        Place::Nowhere => "nowhere",
    };
    let base = top + BAR - 4;
    let _ = writeln!(
        svg,
        "<text x=\"{MARGIN}\" y=\"{base}\">{}</text>",
        escape(&row.name)
    );
    for (class, length) in [("whole", LENGTH as f64), (class, length(row.bytes))] {
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{top}\" width=\"{length:.1}\" \
             height=\"{BAR}\" rx=\"3\"/>"
        );
    }
    if let Some(share) = row.share {
        let x = LEFT as f64 + length(share);
        let (from, to) = (top - 3, top + BAR + 3);
        let _ = writeln!(
            svg,
            "<line class=\"share\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from}\" y2=\"{to}\"/>"
        );
    }
    let percent = 100.0 * row.bytes as f64 / size.max(1) as f64;
    let value = format!("{} ({percent:.0} %)", bytes(row.bytes));
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{base}\">{value}</text>",
        LEFT + LENGTH + 14
    );
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;")
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

    #[test]
    fn a_picture_has_a_bar_for_each_row() {
        let row = |name: &str, bytes, place, share| Row {
            name: name.to_owned(),
            bytes,
            place,
            share,
        };
        let chart = Chart {
            title: "ram0 <&>".into(),
            about: String::new(),
            size: 100,
            rows: vec![
                row("node 0", 75, Place::Inside, Some(50)),
                row("node 3", 20, Place::Outside, None),
                row("absent", 5, Place::Nowhere, None),
            ],
        };
        let svg = svg(&[chart]);
        assert!(svg.contains("ram0 &lt;&amp;&gt;"), "{svg}");
        for (class, width) in [("inside", 300), ("outside", 80), ("nowhere", 20)] {
            let bar = format!("class=\"{class}\" x=\"130\"");
            let line = svg.lines().find(|line| line.contains(&bar)).unwrap();
            assert!(line.contains(&format!("width=\"{width}.0\"")), "{line}");
        }
        assert_eq!(svg.matches("class=\"share\"").count(), 1);
        assert!(svg.contains("x1=\"330.0\""), "{svg}");
    }
}

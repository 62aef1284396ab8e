// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The comparisons as a picture: a bar for each, a line across it at its target.

use crate::cases::Target;
use crate::svg;
use crate::svg::Bar;
use crate::svg::Chart;
use crate::table::Row;
use crate::table::Verdict;

const COLOURS: [(&str, &str); 4] = [
    ("reached", "#2a7f62"),
    ("missed", "#c0563b"),
    ("not-judged", "#9a9a9a"),
    ("no-target", "#6f8fb3"),
];

fn chart(title: &str, bars: Vec<Bar>) -> Chart {
    let marks = bars.iter().filter_map(|bar| bar.mark);
    let values = bars.iter().map(|bar| bar.value);
    Chart {
        title: title.into(),
        about: "Least times of both. Dashed line: 1. Solid line: target. Green: reached, red: \
                missed, grey: not judged, blue: no target."
            .into(),
        full: values.chain(marks).fold(1.0, f64::max),
        reference: Some(1.0),
        bars,
    }
}

fn bar(row: &Row, value: f64, target: Option<f64>) -> Bar {
    Bar {
        label: format!("{} | {}", row.title, row.other),
        value,
        text: format!("{value:.2}"),
        class: match row.verdict {
            Verdict::Reached => "reached",
            Verdict::Missed => "missed",
            Verdict::NotJudged => "not-judged",
            Verdict::None => "no-target",
        },
        mark: target,
    }
}

pub fn draw(rows: &[Row]) -> String {
    let speed = rows.iter().filter_map(|row| match row.target {
        Target::Faster(target) => Some(bar(row, row.speed_up(), target)),
        _ => None,
    });
    let cost = rows.iter().filter_map(|row| match row.target {
        Target::Within(target) => Some(bar(row, row.cost(), Some(target))),
        _ => None,
    });
    let charts = [
        chart(
            "Speedup: time of the other / time of hostmem",
            speed.collect(),
        ),
        chart(
            "Overhead: time of hostmem / time of the other",
            cost.collect(),
        ),
    ];
    svg::draw(&charts, &COLOURS)
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What was measured as a picture: a bar for each comparison, a tick for its target.

use std::fmt::Write;

use crate::cases::Target;
use crate::table::Row;
use crate::table::Verdict;

const LEFT: f64 = 470.0;
const WIDTH: f64 = 400.0;
const STEP: f64 = 22.0;
/// Of a chart's title.
const HEAD: f64 = 44.0;

struct Bar<'a> {
    row: &'a Row,
    value: f64,
    target: Option<f64>,
}

fn colour(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Reached => "#2a7f62",
        Verdict::Missed => "#c0563b",
        Verdict::None => "#6f8fb3",
        Verdict::NotJudged => "#9a9a9a",
    }
}

/// Returns where the next chart begins.
fn draw_chart(svg: &mut String, top: f64, title: &str, bars: &[Bar<'_>]) -> f64 {
    let longest = bars.iter().fold(1.0, |most: f64, bar| {
        most.max(bar.value).max(bar.target.unwrap_or(1.0))
    });
    let at = |value: f64| LEFT + WIDTH * value / longest;
    let bottom = top + HEAD + STEP * bars.len() as f64;
    let _ = writeln!(
        svg,
        r##"<text x="10" y="{:.0}" font-size="14">{title}</text>"##,
        top + 24.0
    );
    for (index, bar) in bars.iter().enumerate() {
        draw_bar(svg, top + HEAD + STEP * index as f64, bar, at);
    }
    let one = at(1.0);
    let _ = writeln!(
        svg,
        r##"<line x1="{one:.1}" x2="{one:.1}" y1="{:.1}" y2="{bottom:.1}" stroke="#222" stroke-dasharray="3 3"/>
<text x="{one:.1}" y="{:.1}" text-anchor="middle">1</text>"##,
        top + HEAD,
        bottom + 14.0
    );
    bottom + 24.0
}

fn draw_bar(svg: &mut String, y: f64, bar: &Bar<'_>, at: impl Fn(f64) -> f64) {
    let end = at(bar.value);
    let _ = writeln!(
        svg,
        r##"<text x="{:.0}" y="{:.1}" text-anchor="end">{} | {}</text>
<rect x="{LEFT}" y="{:.1}" width="{:.1}" height="14" fill="{}"/>
<text x="{:.1}" y="{:.1}">{:.2}</text>"##,
        LEFT - 8.0,
        y + 12.0,
        bar.row.title,
        bar.row.other,
        y + 1.0,
        end - LEFT,
        colour(bar.row.verdict),
        bar.target.map_or(end, |target| end.max(at(target))) + 6.0,
        y + 12.0,
        bar.value,
    );
    if let Some(target) = bar.target.map(at) {
        let _ = writeln!(
            svg,
            r##"<line x1="{target:.1}" x2="{target:.1}" y1="{:.1}" y2="{:.1}" stroke="#222" stroke-width="2"/>"##,
            y - 1.0,
            y + 17.0
        );
    }
}

pub fn draw(rows: &[Row]) -> String {
    let speed: Vec<_> = rows
        .iter()
        .filter_map(|row| match row.target {
            Target::Faster(target) => Some(Bar {
                row,
                value: row.speed_up(),
                target,
            }),
            _ => None,
        })
        .collect();
    let cost: Vec<_> = rows
        .iter()
        .filter_map(|row| match row.target {
            Target::Within(target) => Some(Bar {
                row,
                value: row.cost(),
                target: Some(target),
            }),
            _ => None,
        })
        .collect();
    let mut charts = String::new();
    let middle = draw_chart(&mut charts, 0.0, "Times as fast as the other", &speed);
    let bottom = draw_chart(&mut charts, middle, "Times as long as the other", &cost);
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="940" height="{bottom:.0}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="#fff"/>
{charts}<text x="{LEFT}" y="24" fill="#555">bar: least times of both; tick: target; green reached, red missed, grey not judged, blue no target</text>
</svg>
"##
    )
}

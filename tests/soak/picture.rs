// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The samples as a picture.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The samples, by the names of their columns.
struct Samples {
    columns: BTreeMap<String, usize>,
    rows: Vec<Vec<String>>,
}

impl Samples {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines();
        let header = lines.next().unwrap().split(',').map(str::to_owned);
        Self {
            columns: header.enumerate().map(|(at, name)| (name, at)).collect(),
            rows: lines
                .map(|line| line.split(',').map(str::to_owned).collect())
                .collect(),
        }
    }

    fn points(&self, name: &str, wanted: impl Fn(&str) -> bool) -> Vec<(f64, f64)> {
        let at = self.columns[name];
        let rows = self.rows.iter().filter(|row| wanted(&row[1]));
        rows.filter_map(|row| Some((row[0].parse().ok()?, row[at].parse().ok()?)))
            .collect()
    }

    fn end(&self) -> f64 {
        let last = self.rows.last().map(|row| row[0].parse().unwrap());
        last.unwrap_or(1.0)
    }
}

struct Line {
    label: String,
    points: Vec<(f64, f64)>,
}

/// Points of a line; of hours each is the largest of several.
const MOST_POINTS: usize = 240;

fn line(label: impl Into<String>, points: Vec<(f64, f64)>) -> Line {
    let largest = |points: &[(f64, f64)]| {
        let value = points.iter().map(|point| point.1).fold(0.0, f64::max);
        (points[0].0, value)
    };
    let group = points.len().div_ceil(MOST_POINTS).max(1);
    Line {
        label: label.into(),
        points: points.chunks(group).map(largest).collect(),
    }
}

/// Lines over the time, and at their right what they are; with `tenfold` each step of the scale is ten times the one before.
fn chart(area: &Area<'_>, title: &str, end: f64, lines: &[Line], tenfold: bool) {
    let values = lines.iter().flat_map(|line| &line.points);
    let top = values.fold(1.0f64, |top, point| top.max(point.1)) * 1.1;
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(70);
    macro_rules! draw {
        ($scale:expr) => {{
            let mut chart = builder.build_cartesian_2d(0.0..end * 1.2, $scale).unwrap();
            let mesh = &mut chart.configure_mesh();
            mesh.x_desc("seconds").light_line_style(TRANSPARENT);
            mesh.draw().unwrap();
            for (index, line) in lines.iter().enumerate() {
                let colour = Palette99::pick(index).to_rgba();
                let series = LineSeries::new(line.points.iter().copied(), colour);
                let key = move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour);
                let drawn = chart.draw_series(series).unwrap();
                drawn.label(&line.label).legend(key);
            }
            let labels = &mut chart.configure_series_labels();
            labels.position(SeriesLabelPosition::UpperRight);
            labels.background_style(WHITE.mix(0.8)).draw().unwrap();
        }};
    }
    match tenfold {
        true => draw!((1.0..top).log_scale()),
        false => draw!(0.0..top),
    }
}

/// Draws soak.csv of a directory as soak.svg there.
pub fn draw(directory: &Path) {
    let samples = Samples::read(&directory.join("soak.csv"));
    let path = directory.join("soak.svg");
    let root = SVGBackend::new(&path, (960, 1300)).into_drawing_area();
    root.fill(&WHITE).unwrap();
    let areas = root.split_evenly((5, 1));
    let is_idle = |round: &str| round == "idle";
    let idle = |name: &str| samples.points(name, is_idle);
    let busy = |name: &str| samples.points(name, |round| !is_idle(round));
    let mib = |points: Vec<(f64, f64)>| points.into_iter().map(|(x, y)| (x, y / 1024.0)).collect();
    let end = samples.end();

    let memory = [
        line("soak", mib(idle("soak-rss-kib"))),
        line("hostmem qmp", mib(idle("qmp-rss-kib"))),
        line("hostmem pool", mib(idle("pool-rss-kib"))),
    ];
    chart(&areas[0], "Own memory while idle, MiB", end, &memory, false);
    let things = ["descriptors", "threads", "mappings"];
    let has = ["soak", "qmp", "pool"].iter().flat_map(|process| {
        let name = move |what| format!("{process}-{what}");
        things.map(|what| line(format!("{process} {what}"), idle(&name(what))))
    });
    let has: Vec<_> = has.collect();
    chart(
        &areas[1],
        "Descriptors, threads, mappings while idle",
        end,
        &has,
        true,
    );
    let working = [line("soak", mib(busy("soak-rss-kib")))];
    chart(
        &areas[2],
        "Own memory while working, MiB",
        end,
        &working,
        false,
    );
    let latencies = |what: &str| -> Vec<_> {
        [
            "create",
            "restore",
            "discard",
            "scrub",
            "pool-take",
            "qmp",
            "delete",
        ]
        .map(|name| line(name, busy(&format!("{name}-{what}"))))
        .into()
    };
    chart(&areas[3], "Medians, us", end, &latencies("median-us"), true);
    chart(
        &areas[4],
        "99 percent are below, us",
        end,
        &latencies("p99-us"),
        true,
    );
    root.present().unwrap();
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bar charts as an SVG picture. The benchmark `peers` uses this file too.

use std::fmt::Write;

/// Bars below a title.
pub(crate) struct Chart {
    pub(crate) title: String,
    /// Printed below the title.
    pub(crate) about: String,
    /// The value whose bar has the full length.
    pub(crate) full: f64,
    /// A value that all bars are compared with, drawn as a dashed line.
    pub(crate) reference: Option<f64>,
    pub(crate) bars: Vec<Bar>,
}

/// A labelled bar, its value as text at its right.
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    pub(crate) text: String,
    /// The CSS class that gives the colour.
    pub(crate) class: &'static str,
    /// A value to compare with, drawn as a line across the bar.
    pub(crate) mark: Option<f64>,
}

const MARGIN: f64 = 24.0;
/// Title and text above the bars of a chart.
const HEAD: f64 = 56.0;
const ROW: f64 = 28.0;
const BAR: f64 = 16.0;
/// Length of a full bar.
const LENGTH: f64 = 400.0;
/// Room for a value.
const VALUE: f64 = 130.0;
/// Room for a character, above the average of wide fonts: the reader's decides, and is not known.
const CHARACTER: f64 = 7.0;
/// The same in a title, which is larger and bold.
const TITLE_CHARACTER: f64 = 10.0;

/// All charts, one below the other. Colours are pairs of a class and its colour.
pub(crate) fn draw(charts: &[Chart], colours: &[(&str, &str)]) -> String {
    let (left, width) = columns(charts);
    let mut body = String::new();
    let mut top = MARGIN;
    for chart in charts {
        top = write_chart(&mut body, chart, left, top);
    }
    let colours = colours
        .iter()
        .map(|(class, colour)| format!(".{class} {{ fill: {colour} }}\n"));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {top:.0}\" \
         width=\"{width:.0}\" height=\"{top:.0}\">\n\
         <style>\n\
         text {{ font: 13px sans-serif; fill: #24292f }}\n\
         .title {{ font-size: 16px; font-weight: bold }}\n\
         .about {{ fill: #57606a }}\n\
         .full {{ fill: #eaeef2 }}\n\
         .mark {{ stroke: #24292f; stroke-width: 2 }}\n\
         .reference {{ stroke: #24292f; stroke-dasharray: 3 3 }}\n\
         {}</style>\n\
         <rect width=\"{width:.0}\" height=\"{top:.0}\" fill=\"white\"/>\n\
         {body}</svg>\n",
        colours.collect::<String>()
    )
}

/// Where bars begin, and the width of the picture: no text is cut off.
fn columns(charts: &[Chart]) -> (f64, f64) {
    let room = |text: &str, character: f64| text.chars().count() as f64 * character;
    let bars = charts.iter().flat_map(|chart| &chart.bars);
    let labels = bars.map(|bar| room(&bar.label, CHARACTER));
    let left = MARGIN + labels.fold(0.0, f64::max) + 8.0;
    let heads = charts.iter().map(|chart| {
        let (title, about) = (&chart.title, &chart.about);
        2.0 * MARGIN + room(title, TITLE_CHARACTER).max(room(about, CHARACTER))
    });
    (left, heads.fold(left + LENGTH + VALUE, f64::max))
}

/// Returns where the next one begins.
fn write_chart(svg: &mut String, chart: &Chart, left: f64, top: f64) -> f64 {
    write_head(svg, chart, top);
    let top = top + HEAD;
    let mut bottom = top;
    for bar in &chart.bars {
        write_bar(svg, bar, chart.full, left, bottom);
        bottom += ROW;
    }
    if let Some(reference) = chart.reference {
        write_line(
            svg,
            "reference",
            left + length(reference, chart.full),
            top,
            bottom,
        );
    }
    bottom + MARGIN
}

fn length(value: f64, full: f64) -> f64 {
    // Nothing of nothing is nothing.
    (value / full.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0) * LENGTH
}

fn write_line(svg: &mut String, class: &str, x: f64, from: f64, to: f64) {
    let _ = writeln!(
        svg,
        r#"<line class="{class}" x1="{x:.1}" x2="{x:.1}" y1="{from}" y2="{to}"/>"#
    );
}

fn write_head(svg: &mut String, chart: &Chart, top: f64) {
    for (class, text, y) in [("title", &chart.title, 14.0), ("about", &chart.about, 36.0)] {
        let (y, text) = (top + y, escape(text));
        let _ = writeln!(
            svg,
            r#"<text class="{class}" x="{MARGIN}" y="{y}">{text}</text>"#
        );
    }
}

fn write_bar(svg: &mut String, bar: &Bar, full: f64, left: f64, top: f64) {
    let (label, text) = (escape(&bar.label), escape(&bar.text));
    let (base, right) = (top + 12.5, left + LENGTH + 10.0);
    let _ = writeln!(
        svg,
        r#"<text x="{:.1}" y="{base}" text-anchor="end">{label}</text>
<text x="{right:.1}" y="{base}">{text}</text>"#,
        left - 8.0
    );
    for (class, width) in [("full", LENGTH), (bar.class, length(bar.value, full))] {
        let _ = writeln!(
            svg,
            r#"<rect class="{class}" x="{left:.1}" y="{top}" width="{width:.1}" height="{BAR}"/>"#
        );
    }
    if let Some(mark) = bar.mark {
        write_line(
            svg,
            "mark",
            left + length(mark, full),
            top - 3.0,
            top + BAR + 3.0,
        );
    }
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, value: f64, class: &'static str, mark: Option<f64>) -> Bar {
        Bar {
            label: label.into(),
            value,
            text: format!("{value} <"),
            class,
            mark,
        }
    }

    fn draw_bars(about: &str, bars: Vec<Bar>) -> String {
        let chart = Chart {
            title: "ram0 <&>".into(),
            about: about.into(),
            full: 100.0,
            reference: Some(25.0),
            bars,
        };
        draw(&[chart], &[("inside", "#123456")])
    }

    /// The number of an attribute in a line.
    fn number(line: &str, attribute: &str) -> f64 {
        let (_, rest) = line.split_once(&format!(" {attribute}=\"")).unwrap();
        rest.split('"').next().unwrap().parse().unwrap()
    }

    /// The line that draws what has a class.
    fn line_of<'a>(svg: &'a str, class: &str) -> &'a str {
        let class = format!("class=\"{class}\" x");
        svg.lines().find(|line| line.contains(&class)).unwrap()
    }

    #[test]
    fn a_picture_has_a_bar_for_each_row() {
        let svg = draw_bars(
            "",
            vec![
                bar("node 0", 75.0, "inside", Some(50.0)),
                bar("node 3", 20.0, "outside", None),
                bar("absent", 5.0, "nowhere", None),
                bar("more than full", 500.0, "excess", None),
            ],
        );
        assert!(svg.contains("ram0 &lt;&amp;&gt;"), "{svg}");
        assert!(svg.contains(">75 &lt;<"), "{svg}");
        assert!(svg.contains(".inside { fill: #123456 }"), "{svg}");
        for (class, width) in [
            ("inside", 300.0),
            ("outside", 80.0),
            ("nowhere", 20.0),
            ("excess", 400.0),
        ] {
            assert_eq!(number(line_of(&svg, class), "width"), width, "{svg}");
        }
        let begin = number(line_of(&svg, "inside"), "x");
        for (class, at) in [("mark", 200.0), ("reference", 100.0)] {
            assert_eq!(svg.matches(&format!("class=\"{class}\"")).count(), 1);
            assert_eq!(number(line_of(&svg, class), "x1"), begin + at, "{svg}");
        }
    }

    #[test]
    fn a_picture_is_as_wide_as_its_texts() {
        // Wider than any character of a usual text is on average.
        let room = 120.0 * 6.6;
        let text = "n".repeat(120);
        let svg = draw_bars(
            "",
            vec![bar(&text, 100.0, "inside", None), bar("b", 1.0, "b", None)],
        );
        let label = svg.lines().find(|line| line.contains(&text)).unwrap();
        assert!(number(label, "x") >= room, "{label}");
        let bar_end = number(line_of(&svg, "inside"), "x") + LENGTH;
        assert!(number(&svg, "width") > bar_end + 100.0, "{svg}");

        let svg = draw_bars(&text, vec![bar("b", 1.0, "b", None)]);
        assert!(number(&svg, "width") >= number(line_of(&svg, "about"), "x") + room);
    }
}

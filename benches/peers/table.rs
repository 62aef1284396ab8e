// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The results with their verdicts, as Markdown tables.

use std::fmt::Write;
use std::time::Duration;

use crate::cases::Side;
use crate::cases::Target;
use crate::cases::GIB;
use crate::cases::THREADS;
use crate::measure::Measured;

/// The least speedup of a plain loop by a second CPU for a case of two threads to be judged.
const NEEDED_SECOND_CPU: f64 = 1.7;

#[derive(Clone, Copy, PartialEq)]
pub enum Verdict {
    /// There is no target.
    None,
    Reached,
    Missed,
    /// The second CPU was busy elsewhere.
    NotJudged,
}

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Verdict::None => "",
            Verdict::Reached => "reached",
            Verdict::Missed => "missed",
            Verdict::NotJudged => "not judged",
        }
    }
}

/// One comparison.
pub struct Row {
    pub title: String,
    pub other: &'static str,
    hostmem: Duration,
    other_time: Duration,
    pub target: Target,
    pub verdict: Verdict,
    second_cpu: Option<f64>,
}

fn ratio(time: Duration, by: Duration) -> f64 {
    time.as_secs_f64() / by.as_secs_f64()
}

impl Row {
    /// Time of the other / time of hostmem.
    pub fn speed_up(&self) -> f64 {
        ratio(self.other_time, self.hostmem)
    }

    /// Time of hostmem / time of the other.
    pub fn cost(&self) -> f64 {
        ratio(self.hostmem, self.other_time)
    }

    /// Whether the speedup is reported, not the overhead.
    pub fn is_speed(&self) -> bool {
        matches!(self.target, Target::Faster(_))
    }

    fn judge(&mut self, without_second_cpu: bool) {
        let reached = match self.target {
            Target::Faster(None) => return,
            Target::Faster(Some(times)) => self.speed_up() >= times,
            Target::Within(times) => self.cost() <= times,
            Target::Below(time) => self.hostmem <= time,
        };
        let has_second_cpu = self.second_cpu.is_none_or(|gain| gain >= NEEDED_SECOND_CPU);
        self.verdict = match reached {
            _ if !has_second_cpu && !without_second_cpu => Verdict::NotJudged,
            true => Verdict::Reached,
            false => Verdict::Missed,
        };
    }
}

/// A row for each side that hostmem was compared with.
pub fn rows(measured: &[Measured]) -> Vec<Row> {
    let mut rows = Vec::new();
    for result in measured {
        for ((side, target), time) in result.case.others.iter().zip(&result.others) {
            let Some(time) = time else { continue };
            let mut row = Row {
                title: result.case.title(),
                other: side.name(),
                hostmem: result.hostmem,
                other_time: *time,
                target: *target,
                verdict: Verdict::None,
                second_cpu: result.second_cpu,
            };
            // By default QEMU has one thread, and starting in the background needs one CPU.
            let without_second_cpu = matches!(side, Side::Qemu) && result.case.threads.is_none();
            row.judge(without_second_cpu || matches!(target, Target::Below(_)));
            rows.push(row);
        }
    }
    rows
}

fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1e3;
    match milliseconds {
        less if less < 10.0 => format!("{less:.3}"),
        more => format!("{more:.1}"),
    }
}

fn times(number: Option<f64>) -> String {
    number.map_or(String::new(), |number| format!("{number:.2}"))
}

pub fn speed(rows: &[Row]) -> String {
    let mut text = String::from(
        "| case | hostmem ms | compared with | its ms | times as fast | target | result | second CPU |\n\
         |---|--:|---|--:|--:|--:|---|--:|\n",
    );
    for row in rows.iter().filter(|row| row.is_speed()) {
        let target = match row.target {
            Target::Faster(Some(times)) => format!("≥ {times:.1}"),
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.2} | {target} | {} | {} |",
            row.title,
            milliseconds(row.hostmem),
            row.other,
            milliseconds(row.other_time),
            row.speed_up(),
            row.verdict.text(),
            times(row.second_cpu),
        );
    }
    text
}

pub fn cost(rows: &[Row]) -> String {
    let mut text = String::from(
        "| case | hostmem ms | compared with | its ms | times as long | target | result | second CPU |\n\
         |---|--:|---|--:|--:|--:|---|--:|\n",
    );
    for row in rows.iter().filter(|row| !row.is_speed()) {
        let target = match row.target {
            Target::Within(times) => format!("≤ {times:.2}"),
            Target::Below(time) => format!("≤ {} ms", time.as_secs_f64() * 1e3),
            Target::Faster(_) => String::new(),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.3} | {target} | {} | {} |",
            row.title,
            milliseconds(row.hostmem),
            row.other,
            milliseconds(row.other_time),
            row.cost(),
            row.verdict.text(),
            times(row.second_cpu),
        );
    }
    text
}

/// GiB/s by number of threads.
pub fn scaling(measured: &[Measured]) -> String {
    let columns = THREADS.map(|threads| format!(" {threads} |")).concat();
    let mut text = format!(
        "| GiB/s with threads: |{columns} 2 threads / 1 | second CPU |\n|---|{}--:|--:|\n",
        "--:|".repeat(THREADS.len())
    );
    for result in measured {
        let gib = result.case.size as f64 / GIB as f64;
        let others = result.others.iter().flatten().copied();
        let times: Vec<_> = [result.hostmem].into_iter().chain(others).collect();
        let _ = write!(text, "| {} |", result.case.name);
        for time in &times {
            let _ = write!(text, " {:.2} |", gib / time.as_secs_f64());
        }
        let _ = writeln!(
            text,
            " {:.2} | {} |",
            ratio(times[0], times[1]),
            self::times(result.second_cpu)
        );
    }
    text
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Compares the time hostmem takes to preallocate memory with a running QEMU, with vm-memory and
//! with the bare system calls: see docs/benchmarks.md.

#[path = "../bare/mod.rs"]
mod bare;
mod cases;
mod cpus;
/// The tests' helpers that change settings of the host.
#[allow(dead_code)]
#[path = "../../tests/common/host.rs"]
mod host;
mod interrupt;
mod machine;
mod measure;
mod notes;
mod ours;
mod peers;
mod picture;
mod qemu;
#[path = "../qmp/mod.rs"]
mod qmp;
mod ready;
/// The command's SVG writer. Its tests run with the command.
#[allow(dead_code)]
#[path = "../../src/bin/hostmem/svg.rs"]
mod svg;
mod table;
mod zeroing;

use std::env;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use measure::World;

/// Rounds of each case; the least time counts.
const ROUNDS: usize = 9;
const QUICK_ROUNDS: usize = 2;

/// Called by the helpers above when a setting of the host cannot be changed.
fn skip(why: &str) {
    notes::add(format!("skipped: {why}"));
}

struct Options {
    /// Set by `cargo bench`; `cargo test --benches` measures nothing.
    measures: bool,
    rounds: usize,
    /// Where benchmarks-peers.md and .svg go.
    write: Option<PathBuf>,
    /// Parts of the titles of the cases to measure.
    wanted: Vec<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            measures: false,
            rounds: ROUNDS,
            write: None,
            wanted: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => options.measures = true,
                "--quick" => options.rounds = QUICK_ROUNDS,
                "--write" => {
                    options.write =
                        Some(arguments.next().ok_or("--write needs a directory")?.into())
                }
                flag if flag.starts_with('-') => return Err(format!("{flag} is unknown")),
                _ => options.wanted.push(argument),
            }
        }
        Ok(options)
    }
}

/// The conditions of the run.
fn conditions(world: &World, load_before: &str, rounds: usize) -> String {
    let version = world.qemu.as_ref().map(|qemu| qemu.version.as_str());
    format!(
        "CPU: {}, {} CPUs. Linux {}.\n\
         hostmem {}, QEMU {}, vm-memory 0.18.\n\
         Load average {load_before} before and {} after.\n\
         Transparent huge pages: {}; for shared memory: {}.\n\
         Least times of {rounds} rounds or more.\n",
        zeroing::cpu_name(),
        machine::cpus(),
        machine::kernel(),
        env!("CARGO_PKG_VERSION"),
        version.unwrap_or("(none)"),
        machine::load_average(),
        machine::thp_setting("enabled"),
        machine::thp_setting("shmem_enabled"),
    )
}

fn run(options: &Options) -> io::Result<()> {
    if let Some(directory) = &options.write {
        prepare(directory)?;
    }
    interrupt::catch();
    let load = machine::load_average();
    let mut world = World::new().map_err(io::Error::from)?;
    machine::warm_up(&world.objects);
    let (wanted, rounds) = (&options.wanted, options.rounds);
    let compared = measure::measure_all(&mut world, cases::comparisons(), wanted, rounds);
    let scaled = measure::measure_all(&mut world, cases::scaling(), wanted, rounds);
    let rows = table::rows(&compared);
    let zeroing = zeroing::report(&world.objects);

    let mut report = format!(
        "# Preallocation compared\n\nMade by `make bench-peers WRITE=docs`.\n\
         [benchmarks.md](benchmarks.md) says what is compared and how to read it.\n\n{}\n{zeroing}",
        conditions(&world, &load, rounds)
    );
    let _ = write!(
        report,
        "\n## Speedup\n\nTime of the other / time of hostmem.\n\n{}",
        table::speed(&rows)
    );
    let _ = write!(
        report,
        "\n## Overhead\n\nTime of hostmem / time of the other.\n\n{}",
        table::cost(&rows)
    );
    let _ = write!(report, "\n## More threads\n\n{}", table::scaling(&scaled));
    let notes = notes::all();
    if !notes.is_empty() {
        let _ = write!(report, "\n## Notes\n\n");
    }
    for note in notes {
        let _ = writeln!(report, "- {note}");
    }
    println!("{report}");
    let Some(directory) = &options.write else {
        return Ok(());
    };
    let link = "\n![the comparisons as bars](benchmarks-peers.svg)\n";
    write(&directory.join("benchmarks-peers.md"), report + link)?;
    write(
        &directory.join("benchmarks-peers.svg"),
        picture::draw(&rows),
    )
}

/// Creates the directory if it is missing and tries to write there, before ten minutes of measuring.
fn prepare(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)
        .and_then(|()| tempfile::tempfile_in(directory))
        .map(drop)
        .map_err(|error| named(directory, error))
}

fn write(file: &Path, text: String) -> io::Result<()> {
    fs::write(file, text).map_err(|error| named(file, error))
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("--write: {}: {error}", path.display()),
    )
}

fn main() -> ExitCode {
    if env::args()
        .nth(1)
        .is_some_and(|argument| argument == cpus::HOG)
    {
        cpus::be_hog();
    }
    let options = match Options::parse(env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}; usage: [--quick] [--write DIRECTORY] [part of a case's title]...");
            return ExitCode::from(2);
        }
    };
    if !options.measures {
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

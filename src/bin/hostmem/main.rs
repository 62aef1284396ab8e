// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem`: try a memory configuration before anything is booted on it.

mod alloc;
mod bars;
mod generate;
mod json;
mod object;
mod pool;
mod probe;
mod progress;
mod props;
mod qmp;
mod report;
mod signals;
mod svg;

use std::error::Error;
use std::io;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

/// Try host memory backends: list their properties, create them on this host, see the placement.
#[derive(Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "Examples:
  hostmem probe                            what this host offers
  hostmem props memory-backend-file        the properties of this kind
  hostmem alloc memory-backend-ram,id=ram0,size=1G,host-nodes=0,policy=bind,prealloc=on
  hostmem qmp --socket /run/hostmem.sock   the same for other programs, over QMP

`hostmem help alloc` has more of them."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Report what this host offers: nodes, huge pages, kernel features, limits
    Probe(probe::Arguments),
    /// List the properties of a kind, or of all
    Props(props::Arguments),
    /// Create backends and report their placement
    Alloc(alloc::Arguments),
    /// Create backends on request: speak QMP, as QEMU does
    Qmp(qmp::Arguments),
    /// Keep memory ready and hand it out over a unix socket
    Pool(pool::Arguments),
    /// Run a program with memory from a pool
    Take(pool::TakeArguments),
    /// Print completions for a shell
    Completions(generate::CompletionsArguments),
    /// Print a manual page
    Man(generate::ManArguments),
}

/// An error ends the program with one message and exit code 1.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Probe(arguments) => probe::run(&arguments),
        Command::Props(arguments) => props::run(&arguments),
        Command::Alloc(arguments) => alloc::run(&arguments),
        Command::Qmp(arguments) => qmp::run(&arguments),
        Command::Pool(arguments) => pool::run(&arguments),
        Command::Take(arguments) => pool::take(&arguments),
        Command::Completions(arguments) => generate::completions(&arguments),
        Command::Man(arguments) => generate::man(&arguments),
    };
    match result.and_then(|text| print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A reader that has gone away ends the program without a word, as it does `cat`.
            if !error.is::<ReaderGone>() {
                eprintln!("hostmem: {}", one_line(&error.to_string()));
            }
            ExitCode::FAILURE
        }
    }
}

/// Replaces control characters, which would break the line or change the terminal.
fn one_line(message: &str) -> String {
    message.replace(char::is_control, "?")
}

/// The reader of standard output has closed it.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
struct ReaderGone;

/// Prints an answer.
fn print(text: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    let written = output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => ReaderGone.into(),
        _ => format!("standard output: {error}").into(),
    })
}

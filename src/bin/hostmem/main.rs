// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem`: try a memory configuration before anything is booted on it.

mod alloc;
mod bars;
mod generate;
mod json;
mod object;
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

/// Try host memory backends: what they can be set to, and whether this host can make them.
#[derive(Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "Examples:
  hostmem probe                            what this host offers
  hostmem props memory-backend-file        what can be said of such a backend
  hostmem alloc memory-backend-ram,id=ram0,size=1G,host-nodes=0,policy=bind,prealloc=on
  hostmem qmp --socket /run/hostmem.sock   the same, on request of other programs

`hostmem help alloc` has more of them."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what this host offers: nodes, huge pages, kernel features, limits
    Probe(probe::Arguments),
    /// List the properties of a kind, or of all
    Props(props::Arguments),
    /// Make backends and say where their memory is
    Alloc(alloc::Arguments),
    /// Make backends on request: speak QMP, as QEMU does
    Qmp(qmp::Arguments),
    /// Print completions for a shell
    Completions(generate::CompletionsArguments),
    /// Print a manual page
    Man(generate::ManArguments),
}

/// What ends the program with one message and exit code 1.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Probe(arguments) => probe::run(&arguments),
        Command::Props(arguments) => props::run(&arguments),
        Command::Alloc(arguments) => alloc::run(&arguments),
        Command::Qmp(arguments) => qmp::run(&arguments),
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

/// What is quoted in a message neither breaks its line nor steers a terminal.
fn one_line(message: &str) -> String {
    message.replace(char::is_control, "?")
}

/// Nobody reads standard output any more.
#[derive(Debug, thiserror::Error)]
#[error("standard output: nobody reads it")]
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

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem`: try a memory configuration before anything is booted on it.

mod alloc;
mod json;
mod object;
mod probe;
mod props;
mod qmp;
mod report;
mod signals;

use std::error::Error;
use std::io;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

/// Try host memory backends: what they can be set to, and whether this host can make them.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
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
}

/// What ends the program with one message and exit code 1.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Probe(arguments) => probe::run(&arguments),
        Command::Props(arguments) => props::run(&arguments),
        Command::Alloc(arguments) => alloc::run(&arguments),
        Command::Qmp(arguments) => qmp::run(&arguments),
    };
    match result {
        Ok(text) => print(&text),
        Err(error) => {
            eprintln!("hostmem: {}", one_line(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// What is quoted in a message neither breaks its line nor steers a terminal.
fn one_line(message: &str) -> String {
    message.replace(char::is_control, "?")
}

/// Prints an answer. A reader that has gone away ends the program without a word, as it does `cat`.
fn print(text: &str) -> ExitCode {
    let written = io::stdout().lock().write_all(text.as_bytes());
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hostmem: standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

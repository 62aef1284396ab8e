// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem completions` and `hostmem man`: what packagers install beside the program.

use std::io;

use clap::Command;
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::roff::roman;
use clap_mangen::roff::Roff;
use clap_mangen::Man;

use crate::Result;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  hostmem completions bash > ~/.local/share/bash-completion/completions/hostmem
  hostmem completions zsh > \"${fpath[1]}/_hostmem\"")]
pub(crate) struct CompletionsArguments {
    /// The shell that reads them
    shell: Shell,
}

pub(crate) fn completions(arguments: &CompletionsArguments) -> Result<String> {
    let mut text = Vec::new();
    let mut command = crate::Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "hostmem", &mut text);
    Ok(String::from_utf8(text)?)
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  hostmem man | man -l -
  hostmem man alloc > hostmem-alloc.1")]
pub(crate) struct ManArguments {
    /// The page of a subcommand instead of the program's
    subcommand: Option<String>,
}

pub(crate) fn man(arguments: &ManArguments) -> Result<String> {
    // So that the page of a subcommand is called after both.
    let mut command = crate::Arguments::command();
    command.build();
    let described = match &arguments.subcommand {
        None => &command,
        Some(name) => command
            .find_subcommand(name)
            .ok_or_else(|| format!("'{name}' is no subcommand; `hostmem --help` lists them"))?,
    };
    let mut text = Vec::new();
    write_page(described, &mut text)?;
    Ok(String::from_utf8(text)?)
}

/// As clap_mangen has it, but for the examples, whose lines stay as they are.
fn write_page(command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let man = Man::new(command.clone());
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(page)?;
    }
    if let Some(examples) = command.get_after_help() {
        let examples = examples.to_string();
        // Its first line is the section's name.
        let lines = examples.split_once('\n').map_or("", |(_, lines)| lines);
        Roff::new()
            .control("SH", ["EXAMPLES"])
            .control("nf", [])
            .text([roman(lines)])
            .control("fi", [])
            .to_writer(page)?;
    }
    Ok(())
}

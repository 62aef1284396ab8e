// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem qmp`: creates, queries and deletes backends by requests in QEMU's machine protocol.

mod answer;
pub(crate) mod arguments;
pub(crate) mod commands;
mod events;
mod foreground;
mod memory;
pub(crate) mod messages;
pub(crate) mod monitor;
mod new_file;
mod objects;
mod outbox;
mod prealloc;
mod qom;
mod rebind;
pub(crate) mod request;
mod server;
pub(crate) mod session;
pub(crate) mod socket;

use std::path::PathBuf;

pub(crate) use answer::QmpError;
pub(crate) use server::accept;

use crate::Result;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  hostmem qmp --socket /run/hostmem.sock
  echo '{\"execute\": \"qmp_capabilities\"} {\"execute\": \"query-commands\"}' | hostmem qmp

Clients of QEMU's monitor work here too, for instance qmp-shell of the Python package qemu.qmp.
Commands are those of QEMU for objects, and hostmem's own, which begin with x-.
Memory is freed by object-del, quit, SIGINT, SIGTERM or SIGHUP; without --socket also at the end of
standard input. quit and signals cancel a preallocation that runs. A backend that is not complete by
then is undone: a new file is removed. After SIGKILL files stay; the socket is replaced by the next
server.")]
pub(crate) struct Arguments {
    /// Listen on a unix socket instead of standard input and output; one client at a time
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Who may connect: the mode of the socket's file, in octal, whatever the umask is
    #[arg(
        long,
        value_name = "MODE",
        default_value = "600",
        requires = "socket",
        value_parser = parse_mode
    )]
    socket_mode: u32,
}

pub(crate) fn parse_mode(text: &str) -> std::result::Result<u32, &'static str> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("expected an octal number up to 777, such as 660"),
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    server::run(arguments.socket.as_deref(), arguments.socket_mode)?;
    Ok(String::new())
}

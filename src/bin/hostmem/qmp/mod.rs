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

pub(crate) use answer::QmpError;
pub(crate) use server::accept;

use crate::Result;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  hostmem qmp --socket /run/hostmem.sock
  echo '{\"execute\": \"qmp_capabilities\"} {\"execute\": \"query-commands\"}' | hostmem qmp

Without --socket the client is on standard input and output. On a socket there is one at a time.
Clients of QEMU's monitor work here too, for instance qmp-shell of the Python package qemu.qmp.
Commands are those of QEMU for objects, and hostmem's own, which begin with x-.
Memory is freed by object-del, quit, SIGINT, SIGTERM or SIGHUP; without --socket also at the end of
standard input. quit and signals cancel a preallocation that runs. A backend that is not complete by
then is undone: a new file is removed. After SIGKILL files stay; the socket is replaced by the next
server.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    socket: socket::SocketArguments,
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    server::run(&arguments.socket)?;
    Ok(String::new())
}

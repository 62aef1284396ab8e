// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem pool`: keeps memory ready and hands it out over a unix socket. `hostmem take`: runs a
//! program with memory from there.

mod pools;
mod server;
mod stock;
mod template;

use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::fcntl::fcntl;
use nix::fcntl::FcntlArg;
use nix::fcntl::FdFlag;

use crate::qmp::socket;
use crate::Result;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  Four times 8 GiB of huge pages, as pool0:
    hostmem pool --socket /run/hostmem/pool 4:memory-backend-memfd,size=8G,hugetlb=on
  With names, of two sizes:
    hostmem pool --socket /run/hostmem/pool small=8:memory-backend-memfd,size=512M \\
                                            large=2:memory-backend-memfd,size=16G

An object has no id, and share=on: the memory is handed out by its descriptor. A thread-context is
given without a count, for prealloc-context. Filling is done by threads of SCHED_IDLE; memory that
is short is tried again. What was handed out is neither mapped nor open here any more.
As a service with socket activation (LISTEN_FDS) --socket is left out.
SIGINT, SIGTERM and SIGHUP free what is ready.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    socket: socket::SocketArguments,
    /// What to keep ready: [NAME=]COUNT:OBJECT; the names are pool0, pool1, ... unless given
    #[arg(required = true, value_name = "COUNT:OBJECT")]
    pool: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    let pools = pools::Pools::new(&arguments.pool)?;
    server::run(pools, &arguments.socket)?;
    Ok(String::new())
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  hostmem take --socket /run/hostmem/pool pool0 -- \\
    qemu-system-x86_64 -m 8G -machine memory-backend=ram0 \\
    -object memory-backend-file,id=ram0,size={size},mem-path=/proc/self/fd/{fd},share=on,prealloc=on

In the arguments of the command {fd} becomes the number of the descriptor, {size} and {offset} its
bytes. The command takes the place of hostmem; the memory is freed when it ends.")]
pub(crate) struct TakeArguments {
    /// The socket of `hostmem pool`
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// The name of the pool
    pool: String,
    /// The program to run, with its arguments
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

pub(crate) fn take(arguments: &TakeArguments) -> Result<String> {
    let memory = hostmem::pool::receive(&arguments.socket, &arguments.pool)?;
    let fd = memory.fd.as_raw_fd();
    let fill_in = |argument: &String| {
        argument
            .replace("{fd}", &fd.to_string())
            .replace("{size}", &memory.size.to_string())
            .replace("{offset}", &memory.offset.to_string())
    };
    let mut words = arguments.command.iter().map(fill_in);
    let program = words.next().unwrap_or_default();
    // The program inherits it.
    fcntl(&memory.fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let error = Command::new(&program).args(words).exec();
    Err(format!("{program}: {error}").into())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem alloc`: make backends, say where their memory is.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;

use hostmem::Backend;
use hostmem::Builder;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::ObjectBuilder;
use hostmem::Objects;
use hostmem::PreallocMode;
use hostmem::Value;
use serde_json::json;

use crate::bars;
use crate::object;
use crate::progress::Bars;
use crate::report::Report;
use crate::signals;
use crate::Result;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  One GiB, made but not filled:
    hostmem alloc memory-backend-ram,id=ram0,size=1G
  Filled, on the memory of node 0 and nothing else:
    hostmem alloc memory-backend-ram,id=ram0,size=4G,host-nodes=0,policy=bind,prealloc=on
  In turn from two nodes, in huge pages of the host's pool, shared with other processes:
    hostmem alloc memory-backend-memfd,id=ram0,size=4G,hugetlb=on,host-nodes=0-1,policy=interleave
  Two at once, with one pool of threads that fills both; a script reads the report:
    hostmem alloc --json memory-backend-ram,id=ram0,size=8G,host-nodes=0,policy=bind,prealloc=on \\
                         memory-backend-ram,id=ram1,size=8G,host-nodes=1,policy=bind,prealloc=on
  Filled by threads that run on CPUs 0 to 3 only; the thread-context comes first:
    hostmem alloc thread-context,id=tc0,cpu-affinity=0-3 \\
                  memory-backend-ram,id=ram0,size=4G,prealloc=on,prealloc-context=tc0
  As JSON, as QEMU's object-add takes it:
    hostmem alloc '{\"qom-type\": \"memory-backend-ram\", \"id\": \"ram0\", \"size\": 1048576}'
  Kept until Ctrl-C, to see what it does to the host:
    hostmem alloc --hold memory-backend-ram,id=ram0,size=4G,prealloc=on

`hostmem props` lists the properties.
It ends with 0; with 1 and one message when something cannot be made, and then nothing is; with 2
when it is called wrongly.")]
pub(crate) struct Arguments {
    /// What to make: KIND,id=ID,PROPERTY=VALUE,... or the same as a JSON object
    #[arg(required = true)]
    object: Vec<OsString>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Fill what has prealloc=on in the background: the same as prealloc-mode=background for each
    #[arg(long)]
    background: bool,
    /// Keep the memory after the report, until SIGINT, SIGTERM or SIGHUP
    #[arg(long)]
    hold: bool,
    /// Write a picture of where the memory is
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    let (backends, bars) = make(arguments)?;
    match wait_and_report(arguments, &backends, bars) {
        Ok(text) if arguments.hold => {
            hold(&text)?;
            Ok(String::new())
        }
        Ok(text) => Ok(text),
        Err(error) => {
            undo(backends);
            Err(error)
        }
    }
}

/// Where the memory is, is said when it is there.
fn wait_and_report(arguments: &Arguments, backends: &[Backend], bars: Bars) -> Result<String> {
    for backend in backends {
        backend.wait_prealloc(None)?;
    }
    drop(bars);
    let reports = backends.iter().map(report).collect::<Result<Vec<_>>>()?;
    if let Some(path) = &arguments.svg {
        let charts: Vec<_> = reports.iter().map(Report::chart).collect();
        fs::write(path, bars::picture(&charts))
            .map_err(|error| format!("--svg {}: {error}", path.display()))?;
    }
    Ok(if arguments.json {
        let objects: Vec<_> = reports.iter().map(Report::to_json).collect();
        format!("{:#}\n", json!({ "objects": objects }))
    } else {
        reports.iter().map(Report::to_text).collect()
    })
}

/// Leaves nothing behind, whatever came after making them.
fn undo(backends: Vec<Backend>) {
    for backend in backends {
        let undone = backend.undo();
        debug_assert!(undone.is_ok(), "{undone:?}");
    }
}

/// All of them, or none; and what shows how far they are filled.
fn make(arguments: &Arguments) -> Result<(Vec<Backend>, Bars)> {
    let mut defaults = Defaults::qemu();
    defaults.fd_by_number = true;
    let objects = Objects::new(&Host::probe()?, &defaults)?;
    let mut bars = Bars::new();
    let mut builders = Vec::new();
    let mut fills = false;
    // They live on while a backend links to them.
    let mut contexts = Vec::new();
    for text in &arguments.object {
        match object::parse(&objects, text)? {
            ObjectBuilder::Backend(mut builder) => {
                if arguments.background {
                    builder.set("prealloc-mode", PreallocMode::Background)?;
                }
                fills |= builder.get("prealloc")? == Value::Bool(true);
                let bar = bars.add(builder.id())?;
                builders.push(builder.on_progress(bar));
            }
            ObjectBuilder::ThreadContext(builder) => {
                contexts.push(builder.complete().map_err(hostmem::Error::from)?);
            }
            other => return Err(format!("{other:?} is of no kind that this program knows").into()),
        }
    }
    if arguments.background && !fills {
        return Err("--background: nothing is to be filled; add prealloc=on to an object".into());
    }
    let backends = Builder::complete_all(builders).map_err(hostmem::Error::from)?;
    Ok((backends, bars))
}

fn report(backend: &Backend) -> Result<Report> {
    let claim = backend.claim("hostmem")?;
    Report::new(backend, claim.memory())
}

/// Prints a report, and waits for a signal, which may come as soon as the report is read.
fn hold(text: &str) -> Result<()> {
    let (sender, receiver) = mpsc::channel();
    signals::on_first(move || {
        let _ = sender.send(());
    })?;
    crate::print(text)?;
    Ok(receiver.recv()?)
}

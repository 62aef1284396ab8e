// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem alloc`: creates backends and reports their placement.

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use hostmem::Backend;
use hostmem::Builder;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::ObjectBuilder;
use hostmem::Objects;
use hostmem::PreallocMode;
use hostmem::ThreadContext;
use hostmem::Value;
use hostmem::THREAD_CONTEXT;
use serde_json::json;

use crate::bars;
use crate::object;
use crate::object::Help;
use crate::progress::Bars;
use crate::props;
use crate::report::Report;
use crate::signals::FirstSignal;
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
  Filled by threads that run on CPUs 0 to 3 only:
    hostmem alloc thread-context,id=tc0,cpu-affinity=0-3 \\
                  memory-backend-ram,id=ram0,size=4G,prealloc=on,prealloc-context=tc0
  As JSON, as QEMU takes it, also with single quotes:
    hostmem alloc '{\"qom-type\": \"memory-backend-ram\", \"id\": \"ram0\", \"size\": 1048576}'
  Kept until Ctrl-C, to see what it does to the host:
    hostmem alloc --hold memory-backend-ram,id=ram0,size=4G,prealloc=on

`hostmem props` lists the properties.
Exit code: 0; 1 with one message when something failed; 2 for wrong usage.
SIGINT, SIGTERM and SIGHUP before the report cancel it. After a failure or such a signal everything
is undone: new files are removed, files that were empty are empty again. After SIGKILL files stay.")]
pub(crate) struct Arguments {
    /// What to make, in any order: KIND,id=ID,PROPERTY=VALUE,... or the same as a JSON object;
    /// help lists the kinds, KIND,help the properties of one
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

/// How often a fill is cancelled that may only be about to begin.
const CANCEL_INTERVAL: Duration = Duration::from_millis(10);

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    let asks = |text: &OsString| Help::asked_by(text);
    if let Some(help) = arguments.object.iter().find_map(asks) {
        return props::help(&help);
    }
    let signal = FirstSignal::watch()?;
    // A failure after a signal is its cancel.
    let explain = |error: Box<dyn Error>| match signal.get() {
        Some(signal) => format!("{}: {error}", signal.name()).into(),
        None => error,
    };
    let Plan {
        builders,
        contexts,
        bars,
    } = plan(arguments)?;
    cancel_on_signal(&signal, &builders)?;
    let made = Builder::complete_all(builders).map_err(hostmem::Error::from);
    // They live on while a backend links to them.
    drop(contexts);
    let backends = made.map_err(|error| explain(error.into()))?;
    if let Err(error) = wait_and_report(arguments, &backends, bars, &signal) {
        return Err(explain(undo(backends, error)));
    }
    if arguments.hold {
        signal.wait();
    }
    for backend in backends {
        backend.delete()?;
    }
    Ok(String::new())
}

/// Has a signal end what fills. Completing then fails, or waiting for it.
fn cancel_on_signal(signal: &FirstSignal, builders: &[Builder]) -> Result<()> {
    let interrupters: Vec<_> = builders.iter().map(Builder::interrupter).collect();
    let signal = signal.clone();
    thread::Builder::new()
        .name("cancel".into())
        .spawn(move || {
            signal.wait();
            loop {
                for interrupter in &interrupters {
                    interrupter.interrupt();
                }
                thread::sleep(CANCEL_INTERVAL);
            }
        })?;
    Ok(())
}

/// Waits until all memory is there, and prints where it is.
fn wait_and_report(
    arguments: &Arguments,
    backends: &[Backend],
    bars: Bars,
    signal: &FirstSignal,
) -> Result<()> {
    for backend in backends {
        backend.wait_prealloc(None)?;
    }
    drop(bars);
    let reports = backends.iter().map(report).collect::<Result<Vec<_>>>()?;
    if signal.get().is_some() {
        return Err("cancelled".into());
    }
    if let Some(path) = &arguments.svg {
        let charts: Vec<_> = reports.iter().map(Report::chart).collect();
        fs::write(path, bars::picture(&charts))
            .map_err(|error| format!("--svg {}: {error}", path.display()))?;
    }
    let text = if arguments.json {
        let objects: Vec<_> = reports.iter().map(Report::to_json).collect();
        format!("{:#}\n", json!({ "objects": objects }))
    } else {
        reports.iter().map(Report::to_text).collect()
    };
    crate::print(&text)
}

/// Undoes backends that are complete; the error says what could not be undone.
fn undo(backends: Vec<Backend>, error: Box<dyn Error>) -> Box<dyn Error> {
    let stays = backends.into_iter().filter_map(|each| each.undo().err());
    stays.fold(error, |error, failed| format!("{error}; {failed}").into())
}

/// What the command line asks for.
struct Plan {
    builders: Vec<Builder>,
    contexts: Vec<ThreadContext>,
    /// Show how far each backend is filled.
    bars: Bars,
}

fn plan(arguments: &Arguments) -> Result<Plan> {
    let mut defaults = Defaults::qemu();
    defaults.fd_by_number = true;
    let objects = Objects::new(&Host::probe()?, &defaults)?;
    let mut bars = Bars::new();
    let mut builders = Vec::new();
    let mut fills = false;
    let mut contexts = Vec::new();
    // A link needs a thread-context that exists.
    let is_context = |text: &&OsString| object::kind_of(text).as_deref() == Some(THREAD_CONTEXT);
    let (first, then): (Vec<_>, Vec<_>) = arguments.object.iter().partition(is_context);
    for text in first.into_iter().chain(then) {
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
    Ok(Plan {
        builders,
        contexts,
        bars,
    })
}

fn report(backend: &Backend) -> Result<Report> {
    let claim = backend.claim("hostmem")?;
    Report::new(backend, claim.memory())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem alloc`: make backends, say where their memory is.

use std::ffi::OsString;

use hostmem::Backend;
use hostmem::Builder;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::Objects;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use serde_json::json;

use crate::object;
use crate::report::Report;
use crate::Result;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  hostmem alloc memory-backend-ram,id=ram0,size=1G
  hostmem alloc memory-backend-ram,id=ram0,size=4G,host-nodes=0-1,policy=interleave,prealloc=on
  hostmem alloc --json '{\"qom-type\": \"memory-backend-ram\", \"id\": \"ram0\", \"size\": 1048576}'

hostmem props lists the properties.")]
pub(crate) struct Arguments {
    /// What to make: KIND,id=ID,PROPERTY=VALUE,... or the same as a JSON object
    #[arg(required = true)]
    object: Vec<OsString>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    let objects = Objects::new(&Host::probe()?, &Defaults::qemu())?;
    // All are looked at before any memory is made.
    let builders = arguments
        .object
        .iter()
        .map(|text| object::parse(&objects, text))
        .collect::<Result<Vec<_>>>()?;
    let backends = builders
        .into_iter()
        .map(complete)
        .collect::<Result<Vec<_>>>()?;
    let reports = backends.iter().map(report).collect::<Result<Vec<_>>>()?;
    Ok(if arguments.json {
        let objects: Vec<_> = reports.iter().map(Report::to_json).collect();
        format!("{:#}\n", json!({ "objects": objects }))
    } else {
        reports.iter().map(Report::to_text).collect()
    })
}

fn report(backend: &Backend) -> Result<Report> {
    let claim = backend.claim("hostmem")?;
    Report::new(backend, claim.memory())
}

/// Completes a backend behind a progress bar, which shows itself only on a terminal.
fn complete(builder: Builder) -> Result<Backend> {
    let bar = ProgressBar::new(0).with_message(builder.id().to_owned());
    bar.set_style(ProgressStyle::with_template(
        "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}",
    )?);
    let shown = bar.clone();
    let result = builder
        .on_progress(move |done, total| {
            shown.set_length(total);
            shown.set_position(done);
        })
        .complete()
        .map_err(hostmem::Error::from)
        // Where the memory is, is said when it is there.
        .and_then(|backend| backend.wait_prealloc(None).map(|_| backend));
    bar.finish_and_clear();
    Ok(result?)
}

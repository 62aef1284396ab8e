// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Shows the placement of memory by node, before and after preallocation and rebinding:
//!
//!     cargo run --example placement [POLICY [NODES]]
//!
//! for example `cargo run --example placement interleave 0-1`.

use std::env;

use hostmem::Defaults;
use hostmem::Host;
use hostmem::Objects;
use hostmem::Placement;
use hostmem::Policy;
use hostmem::Rebind;
use hostmem::Result;

const SIZE: u64 = 256 << 20;
const COLUMNS: u64 = 50;

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let policy = arguments.next().unwrap_or_else(|| "bind".to_owned());
    let nodes = arguments.next().unwrap_or_else(|| "0".to_owned());

    let objects = Objects::new(&Host::probe()?, &Defaults::qemu())?;
    let mut builder = objects.builder("memory-backend-ram", "ram0")?;
    builder.set("size", SIZE)?;
    builder.set("policy", policy.as_str())?;
    builder.set("host-nodes", nodes.as_str())?;
    let backend = builder.complete()?;
    draw("complete", &backend.placement()?);

    backend.populate(0, SIZE / 2)?;
    draw("half of it populated", &backend.placement()?);

    backend.set("prealloc", true)?;
    draw("preallocated", &backend.placement()?);

    // The policy can change while the memory is claimed.
    let _claim = backend.claim("vm0")?;
    let rebound = backend.rebind(&Rebind::new(Policy::Local))?;
    println!(
        "rebound: {} MiB moved, {} MiB did not\n",
        rebound.moved >> 20,
        rebound.not_moved >> 20
    );
    draw("rebound to the node of this thread", &backend.placement()?);
    Ok(())
}

/// Draws a bar for each node, and for absent memory.
fn draw(when: &str, placement: &Placement) {
    println!(
        "{when}: {}, satisfied: {}",
        placement.policy,
        placement.satisfied.as_str()
    );
    for (node, &bytes) in &placement.nodes {
        draw_bar(&format!("node {node}"), bytes, '#');
    }
    draw_bar("absent", placement.absent, '.');
    println!();
}

fn draw_bar(name: &str, bytes: u64, part: char) {
    let columns = (bytes * COLUMNS).div_ceil(SIZE) as usize;
    let bar = part.to_string().repeat(columns);
    println!(
        "{name:>8} {bar:<width$} {:>4} MiB",
        bytes >> 20,
        width = COLUMNS as usize
    );
}

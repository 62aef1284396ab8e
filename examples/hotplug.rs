// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Plugs and unplugs memory in blocks, as a virtio-mem device does: plugging a block populates it,
//! unplugging discards it.
//!
//! `hotplug [OBJECT]`: an option string as for QEMU's `-object`; the default is 64 MiB of shared
//! memory. A block is populated before the guest may use it, because a discarded huge page is no
//! longer reserved: if the pool is empty then, touching it ends the process.

use std::env;
use std::error::Error;

use hostmem::Backend;
use hostmem::Claim;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::Objects;

/// Bytes of a block, a multiple of the page size.
const BLOCK: u64 = 2 << 20;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let options = env::args().nth(1);
    let options = options.unwrap_or_else(|| "memory-backend-memfd,id=hotplug0,size=64M".to_owned());
    let objects = Objects::new(&Host::probe()?, &Defaults::default())?;
    let backend = objects.parse(options)?.complete()?;
    let mut device = Device::new(backend.claim("virtio-mem0")?);

    report("before", &device, &backend)?;
    device.resize(8)?;
    report("8 blocks plugged", &device, &backend)?;
    device.unplug(2)?;
    device.unplug(5)?;
    report("2 of them unplugged", &device, &backend)?;
    device.plug(2)?;
    report("1 plugged again", &device, &backend)?;

    // A passed-through device has pinned the pages, so discard must fail.
    let pinned = device.claim.inhibit_discard("vfio0")?;
    if let Err(error) = device.unplug(2) {
        println!("while pages are pinned: {error}");
    }
    drop(pinned);
    device.resize(0)?;
    report("all unplugged", &device, &backend)
}

/// The device: which blocks are plugged.
struct Device {
    claim: Claim,
    plugged: Vec<bool>,
}

impl Device {
    fn new(claim: Claim) -> Self {
        let blocks = claim.memory().len() / BLOCK;
        Self {
            claim,
            plugged: vec![false; blocks as usize],
        }
    }

    /// On failure the block is unchanged, and the guest's request can be answered with an error.
    fn plug(&mut self, block: usize) -> Result<()> {
        self.claim.populate(block as u64 * BLOCK, BLOCK)?;
        self.plugged[block] = true;
        Ok(())
    }

    fn unplug(&mut self, block: usize) -> Result<()> {
        self.claim.discard(block as u64 * BLOCK, BLOCK)?;
        self.plugged[block] = false;
        Ok(())
    }

    /// Plugs the first blocks, as many as given, and unplugs all others.
    fn resize(&mut self, blocks: usize) -> Result<()> {
        for block in 0..self.plugged.len() {
            match (self.plugged[block], block < blocks) {
                (false, true) => self.plug(block)?,
                (true, false) => self.unplug(block)?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn report(what: &str, device: &Device, backend: &Backend) -> Result<()> {
    const MIB: u64 = 1 << 20;
    let plugged = device.plugged.iter().filter(|&&plugged| plugged).count() as u64 * BLOCK;
    let placement = backend.placement()?;
    println!(
        "{what}: {} MiB plugged; resident {} MiB, huge {} MiB, absent {} MiB; by node {:?}",
        plugged / MIB,
        placement.resident / MIB,
        placement.huge / MIB,
        placement.absent / MIB,
        placement.nodes,
    );
    Ok(())
}

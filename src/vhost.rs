// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pieces of memory as the memory table of a vhost-user device.
//!
//! ```no_run
//! use hostmem::vhost::MemoryTable;
//! use hostmem::Builder;
//! use vhost::VhostBackend;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = Builder::new("memory-backend-memfd", "ram0")?
//!     .size(64 << 20)
//!     .complete()?;
//! let table = MemoryTable::new(&[backend.claim("vm0")?.piece(0)?])?;
//! let device = vhost::vhost_user::Frontend::connect("/run/device.sock", 2)?;
//! device.set_owner()?;
//! device.set_mem_table(&table)?;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::ops::Deref;
use std::os::fd::AsRawFd;

use ::vhost::VhostUserMemoryRegionInfo;

use crate::Error;
use crate::ErrorKind;
use crate::Piece;
use crate::Result;

/// The memory table of a vhost-user device, for `VhostBackend::set_mem_table`: guest address, size,
/// address in this process, descriptor and offset of each region.
///
/// It keeps the memory mapped and the descriptors open while it exists. The mappings in the
/// device's process are independent of it.
pub struct MemoryTable {
    regions: Vec<VhostUserMemoryRegionInfo>,
    pieces: Vec<Piece>,
}

impl MemoryTable {
    /// Makes a table of pieces of one or several backends.
    ///
    /// # Errors
    ///
    /// [`Value`](ErrorKind::Value): memory that the device's process cannot share (anonymous or
    /// private), that is read-only, or without a guest address. [`Busy`](ErrorKind::Busy): some of
    /// its contents are [unread](crate::Claim::unread), and the device would find zero.
    pub fn new(pieces: &[Piece]) -> Result<Self> {
        Ok(Self {
            regions: pieces.iter().map(region).collect::<Result<_>>()?,
            pieces: pieces.to_vec(),
        })
    }

    /// The pieces, in the order of the regions.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }
}

impl Deref for MemoryTable {
    type Target = [VhostUserMemoryRegionInfo];

    fn deref(&self) -> &[VhostUserMemoryRegionInfo] {
        &self.regions
    }
}

impl fmt::Debug for MemoryTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTable")
            .field("pieces", &self.pieces)
            .finish_non_exhaustive()
    }
}

fn region(piece: &Piece) -> Result<VhostUserMemoryRegionInfo> {
    let memory = piece.memory();
    let fail = |why: &str| {
        let message = format!("{}: vhost-user: {why}", piece.label());
        Error::new(ErrorKind::Value, message)
    };
    let fd =
        match memory.shared_fd() {
            Ok(fd) => fd,
            Err(error) if error.kind() == ErrorKind::Busy => return Err(error),
            Err(_) => return Err(fail(
                "the memory is private to this process, and the device's needs to share it; make \
                 the backend with share=on",
            )),
        };
    if memory.is_readonly() {
        return Err(fail(
            "the memory is read-only, and devices map it for writing; leave it out of the table",
        ));
    }
    let Some(guest_address) = piece.guest_address() else {
        return Err(fail("the piece has no guest address"));
    };
    // The feature `xen` of the crate vhost adds fields.
    #[allow(clippy::needless_update)]
    Ok(VhostUserMemoryRegionInfo {
        guest_phys_addr: guest_address,
        memory_size: memory.len(),
        userspace_addr: memory.as_ptr() as u64,
        mmap_offset: memory.fd_offset(),
        mmap_handle: fd.as_raw_fd(),
        ..Default::default()
    })
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pieces of memory as regions of the crate `vm-memory`.
//!
//! The results are that crate's own types, `GuestRegionMmap` and `GuestMemoryMmap`, so virtio
//! queues, loaders and vhost-user accept them. Their bitmap type owns the [`Piece`](crate::Piece),
//! so the memory stays mapped while a region, or an `Arc` of its mapping, exists.
//!
//! There is one module per version, each with its own feature and the same items.
//!
#![cfg_attr(feature = "vm-memory-018", doc = "```")]
#![cfg_attr(not(feature = "vm-memory-018"), doc = "```ignore")]
//! use hostmem::vm_memory::v018::guest_memory;
//! use hostmem::{Builder, PieceRange};
//! use vm_memory_018::{Bytes, GuestAddress};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = Builder::new("memory-backend-ram", "ram0")?
//!     .size(8 << 20)
//!     .complete()?;
//! // The machine has a hole from 4 MiB to 16 MiB.
//! let low = PieceRange { guest_address: 0, offset: 0, length: 4 << 20 };
//! let high = PieceRange { guest_address: 16 << 20, offset: 4 << 20, length: 4 << 20 };
//! let pieces = backend.claim("vm0")?.pieces(&[low, high])?;
//! let memory = guest_memory::<()>(&pieces)?;
//! memory.write_obj(0x55aa_u16, GuestAddress(16 << 20))?;
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "vm-memory-017")]
pub mod v017;
#[cfg(feature = "vm-memory-018")]
pub mod v018;

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! For vm-memory 0.17.1.

use ::vm_memory_017 as vm_memory;

// The same source for every version, compiled against each.
#[allow(clippy::duplicate_mod)]
#[path = "adapter.rs"]
mod adapter;

pub use adapter::guest_memory;
pub use adapter::guest_region;
pub use adapter::mmap_region;
pub use adapter::Pinned;

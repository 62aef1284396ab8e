// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who has pinned memory, which is then not discarded.

use std::ffi::CString;
use std::fmt;
use std::sync::Arc;

use crate::handle::to_c;
use crate::piece::Held;
use crate::Result;

/// While it lives, the memory is not [discarded](crate::Claim::discard). Made by
/// [`Claim::inhibit_discard`](crate::Claim::inhibit_discard); holds the claim as a piece does.
#[doc(alias = "hostmem_backend_inhibit_discard")]
#[doc(alias = "hostmem_backend_allow_discard")]
pub struct DiscardInhibited {
    held: Arc<Held>,
    name: CString,
}

impl DiscardInhibited {
    pub(crate) fn new(held: &Arc<Held>, name: &str) -> Result<Self> {
        let name = to_c(name)?;
        held.handle().backend().inhibit_discard(&name)?;
        let held = Arc::clone(held);
        Ok(Self { held, name })
    }

    /// The name that others are told.
    pub fn name(&self) -> &str {
        // It was made of one.
        self.name.to_str().unwrap_or_default()
    }
}

impl Drop for DiscardInhibited {
    fn drop(&mut self) {
        let allowed = self.held.handle().backend().allow_discard(&self.name);
        debug_assert!(allowed.is_ok(), "{allowed:?}");
    }
}

impl fmt::Debug for DiscardInhibited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscardInhibited")
            .field("id", &self.held.handle().backend().view().id())
            .field("name", &self.name())
            .finish()
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A kind must be usable from every thread.

use std::error::Error;
use std::rc::Rc;

struct Counted(Rc<()>);

impl hostmem::Kind for Counted {
    fn allocate(
        &self,
        _: &hostmem::Request<'_>,
    ) -> Result<hostmem::Backing, Box<dyn Error + Send + Sync>> {
        Ok(hostmem::Backing::Anonymous)
    }
}

fn main() {
    let _ = Counted(Rc::new(()));
}

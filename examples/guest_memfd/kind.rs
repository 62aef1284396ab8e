// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! KVM's guest_memfd as a kind of backend: memory of one virtual machine.

use std::error::Error;
use std::io;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hostmem::Backing;
use hostmem::BackingFd;
use hostmem::Kind;
use hostmem::Request;
use kvm_bindings::kvm_create_guest_memfd;
use kvm_ioctls::VmFd;

/// The descriptor can be mapped, and the mapping accessed. These flags and the capability are from
/// `linux/kvm.h` of Linux 6.18; kvm-bindings does not have them yet.
const MMAP: u64 = 1 << 0;
const INIT_SHARED: u64 = 1 << 1;
const KVM_CAP_GUEST_MEMFD_FLAGS: u32 = 244;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Creates a guest_memfd of one virtual machine for each backend.
pub struct GuestMemfd {
    vm: Arc<VmFd>,
}

impl GuestMemfd {
    pub fn new(vm: Arc<VmFd>) -> Result<Self> {
        let flags = vm.check_extension_raw(KVM_CAP_GUEST_MEMFD_FLAGS.into());
        if u64::try_from(flags).unwrap_or(0) & (MMAP | INIT_SHARED) != MMAP | INIT_SHARED {
            return Err("this KVM has no guest_memfd that can be mapped; Linux 6.18 has it".into());
        }
        Ok(Self { vm })
    }
}

impl Kind for GuestMemfd {
    fn check(&self, request: &Request<'_>) -> Result<()> {
        if !request.share()? {
            return Err("a guest_memfd can only be mapped shared; use share=on".into());
        }
        Ok(())
    }

    fn allocate(&self, request: &Request<'_>) -> Result<Backing> {
        let memory = kvm_create_guest_memfd {
            size: request.size()?,
            flags: MMAP | INIT_SHARED,
            ..Default::default()
        };
        let fd = self
            .vm
            .create_guest_memfd(memory)
            .map_err(io::Error::from)?;
        // SAFETY: just created, and owned by nothing else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // KVM's descriptor is not close-on-exec; the clone is.
        Ok(BackingFd::new(fd.try_clone()?).into())
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs a guest on KVM in memory of every kind, and prints its output.

mod guest;
#[path = "../guest_memfd/kind.rs"]
mod guest_memfd;

use std::error::Error;
use std::sync::Arc;

use hostmem::kvm::MemorySlot;
use hostmem::kvm::SlotOptions;
use hostmem::Builder;
use hostmem::Claim;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::Objects;
use kvm_ioctls::Kvm;
use kvm_ioctls::VmFd;

use crate::guest_memfd::GuestMemfd;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const OPTIONS: &[&str] = &[
    "memory-backend-ram,id=private",
    "memory-backend-ram,id=shared,share=on",
    "memory-backend-memfd,id=memfd",
    "memory-backend-memfd,id=huge-pages,hugetlb=on,hugetlbsize=2M",
    "memory-backend-shm,id=shm",
    "memory-backend-file,id=file,mem-path=/var/tmp",
    "memory-backend-file,id=shared-file,mem-path=/var/tmp,share=on",
];

fn main() -> Result<()> {
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm: {error}"))?;
    let objects = Objects::new(&Host::probe()?, &Defaults::default())?;
    for options in OPTIONS {
        report(options, in_plain_memory(&kvm, objects.parse(options)?));
    }
    report("memory-backend-fd", in_memory_of_another(&kvm, &objects));
    report("guest-memfd", in_guest_memfd(&kvm, &objects));
    Ok(())
}

fn report(what: &str, said: Result<String>) {
    match said {
        Ok(said) => println!("{what}: the guest says: {said}"),
        Err(why) => println!("{what}: no guest: {why}"),
    }
}

fn in_plain_memory(kvm: &Kvm, builder: Builder) -> Result<String> {
    let backend = builder.size(2 * guest::HALF).complete()?;
    let claim = backend.claim("kvm_boot")?;
    boot(kvm, &Arc::new(kvm.create_vm()?), &claim, false)
}

/// Uses the descriptor of another backend, as if another process had created it.
fn in_memory_of_another(kvm: &Kvm, objects: &Objects) -> Result<String> {
    let another = objects.builder("memory-backend-memfd", "another")?;
    let another = another.size(2 * guest::HALF).complete()?;
    let claim = another.claim("another")?;
    let fd = claim.memory().fd().expect("a memfd has a descriptor");
    in_plain_memory(kvm, objects.builder("memory-backend-fd", "fd")?.fd(fd))
}

/// The VM is created first, because a guest_memfd belongs to one VM.
fn in_guest_memfd(kvm: &Kvm, objects: &Objects) -> Result<String> {
    let vm = Arc::new(kvm.create_vm()?);
    let kind = GuestMemfd::new(Arc::clone(&vm))?;
    objects.register_kind("guest-memfd", "Memory of a KVM guest.", true, kind)?;
    let builder = objects.builder("guest-memfd", "guest-memfd")?;
    let backend = builder.size(2 * guest::HALF).complete()?;
    boot(kvm, &vm, &backend.claim("kvm_boot")?, true)
}

fn boot(kvm: &Kvm, vm: &Arc<VmFd>, claim: &Claim, guest_memfd: bool) -> Result<String> {
    let pieces = guest::cut(claim)?;
    guest::load(&pieces, &format!("hello from {}", claim.id()))?;
    let slots = (0..).zip(&pieces).map(|(id, piece)| {
        let memory = piece.memory();
        let options = match memory.fd().filter(|_| guest_memfd) {
            Some(fd) => SlotOptions::new().guest_memfd(fd, memory.fd_offset()),
            None => SlotOptions::new(),
        };
        MemorySlot::with(Arc::clone(vm), id, piece, options)
    });
    let _slots = slots.collect::<hostmem::Result<Vec<_>>>()?;
    let (said, _) = guest::run(kvm, vm)?;
    Ok(said)
}

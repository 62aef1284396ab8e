// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Saves the memory of a KVM guest that counts, restores it in a new backend, and lets the guest
//! count on while its memory is still being read.

use std::error::Error;
use std::sync::Arc;

use hostmem::kvm::MemorySlot;
use hostmem::vm_memory::v018::guest_memory;
use hostmem::Backend;
use hostmem::Builder;
use hostmem::Defaults;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Objects;
use hostmem::Piece;
use hostmem::PreallocMode;
use kvm_bindings::kvm_regs;
use kvm_bindings::kvm_segment;
use kvm_bindings::kvm_sregs;
use kvm_ioctls::Kvm;
use kvm_ioctls::VcpuExit;
use kvm_ioctls::VcpuFd;
use kvm_ioctls::VmFd;
use vm_memory_018::Bytes;
use vm_memory_018::GuestAddress;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const SIZE: u64 = 64 << 20;
const CODE: u64 = 0x8000;
/// The guest's number, and the first of the pages each of which gets every 4096th number.
const NUMBER: u32 = 0x9000;
const PAGES: u32 = 16 << 20;
const PAGE: u32 = 4096;
const PORT: u8 = 0x80;

fn main() -> Result<()> {
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm: {error}"))?;
    let objects = Objects::new(&Host::probe()?, &Defaults::default())?;
    let image = tempfile::NamedTempFile::new()?;

    let backend = objects.builder("memory-backend-ram", "before")?;
    let backend = backend.size(SIZE).complete()?;
    let claim = backend.claim("restore")?;
    let mut machine = Machine::new(&kvm, claim.piece(0)?)?;
    machine.load()?;
    machine.cpu.set_sregs(&flat(machine.cpu.get_sregs()?))?;
    machine.cpu.set_regs(&kvm_regs {
        rip: CODE,
        rflags: 2,
        ..Default::default()
    })?;
    println!("the guest counts to {}", machine.count(5000)?);

    // It does not run now, so that its memory and its CPU are of one moment.
    let cpu = machine.stop()?;
    let saved = claim.save(image.as_file(), 0)?;
    println!(
        "saved: {} MiB of data, {} MiB of holes",
        saved.written.div_ceil(1 << 20),
        saved.holes >> 20
    );
    drop(machine);
    drop(claim);
    backend.delete()?;

    let builder = || -> Result<Builder> {
        let builder = objects.builder("memory-backend-ram", "after")?;
        Ok(builder.size(SIZE).contents(image.path()).prealloc(true))
    };
    let backend = restore(builder)?;
    let claim = backend.claim("restore")?;
    let mut machine = Machine::new(&kvm, claim.piece(0)?)?;
    machine.cpu.set_sregs(&cpu.0)?;
    machine.cpu.set_regs(&cpu.1)?;
    println!("the guest goes on at {}", machine.count(1)?);
    println!("the guest counts to {}", machine.count(4999)?);
    machine.check(10_000)?;
    backend.wait_prealloc(None)?;
    println!("every page is right, {} bytes are unread", claim.unread().0);
    Ok(())
}

/// Returns while the memory is still unread, where the host allows it.
fn restore(builder: impl Fn() -> Result<Builder>) -> Result<Backend> {
    let lazy = builder()?.prealloc_mode(PreallocMode::Background);
    match lazy.complete() {
        Ok(backend) => {
            println!("restored: its memory is read while it runs");
            Ok(backend)
        }
        Err(failed) if failed.error.kind() == ErrorKind::Unsupported => {
            println!(
                "restored: all is read before it runs, since {}",
                failed.error
            );
            // It gives its id back first.
            drop(failed);
            Ok(builder()?.complete()?)
        }
        Err(failed) => Err(failed.into()),
    }
}

/// A virtual machine of one CPU, which must not outlive the memory: the slot and the piece see to it.
struct Machine {
    cpu: VcpuFd,
    _slot: MemorySlot,
    piece: Piece,
}

impl Machine {
    fn new(kvm: &Kvm, piece: Piece) -> Result<Self> {
        let vm: Arc<VmFd> = Arc::new(kvm.create_vm()?);
        let slot = MemorySlot::new(Arc::clone(&vm), 0, &piece)?;
        Ok(Self {
            cpu: vm.create_vcpu(0)?,
            _slot: slot,
            piece,
        })
    }

    /// Writes the guest to memory. It counts, writes each number to a page and to a port.
    fn load(&self) -> Result<()> {
        let mut code = vec![0xff, 0x05]; // next: inc dword [NUMBER]
        code.extend(NUMBER.to_le_bytes());
        code.extend([0xa1]); // mov eax, [NUMBER]
        code.extend(NUMBER.to_le_bytes());
        code.extend([0x89, 0xc3]); // mov ebx, eax
        code.extend([0x81, 0xe3, 0xff, 0x0f, 0, 0]); // and ebx, 4095
        code.extend([0xc1, 0xe3, 12]); // shl ebx, 12
        code.extend([0x89, 0x83]); // mov [ebx + PAGES], eax
        code.extend(PAGES.to_le_bytes());
        code.extend([0xe7, PORT]); // out PORT, eax
        let back = -(i8::try_from(code.len())? + 2);
        code.extend([0xeb, back.to_le_bytes()[0]]); // jmp next
        let memory = guest_memory::<()>(std::slice::from_ref(&self.piece))?;
        memory.write_slice(&code, GuestAddress(CODE))?;
        Ok(())
    }

    /// Runs the guest until it has counted so many numbers, and returns the last one.
    fn count(&mut self, numbers: u32) -> Result<u32> {
        let mut last = 0;
        for _ in 0..numbers {
            last = match self.cpu.run()? {
                VcpuExit::IoOut(_, bytes) => u32::from_le_bytes(bytes.try_into()?),
                other => return Err(format!("the guest left by {other:?}").into()),
            };
        }
        Ok(last)
    }

    /// The state of the CPU, once the instruction by which it left is finished: KVM does that when it
    /// is entered again.
    fn stop(&mut self) -> Result<(kvm_sregs, kvm_regs)> {
        self.cpu.set_kvm_immediate_exit(1);
        match self.cpu.run() {
            Err(error) if error.errno() == libc::EINTR => {}
            other => return Err(format!("the guest does not stop: {other:?}").into()),
        }
        Ok((self.cpu.get_sregs()?, self.cpu.get_regs()?))
    }

    /// Whether each page has the last number that it was written.
    fn check(&self, last: u32) -> Result<()> {
        let memory = guest_memory::<()>(std::slice::from_ref(&self.piece))?;
        for number in last - 4095..=last {
            let at = PAGES + number % 4096 * PAGE;
            let found: u32 = memory.read_obj(GuestAddress(at.into()))?;
            if found != number {
                return Err(format!("{found} at {at:#x} instead of {number}").into());
            }
        }
        Ok(())
    }
}

/// 32-bit code and data that begin at 0, without paging.
fn flat(mut system: kvm_sregs) -> kvm_sregs {
    let segment = |type_| kvm_segment {
        limit: u32::MAX,
        type_,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..Default::default()
    };
    system.cs = segment(11);
    system.ds = segment(3);
    (system.es, system.ss) = (system.ds, system.ds);
    system.cr0 |= 1; // protection
    system
}

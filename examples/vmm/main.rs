// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VMM: boots an ELF kernel or a bzImage with one CPU and a serial port, from memory of any option
//! string.
//!
//! ```sh
//! cargo run --example vmm --all-features -- \
//!     'memory-backend-memfd,id=m0,size=256M,prealloc=on' KERNEL [COMMAND LINE]
//! ```
//!
//! A Linux needs a KVM that runs the guest on the processor. PVM, a KVM for hosts that are guests
//! themselves (`dmesg` calls it kvm-pvm), emulates what a kernel begins with, and Linux has
//! instructions there that it cannot; kernels as small as tests/c/guest.c run.

mod boot;

use std::env;
use std::error::Error;
use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use hostmem::kvm::MemorySlot;
use hostmem::vm_memory::v017::guest_memory;
use hostmem::vm_memory::v017::Pinned;
use hostmem::Claim;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::Objects;
use hostmem::Piece;
use hostmem::PieceRange;
use kvm_bindings::kvm_pit_config;
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::Kvm;
use kvm_ioctls::VcpuExit;
use kvm_ioctls::VcpuFd;
use kvm_ioctls::VmFd;
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::elf::Elf;
use linux_loader::loader::KernelLoader;
use linux_loader::loader::KernelLoaderResult;
use vm_memory_017::GuestAddress;
use vm_memory_017::GuestMemoryMmap;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
/// The memory of the guest, which stays mapped as long as anyone has it.
type Memory = GuestMemoryMmap<Pinned<()>>;

/// Addresses from 3 to 4 GiB are those of devices.
const HOLE: u64 = 3 << 30;
const HOLE_END: u64 = 4 << 30;
/// Where KVM keeps a task state segment of its own.
const TASK_STATE: usize = 0xfffb_d000;

const SERIAL: u16 = 0x3f8;
const SERIAL_STATUS: u16 = SERIAL + 5;
/// It can always take another byte.
const SERIAL_IDLE: u8 = 0x60;
const KEYBOARD: u16 = 0x64;
/// How a PC is reset, which is how its guest ends.
const RESET: u8 = 0xfe;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [options, kernel, rest @ ..] = &arguments[..] else {
        return Err("usage: vmm OBJECT KERNEL [COMMAND LINE]".into());
    };
    let command_line = match rest {
        [] => "console=ttyS0 earlyprintk=ttyS0 reboot=k panic=1".to_owned(),
        words => words.join(" "),
    };
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm: {error}"))?;

    let objects = Objects::new(&Host::probe()?, &Defaults::default())?;
    let backend = objects.parse(options)?.complete()?;
    for warning in backend.warnings() {
        eprintln!("{warning}");
    }
    let pieces = lay_out(&backend.claim("vmm")?)?;
    let memory: Memory = guest_memory(&pieces)?;

    let vm = Arc::new(kvm.create_vm()?);
    let _slots = (0..)
        .zip(&pieces)
        .map(|(id, piece)| MemorySlot::new(Arc::clone(&vm), id, piece))
        .collect::<hostmem::Result<Vec<_>>>()?;
    let entry = load(&memory, Path::new(kernel), &command_line)?;
    let cpu = make_machine(&kvm, &vm)?;
    boot::start(&cpu, &memory, entry)?;
    run(cpu)
}

/// Cuts the memory around the addresses of devices.
fn lay_out(claim: &Claim) -> hostmem::Result<Vec<Piece>> {
    let length = claim.memory().len();
    let below = length.min(HOLE);
    let piece = |guest_address, offset, length| PieceRange {
        guest_address,
        offset,
        length,
    };
    let mut pieces = vec![piece(0, 0, below)];
    if length > below {
        pieces.push(piece(HOLE_END, below, length - below));
    }
    claim.pieces(&pieces)
}

/// Writes the kernel and its parameters to memory. Returns where the kernel begins.
fn load(memory: &Memory, path: &Path, command_line: &str) -> Result<GuestAddress> {
    let mut file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let high = Some(GuestAddress(boot::HIGH_MEMORY));
    let (kernel, entry) = match Elf::load(memory, None, &mut file, high) {
        Ok(kernel) => (kernel, kernel.kernel_load),
        Err(not_elf) => {
            let kernel: KernelLoaderResult = BzImage::load(memory, high, &mut file, high)
                .map_err(|error| format!("{}: {not_elf}; {error}", path.display()))?;
            (kernel, boot::entry_of_image(kernel.kernel_load))
        }
    };
    boot::write_parameters(memory, &kernel, command_line)?;
    Ok(entry)
}

fn make_machine(kvm: &Kvm, vm: &VmFd) -> Result<VcpuFd> {
    vm.set_tss_address(TASK_STATE)?;
    vm.create_irq_chip()?;
    vm.create_pit2(kvm_pit_config::default())?;
    let cpu = vm.create_vcpu(0)?;
    cpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    Ok(cpu)
}

/// Until the guest resets the machine.
fn run(mut cpu: VcpuFd) -> Result<()> {
    let mut out = io::stdout().lock();
    loop {
        match cpu.run() {
            Ok(VcpuExit::IoOut(SERIAL, bytes)) => {
                out.write_all(bytes)?;
                out.flush()?;
            }
            Ok(VcpuExit::IoOut(KEYBOARD, [RESET])) => return Ok(()),
            Ok(VcpuExit::IoIn(SERIAL_STATUS, bytes)) => bytes.fill(SERIAL_IDLE),
            Ok(VcpuExit::IoIn(_, bytes)) => bytes.fill(0),
            // Devices that are not there.
            Ok(VcpuExit::MmioRead(_, bytes)) => bytes.fill(0xff),
            Ok(VcpuExit::IoOut(..) | VcpuExit::MmioWrite(..)) => {}
            Ok(VcpuExit::InternalError) => {
                return Err("KVM cannot emulate what the guest does; dmesg may say where".into());
            }
            Ok(other) => return Err(format!("the guest left by {other:?}").into()),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(error.into()),
        }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest of 26 bytes. It runs in long mode below the hole of a PC, reads a message above it, prints
//! it on the serial port, and writes a mark behind it.

use std::error::Error;

use hostmem::vm_memory::v018::guest_memory;
use hostmem::Claim;
use hostmem::Piece;
use hostmem::PieceRange;
use kvm_bindings::kvm_segment;
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::Kvm;
use kvm_ioctls::VcpuExit;
use kvm_ioctls::VcpuFd;
use kvm_ioctls::VmFd;
use vm_memory_018::Bytes;
use vm_memory_018::GuestAddress;

/// Bytes on each side of the hole.
pub const HALF: u64 = 2 << 20;
/// The guest address of the memory above the hole.
pub const HIGH: u64 = 4 << 30;
/// The guest address of the message.
pub const MESSAGE: u64 = HIGH + 0x10000;
/// The byte that the guest writes behind the message.
pub const MARK: u8 = 0x5a;

const TABLES: u64 = 0x1000;
const CODE: u64 = 0x8000;
const SERIAL: u16 = 0x3f8;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Where the guest stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// At the `hlt` instruction.
    Halt,
    /// Reading at an address without memory.
    Read(u64),
    /// Writing at an address without memory, or with read-only memory.
    Write(u64),
}

/// Divides a claim in two around the hole.
pub fn cut(claim: &Claim) -> hostmem::Result<Vec<Piece>> {
    let half = |guest_address, offset| PieceRange {
        guest_address,
        offset,
        length: HALF,
    };
    claim.pieces(&[half(0, 0), half(HIGH, HALF)])
}

/// Writes the guest and its message to memory.
pub fn load(pieces: &[Piece], message: &str) -> Result<()> {
    let memory = guest_memory::<()>(pieces)?;
    for (at, table) in page_tables() {
        memory.write_obj(table, GuestAddress(at))?;
    }
    let mut code = vec![0x48, 0xbe]; // mov rsi, MESSAGE
    code.extend(MESSAGE.to_le_bytes());
    code.extend([0x66, 0xba, SERIAL as u8, (SERIAL >> 8) as u8]); // mov dx, SERIAL
    code.extend([0xac]); // next: lodsb
    code.extend([0x84, 0xc0]); // test al, al
    code.extend([0x74, 0x03]); // jz done
    code.extend([0xee]); // out dx, al
    code.extend([0xeb, 0xf8]); // jmp next
    code.extend([0xc6, 0x06, MARK]); // done: mov byte [rsi], MARK
    code.extend([0xf4]); // hlt
    memory.write_slice(&code, GuestAddress(CODE))?;
    memory.write_slice(message.as_bytes(), GuestAddress(MESSAGE))?;
    memory.write_obj(0u8, GuestAddress(MESSAGE + message.len() as u64))?;
    Ok(())
}

/// Each entry and its address: 2 MiB at 0 and 2 MiB at 4 GiB, mapped one to one.
fn page_tables() -> [(u64, u64); 5] {
    const PRESENT: u64 = 1 << 0;
    const WRITABLE: u64 = 1 << 1;
    const HUGE: u64 = 1 << 7;
    let [pml4, pdpt, low, high] = [0, 1, 2, 3].map(|page| TABLES + page * 0x1000);
    let to = |address| address | PRESENT | WRITABLE;
    [
        (pml4, to(pdpt)),
        (pdpt, to(low)),
        (pdpt + 4 * 8, to(high)),
        (low, to(0) | HUGE),
        (high, to(HIGH) | HUGE),
    ]
}

/// Runs the guest on a new CPU. Returns its output and where it stopped.
pub fn run(kvm: &Kvm, vm: &VmFd) -> Result<(String, End)> {
    let mut processor = vm.create_vcpu(0)?;
    processor.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    start(&processor)?;
    let mut said = Vec::new();
    loop {
        let end = match processor.run()? {
            VcpuExit::IoOut(SERIAL, bytes) => {
                said.extend(bytes);
                continue;
            }
            VcpuExit::Hlt => End::Halt,
            VcpuExit::MmioRead(address, _) => End::Read(address),
            VcpuExit::MmioWrite(address, _) => End::Write(address),
            other => return Err(format!("the guest left by {other:?}").into()),
        };
        return Ok((String::from_utf8(said)?, end));
    }
}

/// Sets up long mode, as a boot loader does.
fn start(processor: &VcpuFd) -> Result<()> {
    let mut system = processor.get_sregs()?;
    let segment = |type_, long| kvm_segment {
        limit: u32::MAX,
        type_,
        present: 1,
        s: 1,
        l: long,
        db: 1 - long,
        g: 1,
        ..Default::default()
    };
    system.cs = segment(11, 1);
    system.ds = segment(3, 0);
    (system.es, system.ss) = (system.ds, system.ds);
    system.cr3 = TABLES;
    system.cr4 = 1 << 5; // PAE
    system.cr0 = 1 << 31 | 1; // paging, protection
    system.efer = 1 << 10 | 1 << 8; // long mode, active
    processor.set_sregs(&system)?;
    let mut registers = processor.get_regs()?;
    registers.rip = CODE;
    registers.rflags = 2;
    processor.set_regs(&registers)?;
    Ok(())
}

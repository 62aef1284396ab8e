// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a kernel for x86-64 is started: Linux's 64-bit boot protocol
//! (Documentation/arch/x86/boot.rst of the kernel).

use std::ffi::CString;

use kvm_bindings::kvm_segment;
use kvm_ioctls::VcpuFd;
use linux_loader::loader::bootparam::boot_e820_entry;
use linux_loader::loader::bootparam::boot_params;
use linux_loader::loader::KernelLoaderResult;
use vm_memory_017::Address;
use vm_memory_017::Bytes;
use vm_memory_017::GuestAddress;
use vm_memory_017::GuestMemory;
use vm_memory_017::GuestMemoryRegion;

use super::Memory;
use super::Result;

/// Where kernels are loaded: behind what a PC's firmware uses.
pub const HIGH_MEMORY: u64 = 1 << 20;
/// The first megabyte ends here for the guest.
const LOW_END: u64 = 0x9_fc00;

const DESCRIPTORS: u64 = 0x500;
const PARAMETERS: u64 = 0x7000;
const STACK: u64 = 0x8ff0;
/// Three pages: tables of levels 4, 3 and 2.
const TABLES: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x2_0000;

const USABLE: u32 = 1;
const UNKNOWN_LOADER: u8 = 0xff;

/// Of an image the 64-bit entry is behind the 32-bit one.
pub fn entry_of_image(loaded: GuestAddress) -> GuestAddress {
    loaded.unchecked_add(0x200)
}

/// The command line, and the ranges of memory.
pub fn write_parameters(
    memory: &Memory,
    kernel: &KernelLoaderResult,
    command_line: &str,
) -> Result<()> {
    let text = CString::new(command_line)?;
    memory.write_slice(text.as_bytes_with_nul(), GuestAddress(COMMAND_LINE))?;

    let mut parameters = boot_params::default();
    if let Some(header) = kernel.setup_header {
        parameters.hdr = header;
    }
    parameters.hdr.type_of_loader = UNKNOWN_LOADER;
    parameters.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    let mut ranges = vec![(0, LOW_END)];
    for region in memory.iter() {
        let start = region.start_addr().0.max(HIGH_MEMORY);
        ranges.push((start, region.last_addr().0 + 1 - start));
    }
    parameters.e820_entries = ranges.len() as u8;
    for (entry, (addr, size)) in parameters.e820_table.iter_mut().zip(ranges) {
        let type_ = USABLE;
        *entry = boot_e820_entry { addr, size, type_ };
    }
    Ok(memory.write_obj(parameters, GuestAddress(PARAMETERS))?)
}

/// Code and data segments of 64-bit mode that begin at 0, as the CPU has them and as the table.
fn segments() -> [(kvm_segment, u64); 2] {
    let segment = |selector, type_, long| kvm_segment {
        selector,
        limit: u32::MAX,
        type_,
        present: 1,
        s: 1,
        l: long,
        db: 1 - long,
        g: 1,
        ..Default::default()
    };
    [
        (segment(0x10, 11, 1), 0x00af_9b00_0000_ffff),
        (segment(0x18, 3, 0), 0x00cf_9300_0000_ffff),
    ]
}

/// Maps the first GiB one to one, by pages of 2 MiB.
fn write_tables(memory: &Memory) -> Result<()> {
    const PRESENT_AND_WRITABLE: u64 = 3;
    const HUGE: u64 = 1 << 7;
    let [top, middle, low] = [0, 1, 2].map(|page| TABLES + page * 4096);
    memory.write_obj(middle | PRESENT_AND_WRITABLE, GuestAddress(top))?;
    memory.write_obj(low | PRESENT_AND_WRITABLE, GuestAddress(middle))?;
    for page in 0..512 {
        let entry = page << 21 | HUGE | PRESENT_AND_WRITABLE;
        memory.write_obj(entry, GuestAddress(low + page * 8))?;
    }
    let table = segments().map(|(_, entry)| entry);
    for (entry, number) in table.into_iter().zip(2..) {
        memory.write_obj(entry, GuestAddress(DESCRIPTORS + number * 8))?;
    }
    Ok(())
}

/// Puts the CPU at the entry, in 64-bit mode.
pub fn start(cpu: &VcpuFd, memory: &Memory, entry: GuestAddress) -> Result<()> {
    write_tables(memory)?;
    let mut system = cpu.get_sregs()?;
    let [(code, _), (data, _)] = segments();
    system.cs = code;
    (system.ds, system.es, system.fs) = (data, data, data);
    (system.gs, system.ss) = (data, data);
    (system.gdt.base, system.gdt.limit) = (DESCRIPTORS, 4 * 8 - 1);
    system.cr3 = TABLES;
    system.cr4 |= 1 << 5; // PAE
    system.cr0 |= 1 << 31 | 1; // paging, protection
    system.efer |= 1 << 10 | 1 << 8; // long mode, active
    cpu.set_sregs(&system)?;
    let mut registers = cpu.get_regs()?;
    registers.rip = entry.0;
    registers.rsi = PARAMETERS;
    registers.rsp = STACK;
    registers.rflags = 2;
    Ok(cpu.set_regs(&registers)?)
}

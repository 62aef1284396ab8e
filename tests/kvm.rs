// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pieces in memory slots of KVM, with a guest that runs in them.
#![cfg(all(feature = "kvm", feature = "vm-memory-018", target_arch = "x86_64"))]

mod common;
#[path = "../examples/kvm_boot/guest.rs"]
mod guest;
#[path = "../examples/guest_memfd/kind.rs"]
mod guest_memfd;

use std::io;
use std::sync::Arc;

use common::host::HugePages;
use common::in_child;
use common::in_forked_child;
use common::is_mapped;
use common::objects;
use common::page_size;
use common::refusing;
use common::skip;
use common::Refusal;
use guest::End;
use guest::HALF;
use guest::HIGH;
use guest::MESSAGE;
use guest_memfd::GuestMemfd;
use hostmem::kvm::MemorySlot;
use hostmem::kvm::SlotOptions;
use hostmem::kvm::SlotRegion;
use hostmem::kvm::SlotVm;
use hostmem::Backend;
use hostmem::ErrorKind;
use hostmem::Piece;
use hostmem::PieceRange;
use hostmem::State;
use kvm_ioctls::Cap;
use kvm_ioctls::Kvm;
use kvm_ioctls::VmFd;

/// What the guest writes last is behind this.
const SAYS: &str = "memory";
const SAID_AT: u64 = MESSAGE - HIGH + SAYS.len() as u64 + 1;

/// KVM and a virtual machine, where there is one.
fn machine() -> Option<(Kvm, Arc<VmFd>)> {
    let made = Kvm::new().and_then(|kvm| {
        let vm = kvm.create_vm()?;
        Ok((kvm, Arc::new(vm)))
    });
    made.inspect_err(|error| skip(&format!("no virtual machine by /dev/kvm: {error}")))
        .ok()
}

fn backend(options: &str) -> Backend {
    let size = 2 * HALF;
    let options = format!("{options},size={size}");
    objects().parse(options).unwrap().complete().unwrap()
}

/// A backend, and its memory on both sides of the hole with the guest in it.
fn loaded(options: &str) -> (Backend, Vec<Piece>) {
    let backend = backend(options);
    let pieces = guest::cut(&backend.claim("vm0").unwrap()).unwrap();
    guest::load(&pieces, SAYS).unwrap();
    (backend, pieces)
}

fn loaded_ram() -> (Backend, Vec<Piece>) {
    loaded("memory-backend-ram,id=ram0")
}

fn slots(vm: &Arc<VmFd>, pieces: &[Piece]) -> Vec<MemorySlot> {
    let ids = 0..;
    let add = |(id, piece)| MemorySlot::new(Arc::clone(vm), id, piece).unwrap();
    ids.zip(pieces).map(add).collect()
}

/// What is behind the message.
fn mark(pieces: &[Piece]) -> u8 {
    let at = pieces[1].memory().as_ptr().wrapping_add(SAID_AT as usize);
    // SAFETY: inside the piece, which lives; the guest does not run now.
    unsafe { at.read_volatile() }
}

fn halted() -> (String, End) {
    (SAYS.to_owned(), End::Halt)
}

#[test]
fn a_guest_runs_in_memory_of_every_kind() {
    let Some((kvm, _)) = machine() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let file = format!(
        "memory-backend-file,id=ram0,mem-path={}",
        directory.path().display()
    );
    let mut kinds = vec![
        "memory-backend-ram,id=ram0".to_owned(),
        "memory-backend-ram,id=ram0,share=on,prealloc=on".to_owned(),
        "memory-backend-memfd,id=ram0".to_owned(),
        "memory-backend-shm,id=ram0".to_owned(),
        file.clone(),
        format!("{file},share=on"),
    ];
    let pool = HugePages::have(2);
    if pool.is_some() {
        kinds.push("memory-backend-memfd,id=ram0,hugetlb=on,hugetlbsize=2M".to_owned());
    }
    for kind in kinds {
        let (_backend, pieces) = loaded(&kind);
        let vm = Arc::new(kvm.create_vm().unwrap());
        let slots = slots(&vm, &pieces);
        assert_eq!(mark(&pieces), 0, "{kind}");
        assert_eq!(guest::run(&kvm, &vm).unwrap(), halted(), "{kind}");
        assert_eq!(mark(&pieces), guest::MARK, "{kind}");
        drop(slots);
    }
}

/// The guest's tables, code and data are all unread when it begins; it sends back what it finds.
#[test]
fn a_guest_runs_in_memory_that_is_read_meanwhile() {
    let Some((kvm, _vm)) = machine() else {
        return;
    };
    let says: String = (0..60_000u32)
        .map(|at| char::from(b'a' + (at * 7919 % 26) as u8))
        .collect();
    let image = tempfile::NamedTempFile::new().unwrap();
    let before = backend("memory-backend-ram,id=ram0");
    let claim = before.claim("vm0").unwrap();
    guest::load(&guest::cut(&claim).unwrap(), &says).unwrap();
    claim.save(image.as_file(), 0).unwrap();
    for mode in ["prealloc=off", "prealloc=on,prealloc-mode=background"] {
        for thp in ["never", "always"] {
            let options = format!(
                "size=4M,{mode},thp={thp},contents={}",
                image.path().display()
            );
            let builder = common::ram(&options);
            let restored = match builder.complete() {
                Ok(backend) => backend,
                Err(failed) if failed.error.kind() == ErrorKind::Unsupported => {
                    return skip("no userfaultfd for faults of the kernel");
                }
                Err(failed) => panic!("{options}: {}", failed.error),
            };
            let (_, vm) = machine().unwrap();
            let pieces = guest::cut(&restored.claim("vm0").unwrap()).unwrap();
            let _slots = slots(&vm, &pieces);
            let (said, end) = guest::run(&kvm, &vm).unwrap();
            assert!(said == says, "{options}");
            assert_eq!(end, End::Halt);
        }
    }
}

#[test]
fn a_dropped_slot_is_out_of_the_guest() {
    let Some((kvm, vm)) = machine() else {
        return;
    };
    let (_backend, pieces) = loaded_ram();
    let mut slots = slots(&vm, &pieces);
    drop(slots.pop());
    let end = End::Read(MESSAGE);
    assert_eq!(guest::run(&kvm, &vm).unwrap(), (String::new(), end));
    // And can be put in again.
    MemorySlot::new(Arc::clone(&vm), 1, &pieces[1]).unwrap();
}

#[test]
fn a_slot_keeps_the_memory_and_the_vm() {
    let name = "a_slot_keeps_the_memory_and_the_vm";
    in_child(name, || {
        let Some((kvm, vm)) = machine() else {
            return;
        };
        let (backend, mut pieces) = loaded_ram();
        let mut slots = slots(&vm, &pieces);
        let address = pieces[1].memory().as_ptr() as usize;
        drop((backend, pieces.pop(), pieces));
        assert_eq!(guest::run(&kvm, &vm).unwrap(), halted());
        drop((kvm, vm));
        slots.remove(0);
        assert!(is_mapped(address));
        assert_eq!(slots[0].id(), 1);
        assert_eq!(slots[0].piece().guest_address(), Some(HIGH));
        drop(slots);
        assert!(!is_mapped(address));
    });
}

#[test]
fn what_kvm_refuses_is_said() {
    let Some((kvm, vm)) = machine() else {
        return;
    };
    let (_first, pieces) = loaded_ram();
    let (second, others) = loaded("memory-backend-memfd,id=ram1");
    let slots = slots(&vm, &pieces);
    let number = vm.check_extension_int(Cap::NrMemslots) as u32;
    for (id, piece, expected) in [
        (7, &others[0], "overlap those of another slot"),
        (0, &pieces[0], "the piece is in that slot already"),
        (7, &pieces[0], "overlap those of another slot"),
        (0, &others[0], "the slot is taken by other memory"),
        (number, &others[0], &format!("{number} slots")),
        (0xffff, &others[0], &format!("{number} slots")),
        (0xffff_0005, &others[0], "KVM refuses it"),
    ] {
        let error = MemorySlot::new(Arc::clone(&vm), id, piece).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{id}: {error}");
        let prefix = format!("{}: memory slot {id} at guest address 0x0: ", piece.id());
        assert!(error.to_string().starts_with(&prefix), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    // The last slot, and the same piece in another virtual machine, are allowed.
    let other = Arc::new(kvm.create_vm().unwrap());
    MemorySlot::new(Arc::clone(&other), number - 1, &pieces[0]).unwrap();
    // What was refused holds nothing.
    drop(others);
    assert_eq!(second.state(), State::Ready);
    drop(slots);
}

#[test]
fn a_guest_address_may_be_too_high() {
    let Some((_kvm, vm)) = machine() else {
        return;
    };
    let backend = backend("memory-backend-ram,id=ram0");
    let claim = backend.claim("vm0").unwrap();
    let piece = claim.piece(1 << 60).unwrap();
    let error = MemorySlot::new(Arc::clone(&vm), 0, &piece).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value, "{error}");
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    assert!(
        error.to_string().contains("beyond those of this VM"),
        "{error}"
    );
}

#[test]
fn a_guest_does_not_write_to_a_read_only_slot() {
    let Some((kvm, vm)) = machine() else {
        return;
    };
    let (_backend, pieces) = loaded_ram();
    let _low = MemorySlot::new(Arc::clone(&vm), 0, &pieces[0]).unwrap();
    let options = SlotOptions::new().readonly(true);
    let _high = MemorySlot::with(Arc::clone(&vm), 1, &pieces[1], options).unwrap();
    let end = End::Write(HIGH + SAID_AT);
    assert_eq!(guest::run(&kvm, &vm).unwrap(), (SAYS.to_owned(), end));
    assert_eq!(mark(&pieces), 0);
}

#[test]
fn read_only_memory_is_a_read_only_slot() {
    let Some((kvm, vm)) = machine() else {
        return;
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(2 * HALF).unwrap();
    let path = file.path().display();
    // The guest is put into the file by a backend that may write to it.
    let writable = format!("memory-backend-file,id=rom0,share=on,mem-path={path}");
    drop(loaded(&writable));
    let (_ram, low) = loaded_ram();
    let rom = backend(&format!("{writable},readonly=on"));
    let high = PieceRange {
        guest_address: HIGH,
        offset: HALF,
        length: HALF,
    };
    let high = rom.claim("vm0").unwrap().pieces(&[high]).unwrap();
    let _low = MemorySlot::new(Arc::clone(&vm), 0, &low[0]).unwrap();
    let _high = MemorySlot::new(Arc::clone(&vm), 1, &high[0]).unwrap();
    let end = End::Write(HIGH + SAID_AT);
    assert_eq!(guest::run(&kvm, &vm).unwrap(), (SAYS.to_owned(), end));
}

#[test]
fn what_the_guest_writes_is_in_the_dirty_log() {
    let Some((kvm, vm)) = machine() else {
        return;
    };
    let (_backend, pieces) = loaded_ram();
    let _low = MemorySlot::new(Arc::clone(&vm), 0, &pieces[0]).unwrap();
    let logging = SlotOptions::new().log_dirty_pages(true);
    let mut high = MemorySlot::with(Arc::clone(&vm), 1, &pieces[1], logging).unwrap();
    let clean = vec![0; (HALF / page_size() / 64) as usize];
    assert_eq!(high.dirty_log().unwrap(), clean);
    assert_eq!(guest::run(&kvm, &vm).unwrap(), halted());
    let page = (SAID_AT / page_size()) as usize;
    let mut dirty = clean.clone();
    dirty[page / 64] |= 1 << (page % 64);
    assert_eq!(high.dirty_log().unwrap(), dirty);
    assert_eq!(high.dirty_log().unwrap(), clean);

    high.log_dirty_pages(false).unwrap();
    assert_eq!(high.dirty_log().unwrap_err().kind(), ErrorKind::State);
    high.log_dirty_pages(true).unwrap();
    assert_eq!(high.dirty_log().unwrap(), clean);
    drop(high);
    MemorySlot::new(Arc::clone(&vm), 1, &pieces[1]).unwrap();
}

/// `KVM_SET_USER_MEMORY_REGION`, from `linux/kvm.h`.
const SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;

fn refuse_slots(errno: libc::c_int) -> Refusal {
    Refusal::new(libc::SYS_ioctl, errno).only(1, SET_USER_MEMORY_REGION)
}

#[test]
fn a_slot_that_stays_keeps_its_memory_for_good() {
    // What is left for good is what it calls a leak.
    if common::has_address_sanitizer() {
        return;
    }
    let name = "a_slot_that_stays_keeps_its_memory_for_good";
    in_child(name, || {
        let Some((kvm, vm)) = machine() else {
            return;
        };
        let (backend, pieces) = loaded_ram();
        let slots = slots(&vm, &pieces);
        let address = pieces[0].memory().as_ptr() as usize;
        drop(pieces);
        refusing(&[refuse_slots(libc::EIO)], || drop(slots));
        assert_eq!(backend.state(), State::Mapped);
        drop(backend);
        assert!(is_mapped(address));
        assert_eq!(guest::run(&kvm, &vm).unwrap(), halted());
    });
}

#[test]
fn a_change_that_fails_leaves_the_slot_as_it_was() {
    let Some((kvm, vm)) = machine() else {
        return;
    };
    let (backend, pieces) = loaded_ram();
    let mut slots = slots(&vm, &pieces);
    refusing(&[refuse_slots(libc::ENOMEM)], || {
        let error = slots[0].log_dirty_pages(true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoMemory, "{error}");
        assert_eq!(slots[0].dirty_log().unwrap_err().kind(), ErrorKind::State);
        let other = Arc::new(kvm.create_vm().unwrap());
        let error = MemorySlot::new(Arc::clone(&other), 0, &pieces[0]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM), "{error}");
    });
    assert_eq!(guest::run(&kvm, &vm).unwrap(), halted());
    drop((slots, pieces));
    assert_eq!(backend.state(), State::Ready);
}

#[test]
fn a_forked_child_leaves_the_slots_alone() {
    let Some((kvm, vm)) = machine() else {
        return;
    };
    let (_backend, pieces) = loaded_ram();
    let mut slots = slots(&vm, &pieces);
    in_forked_child(|| {
        slots.clear();
        true
    });
    assert_eq!(slots.len(), 2);
    assert_eq!(guest::run(&kvm, &vm).unwrap(), halted());
}

#[test]
fn guest_memfd_is_the_memory_of_its_vm() {
    let Some((kvm, vm)) = machine() else {
        return;
    };
    let kind = match GuestMemfd::new(Arc::clone(&vm)) {
        Ok(kind) => kind,
        Err(why) => return skip(&why.to_string()),
    };
    let objects = objects();
    objects
        .register_kind("guest-memfd", "Memory of a KVM guest.", true, kind)
        .unwrap();
    let builder = objects.builder("guest-memfd", "ram0").unwrap();
    let backend = builder.size(2 * HALF).complete().unwrap();
    let pieces = guest::cut(&backend.claim("vm0").unwrap()).unwrap();
    guest::load(&pieces, SAYS).unwrap();
    let mut slots = Vec::new();
    for (id, piece) in (0..).zip(&pieces) {
        let memory = piece.memory();
        let options = SlotOptions::new().guest_memfd(memory.fd().unwrap(), memory.fd_offset());
        let error = MemorySlot::with(Arc::clone(&vm), id, piece, options.log_dirty_pages(true))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{error}");
        assert!(
            error.to_string().contains("which guest_memfd excludes"),
            "{error}"
        );
        slots.push(MemorySlot::with(Arc::clone(&vm), id, piece, options).unwrap());
    }
    assert_eq!(guest::run(&kvm, &vm).unwrap(), halted());
    assert_eq!(mark(&pieces), guest::MARK);
    drop((slots, pieces));
    assert_eq!(backend.state(), State::Ready);
}

#[test]
fn what_is_no_guest_memfd_is_refused() {
    let Some((_kvm, vm)) = machine() else {
        return;
    };
    let (_backend, pieces) = loaded("memory-backend-memfd,id=ram0");
    let fd = pieces[0].memory().fd().unwrap();
    let options = SlotOptions::new().guest_memfd(fd, 0);
    let error = MemorySlot::with(Arc::clone(&vm), 0, &pieces[0], options).unwrap_err();
    let expected = match vm.check_extension(Cap::GuestMemfd) {
        true => (ErrorKind::Value, "no guest_memfd of this VM"),
        false => (ErrorKind::Unsupported, "has no guest_memfd"),
    };
    assert_eq!(error.kind(), expected.0, "{error}");
    assert!(error.to_string().contains(expected.1), "{error}");
    MemorySlot::new(Arc::clone(&vm), 0, &pieces[0]).unwrap();
}

/// A VMM's own trait of virtual machines, behind which it has KVM.
trait Hypervisor: Send + Sync {
    fn create_region(&self, region: [u64; 4], readonly: bool) -> io::Result<()>;
    fn remove_region(&self, region: [u64; 4]) -> io::Result<()>;
}

impl Hypervisor for VmFd {
    fn create_region(&self, region: [u64; 4], readonly: bool) -> io::Result<()> {
        let [slot, guest_phys_addr, memory_size, userspace_addr] = region;
        let region = kvm_bindings::kvm_userspace_memory_region {
            slot: slot as u32,
            flags: u32::from(readonly) * kvm_bindings::KVM_MEM_READONLY,
            guest_phys_addr,
            memory_size,
            userspace_addr,
        };
        // SAFETY: only `OwnVm` calls it, with memory that stays mapped.
        unsafe { self.set_user_memory_region(region) }
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }

    fn remove_region(&self, mut region: [u64; 4]) -> io::Result<()> {
        region[2] = 0;
        self.create_region(region, false)
    }
}

struct OwnVm(Arc<dyn Hypervisor>);

fn numbers(slot: &SlotRegion) -> [u64; 4] {
    let host = slot.host_address() as u64;
    [slot.id().into(), slot.guest_address(), slot.size(), host]
}

// SAFETY: KVM uses the memory of a slot until it is removed.
unsafe impl SlotVm for OwnVm {
    fn identity(&self) -> usize {
        Arc::as_ptr(&self.0).cast::<()>() as usize
    }

    fn set_slot(&self, slot: &SlotRegion) -> io::Result<()> {
        self.0.create_region(numbers(slot), slot.is_readonly())
    }

    fn clear_slot(&self, slot: &SlotRegion) -> io::Result<()> {
        self.0.remove_region(numbers(slot))
    }
}

#[test]
fn a_vmms_own_vm_has_slots() {
    let Some((kvm, vm)) = machine() else {
        return;
    };
    let (backend, pieces) = loaded_ram();
    let own = Arc::new(OwnVm(Arc::clone(&vm) as Arc<dyn Hypervisor>));
    let low = MemorySlot::new(&*own, 0, &pieces[0]).unwrap();
    let options = SlotOptions::new().readonly(true);
    let high = MemorySlot::with(Arc::clone(&own), 1, &pieces[1], options).unwrap();
    assert!(high.region().is_readonly());
    let error = MemorySlot::new(Arc::clone(&own), 1, &pieces[1]).unwrap_err();
    assert!(
        error.to_string().contains("in that slot already"),
        "{error}"
    );
    let error = MemorySlot::new(&*own, 7, &pieces[0]).unwrap_err();
    assert!(error.to_string().contains("overlap"), "{error}");
    let end = End::Write(HIGH + SAID_AT);
    assert_eq!(guest::run(&kvm, &vm).unwrap(), (SAYS.to_owned(), end));
    drop((low, high));

    let vm = Arc::new(kvm.create_vm().unwrap());
    let own = OwnVm(Arc::clone(&vm) as Arc<dyn Hypervisor>);
    let low = MemorySlot::new(&own, 0, &pieces[0]).unwrap();
    let mut high = MemorySlot::new(&own, 1, &pieces[1]).unwrap();
    assert_eq!(guest::run(&kvm, &vm).unwrap(), halted());
    high.log_dirty_pages(true).unwrap();
    // This VM has no dirty log of its own.
    assert_eq!(high.dirty_log().unwrap_err().kind(), ErrorKind::Io);
    drop((low, high, pieces));
    assert_eq!(backend.state(), State::Ready);
}

#[test]
fn a_vm_may_be_borrowed_or_owned() {
    let Some((kvm, _)) = machine() else {
        return;
    };
    let (backend, pieces) = loaded_ram();
    let vm = kvm.create_vm().unwrap();
    let slots: Vec<MemorySlot<&VmFd>> = (0..)
        .zip(&pieces)
        .map(|(id, piece)| MemorySlot::new(&vm, id, piece).unwrap())
        .collect();
    let error = MemorySlot::new(&vm, 0, &pieces[0]).unwrap_err();
    assert!(
        error.to_string().contains("in that slot already"),
        "{error}"
    );
    let vm = Arc::new(kvm.create_vm().unwrap());
    let shared = self::slots(&vm, &pieces);
    drop(slots);
    assert_eq!(guest::run(&kvm, &vm).unwrap(), halted());
    drop(shared);
    let owned = MemorySlot::new(kvm.create_vm().unwrap(), 0, &pieces[0]).unwrap();
    drop((owned, pieces));
    assert_eq!(backend.state(), State::Ready);
}

/// As firecracker cuts one region into many slots.
#[test]
fn a_slot_may_be_a_part_of_a_piece() {
    let Some((kvm, vm)) = machine() else {
        return;
    };
    let (_backend, pieces) = loaded_ram();
    let _low = MemorySlot::new(&vm, 0, &pieces[0]).unwrap();
    let page = page_size();
    let part = |id: u32, offset, length| {
        let options = SlotOptions::new().range(offset, length);
        MemorySlot::with(&vm, id, &pieces[1], options)
    };
    let first = part(1, 0, page).unwrap();
    let rest = part(2, page, HALF - page).unwrap();
    assert_eq!(rest.region().guest_address(), HIGH + page);
    assert_eq!(rest.region().size(), HALF - page);
    assert_eq!(
        rest.region().host_address(),
        pieces[1].memory().as_ptr().wrapping_add(page as usize)
    );
    assert_eq!(guest::run(&kvm, &vm).unwrap(), halted());
    assert_eq!(mark(&pieces), guest::MARK);
    drop((first, rest));
    for (offset, length, expected) in [
        (0, HALF + page, "outside the piece"),
        (HALF, page, "outside the piece"),
        (u64::MAX, page, "outside the piece"),
        (page / 2, page, "its guest address is"),
        (page, page / 2, "its length is"),
        (page, 0, "its length is"),
    ] {
        let error = part(1, offset, length).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_slot_is_of_whole_pages() {
    let Some((_kvm, vm)) = machine() else {
        return;
    };
    let backend = backend("memory-backend-ram,id=ram0");
    let claim = backend.claim("vm0").unwrap();
    let page = page_size();
    for (guest_address, length, expected) in [
        (0x9fc00, page, "its guest address is 0x9fc00"),
        (0x10_0000, page + 1, "its length is"),
    ] {
        let range = PieceRange {
            guest_address,
            offset: 0,
            length,
        };
        let pieces = claim.pieces(&[range]).unwrap();
        let error = MemorySlot::new(&vm, 0, &pieces[0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// As a device that puts its memory where the guest wants it.
#[test]
fn a_piece_without_a_guest_address_gets_one_in_a_slot() {
    let Some((kvm, vm)) = machine() else {
        return;
    };
    let (_ram, low) = loaded_ram();
    let _low = MemorySlot::new(&vm, 0, &low[0]).unwrap();
    let (backend, pieces) = loaded("memory-backend-memfd,id=shm0");
    drop(pieces);
    let piece = backend.claim("ivshmem").unwrap().host_piece(HALF, HALF);
    let piece = piece.unwrap();
    let error = MemorySlot::new(&vm, 1, &piece).unwrap_err();
    assert!(error.to_string().contains("no guest address"), "{error}");
    let options = SlotOptions::new().guest_address(HIGH);
    let _slot = MemorySlot::with(&vm, 1, &piece, options).unwrap();
    assert_eq!(guest::run(&kvm, &vm).unwrap(), halted());
}

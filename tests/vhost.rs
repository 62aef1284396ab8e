// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory given to a vhost-user device in another process, by the protocol of the crate vhost on
//! both sides.
#![cfg(feature = "vhost")]

mod common;

use std::env;
use std::io;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process;
use std::process::Child;
use std::process::Command;
use std::sync::Arc;
use std::sync::RwLock;
use std::thread;
use std::time::Duration;

use common::objects;
use hostmem::vhost::MemoryTable;
use hostmem::Backend;
use hostmem::ErrorKind;
use hostmem::Piece;
use hostmem::PieceRange;
use hostmem::State;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost::vhost_user::Frontend;
use vhost::VhostBackend;
use vhost_user_backend::VhostUserBackendMut;
use vhost_user_backend::VhostUserDaemon;
use vhost_user_backend::VringRwLock;
use vm_memory_018::Bytes;
use vm_memory_018::GuestAddress;
use vm_memory_018::GuestAddressSpace;
use vm_memory_018::GuestMemoryAtomic;
use vm_memory_018::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;

const HALF: u64 = 1 << 20;
const HIGH: u64 = 4 << 30;
/// Where the VMM writes, on either side of the hole; the device answers behind it.
const WORDS: [u64; 2] = [0x1000, HIGH + HALF - 16];

fn backend(options: &str) -> Backend {
    let options = format!("{options},size={}", 2 * HALF);
    objects().parse(options).unwrap().complete().unwrap()
}

fn halves(backend: &Backend) -> Vec<Piece> {
    let half = |guest_address, offset| PieceRange {
        guest_address,
        offset,
        length: HALF,
    };
    let claim = backend.claim("vm0").unwrap();
    claim.pieces(&[half(0, 0), half(HIGH, HALF)]).unwrap()
}

/// A word of the VMM's, by guest address.
fn word(pieces: &[Piece], at: u64) -> *mut u64 {
    let piece = &pieces[usize::from(at >= HIGH)];
    let offset = at - piece.guest_address().unwrap();
    piece.memory().as_ptr().wrapping_add(offset as usize).cast()
}

/// Answers in memory as soon as it has some.
struct Device;

impl VhostUserBackendMut for Device {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        1
    }

    fn max_queue_size(&self) -> usize {
        16
    }

    fn features(&self) -> u64 {
        0
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::empty()
    }

    fn set_event_idx(&mut self, _enabled: bool) {}

    fn update_memory(&mut self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
        let memory = memory.memory();
        for at in WORDS {
            let word: u64 = memory
                .read_obj(GuestAddress(at))
                .map_err(io::Error::other)?;
            memory
                .write_obj(!word, GuestAddress(at + 8))
                .map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn handle_event(
        &mut self,
        _device_event: u16,
        _events: EventSet,
        _vrings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        Ok(())
    }
}

/// The device's process, until the VMM hangs up.
fn serve(socket: &str) -> ! {
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let device = Arc::new(RwLock::new(Device));
    let mut daemon = VhostUserDaemon::new("device".to_owned(), device, memory).unwrap();
    daemon.start_client(socket).unwrap();
    // However it ends, the VMM is gone.
    let _ = daemon.wait();
    // The threads of its queues do not end by themselves.
    process::exit(0)
}

const SOCKET: &str = "HOSTMEM_TEST_SOCKET";

/// This test binary again, as the device.
fn start_device(test: &str, socket: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args([test, "--exact"])
        .env(SOCKET, socket)
        .spawn()
        .unwrap()
}

/// The connection of a child, which may end before it makes one.
fn accept(listener: &UnixListener, child: &mut Child) -> UnixStream {
    listener.set_nonblocking(true).unwrap();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                return stream;
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
        }
        assert_eq!(child.try_wait().unwrap(), None);
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn two_processes_see_what_the_other_writes() {
    let test = "two_processes_see_what_the_other_writes";
    if let Ok(socket) = env::var(SOCKET) {
        serve(&socket);
    }
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("device");
    let listener = UnixListener::bind(&socket).unwrap();
    for kind in [
        "memory-backend-memfd,id=ram0",
        "memory-backend-ram,id=ram0,share=on",
        "memory-backend-shm,id=ram0",
    ] {
        let backend = backend(kind);
        let pieces = halves(&backend);
        for at in WORDS {
            // SAFETY: inside a piece, which lives, and aligned; the device has no memory yet.
            unsafe { word(&pieces, at).write_volatile(at ^ 0x1234) };
        }
        check_answers(test, &listener, &socket, &pieces, kind);
        drop(pieces);
        assert_eq!(backend.state(), State::Ready);
    }
}

/// Gives the memory to a device in another process, which has to find the words there.
fn check_answers(test: &str, listener: &UnixListener, socket: &Path, pieces: &[Piece], what: &str) {
    let mut child = start_device(test, socket);
    let stream = accept(listener, &mut child);
    let device = Frontend::from_stream(stream, 1);
    device.set_owner().unwrap();
    let table = MemoryTable::new(pieces).unwrap();
    device.set_mem_table(&table).unwrap();
    // Its answer to this is behind its dealing with the table.
    device.get_features().unwrap();
    for at in WORDS {
        // SAFETY: inside a piece, which lives, and aligned; the device has written.
        let answer = unsafe { word(pieces, at + 8).read_volatile() };
        assert_eq!(answer, !(at ^ 0x1234), "{what}: {at:#x}");
    }
    drop(device);
    assert!(child.wait().unwrap().success());
}

/// Memory of an image, in each way in which it is read, once all of it is.
#[test]
fn a_device_finds_contents_that_were_read() {
    let test = "a_device_finds_contents_that_were_read";
    if let Ok(socket) = env::var(SOCKET) {
        serve(&socket);
    }
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("device");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut bytes = common::image::pattern(3, 2 * HALF);
    for at in WORDS {
        let offset = if at < HIGH { at } else { at - HIGH + HALF } as usize;
        bytes[offset..offset + 8].copy_from_slice(&(at ^ 0x1234).to_ne_bytes());
    }
    let image = common::image::image_in(directory.path(), 0, &bytes);
    let mut modes = vec!["prealloc=on"];
    if common::lazy::can_serve() {
        modes.push("prealloc=on,prealloc-mode=background");
        modes.push("prealloc=off");
    }
    for mode in modes {
        let options = format!("memory-backend-memfd,id=ram0,{mode},contents={image}");
        let backend = backend(&options);
        if mode == "prealloc=off" {
            backend.set("prealloc", true).unwrap();
        }
        backend.wait_prealloc(None).unwrap();
        let pieces = halves(&backend);
        check_answers(test, &listener, &socket, &pieces, &options);
        // What the device wrote is there beside the rest.
        for at in WORDS {
            let offset = if at < HIGH { at } else { at - HIGH + HALF } as usize;
            bytes[offset + 8..offset + 16].copy_from_slice(&(!(at ^ 0x1234)).to_ne_bytes());
        }
        drop(pieces);
        common::image::assert_same(&backend, &bytes, &options);
    }
}

#[test]
fn a_table_has_addresses_and_offsets_and_keeps_the_memory() {
    let backend = backend("memory-backend-memfd,id=ram0");
    let pieces = halves(&backend);
    let table = MemoryTable::new(&pieces).unwrap();
    let addresses = pieces.iter().map(|piece| piece.memory().as_ptr() as u64);
    let addresses: Vec<_> = addresses.collect();
    drop(pieces);
    assert_eq!(table.len(), 2);
    assert_eq!(table.pieces().len(), 2);
    for (region, (guest, offset, address)) in table
        .iter()
        .zip([(0, 0, addresses[0]), (HIGH, HALF, addresses[1])])
    {
        assert_eq!(region.guest_phys_addr, guest);
        assert_eq!(region.memory_size, HALF);
        assert_eq!(region.userspace_addr, address);
        assert_eq!(region.mmap_offset, offset);
        let path = format!("/proc/self/fd/{}", region.mmap_handle);
        let target = std::fs::read_link(path).unwrap();
        assert!(target.to_string_lossy().contains("ram0"), "{target:?}");
    }
    assert_eq!(backend.state(), State::Mapped);
    drop(table);
    assert_eq!(backend.state(), State::Ready);
}

#[test]
fn memory_that_cannot_be_shared_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(2 * HALF).unwrap();
    let file = format!(
        "memory-backend-file,id=ram0,readonly=on,share=on,mem-path={}",
        file.path().display()
    );
    for (options, expected) in [
        ("memory-backend-ram,id=ram0", "share=on"),
        ("memory-backend-memfd,id=ram0,share=off", "share=on"),
        (&file, "read-only"),
    ] {
        let backend = backend(options);
        let pieces = halves(&backend);
        let error = MemoryTable::new(&pieces).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{options}: {error}");
        assert!(
            error.to_string().starts_with("ram0: vhost-user: "),
            "{error}"
        );
        assert!(error.to_string().contains(expected), "{options}: {error}");
        drop(pieces);
        assert_eq!(backend.state(), State::Ready);
    }
}

#[test]
fn memory_without_a_guest_address_is_refused() {
    let backend = backend("memory-backend-memfd,id=ram0");
    let piece = backend.claim("vm0").unwrap().host_piece(0, HALF).unwrap();
    let error = MemoryTable::new(&[piece]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value, "{error}");
    assert!(error.to_string().contains("no guest address"), "{error}");
}

/// The device would find zero instead of what is unread.
#[test]
fn unread_contents_are_not_shared() {
    if !common::lazy::can_serve() {
        return;
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(image.path(), vec![7; 2 * HALF as usize]).unwrap();
    let backend = backend(&format!(
        "memory-backend-memfd,id=m0,contents={}",
        image.path().display()
    ));
    let pieces = halves(&backend);
    let error = MemoryTable::new(&pieces).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(
        error.to_string().contains("contents are not all read"),
        "{error}"
    );
    backend.set("prealloc", true).unwrap();
    assert_eq!(MemoryTable::new(&pieces).unwrap().len(), 2);
}

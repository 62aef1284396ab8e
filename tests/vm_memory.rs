// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pieces as vm-memory's own regions: what they hold, and what they keep.
#![cfg(any(feature = "vm-memory-017", feature = "vm-memory-018"))]

mod common;

use common::objects;
use hostmem::Backend;
use hostmem::Piece;
use hostmem::PieceRange;

const SIZE: u64 = 8 << 20;
/// Where the guest sees the second half of the memory.
const HIGH: u64 = 1 << 32;

fn backend(options: &str) -> Backend {
    objects().parse(options).unwrap().complete().unwrap()
}

/// A backend of memory in two halves.
fn halves(kind: &str) -> (Backend, Vec<Piece>) {
    let backend = backend(&format!("{kind},id=ram0,size={SIZE}"));
    let pieces = cut(&backend);
    (backend, pieces)
}

fn cut(backend: &Backend) -> Vec<Piece> {
    let ranges = [(0, 0), (HIGH, SIZE / 2)].map(|(guest_address, offset)| PieceRange {
        guest_address,
        offset,
        length: SIZE / 2,
    });
    backend.claim("vm0").unwrap().pieces(&ranges).unwrap()
}

/// The guest address of a byte of the memory.
fn guest_address(offset: u64) -> u64 {
    match offset < SIZE / 2 {
        true => offset,
        false => HIGH + offset - SIZE / 2,
    }
}

/// The tests for one version, whose trait of guest memory has a name of its own.
macro_rules! version {
    ($version:ident, $vm_memory:ident, $guest_memory:ident) => {
        mod $version {
            use std::os::unix::fs::FileExt;
            use std::sync::Arc;
            use std::thread;

            use ::$vm_memory as vm_memory;
            use hostmem::vm_memory::$version::guest_memory;
            use hostmem::vm_memory::$version::guest_region;
            use hostmem::vm_memory::$version::mmap_region;
            use hostmem::vm_memory::$version::Pinned;
            use hostmem::ErrorKind;
            use hostmem::State;
            use vm_memory::bitmap::AtomicBitmap;
            use vm_memory::bitmap::Bitmap;
            use vm_memory::bitmap::NewBitmap;
            use vm_memory::$guest_memory;
            use vm_memory::Bytes;
            use vm_memory::GuestAddress;
            use vm_memory::GuestAddressSpace;
            use vm_memory::GuestMemoryAtomic;
            use vm_memory::GuestMemoryMmap;
            use vm_memory::GuestMemoryRegion;
            use vm_memory::GuestRegionCollection;
            use vm_memory::GuestRegionMmap;
            use vm_memory::MemoryRegionAddress;
            use vm_memory::MmapRegion;
            use vm_memory::VolatileMemory;

            use super::backend;
            use super::cut;
            use super::guest_address;
            use super::halves;
            use super::HIGH;
            use super::SIZE;
            use crate::common::host::HugePages;
            use crate::common::host::HUGE;
            use crate::common::image;
            use crate::common::in_child;
            use crate::common::is_mapped;
            use crate::common::page_size;

            #[test]
            fn pieces_are_guest_memory_in_any_order() {
                let (_backend, mut pieces) = halves("memory-backend-ram");
                pieces.reverse();
                let memory = guest_memory::<()>(&pieces).unwrap();
                assert_eq!(memory.num_regions(), 2);
                assert_eq!(memory.last_addr(), GuestAddress(HIGH + SIZE / 2 - 1));
                for (piece, at) in [(1, SIZE / 2 - 8), (0, HIGH), (0, HIGH + SIZE / 2 - 8)] {
                    memory.write_obj(at, GuestAddress(at)).unwrap();
                    assert_eq!(memory.read_obj::<u64>(GuestAddress(at)).unwrap(), at);
                    let piece = &pieces[piece];
                    let offset = (at - piece.guest_address().unwrap()) as usize;
                    let word = piece.memory().as_ptr().wrapping_add(offset).cast::<u64>();
                    // SAFETY: inside the piece, and aligned; nobody writes to it now.
                    assert_eq!(unsafe { word.read_volatile() }, at);
                }
                assert!(!memory.check_range(GuestAddress(SIZE / 2 - 8), 16));
                memory.read_obj::<u64>(GuestAddress(SIZE / 2)).unwrap_err();
            }

            /// Each half of the threads reads all in a way of its own, by places in no order; the
            /// others write a part of some pages.
            #[test]
            fn accesses_find_contents_that_are_unread() {
                let images = tempfile::tempdir().unwrap();
                let bytes = image::pattern(31, SIZE);
                let path = image::image_in(images.path(), 0, &bytes);
                let page = page_size();
                for (mode, thp) in [(0, "never"), (1, "never"), (0, "always"), (1, "always")] {
                    let mode = image::ON_DEMAND[mode];
                    let options = format!("size={SIZE},{mode},thp={thp},contents={path}");
                    let Some(backend) = image::complete_on_demand("ram", &options) else {
                        return;
                    };
                    let pieces = cut(&backend);
                    let guest = guest_memory::<()>(&pieces).unwrap();
                    let (memory, bytes) = (&guest, &bytes);
                    // The first half of each page stays as it is; the seventh pages' second half
                    // is written.
                    let is_written = |number: u64| number % 7 == 3;
                    let pages = |seed: u64| {
                        let count = SIZE / page;
                        (0..count).map(move |turn| (turn * 7919 + seed * 1009) % count)
                    };
                    thread::scope(|scope| {
                        for seed in 0..2 {
                            scope.spawn(move || {
                                let mut found = vec![0; page as usize / 2];
                                for number in pages(seed) {
                                    let at = number * page;
                                    let from = GuestAddress(guest_address(at));
                                    memory.read_slice(&mut found, from).unwrap();
                                    let expected = &bytes[at as usize..][..found.len()];
                                    assert!(found == expected, "page {number}");
                                }
                            });
                            scope.spawn(move || {
                                for number in pages(seed + 2) {
                                    let at = number * page + 8 * (number % 9);
                                    let from = GuestAddress(guest_address(at));
                                    let found: u64 = memory.read_obj(from).unwrap();
                                    let expected = &bytes[at as usize..][..8];
                                    assert_eq!(found.to_ne_bytes(), expected, "byte {at}");
                                }
                            });
                            // The kernel reads the memory, as it does for a device's file.
                            scope.spawn(move || {
                                let file = tempfile::tempfile().unwrap();
                                let half = page as usize / 2;
                                let mut found = vec![0; half];
                                for number in pages(seed + 4) {
                                    let at = number * page;
                                    let from = GuestAddress(guest_address(at));
                                    let mut to = &file;
                                    std::io::Seek::rewind(&mut to).unwrap();
                                    memory.write_all_volatile_to(from, &mut to, half).unwrap();
                                    file.read_exact_at(&mut found, 0).unwrap();
                                    let expected = &bytes[at as usize..][..half];
                                    assert!(found == expected, "page {number}");
                                }
                            });
                            scope.spawn(move || {
                                let new = vec![0xa5 ^ seed as u8; page as usize / 2];
                                for number in pages(seed + 6).filter(|&page| is_written(page)) {
                                    let at = number * page + page / 2;
                                    let to = GuestAddress(guest_address(at));
                                    let (one, other) = new.split_at(new.len() / 2);
                                    // By the CPU, and by the kernel; one thread writes each.
                                    match seed {
                                        0 => memory.write_slice(one, to).unwrap(),
                                        _ => {
                                            let to = GuestAddress(to.0 + one.len() as u64);
                                            let mut from = other;
                                            memory
                                                .read_exact_volatile_from(
                                                    to,
                                                    &mut from,
                                                    other.len(),
                                                )
                                                .unwrap();
                                        }
                                    }
                                }
                            });
                        }
                    });
                    let mut expected = bytes.clone();
                    for number in (0..SIZE / page).filter(|&page| is_written(page)) {
                        let at = (number * page + page / 2) as usize;
                        let quarter = page as usize / 4;
                        expected[at..at + quarter].fill(0xa5);
                        expected[at + quarter..at + 2 * quarter].fill(0xa4);
                    }
                    drop((guest, pieces));
                    image::assert_same(&backend, &expected, &options);
                }
            }

            #[test]
            fn what_is_written_is_dirty() {
                let (_backend, pieces) = halves("memory-backend-memfd");
                let memory: GuestMemoryMmap<Pinned<AtomicBitmap>> = guest_memory(&pieces).unwrap();
                let page = page_size();
                memory
                    .write_obj(7u8, GuestAddress(HIGH + 3 * page))
                    .unwrap();
                let region = memory.find_region(GuestAddress(HIGH)).unwrap();
                let bitmap = MmapRegion::bitmap(region);
                let dirty = (0..SIZE / 2 / page).filter(|n| bitmap.dirty_at((n * page) as usize));
                assert_eq!(dirty.collect::<Vec<_>>(), [3]);
                assert!(region.bitmap().dirty_at((3 * page) as usize));
                let low = memory.find_region(GuestAddress(0)).unwrap();
                assert!(!low.bitmap().dirty_at(0));
                // The bitmap's own functions are there too.
                assert_eq!(bitmap.get_and_reset()[0], 1 << 3);
                assert!(!bitmap.dirty_at((3 * page) as usize));
            }

            #[test]
            fn memory_with_a_descriptor_has_file_and_offset() {
                let (_backend, pieces) = halves("memory-backend-memfd");
                let region = guest_region(&pieces[1], ()).unwrap();
                let file = GuestMemoryRegion::file_offset(&region).unwrap();
                assert_eq!(file.start(), SIZE / 2);
                assert_eq!(region.prot(), libc::PROT_READ | libc::PROT_WRITE);
                assert_eq!(region.flags(), libc::MAP_SHARED);
                assert!(!region.owned());
                region.write_obj(*b"seen", MemoryRegionAddress(8)).unwrap();
                let mut seen = [0; 4];
                file.file().read_exact_at(&mut seen, SIZE / 2 + 8).unwrap();
                assert_eq!(&seen, b"seen");
                assert_eq!(GuestMemoryRegion::is_hugetlbfs(&region), Some(false));
            }

            #[test]
            fn anonymous_memory_has_no_file() {
                let (_backend, pieces) = halves("memory-backend-ram");
                let region = guest_region(&pieces[1], ()).unwrap();
                assert!(GuestMemoryRegion::file_offset(&region).is_none());
                assert_eq!(region.flags(), libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
                assert_eq!(region.start_addr(), GuestAddress(HIGH));
                assert_eq!(region.len(), SIZE / 2);
            }

            #[test]
            fn hugetlb_memory_says_so() {
                let Some(_pool) = HugePages::have(2) else {
                    return;
                };
                let options = "memory-backend-memfd,id=ram0,hugetlb=on,hugetlbsize=2M";
                let backend = backend(&format!("{options},size={}", 2 * HUGE));
                let piece = backend.claim("vm0").unwrap().piece(0).unwrap();
                let region = guest_region(&piece, ()).unwrap();
                assert_eq!(GuestMemoryRegion::is_hugetlbfs(&region), Some(true));
            }

            #[test]
            fn the_last_of_it_ends_the_claim() {
                let (backend, pieces) = halves("memory-backend-ram");
                let memory = guest_memory::<()>(&pieces).unwrap();
                drop(pieces);
                let copy = memory.clone();
                thread::spawn(move || drop(memory)).join().unwrap();
                assert_eq!(backend.state(), State::Mapped);
                drop(copy);
                assert_eq!(backend.state(), State::Ready);
            }

            #[test]
            fn a_region_that_was_removed_keeps_the_memory() {
                let name = "::a_region_that_was_removed_keeps_the_memory";
                in_child(&[stringify!($version), name].concat(), || {
                    let (backend, pieces) = halves("memory-backend-ram");
                    let memory = guest_memory::<AtomicBitmap>(&pieces).unwrap();
                    let removed = memory.remove_region(GuestAddress(HIGH), SIZE / 2);
                    let (rest, region) = removed.unwrap();
                    let address = region.as_ptr() as usize;
                    drop((backend, pieces, memory, rest));
                    region.write_obj(7u64, MemoryRegionAddress(0)).unwrap();
                    let read = region.read_obj::<u64>(MemoryRegionAddress(0));
                    assert_eq!(read.unwrap(), 7);
                    let piece = MmapRegion::bitmap(&region).piece().unwrap();
                    assert_eq!(piece.guest_address(), Some(HIGH));
                    assert!(is_mapped(address));
                    drop(region);
                    assert!(!is_mapped(address));
                });
            }

            #[test]
            fn it_can_go_to_a_thread() {
                let (_backend, pieces) = halves("memory-backend-ram");
                let memory = Arc::new(guest_memory::<AtomicBitmap>(&pieces).unwrap());
                let other = Arc::clone(&memory);
                thread::spawn(move || other.write_obj(9u8, GuestAddress(0)).unwrap())
                    .join()
                    .unwrap();
                assert_eq!(memory.read_obj::<u8>(GuestAddress(0)).unwrap(), 9);
            }

            #[test]
            fn read_only_memory_is_refused() {
                let file = tempfile::NamedTempFile::new().unwrap();
                file.as_file().set_len(SIZE).unwrap();
                let path = file.path().display();
                let options = format!("memory-backend-file,id=rom0,size={SIZE},mem-path={path}");
                let backend = backend(&format!("{options},readonly=on,share=on"));
                let piece = backend.claim("vm0").unwrap().piece(0).unwrap();
                let error = guest_region(&piece, ()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Value);
                assert!(error.to_string().starts_with("rom0: "), "{error}");
                assert!(error.to_string().contains("read-only"), "{error}");
                drop(piece);
                assert_eq!(backend.state(), State::Ready);
            }

            #[test]
            fn backends_may_not_overlap_in_the_guest() {
                let (_first, mut pieces) = halves("memory-backend-ram");
                let (second, others) = halves("memory-backend-memfd");
                pieces.extend(others);
                let error = guest_memory::<()>(&pieces).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Value);
                for expected in ["ram0 at 0x0, ram0 at 0x0, ram0 at 0x100000000", "intersect"] {
                    assert!(error.to_string().contains(expected), "{error}");
                }
                drop(pieces);
                assert_eq!(second.state(), State::Ready);
                assert_eq!(
                    guest_memory::<()>(&[]).unwrap_err().kind(),
                    ErrorKind::Value
                );
            }

            /// As firecracker's tests make memory, and code that knows only the alias.
            #[test]
            fn vm_memory_maps_memory_of_the_same_type() {
                type Memory = GuestMemoryMmap<Pinned<AtomicBitmap>>;
                let ranges = [(GuestAddress(0x9fc00), 0x40400)];
                let own = Memory::from_ranges(&ranges).unwrap();
                own.write_obj(7u8, GuestAddress(0x9fc00)).unwrap();
                let region = own.iter().next().unwrap();
                assert!(region.bitmap().dirty_at(0));
                assert!(MmapRegion::bitmap(region).piece().is_none());
                let mapped = MmapRegion::<Pinned<()>>::new(0x1000).unwrap();
                assert!(mapped.bitmap().piece().is_none());
                assert!(Pinned::<()>::default().piece().is_none());

                // And both go into one map.
                let (_backend, pieces) = halves("memory-backend-ram");
                let high = guest_region(&pieces[1], AtomicBitmap::default()).unwrap();
                let both = own.insert_region(Arc::new(high)).unwrap();
                let has_piece = |region: &GuestRegionMmap<Pinned<AtomicBitmap>>| {
                    MmapRegion::bitmap(region).piece().is_some()
                };
                assert_eq!(
                    both.iter().map(has_piece).collect::<Vec<_>>(),
                    [false, true]
                );
            }

            /// A snapshot of the map keeps memory that was unplugged meanwhile.
            #[test]
            fn a_snapshot_keeps_what_it_has() {
                let (backend, pieces) = halves("memory-backend-ram");
                let memory = guest_memory::<()>(&pieces).unwrap();
                drop(pieces);
                let atomic = GuestMemoryAtomic::new(memory);
                let snapshot = atomic.memory();
                let (rest, unplugged) = snapshot
                    .remove_region(GuestAddress(HIGH), SIZE / 2)
                    .unwrap();
                atomic.lock().unwrap().replace(rest);
                drop(unplugged);
                assert_eq!(atomic.memory().num_regions(), 1);
                snapshot.write_obj(7u8, GuestAddress(HIGH)).unwrap();
                let kept = snapshot.into_inner();
                assert_eq!(kept.read_obj::<u8>(GuestAddress(HIGH)).unwrap(), 7);
                drop(kept);
                assert_eq!(backend.state(), State::Mapped);
                drop(atomic);
                assert_eq!(backend.state(), State::Ready);
            }

            #[test]
            fn pieces_are_regions_of_a_collection() {
                type Region = GuestRegionMmap<Pinned<()>>;
                let (backend, pieces) = halves("memory-backend-memfd");
                let regions: Vec<Region> = pieces
                    .iter()
                    .map(|piece| guest_region(piece, ()).unwrap())
                    .collect();
                let all = GuestRegionCollection::from_regions(regions).unwrap();
                all.write_obj(5u8, GuestAddress(HIGH)).unwrap();
                let (low, high) = all.remove_region(GuestAddress(HIGH), SIZE / 2).unwrap();
                let again = low.insert_region(high).unwrap();
                assert_eq!(again.read_obj::<u8>(GuestAddress(HIGH)).unwrap(), 5);
                drop((all, low, again, pieces));
                assert_eq!(backend.state(), State::Ready);
            }

            /// As firecracker's system memory at 0x9fc00.
            #[test]
            fn a_region_need_not_be_of_whole_pages() {
                let size = 64 * page_size();
                let backend = backend(&format!("memory-backend-memfd,id=ram0,size={size}"));
                let claim = backend.claim("vm0").unwrap();
                let ranges = [
                    (0x9fc00, 0, 0x10400),
                    (0xb0000, 32 * page_size(), page_size()),
                ];
                let ranges = ranges.map(|(guest_address, offset, length)| super::PieceRange {
                    guest_address,
                    offset,
                    length,
                });
                let memory = guest_memory::<()>(&claim.pieces(&ranges).unwrap()).unwrap();
                let at = GuestAddress(0x9fc00 + 0x10400 - 4);
                memory.write_obj([1u32, 2], at).unwrap();
                assert_eq!(memory.read_obj::<[u32; 2]>(at).unwrap(), [1, 2]);
                assert_eq!(memory.last_addr(), GuestAddress(0xb0000 + page_size() - 1));
            }

            /// As firecracker's regions, which have one only where dirty pages are tracked.
            #[test]
            fn a_dirty_bitmap_is_optional() {
                let backend = backend("memory-backend-ram,id=ram0,size=1M");
                for tracked in [false, true] {
                    let piece = backend.claim("vm0").unwrap().piece(0).unwrap();
                    let bitmap = tracked.then(|| AtomicBitmap::with_len(1 << 20));
                    let region = guest_region(&piece, bitmap).unwrap();
                    region.write_obj(1u8, MemoryRegionAddress(5)).unwrap();
                    let bitmap = MmapRegion::bitmap(&region);
                    assert_eq!(bitmap.is_some(), tracked);
                    assert_eq!(bitmap.dirty_at(5), tracked);
                    assert!(bitmap.piece().is_some());
                }
            }

            #[test]
            fn a_piece_without_a_guest_address_is_a_mapping_alone() {
                let backend = backend("memory-backend-memfd,id=ram0,size=2M");
                let claim = backend.claim("vm0").unwrap();
                let piece = claim.host_piece(1 << 20, 1 << 20).unwrap();
                let error = guest_region(&piece, ()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Value);
                assert!(error.to_string().contains("no guest address"), "{error}");
                let address = piece.memory().as_ptr();
                let region = mmap_region(&piece, AtomicBitmap::with_len(1 << 20)).unwrap();
                drop((backend, claim, piece));
                assert_eq!((region.as_ptr(), region.size()), (address, 1 << 20));
                assert_eq!(region.file_offset().unwrap().start(), 1 << 20);
                region.as_volatile_slice().write_obj(7_u8, 4096).unwrap();
                assert!(region.bitmap().dirty_at(4096));
                drop(region);
                assert!(!is_mapped(address as usize));
            }

            /// What takes vm-memory's type by its name takes it.
            #[test]
            fn it_is_vm_memorys_own_type() {
                fn takes<B: Bitmap>(memory: &GuestMemoryMmap<B>) -> Option<&GuestRegionMmap<B>> {
                    memory.iter().next()
                }
                let (_backend, pieces) = halves("memory-backend-ram");
                let memory = guest_memory::<()>(&pieces).unwrap();
                assert_eq!(takes(&memory).unwrap().len(), SIZE / 2);
            }
        }
    };
}

#[cfg(feature = "vm-memory-017")]
version!(v017, vm_memory_017, GuestMemory);
#[cfg(feature = "vm-memory-018")]
version!(v018, vm_memory_018, GuestMemoryBackend);

/// What 0.18 adds, and crates that build on it.
#[cfg(feature = "vm-memory-018")]
mod devices {
    use ::vm_memory_018 as vm_memory;
    use hostmem::vm_memory::v018::guest_memory;
    use hostmem::vm_memory::v018::guest_region;
    use vhost::VhostUserMemoryRegionInfo;
    use virtio_bindings::bindings::virtio_ring::VRING_DESC_F_WRITE;
    use virtio_queue::desc::split::Descriptor;
    use virtio_queue::Queue;
    use virtio_queue::QueueT;
    use vm_memory::bitmap::AtomicBitmap;
    use vm_memory::bitmap::Bitmap;
    use vm_memory::Bytes;
    use vm_memory::GuestAddress;
    use vm_memory::GuestMemoryBackend;
    use vm_memory::GuestMemoryRegion;

    use super::halves;
    use super::HIGH;
    use super::SIZE;
    use crate::common::in_child;
    use crate::common::is_mapped;

    #[test]
    fn an_arc_that_escaped_keeps_the_memory() {
        let name = "devices::an_arc_that_escaped_keeps_the_memory";
        in_child(name, || {
            let (backend, pieces) = halves("memory-backend-ram");
            let region = guest_region(&pieces[0], ()).unwrap();
            let escaped = region.get_mmap();
            let address = escaped.as_ptr() as usize;
            drop((backend, pieces, region));
            assert!(is_mapped(address));
            drop(escaped);
            assert!(!is_mapped(address));
        });
    }

    /// A queue of one request, whose rings are below the hole and whose buffer is above it.
    #[test]
    fn a_virtio_queue_runs_in_it() {
        const DESCRIPTORS: u64 = 0x1000;
        const AVAILABLE: u64 = 0x2000;
        const USED: u64 = 0x3000;
        const BUFFER: u64 = HIGH + 0x4000;
        let (_backend, pieces) = halves("memory-backend-memfd");
        let memory = guest_memory::<AtomicBitmap>(&pieces).unwrap();
        let write = |value: u16, at| memory.write_obj(value, GuestAddress(at)).unwrap();
        let flags = VRING_DESC_F_WRITE as u16;
        let descriptor = Descriptor::new(BUFFER, 512, flags, 0);
        memory
            .write_obj(descriptor, GuestAddress(DESCRIPTORS))
            .unwrap();
        // Ring entry 0 is descriptor 0, and one entry is there.
        write(0, AVAILABLE + 4);
        write(1, AVAILABLE + 2);

        let mut queue = Queue::new(16).unwrap();
        queue.set_desc_table_address(Some(DESCRIPTORS as u32), None);
        queue.set_avail_ring_address(Some(AVAILABLE as u32), None);
        queue.set_used_ring_address(Some(USED as u32), None);
        queue.set_ready(true);
        assert!(queue.is_valid(&memory));
        let chain = queue.pop_descriptor_chain(&memory).unwrap();
        let head = chain.head_index();
        let mut writer = chain.writer(&memory).unwrap();
        std::io::Write::write_all(&mut writer, b"from the device").unwrap();
        queue.add_used(&memory, head, 15).unwrap();
        assert!(queue.pop_descriptor_chain(&memory).is_none());

        let mut answer = [0; 15];
        memory
            .read_slice(&mut answer, GuestAddress(BUFFER))
            .unwrap();
        assert_eq!(&answer, b"from the device");
        assert_eq!(memory.read_obj::<u16>(GuestAddress(USED + 2)).unwrap(), 1);
        let high = memory.find_region(GuestAddress(HIGH)).unwrap();
        assert!(high.bitmap().dirty_at(0x4000) && !high.bitmap().dirty_at(0));
    }

    #[test]
    fn vhost_takes_a_region_with_a_descriptor() {
        let (_backend, pieces) = halves("memory-backend-memfd");
        let region = guest_region(&pieces[1], AtomicBitmap::default()).unwrap();
        let info = VhostUserMemoryRegionInfo::from_guest_region(&region).unwrap();
        assert_eq!(info.guest_phys_addr, HIGH);
        assert_eq!(info.memory_size, SIZE / 2);
        assert_eq!(info.userspace_addr, pieces[1].memory().as_ptr() as u64);
        assert_eq!(info.mmap_offset, SIZE / 2);
        assert!(info.mmap_handle >= 0);
    }
}

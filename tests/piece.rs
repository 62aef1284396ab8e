// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Claimed memory in pieces: which can be, and what keeps what.

mod common;

use std::sync::Barrier;
use std::thread;

use common::host::HugePages;
use common::host::HUGE;
use common::page_size;
use hostmem::Backend;
use hostmem::Builder;
use hostmem::ErrorKind;
use hostmem::Piece;
use hostmem::PieceRange;
use hostmem::State;

const PAGES: u64 = 16;

fn ready() -> Backend {
    Builder::new("memory-backend-ram", "ram0")
        .unwrap()
        .size(PAGES * page_size())
        .share(true)
        .complete()
        .unwrap()
}

/// A range in pages.
fn range(guest_page: u64, offset: u64, length: u64) -> PieceRange {
    PieceRange {
        guest_address: guest_page * page_size(),
        offset: offset * page_size(),
        length: length * page_size(),
    }
}

#[test]
fn a_hole_cuts_memory_in_two() {
    let backend = ready();
    let claim = backend.claim("vm0").unwrap();
    let pieces = claim.pieces(&[range(0, 0, 12), range(100, 12, 4)]).unwrap();
    let whole = claim.memory();
    for (piece, (guest, offset, length)) in pieces.iter().zip([(0, 0, 12), (100, 12, 4)]) {
        let memory = piece.memory();
        assert_eq!(piece.id(), "ram0");
        assert_eq!(piece.guest_address(), Some(guest * page_size()));
        assert_eq!(piece.offset(), offset * page_size());
        assert_eq!(memory.len(), length * page_size());
        assert_eq!(memory.fd_offset(), offset * page_size());
        assert_eq!(
            memory.as_ptr() as u64 - whole.as_ptr() as u64,
            offset * page_size()
        );
        assert_eq!(memory.page_size(), whole.page_size());
        assert!(memory.is_shared() && memory.fd().is_some());
    }
}

#[test]
fn all_of_it_is_a_piece_too() {
    let backend = ready();
    let claim = backend.claim("vm0").unwrap();
    let piece = claim.piece(0x1_0000_0000).unwrap();
    assert_eq!(piece.guest_address(), Some(0x1_0000_0000));
    assert_eq!(piece.memory().as_ptr(), claim.memory().as_ptr());
    assert_eq!(piece.memory().len(), claim.memory().len());
    claim.piece(0).unwrap_err();
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let last_page = u64::MAX / page_size();
    let half = PieceRange {
        offset: page_size() / 2,
        ..range(0, 0, 1)
    };
    let last = PieceRange {
        guest_address: u64::MAX,
        ..range(0, 0, 1)
    };
    let max = PieceRange {
        length: u64::MAX,
        ..range(0, 1, 0)
    };
    let overlap_memory = "another piece has part of that memory";
    let overlap_guest = "another piece has some of these guest addresses";
    for (ranges, expected) in [
        (&[range(0, 0, 0)][..], "it is empty"),
        (&[range(0, 0, PAGES + 1)], "it is not inside the memory"),
        (&[range(0, PAGES, 1)], "it is not inside the memory"),
        (&[range(0, PAGES + 1, 1)], "it is not inside the memory"),
        (&[range(0, 1, PAGES)], "it is not inside the memory"),
        (&[max], "it is not inside the memory"),
        (&[half], "its offset is no multiple of the page size"),
        (&[last], "beyond the last guest address"),
        (&[range(last_page, 0, 1)], "beyond the last guest address"),
        (&[range(0, 0, 2), range(9, 1, 1)], overlap_memory),
        (&[range(9, 1, 1), range(0, 0, 2)], overlap_memory),
        (&[range(0, 0, 3), range(9, 1, 1)], overlap_memory),
        (&[range(0, 0, 1), range(9, 0, 1)], overlap_memory),
        (&[range(0, 0, 2), range(1, 2, 1)], overlap_guest),
        (&[range(1, 2, 1), range(0, 0, 2)], overlap_guest),
        (&[range(0, 0, 3), range(1, 3, 1)], overlap_guest),
    ] {
        let backend = ready();
        let claim = backend.claim("vm0").unwrap();
        let error = claim.pieces(ranges).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{ranges:?}: {error}");
        assert!(error.to_string().contains(expected), "{ranges:?}: {error}");
        assert!(
            error.to_string().starts_with("ram0: piece of "),
            "{ranges:?}: {error}"
        );
        // None of them is left: all of it can be had.
        claim.piece(0).unwrap();
    }
}

#[test]
fn the_edges_are_allowed() {
    let backend = ready();
    let claim = backend.claim("vm0").unwrap();
    let last_page = u64::MAX / page_size();
    let ranges = [
        range(0, 1, 1),
        range(1, 0, 1),
        range(last_page - 1, PAGES - 1, 1),
    ];
    assert_eq!(claim.pieces(&ranges).unwrap().len(), 3);
    assert_eq!(claim.pieces(&[]).unwrap().len(), 0);
}

#[test]
fn pieces_of_one_call_mind_those_of_another() {
    let backend = ready();
    let claim = backend.claim("vm0").unwrap();
    let first = claim.pieces(&[range(0, 0, 4)]).unwrap();
    claim.pieces(&[range(8, 3, 1)]).unwrap_err();
    claim.pieces(&[range(3, 8, 1)]).unwrap_err();
    let second = first[0].clone();
    drop(first);
    claim.pieces(&[range(8, 3, 1)]).unwrap_err();
    drop(second);
    claim.pieces(&[range(8, 3, 1)]).unwrap();
}

#[test]
fn a_piece_keeps_the_whole_claim() {
    let backend = ready();
    let claim = backend.claim("vm0").unwrap();
    let mut pieces = claim.pieces(&[range(0, 0, 1), range(1, 1, 1)]).unwrap();
    drop(claim);
    assert_eq!(backend.state(), State::Mapped);
    assert_eq!(backend.owner().as_deref(), Some("vm0"));
    assert_eq!(backend.claim("vm1").unwrap_err().kind(), ErrorKind::Busy);
    let backend = backend.delete().unwrap_err().object;

    let piece = pieces.pop().unwrap();
    drop(pieces);
    assert_eq!(backend.state(), State::Mapped);
    drop(backend);
    let at = piece.memory().as_ptr();
    // SAFETY: inside the piece, which lives; nobody else uses it.
    unsafe { at.write_volatile(7) };
    // SAFETY: likewise.
    assert_eq!(unsafe { at.read_volatile() }, 7);
}

#[test]
fn the_last_piece_ends_the_claim() {
    let backend = ready();
    let claim = backend.claim("vm0").unwrap();
    let piece = claim.piece(0).unwrap();
    drop(claim);
    thread::spawn(move || drop(piece)).join().unwrap();
    assert_eq!(backend.state(), State::Ready);
    backend.delete().unwrap();
}

#[test]
fn threads_never_get_the_same_piece() {
    let backend = ready();
    let claim = backend.claim("vm0").unwrap();
    let barrier = Barrier::new(4);
    let got = |_| {
        barrier.wait();
        (0..PAGES)
            .filter_map(|page| claim.pieces(&[range(page, page, 1)]).ok())
            .collect::<Vec<_>>()
    };
    let pieces: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || got(n))).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(pieces.len() as u64, PAGES);
}

#[test]
fn memory_of_huge_pages_is_cut_into_huge_pages() {
    let Some(_pool) = HugePages::have(2) else {
        return;
    };
    let backend = common::objects()
        .parse("memory-backend-memfd,id=ram0,size=4M,hugetlb=on,hugetlbsize=2M")
        .unwrap()
        .complete()
        .unwrap();
    let claim = backend.claim("vm0").unwrap();
    let cut = |offset| PieceRange {
        guest_address: 0,
        offset,
        length: HUGE,
    };
    claim.pieces(&[cut(HUGE)]).unwrap();
    let error = claim.pieces(&[cut(page_size())]).unwrap_err();
    assert!(error.to_string().contains("page size"), "{error}");
}

/// As of firecracker's 0x9fc00: no multiple of a page's size.
#[test]
fn guest_addresses_and_lengths_need_not_be_of_whole_pages() {
    let backend = ready();
    let claim = backend.claim("vm0").unwrap();
    let low = PieceRange {
        guest_address: 0x9fc00,
        offset: 0,
        length: page_size() + 0x400,
    };
    let next = PieceRange {
        guest_address: low.guest_address + low.length,
        offset: 2 * page_size(),
        length: 1,
    };
    let pieces = claim.pieces(&[low, next]).unwrap();
    assert_eq!(pieces[0].guest_address(), Some(0x9fc00));
    assert_eq!(pieces[0].memory().len(), page_size() + 0x400);
    let overlapping = PieceRange {
        guest_address: next.guest_address,
        offset: 3 * page_size(),
        length: 1,
    };
    claim.pieces(&[overlapping]).unwrap_err();
}

#[test]
fn a_piece_may_have_no_guest_address() {
    let backend = ready();
    let claim = backend.claim("vm0").unwrap();
    let first = claim.host_piece(0, page_size()).unwrap();
    let second = claim.host_piece(page_size(), page_size()).unwrap();
    assert_eq!(first.guest_address(), None);
    assert_eq!(second.offset(), page_size());
    let error = claim.host_piece(0, page_size()).unwrap_err();
    assert!(error.to_string().contains("part of that memory"), "{error}");
    // They take no guest addresses.
    claim
        .pieces(&[range(0, 2, 2), range(u64::MAX / page_size() - 1, 4, 1)])
        .unwrap();
}

#[test]
fn a_clone_of_a_claim_is_the_same_claim() {
    let backend = ready();
    let claim = backend.claim("vm0").unwrap();
    let clone = claim.clone();
    let piece = claim.pieces(&[range(0, 0, 1)]).unwrap();
    clone.pieces(&[range(8, 0, 1)]).unwrap_err();
    drop((claim, piece));
    assert_eq!(backend.state(), State::Mapped);
    clone.pieces(&[range(8, 0, 1)]).unwrap();
    clone.discard(0, page_size()).unwrap();
    thread::spawn(move || drop(clone)).join().unwrap();
    assert_eq!(backend.state(), State::Ready);
}

fn absent(backend: &Backend) -> u64 {
    backend.placement().unwrap().absent / page_size()
}

#[test]
fn a_piece_discards_and_populates_its_own_range() {
    let backend = ready();
    let claim = backend.claim("vm0").unwrap();
    let piece = claim.pieces(&[range(0, 4, 8)]).unwrap().remove(0);
    drop(claim);
    let page = page_size();
    let byte = |page: u64| {
        piece
            .memory()
            .as_ptr()
            .wrapping_add((page * page_size()) as usize)
    };
    piece.populate(0, 8 * page).unwrap();
    assert_eq!(absent(&backend), PAGES - 8);
    // SAFETY: inside the piece, which lives; nobody else uses it.
    unsafe { byte(3).write_volatile(7) };
    piece.discard(2 * page, 2 * page).unwrap();
    assert_eq!(absent(&backend), PAGES - 6);
    // SAFETY: likewise.
    assert_eq!(unsafe { byte(3).read_volatile() }, 0);
    piece.discard(8 * page, 0).unwrap();

    let calls = [Piece::discard, Piece::populate];
    for (offset, length) in [(8, 1), (0, 9), (9, 0), (u64::MAX / page, 1)] {
        for call in calls {
            let error = call(&piece, offset * page, length * page).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Value);
            assert!(error.to_string().contains("outside the piece"), "{error}");
        }
    }
    for call in calls {
        let error = call(&piece, page / 2, page).unwrap_err();
        assert!(error.to_string().contains("page size"), "{error}");
    }
    let pinned = piece.inhibit_discard("vfio0").unwrap();
    let error = piece.discard(0, page).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("vfio0"), "{error}");
    piece.populate(0, page).unwrap();
    drop(pinned);
    piece.discard(0, page).unwrap();
}

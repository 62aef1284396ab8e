// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pieces of memory as regions of one version of vm-memory, which the parent module imports.

#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::ops::Deref;

use super::vm_memory::bitmap::Bitmap;
use super::vm_memory::bitmap::NewBitmap;
use super::vm_memory::bitmap::WithBitmapSlice;
use super::vm_memory::bitmap::BS;
use super::vm_memory::mmap::MmapRegionBuilder;
use super::vm_memory::FileOffset;
use super::vm_memory::GuestAddress;
use super::vm_memory::GuestMemoryMmap;
use super::vm_memory::GuestRegionMmap;
use super::vm_memory::MmapRegion;
use crate::Error;
use crate::ErrorKind;
use crate::Memory;
use crate::Piece;
use crate::Result;

/// The bitmap of a region: a dirty bitmap `B`, and the piece of memory, which it keeps mapped.
///
/// `MmapRegion::bitmap(&region)` returns it, and it derefs to the inner bitmap. Only [`mmap_region`],
/// [`guest_region`] and [`guest_memory`] make one with a piece. Without a piece it is `B` alone, so
/// that what vm-memory maps by itself (`GuestMemoryMmap::from_ranges`, `MmapRegion::new`) can be of
/// the same type.
#[derive(Default)]
pub struct Pinned<B> {
    bitmap: B,
    piece: Option<Piece>,
}

impl<B> Pinned<B> {
    /// The piece of memory that it keeps mapped; `None` for memory that vm-memory has mapped.
    pub fn piece(&self) -> Option<&Piece> {
        self.piece.as_ref()
    }
}

impl<B: NewBitmap> NewBitmap for Pinned<B> {
    fn with_len(len: usize) -> Self {
        Self {
            bitmap: B::with_len(len),
            piece: None,
        }
    }
}

impl<B> Deref for Pinned<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.bitmap
    }
}

impl<B: fmt::Debug> fmt::Debug for Pinned<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned")
            .field("bitmap", &self.bitmap)
            .field("piece", &self.piece)
            .finish()
    }
}

impl<'a, B: WithBitmapSlice<'a>> WithBitmapSlice<'a> for Pinned<B> {
    type S = B::S;
}

impl<B: Bitmap> Bitmap for Pinned<B> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.bitmap.mark_dirty(offset, len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.bitmap.dirty_at(offset)
    }

    fn slice_at(&self, offset: usize) -> BS<'_, Self> {
        self.bitmap.slice_at(offset)
    }
}

/// Makes vm-memory's mapping of a piece of memory, with a bitmap (`()`: none), for devices whose memory
/// is not part of the guest's RAM. The piece need not have a guest address. The mapping has a duplicate
/// of the descriptor, if [there is one](crate::Memory::fd), with the offset, and its hugetlb flag is set.
///
/// # Errors
///
/// [`Value`](ErrorKind::Value) (the memory is read-only: a device's write through vm-memory would
/// raise `SIGSEGV`), [`Io`](ErrorKind::Io) (the descriptor cannot be duplicated).
pub fn mmap_region<B: Bitmap>(piece: &Piece, bitmap: B) -> Result<MmapRegion<Pinned<B>>> {
    let memory = piece.memory();
    if memory.is_readonly() {
        let why = "the memory is read-only, and a device that writes to it would end the process \
                   (SIGSEGV); make it a memory slot only";
        return Err(fail(piece, ErrorKind::Value, &why));
    }
    let file = file_offset(memory).map_err(|error| fail(piece, ErrorKind::Io, &error))?;
    let (address, length) = (memory.as_ptr(), memory.len() as usize);
    let pinned = Pinned {
        bitmap,
        piece: Some(piece.clone()),
    };
    let mut builder = MmapRegionBuilder::new_with_bitmap(length, pinned)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(mmap_flags(memory))
        .with_hugetlbfs(memory.is_hugetlb());
    if let Some(file) = file {
        builder = builder.with_file_offset(file);
    }
    // SAFETY: address and length are a piece's, which is mapped, readable and writable while the
    // piece lives. The region owns the piece by its bitmap, of which there are only shared references,
    // and does not unmap memory that was passed by address.
    let builder = unsafe { builder.with_raw_mmap_pointer(address) };
    builder
        .build()
        .map_err(|error| fail(piece, ErrorKind::Value, &error))
}

/// Makes a region of a piece of memory at its guest address, with a bitmap (`()`: none), of
/// [`mmap_region`].
///
/// # Errors
///
/// Those of [`mmap_region`], and [`Value`](ErrorKind::Value) (the piece has no guest address, or its
/// end is beyond the last guest address).
pub fn guest_region<B: Bitmap>(piece: &Piece, bitmap: B) -> Result<GuestRegionMmap<Pinned<B>>> {
    let fail = |why: &str| fail(piece, ErrorKind::Value, &why);
    let Some(guest_address) = piece.guest_address() else {
        return Err(fail("the piece has no guest address"));
    };
    let region = mmap_region(piece, bitmap)?;
    GuestRegionMmap::new(region, GuestAddress(guest_address))
        .ok_or_else(|| fail("its end is beyond the last guest address"))
}

fn fail(piece: &Piece, kind: ErrorKind, why: &dyn fmt::Display) -> Error {
    let label = piece.label();
    Error::new(kind, format!("{label}: region of vm-memory: {why}"))
}

/// Makes guest memory of pieces of one or several backends, in any order, with a new bitmap for
/// each (`()`: none).
///
/// # Errors
///
/// Those of [`guest_region`], and [`Value`](ErrorKind::Value) (no pieces; guest addresses of
/// different backends overlap).
pub fn guest_memory<B: NewBitmap>(pieces: &[Piece]) -> Result<GuestMemoryMmap<Pinned<B>>> {
    let mut pieces: Vec<_> = pieces.iter().collect();
    pieces.sort_by_key(|piece| piece.guest_address());
    let regions = pieces
        .iter()
        .map(|piece| guest_region(piece, B::with_len(piece.memory().len() as usize)))
        .collect::<Result<Vec<_>>>()?;
    GuestMemoryMmap::from_regions(regions).map_err(|error| {
        let place = |piece: &&Piece| {
            let address = piece.guest_address().unwrap_or_default();
            format!("{} at {address:#x}", piece.label())
        };
        let places = pieces.iter().map(place).collect::<Vec<_>>().join(", ");
        Error::new(
            ErrorKind::Value,
            format!("guest memory of [{places}]: {error}"),
        )
    })
}

fn file_offset(memory: Memory<'_>) -> std::io::Result<Option<FileOffset>> {
    let Some(fd) = memory.fd() else {
        return Ok(None);
    };
    let file = File::from(fd.try_clone_to_owned()?);
    Ok(Some(FileOffset::new(file, memory.fd_offset())))
}

/// The flags with which vm-memory would have mapped the region.
fn mmap_flags(memory: Memory<'_>) -> libc::c_int {
    match (memory.is_shared(), memory.fd()) {
        (true, _) => libc::MAP_SHARED,
        (false, Some(_)) => libc::MAP_PRIVATE,
        (false, None) => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    }
}

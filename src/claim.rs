// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Claims: exclusive use of a backend's memory.

use std::ffi::CString;
use std::fmt;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::handle::to_c;
use crate::handle::ClaimHandle;
use crate::sys;
use crate::Error;
use crate::Piece;
use crate::PieceRange;
use crate::Result;

/// Exclusive use of a backend's memory; a backend has at most one claim. It is reference-counted by
/// its clones, [pieces](Claim::pieces) and [inhibitors](Claim::inhibit_discard), and released when
/// the last of these is dropped.
///
/// Until then the memory stays mapped at its address and cannot be deleted. A claim may outlive its
/// [`Backend`](crate::Backend); the backend is then deleted when the claim is released.
#[doc(alias = "hostmem_backend_claim")]
#[doc(alias = "hostmem_backend_release")]
#[derive(Clone)]
pub struct Claim {
    handle: Arc<ClaimHandle>,
}

impl Claim {
    pub(crate) fn from_handle(handle: Arc<ClaimHandle>) -> Self {
        Self { handle }
    }

    /// Splits the memory into pieces, since guest physical memory has holes; a PC has one below 4
    /// GiB. Returns all pieces or, on failure, none.
    ///
    /// May be called again for further pieces. The range of a piece is free again when its last
    /// clone is dropped.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value): a piece is empty, is not inside the memory, ends beyond
    /// the last guest address, has an offset that is not a multiple of the [page
    /// size](Memory::page_size), or overlaps another piece of this claim in the memory or in guest
    /// addresses.
    #[doc(alias = "hostmem_backend_check_piece")]
    pub fn pieces(&self, ranges: &[PieceRange]) -> Result<Vec<Piece>> {
        // If one is refused, those before it are dropped with the result.
        let pieces = ranges.iter().map(|range| {
            let guest_address = Some(range.guest_address);
            Piece::new(&self.handle, guest_address, range.offset, range.length)
        });
        pieces.collect()
    }

    /// Makes all of the memory one piece at a guest address.
    ///
    /// # Errors
    ///
    /// Those of [`pieces`](Claim::pieces).
    pub fn piece(&self, guest_address: u64) -> Result<Piece> {
        let length = self.memory().len();
        Piece::new(&self.handle, Some(guest_address), 0, length)
    }

    /// Makes a range of the memory a piece without a guest address, for memory that no guest sees,
    /// or that a device puts where the guest wants it (ivshmem): see
    /// `SlotOptions::guest_address` of the module `kvm`.
    ///
    /// # Errors
    ///
    /// Those of [`pieces`](Claim::pieces).
    #[doc(alias = "hostmem_backend_check_piece")]
    pub fn host_piece(&self, offset: u64, length: u64) -> Result<Piece> {
        Piece::new(&self.handle, None, offset, length)
    }

    /// The owner's name, given when claiming.
    #[doc(alias = "hostmem_backend_get_owner")]
    pub fn owner(&self) -> String {
        // C never fails here.
        self.handle.backend().view().owner().unwrap_or_default()
    }

    /// The id of the backend.
    #[doc(alias = "hostmem_backend_get_id")]
    pub fn id(&self) -> &str {
        self.handle.backend().view().id()
    }

    /// Discards a range of the memory: its pages are freed, and read as zero when they are next
    /// accessed. A private mapping of a user's file reads as the file, which does not change.
    /// Offset and length are in bytes, multiples of the [page size](Memory::page_size), inside the
    /// memory; length 0 does nothing.
    ///
    /// Locked memory is discarded too. Discarded hugetlb memory is no longer reserved:
    /// [`populate`](Claim::populate) it before a guest accesses it, since the pool may be empty
    /// then, which raises `SIGBUS`.
    ///
    /// A running preallocation skips the range from then on; the call waits for the chunks that are
    /// being populated, a few milliseconds.
    ///
    /// Only the claim and its [pieces](Piece::discard) can discard, since the contents are lost; an
    /// unclaimed backend has to be claimed first.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) ([inhibited](Claim::inhibit_discard); the message names the
    /// inhibitor), [`Value`](crate::ErrorKind::Value) (range; read-only memory),
    /// [`Unsupported`](crate::ErrorKind::Unsupported) (the file system cannot punch holes),
    /// [`NoMemory`](crate::ErrorKind::NoMemory) (to record the range while a preallocation runs),
    /// [`Io`](crate::ErrorKind::Io).
    #[doc(alias = "hostmem_backend_discard")]
    pub fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.handle.backend().discard(offset, length)
    }

    /// Discards a range as [`discard`](Claim::discard) does, and says what it reads as afterwards.
    ///
    /// # Errors
    ///
    /// Those of [`discard`](Claim::discard), and [`NoMemory`](crate::ErrorKind::NoMemory) (too many
    /// mappings, `vm.max_map_count`). The range is as it was then, or zero where only locking it or
    /// making it inaccessible again has failed. But [`Io`](crate::ErrorKind::Io) with
    /// `ENOTRECOVERABLE`: the kernel failed twice, and the memory of the range is lost. Its uses are
    /// [`State`](crate::ErrorKind::State) from then on, and an access raises `SIGSEGV`; deleting the
    /// backend leaves alone what another thread has mapped there.
    #[doc(alias = "hostmem_backend_discard_to")]
    pub fn discard_to(&self, offset: u64, length: u64, to: DiscardTo) -> Result<()> {
        let backend = self.handle.backend();
        backend.discard_to(offset, length, to.to_raw())
    }

    /// Makes a range inaccessible, as memory that is unplugged, or accessible again. Its contents
    /// stay. An access to inaccessible memory, by this process or through vm-memory, raises
    /// `SIGSEGV`; by a guest it ends `KVM_RUN` with `EFAULT`. It cannot be populated. It can be saved
    /// and scrubbed where it is absent, and shared memory of a file can always be saved; else these
    /// fail. While contents are unread the range has to consist of whole units of them: of huge pages
    /// where the memory is made of these, else of 64 KiB, or of pages if they are larger.
    ///
    /// Offset and length are in bytes, multiples of the [page size](Memory::page_size), inside the
    /// memory. Each inaccessible range takes up to two more mappings of the process.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value) (range), [`Busy`](crate::ErrorKind::Busy) (a
    /// preallocation is running; part of an unread unit), [`NoMemory`](crate::ErrorKind::NoMemory) (too
    /// many mappings, `vm.max_map_count`), [`Io`](crate::ErrorKind::Io).
    #[doc(alias = "hostmem_backend_protect")]
    pub fn protect(&self, offset: u64, length: u64, access: Access) -> Result<()> {
        let backend = self.handle.backend();
        backend.protect(offset, length, access.to_raw())
    }

    /// Makes [`discard`](Claim::discard) fail until the guard is dropped. For devices that have
    /// pinned the pages (VFIO) and would go on using the freed ones. The name (1 to 128 bytes)
    /// appears in the error of `discard`. A discard that is running has finished when this returns.
    /// Several inhibitors may exist, also of one name.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value) (name empty, too long or with a NUL byte),
    /// [`NoMemory`](crate::ErrorKind::NoMemory).
    #[doc(alias = "hostmem_backend_inhibit_discard")]
    pub fn inhibit_discard(&self, name: &str) -> Result<DiscardInhibited> {
        DiscardInhibited::new(&self.handle, name)
    }

    /// Populates a range of the memory with the backend's properties and progress callback.
    /// Contents do not change. Offset and length are in bytes, multiples of the [page
    /// size](Memory::page_size), inside the memory; length 0 does nothing.
    ///
    /// # Errors
    ///
    /// Pages that are populated stay. [`Value`](crate::ErrorKind::Value) (range),
    /// [`Busy`](crate::ErrorKind::Busy) (a preallocation is running),
    /// [`Unsupported`](crate::ErrorKind::Unsupported), [`NoMemory`](crate::ErrorKind::NoMemory),
    /// [`Io`](crate::ErrorKind::Io).
    #[doc(alias = "hostmem_backend_populate")]
    pub fn populate(&self, offset: u64, length: u64) -> Result<()> {
        self.handle.backend().populate(offset, length)
    }

    /// Makes a range of the memory read as zero, for everyone who maps it, and leaves it where it
    /// is: pages that are present keep their node, their size and their lock; those that are absent
    /// stay absent; those that are swapped out are given back. Offset and length are in bytes,
    /// multiples of the [page size](Memory::page_size), inside the memory; length 0 does nothing.
    ///
    /// For a guest that starts again: it is faster than [discarding](Claim::discard) and
    /// [populating](Claim::populate), needs no free memory, and leaves huge pages huge. Nobody may
    /// be using the range meanwhile: what is written there during the call may be lost.
    ///
    /// The threads are those that would preallocate the backend. The progress callback is called,
    /// and an [`Interrupter`](crate::Interrupter) stops it: what is not zero by
    /// then is unchanged. What is discarded meanwhile is left out. It is allowed while discard is
    /// [inhibited](Claim::inhibit_discard): pinned pages stay.
    ///
    /// Of a file on disk the parts that are not in memory become holes, which are allocated again
    /// with `prealloc=on`; on a file system that cannot make holes they are overwritten, and so
    /// present. Small pages that are merged with others (KSM) and not zero get memory of their own.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value) (range; read-only memory; a private mapping of a file of
    /// the user's, which reads as the file: `discard` gives that back),
    /// [`Busy`](crate::ErrorKind::Busy) (a preallocation or scrub is running),
    /// [`State`](crate::ErrorKind::State) (interrupted),
    /// [`NoMemory`](crate::ErrorKind::NoMemory), [`Io`](crate::ErrorKind::Io).
    #[doc(alias = "hostmem_backend_scrub")]
    pub fn scrub(&self, offset: u64, length: u64) -> Result<()> {
        self.handle.backend().scrub(offset, length)
    }

    /// Writes the memory to a file as a raw image, which [`contents`](crate::Builder::contents)
    /// reads: byte N of the memory is at `offset` + N. What is absent or all zero becomes a hole.
    /// Runs in as many threads as preallocation, with the backend's progress callback;
    /// [`Interrupter::interrupt`](crate::Interrupter::interrupt) stops it. What a guest writes
    /// meanwhile may be saved or not, so pause it.
    ///
    /// The file is a regular file or a block device, open for writing and not for appending; the
    /// offset is in bytes, a multiple of the base page size. The file grows if it is too small;
    /// what it has elsewhere stays.
    ///
    /// # Errors
    ///
    /// After a failure the range of the file is incomplete. [`Value`](crate::ErrorKind::Value) (the
    /// file, the offset; with `EFBIG`: `RLIMIT_FSIZE`), [`Busy`](crate::ErrorKind::Busy) (a
    /// preallocation is running, or in a callback), [`State`](crate::ErrorKind::State) with
    /// `ECANCELED` (interrupted), [`NoMemory`](crate::ErrorKind::NoMemory) with `ENOSPC` (no room;
    /// the message says how much is missing), [`Io`](crate::ErrorKind::Io).
    #[doc(alias = "hostmem_backend_save")]
    pub fn save(&self, file: impl AsFd, offset: u64) -> Result<Saved> {
        let saved = self.handle.backend().save(file.as_fd(), offset)?;
        Ok(Saved {
            written: saved.written,
            holes: saved.holes,
            duration: Duration::from_nanos(saved.nanoseconds),
        })
    }

    /// How many bytes of the memory are unread: their [contents](crate::Builder::contents) are not
    /// in the memory yet. They are read, and counted, in units: one huge page where the memory is
    /// made of these, else 64 KiB, or one page if that is larger. What is discarded counts until
    /// its unit is read. And the first read on demand that failed since the last
    /// [`retry_contents`](Claim::retry_contents), for which threads may wait.
    #[doc(alias = "hostmem_backend_get_unread")]
    pub fn unread(&self) -> (u64, Option<Error>) {
        self.handle.backend().unread()
    }

    /// The [units](Claim::unread) of [contents](crate::Builder::contents) that were touched before
    /// they were read, in the order of the touches, each once. A file with a line for each is a
    /// [`contents_order`](crate::Builder::contents_order) for the next guest that begins with the
    /// same image. Empty where contents were read while completing.
    #[doc(alias = "hostmem_backend_get_faulted")]
    pub fn faulted(&self) -> Vec<Faulted> {
        let ranges = self.handle.backend().faulted();
        let range = |range: sys::hostmem_range| Faulted {
            offset: range.offset,
            length: range.length,
        };
        ranges.into_iter().map(range).collect()
    }

    /// Reads [contents](crate::Builder::contents) again whose read on demand failed. Those that
    /// threads wait for are read by a thread of the library, after this returns; with
    /// [`contents_poison`](crate::Builder::contents_poison) those whose touch raised `SIGBUS` are
    /// read before it returns. A read that fails again is reported as the first one was. Does
    /// nothing where none failed.
    ///
    /// # Errors
    ///
    /// [`State`](crate::ErrorKind::State) in a forked child.
    #[doc(alias = "hostmem_backend_retry_contents")]
    pub fn retry_contents(&self) -> Result<()> {
        self.handle.backend().retry_contents()
    }

    /// The memory, borrowed from the claim.
    #[doc(alias = "hostmem_backend_get_memory")]
    pub fn memory(&self) -> Memory<'_> {
        Memory::new(&self.handle, 0, self.handle.memory().size)
    }
}

/// A range of the memory, in bytes, from [`Claim::faulted`]. Displayed it is a line of
/// [`contents_order`](crate::Builder::contents_order): offset and length.
#[doc(alias = "hostmem_range")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Faulted {
    /// From the beginning of the memory.
    pub offset: u64,
    /// At least 1.
    pub length: u64,
}

impl fmt::Display for Faulted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.offset, self.length)
    }
}

/// What [`Claim::save`] did.
#[doc(alias = "hostmem_save_result")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Saved {
    /// Bytes that were written.
    pub written: u64,
    /// Bytes that are holes in the file.
    pub holes: u64,
    /// Wall-clock time.
    pub duration: Duration,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("id", &self.id())
            .field("owner", &self.owner())
            .finish_non_exhaustive()
    }
}

/// What a discarded range reads as.
#[doc(alias = "hostmem_discard_to")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DiscardTo {
    /// As zero; a private mapping of a user's file as the file.
    #[default]
    Backing,
    /// As zero. In a private mapping of a user's file, anonymous memory takes the place of the
    /// range for good: the file is not seen there any more, also not after
    /// [`discard`](Claim::discard).
    Zero,
}

impl DiscardTo {
    pub(crate) fn to_raw(self) -> sys::hostmem_discard_to {
        match self {
            Self::Backing => sys::hostmem_discard_to::HOSTMEM_DISCARD_TO_BACKING,
            Self::Zero => sys::hostmem_discard_to::HOSTMEM_DISCARD_TO_ZERO,
        }
    }
}

/// How a range of the memory may be accessed; for [`Claim::protect`] and [`Piece::protect`].
#[doc(alias = "hostmem_access")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Access {
    /// Not at all.
    None,
    /// As when the backend was completed: for reading, and for writing unless it is
    /// [read-only](Memory::is_readonly).
    All,
}

impl Access {
    pub(crate) fn to_raw(self) -> sys::hostmem_access {
        match self {
            Self::None => sys::hostmem_access::HOSTMEM_ACCESS_NONE,
            Self::All => sys::hostmem_access::HOSTMEM_ACCESS_ALL,
        }
    }
}

/// The memory of a claimed backend, or a piece of it, borrowed from the [claim](Claim::memory) or
/// [piece](Piece::memory).
///
/// It is a pointer and a length, never a slice: a guest, or a process that maps the same
/// descriptor, may write at any time, and the owner of the claim may [discard](Claim::discard) it
/// or make it [inaccessible](Claim::protect), so that an access ends the process.
/// Accesses must be volatile or atomic.
#[doc(alias = "hostmem_memory")]
#[derive(Clone, Copy)]
pub struct Memory<'claim> {
    handle: &'claim ClaimHandle,
    /// In bytes; the range is inside the memory.
    offset: u64,
    length: u64,
}

impl<'claim> Memory<'claim> {
    /// The range is inside the memory.
    pub(crate) fn new(handle: &'claim ClaimHandle, offset: u64, length: u64) -> Self {
        Self {
            handle,
            offset,
            length,
        }
    }

    /// The address, aligned at least to the [page size](Memory::page_size); null for a kind without
    /// memory. Valid for reads of [`len`](Memory::len) bytes, and for writes unless
    /// [read-only](Memory::is_readonly), while the claim or piece exists. Not mapped in forked
    /// children.
    pub fn as_ptr(self) -> *mut u8 {
        let first: *mut u8 = self.handle.memory().address.cast();
        first.wrapping_add(self.offset as usize)
    }

    /// The length in bytes.
    pub fn len(self) -> u64 {
        self.length
    }

    /// Whether the length is 0, as for a kind without memory.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The page size of the backing in bytes: the base page, or the huge page of hugetlb memory.
    pub fn page_size(self) -> u64 {
        self.handle.memory().page_size
    }

    /// Whether the mapping is shared: writes are visible in other mappings of the descriptor.
    pub fn is_shared(self) -> bool {
        self.handle.memory().shared
    }

    /// Whether it is mapped read-only.
    pub fn is_readonly(self) -> bool {
        self.handle.memory().readonly
    }

    /// Whether it consists of hugetlb pages from the host's pools.
    pub fn is_hugetlb(self) -> bool {
        self.handle.memory().hugetlb
    }

    /// The descriptor that is mapped, owned by the backend; `None` for anonymous memory, and for
    /// shared memory while some of its contents are [unread](Claim::unread).
    pub fn fd(self) -> Option<BorrowedFd<'claim>> {
        self.handle.fd()
    }

    /// The descriptor of shared memory, to be given to another process, as vhost-user does.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value): the memory is private to this process.
    /// [`Busy`](crate::ErrorKind::Busy): some of its contents are [unread](Claim::unread), and the
    /// other process would find zero instead.
    #[doc(alias = "hostmem_backend_get_shared_fd")]
    pub fn shared_fd(self) -> Result<BorrowedFd<'claim>> {
        self.handle.shared_fd()
    }

    /// The offset of the memory in the descriptor, in bytes.
    pub fn fd_offset(self) -> u64 {
        self.handle.memory().offset + self.offset
    }
}

impl fmt::Debug for Memory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("address", &self.as_ptr())
            .field("len", &self.len())
            .field("page_size", &self.page_size())
            .field("shared", &self.is_shared())
            .field("readonly", &self.is_readonly())
            .field("fd", &self.fd())
            .field("fd_offset", &self.fd_offset())
            .finish()
    }
}

/// A guard that makes [`Claim::discard`] fail while it exists. Made by [`Claim::inhibit_discard`]
/// or [`Piece::inhibit_discard`]; keeps a reference to the claim, as a piece does.
#[doc(alias = "hostmem_backend_inhibit_discard")]
#[doc(alias = "hostmem_backend_allow_discard")]
pub struct DiscardInhibited {
    claim: Arc<ClaimHandle>,
    name: CString,
}

impl DiscardInhibited {
    pub(crate) fn new(claim: &Arc<ClaimHandle>, name: &str) -> Result<Self> {
        let name = to_c(name)?;
        claim.backend().inhibit_discard(&name)?;
        let claim = Arc::clone(claim);
        Ok(Self { claim, name })
    }

    /// The inhibitor's name, which the error of `discard` contains.
    pub fn name(&self) -> &str {
        // It was made from a `str`.
        self.name.to_str().unwrap_or_default()
    }
}

impl Drop for DiscardInhibited {
    fn drop(&mut self) {
        let allowed = self.claim.backend().allow_discard(&self.name);
        debug_assert!(allowed.is_ok(), "{allowed:?}");
    }
}

impl fmt::Debug for DiscardInhibited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscardInhibited")
            .field("id", &self.claim.backend().view().id())
            .field("name", &self.name())
            .finish()
    }
}

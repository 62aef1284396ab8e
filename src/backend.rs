// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A backend that has its memory.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Failed;
use crate::handle::BackendHandle;
use crate::handle::ClaimHandle;
use crate::sys;
use crate::Claim;
use crate::Origin;
use crate::Placement;
use crate::PreallocResult;
use crate::Progress;
use crate::Rebind;
use crate::Rebound;
use crate::Result;
use crate::Value;

/// What C answers where the time is over first (errno(3), Linux).
const ETIMEDOUT: i32 = 110;

/// A complete backend: its memory is mapped in this process, and reached by a [`Claim`].
///
/// Everything may be called from any thread. Reading a property, the state or the progress, and
/// claiming, never wait for a running preallocation.
///
/// Dropping it deletes it, unless a claim is left: then dropping that does.
#[doc(alias = "hostmem_backend")]
pub struct Backend {
    handle: Arc<BackendHandle>,
}

impl Backend {
    pub(crate) fn from_handle(handle: Arc<BackendHandle>) -> Self {
        Self { handle }
    }

    /// Takes the backend for an owner, whose name (1 to 128 bytes) is shown to others.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) (claimed; says by whom), [`Value`](crate::ErrorKind::Value)
    /// (name empty or too long).
    #[doc(alias = "hostmem_backend_claim")]
    pub fn claim(&self, owner: &str) -> Result<Claim> {
        ClaimHandle::new(&self.handle, owner).map(Claim::from_handle)
    }

    /// The state now.
    #[doc(alias = "hostmem_backend_get_state")]
    pub fn state(&self) -> State {
        State::from_raw(self.handle.view().state())
    }

    /// The id.
    #[doc(alias = "hostmem_backend_get_id")]
    pub fn id(&self) -> &str {
        self.handle.view().id()
    }

    /// The kind's name.
    #[doc(alias = "hostmem_backend_get_kind")]
    pub fn kind(&self) -> &str {
        self.handle.view().kind()
    }

    /// The name of the RAM block for migration: the id, or `/objects/<id>` with
    /// `x-use-canonical-path-for-ramblock-id`.
    #[doc(alias = "hostmem_backend_get_name")]
    pub fn name(&self) -> String {
        // Never fails, as far as C says.
        let name = self.handle.view().name();
        name.unwrap_or_else(|_| self.id().to_owned())
    }

    /// The name of who claimed it, while claimed.
    #[doc(alias = "hostmem_backend_get_owner")]
    pub fn owner(&self) -> Option<String> {
        // Never fails, as far as C says.
        let owner = self.handle.view().owner().unwrap_or_default();
        (!owner.is_empty()).then_some(owner)
    }

    /// Sets a property. One that is settable [always](crate::Settable::Always) acts before the call
    /// returns; `prealloc` populates the memory.
    ///
    /// # Errors
    ///
    /// The value stays as it was: [`UnknownProperty`](crate::ErrorKind::UnknownProperty),
    /// [`Type`](crate::ErrorKind::Type), [`Value`](crate::ErrorKind::Value),
    /// [`State`](crate::ErrorKind::State) (not settable now; says what would work),
    /// [`Busy`](crate::ErrorKind::Busy) (prealloc or rebinding while a preallocation runs),
    /// [`Unsupported`](crate::ErrorKind::Unsupported), [`NoMemory`](crate::ErrorKind::NoMemory),
    /// [`Io`](crate::ErrorKind::Io).
    #[doc(alias = "hostmem_backend_set_text")]
    #[doc(alias = "hostmem_backend_set_bool")]
    #[doc(alias = "hostmem_backend_set_number")]
    #[doc(alias = "hostmem_backend_set_list")]
    pub fn set(&self, property: &str, value: impl Into<Value>) -> Result<()> {
        value.into().set(&self.handle, property)
    }

    /// A property's effective value, in the form of its type. A node or a descriptor that is unset
    /// reads as the text `none`.
    ///
    /// # Errors
    ///
    /// [`UnknownProperty`](crate::ErrorKind::UnknownProperty).
    #[doc(alias = "hostmem_backend_get_bool")]
    #[doc(alias = "hostmem_backend_get_number")]
    #[doc(alias = "hostmem_backend_get_list")]
    pub fn get(&self, property: &str) -> Result<Value> {
        Value::get(self.handle.view(), property)
    }

    /// A property's effective value as text, which can be set again, but for that of an empty set.
    /// The text of a size is its number of bytes in decimal. A path that is not UTF-8 is only shown
    /// by its text: [`get`](Backend::get) gives it whole.
    ///
    /// # Errors
    ///
    /// [`UnknownProperty`](crate::ErrorKind::UnknownProperty).
    #[doc(alias = "hostmem_backend_get_text")]
    pub fn get_text(&self, property: &str) -> Result<String> {
        self.handle.view().get_text(property)
    }

    /// Where a property's value comes from.
    ///
    /// # Errors
    ///
    /// [`UnknownProperty`](crate::ErrorKind::UnknownProperty).
    #[doc(alias = "hostmem_backend_get_origin")]
    pub fn origin(&self, property: &str) -> Result<Origin> {
        let raw = self.handle.view().origin(property)?;
        Ok(Origin::from_raw(raw))
    }

    /// Changes policy, host nodes and home node in one step, and moves the memory's pages there
    /// while it is used. [`set`](Backend::set) of one of these properties does the same, without the
    /// count; it has to be possible by itself.
    ///
    /// Pages that are on any of the new nodes stay; the others move, but for those in the result.
    /// With [`Policy::Bind`](crate::Policy::Bind) it is refused beforehand where the new nodes have
    /// less memory available than would have to move. On failure the old policy is back, and pages
    /// that had moved go back to its nodes as far as they can.
    ///
    /// On Linux 6.12 transparent huge pages that nobody has written yet may be given up instead of
    /// moved when the new nodes are short: they read as zero, and are absent until they are
    /// populated again.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value) (policy, nodes, their combination),
    /// [`Busy`](crate::ErrorKind::Busy) (a preallocation is running),
    /// [`Unsupported`](crate::ErrorKind::Unsupported) (as completing;
    /// [`move_all`](Rebind::move_all) without `CAP_SYS_NICE`),
    /// [`NoMemory`](crate::ErrorKind::NoMemory) (the new nodes are short),
    /// [`Io`](crate::ErrorKind::Io) (`EIO`: pages could not be moved; says how many and why).
    #[doc(alias = "hostmem_backend_rebind")]
    pub fn rebind(&self, to: &Rebind) -> Result<Rebound> {
        let raw = self
            .handle
            .rebind(&to.policy, &to.host_nodes, to.home_node, to.flags)?;
        Ok(Rebound::from_raw(&raw))
    }

    /// Where the memory is, as the kernel says now: reads `/proc/self/smaps` and
    /// `/proc/self/numa_maps`, at a cost that grows with the mappings of the whole process.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) (they cannot be read).
    #[doc(alias = "hostmem_backend_get_placement")]
    pub fn placement(&self) -> Result<Placement> {
        let raw = self.handle.view().placement()?;
        Ok(Placement::from_raw(&raw))
    }

    /// What the last successful preallocation did; `None` when there was none.
    #[doc(alias = "hostmem_backend_get_prealloc_result")]
    pub fn prealloc_result(&self) -> Option<PreallocResult> {
        PreallocResult::from_raw(&self.handle.view().prealloc_result())
    }

    /// How far the running or last preallocation is. Never waits.
    #[doc(alias = "hostmem_backend_get_progress")]
    pub fn progress(&self) -> Progress {
        let (done, total) = self.handle.view().progress();
        Progress::new(done, total)
    }

    /// Waits for the end of a preallocation in the background
    /// ([`PreallocMode::Background`](crate::PreallocMode::Background)): `true` when it succeeded or
    /// there was none, `false` when it still runs after `timeout` (rounded up to milliseconds;
    /// `None`: as long as it takes).
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) (from inside its own progress callback), else why it failed:
    /// [`State`](crate::ErrorKind::State) with `ECANCELED` (cancelled),
    /// [`NoMemory`](crate::ErrorKind::NoMemory), [`Io`](crate::ErrorKind::Io).
    #[doc(alias = "hostmem_backend_wait_prealloc")]
    pub fn wait_prealloc(&self, timeout: Option<Duration>) -> Result<bool> {
        let milliseconds =
            timeout.map_or(u128::MAX, |timeout| timeout.as_nanos().div_ceil(1_000_000));
        let milliseconds = u64::try_from(milliseconds).unwrap_or(u64::MAX);
        match self.handle.wait_prealloc(milliseconds) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(ETIMEDOUT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Stops a preallocation that runs in the background, within one chunk (8 MiB, or one huge page
    /// where that is larger), and waits for its end. What was populated stays; the answer says how
    /// much. Does nothing when none runs.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) (from inside its own progress callback).
    #[doc(alias = "hostmem_backend_cancel_prealloc")]
    pub fn cancel_prealloc(&self) -> Result<Progress> {
        self.handle.cancel_prealloc()?;
        Ok(self.progress())
    }

    /// A descriptor for event loops that becomes readable when the preallocation in the background
    /// has ended (`eventfd(2)`); `None` where there was none.
    #[doc(alias = "hostmem_backend_get_prealloc_event")]
    pub fn prealloc_event(&self) -> Option<BorrowedFd<'_>> {
        self.handle.prealloc_event()
    }

    /// Preallocates a range of the memory, contents untouched, with the properties and the progress
    /// callback of the backend. Offset and length are in bytes, multiples of the
    /// [page size](crate::Memory::page_size), inside the memory; length 0 does nothing.
    ///
    /// Its opposite is [`Claim::discard`].
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value) (range), [`Busy`](crate::ErrorKind::Busy) (a
    /// preallocation is running), [`Unsupported`](crate::ErrorKind::Unsupported),
    /// [`NoMemory`](crate::ErrorKind::NoMemory), [`Io`](crate::ErrorKind::Io).
    #[doc(alias = "hostmem_backend_populate")]
    pub fn populate(&self, offset: u64, length: u64) -> Result<()> {
        self.handle.populate(offset, length)
    }

    /// Whether [`delete`](Backend::delete) would succeed now.
    ///
    /// # Errors
    ///
    /// Those of `delete`.
    #[doc(alias = "hostmem_backend_can_be_deleted")]
    pub fn can_be_deleted(&self) -> Result<()> {
        self.handle.view().can_be_deleted()
    }

    /// Unmaps the memory, closes its descriptor and gives the id back.
    ///
    /// In a forked child, where the memory is not mapped, only the bookkeeping goes.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) (claimed or preallocating; says by whom or what). The error
    /// brings the backend back.
    #[doc(alias = "hostmem_backend_delete")]
    pub fn delete(self) -> Result<(), DeleteError> {
        let deleted = self.handle.delete();
        deleted.map_err(|error| Failed::new(self, error))
    }

    /// Deletes it as [`delete`](Backend::delete) does, and undoes what completing made, as a
    /// completing that fails does: a file that it made is removed, one that it made larger is empty
    /// again. For who gives up after completing, as when the preallocation in the background has
    /// failed.
    ///
    /// # Errors
    ///
    /// Those of `delete`, [`State`](crate::ErrorKind::State) (a forked child). The error brings the
    /// backend back.
    #[doc(alias = "hostmem_backend_undo")]
    pub fn undo(self) -> Result<(), DeleteError> {
        let undone = self.handle.undo();
        undone.map_err(|error| Failed::new(self, error))
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("id", &self.id())
            .field("kind", &self.kind())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Where a backend is in its life.
#[doc(alias = "hostmem_state")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// No memory; every property may be set. A [`Builder`](crate::Builder).
    Configuring,
    /// [`Builder::complete`](crate::Builder::complete) is running; nothing may be set.
    Completing,
    /// The memory is mapped in this process.
    Ready,
    /// Ready and claimed; cannot be deleted.
    Mapped,
    /// Memory and id are given back.
    Deleted,
}

impl State {
    pub(crate) fn from_raw(raw: sys::hostmem_state) -> Self {
        match raw {
            sys::hostmem_state::HOSTMEM_STATE_CONFIGURING => Self::Configuring,
            sys::hostmem_state::HOSTMEM_STATE_COMPLETING => Self::Completing,
            sys::hostmem_state::HOSTMEM_STATE_READY => Self::Ready,
            sys::hostmem_state::HOSTMEM_STATE_MAPPED => Self::Mapped,
            // The one that promises nothing, also for anything that C has no name for.
            _ => Self::Deleted,
        }
    }
}

/// Why a backend could not be deleted, and the backend as it was.
pub type DeleteError = Failed<Backend>;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering;
    use std::thread;

    use crate::Defaults;
    use crate::ErrorKind;
    use crate::Host;
    use crate::Objects;

    /// Callers of the C may delete what others populate, which the types keep those of Rust from.
    #[test]
    fn what_is_populated_is_not_deleted() {
        const SIZE: u64 = 1 << 20;
        let set = Objects::new(&Host::probe().unwrap(), &Defaults::default()).unwrap();
        for round in 0..200 {
            let backend = set.parse(format!("memory-backend-ram,id=m,size={SIZE},thp=never"));
            let backend = backend.unwrap().complete().unwrap();
            let here = AtomicU32::new(0);
            let meet = |wait: u32| {
                here.fetch_add(1, Ordering::SeqCst);
                while here.load(Ordering::SeqCst) < 2 {}
                (0..wait).for_each(|_| std::hint::spin_loop());
            };
            let populate = || {
                meet(0);
                backend.populate(0, SIZE)
            };
            let (populated, deleted) = thread::scope(|scope| {
                let other = scope.spawn(populate);
                meet(round % 100);
                let deleted = backend.handle.delete();
                (other.join().unwrap(), deleted)
            });
            let kinds = [populated, deleted].map(|result| result.err().map(|error| error.kind()));
            assert!(
                [
                    [None, None],
                    [None, Some(ErrorKind::Busy)],
                    [Some(ErrorKind::State), None],
                ]
                .contains(&kinds),
                "round {round}: {kinds:?}"
            );
        }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Complete backends.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::Weak;
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

/// C's errno if the timeout expires (errno(3), Linux).
const ETIMEDOUT: i32 = 110;

/// A complete backend: its memory is mapped in this process. A [`Claim`] gives access to it.
///
/// Every method may be called from any thread. Reading properties, state or progress, and claiming,
/// never wait for a running preallocation.
///
/// Dropping it deletes the backend. While a claim exists, the backend lives until that is dropped.
#[doc(alias = "hostmem_backend")]
pub struct Backend {
    handle: Arc<BackendHandle>,
}

impl Backend {
    pub(crate) fn from_handle(handle: Arc<BackendHandle>) -> Self {
        Self { handle }
    }

    /// Claims the backend: state [mapped](State::Mapped) until the claim is dropped. The owner's
    /// name (1 to 128 bytes) appears in [`owner`](Backend::owner) and in error messages.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) (claimed already; the message names the owner),
    /// [`Value`](crate::ErrorKind::Value) (name empty, too long or with a NUL byte).
    #[doc(alias = "hostmem_backend_claim")]
    pub fn claim(&self, owner: &str) -> Result<Claim> {
        ClaimHandle::new(&self.handle, owner).map(Claim::from_handle)
    }

    /// The current state: [ready](State::Ready) or [mapped](State::Mapped).
    #[doc(alias = "hostmem_backend_get_state")]
    pub fn state(&self) -> State {
        State::from_raw(self.handle.view().state())
    }

    /// The id.
    #[doc(alias = "hostmem_backend_get_id")]
    pub fn id(&self) -> &str {
        self.handle.view().id()
    }

    /// What messages call the backend: the id, or the text set by
    /// [`Builder::label`](crate::Builder::label).
    #[doc(alias = "hostmem_backend_get_label")]
    pub fn label(&self) -> &str {
        self.handle.view().label()
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
        // C never fails here.
        let name = self.handle.view().name();
        name.unwrap_or_else(|_| self.id().to_owned())
    }

    /// Warnings: properties that were given in a deprecated form, or that have no effect.
    #[doc(alias = "hostmem_backend_get_warning")]
    pub fn warnings(&self) -> Vec<String> {
        self.handle.view().warnings()
    }

    /// The name of the claim's owner; `None` if the backend is not claimed.
    #[doc(alias = "hostmem_backend_get_owner")]
    pub fn owner(&self) -> Option<String> {
        // C never fails here.
        let owner = self.handle.view().owner().unwrap_or_default();
        (!owner.is_empty()).then_some(owner)
    }

    /// Sets a property. If it is settable [always](crate::Settable::Always), the change takes
    /// effect before the call returns; setting `prealloc` populates the memory.
    ///
    /// # Errors
    ///
    /// The old value stays: [`UnknownProperty`](crate::ErrorKind::UnknownProperty),
    /// [`Type`](crate::ErrorKind::Type), [`Value`](crate::ErrorKind::Value),
    /// [`State`](crate::ErrorKind::State) (not settable any more; the message says what works),
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

    /// The effective value of a property, in the form of its type. A node or descriptor that is not
    /// set reads as the text `none`.
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

    /// The effective value of a property as text. The text can be set again, except that of an
    /// empty set. A size is in bytes, in decimal. In a path, bytes that are not UTF-8 are replaced;
    /// [`get`](Backend::get) returns the exact path.
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

    /// Changes policy, host nodes and home node in one step and moves the pages, while the memory
    /// is in use. [`set`](Backend::set) of one of these properties does the same for that property
    /// alone, and does not report the numbers.
    ///
    /// Pages on one of the new nodes stay, the others move. The result counts those that could not
    /// be moved. With [`Policy::Bind`](crate::Policy::Bind) the available memory of the new nodes
    /// is checked up front. On failure the old policy is restored, and pages that had moved are
    /// moved back as far as possible.
    ///
    /// On Linux 6.12 transparent huge pages that were never written may be freed instead of moved
    /// if the new nodes are short of memory: they read as zero, and are absent until populated
    /// again.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value) (policy, nodes, their combination),
    /// [`Busy`](crate::ErrorKind::Busy) (a preallocation is running),
    /// [`Unsupported`](crate::ErrorKind::Unsupported) (as completing;
    /// [`move_all`](Rebind::move_all) without `CAP_SYS_NICE`),
    /// [`NoMemory`](crate::ErrorKind::NoMemory) (the new nodes are short of memory),
    /// [`Io`](crate::ErrorKind::Io) (`EIO`: pages could not be moved; the message says how many and
    /// why).
    #[doc(alias = "hostmem_backend_rebind")]
    pub fn rebind(&self, to: &Rebind) -> Result<Rebound> {
        let raw = self
            .handle
            .rebind(&to.policy, &to.host_nodes, to.home_node, to.flags)?;
        Ok(Rebound::from_raw(&raw))
    }

    /// Where the memory is now, according to the kernel. Reads `/proc/self/smaps` and
    /// `/proc/self/numa_maps`; the cost grows with the number of mappings of the process.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) (these files cannot be read).
    #[doc(alias = "hostmem_backend_get_placement")]
    pub fn placement(&self) -> Result<Placement> {
        let raw = self.handle.view().placement()?;
        Ok(Placement::from_raw(&raw))
    }

    /// The result of the last successful preallocation; `None` if there was none.
    #[doc(alias = "hostmem_backend_get_prealloc_result")]
    pub fn prealloc_result(&self) -> Option<PreallocResult> {
        PreallocResult::from_raw(&self.handle.view().prealloc_result())
    }

    /// The progress of the running or last preallocation, scrub or save. Never waits.
    #[doc(alias = "hostmem_backend_get_progress")]
    pub fn progress(&self) -> Progress {
        let (done, total) = self.handle.view().progress();
        Progress::new(done, total)
    }

    /// Waits for the end of a background preallocation
    /// ([`PreallocMode::Background`](crate::PreallocMode::Background)). Returns `true` if it
    /// succeeded or there was none, `false` if it still runs after `timeout` (rounded up to
    /// milliseconds; `None`: no timeout). A read of [contents](crate::Builder::contents) on demand
    /// that failed while none ran is returned as its failure, until [`Claim::retry_contents`].
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) (called from its own callback), or the error of the
    /// preallocation: [`State`](crate::ErrorKind::State) with `ECANCELED` (cancelled),
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

    /// Cancels a background preallocation and waits until it has stopped, within one chunk (8 MiB,
    /// or one huge page if that is larger). Pages that are populated stay; the result says how many
    /// bytes. Does nothing if none runs.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) (called from its own callbacks).
    #[doc(alias = "hostmem_backend_cancel_prealloc")]
    pub fn cancel_prealloc(&self) -> Result<Progress> {
        self.handle.cancel_prealloc()?;
        Ok(self.progress())
    }

    /// Stops preallocations, scrubs and saves of this backend from other threads.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter::new(&self.handle)
    }

    /// An `eventfd(2)` for event loops that is readable when the background preallocation has
    /// ended, and when a read of [contents](crate::Builder::contents) on demand fails after that;
    /// `None` if there was none.
    #[doc(alias = "hostmem_backend_get_prealloc_event")]
    pub fn prealloc_event(&self) -> Option<BorrowedFd<'_>> {
        self.handle.prealloc_event()
    }

    /// Populates a range of the memory with the backend's properties and progress callback.
    /// Contents do not change. Offset and length are in bytes, multiples of the [page
    /// size](crate::Memory::page_size), inside the memory; length 0 does nothing.
    ///
    /// [`Claim::discard`] is the opposite.
    ///
    /// # Errors
    ///
    /// Pages that are populated stay. [`Value`](crate::ErrorKind::Value) (range),
    /// [`Busy`](crate::ErrorKind::Busy) (a preallocation is running),
    /// [`Unsupported`](crate::ErrorKind::Unsupported), [`NoMemory`](crate::ErrorKind::NoMemory),
    /// [`Io`](crate::ErrorKind::Io).
    #[doc(alias = "hostmem_backend_populate")]
    pub fn populate(&self, offset: u64, length: u64) -> Result<()> {
        self.handle.populate(offset, length)
    }

    /// Whether [`delete`](Backend::delete) would succeed now.
    ///
    /// # Errors
    ///
    /// The error that `delete` would return.
    #[doc(alias = "hostmem_backend_can_be_deleted")]
    pub fn can_be_deleted(&self) -> Result<()> {
        self.handle.view().can_be_deleted()
    }

    /// Unmaps the memory, closes its descriptor and frees the id. Cancels a background
    /// preallocation.
    ///
    /// In a forked child, where the memory is not mapped, only the library's record is deleted.
    ///
    /// # Errors
    ///
    /// The error contains the backend. [`Busy`](crate::ErrorKind::Busy) (claimed, preallocating in
    /// another call, or called from a callback of the background preallocation).
    #[doc(alias = "hostmem_backend_delete")]
    pub fn delete(self) -> Result<(), DeleteError> {
        let deleted = self.handle.delete();
        deleted.map_err(|error| Failed::new(self, error))
    }

    /// Deletes the backend as [`delete`](Backend::delete) does, and rolls back what completing did
    /// to files: a file that it created is removed, an empty one that it grew is empty again. For
    /// use after completing, for example if the background preallocation has failed.
    ///
    /// # Errors
    ///
    /// The error contains the backend. Those of `delete`, [`State`](crate::ErrorKind::State) (in a
    /// forked child), and [`Io`](crate::ErrorKind::Io) (the backend is deleted, but something that
    /// completing made stays, for example a file that others have open).
    #[doc(alias = "hostmem_backend_undo")]
    pub fn undo(self) -> Result<(), DeleteError> {
        let undone = self.handle.undo();
        undone.map_err(|error| Failed::new(self, error))
    }
}

/// Stops preallocations, scrubs and saves of one backend from any thread, also those that a caller
/// waits for: [`Builder::complete`](crate::Builder::complete), [`Backend::populate`],
/// [`Claim::scrub`], [`Claim::save`], `prealloc=on`. Does not keep the backend alive.
#[derive(Clone, Debug)]
pub struct Interrupter {
    handle: Weak<BackendHandle>,
}

impl Interrupter {
    pub(crate) fn new(handle: &Arc<BackendHandle>) -> Self {
        Self {
            handle: Arc::downgrade(handle),
        }
    }

    /// Stops the preallocation that runs, within one chunk (8 MiB, or one huge page if that is
    /// larger), and returns at once. The waiting caller gets [`State`](crate::ErrorKind::State)
    /// with `ECANCELED`; backends that complete together all fail. Does nothing if none runs, and
    /// does not affect the next one. May be called from callbacks.
    #[doc(alias = "hostmem_backend_interrupt")]
    pub fn interrupt(&self) {
        if let Some(handle) = self.handle.upgrade() {
            handle.interrupt();
        }
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

/// The state of a backend or thread-context.
#[doc(alias = "hostmem_state")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// No memory yet; every property can be set. A [`Builder`](crate::Builder).
    Configuring,
    /// [`Builder::complete`](crate::Builder::complete) is running; no property can be set.
    Completing,
    /// The memory is mapped in this process.
    Ready,
    /// Ready and claimed; cannot be deleted.
    Mapped,
    /// The memory is unmapped and the id is free.
    Deleted,
}

impl State {
    pub(crate) fn from_raw(raw: sys::hostmem_state) -> Self {
        match raw {
            sys::hostmem_state::HOSTMEM_STATE_CONFIGURING => Self::Configuring,
            sys::hostmem_state::HOSTMEM_STATE_COMPLETING => Self::Completing,
            sys::hostmem_state::HOSTMEM_STATE_READY => Self::Ready,
            sys::hostmem_state::HOSTMEM_STATE_MAPPED => Self::Mapped,
            // The state that promises nothing, also for any value without a name.
            _ => Self::Deleted,
        }
    }
}

/// Why a backend could not be deleted, and the unchanged backend.
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

    /// C callers can delete a backend while another thread populates it; Rust's types prevent that.
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

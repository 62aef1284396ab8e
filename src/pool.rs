// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Backends that are complete before they are asked for: pools of this process, and, with the
//! feature `pool`, of another one, `hostmem pool`.

#[cfg(feature = "pool")]
mod client;

use std::ffi::OsStr;
use std::time::Duration;

use crate::handle::PoolHandle;
use crate::sys;
use crate::Backend;
use crate::Builder;
use crate::Error;
use crate::Objects;
use crate::Result;

#[cfg(feature = "pool")]
pub use client::receive;
#[cfg(feature = "pool")]
pub use client::take;
#[cfg(feature = "pool")]
pub use client::Received;

/// What C answers where the time is over first (errno(3), Linux).
const ETIMEDOUT: i32 = 110;

/// Keeps backends of one configuration complete and preallocated, and makes new ones in the
/// background when one is [taken](Pool::take): taking one that is ready takes less than a
/// millisecond, whatever its size. Fresh memory cannot be had faster than the kernel zeroes it.
///
/// The memory of a pool is taken from the host as that of any backend. It is filled one backend at
/// a time, by threads of `SCHED_IDLE`, those of a `prealloc-context` too: all other work of the
/// CPUs goes first. If memory is short, filling stops as any preallocation does; the reason is in
/// the [status](Pool::status), and it is tried again after a pause, 1 second at first and at most
/// 60.
///
/// Dropping it deletes what is ready; what was taken stays.
#[doc(alias = "hostmem_pool")]
#[derive(Debug)]
pub struct Pool {
    handle: PoolHandle,
}

impl Pool {
    /// Makes a pool that keeps `count` backends ready, configured as the template. They are
    /// preallocated whether the template says so or not. Its id is the pool's name in messages and
    /// threads, and free when this returns. Fills nothing before it returns.
    ///
    /// # Errors
    ///
    /// The first error of the template's chain; [`Value`](crate::ErrorKind::Value) (the template is
    /// not possible on this host; `prealloc=off`; its memory would be the same for all, as that of
    /// a shared descriptor or file; more than the host has; a count of 0), and those of
    /// [`Builder::complete`] except for what is short now.
    #[doc(alias = "hostmem_pool_new")]
    pub fn new(template: Builder, count: u32) -> Result<Self> {
        PoolHandle::new(&*template.into_handle()?, count).map(|handle| Self { handle })
    }

    /// The same from an option string without id, in the grammar of [`Objects::parse`]. The name of
    /// the pool is that of the kind.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Pool::new) and [`Objects::parse`]; [`Value`](crate::ErrorKind::Value) (an
    /// id).
    #[doc(alias = "hostmem_pool_new_from_options")]
    pub fn parse(objects: &Objects, options: impl AsRef<OsStr>, count: u32) -> Result<Self> {
        PoolHandle::from_options(objects.handle(), options.as_ref(), count)
            .map(|handle| Self { handle })
    }

    /// Takes a backend, which gets the id in the template's set of objects, and is from then on
    /// like one that was completed just now. If none is ready, it is made now, the ordinary way;
    /// [`Taken::was_ready`] says so.
    ///
    /// # Errors
    ///
    /// What was ready stays so: [`Value`](crate::ErrorKind::Value) (id malformed or taken),
    /// [`State`](crate::ErrorKind::State) (a forked child), and those of [`Builder::complete`] if
    /// none was ready.
    #[doc(alias = "hostmem_pool_take")]
    pub fn take(&self, id: &str) -> Result<Taken> {
        let (handle, was_ready) = self.handle.take(id)?;
        Ok(Taken {
            backend: Backend::from_handle(handle),
            was_ready,
        })
    }

    /// Takes a backend that is ready, as [`take`](Pool::take) does, and lowers the count by one,
    /// also to 0, so that the pool does not replace it before [`set_count`](Pool::set_count). It
    /// neither makes one nor lets filling rest. For a caller that keeps ready backends itself, for
    /// example to hand out their descriptors.
    ///
    /// # Errors
    ///
    /// The count, and what was ready, stay the same:
    /// [`Value`](crate::ErrorKind::Value) (id malformed or taken), [`Busy`](crate::ErrorKind::Busy)
    /// (none is ready), [`State`](crate::ErrorKind::State) (a forked child).
    #[doc(alias = "hostmem_pool_withdraw")]
    pub fn withdraw(&self, id: &str) -> Result<Backend> {
        self.handle.withdraw(id).map(Backend::from_handle)
    }

    /// Lets filling rest: it begins no chunk for this time; more than 60 seconds counts as 60. So
    /// urgent work does not wait for locks of the kernel that a thread of `SCHED_IDLE` holds.
    /// Filling then goes on for at least the same time; another rest before the end of that has no
    /// effect. Each [`take`](Pool::take) lets filling rest for 100 ms. Does nothing in a forked
    /// child.
    #[doc(alias = "hostmem_pool_rest")]
    pub fn rest(&self, time: Duration) {
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.handle.rest(milliseconds);
    }

    /// Sets how many are kept ready. Those above are deleted before it returns; an attempt that is
    /// waited for begins at once.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value) (0; more than the host has),
    /// [`State`](crate::ErrorKind::State) (a forked child).
    #[doc(alias = "hostmem_pool_set_count")]
    pub fn set_count(&self, count: u32) -> Result<()> {
        self.handle.set_count(count)
    }

    /// Waits until `ready` backends are, at most the count. Returns `false` after the timeout
    /// (`None`: no timeout).
    ///
    /// # Errors
    ///
    /// [`State`](crate::ErrorKind::State) (a forked child).
    #[doc(alias = "hostmem_pool_wait")]
    pub fn wait(&self, ready: u32, timeout: Option<Duration>) -> Result<bool> {
        let milliseconds =
            timeout.map_or(u128::MAX, |timeout| timeout.as_nanos().div_ceil(1_000_000));
        let milliseconds = u64::try_from(milliseconds).unwrap_or(u64::MAX);
        match self.handle.wait(ready, milliseconds) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(ETIMEDOUT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What the pool has now.
    #[doc(alias = "hostmem_pool_get_status")]
    pub fn status(&self) -> PoolStatus {
        PoolStatus::from_raw(&self.handle.status())
    }
}

/// A backend from a [`Pool`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Taken {
    /// The backend.
    pub backend: Backend,
    /// Whether it was ready; otherwise it was made now.
    pub was_ready: bool,
}

/// What a [`Pool`] has. All zero in a forked child.
#[doc(alias = "hostmem_pool_status")]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolStatus {
    /// How many backends are to be ready.
    pub count: u32,
    /// How many are.
    pub ready: u32,
    /// Whether one is being filled.
    pub filling: bool,
    /// Bytes of those that are ready, and of the one that is being filled so far.
    pub bytes: u64,
    /// How many were ready when they were taken.
    pub taken: u64,
    /// How many were not, and made then.
    pub made: u64,
    /// Attempts to fill one that failed.
    pub failures: u64,
    /// Until the next attempt, if it is waited for.
    pub retry: Option<Duration>,
    /// Why the last attempt failed, if it did.
    pub failure: Option<Error>,
}

impl PoolStatus {
    fn from_raw(raw: &sys::hostmem_pool_status) -> Self {
        Self {
            count: raw.count,
            ready: raw.ready,
            filling: raw.filling,
            bytes: raw.bytes,
            taken: raw.taken,
            made: raw.made,
            failures: raw.failures,
            retry: (raw.retry_milliseconds > 0)
                .then(|| Duration::from_millis(raw.retry_milliseconds)),
            failure: (raw.failure.kind.0 != 0).then(|| Error::from_raw(&raw.failure)),
        }
    }
}

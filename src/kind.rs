// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kinds of backend that an embedder brings.

use std::error::Error as StdError;
use std::fmt;
use std::os::fd::IntoRawFd;
use std::os::fd::OwnedFd;

use crate::error::catch_panic;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::handle::BackendView;
use crate::sys;
use crate::Result;
use crate::Value;

/// A kind of backend, to be [registered](crate::Objects::register_kind) in a set of objects.
///
/// It says what the memory is made of, and never touches the memory: the library checks a
/// descriptor, maps it, and does everything that the properties ask for. One value serves all
/// backends of its kind, from any thread; it is dropped with the set and the last of its backends.
#[doc(alias = "hostmem_kind")]
pub trait Kind: Send + Sync + 'static {
    /// Makes the backing of one backend, while that is completing and on the thread that completes
    /// it.
    ///
    /// # Errors
    ///
    /// An error makes completing fail and nothing may be left behind. A [hostmem
    /// error](crate::Error) is passed on as it is, an I/O error with its errno. A panic becomes an
    /// error of kind [`Io`](ErrorKind::Io).
    fn allocate(
        &self,
        request: &Request<'_>,
    ) -> std::result::Result<Backing, Box<dyn StdError + Send + Sync>>;

    /// Undoes what [`allocate`](Kind::allocate) did beyond opening the descriptor, when a later
    /// step of completing failed. The library closes the descriptor afterwards. A panic is ignored.
    fn undo(&self, request: &Request<'_>) {
        let _ = request;
    }
}

/// What a kind's memory is made of.
#[doc(alias = "hostmem_backing")]
#[derive(Debug)]
#[non_exhaustive]
pub enum Backing {
    /// Anonymous private memory.
    Anonymous,
    /// Memory behind a descriptor.
    Fd {
        /// An open descriptor that can be mapped: readable and writable, and where it has a size
        /// big enough for the backend's.
        fd: OwnedFd,
        /// Where in the descriptor the memory begins, in bytes, a multiple of its page size.
        offset: u64,
        /// Seals (`F_SEAL_*`) to be added once the memory is mapped, 0 for none.
        seals: u32,
    },
}

impl Backing {
    /// The record for C, which owns the descriptor from here on.
    pub(crate) fn into_raw(self) -> sys::hostmem_backing {
        match self {
            Self::Anonymous => sys::hostmem_backing {
                fd: -1,
                seals: 0,
                offset: 0,
            },
            Self::Fd { fd, offset, seals } => sys::hostmem_backing {
                fd: fd.into_raw_fd(),
                seals,
                offset,
            },
        }
    }
}

/// The backend that a kind is asked to make the backing of.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    view: BackendView<'a>,
}

impl<'a> Request<'a> {
    /// The backend's id.
    pub fn id(&self) -> &'a str {
        self.view.id()
    }

    /// The size in bytes, at least 1.
    ///
    /// # Errors
    ///
    /// None while completing.
    pub fn size(&self) -> Result<u64> {
        self.view.get_number("size")
    }

    /// Whether writes are to reach everyone who maps the descriptor.
    ///
    /// # Errors
    ///
    /// None while completing.
    pub fn share(&self) -> Result<bool> {
        self.view.get_bool("share")
    }

    /// A property's value.
    ///
    /// # Errors
    ///
    /// [`UnknownProperty`](ErrorKind::UnknownProperty).
    pub fn get(&self, property: &str) -> Result<Value> {
        Value::get(self.view, property)
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

/// A registered kind, as C calls it: without panics and with our errors.
pub(crate) struct KindRecord(Box<dyn Kind>);

impl KindRecord {
    pub(crate) fn new(kind: impl Kind) -> Self {
        Self(Box::new(kind))
    }

    pub(crate) fn allocate(&self, view: BackendView<'_>) -> Result<Backing> {
        let prefix = format!("{}: allocate of {}", view.id(), view.kind());
        // Making the words calls the implementor's code again, so it is inside too.
        let caught = catch_panic(|| {
            self.0
                .allocate(&Request { view })
                .map_err(|error| Error::from_foreign(&prefix, &*error))
        });
        caught.unwrap_or_else(|panic| {
            Err(Error::new(
                ErrorKind::Io,
                format!("{prefix} panicked: {panic}"),
            ))
        })
    }

    pub(crate) fn undo(&self, view: BackendView<'_>) {
        let _: Result<(), String> = catch_panic(|| self.0.undo(&Request { view }));
    }
}

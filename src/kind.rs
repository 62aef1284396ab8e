// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kinds of backend implemented by the embedder.

use std::error::Error as StdError;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::os::fd::IntoRawFd;
use std::os::fd::OwnedFd;

use crate::error::catch_panic;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::handle::BackendView;
use crate::handle::KindFunctions;
use crate::sys;
use crate::Result;
use crate::Value;

/// A kind of backend, [registered](crate::Objects::register_kind) in a set of objects.
///
/// It provides the backing and does not access the memory: the library checks the descriptor, maps
/// it and applies the properties. One value serves all backends of its kind, on any thread. It is
/// dropped when the set and the last backend of the set are.
#[doc(alias = "hostmem_kind")]
pub trait Kind: Send + Sync + 'static {
    /// Checks the kind's own rules on the whole configuration of one backend, before anything is
    /// allocated. Has no side effects. Called while the backend is completing, on the thread that
    /// completes it. The default accepts everything.
    ///
    /// # Errors
    ///
    /// An error or a panic makes completing fail, as for [`allocate`](Kind::allocate).
    fn check(
        &self,
        request: &Request<'_>,
    ) -> std::result::Result<(), Box<dyn StdError + Send + Sync>> {
        let _ = request;
        Ok(())
    }

    /// Makes the backing of one backend. Called while the backend is completing, on the thread that
    /// completes it.
    ///
    /// # Errors
    ///
    /// An error makes completing fail; this function has to clean up first. A [hostmem
    /// error](crate::Error) is passed on unchanged, other errors become [`Io`](ErrorKind::Io), with
    /// the errno of an I/O error. A panic becomes an error of kind [`Io`](ErrorKind::Io).
    fn allocate(
        &self,
        request: &Request<'_>,
    ) -> std::result::Result<Backing, Box<dyn StdError + Send + Sync>>;

    /// Undoes what [`allocate`](Kind::allocate) did besides opening the descriptor. Called if a
    /// later step of completing fails, and by [`Backend::undo`](crate::Backend::undo). The library
    /// closes the descriptor afterwards. A panic is ignored.
    fn undo(&self, request: &Request<'_>, undo: &Undo<'_>) {
        let _ = (request, undo);
    }
}

/// The backing of a kind's memory.
#[doc(alias = "hostmem_backing")]
#[derive(Debug)]
#[non_exhaustive]
pub enum Backing {
    /// Anonymous private memory.
    Anonymous,
    /// A mapping of a descriptor.
    Fd(BackingFd),
}

/// A descriptor to map; converts to a [`Backing`] by `into()`.
///
/// ```
/// # fn allocate(file: std::fs::File) -> hostmem::Backing {
/// hostmem::BackingFd::new(file).offset(2 << 20).into()
/// # }
/// ```
#[derive(Debug)]
pub struct BackingFd {
    fd: OwnedFd,
    offset: u64,
    seals: u32,
    own: bool,
    made: u32,
}

impl BackingFd {
    /// An open descriptor that can be mapped: readable; for shared memory also writable; if it has
    /// a size, large enough for the backend.
    pub fn new(fd: impl Into<OwnedFd>) -> Self {
        Self {
            fd: fd.into(),
            offset: 0,
            seals: 0,
            own: false,
            made: 0,
        }
    }

    /// The offset of the memory in the descriptor, in bytes, a multiple of its page size. Default:
    /// 0.
    #[must_use]
    pub fn offset(self, bytes: u64) -> Self {
        Self {
            offset: bytes,
            ..self
        }
    }

    /// Seals (`F_SEAL_*`) to add when the memory is mapped. Default: none.
    #[must_use]
    pub fn seals(self, seals: u32) -> Self {
        Self { seals, ..self }
    }

    /// Whether the contents of the descriptor are used by nothing else. Then a discard frees them
    /// even if the mapping is private. Default: false; a private mapping never changes the
    /// descriptor's contents.
    #[doc(alias = "HOSTMEM_BACKING_OWN")]
    #[must_use]
    pub fn own(self, own: bool) -> Self {
        Self { own, ..self }
    }

    /// A number passed to [`Kind::undo`], for example whether the file was created. Not used by the
    /// library. Default: 0.
    #[must_use]
    pub fn made(self, made: u32) -> Self {
        Self { made, ..self }
    }
}

impl From<BackingFd> for Backing {
    fn from(fd: BackingFd) -> Self {
        Self::Fd(fd)
    }
}

impl Backing {
    /// The record for C, which then owns the descriptor.
    fn into_raw(self) -> sys::hostmem_backing {
        match self {
            Self::Anonymous => sys::hostmem_backing {
                fd: -1,
                seals: 0,
                offset: 0,
                flags: 0,
                made: 0,
                huge_page: 0,
            },
            Self::Fd(BackingFd {
                fd,
                offset,
                seals,
                own,
                made,
            }) => sys::hostmem_backing {
                fd: fd.into_raw_fd(),
                seals,
                offset,
                flags: if own {
                    sys::hostmem_backing_flag::HOSTMEM_BACKING_OWN.0
                } else {
                    0
                },
                made,
                huge_page: 0,
            },
        }
    }
}

/// The backing that [`Kind::undo`] has to undo.
#[derive(Debug)]
pub struct Undo<'a> {
    fd: Option<BorrowedFd<'a>>,
    made: u32,
}

impl<'a> Undo<'a> {
    /// The descriptor, still open; `None` for anonymous memory.
    pub fn fd(&self) -> Option<BorrowedFd<'a>> {
        self.fd
    }

    /// The number given to [`BackingFd::made`]; 0 for anonymous memory.
    pub fn made(&self) -> u32 {
        self.made
    }
}

/// The backend whose backing a kind has to make.
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

    /// Whether the mapping will be shared.
    ///
    /// # Errors
    ///
    /// None while completing.
    pub fn share(&self) -> Result<bool> {
        self.view.get_bool("share")
    }

    /// The effective value of a property.
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

/// A registered kind: its panics are caught, and its errors are ours.
pub(crate) struct KindRecord<K>(pub(crate) K);

impl<K: Kind> KindFunctions for KindRecord<K> {
    fn check(&self, view: BackendView<'_>) -> Result<()> {
        ask("check", view, |request| self.0.check(request))
    }

    fn allocate(&self, view: BackendView<'_>) -> Result<sys::hostmem_backing> {
        ask("allocate", view, |request| self.0.allocate(request)).map(Backing::into_raw)
    }

    fn undo(&self, view: BackendView<'_>, fd: Option<BorrowedFd<'_>>, made: u32) {
        let undo = Undo { fd, made };
        let _: Result<(), String> = catch_panic(|| self.0.undo(&Request { view }, &undo));
    }
}

/// Calls one function of a kind.
fn ask<T>(
    name: &str,
    view: BackendView<'_>,
    call: impl FnOnce(&Request<'_>) -> std::result::Result<T, Box<dyn StdError + Send + Sync>>,
) -> Result<T> {
    let prefix = format!("{}: {name} of {}", view.id(), view.kind());
    // Formatting the error calls the implementor's code too, which may panic.
    let caught = catch_panic(|| {
        call(&Request { view }).map_err(|error| Error::from_foreign(&prefix, &*error))
    });
    caught.unwrap_or_else(|panic| {
        Err(Error::new(
            ErrorKind::Io,
            format!("{prefix} panicked: {panic}"),
        ))
    })
}

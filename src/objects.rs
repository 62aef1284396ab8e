// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sets of backends: ids, kinds, defaults.

use std::ffi::OsStr;
use std::num::NonZeroU32;

use crate::handle::kind_of_options;
use crate::handle::ObjectsHandle;
use crate::kind::KindRecord;
use crate::sys;
use crate::Builder;
use crate::Host;
use crate::Kind;
use crate::Result;
use crate::ThreadContextBuilder;
use crate::THREAD_CONTEXT;

/// A set of backends with unique ids, the kinds it can make and the defaults it makes them with.
///
/// Backends live on when their set is dropped.
#[doc(alias = "hostmem_objects")]
#[derive(Debug)]
pub struct Objects {
    handle: ObjectsHandle,
}

impl Objects {
    /// Makes an empty set.
    ///
    /// # Errors
    ///
    /// [`NoMemory`](crate::ErrorKind::NoMemory).
    #[doc(alias = "hostmem_objects_new")]
    pub fn new(host: &Host, defaults: &Defaults) -> Result<Self> {
        Self::with_compat(host, defaults, &[])
    }

    /// Makes an empty set whose backends begin with compat values: each is a kind, a property and a
    /// value as text, applied in order before anything is set on a backend, as an old machine type
    /// needs.
    ///
    /// A compat value that names an unknown kind or property, or a value the property does not
    /// take, makes creating that backend fail.
    ///
    /// # Errors
    ///
    /// [`NoMemory`](crate::ErrorKind::NoMemory), [`Value`](crate::ErrorKind::Value) (a NUL byte in
    /// one of the texts).
    #[doc(alias = "hostmem_objects_new")]
    #[doc(alias = "hostmem_compat")]
    pub fn with_compat(
        host: &Host,
        defaults: &Defaults,
        compat: &[(&str, &str, &str)],
    ) -> Result<Self> {
        ObjectsHandle::new(&host.handle, &defaults.to_raw(), compat).map(|handle| Self { handle })
    }

    /// Begins a backend of a kind. The id is a letter, then letters, digits, `-`, `.`, `_`, at most
    /// 128 bytes, and not taken in the set.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value) (id malformed or taken, kind unknown or abstract, bad
    /// compat value), [`UnknownProperty`](crate::ErrorKind::UnknownProperty) (compat value),
    /// [`NoMemory`](crate::ErrorKind::NoMemory).
    #[doc(alias = "hostmem_backend_new")]
    pub fn builder(&self, kind: &str, id: &str) -> Result<Builder> {
        self.handle.new_backend(kind, id).map(Builder::from_handle)
    }

    /// Begins a backend from an option string, `kind,id=ID,property=value,...`, in the grammar of
    /// QEMU's `-object`: `,,` is a comma inside a value, a key without value is refused, a key
    /// given twice is refused unless it is a set, whose parts add up. A path in it may be in any
    /// encoding.
    ///
    /// # Errors
    ///
    /// As [`builder`](Objects::builder) and [`Builder::set`]; nothing is left behind.
    #[doc(alias = "hostmem_backend_new_from_options")]
    pub fn parse(&self, options: impl AsRef<OsStr>) -> Result<Builder> {
        self.handle
            .new_backend_from_options(options.as_ref())
            .map(Builder::from_handle)
    }

    /// Begins a thread-context. The id is formed and taken as that of a backend.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value) (id malformed or taken, bad compat value),
    /// [`NoMemory`](crate::ErrorKind::NoMemory).
    #[doc(alias = "hostmem_thread_context_new")]
    pub fn thread_context(&self, id: &str) -> Result<ThreadContextBuilder> {
        self.handle
            .new_thread_context(id)
            .map(ThreadContextBuilder::from_handle)
    }

    /// Begins an object of whichever kind from an option string, as [`parse`](Objects::parse) does
    /// a backend.
    ///
    /// # Errors
    ///
    /// As [`parse`](Objects::parse) and [`ThreadContextBuilder::set`]; nothing is left behind.
    #[doc(alias = "hostmem_options_get_kind")]
    #[doc(alias = "hostmem_thread_context_new_from_options")]
    pub fn parse_object(&self, options: impl AsRef<OsStr>) -> Result<ObjectBuilder> {
        let options = options.as_ref();
        if kind_of_options(options)? == THREAD_CONTEXT {
            let handle = self.handle.new_thread_context_from_options(options)?;
            let builder = ThreadContextBuilder::from_handle(handle);
            return Ok(ObjectBuilder::ThreadContext(builder));
        }
        self.parse(options).map(ObjectBuilder::Backend)
    }

    /// The kinds of backends of the set: the library's own in alphabetical order, then as
    /// registered.
    #[doc(alias = "hostmem_objects_get_kind")]
    #[doc(alias = "hostmem_objects_get_kind_count")]
    pub fn kinds(&self) -> Vec<KindInfo> {
        (0..)
            .map_while(|index| self.handle.kind(index))
            .map(|(name, description, raw)| KindInfo {
                name: name.to_owned(),
                description: description.to_owned(),
                share: raw.share,
                has_memory: raw.allocate.is_some(),
            })
            .collect()
    }

    /// Adds a kind to the set. The name is formed like an id, the description is one sentence for
    /// people, `share` is what the property `share` begins with.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value) (name malformed or taken),
    /// [`NoMemory`](crate::ErrorKind::NoMemory). The kind is dropped.
    #[doc(alias = "hostmem_objects_register_kind")]
    pub fn register_kind(
        &self,
        name: &str,
        description: &str,
        share: bool,
        kind: impl Kind,
    ) -> Result<()> {
        let functions = Box::new(KindRecord(kind));
        self.handle
            .register_kind(name, description, share, functions)
    }
}

/// An object that is being configured, of whichever kind.
#[derive(Debug)]
#[non_exhaustive]
pub enum ObjectBuilder {
    /// Of any kind of memory.
    Backend(Builder),
    /// Of the kind `thread-context`.
    ThreadContext(ThreadContextBuilder),
}

/// A kind of backend, as a set lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KindInfo {
    /// As in an option string, e.g. `memory-backend-ram`.
    pub name: String,
    /// One sentence for people.
    pub description: String,
    /// What the property `share` begins with.
    pub share: bool,
    /// Whether its backends have memory; those of a kind without complete empty.
    pub has_memory: bool,
}

/// Defaults for properties that the embedder decides for all its backends, as a machine type does.
///
/// ```
/// let mut defaults = hostmem::Defaults::default();
/// defaults.prealloc = true;
/// ```
#[doc(alias = "hostmem_defaults")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Defaults {
    /// Whether identical pages may be merged by the kernel.
    pub merge: bool,
    /// Whether memory is part of a core dump.
    pub dump: bool,
    /// Whether memory is populated while completing.
    pub prealloc: bool,
    /// Threads that preallocate; `None`: as many as there are usable CPUs.
    pub prealloc_threads: Option<NonZeroU32>,
}

impl Defaults {
    /// QEMU's: merge on, dump on, no preallocation.
    pub fn qemu() -> Self {
        Self {
            merge: true,
            ..Self::default()
        }
    }

    pub(crate) fn to_raw(self) -> sys::hostmem_defaults {
        let Self {
            merge,
            dump,
            prealloc,
            prealloc_threads,
        } = self;
        sys::hostmem_defaults {
            merge,
            dump,
            prealloc,
            prealloc_threads: prealloc_threads.map_or(0, NonZeroU32::get),
        }
    }
}

/// Merge off, since who shares pages with others can be watched by them; dump on, no preallocation.
impl Default for Defaults {
    fn default() -> Self {
        Self {
            merge: false,
            dump: true,
            prealloc: false,
            prealloc_threads: None,
        }
    }
}

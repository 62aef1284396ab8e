// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sets of objects: ids, kinds, defaults.

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

/// A set of backends and thread-contexts with unique ids, the kinds of backends, and the defaults
/// of new backends.
///
/// Its objects may outlive it.
#[doc(alias = "hostmem_objects")]
#[derive(Debug)]
pub struct Objects {
    handle: ObjectsHandle,
}

impl Objects {
    pub(crate) fn handle(&self) -> &ObjectsHandle {
        &self.handle
    }

    /// Makes an empty set.
    ///
    /// # Errors
    ///
    /// [`NoMemory`](crate::ErrorKind::NoMemory).
    #[doc(alias = "hostmem_objects_new")]
    pub fn new(host: &Host, defaults: &Defaults) -> Result<Self> {
        Self::with_compat(host, defaults, &[])
    }

    /// Makes an empty set with compat values, the defaults of an old machine type. Each is a kind,
    /// a property and a value as text; they are applied to each new object of the kind, in order.
    ///
    /// A compat value is checked when it is applied: creating an object fails if its kind does not
    /// have the property or the property does not accept the value.
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

    /// Makes a backend of a kind, in state configuring. The id is a letter followed by letters,
    /// digits, `-`, `.`, `_`; at most 128 bytes; unique in the set.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value) (id malformed or taken, kind unknown or abstract, bad
    /// compat value), [`UnknownProperty`](crate::ErrorKind::UnknownProperty) (compat value),
    /// [`NoMemory`](crate::ErrorKind::NoMemory).
    #[doc(alias = "hostmem_backend_new")]
    pub fn builder(&self, kind: &str, id: &str) -> Result<Builder> {
        let handle = self.handle.new_backend(kind, Some(id))?;
        Ok(Builder::from_handle(handle))
    }

    /// Makes a backend without choosing an id: it gets one that is free in the set,
    /// `anonymous-NUMBER`. [`Builder::label`] sets what messages call it.
    ///
    /// # Errors
    ///
    /// Those of [`builder`](Objects::builder) but those for the id.
    #[doc(alias = "hostmem_backend_new")]
    pub fn builder_anonymous(&self, kind: &str) -> Result<Builder> {
        let handle = self.handle.new_backend(kind, None)?;
        Ok(Builder::from_handle(handle))
    }

    /// Makes a backend from an option string, `kind,id=ID,property=value,...`, in the grammar of
    /// QEMU's `-object`: `,,` is a comma inside a value; a repeated key is an error, except for
    /// sets, which are joined. A boolean property without a value is on, and off with `no` before
    /// its name, with a [warning](Builder::warnings); any other key without a value is an error.
    /// Without an id it gets one, as by [`builder_anonymous`](Objects::builder_anonymous). Paths may be in any encoding.
    ///
    /// # Errors
    ///
    /// Those of [`builder`](Objects::builder) and [`Builder::set`]; the id is free then.
    #[doc(alias = "hostmem_backend_new_from_options")]
    pub fn parse(&self, options: impl AsRef<OsStr>) -> Result<Builder> {
        self.handle
            .new_backend_from_options(options.as_ref())
            .map(Builder::from_handle)
    }

    /// Makes a thread-context, in state configuring. The rules for the id are those of
    /// [`builder`](Objects::builder).
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

    /// Makes a backend or a thread-context from an option string, in the grammar of
    /// [`parse`](Objects::parse).
    ///
    /// # Errors
    ///
    /// Those of [`parse`](Objects::parse) and [`ThreadContextBuilder::set`]; the id is free then.
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

    /// The kinds of backends: the built-in ones in alphabetical order, then the registered ones in
    /// order of registration.
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

    /// Adds a kind to the set. The rules for the name are those for an id. The description is one
    /// sentence for people. `share` is the default of the property `share`.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value) (name malformed, or taken, as `memory-backend` and
    /// `thread-context` are), [`NoMemory`](crate::ErrorKind::NoMemory). The kind is dropped.
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

/// A backend or a thread-context being configured.
#[derive(Debug)]
#[non_exhaustive]
pub enum ObjectBuilder {
    /// A backend of any kind.
    Backend(Builder),
    /// A thread-context.
    ThreadContext(ThreadContextBuilder),
}

/// A kind of backend in a set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KindInfo {
    /// The name, as in an option string, e.g. `memory-backend-ram`.
    pub name: String,
    /// One sentence for people.
    pub description: String,
    /// The default of the property `share`.
    pub share: bool,
    /// Whether its backends have memory.
    pub has_memory: bool,
}

/// Defaults of properties for all backends of a set, as a machine type defines them.
///
/// ```
/// let mut defaults = hostmem::Defaults::default();
/// defaults.prealloc = true;
/// ```
#[doc(alias = "hostmem_defaults")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Defaults {
    /// Whether the kernel may merge identical pages (KSM).
    pub merge: bool,
    /// Whether core dumps include the memory.
    pub dump: bool,
    /// Whether completing populates the memory.
    pub prealloc: bool,
    /// Whether the property `fd` accepts the number of a descriptor, in [`Builder::set`] and in option
    /// strings, as a command line has to give it. By then the number may be that of a file which
    /// other code of the process has open; [`Builder::fd`] always works. Off unless set, also in
    /// [`qemu`](Defaults::qemu).
    pub fd_by_number: bool,
    /// The number of preallocation threads; `None`: the number of usable CPUs.
    pub prealloc_threads: Option<NonZeroU32>,
}

impl Defaults {
    /// QEMU's defaults: merge on, dump on, no preallocation.
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
            fd_by_number,
            prealloc_threads,
        } = self;
        sys::hostmem_defaults {
            merge,
            dump,
            prealloc,
            fd_by_number,
            prealloc_threads: prealloc_threads.map_or(0, NonZeroU32::get),
        }
    }
}

/// Merge off, since merged pages are a side channel between guests; dump on, no preallocation.
impl Default for Defaults {
    fn default() -> Self {
        Self {
            merge: false,
            dump: true,
            prealloc: false,
            fd_by_number: false,
            prealloc_threads: None,
        }
    }
}

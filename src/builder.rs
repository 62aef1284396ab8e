// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Backends being configured.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use crate::error::Failed;
use crate::handle::BackendHandle;
use crate::Backend;
use crate::Defaults;
use crate::Error;
use crate::Host;
use crate::Interrupter;
use crate::Objects;
use crate::Origin;
use crate::Policy;
use crate::PreallocMode;
use crate::Progress;
use crate::Reserve;
use crate::Result;
use crate::Rom;
use crate::Thp;
use crate::Value;

/// A backend in state [configuring](crate::State::Configuring), without memory: set its properties,
/// then [`complete`](Builder::complete) it.
///
/// [`set`](Builder::set) sets a property by name and returns its error. The methods named after
/// properties can be chained; `complete` returns the first error of the chain. Each value is
/// checked when it is set, combinations of values are checked by `complete`.
///
/// Dropping it frees its id.
#[doc(alias = "hostmem_backend")]
pub struct Builder {
    handle: Arc<BackendHandle>,
    /// The first error of the chain.
    deferred: Option<Error>,
}

impl Builder {
    pub(crate) fn from_handle(handle: Arc<BackendHandle>) -> Self {
        Self {
            handle,
            deferred: None,
        }
    }

    /// What it configures, or the first error of its chain.
    pub(crate) fn into_handle(self) -> Result<Arc<BackendHandle>> {
        match self.deferred {
            Some(error) => Err(error),
            None => Ok(self.handle),
        }
    }

    /// Makes a builder in a new set with [`Defaults::default`], after probing the host.
    ///
    /// # Errors
    ///
    /// Those of [`Host::probe`] and [`Objects::builder`].
    pub fn new(kind: &str, id: &str) -> Result<Self> {
        Objects::new(&Host::probe()?, &Defaults::default())?.builder(kind, id)
    }

    /// Sets a property. A descriptor is set by [`fd`](Builder::fd); by its number only where
    /// [`Defaults::fd_by_number`] allows it.
    ///
    /// # Errors
    ///
    /// The old value stays: [`UnknownProperty`](crate::ErrorKind::UnknownProperty),
    /// [`Type`](crate::ErrorKind::Type), [`Value`](crate::ErrorKind::Value),
    /// [`NoMemory`](crate::ErrorKind::NoMemory).
    #[doc(alias = "hostmem_backend_set_text")]
    #[doc(alias = "hostmem_backend_set_bool")]
    #[doc(alias = "hostmem_backend_set_number")]
    #[doc(alias = "hostmem_backend_set_list")]
    pub fn set(&mut self, property: &str, value: impl Into<Value>) -> Result<()> {
        value.into().set(&self.handle, property)
    }

    fn with(mut self, property: &str, value: impl Into<Value>) -> Self {
        if let Err(error) = self.set(property, value) {
            self.deferred.get_or_insert(error);
        }
        self
    }

    /// What messages call the backend: any text of 1 to 128 bytes, as for names that are not ids.
    /// The id unless set.
    #[doc(alias = "hostmem_backend_set_label")]
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        if let Err(error) = self.handle.set_label(label) {
            self.deferred.get_or_insert(error);
        }
        self
    }

    /// The size in bytes; a multiple of the backing's page size. Required.
    #[must_use]
    pub fn size(self, bytes: u64) -> Self {
        self.with("size", bytes)
    }

    /// Whether the mapping is shared: writes are visible in other mappings of the descriptor.
    #[must_use]
    pub fn share(self, on: bool) -> Self {
        self.with("share", on)
    }

    /// Whether the kernel reserves swap space or huge pages for all of the memory when it is
    /// mapped: a [`Reserve`], or a `bool`.
    #[must_use]
    pub fn reserve(self, reserve: impl Into<Reserve>) -> Self {
        self.with("reserve", reserve.into())
    }

    /// Whether the kernel may merge identical pages (KSM).
    #[must_use]
    pub fn merge(self, on: bool) -> Self {
        self.with("merge", on)
    }

    /// Whether core dumps include the memory.
    #[must_use]
    pub fn dump(self, on: bool) -> Self {
        self.with("dump", on)
    }

    /// Whether `complete` populates all of the memory.
    #[must_use]
    pub fn prealloc(self, on: bool) -> Self {
        self.with("prealloc", on)
    }

    /// Whether `complete` waits for the preallocation or returns while it runs in the background;
    /// see [`Backend::wait_prealloc`].
    #[must_use]
    pub fn prealloc_mode(self, mode: PreallocMode) -> Self {
        self.with("prealloc-mode", mode)
    }

    /// The number of preallocation threads, at least 1. Default: the number of usable CPUs.
    #[must_use]
    pub fn prealloc_threads(self, threads: u32) -> Self {
        self.with("prealloc-threads", threads)
    }

    /// Whether preallocation stops with an error before memory, or room on the file system, runs
    /// out; on by default. When it is off, a shortage of memory is left to the kernel's OOM killer.
    #[must_use]
    pub fn prealloc_watch(self, on: bool) -> Self {
        self.with("prealloc-watch", on)
    }

    /// The raw image that the memory begins with: a regular file or a block device, read from its
    /// begin or from [`contents_offset`](Builder::contents_offset) on. It has at most the size of
    /// the memory; where it is shorter the rest is zero.
    ///
    /// With [`prealloc`](Builder::prealloc) it is read before completing returns. With
    /// [`PreallocMode::Background`](crate::PreallocMode::Background) it is read after that, and
    /// what is touched is read first. Without `prealloc` only what is touched is read, on demand.
    /// The last two need another kind than `memory-backend-file`, and a userfaultfd for faults of
    /// the kernel (the feature `userfaultfd-kvm` of [`Host::features`](crate::Host::features)).
    ///
    /// Not for `memory-backend-fd`, and of `memory-backend-file` only with a new or empty file.
    #[must_use]
    pub fn contents(self, path: impl AsRef<Path>) -> Self {
        self.with("contents", path.as_ref())
    }

    /// The offset in the image of [`contents`](Builder::contents) where the memory begins, in
    /// bytes; a multiple of the base page size.
    #[must_use]
    pub fn contents_offset(self, bytes: u64) -> Self {
        self.with("contents-offset", bytes)
    }

    /// A text file of the ranges of [`contents`](Builder::contents) that the background reads
    /// first, as [`Claim::faulted`](crate::Claim::faulted) of an earlier guest gives them: a line
    /// `OFFSET LENGTH` for each, in bytes of the memory, in decimal. Completing fails with
    /// [`Value`](crate::ErrorKind::Value) where it is not a regular file, has another line, or
    /// names a range that is not inside the memory.
    #[must_use]
    pub fn contents_order(self, path: impl AsRef<Path>) -> Self {
        self.with("contents-order", path.as_ref())
    }

    /// Whether a touch of [`contents`](Builder::contents) that cannot be read on demand raises
    /// `SIGBUS` (as for broken hardware), in a guest a machine check, instead of waiting for
    /// [`Claim::retry_contents`](crate::Claim::retry_contents). Off by default; needs Linux 6.6.
    #[must_use]
    pub fn contents_poison(self, on: bool) -> Self {
        self.with("contents-poison", on)
    }

    /// The id of a [`ThreadContext`](crate::ThreadContext) in the same set, which creates the
    /// preallocation threads. It has to be complete when preallocation starts.
    #[must_use]
    pub fn prealloc_context(self, id: &str) -> Self {
        self.with("prealloc-context", id)
    }

    /// The NUMA policy and its host nodes: sets `policy` and replaces `host-nodes`. Node ids are
    /// below 1024.
    #[must_use]
    pub fn policy(self, policy: Policy, nodes: &[u32]) -> Self {
        self.with("policy", policy).with("host-nodes", nodes)
    }

    /// The node that is preferred among the host nodes, with [`Policy::Bind`] or
    /// [`Policy::PreferredMany`]. Linux 5.17.
    #[must_use]
    pub fn home_node(self, node: u32) -> Self {
        self.with("home-node", node)
    }

    /// Use of transparent huge pages.
    #[must_use]
    pub fn thp(self, thp: Thp) -> Self {
        self.with("thp", thp)
    }

    /// Whether the memory is locked (never swapped out); limited by `RLIMIT_MEMLOCK`.
    #[must_use]
    pub fn lock(self, on: bool) -> Self {
        self.with("lock", on)
    }

    /// The file to map, or a directory in which to create an unnamed temporary file. A missing file
    /// is created and grown to the size; a file that is not empty keeps its size. The path may be
    /// in any encoding. Required by `memory-backend-file`.
    #[must_use]
    pub fn mem_path(self, path: impl AsRef<Path>) -> Self {
        self.with("mem-path", path.as_ref())
    }

    /// The offset of the memory in the file or descriptor, in bytes; a multiple of the backing's
    /// page size. For `memory-backend-file` and `memory-backend-fd`.
    #[must_use]
    pub fn offset(self, bytes: u64) -> Self {
        self.with("offset", bytes)
    }

    /// The alignment of the memory's address in bytes, a power of two; 0: large enough for huge
    /// pages. For `memory-backend-file`.
    #[must_use]
    pub fn align(self, bytes: u64) -> Self {
        self.with("align", bytes)
    }

    /// Whether the file is opened read-only, or the descriptor is used as if it were. For
    /// `memory-backend-file` and `memory-backend-fd`.
    #[must_use]
    pub fn readonly(self, on: bool) -> Self {
        self.with("readonly", on)
    }

    /// Whether the memory is mapped read-only. For `memory-backend-file` and `memory-backend-fd`.
    #[must_use]
    pub fn rom(self, rom: Rom) -> Self {
        self.with("rom", rom)
    }

    /// Whether deleting the backend discards the contents of a shared, writable file. For
    /// `memory-backend-file`.
    #[must_use]
    pub fn discard_data(self, on: bool) -> Self {
        self.with("discard-data", on)
    }

    /// Whether the file is persistent memory, mapped with `MAP_SYNC`. Needs
    /// [`share`](Builder::share) and a file system with DAX. For `memory-backend-file`.
    #[must_use]
    pub fn pmem(self, on: bool) -> Self {
        self.with("pmem", on)
    }

    /// Whether the memory uses huge pages from the host's pool. For `memory-backend-memfd`
    /// and `-ram`.
    #[must_use]
    pub fn hugetlb(self, on: bool) -> Self {
        self.with("hugetlb", on)
    }

    /// Whether [`mem_path`](Builder::mem_path) has to be on a hugetlbfs; completing fails where it
    /// is not. Off by default. For `memory-backend-file`.
    #[must_use]
    pub fn hugetlbfs(self, on: bool) -> Self {
        self.with("hugetlbfs", on)
    }

    /// Whether an inaccessible page is kept on each side of the memory. On by default; off saves
    /// two of the mappings that a process may have (`vm.max_map_count`).
    #[must_use]
    pub fn guard(self, on: bool) -> Self {
        self.with("guard", on)
    }

    /// The size of the huge pages in bytes, one that the host supports; 0: the host's default. Only
    /// with [`hugetlb`](Builder::hugetlb). The property `hugetlbsize`. For `memory-backend-memfd`
    /// and `-ram`.
    #[must_use]
    pub fn hugetlb_size(self, bytes: u64) -> Self {
        self.with("hugetlbsize", bytes)
    }

    /// Whether the size of the memfd is sealed. If off, it is only sealed against further seals.
    /// For `memory-backend-memfd`.
    #[must_use]
    pub fn seal(self, on: bool) -> Self {
        self.with("seal", on)
    }

    /// The descriptor to map. It is duplicated before this returns, so the caller may close it.
    /// Required by `memory-backend-fd`.
    #[must_use]
    pub fn fd(mut self, fd: impl AsFd) -> Self {
        if let Err(error) = self.handle.set_fd("fd", fd.as_fd()) {
            self.deferred.get_or_insert(error);
        }
        self
    }

    /// Sets the progress callback of preallocations; its arguments are the bytes done and the bytes
    /// in total. It is called on the thread that started the preallocation, in the background on a
    /// thread of the library with 256 KiB of stack: at most every 100 ms, and once at the end if
    /// the preallocation succeeds. If it panics, the panic is caught and it is not called again.
    ///
    /// The callback lives as long as the backend. If it owns the backend or a claim on it, neither
    /// is ever freed.
    #[doc(alias = "hostmem_backend_set_progress")]
    #[must_use]
    pub fn on_progress(self, callback: impl FnMut(u64, u64) + Send + 'static) -> Self {
        self.handle.set_progress(Box::new(callback));
        self
    }

    /// Sets the completion callback of background preallocations; its arguments are the result and
    /// the final progress. It is called on a thread of the library, also after a cancellation,
    /// which is a failure. It is also called for a read of [contents](Builder::contents) on demand
    /// that fails while no background runs: the first one, and the first after each
    /// [retry](crate::Claim::retry_contents).
    ///
    /// It must not wait for threads that touch the memory. It may drop the backend; waiting for the
    /// preallocation, deleting the backend and starting another preallocation are
    /// [`Busy`](crate::ErrorKind::Busy) there. If it panics, the panic is caught and it is not
    /// called again.
    ///
    /// Dropping or deleting a backend waits for its callbacks to return. Callbacks of two backends
    /// that drop or delete each other's backend deadlock.
    ///
    /// The callback lives as long as the backend; see [`on_progress`](Builder::on_progress).
    #[doc(alias = "hostmem_backend_set_prealloc_done")]
    #[must_use]
    pub fn on_prealloc_done(
        self,
        mut callback: impl FnMut(Result<()>, Progress) + Send + 'static,
    ) -> Self {
        let callback = move |result, done, total| callback(result, Progress::new(done, total));
        self.handle.set_prealloc_done(Box::new(callback));
        self
    }

    /// Stops preallocations of this backend from other threads, also while it completes.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter::new(&self.handle)
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
    /// [`get`](Builder::get) returns the exact path.
    ///
    /// # Errors
    ///
    /// [`UnknownProperty`](crate::ErrorKind::UnknownProperty).
    #[doc(alias = "hostmem_backend_get_text")]
    pub fn get_text(&self, property: &str) -> Result<String> {
        self.handle.view().get_text(property)
    }

    /// Warnings: properties that were given in a deprecated form, or that have no effect.
    #[doc(alias = "hostmem_backend_get_warning")]
    pub fn warnings(&self) -> Vec<String> {
        self.handle.view().warnings()
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

    /// Checks the configuration, then allocates, maps, advises, binds and preallocates the memory.
    ///
    /// # Errors
    ///
    /// The error contains the builder with its properties unchanged; it can be modified and
    /// completed again. If a method of the chain failed, its error, which is then cleared, and
    /// nothing is done. Otherwise everything is undone: [`Value`](crate::ErrorKind::Value),
    /// [`Unsupported`](crate::ErrorKind::Unsupported), [`NoMemory`](crate::ErrorKind::NoMemory),
    /// [`Io`](crate::ErrorKind::Io).
    #[doc(alias = "hostmem_backend_complete")]
    pub fn complete(mut self) -> Result<Backend, CompleteError> {
        let result = match self.deferred.take() {
            Some(error) => Err(error),
            None => self.handle.complete(),
        };
        match result {
            Ok(()) => Ok(Backend::from_handle(self.handle)),
            Err(error) => Err(Failed::new(self, error)),
        }
    }

    /// Completes several backends together, all or none. First all memory is mapped and bound, then
    /// it is preallocated by one thread pool for each set of CPUs that the threads have to run on.
    /// A pool has the largest number of threads that one of its backends may have. Time and threads
    /// in [`Backend::prealloc_result`] are those of the whole pool.
    ///
    /// # Errors
    ///
    /// Those of [`complete`](Builder::complete); the message names the backend. No backend is
    /// completed, and the error contains all builders in their order.
    #[doc(alias = "hostmem_backend_complete_all")]
    pub fn complete_all(mut builders: Vec<Self>) -> Result<Vec<Backend>, CompleteAllError> {
        let deferred = builders
            .iter_mut()
            .find_map(|builder| builder.deferred.take());
        let result = match deferred {
            Some(error) => Err(error),
            None => {
                let handles: Vec<_> = builders.iter().map(|builder| &*builder.handle).collect();
                BackendHandle::complete_all(&handles)
            }
        };
        match result {
            Ok(()) => Ok(builders
                .into_iter()
                .map(|builder| Backend::from_handle(builder.handle))
                .collect()),
            Err(error) => Err(Failed::new(builders, error)),
        }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("id", &self.id())
            .field("kind", &self.kind())
            .field("deferred", &self.deferred)
            .finish_non_exhaustive()
    }
}

/// Why a backend could not be completed, and its unchanged builder.
pub type CompleteError = Failed<Builder>;

/// Why several backends could not be completed together, and their unchanged builders, in their
/// order. The message names the backend that failed.
pub type CompleteAllError = Failed<Vec<Builder>>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::BackendHandle;
    use crate::sys;
    use crate::ErrorKind;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::sync::Mutex;

    const SIZE: u64 = 256 * 1024;

    fn builder() -> Builder {
        Builder::new("memory-backend-ram", "ram0").unwrap()
    }

    #[test]
    fn set_answers_at_once() {
        let mut builder = builder();
        let error = builder.set("no-such", true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownProperty);
        let error = builder.set("size", true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Type);
        let error = builder.set("size", "1MB").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        let error = builder.set("size", "1\0").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        builder.set("size", "256K").unwrap();
        assert_eq!(builder.get("size").unwrap(), Value::Number(SIZE));
        assert_eq!(builder.get_text("size").unwrap(), "262144");
        assert_eq!(builder.origin("size").unwrap(), Origin::User);
        assert_eq!(builder.origin("dump").unwrap(), Origin::Default);
    }

    #[test]
    fn what_was_set_is_read() {
        let builder = builder()
            .size(SIZE)
            .share(true)
            .reserve(false)
            .merge(true)
            .dump(false)
            .prealloc(true)
            .prealloc_threads(3)
            .policy(Policy::Bind, &[3, 0, 1023])
            .home_node(3)
            .thp(Thp::Never)
            .contents("/no/such")
            .contents_offset(8192)
            .contents_order("/no/order")
            .contents_poison(true)
            .lock(true);
        assert_eq!(builder.deferred, None);
        let values: [(&str, Value); 16] = [
            ("contents", Path::new("/no/such").into()),
            ("contents-offset", 8192u64.into()),
            ("contents-poison", true.into()),
            ("contents-order", Path::new("/no/order").into()),
            ("size", SIZE.into()),
            ("share", true.into()),
            ("reserve", false.into()),
            ("merge", true.into()),
            ("dump", false.into()),
            ("prealloc", true.into()),
            ("prealloc-threads", 3u32.into()),
            ("policy", Policy::Bind.into()),
            ("host-nodes", [0, 3, 1023].into()),
            ("home-node", 3u32.into()),
            ("thp", Thp::Never.into()),
            ("lock", true.into()),
        ];
        for (name, value) in values {
            assert_eq!(builder.get(name).unwrap(), value, "{name}");
        }
    }

    #[test]
    fn what_was_set_on_other_kinds_is_read() {
        let of = |kind| Builder::new(kind, "ram0").unwrap();
        let file = of("memory-backend-file")
            .mem_path("/no/such")
            .offset(8192)
            .align(1 << 30)
            .readonly(true)
            .rom(Rom::Off)
            .discard_data(true)
            .pmem(true)
            .hugetlbfs(true)
            .guard(false);
        let memfd = of("memory-backend-memfd")
            .hugetlb(true)
            .hugetlb_size(2 << 20)
            .seal(false);
        let fd = of("memory-backend-fd").offset(4096).readonly(true);
        let values: [(&Builder, &str, Value); 14] = [
            (&file, "mem-path", Path::new("/no/such").into()),
            (&file, "offset", 8192u64.into()),
            (&file, "align", (1u64 << 30).into()),
            (&file, "readonly", true.into()),
            (&file, "rom", Rom::Off.into()),
            (&file, "discard-data", true.into()),
            (&file, "pmem", true.into()),
            (&file, "hugetlbfs", true.into()),
            (&file, "guard", false.into()),
            (&memfd, "hugetlb", true.into()),
            (&memfd, "hugetlbsize", (2u64 << 20).into()),
            (&memfd, "seal", false.into()),
            (&fd, "offset", 4096u64.into()),
            (&fd, "readonly", true.into()),
        ];
        for (builder, name, value) in values {
            assert_eq!(builder.deferred, None);
            assert_eq!(builder.get(name).unwrap(), value, "{name}");
        }
        let failed = memfd.mem_path("/no/such").complete().unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::UnknownProperty);
    }

    #[test]
    fn a_path_is_any_bytes() {
        let bytes = b"/no/such/\xff\xfe,\xc3\xa9 =\n";
        let path = Path::new(OsStr::from_bytes(bytes));
        let of = || Builder::new("memory-backend-file", "ram0").unwrap();
        let mut builders = [of().mem_path(path), of(), of()];
        builders[1].set("mem-path", path).unwrap();
        let options = b"memory-backend-file,id=ram1,mem-path=/no/such/\xff\xfe,,\xc3\xa9 =\n";
        let objects = Objects::new(&Host::probe().unwrap(), &Defaults::default()).unwrap();
        builders[2] = objects.parse(OsStr::from_bytes(options)).unwrap();
        for builder in &builders {
            assert_eq!(builder.get("mem-path").unwrap(), path.into());
            let text = builder.get_text("mem-path").unwrap();
            assert_eq!(text, String::from_utf8_lossy(bytes));
        }

        let error = builders[0].set("mem-path", Path::new("a\0b")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        let long = Path::new("/").join("x".repeat(4095));
        let error = builders[0].set("mem-path", long).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        assert_eq!(builders[0].get("mem-path").unwrap(), path.into());
        let longest = Path::new("/").join("x".repeat(4094));
        builders[0].set("mem-path", longest.as_path()).unwrap();
        assert_eq!(builders[0].get("mem-path").unwrap(), longest.into());
    }

    #[test]
    fn a_descriptor_is_duplicated() {
        let of = || Builder::new("memory-backend-fd", "ram0").unwrap();
        let maker = Builder::new("memory-backend-memfd", "ram1").unwrap();
        let maker = maker.size(SIZE).complete().unwrap();
        let claim = maker.claim("test").unwrap();
        let fd = claim.memory().fd().unwrap().try_clone_to_owned().unwrap();

        let builder = of().fd(&fd);
        drop(fd);
        assert_eq!(builder.deferred, None);
        assert!(matches!(builder.get("fd"), Ok(Value::Number(_))));
        let backend = builder.size(SIZE).complete().unwrap();
        assert!(backend.claim("test").unwrap().memory().is_shared());
        assert_eq!(of().get("fd").unwrap(), "none".into());
    }

    #[test]
    fn what_is_no_descriptor_is_refused() {
        let mut builder = Builder::new("memory-backend-fd", "ram0").unwrap();
        for text in ["-1", "one", ""] {
            let error = builder.set("fd", text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Value, "{error}");
        }
        let error = builder.set("fd", true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Type, "{error}");
    }

    #[test]
    fn every_value_can_be_set_again() {
        let objects = Objects::new(&Host::probe().unwrap(), &Defaults::default()).unwrap();
        for kind in objects.kinds() {
            let mut builder = objects.builder(&kind.name, "ram0").unwrap();
            for property in crate::properties() {
                let name = property.name();
                let Ok(value) = builder.get(name) else {
                    let kinds = property.kinds().unwrap();
                    assert!(!kinds.contains(&kind.name.as_str()), "{name}");
                    continue;
                };
                let text = builder.get_text(name).unwrap();
                // A size that was never set is no size to set.
                if name != "size" {
                    builder.set(name, value.clone()).unwrap();
                }
                // An empty set is set as a list only.
                if name != "size" && value != Value::List(Vec::new()) {
                    builder.set(name, text).unwrap();
                }
                assert_eq!(builder.get(name).unwrap(), value, "{name}");
            }
            assert_eq!(builder.get("home-node").unwrap(), "none".into());
        }
    }

    #[test]
    fn the_first_error_of_a_chain_is_the_one_returned() {
        let failed = builder()
            .size(SIZE)
            .prealloc_threads(0)
            .home_node(1024)
            .complete()
            .unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Value);
        let message = failed.to_string();
        assert!(message.contains("prealloc-threads"), "{message}");
        assert_eq!(message, failed.error.to_string());
        // What main() prints of the error it returns.
        assert_eq!(message, format!("{failed:?}"));
        // It is forgotten.
        failed.object.complete().unwrap();
    }

    #[test]
    fn a_builder_that_comes_back_can_be_completed() {
        let failed = builder().complete().unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Value);
        assert!(failed.error.to_string().contains("size"), "{failed}");
        let backend = failed.object.size(SIZE).complete().unwrap();
        assert_eq!(backend.get_text("size").unwrap(), SIZE.to_string());
    }

    #[test]
    fn progress_ends_at_the_total() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let report = Arc::clone(&seen);
        let backend = builder()
            .size(SIZE)
            .prealloc(true)
            .on_progress(move |done, total| report.lock().unwrap().push((done, total)))
            .complete()
            .unwrap();
        let progress = backend.progress();
        assert_eq!((progress.done, progress.total), (SIZE, SIZE));
        assert_eq!(seen.lock().unwrap().last(), Some(&(SIZE, SIZE)));
        let result = backend.prealloc_result().unwrap();
        assert_eq!(result.bytes, SIZE);
        assert!(result.threads >= 1);
        drop(backend);
        // The callback went with the backend.
        assert_eq!(Arc::strong_count(&seen), 1);
    }

    #[test]
    fn a_panic_in_the_progress_callback_does_no_harm() {
        let backend = builder()
            .size(SIZE)
            .prealloc(true)
            .on_progress(|_, _| panic!("from the callback"))
            .complete()
            .unwrap();
        assert_eq!(backend.progress().done, SIZE);
    }

    #[test]
    fn nothing_was_preallocated_unless_asked_for() {
        let backend = builder().size(SIZE).complete().unwrap();
        assert_eq!(backend.prealloc_result(), None);
        assert_eq!(backend.progress(), crate::Progress::default());
        assert_eq!(backend.placement().unwrap().resident, 0);
        backend.set("prealloc", true).unwrap();
        assert_eq!(backend.placement().unwrap().resident, SIZE);
    }

    /// C callers can free a backend whose discard is inhibited; Rust's types prevent that.
    #[test]
    fn what_inhibits_discard_ends_with_the_backend() {
        let set = Objects::new(&Host::probe().unwrap(), &Defaults::default()).unwrap();
        let make = || {
            set.builder("memory-backend-ram", "ram0")
                .unwrap()
                .size(SIZE)
        };
        let builder = make();
        builder.handle.complete().unwrap();
        for name in [c"vfio-net0", c"vfio-net0", c"vfio-net1"] {
            builder.handle.inhibit_discard(name).unwrap();
        }
        let error = builder.handle.delete().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        drop(builder);
        // The id was given back.
        make().complete().unwrap();
    }

    /// Runs `check` in the progress callback of a preallocation that `run` starts.
    fn while_preallocating(
        builder: Builder,
        run: impl FnOnce(&BackendHandle),
        check: impl Fn(&BackendHandle) + Send + 'static,
    ) {
        let calls = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&calls);
        let handle = Arc::clone(&builder.handle);
        let weak = Arc::downgrade(&handle);
        // A panic in the callback is caught, so what counts is that its end is reached.
        let _builder = builder.on_progress(move |_, _| {
            check(&weak.upgrade().unwrap());
            *counted.lock().unwrap() += 1;
        });
        run(&handle);
        assert!(*calls.lock().unwrap() > 0, "the callback got to its end");
    }

    #[test]
    fn nothing_happens_to_a_backend_that_is_completing() {
        let builder = builder().size(SIZE).prealloc(true);
        let run = |handle: &BackendHandle| handle.complete().unwrap();
        while_preallocating(builder, run, |handle| {
            let kind = |result: Result<()>| result.unwrap_err().kind();
            assert_eq!(
                handle.view().state(),
                sys::hostmem_state::HOSTMEM_STATE_COMPLETING
            );
            assert_eq!(kind(handle.complete()), ErrorKind::Busy);
            assert_eq!(kind(handle.delete()), ErrorKind::Busy);
            assert_eq!(kind(handle.wait_prealloc(0)), ErrorKind::Busy);
            assert_eq!(kind(handle.cancel_prealloc()), ErrorKind::Busy);
            assert_eq!(kind(handle.view().can_be_deleted()), ErrorKind::Busy);
            assert_eq!(kind(handle.discard(0, SIZE)), ErrorKind::State);
            assert_eq!(kind(handle.populate(0, SIZE)), ErrorKind::State);
            for property in crate::properties().map(|property| property.name()) {
                if handle.view().origin(property).is_err() {
                    // Of another kind.
                    continue;
                }
                let text = match property {
                    "size" => "1M".into(),
                    "host-nodes" => "0".into(),
                    _ => handle.view().get_text(property).unwrap(),
                };
                assert_eq!(kind(handle.set_text(property, &text)), ErrorKind::State);
            }
            assert_eq!(handle.view().get_number("size").unwrap(), SIZE);
            assert_eq!(handle.view().progress(), (SIZE, SIZE));
        });
    }

    #[test]
    fn a_preallocation_of_ready_memory_keeps_out_what_would_disturb_it() {
        let builder = builder().size(SIZE);
        let run = |handle: &BackendHandle| {
            handle.complete().unwrap();
            handle.set_bool("prealloc", true).unwrap();
            handle.delete().unwrap();
        };
        while_preallocating(builder, run, |handle| {
            let kind = |result: Result<()>| result.unwrap_err().kind();
            assert_eq!(kind(handle.delete()), ErrorKind::Busy);
            assert_eq!(kind(handle.wait_prealloc(0)), ErrorKind::Busy);
            assert_eq!(kind(handle.cancel_prealloc()), ErrorKind::Busy);
            assert_eq!(kind(handle.populate(0, SIZE)), ErrorKind::Busy);
            assert_eq!(kind(handle.complete()), ErrorKind::State);
            assert_eq!(kind(handle.set_bool("prealloc", true)), ErrorKind::Busy);
            assert_eq!(kind(handle.set_text("policy", "local")), ErrorKind::Busy);
            // Other operations are allowed.
            handle.discard(0, SIZE).unwrap();
            handle.set_bool("dump", false).unwrap();
            assert!(!handle.view().get_bool("dump").unwrap());
            assert!(!handle.view().get_bool("prealloc").unwrap());
            assert!(handle.view().placement().is_ok());
        });
    }
}

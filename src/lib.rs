// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Host memory backends for virtual machine monitors.
//!
//! Guest RAM is more than an `mmap`: it is bound to NUMA nodes, populated before the guest runs,
//! backed by huge pages, excluded from core dumps and forked children, and stays mapped while it is
//! in use. hostmem does this by named properties, with QEMU's names, and its errors say what to do.
//!
//! ```
//! use hostmem::Builder;
//!
//! # fn main() -> hostmem::Result<()> {
//! let backend = Builder::new("memory-backend-ram", "ram0")?
//!     .size(16 << 20)
//!     .prealloc(true)
//!     .complete()?;
//! let claim = backend.claim("vm0")?;
//! let memory = claim.memory();
//! println!("{} bytes at {:p}", memory.len(), memory.as_ptr());
//! # Ok(())
//! # }
//! ```
//!
//! # Life of a backend
//!
//! ```text
//! Host ──► Objects ──► Builder ──complete()──► Backend ──claim()──► Claim ──► Memory
//! (result of           (properties,            (live properties,    (at most one)
//!  probing)            a failed complete        placement, delete)
//!                      returns it)
//! ```
//!
//! * A [`Host`] is the result of probing the kernel once. An [`Objects`] is a set of backends with
//!   unique ids, kinds and [`Defaults`]. [`Builder::new`] makes both for a single backend.
//! * A [`Builder`] sets properties, by name or by typed methods; [`properties()`] lists them all.
//! * A [`Backend`] has its memory mapped. Some properties can still be changed and take effect at
//!   once.
//! * A [`Claim`] gives access to the memory and keeps it mapped. It is reference-counted; the order
//!   and the threads in which other objects are dropped do not matter. It can be split into
//!   [pieces](Claim::pieces), each at its guest address.
//! * A [`Kind`] is a kind of backend of your own: it provides a descriptor, which the library
//!   checks and maps.
//!
//! # Threads and the process
//!
//! Every function may be called from any thread. The library prints nothing, has no global state,
//! and sets CPU affinity and memory policy on its own threads only.
//!
//! # Features
//!
//! * `bindgen` (default): generate the bindings at build time, which needs libclang; else a
//!   checked-in copy is used.
//! * `numa` (default): NUMA policies; without it any policy but `default` is an error.
//! * `libnuma` (default): make their system calls through libnuma, which is linked; without it they
//!   are made directly, as in static builds.
//! * `vm-memory-018`, `vm-memory-017`: pieces of memory as regions of the crate `vm-memory`, in
//!   that version (0.17 is 0.17.1; 0.17.2 has the types of 0.18): `vm_memory`.
//! * `kvm`: pieces of memory in KVM memory slots: `kvm`.
//! * `vhost`: pieces of memory as the memory table of a vhost-user device: `vhost`.
//! * `pool`: memory from the pool of another process: `pool::take`.
//! * `cli`: the dependencies of the command line program.

#![deny(unsafe_code)]
// Shows at each item which feature it needs; only docs.rs has the nightly toolchain for it.
#![cfg_attr(docsrs, feature(doc_cfg))]

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Compiles the adoption guide's code, and runs it where possible.
#[cfg(all(doctest, feature = "kvm", feature = "vhost", feature = "vm-memory-018"))]
#[doc = include_str!("../docs/adopting.md")]
struct Adopting;

mod backend;
mod builder;
mod claim;
mod error;
mod handle;
mod host;
mod kind;
#[cfg(feature = "kvm")]
pub mod kvm;
mod objects;
mod piece;
mod placement;
mod policy;
pub mod pool;
mod prealloc;
mod property;
mod sys;
mod syscalls;
mod thread_context;
mod topology;
mod value;
#[cfg(feature = "vhost")]
pub mod vhost;
#[cfg(any(feature = "vm-memory-017", feature = "vm-memory-018"))]
pub mod vm_memory;

pub use crate::backend::Backend;
pub use crate::backend::DeleteError;
pub use crate::backend::Interrupter;
pub use crate::backend::State;
pub use crate::builder::Builder;
pub use crate::builder::CompleteAllError;
pub use crate::builder::CompleteError;
pub use crate::claim::Access;
pub use crate::claim::Claim;
pub use crate::claim::DiscardInhibited;
pub use crate::claim::DiscardTo;
pub use crate::claim::Faulted;
pub use crate::claim::Memory;
pub use crate::claim::Saved;
pub use crate::error::Error;
pub use crate::error::ErrorKind;
pub use crate::error::Failed;
pub use crate::error::Result;
pub use crate::host::Calls;
pub use crate::host::Feature;
pub use crate::host::Host;
pub use crate::host::HostInfo;
pub use crate::host::Methods;
pub use crate::kind::Backing;
pub use crate::kind::BackingFd;
pub use crate::kind::Kind;
pub use crate::kind::Request;
pub use crate::kind::Undo;
pub use crate::objects::Defaults;
pub use crate::objects::KindInfo;
pub use crate::objects::ObjectBuilder;
pub use crate::objects::Objects;
pub use crate::piece::Piece;
pub use crate::piece::PieceRange;
pub use crate::placement::Placement;
pub use crate::placement::Satisfied;
pub use crate::policy::MoveFailure;
pub use crate::policy::Policy;
pub use crate::policy::Rebind;
pub use crate::policy::Rebound;
pub use crate::pool::Pool;
pub use crate::pool::PoolStatus;
pub use crate::pool::Taken;
pub use crate::prealloc::PreallocResult;
pub use crate::prealloc::Progress;
pub use crate::property::properties;
pub use crate::property::Origin;
pub use crate::property::Property;
pub use crate::property::PropertyType;
pub use crate::property::Settable;
pub use crate::property::THREAD_CONTEXT;
pub use crate::syscalls::Syscall;
pub use crate::syscalls::SyscallArgument;
pub use crate::syscalls::Use;
pub use crate::thread_context::ThreadContext;
pub use crate::thread_context::ThreadContextBuilder;
pub use crate::thread_context::ThreadContextDeleteError;
pub use crate::thread_context::ThreadContextError;
pub use crate::topology::HugePages;
pub use crate::topology::Node;
pub use crate::topology::Topology;
pub use crate::value::PreallocMode;
pub use crate::value::Reserve;
pub use crate::value::Rom;
pub use crate::value::Thp;
pub use crate::value::Value;

/// The public types are Send and Sync.
const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Host>();
    is_send_and_sync::<Objects>();
    is_send_and_sync::<Builder>();
    is_send_and_sync::<Backend>();
    is_send_and_sync::<Claim>();
    is_send_and_sync::<Memory<'_>>();
    is_send_and_sync::<Piece>();
    is_send_and_sync::<DiscardInhibited>();
    is_send_and_sync::<ThreadContextBuilder>();
    is_send_and_sync::<ThreadContext>();
    is_send_and_sync::<Error>();
    is_send_and_sync::<CompleteError>();
    is_send_and_sync::<DeleteError>();
};

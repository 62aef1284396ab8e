// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Host memory backends for virtual machine monitors.
//!
//! Guest RAM is more than an `mmap`. It has to come from the right NUMA nodes, be there before the
//! guest runs, be made of huge pages where that pays, stay out of core dumps, not be copied into
//! forked children, not be unmapped under a device that uses it, and every failure has to say what
//! to do. hostmem does that behind named properties, called as QEMU calls them.
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
//! (what the kernel     (properties,            (live properties,    (at most one)
//!  can do)             a failed complete        placement, delete)
//!                      gives it back)
//! ```
//!
//! * A [`Host`] is what the kernel can do, asked once. An [`Objects`] is a set of backends with
//!   unique ids, the kinds it can make and the [`Defaults`] it makes them with. [`Builder::new`]
//!   makes both for a single backend.
//! * A [`Builder`] takes properties, by name or typed; [`properties()`] lists them all.
//! * A [`Backend`] has its memory. Some properties can still be changed and act at once.
//! * A [`Claim`] is the only way to the memory. It keeps the memory mapped, whatever else is
//!   dropped, in whatever order and on whichever thread. It can be handed out in
//!   [pieces](Claim::pieces), each for a guest address of its own.
//! * A [`Kind`] is memory that you bring: a descriptor that the library checks and maps.
//!
//! # Threads and the process
//!
//! Everything may be called from any thread. Nothing is printed, no process-wide state is kept or
//! changed, and CPU affinity and memory policy are set on the library's own threads only.
//!
//! # Features
//!
//! * `bindgen` (default): make the bindings at build time, which needs libclang; else a copy
//!   serves.
//! * `numa` (default): link libnuma; without it any policy but `default` is refused.
//! * `vm-memory-018`, `vm-memory-017`: pieces of memory as regions of the crate `vm-memory`, in
//!   that version (the latter for those who pin 0.17.1; 0.17.2 has the types of 0.18): `vm_memory`.
//! * `kvm`: pieces of memory in memory slots of KVM: `kvm`.
//! * `vhost`: pieces of memory as the memory table of a vhost-user device: `vhost`.
//! * `cli`: what the command line program needs.

#![deny(unsafe_code)]
// Says at each item which feature it needs; docs.rs alone has the toolchain for it.
#![cfg_attr(docsrs, feature(doc_cfg))]

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The adoption guide's code compiles, and runs where it can.
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
mod prealloc;
mod property;
mod sys;
mod thread_context;
mod topology;
mod value;
#[cfg(feature = "vhost")]
pub mod vhost;
#[cfg(any(feature = "vm-memory-017", feature = "vm-memory-018"))]
pub mod vm_memory;

pub use crate::backend::Backend;
pub use crate::backend::DeleteError;
pub use crate::backend::State;
pub use crate::builder::Builder;
pub use crate::builder::CompleteAllError;
pub use crate::builder::CompleteError;
pub use crate::claim::Claim;
pub use crate::claim::DiscardInhibited;
pub use crate::claim::Memory;
pub use crate::error::Error;
pub use crate::error::ErrorKind;
pub use crate::error::Failed;
pub use crate::error::Result;
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
pub use crate::prealloc::PreallocResult;
pub use crate::prealloc::Progress;
pub use crate::property::properties;
pub use crate::property::Origin;
pub use crate::property::Property;
pub use crate::property::PropertyType;
pub use crate::property::Settable;
pub use crate::property::THREAD_CONTEXT;
pub use crate::thread_context::ThreadContext;
pub use crate::thread_context::ThreadContextBuilder;
pub use crate::thread_context::ThreadContextDeleteError;
pub use crate::thread_context::ThreadContextError;
pub use crate::topology::HugePages;
pub use crate::topology::Node;
pub use crate::topology::Topology;
pub use crate::value::PreallocMode;
pub use crate::value::Rom;
pub use crate::value::Thp;
pub use crate::value::Value;

/// Everything that holds memory crosses and is shared between threads.
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

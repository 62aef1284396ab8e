// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Owned handles of the C library's objects: the only hand-written unsafe code besides the
//! adapters. Imports `sys` and `error` only.
//!
//! The SAFETY comments rely on these facts:
//!
//! - C copies its inputs, and writes an error only if the call fails.
//! - Every C function may be called from any thread. Only the `_free` functions need exclusive
//!   access; they are called only in `Drop`, so after the last borrow.
//! - A pointer in a handle comes from the C function that made the object and is never replaced.

#![allow(unsafe_code)]

mod backend;
mod call;
mod callback;
mod claim;
mod host;
mod kind;
mod objects;
mod pool;
mod property;
mod thread_context;
mod topology;
mod view;

pub(crate) use backend::BackendHandle;
pub(crate) use call::to_c;
pub(crate) use claim::ClaimHandle;
pub(crate) use host::HostHandle;
pub(crate) use kind::KindFunctions;
pub(crate) use objects::kind_of_options;
pub(crate) use objects::ObjectsHandle;
pub(crate) use pool::PoolHandle;
pub(crate) use property::property;
pub(crate) use property::PropertyRow;
pub(crate) use thread_context::ThreadContextHandle;
pub(crate) use topology::TopologyHandle;
pub(crate) use view::BackendView;

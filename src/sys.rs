// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The C functions and types as bindgen makes them from `c/hostmem.h`. Private.

#![allow(unsafe_code, missing_docs, missing_debug_implementations, dead_code)]
#![allow(non_camel_case_types, non_upper_case_globals)]
#![allow(clippy::all, clippy::undocumented_unsafe_blocks)]

#[cfg(feature = "bindgen")]
include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

#[cfg(not(feature = "bindgen"))]
include!("bindings.rs");

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Compiles the C, links libnuma (feature `numa`) and makes the bindings (feature `bindgen`).

/// Every C file of the library, in alphabetical order.
const SOURCES: &[&str] = &[
    "c/advise.c",
    "c/backend.c",
    "c/background.c",
    "c/cgroup.c",
    "c/check.c",
    "c/complete.c",
    "c/create.c",
    "c/crew.c",
    "c/discard.c",
    "c/error.c",
    "c/fill.c",
    "c/gaps.c",
    "c/host.c",
    "c/inhibit.c",
    "c/judge.c",
    "c/kind_fd.c",
    "c/kind_file.c",
    "c/kind_memfd.c",
    "c/kind_ram.c",
    "c/kind_shm.c",
    "c/life.c",
    "c/live.c",
    "c/map.c",
    "c/numa.c",
    "c/objects.c",
    "c/options.c",
    "c/os.c",
    "c/piece.c",
    "c/placement.c",
    "c/policy.c",
    "c/populate.c",
    "c/populate_touch.c",
    "c/prealloc.c",
    "c/process.c",
    "c/props.c",
    "c/rebind.c",
    "c/snapshot.c",
    "c/table.c",
    "c/text.c",
    "c/thread.c",
    "c/thread_context.c",
    "c/topology.c",
    "c/value.c",
    "c/watch.c",
];
const HEADERS: &[&str] = &["c/hostmem.h", "c/internal.h"];

fn main() {
    for file in SOURCES.iter().chain(HEADERS).chain(&["build.rs"]) {
        println!("cargo:rerun-if-changed={file}");
    }
    compile();
    // After the C, so that the linker meets libnuma behind what needs it.
    #[cfg(feature = "numa")]
    link_libnuma();
    #[cfg(feature = "bindgen")]
    generate_bindings();
    println!("cargo:include={}/c", env!("CARGO_MANIFEST_DIR"));
}

fn compile() {
    let numa = if cfg!(feature = "numa") { "1" } else { "0" };
    cc::Build::new()
        .files(SOURCES)
        .define("_GNU_SOURCE", None)
        .define("HOSTMEM_NUMA", numa)
        .flag("-std=gnu11")
        .flag("-fvisibility=hidden")
        .flag("-pthread")
        .flag("-Werror=implicit-function-declaration")
        // Somebody else's newer compiler may warn; that is not for a user of the crate to read.
        .warnings(false)
        .compile("hostmem");
}

#[cfg(feature = "numa")]
fn link_libnuma() {
    if let Err(error) = pkg_config::Config::new().probe("numa") {
        panic!(
            "libnuma was not found: install libnuma-dev (Debian, Ubuntu) or numactl-devel \
             (Fedora), or build without the feature `numa` \
             (--no-default-features --features bindgen)\n{error}"
        );
    }
}

#[cfg(feature = "bindgen")]
fn generate_bindings() {
    let out = format!(
        "{}/bindings.rs",
        std::env::var("OUT_DIR").expect("cargo sets OUT_DIR")
    );
    bindgen::Builder::default()
        .header("c/hostmem.h")
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .allowlist_function("hostmem_.*")
        .allowlist_type("hostmem_.*")
        .allowlist_var("HOSTMEM_.*")
        // Not Rust enums: a value out of their range would be undefined behaviour.
        .default_enum_style(bindgen::EnumVariation::NewType {
            is_bitfield: false,
            is_global: false,
        })
        .prepend_enum_name(false)
        // Freed by a function, so never to be had twice.
        .no_copy("hostmem_(host|objects|backend)")
        .use_core()
        // rust-version in Cargo.toml.
        .rust_target(bindgen::RustTarget::stable(85, 0).expect("bindgen knows Rust 1.85"))
        .rust_edition(bindgen::RustEdition::Edition2021)
        .layout_tests(true)
        .generate()
        .expect("bindgen reads c/hostmem.h")
        .write_to_file(&out)
        .expect("the bindings can be written");
    // tests/bindings.rs compares this file with the copy in src.
    println!("cargo:rustc-env=HOSTMEM_GENERATED_BINDINGS={out}");
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Compiles the C, links libnuma (feature `libnuma`) and makes the bindings (feature `bindgen`).

/// The folders of the C sources with their files. A folder sees its own header and those of the
/// folders before it, and none of those behind it.
const FOLDERS: &[(&str, &str)] = &[
    (
        "base",
        "error fault gaps map numa os range_list resident rwlock set text thread",
    ),
    (
        "host",
        "calls cgroup features huge_pools meminfo mounts snapshot topology",
    ),
    ("object", "backend objects table thread_context value"),
    (
        "memory",
        "advise check discard effect huge_pages mapping placement policy policy_status populate rebind room scrub",
    ),
    ("kind", "backing fd file kinds memfd ram shm"),
    (
        "fill",
        "contents failure file_room fill lazy order pools prealloc pressure save staging workers",
    ),
    (
        "life",
        "background claim complete delete live ranges running save",
    ),
    ("pool", "pool template"),
    ("api", "create options props"),
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=c");
    refuse_32_bits();
    compile();
    // After the C, so that the linker meets libnuma behind what needs it.
    #[cfg(feature = "libnuma")]
    link_libnuma();
    #[cfg(feature = "bindgen")]
    generate_bindings();
    println!("cargo:include={}/c", env!("CARGO_MANIFEST_DIR"));
}

/// Guest memory, and offsets in it, are numbers of 64 bits everywhere.
fn refuse_32_bits() {
    let target = std::env::var("TARGET").expect("cargo sets TARGET");
    let width = std::env::var("CARGO_CFG_TARGET_POINTER_WIDTH").expect("cargo sets it");
    if width != "64" {
        eprintln!("hostmem needs a target of 64 bits, and {target} is one of {width}");
        std::process::exit(1);
    }
}

fn compile() {
    let mut library = cc::Build::new();
    let mut seen = vec!["c".to_owned()];
    for (folder, files) in FOLDERS {
        seen.push(format!("c/{folder}"));
        let sources = files.split(' ').map(|file| format!("c/{folder}/{file}.c"));
        library.objects(
            settings()
                .includes(&seen)
                .files(sources)
                .compile_intermediates(),
        );
    }
    library.compile("hostmem");
}

fn settings() -> cc::Build {
    let flag = |on| if on { "1" } else { "0" };
    let mut build = cc::Build::new();
    build
        .define("_GNU_SOURCE", None)
        .define("HOSTMEM_NUMA", flag(cfg!(feature = "numa")))
        .define("HOSTMEM_LIBNUMA", flag(cfg!(feature = "libnuma")))
        .flag("-std=gnu11")
        .flag("-fvisibility=hidden")
        .flag("-pthread")
        .flag("-Werror=implicit-function-declaration")
        // Somebody else's newer compiler may warn; that is not for a user of the crate to read.
        .warnings(false);
    build
}

#[cfg(feature = "libnuma")]
fn link_libnuma() {
    if let Err(error) = pkg_config::Config::new().probe("numa") {
        panic!(
            "libnuma was not found: install libnuma-dev (Debian, Ubuntu) or numactl-devel \
             (Fedora), or build without the feature `libnuma` \
             (--no-default-features --features bindgen,numa), which loses nothing\n{error}"
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
        .derive_default(true)
        // Freed by a function, so never to be had twice.
        .no_copy("hostmem_(host|objects|backend|pool)")
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

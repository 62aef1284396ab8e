# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What a person or a machine runs here. `make` alone lists it.

# rustup's default place, for shells that have not read its profile.
export PATH := $(PATH):$(HOME)/.cargo/bin

FEATURES := --all-features

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test test-numa test-package bench bench-peers lint fmt doc setup-build setup-test setup-lint

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 13

run: setup-build ## build the program and allocate 1 GiB of guest memory on node 0
	cargo build --release $(FEATURES)
	@scripts/run

test: setup-test ## everything that proves it: both builds, then the C under two sanitizers
	cargo test $(FEATURES)
	cargo test --no-default-features
	scripts/sanitize address,undefined

test-numa: setup-test ## the part of it that boots machines of several nodes (docs/numa.md)
	cargo test $(FEATURES) --test numa

test-package: setup-test ## what is published: tests from its file, and a crate that depends on it
	scripts/package

bench: setup-build ## measure
	cargo bench $(FEATURES) --bench prealloc

bench-peers: setup-test ## compare with QEMU, vm-memory and bare calls; WRITE=docs keeps the result
	cargo bench $(FEATURES) --bench peers -- $(if $(WRITE),--write $(WRITE))

lint: setup-lint ## compiler warnings, format, clippy and documentation; all of them errors
	scripts/lint-c
	cargo fmt --check
	cargo clippy --all-targets $(FEATURES) -- -D warnings
	cargo clippy --all-targets --no-default-features -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps $(FEATURES)

fmt: setup-lint ## bring C and Rust into their format
	scripts/lint-c --fix
	cargo fmt

doc: setup-build ## make the documentation in target/doc
	cargo doc --no-deps $(FEATURES)

# Each installs what its target needs and the machine does not have.
setup-build setup-test setup-lint: setup-%:
	@scripts/setup $*

# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Commands for developers and CI. `make` alone lists them.

# rustup's default directory, for shells that have not read its profile.
export PATH := $(PATH):$(HOME)/.cargo/bin

FEATURES := --all-features

# Without features run the tests of what a feature can change: neither those that are empty then, nor
# those that have no policy and read no bindings, nor the fault injection, whose calls are then some
# of those that all features make.
EMPTY := $(shell grep -l '^.!.cfg' tests/*.rs)
SAME := $(patsubst %,tests/%.rs,build_script claim compile_fail contents discard_kinds examples inhibit inject \
	kind_fd kind_file kind_memfd kind_ram kind_shm lazy lazy_errors lazy_kinds lazy_order limits map \
	piece populate properties_doc save scrub security_doc thp)
DIFFERENT := $(basename $(notdir $(filter-out $(EMPTY) $(SAME),$(wildcard tests/*.rs))))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test race fuzz soak coverage mutants test-numa test-musl test-arm64 test-kernels test-package bench bench-ready bench-restore bench-peers lint fmt doc setup-build setup-test setup-musl setup-arm64 setup-lint

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 13

run: setup-build ## build the program and allocate 1 GiB of guest memory on node 0
	cargo build --release $(FEATURES)
	@scripts/run

test: setup-test ## all tests: with all features, with fewer, with musl, and the C under ASan, UBSan and TSan; fuzzed for 10 seconds a target
	cargo test $(FEATURES)
	cargo test --no-default-features --lib $(DIFFERENT:%=--test %)
	cargo test --no-default-features --features numa --test host --test policy
	scripts/test-musl --short
	scripts/sanitize address,undefined
	scripts/oracle --test regressions --test backend --test map --test discard --test 'kind_*' --test rollback_kinds
	scripts/race 60
	scripts/fuzz 10

race: setup-test ## six threads use the C at once under ThreadSanitizer; SECONDS=n, SEED=n
	scripts/race $(or $(SECONDS),60) $(or $(SEED),1)

fuzz: setup-test ## search for what breaks the C and the command, for SECONDS=n each; docs/testing.md
	scripts/fuzz $(or $(SECONDS),60)

soak: setup-test ## everything at random for HOURS=n or MINUTES=n, SEED=n; docs/testing-tools.md
	HOSTMEM_SOAK_SECONDS=$$(($(or $(HOURS),0) * 3600 + $(or $(MINUTES),$(if $(HOURS),0,10)) * 60)) \
	$(if $(SEED),HOSTMEM_SOAK_SEED=$(SEED)) HOSTMEM_SOAK_WRITE=$(CURDIR)/target/soak \
		cargo test $(FEATURES) --test soak -- --nocapture

coverage: setup-test ## what of the code the tests run: docs/coverage.md; 10 minutes
	scripts/coverage

mutants: setup-test ## change the C's rules one at a time, and look which tests notice; EVERY=n takes each n-th
	scripts/mutants --every $(or $(EVERY),1)

test-numa: setup-test ## the tests that boot machines with several NUMA nodes (docs/numa.md)
	cargo test $(FEATURES) --test numa

test-musl: setup-musl ## the tests on a static build, with musl and without libnuma
	scripts/test-musl

test-arm64: setup-arm64 ## the tests on emulated arm64 machines with pages of 4 KiB and of 16 KiB (docs/testing-machines.md)
	scripts/test-machines arm64

test-kernels: setup-musl setup-test ## the tests on emulated machines with Linux 5.10, 6.1 and 6.12 (docs/testing-machines.md)
	scripts/test-machines x86-64

test-package: setup-test ## test the package to be published, and a crate that depends on it
	scripts/package

bench: setup-build ## compare with the bare system calls (docs/benchmarks.md)
	cargo bench $(FEATURES) --bench life
	cargo bench $(FEATURES) --bench prealloc

bench-ready: setup-test ## the part of bench-peers about pools and scrubbing, 5 minutes
	cargo bench $(FEATURES) --bench peers -- ready

bench-restore: setup-test ## restoring and saving memory, compared with bare calls and QEMU, 2 minutes
	cargo bench $(FEATURES) --bench restore -- $(WHAT)

bench-peers: setup-test ## compare with QEMU and vm-memory too, 15 minutes; WRITE=DIR saves the result
	cargo bench $(FEATURES) --bench peers -- $(if $(WRITE),--write $(WRITE))

lint: setup-lint ## compiler warnings, format, clippy and documentation; any finding is an error; the oldest Rust and arm64 compile
	scripts/lint-c
	cargo fmt --check
	cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
	cargo clippy --all-targets $(FEATURES) -- -D warnings
	cargo clippy --all-targets --no-default-features -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps $(FEATURES)
	scripts/oldest-rust
	scripts/test-machines arm64 --check

fmt: setup-lint ## format C and Rust
	scripts/lint-c --fix
	cargo fmt
	cargo fmt --manifest-path tests/fuzz/Cargo.toml

doc: setup-build ## build the documentation in target/doc
	cargo doc --no-deps $(FEATURES)

# Installs the packages that the target needs and the machine lacks.
setup-build setup-test setup-musl setup-arm64 setup-lint: setup-%:
	@scripts/setup $*

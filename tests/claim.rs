// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A claim keeps the memory, and the backend that has it, whatever else goes.

mod common;

use std::sync::Arc;
use std::sync::Barrier;
use std::thread;

use common::in_child;
use common::in_forked_child;
use common::is_mapped;
use hostmem::Backend;
use hostmem::Builder;
use hostmem::Claim;
use hostmem::Defaults;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Memory;
use hostmem::Objects;
use hostmem::State;

const KIND: &str = "memory-backend-ram";
const SIZE: u64 = 256 * 1024;

fn ready(id: &str) -> Backend {
    Builder::new(KIND, id)
        .unwrap()
        .size(SIZE)
        .complete()
        .unwrap()
}

fn write(memory: Memory<'_>, byte: u8) {
    for at in [0, memory.len() as usize - 1] {
        // SAFETY: inside the memory, which is mapped as long as the view lives; nobody else uses
        // it.
        unsafe { memory.as_ptr().add(at).write_volatile(byte) };
    }
}

fn read(memory: Memory<'_>) -> [u8; 2] {
    // SAFETY: as in write().
    [0, memory.len() as usize - 1].map(|at| unsafe { memory.as_ptr().add(at).read_volatile() })
}

#[test]
fn the_states_are_ready_mapped_ready() {
    let backend = ready("ram0");
    assert_eq!(backend.state(), State::Ready);
    assert_eq!(backend.owner(), None);
    let claim = backend.claim("vm0").unwrap();
    assert_eq!(backend.state(), State::Mapped);
    assert_eq!(backend.owner().as_deref(), Some("vm0"));
    assert_eq!(claim.owner(), "vm0");
    assert_eq!(claim.id(), "ram0");
    drop(claim);
    assert_eq!(backend.state(), State::Ready);
    assert_eq!(backend.owner(), None);
    backend.claim("vm1").unwrap();
}

#[test]
fn the_memory_is_what_was_asked_for() {
    let backend = ready("ram0");
    let claim = backend.claim("vm0").unwrap();
    let memory = claim.memory();
    assert_eq!(memory.len(), SIZE);
    assert!(!memory.is_empty());
    assert!(memory.page_size().is_power_of_two());
    assert_eq!(memory.as_ptr() as u64 % memory.page_size(), 0);
    assert!(!memory.is_shared());
    assert!(!memory.is_readonly());
    assert!(memory.fd().is_none());
    assert_eq!(read(memory), [0, 0]);
    write(memory, 0x5a);
    assert_eq!(read(memory), [0x5a, 0x5a]);
}

#[test]
fn shared_memory_has_a_descriptor() {
    let backend = Builder::new(KIND, "ram0")
        .unwrap()
        .size(SIZE)
        .share(true)
        .complete()
        .unwrap();
    let claim = backend.claim("vm0").unwrap();
    let memory = claim.memory();
    assert!(memory.is_shared());
    assert_eq!(memory.fd_offset(), 0);
    write(memory, 7);
    let fd = memory.fd().unwrap().try_clone_to_owned().unwrap();
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&std::fs::File::from(fd), &mut byte, SIZE - 1)
        .unwrap();
    assert_eq!(byte, [7]);
}

#[test]
fn a_second_claim_is_refused_and_names_the_holder() {
    let backend = ready("ram0");
    let claim = backend.claim("first-vm").unwrap();
    let error = backend.claim("second-vm").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("first-vm"), "{error}");
    assert!(error.to_string().contains("ram0"), "{error}");
    drop(claim);
    assert_eq!(backend.claim("second-vm").unwrap().owner(), "second-vm");
}

#[test]
fn an_owner_needs_a_name_of_1_to_128_bytes() {
    let backend = ready("ram0");
    for owner in ["", &"x".repeat(129), "a\0b"] {
        let error = backend.claim(owner).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{error}");
        assert_eq!(backend.state(), State::Ready);
    }
    for owner in ["x", &"x".repeat(128)] {
        assert_eq!(backend.claim(owner).unwrap().owner(), owner);
    }
}

#[test]
fn a_claimed_backend_is_not_deleted_and_comes_back() {
    let backend = ready("ram0");
    let claim = backend.claim("vm0").unwrap();
    write(claim.memory(), 1);

    let error = backend.can_be_deleted().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let failed = backend.delete().unwrap_err();
    assert_eq!(failed.error, error);
    assert!(failed.to_string().contains("vm0"), "{failed}");
    assert_eq!(read(claim.memory()), [1, 1]);

    let backend = failed.object;
    assert_eq!(backend.owner().as_deref(), Some("vm0"));
    drop(claim);
    backend.can_be_deleted().unwrap();
    backend.delete().unwrap();
}

#[test]
fn deleting_gives_memory_and_id_back() {
    in_child("deleting_gives_memory_and_id_back", || {
        let objects = Objects::new(&Host::probe().unwrap(), &Defaults::default()).unwrap();
        let make = || {
            let builder = objects.builder(KIND, "ram0")?;
            Ok::<_, hostmem::Error>(builder.size(SIZE).complete()?)
        };
        let backend = make().unwrap();
        let address = backend.claim("vm0").unwrap().memory().as_ptr() as usize;
        assert!(is_mapped(address));
        assert_eq!(make().unwrap_err().kind(), ErrorKind::Value);
        backend.delete().unwrap();
        assert!(!is_mapped(address));
        make().unwrap().delete().unwrap();
    });
}

#[test]
fn the_memory_outlives_the_backend_value() {
    in_child("the_memory_outlives_the_backend_value", || {
        let host = Host::probe().unwrap();
        let objects = Objects::new(&host, &Defaults::default()).unwrap();
        let builder = objects.builder(KIND, "ram0").unwrap();
        let backend = builder.size(SIZE).complete().unwrap();
        let claim = backend.claim("vm0").unwrap();
        let address = claim.memory().as_ptr() as usize;
        write(claim.memory(), 1);
        drop(backend);
        assert_eq!(read(claim.memory()), [1, 1]);
        write(claim.memory(), 2);
        // The id is taken as long as the memory is there.
        let error = objects.builder(KIND, "ram0").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        drop(objects);
        drop(host);
        assert_eq!(read(claim.memory()), [2, 2]);
        assert_eq!(claim.owner(), "vm0");
        drop(claim);
        assert!(!is_mapped(address));
    });
}

/// Everything that keeps something alive, each to be dropped on its own.
fn four() -> [Option<Box<dyn Send>>; 4] {
    let host = Host::probe().unwrap();
    let objects = Objects::new(&host, &Defaults::default()).unwrap();
    let builder = objects.builder(KIND, "ram0").unwrap();
    let backend = builder.size(SIZE).complete().unwrap();
    let claim = backend.claim("vm0").unwrap();
    write(claim.memory(), 1);
    [
        Some(Box::new(host)),
        Some(Box::new(objects)),
        Some(Box::new(backend)),
        Some(Box::new(Checked(claim))),
    ]
}

/// Uses the memory one more time when it goes.
struct Checked(Claim);

impl Drop for Checked {
    fn drop(&mut self) {
        assert_eq!(read(self.0.memory()), [1, 1]);
    }
}

#[test]
fn any_order_of_dropping_is_fine() {
    let all: Vec<[usize; 4]> = (0..256)
        .map(|n| [n & 3, n >> 2 & 3, n >> 4 & 3, n >> 6])
        .filter(|order| (0..4).all(|i| order.contains(&i)))
        .collect();
    assert_eq!(all.len(), 24);
    for order in all {
        let mut values = four();
        for index in order {
            drop(values[index].take());
        }
    }
}

#[test]
fn any_thread_may_drop_at_the_same_time() {
    for _ in 0..50 {
        let barrier = Arc::new(Barrier::new(4));
        let threads = four().map(|value| {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || {
                barrier.wait();
                drop(value);
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

#[test]
fn one_of_many_threads_gets_the_claim() {
    let backend = ready("ram0");
    let barrier = Barrier::new(8);
    let claims: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let (backend, barrier) = (&backend, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    backend.claim(&format!("vm{n}"))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let (won, lost): (Vec<_>, Vec<_>) = claims.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    let owner = won[0].as_ref().unwrap().owner();
    for error in lost.into_iter().map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.to_string().contains(&owner), "{error}");
    }
}

#[test]
fn many_threads_use_one_backend() {
    let backend = ready("ram0");
    thread::scope(|scope| {
        for n in 0..4 {
            let backend = &backend;
            scope.spawn(move || {
                for _ in 0..200 {
                    if let Ok(claim) = backend.claim(&format!("vm{n}")) {
                        write(claim.memory(), n);
                        assert_eq!(read(claim.memory()), [n, n]);
                        assert_eq!(claim.owner(), format!("vm{n}"));
                    }
                    backend.set("dump", n % 2 == 0).unwrap();
                    backend.get_text("size").unwrap();
                    backend.placement().unwrap();
                }
            });
        }
    });
    backend.delete().unwrap();
}

/// Maps the child's own memory where the parent has the backend's.
fn map_at(address: *mut u8) -> *mut u8 {
    // SAFETY: NOREPLACE leaves everything that is mapped alone.
    let mapped = unsafe {
        libc::mmap(
            address.cast(),
            SIZE as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    assert_eq!(
        mapped,
        address.cast(),
        "{}",
        std::io::Error::last_os_error()
    );
    address
}

#[test]
fn a_forked_child_harms_neither_the_parent_nor_itself() {
    in_child("a_forked_child_harms_neither_the_parent_nor_itself", || {
        for share in [false, true] {
            let backend = Builder::new(KIND, "ram0")
                .unwrap()
                .size(SIZE)
                .share(share)
                .complete()
                .unwrap();
            let claim = backend.claim("vm0").unwrap();
            write(claim.memory(), 9);
            let mut both = Some((backend, claim));
            in_forked_child(|| {
                let (backend, claim) = both.take().unwrap();
                let own = map_at(claim.memory().as_ptr());
                // SAFETY: the child's own memory.
                unsafe { own.write_volatile(3) };
                drop(backend);
                drop(claim);
                // SAFETY: still there.
                unsafe { own.read_volatile() == 3 }
            });
            in_forked_child(|| {
                let (backend, claim) = both.take().unwrap();
                drop(claim);
                backend.delete().is_ok()
            });
            let (backend, claim) = both.unwrap();
            assert_eq!(read(claim.memory()), [9, 9]);
            assert_eq!(backend.state(), State::Mapped);
            drop(claim);
            backend.delete().unwrap();
        }
    });
}

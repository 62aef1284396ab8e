// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory in use that gets other nodes: what moves, what does not, and that nothing is lost.

use std::env;
use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::process;
use std::process::Child;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use hostmem::Backend;
use hostmem::Claim;
use hostmem::ErrorKind;
use hostmem::MoveFailure;
use hostmem::Policy;
use hostmem::Rebind;
use hostmem::Rebound;
use hostmem::Satisfied;

use super::cells::Backing;
use super::cells::BACKINGS;
use super::common::access;
use super::common::host::Setting;
use super::common::kernel;
use super::guest;
use super::guest::Test;
use super::shortage::more_than_is_free_on;
use super::shortage::wait_until_taken;
use super::shortage::TAKEN;

const MIB: u64 = 1 << 20;

pub fn tests() -> Vec<Test> {
    let mut tests = vec![
        Test::new("rebind::what_others_use_stays", what_others_use_stays),
        Test::new(
            "rebind::what_another_process_uses_stays",
            what_another_process_uses_stays,
        ),
        Test::new("rebind::what_is_pinned_fails_it", what_is_pinned_fails_it),
        Test::new("rebind::needs_room", needs_room),
        Test::new(
            "rebind::preferred_moves_what_fits",
            preferred_moves_what_fits,
        ),
        Test::new("rebind::pages_inside_stay", pages_inside_stay),
        Test::new(
            "rebind::home_node_is_for_new_pages",
            home_node_is_for_new_pages,
        ),
        Test::new("rebind::to_no_nodes", to_no_nodes),
        Test::new("rebind::nothing_written_is_lost", nothing_written_is_lost),
    ];
    for backing in &BACKINGS {
        tests.push(Test {
            name: format!("rebind::moves::{}", backing.name),
            run: Box::new(|| moves(backing)),
        });
    }
    tests
}

fn bind(nodes: &[u32]) -> Rebind {
    Rebind::new(Policy::Bind).host_nodes(nodes)
}

/// Small pages, all on node 0.
fn on_node_0(kind: &str, size: u64) -> Backend {
    let options = format!("size={size},thp=never,prealloc=on,policy=bind,host-nodes=0");
    access::new(kind, &options).complete().unwrap()
}

#[track_caller]
fn assert_moved(rebound: Rebound, moved: u64, not_moved: u64, cause: Option<MoveFailure>) {
    let seen = (rebound.moved, rebound.not_moved, rebound.cause);
    assert_eq!(seen, (moved, not_moved, cause));
}

/// Another byte in each page.
fn write_marks(claim: &Claim) {
    for at in (0..claim.memory().len()).step_by(4096) {
        access::write(claim, at, mark(at));
    }
}

fn mark(at: u64) -> u8 {
    (at / 4096 % 251) as u8
}

fn has_marks(claim: &Claim) -> bool {
    (0..claim.memory().len())
        .step_by(4096)
        .all(|at| access::read(claim, at) == mark(at))
}

fn moves(backing: &Backing) -> String {
    super::cells::clean();
    let _shmem = Setting::set(super::cells::SHMEM, backing.shmem).unwrap();
    let options = format!(
        "size={},prealloc=on,policy=bind,host-nodes=0,{}",
        backing.size, backing.options
    );
    let backend = access::new(backing.kind, &options).complete().unwrap();
    let claim = backend.claim("vm0").unwrap();
    write_marks(&claim);
    let before = backend.placement().unwrap();
    let began = Instant::now();
    let rebound = backend.rebind(&bind(&[1])).unwrap();
    let time = began.elapsed();
    assert_moved(rebound, backing.size, 0, None);
    let seen = backend.placement().unwrap();
    assert_eq!(seen.nodes, [(1, backing.size)].into(), "{seen:?}");
    assert_eq!(seen.huge, before.huge);
    assert_eq!(
        (seen.policy.as_str(), seen.policy_changed),
        ("bind:1", false)
    );
    assert!(has_marks(&claim));
    // A property by itself does the same.
    backend.set("host-nodes", [3]).unwrap();
    let seen = backend.placement().unwrap();
    assert_eq!(seen.nodes, [(3, backing.size)].into(), "{seen:?}");
    assert!(has_marks(&claim));
    super::cells::clean();
    guest::show(format!(
        "{}: {} of {} MiB moved in {} ms",
        backing.name,
        rebound.moved / MIB,
        backing.size / MIB,
        time.as_millis()
    ));
    String::new()
}

/// As a vhost-user process does: the kernel answers that all is well, and nothing moved.
fn what_others_use_stays() {
    let size = 2 * MIB;
    let backend = on_node_0("memfd", size);
    let fd = access::descriptor(&backend.claim("vm0").unwrap());
    let peer = format!("fd={},size={size}", fd.as_raw_fd());
    let peer = access::new("fd", &peer).complete().unwrap();
    let peer = peer.claim("peer").unwrap();
    // One that has only mapped it is in nobody's way.
    assert_moved(backend.rebind(&bind(&[1])).unwrap(), size, 0, None);
    write_marks(&peer);
    let rebound = backend.rebind(&bind(&[3])).unwrap();
    assert_moved(rebound, 0, size, Some(MoveFailure::Shared));
    let seen = backend.placement().unwrap();
    assert_eq!(
        (seen.policy.as_str(), seen.mapmax),
        ("bind:3", 2),
        "{seen:?}"
    );
    assert_eq!((seen.satisfied, seen.outside), (Satisfied::Spilled, size));
    let rebound = backend.rebind(&bind(&[3]).move_all(true)).unwrap();
    assert_moved(rebound, size, 0, None);
    assert_eq!(backend.placement().unwrap().satisfied, Satisfied::Yes);
    assert!(has_marks(&peer));
}

/// Starts a process that uses a part of the memory.
fn start_peer(claim: &Claim, bytes: u64) -> Child {
    let _ = fs::remove_file(TAKEN);
    let fd = claim.memory().fd().unwrap().as_raw_fd();
    let path = format!("/proc/{}/fd/{fd}", process::id());
    let mut peer = guest::start_child("peer", &[&path, &bytes.to_string()]);
    wait_until_taken(&mut peer);
    peer
}

pub fn peer() {
    let path = env::args().nth(2).unwrap();
    let size = env::args().nth(3).unwrap();
    let options = format!("mem-path={path},size={size},share=on,prealloc=on");
    let _backend = access::new("file", &options).complete().unwrap();
    fs::write(TAKEN, "").unwrap();
    thread::sleep(Duration::from_secs(600));
}

fn what_another_process_uses_stays() {
    let size = 8 * MIB;
    for (kind, options) in [
        ("memfd", "thp=never"),
        ("memfd", "hugetlb=on"),
        ("shm", "thp=never"),
    ] {
        let options = format!("size={size},prealloc=on,policy=bind,host-nodes=0,{options}");
        let backend = access::new(kind, &options).complete().unwrap();
        let claim = backend.claim("vm0").unwrap();
        write_marks(&claim);
        let half = size / 2;
        let mut peer = start_peer(&claim, half);
        let rebound = backend.rebind(&bind(&[1])).unwrap();
        assert_moved(rebound, half, half, Some(MoveFailure::Shared));
        let seen = backend.placement().unwrap();
        assert_eq!(seen.nodes, [(0, half), (1, half)].into(), "{seen:?}");
        peer.kill().unwrap();
        peer.wait().unwrap();
        assert_moved(backend.rebind(&bind(&[1])).unwrap(), half, 0, None);
        assert!(has_marks(&claim));
    }
}

/// Pages in a pipe, which the kernel holds as a device would.
fn pin(claim: &Claim, pages: usize) -> [File; 2] {
    let mut ends = [0; 2];
    // SAFETY: writes the two numbers.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    // SAFETY: opened above, owned by nobody else.
    let ends = ends.map(|end| unsafe { File::from_raw_fd(end) });
    let part = libc::iovec {
        iov_base: claim.memory().as_ptr().cast(),
        iov_len: pages * 4096,
    };
    // SAFETY: the range is inside the memory, which stays mapped.
    let spliced = unsafe { libc::vmsplice(ends[1].as_raw_fd(), &part, 1, 0) };
    assert_eq!(spliced, part.iov_len as isize);
    ends
}

fn what_is_pinned_fails_it() {
    let size = 2 * MIB;
    for kind in ["ram", "memfd"] {
        let backend = on_node_0(kind, size);
        let claim = backend.claim("vm0").unwrap();
        write_marks(&claim);
        let pinned = pin(&claim, 8);
        let error = backend.rebind(&bind(&[1])).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
        let words = "32768 bytes stayed elsewhere, likely because they are pinned";
        assert!(error.to_string().contains(words), "{error}");
        // The policy and the pages are where they were.
        assert_eq!(backend.get("host-nodes").unwrap(), [0].into());
        let seen = backend.placement().unwrap();
        assert_eq!(
            (seen.policy.as_str(), seen.policy_changed),
            ("bind:0", false)
        );
        assert_eq!(seen.nodes, [(0, size)].into(), "{seen:?}");
        assert!(has_marks(&claim));
        drop(pinned);
        assert_moved(backend.rebind(&bind(&[1])).unwrap(), size, 0, None);
        assert!(has_marks(&claim));
    }
}

/// More than node 3 has, in huge pages of nodes 0 and 1.
fn too_much_for_node_3() -> (Backend, u64) {
    let size = more_than_is_free_on(3);
    let options = format!("size={size},thp=always,prealloc=on,policy=bind,host-nodes=0-1");
    (access::new("ram", &options).complete().unwrap(), size)
}

fn needs_room() {
    let (backend, size) = too_much_for_node_3();
    let before = backend.placement().unwrap();
    let error = backend.rebind(&bind(&[3])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoMemory, "{error}");
    let words = format!("policy=bind,host-nodes=3: {size} bytes would have to move there, where ");
    assert!(error.to_string().contains(&words), "{error}");
    assert_eq!(backend.placement().unwrap(), before);
}

/// It need not all fit; what is said of it is what the kernel counts.
fn preferred_moves_what_fits() {
    let (backend, size) = too_much_for_node_3();
    let before = backend.placement().unwrap();
    let preferred = Rebind::new(Policy::Preferred).host_nodes([3]);
    match backend.rebind(&preferred) {
        Ok(rebound) => {
            let seen = backend.placement().unwrap();
            assert_eq!(rebound.not_moved, seen.outside, "{seen:?}");
            assert!(seen.outside != 0 && seen.outside < size, "{seen:?}");
            assert_eq!(seen.satisfied, Satisfied::Spilled);
        }
        // The kernel may hold preferred memory to its nodes when it moves it.
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
            let seen = backend.placement().unwrap();
            assert_eq!(seen.policy, before.policy);
            assert_eq!(seen.satisfied, Satisfied::Yes, "{seen:?}");
        }
    }
}

/// The kernel does not share out again what is on one of the nodes.
fn pages_inside_stay() {
    let size = 2 * MIB;
    let backend = on_node_0("ram", size);
    let interleave = Rebind::new(Policy::Interleave);
    let rebound = backend
        .rebind(&interleave.clone().host_nodes([0, 1]))
        .unwrap();
    assert_moved(rebound, 0, 0, None);
    let seen = backend.placement().unwrap();
    assert_eq!(seen.nodes, [(0, size)].into(), "{seen:?}");
    assert_eq!(
        (seen.satisfied, seen.outside),
        (Satisfied::Spilled, size / 2)
    );
    assert!(seen.reason.contains("above the shares"), "{seen:?}");
    let rebound = backend.rebind(&interleave.host_nodes([3, 4])).unwrap();
    assert_moved(rebound, size, 0, None);
    let seen = backend.placement().unwrap();
    assert_eq!(
        seen.nodes,
        [(3, size / 2), (4, size / 2)].into(),
        "{seen:?}"
    );
    assert_eq!((seen.satisfied, seen.outside), (Satisfied::Yes, 0));
}

fn home_node_is_for_new_pages() {
    let size = 2 * MIB;
    let backend = on_node_0("ram", size);
    let home = bind(&[3, 4]).home_node(4);
    if kernel() < (5, 17) {
        let error = backend.rebind(&home).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert_eq!(backend.placement().unwrap().policy, "bind:0");
        return;
    }
    // What moves goes to the nearest of the nodes.
    assert_moved(backend.rebind(&home).unwrap(), size, 0, None);
    assert_eq!(backend.placement().unwrap().nodes, [(3, size)].into());
    let claim = backend.claim("vm0").unwrap();
    claim.discard(0, size).unwrap();
    backend.populate(0, size).unwrap();
    assert_eq!(backend.placement().unwrap().nodes, [(4, size)].into());
    assert_eq!(backend.get_text("home-node").unwrap(), "4");
}

fn to_no_nodes() {
    let size = 2 * MIB;
    for policy in [Policy::Default, Policy::Local] {
        let backend = on_node_0("ram", size);
        let claim = backend.claim("vm0").unwrap();
        write_marks(&claim);
        let rebound = backend.rebind(&Rebind::new(policy)).unwrap();
        assert_moved(rebound, 0, 0, None);
        let seen = backend.placement().unwrap();
        assert_eq!(seen.policy, policy.as_str());
        assert_eq!(seen.nodes, [(0, size)].into(), "{seen:?}");
        assert!(has_marks(&claim));
    }
}

/// Writers that go on while the memory moves. Each has pages of its own, in which each word is the
/// number of times it was written. A huge page of a pool that is written at that moment may be too
/// busy to move: then all is as before.
fn nothing_written_is_lost() {
    const WRITERS: u64 = 3;
    for (kind, options) in [
        ("ram", "thp=never"),
        ("ram", "thp=always"),
        ("memfd", "thp=never"),
        ("memfd", "hugetlb=on"),
    ] {
        let size = 4 * MIB;
        let options = format!("size={size},prealloc=on,policy=bind,host-nodes=0,{options}");
        let backend = access::new(kind, &options).complete().unwrap();
        let claim = backend.claim("vm0").unwrap();
        let (done, writes) = (AtomicBool::new(false), AtomicU64::new(0));
        let rebounds = thread::scope(|scope| {
            let writers = [0, 1, 2].map(|writer| {
                let (claim, done, writes) = (&claim, &done, &writes);
                scope.spawn(move || {
                    let pages = (writer..size / 4096).step_by(WRITERS as usize);
                    let mut round = 0;
                    while !done.load(Ordering::Relaxed) {
                        for page in pages.clone() {
                            let word = word_of(claim, page);
                            assert_eq!(word.swap(round + 1, Ordering::Relaxed), round);
                        }
                        round += 1;
                        writes.fetch_add(1, Ordering::Relaxed);
                    }
                    for page in pages {
                        assert_eq!(word_of(claim, page).load(Ordering::Relaxed), round);
                    }
                })
            });
            let rebounds = [1, 3, 4, 0].map(|node| {
                let before = backend.placement().unwrap();
                // It is there already where the last ones failed.
                let to_move = size - before.nodes.get(&node).unwrap_or(&0);
                let rebound = backend.rebind(&bind(&[node]));
                let seen = backend.placement().unwrap();
                (rebound, to_move, before.policy, seen)
            });
            // Each writer has been around meanwhile, or has failed.
            while writes.load(Ordering::Relaxed) < 2 * WRITERS
                && !writers.iter().any(|writer| writer.is_finished())
            {
                thread::yield_now();
            }
            done.store(true, Ordering::Relaxed);
            rebounds
        });
        for (rebound, to_move, before, seen) in rebounds {
            match rebound {
                Err(error) if options.contains("hugetlb") => {
                    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
                    assert!(error.to_string().contains("busy"), "{error}");
                    assert_eq!((seen.policy, seen.policy_changed), (before, false));
                    assert_eq!(seen.resident, size);
                }
                rebound => assert_moved(rebound.unwrap(), to_move, 0, None),
            }
        }
        // Nobody writes any more.
        backend.rebind(&bind(&[3])).unwrap();
        let seen = backend.placement().unwrap();
        assert_eq!(seen.nodes, [(3, size)].into(), "{seen:?}");
    }
}

fn word_of(claim: &Claim, page: u64) -> &AtomicU64 {
    let at = claim.memory().as_ptr().wrapping_add(page as usize * 4096);
    // SAFETY: inside the memory, aligned, and looked at as this type only.
    unsafe { AtomicU64::from_ptr(at.cast()) }
}

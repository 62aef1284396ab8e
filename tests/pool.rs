// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pools in one process: what is taken from them, how they are refilled, and what they refuse.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use common::access::descriptor;
use common::access::fill;
use common::access::has;
use common::access::memfd;
use common::host::HugePages;
use common::host::HUGE;
use common::in_child;
use common::in_forked_child;
use common::objects;
use common::refusing;
use common::skip;
use common::Belongings;
use common::Refusal;
use hostmem::ErrorKind;
use hostmem::Objects;
use hostmem::Pool;
use hostmem::PoolStatus;
use hostmem::State;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 8 * MIB;
const PATIENCE: Option<Duration> = Some(Duration::from_secs(300));

fn pool(objects: &Objects, options: &str, count: u32) -> Pool {
    Pool::parse(objects, format!("memory-backend-{options}"), count)
        .unwrap_or_else(|error| panic!("{options}: {error}"))
}

fn full_pool(objects: &Objects, options: &str, count: u32) -> Pool {
    let pool = pool(objects, options, count);
    assert!(pool.wait(count, PATIENCE).unwrap(), "{:?}", pool.status());
    pool
}

fn wait_until(pool: &Pool, what: &str, wanted: impl Fn(&PoolStatus) -> bool) -> PoolStatus {
    let start = Instant::now();
    loop {
        let status = pool.status();
        if wanted(&status) {
            return status;
        }
        assert!(start.elapsed() < PATIENCE.unwrap(), "{what}: {status:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// All that can be done with a backend that was completed just now.
fn use_fully(objects: &Objects, backend: hostmem::Backend, id: &str, huge: bool) {
    assert_eq!(backend.id(), id);
    assert_eq!(backend.name(), id);
    assert_eq!(backend.state(), State::Ready);
    assert_eq!(backend.get("prealloc").unwrap(), true.into());
    assert_eq!(backend.prealloc_result().unwrap().bytes, SIZE);
    assert_eq!(backend.placement().unwrap().resident, SIZE);
    let taken = objects.builder("memory-backend-ram", id).unwrap_err();
    assert!(taken.to_string().contains("taken"), "{taken}");
    backend.set("dump", false).unwrap();
    backend.set("merge", true).unwrap();
    if cfg!(feature = "numa") {
        backend.set("policy", "local").unwrap();
    }
    let claim = backend.claim("vm0").unwrap();
    assert!(has(&claim, 0, SIZE, 0));
    fill(&claim, 0, SIZE, 9);
    let part = if huge { HUGE } else { MIB };
    claim.discard(0, part).unwrap();
    assert_eq!(backend.placement().unwrap().resident, SIZE - part);
    claim.populate(0, part).unwrap();
    claim.scrub(0, SIZE).unwrap();
    assert!(has(&claim, 0, SIZE, 0));
    assert_eq!(
        backend.can_be_deleted().unwrap_err().kind(),
        ErrorKind::Busy
    );
    drop(claim);
    backend.delete().unwrap();
    objects.builder("memory-backend-ram", id).unwrap();
}

#[test]
fn what_is_taken_is_like_what_was_completed_just_now() {
    let objects = objects();
    for options in [
        "ram,size=8M",
        "memfd,size=8M",
        "shm,size=8M",
        "ram,size=8M,share=on",
    ] {
        let pool = full_pool(&objects, options, 1);
        let taken = pool.take("vm0").unwrap();
        assert!(taken.was_ready, "{options}");
        if taken.backend.claim("test").unwrap().memory().fd().is_none() {
            let maps = fs::read_to_string("/proc/self/maps").unwrap();
            assert!(!maps.contains("[anon:") || maps.contains("[anon:hostmem:vm0]"));
        }
        use_fully(&objects, taken.backend, "vm0", false);
    }
    if let Some(_pool) = HugePages::have(2 * SIZE / HUGE) {
        let pool = full_pool(&objects, "memfd,size=8M,hugetlb=on,hugetlbsize=2M", 1);
        use_fully(&objects, pool.take("vm0").unwrap().backend, "vm0", true);
    }
}

#[test]
fn a_pool_fills_up_again() {
    let objects = objects();
    let pool = full_pool(&objects, "ram,size=8M", 3);
    let status = pool.status();
    assert_eq!((status.count, status.ready), (3, 3));
    assert_eq!(status.bytes, 3 * SIZE);
    let taken: Vec<_> = (0..3)
        .map(|i| pool.take(&format!("vm{i}")).unwrap())
        .collect();
    assert!(pool.wait(3, PATIENCE).unwrap());
    let status = pool.status();
    assert_eq!(status.ready, 3);
    assert_eq!(status.taken + status.made, 3);
    assert!(status.failure.is_none() && status.retry.is_none());
    let addresses: BTreeSet<_> = taken
        .iter()
        .map(|taken| taken.backend.claim("t").unwrap().memory().as_ptr() as usize)
        .collect();
    assert_eq!(addresses.len(), 3);
    // What was taken outlives the pool, and both outlive the set.
    drop(objects);
    drop(pool);
    for taken in taken {
        assert!(has(&taken.backend.claim("t").unwrap(), 0, SIZE, 0));
    }
}

#[test]
fn with_none_ready_one_is_made_at_once() {
    let objects = objects();
    let pool = pool(&objects, "ram,size=64M,thp=never", 1);
    let mut kept = Vec::new();
    while kept.len() < 20 {
        let taken = pool.take(&format!("vm{}", kept.len())).unwrap();
        let resident = taken.backend.placement().unwrap().resident;
        assert_eq!(resident, 64 * MIB);
        let was_ready = taken.was_ready;
        kept.push(taken);
        if !was_ready {
            assert!(pool.status().made > 0);
            return;
        }
    }
    panic!(
        "filling 64 MiB is faster than asking for them: {:?}",
        pool.status()
    );
}

#[test]
fn the_count_can_be_changed() {
    let objects = objects();
    let pool = full_pool(&objects, "memfd,size=8M", 1);
    pool.set_count(3).unwrap();
    assert!(pool.wait(3, PATIENCE).unwrap());
    pool.set_count(2).unwrap();
    let status = pool.status();
    assert_eq!((status.count, status.ready, status.bytes), (2, 2, 2 * SIZE));
    assert_eq!(pool.set_count(0).unwrap_err().kind(), ErrorKind::Value);
    assert_eq!(
        pool.set_count(u32::MAX).unwrap_err().kind(),
        ErrorKind::Value
    );
    // Never more than the count are waited for.
    assert!(pool.wait(100, PATIENCE).unwrap());
    assert_eq!(pool.status().ready, 2);
}

#[test]
fn a_bad_id_takes_nothing() {
    let objects = objects();
    let pool = full_pool(&objects, "ram,size=8M", 1);
    let _other = objects.builder("memory-backend-ram", "vm0").unwrap();
    for (id, words) in [("vm0", "taken"), ("0vm", "a letter"), ("", "a letter")] {
        let error = pool.take(id).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(pool.withdraw(id).unwrap_err(), error);
    }
    let status = pool.status();
    assert_eq!((status.ready, status.taken, status.made), (1, 0, 0));
    assert_eq!(status.count, 1);
    assert!(pool.take("vm1").unwrap().was_ready);
}

#[test]
fn a_builder_is_a_template() {
    let objects = objects();
    let builder = |id: &str| {
        objects
            .builder("memory-backend-memfd", id)
            .unwrap()
            .size(SIZE)
    };
    let pool = Pool::new(builder("template").dump(false), 1).unwrap();
    // Its id is free again, and no backend of the pool has one.
    drop(builder("template"));
    assert!(pool.wait(1, PATIENCE).unwrap());
    let taken = pool.take("template").unwrap().backend;
    assert_eq!(taken.get("dump").unwrap(), false.into());
    // The first error of the chain.
    let error = Pool::new(builder("a").hugetlb_size(3), 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value);
}

#[test]
fn what_cannot_be_kept_ready_is_refused() {
    in_child("what_cannot_be_kept_ready_is_refused", || {
        let objects = objects();
        let file = memfd("user", 0, SIZE);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, [0; 65536]).unwrap();
        let before = Belongings::now();
        let cases = [
            ("ram,size=8M".to_owned(), 0, "count of 0"),
            ("ram,size=8M,id=vm0".into(), 1, "has no id"),
            ("ram,size=8M,prealloc=off".into(), 1, "prealloc=off"),
            ("ram,size=1T".into(), u32::MAX, "more than"),
            ("ram,size=1P".into(), 1, "more than"),
            ("ram".into(), 1, "size is required"),
            ("ram,size=8M,reserve=off".into(), 1, "reserve=off"),
            ("ram,size=8M,no-such=1".into(), 1, "no-such"),
            ("none,size=8M".into(), 1, "does not exist"),
            (
                format!("fd,size=8M,fd={}", file.as_raw_fd()),
                1,
                "same memory",
            ),
            (
                format!("file,size=64K,share=on,mem-path={}", path.display()),
                1,
                "same memory",
            ),
            (
                format!(
                    "file,size=64K,share=on,mem-path={}/new",
                    directory.path().display()
                ),
                1,
                "same memory",
            ),
        ];
        for (options, count, words) in cases {
            let options = format!("memory-backend-{options}");
            let error = Pool::parse(&objects, &options, count).unwrap_err();
            assert!(error.to_string().contains(words), "{options}: {error}");
        }
        assert_eq!(Belongings::now(), before);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    });
}

#[test]
fn each_file_of_a_directory_is_another() {
    let objects = objects();
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = format!(
        "file,size=8M,share=on,mem-path={}",
        directory.path().display()
    );
    let pool = full_pool(&objects, &options, 2);
    let inode = |id: &str| {
        let taken = pool.take(id).unwrap();
        let claim = taken.backend.claim("test").unwrap();
        descriptor(&claim).metadata().unwrap().ino()
    };
    assert_ne!(inode("vm0"), inode("vm1"));
}

#[test]
fn a_pool_fits_into_the_nodes_that_it_is_bound_to() {
    let Some(node) = common::bindable_node() else {
        return;
    };
    let objects = objects();
    let bound = format!("policy=bind,host-nodes={node}");
    let options = format!("memory-backend-ram,size=1T,{bound}");
    let error = Pool::parse(&objects, options, 1000).unwrap_err();
    let message = error.to_string();
    let total = message.split("the ").nth(1).unwrap().split(' ').next();
    let meminfo = format!("/sys/devices/system/node/node{node}/meminfo");
    let meminfo = fs::read_to_string(meminfo).unwrap();
    let line = meminfo.lines().find(|line| line.contains("MemTotal:"));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(3)
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(total.unwrap(), (kib << 10).to_string(), "{message}");
    let pool = pool(&objects, &format!("ram,size=1M,{bound}"), 1);
    assert!(!pool.wait(1, Some(Duration::ZERO)).unwrap() || pool.status().ready == 1);
    assert!(pool.wait(1, None).unwrap());
    let taken = pool.take("vm0").unwrap();
    let policy = taken.backend.placement().unwrap().policy;
    assert_eq!(policy, format!("bind:{node}"));
}

/// Each has a private copy of what the descriptor is of.
#[test]
fn each_copy_of_a_file_is_another() {
    let objects = objects();
    let file = memfd("user", 0, SIZE);
    file.write_all_at(&[5; 64], 0).unwrap();
    let options = format!("fd,share=off,size=8M,fd={}", file.as_raw_fd());
    let pool = full_pool(&objects, &options, 2);
    drop(file);
    for id in ["vm0", "vm1", "vm2", "vm3"] {
        let taken = pool.take(id).unwrap();
        let claim = taken.backend.claim("test").unwrap();
        assert!(has(&claim, 0, 64, 5), "{id}");
        fill(&claim, 0, 64, 9);
    }
}

#[test]
fn a_pool_without_a_descriptor_for_its_file_is_none() {
    in_child("a_pool_without_a_descriptor_for_its_file_is_none", || {
        let objects = objects();
        let file = memfd("user", 0, SIZE);
        let fd = file.as_raw_fd();
        let before = Belongings::now().without_stacks();
        let options = format!("memory-backend-fd,id=m0,share=off,size=8M,fd={fd}");
        let template = objects.parse(options).unwrap();
        let refusal =
            Refusal::new(libc::SYS_fcntl, libc::EMFILE).only(1, libc::F_DUPFD_CLOEXEC as u64);
        let failed = refusing(&[refusal], || Pool::new(template, 1)).unwrap_err();
        let message = failed.to_string();
        assert!(message.contains("fd cannot be duplicated"), "{message}");
        assert_eq!(failed.kind(), ErrorKind::NoMemory, "{message}");
        assert_eq!(failed.raw_os_error(), Some(libc::EMFILE), "{message}");
        assert_eq!(Belongings::now().without_stacks(), before);
    });
}

#[test]
fn a_shortage_is_a_status_and_tried_again() {
    let Some(_pool) = HugePages::have(4) else {
        return;
    };
    let objects = objects();
    let huge = "size=8M,hugetlb=on,hugetlbsize=2M";
    let other = objects
        .parse(format!("memory-backend-memfd,id=other,{huge}"))
        .unwrap()
        .complete()
        .unwrap();
    let pool = pool(&objects, &format!("memfd,{huge}"), 1);
    let status = wait_until(&pool, "a failure", |status| status.failures > 0);
    let failure = status.failure.unwrap();
    assert_eq!(failure.kind(), ErrorKind::NoMemory, "{failure}");
    assert!(failure.to_string().contains("huge pages"), "{failure}");
    assert_eq!(status.ready, 0);
    // Nor can one be made at once.
    let error = pool.take("vm0").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoMemory, "{error}");
    objects.builder("memory-backend-ram", "vm0").unwrap();
    let status = wait_until(&pool, "a longer pause", |status| status.failures > 1);
    assert!(status.retry.unwrap() > Duration::from_secs(1), "{status:?}");
    drop(other);
    // At once, not after the pause.
    pool.set_count(1).unwrap();
    assert!(pool.wait(1, Some(Duration::from_secs(10))).unwrap());
    assert!(pool.status().failure.is_none());
    assert!(pool.take("vm0").unwrap().was_ready);
    // What was taken has the pages now.
    drop(pool);
}

/// The scheduling policies of the threads of that name.
fn policies(name: &str) -> Vec<i32> {
    let stat = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("stat")).ok();
    let policy = |stat: String| {
        let (head, rest) = stat.rsplit_once(") ").unwrap();
        let is_it = head.split_once('(').unwrap().1 == name;
        is_it.then(|| rest.split(' ').nth(38).unwrap().parse().unwrap())
    };
    fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|entry| stat(entry.unwrap()))
        .filter_map(policy)
        .collect()
}

#[test]
fn only_idle_threads_refill() {
    let objects = objects();
    let context = objects.thread_context("tc0").unwrap().complete().unwrap();
    for (name, rest) in [("own", ""), ("linked", ",prealloc-context=tc0")] {
        let options =
            format!("memory-backend-memfd,id={name},size=64M,thp=never,prealloc-threads=2{rest}");
        let pool = Pool::new(objects.parse(options).unwrap(), 1).unwrap();
        let mut most = 0;
        while pool.status().ready == 0 {
            let policies = policies(&format!("hm-{name}"));
            // A thread has its name when its policy is set.
            assert!(
                policies.iter().all(|&policy| policy == libc::SCHED_IDLE),
                "{policies:?}"
            );
            most = most.max(policies.len());
        }
        assert!(most >= 2, "{name}: {most}");
        assert_eq!(context.can_be_deleted().is_err(), name == "linked");
        // What the taker does with it is not idle.
        let taken = pool.take("vm0").unwrap().backend;
        taken.claim("test").unwrap().discard(0, 64 * MIB).unwrap();
        std::thread::scope(|scope| {
            let filler = scope.spawn(|| taken.populate(0, 64 * MIB).unwrap());
            while !filler.is_finished() {
                let policies = policies("hm-vm0");
                assert!(policies.iter().all(|&policy| policy != libc::SCHED_IDLE));
            }
        });
    }
    assert_eq!(context.can_be_deleted(), Ok(()));
}

#[test]
fn a_pool_that_goes_leaves_nothing() {
    in_child("a_pool_that_goes_leaves_nothing", || {
        let objects = objects();
        // Once before, for what the C library keeps.
        drop(full_pool(&objects, "memfd,size=8M", 2));
        let before = Belongings::now();
        drop(full_pool(&objects, "memfd,size=8M", 2));
        assert_eq!(Belongings::now(), before);
        // While it fills, at any moment of that.
        for microseconds in (0..20_000).step_by(2000) {
            let pool = pool(&objects, "memfd,size=256M,thp=never", 1);
            std::thread::sleep(Duration::from_micros(microseconds));
            let start = Instant::now();
            drop(pool);
            assert!(
                start.elapsed() < Duration::from_secs(2),
                "{:?}",
                start.elapsed()
            );
            assert_eq!(Belongings::now(), before);
        }
        // Waiting for the next attempt.
        if let Some(_pool) = HugePages::have(0) {
            let options = "memory-backend-memfd,size=8M,hugetlb=on,hugetlbsize=2M";
            let error = Pool::parse(&objects, options, 1).unwrap_err();
            assert!(error.to_string().contains("more than"), "{error}");
        }
    });
}

#[test]
fn a_forked_child_has_no_pool() {
    let objects = objects();
    let pool = full_pool(&objects, "ram,size=8M", 1);
    in_forked_child(|| {
        let kind = |error: hostmem::Error| error.kind();
        let refused = pool.take("vm0").map_err(kind).unwrap_err() == ErrorKind::State
            && pool.withdraw("vm0").map_err(kind).unwrap_err() == ErrorKind::State
            && pool.set_count(2).map_err(kind) == Err(ErrorKind::State)
            && pool.wait(1, PATIENCE).map_err(kind) == Err(ErrorKind::State);
        let nothing = pool.status().count == 0;
        drop(pool);
        refused && nothing
    });
}

#[test]
fn many_take_at_once() {
    let objects = objects();
    let pool = full_pool(&objects, "memfd,size=1M", 8);
    let inodes: Vec<_> = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..8)
            .map(|i| {
                let pool = &pool;
                scope.spawn(move || {
                    let inode = |j: i32| {
                        let taken = pool.take(&format!("vm{i}-{j}")).unwrap();
                        let claim = taken.backend.claim("test").unwrap();
                        assert!(has(&claim, 0, MIB, 0));
                        fill(&claim, 0, MIB, 9);
                        let file = descriptor(&claim);
                        (file.metadata().unwrap().ino(), file)
                    };
                    (0..20).map(inode).collect::<Vec<_>>()
                })
            })
            .collect();
        let all = takers.into_iter().flat_map(|taker| taker.join().unwrap());
        all.collect()
    });
    let different: BTreeSet<_> = inodes.iter().map(|(inode, _)| inode).collect();
    assert_eq!(different.len(), 160);
    let status = pool.status();
    assert_eq!(status.taken + status.made, 160);
}

#[test]
fn what_is_withdrawn_is_not_replaced() {
    let objects = objects();
    let pool = full_pool(&objects, "memfd,size=8M", 2);
    let _other = objects.builder("memory-backend-ram", "vm0").unwrap();
    assert_eq!(pool.withdraw("vm0").unwrap_err().kind(), ErrorKind::Value);
    assert_eq!(pool.status().count, 2);
    let backends = ["vm1", "vm2"].map(|id| pool.withdraw(id).unwrap());
    for backend in &backends {
        assert_eq!(backend.placement().unwrap().resident, SIZE);
    }
    let status = pool.status();
    assert_eq!((status.count, status.ready, status.taken), (0, 0, 2));
    let error = pool.withdraw("vm3").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("none is ready"), "{error}");
    // Nothing is waited for, and nothing filled.
    assert!(pool.wait(2, PATIENCE).unwrap());
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!((pool.status().ready, pool.status().filling), (0, false));
    pool.set_count(1).unwrap();
    assert!(pool.wait(1, PATIENCE).unwrap());
    assert!(pool.take("vm3").unwrap().was_ready);
}

#[test]
fn what_cannot_be_taken_changes_no_count() {
    let objects = objects();
    let pool = full_pool(&objects, "ram,size=64K", 3);
    let _other = objects.builder("memory-backend-ram", "vm0").unwrap();
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for take in [Pool::withdraw, |pool: &Pool, id: &str| {
            pool.take(id).map(|taken| taken.backend)
        }] {
            let (pool, ends) = (&pool, &ends);
            scope.spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    take(pool, "vm0").unwrap_err();
                }
            });
        }
        let start = Instant::now();
        let mut rounds = (0..).take_while(|_| start.elapsed() < Duration::from_millis(500));
        let wrong = rounds.find(|round| {
            let count = 1 + round % 3;
            pool.set_count(count).unwrap();
            let status = pool.status();
            status.count != count || status.ready > count
        });
        ends.store(true, Ordering::Relaxed);
        assert_eq!(wrong, None);
    });
    pool.set_count(2).unwrap();
    let full = wait_until(&pool, "it is full", |status| {
        status.ready == 2 && !status.filling
    });
    assert_eq!((full.count, full.taken, full.made), (2, 0, 0));
}

/// Those who have taken memory go first, but not for ever.
#[test]
fn filling_rests_for_a_time() {
    const LARGE: u64 = 256 * MIB;
    let objects = objects();
    let pool = pool(&objects, "memfd,size=256M,thp=never,prealloc-threads=1", 1);
    let has_begun = |status: &PoolStatus| status.bytes > 0;
    wait_until(&pool, "it fills", has_begun);
    let rest = Duration::from_millis(400);
    let start = Instant::now();
    pool.rest(rest);
    let before = pool.status();
    if before.ready > 0 {
        return skip("filling is too fast to be met while it runs");
    }
    loop {
        let status = pool.status();
        if start.elapsed() >= rest {
            break;
        }
        // A chunk that had begun may end.
        assert!(status.bytes <= before.bytes + MIB, "{before:?} {status:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(pool.wait(1, PATIENCE).unwrap());
    // Nobody waits for one that rests and is not needed any more.
    pool.set_count(2).unwrap();
    wait_until(&pool, "it fills", |status| status.bytes > LARGE);
    std::thread::sleep(rest);
    pool.rest(Duration::from_secs(60));
    let start = Instant::now();
    drop(pool);
    assert!(start.elapsed() < Duration::from_secs(10));
}

/// Memory of an embedder's kind: each time another, or always the same.
struct Embedded {
    own: bool,
    same: std::fs::File,
}

impl hostmem::Kind for Embedded {
    fn allocate(
        &self,
        request: &hostmem::Request<'_>,
    ) -> Result<hostmem::Backing, Box<dyn std::error::Error + Send + Sync>> {
        let file = match self.own {
            true => memfd("embedded", 0, request.size()?),
            false => self.same.try_clone()?,
        };
        let fd = hostmem::BackingFd::new(file);
        Ok(match self.own {
            true => fd.own(true).into(),
            false => fd.into(),
        })
    }
}

#[test]
fn an_embedders_kind_says_whether_memory_is_its_own() {
    for own in [true, false] {
        let objects = objects();
        let same = memfd("same", 0, SIZE);
        objects
            .register_kind("embedded", "A test.", true, Embedded { own, same })
            .unwrap();
        let template = objects.builder("embedded", "vm0").unwrap().size(SIZE);
        let pool = Pool::new(template, 2).unwrap();
        if own {
            assert!(pool.wait(2, PATIENCE).unwrap(), "{:?}", pool.status());
            let taken = pool.take("vm1").unwrap();
            assert!(taken.was_ready);
            assert!(has(&taken.backend.claim("test").unwrap(), 0, SIZE, 0));
            continue;
        }
        let status = wait_until(&pool, "a failure", |status| status.failures > 0);
        let failure = status.failure.unwrap();
        assert_eq!(failure.kind(), ErrorKind::Value, "{failure}");
        assert!(failure.to_string().contains("same memory"), "{failure}");
        assert_eq!(status.ready, 0);
        let error = pool.take("vm1").unwrap_err();
        assert!(error.to_string().contains("same memory"), "{error}");
    }
}

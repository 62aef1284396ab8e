// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Preallocation: every page there, contents untouched, by the threads asked for, or an error that
//! says how far it came.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;

use common::in_child;
use common::meminfo;
use common::objects;
use common::page_size;
use common::populates_by_call;
use common::ram;
use common::refusing;
use common::Belongings;
use common::Refusal;
use hostmem::Backend;
use hostmem::Builder;
use hostmem::ErrorKind;
use hostmem::Value;

const MIB: u64 = 1 << 20;
const MADV_POPULATE_WRITE: u64 = 23;

fn threads(backend: &Backend) -> u32 {
    backend.prealloc_result().unwrap().threads
}

fn usable_cpus() -> u32 {
    std::thread::available_parallelism().unwrap().get() as u32
}

#[test]
fn every_page_is_there_afterwards() {
    let page = page_size();
    for size in [
        page,
        3 * page,
        2 * MIB - page,
        2 * MIB,
        5 * MIB + page,
        67 * MIB,
    ] {
        for rest in ["thp=never", "thp=auto", "share=on"] {
            let options = format!("size={size},prealloc=on,{rest}");
            let backend = ram(&options).complete().unwrap();
            let placement = backend.placement().unwrap();
            assert_eq!(placement.resident, size, "{options}");
            assert_eq!(placement.absent, 0, "{options}");
            assert_eq!(backend.prealloc_result().unwrap().bytes, size);
            assert_eq!(backend.progress().done, size);
        }
    }
}

#[test]
fn contents_are_untouched() {
    for rest in ["thp=never", "thp=always", "share=on"] {
        let backend = ram(&format!("size=16M,{rest}")).complete().unwrap();
        let claim = backend.claim("test").unwrap();
        let memory = claim.memory();
        let places: Vec<usize> = (0..16 << 20).step_by(3 * 4096 + 17).collect();
        for &at in &places {
            // SAFETY: inside the memory, mapped as long as the claim lives, used by nobody else.
            unsafe { memory.as_ptr().add(at).write_volatile(at as u8 | 1) };
        }
        backend.set("prealloc", true).unwrap();
        assert_eq!(backend.placement().unwrap().resident, 16 * MIB, "{rest}");
        for &at in &places {
            // SAFETY: as above.
            let byte = unsafe { memory.as_ptr().add(at).read_volatile() };
            assert_eq!(byte, at as u8 | 1, "{rest}: {at}");
        }
    }
}

/// Switching it off again would promise that memory is not there.
#[test]
fn it_cannot_be_switched_off_again() {
    let backend = ram("size=1M,prealloc=on").complete().unwrap();
    let error = backend.set("prealloc", false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State);
    assert!(error.to_string().contains("discard"), "{error}");
    assert_eq!(backend.get_text("prealloc").unwrap(), "on");
    backend.set("prealloc", true).unwrap();
}

#[test]
fn there_are_as_many_threads_as_asked_for_and_useful() {
    if !populates_by_call() {
        return;
    }
    // In huge pages a chunk is one of them, or more.
    let chunk = common::thp_size().unwrap_or(0).max(8 * MIB);
    let huge = |chunks: u64| format!("size={},thp=always", chunks * chunk);
    for (options, expected) in [
        ("size=64M,thp=never,prealloc-threads=1".to_owned(), 1),
        ("size=64M,thp=never,prealloc-threads=3".into(), 3),
        ("size=64M,thp=never,prealloc-threads=20".into(), 20),
        // 512 KiB of small pages each, and a chunk each.
        ("size=512K,thp=never,prealloc-threads=20".into(), 1),
        ("size=6M,thp=never,prealloc-threads=20".into(), 3),
        // 8 MiB of huge pages each.
        (format!("{},prealloc-threads=20", huge(1)), 1),
        (format!("{},prealloc-threads=20", huge(2)), 2),
        (huge(8), usable_cpus().min(8)),
    ] {
        let backend = ram(&format!("{options},prealloc=on")).complete().unwrap();
        assert_eq!(threads(&backend), expected, "{options}");
    }
}

/// What one thread of this process looks like to the kernel.
fn task(entry: &fs::DirEntry) -> Option<(String, u64, String)> {
    let name = fs::read_to_string(entry.path().join("comm")).ok()?;
    let status = fs::read_to_string(entry.path().join("status")).ok()?;
    let field = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().to_owned())
    };
    let blocked = u64::from_str_radix(&field("SigBlk:")?, 16).ok()?;
    Some((
        name.trim().to_owned(),
        blocked,
        field("Cpus_allowed_list:")?,
    ))
}

/// Completes a backend; returns it and its workers as they were seen meanwhile.
fn watch_workers(options: &str) -> (Backend, Vec<(String, u64, String)>) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                let tasks = fs::read_dir("/proc/self/task").unwrap();
                seen.extend(tasks.filter_map(|entry| task(&entry.unwrap())));
            }
            // One that begins is not named yet, nor on its CPUs.
            seen.retain(|task| task.0 == "hm-ram0");
            seen.into_iter().collect()
        });
        let backend = ram(options).complete().unwrap();
        done.store(true, Ordering::Relaxed);
        (backend, watcher.join().unwrap())
    })
}

/// The library's threads must not take the program's signals, and have names in a process list.
#[test]
fn workers_are_named_and_leave_signals_alone() {
    in_child("workers_are_named_and_leave_signals_alone", || {
        let before = Belongings::now();
        let options = "size=512M,thp=never,prealloc=on,prealloc-threads=4";
        let (backend, workers) = watch_workers(options);
        assert!(!workers.is_empty());
        let mut working = false;
        // Of a thread that is gone the kernel tells none.
        for (_, blocked, _) in workers.into_iter().filter(|task| task.1 != 0) {
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGALRM, libc::SIGUSR1] {
                assert_ne!(blocked & 1 << (signal - 1), 0, "signal {signal}");
            }
            // A thread that ends has all of them blocked by libc.
            let faults = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];
            working |= faults.iter().all(|signal| blocked & 1 << (signal - 1) == 0);
        }
        assert!(working);
        drop(backend);
        assert_eq!(Belongings::now().threads(), before.threads());
    });
}

#[test]
fn progress_rises_to_the_whole() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let report = Arc::clone(&seen);
    let backend = ram("size=512M,thp=never,prealloc=on")
        .on_progress(move |done, total| report.lock().unwrap().push((done, total)))
        .complete()
        .unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(seen.iter().all(|&(_, total)| total == 512 * MIB));
    assert_eq!(seen.last(), Some(&(512 * MIB, 512 * MIB)));
    // At most every 100 ms, and once at the end.
    let most = 2 + backend.prealloc_result().unwrap().duration.as_millis() / 100;
    assert!(seen.len() as u128 <= most, "{} of {most}", seen.len());
}

#[test]
fn a_failure_says_how_far_it_came() {
    if !populates_by_call() {
        return;
    }
    let page = page_size();
    // Populating fails from the third chunk of 2 MiB on: the length tells the last one apart.
    let size = 4 * MIB + page;
    let refusal = Refusal::new(libc::SYS_madvise, libc::EHWPOISON)
        .only(1, page)
        .only(2, MADV_POPULATE_WRITE);
    let options = format!("size={size},thp=never,prealloc=on,prealloc-threads=1");
    let builder = ram(&options);
    let failed = refusing(&[refusal], || builder.complete().unwrap_err());
    assert_eq!(failed.error.kind(), ErrorKind::Io);
    assert_eq!(failed.error.raw_os_error(), Some(libc::EHWPOISON));
    let message = failed.to_string();
    for words in [
        "ram0: prealloc: ",
        &format!("after {} of {size} bytes", 4 * MIB),
        &format!("at offset {}", 4 * MIB),
        "hardware",
    ] {
        assert!(message.contains(words), "{message}");
    }
    let backend = failed.object.complete().unwrap();
    assert_eq!(backend.placement().unwrap().resident, size);
}

#[test]
fn an_errno_of_populate_becomes_a_kind_of_error() {
    if !populates_by_call() {
        return;
    }
    for (errno, kind, words) in [
        (libc::EFAULT, ErrorKind::NoMemory, "SIGBUS"),
        (libc::ENOMEM, ErrorKind::NoMemory, "offset 0"),
        (libc::EINVAL, ErrorKind::Io, "offset 0"),
        (libc::EAGAIN, ErrorKind::NoMemory, "offset 0"),
    ] {
        let refusal = Refusal::new(libc::SYS_madvise, errno).only(2, MADV_POPULATE_WRITE);
        let builder = ram("size=1M,prealloc=on");
        let failed = refusing(&[refusal], || builder.complete().unwrap_err());
        assert_eq!(failed.error.kind(), kind, "{failed}");
        assert_eq!(failed.error.raw_os_error(), Some(errno));
        assert!(failed.to_string().contains(words), "{failed}");
        assert!(failed.object.complete().is_ok());
    }
}

/// The optimisation is nothing that a result depends on.
#[test]
fn without_the_last_page_first_the_result_is_the_same() {
    let page = page_size();
    let refusal = Refusal::new(libc::SYS_madvise, libc::ENOMEM)
        .only(1, page)
        .only(2, MADV_POPULATE_WRITE);
    let builder = ram("size=16M,thp=always,prealloc=on");
    let backend = refusing(&[refusal], || builder.complete().unwrap());
    assert_eq!(backend.placement().unwrap().resident, 16 * MIB);
}

#[test]
fn threads_that_cannot_be_created_just_mean_fewer() {
    let refusals = [
        Refusal::new(libc::SYS_clone3, libc::EAGAIN),
        Refusal::new(libc::SYS_clone, libc::EAGAIN),
    ];
    let builder = ram("size=64M,thp=never,prealloc=on,prealloc-threads=4");
    let backend = refusing(&refusals, || builder.complete().unwrap());
    assert_eq!(threads(&backend), 1);
    assert_eq!(backend.placement().unwrap().resident, 64 * MIB);
}

fn allowed_cpus() -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = |key| status.lines().find_map(|line| line.strip_prefix(key));
    line("Cpus_allowed_list:").unwrap().trim().to_owned()
}

/// Where each CPU gets a worker, that is where it begins, not where it has to stay.
#[test]
fn workers_may_go_where_the_caller_may() {
    in_child("workers_may_go_where_the_caller_may", || {
        for threads in [usable_cpus(), usable_cpus() + 1] {
            let options = format!("size=512M,thp=never,prealloc=on,prealloc-threads={threads}");
            let (_, workers) = watch_workers(&options);
            assert!(!workers.is_empty() || threads == 1);
            for (_, _, cpus) in workers {
                assert_eq!(cpus, allowed_cpus());
            }
        }
    });
}

#[cfg(feature = "numa")]
mod bound {
    use super::*;
    use common::skip;

    fn node_cpus() -> Option<String> {
        let cpus = fs::read_to_string("/sys/devices/system/node/node0/cpulist").ok()?;
        Some(cpus.trim().to_owned())
    }

    /// The caller's own affinity is not ours to change, so pinned work is done by workers only.
    #[test]
    fn workers_run_on_the_cpus_of_the_nodes() {
        in_child("bound::workers_run_on_the_cpus_of_the_nodes", || {
            let Some(cpus) = node_cpus() else {
                return skip("this kernel has no NUMA");
            };
            let before = allowed_cpus();
            let options = "size=512M,thp=never,prealloc=on,policy=bind,host-nodes=0";
            let (backend, workers) = watch_workers(options);
            assert_eq!(allowed_cpus(), before);
            let result = backend.prealloc_result().unwrap();
            assert_eq!(result.affinity_error, None);
            assert!(!workers.is_empty());
            for (_, _, worker_cpus) in workers {
                assert_eq!(*worker_cpus, cpus);
            }
        });
    }

    #[test]
    fn affinity_that_is_refused_is_reported() {
        if node_cpus().is_none() {
            return skip("this kernel has no NUMA");
        }
        let builder = ram("size=64M,prealloc=on,policy=bind,host-nodes=0");
        let refusal = [Refusal::new(libc::SYS_sched_setaffinity, libc::EPERM)];
        let backend = refusing(&refusal, || builder.complete().unwrap());
        let result = backend.prealloc_result().unwrap();
        assert_eq!(result.affinity_error, Some(libc::EPERM));
        assert_eq!(backend.placement().unwrap().resident, 64 * MIB);
    }

    #[test]
    fn without_workers_the_caller_does_the_work() {
        if node_cpus().is_none() {
            return skip("this kernel has no NUMA");
        }
        for errno in [libc::EAGAIN, libc::EPERM] {
            let refusals =
                [libc::SYS_clone3, libc::SYS_clone].map(|call| Refusal::new(call, errno));
            let builder = ram("size=64M,prealloc=on,policy=bind,host-nodes=0");
            let backend = refusing(&refusals, || builder.complete().unwrap());
            let result = backend.prealloc_result().unwrap();
            // What the C library makes of it: musl always the same.
            let musl = cfg!(target_env = "musl");
            let errno = if musl { libc::EAGAIN } else { errno };
            assert_eq!((result.threads, result.affinity_error), (1, Some(errno)));
            assert_eq!(backend.placement().unwrap().resident, 64 * MIB);
        }
    }
}

/// Running out of small pages would end in the OOM killer, so it is refused while there is room.
#[test]
fn a_shortage_of_memory_is_an_error() {
    let Some(_no_swap) = common::without_swap() else {
        return;
    };
    let page = page_size();
    // Below all of memory, so that the kernel's overcommit guess lets it be mapped.
    let size = meminfo("MemTotal:") / page * page;
    let failed = ram(&format!("size={size},prealloc=on"))
        .complete()
        .unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::NoMemory);
    assert_eq!(failed.error.raw_os_error(), Some(libc::ENOMEM));
    let message = failed.to_string();
    for words in [
        "ram0: prealloc: stopped before memory runs out",
        "after 0 of",
        "smaller size",
    ] {
        assert!(message.contains(words), "{message}");
    }
    let backend = failed.object.size(MIB).complete().unwrap();
    assert_eq!(backend.placement().unwrap().resident, MIB);
}

/// Each is filled as it would be by itself, by the threads that all of them are worth.
#[test]
fn several_are_filled_together() {
    let set = objects();
    let options = [
        (
            "memory-backend-ram",
            "size=64M,thp=never,prealloc=on,prealloc-threads=3",
        ),
        ("memory-backend-ram", "size=32M,thp=always,prealloc=on"),
        (
            "memory-backend-memfd",
            "size=16M,prealloc=on,prealloc-threads=2",
        ),
        (
            "memory-backend-ram",
            "size=64K,prealloc=on,prealloc-threads=1",
        ),
        ("memory-backend-ram", "size=8M"),
        (
            "memory-backend-ram",
            "size=64M,prealloc=on,prealloc-mode=background",
        ),
    ];
    let calls = Arc::new(Mutex::new([0; 6]));
    let builders = (0..).zip(options).map(|(i, (kind, rest))| {
        let calls = Arc::clone(&calls);
        let builder = set.parse(format!("{kind},id=m{i},{rest}")).unwrap();
        builder.on_progress(move |_, _| calls.lock().unwrap()[i] += 1)
    });
    let backends = Builder::complete_all(builders.collect()).unwrap();
    assert!(backends[5].wait_prealloc(None).unwrap());
    for (i, backend) in backends.iter().enumerate() {
        let size = match backend.get("size").unwrap() {
            Value::Number(size) => size,
            other => panic!("{other:?}"),
        };
        let expected = if i == 4 { 0 } else { size };
        assert_eq!(backend.id(), format!("m{i}"));
        assert_eq!(backend.placement().unwrap().resident, expected, "m{i}");
        let result = backend.prealloc_result();
        assert_eq!(result.map_or(0, |result| result.bytes), expected, "m{i}");
        let threads = result.map_or(0, |result| result.threads);
        match i {
            4 => assert_eq!(threads, 0),
            5 => assert_eq!(threads, usable_cpus().min(8)),
            _ => assert_eq!(threads, usable_cpus().max(3)),
        }
    }
    // Once each, in the end; nothing was to be told before.
    let calls = calls.lock().unwrap();
    assert!(
        calls.iter().enumerate().all(|(i, &n)| (n > 0) == (i != 4)),
        "{calls:?}"
    );
}

/// Threads that have to run in another place, or under another policy, are not shared.
#[test]
fn places_and_policies_have_threads_of_their_own() {
    let Some(node) = common::bindable_node() else {
        return;
    };
    let Some(disk) = common::directory_on_disk() else {
        return;
    };
    let file = |name: &str| {
        let path = disk.path().join(name);
        format!("memory-backend-file,share=on,mem-path={}", path.display())
    };
    let ram = "memory-backend-ram,thp=never".to_owned();
    let set = objects();
    let builders = (0..).zip([
        (ram.clone(), "size=32M,prealloc-threads=4".to_owned(), 4),
        (
            ram,
            format!("size=16M,prealloc-threads=2,policy=bind,host-nodes={node}"),
            2,
        ),
        (
            file("bound"),
            format!("size=24M,prealloc-threads=3,policy=bind,host-nodes={node}"),
            3,
        ),
        (
            file("preferred"),
            format!("size=16M,prealloc-threads=1,policy=preferred,host-nodes={node}"),
            1,
        ),
    ]);
    let (builders, expected): (Vec<_>, Vec<u32>) = builders
        .map(|(i, (kind, rest, threads))| {
            let options = format!("{kind},id=m{i},prealloc=on,{rest}");
            (set.parse(options).unwrap(), threads)
        })
        .unzip();
    let backends = Builder::complete_all(builders).unwrap();
    let threads: Vec<_> = backends.iter().map(threads).collect();
    assert_eq!(threads, expected);
}

/// Whichever of them fails, at whatever step: all come back, nothing stays, and without the one that
/// is to blame the others are completed.
#[test]
fn of_several_all_are_completed_or_none() {
    in_child("of_several_all_are_completed_or_none", || {
        const BACKGROUND: &str = "size=4M,prealloc=on,prealloc-mode=background";
        for (bad, kind, refusal) in [
            // Wrong from the start, too large to map, not to be filled, no thread for the background.
            ("size=0x1001", ErrorKind::Value, None),
            ("size=1024T", ErrorKind::NoMemory, None),
            (
                "size=16M,prealloc=on,thp=never",
                ErrorKind::NoMemory,
                Some(Refusal::new(libc::SYS_madvise, libc::ENOMEM).only(1, 2 << 20)),
            ),
            (
                BACKGROUND,
                ErrorKind::NoMemory,
                Some(Refusal::new(libc::SYS_eventfd2, libc::EMFILE)),
            ),
        ] {
            let is_of_populate = bad.contains("thp=never");
            if is_of_populate && !populates_by_call() {
                continue;
            }
            let set = objects();
            let parse = |id: &str, rest: &str| {
                set.parse(format!("memory-backend-ram,id={id},{rest}"))
                    .unwrap()
            };
            let good = ["size=1M,prealloc=on,thp=never", "size=1M,share=on"];
            let builders = vec![parse("a", good[0]), parse("bad", bad), parse("b", good[1])];
            let refusals: Vec<_> = refusal.into_iter().collect();
            let failed = refusing(&refusals, || {
                // The stacks of threads that have ended are kept for the next.
                drop(ram("size=16M,prealloc=on").complete());
                let before = Belongings::now();
                let failed = Builder::complete_all(builders).unwrap_err();
                assert!(Belongings::now() == before, "{failed}");
                failed
            });
            assert_eq!(failed.error.kind(), kind, "{failed}");
            assert!(failed.to_string().starts_with("bad: "), "{failed}");
            let mut builders = failed.object;
            let ids: Vec<_> = builders.iter().map(|b| b.id().to_owned()).collect();
            assert_eq!(ids, ["a", "bad", "b"]);
            drop(builders.remove(1));
            let backends = Builder::complete_all(builders).unwrap();
            assert_eq!(backends[0].placement().unwrap().resident, MIB);
        }
    });
}

/// Each by itself is worth no second thread.
#[test]
fn small_ones_together_are_worth_more_threads() {
    if !populates_by_call() {
        return;
    }
    let Some(size) = common::thp_size() else {
        return;
    };
    let set = objects();
    for count in [1, 3, 4, 7, 8, 16] {
        // 8 MiB for each, and a huge page.
        let threads = (count * size / (8 * MIB)).min(count).clamp(1, 4);
        let builders = (0..count).map(|i| {
            let rest = format!("size={size},thp=always,prealloc=on,prealloc-threads=4");
            set.parse(format!("memory-backend-ram,id=m{i},{rest}"))
                .unwrap()
        });
        for backend in Builder::complete_all(builders.collect()).unwrap() {
            assert_eq!(self::threads(&backend), threads as u32, "{count}");
        }
    }
}

#[test]
fn none_are_completed_at_once() {
    assert!(Builder::complete_all(Vec::new()).unwrap().is_empty());
}

/// One deferred error of a chain is enough, and says whose it is.
#[test]
fn an_error_of_a_chain_keeps_all_from_being_completed() {
    let set = objects();
    let good = set.builder("memory-backend-ram", "a").unwrap().size(65536);
    let bad = set.builder("memory-backend-ram", "b").unwrap().size(0);
    let failed = Builder::complete_all(vec![good, bad]).unwrap_err();
    assert!(failed.to_string().starts_with("b: size"), "{failed}");
    assert_eq!(failed.object.len(), 2);
}

/// More threads than any of the machines that this is for has CPUs.
#[test]
fn many_threads_do_no_harm() {
    for (size, threads) in [("1G", 256), ("256M", 300)] {
        let options = format!("size={size},thp=never,prealloc=on,prealloc-threads={threads}");
        let backend = ram(&options).complete().unwrap();
        assert_eq!(backend.placement().unwrap().absent, 0, "{options}");
        let threads = backend.prealloc_result().unwrap().threads;
        assert!(threads > 100, "{options}: {threads}");
    }
}

/// A chunk each, all in one queue, with more threads than CPUs.
#[test]
fn ten_thousand_chunks_are_all_taken() {
    const COUNT: u64 = 10_000;
    let (set, page) = (objects(), page_size());
    let builders = (0..COUNT).map(|i| {
        let builder = set.builder("memory-backend-ram", &format!("m{i}")).unwrap();
        builder.size(page).prealloc(true).prealloc_threads(16)
    });
    let backends = Builder::complete_all(builders.collect()).unwrap();
    let done = backends.iter().map(|backend| backend.progress().done);
    assert_eq!(done.sum::<u64>(), COUNT * page);
    // Each is a walk over all of the process's mappings.
    for backend in backends.iter().step_by(999) {
        assert_eq!(backend.placement().unwrap().resident, page);
    }
}

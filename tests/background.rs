// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Preallocation in the background: the memory is used while it fills, and whichever thread is first
//! does no harm.

mod common;

use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::Weak;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use common::in_child;
use common::page_size;
use common::populates_by_call;
use common::ram;
use common::refusing;
use common::Belongings;
use common::Refusal;
use hostmem::Backend;
use hostmem::ErrorKind;
use hostmem::Policy;
use hostmem::Rebind;
use hostmem::State;

const MIB: u64 = 1 << 20;
const MADV_POPULATE_WRITE: u64 = 23;
/// Small pages, so that there is time to look while it fills.
const BACKGROUND: &str = "thp=never,prealloc=on,prealloc-mode=background";

fn begin(size: &str) -> Backend {
    ram(&format!("size={size},{BACKGROUND}"))
        .complete()
        .unwrap()
}

/// Whether the descriptor is readable now.
fn is_readable(backend: &Backend) -> bool {
    let mut poll = libc::pollfd {
        fd: backend.prealloc_event().unwrap().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry, which outlives the call.
    unsafe { libc::poll(&mut poll, 1, 0) == 1 }
}

#[test]
fn completing_does_not_wait_and_the_memory_is_there_in_the_end() {
    // The fill does not end before its callback, which is let go once completing has returned.
    let (let_go, held) = mpsc::channel::<()>();
    let waits = Arc::new(AtomicBool::new(false));
    let waited = Arc::clone(&waits);
    let backend = ram(&format!("size=1G,{BACKGROUND}"))
        .on_progress(move |_, _| {
            let end = held.recv_timeout(Duration::from_secs(60));
            waited.fetch_or(
                end == Err(mpsc::RecvTimeoutError::Timeout),
                Ordering::Relaxed,
            );
        })
        .complete()
        .unwrap();
    assert!(!waits.load(Ordering::Relaxed));
    assert_eq!(backend.state(), State::Ready);
    assert_eq!(backend.get_text("prealloc").unwrap(), "off");
    assert!(!is_readable(&backend));
    assert!(!backend
        .wait_prealloc(Some(Duration::from_millis(1)))
        .unwrap());
    drop(let_go);

    // It is claimed and written meanwhile, and nothing of that is lost.
    let claim = backend.claim("vm0").unwrap();
    let memory = claim.memory();
    let places: Vec<usize> = (0..memory.len() as usize).step_by(5 << 20).collect();
    for &at in &places {
        // SAFETY: inside the memory, mapped as long as the claim lives, written by nobody else.
        unsafe { memory.as_ptr().add(at).write_volatile(at as u8 | 1) };
    }
    assert!(backend.wait_prealloc(None).unwrap());
    assert!(is_readable(&backend));
    for &at in &places {
        // SAFETY: as above.
        let byte = unsafe { memory.as_ptr().add(at).read_volatile() };
        assert_eq!(byte, at as u8 | 1);
    }
    assert_eq!(backend.get_text("prealloc").unwrap(), "on");
    assert_eq!(backend.placement().unwrap().resident, 1024 * MIB);
    assert_eq!(backend.prealloc_result().unwrap().bytes, 1024 * MIB);
    let progress = backend.progress();
    assert_eq!((progress.done, progress.total), (1024 * MIB, 1024 * MIB));
}

#[test]
fn what_would_disturb_the_fill_is_kept_out() {
    let backend = begin("1G");
    for (property, value) in [("prealloc", "on"), ("policy", "local")] {
        let error = backend.set(property, value).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    }
    let error = backend.populate(0, page_size()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    backend.set("dump", false).unwrap();
    assert!(backend.wait_prealloc(None).unwrap());
    backend.set("prealloc", true).unwrap();
}

/// The pages of a range that the kernel has in memory.
fn resident(backend: &Backend, at: *mut u8, length: u64) -> u64 {
    let page = page_size();
    let mut pages = vec![0u8; (length / page) as usize];
    assert_eq!(backend.state(), State::Mapped);
    // SAFETY: only asks about addresses; there is a byte for each page.
    let result = unsafe { libc::mincore(at.cast(), length as usize, pages.as_mut_ptr()) };
    assert_eq!(result, 0);
    pages.iter().filter(|&&byte| byte & 1 != 0).count() as u64
}

/// Filled already, being filled, or yet to be: what is discarded leaves the queue, and locking the
/// rest in the end does not bring it back.
#[test]
fn what_is_discarded_meanwhile_stays_absent() {
    if common::has_address_sanitizer() {
        return;
    }
    let page = page_size();
    let chunk = 2 * MIB;
    let ranges = [
        (0, page),
        (chunk - page, page),
        (3 * chunk, chunk),
        (5 * chunk - page, 2 * page),
        (5 * chunk + page, page),
        (7 * chunk + page, 3 * chunk),
        (300 * MIB, 64 * MIB),
        (310 * MIB, 100 * MIB),
        (512 * MIB - page, page),
    ];
    // Whole ones only: populating a part of a huge page brings all of it.
    let huge = common::thp_size().unwrap_or(page);
    let huge_ranges = [(0, huge), (3 * huge, 5 * huge), (512 * MIB - huge, huge)];
    for (options, ranges, overlap) in [
        ("thp=never", &ranges[..], 54 * MIB),
        ("thp=never,share=on", &ranges, 54 * MIB),
        ("thp=never,lock=on", &ranges, 54 * MIB),
        ("thp=always", &huge_ranges, 0),
    ] {
        let backend = ram(&format!(
            "size=512M,prealloc=on,prealloc-mode=background,{options}"
        ));
        let backend = backend.complete().unwrap();
        let claim = backend.claim("vm0").unwrap();
        for &(offset, length) in ranges {
            claim.discard(offset, length).unwrap();
        }
        backend.wait_prealloc(None).unwrap();
        let mut left_out = 0;
        for &(offset, length) in ranges {
            // SAFETY: inside the memory.
            let at = unsafe { claim.memory().as_ptr().add(offset as usize) };
            assert_eq!(resident(&backend, at, length), 0, "{options}: {offset}");
            left_out += length;
        }
        left_out -= overlap;
        assert_eq!(backend.placement().unwrap().absent, left_out, "{options}");
        let result = backend.prealloc_result().unwrap();
        assert_eq!(result.bytes, 512 * MIB - left_out, "{options}");
        backend.populate(0, 512 * MIB).unwrap();
        assert_eq!(backend.placement().unwrap().absent, 0, "{options}");
    }
}

/// The mode is that of the next preallocation, whether completing asks for it or the property.
#[test]
fn what_was_cancelled_can_be_filled_in_the_background_again() {
    let (told, ends) = std::sync::mpsc::channel();
    let builder = ram(&format!("size=512M,lock=on,{BACKGROUND}"));
    let backend = builder
        .on_prealloc_done(move |result, _| told.send(result.is_ok()).unwrap())
        .complete()
        .unwrap();
    let event = backend.prealloc_event().unwrap().as_raw_fd();
    backend.cancel_prealloc().unwrap();
    assert!(!ends.recv().unwrap());
    // Of a range, which does not make up for the whole.
    backend.populate(0, page_size()).unwrap();
    assert!(backend.wait_prealloc(None).is_err());
    for again in [true, false] {
        backend.set("prealloc", true).unwrap();
        assert_eq!(backend.get_text("prealloc").unwrap(), "off");
        assert_eq!(backend.prealloc_event().unwrap().as_raw_fd(), event);
        assert!(!is_readable(&backend), "it has just begun");
        if again {
            backend.cancel_prealloc().unwrap();
            assert!(!ends.recv().unwrap());
        }
    }
    backend.wait_prealloc(None).unwrap();
    assert!(ends.recv().unwrap() && is_readable(&backend));
    assert_eq!(backend.get_text("prealloc").unwrap(), "on");
    assert_eq!(backend.placement().unwrap().absent, 0);
    backend.set("prealloc", true).unwrap();
    let before = ram("size=64K").complete().unwrap();
    before.set("prealloc-mode", "background").unwrap();
    before.set("prealloc", true).unwrap();
    before.wait_prealloc(None).unwrap();
    assert_eq!(before.get_text("prealloc").unwrap(), "on");
}

#[test]
fn a_discard_that_fails_meanwhile_leaves_nothing_out() {
    let options = format!("size=256M,share=on,{BACKGROUND},prealloc-threads=1");
    let backend = ram(&options).complete().unwrap();
    let claim = backend.claim("vm0").unwrap();
    let refusal = [Refusal::new(libc::SYS_fallocate, libc::EPERM)];
    let refused = refusing(&refusal, || claim.discard(128 * MIB, 128 * MIB));
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
    backend.wait_prealloc(None).unwrap();
    assert_eq!(backend.placement().unwrap().absent, 0);
    assert_eq!(backend.prealloc_result().unwrap().bytes, 256 * MIB);
}

/// However the discards fall between the workers' steps, none of the pages comes back.
#[test]
fn many_discards_meanwhile_lose_to_no_worker() {
    let page = page_size();
    let backend = ram(&format!("size=1G,{BACKGROUND},prealloc-threads=4"));
    let backend = backend.complete().unwrap();
    let claim = backend.claim("vm0").unwrap();
    let mut discarded = std::collections::BTreeSet::new();
    let mut number = 1u64;
    while backend.get_text("prealloc").unwrap() == "off" && discarded.len() < 20_000 {
        // Any full-period generator; the low bits go.
        number = number
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let at = (number >> 33) % (1024 * MIB / page);
        claim.discard(at * page, page).unwrap();
        if backend.get_text("prealloc").unwrap() == "off" {
            discarded.insert(at);
        }
    }
    backend.wait_prealloc(None).unwrap();
    assert!(discarded.len() > 10, "{}", discarded.len());
    for &at in &discarded {
        // SAFETY: inside the memory.
        let at = unsafe { claim.memory().as_ptr().add((at * page) as usize) };
        assert_eq!(resident(&backend, at, page), 0);
    }
}

#[test]
fn cancelling_stops_it_and_says_how_far_it_came() {
    let backend = begin("4G");
    thread::sleep(Duration::from_millis(20));
    let begun = Instant::now();
    let progress = backend.cancel_prealloc().unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert!(progress.done < progress.total, "{progress:?}");
    let error = backend.wait_prealloc(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State);
    assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
    assert!(error.to_string().contains("cancelled after"), "{error}");
    assert_eq!(backend.get_text("prealloc").unwrap(), "off");
    assert!(is_readable(&backend));
    // What was populated stays, and it may be asked for again.
    assert!(backend.placement().unwrap().resident >= progress.done);
    backend.populate(0, 16 * MIB).unwrap();
}

/// Cancels again and again until `run` has returned, which must take no longer than a chunk or two.
#[track_caller]
fn cancel_while<T>(interrupter: &hostmem::Interrupter, run: impl FnOnce() -> T) -> T {
    let ended = AtomicBool::new(false);
    let begun = Instant::now();
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            while !ended.load(Ordering::Relaxed) {
                interrupter.interrupt();
                thread::sleep(Duration::from_millis(1));
            }
        });
        let result = run();
        ended.store(true, Ordering::Relaxed);
        result
    });
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    result
}

#[track_caller]
fn check_cancelled(error: &hostmem::Error) {
    assert_eq!(error.kind(), ErrorKind::State, "{error}");
    assert_eq!(error.raw_os_error(), Some(libc::ECANCELED), "{error}");
}

#[test]
fn a_preallocation_that_somebody_waits_for_is_cancelled_from_elsewhere() {
    let builder = ram("size=4G,thp=never,prealloc=on");
    let interrupter = builder.interrupter();
    let failed = cancel_while(&interrupter, || builder.complete()).unwrap_err();
    check_cancelled(&failed.error);

    // The next one is not affected.
    let mut builder = failed.object;
    builder.set("size", "16M").unwrap();
    interrupter.interrupt();
    let backend = builder.complete().unwrap();
    assert_eq!(backend.placement().unwrap().resident, 16 * MIB);
    interrupter.interrupt();
    backend.populate(0, 16 * MIB).unwrap();
    drop(backend);
    interrupter.interrupt();

    let backend = ram("size=4G,thp=never").complete().unwrap();
    let interrupter = backend.interrupter();
    let populate = || backend.populate(0, 4096 * MIB);
    check_cancelled(&cancel_while(&interrupter, populate).unwrap_err());
    let switch_on = || backend.set("prealloc", true);
    check_cancelled(&cancel_while(&interrupter, switch_on).unwrap_err());
    assert_eq!(backend.get_text("prealloc").unwrap(), "off");
    backend.populate(0, 16 * MIB).unwrap();
}

#[test]
fn cancelling_one_of_several_that_complete_ends_all() {
    for (which, modes) in [(1, ["wait", "wait"]), (0, ["wait", "background"])] {
        let set = common::objects();
        let builder = |id: u32| {
            let options = format!(
                "memory-backend-ram,id=ram{id},size=4G,thp=never,prealloc=on,prealloc-mode={}",
                modes[id as usize]
            );
            set.parse(options).unwrap()
        };
        let builders = vec![builder(0), builder(1)];
        let interrupter = builders[which].interrupter();
        let failed = cancel_while(&interrupter, || hostmem::Builder::complete_all(builders));
        let failed = failed.unwrap_err();
        check_cancelled(&failed.error);
        // All of them can complete again.
        let mut builders = failed.object;
        for builder in &mut builders {
            builder.set("size", "16M").unwrap();
        }
        for backend in hostmem::Builder::complete_all(builders).unwrap() {
            backend.wait_prealloc(None).unwrap();
            assert_eq!(backend.placement().unwrap().resident, 16 * MIB);
        }
    }
}

#[test]
fn what_is_cancelled_while_completing_is_cancelled_in_the_background() {
    let set = common::objects();
    let options = |id: u32, mode: &str| {
        let options = "size=1G,thp=never,prealloc=on,prealloc-mode";
        format!("memory-backend-ram,id=ram{id},{options}={mode}")
    };
    let fills = set.parse(options(0, "background")).unwrap();
    let waits = set.parse(options(1, "wait")).unwrap();
    let interrupter = fills.interrupter();
    let backends = thread::scope(|scope| {
        let complete = || hostmem::Builder::complete_all(vec![fills, waits]);
        let completing = scope.spawn(complete);
        thread::sleep(Duration::from_millis(50));
        interrupter.interrupt();
        completing.join().unwrap().unwrap()
    });
    check_cancelled(&backends[0].wait_prealloc(None).unwrap_err());
    assert_eq!(backends[1].placement().unwrap().resident, 1024 * MIB);
}

#[test]
fn deleting_and_dropping_cancel_it_and_leave_nothing() {
    in_child("deleting_and_dropping_cancel_it_and_leave_nothing", || {
        begin("64M").delete().unwrap();
        let before = Belongings::now();
        for size in ["64M", "4G"] {
            begin(size).delete().unwrap();
            assert_eq!(Belongings::now(), before);
            drop(begin(size));
            assert_eq!(Belongings::now(), before);
            let backend = begin(size);
            let claim = backend.claim("vm0").unwrap();
            drop(backend);
            drop(claim);
            assert_eq!(Belongings::now(), before);
        }
    });
}

#[test]
fn a_failure_reaches_who_waits() {
    if !populates_by_call() {
        return;
    }
    let builder = ram(&format!("size=64M,{BACKGROUND}"));
    let refusal = Refusal::new(libc::SYS_madvise, libc::EHWPOISON).only(2, MADV_POPULATE_WRITE);
    // The threads that fill inherit the filter.
    let backend = refusing(&[refusal], || builder.complete().unwrap());
    let error = backend.wait_prealloc(None).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EHWPOISON));
    assert!(
        error
            .to_string()
            .starts_with("ram0: prealloc: failed after 0 of"),
        "{error}"
    );
    assert_eq!(backend.get_text("prealloc").unwrap(), "off");
    backend.set("prealloc-mode", "wait").unwrap();
    backend.set("prealloc", true).unwrap();
    assert_eq!(backend.placement().unwrap().resident, 64 * MIB);
    backend.wait_prealloc(None).unwrap();
}

/// Completing fails as a whole where the fill cannot even begin.
#[test]
fn a_thread_that_cannot_be_created_fails_completing() {
    in_child("a_thread_that_cannot_be_created_fails_completing", || {
        let refusals = || {
            [
                Refusal::new(libc::SYS_clone3, libc::EAGAIN),
                Refusal::new(libc::SYS_clone, libc::EAGAIN),
            ]
        };
        let fail = || {
            let builder = ram(&format!("size=64M,share=on,{BACKGROUND}"));
            refusing(&refusals(), || builder.complete().unwrap_err())
        };
        drop(fail());
        let before = Belongings::now();
        let failed = fail();
        assert_eq!(failed.error.kind(), ErrorKind::NoMemory);
        assert!(
            failed.to_string().contains("prealloc-mode=wait"),
            "{failed}"
        );
        assert_eq!(Belongings::now(), before);
        assert!(failed
            .object
            .complete()
            .unwrap()
            .wait_prealloc(None)
            .unwrap());
    });
}

#[test]
fn locking_follows_the_fill() {
    let backend = ram(&format!("size=16M,lock=on,{BACKGROUND}"))
        .complete()
        .unwrap();
    assert!(backend.wait_prealloc(None).unwrap());
    let claim = backend.claim("vm0").unwrap();
    let flags = common::vm_flags(claim.memory().as_ptr());
    assert!(flags.contains(&"lo".to_owned()), "{flags:?}");
}

#[test]
fn waiting_and_cancelling_are_about_the_background_only() {
    let slot = Arc::new(OnceLock::<Weak<Backend>>::new());
    let calls = Arc::new(AtomicU32::new(0));
    let (seen, counted) = (Arc::clone(&slot), Arc::clone(&calls));
    let backend = ram("size=16M,thp=never")
        .on_progress(move |_, _| {
            let backend = seen.get().unwrap().upgrade().unwrap();
            let waited = backend.wait_prealloc(None).unwrap_err();
            let cancelled = backend.cancel_prealloc().unwrap_err();
            assert_eq!(waited.kind(), ErrorKind::Busy, "from inside its callback");
            assert_eq!(cancelled.kind(), ErrorKind::Busy);
            thread::scope(|scope| {
                scope.spawn(|| {
                    assert!(backend.wait_prealloc(None).unwrap());
                    backend.cancel_prealloc().unwrap();
                });
            });
            counted.fetch_add(1, Ordering::Relaxed);
        })
        .complete()
        .unwrap();
    let backend = Arc::new(backend);
    slot.set(Arc::downgrade(&backend)).unwrap();
    backend.set("prealloc", true).unwrap();
    assert!(calls.load(Ordering::Relaxed) > 0);
    assert_eq!(backend.placement().unwrap().resident, 16 * MIB);
}

/// One preallocation after another, long and short: done is never more than total.
#[test]
fn progress_is_never_more_than_the_whole() {
    let backend = ram("size=64M,thp=always").complete().unwrap();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..300 {
                backend.populate(0, 64 * MIB).unwrap();
                backend.populate(0, page_size()).unwrap();
            }
            ended.store(true, Ordering::Relaxed);
        });
        while !ended.load(Ordering::Relaxed) {
            let progress = backend.progress();
            assert!(progress.done <= progress.total, "{progress:?}");
        }
    });
}

/// What was meant for the one in the background does not reach one that somebody else begins as soon
/// as that has ended.
#[test]
fn cancelling_ends_no_other_preallocation() {
    for round in 0..100 {
        let backend = begin("64M");
        thread::scope(|scope| {
            scope.spawn(|| backend.cancel_prealloc().unwrap());
            let mut result = backend.populate(0, 4 * MIB);
            while matches!(&result, Err(error) if error.kind() == ErrorKind::Busy) {
                result = backend.populate(0, 4 * MIB);
            }
            assert!(result.is_ok(), "round {round}: {}", result.unwrap_err());
        });
    }
}

/// What is asked for while it fills is what is so in the end.
#[test]
fn locking_may_be_switched_while_it_fills() {
    for (begun, ended) in [("on", "off"), ("off", "on")] {
        let backend = ram(&format!("size=256M,lock={begun},{BACKGROUND}"))
            .complete()
            .unwrap();
        backend.set("lock", ended).unwrap();
        assert!(backend.wait_prealloc(None).unwrap());
        let claim = backend.claim("vm0").unwrap();
        let flags = common::vm_flags(claim.memory().as_ptr());
        assert_eq!(flags.contains(&"lo".to_owned()), ended == "on", "{flags:?}");
    }
}

/// It would be about what the child has at the address; and a thread that was changing the memory at
/// the fork is not in the child, so that waiting for it would never end.
#[test]
fn a_forked_child_can_do_nothing_with_memory_it_does_not_have() {
    let test = "a_forked_child_can_do_nothing_with_memory_it_does_not_have";
    in_child(test, || {
        let backend = ram("size=64M,thp=never,prealloc=on").complete().unwrap();
        let claim = backend.claim("vm0").unwrap();
        let child = || {
            let sets = [
                ("dump", "off"),
                ("merge", "off"),
                ("thp", "never"),
                ("prealloc", "on"),
                ("prealloc-threads", "2"),
                ("prealloc-context", ""),
                ("lock", "on"),
                ("policy", "local"),
            ];
            let sets = sets.map(|(name, value)| backend.set(name, value));
            let others = [
                backend.placement().map(drop),
                backend.rebind(&Rebind::new(Policy::Local)).map(drop),
                backend.populate(0, page_size()),
                claim.discard(0, page_size()),
                claim.inhibit_discard("vfio").map(drop),
            ];
            sets.into_iter().chain(others).all(|result| {
                let error = result.unwrap_err();
                error.kind() == ErrorKind::State && error.to_string().contains("forked")
            })
        };
        common::in_forked_children_while(|| drop(backend.placement().unwrap()), child);
        backend.set("dump", false).unwrap();
        claim.discard(0, page_size()).unwrap();
    });
}

/// Lets the callback take a backend once and do something with it; the answer of that.
fn in_callback<T: Send + 'static>(act: impl FnOnce(Backend) -> T + Send + 'static) -> T {
    let (give, take) = mpsc::channel::<Backend>();
    let (answer, answered) = mpsc::channel();
    let take = Mutex::new(take);
    let mut act = Some(act);
    let backend = ram(&format!("size=1G,{BACKGROUND}"))
        .on_progress(move |_, _| {
            let Some(act) = act.take() else { return };
            let backend = take.lock().unwrap().recv().unwrap();
            answer.send(act(backend)).unwrap();
        })
        .complete()
        .unwrap();
    give.send(backend).unwrap();
    answered.recv().unwrap()
}

#[test]
fn a_callback_cannot_wait_for_itself() {
    let errors = in_callback(|backend| {
        let wait = backend.wait_prealloc(None).unwrap_err();
        let cancel = backend.cancel_prealloc().unwrap_err();
        let delete = backend.delete().unwrap_err();
        [wait, cancel, delete.error]
    });
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    }
}

/// The child's one thread was the one that fills, and is no more.
#[test]
fn a_child_that_is_forked_in_the_callback_can_delete_it() {
    let test = "a_child_that_is_forked_in_the_callback_can_delete_it";
    in_child(test, || {
        in_callback(|backend| {
            let mut both = Some(backend);
            common::in_forked_child(|| {
                let backend = both.take().unwrap();
                let waited = backend.wait_prealloc(None).unwrap_err();
                waited.kind() == ErrorKind::State && backend.delete().is_ok()
            });
            both.unwrap().cancel_prealloc().unwrap_err();
        });
    });
}

/// The thread that fills frees the backend itself then, once it is done with it.
#[test]
fn the_last_owner_may_go_away_in_the_callback() {
    in_child("the_last_owner_may_go_away_in_the_callback", || {
        in_callback(drop);
        wait_until_none_fills();
    });
}

/// In a process of its own, where there is one thread beside the test's.
fn wait_until_none_fills() {
    for _ in 0..1000 {
        if Belongings::now().threads() <= 2 {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{:?}", Belongings::now());
}

/// A callback goes with the last owner, and what it captured may panic as it does.
#[test]
fn what_a_callback_captured_may_panic_as_it_goes() {
    struct Bad(Arc<AtomicU32>);
    impl Drop for Bad {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
            panic!("caught");
        }
    }
    in_child("what_a_callback_captured_may_panic_as_it_goes", || {
        let gone = Arc::new(AtomicU32::new(0));
        // Which callback has captured it, and in which the last owner goes away.
        for (of_done, in_done) in [(false, false), (true, false), (false, true), (true, true)] {
            let bad = |there: bool| there.then(|| Bad(Arc::clone(&gone)));
            let (progress_has, done_has) = (bad(!of_done), bad(of_done));
            let (give, take) = mpsc::channel::<Backend>();
            let take = Arc::new(Mutex::new(take));
            let taking = Arc::clone(&take);
            let backend = ram(&format!("size=1M,{BACKGROUND}"))
                .on_progress(move |_, _| {
                    let _captured = &progress_has;
                    if !in_done {
                        drop(taking.lock().unwrap().recv());
                    }
                })
                .on_prealloc_done(move |_, _| {
                    let _captured = &done_has;
                    drop(take.lock().unwrap().recv());
                })
                .complete()
                .unwrap();
            give.send(backend).unwrap();
            wait_until_none_fills();
        }
        assert_eq!(gone.load(Ordering::Relaxed), 4);
    });
}

#[test]
fn a_forked_child_does_not_wait_for_what_it_does_not_have() {
    in_child(
        "a_forked_child_does_not_wait_for_what_it_does_not_have",
        || {
            let backend = begin("1G");
            let mut both = Some(backend);
            common::in_forked_child(|| {
                let backend = both.as_ref().unwrap();
                let wait = backend.wait_prealloc(None).unwrap_err();
                let cancel = backend.cancel_prealloc().unwrap_err();
                for error in [wait, cancel] {
                    assert_eq!(error.kind(), ErrorKind::State, "{error}");
                    assert!(error.to_string().contains("forked"), "{error}");
                }
                drop(both.take());
                true
            });
            assert!(both.unwrap().wait_prealloc(None).unwrap());
        },
    );
}

/// Whatever was changing the memory when it was forked goes on in its parent alone.
#[test]
fn a_forked_child_does_not_wait_for_who_was_changing_it() {
    in_child(
        "a_forked_child_does_not_wait_for_who_was_changing_it",
        || {
            let backend = ram("size=64M,thp=never,prealloc=on").complete().unwrap();
            let backend = Arc::new(backend);
            let changing = Arc::clone(&backend);
            let ended = Arc::new(AtomicBool::new(false));
            let end = Arc::clone(&ended);
            let worker = thread::spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    changing.placement().unwrap();
                }
                drop(changing);
            });
            for _ in 0..20 {
                let raw = Arc::as_ptr(&backend);
                common::in_forked_child(|| {
                    // SAFETY: ends the child where it hangs.
                    unsafe { libc::alarm(5) };
                    // SAFETY: the child has the other thread's count, but not the thread.
                    unsafe { Arc::decrement_strong_count(raw) };
                    // SAFETY: its own count; nobody uses the backend after it.
                    unsafe { Arc::decrement_strong_count(raw) };
                    true
                });
            }
            ended.store(true, Ordering::Relaxed);
            worker.join().unwrap();
        },
    );
}

/// What others do to the memory meanwhile keeps the end of the fill and its lock apart.
#[test]
fn what_is_discarded_as_the_fill_ends_is_not_locked_in() {
    if common::has_address_sanitizer() {
        return;
    }
    for round in 0..50 {
        let (tell, told) = mpsc::channel();
        let backend = ram(&format!("size=1M,lock=on,{BACKGROUND}"))
            .on_progress(move |_, _| tell.send(()).unwrap())
            .complete()
            .unwrap();
        let claim = backend.claim("vm0").unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..10 {
                    backend.placement().unwrap();
                }
            });
            told.recv().unwrap();
            thread::sleep(Duration::from_micros(200));
            claim.discard(0, page_size()).unwrap();
        });
        assert!(backend.wait_prealloc(None).unwrap());
        let at = claim.memory().as_ptr();
        assert_eq!(resident(&backend, at, page_size()), 0, "round {round}");
    }
}

/// The end is reported once, whichever way that was, and afterwards everything is as reported.
#[test]
fn the_end_is_reported() {
    type End = hostmem::Result<()>;
    let begin = |act: Box<dyn FnOnce(&Backend) + Send>, size: &str| -> End {
        let (told, end) = mpsc::channel::<End>();
        let builder = ram(&format!("size={size},{BACKGROUND}"));
        let backend = builder
            .on_prealloc_done(move |result, _| told.send(result).unwrap())
            .complete()
            .unwrap();
        act(&backend);
        let result = end.recv_timeout(Duration::from_secs(60)).unwrap();
        let switched = backend.get_text("prealloc").unwrap();
        assert_eq!(switched == "on", result.is_ok());
        drop(backend);
        // And not again.
        assert!(end.recv().is_err());
        result
    };
    begin(Box::new(|_| ()), "8M").unwrap();
    let error = begin(
        Box::new(|backend| assert!(backend.cancel_prealloc().is_ok())),
        "4G",
    )
    .unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECANCELED), "{error}");
    let failing = || {
        let refusal = Refusal::new(libc::SYS_madvise, libc::EHWPOISON)
            .only(1, 2 * MIB)
            .only(2, MADV_POPULATE_WRITE);
        refusing(&[refusal], || begin(Box::new(|_| ()), "8M").unwrap_err())
    };
    if populates_by_call() {
        let error = failing();
        assert!(error.to_string().contains("broken hardware"), "{error}");
    }

    // Deleting ends it too.
    let (told, end) = mpsc::channel::<End>();
    let backend = ram(&format!("size=4G,{BACKGROUND}"))
        .on_prealloc_done(move |result, _| told.send(result).unwrap())
        .complete()
        .unwrap();
    backend.delete().unwrap();
    let error = end.recv().unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECANCELED), "{error}");
}

/// Being told of the end the last owner may go away, or panic; waiting and deleting are refused.
#[test]
fn who_is_told_the_end_may_let_go() {
    let holder: Arc<Mutex<Option<Backend>>> = Arc::default();
    let (told, end) = mpsc::channel();
    let held = Arc::clone(&holder);
    let (complete, completed) = mpsc::channel();
    let backend = ram(&format!("size=1M,{BACKGROUND}"))
        .on_prealloc_done(move |result, _| {
            completed.recv().unwrap();
            let backend = held.lock().unwrap().take().unwrap();
            result.unwrap();
            let waited = backend.wait_prealloc(None).unwrap_err().kind();
            let failed = backend.delete().unwrap_err();
            let deleted = failed.error.kind();
            drop(failed);
            told.send((waited, deleted)).unwrap();
            panic!("caught");
        })
        .complete()
        .unwrap();
    *holder.lock().unwrap() = Some(backend);
    complete.send(()).unwrap();
    assert_eq!(end.recv().unwrap(), (ErrorKind::Busy, ErrorKind::Busy));
}

/// In the callback of the end nothing else is begun, so that freeing the backend meanwhile, which
/// waits for the callback, waits for all there is.
#[test]
fn nothing_is_preallocated_in_the_callback_of_the_end() {
    in_child("nothing_is_preallocated_in_the_callback_of_the_end", || {
        for _ in 0..20 {
            let slot = Arc::new(OnceLock::<Weak<Backend>>::new());
            let (told, refusals) = mpsc::channel();
            let (dropped, drops) = mpsc::channel::<()>();
            let seen = Arc::clone(&slot);
            let (ready, is_ready) = mpsc::channel::<()>();
            let backend = ram(&format!("size=4M,{BACKGROUND}"))
                .on_prealloc_done(move |_, _| {
                    is_ready.recv().unwrap();
                    let backend = seen.get().unwrap().upgrade().unwrap();
                    let populated = backend.populate(0, 4 * MIB).unwrap_err();
                    let rebound = backend.set("prealloc-mode", "wait").map(|()| {
                        let lengths = (0..4).map(|i| backend.populate(i * MIB, MIB));
                        lengths.filter(Result::is_err).count()
                    });
                    told.send((populated.kind(), rebound.unwrap())).unwrap();
                    drop(backend);
                    // The last owner goes away while this callback still runs.
                    drops.recv().unwrap();
                })
                .complete()
                .unwrap();
            let backend = Arc::new(backend);
            slot.set(Arc::downgrade(&backend)).unwrap();
            ready.send(()).unwrap();
            let answers = refusals.recv().unwrap();
            assert_eq!(answers, (ErrorKind::Busy, 4));
            let freeing = thread::spawn(move || drop(backend));
            dropped.send(()).unwrap();
            freeing.join().unwrap();
        }
    });
}

/// Nor is it begun again there, when it was cancelled.
#[test]
fn the_callback_of_the_end_begins_nothing() {
    let slot = Arc::new(OnceLock::<Weak<Backend>>::new());
    let (told, answers) = mpsc::channel();
    let (ready, is_ready) = mpsc::channel::<()>();
    let seen = Arc::clone(&slot);
    let backend = ram(&format!("size=1G,{BACKGROUND}"))
        .on_prealloc_done(move |result, _| {
            result.unwrap_err();
            is_ready.recv().unwrap();
            let backend = seen.get().unwrap().upgrade().unwrap();
            told.send(backend.set("prealloc", true)).unwrap();
        })
        .complete()
        .unwrap();
    let backend = Arc::new(backend);
    slot.set(Arc::downgrade(&backend)).unwrap();
    backend.cancel_prealloc().unwrap();
    ready.send(()).unwrap();
    let error = answers.recv().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("own callback"), "{error}");
    assert_eq!(backend.get_text("prealloc").unwrap(), "off");
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The whole life at once: many threads on one set of objects, whatever they do to each other.

mod common;

use std::fs;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use common::in_child;
use common::objects;
use common::page_size;
use common::Belongings;
use hostmem::Backend;
use hostmem::Builder;
use hostmem::ErrorKind;
use hostmem::ErrorKind::Busy;
use hostmem::ErrorKind::State;
use hostmem::ErrorKind::Value;
use hostmem::Objects;
use hostmem::Policy;
use hostmem::Rebind;
use hostmem::ThreadContext;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 8 * MIB;
const THREADS: u64 = 8;
const TIME: Duration = Duration::from_secs(3);

/// What all threads work on; each thing is replaced and dropped while others use it.
struct World {
    set: Objects,
    backends: [Mutex<Option<Arc<Backend>>>; 4],
    context: Mutex<Option<ThreadContext>>,
    numbers: AtomicU64,
}

impl World {
    fn builder(&self, random: &mut Random) -> hostmem::Result<Builder> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let kind = ["ram", "ram", "memfd"][random.below(3)];
        let rest = [
            "",
            "prealloc=on",
            "prealloc=on,prealloc-mode=background,prealloc-threads=3",
            "prealloc=on,prealloc-mode=background,lock=on",
            "prealloc=on,thp=always",
            "lock=on",
        ][random.below(6)];
        let link = ["", "prealloc-context=tc0"][random.below(2)];
        let options = format!("memory-backend-{kind},id=m{number},size={SIZE},{rest},{link}");
        let options = options.replace(",,", ",");
        self.set
            .parse(options.trim_end_matches(','))
            .map(|builder| builder.on_progress(|_, _| ()).on_prealloc_done(|_, _| ()))
    }

    fn put(&self, random: &mut Random, backend: Backend) {
        let backend = Some(Arc::new(backend));
        let before = {
            let mut place = self.backends[random.below(4)].lock().unwrap();
            std::mem::replace(&mut *place, backend)
        };
        drop(before);
    }

    fn any(&self, random: &mut Random) -> Option<Arc<Backend>> {
        self.backends[random.below(4)].lock().unwrap().clone()
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1);
        (self.0 >> 33) as usize % limit
    }

    /// A range of whole huge pages inside the memory.
    fn range(&mut self) -> (u64, u64) {
        let first = self.below(4) as u64;
        let length = 1 + self.below((4 - first) as usize) as u64;
        (first * 2 * MIB, length * 2 * MIB)
    }
}

/// What may be refused, since somebody else does what excludes it; nothing else may fail.
fn may_be<T>(allowed: &[ErrorKind], result: hostmem::Result<T>) -> Option<T> {
    result
        .map_err(|error| assert!(allowed.contains(&error.kind()), "{error}"))
        .ok()
}

fn complete(world: &World, random: &mut Random) {
    // A link to a thread-context that has just gone away, or is not complete.
    let Some(builder) = may_be(&[Value], world.builder(random)) else {
        return;
    };
    let result = builder.complete().map_err(hostmem::Error::from);
    if let Some(backend) = may_be(&[State], result) {
        world.put(random, backend);
    }
}

fn complete_all(world: &World, random: &mut Random) {
    let builders = (0..3).filter_map(|_| may_be(&[Value], world.builder(random)));
    let result = Builder::complete_all(builders.collect()).map_err(hostmem::Error::from);
    for backend in may_be(&[State], result).unwrap_or_default() {
        world.put(random, backend);
    }
}

/// While it is claimed nobody else takes its contents, whatever they change about the memory.
fn use_claimed(backend: &Backend, random: &mut Random) {
    let Some(claim) = may_be(&[Busy], backend.claim("stress")) else {
        return;
    };
    let (offset, length) = random.range();
    claim.discard(offset, length).unwrap();
    let pages = offset / page_size()..(offset + length) / page_size();
    let at = |page: u64| {
        // SAFETY: inside the memory, aligned for a u64, mapped as long as the claim lives.
        unsafe { claim.memory().as_ptr().add((page * page_size()) as usize) }.cast::<u64>()
    };
    for page in pages.clone() {
        // SAFETY: as above; only the thread that claimed it touches it.
        unsafe {
            assert_eq!(at(page).read_volatile(), 0);
            at(page).write_volatile(page + 1);
        }
    }
    thread::sleep(Duration::from_micros(random.below(2000) as u64));
    for page in pages {
        // SAFETY: as above.
        assert_eq!(unsafe { at(page).read_volatile() }, page + 1);
    }
}

fn change(backend: &Backend, random: &mut Random) {
    let (property, value) = [
        ("dump", "off"),
        ("dump", "on"),
        ("merge", "off"),
        ("thp", "never"),
        ("thp", "always"),
        ("lock", "on"),
        ("lock", "off"),
        ("prealloc", "on"),
        ("prealloc-threads", "2"),
        ("prealloc-context", ""),
        ("prealloc-context", "tc0"),
        ("x-use-canonical-path-for-ramblock-id", "on"),
    ][random.below(12)];
    may_be(&[Busy, State, Value], backend.set(property, value));
}

fn read(backend: &Backend) {
    let progress = backend.progress();
    assert!(progress.done <= progress.total);
    let placement = backend.placement().unwrap();
    assert!(placement.resident <= SIZE, "{placement:?}");
    assert!(["on", "off"].contains(&backend.get_text("prealloc").unwrap().as_str()));
    assert!(backend.owner().is_none_or(|owner| owner == "stress"));
}

fn change_context(world: &World, random: &mut Random) {
    let made = world.set.thread_context("tc0");
    let made = may_be(&[Value], made).map(|builder| builder.complete().unwrap());
    let before = {
        let mut place = world.context.lock().unwrap();
        match made {
            Some(context) => place.replace(context),
            None if random.below(2) == 0 => place.take(),
            None => return,
        }
    };
    if let Some(context) = before {
        may_be(&[Busy], context.delete().map_err(hostmem::Error::from));
    }
}

fn act(world: &World, random: &mut Random) {
    match random.below(12) {
        0 | 1 => return complete(world, random),
        2 => return complete_all(world, random),
        3 => return change_context(world, random),
        _ => (),
    }
    let Some(backend) = world.any(random) else {
        return;
    };
    match random.below(8) {
        0 | 1 => use_claimed(&backend, random),
        2 => change(&backend, random),
        3 => {
            let (offset, length) = random.range();
            may_be(&[Busy], backend.populate(offset, length));
        }
        4 => drop(may_be(
            &[],
            backend.cancel_prealloc().map(|progress| progress.done),
        )),
        5 => {
            let time = Duration::from_millis(random.below(3) as u64);
            // Cancelled by somebody else.
            may_be(&[State], backend.wait_prealloc(Some(time)));
        }
        6 if cfg!(feature = "numa") => {
            let policy = [Policy::Local, Policy::Default][random.below(2)];
            match backend.rebind(&Rebind::new(policy)) {
                // The kernel cannot move a page that is in use at this moment.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => {}
                result => drop(may_be(&[Busy], result)),
            }
        }
        _ => read(&backend),
    }
}

fn run(seed: u64) -> u64 {
    let world = World {
        set: objects(),
        backends: Default::default(),
        context: Mutex::default(),
        numbers: AtomicU64::new(0),
    };
    let end = Instant::now() + TIME;
    let acts = AtomicU64::new(0);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let (world, acts) = (&world, &acts);
                scope.spawn(move || {
                    let mut random = Random(seed * THREADS + number);
                    while Instant::now() < end {
                        act(world, &mut random);
                        acts.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        // The scope alone would wait for what they do, not for their end.
        for thread in threads {
            thread.join().unwrap();
        }
    });
    acts.into_inner()
}

/// No deadlock, no error that nobody can explain, nothing written that is lost, nothing left.
#[test]
fn many_threads_do_everything_at_once() {
    in_child("many_threads_do_everything_at_once", || {
        // SAFETY: takes a number; ends a child that hangs, by SIGALRM.
        unsafe { libc::alarm(60) };
        let before = Belongings::now().threads();
        let acts = run(1);
        eprintln!("{acts} acts by {THREADS} threads");
        // scripts/guest-tests sets it in emulated machines.
        let least = match std::env::var_os("HOSTMEM_EMULATED") {
            None => 200,
            Some(_) => 50,
        };
        assert!(acts > least, "{acts}");
        assert_eq!(Belongings::now().threads(), before);
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!maps.contains("hostmem"), "{maps}");
        let memfds = fs::read_dir("/proc/self/fd").unwrap();
        let memfds = memfds.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        let left: Vec<_> = memfds
            .filter(|link| link.to_string_lossy().contains("memfd:"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

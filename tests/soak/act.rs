// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the threads do: each with backends of its own, in a set and with pools that all share.

use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::sync::RwLock;
use std::time::Duration;
use std::time::Instant;

use hostmem::pool;
use hostmem::Access;
use hostmem::Backend;
use hostmem::Backing;
use hostmem::BackingFd;
use hostmem::Builder;
use hostmem::DiscardTo;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Kind;
use hostmem::Objects;
use hostmem::Policy;
use hostmem::Pool;
use hostmem::Rebind;
use hostmem::Request;

use crate::common;
use crate::common::access::memfd;
use crate::common::image;
use crate::held::Held;
use crate::held::Image;
use crate::held::MIB;
use crate::measure::Operation;
use crate::measure::Recorder;
use crate::random::Random;
use crate::servers::Servers;
use crate::servers::POOL;
use crate::shortage::Round;
use crate::shortage::Shortage;

/// A kind of an embedder's.
struct Own;

impl Kind for Own {
    fn allocate(
        &self,
        request: &Request<'_>,
    ) -> Result<Backing, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Backing::Fd(BackingFd::new(memfd(
            "own",
            0,
            request.size()?,
        ))))
    }
}

/// What this machine lets the soak do.
#[derive(Clone, Copy)]
pub struct Abilities {
    /// Memory can be bound to it.
    node: Option<u32>,
    /// Contents can be read on demand.
    lazy: bool,
    /// Any memory can be locked.
    lock: bool,
}

impl Abilities {
    pub fn find(recorder: &Recorder) -> Self {
        let image = tempfile::NamedTempFile::new().unwrap();
        let options = format!("size=1M,contents={}", image.path().display());
        let abilities = Self {
            node: common::bindable_node(),
            lazy: common::access::new("ram", &options).complete().is_ok(),
            lock: common::host::is_root(),
        };
        if abilities.node.is_none() {
            recorder.leave_out(Operation::Rebind);
        }
        if !abilities.lazy {
            common::skip("no userfaultfd for faults of the kernel");
            recorder.leave_out(Operation::RestoreLazily);
        }
        abilities
    }
}

/// What all threads of a round use.
pub struct World<'a> {
    pools: Vec<Pool>,
    set: Objects,
    disk: &'a Path,
    shortage: &'a Shortage,
    servers: &'a Servers,
    recorder: &'a Recorder,
    round: Round,
    abilities: Abilities,
    numbers: AtomicU64,
    /// Held by each thread that does something; for writing by one that needs all memory alone.
    working: RwLock<()>,
}

impl<'a> World<'a> {
    pub fn new(
        disk: &'a Path,
        shortage: &'a Shortage,
        servers: &'a Servers,
        recorder: &'a Recorder,
        abilities: Abilities,
        round: Round,
    ) -> Self {
        let set = common::objects();
        set.register_kind("own", "of the embedder", true, Own)
            .unwrap();
        let pool = |options: &str| Pool::parse(&set, options, 2).unwrap();
        Self {
            pools: vec![
                pool("memory-backend-ram,size=4M"),
                pool("memory-backend-memfd,size=3M"),
            ],
            set,
            disk,
            shortage,
            working: RwLock::new(()),
            servers,
            recorder,
            round,
            abilities,
            numbers: AtomicU64::new(0),
        }
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

/// Backends that a thread has at once.
const MOST_HELD: usize = 3;

pub struct Worker<'a> {
    world: &'a World<'a>,
    random: Random,
    number: u64,
    held: Vec<Held>,
    /// Memory is short.
    is_squeezed: bool,
}

/// What is to be created.
struct Wish {
    options: String,
    image: Option<Image>,
    /// Memory that may be short.
    may_be_short: bool,
    /// Of the user's, open until it was taken.
    _file: Option<File>,
}

impl<'a> Worker<'a> {
    pub fn new(world: &'a World<'a>, random: Random, number: u64) -> Self {
        Self {
            world,
            random,
            number,
            held: Vec::new(),
            is_squeezed: false,
        }
    }

    pub fn work(&mut self, end: Instant) {
        let world = self.world;
        while Instant::now() < end {
            if world.round == Round::Memory && self.random.one_in(30) {
                let _alone = world.working.write().unwrap();
                self.be_squeezed();
            } else {
                let _working = world.working.read().unwrap();
                self.act();
            }
        }
        self.let_all_go();
    }

    fn act(&mut self) {
        match self.random.below(100) {
            0..=14 => self.create(),
            15..=17 => self.create_both(),
            18..=21 => self.fill_in_background(),
            22..=23 => self.interrupt(),
            24..=27 => self.take_from_pool(),
            28..=30 => self.take_from_server(),
            31..=34 => {
                let world = self.world;
                world
                    .servers
                    .converse(world.recorder, &mut self.random, world.round);
            }
            35 => self.use_context(),
            36 => self.fork(),
            37 => self.probe(),
            38..=41 => self.restore(),
            42..=50 => self.let_go(),
            _ => self.use_one(),
        }
    }

    /// Alone, with less memory than is asked for. What is left beside memory that was filled is too
    /// little for anything else, so none is kept.
    fn be_squeezed(&mut self) {
        let world = self.world;
        self.let_all_go();
        let full = |pool: &Pool| {
            let status = pool.status();
            pool.wait(status.count, Some(Duration::from_secs(2)))
        };
        let are_full = world.pools.iter().all(|pool| full(pool).unwrap_or(false));
        if !are_full || !world.servers.wait_until_full() {
            return;
        }
        let left = (24 + self.random.below(40)) * MIB;
        world.shortage.squeeze(left, || {
            self.is_squeezed = true;
            for _ in 0..6 {
                match self.random.below(8) {
                    0 => self.create_both(),
                    1 => self.fill_in_background(),
                    2 => self.interrupt(),
                    3 => self.restore(),
                    4 => world
                        .servers
                        .converse(world.recorder, &mut self.random, world.round),
                    _ => self.create(),
                }
                self.let_all_go();
            }
            self.is_squeezed = false;
        });
    }

    /// What may be refused of memory that may be short, or not.
    fn allowed(&self, may_be_short: bool) -> &'static [ErrorKind] {
        match may_be_short || self.is_squeezed {
            true => &[ErrorKind::NoMemory, ErrorKind::Busy],
            false => &[ErrorKind::Busy],
        }
    }

    fn new_id(&self) -> String {
        format!("t{}.{}", self.number, self.world.number())
    }

    // ---- Creating ----

    /// Any kind, with options that go with it.
    fn wish(&mut self) -> Wish {
        let size = (1 + self.random.below(8)) * 2 * MIB;
        let disk = self.world.disk.display();
        let tmpfs = self.world.shortage.tmpfs.as_ref();
        let new_file = format!("{disk}/file{}", self.world.number());
        let mut file = None;
        let mut may_be_short = false;
        let backing = match self.random.below(12) {
            0 | 1 => "memory-backend-ram".to_owned(),
            2 => "memory-backend-ram,share=on".to_owned(),
            3 => "memory-backend-memfd".to_owned(),
            4 => "memory-backend-memfd,share=off,seal=off".to_owned(),
            5 => "memory-backend-shm".to_owned(),
            6 => format!("memory-backend-file,share=on,mem-path={new_file}"),
            7 => format!("memory-backend-file,share=off,mem-path={disk}"),
            8 => {
                let own = file.insert(memfd("user", 0, size));
                format!("memory-backend-fd,fd={}", own.as_raw_fd())
            }
            9 => "own".to_owned(),
            10 if self.world.round == Round::HugePages => {
                may_be_short = true;
                let kind = *self.random.choose(&["ram", "memfd", "memfd,share=off"]);
                format!("memory-backend-{kind},hugetlb=on,hugetlbsize=2M")
            }
            _ if tmpfs.is_some() => {
                may_be_short = self.world.round == Round::Room;
                let path = tmpfs.unwrap().display();
                format!("memory-backend-file,share=on,mem-path={path}")
            }
            _ => "memory-backend-ram".to_owned(),
        };
        let is_short = may_be_short || self.world.round == Round::Memory;
        let fill = match is_short {
            true => "prealloc=on",
            false => *self.random.choose(&[
                "prealloc=off",
                "prealloc=on",
                "prealloc=on,prealloc-mode=background",
            ]),
        };
        let more = *self.random.choose(&[
            "",
            ",thp=always",
            ",thp=never",
            ",merge=off,dump=off",
            ",guard=off",
            ",reserve=try",
            ",prealloc-watch=on",
            ",lock=on",
        ]);
        let may_lock = self.world.abilities.lock && !may_be_short;
        let more = match more.contains("lock") && !may_lock {
            true => "",
            false => more,
        };
        let threads = 1 + self.random.below(3);
        let policy = *self
            .random
            .choose(&["", "", "bind", "preferred", "interleave"]);
        let node = match self.world.abilities.node {
            Some(node) if !policy.is_empty() => format!(",policy={policy},host-nodes={node}"),
            _ => String::new(),
        };
        let id = self.new_id();
        Wish {
            options: format!(
                "{backing},id={id},size={size},prealloc-threads={threads},{fill}{more}{node}"
            ),
            image: None,
            may_be_short,
            _file: file,
        }
    }

    fn builder(&self, wish: &Wish) -> Option<Builder> {
        let parsed = self.world.set.parse(&wish.options);
        self.world.recorder.may(&[], parsed, &wish.options)
    }

    fn hold(&mut self, backend: Backend, wish: Wish) {
        let recorder = self.world.recorder;
        let claim = recorder.time(Operation::Claim, || backend.claim("soak"));
        let Some(claim) = recorder.may(&[], claim, &wish.options) else {
            return;
        };
        let mut held = Held::new(backend, claim, wish.options, wish.image);
        held.may_be_short = wish.may_be_short || self.world.round == Round::Memory;
        self.check(&held);
        self.held.push(held);
        if self.held.len() > MOST_HELD {
            self.let_go();
        }
    }

    fn create_as(&mut self, operation: Operation, wish: Wish) {
        let Some(builder) = self.builder(&wish) else {
            return;
        };
        let recorder = self.world.recorder;
        let completed = recorder.time(operation, || builder.complete());
        let allowed = self.allowed(wish.may_be_short);
        let completed = completed.map_err(hostmem::Error::from);
        if let Some(backend) = recorder.may(allowed, completed, &wish.options) {
            self.hold(backend, wish);
        }
    }

    fn create(&mut self) {
        let mut wish = self.wish();
        if self.is_squeezed && self.random.one_in(2) {
            let size = (16 + self.random.below(80)) * MIB;
            wish.options = format!(
                "memory-backend-ram,id={},size={size},prealloc=on",
                self.new_id()
            );
            wish.may_be_short = true;
        }
        self.create_as(Operation::Create, wish);
    }

    fn create_both(&mut self) {
        let wishes = [self.wish(), self.wish()];
        let builders: Vec<_> = wishes
            .iter()
            .filter_map(|wish| self.builder(wish))
            .collect();
        let recorder = self.world.recorder;
        let completed = recorder.time(Operation::CreateAll, || Builder::complete_all(builders));
        let may_be_short = wishes.iter().any(|wish| wish.may_be_short);
        let what = format!("{} and {}", wishes[0].options, wishes[1].options);
        let completed = completed.map_err(hostmem::Error::from);
        let backends = recorder.may(self.allowed(may_be_short), completed, &what);
        for (backend, wish) in backends.unwrap_or_default().into_iter().zip(wishes) {
            self.hold(backend, wish);
        }
    }

    /// Waited for, or cancelled on the way.
    fn fill_in_background(&mut self) {
        let kind = *self.random.choose(&["ram", "memfd", "shm"]);
        let wish = Wish {
            options: format!(
                "memory-backend-{kind},id={},size=32M,prealloc=on,prealloc-mode=background",
                self.new_id()
            ),
            image: None,
            may_be_short: false,
            _file: None,
        };
        let recorder = self.world.recorder;
        let Some(builder) = self.builder(&wish) else {
            return;
        };
        let completed = recorder.time(Operation::Background, || builder.complete());
        let completed = completed.map_err(hostmem::Error::from);
        let Some(backend) = recorder.may(self.allowed(false), completed, &wish.options) else {
            return;
        };
        if self.random.one_in(2) {
            let cancelled = recorder.time(Operation::Cancel, || backend.cancel_prealloc());
            recorder.may(self.allowed(false), cancelled, &wish.options);
        } else {
            let waited = backend.wait_prealloc(Some(Duration::from_millis(self.random.below(20))));
            recorder.may(self.allowed(false), waited, &wish.options);
        }
        // Where memory is short nobody touches what is not filled.
        if self.world.round != Round::Memory {
            self.hold(backend, wish);
        }
    }

    /// Completing, stopped by its own progress callback.
    fn interrupt(&mut self) {
        let size = (16 + self.random.below(32)) * MIB;
        let options = format!(
            "memory-backend-ram,id={},size={size},prealloc=on,thp=never",
            self.new_id()
        );
        let recorder = self.world.recorder;
        let Some(builder) = recorder.may(&[], self.world.set.parse(&options), &options) else {
            return;
        };
        let interrupter = builder.interrupter();
        let builder = builder.on_progress(move |_, _| interrupter.interrupt());
        let completed = recorder.time(Operation::Interrupt, || builder.complete());
        let completed = completed.map_err(hostmem::Error::from);
        let allowed = [ErrorKind::State, ErrorKind::NoMemory];
        let short = usize::from(self.is_squeezed);
        recorder.may(&allowed[..1 + short], completed, &options);
    }

    fn take_from_pool(&mut self) {
        let recorder = self.world.recorder;
        let pool = self.random.choose(&self.world.pools);
        if self.random.one_in(8) {
            let count = 1 + self.random.below(3) as u32;
            let set = recorder.time(Operation::PoolCount, || pool.set_count(count));
            recorder.may(&[], set, "a pool's count");
            return;
        }
        let id = self.new_id();
        let taken = recorder.time(Operation::PoolTake, || pool.take(&id));
        if let Some(taken) = recorder.may(self.allowed(false), taken, "a pool") {
            let wish = Wish {
                options: format!("{id} of a pool"),
                image: None,
                may_be_short: false,
                _file: None,
            };
            self.hold(taken.backend, wish);
        }
    }

    fn take_from_server(&mut self) {
        let recorder = self.world.recorder;
        let id = self.new_id();
        let (path, set) = (&self.world.servers.pool_path, &self.world.set);
        let taken = recorder.time(Operation::ServerTake, || pool::take(path, POOL, set, &id));
        let taken = recorder.may(&[], taken, "the server's pool");
        let completed = taken.map(|builder| builder.complete().map_err(hostmem::Error::from));
        let Some(completed) = completed else {
            return;
        };
        if let Some(backend) = recorder.may(self.allowed(false), completed, "of the server") {
            let wish = Wish {
                options: format!("{id} of the server's pool"),
                image: None,
                may_be_short: false,
                _file: None,
            };
            self.hold(backend, wish);
        }
    }

    /// A backend that begins as an image: all of it at once, or what is touched first.
    fn restore(&mut self) {
        let directory = self.world.disk;
        let path = directory.join(format!("image{}", self.world.number()));
        let length = (1 + self.random.below(6)) * MIB;
        let bytes = image::image_bytes(length);
        image::write_image(&File::create(&path).unwrap(), 0, &bytes);
        self.restore_from(&path, Arc::new(bytes));
        fs::remove_file(&path).unwrap();
    }

    fn restore_from(&mut self, path: &Path, bytes: Image) {
        let size = (bytes.len() as u64).next_multiple_of(2 * MIB);
        let lazily =
            self.world.abilities.lazy && self.world.round != Round::Memory && self.random.one_in(2);
        let (operation, backing) = match lazily {
            true => (
                Operation::RestoreLazily,
                *self.random.choose(&[
                    "ram,prealloc=off",
                    "ram,prealloc=on,prealloc-mode=background",
                    "ram,thp=never,prealloc=on,prealloc-mode=background",
                ]),
            ),
            false => (
                Operation::Restore,
                *self
                    .random
                    .choose(&["ram,prealloc=on", "memfd,prealloc=on", "shm,prealloc=on"]),
            ),
        };
        let wish = Wish {
            options: format!(
                "memory-backend-{backing},id={},size={size},contents={}",
                self.new_id(),
                path.display()
            ),
            image: Some(bytes),
            may_be_short: false,
            _file: None,
        };
        self.create_as(operation, wish);
    }

    // ---- Using one ----

    fn check(&self, held: &Held) {
        let recorder = self.world.recorder;
        if let Some(wrong) = recorder.time(Operation::Check, || held.find_wrong()) {
            recorder.problem(format!("contents: {wrong}"));
        }
        recorder.count_checked(held.size());
    }

    fn use_one(&mut self) {
        if self.held.is_empty() {
            return self.create();
        }
        let at = self.random.below(self.held.len() as u64) as usize;
        let mut held = self.held.swap_remove(at);
        let keep = match self.random.below(14) {
            0..=2 => self.write(&mut held),
            3 | 4 => {
                self.check(&held);
                true
            }
            5 | 6 => self.discard(&mut held),
            7 => self.protect(&held),
            8 => self.populate(&held),
            9 => self.scrub(&mut held),
            10 => self.rebind(&held),
            11 => self.set(&held),
            12 => self.look(&held),
            _ => self.save(&held),
        };
        if keep {
            self.held.push(held);
        }
    }

    /// A range of whole pages of the memory.
    fn range(&mut self, held: &Held) -> (u64, u64) {
        let page = held.claim.memory().page_size();
        let pages = held.size() / page;
        let first = self.random.below(pages);
        let len = 1 + self.random.below(pages - first);
        (first * page, len * page)
    }

    fn write(&mut self, held: &mut Held) -> bool {
        let (offset, length) = self.range(held);
        let number = self.random.next();
        let recorder = self.world.recorder;
        recorder.time(Operation::Write, || held.write(offset, length, number));
        true
    }

    fn discard(&mut self, held: &mut Held) -> bool {
        let (offset, length) = self.range(held);
        let recorder = self.world.recorder;
        if self.random.one_in(4) {
            let inhibited = held.claim.inhibit_discard("device").unwrap();
            match held.claim.discard(offset, length) {
                Err(error) => recorder.expect(&[ErrorKind::Busy], &error, &held.what),
                Ok(()) => recorder.problem(format!("{}: discard while inhibited", held.what)),
            }
            drop(inhibited);
        }
        let to = *self.random.choose(&[DiscardTo::Backing, DiscardTo::Zero]);
        let discarded = recorder.time(Operation::Discard, || {
            held.claim.discard_to(offset, length, to)
        });
        if recorder.may(&[], discarded, &held.what).is_some() {
            held.is_zero_now(offset, length);
        }
        // What was given back may be gone.
        !held.may_be_short || self.populate_range(held, offset, length)
    }

    fn populate_range(&mut self, held: &Held, offset: u64, length: u64) -> bool {
        let recorder = self.world.recorder;
        let populated = recorder.time(Operation::Populate, || held.claim.populate(offset, length));
        let done = recorder.may(self.allowed(held.may_be_short), populated, &held.what);
        done.is_some() || !held.may_be_short
    }

    fn populate(&mut self, held: &Held) -> bool {
        let (offset, length) = self.range(held);
        self.populate_range(held, offset, length)
    }

    /// Contents stay while nobody may look at them.
    fn protect(&mut self, held: &Held) -> bool {
        let (offset, length) = self.range(held);
        let recorder = self.world.recorder;
        let protect = |access| held.claim.protect(offset, length, access);
        let protected = recorder.time(Operation::Protect, || protect(Access::None));
        if recorder
            .may(&[ErrorKind::Busy], protected, &held.what)
            .is_none()
        {
            return true;
        }
        let again = recorder.time(Operation::Protect, || protect(Access::All));
        recorder.may(&[], again, &held.what).is_some()
    }

    fn scrub(&mut self, held: &mut Held) -> bool {
        let (offset, length) = self.range(held);
        let recorder = self.world.recorder;
        let scrubbed = recorder.time(Operation::Scrub, || held.claim.scrub(offset, length));
        let result = if held.is_private_file {
            recorder.may(&[ErrorKind::Value, ErrorKind::Busy], scrubbed, &held.what)
        } else {
            recorder.may(self.allowed(held.may_be_short), scrubbed, &held.what)
        };
        if result.is_some() {
            held.is_zero_now(offset, length);
        }
        true
    }

    fn rebind(&mut self, held: &Held) -> bool {
        let recorder = self.world.recorder;
        let Some(node) = self.world.abilities.node else {
            return true;
        };
        let to = match self.random.below(4) {
            0 => Rebind::new(Policy::Bind).host_nodes([node]),
            1 => Rebind::new(Policy::Preferred).host_nodes([node]),
            2 => Rebind::new(Policy::Local),
            _ => Rebind::new(Policy::Default),
        };
        let rebound = recorder.time(Operation::Rebind, || held.backend.rebind(&to));
        recorder.may(self.allowed(held.may_be_short), rebound, &held.what);
        true
    }

    fn set(&mut self, held: &Held) -> bool {
        let recorder = self.world.recorder;
        let (property, value) = *self.random.choose(&[
            ("merge", "off"),
            ("merge", "on"),
            ("dump", "off"),
            ("dump", "on"),
            ("thp", "always"),
            ("thp", "never"),
            ("lock", "off"),
            ("prealloc", "on"),
            ("prealloc-threads", "2"),
            ("lock", "on"),
        ]);
        if property == "lock" && !self.world.abilities.lock {
            return true;
        }
        let set = recorder.time(Operation::Set, || held.backend.set(property, value));
        recorder.may(self.allowed(held.may_be_short), set, &held.what);
        true
    }

    fn look(&mut self, held: &Held) -> bool {
        let recorder = self.world.recorder;
        let backend = &held.backend;
        let placement = recorder.time(Operation::Read, || backend.placement());
        if let Some(placement) = recorder.may(&[], placement, &held.what) {
            if placement.resident > held.size() {
                recorder.problem(format!("{}: {placement:?}", held.what));
            }
        }
        if backend.owner().as_deref() != Some("soak") {
            recorder.problem(format!("{}: owned by {:?}", held.what, backend.owner()));
        }
        let (unread, error) = held.claim.unread();
        if unread > held.size() || error.is_some() {
            recorder.problem(format!("{}: {unread} unread: {error:?}", held.what));
        }
        true
    }

    /// And begins another one with it.
    fn save(&mut self, held: &Held) -> bool {
        let recorder = self.world.recorder;
        let path = self
            .world
            .disk
            .join(format!("saved{}", self.world.number()));
        let file = File::create_new(&path).unwrap();
        let saved = recorder.time(Operation::Save, || held.claim.save(&file, 0));
        let allowed = self.allowed(held.may_be_short);
        if recorder.may(allowed, saved, &held.what).is_some() && held.size() <= 16 * MIB {
            self.restore_from(&path, held.contents());
        }
        fs::remove_file(&path).unwrap();
        true
    }

    // ---- Letting go, and what is around ----

    fn let_go(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.random.below(self.held.len() as u64) as usize;
        let held = self.held.swap_remove(at);
        self.check(&held);
        let recorder = self.world.recorder;
        let Held {
            backend,
            claim,
            what,
            ..
        } = held;
        if self.random.one_in(3) {
            match backend.can_be_deleted() {
                Err(error) => recorder.expect(&[ErrorKind::Busy], &error, &what),
                Ok(()) => recorder.problem(format!("{what}: can be deleted while claimed")),
            }
        }
        drop(claim);
        match self.random.below(3) {
            0 => recorder.time(Operation::Delete, || drop(backend)),
            1 => {
                let deleted = recorder.time(Operation::Delete, || backend.delete());
                recorder.may(&[], deleted.map_err(hostmem::Error::from), &what);
            }
            _ => {
                let undone = recorder.time(Operation::Undo, || backend.undo());
                recorder.may(&[], undone.map_err(hostmem::Error::from), &what);
            }
        }
        self.remove_files();
    }

    fn let_all_go(&mut self) {
        while !self.held.is_empty() {
            self.let_go();
        }
    }

    /// Files of backends that are gone; those of others are open and stay what they are.
    fn remove_files(&self) {
        for entry in fs::read_dir(self.world.disk).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("file") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn use_context(&mut self) {
        let recorder = self.world.recorder;
        let id = format!("context{}", self.new_id());
        let what = format!("thread-context {id}");
        recorder.time(Operation::Context, || {
            let builder = self.world.set.thread_context(&id);
            let Some(builder) = recorder.may(&[], builder, &what) else {
                return;
            };
            let completed = builder.complete().map_err(hostmem::Error::from);
            let Some(context) = recorder.may(&[], completed, &what) else {
                return;
            };
            let options =
                format!("memory-backend-ram,id=of{id},size=2M,prealloc=on,prealloc-context={id}");
            let parsed = self.world.set.parse(&options);
            let Some(builder) = recorder.may(&[], parsed, &options) else {
                return;
            };
            let completed = builder.complete().map_err(hostmem::Error::from);
            drop(recorder.may(self.allowed(false), completed, &options));
            let deleted = context.delete().map_err(hostmem::Error::from);
            recorder.may(&[], deleted, &what);
        });
    }

    /// A forked child has neither the memory nor the threads, and says so.
    fn fork(&mut self) {
        let Some(held) = self.held.first() else {
            return;
        };
        let recorder = self.world.recorder;
        recorder.time(Operation::Fork, || {
            common::in_forked_child(|| {
                // SAFETY: takes a number; ends a child that hangs.
                unsafe { libc::alarm(20) };
                let error = held.claim.populate(0, held.size()).map(|()| None);
                let kind = error.unwrap_or_else(|error| Some(error.kind()));
                kind == Some(ErrorKind::State) && held.backend.placement().is_err()
            });
        });
    }

    fn probe(&mut self) {
        let recorder = self.world.recorder;
        let host = recorder.time(Operation::Probe, Host::probe);
        if let Some(host) = recorder.may(&[], host, "probe") {
            if host.features().is_empty() {
                recorder.problem("probe: no features");
            }
        }
    }
}

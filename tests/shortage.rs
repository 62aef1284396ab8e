// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that is short: an error with the figures, thousands of times in a row, while this process,
//! what else it has and its neighbours live. Nodes that are short are tests/numa's.

mod common;

use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use common::access;
use common::host;
use common::host::Group;
use common::host::HugePages;
use common::host::HUGE;
use common::in_child;
use common::meminfo;
use common::page_size;
use common::refusing;
use common::skip;
use common::Belongings;
use common::Refusal;
use hostmem::Backend;
use hostmem::Error;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Objects;

const MIB: u64 = 1 << 20;
/// What is left to the rest of the host when 64 MiB or more are populated, besides page tables and
/// the like.
const HOST_MARGIN: u64 = 64 * MIB;

/// How memory is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Wait,
    Background,
    /// Once it is ready, as a whole.
    Live,
    /// Without MADV_POPULATE, as before 5.14, from here on.
    Touch,
    TouchBackground,
    TouchLive,
}

const WAYS: [Way; 6] = [
    Way::Wait,
    Way::Background,
    Way::Live,
    Way::Touch,
    Way::TouchBackground,
    Way::TouchLive,
];

/// Sets of objects on this kernel and on one that cannot be asked to populate.
struct Sets {
    asked: Objects,
    touched: Objects,
}

impl Sets {
    fn new() -> Self {
        let refusals =
            [22, 23].map(|advice| Refusal::new(libc::SYS_madvise, libc::EINVAL).only(2, advice));
        let old = refusing(&refusals, || Host::probe().unwrap());
        let set = |host| Objects::new(host, &common::defaults()).unwrap();
        Self {
            asked: set(&Host::probe().unwrap()),
            touched: set(&old),
        }
    }

    /// A backend with the id `m0` whose memory is all there.
    fn fill(&self, options: &str, size: u64, way: Way) -> Result<Backend, Error> {
        let (set, prealloc) = match way {
            Way::Wait => (&self.asked, "prealloc=on"),
            Way::Background => (&self.asked, "prealloc=on,prealloc-mode=background"),
            Way::Live => (&self.asked, "reserve=off"),
            Way::Touch => (&self.touched, "prealloc=on"),
            Way::TouchBackground => (&self.touched, "prealloc=on,prealloc-mode=background"),
            Way::TouchLive => (&self.touched, "reserve=off"),
        };
        let options = format!("{options},id=m0,size={size},prealloc-threads=1,{prealloc}");
        let backend = set.parse(&options)?.complete()?;
        match way {
            Way::Background | Way::TouchBackground => assert!(backend.wait_prealloc(None)?),
            Way::Live | Way::TouchLive => backend.populate(0, size)?,
            Way::Wait | Way::Touch => {}
        }
        assert_eq!(backend.placement()?.absent, 0, "{options}");
        Ok(backend)
    }
}

/// What is asked for, and the words that its error has.
struct Case {
    what: String,
    size: u64,
    way: Way,
    errno: i32,
    words: Vec<String>,
}

impl Case {
    #[track_caller]
    fn is_refused(&self, sets: &Sets) -> String {
        let what = format!("{}, {} bytes, {:?}", self.what, self.size, self.way);
        let error = sets
            .fill(&self.what, self.size, self.way)
            .map(|_| ())
            .expect_err(&what);
        let message = error.to_string();
        assert_eq!(error.kind(), ErrorKind::NoMemory, "{what}: {message}");
        assert_eq!(error.raw_os_error(), Some(self.errno), "{what}: {message}");
        assert!(message.starts_with("m0: "), "{message}");
        for word in &self.words {
            assert!(message.contains(word), "{what}: {message}: lacks {word}");
        }
        message
    }
}

/// A process with memory of its own, in the same control groups.
struct Bystander {
    process: libc::pid_t,
    ask: File,
    answer: File,
}

fn pipe() -> [File; 2] {
    let mut fds = [0; 2];
    // SAFETY: fills the two numbers.
    assert_eq!(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: opened above, owned by nobody else.
    fds.map(|fd| unsafe { File::from_raw_fd(fd) })
}

impl Bystander {
    const SIZE: usize = 8 << 20;

    fn start() -> Self {
        let ([mut asked, ask], [answer, mut answering]) = (pipe(), pipe());
        let mut memory = vec![0u64; Self::SIZE / 8];
        // SAFETY: the child goes on in this thread alone, allocates nothing and leaves by _exit().
        let process = unsafe { libc::fork() };
        assert!(process >= 0);
        if process == 0 {
            drop(ask);
            // A word of each page.
            (1..)
                .zip(memory.iter_mut().step_by(512))
                .for_each(|(i, word)| *word = i);
            while matches!(asked.read(&mut [0]), Ok(1)) {
                let whole = (1..)
                    .zip(memory.iter().step_by(512))
                    .all(|(i, &word)| word == i);
                let _ = answering.write(&[u8::from(whole)]);
            }
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        let mut bystander = Self {
            process,
            ask,
            answer,
        };
        bystander.assert_well();
        bystander
    }

    fn assert_well(&mut self) {
        self.ask.write_all(&[0]).expect("the bystander lives");
        let mut answer = [0];
        let read = self.answer.read(&mut answer).unwrap();
        assert_eq!((read, answer), (1, [1]), "the bystander's memory");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        // SAFETY: our own child; the status is not wanted.
        unsafe {
            libc::kill(self.process, libc::SIGKILL);
            libc::waitpid(self.process, std::ptr::null_mut(), 0);
        }
    }
}

/// Refused many times in a row, one case after the other, with nothing left behind.
fn repeat(sets: &Sets, cases: &[Case], rounds: usize, mut is_as_before: impl FnMut()) {
    let mut bystander = Bystander::start();
    // Once each before: the stacks of threads that have ended are kept for the next.
    for case in cases {
        case.is_refused(sets);
    }
    let before = Belongings::now();
    for case in cases.iter().cycle().take(rounds) {
        case.is_refused(sets);
        assert!(Belongings::now() == before, "{}", case.what);
        bystander.assert_well();
        is_as_before();
    }
}

/// N - 1 and N pages are to be had.
fn assert_fits(sets: &Sets, what: &str, pages: u64, page: u64, ways: &[Way]) {
    for way in ways {
        for size in [(pages - 1) * page, pages * page] {
            sets.fill(what, size, *way)
                .unwrap_or_else(|error| panic!("{what}, {way:?}: {error}"));
        }
    }
}

/// What has the pool, the file system or the group in common with the one that fails.
struct Neighbour {
    _backend: Backend,
    claim: hostmem::Claim,
}

impl Neighbour {
    fn start(what: &str, size: u64) -> Self {
        let options = format!("{what},id=neighbour,size={size},prealloc=on");
        let backend = common::objects().parse(options).unwrap();
        let backend = backend.complete().unwrap();
        let claim = backend.claim("neighbour").unwrap();
        access::fill(&claim, 0, size, 0x5a);
        Self {
            _backend: backend,
            claim,
        }
    }

    fn assert_well(&self) {
        let size = self.claim.memory().len();
        assert!(access::has(&self.claim, 0, size, 0x5a));
    }
}

const HUGE_MEMFD: &str = "memory-backend-memfd,hugetlb=on,hugetlbsize=2M";

#[test]
fn a_pool_of_huge_pages() {
    in_child("a_pool_of_huge_pages", || {
        const PAGES: u64 = 3;
        let directory = tempfile::tempdir().unwrap();
        let Some(_pool) = HugePages::have(PAGES + 1) else {
            return;
        };
        if !host::mount("hugetlbfs", directory.path(), "pagesize=2M") {
            return;
        }
        let sets = Sets::new();
        let neighbour = Neighbour::start(HUGE_MEMFD, HUGE);
        let path = directory.path().display();
        let existing = access::memfd(
            "existing",
            libc::MFD_HUGETLB | libc::MFD_HUGE_2MB,
            (PAGES + 1) * HUGE,
        );
        let new = [
            HUGE_MEMFD.to_owned(),
            format!("{HUGE_MEMFD},share=off"),
            format!("memory-backend-file,share=on,mem-path={path}"),
            format!("memory-backend-file,share=off,mem-path={path}"),
        ];
        let nodes = common::bindable_node()
            .map(|node| format!("{HUGE_MEMFD},policy=bind,host-nodes={node}"));
        let fd = format!("memory-backend-fd,fd={}", existing.as_raw_fd());
        let mut cases = Vec::new();
        let mut add = |what: &str, ways: &[Way], errno, words: &[&str]| {
            cases.extend(ways.iter().map(|&way| Case {
                what: what.to_owned(),
                size: (PAGES + 1) * HUGE,
                way,
                errno,
                words: words.iter().map(|&word| word.to_owned()).collect(),
            }));
        };
        let reserving = [Way::Wait, Way::Background, Way::Touch, Way::TouchBackground];
        // Where the kernel is asked, a chunk has four of them and fails as a whole.
        let first = if common::kernel() >= (5, 14) {
            0
        } else {
            PAGES * HUGE
        };
        let unreserved = [(Way::Live, first), (Way::TouchLive, PAGES * HUGE)];
        let wanted = "size: 4 huge pages of 2048 KiB are wanted";
        for what in new.iter().chain(&nodes) {
            assert_fits(&sets, what, PAGES, HUGE, &WAYS);
            let words = [wanted, "the pool has 4, 3 of them free"];
            add(what, &reserving, libc::ENOMEM, &words);
            for (way, done) in unreserved {
                let failed = format!("failed after {done} of 8388608 bytes, at offset {done}");
                let words = [&failed, "huge pages of 2048 KiB: 0 of 4 free"];
                add(what, &[way], libc::EFAULT, &words);
            }
        }
        assert_fits(&sets, &fd, PAGES, HUGE, &reserving[..1]);
        existing.set_len(0).unwrap();
        existing.set_len((PAGES + 1) * HUGE).unwrap();
        let words = [wanted, "the pool has 4, 3 of them free"];
        add(&fd, &reserving, libc::ENOMEM, &words);
        repeat(&sets, &cases, 1000, || {
            neighbour.assert_well();
            assert_eq!(HugePages::available(), PAGES);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        });
        assert_fits(&sets, HUGE_MEMFD, PAGES, HUGE, &WAYS);
    });
}

/// Pages that are in the pool only as long as they are in use.
#[test]
fn surplus_pages_are_told() {
    in_child("surplus_pages_are_told", || {
        let Some(pool) = HugePages::have(2) else {
            return;
        };
        pool.allow_surplus(2);
        let sets = Sets::new();
        let neighbour = Neighbour::start(HUGE_MEMFD, 3 * HUGE);
        let surplus = ", 1 of them surplus";
        for (way, errno, words) in [
            (
                Way::Wait,
                libc::ENOMEM,
                [surplus, "promised to others, 1 more may be added; raise"],
            ),
            (
                Way::Live,
                libc::EFAULT,
                ["huge pages of 2048 KiB: 0 of ", " surplus"],
            ),
        ] {
            let case = Case {
                what: HUGE_MEMFD.to_owned(),
                size: 4 * HUGE,
                way,
                errno,
                words: words.map(str::to_owned).to_vec(),
            };
            case.is_refused(&sets);
        }
        neighbour.assert_well();
    });
}

/// Less than the pool has, and named instead of it.
#[test]
fn a_limit_of_a_mount() {
    in_child("a_limit_of_a_mount", || {
        let directory = tempfile::tempdir().unwrap();
        let Some(_pool) = HugePages::have(6) else {
            return;
        };
        let options = format!("pagesize=2M,size={}", 2 * HUGE);
        if !host::mount("hugetlbfs", directory.path(), &options) {
            return;
        }
        let sets = Sets::new();
        let path = directory.path().display();
        for share in ["on", "off"] {
            let what = format!("memory-backend-file,share={share},mem-path={path}");
            assert_fits(&sets, &what, 2, HUGE, &WAYS);
            for way in WAYS {
                let (errno, words) = match way {
                    Way::Live | Way::TouchLive => (
                        libc::EFAULT,
                        vec!["the mount of its file has room for 2 huge pages (size=), none free"],
                    ),
                    _ => (
                        libc::ENOSPC,
                        vec![
                            "size: 4 huge pages of 2048 KiB are wanted; the mount that ",
                            " is on has room for 2 (size=), 2 of them free",
                        ],
                    ),
                };
                let case = Case {
                    what: what.clone(),
                    size: 4 * HUGE,
                    way,
                    errno,
                    words: words.into_iter().map(str::to_owned).collect(),
                };
                case.is_refused(&sets);
            }
        }
    });
}

/// Over its limit a group gets SIGBUS, or nothing reserved, however much the pool has.
#[test]
fn a_limit_of_huge_pages() {
    in_child("a_limit_of_huge_pages", || {
        const PAGES: u64 = 3;
        let Some(_pool) = HugePages::have(2 * PAGES + 2) else {
            return;
        };
        let Some(group) = Group::enter("hugetlb") else {
            return;
        };
        let sets = Sets::new();
        let neighbour = Neighbour::start(HUGE_MEMFD, HUGE);
        let limit = ((PAGES + 1) * HUGE).to_string();
        for kind in ["", "rsvd."] {
            let file = group.file(&[
                format!("hugetlb.2MB.{kind}limit_in_bytes"),
                format!("hugetlb.2MB.{kind}max"),
            ]);
            fs::write(&file, &limit).unwrap();
            let mut cases = Vec::new();
            for what in [HUGE_MEMFD, &format!("{HUGE_MEMFD},share=off")] {
                assert_fits(&sets, what, PAGES, HUGE, &WAYS);
                for way in WAYS {
                    let wanted = "4 huge pages of 2048 KiB are wanted";
                    let (errno, first, left) = match way {
                        Way::Live if common::kernel() >= (5, 14) => {
                            (libc::EFAULT, "after 0 of 8388608 bytes", 0)
                        }
                        Way::Live => (libc::EFAULT, "after 6291456 of 8388608 bytes", 0),
                        Way::TouchLive => (libc::EFAULT, "after 6291456 of 8388608 bytes", 0),
                        _ => (libc::ENOMEM, wanted, 3 * HUGE),
                    };
                    let figures =
                        format!("{} is {limit} bytes, {left} of them left", file.display());
                    cases.push(Case {
                        what: what.to_owned(),
                        size: (PAGES + 1) * HUGE,
                        way,
                        errno,
                        words: vec![first.to_owned(), figures],
                    });
                }
            }
            repeat(&sets, &cases, 500, || neighbour.assert_well());
            fs::write(&file, (64 * HUGE).to_string()).unwrap();
        }
        assert_fits(&sets, HUGE_MEMFD, 2 * PAGES, HUGE, &WAYS);
        drop((neighbour, group));
    });
}

#[test]
fn a_file_system_that_is_full() {
    in_child("a_file_system_that_is_full", || {
        // Chunks end at this, so that the first failure is at the byte.
        const FREE: u64 = 2 * MIB;
        let page = page_size();
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={}", FREE + page);
        if !host::mount("tmpfs", directory.path(), &options) {
            return;
        }
        let sets = Sets::new();
        let path = directory.path().display();
        let neighbour = Neighbour::start(
            &format!("memory-backend-file,share=on,mem-path={path}"),
            page,
        );
        let mut cases = Vec::new();
        let size = FREE + page;
        for rest in ["", ",thp=never"] {
            let temporary = format!("memory-backend-file,share=on,mem-path={path}{rest}");
            let new = format!("memory-backend-file,share=on,mem-path={path}/new{rest}");
            assert_fits(&sets, &temporary, FREE / page, page, &WAYS);
            let ways = WAYS.map(|way| (&temporary, way));
            // A new file stays where completing succeeds and only filling it does not.
            let ways = ways
                .into_iter()
                .chain([(&new, Way::Wait), (&new, Way::Touch)]);
            for (what, way) in ways {
                let mut add = |what: String, words: Vec<String>| {
                    cases.push(Case {
                        what,
                        size,
                        way,
                        errno: libc::ENOSPC,
                        words,
                    });
                };
                add(
                    what.clone(),
                    vec![
                        format!("stopped before the file system of {path}/"),
                        format!("is full, after 0 of {size} bytes, at offset 0: "),
                        format!("{FREE} of its {size} bytes are free and {size} are needed"),
                    ],
                );
                add(
                    format!("{what},prealloc-watch=off"),
                    vec![
                        format!("failed after {FREE} of {size} bytes, at offset {FREE}"),
                        "No space left on device".to_owned(),
                        format!("the file system of {path}/"),
                        format!("0 of {size} bytes are free"),
                    ],
                );
            }
        }
        repeat(&sets, &cases, 250, || {
            neighbour.assert_well();
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        });

        // What was filled in a file of the user's cannot be told from what was there.
        let file = File::create(directory.path().join("old")).unwrap();
        file.set_len(size).unwrap();
        let case = Case {
            what: format!("memory-backend-file,share=on,mem-path={path}/old,prealloc-watch=off"),
            size,
            way: Way::Wait,
            errno: libc::ENOSPC,
            words: vec!["what was filled in the file stays filled".to_owned()],
        };
        case.is_refused(&sets);
    });
}

/// Others who map sparse files on the file system would die of SIGBUS if it were filled.
#[test]
fn room_on_a_file_system_is_foreseen() {
    in_child("room_on_a_file_system_is_foreseen", || {
        const FREE: u64 = 8 * MIB;
        let directory = tempfile::tempdir().unwrap();
        if !host::mount("tmpfs", directory.path(), &format!("size={FREE}")) {
            return;
        }
        let path = directory.path().display();
        let set = common::objects();
        let begin = |name: &str, options: &str| {
            let file = format!("memory-backend-file,id={name},share=on,mem-path={path}/{name}");
            set.parse(format!("{file},{options}")).unwrap()
        };
        let no_room = |error: Error, free: u64, needed: u64| {
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
            let figures = format!("{free} of its {FREE} bytes are free and {needed} are needed");
            assert!(error.to_string().contains(&figures), "{error}");
        };
        // Sparse, as a bystander may have it.
        let sparse = begin("sparse", "size=4M").complete().unwrap();
        let claim = sparse.claim("bystander").unwrap();
        assert_eq!(sparse.warnings(), [""; 0]);
        let large = begin("large", "size=16M").complete().unwrap();
        let warned = large.warnings().concat();
        let words = format!(
            "needs {} bytes and the file system of {path}/large",
            2 * FREE
        );
        assert!(warned.contains(&words), "{warned}");
        drop(large);
        fs::remove_file(directory.path().join("large")).unwrap();
        let error = begin("large", "size=16M,prealloc=on").complete();
        no_room(error.unwrap_err().error, FREE, 2 * FREE);
        access::fill(&claim, 0, 4 * MIB, 0x5a);

        // Each fits, both do not.
        let pair = ["a", "b"].map(|name| begin(name, "size=3M,prealloc=on"));
        let error = hostmem::Builder::complete_all(pair.into()).unwrap_err();
        no_room(error.error, 4 * MIB, 6 * MIB);
        assert!(!directory.path().join("b").exists());

        // Twice the same file needs its room once, and parts of it that do not overlap each.
        let twice = |options: [&str; 2]| {
            let name = |id: &str, options| {
                let file = format!("memory-backend-file,id={id},share=on,mem-path={path}/twice");
                set.parse(format!("{file},prealloc=on,{options}")).unwrap()
            };
            let both = vec![name("one", options[0]), name("other", options[1])];
            hostmem::Builder::complete_all(both)
        };
        let file = File::create_new(directory.path().join("twice")).unwrap();
        file.set_len(6 * MIB).unwrap();
        for parts in [
            ["size=3M", "size=3M,offset=3M"],
            ["size=3M,offset=3M", "size=3M"],
        ] {
            let failed = twice(parts).map(|_| ()).unwrap_err();
            no_room(failed.error.clone(), 4 * MIB, 6 * MIB);
            // The failure holds the backends, which have the ids.
            drop(failed);
        }
        drop(twice(["size=3M,offset=1M", "size=3M,offset=1M"]).unwrap());
        fs::remove_file(directory.path().join("twice")).unwrap();
        drop(file);

        // What is behind a part is not counted: its last hole goes on there, and then there is data.
        let behind = directory.path().join("behind");
        let file = File::create_new(&behind).unwrap();
        file.set_len(12 * MIB).unwrap();
        file.write_all_at(&[1], 0).unwrap();
        file.write_all_at(&[1], 8 * MIB).unwrap();
        let part = begin("behind", "size=6M").complete().unwrap();
        let warned = part.warnings().concat();
        let words = format!("still needs {} bytes", 6 * MIB - page_size());
        assert!(warned.contains(&words), "{warned}");
        fs::remove_file(&behind).unwrap();
        drop((part, file));

        // What a file has already needs no room, in whichever part.
        let half = begin("half", "size=4M").complete().unwrap();
        for _ in 0..2 {
            half.populate(2 * MIB, 2 * MIB).unwrap();
        }
        let rest = begin("rest", "size=2M,prealloc=on").complete().unwrap();
        half.populate(2 * MIB, 2 * MIB).unwrap();
        no_room(half.populate(MIB, 2 * MIB).unwrap_err(), 0, MIB);
        drop((rest, claim));

        // A jail may have no /proc.
        if host::mount("tmpfs", Path::new("/proc"), "size=4K") {
            let error = begin("jailed", "size=16M,prealloc=on").complete();
            no_room(error.unwrap_err().error, 0, 2 * FREE);
            // All that is absent may be in the rest of the file.
            half.populate(3 * MIB, MIB).unwrap();
        }
    });
}

/// Kinds of memory that the OOM killer is called for.
const SMALL: [&str; 6] = [
    "memory-backend-ram,thp=never",
    "memory-backend-ram,thp=always",
    "memory-backend-ram,share=on",
    "memory-backend-memfd",
    "memory-backend-memfd,share=off",
    "memory-backend-shm",
];

/// Those that check the available memory first.
const LOOKING: [Way; 3] = [Way::Wait, Way::Background, Way::Touch];

/// The number before the words.
fn figure(message: &str, words: &str) -> u64 {
    let before = message.split(words).next().unwrap();
    let number = before.rsplit(' ').find(|word| !word.is_empty()).unwrap();
    number.parse().unwrap_or_else(|_| panic!("{message}"))
}

/// What is left to the rest of a control group.
fn group_margin(size: u64) -> u64 {
    (size / 64).clamp(MIB, 16 * MIB)
}

const IN_GROUP: &str = " under the memory limit of the control group";

fn small_cases(kinds: &[&str], ways: &[Way], size: u64, words: &str) -> Vec<Case> {
    let margin = match words {
        IN_GROUP => group_margin(size),
        _ => HOST_MARGIN,
    };
    let case = |what: &str, way| {
        // What is private has its own copy of each page of the file.
        let pages = if what.contains("memfd,share=off") {
            2 * size
        } else {
            size
        };
        let needed = pages + margin + pages / 256;
        Case {
            what: what.to_owned(),
            size,
            way,
            errno: libc::ENOMEM,
            words: vec![
                format!("stopped before memory runs out, after 0 of {size} bytes"),
                format!("bytes are available{words} and {needed} are needed"),
            ],
        }
    };
    kinds
        .iter()
        .flat_map(|what| ways.iter().map(|&way| case(what, way)))
        .collect()
}

/// Runs a test in a child that is in a group of so much memory, and that has no swap.
fn in_limited_group(name: &str, limit: u64, test: impl FnOnce(&Group)) {
    // It takes the group's memory for itself.
    if common::has_address_sanitizer() {
        return;
    }
    in_child(name, || {
        let Some(group) = Group::enter("memory") else {
            return;
        };
        group.limit_memory(limit);
        let Some(_no_swap) = common::without_swap() else {
            return;
        };
        test(&group);
    });
}

#[test]
fn a_limit_of_memory() {
    const LIMIT: u64 = 128 * MIB;
    in_limited_group("a_limit_of_memory", LIMIT, |group| {
        let sets = Sets::new();
        let neighbour = Neighbour::start("memory-backend-ram", 4 * MIB);
        let cases = small_cases(&SMALL, &LOOKING, LIMIT, IN_GROUP);
        for case in &cases {
            let available = figure(&case.is_refused(&sets), " bytes are available");
            assert!(
                available < LIMIT - 4 * MIB && available > LIMIT / 2,
                "{available}"
            );
        }
        repeat(&sets, &cases, 1000, || neighbour.assert_well());
        for what in SMALL {
            sets.fill(what, 16 * MIB, Way::Wait).unwrap();
        }
        // What is on disk can be read again, whether it has a name or not.
        if let Some(directory) = common::directory_on_disk() {
            let path = directory.path().display();
            for name in ["", "/named"] {
                let file = format!("memory-backend-file,share=on,mem-path={path}{name}");
                sets.fill(&file, 64 * MIB, Way::Wait).unwrap();
            }
        }
        // Little needs little, in a group that has not more.
        group.limit_memory(64 * MIB);
        for what in SMALL {
            sets.fill(what, page_size(), Way::Wait).unwrap();
            sets.fill(what, 4 * MIB, Way::Wait).unwrap();
        }
    });
}

/// What is in ramfs is never written anywhere else.
#[test]
fn a_file_in_ramfs_in_a_limited_group() {
    in_limited_group("a_file_in_ramfs_in_a_limited_group", 64 * MIB, |_| {
        let directory = tempfile::tempdir().unwrap();
        if !host::mount("ramfs", directory.path(), "") {
            return;
        }
        for share in ["on", "off"] {
            let path = directory.path().display();
            let file = format!("memory-backend-file,share={share},mem-path={path}");
            let error = Sets::new().fill(&file, 128 * MIB, Way::Wait);
            let error = error.map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoMemory, "{error}");
            let message = error.to_string();
            assert!(message.contains(IN_GROUP), "{message}");
            assert!(message.contains("after 0 of"), "{message}");
            Sets::new().fill(&file, 8 * MIB, Way::Wait).unwrap();
        }
    });
}

/// A group that was made for the memory has room for it and little else.
#[test]
fn a_group_of_little_more() {
    in_limited_group("a_group_of_little_more", 192 * MIB, |group| {
        let sets = Sets::new();
        // A private copy of a file takes the file's pages as well.
        for what in SMALL.iter().filter(|what| !what.contains("share=off")) {
            for way in [Way::Wait, Way::Background, Way::Live] {
                sets.fill(what, 128 * MIB, way).unwrap();
            }
        }
        // A piece at a time, as memory is plugged: the size of the whole does not count.
        group.limit_memory(96 * MIB);
        let backend = sets
            .asked
            .parse("memory-backend-ram,id=m0,size=1G,reserve=off");
        let backend = backend.unwrap().complete().unwrap();
        for piece in 0..16 {
            backend.populate(piece * 4 * MIB, 4 * MIB).unwrap();
        }
    });
}

/// What is on disk can be read again, but not while the file system writes it, or while it is locked.
#[test]
fn a_file_on_disk_in_a_group_that_is_full() {
    const NAME: &str = "a_file_on_disk_in_a_group_that_is_full";
    in_limited_group(NAME, 128 * MIB, |_| {
        let Some(directory) = common::directory_on_disk() else {
            return;
        };
        let path = directory.path().display();
        let file = format!("memory-backend-file,share=on,mem-path={path}");
        // Each has a set of its own, since all have the same id.
        let fill = |what: &str, size| Sets::new().fill(what, size, Way::Wait);
        let refused = |what: &str, size| {
            let error = fill(what, size).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoMemory, "{error}");
            assert!(error.to_string().contains(IN_GROUP), "{error}");
        };
        refused(&format!("{file},lock=on"), 256 * MIB);
        let mut all = Vec::new();
        for size in [32 * MIB, 8 * MIB, 2 * MIB, MIB / 2] {
            while let Ok(backend) = fill("memory-backend-ram,thp=never", size) {
                all.push((backend, size));
            }
        }
        refused(&file, 16 * MIB);
        // With some more there is enough for a file of any size.
        let mut freed = 0;
        while freed < 10 * MIB {
            freed += all.pop().unwrap().1;
        }
        let options = format!("{file},id=m0,size=64M,prealloc=on");
        let builder = Sets::new().asked.parse(options).unwrap();
        builder.complete().unwrap();
    });
}

/// A private mapping of shared memory takes twice its size: the file's page, and a copy of it.
#[test]
fn a_private_copy_of_shared_memory() {
    const NAME: &str = "a_private_copy_of_shared_memory";
    const SIZE: u64 = 64 * MIB;
    in_limited_group(NAME, 112 * MIB, |group| {
        let sets = Sets::new();
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("file");
        for what in [
            "memory-backend-memfd,share=off".to_owned(),
            format!("memory-backend-file,share=off,mem-path={}", path.display()),
        ] {
            group.limit_memory(112 * MIB);
            let error = sets.fill(&what, SIZE, Way::Wait).map(|_| ()).unwrap_err();
            let begins = "stopped before memory runs out, after 0 of";
            assert!(error.to_string().contains(begins), "{what}: {error}");
            group.limit_memory(160 * MIB);
            sets.fill(&what, SIZE, Way::Wait).unwrap();
        }
        // What the file has already is not needed again; before Linux 6.5 (cachestat) what was
        // written.
        let file = File::create(&path).unwrap();
        if common::kernel() < (6, 5) {
            file.write_all_at(&vec![1; SIZE as usize], 0).unwrap();
        }
        // SAFETY: takes numbers.
        let result = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, SIZE as libc::off_t) };
        assert_eq!(result, 0);
        group.limit_memory(160 * MIB);
        let what = format!("memory-backend-file,share=off,mem-path={}", path.display());
        sets.fill(&what, SIZE, Way::Wait).unwrap();
    });
}

/// Without the watch all that the kernel gives is taken, to the last page.
#[test]
fn the_watch_is_switched_off() {
    in_limited_group("the_watch_is_switched_off", 128 * MIB, |_| {
        let sets = Sets::new();
        let refused = sets.fill(SMALL[0], 8 << 30, Way::Wait).map(|_| ());
        let refused = refused.unwrap_err().to_string();
        let available = figure(&refused, " bytes are available under the memory limit");
        let size = (available - 2 * MIB) / page_size() * page_size();
        assert!(group_margin(size) + size / 256 > 2 * MIB, "{available}");
        sets.fill(SMALL[0], size, Way::Wait).unwrap_err();
        let what = format!("{},prealloc-watch=off", SMALL[0]);
        for way in [Way::Wait, Way::Background, Way::Live] {
            sets.fill(&what, size, way).unwrap();
        }
    });
}

/// What mlockall() locks is populated as it becomes accessible, but not past the group's limit.
#[test]
fn locking_everything_to_come_populates_only_what_fits() {
    let name = "locking_everything_to_come_populates_only_what_fits";
    in_limited_group(name, 200 * MIB, |_| {
        // SAFETY: takes flags.
        if unsafe { libc::mlockall(libc::MCL_FUTURE) } != 0 {
            return skip("this process may not lock its memory");
        }
        let set = common::objects();
        for (size, resident) in [(400, 0), (100, 100 * MIB)] {
            let backend = set.parse(format!("memory-backend-ram,id=m0,size={size}M"));
            let backend = backend.unwrap().complete().unwrap();
            assert_eq!(backend.placement().unwrap().resident, resident);
            let warned = backend.warnings().concat();
            assert_eq!(warned.contains("mlockall(2) would populate"), resident == 0);
            let claim = backend.claim("vm0").unwrap();
            access::fill(&claim, 0, MIB, 0x5a);
            // The lock stays, for what is touched later.
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let locked = figure(&status[status.find("VmLck:").unwrap()..], " kB");
            assert!(locked >= size << 10, "{locked}");
        }
    });
}

#[test]
fn the_limit_of_locked_memory_is_named() {
    if common::has_address_sanitizer() {
        return;
    }
    in_child("the_limit_of_locked_memory_is_named", || {
        if !host::is_root() {
            return skip("not root");
        }
        let set = common::objects();
        let builder = set.parse("memory-backend-ram,id=m0,size=64M").unwrap();
        let limit = libc::rlimit {
            rlim_cur: 4 * MIB,
            rlim_max: 4 * MIB,
        };
        // SAFETY: reads the struct; takes flags.
        unsafe {
            assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit), 0);
            host::become_nobody();
            assert_eq!(
                libc::mlockall(libc::MCL_FUTURE),
                0,
                "{}",
                std::io::Error::last_os_error()
            );
        }
        let error = builder.complete().unwrap_err().error;
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN), "{error}");
        let words = format!("RLIMIT_MEMLOCK is {} bytes", 4 * MIB);
        assert!(error.to_string().contains(&words), "{error}");
    });
}

/// As much as can be had in a group, less a little.
fn nearly_all(sets: &Sets, what: &str) -> u64 {
    let refused = sets.fill(what, 8 << 30, Way::Wait).map(|_| ());
    let available = figure(
        &refused.unwrap_err().to_string(),
        " bytes are available under the memory limit",
    );
    (available - group_margin(available) - 8 * MIB) / 257 * 256 / HUGE * HUGE
}

/// Chunks in progress have taken available memory already, which is no shortage.
#[test]
fn many_threads_fill_nearly_all() {
    in_limited_group("many_threads_fill_nearly_all", 512 * MIB, |_| {
        if meminfo("MemAvailable:") < 1 << 30 {
            return skip("the group's limit has to be what is short");
        }
        let sets = Sets::new();
        let size = nearly_all(&sets, SMALL[1]);
        for what in [SMALL[0], SMALL[1]] {
            for threads in [1, 64] {
                let options = format!("id=m0,size={size},prealloc=on,prealloc-threads={threads}");
                let builder = sets.asked.parse(format!("{what},{options}")).unwrap();
                builder.complete().unwrap();
            }
        }
    });
}

/// What is there already needs no memory, wherever it is.
#[test]
fn memory_that_is_half_there() {
    const HALF: u64 = 64 * MIB;
    in_limited_group("memory_that_is_half_there", 4 * HALF, |_| {
        let sets = Sets::new();
        // The file that is copied takes memory of its own.
        for what in SMALL.iter().filter(|what| !what.contains("share=off")) {
            let options = format!("{what},id=m0,size={},reserve=off", 2 * HALF);
            for there in [0, HALF] {
                let backend = sets.asked.parse(&options).unwrap().complete().unwrap();
                backend.populate(there, HALF).unwrap();
                backend.populate(0, 2 * HALF).unwrap();
                backend.populate(0, 2 * HALF).unwrap();
                assert_eq!(backend.placement().unwrap().absent, 0);
            }
        }
    });
}

/// The page of zeroes that the kernel maps where memory is only read is not counted.
#[test]
fn memory_that_was_only_read() {
    const SIZE: u64 = 64 * MIB;
    in_limited_group("memory_that_was_only_read", SIZE, |_| {
        for thp in ["never", "always"] {
            let options = format!("memory-backend-ram,id=m0,size={SIZE},thp={thp}");
            let backend = common::objects().parse(options).unwrap();
            let backend = backend.complete().unwrap();
            assert!(access::has(&backend.claim("vm0").unwrap(), 0, SIZE, 0));
            let error = backend.set("prealloc", true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoMemory, "{error}");
            assert_eq!(backend.placement().unwrap().resident, 0);
        }
    });
}

/// Nobody waits until the kernel has told what is there.
#[test]
fn a_terabyte_is_cancelled() {
    let options = "memory-backend-memfd,id=m0,size=1T,prealloc=on,prealloc-mode=background";
    let begun = Instant::now();
    let backend = common::objects().parse(options).unwrap();
    let backend = backend.complete().unwrap();
    backend.cancel_prealloc().unwrap();
    backend.wait_prealloc(None).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn all_memory() {
    in_child("all_memory", || {
        let Some(_no_swap) = common::without_swap() else {
            return;
        };
        let page = page_size();
        // Below all of memory, so that the kernel's overcommit guess lets it be mapped.
        let size = meminfo("MemTotal:") / page * page;
        // With room for all of it, whatever files others have there.
        let room = format!("size={}", 2 * size);
        let has_room = host::mount("tmpfs", Path::new("/dev/shm"), &room);
        let kinds = SMALL
            .iter()
            .filter(|kind| has_room || !kind.ends_with("-shm"));
        let kinds: Vec<_> = kinds.copied().collect();
        let sets = Sets::new();
        let neighbour = Neighbour::start("memory-backend-ram", 4 * MIB);
        // Counting present pages would take all the time.
        let new = &[Way::Wait, Way::Touch];
        let mut cases = small_cases(&kinds, new, size, "");
        if let Some(node) = common::bindable_node() {
            let bound = format!("memory-backend-ram,policy=bind,host-nodes={node}");
            cases.extend(small_cases(
                &[&bound],
                new,
                size,
                &format!(" on node {node}"),
            ));
        }
        repeat(&sets, &cases, 500, || neighbour.assert_well());
        sets.fill(SMALL[0], MIB, Way::Wait).unwrap();
    });
}

// ---- Where limits are found ----

/// Lets the calling thread see a directory in a second place, for good.
fn bind(from: &Path, to: &Path) {
    let text = |path: &Path| std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let (from, to) = (text(from), text(to));
    // SAFETY: the texts live across the call.
    let result = unsafe {
        libc::mount(
            from.as_ptr(),
            to.as_ptr(),
            std::ptr::null(),
            libc::MS_BIND,
            std::ptr::null(),
        )
    };
    assert_eq!(result, 0);
}

/// Mount points have escapes in /proc/self/mountinfo, and some mounts show other groups only.
#[test]
fn limits_are_found_wherever_they_are_mounted() {
    in_child("limits_are_found_wherever_they_are_mounted", || {
        let Some(_no_swap) = common::without_swap() else {
            return;
        };
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let Some(group) = Group::enter("memory") else {
            return;
        };
        let root = group.path.parent().unwrap().to_owned();
        let other = root.join(format!("hostmem other {}", std::process::id()));
        fs::create_dir(&other).unwrap();
        let limited = group.path.join("memory.limit_in_bytes").exists();
        let file = if limited {
            "memory.limit_in_bytes"
        } else {
            "memory.max"
        };
        fs::write(other.join(file), (16 * MIB).to_string()).unwrap();
        let elsewhere = place("of others");
        let seen = place("a b\\040c\tend");
        if !host::mount("tmpfs", &place("own world"), "size=1M") {
            fs::remove_dir(&other).unwrap();
            return;
        }
        bind(&other, &elsewhere);
        bind(&root, &seen);
        let hidden = std::ffi::CString::new(root.to_str().unwrap()).unwrap();
        // SAFETY: reads the text.
        let unmounted = unsafe { libc::umount2(hidden.as_ptr(), libc::MNT_DETACH) };
        assert_eq!(unmounted, 0);
        let sets = Sets::new();
        // Not the other's limit, which is less.
        sets.fill(SMALL[0], 32 * MIB, Way::Wait).unwrap();
        fs::write(
            seen.join(group.path.file_name().unwrap()).join(file),
            (64 * MIB).to_string(),
        )
        .unwrap();
        for case in small_cases(&SMALL, &LOOKING, 64 * MIB, IN_GROUP) {
            case.is_refused(&sets);
        }
        bind(&seen, &root);
        fs::remove_dir(&other).unwrap();
        drop(group);
    });
}

/// As much as its own limit of swap allows.
#[test]
fn a_group_may_use_swap() {
    in_child("a_group_may_use_swap", || {
        const LIMIT: u64 = 160 * MIB;
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = directory.path().join("swap");
        let _lock = host::HostLock::take();
        if meminfo("SwapTotal:") > 0 {
            return skip("there is swap already");
        }
        let Some(_swap) = host::Swap::start(&path, 128 * MIB) else {
            return;
        };
        let Some(group) = Group::enter("memory") else {
            return;
        };
        group.limit_memory(LIMIT);
        let sets = Sets::new();
        // What the watch without swap refuses and the kernel gives without swapping.
        let locked = format!("{},lock=on", SMALL[0]);
        let refused = sets.fill(&locked, LIMIT, Way::Wait).map(|_| ());
        let available = figure(&refused.unwrap_err().to_string(), " bytes are available");
        let size = (available - 2 * MIB) / page_size() * page_size();
        assert!(group_margin(size) + size / 256 > 2 * MIB, "{available}");
        sets.fill(&locked, size, Way::Wait).unwrap_err();
        sets.fill(SMALL[0], size, Way::Wait).unwrap();
        // Twice the size is more than there is with swap.
        for what in SMALL.iter().filter(|what| !what.contains("share=off")) {
            let error = sets.fill(&format!("{what},lock=on"), LIMIT, Way::Wait);
            let message = error.map(|_| ()).unwrap_err().to_string();
            let words = " bytes are available under the memory limit of the control group without";
            assert!(figure(&message, words) < LIMIT, "{message}");
        }
        let (file, limit) = match group.path.join("memory.memsw.limit_in_bytes") {
            file if file.exists() => (file, LIMIT + 8 * MIB),
            _ => (group.path.join("memory.swap.max"), 8 * MIB),
        };
        fs::write(file, limit.to_string()).unwrap();
        for case in small_cases(&SMALL, &LOOKING, LIMIT + 8 * MIB, IN_GROUP) {
            let available = figure(&case.is_refused(&sets), " bytes are available");
            assert!(
                available > LIMIT - 8 * MIB && available <= LIMIT + 8 * MIB,
                "{available}"
            );
        }
        drop(group);
    });
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Completing, of every kind: each step that fails leaves nothing behind, harms nothing of the
//! user's, and can be tried again.

mod common;

use std::cell::Cell;
use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use common::access::memfd;
use common::host;
use common::host::HugePages;
use common::host::HUGE;
use common::in_child;
use common::refusing;
use common::skip;
use common::Belongings;
use common::Refusal;
use hostmem::Builder;
use hostmem::ErrorKind;
use hostmem::Objects;
use hostmem::State;
use tempfile::TempDir;

/// Not a size that anything else here has, so that conditions on it hit nothing else.
const SIZE: u64 = 19 * HUGE;
/// Whole pages of any size.
const OFFSET: u64 = 64 << 10;

/// A kind with a backing, and which groups of steps it has.
struct Subject {
    name: &'static str,
    kind: &'static str,
    /// `{dir}` is a directory of the test's, `{fd}` a descriptor of the user's.
    options: &'static str,
    steps: &'static [Step],
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Step {
    Memfd,
    /// Opens what is there.
    Open,
    /// Makes a file that nobody else can have.
    Create,
    Size,
    Random,
    Duplicate,
    Seal,
    /// Looks at a descriptor.
    Look,
    /// Small pages: THP advice, memory locks.
    Small,
    /// Populated by writing.
    Write,
    /// Populated by reading.
    Read,
    /// All have these.
    Any,
}

use Step::*;

const SUBJECTS: &[Subject] = &[
    Subject {
        name: "ram",
        kind: "ram",
        options: "",
        steps: &[Small, Write],
    },
    Subject {
        name: "ram shared",
        kind: "ram",
        options: ",share=on",
        steps: &[Memfd, Size, Seal, Look, Small, Write],
    },
    Subject {
        name: "memfd",
        kind: "memfd",
        options: "",
        steps: &[Memfd, Size, Seal, Look, Small, Write],
    },
    Subject {
        name: "memfd private",
        kind: "memfd",
        options: ",share=off",
        steps: &[Memfd, Size, Seal, Look, Small, Write],
    },
    Subject {
        name: "memfd without seal",
        kind: "memfd",
        options: ",seal=off",
        steps: &[Memfd, Size, Seal, Look, Small, Write],
    },
    Subject {
        name: "memfd huge",
        kind: "memfd",
        options: ",hugetlb=on,hugetlbsize=2M",
        steps: &[Memfd, Size, Seal, Look, Write],
    },
    Subject {
        name: "shm",
        kind: "shm",
        options: "",
        steps: &[Create, Size, Random, Look, Small, Write],
    },
    Subject {
        name: "file new",
        kind: "file",
        options: ",mem-path={dir}/new,share=on",
        steps: &[Create, Size, Look, Small, Write],
    },
    Subject {
        name: "file new private",
        kind: "file",
        options: ",mem-path={dir}/new",
        steps: &[Create, Size, Look, Small, Write],
    },
    Subject {
        name: "file empty",
        kind: "file",
        options: ",mem-path={dir}/empty,share=on",
        steps: &[Open, Size, Look, Small, Write],
    },
    Subject {
        name: "file full",
        kind: "file",
        options: ",mem-path={dir}/full,share=on,offset=64K",
        steps: &[Open, Look, Small, Write],
    },
    Subject {
        name: "file full private",
        kind: "file",
        options: ",mem-path={dir}/full,offset=64K",
        steps: &[Open, Look, Small, Write],
    },
    Subject {
        name: "file discard-data",
        kind: "file",
        options: ",mem-path={dir}/full,share=on,discard-data=on",
        steps: &[Open, Look, Small, Write],
    },
    Subject {
        name: "template",
        kind: "file",
        options: ",mem-path={dir}/full,readonly=on,rom=off",
        steps: &[Open, Look, Small, Write],
    },
    Subject {
        name: "rom",
        kind: "file",
        options: ",mem-path={dir}/full,readonly=on,share=on",
        steps: &[Open, Look, Read],
    },
    Subject {
        name: "directory",
        kind: "file",
        options: ",mem-path={dir}/empty.d,share=on",
        steps: &[Create, Size, Look, Small, Write],
    },
    Subject {
        name: "fd",
        kind: "fd",
        options: ",fd={fd},offset=64K",
        steps: &[Duplicate, Look, Small, Write],
    },
    Subject {
        name: "fd private",
        kind: "fd",
        options: ",fd={fd},share=off",
        steps: &[Duplicate, Look, Small, Write],
    },
    Subject {
        name: "fd rom",
        kind: "fd",
        options: ",fd={fd},readonly=on",
        steps: &[Duplicate, Look, Read],
    },
];

/// The step that fails, the kinds that have it, and the error it becomes.
struct Case {
    name: &'static str,
    step: Step,
    more: &'static str,
    refusal: fn() -> Refusal,
    kind: ErrorKind,
    errno: libc::c_int,
}

const fn case(
    name: &'static str,
    step: Step,
    more: &'static str,
    refusal: fn() -> Refusal,
    kind: ErrorKind,
    errno: libc::c_int,
) -> Case {
    Case {
        name,
        step,
        more,
        refusal,
        kind,
        errno,
    }
}

fn madvise(advice: libc::c_int) -> Refusal {
    Refusal::new(libc::SYS_madvise, libc::EPERM)
        .only(1, SIZE)
        .only(2, advice as u64)
}

fn open(errno: libc::c_int, mask: libc::c_int, value: libc::c_int) -> Refusal {
    Refusal::new(libc::SYS_openat, errno).only_masked(2, mask as u64, value as u64)
}

fn cases() -> Vec<Case> {
    use ErrorKind::Io;
    use ErrorKind::NoMemory;
    use ErrorKind::Unsupported;
    const REOPEN: libc::c_int = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut cases = vec![
        case(
            "memfd_create without descriptors left",
            Memfd,
            "",
            || Refusal::new(libc::SYS_memfd_create, libc::EMFILE),
            NoMemory,
            libc::EMFILE,
        ),
        case(
            "memfd_create forbidden",
            Memfd,
            "",
            || Refusal::new(libc::SYS_memfd_create, libc::EPERM),
            Io,
            libc::EPERM,
        ),
        case(
            "looking a path up",
            Open,
            "",
            || open(libc::EACCES, libc::O_PATH, libc::O_PATH),
            Io,
            libc::EACCES,
        ),
        case(
            "opening",
            Open,
            "",
            || open(libc::EMFILE, REOPEN, REOPEN),
            NoMemory,
            libc::EMFILE,
        ),
        case(
            "creating on a read-only file system",
            Create,
            "",
            || open(libc::EROFS, libc::O_EXCL, libc::O_EXCL),
            Io,
            libc::EROFS,
        ),
        case(
            "creating on a full file system",
            Create,
            "",
            || open(libc::ENOSPC, libc::O_EXCL, libc::O_EXCL),
            NoMemory,
            libc::ENOSPC,
        ),
        case(
            "ftruncate on a full file system",
            Size,
            "",
            || Refusal::new(libc::SYS_ftruncate, libc::ENOSPC).only_masked(1, u64::MAX, SIZE),
            NoMemory,
            libc::ENOSPC,
        ),
        case(
            "ftruncate above what the file system holds",
            Size,
            "",
            || Refusal::new(libc::SYS_ftruncate, libc::EFBIG).only_masked(1, u64::MAX, SIZE),
            Io,
            libc::EFBIG,
        ),
        case(
            "getrandom",
            Random,
            "",
            || Refusal::new(libc::SYS_getrandom, libc::ENOSYS),
            Unsupported,
            libc::ENOSYS,
        ),
        case(
            "duplicating",
            Duplicate,
            "",
            || Refusal::new(libc::SYS_fcntl, libc::EMFILE).only(1, libc::F_DUPFD_CLOEXEC as u64),
            NoMemory,
            libc::EMFILE,
        ),
        case(
            "looking at the descriptor",
            Look,
            "",
            || Refusal::new(libc::SYS_fstatfs, libc::EIO),
            Io,
            libc::EIO,
        ),
        case(
            "reserving address space",
            Any,
            "",
            || {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
                Refusal::new(libc::SYS_mmap, libc::ENOMEM).only(3, flags as u64)
            },
            NoMemory,
            libc::ENOMEM,
        ),
        case(
            "mapping",
            Any,
            "",
            || {
                Refusal::new(libc::SYS_mmap, libc::EPERM)
                    .only(1, SIZE)
                    .only_masked(
                        3,
                        libc::MAP_FIXED_NOREPLACE as u64,
                        libc::MAP_FIXED_NOREPLACE as u64,
                    )
            },
            Io,
            libc::EPERM,
        ),
        case(
            "sealing",
            Seal,
            "",
            || Refusal::new(libc::SYS_fcntl, libc::EPERM).only(1, libc::F_ADD_SEALS as u64),
            Io,
            libc::EPERM,
        ),
        case(
            "MADV_HUGEPAGE",
            Small,
            "",
            || madvise(libc::MADV_HUGEPAGE),
            Io,
            libc::EPERM,
        ),
        case(
            "MADV_NOHUGEPAGE",
            Small,
            ",thp=never",
            || madvise(libc::MADV_NOHUGEPAGE),
            Io,
            libc::EPERM,
        ),
        case(
            "MADV_DONTFORK",
            Any,
            "",
            || madvise(libc::MADV_DONTFORK),
            Io,
            libc::EPERM,
        ),
        case(
            "MADV_MERGEABLE",
            Any,
            ",merge=on",
            || madvise(libc::MADV_MERGEABLE),
            Io,
            libc::EPERM,
        ),
        case(
            "MADV_UNMERGEABLE",
            Any,
            ",merge=off",
            || madvise(libc::MADV_UNMERGEABLE),
            Io,
            libc::EPERM,
        ),
        case(
            "MADV_DODUMP",
            Any,
            "",
            || madvise(libc::MADV_DODUMP),
            Io,
            libc::EPERM,
        ),
        case(
            "MADV_DONTDUMP",
            Any,
            ",dump=off",
            || madvise(libc::MADV_DONTDUMP),
            Io,
            libc::EPERM,
        ),
        case(
            "mprotect",
            Any,
            "",
            || Refusal::new(libc::SYS_mprotect, libc::EACCES).only(1, SIZE),
            Io,
            libc::EACCES,
        ),
        case(
            "MADV_POPULATE_WRITE",
            Write,
            ",prealloc=on",
            || Refusal::new(libc::SYS_madvise, libc::EFAULT).only(2, 23),
            NoMemory,
            libc::EFAULT,
        ),
        case(
            "MADV_POPULATE_READ",
            Read,
            ",prealloc=on",
            || Refusal::new(libc::SYS_madvise, libc::EFAULT).only(2, 22),
            NoMemory,
            libc::EFAULT,
        ),
        case(
            "mlock2",
            Small,
            ",lock=on",
            || Refusal::new(libc::SYS_mlock2, libc::ENOMEM),
            NoMemory,
            libc::ENOMEM,
        ),
    ];
    if cfg!(feature = "numa") && Path::new("/sys/devices/system/node/node0").exists() {
        cases.push(case(
            "mbind",
            Any,
            ",policy=bind,host-nodes=0",
            || Refusal::new(libc::SYS_mbind, libc::EIO),
            Io,
            libc::EIO,
        ));
    }
    cases
}

/// What the user has, which no failure may change.
struct User {
    directory: TempDir,
    fd: File,
}

impl User {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = |name| directory.path().join(name);
        File::create_new(path("empty")).unwrap();
        fs::create_dir(path("empty.d")).unwrap();
        let full = File::create_new(path("full")).unwrap();
        let fd = memfd("user", libc::MFD_ALLOW_SEALING, SIZE + OFFSET);
        full.set_len(SIZE + OFFSET).unwrap();
        for file in [&full, &fd] {
            for at in (0..SIZE).step_by(1 << 20) {
                file.write_all_at(b"the user's", at).unwrap();
            }
        }
        Self { directory, fd }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn options(&self, subject: &Subject, more: &str) -> String {
        let options = subject
            .options
            .replace("{dir}", self.directory.path().to_str().unwrap())
            .replace("{fd}", &self.fd.as_raw_fd().to_string());
        format!(
            "memory-backend-{},id=m0,size={SIZE}{options}{more}",
            subject.kind
        )
    }

    /// All that can be seen of what is the user's.
    fn state(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for name in ["", "empty.d"] {
            for entry in fs::read_dir(self.path(name)).unwrap() {
                let entry = entry.unwrap();
                let status = entry.metadata().unwrap();
                let length = if status.is_dir() { 0 } else { status.len() };
                let (mode, links) = (status.mode(), status.nlink());
                lines.push(format!("{:?} {length} {mode:o} {links}", entry.path()));
            }
        }
        lines.sort();
        let full = File::open(self.path("full")).unwrap();
        for file in [&full, &self.fd] {
            lines.push(format!("{} blocks", file.metadata().unwrap().blocks()));
            lines.push(format!("{} bytes", file.metadata().unwrap().len()));
            for at in (0..SIZE).step_by(1 << 20) {
                let mut bytes = [0; 16];
                file.read_exact_at(&mut bytes, at).unwrap();
                lines.push(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        let shm = fs::read_dir("/dev/shm").unwrap();
        let shm = shm.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let ours = shm.filter(|name| name.starts_with("hostmem"));
        // Another test's object has its name for an instant only.
        lines.extend(ours.filter(|name| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            std::path::Path::new("/dev/shm").join(name).exists()
        }));
        lines.push(format!(
            "seals {:x}",
            common::access::seals(&self.fd) & !0x20
        ));
        lines
    }
}

fn values(builder: &Builder) -> Vec<String> {
    hostmem::properties()
        .filter_map(|property| builder.get_text(property.name()).ok())
        .collect()
}

/// Completes in vain under a cause; gives the builder back.
fn fail(what: &str, builder: Builder, case: &Case) -> Builder {
    let before = values(&builder);
    // Without it shared memory is filled by MADV_POPULATE_WRITE too, whose failure is a case.
    let zero_pages = Refusal::new(libc::SYS_userfaultfd, libc::ENOSYS);
    let refusals = [(case.refusal)(), zero_pages];
    let failed = refusing(&refusals, || builder.complete()).expect_err(what);
    let message = failed.to_string();
    assert_eq!(failed.error.kind(), case.kind, "{what}: {message}");
    assert_eq!(
        failed.error.raw_os_error(),
        Some(case.errno),
        "{what}: {message}"
    );
    assert!(message.starts_with("m0: "), "{what}: {message}");
    assert_eq!(values(&failed.object), before, "{what}");
    failed.object
}

/// One kind and one step; counts what it checked.
fn try_case(objects: &Objects, subject: &Subject, case: &Case, checks: &Cell<u32>) {
    let what = format!("{}: {}", subject.name, case.name);
    let check = |passed: bool, of: &str| {
        assert!(passed, "{what}: {of}");
        checks.set(checks.get() + 1);
    };
    let user = User::new();
    let options = user.options(subject, case.more);
    let state = user.state();
    let pool = HugePages::available();
    let parse = || objects.parse(&options).unwrap();

    // The first time the allocator maps what it keeps.
    drop(fail(&what, parse(), case));
    let before = Belongings::now();
    drop(fail(&what, parse(), case));
    check(
        Belongings::now() == before,
        "descriptors, mappings, threads",
    );
    check(user.state() == state, "the user's files");
    check(HugePages::available() == pool, "the pool");

    // The same object, then another one of that id.
    let mut builder = fail(&what, parse(), case);
    builder.set("size", SIZE).unwrap();
    let backend = builder.complete().unwrap();
    check(backend.state() == State::Ready, "again");
    check(
        backend.claim("test").unwrap().memory().len() == SIZE,
        "its size",
    );
    drop(backend);
    check(
        Belongings::now() == before,
        "descriptors, mappings, threads, after success",
    );
    check(HugePages::available() == pool, "the pool, after success");
    let _ = fs::remove_file(user.path("new"));
    File::create(user.path("empty")).unwrap();
    drop(fail(&what, parse(), case));
    let backend = parse().complete().unwrap();
    check(backend.id() == "m0", "another one of that id");
}

#[test]
fn whatever_fails_nothing_is_left_and_it_can_be_tried_again() {
    if cfg!(target_env = "musl") {
        return skip("the calls that are refused are those of the GNU C library");
    }
    in_child(
        "whatever_fails_nothing_is_left_and_it_can_be_tried_again",
        || {
            let pool = HugePages::have(SIZE / HUGE);
            let objects = common::objects();
            let checks = Cell::new(0);
            let cases = cases();
            let mut pairs = 0;
            for subject in SUBJECTS {
                if subject.options.contains("hugetlb") && pool.is_none() {
                    skip(subject.name);
                    continue;
                }
                for case in &cases {
                    if case.step == Any || subject.steps.contains(&case.step) {
                        try_case(&objects, subject, case, &checks);
                        pairs += 1;
                    }
                }
            }
            eprintln!(
                "{pairs} kinds with a step that fails, {} checks",
                checks.get()
            );
            assert!(pairs > 200 && checks.get() > 7 * pairs);
        },
    );
}

/// Causes that are the host's, not a refused call.
#[test]
fn a_host_without_room_leaves_nothing_either() {
    if cfg!(target_env = "musl") {
        return skip("the calls that are refused are those of the GNU C library");
    }
    in_child("a_host_without_room_leaves_nothing_either", || {
        if common::is_instrumented() {
            return;
        }
        let pool = HugePages::have(SIZE / HUGE);
        let objects = common::objects();
        let mut checks = 0;
        for (resource, limit, words) in [
            (libc::RLIMIT_AS, 0, "RLIMIT_AS"),
            (libc::RLIMIT_FSIZE, SIZE - 1, "RLIMIT_FSIZE"),
        ] {
            if !host::has_no_hard_limit(resource) {
                skip(words);
                continue;
            }
            for subject in SUBJECTS {
                let grows = subject.steps.contains(&Size);
                if subject.options.contains("hugetlb") && pool.is_none()
                    || resource == libc::RLIMIT_FSIZE && !grows
                {
                    continue;
                }
                let user = User::new();
                let state = user.state();
                let options = user.options(subject, "");
                let mut before = None;
                for _ in 0..2 {
                    let builder = objects.parse(&options).unwrap();
                    host::limit(resource, limit);
                    let result = builder.complete();
                    host::limit(resource, libc::RLIM_INFINITY);
                    let failed = result.expect_err(subject.name);
                    let message = failed.to_string();
                    // That of huge pages is a test of its own in tests/kind_memfd.rs.
                    let huge = subject.options.contains("hugetlb");
                    assert!(
                        huge || message.contains(words),
                        "{}: {message}",
                        subject.name
                    );
                    assert_eq!(user.state(), state, "{}", subject.name);
                    drop(failed);
                    let now = Belongings::now();
                    let before = before.get_or_insert_with(Belongings::now);
                    assert_eq!(&now, before, "{}", subject.name);
                    checks += 3;
                }
                drop(objects.parse(&options).unwrap().complete().unwrap());
            }
        }
        eprintln!("{checks} checks");
    });
}

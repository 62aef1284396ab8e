// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! memory-backend-file: made, grown or used as it is, and never more than that.

mod common;

use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use common::access::assert_refused;
use common::access::closes_on_exec;
use common::access::descriptor;
use common::access::new;
use common::access::read;
use common::access::smaps_field;
use common::access::write;
use common::host;
use common::host::bind;
use common::host::HugePages;
use common::host::HUGE;
use common::in_child;
use common::page_size;
use common::populates_by_call;
use common::refusing;
use common::skip;
use common::Belongings;
use common::Refusal;
use hostmem::Builder;
use hostmem::ErrorKind;
use tempfile::TempDir;

const SIZE: u64 = 64 << 10;

fn backend(path: &Path, options: &str) -> Builder {
    let mut builder = new("file", options);
    builder.set("mem-path", path).unwrap();
    builder
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A file whose pages tell their number.
fn numbered(path: &Path, size: u64) -> File {
    let file = File::create_new(path).unwrap();
    for page in 0..size / page_size() {
        file.write_all_at(&[page as u8 + 1], page * page_size())
            .unwrap();
    }
    file.set_len(size).unwrap();
    file
}

fn entries(directory: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn a_fresh_one_has_its_defaults() {
    let builder = new("file", "");
    for (property, value) in [
        ("mem-path", ""),
        ("share", "off"),
        ("offset", "0"),
        ("align", "0"),
        ("readonly", "off"),
        ("rom", "auto"),
        ("discard-data", "off"),
        ("pmem", "off"),
    ] {
        assert_eq!(builder.get_text(property).unwrap(), value, "{property}");
    }
    for property in ["fd", "seal", "hugetlb", "hugetlbsize"] {
        let error = builder.get_text(property).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownProperty, "{property}");
    }
    let words = &["mem-path is required"];
    assert_refused(new("file", "size=64K"), ErrorKind::Value, words);
    assert_refused(new("file", "size=64K,mem-path="), ErrorKind::Value, words);
}

#[test]
fn a_file_that_is_missing_is_made_and_kept() {
    in_child("a_file_that_is_missing_is_made_and_kept", || {
        // SAFETY: takes a mask, which no other thread here uses.
        unsafe { libc::umask(0) };
        for share in ["on", "off"] {
            let directory = directory();
            let path = directory.path().join("new");
            let options = format!("size=64K,offset=64K,share={share}");
            let completed = backend(&path, &options).complete().unwrap();
            let claim = completed.claim("test").unwrap();
            let status = path.metadata().unwrap();
            assert_eq!(status.len(), 2 * SIZE, "the offset comes on top");
            assert_eq!(status.mode() & 0o7777, 0o600);
            assert!(closes_on_exec(&claim));
            assert_eq!(claim.memory().fd_offset(), SIZE);
            write(&claim, 4096, 7);
            drop((claim, completed));
            let mut byte = [1];
            let file = File::open(&path).unwrap();
            file.read_exact_at(&mut byte, SIZE + 4096).unwrap();
            assert_eq!(byte, [if share == "on" { 7 } else { 0 }]);
        }
    });
}

#[test]
fn a_file_is_made_by_nobody_else_meanwhile() {
    let directory = directory();
    let path = directory.path().join("new");
    let builder = backend(&path, "size=64K");
    let exclusive = (libc::O_CREAT | libc::O_EXCL) as u64;
    // Without O_EXCL the call passes this, and completing succeeds.
    let refusals = common::opening(libc::EROFS, exclusive, exclusive);
    let failed = refusing(&refusals, || builder.complete().unwrap_err());
    assert_eq!(failed.error.raw_os_error(), Some(libc::EROFS), "{failed}");
    assert!(failed.to_string().contains("new"), "{failed}");
    assert!(!path.exists());
}

#[test]
fn an_empty_file_is_grown_and_stays_the_users() {
    let directory = directory();
    let path = directory.path().join("empty");
    File::create_new(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    drop(backend(&path, "size=64K,share=on").complete().unwrap());
    let status = path.metadata().unwrap();
    assert_eq!((status.len(), status.mode() & 0o777), (SIZE, 0o640));
}

#[test]
fn a_file_with_contents_is_never_resized() {
    let page = page_size();
    let directory = directory();
    let path = directory.path().join("full");
    numbered(&path, 4 * page);
    for (size, offset, fits) in [
        (3 * page, 0, true),
        (4 * page, 0, true),
        (5 * page, 0, false),
        (3 * page, page, true),
        (4 * page, page, false),
        (page, 4 * page, false),
    ] {
        for rest in ["share=on", "share=off", "readonly=on"] {
            let options = format!("size={size},offset={offset},{rest}");
            let before = fs::read(&path).unwrap();
            let builder = backend(&path, &options);
            if fits {
                drop(builder.complete().unwrap());
            } else {
                let sizes = [&*size.to_string(), &*(4 * page).to_string()];
                assert_refused(builder, ErrorKind::Value, &sizes);
            }
            assert_eq!(fs::read(&path).unwrap(), before, "{options}");
        }
    }
    // One byte more or less is a size like any other.
    for (length, fits) in [(page - 1, false), (page, true), (page + 1, true)] {
        let path = directory.path().join(length.to_string());
        File::create_new(&path).unwrap().set_len(length).unwrap();
        let completed = backend(&path, &format!("size={page}")).complete();
        assert_eq!(completed.is_ok(), fits, "{length}");
        assert_eq!(path.metadata().unwrap().len(), length);
    }
}

#[test]
fn sizes_and_offsets_are_multiples_of_the_page_size() {
    let page = page_size();
    let directory = directory();
    let path = directory.path().join("new");
    for options in [
        format!("size={}", page - 1),
        format!("size={}", page + 1),
        format!("size={page},offset={}", page - 1),
        format!("size={page},offset=1"),
        format!("size={page},offset={}", u64::MAX),
        format!("size={page},offset={}", !(page - 1)),
        format!("size={},offset={page}", !(page - 1)),
        format!("size={},offset={page}", i64::MAX as u64 & !(page - 1)),
    ] {
        assert_refused(backend(&path, &options), ErrorKind::Value, &[]);
        assert!(!path.exists(), "{options}");
    }
    // Each is possible by itself.
    let options = format!(
        "size=4G,offset={}",
        (i64::MAX as u64 - (3 << 30)) & !(page - 1)
    );
    let words = ["with size=4294967296 is more than a file holds"];
    assert_refused(backend(&path, &options), ErrorKind::Value, &words);
}

#[test]
fn a_directory_gets_a_file_without_a_name() {
    for share in ["on", "off"] {
        let directory = directory();
        let options = format!("size=64K,share={share}");
        let completed = backend(directory.path(), &options).complete().unwrap();
        assert_eq!(entries(directory.path()).len(), 0);
        let claim = completed.claim("test").unwrap();
        assert!(closes_on_exec(&claim));
        let status = descriptor(&claim).metadata().unwrap();
        assert_eq!((status.nlink(), status.len()), (0, SIZE));
        assert_eq!(status.mode() & 0o777, 0o600);
        assert_eq!(status.dev(), directory.path().metadata().unwrap().dev());
        // It is nobody else's, so it can be made zero where the mapping is private, too.
        write(&claim, 0, 7);
        claim.scrub(0, SIZE).unwrap();
        assert_eq!(read(&claim, 0), 0);
    }
    let directory = directory();
    assert_refused(
        backend(directory.path(), "size=64K,readonly=on"),
        ErrorKind::Value,
        &["mem-path", "readonly=on"],
    );
}

/// Neither a success nor a failure leaves a name behind.
#[test]
fn a_directory_keeps_no_file_that_cannot_be_unlinked() {
    let directory = directory();
    let builder = backend(directory.path(), "size=64K");
    let refusals = common::unlinking(libc::EPERM);
    let completed = refusing(&refusals, || builder.complete());
    if completed.is_ok() {
        assert_eq!(entries(directory.path()), Vec::<OsString>::new());
    }
}

/// As on file systems that cannot make a file without a name.
fn without_nameless_files() -> Vec<Refusal> {
    let nameless = libc::O_TMPFILE as u64;
    common::opening(libc::EOPNOTSUPP, nameless, nameless)
}

#[test]
fn a_file_that_had_a_name_for_an_instant_has_none() {
    let directory = directory();
    let refusals = without_nameless_files();
    let completed = refusing(&refusals, || {
        backend(directory.path(), "size=64K,share=on").complete()
    })
    .unwrap();
    assert_eq!(entries(directory.path()), Vec::<OsString>::new());
    let claim = completed.claim("test").unwrap();
    assert!(closes_on_exec(&claim));
    let file = descriptor(&claim);
    let status = file.metadata().unwrap();
    assert_eq!((status.nlink(), status.len()), (0, SIZE));
    assert_eq!(status.mode() & 0o777, 0o600);
    write(&claim, 4096, 7);
    let mut byte = [0];
    file.read_exact_at(&mut byte, 4096).unwrap();
    assert_eq!(byte, [7]);
}

#[test]
fn a_name_that_cannot_be_removed_is_said() {
    in_child("a_name_that_cannot_be_removed_is_said", || {
        let directory = directory();
        let before = Belongings::now().without_stacks();
        let refused = |refused: Vec<Refusal>| {
            let mut refusals = without_nameless_files();
            refusals.extend(refused);
            refusing(&refusals, || {
                let failed = backend(directory.path(), "size=64K").complete();
                let error = failed.unwrap_err().error;
                assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                (error.raw_os_error(), error.to_string())
            })
        };
        let create = libc::O_CREAT as u64;
        let (errno, message) = refused(common::opening(libc::EACCES, create, create));
        assert_eq!(errno, Some(libc::EACCES));
        assert!(message.contains("make a file in it"), "{message}");
        assert_eq!(entries(directory.path()), Vec::<OsString>::new());

        let (errno, message) = refused(common::unlinking(libc::EPERM));
        assert_eq!(errno, Some(libc::EPERM));
        let words = "remove the name, hostmem-*, of the file made in it, which stays";
        assert!(message.contains(words), "{message}");
        let [name] = &entries(directory.path())[..] else {
            panic!("not one file");
        };
        assert!(name.to_str().unwrap().starts_with("hostmem-"), "{name:?}");
        assert_eq!(Belongings::now().without_stacks(), before);
    });
}

/// overlayfs copies a file when it is opened for writing, and one with several names is another
/// file then.
#[test]
fn a_file_that_is_copied_when_it_is_opened_is_used() {
    in_child("a_file_that_is_copied_when_it_is_opened_is_used", || {
        let directory = directory();
        let at = |name: &str| directory.path().join(name);
        for name in ["lower", "upper", "both"] {
            fs::create_dir(at(name)).unwrap();
        }
        if !host::mount("tmpfs", &at("lower"), "") || !host::mount("tmpfs", &at("upper"), "") {
            return;
        }
        for name in ["upper/files", "upper/work"] {
            fs::create_dir(at(name)).unwrap();
        }
        numbered(&at("lower/file"), SIZE);
        fs::hard_link(at("lower/file"), at("lower/other")).unwrap();
        let path = directory.path().to_str().unwrap();
        let options =
            format!("lowerdir={path}/lower,upperdir={path}/upper/files,workdir={path}/upper/work");
        if !host::mount("overlay", &at("both"), &options) {
            return;
        }
        let path = at("both/file");
        let before = path.metadata().unwrap().ino();
        let completed = backend(&path, "size=64K,share=on").complete().unwrap();
        if path.metadata().unwrap().ino() == before {
            skip("this overlayfs gives the copy the number of the file");
        }
        let claim = completed.claim("test").unwrap();
        assert_eq!(read(&claim, 0), 1);
        write(&claim, 0, 7);
        assert_eq!(fs::read(&path).unwrap()[0], 7);
        assert_eq!(fs::read(at("both/other")).unwrap()[0], 1);
    });
}

#[test]
fn reading_only_needs_something_to_read() {
    let directory = directory();
    let path = directory.path().join("new");
    let words = &["mem-path", "readonly=on"];
    assert_refused(
        backend(&path, "size=64K,readonly=on"),
        ErrorKind::Value,
        words,
    );
    assert!(!path.exists());
    File::create_new(&path).unwrap();
    let builder = backend(&path, "size=64K,readonly=on");
    assert_refused(builder, ErrorKind::Value, &["65536", "0 bytes"]);
    assert_eq!(path.metadata().unwrap().len(), 0);
}

#[test]
fn who_may_write_and_who_sees_it() {
    /// What is written: nothing, a copy of this process's, the file.
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Writes {
        Refused(&'static str),
        None,
        Own,
        File,
    }
    use Writes::File as Reaches;
    use Writes::None as Never;
    use Writes::Own;
    use Writes::Refused;
    for (readonly, rom, share, expected) in [
        ("off", "auto", "off", Own),
        ("off", "auto", "on", Reaches),
        ("off", "off", "off", Own),
        ("off", "off", "on", Reaches),
        ("off", "on", "off", Refused("readonly=on")),
        ("off", "on", "on", Refused("readonly=on")),
        ("on", "auto", "off", Never),
        ("on", "auto", "on", Never),
        ("on", "on", "off", Never),
        ("on", "on", "on", Never),
        ("on", "off", "off", Own),
        ("on", "off", "on", Refused("share=off")),
    ] {
        for prealloc in ["off", "on"] {
            let directory = directory();
            let path = directory.path().join("full");
            numbered(&path, SIZE);
            let before = fs::read(&path).unwrap();
            let options =
                format!("size=64K,readonly={readonly},rom={rom},share={share},prealloc={prealloc}");
            let builder = backend(&path, &options);
            if let Refused(words) = expected {
                assert_refused(builder, ErrorKind::Value, &["rom=", words]);
                assert_eq!(fs::read(&path).unwrap(), before, "{options}");
                continue;
            }
            assert_eq!(builder.get_text("rom").unwrap(), rom);
            let completed = builder.complete().unwrap();
            let resolved = if expected == Never { "on" } else { "off" };
            assert_eq!(completed.get_text("rom").unwrap(), resolved, "{options}");
            let claim = completed.claim("test").unwrap();
            assert_eq!(claim.memory().is_readonly(), expected == Never);
            assert_eq!(claim.memory().is_shared(), share == "on");
            assert_eq!(read(&claim, page_size()), 2, "{options}");
            let flags = common::vm_flags(claim.memory().as_ptr());
            let writable = flags.iter().any(|flag| flag == "wr");
            assert_eq!(writable, expected != Never, "{options}: {flags:?}");
            if prealloc == "on" {
                assert_eq!(completed.placement().unwrap().absent, 0, "{options}");
            }
            if writable {
                write(&claim, page_size(), 99);
                assert_eq!(read(&claim, page_size()), 99);
            }
            let fd = descriptor(&claim);
            // SAFETY: asks for flags of a descriptor that is open.
            let access = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) } & libc::O_ACCMODE;
            let least = if readonly == "on" {
                libc::O_RDONLY
            } else {
                libc::O_RDWR
            };
            assert_eq!(access, least, "{options}");
            drop((claim, completed));
            let mut after = before.clone();
            if expected == Reaches {
                after[page_size() as usize] = 99;
            }
            assert!(fs::read(&path).unwrap() == after, "{options}");
        }
    }
}

#[test]
fn many_guests_have_copies_of_one_template() {
    let directory = directory();
    let path = directory.path().join("template");
    numbered(&path, SIZE);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    let before = (fs::read(&path).unwrap(), path.metadata().unwrap().blocks());
    let options = "size=64K,readonly=on,rom=off";
    let guests: Vec<_> = (0..3)
        .map(|_| backend(&path, options).complete().unwrap())
        .collect();
    let claims: Vec<_> = guests
        .iter()
        .map(|guest| guest.claim("test").unwrap())
        .collect();
    for (number, claim) in claims.iter().enumerate() {
        write(claim, 0, 100 + number as u8);
    }
    for (number, claim) in claims.iter().enumerate() {
        assert_eq!(read(claim, 0), 100 + number as u8);
        assert_eq!(read(claim, page_size()), 2);
        claim.discard(0, SIZE).unwrap();
        assert_eq!(read(claim, 0), 1);
        claim.populate(0, SIZE).unwrap();
    }
    drop((claims, guests));
    assert!(before == (fs::read(&path).unwrap(), path.metadata().unwrap().blocks()));
}

#[test]
fn a_file_that_may_only_be_read_says_what_to_do() {
    in_child("a_file_that_may_only_be_read_says_what_to_do", || {
        if !host::is_root() {
            return skip("only root can become somebody else");
        }
        let directory = directory();
        let path = directory.path().join("template");
        numbered(&path, SIZE);
        for path in [directory.path(), &path] {
            host::give_to_nobody(path);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        host::become_nobody();
        let failed = backend(&path, "size=64K").complete().unwrap_err();
        let message = failed.to_string();
        assert_eq!(failed.error.raw_os_error(), Some(libc::EACCES), "{message}");
        assert!(message.contains("readonly=on,rom=off"), "{message}");
        let failed = backend(&path, "size=64K,share=on").complete().unwrap_err();
        assert_eq!(failed.error.raw_os_error(), Some(libc::EACCES), "{failed}");
        for (options, writable) in [
            ("size=64K,readonly=on,rom=off", true),
            ("size=64K,readonly=on", false),
            ("size=64K,readonly=on,share=on", false),
        ] {
            let completed = backend(&path, options).complete().unwrap();
            let claim = completed.claim("test").unwrap();
            assert_eq!(read(&claim, page_size()), 2);
            if writable {
                write(&claim, page_size(), 3);
            }
        }
    });
}

#[test]
fn a_path_that_is_no_file_is_refused_at_once() {
    let directory = directory();
    let path = |name| directory.path().join(name);
    let fifo = std::ffi::CString::new(path("fifo").into_os_string().into_vec()).unwrap();
    // SAFETY: the text lives across the call.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    let _socket = UnixListener::bind(path("socket")).unwrap();
    symlink("nowhere", path("dangling")).unwrap();
    symlink("loop", path("loop")).unwrap();
    numbered(&path("file"), SIZE);
    let long: PathBuf = directory.path().join("a".repeat(256));
    for (path, kind, words) in [
        (path("fifo"), ErrorKind::Value, "a FIFO"),
        (path("socket"), ErrorKind::Value, "a socket"),
        (
            "/dev/null".into(),
            ErrorKind::Value,
            "/dev/null is a character device",
        ),
        (
            "/dev/zero".into(),
            ErrorKind::Value,
            "/dev/zero is a character device",
        ),
        (
            "/dev/urandom".into(),
            ErrorKind::Value,
            "/dev/urandom is a character device",
        ),
        (
            path("dangling"),
            ErrorKind::Io,
            "dangling is a symbolic link to nowhere",
        ),
        (path("loop"), ErrorKind::Io, "ymbolic link"),
        (path("none/new"), ErrorKind::Io, "No such file"),
        (path("file/new"), ErrorKind::Io, "Not a directory"),
        (path("file/"), ErrorKind::Io, "Not a directory"),
        (path("none/"), ErrorKind::Io, "mem-path"),
        (long, ErrorKind::Io, "too long"),
        ("/proc/self/status".into(), ErrorKind::Value, "mem-path"),
    ] {
        // What the kernel makes of mapping a file of /proc's is its own business.
        let is_proc = path.starts_with("/proc");
        for rest in ["", ",share=on", ",readonly=on"] {
            let start = Instant::now();
            let builder = backend(&path, &format!("size=64K{rest}"));
            let failed = builder.complete().unwrap_err();
            let message = failed.to_string();
            assert!(start.elapsed() < Duration::from_secs(2), "{message}");
            if !words.contains("dangling") {
                common::access::assert_names_errno(&failed.error);
            }
            // A link to nothing is nothing to read.
            let kind = match (words, rest) {
                ("dangling is a symbolic link to nowhere", ",readonly=on") => ErrorKind::Value,
                _ => kind,
            };
            if !is_proc {
                assert_eq!(failed.error.kind(), kind, "{rest}: {message}");
                assert!(message.contains(words), "{rest}: {message}");
            }
        }
    }
    assert_eq!(entries(directory.path()).len(), 5, "nothing was made");
}

/// A device is judged by its number, wherever it is, before it is opened; what has no driver cannot
/// be.
#[test]
fn devices_without_memory_or_driver_are_refused() {
    let directory = directory();
    let device = |name: &str, kind: libc::mode_t, major, minor| {
        let path = directory.path().join(name);
        let text = std::ffi::CString::new(path.clone().into_os_string().into_vec()).unwrap();
        let number = libc::makedev(major, minor);
        // SAFETY: the text lives across the call.
        match unsafe { libc::mknod(text.as_ptr(), kind | 0o600, number) } {
            0 => Some(path),
            _ => None,
        }
    };
    let Some(random) = device("hwrng", libc::S_IFCHR, 10, 183) else {
        return skip("no device can be made");
    };
    let none = "is a character device that has no memory of its own";
    for rest in ["", ",share=on", ",readonly=on"] {
        let builder = backend(&random, &format!("size=64K{rest}"));
        assert_refused(builder, ErrorKind::Value, &[none]);
    }
    // Numbers for local use. A container may open none.
    let devices = [
        device("character", libc::S_IFCHR, 240, 183),
        device("block", libc::S_IFBLK, 240, 77),
    ];
    for path in devices.into_iter().flatten() {
        let error = fs::File::open(&path).unwrap_err();
        let file = backend(&path, "size=64K,share=on");
        let failed = file.complete().unwrap_err().error;
        assert_eq!(failed.raw_os_error(), error.raw_os_error(), "{failed}");
        assert!(failed.to_string().contains("cannot open it"), "{failed}");
        let options = format!("size=64K,prealloc=on,contents={}", path.display());
        let failed = new("ram", &options).complete().unwrap_err().error;
        let words = match path.ends_with("block") {
            true => "cannot open it",
            false => "is a character device; use",
        };
        assert!(failed.to_string().contains(words), "{failed}");
    }
}

/// A message has room for 1023 bytes, and two paths may be longer: it ends between two characters.
#[test]
fn a_message_that_is_too_long_is_cut() {
    let directory = directory();
    let long = vec!["é".repeat(120); 3].join("/");
    let deep = directory.path().join(&long);
    fs::create_dir_all(&deep).unwrap();
    for first in ["", "x"] {
        let link = deep.join(format!("link{first}"));
        symlink(format!("{first}{long}"), &link).unwrap();
        let error = backend(&link, "size=64K").complete().unwrap_err().error;
        let message = error.to_string();
        assert!(message.ends_with("é..."), "{message}");
        assert!((1022..=1023).contains(&message.len()), "{message}");
    }
}

/// A character device whose driver hands out no memory; None, having said so, where none can be
/// opened.
fn device_of_a_driver() -> Option<&'static str> {
    let devices = ["/dev/fuse", "/dev/net/tun", "/dev/vsock"];
    let can_be_opened = |path: &&str| {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).open(path).is_ok()
    };
    let found = devices.into_iter().find(can_be_opened);
    if found.is_none() {
        skip("no character device of a driver without memory can be opened");
    }
    found
}

/// Some terminals and watchdogs have no fixed number, so their class in /sys counts too.
#[test]
fn terminals_and_watchdogs_of_any_number_are_refused() {
    let Some(path) = device_of_a_driver() else {
        return;
    };
    let number = fs::metadata(path).unwrap().rdev();
    let number = format!("{}:{}", libc::major(number), libc::minor(number));
    let numbers = directory();
    let link = numbers.path().join(number).join("subsystem");
    fs::create_dir(link.parent().unwrap()).unwrap();
    let with_class = |class: &str, words: &str| {
        symlink(Path::new("../../../class").join(class), &link).unwrap();
        let refused = backend(Path::new(path), "size=64K,share=on");
        assert_refused(refused, ErrorKind::Value, &[words]);
        fs::remove_file(&link).unwrap();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if bind(numbers.path(), Path::new("/sys/dev/char")) {
                with_class("tty", "that has no memory of its own");
                with_class("watchdog", "that has no memory of its own");
                with_class("misc", "cannot be mapped");
            }
        });
    });
}

/// Whether a driver hands memory out is only seen when it is mapped.
#[test]
fn a_device_that_cannot_be_mapped_is_refused() {
    let Some(path) = device_of_a_driver() else {
        return;
    };
    in_child("a_device_that_cannot_be_mapped_is_refused", || {
        let before = Belongings::now();
        for rest in ["", ",share=on", ",share=on,prealloc=on"] {
            let builder = backend(Path::new(path), &format!("size=64K{rest}"));
            assert_refused(
                builder,
                ErrorKind::Value,
                &["cannot map", "cannot be mapped"],
            );
        }
        assert_eq!(Belongings::now(), before);
    });
}

#[test]
fn a_link_to_a_file_is_followed_and_kept() {
    let directory = directory();
    let (file, link) = (directory.path().join("file"), directory.path().join("link"));
    numbered(&file, SIZE);
    symlink("file", &link).unwrap();
    let completed = backend(&link, "size=64K,share=on").complete().unwrap();
    let claim = completed.claim("test").unwrap();
    write(&claim, 4096, 9);
    drop((claim, completed));
    assert_eq!(fs::read(&file).unwrap()[4096], 9);
    assert!(link.is_symlink());
}

/// A session leader without a terminal gets one by opening it.
#[test]
fn a_terminal_does_not_become_the_controlling_one() {
    in_child("a_terminal_does_not_become_the_controlling_one", || {
        // SAFETY: takes nothing; the child leads no group.
        assert!(unsafe { libc::setsid() } >= 0);
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        // SAFETY: takes flags.
        let fd = unsafe { libc::posix_openpt(flags) };
        if fd < 0 {
            return skip("there are no terminals");
        }
        // SAFETY: opened above, owned by nobody else.
        let main: File = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
        let mut name = [0; 64];
        // SAFETY: the descriptor is open; fills the array within its length.
        let made = unsafe {
            libc::unlockpt(main.as_raw_fd()) == 0
                && libc::ptsname_r(main.as_raw_fd(), name.as_mut_ptr(), name.len()) == 0
        };
        assert!(made);
        // SAFETY: ended by NUL above.
        let name = unsafe { std::ffi::CStr::from_ptr(name.as_ptr()) };
        let path = Path::new(name.to_str().unwrap());
        let words = &["a character device"];
        assert_refused(backend(path, "size=64K"), ErrorKind::Value, words);
        let status = fs::read_to_string("/proc/self/stat").unwrap();
        let terminal = status.rsplit(") ").next().unwrap().split(' ').nth(4);
        assert_eq!(terminal, Some("0"));
    });
}

#[test]
fn a_path_has_at_most_4095_bytes_of_any_encoding() {
    let directory = directory();
    let base = directory.path().to_str().unwrap();
    let padded = |length: usize| {
        // Slashes add up to one.
        format!("{base}{}file", "/".repeat(length - base.len() - 4))
    };
    let mut builder = backend(Path::new(&padded(4095)), "size=64K,share=on");
    assert_eq!(builder.get_text("mem-path").unwrap(), padded(4095));
    let error = builder.set("mem-path", padded(4096)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value, "{error}");
    assert!(error.to_string().contains("4095"), "{error}");
    assert_eq!(builder.get_text("mem-path").unwrap(), padded(4095));
    drop(builder.complete().unwrap());
    assert_eq!(entries(directory.path()), ["file"]);

    // A directory of that length leaves no room for a name in it; it needs none.
    let path = format!("{base}{}", "/".repeat(4095 - base.len()));
    match backend(Path::new(&path), "size=64K").complete() {
        Ok(_) => {}
        Err(failed) => assert_eq!(failed.error.raw_os_error(), Some(libc::ENAMETOOLONG)),
    }
    assert_eq!(entries(directory.path()), ["file"]);

    for name in [
        &b"\xff\xfe\x80"[..],
        b"a,b=c",
        b" ",
        b"new\nline",
        b"%s%n",
        // Longer than needed, surrogates, beyond the last character.
        b"\xc0\xaf\xe0\x9f\xbf\xf0\x8f\xbf\xbf",
        b"\xed\xa0\x80\xed\xbf\xbf",
        b"\xf4\x90\x80\x80",
    ] {
        let name = OsString::from_vec(name.to_vec());
        let path = directory.path().join(&name);
        let builder = backend(&path, "size=64K,share=on");
        drop(builder.complete().unwrap());
        assert_eq!(path.metadata().unwrap().len(), SIZE, "{name:?}");
        let failed = backend(&path, "size=128K").complete().unwrap_err();
        common::access::assert_names_errno(&failed.error);
        // The message is UTF-8 as it comes; what is none would be U+FFFD by now.
        let message = failed.to_string();
        assert!(message.contains("131072"), "{message}");
        assert!(!message.contains(['\u{fffd}', '\n']), "{message:?}");
    }
}

/// Of 1023 bytes, the last three dots, in front of a character that does not fit.
#[test]
fn a_message_that_is_too_long_is_cut_and_says_so() {
    let directory = directory();
    let base = directory.path().to_str().unwrap();
    for letter in ["x", "é", "日", "𝄞"] {
        for beginning in ["", "a", "ab", "abc"] {
            let name = letter.repeat(48 / letter.len()) + "/";
            let target = beginning.to_owned() + &name.repeat(11);
            symlink(&target, directory.path().join("link")).unwrap();
            // Slashes add up to one.
            let path = format!("{base}{}link", "/".repeat(600));
            let failed = backend(Path::new(&path), "size=64K")
                .complete()
                .unwrap_err();
            let whole = format!("m0: mem-path={path:.512} is a symbolic link to {target}");
            let fits = (0..=1020).rfind(|&end| whole.is_char_boundary(end));
            let expected = format!("{}...", &whole[..fits.unwrap()]);
            assert_eq!(failed.to_string(), expected);
            fs::remove_file(directory.path().join("link")).unwrap();
        }
    }
}

#[test]
fn the_address_is_aligned_as_asked() {
    let directory = directory();
    let path = directory.path().join("new");
    let page = page_size();
    for (align, size) in [
        (page, 4 << 20),
        (2 * page, SIZE),
        (1 << 20, SIZE),
        (HUGE, SIZE),
        (1 << 30, SIZE),
        (1 << 30, 4 << 20),
    ] {
        let options = format!("size={size},align={align}");
        let completed = backend(directory.path(), &options).complete().unwrap();
        let claim = completed.claim("test").unwrap();
        assert_eq!(claim.memory().as_ptr() as u64 % align, 0, "{options}");
    }
    for align in [1, page - 1, page / 2, page + 1, 3 * page, u64::MAX] {
        assert_refused(
            backend(&path, &format!("size=64K,align={align}")),
            ErrorKind::Value,
            &[&format!("align={align}"), "power of two"],
        );
        assert!(!path.exists());
    }
    // As much address space as that there is not.
    let failed = backend(&path, &format!("size=64K,align={}", 1u64 << 63))
        .complete()
        .unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::NoMemory, "{failed}");
    assert!(!path.exists());
}

#[test]
fn address_and_offset_agree_modulo_a_huge_page() {
    let directory = directory();
    let path = directory.path().join("large");
    let Some(huge) = common::thp_size() else {
        return;
    };
    let page = page_size();
    File::create_new(&path).unwrap().set_len(8 * huge).unwrap();
    for offset in [0, page, huge / 2, huge - page, huge, huge * 3 / 2] {
        for share in ["on", "off"] {
            let options = format!("size={},offset={offset},share={share}", 2 * huge);
            let completed = backend(&path, &options).complete().unwrap();
            let claim = completed.claim("test").unwrap();
            let address = claim.memory().as_ptr() as u64;
            assert_eq!(address % huge, offset % huge, "{options}");
        }
    }
}

#[test]
fn a_file_in_advised_tmpfs_is_made_of_huge_pages() {
    in_child("a_file_in_advised_tmpfs_is_made_of_huge_pages", || {
        let directory = directory();
        let Some(huge) = common::thp_size() else {
            return;
        };
        let settings = format!("size={},huge=advise", 8 * huge);
        if !host::mount("tmpfs", directory.path(), &settings) {
            return;
        }
        let path = directory.path().join("file");
        let size = 4 * huge;
        for (offset, whole) in [
            (0, size),
            (huge / 2, size - huge),
            (page_size(), size - huge),
        ] {
            let options = format!("size={size},offset={offset},share=on,prealloc=on");
            let completed = backend(&path, &options).complete().unwrap();
            let claim = completed.claim("test").unwrap();
            assert_eq!(smaps_field(&claim, "ShmemPmdMapped"), whole, "{options}");
            drop((claim, completed));
            fs::remove_file(&path).unwrap();
        }
    });
}

#[test]
fn persistent_memory_is_no_silent_downgrade() {
    let directory = directory();
    let path = directory.path().join("new");
    for share in ["", ",share=off"] {
        assert_refused(
            backend(&path, &format!("size=64K,pmem=on{share}")),
            ErrorKind::Value,
            &["pmem=on", "share=on"],
        );
    }
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    for directory in [&directory, &shm] {
        let path = directory.path().join("new");
        assert_refused(
            backend(&path, "size=64K,pmem=on,share=on"),
            ErrorKind::Unsupported,
            &["pmem=off", "DAX"],
        );
        assert!(!path.exists());
        assert_refused(
            backend(directory.path(), "size=64K,pmem=on,share=on"),
            ErrorKind::Unsupported,
            &["pmem=off", "DAX"],
        );
        assert_eq!(entries(directory.path()).len(), 0);
    }
}

#[test]
fn deleting_gives_a_shared_files_data_up_where_asked() {
    for base in ["/dev/shm", std::env::temp_dir().to_str().unwrap()] {
        for (rest, live, given_up) in [
            ("share=on,discard-data=on", None, true),
            ("share=on,discard-data=off", None, false),
            ("share=on", Some(true), true),
            ("share=on,discard-data=on", Some(false), false),
            ("share=off,discard-data=on", None, false),
            ("share=off", Some(true), false),
            ("readonly=on,discard-data=on,share=on", None, false),
            ("readonly=on,rom=off,discard-data=on", None, false),
        ] {
            let directory = tempfile::tempdir_in(base).unwrap();
            let path = directory.path().join("full");
            let file = numbered(&path, 3 * SIZE);
            file.sync_all().unwrap();
            let before = fs::read(&path).unwrap();
            let options = format!("size=64K,offset=64K,{rest}");
            let completed = backend(&path, &options).complete().unwrap();
            if let Some(value) = live {
                completed.set("discard-data", value).unwrap();
            }
            assert!(
                fs::read(&path).unwrap() == before,
                "not before it is deleted"
            );
            completed.delete().unwrap();
            let mut after = before.clone();
            if given_up {
                after[64 << 10..128 << 10].fill(0);
            }
            assert!(fs::read(&path).unwrap() == after, "{base}: {options}");
            assert_eq!(path.metadata().unwrap().len(), 3 * SIZE, "{options}");
        }
    }
}

/// What failed was never the backend's to give up.
#[test]
fn failing_gives_no_data_up() {
    let directory = directory();
    let path = directory.path().join("full");
    numbered(&path, SIZE);
    let before = fs::read(&path).unwrap();
    let builder = backend(&path, "size=64K,share=on,discard-data=on");
    let refusal = [Refusal::new(libc::SYS_mprotect, libc::ENOMEM).only(1, SIZE)];
    drop(refusing(&refusal, || builder.complete().unwrap_err()));
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn the_limit_of_file_sizes_is_an_error() {
    in_child("the_limit_of_file_sizes_is_an_error", || {
        if !host::has_no_hard_limit(libc::RLIMIT_FSIZE) {
            return skip("the limit cannot be raised again");
        }
        let directory = directory();
        let full = directory.path().join("full");
        numbered(&full, SIZE);
        let empty = directory.path().join("empty");
        File::create_new(&empty).unwrap();
        let new = directory.path().join("new");
        for (path, options, limit, fits) in [
            (&new, "size=64K,offset=64K", 2 * SIZE - 1, false),
            (&new, "size=64K,offset=64K", 2 * SIZE, true),
            (&empty, "size=64K,offset=64K", 2 * SIZE - 1, false),
            (&empty, "size=64K,offset=64K", 2 * SIZE, true),
            // Nothing is grown, so nothing is above the limit.
            (&full, "size=64K", 4096, true),
            (&full, "size=64K,share=on", 4096, true),
        ] {
            let builder = backend(path, options);
            host::limit(libc::RLIMIT_FSIZE, limit);
            let result = builder.complete();
            host::limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
            assert_eq!(result.is_ok(), fits, "{options} {limit}: {result:?}");
            if let Err(failed) = result {
                assert!(failed.to_string().contains("RLIMIT_FSIZE"), "{failed}");
                common::access::assert_names_errno(&failed.error);
                assert!(path.metadata().map_or(0, |status| status.len()) == 0);
                assert!(path != &new || !new.exists());
            }
        }
    });
}

/// Filling a sparse file up would be SIGBUS on a full file system.
#[test]
fn a_full_file_system_is_an_error_while_completing() {
    in_child("a_full_file_system_is_an_error_while_completing", || {
        let directory = directory();
        if !host::mount("tmpfs", directory.path(), "size=4M") {
            return;
        }
        let new = directory.path().join("new");
        let empty = directory.path().join("empty");
        let sparse = directory.path().join("sparse");
        File::create_new(&empty).unwrap();
        File::create_new(&sparse).unwrap().set_len(8 << 20).unwrap();
        for path in [&new, &empty, &sparse, &directory.path().to_owned()] {
            let options = "size=8M,share=on,prealloc=on";
            let _ = backend(path, options).complete();
            fs::OpenOptions::new()
                .write(true)
                .open(&sparse)
                .and_then(|file| {
                    file.set_len(0)?;
                    file.set_len(8 << 20)
                })
                .unwrap();
            let builder = backend(path, options);
            let before = Belongings::now();
            let failed = builder.complete().unwrap_err();
            assert_eq!(Belongings::now(), before);
            let message = failed.to_string();
            assert_eq!(failed.error.kind(), ErrorKind::NoMemory, "{message}");
            assert!(message.contains("prealloc"), "{message}");
            assert!(!new.exists());
            assert_eq!(empty.metadata().unwrap().len(), 0);
            assert_eq!(entries(directory.path()).len(), 2);
            assert_eq!(sparse.metadata().unwrap().len(), 8 << 20);
            // The message says what cannot be undone.
            assert_eq!(
                message.contains("stays filled"),
                path == &sparse,
                "{message}"
            );
            if path != &sparse {
                assert_eq!(sparse.metadata().unwrap().blocks(), 0);
                let smaller = failed.object.size(1 << 20);
                drop(smaller.complete().unwrap());
                let _ = fs::remove_file(&new);
                File::create(&empty).unwrap();
            }
        }
    });
}

/// The file that was made is removed, not one that somebody put in its place.
#[test]
fn only_what_was_made_is_removed() {
    if !populates_by_call() {
        return;
    }
    let directory = directory();
    let path = directory.path().join("new");
    let moved = directory.path().join("moved");
    // A callback of progress has the time to do that.
    let (from, to) = (path.clone(), moved.clone());
    let builder = backend(&path, "size=513M,share=off,prealloc=on,thp=never");
    let builder = builder.on_progress(move |done, total| {
        if done < total && !to.exists() {
            fs::rename(&from, &to).unwrap();
            fs::write(&from, "somebody else's").unwrap();
        }
    });
    // The last chunk fails, which is half of the others.
    let refusal = Refusal::new(libc::SYS_madvise, libc::ENOMEM).only(1, 1 << 20);
    let failed = refusing(&[refusal], || builder.complete());
    assert!(failed.is_err());
    if !moved.exists() {
        return skip("it was too quick");
    }
    assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
}

#[test]
fn a_file_of_huge_pages_is_one() {
    in_child("a_file_of_huge_pages_is_one", || {
        let Some(_pool) = HugePages::have(3) else {
            return;
        };
        let directory = directory();
        if !host::mount("hugetlbfs", directory.path(), "pagesize=2M") {
            return;
        }
        let new = directory.path().join("new");
        for path in [&new, &directory.path().to_owned()] {
            for share in ["on", "off"] {
                let options = format!("size=4M,offset=0,share={share},prealloc=on");
                let completed = backend(path, &options).complete().unwrap();
                assert_eq!(completed.placement().unwrap().huge, 4 << 20, "{options}");
                let claim = completed.claim("test").unwrap();
                assert_eq!(claim.memory().page_size(), HUGE);
                drop((claim, completed));
                let _ = fs::remove_file(&new);
                assert_eq!(HugePages::available(), 3, "{options}");
                for (options, word) in [
                    ("size=1M", "size"),
                    ("size=3M", "size"),
                    ("size=2M,offset=4K", "offset"),
                    ("size=2M,align=64K", "align=65536"),
                ] {
                    let options = format!("{options},share={share}");
                    assert_refused(
                        backend(path, &options),
                        ErrorKind::Value,
                        &[word, "2097152"],
                    );
                    assert_eq!(entries(directory.path()).len(), 0, "{options}");
                }
                assert_refused(
                    backend(path, &format!("size=8M,share={share}")),
                    ErrorKind::NoMemory,
                    &["4 huge pages of 2048 KiB", "3 of them free"],
                );
                assert_eq!(entries(directory.path()).len(), 0);
                let options = format!("size=8M,share={share},reserve=off");
                drop(backend(path, &options).complete().unwrap());
                let _ = fs::remove_file(&new);
            }
        }
        // A file that has its size already, on a pool that is short.
        let file = File::create_new(&new).unwrap();
        file.set_len(4 * HUGE).unwrap();
        let failed = backend(&new, "size=8M,share=on").complete().unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::NoMemory, "{failed}");
        assert!(failed.to_string().contains("nr_hugepages"), "{failed}");
        assert_eq!(HugePages::available(), 3);
    });
}

#[test]
fn a_path_may_be_relative() {
    in_child("a_path_may_be_relative", || {
        let directory = directory();
        fs::create_dir(directory.path().join("sub")).unwrap();
        std::env::set_current_dir(directory.path()).unwrap();
        for path in ["new", "./dot", "sub/below", "sub/../beside", "sub//slashes"] {
            drop(backend(Path::new(path), "size=64K").complete().unwrap());
            assert_eq!(directory.path().join(path).metadata().unwrap().len(), SIZE);
        }
        let failed = backend(Path::new("none/new"), "size=64K").complete();
        let message = failed.unwrap_err().to_string();
        assert!(message.contains("mem-path=none/new"), "{message}");
    });
}

/// As where a VMM is jailed.
#[test]
fn a_file_is_opened_without_proc() {
    in_child("a_file_is_opened_without_proc", || {
        if !host::is_root() {
            return skip("only root can change the root");
        }
        let objects = common::objects();
        let directory = directory();
        let root = std::ffi::CString::new(directory.path().to_str().unwrap()).unwrap();
        numbered(&directory.path().join("full"), SIZE);
        // SAFETY: the texts live across the calls.
        let jailed = unsafe {
            libc::unshare(libc::CLONE_FS) == 0
                && libc::chroot(root.as_ptr()) == 0
                && libc::chdir(c"/".as_ptr()) == 0
        };
        assert!(jailed);
        for path in ["/full", "/new", "/"] {
            let options = format!("memory-backend-file,id=m0,size=64K,mem-path={path}");
            let result = objects.parse(options).unwrap().complete();
            assert!(result.is_ok(), "{path}: {result:?}");
        }
    });
}

/// By their numbers, where /sys does not name their class.
#[test]
fn devices_without_memory_are_refused_without_sys() {
    let hidden = [
        #[cfg(target_arch = "x86_64")]
        Refusal::new(libc::SYS_readlink, libc::ENOENT),
        Refusal::new(libc::SYS_readlinkat, libc::ENOENT),
    ];
    for path in ["/dev/null", "/dev/zero", "/dev/tty"] {
        let builder = backend(Path::new(path), "size=64K");
        let failed = refusing(&hidden, || builder.complete()).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Value, "{failed}");
        assert!(
            failed.to_string().contains("is a character device"),
            "{failed}"
        );
    }
}

/// Deleting keeps what completing made; undoing takes it away, and nothing else.
#[test]
fn what_completing_made_can_be_undone() {
    let options = "size=64K,share=on,discard-data=on";
    let completed = |path: &Path| backend(path, options).complete().unwrap();
    let directory = directory();
    let path = directory.path().join("file");
    completed(&path).undo().unwrap();
    assert!(!path.exists());

    File::create_new(&path).unwrap();
    completed(&path).undo().unwrap();
    assert_eq!(path.metadata().unwrap().len(), 0);

    fs::write(&path, [7; SIZE as usize]).unwrap();
    completed(&path).undo().unwrap();
    assert_eq!(fs::read(&path).unwrap(), [7; SIZE as usize]);
    fs::remove_file(&path).unwrap();

    // As long as somebody holds it, nothing.
    let kept = completed(&path);
    let claim = kept.claim("vm0").unwrap();
    let failed = kept.undo().unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Busy, "{failed}");
    drop(claim);
    let mut kept = Some(failed.object);
    common::in_forked_child(|| {
        let failed = kept.take().unwrap().undo().unwrap_err();
        let is_right = failed.error.kind() == ErrorKind::State;
        is_right && failed.to_string().contains("forked") && failed.object.delete().is_ok()
    });
    assert_eq!(path.metadata().unwrap().len(), SIZE);
    // Another's file by that name is not the one that was made.
    fs::rename(&path, directory.path().join("ours")).unwrap();
    fs::write(&path, "another's").unwrap();
    kept.unwrap().undo().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"another's");
}

/// Undoing and completing report a file that stays.
#[test]
fn what_cannot_be_undone_is_said() {
    let directory = directory();
    let path = directory.path().join("file");
    let of_name = common::unlinking(libc::EPERM);
    let of_size = [Refusal::new(libc::SYS_ftruncate, libc::EIO).only(1, 0)];
    let cases = [
        (&of_name[..], libc::EPERM, "the file that was made stays: "),
        (&of_size[..], libc::EIO, "keeps the size it was given: "),
    ];
    for (refusals, errno, what) in cases {
        let prepare = || {
            let _ = fs::remove_file(&path);
            if errno == libc::EIO {
                File::create_new(&path).unwrap();
            }
        };
        prepare();
        let made = backend(&path, "size=64K,share=on").complete().unwrap();
        let error = refusing(refusals, || made.undo().unwrap_err().error);
        let stays = format!("{what}{}", std::io::Error::from_raw_os_error(errno));
        let stays = stays.split(" (os").next().unwrap();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert_eq!(error.raw_os_error(), Some(errno));
        assert!(error.to_string().ends_with(stays), "{error}");
        assert_eq!(path.metadata().unwrap().len(), SIZE);
        // With the error of what failed before.
        prepare();
        let builder = backend(&path, "size=64K,share=on,dump=off");
        let dump = Refusal::new(libc::SYS_madvise, libc::ENOMEM).only(2, 16);
        let failed = refusing(refusals, || refusing(&[dump], || builder.complete()));
        let error = failed.unwrap_err().error;
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM), "{error}");
        assert!(error.to_string().ends_with(stays), "{error}");
    }
}

/// As long as others have it open, in whatever way, a file keeps what completing made of it.
#[test]
fn what_others_have_open_is_not_taken_back() {
    if !populates_by_call() {
        return;
    }
    // Alone, since children that other tests start have its files open for a moment.
    in_child("what_others_have_open_is_not_taken_back", || {
        let directory = directory();
        let path = directory.path().join("file");
        let builder = || backend(&path, "size=2M,share=on,prealloc=on,thp=never");
        let complete = || builder().complete();
        let fails = || {
            let populate = Refusal::new(libc::SYS_madvise, libc::ENOMEM).only(2, 23);
            let fault = Refusal::new(libc::SYS_userfaultfd, libc::ENOSYS);
            let builder = builder();
            let failed = refusing(&[populate, fault], || builder.complete());
            failed.unwrap_err().error.to_string()
        };
        let length = || path.metadata().unwrap().len();
        for writable in [true, false] {
            let open = || File::options().read(true).write(writable).open(&path);
            // A file that was empty.
            File::create_new(&path).unwrap();
            let other = open().unwrap();
            let message = fails();
            assert!(message.ends_with("others may have it open"), "{message}");
            assert_eq!(length(), 2 << 20);
            drop(other);
            fs::write(&path, "").unwrap();
            let message = fails();
            assert!(!message.contains("others"), "{message}");
            assert_eq!(length(), 0);
            fs::remove_file(&path).unwrap();
            // One that was not there.
            let made = complete().unwrap();
            let other = open().unwrap();
            let stays = made.undo().unwrap_err().error;
            assert_eq!(stays.kind(), ErrorKind::Io);
            assert!(
                stays.to_string().ends_with("others have it open"),
                "{stays}"
            );
            assert_eq!(length(), 2 << 20);
            drop(other);
            fs::remove_file(&path).unwrap();
            complete().unwrap().undo().unwrap();
            assert!(!path.exists());
        }
    });
}

#[test]
fn small_pages_are_no_huge_ones() {
    let directory = directory();
    let (new, full) = (directory.path().join("new"), directory.path().join("full"));
    numbered(&full, SIZE);
    for path in [&new, &full, &directory.path().to_owned()] {
        let words = &["not on a hugetlbfs", "hugetlbfs=off"];
        let builder = backend(path, "size=64K,hugetlbfs=on");
        assert_refused(builder, ErrorKind::Value, words);
        assert_eq!(entries(directory.path()), ["full"]);
    }
}

#[test]
fn huge_pages_can_be_required_of_a_path() {
    in_child("huge_pages_can_be_required_of_a_path", || {
        let Some(_pool) = HugePages::have(2) else {
            return;
        };
        let directory = directory();
        let path = directory.path().join("file");
        let required = || backend(&path, "size=4M,hugetlbfs=on");
        if !host::mount("hugetlbfs", directory.path(), "pagesize=2M") {
            return;
        }
        required().complete().unwrap();
        // A ROM that is mapped privately needs pages of its own, which are not there.
        let used = backend(&path, "size=4M,share=on,prealloc=on").complete();
        let rom = |share| backend(&path, &format!("size=4M,readonly=on,share={share}"));
        assert_refused(rom("off"), ErrorKind::NoMemory, &["with share=on"]);
        rom("on").complete().unwrap();
        drop(used);
    });
}

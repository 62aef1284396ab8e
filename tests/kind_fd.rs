// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! memory-backend-fd: a descriptor from elsewhere, used as far as it allows and no further.

mod common;

use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;

use common::access::assert_refused;
use common::access::closes_on_exec;
use common::access::descriptor;
use common::access::memfd;
use common::access::new;
use common::access::read;
use common::access::smaps_field;
use common::access::write;
use common::host::HugePages;
use common::host::HUGE;
use common::in_child;
use common::kernel;
use common::page_size;
use common::populates_by_call;
use common::refusing;
use common::Belongings;
use common::Refusal;
use hostmem::Builder;
use hostmem::Defaults;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Objects;

const SIZE: u64 = 64 << 10;

fn backend(file: &impl AsRawFd, options: &str) -> Builder {
    new("fd", &format!("fd={},{options}", file.as_raw_fd()))
}

/// A memfd whose pages tell their number.
fn numbered(size: u64) -> File {
    let file = memfd("numbered", libc::MFD_ALLOW_SEALING, size);
    for page in 0..size / page_size() {
        file.write_all_at(&[page as u8 + 1], page * page_size())
            .unwrap();
    }
    file
}

fn open(file: &File, options: &OpenOptions) -> File {
    options
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .unwrap()
}

fn open_for_reading(file: &File) -> File {
    open(file, OpenOptions::new().read(true))
}

/// Whatever a failed one would have taken first.
fn no_duplicate() -> Refusal {
    Refusal::new(libc::SYS_fcntl, libc::EMFILE).only(1, libc::F_DUPFD_CLOEXEC as u64)
}

#[test]
fn a_fresh_one_has_its_defaults() {
    let builder = new("fd", "");
    for (property, value) in [
        ("fd", "none"),
        ("share", "on"),
        ("offset", "0"),
        ("readonly", "off"),
        ("rom", "auto"),
        ("prealloc", "off"),
    ] {
        assert_eq!(builder.get_text(property).unwrap(), value, "{property}");
    }
    for property in [
        "mem-path",
        "align",
        "pmem",
        "discard-data",
        "seal",
        "hugetlb",
    ] {
        let error = builder.get_text(property).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownProperty, "{property}");
    }
}

#[test]
fn the_descriptor_is_required() {
    assert_refused(new("fd", "size=64K"), ErrorKind::Value, &["fd is required"]);
    assert_refused(
        new("fd", "size=64K,fd=none"),
        ErrorKind::Value,
        &["fd is required"],
    );
}

#[test]
fn a_number_that_is_no_open_descriptor_is_refused_at_once() {
    let mut builder = new("fd", "size=64K");
    for text in [
        "1000000",
        "2147483647",
        "2147483648",
        "-1",
        "18446744073709551615",
        "x",
        "",
    ] {
        let error = builder.set("fd", text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{text}: {error}");
        assert!(error.to_string().starts_with("m0: fd="), "{error}");
        assert_eq!(builder.get_text("fd").unwrap(), "none");
    }
}

/// Safe code could name a file of other code by a number.
#[test]
fn a_number_is_accepted_only_where_the_defaults_allow_it() {
    let file = memfd("fd0", 0, SIZE);
    let number = file.as_raw_fd() as u32;
    for mut defaults in [Defaults::default(), Defaults::qemu()] {
        let host = Host::probe().unwrap();
        let objects = Objects::new(&host, &defaults).unwrap();
        let mut builder = objects.builder("memory-backend-fd", "m0").unwrap();
        let options = format!("memory-backend-fd,id=m1,size=64K,fd={number}");
        for error in [
            builder.set("fd", number).unwrap_err(),
            builder.set("fd", number.to_string()).unwrap_err(),
            objects.parse(&options).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Value, "{error}");
            assert!(error.to_string().contains("Builder::fd"), "{error}");
        }
        assert_eq!(builder.get_text("fd").unwrap(), "none");
        builder.set("fd", "none").unwrap();
        builder.fd(&file).size(SIZE).complete().unwrap();

        defaults.fd_by_number = true;
        let objects = Objects::new(&host, &defaults).unwrap();
        let mut builder = objects.builder("memory-backend-fd", "m0").unwrap();
        builder.set("fd", number).unwrap();
        builder.set("fd", number.to_string()).unwrap();
        objects.parse(&options).unwrap().complete().unwrap();
    }
}

/// The descriptor is its own from when it is set, so whatever happens to the caller's is no matter.
#[test]
fn the_caller_keeps_its_own() {
    in_child("the_caller_keeps_its_own", || {
        let before = Belongings::now();
        let file = numbered(SIZE);
        let mut builder = backend(&file, "size=64K");
        let mut other = memfd("other", 0, 4 * SIZE);
        builder.set("fd", file.as_raw_fd() as u32).unwrap();
        // Another one under the same number.
        let number = file.as_raw_fd();
        // SAFETY: both are open; the number goes on belonging to `file`.
        assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), number) }, number);
        let completed = builder.complete().unwrap();
        let claim = completed.claim("test").unwrap();
        assert_eq!(read(&claim, page_size()), 2);
        assert!(closes_on_exec(&claim));
        assert_ne!(claim.memory().fd().unwrap().as_raw_fd(), number);
        drop((claim, completed));
        assert_eq!(file.metadata().unwrap().len(), 4 * SIZE, "still open");

        // One that is refused leaves the one before as it is.
        let completed = backend(&file, "size=64K").complete().unwrap();
        let fds = || {
            let all = fs::read_dir("/proc/self/fd").unwrap();
            let mut links: Vec<_> = all
                .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
                .filter(|link| !link.starts_with("/proc/"))
                .collect();
            links.sort();
            links
        };
        let all = fds();
        let refused = completed.set("fd", other.as_raw_fd() as u32).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::State, "{refused}");
        assert_eq!(fds(), all);
        drop(completed);

        // One that is set again gives the one before up, one that is not completed gives it back.
        let mut builder = backend(&file, "size=64K");
        let open = fs::read_dir("/proc/self/fd").unwrap().count();
        for _ in 0..3 {
            builder.set("fd", other.as_raw_fd() as u32).unwrap();
        }
        assert_eq!(fs::read_dir("/proc/self/fd").unwrap().count(), open);
        builder.set("fd", "none").unwrap();
        assert_eq!(fs::read_dir("/proc/self/fd").unwrap().count(), open - 1);
        builder.set("fd", other.as_raw_fd() as u32).unwrap();
        drop(builder);
        other = file;
        drop(other);
        assert_eq!(Belongings::now(), before);
    });
}

#[test]
fn what_the_descriptor_allows_decides() {
    struct Case {
        open: fn(&File) -> File,
        rest: &'static str,
        /// Words of the refusal, or none.
        words: &'static [&'static str],
        /// Whether the memory can be written, and whether the file has what was.
        writable: bool,
        reaches: bool,
    }
    const fn refused(
        open: fn(&File) -> File,
        rest: &'static str,
        words: &'static [&'static str],
    ) -> Case {
        Case {
            open,
            rest,
            words,
            writable: false,
            reaches: false,
        }
    }
    const fn taken(
        open: fn(&File) -> File,
        rest: &'static str,
        writable: bool,
        reaches: bool,
    ) -> Case {
        Case {
            open,
            rest,
            words: &[],
            writable,
            reaches,
        }
    }
    fn both(file: &File) -> File {
        file.try_clone().unwrap()
    }
    fn write_only(file: &File) -> File {
        open(file, OpenOptions::new().write(true))
    }
    fn sealed(file: &File) -> File {
        let seals = libc::F_SEAL_WRITE;
        // SAFETY: takes numbers.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
        assert_eq!(result, 0);
        file.try_clone().unwrap()
    }
    fn sealed_later(file: &File) -> File {
        let seals = libc::F_SEAL_FUTURE_WRITE;
        // SAFETY: takes numbers.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
        assert_eq!(result, 0);
        file.try_clone().unwrap()
    }
    const READING: &[&str] = &["reading only", "readonly=on", "rom=off"];
    const WRITING: &[&str] = &["writing only"];
    const SEALED: &[&str] = &["sealed", "readonly=on", "share=off"];
    const SHARED_ROM: &[&str] = &["rom=off", "share=off"];
    // Of the cases: before Linux 6.7 it is sealed against this too, but for kernels that were mended.
    const SEALED_ROM: usize = 23;
    let cases = [
        taken(both, "", true, true),
        taken(both, ",rom=off", true, true),
        refused(both, ",rom=on", &["rom=on", "readonly=on"]),
        taken(both, ",share=off", true, false),
        taken(both, ",share=off,rom=off", true, false),
        refused(both, ",share=off,rom=on", &["rom=on", "readonly=on"]),
        taken(both, ",readonly=on", false, false),
        taken(both, ",readonly=on,rom=on", false, false),
        refused(both, ",readonly=on,rom=off", SHARED_ROM),
        taken(both, ",readonly=on,share=off", false, false),
        taken(both, ",readonly=on,rom=off,share=off", true, false),
        refused(open_for_reading, "", READING),
        refused(open_for_reading, ",share=off", READING),
        taken(open_for_reading, ",readonly=on", false, false),
        taken(open_for_reading, ",readonly=on,share=off", false, false),
        refused(open_for_reading, ",readonly=on,rom=off", SHARED_ROM),
        taken(
            open_for_reading,
            ",readonly=on,rom=off,share=off",
            true,
            false,
        ),
        refused(write_only, "", WRITING),
        refused(write_only, ",share=off", WRITING),
        refused(write_only, ",readonly=on", WRITING),
        refused(write_only, ",readonly=on,rom=off,share=off", WRITING),
        refused(sealed, "", SEALED),
        taken(sealed, ",share=off", true, false),
        taken(sealed, ",readonly=on", false, false),
        taken(sealed, ",readonly=on,rom=off,share=off", true, false),
        refused(sealed_later, "", SEALED),
        taken(sealed_later, ",share=off", true, false),
        taken(sealed_later, ",readonly=on", false, false),
    ];
    for (number, case) in cases.iter().enumerate() {
        let user = numbered(SIZE);
        let file = (case.open)(&user);
        let builder = backend(&file, &format!("size=64K{}", case.rest));
        let what = format!("{number}: {}", case.rest);
        if !case.words.is_empty() {
            let failed = refusing(&[no_duplicate()], || builder.complete()).expect_err(&what);
            common::access::assert_names_errno(&failed.error);
            let message = failed.to_string();
            assert_eq!(failed.error.kind(), ErrorKind::Value, "{what}: {message}");
            for word in case.words {
                assert!(message.contains(word), "{what}: {message}: lacks {word}");
            }
            continue;
        }
        let completed = match builder.complete() {
            Err(failed) if number == SEALED_ROM && kernel() < (6, 7) => {
                let error = failed.to_string();
                assert!(
                    error.contains("6.7") && error.contains("share=off"),
                    "{error}"
                );
                continue;
            }
            completed => completed.unwrap_or_else(|error| panic!("{what}: {error}")),
        };
        let claim = completed.claim("test").unwrap();
        let memory = claim.memory();
        assert_eq!(memory.is_readonly(), !case.writable, "{what}");
        assert_eq!(
            memory.is_shared(),
            !case.rest.contains("share=off"),
            "{what}"
        );
        assert_eq!(read(&claim, page_size()), 2, "{what}");
        if case.writable {
            write(&claim, page_size(), 99);
            assert_eq!(read(&claim, page_size()), 99, "{what}");
        } else {
            let flags = common::vm_flags(memory.as_ptr());
            assert!(!flags.contains(&"wr".to_owned()), "{what}: {flags:?}");
        }
        let mut byte = [0];
        user.read_exact_at(&mut byte, page_size()).unwrap();
        let expected = if case.reaches { 99 } else { 2 };
        assert_eq!(byte, [expected], "{what}");
        // What auto came to is what is read.
        let rom = if case.writable { "off" } else { "on" };
        assert_eq!(completed.get_text("rom").unwrap(), rom, "{what}");
        assert_eq!(user.metadata().unwrap().len(), SIZE);
    }
}

#[test]
fn what_cannot_be_mapped_is_refused_by_type() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let (socket, _peer) = UnixStream::pair().unwrap();
    let mut pipe = [0; 2];
    // SAFETY: fills the array given.
    let result = unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(result, 0);
    // SAFETY: opened above, owned by nobody else.
    let ends = pipe.map(|fd| unsafe { File::from_raw_fd(fd) });
    let epoll: File = {
        // SAFETY: takes flags.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        // SAFETY: opened above, owned by nobody else.
        unsafe { File::from_raw_fd(fd) }
    };
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    let zero = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/zero")
        .unwrap();
    let folder = File::open(directory.path()).unwrap();
    let cases: [(&dyn AsRawFd, &str); 8] = [
        (&listener, "a socket"),
        (&socket, "a socket"),
        (&ends[0], "a FIFO"),
        (&ends[1], "a FIFO"),
        (&epoll, "contents"),
        (&null, "a character device"),
        (&zero, "a character device"),
        (&folder, "a directory"),
    ];
    for (file, words) in cases {
        for rest in ["", ",readonly=on", ",share=off"] {
            let builder = new("fd", &format!("fd={},size=64K{rest}", file.as_raw_fd()));
            refusing(&[no_duplicate()], || {
                assert_refused(builder, ErrorKind::Value, &["fd", words])
            });
        }
    }
}

/// It stands for a path only, though it looks like one that is open for reading.
#[test]
fn a_descriptor_of_a_mere_path_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE).unwrap();
    let path = CString::new(file.path().as_os_str().as_bytes()).unwrap();
    // OpenOptions leaves O_PATH out where it is one of the access modes, as with musl.
    // SAFETY: reads the path.
    let path = unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    assert!(path >= 0);
    // SAFETY: opened above, owned by nobody else.
    let path = unsafe { OwnedFd::from_raw_fd(path) };
    for rest in ["", ",readonly=on", ",share=off,readonly=on,rom=off"] {
        assert_refused(
            backend(&path, &format!("size=64K{rest}")),
            ErrorKind::Value,
            &["fd"],
        );
    }
}

#[test]
fn the_memory_fits_the_descriptor() {
    let page = page_size();
    let file = numbered(4 * page);
    for (offset, size, fits) in [
        (0, 4 * page, true),
        (0, 3 * page, true),
        (0, 5 * page, false),
        (page, 3 * page, true),
        (page, 4 * page, false),
        (3 * page, page, true),
        (4 * page, page, false),
        (5 * page, page, false),
        (i64::MAX as u64 & !(page - 1), page, false),
        (!(page - 1), page, false),
    ] {
        for rest in ["", ",share=off", ",readonly=on"] {
            let options = format!("size={size},offset={offset}{rest}");
            let builder = backend(&file, &options);
            if !fits {
                let before = file.metadata().unwrap();
                let message = assert_refused(builder, ErrorKind::Value, &[&size.to_string()]);
                if offset < 8 * page {
                    assert!(message.contains(&(4 * page).to_string()), "{message}");
                }
                let after = file.metadata().unwrap();
                assert_eq!(
                    (after.len(), after.blocks()),
                    (before.len(), before.blocks())
                );
                continue;
            }
            let completed = builder.complete().unwrap();
            let claim = completed.claim("test").unwrap();
            assert_eq!(claim.memory().fd_offset(), offset);
            for at in (0..size).step_by(page as usize) {
                let expected = ((offset + at) / page) as u8 + 1;
                assert_eq!(read(&claim, at), expected, "{options}");
            }
        }
    }
    for offset in [1, page - 1, page + 1] {
        assert_refused(
            backend(&file, &format!("size={page},offset={offset}")),
            ErrorKind::Value,
            &[&format!("offset={offset}"), &page.to_string()],
        );
    }
    assert_refused(backend(&file, ""), ErrorKind::Value, &["size is required"]);
}

/// Without it the kernel never maps shared memory huge.
#[test]
fn address_and_offset_agree_modulo_a_huge_page() {
    let Some(huge) = common::thp_size() else {
        return;
    };
    let file = memfd("large", 0, 8 * huge);
    let page = page_size();
    for offset in [0, page, huge / 2, huge - page, huge, huge * 3 / 2] {
        for rest in ["", ",share=off"] {
            let options = format!("size={},offset={offset}{rest}", 2 * huge);
            let completed = backend(&file, &options).complete().unwrap();
            let claim = completed.claim("test").unwrap();
            let address = claim.memory().as_ptr() as u64;
            assert_eq!(address % huge, offset % huge, "{options}");
        }
    }
}

#[test]
fn the_callers_file_is_neither_sealed_nor_emptied() {
    let file = numbered(SIZE);
    for rest in ["", ",share=off", ",readonly=on"] {
        let completed = backend(&file, &format!("size=64K,prealloc=on{rest}"))
            .complete()
            .unwrap();
        assert_eq!(common::access::seals(&file) & !0x20, 0, "{rest}");
        drop(completed);
        let mut byte = [0];
        file.read_exact_at(&mut byte, page_size()).unwrap();
        assert_eq!(byte, [2], "{rest}");
        assert_eq!(file.metadata().unwrap().blocks() * 512, SIZE);
    }
    file.set_len(2 * SIZE).unwrap();
}

#[test]
fn a_file_on_disk_is_taken() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(&[5], 4096).unwrap();
    let completed = backend(&file, "size=64K,prealloc=on").complete().unwrap();
    let claim = completed.claim("test").unwrap();
    assert_eq!(read(&claim, 4096), 5);
    write(&claim, 8192, 6);
    let mut byte = [0];
    file.read_exact_at(&mut byte, 8192).unwrap();
    assert_eq!(byte, [6]);
    // The same open file, not merely the same file.
    let (mine, theirs) = (file.metadata().unwrap(), descriptor(&claim));
    assert_eq!(mine.ino(), theirs.metadata().unwrap().ino());
}

#[test]
fn a_hugetlb_descriptor_has_huge_pages() {
    let Some(_pool) = HugePages::have(4) else {
        return;
    };
    let flags = libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
    let file = memfd("huge", flags, 4 * HUGE);
    for (options, fits) in [
        ("size=4M,offset=2M", true),
        ("size=8M", true),
        ("size=4M,offset=6M", false),
        ("size=3M", false),
        ("size=4M,offset=1M", false),
        ("size=64K", false),
    ] {
        let builder = backend(&file, &format!("{options},prealloc=on"));
        if !fits {
            assert_refused(builder, ErrorKind::Value, &[]);
            continue;
        }
        let completed = builder.complete().unwrap();
        let size = completed.placement().unwrap().huge;
        let claim = completed.claim("test").unwrap();
        assert_eq!(claim.memory().page_size(), HUGE, "{options}");
        assert_eq!(claim.memory().len(), size, "{options}");
        assert_eq!(claim.memory().as_ptr() as u64 % HUGE, 0, "{options}");
        assert_eq!(smaps_field(&claim, "KernelPageSize"), HUGE);
    }
    let missing = memfd("huge", flags, 8 * HUGE);
    let failed = backend(&missing, "size=16M").complete().unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::NoMemory, "{failed}");
    assert!(failed.to_string().contains("nr_hugepages"), "{failed}");
}

/// Pages that are there are only mapped, for which one thread is enough.
#[test]
fn huge_pages_that_a_descriptor_has_are_mapped_by_one_thread() {
    if !populates_by_call() {
        return;
    }
    const PAGES: u64 = 16;
    let Some(_pool) = HugePages::have(PAGES) else {
        return;
    };
    let file = memfd("huge", libc::MFD_HUGETLB | libc::MFD_HUGE_2MB, PAGES * HUGE);
    let threads = || {
        let builder = backend(&file, "size=32M,prealloc=on,prealloc-threads=4");
        let completed = builder.complete().unwrap();
        assert_eq!(completed.placement().unwrap().huge, PAGES * HUGE);
        completed.prealloc_result().unwrap().threads
    };
    // What is absent is zeroed, a chunk of 8 MiB by each thread.
    assert_eq!(threads(), 4);
    assert_eq!(threads(), 1);
}

/// Faults of the calling thread.
fn faults() -> i64 {
    // SAFETY: all zero is a value; filled in below.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: fills it in.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    assert_eq!(result, 0);
    usage.ru_minflt
}

#[test]
fn small_pages_that_a_descriptor_has_are_mapped_many_at_a_time() {
    if !populates_by_call() {
        return;
    }
    const BYTES: u64 = 16 << 20;
    let file = memfd("small", 0, BYTES);
    let pages = BYTES / page_size();
    let count = |file: &File| {
        let options = "size=16M,prealloc=on,prealloc-threads=1,thp=never";
        let before = faults();
        let completed = backend(file, options).complete().unwrap();
        let count = faults() - before;
        assert_eq!(completed.placement().unwrap().resident, BYTES);
        count as u64
    };
    assert!(count(&file) >= pages);
    file.write_all_at(&[7], 5 * page_size()).unwrap();
    // /sys/kernel/debug/fault_around_bytes is 64 KiB unless it was changed.
    let faults = count(&file);
    assert!(faults < pages / 2, "{faults} faults for {pages} pages");
    let completed = backend(&file, "size=16M,prealloc=on").complete().unwrap();
    let claim = completed.claim("test").unwrap();
    assert_eq!(read(&claim, 5 * page_size()), 7);
    write(&claim, 6 * page_size(), 8);
}

/// Shrinking it takes the memory away: that is an error while populating, never a signal.
#[test]
fn a_descriptor_that_shrinks_is_an_error_while_populating() {
    let file = numbered(SIZE);
    let completed = backend(&file, "size=64K").complete().unwrap();
    file.set_len(SIZE / 2).unwrap();
    let error = completed.set("prealloc", true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoMemory);
    assert!(error.to_string().contains("SIGBUS"), "{error}");
    assert_eq!(completed.get_text("prealloc").unwrap(), "off");
}

#[test]
fn without_descriptors_left_setting_and_completing_fail() {
    let file = numbered(SIZE);
    let number = file.as_raw_fd();
    let mut builder = new("fd", "size=64K");
    let error = refusing(&[no_duplicate()], || {
        builder.set("fd", number as u32).unwrap_err()
    });
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
    builder.set("fd", number as u32).unwrap();
    let failed = refusing(&[no_duplicate()], || builder.complete().unwrap_err());
    assert_eq!(failed.error.kind(), ErrorKind::NoMemory, "{failed}");
    assert!(failed.object.complete().is_ok());
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Saving memory as an image, from which it can begin again.

mod common;

use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::sync::OnceLock;

use common::access::memfd;
use common::access::new;
use common::access::write;
use common::host;
use common::host::HugePages;
use common::image::assert_same;
use common::image::backings;
use common::image::complete;
use common::image::image_bytes;
use common::image::image_in;
use common::image::pattern;
use common::image::MIB;
use common::image::SIZE;
use common::in_child;
use common::page_size;
use common::refusing;
use common::skip;
use common::Refusal;
use hostmem::Backend;
use hostmem::Claim;
use hostmem::Error;
use hostmem::ErrorKind;
use hostmem::Interrupter;
use hostmem::Saved;

fn new_file(directory: &tempfile::TempDir) -> File {
    let path = directory.path().join("saved");
    let _ = fs::remove_file(&path);
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    options.open(path).unwrap()
}

fn save(backend: &Backend, file: &File, at: u64) -> Saved {
    backend.claim("test").unwrap().save(file, at).unwrap()
}

fn fails(claim: &Claim, file: &File, at: u64, words: &str) -> Error {
    let error = claim.save(file, at).unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("m0: save: "), "{message}");
    assert!(message.contains(words), "{message}: lacks {words}");
    error
}

/// Saves what was restored and restores what was saved.
fn goes_round(kind: &str, options: &str, image: &str, bytes: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let options = format!("size={SIZE},prealloc=on,{options}");
    let backend = complete(kind, &format!("{options},contents={image}"));
    let file = new_file(&directory);
    let saved = save(&backend, &file, 0);
    let path = directory.path().join("saved");
    let mut expected = bytes.to_vec();
    expected.resize(SIZE as usize, 0);
    assert!(fs::read(&path).unwrap() == expected, "{kind},{options}");
    assert_eq!(saved.written + saved.holes, SIZE, "{saved:?}");
    let pages = expected.chunks(page_size() as usize);
    let data = pages
        .filter(|page| page.iter().any(|&byte| byte != 0))
        .count() as u64;
    assert_eq!(saved.written, data * page_size(), "{kind},{options}");
    drop(backend);
    // A name can be made only once.
    let mut parts = options.split(',');
    if let Some(name) = parts.find_map(|part| part.strip_prefix("mem-path=")) {
        // A directory stays.
        let _ = fs::remove_file(name);
    }
    let restored = format!("{options},contents={}", path.display());
    assert_same(&complete(kind, &restored), &expected, &restored);
}

/// Without reading it: the image is a file that memory can be.
#[test]
fn what_is_saved_can_be_mapped() {
    let images = tempfile::tempdir().unwrap();
    let expected = image_bytes(SIZE);
    let image = image_in(images.path(), 0, &expected);
    let backend = complete("ram", &format!("size={SIZE},prealloc=on,contents={image}"));
    save(&backend, &new_file(&images), 0);
    drop(backend);
    let path = images.path().join("saved");
    for options in [
        "share=off",
        "share=off,prealloc=on",
        "share=on",
        "share=on,readonly=on",
        "readonly=on,rom=off",
    ] {
        let options = format!("size={SIZE},{options},mem-path={}", path.display());
        assert_same(&complete("file", &options), &expected, &options);
    }
    // Nothing of it was changed.
    assert!(fs::read(path).unwrap() == expected);
}

#[test]
fn what_is_saved_can_be_restored() {
    let images = tempfile::tempdir().unwrap();
    let bytes = image_bytes(SIZE - 5 * page_size() - 100);
    let image = image_in(images.path(), 0, &bytes);
    let files = tempfile::tempdir().unwrap();
    for (index, (kind, options)) in backings(files.path()).into_iter().enumerate() {
        let options = format!("{options},prealloc-threads={}", 1 + index % 3);
        goes_round(kind, &options, &image, &bytes);
    }
    let Some(_pages) = HugePages::have(SIZE / (2 * MIB)) else {
        return;
    };
    for (kind, share) in [("ram", "off"), ("memfd", "on"), ("memfd", "off")] {
        let options = format!("hugetlb=on,hugetlbsize=2M,share={share}");
        goes_round(kind, &options, &image, &bytes);
    }
}

/// Without pagemap, and without holes that a file tells of.
#[test]
fn what_the_kernel_does_not_tell_is_looked_at() {
    let images = tempfile::tempdir().unwrap();
    let bytes = image_bytes(SIZE);
    let image = image_in(images.path(), 0, &bytes);
    for refusal in [
        Refusal::new(libc::SYS_lseek, libc::EINVAL),
        Refusal::new(libc::SYS_fallocate, libc::EOPNOTSUPP),
    ] {
        refusing(&[refusal], || {
            goes_round("ram", "thp=auto", &image, &bytes);
            goes_round("memfd", "share=on", &image, &bytes);
        });
    }
}

#[test]
fn what_is_absent_or_zero_is_a_hole() {
    let directory = tempfile::tempdir().unwrap();
    for kind in ["ram", "memfd", "shm"] {
        for prealloc in ["off", "on"] {
            let options = format!("size=256M,prealloc={prealloc},thp=never");
            let backend = complete(kind, &options);
            let claim = backend.claim("test").unwrap();
            write(&claim, 100 * MIB + 17, 1);
            write(&claim, 200 * MIB, 2);
            drop(claim);
            let before = backend.placement().unwrap().resident;
            let file = new_file(&directory);
            let saved = save(&backend, &file, 0);
            assert_eq!(saved.written, 2 * page_size(), "{kind},{options}");
            assert_eq!(saved.holes, (256 << 20) - 2 * page_size());
            let metadata = file.metadata().unwrap();
            assert_eq!(metadata.len(), 256 * MIB);
            assert!(
                metadata.blocks() * 512 <= MIB,
                "{} blocks",
                metadata.blocks()
            );
            // Saving makes no memory present.
            assert_eq!(
                backend.placement().unwrap().resident,
                before,
                "{kind},{options}"
            );
        }
    }
}

/// Old bytes in the range go, those before and behind stay; also where holes cannot be made.
#[test]
fn a_file_that_is_there_is_overwritten_in_the_range_alone() {
    let directory = tempfile::tempdir().unwrap();
    let images = tempfile::tempdir().unwrap();
    let bytes = image_bytes(SIZE);
    let image = image_in(images.path(), 0, &bytes);
    let backend = complete("ram", &format!("size={SIZE},prealloc=on,contents={image}"));
    let at = 3 * page_size();
    for holes in [true, false] {
        let old = pattern(77, SIZE + 2 * at);
        let path = directory.path().join("old");
        fs::write(&path, &old).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let saved = match holes {
            true => save(&backend, &file, at),
            false => {
                let refusal = Refusal::new(libc::SYS_fallocate, libc::EOPNOTSUPP);
                refusing(&[refusal], || save(&backend, &file, at))
            }
        };
        assert_eq!(saved.holes == 0, !holes);
        let mut expected = old;
        expected[at as usize..(at + SIZE) as usize].copy_from_slice(&bytes);
        assert!(fs::read(&path).unwrap() == expected, "holes: {holes}");
    }
}

#[test]
fn files_that_cannot_be_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "before").unwrap();
    let backend = complete("memfd", "size=1M");
    let claim = backend.claim("test").unwrap();
    let own = common::access::descriptor(&claim);
    let options = |set: fn(&mut fs::OpenOptions) -> &mut fs::OpenOptions| {
        set(&mut File::options()).open(&path).unwrap()
    };
    let reader = options(|options| options.read(true));
    let appender = options(|options| options.append(true));
    let writer = options(|options| options.write(true));
    let null = File::options().write(true).open("/dev/null").unwrap();
    for (file, at, words) in [
        (&reader, 0, "for reading only"),
        (&appender, 0, "O_APPEND"),
        (&null, 0, "neither a regular file nor a block device"),
        (&own, 0, "that of the memory itself"),
        (&writer, 100, "offset 100"),
        (
            &writer,
            u64::MAX - page_size() + 1,
            "more than a file holds",
        ),
    ] {
        assert_eq!(fails(&claim, file, at, words).kind(), ErrorKind::Value);
    }
    assert_eq!(fs::read(&path).unwrap(), b"before");
}

#[test]
fn a_file_above_the_limit_is_refused_without_a_signal() {
    in_child("a_file_above_the_limit_is_refused_without_a_signal", || {
        let directory = tempfile::tempdir().unwrap();
        let backend = complete("ram", "size=1M");
        let claim = backend.claim("test").unwrap();
        let file = new_file(&directory);
        host::limit(libc::RLIMIT_FSIZE, MIB);
        let error = fails(&claim, &file, page_size(), "RLIMIT_FSIZE");
        assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
        assert_eq!(file.metadata().unwrap().len(), 0);
        claim.save(&file, 0).unwrap();
    });
}

#[test]
fn too_little_room_is_named_before_anything_is_written() {
    if !host::is_root() {
        return skip("mounting a small file system needs root");
    }
    in_child(
        "too_little_room_is_named_before_anything_is_written",
        || {
            let directory = tempfile::tempdir().unwrap();
            if !host::mount("tmpfs", directory.path(), "size=8M") {
                return skip("a tmpfs cannot be mounted");
            }
            let backend = complete("ram", "size=64M,prealloc=on");
            let claim = backend.claim("test").unwrap();
            let fill = |pages: u64| {
                let places = (0..pages).map(|page| page * page_size());
                places.for_each(|at| write(&claim, at, 1));
            };
            let room = 8 * MIB / page_size();
            fill(room + 5);
            let file = new_file(&directory);
            let missing = format!("{} bytes are missing", 5 * page_size());
            let error = fails(&claim, &file, 0, &missing);
            assert_eq!(error.kind(), ErrorKind::NoMemory);
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
            assert_eq!(file.metadata().unwrap().blocks(), 0);
            // More memory than room, but not more data.
            claim.discard(4 * MIB, 8 * MIB).unwrap();
            assert_eq!(claim.save(&file, 0).unwrap().written, 4 * MIB);
        },
    );
}

/// Nor is anything written where what has to be written cannot be read.
#[test]
fn contents_that_cannot_be_counted_are_not_written() {
    if !host::is_root() {
        return skip("mounting a small file system needs root");
    }
    in_child("contents_that_cannot_be_counted_are_not_written", || {
        let directory = tempfile::tempdir().unwrap();
        if !common::lazy::can_serve() || !host::mount("tmpfs", directory.path(), "size=8M") {
            return skip("a tmpfs cannot be mounted, or contents cannot be read on demand");
        }
        let images = tempfile::tempdir().unwrap();
        let image = image_in(images.path(), 0, &pattern(7, 32 * MIB));
        let options = format!("size=32M,prealloc-threads=1,contents={image}");
        let backend = complete("ram", &options);
        let cut = fs::OpenOptions::new().write(true).open(&image).unwrap();
        cut.set_len(20 * MIB).unwrap();
        let claim = backend.claim("test").unwrap();
        let file = new_file(&directory);
        let error = fails(&claim, &file, 0, "the image is incomplete");
        assert_eq!(error.raw_os_error(), Some(libc::ENODATA), "{error}");
        assert_eq!(file.metadata().unwrap().blocks(), 0);
    });
}

/// Signals that a program handles, without SA_RESTART, interrupt calls.
#[test]
fn signals_meanwhile_change_nothing() {
    in_child("signals_meanwhile_change_nothing", || {
        extern "C" fn nothing(_: libc::c_int) {}
        // SAFETY: all zeros are an action without flags, whose handler does nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            assert_eq!(
                libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()),
                0
            );
        }
        let images = tempfile::tempdir().unwrap();
        let bytes = pattern(43, SIZE);
        let image = image_in(images.path(), 0, &bytes);
        // SAFETY: takes nothing.
        let this = unsafe { libc::pthread_self() } as usize;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    // SAFETY: the thread that saves lives until this one has ended.
                    unsafe { libc::pthread_kill(this as libc::pthread_t, libc::SIGUSR1) };
                }
            });
            for _ in 0..5 {
                let backend = complete("ram", &format!("size={SIZE},prealloc=on,contents={image}"));
                assert_same(&backend, &bytes, "restored");
                let file = new_file(&images);
                save(&backend, &file, 0);
                assert!(fs::read(images.path().join("saved")).unwrap() == bytes);
            }
            done.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn a_failing_write_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let backend = complete("ram", &format!("size={SIZE},prealloc-threads=1"));
    let claim = backend.claim("test").unwrap();
    for at in (0..SIZE).step_by(page_size() as usize) {
        write(&claim, at, 3);
    }
    let file = new_file(&directory);
    // Of room that others have taken meanwhile too.
    for (errno, kind) in [
        (libc::EIO, ErrorKind::Io),
        (libc::ENOSPC, ErrorKind::NoMemory),
        (libc::EDQUOT, ErrorKind::NoMemory),
    ] {
        let second_chunk = Refusal::new(libc::SYS_pwrite64, errno).only(3, 8 * MIB);
        refusing(&[second_chunk], || {
            let error = fails(&claim, &file, 0, "at offset 8388608 of the memory");
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(error.raw_os_error(), Some(errno));
            assert!(
                error.to_string().ends_with("the image is incomplete"),
                "{error}"
            );
        });
    }
    claim.save(&file, 0).unwrap();
}

/// A memfd whose size, or whose contents, others must not change.
#[test]
fn a_sealed_file_is_no_image() {
    for (size, seal, words) in [
        (MIB, libc::F_SEAL_GROW, "cannot give the file its size"),
        (2 * MIB, libc::F_SEAL_WRITE, "the image is incomplete"),
    ] {
        let backend = complete("ram", "size=2M");
        let claim = backend.claim("test").unwrap();
        write(&claim, 0, 3);
        let file = memfd("image", libc::MFD_ALLOW_SEALING, size);
        // SAFETY: seals a descriptor that is open.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seal) };
        assert_eq!(result, 0);
        let error = fails(&claim, &file, 0, words);
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
        assert_eq!(file.metadata().unwrap().len(), size);
    }
}

#[test]
fn it_can_be_interrupted_and_others_are_busy_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let interrupter = Arc::new(OnceLock::<Interrupter>::new());
    let from_callback = Arc::clone(&interrupter);
    let builder = new("ram", "size=1G,prealloc-threads=1").on_progress(move |_, total| {
        assert_eq!(total, 1 << 30);
        from_callback.get().unwrap().interrupt();
    });
    let backend = builder.complete().unwrap();
    interrupter.set(backend.interrupter()).unwrap();
    let claim = backend.claim("test").unwrap();
    for at in (0..1 << 30).step_by(page_size() as usize) {
        write(&claim, at, 5);
    }
    let file = new_file(&directory);
    std::thread::scope(|scope| {
        let saver = scope.spawn(|| fails(&claim, &file, 0, "cancelled after"));
        while backend.progress().total == 0 && !saver.is_finished() {
            std::thread::yield_now();
        }
        if !saver.is_finished() {
            let error = backend.populate(0, page_size()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        }
        let error = saver.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::State);
        assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
    });
}

/// The position is the descriptor's, which others share.
#[test]
fn the_position_of_the_users_file_stays() {
    let directory = tempfile::tempdir().unwrap();
    let memory = memfd("memory", 0, 4 * MIB);
    let builder = new("fd", "size=4M").fd(&memory);
    let backend = builder.complete().unwrap();
    let claim = backend.claim("test").unwrap();
    write(&claim, MIB, 1);
    let file = new_file(&directory);
    let saved = claim.save(&file, 0).unwrap();
    assert_eq!(saved.written, page_size());
    for file in [&memory, &file] {
        // SAFETY: takes numbers.
        let position = unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_CUR) };
        assert_eq!(position, 0);
    }
}

#[test]
fn a_descriptor_in_memory_will_do() {
    let backend = complete("shm", "size=1M");
    let claim = backend.claim("test").unwrap();
    write(&claim, 5, 7);
    let file = memfd("saved", 0, 0);
    claim.save(&file, 0).unwrap();
    drop(claim);
    let image = format!("/proc/self/fd/{}", file.as_raw_fd());
    let restored = complete("ram", &format!("size=1M,prealloc=on,contents={image}"));
    assert_same(&restored, &[0, 0, 0, 0, 0, 7], "memfd");
}

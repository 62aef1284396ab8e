// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that begins as an image: contents, contents-offset.

mod common;

use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use common::access::assert_refused;
use common::access::memfd;
use common::access::new;
use common::access::smaps_field;
use common::directory_on_disk;
use common::file_system;
use common::host::HugePages;
use common::image::assert_same;
use common::image::backings;
use common::image::complete;
use common::image::complete_on_demand;
use common::image::image_bytes;
use common::image::image_in;
use common::image::pattern;
use common::image::MIB;
use common::image::ON_DEMAND;
use common::image::SIZE;
use common::in_child;
use common::kernel;
use common::lazy::host_has_huge_pages;
use common::opening;
use common::page_size;
use common::refusing;
use common::skip;
use common::Belongings;
use common::Refusal;
use hostmem::Backend;
use hostmem::Builder;
use hostmem::ErrorKind;
use tempfile::TempDir;

const EAGER: &str = "prealloc=on";

#[test]
fn memory_is_what_the_image_has() {
    let images = tempfile::tempdir().unwrap();
    for length in [SIZE, SIZE - 5 * MIB - 1234, 1, 0] {
        let bytes = image_bytes(length);
        for at in [0, 5 * page_size()] {
            let image = image_in(images.path(), at, &bytes);
            let files = tempfile::tempdir().unwrap();
            for (index, (kind, options)) in backings(files.path()).into_iter().enumerate() {
                let threads = 1 + index % 3;
                let options = format!(
                    "size={SIZE},{EAGER},prealloc-threads={threads},contents={image},\
                     contents-offset={at},{options}"
                );
                let backend = complete(kind, &options);
                assert_eq!(backend.placement().unwrap().resident, SIZE, "{options}");
                assert_same(&backend, &bytes, &options);
            }
        }
    }
}

#[test]
fn huge_pages_of_a_pool_get_contents() {
    let Some(_pages) = HugePages::have(SIZE / (2 * MIB)) else {
        return;
    };
    let images = tempfile::tempdir().unwrap();
    let bytes = image_bytes(SIZE - MIB - 7);
    let image = image_in(images.path(), 0, &bytes);
    for (kind, share) in [("ram", "off"), ("memfd", "on"), ("memfd", "off")] {
        let options =
            format!("size={SIZE},hugetlb=on,hugetlbsize=2M,share={share},{EAGER},contents={image}");
        assert_same(&complete(kind, &options), &bytes, &options);
    }
}

/// Each way to populate is tried with the others refused.
#[test]
fn contents_are_equal_whichever_way_memory_is_populated() {
    let images = tempfile::tempdir().unwrap();
    let bytes = image_bytes(SIZE);
    let image = image_in(images.path(), 0, &bytes);
    for refusal in [
        Refusal::new(libc::SYS_userfaultfd, libc::EPERM),
        Refusal::new(libc::SYS_fallocate, libc::EOPNOTSUPP),
        Refusal::new(libc::SYS_lseek, libc::EINVAL),
        // MADV_POPULATE_WRITE: as before Linux 5.14, where each page is touched.
        Refusal::new(libc::SYS_madvise, libc::EINVAL).only(2, 23),
        // MADV_COLLAPSE.
        Refusal::new(libc::SYS_madvise, libc::EINVAL).only(2, 25),
    ] {
        let what = format!("call {} {:?}", refusal.call, refusal.only);
        let files = tempfile::tempdir().unwrap();
        refusing(&[refusal], || {
            for (kind, options) in backings(files.path()) {
                let options = format!("size={SIZE},{EAGER},contents={image},{options}");
                assert_same(
                    &complete(kind, &options),
                    &bytes,
                    &format!("{what}: {options}"),
                );
            }
        });
    }
}

#[test]
fn anonymous_memory_with_contents_is_huge() {
    let plain = complete("ram", &format!("size={SIZE},{EAGER},thp=always"));
    let huge = |backend: &Backend| smaps_field(&backend.claim("test").unwrap(), "AnonHugePages");
    if huge(&plain) != SIZE {
        return skip("this host does not make all of such memory huge");
    }
    let images = tempfile::tempdir().unwrap();
    let image = image_in(images.path(), 0, &image_bytes(SIZE));
    let options = format!("size={SIZE},{EAGER},thp=always,contents={image}");
    assert_eq!(huge(&complete("ram", &options)), SIZE);
}

/// What this process has read, threads that are gone included: `rchar` in bytes, `read_bytes` those
/// that came from a device.
fn io_count(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap();
    let count = text.lines().find_map(|line| line.strip_prefix(name));
    count.unwrap().trim_start_matches(": ").parse().unwrap()
}

#[test]
fn holes_are_not_read() {
    in_child("holes_are_not_read", || {
        let image = memfd("image", 0, 512 * MIB);
        image.write_all_at(&pattern(1, MIB), 300 * MIB).unwrap();
        let path = format!("/proc/self/fd/{}", image.as_raw_fd());
        let before = io_count("rchar");
        let backend = complete("ram", &format!("size=512M,{EAGER},contents={path}"));
        let read = io_count("rchar") - before;
        assert!((MIB..8 * MIB).contains(&read), "{read} bytes");
        assert_eq!(backend.placement().unwrap().resident, 512 * MIB);
        let mut expected = vec![0; 512 << 20];
        expected[300 << 20..301 << 20].copy_from_slice(&pattern(1, MIB));
        assert_same(&backend, &expected, "holes");
    });
}

#[test]
fn the_image_is_not_changed_and_not_kept_open() {
    in_child("the_image_is_not_changed_and_not_kept_open", || {
        let images = tempfile::tempdir().unwrap();
        let bytes = image_bytes(SIZE);
        let image = image_in(images.path(), 0, &bytes);
        let options = format!("size={SIZE},{EAGER},contents={image}");
        drop(complete("ram", &options));
        let before = Belongings::now();
        let backend = complete("ram", &options);
        let claim = backend.claim("test").unwrap();
        // SAFETY: inside the memory, mapped as long as the claim lives, used by nobody else.
        unsafe { claim.memory().as_ptr().write_volatile(!bytes[0]) };
        let open = fs::read_dir("/proc/self/fd").unwrap();
        let open = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        assert!(!open.into_iter().any(|link| link == Path::new(&image)));
        drop(claim);
        drop(backend);
        assert_eq!(Belongings::now(), before);
        assert!(fs::read(&image).unwrap() == bytes);
    });
}

/// The image's bytes are not those of a discarded range any more.
#[test]
fn a_discarded_range_is_zero() {
    let images = tempfile::tempdir().unwrap();
    let mut bytes = pattern(3, SIZE);
    let image = image_in(images.path(), 0, &bytes);
    for kind in ["ram", "memfd"] {
        let backend = complete(kind, &format!("size={SIZE},{EAGER},contents={image}"));
        let claim = backend.claim("test").unwrap();
        claim.discard(4 * MIB, 2 * MIB).unwrap();
        claim.populate(4 * MIB, MIB).unwrap();
        drop(claim);
        bytes[4 << 20..6 << 20].fill(0);
        assert_same(&backend, &bytes, kind);
    }
}

#[test]
fn together_each_has_its_own() {
    let images: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let bytes: Vec<_> = (0..3).map(|seed| pattern(seed + 10, SIZE)).collect();
    let objects = common::objects();
    let builders: Vec<Builder> = (0..3)
        .map(|index| {
            let image = image_in(images[index].path(), 0, &bytes[index]);
            let options = format!("id=m{index},size={SIZE},{EAGER},contents={image}");
            objects
                .parse(format!("memory-backend-ram,{options}"))
                .unwrap()
        })
        .collect();
    let backends = Builder::complete_all(builders).unwrap();
    for (backend, bytes) in backends.iter().zip(&bytes) {
        assert_same(backend, bytes, backend.id());
    }
}

// ---- The page cache ----

/// Pages of a file that are in the page cache.
fn cached_pages(path: &str) -> usize {
    let file = File::open(path).unwrap();
    let length = file.metadata().unwrap().len() as usize;
    let mut pages = vec![0; length.div_ceil(page_size() as usize)];
    // SAFETY: a mapping of the file's own, of which no byte is accessed; the array has a byte for
    // each page.
    unsafe {
        let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
        let fd = file.as_raw_fd();
        let address = libc::mmap(std::ptr::null_mut(), length, read, shared, fd, 0);
        assert_ne!(address, libc::MAP_FAILED);
        assert_eq!(libc::mincore(address, length, pages.as_mut_ptr()), 0);
        assert_eq!(libc::munmap(address, length), 0);
    }
    pages.iter().filter(|&&page| page & 1 != 0).count()
}

/// Takes a file out of the page cache.
fn cool(path: &str) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    // SAFETY: no memory is involved.
    let result = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(result, 0);
}

/// An image on disk with holes and an end inside a page, from the second page of its file on; None,
/// said, where it cannot be read past the page cache.
fn disk_image() -> Option<(TempDir, String, Vec<u8>)> {
    let directory = directory_on_disk()?;
    let bytes = image_bytes(SIZE - 1234);
    let image = image_in(directory.path(), page_size(), &bytes);
    cool(&image);
    let mut direct = fs::OpenOptions::new();
    let direct = direct.read(true).custom_flags(libc::O_DIRECT).open(&image);
    let why = if kernel() < (6, 5) {
        "cachestat(2) is of Linux 6.5"
    } else if direct.is_err() {
        "the file system does not have O_DIRECT"
    } else if file_system(directory.path()) == libc::OVERLAYFS_SUPER_MAGIC as u64 {
        "overlayfs does not tell what is in the page cache"
    } else if cached_pages(&image) > 0 {
        "the file system keeps files in the page cache"
    } else {
        return Some((directory, image, bytes));
    };
    skip(why);
    None
}

/// Where the image ends inside a page, that page is read through the page cache.
const END: usize = 4;

#[test]
fn an_image_that_is_not_in_the_page_cache_does_not_get_there() {
    let Some((_directory, image, bytes)) = disk_image() else {
        return;
    };
    let files = tempfile::tempdir().unwrap();
    let at = page_size();
    let restore = |kind: &str, options: &str| {
        let options = format!("size={SIZE},contents={image},contents-offset={at},{options}");
        cool(&image);
        assert_eq!(cached_pages(&image), 0);
        let Some(backend) = complete_on_demand(kind, &options) else {
            return;
        };
        assert_same(&backend, &bytes, &options);
        drop(backend);
        let cached = cached_pages(&image);
        assert!(cached <= END, "{kind},{options}: {cached} pages");
    };
    for (kind, options) in backings(files.path()) {
        restore(kind, &format!("{EAGER},{options}"));
    }
    if !host_has_huge_pages(SIZE) || kernel() < (6, 8) {
        return skip("small pages are read on demand through the page cache");
    }
    for how in ON_DEMAND {
        restore("ram", &format!("{how},thp=always"));
    }
}

/// So little is read by one touch of small pages that reading ahead is worth more.
#[test]
fn contents_are_equal_where_an_image_on_disk_is_read_in_small_parts() {
    let Some((_directory, image, bytes)) = disk_image() else {
        return;
    };
    let at = page_size();
    for how in ON_DEMAND {
        for (kind, options) in [("ram", "thp=never"), ("memfd", "thp=never")] {
            cool(&image);
            let options =
                format!("size={SIZE},{how},contents={image},contents-offset={at},{options}");
            let Some(backend) = complete_on_demand(kind, &options) else {
                return;
            };
            assert_same(&backend, &bytes, &options);
        }
    }
}

#[test]
fn an_image_in_the_page_cache_is_read_from_there() {
    in_child("an_image_in_the_page_cache_is_read_from_there", || {
        let Some((_directory, image, bytes)) = disk_image() else {
            return;
        };
        let options = format!(
            "size={SIZE},{EAGER},contents={image},contents-offset={}",
            page_size()
        );
        let read_from_disk = || {
            let before = io_count("read_bytes");
            assert_same(&complete("ram", &options), &bytes, &options);
            io_count("read_bytes") - before
        };
        let data = bytes.chunks(4096).filter(|page| page[0] != 0).count() as u64 * 4096;
        if read_from_disk() < data / 2 {
            return skip("the kernel does not count what is read from this file system");
        }
        fs::read(&image).unwrap();
        let read = read_from_disk();
        assert!(read < MIB, "warm: {read} bytes");
    });
}

/// What cannot be read directly is read through the page cache.
#[test]
fn contents_are_equal_where_direct_reading_is_refused() {
    in_child("contents_are_equal_where_direct_reading_is_refused", || {
        let Some((_directory, image, bytes)) = disk_image() else {
            return;
        };
        let options = format!(
            "size={SIZE},{EAGER},contents={image},contents-offset={}",
            page_size()
        );
        // The image has the next free descriptor, and for direct reading the one behind it.
        let next = File::open(&image).unwrap().as_raw_fd() as u64 + 1;
        let direct = libc::O_DIRECT as u64;
        for refusals in [
            vec![Refusal::new(libc::SYS_pread64, libc::EINVAL).only(0, next)],
            opening(libc::EINVAL, direct, direct),
            vec![Refusal::new(451, libc::EPERM)],
        ] {
            let what = format!("call {} {:?}", refusals[0].call, refusals[0].only);
            cool(&image);
            refusing(&refusals, || {
                assert_same(&complete("ram", &options), &bytes, &what);
            });
            let cached = cached_pages(&image);
            assert!(cached > END, "{what}: {cached} pages");
        }
        // Where that fails too, its error counts. A part with data begins there.
        let begin = 12 * MIB + page_size();
        let refusal = Refusal::new(libc::SYS_pread64, libc::EIO).only(3, begin);
        cool(&image);
        let failed = refusing(&[refusal], || new("ram", &options).complete());
        let error = failed.unwrap_err().error;
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
        let words = format!("{} bytes at offset {begin}", 3 * MIB);
        assert!(error.to_string().contains(&words), "{error}");
    });
}

// ---- Refusals ----

#[test]
fn what_cannot_be_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let long = image_in(directory.path(), 0, &pattern(1, MIB + 1));
    let path = |name: &str| directory.path().join(name).display().to_string();
    let old = path("old");
    fs::write(&old, vec![7; MIB as usize]).unwrap();
    let fifo = path("fifo");
    let name = std::ffi::CString::new(fifo.as_str()).unwrap();
    // SAFETY: reads the name.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let here = directory.path().display().to_string();
    let missing = path("missing");
    for (kind, options, error, words) in [
        (
            "ram",
            format!("{EAGER},contents={long}"),
            ErrorKind::Value,
            ["1048577", "1048576"],
        ),
        (
            "ram",
            format!("{EAGER},contents={long},contents-offset=2M"),
            ErrorKind::Value,
            ["contents-offset=2097152", "1048577"],
        ),
        (
            "ram",
            format!("{EAGER},contents={long},contents-offset=1000"),
            ErrorKind::Value,
            ["contents-offset=1000", "multiple"],
        ),
        (
            "ram",
            format!("{EAGER},contents-offset=4K"),
            ErrorKind::Value,
            ["contents-offset", "needs"],
        ),
        (
            "ram",
            format!("{EAGER},contents-poison=on"),
            ErrorKind::Value,
            ["contents-poison=on", "needs contents"],
        ),
        (
            "ram",
            format!("{EAGER},contents={missing}"),
            ErrorKind::Io,
            ["contents", &missing],
        ),
        (
            "ram",
            format!("{EAGER},contents={here}"),
            ErrorKind::Value,
            ["contents", "a directory"],
        ),
        (
            "ram",
            format!("{EAGER},contents={fifo}"),
            ErrorKind::Value,
            ["contents", "a FIFO"],
        ),
        (
            "ram",
            format!("{EAGER},contents=/dev/zero"),
            ErrorKind::Value,
            ["contents", "a character device"],
        ),
        (
            "file",
            format!("share=on,mem-path={missing},contents={old}"),
            ErrorKind::Unsupported,
            ["contents", "prealloc=on with prealloc-mode=wait"],
        ),
        (
            "file",
            format!("{EAGER},prealloc-mode=background,mem-path={here},contents={old}"),
            ErrorKind::Unsupported,
            ["on demand", "memory-backend-memfd"],
        ),
        (
            "file",
            format!("{EAGER},share=on,mem-path={old},contents={old}"),
            ErrorKind::Value,
            ["contents", "overwrite"],
        ),
    ] {
        let builder = new(kind, &format!("size=1M,{options}"));
        assert_refused(builder, error, &words);
    }
    assert!(fs::read(&old).unwrap() == vec![7; MIB as usize]);
    let error = common::objects()
        .parse(format!("memory-backend-fd,id=m0,size=1M,contents={old}"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownProperty);
}

// ---- Failures ----

#[test]
fn a_failing_read_undoes_everything() {
    in_child("a_failing_read_undoes_everything", || {
        let images = tempfile::tempdir().unwrap();
        let bytes = pattern(5, SIZE);
        let image = image_in(images.path(), page_size(), &bytes);
        let files = tempfile::tempdir().unwrap();
        for (kind, options) in [
            ("ram", "thp=always".to_owned()),
            ("memfd", "thp=auto".into()),
            (
                "file",
                format!("share=on,mem-path={}", files.path().join("new").display()),
            ),
        ] {
            let options = format!(
                "size={SIZE},{EAGER},prealloc-threads=1,contents={image},\
                 contents-offset={},{options}",
                page_size()
            );
            // Of 8 MiB, so the third chunk of 8 MiB or any of 2 MiB.
            let refusal =
                Refusal::new(libc::SYS_pread64, libc::EIO).only_masked(3, !(MIB - 1), 16 * MIB);
            let failed = refusing(&[refusal], || {
                let before = Belongings::now();
                let failed = new(kind, &options).complete().expect_err(kind);
                let error = &failed.error;
                assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
                let words = format!("bytes at offset {}", 16 * MIB + page_size());
                assert!(error.to_string().contains(&words), "{error}");
                assert!(error.to_string().contains(&image), "{error}");
                assert_eq!(Belongings::now(), before, "{options}");
                failed
            });
            assert!(fs::read_dir(files.path()).unwrap().next().is_none());
            // Where reading works, the same configuration does.
            let backend = failed.object.complete().unwrap();
            assert_same(&backend, &bytes, &options);
        }
    });
}

/// Whether this process has a file open.
fn has_open(path: &str) -> bool {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let mut files = descriptors.flat_map(|descriptor| fs::read_link(descriptor.path()));
    files.any(|file| file.as_os_str() == path)
}

/// A shorter image is not taken for one that ends in zeros.
#[test]
fn an_image_that_is_cut_while_it_is_read_is_an_error() {
    let images = tempfile::tempdir().unwrap();
    let bytes = pattern(9, 128 * MIB);
    for _ in 0..20 {
        let image = image_in(images.path(), 0, &bytes);
        let options = format!("size=128M,{EAGER},thp=never,prealloc-threads=1,contents={image}");
        let result = thread::scope(|scope| {
            let cutter = scope.spawn(|| {
                let begin = Instant::now();
                while !has_open(&image) && begin.elapsed() < Duration::from_secs(1) {
                    thread::yield_now();
                }
                thread::sleep(Duration::from_millis(15));
                fs::OpenOptions::new()
                    .write(true)
                    .open(&image)
                    .unwrap()
                    .set_len(MIB)
                    .unwrap();
            });
            let result = new("ram", &options).complete();
            cutter.join().unwrap();
            result
        });
        match result {
            // It was read before.
            Ok(backend) => assert_same(&backend, &bytes, &options),
            Err(failed) if failed.error.kind() == ErrorKind::Value => (),
            Err(failed) => {
                let message = failed.error.to_string();
                assert!(message.contains("became shorter"), "{message}");
                return;
            }
        }
    }
    panic!("it was never cut while it was read");
}

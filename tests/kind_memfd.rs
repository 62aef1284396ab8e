// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! memory-backend-memfd: a nameless file in memory, sealed, of small or of huge pages.

mod common;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;

use common::access::assert_refused;
use common::access::closes_on_exec;
use common::access::descriptor;
use common::access::new;
use common::access::read;
use common::access::seals;
use common::access::smaps_field;
use common::access::write;
use common::host;
use common::host::HostLock;
use common::host::HugePages;
use common::host::Setting;
use common::host::HUGE;
use common::in_child;
use common::page_size;
use common::refusing;
use common::skip;
use common::Belongings;
use common::Refusal;
use hostmem::Builder;
use hostmem::ErrorKind;

const KIND: &str = "memfd";
/// Present where the kernel can make memfds that are not executable.
const F_SEAL_EXEC: libc::c_int = 0x20;

fn memfd(options: &str) -> Builder {
    new(KIND, options)
}

/// Fails if a memfd is made.
fn no_memfd() -> Refusal {
    Refusal::new(libc::SYS_memfd_create, libc::EPERM)
}

#[test]
fn a_fresh_one_has_its_defaults() {
    let builder = memfd("");
    for (property, value) in [
        ("share", "on"),
        ("hugetlb", "off"),
        ("hugetlbsize", "0"),
        ("seal", "on"),
        ("reserve", "on"),
        ("prealloc", "off"),
        ("thp", "auto"),
    ] {
        assert_eq!(builder.get_text(property).unwrap(), value, "{property}");
    }
    for property in [
        "mem-path", "offset", "align", "readonly", "rom", "fd", "pmem",
    ] {
        let error = builder.get_text(property).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownProperty, "{property}");
    }
}

#[test]
fn the_size_is_a_multiple_of_the_page_size() {
    let page = page_size();
    for size in [page, 2 * page, (2 << 20) - page, 2 << 20, (2 << 20) + page] {
        let backend = memfd(&format!("size={size}")).complete().unwrap();
        let claim = backend.claim("test").unwrap();
        assert_eq!(claim.memory().len(), size);
        assert_eq!(claim.memory().fd_offset(), 0);
        assert_eq!(claim.memory().page_size(), page);
        let status = descriptor(&claim).metadata().unwrap();
        assert_eq!((status.len(), status.blocks()), (size, 0));
    }
    for size in [1, page - 1, page + 1, 2 * page - 1, u64::MAX] {
        let builder = memfd(&format!("size={size}"));
        let message = refusing(&[no_memfd()], || {
            assert_refused(builder, ErrorKind::Value, &[&format!("size={size}")])
        });
        assert!(message.contains(&page.to_string()), "{message}");
    }
    // The largest that no arithmetic wraps is refused by the kernel or by us, in words.
    for size in [i64::MAX as u64 & !(page - 1), !(page - 1)] {
        let failed = memfd(&format!("size={size}")).complete().unwrap_err();
        common::access::assert_names_errno(&failed.error);
        assert!(failed.to_string().contains(&size.to_string()), "{failed}");
    }
}

/// A peer that has the descriptor can neither resize it nor add seals; with seal=off only the
/// latter.
#[test]
fn it_is_sealed_as_asked() {
    let all = libc::F_SEAL_SEAL | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK;
    for share in ["on", "off"] {
        for (seal, expected) in [("on", all), ("off", libc::F_SEAL_SEAL)] {
            let options = format!("size=64K,share={share},seal={seal}");
            let backend = memfd(&options).complete().unwrap();
            let claim = backend.claim("test").unwrap();
            let file = descriptor(&claim);
            assert_eq!(seals(&file) & !F_SEAL_EXEC, expected, "{options}");
            for length in [0, 60 << 10, 68 << 10] {
                let resized = file.set_len(length).is_ok();
                assert_eq!(resized, seal == "off", "{options}: {length}");
            }
            for more in [libc::F_SEAL_WRITE, libc::F_SEAL_GROW] {
                // SAFETY: takes numbers.
                let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, more) };
                let error = std::io::Error::last_os_error().raw_os_error();
                assert_eq!((result, error), (-1, Some(libc::EPERM)), "{options}");
            }
        }
    }
}

#[test]
fn the_descriptor_is_named_and_closes_on_exec() {
    let long = "a".repeat(128);
    for id in ["m0", &long] {
        let options = format!("memory-backend-memfd,id={id},size=64K");
        let backend = common::objects()
            .parse(options)
            .unwrap()
            .complete()
            .unwrap();
        let claim = backend.claim("test").unwrap();
        assert!(closes_on_exec(&claim));
        let fd = claim.memory().fd().unwrap().as_raw_fd();
        let link = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        let link = link.to_str().unwrap().to_owned();
        assert!(link.starts_with(&format!("/memfd:{id}")), "{link}");
        // The kernel gives the mapping the same name.
        let header = common::smaps(claim.memory().as_ptr() as u64, 1).remove(0).0;
        assert!(header.contains(&format!("/memfd:{id}")), "{header}");
    }
}

#[test]
fn without_a_memfd_there_is_no_memory() {
    for share in ["on", "off"] {
        let builder = memfd(&format!("size=64K,share={share}"));
        let failed = refusing(&[no_memfd()], || builder.complete().unwrap_err());
        assert_eq!(failed.error.raw_os_error(), Some(libc::EPERM), "{failed}");
        assert!(failed
            .to_string()
            .contains("cannot create a memfd of 65536 bytes"));
        failed.object.complete().unwrap();
    }
}

#[test]
fn writes_reach_the_descriptor_where_it_is_shared_only() {
    for (share, expected) in [("on", 7), ("off", 0)] {
        let backend = memfd(&format!("size=64K,share={share}"))
            .complete()
            .unwrap();
        let claim = backend.claim("test").unwrap();
        assert_eq!(claim.memory().is_shared(), share == "on");
        assert!(!claim.memory().is_readonly());
        write(&claim, 4096, 7);
        let mut byte = [1];
        descriptor(&claim).read_exact_at(&mut byte, 4096).unwrap();
        assert_eq!(byte, [expected], "share={share}");
        assert_eq!(read(&claim, 4096), 7);
    }
}

#[test]
fn a_kernel_without_noexec_memfds_gives_an_ordinary_one() {
    let refusal = Refusal::new(libc::SYS_memfd_create, libc::EINVAL).only_masked(1, 8, 8);
    let builder = memfd("size=64K");
    let backend = refusing(&[refusal], || builder.complete().unwrap());
    let claim = backend.claim("test").unwrap();
    let expected = libc::F_SEAL_SEAL | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK;
    assert_eq!(seals(&descriptor(&claim)), expected);
}

/// Growing past the limit would kill the process (SIGXFSZ).
#[test]
fn the_limit_of_file_sizes_is_an_error() {
    in_child("the_limit_of_file_sizes_is_an_error", || {
        if !host::has_no_hard_limit(libc::RLIMIT_FSIZE) {
            return skip("the limit cannot be raised again");
        }
        for (limit, fits) in [((64 << 10) - 1, false), (64 << 10, true), (65 << 10, true)] {
            let builder = memfd("size=64K");
            let before = Belongings::now();
            host::limit(libc::RLIMIT_FSIZE, limit);
            let result = builder.complete();
            host::limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
            match result {
                Ok(_) => assert!(fits, "{limit}"),
                Err(failed) => {
                    assert!(!fits, "{limit}: {failed}");
                    assert!(failed.to_string().contains("RLIMIT_FSIZE"), "{failed}");
                    assert!(failed.to_string().contains(&limit.to_string()), "{failed}");
                    assert_eq!(Belongings::now(), before);
                    assert!(failed.object.complete().is_ok());
                }
            }
        }
    });
}

#[test]
fn the_size_of_huge_pages_needs_huge_pages() {
    assert_refused(
        memfd("size=2M,hugetlbsize=2M"),
        ErrorKind::Value,
        &["hugetlbsize=2097152", "hugetlb=on"],
    );
    assert_refused(
        memfd("size=2M,hugetlb=off,hugetlbsize=2M"),
        ErrorKind::Value,
        &["hugetlb=on"],
    );
    // 0 is no size.
    assert!(memfd("size=2M,hugetlbsize=0").complete().is_ok());
}

/// The sizes of this host's huge pages, in bytes.
fn host_sizes() -> Vec<u64> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else {
        return Vec::new();
    };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut sizes: Vec<_> = names
        .map(|name| {
            let kib = name.trim_start_matches("hugepages-").trim_end_matches("kB");
            kib.parse::<u64>().unwrap() * 1024
        })
        .collect();
    sizes.sort();
    sizes
}

#[test]
fn a_size_that_the_host_lacks_lists_those_it_has() {
    let sizes = host_sizes();
    let page = page_size();
    let huge = sizes.first().copied().unwrap_or(2 << 20);
    for size in [
        1,
        page,
        huge - 1,
        huge + 1,
        3 * huge,
        huge / 2,
        1 << 63,
        u64::MAX,
    ] {
        if sizes.contains(&size) {
            continue;
        }
        let builder = memfd(&format!("size=8G,hugetlb=on,hugetlbsize={size}"));
        let message = refusing(&[no_memfd()], || {
            assert_refused(builder, ErrorKind::Value, &[&format!("hugetlbsize={size}")])
        });
        for size in &sizes {
            let words = if *size >= 1 << 30 {
                format!("{}G", size >> 30)
            } else if *size >= 1 << 20 {
                format!("{}M", size >> 20)
            } else {
                format!("{}K", size >> 10)
            };
            assert!(message.contains(&words), "{message}");
        }
        assert!(!sizes.is_empty() || message.contains("none"), "{message}");
    }
}

#[test]
fn the_size_is_a_multiple_of_the_huge_page_size() {
    let Some(_pool) = HugePages::have(2) else {
        return;
    };
    for size in [page_size(), HUGE - page_size(), HUGE + page_size()] {
        let builder = memfd(&format!("size={size},hugetlb=on,hugetlbsize=2M"));
        refusing(&[no_memfd()], || {
            assert_refused(builder, ErrorKind::Value, &[&size.to_string(), "2097152"])
        });
    }
}

#[test]
fn huge_pages_are_huge() {
    let Some(_pool) = HugePages::have(4) else {
        return;
    };
    for share in ["on", "off"] {
        let options = format!("size=8M,hugetlb=on,hugetlbsize=2M,prealloc=on,share={share}");
        let backend = memfd(&options).complete().unwrap();
        assert_eq!(HugePages::free(), 0, "{options}");
        let placement = backend.placement().unwrap();
        assert_eq!((placement.resident, placement.huge), (8 << 20, 8 << 20));
        let claim = backend.claim("test").unwrap();
        assert_eq!(claim.memory().page_size(), HUGE);
        assert_eq!(claim.memory().as_ptr() as u64 % HUGE, 0);
        assert_eq!(smaps_field(&claim, "KernelPageSize"), HUGE, "{options}");
        let expected = libc::F_SEAL_SEAL | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK;
        assert_eq!(seals(&descriptor(&claim)) & !F_SEAL_EXEC, expected);
        assert!(closes_on_exec(&claim));
        drop((claim, backend));
        assert_eq!(HugePages::available(), 4, "{options}");
    }
}

#[test]
fn without_a_size_huge_pages_are_the_hosts_default() {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    if !meminfo.contains("Hugepagesize:       2048 kB") {
        return skip("the default is not 2 MiB");
    }
    let Some(_pool) = HugePages::have(1) else {
        return;
    };
    let backend = memfd("size=2M,hugetlb=on").complete().unwrap();
    assert_eq!(backend.claim("test").unwrap().memory().page_size(), HUGE);
    // What was asked for is what is read.
    assert_eq!(backend.get_text("hugetlbsize").unwrap(), "0");
}

/// Without a page the guest's touch would be SIGBUS, so it is refused before anything is made.
#[test]
fn a_pool_that_is_short_by_one_page_is_an_error() {
    const PAGES: u64 = 3;
    let Some(_pool) = HugePages::have(PAGES) else {
        return;
    };
    for share in ["on", "off"] {
        for prealloc in ["on", "off"] {
            let rest = format!("hugetlb=on,hugetlbsize=2M,share={share},prealloc={prealloc}");
            for pages in [PAGES - 1, PAGES] {
                let builder = memfd(&format!("size={},{rest}", pages * HUGE));
                let backend = builder.complete().unwrap();
                assert_eq!(HugePages::available(), PAGES - pages, "{rest}");
                drop(backend);
                assert_eq!(HugePages::available(), PAGES, "{rest}");
            }
            let builder = memfd(&format!("size={},{rest}", (PAGES + 1) * HUGE));
            let failed = refusing(&[no_memfd()], || builder.complete().unwrap_err());
            let message = failed.to_string();
            assert_eq!(failed.error.kind(), ErrorKind::NoMemory, "{message}");
            for words in ["4 huge pages of 2048 KiB", "3 of them free", "nr_hugepages"] {
                assert!(message.contains(words), "{message}");
            }
            assert_eq!(HugePages::available(), PAGES, "{rest}");
            let backend = failed.object.size(PAGES * HUGE).complete().unwrap();
            drop(backend);
        }
    }
}

#[test]
fn without_reserve_the_pool_may_be_short() {
    let Some(_pool) = HugePages::have(1) else {
        return;
    };
    for share in ["on", "off"] {
        let options = format!("size=64M,hugetlb=on,hugetlbsize=2M,reserve=off,share={share}");
        let backend = memfd(&options).complete().unwrap();
        assert_eq!(HugePages::available(), 1, "nothing is promised");
        let claim = backend.claim("test").unwrap();
        write(&claim, 5 * HUGE, 9);
        assert_eq!(read(&claim, 5 * HUGE), 9);
        assert_eq!(HugePages::available(), 0);
        // There is no second page.
        let error = claim.populate(0, HUGE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoMemory, "{error}");
        assert!(error.to_string().contains("0 of"), "{error}");
        drop((claim, backend));
        assert_eq!(HugePages::available(), 1);
    }
}

/// Nothing is reserved, so that no shortage is met before it is mapped.
#[test]
fn huge_pages_that_cannot_be_mapped_are_refused() {
    let flags = libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
    // SAFETY: reads the name.
    let fd = unsafe { libc::memfd_create(c"probe".as_ptr(), flags) };
    if fd < 0 {
        return skip("the host has no huge pages of 2 MiB");
    }
    // SAFETY: opened above.
    unsafe { libc::close(fd) };
    let huge = "size=2M,hugetlb=on,hugetlbsize=2M,reserve=off";
    let fill = [Refusal::new(libc::SYS_mmap, libc::ENOMEM).only(1, HUGE)];
    let failed = refusing(&fill, || memfd(huge).complete().unwrap_err());
    assert_eq!(failed.error.kind(), ErrorKind::NoMemory, "{failed}");
    assert!(
        failed.to_string().contains("raise nr_hugepages"),
        "{failed}"
    );
}

/// The pool has all that is wanted, so it is not what to look at.
#[test]
fn address_space_that_is_short_is_not_the_pools_fault() {
    let Some(_pool) = HugePages::have(1) else {
        return;
    };
    let builder = memfd("size=2M,hugetlb=on,hugetlbsize=2M");
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let refusal = [Refusal::new(libc::SYS_mmap, libc::ENOMEM).only(3, flags as u64)];
    let failed = refusing(&refusal, || builder.complete().unwrap_err());
    let message = failed.to_string();
    assert_eq!(failed.error.kind(), ErrorKind::NoMemory, "{message}");
    assert!(message.contains("RLIMIT_AS"), "{message}");
}

/// What others were promised is not to be had, though it is free.
#[test]
fn a_pool_that_is_promised_to_others_is_short() {
    let Some(_pool) = HugePages::have(4) else {
        return;
    };
    let options = "size=6M,hugetlb=on,hugetlbsize=2M";
    let first = memfd(options).complete().unwrap();
    assert_eq!((HugePages::free(), HugePages::available()), (4, 1));
    let message = assert_refused(memfd(options), ErrorKind::NoMemory, &["promised to others"]);
    assert!(message.contains("3 are promised"), "{message}");
    drop(first);
    assert!(memfd(options).complete().is_ok());
}

#[test]
fn a_pool_of_another_size_is_no_help() {
    let Some(_pool) = HugePages::have(4) else {
        return;
    };
    let free = "/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages";
    match fs::read_to_string(free) {
        Ok(text) if text.trim() == "0" => {}
        _ => return skip("this host has 1 GiB pages, or cannot have any"),
    }
    assert_refused(
        memfd("size=1G,hugetlb=on,hugetlbsize=1G"),
        ErrorKind::NoMemory,
        &["1 huge pages of 1048576 KiB", "hugepages-1048576kB"],
    );
}

#[test]
fn it_is_aligned_so_that_huge_pages_fit() {
    let Some(huge) = common::thp_size() else {
        return;
    };
    // One after the other at addresses that the kernel chooses from below.
    let backends: Vec<_> = (0..8)
        .map(|i| {
            let size = huge + i * page_size();
            memfd(&format!("size={size}")).complete().unwrap()
        })
        .collect();
    for backend in &backends {
        let claim = backend.claim("test").unwrap();
        assert_eq!(claim.memory().as_ptr() as u64 % huge, 0);
    }
}

#[test]
fn advised_shared_memory_is_made_of_huge_pages() {
    let _lock = HostLock::take();
    let path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let Some(_setting) = Setting::set(path, "advise") else {
        return skip("no transparent huge pages in shared memory");
    };
    let Some(huge) = common::thp_size() else {
        return;
    };
    for size in [4 * huge, 4 * huge + (1 << 20)] {
        let options = format!("size={size},prealloc=on");
        let backend = memfd(&options).complete().unwrap();
        let claim = backend.claim("test").unwrap();
        let most = 4 * huge;
        assert_eq!(smaps_field(&claim, "ShmemPmdMapped"), most, "{options}");
        assert_eq!(backend.placement().unwrap().huge, most, "{options}");
    }
    let backend = memfd("size=8M,prealloc=on,thp=never").complete().unwrap();
    assert_eq!(backend.placement().unwrap().huge, 0);
    let backend = memfd("size=1M,prealloc=on").complete().unwrap();
    assert_eq!(backend.placement().unwrap().huge, 0);
    assert_eq!(backend.placement().unwrap().resident, 1 << 20);
}

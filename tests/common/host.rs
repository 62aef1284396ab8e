// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Changing the host for as long as a test runs: pools of huge pages, kernel settings, limits,
//! mounts, credentials.

use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::ptr;

use super::skip;

/// The huge pages that the tests use.
pub const HUGE: u64 = 2 << 20;
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Held by the one test that changes the host, whatever process it is in.
pub struct HostLock {
    _file: File,
}

impl HostLock {
    pub fn take() -> Self {
        let file = File::open("/sys/kernel/mm").unwrap();
        // SAFETY: takes the number of a descriptor that is open.
        assert_eq!(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) }, 0);
        Self { _file: file }
    }
}

/// A file of the kernel's that has another value until it is dropped.
pub struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    /// None, with the reason told, where this process may not.
    pub fn set(path: impl AsRef<Path>, value: &str) -> Option<Self> {
        let path = path.as_ref().to_owned();
        let before = fs::read_to_string(&path).ok()?;
        // Of a choice the present one is in brackets.
        let before = match before.split_once('[') {
            Some((_, rest)) => rest.split(']').next().unwrap(),
            None => before.trim(),
        };
        let before = before.to_owned();
        if let Err(error) = fs::write(&path, value) {
            skip(&format!("{}: {error}", path.display()));
            return None;
        }
        Some(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        fs::write(&self.path, &self.before).unwrap();
    }
}

/// A pool of 2 MiB pages with as many that can be had, until it is dropped.
pub struct HugePages {
    _pool: Setting,
    _overcommit: Setting,
    _lock: HostLock,
}

impl HugePages {
    fn number(file: &str) -> u64 {
        let text = fs::read_to_string(format!("{POOL}/{file}")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Pages in the pool that nobody has touched.
    pub fn free() -> u64 {
        Self::number("free_hugepages")
    }

    /// Pages that are neither in use nor promised.
    pub fn available() -> u64 {
        Self::free() - Self::number("resv_hugepages")
    }

    /// None, with the reason told, where this host cannot.
    pub fn have(pages: u64) -> Option<Self> {
        let lock = HostLock::take();
        let overcommit = Setting::set(format!("{POOL}/nr_overcommit_hugepages"), "0")?;
        let used = Self::number("nr_hugepages") - Self::available();
        let pool = Setting::set(format!("{POOL}/nr_hugepages"), &(used + pages).to_string())?;
        if Self::available() != pages {
            skip("the host does not give the huge pages");
            return None;
        }
        Some(Self {
            _pool: pool,
            _overcommit: overcommit,
            _lock: lock,
        })
    }
}

/// Sets the soft limit of a resource, for the whole process.
pub fn limit(resource: libc::__rlimit_resource_t, bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: reads the struct given.
    assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
}

/// Whether a limit may be raised again, to as much as there is.
pub fn has_no_hard_limit(resource: libc::__rlimit_resource_t) -> bool {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: fills the struct given.
    assert_eq!(unsafe { libc::getrlimit(resource, &mut limit) }, 0);
    limit.rlim_max == libc::RLIM_INFINITY
}

pub fn is_root() -> bool {
    // SAFETY: takes and touches nothing.
    unsafe { libc::geteuid() == 0 }
}

/// Mounts a file system that only the calling thread, and what that creates, sees. For children:
/// the thread keeps a world of its own. False, with the reason told, where this process may not.
pub fn mount(kind: &str, at: &Path, options: &str) -> bool {
    let kind = CString::new(kind).unwrap();
    let options = CString::new(options).unwrap();
    let at = CString::new(at.as_os_str().as_bytes()).unwrap();
    // SAFETY: takes flags; the texts live across the calls that read them.
    let mounted = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(
                ptr::null(),
                c"/".as_ptr(),
                ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                ptr::null(),
            ) == 0
            && libc::mount(
                kind.as_ptr(),
                at.as_ptr(),
                kind.as_ptr(),
                0,
                options.as_ptr().cast(),
            ) == 0
    };
    if !mounted {
        skip(&format!("mounting: {}", std::io::Error::last_os_error()));
    }
    mounted
}

/// Makes the process one of a user without any rights, for good. For children, as root.
pub fn become_nobody() {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: takes numbers, and an empty list of groups.
    let result = unsafe {
        libc::setgroups(0, ptr::null())
            | libc::setresgid(NOBODY, NOBODY, NOBODY)
            | libc::setresuid(NOBODY, NOBODY, NOBODY)
    };
    assert_eq!(result, 0);
}

pub fn give_to_nobody(path: &Path) {
    std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
}

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

pub fn pool_file(name: &str) -> PathBuf {
    Path::new(POOL).join(name)
}

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

    /// None while another test holds it.
    pub fn try_take() -> Option<Self> {
        let file = File::open("/sys/kernel/mm").unwrap();
        // SAFETY: takes the number of a descriptor that is open.
        let taken = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0;
        taken.then_some(Self { _file: file })
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
    /// Pages that others used when it was made.
    used: u64,
    _pool: Setting,
    _overcommit: Setting,
    _lock: HostLock,
}

impl HugePages {
    fn number(file: &str) -> u64 {
        let text = fs::read_to_string(pool_file(file)).unwrap_or_default();
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

    /// Lets the kernel add pages when the pool is short.
    pub fn allow_surplus(&self, pages: u64) {
        fs::write(pool_file("nr_overcommit_hugepages"), pages.to_string()).unwrap();
    }

    /// Changes how many can be had at most.
    pub fn resize(&self, pages: u64) {
        fs::write(pool_file("nr_hugepages"), (self.used + pages).to_string()).unwrap();
    }

    /// None, with the reason told, where this host cannot.
    pub fn have(pages: u64) -> Option<Self> {
        Self::have_locked(HostLock::take(), pages)
    }

    pub fn have_locked(lock: HostLock, pages: u64) -> Option<Self> {
        let overcommit = Setting::set(pool_file("nr_overcommit_hugepages"), "0")?;
        let used = Self::number("nr_hugepages") - Self::available();
        let pool = Setting::set(pool_file("nr_hugepages"), &(used + pages).to_string())?;
        if Self::available() != pages {
            skip("the host does not give the huge pages");
            return None;
        }
        Some(Self {
            used,
            _pool: pool,
            _overcommit: overcommit,
            _lock: lock,
        })
    }
}

/// Where a file system of control groups is mounted; an empty controller is the unified one.
fn groups(controller: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").ok()?;
    let found = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1)?);
        let is_it = match controller {
            "" => name == "cgroup2",
            _ => name == "cgroup" && options.split(',').any(|option| option == controller),
        };
        is_it.then(|| place.split(' ').nth(4).unwrap().into())
    });
    found
}

/// The path of this process's own group, from the root of its file system on.
fn own_group(controller: &str) -> Option<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let mut controllers = fields.next()?.split(',');
        controllers
            .any(|it| it == controller)
            .then(|| fields.next())?
    });
    own.map(str::to_owned)
}

/// A control group that this process is in until it is dropped, which removes it.
pub struct Group {
    pub path: PathBuf,
    home: PathBuf,
    /// Of a controller that was switched on for it.
    enabled: Option<(PathBuf, String)>,
}

/// Of a control group, with the number of its process.
const GROUP_NAME: &str = "hostmem test";

impl Group {
    /// None, with the reason told, where this process may not have one of that controller.
    pub fn enter(controller: &str) -> Option<Self> {
        let group = Self::make(controller);
        if group.is_none() {
            skip(&format!(
                "no control group of {controller} can be made here"
            ));
        }
        group
    }

    fn make(controller: &str) -> Option<Self> {
        let (root, own, unified) = match groups(controller) {
            Some(root) => (root, own_group(controller)?, false),
            None => (groups("")?, own_group("")?, true),
        };
        let home = PathBuf::from(format!("{}{own}", root.display()));
        let path = root.join(format!("{GROUP_NAME} {}", std::process::id()));
        let mut enabled = None;
        if unified {
            let has = |file: &str| {
                let words = fs::read_to_string(root.join(file)).ok()?;
                let mut words = words.split_whitespace();
                Some(words.any(|word| word == controller))
            };
            if !has("cgroup.controllers")? {
                return None;
            }
            let control = root.join("cgroup.subtree_control");
            if !has("cgroup.subtree_control")? {
                fs::write(&control, format!("+{controller}")).ok()?;
                enabled = Some((control, format!("-{controller}")));
            }
        }
        fs::create_dir(&path).ok()?;
        let group = Self {
            path,
            home,
            enabled,
        };
        group.move_process(&group.path).ok()?;
        Some(group)
    }

    fn has_neighbours(&self) -> bool {
        let entries = fs::read_dir(self.path.parent().unwrap()).unwrap();
        entries.flatten().any(|entry| {
            entry
                .file_name()
                .as_bytes()
                .starts_with(GROUP_NAME.as_bytes())
        })
    }

    fn move_process(&self, to: &Path) -> std::io::Result<()> {
        fs::write(to.join("cgroup.procs"), std::process::id().to_string())
    }

    /// The first of the files that this version has.
    pub fn file(&self, names: &[String]) -> PathBuf {
        let mut files = names.iter().map(|name| self.path.join(name));
        files.find(|file| file.exists()).unwrap()
    }

    /// Limits all that the group has of small pages.
    pub fn limit_memory(&self, bytes: u64) {
        let names = ["memory.limit_in_bytes", "memory.max"].map(str::to_owned);
        let file = self.file(&names);
        // Dirty pages of files are EBUSY until they are written back.
        for _ in 0..100 {
            match fs::write(&file, bytes.to_string()) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
                result => return result.unwrap(),
            }
        }
        panic!("the group still has more than {bytes} bytes");
    }
}

/// A group inside a group, as a container has: the calling thread sees it as the whole tree.
pub struct Container<'group> {
    group: &'group Group,
    path: PathBuf,
}

impl<'group> Container<'group> {
    /// None, with the reason told, where this process may not.
    pub fn enter(group: &'group Group) -> Option<Self> {
        let path = group.path.join("inside");
        fs::create_dir(&path).unwrap();
        let container = Self { group, path };
        group.move_process(&container.path).unwrap();
        let root = group.path.parent().unwrap();
        bind(&container.path, root).then_some(container)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let root = self.group.path.parent().unwrap();
        let at = CString::new(root.as_os_str().as_bytes()).unwrap();
        // SAFETY: reads the text.
        unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
        self.group.move_process(&self.group.path).unwrap();
        fs::remove_dir(&self.path).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.move_process(&self.home).unwrap();
        // A process that has just ended may be in it for a moment.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        // Without the controller the groups of other tests would lose their limits.
        if let Some((file, word)) = self.enabled.as_ref().filter(|_| !self.has_neighbours()) {
            let _ = fs::write(file, word);
        }
    }
}

/// The type of `RLIMIT_*`.
#[cfg(not(target_env = "musl"))]
pub type Resource = libc::__rlimit_resource_t;
#[cfg(target_env = "musl")]
pub type Resource = libc::c_int;

/// Sets the soft limit of a resource, for the whole process.
pub fn limit(resource: Resource, bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: reads the struct given.
    assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
}

/// Whether a limit may be raised again, to as much as there is.
pub fn has_no_hard_limit(resource: Resource) -> bool {
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
    mount_privately(Path::new(kind), kind, at, 0, options)
}

/// The same of a directory, in the place of another.
pub fn bind(directory: &Path, at: &Path) -> bool {
    mount_privately(directory, "", at, libc::MS_BIND, "")
}

fn mount_privately(
    source: &Path,
    kind: &str,
    at: &Path,
    flags: libc::c_ulong,
    options: &str,
) -> bool {
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap();
    let (source, at) = (path(source), path(at));
    let kind = CString::new(kind).unwrap();
    let options = CString::new(options).unwrap();
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
                source.as_ptr(),
                at.as_ptr(),
                kind.as_ptr(),
                flags,
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

/// Runs the body on a thread that sees an empty directory in the place of each of these, as in a
/// jail. False, with the reason told, where this process may not.
pub fn hiding(places: &[&str], body: impl FnOnce() + Send) -> bool {
    std::thread::scope(|scope| {
        let hidden = scope.spawn(|| {
            let hidden = places
                .iter()
                .all(|place| mount("tmpfs", Path::new(place), ""));
            if hidden {
                body();
            }
            hidden
        });
        hidden.join().unwrap()
    })
}

/// A file of the host's that its memory may go to.
pub struct Swap<'a> {
    path: &'a Path,
}

impl<'a> Swap<'a> {
    pub fn start(path: &'a Path, size: u64) -> Option<Self> {
        fs::write(path, vec![0; size as usize]).unwrap();
        let run = |program: &str| {
            let output = std::process::Command::new(program).arg(path).output();
            output.is_ok_and(|output| output.status.success())
        };
        if !run("mkswap") || !run("swapon") {
            skip("no swap can be added here");
            return None;
        }
        Some(Self { path })
    }
}

impl Drop for Swap<'_> {
    fn drop(&mut self) {
        let path = CString::new(self.path.as_os_str().as_bytes()).unwrap();
        // SAFETY: reads the text.
        assert_eq!(unsafe { libc::swapoff(path.as_ptr()) }, 0);
    }
}

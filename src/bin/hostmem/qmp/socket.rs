// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Creates the socket's file and removes it at the end.

use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl;
use nix::fcntl::Flock;
use nix::fcntl::FlockArg;
use nix::fcntl::OFlag;
use nix::sys::socket;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::Backlog;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::UnixAddr;
use nix::sys::stat;
use nix::sys::stat::Mode;

use crate::Result;

/// How long another program may hold the directory.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a server listens.
#[derive(clap::Args)]
pub(crate) struct SocketArguments {
    /// Listen on this unix socket
    #[arg(long = "socket", id = "socket", value_name = "PATH")]
    path: Option<PathBuf>,
    /// Who may connect: the mode of the socket's file, in octal, whatever the umask is
    #[arg(
        long = "socket-mode",
        value_name = "MODE",
        default_value = "600",
        requires = "socket",
        value_parser = parse_mode
    )]
    mode: u32,
}

fn parse_mode(text: &str) -> std::result::Result<u32, &'static str> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("expected an octal number up to 777, such as 660"),
    }
}

impl SocketArguments {
    /// See [`listen`]; None without a path.
    pub(crate) fn listen(&self) -> Result<Option<(UnixListener, SocketFile)>> {
        let listen = |path: &PathBuf| listen(path, self.mode);
        self.path.as_ref().map(listen).transpose()
    }
}

/// A socket's name in the file system. Dropping it removes the file, if it is still this socket's.
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

/// Listens on a path. Its file gets the mode whatever the umask is. Replaces the socket of a killed
/// server of the same user, and no other file. Of servers that start at the same time on one path
/// one listens, the others fail.
fn listen(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile)> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    SocketAddr::from_pathname(path).map_err(failed)?;
    // Until it listens, others cannot tell the socket from one that was left behind.
    let _lock = lock_directory_of(path).map_err(failed)?;
    match bind(path, mode) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            check_left_over(path)?;
            fs::remove_file(path).map_err(failed)?;
            Ok(bind(path, mode).map_err(failed)?)
        }
        bound => Ok(bound.map_err(failed)?),
    }
}

/// Locks the directory: a lock file would stay when a server is killed.
fn lock_directory_of(path: &Path) -> io::Result<Flock<File>> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let start = Instant::now();
    let mut file = File::open(directory)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, Errno::EWOULDBLOCK | Errno::EINTR)) if start.elapsed() < PATIENCE => {
                file = same;
                thread::sleep(Duration::from_millis(2));
            }
            Err((_, errno)) => {
                let directory = directory.display();
                let message = format!("the directory {directory} cannot be locked: {errno}");
                return Err(io::Error::other(message));
            }
        }
    }
}

fn bind(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    let socket = socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // The file gets the socket's mode without what the umask takes away, and so is at no moment
    // open to more users than it shall be. The umask itself is the whole process's.
    stat::fchmod(&socket, Mode::from_bits_truncate(mode))?;
    socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let file = SocketFile::new(path, mode)?;
    socket::listen(&socket, Backlog::MAXCONN)?;
    Ok((UnixListener::from(socket), file))
}

fn check_left_over(path: &Path) -> Result<()> {
    let found = fs::symlink_metadata(path)?;
    let path_text = path.display();
    if !found.file_type().is_socket() {
        return Err(
            format!("{path_text}: a file that is no socket has this path; use another").into(),
        );
    }
    if found.uid() != fs::metadata("/proc/self")?.uid() {
        return Err(
            format!("{path_text}: a socket of another user has this path; use another").into(),
        );
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(stream) => {
            let name = name_peer(&stream);
            Err(format!("{path_text}: {name} listens there; use another path").into())
        }
        Err(error) => Err(format!("{path_text}: {error}").into()),
    }
}

fn name_peer(stream: &UnixStream) -> String {
    let pid = socket::getsockopt(stream, PeerCredentials).map_or(0, |peer| peer.pid());
    // 0 where it is in another pid namespace.
    if pid == 0 {
        return "another program".into();
    }
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim_end()),
        Err(_) => format!("process {pid}"),
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl SocketFile {
    /// Gives the file of a socket what the umask took away from its mode.
    fn new(path: &Path, mode: u32) -> io::Result<Self> {
        // Not with std's options, which leave O_PATH out where musl counts it to the access mode.
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = File::from(fcntl::open(path, flags, Mode::empty())?);
        let metadata = file.metadata()?;
        let made = Self {
            path: path.to_owned(),
            identity: identity(&metadata),
        };
        if metadata.permissions().mode() & 0o777 != mode {
            // By the descriptor, since something else may have the name by now.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        Ok(made)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A server that starts now may be about to take the path.
        let _lock = lock_directory_of(&self.path);
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity) {
            // A failure cannot be reported any more.
            let _ = fs::remove_file(&self.path);
        }
    }
}

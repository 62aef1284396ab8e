// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The socket's file: made where nothing is in the way, removed at the end.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;

use crate::Result;

/// A socket's name in the file system. Dropping it removes the file, if it is still this socket's.
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

/// Listens on a path. What a server of the same user has left there when it was killed is
/// replaced; anything else that is there is left alone.
pub(crate) fn listen(path: &Path) -> Result<(UnixListener, SocketFile)> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            check_left_over(path)?;
            fs::remove_file(path).map_err(failed)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
    .map_err(failed)?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(path).map_err(failed)?,
    };
    Ok((listener, file))
}

fn check_left_over(path: &Path) -> Result<()> {
    let found = fs::symlink_metadata(path)?;
    let path_text = path.display();
    if !found.file_type().is_socket() {
        return Err(
            format!("{path_text}: there is something that is no socket; name another").into(),
        );
    }
    if found.uid() != fs::metadata("/proc/self")?.uid() {
        return Err(format!("{path_text}: there is a socket of another user; name another").into());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(_) => Err(format!("{path_text}: another program listens there; name another").into()),
        Err(error) => Err(format!("{path_text}: {error}").into()),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // Nobody is left to be told.
            let _ = fs::remove_file(&self.path);
        }
    }
}

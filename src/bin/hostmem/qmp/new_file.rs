// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A file that is there when it is whole, or not at all.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::fcntl::OFlag;
use nix::fcntl::AT_FDCWD;
use nix::unistd::linkat;

/// A file that goes when it is dropped, unless it is kept. What has the path already stays.
pub(crate) struct NewFile {
    file: File,
    path: PathBuf,
    /// It has no name yet, so that a program that is killed leaves nothing. Not every file system
    /// can do that.
    is_nameless: bool,
    is_kept: bool,
}

impl NewFile {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(Errno::EEXIST.into());
        }
        let nameless = create_nameless(path).ok();
        Ok(Self {
            is_nameless: nameless.is_some(),
            file: match nameless {
                Some(file) => file,
                None => for_the_owner().create_new(true).open(path)?,
            },
            path: path.to_owned(),
            is_kept: false,
        })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn keep(mut self) -> io::Result<()> {
        if self.is_nameless {
            let file = link_of(&self.file);
            linkat(
                AT_FDCWD,
                &file,
                AT_FDCWD,
                &self.path,
                AtFlags::AT_SYMLINK_FOLLOW,
            )?;
        }
        self.is_kept = true;
        Ok(())
    }

    /// Not what somebody else has put in its place.
    fn remove(&self) -> io::Result<()> {
        let (own, there) = (self.file.metadata()?, fs::symlink_metadata(&self.path)?);
        if (own.dev(), own.ino()) == (there.dev(), there.ino()) {
            fs::remove_file(&self.path)?;
        }
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_nameless && !self.is_kept {
            // A failure is the second one, and cannot be reported.
            let _ = self.remove();
        }
    }
}

fn for_the_owner() -> OpenOptions {
    let mut options = File::options();
    options.write(true).mode(0o600);
    options
}

/// Fails where it could not get its name.
fn create_nameless(path: &Path) -> io::Result<File> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let file = for_the_owner()
        .custom_flags(OFlag::O_TMPFILE.bits())
        .open(directory)?;
    fs::symlink_metadata(link_of(&file))?;
    Ok(file)
}

fn link_of(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As on a file system without O_TMPFILE.
    fn create_with_a_name(path: &Path) -> NewFile {
        NewFile {
            file: for_the_owner().create_new(true).open(path).unwrap(),
            path: path.to_owned(),
            is_nameless: false,
            is_kept: false,
        }
    }

    #[test]
    fn only_the_file_that_was_made_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        drop(create_with_a_name(&path));
        assert!(!path.exists());
        let file = create_with_a_name(&path);
        fs::rename(&path, directory.path().join("moved")).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"another's");
    }
}

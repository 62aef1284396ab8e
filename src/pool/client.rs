// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Takes memory from the pool of another process, `hostmem pool`, over its socket.

#![allow(unsafe_code)]

use std::io;
use std::io::IoSliceMut;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::recvmsg;
use nix::sys::socket::ControlMessageOwned;
use nix::sys::socket::MsgFlags;
use serde_json::json;
use serde_json::Value as Json;

use crate::Builder;
use crate::Error;
use crate::ErrorKind;
use crate::Objects;
use crate::Result;

/// What a pool answers at most, in bytes.
const LIMIT: usize = 1 << 20;
/// Descriptors of one message; a pool sends one.
const MOST_DESCRIPTORS: usize = 4;

/// Memory that a pool of another process has handed over. This process is its only owner: it is
/// freed when the descriptor and its duplicates are closed, and never goes back to the pool.
#[derive(Debug)]
#[non_exhaustive]
pub struct Received {
    /// The descriptor of the memory, close-on-exec.
    pub fd: OwnedFd,
    /// Bytes.
    pub size: u64,
    /// Where in the descriptor the memory begins, in bytes.
    pub offset: u64,
    /// Bytes of a page of the descriptor.
    pub page_size: u64,
    /// Whether it was ready; otherwise the pool has made it now.
    pub was_ready: bool,
}

/// Takes a backend's memory from a pool of the server that listens on a socket, and makes a backend
/// of kind `memory-backend-fd` of it, in state configuring. Its preallocation only maps what is
/// there. Waits as [`receive`] does.
///
/// # Errors
///
/// Those of [`receive`] and [`Objects::builder`].
pub fn take(path: impl AsRef<Path>, pool: &str, objects: &Objects, id: &str) -> Result<Builder> {
    // An id that is taken must not cost the pool a backend.
    let builder = objects.builder("memory-backend-fd", id)?;
    let memory = receive(path, pool)?;
    Ok(builder
        .fd(&memory.fd)
        .size(memory.size)
        .offset(memory.offset)
        .share(true)
        .prealloc(true))
}

/// Takes a backend's memory from a pool of the server that listens on a socket. Waits until the
/// server answers, for as long as it takes to make the memory where none is ready.
///
/// # Errors
///
/// [`Io`](ErrorKind::Io) (no server listens, or it goes away), [`Value`](ErrorKind::Value) (what the
/// server answers, such as that it has no pool of that name).
pub fn receive(path: impl AsRef<Path>, pool: &str) -> Result<Received> {
    let path = path.as_ref();
    let failed =
        |error: io::Error| Error::new(ErrorKind::Io, format!("{}: {error}", path.display()));
    let stream = UnixStream::connect(path).map_err(failed)?;
    let requests = format!(
        "{}\n{}\n",
        json!({ "execute": "qmp_capabilities" }),
        json!({ "execute": "x-pool-take", "arguments": { "pool": pool } })
    );
    (&stream).write_all(requests.as_bytes()).map_err(failed)?;
    let mut answers = Answers::new(stream);
    // The greeting, and that of qmp_capabilities.
    answers.next().map_err(failed)?;
    check(answers.next_answer().map_err(failed)?, path)?;
    let answer = check(answers.next_answer().map_err(failed)?, path)?;
    let fd = answers.descriptors.pop().ok_or_else(|| {
        Error::new(
            ErrorKind::Io,
            format!(
                "{}: the answer has no descriptor; raise RLIMIT_NOFILE (ulimit -n) if it is \
                     short",
                path.display()
            ),
        )
    })?;
    let number = |name: &str| {
        answer[name].as_u64().ok_or_else(|| {
            Error::new(
                ErrorKind::Io,
                format!("{}: the answer has no {name}", path.display()),
            )
        })
    };
    Ok(Received {
        size: number("size")?,
        offset: number("offset")?,
        page_size: number("page-size")?,
        was_ready: answer["ready"] == true,
        fd,
    })
}

/// What `return` is.
fn check(mut answer: Json, path: &Path) -> Result<Json> {
    match answer.get_mut("return") {
        Some(value) => Ok(value.take()),
        None => {
            let message = answer["error"]["desc"].as_str().unwrap_or("no answer");
            let message = format!("{}: {message}", path.display());
            Err(Error::new(ErrorKind::Value, message))
        }
    }
}

/// Lines of JSON, and the descriptors that came with them.
struct Answers {
    stream: UnixStream,
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Answers {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            bytes: Vec::new(),
            descriptors: Vec::new(),
        }
    }

    /// The next line that is no event.
    fn next_answer(&mut self) -> io::Result<Json> {
        loop {
            let json = self.next()?;
            if json.get("event").is_none() {
                return Ok(json);
            }
        }
    }

    fn next(&mut self) -> io::Result<Json> {
        loop {
            if let Some(end) = self.bytes.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(io::Error::from);
            }
            if self.bytes.len() > LIMIT {
                return Err(io::Error::other("the answer is too long"));
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let mut control = nix::cmsg_space!([std::os::fd::RawFd; MOST_DESCRIPTORS]);
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let message = loop {
            let received = recvmsg::<()>(
                self.stream.as_raw_fd(),
                &mut buffers,
                Some(&mut control),
                MsgFlags::MSG_CMSG_CLOEXEC,
            );
            match received {
                Err(nix::errno::Errno::EINTR) => continue,
                received => break received?,
            }
        };
        let length = message.bytes;
        // An error where no descriptor could be opened here, which the answer then lacks.
        for control in message.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                // SAFETY: the kernel has just opened them for this process; nobody else owns them.
                let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
                self.descriptors.extend(descriptors.into_iter().map(own));
            }
        }
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes.extend_from_slice(&bytes[..length]);
        Ok(())
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Accepts clients, and ends the program.

use std::io;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hostmem::Host;

use super::monitor::SharedMonitor;
use super::session;
use super::session::End;
use super::socket;
use crate::signals;
use crate::Result;

/// Serves clients until one quits, a signal comes, or standard input ends. Then cancels a running
/// preallocation and deletes all objects.
pub(crate) fn run(socket: &socket::SocketArguments) -> Result<()> {
    let monitor = Arc::new(SharedMonitor::new(&Host::probe()?)?);
    let (sender, receiver) = mpsc::channel();
    let of_signals = sender.clone();
    signals::on_first(move |_| {
        let _ = of_signals.send(());
    })?;
    let (listener, _file) = socket.listen()?.unzip();
    let shared = Arc::clone(&monitor);
    thread::Builder::new().name("qmp".into()).spawn(move || {
        match listener {
            Some(listener) => serve_all(&shared, &listener),
            None => serve_standard_streams(&shared),
        }
        // It fails if the program is ending already.
        let _ = sender.send(());
    })?;
    receiver.recv()?;
    monitor.close();
    Ok(())
}

fn serve_standard_streams(monitor: &SharedMonitor) {
    session::serve(monitor, BufReader::new(io::stdin()), io::stdout());
}

/// Serves one client after another until one quits.
fn serve_all(monitor: &SharedMonitor, listener: &UnixListener) {
    loop {
        let client = Client(Arc::new(accept(listener)));
        let end = session::serve(monitor, BufReader::new(client.clone()), client.clone());
        // What is still being written then fails. That it is gone already is no matter.
        let _ = client.0.shutdown(Shutdown::Both);
        if end == End::Quit {
            return;
        }
    }
}

/// Waits for a client as long as it takes. A failure, such as a shortage of descriptors, may pass;
/// ending would delete all memory.
pub(crate) fn accept(listener: &UnixListener) -> UnixStream {
    const PAUSE: Duration = Duration::from_millis(100);
    let mut said = false;
    loop {
        match listener.accept() {
            Ok((stream, _)) => return stream,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !said {
                    eprintln!("hostmem: cannot accept a client, trying again: {error}");
                }
                said = true;
                thread::sleep(PAUSE);
            }
        }
    }
}

/// A connection, read by one thread and written by another.
#[derive(Clone)]
struct Client(Arc<UnixStream>);

impl Read for Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All that one client of `hostmem qmp` sends, split anywhere. A call of the library may fail, and
//! the client may go before it has read all answers. Each message gets one answer, the next client
//! is served, and nothing is left when the server has ended.
//!
//! The first four bytes of an input are those of [`Plan`]. The rest is sent; a byte of 0x80 and above
//! stands for one of [`PIECES`], so that more than broken JSON comes about.

#![no_main]
// The commands that are not under test use the rest.
#![allow(dead_code, unused_imports)]

#[path = "../../src/bin/hostmem/bars.rs"]
mod bars;
#[path = "../../src/bin/hostmem/json.rs"]
mod json;
#[path = "../../src/bin/hostmem/object.rs"]
mod object;
#[path = "../../src/bin/hostmem/qmp/mod.rs"]
mod qmp;
#[path = "../../src/bin/hostmem/report.rs"]
mod report;
#[path = "../../src/bin/hostmem/signals.rs"]
mod signals;
mod support;
#[path = "../../src/bin/hostmem/svg.rs"]
mod svg;

use std::io;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::slice;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;

use hostmem::Host;
use serde_json::Value as Json;

use qmp::messages::Message;
use qmp::messages::Messages;
use qmp::monitor::SharedMonitor;
use qmp::session;
use qmp::session::End;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const PIECES: &[&str] = &[
    "{\"execute\":\"qmp_capabilities\"}",
    "{\"execute\":\"quit\"}",
    "{\"execute\":\"query-commands\"}",
    "{\"execute\":\"query-memdev\"}",
    "{\"execute\":\"query-version\",\"id\":",
    "{\"execute\":\"qom-list-types\",\"arguments\":{\"implements\":\"memory-backend\"}}",
    "{\"execute\":\"qom-list-properties\",\"arguments\":{\"typename\":\"memory-backend-file\"}}",
    "{\"execute\":\"qom-list\",\"arguments\":{\"path\":\"/\"}}",
    "{\"execute\":\"qom-list\",\"arguments\":{\"path\":\"a\"}}",
    "{\"execute\":\"qom-get\",\"arguments\":{\"path\":\"/objects/a\",\"property\":\"",
    "{\"execute\":\"qom-set\",\"arguments\":{\"path\":\"a\",\"property\":\"",
    "\",\"value\":",
    "\"}}",
    "}}",
    "{\"execute\":\"object-add\",\"arguments\":{\"id\":\"a\",\"size\":65536,\"qom-type\":\"memory-backend-",
    "{\"execute\":\"object-add\",\"arguments\":{\"id\":\"b\",\"size\":262144,\"qom-type\":\"memory-backend-",
    "{\"execute\":\"object-add\",\"arguments\":{\"id\":\"c\",\"qom-type\":\"thread-context\"",
    "{\"execute\":\"object-del\",\"arguments\":{\"id\":\"a",
    "{\"execute\":\"object-del\",\"arguments\":{\"id\":\"c",
    "{\"execute\":\"x-claim\",\"arguments\":{\"owner\":\"vm\",\"id\":\"a",
    "{\"execute\":\"x-release\",\"arguments\":{\"id\":\"a",
    "{\"execute\":\"x-placement\",\"arguments\":{\"id\":\"a",
    "{\"execute\":\"x-discard\",\"arguments\":{\"offset\":4096,\"length\":8192,\"id\":\"a",
    "{\"execute\":\"x-populate\",\"arguments\":{\"offset\":0,\"length\":16384,\"id\":\"a",
    "{\"execute\":\"x-scrub\",\"arguments\":{\"offset\":0,\"length\":65536,\"id\":\"a",
    "{\"execute\":\"x-prealloc-status\",\"arguments\":{\"id\":\"a",
    "{\"execute\":\"x-prealloc-cancel\",\"arguments\":{\"id\":\"a",
    "{\"execute\":\"x-save\",\"arguments\":{\"path\":\"saved\",\"id\":\"a",
    "{\"execute\":\"x-rebind\",\"arguments\":{\"policy\":\"bind\",\"host-nodes\":[0],\"id\":\"a",
    "ram\"",
    "memfd\"",
    "shm\"",
    "file\",\"mem-path\":\"file\"",
    "file\",\"mem-path\":\".\"",
    "fd\",\"fd\":100",
    ",\"share\":",
    ",\"reserve\":\"try\"",
    ",\"prealloc\":",
    ",\"prealloc-mode\":\"background\"",
    ",\"prealloc-threads\":2",
    ",\"prealloc-context\":\"/objects/c\"",
    ",\"contents\":\"image\"",
    ",\"contents-offset\":4096",
    ",\"cpu-affinity\":[0]",
    ",\"host-nodes\":[0],\"policy\":\"bind\"",
    ",\"lock\":true",
    ",\"discard-data\":true",
    "true",
    "false",
    "null",
    "18446744073709551615",
    "1e999",
    "\\ud800",
    "\u{e9}",
    "merge",
    "prealloc",
    "thp",
    "size",
    "host-nodes",
    "policy",
    "\"always\"",
    "\"off\"",
    "[0]",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "\n",
];

/// How the client sends and reads.
struct Plan {
    /// Bytes that arrive at once; 0: all.
    chunk: usize,
    /// Lines that it reads before it goes; 0: all.
    lines: usize,
    /// Which call of the library fails, and how.
    fault: Option<(u8, u8)>,
    sent: Vec<u8>,
}

impl Plan {
    /// The digit 0 stands for 0, so that plans can be written.
    fn new(input: &[u8]) -> Option<Self> {
        let (&[chunk, lines, which, how], text) = input.split_first_chunk()?;
        let number = |byte: u8| usize::from(byte.wrapping_sub(b'0'));
        Some(Self {
            chunk: number(chunk),
            lines: number(lines),
            fault: (which != b'0').then_some((which, how)),
            sent: expand(text),
        })
    }

    fn stream(&self) -> impl Read {
        let chunk = match self.chunk {
            0 => usize::MAX,
            chunk => chunk,
        };
        Chunks {
            rest: io::Cursor::new(self.sent.clone()),
            chunk,
        }
    }
}

fn expand(text: &[u8]) -> Vec<u8> {
    let mut sent = Vec::new();
    for byte in text {
        match byte {
            0xff => sent.push(*byte),
            0x80.. => sent.extend(PIECES[usize::from(byte - 0x80) % PIECES.len()].as_bytes()),
            _ => sent.push(*byte),
        }
    }
    sent
}

struct Chunks {
    rest: io::Cursor<Vec<u8>>,
    chunk: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(self.chunk);
        self.rest.read(&mut buffer[..length])
    }
}

/// What the client has read. It goes after a number of lines.
#[derive(Clone)]
struct Output {
    lines: Arc<Mutex<Vec<Vec<u8>>>>,
    most: usize,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = self.lines.lock().unwrap();
        if lines.len() == self.most {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        lines.push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn messages(input: impl Read) -> Vec<Message> {
    let mut messages = Messages::new(BufReader::new(input));
    std::iter::from_fn(|| messages.next().unwrap()).collect()
}

/// Serves a client; returns what it read, without events.
fn serve(
    monitor: &SharedMonitor,
    input: impl Read + Send + 'static,
    most: usize,
) -> (End, Vec<Json>) {
    let output = Output {
        lines: Arc::default(),
        most,
    };
    let end = session::serve(monitor, BufReader::new(input), output.clone());
    let lines = output.lines.lock().unwrap();
    let parse = |line: &Vec<u8>| -> Json {
        assert!(line.ends_with(b"\r\n") && !line[..line.len() - 2].contains(&b'\n'));
        serde_json::from_slice(line).unwrap()
    };
    let answers = lines
        .iter()
        .map(parse)
        .filter(|line| line.get("event").is_none());
    (end, answers.collect())
}

fn check_answers(answers: &[Json], messages: usize, end: End, plan: &Plan) {
    if let Some(greeting) = answers.first() {
        assert!(greeting["QMP"]["version"].is_object());
    }
    for answer in answers.iter().skip(1) {
        let error = &answer["error"];
        assert!(
            answer.get("return").is_some() != error.is_object(),
            "{answer}"
        );
        assert!(error.is_null() || error["desc"].as_str().is_some_and(|text| !text.is_empty()));
    }
    match end {
        End::HungUp if plan.lines == 0 => assert_eq!(answers.len(), 1 + messages),
        _ => assert!(answers.len() <= 1 + messages),
    }
}

fn run(plan: &Plan) {
    static HOST: OnceLock<Host> = OnceLock::new();
    let host = HOST.get_or_init(|| Host::probe().unwrap());
    let whole = messages(plan.sent.as_slice());
    assert_eq!(whole, messages(plan.stream()));
    support::run(|| {
        support::make_file("image", &[b'i'; 20_000]).unwrap();
        let monitor = SharedMonitor::new(host).unwrap();
        if let Some((which, how)) = plan.fault {
            support::arm(which, how);
        }
        let most = match plan.lines {
            0 => usize::MAX,
            lines => lines,
        };
        let (end, answers) = serve(&monitor, plan.stream(), most);
        check_answers(&answers, whole.len(), end, plan);
        let next = "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-memdev\"}";
        let (_, answers) = serve(&monitor, next.as_bytes(), usize::MAX);
        assert!(answers[2]["return"].is_array(), "{answers:?}");
        monitor.close();
    });
}

/// # Safety
///
/// `data` has `size` bytes.
#[no_mangle]
unsafe extern "C" fn LLVMFuzzerTestOneInput(data: *const u8, size: usize) -> i32 {
    // SAFETY: the caller's promise; of no bytes there may be no address.
    let input = match size {
        0 => &[],
        _ => unsafe { slice::from_raw_parts(data, size) },
    };
    match Plan::new(input) {
        Some(plan) if support::stays_here(&plan.sent) => run(&plan),
        _ => return -1,
    }
    0
}

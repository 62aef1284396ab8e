// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Splits a stream into messages.
//!
//! A message may be spread over lines, and a line may hold several. What ends one is that its
//! brackets are closed, so that one with a mistake inside gets one answer and the next is found.

use std::io;
use std::io::BufRead;
use std::mem;

/// How many bytes a message may have.
const LIMIT: usize = 1 << 20;

/// How many brackets may be open. The JSON parser takes no more either.
pub(crate) const DEPTH_LIMIT: usize = 128;

/// Messages from a stream.
pub(crate) struct Messages<R> {
    input: R,
    /// The rest of the line belongs to a message that was too long.
    skipping: bool,
}

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Whole(Vec<u8>),
    /// Longer than the limit. What is left of its line goes unread.
    TooLong,
    /// Too many brackets are open. The next message begins behind the last of them.
    TooDeep,
}

impl<R: BufRead> Messages<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            skipping: false,
        }
    }

    /// Waits for the next message. None at the end of the stream, where half a message is none.
    pub(crate) fn next(&mut self) -> io::Result<Option<Message>> {
        if mem::take(&mut self.skipping) {
            self.input.skip_until(b'\n')?;
        }
        let mut part = Part::default();
        loop {
            let chunk = match self.input.fill_buf() {
                Ok([]) => return Ok(None),
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let (taken, whole) = part.add(chunk);
            self.input.consume(taken);
            if part.depth > DEPTH_LIMIT {
                return Ok(Some(Message::TooDeep));
            }
            if whole {
                return Ok(Some(Message::Whole(part.bytes)));
            }
            if part.bytes.len() > LIMIT {
                self.skipping = true;
                return Ok(Some(Message::TooLong));
            }
        }
    }
}

/// The beginning of a message.
#[derive(Default)]
struct Part {
    bytes: Vec<u8>,
    /// Brackets that are open.
    depth: usize,
    in_string: bool,
    /// The last byte was a backslash in a string.
    escaped: bool,
}

/// Whether a byte ends the message.
#[derive(PartialEq, Eq)]
enum Ends {
    No,
    /// It is the last one.
    After,
    /// It belongs to the next message.
    Before,
}

impl Part {
    /// Adds bytes up to the end of the message, but no further than a limit; returns how many, and
    /// whether the message is whole.
    fn add(&mut self, chunk: &[u8]) -> (usize, bool) {
        for (index, &byte) in chunk.iter().enumerate() {
            match self.look_at(byte) {
                Ends::Before => return (index, true),
                Ends::No if self.bytes.is_empty() && byte.is_ascii_whitespace() => {}
                ends => {
                    self.bytes.push(byte);
                    let fits = self.bytes.len() <= LIMIT && self.depth <= DEPTH_LIMIT;
                    if ends == Ends::After || !fits {
                        return (index + 1, fits);
                    }
                }
            }
        }
        (chunk.len(), false)
    }

    fn look_at(&mut self, byte: u8) -> Ends {
        if self.in_string {
            return self.look_at_in_string(byte);
        }
        // A value without brackets, which ends where another begins.
        let bare = self.depth == 0 && !self.bytes.is_empty();
        match byte {
            b'{' | b'[' | b'"' if bare => return Ends::Before,
            b'{' | b'[' => self.depth += 1,
            b'"' => self.in_string = true,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    return Ends::After;
                }
            }
            _ if bare && byte.is_ascii_whitespace() => return Ends::After,
            _ => {}
        }
        Ends::No
    }

    fn look_at_in_string(&mut self, byte: u8) -> Ends {
        match byte {
            // JSON has it escaped only: a quote that is never closed costs one line.
            b'\n' => return Ends::After,
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => {
                self.in_string = false;
                if self.depth == 0 {
                    return Ends::After;
                }
            }
            _ => {}
        }
        Ends::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;
    use std::io::Read;

    /// The messages of a stream that is read in chunks of a size.
    fn messages(stream: &[u8], chunk: usize) -> Vec<Message> {
        let mut messages = Messages::new(BufReader::with_capacity(chunk, stream));
        std::iter::from_fn(|| messages.next().unwrap()).collect()
    }

    #[test]
    fn a_stream_is_cut_where_brackets_close() {
        for (stream, expected) in [
            ("", &[][..]),
            (" \r\n\t", &[]),
            ("{}", &["{}"]),
            (" {} \n", &["{}"]),
            ("{}{}", &["{}", "{}"]),
            ("{\"a\":\n[1,\r\n{}]}\n{}", &["{\"a\":\n[1,\r\n{}]}", "{}"]),
            (r#"{"a}":"\"}"}{}"#, &[r#"{"a}":"\"}"}"#, "{}"]),
            (r#"{"a":"\\"}{}"#, &[r#"{"a":"\\"}"#, "{}"]),
            ("{]{}", &["{]", "{}"]),
            ("}}{}", &["}", "}", "{}"]),
            ("{\"a\n{}", &["{\"a\n", "{}"]),
            ("{\"a\\\n{}", &["{\"a\\\n", "{}"]),
            ("\"a\"{}", &["\"a\"", "{}"]),
            ("1 2\n", &["1\n", "2\n"]),
            ("nul{}", &["nul", "{}"]),
            ("nul[]", &["nul", "[]"]),
            ("nul\"a\"", &["nul", "\"a\""]),
            ("{\"half", &[]),
            ("nul", &[]),
        ] {
            for chunk in [1, 2, 3, 7, 4096] {
                let found = messages(stream.as_bytes(), chunk);
                let trimmed = |text: &[u8]| String::from_utf8_lossy(text).trim_end().to_owned();
                let found: Vec<_> = found
                    .iter()
                    .map(|message| match message {
                        Message::Whole(bytes) => trimmed(bytes),
                        other => panic!("{stream}: {other:?}"),
                    })
                    .collect();
                let expected: Vec<_> = expected
                    .iter()
                    .map(|text| trimmed(text.as_bytes()))
                    .collect();
                assert_eq!(found, expected, "{stream:?} in chunks of {chunk}");
            }
        }
    }

    #[test]
    fn a_message_has_a_limit() {
        for (length, fits) in [(LIMIT - 1, true), (LIMIT, true), (LIMIT + 1, false)] {
            let mut stream = vec![b' '; length];
            stream[0] = b'{';
            stream[length - 1] = b'}';
            stream.extend(b"}}}\n{}");
            for chunk in [4096, LIMIT, 2 * LIMIT] {
                let found = messages(&stream, chunk);
                if fits {
                    assert!(matches!(&found[0], Message::Whole(bytes) if bytes.len() == length));
                    assert_eq!(found.len(), 5, "{length}");
                } else {
                    let next = Message::Whole(b"{}".to_vec());
                    assert_eq!(found, [Message::TooLong, next], "{length}");
                }
            }
        }
    }

    #[test]
    fn too_many_brackets_are_answered_at_once() {
        for open in ["[", "{\"a\":", "{", "[1,"] {
            let deepest = open.repeat(DEPTH_LIMIT);
            // What is behind the last bracket belongs to the next message.
            let cut = open.len() - 1;
            let stream = format!("{deepest}{open}");
            let stream = &stream[..stream.len() - cut];
            for chunk in [1, 2, 7, 4096] {
                assert_eq!(messages(deepest.as_bytes(), chunk), []);
                let found = messages(format!("{stream}{{}}").as_bytes(), chunk);
                assert_eq!(found, [Message::TooDeep, Message::Whole(b"{}".to_vec())]);
                let found = messages(stream.repeat(3).as_bytes(), chunk);
                assert_eq!(found, vec![Message::TooDeep; 3]);
            }
        }
        let whole = "[".repeat(DEPTH_LIMIT) + &"]".repeat(DEPTH_LIMIT);
        let found = messages(whole.as_bytes(), 4096);
        assert_eq!(found, [Message::Whole(whole.into())]);
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut messages = Messages::new(BufReader::new(io::repeat(b'{').take(1 << 20)));
        while let Some(message) = messages.next().unwrap() {
            assert_eq!(message, Message::TooDeep);
        }
        let mut messages = Messages::new(BufReader::new(io::repeat(b'1').take(64 << 20)));
        assert_eq!(messages.next().unwrap(), Some(Message::TooLong));
        assert_eq!(messages.next().unwrap(), None);
    }
}

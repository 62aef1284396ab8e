// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The notes below the tables: cases that were skipped or made smaller, and why.

use std::sync::Mutex;

static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub fn add(text: String) {
    eprintln!("note: {text}");
    let mut notes = NOTES.lock().unwrap();
    if !notes.contains(&text) {
        notes.push(text);
    }
}

pub fn all() -> Vec<String> {
    NOTES.lock().unwrap().clone()
}

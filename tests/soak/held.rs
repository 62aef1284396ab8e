// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A backend that is claimed, and what its memory has to contain.

use std::sync::Arc;

use hostmem::Backend;
use hostmem::Claim;

use crate::common::page_size;

pub const MIB: u64 = 1 << 20;

/// What a page contains: nothing, what the image has, or what was written by that number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    Zero,
    Image,
    Written(u64),
}

/// An image that memory began with; zeros follow it.
pub type Image = Arc<Vec<u8>>;

pub struct Held {
    pub backend: Backend,
    pub claim: Claim,
    /// Its options, for messages.
    pub what: String,
    /// A private mapping of a file of the user's, which cannot be scrubbed.
    pub is_private_file: bool,
    /// Its memory may be short: no page of it may be touched that is not there.
    pub may_be_short: bool,
    pages: Vec<Page>,
    image: Option<Image>,
}

impl Held {
    pub fn new(backend: Backend, claim: Claim, what: String, image: Option<Image>) -> Self {
        let len = (claim.memory().len() / page_size()) as usize;
        let begins_as = match image {
            Some(_) => Page::Image,
            None => Page::Zero,
        };
        Self {
            is_private_file: what.contains("backend-file") && !what.contains("share=on"),
            may_be_short: false,
            backend,
            claim,
            what,
            pages: vec![begins_as; len],
            image,
        }
    }

    pub fn size(&self) -> u64 {
        self.claim.memory().len()
    }

    /// The words that are written and looked at: the first, one inside and the last of a page.
    fn words(page: usize) -> [u64; 3] {
        let start = page as u64 * page_size();
        let inside = page as u64 % (page_size() / 8) * 8;
        [start, start + inside, start + page_size() - 8]
    }

    fn word(&self, at: u64) -> *mut u64 {
        assert!(at + 8 <= self.size());
        // SAFETY: inside the memory.
        unsafe { self.claim.memory().as_ptr().add(at as usize).cast() }
    }

    fn read(&self, at: u64) -> u64 {
        // SAFETY: the claim keeps it mapped and accessible; no one else writes it.
        unsafe { self.word(at).read_volatile() }
    }

    fn expected(&self, page: Page, at: u64) -> u64 {
        match page {
            Page::Zero => 0,
            Page::Written(number) => number ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            Page::Image => {
                let image = self.image.as_ref().unwrap();
                let bytes = image.get(at as usize..at as usize + 8);
                // Images end at the end of a page.
                bytes.map_or(0, |bytes| u64::from_ne_bytes(bytes.try_into().unwrap()))
            }
        }
    }

    fn range(&self, offset: u64, length: u64) -> std::ops::Range<usize> {
        (offset / page_size()) as usize..((offset + length) / page_size()) as usize
    }

    pub fn write(&mut self, offset: u64, length: u64, number: u64) {
        for index in self.range(offset, length) {
            let page = Page::Written(number | 1);
            for at in Self::words(index) {
                let word = self.expected(page, at);
                // SAFETY: the claim keeps it mapped and accessible; no one else uses it.
                unsafe { self.word(at).write_volatile(word) };
            }
            // What was not written of a page reads as before.
            self.pages[index] = page;
        }
    }

    /// It was discarded or scrubbed.
    pub fn is_zero_now(&mut self, offset: u64, length: u64) {
        let range = self.range(offset, length);
        self.pages[range].fill(Page::Zero);
    }

    /// The first byte, of those that are looked at, that is wrong.
    pub fn find_wrong(&self) -> Option<String> {
        let wrong = |index: usize, at: u64| {
            let expected = self.expected(self.pages[index], at);
            let found = self.read(at);
            (found != expected).then(|| {
                format!(
                    "{}: {found:#x} instead of {expected:#x} at {at:#x}",
                    self.what
                )
            })
        };
        (0..self.pages.len())
            .flat_map(|index| Self::words(index).map(|at| (index, at)))
            .find_map(|(index, at)| wrong(index, at))
    }

    /// All of it, as an image that another memory may begin with.
    pub fn contents(&self) -> Image {
        let mut bytes = vec![0; self.size() as usize];
        // SAFETY: the claim keeps it mapped and accessible; no one else writes it.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.claim.memory().as_ptr(),
                bytes.as_mut_ptr(),
                bytes.len(),
            );
        }
        Arc::new(bytes)
    }
}

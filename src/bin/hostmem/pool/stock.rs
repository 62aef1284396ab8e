// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What of one pool can be handed over at once: descriptors of filled memory that is not mapped here,
//! each with the answer that describes it. So handing over neither maps, unmaps nor reads memory of
//! any size.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use hostmem::Backend;
use hostmem::Error;
use hostmem::Pool;
use serde_json::json;
use serde_json::Value as Json;

use crate::report::Report;
use crate::Result;

/// What memory is claimed by until it is handed over.
const OWNER: &str = "hostmem pool";
/// How long filling rests when memory is handed over, which the taker then maps.
const REST: Duration = Duration::from_millis(100);
/// Between two attempts to describe memory, and between two looks at what else there is to do.
const PAUSE: Duration = Duration::from_millis(100);

/// Ids that backends have here, which nobody else sees.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Stock {
    name: String,
    /// Makes what is missing.
    pool: Pool,
    /// How many are to be ready.
    count: u32,
    /// Memory stays mapped until it is handed over, since unmapping would unlock it.
    locked: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    offers: Vec<Offer>,
    /// Filled, to be made an offer of.
    filled: Vec<Backend>,
    /// How many offers are just being made, and handed over.
    making: u32,
    leaving: u32,
    /// The count of the pool.
    asked: u32,
    /// How many were ready when they were handed over, and how many were made then.
    taken: u64,
    made: u64,
}

/// Memory that can be handed over.
pub(crate) struct Offer {
    fd: OwnedFd,
    answer: Json,
    pub(crate) bytes: u64,
    was_ready: bool,
    /// Where the memory is locked.
    _mapped: Option<Backend>,
}

impl Offer {
    fn new(backend: &Backend, name: &str, was_ready: bool) -> Result<Self> {
        let claim = backend.claim(OWNER)?;
        let memory = claim.memory();
        let fd = memory.fd().ok_or("memory without a descriptor")?;
        let mut answer = Report::new(backend, memory)?.to_json();
        answer["pool"] = name.into();
        answer["offset"] = memory.fd_offset().into();
        if let Some(members) = answer.as_object_mut() {
            members.remove("id");
        }
        let mut offer = Self {
            fd: fd.try_clone_to_owned()?,
            answer,
            bytes: memory.len(),
            was_ready,
            _mapped: None,
        };
        offer.set_ready(was_ready);
        Ok(offer)
    }

    pub(crate) fn answer(&self) -> &Json {
        &self.answer
    }

    fn set_ready(&mut self, was_ready: bool) {
        self.was_ready = was_ready;
        self.answer["ready"] = was_ready.into();
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(crate) struct Status {
    pub(crate) count: u32,
    pub(crate) ready: u32,
    pub(crate) taken: u64,
    pub(crate) failures: u64,
    pub(crate) failure: Option<Error>,
    filling: bool,
    bytes: u64,
    made: u64,
    retry: Option<Duration>,
}

impl Status {
    pub(crate) fn to_json(&self) -> Json {
        let mut json = json!({
            "count": self.count,
            "ready": self.ready,
            "filling": self.filling,
            "bytes": self.bytes,
            "taken": self.taken,
            "made": self.made,
            "failures": self.failures,
        });
        if let Some(error) = &self.failure {
            json["failure"] = error.to_string().into();
        }
        if let Some(retry) = self.retry {
            json["retry-milliseconds"] = (retry.as_millis() as u64).into();
        }
        json
    }
}

fn next_id() -> String {
    format!("memory{}", NEXT_ID.fetch_add(1, Ordering::Relaxed))
}

impl Stock {
    pub(crate) fn new(name: String, pool: Pool, count: u32, locked: bool) -> Self {
        let state = State {
            asked: count,
            ..State::default()
        };
        Self {
            name,
            pool,
            count,
            locked,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let woken = self.changed.wait(state);
        woken.unwrap_or_else(PoisonError::into_inner)
    }

    // ---- Making offers ----

    /// Makes an offer of each backend that the pool has filled.
    pub(crate) fn keep_full(&self) {
        loop {
            let mut state = self.lock();
            while state.asked == 0 && state.filled.is_empty() {
                state = self.wait(state);
            }
            match state.filled.pop() {
                Some(backend) => self.make_offer(state, backend),
                None => {
                    drop(state);
                    self.withdraw();
                }
            }
        }
    }

    fn withdraw(&self) {
        let is_ready = self.pool.wait(1, Some(PAUSE));
        if is_ready != Ok(true) {
            return;
        }
        let mut state = self.lock();
        // A client may have taken it.
        if let Ok(backend) = self.pool.withdraw(&next_id()) {
            state.asked -= 1;
            state.filled.push(backend);
        }
    }

    fn make_offer(&self, mut state: MutexGuard<'_, State>, backend: Backend) {
        state.making += 1;
        drop(state);
        let offer = self.offer(backend, true);
        let failed = offer.is_err();
        let mut state = self.lock();
        state.making -= 1;
        match offer {
            Ok(offer) => state.offers.push(offer),
            Err((backend, _)) => state.filled.push(backend),
        }
        drop(state);
        self.changed.notify_all();
        // A shortage of descriptors may pass.
        if failed {
            thread::sleep(PAUSE);
        }
    }

    fn offer(
        &self,
        backend: Backend,
        was_ready: bool,
    ) -> std::result::Result<Offer, (Backend, Box<dyn std::error::Error>)> {
        // Its pages are to stay when it is deleted here.
        if backend.get_text("discard-data").is_ok() {
            let _ = backend.set("discard-data", false);
        }
        match Offer::new(&backend, &self.name, was_ready) {
            Ok(offer) => Ok(Offer {
                _mapped: self.locked.then_some(backend),
                ..offer
            }),
            Err(error) => Err((backend, error)),
        }
    }

    // ---- Handing over ----

    /// See [`Pools::hand_over`](super::pools::Pools::hand_over).
    pub(crate) fn hand_over<T>(&self, send: impl FnOnce(&Offer) -> (bool, T)) -> Result<T> {
        self.pool.rest(REST);
        let mut offer = self.take()?;
        let (has_left, result) = send(&offer);
        let mut state = self.lock();
        state.leaving -= 1;
        let left = if has_left {
            match offer.was_ready {
                true => state.taken += 1,
                false => state.made += 1,
            }
            Some(offer)
        } else {
            offer.set_ready(true);
            state.offers.push(offer);
            None
        };
        self.refill(&mut state);
        drop(state);
        // The taker is its only owner from here on.
        drop(left);
        Ok(result)
    }

    fn take(&self) -> Result<Offer> {
        let mut state = self.lock();
        state.leaving += 1;
        while state.offers.is_empty() && state.making > 0 {
            state = self.wait(state);
        }
        if let Some(offer) = state.offers.pop() {
            return Ok(offer);
        }
        drop(state);
        let failed = match self.pool.take(&next_id()) {
            Ok(taken) => match self.offer(taken.backend, taken.was_ready) {
                Ok(offer) => return Ok(offer),
                Err((backend, error)) => {
                    self.lock().filled.push(backend);
                    error
                }
            },
            Err(error) => error.into(),
        };
        let mut state = self.lock();
        state.leaving -= 1;
        self.refill(&mut state);
        drop(state);
        self.changed.notify_all();
        Err(failed)
    }

    /// Has the pool make what is missing.
    fn refill(&self, state: &mut State) {
        let there = state.offers.len() + state.filled.len();
        let there = u32::try_from(there).unwrap_or(u32::MAX) + state.making + state.leaving;
        let missing = self.count.saturating_sub(there);
        if missing > state.asked && self.pool.set_count(missing).is_ok() {
            state.asked = missing;
            self.changed.notify_all();
        }
    }

    pub(crate) fn status(&self) -> Status {
        let state = self.lock();
        let status = self.pool.status();
        let of_offers = state.offers.iter().map(|offer| offer.bytes);
        let of_filled = state.filled.iter().map(|backend| backend.progress().total);
        Status {
            count: self.count,
            ready: u32::try_from(state.offers.len()).unwrap_or(u32::MAX),
            taken: state.taken,
            made: state.made,
            filling: status.filling,
            bytes: status.bytes + of_offers.chain(of_filled).sum::<u64>(),
            failures: status.failures,
            failure: status.failure,
            retry: status.retry,
        }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Measures the sides of a case in turns.

use std::time::Duration;

use hostmem::Defaults;
use hostmem::Host;
use hostmem::Methods;
use hostmem::Objects;

use crate::cases::Case;
use crate::cases::Side;
use crate::cpus;
use crate::cpus::Hog;
use crate::interrupt;
use crate::machine;
use crate::notes;
use crate::ours;
use crate::peers;
use crate::qemu::Qemu;
use crate::ready;
use crate::ready::Ready;

/// What the sides are measured with.
pub struct World {
    pub objects: Objects,
    /// From a host record that allows only the plain way to populate.
    plain_objects: Objects,
    pub qemu: Option<Qemu>,
    /// While a case is measured that takes memory from a pool.
    ready: Option<Ready>,
}

impl World {
    pub fn new() -> hostmem::Result<Self> {
        let mut host = Host::probe()?;
        let objects = Objects::new(&host, &Defaults::qemu())?;
        host.narrow_methods(Methods::NONE);
        Ok(Self {
            objects,
            plain_objects: Objects::new(&host, &Defaults::qemu())?,
            qemu: start_qemu(),
            ready: None,
        })
    }

    /// After a failure QEMU may still have the object.
    fn restart_qemu(&mut self) {
        if self.qemu.take().is_some() {
            self.qemu = start_qemu();
        }
    }

    fn time(&mut self, side: Side, case: &Case) -> Result<Duration, String> {
        let objects = match case.plain {
            true => &self.plain_objects,
            false => &self.objects,
        };
        if let Some(ready) = &self.ready {
            ready.wait()?;
        }
        match side {
            Side::Take | Side::Receive => self.ready.as_ref().unwrap().take(objects, case),
            Side::Scrub => ours::scrub(objects, case),
            Side::DiscardAndPopulate => ours::discard_and_populate(objects, case),
            Side::WorkBesideRefill => ready::work_beside_refill(objects, case),
            Side::Work => ready::work(),
            Side::Complete => ours::complete(objects, case),
            Side::CompleteWith(threads) => ours::complete_with(objects, case, threads),
            Side::CompleteAll => ours::complete_all(objects, case),
            Side::OneAfterAnother => ours::complete_one_after_another(objects, case),
            Side::CompleteReporting => ours::complete_reporting(objects, case),
            Side::Begin => ours::begin(objects, case),
            Side::Background => ours::background(objects, case),
            Side::BackgroundPolled => ours::background_polled(objects, case),
            Side::Qemu => self.qemu.as_mut().unwrap().time(case),
            Side::VmMemoryMapped => peers::vm_memory(case, libc::MAP_POPULATE, &[]),
            Side::VmMemoryPopulated => peers::vm_memory(case, 0, &[libc::MADV_POPULATE_WRITE]),
            Side::VmMemoryHuge => {
                peers::vm_memory(case, 0, &[libc::MADV_HUGEPAGE, libc::MADV_POPULATE_WRITE])
            }
            Side::Bare(kind) => peers::bare(case, kind),
            Side::SlicesOnOne(kind) => peers::slices(case, kind, [&[0], &[1]]),
            Side::SlicesOnBoth(kind) => peers::slices(case, kind, [&[0, 1], &[0, 1]]),
        }
    }
}

fn start_qemu() -> Option<Qemu> {
    Qemu::start()
        .inspect_err(|why| notes::add(format!("no QEMU to compare with: {why}")))
        .ok()
}

/// The least time of each side of a case.
pub struct Measured {
    pub case: Case,
    pub hostmem: Duration,
    /// In the order of the case; none where that side is not available.
    pub others: Vec<Option<Duration>>,
    /// Work of two threads / work of one in a plain loop, for cases of two threads.
    pub second_cpu: Option<f64>,
}

/// A case is measured until no least time has fallen by FALL for as many rounds as the case needs,
/// and at most MOST times that number of rounds.
const FALL: f64 = 0.01;
const MOST: usize = 2;

/// The least time of several rounds. Round 0 is a warm-up and does not count.
#[derive(Clone, Copy, Default)]
struct Least {
    time: Option<Duration>,
    /// The last round in which it fell by more than FALL.
    fell: usize,
}

impl Least {
    fn add(&mut self, round: usize, time: Duration) {
        if round == 0 || self.time.is_some_and(|least| least <= time) {
            return;
        }
        if self
            .time
            .is_none_or(|least| time < least.mul_f64(1.0 - FALL))
        {
            self.fell = round;
        }
        self.time = Some(time);
    }
}

/// The last round in which one of them fell.
fn fell(least: &[Least]) -> usize {
    least.iter().map(|least| least.fell).max().unwrap_or(0)
}

fn time_beside(
    hog: Option<&Hog>,
    time: impl FnOnce() -> Result<Duration, String>,
) -> Result<Duration, String> {
    match hog {
        Some(hog) => hog.beside(time),
        None => time(),
    }
}

/// Measures all sides in each round, each going first in its turn, so that a disturbance hits all.
fn measure(world: &mut World, case: Case, rounds: usize) -> Result<Measured, String> {
    let hog = match case.hogged {
        true => Some(Hog::start().map_err(|error| error.to_string())?),
        false => None,
    };
    let mut sides = vec![case.hostmem];
    sides.extend(case.others.iter().map(|(side, _)| *side));
    let mut least = vec![Least::default(); sides.len()];
    let mut loops = [Least::default(); 2];
    let needed = rounds * case.more_rounds;
    let mut round = 0;
    while round <= needed + fell(&least).min(needed * (MOST - 1)) {
        for turn in 0..sides.len() {
            interrupt::end_if_asked();
            let index = (round + turn) % sides.len();
            if world.qemu.is_none() && matches!(sides[index], Side::Qemu) {
                continue;
            }
            let time = time_beside(hog.as_ref(), || world.time(sides[index], &case))?;
            least[index].add(round, time);
        }
        if case.needs_second_cpu() && round <= rounds {
            loops[0].add(round, cpus::time_loop(1));
            loops[1].add(round, cpus::time_loop(2));
        }
        round += 1;
    }
    let times: Vec<_> = least.iter().map(|least| least.time).collect();
    let [one, two] = loops.map(|least| least.time);
    Ok(Measured {
        case,
        hostmem: times[0].unwrap(),
        others: times[1..].to_vec(),
        second_cpu: one
            .zip(two)
            .map(|(one, two)| 2.0 * one.as_secs_f64() / two.as_secs_f64()),
    })
}

/// Measures the cases whose titles contain all wanted parts. A case that cannot be measured here is
/// noted.
pub fn measure_all(
    world: &mut World,
    cases: Vec<Case>,
    wanted: &[String],
    rounds: usize,
) -> Vec<Measured> {
    let mut measured = Vec::new();
    for mut case in cases {
        if !wanted.iter().all(|part| case.title().contains(part)) {
            continue;
        }
        machine::fit_size(&mut case);
        let title = case.title();
        eprintln!("{title}");
        let Some(_prepared) = machine::prepare(&case) else {
            notes::add(format!("{title}: skipped, for the reason above"));
            continue;
        };
        let measured_case = Ready::start(&world.objects, &case).and_then(|ready| {
            world.ready = ready;
            measure(world, case, rounds)
        });
        world.ready = None;
        match measured_case {
            Ok(result) => measured.push(result),
            Err(why) => {
                notes::add(format!("{title}: skipped: {why}"));
                world.restart_qemu();
            }
        }
    }
    measured
}

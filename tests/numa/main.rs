// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! NUMA on machines that have it: this program boots virtual machines of several nodes, is what
//! runs in them, and shows each test in there as one of its own (docs/numa.md). Its harness is
//! libtest-mimic, because std's has no tests that it learns of from elsewhere.

#[path = "../common/mod.rs"]
mod common;

mod cells;
mod contents;
mod devices;
mod document;
mod guest;
mod lab;
mod machine;
mod mishaps;
mod rebind;
mod refusals;
mod report;
mod shortage;
mod touch;
mod workers;

use std::env;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::Arguments;
use libtest_mimic::Completion;
use libtest_mimic::Trial;
use machine::Machine;

fn main() -> ExitCode {
    if let Some(role) = env::args().nth(1).filter(|role| guest::has_role(role)) {
        return guest::play(&role);
    }
    let arguments = Arguments::from_args();
    let machines = lab::KERNELS.map(|kernel| Arc::new(Machine::new(kernel, machine::SILENCE)));
    let trials = match lab::find_missing() {
        Some(why) => vec![Trial::ignorable_test("lab", move || {
            Ok(Completion::ignored_with(why))
        })],
        None => trials(&machines),
    };
    let is_wanted = |name: &str| {
        let mut trials = trials.iter().filter(|trial| trial.name() == name);
        trials.any(|trial| !arguments.is_filtered_out(trial))
    };
    let wanted_on = |machine: &Machine| {
        let names = guest::tests().into_iter().map(|test| test.name);
        let is_wanted = |test: &String| {
            is_wanted(document::NAME) || is_wanted(&format!("{}::{test}", machine.name()))
        };
        names.filter(is_wanted).collect::<Vec<_>>()
    };
    if !arguments.list {
        let machines = machines
            .iter()
            .map(|machine| (Arc::clone(machine), wanted_on(machine)));
        let to_boot = |(machine, tests): &(Arc<Machine>, Vec<String>)| {
            !tests.is_empty() || is_wanted(&format!("{}::machine", machine.name()))
        };
        Machine::boot(machines.filter(to_boot).collect());
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    for machine in &machines {
        machine.summarise();
    }
    conclusion.exit_code()
}

fn trials(machines: &[Arc<Machine>]) -> Vec<Trial> {
    // First, for it has machines of its own that can run meanwhile.
    let mut trials = vec![Trial::test(mishaps::NAME, mishaps::check)];
    for machine in machines {
        let ours = Arc::clone(machine);
        let name = format!("{}::machine", machine.name());
        trials.push(Trial::test(name, move || ours.judge()));
        for test in guest::tests() {
            let ours = Arc::clone(machine);
            let name = format!("{}::{}", machine.name(), test.name);
            trials.push(Trial::ignorable_test(name, move || ours.wait(&test.name)));
        }
    }
    let machines = machines.to_vec();
    trials.push(Trial::ignorable_test(document::NAME, move || {
        document::check(&machines)
    }));
    trials
}

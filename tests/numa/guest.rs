// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Inside a machine of the lab: runs the tests one after the other and says so, a line of JSON for
//! each event.

use std::env;
use std::fs;
use std::panic;
use std::process::Child;
use std::process::Command;
use std::process::ExitCode;
use std::sync::Mutex;

use serde_json::json;
use serde_json::Value as Json;

/// First arguments that make this program something else than a harness. After these two come the
/// names of the tests to run.
pub const ALL: &str = "--all-of-these";
const FROM: &str = "--from-test=";
const CHILD: &str = "--child=";

/// Where the running test is written down, for when the kernel ends the process.
const RUNNING: &str = "/tmp/running";

/// A test: what it says when it passes goes into docs/numa.md.
pub struct Test {
    pub name: String,
    pub run: Box<dyn Fn() -> String + Send>,
}

impl Test {
    pub fn new(name: &str, run: fn()) -> Self {
        Self {
            name: name.to_owned(),
            run: Box::new(move || {
                run();
                String::new()
            }),
        }
    }
}

pub fn tests() -> Vec<Test> {
    let mut tests = super::cells::tests();
    tests.extend(super::refusals::tests());
    tests.extend(super::report::tests());
    tests.extend(super::workers::tests());
    tests.extend(super::rebind::tests());
    tests.extend(super::shortage::tests());
    tests.extend(super::touch::tests());
    tests.extend(super::devices::tests());
    tests.extend(super::contents::tests());
    tests
}

/// What the tests start as processes of their own, by name.
const CHILDREN: &[(&str, fn())] = &[
    ("bound_and_confined", super::shortage::bound_and_confined),
    ("confined", super::refusals::confined),
    ("confined_to_one", super::shortage::confined_to_one),
    ("peer", super::rebind::peer),
    ("taker", super::shortage::taker),
];

/// An event, as the machine tells it.
pub enum Line {
    Begin(String),
    Passed(String, String),
    Failed(String, String),
    /// Something to show whatever else happens.
    Figure(String),
}

impl Line {
    fn print(&self) {
        let line = match self {
            Self::Begin(name) => json!({"begin": name}),
            Self::Passed(name, about) => json!({"passed": name, "about": about}),
            Self::Failed(name, why) => json!({"failed": name, "about": why}),
            Self::Figure(text) => json!({"figure": text}),
        };
        println!("{line}");
    }

    /// None: it is something else that was printed.
    pub fn parse(text: &str) -> Option<Self> {
        let line: Json = serde_json::from_str(text).ok()?;
        let word = |key: &str| Some(line.get(key)?.as_str()?.to_owned());
        let about = word("about").unwrap_or_default();
        word("begin")
            .map(Self::Begin)
            .or_else(|| Some(Self::Passed(word("passed")?, about.clone())))
            .or_else(|| Some(Self::Failed(word("failed")?, about.clone())))
            .or_else(|| word("figure").map(Self::Figure))
    }
}

pub fn show(figure: String) {
    Line::Figure(figure).print();
}

pub fn has_role(argument: &str) -> bool {
    argument == ALL || argument.starts_with(FROM) || argument.starts_with(CHILD)
}

pub fn play(role: &str) -> ExitCode {
    if let Some(first) = role.strip_prefix(FROM) {
        run_from(first.parse().unwrap());
    } else if let Some(name) = role.strip_prefix(CHILD) {
        CHILDREN.iter().find(|child| child.0 == name).unwrap().1();
    } else {
        run_all();
    }
    ExitCode::SUCCESS
}

/// Starts a process of this program.
pub fn start_child(name: &str, arguments: &[&str]) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.arg(format!("{CHILD}{name}")).args(arguments);
    command.spawn().unwrap()
}

/// The tests that the arguments name.
fn wanted_tests() -> Vec<Test> {
    let names: Vec<_> = env::args().skip(2).collect();
    let mut tests = tests();
    tests.extend(super::mishaps::tests());
    tests.retain(|test| names.contains(&test.name));
    tests
}

/// Runs the tests in a process of their own; after one that was its end, in another one.
fn run_all() {
    let tests = wanted_tests();
    let mut next = 0;
    while next < tests.len() {
        let mut child = Command::new(env::current_exe().unwrap());
        child.arg(format!("{FROM}{next}")).args(env::args().skip(2));
        let status = child.status().unwrap();
        if status.success() {
            return;
        }
        let running: usize = fs::read_to_string(RUNNING).unwrap().parse().unwrap();
        let why = format!("it ended the whole process: {status}");
        Line::Failed(tests[running].name.clone(), why).print();
        next = running + 1;
    }
}

fn run_from(first: usize) {
    static PANIC: Mutex<String> = Mutex::new(String::new());
    panic::set_hook(Box::new(|info| {
        let mut first = PANIC.lock().unwrap();
        if first.is_empty() {
            *first = info.to_string();
        }
    }));
    for (index, test) in wanted_tests().into_iter().enumerate().skip(first) {
        fs::write(RUNNING, index.to_string()).unwrap();
        Line::Begin(test.name.clone()).print();
        PANIC.lock().unwrap().clear();
        // From test to test the same: the first node.
        run_on(&[0, 1]);
        match panic::catch_unwind(panic::AssertUnwindSafe(&test.run)) {
            Ok(about) => Line::Passed(test.name, about).print(),
            Err(_) => Line::Failed(test.name, PANIC.lock().unwrap().clone()).print(),
        }
    }
}

/// Lets the calling thread run on these processors.
pub fn run_on(cpus: &[usize]) {
    // SAFETY: a set of processors is plain bits, and outlives the call that reads it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &cpu in cpus {
            libc::CPU_SET(cpu, &mut set);
        }
        libc::sched_setaffinity(0, std::mem::size_of_val(&set), &set)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

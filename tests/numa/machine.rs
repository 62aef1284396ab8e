// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A machine of the lab, seen from outside: what it says about its tests, and how it ended. A
//! kernel that panicked, a machine that hangs and one that never ran are errors of the lab; a test
//! that failed is none.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::process::Child;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use libtest_mimic::Completion;
use libtest_mimic::Failed;

use super::guest::Line;
use super::lab;

/// A machine that says nothing for as long hangs. Its slowest test takes a few seconds on a machine
/// that has nothing else to do.
pub const SILENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct State {
    /// What each test that ended had to say; an error: why it failed.
    results: BTreeMap<String, Result<String, String>>,
    running: String,
    /// What it said since the running test began, for when it fails.
    output: String,
    figures: Vec<String>,
    boots: bool,
    speaks: bool,
    last_heard: Option<Instant>,
    hangs: bool,
    status: Option<String>,
    /// How it ended: well, or with an error of the lab.
    verdict: Option<Result<(), String>>,
    seconds: f64,
}

pub struct Machine {
    kernel: &'static str,
    silence: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

impl Machine {
    pub fn new(kernel: &'static str, silence: Duration) -> Self {
        Self {
            kernel,
            silence,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub fn kernel(&self) -> &'static str {
        self.kernel
    }

    pub fn name(&self) -> String {
        format!("linux_{}", self.kernel.replace('.', "_"))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    /// Runs tests on machines, one for each processor at once, on threads of their own: a machine
    /// keeps one busy most of the time.
    pub fn boot(machines: Vec<(Arc<Self>, Vec<String>)>) {
        for (machine, _) in &machines {
            machine.change(|state| state.boots = true);
        }
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let queue = Arc::new(Mutex::new(machines.into_iter()));
        for _ in 0..processors {
            let queue = Arc::clone(&queue);
            thread::spawn(move || loop {
                let machine = queue.lock().unwrap().next();
                let Some((machine, tests)) = machine else {
                    return;
                };
                let began = Instant::now();
                let verdict = machine.run(&tests);
                machine.change(|state| {
                    state.seconds = began.elapsed().as_secs_f64();
                    state.verdict = Some(verdict);
                });
            });
        }
    }

    pub fn run(self: &Arc<Self>, tests: &[String]) -> Result<(), String> {
        let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut child = lab::command(self.kernel, scratch.path(), tests)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", lab::script().display()))?;
        self.change(|state| state.last_heard = Some(Instant::now()));
        let said = BufReader::new(child.stdout.take().unwrap());
        let errors = child.stderr.take().unwrap();
        let child = Arc::new(Mutex::new(child));
        let watch = {
            let (machine, child) = (Arc::clone(self), Arc::clone(&child));
            thread::spawn(move || machine.watch(&child))
        };
        let errors = thread::spawn(move || std::io::read_to_string(errors).unwrap_or_default());
        // A line may be torn by what the kernel of a dying machine does.
        for line in said.split(b'\n').map_while(Result::ok) {
            self.hear(String::from_utf8_lossy(&line).trim_end());
        }
        watch.join().unwrap();
        let errors = errors.join().unwrap();
        let console = fs::read(scratch.path().join("console")).unwrap_or_default();
        self.conclude(&String::from_utf8_lossy(&console), &errors)
    }

    /// Waits for its end, and brings that about when it hangs.
    fn watch(&self, child: &Mutex<Child>) {
        while child.lock().unwrap().try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_millis(100));
            let mut state = self.state.lock().unwrap();
            // Booting takes longer than any test.
            let limit = if state.speaks { self.silence } else { SILENCE };
            if state.last_heard.unwrap().elapsed() > limit {
                state.hangs = true;
                drop(state);
                let _ = child.lock().unwrap().kill();
            }
        }
    }

    fn hear(&self, text: &str) {
        self.change(|state| {
            state.last_heard = Some(Instant::now());
            state.speaks = true;
            match Line::parse(text) {
                Some(Line::Begin(name)) => {
                    state.running = name;
                    state.output.clear();
                }
                Some(Line::Passed(name, about)) => {
                    state.results.insert(name, Ok(about));
                    state.running.clear();
                }
                Some(Line::Failed(name, why)) => {
                    let why = format!("{why}\n{}", state.output);
                    state.results.insert(name, Err(why));
                    state.running.clear();
                }
                Some(Line::Figure(text)) => state.figures.push(text),
                None => match text.strip_prefix("VM-STATUS ") {
                    Some(status) => state.status = Some(status.to_owned()),
                    None => state.output += &format!("{text}\n"),
                },
            }
        });
    }

    fn conclude(&self, console: &str, errors: &str) -> Result<(), String> {
        let state = self.state.lock().unwrap();
        let at = match state.running.as_str() {
            "" => String::new(),
            name => format!(" in {name}"),
        };
        let tail = |text: &str| {
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(40)..].join("\n")
        };
        if let Some(panic) = console.find("Kernel panic - not syncing") {
            return Err(format!(
                "the kernel panicked{at}:\n{}",
                tail(&console[..panic + 2000.min(console.len() - panic)])
            ));
        }
        if state.hangs {
            let seconds = self.silence.as_secs();
            return Err(format!(
                "it hangs{at}: {seconds} s without a word:\n{}\nits console:\n{}",
                state.output,
                tail(console)
            ));
        }
        match state.status.as_deref() {
            Some("0") => Ok(()),
            Some(status) => Err(format!(
                "the program in it ended with status {status}{at}:\n{}",
                state.output
            )),
            None => Err(format!(
                "it ended{at} without a status:\n{errors}\n{}\n{}",
                state.output,
                tail(console)
            )),
        }
    }

    /// The verdict on the machine itself.
    pub fn judge(&self) -> Result<(), Failed> {
        let state = self.state.lock().unwrap();
        let state = self
            .changed
            .wait_while(state, |state| state.verdict.is_none())
            .unwrap();
        match state.verdict.as_ref().unwrap() {
            Ok(()) => Ok(()),
            Err(why) => {
                Err(format!("the lab's error, no test's: Linux {}: {why}", self.kernel).into())
            }
        }
    }

    /// What became of a test in it.
    pub fn wait(&self, test: &str) -> Result<Completion, Failed> {
        let state = self.state.lock().unwrap();
        let state = self
            .changed
            .wait_while(state, |state| {
                state.verdict.is_none() && !state.results.contains_key(test)
            })
            .unwrap();
        match state.results.get(test) {
            Some(Ok(_)) => Ok(Completion::Completed),
            Some(Err(why)) => Err(format!("on Linux {}: {why}", self.kernel).into()),
            None => Ok(Completion::ignored_with("the machine ended before it")),
        }
    }

    /// Why a test failed; None: it did not, or did not end.
    pub fn failure(&self, test: &str) -> Option<String> {
        let state = self.state.lock().unwrap();
        state.results.get(test)?.clone().err()
    }

    /// What the tests had to say; None when one of them failed or did not run.
    pub fn wait_for_all(&self) -> Option<BTreeMap<String, String>> {
        self.judge().ok()?;
        let state = self.state.lock().unwrap();
        let results = state.results.iter();
        results
            .map(|(name, result)| Some((name.clone(), result.clone().ok()?)))
            .collect()
    }

    /// Once it has ended: one line on the whole, and the figures that tests gave.
    pub fn summarise(&self) {
        let state = self.state.lock().unwrap();
        let state = self
            .changed
            .wait_while(state, |state| state.boots && state.verdict.is_none())
            .unwrap();
        if !state.boots {
            return;
        }
        let failed = state
            .results
            .values()
            .filter(|result| result.is_err())
            .count();
        println!(
            "Linux {}: {} tests in {:.0} s, {failed} failed",
            self.kernel,
            state.results.len(),
            state.seconds
        );
        if !state.figures.is_empty() {
            println!("    rebound: {}", state.figures.join("; "));
        }
    }
}

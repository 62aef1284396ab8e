// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Everything that users do, at random and for as long as wanted (docs/testing-tools.md): nothing may
//! grow, contents are what was written, and errors are those that are expected.

#![cfg(feature = "cli")]

#[path = "../common/mod.rs"]
mod common;

mod act;
mod held;
mod measure;
mod picture;
mod random;
mod servers;
mod shortage;
mod verdict;

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use act::Abilities;
use act::Worker;
use act::World;
use measure::Recorder;
use random::Random;
use servers::Servers;
use shortage::Shortage;
use verdict::Idle;
use verdict::Verdict;
use verdict::FEWEST_ROUNDS;

const THREADS: u64 = 4;
const CHILD: &str = "HOSTMEM_SOAK_CHILD";

/// A number that the environment gives.
fn setting(name: &str, default: u64) -> u64 {
    env::var(format!("HOSTMEM_SOAK_{name}"))
        .ok()
        .map_or(default, |text| text.parse().unwrap())
}

/// The soak runs in a process of its own, whose allocator keeps nothing for later: what is there
/// when nobody works has to be the same each time.
#[test]
fn soak() {
    if common::is_instrumented() {
        return;
    }
    if cfg!(target_env = "musl") {
        return common::skip("musl's allocator keeps what was freed");
    }
    if let Ok(directory) = env::var(CHILD) {
        return run(Path::new(&directory));
    }
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args(["soak", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, disk.path())
        .env("MALLOC_ARENA_MAX", "1")
        .env("MALLOC_TRIM_THRESHOLD_", "65536")
        .env("MALLOC_MMAP_THRESHOLD_", "65536")
        .env("GLIBC_TUNABLES", "glibc.pthread.stack_cache_size=0");
    let die_with_parent = || {
        // SAFETY: takes numbers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        Ok(())
    };
    // SAFETY: makes one system call.
    unsafe { child.pre_exec(die_with_parent) };
    let status = child.status().unwrap();
    assert!(status.success(), "{status}");
}

fn run(disk: &Path) {
    // Where the samples and the picture go.
    let output = env::var_os("HOSTMEM_SOAK_WRITE").map_or(disk.to_owned(), PathBuf::from);
    fs::create_dir_all(&output).unwrap();
    let length = Duration::from_secs(setting("SECONDS", 20));
    let seed = setting("SEED", u64::from(std::process::id()));
    eprintln!("soak: {} seconds, seed {seed}", length.as_secs());
    let mut shortage = Shortage::prepare(disk);
    let servers = Servers::start(disk);
    let recorder = Recorder::create(&output.join("soak.csv"));
    let abilities = Abilities::find(&recorder);
    let mut verdict = Verdict::default();
    let start = Instant::now();
    let mut rounds = 0;
    // What leaks takes long to be judged as idle, so that there would be too few rounds to judge.
    while start.elapsed() < length || rounds < FEWEST_ROUNDS {
        let round = shortage.begin(rounds);
        let world = World::new(disk, &shortage, &servers, &recorder, abilities, round);
        let end = Instant::now() + length.div_f64(10.0).min(Duration::from_secs(8));
        thread::scope(|scope| {
            let workers: Vec<_> = (0..THREADS)
                .map(|number| {
                    let random = Random::new((seed * 1_000_003 + rounds) * THREADS + number);
                    let mut worker = Worker::new(&world, random, number);
                    scope.spawn(move || worker.work(end))
                })
                .collect();
            while Instant::now() < end {
                let left = end.saturating_duration_since(Instant::now());
                thread::sleep(left.min(Duration::from_secs(2)));
                shortage.change();
                let now = [Idle::of_self(), Idle::default(), Idle::default()];
                recorder.write_sample(start.elapsed(), round.name(), &now);
            }
            // The scope alone would wait for what they do, not for their end.
            for worker in workers {
                worker.join().unwrap();
            }
        });
        drop(world);
        shortage.end();
        let idle = servers.idle(&recorder, verdict.last());
        recorder.write_sample(start.elapsed(), "idle", &idle);
        verdict.add(idle);
        rounds += 1;
    }
    servers.stop();
    drop(shortage);
    picture::draw(&output);
    eprintln!("{}\n{verdict}", recorder.totals());
    let problems = verdict.problems(&recorder);
    assert!(problems.is_empty(), "seed {seed}:\n{}", problems.join("\n"));
    eprintln!("soak: passed, {rounds} rounds, seed {seed}");
}

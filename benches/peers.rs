// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long hostmem takes for memory beside a running QEMU, and beside the bare system calls: see
//! docs/benchmarks.md.
//!
//! Of QEMU only the program is asked, over QMP.

mod bare;
/// What the tests change the host with.
#[allow(dead_code)]
#[path = "../tests/common/host.rs"]
mod host;

use std::env;
use std::ffi::c_int;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use bare::Pages;
use host::HostLock;
use host::HugePages;
use host::Setting;
use host::HUGE;
use hostmem::Backend;
use hostmem::Builder;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::Objects;
use hostmem::Value;
use serde_json::json;
use serde_json::Value as Json;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const THP: &str = "/sys/kernel/mm/transparent_hugepage";

/// Of each case, of which the fastest counts.
const ROUNDS: usize = 11;
const QUICK_ROUNDS: usize = 3;
/// What a second CPU has to make a plain loop faster by, for a case of two threads to be judged.
const NEEDED_SECOND_CPU: f64 = 1.7;

/// What is said below the table.
static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn note(text: String) {
    eprintln!("note: {text}");
    let mut notes = NOTES.lock().unwrap();
    if !notes.contains(&text) {
        notes.push(text);
    }
}

/// Why something of the host cannot be changed.
fn skip(why: &str) {
    note(format!("skipped: {why}"));
}

// ---- Cases ----

/// What the host has to be like while a case is measured.
#[derive(Clone, Copy)]
enum Needs {
    Nothing,
    /// shmem_enabled of transparent huge pages.
    Shmem(&'static str),
    /// A pool of huge pages of the case's size.
    Pool,
}

struct Case {
    name: &'static str,
    kind: &'static str,
    size: u64,
    /// None: each side's default.
    threads: Option<u32>,
    /// Said to both, beside size and prealloc.
    properties: Json,
    /// Said to hostmem alone, because QEMU does not have it.
    ours: Json,
    needs: Needs,
    /// How many times as fast as QEMU it shall be.
    target: f64,
}

impl Case {
    fn new(name: &'static str, kind: &'static str, size: u64, target: f64) -> Self {
        Self {
            name,
            kind,
            size,
            threads: Some(1),
            properties: json!({}),
            ours: json!({}),
            needs: Needs::Nothing,
            target,
        }
    }

    fn threads(self, threads: Option<u32>) -> Self {
        Self { threads, ..self }
    }

    fn properties(self, properties: Json) -> Self {
        Self { properties, ..self }
    }

    fn ours(self, ours: Json) -> Self {
        Self { ours, ..self }
    }

    fn needs(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    /// Whether there are bare system calls to compare with.
    fn has_bare(&self) -> bool {
        self.kind == "ram"
    }

    fn kind_name(&self) -> String {
        format!("memory-backend-{}", self.kind)
    }

    /// With the size, which may have been cut.
    fn title(&self) -> String {
        let size = match self.size {
            size if size % GIB == 0 => format!("{} GiB", size / GIB),
            size => format!("{} MiB", size / MIB),
        };
        let threads = match self.threads {
            None => "both sides' default threads",
            Some(1) => "1 thread",
            _ => "2 threads",
        };
        format!("{}, {size}, {threads}", self.name)
    }
}

fn cases() -> Vec<Case> {
    let file = |name, directory, target| {
        Case::new(name, "file", 512 * MIB, target)
            .properties(json!({"mem-path": directory, "share": true}))
    };
    vec![
        Case::new("ram", "ram", 2 * GIB, 2.2),
        Case::new("ram", "ram", 2 * GIB, 2.2).threads(None),
        Case::new("ram", "ram", 2 * GIB, 1.3).threads(Some(2)),
        Case::new("memfd", "memfd", GIB, 1.6),
        Case::new("memfd", "memfd", GIB, 1.6).threads(Some(2)),
        Case::new("memfd, shmem_enabled=advise", "memfd", GIB, 7.0).needs(Needs::Shmem("advise")),
        Case::new("memfd, hostmem with thp=always", "memfd", GIB, 8.0)
            .needs(Needs::Shmem("never"))
            .ours(json!({"thp": "always"})),
        Case::new("memfd, hugetlb=on", "memfd", GIB, 2.1)
            .needs(Needs::Pool)
            .properties(json!({"hugetlb": true})),
        file("file on tmpfs, share=on", "/dev/shm", 1.4),
        file("file on disk, share=on", env!("CARGO_TARGET_TMPDIR"), 1.4),
    ]
}

// ---- The host ----

fn meminfo_bytes(name: &str) -> u64 {
    field_bytes(&fs::read_to_string("/proc/meminfo").unwrap(), name)
}

/// A field in KiB of a file in /proc; 0 where it is missing.
fn field_bytes(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let number = value.and_then(|value| value.trim_start_matches(':').split_whitespace().next());
    number.map_or(0, |number| number.parse::<u64>().unwrap() * 1024)
}

/// What a file of choices says, which has the present one in brackets.
fn chosen(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let (_, rest) = text.split_once('[').unwrap_or_default();
    rest.split(']').next().unwrap_or_default().to_owned()
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// The host as a case needs it, and held against others that change it, until it is dropped.
enum Prepared {
    Setting {
        _setting: Option<Setting>,
        _lock: HostLock,
    },
    Pool {
        _pages: HugePages,
    },
}

/// None, with the reason noted, where it cannot be had.
fn prepare(case: &Case) -> Option<Prepared> {
    let value = match case.needs {
        Needs::Nothing => None,
        Needs::Shmem(value) => Some(value),
        Needs::Pool => {
            let _pages = HugePages::have(case.size / HUGE)?;
            return Some(Prepared::Pool { _pages });
        }
    };
    let _lock = HostLock::take();
    let path = format!("{THP}/shmem_enabled");
    let _setting = match value.filter(|value| chosen(&path) != *value) {
        Some(value) => Some(Setting::set(path, value)?),
        None => None,
    };
    Some(Prepared::Setting { _setting, _lock })
}

/// Twice the size has to be there.
fn fit_size(case: &mut Case) {
    let wanted = case.size;
    let available = meminfo_bytes("MemAvailable");
    while case.size > 64 * MIB && 2 * case.size > available {
        case.size /= 2;
    }
    if case.size != wanted {
        note(format!(
            "{}: {} MiB instead of {} MiB, because {} MiB are available",
            case.name,
            case.size / MIB,
            wanted / MIB,
            available / MIB
        ));
    }
}

/// Brings memory back that a hypervisor has taken while it was idle, and CPUs to speed.
fn warm_up(objects: &Objects) {
    let size = (4 * GIB).min(meminfo_bytes("MemAvailable") / 2) / HUGE * HUGE;
    for _ in 0..3 {
        let builder = objects.builder("memory-backend-ram", "warm").unwrap();
        let memory = builder.size(size).prealloc(true).complete();
        if let Err(failed) = memory {
            return note(format!("memory is not warmed up: {}", failed.error));
        }
    }
}

// ---- Signals ----

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_signal: c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// So that an end from outside leaves the host as it was.
fn catch_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler = interrupt as extern "C" fn(c_int) as libc::sighandler_t;
        // SAFETY: the handler stores to an atomic, which it may at any time.
        unsafe { libc::signal(signal, handler) };
    }
}

/// Unwinds, whereby everything is put back.
fn end_if_interrupted() {
    assert!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
}

// ---- QEMU ----

/// A running QEMU without a machine, spoken to over QMP.
struct Qemu {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    version: String,
}

impl Qemu {
    /// The reason where there is none, or only an old one.
    fn start() -> Result<Self, String> {
        let mut process = Command::new("qemu-system-x86_64")
            .args("-machine none -nodefaults -display none -S -qmp stdio".split(' '))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("qemu-system-x86_64: {error}"))?;
        let mut qemu = Self {
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()),
            process,
            version: String::new(),
        };
        let greeting = qemu.read()?;
        let version = &greeting["QMP"]["version"]["qemu"];
        let [major, minor, micro] = ["major", "minor", "micro"].map(|part| &version[part]);
        qemu.version = format!("{major}.{minor}.{micro}");
        if major.as_u64().is_none_or(|major| major < 10) {
            return Err(format!("this is QEMU {}; 10 is needed", qemu.version));
        }
        qemu.execute("qmp_capabilities", json!({}))?;
        Ok(qemu)
    }

    fn read(&mut self) -> Result<Json, String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err("QEMU is gone".into()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn execute(&mut self, command: &str, arguments: Json) -> Result<(), String> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.input, "{request}").map_err(|error| error.to_string())?;
        loop {
            let answer = self.read()?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                return Err(format!("QEMU: {command}: {}", error["desc"]));
            }
        }
    }

    /// What is mapped and present, of small and of huge pages.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        field_bytes(&status, "VmRSS") + field_bytes(&status, "HugetlbPages")
    }

    fn is_idle(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        // A thread that has ended meanwhile is idle too.
        let stats =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
        let mut states = stats.filter_map(|stat| stat.rsplit(") ").next()?.chars().next());
        states.all(|state| state == 'S')
    }

    /// It gives memory back some time after it says so, and must not do so beside the next.
    fn settle(&self, size: u64) -> Result<(), String> {
        let start = Instant::now();
        let mut idle = 0;
        while idle < 3 {
            if start.elapsed() > Duration::from_secs(30) {
                return Err("QEMU does not give the memory back".into());
            }
            thread::sleep(Duration::from_millis(2));
            idle = match self.resident() < size && self.is_idle() {
                true => idle + 1,
                false => 0,
            };
        }
        Ok(())
    }

    /// From the command until its answer.
    fn time(&mut self, case: &Case) -> Result<Duration, String> {
        let mut object = json!({
            "qom-type": case.kind_name(),
            "id": "mem0",
            "size": case.size,
            "prealloc": true,
        });
        if let Some(threads) = case.threads {
            object["prealloc-threads"] = threads.into();
        }
        for (property, value) in case.properties.as_object().unwrap() {
            object[property] = value.clone();
        }
        let start = Instant::now();
        self.execute("object-add", object)?;
        let time = start.elapsed();
        if self.resident() < case.size {
            return Err("QEMU's memory is not all there".into());
        }
        self.execute("object-del", json!({"id": "mem0"}))?;
        self.settle(case.size)?;
        Ok(time)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// ---- The other sides ----

fn to_value(json: &Json) -> Value {
    match json {
        Json::Bool(on) => Value::Bool(*on),
        Json::String(text) => Value::Text(text.clone()),
        other => panic!("{other}"),
    }
}

fn configure(objects: &Objects, case: &Case) -> hostmem::Result<Builder> {
    let mut builder = objects.builder(&case.kind_name(), "mem0")?;
    builder.set("size", case.size)?;
    builder.set("prealloc", true)?;
    if let Some(threads) = case.threads {
        builder.set("prealloc-threads", threads)?;
    }
    for properties in [&case.properties, &case.ours] {
        for (property, value) in properties.as_object().unwrap() {
            builder.set(property, to_value(value))?;
        }
    }
    Ok(builder)
}

fn is_all_there(backend: &Backend, case: &Case) -> bool {
    let placement = backend.placement();
    placement.is_ok_and(|placement| placement.resident == case.size)
}

fn time_hostmem(objects: &Objects, case: &Case) -> Result<Duration, String> {
    let builder = configure(objects, case).map_err(|error| error.to_string())?;
    let start = Instant::now();
    let backend = builder.complete();
    let time = start.elapsed();
    match backend {
        Err(failed) => Err(format!("hostmem: {}", failed.error)),
        Ok(backend) if !is_all_there(&backend, case) => {
            Err("hostmem's memory is not all there".into())
        }
        Ok(_) => Ok(time),
    }
}

fn time_bare(case: &Case) -> Duration {
    let pages = match chosen(&format!("{THP}/enabled")).as_str() {
        "madvise" | "always" => Pages::Huge,
        _ => Pages::Small,
    };
    let threads = match case.threads {
        Some(threads) => threads as usize,
        None => thread::available_parallelism().map_or(1, usize::from),
    };
    let start = Instant::now();
    let memory = bare::Memory::new(case.size, pages);
    bare::populate(&memory, threads);
    start.elapsed()
}

/// Nothing but arithmetic, each step of which needs the one before.
fn count(steps: u64) {
    let mut number = 1_u64;
    for _ in 0..steps {
        number = black_box(number.wrapping_mul(6364136223846793005).wrapping_add(1));
    }
}

fn time_loop(threads: usize) -> Duration {
    const STEPS: u64 = 10_000_000;
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| count(STEPS));
        }
        count(STEPS);
    });
    start.elapsed()
}

// ---- Measuring ----

/// The least time of each.
struct Row {
    title: String,
    target: f64,
    hostmem: Duration,
    qemu: Option<Duration>,
    bare: Option<Duration>,
    /// How many times as fast two threads do a plain loop's work, where there are two.
    second_cpu: Option<f64>,
    /// Of two threads on both sides.
    needs_second_cpu: bool,
}

fn ratio(slow: Duration, fast: Duration) -> f64 {
    slow.as_secs_f64() / fast.as_secs_f64()
}

impl Row {
    fn speed_up(&self) -> Option<f64> {
        self.qemu.map(|qemu| ratio(qemu, self.hostmem))
    }

    fn verdict(&self) -> &'static str {
        let Some(speed_up) = self.speed_up() else {
            return "";
        };
        let has_second_cpu = self
            .second_cpu
            .is_some_and(|gain| gain >= NEEDED_SECOND_CPU);
        if self.needs_second_cpu && !has_second_cpu {
            "not judged"
        } else if speed_up >= self.target {
            "reached"
        } else {
            "missed"
        }
    }
}

/// Who takes part, and the times of each.
#[derive(Clone, Copy)]
enum Side {
    Hostmem,
    Qemu,
    Bare,
    OneLoop,
    TwoLoops,
}

const SIDES: [Side; 5] = [
    Side::Hostmem,
    Side::Qemu,
    Side::Bare,
    Side::OneLoop,
    Side::TwoLoops,
];

/// In turns, each going first in its turn, so that what disturbs a machine for a while disturbs
/// all. A round before the others is not counted.
fn measure(
    objects: &Objects,
    qemu: &mut Option<Qemu>,
    case: &Case,
    rounds: usize,
) -> Result<Row, String> {
    let mut least = [None::<Duration>; SIDES.len()];
    for round in 0..=rounds {
        for turn in 0..SIDES.len() {
            end_if_interrupted();
            let index = (round + turn) % SIDES.len();
            let time = match (SIDES[index], qemu.as_mut()) {
                (Side::Hostmem, _) => time_hostmem(objects, case)?,
                (Side::Qemu, Some(qemu)) => qemu.time(case)?,
                (Side::Bare, _) if case.has_bare() => time_bare(case),
                (Side::OneLoop, _) if case.threads != Some(1) => time_loop(1),
                (Side::TwoLoops, _) if case.threads != Some(1) => time_loop(2),
                _ => continue,
            };
            if round > 0 {
                least[index] = Some(least[index].map_or(time, |before| before.min(time)));
            }
        }
    }
    let [hostmem, qemu, bare, one_loop, two_loops] = least;
    Ok(Row {
        title: case.title(),
        target: case.target,
        hostmem: hostmem.unwrap(),
        qemu,
        bare,
        second_cpu: one_loop
            .zip(two_loops)
            .map(|(one, two)| 2.0 * ratio(one, two)),
        needs_second_cpu: case.threads == Some(2),
    })
}

fn measure_all(objects: &Objects, qemu: &mut Option<Qemu>, options: &Options) -> Vec<Row> {
    let mut rows = Vec::new();
    for mut case in cases() {
        let is_wanted = options
            .wanted
            .iter()
            .all(|part| case.title().contains(part));
        if !is_wanted || (qemu.is_none() && !case.has_bare()) {
            continue;
        }
        fit_size(&mut case);
        eprintln!("{}", case.title());
        let Some(_prepared) = prepare(&case) else {
            note(format!("{}: skipped, for the reason above", case.title()));
            continue;
        };
        match measure(objects, qemu, &case, options.rounds) {
            Ok(row) => rows.push(row),
            Err(why) => {
                note(format!("{}: skipped: {why}", case.title()));
                restart(qemu);
            }
        }
    }
    rows
}

/// One that has failed may still have the object.
fn restart(qemu: &mut Option<Qemu>) {
    if qemu.take().is_some() {
        *qemu = start_qemu();
    }
}

fn start_qemu() -> Option<Qemu> {
    Qemu::start()
        .inspect_err(|why| note(format!("no QEMU to compare with, bare calls only: {why}")))
        .ok()
}

// ---- Telling ----

fn milliseconds(time: Option<Duration>) -> String {
    time.map_or(String::new(), |time| {
        format!("{:.1}", time.as_secs_f64() * 1e3)
    })
}

fn times(number: Option<f64>) -> String {
    number.map_or(String::new(), |number| format!("{number:.2}"))
}

fn print_table(rows: &[Row]) {
    println!(
        "| case | hostmem ms | QEMU ms | QEMU / hostmem | target | | bare ms | hostmem / bare \
         | second CPU |"
    );
    println!("|---|--:|--:|--:|--:|---|--:|--:|--:|");
    for row in rows {
        println!(
            "| {} | {} | {} | {} | {:.1} | {} | {} | {} | {} |",
            row.title,
            milliseconds(Some(row.hostmem)),
            milliseconds(row.qemu),
            times(row.speed_up()),
            row.target,
            row.verdict(),
            milliseconds(row.bare),
            times(row.bare.map(|bare| ratio(row.hostmem, bare))),
            times(row.second_cpu),
        );
    }
}

fn print_notes() {
    let notes = NOTES.lock().unwrap();
    if !notes.is_empty() {
        println!();
    }
    for note in notes.iter() {
        println!("- {note}");
    }
}

/// Bars of how many times as fast as QEMU, a tick for each target.
fn draw(rows: &[Row]) -> String {
    const LEFT: f64 = 330.0;
    const WIDTH: f64 = 420.0;
    const STEP: f64 = 26.0;
    const TOP: f64 = 40.0;
    let bars: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((row, row.speed_up()?)))
        .collect();
    let longest = bars.iter().fold(1.0, |most, (row, speed_up)| {
        row.target.max(*speed_up).max(most)
    });
    let at = |value: f64| LEFT + WIDTH * value / longest;
    let bottom = TOP + STEP * bars.len() as f64;

    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="820" height="{:.0}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#fff"/>
<text x="10" y="22" font-size="14">Preallocation: times as fast as QEMU (bar), target (tick)</text>
"##,
        bottom + 30.0
    );
    for (index, (row, speed_up)) in bars.iter().enumerate() {
        let y = TOP + STEP * index as f64;
        let (end, target) = (at(*speed_up), at(row.target));
        let colour = match row.verdict() {
            "reached" => "#2a7f62",
            "missed" => "#c0563b",
            _ => "#9a9a9a",
        };
        let _ = writeln!(
            svg,
            r##"<text x="{:.0}" y="{:.1}" text-anchor="end">{}</text>
<rect x="{LEFT}" y="{:.1}" width="{:.1}" height="16" fill="{colour}"/>
<line x1="{target:.1}" x2="{target:.1}" y1="{:.1}" y2="{:.1}" stroke="#222" stroke-width="2"/>
<text x="{:.1}" y="{:.1}">{speed_up:.1}</text>"##,
            LEFT - 8.0,
            y + 16.0,
            row.title,
            y + 4.0,
            end - LEFT,
            y + 2.0,
            y + 22.0,
            end.max(target) + 6.0,
            y + 16.0,
        );
    }
    let one = at(1.0);
    let _ = writeln!(
        svg,
        r##"<line x1="{one:.1}" x2="{one:.1}" y1="{TOP}" y2="{bottom}" stroke="#222" stroke-dasharray="3 3"/>
<text x="{one:.1}" y="{:.1}" text-anchor="middle">1 = QEMU</text>
</svg>"##,
        bottom + 16.0
    );
    svg
}

// ---- Beginning ----

struct Options {
    /// Cargo says so when it measures; trying the benchmarks out measures nothing.
    measures: bool,
    rounds: usize,
    svg: Option<PathBuf>,
    /// Parts of the titles of the cases to measure.
    wanted: Vec<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            measures: false,
            rounds: ROUNDS,
            svg: None,
            wanted: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => options.measures = true,
                "--quick" => options.rounds = QUICK_ROUNDS,
                "--svg" => options.svg = Some(arguments.next().ok_or("--svg needs a file")?.into()),
                flag if flag.starts_with('-') => return Err(format!("{flag} is unknown")),
                _ => options.wanted.push(argument),
            }
        }
        Ok(options)
    }
}

fn run(options: &Options) -> io::Result<()> {
    catch_signals();
    let host = Host::probe().unwrap();
    let objects = Objects::new(&host, &Defaults::qemu()).unwrap();
    let mut qemu = start_qemu();
    let version = qemu.as_ref().map(|qemu| qemu.version.clone());
    let load = load_average();
    warm_up(&objects);
    let rows = measure_all(&objects, &mut qemu, options);

    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!(
        "hostmem {} beside QEMU {}: Linux {}, {} CPUs, load average {load} before and {} after, \
         shmem_enabled={}, the least of {} rounds\n",
        env!("CARGO_PKG_VERSION"),
        version.as_deref().unwrap_or("(none)"),
        kernel.trim(),
        thread::available_parallelism().map_or(1, usize::from),
        load_average(),
        chosen(&format!("{THP}/shmem_enabled")),
        options.rounds
    );
    print_table(&rows);
    print_notes();
    match &options.svg {
        Some(file) => fs::write(file, draw(&rows)),
        None => Ok(()),
    }
}

fn main() -> ExitCode {
    let options = match Options::parse(env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}; usage: [--quick] [--svg FILE] [part of a case's title]...");
            return ExitCode::from(2);
        }
    };
    if !options.measures {
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that begins as an image, and saving it, compared with the bare system calls and with a
//! running QEMU: see docs/benchmarks.md.
//!
//! All sides of a row are measured in turns in one run, so that a disturbance hits all of them. The
//! least time counts.

#[path = "../bare/mod.rs"]
mod bare;
#[path = "bare.rs"]
mod calls;
mod qemu;
#[path = "../qmp/mod.rs"]
mod qmp;

use std::env;
use std::fs;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use hostmem::Backend;
use hostmem::Claim;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::Objects;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HUGE_PAGE: u64 = 2 * MIB;
/// What a worker of a fill takes at a time.
const CHUNK: u64 = 8 * MIB;

/// Rounds that count. Two are made before them, so that the CPUs clock up.
const ROUNDS: usize = 15;
const QUICK_ROUNDS: usize = 2;
/// Of what takes seconds.
const SLOW_ROUNDS: usize = 3;
/// Touches of each kind in a round.
const TOUCHES: u64 = 64;

const EAGER: &str = "prealloc=on";
const LAZY: &str = "prealloc=on,prealloc-mode=background";
const DEMAND: &str = "prealloc=off";

fn elapsed<T>(function: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    function();
    start.elapsed()
}

/// Reads one byte of memory that is mapped.
fn touch(address: *const u8, offset: u64) {
    // SAFETY: the callers' offsets are inside of their memory.
    unsafe { address.wrapping_add(offset as usize).read_volatile() };
}

/// The number that is greater than so many percent of them.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

fn gibs(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / GIB as f64 / time.as_secs_f64()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// 1 and all CPUs, without duplicates.
fn thread_counts() -> Vec<usize> {
    let mut counts = vec![1, cpus()];
    counts.dedup();
    counts
}

// ---- Images ----

/// A file of random bytes, or of every other 8 MiB of them, and what of it is data.
struct Image {
    path: PathBuf,
    file: File,
    size: u64,
    data: Vec<Range<u64>>,
}

impl Image {
    fn new(directory: &Path, name: &str, size: u64, step: u64) -> io::Result<Self> {
        let path = directory.join(name);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        file.set_len(size)?;
        let mut random = File::open("/dev/urandom")?;
        let mut bytes = vec![0; CHUNK as usize];
        let parts = (0..size).step_by(step as usize);
        let data: Vec<_> = parts.map(|begin| begin..begin + CHUNK).collect();
        for range in &data {
            io::Read::read_exact(&mut random, &mut bytes)?;
            file.write_all_at(&bytes, range.start)?;
        }
        // So that no round is disturbed by writing it to the disk.
        file.sync_all()?;
        Ok(Self {
            path,
            file,
            size,
            data,
        })
    }

    /// Of this size and without data.
    fn sparse(directory: &Path, name: &str, size: u64) -> io::Result<Self> {
        let path = directory.join(name);
        let file = File::create_new(&path)?;
        file.set_len(size)?;
        Ok(Self {
            path,
            file,
            size,
            data: Vec::new(),
        })
    }

    fn data_bytes(&self) -> u64 {
        self.data.iter().map(|range| range.end - range.start).sum()
    }

    /// Takes it out of the page cache.
    fn cool(&self) {
        // SAFETY: takes numbers.
        let failed =
            unsafe { libc::posix_fadvise(self.file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        assert_eq!(failed, 0);
    }
}

// ---- Measuring ----

struct Bench {
    objects: Objects,
    rounds: usize,
    slow_rounds: usize,
    /// Where files are made.
    directory: PathBuf,
    image: Image,
}

/// A side of a row: its name, and what measures it once.
type Side<'a> = (&'a str, Box<dyn FnMut() -> Duration + 'a>);

/// The least time of each side, in turns, whose order turns too.
fn alternate(rounds: usize, sides: &mut [Side<'_>]) -> Vec<Duration> {
    let mut least = vec![Duration::MAX; sides.len()];
    for round in 0..rounds + 2 {
        for index in 0..sides.len() {
            let index = (index + round) % sides.len();
            let time = (sides[index].1)();
            if round >= 2 {
                least[index] = least[index].min(time);
            }
        }
    }
    least
}

/// Prints all sides, and how many times as fast as each other the first one is.
fn print_speeds(what: &str, bytes: u64, sides: &[Side<'_>], least: &[Duration]) {
    println!("  {what}");
    for ((name, _), &time) in sides.iter().zip(least) {
        let ratio = time.as_secs_f64() / least[0].as_secs_f64();
        println!(
            "    {name:<44} {:>8.2} ms {:>7.2} GiB/s {ratio:>8.3}",
            time.as_secs_f64() * 1e3,
            gibs(bytes, time)
        );
    }
}

impl Bench {
    fn complete(&self, image: &Image, options: &str) -> Backend {
        let options = format!(
            "memory-backend-ram,id=ram0,thp=always,size={},contents={},{options}",
            image.size,
            image.path.display()
        );
        let builder = self.objects.parse(&options).unwrap();
        builder
            .complete()
            .unwrap_or_else(|failed| panic!("{options}: {}", failed.error))
    }

    /// Until all of it is there. Prints a note where not all is huge afterwards.
    fn time(&self, image: &Image, options: &str) -> Duration {
        let start = Instant::now();
        let backend = self.complete(image, options);
        assert!(backend.wait_prealloc(None).unwrap());
        let time = start.elapsed();
        let placement = backend.placement().unwrap();
        assert_eq!(placement.resident, image.size);
        if placement.huge != image.size {
            let (huge, all) = (placement.huge / MIB, image.size / MIB);
            println!("    note: {huge} MiB of {all} MiB are huge: {options}");
        }
        time
    }

    fn side<'a>(&'a self, name: &'a str, image: &'a Image, options: String) -> Side<'a> {
        (name, Box::new(move || self.time(image, &options)))
    }

    fn bare_read<'a>(&'a self, image: &'a Image) -> Side<'a> {
        let read = move || calls::time_read(&image.file, image.size, &image.data).unwrap();
        ("bare read into fresh huge pages", Box::new(read))
    }

    fn eager(&self) {
        println!("\nEager, {} MiB, image in the page cache", GIB / MIB);
        let image = &self.image;
        let copy = move || calls::time_copy_loop(&image.file, image.size).unwrap();
        let mut sides = [
            self.side(
                "hostmem, 1 thread",
                image,
                format!("{EAGER},prealloc-threads=1"),
            ),
            self.bare_read(image),
            ("UFFDIO_COPY of 4 KiB, in a loop", Box::new(copy)),
            self.side(
                "hostmem, all threads",
                image,
                format!("{EAGER},prealloc-threads={}", cpus()),
            ),
        ];
        let least = alternate(self.rounds, &mut sides);
        print_speeds("huge pages", image.size, &sides, &least);
    }

    fn cold(&self) {
        println!("\nEager, {} MiB, image on the disk alone", GIB / MIB);
        let image = &self.image;
        let mut sides: Vec<Side<'_>> = Vec::new();
        for (name, threads) in [("hostmem, 1 thread", 1), ("hostmem, all threads", cpus())] {
            let options = format!("{EAGER},prealloc-threads={threads}");
            let time = move || {
                image.cool();
                self.time(image, &options)
            };
            sides.push((name, Box::new(time)));
        }
        let read = move || {
            image.cool();
            calls::time_read(&image.file, image.size, &image.data).unwrap()
        };
        sides.push(("bare read into fresh huge pages", Box::new(read)));
        let least = alternate(self.slow_rounds, &mut sides);
        print_speeds("huge pages", image.size, &sides, &least);
    }

    fn lazy(&self) {
        println!("\nLazy");
        let sparse = Image::sparse(&self.directory, "sparse", 8 * GIB).unwrap();
        for (name, image) in [("1 GiB", &self.image), ("8 GiB, sparse", &sparse)] {
            let mut times: Vec<_> = (0..self.rounds + 2)
                .map(|_| {
                    let mut backend = None;
                    let time = elapsed(|| backend = Some(self.complete(image, LAZY)));
                    backend.unwrap().cancel_prealloc().unwrap();
                    time
                })
                .collect();
            let (median, least) = (percentile(&mut times, 50), times[0]);
            println!(
                "  complete() of {name}: {:.0} us, median {:.0} us",
                micros(least),
                micros(median)
            );
        }
        for threads in thread_counts() {
            let name = format!("read in the background, {threads} threads");
            let image = &self.image;
            let mut sides = [
                self.side("lazy", image, format!("{LAZY},prealloc-threads={threads}")),
                self.side(
                    "eager",
                    image,
                    format!("{EAGER},prealloc-threads={threads}"),
                ),
            ];
            let least = alternate(self.rounds, &mut sides);
            print_speeds(&name, image.size, &sides, &least);
        }
    }

    /// A byte of each of some huge pages, in no order.
    fn offsets(&self, round: usize) -> Vec<u64> {
        let pages = self.image.size / HUGE_PAGE;
        // Odd, so that no page comes twice in as many steps as there are pages.
        let step = 2 * (round as u64 * 31 + 89) + 1;
        (0..TOUCHES)
            .map(|turn| (turn * step + 7) % pages * HUGE_PAGE + turn * 4097 % HUGE_PAGE)
            .collect()
    }

    /// How long touches take of what is absent then.
    fn touches(&self, options: &str, round: usize) -> Vec<Duration> {
        let backend = self.complete(&self.image, options);
        let claim = backend.claim("benchmark").unwrap();
        let address = claim.memory().as_ptr();
        let offsets = self.offsets(round).into_iter();
        let absent = offsets.filter_map(|offset| {
            let absent = is_absent(address, offset);
            let time = elapsed(|| touch(address, offset));
            absent.then_some(time)
        });
        let times = absent.collect();
        let _ = backend.cancel_prealloc();
        times
    }

    fn faults(&self) {
        println!("\nA touch of an unread huge page, us");
        let image = &self.image;
        let (mut ours, mut bare, mut behind) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..self.rounds + 2 {
            ours.extend(self.touches(DEMAND, round));
            let offsets = self.offsets(round);
            bare.extend(calls::time_faults(&image.file, image.size, &offsets).unwrap());
            behind.extend(self.touches(&format!("{LAZY},prealloc-threads=1"), round));
        }
        let base = percentile(&mut bare, 50);
        println!("  {:<28}   median    95 %    most   ratio of medians", "");
        for (name, times) in [
            ("bare calls", &mut bare),
            ("hostmem, on demand", &mut ours),
            ("hostmem, behind a background", &mut behind),
        ] {
            let [median, most_often, most] =
                [50, 95, 100].map(|percent| percentile(times, percent));
            println!(
                "  {name:<28} {:>8.0} {:>7.0} {:>7.0} {:>8.3}   ({} touches)",
                micros(median),
                micros(most_often),
                micros(most),
                median.as_secs_f64() / base.as_secs_f64(),
                times.len()
            );
        }
        let whole = self.time(image, &format!("{LAZY},prealloc-threads=1"));
        println!(
            "  the background reads a chunk of 8 MiB in {:.0} us",
            micros(whole) * CHUNK as f64 / image.size as f64
        );
    }

    fn holes(&self) {
        println!("\nHalf of the image is holes");
        let half = Image::new(&self.directory, "half", GIB, 2 * CHUNK).unwrap();
        let empty = Image::sparse(&self.directory, "empty", GIB).unwrap();
        let options = || format!("{EAGER},prealloc-threads=1");
        let mut sides = [
            self.side("half of it data", &half, options()),
            self.bare_read(&half),
            self.side("all of it data", &self.image, options()),
            self.side("none of it data: populated alone", &empty, options()),
        ];
        let least = alternate(self.rounds, &mut sides);
        print_speeds("eager, 1 thread", GIB, &sides, &least);
        let seconds = |index: usize| least[index].as_secs_f64();
        println!(
            "    half / mean of all and none: {:.3}",
            seconds(0) / ((seconds(2) + seconds(3)) / 2.0)
        );
        for (name, image) in [("all data", &self.image), ("half data", &half)] {
            self.save(name, image);
        }
    }

    fn save(&self, name: &str, image: &Image) {
        let backend = self.complete(image, &format!("{EAGER},prealloc-threads=1"));
        let claim = backend.claim("benchmark").unwrap();
        let in_memory = || memfd();
        let on_disk = || tempfile::tempfile_in(&self.directory).unwrap();
        for (place, make) in [
            ("memfd", &in_memory as &dyn Fn() -> File),
            ("file", &on_disk),
        ] {
            let ours = || {
                let file = make();
                let mut saved = None;
                let time = elapsed(|| saved = Some(claim.save(&file, 0).unwrap()));
                assert_eq!(saved.unwrap().written, image.data_bytes());
                time
            };
            let bare = || {
                let file = make();
                elapsed(|| write(&claim, image, &file))
            };
            let mut sides: [Side<'_>; 2] =
                [("save", Box::new(ours)), ("bare pwrite", Box::new(bare))];
            let least = alternate(self.rounds.min(7), &mut sides);
            let what = format!("save to a {place}, 1 thread, {name}");
            print_speeds(&what, image.data_bytes(), &sides, &least);
        }
    }

    fn qemu(&self) -> Result<(), String> {
        println!("\nQEMU: migrate to a file and back, mapped-ram and multifd");
        println!("  QEMU {}", qemu::version()?);
        let image = &self.image;
        let file = self.directory.join("migrated");
        let threads = cpus();
        let options = format!("{EAGER},prealloc-threads={threads}");
        let backend = self.complete(image, &options);
        let claim = backend.claim("benchmark").unwrap();
        let failed = std::cell::RefCell::new(None);
        let keep = |time: Result<Duration, String>| {
            time.unwrap_or_else(|why| {
                *failed.borrow_mut() = Some(why);
                Duration::ZERO
            })
        };
        let saved = || {
            let file = tempfile::tempfile_in(&self.directory).unwrap();
            elapsed(|| claim.save(&file, 0).unwrap())
        };
        let migrated = || {
            let _ = fs::remove_file(&file);
            keep(qemu::time_save(&image.path, &file, threads))
        };
        let mut sides: [Side<'_>; 2] = [
            ("hostmem, Claim::save", Box::new(saved)),
            ("QEMU, migrate", Box::new(migrated)),
        ];
        let least = alternate(self.slow_rounds, &mut sides);
        print_speeds(&format!("save, {threads} threads"), GIB, &sides, &least);
        drop(sides);
        drop(claim);
        drop(backend);
        let restored = || keep(qemu::time_restore(&file, threads));
        let mut sides = [
            self.side("hostmem, eager", image, options.clone()),
            ("QEMU, migrate-incoming", Box::new(restored)),
        ];
        let least = alternate(self.slow_rounds, &mut sides);
        print_speeds(&format!("restore, {threads} threads"), GIB, &sides, &least);
        failed.take().map_or(Ok(()), Err)
    }
}

/// Whether a page is in no page table yet.
fn is_absent(address: *const u8, offset: u64) -> bool {
    let at = address.wrapping_add((offset / 4096 * 4096) as usize);
    let mut there = 0u8;
    // SAFETY: one page of the caller's memory, and room for its byte.
    let failed = unsafe { libc::mincore(at.cast_mut().cast(), 4096, &mut there) };
    failed == 0 && there & 1 == 0
}

fn memfd() -> File {
    use std::os::fd::FromRawFd;
    // SAFETY: the name is a static string.
    let fd = unsafe { libc::memfd_create(c"saved".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: just opened, and owned by nothing else.
    unsafe { File::from_raw_fd(fd) }
}

/// The same bytes by pwrite(2) alone.
fn write(claim: &Claim, image: &Image, file: &File) {
    file.set_len(image.size).unwrap();
    calls::write(claim.memory().as_ptr(), &image.data, file).unwrap();
}

/// The name of the CPU, with its family and model: what a hypervisor says is often vague.
fn cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(": ")?.1.to_owned())
    };
    let [name, family, model] =
        ["model name", "cpu family", "model\t"].map(|name| field(name).unwrap_or_default());
    format!("{name}, family {family} model {model}, {} CPUs", cpus())
}

fn main() {
    // Cargo passes `--bench` to measure; testing the benchmarks measures nothing.
    let arguments: Vec<String> = env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    if !has("--bench") {
        return;
    }
    let flag = |argument: &&String| !argument.starts_with("--");
    let wanted: Vec<&String> = arguments.iter().filter(flag).collect();
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench {
        objects: Objects::new(&Host::probe().unwrap(), &Defaults::default()).unwrap(),
        rounds: if has("--quick") { QUICK_ROUNDS } else { ROUNDS },
        slow_rounds: if has("--quick") { 1 } else { SLOW_ROUNDS },
        image: Image::new(directory.path(), "image", GIB, CHUNK).unwrap(),
        directory: directory.path().to_owned(),
    };
    println!("{}", cpu_name());
    println!("Times are the least of {} rounds.", bench.rounds);
    println!("The last column is the time of a row / that of the first row.");
    let parts: [(&str, &dyn Fn()); 6] = [
        ("eager", &|| bench.eager()),
        ("cold", &|| bench.cold()),
        ("lazy", &|| bench.lazy()),
        ("faults", &|| bench.faults()),
        ("holes", &|| bench.holes()),
        ("qemu", &|| {
            if let Err(why) = bench.qemu() {
                println!("  skipped: {why}");
            }
        }),
    ];
    for (name, measure) in parts {
        if wanted.is_empty() || wanted.iter().any(|wanted| *wanted == name) {
            measure();
        }
    }
}

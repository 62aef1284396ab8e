// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Thread-contexts: threads that create the threads that preallocate, where they run, and how long
//! they live.

mod common;

use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;

use common::in_child;
use common::in_forked_child;
use common::in_forked_children_while;
use common::objects;
use common::refusing;
use common::skip;
use common::Belongings;
use common::Refusal;
use hostmem::Backend;
use hostmem::Defaults;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::ObjectBuilder;
use hostmem::Objects;
use hostmem::State;
use hostmem::ThreadContext;
use hostmem::ThreadContextBuilder;
use hostmem::Value;
use hostmem::THREAD_CONTEXT;

fn parse(set: &Objects, options: &str) -> hostmem::Result<ThreadContextBuilder> {
    match set.parse_object(format!("thread-context,id=tc0,{options}"))? {
        ObjectBuilder::ThreadContext(builder) => Ok(builder),
        other => panic!("{other:?}"),
    }
}

fn begin(set: &Objects, options: &str) -> ThreadContext {
    parse(set, options).unwrap().complete().unwrap()
}

fn linked(set: &Objects, id: &str, rest: &str) -> hostmem::Builder {
    set.parse(format!(
        "memory-backend-ram,id={id},prealloc-context=tc0,{rest}"
    ))
    .unwrap()
}

fn allowed_cpus() -> Vec<u32> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    cpus_of(&status)
}

/// The CPUs that a task's status file allows it.
fn cpus_of(status: &str) -> Vec<u32> {
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"))
        .unwrap();
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<u32>().unwrap()..=last.parse().unwrap());
    }
    cpus
}

fn affinity(context: &ThreadContext) -> Vec<u32> {
    match context.get("cpu-affinity").unwrap() {
        Value::List(cpus) => cpus,
        other => panic!("{other:?}"),
    }
}

fn thread_id(context: &ThreadContext) -> u64 {
    match context.get("thread-id").unwrap() {
        Value::Number(id) => id,
        other => panic!("{other:?}"),
    }
}

/// The kernel lists a thread that was joined for a moment longer.
#[track_caller]
fn assert_ended(task: &str) {
    for _ in 0..1000 {
        if !fs::exists(task).unwrap() {
            return;
        }
        thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("{task} is still there");
}

#[test]
fn its_thread_runs_where_it_is_told_to() {
    let cpus = allowed_cpus();
    let set = objects();
    let mut builder = parse(&set, "").unwrap();
    assert_eq!(
        builder.get("thread-id").unwrap(),
        Value::Text("none".into())
    );
    assert_eq!(
        builder.get("cpu-affinity").unwrap(),
        Value::List(cpus.clone())
    );
    // As text is read, whatever it is given as.
    builder.set("cpu-affinity", true).unwrap_err();
    let last = *cpus.last().unwrap();
    builder.set("cpu-affinity", u64::from(last)).unwrap();
    assert_eq!(
        builder.get("cpu-affinity").unwrap(),
        Value::List(vec![last])
    );
    builder.set("cpu-affinity", [cpus[0]]).unwrap();
    assert_eq!(
        builder.get("cpu-affinity").unwrap(),
        Value::List(vec![cpus[0]])
    );
    let context = builder.complete().unwrap();
    assert_eq!(context.state(), State::Ready);
    assert_eq!(affinity(&context), [cpus[0]]);

    let task = format!("/proc/self/task/{}", thread_id(&context));
    let status = || fs::read_to_string(format!("{task}/status")).unwrap();
    assert_eq!(
        fs::read_to_string(format!("{task}/comm")).unwrap(),
        "hm-tc0\n"
    );
    assert_eq!(cpus_of(&status()), [cpus[0]]);
    // Moved by itself, by its nodes, and from outside.
    let last = *cpus.last().unwrap();
    context.set("cpu-affinity", last.to_string()).unwrap();
    assert_eq!(cpus_of(&status()), [last]);
    context.set("node-affinity", [0]).unwrap();
    let of_node = affinity(&context);
    assert_eq!(cpus_of(&status()), of_node);
    assert!(of_node.len() >= cpus.len(), "{of_node:?}");
    context.set("cpu-affinity", cpus.as_slice()).unwrap();
    let one = 1u64 << cpus[0];
    // SAFETY: the mask is 8 bytes long; the thread is of this process.
    let moved =
        unsafe { libc::sched_setaffinity(thread_id(&context) as i32, 8, (&raw const one).cast()) };
    assert_eq!(moved, 0);
    assert_eq!(affinity(&context), [cpus[0]]);
    context.delete().unwrap();
    assert_ended(&task);
}

#[test]
fn bad_values_are_refused_by_name() {
    let set = objects();
    for (options, kind, words) in [
        ("cpu-affinity=", ErrorKind::Value, "tc0: cpu-affinity="),
        ("cpu-affinity=3-1", ErrorKind::Value, "rising ranges"),
        ("cpu-affinity=8192", ErrorKind::Value, "below 8192"),
        ("cpu-affinity=on", ErrorKind::Value, "CPU ids"),
        ("node-affinity=1024", ErrorKind::Value, "below 1024"),
        ("thread-id=1", ErrorKind::State, "can only be read"),
        (
            "size=1M",
            ErrorKind::UnknownProperty,
            "cpu-affinity, node-affinity, thread-id",
        ),
        ("x=1,x=2", ErrorKind::UnknownProperty, "no property 'x'"),
        (
            "thread-id=1,thread-id=2",
            ErrorKind::Value,
            "thread-id is given twice",
        ),
    ] {
        let error = parse(&set, options).unwrap_err();
        assert_eq!(error.kind(), kind, "{options}: {error}");
        common::access::assert_names_errno(&error);
        assert!(error.to_string().contains(words), "{options}: {error}");
    }
    for (options, words) in [
        (
            "cpu-affinity=0,cpu-affinity=8191",
            "CPU 8191 is not online; online CPUs: 0",
        ),
        (
            "node-affinity=0,node-affinity=1023",
            "node 1023 is not a node",
        ),
        (
            "cpu-affinity=8190-8191",
            "CPUs 8190-8191 are not online; online CPUs: 0",
        ),
        (
            "node-affinity=1022-1023",
            "nodes 1022-1023 are not nodes of this host",
        ),
        ("cpu-affinity=0,node-affinity=0", "exclude each other"),
        ("node-affinity=0,cpu-affinity=0", "exclude each other"),
    ] {
        let failed = parse(&set, options).unwrap().complete().unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Value, "{failed}");
        assert!(failed.to_string().contains(words), "{failed}");
        assert_eq!(failed.object.id(), "tc0");
    }
    let mut builder = parse(&set, "").unwrap();
    let error = builder.set("cpu-affinity", Vec::new()).unwrap_err();
    assert!(
        error.to_string().contains("has to run somewhere"),
        "{error}"
    );
    let error = builder.set("node-affinity", [1024]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value, "{error}");
    let error = builder.get("node-affinity").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State, "{error}");
    // It is still good for another try.
    builder.set("cpu-affinity", [0]).unwrap();
    builder.complete().unwrap();
}

/// A change that cannot be leaves the thread where it is.
#[test]
fn a_refused_move_leaves_the_thread_where_it_is() {
    let set = objects();
    let context = begin(&set, "cpu-affinity=0");
    for (property, ids) in [("cpu-affinity", [0, 8191]), ("node-affinity", [0, 1023])] {
        let error = context.set(property, ids).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{error}");
        assert_eq!(affinity(&context), [0]);
    }
    let denied = Refusal::new(libc::SYS_sched_setaffinity, libc::EPERM);
    let error = refusing(&[denied], || context.set("cpu-affinity", [0])).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
    assert_eq!(affinity(&context), [0]);
    let denied = Refusal::new(libc::SYS_sched_setaffinity, libc::EPERM);
    let failed = refusing(&[denied], || {
        let set = objects();
        parse(&set, "cpu-affinity=0")
            .unwrap()
            .complete()
            .unwrap_err()
    });
    assert_eq!(failed.error.raw_os_error(), Some(libc::EPERM), "{failed}");
}

/// What populates while `run` runs: the CPUs of each thread that is named after the backend.
fn workers_during(id: &str, run: impl FnOnce() + Send) -> Vec<Vec<u32>> {
    let done = AtomicBool::new(false);
    let name = format!("hm-{id}\n");
    let mut seen = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            run();
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
                let read = |file| fs::read_to_string(task.path().join(file));
                let (Ok(comm), Ok(status)) = (read("comm"), read("status")) else {
                    continue;
                };
                if comm == name {
                    seen.push(cpus_of(&status));
                }
            }
        }
    });
    seen
}

/// Also a single one, and also where the backend is bound to nodes with other CPUs.
#[test]
fn workers_run_where_its_thread_does() {
    let cpu = *allowed_cpus().last().unwrap();
    let set = objects();
    let context = begin(&set, &format!("cpu-affinity={cpu}"));
    for (i, (rest, threads)) in [
        ("size=256M,prealloc-threads=1", 1),
        ("size=256M,prealloc-threads=3", 3),
        ("size=256M", 1),
        ("size=256M,prealloc-mode=background", 1),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("m{i}");
        let builder = linked(&set, &id, &format!("thp=never,prealloc=on,{rest}"));
        let mut made: Option<Backend> = None;
        let background = rest.contains("background");
        let seen = workers_during(&id, || {
            let backend = builder.complete().unwrap();
            backend.wait_prealloc(None).unwrap();
            made = Some(backend);
        });
        let backend = made.unwrap();
        assert_eq!(
            backend.prealloc_result().unwrap().threads,
            threads,
            "{rest}"
        );
        assert!(!seen.is_empty(), "{rest}");
        // In the background the thread that waits is the library's too, and is not pinned.
        assert!(seen.contains(&vec![cpu]), "{rest}: {seen:?}");
        assert!(
            background || seen.iter().all(|cpus| *cpus == [cpu]),
            "{rest}: {seen:?}"
        );
        assert_eq!(backend.placement().unwrap().absent, 0, "{rest}");
    }
    drop(context);
}

/// One pool for each context, and one for those without.
#[test]
fn several_backends_share_its_threads() {
    let set = objects();
    let _context = begin(&set, "cpu-affinity=0");
    let rest = "size=64M,thp=never,prealloc=on,prealloc-threads=2";
    let builders = vec![
        linked(&set, "a", rest),
        set.parse(format!("memory-backend-ram,id=b,{rest}"))
            .unwrap(),
        linked(&set, "c", rest),
    ];
    for backend in hostmem::Builder::complete_all(builders).unwrap() {
        assert_eq!(backend.placement().unwrap().absent, 0);
        assert_eq!(backend.prealloc_result().unwrap().threads, 2);
    }
}

#[test]
fn a_link_needs_what_it_names() {
    let set = objects();
    let error = set
        .parse("memory-backend-ram,id=m,size=1M,prealloc-context=tc0")
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value);
    common::access::assert_names_errno(&error);
    assert!(
        error.to_string().contains("no thread-context of that id"),
        "{error}"
    );
    // A backend is none.
    let other = set.parse("memory-backend-ram,id=tc0,size=1M").unwrap();
    let mut builder = set.parse("memory-backend-ram,id=m,size=1M").unwrap();
    let error = builder.set("prealloc-context", "tc0").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value, "{error}");
    let error = builder.set("prealloc-context", "1x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value, "{error}");
    drop((other, builder));

    // One that is not complete will do as long as it is not needed.
    let context = parse(&set, "").unwrap();
    let backend = linked(&set, "m", "size=1M").complete().unwrap();
    let error = backend.set("prealloc", true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State);
    assert!(
        error
            .to_string()
            .contains("'tc0' is configuring; complete it first"),
        "{error}"
    );
    let failed = linked(&set, "n", "size=1M,prealloc=on")
        .complete()
        .unwrap_err();
    assert!(
        failed.to_string().starts_with("n: prealloc-context"),
        "{failed}"
    );
    // Before anything is made.
    let options = "memory-backend-memfd,id=o,size=1M,prealloc=on,prealloc-context=tc0";
    let builder = set.parse(options).unwrap();
    let refusal = [Refusal::new(libc::SYS_memfd_create, libc::EPERM)];
    let error = refusing(&refusal, || builder.complete().unwrap_err().error);
    assert_eq!(error.kind(), ErrorKind::State, "{error}");
    let _context = context.complete().unwrap();
    backend.set("prealloc", true).unwrap();
    failed.object.complete().unwrap();
}

#[test]
fn it_cannot_be_deleted_while_a_backend_links_to_it() {
    let set = objects();
    let context = begin(&set, "");
    let one = linked(&set, "one", "size=1M");
    let two = linked(&set, "two", "size=1M").complete().unwrap();
    let failed = context.delete().unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Busy);
    let message = failed.to_string();
    assert!(
        message.contains("'one'") || message.contains("'two'"),
        "{message}"
    );
    let context = failed.object;
    drop(one);
    let error = context.can_be_deleted().unwrap_err();
    assert!(error.to_string().contains("'two'"), "{error}");
    two.set("prealloc-context", "").unwrap();
    context.can_be_deleted().unwrap();
    two.set("prealloc-context", "tc0").unwrap();
    two.delete().unwrap();
    context.delete().unwrap();
    begin(&set, "").delete().unwrap();
}

/// Dropped while it is linked to it goes on creating threads, and keeps its id, until the last
/// backend is gone.
#[test]
fn the_last_link_keeps_it() {
    let set = objects();
    let context = begin(&set, "");
    let task = format!("/proc/self/task/{}", thread_id(&context));
    let backend = linked(&set, "m", "size=4M,prealloc-threads=1");
    let backend = backend.complete().unwrap();
    drop(context);
    assert!(fs::exists(&task).unwrap());
    let error = set.thread_context("tc0").unwrap_err();
    assert!(error.to_string().contains("taken"), "{error}");
    backend.set("prealloc", true).unwrap();
    assert_eq!(backend.prealloc_result().unwrap().threads, 1);
    let claim = backend.claim("vm0").unwrap();
    drop((backend, set));
    assert!(fs::exists(&task).unwrap());
    drop(claim);
    assert_ended(&task);
}

#[test]
fn nothing_is_left_behind() {
    in_child("nothing_is_left_behind", || {
        let set = objects();
        let once = |threads| {
            let context = begin(&set, "cpu-affinity=0");
            let rest = format!("size=32M,thp=never,prealloc=on,prealloc-threads={threads}");
            let backend = linked(&set, "m", &rest).complete().unwrap();
            assert_eq!(backend.prealloc_result().unwrap().threads, threads);
            backend.set("prealloc-context", "").unwrap();
            drop(context);
        };
        once(8);
        let before = Belongings::now();
        for threads in [1, 2, 8] {
            once(threads);
            assert_eq!(Belongings::now(), before, "{threads}");
        }
    });
}

/// False, said, where it cannot. The limit counts all of a user's, so only an unprivileged one has it.
fn forbid_more_threads() -> bool {
    if !common::host::is_root() {
        skip("not root");
        return false;
    }
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: fills, and then reads, the struct given.
    let result = unsafe {
        libc::getrlimit(libc::RLIMIT_NPROC, &mut limit);
        limit.rlim_cur = 1;
        libc::setrlimit(libc::RLIMIT_NPROC, &limit)
    };
    assert_eq!(result, 0);
    common::host::become_nobody();
    true
}

#[test]
fn the_limits_that_keep_its_thread_away_are_named() {
    // Its leak check needs a thread as well.
    if common::has_address_sanitizer() {
        return;
    }
    in_child("the_limits_that_keep_its_thread_away_are_named", || {
        let builder = objects().thread_context("tc0").unwrap();
        if !forbid_more_threads() {
            return;
        }
        let error = builder.complete().unwrap_err().error;
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        for expected in ["tc0: ", "RLIMIT_NPROC", "pids.max"] {
            assert!(error.to_string().contains(expected), "{error}");
        }
    });
}

/// Threads that its thread cannot create just mean fewer; with none the caller does it.
#[test]
fn threads_that_cannot_be_created_mean_fewer() {
    // It looks for leaks by a thread of its own.
    if common::has_address_sanitizer() {
        return;
    }
    in_child("threads_that_cannot_be_created_mean_fewer", || {
        let set = objects();
        let _context = begin(&set, "");
        let builder = linked(
            &set,
            "m",
            "size=32M,thp=never,prealloc=on,prealloc-threads=4",
        );
        if !forbid_more_threads() {
            return;
        }
        let backend = builder.complete().unwrap();
        assert_eq!(backend.placement().unwrap().absent, 0);
        let result = backend.prealloc_result().unwrap();
        assert_eq!(result.threads, 1);
        assert_eq!(result.affinity_error, Some(libc::EAGAIN));
    });
}

#[test]
fn compat_values_come_before_its_own() {
    let compat = [
        (THREAD_CONTEXT, "cpu-affinity", "0"),
        ("memory-backend", "merge", "off"),
    ];
    let set = Objects::with_compat(&Host::probe().unwrap(), &Defaults::qemu(), &compat).unwrap();
    let builder = set.thread_context("tc0").unwrap();
    assert_eq!(builder.get("cpu-affinity").unwrap(), Value::List(vec![0]));
    drop(builder);
    let backend = set.parse("memory-backend-ram,id=m,size=64K").unwrap();
    assert_eq!(backend.get_text("merge").unwrap(), "off");
    let wrong = [(THREAD_CONTEXT, "size", "1M")];
    let set = Objects::with_compat(&Host::probe().unwrap(), &Defaults::qemu(), &wrong).unwrap();
    let error = set.thread_context("tc0").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownProperty, "{error}");
}

#[test]
fn option_strings_say_what_they_make() {
    let set = objects();
    for options in [
        "memory-backend-ram,id=a,size=1M",
        "id=a,qom-type=memory-backend-ram",
    ] {
        let made = set.parse_object(options).unwrap();
        assert!(matches!(made, ObjectBuilder::Backend(_)), "{made:?}");
    }
    for options in [
        "thread-context,id=a",
        "id=a,qom-type=thread-context,cpu-affinity=0",
    ] {
        let made = set.parse_object(options).unwrap();
        assert!(matches!(made, ObjectBuilder::ThreadContext(_)), "{made:?}");
    }
    for (options, words) in [
        ("", "the kind is missing"),
        ("id=a", "the kind is missing"),
        ("thread-context", "id is missing"),
        ("thread-context,id=a,id=b", "id is given twice"),
        ("thread-context,id=1a", "an id is a letter"),
        ("thread-context,id=a,cpu-affinity", "no value"),
        ("no-such,id=a", "kind 'no-such' does not exist"),
    ] {
        let error = set.parse_object(options).unwrap_err();
        assert!(error.to_string().contains(words), "{options}: {error}");
    }
    let error = set.parse("thread-context,id=a").unwrap_err();
    assert!(error.to_string().contains("is no backend"), "{error}");
}

/// The child has neither its thread nor the memory, and must not wait for either.
#[test]
fn a_forked_child_can_drop_it() {
    in_child("a_forked_child_can_drop_it", || {
        let set = objects();
        let context = begin(&set, "");
        let backend = linked(&set, "m", "size=4M,prealloc=on").complete().unwrap();
        in_forked_child(|| {
            drop(backend);
            drop(context);
            true
        });
    });
}

/// By its number the child could move a thread of its parent, or another that has the number by
/// then; and a thread that was moving it is not in the child, so that waiting would never end.
#[test]
fn a_forked_child_does_not_have_its_thread() {
    in_child("a_forked_child_does_not_have_its_thread", || {
        let set = objects();
        let context = begin(&set, "");
        let before = affinity(&context);
        let child = || {
            let error = context.set("cpu-affinity", vec![before[0]]).unwrap_err();
            error.kind() == ErrorKind::State
                && error.to_string().starts_with("tc0: cpu-affinity")
                && error.to_string().contains("forked")
                && context.get("thread-id").unwrap() == Value::Text("none".into())
                && context.state() == State::Ready
        };
        let move_it = || context.set("cpu-affinity", before.clone()).unwrap();
        in_forked_children_while(move_it, child);
        assert_eq!(affinity(&context), before);
    });
}

/// A search by its id finds it alive or not at all.
#[test]
fn linking_races_with_dropping() {
    in_child("linking_races_with_dropping", || {
        let set = objects();
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    // Its id is taken as long as the last link to the one before is there.
                    drop(parse(&set, ""));
                }
                ended.store(true, Ordering::Relaxed);
            });
            let mut builder = set.parse("memory-backend-ram,id=m").unwrap();
            while !ended.load(Ordering::Relaxed) {
                let _ = builder.set("prealloc-context", "tc0");
                builder.set("prealloc-context", "").unwrap();
            }
        });
    });
}

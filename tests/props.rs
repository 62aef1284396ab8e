// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The property table against what objects do: defaults, types, states, origins, and what a change
//! of ready memory does.

mod common;

use std::fs;
use std::path::Path;
use std::slice::from_ref;

use common::access::assert_names_errno;
use common::bindable_node;
use common::has_address_sanitizer;
use common::in_child;
use common::kernel;
use common::objects;
use common::page_size;
use common::ram;
use common::refusing;
use common::skip;
use common::vm_flags;
use common::Refusal;
use hostmem::properties;
use hostmem::Backend;
use hostmem::Builder;
use hostmem::Claim;
use hostmem::Defaults;
use hostmem::Error;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Objects;
use hostmem::Origin;
use hostmem::Property;
use hostmem::PropertyType;
use hostmem::Settable;
use hostmem::State;
use hostmem::Value;

const KIND: &str = "memory-backend-ram";

// Older than some C libraries' headers.
const MADV_POPULATE_WRITE: u64 = 23;
const PR_SET_MEMORY_MERGE: libc::c_int = 67;

fn builder() -> Builder {
    objects().builder(KIND, "ram0").unwrap()
}

/// The rows of the table that memory-backend-ram has.
fn rows() -> impl Iterator<Item = Property> {
    properties().filter(|row| row.kinds().is_none_or(|kinds| kinds.contains(&KIND)))
}

/// Good values of a row in each form that its type takes, the first of them not its default.
fn samples(row: &Property) -> Vec<Value> {
    match row.value_type() {
        PropertyType::Bool => match row.default_text() {
            "on" => vec![false.into(), true.into(), "no".into(), "y".into()],
            _ => vec![true.into(), false.into(), "yes".into(), "n".into()],
        },
        PropertyType::Size => vec![
            4096u32.into(),
            u64::MAX.into(),
            "1.5G".into(),
            "0x1000".into(),
        ],
        PropertyType::Uint32 => vec![17u32.into(), u32::MAX.into(), "0x10".into()],
        PropertyType::Enum => row
            .choices()
            .iter()
            .rev()
            .map(|&choice| choice.into())
            .collect(),
        PropertyType::Nodes => vec![
            [3, 0, 1023].into(),
            Value::List(Vec::new()),
            [1].into(),
            "0-1,3".into(),
        ],
        PropertyType::Node => vec![3u32.into(), 1023u32.into(), "none".into(), "0x3".into()],
        // There is no object yet that it could name.
        PropertyType::Link => vec!["".into()],
        PropertyType::Path => vec!["/no/such".into(), "".into()],
        other => panic!("{}: no samples of {other:?}", row.name()),
    }
}

fn assert_refused(result: Result<(), Error>, kind: ErrorKind, row: &str) -> String {
    let error = result.expect_err(row);
    assert_eq!(error.kind(), kind, "{row}: {error}");
    let message = error.to_string();
    assert!(message.contains("ram0"), "{message}");
    assert!(message.contains(row), "{message}");
    assert_names_errno(&error);
    // No system call was asked.
    if matches!(kind, ErrorKind::State | ErrorKind::Type) {
        assert_eq!(error.raw_os_error(), None, "{message}");
    }
    message
}

// ---- The table ----

#[test]
fn the_table_is_well_formed() {
    let names: Vec<_> = properties().map(|row| row.name()).collect();
    assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    for row in properties() {
        let (name, description) = (row.name(), row.description());
        let is_name = |c: char| c.is_ascii_lowercase() || c == '-';
        assert!(!name.is_empty() && name.chars().all(is_name), "{name}");
        assert!(
            description.starts_with(|c: char| c.is_ascii_uppercase())
                && description.ends_with('.')
                && description.contains(' ')
                && !description.contains(char::is_control),
            "{name}: {description}"
        );
        match row.value_type() {
            PropertyType::Enum => assert!(row.choices().len() > 1, "{name}"),
            PropertyType::Bool if name == "reserve" => {
                assert_eq!(row.choices(), ["off", "on", "try"]);
            }
            _ => assert!(row.choices().is_empty(), "{name}"),
        }
        let mut choices = row.choices().to_vec();
        choices.sort_unstable();
        choices.dedup();
        assert_eq!(choices.len(), row.choices().len(), "{name}");
    }
}

/// QEMU's names with its types, so that its configurations carry over.
#[test]
fn the_table_has_what_configurations_use() {
    use PropertyType::{Bool, Enum, Link, Node, Nodes, Size, Uint32};
    use Settable::{Always, Configuring, LaterUse};
    for (name, value_type, settable) in [
        ("dump", Bool, Always),
        ("home-node", Node, Always),
        ("host-nodes", Nodes, Always),
        ("lock", Bool, Always),
        ("merge", Bool, Always),
        ("policy", Enum, Always),
        ("prealloc", Bool, Always),
        ("prealloc-context", Link, LaterUse),
        ("prealloc-mode", Enum, LaterUse),
        ("prealloc-threads", Uint32, LaterUse),
        ("reserve", Bool, Configuring),
        ("share", Bool, Configuring),
        ("size", Size, Configuring),
        ("thp", Enum, Always),
        ("x-use-canonical-path-for-ramblock-id", Bool, Configuring),
    ] {
        let row = rows().find(|row| row.name() == name).expect(name);
        assert_eq!(row.value_type(), value_type, "{name}");
        assert_eq!(row.settable(), settable, "{name}");
    }
    let choices = |name| rows().find(|row| row.name() == name).unwrap();
    assert_eq!(
        choices("policy").choices(),
        [
            "default",
            "preferred",
            "bind",
            "interleave",
            "preferred-many",
            "weighted-interleave",
            "local"
        ]
    );
    assert_eq!(choices("thp").choices(), ["auto", "always", "never"]);
    assert_eq!(choices("prealloc-mode").choices(), ["wait", "background"]);
}

// ---- Reading and setting ----

/// The CPUs that the calling thread may run on.
fn usable_cpus() -> u32 {
    // SAFETY: a set of bits, for which zeros are a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is as big as stated.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: only reads the set.
    let count = unsafe { libc::CPU_COUNT(&set) };
    count as u32
}

#[test]
fn a_fresh_object_reads_the_defaults_of_the_table() {
    let builder = builder();
    for row in rows() {
        let expected = match row.default_text() {
            "usable CPUs" => usable_cpus().to_string(),
            "off, but on for memfd, shm and fd" => "off".to_owned(),
            text => text.to_owned(),
        };
        let name = row.name();
        assert_eq!(builder.get_text(name).unwrap(), expected, "{name}");
        assert_eq!(builder.origin(name).unwrap(), Origin::Default, "{name}");
    }
}

#[test]
fn automatic_threads_follow_the_affinity() {
    let builder = builder();
    let whole = usable_cpus();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: as in usable_cpus().
            let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
            // SAFETY: takes nothing.
            let cpu = unsafe { libc::sched_getcpu() } as usize;
            // SAFETY: a CPU of this machine is inside the set.
            unsafe { libc::CPU_SET(cpu, &mut set) };
            // SAFETY: the set is as big as stated.
            let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            assert_eq!(builder.get("prealloc-threads").unwrap(), Value::from(1u32));
        });
    });
    let value = builder.get("prealloc-threads").unwrap();
    assert_eq!(value, Value::from(whole));
}

#[test]
fn what_is_read_can_be_set_again() {
    for row in rows() {
        let name = row.name();
        for sample in samples(&row) {
            let mut first = builder();
            first.set(name, sample.clone()).unwrap();
            let (value, text) = (first.get(name).unwrap(), first.get_text(name).unwrap());
            if !matches!(sample, Value::Text(_) | Value::List(_)) {
                assert_eq!(value, sample, "{name}");
            }
            assert_eq!(first.origin(name).unwrap(), Origin::User, "{name}");

            let mut second = builder();
            second.set(name, value.clone()).unwrap();
            assert_eq!(second.get(name).unwrap(), value, "{name}");
            assert_eq!(second.get_text(name).unwrap(), text, "{name}");

            // Of a set, "" is refused: an option string that has none leaves it out.
            if value != Value::List(Vec::new()) {
                let mut third = builder();
                third.set(name, text.as_str()).unwrap();
                assert_eq!(third.get(name).unwrap(), value, "{name}={text}");
                assert_eq!(third.get_text(name).unwrap(), text, "{name}");
            }
        }
    }
}

/// Setting one property leaves all others as they were.
#[test]
fn a_property_is_by_itself() {
    for row in rows() {
        let fresh = builder();
        let mut changed = builder();
        changed.set(row.name(), samples(&row).remove(0)).unwrap();
        for other in rows().filter(|other| other.name() != row.name()) {
            let name = other.name();
            assert_eq!(
                changed.get_text(name).unwrap(),
                fresh.get_text(name).unwrap(),
                "{name} after {}",
                row.name()
            );
            assert_eq!(changed.origin(name).unwrap(), Origin::Default, "{name}");
        }
    }
}

#[test]
fn each_choice_is_taken_and_nothing_else() {
    for row in rows().filter(|row| row.value_type() == PropertyType::Enum) {
        let name = row.name();
        let mut builder = builder();
        for &choice in row.choices() {
            builder.set(name, choice).unwrap();
            assert_eq!(builder.get_text(name).unwrap(), choice, "{name}");
            let upper = choice.to_uppercase();
            let longer = format!("{choice}x");
            let shorter = &choice[..choice.len() - 1];
            for wrong in ["", " ", "0", "on", &upper, &longer, shorter] {
                let result = builder.set(name, wrong);
                let message = assert_refused(result, ErrorKind::Value, name);
                for &choice in row.choices() {
                    assert!(message.contains(choice), "{message}");
                }
                assert_eq!(builder.get_text(name).unwrap(), choice, "{name}");
            }
        }
    }
}

#[test]
fn a_call_of_another_type_is_refused() {
    use PropertyType::{Bool, Node, Nodes, Size, Uint32};
    for row in rows() {
        let (name, value_type) = (row.name(), row.value_type());
        let mut builder = builder();
        builder.set(name, samples(&row).remove(0)).unwrap();
        let before = builder.get(name).unwrap();
        for (value, fits) in [
            (Value::Bool(true), matches!(value_type, Bool)),
            (Value::Number(1), matches!(value_type, Size | Uint32 | Node)),
            (Value::List(vec![0]), matches!(value_type, Nodes)),
        ] {
            if !fits {
                assert_refused(builder.set(name, value), ErrorKind::Type, name);
                assert_eq!(builder.get(name).unwrap(), before, "{name}");
            }
        }
    }
}

#[test]
fn numbers_out_of_range_are_refused() {
    let mut builder = builder();
    for (name, value) in [
        ("size", Value::Number(0)),
        ("prealloc-threads", Value::Number(0)),
        ("prealloc-threads", Value::Number(1 << 32)),
        ("prealloc-threads", Value::Number(u64::MAX)),
        ("home-node", Value::Number(1024)),
        ("home-node", Value::Number(u64::MAX - 1)),
        ("host-nodes", Value::List(vec![1024])),
        ("host-nodes", Value::List(vec![0, u32::MAX])),
    ] {
        let before = builder.get(name).unwrap();
        assert_refused(builder.set(name, value), ErrorKind::Value, name);
        assert_eq!(builder.get(name).unwrap(), before, "{name}");
    }
}

#[test]
fn an_unknown_property_lists_the_known_ones() {
    let mut builder = builder();
    let backend = ram("size=64K").complete().unwrap();
    for name in ["no-such", "", " size", "Size", "host_nodes", "hostnodes"] {
        for error in [
            builder.set(name, true).unwrap_err(),
            builder.set(name, 1u32).unwrap_err(),
            builder.set(name, [1]).unwrap_err(),
            builder.set(name, "on").unwrap_err(),
            builder.get(name).unwrap_err(),
            builder.get_text(name).unwrap_err(),
            builder.origin(name).unwrap_err(),
            backend.set(name, "on").unwrap_err(),
            backend.get(name).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::UnknownProperty, "{error}");
            assert_names_errno(&error);
            let message = error.to_string();
            assert!(message.contains(&format!("'{name}'")), "{message}");
            for row in rows() {
                assert!(message.contains(row.name()), "{message}");
            }
        }
    }
}

// ---- States ----

#[test]
fn while_configuring_every_property_may_be_set() {
    for row in rows() {
        let mut builder = builder();
        for sample in samples(&row) {
            builder.set(row.name(), sample).unwrap();
        }
    }
    // And again once a backend has come back from a failed attempt.
    for row in rows() {
        let mut builder = builder().complete().unwrap_err().object;
        for sample in samples(&row) {
            builder.set(row.name(), sample).unwrap();
        }
    }
}

/// What a ready backend is made with and changed to for a row to be tried; None, having said why,
/// where this host cannot.
fn live_change(name: &str) -> Option<(String, Value)> {
    let bound = |value: Value| {
        let node = bindable_node()?;
        Some((format!("size=64K,policy=bind,host-nodes={node}"), value))
    };
    let plain = |value: Value| Some(("size=64K".to_owned(), value));
    match name {
        "dump" | "guard" | "merge" | "prealloc-watch" | "reserve" => plain(false.into()),
        "hugetlbsize" => plain((2u32 << 20).into()),
        "contents-poison"
        | "hugetlb"
        | "lock"
        | "share"
        | "x-use-canonical-path-for-ramblock-id" => plain(true.into()),
        "prealloc" => plain(true.into()),
        "contents" => plain("/no/such".into()),
        "contents-order" => plain("/no/such".into()),
        "contents-offset" => plain(4096u32.into()),
        "prealloc-context" => plain("".into()),
        "prealloc-mode" => plain("background".into()),
        "prealloc-threads" => plain(3u32.into()),
        "size" => plain((1u32 << 20).into()),
        "thp" => plain("never".into()),
        "policy" => bound("interleave".into()),
        "host-nodes" => bound([bindable_node()?].into()),
        "home-node" if kernel() < (5, 17) => {
            skip("home-node needs Linux 5.17");
            None
        }
        "home-node" => bound(bindable_node()?.into()),
        other => panic!("{other}: say how it is changed live"),
    }
}

/// A ready backend, and with `mapped` the claim that makes it mapped.
fn ready(options: &str, mapped: bool) -> (Backend, Option<Claim>) {
    let backend = ram(options).complete().unwrap();
    let claim = mapped.then(|| backend.claim("vm0").unwrap());
    let state = if mapped { State::Mapped } else { State::Ready };
    assert_eq!(backend.state(), state);
    (backend, claim)
}

#[test]
fn when_ready_or_mapped_what_the_table_says_may_be_set() {
    for row in rows() {
        let name = row.name();
        for mapped in [false, true] {
            let Some((options, value)) = live_change(name) else {
                continue;
            };
            let (backend, _claim) = ready(&options, mapped);
            let (before, origin) = (backend.get(name).unwrap(), backend.origin(name).unwrap());
            let result = backend.set(name, value.clone());
            if row.settable() == Settable::Configuring {
                let message = assert_refused(result, ErrorKind::State, name);
                let state = if mapped { "mapped" } else { "ready" };
                assert!(message.contains(state), "{message}");
                assert_eq!(backend.get(name).unwrap(), before, "{name}");
                assert_eq!(backend.origin(name).unwrap(), origin, "{name}");
            } else {
                assert_eq!(result, Ok(()), "{name}");
                assert_eq!(backend.get(name).unwrap(), value, "{name}");
                assert_eq!(backend.origin(name).unwrap(), Origin::User, "{name}");
            }
        }
    }
}

/// A value that is not even one is refused as such in every state, and changes nothing.
#[test]
fn when_ready_a_bad_value_is_refused() {
    let (backend, _claim) = ready("size=64K", true);
    for (name, value) in [
        ("dump", Value::from("On")),
        ("merge", Value::from("")),
        ("lock", Value::from("1")),
        ("prealloc", Value::from("maybe")),
        ("prealloc-context", Value::from("no-such")),
        ("prealloc-mode", Value::from("soon")),
        ("prealloc-threads", Value::from(0u32)),
        ("thp", Value::from("sometimes")),
        ("policy", Value::from("Bind")),
        ("host-nodes", Value::from("3-1")),
        ("home-node", Value::from("1024")),
    ] {
        let before = backend.get(name).unwrap();
        assert_refused(backend.set(name, value), ErrorKind::Value, name);
        assert_eq!(backend.get(name).unwrap(), before, "{name}");
        assert_eq!(backend.origin(name).unwrap(), Origin::Default, "{name}");
    }
}

/// What a client does that writes back a whole configuration.
#[test]
fn a_ready_backend_takes_the_values_it_has() {
    let backend = ram("size=64K").complete().unwrap();
    for row in rows().filter(|row| row.settable() != Settable::Configuring) {
        let name = row.name();
        let value = backend.get(name).unwrap();
        assert_eq!(backend.set(name, value.clone()), Ok(()), "{name}");
        assert_eq!(backend.get(name).unwrap(), value, "{name}");
    }
}

/// Containers that block mbind must still work.
#[test]
fn a_policy_that_stays_default_makes_no_system_call() {
    let host = Host::probe().unwrap();
    let objects = Objects::new(&host, &Defaults::qemu()).unwrap();
    let calls = [
        Refusal::new(libc::SYS_mbind, libc::EPERM),
        Refusal::new(libc::SYS_set_mempolicy, libc::EPERM),
    ];
    refusing(&calls, || {
        let options = "memory-backend-ram,id=ram0,size=64K";
        let backend = objects.parse(options).unwrap().complete().unwrap();
        for (name, value) in [
            ("policy", Value::from("default")),
            ("host-nodes", Value::List(Vec::new())),
            ("home-node", Value::from("none")),
        ] {
            assert_eq!(backend.set(name, value), Ok(()), "{name}");
        }
    });
}

// ---- Origins ----

#[test]
fn a_later_origin_replaces_an_earlier_one() {
    let compat = [
        ("memory-backend", "dump", "off"),
        ("memory-backend", "share", "on"),
        (KIND, "share", "off"),
        ("memory-backend", "thp", "always"),
        ("memory-backend", "thp", "never"),
        (KIND, "x-use-canonical-path-for-ramblock-id", "on"),
    ];
    let host = Host::probe().unwrap();
    let objects = Objects::with_compat(&host, &Defaults::qemu(), &compat).unwrap();
    let read = |builder: &Builder, name: &str| {
        let text = builder.get_text(name).unwrap();
        (text, builder.origin(name).unwrap())
    };
    let mut builder = objects.builder(KIND, "ram0").unwrap();
    for (name, text, origin) in [
        ("dump", "off", Origin::Compat),
        ("share", "off", Origin::Compat),
        ("thp", "never", Origin::Compat),
        ("x-use-canonical-path-for-ramblock-id", "on", Origin::Compat),
        ("merge", "on", Origin::Default),
        ("reserve", "on", Origin::Default),
    ] {
        assert_eq!(read(&builder, name), (text.into(), origin), "{name}");
    }

    // The user's own, also where it says the same, and not one that is refused.
    builder.set("dump", "on").unwrap();
    assert_eq!(read(&builder, "dump"), ("on".into(), Origin::User));
    builder.set("thp", "never").unwrap();
    assert_eq!(read(&builder, "thp"), ("never".into(), Origin::User));
    builder.set("merge", true).unwrap();
    assert_eq!(read(&builder, "merge"), ("on".into(), Origin::User));
    builder.set("share", "perhaps").unwrap_err();
    assert_eq!(read(&builder, "share"), ("off".into(), Origin::Compat));

    let parsed = objects.parse("memory-backend-ram,id=ram1,dump=on").unwrap();
    assert_eq!(read(&parsed, "dump"), ("on".into(), Origin::User));
    assert_eq!(read(&parsed, "thp"), ("never".into(), Origin::Compat));

    // They last.
    builder.set("size", "64K").unwrap();
    let backend = builder.complete().unwrap();
    assert_eq!(backend.origin("dump").unwrap(), Origin::User);
    assert_eq!(backend.origin("share").unwrap(), Origin::Compat);
    assert_eq!(backend.origin("merge").unwrap(), Origin::User);
    assert_eq!(backend.name(), "/objects/ram0");
}

// ---- Changes of ready memory ----

fn has_page_sharing() -> bool {
    let has = Path::new("/sys/kernel/mm/ksm").exists();
    if !has {
        skip("this kernel has no same-page merging");
    }
    has
}

fn thp_size() -> Option<u64> {
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").ok();
    if text.is_none() {
        skip("this kernel has no transparent huge pages");
    }
    text.map(|text| text.trim().parse().unwrap())
}

/// Makes the changes one after the other and looks for the kernel's flags after each: those with a
/// `-` must not be there.
#[track_caller]
fn assert_changes(options: &str, name: &str, changes: &[(&str, &[&str])]) {
    for mapped in [false, true] {
        let (backend, claim) = ready(options, mapped);
        let address = match claim {
            Some(ref claim) => claim.memory().as_ptr(),
            None => backend.claim("test").unwrap().memory().as_ptr(),
        };
        for &(value, flags) in changes {
            backend.set(name, value).unwrap();
            assert_eq!(backend.get_text(name).unwrap(), value);
            let have = vm_flags(address);
            for &flag in flags {
                let (wanted, flag) = match flag.strip_prefix('-') {
                    Some(flag) => (false, flag),
                    None => (true, flag),
                };
                let has = have.iter().any(|have| have == flag);
                assert_eq!(has, wanted, "{flag} after {name}={value}: {have:?}");
            }
        }
    }
}

#[test]
fn merge_acts_at_once() {
    if has_page_sharing() {
        for begin in ["on", "off"] {
            assert_changes(
                &format!("size=64K,merge={begin}"),
                "merge",
                &[("off", &["-mg"]), ("on", &["mg"]), ("off", &["-mg"])],
            );
        }
    }
}

#[test]
fn dump_acts_at_once() {
    for (begin, share) in [("on", "off"), ("off", "off"), ("off", "on")] {
        assert_changes(
            &format!("size=64K,dump={begin},share={share}"),
            "dump",
            &[("on", &["-dd"]), ("off", &["dd"]), ("on", &["-dd"])],
        );
    }
}

#[test]
fn thp_acts_at_once() {
    let Some(huge) = thp_size() else {
        return;
    };
    for begin in ["auto", "always", "never"] {
        assert_changes(
            &format!("size={huge},thp={begin}"),
            "thp",
            &[
                ("never", &["nh", "-hg"]),
                ("always", &["hg", "-nh"]),
                ("never", &["nh", "-hg"]),
                ("auto", &["hg", "-nh"]),
            ],
        );
    }
    // Too small for a huge page, so that auto asks for none.
    assert_changes(
        "size=64K",
        "thp",
        &[
            ("auto", &["-hg", "-nh"]),
            ("never", &["nh", "-hg"]),
            ("always", &["hg", "-nh"]),
        ],
    );
}

#[test]
fn lock_acts_at_once() {
    if has_address_sanitizer() {
        return;
    }
    let size = page_size();
    for options in ["lock=off", "lock=on", "lock=off,prealloc=on", "share=on"] {
        assert_changes(
            &format!("size={size},{options}"),
            "lock",
            &[("on", &["lo"]), ("off", &["-lo"]), ("on", &["lo"])],
        );
    }
}

/// A lock of memory that is there is a lock of all of it; else each page is locked as it comes.
#[test]
fn a_live_lock_populates_nothing() {
    let backend = ram(&format!("size={}", 2 * page_size()))
        .complete()
        .unwrap();
    backend.set("lock", true).unwrap();
    assert_eq!(backend.placement().unwrap().resident, 0);
}

#[test]
fn explicit_values_are_done_when_completing() {
    for (options, flags) in [
        ("dump=off", &["dd"][..]),
        ("dump=on", &["-dd"]),
        ("merge=off", &["-mg"]),
        ("merge=on", &["mg"]),
        ("thp=never", &["nh", "-hg"]),
        ("thp=always", &["hg", "-nh"]),
        ("lock=on", &["lo"]),
        ("lock=off", &["-lo"]),
    ] {
        if options == "merge=on" && !has_page_sharing() {
            continue;
        }
        if options == "thp=always" && thp_size().is_none() {
            continue;
        }
        let size = page_size();
        let backend = ram(&format!("size={size},{options}")).complete().unwrap();
        let have = vm_flags(backend.claim("test").unwrap().memory().as_ptr());
        for &flag in flags {
            let wanted = !flag.starts_with('-');
            let flag = flag.trim_start_matches('-');
            let has = have.iter().any(|have| have == flag);
            assert_eq!(has, wanted, "{flag} with {options}: {have:?}");
        }
    }
}

fn madvise(advice: u64, errno: libc::c_int) -> Refusal {
    // The kernel takes an int.
    Refusal::new(libc::SYS_madvise, errno).only_masked(2, u64::from(u32::MAX), advice)
}

/// Off is asked of the kernel, not left as it happens to be: it shows when the kernel refuses.
#[test]
fn off_is_done_and_not_only_left_out() {
    let objects = objects();
    for (options, advice, name) in [
        ("merge=off", libc::MADV_UNMERGEABLE, "merge"),
        ("dump=on", libc::MADV_DODUMP, "dump"),
        ("thp=never", libc::MADV_NOHUGEPAGE, "thp"),
    ] {
        let failed = refusing(&[madvise(advice as u64, libc::EPERM)], || {
            objects
                .parse(format!("memory-backend-ram,id=ram0,size=64K,{options}"))
                .unwrap()
                .complete()
                .unwrap_err()
        });
        assert_eq!(failed.error.raw_os_error(), Some(libc::EPERM), "{failed}");
        assert!(failed.to_string().contains(name), "{failed}");
    }
}

/// A process may have all its memory merged; merge=off is an exception to that.
#[test]
fn merge_off_holds_in_a_process_that_merges_everything() {
    in_child(
        "merge_off_holds_in_a_process_that_merges_everything",
        || {
            // SAFETY: takes no pointers.
            if unsafe { libc::prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) } != 0 {
                return skip("this kernel merges by advice only");
            }
            for (options, merges) in [("merge=on", true), ("merge=off", false)] {
                let backend = ram(&format!("size=64K,{options}")).complete().unwrap();
                assert_eq!(backend.placement().unwrap().mergeable, merges, "{options}");
                backend.set("merge", !merges).unwrap();
                assert_eq!(backend.placement().unwrap().mergeable, !merges, "{options}");
            }
        },
    );
}

fn bytes_at(claim: &Claim, offsets: &[u64]) -> Vec<u8> {
    offsets
        .iter()
        // SAFETY: inside the memory, which nobody else uses.
        .map(|&offset| unsafe { claim.memory().as_ptr().add(offset as usize).read_volatile() })
        .collect()
}

#[test]
fn live_prealloc_populates_and_touches_nothing() {
    let size = 4 << 20;
    for options in ["share=off", "share=on", "thp=never", "prealloc-threads=2"] {
        let backend = ram(&format!("size={size},{options}")).complete().unwrap();
        let claim = backend.claim("vm0").unwrap();
        let offsets = [0, page_size() + 7, size / 2, size - 1];
        for (offset, byte) in offsets.iter().zip(1..) {
            // SAFETY: inside the memory, which nobody else uses.
            unsafe {
                claim
                    .memory()
                    .as_ptr()
                    .add(*offset as usize)
                    .write_volatile(byte)
            };
        }
        assert_eq!(backend.prealloc_result(), None);
        backend.set("prealloc", true).unwrap();
        let placement = backend.placement().unwrap();
        assert_eq!(placement.resident, size, "{options}");
        assert_eq!(bytes_at(&claim, &offsets), [1, 2, 3, 4], "{options}");
        assert_eq!(bytes_at(&claim, &[1, page_size(), size - 2]), [0, 0, 0]);
        assert_eq!(backend.prealloc_result().unwrap().bytes, size);
        // Twice is not an error and does nothing.
        backend.set("prealloc", true).unwrap();
    }
}

#[test]
fn prealloc_cannot_be_undone_by_switching_it_off() {
    for mapped in [false, true] {
        let (backend, _claim) = ready("size=64K,prealloc=on", mapped);
        for off in [Value::from(false), Value::from("off")] {
            let message =
                assert_refused(backend.set("prealloc", off), ErrorKind::State, "prealloc");
            assert!(message.contains("discard"), "{message}");
        }
        assert_eq!(backend.get("prealloc").unwrap(), Value::Bool(true));
        assert_eq!(backend.placement().unwrap().resident, 64 << 10);
    }
    // Off is what it is already.
    let (backend, _claim) = ready("size=64K", true);
    backend.set("prealloc", false).unwrap();
}

#[test]
fn a_change_that_the_kernel_refuses_changes_nothing() {
    let call = |number| Refusal::new(number, libc::EPERM);
    let advice = |advice: libc::c_int| madvise(advice as u64, libc::EPERM);
    let cases = [
        ("merge=on", "merge", "off", advice(libc::MADV_UNMERGEABLE)),
        ("merge=off", "merge", "on", advice(libc::MADV_MERGEABLE)),
        ("dump=on", "dump", "off", advice(libc::MADV_DONTDUMP)),
        ("dump=off", "dump", "on", advice(libc::MADV_DODUMP)),
        ("thp=always", "thp", "never", advice(libc::MADV_NOHUGEPAGE)),
        ("thp=never", "thp", "always", advice(libc::MADV_HUGEPAGE)),
        ("lock=off", "lock", "on", call(libc::SYS_mlock2)),
        ("lock=on", "lock", "off", call(libc::SYS_munlock)),
        (
            "prealloc=off",
            "prealloc",
            "on",
            madvise(MADV_POPULATE_WRITE, libc::EPERM),
        ),
    ];
    for (options, name, value, refusal) in cases {
        if name == "merge" && !has_page_sharing()
            || name == "thp" && thp_size().is_none()
            || name == "prealloc" && kernel() < (5, 14)
            || name == "lock" && has_address_sanitizer()
        {
            continue;
        }
        for mapped in [false, true] {
            let size = page_size();
            let (backend, claim) = ready(&format!("size={size},{options}"), mapped);
            let address = match claim {
                Some(ref claim) => claim.memory().as_ptr(),
                None => backend.claim("test").unwrap().memory().as_ptr(),
            };
            let (before, origin) = (backend.get(name).unwrap(), backend.origin(name).unwrap());
            let flags = vm_flags(address);
            let error = refusing(from_ref(&refusal), || backend.set(name, value).unwrap_err());
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
            let message = error.to_string();
            assert!(
                message.contains("ram0") && message.contains(name),
                "{message}"
            );
            assert_eq!(backend.get(name).unwrap(), before, "{name}");
            assert_eq!(backend.origin(name).unwrap(), origin, "{name}");
            assert_eq!(vm_flags(address), flags, "{name}");
            // It was not the end of it.
            backend.set(name, value).unwrap();
            assert_eq!(backend.get_text(name).unwrap(), value);
        }
    }
}

#[test]
fn a_rebinding_that_the_kernel_refuses_changes_nothing() {
    let Some(node) = bindable_node() else {
        return;
    };
    let backend = ram(&format!("size=64K,policy=bind,host-nodes={node}"))
        .complete()
        .unwrap();
    let before = backend.placement().unwrap().policy;
    let refusal = Refusal::new(libc::SYS_mbind, libc::EPERM);
    let error = refusing(&[refusal], || {
        backend.set("policy", "interleave").unwrap_err()
    });
    assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
    assert!(error.to_string().contains("policy"), "{error}");
    assert_eq!(backend.get_text("policy").unwrap(), "bind");
    assert_eq!(backend.placement().unwrap().policy, before);
    backend.set("policy", "interleave").unwrap();
    let policy = backend.placement().unwrap().policy;
    assert_eq!(policy, format!("interleave:{node}"));
}

/// EINVAL is how a kernel answers that was built without the feature.
#[test]
fn what_the_kernel_lacks_can_be_switched_off() {
    if thp_size().is_none() {
        return;
    }
    let lacking = [
        madvise(libc::MADV_MERGEABLE as u64, libc::EINVAL),
        madvise(libc::MADV_UNMERGEABLE as u64, libc::EINVAL),
        madvise(libc::MADV_HUGEPAGE as u64, libc::EINVAL),
        madvise(libc::MADV_NOHUGEPAGE as u64, libc::EINVAL),
    ];
    let objects = objects();
    refusing(&lacking, || {
        // From the defaults it is skipped, explicitly it is an error.
        let parse = |options: &str| {
            let options = format!("memory-backend-ram,id=ram0,size=4M,{options}");
            objects.parse(&options).unwrap()
        };
        for (options, name) in [("merge=on", "merge"), ("thp=always", "thp")] {
            let failed = parse(options).complete().unwrap_err();
            assert_eq!(failed.error.kind(), ErrorKind::Unsupported, "{failed}");
            assert!(failed.to_string().contains(name), "{failed}");
        }
        parse("merge=off,thp=never").complete().unwrap();
        let backend = parse("dump=on").complete().unwrap();
        assert_eq!(backend.get("merge").unwrap(), Value::Bool(true));
        for (name, on, off) in [("merge", "on", "off"), ("thp", "always", "never")] {
            let error = backend.set(name, on).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            backend.set(name, off).unwrap();
            assert_eq!(backend.get_text(name).unwrap(), off);
        }
    });
}

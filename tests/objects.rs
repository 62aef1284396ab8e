// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sets of objects: whose an id is and for how long, kinds, and the defaults that objects begin
//! with.

mod common;

use std::error::Error as StdError;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::sync::Barrier;

use common::objects;
use common::skip;
use common::vm_flags;
use hostmem::Backing;
use hostmem::Builder;
use hostmem::Defaults;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Kind;
use hostmem::Objects;
use hostmem::Origin;
use hostmem::Request;
use hostmem::Value;

const KIND: &str = "memory-backend-ram";
const SIZE: u64 = 64 << 10;

/// Memory as plain as that of memory-backend-ram.
struct Plain;

impl Kind for Plain {
    fn allocate(
        &self,
        _: &Request<'_>,
    ) -> std::result::Result<Backing, Box<dyn StdError + Send + Sync>> {
        Ok(Backing::Anonymous)
    }
}

#[track_caller]
fn assert_taken(objects: &Objects, id: &str) {
    for error in [
        objects.builder(KIND, id).unwrap_err(),
        objects.parse(format!("{KIND},id={id}")).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Value, "{error}");
        let message = error.to_string();
        assert!(
            message.contains(id) && message.contains("taken"),
            "{message}"
        );
    }
}

#[track_caller]
fn assert_free(objects: &Objects, id: &str) {
    drop(objects.builder(KIND, id).unwrap());
}

// ---- Ids ----

#[test]
fn an_id_is_taken_from_the_beginning_to_the_end() {
    let objects = objects();
    let builder = objects.builder(KIND, "ram0").unwrap();
    assert_taken(&objects, "ram0");
    // Neither its case nor its beginning is another's.
    assert_free(&objects, "Ram0");
    assert_free(&objects, "ram");
    assert_free(&objects, "ram00");

    // It comes back with its id when it cannot be completed.
    let failed = builder.complete().unwrap_err();
    assert_taken(&objects, "ram0");
    let backend = failed.object.size(SIZE).complete().unwrap();
    assert_taken(&objects, "ram0");
    backend.delete().unwrap();
    assert_free(&objects, "ram0");
}

#[test]
fn dropping_gives_the_id_back() {
    let objects = objects();
    drop(objects.builder(KIND, "ram0").unwrap());
    assert_free(&objects, "ram0");
    drop(
        objects
            .builder(KIND, "ram0")
            .unwrap()
            .complete()
            .unwrap_err(),
    );
    assert_free(&objects, "ram0");
    let builder = objects.builder(KIND, "ram0").unwrap();
    drop(builder.size(SIZE).complete().unwrap());
    assert_free(&objects, "ram0");
}

#[test]
fn a_failed_attempt_takes_no_id() {
    let objects = objects();
    for options in [
        "memory-backend-ram,id=ram0,no-such=1",
        "memory-backend-ram,id=ram0,size=1MB",
        "memory-backend-ram,id=ram0,size=1M,size=1M",
        "memory-backend-ram,id=ram0,size",
        "memory-backend-ram,id=ram0,id=ram0",
        "memory-backend,id=ram0",
        "no-such,id=ram0",
    ] {
        objects.parse(options).expect_err(options);
        assert_free(&objects, "ram0");
    }
}

#[test]
fn an_id_stays_taken_while_a_claim_lives() {
    let objects = objects();
    let builder = objects.builder(KIND, "ram0").unwrap().size(SIZE);
    let backend = builder.complete().unwrap();
    let claim = backend.claim("vm0").unwrap();
    assert_taken(&objects, "ram0");
    drop(backend);
    assert_taken(&objects, "ram0");
    assert_eq!(claim.id(), "ram0");
    drop(claim);
    assert_free(&objects, "ram0");

    let builder = objects.builder(KIND, "ram0").unwrap().size(SIZE);
    let backend = builder.complete().unwrap();
    let claim = backend.claim("vm0").unwrap();
    let backend = backend.delete().unwrap_err().object;
    assert_taken(&objects, "ram0");
    drop(claim);
    assert_taken(&objects, "ram0");
    backend.delete().unwrap();
    assert_free(&objects, "ram0");
}

#[test]
fn kinds_share_one_set_of_ids() {
    let objects = objects();
    objects
        .register_kind("my-kind", "A test.", false, Plain)
        .unwrap();
    let _builder = objects.builder("my-kind", "ram0").unwrap();
    assert_taken(&objects, "ram0");
}

#[test]
fn sets_know_nothing_of_each_other() {
    let (first, second) = (objects(), objects());
    let _one = first.builder(KIND, "ram0").unwrap();
    let other = second.builder(KIND, "ram0").unwrap();
    drop(other);
    assert_taken(&first, "ram0");
    assert_free(&second, "ram0");

    first
        .register_kind("my-kind", "A test.", false, Plain)
        .unwrap();
    assert_eq!(first.kinds().len(), second.kinds().len() + 1);
    assert!(second.builder("my-kind", "ram0").is_err());
}

#[test]
fn backends_outlive_their_set() {
    let objects = objects();
    let builder = objects.builder(KIND, "ram0").unwrap().size(SIZE);
    let other = objects.builder(KIND, "ram1").unwrap();
    drop(objects);
    drop(other);
    let backend = builder.complete().unwrap();
    let claim = backend.claim("vm0").unwrap();
    drop(backend);
    assert_eq!(claim.memory().len(), SIZE);
}

#[test]
fn one_of_many_threads_gets_an_id() {
    let objects = objects();
    let (threads, rounds) = (4, 50);
    let (barrier, got) = (Barrier::new(threads), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for round in 0..rounds {
                    barrier.wait();
                    let builder = objects.builder(KIND, &format!("ram{round}"));
                    got.fetch_add(builder.is_ok().into(), Ordering::Relaxed);
                    // Nobody gives it back before all have tried.
                    barrier.wait();
                }
            });
        }
    });
    assert_eq!(got.into_inner(), rounds);
    assert_free(&objects, "ram0");
}

#[test]
fn many_objects_are_one_set() {
    let objects = objects();
    let builders: Vec<Builder> = (0..200)
        .map(|n| objects.builder(KIND, &format!("ram{n}")).unwrap())
        .collect();
    for n in 0..200 {
        assert_taken(&objects, &format!("ram{n}"));
    }
    // From the middle, the front and the back.
    for (n, builder) in (0..200).zip(builders).filter(|(n, _)| n % 3 != 1) {
        drop(builder);
        assert_free(&objects, &format!("ram{n}"));
    }
    for n in 0..200 {
        assert_free(&objects, &format!("ram{n}"));
    }
}

// ---- Kinds ----

#[test]
fn the_librarys_kinds_are_listed() {
    let kinds = objects().kinds();
    let names: Vec<_> = kinds.iter().map(|kind| kind.name.as_str()).collect();
    assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    let ram = kinds.iter().find(|kind| kind.name == KIND).unwrap();
    assert!(!ram.share && ram.has_memory);
    for kind in &kinds {
        let description = &kind.description;
        assert!(
            description.starts_with(|c: char| c.is_ascii_uppercase()) && description.ends_with('.'),
            "{}: {description}",
            kind.name
        );
        // Whatever is listed can be made, or says that it is abstract.
        if let Err(error) = objects().builder(&kind.name, "ram0") {
            assert!(error.to_string().contains("abstract"), "{error}");
        }
    }
}

#[test]
fn a_kind_decides_what_share_begins_with() {
    let objects = objects();
    for (name, share) in [("shared-kind", true), ("private-kind", false)] {
        objects
            .register_kind(name, "A test.", share, Plain)
            .unwrap();
        let builder = objects.builder(name, "ram0").unwrap();
        assert_eq!(builder.get("share").unwrap(), Value::Bool(share));
        assert_eq!(builder.origin("share").unwrap(), Origin::Default);
    }
}

/// Of more kinds than a message holds.
#[test]
fn a_long_list_of_kinds_is_cut() {
    let objects = objects();
    for number in 0..500 {
        let name = format!("kind-{number}-{}", "x".repeat(100));
        objects
            .register_kind(&name, "A test.", false, Plain)
            .unwrap();
    }
    let error = objects.builder("other", "ram0").unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("kind 'other' does not exist; kinds: "));
    assert!(message.contains("kind-0-xxx"), "{message}");
    assert!(message.len() < 1024, "{message}");
}

// ---- Defaults ----

fn with_defaults(defaults: &Defaults) -> Objects {
    Objects::new(&Host::probe().unwrap(), defaults).unwrap()
}

#[test]
fn the_defaults_record_is_where_objects_begin() {
    for merge in [false, true] {
        for dump in [false, true] {
            let mut defaults = Defaults::qemu();
            defaults.merge = merge;
            defaults.dump = dump;
            let objects = with_defaults(&defaults);
            let builder = objects.builder(KIND, "ram0").unwrap().size(SIZE);
            assert_eq!(builder.get("merge").unwrap(), Value::Bool(merge));
            assert_eq!(builder.get("dump").unwrap(), Value::Bool(dump));
            assert_eq!(builder.origin("merge").unwrap(), Origin::Default);
            let backend = builder.complete().unwrap();
            let flags = vm_flags(backend.claim("vm0").unwrap().memory().as_ptr());
            let has = |flag: &str| flags.iter().any(|have| have == flag);
            assert_eq!(has("dd"), !dump, "{flags:?}");
            if Path::new("/sys/kernel/mm/ksm").exists() {
                assert_eq!(has("mg"), merge, "{flags:?}");
            } else {
                skip("this kernel has no same-page merging");
            }
        }
    }
}

#[test]
fn the_defaults_record_preallocates() {
    let mut defaults = Defaults::qemu();
    defaults.prealloc = true;
    defaults.prealloc_threads = NonZeroU32::new(3);
    let objects = with_defaults(&defaults);
    // Small pages, so that there is work for more threads than that.
    let size = 8 << 20;
    let parse = |options: &str| {
        objects
            .parse(format!("{KIND},id=ram0,size={size},thp=never,{options}"))
            .unwrap()
    };
    let builder = parse("");
    assert_eq!(builder.get("prealloc").unwrap(), Value::Bool(true));
    assert_eq!(builder.get("prealloc-threads").unwrap(), 3u32.into());
    let backend = builder.complete().unwrap();
    assert_eq!(backend.placement().unwrap().resident, size);
    assert_eq!(backend.prealloc_result().unwrap().threads, 3);
    drop(backend);

    // The user's own wins.
    let backend = parse("prealloc-threads=1").complete().unwrap();
    assert_eq!(backend.prealloc_result().unwrap().threads, 1);
    drop(backend);
    let backend = parse("prealloc=off").complete().unwrap();
    assert_eq!(backend.prealloc_result(), None);
    assert_eq!(backend.placement().unwrap().resident, 0);
}

#[test]
fn the_two_defaults_differ_in_merge_alone() {
    let mut defaults = Defaults::default();
    assert!(!defaults.merge);
    defaults.merge = true;
    assert_eq!(defaults, Defaults::qemu());
    let own = Builder::new(KIND, "ram0").unwrap();
    assert_eq!(own.get("merge").unwrap(), Value::Bool(false));
}

// ---- Compat values ----

fn with_compat(compat: &[(&str, &str, &str)]) -> Objects {
    Objects::with_compat(&Host::probe().unwrap(), &Defaults::qemu(), compat).unwrap()
}

#[test]
fn a_bad_compat_value_makes_creating_fail() {
    use ErrorKind::UnknownProperty;
    use ErrorKind::Value;
    for (compat, kind, part) in [
        ((KIND, "no-such", "on"), UnknownProperty, "no-such"),
        (
            ("memory-backend", "no-such", "on"),
            UnknownProperty,
            "no-such",
        ),
        ((KIND, "", "on"), UnknownProperty, "ram0"),
        ((KIND, "dump", "On"), Value, "dump"),
        ((KIND, "size", "1MB"), Value, "1MB"),
        ((KIND, "policy", "nearest"), Value, "nearest"),
        ((KIND, "host-nodes", "3-1"), Value, "3-1"),
        ((KIND, "prealloc-threads", "0"), Value, "prealloc-threads"),
    ] {
        let objects = with_compat(&[(KIND, "share", "on"), compat, (KIND, "merge", "off")]);
        objects
            .register_kind("my-kind", "A test.", false, Plain)
            .unwrap();
        for _ in 0..2 {
            for error in [
                objects.builder(KIND, "ram0").unwrap_err(),
                objects
                    .parse(format!("{KIND},id=ram0,size=1M"))
                    .unwrap_err(),
            ] {
                assert_eq!(error.kind(), kind, "{compat:?}: {error}");
                assert!(error.to_string().contains(part), "{compat:?}: {error}");
            }
        }
        // The id is free for a kind that the value is not about.
        let other = objects.builder("my-kind", "ram0");
        assert_eq!(other.is_ok(), compat.0 == KIND, "{compat:?}");
    }
}

/// A machine type that misspells a kind would else be quietly another machine.
#[test]
fn a_compat_value_of_an_unknown_kind_makes_creating_fail() {
    let objects = with_compat(&[("memory-backend-rom", "share", "on")]);
    let error = objects
        .builder(KIND, "ram0")
        .expect_err("memory-backend-rom does not exist");
    assert_eq!(error.kind(), ErrorKind::Value, "{error}");
    assert!(error.to_string().contains("memory-backend-rom"), "{error}");
}

#[test]
fn a_compat_value_is_for_its_kind_only() {
    let objects = with_compat(&[
        ("my-kind", "reserve", "off"),
        (KIND, "dump", "off"),
        ("memory-backend", "merge", "off"),
    ]);
    objects
        .register_kind("my-kind", "A test.", false, Plain)
        .unwrap();
    for (kind, reserve, dump) in [("my-kind", false, true), (KIND, true, false)] {
        let builder = objects.builder(kind, "ram0").unwrap();
        assert_eq!(builder.get("reserve").unwrap(), reserve.into(), "{kind}");
        assert_eq!(builder.get("dump").unwrap(), dump.into(), "{kind}");
        assert_eq!(builder.get("merge").unwrap(), false.into(), "{kind}");
    }
}

/// What the compat value says is what the memory is.
#[test]
fn compat_values_are_effective() {
    let objects = with_compat(&[
        (KIND, "size", "64K"),
        (KIND, "dump", "off"),
        (KIND, "share", "on"),
        (KIND, "x-use-canonical-path-for-ramblock-id", "on"),
    ]);
    let backend = objects.builder(KIND, "ram0").unwrap().complete().unwrap();
    assert_eq!(backend.name(), "/objects/ram0");
    let claim = backend.claim("vm0").unwrap();
    assert_eq!(claim.memory().len(), SIZE);
    assert!(claim.memory().is_shared());
    assert!(vm_flags(claim.memory().as_ptr()).contains(&"dd".to_owned()));
}

#[test]
fn a_compat_text_with_a_nul_byte_is_refused() {
    for compat in [
        ("memory\0", "share", "on"),
        (KIND, "sha\0re", "on"),
        (KIND, "share", "on\0"),
    ] {
        let host = Host::probe().unwrap();
        let error = Objects::with_compat(&host, &Defaults::qemu(), &[compat]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{error}");
    }
}

#[test]
fn an_id_that_is_not_given_is_made() {
    let set = objects();
    let taken = set.builder(KIND, "anonymous-2").unwrap();
    let first = set.builder_anonymous(KIND).unwrap();
    let second = set.parse(format!("{KIND},size=64K")).unwrap();
    assert_eq!((first.id(), second.id()), ("anonymous-1", "anonymous-3"));
    let error = set.builder(KIND, first.id()).unwrap_err();
    assert!(error.to_string().contains("is taken"), "{error}");
    drop((taken, first));
    let backend = second.complete().unwrap();
    assert_eq!(backend.name(), "anonymous-3");
    // A wrong option of one without an id is named by the id that it got.
    let error = set.parse(format!("{KIND},size=no")).unwrap_err();
    assert!(error.to_string().starts_with("anonymous-4: "), "{error}");
    let error = set.builder_anonymous("no-such").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value);
}

#[test]
fn messages_say_the_label() {
    let set = objects();
    let label = "RAM of 'vm 7' (100 %s)";
    let builder = set.builder_anonymous(KIND).unwrap().label(label);
    let failed = builder.complete().unwrap_err();
    let message = failed.error.to_string();
    assert!(message.starts_with(&format!("{label}: size")), "{message}");
    let mut builder = failed.object;
    let error = builder.set("no-such", 1u32).unwrap_err();
    assert!(error.to_string().starts_with(label), "{error}");
    let backend = builder.size(1 << 20).complete().unwrap();
    assert_eq!(backend.label(), label);
    assert_eq!(backend.id(), "anonymous-1");
    let claim = backend.claim("vm").unwrap();
    let error = claim.discard(0, 1).unwrap_err();
    assert!(error.to_string().starts_with(label), "{error}");
    for wrong in ["", "a\0b", &"x".repeat(129)] {
        let builder = set.builder_anonymous(KIND).unwrap().label(wrong);
        let error = builder.size(1 << 20).complete().unwrap_err().error;
        assert_eq!(error.kind(), ErrorKind::Value, "{wrong}");
    }
    let plain = set.builder(KIND, "m0").unwrap().size(1 << 20);
    assert_eq!(plain.complete().unwrap().label(), "m0");
}

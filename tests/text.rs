// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Values, ids and option strings as text, at the edges of their forms.

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use common::objects;
use common::ram;
use hostmem::Builder;
use hostmem::Error;
use hostmem::ErrorKind;
use hostmem::Value;
use proptest::prelude::*;

const KIND: &str = "memory-backend-ram";

fn builder() -> Builder {
    objects().builder(KIND, "ram0").unwrap()
}

// ---- Sizes ----

#[test]
fn sizes_are_bytes_with_one_suffix() {
    let mut builder = builder();
    for (text, bytes) in [
        ("1", 1),
        ("4096", 4096),
        ("007", 7),
        ("1B", 1),
        ("1k", 1 << 10),
        ("1K", 1 << 10),
        ("1M", 1 << 20),
        ("1G", 1 << 30),
        ("1T", 1 << 40),
        ("1P", 1 << 50),
        ("1E", 1 << 60),
        ("15E", 15 << 60),
        ("18446744073709551615", u64::MAX),
        ("17179869183G", u64::MAX - (1 << 30) + 1),
        ("000000000000000000000000000000001K", 1 << 10),
        // Rounded down to whole bytes.
        ("1.5G", 3 << 29),
        ("0.5K", 512),
        ("1.0", 1),
        ("1.0B", 1),
        ("2.000", 2),
        ("0.9999k", 1023),
        ("0.001M", 1048),
        ("1.99999999999999999999999999999999999K", 2047),
        // In hexadecimal B and E are digits.
        ("0x1000", 4096),
        ("0X1000", 4096),
        ("0xffffffffffffffff", u64::MAX),
        ("0xFfFf", 0xffff),
        ("0x1B", 27),
        ("0x1E", 30),
        // The suffix in either case.
        ("1b", 1),
        ("2m", 2 << 20),
        ("1.5g", 3 << 29),
        ("1t", 1 << 40),
        ("1p", 1 << 50),
        ("1e", 1 << 60),
    ] {
        builder.set("size", text).unwrap();
        assert_eq!(builder.get("size").unwrap(), Value::Number(bytes), "{text}");
        assert_eq!(builder.get_text("size").unwrap(), bytes.to_string());
    }
}

/// Every digit of a fraction counts, as of bytes that a program writes out as gigabytes.
#[test]
fn long_fractions_are_exact() {
    let mut builder = builder();
    for (text, bytes) in [
        ("0.000000000931322574615478515625G", 1),
        ("0.0000000000009094947017729282379150390625T", 1),
        // 1T and a page.
        ("1.0000000037252902984619140625T", (1 << 40) + 4096),
        // 1E and two pages.
        (
            "1.000000000000007105427357601001858711242675781250E",
            (1 << 60) + 8192,
        ),
        ("0.9999999999999999999E", (1 << 60) - 1),
        (
            "0.000000000000000000867361737988403547205962240695953369140625E",
            1,
        ),
        ("15.99999999999999999999999E", u64::MAX),
    ] {
        let set = builder.set("size", text);
        assert_eq!(set, Ok(()), "{text}");
        assert_eq!(builder.get("size").unwrap(), Value::Number(bytes), "{text}");
    }
    // However small the part of a byte.
    let text = "1.00000000000000000000000001";
    assert!(builder.set("size", text).is_err(), "{text}");
}

#[test]
fn other_sizes_are_refused() {
    let mut builder = builder();
    builder.set("size", "1M").unwrap();
    for text in [
        "",
        " ",
        " 1",
        "1 ",
        "1 M",
        "\t1",
        "1\n",
        "-1",
        "-0",
        "+1",
        "--1",
        // No memory is no size.
        "0",
        "0G",
        "0x0",
        "0.0001K",
        // Beyond 2^64 - 1.
        "16E",
        "0x10000000000000000",
        "18446744073709551616",
        "18446744073709551615K",
        "17179869184G",
        "0xffffffffffffffffK",
        "99999999999999999999999999999999999999999999",
        "340282366920938463463374607431768211457",
        // Other people's units.
        "1MB",
        "1MiB",
        "1Mi",
        "1mb",
        "1gIb",
        "1Z",
        "1KK",
        "K",
        "M1",
        "1e3",
        "1E3",
        "0x10K",
        "0x3fM",
        "1_000",
        "1,000",
        "1'000",
        "50%",
        "unlimited",
        // Fractions: complete, decimal, and of something that has parts.
        "1.",
        ".5",
        ".5G",
        "1.G",
        ".",
        "1.5",
        "1.5B",
        "1..5G",
        "1.5.5G",
        "1.-5G",
        "1.5e1G",
        "0x",
        "0xG",
        "0xK",
        "x10",
        "0x1.8",
        "0x1.8K",
        "0x1.0K",
        "0x-1",
        "1x0",
        "0b1",
        "0x0x1",
        "٣",
        "１",
        "∞",
    ] {
        let error = builder.set("size", text).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Value, "{text:?}: {error}");
        let message = error.to_string();
        assert!(
            message.contains("ram0") && message.contains("size"),
            "{message}"
        );
        assert_eq!(
            builder.get("size").unwrap(),
            Value::Number(1 << 20),
            "{text:?}"
        );
        // Of an offset only the form is wrong, since it may be 0.
        let mut offset = objects().builder("memory-backend-file", "file0").unwrap();
        offset.set("offset", 4096u32).unwrap();
        let is_zero = size_by_digits(text, 0) == Some(0);
        assert_eq!(offset.set("offset", text).is_ok(), is_zero, "{text:?}");
        let expected = if is_zero { 0 } else { 4096 };
        assert_eq!(offset.get("offset").unwrap(), Value::Number(expected));
    }
}

/// The value of a size by schoolbook arithmetic on its decimal digits; None where the form refuses
/// it, or it is less than the least.
fn size_by_digits(text: &str, least: u64) -> Option<u64> {
    let (number, shift) = split_suffix(text);
    let (whole, rest) = match number.strip_prefix("0x").or(number.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            (u64::from_str_radix(hex, 16).ok()?, "0")
        }
        Some(_) => return None,
        None => {
            let (whole, rest) = number.split_once('.').unwrap_or((number, "0"));
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            if !digits(whole) || !digits(rest) {
                return None;
            }
            (whole.parse().ok()?, rest)
        }
    };
    let mut fraction: Vec<u8> = rest.bytes().map(|digit| digit - b'0').collect();
    if shift == 0 && fraction.iter().any(|&digit| digit != 0) {
        return None;
    }
    let mut bytes = u128::from(whole);
    for _ in 0..shift {
        let mut carry = 0;
        for digit in fraction.iter_mut().rev() {
            let doubled = *digit * 2 + carry;
            *digit = doubled % 10;
            carry = doubled / 10;
        }
        bytes = bytes * 2 + u128::from(carry);
    }
    u64::try_from(bytes).ok().filter(|&bytes| bytes >= least)
}

fn split_suffix(text: &str) -> (&str, u32) {
    if text.starts_with("0x") || text.starts_with("0X") {
        return (text, 0);
    }
    for (suffix, shift) in [
        ('B', 0),
        ('K', 10),
        ('M', 20),
        ('G', 30),
        ('T', 40),
        ('P', 50),
        ('E', 60),
    ] {
        if let Some(number) = text.strip_suffix([suffix, suffix.to_ascii_lowercase()]) {
            return (number, shift);
        }
    }
    (text, 0)
}

fn size_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9]{1,21}[BKMGTPEbkmgtpe]?",
        "[0-9]{1,4}\\.[0-9]{1,40}[BKMGTPEbkmgtpe]?",
        "1?[0-9]\\.[0-9]{15,25}[Ee]",
        "0[xX][0-9a-fA-F]{0,17}[BKMGTPEbkmgtpe]?",
        "[0-9a-fxX.+eEbkmgtpeKMGTPB -]{0,8}",
        "\\PC{0,8}",
    ]
}

// ---- Numbers ----

#[test]
fn numbers_are_decimal_or_hex() {
    let mut builder = builder();
    for (text, threads) in [
        ("1", 1),
        ("17", 17),
        ("0x10", 16),
        ("0XfF", 255),
        ("4294967295", u32::MAX),
        ("0xffffffff", u32::MAX),
    ] {
        builder.set("prealloc-threads", text).unwrap();
        let value = builder.get("prealloc-threads").unwrap();
        assert_eq!(value, Value::from(threads), "{text}");
    }
    for text in [
        "",
        " ",
        "0",
        "-1",
        "+1",
        "4294967296",
        "0x100000000",
        "18446744073709551617",
        "1K",
        "1.0",
        "1e1",
        "0x",
        "auto",
        "1 ",
    ] {
        let error = builder.set("prealloc-threads", text).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Value, "{text:?}: {error}");
        let value = builder.get("prealloc-threads").unwrap();
        assert_eq!(value, Value::from(u32::MAX), "{text:?}");
    }
}

#[test]
fn a_node_is_an_id_or_none() {
    let mut builder = builder();
    for (text, value) in [
        ("0", Value::from(0u32)),
        ("1023", Value::from(1023u32)),
        ("0x3ff", Value::from(1023u32)),
        ("none", Value::from("none")),
    ] {
        builder.set("home-node", text).unwrap();
        assert_eq!(builder.get("home-node").unwrap(), value, "{text}");
    }
    for text in [
        "",
        "1024",
        "-1",
        "0-1",
        "0,1",
        "None",
        "18446744073709551615",
    ] {
        let error = builder.set("home-node", text).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Value, "{text:?}: {error}");
        assert_eq!(builder.get_text("home-node").unwrap(), "none", "{text:?}");
    }
}

// ---- Booleans ----

#[test]
fn booleans_are_eight_words() {
    let mut builder = builder();
    for (text, value) in [
        ("on", true),
        ("off", false),
        ("yes", true),
        ("no", false),
        ("true", true),
        ("false", false),
        ("y", true),
        ("n", false),
    ] {
        builder.set("share", !value).unwrap();
        builder.set("share", text).unwrap();
        assert_eq!(builder.get("share").unwrap(), Value::Bool(value), "{text}");
        let canonical = if value { "on" } else { "off" };
        assert_eq!(builder.get_text("share").unwrap(), canonical);
    }
    for before in [false, true] {
        builder.set("share", before).unwrap();
        for text in [
            "On", "ON", "Off", "Yes", "TRUE", "False", "Y", "N", "1", "0", "t", "f", "o", "of",
            "onn", "ye", "", " ", " on", "on ", "enable", "auto",
        ] {
            let error = builder.set("share", text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Value, "{text:?}: {error}");
            assert_eq!(
                builder.get("share").unwrap(),
                Value::Bool(before),
                "{text:?}"
            );
        }
    }
}

// ---- Node sets ----

#[test]
fn node_sets_are_ids_and_rising_ranges() {
    let mut builder = builder();
    for (text, canonical, count) in [
        ("0", "0", 1),
        ("0-3", "0-3", 4),
        ("0-1,3", "0-1,3", 3),
        ("3,1,0", "0-1,3", 3),
        ("5-5", "5", 1),
        ("0-1,2-3", "0-3", 4),
        ("0-2,1-3", "0-3", 4),
        ("0,2,4", "0,2,4", 3),
        ("63-64", "63-64", 2),
        ("0,63,64,127,128", "0,63-64,127-128", 5),
        ("1023", "1023", 1),
        ("0-1023", "0-1023", 1024),
        ("0,1022-1023", "0,1022-1023", 3),
    ] {
        builder.set("host-nodes", text).unwrap();
        assert_eq!(builder.get_text("host-nodes").unwrap(), canonical, "{text}");
        let Value::List(nodes) = builder.get("host-nodes").unwrap() else {
            panic!("{text} is no list");
        };
        assert_eq!(nodes.len(), count, "{text}");
        assert!(nodes.is_sorted(), "{nodes:?}");
        // The text that was read is text that can be set.
        builder.set("host-nodes", [7]).unwrap();
        builder.set("host-nodes", canonical).unwrap();
        assert_eq!(builder.get("host-nodes").unwrap(), Value::List(nodes));
    }
}

/// As long as the text of a set can get.
#[test]
fn a_set_of_every_other_node_is_read_back() {
    let mut builder = builder();
    let nodes: Vec<u32> = (0..1024).step_by(2).collect();
    let text: Vec<_> = nodes.iter().map(u32::to_string).collect();
    builder.set("host-nodes", text.join(",")).unwrap();
    assert_eq!(builder.get("host-nodes").unwrap(), Value::List(nodes));
    assert_eq!(builder.get_text("host-nodes").unwrap(), text.join(","));
}

#[test]
fn other_node_sets_are_refused() {
    let mut builder = builder();
    builder.set("host-nodes", [0, 3]).unwrap();
    for text in [
        "",
        " ",
        "3-1",
        ":",
        "0:1",
        "0;1",
        "0 1",
        " 0",
        "0 ",
        "1-",
        "-1",
        "-",
        "0-1-2",
        "0--1",
        ",",
        "0,",
        ",0",
        "0,,1",
        "1024",
        "0-1024",
        "1024-1025",
        "18446744073709551615",
        "18446744073709551616",
        "0-18446744073709551615",
        "0x1",
        "1.0",
        "1K",
        "a",
        "all",
        "!0",
        "+0",
        "0-3/2",
        "0-7:1/4",
    ] {
        let error = builder.set("host-nodes", text).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Value, "{text:?}: {error}");
        let message = error.to_string();
        assert!(
            message.contains("ram0") && message.contains("host-nodes"),
            "{message}"
        );
        assert_eq!(builder.get_text("host-nodes").unwrap(), "0,3", "{text:?}");
    }
    let error = builder.set("host-nodes", [0, 1024]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value);
    assert!(error.to_string().contains("1024"), "{error}");
    assert_eq!(builder.get_text("host-nodes").unwrap(), "0,3");
}

// ---- Option strings ----

#[test]
fn option_strings_set_properties() {
    for (options, property, text) in [
        ("memory-backend-ram,id=ram0,size=1M", "size", "1048576"),
        ("memory-backend-ram,size=1M,id=ram0", "size", "1048576"),
        // As QEMU takes it.
        ("memory-backend-ram,id=ram0,size=1M,", "size", "1048576"),
        ("memory-backend-ram,id=ram0", "size", "0"),
        (
            "qom-type=memory-backend-ram,id=ram0,share=on",
            "share",
            "on",
        ),
        (
            "id=ram0,share=on,qom-type=memory-backend-ram",
            "share",
            "on",
        ),
        (
            "memory-backend-ram,id=ram0,host-nodes=0-1,,3",
            "host-nodes",
            "0-1,3",
        ),
        (
            "memory-backend-ram,id=ram0,host-nodes=0,host-nodes=3",
            "host-nodes",
            "0,3",
        ),
        (
            "memory-backend-ram,host-nodes=6-7,id=ram0,host-nodes=0,,2,share=on,host-nodes=1",
            "host-nodes",
            "0-2,6-7",
        ),
        (
            "memory-backend-ram,id=ram0,host-nodes=2,host-nodes=2",
            "host-nodes",
            "2",
        ),
        (
            "memory-backend-ram,id=ram0,prealloc-context=,share=on",
            "prealloc-context",
            "",
        ),
    ] {
        let builder = objects().parse(options).unwrap();
        assert_eq!((builder.id(), builder.kind()), ("ram0", KIND), "{options}");
        assert_eq!(builder.get_text(property).unwrap(), text, "{options}");
    }
}

#[test]
fn other_option_strings_are_refused() {
    use ErrorKind::UnknownProperty;
    use ErrorKind::Value;
    for (options, kind, part) in [
        // The kind: there, known, real, first or named.
        ("", Value, "kind is missing"),
        ("id=ram0", Value, "kind is missing"),
        ("id=ram0,size=1M", Value, "kind is missing"),
        (",id=ram0", Value, KIND),
        (",", Value, KIND),
        (",,", Value, KIND),
        ("no-such,id=ram0", Value, "no-such"),
        ("no-such,id=ram0", Value, KIND),
        ("Memory-backend-ram,id=ram0", Value, KIND),
        ("memory-backend-ram ,id=ram0", Value, KIND),
        ("memory-backend-ram,,id=ram0", Value, KIND),
        ("memory-backend,id=ram0,size=1M", Value, "abstract"),
        ("qom-type=memory-backend,id=ram0", Value, "abstract"),
        (
            "size=1M,memory-backend-ram,id=ram0",
            Value,
            "kind is missing",
        ),
        (
            "memory-backend-ram,qom-type=memory-backend-ram,id=ram0",
            Value,
            "qom-type",
        ),
        // The id: with a value, once.
        ("memory-backend-ram,id=", Value, "letter"),
        ("memory-backend-ram,id", Value, "id=VALUE"),
        ("memory-backend-ram,id=a=b", Value, "a=b"),
        ("memory-backend-ram,id=a,,b", Value, "a,b"),
        ("memory-backend-ram,id=ram0,,,size=1M", Value, "ram0,"),
        ("memory-backend-ram,id=ram0,id=ram0", Value, "id"),
        // Keys: known, with a value, once.
        (
            "memory-backend-ram,id=ram0,no-such=1",
            UnknownProperty,
            "no-such",
        ),
        (
            "memory-backend-ram,id=ram0,Size=1M",
            UnknownProperty,
            "Size",
        ),
        (
            "memory-backend-ram,id=ram0, size=1M",
            UnknownProperty,
            " size",
        ),
        ("memory-backend-ram,id=ram0,=1M", UnknownProperty, "ram0"),
        ("memory-backend-ram,id=ram0,size", Value, "size=VALUE"),
        ("memory-backend-ram,id=ram0,nosize", Value, "nosize=VALUE"),
        ("memory-backend-ram,id=ram0,no", Value, "no=VALUE"),
        ("memory-backend-ram,id=ram0,seal", Value, "seal=VALUE"),
        ("memory-backend-ram,id=ram0,Share", Value, "Share=VALUE"),
        ("memory-backend-ram,id=ram0,nonoshare", Value, "nonoshare"),
        (
            "memory-backend-ram,id=ram0,share,share=on",
            Value,
            "share is given twice",
        ),
        (
            "memory-backend-ram,id=ram0,share,noshare",
            Value,
            "share is given twice",
        ),
        ("memory-backend-ram,id=ram0,id", Value, "id=VALUE"),
        ("memory-backend-ram,id=ram0,qom-type", Value, "qom-type"),
        ("memory-backend-ram,id=ram0,size=1M,size=1M", Value, "size"),
        (
            "memory-backend-ram,id=ram0,share=on,size=1M,share=off",
            Value,
            "share",
        ),
        (
            "memory-backend-ram,id=ram0,policy=bind,policy=bind",
            Value,
            "policy",
        ),
        // Values: commas and equals signs inside belong to them.
        ("memory-backend-ram,id=ram0,policy=bind=0", Value, "bind=0"),
        ("memory-backend-ram,id=ram0,policy=a,,b", Value, "a,b"),
        ("memory-backend-ram,id=ram0,policy=,,a,,,,", Value, "=,a,,"),
        ("memory-backend-ram,id=ram0,size==1M", Value, "=1M"),
        ("memory-backend-ram,id=ram0,size=", Value, "size"),
        ("memory-backend-ram,id=ram0,share=", Value, "share"),
        (
            "memory-backend-ram,id=ram0,host-nodes=",
            Value,
            "host-nodes",
        ),
        ("memory-backend-ram,id=ram0,host-nodes=3-1", Value, "3-1"),
        // Each part of a set is one.
        (
            "memory-backend-ram,id=ram0,host-nodes=0,host-nodes=3-1",
            Value,
            "3-1",
        ),
        (
            "memory-backend-ram,id=ram0,host-nodes=0,host-nodes=",
            Value,
            "host-nodes",
        ),
        (
            "memory-backend-ram,id=ram0,host-nodes=0-,host-nodes=3",
            Value,
            "host-nodes",
        ),
        (
            "memory-backend-ram,id=ram0,host-nodes=0,host-nodes=1024",
            Value,
            "1024",
        ),
    ] {
        let objects = objects();
        let error = objects.parse(options).expect_err(options);
        assert_eq!(error.kind(), kind, "{options:?}: {error}");
        assert!(error.to_string().contains(part), "{options:?}: {error}");
        // Nothing of it is left behind.
        objects.builder(KIND, "ram0").unwrap();
    }
}

/// As QEMU still takes them. What to write instead is in a warning.
#[test]
fn a_boolean_alone_is_on_and_off_behind_no() {
    for (options, property, text, alone) in [
        ("share", "share", "on", "'share'"),
        ("noshare", "share", "off", "'noshare'"),
        ("share,size=1M", "share", "on", "'share'"),
        ("size=1M,prealloc", "prealloc", "on", "'prealloc'"),
        ("nodump", "dump", "off", "'nodump'"),
        ("noreserve", "reserve", "off", "'noreserve'"),
    ] {
        let builder = ram(options);
        assert_eq!(builder.get_text(property).unwrap(), text, "{options}");
        assert_eq!(builder.origin(property).unwrap(), hostmem::Origin::User);
        let warnings = builder.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].starts_with(&format!("{property}: ")),
            "{warnings:?}"
        );
        assert!(warnings[0].contains(alone), "{warnings:?}");
        let instead = format!("write {property}={text}");
        assert!(warnings[0].ends_with(&instead), "{warnings:?}");
    }
    let builder = ram("size=64K,share,nomerge,dump=on");
    let warnings = builder.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("share") && warnings[1].starts_with("merge"));
    // They stay with what was made.
    assert_eq!(builder.complete().unwrap().warnings(), warnings);
    assert_eq!(ram("share=on,merge=off").warnings(), [""; 0]);
}

#[test]
fn a_unit_behind_the_suffix_is_answered_by_what_to_write() {
    let mut builder = builder();
    // What is quoted of a value has at most 128 bytes.
    let long = |zeros| format!("{}1G", "0".repeat(zeros));
    for (text, instead) in [
        ("1GB", Some("1G")),
        ("512mb", Some("512m")),
        ("1.5GiB", Some("1.5G")),
        ("2Mi", Some("2M")),
        ("1KB", Some("1K")),
        ("15.5EB", Some("15.5E")),
        ("1BB", Some("1B")),
        (&format!("{}B", long(125)), Some(&*long(125))),
        (&format!("{}B", long(126)), None),
        ("GB", None),
        ("1XB", None),
        // What is no size without the unit either.
        ("16EB", None),
        ("18446744073709551616GB", None),
        ("1.5.5GB", None),
        (".5GB", None),
        ("1.GB", None),
        ("..GB", None),
        ("1GX", None),
        ("1GBB", None),
        ("1G B", None),
        ("1.", None),
    ] {
        let error = builder.set("size", text).expect_err(text);
        let message = error.to_string();
        match instead {
            Some(size) => assert!(
                message.ends_with(&format!("write size={size}")),
                "{message}"
            ),
            None => assert!(message.contains("expected a size below 16E"), "{message}"),
        }
        assert_eq!(error.raw_os_error(), None, "{message}");
    }
}

/// Words that are looked up, not only that there are some.
#[test]
fn messages_say_what_can_be_written() {
    let mut context = objects().thread_context("ram0").unwrap();
    for (error, message) in [
        (
            builder().set("share", "ON").unwrap_err(),
            "ram0: share=ON: write share=on or share=off",
        ),
        (
            builder().set("reserve", "ON").unwrap_err(),
            "ram0: reserve=ON: write reserve=on, reserve=off or reserve=try",
        ),
        (
            builder().set("prealloc-mode", "x").unwrap_err(),
            "ram0: prealloc-mode=x: expected wait or background",
        ),
        (
            builder().set("thp", "x").unwrap_err(),
            "ram0: thp=x: expected auto, always or never",
        ),
        (
            builder().set("host-nodes", [0, 1024]).unwrap_err(),
            "ram0: host-nodes: node 1024: expected ids below 1024",
        ),
        (
            context.set("cpu-affinity", [8192]).unwrap_err(),
            "ram0: cpu-affinity: CPU 8192: expected ids below 8192",
        ),
    ] {
        assert_eq!(error.to_string(), message);
        assert_eq!(error.raw_os_error(), None, "{message}");
    }
}

/// A path that an object has in QOM is as good as its id.
#[test]
fn a_link_may_be_a_path() {
    let objects = objects();
    let _context = objects.thread_context("tc0").unwrap().complete().unwrap();
    let builder = objects
        .parse(format!("{KIND},id=ram0,prealloc-context=/objects/tc0"))
        .unwrap();
    assert_eq!(builder.get_text("prealloc-context").unwrap(), "tc0");
    let longest = "x".repeat(128);
    let _other = objects
        .thread_context(&longest)
        .unwrap()
        .complete()
        .unwrap();
    let mut builder = builder;
    builder.set("prealloc-context", &*longest).unwrap();
    assert_eq!(builder.get_text("prealloc-context").unwrap(), longest);
    for other in [
        "/objects/tc1",
        "/objects/",
        "/objects",
        "/tc0",
        "/objects/tc0/",
        "objects/tc0",
    ] {
        let error = objects
            .parse(format!("{KIND},id=ram1,prealloc-context={other}"))
            .expect_err(other);
        assert_eq!(error.kind(), ErrorKind::Value, "{error}");
    }
}

/// An empty set is refused, so it is also refused as the first part of one.
#[test]
fn a_set_has_no_empty_parts() {
    for options in [
        "host-nodes=0,host-nodes=",
        "host-nodes=,host-nodes=0",
        "host-nodes=,host-nodes=",
        "host-nodes=,host-nodes=,host-nodes=0",
        "host-nodes=0,host-nodes=,host-nodes=1",
    ] {
        let error = objects()
            .parse(format!("{KIND},id=ram0,{options}"))
            .expect_err(options);
        assert_eq!(error.kind(), ErrorKind::Value, "{options}: {error}");
    }
}

#[test]
fn an_option_string_is_cut_at_no_length() {
    let host_nodes: Vec<_> = (0..1024).map(|node| format!("host-nodes={node}")).collect();
    let builder = ram(&host_nodes.join(","));
    assert_eq!(builder.get_text("host-nodes").unwrap(), "0-1023");
    let error = objects()
        .parse(format!("{KIND},id=ram0,policy={}", "x".repeat(1 << 20)))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value);
    assert!(error.to_string().contains("policy"), "{error}");
}

// ---- Ids ----

#[test]
fn ids_begin_with_a_letter() {
    let longest = "x".repeat(128);
    for id in [
        "a", "z", "A", "Z", "a1", "ram0", "a-", "a.", "a_", "A-b.c_9", &longest,
    ] {
        let objects = objects();
        let builder = objects.builder(KIND, id).unwrap();
        assert_eq!(builder.id(), id);
        drop(builder);
        let builder = objects.parse(format!("{KIND},id={id}")).unwrap();
        assert_eq!(builder.id(), id);
    }
    let objects = objects();
    let too_long = "x".repeat(129);
    let far_too_long = "x".repeat(100_000);
    for id in [
        "",
        " ",
        "0",
        "1a",
        "-a",
        ".a",
        "_a",
        "/a",
        " a",
        "a ",
        "a b",
        "a/b",
        "a:b",
        "a+b",
        "a=b",
        "a,b",
        "a#",
        "a\t",
        "a\n",
        "a\u{7f}",
        "é",
        "aé",
        "ａ",
        "a\u{200d}",
        &too_long,
        &far_too_long,
    ] {
        let error = objects.builder(KIND, id).expect_err(id);
        assert_eq!(error.kind(), ErrorKind::Value, "{id:?}: {error}");
        assert!(error.to_string().contains("id"), "{id:?}: {error}");
        let quoted = id.replace(',', ",,");
        let error = objects.parse(format!("{KIND},id={quoted}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value, "{id:?}: {error}");
    }
}

/// C cannot carry it, so it must not be cut there in silence.
#[test]
fn a_nul_byte_is_refused_everywhere() {
    let objects = objects();
    for error in [
        objects.builder(KIND, "ram0\0x").unwrap_err(),
        objects
            .builder("memory-backend-ram\0x", "ram0")
            .unwrap_err(),
        objects
            .parse("memory-backend-ram,id=ram0\0,size=1M")
            .unwrap_err(),
        builder().set("size", "1M\0").unwrap_err(),
        builder().set("size\0", "1M").unwrap_err(),
        builder().set("size\0", 4096u32).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Value, "{error}");
    }
    objects.builder(KIND, "ram0").unwrap();
}

/// An error from each place that quotes what it was given.
fn errors_that_quote(text: &str) -> Vec<Error> {
    let objects = objects();
    let mut builder = builder();
    vec![
        objects.builder(KIND, text).unwrap_err(),
        objects.builder(text, "ram0").unwrap_err(),
        objects.parse(text).unwrap_err(),
        objects.parse(format!("{KIND},{text}")).unwrap_err(),
        objects
            .parse(format!("{KIND},id=ram0,{text}=1"))
            .unwrap_err(),
        builder.set("policy", text).unwrap_err(),
        builder.set("host-nodes", text).unwrap_err(),
        builder.set("prealloc-context", text).unwrap_err(),
        builder.set(text, true).unwrap_err(),
        builder.get(text).unwrap_err(),
    ]
}

#[test]
fn messages_are_one_line() {
    for text in ["a\nb", "a\r\nhostmem: b", "\x1b[31m"] {
        for error in errors_that_quote(text) {
            let message = error.to_string();
            assert!(!message.contains(char::is_control), "{message:?}");
        }
    }
}

/// Where a long text is cut, too.
#[test]
fn messages_are_of_whole_characters() {
    for beginning in ["", "a", "ab", "abc"] {
        for letter in ["x", "é", "日", "𝄞"] {
            for error in errors_that_quote(&format!("{beginning}{}", letter.repeat(2000))) {
                let message = error.to_string();
                assert!(message.len() < 1024, "{}", message.len());
                assert!(!message.contains('\u{fffd}'), "{message}");
            }
        }
    }
}

/// At each limit of UTF-8 (RFC 3629): a byte that begins no character is `?`, as control characters
/// are.
#[test]
fn messages_are_of_characters_only() {
    let mut builder = objects().builder("memory-backend-file", "file0").unwrap();
    builder.set("size", 4096u32).unwrap();
    for (bytes, expected) in [
        (&b"\x01\x1f \x7e\x7f"[..], "?? ~?"),
        // C1 control characters, which are two bytes.
        (b"\xc2\x80\xc2\x85\xc2\x9b\xc2\x9f", "????????"),
        (b"\xc2\xa0\xc2\xbf\xdf\xbf", "\u{a0}\u{bf}\u{7ff}"),
        (b"\xe0\xa0\x80\xe0\xbf\xbf", "\u{800}\u{fff}"),
        (b"\xe1\x80\x80\xec\xbf\xbf", "\u{1000}\u{cfff}"),
        (b"\xed\x80\x80\xed\x9f\xbf", "\u{d000}\u{d7ff}"),
        (b"\xee\x80\x80\xef\xbf\xbf", "\u{e000}\u{ffff}"),
        (b"\xf0\x90\x80\x80\xf0\xbf\xbf\xbf", "\u{10000}\u{3ffff}"),
        (b"\xf1\x80\x80\x80\xf3\xbf\xbf\xbf", "\u{40000}\u{fffff}"),
        (b"\xf4\x80\x80\x80\xf4\x8f\xbf\xbf", "\u{100000}\u{10ffff}"),
        // Never the first byte.
        (b"\x80", "?"),
        (b"\xbf", "?"),
        (b"\xc0\x80\xc1\xbf", "????"),
        (b"\xf5\x80\x80\x80", "????"),
        (b"\xf8\x88\x80\x80\x80\xff", "??????"),
        // Longer than needed, surrogates, above the last.
        (b"\xe0\x80\x80\xe0\x9f\xbf", "??????"),
        (b"\xed\xa0\x80\xed\xbf\xbf", "??????"),
        (b"\xf0\x80\x80\x80\xf0\x8f\xbf\xbf", "????????"),
        (b"\xf4\x90\x80\x80\xf4\xbf\xbf\xbf", "????????"),
        // Cut short.
        (b"\xc3", "?"),
        (b"\xe1\x80", "??"),
        (b"\xf1\x80\x80", "???"),
        (b"\xc3\x7e", "?~"),
        (b"\xc3\xc3\xa9", "?é"),
        (b"\xe1\x80\xc3\xa9", "??é"),
        (b"\xe1x\x80", "?x?"),
        (b"\xf1\x80\x80x", "???x"),
    ] {
        let path = [b"/no such directory/", bytes].concat();
        let path = Path::new(OsStr::from_bytes(&path));
        builder.set("mem-path", path).unwrap();
        let failed = builder.complete().unwrap_err();
        let quoted = format!("mem-path=/no such directory/{expected}: cannot");
        assert!(failed.to_string().contains(&quoted), "{bytes:?}: {failed}");
        builder = failed.object;
    }
}

// ---- Anything at all ----

/// Parts of option strings, half of them sensible.
fn option_part() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        proptest::sample::select(
            hostmem::properties()
                .map(|property| property.name().to_owned())
                .chain(["id".into(), "qom-type".into()])
                .collect::<Vec<_>>()
        ),
        "[a-z-]{0,6}",
    ];
    let value = prop_oneof![
        size_text(),
        "(on|off|none|bind|local|always|wait|ram0|memory-backend|memory-backend-ram)",
        "[0-9]{1,4}([,-]{1,2}[0-9]{1,4}){0,3}",
        "\\PC{0,12}",
    ];
    prop_oneof![
        4 => (key, value).prop_map(|(key, value)| format!("{key}={value}")),
        1 => "\\PC{0,12}",
    ]
}

fn option_string() -> impl Strategy<Value = String> {
    let beginning = prop_oneof![
        3 => Just(vec![format!("{KIND},id=ram0")]),
        1 => Just(Vec::new()),
    ];
    let parts = proptest::collection::vec(option_part(), 0..5);
    (beginning, parts).prop_map(|(beginning, parts)| [beginning, parts].concat().join(","))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_size_is_what_its_digits_say(text in size_text()) {
        let mut builder = builder();
        let set = builder.set("size", text.as_str());
        match size_by_digits(&text, 1) {
            Some(bytes) => {
                prop_assert!(set.is_ok(), "{:?}", set);
                prop_assert_eq!(builder.get("size").unwrap(), Value::Number(bytes));
            }
            None => prop_assert_eq!(set.unwrap_err().kind(), ErrorKind::Value),
        }
    }

    #[test]
    fn any_option_string_is_taken_whole_or_refused_whole(options in option_string()) {
        let objects = objects();
        match objects.parse(&options) {
            Ok(builder) => {
                let of_kind = |row: &hostmem::Property| {
                    row.kinds().is_none_or(|kinds| kinds.contains(&builder.kind()))
                };
                for property in hostmem::properties().filter(of_kind) {
                    builder.get(property.name()).unwrap();
                    builder.get_text(property.name()).unwrap();
                }
                let id = builder.id().to_owned();
                prop_assert!(objects.builder(KIND, &id).is_err());
            }
            Err(error) => {
                prop_assert!(!error.to_string().is_empty());
                prop_assert!(objects.builder(KIND, "ram0").is_ok());
            }
        }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The filter that docs/seccomp.md describes, which kills at anything else.

use std::collections::BTreeMap;
use std::env;

use seccompiler::SeccompAction;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::MaskedEq;
use seccompiler::SeccompCondition;
use seccompiler::SeccompFilter;
use seccompiler::SeccompRule;

const TABLE: &str = include_str!("../../docs/seccomp.md");
const ANY: &str = "any backend";
/// What every backend does beside with another C library.
const ANY_OF_LIBC: &[&str] = match cfg!(target_env = "musl") {
    true => &["musl, for any backend"],
    false => &[],
};

/// What a thread of Rust's own does as it ends, and how a test that fails is reported.
const OF_THE_TEST: [libc::c_long; 4] = [
    libc::SYS_exit,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

/// What the table may name.
const CALLS: &[(&str, libc::c_long)] = &[
    ("brk", libc::SYS_brk),
    ("clock_gettime", libc::SYS_clock_gettime),
    ("clone", libc::SYS_clone),
    ("connect", libc::SYS_connect),
    ("getcpu", libc::SYS_getcpu),
    ("gettid", libc::SYS_gettid),
    ("ppoll", libc::SYS_ppoll),
    ("pwrite64", libc::SYS_pwrite64),
    ("recvmsg", libc::SYS_recvmsg),
    ("sched_setscheduler", libc::SYS_sched_setscheduler),
    ("sendto", libc::SYS_sendto),
    ("socket", libc::SYS_socket),
    ("clone3", libc::SYS_clone3),
    ("close", libc::SYS_close),
    ("eventfd2", libc::SYS_eventfd2),
    ("exit", libc::SYS_exit),
    ("fallocate", libc::SYS_fallocate),
    ("fcntl", libc::SYS_fcntl),
    ("fstat", libc::SYS_fstat),
    ("fstatfs", libc::SYS_fstatfs),
    ("ftruncate", libc::SYS_ftruncate),
    ("futex", libc::SYS_futex),
    ("get_mempolicy", libc::SYS_get_mempolicy),
    ("getpid", libc::SYS_getpid),
    ("getrandom", libc::SYS_getrandom),
    ("ioctl", libc::SYS_ioctl),
    ("lseek", libc::SYS_lseek),
    ("madvise", libc::SYS_madvise),
    ("mbind", libc::SYS_mbind),
    ("memfd_create", libc::SYS_memfd_create),
    ("mincore", libc::SYS_mincore),
    // Of Linux 6.5.
    ("cachestat", 451),
    ("mlock2", libc::SYS_mlock2),
    ("mmap", libc::SYS_mmap),
    ("mprotect", libc::SYS_mprotect),
    ("mremap", libc::SYS_mremap),
    ("msync", libc::SYS_msync),
    ("munlock", libc::SYS_munlock),
    ("munmap", libc::SYS_munmap),
    ("newfstatat", libc::SYS_newfstatat),
    ("openat", libc::SYS_openat),
    ("prctl", libc::SYS_prctl),
    ("pread64", libc::SYS_pread64),
    ("prlimit64", libc::SYS_prlimit64),
    ("read", libc::SYS_read),
    ("readlinkat", libc::SYS_readlinkat),
    ("rseq", libc::SYS_rseq),
    ("rt_sigprocmask", libc::SYS_rt_sigprocmask),
    ("sched_getaffinity", libc::SYS_sched_getaffinity),
    ("sched_setaffinity", libc::SYS_sched_setaffinity),
    ("set_mempolicy", libc::SYS_set_mempolicy),
    ("set_robust_list", libc::SYS_set_robust_list),
    ("unlinkat", libc::SYS_unlinkat),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("write", libc::SYS_write),
    ("set_mempolicy_home_node", 450),
    // Of older architectures.
    #[cfg(target_arch = "x86_64")]
    ("open", libc::SYS_open),
    #[cfg(target_arch = "x86_64")]
    ("poll", libc::SYS_poll),
    #[cfg(target_arch = "x86_64")]
    ("readlink", libc::SYS_readlink),
    #[cfg(target_arch = "x86_64")]
    ("stat", libc::SYS_stat),
    #[cfg(target_arch = "x86_64")]
    ("unlink", libc::SYS_unlink),
];
const ADVICE: &[(&str, libc::c_int)] = &[
    ("DONTNEED", libc::MADV_DONTNEED),
    ("DONTFORK", libc::MADV_DONTFORK),
    ("MERGEABLE", libc::MADV_MERGEABLE),
    ("UNMERGEABLE", libc::MADV_UNMERGEABLE),
    ("HUGEPAGE", libc::MADV_HUGEPAGE),
    ("NOHUGEPAGE", libc::MADV_NOHUGEPAGE),
    ("DONTDUMP", libc::MADV_DONTDUMP),
    ("DODUMP", libc::MADV_DODUMP),
    ("POPULATE_READ", 22),
    ("POPULATE_WRITE", 23),
    ("DONTNEED_LOCKED", 24),
    ("COLLAPSE", 25),
];

const OPERATIONS: &[(&str, libc::c_int)] = &[
    ("WAIT", libc::FUTEX_WAIT),
    ("WAKE", libc::FUTEX_WAKE),
    ("CMP_REQUEUE", libc::FUTEX_CMP_REQUEUE),
    ("REQUEUE", libc::FUTEX_REQUEUE),
    ("WAKE_OP", libc::FUTEX_WAKE_OP),
    ("WAIT_BITSET", libc::FUTEX_WAIT_BITSET),
];

const OPTIONS: &[(&str, libc::c_int)] = &[
    ("PR_SET_NAME", libc::PR_SET_NAME),
    ("PR_GET_THP_DISABLE", libc::PR_GET_THP_DISABLE),
    ("PR_SET_VMA", 0x5356_4d41),
];

/// linux/fs.h and linux/userfaultfd.h.
const REQUESTS: &[(&str, libc::c_int)] = &[
    ("BLKGETSIZE64", 0x8008_1272_u32 as libc::c_int),
    ("USERFAULTFD_IOC_NEW", 0xaa00),
    ("UFFDIO_API", 0xc018_aa3f_u32 as libc::c_int),
    ("UFFDIO_REGISTER", 0xc020_aa00_u32 as libc::c_int),
    ("UFFDIO_UNREGISTER", 0x8010_aa01_u32 as libc::c_int),
    ("UFFDIO_WAKE", 0x8010_aa02_u32 as libc::c_int),
    ("UFFDIO_COPY", 0xc028_aa03_u32 as libc::c_int),
    ("UFFDIO_ZEROPAGE", 0xc020_aa04_u32 as libc::c_int),
    ("UFFDIO_CONTINUE", 0xc020_aa07_u32 as libc::c_int),
    ("UFFDIO_POISON", 0xc020_aa08_u32 as libc::c_int),
    ("PAGEMAP_SCAN", 0xc060_6610_u32 as libc::c_int),
    ("UFFDIO_MOVE", 0xc028_aa05_u32 as libc::c_int),
];

type Values = &'static [(&'static str, libc::c_int)];

/// Which argument of a call has the values of which table, apart from flags.
const ARGUMENTS: [(libc::c_long, u8, libc::c_int, Values); 4] = [
    (libc::SYS_madvise, 2, 0, ADVICE),
    (
        libc::SYS_futex,
        1,
        libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME,
        OPERATIONS,
    ),
    (libc::SYS_prctl, 0, 0, OPTIONS),
    (libc::SYS_ioctl, 1, 0, REQUESTS),
];

/// The words of a cell between two marks.
fn words(cell: &str, mark: char) -> Vec<&str> {
    cell.split(mark).skip(1).step_by(2).collect()
}

/// The calls and the values that a line of the table names, with the lines that it includes.
fn line(name: &str) -> (Vec<&'static str>, Vec<&'static str>) {
    let line = TABLE.lines().find_map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        (cells.len() == 3 && cells[0] == name).then(|| (cells[1], cells[2]))
    });
    let line = line.unwrap_or_else(|| panic!("docs/seccomp.md has a line {name:?}"));
    let (mut calls, mut values) = (words(line.0, '`'), words(line.1, '`'));
    for included in words(line.0, '*') {
        let more = self::line(included);
        calls.extend(more.0);
        values.extend(more.1);
    }
    (calls, values)
}

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|row| row.0 == name).map(|row| row.1)
}

/// Rules that allow a call for some values of an argument, of which flags are left out.
fn only(argument: u8, flags: libc::c_int, values: &[libc::c_int]) -> Vec<SeccompRule> {
    let rule = |&value: &libc::c_int| {
        let masked = MaskedEq(u64::from(!flags as u32));
        let condition = SeccompCondition::new(argument, Dword, masked, value as u64).unwrap();
        SeccompRule::new(vec![condition]).unwrap()
    };
    values.iter().map(rule).collect()
}

/// From here on the calling thread, and what it creates, may do only what these lines say.
pub fn confine(lines: &[&str]) {
    let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> = BTreeMap::new();
    rules.extend(OF_THE_TEST.map(|call| (call, Vec::new())));
    // The stack of the test's thread.
    let mut values = vec!["DONTNEED"];
    for name in [&[ANY], ANY_OF_LIBC, lines].concat() {
        let (calls, last) = line(name);
        let calls = calls.iter().filter_map(|call| find(CALLS, call));
        rules.extend(calls.map(|call| (call, Vec::new())));
        values.extend(last);
    }
    for (call, argument, flags, table) in ARGUMENTS {
        let values: Vec<_> = values.iter().filter_map(|name| find(table, name)).collect();
        if let Some(rule) = rules.get_mut(&call) {
            *rule = only(argument, flags, &values);
        }
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        env::consts::ARCH.try_into().unwrap(),
    );
    let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// Panics at a word that means nothing; the number of lines.
pub fn check_words() -> usize {
    let table = TABLE.split("## Narrowing").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let mut seen = 0;
    for row in rows.skip(1) {
        let cells: Vec<_> = row.trim_matches('|').split('|').collect();
        for call in words(cells[1], '`') {
            let old = ["open", "poll", "readlink", "stat", "unlink"].contains(&call);
            assert!(old || find(CALLS, call).is_some(), "{call}");
        }
        for word in words(cells[2], '`') {
            let known = ARGUMENTS.iter().any(|one| find(one.3, word).is_some());
            assert!(known, "{word}");
        }
        seen += 1;
    }
    seen
}

pub const PREALLOC: &str = "preallocation";
/// Without MADV_POPULATE.
pub const TOUCH: &str = "preallocation before Linux 5.14";
pub const MEMFD: &str = "memfd, ram with share=on";

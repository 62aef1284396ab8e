// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! docs/numa.md is what the machines counted, as text for people.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write;
use std::fs;
use std::sync::Arc;

use libtest_mimic::Completion;
use libtest_mimic::Failed;

use super::cells;
use super::machine::Machine;

pub const NAME: &str = "document";
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/numa.md");
const HEAD: &str = "# NUMA

Where memory is after preallocation, for each policy on each kind of memory, and the lab that counts it.

## The lab

`make test-numa` boots Debian's kernels 5.10, 6.1 and 6.12 on an emulated machine of several nodes and runs the \
NUMA tests of `tests/numa/` inside. No privilege is needed. `make test` \
runs them too. Each test shows as one of the suite's own, `linux_6_1::cell::bind_one::hugetlb` say, and can be \
chosen by its name:

    cargo test --features cli --test numa -- linux_6_12::rebind

The machine:

| node | processors | memory | distance to 0, 1, 2, 3, 4 |
|---|---|---|---|
| 0 | 0-1 | 512 MiB | 10, 21, 40, 17, 28 |
| 1 | 2-3 | 256 MiB | 21, 10, 40, 28, 17 |
| 2 | 4 | none | 40, 40, 10, 40, 40 |
| 3 | none | 256 MiB | 17, 28, 40, 10, 28 |
| 4 | none | 256 MiB | 28, 17, 40, 28, 10 |

It needs QEMU, busybox, e2fsprogs and binutils, which `scripts/setup test` installs, and the kernels, \
which `scripts/numa-kernels` fetches by apt from the mirror that the machine has, verified as apt verifies, into \
`~/.cache/hostmem`. Nothing of it is installed. Where something is missing the lab is one test that is ignored \
and says why. `scripts/numa-guest` boots any program the same way.

A test that fails in there fails here, with what it said. Four other things can happen, and each has its own words:

- the kernel ended the test's process (out of memory, say): that test fails, and the rest runs in another process;
- the kernel panicked or found a bug of its own, which panics it: `machine` fails with the end of the console;
- the machine hangs, no word for two minutes: it is ended, and `machine` names the test that ran;
- the machine never ran, or ended without a word: `machine` fails with what QEMU said.

The last three are the lab's errors, no test's: what had not run by then is ignored, not failed.

## Policies and memory

Counted from `/proc/self/numa_maps`, on a thread that runs on node 0: the node that has all of the memory, or how \
it is shared by nodes 0, 1, 3 and 4. A dash: not on this kernel. That is tested too: completing is refused, and \
the error names the first kernel that can.

| policy | kernels |";

/// What is not plain to see in the table.
const TAIL: &str = "
- `default` and `local` memory is on the node of the thread that fills it.
- `preferred` is the kernel's preferred-many from 5.15 on, which takes several nodes; before, one. Several are \
refused there, since the kernel would keep the first in silence.
- `bind` to several nodes fills the nearest first and goes on to the next when that is full. It does not spread.
- A home node says with which of the nodes to begin.
- Interleaving is by page, of 2 MiB in huge memory. Shares are exact where the size is a whole number of rounds.
- Weights are the host's, in `/sys/kernel/mm/mempolicy/weighted_interleave`; here 3, 1, 2, 2.
- Huge shared memory by `MADV_COLLAPSE` (`thp=always` where the host's setting gives small pages) needs Linux 6.1 \
and is not used with interleaving: the kernel would put all of it on one node. It is in small pages then.
- The kernel ignores the policy of a shared mapping of a file on disk: each page is where the thread that first \
touched it would have its own. So the threads that preallocate have the policy, though a thread has no home node. \
What is touched first by others, or read again from the disk later, is where their own policy says.
- A private mapping of a file follows the policy with the pages that it copied.

## Memory in use

What `rebind` does, as `tests/numa/rebind.rs` counts it on all three kernels, for memory that is being written:

- Memory of every kind above moves, and what was huge stays huge. Pages that are on one of the new nodes stay where \
they are: memory of one node that becomes interleaved over that and another is not shared out again, and its \
placement says so.
- Pages that another mapping or process has touched too, as a vhost-user peer does, stay, although the kernel answers \
that all is well. The result says how much, and why. With `move_all`, which needs `CAP_SYS_NICE`, they move.
- Pages that are pinned, for a device say, make it fail with `EIO`; the old policy is back, and what had moved too.
- Pages of a pool that threads write at that very moment may count as pinned (seen on 6.12): nothing is lost, and \
it can be tried again.
- With `bind`, nodes that have less available than would have to move are an error before anything moves.
- Pages that move go to the nearest of the nodes; a home node is for pages that come later.
- Linux 6.12 may give huge pages that nobody has written yet up instead of moving them where the new nodes are short. \
They are absent then, until they are populated again.
";

type Results = Vec<(&'static str, BTreeMap<String, String>)>;

/// What the cells of a policy say on each kernel, of those with the same together.
fn rows<'a>(results: &'a Results, policy: &cells::Policy) -> Vec<(String, Vec<&'a str>)> {
    let mut rows: Vec<(String, Vec<&str>)> = Vec::new();
    for (kernel, results) in results {
        let backings = cells::BACKINGS.iter();
        let row: Vec<_> = backings
            .map(|backing| results[&cells::name(policy, backing)].as_str())
            .collect();
        match rows.last_mut() {
            Some((kernels, last)) if *last == row => *kernels += &format!(", {kernel}"),
            _ => rows.push(((*kernel).to_owned(), row)),
        }
    }
    rows
}

fn document(results: &Results) -> String {
    let mut text = HEAD.to_owned();
    for backing in &cells::BACKINGS {
        write!(text, " {} |", backing.name.replace('_', " ")).unwrap();
    }
    text += "\n|---|---|";
    text += &"---|".repeat(cells::BACKINGS.len());
    text.push('\n');
    for policy in &cells::POLICIES {
        let options = policy.options.trim_start_matches("policy=");
        for (kernels, row) in rows(results, policy) {
            let options = options.replace(",,", ",");
            writeln!(text, "| `{options}` | {kernels} | {} |", row.join(" | ")).unwrap();
        }
    }
    text + TAIL
}

/// Compares, or writes the document where HOSTMEM_UPDATE_DOCS is set.
pub fn check(machines: &[Arc<Machine>]) -> Result<Completion, Failed> {
    let results = machines.iter();
    let results = results.map(|machine| Some((machine.kernel(), machine.wait_for_all()?)));
    let Some(results) = results.collect::<Option<Results>>() else {
        return Ok(Completion::ignored_with("not all tests passed"));
    };
    let document = document(&results);
    if env::var_os("HOSTMEM_UPDATE_DOCS").is_some() {
        fs::write(FILE, &document)?;
    }
    if fs::read_to_string(FILE).unwrap_or_default() == document {
        return Ok(Completion::Completed);
    }
    let how = "HOSTMEM_UPDATE_DOCS=1 make test-numa";
    Err(format!("docs/numa.md is not what the machines counted; {how}").into())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! docs/numa.md is generated from what the machines counted.

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

The nodes that memory is on after preallocation, for each policy and kind of memory, and the lab
that measures it.

## The lab

`make test-numa` boots Debian's kernels 5.10, 6.1 and 6.12 on an emulated machine with several nodes
and runs the NUMA tests of `tests/numa/` inside. It needs no privilege. `make test` runs them too.
Each test has a name of its own, for example `linux_6_1::cell::bind_one::hugetlb`, and can be
selected by it:

    cargo test --features cli --test numa -- linux_6_12::rebind

The machine:

| node | processors | memory | distance to 0, 1, 2, 3, 4 |
|---|---|---|---|
| 0 | 0-1 | 512 MiB | 10, 21, 40, 17, 28 |
| 1 | 2-3 | 256 MiB | 21, 10, 40, 28, 17 |
| 2 | 4 | none | 40, 40, 10, 40, 40 |
| 3 | none | 256 MiB | 17, 28, 40, 10, 28 |
| 4 | none | 256 MiB | 28, 17, 40, 28, 10 |

It needs QEMU, busybox, e2fsprogs and binutils, which `scripts/setup test` installs, and kernels.
`scripts/guest-kernels` downloads these with apt from the machine's mirror to `~/.cache/hostmem`; apt
verifies them, and nothing is installed. If something is missing, the lab is one ignored test that
says why. `scripts/guest` boots any program in the same way.

A test that fails in the guest fails here, with the same message. Four other failures are possible:

- The kernel kills the test's process, for example because it is out of memory: that test fails, and
  the rest runs in another process.
- The kernel panics (an oops panics it too): `machine` fails with the end of the console.
- The machine hangs, with no output for two minutes: it is ended, and `machine` names the test.
- The machine does not start, or ends without a message: `machine` fails with QEMU's output.

The last three are failures of the lab. Tests that have not run by then are ignored, not failed.

## Policies and memory

Counted from `/proc/self/numa_maps`, on a thread that runs on node 0. A cell is the node that has
all of the memory, or the ratio of nodes 0, 1, 3 and 4. A dash means that the kernel does not have
the policy. That is tested too: completing is refused, and the error names the first kernel that
has it.

| policy | kernels |";

/// Explains what the table does not show.
const TAIL: &str = "
- `default` and `local`: the node of the thread that populates the memory.
- `preferred` is the kernel's preferred-many from 5.15 on, which takes several nodes. Before 5.15 it
  takes one, and several are refused, because the kernel would silently use the first only.
- `bind` to several nodes fills the nearest first, then the next. It does not spread.
- A home node is the node to fill first.
- Interleaving is by page; in huge memory by 2 MiB. Shares are exact if the size is a whole number
  of rounds.
- Weights are the host's, in `/sys/kernel/mm/mempolicy/weighted_interleave`; here 3, 1, 2, 2.
- Huge shared memory by `MADV_COLLAPSE` (`thp=always` where the host's setting gives small pages)
  needs Linux 6.1. It is not used with interleaving, because the kernel would put all of the memory
  on one node; that memory has small pages.
- The kernel ignores the policy of a shared mapping of a file on disk and uses the policy of the
  thread that first touches a page. So the threads that preallocate set the policy, without the home
  node, which a thread cannot have. A page that another thread touches first, or that is read again
  from the disk, follows that thread's policy.
- A private mapping of a file follows the policy for the pages that it has copied.

## Memory in use

What `rebind` does to memory that is being written, as `tests/numa/rebind.rs` counts on all three
kernels:

- Memory of every kind above moves, and huge pages stay huge. Pages that are on one of the new nodes
  already stay there: memory of one node that becomes interleaved over it and another node is not
  redistributed. The placement report says so.
- Pages that another mapping or process has touched too, for example a vhost-user peer, stay,
  although the kernel reports success. The result says how many bytes, and why. With `move_all`,
  which needs `CAP_SYS_NICE`, they move.
- Pinned pages, for example for a device, make it fail with `EIO`. The old policy is restored, and
  what had moved is moved back.
- Pages of a pool that threads write at that moment can count as pinned (seen on 6.12). Nothing is
  lost, and it can be repeated.
- With `bind`, too little available memory on the nodes is an error before anything moves.
- Pages that move go to the nearest of the nodes. A home node is for pages that are allocated later.
- Linux 6.12 can free huge pages that were never written instead of moving them, if the new nodes
  are short. They are absent then, until they are populated again.
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

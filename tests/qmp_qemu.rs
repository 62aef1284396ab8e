// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `hostmem qmp` against a running QEMU: the same requests are sent to both and answered alike, but
//! for the differences that are listed here with their reason.
//!
//! Which values properties take is compared in `qemu.rs`. Only the program is asked, over QMP.

#![cfg(all(feature = "cli", feature = "numa"))]

mod common;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::process::ChildStdin;

use common::bindable_node;
use common::page_size;
use common::qmp::Client;
use common::qmp::Server;
use common::skip;
use serde_json::json;
use serde_json::Value as Json;

/// Conversations, each with programs of its own. A row is a request, in which `⏎` is a line's end,
/// under what is expected of the answers to it:
///
/// - `same`: their number, each `return`, and the class of each error; the wording is each one's own;
/// - `alike`: the same, but of a `return` only which members it has and of which types;
/// - `other: why`: not the same, for that reason.
const CONVERSATIONS: [&str; 5] = [
    r#"
# same
{"execute": "query-version"}
{"execute": "query-version", "id": 1}
{"execute": "nonsense"}
{"execute": "qmp_capabilities", "arguments": {"enable": ["nonsense"]}}
{"execute": "qmp_capabilities", "arguments": {"enable": "oob"}}
{"execute": "qmp_capabilities", "arguments": {"enable": [1]}}
{"execute": "qmp_capabilities", "arguments": {"enable": null}}
{"execute": "qmp_capabilities", "arguments": {"nonsense": 1}}
{"execute": 1}
{}
[]
nonsense
{"execute": "qmp_capabilities", "arguments": {"enable": []}, "id": "a"}
{"execute": "qmp_capabilities"}
{"execute": "qmp_capabilities", "arguments": {"nonsense": 1}}
{"execute": "nonsense"}
{"execute": "quit", "arguments": {"nonsense": 1}}
# alike
{"execute": "query-version"}
{"execute": "query-version", "arguments": {}}
{"execute": "query-commands"}
"#,
    r#"
# other: hostmem has no commands that overtake others
{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}
"#,
    r#"
# same
{"execute": "qmp_capabilities"}
{"execute": "query-memdev", "id": null}
{"execute": "query-memdev", "id": "text ü \u0000 \ud83d\ude00 \" \\ \n"}
{"execute": "query-memdev", "id": {"a": [1, 2.5, -3, true, null, {}]}}
{"execute": "query-memdev", "id": 18446744073709551615}
{"execute": "query-memdev", "id": -9223372036854775808}
{"execute": "query-memdev", "id": 18446744073709551616}
{"execute": "query-memdev"}{"execute": "query-memdev", "id": 2}
{"execute":⏎"query-memdev"⏎}
  {  "execute"  :  "query-memdev"  }  
{"execute": "query-memdev", "arguments": {"nonsense": 1}}
{"execute": "query-memdev", "arguments": []}
{"execute": "query-memdev", "arguments": null, "id": 1}
{"execute": "query-memdev", "arguments": "id"}
{"execute": "query-memdev", "nonsense": 1, "id": 1}
{"execute": "nonsense", "id": 1}
{"execute": "nonsense", "arguments": {"a": 1}}
{"execute": "Query-Memdev"}
{"execute": ""}
{"execute": null, "id": 1}
{"execute": ["query-memdev"]}
{"arguments": {}}
{"id": 1}
{}
{"exec-oob": "query-memdev", "id": 1}
{"execute": "query-memdev", "exec-oob": "query-memdev"}
[]
[{"execute": "query-memdev"}]
1
"text"
null
1 2
"a" "b"
nonsense
nonsense{"execute": "query-memdev"}
{]
}
]
}}}
{"execute": "query-memdev",}
{"execute" "query-memdev"}
{"execute": "query-memdev"⏎"id": 1}
{execute: "query-memdev"}
{"execute": nonsense}
{1: 2}
{"execute": "query-memdev", "id": 1, "id": 1}
{"execute": "query-memdev", "execute": "query-memdev"}
{"execute": "query-memdev", "arguments": {"a": {"b": 1, "b": 2}}}
{"execute": "query-memdev", "id": "\ud800"}
{"execute": "query-memdev", "id": "\x"}
{"execute": "query-memdev", "id": "\u12"}
{"execute": "query-memdev
# other: a string in single quotes is no JSON
{'execute': 'query-memdev'}
# other: a number that is no finite one is no JSON
{"execute": "query-memdev", "id": 1e400}
# other: a message with a character that is no JSON is one message, and so gets one error
{"execute": "query-memdev", "id": "	"}
{"execute": "query-memdev"; "id": 1}
{"execute": "query-memdev", "id": 01}
{"execute": "query-memdev", "id": .5}
{"execute": "query-memdev", "id": +1}
# same
@over
@over]
@over"text"
@over{"execute": "query-memdev"}
@over⏎[]⏎{"execute": "query-memdev", "id": 1}
@over@over}]
# other: at most 128 brackets are open
{"execute": "query-memdev", "id": @deep}
"#,
    r#"
# same
{"execute": "qmp_capabilities"}
{"execute": "query-memdev"}
{"execute": "object-add"}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram"}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "a"}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": 1, "size": 65536}}
{"execute": "object-add", "arguments": {"qom-type": "nonsense", "id": "a", "size": 65536}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend", "id": "a", "size": 65536}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "a", "size": "64K"}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "a", "size": 65536, "nonsense": 1}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "a", "props": {"size": 65536}}}
{"execute": "query-memdev"}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "a", "size": 65536}, "id": 1}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "a", "size": 65536}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-shm", "id": "a", "size": 65536}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-memfd", "id": "b", "size": 131072, "merge": false, "dump": false}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-shm", "id": "c", "size": 65536, "prealloc": true}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-file", "id": "d", "size": 65536, "mem-path": "/dev/shm", "share": true, "reserve": false}}
{"execute": "query-memdev"}
{"execute": "query-memdev", "arguments": {"id": "a"}}

{"execute": "qom-get", "arguments": {"path": "/objects/a", "property": "size"}}
{"execute": "qom-get", "arguments": {"path": "/objects/a", "property": "share"}}
{"execute": "qom-get", "arguments": {"path": "/objects/a", "property": "policy"}}
{"execute": "qom-get", "arguments": {"path": "/objects/a", "property": "host-nodes"}}
{"execute": "qom-get", "arguments": {"path": "/objects/a", "property": "prealloc-context"}}
{"execute": "qom-get", "arguments": {"path": "/objects/a", "property": "type"}}
{"execute": "qom-get", "arguments": {"path": "/objects/b", "property": "seal"}}
{"execute": "qom-get", "arguments": {"path": "/objects/d", "property": "mem-path"}}
{"execute": "qom-get", "arguments": {"path": "/objects/d", "property": "rom"}}
{"execute": "qom-get", "arguments": {"path": "a", "property": "size"}}
{"execute": "qom-get", "arguments": {"path": "objects/a", "property": "size"}}
{"execute": "qom-get", "arguments": {"path": "//objects//a/", "property": "size"}}
{"execute": "qom-get", "arguments": {"path": "/objects", "property": "a"}}
{"execute": "qom-get", "arguments": {"path": "/objects", "property": "type"}}
{"execute": "qom-get", "arguments": {"path": "/", "property": "objects"}}
{"execute": "qom-get", "arguments": {"path": "/", "property": "type"}}
{"execute": "qom-get", "arguments": {"path": "/objects", "property": "nonsense"}}
{"execute": "qom-get", "arguments": {"path": "/objects/a", "property": "nonsense"}}
{"execute": "qom-get", "arguments": {"path": "/objects/a", "property": ""}}
{"execute": "qom-get", "arguments": {"path": "/objects/nonsense", "property": "size"}}
{"execute": "qom-get", "arguments": {"path": "/nonsense", "property": "size"}}
{"execute": "qom-get", "arguments": {"path": "/a", "property": "size"}}
{"execute": "qom-get", "arguments": {"path": "nonsense/a", "property": "size"}}
{"execute": "qom-get", "arguments": {"path": "/objects/a/size", "property": "size"}}
{"execute": "qom-get", "arguments": {"path": "/objects/a"}}
{"execute": "qom-get", "arguments": {"property": "size"}}
{"execute": "qom-get", "arguments": {"path": 1, "property": "size"}}
{"execute": "qom-get", "arguments": {"path": "/objects/a", "property": "size", "nonsense": 1}}
{"execute": "qom-get"}

{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "merge", "value": false}}
{"execute": "qom-get", "arguments": {"path": "/objects/a", "property": "merge"}}
{"execute": "qom-set", "arguments": {"path": "a", "property": "dump", "value": false}}
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "prealloc", "value": true}}
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "prealloc-threads", "value": 2}}
{"execute": "qom-set", "arguments": {"path": "/objects/d", "property": "discard-data", "value": true}}
{"execute": "query-memdev"}
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "merge", "value": "off"}}
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "merge", "value": null}}
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "merge"}}
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "size", "value": 131072}}
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "share", "value": true}}
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "reserve", "value": false}}
{"execute": "qom-set", "arguments": {"path": "/objects/d", "property": "mem-path", "value": "/tmp"}}
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "prealloc-threads", "value": 0}}
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "policy", "value": "nonsense"}}
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "host-nodes", "value": "0"}}
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "host-nodes", "value": [65536]}}
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "type", "value": "container"}}
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "nonsense", "value": 1}}
{"execute": "qom-set", "arguments": {"path": "/objects/nonsense", "property": "merge", "value": true}}
{"execute": "qom-set", "arguments": {"path": "/objects", "property": "a", "value": "b"}}
{"execute": "qom-set", "arguments": {"path": "/", "property": "type", "value": "b"}}
{"execute": "qom-set", "arguments": {"path": "/", "property": "nonsense", "value": "b"}}
# other: a change that would do nothing is refused
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "prealloc", "value": false}}
{"execute": "qom-set", "arguments": {"path": "/objects/b", "property": "seal", "value": false}}
{"execute": "qom-set", "arguments": {"path": "/objects/b", "property": "hugetlb", "value": true}}
# other: a policy acts at once, and so has to be possible by itself
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "policy", "value": "bind"}}

# same
{"execute": "qom-list", "arguments": {"path": "/objects"}}
{"execute": "qom-list", "arguments": {"path": "/objects/"}}
{"execute": "qom-list", "arguments": {"path": "objects"}}
{"execute": "qom-list", "arguments": {"path": ""}}
{"execute": "qom-list", "arguments": {"path": "nonsense"}}
{"execute": "qom-list", "arguments": {"path": "/objects/nonsense"}}
{"execute": "qom-list", "arguments": {"path": "/objects/a/size"}}
{"execute": "qom-list", "arguments": {"path": null}}
{"execute": "qom-list"}
# other: QEMU's tree has more
{"execute": "qom-list", "arguments": {"path": "/"}}
# same
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "objects", "size": 65536}}
{"execute": "qom-list", "arguments": {"path": "objects"}}
{"execute": "qom-get", "arguments": {"path": "objects/objects", "property": "size"}}
{"execute": "object-del", "arguments": {"id": "objects"}}

{"execute": "object-del"}
{"execute": "object-del", "arguments": {"id": "nonsense"}}
{"execute": "object-del", "arguments": {"id": ""}}
{"execute": "object-del", "arguments": {"id": null}}
{"execute": "object-del", "arguments": {"id": "/objects/a"}}
{"execute": "object-del", "arguments": {"id": "a", "nonsense": 1}}
{"execute": "object-del", "arguments": {"id": "a"}}
{"execute": "object-del", "arguments": {"id": "a"}}
{"execute": "query-memdev"}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-shm", "id": "a", "size": 4096}}
{"execute": "object-del", "arguments": {"id": "a"}}
{"execute": "object-del", "arguments": {"id": "b"}}
{"execute": "object-del", "arguments": {"id": "c"}}
{"execute": "object-del", "arguments": {"id": "d"}}
{"execute": "query-memdev"}
"#,
    r#"
# same
{"execute": "qmp_capabilities"}
{"execute": "qom-list-types", "arguments": {"implements": "memory-backend-ram"}}
{"execute": "qom-list-types", "arguments": {"implements": "memory-backend-ram", "abstract": true}}
{"execute": "qom-list-types", "arguments": {"implements": "container"}}
{"execute": "qom-list-types", "arguments": {"implements": "nonsense"}}
{"execute": "qom-list-types", "arguments": {"implements": "nonsense", "abstract": true}}
{"execute": "qom-list-types", "arguments": {"implements": 1}}
{"execute": "qom-list-types", "arguments": {"implements": null}}
{"execute": "qom-list-types", "arguments": {"abstract": 1}}
{"execute": "qom-list-types", "arguments": {"nonsense": 1}}
{"execute": "qom-list-properties", "arguments": {"typename": "container"}}
{"execute": "qom-list-properties", "arguments": {"typename": "object"}}
{"execute": "qom-list-properties", "arguments": {"typename": "nonsense"}}
{"execute": "qom-list-properties", "arguments": {"typename": 1}}
{"execute": "qom-list-properties"}
# alike
{"execute": "qom-list-types"}
{"execute": "qom-list-types", "arguments": {"implements": "memory-backend"}}
{"execute": "qom-list-types", "arguments": {"implements": "memory-backend", "abstract": true}}
{"execute": "qom-list-types", "arguments": {"implements": "user-creatable", "abstract": true}}
{"execute": "qom-list-types", "arguments": {"abstract": true}}
{"execute": "qom-list-properties", "arguments": {"typename": "memory-backend-ram"}}
"#,
];

/// Objects that are no memory. `@cpu` is a CPU that this process may use.
const THREAD_CONTEXTS: &str = r#"
# same
{"execute": "qmp_capabilities"}
{"execute": "object-add", "arguments": {"qom-type": "thread-context", "id": "tc0", "cpu-affinity": [@cpu]}}
{"execute": "object-add", "arguments": {"qom-type": "thread-context", "id": "tc0"}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "tc0", "size": 65536}}
{"execute": "object-add", "arguments": {"qom-type": "thread-context", "id": "tc1", "node-affinity": [@node]}}
{"execute": "object-add", "arguments": {"qom-type": "thread-context", "id": "tc2"}}
{"execute": "object-add", "arguments": {"qom-type": "thread-context", "id": "tc3", "cpu-affinity": []}}
{"execute": "object-add", "arguments": {"qom-type": "thread-context", "id": "tc3", "cpu-affinity": "0"}}
{"execute": "object-add", "arguments": {"qom-type": "thread-context", "id": "tc3", "cpu-affinity": [-1]}}
{"execute": "object-add", "arguments": {"qom-type": "thread-context", "id": "tc3", "cpu-affinity": [65535]}}
{"execute": "object-add", "arguments": {"qom-type": "thread-context", "id": "tc3", "cpu-affinity": [65536]}}
{"execute": "object-add", "arguments": {"qom-type": "thread-context", "id": "tc3", "node-affinity": []}}
{"execute": "object-add", "arguments": {"qom-type": "thread-context", "id": "tc3", "cpu-affinity": [@cpu], "node-affinity": [@node]}}
{"execute": "object-add", "arguments": {"qom-type": "thread-context", "id": "tc3", "thread-id": 1}}
{"execute": "object-add", "arguments": {"qom-type": "thread-context", "id": "tc3", "size": 65536}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "a", "size": 65536, "cpu-affinity": [@cpu]}}
{"execute": "query-memdev"}
{"execute": "qom-list", "arguments": {"path": "/objects"}}
{"execute": "qom-list", "arguments": {"path": "/objects/tc0"}}
{"execute": "qom-get", "arguments": {"path": "/objects/tc0", "property": "cpu-affinity"}}
{"execute": "qom-get", "arguments": {"path": "/objects/tc1", "property": "cpu-affinity"}}
{"execute": "qom-get", "arguments": {"path": "/objects/tc2", "property": "cpu-affinity"}}
{"execute": "qom-get", "arguments": {"path": "/objects/tc0", "property": "node-affinity"}}
{"execute": "qom-get", "arguments": {"path": "/objects/tc0", "property": "size"}}
{"execute": "qom-get", "arguments": {"path": "/objects/tc0", "property": "type"}}
# alike
{"execute": "qom-get", "arguments": {"path": "/objects/tc0", "property": "thread-id"}}
# same
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "a", "size": 65536, "prealloc": true, "prealloc-context": "tc0"}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "b", "size": 65536, "prealloc-context": "/objects/tc1"}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "c", "size": 65536, "prealloc-context": "objects/tc1"}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "d", "size": 65536, "prealloc-context": "nonsense"}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "d", "size": 65536, "prealloc-context": "/objects/nonsense"}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "d", "size": 65536, "prealloc-context": "a"}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "d", "size": 65536, "prealloc-context": "/objects"}}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "d", "size": 65536, "prealloc-context": 1}}
{"execute": "qom-get", "arguments": {"path": "/objects/a", "property": "prealloc-context"}}
{"execute": "qom-get", "arguments": {"path": "/objects/b", "property": "prealloc-context"}}
{"execute": "qom-set", "arguments": {"path": "/objects/b", "property": "prealloc-context", "value": "nonsense"}}
{"execute": "qom-set", "arguments": {"path": "/objects/b", "property": "prealloc-context", "value": "a"}}
{"execute": "qom-set", "arguments": {"path": "/objects/b", "property": "prealloc-context", "value": "/objects/tc2"}}
{"execute": "qom-get", "arguments": {"path": "/objects/b", "property": "prealloc-context"}}
{"execute": "qom-set", "arguments": {"path": "/objects/b", "property": "prealloc-context", "value": ""}}
{"execute": "qom-get", "arguments": {"path": "/objects/b", "property": "prealloc-context"}}
{"execute": "qom-set", "arguments": {"path": "/objects/tc0", "property": "node-affinity", "value": [@node]}}
{"execute": "qom-get", "arguments": {"path": "/objects/tc0", "property": "cpu-affinity"}}
{"execute": "qom-set", "arguments": {"path": "/objects/tc0", "property": "cpu-affinity", "value": [@cpu]}}
{"execute": "qom-get", "arguments": {"path": "/objects/tc0", "property": "cpu-affinity"}}
{"execute": "qom-set", "arguments": {"path": "/objects/tc0", "property": "cpu-affinity", "value": []}}
{"execute": "qom-set", "arguments": {"path": "/objects/tc0", "property": "cpu-affinity", "value": 0}}
{"execute": "qom-set", "arguments": {"path": "/objects/tc0", "property": "thread-id", "value": 1}}
{"execute": "qom-set", "arguments": {"path": "/objects/tc0", "property": "size", "value": 65536}}
{"execute": "object-del", "arguments": {"id": "tc2"}}
{"execute": "object-del", "arguments": {"id": "tc2"}}
{"execute": "object-del", "arguments": {"id": "b"}}
# other: a CPU that is not there is refused
{"execute": "object-add", "arguments": {"qom-type": "thread-context", "id": "tc3", "cpu-affinity": [@cpu, 1023]}}
# other: a thread-context stays while a backend links to it
{"execute": "object-del", "arguments": {"id": "tc0"}}
"#;

/// Where this process may bind memory; `@node` is a node it may use.
const NUMA_CONVERSATION: &str = r#"
# same
{"execute": "qmp_capabilities"}
{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "a", "size": 65536, "policy": "bind", "host-nodes": [@node]}}
{"execute": "query-memdev"}
{"execute": "qom-get", "arguments": {"path": "/objects/a", "property": "host-nodes"}}
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "policy", "value": "interleave"}}
{"execute": "qom-get", "arguments": {"path": "/objects/a", "property": "policy"}}
{"execute": "query-memdev"}
# other: nodes that do not exist are refused
{"execute": "qom-set", "arguments": {"path": "/objects/a", "property": "host-nodes", "value": [127]}}
"#;

/// Types that only hostmem has.
const OUR_TYPES: [(&str, &str); 1] = [(
    "memory-backend-fd",
    "memory of a descriptor from elsewhere is a kind of its own",
)];

/// Properties of memory that only hostmem has.
const OUR_PROPERTIES: [(&str, &str); 6] = [
    ("guard", "QEMU has guard pages always"),
    ("home-node", "the kernel has it"),
    ("lock", "QEMU locks all of its memory or none"),
    (
        "prealloc-mode",
        "QEMU fills in the background on its own terms",
    ),
    ("prealloc-watch", "QEMU leaves a shortage to the OOM killer"),
    ("thp", "QEMU asks for huge pages always"),
];

/// Of the kinds whose memory is new.
const OUR_CONTENTS: [(&str, &str); 4] = [
    ("contents", "QEMU restores memory from a migration stream"),
    ("contents-offset", "it belongs to contents"),
    ("contents-order", "likewise"),
    ("contents-poison", "likewise"),
];

// ---- Comparing ----

/// A program and what it said.
struct Peer {
    _server: Server,
    client: Client<ChildStdin>,
}

impl Peer {
    fn new((server, client): (Server, Client<ChildStdin>)) -> Self {
        Self {
            _server: server,
            client,
        }
    }

    /// The answers to a row, without what is each one's own.
    fn ask(&mut self, row: &str) -> Vec<Json> {
        const END: &str = "the end of the row";
        self.client.send(format!(
            "{row}\n{{\"execute\": \"nonsense\", \"id\": \"{END}\"}}\n"
        ));
        let mut answers = Vec::new();
        loop {
            let answer = self.client.answer();
            if answer.get("id").is_some_and(|id| id == END) {
                return answers;
            }
            answers.push(plain(answer));
        }
    }
}

/// Without what is said to people, and lists of names in one order.
fn plain(json: Json) -> Json {
    match json {
        Json::Object(members) => members
            .into_iter()
            .filter(|(name, _)| name != "desc" && name != "description")
            .map(|(name, value)| (name, plain(value)))
            .collect(),
        Json::Array(values) => {
            let mut values: Vec<_> = values.into_iter().map(plain).collect();
            if values.iter().all(Json::is_object) {
                values.sort_by_key(Json::to_string);
            }
            values.into()
        }
        other => other,
    }
}

/// Members and types alone; of a list those that any of its values has, so that more values are no
/// other shape.
fn shape(json: &Json) -> Json {
    match json {
        Json::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect(),
        Json::Array(values) => {
            let shapes: BTreeSet<_> = values
                .iter()
                .map(|value| shape(value).to_string())
                .collect();
            json!(shapes)
        }
        Json::String(_) => "string".into(),
        Json::Number(_) => "number".into(),
        Json::Bool(_) => "boolean".into(),
        Json::Null => "null".into(),
    }
}

fn is_as_expected(head: &str, theirs: &[Json], ours: &[Json]) -> bool {
    match (head, head.split_once(": ")) {
        ("same", None) => theirs == ours,
        ("alike", None) => {
            let shapes = |answers: &[Json]| answers.iter().map(shape).collect::<Vec<_>>();
            shapes(theirs) == shapes(ours)
        }
        (_, Some(("other", _))) => theirs != ours,
        _ => panic!("{head}"),
    }
}

/// The first CPU that this process may use.
fn usable_cpu() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
    list.unwrap()
        .split(['-', ','])
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// Holds the same conversation with both; what came as it was not expected to.
fn compare(rows: &'static str, counts: &mut BTreeMap<&'static str, u32>) -> Vec<String> {
    let mut qemu = Peer::new(Server::qemu().unwrap());
    let mut hostmem = Peer::new(Server::hostmem_on_streams());
    let deep = "[".repeat(200) + &"]".repeat(200);
    let node = bindable_node().unwrap_or_default().to_string();
    let cpu = usable_cpu().to_string();
    let mut surprises = Vec::new();
    let mut head = "";
    for row in rows.lines().filter(|row| !row.is_empty()) {
        if let Some(text) = row.strip_prefix("# ") {
            head = text;
            continue;
        }
        let request = row
            .replace('⏎', "\n")
            .replace("@deep", &deep)
            .replace("@node", &node)
            .replace("@cpu", &cpu);
        // As many open brackets as each takes, and one more.
        let over = |most: usize| request.replace("@over", &"[".repeat(most + 1));
        let theirs = qemu.ask(&over(1024));
        let ours = hostmem.ask(&over(128));
        *counts.entry(head).or_default() += 1;
        if !is_as_expected(head, &theirs, &ours) {
            surprises.push(format!(
                "{row}\n  expected: {head}\n  QEMU: {}\n  hostmem: {}\n",
                Json::from(theirs),
                Json::from(ours),
            ));
        }
    }
    surprises
}

#[test]
fn the_same_is_answered() {
    if page_size() != 4096 {
        return skip("the tables are for pages of 4 KiB");
    }
    if Server::qemu().is_none() {
        return;
    }
    let mut conversations = CONVERSATIONS.to_vec();
    match bindable_node() {
        Some(_) => conversations.extend([NUMA_CONVERSATION, THREAD_CONTEXTS]),
        None => skip("host-nodes: this process cannot bind memory"),
    }
    let mut counts = BTreeMap::new();
    let mut surprises = Vec::new();
    for rows in conversations {
        surprises.extend(compare(rows, &mut counts));
    }
    println!("{} requests", counts.values().sum::<u32>());
    for (head, count) in counts {
        println!("{count:6} {head}");
    }
    assert!(
        surprises.is_empty(),
        "{} surprises:\n{}",
        surprises.len(),
        surprises.concat()
    );
}

/// Names with types, or with parents.
fn entries(
    client: &mut Client<ChildStdin>,
    command: &str,
    arguments: &Json,
    what: &str,
) -> BTreeMap<String, Json> {
    let list = client.must(command, arguments.clone());
    let entry = |entry: &Json| {
        (
            entry["name"].as_str().unwrap().to_owned(),
            entry[what].clone(),
        )
    };
    list.as_array().unwrap().iter().map(entry).collect()
}

/// What only one of the two has is what is listed as such; what both have is the same.
#[track_caller]
fn differ_by(
    what: &str,
    theirs: &BTreeMap<String, Json>,
    ours: &BTreeMap<String, Json>,
    only_theirs: &[(&str, &str)],
    only_ours: &[(&str, &str)],
) {
    let only =
        |some: &BTreeMap<String, Json>, others: &BTreeMap<String, Json>| -> BTreeSet<String> {
            some.keys()
                .filter(|name| !others.contains_key(*name))
                .cloned()
                .collect()
        };
    let listed = |list: &[(&str, &str)]| -> BTreeSet<String> {
        list.iter().map(|(name, _)| (*name).to_owned()).collect()
    };
    assert_eq!(
        only(ours, theirs),
        listed(only_ours),
        "{what}: only hostmem has"
    );
    assert_eq!(
        only(theirs, ours),
        listed(only_theirs),
        "{what}: only QEMU has"
    );
    for (name, theirs) in theirs {
        if let Some(ours) = ours.get(name) {
            assert_eq!(ours, theirs, "{what}: {name}");
        }
    }
}

#[test]
fn types_and_properties_are_the_same() {
    let Some((_qemu, theirs)) = Server::qemu() else {
        return;
    };
    let mut theirs = theirs.negotiate();
    let (_server, ours) = Server::hostmem_on_streams();
    let mut ours = ours.negotiate();

    let types = |client: &mut _, implements: &str| {
        let filter = json!({ "implements": implements, "abstract": true });
        entries(client, "qom-list-types", &filter, "parent")
    };
    let mut their_types = types(&mut theirs, "memory-backend");
    let mut our_types = types(&mut ours, "memory-backend");
    their_types.extend(types(&mut theirs, "thread-context"));
    our_types.extend(types(&mut ours, "thread-context"));
    differ_by("types", &their_types, &our_types, &[], &OUR_TYPES);

    let mut compared = 0;
    for name in our_types
        .keys()
        .filter(|name| their_types.contains_key(*name))
    {
        let of_type = json!({ "typename": name });
        let properties = |client: &mut _| entries(client, "qom-list-properties", &of_type, "type");
        let (theirs, ours) = (properties(&mut theirs), properties(&mut ours));
        compared += theirs.len();
        let of_kind: &[_] = match &**name {
            "memory-backend-file" => &[("hugetlbfs", "QEMU takes any path")],
            "memory-backend-ram" => &[
                ("hugetlb", "QEMU has it for memfds alone"),
                ("hugetlbsize", "likewise"),
            ],
            _ => &[],
        };
        let only_ours = match &**name {
            "thread-context" => Vec::new(),
            "memory-backend" => OUR_PROPERTIES.to_vec(),
            _ => [&OUR_PROPERTIES, &OUR_CONTENTS[..], of_kind].concat(),
        };
        differ_by(name, &theirs, &ours, &[], &only_ours);
    }
    println!("{compared} properties of {} types", their_types.len());
}

/// What is ours alone says so by its name.
#[test]
fn commands_are_theirs_or_begin_with_x() {
    let Some((_qemu, theirs)) = Server::qemu() else {
        return;
    };
    let (_server, ours) = Server::hostmem_on_streams();
    let names = |client: Client<ChildStdin>| -> BTreeSet<String> {
        let list = client.negotiate().must("query-commands", json!({}));
        let entries = list.as_array().unwrap().iter();
        entries
            .map(|entry| entry["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let (theirs, ours) = (names(theirs), names(ours));
    for name in &ours {
        assert_eq!(theirs.contains(name), !name.starts_with("x-"), "{name}");
    }
}

/// QEMU tells that it shuts down, of which hostmem has nothing to tell.
#[test]
fn quit_is_answered_before_the_end() {
    let Some((mut qemu, theirs)) = Server::qemu() else {
        return;
    };
    let (mut hostmem, ours) = Server::hostmem_on_streams();
    for (client, server) in [(theirs, &mut qemu), (ours, &mut hostmem)] {
        let mut client = client.negotiate();
        assert_eq!(client.must("quit", json!({})), json!({}));
        assert!(client.try_answer().is_err());
        assert_eq!(server.end().0, 0);
    }
}

#[test]
fn the_greeting_is_alike() {
    let Some((_qemu, theirs)) = Server::qemu() else {
        return;
    };
    let (_server, ours) = Server::hostmem_on_streams();
    let mut greeting = theirs.greeting;
    // hostmem has no commands that overtake others.
    assert_eq!(greeting["QMP"]["capabilities"], json!(["oob"]));
    greeting["QMP"]["capabilities"] = json!([]);
    assert_eq!(shape(&ours.greeting), shape(&greeting));
}

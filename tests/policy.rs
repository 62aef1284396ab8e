// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! NUMA policies: which are possible, what the kernel makes of them, and how it refuses.

mod common;

use common::ram;
use common::refusing;
use common::Refusal;
use hostmem::ErrorKind;

/// Containers that block mbind must still work.
#[test]
fn the_default_policy_makes_no_system_call() {
    let host = hostmem::Host::probe().unwrap();
    let objects = hostmem::Objects::new(&host, &hostmem::Defaults::qemu()).unwrap();
    let calls = [
        Refusal::new(libc::SYS_mbind, libc::EPERM),
        Refusal::new(libc::SYS_set_mempolicy, libc::EPERM),
        Refusal::new(libc::SYS_get_mempolicy, libc::EPERM),
    ];
    refusing(&calls, || {
        let options = "memory-backend-ram,id=ram0,size=1M,prealloc=on";
        let backend = objects.parse(options).unwrap().complete().unwrap();
        assert_eq!(backend.placement().unwrap().resident, 1 << 20);
    });
}

#[cfg(not(feature = "numa"))]
#[test]
fn without_numa_nodes_and_policies_are_unsupported() {
    for (options, property) in [
        ("policy=bind,host-nodes=0", "policy"),
        ("policy=bind", "policy"),
        ("policy=local", "policy"),
        ("host-nodes=0", "host-nodes"),
        ("home-node=0", "home-node"),
    ] {
        let error = ram(&format!("size=1M,{options}"))
            .complete()
            .unwrap_err()
            .error;
        let (kind, message) = (error.kind(), error.to_string());
        assert_eq!(kind, ErrorKind::Unsupported, "{options}");
        assert_eq!(error.raw_os_error(), None, "{options}");
        let expected = format!("ram0: {property}: hostmem is built without NUMA");
        assert!(message.starts_with(&expected), "{message}");
    }
    // The properties are there all the same, and the default works.
    assert!(ram("size=1M,policy=default").complete().is_ok());
}

#[cfg(feature = "numa")]
mod with_numa {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::Ordering;

    use common::host::become_nobody;
    use common::host::is_root;
    use common::host::HugePages;
    use common::host::HUGE;
    use common::kernel;
    use hostmem::Origin;
    use hostmem::Policy;
    use hostmem::Rebind;
    use hostmem::Satisfied;

    fn refused(options: &str) -> (ErrorKind, String) {
        let failed = ram(options).complete().unwrap_err();
        common::access::assert_names_errno(&failed.error);
        (failed.error.kind(), failed.error.to_string())
    }

    /// The first node this process may use; None where the kernel has no NUMA.
    fn usable_node() -> Option<u32> {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let nodes = status
            .lines()
            .find_map(|line| line.strip_prefix("Mems_allowed_list:\t"))?;
        nodes.split(['-', ',']).next()?.parse().ok()
    }

    fn has_mode(probe: &str) -> bool {
        ram(probe).complete().is_ok()
    }

    #[test]
    fn nodes_and_policy_go_together() {
        for (options, words) in [
            (
                "host-nodes=0",
                &["host-nodes", "policy=default", "policy=bind"][..],
            ),
            ("host-nodes=0,policy=local", &["host-nodes", "policy=local"]),
            ("policy=bind", &["policy=bind needs host-nodes"]),
            ("policy=preferred", &["policy=preferred needs host-nodes"]),
            (
                "policy=preferred-many",
                &["preferred-many needs host-nodes"],
            ),
            ("policy=interleave", &["policy=interleave needs host-nodes"]),
            ("policy=weighted-interleave", &["needs host-nodes"]),
            ("home-node=0", &["home-node", "policy=bind"]),
            (
                "home-node=0,policy=interleave,host-nodes=0",
                &["home-node", "interleave"],
            ),
        ] {
            let (kind, message) = refused(&format!("size=1M,{options}"));
            assert_eq!(kind, ErrorKind::Value, "{options}: {message}");
            for word in words {
                assert!(message.contains(word), "{options}: {message}");
            }
        }
    }

    /// The kernel drops such nodes in silence when another one is good.
    #[test]
    fn nodes_that_do_not_exist_are_named() {
        let Some(node) = usable_node() else {
            return common::skip("this kernel has no NUMA");
        };
        for policy in ["bind", "preferred", "interleave"] {
            for (nodes, bad) in [
                (format!("host-nodes={node},host-nodes=1000"), "node 1000 "),
                (
                    "host-nodes=1022-1023".into(),
                    "nodes 1022-1023 are not nodes of this host",
                ),
            ] {
                let (kind, message) = refused(&format!("size=1M,policy={policy},{nodes}"));
                assert_eq!(kind, ErrorKind::Value);
                assert!(message.contains(bad), "{message}");
                assert!(message.contains("usable nodes: "), "{message}");
            }
        }
    }

    #[test]
    fn the_kernel_has_the_policy_that_was_asked_for() {
        let Some(node) = usable_node() else {
            return common::skip("this kernel has no NUMA");
        };
        for share in ["off", "on"] {
            for (policy, words) in [
                ("default", "default".to_owned()),
                ("local", "local".into()),
                ("bind", format!("bind:{node}")),
                ("interleave", format!("interleave:{node}")),
                ("preferred-many", format!("prefer (many):{node}")),
                ("weighted-interleave", format!("weighted interleave:{node}")),
            ] {
                let takes_nodes = !matches!(policy, "default" | "local");
                let nodes = if takes_nodes {
                    format!(",host-nodes={node}")
                } else {
                    String::new()
                };
                let options = format!("size=1M,policy={policy}{nodes}");
                match ram(&format!("{options},share={share},prealloc=on")).complete() {
                    Ok(backend) => assert_eq!(backend.placement().unwrap().policy, words),
                    Err(failed) => {
                        // Only these are younger than the oldest kernel in use.
                        assert!(matches!(policy, "preferred-many" | "weighted-interleave"));
                        assert_eq!(failed.error.kind(), ErrorKind::Unsupported);
                        assert!(failed.to_string().contains("needs Linux"), "{failed}");
                    }
                }
            }
        }
    }

    #[test]
    fn preferred_is_preferred_many_where_the_kernel_has_it() {
        let Some(node) = usable_node() else {
            return common::skip("this kernel has no NUMA");
        };
        let many = has_mode(&format!("size=1M,policy=preferred-many,host-nodes={node}"));
        let options = format!("size=1M,policy=preferred,host-nodes={node}");
        let backend = ram(&options).complete().unwrap();
        let words = if many { "prefer (many)" } else { "prefer" };
        let expected = format!("{words}:{node}");
        assert_eq!(backend.placement().unwrap().policy, expected);
    }

    #[test]
    fn a_home_node_goes_with_bind() {
        let Some(node) = usable_node() else {
            return common::skip("this kernel has no NUMA");
        };
        let options = format!("size=1M,policy=bind,host-nodes={node},home-node={node}");
        match ram(&options).complete() {
            Ok(backend) => {
                let expected = format!("bind:{node}");
                assert_eq!(backend.placement().unwrap().policy, expected);
            }
            Err(failed) => {
                assert_eq!(failed.error.kind(), ErrorKind::Unsupported);
                assert!(failed.to_string().contains("5.17"), "{failed}");
            }
        }
        let options = format!("size=1M,policy=bind,host-nodes={node},home-node=1000");
        let (kind, message) = refused(&options);
        assert_eq!(kind, ErrorKind::Value);
        assert!(message.contains("home-node: node 1000"), "{message}");
    }

    #[test]
    fn each_errno_of_mbind_has_its_own_message() {
        let Some(node) = usable_node() else {
            return common::skip("this kernel has no NUMA");
        };
        for (errno, kind, words) in [
            (
                libc::EPERM,
                ErrorKind::Unsupported,
                "forbidden in this process",
            ),
            (libc::EINVAL, ErrorKind::Io, "host-nodes"),
            (libc::EIO, ErrorKind::Io, "could not be moved"),
            (libc::ENOMEM, ErrorKind::NoMemory, "mbind failed"),
        ] {
            let builder = ram(&format!("size=1M,policy=bind,host-nodes={node}"));
            let refusal = [Refusal::new(libc::SYS_mbind, errno)];
            let failed = refusing(&refusal, || builder.complete().unwrap_err());
            assert_eq!(failed.error.kind(), kind, "{failed}");
            assert_eq!(failed.error.raw_os_error(), Some(errno));
            assert!(failed.to_string().contains(words), "{failed}");
            let call = format!("policy=bind,host-nodes={node}: mbind failed: ");
            assert!(failed.to_string().contains(&call), "{failed}");
            // The cause is gone with the thread that had it.
            assert!(failed.object.complete().is_ok());
        }
    }

    #[test]
    fn a_ready_backend_is_rebound() {
        let Some(node) = usable_node() else {
            return common::skip("this kernel has no NUMA");
        };
        let backend = ram("size=4M,prealloc=on").complete().unwrap();
        // Each change by itself has to be possible.
        let error = backend.set("policy", "bind").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        assert_eq!(backend.get_text("policy").unwrap(), "default");
        backend.set("policy", "local").unwrap();
        assert_eq!(backend.placement().unwrap().policy, "local");
        backend.set("policy", "default").unwrap();
        assert_eq!(backend.placement().unwrap().policy, "default");

        let options = format!("size=4M,prealloc=on,policy=bind,host-nodes={node}");
        let backend = ram(&options).complete().unwrap();
        backend.set("policy", "interleave").unwrap();
        let interleave = format!("interleave:{node}");
        assert_eq!(backend.placement().unwrap().policy, interleave);
        let error = backend.set("host-nodes", [1000]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        assert_eq!(backend.get("host-nodes").unwrap(), [node].into());

        let refusal = [Refusal::new(libc::SYS_mbind, libc::EIO)];
        let error = refusing(&refusal, || backend.set("policy", "bind").unwrap_err());
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert_eq!(backend.get_text("policy").unwrap(), "interleave");
        assert_eq!(backend.placement().unwrap().policy, interleave);
        assert_eq!(backend.placement().unwrap().resident, 4 << 20);
    }

    /// Two changes that are each impossible alone are possible in one step.
    #[test]
    fn policy_and_nodes_are_changed_together() {
        let Some(node) = usable_node() else {
            return common::skip("this kernel has no NUMA");
        };
        for share in ["off", "on"] {
            let options = format!("size=4M,prealloc=on,share={share}");
            let backend = ram(&options).complete().unwrap();
            let _claim = backend.claim("vm0").unwrap();
            for (to, text) in [
                (
                    Rebind::new(Policy::Bind).host_nodes([node]),
                    format!("bind:{node}"),
                ),
                (
                    Rebind::new("interleave").host_nodes([node]),
                    format!("interleave:{node}"),
                ),
                (Rebind::new(Policy::Local), "local".to_owned()),
                (Rebind::new(Policy::Default), "default".to_owned()),
            ] {
                // On one node nothing has to move.
                let rebound = backend.rebind(&to).unwrap();
                assert_eq!((rebound.moved, rebound.not_moved), (0, 0), "{to:?}");
                assert_eq!(rebound.cause, None);
                let seen = backend.placement().unwrap();
                assert_eq!((seen.policy, seen.resident), (text, 4 << 20), "{to:?}");
                assert!(!seen.policy_changed);
            }
            assert_eq!(backend.get_text("policy").unwrap(), "default");
            assert_eq!(backend.get_text("host-nodes").unwrap(), "");
            assert_eq!(backend.origin("home-node").unwrap(), Origin::User);
        }
    }

    #[test]
    fn rebinding_that_is_impossible_changes_nothing() {
        let Some(node) = usable_node() else {
            return common::skip("this kernel has no NUMA");
        };
        let options = format!("size=1M,prealloc=on,policy=bind,host-nodes={node}");
        let backend = ram(&options).complete().unwrap();
        for (to, words) in [
            (
                Rebind::new("nearest").host_nodes([node]),
                "policy=nearest: expected default",
            ),
            (Rebind::new(""), "policy="),
            (Rebind::new(Policy::Bind), "needs host-nodes"),
            (
                Rebind::new(Policy::Default).host_nodes([node]),
                "takes no nodes",
            ),
            (
                Rebind::new(Policy::Bind).host_nodes([1023]),
                "host-nodes: node 1023",
            ),
            (Rebind::new(Policy::Bind).host_nodes([1024]), "below 1024"),
            (
                Rebind::new(Policy::Interleave)
                    .host_nodes([node])
                    .home_node(node),
                "home-node goes with",
            ),
            (
                Rebind::new(Policy::Bind).host_nodes([node]).home_node(1024),
                "home-node=1024",
            ),
        ] {
            let error = backend.rebind(&to).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Value, "{error}");
            let message = error.to_string();
            assert!(
                message.starts_with("ram0: ") && message.contains(words),
                "{message}"
            );
            assert_eq!(backend.get_text("policy").unwrap(), "bind");
            assert_eq!(backend.get("host-nodes").unwrap(), [node].into());
            let seen = backend.placement().unwrap();
            assert_eq!(seen.policy, format!("bind:{node}"));
        }
    }

    /// Each system call of rebinding, refused: one clear error, and all is as it was.
    #[test]
    fn rebinding_that_fails_leaves_the_old_policy() {
        const SET_HOME_NODE: libc::c_long = 450;
        const MOVE_ALL: u64 = 4;
        let Some(node) = usable_node().filter(|_| kernel() >= (5, 17)) else {
            return common::skip("home nodes need Linux 5.17");
        };
        let bound = Rebind::new(Policy::Bind).host_nodes([node]);
        // What comes with MOVE and is not the putting back, which says nothing of STRICT.
        let strict = |errno| Refusal::new(libc::SYS_mbind, errno).only_masked(5, 1, 1);
        for (to, refusal, kind, words) in [
            (
                bound.clone(),
                strict(libc::EIO),
                ErrorKind::Io,
                "could not be moved",
            ),
            (
                bound.clone(),
                strict(libc::EPERM),
                ErrorKind::Unsupported,
                "forbidden",
            ),
            (
                bound.clone(),
                strict(libc::ENOMEM),
                ErrorKind::NoMemory,
                "mbind failed",
            ),
            (
                bound.clone(),
                strict(libc::EINVAL),
                ErrorKind::Io,
                "allowed?",
            ),
            (
                bound.clone().home_node(node),
                Refusal::new(SET_HOME_NODE, libc::EPERM),
                ErrorKind::Unsupported,
                "set_mempolicy_home_node failed",
            ),
            (
                bound.clone().move_all(true),
                strict(libc::EPERM).only_masked(5, MOVE_ALL, MOVE_ALL),
                ErrorKind::Unsupported,
                "CAP_SYS_NICE",
            ),
        ] {
            let options = format!("size=4M,prealloc=on,policy=interleave,host-nodes={node}");
            let backend = ram(&options).complete().unwrap();
            let errno = refusal.errno;
            let error = refusing(&[refusal], || backend.rebind(&to).unwrap_err());
            assert_eq!(
                (error.kind(), error.raw_os_error()),
                (kind, Some(errno)),
                "{error}"
            );
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(backend.get_text("policy").unwrap(), "interleave");
            assert_eq!(backend.get_text("home-node").unwrap(), "none");
            let seen = backend.placement().unwrap();
            assert_eq!(seen.policy, format!("interleave:{node}"));
            assert_eq!((seen.resident, seen.policy_changed), (4 << 20, false));
            assert!(backend.rebind(&to).is_ok(), "{to:?}");
        }
    }

    #[test]
    fn a_policy_that_cannot_be_put_back_is_told() {
        let Some(node) = usable_node() else {
            return common::skip("this kernel has no NUMA");
        };
        let backend = ram("size=1M,prealloc=on").complete().unwrap();
        let bound = Rebind::new(Policy::Bind).host_nodes([node]);
        let all = [Refusal::new(libc::SYS_mbind, libc::EPERM)];
        let error = refusing(&all, || backend.rebind(&bound).unwrap_err());
        assert!(
            error.to_string().contains("could not be put back"),
            "{error}"
        );
    }

    /// Pages that only root may move.
    #[test]
    fn moving_what_others_use_is_for_the_privileged() {
        const TEST: &str = "with_numa::moving_what_others_use_is_for_the_privileged";
        let Some(node) = usable_node() else {
            return common::skip("this kernel has no NUMA");
        };
        if !is_root() {
            return common::skip("only root may give its rights up");
        }
        common::in_child(TEST, || {
            let backend = ram("size=1M,prealloc=on,share=on").complete().unwrap();
            let all = Rebind::new(Policy::Bind).host_nodes([node]).move_all(true);
            backend.rebind(&all).unwrap();
            backend.rebind(&Rebind::new(Policy::Default)).unwrap();
            become_nobody();
            let error = backend.rebind(&all).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains("CAP_SYS_NICE"), "{error}");
            assert_eq!(backend.placement().unwrap().policy, "default");
            backend.rebind(&all.move_all(false)).unwrap();
        });
    }

    #[test]
    fn rebinding_waits_for_no_preallocation() {
        let Some(node) = usable_node() else {
            return common::skip("this kernel has no NUMA");
        };
        let builder = ram("size=512M,prealloc=on,prealloc-mode=background,thp=never");
        let backend = builder.complete().unwrap();
        let bound = Rebind::new(Policy::Bind).host_nodes([node]);
        let result = backend.rebind(&bound);
        // It may have been quicker than we are.
        if backend.progress().done < 512 << 20 {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Busy);
        }
        backend.cancel_prealloc().unwrap();
        backend.rebind(&bound).unwrap();
    }

    /// The policies of the library's own threads for `m0`, seen while the body runs.
    fn policies_of_workers<T>(body: impl FnOnce() -> T) -> (T, BTreeSet<String>) {
        let done = AtomicBool::new(false);
        // Of the backend before, which had another policy.
        common::wait_until_no_thread_is_named("hm-m0");
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut seen = BTreeSet::new();
                while !done.load(Ordering::Relaxed) {
                    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
                        let read = |name| fs::read_to_string(task.path().join(name));
                        let (Ok(comm), Ok(maps)) = (read("comm"), read("numa_maps")) else {
                            continue;
                        };
                        // Memory without a policy is listed with that of the thread.
                        let policy = maps.split_whitespace().nth(1);
                        if comm == "hm-m0\n" {
                            seen.extend(policy.map(str::to_owned));
                        }
                    }
                }
                seen
            });
            let result = body();
            done.store(true, Ordering::Relaxed);
            (result, watch.join().unwrap())
        })
    }

    /// The kernel ignores the policy of such a mapping, but not that of the thread that fills it.
    #[test]
    fn workers_have_the_policy_of_shared_files_on_disk() {
        const TEST: &str = "with_numa::workers_have_the_policy_of_shared_files_on_disk";
        let Some(node) = usable_node() else {
            return common::skip("this kernel has no NUMA");
        };
        common::in_child(TEST, || {
            let Some(directory) = common::directory_on_disk() else {
                return;
            };
            let path = directory.path().display();
            let own = || fs::read_to_string("/proc/thread-self/numa_maps").unwrap();
            let own_policy = || own().split_whitespace().nth(1).unwrap().to_owned();
            let before = own_policy();
            for (kind, options, expected) in [
                (
                    "file",
                    "share=on,policy=interleave",
                    Some(format!("interleave:{node}")),
                ),
                ("file", "share=on,policy=bind", Some(format!("bind:{node}"))),
                ("file", "share=on,policy=local", Some("local".to_owned())),
                ("file", "share=on,policy=default", None),
                // Memory of these is where the mapping says.
                ("file", "share=off,policy=bind", None),
                ("memfd", "share=on,policy=bind", None),
            ] {
                let mut all = format!("size=96M,prealloc=on,prealloc-threads=2,{options}");
                if !options.contains("local") && !options.contains("default") {
                    all += &format!(",host-nodes={node}");
                }
                if kind == "file" {
                    all += &format!(",mem-path={path}");
                }
                let builder = common::access::new(kind, &all);
                let (backend, policies) = policies_of_workers(|| builder.complete().unwrap());
                let result = backend.prealloc_result().unwrap();
                assert_eq!(result.policy_error, None, "{all}");
                match expected {
                    Some(policy) => assert!(policies.contains(&policy), "{all}: {policies:?}"),
                    None => assert!(policies.iter().all(|policy| *policy == before), "{all}"),
                }
                // Nothing is ever set on a thread that is not ours.
                assert_eq!(own_policy(), before, "{all}");
            }
        });
    }

    #[test]
    fn a_policy_that_workers_cannot_have_is_reported() {
        let Some(node) = usable_node() else {
            return common::skip("this kernel has no NUMA");
        };
        let Some(directory) = common::directory_on_disk() else {
            return;
        };
        let options = format!(
            "size=16M,share=on,prealloc=on,policy=bind,host-nodes={node},mem-path={}",
            directory.path().display()
        );
        let no_threads = [
            Refusal::new(libc::SYS_clone3, libc::EAGAIN),
            Refusal::new(libc::SYS_clone, libc::EAGAIN),
        ];
        let no_policy = [Refusal::new(libc::SYS_set_mempolicy, libc::EPERM)];
        for (refusals, errno) in [(&no_threads[..], libc::EAGAIN), (&no_policy, libc::EPERM)] {
            let builder = common::access::new("file", &options);
            let backend = refusing(refusals, || builder.complete().unwrap());
            let result = backend.prealloc_result().unwrap();
            assert_eq!(result.policy_error, Some(errno));
            assert_eq!(backend.placement().unwrap().resident, 16 << 20);
        }
    }

    /// Whether the mapping thread can have the policy or not.
    #[test]
    fn bound_huge_pages_are_mapped_as_any() {
        let Some(node) = usable_node() else {
            return common::skip("this kernel has no NUMA");
        };
        let Some(_pool) = HugePages::have(4) else {
            return;
        };
        let options = format!(
            "size={},hugetlb=on,hugetlbsize=2M,prealloc=on,policy=bind,host-nodes={node}",
            4 * HUGE
        );
        let refusals = [
            vec![],
            vec![Refusal::new(libc::SYS_set_mempolicy, libc::EPERM)],
            vec![
                Refusal::new(libc::SYS_clone3, libc::EAGAIN),
                Refusal::new(libc::SYS_clone, libc::EAGAIN),
            ],
        ];
        for refusals in refusals {
            for share in ["on", "off"] {
                let builder = common::access::new("memfd", &format!("{options},share={share}"));
                let backend = refusing(&refusals, || builder.complete().unwrap());
                let seen = backend.placement().unwrap();
                assert_eq!((seen.huge, seen.nodes[&node]), (4 * HUGE, 4 * HUGE));
                assert_eq!(seen.satisfied, Satisfied::Yes);
            }
        }
        // One page more than is free: a single clear error, with the number that is free.
        let options = options.replace(&format!("size={}", 4 * HUGE), &format!("size={}", 5 * HUGE));
        let failed = common::access::new("memfd", &options)
            .complete()
            .unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::NoMemory);
        assert!(failed.to_string().contains("5 huge pages"), "{failed}");
    }

    /// libnuma looks around when it is loaded; what it did not see then is nothing to us.
    #[cfg(feature = "libnuma")]
    #[test]
    fn how_libnuma_fared_when_it_was_loaded_does_not_matter() {
        const TEST: &str = "with_numa::how_libnuma_fared_when_it_was_loaded_does_not_matter";
        let Some(node) = usable_node() else {
            return common::skip("this kernel has no NUMA");
        };
        // A filter lasts across execution, so the child loads libnuma under it.
        let calls = [
            Refusal::new(libc::SYS_get_mempolicy, libc::EPERM),
            Refusal::new(libc::SYS_set_mempolicy, libc::EPERM),
        ];
        refusing(&calls, || {
            common::in_child(TEST, || {
                let options = format!("size=4M,prealloc=on,policy=bind,host-nodes={node}");
                let backend = ram(&options).complete().unwrap();
                let placement = backend.placement().unwrap();
                assert_eq!(placement.policy, format!("bind:{node}"));
                assert_eq!(placement.nodes[&node], 4 << 20);
            });
        });
    }
}

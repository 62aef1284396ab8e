// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host record: what the kernel refused while it was asked is what objects say they cannot do,
//! and nothing else.

mod common;

use std::sync::Arc;

use common::bindable_node;
use common::has_address_sanitizer;
use common::host::has_no_hard_limit;
use common::host::limit;
use common::in_child;
use common::refusing;
use common::skip;
use common::Belongings;
use common::Refusal;
use hostmem::Backend;
use hostmem::Defaults;
use hostmem::Error;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Methods;
use hostmem::Objects;

// Older than some C libraries' headers.
const MADV_POPULATE_WRITE: u64 = 23;
const MPOL_PREFERRED_MANY: u64 = 5;
const SYS_SET_MEMPOLICY_HOME_NODE: libc::c_long = 450;

fn complete(host: &Host, options: &str) -> Result<Backend, Error> {
    Objects::new(host, &Defaults::qemu())?
        .parse(format!("memory-backend-ram,id=ram0,{options}"))?
        .complete()
        .map_err(Error::from)
}

#[track_caller]
fn assert_unsupported(host: &Host, options: &str, parts: &[&str]) {
    let error = complete(host, options).expect_err(options);
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{message}");
    }
}

/// A host as it is found where these calls fail. What comes after the probe is allowed, so only the
/// record can say that it is not there.
fn probe_refusing(refusals: &[Refusal]) -> Host {
    refusing(refusals, || Host::probe().unwrap())
}

fn without_populate() -> Host {
    let advice = Refusal::new(libc::SYS_madvise, libc::EINVAL).only_masked(
        2,
        u64::from(u32::MAX),
        MADV_POPULATE_WRITE,
    );
    probe_refusing(&[advice])
}

#[test]
fn probing_leaves_nothing_behind() {
    if has_address_sanitizer() {
        return;
    }
    in_child("probing_leaves_nothing_behind", || {
        // Whatever the first one sets up for good.
        drop(Host::probe().unwrap());
        let before = Belongings::now();
        for _ in 0..10 {
            let host = Host::probe().unwrap();
            assert_eq!(host.methods(), Methods::ALL);
        }
        assert_eq!(Belongings::now(), before);
    });
}

#[test]
fn a_host_serves_many_sets_and_need_not_outlive_them() {
    let host = Host::probe().unwrap();
    let sets: Vec<_> = (0..3)
        .map(|_| Objects::new(&host, &Defaults::qemu()).unwrap())
        .collect();
    drop(host);
    for objects in sets {
        let builder = objects
            .parse("memory-backend-ram,id=ram0,size=64K")
            .unwrap();
        builder.complete().unwrap();
    }
}

#[test]
fn threads_share_a_host() {
    let host = Arc::new(Host::probe().unwrap());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let host = Arc::clone(&host);
            scope.spawn(move || complete(&host, "size=64K").unwrap());
        }
    });
}

// ---- Methods ----

#[test]
fn narrowing_only_narrows() {
    let mut host = Host::probe().unwrap();
    assert_eq!(host.methods(), Methods::ALL);
    host.narrow_methods(Methods::ALL);
    assert_eq!(host.methods(), Methods::ALL);
    host.narrow_methods(Methods::LAST_PAGE_FIRST);
    assert_eq!(host.methods(), Methods::LAST_PAGE_FIRST);
    host.narrow_methods(!Methods::LAST_PAGE_FIRST);
    assert_eq!(host.methods(), Methods::NONE);
    host.narrow_methods(Methods::ALL);
    assert_eq!(host.methods(), Methods::NONE);
}

#[test]
fn every_method_gives_the_same_memory() {
    // Not a whole number of huge pages.
    let size = (6 << 20) + (64 << 10);
    for methods in [Methods::NONE, Methods::LAST_PAGE_FIRST, Methods::ALL] {
        let mut host = Host::probe().unwrap();
        host.narrow_methods(methods);
        for options in ["thp=auto", "thp=always", "thp=never", "share=on"] {
            let backend = complete(&host, &format!("size={size},prealloc=on,{options}")).unwrap();
            let placement = backend.placement().unwrap();
            assert_eq!(placement.resident, size, "{methods:?} {options}");
            assert_eq!(placement.absent, 0, "{methods:?} {options}");
            assert_eq!(backend.prealloc_result().unwrap().bytes, size);

            // The same when it is asked for later, over what is there already.
            let backend = complete(&host, &format!("size={size},{options}")).unwrap();
            let claim = backend.claim("vm0").unwrap();
            let last = claim.memory().as_ptr().wrapping_add(size as usize - 1);
            // SAFETY: the last byte of the memory, which nobody else uses.
            unsafe { last.write_volatile(9) };
            backend.set("prealloc", true).unwrap();
            assert_eq!(backend.placement().unwrap().resident, size, "{methods:?}");
            // SAFETY: as above.
            assert_eq!(unsafe { last.read_volatile() }, 9, "{methods:?} {options}");
        }
    }
}

// ---- Features that are missing ----

/// As on a kernel before 5.14.
#[test]
fn without_populate_pages_are_touched() {
    let host = without_populate();
    for options in ["size=64K", "size=64K,share=on", "size=4M,thp=always"] {
        let backend = complete(&host, &format!("{options},prealloc=on")).unwrap();
        assert_eq!(backend.placement().unwrap().absent, 0, "{options}");
        let backend = complete(&host, options).unwrap();
        assert_eq!(backend.placement().unwrap().resident, 0);
        backend.set("prealloc", true).unwrap();
        assert_eq!(backend.placement().unwrap().absent, 0, "{options}");
    }
}

#[test]
fn without_mbind_there_is_no_policy_but_the_default() {
    let Some(node) = bindable_node() else {
        return;
    };
    let host = probe_refusing(&[Refusal::new(libc::SYS_mbind, libc::EPERM)]);
    for policy in ["bind", "preferred", "interleave"] {
        assert_unsupported(
            &host,
            &format!("size=64K,policy={policy},host-nodes={node}"),
            &["ram0", policy, "mbind", "container", "policy=default"],
        );
    }
    assert_unsupported(&host, "size=64K,policy=local", &["mbind", "policy=default"]);
    let backend = complete(&host, "size=64K,policy=default").unwrap();
    assert_eq!(backend.placement().unwrap().policy, "default");
    let error = backend.set("policy", "local").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(backend.get_text("policy").unwrap(), "default");
    // The same host elsewhere in the process has it all.
    let host = Host::probe().unwrap();
    complete(&host, &format!("size=64K,policy=bind,host-nodes={node}")).unwrap();
}

/// The whole life of a backend where the container never allows mbind.
#[test]
fn without_mbind_the_default_policy_works() {
    refusing(&[Refusal::new(libc::SYS_mbind, libc::EPERM)], || {
        let host = Host::probe().unwrap();
        for share in ["off", "on"] {
            let options = format!("size=1M,prealloc=on,share={share}");
            let backend = complete(&host, &options).unwrap();
            assert_eq!(backend.placement().unwrap().resident, 1 << 20);
        }
    });
}

/// For another reason than a filter or an old kernel.
#[test]
fn a_policy_that_the_host_cannot_do_is_refused_with_the_reason() {
    let Some(node) = bindable_node() else {
        return;
    };
    let host = probe_refusing(&[Refusal::new(libc::SYS_mbind, libc::ENXIO)]);
    let options = format!("size=64K,policy=bind,host-nodes={node}");
    let words = ["policy=bind", "cannot do it", "No such device or address"];
    assert_unsupported(&host, &options, &words);
    complete(&host, "size=64K").unwrap();
}

#[test]
fn without_preferred_many_one_node_is_preferred_as_before() {
    let Some(node) = bindable_node() else {
        return;
    };
    let mode = Refusal::new(libc::SYS_mbind, libc::EINVAL).only_masked(
        2,
        u64::from(u32::MAX),
        MPOL_PREFERRED_MANY,
    );
    let host = probe_refusing(&[mode]);
    let backend = complete(
        &host,
        &format!("size=64K,policy=preferred,host-nodes={node}"),
    )
    .unwrap();
    let policy = backend.placement().unwrap().policy;
    assert_eq!(policy, format!("prefer:{node}"));
    assert_unsupported(
        &host,
        &format!("size=64K,policy=preferred-many,host-nodes={node}"),
        &["ram0", "preferred-many", "5.15"],
    );
}

#[test]
fn without_home_nodes_binding_works_by_itself() {
    let Some(node) = bindable_node() else {
        return;
    };
    let call = Refusal::new(SYS_SET_MEMPOLICY_HOME_NODE, libc::ENOSYS);
    let host = probe_refusing(&[call]);
    let bound = format!("size=64K,policy=bind,host-nodes={node}");
    complete(&host, &bound).unwrap();
    assert_unsupported(
        &host,
        &format!("{bound},home-node={node}"),
        &["ram0", "home-node", "5.17"],
    );
}

/// What the record says of features is what was refused, and nothing else.
#[test]
fn features_say_why_not() {
    let all = Host::probe().unwrap().features();
    let advice = |advice: u64| {
        let advice_mask = u64::from(u32::MAX);
        Refusal::new(libc::SYS_madvise, libc::EINVAL).only_masked(2, advice_mask, advice)
    };
    let mode = |mode| {
        Refusal::new(libc::SYS_mbind, libc::EINVAL).only_masked(2, u64::from(u32::MAX), mode)
    };
    for (name, refusal, reason) in [
        ("populate", advice(MADV_POPULATE_WRITE), "needs Linux 5.14"),
        ("collapse", advice(25), "needs Linux 6.1"),
        ("dontneed-locked", advice(24), "needs Linux 5.18"),
        (
            "merge",
            advice(libc::MADV_MERGEABLE as u64),
            "Invalid argument",
        ),
        (
            "userfaultfd",
            Refusal::new(libc::SYS_userfaultfd, libc::EPERM),
            "forbidden",
        ),
        (
            "noexec-seal",
            Refusal::new(libc::SYS_memfd_create, libc::EINVAL),
            "needs Linux 6.3",
        ),
        (
            "home-node",
            Refusal::new(SYS_SET_MEMPOLICY_HOME_NODE, libc::ENOSYS),
            "needs Linux 5.17",
        ),
        (
            "policy=preferred-many",
            mode(MPOL_PREFERRED_MANY),
            "needs Linux 5.15",
        ),
        ("policy=weighted-interleave", mode(6), "needs Linux 6.9"),
        ("policy=bind", mode(2), "Invalid argument"),
    ] {
        let Some(before) = all.iter().find(|feature| feature.name == name) else {
            panic!("{name} is a feature");
        };
        if !before.is_available() {
            skip(&format!("{name}: {}", before.reason));
            continue;
        }
        assert_eq!((before.os_error, before.reason.as_str()), (None, ""));
        let errno = refusal.errno;
        for feature in probe_refusing(&[refusal]).features() {
            if feature.name == name {
                assert_eq!(feature.os_error, Some(errno), "{feature:?}");
                assert!(feature.reason.contains(reason), "{feature:?}");
            } else {
                assert!(all.contains(&feature), "{name}: {feature:?}");
            }
        }
    }
}

/// It asks nothing of anybody.
#[test]
fn the_default_policy_is_everywhere() {
    let all = [libc::SYS_mbind, SYS_SET_MEMPOLICY_HOME_NODE];
    let host = probe_refusing(&all.map(|call| Refusal::new(call, libc::EPERM)));
    for feature in host.features() {
        let built = cfg!(feature = "numa");
        let words = if built { "forbidden" } else { "feature `numa`" };
        let needs_it = feature.name == "home-node" || feature.name.starts_with("policy=");
        if needs_it && feature.name != "policy=default" {
            assert!(feature.reason.contains(words), "{feature:?}");
        }
        if feature.name == "policy=default" {
            assert!(feature.is_available(), "{feature:?}");
        }
    }
}

#[test]
fn the_info_is_what_the_kernel_says() {
    let read = |path: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        match text.split_once('[') {
            Some((_, rest)) => rest.split(']').next().unwrap().to_owned(),
            None => text.trim().to_owned(),
        }
    };
    in_child("the_info_is_what_the_kernel_says", || {
        let info = Host::probe().unwrap().info();
        assert_eq!(info.kernel, read("/proc/sys/kernel/osrelease"));
        assert_eq!(info.page_size, common::page_size());
        let thp = "/sys/kernel/mm/transparent_hugepage";
        assert_eq!(info.thp, read(&format!("{thp}/enabled")));
        assert_eq!(info.thp_shmem, read(&format!("{thp}/shmem_enabled")));
        let size = read(&format!("{thp}/hpage_pmd_size"));
        assert_eq!(info.thp_size, size.parse().ok());
        let mode = read("/proc/sys/vm/overcommit_memory");
        assert_eq!(info.overcommit, mode.parse().ok());
        let merging = read("/sys/kernel/mm/ksm/run");
        assert_eq!(info.merging == "on", merging == "1", "{merging}");
        assert_eq!(info.numa, cfg!(feature = "numa"));
        assert_eq!(info.libnuma, cfg!(feature = "libnuma"));
        for resource in [libc::RLIMIT_MEMLOCK, libc::RLIMIT_FSIZE] {
            if !has_no_hard_limit(resource) {
                skip("the limit cannot be raised again");
                continue;
            }
            for bytes in [1 << 30, (1 << 30) + 1, libc::RLIM_INFINITY] {
                limit(resource, bytes);
                let told = (bytes != libc::RLIM_INFINITY).then_some(bytes);
                let info = Host::probe().unwrap().info();
                let seen = match resource {
                    libc::RLIMIT_FSIZE => info.file_limit,
                    _ => info.memlock_limit,
                };
                assert_eq!(seen, told);
            }
        }
    });
}

#[test]
fn a_probe_that_is_refused_a_feature_still_probes() {
    // Each on its own, whatever it is for.
    for call in [
        libc::SYS_mbind,
        libc::SYS_madvise,
        libc::SYS_set_mempolicy,
        libc::SYS_get_mempolicy,
        SYS_SET_MEMPOLICY_HOME_NODE,
    ] {
        for errno in [libc::EPERM, libc::ENOSYS, libc::EINVAL] {
            let host = probe_refusing(&[Refusal::new(call, errno)]);
            complete(&host, "size=64K").unwrap();
        }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! thp=always where it would have no effect. A program of its own, since it changes a setting that
//! other tests depend on.

mod common;

use common::host::HostLock;
use common::host::Setting;
use common::in_child;
use common::objects;
use common::skip;
use hostmem::Backend;
use hostmem::Error;
use hostmem::ErrorKind;
use hostmem::Host;
use hostmem::Value;

const SIZE: &str = "size=4M,prealloc=on";

fn make(kind: &str, thp: &str) -> Result<Backend, Error> {
    let options = format!("memory-backend-{kind},id=m0,{SIZE},thp={thp}");
    Ok(objects().parse(options)?.complete()?)
}

fn assert_refused(error: &Error, words: &str) {
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("m0: thp=always: "), "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn a_process_that_disabled_them_cannot_ask_for_them() {
    in_child("a_process_that_disabled_them_cannot_ask_for_them", || {
        let _lock = HostLock::take();
        if Host::probe().unwrap().info().thp_size.is_none() {
            return skip("this kernel has no transparent huge pages");
        }
        assert!(!Host::probe().unwrap().info().thp_disabled);
        make("ram", "always").unwrap();
        let disable = |disabled: libc::c_ulong| {
            // SAFETY: takes numbers.
            let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, disabled, 0, 0, 0) };
            assert_eq!(result, 0);
        };
        disable(1);
        assert!(Host::probe().unwrap().info().thp_disabled);
        for kind in ["ram", "memfd"] {
            assert_refused(&make(kind, "always").unwrap_err(), "PR_SET_THP_DISABLE");
            make(kind, "never").unwrap();
            let backend = make(kind, "auto").unwrap();
            assert_refused(
                &backend.set("thp", "always").unwrap_err(),
                "PR_SET_THP_DISABLE",
            );
            assert_eq!(backend.get("thp").unwrap(), Value::from("auto"));
            disable(0);
            backend.set("thp", "always").unwrap();
            disable(1);
        }
    });
}

#[test]
fn a_host_that_gives_none_is_named() {
    in_child("a_host_that_gives_none_is_named", || {
        let Some(size) = Host::probe().unwrap().info().thp_size else {
            return skip("this kernel has no transparent huge pages");
        };
        let _lock = HostLock::take();
        let directory = "/sys/kernel/mm/transparent_hugepage";
        let of_size = format!("{directory}/hugepages-{}kB/enabled", size >> 10);
        let has_own = std::fs::exists(&of_size).unwrap();
        let all = format!("{directory}/enabled");
        let _inherit = has_own.then(|| Setting::set(&of_size, "inherit"));
        let Some(_never) = Setting::set(&all, "never") else {
            return;
        };
        assert_refused(
            &make("ram", "always").unwrap_err(),
            &format!("{all} is never"),
        );
        for thp in ["auto", "never"] {
            make("ram", thp).unwrap();
        }
        // What is shared is made huge whatever the setting for private memory.
        make("memfd", "always").unwrap();
        if !has_own {
            return;
        }
        // The setting of the size alone counts, where there is one.
        let Some(_own) = Setting::set(&of_size, "madvise") else {
            return;
        };
        make("ram", "always").unwrap();
        drop(_own);
        let Some(_own) = Setting::set(&of_size, "never") else {
            return;
        };
        assert_refused(
            &make("ram", "always").unwrap_err(),
            &format!("{of_size} is never"),
        );
    });
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Character devices whose drivers hand out memory, as far as the machine has one: the registers of
//! the timer HPET, a page.

use std::fs;
use std::path::Path;

use hostmem::ErrorKind;

use super::common::objects;
use super::common::page_size;
use super::guest::Test;

const DEVICE: &str = "/dev/hpet";

/// Where its register of capabilities says how many femtoseconds a tick takes, and the largest value
/// allowed there (IA-PC HPET specification 1.0a, 2.3.4).
const PERIOD: usize = 4;
const LONGEST: u32 = 0x05f5_e100;

pub fn tests() -> Vec<Test> {
    vec![Test::new("devices::are_mapped", are_mapped)]
}

fn are_mapped() {
    assert!(
        Path::new(DEVICE).exists(),
        "{:?}",
        fs::read_to_string("/proc/misc")
    );
    let size = page_size();
    let new = |rest: &str| {
        let file = format!("mem-path={DEVICE},readonly=on{rest}");
        let options = format!("memory-backend-file,id=m0,size={size},{file}");
        objects().parse(options).unwrap()
    };
    // It can be opened for reading only.
    for rest in [",share=on", ",share=on,dump=off", ",share=on,rom=on"] {
        let backend = new(rest).complete().unwrap();
        let claim = backend.claim("test").unwrap();
        let memory = claim.memory();
        assert_eq!((memory.len(), memory.page_size()), (size, size));
        // SAFETY: mapped as long as the claim lives, at least PERIOD + 4 bytes, and aligned.
        let period = unsafe { memory.as_ptr().add(PERIOD).cast::<u32>().read_volatile() };
        assert!((1..=LONGEST).contains(&period), "{rest}: {period}");
        drop(claim);
        backend.delete().unwrap();
    }
    // The kernel dumps no memory of devices.
    let failed = new(",share=on,dump=on").complete().unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Unsupported, "{failed}");
    assert!(failed.to_string().contains("use dump=off"), "{failed}");
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The arguments of `hostmem pool`, each a pool's name, count and template.

use std::ffi::OsStr;

use hostmem::Builder;
use hostmem::ObjectBuilder;
use hostmem::Objects;

use crate::object;
use crate::Result;

/// Name, count and template of `[NAME=]COUNT:OBJECT`.
pub(crate) fn parse(
    objects: &Objects,
    text: &OsStr,
    index: usize,
) -> Result<(String, u32, Builder)> {
    let shown = text.to_string_lossy();
    let wrong =
        || format!("'{shown}': expected COUNT:OBJECT, such as 4:memory-backend-memfd,size=1G");
    let whole = text.to_str().ok_or_else(wrong)?;
    let (head, object) = whole.split_once(':').ok_or_else(wrong)?;
    let (name, count) = match head.split_once('=') {
        Some((name, count)) => (name.to_owned(), count),
        None => (format!("pool{index}"), head),
    };
    let count = count.parse().map_err(|_| wrong())?;
    let ObjectBuilder::Backend(template) = object::parse_template(objects, object, &name)? else {
        return Err(wrong().into());
    };
    if template.get_text("share")? != "on" {
        let kind = template.kind();
        return Err(format!(
            "{name}: {kind} with share=off is memory of this process alone, which has no descriptor \
             to hand out; use memory-backend-memfd, or share=on"
        )
        .into());
    }
    Ok((name, count, template))
}

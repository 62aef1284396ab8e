// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The pools that a server has, by name.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::Mutex;
use std::sync::PoisonError;

use hostmem::Backend;
use hostmem::Builder;
use hostmem::Defaults;
use hostmem::Host;
use hostmem::ObjectBuilder;
use hostmem::Objects;
use hostmem::Pool;
use hostmem::PoolStatus;
use hostmem::ThreadContext;
use hostmem::THREAD_CONTEXT;
use serde_json::json;
use serde_json::Value as Json;

use crate::object;
use crate::Result;

pub(crate) struct Pools {
    pools: BTreeMap<String, Named>,
    /// Ids of what is handed out, which nobody else sees.
    next: AtomicU64,
    /// Kept for those whose backends link to them; gone after the pools.
    _contexts: Vec<ThreadContext>,
}

struct Named {
    pool: Pool,
    /// What could not be handed over, to be given to the next client.
    kept: Mutex<Vec<Backend>>,
}

/// A backend that is to be handed over.
pub(crate) struct Offer {
    pub(crate) backend: Backend,
    pub(crate) was_ready: bool,
}

impl Pools {
    pub(crate) fn new(arguments: &[OsString]) -> Result<Self> {
        let objects = Objects::new(&Host::probe()?, &Defaults::qemu())?;
        let is_context =
            |text: &&OsString| object::kind_of(text).as_deref() == Some(THREAD_CONTEXT);
        let (contexts, pools): (Vec<_>, Vec<_>) = arguments.iter().partition(is_context);
        let contexts = contexts
            .into_iter()
            .map(|text| match object::parse(&objects, text)? {
                ObjectBuilder::ThreadContext(builder) => Ok(builder.complete()?),
                _ => Err("not a thread-context".into()),
            })
            .collect::<Result<Vec<_>>>()?;
        let mut made: BTreeMap<String, Named> = BTreeMap::new();
        for (index, text) in pools.into_iter().enumerate() {
            let (name, count, template) = parse(&objects, text, index)?;
            if made.contains_key(&name) {
                return Err(format!("{name}: two pools have this name; use another").into());
            }
            let pool = Pool::new(template, count)?;
            let kept = Mutex::default();
            made.insert(name, Named { pool, kept });
        }
        Ok(Self {
            pools: made,
            next: AtomicU64::new(0),
            _contexts: contexts,
        })
    }

    fn find(&self, name: &str) -> Result<&Named> {
        self.pools.get(name).ok_or_else(|| {
            let names: Vec<_> = self.pools.keys().map(String::as_str).collect();
            format!("'{name}': no such pool; there are {}", names.join(", ")).into()
        })
    }

    pub(crate) fn take(&self, name: &str) -> Result<Offer> {
        let named = self.find(name)?;
        if let Some(backend) = named.kept().pop() {
            let was_ready = true;
            return Ok(Offer { backend, was_ready });
        }
        let id = format!("taken{}", self.next.fetch_add(1, Ordering::Relaxed));
        let taken = named.pool.take(&id)?;
        Ok(Offer {
            backend: taken.backend,
            was_ready: taken.was_ready,
        })
    }

    /// Keeps what could not be handed over, so that nobody has seen it.
    pub(crate) fn keep(&self, name: &str, backend: Backend) {
        if let Ok(named) = self.find(name) {
            named.kept().push(backend);
        }
    }

    pub(crate) fn statuses(&self) -> BTreeMap<String, PoolStatus> {
        let status = |(name, named): (&String, &Named)| (name.clone(), named.pool.status());
        self.pools.iter().map(status).collect()
    }

    pub(crate) fn to_json(&self) -> Json {
        let describe = |(name, named): (&String, &Named)| {
            let status = named.pool.status();
            let kept = named.kept().len();
            let mut json = json!({
                "pool": name,
                "count": status.count,
                "ready": status.ready as usize + kept,
                "filling": status.filling,
                "bytes": status.bytes,
                "taken": status.taken,
                "made": status.made,
                "failures": status.failures,
            });
            if let Some(error) = status.failure {
                json["failure"] = error.to_string().into();
            }
            if let Some(retry) = status.retry {
                json["retry-milliseconds"] = (retry.as_millis() as u64).into();
            }
            json
        };
        self.pools.iter().map(describe).collect()
    }
}

impl Named {
    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Backend>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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

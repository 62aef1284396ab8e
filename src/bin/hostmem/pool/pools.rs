// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The pools that a server has, by name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::thread;

use hostmem::Defaults;
use hostmem::Host;
use hostmem::ObjectBuilder;
use hostmem::Objects;
use hostmem::Pool;
use hostmem::ThreadContext;
use hostmem::THREAD_CONTEXT;
use serde_json::Value as Json;

use super::stock::Offer;
use super::stock::Status;
use super::stock::Stock;
use super::template::parse;
use crate::object;
use crate::Result;

pub(crate) struct Pools {
    stocks: BTreeMap<String, Arc<Stock>>,
    /// Kept for those whose backends link to them.
    _contexts: Vec<ThreadContext>,
}

impl Pools {
    /// Filling begins.
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
        let mut stocks = BTreeMap::new();
        for (index, text) in pools.into_iter().enumerate() {
            let (name, count, template) = parse(&objects, text, index)?;
            if stocks.contains_key(&name) {
                return Err(format!("{name}: two pools have this name; use another").into());
            }
            let locked = template.get_text("lock")? == "on";
            let pool = Pool::new(template, count)?;
            stocks.insert(
                name.clone(),
                Arc::new(Stock::new(name, pool, count, locked)),
            );
        }
        for stock in stocks.values() {
            let stock = Arc::clone(stock);
            thread::Builder::new()
                .name("stock".into())
                .spawn(move || stock.keep_full())?;
        }
        Ok(Self {
            stocks,
            _contexts: contexts,
        })
    }

    fn find(&self, name: &str) -> Result<&Stock> {
        match self.stocks.get(name) {
            Some(stock) => Ok(stock),
            None => {
                let names: Vec<_> = self.stocks.keys().map(String::as_str).collect();
                Err(format!("'{name}': no such pool; there are {}", names.join(", ")).into())
            }
        }
    }

    /// Hands one over by a function that says whether its descriptor left; otherwise it is kept, so
    /// that nobody has seen it.
    pub(crate) fn hand_over<T>(
        &self,
        name: &str,
        send: impl FnOnce(&Offer) -> (bool, T),
    ) -> Result<T> {
        self.find(name)?.hand_over(send)
    }

    pub(crate) fn statuses(&self) -> BTreeMap<&str, Status> {
        let status = |(name, stock): (_, &Arc<Stock>)| (String::as_str(name), stock.status());
        self.stocks.iter().map(status).collect()
    }

    pub(crate) fn to_json(&self) -> Json {
        let describe = |(name, status): (&str, Status)| {
            let mut json = status.to_json();
            json["pool"] = name.into();
            json
        };
        self.statuses().into_iter().map(describe).collect()
    }
}

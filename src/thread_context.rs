// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Thread-contexts: threads that create preallocation threads.

use std::fmt;

use crate::error::Failed;
use crate::handle::ThreadContextHandle;
use crate::property;
use crate::property::PropertyType;
use crate::Result;
use crate::State;
use crate::Value;

/// A thread-context in state [configuring](State::Configuring), without a thread: set its
/// properties, then [`complete`](ThreadContextBuilder::complete) it. Dropping it frees its id.
#[doc(alias = "hostmem_thread_context")]
pub struct ThreadContextBuilder {
    handle: ThreadContextHandle,
}

impl ThreadContextBuilder {
    pub(crate) fn from_handle(handle: ThreadContextHandle) -> Self {
        Self { handle }
    }

    /// Sets a property: either `cpu-affinity`, a set of CPUs, or `node-affinity`, a set of host
    /// nodes, which stands for their CPUs. Default: the affinity of the thread that calls
    /// [`complete`](ThreadContextBuilder::complete).
    ///
    /// # Errors
    ///
    /// The old value stays: [`UnknownProperty`](crate::ErrorKind::UnknownProperty),
    /// [`Type`](crate::ErrorKind::Type), [`Value`](crate::ErrorKind::Value) (also an empty set),
    /// [`State`](crate::ErrorKind::State) (`thread-id` can only be read).
    #[doc(alias = "hostmem_thread_context_set_text")]
    #[doc(alias = "hostmem_thread_context_set_list")]
    pub fn set(&mut self, property: &str, value: impl Into<Value>) -> Result<()> {
        set(&self.handle, property, &value.into())
    }

    /// The id.
    #[doc(alias = "hostmem_thread_context_get_id")]
    pub fn id(&self) -> &str {
        self.handle.id()
    }

    /// The effective value of a property, in the form of its type; see [`ThreadContext::get`].
    ///
    /// # Errors
    ///
    /// Those of [`ThreadContext::get`].
    pub fn get(&self, property: &str) -> Result<Value> {
        get(&self.handle, property)
    }

    /// Starts the thread and sets its CPU affinity.
    ///
    /// # Errors
    ///
    /// [`Value`](crate::ErrorKind::Value) (both affinities set; a CPU that does not exist or is
    /// outside the cpuset; a node that does not exist), [`NoMemory`](crate::ErrorKind::NoMemory),
    /// [`Io`](crate::ErrorKind::Io) (`sched_setaffinity(2)` fails). No thread exists then, and the
    /// error contains the builder.
    #[doc(alias = "hostmem_thread_context_complete")]
    pub fn complete(self) -> Result<ThreadContext, ThreadContextError> {
        match self.handle.complete() {
            Ok(()) => Ok(ThreadContext {
                handle: self.handle,
            }),
            Err(error) => Err(Failed::new(self, error)),
        }
    }
}

impl fmt::Debug for ThreadContextBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadContextBuilder")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

/// A thread that creates the preallocation threads of the backends whose `prealloc-context` is its
/// id. They inherit its CPU affinity, control groups and scheduling, which its properties set, or
/// another process by `thread-id`.
///
/// It is reference-counted by the backends that link to it: the thread ends when the last reference
/// is dropped.
#[doc(alias = "hostmem_thread_context")]
pub struct ThreadContext {
    handle: ThreadContextHandle,
}

impl ThreadContext {
    /// The id.
    #[doc(alias = "hostmem_thread_context_get_id")]
    pub fn id(&self) -> &str {
        self.handle.id()
    }

    /// The current state: [`Ready`](State::Ready).
    #[doc(alias = "hostmem_thread_context_get_state")]
    pub fn state(&self) -> State {
        State::from_raw(self.handle.state())
    }

    /// Sets a property: `cpu-affinity` or `node-affinity`; each replaces the other. The thread's
    /// affinity changes before the call returns; threads that it has created keep theirs.
    ///
    /// # Errors
    ///
    /// The affinity does not change: [`UnknownProperty`](crate::ErrorKind::UnknownProperty),
    /// [`Type`](crate::ErrorKind::Type), [`Value`](crate::ErrorKind::Value) (empty; a CPU that does
    /// not exist or is outside the cpuset; a node that does not exist),
    /// [`State`](crate::ErrorKind::State) (`thread-id` can only be read),
    /// [`Io`](crate::ErrorKind::Io).
    #[doc(alias = "hostmem_thread_context_set_text")]
    #[doc(alias = "hostmem_thread_context_set_list")]
    pub fn set(&self, property: &str, value: impl Into<Value>) -> Result<()> {
        set(&self.handle, property, &value.into())
    }

    /// The effective value of a property, in the form of its type. `cpu-affinity` is the thread's
    /// affinity in the kernel.
    ///
    /// # Errors
    ///
    /// [`UnknownProperty`](crate::ErrorKind::UnknownProperty), [`State`](crate::ErrorKind::State)
    /// (`node-affinity` can only be set).
    #[doc(alias = "hostmem_thread_context_get_text")]
    #[doc(alias = "hostmem_thread_context_get_number")]
    #[doc(alias = "hostmem_thread_context_get_list")]
    pub fn get(&self, property: &str) -> Result<Value> {
        get(&self.handle, property)
    }

    /// Whether [`delete`](ThreadContext::delete) would succeed now.
    ///
    /// # Errors
    ///
    /// The error that `delete` would return.
    #[doc(alias = "hostmem_thread_context_can_be_deleted")]
    pub fn can_be_deleted(&self) -> Result<()> {
        self.handle.can_be_deleted()
    }

    /// Ends the thread and frees the id.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) (a backend links to it; the message says which). The error
    /// contains the thread-context.
    #[doc(alias = "hostmem_thread_context_delete")]
    pub fn delete(self) -> Result<(), ThreadContextDeleteError> {
        let deleted = self.handle.delete();
        deleted.map_err(|error| Failed::new(self, error))
    }
}

impl fmt::Debug for ThreadContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadContext")
            .field("id", &self.id())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

fn set(handle: &ThreadContextHandle, property: &str, value: &Value) -> Result<()> {
    match value {
        Value::List(values) => handle.set_list(property, values),
        Value::Text(text) => handle.set_text(property, text),
        Value::Bool(on) => handle.set_text(property, if *on { "on" } else { "off" }),
        Value::Number(number) => handle.set_text(property, &number.to_string()),
        Value::Path(path) => handle.set_text(property, &path.to_string_lossy()),
    }
}

fn get(handle: &ThreadContextHandle, property: &str) -> Result<Value> {
    match property::find(property).map(|property| property.value_type()) {
        Some(PropertyType::Cpus) => handle.get_list(property).map(Value::List),
        Some(PropertyType::Uint32) => match handle.get_number(property)? {
            u64::MAX => handle.get_text(property).map(Value::Text),
            number => Ok(Value::Number(number)),
        },
        _ => handle.get_text(property).map(Value::Text),
    }
}

/// Why a thread-context could not be completed, and its unchanged builder.
pub type ThreadContextError = Failed<ThreadContextBuilder>;

/// Why a thread-context could not be deleted, and the unchanged thread-context.
pub type ThreadContextDeleteError = Failed<ThreadContext>;

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use crate::Defaults;
    use crate::ErrorKind;
    use crate::Host;
    use crate::Objects;

    /// C callers can delete one from two threads; Rust's types prevent that.
    #[test]
    fn only_one_of_two_deletes_it() {
        let set = Objects::new(&Host::probe().unwrap(), &Defaults::default()).unwrap();
        for _ in 0..200 {
            let context = set.thread_context("tc0").unwrap().complete().unwrap();
            let start = Barrier::new(2);
            let delete = || {
                start.wait();
                context.handle.delete()
            };
            let results = thread::scope(|scope| {
                let other = scope.spawn(delete);
                [delete(), other.join().unwrap()]
            });
            let errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert_eq!(errors[0].kind(), ErrorKind::State, "{}", errors[0]);
        }
    }
}

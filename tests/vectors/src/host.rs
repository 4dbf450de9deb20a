//! The core itself as a host would run it, over one of two stores.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use tollgate_shared::answer;
use tollgate_shared::config::Name;
use tollgate_shared::exchange::{Decision, Step as Next, begin};
use tollgate_shared::local::Local;
use tollgate_shared::policy::Policy;
use tollgate_shared::redis::rest::Outcomes;
use tollgate_shared::store::memory::HeapShards;
use tollgate_shared::store::{Memory, Op, StoreError};
use tollgate_shared::time::Timestamp;

use crate::adapter::{Adapter, Answer};
use crate::format::{Step, Vector};

/// A store that performs operations.
pub trait Store {
    /// Performs one call's operations at a time; every outcome is an error if the store is `down`.
    fn perform(&mut self, ops: &[Op], down: bool, now: Timestamp) -> impl Future<Output = Outcomes>;
}

/// The core over a store: one host for each vector.
#[derive(Debug)]
pub struct CoreAdapter<S> {
    hosts: Vec<Host>,
    store: S,
}

#[derive(Debug)]
struct Host {
    policy: Arc<Policy>,
    local: Local<HeapShards>,
    without_store: bool,
}

impl<S: Store> CoreAdapter<S> {
    /// Over the store that all hosts share.
    pub fn new(vectors: &[Vector], store: S) -> Result<Self> {
        let hosts = vectors.iter().enumerate().map(|(number, vector)| host(number, vector));
        Ok(CoreAdapter { hosts: hosts.collect::<Result<_>>()?, store })
    }
}

impl CoreAdapter<MemoryStore> {
    /// Over a memory that plays the store.
    pub fn in_memory(vectors: &[Vector]) -> Result<Self> {
        CoreAdapter::new(vectors, MemoryStore(Memory::new(HeapShards::default(), HeapShards::COUNT)))
    }
}

impl<S: Store> Adapter for CoreAdapter<S> {
    async fn ask(&mut self, vector: usize, step: &Step) -> Result<Answer> {
        let Host { policy, local, without_store } = &mut self.hosts[vector];
        let now = step.at;
        let mut decision = match begin(policy, local, &step.ask, now) {
            Next::Decide(decision) => decision,
            Next::Call(call) => {
                let outcomes = self.store.perform(call.batch(), step.store_down, now).await;
                if outcomes.iter().all(Result::is_err) {
                    local.store_failed(now);
                } else {
                    local.store_answered();
                }
                match call.resume(local, outcomes, now) {
                    Next::Decide(decision) => decision,
                    Next::Call(_) => {
                        return Err(anyhow!("rate limits need one call, and a second was asked for"));
                    }
                }
            }
        };
        let answer = match &decision {
            Decision::Allow(report) => answer::Answer {
                status: 200,
                headers: answer::fields(policy, report, now),
                body: "ok".to_owned(),
            },
            Decision::Deny(denial) => answer::denial(policy, denial, now),
        };
        let settled = decision.settle();
        if *without_store {
            settled.iter().for_each(|op| drop(local.memory().perform(op, now)));
        } else if !settled.is_empty() {
            self.store.perform(&settled, step.store_down, now).await;
        }
        let headers =
            answer.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Answer { status: answer.status, headers, body: answer.body })
    }
}

/// The embedded memory in the place of a store.
#[derive(Debug)]
pub struct MemoryStore(Memory<HeapShards>);

impl Store for MemoryStore {
    async fn perform(&mut self, ops: &[Op], down: bool, now: Timestamp) -> Outcomes {
        let perform = |op| if down { Err(StoreError::Unreachable) } else { self.0.perform(op, now) };
        ops.iter().map(perform).collect()
    }
}

fn host(number: usize, vector: &Vector) -> Result<Host> {
    let policy = Policy::from_json(vector.policy.to_string().as_bytes()).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        anyhow!("{}: the policy is wrong: {}", vector.place(), lines.join("; "))
    })?;
    let prefix = Name::parse(&key_prefix(number)).context("a key prefix is a name")?;
    let policy = policy.with_key_prefix(&prefix);
    let memory = Memory::new(HeapShards::default(), HeapShards::COUNT);
    let denials = usize::try_from(vector.denial_cache)?;
    let local = if vector.without_store {
        Local::without_store(memory, denials)
    } else {
        Local::with_store(memory, denials, vector.replicas)
    };
    Ok(Host { policy: Arc::new(policy), local, without_store: vector.without_store })
}

/// What the keys of a vector begin with, so that no two vectors share a counter.
pub fn key_prefix(number: usize) -> String {
    format!("v{number}")
}

//! The core itself as a host would run it, over one of two stores.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use tollgate_shared::answer;
use tollgate_shared::config::{self, Name};
use tollgate_shared::exchange::{Admission, Before, Completion, Decision, Step as Next, begin};
use tollgate_shared::id::Id;
use tollgate_shared::local::Local;
use tollgate_shared::policy::{Policy, Surroundings};
use tollgate_shared::redis::rest::Outcomes;
use tollgate_shared::store::memory::HeapShards;
use tollgate_shared::store::{Memory, Op, StoreError};
use tollgate_shared::time::Timestamp;

use crate::adapter::{Adapter, Answer};
use crate::format::{Step, Vector};
use crate::request::UpstreamReply;

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
    /// Of requests that the upstream does not answer.
    hanging: Vec<Completion>,
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
        let (host, mut step) = (&mut self.hosts[vector], step.clone());
        let policy = Arc::clone(&host.policy);
        let mut next = begin(&policy, &mut host.local, &step.ask, step.at);
        let mut decision = loop {
            next = match next {
                Next::Decide(decision) => break decision,
                Next::Call(call) => {
                    let outcomes = perform(&mut self.store, host, call.batch(), &step).await;
                    call.resume(&mut host.local, outcomes, step.at)
                }
                Next::Later(later) => {
                    step.at = step.at.plus(later.after());
                    later.resume(&mut host.local, step.at)
                }
                Next::Verify(_) | Next::FetchKeys => {
                    return Err(anyhow!("the core verifies, and has its keys"));
                }
            };
        };
        let (step, now) = (&step, step.at);
        let settled = decision.settle();
        settle(&mut self.store, host, &settled, step).await;
        match &mut decision {
            Decision::Deny(denial) => Ok(ours(&answer::denial(&policy, denial, now))),
            Decision::Allow(admission) => {
                let fields = answer::fields(&policy, admission.report(), now);
                let completion = admission.completion();
                let seen = seen(step, admission);
                let UpstreamReply::Answers { status, headers, body } = &step.ask.upstream else {
                    host.hanging.extend(completion);
                    let (headers, body) = (Vec::new(), String::new());
                    return Ok(Answer { status: 0, passed: true, headers, body, seen });
                };
                if let Some(completion) = completion
                    && !complete(&mut self.store, host, completion, step).await
                {
                    return Ok(ours(&answer::not_revoked()));
                }
                let body = body.clone().unwrap_or_default().into();
                let mut answer = ours(&answer::Answer { status: *status, headers: fields, body });
                answer.headers.extend(headers.iter().cloned());
                Ok(Answer { passed: true, seen, ..answer })
            }
        }
    }
}

/// Has the store perform operations, as a host that notes how it is.
async fn perform(store: &mut impl Store, host: &mut Host, ops: &[Op], step: &Step) -> Outcomes {
    let outcomes = store.perform(ops, step.store_down, step.at).await;
    if outcomes.iter().all(Result::is_err) {
        host.local.store_failed(step.at);
    } else {
        host.local.store_answered();
    }
    outcomes
}

/// Tells the store what nobody waits for.
async fn settle(store: &mut impl Store, host: &mut Host, ops: &[Op], step: &Step) {
    if host.without_store {
        ops.iter().for_each(|op| drop(host.local.memory().perform(op, step.at)));
    } else if !ops.is_empty() && !host.local.store_is_open() {
        store.perform(ops, step.store_down, step.at).await;
    }
}

/// Does what is left to do with an answer: whether it may go.
async fn complete(store: &mut impl Store, host: &mut Host, mut completion: Completion, step: &Step) -> bool {
    let UpstreamReply::Answers { status, headers, body } = &step.ask.upstream else { return true };
    let status = *status;
    let passes = match completion.before_answer(&mut host.local, status, step.at) {
        Before::Pass => true,
        Before::Fail => false,
        Before::Ask(revoking) => {
            let outcomes = perform(store, host, revoking.as_ref(), step).await;
            revoking.resume(&mut host.local, outcomes, step.at)
        }
    };
    let ops = completion.responded(&mut host.local, status, step.at);
    settle(store, host, &ops, step).await;
    if completion.records() {
        headers.iter().for_each(|(name, value)| completion.record_field(name, value.as_bytes()));
        completion.record_body(body.as_deref().unwrap_or_default().as_bytes());
        completion.record_end();
    }
    let ops = completion.ended(&mut host.local, step.at);
    settle(store, host, &ops, step).await;
    passes
}

/// An answer that is not the upstream's.
fn ours(answer: &answer::Answer) -> Answer {
    let headers = answer.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    Answer { status: answer.status, passed: false, headers, body, seen: Vec::new() }
}

/// What the upstream gets.
fn seen(step: &Step, admission: &Admission) -> Vec<(String, String)> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let sent = step.ask.headers.iter().map(|(name, value)| (name.clone(), text(value)));
    let mut seen: Vec<_> =
        sent.filter(|(name, _)| admission.onward().all(|(ours, _)| ours != name)).collect();
    seen.extend(admission.onward().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))));
    seen
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
    let variables = |name: &str| vector.variables.get(name).cloned();
    let surroundings = Surroundings { variables: &variables, in_front: None, fetches: false };
    let policy =
        Policy::from_json_in(&surroundings, "", vector.policy.to_string().as_bytes()).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            anyhow!("{}: the policy is wrong: {}", vector.place(), lines.join("; "))
        })?;
    let prefix = Name::parse(&key_prefix(number)).context("a key prefix is a name")?;
    let policy = policy.with_key_prefix(&prefix);
    let memory = Memory::new(HeapShards::default(), HeapShards::COUNT);
    let remembered = config::store::remembered(Some(vector.denial_cache), vector.denial_cache_max_age);
    // Vectors share a store, but no keys.
    let id = Id::from_bytes([1; 16]);
    let local = if vector.without_store {
        Local::without_store(memory, remembered, id)
    } else {
        Local::with_store(memory, remembered, vector.replicas, id)
    };
    let (policy, without_store) = (Arc::new(policy), vector.without_store);
    Ok(Host { policy, local, without_store, hanging: Vec::new() })
}

/// What the keys of a vector begin with, so that no two vectors share a counter.
pub fn key_prefix(number: usize) -> String {
    format!("v{number}")
}

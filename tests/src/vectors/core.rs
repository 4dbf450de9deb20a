//! The core itself as a host would run it, over one of two stores.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use tollgate_shared::answer;
use tollgate_shared::config::Name;
use tollgate_shared::exchange::{Decision, Step as Next, begin};
use tollgate_shared::local::Local;
use tollgate_shared::policy::Policy;
use tollgate_shared::redis::rest::{Outcomes, Progress};
use tollgate_shared::redis::{Clock, Pipeline};
use tollgate_shared::store::memory::HeapShards;
use tollgate_shared::store::{Memory, Op, StoreError};
use tollgate_shared::time::Timestamp;

use super::adapter::{Adapter, Answer};
use super::format::{Step, Vector};
use super::forwarder::Forwarder;
use crate::gateway::Gateway;
use crate::redis::Redis;
use crate::{client, ports, run_dir};

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

impl CoreAdapter<MemoryStore> {
    /// Over a memory that plays the store.
    pub fn in_memory(vectors: &[Vector]) -> Result<Self> {
        let store = MemoryStore(Memory::new(HeapShards::default(), HeapShards::COUNT));
        Ok(CoreAdapter { hosts: hosts(vectors)?, store })
    }
}

impl CoreAdapter<GatewayStore> {
    /// Over a Redis of its own behind the gateway.
    pub async fn on_redis(vectors: &[Vector]) -> Result<Self> {
        Ok(CoreAdapter { hosts: hosts(vectors)?, store: GatewayStore::start().await? })
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

/// A real Redis behind the real gateway, and a road there that can be closed.
#[derive(Debug)]
pub struct GatewayStore {
    road: Forwarder,
    _gateway: Gateway,
    _redis: Redis,
}

impl GatewayStore {
    pub(super) async fn start() -> Result<GatewayStore> {
        let dir = run_dir::create()?;
        let redis = Redis::start(&dir, ports::free()?).await?;
        let gateway = Gateway::start(&dir, ports::free()?, &redis.url(), TOKEN).await?;
        let road = Forwarder::start(gateway.address()).await?;
        Ok(GatewayStore { road, _gateway: gateway, _redis: redis })
    }

    /// Where the road to the gateway begins.
    pub(super) fn address(&self) -> SocketAddr {
        self.road.address()
    }

    pub(super) fn set_open(&self, open: bool) {
        self.road.set_open(open);
    }
}

impl Store for GatewayStore {
    async fn perform(&mut self, ops: &[Op], down: bool, now: Timestamp) -> Outcomes {
        self.set_open(!down);
        let mut pipeline = Pipeline::new(vec![ops]);
        loop {
            let body = pipeline.body(Clock::Host(now));
            let progress = match post(self.address(), body).await {
                Ok((status, body)) => pipeline.receive(status, &body),
                Err(_) => pipeline.fail(&StoreError::Unreachable),
            };
            if progress == Progress::Done {
                return pipeline.finish().flat_map(|(_, outcomes)| outcomes).collect();
            }
        }
    }
}

async fn post(address: SocketAddr, body: String) -> Result<(u16, Bytes)> {
    let request = Request::post("/pipeline")
        .header("host", "tollgate")
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", "application/json")
        .body(Full::from(body))?;
    let answer = client::send(address, request).await?;
    Ok((answer.status.as_u16(), answer.body))
}

fn hosts(vectors: &[Vector]) -> Result<Vec<Host>> {
    vectors.iter().enumerate().map(|(number, vector)| host(number, vector)).collect()
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
pub(super) fn key_prefix(number: usize) -> String {
    format!("v{number}")
}

/// What the gateway accepts as bearer token.
pub(super) const TOKEN: &str = "vectors";

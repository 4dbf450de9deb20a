//! Makes as many decisions as its argument says, for counting their instructions:
//! `valgrind --tool=callgrind target/release/examples/decisions memory 2000`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a tool of developers")]

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use tollgate_shared::answer;
use tollgate_shared::config::store::Remembered;
use tollgate_shared::exchange::{Call, Decision, Step, begin};
use tollgate_shared::id::Id;
use tollgate_shared::local::Local;
use tollgate_shared::policy::Policy;
use tollgate_shared::redis::{Clock, Pipeline};
use tollgate_shared::request::Request;
use tollgate_shared::store::Memory;
use tollgate_shared::store::memory::HeapShards;
use tollgate_shared::time::Timestamp;

/// A request of one of a thousand clients, to the last of the policy's routes.
pub(crate) struct Sample {
    /// Which client.
    pub(crate) client: u32,
    /// Which path.
    pub(crate) path: String,
}

impl Request for Sample {
    fn method(&self, read: &mut dyn FnMut(&[u8])) {
        read(b"GET");
    }

    fn target(&self, read: &mut dyn FnMut(&[u8])) {
        read(self.path.as_bytes());
    }

    fn authority(&self, read: &mut dyn FnMut(&[u8])) {
        read(b"api.example.com:443");
    }

    fn header(&self, _name: &str, _read: &mut dyn FnMut(&[u8])) {}

    fn peer(&self) -> Option<IpAddr> {
        Some(IpAddr::V4((0x0a00_0000 | (self.client % 1000)).into()))
    }
}

/// A policy of so many routes, each with one limit.
pub(crate) fn policy(routes: usize) -> Arc<Policy> {
    let route = |n: usize| {
        format!(
            r#"{{"name":"r{n}","match":{{"methods":["GET"],"path":"/service-{n}/*/items"}},"rate_limits":[{{"name":"l{n}",
            "algorithm":"gcra","quota":1000000,"window":"60s","key":["client_ip"]}}]}}"#
        )
    };
    let routes: Vec<String> = (0..routes).map(route).collect();
    Arc::new(Policy::from_json(format!(r#"{{"routes":[{}]}}"#, routes.join(",")).as_bytes()).unwrap())
}

/// A request for the last route of such a policy.
pub(crate) fn sample(routes: usize, client: u32) -> Sample {
    Sample { client, path: format!("/service-{}/42/items?page=1", routes - 1) }
}

/// What a host remembers, with a store or without.
pub(crate) fn local(store: bool) -> Local<HeapShards> {
    let memory = Memory::new(HeapShards::default(), HeapShards::COUNT);
    let id = Id::from_bytes([1; 16]);
    if store {
        Local::with_store(memory, Remembered::at_most(4096), 1, id)
    } else {
        Local::without_store(memory, Remembered::at_most(4096), id)
    }
}

/// One decision from memory, answer fields included.
pub(crate) fn decide_from_memory(
    policy: &Arc<Policy>,
    local: &mut Local<HeapShards>,
    request: &Sample,
    now: Timestamp,
) {
    let Step::Decide(Decision::Allow(admission)) = begin(policy, local, request, now) else { return };
    black_box(answer::fields(policy, admission.report(), now));
}

/// `size` decisions that share a call to a store which admits everything.
pub(crate) fn decide_from_store(
    policy: &Arc<Policy>,
    local: &mut Local<HeapShards>,
    requests: &[Sample],
    now: Timestamp,
) {
    let calls: Vec<Call> = requests
        .iter()
        .filter_map(|request| match begin(policy, local, request, now) {
            Step::Call(call) => Some(call),
            _ => None,
        })
        .collect();
    let mut pipeline = Pipeline::new(calls);
    black_box(pipeline.body(Clock::Store));
    let reply = format!("[{}]", vec![r#"{"result":[1800000000000,999998,60,0]}"#; requests.len()].join(","));
    pipeline.receive(200, reply.as_bytes());
    for (call, outcomes) in pipeline.finish() {
        let Step::Decide(Decision::Allow(admission)) = call.resume(local, outcomes, now) else { continue };
        black_box(answer::fields(policy, admission.report(), now));
    }
}

#[allow(dead_code, reason = "the benchmarks include this file for what is above")]
fn main() {
    let mut arguments = std::env::args().skip(1);
    let from = arguments.next().unwrap_or_default();
    let count: u32 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let policy = policy(100);
    let mut local = local(from == "store");
    let requests: Vec<Sample> = (0..32).map(|client| sample(100, client)).collect();
    for turn in 0..count / 32 {
        let now = Timestamp::from_millis(1_800_000_000_000 + u64::from(turn));
        if from == "store" {
            decide_from_store(&policy, &mut local, &requests, now);
        } else {
            requests.iter().for_each(|request| decide_from_memory(&policy, &mut local, request, now));
        }
    }
}

//! Nothing that comes from outside makes the core panic: policies, requests, stored bytes, answers of a store.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

mod support;

use std::net::IpAddr;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use support::{World, breaker, check, guards, id, quota};
use tollgate_shared::answer;
use tollgate_shared::config::store::Remembered;
use tollgate_shared::exchange::{Decision, Step, begin};
use tollgate_shared::id::Id;
use tollgate_shared::key::Key;
use tollgate_shared::local::Local;
use tollgate_shared::policy::Policy;
use tollgate_shared::rate_limit::Check;
use tollgate_shared::redis::Pipeline;
use tollgate_shared::request::Request;
use tollgate_shared::store::memory::{HeapShards, Memory};
use tollgate_shared::store::shard::Shard;
use tollgate_shared::store::{Op, Outcome, StoreError};
use tollgate_shared::time::Timestamp;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_bytes_are_a_shard(
        bytes in vec(any::<u8>(), 0..300), quotas in vec((quota(), 1..100_u64), 1..5), now in any::<u64>(),
    ) {
        use_shard(&bytes, &quotas, now);
    }

    /// What a shard may hold after a newer or broken version wrote to it.
    #[test]
    fn damaged_bytes_are_a_shard(
        charges in vec((quota(), 1..100_u64), 1..5), damages in vec((any::<Index>(), any::<u8>()), 1..20), now in any::<u64>(),
    ) {
        let mut world = World::new();
        for (number, (quota, cost)) in charges.iter().enumerate() {
            world.ask_one(&check(*quota, number, *cost), now);
        }
        let mut bytes = world.bytes();
        for (at, byte) in damages.iter().filter(|_| !charges.is_empty()) {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
        }
        use_shard(&bytes, &charges, now);
    }

    /// The same for what is no counter, written by any guard and read by any other.
    #[test]
    fn damaged_records_are_those_of_any_guard(
        breaker in breaker(), written in vec((any::<Index>(), any::<u64>()), 1..12),
        damages in vec((any::<Index>(), any::<u8>()), 0..8), now in prop_oneof![any::<u64>(), 1..1_u64 << 50],
    ) {
        let (mut world, key) = (World::new(), Key::from_stored("tg:{t}:any"));
        for (which, number) in written {
            let ops = guards(&key, breaker, [id(1), id(2)], number);
            world.perform(which.get(&ops), now.saturating_add(number % 1000));
        }
        let mut bytes = world.bytes();
        for (at, byte) in damages {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        for (number, other) in [(0, 1), (now, 2), (u64::MAX, 3)] {
            for op in guards(&key, breaker, [id(other), id(1)], number) {
                let mut world = World::of(Shard::from_bytes(bytes.clone()));
                for now in [now, now.saturating_add(1000), now / 2, 0, u64::MAX] {
                    world.perform(&op, now);
                }
                let written = Shard::from_bytes(world.bytes());
                prop_assert_eq!(written.as_bytes(), world.bytes());
            }
        }
    }

    #[test]
    fn any_answer_is_received(
        status in any::<u16>(), bodies in vec(body(), 2), breaker in breaker(), members in vec(vec(any::<Index>(), 1..4), 1..4),
    ) {
        let mut ops = guards(&Key::from_stored("tg:{t}:any"), breaker, [id(1), id(2)], 7);
        ops.extend((0..4).map(|n| Op::RateLimit(vec![some_check(n)])));
        let members: Vec<Vec<Op>> =
            members.iter().map(|which| which.iter().map(|which| which.get(&ops).clone()).collect()).collect();
        let lengths: Vec<usize> = members.iter().map(Vec::len).collect();
        let mut pipeline = Pipeline::new(members);
        pipeline.receive(200, &bodies[0]);
        pipeline.receive(status, &bodies[1]);
        let received: Vec<usize> = pipeline.finish().map(|(_, outcomes)| outcomes.len()).collect();
        prop_assert_eq!(received, lengths);
    }

    #[test]
    fn any_bytes_are_a_policy_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Policy::from_json(&bytes);
    }

    /// A policy with some of its characters replaced by others that mean something in JSON.
    #[test]
    fn a_damaged_policy_is_a_policy_or_an_error(
        damages in vec((any::<Index>(), select(b"\"{}[]:,0123456789eE.-*/\\ nulltruefs".as_slice())), 1..8),
    ) {
        let mut json = POLICY.as_bytes().to_vec();
        for (at, byte) in damages {
            let at = at.index(json.len());
            json[at] = byte;
        }
        if let Err(errors) = Policy::from_json(&json) {
            prop_assert!(!errors.is_empty());
            prop_assert!(errors.iter().all(|error| !error.found.is_empty() && !error.expected.is_empty()), "{:?}", errors);
        }
    }

    #[test]
    fn any_request_is_decided(requests in vec(hostile(), 1..10), now in any::<u64>(), store in store()) {
        let policy = Arc::new(Policy::from_json(POLICY.as_bytes()).unwrap());
        let memory = Memory::new(HeapShards::default(), 4);
        let mut local = match store {
            None => Local::without_store(memory, Remembered::at_most(10), Id::default()),
            Some(_) => Local::with_store(memory, Remembered::at_most(10), 3, Id::default()),
        };
        for (number, request) in requests.iter().enumerate() {
            let now = Timestamp::from_millis(now).plus(number as u64);
            let mut step = begin(&policy, &mut local, request, now);
            let mut calls = 0;
            let mut decision = loop {
                match step {
                    Step::Decide(decision) => break decision,
                    Step::Verify(_) | Step::FetchKeys | Step::Later(_) => panic!("there are limits only"),
                    Step::Call(call) => {
                        let outcomes = match &store {
                            Some(outcome) => call.batch().iter().map(|_| outcome.clone()).collect(),
                            None => Vec::new(),
                        };
                        step = call.resume(&mut local, outcomes, now);
                        calls += 1;
                        prop_assert!(calls <= 2, "two calls are all it takes");
                    }
                }
            };
            let fields = answer::fields(&policy, decision.report(), now);
            let printable = |text: &str| text.bytes().all(|b| (b' '..=b'~').contains(&b));
            prop_assert!(fields.iter().all(|(name, value)| printable(name) && printable(value)), "{:?}", fields);
            if let Decision::Deny(denial) = &decision {
                let answer = answer::denial(&policy, denial, now);
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&answer.body).is_ok(), "{:?}", answer.body);
            }
            decision.settle();
        }
    }
}

fn use_shard(bytes: &[u8], quotas: &[(tollgate_shared::rate_limit::Quota, u64)], now: u64) {
    let mut world = World::of(Shard::from_bytes(bytes.to_vec()));
    for now in [now, now.saturating_add(1000), now / 2, u64::MAX] {
        let checks: Vec<Check> =
            quotas.iter().enumerate().map(|(number, (quota, cost))| check(*quota, number, *cost)).collect();
        world.ask(&checks, now);
        for at in [0, now.saturating_sub(1), now, u64::MAX] {
            world.refund(&checks, at, now);
        }
    }
}

fn some_check(n: usize) -> Check {
    use tollgate_shared::rate_limit::{Algorithm, Quota};
    use tollgate_shared::time::Span;
    check(Quota::new(Algorithm::Gcra, 10, Span::from_millis(1000).unwrap(), 5).unwrap(), n, 1)
}

/// Something like an answer: often an array of objects, often of the wrong ones.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let reply = select(
        [
            r#"{"result":[1,2,0]}"#,
            r#"{"result":[1,2,-1]}"#,
            r#"{"result":[-1,-2,-3]}"#,
            r#"{"result":[1]}"#,
            r#"{"result":[]}"#,
            r#"{"result":[0,7]}"#,
            r#"{"result":[1,7]}"#,
            r#"{"result":[2,1,0,7]}"#,
            r#"{"result":[2,-1,0,7]}"#,
            r#"{"result":[3,-7]}"#,
            r#"{"result":[0]}"#,
            r#"{"result":"OK"}"#,
            r#"{"result":"7 8"}"#,
            r#"{"result":"-7 8"}"#,
            r#"{"result":"AAEC"}"#,
            r#"{"result":"AA\/+"}"#,
            r#"{"result":"AAE"}"#,
            r#"{"result":7}"#,
            r#"{"result":null}"#,
            r#"{"result":[1,2,99999999999999999999]}"#,
            r#"{"error":"NOSCRIPT No matching script."}"#,
            r#"{"error":"ERR \u0000 \ud83d\ude00"}"#,
            r#"{"error":"ERR","result":[1,2,0]}"#,
            r"{}",
            "7",
        ]
        .as_slice(),
    );
    let array = vec(reply, 0..8).prop_map(|replies| format!("[{}]", replies.join(",")).into_bytes());
    prop_oneof![4 => array, 1 => vec(any::<u8>(), 0..100)]
}

/// A host that breaks every rule of [`Request`]: values of any bytes, given never or several times.
#[derive(Clone, Debug)]
struct Hostile {
    methods: Vec<Vec<u8>>,
    targets: Vec<Vec<u8>>,
    authorities: Vec<Vec<u8>>,
    lines: Vec<Vec<u8>>,
    peer: Option<IpAddr>,
}

fn hostile() -> impl Strategy<Value = Hostile> {
    let text = vec(select(PIECES), 0..8).prop_map(|pieces| pieces.concat().into_bytes());
    let bytes = prop_oneof![3 => text, 1 => vec(any::<u8>(), 0..60)].boxed();
    let values = || vec(bytes.clone(), 0..3);
    let method = prop_oneof![
        select(["GET", "HEAD", "POST"].as_slice()).prop_map(|m| m.as_bytes().to_vec()),
        bytes.clone()
    ];
    (vec(method, 0..3), values(), values(), values(), any::<Option<IpAddr>>()).prop_map(
        |(methods, targets, authorities, lines, peer)| Hostile { methods, targets, authorities, lines, peer },
    )
}

impl Request for Hostile {
    fn method(&self, read: &mut dyn FnMut(&[u8])) {
        self.methods.iter().for_each(|value| read(value));
    }

    fn target(&self, read: &mut dyn FnMut(&[u8])) {
        self.targets.iter().for_each(|value| read(value));
    }

    fn authority(&self, read: &mut dyn FnMut(&[u8])) {
        self.authorities.iter().for_each(|value| read(value));
    }

    fn header(&self, _: &str, read: &mut dyn FnMut(&[u8])) {
        self.lines.iter().for_each(|value| read(value));
    }

    fn peer(&self) -> Option<IpAddr> {
        self.peer
    }
}

/// What paths, hosts and header fields are made of.
const PIECES: &[&str] = &[
    "/",
    "//",
    "/api",
    "/api/x",
    "..",
    "%2e",
    "%2F",
    "%",
    "\\",
    ";",
    "?",
    "q=1&q=2",
    "#",
    "http://",
    "a",
    "*",
    "[::1]:80",
    "api.example.com",
    ":",
    ",",
    "1.2.3.4",
    "::ffff:1.2.3.4",
    "s=1; s=2",
    "99999999999999999999999",
    "0",
    "7",
    " ",
    "\"",
];

/// No store, and what one may come back with.
fn store() -> impl Strategy<Value = Option<Result<Outcome, StoreError>>> {
    prop_oneof![
        Just(None),
        Just(Some(Err(StoreError::Timeout))),
        Just(Some(Ok(Outcome::Refunded))),
        Just(Some(Ok(Outcome::RateLimit { at: Timestamp::from_millis(0), standings: Vec::new() }))),
    ]
}

const POLICY: &str = r#"{
  "client_ip": { "from": "x-forwarded-for", "trusted_hops": 2, "ipv6_prefix": 56 },
  "path_case": "insensitive",
  "headers": { "ietf": "always", "x_ratelimit": "always" },
  "routes": [
    { "name": "host", "match": { "hosts": ["api.example.com", "*.example.com"], "headers": { "x-a": "a", "x-b": true } },
      "rate_limits": [
        { "name": "path", "algorithm": "gcra", "quota": 5, "window": "60s", "burst": 2, "key": ["path", "method", "route"] } ] },
    { "name": "api", "match": { "methods": ["GET", "POST"], "path": "/api/*" },
      "rate_limits": [
        { "name": "all", "algorithm": "fixed_window", "quota": 100, "window": "1m", "key": ["client_ip", "header:x-key"],
          "cost": { "header": "x-cost", "max": 50 }, "on_store_error": "allow" },
        { "name": "log", "algorithm": "sliding_window_log", "quota": 3, "window": "1s", "key": ["cookie:s", "query:q"],
          "on_store_error": "deny", "shadow": true, "tag": "t" },
        { "name": "counter", "algorithm": "sliding_window_counter", "quota": 9, "window": "1d", "key": ["const:x"], "tag": "t" } ] }
  ],
  "default": { "rate_limits": [
    { "name": "rest", "algorithm": "gcra", "quota": 1000, "window": "1h", "key": ["client_ip"], "cost": 7 } ] }
}"#;

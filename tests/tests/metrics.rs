//! What operators see: the metrics that the README names, with the numbers that known traffic makes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    reason = "test code: a panic is a failed test"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Value, json};
use tollgate_tests::load::Load;
use tollgate_tests::metrics::Metrics;
use tollgate_tests::stack::{Stack, StackOptions, StoreChoice};
use tollgate_tests::upstream::{Reply, Upstream};
use tollgate_tests::{client, envoy, ports};

use support::{assert_unharmed, eventually, limit, load_of, metric, request, routes, with};

/// Five may pass, and the wide limit beside it always has room. In shadow mode two may pass and everybody does.
#[tokio::test]
async fn decisions_are_counted_by_limit() {
    let stack = start().await;
    send(&stack, "/limited", 8, [5, 3]).await;
    send(&stack, "/shadow", 6, [6, 0]).await;
    send(&stack, "/free", 2, [2, 0]).await;
    assert_metrics(
        &stack,
        &[
            ("tollgate_requests_allowed_total", &[], 13.0),
            ("tollgate_requests_denied_total", &[], 3.0),
            ("tollgate_requests_abandoned_total", &[], 0.0),
            ("rate_limit_allowed_total", &[("limit", "per-client")], 5.0),
            ("rate_limit_exceeded_total", &[("limit", "per-client")], 3.0),
            ("rate_limit_shadow_exceeded_total", &[("limit", "per-client")], 0.0),
            // Once it had room for what the other limit refused; then the denial was remembered.
            ("rate_limit_allowed_total", &[("limit", "wide.with.dots")], 6.0),
            ("rate_limit_exceeded_total", &[("limit", "wide.with.dots")], 0.0),
            ("rate_limit_denial_cache_hits_total", &[], 2.0),
            ("rate_limit_allowed_total", &[("limit", "shadow")], 2.0),
            ("rate_limit_exceeded_total", &[("limit", "shadow")], 0.0),
            ("rate_limit_shadow_exceeded_total", &[("limit", "shadow")], 4.0),
            ("rate_limit_degraded_total", &[], 0.0),
        ],
    )
    .await;
    assert_unharmed(&stack);
}

#[tokio::test]
async fn calls_to_the_store_are_counted_and_timed() {
    let stack = start().await;
    send(&stack, "/limited", 8, [5, 3]).await;
    // Six requests asked, and the first of them twice, because Redis did not know the script.
    let calls = 7.0;
    // Envoy's own histograms follow a little later than its counters.
    let batches = async || metric(&stack, "redis_batch_size_count", &[]).await;
    eventually("batches are counted", batches, |batches| *batches == calls).await;
    let metrics = assert_metrics(
        &stack,
        &[
            ("redis_calls_total", &[], calls),
            ("redis_connection_errors_total", &[], 0.0),
            ("redis_fallback_active", &[], 0.0),
            ("redis_operation_duration_seconds_count", &[], calls),
            ("redis_operation_duration_seconds_bucket", &[("le", "+Inf")], calls),
            ("redis_batch_size_bucket", &[("le", "1")], calls),
        ],
    )
    .await;
    let buckets: BTreeMap<u64, f64> = metrics
        .named("redis_operation_duration_seconds_bucket", &[])
        .map(|bucket| (micros(&bucket.labels["le"]), bucket.value))
        .collect();
    assert_eq!(buckets.len(), 9, "{buckets:?}");
    assert!(buckets.values().is_sorted(), "buckets are cumulative: {buckets:?}");

    // Under load, requests share calls: fewer calls than operations.
    load_of(&stack, 2000, "/shadow", "somebody").run().await.unwrap();
    let metrics = stack.envoys[0].metrics().await.unwrap();
    let calls = metrics.sum("redis_calls_total", &[]) - calls;
    assert!(calls < 2000.0, "{calls} calls for 2000 requests");
    println!("{calls} calls for 2000 requests");
    assert_unharmed(&stack);
}

#[tokio::test]
async fn failures_of_the_store_are_counted_by_kind_and_mode() {
    let mut stack = start().await;
    stack.gateway.as_ref().unwrap().kill().await;
    // Two limits each, decided without the store. Three calls fail, then nobody asks for a while.
    send(&stack, "/limited", 4, [4, 0]).await;
    assert_metrics(
        &stack,
        &[
            ("redis_connection_errors_total", &[("kind", "unreachable")], 3.0),
            ("redis_connection_errors_total", &[], 3.0),
            ("redis_calls_total", &[], 3.0),
            ("redis_fallback_active", &[], 1.0),
            ("rate_limit_degraded_total", &[("mode", "local")], 4.0),
            ("rate_limit_degraded_total", &[("mode", "allow")], 4.0),
            ("rate_limit_degraded_total", &[("mode", "deny")], 0.0),
            ("rate_limit_allowed_total", &[("limit", "per-client")], 4.0),
            ("tollgate_requests_allowed_total", &[], 4.0),
        ],
    )
    .await;
    stack.gateway.as_mut().unwrap().restart().await.unwrap();
    let active = async || {
        load_of(&stack, 8, "/limited", "another").run().await.unwrap();
        metric(&stack, "redis_fallback_active", &[]).await
    };
    eventually("the store is asked again", active, |active| *active == 0.0).await;
    assert_unharmed(&stack);
}

/// A lock that is held, a breaker in shadow mode that is open, duplicates that nobody can tell apart without the store.
#[tokio::test]
async fn guards_are_counted_by_kind_and_name() {
    let upstream = Upstream::start(ports::free().unwrap()).await.unwrap();
    let policy = json!({
        "routes": [
            { "name": "jobs", "match": { "path": "/jobs" },
              "lock": { "name": "one.at.a.time", "key": ["const:all"], "lease": "30s" } },
            { "name": "flaky", "match": { "path": "/flaky" },
              "circuit_breaker": { "failures": 1, "within": "60s", "open_for": "60s", "shadow": true } },
            { "name": "track", "match": { "path": "/track" },
              "dedup": { "key": ["header:x-client"], "ttl": "5m" } },
            { "name": "strict", "match": { "path": "/strict" },
              "dedup": { "key": ["header:x-client"], "ttl": "5m", "on_store_error": "deny" } },
        ],
    });
    let options = StackOptions {
        concurrency: 1,
        upstream: envoy::Upstream::Address(upstream.address()),
        ..StackOptions::new(policy)
    };
    let stack = Stack::start(options).await.unwrap();
    let ask = async |path: &str| {
        client::send(stack.envoys[0].address(), request(path, "one")).await.unwrap().status
    };
    upstream.set_reply(Reply { delay: Duration::from_secs(1), ..Reply::default() });
    let holder = ask("/jobs");
    let others = async {
        eventually("the lock is taken", async || upstream.requests(), |requests| *requests == 1).await;
        [ask("/jobs").await, ask("/jobs").await]
    };
    let (holder, others) = tokio::join!(holder, others);
    assert_eq!((holder.as_u16(), others.map(|status| status.as_u16())), (200, [409, 409]));

    upstream.set_reply(Reply { status: StatusCode::INTERNAL_SERVER_ERROR, ..Reply::default() });
    let would_refuse = async || {
        assert_eq!(ask("/flaky").await, 500);
        metric(&stack, "guard_shadow_refused_total", &[("kind", "circuit_breaker")]).await
    };
    eventually("the breaker is open", would_refuse, |refused| *refused > 0.0).await;

    stack.gateway.as_ref().unwrap().kill().await;
    upstream.set_reply(Reply::default());
    assert_eq!(ask("/track").await, 200);
    assert_eq!(ask("/strict").await, 503);
    let lock = [("kind", "lock"), ("name", "one.at.a.time")];
    assert_metrics(
        &stack,
        &[
            ("guard_allowed_total", &lock, 1.0),
            ("guard_refused_total", &lock, 2.0),
            ("guard_shadow_refused_total", &lock, 0.0),
            ("guard_refused_total", &[("kind", "circuit_breaker"), ("name", "flaky")], 0.0),
            ("guard_allowed_total", &[("kind", "dedup"), ("name", "track")], 1.0),
            ("guard_unavailable_total", &[("kind", "dedup"), ("name", "strict")], 1.0),
            ("guard_unavailable_total", &[], 1.0),
            ("rate_limit_degraded_total", &[("mode", "allow")], 1.0),
            ("rate_limit_degraded_total", &[("mode", "deny")], 1.0),
        ],
    )
    .await;
    assert_unharmed(&stack);
}

/// Series are made of names in the policy and of fixed words: neither clients nor paths add one.
#[tokio::test]
async fn the_number_of_series_does_not_depend_on_traffic() {
    let with_store = start().await;
    let without = StackOptions { store: StoreChoice::None, ..StackOptions::new(policy()) };
    for stack in [with_store, Stack::start(without).await.unwrap()] {
        send(&stack, "/limited", 1, [1, 0]).await;
        let before = series(&stack.envoys[0].metrics().await.unwrap());
        let load = Load {
            request: Arc::new(|number| {
                request(
                    ["/limited", "/shadow", "/free", "/other"][number as usize % 4],
                    &format!("client-{}", number / 8),
                )
            }),
            ..Load::new(stack.addresses(), 4000, "/")
        };
        load.run().await.unwrap();
        let after = series(&stack.envoys[0].metrics().await.unwrap());
        assert_eq!(before.difference(&after).count(), 0);
        let new: Vec<_> = after.difference(&before).collect();
        assert!(new.is_empty(), "{new:?}");
        println!("{} series", after.len());
    }
}

fn policy() -> Value {
    let wide = with(limit("wide.with.dots", "gcra", 1000), json!({ "on_store_error": "allow" }));
    let shadow = with(limit("shadow", "sliding_window_counter", 2), json!({ "shadow": true }));
    let mut policy = routes(&[
        ("/limited", vec![limit("per-client", "sliding_window_log", 5), wide]),
        ("/shadow", vec![shadow]),
        ("/free", vec![]),
    ]);
    policy["default"] = json!({ "dedup": { "key": ["path", "header:x-client"], "ttl": "5m" } });
    policy
}

async fn start() -> Stack {
    Stack::start(StackOptions::new(policy())).await.unwrap()
}

/// Sends requests of one client one after the other on one connection, hence to one worker thread; `expected` pass
/// and are refused.
async fn send(stack: &Stack, path: &str, requests: u64, expected: [u64; 2]) {
    let load = Load { connections: 1, ..load_of(stack, requests, path, "one") };
    let report = load.run().await.unwrap();
    assert_eq!([report.count(200), report.count(429)], expected, "{path}: {report:?}");
}

/// A name, labels, and what the sum over all series with these labels should be.
type Expected<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

/// Compares sums of metrics, each of which must be on the page.
async fn assert_metrics(stack: &Stack, expected: &[Expected<'_>]) -> Metrics {
    let metrics = stack.envoys[0].metrics().await.unwrap();
    for (name, labels, value) in expected {
        assert!(metrics.named(name, labels).next().is_some(), "there is no {name} {labels:?}");
        assert_eq!(metrics.sum(name, labels), *value, "{name} {labels:?}");
    }
    metrics
}

/// The names and labels of everything that the filter counts.
fn series(metrics: &Metrics) -> BTreeSet<String> {
    let own = |name: &str| {
        ["tollgate_", "rate_limit_", "guard_", "redis_"].iter().any(|family| name.starts_with(family))
    };
    let samples = metrics.samples.iter().filter(|sample| own(&sample.name));
    samples.map(|sample| format!("{}{:?}", sample.name, sample.labels)).collect()
}

/// A bucket's bound in seconds as a number that can be sorted.
fn micros(bound: &str) -> u64 {
    if bound == "+Inf" { u64::MAX } else { (bound.parse::<f64>().unwrap() * 1e6) as u64 }
}

//! Exactly the quota passes, whatever stands in front: three Envoys, two worker threads in each, 64 connections.
//!
//! Every run is a client of its own, so runs need neither a pause nor an empty Redis, and afterwards each client's
//! counter must stand at what was admitted: what was refused has consumed nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    reason = "test code: a panic is a failed test"
)]

mod support;

use serde_json::{Value, json};
use tollgate_tests::stack::{Stack, StackOptions, StoreChoice};

use support::{ALGORITHMS, assert_unharmed, connect, consumed, each_algorithm, limit, load_of, policy, with};

#[tokio::test]
async fn fixed_window_is_exact_over_three_envoys() {
    let stack = fleet(policy(&[limit("only", "fixed_window", QUOTA)])).await;
    ten_runs(&stack, "/", QUOTA).await;
    assert_charged(&stack, "only", QUOTA).await;
}

#[tokio::test]
async fn sliding_window_log_is_exact_over_three_envoys() {
    let stack = fleet(policy(&[limit("only", "sliding_window_log", QUOTA)])).await;
    ten_runs(&stack, "/", QUOTA).await;
    assert_charged(&stack, "only", QUOTA).await;
}

#[tokio::test]
async fn sliding_window_counter_is_exact_over_three_envoys() {
    let stack = fleet(policy(&[limit("only", "sliding_window_counter", QUOTA)])).await;
    ten_runs(&stack, "/", QUOTA).await;
    assert_charged(&stack, "only", QUOTA).await;
}

#[tokio::test]
async fn gcra_is_exact_over_three_envoys() {
    let stack = fleet(policy(&[limit("only", "gcra", QUOTA)])).await;
    ten_runs(&stack, "/", QUOTA).await;
    assert_charged(&stack, "only", QUOTA).await;
}

/// The tighter of two limits decides, and the other is charged what that one admitted and nothing more.
#[tokio::test]
async fn two_limits_of_a_request_are_charged_alike() {
    let tight = limit("tight", "sliding_window_log", QUOTA);
    let wide = limit("wide", "gcra", 5 * QUOTA);
    let stack = fleet(policy(&[wide, tight])).await;
    ten_runs(&stack, "/", QUOTA).await;
    assert_charged(&stack, "tight", QUOTA).await;
    assert_charged(&stack, "wide", QUOTA).await;
}

/// A request of cost 3 needs room for all of it: of 1,000 one is left over.
#[tokio::test]
async fn a_cost_of_three_admits_a_third() {
    let costly = with(limit("costly", "sliding_window_log", QUOTA), json!({ "cost": 3 }));
    let stack = fleet(policy(&[costly])).await;
    ten_runs(&stack, "/", QUOTA / 3).await;
    assert_charged(&stack, "costly", QUOTA / 3 * 3).await;
}

/// Limits with different keys are one operation where they name the same tag, and so all-or-nothing.
#[tokio::test]
async fn limits_of_different_keys_that_share_a_tag_are_charged_alike() {
    let per_client = with(limit("per-client", "fixed_window", QUOTA), json!({ "tag": "shop" }));
    let fields = json!({ "tag": "shop", "key": ["const:everybody"] });
    let in_total = with(limit("in-total", "sliding_window_counter", 2 * RUNS * QUOTA), fields);
    let stack = fleet(policy(&[per_client, in_total])).await;
    ten_runs(&stack, "/", QUOTA).await;
    assert_charged(&stack, "per-client", QUOTA).await;
    let redis = stack.redis.as_ref().unwrap();
    assert_eq!(consumed(&mut connect(redis), "in-total"), [RUNS * QUOTA]);
}

/// Without a store, worker threads agree through the memory that Envoy shares among them.
#[tokio::test]
async fn without_a_store_two_threads_of_one_envoy_are_exact() {
    let options = StackOptions { store: StoreChoice::None, ..StackOptions::new(each_algorithm(QUOTA)) };
    let stack = Stack::start(options).await.unwrap();
    for algorithm in ALGORITHMS {
        ten_runs(&stack, &format!("/{algorithm}"), QUOTA).await;
    }
    assert_all_threads_served(&stack).await;
}

/// Over HTTP/2 to the gateway, and by Envoy's clock, counting is the same.
#[tokio::test]
async fn other_ways_to_ask_the_store_are_exact_too() {
    let plugin = json!({ "store": { "clock": "host" } });
    let options = StackOptions { plugin, store_http2: true, ..StackOptions::new(each_algorithm(QUOTA)) };
    let stack = Stack::start(options).await.unwrap();
    for algorithm in ALGORITHMS {
        run(&stack, &format!("/{algorithm}"), "one", QUOTA).await;
    }
    assert_all_threads_served(&stack).await;
    let mut redis = connect(stack.redis.as_ref().unwrap());
    assert_eq!(ALGORITHMS.map(|algorithm| consumed(&mut redis, algorithm)), [[QUOTA]; 4]);
}

/// Three Envoys with two worker threads each.
async fn fleet(policy: Value) -> Stack {
    Stack::start(StackOptions { replicas: 3, ..StackOptions::new(policy) }).await.unwrap()
}

/// Ten clients, one after the other.
async fn ten_runs(stack: &Stack, path: &str, admitted: u64) {
    for number in 0..RUNS {
        run(stack, path, &format!("run-{number}"), admitted).await;
    }
}

/// A client with three times as many requests as pass.
async fn run(stack: &Stack, path: &str, client: &str, admitted: u64) {
    let report = load_of(stack, 3 * QUOTA, path, client).run().await.unwrap();
    let counts = (report.count(200), report.count(429), report.failed(), report.marked());
    assert_eq!(counts, (admitted, 3 * QUOTA - admitted, 0, 0), "{client} of {path}: {report:?}");
}

/// Every client's counter stands at `each`, in Redis itself.
async fn assert_charged(stack: &Stack, limit: &str, each: u64) {
    assert_all_threads_served(stack).await;
    let redis = stack.redis.as_ref().unwrap();
    assert_eq!(consumed(&mut connect(redis), limit), [each; RUNS as usize]);
}

/// Every worker thread had its part, and none trapped.
async fn assert_all_threads_served(stack: &Stack) {
    assert_unharmed(stack);
    for envoy in &stack.envoys {
        let metrics = envoy.metrics().await.unwrap();
        let connections: Vec<f64> = metrics
            .named("envoy_listener_worker_downstream_cx_total", &[])
            .map(|thread| thread.value)
            .collect();
        assert!(connections.len() == 2 && connections.iter().all(|count| *count > 0.0), "{connections:?}");
    }
}

const QUOTA: u64 = 1000;
const RUNS: u64 = 10;

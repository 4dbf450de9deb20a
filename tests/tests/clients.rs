//! Clients that leave while they wait, and clients in great number.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    reason = "test code: a panic is a failed test"
)]

mod support;

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tollgate_tests::client;
use tollgate_tests::load::Load;
use tollgate_tests::stack::{Stack, StackOptions, StoreChoice};

use support::{
    CLIENT, DEGRADED, assert_unharmed, connect, consumed, eventually, limit, metric, policy, request, with,
};

/// Clients leave while their call is under way, and while it waits to be sent.
#[tokio::test]
async fn clients_that_leave_while_they_wait_are_forgotten() {
    let options = StackOptions {
        concurrency: 1,
        plugin: json!({ "store": { "calls_in_flight": 1, "batch": 4 } }),
        ..StackOptions::new(policy(&[limit("limit", "fixed_window", 1000)]))
    };
    let stack = Stack::start(options).await.unwrap();
    let gateway = stack.gateway.as_ref().unwrap();
    let prefix = format!("port_{}", stack.envoys[0].address().port());
    let of_listener = [("envoy_http_conn_manager_prefix", prefix.as_str())];
    let active = async || metric(&stack, "envoy_http_downstream_rq_active", &of_listener).await;

    gateway.suspend().unwrap();
    let mut leaving = Vec::new();
    for client in ["in-call", "in-queue-1", "in-queue-2", "in-queue-3"] {
        leaving.push(ask_and_hold(&stack, client).await);
        let count = leaving.len() as f64;
        eventually("Envoy has the request", active, |active| *active == count).await;
    }
    let mut staying = JoinSet::new();
    for client in ["stays-1", "stays-2", "stays-3"] {
        let address = stack.envoys[0].address();
        staying.spawn(async move { client::send(address, request("/", client)).await.unwrap() });
    }
    eventually("Envoy has all requests", active, |active| *active == 7.0).await;
    leaving.clear();
    eventually("Envoy has seen them leave", active, |active| *active == 3.0).await;
    gateway.resume().unwrap();
    for answer in staying.join_all().await {
        assert_eq!((answer.status, answer.header(DEGRADED)), (StatusCode::OK, None), "{answer}");
    }
    let abandoned = async || metric(&stack, "tollgate_requests_abandoned_total", &[]).await;
    assert_eq!(abandoned().await, 4.0);
    // Who left before the call was sent is not charged.
    let mut redis = connect(stack.redis.as_ref().unwrap());
    assert_eq!(consumed(&mut redis, "limit"), [1; 4]);
    assert_unharmed(&stack);
}

/// What is remembered has a bound: a second crowd of clients finds room where the first one was.
#[tokio::test]
async fn memory_stays_flat_with_a_store() {
    // Half of the clients come back and are refused, so that there is something to remember.
    let stack =
        Stack::start(StackOptions::new(policy(&[limit("one", "sliding_window_log", 1)]))).await.unwrap();
    assert_flat(&stack).await;
    assert!(metric(&stack, "rate_limit_exceeded_total", &[]).await > 9000.0);
}

/// Counters in Envoy's memory make room when they mean nothing any more.
#[tokio::test]
async fn memory_stays_flat_without_a_store() {
    let brief = with(limit("brief", "fixed_window", 1000), json!({ "window": "1s" }));
    let options = StackOptions { store: StoreChoice::None, ..StackOptions::new(policy(&[brief])) };
    let stack = Stack::start(options).await.unwrap();
    assert_flat(&stack).await;
}

/// Two crowds of 20,000 clients: after the second, Envoy holds hardly more than after the first.
async fn assert_flat(stack: &Stack) {
    let envoy = &stack.envoys[0];
    let mut held = Vec::new();
    for crowd in 0..2 {
        let load = Load {
            request: Arc::new(move |number| {
                request("/", &format!("crowd-{crowd}-client-{}", number % 20_000))
            }),
            ..Load::new(stack.addresses(), 30_000, "/")
        };
        let report = load.run().await.unwrap();
        assert_eq!(report.count(200) + report.count(429), 30_000, "{report:?}");
        held.push((envoy.resident_memory().unwrap() >> 10, envoy.allocated_memory().await.unwrap() >> 10));
    }
    println!("resident and allocated kB after each crowd: {held:?}");
    let [(resident, allocated), (resident_after, allocated_after)] = held[..] else { panic!("two crowds") };
    assert!(resident_after < resident + GROWTH_KB, "resident: {resident} kB and then {resident_after} kB");
    assert!(
        allocated_after < allocated + GROWTH_KB,
        "allocated: {allocated} kB and then {allocated_after} kB"
    );
    assert_unharmed(stack);
}

/// Sends a request and leaves the answer outstanding.
async fn ask_and_hold(stack: &Stack, client: &str) -> TcpStream {
    let mut stream = TcpStream::connect(stack.envoys[0].address()).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nhost: tollgate.test\r\n{CLIENT}: {client}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// What a second crowd of 20,000 clients may add: 20,000 counters that were kept would be more.
const GROWTH_KB: u64 = 2048;

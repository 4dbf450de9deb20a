//! Exactly the quota passes, whatever stands in front: three workerds and two Envoys, 64 connections, one limit.
//!
//! Every run is a client of its own, so runs need neither a pause nor an empty Redis, and afterwards each client's counter must
//! stand at what was admitted: what was refused has consumed nothing.

use std::time::Duration;

use serde_json::{Value, json};
use tollgate_tests::stack::{Edge, Stack, StackOptions, StoreChoice};
use tollgate_tests::upstream::Upstream;
use tollgate_tests::{envoy, ports};

use crate::Site;
use crate::support::{
    ALGORITHMS, assert_unharmed, connect, consumed, each_algorithm, eventually, limit, load_of, policy, with,
};

#[tokio::test]
async fn mesh_and_edge_share_one_limit_to_the_last_request() {
    let (stack, origin) = fleet(policy(&[limit("only", "fixed_window", QUOTA)])).await;
    for number in 0..RUNS {
        run(&stack, "/", &format!("run-{number}"), QUOTA).await;
    }
    assert_charged(&stack, "only", &[QUOTA; RUNS as usize]);
    assert_eq!(origin.requests(), RUNS * QUOTA, "what was refused did not reach the origin");
    assert_unharmed(&stack);
}

/// Two limits of a request are all-or-nothing across both hosts, too.
#[tokio::test]
async fn two_limits_of_a_request_are_charged_alike() {
    let tight = limit("tight", "sliding_window_log", QUOTA);
    let wide = limit("wide", "gcra", 5 * QUOTA);
    let (stack, _origin) = fleet(policy(&[wide, tight])).await;
    run(&stack, "/", "one", QUOTA).await;
    assert_charged(&stack, "tight", &[QUOTA]);
    assert_charged(&stack, "wide", &[QUOTA]);
    assert_unharmed(&stack);
}

/// A request of cost 3 needs room for all of it: of 1,000 one is left over.
#[tokio::test]
async fn a_cost_of_three_admits_a_third() {
    let costly = with(limit("costly", "sliding_window_counter", QUOTA), json!({ "cost": 3 }));
    let (stack, _origin) = fleet(policy(&[costly])).await;
    run(&stack, "/", "one", QUOTA / 3).await;
    assert_charged(&stack, "costly", &[QUOTA / 3 * 3]);
    assert_unharmed(&stack);
}

/// Limits of different tags are different operations: where one refuses, the others get back what they were charged, behind the
/// answer.
#[tokio::test]
async fn what_one_tag_was_charged_is_given_back_when_another_refuses() {
    let charged = ALGORITHMS.map(|algorithm| limit(algorithm, algorithm, 100));
    let fields = json!({ "key": ["const:everybody"], "tag": "elsewhere" });
    let refuses = with(limit("refuses", "fixed_window", 10), fields);
    // A denial that is remembered would answer without asking, and charge nobody.
    let site = Site::start_with(policy(&[&charged[..], &[refuses]].concat()), StoreChoice::Redis, |edge| {
        edge.with("TOLLGATE_DENIAL_CACHE", "0")
    });
    let site = site.await;
    let report = load_of(&site.stack, 60, "/", "one").run().await.unwrap();
    let counts = (report.count(200), report.count(429), report.failed(), report.marked());
    assert_eq!((counts.0 + counts.1, counts.2, counts.3), (60, 0, 0), "{report:?}");
    assert!(counts.0 > 0 && counts.0 <= 10, "{report:?}");
    let mut redis = connect(site.stack.redis.as_ref().unwrap());
    for algorithm in ALGORITHMS {
        let stands = async || consumed(&mut redis, algorithm);
        eventually(&format!("{algorithm} is given back"), stands, |stands| *stands == [counts.0]).await;
    }
    assert_unharmed(&site.stack);
}

/// Redis forgets the scripts again and again. What it did not know it did not run, so asking once more charges nobody twice.
#[tokio::test]
async fn flushed_scripts_charge_nobody_twice() {
    let site = Site::start(each_algorithm(QUOTA)).await;
    let mut redis = connect(site.stack.redis.as_ref().unwrap());
    for algorithm in ALGORITHMS {
        let mut load = load_of(&site.stack, 2 * QUOTA, &format!("/{algorithm}"), "one").start().unwrap();
        while !load.is_done() {
            redis::cmd("SCRIPT").arg("FLUSH").exec(&mut redis).unwrap();
            // Long enough for calls in between that find the scripts.
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let report = load.finish().await.unwrap();
        let counts = (report.count(200), report.count(429), report.failed(), report.marked());
        assert_eq!(counts, (QUOTA, QUOTA, 0, 0), "{algorithm}: {report:?}");
        assert_eq!(consumed(&mut redis, algorithm), [QUOTA], "{algorithm}");
    }
    let statistics: String = redis::cmd("INFO").arg("commandstats").query(&mut redis).unwrap();
    let by_text =
        statistics.lines().find_map(|line| line.strip_prefix("cmdstat_eval:calls=")?.split(',').next());
    let by_text: u64 = by_text.unwrap().parse().unwrap();
    assert!(by_text > 20, "scripts sent as text: {by_text}");
    assert_unharmed(&site.stack);
}

/// Without a store an isolate is exact by itself.
#[tokio::test]
async fn one_isolate_is_exact_in_its_own_memory() {
    let site = Site::start_with(each_algorithm(QUOTA), StoreChoice::None, |edge| edge).await;
    for algorithm in ALGORITHMS {
        run(&site.stack, &format!("/{algorithm}"), "one", QUOTA).await;
    }
    assert_unharmed(&site.stack);
}

async fn fleet(policy: Value) -> (Stack, Upstream) {
    let origin = Upstream::start(ports::free().unwrap()).await.unwrap();
    let options = StackOptions {
        replicas: 2,
        edge: Some(Edge::new(3, origin.address())),
        upstream: envoy::Upstream::Address(origin.address()),
        ..StackOptions::new(policy)
    };
    (Stack::start(options).await.unwrap(), origin)
}

/// A client with three times as many requests as pass, over 64 connections dealt to all five in turn.
async fn run(stack: &Stack, path: &str, client: &str, admitted: u64) {
    let running = load_of(stack, 3 * QUOTA, path, client).start().unwrap();
    let replicas = running.so_far().len();
    assert_eq!(replicas, stack.envoys.len() + stack.workerds.len());
    let report = running.finish().await.unwrap();
    let counts = (report.count(200), report.count(429), report.failed(), report.marked());
    assert_eq!(counts, (admitted, 3 * QUOTA - admitted, 0, 0), "{client} of {path}: {report:?}");
}

/// Each client's counter, in Redis itself.
fn assert_charged(stack: &Stack, limit: &str, each: &[u64]) {
    assert_eq!(consumed(&mut connect(stack.redis.as_ref().unwrap()), limit), each);
}

const QUOTA: u64 = 1000;
const RUNS: u64 = 10;

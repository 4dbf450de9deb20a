//! The store fails in every way it can, and requests notice no more than the policy says.
//!
//! In each case: nobody waits longer than the store's timeout, nobody gets a 5xx that the policy did not ask for, no VM
//! traps, answers and metrics say what was decided without the store, and everything is well again by itself.

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
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tollgate_tests::client::{self, Answer};
use tollgate_tests::load::{Load, Report, Running};
use tollgate_tests::ports;
use tollgate_tests::stack::{Stack, StackOptions, StoreChoice};
use tollgate_tests::store_double::{Mode, StoreDouble};

use support::{
    ALGORITHMS, DEGRADED, assert_unharmed, connect, consumed, each_algorithm, eventually, limit, load_of,
    metric, policy, request, routes, with,
};

// ---- Outages of the real parts, under load.

#[tokio::test]
async fn a_redis_that_is_killed_and_restarted_is_survived() {
    let mut stack = three_modes(3).await;
    let load = trickle(&stack).await;
    stack.redis.as_ref().unwrap().kill().await;
    without_the_store(&stack, &load).await;
    stack.redis.as_mut().unwrap().restart().await.unwrap();
    with_the_store_again(&stack, &load).await;
    assert_nobody_suffered(&stack, load).await;
}

#[tokio::test]
async fn a_gateway_that_is_killed_and_restarted_is_survived() {
    let mut stack = three_modes(1).await;
    let load = trickle(&stack).await;
    stack.gateway.as_ref().unwrap().kill().await;
    without_the_store(&stack, &load).await;
    stack.gateway.as_mut().unwrap().restart().await.unwrap();
    with_the_store_again(&stack, &load).await;
    assert_nobody_suffered(&stack, load).await;
}

/// Connections stay open and nothing answers: the gateway, and then Redis behind it, are frozen.
#[tokio::test]
async fn parts_that_fall_silent_are_survived() {
    let stack = three_modes(1).await;
    let load = trickle(&stack).await;
    stack.gateway.as_ref().unwrap().suspend().unwrap();
    without_the_store(&stack, &load).await;
    stack.gateway.as_ref().unwrap().resume().unwrap();
    with_the_store_again(&stack, &load).await;
    stack.redis.as_ref().unwrap().suspend().unwrap();
    without_the_store(&stack, &load).await;
    stack.redis.as_ref().unwrap().resume().unwrap();
    with_the_store_again(&stack, &load).await;
    assert_nobody_suffered(&stack, load).await;
}

/// Redis is there and says no: it is a replica, and then it is full.
#[tokio::test]
async fn a_redis_that_refuses_to_write_is_survived() {
    let stack = three_modes(1).await;
    let mut redis = connect(stack.redis.as_ref().unwrap());
    let mut tell = |words: &str| {
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>()).exec(&mut redis).unwrap();
    };
    let load = trickle(&stack).await;
    let nowhere = format!("REPLICAOF 127.0.0.1 {}", ports::free().unwrap());
    for (fault, cure) in
        [(nowhere.as_str(), "REPLICAOF NO ONE"), ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0")]
    {
        tell(fault);
        without_the_store(&stack, &load).await;
        tell(cure);
        with_the_store_again(&stack, &load).await;
    }
    assert!(metric(&stack, "redis_connection_errors_total", &[("kind", "refused")]).await > 0.0);
    assert_nobody_suffered(&stack, load).await;
}

#[tokio::test]
async fn a_token_that_the_gateway_refuses_is_a_failed_store() {
    let plugin = json!({ "store": { "token": "not-the-token", "token_env": null } });
    let options = StackOptions { plugin, ..StackOptions::new(policy_of_three_modes()) };
    let stack = Stack::start(options).await.unwrap();
    assert_decided_without_the_store(&stack, "401").await;
    assert!(metric(&stack, "redis_connection_errors_total", &[("kind", "status")]).await > 0.0);
    assert_unharmed(&stack);
}

/// Redis forgets the scripts again and again. What it did not know it did not run, so asking once more charges nobody twice.
#[tokio::test]
async fn flushed_scripts_cost_a_second_round_and_charge_nobody_twice() {
    const QUOTA: u64 = 1000;
    let stack =
        Stack::start(StackOptions { replicas: 3, ..StackOptions::new(each_algorithm(QUOTA)) }).await.unwrap();
    let mut redis = connect(stack.redis.as_ref().unwrap());
    let flushing = Flushing::start(connect(stack.redis.as_ref().unwrap()));
    for algorithm in ALGORITHMS {
        let report = load_of(&stack, 2 * QUOTA, &format!("/{algorithm}"), "one").run().await.unwrap();
        let counts = (report.count(200), report.count(429), report.failed(), report.marked());
        assert_eq!(counts, (QUOTA, QUOTA, 0, 0), "{algorithm}: {report:?}");
    }
    flushing.stop();
    for algorithm in ALGORITHMS {
        assert_eq!(consumed(&mut redis, algorithm), [QUOTA], "{algorithm}");
    }
    let statistics: String = redis::cmd("INFO").arg("commandstats").query(&mut redis).unwrap();
    let by_text =
        statistics.lines().find_map(|line| line.strip_prefix("cmdstat_eval:calls=")?.split(',').next());
    let by_text: u64 = by_text.unwrap().parse().unwrap();
    println!("scripts sent as text: {by_text}");
    assert!(by_text > 100, "scripts sent as text: {by_text}");
    assert_unharmed(&stack);
}

// ---- Answers that no real part gives on demand.

#[tokio::test]
async fn answers_that_are_none_are_survived() {
    let double = StoreDouble::start(ports::free().unwrap(), healthy()).await.unwrap();
    let options = StackOptions {
        // One thread, whose breaker every request sees, and one call, for which requests gather.
        concurrency: 1,
        store: StoreChoice::Address(double.address()),
        plugin: json!({ "store": { "timeout": timeout(), "calls_in_flight": 1 } }),
        ..StackOptions::new(policy_of_three_modes())
    };
    let stack = Stack::start(options).await.unwrap();
    let standing = || json!([NOW, 999, 0, 0]);
    for (mode, kind) in [
        (Mode::Late(TIMEOUT * 2, standing()), "timeout"),
        (Mode::Silent, "timeout"),
        (Mode::Garbage, "garbage"),
        (Mode::NotAnArray, "garbage"),
        (Mode::HalfPipeline(standing()), "garbage"),
        (Mode::LongPipeline(standing()), "garbage"),
        (Mode::Answer(json!([NOW, 999, 0])), "garbage"),
        (Mode::Answer(json!([999, 0, 0])), "garbage"),
        (Mode::Answer(json!("OK")), "garbage"),
        (Mode::Answer(json!([NOW, 999, -5, 0])), "garbage"),
        (Mode::Refuse("NOSCRIPT No matching script. Please use EVAL."), "refused"),
        (Mode::Refuse(""), "refused"),
        (Mode::Status(StatusCode::INTERNAL_SERVER_ERROR), "status"),
        (Mode::Status(StatusCode::FOUND), "status"),
        (Mode::CloseMidAnswer, "unreachable"),
    ] {
        let before = errors(&stack).await;
        double.set_mode(mode.clone());
        assert_decided_without_the_store(&stack, &format!("{mode:?}")).await;
        let after = errors(&stack).await;
        for ((name, before), (_, after)) in before.iter().zip(&after) {
            assert_eq!(
                *name == kind,
                after > before,
                "{mode:?}: errors of kind {name}: {before} and then {after}"
            );
        }
        double.set_mode(healthy());
        let ask = async || client::send(stack.envoys[0].address(), request("/deny", "x")).await.unwrap();
        eventually("the store is asked again", ask, |answer| answer.header(DEGRADED).is_none()).await;
    }
    assert!(double.commands() > double.requests(), "requests shared calls");
    assert_unharmed(&stack);
}

/// A request's time runs from when it queued, not from when its call left.
#[tokio::test]
async fn waiting_for_a_call_to_be_sent_counts_as_waiting() {
    let double = StoreDouble::start(ports::free().unwrap(), Mode::Silent).await.unwrap();
    let options = StackOptions {
        concurrency: 1,
        store: StoreChoice::Address(double.address()),
        plugin: json!({ "store": { "timeout": "500ms", "calls_in_flight": 1, "batch": 1 } }),
        ..StackOptions::new(policy_of_three_modes())
    };
    let stack = Stack::start(options).await.unwrap();
    // The first answer comes in time; the second would, were it not for the time that its request waited before.
    double.set_mode(Mode::Late(Duration::from_millis(300), json!([NOW, 999, 0, 0])));
    let report = Load { connections: 2, ..load_of(&stack, 2, "/local", "x") }.run().await.unwrap();
    assert_eq!((report.count(200), report.marked(), double.requests()), (2, 1, 2), "{report:?}");

    double.set_mode(Mode::Silent);
    let report = load_of(&stack, 64, "/local", "x").run().await.unwrap();
    assert_eq!((report.count(200), report.marked()), (64, 64), "{report:?}");
    assert!(report.longest < Duration::from_millis(500) + SLACK, "{report:?}");
    assert_unharmed(&stack);
}

/// Once the breaker is open, requests do not wait for the store, and the store is hardly asked.
#[tokio::test]
async fn a_dead_store_costs_nothing() {
    const REQUESTS: u64 = 5000;
    let double = StoreDouble::start(ports::free().unwrap(), Mode::Silent).await.unwrap();
    let options = StackOptions {
        store: StoreChoice::Address(double.address()),
        plugin: json!({ "store": { "timeout": "1s" } }),
        ..StackOptions::new(policy_of_three_modes())
    };
    let stack = Stack::start(options).await.unwrap();
    let opening = load_of(&stack, u64::MAX, "/local", "x").start().unwrap();
    let active = async || metric(&stack, "redis_fallback_active", &[]).await;
    eventually("both threads leave the store alone", active, |active| *active == 2.0).await;
    opening.stop();
    opening.finish().await.unwrap();

    let asked = double.requests();
    // Few connections, so that what is measured is not the queue for the processor.
    let load = Load { connections: 8, ..load_of(&stack, REQUESTS, "/local", "x") };
    let report = load.run().await.unwrap();
    let asked = double.requests() - asked;
    println!(
        "{asked} calls for {REQUESTS} requests in {:?}: p99 {:?}",
        report.elapsed,
        report.quantile(0.99)
    );
    assert_eq!((report.answers(), report.marked()), (REQUESTS, REQUESTS), "{report:?}");
    // Pauses double from half a second, so this is what two threads may probe in the time that the load took.
    assert!(asked <= 2 * (1 + report.elapsed.as_secs()), "{asked} calls in {:?}", report.elapsed);
    assert!(report.quantile(0.99) < Duration::from_millis(200), "{:?}", report.quantile(0.99));
    assert_unharmed(&stack);
}

// ---- What the policy says then.

/// Each limit says for itself what happens, and what is counted locally is counted per replica over all its threads.
#[tokio::test]
async fn each_limit_fails_as_its_policy_says() {
    let local = |name| with(limit(name, "sliding_window_log", 10), json!({ "on_store_error": "local" }));
    let allow = |name| with(limit(name, "fixed_window", 1), json!({ "on_store_error": "allow" }));
    let deny = |name| with(limit(name, "gcra", 1), json!({ "on_store_error": "deny" }));
    let of = [
        ("/allow", vec![allow("a")]),
        ("/deny", vec![deny("d")]),
        ("/local", vec![local("l")]),
        ("/local-and-allow", vec![local("la-local"), allow("la-allow")]),
        ("/allow-and-deny", vec![allow("ad-allow"), deny("ad-deny")]),
        ("/shadow-deny", vec![with(deny("s"), json!({ "shadow": true }))]),
        ("/free", vec![]),
    ];
    // Each of two replicas grants half of a quota of 10.
    let plugin = json!({ "store": { "replicas": 2 } });
    let stack =
        Stack::start(StackOptions { replicas: 2, plugin, ..StackOptions::new(routes(&of)) }).await.unwrap();
    stack.gateway.as_ref().unwrap().kill().await;
    for address in stack.addresses() {
        let ask = async |path, client| client::send(address, request(path, client)).await.unwrap();
        for (path, degraded) in [("/allow", Some("allow")), ("/shadow-deny", Some("deny")), ("/free", None)] {
            for _ in 0..5 {
                let answer = ask(path, "x").await;
                assert_eq!(
                    (answer.status, answer.header(DEGRADED)),
                    (StatusCode::OK, degraded),
                    "{path}: {answer}"
                );
            }
        }
        for (path, degraded) in [("/deny", "deny"), ("/allow-and-deny", "deny, allow")] {
            let answer = ask(path, "x").await;
            assert_unavailable(&answer);
            assert_eq!(answer.header(DEGRADED), Some(degraded), "{path}: {answer}");
        }
        for (path, degraded) in [("/local", "local"), ("/local-and-allow", "local, allow")] {
            for client in ["x", "y"] {
                for remaining in (0..5).rev() {
                    let answer = ask(path, client).await;
                    let seen =
                        (answer.status, answer.header(DEGRADED), answer.header("x-ratelimit-remaining"));
                    let remaining = remaining.to_string();
                    assert_eq!(
                        seen,
                        (StatusCode::OK, Some(degraded), Some(remaining.as_str())),
                        "{path}: {answer}"
                    );
                }
                let answer = ask(path, client).await;
                assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{path}: {answer}");
                assert_eq!(answer.header(DEGRADED), Some(degraded), "{path}: {answer}");
                assert!(answer.header("retry-after").is_some(), "{path}: {answer}");
            }
        }
    }
    assert_unharmed(&stack);
}

/// Limits of different tags are different operations: where one refuses, the others get back what they were charged.
#[tokio::test]
async fn what_one_tag_was_charged_is_given_back_when_another_refuses() {
    let charged = ALGORITHMS.map(|algorithm| limit(algorithm, algorithm, 100));
    let fields = json!({ "key": ["const:everybody"], "tag": "elsewhere" });
    let refuses = with(limit("refuses", "fixed_window", 10), fields);
    // A denial that is remembered would answer without asking, and charge nobody.
    let plugin = json!({ "denial_cache": { "keys": 0 } });
    let options = StackOptions { plugin, ..StackOptions::new(policy(&[&charged[..], &[refuses]].concat())) };
    let stack = Stack::start(options).await.unwrap();
    let report = load_of(&stack, 60, "/", "one").run().await.unwrap();
    println!("{:?}", report.statuses);
    let mut redis = connect(stack.redis.as_ref().unwrap());
    let calls = metric(&stack, "redis_calls_total", &[]).await;
    assert_eq!(report.failed() + report.marked(), 0, "{report:?}");
    for algorithm in ALGORITHMS {
        let stands = async || consumed(&mut redis, algorithm);
        eventually(&format!("{algorithm} is given back"), stands, |stands| *stands == [report.count(200)])
            .await;
    }
    println!("{calls} calls");
    assert_unharmed(&stack);
}

// ---- The stack of most tests, and what is asserted of it.

/// A limit for each failure mode, on a path of its own, wide enough that nothing is refused for being too much.
fn policy_of_three_modes() -> Value {
    let limits = |mode| vec![with(limit(mode, "fixed_window", 1_000_000), json!({ "on_store_error": mode }))];
    routes(&[("/allow", limits("allow")), ("/deny", limits("deny")), ("/local", limits("local"))])
}

async fn three_modes(replicas: u16) -> Stack {
    let plugin = json!({ "store": { "timeout": timeout() } });
    Stack::start(StackOptions { replicas, plugin, ..StackOptions::new(policy_of_three_modes()) })
        .await
        .unwrap()
}

fn timeout() -> String {
    format!("{}ms", TIMEOUT.as_millis())
}

/// What a store's clock says.
const NOW: u64 = 1_800_000_000_000;

/// What a working store answers to one check: plenty is left.
fn healthy() -> Mode {
    Mode::Answer(json!([NOW, 999, 0, 0]))
}

/// Requests to each path in turn, until stopped; returns when the store decides all of them.
async fn trickle(stack: &Stack) -> Running {
    let load = Load {
        connections: 24,
        pause: Duration::from_millis(20),
        request: Arc::new(|number| request(PATHS[number as usize % 3], &format!("client-{}", number % 100))),
        marker: Some(DEGRADED),
        ..Load::new(stack.addresses(), u64::MAX, "/")
    };
    let load = load.start().unwrap();
    with_the_store_again(stack, &load).await;
    load
}

/// Waits until every worker thread leaves the store alone; from then on every answer says what the policy says.
async fn without_the_store(stack: &Stack, load: &Running) {
    let threads = 2.0 * stack.envoys.len() as f64;
    let active = async || metric(stack, "redis_fallback_active", &[]).await;
    eventually("all threads leave the store alone", active, |active| *active == threads).await;
    let part = stretch(load).await;
    assert_eq!(part.marked(), part.answers(), "{part:?}");
    assert_eq!(part.statuses.keys().collect::<Vec<_>>(), [&200, &503], "{part:?}");
}

/// Waits until the store decides everything.
async fn with_the_store_again(stack: &Stack, load: &Running) {
    let active = async || metric(stack, "redis_fallback_active", &[]).await;
    eventually("all threads ask the store", active, |active| *active == 0.0).await;
    eventually("the store decides", async || stretch(load).await, |part| part.marked() == 0).await;
}

/// The next 300 answers or a few more.
async fn stretch(load: &Running) -> Report {
    let before = load.total();
    eventually("300 answers", async || load.total().since(&before), |part| part.answers() >= 300).await
}

/// Ends the load. Every request was answered in time, as its path's policy says, and counted as what it was.
async fn assert_nobody_suffered(stack: &Stack, load: Running) {
    load.stop();
    let report = load.finish().await.unwrap();
    println!("{:?}, {} degraded, longest {:?}", report.statuses, report.marked(), report.longest);
    assert_eq!(report.failed(), 0, "{report:?}");
    assert!(report.longest < TIMEOUT + SLACK, "somebody waited {:?}", report.longest);
    assert_eq!(report.statuses.keys().collect::<Vec<_>>(), [&200, &503], "{report:?}");
    assert_eq!(report.marked.get(&503), report.statuses.get(&503), "only the policy answers 503");
    for (name, count) in [
        ("rate_limit_degraded_total", report.marked()),
        ("tollgate_requests_allowed_total", report.count(200)),
        ("tollgate_requests_denied_total", report.count(503)),
        ("tollgate_requests_abandoned_total", 0),
    ] {
        assert_eq!(metric(stack, name, &[]).await, count as f64, "{name}");
    }
    assert_unharmed(stack);
}

/// Asks each path five times, all at once: each request is decided in time by what the policy says.
async fn assert_decided_without_the_store(stack: &Stack, why: &str) {
    let begun = Instant::now();
    let mut asking = JoinSet::new();
    for number in 0..15 {
        let (address, path) = (stack.envoys[0].address(), PATHS[number % 3]);
        asking.spawn(async move { (path, client::send(address, request(path, "x")).await.unwrap()) });
    }
    let answers = asking.join_all().await;
    assert!(begun.elapsed() < TIMEOUT + SLACK, "{why}: {:?}", begun.elapsed());
    for (path, answer) in answers {
        assert_eq!(answer.header(DEGRADED), path.strip_prefix('/'), "{why}: {answer}");
        match path {
            "/deny" => assert_unavailable(&answer),
            _ => assert_eq!(answer.status, StatusCode::OK, "{why}: {answer}"),
        }
    }
}

/// 503, as the policy's `deny` has it.
fn assert_unavailable(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    assert_eq!(answer.header("retry-after"), Some("1"), "{answer}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer}");
    let body = answer.json().unwrap();
    assert_eq!(
        (&body["status"], &body["error"]["code"]),
        (&json!(503), &json!("RATE_LIMIT_UNAVAILABLE")),
        "{body}"
    );
}

/// Failed calls by kind.
async fn errors(stack: &Stack) -> Vec<(&'static str, f64)> {
    let metrics = stack.envoys[0].metrics().await.unwrap();
    let count = |kind| (kind, metrics.sum("redis_connection_errors_total", &[("kind", kind)]));
    ["unreachable", "timeout", "status", "garbage", "refused"].map(count).into()
}

/// A thread that makes Redis forget its scripts, over and over.
struct Flushing {
    stopped: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Flushing {
    fn start(mut redis: redis::Connection) -> Flushing {
        let stopped = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&stopped);
        let thread = std::thread::spawn(move || {
            while !theirs.load(Ordering::Relaxed) {
                redis::cmd("SCRIPT").arg("FLUSH").exec(&mut redis).unwrap();
                // Long enough for calls in between that find the scripts.
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        Flushing { stopped, thread }
    }

    fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

const PATHS: [&str; 3] = ["/allow", "/deny", "/local"];
/// How long a request waits for the store.
const TIMEOUT: Duration = Duration::from_millis(100);
/// What a busy machine may add to it.
const SLACK: Duration = Duration::from_millis(400);

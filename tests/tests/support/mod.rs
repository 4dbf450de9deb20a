//! What the end-to-end tests share: policies in few words, what Redis has counted, and the proof that no VM trapped.

#![allow(dead_code, reason = "each test crate uses its part")]

use std::fmt::Debug;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use redis::Commands as _;
use serde_json::{Value, json};
use tollgate_tests::envoy::Envoy;
use tollgate_tests::load::Load;
use tollgate_tests::process::{Process, last_lines};
use tollgate_tests::redis::Redis;
use tollgate_tests::stack::Stack;
use tollgate_tests::tools;
use tollgate_vectors::format::token;

/// The four ways of counting.
pub(crate) const ALGORITHMS: [&str; 4] =
    ["fixed_window", "sliding_window_log", "sliding_window_counter", "gcra"];

/// So long that no window turns while a test runs, and that gcra gives nothing back.
pub(crate) const LONG: &str = "366d";

/// The header that tells clients apart.
pub(crate) const CLIENT: &str = "x-client";

/// A limit per client. What gcra admits at one instant is its burst, so there the quota is the burst.
pub(crate) fn limit(name: &str, algorithm: &str, quota: u64) -> Value {
    let mut limit = json!({
        "name": name, "algorithm": algorithm, "quota": quota, "window": LONG, "key": [format!("header:{CLIENT}")],
    });
    if algorithm == "gcra" {
        limit["burst"] = json!(quota);
        limit["quota"] = json!(1);
    }
    limit
}

/// `limit` with some fields added or replaced.
pub(crate) fn with(mut limit: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else { panic!("fields of an object") };
    limit.as_object_mut().unwrap().extend(fields);
    limit
}

/// Answers of admitted requests say how many more would be, in a field that is easy to compare.
pub(crate) fn headers() -> Value {
    json!({ "x_ratelimit": "always" })
}

/// A policy of one route for every path.
pub(crate) fn policy(limits: &[Value]) -> Value {
    json!({ "headers": headers(), "routes": [{ "name": "all", "rate_limits": limits }] })
}

/// A policy of one route for each path.
pub(crate) fn routes(of: &[(&str, Vec<Value>)]) -> Value {
    let routes = of.iter().map(|(path, limits)| {
        let name = path.trim_matches('/').replace('/', "-");
        json!({ "name": name, "match": { "path": path }, "rate_limits": limits })
    });
    json!({ "headers": headers(), "routes": routes.collect::<Vec<_>>() })
}

/// A policy with a route `/ALGORITHM` for each algorithm, whose limit has the algorithm's name.
pub(crate) fn each_algorithm(quota: u64) -> Value {
    let paths = ALGORITHMS.map(|algorithm| format!("/{algorithm}"));
    let limits = ALGORITHMS.map(|algorithm| vec![limit(algorithm, algorithm, quota)]);
    routes(&paths.iter().map(String::as_str).zip(limits).collect::<Vec<_>>())
}

/// `GET path` by this client.
pub(crate) fn request(path: &str, client: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "tollgate.test").header(CLIENT, client).body(Full::default()).unwrap()
}

/// That many requests of one client to all replicas over 64 connections, with degraded answers marked.
pub(crate) fn load_of(stack: &Stack, requests: u64, path: &str, client: &str) -> Load {
    let (path, client) = (path.to_owned(), client.to_owned());
    Load {
        request: Arc::new(move |_| request(&path, &client)),
        marker: Some(DEGRADED),
        ..Load::new(stack.addresses(), requests, "/")
    }
}

/// The header that says that an answer was decided without the store.
pub(crate) const DEGRADED: &str = "x-tollgate-degraded";

/// Redis as seen without the gateway.
pub(crate) fn connect(redis: &Redis) -> redis::Connection {
    redis::Client::open(redis.url()).unwrap().get_connection().unwrap()
}

/// What the counters of a limit stand at, one for each client, smallest first.
pub(crate) fn consumed(redis: &mut redis::Connection, limit: &str) -> Vec<u64> {
    let keys: Vec<String> = redis.keys("tg:{*}:*").unwrap();
    let of_limit = keys.iter().filter(|key| key.split(':').nth(3) == Some(limit));
    let mut consumed: Vec<u64> = of_limit.map(|key| counter(redis, key)).collect();
    consumed.sort_unstable();
    consumed
}

/// What one counter stands at: the key's third part is the algorithm's letter and the window.
fn counter(redis: &mut redis::Connection, key: &str) -> u64 {
    let (letter, window) = key.split(':').nth(2).unwrap().split_at(1);
    if letter == "l" {
        return redis.zcard(key).unwrap();
    }
    let value: String = redis.get(key).unwrap();
    let numbers: Vec<u64> = value.split(' ').map(|number| number.parse().unwrap()).collect();
    match (letter, &numbers[..]) {
        ("f", [_start, used]) => *used,
        ("c", [_start, previous, current]) => previous + current,
        // The level falls by the quota each millisecond, which is a small part of one unit while a test runs.
        ("g", [level, _at]) => {
            let window: u64 = window.parse().unwrap();
            (level + window / 2) / window
        }
        _ => panic!("`{key}` holds `{value}`"),
    }
}

/// Fails if an Envoy or a workerd has ended or one of its VMs has trapped, which costs every request of that VM.
pub(crate) fn assert_unharmed(stack: &Stack) {
    stack.envoys.iter().for_each(|envoy| assert_no_trap(envoy));
    stack.workerds.iter().for_each(|workerd| assert_no_trap(workerd));
}

/// The same of one of them.
pub(crate) fn assert_no_trap(envoy: &Process) {
    assert_eq!(envoy.ended(), None, "{} ended:\n{}", envoy.name(), last_lines(&envoy.log(), 30));
    let log = envoy.log();
    // What the hosts and Rust's runtime write when a VM traps: seen with a filter and a Worker that panic on request.
    let words =
        ["panicked at", "ncaught", "in-VM backtrace", "[critical][wasm]", "RuntimeError", "Reinitializing"];
    let traps = |line: &&str| words.iter().any(|word| line.contains(word));
    let found: Vec<&str> = log.lines().filter(traps).take(20).collect();
    assert!(found.is_empty(), "{} has trapped:\n{}", envoy.name(), found.join("\n"));
}

/// Asks until the answer is as it should be, and returns it. What a host does in its own time announces itself to nobody.
pub(crate) async fn eventually<T: Debug>(
    what: &str,
    mut ask: impl AsyncFnMut() -> T,
    holds: impl Fn(&T) -> bool,
) -> T {
    let begun = Instant::now();
    loop {
        let answer = ask().await;
        if holds(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}, but {answer:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The sum of a metric over all replicas.
pub(crate) async fn metric(stack: &Stack, name: &str, labels: &[(&str, &str)]) -> f64 {
    let mut sum = 0.0;
    for envoy in &stack.envoys {
        sum += metric_of(envoy, name, labels).await;
    }
    sum
}

/// A metric of one replica.
pub(crate) async fn metric_of(envoy: &Envoy, name: &str, labels: &[(&str, &str)]) -> f64 {
    envoy.metrics().await.unwrap().sum(name, labels)
}

/// A token of this subject that holds for an hour.
pub(crate) fn token_of(subject: &str) -> String {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let Value::Object(claims) = json!({ "sub": subject, "jti": subject, "exp": now + 3600 }) else {
        panic!("claims are an object")
    };
    token(claims, SECRET).unwrap()
}

/// Tokens that others have signed, and their keys.
pub(crate) fn signed_tokens() -> Value {
    let file = tools::workspace().join("shared/tests/tokens/tokens.json");
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// Those of them that hold from [`NOW`] on, for an hour.
pub(crate) fn valid_tokens(algorithm: &str) -> Vec<String> {
    let tokens = signed_tokens();
    let all = tokens["tokens"].as_array().unwrap().iter();
    let valid = all.filter(|case| case["alg"] == algorithm && case["valid"] == true);
    valid.map(|case| case["token"].as_str().unwrap().to_owned()).collect()
}

/// A set of the keys for these algorithms, as it is fetched.
pub(crate) fn key_set(algorithms: &[&str]) -> String {
    let tokens = signed_tokens();
    let all = tokens["keys"].as_array().unwrap().iter();
    let keys = all.filter(|key| algorithms.contains(&key["alg"].as_str().unwrap()));
    let named = |key: &Value| {
        let name = json!({ "kid": format!("{}-key", key["alg"].as_str().unwrap()) });
        with(key["jwk"].clone(), name)
    };
    json!({ "keys": keys.map(named).collect::<Vec<_>>() }).to_string()
}

/// Milliseconds; when the signed tokens were issued.
pub(crate) const NOW: u64 = 1_800_000_000_000;
/// What signs tokens.
pub(crate) const SECRET: &str = "a secret of at least thirty-two bytes";
const PATIENCE: Duration = Duration::from_secs(15);

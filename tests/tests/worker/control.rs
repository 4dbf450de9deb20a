//! What operators see: the control path, the log and the data points; and that neither of them tells what it should not.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde_json::{Value, json};
use tollgate_tests::client::{self, Answer};
use tollgate_tests::ports;
use tollgate_tests::stack::StoreChoice;
use tollgate_tests::workerd::Workerd;

use crate::Site;
use crate::failures::assert_problem;
use crate::guards::{self, policy_of_tokens, two_workers};
use crate::support::{
    CLIENT, NOW, assert_unharmed, eventually, limit, policy, request, routes, valid_tokens, with,
};

#[tokio::test]
async fn health_is_told_to_all_and_details_to_who_has_the_token() {
    let site = with_control(StoreChoice::Redis).await;
    let answer = ask(&site, "/.tollgate/health", None).await;
    assert_eq!(
        (answer.status, answer.json().unwrap()),
        (StatusCode::OK, json!({ "status": "ok" })),
        "{answer}"
    );
    for token in [None, Some("Bearer wrong"), Some(CONTROL), Some("Basic the-control-token"), Some("Bearer ")]
    {
        let answer = ask(&site, DETAILED, token).await;
        assert_problem(&answer, StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
    }
    let answer = details(&site).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer}");
    let seen = answer.json().unwrap();
    let check = &seen["checks"][0];
    assert_eq!((&seen["status"], &seen["overall"]), (&json!("ok"), &json!("healthy")), "{seen}");
    assert_eq!((&check["name"], &check["status"]), (&json!("redis"), &json!("healthy")), "{seen}");
    assert!(check["details"]["latency"].is_u64(), "{seen}");
    assert_eq!(check["details"]["circuitBreakerOpen"], false, "{seen}");

    // The store goes away, and comes to be left alone.
    site.stack.gateway.as_ref().unwrap().kill().await;
    for _ in 0..3 {
        client::send(site.address(), request("/", "x")).await.unwrap();
    }
    let answer = details(&site).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    let seen = answer.json().unwrap();
    assert_eq!((&seen["status"], &seen["overall"]), (&json!("degraded"), &json!("unhealthy")), "{seen}");
    assert_eq!(seen["checks"][0]["details"]["circuitBreakerOpen"], true, "{seen}");
    let answer = ask(&site, "/.tollgate/health", None).await;
    assert_eq!(answer.status, StatusCode::OK, "the Worker itself lives: {answer}");
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn without_a_store_details_say_so() {
    let site = with_control(StoreChoice::None).await;
    let seen = details(&site).await.json().unwrap();
    assert_eq!((&seen["status"], &seen["checks"][0]["name"]), (&json!("ok"), &json!("memory")), "{seen}");
    assert_unharmed(&site.stack);
}

/// Every other spelling is a request for the origin, and is counted.
#[tokio::test]
async fn no_other_spelling_leads_to_the_control_path() {
    let site = with_control(StoreChoice::Redis).await;
    let token = format!("Bearer {CONTROL}");
    for (number, path) in [
        "//.tollgate/health/detailed",
        "/%2etollgate/health/detailed",
        "/.Tollgate/health/detailed",
        "/.tollgate%2Fhealth/detailed",
        "/.tollgate;a/health/detailed",
        "/a?/.tollgate/health/detailed",
        "/.tollgate",
    ]
    .into_iter()
    .enumerate()
    {
        let answer = ask(&site, path, Some(&token)).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {answer}");
        assert!(answer.json().unwrap()["headers"].is_array(), "the origin's answer: {path}: {answer}");
        assert!(answer.header("x-ratelimit-remaining").is_some(), "{path}: {answer}");
        assert_eq!(site.origin.requests(), number as u64 + 1, "{path}");
    }
    for path in ["/.tollgate/health/", "/.tollgate/health/detailed/", "/.tollgate/", "/.tollgate/HEALTH"] {
        assert_problem(&ask(&site, path, Some(&token)).await, StatusCode::NOT_FOUND, "NOT_FOUND");
    }
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn without_a_token_there_is_no_control_path() {
    let site = Site::start(policy(&[limit("only", "fixed_window", 100)])).await;
    for path in ["/.tollgate/health", DETAILED] {
        for token in [None, Some("Bearer "), Some("Bearer undefined"), Some("Bearer null")] {
            let answer = ask(&site, path, token).await;
            assert_eq!(answer.json().unwrap()["path"], path, "the origin's answer: {answer}");
        }
    }
    assert_eq!(site.origin.requests(), 8);
    assert_unharmed(&site.stack);
}

// ---- Data points. Their dataset is a double: it exists at Cloudflare alone.

#[tokio::test]
async fn decisions_become_data_points() {
    let shadow = with(limit("shadow", "sliding_window_counter", 2), json!({ "shadow": true }));
    let policy = routes(&[
        ("/limited", vec![limit("per-client", "sliding_window_log", 5), limit("wide", "gcra", 1000)]),
        ("/shadow", vec![shadow]),
        ("/free", vec![]),
    ]);
    let site = measured(policy, StoreChoice::Redis).await;
    for (path, requests) in [("/limited", 8), ("/shadow", 6), ("/free", 2), ("/other", 1)] {
        for _ in 0..requests {
            client::send(site.address(), request(path, "one")).await.unwrap();
        }
    }
    let expected = [
        ("limited request limited allowed", 5),
        ("limited request limited denied", 3),
        ("per-client limit per-client allowed store", 5),
        ("per-client limit per-client exceeded store", 1),
        ("per-client limit per-client exceeded denial_cache", 2),
        ("wide limit wide allowed store", 6),
        ("shadow request shadow allowed", 6),
        ("shadow limit shadow allowed store", 2),
        ("free request free allowed", 2),
        (" request  allowed", 1),
        // The calls of six requests of the one and of at most six of the other.
        ("store store ok", 12),
    ];
    let found = points(&site.stack.workerds[0]);
    for (point, count) in expected {
        let found = found.get(point).copied().unwrap_or(0);
        if point == "store store ok" {
            assert!((8..=12).contains(&found), "{found} calls");
        } else {
            assert_eq!(found, count, "`{point}` in {:#?}", points(&site.stack.workerds[0]));
        }
    }
    let exceeded: u64 =
        found.iter().filter(|(point, _)| point.contains("shadow_exceeded")).map(|(_, n)| n).sum();
    assert_eq!(exceeded, 4, "{found:#?}");
    for point in site.stack.workerds[0].data_points().unwrap() {
        assert_eq!(point["doubles"][0], 1.0, "{point}");
        let is_call = point["blobs"][0] == "store";
        assert_eq!(point["doubles"].as_array().unwrap().len(), if is_call { 3 } else { 1 }, "{point}");
    }
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn what_guards_say_becomes_data_points() {
    let key = json!([format!("header:{CLIENT}")]);
    let routes = json!([
        { "name": "account", "match": { "path": "/account" }, "revocation": {} },
        { "name": "logout", "match": { "path": "/logout" }, "revokes": { "what": "token", "when": "at_once" } },
        { "name": "dedup", "match": { "path": "/dedup" }, "dedup": { "name": "event", "key": key, "ttl": "1h" } },
        { "name": "shadow", "match": { "path": "/shadow" },
          "dedup": { "name": "trial", "key": key, "ttl": "1h", "shadow": true } },
        { "name": "order", "match": { "path": "/order" }, "idempotency": { "name": "order", "key": key, "required": true } },
        { "name": "lock", "match": { "path": "/lock" }, "lock": { "name": "job", "key": key, "lease": "1h" } },
        { "name": "breaker", "match": { "path": "/breaker" },
          "circuit_breaker": { "name": "origin", "failures": 9, "within": "60s", "open_for": "60s" } },
    ]);
    let mut policy = policy_of_tokens();
    policy["routes"] = routes;
    let site = two_workers(policy, |mut edge| {
        (edge.instances, edge.metrics) = (1, true);
        edge.with("TOLLGATE_STORE_TIMEOUT", "1s")
    })
    .await;
    let address = site.address();
    let token = &valid_tokens("HS256")[0];
    for (path, token) in
        [("/account", token.as_str()), ("/account", "none"), ("/logout", token), ("/account", token)]
    {
        guards::ask(address, path, token, NOW).await;
    }
    for path in ["/dedup", "/dedup", "/shadow", "/shadow", "/order", "/lock", "/breaker"] {
        client::send(address, request(path, "one")).await.unwrap();
    }
    site.stack.gateway.as_ref().unwrap().kill().await;
    for path in ["/lock", "/dedup"] {
        client::send(address, request(path, "two")).await.unwrap();
    }
    let found = points(&site.stack.workerds[0]);
    let is_guard = |point: &&String| !point.contains(" request ") && !point.starts_with("store ");
    let of_guards: Vec<(&str, u64)> =
        found.keys().filter(is_guard).map(|point| (point.as_str(), found[point])).collect();
    let expected = [
        ("account revocation account allowed store", 1),
        ("account revocation account refused store", 1),
        ("account token account allowed store", 2),
        ("account token account refused store", 1),
        ("event dedup event allowed allow", 1),
        ("event dedup event allowed store", 1),
        ("event dedup event refused store", 1),
        ("job lock job allowed store", 1),
        ("job lock job unavailable deny", 1),
        ("logout revokes logout allowed store", 1),
        ("logout token logout allowed store", 1),
        ("order idempotency order refused store", 1),
        ("origin circuit_breaker origin allowed store", 1),
        ("trial dedup trial allowed store", 1),
        ("trial dedup trial shadow_refused store", 1),
    ];
    assert_eq!(of_guards, expected);
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn failures_become_data_points_by_kind() {
    let nowhere = format!("http://{}", ports::local(ports::free().unwrap()));
    let modes = ["allow", "deny", "local"];
    let limits = modes.map(|mode| with(limit(mode, "fixed_window", 5), json!({ "on_store_error": mode })));
    let paths = modes.map(|mode| format!("/{mode}"));
    let of: Vec<_> = paths.iter().map(String::as_str).zip(limits.map(|limit| vec![limit])).collect();
    let policy = routes(&of);
    let site = Site::start_with(policy, StoreChoice::Redis, |mut edge| {
        edge.metrics = true;
        edge.with("ORIGIN_URL", nowhere)
    });
    let site = site.await;
    site.stack.gateway.as_ref().unwrap().kill().await;
    for path in &paths {
        client::send(site.address(), request(path, "one")).await.unwrap();
    }
    let found = points(&site.stack.workerds[0]);
    for (point, count) in [
        ("store store unreachable", 3),
        ("origin origin unreachable", 2),
        ("allow limit allow allowed allow", 1),
        ("deny limit deny unavailable deny", 1),
        ("local limit local allowed local", 1),
        ("allow request allow allowed", 1),
        ("deny request deny denied", 1),
    ] {
        assert_eq!(found.get(point), Some(&count), "`{point}` in {found:#?}");
    }
    assert_unharmed(&site.stack);
}

/// Series are made of names in the policy and of fixed words: neither clients nor paths add one.
#[tokio::test]
async fn the_number_of_series_does_not_depend_on_traffic() {
    let site = measured(policy(&[limit("only", "sliding_window_log", 2)]), StoreChoice::Redis).await;
    let send = async |clients: std::ops::Range<u32>| {
        for client in clients {
            for _ in 0..3 {
                let path = format!("/path-{client}?q={client}");
                client::send(site.address(), request(&path, &format!("client-{client}"))).await.unwrap();
            }
            // Who was refused once is remembered.
            client::send(site.address(), request("/", &format!("client-{client}"))).await.unwrap();
        }
        points(&site.stack.workerds[0]).into_keys().collect::<Vec<_>>()
    };
    let few = send(0..2).await;
    assert_eq!(send(2..40).await, few);
    assert_unharmed(&site.stack);
}

// ---- The log.

/// Neither tokens nor what names a client, whatever goes wrong; and what we write is JSON, line by line.
#[tokio::test]
async fn the_log_holds_neither_tokens_nor_subjects() {
    let keys = json!({ "key": ["header:x-client", "cookie:session", "client_ip", "query:q"], "on_store_error": "local" });
    let policy = policy(&[with(limit("only", "sliding_window_log", 2), keys)]);
    let site = with_all(policy).await;
    let send = async |client: &str| {
        let mut one = request("/account?q=subject-query", client);
        for (name, value) in [
            ("cookie", "session=subject-cookie"),
            ("cf-connecting-ip", "192.0.2.77"),
            ("authorization", "Bearer token-of-the-client"),
        ] {
            one.headers_mut().insert(name, value.parse().unwrap());
        }
        client::send(site.address(), one).await.unwrap()
    };
    for _ in 0..4 {
        send("subject-header").await;
    }
    ask(&site, DETAILED, Some("Bearer wrong-control-token")).await;
    details(&site).await;
    site.stack.gateway.as_ref().unwrap().kill().await;
    // Another one, because what is refused to the first is remembered and asks nobody.
    for _ in 0..5 {
        send("subject-other").await;
    }
    let told = async || site.log().contains("is left alone for now");
    eventually("the log tells of the store", told, |told| *told).await;
    let log = site.log();
    let token = site.stack.token.as_str();
    for secret in
        [token, CONTROL, "wrong-control", "subject", "192.0.2.77", "token-of-the-client", "/account"]
    {
        assert!(!log.contains(secret), "`{secret}` is in the log:\n{log}");
    }
    let own: Vec<&str> = log.lines().filter(|line| line.starts_with('{')).collect();
    assert!(own.len() >= 4, "three calls and their consequence: {log}");
    for line in own {
        let fields: Value = serde_json::from_str(line).unwrap();
        assert!(fields["message"].is_string(), "{line}");
    }
    assert_unharmed(&site.stack);
}

async fn with_control(store: StoreChoice) -> Site {
    let policy = policy(&[limit("only", "fixed_window", 1000)]);
    Site::start_with(policy, store, |edge| edge.with("TOLLGATE_CONTROL_TOKEN", CONTROL)).await
}

async fn with_all(policy: Value) -> Site {
    let change = |edge: tollgate_tests::stack::Edge| edge.with("TOLLGATE_CONTROL_TOKEN", CONTROL);
    Site::start_with(policy, StoreChoice::Redis, change).await
}

async fn measured(policy: Value, store: StoreChoice) -> Site {
    Site::start_with(policy, store, |mut edge| {
        edge.metrics = true;
        edge
    })
    .await
}

async fn ask(site: &Site, path: &str, authorization: Option<&str>) -> Answer {
    let fields: Vec<_> = authorization.map(|value| ("authorization", value)).into_iter().collect();
    client::get(site.address(), path, &fields).await.unwrap()
}

async fn details(site: &Site) -> Answer {
    ask(site, DETAILED, Some(&format!("Bearer {CONTROL}"))).await
}

/// How many points of each series there are, by index and blobs.
fn points(workerd: &Workerd) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for point in workerd.data_points().unwrap() {
        let words =
            [&point["indexes"], &point["blobs"]].into_iter().flat_map(|list| list.as_array().unwrap());
        let words: Vec<&str> = words.map(|word| word.as_str().unwrap()).collect();
        *counts.entry(words.join(" ")).or_default() += 1;
    }
    counts
}

const DETAILED: &str = "/.tollgate/health/detailed";
const CONTROL: &str = "the-control-token";

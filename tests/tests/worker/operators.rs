//! What operators do by name on the control path of one Worker holds for requests at the other.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tollgate_tests::client::{self, Answer};

use crate::failures::assert_problem;
use crate::guards::{addresses, ask, policy_of_tokens, two_workers};
use crate::support::{CLIENT, LONG, NOW, SECRET, assert_unharmed, eventually, request, valid_tokens};
use crate::{Site, walk};

#[tokio::test]
async fn two_workers_answer_as_is_described() {
    let site = two_workers(walk::policy(), |edge| opened(edge).with("SECRET", SECRET)).await;
    let breaks = async || site.stack.gateway.as_ref().unwrap().kill().await;
    walk::through(&addresses(&site), CONTROL, breaks).await.unwrap();
    assert_eq!(site.origin.requests(), 0, "none of it is for the origin");
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn what_is_revoked_at_one_worker_is_refused_at_the_other() {
    let mut policy = policy_of_tokens();
    policy["jwt"]["max_lifetime"] = json!("1d");
    let site = two_workers(policy, opened).await;
    let [here, there] = addresses(&site);
    let token = &valid_tokens("HS256")[0];
    assert_eq!(ask(there, "/api", token, NOW).await.status, StatusCode::OK);
    let answer = post_at(here, "revoke", json!({ "token": token }), NOW).await;
    assert_eq!(
        (answer.status, &answer.json().unwrap()["status"]),
        (StatusCode::OK, &json!("ok")),
        "{answer}"
    );
    assert_problem(&ask(there, "/api", token, NOW).await, StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn a_limit_is_looked_at_and_reset() {
    let site = site().await;
    let [here, there] = addresses(&site);
    let key = json!({ "name": "few", "key": ["one"] });
    let standing = async |address| post(address, "limits/inspect", key.clone()).await.json().unwrap();
    assert_eq!(standing(here).await, json!({ "limit": 2, "remaining": 2, "resetAfterMs": 0 }));
    let few = async |address| client::send(address, request("/few", "one")).await.unwrap().status;
    for (address, expected) in [(here, 200), (here, 200), (there, 429)] {
        assert_eq!(few(address).await, expected);
    }
    assert_eq!(standing(here).await["remaining"], 0);
    // Whoever has refused somebody remembers it, so he is asked.
    assert_eq!(post(there, "limits/reset", key.clone()).await.status, StatusCode::OK);
    for (address, expected) in [(there, 200), (here, 200), (here, 429)] {
        assert_eq!(few(address).await, expected);
    }
    // Another one may be asked too, and says how long it takes.
    let reset = post(there, "limits/reset", key.clone()).await.json().unwrap();
    assert_eq!(reset, json!({ "status": "ok", "everywhereAfterMs": 1000 }));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(few(here).await, 200);
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn a_breaker_is_opened_and_closed_by_hand() {
    let site = site().await;
    let [here, there] = addresses(&site);
    let calls = async || client::send(there, request("/breaker", "one")).await.unwrap();
    assert_eq!(calls().await.status, StatusCode::OK);
    let answer = post(here, "breakers/open", json!({ "name": "breaker", "for": "5m" })).await;
    assert_eq!(answer.json().unwrap()["state"], "open", "{answer}");
    let is_refused = |answer: &Answer| answer.status == StatusCode::SERVICE_UNAVAILABLE;
    assert_problem(
        &eventually("it opens", calls, is_refused).await,
        StatusCode::SERVICE_UNAVAILABLE,
        "CIRCUIT_OPEN",
    );
    assert_eq!(
        post(here, "breakers/inspect", json!({ "name": "breaker" })).await.json().unwrap()["state"],
        "open"
    );
    let answer = post(here, "breakers/close", json!({ "name": "breaker" })).await;
    assert_eq!(answer.json().unwrap()["state"], "closed", "{answer}");
    eventually("it closes", calls, |answer| answer.status == StatusCode::OK).await;
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn what_a_program_has_taken_requests_do_not_get() {
    let site = site().await;
    let [here, there] = addresses(&site);
    let lock = json!({ "name": "lock", "key": ["one"] });
    let taken = post(here, "locks/acquire", lock.clone()).await.json().unwrap();
    assert!(taken["fence"].as_u64().unwrap() > 0, "{taken}");
    let held = client::send(there, request("/lock", "one")).await.unwrap();
    assert_problem(&held, StatusCode::CONFLICT, "LOCKED");
    assert_problem(&post(there, "locks/acquire", lock.clone()).await, StatusCode::CONFLICT, "LOCKED");
    let mut mine = lock;
    mine["holder"] = taken["holder"].clone();
    let kept = post(there, "locks/extend", mine.clone()).await.json().unwrap();
    assert_eq!((&kept["holder"], &kept["fence"]), (&taken["holder"], &taken["fence"]), "{kept}");
    assert_eq!(post(there, "locks/release", mine.clone()).await.status, StatusCode::OK);
    assert_problem(&post(here, "locks/release", mine).await, StatusCode::CONFLICT, "LOCK_LOST");
    assert_eq!(client::send(here, request("/lock", "one")).await.unwrap().status, StatusCode::OK);

    let mark = json!({ "name": "dedup", "key": ["one"] });
    assert_eq!(post(here, "dedup/mark", mark.clone()).await.json().unwrap()["first"], true);
    let track = async || client::send(there, request("/dedup", "one")).await.unwrap();
    assert_eq!(track().await.json().unwrap()["reason"], "duplicate");
    assert_eq!(post(here, "dedup/mark", mark.clone()).await.json().unwrap()["first"], false);
    assert_eq!(post(here, "dedup/forget", mark).await.status, StatusCode::OK);
    assert_eq!(track().await.json().unwrap()["path"], "/dedup", "the origin's answer");
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn nobody_waits_for_the_rest_of_a_body_that_is_too_long() {
    let site = site().await;
    let long = "x".repeat(16 * 1024);
    // Its length is not announced.
    let chunk = format!("{:x}\r\n{long}\r\n", long.len());
    let head = format!(
        "POST /.tollgate/revoke HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {CONTROL}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let too_large = client::raw(site.address(), format!("{head}{chunk}{chunk}").as_bytes()).await.unwrap();
    assert_problem(&too_large, StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE");
    assert_eq!(site.origin.requests(), 0);
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn the_prefix_is_where_it_was_configured_to_be() {
    let site = two_workers(json!({ "routes": [] }), |edge| {
        opened(edge).with("TOLLGATE_CONTROL_PREFIX", "/ops/tollgate/")
    })
    .await;
    let get = async |path| client::get(site.address(), path, &[AUTHORIZED]).await.unwrap();
    let document = get("/ops/tollgate/openapi.json").await.json().unwrap();
    assert_eq!(document["servers"][0]["url"], "/ops/tollgate", "{document}");
    assert_eq!(
        get("/.tollgate/health").await.json().unwrap()["path"],
        "/.tollgate/health",
        "the origin's answer"
    );
    assert_unharmed(&site.stack);
}

/// Two Workers that have something of everything.
async fn site() -> Site {
    let key = [format!("header:{CLIENT}")];
    let few = json!({ "name": "few", "algorithm": "fixed_window", "quota": 2, "window": LONG, "key": key });
    let policy = json!({ "routes": [
        { "name": "few", "match": { "path": "/few" }, "rate_limits": [few] },
        { "name": "breaker", "match": { "path": "/breaker" },
          "circuit_breaker": { "failures": 3, "within": "60s", "open_for": "2s" } },
        { "name": "lock", "match": { "path": "/lock" }, "lock": { "key": key, "lease": "1h" } },
        { "name": "dedup", "match": { "path": "/dedup" }, "dedup": { "key": key, "ttl": "1h" } },
    ] });
    two_workers(policy, opened).await
}

fn opened(edge: tollgate_tests::stack::Edge) -> tollgate_tests::stack::Edge {
    edge.with("TOLLGATE_CONTROL_TOKEN", CONTROL)
}

/// Asks for something on the control path.
async fn post(address: SocketAddr, path: &str, body: Value) -> Answer {
    walk::post(address, path, CONTROL, &body).await.unwrap()
}

/// The same at some time, in milliseconds.
async fn post_at(address: SocketAddr, path: &str, body: Value, now: u64) -> Answer {
    let request = Request::post(format!("/.tollgate/{path}")).header("x-tollgate-test-now", now.to_string());
    let request = request.header("host", "tollgate.test").header(AUTHORIZED.0, AUTHORIZED.1);
    client::send(address, request.body(Full::<Bytes>::from(body.to_string())).unwrap()).await.unwrap()
}

const CONTROL: &str = "the-token-of-operators";
const AUTHORIZED: (&str, &str) = ("authorization", "Bearer the-token-of-operators");

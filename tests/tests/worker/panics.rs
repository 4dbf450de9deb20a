//! A request panics, which no request that a client can send does, while the origin works for another that holds something. What was
//! left to do with its answer is lost: it is answered all the same, nobody else gets what it holds, and that ends by its time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tollgate_tests::client::{self, Answer};
use tollgate_tests::upstream::Reply;

use crate::Site;
use crate::failures::{assert_problem, panic};
use crate::guards::{addresses, ask, policy_of_tokens, two_workers};
use crate::support::{CLIENT, NOW, eventually, valid_tokens};

#[tokio::test]
async fn a_lock_is_held_by_who_has_it_and_free_after_its_lease() {
    let lock = json!({ "lock": { "key": [format!("header:{CLIENT}")], "lease": "3s" } });
    let site = two_workers(json!({ "default": lock }), |edge| edge).await;
    let begun = Instant::now();
    let holder = panicked_upon(&site, order("")).await;
    for address in addresses(&site) {
        let locked = client::send(address, order("")).await.unwrap();
        assert_problem(&locked, StatusCode::CONFLICT, "LOCKED");
    }
    assert_eq!(holder.await.unwrap().status, StatusCode::OK);
    assert_eq!(site.origin.requests(), 1);
    let free = async || client::send(site.address(), order("")).await.unwrap().status;
    eventually("it is free", free, |status| *status == StatusCode::OK).await;
    assert!(begun.elapsed() >= LEASE, "{:?}", begun.elapsed());
}

/// Nobody knows what the answer was, so it is not given again either.
#[tokio::test]
async fn an_order_is_carried_out_again_after_its_lease_alone() {
    let idempotency = json!({ "idempotency": { "key": [format!("header:{CLIENT}")], "lease": "3s" } });
    let site = two_workers(json!({ "default": idempotency }), |edge| edge).await;
    let begun = Instant::now();
    let first = panicked_upon(&site, order("order-1")).await;
    let in_progress = async || {
        for address in addresses(&site) {
            let again = client::send(address, order("order-1")).await.unwrap();
            assert_problem(&again, StatusCode::CONFLICT, "IDEMPOTENCY_IN_PROGRESS");
        }
    };
    in_progress().await;
    assert_eq!(first.await.unwrap().status, StatusCode::OK);
    in_progress().await;
    assert_eq!(site.origin.requests(), 1);
    let again = async || client::send(site.address(), order("order-1")).await.unwrap();
    let again = eventually("it may be tried again", again, |answer| answer.status == StatusCode::OK).await;
    assert!(begun.elapsed() >= LEASE, "{:?}", begun.elapsed());
    assert_eq!((again.header("idempotent-replayed"), site.origin.requests()), (None, 2));
}

#[tokio::test]
async fn a_logout_that_nobody_knows_of_any_more_is_none() {
    let site = two_workers(policy_of_tokens(), |edge| edge).await;
    let token = valid_tokens("HS256")[0].clone();
    let logout = Request::get("/logout").header("authorization", format!("Bearer {token}"));
    let logout = logout.header("host", "tollgate.test").header("x-tollgate-test-now", NOW.to_string());
    let answer = panicked_upon(&site, logout.body(Full::default()).unwrap()).await.await.unwrap();
    assert_problem(&answer, StatusCode::SERVICE_UNAVAILABLE, "NOT_REVOKED");
    for address in addresses(&site) {
        assert_eq!(ask(address, "/api", &token, NOW).await.status, StatusCode::OK);
    }
}

/// Sends a request, and has another one panic while the origin works for it.
async fn panicked_upon(site: &Site, request: Request<Full<Bytes>>) -> JoinHandle<Answer> {
    site.origin.set_reply(Reply { delay: Duration::from_secs(1), ..Reply::default() });
    let address: SocketAddr = site.address();
    let waiting = tokio::spawn(async move { client::send(address, request).await.unwrap() });
    eventually("the origin is asked", async || site.origin.requests(), |requests| *requests == 1).await;
    site.origin.set_reply(Reply::default());
    panic(site).await;
    waiting
}

fn order(key: &str) -> Request<Full<Bytes>> {
    let request = Request::post("/").header("host", "tollgate.test").header(CLIENT, "one");
    let body: Value = json!({ "order": 1 });
    request.header("idempotency-key", key).body(Full::from(body.to_string())).unwrap()
}

/// As the policies say.
const LEASE: Duration = Duration::from_secs(3);

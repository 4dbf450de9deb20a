//! Envoys whose filter reads bodies: none is lost, reordered or waited for in vain, and a request that is sent again is carried out once.

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
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tollgate_tests::client::{self, Answer};
use tollgate_tests::load::Load;
use tollgate_tests::stack::{Stack, StackOptions};
use tollgate_tests::upstream::{Reply, ReplyBody, Upstream};
use tollgate_tests::{envoy, ports};

use support::{SECRET, assert_unharmed, connect, consumed, eventually, limit, token_of, with};

// ---- Bodies on their way.

/// On a route that goes by bodies, and on one that waits for the store alone.
#[tokio::test]
async fn bodies_of_every_length_and_form_arrive_whole() {
    let (stack, upstream) = start(1, bodies_policy(1_000_000)).await;
    upstream.set_reply(Reply { body: ReplyBody::Returned, ..Reply::default() });
    let address = stack.addresses()[0];
    for path in ["/by-body", "/plain"] {
        for length in [0, 1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 1 << 20] {
            for form in [Form::Length, Form::Chunks(1000), Form::Chunks(70_000), Form::Trailers] {
                let sent = body(length);
                let answer = client::raw(address, &form.wire(path, &sent)).await.unwrap();
                let what = format!("{path}, {length} bytes, {form:?}");
                assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, length), "{what}");
                assert!(answer.body == sent, "{what}: other bytes came back");
            }
        }
    }
    // What counts them has seen them all.
    assert_eq!(consumed(&mut connect(stack.redis.as_ref().unwrap()), "plain"), [24]);
    assert_unharmed(&stack);
}

#[tokio::test]
async fn bodies_that_trickle_are_waited_for_and_told_apart() {
    let (stack, upstream) = start(1, bodies_policy(1)).await;
    let address = stack.addresses()[0];
    let mut statuses = Vec::new();
    for user in ["ann", "bob", "ann"] {
        let content = json!({ "user": user }).to_string();
        let mut connection = TcpStream::connect(address).await.unwrap();
        for piece in Form::Chunks(5).wire("/by-body", content.as_bytes()).chunks(16) {
            connection.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        statuses.push(client::read(&mut connection).await.unwrap().status.as_u16());
    }
    assert_eq!((statuses, upstream.requests()), (vec![200, 200, 429], 2));
    assert_unharmed(&stack);
}

/// While its request waits, a sender is held back as soon as Envoy's buffer is full: the buffer of the connection, 1 MiB.
#[tokio::test]
async fn bodies_of_any_length_wait_with_their_requests() {
    let (stack, upstream) = start(1, bodies_policy(1_000_000)).await;
    upstream.set_reply(Reply { body: ReplyBody::Returned, ..Reply::default() });
    let (address, gateway) = (stack.addresses()[0], stack.gateway.as_ref().unwrap());
    for path in ["/by-body", "/plain"] {
        gateway.suspend().unwrap();
        let send = |length| {
            tokio::spawn(async move { client::raw(address, &Form::Length.wire(path, &body(length))).await })
        };
        let lengths = [1 << 20, 16 << 20];
        let sent = lengths.map(send);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(sent.iter().all(|answer| !answer.is_finished()), "{path}: passed undecided");
        gateway.resume().unwrap();
        for (answer, length) in sent.into_iter().zip(lengths) {
            let answer = answer.await.unwrap().unwrap();
            assert!(answer.status == 200 && answer.body == body(length), "{path}: {}", answer.status);
        }
    }
    assert_eq!(upstream.requests(), 4);
    assert_unharmed(&stack);
}

#[tokio::test]
async fn what_is_refused_is_refused_with_its_body() {
    let (stack, upstream) = start(1, bodies_policy(1)).await;
    let address = stack.addresses()[0];
    for path in ["/by-body", "/plain"] {
        let before = upstream.requests();
        for length in [1, 70_000, 1 << 20] {
            for form in [Form::Length, Form::Trailers] {
                client::raw(address, &form.wire(path, &body(length))).await.unwrap();
            }
        }
        assert_eq!(upstream.requests(), before + 1, "{path}");
    }
    assert_unharmed(&stack);
}

#[tokio::test]
async fn clients_that_leave_in_the_middle_of_a_body_leave_nothing_behind() {
    let (stack, upstream) = start(1, bodies_policy(1_000_000)).await;
    let address = stack.addresses()[0];
    for number in 0..100 {
        let wire = Form::Length.wire("/by-body", &body(60_000));
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(&wire[..wire.len() - 1 - number * 599]).await.unwrap();
    }
    let answer = client::raw(address, &Form::Length.wire("/plain", b"")).await.unwrap();
    assert_eq!((answer.status, upstream.requests()), (StatusCode::OK, 1));
    assert_eq!(consumed(&mut connect(stack.redis.as_ref().unwrap()), "by-body"), [0; 0]);
    assert_unharmed(&stack);
}

/// What follows the head of an upgrade is no body, and would not come before the answer.
#[tokio::test]
async fn an_upgrade_does_not_wait_for_a_body() {
    let upgrades = json!({ "upgrade_configs": [{ "upgrade_type": "websocket" }] });
    let (stack, upstream) = start_with_manager(1, bodies_policy(1_000_000), upgrades).await;
    let request =
        "GET /by-body HTTP/1.1\r\nhost: tollgate.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    let answer = client::raw(stack.addresses()[0], request.as_bytes()).await.unwrap();
    assert_eq!((answer.status, upstream.requests()), (StatusCode::OK, 1));
    assert_unharmed(&stack);
}

/// The head of the answer waits for the store, and its body with it.
#[tokio::test]
async fn the_answer_to_a_logout_waits_with_its_body() {
    let policy = json!({
        "jwt": { "algorithms": ["HS256"], "keys": [{ "alg": "HS256", "secret": { "env": "JWT_SECRET" } }] },
        "default": { "revokes": "token" },
    });
    let (stack, upstream) = start(1, policy).await;
    let (address, gateway) = (stack.addresses()[0], stack.gateway.as_ref().unwrap());
    for (number, length) in (1..).zip([0, 1, 200_000]) {
        upstream.set_reply(Reply { body: ReplyBody::Bytes(body(length).into()), ..Reply::default() });
        gateway.suspend().unwrap();
        let token = format!("Bearer {}", token_of(&format!("user-{number}")));
        let request = Request::post("/logout").header("host", "tollgate.test").header("authorization", token);
        let logout = tokio::spawn(client::send(address, request.body(Full::default()).unwrap()));
        eventually("it is asked", async || upstream.requests(), |requests| *requests == number).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!logout.is_finished(), "{length} bytes: the client was told before the store");
        gateway.resume().unwrap();
        let answer = logout.await.unwrap().unwrap();
        assert!(answer.status == 200 && answer.body == body(length), "{length} bytes: {answer}");
    }
    assert_unharmed(&stack);
}

// ---- Idempotency.

#[tokio::test]
async fn of_simultaneous_first_requests_one_is_carried_out() {
    let (stack, upstream) = start(2, idempotency_policy(json!({}))).await;
    let answer = body(20_000);
    upstream.set_reply(Reply {
        status: StatusCode::CREATED,
        headers: vec![(hyper::header::LOCATION, "/orders/1".parse().unwrap())],
        delay: Duration::from_millis(500),
        body: ReplyBody::Bytes(answer.clone().into()),
    });
    let load = Load { request: Arc::new(|_| order("k", "7")), ..Load::new(stack.addresses(), 64, "/") };
    let report = load.run().await.unwrap();
    assert_eq!((report.count(201), report.count(409), upstream.requests()), (1, 63, 1), "{report:?}");
    for address in stack.addresses() {
        let again = async || client::send(address, order("k", "7")).await.unwrap();
        let again = eventually("the answer is kept", again, |answer| answer.status == 201).await;
        assert_eq!(
            (again.header("location"), again.header("idempotent-replayed")),
            (Some("/orders/1"), Some("true"))
        );
        assert!(again.body == answer, "{} bytes", again.body.len());
        let other = client::send(address, order("k", "8")).await.unwrap();
        assert_eq!((other.status.as_u16(), code(&other)), (422, "IDEMPOTENCY_KEY_REUSED".into()));
    }
    assert_eq!(upstream.requests(), 1);
    assert_unharmed(&stack);
}

#[tokio::test]
async fn an_answer_too_large_to_keep_passes_and_is_not_asked_for_again() {
    let (stack, upstream) = start(1, idempotency_policy(json!({ "max_response": 1000 }))).await;
    upstream.set_reply(Reply { body: ReplyBody::Bytes(body(1 << 20).into()), ..Reply::default() });
    let first = client::send(stack.addresses()[0], order("k", "7")).await.unwrap();
    assert!(first.status == 200 && first.body == body(1 << 20));
    not_kept(&stack, &upstream).await;
}

#[tokio::test]
async fn what_broke_off_in_the_middle_of_its_answer_is_not_carried_out_again() {
    let (stack, upstream) = start(1, idempotency_policy(json!({}))).await;
    upstream.set_reply(Reply { body: ReplyBody::Cut("half of".into()), ..Reply::default() });
    client::send(stack.addresses()[0], order("k", "7")).await.unwrap_err();
    upstream.set_reply(Reply::default());
    not_kept(&stack, &upstream).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_has_its_request_carried_out_once() {
    let (stack, upstream) = start(1, idempotency_policy(json!({ "lease": "1s" }))).await;
    let address = stack.addresses()[0];
    upstream.set_reply(Reply { delay: Duration::MAX, ..Reply::default() });
    let first = tokio::spawn(client::send(address, order("k", "7")));
    eventually("it is asked", async || upstream.requests(), |requests| *requests == 1).await;
    first.abort();
    upstream.set_reply(Reply::default());
    let retry = client::send(address, order("k", "7")).await.unwrap();
    assert_eq!((retry.status.as_u16(), code(&retry)), (409, "IDEMPOTENCY_IN_PROGRESS".into()));
    let again = async || client::send(address, order("k", "7")).await.unwrap().status;
    eventually("the lease ends", again, |status| *status == 200).await;
    assert_eq!(upstream.requests(), 2);
    assert_unharmed(&stack);
}

#[tokio::test]
async fn a_key_of_an_envoy_that_dies_is_free_after_its_lease() {
    let (stack, upstream) = start(2, idempotency_policy(json!({ "lease": "2s" }))).await;
    let [a, b] = stack.addresses()[..] else { panic!("two Envoys") };
    upstream.set_reply(Reply { delay: Duration::MAX, ..Reply::default() });
    let begun = Instant::now();
    let _first = tokio::spawn(client::send(a, order("k", "7")));
    eventually("it is asked", async || upstream.requests(), |requests| *requests == 1).await;
    stack.envoys[0].kill().await;
    upstream.set_reply(Reply::default());
    let retry = client::send(b, order("k", "7")).await.unwrap();
    assert_eq!((retry.status.as_u16(), code(&retry)), (409, "IDEMPOTENCY_IN_PROGRESS".into()));
    let again = async || client::send(b, order("k", "7")).await.unwrap().status;
    eventually("the key is free", again, |status| *status == 200).await;
    let held = begun.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&held), "{held:?}");
}

/// Without `read_bodies`, what tells a retry from another request is all but the body.
#[tokio::test]
async fn without_reading_bodies_a_key_is_for_one_method_path_and_query() {
    let upstream = Upstream::start(ports::free().unwrap()).await.unwrap();
    let options = StackOptions {
        upstream: envoy::Upstream::Address(upstream.address()),
        ..StackOptions::new(idempotency_policy(json!({})))
    };
    let stack = Stack::start(options).await.unwrap();
    let address = stack.addresses()[0];
    assert_eq!(client::send(address, order("k", "7")).await.unwrap().status, 200);
    let replayed = async || client::send(address, order("k", "8")).await.unwrap();
    eventually("it is kept", replayed, |answer| answer.header("idempotent-replayed") == Some("true")).await;
    let elsewhere = Request::post("/orders?x").header("host", "tollgate.test").header("idempotency-key", "k");
    let answer = client::send(address, elsewhere.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!((answer.status.as_u16(), upstream.requests()), (422, 1));
    assert_unharmed(&stack);
}

// ---- Shared by the above.

async fn start(replicas: u16, policy: Value) -> (Stack, Upstream) {
    start_with_manager(replicas, policy, json!({})).await
}

async fn start_with_manager(replicas: u16, policy: Value, manager: Value) -> (Stack, Upstream) {
    let upstream = Upstream::start(ports::free().unwrap()).await.unwrap();
    let manager = with(json!({ "http_protocol_options": { "enable_trailers": true } }), manager);
    let options = StackOptions {
        replicas,
        plugin: json!({ "read_bodies": true }),
        upstream: envoy::Upstream::Address(upstream.address()),
        variables: vec![("JWT_SECRET".into(), SECRET.into())],
        manager: manager.as_object().unwrap().clone(),
        ..StackOptions::new(policy)
    };
    (Stack::start(options).await.unwrap(), upstream)
}

/// A route that counts users whom the body names, and one that counts requests.
fn bodies_policy(quota: u64) -> Value {
    let route = |name: &str, key: &str| {
        let limit = with(limit(name, "fixed_window", quota), json!({ "key": [key] }));
        json!({ "name": name, "match": { "path": format!("/{name}") }, "rate_limits": [limit] })
    };
    json!({ "routes": [route("by-body", "body:/user"), route("plain", "const:all")] })
}

fn idempotency_policy(fields: Value) -> Value {
    json!({ "default": { "idempotency": with(json!({ "name": "orders", "key": ["const:all"] }), fields) } })
}

fn order(key: &str, content: &str) -> Request<Full<Bytes>> {
    let request = Request::post("/orders").header("host", "tollgate.test").header("idempotency-key", key);
    request.body(Full::from(content.to_owned())).unwrap()
}

/// A retry of `order("k", "7")` is told that it was carried out.
async fn not_kept(stack: &Stack, upstream: &Upstream) {
    let retry = async || code(&client::send(stack.addresses()[0], order("k", "7")).await.unwrap());
    eventually("it is known", retry, |code| code == "IDEMPOTENT_RESPONSE_NOT_KEPT").await;
    assert_eq!(upstream.requests(), 1);
    assert_unharmed(stack);
}

/// What programs tell refusals apart by; empty for other answers.
fn code(answer: &Answer) -> String {
    answer.json().unwrap_or_default()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

/// Bytes of every value, of which none is where another one of the same length would be.
fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// How a body is sent.
#[derive(Clone, Copy, Debug)]
enum Form {
    Length,
    /// Pieces of at most so many bytes.
    Chunks(usize),
    /// Pieces, and a trailer field behind them.
    Trailers,
}

impl Form {
    fn wire(self, path: &str, body: &[u8]) -> Vec<u8> {
        let mut wire = format!("POST {path} HTTP/1.1\r\nhost: tollgate.test\r\n").into_bytes();
        let (size, end) = match self {
            Self::Length => {
                wire.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
                wire.extend_from_slice(body);
                return wire;
            }
            Self::Chunks(size) => (size, "0\r\n\r\n"),
            Self::Trailers => (10_000, "0\r\nx-checked: yes\r\n\r\n"),
        };
        wire.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
        for chunk in body.chunks(size) {
            wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(end.as_bytes());
        wire
    }
}

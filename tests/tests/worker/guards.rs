//! What one Worker knows, the others know: tokens that were revoked, locks, duplicates, upstreams that fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tollgate_tests::client::{self, Answer};
use tollgate_tests::load::{Load, Report};
use tollgate_tests::stack::{Edge, StoreChoice};
use tollgate_tests::upstream::{Reply, ReplyBody};

use crate::Site;
use crate::failures::assert_problem;
use crate::support::{NOW, assert_unharmed, eventually, request, signed_tokens, valid_tokens};

// ---- Tokens.

/// Who is told that he is logged out is refused from then on, wherever he asks.
#[tokio::test]
async fn a_logout_at_one_worker_is_known_at_the_other() {
    let site = two_workers(policy_of_tokens(), |edge| edge).await;
    let [here, there] = addresses(&site);
    let token = &valid_tokens("HS256")[0];
    for address in [here, there] {
        assert_eq!(ask(address, "/api", token, NOW).await.status, StatusCode::OK);
    }
    site.origin.set_reply(Reply { status: StatusCode::FORBIDDEN, ..Reply::default() });
    assert_eq!(ask(here, "/logout", token, NOW).await.status, StatusCode::FORBIDDEN);
    site.origin.set_reply(Reply::default());
    assert_eq!(ask(there, "/api", token, NOW).await.status, StatusCode::OK, "the origin has said no");
    assert_eq!(ask(here, "/logout", token, NOW).await.status, StatusCode::OK);
    for address in [there, here] {
        let refused = ask(address, "/api", token, NOW).await;
        assert_problem(&refused, StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
    }
    let other = &valid_tokens("HS256")[1];
    assert_eq!(ask(there, "/api", other, NOW).await.status, StatusCode::OK);
    assert_unharmed(&site.stack);
}

/// The origin has said yes, but the token would still be good.
#[tokio::test]
async fn a_logout_that_the_store_did_not_hear_of_is_none() {
    let site = two_workers(policy_of_tokens(), |edge| edge.with("TOLLGATE_STORE_TIMEOUT", "200ms")).await;
    site.stack.gateway.as_ref().unwrap().kill().await;
    let answer = ask(site.address(), "/logout", &valid_tokens("HS256")[0], NOW).await;
    assert_problem(&answer, StatusCode::SERVICE_UNAVAILABLE, "NOT_REVOKED");
    assert_eq!(site.origin.requests(), 1);
    assert_unharmed(&site.stack);
}

/// `shared/tests/tokens` has them, as OpenSSL made and judged them; here the platform verifies.
#[tokio::test]
async fn signatures_of_public_keys_are_verified_by_the_platform() {
    let site = two_workers(policy_of_tokens(), |edge| edge).await;
    let tokens = signed_tokens();
    let mut judged = 0;
    for case in tokens["tokens"].as_array().unwrap() {
        let (token, algorithm) = (case["token"].as_str().unwrap(), case["alg"].as_str().unwrap());
        if !["RS256", "ES256", "EdDSA"].contains(&algorithm) {
            continue;
        }
        let expected = if case["valid"] == true { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        // The second time, what holds is known.
        for _ in 0..2 {
            let answer = ask(site.address(), "/token", token, NOW).await;
            assert_eq!(answer.status, expected, "{}: {answer}", case["what"]);
        }
        judged += 1;
    }
    assert!(judged > 50, "{judged}");
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn forged_and_expired_tokens_are_refused() {
    let site = two_workers(policy_of_tokens(), |edge| edge).await;
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let token = &valid_tokens(algorithm)[0];
        let [_, claims, signature]: [&str; 3] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
        let expired = ask(site.address(), "/token", token, NOW + 3_600_000).await;
        assert_problem(&expired, StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
        for (what, head) in [
            // {"alg":"none"}
            ("no algorithm", "eyJhbGciOiJub25lIn0"),
            // {"alg":"HS256"}: signed with the public key as the secret, or with nothing of use.
            ("an algorithm for secrets", "eyJhbGciOiJIUzI1NiJ9"),
            // {"alg":"ES256"} and {"alg":"RS256"}: another key's.
            (
                "another algorithm",
                if algorithm == "ES256" { "eyJhbGciOiJSUzI1NiJ9" } else { "eyJhbGciOiJFUzI1NiJ9" },
            ),
        ] {
            for signature in [signature, ""] {
                let forged =
                    ask(site.address(), "/token", &format!("{head}.{claims}.{signature}"), NOW).await;
                assert_problem(&forged, StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
                println!("{algorithm}, {what}: {}", forged.header("www-authenticate").unwrap());
            }
        }
    }
    assert_eq!(site.origin.requests(), 0);
    assert_unharmed(&site.stack);
}

// ---- What is claimed.

#[tokio::test]
async fn of_equal_requests_at_once_the_origin_sees_one() {
    let dedup = json!({ "dedup": { "key": ["header:x-client"], "ttl": "1h" } });
    let site = two_workers(policy(&dedup), |edge| edge).await;
    let report = at_once(&site, "one").await;
    assert_eq!((report.count(200), report.failed()), (64, 0), "{report:?}");
    assert_eq!(site.origin.requests(), 1);
    let again = client::send(site.address(), request("/", "one")).await.unwrap();
    assert_eq!(again.json().unwrap(), json!({ "tracked": false, "reason": "duplicate" }));
    client::send(site.address(), request("/", "another")).await.unwrap();
    assert_eq!(site.origin.requests(), 2);
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn of_many_who_want_a_lock_one_gets_it() {
    let site = two_workers(policy(&lock()), |edge| edge).await;
    site.origin.set_reply(Reply { delay: Duration::from_secs(2), ..Reply::default() });
    let report = at_once(&site, "one").await;
    assert_eq!((report.count(200), report.count(409)), (1, 63), "{report:?}");
    assert_eq!(site.origin.requests(), 1);
    site.origin.set_reply(Reply::default());
    let [here, there] = addresses(&site);
    let first = free_again(here).await;
    let second = free_again(there).await;
    // Whoever has a lock later has the larger number, and clients cannot choose one.
    let fence = |answer: &Answer| {
        let seen = answer.json().unwrap();
        let fields: Vec<_> = seen["headers"].as_array().unwrap().clone();
        let fences: Vec<&Value> = fields.iter().filter(|field| field[0] == "x-tollgate-fence").collect();
        assert_eq!(fences.len(), 1, "{seen}");
        fences[0][1].as_str().unwrap().parse::<u64>().unwrap()
    };
    assert!(fence(&first) < fence(&second), "{first}\n{second}");
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn who_waits_for_a_lock_gets_it_and_one_has_it_at_a_time() {
    let site = two_workers(policy(&waiting("25s")), |edge| edge).await;
    site.origin.set_reply(Reply { delay: Duration::from_millis(30), ..Reply::default() });
    let begun = Instant::now();
    let report = Load::new(site.stack.addresses(), 16, "/").run().await.unwrap();
    assert_eq!(report.count(200), 16, "{report:?}");
    let took = begun.elapsed();
    println!("16 requests of 30 ms took {took:?}");
    assert!(took >= 16 * Duration::from_millis(30), "{took:?}");
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn who_waits_in_vain_or_leaves_has_claimed_nothing() {
    let site = two_workers(policy(&waiting("1s")), |edge| edge).await;
    let [here, there] = addresses(&site);
    site.origin.set_reply(Reply { body: ReplyBody::Unfinished("begun".into()), ..Reply::default() });
    let holder = begin(here).await;
    site.origin.set_reply(Reply::default());
    let begun = Instant::now();
    assert_locked(&client::send(there, request("/", "two")).await.unwrap());
    assert!(begun.elapsed() >= Duration::from_secs(1), "it did not wait");
    let mut leaves = TcpStream::connect(there).await.unwrap();
    leaves.write_all(HEAD.replace("one", "three").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(leaves);
    tokio::time::sleep(Duration::from_secs(1)).await;
    holder.set_zero_linger().unwrap();
    drop(holder);
    for client in ["two", "three"] {
        let before = site.origin.requests();
        let again = async || {
            client::send(here, request("/", client)).await.unwrap();
            site.origin.requests() - before
        };
        eventually("it is no duplicate, and the lock is free", again, |passed| *passed == 1).await;
    }
    assert_unharmed(&site.stack);
}

/// An answer that is still on its way is not over.
#[tokio::test]
async fn a_lock_is_held_until_the_last_byte_or_until_the_client_leaves() {
    let site = two_workers(policy(&lock()), |edge| edge).await;
    let [here, there] = addresses(&site);
    site.origin.set_reply(Reply { body: ReplyBody::Unfinished("begun".into()), ..Reply::default() });
    let connection = begin(here).await;
    assert_locked(&client::send(there, request("/", "one")).await.unwrap());
    site.origin.set_reply(Reply::default());
    assert_locked(&client::send(here, request("/", "one")).await.unwrap());
    // Of a client that says nothing more workerd does not know that it hears nothing more either, until it has something to tell it.
    connection.set_zero_linger().unwrap();
    drop(connection);
    free_again(there).await;
    // The origin breaks off.
    site.origin.set_reply(Reply { body: ReplyBody::Cut("begun".into()), ..Reply::default() });
    let connection = begin(here).await;
    site.origin.set_reply(Reply::default());
    free_again(there).await;
    drop(connection);
    assert_unharmed(&site.stack);
}

/// While the request is read, while it waits for the store, while the origin works, while the answer is on its way.
#[tokio::test]
async fn clients_that_leave_at_any_moment_leave_no_lock_behind() {
    let site = two_workers(policy(&lock()), |edge| edge).await;
    site.origin.set_reply(Reply { delay: Duration::from_millis(3), ..Reply::default() });
    let mut clients = tokio::task::JoinSet::new();
    for (number, address) in (0..32_u64).zip(site.stack.addresses().into_iter().cycle()) {
        clients.spawn(async move {
            for round in 0..20 {
                let mut connection = TcpStream::connect(address).await.unwrap();
                let head = HEAD.replace("one", &number.to_string());
                connection.write_all(head.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_micros((number * 20 + round) * 7919 % 80_000)).await;
                // It is told that nobody is there any more.
                connection.set_zero_linger().unwrap();
            }
        });
    }
    clients.join_all().await;
    println!("{} of 640 requests reached the origin", site.origin.requests());
    for number in 0..32 {
        let address = addresses(&site)[number % 2];
        let again = async || client::send(address, request("/", &number.to_string())).await.unwrap();
        eventually("the lock is free", again, |answer| answer.status == StatusCode::OK).await;
    }
    assert_unharmed(&site.stack);
}

/// Until the origin has answered, it is still at work for who has left.
#[tokio::test]
async fn a_lock_is_held_while_the_origin_works_for_a_client_that_has_left() {
    let site = two_workers(policy(&lock()), |edge| edge).await;
    let [here, there] = addresses(&site);
    site.origin.set_reply(Reply { delay: Duration::from_secs(2), ..Reply::default() });
    let mut connection = TcpStream::connect(here).await.unwrap();
    connection.write_all(HEAD.as_bytes()).await.unwrap();
    eventually("the origin is asked", async || site.origin.requests(), |requests| *requests == 1).await;
    drop(connection);
    site.origin.set_reply(Reply::default());
    assert_locked(&client::send(there, request("/", "one")).await.unwrap());
    free_again(there).await;
    assert_unharmed(&site.stack);
}

/// Bodies that are watched arrive as they were sent.
#[tokio::test]
async fn what_a_lock_is_held_for_arrives_as_it_was_sent() {
    let site = two_workers(policy(&lock()), |edge| edge).await;
    let bytes = Bytes::from((0..=255).cycle().take(300_000).collect::<Vec<u8>>());
    for encoding in [None, Some("gzip"), Some("br")] {
        let headers = encoding.map(|encoding| {
            (HeaderName::from_static("content-encoding"), HeaderValue::from_static(encoding))
        });
        let headers = headers
            .into_iter()
            .chain([(HeaderName::from_static("x-odd"), HeaderValue::from_static("kept"))])
            .collect();
        let body = ReplyBody::Bytes(bytes.clone());
        site.origin.set_reply(Reply { status: StatusCode::CREATED, headers, body, ..Reply::default() });
        let ask = async || client::send(site.address(), request("/", "one")).await.unwrap();
        let answer =
            eventually("the lock is free", ask, |answer| answer.status != StatusCode::CONFLICT).await;
        assert_eq!(answer.status, StatusCode::CREATED);
        assert_eq!((answer.header("content-encoding"), answer.header("x-odd")), (encoding, Some("kept")));
        assert_eq!(answer.header("content-length"), Some("300000"));
        assert!(answer.body == bytes, "{encoding:?}: {} bytes", answer.body.len());
    }
    for status in [204, 304] {
        let status = StatusCode::from_u16(status).unwrap();
        site.origin.set_reply(Reply { status, body: ReplyBody::Bytes(Bytes::new()), ..Reply::default() });
        let ask = async || client::send(site.address(), request("/", "one")).await.unwrap();
        eventually("the lock is free", ask, |answer| answer.status == status).await;
    }
    assert_unharmed(&site.stack);
}

// ---- The breaker.

#[tokio::test]
async fn a_breaker_opens_for_both_and_then_lets_one_probe_through() {
    let breaker = json!({ "circuit_breaker": { "failures": 3, "within": "60s", "open_for": "2s" } });
    let site = two_workers(policy(&breaker), |edge| edge).await;
    let [here, there] = addresses(&site);
    site.origin.set_reply(Reply { status: StatusCode::BAD_GATEWAY, ..Reply::default() });
    for _ in 0..3 {
        assert_eq!(client::send(here, request("/", "x")).await.unwrap().status, StatusCode::BAD_GATEWAY);
    }
    let open = async |address| client::send(address, request("/", "x")).await.unwrap();
    for address in [here, there] {
        let refused = eventually(
            "it opens",
            async || open(address).await,
            |answer| answer.status == StatusCode::SERVICE_UNAVAILABLE,
        )
        .await;
        assert_problem(&refused, StatusCode::SERVICE_UNAVAILABLE, "CIRCUIT_OPEN");
        assert!(refused.header("retry-after").is_some(), "{refused}");
    }
    // A probe that takes its time is the only one as long as it is under way.
    let before = site.origin.requests();
    site.origin.set_reply(Reply { delay: Duration::from_secs(2), ..Reply::default() });
    let probing = Load {
        pause: Duration::from_millis(20),
        connections: 8,
        ..Load::new(vec![here, there], u64::MAX, "/")
    };
    let probing = probing.start().unwrap();
    eventually("a probe is let through", async || site.origin.requests() - before, |requests| *requests > 0)
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(site.origin.requests() - before, 1);
    site.origin.set_reply(Reply::default());
    eventually("it closes", async || probing.total().count(200), |passed| *passed > 50).await;
    probing.stop();
    let report = probing.finish().await.unwrap();
    assert_eq!(report.failed(), 0, "{report:?}");
    assert_unharmed(&site.stack);
}

// ---- Idempotency keys.

/// What is no text would be replayed as something else.
#[tokio::test]
async fn an_answer_with_a_field_that_is_no_text_is_not_kept() {
    let keyed = json!({ "idempotency": { "key": ["header:x-client"], "required": true } });
    let site = Site::start(policy(&keyed)).await;
    let send = async |key: &str| {
        let mut request = request("/", "x");
        *request.method_mut() = hyper::Method::POST;
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        client::send(site.address(), request).await.unwrap()
    };
    for (key, sent) in [("text", "caf\u{e9} \u{20ac}".as_bytes()), ("none", b"caf\xe9")] {
        let field = (HeaderName::from_static("x-odd"), HeaderValue::from_bytes(sent).unwrap());
        site.origin.set_reply(Reply { headers: vec![field], ..Reply::default() });
        let first = send(key).await;
        assert_eq!(first.headers["x-odd"].as_bytes(), sent, "{first}");
        let again = async || send(key).await;
        let is_told = |answer: &Answer| !answer.text().contains("IDEMPOTENCY_IN_PROGRESS");
        let again = eventually("the first one is over", again, is_told).await;
        if key == "text" {
            assert_eq!(again.header("idempotent-replayed"), Some("true"), "{again}");
            assert_eq!(again.headers["x-odd"].as_bytes(), sent, "{again}");
        } else {
            assert_problem(&again, StatusCode::CONFLICT, "IDEMPOTENT_RESPONSE_NOT_KEPT");
        }
    }
    assert_eq!(site.origin.requests(), 2);
    assert_unharmed(&site.stack);
}

// ---- Without the store.

#[tokio::test]
async fn without_the_store_each_guard_does_what_it_does_then() {
    let mut policy = policy_of_tokens();
    let key = json!(["header:x-client"]);
    let more = [
        json!({ "name": "dedup", "match": { "path": "/dedup" }, "dedup": { "key": key, "ttl": "1h" } }),
        json!({ "name": "lock", "match": { "path": "/lock" }, "lock": { "key": key, "lease": "1h" } }),
        json!({ "name": "breaker", "match": { "path": "/breaker" },
            "circuit_breaker": { "failures": 3, "within": "60s", "open_for": "2s" } }),
    ];
    policy["routes"].as_array_mut().unwrap().extend(more);
    let site = two_workers(policy, |edge| edge.with("TOLLGATE_STORE_TIMEOUT", "200ms")).await;
    site.stack.gateway.as_ref().unwrap().kill().await;
    let token = &valid_tokens("HS256")[0];
    for _ in 0..4 {
        let revocation = ask(site.address(), "/api", token, NOW).await;
        assert_problem(&revocation, StatusCode::SERVICE_UNAVAILABLE, "GUARD_UNAVAILABLE");
        let lock = client::send(site.address(), request("/lock", "x")).await.unwrap();
        assert_problem(&lock, StatusCode::SERVICE_UNAVAILABLE, "GUARD_UNAVAILABLE");
        for (path, mode) in [("/dedup", "allow"), ("/breaker", "local")] {
            let answer = client::send(site.address(), request(path, "x")).await.unwrap();
            assert_eq!(
                (answer.status, answer.header("x-tollgate-degraded")),
                (StatusCode::OK, Some(mode)),
                "{answer}"
            );
        }
    }
    assert_unharmed(&site.stack);
}

// ---- Two Workers, and what they are asked.

pub(crate) async fn two_workers(policy: Value, change: impl FnOnce(Edge) -> Edge) -> Site {
    Site::start_with(policy, StoreChoice::Redis, |mut edge| {
        (edge.instances, edge.test_clock) = (2, true);
        change(edge.with("JWT_SECRET", signed_tokens()["secret"].as_str().unwrap()))
    })
    .await
}

pub(crate) fn addresses(site: &Site) -> [SocketAddr; 2] {
    site.stack.addresses().try_into().unwrap()
}

/// A route for everything with these guards.
fn policy(guards: &Value) -> Value {
    let mut route = json!({ "name": "all" });
    route.as_object_mut().unwrap().extend(guards.as_object().unwrap().clone());
    json!({ "routes": [route] })
}

fn lock() -> Value {
    json!({ "lock": { "key": ["header:x-client"], "lease": "1h" } })
}

/// A lock of all that is waited for, behind a guard that marks what waits.
fn waiting(wait: &str) -> Value {
    json!({
        "dedup": { "name": "first", "key": ["header:x-client"], "ttl": "1h" },
        "lock": { "key": ["const:all"], "lease": "1h", "wait": wait },
    })
}

/// Tokens of every kind, on paths that do something with them.
pub(crate) fn policy_of_tokens() -> Value {
    let tokens = signed_tokens();
    let mut keys = vec![json!({ "alg": "HS256", "kid": "HS256-key", "secret": { "env": "JWT_SECRET" } })];
    for key in tokens["keys"].as_array().unwrap() {
        let algorithm = key["alg"].as_str().unwrap();
        keys.push(json!({ "alg": algorithm, "kid": format!("{algorithm}-key"), "pem": key["pem"] }));
    }
    json!({
        "jwt": { "algorithms": ["HS256", "RS256", "ES256", "EdDSA"], "keys": keys },
        "routes": [
            { "name": "api", "match": { "path": "/api" }, "revocation": {} },
            { "name": "logout", "match": { "path": "/logout" }, "revokes": "token" },
            { "name": "token", "match": { "path": "/token" }, "token": "required" },
        ],
    })
}

/// `GET path` with a token at some time, in milliseconds.
pub(crate) async fn ask(address: SocketAddr, path: &str, token: &str, now: u64) -> Answer {
    let fields = [("authorization", &*format!("Bearer {token}")), ("x-tollgate-test-now", &now.to_string())];
    client::get(address, path, &fields).await.unwrap()
}

/// 64 requests of one client at the same time, dealt to both Workers.
async fn at_once(site: &Site, client: &'static str) -> Report {
    let load = Load {
        request: Arc::new(move |_| request("/", client)),
        ..Load::new(site.stack.addresses(), 64, "/")
    };
    load.run().await.unwrap()
}

/// Sends a request, and reads as much of its answer as has come. Who held the lock before has let go of it, or is about to:
/// it is released behind the answer.
async fn begin(address: SocketAddr) -> TcpStream {
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(HEAD.as_bytes()).await.unwrap();
        let mut came = Vec::new();
        // workerd keeps the connection of whom it refused.
        while !came.starts_with(b"HTTP/1.1 409 ") {
            connection.readable().await.unwrap();
            match connection.try_read_buf(&mut came) {
                Ok(0) => panic!("closed after {}", String::from_utf8_lossy(&came)),
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
            if came.windows(5).any(|bytes| bytes == b"begun") {
                return connection;
            }
        }
        assert!(Instant::now() < patience, "the lock stays held");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn free_again(address: SocketAddr) -> Answer {
    let mut wanted = request("/", "one");
    wanted.headers_mut().insert("x-tollgate-fence", HeaderValue::from_static("1000000"));
    let ask = async || client::send(address, wanted.clone()).await.unwrap();
    eventually("the lock is free", ask, |answer| answer.status == StatusCode::OK).await
}

fn assert_locked(answer: &Answer) {
    assert_problem(answer, StatusCode::CONFLICT, "LOCKED");
    assert!(answer.header("retry-after").is_some(), "{answer}");
}

const HEAD: &str = "GET / HTTP/1.1\r\nhost: tollgate.test\r\nx-client: one\r\n\r\n";

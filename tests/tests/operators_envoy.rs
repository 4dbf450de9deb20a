//! The control path of Envoys: as it is described, the same on every replica, and nowhere else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    reason = "test code: a panic is a failed test"
)]

mod support;
#[path = "support/walk.rs"]
mod walk;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tollgate_tests::client::{self, Answer};
use tollgate_tests::envoy::{self, Paths};
use tollgate_tests::ports;
use tollgate_tests::stack::{Stack, StackOptions, StoreChoice};
use tollgate_tests::upstream::Upstream;

use support::{SECRET, assert_unharmed, eventually, limit, metric, token_of, with};

#[tokio::test]
async fn two_envoys_answer_as_is_described() {
    let site = Site::start_with(walk::policy(), |options| options.concurrency = 2).await;
    let breaks = async || site.stack.gateway.as_ref().unwrap().kill().await;
    walk::through(&site.stack.addresses(), TOKEN, breaks).await.unwrap();
    assert_eq!(site.upstream.requests(), 0, "none of it is for the upstream");
    assert_eq!(site.decided().await, 0.0, "none of it is a request that is decided about");
    assert_unharmed(&site.stack);
}

// ---- What is done at one holds at the other.

#[tokio::test]
async fn what_is_revoked_at_one_envoy_is_refused_at_the_other() {
    let site = Site::start().await;
    let [here, there] = site.addresses();
    let account = async |address, subject: &str| {
        let authorization = format!("Bearer {}", token_of(subject));
        client::get(address, "/account", &[("authorization", &authorization)]).await.unwrap().status.as_u16()
    };
    assert_eq!([account(here, "ann").await, account(there, "bob").await], [200, 200]);
    site.act(there, "revoke", json!({ "token": token_of("ann") })).await;
    site.act(there, "revoke", json!({ "jti": "bob" })).await;
    for (subject, status) in [("ann", 401), ("bob", 401), ("cid", 200)] {
        assert_eq!([account(here, subject).await, account(there, subject).await], [status; 2], "{subject}");
    }
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn a_limit_is_looked_at_and_reset() {
    let site = Site::start().await;
    let [here, there] = site.addresses();
    let ann = json!({ "name": "searches", "key": ["ann"] });
    let fresh = json!({ "limit": 2, "remaining": 2, "resetAfterMs": 0 });
    assert_eq!(site.act(here, "limits/inspect", ann.clone()).await, fresh);
    for (address, status) in [(here, 200), (here, 200), (there, 429)] {
        assert_eq!(visit(address, "/search").await.status, status);
    }
    assert_eq!(site.act(here, "limits/inspect", ann.clone()).await["remaining"], 0);
    // Whoever has refused somebody remembers it, so he is asked.
    site.act(there, "limits/reset", ann.clone()).await;
    for (address, status) in [(there, 200), (here, 200), (here, 429)] {
        assert_eq!(visit(address, "/search").await.status, status);
    }
    // Another one may be asked too, and says how long it takes.
    let reset = site.act(there, "limits/reset", ann).await;
    assert_eq!(reset, json!({ "status": "ok", "everywhereAfterMs": 1000 }));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(visit(here, "/search").await.status, 200);
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn a_breaker_is_opened_and_closed_by_hand() {
    let site = Site::start().await;
    let [here, there] = site.addresses();
    let shop = async || visit(there, "/shop").await.status.as_u16();
    assert_eq!(shop().await, 200);
    site.act(here, "breakers/open", json!({ "name": "shop", "for": "5m" })).await;
    eventually("it opens", shop, |status| *status == 503).await;
    assert_eq!(site.act(there, "breakers/inspect", json!({ "name": "shop" })).await["state"], "open");
    site.act(here, "breakers/close", json!({ "name": "shop" })).await;
    eventually("it closes", shop, |status| *status == 200).await;
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn what_a_program_has_taken_requests_do_not_get() {
    let site = Site::start().await;
    let [here, there] = site.addresses();
    let lock = json!({ "name": "report", "key": ["ann"] });
    let taken = site.act(here, "locks/acquire", lock.clone()).await;
    assert_eq!(code(&visit(there, "/report").await), (409, "LOCKED".into()));
    assert_eq!(code(&site.post(there, "locks/acquire", &lock).await), (409, "LOCKED".into()));
    let mine = with(lock, json!({ "holder": taken["holder"] }));
    assert_eq!(site.act(there, "locks/extend", mine.clone()).await["fence"], taken["fence"]);
    site.act(there, "locks/release", mine.clone()).await;
    assert_eq!(code(&site.post(here, "locks/release", &mine).await), (409, "LOCK_LOST".into()));
    assert_eq!(visit(there, "/report").await.status, 200);

    let mark = json!({ "name": "order", "key": ["ann"] });
    assert_eq!(site.act(here, "dedup/mark", mark.clone()).await["first"], true);
    assert_eq!(visit(there, "/order").await.status, 208);
    site.act(here, "dedup/forget", mark).await;
    assert_eq!([visit(there, "/order").await.status, visit(here, "/order").await.status], [200, 208]);
    assert_unharmed(&site.stack);
}

// ---- What fails.

/// No success is made up: neither before the store is left alone nor after, and the traffic goes on as the policy says.
#[tokio::test]
async fn what_the_store_does_not_confirm_is_not_done() {
    let mut site = Site::start_with(policy(), |options| {
        options.plugin = with(plugin(), json!({ "store": { "timeout": "300ms" } }));
    })
    .await;
    let [here, _] = site.addresses();
    let lock = json!({ "name": "report", "key": ["ann"] });
    let refused = async |site: &Site| {
        let answer = site.post(here, "locks/acquire", &lock).await;
        assert_eq!(code(&answer), (503, "STORE_UNAVAILABLE".into()));
        answer.json().unwrap()["detail"].as_str().unwrap().to_owned()
    };
    let details = async || {
        let answer = walk::ask(here, "GET", "/health/detailed", Some(TOKEN), "").await.unwrap();
        (answer.status.as_u16(), answer.json().unwrap()["checks"][0]["details"]["circuitBreakerOpen"].clone())
    };
    assert_eq!(details().await, (200, json!(false)));
    site.stack.gateway.as_ref().unwrap().suspend().unwrap();
    let detail = refused(&site).await;
    assert!(detail.contains("It is not known whether this was done"), "{detail}");
    for _ in 0..2 {
        refused(&site).await;
    }
    assert_eq!(details().await, (503, json!(true)), "it is asked although it is left alone");
    let detail = refused(&site).await;
    assert!(detail.contains("This was not done"), "{detail}");
    let health = walk::ask(here, "GET", "/health", None, "").await.unwrap();
    assert_eq!(health.status, 200, "the host itself lives");
    site.stack.gateway.as_ref().unwrap().resume().unwrap();
    // What was perhaps taken for a holder that was drawn is given back.
    let taken = async || site.post(here, "locks/acquire", &lock).await.status.as_u16();
    eventually("the lock is free", taken, |status| *status == 200).await;
    assert_eq!(details().await, (200, json!(false)));
    site.stack.gateway.as_mut().unwrap().restart().await.unwrap();
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn a_body_is_read_as_far_as_it_may_be_long() {
    let site = Site::start().await;
    let [here, _] = site.addresses();
    let long = vec![b' '; 1 << 20];
    let announced = walk::ask(here, "POST", "/revoke", Some(TOKEN), long.clone()).await.unwrap();
    assert_eq!(code(&announced), (413, "BODY_TOO_LARGE".into()));
    // Nobody waits for the rest of one that is too long.
    let chunk = [format!("{:x}\r\n", 17 << 10).as_bytes(), &long[..17 << 10], b"\r\n"].concat();
    let mut connection = begin(here, "transfer-encoding: chunked").await;
    connection.write_all(&chunk).await.unwrap();
    let answer = client::read(&mut connection).await.unwrap();
    assert_eq!(code(&answer), (413, "BODY_TOO_LARGE".into()));
    // As long as may be, in pieces.
    let body = json!({ "jti": "ann" }).to_string();
    let mut connection = begin(here, "content-length: 16384").await;
    connection.write_all(body.as_bytes()).await.unwrap();
    for piece in long[..(16 << 10) - body.len()].chunks(3000) {
        tokio::time::sleep(Duration::from_millis(2)).await;
        connection.write_all(piece).await.unwrap();
    }
    assert_eq!(client::read(&mut connection).await.unwrap().status, 200);
    assert_eq!(site.upstream.requests(), 0);
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn a_client_that_leaves_midway_leaves_nothing_behind() {
    let site = Site::start().await;
    let [here, _] = site.addresses();
    let lock = json!({ "name": "report", "key": ["ann"] });
    for _ in 0..50 {
        let mut connection = begin(here, "content-length: 100").await;
        connection.write_all(&lock.to_string().as_bytes()[..20]).await.unwrap();
    }
    assert_eq!(visit(here, "/report").await.status, 200, "half of what is asked for is not done");

    // What was asked for as a whole is, whether or not somebody waits for the answer.
    let gateway = site.stack.gateway.as_ref().unwrap();
    gateway.suspend().unwrap();
    let revoke =
        tokio::spawn(async move { walk::post(here, "revoke", TOKEN, &json!({ "jti": "ann" })).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    revoke.abort();
    tokio::time::sleep(Duration::from_millis(100)).await;
    gateway.resume().unwrap();
    let authorization = format!("Bearer {}", token_of("ann"));
    let account =
        async || client::get(here, "/account", &[("authorization", &authorization)]).await.unwrap().status;
    eventually("the token is revoked", account, |status| *status == 401).await;
    assert_unharmed(&site.stack);
}

/// What follows the head of an upgrade is no body, and would not come before the answer.
#[tokio::test]
async fn an_upgrade_has_no_body() {
    let upgrades = json!({ "upgrade_configs": [{ "upgrade_type": "websocket" }] });
    let site =
        Site::start_with(policy(), |options| options.manager = upgrades.as_object().unwrap().clone()).await;
    let mut connection = begin(site.addresses()[0], "connection: upgrade\r\nupgrade: websocket").await;
    assert_eq!(code(&client::read(&mut connection).await.unwrap()), (400, "INVALID_BODY".into()));
    assert_eq!(site.upstream.requests(), 0);
    assert_unharmed(&site.stack);
}

// ---- Where it is.

#[tokio::test]
async fn no_other_spelling_leads_there_and_nothing_below_it_leads_further() {
    for (paths, [spelled_otherwise, below]) in [
        (Paths::Raw, [&OTHERWISE[..], &[]]),
        (
            Paths::Normalised,
            [&["/.TOLLGATE/health/detailed", "/a?/.tollgate/health/detailed"], &OTHERWISE[..2]],
        ),
    ] {
        let site = Site::start_with(everything_is_counted(), |options| options.paths = paths).await;
        let [here, _] = site.addresses();
        for (number, path) in (1..).zip(spelled_otherwise) {
            let answer = raw(here, path).await;
            assert_eq!(answer.json().unwrap()["path"], *path, "the upstream's answer: {answer}");
            assert_eq!((site.upstream.requests(), site.decided().await), (number, number as f64), "{path}");
        }
        let before = site.upstream.requests();
        for path in below {
            let answer = raw(here, path).await;
            assert_eq!(answer.json().unwrap()["overall"], "healthy", "normalised before: {path}: {answer}");
        }
        for path in [
            "/.tollgate/health?x",
            "/.tollgate/health/",
            "/.tollgate/HEALTH",
            "/.tollgate/",
            "/.tollgate/a/b",
        ] {
            assert_eq!(code(&raw(here, path).await), (404, "NOT_FOUND".into()), "{path}");
        }
        assert_eq!(site.upstream.requests(), before);
        assert_unharmed(&site.stack);
    }
}

#[tokio::test]
async fn the_prefix_is_where_it_was_configured_to_be_and_without_a_token_there_is_none() {
    let elsewhere = with(plugin(), json!({ "control": { "token": TOKEN, "prefix": "/ops/gate/" } }));
    let site = Site::start_with(policy(), |options| options.plugin = elsewhere).await;
    let document = raw(site.addresses()[0], "/ops/gate/openapi.json").await.json().unwrap();
    assert_eq!(document["servers"][0]["url"], "/ops/gate");
    let mut nowhere = plugin();
    nowhere.as_object_mut().unwrap().remove("control");
    let closed = Site::start_with(policy(), |options| options.plugin = nowhere).await;
    for site in [site, closed] {
        let answer = raw(site.addresses()[0], "/.tollgate/health").await;
        assert_eq!(answer.json().unwrap()["path"], "/.tollgate/health", "the upstream's answer");
        assert_unharmed(&site.stack);
    }
}

/// Everything is about this Envoy alone, in the memory of its threads.
#[tokio::test]
async fn without_a_store_the_memory_is_what_it_is_about() {
    let site = Site::start_with(policy(), |options| {
        (options.store, options.concurrency) = (StoreChoice::None, 2);
        options.plugin = json!({ "read_bodies": true, "control": { "token_env": "CONTROL_TOKEN" } });
    })
    .await;
    let [here, there] = site.addresses();
    let details = walk::ask(here, "GET", "/health/detailed", Some(TOKEN), "").await.unwrap();
    assert_eq!(details.json().unwrap()["checks"][0]["name"], "memory");
    site.act(here, "locks/acquire", json!({ "name": "report", "key": ["ann"] })).await;
    let statuses = [visit(here, "/report").await.status, visit(there, "/report").await.status];
    assert_eq!(statuses.map(|status| status.as_u16()), [409, 200]);
    assert_unharmed(&site.stack);
}

// ---- Shared by the above.

/// Two Envoys with a control path, in front of an upstream.
struct Site {
    stack: Stack,
    upstream: Upstream,
}

impl Site {
    async fn start() -> Site {
        Site::start_with(policy(), |_| ()).await
    }

    async fn start_with(policy: Value, change: impl FnOnce(&mut StackOptions)) -> Site {
        let upstream = Upstream::start(ports::free().unwrap()).await.unwrap();
        let mut options = StackOptions {
            replicas: 2,
            concurrency: 1,
            plugin: plugin(),
            upstream: envoy::Upstream::Address(upstream.address()),
            variables: vec![("SECRET".into(), SECRET.into()), ("CONTROL_TOKEN".into(), TOKEN.into())],
            ..StackOptions::new(policy)
        };
        change(&mut options);
        Site { stack: Stack::start(options).await.unwrap(), upstream }
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        self.stack.addresses().try_into().unwrap()
    }

    async fn post(&self, address: SocketAddr, path: &str, body: &Value) -> Answer {
        walk::post(address, path, TOKEN, body).await.unwrap()
    }

    /// Has something done that can be done.
    async fn act(&self, address: SocketAddr, path: &str, body: Value) -> Value {
        let answer = self.post(address, path, &body).await;
        assert_eq!(answer.status, 200, "{path} {body}: {answer}");
        answer.json().unwrap()
    }

    /// How many requests were decided about.
    async fn decided(&self) -> f64 {
        let mut sum = 0.0;
        for what in ["allowed", "denied", "abandoned"] {
            sum += metric(&self.stack, &format!("tollgate_requests_{what}_total"), &[]).await;
        }
        sum
    }
}

/// What is revoked is refused at once, and who finds a lock taken gets the usual answer.
fn policy() -> Value {
    let mut policy = walk::policy();
    policy["routes"][0]["revocation"] = json!({});
    policy["routes"][4]["lock"].as_object_mut().unwrap().remove("status");
    policy
}

fn everything_is_counted() -> Value {
    json!({ "default": { "rate_limits": [limit("only", "fixed_window", 1000)] } })
}

fn plugin() -> Value {
    json!({ "read_bodies": true, "control": { "token_env": "CONTROL_TOKEN" } })
}

/// The answer to Ann, who is not an operator.
async fn visit(address: SocketAddr, path: &str) -> Answer {
    let request = Request::get(path).header("host", "tollgate.test").header("x-user", "ann");
    client::send(address, request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()
}

/// The answer to a path that is spelled just so.
async fn raw(address: SocketAddr, path: &str) -> Answer {
    let head = format!("GET {path} HTTP/1.1\r\nhost: tollgate.test\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
    client::raw(address, head.as_bytes()).await.unwrap()
}

/// The head of a request that revokes something.
async fn begin(address: SocketAddr, field: &str) -> TcpStream {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /.tollgate/revoke HTTP/1.1\r\nhost: tollgate.test\r\nauthorization: Bearer {TOKEN}\r\n{field}\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection
}

/// The status, and what programs tell refusals apart by.
fn code(answer: &Answer) -> (u16, String) {
    let body = answer.json().unwrap();
    (answer.status.as_u16(), body["error"]["code"].as_str().unwrap_or_default().to_owned())
}

const OTHERWISE: [&str; 7] = [
    "//.tollgate/health/detailed",
    "/./.tollgate/health/detailed",
    "/%2etollgate/health/detailed",
    "/.TOLLGATE/health/detailed",
    "/.tollgate%2fhealth/detailed",
    "/a/../.tollgate/health/detailed",
    "/a?/.tollgate/health/detailed",
];
const TOKEN: &str = "the-token-of-operators";

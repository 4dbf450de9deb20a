//! Keys of tokens that an Envoy fetches: once for all who wait, anew when the issuer changes them, and never in the place of a
//! refusal. The clock is the tests'.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    reason = "test code: a panic is a failed test"
)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tollgate_tests::client::{self, Answer};
use tollgate_tests::envoy::{self, Cluster};
use tollgate_tests::load::Load;
use tollgate_tests::ports;
use tollgate_tests::stack::{Stack, StackOptions, StoreChoice};
use tollgate_tests::upstream::{Reply, ReplyBody, Upstream};

use support::{NOW, assert_unharmed, eventually, key_set, limit, metric, valid_tokens, with};

#[tokio::test]
async fn a_token_is_let_in_once_its_key_has_come() {
    let limited = with(limit("few", "fixed_window", 2), json!({ "key": ["claim:sub"] }));
    let site = Site::start_with(json!({ "rate_limits": [limited] }), |options| {
        options.store = StoreChoice::Redis;
        options.plugin["store"] = json!({ "clock": "host" });
    })
    .await;
    let [token, other] = [&rs256()[0], &rs256()[1]];
    assert_eq!(site.asks(token, 0).await, 200);
    let asked = site.issuer.received().borrow().clone();
    assert!(asked.contains(&("host".into(), "id.test:8443".into())), "{asked:?}");
    assert_eq!([site.asks(token, 1).await, site.asks(token, 2).await], [200, 429], "it is known who asks");
    assert_eq!(site.asks(other, 3).await, 200);
    let damaged = format!("{}AAAA", &token[..token.len() - 4]);
    assert_eq!(site.asks(&damaged, 4).await, 401);
    assert_eq!(site.issuer.requests(), 1);
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn those_who_ask_at_once_wait_for_one_answer() {
    let site = Site::start().await;
    site.issuer.set_reply(Reply { delay: Duration::from_millis(500), ..jwks(&["RS256"]) });
    let tokens = rs256();
    let load = Load {
        request: Arc::new(move |number| request(&tokens[number as usize % tokens.len()], 0)),
        ..Load::new(site.stack.addresses(), 64, "/")
    };
    let report = load.run().await.unwrap();
    assert_eq!((report.count(200), site.issuer.requests()), (64, 1), "{report:?}");
    assert_unharmed(&site.stack);
}

/// A new key is there as soon as it is asked for, though not twice in 10 s, and with it one that is gone is gone.
#[tokio::test]
async fn the_issuer_may_change_his_keys() {
    let site = Site::start().await;
    let [old, new] = [&rs256()[0], &valid_tokens("ES256")[0]];
    assert_eq!(site.asks(old, 0).await, 200);
    site.issuer.set_reply(jwks(&["ES256"]));
    assert_eq!([site.asks(new, 5).await, site.asks(old, 5).await], [401, 200]);
    assert_eq!(site.issuer.requests(), 1);
    assert_eq!([site.asks(new, 11).await, site.asks(old, 12).await], [200, 401]);
    assert_eq!(site.issuer.requests(), 2);

    // Nobody asks for another one, and after a minute they are fetched again all the same.
    site.issuer.set_reply(jwks(&["RS256"]));
    assert_eq!([site.asks(new, 60).await, site.issuer.requests() as u16], [200, 2]);
    assert_eq!([site.asks(new, 72).await, site.issuer.requests() as u16], [401, 3]);
    assert_eq!([site.asks(old, 73).await, site.issuer.requests() as u16], [200, 3]);
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn what_is_no_set_of_keys_lets_nobody_in_and_does_no_harm_to_one_that_is_there() {
    let site =
        Site::start_with(json!({}), |options| options.plugin["jwks"]["timeout"] = json!("500ms")).await;
    let token = &rs256()[0];
    let padded = |length: usize| {
        let ReplyBody::Bytes(keys) = jwks(&["RS256"]).body else { panic!("bytes") };
        let blanks = vec![b' '; length - keys.len()];
        body([&keys[..], &blanks].concat())
    };
    let failures = [
        body("<html>"),
        body("{}"),
        body(""),
        padded((64 << 10) + 1),
        padded(4 << 20),
        Reply { status: StatusCode::INTERNAL_SERVER_ERROR, ..jwks(&["RS256"]) },
        Reply { status: StatusCode::NOT_MODIFIED, ..body("") },
        Reply { status: StatusCode::FOUND, ..jwks(&["RS256"]) },
        Reply { delay: Duration::MAX, ..jwks(&["RS256"]) },
        Reply { body: ReplyBody::Unfinished("{\"keys\":[".into()), ..Reply::default() },
        Reply { body: ReplyBody::Cut("{\"keys\":[".into()), ..Reply::default() },
    ];
    for (round, (are_known, expected)) in [(false, 503), (true, 200)].into_iter().enumerate() {
        let begun = 1300 * round as u64;
        if are_known {
            site.issuer.set_reply(padded(64 << 10));
            assert_eq!(site.asks(token, begun).await, 200, "as soon as there are some");
        }
        for (number, failure) in (1..).zip(&failures) {
            let (asked, at) = (site.issuer.requests(), begun + 100 * number);
            site.issuer.set_reply(failure.clone());
            assert_eq!(site.asks(token, at).await, expected, "{failure:?}");
            assert_eq!(site.asks(token, at + 5).await, expected, "{failure:?}");
            assert_eq!(site.issuer.requests(), asked + 1, "not twice in 10 s: {failure:?}");
        }
    }
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn an_issuer_that_is_away_is_asked_again_when_he_is_back() {
    let mut site = Site::start().await;
    let (token, port) = (&rs256()[0], site.issuer.address().port());
    site.issuer = Upstream::start(ports::free().unwrap()).await.unwrap();
    for at in [0, 5, 20] {
        let answer = client::send(site.address(), request(token, at)).await.unwrap();
        assert_eq!(
            (answer.status, answer.header("retry-after").is_some()),
            (StatusCode::SERVICE_UNAVAILABLE, true)
        );
    }
    site.issuer = Upstream::start(port).await.unwrap();
    site.issuer.set_reply(jwks(&["RS256"]));
    assert_eq!([site.asks(token, 25).await, site.asks(token, 31).await], [503, 200]);
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn clients_that_leave_while_they_wait_leave_nothing_behind() {
    let site = Site::start_with(json!({}), |options| options.plugin["jwks"]["timeout"] = json!("1s")).await;
    site.issuer.set_reply(Reply { delay: Duration::MAX, ..Reply::default() });
    let waiting = site.wait(50).await;
    eventually("the issuer is asked", async || site.issuer.requests(), |requests| *requests == 1).await;
    drop(waiting);
    let abandoned = async || metric(&site.stack, "tollgate_requests_abandoned_total", &[]).await;
    eventually("they are forgotten", abandoned, |abandoned| *abandoned == 50.0).await;
    site.issuer.set_reply(jwks(&["RS256"]));
    assert_eq!(site.asks(&rs256()[0], 20).await, 200);
    assert_eq!((site.upstream.requests(), site.issuer.requests()), (1, 2));
    assert_unharmed(&site.stack);
}

/// What comes beyond is told at once that there are no keys.
#[tokio::test]
async fn no_more_than_1024_requests_wait() {
    let site = Site::start().await;
    // Half of what the filter waits for them, so that all can have come by then and keys in time, on a busy machine too.
    site.issuer.set_reply(Reply { delay: Duration::from_millis(2500), ..jwks(&["RS256"]) });
    let mut waiting = site.wait(1024).await;
    let active = async || metric(&site.stack, "envoy_http_downstream_rq_active", &[]).await;
    eventually("all have come", active, |active| *active >= 1024.0).await;
    let beyond = site.wait(20).await;
    for mut connection in beyond {
        assert_eq!(client::read(&mut connection).await.unwrap().status, 503);
    }
    assert_eq!(site.upstream.requests(), 0, "nobody passes undecided");
    for connection in &mut waiting {
        assert_eq!(client::read(connection).await.unwrap().status, 200);
    }
    assert_eq!((site.upstream.requests(), site.issuer.requests()), (1024, 1));
    assert_unharmed(&site.stack);
}

/// Its body is there, and stays there, while its key is fetched.
#[tokio::test]
async fn a_request_that_is_told_apart_by_its_body_waits_with_it() {
    let by_body = with(limit("by-body", "fixed_window", 1), json!({ "key": ["body:/user"] }));
    let site = Site::start_with(json!({ "rate_limits": [by_body] }), |options| {
        options.plugin["read_bodies"] = json!(true);
    })
    .await;
    let mut statuses = Vec::new();
    for user in ["ann", "bob", "ann"] {
        let request = request(&rs256()[0], 0).map(|_| Full::from(json!({ "user": user }).to_string()));
        statuses.push(client::send(site.address(), request).await.unwrap().status.as_u16());
    }
    assert_eq!((statuses, site.issuer.requests()), (vec![200, 200, 429], 1));
    assert_unharmed(&site.stack);
}

// ---- Shared by the above.

/// An Envoy of one worker thread without a store, the upstream behind it, and who issues its tokens.
struct Site {
    stack: Stack,
    upstream: Upstream,
    issuer: Upstream,
}

impl Site {
    async fn start() -> Site {
        Site::start_with(json!({}), |_| ()).await
    }

    /// With more guards, and what `change` says.
    async fn start_with(guards: Value, change: impl FnOnce(&mut StackOptions)) -> Site {
        let upstream = Upstream::start(ports::free().unwrap()).await.unwrap();
        let issuer = Upstream::start(ports::free().unwrap()).await.unwrap();
        issuer.set_reply(jwks(&["RS256"]));
        let policy = json!({
            "jwt": {
                "algorithms": ["RS256", "ES256"],
                "jwks": { "url": "https://id.test:8443/keys?of=api", "refresh": "1m" },
            },
            "default": with(guards, json!({ "token": "required" })),
        });
        let mut options = StackOptions {
            concurrency: 1,
            plugin: json!({ "jwks": { "cluster": "id", "timeout": "5s" } }),
            store: StoreChoice::None,
            upstream: envoy::Upstream::Address(upstream.address()),
            clusters: vec![Cluster { name: "id".into(), address: issuer.address(), http2: false }],
            test_clock: true,
            ..StackOptions::new(policy)
        };
        change(&mut options);
        Site { stack: Stack::start(options).await.unwrap(), upstream, issuer }
    }

    fn address(&self) -> SocketAddr {
        self.stack.addresses()[0]
    }

    /// The status for a token, so many seconds after it was issued.
    async fn asks(&self, token: &str, seconds: u64) -> u16 {
        let answer: Answer = client::send(self.address(), request(token, seconds)).await.unwrap();
        answer.status.as_u16()
    }

    /// So many requests that are sent, and whose answers nobody has read.
    async fn wait(&self, number: usize) -> Vec<TcpStream> {
        let token = &rs256()[0];
        let head = format!(
            "POST / HTTP/1.1\r\nhost: tollgate.test\r\nauthorization: Bearer {token}\r\nx-tollgate-test-now: {NOW}\r\ncontent-length: 0\r\n\r\n"
        );
        let mut connections = Vec::with_capacity(number);
        for _ in 0..number {
            let mut connection = TcpStream::connect(self.address()).await.unwrap();
            connection.write_all(head.as_bytes()).await.unwrap();
            connections.push(connection);
        }
        connections
    }
}

fn request(token: &str, seconds: u64) -> Request<Full<Bytes>> {
    let request = Request::post("/").header("host", "tollgate.test");
    let request = request.header("authorization", format!("Bearer {token}"));
    request.header("x-tollgate-test-now", (NOW + 1000 * seconds).to_string()).body(Full::default()).unwrap()
}

fn rs256() -> Vec<String> {
    valid_tokens("RS256")
}

/// The keys for these algorithms.
fn jwks(algorithms: &[&str]) -> Reply {
    body(key_set(algorithms))
}

fn body(bytes: impl Into<Bytes>) -> Reply {
    Reply { body: ReplyBody::Bytes(bytes.into()), ..Reply::default() }
}

//! Guards over several Envoys that share a Redis, in real time: logout, locks, duplicates, circuit breakers, limits that count
//! failures, and what all of it costs.

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
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tollgate_tests::client::{self, Answer};
use tollgate_tests::load::Load;
use tollgate_tests::stack::{Stack, StackOptions};
use tollgate_tests::upstream::{Reply, Upstream};
use tollgate_tests::{envoy, ports};

use support::{SECRET, assert_unharmed, connect, consumed, eventually, limit, metric, token_of, with};

// ---- Logout.

#[tokio::test]
async fn who_logs_out_at_one_envoy_is_refused_at_the_other_from_the_next_request_on() {
    let (stack, _upstream) = start(2, logout_policy()).await;
    let [a, b] = stack.addresses()[..] else { panic!("two Envoys") };
    for number in 0..20 {
        let user = token_of(&format!("user-{number}"));
        assert_eq!(send(b, get("/account", &user)).await.status, 200);
        assert_eq!(send(a, get("/logout", &user)).await.status, 200);
        assert_eq!(send(b, get("/account", &user)).await.status, 401, "user {number}");
        assert_eq!(send(a, get("/account", &user)).await.status, 401, "user {number}");
    }
    assert_eq!(send(b, get("/account", &token_of("another"))).await.status, 200);
    assert_unharmed(&stack);
}

#[tokio::test]
async fn the_answer_to_a_logout_waits_until_the_store_knows() {
    let (stack, _upstream, user, logout) = logout_without_a_gateway().await;
    let a = stack.addresses()[0];
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!logout.is_finished(), "the client was told before the store");
    stack.gateway.as_ref().unwrap().resume().unwrap();
    assert_eq!(logout.await.unwrap().status, 200);
    assert_eq!(send(a, get("/account", &user)).await.status, 401);
    assert_unharmed(&stack);
}

/// Who left before the answer came has said all the same that the token is to end.
#[tokio::test]
async fn a_logout_whose_client_leaves_is_carried_out() {
    let (stack, _upstream, user, logout) = logout_without_a_gateway().await;
    let a = stack.addresses()[0];
    tokio::time::sleep(Duration::from_millis(100)).await;
    logout.abort();
    tokio::time::sleep(Duration::from_millis(100)).await;
    stack.gateway.as_ref().unwrap().resume().unwrap();
    let account = async || send(a, get("/account", &user)).await.status;
    eventually("the token is refused", account, |status| *status == 401).await;
    assert_unharmed(&stack);
}

/// First the call fails; after a few, nobody calls, and the answer is replaced as it comes.
#[tokio::test]
async fn without_the_store_a_logout_fails_and_the_token_stays_valid() {
    let (mut stack, upstream) = start(2, logout_policy()).await;
    let [a, b] = stack.addresses()[..] else { panic!("two Envoys") };
    let user = token_of("ann");
    stack.gateway.as_ref().unwrap().kill().await;
    for number in 1..=12 {
        let answer = send(a, get("/logout", &user)).await;
        assert_eq!((answer.status, code(&answer)), (StatusCode::SERVICE_UNAVAILABLE, "NOT_REVOKED".into()));
        assert_eq!(upstream.requests(), number, "the upstream was asked");
    }
    // Each of two threads has seen three calls fail, and leaves the store alone.
    let calls = metric(&stack, "redis_calls_total", &[]).await;
    assert!(calls < 12.0, "{calls} calls");
    stack.gateway.as_mut().unwrap().restart().await.unwrap();
    let account = async || send(b, get("/account", &user)).await.status;
    eventually("the token is valid", account, |status| *status == 200).await;
    assert_unharmed(&stack);
}

// ---- Locks.

#[tokio::test]
async fn of_simultaneous_requests_for_a_lock_one_wins() {
    let (stack, upstream) = start(2, lock_policy("30s")).await;
    upstream.set_reply(Reply { delay: Duration::from_secs(1), ..Reply::default() });
    let report = Load::new(stack.addresses(), 64, "/").run().await.unwrap();
    assert_eq!((report.count(200), report.count(409)), (1, 63), "{report:?}");
    assert_eq!(upstream.requests(), 1);
    upstream.set_reply(Reply::default());
    for address in stack.addresses() {
        let again = async || send(address, get("/", "")).await.status;
        eventually("the answer has released the lock", again, |status| *status == 200).await;
    }
    assert_unharmed(&stack);
}

#[tokio::test]
async fn a_lock_is_free_when_its_client_has_left() {
    let (stack, upstream) = start(2, lock_policy("30s")).await;
    let [a, b] = stack.addresses()[..] else { panic!("two Envoys") };
    let holder = hang(a, &upstream).await;
    assert_eq!(send(b, get("/", "")).await.status, 409);
    drop(holder);
    let again = async || send(b, get("/", "")).await.status;
    eventually("the lock is free", again, |status| *status == 200).await;
    assert_unharmed(&stack);
}

/// While the request is read, while it waits for the store, while the upstream works, while the answer is on its way.
#[tokio::test]
async fn clients_that_leave_at_any_moment_leave_no_lock_behind() {
    let policy =
        json!({ "default": { "lock": { "name": "refresh", "key": ["header:x-client"], "lease": "5m" } } });
    let (stack, upstream) = start(2, policy).await;
    upstream.set_reply(Reply { delay: Duration::from_millis(3), ..Reply::default() });
    let mut clients = tokio::task::JoinSet::new();
    for (number, address) in (0..32_u64).zip(stack.addresses().into_iter().cycle()) {
        clients.spawn(async move {
            for round in 0..40 {
                let mut connection = TcpStream::connect(address).await.unwrap();
                let request = format!("GET / HTTP/1.1\r\nhost: tollgate.test\r\nx-client: {number}\r\n\r\n");
                connection.write_all(request.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_micros((number * 40 + round) * 7919 % 9000)).await;
            }
        });
    }
    clients.join_all().await;
    println!("{} of 1280 requests reached the upstream", upstream.requests());
    for number in 0..32 {
        let address = stack.addresses()[number % 2];
        let again = async || send(address, support::request("/", &number.to_string())).await.status;
        eventually("the lock is free", again, |status| *status == 200).await;
    }
    assert_unharmed(&stack);
}

#[tokio::test]
async fn who_waits_for_a_lock_gets_it_and_one_has_it_at_a_time() {
    let (stack, upstream) = start(2, waiting_policy("25s")).await;
    upstream.set_reply(Reply { delay: Duration::from_millis(30), ..Reply::default() });
    let begun = Instant::now();
    let report = Load::new(stack.addresses(), 32, "/").run().await.unwrap();
    assert_eq!(report.count(200), 32, "{report:?}");
    let took = begun.elapsed();
    println!("32 requests of 30 ms took {took:?}");
    assert!(took >= 32 * Duration::from_millis(30), "{took:?}");
    assert_unharmed(&stack);
}

#[tokio::test]
async fn who_waits_in_vain_or_leaves_has_claimed_nothing() {
    let (stack, upstream) = start(2, waiting_policy("1s")).await;
    let [a, b] = stack.addresses()[..] else { panic!("two Envoys") };
    let holder = hang(a, &upstream).await;
    let begun = Instant::now();
    let waits = send(b, support::request("/", "one")).await;
    assert_eq!((waits.status, &*code(&waits)), (StatusCode::CONFLICT, "LOCKED"), "{waits}");
    assert!(begun.elapsed() >= Duration::from_secs(1), "it did not wait");
    let mut leaves = TcpStream::connect(b).await.unwrap();
    leaves.write_all(b"GET / HTTP/1.1\r\nhost: tollgate.test\r\nx-client: two\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(leaves);
    drop(holder);
    for client in ["one", "two"] {
        let before = upstream.requests();
        let again = async || {
            send(a, support::request("/", client)).await;
            upstream.requests() - before
        };
        eventually("it is no duplicate, and the lock is free", again, |passed| *passed == 1).await;
    }
    assert_unharmed(&stack);
}

#[tokio::test]
async fn who_waits_while_the_store_dies_is_told_so_at_once() {
    let (stack, upstream) = start(2, waiting_policy("25s")).await;
    let [a, b] = stack.addresses()[..] else { panic!("two Envoys") };
    let _holder = hang(a, &upstream).await;
    let waits = tokio::spawn(send(b, support::request("/", "one")));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begun = Instant::now();
    stack.gateway.as_ref().unwrap().kill().await;
    let told = waits.await.unwrap();
    assert_eq!(
        (told.status, &*code(&told)),
        (StatusCode::SERVICE_UNAVAILABLE, "GUARD_UNAVAILABLE"),
        "{told}"
    );
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(upstream.requests(), 1);
    assert_unharmed(&stack);
}

#[tokio::test]
async fn a_lock_of_an_envoy_that_dies_is_free_after_its_lease() {
    let (stack, upstream) = start(2, lock_policy("2s")).await;
    let [a, b] = stack.addresses()[..] else { panic!("two Envoys") };
    let begun = Instant::now();
    let _holder = hang(a, &upstream).await;
    stack.envoys[0].kill().await;
    assert_eq!(send(b, get("/", "")).await.status, 409);
    let again = async || send(b, get("/", "")).await.status;
    eventually("the lock is free", again, |status| *status == 200).await;
    let held = begun.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&held), "{held:?}");
}

// ---- Duplicates.

#[tokio::test]
async fn of_simultaneous_equal_requests_the_upstream_sees_one() {
    let policy =
        json!({ "default": { "dedup": { "name": "track", "key": ["header:x-client"], "ttl": "5m" } } });
    let (stack, upstream) = start(2, policy).await;
    for round in 1..=5 {
        let load = Load {
            request: Arc::new(move |_| support::request("/", &format!("client-{round}"))),
            ..Load::new(stack.addresses(), 64, "/")
        };
        let report = load.run().await.unwrap();
        assert_eq!((report.count(200), upstream.requests()), (64, round), "{report:?}");
    }
    let again = client::send(stack.addresses()[1], support::request("/", "client-1")).await.unwrap();
    assert_eq!(again.json().unwrap(), json!({ "tracked": false, "reason": "duplicate" }));
    assert_unharmed(&stack);
}

// ---- Circuit breakers.

#[tokio::test]
async fn failures_at_one_envoy_open_the_breaker_for_the_other_and_a_probe_closes_it() {
    let (stack, upstream) = start(2, breaker_policy(json!({}))).await;
    let [a, b] = stack.addresses()[..] else { panic!("two Envoys") };
    upstream.set_reply(failure());
    for _ in 0..5 {
        assert_eq!(send(a, get("/", "")).await.status, 500);
    }
    eventually("it opens", async || is_open(a).await, |open| *open).await;
    let asked = upstream.requests();
    assert!(is_open(b).await, "it is open for who has seen no failure");
    assert_eq!(upstream.requests(), asked, "nobody asks an upstream that is left alone");

    // One probe at a time, and one whose client leaves does not count.
    let probe = probe(a, &upstream).await;
    assert!(is_open(b).await && is_open(a).await, "a probe is under way");
    drop(probe);
    eventually(
        "the next probe finds the upstream well",
        async || send(b, get("/", "")).await.status,
        |status| *status == 200,
    )
    .await;
    let all = async || [is_open(a).await, is_open(b).await];
    eventually("it is closed for both", all, |open| *open == [false, false]).await;
    assert_unharmed(&stack);
}

#[tokio::test]
async fn an_upstream_that_refuses_connections_opens_the_breaker() {
    let (stack, upstream) = start(2, breaker_policy(json!({ "open_for": "60s" }))).await;
    let [a, b] = stack.addresses()[..] else { panic!("two Envoys") };
    assert_eq!(send(a, get("/", "")).await.status, 200);
    drop(upstream);
    for _ in 0..5 {
        assert_eq!(send(a, get("/", "")).await.status, 503);
    }
    eventually("it opens", async || is_open(a).await, |open| *open).await;
    assert!(is_open(b).await);
    assert_unharmed(&stack);
}

/// Each Envoy has two worker threads, which are one reporter.
#[tokio::test]
async fn a_breaker_that_asks_for_two_reporters_is_not_opened_by_one() {
    let (stack, upstream) = start(3, breaker_policy(json!({ "reporters": 2, "open_for": "60s" }))).await;
    let [a, b, c] = stack.addresses()[..] else { panic!("three Envoys") };
    upstream.set_reply(failure());
    let failures = Load { connections: 16, ..Load::new(vec![a], 200, "/") };
    let report = failures.run().await.unwrap();
    assert_eq!(report.count(500), 200, "{report:?}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!is_open(a).await, "one reporter alone has opened it");
    assert_eq!(send(b, get("/", "")).await.status, 500);
    eventually("the second reporter opens it", async || is_open(a).await, |open| *open).await;
    assert!(is_open(c).await, "it is open for who has seen no failure");
    assert_unharmed(&stack);
}

// ---- Limits that count failures.

#[tokio::test]
async fn failures_count_and_what_succeeds_is_given_back() {
    let (stack, upstream) = start(2, failures_policy()).await;
    let mut redis = connect(stack.redis.as_ref().unwrap());
    let pass = Load { connections: 1, ..Load::new(stack.addresses(), 40, "/") };
    let report = Load { request: Arc::new(|_| support::request("/", "ann")), ..pass }.run().await.unwrap();
    assert_eq!(report.count(200), 40, "{report:?}");
    eventually("all is given back", async || consumed(&mut redis, "login"), |consumed| *consumed == [0])
        .await;
    upstream.set_reply(Reply { status: StatusCode::UNAUTHORIZED, ..Reply::default() });
    let login = async |address| client::send(address, support::request("/", "ann")).await.unwrap().status;
    for address in stack.addresses().iter().cycle().take(3) {
        assert_eq!(login(*address).await, 401);
    }
    for address in stack.addresses() {
        assert_eq!(login(address).await, 429);
    }
    assert_eq!(consumed(&mut redis, "login"), [3]);
    assert_unharmed(&stack);
}

/// What comes before the answer, such as `103 Early Hints`, is not the answer.
#[tokio::test]
async fn an_informational_response_is_not_taken_for_the_answer() {
    let listener = TcpListener::bind(ports::local(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = connection.read(&mut [0; 4096]).await;
            let hints = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
            let answer = "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = connection.write_all(format!("{hints}{answer}").as_bytes()).await;
        }
    });
    let stack = start_with(1, failures_policy(), address).await;
    for status in [500, 500, 500, 429] {
        let answer = client::send(stack.addresses()[0], support::request("/", "ann")).await.unwrap();
        assert_eq!(answer.status, status);
    }
    assert_eq!(consumed(&mut connect(stack.redis.as_ref().unwrap()), "login"), [3]);
    assert_unharmed(&stack);
}

/// Whose fault it was decides: what Envoy answers because of the client is no failure of the upstream.
#[tokio::test]
async fn what_a_client_breaks_off_is_no_failure_of_the_upstream() {
    let mut policy = failures_policy();
    let breaker = json!({ "name": "upstream", "failures": 3, "within": "1h", "open_for": "1h", "failure_statuses": ["4xx", "5xx"] });
    policy["default"]["circuit_breaker"] = breaker;
    let upstream = Upstream::start(ports::free().unwrap()).await.unwrap();
    let options = StackOptions {
        upstream: envoy::Upstream::Address(upstream.address()),
        manager: json!({ "request_timeout": "0.5s" }).as_object().unwrap().clone(),
        ..StackOptions::new(policy)
    };
    let stack = Stack::start(options).await.unwrap();
    let address = stack.addresses()[0];
    let mut redis = connect(stack.redis.as_ref().unwrap());
    let mut given_back = async || {
        eventually("it is given back", async || consumed(&mut redis, "login"), |consumed| *consumed == [0])
            .await;
    };
    let head = "POST / HTTP/1.1\r\nhost: tollgate.test\r\nx-client: ann\r\n";
    for round in 1..=4 {
        let mut gone = TcpStream::connect(address).await.unwrap();
        gone.write_all(format!("{head}content-length: 10\r\n\r\nab").as_bytes()).await.unwrap();
        eventually("the upstream is asked", async || upstream.requests(), |asked| *asked == round * 4 - 3)
            .await;
        drop(gone);
        given_back().await;
        let broken = format!("{head}transfer-encoding: chunked\r\n\r\n2\r\nab\r\n");
        let mut broken_off = TcpStream::connect(address).await.unwrap();
        broken_off.write_all(broken.as_bytes()).await.unwrap();
        eventually("the upstream is asked", async || upstream.requests(), |asked| *asked == round * 4 - 2)
            .await;
        broken_off.write_all(b"zz\r\n").await.unwrap();
        assert_eq!(client::read(&mut broken_off).await.unwrap().status, StatusCode::BAD_REQUEST);
        given_back().await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(format!("{head}content-length: 10\r\n\r\nab").as_bytes()).await.unwrap();
        assert_eq!(client::read(&mut slow).await.unwrap().status, StatusCode::REQUEST_TIMEOUT);
        given_back().await;
        let answer = client::send(address, support::request("/", "ann")).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{answer}");
        given_back().await;
    }
    // What the upstream says is its own, whatever the status.
    upstream.set_reply(Reply { status: StatusCode::REQUEST_TIMEOUT, ..Reply::default() });
    for _ in 0..3 {
        assert_eq!(client::send(address, support::request("/", "ann")).await.unwrap().status, 408);
    }
    assert_eq!(consumed(&mut redis, "login"), [3]);
    eventually("the breaker opens", async || is_open(address).await, |open| *open).await;
    assert_unharmed(&stack);
}

// ---- What it costs.

#[tokio::test]
async fn revocation_two_limits_and_a_breaker_cost_one_call() {
    let policy = json!({
        "jwt": jwt(),
        "default": {
            "revocation": {},
            "rate_limits": [
                with(limit("burst", "gcra", 10_000), json!({ "key": ["claim:sub"] })),
                with(limit("daily", "fixed_window", 10_000), json!({ "key": ["claim:sub"] })),
            ],
            "circuit_breaker": { "name": "upstream", "failures": 5, "within": "60s", "open_for": "30s" },
        },
    });
    let (stack, _upstream) = start(1, policy).await;
    let user = token_of("ann");
    let load = |requests| {
        let user = user.clone();
        let load = Load { connections: 1, ..Load::new(stack.addresses(), requests, "/") };
        Load { request: Arc::new(move |_| get("/", &user)), ..load }
    };
    // Redis learns the scripts.
    load(20).run().await.unwrap();
    let calls = async || metric(&stack, "redis_calls_total", &[]).await;
    let before = calls().await;
    let report = load(500).run().await.unwrap();
    assert_eq!((report.count(200), calls().await - before), (500, 500.0), "{report:?}");
    assert_unharmed(&stack);
}

// ---- Shared by the above.

async fn start(replicas: u16, policy: Value) -> (Stack, Upstream) {
    let upstream = Upstream::start(ports::free().unwrap()).await.unwrap();
    (start_with(replicas, policy, upstream.address()).await, upstream)
}

async fn start_with(replicas: u16, policy: Value, upstream: SocketAddr) -> Stack {
    let options = StackOptions {
        replicas,
        upstream: envoy::Upstream::Address(upstream),
        variables: vec![("JWT_SECRET".into(), SECRET.into())],
        ..StackOptions::new(policy)
    };
    Stack::start(options).await.unwrap()
}

fn jwt() -> Value {
    json!({ "algorithms": ["HS256"], "keys": [{ "alg": "HS256", "secret": { "env": "JWT_SECRET" } }] })
}

/// A logout to which the upstream has said yes, of who has this token, while the gateway is suspended.
async fn logout_without_a_gateway() -> (Stack, Upstream, String, JoinHandle<Answer>) {
    let (stack, upstream) = start(1, logout_policy()).await;
    let (a, user) = (stack.addresses()[0], token_of("ann"));
    stack.gateway.as_ref().unwrap().suspend().unwrap();
    let logout = tokio::spawn(send(a, get("/logout", &user)));
    eventually("the upstream has answered", async || upstream.requests(), |requests| *requests == 1).await;
    (stack, upstream, user, logout)
}

fn logout_policy() -> Value {
    json!({
        "jwt": jwt(),
        "routes": [{ "name": "logout", "match": { "path": "/logout" }, "revokes": "token" }],
        "default": { "revocation": {} },
    })
}

fn lock_policy(lease: &str) -> Value {
    json!({ "default": { "lock": { "name": "refresh", "key": ["const:all"], "lease": lease } } })
}

/// A lock that is waited for, behind a dedup guard that marks what waits.
fn waiting_policy(wait: &str) -> Value {
    json!({ "default": {
        "dedup": { "name": "first", "key": ["header:x-client"], "ttl": "1h" },
        "lock": { "name": "refresh", "key": ["const:all"], "lease": "5m", "wait": wait },
    } })
}

fn breaker_policy(fields: Value) -> Value {
    let breaker = json!({ "name": "upstream", "failures": 5, "within": "60s", "open_for": "1s" });
    json!({ "default": { "circuit_breaker": with(breaker, fields) } })
}

fn failures_policy() -> Value {
    json!({ "default": { "rate_limits": [with(limit("login", "fixed_window", 3), json!({ "count": "failures" }))] } })
}

fn failure() -> Reply {
    Reply { status: StatusCode::INTERNAL_SERVER_ERROR, ..Reply::default() }
}

fn get(path: &str, token: &str) -> Request<Full<Bytes>> {
    let request = Request::get(path).header("host", "tollgate.test");
    request.header("authorization", format!("Bearer {token}")).body(Full::default()).unwrap()
}

async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    client::send(address, request).await.unwrap()
}

/// What programs tell refusals apart by; empty for other answers.
fn code(answer: &Answer) -> String {
    let body = answer.json().unwrap_or_default();
    body["error"]["code"].as_str().unwrap_or_default().to_owned()
}

async fn is_open(address: SocketAddr) -> bool {
    code(&send(address, get("/", "")).await) == "CIRCUIT_OPEN"
}

/// A request that the upstream has got and does not answer; others it answers with 200 from now on.
async fn hang(address: SocketAddr, upstream: &Upstream) -> TcpStream {
    let before = upstream.requests();
    let connection = try_to_hang(address, upstream).await;
    eventually("the upstream is asked", async || upstream.requests(), |now| *now > before).await;
    upstream.set_reply(Reply::default());
    connection
}

/// The same as soon as a breaker lets it through.
async fn probe(address: SocketAddr, upstream: &Upstream) -> TcpStream {
    let before = upstream.requests();
    let attempt = async || {
        let connection = try_to_hang(address, upstream).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        (upstream.requests() > before).then_some(connection)
    };
    let connection = eventually("a probe passes", attempt, Option::is_some).await.unwrap();
    upstream.set_reply(Reply::default());
    connection
}

async fn try_to_hang(address: SocketAddr, upstream: &Upstream) -> TcpStream {
    upstream.set_reply(Reply { delay: Duration::MAX, ..Reply::default() });
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nhost: tollgate.test\r\n\r\n").await.unwrap();
    connection
}

//! Requests that no honest client sends: no VM traps on them, and none is a way around a limit.
//!
//! Most tests say that some requests are one client, see [`assert_one_counter`]: whichever of them comes, the same counter
//! is charged, and when nothing is left all of them are refused.

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

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tollgate_tests::client::{self, Answer};
use tollgate_tests::envoy::{Paths, Upstream as Behind};
use tollgate_tests::ports;
use tollgate_tests::stack::{Stack, StackOptions};
use tollgate_tests::upstream::Upstream;

use support::{assert_unharmed, connect, consumed, eventually, limit, policy, routes, with};

// ---- Keys.

#[tokio::test]
async fn header_values_are_keys_whatever_bytes_they_hold() {
    let stack = start(keyed("header:x-key")).await;
    assert_one_counter(&stack, &[get("/", "x-key: plain\r\n"), get("/", "X-KEY:\t plain \r\n")]).await;
    assert_one_counter(&stack, &[get("/", b"x-key: \xff\xfe\r\n")]).await;
    // What is odd beside the key makes no difference.
    let beside = get("/", b"referer: \xc3\x28\r\nx-key: \xff\xfd\r\nx-odd: \x80\r\ncookie: \xfe\r\n");
    assert_one_counter(&stack, &[get("/", b"x-key: \xff\xfd\r\n"), beside]).await;
    assert_counters(&stack, 3);
}

/// A client gets nothing from leaving a part of its key out or from sending it several times: all who do so share a counter.
#[tokio::test]
async fn keys_that_are_missing_empty_or_repeated_are_counted_too() {
    let stack = start(keyed("header:x-key")).await;
    assert_one_counter(&stack, &[get("/", ""), get("/", "x-other: 1\r\n")]).await;
    assert_one_counter(&stack, &[get("/", "x-key:\r\n"), get("/", "x-key:   \r\n")]).await;
    let repeated =
        ["a", "b", "c"].map(|value| get("/", format!("x-key: {value}\r\nx-key: {value}\r\nx-key: x\r\n")));
    assert_one_counter(&stack, &repeated).await;
    assert_counters(&stack, 3);

    let stack = start(keyed("cookie:session")).await;
    assert_one_counter(&stack, &[get("/", ""), get("/", "cookie: other=1; xsession=2\r\n")]).await;
    assert_one_counter(&stack, &[get("/", "cookie: session=\r\n"), get("/", "cookie: a=b; session=; c\r\n")])
        .await;
    assert_one_counter(&stack, &[get("/", b"cookie: session=\xff\r\n")]).await;
    let repeated = ["cookie: session=a; session=b\r\n", "cookie: session=c\r\ncookie: session=d\r\n"];
    assert_one_counter(&stack, &repeated.map(|lines| get("/", lines))).await;
    assert_counters(&stack, 4);

    let stack = start(keyed("query:q")).await;
    assert_one_counter(&stack, &["/", "/?", "/?p=1&qq=2", "/?=q"].map(|target| get(target, ""))).await;
    assert_one_counter(&stack, &["/?q", "/?q=", "/?a&q=&b"].map(|target| get(target, ""))).await;
    assert_one_counter(&stack, &["/?q=a+b", "/?q=a%20b", "/?%71=%61%20%62"].map(|target| get(target, "")))
        .await;
    assert_one_counter(&stack, &["/?q=%ff%FE", "/?q=%FF%fe"].map(|target| get(target, ""))).await;
    assert_one_counter(&stack, &["/?q=1&q=1", "/?q=2&%71=3&q=4", "/?Q=1"].map(|target| get(target, "")))
        .await;
    assert_counters(&stack, 5);
}

/// HTTP/2 carries methods of any case, and upstreams read them as they like.
#[tokio::test]
async fn a_method_in_another_case_is_no_way_around_a_route() {
    let upstream = Upstream::start(ports::free().unwrap()).await.unwrap();
    let by_method = |name| with(limit(name, "gcra", QUOTA), json!({ "key": ["method"] }));
    let policy = json!({ "routes": [
        { "name": "write", "match": { "methods": ["POST"] }, "rate_limits": [by_method("write")] },
        { "name": "read", "match": { "methods": ["GET"] }, "rate_limits": [by_method("read")] },
    ] });
    let stack = Stack::start(StackOptions {
        upstream: Behind::Address(upstream.address()),
        ..StackOptions::new(policy)
    })
    .await
    .unwrap();
    let send = async |method: &str| {
        let request =
            Request::builder().method(method).uri("http://tollgate.test/").body(Full::<Bytes>::default());
        client::send_http2(stack.envoys[0].address(), request.unwrap()).await.unwrap()
    };
    for (name, spellings) in
        [("write", ["POST", "post", "Post", "pOST"]), ("read", ["GET", "get", "Get", "gEt"])]
    {
        for count in 0..QUOTA as usize {
            let answer = send(spellings[count % 4]).await;
            assert_eq!(answer.status, StatusCode::OK, "{name} {count}: {answer}");
        }
        for spelling in spellings {
            assert_eq!(send(spelling).await.status, StatusCode::TOO_MANY_REQUESTS, "{spelling}");
        }
        assert_eq!(consumed(&mut connect_to(&stack), name), [QUOTA], "{name}");
    }
    // They take the route of `GET`, and are a method of their own.
    for spelling in ["HEAD", "head", "hEAD"] {
        assert_eq!(send(spelling).await.status, StatusCode::OK, "{spelling}");
    }
    assert_eq!(consumed(&mut connect_to(&stack), "read").iter().sum::<u64>(), QUOTA + 3);
    assert_unharmed(&stack);
}

/// Envoy joins the lines of fields that it knows before the filter sees them.
#[tokio::test]
async fn fields_that_envoy_joins_are_sent_twice_all_the_same() {
    let fields = [
        "access-control-request-method",
        "authorization",
        "content-type",
        "grpc-timeout",
        "origin",
        "x-client-trace-id",
        // And one that it does not.
        "x-user",
    ];
    let limits = fields
        .map(|field| vec![with(limit(field, "gcra", QUOTA), json!({ "key": [format!("header:{field}")] }))]);
    let paths = fields.map(|field| format!("/{field}"));
    let of: Vec<_> = paths.iter().map(String::as_str).zip(limits).collect();
    let stack = start(routes(&of)).await;
    for field in fields {
        let path = format!("/{field}");
        let lines = |values: &[&str]| {
            get(&path, values.iter().map(|value| format!("{field}: {value}\r\n")).collect::<String>())
        };
        let twice = [lines(&["a", "b"]), lines(&["c", "d"]), lines(&["e", "e"]), lines(&["f", "g", "h"])];
        assert_one_counter(&stack, &twice).await;
        assert_one_counter(&stack, &[lines(&["a"])]).await;
        assert_eq!(consumed(&mut connect_to(&stack), field), [QUOTA; 2], "{field}");
    }
    assert_unharmed(&stack);
}

#[tokio::test]
async fn enormous_keys_are_keys_like_any_other() {
    let keys = ["header:x-key", "cookie:session", "query:q"];
    let names = ["header", "cookie", "query"];
    let limits =
        keys.iter().zip(names).map(|(key, name)| with(limit(name, "gcra", QUOTA), json!({ "key": [key] })));
    let paths = ["/header", "/cookie", "/query"];
    let of: Vec<_> = paths.into_iter().zip(limits.map(|limit| vec![limit])).collect();
    let stack = start(routes(&of)).await;
    let large = |last| format!("{}{last}", "k".repeat(60_000));
    for last in ["a", "b"] {
        assert_one_counter(&stack, &[get("/header", format!("x-key: {}\r\n", large(last)))]).await;
        assert_one_counter(&stack, &[get("/cookie", format!("cookie: a=b; session={}\r\n", large(last)))])
            .await;
        assert_one_counter(&stack, &[get(&format!("/query?q={}", large(last)), "")]).await;
    }
    let mut redis = connect(stack.redis.as_ref().unwrap());
    for name in names {
        assert_eq!(consumed(&mut redis, name), [QUOTA; 2], "{name}");
    }
    // What is large beside the key makes no difference, nor do many fields.
    let many: String = (0..90).map(|n| format!("x-field-{n}: {}\r\n", "v".repeat(600))).collect();
    assert_one_counter(
        &stack,
        &[get("/header", "x-key: small\r\n"), get("/header", format!("x-key: small\r\n{many}"))],
    )
    .await;
    assert_unharmed(&stack);
}

// ---- Addresses.

/// With `use_remote_address`, Envoy writes the connection's address behind whatever list a client made up.
#[tokio::test]
async fn a_forged_forwarded_for_is_no_way_around_the_connection() {
    let stack = start(by_address("connection", 1)).await;
    assert_one_counter(&stack, &forged("")).await;
    assert_counters(&stack, 1);

    let stack = start(by_address("x-forwarded-for", 1)).await;
    assert_one_counter(&stack, &forged("")).await;
    assert_counters(&stack, 1);
}

/// A load balancer in front has appended the client's address. What the client wrote stands before it.
#[tokio::test]
async fn addresses_are_counted_from_the_right_over_trusted_hops() {
    // Envoy appends the load balancer's own address, so the client is the second from the right.
    let stack = start(by_address("x-forwarded-for", 2)).await;
    assert_one_counter(&stack, &forged("198.51.100.7")).await;
    assert_one_counter(&stack, &forged("198.51.100.8")).await;
    // One customer has a whole /64.
    assert_one_counter(&stack, &[forged("2001:db8:1:2::a"), forged("2001:db8:1:2:ffff::b")].concat()).await;
    assert_one_counter(&stack, &[forged("198.51.100.9"), forged("::ffff:198.51.100.9")].concat()).await;
    assert_counters(&stack, 4);

    // Envoy appends nothing.
    let policy = by_address("x-forwarded-for", 1);
    let stack = start_with(StackOptions { use_remote_address: false, ..StackOptions::new(policy) }).await;
    assert_one_counter(&stack, &forged("198.51.100.7")).await;
    assert_one_counter(&stack, &forged("198.51.100.8")).await;
    assert_counters(&stack, 2);
}

/// Without `use_remote_address` Envoy itself takes the client's address from the header, and tells the filter no other:
/// the last entry is then what `connection` means.
#[tokio::test]
async fn the_connection_is_what_envoy_was_told_to_believe() {
    let policy = by_address("connection", 1);
    let stack = start_with(StackOptions { use_remote_address: false, ..StackOptions::new(policy) }).await;
    assert_one_counter(&stack, &forged("198.51.100.7")).await;
    assert_one_counter(&stack, &forged("198.51.100.8")).await;
    assert_counters(&stack, 2);
}

// ---- Paths.

#[tokio::test]
async fn spellings_of_a_path_share_its_limit_when_envoy_normalises() {
    assert_spellings_share(Paths::Normalised).await;
}

#[tokio::test]
async fn spellings_of_a_path_share_its_limit_when_envoy_does_not_normalise() {
    assert_spellings_share(Paths::Raw).await;
}

async fn assert_spellings_share(paths: Paths) {
    let login = with(limit("limit", "sliding_window_log", QUOTA), json!({ "key": ["path"] }));
    let stack =
        start_with(StackOptions { paths, ..StackOptions::new(routes(&[("/auth/login", vec![login])])) })
            .await;
    let mut spelled = vec![
        "/auth/login",
        "/auth/login/",
        "/auth/login//",
        "/auth/login/.",
        "/auth///login",
        "/auth/./login",
        "/auth/x/../login",
        "/../../auth/login",
        "/auth/%6cogin",
        "/%61%75%74%68/%6C%6F%67%69%6E",
        "/auth%2Flogin",
        "/auth%2flogin",
        "/auth\\login",
        "/auth%5Clogin",
        "/auth/login?x=/../1",
        "/auth/login?",
        "/auth;a=b/login;c=d?e",
        "http://tollgate.test/auth/login",
    ];
    // What servers read differently, and what Envoy has one spelling for.
    let mut refused = vec!["/x/%2e%2e;/auth/login"];
    let by_envoy =
        ["/%2e/auth/y/%2e%2E/login", "/auth/..;/auth/login", "http://another.test:8080//auth/./login?x"];
    match paths {
        Paths::Normalised => spelled.extend(by_envoy.into_iter().chain(["//auth///login"])),
        Paths::Raw => refused.extend(by_envoy),
    }
    assert_one_counter(&stack, &spelled.iter().map(|target| get(target, "")).collect::<Vec<_>>()).await;
    for target in refused {
        let answer = ask(stack.envoys[0].address(), &get(target, "")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{target}: {answer}");
    }
    // These Envoy refuses, or they are spellings like the others; nothing is left for them.
    for target in ["/auth/login#x", "auth/login", "https://tollgate.test/auth/login"] {
        let answer = ask(stack.envoys[0].address(), &get(target, "")).await;
        assert!(answer.status.is_client_error(), "{target}: {answer}");
    }
    assert_counters(&stack, 1);
}

// ---- Requests of odd forms.

#[tokio::test]
async fn requests_of_odd_forms_are_limited_or_refused() {
    let everybody = with(limit("limit", "fixed_window", QUOTA), json!({ "key": ["const:everybody"] }));
    let manager = json!({
        "http_protocol_options": { "accept_http_10": true },
        "upgrade_configs": [{ "upgrade_type": "websocket" }, { "upgrade_type": "CONNECT" }],
    });
    let Value::Object(manager) = manager else { panic!("an object") };
    let stack = start_with(StackOptions { manager, ..StackOptions::new(policy(&[everybody])) }).await;
    let websocket = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: eA==\r\n";
    let limited = [
        get("/", ""),
        get("http://somewhere.test/else", ""),
        get("/ws", websocket),
        b"GET / HTTP/1.0\r\nhost: a\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_vec(),
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc".to_vec(),
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec(),
        b"PROPFIND / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
    ];
    // These Envoy refuses, before the filter or behind it, and what is behind it is charged.
    let connect = b"CONNECT a.test:443 HTTP/1.1\r\nhost: a.test:443\r\n\r\n";
    let refused: [&[u8]; 10] = [
        b"MADE-UP / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: \xff\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n\xff\xfe: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx-odd: \x00\r\n\r\n",
        b"\xff\xfe / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n0\r\n\r\n",
    ];
    let ask = async |bytes: &[u8]| client::raw(stack.envoys[0].address(), bytes).await.unwrap();
    for request in refused {
        let answer = ask(request).await;
        assert!(
            answer.status.is_client_error() && answer.header("ratelimit").is_none(),
            "{}: {answer}",
            shown(request)
        );
    }
    assert_eq!(
        ask(connect).await.header("x-ratelimit-remaining"),
        Some("31"),
        "a tunnel is charged like a request"
    );
    let redis = &mut connect_to(&stack);
    assert_eq!(consumed(redis, "limit"), [1]);
    redis::cmd("FLUSHALL").exec(redis).unwrap();
    assert_one_counter(&stack, &limited).await;
    assert_eq!(ask(connect).await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_counters(&stack, 1);
}

#[tokio::test]
async fn refusals_are_answered_in_the_form_that_the_client_reads() {
    let everybody = with(limit("limit", "gcra", 1), json!({ "key": ["const:everybody"] }));
    let stack = start(policy(&[everybody])).await;
    let send = async |method: &str, content_type: &str| {
        let request = Request::builder().method(method).uri("/").header("host", "a");
        let request = request.header("content-type", content_type).body(Full::<Bytes>::default()).unwrap();
        client::send(stack.envoys[0].address(), request).await.unwrap()
    };
    assert_eq!(send("GET", "text/plain").await.status, StatusCode::OK);

    let refusal = send("GET", "text/plain").await;
    assert_eq!(refusal.status, StatusCode::TOO_MANY_REQUESTS, "{refusal}");
    assert_eq!(refusal.header("content-type"), Some("application/problem+json"));
    assert_eq!(refusal.json().unwrap()["error"]["code"], "RATE_LIMIT_EXCEEDED");

    let head = send("HEAD", "text/plain").await;
    assert_eq!((head.status, head.body.len()), (StatusCode::TOO_MANY_REQUESTS, 0), "{head}");
    assert_eq!(head.header("retry-after").is_some(), refusal.header("retry-after").is_some());

    // 8 is RESOURCE_EXHAUSTED; Envoy alone would say 14, UNAVAILABLE, which clients try again at once.
    for content_type in ["application/grpc", "application/grpc+proto"] {
        let call = send("POST", content_type).await;
        let seen = (call.status, call.header("content-type"), call.header("grpc-status"));
        assert_eq!(seen, (StatusCode::OK, Some("application/grpc"), Some("8")), "{call}");
    }
    let web = send("POST", "application/grpc-web").await;
    assert_eq!((web.status, web.header("grpc-status")), (StatusCode::TOO_MANY_REQUESTS, None), "{web}");
    assert_unharmed(&stack);
}

// ---- Bodies.

/// The decision needs the head alone: a client that sends its body slowly is neither waited for nor cut off.
#[tokio::test]
async fn a_body_that_comes_slowly_delays_no_decision() {
    let (upstream, stack) = start_with_upstream(1).await;
    let mut stream = TcpStream::connect(stack.envoys[0].address()).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    eventually("the upstream has the head", async || upstream.requests(), |requests| *requests == 1).await;
    for part in ["5\r\nfirst\r\n", "6\r\nsecond\r\n", "0\r\n\r\n"] {
        stream.write_all(part.as_bytes()).await.unwrap();
    }
    let answer = client::read(&mut stream).await.unwrap();
    assert_eq!(
        (answer.status, &answer.json().unwrap()["body_length"]),
        (StatusCode::OK, &json!(11)),
        "{answer}"
    );

    let mut stream = TcpStream::connect(stack.envoys[0].address()).await.unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        .await
        .unwrap();
    let answer = client::read(&mut stream).await.unwrap();
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{answer}");
    assert_eq!(upstream.requests(), 1);
    assert_unharmed(&stack);
}

/// While a request waits for the store its body keeps coming, more than Envoy holds for a stream, and arrives whole.
#[tokio::test]
async fn a_large_body_outlasts_a_slow_store() {
    const LENGTH: usize = 3 << 20;
    let (upstream, stack) = start_with_upstream(1).await;
    let gateway = stack.gateway.as_ref().unwrap();
    gateway.suspend().unwrap();
    let request = Request::post("/").header("host", "a").body(Full::from(vec![b'x'; LENGTH])).unwrap();
    let answer = tokio::spawn(client::send(stack.envoys[0].address(), request));
    let received = async || {
        let metrics = stack.envoys[0].metrics().await.unwrap();
        metrics.sum(
            "envoy_http_downstream_cx_rx_bytes_total",
            &[("envoy_http_conn_manager_prefix", &prefix(&stack))],
        )
    };
    eventually("Envoy has taken what it holds", received, |bytes| *bytes > f64::from(1 << 20)).await;
    assert_eq!(upstream.requests(), 0);
    gateway.resume().unwrap();
    let answer = answer.await.unwrap().unwrap();
    assert_eq!(
        (answer.status, &answer.json().unwrap()["body_length"]),
        (StatusCode::OK, &json!(LENGTH)),
        "{answer}"
    );
    assert_unharmed(&stack);
}

// ---- The stack, and what is asserted of it.

async fn start(policy: Value) -> Stack {
    start_with(StackOptions::new(policy)).await
}

async fn start_with(options: StackOptions) -> Stack {
    Stack::start(options).await.unwrap()
}

/// With an origin that says what it has received, and room for `quota` requests.
async fn start_with_upstream(quota: u64) -> (Upstream, Stack) {
    let upstream = Upstream::start(ports::free().unwrap()).await.unwrap();
    let policy = policy(&[limit("limit", "fixed_window", quota)]);
    let options = StackOptions { upstream: Behind::Address(upstream.address()), ..StackOptions::new(policy) };
    (upstream, start_with(options).await)
}

/// One limit for all paths with this key.
fn keyed(key: &str) -> Value {
    policy(&[with(limit("limit", "gcra", QUOTA), json!({ "key": [key] }))])
}

/// One limit for all paths by address.
fn by_address(from: &str, trusted_hops: u64) -> Value {
    let client_ip = json!({ "from": from, "trusted_hops": trusted_hops });
    with(keyed("client_ip"), json!({ "client_ip": client_ip }))
}

/// Requests of a client that makes up a new `x-forwarded-for` each time, in front of `appended`.
fn forged(appended: &str) -> Vec<Vec<u8>> {
    let made_up =
        ["203.0.113.1", "203.0.113.2, 203.0.113.3", "127.0.0.1", "::1", "unknown", "\u{ff}", "", ",,,"];
    let mut requests: Vec<Vec<u8>> = made_up
        .iter()
        .map(|made_up| {
            let separator = if appended.is_empty() { "" } else { ", " };
            get("/", format!("x-forwarded-for: {made_up}{separator}{appended}\r\n"))
        })
        .collect();
    let long = "203.0.113.9, ".repeat(4000);
    requests.push(get("/", format!("x-forwarded-for: {long}{appended}\r\n")));
    let line = if appended.is_empty() { String::new() } else { format!("x-forwarded-for: {appended}\r\n") };
    requests
        .push(get("/", format!("x-forwarded-for: 203.0.113.1\r\nX-Forwarded-For: 203.0.113.2\r\n{line}")));
    requests
}

/// The bytes of `GET target` with these lines, each of which ends in CRLF.
fn get(target: &str, lines: impl AsRef<[u8]>) -> Vec<u8> {
    let first = format!("GET {target} HTTP/1.1\r\nhost: tollgate.test\r\n");
    [first.as_bytes(), lines.as_ref(), b"\r\n"].concat()
}

/// Sends these in turn until the quota is used up, and then each once more: all are refused.
async fn assert_one_counter(stack: &Stack, requests: &[Vec<u8>]) {
    let address = stack.envoys[0].address();
    for count in 0..QUOTA {
        let request = &requests[count as usize % requests.len()];
        let answer = ask(address, request).await;
        let seen = (answer.status, answer.header("x-ratelimit-remaining"));
        let left = (QUOTA - count - 1).to_string();
        assert_eq!(seen, (StatusCode::OK, Some(left.as_str())), "{}: {answer}", shown(request));
    }
    for request in requests {
        let answer = ask(address, request).await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{}: {answer}", shown(request));
    }
}

async fn ask(address: SocketAddr, request: &[u8]) -> Answer {
    client::raw(address, request).await.unwrap_or_else(|error| panic!("{}: {error:#}", shown(request)))
}

/// The limit has this many counters, each used up and not more, and no VM has trapped.
fn assert_counters(stack: &Stack, count: usize) {
    assert_eq!(consumed(&mut connect_to(stack), "limit"), vec![QUOTA; count]);
    assert_unharmed(stack);
}

fn connect_to(stack: &Stack) -> redis::Connection {
    connect(stack.redis.as_ref().unwrap())
}

fn prefix(stack: &Stack) -> String {
    format!("port_{}", stack.envoys[0].address().port())
}

/// The beginning of a request, for a message.
fn shown(request: &[u8]) -> String {
    request.iter().take(200).map(|byte| std::ascii::escape_default(*byte).to_string()).collect()
}

const QUOTA: u64 = 32;

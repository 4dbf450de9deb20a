//! The store, the origin, clients and the Worker itself fail, and requests notice no more than they must.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tollgate_tests::client::{self, Answer};
use tollgate_tests::load::{Load, Report, Running};
use tollgate_tests::ports;
use tollgate_tests::stack::{Edge, StoreChoice};
use tollgate_tests::store_double::{Mode, StoreDouble};
use tollgate_tests::upstream::{Reply, ReplyBody};

use crate::Site;
use crate::support::{
    DEGRADED, assert_unharmed, connect, consumed, eventually, limit, policy, request, routes, with,
};

// ---- The store.

#[tokio::test]
async fn a_redis_that_is_killed_and_restarted_is_survived() {
    let mut site = three_modes().await;
    let load = trickle(&site).await;
    site.stack.redis.as_ref().unwrap().kill().await;
    without_the_store(&site, &load).await;
    site.stack.redis.as_mut().unwrap().restart().await.unwrap();
    with_the_store_again(&site, &load).await;
    assert_nobody_suffered(&site, load).await;
}

#[tokio::test]
async fn a_gateway_that_is_killed_and_restarted_is_survived() {
    let mut site = three_modes().await;
    let load = trickle(&site).await;
    site.stack.gateway.as_ref().unwrap().kill().await;
    without_the_store(&site, &load).await;
    site.stack.gateway.as_mut().unwrap().restart().await.unwrap();
    with_the_store_again(&site, &load).await;
    assert_nobody_suffered(&site, load).await;
}

/// Connections stay open and nothing answers: the gateway is frozen.
#[tokio::test]
async fn a_gateway_that_falls_silent_is_survived() {
    let site = three_modes().await;
    let load = trickle(&site).await;
    site.stack.gateway.as_ref().unwrap().suspend().unwrap();
    without_the_store(&site, &load).await;
    site.stack.gateway.as_ref().unwrap().resume().unwrap();
    with_the_store_again(&site, &load).await;
    assert_nobody_suffered(&site, load).await;
}

#[tokio::test]
async fn a_token_that_the_gateway_refuses_is_a_failed_store() {
    let site = Site::start_with(policy_of_three_modes(), StoreChoice::Redis, |edge| {
        edge.with("UPSTASH_REDIS_REST_TOKEN", "not-the-token").with("TOLLGATE_STORE_TIMEOUT", timeout())
    });
    let site = site.await;
    assert_decided_without_the_store(&site, "401").await;
    assert!(site.log().contains(r#""kind":"status""#), "{}", site.log());
    assert!(!site.log().contains("not-the-token"), "{}", site.log());
    assert_unharmed(&site.stack);
}

/// What no real store answers on demand. After each, the store is well and is asked again.
#[tokio::test]
async fn answers_that_are_none_are_survived() {
    let double = StoreDouble::start(ports::free().unwrap(), healthy()).await.unwrap();
    let store = StoreChoice::Address(double.address());
    let site = Site::start_with(policy_of_three_modes(), store, |edge| {
        edge.with("TOLLGATE_STORE_TIMEOUT", timeout())
    });
    let site = site.await;
    let standing = || json!([NOW, 999, 0, 0]);
    for (mode, kind) in [
        (Mode::Late(TIMEOUT * 2, standing()), "timeout"),
        (Mode::Silent, "timeout"),
        (Mode::Garbage, "garbage"),
        (Mode::NotAnArray, "garbage"),
        (Mode::HalfPipeline(standing()), "garbage"),
        (Mode::LongPipeline(standing()), "garbage"),
        (Mode::Answer(json!([NOW, 999, 0])), "garbage"),
        (Mode::Answer(json!("OK")), "garbage"),
        (Mode::Answer(json!([NOW, 999, -5, 0])), "garbage"),
        (Mode::Refuse("NOSCRIPT No matching script. Please use EVAL."), "refused"),
        (Mode::Refuse(""), "refused"),
        (Mode::Status(StatusCode::UNAUTHORIZED), "status"),
        (Mode::Status(StatusCode::INTERNAL_SERVER_ERROR), "status"),
        (Mode::Status(StatusCode::FOUND), "status"),
        (Mode::CloseMidAnswer, "unreachable"),
    ] {
        let before = site.log().len();
        double.set_mode(mode.clone());
        assert_decided_without_the_store(&site, &format!("{mode:?}")).await;
        let log = site.log().split_off(before);
        let kinds = log.lines().filter_map(|line| line.split_once(r#""kind":""#)?.1.split('"').next());
        let kinds: Vec<&str> = kinds.collect();
        assert!(!kinds.is_empty() && kinds.iter().all(|found| *found == kind), "{mode:?}: {kinds:?}\n{log}");
        double.set_mode(healthy());
        let ask = async || client::send(site.address(), request("/deny", "x")).await.unwrap();
        eventually("the store is asked again", ask, |answer| answer.header(DEGRADED).is_none()).await;
    }
    assert_unharmed(&site.stack);
}

/// Once the breaker is open, requests do not wait for the store, and the store is hardly asked.
#[tokio::test]
async fn a_dead_store_costs_nothing() {
    const REQUESTS: u64 = 2000;
    let double = StoreDouble::start(ports::free().unwrap(), Mode::Silent).await.unwrap();
    let store = StoreChoice::Address(double.address());
    let site =
        Site::start_with(policy_of_three_modes(), store, |edge| edge.with("TOLLGATE_STORE_TIMEOUT", "1s"));
    let site = site.await;
    for _ in 0..3 {
        client::send(site.address(), request("/local", "x")).await.unwrap();
    }
    let asked = double.requests();
    let report = Load { connections: 8, ..load_of(&site, REQUESTS, "/local") }.run().await.unwrap();
    let asked = double.requests() - asked;
    println!(
        "{asked} calls for {REQUESTS} requests in {:?}: p99 {:?}",
        report.elapsed,
        report.quantile(0.99)
    );
    assert_eq!((report.count(200), report.marked()), (REQUESTS, REQUESTS), "{report:?}");
    // Pauses double from half a second, so this is what may be probed in the time that the load took.
    assert!(asked <= 1 + report.elapsed.as_secs(), "{asked} calls in {:?}", report.elapsed);
    assert!(report.quantile(0.99) < Duration::from_millis(400), "{:?}", report.quantile(0.99));
    assert_unharmed(&site.stack);
}

/// Each limit says for itself what happens then, and what is counted locally is counted.
#[tokio::test]
async fn each_limit_fails_as_its_policy_says() {
    let of = |name, algorithm, mode| with(limit(name, algorithm, 10), json!({ "on_store_error": mode }));
    let site = Site::start_with(
        routes(&[
            ("/local", vec![of("l", "sliding_window_log", "local")]),
            ("/allow-and-deny", vec![of("a", "fixed_window", "allow"), of("d", "gcra", "deny")]),
            ("/shadow-deny", vec![with(of("s", "gcra", "deny"), json!({ "shadow": true }))]),
            ("/free", vec![]),
        ]),
        StoreChoice::Redis,
        // Each of two isolates grants half of a quota of 10.
        |edge| edge.with("TOLLGATE_REPLICAS", "2"),
    );
    let site = site.await;
    site.stack.gateway.as_ref().unwrap().kill().await;
    let ask = async |path| client::send(site.address(), request(path, "x")).await.unwrap();
    assert_unavailable(&ask("/allow-and-deny").await);
    for (path, degraded) in [("/shadow-deny", Some("deny")), ("/free", None)] {
        let answer = ask(path).await;
        assert_eq!((answer.status, answer.header(DEGRADED)), (StatusCode::OK, degraded), "{path}: {answer}");
    }
    for remaining in ["4", "3", "2", "1", "0"] {
        let answer = ask("/local").await;
        let seen = (answer.status, answer.header(DEGRADED), answer.header("x-ratelimit-remaining"));
        assert_eq!(seen, (StatusCode::OK, Some("local"), Some(remaining)), "{answer}");
    }
    let answer = ask("/local").await;
    let seen = (answer.status, answer.header(DEGRADED));
    assert_eq!(seen, (StatusCode::TOO_MANY_REQUESTS, Some("local")), "{answer}");
    assert_unharmed(&site.stack);
}

// ---- The origin.

#[tokio::test]
async fn an_origin_that_is_down_is_a_502() {
    let nowhere = format!("http://{}", ports::local(ports::free().unwrap()));
    let site =
        Site::start_with(policy(&[wide()]), StoreChoice::Redis, |edge| edge.with("ORIGIN_URL", nowhere));
    let site = site.await;
    let answer = client::send(site.address(), request("/", "x")).await.unwrap();
    assert_problem(&answer, StatusCode::BAD_GATEWAY, "ORIGIN_UNREACHABLE");
    // The limit was charged, and says so.
    assert_eq!(answer.header("x-ratelimit-remaining"), Some("999999"), "{answer}");
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn an_origin_that_is_slow_is_a_504_in_time() {
    let site = Site::start_with(policy(&[wide()]), StoreChoice::Redis, |edge| {
        edge.with("TOLLGATE_ORIGIN_TIMEOUT", "300ms")
    });
    let site = site.await;
    site.origin.set_reply(Reply { delay: Duration::from_secs(60), ..Reply::default() });
    let begun = Instant::now();
    let answer = client::send(site.address(), request("/", "x")).await.unwrap();
    let took = begun.elapsed();
    assert_problem(&answer, StatusCode::GATEWAY_TIMEOUT, "ORIGIN_TIMEOUT");
    assert!(took >= Duration::from_millis(290) && took < Duration::from_millis(300) + SLACK, "{took:?}");
    // The time is for the answer's beginning: a body may take longer than that.
    site.origin.set_reply(Reply { body: ReplyBody::Mirror, ..Reply::default() });
    assert_eq!(slow_echo(&site, Duration::from_millis(600)).await, b"early late");
    assert_unharmed(&site.stack);
}

/// The client must not take the part that came for the whole.
#[tokio::test]
async fn an_origin_that_breaks_off_is_no_complete_answer() {
    let site = Site::start(policy(&[wide()])).await;
    let cut = ReplyBody::Cut(Bytes::from_static(b"the beginning"));
    site.origin.set_reply(Reply { body: cut, ..Reply::default() });
    let error = client::send(site.address(), request("/", "x")).await.unwrap_err();
    println!("{error:#}");
    let head = "GET / HTTP/1.1\r\nhost: tollgate.test\r\n\r\n";
    let error = client::raw(site.address(), head.as_bytes()).await.unwrap_err();
    assert!(format!("{error:#}").contains("between two chunks"), "{error:#}");
    site.origin.set_reply(Reply::default());
    let answer = client::send(site.address(), request("/", "x")).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{answer}");
    assert_unharmed(&site.stack);
}

/// Runtimes take such answers, and make none of them: none of these is passed on, what the request
/// holds is given back, and it is the origin's failure.
#[tokio::test]
async fn an_answer_that_is_none_is_a_502_and_the_origin_s_failure() {
    let statuses = ["101 X", "600 X", "700 X", "999 X"];
    for status in statuses {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        let (url, _) = raw_origin(answer);
        let with_url = |edge: Edge| edge.with("ORIGIN_URL", url);
        let site = Site::start_with(failing_policy(), StoreChoice::Redis, with_url).await;
        // Nothing is left to do with the answer to the first.
        for path in ["/free", "/limited", "/", "/", "/"] {
            let answer = client::send(site.address(), request(path, "x")).await.unwrap();
            assert_problem(&answer, StatusCode::BAD_GATEWAY, "ORIGIN_UNREACHABLE");
        }
        let ask = async || client::send(site.address(), request("/after", "x")).await.unwrap();
        let open = |answer: &Answer| answer.text().contains("CIRCUIT_OPEN");
        eventually("the breaker opens", ask, open).await;
        let mut redis = connect(site.stack.redis.as_ref().unwrap());
        assert_eq!(consumed(&mut redis, "failures"), [3], "{status}");
        assert_unharmed(&site.stack);
    }
}

/// RFC 9112 lets a reason phrase have tabs, and RFC 9110 a length be said twice.
#[tokio::test]
async fn an_odd_answer_that_is_one_is_passed_on_and_gives_back_what_is_held() {
    for (reason, length) in
        [("all\tright", "2"), ("caf\u{e9}", "2"), ("", "2"), ("OK", "2, 2"), ("OK", "2\r\ncontent-length: 2")]
    {
        let answer =
            format!("HTTP/1.1 200 {reason}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\nok");
        let (url, _) = raw_origin(answer);
        let with_url = |edge: Edge| edge.with("ORIGIN_URL", url);
        let site = Site::start_with(failing_policy(), StoreChoice::Redis, with_url).await;
        // Each waits for the lock of the one before.
        for path in ["/limited", "/", "/"] {
            let answer = client::send(site.address(), request(path, "x")).await.unwrap();
            assert_eq!(
                (answer.status, &*answer.text()),
                (StatusCode::OK, "ok"),
                "{reason:?}, {length}: {answer}"
            );
        }
        assert_unharmed(&site.stack);
    }
}

/// An origin that answers each request with these bytes, as soon as its head has come; what it
/// received until the connection closed.
fn raw_origin(answer: String) -> (String, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = StdListener::bind(ports::local(0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let (answer, tell) = (answer.clone(), tell.clone());
            tokio::spawn(async move {
                let mut received = Vec::new();
                let mut is_answered = answer.is_empty();
                while connection.read_buf(&mut received).await.is_ok_and(|size| size > 0) {
                    if !is_answered && received.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                        is_answered = true;
                        connection.write_all(answer.as_bytes()).await.unwrap();
                        if answer.contains("connection: close") {
                            break;
                        }
                    }
                }
                let _ = tell.send(received);
            });
        }
    });
    (url, told)
}

/// Points are written when a lock has been taken already.
#[tokio::test]
async fn a_dataset_that_takes_no_more_points_harms_no_request() {
    let route =
        json!({ "name": "not-taken", "lock": { "key": ["const:all"], "lease": "1h", "wait": "15s" } });
    let site = Site::start_with(json!({ "routes": [route] }), StoreChoice::Redis, |mut edge| {
        edge.metrics = true;
        edge
    });
    let site = site.await;
    for _ in 0..3 {
        let answer = client::send(site.address(), request("/", "x")).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{answer}");
    }
    assert_eq!(site.log().matches("no more data points").count(), 1, "it is said once: {}", site.log());
    assert_unharmed(&site.stack);
}

// ---- Clients.

/// It is no failure of the origin: no breaker opens, and nothing is counted.
#[tokio::test]
async fn an_upload_that_breaks_off_is_the_client_s_failure() {
    let site = Site::start_with(failing_policy(), StoreChoice::Redis, |mut edge| {
        edge.metrics = true;
        edge
    });
    let site = site.await;
    let (post, sized) = ("POST / HTTP/1.1\r\nhost: tollgate.test\r\n", "content-length: 10\r\n\r\nab");
    let get = "GET / HTTP/1.1\r\nhost: tollgate.test\r\n";
    let chunked = "transfer-encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\n";
    for _ in 0..3 {
        for head in [post, get] {
            let mut connection = TcpStream::connect(site.address()).await.unwrap();
            connection.write_all(format!("{head}{sized}").as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(connection);
            is_over(&site).await;
            let broken = client::raw(site.address(), format!("{head}{chunked}").as_bytes()).await.unwrap();
            assert_problem(&broken, StatusCode::BAD_REQUEST, "REQUEST_INCOMPLETE");
            is_over(&site).await;
        }
    }
    // Where the decision goes by the body, nothing has been asked of anybody.
    let requests = site.origin.requests();
    let head = post.replace("POST /", "POST /read");
    let broken = client::raw(site.address(), format!("{head}{chunked}").as_bytes()).await.unwrap();
    assert_problem(&broken, StatusCode::BAD_REQUEST, "REQUEST_INCOMPLETE");
    assert_eq!(site.origin.requests(), requests);
    let mut redis = connect(site.stack.redis.as_ref().unwrap());
    eventually("all is given back", async || consumed(&mut redis, "failures"), |counts| *counts == [0]).await;
    let points = site.stack.workerds[0].data_points().unwrap();
    assert!(!points.iter().any(|point| point["blobs"][0] == "origin"), "{points:?}");
    assert_unharmed(&site.stack);
}

/// The origin is not left waiting, and does not take what came for the whole.
#[tokio::test]
async fn an_upload_that_breaks_off_breaks_off_at_the_origin() {
    let (sized, chunked) = ("content-length: 10\r\n\r\nab", "transfer-encoding: chunked\r\n\r\n2\r\nab\r\n");
    let begun = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n";
    for (answer, body, breaks) in [
        ("", sized, ""),
        ("", chunked, ""),
        ("", chunked, "zz\r\n"),
        (begun, sized, ""),
        (begun, chunked, ""),
        (begun, chunked, "zz\r\n"),
    ] {
        let (url, mut told) = raw_origin(answer.to_owned());
        let with_url = |edge: Edge| edge.with("ORIGIN_URL", url);
        let site = Site::start_with(failing_policy(), StoreChoice::Redis, with_url).await;
        for path in ["/", "/free"] {
            let mut connection = TcpStream::connect(site.address()).await.unwrap();
            let head = format!("POST {path} HTTP/1.1\r\nhost: tollgate.test\r\n{body}");
            connection.write_all(head.as_bytes()).await.unwrap();
            let mut came = Vec::new();
            while !answer.is_empty() && !came.ends_with(b"begun\r\n") {
                assert!(connection.read_buf(&mut came).await.unwrap() > 0, "closed early");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            connection.write_all(breaks.as_bytes()).await.unwrap();
            if breaks.is_empty() {
                connection.shutdown().await.unwrap();
            }
            let received = tokio::time::timeout(Duration::from_secs(5), told.recv()).await;
            let received = received.unwrap_or_else(|_| panic!("{path} {body:?} {breaks:?}: it waits on"));
            let received = String::from_utf8(received.unwrap()).unwrap();
            // Of what the origin has begun to answer, workerd ends the chunks before it closes the
            // connection.
            if answer.is_empty() {
                assert!(!received.ends_with("0\r\n\r\n"), "{path}: {received}");
            }
            drop(connection);
        }
        assert_unharmed(&site.stack);
    }
}

/// A length that no stream has is the client's failure, and the request holds nothing any more.
#[tokio::test]
async fn a_body_that_no_stream_can_hold_is_too_large() {
    let site = Site::start(failing_policy()).await;
    for length in ["9007199254740992", "9007199254740993", "9223372036854775807"] {
        let head = format!("POST / HTTP/1.1\r\nhost: tollgate.test\r\ncontent-length: {length}\r\n\r\nab");
        let answer = client::raw(site.address(), head.as_bytes()).await.unwrap();
        assert_problem(&answer, StatusCode::PAYLOAD_TOO_LARGE, "REQUEST_TOO_LARGE");
        is_over(&site).await;
    }
    // One that is as long as can be is sent on.
    let head = "POST / HTTP/1.1\r\nhost: tollgate.test\r\ncontent-length: 9007199254740991\r\n\r\nab";
    site.origin.set_reply(Reply { body: ReplyBody::Unfinished("begun".into()), ..Reply::default() });
    let mut connection = TcpStream::connect(site.address()).await.unwrap();
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut came = Vec::new();
    while !came.windows(5).any(|bytes| bytes == b"begun") {
        assert!(connection.read_buf(&mut came).await.unwrap() > 0, "closed early");
    }
    assert!(came.starts_with(b"HTTP/1.1 200 "));
    drop(connection);
    let mut redis = connect(site.stack.redis.as_ref().unwrap());
    assert_eq!(consumed(&mut redis, "failures"), [0], "it is no failure of the origin");
    assert_unharmed(&site.stack);
}

/// What the origin breaks off in the middle of an upload is its own.
#[tokio::test]
async fn an_origin_that_breaks_off_an_upload_fails() {
    let listener = TcpListener::bind(ports::local(0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let site = Site::start_with(failing_policy(), StoreChoice::Redis, |edge| edge.with("ORIGIN_URL", url));
    let site = site.await;
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = tokio::io::AsyncReadExt::read(&mut connection, &mut [0; 4096]).await;
        }
    });
    for _ in 0..3 {
        let mut connection = TcpStream::connect(site.address()).await.unwrap();
        let head = "POST / HTTP/1.1\r\nhost: tollgate.test\r\ncontent-length: 1000000\r\n\r\n";
        connection.write_all(head.as_bytes()).await.unwrap();
        let answer = client::read(&mut connection).await.unwrap();
        assert_problem(&answer, StatusCode::BAD_GATEWAY, "ORIGIN_UNREACHABLE");
    }
    // The limit of the others may refuse before the breaker is told, and that is remembered.
    let open = async || client::send(site.address(), request("/after", "x")).await.unwrap();
    eventually("the breaker opens", open, |answer| answer.text().contains("CIRCUIT_OPEN")).await;
    assert_unharmed(&site.stack);
}

/// The origin's time begins when it has the request.
#[tokio::test]
async fn a_slow_upload_does_not_use_up_the_origin_s_time() {
    let site = Site::start_with(failing_policy(), StoreChoice::Redis, |edge| {
        edge.with("TOLLGATE_ORIGIN_TIMEOUT", "500ms")
    });
    let site = site.await;
    site.origin.set_reply(Reply { body: ReplyBody::Returned, ..Reply::default() });
    assert_eq!(slow_echo(&site, Duration::from_millis(1200)).await, b"early late");
    is_over(&site).await;
    site.origin.set_reply(Reply { delay: Duration::from_secs(60), ..Reply::default() });
    let begun = Instant::now();
    let mut connection = TcpStream::connect(site.address()).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: tollgate.test\r\ncontent-length: 2\r\n\r\nab";
    connection.write_all(head.as_bytes()).await.unwrap();
    let answer = client::read(&mut connection).await.unwrap();
    assert_problem(&answer, StatusCode::GATEWAY_TIMEOUT, "ORIGIN_TIMEOUT");
    assert!(begun.elapsed() >= Duration::from_millis(490), "{:?}", begun.elapsed());
    assert_unharmed(&site.stack);
}

/// A breaker that the third failure opens, and a limit that it uses up; for the lock, each request waits until the one before is over.
fn failing_policy() -> Value {
    let count = json!({ "count": "failures", "key": ["const:all"] });
    let guards = json!({
        "circuit_breaker": { "failures": 3, "within": "1h", "open_for": "1h", "name": "origin" },
        "lock": { "name": "one", "key": ["const:all"], "lease": "1h", "wait": "15s" },
    });
    let limited = json!({ "rate_limits": [with(limit("failures", "fixed_window", 3), count)] });
    let after = with(guards.clone(), json!({ "name": "after", "match": { "path": "/after" } }));
    let by_body = with(limit("body", "fixed_window", 9), json!({ "key": ["body:/id"] }));
    let read = json!({ "name": "read", "match": { "path": "/read" }, "rate_limits": [by_body] });
    let free = json!({ "name": "free", "match": { "path": "/free" } });
    let wide = json!({ "name": "limited", "match": { "path": "/limited" }, "rate_limits": [wide()] });
    json!({ "routes": [after, read, free, wide], "default": with(guards, limited) })
}

/// Waits until a request is over, by one that the origin answers.
async fn is_over(site: &Site) {
    let answer = client::send(site.address(), request("/after", "x")).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{answer}");
}

/// Clients leave while they wait for the store, for the origin, and in the middle of an answer. Nobody else notices.
#[tokio::test]
async fn clients_that_leave_disturb_nobody() {
    let site = Site::start(policy(&[wide()])).await;
    let gateway = site.stack.gateway.as_ref().unwrap();
    gateway.suspend().unwrap();
    leave(&site, Duration::from_millis(100)).await;
    gateway.resume().unwrap();
    site.origin.set_reply(Reply { delay: Duration::from_millis(300), ..Reply::default() });
    leave(&site, Duration::from_millis(100)).await;
    let endless = ReplyBody::Unfinished(Bytes::from_static(b"the beginning"));
    site.origin.set_reply(Reply { body: endless, ..Reply::default() });
    leave(&site, Duration::from_millis(300)).await;
    site.origin.set_reply(Reply::default());
    let report = load_of(&site, 200, "/").run().await.unwrap();
    assert_eq!((report.count(200), report.failed(), report.marked()), (200, 0, 0), "{report:?}");
    assert_unharmed(&site.stack);
}

/// Twenty clients send a request and leave after a while.
async fn leave(site: &Site, after: Duration) {
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut connection = TcpStream::connect(site.address()).await.unwrap();
        connection
            .write_all(b"GET / HTTP/1.1\r\nhost: tollgate.test\r\nx-client: gone\r\n\r\n")
            .await
            .unwrap();
        connections.push(connection);
    }
    tokio::time::sleep(after).await;
}

// ---- The Worker itself.

/// A request panics, which no request that a client can send does, while others wait for the origin.
#[tokio::test]
async fn a_panic_is_not_felt_by_who_waits_for_the_origin() {
    let site = panicking(StoreChoice::Redis).await;
    site.origin.set_reply(Reply { delay: Duration::from_millis(800), ..Reply::default() });
    let mut others = JoinSet::new();
    for _ in 0..10 {
        others.spawn(ask(site.address()));
    }
    let waiting = async || site.origin.requests();
    eventually("they wait for the origin", waiting, |came| *came == 10).await;
    for number in 11..14 {
        panic(&site).await;
        others.spawn(ask(site.address()));
        eventually("the next one passes", waiting, |came| *came == number).await;
    }
    assert_all_answered(&site, others).await;
}

/// The same while others wait for the store. They begin again, so the store may count them twice, and never hang.
#[tokio::test]
async fn a_panic_is_not_felt_by_who_waits_for_the_store() {
    for somebody_comes_later in [true, false] {
        let late = Mode::Late(Duration::from_millis(400), json!([NOW, 999, 0, 0]));
        let double = StoreDouble::start(ports::free().unwrap(), late).await.unwrap();
        let site = panicking(StoreChoice::Address(double.address())).await;
        for round in 1..=3 {
            let asked = double.requests();
            let mut others = JoinSet::new();
            for _ in 0..10 {
                others.spawn(ask(site.address()));
            }
            let waiting = async || double.requests() - asked;
            eventually("they wait for the store", waiting, |came| *came == 10).await;
            panic(&site).await;
            if somebody_comes_later {
                others.spawn(ask(site.address()));
            }
            assert_all_answered(&site, others).await;
            println!("round {round}: {} calls", double.requests() - asked);
        }
    }
}

async fn panicking(store: StoreChoice) -> Site {
    let policy = policy(&[limit("only", "fixed_window", 1000)]);
    Site::start_with(policy, store, |mut edge| {
        edge.test_clock = true;
        edge
    })
    .await
}

pub(crate) async fn panic(site: &Site) {
    let mut panics = request("/", "x");
    panics.headers_mut().insert("x-tollgate-test-panic", "1".parse().unwrap());
    let answer = client::send(site.address(), panics).await.unwrap();
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{answer}");
    assert!(site.log().contains("panicked at"), "{}", site.log());
}

async fn ask(address: SocketAddr) -> Answer {
    client::send(address, request("/", "x")).await.unwrap()
}

async fn assert_all_answered(site: &Site, others: JoinSet<Answer>) {
    for answer in others.join_all().await {
        let seen = (answer.status, answer.header("x-ratelimit-limit"), answer.header(DEGRADED));
        assert_eq!(seen, (StatusCode::OK, Some("1000"), None), "{answer}\n{}", site.log());
    }
}

// ---- The Worker of most tests, and what is asserted of it.

/// A limit for each failure mode, on a path of its own, wide enough that nothing is refused for being too much.
fn policy_of_three_modes() -> Value {
    let limits = |mode| vec![with(wide(), json!({ "name": mode, "on_store_error": mode }))];
    routes(&[("/allow", limits("allow")), ("/deny", limits("deny")), ("/local", limits("local"))])
}

fn wide() -> Value {
    limit("wide", "fixed_window", 1_000_000)
}

async fn three_modes() -> Site {
    Site::start_with(policy_of_three_modes(), StoreChoice::Redis, |edge| {
        edge.with("TOLLGATE_STORE_TIMEOUT", timeout()).with("TOLLGATE_CONTROL_TOKEN", CONTROL)
    })
    .await
}

fn timeout() -> String {
    format!("{}ms", TIMEOUT.as_millis())
}

/// What a store's clock says.
const NOW: u64 = 1_800_000_000_000;

/// What a working store answers to one check: plenty is left.
fn healthy() -> Mode {
    Mode::Answer(json!([NOW, 999, 0, 0]))
}

fn load_of(site: &Site, requests: u64, path: &'static str) -> Load {
    Load {
        request: Arc::new(move |_| request(path, "x")),
        marker: Some(DEGRADED),
        ..Load::new(vec![site.address()], requests, "/")
    }
}

/// Requests to each path in turn, until stopped; returns when the store decides all of them.
async fn trickle(site: &Site) -> Running {
    let load = Load {
        connections: 12,
        pause: Duration::from_millis(30),
        request: Arc::new(|number| request(PATHS[number as usize % 3], &format!("client-{}", number % 100))),
        marker: Some(DEGRADED),
        ..Load::new(vec![site.address()], u64::MAX, "/")
    };
    let load = load.start().unwrap();
    with_the_store_again(site, &load).await;
    load
}

/// Waits until the Worker leaves the store alone; from then on every answer says what the policy says.
async fn without_the_store(site: &Site, load: &Running) {
    eventually("the store is left alone", async || store_is_open(site).await, |open| *open).await;
    let part = stretch(load).await;
    assert_eq!(part.marked(), part.answers(), "{part:?}");
    assert_eq!(part.statuses.keys().collect::<Vec<_>>(), [&200, &503], "{part:?}");
}

/// Waits until the store decides everything.
async fn with_the_store_again(site: &Site, load: &Running) {
    eventually("the store is asked", async || store_is_open(site).await, |open| !*open).await;
    eventually("the store decides", async || stretch(load).await, |part| part.marked() == 0).await;
}

/// As the control path tells it.
async fn store_is_open(site: &Site) -> bool {
    let authorization = format!("Bearer {CONTROL}");
    let details =
        client::get(site.address(), "/.tollgate/health/detailed", &[("authorization", &authorization)]).await;
    details.unwrap().json().unwrap()["checks"][0]["details"]["circuitBreakerOpen"] == true
}

/// The next 200 answers or a few more.
async fn stretch(load: &Running) -> Report {
    let before = load.total();
    eventually("200 answers", async || load.total().since(&before), |part| part.answers() >= 200).await
}

/// Ends the load. Every request was answered in time, as its path's policy says.
async fn assert_nobody_suffered(site: &Site, load: Running) {
    load.stop();
    let report = load.finish().await.unwrap();
    println!("{:?}, {} degraded, longest {:?}", report.statuses, report.marked(), report.longest);
    assert_eq!(report.failed(), 0, "{report:?}");
    assert!(report.longest < TIMEOUT + SLACK, "somebody waited {:?}", report.longest);
    assert_eq!(report.statuses.keys().collect::<Vec<_>>(), [&200, &503], "{report:?}");
    assert_eq!(report.marked.get(&503), report.statuses.get(&503), "only the policy answers 503");
    assert_unharmed(&site.stack);
    // Who was refused is not known to the origin.
    assert_eq!(site.origin.requests(), report.count(200), "{report:?}");
}

/// Asks each path five times, all at once: each request is decided in time by what the policy says.
async fn assert_decided_without_the_store(site: &Site, why: &str) {
    let begun = Instant::now();
    let mut asking = JoinSet::new();
    for number in 0..15 {
        let (address, path) = (site.address(), PATHS[number % 3]);
        asking.spawn(async move { (path, client::send(address, request(path, "x")).await.unwrap()) });
    }
    let answers = asking.join_all().await;
    assert!(begun.elapsed() < TIMEOUT + SLACK, "{why}: {:?}", begun.elapsed());
    for (path, answer) in answers {
        assert_eq!(answer.header(DEGRADED), path.strip_prefix('/'), "{why}: {answer}");
        match path {
            "/deny" => assert_unavailable(&answer),
            _ => assert_eq!(answer.status, StatusCode::OK, "{why}: {answer}"),
        }
    }
}

/// 503, as the policy's `deny` has it.
fn assert_unavailable(answer: &Answer) {
    assert_problem(answer, StatusCode::SERVICE_UNAVAILABLE, "RATE_LIMIT_UNAVAILABLE");
    assert_eq!(answer.header("retry-after"), Some("1"), "{answer}");
}

pub(crate) fn assert_problem(answer: &Answer, status: StatusCode, code: &str) {
    assert_eq!(answer.status, status, "{answer}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer}");
    let body = answer.json().unwrap();
    let seen = (&body["status"], &body["error"]["code"]);
    assert_eq!(seen, (&json!(status.as_u16()), &json!(code)), "{body}");
}

/// Sends a body of two pieces with a pause between them, and returns what a mirror made of it.
async fn slow_echo(site: &Site, pause: Duration) -> Vec<u8> {
    let mut connection = TcpStream::connect(site.address()).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: tollgate.test\r\nx-client: x\r\ncontent-length: 10\r\n\r\nearly ";
    connection.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(pause).await;
    connection.write_all(b"late").await.unwrap();
    client::read(&mut connection).await.unwrap().body.to_vec()
}

const PATHS: [&str; 3] = ["/allow", "/deny", "/local"];
const CONTROL: &str = "the-control-token";
/// How long a request waits for the store.
const TIMEOUT: Duration = Duration::from_millis(200);
/// What a busy machine may add to it.
const SLACK: Duration = Duration::from_millis(600);

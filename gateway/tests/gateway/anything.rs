//! Whatever a client sends, it gets an answer that it can parse, and everybody else is served on.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::support::{Redis, Server, TOKEN};

/// A request whose parts may be anything that HTTP can carry.
#[derive(Clone, Debug)]
struct Anything {
    method: String,
    target: String,
    fields: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
}

impl Anything {
    fn bytes(&self) -> Vec<u8> {
        let Self { method, target, fields, body } = self;
        let mut bytes =
            format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n").into_bytes();
        bytes.extend(format!("content-length: {}\r\n", body.len()).bytes());
        for (name, value) in fields {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        bytes
    }
}

fn anything() -> impl Strategy<Value = Anything> {
    let method = prop_oneof![
        4 => prop::sample::select(vec!["GET", "POST", "PUT", "HEAD"]).prop_map(str::to_owned),
        1 => "[A-Z]{1,12}",
    ];
    let known = [
        "",
        "pipeline",
        "multi-exec",
        "health",
        "ready",
        "metrics",
        "health/detailed",
        "monitor",
        "subscribe",
        "echo",
        "get",
    ];
    let path = prop_oneof![
        prop::sample::select(known.to_vec()).prop_map(|path| format!("/{path}")),
        (prop::sample::select(known.to_vec()), "(/[!-.0->@-~]{0,8}|/%[0-9A-Fa-f]{2}){0,4}")
            .prop_map(|(first, rest)| format!("/{first}{rest}")),
        "/[!-~]{0,30}",
        "[!-~]{1,20}",
    ];
    let query =
        prop_oneof![2 => Just(String::new()), 1 => "\\?[!-~]{0,30}", 1 => Just(format!("?_token={TOKEN}"))];
    let value = prop_oneof![
        prop::collection::vec(
            any::<u8>().prop_filter("a field's byte", |byte| *byte >= 32 && *byte != 127),
            0..20
        ),
        prop::sample::select(vec!["base64", "json", "resp2", "x"]).prop_map(|text| text.as_bytes().to_vec()),
    ];
    let name = prop::sample::select(vec![
        "upstash-encoding",
        "upstash-response-format",
        "upstash-sync-token",
        "x-request-id",
        "content-type",
        "accept",
        "cookie",
    ]);
    let token = prop_oneof![
        5 => Just(format!("Bearer {TOKEN}").into_bytes()),
        1 => prop::collection::vec(32_u8..127, 0..20),
    ]
    .prop_map(|value| ("authorization", value));
    let fields = (prop::option::weighted(0.9, token), prop::collection::vec((name, value), 0..4))
        .prop_map(|(token, fields)| token.into_iter().chain(fields).collect());
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        r#"\[(\["(GET|ECHO|get|nosuch)"(,("[a-z]*"|1|true|null|\{\}))*\],?){0,3}\]"#
            .prop_map(String::into_bytes),
        r#"\["(GET|ECHO|SET)"(,("[a-z\\n"]*"|1e5|-0)){0,3}\]"#.prop_map(String::into_bytes),
    ];
    (method, path, query, fields, body).prop_map(|(method, path, query, fields, body)| Anything {
        method,
        target: path + &query,
        fields,
        body,
    })
}

/// Sends bytes and reads what comes, up to the end or the beginning of a stream.
async fn ask(server: &Server, bytes: &[u8], end: bool) -> Vec<u8> {
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    // A server that has refused already may have closed.
    let _ = socket.write_all(bytes).await;
    if end {
        let _ = socket.shutdown().await;
    }
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    let reading = async {
        while let Ok(count @ 1..) = socket.read(&mut buffer).await {
            heard.extend_from_slice(&buffer[..count]);
            if heard.windows(17).any(|window| window == b"text/event-stream") {
                break;
            }
        }
    };
    timeout(Duration::from_secs(20), reading).await.expect("it is answered or closed");
    heard
}

/// The status of an answer whose body, if it has one, is in the form it says.
fn check(heard: &[u8], head_only: bool) -> u16 {
    let end = heard.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let (head, body) = (std::str::from_utf8(&heard[..end]).unwrap(), &heard[end + 4..]);
    let status: u16 = head.strip_prefix("HTTP/1.1 ").expect("HTTP/1.1")[..3].parse().unwrap();
    if head.contains("text/event-stream") || head_only {
        return status;
    }
    let length: usize =
        head.split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    assert_eq!(length, body.len(), "{head}");
    if head.contains("content-type: application/json") {
        let json: Value = serde_json::from_slice(body).expect("JSON");
        assert!(status < 400 || json["error"].is_string(), "{status} {json}");
    } else if head.contains("content-type: application/octet-stream") {
        assert!(status < 400 || (body.starts_with(b"-") && body.ends_with(b"\r\n")), "{head}");
    } else {
        assert!(head.contains("content-type: text/plain; version=0.0.4") && status == 200, "{head}");
    }
    status
}

#[test]
fn any_request_is_answered_in_a_form_that_can_be_parsed() {
    let runtime = Runtime::new().unwrap();
    let (_redis, server) = runtime.block_on(serve());
    let config = Config { cases: 600, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&anything(), |anything| {
            let heard = runtime.block_on(ask(&server, &anything.bytes(), false));
            let status = check(&heard, anything.method == "HEAD");
            prop_assert!(status < 500, "{}", String::from_utf8_lossy(&heard));
            Ok(())
        })
        .unwrap();
    runtime.block_on(is_well(&server));
}

#[test]
fn any_bytes_are_answered_or_let_go() {
    let runtime = Runtime::new().unwrap();
    let (_redis, server) = runtime.block_on(serve());
    let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let frames = prop::collection::vec(
        (any::<u8>(), 0_u8..11, any::<u8>(), 0_u32..5, prop::collection::vec(any::<u8>(), 0..20)),
        0..8,
    );
    let http2 = (0..=preface.len(), frames).prop_map(move |(kept, frames)| {
        let mut bytes = preface[..kept].to_vec();
        // Often with the settings that have to come first.
        bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        for (odd, kind, flags, stream, payload) in frames {
            let length = if odd < 10 { u32::from(odd) } else { payload.len() as u32 };
            bytes.extend_from_slice(&length.to_be_bytes()[1..]);
            bytes.extend_from_slice(&[kind, flags]);
            bytes.extend_from_slice(&stream.to_be_bytes());
            bytes.extend_from_slice(&payload);
        }
        bytes
    });
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        "[A-Z]{0,5} ?[ -~]{0,20} ?(HTTP/1.[01])?(\r\n[ -~\t\r\n]{0,40}){0,4}".prop_map(String::into_bytes),
        http2,
    ];
    TestRunner::new(config)
        .run(&bytes, |bytes| {
            let heard = runtime.block_on(ask(&server, &bytes, true));
            if heard.starts_with(b"HTTP/1.1 4") {
                check(&heard, false);
            }
            Ok(())
        })
        .unwrap();
    runtime.block_on(is_well(&server));
}

async fn serve() -> (Redis, Server) {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--idle-timeout", "1s", "--max-streams", "65536"]).await;
    (redis, server)
}

/// Nothing is held, nothing is broken.
async fn is_well(server: &Server) {
    assert_eq!(server.client().await.get("/ping").await.raw(), (200, r#"{"result":"PONG"}"#));
    crate::support::eventually("nothing is held", async || {
        let metrics =
            server.client().await.bytes(crate::support::request(hyper::Method::GET, "/metrics", "")).await.1;
        let text = String::from_utf8(metrics.to_vec()).unwrap();
        ["in_flight 0\n", "streams 0\n", "memory_bytes 0\n", "connections 1\n"]
            .iter()
            .all(|gauge| text.contains(&format!("\ntollgate_gateway_{gauge}")))
    })
    .await;
}

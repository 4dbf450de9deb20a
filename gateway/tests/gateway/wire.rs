//! Requests as they stand on the wire: what frames them has one meaning, or they are refused.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::support::{Redis, Server, TOKEN};

/// Everything the server says to these bytes until it closes.
async fn heard(server: &Server, said: &str, half_closes: bool) -> String {
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(said.as_bytes()).await.unwrap();
    if half_closes {
        socket.shutdown().await.unwrap();
    }
    let mut text = Vec::new();
    let read = timeout(Duration::from_secs(20), socket.read_to_end(&mut text)).await;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(read.is_ok(), "it is not closed, and said {text:?} to {said:?}");
    text
}

/// The statuses of all answers.
fn statuses(text: &str) -> Vec<u16> {
    text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok()).collect()
}

fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {TOKEN}\r\n{fields}\r\n{body}")
}

#[tokio::test]
async fn a_request_names_its_host_once() {
    let redis = Redis::start().await;
    let server = Server::start(&redis).await;
    let asks = |version: &str, hosts: &str| {
        format!(
            "GET /ping HTTP/{version}\r\n{hosts}authorization: Bearer {TOKEN}\r\nconnection: close\r\n\r\n"
        )
    };
    for (version, hosts, status) in [
        ("1.1", "", 400),
        ("1.1", "host: a\r\nhost: b\r\n", 400),
        ("1.1", "host: a\r\nhost: a\r\n", 400),
        ("1.1", "host: a b\r\n", 400),
        ("1.1", "host: a@b\r\n", 400),
        ("1.1", "host: a/b\r\n", 400),
        ("1.1", "host: a, b\r\n", 400),
        ("1.1", "host: a:b\r\n", 400),
        ("1.1", "host: a\r\n", 200),
        ("1.1", "Host: a.example:8079\r\n", 200),
        ("1.1", "host: [::1]:8079\r\n", 200),
        ("1.1", "host:\r\n", 200),
        ("1.0", "", 200),
        ("1.0", "host: a\r\nhost: b\r\n", 400),
    ] {
        let text = heard(&server, &asks(version, hosts), false).await;
        let statuses: Vec<u16> =
            text.match_indices("HTTP/1.").map(|(at, _)| text[at + 9..at + 12].parse().unwrap()).collect();
        assert_eq!(statuses, [status], "{version} {hosts:?}: {text}");
        assert!(status == 200 || text.contains(r#"{"error":"ERR "#), "{text}");
    }
    for path in ["/health", "/ready"] {
        let asked = format!("GET {path} HTTP/1.1\r\n\r\n");
        assert_eq!(statuses(&heard(&server, &asked, false).await), [400]);
    }
}

#[tokio::test]
async fn lengths_that_no_body_can_have_are_refused_at_once() {
    let redis = Redis::start().await;
    let server = Server::start(&redis).await;
    let begun = Instant::now();
    for length in
        ["18446744073709551615", "18446744073709551614", "18446744073709551613", "9223372036854775807"]
    {
        for token in [TOKEN, "wrong"] {
            let asked = post(&format!("content-length: {length}\r\n"), "[\"PING\"]").replace(TOKEN, token);
            let text = heard(&server, &asked, false).await;
            let [status] = statuses(&text)[..] else { panic!("{text}") };
            assert!([400, 413].contains(&status) || token != TOKEN && status == 401, "{length}: {text}");
            assert!(text.contains("connection: close\r\n") && text.contains(r#"{"error":""#), "{text}");
        }
    }
    for length in ["18446744073709551616", "-1", "+8", "8,8", "0x8", "8 8", ""] {
        let text = heard(&server, &post(&format!("content-length: {length}\r\n"), "[\"PING\"]"), false).await;
        assert_eq!(statuses(&text), [400], "{length}: {text}");
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

/// What two readers could take for different requests.
#[tokio::test]
async fn what_frames_a_request_has_one_meaning() {
    let redis = Redis::start().await;
    let server = Server::start(&redis).await;
    let chunked = "8\r\n[\"PING\"]\r\n0\r\n\r\n";
    let hidden =
        format!("GET /set/smuggled/1 HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
    for (fields, body, status) in [
        ("transfer-encoding: gzip, chunked\r\n", chunked, 501),
        ("transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n", chunked, 501),
        ("transfer-encoding: identity, chunked\r\n", chunked, 501),
        ("transfer-encoding: chunked, chunked\r\n", chunked, 400),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", chunked, 400),
        ("transfer-encoding: chunked, gzip\r\n", chunked, 400),
        ("transfer-encoding: xchunked\r\n", chunked, 400),
        ("transfer-encoding : chunked\r\n", chunked, 400),
        ("transfer-encoding: \"chunked\"\r\n", chunked, 400),
        ("content-length: 8\r\ncontent-length: 9\r\n", "[\"PING\"]", 400),
        ("content-length : 8\r\n", "[\"PING\"]", 400),
        (" content-length: 8\r\n", "[\"PING\"]", 400),
        ("x-folded: a\r\n b\r\ncontent-length: 8\r\n", "[\"PING\"]", 400),
        ("x-null: a\0b\r\ncontent-length: 8\r\n", "[\"PING\"]", 400),
        ("x-return: a\rb\r\ncontent-length: 8\r\n", "[\"PING\"]", 400),
    ] {
        let text = heard(&server, &(post(fields, body) + &hidden), true).await;
        assert_eq!(statuses(&text), [status], "{fields:?}: {text}");
        assert!(text.contains("connection: close\r\n"), "{fields:?}: {text}");
        assert!(text.contains(r#"{"error":"ERR "#), "{fields:?}: {text}");
    }
    // A body with two lengths ends its connection, whichever comes first: what follows is not taken for a request.
    for fields in [
        "content-length: 8\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 8\r\n",
    ] {
        let text = heard(&server, &(post(fields, chunked) + &hidden), false).await;
        assert_eq!(statuses(&text).len(), 1, "{fields:?}: {text}");
        assert!(text.contains("connection: close\r\n"), "{fields:?}: {text}");
    }
    for (body, status) in [
        ("8\r\n[\"PING\"]\r\n0\r\n\r\n", 200),
        ("08\r\n[\"PING\"]\r\n0\r\n\r\n", 200),
        ("8;x=y\r\n[\"PING\"]\r\n0\r\n\r\n", 200),
        ("8\n[\"PING\"]\r\n0\r\n\r\n", 400),
        ("0x8\r\n[\"PING\"]\r\n0\r\n\r\n", 400),
        ("8\r\n[\"PING\"]XX0\r\n\r\n", 400),
        ("ffffffffffffffff8\r\n[\"PING\"]\r\n0\r\n\r\n", 400),
    ] {
        let text =
            heard(&server, &post("connection: close\r\ntransfer-encoding: chunked\r\n", body), true).await;
        assert_eq!(statuses(&text), [status], "{body:?}: {text}");
    }
    assert_eq!(server.client().await.get("/get/smuggled").await.raw(), (200, r#"{"result":null}"#));
}

#[tokio::test]
async fn a_connection_that_is_going_to_be_closed_is_said_to_be() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--max-body", "1KiB"]).await;
    for said in [
        post("connection: close\r\ncontent-length: 8\r\n", "[\"PING\"]"),
        // One that nobody reads to its end.
        post("content-length: 1000000\r\n", "[\"PING\"]"),
        post("content-length: 8\r\nexpect: 100-continue\r\n", "").replace(TOKEN, "wrong"),
    ] {
        let text = heard(&server, &said, false).await;
        assert_eq!(statuses(&text).len(), 1, "{text}");
        assert!(text.contains("\r\nconnection: close\r\n"), "{said:?}: {text}");
    }
}

#[tokio::test]
async fn a_client_that_closes_its_half_gets_its_answers() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--command-timeout", "20s"]).await;
    let ping = post("content-length: 8\r\n", "[\"PING\"]");
    for said in [ping.clone(), ping.repeat(3)] {
        let text = heard(&server, &said, true).await;
        assert_eq!(text.matches(r#"{"result":"PONG"}"#).count(), said.matches("POST").count(), "{text}");
    }
    // Redis takes its time, and the client is still there.
    redis.signal("STOP").await;
    let asking = heard(&server, &ping, true);
    let (text, ()) = tokio::join!(asking, async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        redis.signal("CONT").await;
    });
    assert!(text.ends_with(r#"{"result":"PONG"}"#), "{text:?}");
    // One that ends in the middle of its body is not waited for.
    let begun = Instant::now();
    let text = heard(&server, &post("content-length: 80\r\n", "[\"PING\"]"), true).await;
    assert!(text.is_empty() || statuses(&text) == [400], "{text}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

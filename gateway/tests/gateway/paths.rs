//! Commands in the path, and answers in the form of RESP2.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request};

use crate::support::{H2Client, Redis, Server, TOKEN, request};

fn with(request: Request<Full<Bytes>>, fields: &[(&'static str, &'static str)]) -> Request<Full<Bytes>> {
    let mut request = request;
    for &(name, value) in fields {
        request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    request
}

#[tokio::test]
async fn every_method_takes_commands_from_the_path() {
    let redis = Redis::start().await;
    let server = Server::start(&redis).await;
    let mut client = server.client().await;
    for (method, path, body, expected) in [
        (Method::GET, "/set/a/1", "", r#"{"result":"OK"}"#),
        (Method::GET, "/get/a", "", r#"{"result":"1"}"#),
        (Method::POST, "/SET/a%2Fb", "{\"x\": 1}", r#"{"result":"OK"}"#),
        (Method::PUT, "/get/a%2Fb", "", r#"{"result":"{\"x\": 1}"}"#),
        (Method::POST, "/set/ttl?EX=100", "v", r#"{"result":"OK"}"#),
        (Method::GET, "/expiretime/nothing", "", r#"{"result":-2}"#),
        (Method::PUT, "/set/ttl?NX&GET", "w", r#"{"result":"v"}"#),
        (Method::GET, "/mget/a/ttl/none", "", r#"{"result":["1","v",null]}"#),
        (Method::GET, "/echo/h%C3%A9%20+", "", r#"{"result":"hé +"}"#),
        (Method::GET, "/ping", "", r#"{"result":"PONG"}"#),
        (Method::POST, "/publish/ch/hello", "", r#"{"result":0}"#),
    ] {
        let answer = client.send(request(method.clone(), path, body)).await;
        assert_eq!(answer.raw(), (200, expected), "{method} {path}");
    }
    for (path, text) in [
        ("/get", "ERR wrong number of arguments for 'get' command"),
        ("/nothing/x", "ERR unknown command 'nothing'"),
        ("/health/x", "ERR unknown command 'health'"),
        ("/blpop/k/0", "ERR Command is not available: 'blpop'"),
        ("/multi", "ERR Command is not available: 'multi'"),
        ("//", "ERR unknown command ''"),
    ] {
        let answer = client.send(request(Method::GET, path, "")).await;
        let (status, error) = answer.error();
        assert_eq!(status, 400, "{path}");
        assert!(error.starts_with(text), "{path}: {error}");
    }
}

#[tokio::test]
async fn bodies_are_the_last_argument_byte_for_byte() {
    let redis = Redis::start().await;
    let server = Server::start(&redis).await;
    let mut client = server.client().await;
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let answer = client.send(request(Method::POST, "/set/k", bytes.clone())).await;
    assert_eq!(answer.raw(), (200, r#"{"result":"OK"}"#));
    let resp = [format!("${}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n"].concat();
    let asked = with(request(Method::GET, "/get/k", ""), &[("upstash-response-format", "resp2")]);
    let (head, body) = client.bytes(asked).await;
    assert_eq!(
        (head.status.as_u16(), head.headers["content-type"].to_str().unwrap()),
        (200, "application/octet-stream")
    );
    assert!(body == resp);
}

#[tokio::test]
async fn heads_have_no_body_but_its_length() {
    let redis = Redis::start().await;
    let server = Server::start(&redis).await;
    let mut client = server.client().await;
    for path in ["/echo/hello", "/health", "/get", "/nothing"] {
        let got = client.bytes(request(Method::GET, path, "")).await;
        let (head, body) = client.bytes(request(Method::HEAD, path, "")).await;
        assert_eq!((head.status, body.len()), (got.0.status, 0), "{path}");
        assert_eq!(head.headers["content-length"], got.1.len().to_string());
        let mut h2 = H2Client::connect(server.address).await;
        let (head, body) = h2.bytes(request(Method::HEAD, &format!("http://gateway{path}"), "")).await;
        assert_eq!((head.status, body.len()), (got.0.status, 0), "{path}");
        assert_eq!(head.headers["content-length"], got.1.len().to_string());
    }
}

#[tokio::test]
async fn the_token_may_stand_in_the_query_and_is_no_argument() {
    let redis = Redis::start().await;
    let server = Server::start(&redis).await;
    let mut client = server.client().await;
    let without = |uri: &str, body: &'static str| {
        let mut request = request(Method::POST, uri, body);
        request.headers_mut().remove("authorization");
        request
    };
    for (uri, body, expected) in [
        (format!("/set/k/v?_token={TOKEN}&EX=100"), "", r#"{"result":"OK"}"#),
        (format!("/?_token={TOKEN}"), r#"["GET","k"]"#, r#"{"result":"v"}"#),
        (format!("/pipeline?x=1&_token={TOKEN}"), r#"[["GET","k"]]"#, r#"[{"result":"v"}]"#),
        (format!("/get/k?_token={}", TOKEN.replace('-', "%2D")), "", r#"{"result":"v"}"#),
    ] {
        assert_eq!(client.send(without(&uri, body)).await.raw(), (200, expected), "{uri}");
    }
    for uri in
        ["/get/k?_token=", "/get/k?_token", "/get/k?_token=wrong", "/get/k", "/get/k?token=a-token-for-tests"]
    {
        let answer = client.send(without(uri, "")).await;
        assert_eq!(answer.error(), (401, "WRONGPASS invalid or missing auth token"), "{uri}");
    }
    // The header wins.
    let uri = format!("/get/k?_token={TOKEN}");
    let wrong = with(request(Method::GET, &uri, ""), &[("authorization", "Bearer wrong")]);
    assert_eq!(client.send(wrong).await.error().0, 401);
    let right = request(Method::GET, "/get/k?_token=wrong", "");
    assert_eq!(client.send(right).await.status, 200);
}

#[tokio::test]
async fn resp2_is_what_redis_sent() {
    let redis = Redis::start().await;
    let server = Server::start(&redis).await;
    let mut client = server.client().await;
    let mut ask = async |path: &str, body: &'static str| {
        let asked = with(request(Method::POST, path, body), &[("upstash-response-format", "resp2")]);
        let (head, body) = client.bytes(asked).await;
        let kind = head.headers["content-type"].to_str().unwrap().to_owned();
        (head.status.as_u16(), kind, String::from_utf8(body.to_vec()).unwrap())
    };
    let raw = "application/octet-stream";
    for (path, body, status, expected) in [
        ("/", r#"["SET","k",1]"#, 200, "+OK\r\n"),
        ("/get/k", "", 200, "$1\r\n1\r\n"),
        ("/get/none", "", 200, "$-1\r\n"),
        (
            "/",
            r#"["LPUSH","k","x"]"#,
            400,
            "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
        ),
        ("/", "[]", 400, "-ERR empty command\r\n"),
        (
            "/pipeline",
            r#"[["INCR","k"],["NO\nSUCH"],["QUIT"],["MGET","k","x"]]"#,
            200,
            ":2\r\n-ERR unknown command 'NO SUCH', with args beginning with: \r\n-ERR Command is not available: 'QUIT': it changes the shared connection\r\n*2\r\n$1\r\n2\r\n$-1\r\n",
        ),
    ] {
        assert_eq!(ask(path, body).await, (status, raw.into(), expected.into()), "{path} {body}");
    }
    let answer = ask("/multi-exec", r#"[["INCR","k"]]"#).await;
    assert_eq!(answer, (200, "application/json".into(), r#"[{"result":3}]"#.into()));

    for fields in [
        &[("upstash-response-format", "resp2"), ("upstash-encoding", "base64")][..],
        &[("upstash-response-format", "resp3")],
        &[("upstash-response-format", "")],
        &[("upstash-encoding", "hex")],
    ] {
        for path in ["/", "/pipeline", "/ping"] {
            let asked = with(request(Method::POST, path, "[]"), fields);
            assert_eq!(client.send(asked).await.error().0, 400, "{fields:?}");
        }
    }
    let json = with(request(Method::POST, "/ping", ""), &[("upstash-response-format", "json")]);
    assert_eq!(client.send(json).await.raw(), (200, r#"{"result":"PONG"}"#));
}

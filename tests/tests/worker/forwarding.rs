//! What is let through arrives as it was sent, and its answer comes back as it was given.

use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tollgate_tests::client::{self, Answer};
use tollgate_tests::ports;
use tollgate_tests::stack::StoreChoice;
use tollgate_tests::upstream::{Reply, ReplyBody};
use tungstenite::Message;
use tungstenite::handshake::server as handshake;

use crate::Site;
use crate::support::{assert_unharmed, limit, policy, request, routes, with};

/// Each piece is answered before the next is sent, so nothing on the way waits for the whole.
#[tokio::test]
async fn bodies_stream_both_ways() {
    let site = start().await;
    site.origin.set_reply(Reply { body: ReplyBody::Mirror, ..Reply::default() });
    let (mut sender, response) = stream(site.address(), Request::post("/upload")).await;
    sender.send_data(Bytes::from_static(b"piece 0")).await.unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-ratelimit-limit"], QUOTA.to_string().as_str());
    let mut body = response.into_body();
    assert_eq!(piece(&mut body).await, "piece 0");
    for number in 1..5 {
        let text = format!("piece {number}");
        sender.send_data(text.clone().into()).await.unwrap();
        assert_eq!(piece(&mut body).await, text);
    }
    drop(sender);
    assert!(body.frame().await.is_none(), "the end arrives, too");
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    let site = start().await;
    site.origin.set_reply(Reply { body: ReplyBody::Mirror, ..Reply::default() });
    let (mut sender, response) = stream(site.address(), Request::put("/large")).await;
    let block = |number: u8| {
        Bytes::from((0..=255u8).cycle().take(BLOCK).map(|byte| byte ^ number).collect::<Vec<_>>())
    };
    tokio::spawn(async move {
        for number in 0..BLOCKS {
            sender.send_data(block(number)).await.unwrap();
        }
    });
    let came = response.await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(came.len(), BLOCK * usize::from(BLOCKS));
    for (number, came) in (0..BLOCKS).zip(came.chunks(BLOCK)) {
        assert!(came == block(number), "block {number}");
    }
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn every_method_arrives() {
    let site = start().await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "PURGE"] {
        let body = if method == "GET" { "" } else { "a body" };
        let request = Request::builder()
            .method(method)
            .uri("/things?x=1")
            .header("host", "tollgate.test")
            .header("content-type", "text/odd")
            .body(Full::from(body));
        let answer = client::send(site.address(), request.unwrap()).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{method}: {answer}");
        let seen = answer.json().unwrap();
        assert_eq!((&seen["method"], &seen["body_length"]), (&method.into(), &body.len().into()), "{seen}");
        assert_eq!(seen["path"], "/things?x=1");
        assert_eq!(header(&seen, "content-type"), ["text/odd"]);
    }
    // The same where the decision goes by the body.
    let reading = start_reading_bodies().await;
    for body in ["", "{\"id\":7}", &*"x".repeat(100_000)] {
        let request =
            Request::post("/read").header("host", "tollgate.test").body(Full::from(body.to_owned()));
        let answer = client::send(reading.address(), request.unwrap()).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{answer}");
        let seen = answer.json().unwrap();
        assert_eq!((&seen["method"], &seen["body_length"]), (&"POST".into(), &body.len().into()), "{seen}");
    }
    let before = site.origin.requests();
    let head = Request::head("/things").header("host", "tollgate.test").body(Full::default()).unwrap();
    let answer = client::send(site.address(), head).await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0), "{answer}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer}");
    assert!(answer.header("x-ratelimit-remaining").is_some(), "{answer}");
    assert_eq!(site.origin.requests(), before + 1);
    assert_unharmed(&site.stack);
}

/// Some clients send bodies with these methods, and empty ones more do.
#[tokio::test]
async fn a_get_or_head_with_a_body_arrives() {
    let site = start_reading_bodies().await;
    let big = "x".repeat(100_000);
    let too_big = "x".repeat((1 << 20) + 1);
    for method in ["GET", "HEAD"] {
        for path in ["/", "/read"] {
            for (body, length) in [("", 0), ("{\"id\":7}", 8), (&*big, 100_000)] {
                let before = site.origin.requests();
                let fields = format!("content-length: {length}");
                let answer = with_a_body(&site, method, path, &fields, body).await;
                assert_eq!(answer.status, StatusCode::OK, "{method} {path} {length}: {answer}");
                assert_eq!(site.origin.requests(), before + 1);
                if method == "GET" {
                    let seen = answer.json().unwrap();
                    assert_eq!(
                        (&seen["method"], &seen["body_length"]),
                        (&method.into(), &length.into()),
                        "{path}"
                    );
                    assert!(header(&seen, "transfer-encoding").is_empty(), "{seen}");
                }
            }
            let empty = with_a_body(&site, method, path, "transfer-encoding: chunked", "0\r\n\r\n").await;
            assert_eq!(empty.status, StatusCode::OK, "{method} {path}: {empty}");
            let before = site.origin.requests();
            let unsized_body = "2\r\nab\r\n0\r\n\r\n";
            let refused = with_a_body(&site, method, path, "transfer-encoding: chunked", unsized_body).await;
            let fields = format!("content-length: {}", too_big.len());
            let large = with_a_body(&site, method, path, &fields, &too_big).await;
            let statuses = (refused.status, large.status);
            assert_eq!(
                statuses,
                (StatusCode::LENGTH_REQUIRED, StatusCode::PAYLOAD_TOO_LARGE),
                "{refused}\n{large}"
            );
            if method == "GET" {
                crate::failures::assert_problem(&refused, StatusCode::LENGTH_REQUIRED, "LENGTH_REQUIRED");
                crate::failures::assert_problem(&large, StatusCode::PAYLOAD_TOO_LARGE, "REQUEST_TOO_LARGE");
            }
            assert_eq!(site.origin.requests(), before, "{method} {path}");
        }
    }
    assert_unharmed(&site.stack);
}

/// A breaker that the first failure opens, and on one path a guard that reads bodies.
async fn start_reading_bodies() -> Site {
    let breaker = json!({ "name": "origin", "failures": 1, "within": "1h", "open_for": "1h" });
    let limit = with(limit("read", "fixed_window", QUOTA), json!({ "key": ["body:/id"] }));
    let read = json!({ "name": "read", "match": { "path": "/read" }, "rate_limits": [limit], "circuit_breaker": breaker });
    Site::start(json!({ "routes": [read], "default": { "circuit_breaker": breaker } })).await
}

/// Sends a body as no well-behaved client would.
async fn with_a_body(site: &Site, method: &str, path: &str, fields: &str, body: &str) -> Answer {
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: tollgate.test\r\nconnection: close\r\n{fields}\r\n\r\n");
    let mut connection = TcpStream::connect(site.address()).await.unwrap();
    let whole = [head.as_bytes(), body.as_bytes()].concat();
    // A server that refuses early may close before all is sent.
    let _ = connection.write_all(&whole).await;
    if method != "HEAD" {
        return client::read(&mut connection).await.unwrap();
    }
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, connection.read_to_end(&mut answer)).await.unwrap().unwrap();
    let head = String::from_utf8(answer).unwrap();
    assert!(head.ends_with("\r\n\r\n"), "the answer to a HEAD has no body: {head}");
    let status = StatusCode::from_bytes(head.split(' ').nth(1).unwrap().as_bytes()).unwrap();
    Answer { status, headers: hyper::HeaderMap::new(), body: Bytes::new() }
}

/// A refusal to a `HEAD` has no body either, and does not reach the origin.
#[tokio::test]
async fn what_is_refused_does_not_arrive() {
    let site = Site::start(policy(&[limit("only", "sliding_window_log", 1)])).await;
    let send = async |method: Method| {
        let mut request = request("/", "x");
        *request.method_mut() = method;
        client::send(site.address(), request).await.unwrap()
    };
    assert_eq!(send(Method::GET).await.status, StatusCode::OK);
    let refused = send(Method::POST).await;
    crate::failures::assert_problem(&refused, StatusCode::TOO_MANY_REQUESTS, "RATE_LIMIT_EXCEEDED");
    assert!(refused.header("retry-after").is_some(), "{refused}");
    let refused = send(Method::HEAD).await;
    assert_eq!((refused.status, refused.body.len()), (StatusCode::TOO_MANY_REQUESTS, 0), "{refused}");
    assert_eq!(site.origin.requests(), 1);
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn redirects_are_passed_on_and_not_followed() {
    let site = start().await;
    for status in [301, 302, 303, 307, 308] {
        let location = "https://elsewhere.example/a?b#c";
        reply(&site, status, &[("location", location)], "");
        let before = site.origin.requests();
        let answer = get(&site, "/").await;
        let seen = (answer.status.as_u16(), answer.header("location"));
        assert_eq!(seen, (status, Some(location)), "{answer}");
        assert_eq!(site.origin.requests(), before + 1, "{status}");
    }
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn statuses_and_fields_come_back_as_they_are() {
    let site = start().await;
    let fields = [
        ("set-cookie", "a=1; Path=/; HttpOnly"),
        ("set-cookie", "b=2; Expires=Wed, 21 Oct 2026 07:28:00 GMT"),
        ("set-cookie", "c=3"),
        ("vary", "accept"),
        ("vary", "cookie"),
        ("etag", "W/\"odd, really\""),
        ("x-odd", "caf\u{c3}\u{a9}"),
    ];
    for status in [200, 201, 202, 206, 400, 401, 404, 418, 429, 451, 500, 503, 599] {
        reply(&site, status, &fields, "what the origin says");
        let answer = get(&site, "/").await;
        assert_eq!(answer.status.as_u16(), status, "{answer}");
        assert_eq!(answer.text(), "what the origin says");
        let all =
            |name| answer.headers.get_all(name).iter().map(|value| value.as_bytes()).collect::<Vec<_>>();
        assert_eq!(
            all("set-cookie"),
            fields[..3].iter().map(|(_, value)| value.as_bytes()).collect::<Vec<_>>(),
            "{answer}"
        );
        assert_eq!(all("vary").join(&b", "[..]), b"accept, cookie", "{answer}");
        assert_eq!(answer.header("etag"), Some("W/\"odd, really\""), "{answer}");
        assert_eq!(all("x-odd"), ["caf\u{e9}".as_bytes()], "{answer}");
        assert!(answer.header("x-ratelimit-limit").is_some(), "{answer}");
    }
    for status in [204, 304] {
        reply(&site, status, &[("etag", "\"same\"")], "");
        let answer = get(&site, "/").await;
        let seen = (answer.status.as_u16(), answer.body.len(), answer.header("etag"));
        assert_eq!(seen, (status, 0, Some("\"same\"")), "{answer}");
        assert!(answer.header("x-ratelimit-limit").is_some(), "{answer}");
    }
    assert_unharmed(&site.stack);
}

/// What is compressed is passed on byte for byte, whether or not the client said that it reads it; and the client's words about
/// encodings reach the origin.
#[tokio::test]
async fn compressed_bodies_are_not_touched() {
    let site = start().await;
    for encoding in ["gzip", "br", "zstd", "deflate"] {
        let bytes: &'static [u8] = match encoding {
            "gzip" => GZIP,
            // Nobody on the way may read these, so they need not be what they say.
            _ => b"\x00\xff not what it says \x80",
        };
        let headers = vec![(HeaderName::from_static("content-encoding"), HeaderValue::from_static(encoding))];
        let body = ReplyBody::Bytes(Bytes::from_static(bytes));
        site.origin.set_reply(Reply { headers, body, ..Reply::default() });
        for accepted in [Some("gzip, br"), None] {
            let fields: Vec<_> = accepted.map(|accepted| ("accept-encoding", accepted)).into_iter().collect();
            let answer = client::get(site.address(), "/", &fields).await.unwrap();
            assert_eq!(answer.header("content-encoding"), Some(encoding), "{answer}");
            assert!(answer.body == bytes, "{encoding} for {accepted:?}: {:?}", answer.body);
        }
    }
    site.origin.set_reply(Reply::default());
    let answer = client::get(site.address(), "/", &[("accept-encoding", "zstd;q=0.3, br")]).await.unwrap();
    assert_eq!(header(&answer.json().unwrap(), "accept-encoding"), ["zstd;q=0.3, br"]);
    assert_unharmed(&site.stack);
}

/// The origin sees the spelling that the client chose, not ours.
#[tokio::test]
async fn odd_targets_arrive_unchanged() {
    let site = start().await;
    for target in [
        "/",
        "/?",
        "/a?b=c&b=d&&=",
        "/a%2Fb/%41%zz",
        "/a//b///",
        "/a;v=1/b",
        "/with'quotes(and)*!~",
        "/caf%C3%A9?q=%E2%82%AC&r=a+b",
        "/a?next=https://x.example/?y=z",
        "//double.example/path",
        "/.well-known/thing",
        "/a?b#",
        "/a/x;y/b",
        "/a?b=/../c",
        "/%00/%ff",
    ] {
        // A fragment never leaves an honest client.
        assert_eq!(path_at_origin(&site, target).await, target.trim_end_matches('#'));
    }
    // What every URL means: there is no other spelling of these for `fetch`. The decision reads them the same way.
    for (target, arrives) in
        [("/a/../b/./c", "/b/c"), ("/a/%2e%2E/b", "/b"), ("/../../a", "/a"), ("/a\\b", "/a/b")]
    {
        assert_eq!(path_at_origin(&site, target).await, arrives);
    }
    assert_unharmed(&site.stack);
}

/// However a client spells a path, in the target or in what it says its host is: what arrives at the limited path was counted.
#[tokio::test]
async fn no_spelling_leads_around_a_limit() {
    let login = vec![limit("login", "fixed_window", QUOTA)];
    let site = Site::start(routes(&[("/auth/login", login)])).await;
    let targets = [
        "/auth/login",
        "/auth/login/",
        "/auth/login?x=/y",
        "/auth/login;x",
        "//auth//login",
        "/auth/./login",
        "/x/../auth/login",
        "/auth%2Flogin",
        "/%61uth/%6Cogin",
        "/auth\\login",
        "http://elsewhere.example/auth/login",
    ];
    let heads = targets.iter().map(|target| (*target, "tollgate.test"));
    for (target, host) in heads.chain([("/", "tollgate.test/auth/login?"), ("/login", "tollgate.test/auth")])
    {
        let head = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let answer = client::raw(site.address(), head.as_bytes()).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{target} at {host}: {answer}");
        assert!(answer.header("x-ratelimit-limit").is_some(), "{target} at {host}: {answer}");
    }
    let free = client::get(site.address(), "/auth/logins", &[]).await.unwrap();
    assert_eq!(free.header("x-ratelimit-limit"), None, "{free}");
    assert_unharmed(&site.stack);
}

/// The origin is told whom the client called, and how; what the client sends about that itself does not count.
#[tokio::test]
async fn the_origin_is_told_of_the_client_s_host() {
    let site = start().await;
    let fields = [
        ("host", "Shop.Example:8443"),
        ("x-forwarded-host", "forged.example"),
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-for", "192.0.2.7"),
        ("authorization", "Bearer of-the-client"),
        ("cookie", "a=b; c=d"),
    ];
    let head: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let answer =
        client::raw(site.address(), format!("GET / HTTP/1.1\r\n{head}\r\n").as_bytes()).await.unwrap();
    let seen = answer.json().unwrap();
    assert_eq!(header(&seen, "x-forwarded-host"), ["shop.example:8443"]);
    assert_eq!(header(&seen, "x-forwarded-proto"), ["http"]);
    assert_eq!(header(&seen, "host"), [site.origin.address().to_string()]);
    for (name, value) in &fields[3..] {
        assert_eq!(header(&seen, name), [*value]);
    }
    assert_unharmed(&site.stack);
}

/// An origin's URL may have a path, which goes in front.
#[tokio::test]
async fn an_origin_below_a_path_is_reached() {
    let origin = ports::free().unwrap();
    let origin = tollgate_tests::upstream::Upstream::start(origin).await.unwrap();
    let url = format!("http://{}/tenants/one/", origin.address());
    let policy = policy(&[limit("only", "fixed_window", QUOTA)]);
    let site = Site::start_with(policy, StoreChoice::Redis, |edge| edge.with("ORIGIN_URL", url)).await;
    let answer = get(&site, "/a/b?c").await;
    assert_eq!(answer.json().unwrap()["path"], "/tenants/one/a/b?c", "{answer}");
    assert_unharmed(&site.stack);
}

/// The upgrade is a request like any other, so it is counted; then messages go both ways, and the close does, too.
#[tokio::test]
#[allow(clippy::result_large_err, reason = "the library's errors hold the whole answer")]
async fn websockets_pass() {
    let (origin, port) = echo_socket();
    let policy = policy(&[limit("only", "sliding_window_log", 1)]);
    let site = Site::start_with(policy, StoreChoice::Redis, |edge| {
        edge.with("ORIGIN_URL", format!("http://127.0.0.1:{port}"))
    });
    let site = site.await;
    let address = site.address();
    let client = tokio::task::spawn_blocking(move || {
        let open = || {
            let stream = StdStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            tungstenite::client(format!("ws://{address}/live?room=1"), stream)
        };
        let (mut socket, response) = open().unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let long = "x".repeat(100_000);
        for text in ["one", "two", "", long.as_str()] {
            socket.send(Message::text(text)).unwrap();
            assert_eq!(socket.read().unwrap(), Message::text(format!("/live?room=1 {text}")));
        }
        socket.send(Message::binary(vec![0, 255, 128])).unwrap();
        assert_eq!(socket.read().unwrap(), Message::binary(vec![0, 255, 128]));
        socket.close(None).unwrap();
        assert!(matches!(socket.read().unwrap(), Message::Close(_)));
        match open() {
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(refused))) => refused.status(),
            other => panic!("the second is refused: {other:?}"),
        }
    });
    assert_eq!(client.await.unwrap(), StatusCode::TOO_MANY_REQUESTS);
    tokio::task::spawn_blocking(|| origin.join().unwrap()).await.unwrap();
    assert_unharmed(&site.stack);
}

/// An origin of one WebSocket: it answers texts with the target that was asked for before them, and all else as it is.
#[allow(clippy::result_large_err, reason = "the library's signature")]
fn echo_socket() -> (JoinHandle<()>, u16) {
    let listener = StdListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let origin = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut target = String::new();
        let note = |request: &handshake::Request, response| {
            target = request.uri().to_string();
            Ok(response)
        };
        let mut socket = tungstenite::accept_hdr(stream, note).unwrap();
        loop {
            match socket.read() {
                Ok(Message::Text(text)) => socket.send(Message::text(format!("{target} {text}"))).unwrap(),
                Ok(Message::Close(_)) => {}
                Ok(other) => socket.send(other).unwrap(),
                Err(tungstenite::Error::ConnectionClosed) => return,
                Err(error) => panic!("the origin's socket: {error}"),
            }
        }
    });
    (origin, port)
}

async fn start() -> Site {
    Site::start(policy(&[limit("only", "fixed_window", QUOTA)])).await
}

fn reply(site: &Site, status: u16, headers: &[(&'static str, &'static str)], body: &'static str) {
    let headers = headers.iter().map(|(name, value)| {
        let value: Vec<u8> = value.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect();
        (HeaderName::from_static(name), HeaderValue::from_bytes(&value).unwrap())
    });
    site.origin.set_reply(Reply {
        status: StatusCode::from_u16(status).unwrap(),
        headers: headers.collect(),
        body: ReplyBody::Bytes(Bytes::from_static(body.as_bytes())),
        ..Reply::default()
    });
}

async fn get(site: &Site, path: &str) -> Answer {
    client::get(site.address(), path, &[]).await.unwrap()
}

async fn path_at_origin(site: &Site, target: &str) -> String {
    let head = format!("GET {target} HTTP/1.1\r\nhost: tollgate.test\r\n\r\n");
    let answer = client::raw(site.address(), head.as_bytes()).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{target}: {answer}");
    answer.json().unwrap()["path"].as_str().unwrap().to_owned()
}

/// The values of a field as the origin saw them.
fn header<'a>(seen: &'a Value, name: &str) -> Vec<&'a str> {
    let fields = seen["headers"].as_array().unwrap().iter();
    fields.filter(|field| field[0] == name).map(|field| field[1].as_str().unwrap()).collect()
}

/// Begins a request whose body comes piece by piece, and whose answer may come before its end.
async fn stream(
    address: SocketAddr,
    request: hyper::http::request::Builder,
) -> (Sender<Bytes>, impl Future<Output = hyper::Result<Response<Incoming>>>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut connection, driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driver);
    let (sender, body) = Channel::<Bytes>::new(1);
    let request = request.header("host", "tollgate.test").body(body).unwrap();
    let response = tokio::spawn(async move { connection.send_request(request).await });
    (sender, async { response.await.unwrap() })
}

/// The next piece of a body.
async fn piece(body: &mut Incoming) -> String {
    let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("the piece arrives");
    String::from_utf8(frame.unwrap().unwrap().into_data().unwrap().to_vec()).unwrap()
}

const QUOTA: u64 = 1_000_000;
const BLOCK: usize = 1 << 16;
const BLOCKS: u8 = 128;
const PATIENCE: Duration = Duration::from_secs(10);

/// `hello` and a line's end, compressed by gzip.
const GZIP: &[u8] = &[
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0xe7, 0x02,
    0x00, 0x20, 0x30, 0x3a, 0x36, 0x06, 0x00, 0x00, 0x00,
];

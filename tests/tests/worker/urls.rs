//! What is decided on is what is fetched: one reading of the host and the path, however a client spells them.

use hyper::StatusCode;
use serde_json::{Value, json};
use tollgate_tests::client::{self, Answer};
use tollgate_tests::stack::StoreChoice;

use crate::Site;
use crate::failures::assert_problem;
use crate::support::{assert_unharmed, limit, with};

/// `/me/*` asks for a token; these requests have none.
#[tokio::test]
async fn the_path_that_is_decided_on_is_the_path_that_is_fetched() {
    let site = Site::start(guarded()).await;
    for target in [
        "/me/x",
        "/me//../x",
        "/me/;/../x",
        "/me/%2f/../x",
        "/me\\\\..\\x",
        "/me/./x",
        "/x/../me/x",
        "/x/%2e%2E/me/x",
        "/x/.%2e/me/x",
        "/me//%2e%2e/x",
        "/../me/x",
        "/x\\..\\me/x",
        "http://elsewhere.example/x/../me/x",
    ] {
        let answer = send(&site, "GET", target, "tollgate.test", "").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{target}: {answer}");
    }
    assert_eq!(site.origin.requests(), 0);
    // Here it is the other way round: these are not below `/me`.
    for (target, arrives) in [
        ("/me/../x", "/x"),
        ("/me/%2e%2e/x", "/x"),
        ("/me\\..\\x", "/x"),
        ("/x//me/../y", "/x//y"),
        ("/x?a=/../me/x", "/x?a=/../me/x"),
        ("/x?'", "/x?%27"),
        ("/x#/../me/x", "/x"),
    ] {
        let answer = send(&site, "GET", target, "tollgate.test", "").await;
        assert_eq!(answer.status, StatusCode::OK, "{target}: {answer}");
        assert_eq!(answer.json().unwrap()["path"], arrives, "{target}");
    }
    assert_unharmed(&site.stack);
}

/// A client may write what it likes into `Host`, so that is read together with the path.
#[tokio::test]
async fn the_host_does_not_hide_the_path() {
    let site = Site::start(guarded()).await;
    for (host, target) in
        [("a/me", "/x"), ("a\\me", "/x"), ("a/x/..", "/me/x"), ("u:p@a", "/me/x"), ("/a", "/me/x")]
    {
        let answer = send(&site, "GET", target, host, "").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{host}, {target}: {answer}");
    }
    assert_eq!(site.origin.requests(), 0);
    for (host, target, arrives, called) in [
        ("a#b", "/me/x", "/", "a"),
        ("a?b", "/me/x", "/?b/me/x", "a"),
        ("a/x?", "/me/x", "/x?/me/x", "a"),
        ("A.Test:8080#", "/me/x", "/", "a.test:8080"),
        ("u:p@a#", "/me/x", "/", "a"),
    ] {
        let answer = send(&site, "GET", target, host, "").await;
        assert_eq!(answer.status, StatusCode::OK, "{host}, {target}: {answer}");
        let seen = answer.json().unwrap();
        assert_eq!(seen["path"], arrives, "{host}, {target}");
        assert!(has(&seen, "x-forwarded-host", called), "{host}: {seen}");
    }
    let before = site.origin.requests();
    for host in ["a b", "[::1", "a:99999", "%zz", "a%", "a, b", "a]"] {
        let answer = send(&site, "GET", "/x", host, "").await;
        assert_problem(&answer, StatusCode::BAD_REQUEST, "INVALID_URL");
    }
    assert_eq!(site.origin.requests(), before);
    assert_unharmed(&site.stack);
}

#[tokio::test]
async fn no_path_leaves_that_of_the_origin() {
    let origin =
        tollgate_tests::upstream::Upstream::start(tollgate_tests::ports::free().unwrap()).await.unwrap();
    let url = format!("http://{}/x/../base//", origin.address());
    let site = Site::start_with(guarded(), StoreChoice::None, |edge| edge.with("ORIGIN_URL", url)).await;
    for (target, arrives) in [
        ("/../secret", "/base/secret"),
        ("/%2e%2e/secret", "/base/secret"),
        ("/..\\secret", "/base/secret"),
        ("/a/../../secret", "/base/secret"),
        ("//../secret", "/base/secret"),
        ("/", "/base/"),
    ] {
        let answer = send(&site, "GET", target, "tollgate.test", "").await;
        assert_eq!(answer.status, StatusCode::OK, "{target}: {answer}");
        assert_eq!(answer.json().unwrap()["path"], arrives, "{target}");
    }
    // Origins read this one in two ways.
    let answer = send(&site, "GET", "/..%2fsecret", "tollgate.test", "").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer}");
    assert_unharmed(&site.stack);
}

/// None of these reaches the origin, which would see the token.
#[tokio::test]
async fn the_control_path_is_found_in_what_would_be_fetched() {
    let site = Site::start_with(guarded(), StoreChoice::None, |edge| {
        edge.with("TOLLGATE_CONTROL_TOKEN", "the-control-token")
    });
    let site = site.await;
    let authorization = "authorization: Bearer the-control-token\r\n";
    for target in [
        "/.tollgate/health/detailed",
        "/x/../.tollgate/health/detailed",
        "/%2e%2e/.tollgate/health/detailed",
        "/.tollgate/x/../health/detailed",
        "/x\\..\\.tollgate\\health/detailed",
    ] {
        let answer = send(&site, "GET", target, "tollgate.test", authorization).await;
        assert_eq!(answer.status, StatusCode::OK, "{target}: {answer}");
        assert!(answer.json().unwrap()["checks"].is_array(), "{target}: {answer}");
    }
    let answer = send(&site, "GET", "/health/detailed", "a/.tollgate", authorization).await;
    assert!(answer.json().unwrap()["checks"].is_array(), "{answer}");
    assert_eq!(site.origin.requests(), 0);
    assert_unharmed(&site.stack);
}

/// `fetch` makes a `GET` of whatever asks for a WebSocket.
#[tokio::test]
async fn the_method_that_is_decided_on_is_the_method_that_is_fetched() {
    let site = Site::start(guarded()).await;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\n";
    for method in ["POST", "PUT", "DELETE"] {
        let before = site.origin.requests();
        let answer = send(&site, method, "/posted", "tollgate.test", upgrade).await;
        assert_eq!(answer.status, StatusCode::OK, "{method}: {answer}");
        assert_eq!(site.origin.requests(), before + 1);
        let received = site.origin.received();
        let upgraded = received.borrow().iter().any(|(name, _)| name == "upgrade");
        assert!(!upgraded, "{method}: {:?}", received.borrow());
        assert_eq!(answer.json().unwrap()["method"], method);
    }
    let answer = send(&site, "GET", "/posted", "tollgate.test", upgrade).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{answer}");
    assert_unharmed(&site.stack);
}

/// It is the URL without a path (RFC 9112, 3.2.4 and 3.3), and only `OPTIONS` may ask for it.
#[tokio::test]
async fn a_request_about_the_server_as_a_whole_has_a_host_and_no_path() {
    let mut policy = guarded();
    let route = json!({ "name": "host", "match": { "hosts": ["tollgate.test"] }, "token": "required" });
    policy["routes"].as_array_mut().unwrap().push(route);
    let site = Site::start(policy).await;
    for host in ["tollgate.test", "Tollgate.test:8080"] {
        let answer = send(&site, "OPTIONS", "*", host, "").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{host}: {answer}");
    }
    let answer = send(&site, "OPTIONS", "*", "other.test", "").await;
    let seen = answer.json().unwrap();
    assert_eq!((&seen["method"], &seen["path"]), (&json!("OPTIONS"), &json!("/")), "{seen}");
    assert!(has(&seen, "x-forwarded-host", "other.test"), "{seen}");
    let before = site.origin.requests();
    for method in ["GET", "POST"] {
        let answer = send(&site, method, "*", "other.test", "content-length: 0\r\n").await;
        assert_problem(&answer, StatusCode::BAD_REQUEST, "INVALID_URL");
    }
    assert_eq!(site.origin.requests(), before);
    // A host may have a star of its own.
    let answer = send(&site, "GET", "/x", "other.test*", "").await;
    assert!(has(&answer.json().unwrap(), "x-forwarded-host", "other.test*"), "{answer}");
    assert_unharmed(&site.stack);
}

/// `fetch` leaves the body out of whatever asks for a WebSocket.
#[tokio::test]
async fn the_body_that_is_decided_on_is_the_body_that_is_fetched() {
    let mut policy = guarded();
    let limit = with(limit("read", "fixed_window", 100), json!({ "key": ["body:/id"] }));
    let read = json!({ "name": "read", "match": { "path": "/read" }, "rate_limits": [limit] });
    policy["routes"].as_array_mut().unwrap().push(read);
    let site = Site::start(policy).await;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
    for path in ["/x", "/read"] {
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: tollgate.test\r\n{upgrade}content-length: 8\r\n\r\n");
        let answer = client::raw(site.address(), format!("{head}{{\"id\":7}}").as_bytes()).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{path}: {answer}");
        let seen = answer.json().unwrap();
        assert_eq!((&seen["method"], &seen["body_length"]), (&json!("GET"), &json!(8)), "{seen}");
        assert!(!has(&seen, "upgrade", "websocket"), "{seen}");
    }
    // One without a body may still open a WebSocket.
    for length in ["", "content-length: 0\r\n"] {
        let received = site.origin.received();
        send(&site, "GET", "/x", "tollgate.test", &format!("{upgrade}{length}")).await;
        assert!(received.borrow().iter().any(|(name, _)| name == "upgrade"), "{:?}", received.borrow());
    }
    assert_unharmed(&site.stack);
}

/// Asks for a token below `/me`, and of who gets `/posted`.
fn guarded() -> Value {
    json!({
        "jwt": { "algorithms": ["ES256"], "keys": [{ "jwk": crate::support::signed_tokens()["keys"]
            .as_array().unwrap().iter().find(|key| key["alg"] == "ES256").unwrap()["jwk"] }] },
        "routes": [
            { "name": "me", "match": { "path": "/me/*" }, "token": "required" },
            { "name": "got", "match": { "path": "/posted", "methods": ["GET"] }, "token": "required" },
        ],
    })
}

/// A request as no well-behaved client would send it.
async fn send(site: &Site, method: &str, target: &str, host: &str, fields: &str) -> Answer {
    let head = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n");
    let answer = client::raw(site.address(), head.as_bytes()).await;
    answer.unwrap_or_else(|error| panic!("{target} at {host}: {error:#}"))
}

/// Whether the origin saw this field.
fn has(seen: &Value, name: &str, value: &str) -> bool {
    seen["headers"].as_array().unwrap().contains(&json!([name, value]))
}

//! What `tollgate check` warns of, and what it does not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is a failed test")]

use serde_json::{Value, json};
use tollgate_shared::config::KeyPart;
use tollgate_shared::policy::Policy;

#[test]
fn a_segment_that_looks_like_a_parameter_matches_only_itself() {
    for segment in [":id", "{id}", "{id=*}", "<int:id>", "[0-9]+", "[id]", "(a|b)", "^api", ":id(\\\\d+)"] {
        let path = format!("/users/{}", segment.replace('*', "x").replace("\\\\", ""));
        let warnings = warnings(&json!({ "routes": [{ "name": "a", "match": { "path": path } }] }));
        let [warning] = &warnings[..] else { panic!("{path}: {warnings:?}") };
        assert!(warning.starts_with("routes[0].match.path: `"), "{warning}");
        assert!(warning.contains("matches only this very text; write `*`"), "{warning}");
    }
}

#[test]
fn legitimate_segments_are_no_warning() {
    for path in [
        "/v1/users:batchGet",
        "/v1/*/b:c",
        "/$metadata",
        "/@scope/x",
        "/a.b",
        "/a+b",
        "/:",
        "/users/*/orders",
        "/*",
        "/",
    ] {
        silent(&json!({ "routes": [{ "name": "a", "match": { "path": path } }] }));
    }
}

#[test]
fn a_route_behind_one_that_takes_all_of_its_requests_is_never_reached() {
    for (earlier, later) in [
        (json!({}), json!({ "path": "/a" })),
        (json!({ "path": "/*" }), json!({ "path": "/a/*" })),
        (json!({ "path": "/a/*" }), json!({ "path": "/a" })),
        (json!({ "path": "/a/*" }), json!({ "path": "/a/b/c" })),
        (json!({ "path": "/a/*/c" }), json!({ "path": "/a/b/c" })),
        (json!({ "path": "/a" }), json!({ "path": "/a" })),
        (json!({ "path": "/*", "methods": ["GET"] }), json!({ "path": "/a", "methods": ["GET", "HEAD"] })),
        (json!({ "hosts": ["*.example.com"] }), json!({ "hosts": ["a.example.com", "*.b.example.com"] })),
        (json!({ "headers": { "x-a": true } }), json!({ "headers": { "x-a": "1", "x-b": false } })),
    ] {
        let policy =
            json!({ "routes": [{ "name": "one", "match": earlier }, { "name": "two", "match": later }] });
        let expected = "routes[1]: is never reached: `one` in front of it takes every request that it could match; put the narrower route first";
        assert_eq!(warnings(&policy), [expected], "{policy}");
    }
    let policy = json!({ "path_case": "insensitive", "routes": [
        { "name": "one", "match": { "path": "/A" } }, { "name": "two", "match": { "path": "/a" } }] });
    assert_eq!(warnings(&policy).len(), 1);
    let policy =
        json!({ "routes": [{ "name": "all" }], "default": { "rate_limits": [limit(&["client_ip"])] } });
    let expected = "default: is never reached: `all` in front of it takes every request that it could match; remove one of them";
    assert_eq!(warnings(&policy), [expected]);
}

#[test]
fn a_route_that_some_request_reaches_is_no_warning() {
    for (earlier, later) in [
        (json!({ "path": "/a" }), json!({ "path": "/a/*" })),
        (json!({ "path": "/a/b/*" }), json!({ "path": "/a/*" })),
        (json!({ "path": "/a/*/c" }), json!({ "path": "/a/*" })),
        (json!({ "path": "/a/b" }), json!({ "path": "/a/*/c" })),
        (json!({ "path": "/A" }), json!({ "path": "/a" })),
        (json!({ "methods": ["HEAD"] }), json!({ "methods": ["GET"] })),
        (json!({ "methods": ["GET"] }), json!({})),
        (json!({ "methods": ["GET"] }), json!({ "methods": ["GET", "POST"] })),
        (json!({ "hosts": ["*.example.com"] }), json!({ "hosts": ["example.com"] })),
        (json!({ "hosts": ["*.example.com"] }), json!({ "hosts": ["badexample.com"] })),
        (json!({ "hosts": ["a.example.com"] }), json!({ "hosts": ["*.example.com"] })),
        (json!({ "hosts": ["a.example.com"] }), json!({})),
        (json!({ "headers": { "x-a": "1" } }), json!({ "headers": { "x-a": true } })),
        (json!({ "headers": { "x-a": "1" } }), json!({ "headers": { "x-a": "2" } })),
        (json!({ "headers": { "x-a": true } }), json!({})),
    ] {
        silent(
            &json!({ "routes": [{ "name": "one", "match": earlier }, { "name": "two", "match": later }] }),
        );
    }
}

#[test]
fn a_limit_whose_key_the_client_makes_up_holds_nobody_back() {
    for key in ["header:x-api-key", "cookie:sid", "query:user", "body:/email", "path"] {
        for key in [vec![key], vec![key, "client_ip"], vec!["const:a", key]] {
            let policy = json!({ "routes": [{ "name": "a", "match": { "path": "/a/*" }, "rate_limits": [limit(&key)] }] });
            let warnings = warnings(&policy);
            let [warning] = &warnings[..] else { panic!("{key:?}: {warnings:?}") };
            assert!(warning.starts_with("routes[0].rate_limits[0]: `l-"), "{warning}");
        }
    }
    let mut shadow = limit(&["client_ip"]);
    shadow["shadow"] = json!(true);
    let policy = json!({ "default": { "rate_limits": [shadow, limit(&["header:x"])] } });
    let warnings = warnings(&policy);
    assert!(
        warnings[..].first().is_some_and(|warning| warning.starts_with("default.rate_limits[1]: ")),
        "{warnings:?}"
    );
}

#[test]
fn a_limit_beside_one_that_holds_the_client_is_no_warning() {
    for keys in [
        vec![vec!["client_ip"], vec!["body:/email"]],
        vec![vec!["client_ip", "method", "route", "const:a"]],
        vec![vec!["const:all"], vec!["header:x-api-key"]],
        vec![vec!["claim:sub"], vec!["query:q"]],
    ] {
        let limits: Vec<Value> = keys.iter().map(|key| limit(key)).collect();
        let jwt = json!({ "algorithms": ["HS256"], "keys": [{ "alg": "HS256", "secret": { "env": "S" } }] });
        silent(
            &json!({ "jwt": jwt, "routes": [{ "name": "a", "match": { "path": "/a/*" }, "rate_limits": limits }] }),
        );
    }
    silent(
        &json!({ "routes": [{ "name": "a", "match": { "path": "/a" }, "rate_limits": [limit(&["path"])] }] }),
    );
    silent(&json!({ "routes": [{ "name": "a" }] }));
}

#[test]
fn a_part_that_a_proxy_sets_can_be_trusted() {
    let policy = json!({ "default": { "rate_limits": [limit(&["header:x-user-id"])] } });
    let policy = Policy::from_json(policy.to_string().as_bytes()).unwrap();
    assert_eq!(policy.warnings(&[]).len(), 1);
    assert!(policy.warnings(&[KeyPart::parse("header:X-User-Id").unwrap()]).is_empty());
}

fn limit(key: &[&str]) -> Value {
    let name = format!("l-{}", key.join("-").replace([':', '/'], "."));
    json!({ "name": name, "algorithm": "fixed_window", "quota": 1, "window": "1m", "key": key })
}

fn warnings(policy: &Value) -> Vec<String> {
    let policy = Policy::from_json(policy.to_string().as_bytes()).unwrap();
    policy.warnings(&[]).iter().map(ToString::to_string).collect()
}

fn silent(policy: &Value) {
    assert_eq!(warnings(policy), Vec::<String>::new(), "{policy}");
}

//! The description of the control path, and what a host has to be asked until it has given every answer that is described.
//! Tests of running hosts hold theirs against it too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Value, json};

/// Method, path and status of an answer.
pub(crate) type Status = (String, String, u16);

/// An answer of the control path.
pub(crate) struct Answered<'a> {
    pub(crate) method: &'a str,
    /// What comes behind the prefix, with the slash in front of it.
    pub(crate) path: &'a str,
    pub(crate) status: u16,
    pub(crate) header: &'a dyn Fn(&str) -> Option<&'a str>,
    pub(crate) body: &'a [u8],
}

impl Answered<'_> {
    /// Checks that the description foresees it. Of methods and paths that it does not know, it says so in words.
    pub(crate) fn is_described(&self) {
        let Self { method, path, status, header, body } = *self;
        let what = format!("{method} {path} {status}");
        let is_upper = !method.bytes().any(|b| b.is_ascii_lowercase());
        let known = if is_upper { method.to_ascii_lowercase() } else { String::new() };
        let operation = &DOCUMENT["paths"][path][known];
        if operation.is_null() {
            assert!(matches!(status, 404 | 405) || method == "HEAD", "{what}");
            assert_eq!(header("allow").is_some(), status == 405, "{what}");
            return;
        }
        let response = resolved(&operation["responses"][&status.to_string()]);
        assert!(response.is_object(), "{what} is not described: {}", String::from_utf8_lossy(body));
        for (name, _) in response["headers"].as_object().into_iter().flatten() {
            assert!(header(&name.to_ascii_lowercase()).is_some(), "{what}: {name}");
        }
        assert_eq!(header("cache-control"), Some("no-store"), "{what}");
        let (media_type, content) = response["content"].as_object().unwrap().iter().next().unwrap();
        assert_eq!(header("content-type"), Some(media_type.as_str()), "{what}");
        let name = content["schema"]["$ref"].as_str().unwrap_or_default();
        if let Some(validator) = SCHEMAS.get(name) {
            let found = serde_json::from_slice(body).unwrap();
            let errors: Vec<String> = validator.iter_errors(&found).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{what} is no {name}: {errors:?}");
        } else {
            assert_eq!((path, status), ("/openapi.json", 200), "{name}");
        }
    }
}

/// Every status of every method and path that is described.
pub(crate) fn statuses() -> BTreeSet<Status> {
    let described = DOCUMENT["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        item.as_object().unwrap().iter().flat_map(move |(method, operation)| {
            let statuses = operation["responses"].as_object().unwrap().keys();
            statuses.map(move |status| (method.to_ascii_uppercase(), path.clone(), status.parse().unwrap()))
        })
    });
    described.collect()
}

/// What a host with [`policy`] is asked, in this order: method, path, whether with the token, body. With what it answers while its
/// store fails, to those with the token, all that is described has happened.
pub(crate) fn questions() -> Vec<(String, String, bool, Vec<u8>)> {
    let mut questions = Vec::new();
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        let method = item.as_object().unwrap().keys().next().unwrap().to_ascii_uppercase();
        let bodies: [(bool, &[u8]); 4] =
            [(false, b""), (true, b""), (true, b"no JSON"), (true, &[b' '; 20_000])];
        let bodies = if method == "GET" { &bodies[..2] } else { &bodies };
        for (is_authorized, body) in bodies {
            questions.push((method.clone(), path.clone(), *is_authorized, body.to_vec()));
        }
    }
    for (path, body) in actions() {
        questions.push(("POST".into(), format!("/{path}"), true, body.to_string().into_bytes()));
    }
    questions
}

/// All that can be done by name, and that which cannot.
fn actions() -> Vec<(&'static str, Value)> {
    let [mine, yours] = ["ab", "cd"].map(|digits| digits.repeat(16));
    let of_ada = |name: &str| json!({ "name": name, "key": ["ada"] });
    let held = |holder: &str| json!({ "name": "report", "key": ["ada"], "holder": holder });
    let nobody = |more: Value| {
        let mut body = json!({ "name": "nobody" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let mut actions = succeeding();
    actions.extend([
        ("revoke", json!({ "subject": "ada" })),
        ("locks/acquire", held(&mine)),
        ("locks/acquire", held(&yours)),
        ("locks/extend", held(&yours)),
        ("locks/release", held(&yours)),
        ("locks/release", held(&mine)),
        ("dedup/mark", of_ada("order")),
        ("dedup/mark", of_ada("order")),
        ("dedup/forget", of_ada("order")),
    ]);
    for (path, _) in succeeding() {
        match path {
            "revoke" => {}
            "breakers/open" => actions.push((path, nobody(json!({ "for": "1s" })))),
            "locks/extend" | "locks/release" => actions.push((path, nobody(json!({ "holder": mine })))),
            _ => actions.push((path, nobody(json!({})))),
        }
    }
    actions
}

/// What each path is asked when it is to succeed, in this order.
pub(crate) fn succeeding() -> Vec<(&'static str, Value)> {
    let of_ada = |name: &str| json!({ "name": name, "key": ["ada"] });
    let held = json!({ "name": "report", "key": ["ada"], "holder": "ab".repeat(16) });
    Vec::from([
        ("revoke", json!({ "jti": "1" })),
        ("limits/inspect", of_ada("searches")),
        ("limits/reset", of_ada("searches")),
        ("breakers/inspect", json!({ "name": "shop" })),
        ("breakers/open", json!({ "name": "shop", "for": "1s" })),
        ("breakers/close", json!({ "name": "shop" })),
        ("locks/acquire", held.clone()),
        ("locks/extend", held.clone()),
        ("locks/release", held),
        ("dedup/mark", of_ada("order")),
        ("dedup/forget", of_ada("order")),
    ])
}

/// A policy with one of everything. How long tokens live is not bounded, so that nobody's can be revoked all at once.
pub(crate) fn policy() -> Value {
    json!({
        "jwt": { "algorithms": ["HS256"], "keys": [{ "alg": "HS256", "secret": { "env": "SECRET" } }] },
        "routes": [
            { "name": "account", "match": { "path": "/account" }, "revocation": { "cache": "30s" } },
            { "name": "search", "match": { "path": "/search" }, "rate_limits": [
                { "name": "searches", "algorithm": "fixed_window", "quota": 2, "window": "1h",
                  "key": ["header:x-user", "const:all"] } ] },
            { "name": "shop", "match": { "path": "/shop" },
              "circuit_breaker": { "failures": 5, "within": "1m", "open_for": "30s" } },
            { "name": "order", "match": { "path": "/order" },
              "dedup": { "key": ["header:x-user"], "ttl": "5m", "answer": { "status": 208 } } },
            { "name": "report", "match": { "path": "/report" },
              "lock": { "key": ["header:x-user"], "lease": "30s", "status": 423 } },
        ],
    })
}

fn resolved(value: &Value) -> &Value {
    match value["$ref"].as_str() {
        Some(reference) => DOCUMENT.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

pub(crate) static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../openapi.json")).unwrap());

/// By the reference that leads there. None of them refers to another one.
pub(crate) static SCHEMAS: LazyLock<BTreeMap<String, Validator>> = LazyLock::new(|| {
    let schemas = DOCUMENT["components"]["schemas"].as_object().unwrap().iter();
    let compiled = schemas.map(|(name, schema)| {
        let validator = jsonschema::draft202012::new(schema).unwrap();
        (format!("#/components/schemas/{name}"), validator)
    });
    compiled.collect()
});

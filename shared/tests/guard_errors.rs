//! What a wrong guard is told: where, what was found, what was expected.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

use serde_json::{Value, json};
use tollgate_shared::policy::{Policy, Surroundings};

#[test]
fn guards_that_are_right() {
    for guards in [
        json!({}),
        json!({ "token": "required" }),
        json!({ "token": "optional", "revocation": {} }),
        json!({ "revocation": { "cache": "1m", "on_store_error": "local", "unavailable_status": 401, "shadow": true } }),
        json!({ "revokes": "token" }),
        json!({ "revokes": { "what": "token", "when": "at_once" } }),
        json!({ "circuit_breaker": { "failures": 5, "within": "60s", "open_for": "30s" } }),
        json!({ "circuit_breaker": { "ratio": 100, "min_volume": 1, "within": "1s", "open_for": "1s", "reporters": 32,
            "half_open_probes": 16, "probe_timeout": "5m", "failure_statuses": ["5xx", "429", "100"] } }),
        json!({ "idempotency": { "key": ["claim:sub"], "ttl": "7d", "lease": "5m", "statuses": ["2xx"], "max_response": 262_144 } }),
        json!({ "dedup": { "key": ["body:/a/b~1c", "header:x"], "ttl": "5m", "answer": { "body": null } } }),
        json!({ "lock": { "key": ["const:all"], "lease": "30s", "status": 423 } }),
    ] {
        assert_eq!(errors(&policy(&[guards])), [""; 0]);
    }
}

#[test]
fn tokens_need_to_be_found() {
    let needs = "expected `jwt` in the policy beside it: where a token is, and who may have signed it";
    for (guards, asks) in [
        (json!({ "token": "required" }), "`token`"),
        (json!({ "revocation": {} }), "`revocation`"),
        (json!({ "revokes": "token" }), "`revokes`"),
        (json!({ "lock": { "key": ["claim:sub"], "lease": "1s" } }), "a key with `claim:`"),
        (
            json!({ "rate_limits": [
                { "name": "a", "algorithm": "gcra", "quota": 1, "window": "1s", "key": ["claim:sub"] }] }),
            "a key with `claim:`",
        ),
    ] {
        let mut policy = policy(&[guards]);
        policy.as_object_mut().unwrap().remove("jwt");
        assert_eq!(errors(&policy), [format!("routes[0]: found {asks}, {needs}")]);
    }
}

#[test]
fn all_of_a_subject_s_tokens_have_to_end_some_time() {
    let mut written = policy(&[json!({ "revokes": "subject" })]);
    assert_eq!(
        errors(&written),
        [
            "routes[0].revokes: found `subject`, expected `jwt.max_lifetime` in the policy: how long all that was issued until now has to be remembered"
        ]
    );
    written["jwt"]["max_lifetime"] = json!("1h");
    assert_eq!(errors(&written), [""; 0]);
}

#[test]
fn each_guard() {
    let status = r#"expected a status such as "503", or a class of them such as "5xx""#;
    let breaker = |field: &str, value: Value| {
        let mut breaker = json!({ "failures": 5, "within": "60s", "open_for": "30s" });
        breaker[field] = value;
        json!({ "circuit_breaker": breaker })
    };
    let lock = |field: &str, value: Value| {
        let mut lock = json!({ "key": ["const:all"], "lease": "30s" });
        lock[field] = value;
        json!({ "lock": lock })
    };
    let dedup = |field: &str, value: Value| {
        let mut dedup = json!({ "key": ["const:all"], "ttl": "5m" });
        dedup[field] = value;
        json!({ "dedup": dedup })
    };
    let idempotency = |field: &str, value: Value| {
        let mut idempotency = json!({ "key": ["const:all"] });
        idempotency[field] = value;
        json!({ "idempotency": idempotency })
    };
    for (guards, error) in [
        (lock("wait", json!("31s")), "lock.wait: found `31s`, expected at most 30s: for so long a request and its client wait".to_owned()),
        (
            json!({ "dedup": { "key": ["const:all"], "ttl": "5s" }, "lock": { "key": ["const:all"], "lease": "30s", "wait": "5s" } }),
            "lock.wait: found `5s`, expected less than 5s, for which `idempotency` or `dedup` beside it holds what waits".to_owned(),
        ),
        (json!({ "token": "maybe" }), "token: found `maybe`, expected `required` or `optional`".to_owned()),
        (json!({ "token": "required", "revocation": [] }), "revocation: found a list, expected an object".to_owned()),
        (
            json!({ "revocation": { "cache": "61s" } }),
            "revocation.cache: found `61s`, expected at most 1m: for so long a revoked token may pass".to_owned(),
        ),
        (
            json!({ "revocation": { "unavailable_status": 500 } }),
            "revocation.unavailable_status: found `500`, expected 503 or 401".to_owned(),
        ),
        (
            json!({ "revokes": "all" }),
            r#"revokes: found "all", expected "token", "subject", or an object such as {"what": "token", "when": "at_once"}"#
                .to_owned(),
        ),
        (
            json!({ "revokes": "token", "idempotency": { "key": ["const:all"] } }),
            "revokes: found `idempotency` beside it, expected a route without one of them: a logout that is replayed revokes nothing"
                .to_owned(),
        ),
        (
            breaker("ratio", json!(50)),
            "circuit_breaker: found failures and ratio, expected `failures` alone, or `ratio` with `min_volume`".to_owned(),
        ),
        (
            json!({ "circuit_breaker": { "within": "60s", "open_for": "30s" } }),
            "circuit_breaker: found none of them, expected `failures` alone, or `ratio` with `min_volume`".to_owned(),
        ),
        (breaker("failures", json!(1_000_001)), "circuit_breaker.failures: found `1000001`, expected 1 to 1000000".to_owned()),
        (breaker("reporters", json!(33)), "circuit_breaker.reporters: found `33`, expected 1 to 32".to_owned()),
        (breaker("half_open_probes", json!(17)), "circuit_breaker.half_open_probes: found `17`, expected 1 to 16".to_owned()),
        (
            breaker("failure_statuses", json!(["6xx"])),
            format!(r#"circuit_breaker.failure_statuses[0]: found "6xx", {status}"#),
        ),
        (
            breaker("failure_statuses", json!(["+5xx"])),
            format!(r#"circuit_breaker.failure_statuses[0]: found "+5xx", {status}"#),
        ),
        (breaker("failure_statuses", json!([500])), format!("circuit_breaker.failure_statuses[0]: found `500`, {status}")),
        (
            breaker("failure_statuses", json!(vec!["500"; 17])),
            "circuit_breaker.failure_statuses: found 17 entries, expected at most 16".to_owned(),
        ),
        (lock("key", json!([])), r#"lock.key: found 0 key parts, expected 1 to 8; ["const:all"] takes all for the same"#.to_owned()),
        (lock("status", json!(429)), "lock.status: found `429`, expected 409 or 423".to_owned()),
        (
            dedup("answer", json!({ "status": 204 })),
            "dedup.answer.status: found `204`, expected 200 to 599, and one whose answer has a body".to_owned(),
        ),
        (
            dedup("answer", json!({ "body": "x".repeat(4096) })),
            "dedup.answer.body: found 4098 bytes, expected at most 4096 bytes of JSON".to_owned(),
        ),
        (dedup("on_duplicate", json!("drop")), "dedup.on_duplicate: found `drop`, expected `answer` or `mark`".to_owned()),
        (
            idempotency("max_response", json!(262_145)),
            "idempotency.max_response: found `262145`, expected at most 262144 bytes".to_owned(),
        ),
        (idempotency("keys", json!(1)), "idempotency.keys: found unknown field `keys`, expected one of `name`, `key`, \
            `required`, `ttl`, `lease`, `statuses`, `max_response`, `on_store_error`, `shadow`".to_owned()),
    ] {
        assert_eq!(errors(&policy(&[guards])), [format!("routes[0].{error}")]);
    }
}

#[test]
fn guards_of_one_name_are_one() {
    let lock = |lease: &str| json!({ "lock": { "name": "job", "key": ["const:all"], "lease": lease } });
    assert_eq!(errors(&policy(&[lock("1s"), lock("1s")])), [""; 0]);
    assert_eq!(
        errors(&policy(&[lock("1s"), lock("2s")])),
        [
            "routes[1].lock.name: found `job`, expected a name of its own, or the very fields of the other `lock` of this name: they are one"
        ]
    );
    let compiled = Policy::from_json(policy(&[lock("1s"), lock("1s")]).to_string().as_bytes()).unwrap();
    assert_eq!(compiled.guards().len(), 1);
    // Other kinds of guards have names of their own.
    let dedup = json!({ "dedup": { "name": "job", "key": ["const:all"], "ttl": "1s" } });
    assert_eq!(errors(&policy(&[lock("1s"), dedup])), [""; 0]);
}

#[test]
fn what_counts() {
    let told = |count: Value| {
        let limit = json!({ "name": "a", "algorithm": "gcra", "quota": 1, "window": "1s", "key": ["const:all"], "count": count });
        errors(&policy(&[json!({ "rate_limits": [limit] })]))
    };
    for right in [json!("all"), json!("failures"), json!({ "statuses": ["401", "4xx"] })] {
        assert_eq!(told(right), [""; 0]);
    }
    assert_eq!(
        told(json!("errors")),
        [
            r#"routes[0].rate_limits[0].count: found "errors", expected "all", "failures" (4xx and 5xx), or an object such as {"statuses": ["401", "403"]}"#
        ]
    );
    assert_eq!(
        told(json!({ "statuses": vec!["500"; 17] })),
        ["routes[0].rate_limits[0].count.statuses: found 17 entries, expected at most 16"]
    );
}

#[test]
fn keys_are_fetched_by_hosts_that_can() {
    let jwks = json!({ "url": "https://id.example.com/jwks" });
    let written = json!({ "jwt": { "algorithms": ["RS256"], "jwks": jwks }, "routes": [{ "name": "r", "token": "required" }] });
    assert_eq!(errors(&written), [""; 0]);
    let surroundings = Surroundings { variables: &|_| None, in_front: None, fetches: false };
    let compiled = Policy::from_json_in(&surroundings, "", written.to_string().as_bytes());
    assert_eq!(
        compiled.unwrap_err()[0].to_string(),
        "jwt.jwks: found `https://id.example.com/jwks`, expected `keys`: this host fetches none"
    );
}

/// A host gives what the policy relies on, or is told what is missing; without a host, no secret is looked up.
#[test]
fn secrets_are_for_hosts() {
    let written = policy(&[json!({ "token": "required" })]).to_string();
    assert!(Policy::from_json(written.as_bytes()).is_ok());
    let of = |secret: Option<String>| {
        let variables = |name: &str| (name == "JWT_SECRET").then(|| secret.clone()).flatten();
        let surroundings = Surroundings { variables: &variables, in_front: None, fetches: false };
        let compiled = Policy::from_json_in(&surroundings, "policy.json", written.as_bytes());
        compiled.map(|_| ()).map_err(|errors| errors[0].to_string())
    };
    assert_eq!(of(Some("x".repeat(32))), Ok(()));
    let missing = "policy.json.jwt.keys[0].secret: found no variable `JWT_SECRET`, expected it to be set and given to this host; Envoy gives a filter what `host_env_keys` names";
    assert_eq!(of(None), Err(missing.to_owned()));
}

fn policy(guards: &[Value]) -> Value {
    let routes: Vec<Value> = guards
        .iter()
        .enumerate()
        .map(|(number, guards)| {
            let mut route = json!({ "name": format!("r{number}") });
            for (field, value) in guards.as_object().unwrap() {
                route[field] = value.clone();
            }
            route
        })
        .collect();
    let key = json!({ "alg": "HS256", "secret": { "env": "JWT_SECRET" } });
    json!({ "jwt": { "algorithms": ["HS256"], "keys": [key] }, "routes": routes })
}

fn errors(policy: &Value) -> Vec<String> {
    match Policy::from_json(policy.to_string().as_bytes()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

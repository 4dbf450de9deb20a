//! Envoy's own `jwt_authn` in front of the filter: only what it has verified is believed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    reason = "test code: a panic is a failed test"
)]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tollgate_tests::client;
use tollgate_tests::envoy::{Envoy, Filter, Listener, Options, Upstream};
use tollgate_tests::{ports, run_dir};
use tollgate_vectors::format::token;

use support::{SECRET, assert_no_trap};

#[tokio::test]
async fn only_claims_that_jwt_authn_has_verified_are_believed() {
    let envoy = start().await;
    let [ann, bob] =
        [json!("ann"), json!("bob")].map(|sub| signed(&json!({ "sub": sub, "jti": sub }), SECRET));
    let forged = signed(&json!({ "sub": "ann", "jti": "ann" }), "another secret of thirty-two bytes");
    for (path, token, status) in [
        ("/strict", Some(&ann), 200),
        ("/strict", Some(&forged), 401),
        ("/strict", None, 401),
        // `jwt_authn` lets these through, and has verified nothing.
        ("/lenient", Some(&forged), 401),
        ("/lenient", None, 401),
        ("/lenient", Some(&bob), 200),
        ("/unruled", Some(&forged), 401),
        ("/unruled", Some(&ann), 401),
        ("/unruled", None, 401),
    ] {
        assert_eq!(get(&envoy, path, token).await, status, "{path} with {token:?}");
    }
    assert_no_trap(&envoy);
}

/// What was not verified is nobody's: all such requests share one counter, whatever they claim.
#[tokio::test]
async fn a_forged_token_is_nobody_where_a_token_is_optional() {
    let envoy = start().await;
    let forged = |sub: &str| signed(&json!({ "sub": sub, "jti": sub }), "another secret of thirty-two bytes");
    let ann = signed(&json!({ "sub": "ann", "jti": "ann" }), SECRET);
    assert_eq!(get(&envoy, "/optional", Some(&forged("ann"))).await, 200);
    assert_eq!(get(&envoy, "/optional", Some(&forged("bob"))).await, 429);
    assert_eq!(get(&envoy, "/optional", None).await, 429);
    assert_eq!(get(&envoy, "/optional", Some(&ann)).await, 200, "who is verified has a counter");
    assert_eq!(get(&envoy, "/optional", Some(&ann)).await, 429);
    assert_no_trap(&envoy);
}

/// Metadata has floating point numbers, and texts of any kind.
#[tokio::test]
async fn claims_keep_their_types_and_their_values() {
    let envoy = start().await;
    let of = |tenant: Value| {
        let claims =
            json!({ "sub": "ann", "jti": "1", "tenant": tenant, "nothing": null, "list": [1, { "a": "b" }] });
        signed(&claims, SECRET)
    };
    let text = "\u{1}\"\\\u{1f600} x";
    for (tenant, statuses) in [
        (json!(7), [200, 429]),
        // As the text of a number that was counted, as in every key.
        (json!("7"), [429, 429]),
        (json!(9_007_199_254_740_991_u64), [200, 429]),
        (json!(text), [200, 429]),
        (json!(true), [200, 429]),
        // Numbers that metadata cannot hold exactly tell nobody apart.
        (json!(9_007_199_254_740_993_u64), [200, 429]),
        (json!(18_446_744_073_709_551_615_u64), [429, 429]),
        (json!(["a"]), [429, 429]),
    ] {
        for status in statuses {
            assert_eq!(get(&envoy, "/tenants", Some(&of(tenant.clone()))).await, status, "{tenant}");
        }
    }
    assert_no_trap(&envoy);
}

/// What is revoked is known by its `jti`, since the text of the token is not looked at.
#[tokio::test]
async fn a_token_without_jti_is_refused_where_it_could_be_revoked() {
    let envoy = start().await;
    let nameless = signed(&json!({ "sub": "ann" }), SECRET);
    let named = signed(&json!({ "sub": "ann", "jti": "1" }), SECRET);
    assert_eq!(get(&envoy, "/strict", Some(&nameless)).await, 200);
    assert_eq!(get(&envoy, "/account", Some(&nameless)).await, 401);
    assert_eq!(get(&envoy, "/account", Some(&named)).await, 200);
    assert_eq!(get(&envoy, "/logout", Some(&named)).await, 200);
    assert_eq!(get(&envoy, "/account", Some(&named)).await, 401);
    assert_no_trap(&envoy);
}

async fn start() -> Envoy {
    let port = ports::free().unwrap();
    let listener = Listener::new(port, Upstream::Direct)
        .with(Filter::Other(jwt_authn()))
        .with(Filter::Tollgate(json!({ "policy": policy() })));
    let options = Options {
        name: "envoy".into(),
        admin_port: ports::free().unwrap(),
        concurrency: 1,
        listeners: vec![listener],
        clusters: Vec::new(),
        variables: Vec::new(),
    };
    Envoy::start(&run_dir::create().unwrap(), options).await.unwrap()
}

fn jwt_authn() -> Value {
    let key = json!({ "kty": "oct", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(SECRET) });
    let rule = |prefix: &str, requires: Value| json!({ "match": { "prefix": prefix }, "requires": requires });
    let strict = json!({ "provider_name": "own" });
    let lenient = json!({ "requires_any": { "requirements": [strict, { "allow_missing_or_failed": {} }] } });
    let rules = [
        rule("/lenient", lenient.clone()),
        rule("/optional", lenient),
        rule("/strict", strict.clone()),
        rule("/tenants", strict.clone()),
        rule("/account", strict.clone()),
        rule("/logout", strict),
    ];
    json!({
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": { "own": {
                "local_jwks": { "inline_string": json!({ "keys": [key] }).to_string() },
                "payload_in_metadata": "payload",
            } },
            "rules": rules,
        },
    })
}

fn policy() -> Value {
    let limit = |name: &str, key: &str| json!([{ "name": name, "algorithm": "fixed_window", "quota": 1, "window": "366d", "key": [key] }]);
    let route = |name: &str, guards: Value| {
        support::with(json!({ "name": name, "match": { "path": format!("/{name}") } }), guards)
    };
    json!({
        "jwt": { "verified_by": "envoy" },
        "routes": [
            route("strict", json!({ "token": "required" })),
            route("lenient", json!({ "token": "required" })),
            route("unruled", json!({ "token": "required" })),
            route("optional", json!({ "token": "optional", "rate_limits": limit("user", "claim:sub") })),
            route("tenants", json!({ "rate_limits": limit("tenant", "claim:tenant") })),
            route("account", json!({ "revocation": {} })),
            route("logout", json!({ "revokes": "token" })),
        ],
    })
}

async fn get(envoy: &Envoy, path: &str, token: Option<&String>) -> u16 {
    let authorization = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = authorization.iter().map(|text| ("authorization", text.as_str())).collect();
    client::get(envoy.address(), path, &headers).await.unwrap().status.as_u16()
}

/// A token that holds for an hour if this secret is the right one.
fn signed(claims: &Value, secret: &str) -> String {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let Value::Object(claims) = support::with(claims.clone(), json!({ "exp": now + 3600 })) else {
        panic!("claims are an object")
    };
    token(claims, secret).unwrap()
}

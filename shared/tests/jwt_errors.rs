//! What somebody is told whose policy says something wrong of tokens: where, what was found, what was expected.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

use serde_json::{Value, json};
use tollgate_shared::config::{ConfigError, JwtConfig, parse};
use tollgate_shared::jwt::JwtPolicy;

#[test]
fn keys_of_tokens() {
    let tokens: Value = serde_json::from_str(include_str!("tokens/tokens.json")).unwrap();
    let pem = |key: usize| tokens["keys"][key]["pem"].as_str().unwrap();
    let key = |key: Value| written(&json!({ "algorithms": ["HS256", "RS256", "ES256"], "keys": [key] }));
    let secret = |alg: &str| json!({ "alg": alg, "secret": { "env": "SECRET" } });
    assert_eq!(errors(&key(secret("HS256"))), [""; 0]);
    for public in
        [json!({ "alg": "RS256", "kid": "a", "pem": pem(0) }), json!({ "jwk": tokens["keys"][1]["jwk"] })]
    {
        assert_eq!(errors(&key(public)), [""; 0]);
    }
    for (wrong, error) in [
        (json!({}), ": found 0 of `secret`, `pem` and `jwk`, expected exactly one of them"),
        (
            json!({ "secret": { "env": "A" }, "jwk": {} }),
            ": found 2 of `secret`, `pem` and `jwk`, expected exactly one of them",
        ),
        (json!({ "secret": { "env": "A" } }), ": found no `alg`, expected \"HS256\", \"HS384\" or \"HS512\""),
        (json!({ "pem": pem(0) }), ": found no `alg`, expected \"RS256\", \"ES256\" or \"EdDSA\""),
        (secret("RS256"), ": found a secret for `RS256`, expected a public key as `pem` or `jwk`"),
        (
            secret("HS512"),
            ": found a key for `HS512`, expected a key for one of `algorithms`, or its algorithm among them",
        ),
        (
            json!({ "alg": "HS256", "secret": "hush" }),
            ".secret: found a text (not shown), expected the name of a variable such as {\"env\": \"JWT_SECRET\"}",
        ),
        (json!({ "alg": "HS256", "secret": {} }), ".secret: found no `env`, expected one, it is required"),
        (
            json!({ "alg": "ES256", "pem": pem(0) }),
            ".alg: found `ES256`, expected `RS256`, which the key is for",
        ),
        (
            json!({ "alg": "HS256", "pem": pem(0) }),
            ".alg: found `HS256`, expected `RS256`, which the key is for",
        ),
        (
            json!({ "alg": "RS256", "pem": tokens["refused"]["RSA of 1024 bits"] }),
            ".pem: found another text (not shown), expected an RSA key of 2048 to 8192 bits",
        ),
        (
            json!({ "alg": "ES256", "pem": tokens["refused"]["P-384"] }),
            ".pem: found another text (not shown), expected a key of RSA, of P-256 or of Ed25519",
        ),
        (
            json!({ "alg": "RS256", "pem": tokens["refused"]["PKCS#1"] }),
            ".pem: found another text (not shown), expected `-----BEGIN PUBLIC KEY-----`, base64 and \
             `-----END PUBLIC KEY-----`",
        ),
        (
            json!({ "alg": "RS256", "pem": pem(0).replace("PUBLIC", "PRIVATE") }),
            ".pem: found another text (not shown), expected a public key: a private one has no place in a policy",
        ),
        (
            json!({ "jwk": { "kty": "oct", "k": "AAAA" } }),
            ".jwk.kty: found `oct`, expected a public key: a secret's place is a variable that `secret` names",
        ),
        (json!({ "jwk": {} }), ".jwk.kty: found no `kty`, expected `RSA`, `EC` or `OKP`"),
        (json!({ "jwk": { "kty": "EC", "crv": "P-384" } }), ".jwk.crv: found `P-384`, expected `P-256`"),
        (
            json!({ "jwk": { "kty": "OKP", "crv": "Ed25519", "x": 7 } }),
            ".jwk.x: found something else, expected bytes in base64url, without padding",
        ),
        (
            json!({ "jwk": { "kty": "OKP", "crv": "Ed25519", "x": "AAAA" } }),
            ".jwk.x: found `AAAA`, expected 32 bytes in base64url, without padding",
        ),
        (
            json!({ "kid": "a", "jwk": tokens["keys"][1]["jwk"] }),
            ".jwk: found `alg` or `kid` beside it, expected them in the JWK itself",
        ),
        (json!({ "jwk": { "kid": 1 } }), ".jwk.kid: found something else, expected a text"),
        (
            json!({ "jwk": changed(&tokens["keys"][1]["jwk"], "d", "AAAA") }),
            ".jwk.d: found a private key (not shown), expected a public key without its private part",
        ),
        (
            json!({ "jwk": changed(&tokens["keys"][1]["jwk"], "use", "enc") }),
            ".jwk.use: found `enc`, expected `sig`",
        ),
        (
            json!({ "jwk": changed(&tokens["keys"][1]["jwk"], "alg", "ES384") }),
            ".jwk.alg: found `ES384`, expected ES256",
        ),
        (
            json!({ "jwk": changed(&tokens["keys"][1]["jwk"], "x", &"A".repeat(43)) }),
            ".jwk: found no point on its curve, expected a public key that can verify",
        ),
    ] {
        told(&key(wrong), &format!("jwt.keys[0]{error}"));
    }
    told(&key(json!({ "jwk": [] })), "jwt.keys[0].jwk: found a list, expected an object");
    let twice = r#"{"algorithms": ["RS256"], "keys": [{"jwk": {"kty": "RSA", "kty": "oct"}}]}"#;
    told(twice, "jwt.keys[0].jwk.kty: found duplicate field `kty`, expected it only once");
    let kid = |kid: &str| json!({ "alg": "HS256", "kid": kid, "secret": { "env": "SECRET" } });
    let keys = |keys: &[Value]| written(&json!({ "algorithms": ["HS256"], "keys": keys }));
    told(
        &keys(&[kid("a"), kid("b"), kid("a")]),
        "jwt.keys[2]: found the `kid` `a` again, expected a `kid` that no earlier key has",
    );
    told(
        &keys(&vec![secret("HS256"); 5]),
        "jwt.keys[4]: found a fifth key for `HS256` without `kid`, expected a `kid`: at most 4 keys are tried for one token",
    );
    let many: Vec<Value> = (0..65).map(|number| kid(&number.to_string())).collect();
    told(&keys(&many), "jwt.keys: found 65 keys, expected at most 64");
}

#[test]
fn keys_that_are_fetched() {
    let of = |algorithm: &str, jwks: Value| {
        errors(&json!({ "algorithms": [algorithm], "jwks": jwks }).to_string())
    };
    for right in [
        json!({ "url": "https://id.example.com/.well-known/jwks.json?a=b" }),
        json!({ "url": "http://localhost:8080/jwks", "refresh": "1d" }),
    ] {
        assert_eq!(of("RS256", right), [""; 0]);
    }
    let url = r#"expected a URL such as "https://id.example.com/.well-known/jwks.json", without credentials"#;
    for (wrong, found) in [
        ("id.example.com", "`id.example.com`"),
        ("https://", "`https://`"),
        ("https:///jwks", "`https:///jwks`"),
        ("https://a b", "`https://a b`"),
        ("https://user:secret@id.example.com", "a URL with credentials (not shown)"),
    ] {
        assert_eq!(of("ES256", json!({ "url": wrong })), [format!("jwt.jwks.url: found {found}, {url}")]);
    }
    let often = json!({ "url": "https://id.example.com/jwks", "refresh": "59s" });
    assert_eq!(of("EdDSA", often), ["jwt.jwks.refresh: found `59s`, expected 1m to 1d"]);
    assert_eq!(
        of("HS256", json!({ "url": "https://id.example.com/jwks" })),
        [
            "jwt.jwks: found only algorithms with secrets, expected one with public keys among `algorithms`, such as \"RS256\""
        ]
    );
}

#[test]
fn what_is_asked_of_tokens() {
    let secret = json!([{ "alg": "HS256", "secret": { "env": "SECRET" } }]);
    let with = |name: &str, value: Value| {
        let mut config = json!({ "algorithms": ["HS256"], "keys": secret });
        config[name] = value;
        written(&config)
    };
    for (name, right) in [
        ("from", json!("authorization")),
        ("from", json!("cookie:session")),
        ("from", json!("header:X-Token")),
        ("audience", json!(["a", "b"])),
        ("issuer", json!("https://issuer.example")),
        ("leeway", json!("5m")),
        ("max_lifetime", json!("365d")),
    ] {
        assert_eq!(errors(&with(name, right)), [""; 0]);
    }
    for from in ["header:authorization", "header:Cookie", "query:token", "cookie:", "Authorization", ""] {
        told(
            &with("from", json!(from)),
            &format!(
                "jwt.from: found \"{from}\", expected \"authorization\" (a bearer token), cookie:NAME or header:NAME \
                 (the field holds the token and nothing else)"
            ),
        );
    }
    told(
        &with("audience", json!([])),
        "jwt.audience: found 0 audiences, expected 1 to 16 audiences; leave it out to accept tokens for anybody",
    );
    told(
        &with("audience", json!(vec!["a"; 17])),
        "jwt.audience: found 17 audiences, expected 1 to 16 audiences; leave it out to accept tokens for anybody",
    );
    told(&with("leeway", json!("301s")), "jwt.leeway: found `301s`, expected at most 5m");
    assert_eq!(
        errors(&with("verified_by", json!("envoy"))),
        [
            "jwt.algorithms: found an array, expected nothing beside `verified_by`: the guard in front of the host decides this",
            "jwt.verified_by: found keys beside it, expected one of the two: who verifies needs the keys"
        ]
    );
    told(
        &written(&json!({ "verified_by": "envoy", "from": "cookie:session" })),
        "jwt.from: found another place than `authorization`, expected nothing beside `verified_by`: the guard in front of the host decides this",
    );
    told(
        &written(&json!({ "verified_by": "envoy", "payload_in_metadata": "" })),
        "jwt.payload_in_metadata: found ``, expected 1 to 255 bytes",
    );
    told(
        &with("payload_in_metadata", json!("payload")),
        "jwt.payload_in_metadata: found a name, expected `verified_by` beside it",
    );
    told(&with("verified_by", json!("nginx")), "jwt.verified_by: found `nginx`, expected `envoy`");
    told(
        &with("algorithms", json!(["none"])),
        "jwt.algorithms[0]: found `none`, expected one of `HS256`, `HS384`, `HS512`, `RS256`, `ES256`, `EdDSA`",
    );
    assert_eq!(
        errors(&written(&json!({ "keys": [] }))),
        [
            "jwt.algorithms: found none, expected at least one, such as \"RS256\"",
            "jwt.keys: found none, expected at least one, or `jwks`, or `verified_by`"
        ]
    );
    told(
        &written(&json!({ "algorithms": ["RS256"] })),
        "jwt.keys: found none, expected at least one, or `jwks`, or `verified_by`",
    );
    assert_eq!(errors(&written(&json!({ "verified_by": "envoy" }))), [""; 0]);
}

fn told(config: &str, error: &str) {
    assert_eq!(errors(config), [error], "{config}");
}

fn errors(config: &str) -> Vec<String> {
    let found = match parse::<JwtConfig>(config.as_bytes()) {
        Ok(config) => JwtPolicy::compile(&config, "", None).err().unwrap_or_default(),
        Err(error) => vec![ConfigError::below(error, "jwt")],
    };
    found.iter().map(ToString::to_string).collect()
}

fn written(config: &Value) -> String {
    config.to_string()
}

fn changed(jwk: &Value, member: &str, value: &str) -> Value {
    let mut jwk = jwk.clone();
    jwk[member] = json!(value);
    jwk
}

//! Tokens: what is accepted, and everything that must not be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::Sha256;
use tollgate_shared::config::{JwtAlgorithm, JwtConfig, VerifiedBy, parse};
use tollgate_shared::jwt::{
    Claim, JwtPolicy, Key, KeySet, MAX_TOKEN_BYTES, Signature, Token, TokenError, digest_of_id,
};
use tollgate_shared::policy::Surroundings;
use tollgate_shared::request::Request;
use tollgate_shared::time::Timestamp;

// Known answers.

/// RFC 7515, appendix A.1.
#[test]
fn the_example_of_hs256_holds() {
    let token = Token::parse(RFC_HS256.as_bytes()).unwrap();
    let key = Key::from_secret(JwtAlgorithm::Hs256, None, &base64(RFC_HS256_KEY)).unwrap();
    assert_eq!(key.verification(token.signing_input(), token.signature()).holds(), Some(true));
    assert_eq!(token.claims().issuer(), Some("joe"));
    assert_eq!(token.claims().expires(), Some(Timestamp::from_millis(1_300_819_380_000)));
    assert_eq!(token.claims().claim("http://example.com/is_root"), Some(Claim::Boolean(true)));
}

/// RFC 7515, appendices A.2 and A.3.
#[test]
fn the_examples_of_rs256_and_es256_hold() {
    let keys = KeySet::from_jwks(RFC_JWKS.as_bytes(), &ASYMMETRIC).unwrap();
    for token in [RFC_RS256, RFC_ES256] {
        let token = Token::parse(token.as_bytes()).unwrap();
        assert!(matches!(keys.verify(&token), Ok(Signature::Holds)), "{:?}", token.algorithm());
    }
}

/// RFC 8037, appendix A.4, whose content is no object of claims.
#[test]
fn the_example_of_ed25519_holds() {
    let keys = KeySet::from_jwks(RFC_JWKS.as_bytes(), &[JwtAlgorithm::EdDsa]).unwrap();
    let (signing_input, signature) = RFC_EDDSA.rsplit_once('.').unwrap();
    let [key] = keys.keys() else { panic!("{keys:?}") };
    assert_eq!(key.verification(signing_input.as_bytes(), &base64(signature)).holds(), Some(true));
    assert_eq!(key.verification(&signing_input.as_bytes()[1..], &base64(signature)).holds(), Some(false));
    assert_eq!(Token::parse(RFC_EDDSA.as_bytes()).unwrap_err(), TokenError::Claims);
}

/// RFC 7515, appendix A.5.
#[test]
fn the_example_without_signature_is_refused() {
    let token = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.";
    assert_eq!(Token::parse(token.as_bytes()).unwrap_err(), TokenError::Malformed);
}

/// `tokens/make.mjs` made these.
#[test]
fn signatures_are_judged_as_openssl_judges_them() {
    let tokens = tokens();
    let policies = [policy_of(&tokens, "pem"), policy_of(&tokens, "jwk")];
    let judged = tokens["tokens"].as_array().unwrap();
    for case in judged {
        let text = case["token"].as_str().unwrap();
        for policy in &policies {
            let verdict = match Token::parse(text.as_bytes()) {
                Ok(token) => {
                    policy.verify(&token, None).map(|signature| matches!(signature, Signature::Holds))
                }
                Err(error) => Err(error),
            };
            match case["valid"].as_bool().unwrap() {
                true => assert_eq!(verdict, Ok(true), "{case}"),
                false => assert_eq!(verdict, Err(TokenError::Signature), "{case}"),
            }
        }
    }
    assert_eq!(judged.iter().filter(|case| case["valid"] == true).count(), 25);
    assert!(judged.len() > 90);
}

#[test]
fn a_key_of_another_size_and_exponent_verifies() {
    let tokens = tokens();
    let policy = compile(
        &json!({ "algorithms": ["RS256"], "keys": [{ "alg": "RS256", "pem": tokens["large"]["pem"] }] }),
    );
    let token = Token::parse(tokens["large"]["token"].as_str().unwrap().as_bytes()).unwrap();
    assert!(matches!(policy.verify(&token, None), Ok(Signature::Holds)));
}

/// Verifiers differ on such signatures, and what one has let through another refuses.
#[test]
fn a_point_of_small_order_is_no_half_of_a_signature() {
    let tokens = tokens();
    assert_eq!(tokens["strict"]["valid"], true);
    let token = tokens["strict"]["token"].as_str().unwrap();
    assert_eq!(refused(&policy_of(&tokens, "jwk"), token), TokenError::Signature);
}

// Attacks.

#[test]
fn tokens_without_signature_are_refused() {
    let policy = hs256();
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256 ", "hs256", "RS1"] {
        let header = json!({ "alg": alg });
        assert_eq!(refused(&policy, &sign(&header, &claims(), SECRET)), TokenError::Algorithm, "{alg}");
    }
    let token = valid();
    let (signing_input, _) = token.rsplit_once('.').unwrap();
    for stripped in [signing_input.to_owned(), format!("{signing_input}."), format!("{signing_input}.e30.")] {
        assert_eq!(refused(&policy, &stripped), TokenError::Malformed, "{stripped}");
    }
    for header in [json!({}), json!({ "alg": null }), json!({ "alg": ["HS256"] }), json!({ "alg": 256 })] {
        assert_eq!(refused(&policy, &sign(&header, &claims(), SECRET)), TokenError::Header, "{header}");
    }
}

#[test]
fn a_public_key_is_no_secret() {
    let tokens = tokens();
    let pem = &tokens["keys"][0]["pem"];
    let key = json!({ "alg": "RS256", "kid": "a", "pem": pem });
    let forged = |kid: &str| {
        let header = json!({ "alg": "HS256", "kid": kid });
        let public = pem.as_str().unwrap();
        [public.to_owned(), public.trim().to_owned(), public.replace('\n', "")]
            .map(|secret| sign(&header, &claims(), secret.as_bytes()))
    };
    // Whether HS256 is allowed or not, and whether there is a key for it or not.
    let other = json!({ "alg": "HS256", "kid": "b", "secret": { "env": "SECRET" } });
    let policies = [
        (compile(&json!({ "algorithms": ["RS256"], "keys": [key] })), TokenError::Algorithm),
        (compile(&json!({ "algorithms": ["RS256", "HS256"], "keys": [key] })), TokenError::UnknownKey),
        (compile(&json!({ "algorithms": ["RS256", "HS256"], "keys": [key, other] })), TokenError::UnknownKey),
    ];
    for (policy, error) in policies {
        for token in forged("a") {
            assert_eq!(refused(&policy, &token), error);
        }
    }
    let all = compile(&json!({ "algorithms": ["RS256", "HS256"], "keys": [key, other] }));
    for token in forged("b") {
        assert_eq!(refused(&all, &token), TokenError::Signature);
    }
}

#[test]
fn keys_that_a_token_brings_along_are_not_looked_at() {
    let attacker = b"the attacker's own secret, of 32 bytes";
    let jwk = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(attacker), "alg": "HS256" });
    for member in ["jwk", "jku", "x5c", "x5u", "x5t"] {
        let header = json!({ "alg": "HS256", member: jwk });
        assert_eq!(refused(&hs256(), &sign(&header, &claims(), attacker)), TokenError::Signature, "{member}");
        accepted(&hs256(), &sign(&header, &claims(), SECRET));
    }
}

#[test]
fn extensions_that_must_be_understood_are_not() {
    for crit in [json!(["b64"]), json!(["exp"]), json!([]), json!(null)] {
        let header = json!({ "alg": "HS256", "b64": false, "crit": crit });
        assert_eq!(refused(&hs256(), &sign(&header, &claims(), SECRET)), TokenError::Critical, "{crit}");
    }
}

#[test]
fn members_of_one_name_are_refused() {
    let claims = claims().to_string();
    for header in [
        r#"{"alg":"HS256","alg":"none"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","kid":"a","k\u0069d":"b"}"#,
        r#"{"alg":"HS256","other":1,"other":1}"#,
    ] {
        assert_eq!(refused(&hs256(), &sign_text(header, &claims, SECRET)), TokenError::Header, "{header}");
    }
    let header = r#"{"alg":"HS256"}"#;
    for (written, twice) in [("\"sub\"", "\"sub\":\"admin\","), ("\"exp\"", "\"e\\u0078p\":9999999999,")] {
        assert!(claims.contains(written));
        let claims = claims.replacen('{', &format!("{{{twice}"), 1);
        assert_eq!(refused(&hs256(), &sign_text(header, &claims, SECRET)), TokenError::Claims, "{claims}");
    }
}

#[test]
fn what_is_no_object_is_refused() {
    let header = r#"{"alg":"HS256"}"#;
    for text in ["[]", "\"a\"", "1", "null", "true", "{", "{}{}", "{} x", "not json"] {
        let claims = sign_text(header, text, SECRET);
        assert_eq!(refused(&hs256(), &claims), TokenError::Claims, "{text}");
        let header = sign_text(text, &claims, SECRET);
        assert_eq!(refused(&hs256(), &header), TokenError::Header, "{text}");
    }
}

#[test]
fn registered_claims_have_one_type() {
    for (name, wrong) in [
        ("exp", json!("1800003600")),
        ("exp", json!(-1)),
        ("exp", json!(null)),
        ("exp", json!(1_800_003_600_000_u64)),
        ("nbf", json!(true)),
        ("iat", json!([1_800_000_000])),
        ("iss", json!(["https://issuer.example"])),
        ("sub", json!(7)),
        ("sub", json!(null)),
        ("jti", json!({})),
        ("aud", json!(7)),
        ("aud", json!(["api", 7])),
        ("aud", json!({ "api": true })),
        ("aud", json!(null)),
    ] {
        assert_eq!(refused(&hs256(), &with(name, wrong.clone())), TokenError::Claims, "{name}: {wrong}");
    }
}

#[test]
fn a_token_has_one_spelling() {
    let token = valid();
    let (header, rest) = token.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    // 32 bytes leave two bits of the last character unused.
    let last = signature.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(last).unwrap();
    assert_eq!(at % 4, 0);
    let stem = &signature[..signature.len() - 1];
    for unused in &alphabet[at + 1..at + 4].chars().collect::<Vec<_>>() {
        assert_eq!(refused(&hs256(), &format!("{header}.{claims}.{stem}{unused}")), TokenError::Malformed);
    }
    for other in [
        format!("{header}.{claims}.{signature}="),
        format!("{header}==.{claims}.{signature}"),
        format!(" {token}"),
        format!("{token} "),
        format!("{token}\n"),
        format!("{header}\n.{claims}.{signature}"),
        format!("{header}..{claims}.{signature}"),
        format!("{token}."),
        format!("{token}.{signature}"),
        format!("{header}.{claims}.{signature}.{claims}.{signature}"),
        format!("{header}.{claims}.{}", signature.replace(['-', '_'], "+")),
        format!("{header}.{claims}.ä{signature}"),
        String::new(),
        "..".to_owned(),
        "a.b.c".to_owned(),
    ] {
        // The signature may do without `-` and `_`.
        if other != token {
            assert_eq!(refused(&hs256(), &other), TokenError::Malformed, "{other}");
        }
    }
    assert_eq!(refused_bytes(&hs256(), b"\xff.\xff.\xff"), TokenError::Malformed);
}

#[test]
fn tokens_are_bounded() {
    let of = |pad: usize| with("pad", json!("x".repeat(pad)));
    let mut pad = 5000;
    while of(pad + 1).len() <= MAX_TOKEN_BYTES {
        pad += 1;
    }
    accepted(&hs256(), &of(pad));
    assert!(of(pad + 4).len() > MAX_TOKEN_BYTES);
    assert_eq!(refused(&hs256(), &of(pad + 4)), TokenError::TooLong);
    let deep = format!("{{\"exp\":1800003600,\"deep\":{}{}}}", "[".repeat(2000), "]".repeat(2000));
    let deep = sign_text(r#"{"alg":"HS256"}"#, &deep, SECRET);
    assert!(deep.len() < MAX_TOKEN_BYTES);
    assert_eq!(refused(&hs256(), &deep), TokenError::Claims);
}

#[test]
fn a_truncated_token_is_refused() {
    for token in tokens_of_all_algorithms() {
        let policy = policy_of(&tokens(), "jwk");
        accepted(&policy, &token);
        for length in 0..token.len() {
            refused(&policy, &token[..length]);
        }
    }
}

#[test]
fn every_flip_of_a_bit_is_found() {
    let policy = hs256();
    let token = valid();
    accepted(&policy, &token);
    for at in 0..token.len() {
        for bit in 0..8 {
            let mut damaged = token.clone().into_bytes();
            damaged[at] ^= 1 << bit;
            refused_bytes(&policy, &damaged);
        }
    }
    // Signatures of public keys take longer.
    let policy = policy_of(&tokens(), "jwk");
    for token in tokens_of_all_algorithms() {
        for at in (0..token.len()).step_by(3) {
            let mut damaged = token.clone().into_bytes();
            damaged[at] ^= 1;
            refused_bytes(&policy, &damaged);
        }
    }
}

#[test]
fn another_key_signs_nothing() {
    let header = json!({ "alg": "HS256" });
    let other = sign(&header, &claims(), b"another secret that has 32 bytes");
    assert_eq!(refused(&hs256(), &other), TokenError::Signature);
    let with_kid = |kid: &str| sign(&json!({ "alg": "HS256", "kid": kid }), &claims(), SECRET);
    let key = |kid: &str, env: &str| json!({ "alg": "HS256", "kid": kid, "secret": { "env": env } });
    let named = compile(&json!({ "algorithms": ["HS256"], "keys": [key("a", "SECRET"), key("b", "OTHER")] }));
    accepted(&named, &with_kid("a"));
    accepted(&named, &valid());
    assert_eq!(refused(&named, &with_kid("b")), TokenError::Signature);
    assert_eq!(refused(&named, &with_kid("c")), TokenError::UnknownKey);
    assert_eq!(
        refused(&named, &sign(&json!({ "alg": "HS256", "kid": 1 }), &claims(), SECRET)),
        TokenError::Header
    );
    // A key without name is for tokens that no other key is for.
    accepted(&hs256(), &with_kid("c"));
}

#[test]
fn at_most_four_keys_are_tried() {
    let keys = |first: usize| -> Vec<Value> {
        let key = |number: usize| {
            let env = if number == first { "SECRET" } else { "OTHER" };
            json!({ "alg": "HS256", "kid": number.to_string(), "secret": { "env": env } })
        };
        (1..=5).map(key).collect()
    };
    accepted(&compile(&json!({ "algorithms": ["HS256"], "keys": keys(4) })), &valid());
    let fifth = compile(&json!({ "algorithms": ["HS256"], "keys": keys(5) }));
    assert_eq!(refused(&fifth, &valid()), TokenError::Signature);
    accepted(&fifth, &sign(&json!({ "alg": "HS256", "kid": "5" }), &claims(), SECRET));
}

// Claims.

#[test]
fn times_are_checked_to_the_millisecond() {
    let at = |policy: &JwtPolicy, token: &str, now: u64| check(policy, token, now);
    let (strict, lenient) = (hs256(), compile_with(json!({ "leeway": "30s" })));
    let token = valid();
    assert_eq!(at(&strict, &token, EXP - 1), Ok(()));
    assert_eq!(at(&strict, &token, EXP), Err(TokenError::Expired));
    assert_eq!(at(&lenient, &token, EXP + 29_999), Ok(()));
    assert_eq!(at(&lenient, &token, EXP + 30_000), Err(TokenError::Expired));

    let token = with("nbf", json!(1_800_000_100.25));
    let nbf = 1_800_000_100_250;
    assert_eq!(at(&strict, &token, nbf - 1), Err(TokenError::NotYetValid));
    assert_eq!(at(&strict, &token, nbf), Ok(()));
    assert_eq!(at(&lenient, &token, nbf - 30_001), Err(TokenError::NotYetValid));
    assert_eq!(at(&lenient, &token, nbf - 30_000), Ok(()));

    let token = with("iat", json!(1_800_000_100));
    let iat = 1_800_000_100_000;
    assert_eq!(at(&strict, &token, iat - 1), Err(TokenError::IssuedInFuture));
    assert_eq!(at(&strict, &token, iat), Ok(()));
    assert_eq!(at(&lenient, &token, iat - 30_001), Err(TokenError::IssuedInFuture));
    assert_eq!(at(&lenient, &token, iat - 30_000), Ok(()));
}

#[test]
fn a_token_expires() {
    assert_eq!(refused(&hs256(), &without("exp")), TokenError::NoExpiry);
    accepted(&hs256(), &without("iat"));
    accepted(&hs256(), &without("sub"));
}

#[test]
fn a_life_is_bounded() {
    let policy = compile_with(json!({ "max_lifetime": "1h", "leeway": "1m" }));
    accepted(&policy, &valid());
    assert_eq!(refused(&policy, &with("exp", json!(1_800_003_601))), TokenError::LivesTooLong);
    assert_eq!(refused(&policy, &without("iat")), TokenError::NoIssueTime);
    assert_eq!(policy.max_age_millis(), Some(3_600_000 + 120_000));
    assert_eq!(hs256().max_age_millis(), None);
}

#[test]
fn issuers_are_compared_to_the_letter() {
    let policy = compile_with(json!({ "issuer": "https://issuer.example" }));
    accepted(&policy, &valid());
    for wrong in ["https://issuer.example/", "HTTPS://issuer.example", "https://issuer.exampl", ""] {
        assert_eq!(refused(&policy, &with("iss", json!(wrong))), TokenError::Issuer, "{wrong}");
    }
    assert_eq!(refused(&policy, &without("iss")), TokenError::Issuer);
}

#[test]
fn one_audience_is_enough() {
    let policy = compile_with(json!({ "audience": ["api", "web"] }));
    for aud in [json!("api"), json!("web"), json!(["other", "web"])] {
        accepted(&policy, &with("aud", aud));
    }
    for aud in [json!("other"), json!("ap"), json!([]), json!(["API"]), json!("")] {
        assert_eq!(refused(&policy, &with("aud", aud.clone())), TokenError::Audience, "{aud}");
    }
    assert_eq!(refused(&policy, &without("aud")), TokenError::Audience);
}

#[test]
fn claims_are_read_as_they_are() {
    let token = with("other", json!({ "nested": 1 }));
    let token = Token::parse(token.as_bytes()).unwrap();
    let claim = |name| token.claims().claim(name);
    assert_eq!(claim("sub"), Some(Claim::Text("user-1")));
    assert_eq!(claim("iat"), Some(Claim::Unsigned(1_800_000_000)));
    assert_eq!(claim("negative"), Some(Claim::Negative(-7)));
    assert_eq!(claim("large"), Some(Claim::Unsigned(u64::MAX)));
    assert_eq!(claim("admin"), Some(Claim::Boolean(false)));
    for name in ["aud", "other", "nested", "other.nested", "missing", "fraction", "null"] {
        assert_eq!(claim(name), None, "{name}");
    }
}

// What the host's platform or another server verifies.

#[test]
fn a_key_is_handed_over_as_it_was_given() {
    let tokens = tokens();
    let keys = policy_of(&tokens, "pem");
    let public = keys.keys().unwrap().keys().iter().filter_map(Key::public);
    let mut found = 0;
    for (key, given) in public.zip(tokens["keys"].as_array().unwrap()) {
        assert_eq!(serde_json::from_str::<Value>(&key.jwk()).unwrap(), given["jwk"]);
        assert_eq!(key.algorithm().as_str(), given["alg"]);
        found += 1;
    }
    assert_eq!(found, 3);
    let web =
        |algorithm: JwtAlgorithm| algorithm.web_crypto().map(|web| (web.name, web.hash, web.named_curve));
    assert_eq!(web(JwtAlgorithm::Rs256), Some(("RSASSA-PKCS1-v1_5", Some("SHA-256"), None)));
    assert_eq!(web(JwtAlgorithm::Es256), Some(("ECDSA", Some("SHA-256"), Some("P-256"))));
    assert_eq!(web(JwtAlgorithm::EdDsa), Some(("Ed25519", None, None)));
    assert_eq!(web(JwtAlgorithm::Hs256), None);
}

/// What Envoy has verified is believed where a request is decided about; the text of a token is believed nowhere.
#[test]
fn where_envoy_verifies_no_text_is_believed() {
    let config = json!({ "verified_by": "envoy", "audience": ["api"] });
    let config: JwtConfig = parse(config.to_string().as_bytes()).unwrap();
    let policy = JwtPolicy::compile(
        &config,
        "",
        Some(&Surroundings { variables: &env, in_front: Some(VerifiedBy::Envoy), fetches: false }),
    )
    .unwrap();
    let of = |alg: &str, claims: &Value| sign(&json!({ "alg": alg }), claims, b"whatever");
    for algorithm in ["RS256", "HS256", "none"] {
        assert_eq!(refused(&policy, &of(algorithm, &claims())), TokenError::Signature);
    }
    assert!(policy.keys().is_none());

    let errors = JwtPolicy::compile(
        &config,
        "",
        Some(&Surroundings { variables: &env, in_front: None, fetches: false }),
    )
    .unwrap_err();
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "jwt.verified_by: found another host's guard, expected `keys`: nobody verifies tokens in front of this host"
        ]
    );
}

#[test]
fn secrets_are_looked_up_and_long_enough() {
    let told = |alg: &str, name: &str| {
        let key = json!({ "alg": alg, "secret": { "env": name } });
        let config: JwtConfig =
            parse(json!({ "algorithms": [alg], "keys": [key] }).to_string().as_bytes()).unwrap();
        let env = |name: &str| name.strip_prefix("BYTES_").map(|bytes| "x".repeat(bytes.parse().unwrap()));
        let errors = JwtPolicy::compile(
            &config,
            "policy.json.",
            Some(&Surroundings { variables: &env, in_front: None, fetches: false }),
        )
        .err()
        .unwrap_or_default();
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let at = "policy.json.jwt.keys[0].secret: found";
    assert_eq!(
        told("HS256", "MISSING"),
        format!(
            "{at} no variable `MISSING`, expected it to be set and given to this host; Envoy gives a filter what `host_env_keys` names"
        )
    );
    for (alg, least) in [("HS256", 32), ("HS384", 48), ("HS512", 64)] {
        assert_eq!(told(alg, &format!("BYTES_{least}")), "");
        let (short, name) = (least - 1, format!("BYTES_{}", least - 1));
        assert_eq!(
            told(alg, &name),
            format!(
                "{at} {short} bytes in `{name}`, expected at least {least} bytes for `{alg}` (RFC 7518 §3.2)"
            )
        );
    }
}

// Sets of keys that hosts fetch.

#[test]
fn a_key_set_is_read_for_what_is_of_use() {
    let tokens = tokens();
    let rsa = &tokens["keys"][0]["jwk"];
    let changed = |member: &str, value: Value| {
        let mut key = rsa.clone();
        key[member] = value;
        key
    };
    let mut keys = vec![
        json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET), "alg": "HS256" }),
        json!({ "kty": "new" }),
        json!({}),
        json!({ "kty": "EC", "crv": "P-521", "x": "", "y": "" }),
        json!({ "kty": "OKP", "crv": "X25519", "x": URL_SAFE_NO_PAD.encode([9; 32]) }),
        // Not on the curve, and of an order that makes it verify anything.
        json!({ "kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode([1; 32]), "y": URL_SAFE_NO_PAD.encode([1; 32]) }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([0; 32]) }),
        changed("use", json!("enc")),
        changed("alg", json!("RS512")),
        changed("alg", json!("PS256")),
        changed("key_ops", json!(["encrypt"])),
        changed("key_ops", json!("verify")),
        changed("d", json!("AQAB")),
        changed("kid", json!(7)),
        changed("e", json!("AQ")),
        changed("e", json!("AAAC")),
        changed("e", json!("AQAAAAAB")),
        changed("n", json!("AQAB")),
        changed("n", json!("not base64!")),
    ];
    let all = [JwtAlgorithm::Hs256, JwtAlgorithm::Rs256, JwtAlgorithm::Es256, JwtAlgorithm::EdDsa];
    let read = |keys: &[Value], algorithms| {
        KeySet::from_jwks(json!({ "keys": keys, "other": [] }).to_string().as_bytes(), algorithms).unwrap()
    };
    assert!(read(&keys, &all).keys().is_empty(), "{:?}", read(&keys, &all));
    let useful = [
        changed("use", json!("sig")),
        changed("key_ops", json!(["verify", "wrapKey"])),
        changed("alg", json!("RS256")),
        changed("x5c", json!(["MII…"])),
        tokens["keys"][1]["jwk"].clone(),
        tokens["keys"][2]["jwk"].clone(),
    ];
    keys.extend(useful);
    assert_eq!(read(&keys, &all).keys().len(), 6);
    // A set is read for the algorithms of the policy alone.
    assert_eq!(read(&keys, &[JwtAlgorithm::Es256]).keys().len(), 1);
    assert!(read(&keys, &[]).keys().is_empty());
}

#[test]
fn key_sets_are_bounded() {
    let keys = |count: usize| json!({ "keys": vec![json!({ "kty": "new" }); count] }).to_string();
    assert!(KeySet::from_jwks(keys(64).as_bytes(), &ASYMMETRIC).is_ok());
    let told = |json: &str| KeySet::from_jwks(json.as_bytes(), &ASYMMETRIC).unwrap_err().to_string();
    assert_eq!(told(&keys(65)), "keys: found 65 keys, expected at most 64");
    let long = format!("{}{}", keys(1), " ".repeat(64 * 1024));
    assert_eq!(told(&long), format!("found {} bytes, expected at most 64 KiB of JSON", long.len()));
    for none in ["{}", "[]", "7 ", r#"{"keys": null}"#, r#"{"keys": {}}"#, r#"{"keys": [], "keys": []}"#] {
        assert_eq!(told(none), "found no list called `keys`, or two, expected one");
    }
    for broken in
        ["<html>", "", r#"{"keys": ["#, r#"{"keys": [{]}"#, r#"{"keys": []} {}"#, r#"{"keys": [],}"#]
    {
        assert_eq!(told(broken), "found what cannot be read, expected a JWK Set: `{\"keys\": […]}`");
    }
}

/// RFC 7517 §5: what a reader does not know is no reason to lose the keys beside it.
#[test]
fn an_entry_that_is_no_key_costs_no_other() {
    let good = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    for bad in [
        "null",
        "7",
        "1e999",
        "[]",
        r#""key""#,
        r#"{"kty":"OKP","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"\ud800"}"#,
        r#"{"kty":"RSA","n":1e400,"e":NaN}"#,
        r#"{"kty":"RSA","x5c":["\udfff", 1]}"#,
        &deep,
    ] {
        for set in
            [format!(r#"{{"keys":[{bad},{good}]}}"#), format!(r#"{{"a":{bad},"keys":[{good},{bad}]}}"#)]
        {
            let keys = KeySet::from_jwks(set.as_bytes(), &ASYMMETRIC).unwrap();
            assert_eq!(keys.keys().len(), 1, "{bad}");
        }
    }
}

// Requests.

#[test]
fn a_bearer_is_found() {
    let policy = hs256();
    let token = valid();
    for line in [
        format!("Bearer {token}"),
        format!("bearer {token}"),
        format!("BEARER    {token}"),
        format!("  Bearer {token}\t"),
    ] {
        assert!(find(&policy, "authorization", &[&line]).is_ok(), "{line}");
    }
    for line in ["", "Basic dXNlcjpwYXNz", "Bearerx a.b.c", "Digest a=\"Bearer\"", &token] {
        assert_eq!(find(&policy, "authorization", &[line]).unwrap_err(), TokenError::Missing, "{line}");
    }
    assert_eq!(find(&policy, "authorization", &[]).unwrap_err(), TokenError::Missing);
    for line in [
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Bearer\t{token}"),
        format!("Bearer \t{token}"),
        format!("Bearer {token} {token}"),
        format!("Bearer {token}, Bearer {token}"),
        format!("Bearer {token},"),
        format!("Bearer \"{token}\""),
        format!("Bearer token={token}"),
    ] {
        assert_eq!(find(&policy, "authorization", &[&line]).unwrap_err(), TokenError::Malformed, "{line}");
    }
}

#[test]
fn two_tokens_are_none() {
    let bearer = format!("Bearer {}", valid());
    for lines in [[&*bearer, &bearer], [&bearer, ""], ["Basic dXNlcjpwYXNz", &bearer], ["", ""]] {
        let error = find(&hs256(), "authorization", &lines).unwrap_err();
        assert_eq!(error, TokenError::Repeated, "{lines:?}");
    }
    assert_eq!(find(&hs256(), "authorization", &[bearer.as_str(); 3]).unwrap_err(), TokenError::Repeated);
}

#[test]
fn cookies_and_other_fields_carry_tokens() {
    let token = valid();
    let policy = compile_with(json!({ "from": "cookie:session" }));
    let found = |lines: &[&str]| find(&policy, "cookie", lines);
    let cookie = format!("session={token}");
    assert!(found(&[&format!("a=b; {cookie}; session2=x")]).is_ok());
    assert!(found(&["a=b", &cookie]).is_ok());
    assert!(found(&[&format!("a=b;session =\t{token} ")]).is_ok());
    assert!(found(&[&format!("session=\"{token}\"")]).is_ok());
    assert!(found(&[&format!("session=%65{}", &token[1..])]).is_ok());
    assert_eq!(found(&["a=b", "sessio=x; xsession=y"]).unwrap_err(), TokenError::Missing);
    // What one upstream takes for the token and another does not.
    for odd in ["session; session=", "Session=", "a=b,session=", "a=b session=", "session=a,"] {
        assert_eq!(found(&[&format!("{odd}{token}")]).unwrap_err(), TokenError::Repeated, "{odd}");
    }
    assert_eq!(found(&[&format!("{cookie}; {cookie}")]).unwrap_err(), TokenError::Repeated);
    assert_eq!(found(&[&cookie, &cookie]).unwrap_err(), TokenError::Repeated);
    assert_eq!(found(&["session="]).unwrap_err(), TokenError::Malformed);

    let policy = compile_with(json!({ "from": "header:X-Token" }));
    assert!(find(&policy, "x-token", &[&format!(" {token} ")]).is_ok());
    assert_eq!(find(&policy, "x-token", &[&format!("Bearer {token}")]).unwrap_err(), TokenError::Malformed);
    assert_eq!(find(&policy, "x-token", &[&token, &token]).unwrap_err(), TokenError::Repeated);
    assert_eq!(find(&policy, "authorization", &[&token]).unwrap_err(), TokenError::Missing);
}

// What a token is known by.

#[test]
fn a_token_is_known_by_its_id_or_by_what_is_signed() {
    let digest = |token: &str| Token::parse(token.as_bytes()).unwrap().digest();
    let id = |id: &str| with("jti", json!(id));
    assert_eq!(digest(&id("a")), digest_of_id(Some("https://issuer.example"), "a"));
    assert_ne!(digest(&id("a")), digest(&id("b")));
    assert_ne!(digest(&id("a")), digest_of_id(None, "a"));
    assert_ne!(digest_of_id(Some("ab"), "c"), digest_of_id(Some("a"), "bc"));
    assert_ne!(digest_of_id(Some(""), "a"), digest_of_id(None, "a"));

    // Two signatures of one content that both hold.
    let tokens = tokens();
    let of = |what: &str| {
        let mut cases = tokens["tokens"].as_array().unwrap().iter();
        let case = cases.find(|case| case["alg"] == "ES256" && case["what"] == what).unwrap();
        Token::parse(case["token"].as_str().unwrap().as_bytes()).unwrap()
    };
    let (other, zero) = (of("with the other s"), of("nothing but zeros"));
    assert_eq!(other.signing_input(), zero.signing_input());
    assert_eq!(other.digest(), zero.digest());
    assert_ne!(digest(&valid()), digest(&with("number", json!(1))));
    let (signing_input, _) = valid().rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_eq!(digest(&valid()), digest(&format!("{signing_input}.AAAA")));
}

#[test]
fn neither_tokens_nor_secrets_print() {
    let token = Token::parse(valid().as_bytes()).unwrap();
    let policy = hs256();
    let texts = [
        format!("{token:?} {:?} {policy:?}", token.claims()),
        format!("{:?}", policy.verify(&token, None)),
        format!("{:?}", policy.keys().unwrap().keys()),
    ];
    for text in texts {
        for secret in ["user-1", "eyJ", "a secret", "issuer.example"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

proptest! {
    /// Whatever is asked of a token, what is signed is what was read.
    #[test]
    fn tokens_that_parse_are_what_was_read(text in "[a-zA-Z0-9_.=-]{0,60}|eyJhbGciOiJIUzI1NiJ9\\.e30\\.[a-zA-Z0-9_=-]{0,8}") {
        if let Ok(token) = Token::parse(text.as_bytes()) {
            let signature = URL_SAFE_NO_PAD.encode(token.signature());
            prop_assert_eq!(format!("{}.{signature}", std::str::from_utf8(token.signing_input()).unwrap()), text);
        }
    }
}

// Helpers.

/// An example of a policy and its keys as `tokens/make.mjs` made them, the public ones as `form` writes them.
fn policy_of(tokens: &Value, form: &str) -> JwtPolicy {
    let mut keys: Vec<Value> = tokens["keys"].as_array().unwrap().clone();
    for key in &mut keys {
        *key = if form == "pem" {
            json!({ "alg": key["alg"], "pem": key["pem"] })
        } else {
            json!({ "jwk": key["jwk"] })
        };
    }
    for algorithm in ["HS256", "HS384", "HS512"] {
        keys.push(json!({ "alg": algorithm, "secret": { "env": "TOKENS" } }));
    }
    compile(&json!({ "algorithms": ["HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA"], "keys": keys }))
}

fn tokens_of_all_algorithms() -> Vec<String> {
    let tokens = tokens();
    let cases = tokens["tokens"].as_array().unwrap().iter();
    let mut algorithms = Vec::new();
    let firsts = cases.filter(|case| {
        let first = case["valid"] == true && !algorithms.contains(&case["alg"]);
        algorithms.extend(first.then(|| case["alg"].clone()));
        first
    });
    let firsts: Vec<String> = firsts.map(|case| case["token"].as_str().unwrap().to_owned()).collect();
    assert_eq!(firsts.len(), 6);
    firsts
}

fn tokens() -> Value {
    serde_json::from_str(include_str!("tokens/tokens.json")).unwrap()
}

fn env(name: &str) -> Option<String> {
    match name {
        "SECRET" => Some(String::from_utf8(SECRET.to_vec()).unwrap()),
        "OTHER" => Some("another secret that has 32 bytes".to_owned()),
        "TOKENS" => tokens()["secret"].as_str().map(str::to_owned),
        _ => None,
    }
}

fn compile(config: &Value) -> JwtPolicy {
    let config: JwtConfig = parse(config.to_string().as_bytes()).unwrap();
    JwtPolicy::compile(&config, "", Some(&Surroundings { variables: &env, in_front: None, fetches: false }))
        .unwrap()
}

fn hs256() -> JwtPolicy {
    compile_with(json!({}))
}

fn compile_with(fields: Value) -> JwtPolicy {
    let key = json!({ "alg": "HS256", "secret": { "env": "SECRET" } });
    let mut config = json!({ "algorithms": ["HS256"], "keys": [key] });
    let Value::Object(fields) = fields else { panic!("{fields}") };
    config.as_object_mut().unwrap().extend(fields);
    compile(&config)
}

fn claims() -> Value {
    json!({
        "iss": "https://issuer.example", "sub": "user-1", "aud": ["api"], "iat": 1_800_000_000, "exp": EXP / 1000,
        "admin": false, "negative": -7, "large": u64::MAX, "fraction": 0.5, "null": null,
    })
}

fn valid() -> String {
    sign(&json!({ "alg": "HS256", "typ": "JWT" }), &claims(), SECRET)
}

fn with(name: &str, value: Value) -> String {
    let mut claims = claims();
    claims[name] = value;
    sign(&json!({ "alg": "HS256" }), &claims, SECRET)
}

fn without(name: &str) -> String {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    sign(&json!({ "alg": "HS256" }), &claims, SECRET)
}

fn sign(header: &Value, claims: &Value, secret: &[u8]) -> String {
    sign_text(&header.to_string(), &claims.to_string(), secret)
}

fn sign_text(header: &str, claims: &str, secret: &[u8]) -> String {
    let signing_input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let mac = Hmac::<Sha256>::new_from_slice(secret).unwrap().chain_update(&signing_input);
    format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// What becomes of a token at `now`, from its bytes to its claims.
fn check(policy: &JwtPolicy, token: &str, now: u64) -> Result<(), TokenError> {
    check_bytes(policy, token.as_bytes(), now)
}

fn check_bytes(policy: &JwtPolicy, token: &[u8], now: u64) -> Result<(), TokenError> {
    let token = Token::parse(token)?;
    match policy.verify(&token, None)? {
        Signature::Holds => policy.check(token.claims(), Timestamp::from_millis(now)),
        Signature::Ask(open) => panic!("tests verify themselves: {open:?}"),
    }
}

#[track_caller]
fn accepted(policy: &JwtPolicy, token: &str) {
    assert_eq!(check(policy, token, NOW), Ok(()), "{token}");
}

#[track_caller]
fn refused(policy: &JwtPolicy, token: &str) -> TokenError {
    refused_bytes(policy, token.as_bytes())
}

#[track_caller]
fn refused_bytes(policy: &JwtPolicy, token: &[u8]) -> TokenError {
    check_bytes(policy, token, NOW).expect_err(&token.escape_ascii().to_string())
}

/// A request with lines of one field.
struct Lines<'a>(&'a str, &'a [&'a str]);

impl Request for Lines<'_> {
    fn method(&self, _: &mut dyn FnMut(&[u8])) {}
    fn target(&self, _: &mut dyn FnMut(&[u8])) {}
    fn authority(&self, _: &mut dyn FnMut(&[u8])) {}
    fn header(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
        if name == self.0 {
            self.1.iter().for_each(|line| read(line.as_bytes()));
        }
    }
    fn peer(&self) -> Option<IpAddr> {
        None
    }
}

fn find(policy: &JwtPolicy, name: &str, lines: &[&str]) -> Result<Token, TokenError> {
    policy.find(&Lines(name, lines))
}

fn base64(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

const NOW: u64 = 1_800_000_100_000;
const EXP: u64 = 1_800_003_600_000;
const SECRET: &[u8] = b"a secret for tests that has 32 bytes or more";
const ASYMMETRIC: [JwtAlgorithm; 3] = [JwtAlgorithm::Rs256, JwtAlgorithm::Es256, JwtAlgorithm::EdDsa];

const RFC_HS256: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const RFC_HS256_KEY: &str =
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
const RFC_RS256: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const RFC_ES256: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const RFC_EDDSA: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
const RFC_JWKS: &str = r#"{"keys": [
    {"kty": "RSA", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ", "e": "AQAB"},
    {"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

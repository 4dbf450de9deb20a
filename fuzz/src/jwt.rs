//! Bytes as a token, as a line of `Authorization`, and as a set of keys.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tollgate_shared::config::{self, JwtAlgorithm};
use tollgate_shared::jwt::{JwtPolicy, KeySet, MAX_TOKEN_BYTES, Signature, Token, TokenError};
use tollgate_shared::policy::Surroundings;
use tollgate_shared::time::Timestamp;

use crate::head::Head;

/// Reads `data` in all three ways.
pub fn run(data: &[u8]) {
    let parsed = Token::parse(data);
    match &parsed {
        Ok(token) => is_what_was_read(token, data),
        Err(error) => {
            assert!(error.code().is_some() && error.challenge().bytes().all(|b| matches!(b, b' '..=b'~')));
        }
    }
    in_a_request(data, parsed.map(|token| token.digest()));
    if let Ok(keys) = KeySet::from_jwks(data, &ALGORITHMS) {
        keys_verify_as_themselves(&keys);
    }
}

fn is_what_was_read(token: &Token, data: &[u8]) {
    assert!(data.len() <= MAX_TOKEN_BYTES);
    let signature = URL_SAFE_NO_PAD.encode(token.signature());
    assert_eq!([token.signing_input(), b".", signature.as_bytes()].concat(), data);
    for part in token.signing_input().split(|b| *b == b'.') {
        assert_eq!(URL_SAFE_NO_PAD.encode(URL_SAFE_NO_PAD.decode(part).expect("it parses")).as_bytes(), part);
    }
    let now = token.claims().issued().unwrap_or(Timestamp::from_millis(1_800_000_000_000));
    let _ = POLICY.check(token.claims(), now);
    match POLICY.verify(token, None) {
        Ok(Signature::Holds) => nothing_else_is_signed(data),
        Ok(Signature::Ask(open)) => panic!("this build verifies itself: {open:?}"),
        Err(TokenError::Algorithm) => assert!(token.algorithm().is_none_or(|own| !ALGORITHMS.contains(&own))),
        Err(TokenError::UnknownKey | TokenError::Signature) => {}
        Err(error) => panic!("{error:?} is none of a signature"),
    }
}

/// A change of one byte, at a place that the token itself chooses.
fn nothing_else_is_signed(data: &[u8]) {
    let chosen = crate::hash(data);
    let mut other = data.to_vec();
    let place = usize::try_from(chosen % data.len() as u64).expect("it is shorter");
    other[place] ^= 1 << (chosen >> 32 & 7);
    if let Ok(token) = Token::parse(&other) {
        assert!(POLICY.verify(&token, None).is_err(), "{} is signed too", other.escape_ascii());
    }
}

/// A field holds the same token, and two of them hold none.
fn in_a_request(data: &[u8], parsed: Result<tollgate_shared::key::Digest, TokenError>) {
    let line = [b"bEARER ", data].concat();
    let head = Head::new("GET", "/", "example.com").with("authorization", &line);
    let found = POLICY.find(&head).map(|token| token.digest());
    if data.trim_ascii() == data {
        assert_eq!(found, parsed);
    }
    let twice = head.with("authorization", &line);
    assert_eq!(POLICY.find(&twice).map(|token| token.digest()), Err(TokenError::Repeated));
}

fn keys_verify_as_themselves(keys: &KeySet) {
    assert!(keys.keys().len() <= config::MAX_JWT_KEYS);
    for key in keys.keys() {
        let public = key.public().expect("secrets are skipped");
        let set = format!("{{\"keys\": [{}]}}", public.jwk());
        let same = KeySet::from_jwks(set.as_bytes(), &ALGORITHMS).expect("it is a set");
        assert_eq!(same.keys().iter().map(|key| key.public()).collect::<Vec<_>>(), [Some(public)]);
        assert_eq!(key.verification(b"a.b", &[0; 64]).holds(), Some(false));
    }
}

/// The keys of the examples in RFC 7515 and RFC 8037, which seeds are signed with.
static POLICY: LazyLock<JwtPolicy> = LazyLock::new(|| {
    let config = config::parse(include_bytes!("jwt.json")).expect("a policy of ours");
    // The secret of an example is bytes; a variable holds text, so the secret here is another.
    let env = |_: &str| Some("a secret for tests that has 32 bytes or more".to_owned());
    JwtPolicy::compile(&config, "", Some(&Surroundings { variables: &env, in_front: None, fetches: false }))
        .expect("a policy of ours")
});

const ALGORITHMS: [JwtAlgorithm; 4] =
    [JwtAlgorithm::Hs256, JwtAlgorithm::Rs256, JwtAlgorithm::Es256, JwtAlgorithm::EdDsa];

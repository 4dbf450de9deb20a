//! JSON Web Tokens: found in a request, parsed, verified, and only then believed.
//!
//! A wrong "allow" is somebody who names himself whatever he likes; a wrong "deny" is a user who has to log in again. So
//! everything that can be read in two ways is refused: two tokens, two members of one name, base64 that is not written in
//! the one way there is, a header that asks for extensions. What the header says decides nothing but which of the policy's
//! keys are tried, as RFC 8725 recommends.
//!
//! ```text
//! policy.find(request) ─▶ Token ─▶ policy.verify(&token) ─▶ Signature::Holds ──────────────┐
//!                                                        ─▶ Signature::Ask(verifications)   │
//!                                                              └─ the host's platform: one ─┤
//!                                                                 of them holds             ▼
//!                                                           policy.check(token.claims(), now) ─▶ believed
//! ```
//!
//! What is not done: encrypted tokens (JWE), algorithms other than those of [`JwtAlgorithm`], the `typ` of a token, and
//! claims that are lists or objects.

#[cfg(feature = "asymmetric")]
mod asymmetric;
mod error;
mod keys;
mod object;
mod public_key;
mod token;
mod verify;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::config::{
    ConfigError, JwksConfig, JwtAlgorithm, JwtConfig, JwtKeyConfig, MAX_AUDIENCES, MAX_JWT_KEYS, TokenSource,
};
use crate::policy::Surroundings;
use crate::request::{Reading, Request, cookie};
use crate::time::{Span, Timestamp};

pub use error::TokenError;
pub use keys::{Key, KeySet, MAX_JWKS_BYTES, MAX_JWKS_WAIT, Signature};
pub use object::Object;
pub use public_key::PublicKey;
pub(crate) use token::Bearer;
pub use token::{Claim, Claims, MAX_TOKEN_BYTES, Token, digest_of_id, digest_of_subject};
pub use verify::{Verification, WebCrypto};

use keys::MAX_CANDIDATES;
use object::Value;

/// What is asked of tokens, compiled.
#[derive(Clone, Debug)]
pub struct JwtPolicy {
    source: TokenSource,
    algorithms: Vec<JwtAlgorithm>,
    /// `None` where tokens are verified in front of the host.
    keys: Option<KeySet>,
    /// Under which name the guard in front of the host puts the claims that it has verified.
    payload: String,
    jwks: Option<Jwks>,
    issuer: Option<String>,
    audience: Option<Vec<String>>,
    leeway_millis: u64,
    max_lifetime: Option<Span>,
}

/// Where more keys are.
#[derive(Clone, Debug)]
pub struct Jwks {
    url: String,
    refresh_millis: u64,
}

impl Jwks {
    /// The URL of a JWK Set.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// After how many milliseconds it is fetched again.
    pub(crate) fn refresh_millis(&self) -> u64 {
        self.refresh_millis
    }
}

impl JwtPolicy {
    /// Compiles what a policy says of tokens. Errors name paths below `at`, which is empty or ends in a dot.
    ///
    /// Without surroundings it is checked as far as that goes, and no token holds. A policy that relies on somebody who does not
    /// stand in front of this kind of host is refused, because nobody would verify.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(
        config: &JwtConfig,
        at: &str,
        surroundings: Option<&Surroundings<'_>>,
    ) -> Result<Self, Vec<ConfigError>> {
        let mut compiler = Compiler { at, errors: Vec::new() };
        let keys = compiler.keys(config, surroundings.map(|surroundings| surroundings.variables));
        compiler.bounds(config);
        let is_missing = |in_front| config.verified_by.is_some() && config.verified_by != in_front;
        if surroundings.is_some_and(|surroundings| is_missing(surroundings.in_front)) {
            let expected = "`keys`: nobody verifies tokens in front of this host";
            compiler.error("verified_by", "another host's guard", expected);
        }
        if let Some(jwks) = &config.jwks
            && surroundings.is_some_and(|surroundings| !surroundings.fetches)
        {
            compiler.error("jwks", format!("`{}`", jwks.url), "`keys`: this host fetches none");
        }
        if !compiler.errors.is_empty() {
            return Err(compiler.errors);
        }
        Ok(Self {
            source: config.from.clone(),
            algorithms: config.algorithms.clone(),
            keys: (config.verified_by.is_none() || surroundings.is_none()).then_some(keys),
            payload: config.payload_in_metadata.clone().unwrap_or_else(|| String::from(USUAL_PAYLOAD)),
            jwks: config.jwks.as_ref().map(|jwks| Jwks {
                url: jwks.url.clone(),
                refresh_millis: jwks.refresh.map_or(USUAL_REFRESH_MILLIS, Span::as_millis),
            }),
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            leeway_millis: config.leeway.map_or(0, Span::as_millis),
            max_lifetime: config.max_lifetime,
        })
    }

    /// Whether tokens are verified in front of the host: then no text is believed, only what that guard says.
    pub(crate) fn is_verified_in_front(&self) -> bool {
        self.keys.is_none()
    }

    /// The claims that have been verified in front of the host.
    ///
    /// # Errors
    /// There are none, or they are not what claims are.
    pub(crate) fn verified_claims(&self, request: &dyn Request) -> Result<Claims, TokenError> {
        let mut found = Err(TokenError::Missing);
        request.verified_claims(&self.payload, &mut |json| found = Claims::parse(json));
        found
    }

    /// Finds and parses the token of a request.
    ///
    /// # Errors
    /// There is none, there is more than one, or it is malformed. `Authorization` with another scheme than `Bearer` has none.
    pub fn find(&self, request: &dyn Request) -> Result<Token, TokenError> {
        self.find_text(request).and_then(|text| Token::parse(&text))
    }

    /// Finds the token of a request, as it stands there.
    ///
    /// # Errors
    /// There is none, or there is more than one.
    pub(crate) fn find_text(&self, request: &dyn Request) -> Result<Vec<u8>, TokenError> {
        let mut found = Err(TokenError::Missing);
        let mut lines = 0_u32;
        let mut read = |text: Result<&[u8], TokenError>| {
            lines = lines.saturating_add(1);
            found = if lines > 1 { Err(TokenError::Repeated) } else { text.map(<[u8]>::to_vec) };
        };
        match &self.source {
            TokenSource::Bearer => request.header("authorization", &mut |line| read(bearer(line))),
            TokenSource::Cookie(name) => cookie(request, name, &mut |reading| {
                read(match &reading {
                    Reading::One(value) => Ok(value),
                    Reading::Several => Err(TokenError::Repeated),
                });
            }),
            TokenSource::Header(name) => {
                request.header(name.as_str(), &mut |line| read(Ok(line.trim_ascii())));
            }
        }
        found
    }

    /// Verifies a token's signature, with the keys of the policy, and if none of them is for it, with those that were fetched.
    ///
    /// # Errors
    /// The algorithm is not one of the policy's, no key is for it, or none of them made the signature.
    pub fn verify<'a>(
        &'a self,
        token: &'a Token,
        fetched: Option<&'a KeySet>,
    ) -> Result<Signature<'a>, TokenError> {
        // Where tokens are verified in front of the host, nobody has verified this text.
        let Some(keys) = &self.keys else { return Err(TokenError::Signature) };
        if !self.accepts(token) {
            return Err(TokenError::Algorithm);
        }
        match (keys.verify(token), fetched) {
            (Err(TokenError::UnknownKey), Some(fetched)) => fetched.verify(token),
            (verified, _) => verified,
        }
    }

    /// Checks what a verified token claims; a time that is reached counts as passed.
    ///
    /// # Errors
    /// The first claim that does not hold: `exp`, `nbf`, `iat`, `max_lifetime`, `iss`, `aud`.
    pub fn check(&self, claims: &Claims, now: Timestamp) -> Result<(), TokenError> {
        let expires = claims.expires().ok_or(TokenError::NoExpiry)?;
        let latest = now.plus(self.leeway_millis);
        if now >= expires.plus(self.leeway_millis) {
            return Err(TokenError::Expired);
        }
        if claims.not_before().is_some_and(|not_before| not_before > latest) {
            return Err(TokenError::NotYetValid);
        }
        if claims.issued().is_some_and(|issued| issued > latest) {
            return Err(TokenError::IssuedInFuture);
        }
        if let Some(max_lifetime) = self.max_lifetime {
            let issued = claims.issued().ok_or(TokenError::NoIssueTime)?;
            if expires > issued.plus(max_lifetime.as_millis()) {
                return Err(TokenError::LivesTooLong);
            }
        }
        self.check_origin(claims)
    }

    /// Checks what a token claims that does not depend on the time: `iss` and `aud`.
    fn check_origin(&self, claims: &Claims) -> Result<(), TokenError> {
        if self.issuer.is_some() && claims.issuer() != self.issuer.as_deref() {
            return Err(TokenError::Issuer);
        }
        if let Some(audience) = &self.audience
            && !audience.iter().any(|own| claims.is_for(own))
        {
            return Err(TokenError::Audience);
        }
        Ok(())
    }

    /// Checks whether a token could be accepted at some time if its signature holds.
    ///
    /// # Errors
    /// Why it never is.
    pub(crate) fn check_possible(&self, token: &Token) -> Result<(), TokenError> {
        if self.is_verified_in_front() {
            // Others are refused where revocations matter.
            token.claims().id().ok_or(TokenError::NoId)?;
        } else if !self.accepts(token) {
            return Err(TokenError::Algorithm);
        }
        self.check_origin(token.claims())
    }

    fn accepts(&self, token: &Token) -> bool {
        token.algorithm().is_some_and(|algorithm| self.algorithms.contains(&algorithm))
    }

    /// Whose tokens are accepted, if the policy says so.
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// By how many milliseconds an issuer's clock may be off.
    pub(crate) fn leeway_millis(&self) -> u64 {
        self.leeway_millis
    }

    /// When a token that claims this can be in use for the last time, leeway included; `None` if it does not say when it expires.
    pub fn last_use(&self, claims: &Claims) -> Option<Timestamp> {
        Some(claims.expires()?.plus(self.leeway_millis))
    }

    /// The only algorithms of tokens: [`KeySet::from_jwks`] is given these.
    pub fn algorithms(&self) -> &[JwtAlgorithm] {
        &self.algorithms
    }

    /// Where more keys are, which the host has to fetch.
    pub fn jwks(&self) -> Option<&Jwks> {
        self.jwks.as_ref()
    }

    /// The keys of the policy; `None` where tokens are verified in front of the host.
    pub fn keys(&self) -> Option<&KeySet> {
        self.keys.as_ref()
    }

    /// How long after its issue a token can be in use at most, the leeways at both ends included; `None` if that is not bounded.
    /// What revokes all that was issued to somebody until now has to be kept for this long.
    pub fn max_age_millis(&self) -> Option<u64> {
        Some(self.max_lifetime?.as_millis().saturating_add(self.leeway_millis.saturating_mul(2)))
    }
}

/// The token of a line of `Authorization` (RFC 6750 §2.1, RFC 9110 §11.1).
fn bearer(line: &[u8]) -> Result<&[u8], TokenError> {
    let line = line.trim_ascii();
    let scheme = line.iter().position(|b| matches!(b, b' ' | b'\t')).unwrap_or(line.len());
    match line.split_at_checked(scheme) {
        Some((scheme, mut rest)) if scheme.eq_ignore_ascii_case(b"bearer") => {
            while let Some(after) = rest.strip_prefix(b" ") {
                rest = after;
            }
            Ok(rest)
        }
        _ => Err(TokenError::Missing),
    }
}

struct Compiler<'a> {
    at: &'a str,
    errors: Vec<ConfigError>,
}

impl Compiler<'_> {
    fn error(&mut self, path: &str, found: impl Into<String>, expected: impl Into<String>) {
        self.errors.push(ConfigError::new(format!("{}jwt.{path}", self.at), found, expected));
    }

    fn bounds(&mut self, config: &JwtConfig) {
        if config.verified_by.is_some() {
            let in_front = "nothing beside `verified_by`: the guard in front of the host decides this";
            if !config.algorithms.is_empty() {
                self.error("algorithms", "an array", in_front);
            }
            if config.from != TokenSource::Bearer {
                self.error("from", "another place than `authorization`", in_front);
            }
        } else {
            if config.algorithms.is_empty() {
                self.error("algorithms", "none", "at least one, such as \"RS256\"");
            }
            if config.payload_in_metadata.is_some() {
                self.error("payload_in_metadata", "a name", "`verified_by` beside it");
            }
        }
        if let Some(name) = &config.payload_in_metadata
            && !(1..=MAX_PAYLOAD_NAME).contains(&name.len())
        {
            self.error("payload_in_metadata", format!("`{name}`"), "1 to 255 bytes");
        }
        if config.keys.len() > MAX_JWT_KEYS {
            self.error("keys", format!("{} keys", config.keys.len()), "at most 64");
        }
        match (config.keys.is_empty() && config.jwks.is_none(), config.verified_by) {
            (true, None) => self.error("keys", "none", "at least one, or `jwks`, or `verified_by`"),
            (false, Some(_)) => {
                self.error("verified_by", "keys beside it", "one of the two: who verifies needs the keys");
            }
            _ => {}
        }
        if let Some(JwksConfig { url, refresh }) = &config.jwks {
            let is_plain = url.bytes().all(|byte| byte.is_ascii_graphic()) && !url.contains(['@', '#', '\\']);
            let host = ["https://", "http://"].into_iter().find_map(|scheme| url.strip_prefix(scheme));
            if !is_plain || host.is_none_or(|host| host.is_empty() || host.starts_with('/')) {
                let expected =
                    "a URL such as \"https://id.example.com/.well-known/jwks.json\", without credentials";
                let found = if url.contains('@') {
                    "a URL with credentials (not shown)".into()
                } else {
                    format!("`{url}`")
                };
                self.error("jwks.url", found, expected);
            }
            if let Some(refresh) = refresh.filter(|span| !REFRESH_MILLIS.contains(&span.as_millis())) {
                self.error("jwks.refresh", format!("`{refresh}`"), "1m to 1d");
            }
            if config.algorithms.iter().all(|algorithm| algorithm.secret_bytes().is_some()) {
                self.error(
                    "jwks",
                    "only algorithms with secrets",
                    "one with public keys among `algorithms`, such as \"RS256\"",
                );
            }
        }
        if let Some(audience) = &config.audience
            && !(1..=MAX_AUDIENCES).contains(&audience.len())
        {
            let expected = "1 to 16 audiences; leave it out to accept tokens for anybody";
            self.error("audience", format!("{} audiences", audience.len()), expected);
        }
        if let Some(leeway) = config.leeway.filter(|leeway| leeway.as_millis() > MAX_LEEWAY_MILLIS) {
            self.error("leeway", format!("`{leeway}`"), "at most 5m");
        }
        if let Some(life) = config.max_lifetime.filter(|life| life.as_millis() > MAX_LIFETIME_MILLIS) {
            self.error("max_lifetime", format!("`{life}`"), "at most 365d");
        }
    }

    /// The keys of a policy; those of secrets only if there is somewhere to look them up.
    fn keys(&mut self, config: &JwtConfig, env: Option<Lookup<'_>>) -> KeySet {
        let mut keys = KeySet::default();
        let mut nameless = Vec::new();
        let mut names: Vec<(JwtAlgorithm, &str)> = Vec::new();
        for (index, written) in config.keys.iter().enumerate() {
            let path = format!("keys[{index}]");
            let Some((algorithm, name, key)) = self.key(&path, written, env) else { continue };
            if !config.algorithms.contains(&algorithm) {
                let expected = "a key for one of `algorithms`, or its algorithm among them";
                self.error(&path, format!("a key for `{}`", algorithm.as_str()), expected);
            }
            match name {
                None => nameless.push(algorithm),
                Some(name) if names.contains(&(algorithm, name)) => {
                    self.error(&path, format!("the `kid` `{name}` again"), "a `kid` that no earlier key has");
                }
                Some(name) => names.push((algorithm, name)),
            }
            if nameless.iter().filter(|other| **other == algorithm).count() > MAX_CANDIDATES {
                let found = format!("a fifth key for `{}` without `kid`", algorithm.as_str());
                self.error(&path, found, "a `kid`: at most 4 keys are tried for one token");
            }
            if let Some(key) = key {
                keys.push(key);
            }
        }
        keys
    }

    /// One key: its algorithm, its name, and the key itself unless it is a secret that cannot be looked up.
    fn key<'k>(
        &mut self,
        path: &str,
        written: &'k JwtKeyConfig,
        env: Option<Lookup<'_>>,
    ) -> Option<(JwtAlgorithm, Option<&'k str>, Option<Key>)> {
        let id = written.kid.clone();
        match (&written.secret, &written.pem, &written.jwk) {
            (Some(secret), None, None) => {
                let algorithm = self.algorithm(path, written, "\"HS256\", \"HS384\" or \"HS512\"")?;
                let Some(least) = algorithm.secret_bytes() else {
                    let found = format!("a secret for `{}`", algorithm.as_str());
                    self.error(path, found, "a public key as `pem` or `jwk`");
                    return None;
                };
                let path = format!("{path}.secret");
                let key = match env.map(|env| env(&secret.env)) {
                    None => None,
                    Some(None) => {
                        self.error(
                            &path,
                            format!("no variable `{}`", secret.env),
                            "it to be set and given to this host; Envoy gives a filter what `host_env_keys` names",
                        );
                        return None;
                    }
                    Some(Some(value)) => {
                        let key = Key::from_secret(algorithm, id, value.as_bytes());
                        if key.is_none() {
                            let found = format!("{} bytes in `{}`", value.len(), secret.env);
                            let name = algorithm.as_str();
                            let expected = format!("at least {least} bytes for `{name}` (RFC 7518 §3.2)");
                            self.error(&path, found, expected);
                            return None;
                        }
                        key
                    }
                };
                Some((algorithm, written.kid.as_deref(), key))
            }
            (None, Some(pem), None) => {
                let algorithm = self.algorithm(path, written, "\"RS256\", \"ES256\" or \"EdDSA\"")?;
                let key = match PublicKey::from_pem(pem) {
                    Ok(key) if key.algorithm() == algorithm => key,
                    Ok(key) => {
                        let found = format!("`{}`", algorithm.as_str());
                        let expected = format!("`{}`, which the key is for", key.algorithm().as_str());
                        self.error(&format!("{path}.alg"), found, expected);
                        return None;
                    }
                    Err(expected) => {
                        self.error(&format!("{path}.pem"), "another text (not shown)", expected);
                        return None;
                    }
                };
                let key = self.public(&format!("{path}.pem"), id, key)?;
                Some((algorithm, written.kid.as_deref(), Some(key)))
            }
            (None, None, Some(jwk)) => {
                let path = format!("{path}.jwk");
                if written.alg.is_some() || written.kid.is_some() {
                    self.error(&path, "`alg` or `kid` beside it", "them in the JWK itself");
                }
                let Ok(name) = jwk.text("kid") else {
                    self.error(&format!("{path}.kid"), found(jwk, "kid"), "a text");
                    return None;
                };
                let key = match PublicKey::from_jwk(jwk) {
                    Ok(key) => key,
                    Err(fault) => {
                        self.error(
                            &format!("{path}.{}", fault.member),
                            found(jwk, fault.member),
                            fault.expected,
                        );
                        return None;
                    }
                };
                let key = self.public(&path, name.map(String::from), key)?;
                Some((key.algorithm(), name, Some(key)))
            }
            _ => {
                let given = [written.secret.is_some(), written.pem.is_some(), written.jwk.is_some()];
                let given = given.into_iter().filter(|given| *given).count();
                self.error(path, format!("{given} of `secret`, `pem` and `jwk`"), "exactly one of them");
                None
            }
        }
    }

    fn algorithm(&mut self, path: &str, written: &JwtKeyConfig, expected: &str) -> Option<JwtAlgorithm> {
        if written.alg.is_none() {
            self.error(path, "no `alg`", expected);
        }
        written.alg
    }

    fn public(&mut self, path: &str, id: Option<String>, key: PublicKey) -> Option<Key> {
        let key = Key::from_public(id, key);
        if key.is_none() {
            self.error(path, "no point on its curve", "a public key that can verify");
        }
        key
    }
}

/// What stands in a JWK under `name`. A private part is not shown.
fn found(jwk: &Object, name: &str) -> String {
    match jwk.get(name) {
        None => format!("no `{name}`"),
        Some(_) if name == "d" => String::from("a private key (not shown)"),
        Some(Value::Text(text)) => format!("`{text}`"),
        Some(_) => String::from("something else"),
    }
}

/// Finds the value of a variable of the host.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where Istio has `jwt_authn` put the claims.
const USUAL_PAYLOAD: &str = "payload";
const MAX_PAYLOAD_NAME: usize = 255;
const USUAL_REFRESH_MILLIS: u64 = 5 * 60 * 1000;
const REFRESH_MILLIS: core::ops::RangeInclusive<u64> = 60 * 1000..=24 * 60 * 60 * 1000;
/// So that what revokes all tokens of somebody fits into a span of 366 days, leeways included.
const MAX_LIFETIME_MILLIS: u64 = 365 * 24 * 60 * 60 * 1000;
const MAX_LEEWAY_MILLIS: u64 = 5 * 60 * 1000;

//! The `jwt` section of a policy: where a token is, who may have signed it, what it must claim.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::HeaderName;
use super::names::{is_token, text_type};
use crate::jwt::Object;
use crate::time::Span;

/// JSON Web Tokens: where a request's token is, who may have signed it, and what it must claim.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct JwtConfig {
    /// Where the token is. Not with `verified_by`.
    #[serde(default)]
    pub from: TokenSource,
    /// The only algorithms a token may be signed with, whatever its header says; at least one. Not with `verified_by`.
    #[serde(default)]
    pub algorithms: Vec<JwtAlgorithm>,
    /// Who may have signed a token; at most 64. A token that names a `kid` is tried with the keys of that `kid`, or else with
    /// those that have none; at most 4 keys are tried for one token.
    #[serde(default)]
    pub keys: Vec<JwtKeyConfig>,
    /// Where more keys are, which the host fetches and fetches again: a JWK Set (RFC 7517 §5) of at most 64 KiB and 64 keys.
    #[serde(default)]
    pub jwks: Option<JwksConfig>,
    /// In the place of `keys` and `jwks`: who in front of this host verifies tokens. The claims that it has verified are checked all
    /// the same, and a request without them has no token.
    #[serde(default)]
    pub verified_by: Option<VerifiedBy>,
    /// With `verified_by`: what the provider of Envoy's `jwt_authn` has as `payload_in_metadata`; `payload` if left out, as Istio has it.
    #[serde(default)]
    pub payload_in_metadata: Option<String>,
    /// What `iss` must be, to the letter.
    #[serde(default)]
    pub issuer: Option<String>,
    /// Of which `aud` must name one; at most 16.
    #[serde(default)]
    pub audience: Option<Vec<String>>,
    /// How far the issuer's clock may be off, for `exp`, `nbf` and `iat`: at most 5m, and none if left out.
    #[serde(default)]
    pub leeway: Option<Span>,
    /// How long after `iat` a token may expire. With it, a token must say when it was issued.
    #[serde(default)]
    pub max_lifetime: Option<Span>,
}

/// Where a set of keys is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct JwksConfig {
    /// Its URL, `https://…`; the filter needs an Envoy cluster for it, too.
    pub url: String,
    /// After how long it is fetched again: 1m to 1d, and 5m if left out. A token that names a key which is not in it has it
    /// fetched earlier, at most once in 10 s.
    #[serde(default)]
    pub refresh: Option<Span>,
}

/// A key: exactly one of `secret`, `pem` and `jwk`.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct JwtKeyConfig {
    /// What the key is for; one of `algorithms`. A JWK says so itself.
    #[serde(default)]
    pub alg: Option<JwtAlgorithm>,
    /// The name by which tokens choose this key. A JWK has its own.
    #[serde(default)]
    pub kid: Option<String>,
    /// For HS256, HS384 and HS512: which variable holds the secret, at least as long as the hash (RFC 7518 §3.2).
    #[serde(default)]
    pub secret: Option<SecretConfig>,
    /// For the others: a public key, `-----BEGIN PUBLIC KEY-----`.
    #[serde(default)]
    pub pem: Option<String>,
    /// For the others: a public key as a JWK (RFC 7517).
    #[serde(default)]
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<alloc::collections::BTreeMap<String, serde_json::Value>>")
    )]
    pub jwk: Option<Object>,
}

/// Where a secret is; it is never in a policy itself.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct SecretConfig {
    /// The name of the host's variable (or the Worker's secret) that holds it, as it is, without decoding.
    pub env: String,
}

crate::from_object!(JwtConfig, JwksConfig, JwtKeyConfig);

/// Not by way of `from_object!`, whose error would quote a secret that stands here by mistake.
impl<'de> Deserialize<'de> for SecretConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Secret;
        impl<'de> Visitor<'de> for Secret {
            type Value = SecretConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a variable such as {\"env\": \"JWT_SECRET\"}")
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<SecretConfig, E> {
                Err(E::invalid_type(Unexpected::Other("a text (not shown)"), &self))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SecretConfig, A::Error> {
                SecretConfig::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(Secret)
    }
}

/// The part of a request that carries its token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenSource {
    /// `Authorization: Bearer TOKEN` (RFC 6750 §2.1).
    #[default]
    Bearer,
    /// A cookie.
    Cookie(String),
    /// A header field that holds the token and nothing else.
    Header(HeaderName),
}

impl TokenSource {
    /// Reads `authorization`, `cookie:NAME` or `header:NAME`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.split_once(':') {
            None if text == "authorization" => Self::Bearer,
            Some(("cookie", name)) if is_token(name) => Self::Cookie(name.to_owned()),
            // These have a form of their own, which the raw field would not be read in.
            Some(("header", name)) => HeaderName::parse(name)
                .filter(|name| !matches!(name.as_str(), "authorization" | "cookie"))
                .map(Self::Header)?,
            _ => return None,
        })
    }
}

/// How tokens are signed (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256.
    #[serde(rename = "HS256")]
    Hs256,
    /// HMAC with SHA-384.
    #[serde(rename = "HS384")]
    Hs384,
    /// HMAC with SHA-512.
    #[serde(rename = "HS512")]
    Hs512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl JwtAlgorithm {
    /// Reads the name that tokens and policies have for it.
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Self::Hs256, Self::Hs384, Self::Hs512, Self::Rs256, Self::Es256, Self::EdDsa];
        all.into_iter().find(|algorithm| algorithm.as_str() == text)
    }

    /// As written in a token or a policy.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// Who in front of a host verifies tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum VerifiedBy {
    /// Envoy's `jwt_authn`, in the same filter chain, before this filter; its providers need `payload_in_metadata`.
    Envoy,
}

text_type!(
    TokenSource,
    "TokenSource",
    "\"authorization\" (a bearer token), cookie:NAME or header:NAME (the field holds the token and nothing else)",
    TokenSource::parse
);

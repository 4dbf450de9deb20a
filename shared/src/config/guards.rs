//! What guards a route beside its rate limits, as written.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU32;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::names::text_type;
use super::{FailureMode, KeyPart, Name, RateLimitConfig};
use crate::time::Span;

/// Everything that guards a route; in a policy, that of requests that match no other. What is left out does not.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default, remote = "Self")]
pub struct GuardsConfig {
    /// As on any route.
    pub rate_limits: Vec<RateLimitConfig>,
    /// As on any route.
    pub token: Option<TokenUse>,
    /// As on any route.
    pub revocation: Option<RevocationConfig>,
    /// As on any route.
    pub revokes: Option<RevokesConfig>,
    /// As on any route.
    pub circuit_breaker: Option<CircuitBreakerConfig>,
    /// As on any route.
    pub idempotency: Option<IdempotencyConfig>,
    /// As on any route.
    pub dedup: Option<DedupConfig>,
    /// As on any route.
    pub lock: Option<LockConfig>,
}

/// Whether a request must have a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TokenUse {
    /// It must.
    Required,
    /// It may have none, and then nothing is claimed; one that does not hold is refused.
    Optional,
}

/// Whether revoked tokens are refused.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default, remote = "Self")]
pub struct RevocationConfig {
    /// For how long it may be believed that a token was not revoked: until then, a token that is revoked meanwhile passes where
    /// it passed before. At most 1m; left out, the store is asked each time.
    pub cache: Option<Span>,
    /// What happens when the store cannot be asked. `local` is what this instance knows.
    pub on_store_error: FailureMode,
    /// The status of that refusal: 503, or 401.
    #[cfg_attr(feature = "schema", schemars(range(min = 401, max = 503)))]
    pub unavailable_status: u16,
    /// Decide, count and log, but do not enforce.
    pub shadow: bool,
}

impl Default for RevocationConfig {
    fn default() -> Self {
        Self { cache: None, on_store_error: FailureMode::Deny, unavailable_status: 503, shadow: false }
    }
}

/// What a request revokes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RevokesWhat {
    /// Its token.
    Token,
    /// All tokens of its subject that were issued until now. It needs `jwt.max_lifetime`.
    Subject,
}

/// What a request revokes, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct RevokesObject {
    /// What it revokes.
    pub what: RevokesWhat,
    /// When: once the upstream has answered with 2xx, before the client is told; or before the upstream is asked.
    #[serde(default)]
    pub when: RevokesWhen,
}

/// When a token is revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RevokesWhen {
    /// Once the upstream has answered with 2xx, before the client is told.
    #[default]
    Success,
    /// Before the upstream is asked.
    AtOnce,
}

/// `"token"`, `"subject"`, or an object that says when, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevokesConfig(pub RevokesObject);

impl<'de> Deserialize<'de> for RevokesConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Revokes;
        impl<'de> Visitor<'de> for Revokes {
            type Value = RevokesObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"token\", \"subject\", or an object such as {\"what\": \"token\", \"when\": \"at_once\"}")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RevokesObject, E> {
                let what = match text {
                    "token" => RevokesWhat::Token,
                    "subject" => RevokesWhat::Subject,
                    _ => return Err(E::invalid_value(Unexpected::Str(text), &self)),
                };
                Ok(RevokesObject { what, when: RevokesWhen::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RevokesObject, A::Error> {
                RevokesObject::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(Revokes).map(Self)
    }
}

/// When an upstream is left alone, and for how long. See [`CircuitBreaker`](crate::circuit_breaker::CircuitBreaker).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct CircuitBreakerConfig {
    /// Names the breaker: breakers of one name are one and must be alike. The route's name if left out.
    #[serde(default)]
    pub name: Option<Name>,
    /// How many failures within `within` open it; either this or `ratio`.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    pub failures: Option<NonZeroU32>,
    /// How many of a hundred calls within `within` must fail to open it.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100)))]
    pub ratio: Option<NonZeroU32>,
    /// With `ratio`: how many calls there must be before it opens.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    pub min_volume: Option<NonZeroU32>,
    /// The time within which failures are counted, in eighths.
    pub within: Span,
    /// How many instances must have seen a failure, so that one with a broken network does not open it for all.
    #[serde(default = "one")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 32)))]
    pub reporters: NonZeroU32,
    /// For how long it opens.
    pub open_for: Span,
    /// How many requests are let through then, to see whether the upstream is back; all of them must succeed.
    #[serde(default = "one")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 16)))]
    pub half_open_probes: NonZeroU32,
    /// How long such a request may take before another takes its place: longer than any answer. 1m if left out.
    #[serde(default)]
    pub probe_timeout: Option<Span>,
    /// Which statuses of the upstream, or of the host in its place, are failures.
    #[serde(default)]
    pub failure_statuses: Statuses,
    /// What happens when the store cannot be asked. `local` is what this instance has seen itself.
    #[serde(default)]
    pub on_store_error: FailureMode,
    /// Decide, count and log, but do not enforce.
    #[serde(default)]
    pub shadow: bool,
}

/// Which requests are carried out once, and for how long their answers are replayed
/// (draft-ietf-httpapi-idempotency-key-header).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct IdempotencyConfig {
    /// Routes whose `idempotency` has one name share their keys, and must be alike. The route's name if left out.
    #[serde(default)]
    pub name: Option<Name>,
    /// Whose key it is: keys of different callers are different keys.
    pub key: Vec<KeyPart>,
    /// Whether a request without `Idempotency-Key` is refused with 400; otherwise it is no business of this guard.
    #[serde(default)]
    pub required: bool,
    /// For how long an answer is replayed.
    #[serde(default = "a_day")]
    pub ttl: Span,
    /// After how long a request that gave no answer may be carried out again: longer than any answer takes.
    #[serde(default = "a_minute")]
    pub lease: Span,
    /// Which answers are kept: 200 to 499 if left out. After any other, the request may be carried out again.
    #[serde(default = "below_500")]
    pub statuses: Statuses,
    /// Most bytes of an answer that is kept, header fields included. A larger one is not replayed, but not carried out again either.
    #[serde(default = "kept_bytes")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 262_144)))]
    pub max_response: NonZeroU32,
    /// What happens when the store cannot be asked.
    #[serde(default = "deny")]
    pub on_store_error: FailureMode,
    /// Decide, count and log, but do not enforce.
    #[serde(default)]
    pub shadow: bool,
}

/// Which requests are taken for the same, and what becomes of all but the first.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct DedupConfig {
    /// Routes whose `dedup` has one name know each other's requests, and must be alike. The route's name if left out.
    #[serde(default)]
    pub name: Option<Name>,
    /// What makes two requests the same. A request that lacks one of these, or repeats it, passes untracked.
    pub key: Vec<KeyPart>,
    /// For how long the first one is known.
    pub ttl: Span,
    /// What becomes of the others.
    #[serde(default)]
    pub on_duplicate: OnDuplicate,
    /// What they are answered.
    #[serde(default)]
    pub answer: DuplicateAnswer,
    /// What happens when the store cannot be asked.
    #[serde(default = "allow")]
    pub on_store_error: FailureMode,
    /// Decide, count and log, but do not enforce.
    #[serde(default)]
    pub shadow: bool,
}

/// What becomes of a duplicate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnDuplicate {
    /// It is answered in the place of the upstream.
    #[default]
    Answer,
    /// It is sent on with `X-Tollgate-Duplicate: true`.
    Mark,
}

/// What a duplicate is answered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default, remote = "Self")]
pub struct DuplicateAnswer {
    /// 200 to 599.
    #[cfg_attr(feature = "schema", schemars(range(min = 200, max = 599)))]
    pub status: u16,
    /// JSON.
    pub body: serde_json::Value,
}

impl Default for DuplicateAnswer {
    fn default() -> Self {
        Self { status: 200, body: serde_json::json!({ "tracked": false, "reason": "duplicate" }) }
    }
}

/// Of which requests one at a time is let through, and what becomes of the others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct LockConfig {
    /// Routes whose `lock` has one name exclude each other, and must be alike. The route's name if left out.
    #[serde(default)]
    pub name: Option<Name>,
    /// Of which requests one at a time is let through.
    pub key: Vec<KeyPart>,
    /// After how long the lock is free again even if nobody has released it: longer than any answer takes.
    pub lease: Span,
    /// How long a request waits for the lock at most, from its beginning: 30s or less. It does not wait if this is left out.
    #[serde(default)]
    pub wait: Option<Span>,
    /// The status of the refusal: 409 or 423.
    #[serde(default = "conflict")]
    #[cfg_attr(feature = "schema", schemars(range(min = 409, max = 423)))]
    pub status: u16,
    /// What happens when the store cannot be asked.
    #[serde(default = "deny")]
    pub on_store_error: FailureMode,
    /// Decide, count and log, but do not enforce.
    #[serde(default)]
    pub shadow: bool,
}

crate::from_object!(
    GuardsConfig,
    RevocationConfig,
    RevokesObject,
    CircuitBreakerConfig,
    IdempotencyConfig,
    DedupConfig,
    DuplicateAnswer,
    LockConfig,
    CountObject,
);

/// A set of statuses: `500`, or `"5xx"` for all that begin alike.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Statuses(Vec<StatusPattern>);

impl Statuses {
    /// Whether `status` is one of them.
    pub fn include(&self, status: u16) -> bool {
        self.0.iter().any(|StatusPattern { first, last }| (*first..=*last).contains(&status))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Which answers of the upstream leave what a request consumed consumed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CountConfig {
    /// All of them.
    #[default]
    All,
    /// These; after any other, it is given back.
    Only(Statuses),
}

/// Which statuses count.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, remote = "Self")]
struct CountObject {
    /// 1 to 16 of them.
    statuses: Statuses,
}

impl<'de> Deserialize<'de> for CountConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = CountConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"all\", \"failures\" (4xx and 5xx), or an object such as {\"statuses\": [\"401\", \"403\"]}")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<CountConfig, E> {
                match text {
                    "all" => Ok(CountConfig::All),
                    "failures" => {
                        let failures = StatusPattern { first: 400, last: 599 };
                        Ok(CountConfig::Only(Statuses(Vec::from([failures]))))
                    }
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<CountConfig, A::Error> {
                let object = MapAccessDeserializer::new(map);
                CountObject::deserialize(object).map(|object| CountConfig::Only(object.statuses))
            }
        }
        deserializer.deserialize_any(Count)
    }
}

/// What servers answer when they fail.
impl Default for Statuses {
    fn default() -> Self {
        Self(Vec::from([StatusPattern { first: 500, last: 599 }]))
    }
}

/// One status, or a class of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusPattern {
    first: u16,
    last: u16,
}

impl StatusPattern {
    /// Reads `503` or `5xx`.
    pub fn parse(text: &str) -> Option<Self> {
        let first = match text.strip_suffix("xx") {
            Some(class) => class.parse::<u16>().ok().filter(|class| (1..=5).contains(class))? * 100,
            None => text.parse().ok().filter(|status| (100..=599).contains(status))?,
        };
        // `+5xx` and `0503` are no statuses.
        let read = Self { first, last: if text.ends_with("xx") { first + 99 } else { first } };
        (read.to_string() == text).then_some(read)
    }
}

impl fmt::Display for StatusPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}xx", self.first / 100)
        }
    }
}

text_type!(
    StatusPattern,
    "StatusPattern",
    "a status such as \"503\", or a class of them such as \"5xx\"",
    StatusPattern::parse
);

#[cfg(feature = "schema")]
impl schemars::JsonSchema for RevokesConfig {
    fn schema_name() -> alloc::borrow::Cow<'static, str> {
        "Revokes".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let object = generator.subschema_for::<RevokesObject>();
        let what = generator.subschema_for::<RevokesWhat>();
        schemars::json_schema!({ "description": "What a request revokes.", "anyOf": [what, object] })
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for CountConfig {
    fn schema_name() -> alloc::borrow::Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let object = generator.subschema_for::<CountObject>();
        schemars::json_schema!({
            "description": "Which answers of the upstream leave what a request consumed consumed.",
            "anyOf": [{ "type": "string", "enum": ["all", "failures"] }, object]
        })
    }
}

const fn one() -> NonZeroU32 {
    NonZeroU32::MIN
}

const fn allow() -> FailureMode {
    FailureMode::Allow
}

const fn deny() -> FailureMode {
    FailureMode::Deny
}

/// What a server says when it has failed may be different the next time.
fn below_500() -> Statuses {
    Statuses(Vec::from([StatusPattern { first: 200, last: 499 }]))
}

const fn a_day() -> Span {
    DAY
}

const fn a_minute() -> Span {
    MINUTE
}

const fn kept_bytes() -> NonZeroU32 {
    const { NonZeroU32::MIN.saturating_add(64 * 1024 - 1) }
}

const fn conflict() -> u16 {
    409
}

const DAY: Span = Span::from_millis(24 * 60 * 60 * 1000).unwrap();
const MINUTE: Span = Span::from_millis(60 * 1000).unwrap();

//! The policy as written: JSON types that cannot hold nonsense, and errors that name the field.
//!
//! | bound | value |
//! | --- | --- |
//! | policy | 1 MiB of JSON, 1,000 routes, 4,096 limits |
//! | route | 16 limits, 16 methods, 16 hosts, 16 header conditions |
//! | path pattern | 512 bytes, 32 segments |
//! | name of a route or limit | 64 of `A-Z a-z 0-9 . _ -` |
//! | key | 8 parts; a header, cookie or query name 64 bytes; a constant 256 bytes |
//! | quota, burst, cost | 1 to 1,000,000,000; see [`Quota`](crate::rate_limit::Quota) for the bounds of each algorithm |
//! | spans | 1 ms to 366 days |
//! | guards | 4,096 over all routes; the bounds of a circuit breaker are [`CircuitBreaker`](crate::circuit_breaker::CircuitBreaker)'s |
//! | the answer to a duplicate | 4 KiB |

mod error;
mod guards;
mod jwt;
mod matching;
mod names;
#[cfg(feature = "schema")]
mod schema;
pub mod store;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::num::{NonZeroU8, NonZeroU16, NonZeroU64};

use serde::Deserialize;

use crate::path::{EscapedSlashes, PathCase, PathRules};
use crate::rate_limit::Algorithm;
use crate::time::Span;

pub use error::{ConfigError, parse};
pub use guards::{
    CircuitBreakerConfig, CountConfig, DedupConfig, DuplicateAnswer, GuardsConfig, IdempotencyConfig,
    LockConfig, OnDuplicate, RevocationConfig, RevokesConfig, RevokesObject, RevokesWhat, RevokesWhen,
    StatusPattern, Statuses, TokenUse,
};
pub use jwt::{JwksConfig, JwtAlgorithm, JwtConfig, JwtKeyConfig, SecretConfig, TokenSource, VerifiedBy};
pub use matching::{HeaderCondition, HostPattern, Method, PathPattern, PatternSegment};
pub(crate) use names::Text;
pub use names::{HeaderName, KeyPart, Name};
#[cfg(feature = "schema")]
pub use schema::schema;

/// Most bytes of JSON that are read as a policy.
pub const MAX_POLICY_BYTES: usize = 1 << 20;
/// Most routes of a policy.
pub const MAX_ROUTES: usize = 1000;
/// Most limits of a policy, over all routes.
pub const MAX_LIMITS: usize = 4096;
/// Most guards of a policy beside its limits, over all routes.
pub const MAX_GUARDS: usize = 4096;
/// Most bytes of the answer to a duplicate.
pub const MAX_DUPLICATE_ANSWER: usize = 4096;
/// Most limits, methods, hosts and header conditions of one route.
pub const MAX_PER_ROUTE: usize = 16;
/// Most parts of one key.
pub const MAX_KEY_PARTS: usize = 8;
/// Most keys that verify tokens, in a policy or in a set that is fetched.
pub const MAX_JWT_KEYS: usize = 64;
/// Most audiences of which a token must name one.
pub const MAX_AUDIENCES: usize = 16;
/// The largest quota, burst and cost.
pub const MAX_QUOTA: u64 = 1_000_000_000;

/// A policy file.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct PolicyConfig {
    /// Where editors find this schema; ignored.
    #[serde(rename = "$schema", default)]
    pub schema: Option<String>,
    /// Where a client's address comes from.
    #[serde(default)]
    pub client_ip: ClientIpConfig,
    /// Whether paths are compared with regard to case.
    #[serde(default)]
    pub path_case: PathCase,
    /// What `%2F` in a path is.
    #[serde(default)]
    pub escaped_slashes: EscapedSlashes,
    /// Which header fields answers carry.
    #[serde(default)]
    pub headers: HeadersConfig,
    /// Decide, count and log everything, enforce nothing.
    #[serde(default)]
    pub shadow: bool,
    /// Where a request's token is, who may have signed it, and what it must claim.
    #[serde(default)]
    pub jwt: Option<JwtConfig>,
    /// Tried in this order; the first that matches a request is its route.
    #[serde(default)]
    pub routes: Vec<RouteConfig>,
    /// The route of requests that match none of `routes`; without it they pass.
    #[serde(default)]
    pub default: Option<GuardsConfig>,
}

/// Where a client's address comes from.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default, remote = "Self")]
pub struct ClientIpConfig {
    /// `"connection"`, or the name of a header field that lists addresses, such as `"x-forwarded-for"`.
    pub from: ClientIpSource,
    /// How many trusted proxies appended an entry to the header field; the client is that many entries from the right.
    pub trusted_hops: NonZeroU16,
    /// How many bits of an IPv6 address tell clients apart: 1 to 128.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 128)))]
    pub ipv6_prefix: NonZeroU8,
}

impl Default for ClientIpConfig {
    fn default() -> Self {
        Self {
            from: ClientIpSource::Connection,
            trusted_hops: NonZeroU16::MIN,
            ipv6_prefix: const { NonZeroU8::MIN.saturating_add(63) },
        }
    }
}

impl PolicyConfig {
    /// How paths are compared.
    pub fn path_rules(&self) -> PathRules {
        PathRules { case: self.path_case, escaped_slashes: self.escaped_slashes }
    }
}

/// The part of a request that names the client's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientIpSource {
    /// The other end of the connection.
    Connection,
    /// A header field with one or several addresses.
    Header(HeaderName),
}

/// Which header fields answers carry.
#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default, remote = "Self")]
pub struct HeadersConfig {
    /// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10), one item for each limit.
    pub ietf: Sent,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset` (Unix seconds), of the tightest limit.
    pub x_ratelimit: Sent,
}

impl Default for HeadersConfig {
    fn default() -> Self {
        Self { ietf: Sent::Always, x_ratelimit: Sent::Refusals }
    }
}

/// On which answers header fields are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// On every answer of a limited route.
    Always,
    /// On the answers of refused requests.
    Refusals,
    /// On none.
    Never,
}

impl Sent {
    /// Reads `always`, `refusals` or `never`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "always" => Self::Always,
            "refusals" => Self::Refusals,
            "never" => Self::Never,
            _ => return None,
        })
    }

    /// Whether the answer of a request that was refused, or was not, carries the fields.
    pub const fn includes(self, refused: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Refusals => refused,
            Self::Never => false,
        }
    }
}

/// A route: which requests it is for and what guards them.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct RouteConfig {
    /// Unique within the policy.
    pub name: Name,
    /// Which requests take this route; every condition given must hold.
    #[serde(rename = "match", default)]
    pub matches: MatchConfig,
    /// All of them hold at once; none means that the route is not limited.
    #[serde(default)]
    pub rate_limits: Vec<RateLimitConfig>,
    /// Whether a request must have a token that holds, as `jwt` of the policy says. Left out, it must where something of the
    /// route asks for one: `revocation`, `revokes`, or a key with `claim:NAME`.
    #[serde(default)]
    pub token: Option<TokenUse>,
    /// Refuses tokens that were revoked.
    #[serde(default)]
    pub revocation: Option<RevocationConfig>,
    /// Revokes the token of the request, or all of its subject's: a logout.
    #[serde(default)]
    pub revokes: Option<RevokesConfig>,
    /// Leaves the upstream alone while it fails.
    #[serde(default)]
    pub circuit_breaker: Option<CircuitBreakerConfig>,
    /// Carries out a request once, however often it is sent, and replays its answer.
    #[serde(default)]
    pub idempotency: Option<IdempotencyConfig>,
    /// Lets the first of equal requests through.
    #[serde(default)]
    pub dedup: Option<DedupConfig>,
    /// Lets one request at a time through.
    #[serde(default)]
    pub lock: Option<LockConfig>,
}

/// Conditions on a request; what is left out holds for every request.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default, remote = "Self")]
pub struct MatchConfig {
    /// Methods, in capitals; requests are compared in whatever case, and `GET` includes `HEAD`.
    pub methods: Vec<Method>,
    /// `/exact`, `/prefix/*` (the prefix itself and all below it), `*` for one segment elsewhere.
    pub path: Option<PathPattern>,
    /// `api.example.com`, or `*.example.com` for every name below it; without port.
    pub hosts: Vec<HostPattern>,
    /// By field name: a text the value must equal, `true` (present) or `false` (absent).
    #[serde(deserialize_with = "matching::header_conditions")]
    pub headers: BTreeMap<HeaderName, HeaderCondition>,
}

/// A rate limit.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct RateLimitConfig {
    /// Names the counter: limits of one name are one counter and must be alike.
    pub name: Name,
    /// How requests are counted.
    pub algorithm: Algorithm,
    /// How much may pass within `window`.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000_000)))]
    pub quota: NonZeroU64,
    /// The time that `quota` is for.
    pub window: Span,
    /// `gcra` only: how much may pass at one instant; the quota if left out.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000_000)))]
    pub burst: Option<NonZeroU64>,
    /// Whose requests are counted together.
    pub key: Vec<KeyPart>,
    /// What one request consumes.
    #[serde(default)]
    pub cost: CostConfig,
    /// After which answers it stays consumed. Meanwhile it is, so that no more than the quota are under way at once.
    #[serde(default)]
    pub count: CountConfig,
    /// Limits of one request that share a tag are all-or-nothing; without a tag, those with equal `key` are.
    /// All counters of a tag live in one slot of a Redis Cluster.
    #[serde(default)]
    pub tag: Option<Name>,
    /// What happens when the store cannot be asked.
    #[serde(default)]
    pub on_store_error: FailureMode,
    /// Decide, count and log, but do not enforce.
    #[serde(default)]
    pub shadow: bool,
}

/// What one request consumes of a quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CostConfig {
    /// The same for every request.
    Fixed(NonZeroU64),
    /// What a header field says, set by a trusted proxy in front.
    Header(HeaderCost),
}

/// A cost that a header field names, as decimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct HeaderCost {
    /// The field. Remove it from requests at the edge: who can set it chooses the price.
    pub header: HeaderName,
    /// The cost when the field is absent, repeated or not a number.
    #[serde(default = "one")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000_000)))]
    pub default: NonZeroU64,
    /// The most a request may cost; a larger number counts as this. At most the quota (or burst).
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000_000)))]
    pub max: NonZeroU64,
}

impl RouteConfig {
    /// Its name and conditions, and what guards it.
    pub(crate) fn into_parts(self) -> (Name, MatchConfig, GuardsConfig) {
        let Self {
            name,
            matches,
            rate_limits,
            token,
            revocation,
            revokes,
            circuit_breaker,
            idempotency,
            dedup,
            lock,
        } = self;
        (
            name,
            matches,
            GuardsConfig {
                rate_limits,
                token,
                revocation,
                revokes,
                circuit_breaker,
                idempotency,
                dedup,
                lock,
            },
        )
    }
}

crate::from_object!(
    PolicyConfig,
    ClientIpConfig,
    HeadersConfig,
    RouteConfig,
    MatchConfig,
    RateLimitConfig,
    HeaderCost,
);

impl Default for CostConfig {
    fn default() -> Self {
        Self::Fixed(one())
    }
}

/// What happens to a request when the store cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FailureMode {
    /// It passes, uncounted.
    Allow,
    /// It is refused with 503.
    Deny,
    /// It is counted in the memory of this instance, which knows nothing of the others.
    #[default]
    Local,
}

impl FailureMode {
    /// As written in a policy.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Local => "local",
        }
    }
}

const fn one() -> NonZeroU64 {
    NonZeroU64::MIN
}

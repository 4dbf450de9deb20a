//! The guards of a route beside its rate limits, as compiled.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::compiler::Compiler;
use super::{DEFAULT_PREFIX, Route};
use crate::circuit_breaker::{CircuitBreaker, Trip};
use crate::config::{
    self, CircuitBreakerConfig, DedupConfig, FailureMode, GuardsConfig, IdempotencyConfig, KeyPart,
    LockConfig, Name, OnDuplicate, RevocationConfig, RevokesConfig, RevokesWhat, RevokesWhen, Statuses,
    TokenUse,
};
use crate::idempotency::MAX_RESPONSE;
use crate::key::KeyForm;
use crate::time::Span;

/// A guard: what it does, and what happens when it cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    name: Name,
    rule: Rule,
    /// What makes two requests the same; empty where that is not for the policy to say.
    key: Vec<KeyPart>,
    keys: KeyForm,
    enforced: bool,
    on_store_error: FailureMode,
}

/// What a guard does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Asks for a token that holds.
    Token {
        /// A request may have none.
        optional: bool,
    },
    /// Refuses tokens that were revoked.
    Revocation {
        /// For how long it may be believed that one was not.
        cache: Option<Span>,
        /// The status of the refusal when that cannot be told.
        unavailable_status: u16,
    },
    /// Leaves the upstream alone while it fails.
    CircuitBreaker {
        /// When it opens, and how it closes.
        breaker: CircuitBreaker,
        /// What it takes for a failure.
        failures: Statuses,
    },
    /// Carries out a request once, and replays its answer.
    Idempotency {
        /// A request without a key is refused.
        required: bool,
        /// For how long an answer is replayed.
        ttl: Span,
        /// After how long a request without an answer may be carried out again.
        lease: Span,
        /// Which answers are kept.
        statuses: Statuses,
        /// Most bytes of one.
        max_response: usize,
    },
    /// Lets the first of equal requests through.
    Dedup {
        /// For how long the first is known.
        ttl: Span,
        /// What becomes of the others.
        on_duplicate: OnDuplicate,
        /// The status of their answer.
        status: u16,
        /// Its body, JSON.
        body: String,
    },
    /// Lets one request at a time through.
    Lock {
        /// After how long it is free in any case.
        lease: Span,
        /// For how long a request waits for it, if it does.
        wait: Option<Span>,
        /// The status of the refusal.
        status: u16,
    },
    /// Revokes the token of a request.
    Revokes {
        /// The token, or all of its subject's.
        what: RevokesWhat,
        /// When.
        when: RevokesWhen,
    },
}

/// A guard's place in a route.
#[derive(Clone, Copy, Debug)]
pub struct RouteGuard {
    /// Which guard of [`Policy::guards`](super::Policy::guards).
    pub guard: usize,
    /// Which of the route's subjects, where the guard has a key.
    pub subject: usize,
}

impl Guard {
    /// The guard's name: its route's, unless the policy says otherwise.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// What it does.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// What makes two requests the same.
    pub fn key(&self) -> &[KeyPart] {
        &self.key
    }

    /// `false` in shadow mode, of this guard or of the policy.
    pub fn is_enforced(&self) -> bool {
        self.enforced
    }

    /// What happens when the store cannot be asked.
    pub fn on_store_error(&self) -> FailureMode {
        self.on_store_error
    }

    pub(crate) fn keys(&self) -> &KeyForm {
        &self.keys
    }

    /// Whether it goes by the body of requests.
    pub(super) fn reads_body(&self) -> bool {
        matches!(self.rule, Rule::Idempotency { .. })
    }

    pub(super) fn set_key_prefix(&mut self, prefix: &str) {
        self.keys = self.rule.keys(prefix, self.name.as_str());
    }
}

impl Rule {
    /// A word for metrics and logs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Token { .. } => "token",
            Self::Revocation { .. } => "revocation",
            Self::CircuitBreaker { .. } => "circuit_breaker",
            Self::Idempotency { .. } => "idempotency",
            Self::Dedup { .. } => "dedup",
            Self::Lock { .. } => "lock",
            Self::Revokes { .. } => "revokes",
        }
    }

    /// For how long a request has what it was given before it is let through.
    fn claimed(&self) -> Option<Span> {
        match self {
            Self::Idempotency { lease, .. } => Some(*lease),
            Self::Dedup { ttl, .. } => Some(*ttl),
            _ => None,
        }
    }

    fn keys(&self, prefix: &str, name: &str) -> KeyForm {
        match self {
            // A breaker is about its upstream, whose name it has.
            Self::CircuitBreaker { .. } => KeyForm::new(prefix, Some(name), "breaker"),
            Self::Idempotency { .. } | Self::Dedup { .. } | Self::Lock { .. } => {
                KeyForm::new(prefix, None, &format!("{}:{name}", self.kind()))
            }
            // What one route revokes, all refuse.
            Self::Token { .. } | Self::Revocation { .. } | Self::Revokes { .. } => {
                KeyForm::new(prefix, None, "revoked")
            }
        }
    }
}

impl Compiler<'_> {
    /// Adds the guards of a route, in the order in which they are asked.
    pub(super) fn guards(&mut self, path: &str, route: &mut Route, config: GuardsConfig) {
        let GuardsConfig { token, revocation, revokes, circuit_breaker, idempotency, dedup, lock, .. } =
            config;
        let keys = [
            idempotency.as_ref().map(|idempotency| &idempotency.key),
            dedup.as_ref().map(|dedup| &dedup.key),
            lock.as_ref().map(|lock| &lock.key),
        ];
        let keys = keys.into_iter().flatten().chain(&route.subjects);
        let claims = keys.flatten().any(|part| matches!(part.source(), KeyPart::Claim(_)));
        let asks = if claims {
            Some("a key with `claim:`")
        } else if revocation.is_some() {
            Some("`revocation`")
        } else if revokes.is_some() {
            Some("`revokes`")
        } else {
            token.map(|_| "`token`")
        };
        if let Some(asks) = asks {
            if !self.tokens.is_read {
                self.error_in_words(
                    path,
                    asks,
                    "`jwt` in the policy beside it: where a token is, and who may have signed it",
                );
            }
            let rule = Rule::Token { optional: token == Some(TokenUse::Optional) };
            self.guard(path, route, None, rule, Vec::new(), false, FailureMode::Deny);
        }
        if let Some(config) = revocation {
            self.revocation(&format!("{path}.revocation"), route, &config);
        }
        if let Some(config) = circuit_breaker {
            self.circuit_breaker(&format!("{path}.circuit_breaker"), route, config);
        }
        if let Some(config) = idempotency {
            self.idempotency(&format!("{path}.idempotency"), route, config);
        }
        if let Some(config) = dedup {
            self.dedup(&format!("{path}.dedup"), route, config);
        }
        if let Some(config) = lock {
            // Who waits for the lock keeps what it has claimed beside it.
            let claimed =
                route.guards.iter().filter_map(|place| self.guards.get(place.guard)?.rule().claimed());
            if let (Some(wait), Some(shortest)) = (config.wait, claimed.min())
                && wait >= shortest
            {
                let expected = format!(
                    "less than {shortest}, for which `idempotency` or `dedup` beside it holds what waits"
                );
                self.error(&format!("{path}.lock.wait"), wait, expected);
            }
            self.lock(&format!("{path}.lock"), route, config);
        }
        if let Some(RevokesConfig(object)) = revokes {
            if route.guards.iter().any(|place| self.guards.get(place.guard).is_some_and(Guard::reads_body)) {
                let expected = "a route without one of them: a logout that is replayed revokes nothing";
                self.error_in_words(&format!("{path}.revokes"), "`idempotency` beside it", expected);
            }
            if object.what == RevokesWhat::Subject && !self.tokens.live_bounded {
                let expected = "`jwt.max_lifetime` in the policy: how long all that was issued until now has to be remembered";
                self.error_in_words(&format!("{path}.revokes"), "`subject`", expected);
            }
            let rule = Rule::Revokes { what: object.what, when: object.when };
            self.guard(path, route, None, rule, Vec::new(), false, FailureMode::Deny);
        }
    }

    fn revocation(&mut self, path: &str, route: &mut Route, config: &RevocationConfig) {
        let RevocationConfig { cache, on_store_error, unavailable_status, shadow } = *config;
        if !matches!(unavailable_status, 401 | 503) {
            self.error(&format!("{path}.unavailable_status"), unavailable_status, "503 or 401");
        }
        if let Some(cache) = cache.filter(|cache| cache.as_millis() > MAX_REVOCATION_CACHE) {
            self.error(&format!("{path}.cache"), cache, "at most 1m: for so long a revoked token may pass");
        }
        let rule = Rule::Revocation { cache, unavailable_status };
        self.guard(path, route, None, rule, Vec::new(), shadow, on_store_error);
    }

    fn circuit_breaker(&mut self, path: &str, route: &mut Route, config: CircuitBreakerConfig) {
        let trip = match (config.failures, config.ratio, config.min_volume) {
            (Some(failures), None, None) => Trip::Failures(failures.get()),
            (None, Some(percent), Some(volume)) => {
                Trip::Ratio { percent: percent.get(), min_volume: volume.get() }
            }
            (failures, ratio, volume) => {
                let fields = [("failures", failures), ("ratio", ratio), ("min_volume", volume)];
                let found: Vec<_> =
                    fields.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| *name).collect();
                let found = if found.is_empty() { "none of them".to_string() } else { found.join(" and ") };
                self.error_in_words(path, found, "`failures` alone, or `ratio` with `min_volume`");
                return;
            }
        };
        let (reporters, probes) = (config.reporters.get(), config.half_open_probes.get());
        let probe = config.probe_timeout.unwrap_or(PROBE_TIMEOUT);
        let breaker = CircuitBreaker::new(trip, config.within, reporters, config.open_for, probes, probe);
        let breaker = match breaker {
            Ok(breaker) => breaker,
            Err(error) => {
                let (field, found) = match error.field {
                    "failures" => ("failures", config.failures),
                    "ratio" => ("ratio", config.ratio),
                    "min_volume" => ("min_volume", config.min_volume),
                    "reporters" => ("reporters", Some(config.reporters)),
                    _ => ("half_open_probes", Some(config.half_open_probes)),
                };
                let found = found.map_or(0, core::num::NonZeroU32::get);
                self.error(&format!("{path}.{field}"), found, format!("1 to {}", error.at_most));
                return;
            }
        };
        self.bound(&format!("{path}.failure_statuses"), config.failure_statuses.len(), config::MAX_PER_ROUTE);
        let rule = Rule::CircuitBreaker { breaker, failures: config.failure_statuses };
        self.guard(path, route, config.name, rule, Vec::new(), config.shadow, config.on_store_error);
    }

    fn idempotency(&mut self, path: &str, route: &mut Route, config: IdempotencyConfig) {
        let IdempotencyConfig { name, key, required, ttl, lease, statuses, max_response, .. } = config;
        self.bound(&format!("{path}.statuses"), statuses.len(), config::MAX_PER_ROUTE);
        let max_response = usize::try_from(max_response.get()).unwrap_or(usize::MAX);
        if max_response > MAX_RESPONSE {
            self.error(
                &format!("{path}.max_response"),
                max_response,
                format!("at most {MAX_RESPONSE} bytes"),
            );
        }
        let rule = Rule::Idempotency { required, ttl, lease, statuses, max_response };
        self.guard(path, route, name, rule, key, config.shadow, config.on_store_error);
    }

    fn dedup(&mut self, path: &str, route: &mut Route, config: DedupConfig) {
        let DedupConfig { name, key, ttl, on_duplicate, answer, on_store_error, shadow } = config;
        if !(200..=599).contains(&answer.status) || matches!(answer.status, 204 | 205 | 304) {
            let expected = "200 to 599, and one whose answer has a body";
            self.error(&format!("{path}.answer.status"), answer.status, expected);
        }
        let body = answer.body.to_string();
        if body.len() > config::MAX_DUPLICATE_ANSWER {
            let found = format!("{} bytes", body.len());
            self.error_in_words(&format!("{path}.answer.body"), found, "at most 4096 bytes of JSON");
        }
        let rule = Rule::Dedup { ttl, on_duplicate, status: answer.status, body };
        self.guard(path, route, name, rule, key, shadow, on_store_error);
    }

    fn lock(&mut self, path: &str, route: &mut Route, config: LockConfig) {
        let LockConfig { name, key, lease, wait, status, on_store_error, shadow } = config;
        if !matches!(status, 409 | 423) {
            self.error(&format!("{path}.status"), status, "409 or 423");
        }
        if let Some(wait) = wait.filter(|wait| wait.as_millis() > MAX_WAIT) {
            self.error(
                &format!("{path}.wait"),
                wait,
                "at most 30s: for so long a request and its client wait",
            );
        }
        let rule = Rule::Lock { lease, wait, status };
        self.guard(path, route, name, rule, key, shadow, on_store_error);
    }

    #[allow(clippy::too_many_arguments, reason = "each is a part of every guard")]
    fn guard(
        &mut self,
        path: &str,
        route: &mut Route,
        name: Option<Name>,
        rule: Rule,
        key: Vec<KeyPart>,
        shadow: bool,
        on_store_error: FailureMode,
    ) {
        let has_key = matches!(rule, Rule::Idempotency { .. } | Rule::Dedup { .. } | Rule::Lock { .. });
        if has_key && (key.is_empty() || key.len() > config::MAX_KEY_PARTS) {
            let found = format!("{} key parts", key.len());
            self.error_in_words(
                &format!("{path}.key"),
                found,
                "1 to 8; [\"const:all\"] takes all for the same",
            );
        }
        let subject = match (has_key, route.subjects.iter().position(|subject| *subject == key)) {
            (false, _) => 0,
            (true, Some(subject)) => subject,
            (true, None) => {
                route.subjects.push(key.clone());
                route.subjects.len() - 1
            }
        };
        let name = name.unwrap_or_else(|| route.name.clone());
        let keys = rule.keys(DEFAULT_PREFIX, name.as_str());
        let enforced = !(self.policy_shadow || shadow);
        let guard = Guard { name, rule, key, keys, enforced, on_store_error };
        let known = (guard.rule.kind(), guard.name.clone());
        let guard = match self.guards_by_name.get(&known).copied() {
            None => {
                self.guards_by_name.insert(known, self.guards.len());
                self.guards.push(guard);
                self.guards.len() - 1
            }
            Some(other) => {
                if self.guards.get(other) != Some(&guard) {
                    let kind = guard.rule.kind();
                    let expected = format!(
                        "a name of its own, or the very fields of the other `{kind}` of this name: they are one"
                    );
                    self.error(&format!("{path}.name"), guard.name(), expected);
                }
                other
            }
        };
        route.guards.push(RouteGuard { guard, subject });
    }
}

/// How long a probe may take where the policy does not say.
const PROBE_TIMEOUT: Span = Span::from_millis(60_000).unwrap();

/// The longest time that a request waits for a lock, in milliseconds: Cloudflare ends what outlives its client after as long.
const MAX_WAIT: u64 = 30_000;

/// The longest time for which it may be believed that a token was not revoked, in milliseconds.
const MAX_REVOCATION_CACHE: u64 = 60_000;

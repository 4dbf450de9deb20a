//! From a policy as written to one that is compiled: everything that is wrong with it is found in one go.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use super::{DEFAULT_PREFIX, Guard, Limit, Route, RouteGuard, RouteLimit, Rule, limit_label};
use crate::config::{
    self, ConfigError, CostConfig, CountConfig, GuardsConfig, MatchConfig, Name, RateLimitConfig,
};
use crate::key::KeyForm;
use crate::rate_limit::{Algorithm, Quota};

/// What limits of one group share: a tag, or else a subject.
type Group = (Option<Name>, Option<usize>);

#[derive(Default)]
pub(super) struct Compiler<'a> {
    pub(super) at: &'a str,
    pub(super) policy_shadow: bool,
    pub(super) tokens: Tokens,
    pub(super) limits: Vec<Limit>,
    pub(super) limits_by_name: BTreeMap<Name, usize>,
    pub(super) guards: Vec<Guard>,
    /// By kind and name.
    pub(super) guards_by_name: BTreeMap<(&'static str, Name), usize>,
    pub(super) errors: Vec<ConfigError>,
}

/// What the policy says of tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tokens {
    /// Where they are.
    pub(super) is_read: bool,
    /// For how long they live at most.
    pub(super) live_bounded: bool,
}

impl Compiler<'_> {
    pub(super) fn error(&mut self, path: &str, found: impl core::fmt::Display, expected: impl Into<String>) {
        self.error_in_words(path, format!("`{found}`"), expected);
    }

    pub(super) fn error_in_words(
        &mut self,
        path: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.errors.push(ConfigError::new(format!("{}{path}", self.at), found, expected));
    }

    pub(super) fn bound(&mut self, path: &str, found: usize, at_most: usize) {
        if found > at_most {
            self.error_in_words(path, format!("{found} entries"), format!("at most {at_most}"));
        }
    }

    pub(super) fn conditions(&mut self, path: &str, conditions: &MatchConfig) {
        let lengths = [
            ("methods", conditions.methods.len()),
            ("hosts", conditions.hosts.len()),
            ("headers", conditions.headers.len()),
        ];
        for (field, length) in lengths {
            self.bound(&format!("{path}.match.{field}"), length, config::MAX_PER_ROUTE);
        }
    }

    pub(super) fn route(&mut self, path: &str, name: Name, mut config: GuardsConfig) -> Route {
        let configs = core::mem::take(&mut config.rate_limits);
        self.bound(&format!("{path}.rate_limits"), configs.len(), config::MAX_PER_ROUTE);
        let mut route = Route {
            name,
            limits: Vec::new(),
            subjects: Vec::new(),
            groups: Vec::new(),
            groups_without_token: Vec::new(),
            guards: Vec::new(),
            reads_body: false,
            is_guarded: false,
            policy_field: String::new(),
        };
        let mut groups: Vec<(Group, Vec<usize>)> = Vec::new();
        for (index, config) in configs.into_iter().enumerate() {
            let path = format!("{path}.rate_limits[{index}]");
            let subject = match route.subjects.iter().position(|key| *key == config.key) {
                Some(subject) => subject,
                None => {
                    route.subjects.push(config.key.clone());
                    route.subjects.len() - 1
                }
            };
            let group = match &config.tag {
                Some(tag) => (Some(tag.clone()), None),
                None => (None, Some(subject)),
            };
            let Some(limit) = self.limit(&path, config) else { continue };
            if route.limits.iter().any(|other| other.limit == limit) {
                let name = self.limits.get(limit).map(Limit::name).unwrap_or_default();
                self.error(
                    &format!("{path}.name"),
                    String::from(name),
                    "a name that no other limit of this route has",
                );
            }
            match groups.iter_mut().find(|(of, _)| *of == group) {
                Some((_, limits)) => limits.push(route.limits.len()),
                None => groups.push((group, Vec::from([route.limits.len()]))),
            }
            route.limits.push(RouteLimit { limit, subject });
        }
        route.groups = groups.into_iter().map(|(_, limits)| limits).collect();
        self.guards(path, &mut route, config);
        if route.guards.first().is_some_and(|place| self.asks_for_token(place)) {
            let counts_claims = |index: &usize| {
                let limit = route.limits.get(*index).and_then(|place| self.limits.get(place.limit));
                limit.is_some_and(Limit::counts_claims)
            };
            let groups = route
                .groups
                .iter()
                .map(|group| group.iter().copied().filter(|index| !counts_claims(index)).collect::<Vec<_>>());
            route.groups_without_token = groups.filter(|group| !group.is_empty()).collect();
        }
        let refused_by_others =
            route.groups.len() > 1 || route.guards.iter().any(|place| self.screens(place));
        for place in &route.limits {
            if let Some(limit) = self.limits.get_mut(place.limit) {
                limit.refundable |= refused_by_others || limit.config.count != CountConfig::All;
            }
        }
        let limits = route.limits.iter().filter_map(|place| self.limits.get(place.limit));
        route.policy_field = policy_field(limits.filter(|limit| limit.enforced));
        route
    }

    fn asks_for_token(&self, place: &RouteGuard) -> bool {
        matches!(self.guards.get(place.guard).map(Guard::rule), Some(Rule::Token { .. }))
    }

    /// Whether a guard is asked together with the limits, so that it may refuse what these have charged.
    fn screens(&self, place: &RouteGuard) -> bool {
        let rule = self.guards.get(place.guard).map(Guard::rule);
        matches!(rule, Some(Rule::Revocation { .. } | Rule::CircuitBreaker { .. }))
    }

    /// The number of the limit that `config` describes; `None` if it is wrong.
    fn limit(&mut self, path: &str, config: RateLimitConfig) -> Option<usize> {
        let before = self.errors.len();
        if let Some(known) = self.limits_by_name.get(&config.name).copied() {
            if self.limits.get(known).is_some_and(|limit| limit.config == config) {
                return Some(known);
            }
            let expected =
                "a name of its own, or the very fields of the other limit of this name: they are one counter";
            self.error(&format!("{path}.name"), &config.name, expected);
            return None;
        }
        if config.key.is_empty() || config.key.len() > config::MAX_KEY_PARTS {
            let found = format!("{} key parts", config.key.len());
            self.error_in_words(
                &format!("{path}.key"),
                found,
                "1 to 8; [\"const:all\"] counts everybody together",
            );
        }
        if let (Some(burst), false) = (config.burst, config.algorithm == Algorithm::Gcra) {
            self.error(&format!("{path}.burst"), burst, "no burst: only `gcra` has one");
        }
        let burst = config.burst.unwrap_or(config.quota).get();
        let quota = match Quota::new(config.algorithm, config.quota.get(), config.window, burst) {
            Ok(quota) => Some(quota),
            Err(error) => {
                let found = if error.field == "burst" { burst } else { config.quota.get() };
                let (algorithm, window) = (config.algorithm.as_str(), config.window);
                let expected =
                    format!("at most {} for `{algorithm}` with a window of {window}", error.at_most);
                self.error(&format!("{path}.{}", error.field), found, expected);
                None
            }
        };
        let capacity = quota.map_or(u64::MAX, |quota| quota.capacity());
        let never = format!("at most {capacity}, or no request could ever pass");
        match &config.cost {
            CostConfig::Fixed(cost) if cost.get() > capacity => {
                self.error(&format!("{path}.cost"), cost, never);
            }
            CostConfig::Header(cost) if cost.max.get() > capacity => {
                self.error(&format!("{path}.cost.max"), cost.max, never);
            }
            CostConfig::Header(cost) if cost.default > cost.max => {
                self.error(
                    &format!("{path}.cost.default"),
                    cost.default,
                    format!("at most `max`, {}", cost.max),
                );
            }
            _ => {}
        }
        if let CountConfig::Only(statuses) = &config.count {
            self.bound(&format!("{path}.count.statuses"), statuses.len(), config::MAX_PER_ROUTE);
        }
        let quota = quota.filter(|_| self.errors.len() == before)?;
        let enforced = !(self.policy_shadow || config.shadow);
        self.limits_by_name.insert(config.name.clone(), self.limits.len());
        let tag = config.tag.as_ref().map(Name::as_str);
        let keys = KeyForm::new(DEFAULT_PREFIX, tag, &limit_label(&quota, config.name.as_str()));
        self.limits.push(Limit { config, quota, keys, enforced, refundable: false });
        Some(self.limits.len() - 1)
    }
}

/// `"burst";q=100;w=60`, …: draft-ietf-httpapi-ratelimit-headers-10, where a window has whole seconds or is left out.
fn policy_field<'a>(limits: impl Iterator<Item = &'a Limit>) -> String {
    let mut field = String::new();
    for limit in limits {
        let separator = if field.is_empty() { "" } else { ", " };
        // Writing to a String does not fail.
        let _ = write!(field, "{separator}\"{}\";q={}", limit.name(), limit.quota.limit());
        if limit.quota.window().is_multiple_of(1000) {
            let _ = write!(field, ";w={}", limit.quota.window() / 1000);
        }
    }
    field
}

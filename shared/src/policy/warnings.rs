//! What is allowed in a policy and is probably not meant.
//!
//! A warning that is wrong teaches people to ignore the others, so each is about what certainly cannot work
//! as written: a segment that looks like a parameter of another language matches only itself, a route behind
//! one that takes everything of its own is never taken, and a limit whose key a client makes up limits
//! nobody. Hosts do not call this; `tollgate check` does.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::{Limit, Policy, Route};
use crate::config::{HeaderCondition, HostPattern, KeyPart, MatchConfig, PathPattern, PatternSegment};

/// Something in a policy that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    path: String,
    text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.text)
    }
}

impl Policy {
    /// What is probably not meant. `trusted` are parts of keys that a client cannot choose, because a proxy
    /// in front sets them.
    pub fn warnings(&self, trusted: &[KeyPart]) -> Vec<Warning> {
        let mut warnings = Vec::new();
        for (number, route) in self.routes.iter().enumerate() {
            let conditions = self.conditions(number);
            let at = conditions.map_or_else(|| String::from("default"), |_| format!("routes[{number}]"));
            let mut warn = |field: &str, text: String| {
                warnings.push(Warning { path: format!("{at}{field}"), text });
            };
            if let Some(pattern) = conditions.and_then(|conditions| conditions.path.as_ref()) {
                for text in pattern.as_str().split('/').filter_map(odd_segment) {
                    warn(".match.path", text);
                }
            }
            if let Some(earlier) = self.conditions.iter().take(number).position(|earlier| {
                conditions
                    .map_or_else(|| takes_all(earlier), |conditions| self.takes_all_of(earlier, conditions))
            }) {
                let name = self.routes.get(earlier).map(Route::name).unwrap_or_default();
                let advice =
                    if conditions.is_some() { "put the narrower route first" } else { "remove one of them" };
                warn(
                    "",
                    format!(
                        "is never reached: `{name}` in front of it takes every request that it could match; {advice}"
                    ),
                );
            }
            self.made_up_keys(route, conditions, trusted, &mut warn);
        }
        warnings
    }

    /// Whether `earlier` matches every request that `later` does.
    fn takes_all_of(&self, earlier: &MatchConfig, later: &MatchConfig) -> bool {
        let path = match (&earlier.path, &later.path) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(earlier), Some(later)) => {
                let [earlier, later] = [earlier, later].map(|pattern| pattern.with_rules(self.path_rules));
                takes_path(&earlier, &later)
            }
        };
        let method = |method: &[u8]| earlier.methods.iter().any(|own| own.includes(method));
        let methods = earlier.methods.is_empty()
            || (!later.methods.is_empty() && later.methods.iter().all(|own| method(own.as_str().as_bytes())));
        let hosts = earlier.hosts.is_empty()
            || (!later.hosts.is_empty()
                && later.hosts.iter().all(|host| earlier.hosts.iter().any(|own| takes_host(own, host))));
        path && methods
            && hosts
            && earlier.headers.iter().all(|(name, own)| match (own, later.headers.get(name)) {
                (HeaderCondition::Present, Some(HeaderCondition::Equals(_))) => true,
                (own, other) => other == Some(own),
            })
    }

    /// Warns of limits whose every counter a client can leave for a fresh one, where no other limit of the
    /// route holds it.
    fn made_up_keys(
        &self,
        route: &Route,
        conditions: Option<&MatchConfig>,
        trusted: &[KeyPart],
        warn: &mut dyn FnMut(&str, String),
    ) {
        let path_is_free = conditions
            .and_then(|conditions| conditions.path.as_ref())
            .is_none_or(|pattern| pattern.is_prefix() || pattern.segments().contains(&PatternSegment::Any));
        let is_free = |part: &KeyPart| {
            let chosen = match part.source() {
                KeyPart::Header(_) | KeyPart::Cookie(_) | KeyPart::Query(_) | KeyPart::Body(_) => true,
                KeyPart::Path => path_is_free,
                // A claim is one of a token that was verified.
                KeyPart::ClientIp
                | KeyPart::Claim(_)
                | KeyPart::Method
                | KeyPart::Route
                | KeyPart::Lower(_)
                | KeyPart::Const(_) => false,
            };
            chosen && !trusted.contains(part) && !trusted.contains(part.source())
        };
        let limits = || route.limits.iter().filter_map(|place| self.limits.get(place.limit));
        let any_is_enforced = limits().any(Limit::is_enforced);
        let holds =
            |limit: &Limit| !limit.key().iter().any(is_free) && (limit.is_enforced() || !any_is_enforced);
        if limits().any(holds) {
            return;
        }
        for (index, limit) in limits().enumerate() {
            let free: Vec<String> =
                limit.key().iter().filter(|part| is_free(part)).map(|part| format!("`{part}`")).collect();
            if !free.is_empty() {
                let free = free.join(" and ");
                warn(
                    &format!(".rate_limits[{index}]"),
                    format!(
                        "`{}` holds nobody back: a client that makes up {free} gets a new counter with each request; add a \
                         limit by `client_ip` or a `claim:` alone, or check with `--trust` if a proxy in front sets it",
                        limit.name()
                    ),
                );
            }
        }
    }
}

/// What is odd about a segment that matches only itself.
fn odd_segment(segment: &str) -> Option<String> {
    let is_between = |open: char, close: char| segment.starts_with(open) && segment.ends_with(close);
    let is_parameter =
        (segment.starts_with(':') && segment.len() > 1) || is_between('{', '}') || is_between('<', '>');
    let is_expression = segment.contains('[')
        || is_between('(', ')')
        || segment.starts_with('^')
        || [".+", "\\d", "\\w"].iter().any(|text| segment.contains(text));
    (is_parameter || is_expression).then(|| {
        format!("`{segment}` matches only this very text; write `*` for any one segment, or end the path in `/*` for all below")
    })
}

fn takes_all(conditions: &MatchConfig) -> bool {
    let path = conditions.path.as_ref();
    conditions.methods.is_empty()
        && conditions.hosts.is_empty()
        && conditions.headers.is_empty()
        && path.is_none_or(|pattern| pattern.is_prefix() && pattern.segments().is_empty())
}

fn takes_path(earlier: &PathPattern, later: &PathPattern) -> bool {
    let (own, others) = (earlier.segments(), later.segments());
    let fits = if earlier.is_prefix() {
        own.len() <= others.len()
    } else {
        !later.is_prefix() && own.len() == others.len()
    };
    fits && own.iter().zip(others).all(|(own, other)| *own == PatternSegment::Any || own == other)
}

fn takes_host(earlier: &HostPattern, later: &HostPattern) -> bool {
    let is_below =
        |name: &str, parent: &str| name.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    match (earlier, later) {
        (HostPattern::Exact(own), HostPattern::Exact(other)) => own == other,
        (HostPattern::Exact(_), HostPattern::Subdomains(_)) => false,
        (HostPattern::Subdomains(own), HostPattern::Exact(other)) => is_below(other, own),
        (HostPattern::Subdomains(own), HostPattern::Subdomains(other)) => {
            own == other || is_below(other, own)
        }
    }
}

//! What each route of a policy does, in words.

use std::fmt::Write as _;

use tollgate_shared::circuit_breaker::Trip;
use tollgate_shared::config::{
    CostConfig, CountConfig, HeaderCondition, HostPattern, MatchConfig, OnDuplicate, RevokesWhat, RevokesWhen,
};
use tollgate_shared::policy::{Guard, Limit, Policy, Rule};

/// What each route does, in the order in which routes are tried.
pub(super) fn describe(policy: &Policy) -> String {
    let mut text = String::new();
    for (number, route) in policy.routes().iter().enumerate() {
        let takes = policy.conditions(number).map_or_else(|| "everything else".to_owned(), conditions);
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}. {}: {takes}", number + 1, route.name());
        if route.limits().is_empty() && route.guards().is_empty() {
            let _ = writeln!(text, "     not limited");
        }
        for guard in route.guards().iter().filter_map(|place| policy.guards().get(place.guard)) {
            let _ = writeln!(text, "     {}", describe_guard(guard));
        }
        for limit in route.limits().iter().filter_map(|place| policy.limits().get(place.limit)) {
            let _ = writeln!(text, "     {}", describe_limit(limit));
        }
    }
    if !policy.has_default() {
        let _ = writeln!(text, "Requests that match no route pass without a limit.");
    }
    text
}

pub(super) fn conditions(conditions: &MatchConfig) -> String {
    let methods = conditions.methods.iter().map(|method| method.as_str()).collect::<Vec<_>>().join("|");
    let path = conditions.path.as_ref().map_or("any path", |path| path.as_str());
    let mut text = if methods.is_empty() { path.to_owned() } else { format!("{methods} {path}") };
    if !conditions.hosts.is_empty() {
        let hosts = conditions.hosts.iter().map(|host| match host {
            HostPattern::Exact(name) => name.clone(),
            HostPattern::Subdomains(name) => format!("*.{name}"),
        });
        let _ = write!(text, " on {}", hosts.collect::<Vec<_>>().join(" or "));
    }
    for (name, condition) in &conditions.headers {
        let name = name.as_str();
        let _ = match condition {
            HeaderCondition::Equals(value) => write!(text, ", with {name}: {value}"),
            HeaderCondition::Present => write!(text, ", with {name}"),
            HeaderCondition::Absent => write!(text, ", without {name}"),
        };
    }
    text
}

fn describe_limit(limit: &Limit) -> String {
    let key = limit.key().iter().map(ToString::to_string).collect::<Vec<_>>().join(" + ");
    let (name, algorithm) = (limit.name(), limit.quota().algorithm().as_str());
    let mut text = format!("{name}: {} by {key} ({algorithm})", limit.quota());
    let _ = match limit.cost() {
        CostConfig::Fixed(cost) if cost.get() == 1 => Ok(()),
        CostConfig::Fixed(cost) => write!(text, ", each request costs {cost}"),
        CostConfig::Header(cost) => {
            let (header, default, max) = (cost.header.as_str(), cost.default, cost.max);
            write!(text, ", a request costs what `{header}` says, {default} without it, at most {max}")
        }
    };
    if *limit.count() != CountConfig::All {
        text.push_str(", given back after answers that do not count");
    }
    if let Some(tag) = limit.tag() {
        let _ = write!(text, ", all-or-nothing with tag `{tag}`");
    }
    let _ = write!(text, ", without store: {}", limit.on_store_error().as_str());
    if !limit.is_enforced() {
        text.push_str(", in shadow mode: not enforced");
    }
    text
}

fn describe_guard(guard: &Guard) -> String {
    let key = guard.key().iter().map(ToString::to_string).collect::<Vec<_>>().join(" + ");
    let name = guard.name();
    let mut text = match guard.rule() {
        Rule::Token { optional: false } => "token: required".to_owned(),
        Rule::Token { optional: true } => "token: has to hold if there is one".to_owned(),
        Rule::Revocation { cache, .. } => {
            let asked =
                cache.map_or("asked each time".to_owned(), |cache| format!("asked again after {cache}"));
            format!("revocation: refuses tokens that were revoked, {asked}")
        }
        Rule::CircuitBreaker { breaker, .. } => {
            let (within, reporters, open_for) = (breaker.within(), breaker.reporters(), breaker.open_for());
            let trip = match breaker.trip() {
                Trip::Failures(failures) => format!("{failures} failures"),
                Trip::Ratio { percent, min_volume } => {
                    format!("{percent} % failures of at least {min_volume} calls")
                }
            };
            format!(
                "circuit breaker {name}: opens for {open_for} after {trip} in {within}, seen by at least {reporters}"
            )
        }
        Rule::Idempotency { required, ttl, .. } => {
            let required = if *required { "required" } else { "heeded" };
            format!("idempotency {name}: key {required}, by {key}, answers kept for {ttl}")
        }
        Rule::Dedup { ttl, on_duplicate, .. } => {
            let others = if *on_duplicate == OnDuplicate::Mark { "marked" } else { "answered here" };
            format!("dedup {name}: first in {ttl} by {key}, others {others}")
        }
        Rule::Lock { lease, wait, .. } => {
            let others = wait.map_or("refused".to_owned(), |wait| format!("wait for {wait}"));
            format!("lock {name}: one at a time by {key}, for {lease} at most, others {others}")
        }
        Rule::Revokes { what, when } => {
            let what = if *what == RevokesWhat::Token { "its token" } else { "all tokens of its subject" };
            let when = if *when == RevokesWhen::Success { "when it succeeds" } else { "at once" };
            format!("revokes: {what}, {when}")
        }
    };
    if !matches!(guard.rule(), Rule::Token { .. } | Rule::Revokes { .. }) {
        let _ = write!(text, ", without store: {}", guard.on_store_error().as_str());
    }
    if !guard.is_enforced() {
        text.push_str(", in shadow mode: not enforced");
    }
    text
}

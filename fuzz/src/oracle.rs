//! The route of a request, found the plain way: each route in order, each condition for itself; and the
//! routes of what servers make of its path.

use tollgate_shared::config::{HeaderCondition, HostPattern, MatchConfig, PatternSegment};
use tollgate_shared::path::{EscapedSlashes, Path, PathCase, PathRules};
use tollgate_shared::policy::Policy;

use crate::head::Head;
use crate::readings::{MODELS, decode};

/// The number of the route that `head` takes by the normal form of its path.
pub fn route(policy: &Policy, rules: PathRules, head: &Head) -> Option<usize> {
    let path = Path::normalize(&head.target, rules);
    route_of(policy, rules, &path.segments().map(<[u8]>::to_vec).collect::<Vec<_>>(), head)
}

/// The number of the route of a path whose segments are these.
fn route_of(policy: &Policy, rules: PathRules, segments: &[Vec<u8>], head: &Head) -> Option<usize> {
    let routes = policy.routes().len();
    let fits = |route: &usize| {
        policy.conditions(*route).is_some_and(|conditions| holds(conditions, rules, segments, head))
    };
    let default = if policy.has_default() { routes.checked_sub(1) } else { None };
    (0..routes).find(fits).or(default)
}

/// Whether anything of a route may refuse a request.
pub fn is_guarded(policy: &Policy, route: Option<usize>) -> bool {
    let Some(route) = route.and_then(|route| policy.routes().get(route)) else { return false };
    route.limits().iter().any(|place| policy.limits()[place.limit].is_enforced())
        || route.guards().iter().any(|place| policy.guards()[place.guard].is_enforced())
}

/// Holds the route that was `taken` (`None` for a refusal) against what servers make of the path: the guard
/// of every view that serves it was met.
pub fn readings(policy: &Policy, rules: PathRules, head: &Head, taken: Option<Option<usize>>) {
    let normal = route(policy, rules, head);
    let Some(taken) = taken else {
        assert!(
            !Path::normalize(&head.target, rules).has_one_reading(),
            "an ordinary path is refused: {head:?}"
        );
        return;
    };
    if is_guarded(policy, normal) {
        assert_eq!(taken, normal, "{head:?}");
    }
    // Servers get targets in origin form: hosts make it of others.
    let is_origin_form = head.target.first() == Some(&b'/');
    // Where `%2F` is kept, no server may take it for a slash.
    let is_kept = rules.escaped_slashes == EscapedSlashes::Kept
        && head.target.windows(3).any(|three| three.eq_ignore_ascii_case(b"%2f"));
    for (server, read) in MODELS.into_iter().filter(|_| is_origin_form && !is_kept) {
        let Some(mut segments) = read(&head.target) else { continue };
        let fold = |segments: &mut Vec<Vec<u8>>| {
            if rules.case == PathCase::Insensitive {
                segments.iter_mut().for_each(|segment| segment.make_ascii_lowercase());
            }
        };
        fold(&mut segments);
        let served = route_of(policy, rules, &segments, head);
        if is_guarded(policy, served) && served != taken {
            // A name of no use, which is forgiven where the path without it leads to a guard.
            let mut forgiven: Vec<_> =
                segments.iter().map(|name| forgive(name)).filter(|name| !name.is_empty()).collect();
            // Letters may have been encoded.
            fold(&mut forgiven);
            let is_dots = |name: &Vec<u8>| matches!(&name[..], b"." | b"..");
            let forgiven_route = route_of(policy, rules, &forgiven, head);
            assert!(
                is_guarded(policy, taken) && forgiven_route == taken && !forgiven.iter().any(is_dots),
                "{server} serves route {served:?}, the route is {taken:?}: {head:?}"
            );
        }
    }
}

/// A name without parameters and needless encoding.
fn forgive(name: &[u8]) -> Vec<u8> {
    decode(name).split(|b| *b == b';').next().unwrap_or_default().to_vec()
}

fn holds(conditions: &MatchConfig, rules: PathRules, segments: &[Vec<u8>], head: &Head) -> bool {
    let method = |method: &[u8]| conditions.methods.iter().any(|own| own.as_str().as_bytes() == method);
    let sent = head.method.to_ascii_uppercase();
    let method_fits = conditions.methods.is_empty() || method(&sent) || (sent == b"HEAD" && method(b"GET"));
    let path_fits = conditions.path.as_ref().is_none_or(|pattern| {
        let pattern = pattern.with_rules(rules);
        let mut segments = segments.iter();
        let all = pattern.segments().iter().all(|wanted| match (wanted, segments.next()) {
            (PatternSegment::Literal(literal), Some(segment)) => literal == segment,
            (PatternSegment::Any, Some(segment)) => !segment.is_empty(),
            (_, None) => false,
        });
        all && (pattern.is_prefix() || segments.next().is_none())
    });
    let host_fits = conditions.hosts.is_empty() || {
        let host = host(&head.authority);
        conditions.hosts.iter().any(|wanted| match wanted {
            HostPattern::Exact(name) => host == name.as_bytes(),
            HostPattern::Subdomains(name) => {
                host.strip_suffix(name.as_bytes()).is_some_and(|h| h.ends_with(b"."))
            }
        })
    };
    let header_fits = conditions.headers.iter().all(|(name, condition)| {
        let mut lines = head.lines(name.as_str());
        match condition {
            HeaderCondition::Equals(text) => lines.any(|line| line.trim_ascii() == text.as_bytes()),
            HeaderCondition::Present => lines.next().is_some(),
            HeaderCondition::Absent => lines.next().is_none(),
        }
    });
    method_fits && path_fits && host_fits && header_fits
}

/// The host that an authority names, in lower case and without dots at its end, whatever stands behind it.
fn host(authority: &[u8]) -> Vec<u8> {
    if std::str::from_utf8(authority).is_err() {
        return Vec::new();
    }
    let is_address = authority.first() == Some(&b'[');
    let end = match authority.iter().position(|byte| *byte == if is_address { b']' } else { b':' }) {
        Some(bracket) if is_address => bracket + 1,
        found => found.unwrap_or(authority.len()),
    };
    let mut host = authority[..end].to_ascii_lowercase();
    while host.ends_with(b".") {
        host.pop();
    }
    host
}

//! The route of a request, found the plain way: each route in order, each condition for itself.

use tollgate_shared::config::{HeaderCondition, HostPattern, MatchConfig, PatternSegment};
use tollgate_shared::path::{Path, PathCase};
use tollgate_shared::policy::Policy;

use crate::head::Head;

/// The number of the route that `head` takes.
pub fn route(policy: &Policy, case: PathCase, head: &Head) -> Option<usize> {
    let path = Path::normalize(&head.target, case);
    let routes = policy.routes().len();
    let fits = |route: &usize| {
        policy.conditions(*route).is_some_and(|conditions| holds(conditions, case, &path, head))
    };
    let default = if policy.has_default() { routes.checked_sub(1) } else { None };
    (0..routes).find(fits).or(default)
}

fn holds(conditions: &MatchConfig, case: PathCase, path: &Path, head: &Head) -> bool {
    let method = |method: &[u8]| conditions.methods.iter().any(|own| own.as_str().as_bytes() == method);
    let sent = head.method.to_ascii_uppercase();
    let method_fits = conditions.methods.is_empty() || method(&sent) || (sent == b"HEAD" && method(b"GET"));
    let path_fits = conditions.path.as_ref().is_none_or(|pattern| {
        let pattern = pattern.with_case(case);
        let mut segments = path.segments();
        let all = pattern.segments().iter().all(|wanted| match (wanted, segments.next()) {
            (PatternSegment::Literal(literal), Some(segment)) => literal == segment,
            (PatternSegment::Any, Some(_)) => true,
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

/// An authority in lower case, without port and trailing dot.
fn host(authority: &[u8]) -> Vec<u8> {
    if std::str::from_utf8(authority).is_err() {
        return Vec::new();
    }
    let mut host = authority.to_ascii_lowercase();
    if let Some(colon) = host.iter().rposition(|b| *b == b':') {
        let port = host[colon + 1..].iter().all(u8::is_ascii_digit);
        if port && !host[..colon].ends_with(b":") {
            host.truncate(colon);
        }
    }
    if host.ends_with(b".") {
        host.pop();
    }
    host
}

//! Web pages: those that may use a token, and those that may not use a gateway that asks for none.
//!
//! A browser sends requests for any page, and by `GET` it asks nobody before. With a token that
//! does no harm, because pages do not know it. Without one, a wrong "yes" lets every page that a
//! developer looks at write to the Redis behind a gateway on loopback. What tells a page is what no
//! page can change: `Origin`, the fields that begin with `Sec-Fetch-`, and `Host`, which names the
//! page's own host after a name was bound to another address ("DNS rebinding").
//!
//! Conversely a page of another origin may read answers only if they say so. `origins` say for which that is.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};

use super::answer::{Answer, Failure, Kind};
use super::route::Route;
use super::{Role, Shared};
use crate::config::{Host, Origin};

/// What is told to a browser about an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sharing {
    /// The origin whose pages may read it.
    origin: Option<HeaderValue>,
    /// Whether it would be another for another origin.
    varies: bool,
    /// Whether it answers the question which requests pages may send.
    is_preflight: bool,
}

impl Sharing {
    /// Says so in the head of an answer.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        if self.varies {
            headers.insert(header::VARY, HeaderValue::from_static("origin"));
        }
        let Some(origin) = self.origin else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.is_preflight {
            let fixed = [
                (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, PUT"),
                // The star is for all fields but this one.
                (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, *"),
                (header::ACCESS_CONTROL_MAX_AGE, "600"),
            ];
            headers.extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
        } else {
            let exposed = HeaderValue::from_static("upstash-sync-token, x-request-id");
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }
}

impl Shared {
    /// What a browser is told about the answer to this request, if its page may read it.
    pub(super) fn sharing(&self, head: &Parts, role: Role) -> Sharing {
        if role == Role::Admin || !self.has_origins {
            return Sharing::default();
        }
        let is_preflight = is_preflight(head);
        let allowed = |origin: &&HeaderValue| {
            // Without a token it is any that could be meant: so a page can read why it was refused.
            match self.auth.admits(&head.headers, head.uri.query()).filter(|_| !is_preflight) {
                Some(tenant) => {
                    self.tenants.get(tenant).is_some_and(|tenant| is_among(origin, &tenant.origins))
                }
                None => self.tenants.iter().any(|tenant| is_among(origin, &tenant.origins)),
            }
        };
        let origin = head.headers.get(header::ORIGIN).filter(allowed).cloned();
        Sharing { origin, varies: true, is_preflight }
    }

    /// The answer to a browser that asks which requests a page may send, if it may.
    pub(super) fn preflight(&self, head: &Parts, role: Role) -> Option<Answer> {
        let allowed = is_preflight(head) && self.sharing(head, role).origin.is_some();
        allowed.then(|| Answer { content_type: "", ..Answer::json(StatusCode::NO_CONTENT, Vec::new()) })
    }

    /// Why a request is refused that a page may have sent, where no token is needed.
    pub(super) fn page_refusal(&self, head: &Parts, route: Route, role: Role) -> Option<Failure> {
        // Those two tell nothing.
        if matches!(route, Route::Health | Route::Ready) || role == Role::Clients && !self.auth.is_open() {
            return None;
        }
        let origins = self.tenants.first().map_or(&[][..], |tenant| &tenant.origins);
        let host = host(head);
        if is_of_another_page(&head.headers, host, if role == Role::Clients { origins } else { &[] }) {
            let text = "ERR web pages of other origins may not use a gateway without a token: name theirs in `--origins`";
            return Some(Failure::new(Kind::Origin, text));
        }
        if !matches!(route, Route::Details | Route::Metrics) && is_navigation(&head.headers) {
            let text = "ERR a browser may not open this at a gateway without a token: a web page may have sent it here";
            return Some(Failure::new(Kind::Origin, text));
        }
        // Names that operators use for metrics are theirs to choose, and no page changes anything there.
        if role == Role::Clients && self.over_tcp && !host.is_none_or(|host| is_ours(host, &self.hosts)) {
            let text = "ERR this `Host` may be a web page's own: a gateway without a token is asked by address, by `localhost`, \
                 or by a name in `--hosts`";
            return Some(Failure::new(Kind::Origin, text));
        }
        None
    }

    /// Why a page may not use a token.
    pub(super) fn origin_refusal(&self, head: &Parts, tenant: usize) -> Option<Failure> {
        let origins = &self.tenants.get(tenant)?.origins;
        let origin =
            head.headers.get(header::ORIGIN).filter(|_| !origins.is_empty() && !self.auth.is_open())?;
        (!is_among(&origin, origins))
            .then(|| Failure::new(Kind::Origin, "ERR this token is not for web pages of this origin"))
    }
}

fn is_preflight(head: &Parts) -> bool {
    head.method == Method::OPTIONS && head.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn is_among(origin: &&HeaderValue, origins: &[Origin]) -> bool {
    origins.iter().any(|allowed| allowed.as_str().as_bytes() == origin.as_bytes())
}

/// The host and perhaps the port that the request is for.
fn host(head: &Parts) -> Option<&str> {
    match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => {
            head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty())
        }
    }
}

/// Whether a browser sends this for a page of another origin than the gateway's own and these.
fn is_of_another_page(headers: &HeaderMap, host: Option<&str>, origins: &[Origin]) -> bool {
    if let Some(origin) = headers.get(header::ORIGIN) {
        let own = |origin: &str| {
            let name = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            name.is_some() && name == host
        };
        return !is_among(&origin, origins) && !origin.to_str().is_ok_and(own);
    }
    match headers.get(&SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
        Some(b"same-origin" | b"none") => false,
        Some(_) => true,
        // Browsers leave the field out where they do not trust the network, and older ones
        // everywhere.
        None => is_browser(headers),
    }
}

/// Whether a browser opens this: in a window, in a frame, or for a form. Where somebody typed an
/// address or followed a link from a mail, `Sec-Fetch-Site` says `none`, whatever pages the browser
/// was sent on by since.
fn is_navigation(headers: &HeaderMap) -> bool {
    let is = |name: &HeaderName, values: &[&str]| {
        headers.get(name).is_some_and(|found| values.iter().any(|value| value.as_bytes() == found.as_bytes()))
    };
    is(&SEC_FETCH_MODE, &["navigate", "nested-navigate"])
        || is(&SEC_FETCH_DEST, &["document", "iframe", "frame", "fencedframe", "embed", "object"])
}

/// Whether it says that it is one. A page that sends without asking can make its browser say nothing else.
fn is_browser(headers: &HeaderMap) -> bool {
    headers.get(header::USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"Mozilla/"))
}

/// Without the port, and without the brackets of an address.
fn name(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, _)) if !host.ends_with(']') => name,
        _ => host,
    };
    name.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase()
}

/// Whether nobody on the Internet can have this name for a page: an address, a name without a dot, one below a domain that is for
/// networks of one's own, or one that is configured.
fn is_ours(host: &str, hosts: &[Host]) -> bool {
    let name = name(host);
    name.parse::<std::net::IpAddr>().is_ok()
        || !name.contains('.')
        || PRIVATE.iter().any(|domain| name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')))
        || hosts.iter().any(|own| own.as_str() == name)
}

/// Domains that the Internet has none of.
const PRIVATE: [&str; 5] = ["localhost", "local", "internal", "svc", "test"];

static SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
static SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_page_may_have_are_not_ours() {
        let hosts = ["gateway.example".parse().unwrap()];
        for host in [
            "127.0.0.1:8079",
            "[::1]:8079",
            "[::1]",
            "192.168.1.5",
            "localhost:8079",
            "LOCALHOST",
            "a.localhost",
            "gateway",
            "gateway:8079",
            "tollgate.tollgate.svc.cluster.local:8079",
            "tollgate.tollgate.svc",
            "host.docker.internal",
            "x.test",
            "Gateway.Example:8079",
            "gateway.example.",
        ] {
            assert!(is_ours(host, &hosts), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8079",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evillocal.com",
            "x.gateway.example",
            "a.notlocal",
        ] {
            assert!(!is_ours(host, &hosts), "{host}");
        }
    }
}

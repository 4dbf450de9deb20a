//! What a path means, and with which methods.
//!
//! | path | methods | what it is |
//! |---|---|---|
//! | `/` | POST | a command as a JSON array |
//! | `/pipeline` | POST | commands, answered one by one |
//! | `/multi-exec` | POST | commands, all or none |
//! | `/subscribe/<channel>`, `/psubscribe/<pattern>`, `/monitor` | GET, POST | a stream of events |
//! | `/health`, `/ready`, `/health/detailed`, `/metrics` | GET, HEAD | for operators; there are no commands of these names |
//! | `/<command>/<argument>/…` | GET, HEAD, POST, PUT | a command in the path |

use hyper::Method;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A command in the body.
    Command,
    /// A command in the path.
    Path,
    /// Several commands.
    Pipeline,
    /// Several commands as one transaction.
    Transaction,
    /// The messages of a channel.
    Subscribe,
    /// The messages of the channels that match a pattern.
    PSubscribe,
    /// Every command that Redis is given.
    Monitor,
    /// Whether the process serves.
    Health,
    /// Whether every Redis can be used.
    Ready,
    /// What is known of every Redis.
    Details,
    /// Numbers for Prometheus.
    Metrics,
}

impl Route {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Self; 11] = [
        Self::Command,
        Self::Path,
        Self::Pipeline,
        Self::Transaction,
        Self::Subscribe,
        Self::PSubscribe,
        Self::Monitor,
        Self::Health,
        Self::Ready,
        Self::Details,
        Self::Metrics,
    ];

    /// What `path` means.
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/" => return Self::Command,
            "/pipeline" => return Self::Pipeline,
            "/multi-exec" => return Self::Transaction,
            "/health" => return Self::Health,
            "/ready" => return Self::Ready,
            "/health/detailed" => return Self::Details,
            "/metrics" => return Self::Metrics,
            _ => {}
        }
        let first = path.get(1..).and_then(|path| path.split('/').next()).unwrap_or_default();
        let is = |name: &str| first.eq_ignore_ascii_case(name);
        if is("subscribe") {
            Self::Subscribe
        } else if is("psubscribe") {
            Self::PSubscribe
        } else if is("monitor") {
            Self::Monitor
        } else {
            Self::Path
        }
    }

    /// Whether it can be asked for with this method.
    pub(crate) fn takes(self, method: &Method) -> bool {
        match self {
            Self::Command | Self::Pipeline | Self::Transaction => method == Method::POST,
            Self::Path => [Method::GET, Method::POST, Method::PUT, Method::HEAD].contains(method),
            Self::Subscribe | Self::PSubscribe | Self::Monitor => {
                method == Method::POST || method == Method::GET
            }
            Self::Health | Self::Ready | Self::Details | Self::Metrics => {
                method == Method::GET || method == Method::HEAD
            }
        }
    }

    /// The methods that [`takes`](Self::takes) knows, as `Allow` has them.
    pub(crate) fn methods(self) -> &'static str {
        match self {
            Self::Command | Self::Pipeline | Self::Transaction => "POST",
            Self::Path => "GET, HEAD, POST, PUT",
            Self::Subscribe | Self::PSubscribe | Self::Monitor => "GET, POST",
            Self::Health | Self::Ready | Self::Details | Self::Metrics => "GET, HEAD",
        }
    }

    /// Its name in logs and metrics, which has no key in it as the path may.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Path => "path",
            Self::Pipeline => "pipeline",
            Self::Transaction => "multi-exec",
            Self::Subscribe => "subscribe",
            Self::PSubscribe => "psubscribe",
            Self::Monitor => "monitor",
            Self::Health => "health",
            Self::Ready => "ready",
            Self::Details => "details",
            Self::Metrics => "metrics",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_their_routes_and_all_others_are_commands() {
        for (path, route) in [
            ("/", Route::Command),
            ("/pipeline", Route::Pipeline),
            ("/multi-exec", Route::Transaction),
            ("/subscribe/a", Route::Subscribe),
            ("/PSubscribe/a*/b", Route::PSubscribe),
            ("/monitor", Route::Monitor),
            ("/monitor/", Route::Monitor),
            ("/health", Route::Health),
            ("/health/detailed", Route::Details),
            ("/ready", Route::Ready),
            ("/metrics", Route::Metrics),
            ("/get/health", Route::Path),
            ("/health/", Route::Path),
            ("/Health", Route::Path),
            ("/subscribers", Route::Path),
            ("//", Route::Path),
            ("", Route::Path),
            ("*", Route::Path),
            ("é/x", Route::Path),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }

    #[test]
    fn methods_and_numbers_are_those_that_are_told() {
        for (number, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, number);
            for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "PATCH", "X"] {
                let told = route.methods().split(", ").any(|name| name == method);
                assert_eq!(route.takes(&method.parse().unwrap()), told, "{route:?} {method}");
            }
        }
    }
}

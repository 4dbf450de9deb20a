//! What is logged of requests: never a path, a key or an argument, because those are other people's data.

use std::cell::Cell;
use std::time::Duration;

use hyper::Method;
use hyper::header::HeaderValue;
use tokio::time::Instant;

use super::answer::{Answer, Failure};
use super::route::Route;

/// Logs a request that was answered.
pub(super) fn access(id: &HeaderValue, method: &Method, route: Route, answer: &Answer, took: Duration) {
    tracing::info!(
        target: "tollgate_gateway::access",
        id = text(id),
        method = if KNOWN.contains(method) { method.as_str() } else { "other" },
        route = route.name(),
        status = answer.status.as_u16(),
        micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        bytes = answer.pieces.as_ref().map_or(answer.body.len(), |pieces| pieces.came()),
        commands = answer.commands,
        "request"
    );
}

/// Logs requests that failed through no fault of their client, a few of them each second: when Redis is gone, all do.
#[derive(Debug)]
pub(crate) struct Complaints {
    second: Cell<Instant>,
    logged: Cell<u32>,
    left_out: Cell<u64>,
}

impl Complaints {
    pub(super) fn new() -> Self {
        Self { second: Cell::new(Instant::now()), logged: Cell::new(0), left_out: Cell::new(0) }
    }

    /// Notes a failure.
    pub(super) fn failed(&self, route: Route, id: &HeaderValue, failure: &Failure) {
        if !failure.kind.status().is_server_error() {
            return;
        }
        if self.second.get().elapsed() >= Duration::from_secs(1) {
            self.second.set(Instant::now());
            self.logged.set(0);
        }
        if self.logged.get() >= MOST_EACH_SECOND {
            self.left_out.set(self.left_out.get() + 1);
            return;
        }
        self.logged.set(self.logged.get() + 1);
        tracing::warn!(
            id = text(id),
            route = route.name(),
            kind = failure.kind.name(),
            error = %failure.text,
            left_out = self.left_out.replace(0),
            "a request failed"
        );
    }
}

fn text(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or("-")
}

/// Methods that are logged by name: others may be anything.
const KNOWN: [Method; 9] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::HEAD,
    Method::DELETE,
    Method::OPTIONS,
    Method::PATCH,
    Method::CONNECT,
    Method::TRACE,
];

const MOST_EACH_SECOND: u32 = 5;

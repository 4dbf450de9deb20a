//! The control path, there only where a control token is configured: whether the Worker lives, and how its store is.
//!
//! Paths are compared as they are sent, letter by letter, so no other spelling leads here.

use serde_json::json;
use subtle::ConstantTimeEq as _;

use tollgate_shared::answer::{self, Answer};
use tollgate_shared::config::{ConfigError, store};
use tollgate_shared::store::StoreError;

use super::instance::Instance;
use crate::head::RequestHead;
use crate::host;
use crate::store::CallReport;

/// What a request has to have in `Authorization` to be told details.
pub(super) struct ControlToken(String);

impl ControlToken {
    pub(super) fn new(token: &str) -> Result<Self, ConfigError> {
        store::authorization("TOLLGATE_CONTROL_TOKEN", token).map(Self)
    }

    fn admits(&self, head: &RequestHead<'_>) -> bool {
        let sent = head.field("authorization").unwrap_or_default();
        sent.as_bytes().ct_eq(self.0.as_bytes()).into()
    }
}

/// Without the token.
impl std::fmt::Debug for ControlToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ControlToken")
    }
}

/// A request of the control path.
pub(super) enum Control {
    /// This is its answer.
    Given(Answer),
    /// It asks how the store is, which [`details`] tells.
    Details,
}

impl Control {
    /// What a request asks for; `None` for all that have to do with the origin.
    pub(super) fn of(instance: &Instance, head: &RequestHead<'_>) -> Option<Self> {
        let path = head.target().strip_prefix(PREFIX)?;
        let (token, method) = (instance.control.as_ref()?, head.method());
        Some(match path {
            "health/detailed" if READING.contains(&method) && token.admits(head) => Self::Details,
            _ => Self::Given(match path {
                _ if !READING.contains(&method) => {
                    let detail = "Only GET and HEAD are known here.";
                    answer::problem(405, "Method Not Allowed", detail, "METHOD_NOT_ALLOWED")
                }
                "health" => answer::json(200, &json!({ "status": "ok" })),
                "health/detailed" => {
                    let detail = "The control token is missing or wrong.";
                    answer::problem(401, "Unauthorized", detail, "UNAUTHORIZED")
                }
                _ => answer::problem(404, "Not Found", "There is nothing at this path.", "NOT_FOUND"),
            }),
        })
    }
}

/// In the shape of the health checks that Tollgate replaces.
/// `call` is what became of a call to the store, if there is one.
pub(super) fn details(instance: &Instance, call: Option<&CallReport>) -> Answer {
    let failure = call.and_then(|call| call.failure.as_ref());
    let (status, overall) = if failure.is_none() { ("ok", "healthy") } else { ("degraded", "unhealthy") };
    let message = match (call, failure) {
        (_, Some(error)) => error.to_string(),
        (Some(_), None) => "the store answers".to_owned(),
        (None, None) => "no store is configured: limits hold for this isolate alone".to_owned(),
    };
    let check = json!({
        "name": if call.is_some() { "redis" } else { "memory" },
        "status": overall,
        "message": message,
        "details": {
            "latency": call.map(|call| call.took),
            "circuitBreakerOpen": instance.guard.local().store_is_open(),
        },
    });
    let version = env!("CARGO_PKG_VERSION");
    let details = json!({ "status": status, "version": version, "checks": [check], "overall": overall });
    answer::json(if failure.is_none() { 200 } else { 503 }, &details)
}

/// What became of a call that took so many milliseconds, and that the store answered with a status, or did not: then `failure` is the
/// name of the error.
pub(super) fn call(took: f64, status: u16, failure: Option<String>) -> CallReport {
    let failure = match (status, failure) {
        (_, Some(error)) => Some(host::store_error(&error)),
        (200, None) => None,
        (status, None) => Some(StoreError::Status(status)),
    };
    CallReport { operations: 1, took: host::whole(took), failure }
}

const PREFIX: &str = "/.tollgate/";
const READING: [&str; 2] = ["GET", "HEAD"];

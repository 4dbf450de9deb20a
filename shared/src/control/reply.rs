//! Answers of the control path.

use alloc::format;
use alloc::string::{String, ToString as _};

use serde_json::{Value, json};

use super::Verb;
use crate::answer::{self, Answer, Fields, UNAVAILABLE_RETRY, later};
use crate::by_name::{ActionError, Done, Ended};
use crate::circuit_breaker::BreakerState;
use crate::config::ConfigError;
use crate::local::Local;
use crate::redis::script::shortened;
use crate::store::StoreError;
use crate::store::memory::Shards;

pub(super) fn healthy() -> Answer {
    answer::json(200, &json!({ "status": "ok" }))
}

/// How the store is, in the shape of the health checks that Tollgate replaces: how many milliseconds it took to answer, and why it
/// did not; `None` without a store.
pub(super) fn details<S: Shards>(local: &Local<S>, pinged: Option<&(u64, Option<StoreError>)>) -> Answer {
    let failure = pinged.and_then(|(_, failure)| failure.as_ref());
    let (status, overall) = if failure.is_none() { ("ok", "healthy") } else { ("degraded", "unhealthy") };
    let message = match (pinged, failure) {
        (_, Some(error)) => error.to_string(),
        (Some(_), None) => "the store answers".to_string(),
        (None, None) => "no store is configured: what is decided holds for this instance alone".to_string(),
    };
    let check = json!({
        "name": if pinged.is_some() { "redis" } else { "memory" },
        "status": overall,
        "message": message,
        "details": {
            "latency": pinged.map(|(took, _)| took),
            "circuitBreakerOpen": local.store_is_open(),
        },
    });
    let body = json!({
        "status": status,
        "version": env!("CARGO_PKG_VERSION"),
        "checks": [check],
        "overall": overall,
    });
    answer::json(if failure.is_none() { 200 } else { 503 }, &body)
}

/// What came of an action.
pub(super) fn ended(verb: Verb, ended: &Ended) -> Answer {
    let done = match &ended.result {
        Ok(done) => *done,
        Err(error) => return failed(error),
    };
    let ok = |mut body: Value| {
        ended.tell_when_everywhere(&mut body);
        answer::json(200, &body)
    };
    match (verb, done) {
        (_, Done::Counter { limit, remaining, reset_ms }) => {
            ok(json!({ "limit": limit, "remaining": remaining, "resetAfterMs": reset_ms }))
        }
        (_, Done::Reset | Done::Released) => ok(json!({ "status": "ok" })),
        (_, Done::Revoked { for_ms, new_from: None }) => ok(json!({ "status": "ok", "forMs": for_ms })),
        (_, Done::Revoked { for_ms, new_from }) => {
            ok(json!({ "status": "ok", "forMs": for_ms, "newTokensFrom": new_from }))
        }
        (_, Done::Breaker { state, generation }) => {
            let (state, for_ms, free) = match state {
                BreakerState::Closed => ("closed", 0, 0),
                BreakerState::Open { for_ms } => ("open", for_ms, 0),
                BreakerState::HalfOpen { free, for_ms } => ("half_open", for_ms, free),
            };
            ok(json!({ "state": state, "generation": generation, "forMs": for_ms, "freeProbes": free }))
        }
        (Verb::Mark, Done::Acquired { holder, for_ms, .. }) => {
            ok(json!({ "first": true, "holder": holder.to_string(), "forMs": for_ms }))
        }
        (Verb::Mark, Done::Held { for_ms }) => ok(json!({ "first": false, "forMs": for_ms })),
        (_, Done::Acquired { holder, fence, for_ms }) => {
            ok(json!({ "holder": holder.to_string(), "fence": fence, "forMs": for_ms }))
        }
        (_, Done::Held { for_ms }) => {
            let detail = "Another holder has the lock.";
            kept_by_nobody(later(problem_fields(), 409, "Conflict", detail, "LOCKED", for_ms))
        }
        (_, Done::Lost) => {
            let detail = "The lock has ended, or another holder has it.";
            problem(409, "Conflict", detail, "LOCK_LOST")
        }
    }
}

/// The store could not be asked, or nobody knows what it did.
fn failed(error: &StoreError) -> Answer {
    let what = if error.was_asked() { "It is not known whether this was done" } else { "This was not done" };
    let (detail, code) = (format!("{what}: {error}."), "STORE_UNAVAILABLE");
    let millis = UNAVAILABLE_RETRY * 1000;
    kept_by_nobody(later(problem_fields(), 503, "Service Unavailable", &detail, code, millis))
}

pub(super) fn not_found() -> Answer {
    problem(404, "Not Found", "There is nothing at this path.", "NOT_FOUND")
}

pub(super) fn not_allowed(method: &str) -> Answer {
    let allowed = if method == "GET" { "GET, HEAD" } else { method };
    let detail = format!("Only {allowed} is known here.");
    let mut answer = problem(405, "Method Not Allowed", &detail, "METHOD_NOT_ALLOWED");
    answer.headers.add("allow", |value| value.push_str(allowed));
    answer
}

pub(super) fn unauthorized() -> Answer {
    let mut answer = problem(401, "Unauthorized", "The control token is missing or wrong.", "UNAUTHORIZED");
    answer.headers.add("www-authenticate", |value| value.push_str("Bearer realm=\"tollgate control\""));
    answer
}

pub(super) fn too_large() -> Answer {
    problem(413, "Content Too Large", "A body has at most 16384 bytes.", "BODY_TOO_LARGE")
}

pub(super) fn bad_request(error: &ConfigError) -> Answer {
    problem(400, "Bad Request", &format!("The body is wrong: {error}."), "INVALID_BODY")
}

/// What is asked for does not fit the policy.
pub(super) fn unfit(error: &ActionError) -> Answer {
    let detail = |field: &str| format!("The body is wrong: {field}: {error}.");
    match error {
        ActionError::Unknown(_) => problem(404, "Not Found", &detail("name"), "UNKNOWN_NAME"),
        ActionError::Values(_) => problem(400, "Bad Request", &detail("key"), "INVALID_BODY"),
        ActionError::Token(_) => problem(400, "Bad Request", &detail("token"), "INVALID_BODY"),
        ActionError::Issuer => problem(400, "Bad Request", &detail("issuer"), "INVALID_BODY"),
        ActionError::NothingRevocable | ActionError::Unbounded => {
            problem(409, "Conflict", &format!("The policy cannot do this: {error}."), "NOT_IN_POLICY")
        }
    }
}

/// The description of the control path, for this prefix.
pub(super) fn document(prefix: &str) -> Answer {
    let mut answer = answer::json(200, &Value::Null);
    let server = prefix.strip_suffix('/').unwrap_or(prefix);
    answer.body = DOCUMENT.replacen("/.tollgate", server, 1).into();
    answer
}

fn problem(status: u16, title: &str, detail: &str, code: &str) -> Answer {
    kept_by_nobody(answer::problem(status, title, detail, code))
}

fn problem_fields() -> Fields {
    let mut headers = Fields::default();
    headers.add("content-type", |value| value.push_str("application/problem+json"));
    headers
}

fn kept_by_nobody(mut answer: Answer) -> Answer {
    answer.headers.add("cache-control", |value: &mut String| value.push_str("no-store"));
    answer
}

/// Without its indents.
static DOCUMENT: &str = {
    const FILE: &str = include_str!("../../../openapi.json");
    static TEXT: [u8; shortened::<0>(FILE).1] = shortened(FILE).0;
    // What is left of a text is one: whole lines, or their ends.
    match core::str::from_utf8(&TEXT) {
        Ok(text) => text,
        Err(_) => FILE,
    }
};

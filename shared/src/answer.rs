//! What clients see: header fields on every answer of a limited route, and the answer to a refused request.
//!
//! | field | on | source |
//! | --- | --- | --- |
//! | `RateLimit-Policy`, `RateLimit` | every answer | draft-ietf-httpapi-ratelimit-headers-10, list form |
//! | `X-RateLimit-Limit`, `-Remaining`, `-Reset` | every answer, for the tightest limit; the reset is a Unix time in seconds | convention |
//! | `Retry-After` | refusals, in seconds, never before the limit admits | RFC 9110 §10.2.3 |
//! | `X-Tollgate-Degraded` | answers decided without the store | ours |
//!
//! Bodies are `application/problem+json` (RFC 9457) with the problem types of the draft, and an `error` object for clients that
//! look for one. Limits in shadow mode are not shown.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;

use crate::exchange::{Denial, Report, Ruling, Verdict};
use crate::policy::{Limit, Policy};
use crate::rate_limit::Retry;
use crate::time::Timestamp;

/// A header field to set: its name in lower case, its value.
pub type Field = (&'static str, String);

/// The answer to a refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 429, or 503 when the policy refuses because the store cannot be asked.
    pub status: u16,
    /// All header fields.
    pub headers: Vec<Field>,
    /// The body, `application/problem+json`.
    pub body: String,
}

/// The header fields to add to the answer of a request that was let through.
pub fn fields(policy: &Policy, report: &Report, now: Timestamp) -> Vec<Field> {
    let mut fields = Vec::with_capacity(6);
    let shown = || shown(policy, report);
    if policy.headers().ietf {
        let route = report.route.and_then(|route| policy.routes().get(route));
        if let Some(route) = route.filter(|route| !route.policy_field().is_empty()) {
            fields.push(("ratelimit-policy", route.policy_field().to_string()));
        }
        let mut value = String::new();
        for (limit, verdict) in shown() {
            let Some(standing) = verdict.standing else { continue };
            let separator = if value.is_empty() { "" } else { ", " };
            let (name, remaining, reset) = (limit.name(), standing.remaining, standing.reset.div_ceil(1000));
            // Writing to a String does not fail.
            let _ = write!(value, "{separator}\"{name}\";r={remaining};t={reset}");
        }
        if !value.is_empty() {
            fields.push(("ratelimit", value));
        }
    }
    if policy.headers().x_ratelimit
        && let Some((limit, verdict)) =
            shown().filter(|(_, v)| v.standing.is_some()).max_by_key(|(_, v)| tightness(v))
        && let Some(standing) = verdict.standing
    {
        let reset = now.plus(standing.reset).as_millis().div_ceil(1000);
        fields.push(("x-ratelimit-limit", limit.quota().capacity().to_string()));
        fields.push(("x-ratelimit-remaining", standing.remaining.to_string()));
        fields.push(("x-ratelimit-reset", reset.to_string()));
    }
    let mut degraded = report.degraded();
    if let Some(first) = degraded.next() {
        let value = degraded.fold(String::from(first.as_str()), |value, mode| value + ", " + mode.as_str());
        fields.push(("x-tollgate-degraded", value));
    }
    fields
}

/// The answer to a refused request.
pub fn denial(policy: &Policy, denial: &Denial, now: Timestamp) -> Answer {
    let report = denial.report();
    let refused = || shown(policy, report).filter(|(_, verdict)| verdict.ruling == Ruling::Refused);
    let retry = refused().map(|(_, verdict)| retry_millis(verdict)).max();
    let mut headers = Vec::from([("content-type", "application/problem+json".to_string())]);
    headers.extend(fields(policy, report, now));
    match retry {
        Some(retry) => {
            // A request that is never admitted is not told when to come back.
            let seconds = (retry != NEVER).then(|| retry.div_ceil(1000).max(1));
            let names =
                refused().map(|(limit, _)| format!("\"{}\"", limit.name())).collect::<Vec<_>>().join(",");
            let (after, wait) = match seconds {
                Some(seconds) => {
                    headers.push(("retry-after", seconds.to_string()));
                    (format!(",\"retryAfter\":{seconds}"), format!("Try again in {seconds} s."))
                }
                None => (String::new(), "It costs more than the quota ever holds.".to_string()),
            };
            let body = format!(
                "{{\"type\":\"https://iana.org/assignments/http-problem-types#quota-exceeded\",\
                 \"title\":\"Too Many Requests\",\"status\":429,\
                 \"detail\":\"The quota of this request is used up. {wait}\",\
                 \"violated-policies\":[{names}],\
                 \"error\":{{\"code\":\"RATE_LIMIT_EXCEEDED\",\
                 \"message\":\"Rate limit exceeded. {wait}\"{after}}}}}"
            );
            Answer { status: 429, headers, body }
        }
        None => {
            headers.push(("retry-after", "1".to_string()));
            let body = "{\"type\":\"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity\",\
                        \"title\":\"Service Unavailable\",\"status\":503,\
                        \"detail\":\"Whether this request is within its quota cannot be told at the moment.\",\
                        \"error\":{\"code\":\"RATE_LIMIT_UNAVAILABLE\",\
                        \"message\":\"Rate limit unavailable. Try again in 1 s.\",\"retryAfter\":1}}";
            Answer { status: 503, headers, body: body.to_string() }
        }
    }
}

/// The verdicts that clients may know of.
fn shown<'a>(policy: &'a Policy, report: &'a Report) -> impl Iterator<Item = (&'a Limit, &'a Verdict)> {
    let limits =
        report.verdicts.iter().filter_map(|verdict| Some((policy.limits().get(verdict.limit)?, verdict)));
    limits.filter(|(limit, _)| limit.is_enforced())
}

/// Larger is tighter: refused longest first, then the least remaining.
fn tightness(verdict: &Verdict) -> (bool, u64, u64, u64) {
    let refused = verdict.ruling == Ruling::Refused;
    let wait = if refused { retry_millis(verdict) } else { 0 };
    let (remaining, reset) = verdict.standing.map_or((0, 0), |standing| (standing.remaining, standing.reset));
    (refused, wait, u64::MAX - remaining, reset)
}

/// Milliseconds until the limit admits the request; `NEVER` if it never does.
fn retry_millis(verdict: &Verdict) -> u64 {
    match verdict.standing.map(|standing| standing.retry) {
        Some(Retry::After(millis)) => millis,
        Some(Retry::Never) => NEVER,
        Some(Retry::Now) | None => 0,
    }
}

/// Sorts above every time.
const NEVER: u64 = u64::MAX;

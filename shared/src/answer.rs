//! What clients see: header fields on every answer of a limited route, and the answer to a refused request.
//!
//! | field | on | source |
//! | --- | --- | --- |
//! | `RateLimit-Policy`, `RateLimit` | every answer of a route with limits, or as the policy says | draft-ietf-httpapi-ratelimit-headers-10, list form |
//! | `X-RateLimit-Limit`, `-Remaining`, `-Reset` | refusals, or as the policy says, for the tightest limit; the reset is a Unix time in seconds | convention |
//! | `Retry-After` | refusals that end by themselves, in seconds, never before the limit admits | RFC 9110 §10.2.3 |
//! | `WWW-Authenticate` | refusals of tokens | RFC 6750 §3 |
//! | `X-Tollgate-Degraded` | answers decided without the store | ours |
//!
//! Bodies are `application/problem+json` (RFC 9457) with the problem types of the draft, and an `error` object for clients that
//! look for one. Limits in shadow mode are not shown.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde_json::{Value, json};

use crate::exchange::{Denial, Reason, Report, Ruling, Verdict};
use crate::idempotency::StoredResponse;
use crate::policy::{Guard, Limit, Policy, Route, Rule};
use crate::rate_limit::Retry;
use crate::time::Timestamp;

/// Header fields to set, names in lower case. All values lie in one piece of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    values: String,
    /// Each field's name, and where its value ends.
    ends: Vec<(Cow<'static, str>, usize)>,
}

impl Fields {
    /// Every field's name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.ends.iter().map(move |(name, end)| {
            let value = self.values.get(start..*end).unwrap_or_default();
            start = *end;
            (&**name, value)
        })
    }

    /// The value of the field called `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    pub(crate) fn add(&mut self, name: impl Into<Cow<'static, str>>, write: impl FnOnce(&mut String)) {
        let before = self.values.len();
        write(&mut self.values);
        // A field without value says nothing.
        if self.values.len() > before {
            self.ends.push((name.into(), self.values.len()));
        }
    }

    fn with_room() -> Self {
        Self { values: String::with_capacity(160), ends: Vec::with_capacity(8) }
    }
}

/// The answer to a refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// All header fields.
    pub headers: Fields,
    /// The body.
    pub body: Vec<u8>,
}

/// The header fields to add to the answer of a request that was let through.
pub fn fields(policy: &Policy, report: &Report, now: Timestamp) -> Fields {
    let mut fields = Fields::with_room();
    add_fields(&mut fields, policy, report, now, false);
    fields
}

fn add_fields(fields: &mut Fields, policy: &Policy, report: &Report, now: Timestamp, refused: bool) {
    let shown = || shown(policy, report);
    if policy.headers().ietf.includes(refused) {
        let route = report.route.and_then(|route| policy.routes().get(route));
        fields.add("ratelimit-policy", |value| value.push_str(route.map_or("", Route::policy_field)));
        fields.add("ratelimit", |value| {
            let mut separator = "";
            for (limit, verdict) in shown() {
                let Some(standing) = verdict.standing else { continue };
                for part in [separator, "\"", limit.name(), "\";r="] {
                    value.push_str(part);
                }
                push_number(value, standing.remaining);
                value.push_str(";t=");
                push_number(value, standing.reset.div_ceil(1000));
                separator = ", ";
            }
        });
    }
    if policy.headers().x_ratelimit.includes(refused)
        && let Some((limit, verdict)) =
            shown().filter(|(_, v)| v.standing.is_some()).max_by_key(|(_, v)| tightness(v))
        && let Some(standing) = verdict.standing
    {
        let reset = now.plus(standing.reset).as_millis().div_ceil(1000);
        fields.add("x-ratelimit-limit", |value| push_number(value, limit.quota().capacity()));
        fields.add("x-ratelimit-remaining", |value| push_number(value, standing.remaining));
        fields.add("x-ratelimit-reset", |value| push_number(value, reset));
    }
    fields.add("x-tollgate-degraded", |value| {
        for (index, mode) in report.degraded().enumerate() {
            value.push_str(if index > 0 { ", " } else { "" });
            value.push_str(mode.as_str());
        }
    });
}

/// The answer to a refused request.
pub fn denial(policy: &Policy, denial: &Denial, now: Timestamp) -> Answer {
    let mut headers = Fields::with_room();
    if !matches!(denial.reason(), Reason::Duplicate(_) | Reason::Replay) {
        headers.add("content-type", |value| value.push_str("application/problem+json"));
    }
    add_fields(&mut headers, policy, denial.report(), now, true);
    let guard = |number: usize| policy.guards().get(number).map(Guard::rule);
    let status = denial.status(policy);
    match *denial.reason() {
        Reason::AmbiguousPath => Answer { headers, ..ambiguous_path() },
        Reason::Limits => limits(policy, denial.report(), status, headers),
        Reason::Token(error) => token(headers, error.description(), &error.challenge()),
        Reason::Revoked => {
            let detail = "the token has been revoked";
            let challenge = format!("{}{detail}\"", INVALID_TOKEN);
            token(headers, detail, &challenge)
        }
        Reason::Open { for_ms } => {
            let detail = "What is behind this address failed repeatedly and is left alone for now.";
            later(headers, status, "Service Unavailable", detail, "CIRCUIT_OPEN", for_ms)
        }
        Reason::Locked { for_ms, .. } => {
            let detail = "Another request like this one is being served.";
            let title = if status == 423 { "Locked" } else { "Conflict" };
            later(headers, status, title, detail, "LOCKED", for_ms)
        }
        Reason::AmbiguousKey => {
            let detail = "Something that tells requests apart is in this one twice, or can be read in different ways. \
                          Send it once.";
            refused(headers, status, "Bad Request", detail, "AMBIGUOUS_KEY")
        }
        Reason::IdempotencyKey { is_missing } => {
            let (detail, code) = if is_missing {
                ("This request needs an Idempotency-Key.", "IDEMPOTENCY_KEY_MISSING")
            } else {
                let detail = "Idempotency-Key has to be one text of 1 to 255 printable characters.";
                (detail, "IDEMPOTENCY_KEY_INVALID")
            };
            refused(headers, status, "Bad Request", detail, code)
        }
        Reason::InProgress => {
            let detail = "The request with this Idempotency-Key is being carried out.";
            later(headers, status, "Conflict", detail, "IDEMPOTENCY_IN_PROGRESS", 0)
        }
        Reason::Mismatch => {
            let detail = "This Idempotency-Key was used for another request.";
            refused(headers, status, "Unprocessable Content", detail, "IDEMPOTENCY_KEY_REUSED")
        }
        Reason::Replay => match denial.replay().and_then(StoredResponse::parts) {
            Some(parts) => {
                headers.add("idempotent-replayed", |value| value.push_str("true"));
                for (name, field) in parts.fields {
                    headers.add(name.to_string(), |value| value.push_str(field));
                }
                Answer { status, headers, body: parts.body.into() }
            }
            None => {
                let detail = "The request was carried out; its answer was too large to be given again, or was cut off.";
                headers.add("content-type", |value| value.push_str("application/problem+json"));
                refused(headers, status, "Conflict", detail, "IDEMPOTENT_RESPONSE_NOT_KEPT")
            }
        },
        Reason::Duplicate(number) => {
            headers.add("content-type", |value| value.push_str("application/json"));
            let body = match guard(number) {
                Some(Rule::Dedup { body, .. }) => body.as_bytes().to_vec(),
                _ => Vec::new(),
            };
            Answer { status, headers, body }
        }
        Reason::Unavailable(number) => match guard(number) {
            Some(Rule::Revocation { .. }) if status == 401 => {
                let detail = "whether the token has been revoked cannot be told at the moment";
                token(headers, detail, &format!("{}{detail}\"", INVALID_TOKEN))
            }
            rule => {
                let what = match rule {
                    Some(Rule::Token { .. }) => "Whether the token holds",
                    Some(Rule::Revocation { .. }) => "Whether the token has been revoked",
                    Some(Rule::Revokes { .. }) => "Whether the token could be revoked",
                    Some(Rule::CircuitBreaker { .. }) => "Whether what is behind this address is well",
                    Some(Rule::Idempotency { .. } | Rule::Dedup { .. }) => "Whether this request came before",
                    _ => "Whether another request like this one is being served",
                };
                let detail = format!("{what} cannot be told at the moment.");
                let code = "GUARD_UNAVAILABLE";
                later(headers, status, "Service Unavailable", &detail, code, UNAVAILABLE_RETRY * 1000)
            }
        },
    }
}

/// The answer in the place of the upstream's to a request that was to revoke a token, when the store could not be told: the upstream
/// has said yes, and the token is still valid.
pub fn not_revoked() -> Answer {
    let mut headers = Fields::with_room();
    headers.add("content-type", |value| value.push_str("application/problem+json"));
    let detail = "The token could not be revoked and is still valid.";
    later(headers, 503, "Service Unavailable", detail, "NOT_REVOKED", UNAVAILABLE_RETRY * 1000)
}

/// Whose token does not hold (RFC 6750 §3).
fn token(mut headers: Fields, description: &str, challenge: &str) -> Answer {
    headers.add("www-authenticate", |value| value.push_str(challenge));
    let detail = format!("A valid token is needed: {description}.");
    Answer {
        status: 401,
        headers,
        body: problem_body(401, "Unauthorized", &detail, "UNAUTHORIZED", None).into(),
    }
}

/// Who may ask again in `millis`.
pub(crate) fn later(
    mut headers: Fields,
    status: u16,
    title: &str,
    detail: &str,
    code: &str,
    millis: u64,
) -> Answer {
    let seconds = millis.div_ceil(1000).max(1);
    headers.add("retry-after", |value| push_number(value, seconds));
    let detail = format!("{detail} Try again in {seconds} s.");
    Answer { status, headers, body: problem_body(status, title, &detail, code, Some(seconds)).into() }
}

/// Who need not ask again.
fn refused(headers: Fields, status: u16, title: &str, detail: &str, code: &str) -> Answer {
    Answer { status, headers, body: problem_body(status, title, detail, code, None).into() }
}

fn problem_body(status: u16, title: &str, detail: &str, code: &str, retry_after: Option<u64>) -> String {
    let mut error = json!({ "code": code, "message": detail });
    if let (Some(seconds), Some(error)) = (retry_after, error.as_object_mut()) {
        error.insert("retryAfter".to_string(), seconds.into());
    }
    json!({ "type": "about:blank", "title": title, "status": status, "detail": detail, "error": error })
        .to_string()
}

/// What limits tell whom they refuse.
fn limits(policy: &Policy, report: &Report, status: u16, mut headers: Fields) -> Answer {
    let refused = || shown(policy, report).filter(|(_, verdict)| verdict.ruling == Ruling::Refused);
    let retry = refused().map(|(_, verdict)| retry_millis(verdict)).max();
    match retry {
        Some(retry) => {
            // A request that is never admitted is not told when to come back.
            let seconds = (retry != NEVER).then(|| retry.div_ceil(1000).max(1));
            let names =
                refused().map(|(limit, _)| format!("\"{}\"", limit.name())).collect::<Vec<_>>().join(",");
            let (after, wait) = match seconds {
                Some(seconds) => {
                    headers.add("retry-after", |value| push_number(value, seconds));
                    (format!(",\"retryAfter\":{seconds}"), format!("Try again in {seconds} s."))
                }
                None => (String::new(), "It costs more than the quota ever holds.".to_string()),
            };
            let body = format!(
                "{{\"type\":\"https://iana.org/assignments/http-problem-types#quota-exceeded\",\
                 \"title\":\"Too Many Requests\",\"status\":{status},\
                 \"detail\":\"The quota of this request is used up. {wait}\",\
                 \"violated-policies\":[{names}],\
                 \"error\":{{\"code\":\"RATE_LIMIT_EXCEEDED\",\
                 \"message\":\"Rate limit exceeded. {wait}\"{after}}}}}"
            );
            Answer { status, headers, body: body.into() }
        }
        None => {
            headers.add("retry-after", |value| push_number(value, UNAVAILABLE_RETRY));
            let body = "{\"type\":\"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity\",\
                        \"title\":\"Service Unavailable\",\"status\":503,\
                        \"detail\":\"Whether this request is within its quota cannot be told at the moment.\",\
                        \"error\":{\"code\":\"RATE_LIMIT_UNAVAILABLE\",\
                        \"message\":\"Rate limit unavailable. Try again in 1 s.\",\"retryAfter\":1}}";
            Answer { status, headers, body: body.into() }
        }
    }
}

/// The answer to a request whose path has more than one reading.
pub fn ambiguous_path() -> Answer {
    let detail = "Servers read the path of this request in different ways. Write it without dot segments, \
                  backslashes, path parameters, and encoded slashes.";
    problem(400, "Bad Request", detail, "AMBIGUOUS_PATH")
}

/// The answer to a request that cannot be served for another reason than a limit; `code` is for programs.
pub fn problem(status: u16, title: &str, detail: &str, code: &str) -> Answer {
    let mut headers = Fields::with_room();
    headers.add("content-type", |value| value.push_str("application/problem+json"));
    refused(headers, status, title, detail, code)
}

/// An answer of JSON, not to be kept.
pub fn json(status: u16, body: &Value) -> Answer {
    let mut headers = Fields::with_room();
    headers.add("content-type", |value| value.push_str("application/json"));
    headers.add("cache-control", |value| value.push_str("no-store"));
    Answer { status, headers, body: body.to_string().into() }
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

/// Writes a number in decimal, without the machinery of formatting.
pub(crate) fn push_number(text: &mut String, number: u64) {
    text.push_str(itoa::Buffer::new().format(number));
}

/// Seconds after which who was refused because the store cannot be asked may ask again. The body of that refusal says so in words.
pub const UNAVAILABLE_RETRY: u64 = 1;
/// What a client is told whose token was fine until it was revoked (RFC 6750 §3.1); a description and a quote are missing.
const INVALID_TOKEN: &str = "Bearer realm=\"tollgate\", error=\"invalid_token\", error_description=\"";
/// Sorts above every time.
const NEVER: u64 = u64::MAX;

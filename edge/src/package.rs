//! What the npm package calls: the core, told in texts and answering in JSON.
//!
//! The modules of the package (`edge/npm`) see to what Rust takes for granted, that arguments have their types, and make objects of
//! what is answered here. They decide nothing.

use std::num::NonZeroU64;
use std::rc::Rc;

use js_sys::{Function, RangeError, TypeError};
use serde::Serialize;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;
use web_sys::Headers;

use tollgate_shared::answer::{self, Answer};
use tollgate_shared::client_ip;
use tollgate_shared::config::{KeyPart, MAX_QUOTA};
use tollgate_shared::exchange::{Decision, LimitError, Ruling, Source, Verdict};
use tollgate_shared::policy::{Limit, Policy};
use tollgate_shared::rate_limit::Retry;
use tollgate_shared::time::Timestamp;

use crate::guard::{Decided, Guard};
use crate::head::RequestHead;
use crate::host::{self, Level, Line, log};
use crate::settings::Settings;

/// A guard, as JavaScript holds it.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Core {
    guard: Rc<Guard>,
}

#[wasm_bindgen]
impl Core {
    /// Reads a policy and settings from JSON.
    ///
    /// # Errors
    /// Everything that is wrong with either, a line for each.
    #[wasm_bindgen(constructor)]
    pub fn new(policy: &str, settings: &str) -> Result<Self, JsError> {
        let mut errors = Vec::new();
        // Errors name the policy, because settings may be wrong too.
        let policy = Policy::from_json_at("policy", policy.as_bytes()).map_err(|found| errors.extend(found));
        let settings = Settings::from_json(settings).map_err(|found| errors.push(found));
        let (Ok(policy), Ok(settings)) = (policy, settings) else {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return Err(JsError::new(&lines.join("\n")));
        };
        let guard = Guard::new(policy, settings);
        if !guard.has_store() {
            log(Level::Warn, &Line { message: NO_STORE });
        }
        Ok(Self { guard: Rc::new(guard) })
    }

    /// Decides about a request.
    ///
    /// What is left to do behind the answer is a promise that `wait_until` is called with, or simply goes on.
    ///
    /// # Errors
    /// `ip` is no address.
    pub async fn check(
        &self,
        method: String,
        url: String,
        headers: Headers,
        ip: Option<String>,
        wait_until: Option<Function>,
    ) -> Result<String, TypeError> {
        let guard = Rc::clone(&self.guard);
        let peer = ip.map(|ip| client_ip::parse_entry(ip.as_bytes()).ok_or(ip)).transpose();
        // What stands there instead may be about a person, and errors end up in logs.
        let peer = peer.map_err(|_| {
            TypeError::new("ip: found a text that is no IP address, expected one, or nothing")
        })?;
        let head = RequestHead::new(&method, &url, &headers, peer);
        let now = host::now();
        let mut decided = guard.check(&head, now).await;
        settle(&guard, &mut decided, now, wait_until.as_ref());
        Ok(told(&guard, &decided))
    }

    /// Decides about one limit, for the subject that `values` name; without `cost`, for what a request usually costs.
    ///
    /// # Errors
    /// There is no such limit, its key takes other values, or the cost is too large.
    pub async fn limit(
        &self,
        name: String,
        values: Vec<String>,
        cost: Option<f64>,
        wait_until: Option<Function>,
    ) -> Result<String, RangeError> {
        let guard = Rc::clone(&self.guard);
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let (now, cost) = (host::now(), cost.map(host::whole));
        let decided = guard.limit(&name, &values, cost.and_then(NonZeroU64::new), now).await;
        let mut decided = decided.map_err(|error| {
            RangeError::new(&match error {
                LimitError::Unknown => unknown(guard.policy(), &name),
                LimitError::Values => other_values(guard.policy(), &name, values.len()),
                LimitError::Cost => {
                    format!("cost: found `{}`, expected at most {MAX_QUOTA}", cost.unwrap_or_default())
                }
            })
        })?;
        settle(&guard, &mut decided, now, wait_until.as_ref());
        Ok(text(&Limited::all(&guard, &decided.decision).first()))
    }
}

/// What a decision leaves to tell the store is told behind the answer.
fn settle(guard: &Rc<Guard>, decided: &mut Decided, began: Timestamp, wait_until: Option<&Function>) {
    let ops = decided.decision.settle();
    if ops.is_empty() {
        return;
    }
    let guard = Rc::clone(guard);
    let settled = future_to_promise(async move {
        guard.settle(ops, began).await;
        Ok(JsValue::UNDEFINED)
    });
    if let Some(wait_until) = wait_until
        && let Err(error) = wait_until.call1(&JsValue::UNDEFINED, &settled)
    {
        let error = error.dyn_ref::<js_sys::Error>().map(|error| String::from(error.message()));
        let message = format!(
            "waitUntil failed ({}): what a refused request was charged may not be given back",
            error.unwrap_or_default()
        );
        log(Level::Warn, &Line { message: &message });
    }
}

/// A decision, as the package's modules are told of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    allowed: bool,
    route: Option<&'a str>,
    limits: Vec<Limited<'a>>,
    degraded: bool,
    /// For any answer to this request, whatever its body.
    headers: Vec<(&'static str, &'a str)>,
    refusal: Option<Refusal<'a>>,
}

#[derive(Serialize)]
struct Refusal<'a> {
    status: u16,
    headers: Vec<(&'static str, &'a str)>,
    body: &'a str,
}

/// What one limit said.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Limited<'a> {
    name: &'a str,
    allowed: bool,
    ruling: &'static str,
    limit: u64,
    remaining: Option<u64>,
    reset_after_ms: Option<u64>,
    /// None is for never: JSON has no infinity.
    retry_after_ms: Option<u64>,
    source: &'static str,
    degraded: bool,
}

impl<'a> Limited<'a> {
    fn all(guard: &'a Guard, decision: &Decision) -> Vec<Self> {
        let limits = guard.policy().limits();
        let verdicts = decision.report().verdicts.iter();
        verdicts
            .filter_map(|verdict| Some(Self::new(limits.get(verdict.limit)?, verdict, guard.has_store())))
            .collect()
    }

    fn new(limit: &'a Limit, verdict: &Verdict, has_store: bool) -> Self {
        let Verdict { ruling, standing, source, .. } = verdict;
        Self {
            name: limit.name(),
            allowed: !verdict.refuses(),
            ruling: match ruling {
                Ruling::Admitted => "admitted",
                Ruling::Refused => "refused",
                Ruling::ShadowRefused => "shadow_refused",
                Ruling::Unavailable => "unavailable",
            },
            limit: limit.quota().capacity(),
            remaining: standing.map(|standing| standing.remaining),
            reset_after_ms: standing.map(|standing| standing.reset),
            retry_after_ms: match (standing.map(|standing| standing.retry), ruling) {
                (Some(Retry::After(millis)), _) => Some(millis),
                (Some(Retry::Never), _) => None,
                (None, Ruling::Unavailable) => Some(1000 * answer::UNAVAILABLE_RETRY),
                (Some(Retry::Now) | None, _) => Some(0),
            },
            source: match source {
                Source::Store if has_store => "store",
                Source::Store => "memory",
                Source::Denials => "denials",
                Source::Degraded(mode) => mode.as_str(),
            },
            degraded: matches!(source, Source::Degraded(_)),
        }
    }
}

fn told(guard: &Guard, decided: &Decided) -> String {
    let Decided { decision, at, .. } = decided;
    let policy = guard.policy();
    let route = decision.report().route.and_then(|route| policy.routes().get(route));
    let (fields, refused) = match decision {
        Decision::Allow(report) => (answer::fields(policy, report, *at), None),
        Decision::Deny(denial) => {
            let Answer { status, headers, body } = answer::denial(policy, denial, *at);
            (headers, Some((status, body)))
        }
    };
    text(&Told {
        allowed: refused.is_none(),
        route: route.map(|route| route.name()),
        limits: Limited::all(guard, decision),
        degraded: decision.report().degraded().next().is_some(),
        headers: fields.iter().filter(|(name, _)| *name != "content-type").collect(),
        refusal: refused.as_ref().map(|(status, body)| {
            let headers = fields.iter().collect();
            Refusal { status: *status, headers, body }
        }),
    })
}

/// As JSON, which can be made of all of ours.
fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn unknown(policy: &Policy, name: &str) -> String {
    let names: Vec<String> = policy.limits().iter().map(|limit| format!("`{}`", limit.name())).collect();
    let there = if names.is_empty() { "the policy has none".to_owned() } else { names.join(", ") };
    format!("name: found `{name}`, expected a limit of the policy: {there}")
}

fn other_values(policy: &Policy, name: &str, found: usize) -> String {
    let limit = policy.limits().iter().find(|limit| limit.name() == name);
    let parts = limit.map(Limit::key).unwrap_or_default();
    let parts: Vec<String> = parts
        .iter()
        .filter(|part| !matches!(part, KeyPart::Const(_)))
        .map(|part| match part {
            KeyPart::ClientIp => "client_ip (an IP address)".to_owned(),
            part => part.to_string(),
        })
        .collect();
    let expected = if parts.is_empty() { "none".to_owned() } else { parts.join(", ") };
    format!(
        "key: found {found} values, expected one for each part of the key of `{name}` that is no constant: {expected}"
    )
}

const NO_STORE: &str = "no store is configured (`redis`, or UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN): \
                        limits hold for this instance alone, in its memory";

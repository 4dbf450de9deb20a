//! What the package's modules are told, in JSON.

use serde::Serialize;

use tollgate_shared::answer::{self, Answer};
use tollgate_shared::exchange::{Decision, Ruling, Source, Verdict};
use tollgate_shared::policy::Limit;
use tollgate_shared::rate_limit::Retry;

use crate::after::Due;
use crate::guard::{Decided, Guard};

/// A decision, as the package's modules are told of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Told<'a> {
    allowed: bool,
    route: Option<&'a str>,
    limits: Vec<Limited<'a>>,
    guards: Vec<Guarding<'a>>,
    degraded: bool,
    /// For any answer to this request, whatever its body.
    headers: Vec<(&'a str, &'a str)>,
    refusal: Option<Refusal<'a>>,
    /// What the upstream is to see, or not at all.
    onward: Vec<(&'static str, Option<&'a str>)>,
    due: Option<Due>,
}

impl Told<'_> {
    /// A request that is refused before the policy is asked.
    pub(super) fn refused(answer: &Answer) -> String {
        text(&Told {
            allowed: false,
            route: None,
            limits: Vec::new(),
            guards: Vec::new(),
            degraded: false,
            headers: Vec::new(),
            refusal: Some(Refusal::new(answer)),
            onward: Vec::new(),
            due: None,
        })
    }

    pub(super) fn text(guard: &Guard, decided: &Decided, due: Option<Due>) -> String {
        let Decided { decision, at, .. } = decided;
        let policy = guard.policy();
        let route = decision.report().route.and_then(|route| policy.routes().get(route));
        let (fields, onward, refusal) = match decision {
            Decision::Allow(admission) => {
                (answer::fields(policy, admission.report(), *at), admission.onward().collect(), None)
            }
            Decision::Deny(denial) => {
                let answer = answer::denial(policy, denial, *at);
                (answer.headers.clone(), Vec::new(), Some(answer))
            }
        };
        text(&Told {
            allowed: refusal.is_none(),
            route: route.map(|route| route.name()),
            limits: Limited::all(guard, decision),
            guards: Guarding::all(guard, decision),
            degraded: decision.report().degraded().next().is_some(),
            headers: fields.iter().filter(|(name, _)| *name != "content-type").collect(),
            refusal: refusal.as_ref().map(Refusal::new),
            onward,
            due,
        })
    }
}

/// The answer to who is refused, or another one in the place of the upstream's.
#[derive(Serialize)]
pub(super) struct Refusal<'a> {
    status: u16,
    headers: Vec<(&'a str, &'a str)>,
    body: Body<'a>,
}

/// A body: a text where it is one, or else its bytes as numbers.
#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Refusal<'a> {
    pub(super) fn new(Answer { status, headers, body }: &'a Answer) -> Self {
        let body = std::str::from_utf8(body).map_or(Body::Bytes(body), Body::Text);
        Self { status: *status, headers: headers.iter().collect(), body }
    }
}

/// What one guard said that is no limit.
#[derive(Serialize)]
struct Guarding<'a> {
    kind: &'static str,
    name: &'a str,
    allowed: bool,
    ruling: &'static str,
    source: &'static str,
    degraded: bool,
}

impl<'a> Guarding<'a> {
    fn all(guard: &'a Guard, decision: &Decision) -> Vec<Self> {
        let guards = guard.policy().guards();
        let verdicts = decision.report().guards.iter();
        let told = verdicts.filter_map(|verdict| {
            let of = guards.get(verdict.guard)?;
            Some(Self {
                kind: of.rule().kind(),
                name: of.name(),
                allowed: !verdict.ruling.refuses(),
                ruling: ruling(verdict.ruling),
                source: source(verdict.source, guard),
                degraded: matches!(verdict.source, Source::Degraded(_)),
            })
        });
        told.collect()
    }
}

/// What one limit said.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Limited<'a> {
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
    pub(super) fn all(guard: &'a Guard, decision: &Decision) -> Vec<Self> {
        let limits = guard.policy().limits();
        let verdicts = decision.report().verdicts.iter();
        verdicts.filter_map(|verdict| Some(Self::new(limits.get(verdict.limit)?, verdict, guard))).collect()
    }

    fn new(limit: &'a Limit, verdict: &Verdict, guard: &Guard) -> Self {
        let Verdict { standing, .. } = verdict;
        Self {
            name: limit.name(),
            allowed: !verdict.refuses(),
            ruling: ruling(verdict.ruling),
            limit: limit.quota().capacity(),
            remaining: standing.map(|standing| standing.remaining),
            reset_after_ms: standing.map(|standing| standing.reset),
            retry_after_ms: match (standing.map(|standing| standing.retry), verdict.ruling) {
                (Some(Retry::After(millis)), _) => Some(millis),
                (Some(Retry::Never), _) => None,
                (None, Ruling::Unavailable) => Some(1000 * answer::UNAVAILABLE_RETRY),
                (Some(Retry::Now) | None, _) => Some(0),
            },
            source: source(verdict.source, guard),
            degraded: matches!(verdict.source, Source::Degraded(_)),
        }
    }
}

fn ruling(ruling: Ruling) -> &'static str {
    match ruling {
        Ruling::Admitted => "admitted",
        Ruling::Refused => "refused",
        Ruling::ShadowRefused => "shadow_refused",
        Ruling::Unavailable => "unavailable",
    }
}

fn source(source: Source, guard: &Guard) -> &'static str {
    match source {
        Source::Store if guard.store().is_some() => "store",
        Source::Store => "memory",
        Source::Denials => "denials",
        Source::Degraded(mode) => mode.as_str(),
    }
}

/// As JSON, which can be made of all of ours.
pub(super) fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

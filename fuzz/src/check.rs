//! What holds for every decision, whoever asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use tollgate_shared::answer::{self, Fields};
use tollgate_shared::config::CostConfig;
use tollgate_shared::config::store::Remembered;
use tollgate_shared::exchange::{Decision, Denial, Reason, Ruling, Step, begin};
use tollgate_shared::id::Id;
use tollgate_shared::local::Local;
use tollgate_shared::policy::{Limit, Policy};
use tollgate_shared::rate_limit::{Check, Retry};
use tollgate_shared::store::Op;
use tollgate_shared::store::memory::{HeapShards, Memory};
use tollgate_shared::time::Timestamp;

use crate::head::Head;

/// A memory small enough to be made anew for every input.
pub fn memory() -> Memory<HeapShards> {
    Memory::new(HeapShards::default(), SHARDS)
}

/// The route that `head` takes and the operations of limits that it leads to, with nothing remembered.
pub fn plan(policy: &Arc<Policy>, head: &Head, now: Timestamp) -> (Option<usize>, Vec<Op>) {
    let mut local = Local::with_store(memory(), Remembered::at_most(0), 1, Id::default());
    let mut asked = Vec::new();
    let mut step = begin(policy, &mut local, head, now);
    let decision = loop {
        step = match step {
            Step::Call(call) => {
                asked.extend(call.batch().iter().filter(|op| !op.checks().is_empty()).cloned());
                call.resume(&mut local, Vec::new(), now)
            }
            step => break decision_of(step, &mut local, now),
        };
    };
    (decision.report().route, asked)
}

/// Whether `head` is refused because servers read its path differently.
pub fn is_ambiguous(policy: &Arc<Policy>, head: &Head, now: Timestamp) -> bool {
    let mut local = Local::with_store(memory(), Remembered::at_most(0), 1, Id::default());
    let step = begin(policy, &mut local, head, now);
    matches!(step, Step::Decide(Decision::Deny(denial)) if *denial.reason() == Reason::AmbiguousPath)
}

/// The decision that a step must be, where nobody waits for a lock.
pub fn decision_of(step: Step, local: &mut Local<HeapShards>, now: Timestamp) -> Decision {
    match step {
        Step::Decide(decision) => decision,
        Step::Later(later) => later.give_up(local, now),
        step => panic!("nothing is left to ask: {step:?}"),
    }
}

/// Operations of limits are never empty, keep to one hash tag, and their keys hold a digest and names and nothing else.
pub fn ops(policy: &Policy, prefix: &str, ops: &[Op]) {
    for op in ops {
        let key = op.key().expect("an operation has a key").as_str();
        assert!(key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(":{")), "{key}");
        if !matches!(op, Op::RateLimit(_) | Op::Refund { .. }) {
            continue;
        }
        let tag = op.checks().first().expect("an operation has a check").key.hash_tag();
        for check in op.checks() {
            assert_eq!(check.key.hash_tag(), tag, "one operation, one slot");
            let limit = limit_of(policy, prefix, check);
            // A header field may say zero.
            let least = if matches!(limit.cost(), CostConfig::Fixed(_)) { 1 } else { 0 };
            assert!((least..=limit.quota().capacity()).contains(&check.cost), "{check:?}");
            assert_eq!((check.enforced, &check.quota), (limit.is_enforced(), limit.quota()));
        }
    }
}

/// The limit that a check's key names.
pub fn limit_of<'a>(policy: &'a Policy, prefix: &str, check: &Check) -> &'a Limit {
    let text = check.key.as_str();
    let rest = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix(":{")).expect(text);
    let (tag, rest) = rest.split_once("}:").expect(text);
    let (kind, rest) = rest.split_once(':').expect(text);
    assert_eq!(kind, format!("{}{}", check.quota.algorithm().letter(), check.quota.window()));
    let (name, named_tag, digest) = match rest.split_once(':') {
        Some((name, digest)) => (name, Some(tag), digest),
        None => (rest, None, tag),
    };
    let limit = policy.limits().iter().find(|limit| limit.name() == name).expect(text);
    assert_eq!((limit.tag(), tag), (named_tag, check.key.hash_tag()), "{text}");
    let is_digest = digest.len() == 32 && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    assert!(is_digest, "{text}");
    limit
}

/// A decision names limits of its route, and its answer can be sent. `promised` says that its times come from a memory
/// of ours, so that they lie within reason.
pub fn decision(policy: &Policy, decision: &Decision, now: Timestamp, promised: bool) {
    let report = decision.report();
    let route = report.route.map(|route| &policy.routes()[route]);
    for verdict in &report.verdicts {
        let own = route.is_some_and(|route| route.limits().iter().any(|place| place.limit == verdict.limit));
        assert!(own, "{verdict:?}");
        let limit = &policy.limits()[verdict.limit];
        assert!(limit.is_enforced() || !verdict.refuses(), "{verdict:?}");
        if let Some(standing) = verdict.standing.filter(|_| promised) {
            assert!(standing.remaining <= limit.quota().capacity(), "{verdict:?}");
            assert_ne!(standing.retry, Retry::Never, "a cost that never fits does not compile");
            assert_ne!(standing.retry, Retry::After(0));
        }
    }
    for verdict in &report.guards {
        let own = route.is_some_and(|route| route.guards().iter().any(|place| place.guard == verdict.guard));
        assert!(own, "{verdict:?}");
        assert!(policy.guards()[verdict.guard].is_enforced() || !verdict.ruling.refuses(), "{verdict:?}");
    }
    let by_path = matches!(decision, Decision::Deny(denial) if *denial.reason() == Reason::AmbiguousPath);
    let by_guards = by_path || report.guards.iter().any(|verdict| verdict.ruling.refuses());
    let refused = by_guards || report.verdicts.iter().any(|verdict| verdict.refuses());
    match decision {
        Decision::Allow(_) => {
            assert!(!refused, "{report:?}");
            fields(&answer::fields(policy, report, now));
        }
        Decision::Deny(denied) => {
            assert!(refused, "{report:?}");
            denial(policy, denied, now, promised);
        }
    }
}

fn denial(policy: &Policy, denial: &Denial, now: Timestamp, promised: bool) {
    let answer = answer::denial(policy, denial, now);
    fields(&answer.headers);
    if *denial.reason() != Reason::Limits {
        let by_path = *denial.reason() == Reason::AmbiguousPath;
        assert!(
            by_path || denial.report().guards.iter().any(|verdict| verdict.ruling.refuses()),
            "{denial:?}"
        );
        assert!((100..=599).contains(&answer.status), "{answer:?}");
        let is_replay = *denial.reason() == Reason::Replay;
        assert!(is_replay || serde_json::from_slice::<Value>(&answer.body).is_ok(), "{answer:?}");
        return;
    }
    let verdicts = &denial.report().verdicts;
    let out_of_quota = verdicts.iter().any(|verdict| verdict.ruling == Ruling::Refused);
    assert_eq!(answer.status, if out_of_quota { 429 } else { 503 });
    let body: Value = serde_json::from_slice(&answer.body).expect("an answer of ours is JSON");
    assert_eq!(body["status"], answer.status, "{body}");
    for text in
        [&body["type"], &body["title"], &body["detail"], &body["error"]["code"], &body["error"]["message"]]
    {
        assert!(text.as_str().is_some_and(|text| !text.is_empty()), "{body}");
    }
    let after = answer.headers.get("retry-after");
    let after = after.map(|value| value.parse::<u64>().expect("Retry-After is a number of seconds"));
    assert_eq!(body["error"]["retryAfter"].as_u64(), after, "{body}");
    let never = verdicts.iter().any(|v| v.standing.is_some_and(|standing| standing.retry == Retry::Never));
    assert!(after.map_or(never && !promised, |seconds| seconds >= 1), "{answer:?}");
    if out_of_quota {
        let named = body["violated-policies"].as_array().expect("429 names the limits");
        let refused = verdicts.iter().filter(|verdict| verdict.ruling == Ruling::Refused);
        let refused: Vec<&str> = refused.map(|verdict| policy.limits()[verdict.limit].name()).collect();
        assert!(named.iter().map(|name| name.as_str().unwrap_or_default()).eq(refused), "{body}");
    }
}

/// An answer's fields can be sent.
pub fn fields(fields: &Fields) {
    let mut names = BTreeSet::new();
    for (name, value) in fields.iter() {
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
        assert!(!value.is_empty() && value.bytes().all(|b| matches!(b, b' '..=b'~')), "{name}: {value:?}");
        assert!(names.insert(name), "{name} twice");
        assert_eq!(fields.get(name), Some(value));
    }
}

const SHARDS: u32 = 4;

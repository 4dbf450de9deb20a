//! A decision that waits for the store.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::completion::Due;
use super::guards::Asked;
use super::later::Held;
use super::limits::{self, Performed, Refused};
use super::{Admission, Decision, Denial, Later, Reason, Report, Ruling, Step, Verdict};
use crate::config::CountConfig;
use crate::idempotency::StoredResponse;
use crate::key::Digest;
use crate::local::Local;
use crate::policy::{Guard, Policy, RouteLimit, Rule};
use crate::store::memory::Shards;
use crate::store::{Op, Outcome, StoreError};
use crate::time::{Span, Timestamp, Validity};

/// A decision that waits for the store.
#[derive(Debug)]
pub struct Call {
    pub(super) policy: Arc<Policy>,
    /// First those of limits, one for each group with a check for each limit; then one for each question of guards.
    pub(super) ops: Vec<Op>,
    /// Which limits are asked.
    limits: Limits,
    pub(super) report: Report,
    /// Why the request is refused, as far as that is known.
    pub(super) reason: Option<Reason>,
    /// What guards give back if it is refused.
    pub(super) refunds: Vec<Owed>,
    /// What limits that count by claims may give back then.
    charged_by_claims: Vec<Owed>,
    /// And the others.
    charged: Vec<Owed>,
    /// Whether something has been claimed.
    has_claimed: bool,
    /// `None` while there are limits only, which is so for most requests: this is large.
    guarded: Option<Box<Guarded>>,
    pub(super) began: Timestamp,
}

/// Which limits a call asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limits {
    /// All of the route.
    OfRoute,
    /// Those of the route that count without claims: the request is refused for its token, whatever they say.
    WithoutToken,
    /// The one of this number, whatever the route.
    One(usize),
}

/// Which limits keep what they charged for a request that is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Nothing,
    /// Those that count without claims: by a token that does not hold, nobody uses up what its owner may do.
    WithoutClaims,
    All,
}

/// What guards have to do with a decision.
#[derive(Debug, Default)]
pub(super) struct Guarded {
    /// What the last operations are about.
    pub(super) asked: Vec<Asked>,
    /// What is asked once nothing has refused.
    pub(super) claims: Vec<(Asked, Op)>,
    /// The lock that is waited for, if nothing refuses.
    pub(super) held: Option<Held>,
    /// The answer that is given again.
    pub(super) replay: Option<StoredResponse>,
    /// Header fields for the upstream.
    pub(super) onward: Vec<(&'static str, Option<String>)>,
    /// What is left to do if the request is let through.
    pub(super) due: Due,
    /// The token that may be believed not to be revoked, for some time, if the guard of this number has asked the store.
    pub(super) trust: Option<(usize, Digest, Span)>,
}

/// What is to be told to the store, or to the memory of this instance where that stood in for it.
#[derive(Clone, Debug)]
pub(super) struct Owed {
    pub(super) op: Op,
    pub(super) to_memory: bool,
}

impl Owed {
    /// Performs what is for the memory, and gives back what is for the store.
    pub(super) fn pay<S: Shards>(self, local: &mut Local<S>, now: Timestamp) -> Option<Op> {
        if !self.to_memory {
            return Some(self.op);
        }
        // Nothing can be done about a memory that is too busy; what is held there ends by itself.
        let _ = local.memory.perform(&self.op, now);
        None
    }
}

impl AsRef<[Op]> for Call {
    fn as_ref(&self) -> &[Op] {
        self.batch()
    }
}

impl Call {
    /// A call that asks limits.
    pub(super) fn new(policy: &Arc<Policy>, ops: Vec<Op>, report: Report, began: Timestamp) -> Self {
        Self {
            policy: Arc::clone(policy),
            ops,
            limits: Limits::OfRoute,
            report,
            reason: None,
            refunds: Vec::new(),
            charged_by_claims: Vec::new(),
            charged: Vec::new(),
            has_claimed: false,
            guarded: None,
            began,
        }
    }

    /// The same call about one limit, whatever the route.
    pub(super) fn about(mut self, limit: usize) -> Self {
        self.limits = Limits::One(limit);
        self
    }

    /// The same call for a request that is refused for this reason unless a limit refuses it. What it is charged stays charged: it is
    /// an attempt, and has its answer.
    pub(super) fn refusing(mut self, reason: Reason) -> Self {
        (self.limits, self.reason) = (Limits::WithoutToken, Some(reason));
        self
    }

    /// Takes these header fields away from the request.
    pub(super) fn take_away(&mut self, fields: Vec<(&'static str, Option<String>)>) {
        if !fields.is_empty() {
            self.guarded().onward = fields;
        }
    }

    pub(super) fn into_report(self) -> Report {
        self.report
    }

    pub(super) fn guarded(&mut self) -> &mut Guarded {
        self.guarded.get_or_insert_default()
    }

    /// The operations to perform, each atomic for itself.
    pub fn batch(&self) -> &[Op] {
        &self.ops
    }

    /// Whether something is held if it succeeds: a host that may stop waiting, because a client leaves, should go on for this one.
    pub fn claims(&self) -> bool {
        let claims = |op: &Op| matches!(op, Op::Acquire { .. } | Op::Reserve { .. } | Op::Probe { .. });
        self.ops.iter().any(claims)
    }

    /// When the decision began.
    pub fn began(&self) -> Timestamp {
        self.began
    }

    /// Asks the store, or decides at once where it is not to be asked.
    pub(super) fn leave<S: Shards>(mut self, local: &mut Local<S>, now: Timestamp) -> Step {
        if self.ops.is_empty()
            && let Some(guarded) = &mut self.guarded
        {
            (guarded.asked, self.ops) = core::mem::take(&mut guarded.claims).into_iter().unzip();
        }
        if self.ops.is_empty() {
            return Step::Decide(self.decide(local, now));
        }
        let outcomes: Vec<_> = match local.store.as_mut().map(|health| health.admits(now)) {
            Some(true) => return Step::Call(self),
            Some(false) => self.ops.iter().map(|_| Err(StoreError::Open)).collect(),
            None => self.ops.iter().map(|op| local.memory.perform(op, now)).collect(),
        };
        self.resume(local, outcomes, now)
    }

    /// Goes on with what the store answered, operation by operation; a missing outcome counts as a failed one.
    pub fn resume<S: Shards>(
        mut self,
        local: &mut Local<S>,
        outcomes: impl IntoIterator<Item = Result<Outcome, StoreError>>,
        now: Timestamp,
    ) -> Step {
        let outcomes = outcomes.into_iter().chain(core::iter::repeat(Err(StoreError::Garbage)));
        let ops = core::mem::take(&mut self.ops);
        let asked =
            self.guarded.as_mut().map(|guarded| core::mem::take(&mut guarded.asked)).unwrap_or_default();
        let of_limits = ops.len().saturating_sub(asked.len());
        // An operation alone either admits or charges nothing.
        let is_alone = ops.len() == 1;
        let mut answered = ops.into_iter().zip(outcomes);
        let mut refused = Vec::new();
        if of_limits > 0 {
            self.judge_limits(local, answered.by_ref().take(of_limits), is_alone, now, &mut refused);
        }
        for (asked, (op, outcome)) in asked.into_iter().zip(answered) {
            self.judge_guard(local, asked, &op, outcome, now);
        }
        for refused in refused {
            // Whose token was revoked can fill its owner's counter for a moment, and must not keep him out for longer.
            if !(refused.counts_claims && self.has_no_valid_token()) {
                refused.remember(local, self.began);
            }
        }
        let claims = self.guarded.as_ref().is_some_and(|guarded| !guarded.claims.is_empty());
        if self.reason.is_none() && claims {
            self.has_claimed = true;
            return self.leave(local, now);
        }
        match self.guarded.as_mut().and_then(|guarded| guarded.held.take()) {
            Some(held) if self.reason.is_none() => return Step::Later(Later::new(self, held, now)),
            Some(held) => self.report.add(held.asked.guard, Ruling::Refused, held.source),
            None => {}
        }
        Step::Decide(self.decide(local, now))
    }

    /// Whether the token has been revoked, or nobody can tell.
    fn has_no_valid_token(&self) -> bool {
        self.report.guards.iter().any(|verdict| {
            let rule = self.policy.guards().get(verdict.guard).map(Guard::rule);
            verdict.ruling.refuses() && matches!(rule, Some(Rule::Revocation { .. }))
        })
    }

    fn judge_limits<S: Shards>(
        &mut self,
        local: &mut Local<S>,
        answered: impl Iterator<Item = (Op, Result<Outcome, StoreError>)>,
        is_alone: bool,
        now: Timestamp,
        refused: &mut Vec<Refused>,
    ) {
        let Self { policy, report, charged_by_claims, charged, guarded, .. } = self;
        let mut note = |op, outcome: &Outcome, limits: &mut dyn Iterator<Item = usize>, to_memory| {
            let [by_claims, others] = limits::refunds(policy, op, outcome, limits);
            charged_by_claims.extend(by_claims.map(|op| Owed { op, to_memory }));
            charged.extend(others.map(|op| Owed { op, to_memory }));
        };
        let route = report.route.and_then(|route| policy.routes().get(route));
        let one;
        let (limits, groups) = match (self.limits, route) {
            (Limits::OfRoute, Some(route)) => (route.limits(), route.groups()),
            (Limits::WithoutToken, Some(route)) => (route.limits(), route.groups_without_token()),
            (Limits::One(limit), _) => {
                one = ([RouteLimit { limit, subject: 0 }], [Vec::from([0])]);
                (&one.0[..], &one.1[..])
            }
            (_, None) => return,
        };
        let verdicts = &mut report.verdicts;
        verdicts.reserve_exact(limits.len());
        for ((op, outcome), group) in answered.zip(groups) {
            let numbers = group.iter().filter_map(|index| limits.get(*index)).map(|place| place.limit);
            match outcome {
                Ok(outcome) => {
                    limits::decided(
                        &op,
                        &outcome,
                        numbers.clone(),
                        verdicts,
                        &mut |check, standing, limit| {
                            refused.push(Refused::new(policy, check, standing, limit));
                        },
                    );
                    count(guarded, policy, &op, &outcome, numbers.clone(), false);
                    if !is_alone {
                        note(op, &outcome, &mut { numbers }, false);
                    }
                }
                Err(error) => {
                    let numbers: Vec<usize> = numbers.collect();
                    let (degraded, own) = limits::degraded(policy, op.checks(), &error, &numbers, local, now);
                    verdicts.extend(degraded);
                    if let Some(Performed { op, outcome, limits }) = own {
                        count(guarded, policy, &op, &outcome, limits.iter().copied(), true);
                        note(op, &outcome, &mut limits.into_iter(), true);
                    }
                }
            }
        }
        if groups.len() > 1 {
            let of = |place: &RouteLimit| verdicts.iter().find(|verdict| verdict.limit == place.limit);
            *verdicts = limits.iter().filter_map(of).copied().collect();
        }
        if verdicts.iter().any(Verdict::refuses) {
            self.reason = Some(Reason::Limits);
        }
    }

    pub(super) fn decide<S: Shards>(self, local: &mut Local<S>, now: Timestamp) -> Decision {
        let Self { policy, report, reason, mut refunds, charged_by_claims, charged, guarded, began, .. } =
            self;
        match (reason, guarded) {
            (Some(reason), guarded) => {
                let kept = match reason {
                    // Whether there is anybody to ask is a breaker's to say, and then nobody has been.
                    Reason::Limits | Reason::Open { .. } => Kept::Nothing,
                    Reason::Revoked | Reason::Token(_) => Kept::WithoutClaims,
                    // What comes so far as to claim something has made an attempt.
                    _ if self.has_claimed => Kept::All,
                    _ if self.limits == Limits::WithoutToken => Kept::WithoutClaims,
                    _ => Kept::Nothing,
                };
                if kept != Kept::All {
                    refunds.extend(charged_by_claims);
                }
                if kept == Kept::Nothing {
                    refunds.extend(charged);
                }
                let (mut due, replay) =
                    guarded.map_or_else(Default::default, |guarded| (guarded.due, guarded.replay));
                let mut denial = Denial { report, reason, replay, refunds: Vec::new() };
                if kept != Kept::Nothing {
                    // What is kept was charged for an answer, which is ours.
                    let status = denial.status(&policy);
                    refunds.extend(due.uncounted(&policy, |limit, statuses| {
                        (kept == Kept::WithoutClaims && limit.counts_claims()) || statuses.include(status)
                    }));
                }
                denial.refunds = refunds.into_iter().filter_map(|owed| owed.pay(local, now)).collect();
                Decision::Deny(denial)
            }
            (None, None) => Decision::allow(report, Vec::new()),
            (None, Some(guarded)) => {
                let Guarded { onward, due, trust, .. } = *guarded;
                if let Some((guard, digest, time)) = trust
                    && report.passed_store(guard)
                {
                    local.unrevoked.insert(digest, Validity::new(began, time.as_millis()), now);
                }
                Decision::Allow(Admission { report, onward, completion: due.into_completion(policy) })
            }
        }
    }
}

/// Notes what limits charged that do not count every answer.
fn count(
    guarded: &mut Option<Box<Guarded>>,
    policy: &Policy,
    op: &Op,
    outcome: &Outcome,
    limits: impl Iterator<Item = usize>,
    to_memory: bool,
) {
    let Outcome::RateLimit { at, standings } = outcome else { return };
    for ((check, standing), limit) in op.checks().iter().zip(standings).zip(limits) {
        let counts_all = policy.limits().get(limit).is_none_or(|limit| *limit.count() == CountConfig::All);
        if !counts_all && check.is_charged(standing) {
            let op = Op::Refund { checks: Vec::from([check.clone()]), at: *at };
            guarded.get_or_insert_default().due.count(limit, Owed { op, to_memory });
        }
    }
}

//! A decision from beginning to end: [`begin`], [`Call::resume`], [`Decision::settle`].
//!
//! ```text
//! begin ─┬─ no limit, a denial remembered, memory only, store open ─▶ Step::Decide
//!        └─▶ Step::Call ── resume ─▶ Step::Decide
//! ```
//!
//! Each state owns the only value that goes on; a call that is dropped leaves nothing held.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::num::NonZeroU64;

use crate::config::{FailureMode, MAX_QUOTA};
use crate::key::{Digest, Key};
use crate::local::Local;
use crate::policy::{Limit, Policy, RouteLimit};
use crate::rate_limit::{Check, Retry, Standing};
use crate::request::Request;
use crate::store::memory::Shards;
use crate::store::{Op, Outcome, StoreError};
use crate::time::Timestamp;

/// What the host does next.
#[derive(Debug)]
pub enum Step {
    /// Perform [`Call::batch`] in one call to the store, then [`Call::resume`].
    Call(Call),
    /// The decision is made.
    Decide(Decision),
}

/// Begins a decision.
pub fn begin<S: Shards>(
    policy: &Arc<Policy>,
    local: &mut Local<S>,
    request: &dyn Request,
    now: Timestamp,
) -> Step {
    let path = policy.path(request);
    let mut report = Report { route: policy.find_route(&path, request), verdicts: Vec::new() };
    let Some(route) = report.route.and_then(|route| policy.routes().get(route)) else {
        return Step::Decide(Decision::Allow(report));
    };
    let mut ops = Vec::with_capacity(route.groups().len());
    // Limits of one group mostly ask about one subject.
    let mut latest: Option<(usize, Digest)> = None;
    for group in route.groups() {
        let mut checks = Vec::with_capacity(group.len());
        for place in group.iter().filter_map(|index| route.limits().get(*index)) {
            let (Some(limit), Some(parts)) =
                (policy.limits().get(place.limit), route.subjects().get(place.subject))
            else {
                continue;
            };
            let digest = match latest {
                Some((subject, digest)) if subject == place.subject => digest,
                _ => Digest::of(parts, policy.client_ip(), route.name(), &path, request),
            };
            latest = Some((place.subject, digest));
            let key = limit.keys().key(digest);
            let cost = limit.cost_of(request);
            if let Some(verdict) = remembered(local, place.limit, limit, &key, cost, now) {
                report.verdicts = Vec::from([verdict]);
                return Step::Decide(Decision::Deny(Denial { report, refunds: Vec::new() }));
            }
            checks.push(Check { key, quota: *limit.quota(), cost, enforced: limit.is_enforced() });
        }
        ops.push(Op::RateLimit(checks));
    }
    if ops.is_empty() {
        return Step::Decide(Decision::Allow(report));
    }
    Call { policy: Arc::clone(policy), ops, only: None, report, began: now }.leave(local, now)
}

/// Begins a decision about one limit, for a caller that knows whom it is about: `values` are what a request would say, one for
/// each part of the limit's key that is no constant, in their order; a path in normal form. It counts where requests of the
/// same values do.
///
/// Without `cost` it consumes what the limit says, or says where a request names none.
///
/// # Errors
/// The policy has no such limit, its key asks for other values, or the cost is beyond every quota.
pub fn begin_limit<S: Shards>(
    policy: &Arc<Policy>,
    local: &mut Local<S>,
    name: &str,
    values: &[&str],
    cost: Option<NonZeroU64>,
    now: Timestamp,
) -> Result<Step, LimitError> {
    let found = policy.limits().iter().enumerate().find(|(_, limit)| limit.name() == name);
    let (number, limit) = found.ok_or(LimitError::Unknown)?;
    if cost.is_some_and(|cost| cost.get() > MAX_QUOTA) {
        return Err(LimitError::Cost);
    }
    let digest = Digest::of_values(limit.key(), policy.client_ip(), values).ok_or(LimitError::Values)?;
    let (key, cost) = (limit.keys().key(digest), cost.map_or(limit.usual_cost(), NonZeroU64::get));
    let mut report = Report { route: None, verdicts: Vec::new() };
    if let Some(verdict) = remembered(local, number, limit, &key, cost, now) {
        report.verdicts.push(verdict);
        return Ok(Step::Decide(Decision::Deny(Denial { report, refunds: Vec::new() })));
    }
    let check = Check { key, quota: *limit.quota(), cost, enforced: limit.is_enforced() };
    let ops = Vec::from([Op::RateLimit(Vec::from([check]))]);
    Ok(Call { policy: Arc::clone(policy), ops, only: Some(number), report, began: now }.leave(local, now))
}

/// Why a limit cannot be asked by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitError {
    /// The policy has no limit of this name.
    Unknown,
    /// Its key has more or fewer parts than there are values, or one that has to be an address is none.
    Values,
    /// The cost is above 1,000,000,000.
    Cost,
}

/// A denial that is still known.
fn remembered<S: Shards>(
    local: &mut Local<S>,
    number: usize,
    limit: &Limit,
    key: &Key,
    cost: u64,
    now: Timestamp,
) -> Option<Verdict> {
    let standing = if limit.is_enforced() { local.denials.find(key, cost, now) } else { None }?;
    Some(Verdict {
        limit: number,
        ruling: Ruling::Refused,
        standing: Some(standing),
        source: Source::Denials,
    })
}

/// A decision that waits for the store.
#[derive(Debug)]
pub struct Call {
    policy: Arc<Policy>,
    /// One for each group of the route, with a check for each limit of the group.
    ops: Vec<Op>,
    /// The only limit, if it was asked by its name.
    only: Option<usize>,
    report: Report,
    began: Timestamp,
}

impl AsRef<[Op]> for Call {
    fn as_ref(&self) -> &[Op] {
        self.batch()
    }
}

impl Call {
    /// The operations to perform, each atomic for itself.
    pub fn batch(&self) -> &[Op] {
        &self.ops
    }

    /// When the decision began.
    pub fn began(&self) -> Timestamp {
        self.began
    }

    /// Asks the store, or decides at once where it is not to be asked.
    fn leave<S: Shards>(self, local: &mut Local<S>, now: Timestamp) -> Step {
        let outcomes: Vec<_> = match local.store.as_mut().map(|health| health.admits(now)) {
            Some(true) => return Step::Call(self),
            Some(false) => self.ops.iter().map(|_| Err(StoreError::Open)).collect(),
            None => self.ops.iter().map(|op| local.memory.perform(op, now)).collect(),
        };
        self.resume(local, outcomes, now)
    }

    /// Goes on with what the store answered, operation by operation; a missing outcome counts as a failed one.
    pub fn resume<S: Shards>(
        self,
        local: &mut Local<S>,
        outcomes: impl IntoIterator<Item = Result<Outcome, StoreError>>,
        now: Timestamp,
    ) -> Step {
        let Self { policy, ops, only, mut report, began } = self;
        let mut outcomes = outcomes.into_iter();
        let (mut refunds, mut own) = (Vec::new(), Vec::new());
        let route = report.route.and_then(|route| policy.routes().get(route));
        let only = only.map(|limit| ([RouteLimit { limit, subject: 0 }], [Vec::from([0])]));
        let (limits, groups) = match (route, &only) {
            (Some(route), _) => (route.limits(), route.groups()),
            (None, Some((limits, groups))) => (&limits[..], &groups[..]),
            (None, None) => (&[][..], &[][..]),
        };
        report.verdicts.reserve_exact(limits.len());
        // An operation alone either admits or charges nothing.
        let alone = ops.len() == 1;
        for (op, group) in ops.into_iter().zip(groups) {
            let numbers = group.iter().filter_map(|index| limits.get(*index)).map(|place| place.limit);
            match outcomes.next().unwrap_or(Err(StoreError::Garbage)) {
                Ok(outcome) => {
                    decided(&policy, &op, &outcome, numbers, local, began, &mut report.verdicts);
                    if !alone {
                        refunds.extend(refund(op, &outcome));
                    }
                }
                Err(error) => {
                    let numbers: Vec<usize> = numbers.collect();
                    let (verdicts, given_back) = degraded(&policy, op.checks(), &error, &numbers, local, now);
                    report.verdicts.extend(verdicts);
                    own.extend(given_back);
                }
            }
        }
        if groups.len() > 1 {
            let of = |place: &RouteLimit| report.verdicts.iter().find(|verdict| verdict.limit == place.limit);
            report.verdicts = limits.iter().filter_map(of).copied().collect();
        }
        let denied = report.verdicts.iter().any(Verdict::refuses);
        Step::Decide(if denied {
            // What was charged to this instance's memory needs no call to be given back.
            own.into_iter().for_each(|op| drop(local.memory.perform(&op, now)));
            Decision::Deny(Denial { report, refunds })
        } else {
            Decision::Allow(report)
        })
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    /// Forward it.
    Allow(Report),
    /// Refuse it, with [`answer::denial`](crate::answer::denial).
    Deny(Denial),
}

impl Decision {
    /// How the decision came about.
    pub fn report(&self) -> &Report {
        match self {
            Self::Allow(report) | Self::Deny(Denial { report, .. }) => report,
        }
    }

    /// What is left to tell the store, without anybody waiting for it: counters of other hash tags that charged
    /// a request which was refused after all give it back.
    pub fn settle(&mut self) -> Vec<Op> {
        match self {
            Self::Allow(_) => Vec::new(),
            Self::Deny(denial) => core::mem::take(&mut denial.refunds),
        }
    }
}

/// A refusal.
#[derive(Debug)]
pub struct Denial {
    report: Report,
    /// What the store charged although the request was refused.
    refunds: Vec<Op>,
}

impl Denial {
    /// How the decision came about.
    pub fn report(&self) -> &Report {
        &self.report
    }
}

/// How a decision came about.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// The number of the route taken, of [`Policy::routes`].
    pub route: Option<usize>,
    /// What each limit said; only the one that refused if it was remembered.
    pub verdicts: Vec<Verdict>,
}

impl Report {
    /// The modes in which limits were decided without the store, without repetition.
    pub fn degraded(&self) -> impl Iterator<Item = FailureMode> {
        let modes = [FailureMode::Deny, FailureMode::Local, FailureMode::Allow];
        modes.into_iter().filter(|mode| {
            self.verdicts.iter().any(|verdict| matches!(verdict.source, Source::Degraded(of) if of == *mode))
        })
    }
}

/// What one limit said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The limit's number, of [`Policy::limits`].
    pub limit: usize,
    /// What it said.
    pub ruling: Ruling,
    /// How its counter stands, where a counter was asked.
    pub standing: Option<Standing>,
    /// Who decided.
    pub source: Source,
}

impl Verdict {
    /// Whether the request is refused because of it.
    pub fn refuses(&self) -> bool {
        matches!(self.ruling, Ruling::Refused | Ruling::Unavailable)
    }
}

/// What a limit said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// There was room.
    Admitted,
    /// There was none.
    Refused,
    /// There was none, but the limit is in shadow mode.
    ShadowRefused,
    /// The store could not be asked, and the policy refuses then.
    Unavailable,
}

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The store, or the embedded memory where there is none.
    Store,
    /// A denial remembered here.
    Denials,
    /// The store could not be asked; this is what the policy says then.
    Degraded(FailureMode),
}

/// Gives back what `op` charged; checks in shadow mode without room were not, and have nothing to be given back.
fn refund(op: Op, outcome: &Outcome) -> Option<Op> {
    let admitted = outcome.admitted(op.checks());
    let (true, Op::RateLimit(mut checks), Outcome::RateLimit { at, standings }) = (admitted, op, outcome)
    else {
        return None;
    };
    let mut standings = standings.iter();
    checks.retain(|check| standings.next().is_some_and(|standing| check.is_charged(standing)));
    (!checks.is_empty()).then_some(Op::Refund { checks, at: *at })
}

/// Adds the verdicts on an operation that was performed.
fn decided<S: Shards>(
    policy: &Policy,
    op: &Op,
    outcome: &Outcome,
    limits: impl Iterator<Item = usize>,
    local: &mut Local<S>,
    began: Timestamp,
    verdicts: &mut Vec<Verdict>,
) {
    let Outcome::RateLimit { standings, .. } = outcome else { return };
    for ((check, standing), limit) in op.checks().iter().zip(standings).zip(limits) {
        if check.enforced {
            let refundable = policy.limits().get(limit).is_some_and(Limit::is_refundable);
            local.denials.remember(&check.key, check.cost, standing, refundable, began);
        }
        verdicts.push(verdict(limit, check, standing, Source::Store));
    }
}

/// Verdicts on an operation that the store did not perform, as `on_store_error` of each limit says; and the refund of
/// what this instance's memory charged in its place.
fn degraded<S: Shards>(
    policy: &Policy,
    checks: &[Check],
    error: &StoreError,
    limits: &[usize],
    local: &mut Local<S>,
    now: Timestamp,
) -> (Vec<Verdict>, Option<Op>) {
    let mode = |limit: &usize| match policy.limits().get(*limit).map(|limit| limit.on_store_error()) {
        // The memory itself was the store: there is nothing left to fall back on.
        Some(FailureMode::Local) if *error == StoreError::Contention => FailureMode::Deny,
        mode => mode.unwrap_or_default(),
    };
    let shares: Vec<Check> = checks
        .iter()
        .zip(limits)
        .filter(|(_, limit)| mode(limit) == FailureMode::Local)
        .map(|(check, _)| share(check, local.instances))
        .collect();
    let op = Op::RateLimit(shares);
    let performed = if op.checks().is_empty() { None } else { local.memory.perform(&op, now).ok() };
    let mut standings = match &performed {
        Some(Outcome::RateLimit { standings, .. }) => standings.iter(),
        _ => [].iter(),
    };
    let verdicts = checks
        .iter()
        .zip(limits)
        .map(|(check, limit)| {
            let mode = mode(limit);
            let source = Source::Degraded(mode);
            let standing = if mode == FailureMode::Local { standings.next() } else { None };
            match (mode, standing) {
                (FailureMode::Local, Some(standing)) => verdict(*limit, check, standing, source),
                (FailureMode::Allow, _) => {
                    Verdict { limit: *limit, ruling: Ruling::Admitted, standing: None, source }
                }
                (FailureMode::Deny | FailureMode::Local, _) => {
                    let ruling = if check.enforced { Ruling::Unavailable } else { Ruling::ShadowRefused };
                    Verdict { limit: *limit, ruling, standing: None, source }
                }
            }
        })
        .collect();
    (verdicts, performed.and_then(|outcome| refund(op, &outcome)))
}

/// The same check against this instance's share of the quota, at a cost that fits into it.
fn share(check: &Check, instances: u32) -> Check {
    let quota = check.quota.share(instances);
    Check { key: check.key.clone(), quota, cost: check.cost.min(quota.capacity()), enforced: check.enforced }
}

fn verdict(limit: usize, check: &Check, standing: &Standing, source: Source) -> Verdict {
    let ruling = match (standing.retry, check.enforced) {
        (Retry::Now, _) => Ruling::Admitted,
        (_, true) => Ruling::Refused,
        (_, false) => Ruling::ShadowRefused,
    };
    Verdict { limit, ruling, standing: Some(*standing), source }
}

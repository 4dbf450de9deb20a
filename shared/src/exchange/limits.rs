//! What outcomes mean for rate limits.

use alloc::vec::Vec;

use super::subjects::Subjects;
use super::{Ruling, Source, Verdict};
use crate::config::FailureMode;
use crate::key::Key;
use crate::local::Local;
use crate::policy::{Limit, Policy, Route};
use crate::rate_limit::{Check, Retry, Standing};
use crate::store::memory::Shards;
use crate::store::{Op, Outcome, StoreError};
use crate::time::Timestamp;

/// The checks of a route's limits, each made once: some before the token is looked at, the others after.
pub(super) struct Checks<'a> {
    policy: &'a Policy,
    route: &'a Route,
    /// By the place of the limit; empty if none were made before.
    made: Vec<Option<Check>>,
}

impl<'a> Checks<'a> {
    pub(super) fn new(policy: &'a Policy, route: &'a Route) -> Self {
        Self { policy, route, made: Vec::new() }
    }

    /// Makes those of limits that need no token.
    ///
    /// # Errors
    /// One of them is known to refuse the request.
    pub(super) fn make_without_token<S: Shards>(
        &mut self,
        local: &mut Local<S>,
        subjects: &Subjects<'_>,
        now: Timestamp,
    ) -> Result<(), Verdict> {
        let groups = self.route.groups_without_token();
        if !groups.is_empty() {
            self.made.resize(self.route.limits().len(), None);
        }
        for index in groups.iter().flatten().copied() {
            let check = self.make(index, local, subjects, now)?;
            if let Some(made) = self.made.get_mut(index) {
                *made = check;
            }
        }
        Ok(())
    }

    /// An operation for each group of limits.
    ///
    /// # Errors
    /// One of them is known to refuse the request.
    pub(super) fn into_ops<S: Shards>(
        mut self,
        groups: &[Vec<usize>],
        local: &mut Local<S>,
        subjects: &Subjects<'_>,
        now: Timestamp,
    ) -> Result<Vec<Op>, Verdict> {
        let mut ops = Vec::with_capacity(groups.len());
        for group in groups {
            let mut checks = Vec::with_capacity(group.len());
            for index in group.iter().copied() {
                let made = self.made.get_mut(index).and_then(Option::take);
                checks.extend(if made.is_some() { made } else { self.make(index, local, subjects, now)? });
            }
            ops.push(Op::RateLimit(checks));
        }
        Ok(ops)
    }

    fn make<S: Shards>(
        &self,
        index: usize,
        local: &mut Local<S>,
        subjects: &Subjects<'_>,
        now: Timestamp,
    ) -> Result<Option<Check>, Verdict> {
        let Some(place) = self.route.limits().get(index) else { return Ok(None) };
        let Some(limit) = self.policy.limits().get(place.limit) else { return Ok(None) };
        let key = limit.keys().key(subjects.get(place.subject).digest);
        let cost = limit.cost_of(subjects.facts().request);
        match remembered(local, place.limit, limit, &key, cost, now) {
            Some(verdict) => Err(verdict),
            None => Ok(Some(Check { key, quota: *limit.quota(), cost, enforced: limit.is_enforced() })),
        }
    }
}

/// A denial that is still known.
pub(super) fn remembered<S: Shards>(
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

/// Gives back what `op` charged for limits of these numbers: first for those that count by claims, then for the others. Checks in
/// shadow mode without room were not charged, and have nothing to be given back.
pub(super) fn refunds(
    policy: &Policy,
    op: Op,
    outcome: &Outcome,
    limits: impl Iterator<Item = usize>,
) -> [Option<Op>; 2] {
    let admitted = outcome.admitted(op.checks());
    let (true, Op::RateLimit(mut checks), Outcome::RateLimit { at, standings }) = (admitted, op, outcome)
    else {
        return [None, None];
    };
    let mut standings = standings.iter();
    let mut limits = limits.filter_map(|limit| policy.limits().get(limit));
    let mut of_claims = Vec::new();
    checks.retain(|check| {
        let is_charged = standings.next().is_some_and(|standing| check.is_charged(standing));
        let counts_claims = limits.next().is_some_and(Limit::counts_claims);
        if is_charged && counts_claims {
            of_claims.push(check.clone());
        }
        is_charged && !counts_claims
    });
    [of_claims, checks].map(|checks| (!checks.is_empty()).then_some(Op::Refund { checks, at: *at }))
}

/// Adds the verdicts on an operation that was performed, and calls `refused` with each check that was and the number of its limit.
pub(super) fn decided(
    op: &Op,
    outcome: &Outcome,
    limits: impl Iterator<Item = usize>,
    verdicts: &mut Vec<Verdict>,
    refused: &mut dyn FnMut(&Check, &Standing, usize),
) {
    let Outcome::RateLimit { standings, .. } = outcome else { return };
    for ((check, standing), limit) in op.checks().iter().zip(standings).zip(limits) {
        let verdict = verdict(limit, check, standing, Source::Store);
        if verdict.ruling == Ruling::Refused {
            refused(check, standing, limit);
        }
        verdicts.push(verdict);
    }
}

/// A check that was refused, to be remembered.
pub(super) struct Refused {
    key: Key,
    cost: u64,
    standing: Standing,
    /// Whether what filled the counter may be given back.
    is_refundable: bool,
    /// Whether the counter is that of what a token claims.
    pub(super) counts_claims: bool,
}

impl Refused {
    pub(super) fn new(policy: &Policy, check: &Check, standing: &Standing, limit: usize) -> Self {
        let limit = policy.limits().get(limit);
        Self {
            key: check.key.clone(),
            cost: check.cost,
            standing: *standing,
            is_refundable: limit.is_some_and(Limit::is_refundable),
            counts_claims: limit.is_some_and(Limit::counts_claims),
        }
    }

    /// Has `local` remember it, as of when the call began.
    pub(super) fn remember<S: Shards>(self, local: &mut Local<S>, began: Timestamp) {
        let Self { key, cost, standing, is_refundable, .. } = self;
        local.denials.remember(key, cost, &standing, is_refundable, began);
    }
}

/// What this instance's memory did in the place of the store.
pub(super) struct Performed {
    pub(super) op: Op,
    pub(super) outcome: Outcome,
    /// The numbers of the limits that it is about.
    pub(super) limits: Vec<usize>,
}

/// Verdicts on an operation that the store did not perform, as `on_store_error` of each limit says; and what this instance's
/// memory did in its place.
pub(super) fn degraded<S: Shards>(
    policy: &Policy,
    checks: &[Check],
    error: &StoreError,
    limits: &[usize],
    local: &mut Local<S>,
    now: Timestamp,
) -> (Vec<Verdict>, Option<Performed>) {
    let mode = |limit: &usize| match policy.limits().get(*limit).map(|limit| limit.on_store_error()) {
        // The memory itself was the store: there is nothing left to fall back on.
        Some(FailureMode::Local) if *error == StoreError::Contention => FailureMode::Deny,
        mode => mode.unwrap_or_default(),
    };
    let locals = checks.iter().zip(limits).filter(|(_, limit)| mode(limit) == FailureMode::Local);
    let (shares, numbers): (Vec<Check>, Vec<usize>) =
        locals.map(|(check, limit)| (share(check, local.instances), *limit)).unzip();
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
    (verdicts, performed.map(|outcome| Performed { op, outcome, limits: numbers }))
}

/// The same check against this instance's share of the quota, at a cost that fits into it.
pub(super) fn share(check: &Check, instances: u32) -> Check {
    let quota = check.quota.share(instances);
    Check { key: check.key.clone(), quota, cost: check.cost.min(quota.capacity()), enforced: check.enforced }
}

pub(super) fn verdict(limit: usize, check: &Check, standing: &Standing, source: Source) -> Verdict {
    let ruling = match (standing.retry, check.enforced) {
        (Retry::Now, _) => Ruling::Admitted,
        (_, true) => Ruling::Refused,
        (_, false) => Ruling::ShadowRefused,
    };
    Verdict { limit, ruling, standing: Some(*standing), source }
}

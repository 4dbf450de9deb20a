//! A decision from beginning to end: [`begin`], [`Call::resume`], [`Decision::settle`]; and what is left to do with the answer to
//! a request that was let through, [`Completion`].
//!
//! ```text
//! begin ─┬─ nothing to ask, a denial remembered, memory only, store open ──────────────▶ Step::Decide
//!        ├─▶ Step::FetchKeys ─▶ begin
//!        ├─▶ Step::Verify ─ resume ─┐
//!        └──────────────────────────┴▶ Step::Call (screen) ─ resume ─┬─ refused, or all ─▶ Step::Decide
//!                                                                    └▶ Step::Call (claim) ─ resume ─┬▶ Step::Decide
//!                                                                            ▲                       └▶ Step::Later ─┐
//!                                                                            └─────────────── resume ────────────────┘
//! ```
//!
//! What is *screened* only reads or counts: revocations, limits, the view of a breaker. What is *claimed* is held: a probe, a mark,
//! a lock. It is claimed after everything that can refuse, and what is claimed beside something that refuses is given back.
//!
//! Each state owns the only value that goes on; a call that is dropped leaves nothing held for longer than its time.

mod call;
mod completion;
mod guards;
mod later;
mod limits;
mod report;
mod subjects;
mod token;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::num::NonZeroU64;

use crate::config::MAX_QUOTA;
use crate::idempotency::StoredResponse;
use crate::jwt::TokenError;
use crate::key::{Digest, Facts};
use crate::local::Local;
use crate::policy::{Guard, Policy, Rule};
use crate::rate_limit::Check;
use crate::request::Request;
use crate::store::Op;
use crate::store::memory::Shards;
use crate::time::Timestamp;

pub use call::Call;
pub use completion::{Before, Completion, Revoking};
pub use later::Later;
pub use report::{GuardVerdict, Report, Ruling, Source, Verdict};
pub use token::Verify;

use limits::Checks;
use subjects::Subjects;
use token::Identity;

/// What the host does next.
#[derive(Debug)]
pub enum Step {
    /// Perform [`Call::batch`] in one call to the store, then [`Call::resume`].
    Call(Call),
    /// Have the platform verify a signature, then [`Verify::resume`]. Never where the core verifies all, with the feature `asymmetric`.
    Verify(Verify),
    /// Fetch the keys of [`JwtPolicy::jwks`](crate::jwt::JwtPolicy::jwks), once for all who wait for them; then
    /// [`Local::keys_fetched`], whatever came, and begin the decision anew.
    FetchKeys,
    /// Wait for [`Later::after`], then [`Later::resume`].
    Later(Later),
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
    begin_with(policy, local, request, None, now)
}

/// Begins a decision about a request of whose token's signature it may be known already whether it holds.
fn begin_with<S: Shards>(
    policy: &Arc<Policy>,
    local: &mut Local<S>,
    request: &dyn Request,
    holds: Option<bool>,
    now: Timestamp,
) -> Step {
    let path = policy.path(request);
    let Ok(found) = policy.find_route(&path, request) else {
        return Step::Decide(Decision::deny(Report::of_route(None), Reason::AmbiguousPath));
    };
    let mut report = Report::of_route(found);
    let Some(route) = report.route.and_then(|route| policy.routes().get(route)) else {
        return Step::Decide(Decision::allow(report, forged(policy, request)));
    };
    let facts = Facts {
        client_ip: policy.client_ip(),
        route: route.name(),
        path: &path,
        request,
        claims: None,
        is_exact: false,
    };
    let (subjects, mut checks) = (Subjects::new(route, facts), Checks::new(policy, route));
    let refused = |mut report: Report, verdict| {
        report.verdicts = Vec::from([verdict]);
        Step::Decide(Decision::deny(report, Reason::Limits))
    };
    // Verifying signatures costs more than anything else: a client that is known to be refused cannot ask for it.
    if let Err(verdict) = checks.make_without_token(local, &subjects, now) {
        return refused(report, verdict);
    }
    let bearer = match token::identify(policy, route, local, request, holds, &mut report, now) {
        Identity::Known(bearer) => bearer,
        Identity::Ask(verify) => return Step::Verify(verify),
        Identity::NoKeys => return Step::FetchKeys,
        Identity::Refused(reason) => {
            return match checks.into_ops(route.groups_without_token(), local, &subjects, now) {
                Ok(ops) => Call::new(policy, ops, report, now).refusing(reason).leave(local, now),
                Err(verdict) => refused(report, verdict),
            };
        }
    };
    let subjects = subjects.with_claims(bearer.as_deref().map(|bearer| &bearer.claims));
    let ops = match checks.into_ops(route.groups(), local, &subjects, now) {
        Ok(ops) => ops,
        Err(verdict) => return refused(report, verdict),
    };
    let mut call = Call::new(policy, ops, report, now);
    call.take_away(forged(policy, request));
    match call.add_guards(route, local, &subjects, bearer.as_deref(), now) {
        Ok(()) => call.leave(local, now),
        Err(reason) => Step::Decide(Decision::deny(call.into_report(), reason)),
    }
}

/// Header fields in which a client speaks as our guards do. They are taken away on every route: an upstream that believes a
/// fence on one route would believe it on another.
fn forged(policy: &Policy, request: &dyn Request) -> Vec<(&'static str, Option<String>)> {
    let is_there = |name: &&'static str| {
        let mut is_there = false;
        request.header(name, &mut |_| is_there = true);
        is_there
    };
    policy.reserved().iter().copied().filter(is_there).map(|name| (name, None)).collect()
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
    let mut report = Report::of_route(None);
    if let Some(verdict) = limits::remembered(local, number, limit, &key, cost, now) {
        report.verdicts.push(verdict);
        return Ok(Step::Decide(Decision::deny(report, Reason::Limits)));
    }
    let check = Check { key, quota: *limit.quota(), cost, enforced: limit.is_enforced() };
    let ops = Vec::from([Op::RateLimit(Vec::from([check]))]);
    Ok(Call::new(policy, ops, report, now).about(number).leave(local, now))
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

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    /// Forward it.
    Allow(Admission),
    /// Refuse it, with [`answer::denial`](crate::answer::denial).
    Deny(Denial),
}

impl Decision {
    fn allow(report: Report, onward: Vec<(&'static str, Option<String>)>) -> Self {
        Self::Allow(Admission { report, onward, completion: None })
    }

    fn deny(report: Report, reason: Reason) -> Self {
        Self::Deny(Denial { report, reason, replay: None, refunds: Vec::new() })
    }

    /// How the decision came about.
    pub fn report(&self) -> &Report {
        match self {
            Self::Allow(Admission { report, .. }) | Self::Deny(Denial { report, .. }) => report,
        }
    }

    /// What is left to tell the store, without anybody waiting for it: what charged or held something for a request which was
    /// refused after all gives it back.
    pub fn settle(&mut self) -> Vec<Op> {
        match self {
            Self::Allow(_) => Vec::new(),
            Self::Deny(denial) => core::mem::take(&mut denial.refunds),
        }
    }
}

/// A request that is let through.
#[derive(Debug)]
pub struct Admission {
    report: Report,
    onward: Vec<(&'static str, Option<String>)>,
    completion: Option<Completion>,
}

impl Admission {
    /// How the decision came about.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Header fields that the upstream is to see with these values, or not at all: whatever the client sent.
    pub fn onward(&self) -> impl Iterator<Item = (&'static str, Option<&str>)> {
        self.onward.iter().map(|(name, value)| (*name, value.as_deref()))
    }

    /// What is left to do with the answer, the first time; `None` if there is nothing.
    pub fn completion(&mut self) -> Option<Completion> {
        self.completion.take()
    }
}

/// A refusal.
#[derive(Debug)]
pub struct Denial {
    report: Report,
    reason: Reason,
    replay: Option<StoredResponse>,
    /// What the store charged or holds although the request was refused.
    refunds: Vec<Op>,
}

impl Denial {
    /// How the decision came about.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Why.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// The status that it is answered with.
    pub fn status(&self, policy: &Policy) -> u16 {
        let guard = |number: usize| policy.guards().get(number).map(Guard::rule);
        match self.reason {
            Reason::AmbiguousPath | Reason::AmbiguousKey | Reason::IdempotencyKey { .. } => 400,
            // Or nobody can tell.
            Reason::Limits if self.report.verdicts.iter().any(|v| v.ruling == Ruling::Refused) => 429,
            Reason::Limits | Reason::Open { .. } => 503,
            Reason::Token(_) | Reason::Revoked => 401,
            Reason::Locked { guard: number, .. } => match guard(number) {
                Some(Rule::Lock { status, .. }) => *status,
                _ => 409,
            },
            Reason::InProgress => 409,
            Reason::Mismatch => 422,
            Reason::Replay => self.replay().and_then(StoredResponse::parts).map_or(409, |parts| parts.status),
            Reason::Duplicate(number) => match guard(number) {
                Some(Rule::Dedup { status, .. }) => *status,
                _ => 200,
            },
            Reason::Unavailable(number) => match guard(number) {
                Some(Rule::Revocation { unavailable_status, .. }) => *unavailable_status,
                _ => 503,
            },
        }
    }

    /// The answer that was given to this request before, for [`Reason::Replay`].
    pub fn replay(&self) -> Option<&StoredResponse> {
        self.replay.as_ref()
    }
}

/// Why a request is refused: the first reason, in the order in which guards are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Servers may read its path as several, which take different guarded routes.
    AmbiguousPath,
    /// What the limits said.
    Limits,
    /// Its token does not hold, or it has none.
    Token(TokenError),
    /// Its token was revoked.
    Revoked,
    /// The upstream is left alone, for so many more milliseconds.
    Open {
        /// Milliseconds.
        for_ms: u64,
    },
    /// The key of a guard that holds something for it has several values.
    AmbiguousKey,
    /// It has no idempotency key, or one that cannot be read.
    IdempotencyKey {
        /// There is none.
        is_missing: bool,
    },
    /// The same request is being carried out.
    InProgress,
    /// Its idempotency key was used for another request.
    Mismatch,
    /// It was carried out before, and its answer is given again.
    Replay,
    /// It is a duplicate, by the guard of this number.
    Duplicate(usize),
    /// Another request holds the lock.
    Locked {
        /// Which guard's.
        guard: usize,
        /// Milliseconds until it is free in any case.
        for_ms: u64,
    },
    /// The store could not be asked, and the guard of this number refuses then.
    Unavailable(usize),
}

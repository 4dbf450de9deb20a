//! What people and programs do with a limit or a guard of the policy, by its name: on the [control path](crate::control), and in
//! functions that have no request at hand.
//!
//! ```text
//! begin ─┬─▶ Step::Call(call)  ── the host performs call.batch() ──▶ call.resume ─▶ Ended
//!        └─▶ Step::Done(ended)                                        without a store, or while it is left alone
//! ```
//!
//! It concerns what requests of the same values concern. Unlike a request it knows no `on_store_error`: who asked is told that the
//! store could not be, and a wrong *done* would be worse than a failure.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde_json::Value;

use crate::circuit_breaker::{BreakerState, Force};
use crate::config::KeyPart;
use crate::id::Holder;
use crate::jwt::{JwtPolicy, Token, TokenError, digest_of_id, digest_of_subject};
use crate::key::{Digest, Key};
use crate::local::{Local, breakers};
use crate::policy::{Guard, Policy, Rule};
use crate::rate_limit::Check;
use crate::revocation::{Reach, time_to_live};
use crate::store::memory::Shards;
use crate::store::{Op, Outcome, StoreError};
use crate::time::{Span, Timestamp};

/// What is to be done with the limit or guard called `name`. Where it has a key, `key` says for whom: what a request would say,
/// a value for each of its parts that is no constant, in their order; a path in normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are explained above and in each variant")]
pub enum Action<'a> {
    /// Says how the counter of a limit stands, and charges nothing: [`Done::Counter`].
    InspectLimit { name: &'a str, key: &'a [&'a str] },
    /// Has the counter of a limit start afresh: [`Done::Reset`].
    ResetLimit { name: &'a str, key: &'a [&'a str] },
    /// Says what a circuit breaker does with calls: [`Done::Breaker`].
    InspectBreaker { name: &'a str },
    /// Sets a circuit breaker by hand: [`Done::Breaker`] as it is then.
    SetBreaker { name: &'a str, to: Force },
    /// Takes a lock, for as long as the policy says or for `lease`: [`Done::Acquired`] or [`Done::Held`]. Without `holder` it is
    /// for a new one; whoever names himself may ask again if the answer is lost.
    Acquire { name: &'a str, key: &'a [&'a str], holder: Option<Holder>, lease: Option<Span> },
    /// Makes a lock end no earlier than that from now: [`Done::Acquired`] or [`Done::Lost`].
    Extend { name: &'a str, key: &'a [&'a str], holder: Holder, lease: Option<Span> },
    /// Ends a lock: [`Done::Released`] or [`Done::Lost`].
    Release { name: &'a str, key: &'a [&'a str], holder: Holder },
    /// Notes what a `dedup` guard takes for the same: [`Done::Acquired`] the first time, and [`Done::Held`] until its time is over.
    /// For `holder` see [`Action::Acquire`].
    Mark { name: &'a str, key: &'a [&'a str], holder: Option<Holder> },
    /// Has the next of what a `dedup` guard takes for the same be the first: [`Done::Reset`].
    Forget { name: &'a str, key: &'a [&'a str] },
    /// Revokes tokens, for as long as they could be valid: [`Done::Revoked`].
    Revoke(Revoked<'a>),
}

/// Which tokens are revoked. Whether there are any is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked<'a> {
    /// This one, whose signature is not verified: it is who holds it that has to be kept out.
    Token(&'a str),
    /// The one whose `jti` is this, among those of an issuer if tokens name theirs.
    Id {
        /// `iss`; the issuer of the policy, if it names one and nothing is said here.
        issuer: Option<&'a str>,
        /// `jti`.
        id: &'a str,
    },
    /// All that somebody was issued until now.
    Subject {
        /// `iss`, if tokens name it; the issuer of the policy, if it names one and nothing is said here.
        issuer: Option<&'a str>,
        /// `sub`.
        subject: &'a str,
    },
}

/// What has been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// How a counter stands.
    Counter {
        /// How much may pass at once: the quota, or the burst of `gcra`.
        limit: u64,
        /// How much could pass now.
        remaining: u64,
        /// Milliseconds until `remaining` grows; zero if all of it is there.
        reset_ms: u64,
    },
    /// What was kept is forgotten.
    Reset,
    /// What a circuit breaker does with calls.
    Breaker {
        /// What it does.
        state: BreakerState,
        /// Which time it has been open; zero while it is closed.
        generation: u64,
    },
    /// It is the holder's.
    Acquired {
        /// Whose; to be named when it is extended or released.
        holder: Holder,
        /// Of a lock, larger than the fence of every holder before; zero otherwise.
        fence: u64,
        /// Milliseconds for which it is, at least.
        for_ms: u64,
    },
    /// It is another one's.
    Held {
        /// Milliseconds until it is free in any case.
        for_ms: u64,
    },
    /// The lock has ended, or is another one's.
    Lost,
    /// The lock is free.
    Released,
    /// The tokens are valid no more.
    Revoked {
        /// Milliseconds for which that is remembered.
        for_ms: u64,
        /// Of a subject: in Unix seconds, the first `iat` of a token that is accepted again.
        new_from: Option<u64>,
    },
}

/// What the host does next.
#[derive(Debug)]
pub enum Step {
    /// Perform [`Call::batch`] in one call to the store, then [`Call::resume`].
    Call(Call),
    /// Nothing but what is left to settle.
    Done(Ended),
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// What has been done, or why it is not known to have been.
    pub result: Result<Done, StoreError>,
    /// Where instances may remember what was before: milliseconds from now after which it holds on
    /// all of them that have this policy and these settings. On the one that was asked it holds at
    /// once.
    pub everywhere_after_ms: Option<u64>,
    /// What the store is to be told then, without anybody waiting: that nobody has what was taken in vain.
    pub settle: Vec<Op>,
}

impl Ended {
    /// Adds to an object that tells what has been done when that holds everywhere.
    pub fn tell_when_everywhere(&self, told: &mut Value) {
        if let (Some(millis), Some(fields)) = (self.everywhere_after_ms, told.as_object_mut()) {
            fields.insert("everywhereAfterMs".into(), millis.into());
        }
    }
}

/// An action that waits for the store.
#[derive(Debug)]
pub struct Call {
    op: Op,
    about: About,
    /// As in [`Ended`], if it succeeds.
    everywhere_after_ms: Option<u64>,
}

/// What an operation is for.
#[derive(Clone, Copy, Debug)]
enum About {
    Counter {
        limit: u64,
    },
    Reset,
    /// The guard of this number.
    Breaker(usize),
    Lease {
        holder: Holder,
        is_drawn: bool,
        lease: Span,
    },
    Revocation {
        ttl: Span,
        of_subject: bool,
    },
}

/// Begins an action.
///
/// # Errors
/// It does not fit the policy, and nothing is done.
pub fn begin<S: Shards>(
    policy: &Policy,
    local: &mut Local<S>,
    action: &Action<'_>,
    now: Timestamp,
) -> Result<Step, ActionError> {
    let call = plan(policy, local, action, now)?;
    let outcome = match local.store.as_mut().map(|health| health.admits(now)) {
        Some(true) => return Ok(Step::Call(call)),
        Some(false) => Err(StoreError::Open),
        None => local.memory.perform(&call.op, now),
    };
    Ok(Step::Done(call.resume(local, [outcome], now)))
}

fn plan<S: Shards>(
    policy: &Policy,
    local: &mut Local<S>,
    action: &Action<'_>,
    now: Timestamp,
) -> Result<Call, ActionError> {
    let digest = |parts: &[KeyPart], key: &[&str]| {
        Digest::of_values(parts, policy.client_ip(), key).ok_or_else(|| ActionError::values(parts))
    };
    let limit = |name: &str, key: &[&str]| {
        let limit = policy.limits().iter().find(|limit| limit.name() == name);
        let limit = limit.ok_or(ActionError::Unknown("rate_limits"))?;
        Ok((limit.keys().key(digest(limit.key(), key)?), *limit.quota()))
    };
    let guard = |kind: &'static str, name: &str, key: &[&str]| {
        let mut guards = policy.guards().iter().filter(|guard| guard.name() == name);
        let found = guards.find_map(|guard| match guard.rule() {
            Rule::Lock { lease: span, .. } | Rule::Dedup { ttl: span, .. } if guard.rule().kind() == kind => {
                Some((guard, *span))
            }
            _ => None,
        });
        let (guard, span) = found.ok_or(ActionError::Unknown(kind))?;
        Ok((guard.keys().key(digest(guard.key(), key)?), span))
    };
    let lock = |name, key| guard("lock", name, key);
    let mark = |name, key| guard("dedup", name, key);
    let breaker = |name: &str| {
        let mut guards = policy.guards().iter().enumerate();
        let of_name = guards.find_map(|(number, guard)| match guard.rule() {
            Rule::CircuitBreaker { breaker, .. } if guard.name() == name => {
                Some((number, guard.keys().whole(), *breaker))
            }
            _ => None,
        });
        of_name.ok_or(ActionError::Unknown("circuit_breaker"))
    };
    let lease = |holder, is_drawn, lease| About::Lease { holder, is_drawn, lease };
    let everywhere_after_ms = match action {
        Action::ResetLimit { .. } => Some(local.denials.max_age()),
        Action::SetBreaker { .. } => Some(breakers::MAX_AGE),
        Action::Revoke(_) => Some(longest_trust(policy)),
        _ => None,
    };
    let (op, about) = match *action {
        Action::InspectLimit { name, key } => {
            let (key, quota) = limit(name, key)?;
            let limit = quota.capacity();
            // What costs more than all of it is refused, and says how the counter stands.
            let check = Check { key, quota, cost: limit.saturating_add(1), enforced: true };
            (Op::RateLimit(Vec::from([check])), About::Counter { limit })
        }
        Action::ResetLimit { name, key } => (Op::Reset { key: limit(name, key)?.0 }, About::Reset),
        Action::Forget { name, key } => (Op::Reset { key: mark(name, key)?.0 }, About::Reset),
        Action::InspectBreaker { name } => {
            let (number, key, breaker) = breaker(name)?;
            (Op::View { key, breaker }, About::Breaker(number))
        }
        Action::SetBreaker { name, to } => {
            let (number, key, breaker) = breaker(name)?;
            (Op::Force { key, breaker, to }, About::Breaker(number))
        }
        Action::Acquire { name, key, holder, lease: asked } => {
            let ((key, usual), drawn) = (lock(name, key)?, local.next_holder());
            let (about, asked) = (holder.unwrap_or(drawn), asked.unwrap_or(usual));
            let op = Op::Acquire { key, holder: about, lease: asked, fenced: true };
            (op, lease(about, holder.is_none(), asked))
        }
        Action::Mark { name, key, holder } => {
            let ((key, ttl), drawn) = (mark(name, key)?, local.next_holder());
            let about = holder.unwrap_or(drawn);
            let op = Op::Acquire { key, holder: about, lease: ttl, fenced: false };
            (op, lease(about, holder.is_none(), ttl))
        }
        Action::Extend { name, key, holder, lease: asked } => {
            let (key, usual) = lock(name, key)?;
            let asked = asked.unwrap_or(usual);
            (Op::Extend { key, holder, lease: asked }, lease(holder, false, asked))
        }
        Action::Release { name, key, holder } => {
            let (key, usual) = lock(name, key)?;
            (Op::Release { key, holder }, lease(holder, false, usual))
        }
        Action::Revoke(revoked) => {
            let (key, ttl) = revocation(policy, &revoked, now)?;
            let leeway = policy.jwt().map_or(0, JwtPolicy::leeway_millis);
            let reach = Reach { now, leeway, issued: Timestamp::default() };
            let of_subject = matches!(revoked, Revoked::Subject { .. });
            (Op::Revoke { key, ttl, reach }, About::Revocation { ttl, of_subject })
        }
    };
    Ok(Call { op, about, everywhere_after_ms })
}

/// Milliseconds for which a token may be believed not to be revoked.
fn longest_trust(policy: &Policy) -> u64 {
    let cache = |guard: &Guard| match guard.rule() {
        Rule::Revocation { cache, .. } => *cache,
        _ => None,
    };
    policy.guards().iter().filter_map(cache).max().map_or(0, Span::as_millis)
}

/// Under which key a revocation is kept, and for how long.
fn revocation(policy: &Policy, revoked: &Revoked<'_>, now: Timestamp) -> Result<(Key, Span), ActionError> {
    let asks = |guard: &&Guard| matches!(guard.rule(), Rule::Revocation { .. });
    let guard = policy.guards().iter().find(asks).ok_or(ActionError::NothingRevocable)?;
    let jwt = policy.jwt().ok_or(ActionError::NothingRevocable)?;
    let longest = jwt.max_age_millis();
    // Only tokens of the policy's issuer are accepted, so only those can be revoked.
    let known = |issuer| match (jwt.issuer(), issuer) {
        (Some(own), Some(other)) if own != other => Err(ActionError::Issuer),
        (own, issuer) => Ok(issuer.or(own)),
    };
    let (digest, ttl) = match *revoked {
        Revoked::Token(compact) => {
            let token = Token::parse(compact.as_bytes()).map_err(ActionError::Token)?;
            jwt.check_possible(&token).map_err(ActionError::Token)?;
            let last = jwt.last_use(token.claims());
            (token.digest(), last.ok_or(ActionError::Token(TokenError::NoExpiry))?.since(now))
        }
        // What lives longer than a revocation can be kept is let in nowhere.
        Revoked::Id { issuer, id } => {
            (digest_of_id(known(issuer)?, id), longest.unwrap_or(Span::MAX.as_millis()))
        }
        Revoked::Subject { issuer, subject } => {
            (digest_of_subject(known(issuer)?, subject), longest.ok_or(ActionError::Unbounded)?)
        }
    };
    Ok((guard.keys().key(digest), time_to_live(ttl)))
}

impl AsRef<[Op]> for Call {
    fn as_ref(&self) -> &[Op] {
        self.batch()
    }
}

impl Call {
    /// The operations to perform.
    pub fn batch(&self) -> &[Op] {
        core::slice::from_ref(&self.op)
    }

    /// Ends with what the store answered; a missing outcome counts as a failed one.
    pub fn resume<S: Shards>(
        self,
        local: &mut Local<S>,
        outcomes: impl IntoIterator<Item = Result<Outcome, StoreError>>,
        now: Timestamp,
    ) -> Ended {
        let outcome = outcomes.into_iter().next().unwrap_or(Err(StoreError::Garbage));
        let result = outcome.and_then(|outcome| self.read(&outcome).ok_or(StoreError::Garbage));
        if result.is_ok() && matches!(self.op, Op::Reset { .. } | Op::Revoke { .. } | Op::Force { .. }) {
            local.changed(&self.op, now);
            if let About::Breaker(number) = self.about {
                local.breakers.forget(number);
            }
        }
        // Nobody else knows a name that was drawn, and its bearer does not know whether he has what he asked for.
        let in_vain = matches!(self.about, About::Lease { is_drawn: true, .. });
        let was_asked = result.as_ref().is_err_and(StoreError::was_asked);
        let settle = if in_vain && was_asked { self.op.release() } else { None };
        let everywhere_after_ms = self.everywhere_after_ms.filter(|_| result.is_ok());
        Ended { result, everywhere_after_ms, settle: settle.into_iter().collect() }
    }

    fn read(&self, outcome: &Outcome) -> Option<Done> {
        Some(match (self.about, &self.op, outcome) {
            (About::Counter { limit }, _, Outcome::RateLimit { standings, .. }) => {
                let standing = standings.first()?;
                Done::Counter { limit, remaining: standing.remaining, reset_ms: standing.reset }
            }
            (About::Reset, _, Outcome::Reset) => Done::Reset,
            (About::Breaker(_), _, Outcome::Breaker { state, generation }) => {
                Done::Breaker { state: *state, generation: *generation }
            }
            (About::Lease { holder, lease, .. }, _, Outcome::Acquired { fence }) => {
                Done::Acquired { holder, fence: *fence, for_ms: lease.as_millis() }
            }
            (About::Lease { .. }, Op::Acquire { .. }, Outcome::Held { for_ms }) => {
                Done::Held { for_ms: *for_ms }
            }
            (About::Lease { .. }, Op::Extend { .. } | Op::Release { .. }, Outcome::Lost) => Done::Lost,
            (About::Lease { .. }, Op::Release { .. }, Outcome::Released) => Done::Released,
            (About::Revocation { ttl, of_subject }, _, Outcome::RevokedUpTo(before)) => {
                let new_from = of_subject.then(|| before.as_millis() / 1000 + 1);
                Done::Revoked { for_ms: ttl.as_millis(), new_from }
            }
            _ => return None,
        })
    }
}

/// Why something cannot be done by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionError {
    /// The policy has nothing of this kind, a field of its routes, that has this name.
    Unknown(&'static str),
    /// The key asks for other values, or one that has to be an address is none: these are its parts that are no constants.
    Values(String),
    /// No route of the policy has `revocation`.
    NothingRevocable,
    /// The policy accepts tokens of another issuer only.
    Issuer,
    /// `jwt` of the policy has no `max_lifetime`, so nobody knows how long what somebody was issued has to be remembered.
    Unbounded,
    /// It is no token that could be let in.
    Token(TokenError),
}

impl ActionError {
    fn values(parts: &[KeyPart]) -> Self {
        let asked = parts.iter().filter(|part| !matches!(part, KeyPart::Const(_)));
        Self::Values(asked.map(|part| format!("`{part}`")).collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Display for ActionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(kind) => write!(f, "the policy has no `{kind}` of this name"),
            Self::Values(parts) if parts.is_empty() => f.write_str("its key takes no values"),
            Self::Values(parts) => write!(f, "its key takes a value for each of {parts}"),
            Self::NothingRevocable => f.write_str("no route of the policy has `revocation`"),
            Self::Issuer => f.write_str("the policy accepts no tokens of this issuer (`jwt.issuer`)"),
            Self::Unbounded => f.write_str("`jwt` of the policy has no `max_lifetime`"),
            Self::Token(error) => f.write_str(error.description()),
        }
    }
}

impl core::error::Error for ActionError {}

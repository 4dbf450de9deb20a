//! What guards ask, and what outcomes mean for them.

use alloc::string::ToString as _;
use alloc::sync::Arc;

use super::call::Owed;
use super::later::Held;
use super::subjects::Subjects;
use super::{Call, Reason, Ruling, Source};
use crate::circuit_breaker::{BreakerState, CircuitBreaker};
use crate::config::{FailureMode, OnDuplicate, RevokesWhat, RevokesWhen};
use crate::jwt::{Bearer, JwtPolicy};
use crate::key::Parts;
use crate::local::{Local, View};
use crate::policy::{DUPLICATE, FENCE, Guard, Route, Rule};
use crate::revocation::{Reach, time_to_live};
use crate::store::memory::Shards;
use crate::store::{Op, Outcome, Probe, StoreError};
use crate::time::{Timestamp, Validity};

/// What an operation is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Of [`Policy::guards`](crate::policy::Policy::guards).
    pub(super) guard: usize,
    about: About,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    /// Whether the token is revoked.
    Token,
    /// Whether what its subject was issued at this time is.
    Subject { issued: Option<Timestamp> },
    /// What the breaker does.
    View,
    /// Whether this request may be a probe.
    Probe,
    /// Whether it is to be carried out.
    Reserve,
    /// Whether it is the first of its kind.
    Mark,
    /// Whether the lock is free.
    Lock,
    /// That the token is revoked.
    Revoke,
}

impl About {
    /// Whether `outcome` is one of those that such an operation can have.
    fn fits(self, outcome: &Outcome) -> bool {
        match self {
            Self::Token | Self::Subject { .. } => matches!(outcome, Outcome::Revoked(_)),
            Self::View => matches!(outcome, Outcome::Breaker { .. }),
            Self::Probe => matches!(outcome, Outcome::Breaker { .. } | Outcome::Probing { .. }),
            Self::Reserve => matches!(
                outcome,
                Outcome::Reserved { .. }
                    | Outcome::InProgress { .. }
                    | Outcome::Mismatch
                    | Outcome::Replay(_)
            ),
            Self::Mark | Self::Lock => matches!(outcome, Outcome::Acquired { .. } | Outcome::Held { .. }),
            Self::Revoke => matches!(outcome, Outcome::RevokedUpTo(_)),
        }
    }
}

impl Call {
    /// Adds what the guards of a route ask.
    ///
    /// # Errors
    /// What is known without asking: the request is refused.
    pub(super) fn add_guards<S: Shards>(
        &mut self,
        route: &Route,
        local: &mut Local<S>,
        subjects: &Subjects<'_>,
        bearer: Option<&Bearer>,
        now: Timestamp,
    ) -> Result<(), Reason> {
        if route.guards().is_empty() {
            return Ok(());
        }
        let policy = Arc::clone(&self.policy);
        for place in route.guards() {
            let number = place.guard;
            let Some(guard) = policy.guards().get(number) else { continue };
            match guard.rule() {
                // It was found before anything else.
                Rule::Token { .. } => {}
                Rule::Revocation { cache, .. } => {
                    let (Some(bearer), Some(jwt)) = (bearer, policy.jwt()) else { continue };
                    if cache.is_some() && local.unrevoked.has(&bearer.digest, now) {
                        self.report.add(number, Ruling::Admitted, Source::Store);
                    } else {
                        self.guarded().trust = cache.map(|time| (number, bearer.digest, time));
                        self.ask_for_revocations(number, guard, jwt, bearer);
                    }
                }
                Rule::CircuitBreaker { breaker, .. } => match local.breakers.view(number, now) {
                    View::Closed => {
                        self.report.add(number, Ruling::Admitted, Source::Store);
                        self.guarded().due.watch(number);
                    }
                    View::Open { for_ms } => {
                        let ruling = refused(guard);
                        self.report.add(number, ruling, Source::Store);
                        if ruling.refuses() {
                            return Err(Reason::Open { for_ms });
                        }
                    }
                    View::Unknown { successes } => {
                        self.ask(number, About::View, view(guard, breaker, successes, local));
                    }
                },
                Rule::Idempotency { required, lease, .. } => {
                    let caller = subjects.get(place.subject);
                    match subjects.idempotency_key(caller.digest) {
                        Ok(Some(_)) if caller.parts == Parts::Several => {
                            self.refuse_ambiguous(number, guard)?;
                        }
                        Ok(Some(digest)) => {
                            let (key, holder) = (guard.keys().key(digest), local.next_holder());
                            let fingerprint = subjects.fingerprint();
                            let reserve = Op::Reserve { key, holder, fingerprint, lease: *lease };
                            self.claim(number, About::Reserve, reserve);
                        }
                        Ok(None) if !required => self.report.add(number, Ruling::Admitted, Source::Store),
                        missing => {
                            let ruling = refused(guard);
                            self.report.add(number, ruling, Source::Store);
                            if ruling.refuses() {
                                return Err(Reason::IdempotencyKey { is_missing: missing.is_ok() });
                            }
                        }
                    }
                }
                Rule::Dedup { ttl, on_duplicate, .. } => {
                    if *on_duplicate == OnDuplicate::Mark {
                        self.speak_for(DUPLICATE);
                    }
                    let subject = subjects.exact(place.subject);
                    if subject.parts == Parts::Complete {
                        let (key, holder) = (guard.keys().key(subject.digest), local.next_holder());
                        self.claim(
                            number,
                            About::Mark,
                            Op::Acquire { key, holder, lease: *ttl, fenced: false },
                        );
                    } else {
                        // What cannot be told from others is not taken for one of them.
                        self.report.add(number, Ruling::Admitted, Source::Store);
                    }
                }
                Rule::Lock { lease, .. } => {
                    self.speak_for(FENCE);
                    let subject = subjects.get(place.subject);
                    if subject.parts == Parts::Several {
                        // Its upstream may take it for one that has the key once, and it would have a lock beside that one's.
                        self.refuse_ambiguous(number, guard)?;
                        continue;
                    }
                    let (key, holder) = (guard.keys().key(subject.digest), local.next_holder());
                    self.claim(number, About::Lock, Op::Acquire { key, holder, lease: *lease, fenced: true });
                }
                Rule::Revokes { what, when } => {
                    let (Some(bearer), Some(jwt), true) = (bearer, policy.jwt(), guard.is_enforced()) else {
                        continue;
                    };
                    for op in revoke(*what, guard, jwt, bearer, now) {
                        match when {
                            RevokesWhen::AtOnce => self.claim(number, About::Revoke, op),
                            RevokesWhen::Success => self.guarded().due.revoke(op),
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Refuses a request whose key has several values, unless the guard is in shadow mode.
    fn refuse_ambiguous(&mut self, number: usize, guard: &Guard) -> Result<(), Reason> {
        let ruling = refused(guard);
        self.report.add(number, ruling, Source::Store);
        if ruling.refuses() { Err(Reason::AmbiguousKey) } else { Ok(()) }
    }

    fn ask(&mut self, guard: usize, about: About, op: Op) {
        self.guarded().asked.push(Asked { guard, about });
        self.ops.push(op);
    }

    /// Asks for what another request held.
    pub(super) fn ask_again(&mut self, asked: Asked, op: Op) {
        self.ask(asked.guard, asked.about, op);
    }

    fn claim(&mut self, guard: usize, about: About, op: Op) {
        self.guarded().claims.push((Asked { guard, about }, op));
    }

    fn ask_for_revocations(&mut self, number: usize, guard: &Guard, jwt: &JwtPolicy, bearer: &Bearer) {
        self.ask(number, About::Token, Op::IsRevoked { key: guard.keys().key(bearer.digest) });
        if let (Some(_), Some(subject)) = (jwt.max_age_millis(), bearer.subject) {
            let about = About::Subject { issued: bearer.claims.issued() };
            self.ask(number, about, Op::IsRevoked { key: guard.keys().key(subject) });
        }
    }

    /// Goes on with what became of an operation that a guard asked for.
    pub(super) fn judge_guard<S: Shards>(
        &mut self,
        local: &mut Local<S>,
        Asked { guard: number, about }: Asked,
        op: &Op,
        outcome: Result<Outcome, StoreError>,
        now: Timestamp,
    ) {
        let policy = Arc::clone(&self.policy);
        let Some(guard) = policy.guards().get(number) else { return };
        let outcome = outcome
            .and_then(|outcome| if about.fits(&outcome) { Ok(outcome) } else { Err(StoreError::Garbage) });
        let (performed, source) = match outcome {
            Ok(outcome) => (Some(outcome), Source::Store),
            Err(error) => {
                self.note_lost(number, about, op, &error);
                let mode = match guard.on_store_error() {
                    // The memory itself was the store: there is nothing left to fall back on.
                    FailureMode::Local if error == StoreError::Contention => FailureMode::Deny,
                    mode => mode,
                };
                let own = if mode == FailureMode::Local { local.memory.perform(op, now).ok() } else { None };
                (own, Source::Degraded(mode))
            }
        };
        let to_memory = source != Source::Store;
        let reason = match performed {
            Some(outcome) => self.judge_outcome(local, number, guard, about, op, &outcome, to_memory, now),
            None if source == Source::Degraded(FailureMode::Allow) => {
                if about == About::View {
                    self.guarded().due.watch(number);
                }
                None
            }
            None => Some(Reason::Unavailable(number)),
        };
        if let Some(held) = self.waits_for(guard, Asked { guard: number, about }, op, reason, source, now) {
            self.guarded().held = Some(held);
            return;
        }
        let ruling = match reason {
            None => Ruling::Admitted,
            Some(_) if !guard.is_enforced() => Ruling::ShadowRefused,
            Some(Reason::Unavailable(_)) => Ruling::Unavailable,
            Some(_) => Ruling::Refused,
        };
        self.report.add(number, ruling, source);
        if ruling.refuses() {
            // Whose token is not valid is told that, whatever limits of its claims say.
            let is_first = matches!(about, About::Token | About::Subject { .. })
                && self.reason == Some(Reason::Limits)
                && !self.report.verdicts.iter().any(|verdict| {
                    verdict.refuses()
                        && policy.limits().get(verdict.limit).is_some_and(|limit| !limit.counts_claims())
                });
            self.reason = if is_first { reason } else { self.reason.or(reason) };
        }
    }

    /// What an outcome means: `None` if the guard has no objection.
    #[allow(clippy::too_many_arguments, reason = "everything that there is to know")]
    fn judge_outcome<S: Shards>(
        &mut self,
        local: &mut Local<S>,
        number: usize,
        guard: &Guard,
        about: About,
        op: &Op,
        outcome: &Outcome,
        to_memory: bool,
        now: Timestamp,
    ) -> Option<Reason> {
        match (about, outcome) {
            (About::Token, Outcome::Revoked(Some(revocation))) if revocation.is_in_force(now) => {
                Some(Reason::Revoked)
            }
            (About::Subject { issued }, Outcome::Revoked(Some(revocation)))
                if revocation.covers(issued, now) =>
            {
                Some(Reason::Revoked)
            }
            (About::View | About::Probe, Outcome::Breaker { state, .. }) => {
                // What this instance knows by itself is asked for each time, so that it ends with the reason for it.
                if !to_memory {
                    local.breakers.seen(number, *state, self.began, now);
                }
                match state {
                    BreakerState::Closed => {
                        self.guarded().due.watch(number);
                        None
                    }
                    BreakerState::HalfOpen { free: 1.., .. } if about == About::View => {
                        let Rule::CircuitBreaker { breaker, .. } = guard.rule() else { return None };
                        let (key, breaker, holder) = (guard.keys().whole(), *breaker, local.next_holder());
                        self.claim(number, About::Probe, Op::Probe { key, breaker, holder });
                        None
                    }
                    // When the next probe may begin nobody knows: somebody is about to report.
                    BreakerState::HalfOpen { .. } => Some(Reason::Open { for_ms: 0 }),
                    BreakerState::Open { for_ms } => Some(Reason::Open { for_ms: *for_ms }),
                }
            }
            (About::Probe, Outcome::Probing { generation }) => {
                if let Op::Probe { holder, .. } = op {
                    let probe = Probe { generation: *generation, holder: *holder };
                    self.guarded().due.probe(number, probe, to_memory);
                    let called_off = report(guard, local, [0, 0], Some(probe));
                    self.refunds.extend(called_off.map(|op| Owed { op, to_memory }));
                }
                None
            }
            (About::Reserve, Outcome::Reserved { .. }) => {
                self.reserved(number, op, to_memory);
                None
            }
            (About::Reserve, Outcome::InProgress { .. }) => Some(Reason::InProgress),
            (About::Reserve, Outcome::Mismatch) => Some(Reason::Mismatch),
            (About::Reserve, Outcome::Replay(response)) => {
                self.guarded().replay = Some(response.clone());
                Some(Reason::Replay)
            }
            (About::Mark, Outcome::Acquired { .. }) => {
                self.refunds.extend(op.release().map(|op| Owed { op, to_memory }));
                None
            }
            (About::Mark, Outcome::Held { .. }) => match guard.rule() {
                Rule::Dedup { on_duplicate: OnDuplicate::Mark, .. } if guard.is_enforced() => {
                    self.tell_upstream(DUPLICATE, "true");
                    None
                }
                _ => Some(Reason::Duplicate(number)),
            },
            (About::Lock, Outcome::Acquired { fence }) => {
                // One of this instance alone could be larger than the next of the store.
                if !to_memory {
                    self.tell_upstream(FENCE, itoa::Buffer::new().format(*fence));
                }
                if let Some(op) = op.release() {
                    self.refunds.push(Owed { op: op.clone(), to_memory });
                    self.guarded().due.hold(Owed { op, to_memory });
                }
                None
            }
            (About::Lock, Outcome::Held { for_ms }) => {
                Some(Reason::Locked { guard: number, for_ms: *for_ms })
            }
            (About::Revoke, _) => {
                local.changed(op, now);
                None
            }
            _ => None,
        }
    }

    /// The lock, if it is held and the request has time to wait for it.
    fn waits_for(
        &self,
        guard: &Guard,
        asked: Asked,
        op: &Op,
        reason: Option<Reason>,
        source: Source,
        now: Timestamp,
    ) -> Option<Held> {
        let (Some(Reason::Locked { for_ms, .. }), Rule::Lock { wait: Some(wait), .. }, true) =
            (reason, guard.rule(), guard.is_enforced())
        else {
            return None;
        };
        let patience = Validity::new(self.began, wait.as_millis());
        patience.covers(now).then(|| Held { asked, op: op.clone(), source, for_ms, patience })
    }

    /// Of a call whose answer is lost, nobody knows whether it took what it asked for. So that is given back.
    fn note_lost(&mut self, guard: usize, about: About, op: &Op, error: &StoreError) {
        if error.was_asked() && about == About::Reserve {
            self.reserved(guard, op, false);
        }
        if let (true, About::Mark | About::Lock, Some(op)) = (error.was_asked(), about, op.release()) {
            let owed = Owed { op, to_memory: false };
            if about == About::Lock {
                self.guarded().due.hold(owed.clone());
            }
            self.refunds.push(owed);
        }
    }

    /// The request is to be carried out, and its answer kept; if it is refused after all, another one may be.
    fn reserved(&mut self, guard: usize, op: &Op, to_memory: bool) {
        let Op::Reserve { key, holder, .. } = op else { return };
        let (key, holder) = (key.clone(), *holder);
        self.refunds.push(Owed { op: Op::Abandon { key: key.clone(), holder }, to_memory });
        self.guarded().due.keep(guard, key, holder, to_memory);
    }

    /// From now on only we write this field.
    fn speak_for(&mut self, name: &'static str) {
        let onward = &mut self.guarded().onward;
        if onward.iter().all(|(own, _)| *own != name) {
            onward.push((name, None));
        }
    }

    fn tell_upstream(&mut self, name: &'static str, value: &str) {
        for (_, field) in self.guarded().onward.iter_mut().filter(|(own, _)| *own == name) {
            *field = Some(value.to_string());
        }
    }
}

/// What a guard says to what it objects to.
fn refused(guard: &Guard) -> Ruling {
    if guard.is_enforced() { Ruling::Refused } else { Ruling::ShadowRefused }
}

/// Asks what a breaker does; on this occasion it is told of what succeeded since it was asked last.
fn view<S: Shards>(guard: &Guard, breaker: &CircuitBreaker, successes: u32, local: &Local<S>) -> Op {
    let told = if successes > 0 { report(guard, local, [successes, 0], None) } else { None };
    told.unwrap_or_else(|| Op::View { key: guard.keys().whole(), breaker: *breaker })
}

/// Tells a breaker of successes and failures.
pub(super) fn report<S: Shards>(
    guard: &Guard,
    local: &Local<S>,
    [successes, failures]: [u32; 2],
    probe: Option<Probe>,
) -> Option<Op> {
    let Rule::CircuitBreaker { breaker, .. } = guard.rule() else { return None };
    let (key, breaker, reporter) = (guard.keys().whole(), *breaker, local.reporter());
    Some(Op::Report { key, breaker, reporter, successes, failures, probe })
}

/// The same report to a breaker that listens to this instance alone.
pub(super) fn alone(mut op: Op) -> Op {
    if let Op::Report { breaker, .. } = &mut op {
        *breaker = breaker.alone();
    }
    op
}

/// Revokes a token, and all that its subject was issued until now if that is asked for and the token names one.
fn revoke(
    what: RevokesWhat,
    guard: &Guard,
    jwt: &JwtPolicy,
    bearer: &Bearer,
    now: Timestamp,
) -> impl Iterator<Item = Op> {
    let reach =
        Reach { now, leeway: jwt.leeway_millis(), issued: bearer.claims.issued().unwrap_or_default() };
    let revoke = move |digest, millis| {
        Some(Op::Revoke { key: guard.keys().key(digest?), ttl: time_to_live(millis?), reach })
    };
    // The token itself, too: whatever clocks say, it is not accepted again.
    let token = revoke(Some(bearer.digest), jwt.last_use(&bearer.claims).map(|last_use| last_use.since(now)));
    let all = if what == RevokesWhat::Subject { revoke(bearer.subject, jwt.max_age_millis()) } else { None };
    token.into_iter().chain(all)
}

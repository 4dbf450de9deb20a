//! What is left to do with the answer to a request that was let through.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::call::Owed;
use super::guards;
use crate::config::{CountConfig, FailureMode, Statuses};
use crate::id::Holder;
use crate::idempotency::Recorder;
use crate::key::Key;
use crate::local::Local;
use crate::policy::{Guard, Limit, Policy, Rule};
use crate::store::memory::Shards;
use crate::store::{Op, Outcome, Probe, StoreError};
use crate::time::Timestamp;

/// What is left to do with the answer to a request that was let through.
///
/// ```text
/// before_answer ─▶ Pass | Ask(revoking) ─ resume ─▶ whether the answer may go      once the status is known
/// responded ─▶ operations for the store                                            then
/// abandoned ─▶ operations for the store            instead of both, where the client is why the upstream has not answered
/// record_field, record_body, record_end                                            as it passes, if it records
/// ended ─▶ operations for the store                  once the last byte has left, or the client, or the upstream
/// ```
///
/// A host that drops it instead loses nothing for good: what is held ends by itself, later.
#[derive(Debug)]
pub struct Completion {
    policy: Arc<Policy>,
    due: Box<Due>,
}

/// What is due, collected while the decision is made.
#[derive(Debug, Default)]
pub(super) struct Due {
    watch: Option<Watch>,
    /// Released at the end.
    held: Vec<Owed>,
    /// Given back unless the status counts for the limit of this number.
    counted: Vec<(usize, Owed)>,
    revokes: Vec<Op>,
    keeping: Option<Keeping>,
}

/// An answer that is kept.
#[derive(Debug)]
struct Keeping {
    guard: usize,
    key: Key,
    holder: Holder,
    to_memory: bool,
    /// `None` until it is known that there is one to keep.
    recorder: Option<Recorder>,
}

/// A breaker that is told how it went.
#[derive(Debug)]
struct Watch {
    guard: usize,
    /// And whether the memory let it through.
    probe: Option<(Probe, bool)>,
}

impl Due {
    /// The breaker of this number is told how it goes.
    pub(super) fn watch(&mut self, guard: usize) {
        self.watch = Some(Watch { guard, probe: None });
    }

    /// The request is a probe of the breaker of this number.
    pub(super) fn probe(&mut self, guard: usize, probe: Probe, to_memory: bool) {
        self.watch = Some(Watch { guard, probe: Some((probe, to_memory)) });
    }

    /// This is released at the end.
    pub(super) fn hold(&mut self, owed: Owed) {
        self.held.push(owed);
    }

    /// The answer is kept under this key.
    pub(super) fn keep(&mut self, guard: usize, key: Key, holder: Holder, to_memory: bool) {
        self.keeping = Some(Keeping { guard, key, holder, to_memory, recorder: None });
    }

    /// This is revoked once the upstream has said yes.
    pub(super) fn revoke(&mut self, op: Op) {
        self.revokes.push(op);
    }

    /// This is given back unless the limit of this number counts the status of the answer.
    pub(super) fn count(&mut self, limit: usize, owed: Owed) {
        self.counted.push((limit, owed));
    }

    /// What is given back of limits that count only some answers, unless `keeps` it of a limit and what it counts.
    pub(super) fn uncounted(
        &mut self,
        policy: &Policy,
        keeps: impl Fn(&Limit, &Statuses) -> bool,
    ) -> Vec<Owed> {
        let counts = |limit: usize| {
            let limit = policy.limits().get(limit);
            limit.is_none_or(|limit| match limit.count() {
                CountConfig::Only(statuses) => keeps(limit, statuses),
                CountConfig::All => true,
            })
        };
        let counted = core::mem::take(&mut self.counted);
        counted.into_iter().filter(|(limit, _)| !counts(*limit)).map(|(_, owed)| owed).collect()
    }

    /// `None` if nothing is due.
    pub(super) fn into_completion(self, policy: Arc<Policy>) -> Option<Completion> {
        let Self { watch, held, counted, revokes, keeping } = &self;
        let is_due = watch.is_some()
            || !held.is_empty()
            || !counted.is_empty()
            || !revokes.is_empty()
            || keeping.is_some();
        is_due.then_some(Completion { policy, due: Box::new(self) })
    }
}

/// Whether an answer may go to the client.
#[derive(Debug)]
pub enum Before {
    /// It may.
    Pass,
    /// Not before the store knows something: perform the operations in one call, then [`Revoking::resume`].
    Ask(Revoking),
    /// The store could not be told, so [`answer::not_revoked`](crate::answer::not_revoked) goes in its place.
    Fail,
}

/// A revocation that the client hears of when the store knows it.
#[derive(Debug)]
pub struct Revoking(Vec<Op>);

impl AsRef<[Op]> for Revoking {
    fn as_ref(&self) -> &[Op] {
        &self.0
    }
}

impl Revoking {
    /// Whether the answer may go, after what the store said; [`answer::not_revoked`](crate::answer::not_revoked) goes otherwise.
    pub fn resume<S: Shards>(
        self,
        local: &mut Local<S>,
        outcomes: impl IntoIterator<Item = Result<Outcome, StoreError>>,
        now: Timestamp,
    ) -> bool {
        let outcomes = outcomes.into_iter().take(self.0.len());
        let kept = outcomes.filter(|outcome| matches!(outcome, Ok(Outcome::RevokedUpTo(_)))).count();
        let kept = kept == self.0.len();
        // What the store was not told is not revoked, here as little as anywhere.
        if kept {
            self.0.iter().for_each(|op| local.changed(op, now));
        }
        kept
    }
}

impl Completion {
    /// Whether [`Completion::before_answer`] may say anything but [`Before::Pass`]: a host that has lost it must not let the answer go.
    pub fn confirms(&self) -> bool {
        !self.due.revokes.is_empty()
    }

    /// The status of the answer is known: whether it may go to the client.
    pub fn before_answer<S: Shards>(&mut self, local: &mut Local<S>, status: u16, now: Timestamp) -> Before {
        let mut ops = core::mem::take(&mut self.due.revokes);
        if ops.is_empty() || !(200..300).contains(&status) {
            return Before::Pass;
        }
        for op in &mut ops {
            // What was issued while the upstream was asked is revoked as well.
            if let Op::Revoke { reach, .. } = op {
                reach.now = now;
            }
        }
        let revoking = Revoking(ops);
        match local.store.as_mut().map(|health| health.admits(now)) {
            Some(true) => Before::Ask(revoking),
            Some(false) => Before::Fail,
            None => {
                let outcomes: Vec<_> = revoking.0.iter().map(|op| local.memory.perform(op, now)).collect();
                if revoking.resume(local, outcomes, now) { Before::Pass } else { Before::Fail }
            }
        }
    }

    /// The upstream, or the host in its place, has answered with `status`: what the store is to be told, without anybody waiting.
    pub fn responded<S: Shards>(&mut self, local: &mut Local<S>, status: u16, now: Timestamp) -> Vec<Op> {
        let mut ops = Vec::new();
        for owed in self.due.uncounted(&self.policy, |_, statuses| statuses.include(status)) {
            ops.extend(owed.pay(local, now));
        }
        if let Some(watch) = self.due.watch.take() {
            ops.extend(self.report(&watch, local, Some(status), now));
        }
        if let Some(mut keeping) = self.due.keeping.take()
            && let Some(Rule::Idempotency { statuses, max_response, .. }) = self.rule(keeping.guard)
        {
            if statuses.include(status) {
                keeping.recorder = Some(Recorder::new(status, *max_response));
                self.due.keeping = Some(keeping);
            } else {
                let Keeping { key, holder, to_memory, .. } = keeping;
                ops.extend(Owed { op: Op::Abandon { key, holder }, to_memory }.pay(local, now));
            }
        }
        ops
    }

    /// The upstream has not answered, and that is because of the client, such as one that broke off in the middle of its request; the host
    /// may have answered instead. What the store is to be told, without anybody waiting.
    ///
    /// It is no failure of the upstream, and none that a limit counts. A reservation stays until its lease ends: nobody knows whether
    /// the request was carried out. Once there was an answer, this does nothing.
    pub fn abandoned<S: Shards>(&mut self, local: &mut Local<S>, now: Timestamp) -> Vec<Op> {
        self.due.revokes.clear();
        self.due.keeping.take_if(|keeping| keeping.recorder.is_none());
        let mut ops = Vec::new();
        // A limit of what succeeds must not be led around by leaving before the answer.
        let succeeds = |_: &Limit, statuses: &Statuses| (200..300).any(|status| statuses.include(status));
        for owed in self.due.uncounted(&self.policy, succeeds) {
            ops.extend(owed.pay(local, now));
        }
        if let Some(watch) = self.due.watch.take() {
            ops.extend(self.report(&watch, local, None, now));
        }
        ops
    }

    /// Whether the answer is taken down: then its header fields are given to [`Completion::record_field`], its body to
    /// [`Completion::record_body`] piece by piece, and its end to [`Completion::record_end`]. Known after
    /// [`Completion::responded`].
    pub fn records(&self) -> bool {
        self.due.keeping.is_some()
    }

    /// Takes down a header field of the answer, of several lines each.
    pub fn record_field(&mut self, name: &str, value: &[u8]) {
        if let Some(recorder) = self.recorder() {
            recorder.field(name, value);
        }
    }

    /// Takes down a piece of the answer's body.
    pub fn record_body(&mut self, piece: &[u8]) {
        if let Some(recorder) = self.recorder() {
            recorder.body(piece);
        }
    }

    /// The answer's body has come to its end. Without this, what was taken down is not all of it.
    pub fn record_end(&mut self) {
        if let Some(recorder) = self.recorder() {
            recorder.finish();
        }
    }

    /// Whether there is something to do when the answer has ended that cannot be done before: a host that cannot tell when that is may
    /// call [`Completion::ended`] at once if there is not.
    pub fn lasts(&self) -> bool {
        !self.due.held.is_empty() || self.records()
    }

    /// It is over: the answer has left, or nobody waits for one. What the store is to be told, without anybody waiting.
    pub fn ended<S: Shards>(mut self, local: &mut Local<S>, now: Timestamp) -> Vec<Op> {
        let mut ops = Vec::new();
        // A probe that got no answer is no longer under way; of other calls there is nothing to tell.
        if let Some(watch) = self.due.watch.take() {
            ops.extend(self.report(&watch, local, None, now));
        }
        for owed in core::mem::take(&mut self.due.held) {
            ops.extend(owed.pay(local, now));
        }
        // Without an answer nobody knows whether the request was carried out, so nobody else may before its lease ends.
        if let Some(Keeping { guard, key, holder, to_memory, recorder: Some(recorder) }) =
            self.due.keeping.take()
            && let Some(Rule::Idempotency { ttl, .. }) = self.rule(guard)
        {
            let op = Op::Keep { key, holder, ttl: *ttl, response: recorder.into_response() };
            ops.extend(Owed { op, to_memory }.pay(local, now));
        }
        ops
    }

    fn recorder(&mut self) -> Option<&mut Recorder> {
        self.due.keeping.as_mut()?.recorder.as_mut()
    }

    fn rule(&self, guard: usize) -> Option<&Rule> {
        self.policy.guards().get(guard).map(Guard::rule)
    }

    /// Tells a breaker how it went; without a status, that a probe was called off.
    fn report<S: Shards>(
        &self,
        watch: &Watch,
        local: &mut Local<S>,
        status: Option<u16>,
        now: Timestamp,
    ) -> Option<Op> {
        let guard = self.policy.guards().get(watch.guard)?;
        let Rule::CircuitBreaker { breaker, failures } = guard.rule() else { return None };
        let failed = status.map(|status| failures.include(status));
        if let Some((probe, to_memory)) = watch.probe {
            local.breakers.forget(watch.guard);
            let counts = failed.map_or([0, 0], |failed| if failed { [0, 1] } else { [1, 0] });
            return Owed { op: guards::report(guard, local, counts, Some(probe))?, to_memory }
                .pay(local, now);
        }
        if !failed? {
            if breaker.counts_successes() {
                local.breakers.succeeded(watch.guard);
            }
            return None;
        }
        let successes = local.breakers.forget(watch.guard);
        let op = guards::report(guard, local, [successes, 1], None)?;
        // While the store is left alone, what this instance sees is all that there is to go by.
        let to_memory = local.store_is_open() && guard.on_store_error() == FailureMode::Local;
        Owed { op: if to_memory { guards::alone(op) } else { op }, to_memory }.pay(local, now)
    }
}

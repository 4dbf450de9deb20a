//! The embedded memory: what interprets operations without a store.
//!
//! It serves where no store is configured, and where a limit says `"on_store_error": "local"`. It is exact for all who share
//! its shards, and knows nothing of other instances.

use alloc::vec::Vec;

use super::shard::Shard;
use super::{Op, Outcome, StoreError};
use crate::circuit_breaker::{Breaker, CircuitBreaker};
use crate::idempotency::{Answer, Reservation, StoredResponse};
use crate::key::Key;
use crate::lease::Lease;
use crate::rate_limit::{Check, State, decide};
use crate::revocation::Revocation;
use crate::time::Timestamp;

/// Where shards are kept.
pub trait Shards {
    /// Changes shard number `index`, whole or not at all.
    ///
    /// `change` may be called again, on a newer state of the shard, if somebody else changed it meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Contention`] when that happened too often.
    fn update(&mut self, index: u32, change: &mut dyn FnMut(&mut Shard)) -> Result<(), StoreError>;
}

/// An interpreter of operations over some shards.
#[derive(Debug)]
pub struct Memory<S> {
    shards: S,
    count: u32,
}

impl<S: Shards> Memory<S> {
    /// A memory over shards number 0 to `count` − 1. It holds at most
    /// [`MAX_KEYS`](super::shard::MAX_KEYS) keys in each, and [`MAX_BYTES`](super::shard::MAX_BYTES).
    pub fn new(shards: S, count: u32) -> Self {
        Self { shards, count: count.max(1) }
    }

    /// Performs `op`.
    ///
    /// # Errors
    /// [`StoreError::Contention`], from the shards.
    pub fn perform(&mut self, op: &Op, now: Timestamp) -> Result<Outcome, StoreError> {
        let tag = op.key().map_or("", Key::hash_tag);
        let index = u32::try_from(fnv1a(tag) % u64::from(self.count)).unwrap_or(0);
        let mut outcome = Outcome::Refunded;
        self.shards.update(index, &mut |shard| outcome = perform(op, shard, now.as_millis()))?;
        Ok(outcome)
    }
}

/// Shards of this process's heap, for a host with one thread.
#[derive(Debug, Default)]
pub struct HeapShards(Vec<Shard>);

impl HeapShards {
    /// How many shards [`Memory::new`] is to be given over these: room for 262,144 counters.
    pub const COUNT: u32 = 1024;
}

impl Shards for HeapShards {
    fn update(&mut self, index: u32, change: &mut dyn FnMut(&mut Shard)) -> Result<(), StoreError> {
        let index = usize::try_from(index).unwrap_or(0);
        if self.0.len() <= index {
            self.0.resize_with(index + 1, Shard::default);
        }
        self.0.get_mut(index).map(change).ok_or(StoreError::Contention)
    }
}

fn perform(op: &Op, shard: &mut Shard, now: u64) -> Outcome {
    let load = |shard: &Shard, check: &Check| State::load(&check.quota, &shard.get(&check.key), now);
    match op {
        Op::RateLimit(checks) => {
            let mut states: Vec<State> = checks.iter().map(|check| load(shard, check)).collect();
            let (admitted, standings) = decide(&mut states, checks, now);
            if admitted {
                let counters = checks.iter().zip(&states).zip(&standings);
                for ((check, state), _) in
                    counters.filter(|((check, _), standing)| check.is_charged(standing))
                {
                    keep(shard, check, state, now);
                }
            }
            Outcome::RateLimit { at: Timestamp::from_millis(now), standings }
        }
        Op::Refund { checks, at } => {
            for check in checks {
                let mut state = load(shard, check);
                if state.refund(&check.quota, check.cost, at.as_millis(), now) {
                    keep(shard, check, &state, now);
                }
            }
            Outcome::Refunded
        }
        Op::Acquire { key, .. } | Op::Extend { key, .. } | Op::Release { key, .. } => {
            lease(op, key, shard, now)
        }
        Op::Reserve { key, .. } | Op::Keep { key, .. } | Op::Abandon { key, .. } => {
            idempotency(op, key, shard, now)
        }
        Op::View { key, breaker }
        | Op::Probe { key, breaker, .. }
        | Op::Report { key, breaker, .. }
        | Op::Force { key, breaker, .. } => circuit_breaker(op, key, breaker, shard, now),
        Op::IsRevoked { key } => {
            Outcome::Revoked(Revocation::load(&shard.get(key)).before(now).map(Timestamp::from_millis))
        }
        Op::Revoke { key, ttl, before } => {
            let mut revocation = Revocation::load(&shard.get(key));
            revocation.revoke(before.map_or(now, Timestamp::as_millis), *ttl, now);
            shard.put_with_bytes(key, &revocation.words(), &[], revocation.expires(), now);
            Outcome::Kept
        }
    }
}

fn lease(op: &Op, key: &Key, shard: &mut Shard, now: u64) -> Outcome {
    let mut state = Lease::load(&shard.get(key));
    let outcome = match op {
        Op::Acquire { holder, lease, fenced, .. } => match state.acquire(*holder, *lease, *fenced, now) {
            Some(fence) => Outcome::Acquired { fence },
            None => return Outcome::Held { for_ms: state.rest(now) },
        },
        Op::Extend { holder, lease, .. } => match state.extend(*holder, *lease, now) {
            Some(fence) => Outcome::Acquired { fence },
            None => return Outcome::Lost,
        },
        Op::Release { holder, .. } if state.release(*holder, now) => Outcome::Released,
        _ => return Outcome::Lost,
    };
    match state.expires(now) {
        Some(expires) => shard.put_with_bytes(key, &state.words(), &[], expires, now),
        None => shard.remove(key),
    }
    outcome
}

fn idempotency(op: &Op, key: &Key, shard: &mut Shard, now: u64) -> Outcome {
    let (words, kept) = shard.get_with_bytes(key, Reservation::BYTES);
    let mut state = Reservation::load(&words);
    let (outcome, response) = match op {
        Op::Reserve { holder, fingerprint, lease, .. } => {
            match state.reserve(*holder, *fingerprint, *lease, now) {
                Answer::Reserved(fence) => (Outcome::Reserved { fence }, &[][..]),
                Answer::InProgress(for_ms) => return Outcome::InProgress { for_ms },
                Answer::Mismatch => return Outcome::Mismatch,
                // What a shard holds was bounded when it was kept, unless somebody else wrote it.
                Answer::Replay => {
                    return StoredResponse::new(kept.to_vec()).map_or(Outcome::Mismatch, Outcome::Replay);
                }
            }
        }
        Op::Keep { holder, ttl, response, .. } => match state.is_held_by(*holder, now) {
            (true, false) => {
                state.keep(*ttl, now);
                (Outcome::Kept, response.as_bytes())
            }
            (true, true) => return Outcome::Kept,
            (false, _) => return Outcome::Lost,
        },
        Op::Abandon { holder, .. } if state.abandon(*holder, now) => (Outcome::Released, &[][..]),
        _ => return Outcome::Lost,
    };
    shard.put_with_bytes(key, &state.words(), response, state.expires(now), now);
    outcome
}

fn circuit_breaker(op: &Op, key: &Key, breaker: &CircuitBreaker, shard: &mut Shard, now: u64) -> Outcome {
    let mut state = Breaker::load(breaker, &shard.get(key), now);
    let mut probing = None;
    let changed = match op {
        Op::Probe { holder, .. } => {
            probing = state.probe(breaker, *holder, now);
            probing.is_some()
        }
        Op::Report { reporter, successes, failures, probe, .. } => {
            state.report(breaker, *reporter, [*successes, *failures], *probe, now)
        }
        Op::Force { to, .. } => {
            state.force(*to, now);
            true
        }
        _ => false,
    };
    if changed {
        shard.put_with_bytes(key, &state.words(breaker), &[], state.expires(breaker, now), now);
    }
    match probing {
        Some(generation) => Outcome::Probing { generation },
        None => {
            let (state, generation) = state.view(breaker, now);
            Outcome::Breaker { state, generation }
        }
    }
}

fn keep(shard: &mut Shard, check: &Check, state: &State, now: u64) {
    let expires = now.saturating_add(state.lapses(&check.quota, now));
    shard.put(&check.key, |write| state.words(write), expires, now);
}

/// FNV-1a, 64 bits: spreads tags over shards. Tags are digests or names from the policy, so no client can aim it.
fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

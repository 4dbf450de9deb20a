//! The operations of guards that count nothing.

use crate::circuit_breaker::{Breaker, CircuitBreaker};
use crate::idempotency::{Answer, Reservation, StoredResponse};
use crate::key::Key;
use crate::lease::Lease;
use crate::revocation;
use crate::store::shard::Shard;
use crate::store::{Op, Outcome};

pub(super) fn perform(op: &Op, shard: &mut Shard, now: u64) -> Outcome {
    match op {
        // These are performed where counters are.
        Op::RateLimit(_) | Op::Refund { .. } => Outcome::Refunded,
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
            let state = revocation::State::load(&shard.get(key), now);
            if state.has_changed() {
                shard.put_with_bytes(key, &state.words(), &[], state.expires(now), now);
            }
            Outcome::Revoked(state.revocation(now))
        }
        Op::Revoke { key, ttl, reach } => {
            let mut state = revocation::State::load(&shard.get(key), now);
            let before = state.revoke(reach, *ttl, now);
            shard.put_with_bytes(key, &state.words(), &[], state.expires(now), now);
            Outcome::RevokedUpTo(before)
        }
        Op::Reset { key } => {
            shard.remove(key);
            Outcome::Reset
        }
    }
}

fn lease(op: &Op, key: &Key, shard: &mut Shard, now: u64) -> Outcome {
    let mut state = Lease::load(&shard.get(key), now);
    let outcome = match op {
        Op::Acquire { holder, lease, fenced, .. } => match state.acquire(*holder, *lease, *fenced, now) {
            Some(fence) => Outcome::Acquired { fence },
            None => Outcome::Held { for_ms: state.rest(now) },
        },
        Op::Extend { holder, lease, .. } => match state.extend(*holder, *lease, now) {
            Some(fence) => Outcome::Acquired { fence },
            None => Outcome::Lost,
        },
        Op::Release { holder, .. } if state.release(*holder, now) => Outcome::Released,
        _ => Outcome::Lost,
    };
    if matches!(outcome, Outcome::Held { .. } | Outcome::Lost) && !state.has_changed() {
        return outcome;
    }
    match state.expires(now) {
        Some(expires) => shard.put_with_bytes(key, &state.words(), &[], expires, now),
        None => shard.remove(key),
    }
    outcome
}

fn idempotency(op: &Op, key: &Key, shard: &mut Shard, now: u64) -> Outcome {
    let (words, kept) = shard.get_with_bytes(key, Reservation::BYTES);
    let mut state = Reservation::load(&words, now);
    if state.has_changed() {
        let kept = kept.to_vec();
        shard.put_with_bytes(key, &state.words(), &kept, state.expires(now), now);
    }
    let (outcome, response) = match op {
        Op::Reserve { holder, fingerprint, lease, .. } => {
            match state.reserve(*holder, *fingerprint, *lease, now) {
                Answer::Reserved(fence) => (Outcome::Reserved { fence }, &[][..]),
                Answer::InProgress(for_ms) => return Outcome::InProgress { for_ms },
                Answer::Mismatch => return Outcome::Mismatch,
                // What a shard holds was bounded when it was kept, unless somebody else wrote it.
                Answer::Replay => {
                    let (_, kept) = shard.get_with_bytes(key, Reservation::BYTES);
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
    if changed || state.was_moved() {
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

//! The embedded memory: what interprets operations without a store.
//!
//! It serves where no store is configured, and where a limit says `"on_store_error": "local"`. It is exact for all who share
//! its shards, and knows nothing of other instances.

mod guards;

use alloc::vec::Vec;

use super::shard::Shard;
use super::{Op, Outcome, StoreError};
use crate::key::Key;
use crate::rate_limit::{Check, State, decide};
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
        _ => guards::perform(op, shard, now),
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

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;
    use crate::rate_limit::{Algorithm, Quota};
    use crate::revocation::Reach;
    use crate::time::Span;

    fn spend(algorithm: Algorithm, limit: u64, window: u64, name: &str) -> Op {
        let quota = Quota::new(algorithm, limit, Span::from_millis(window).unwrap(), limit).unwrap();
        let key = Key::from_stored(&format!("tg:{{{name}}}:x:limit"));
        Op::RateLimit(Vec::from([Check { key, quota, cost: limit, enforced: true }]))
    }

    #[test]
    fn a_counter_is_kept_for_as_long_as_it_says_anything_and_no_longer() {
        for (algorithm, millis) in [
            (Algorithm::FixedWindow, 60_000),
            (Algorithm::SlidingWindowLog, 60_000),
            (Algorithm::SlidingWindowCounter, 120_000),
            (Algorithm::Gcra, 60_000),
        ] {
            let mut shard = Shard::default();
            let (long, other) = (spend(algorithm, 10, 60_000, "a"), spend(algorithm, 1, 1, "b"));
            perform(&long, &mut shard, 60_000);
            for (now, is_kept) in [(60_000 + millis, true), (62_000 + millis, false)] {
                perform(&other, &mut shard, now);
                assert_eq!(!shard.get(long.key().unwrap()).is_empty(), is_kept, "{algorithm:?} at {now}");
            }
        }
    }

    #[test]
    fn a_revocation_is_kept_for_its_time_and_a_minute() {
        let (mut shard, key) = (Shard::default(), Key::from_stored("tg:{a}:revoked"));
        let reach = Reach { now: Timestamp::from_millis(1000), ..Reach::default() };
        let revoke = Op::Revoke { key: key.clone(), ttl: Span::from_millis(60_000).unwrap(), reach };
        perform(&revoke, &mut shard, 1000);
        for (now, is_kept) in [(121_000, true), (123_000, false)] {
            perform(&spend(Algorithm::FixedWindow, 1, 1, "b"), &mut shard, now);
            assert_eq!(!shard.get(&key).is_empty(), is_kept, "at {now}");
        }
    }

    #[test]
    fn keys_are_spread_over_shards() {
        let mut memory = Memory::new(HeapShards::default(), HeapShards::COUNT);
        for subject in 0..10_000 {
            let op = spend(Algorithm::FixedWindow, 1, 60_000, &format!("{subject}"));
            memory.perform(&op, Timestamp::from_millis(0)).unwrap();
        }
        assert!(memory.shards.0.iter().all(|shard| shard.evicted() == 0));
        assert_eq!(memory.shards.0.len(), 1024);
    }
}

//! A memory of one shard that can be looked into and copied, and generators of quotas.

// Each test file uses a part of this.
#![allow(dead_code, reason = "each test crate uses a part")]

use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;
use tollgate_shared::config::MAX_QUOTA;
use tollgate_shared::key::Key;
use tollgate_shared::rate_limit::{Algorithm, Check, Quota, Retry, Standing};
use tollgate_shared::store::memory::{Memory, Shards};
use tollgate_shared::store::shard::Shard;
use tollgate_shared::store::{Op, Outcome, StoreError};
use tollgate_shared::time::{Span, Timestamp};

/// A memory of one shard.
#[derive(Debug)]
pub(crate) struct World {
    shard: Rc<RefCell<Shard>>,
    memory: Memory<Handle>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::of(Shard::default())
    }

    pub(crate) fn of(shard: Shard) -> Self {
        let shard = Rc::new(RefCell::new(shard));
        Self { memory: Memory::new(Handle(Rc::clone(&shard)), 1), shard }
    }

    /// The same counters, to try something out on.
    pub(crate) fn fork(&self) -> Self {
        Self::of(self.shard.borrow().clone())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.shard.borrow().as_bytes().to_vec()
    }

    /// Asks all of `checks` at once: whether they admitted, and how they stand.
    pub(crate) fn ask(&mut self, checks: &[Check], now: u64) -> (bool, Vec<Standing>) {
        let op = Op::RateLimit(checks.to_vec());
        let outcome = self.memory.perform(&op, Timestamp::from_millis(now)).unwrap();
        let admitted = outcome.admitted(checks);
        let Outcome::RateLimit { standings, .. } = outcome else { panic!("a rate limit's outcome is one") };
        (admitted, standings)
    }

    pub(crate) fn ask_one(&mut self, check: &Check, now: u64) -> Standing {
        self.ask(std::slice::from_ref(check), now).1[0]
    }

    /// How a counter stands, without charging it: a cost beyond its capacity is always refused.
    pub(crate) fn peek(&self, check: &Check, now: u64) -> Standing {
        let too_much = Check { cost: check.quota.capacity() + 1, enforced: true, ..check.clone() };
        let standing = self.fork().ask_one(&too_much, now);
        assert_eq!(standing.retry, Retry::Never);
        standing
    }

    pub(crate) fn refund(&mut self, checks: &[Check], at: u64, now: u64) {
        let op = Op::Refund { checks: checks.to_vec(), at: Timestamp::from_millis(at) };
        assert_eq!(self.memory.perform(&op, Timestamp::from_millis(now)), Ok(Outcome::Refunded));
    }
}

#[derive(Debug)]
struct Handle(Rc<RefCell<Shard>>);

impl Shards for Handle {
    fn update(&mut self, _: u32, change: &mut dyn FnMut(&mut Shard)) -> Result<(), StoreError> {
        change(&mut self.0.borrow_mut());
        Ok(())
    }
}

pub(crate) fn check(quota: Quota, name: usize, cost: u64) -> Check {
    let (letter, window) = (quota.algorithm().letter(), quota.window());
    Check { key: Key::from_stored(&format!("tg:{{t}}:{letter}{window}:{name}")), quota, cost, enforced: true }
}

pub(crate) fn algorithm() -> impl Strategy<Value = Algorithm> {
    prop_oneof![
        Just(Algorithm::FixedWindow),
        Just(Algorithm::SlidingWindowLog),
        Just(Algorithm::SlidingWindowCounter),
        Just(Algorithm::Gcra),
    ]
}

/// Quotas that are soon used up, and now and then one at the edge of what is allowed.
pub(crate) fn quota() -> impl Strategy<Value = Quota> {
    let small = (algorithm(), 1..=12_u64, 1..=2000_u64, 1..=24_u64);
    let large = (algorithm(), 1..=MAX_QUOTA, 1..=Span::MAX.as_millis(), 1..=MAX_QUOTA);
    prop_oneof![9 => small, 1 => large].prop_map(|(algorithm, limit, window, burst)| {
        let window = Span::from_millis(window).unwrap();
        let largest = Quota::new(algorithm, u64::MAX, window, 1).unwrap_err().at_most;
        Quota::new(algorithm, limit.min(largest), window, burst.min(largest)).unwrap()
    })
}

/// A fraction of something, in 1/1000.
pub(crate) fn part() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1000), 0..=1000_u64]
}

pub(crate) fn share_of(whole: u64, part: u64) -> u64 {
    u64::try_from(u128::from(whole) * u128::from(part) / 1000).unwrap()
}

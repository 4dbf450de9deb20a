//! A memory of one shard that can be looked into and copied, and generators of quotas, breakers and operations.

// Each test file uses a part of this.
#![allow(dead_code, reason = "each test crate uses a part")]

use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;
use tollgate_shared::circuit_breaker::{CircuitBreaker, Force, Trip};
use tollgate_shared::config::MAX_QUOTA;
use tollgate_shared::id::Id;
use tollgate_shared::idempotency::StoredResponse;
use tollgate_shared::key::Key;
use tollgate_shared::rate_limit::{Algorithm, Check, Quota, Retry, Standing};
use tollgate_shared::revocation::Reach;
use tollgate_shared::store::memory::{Memory, Shards};
use tollgate_shared::store::shard::Shard;
use tollgate_shared::store::{Op, Outcome, Probe, StoreError};
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

    pub(crate) fn perform(&mut self, op: &Op, now: u64) -> Outcome {
        self.memory.perform(op, Timestamp::from_millis(now)).unwrap()
    }

    /// Asks all of `checks` at once: whether they admitted, and how they stand.
    pub(crate) fn ask(&mut self, checks: &[Check], now: u64) -> (bool, Vec<Standing>) {
        let op = Op::RateLimit(checks.to_vec());
        let outcome = self.perform(&op, now);
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
        assert_eq!(self.perform(&op, now), Outcome::Refunded);
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

pub(crate) fn id(number: u8) -> Id {
    Id::from_bytes([number; 16])
}

pub(crate) fn span(millis: u64) -> Span {
    Span::from_millis(millis).unwrap()
}

pub(crate) fn response(bytes: &[u8]) -> StoredResponse {
    StoredResponse::new(bytes.to_vec()).unwrap()
}

pub(crate) fn breaker() -> impl Strategy<Value = CircuitBreaker> {
    let trip = prop_oneof![
        (1..6_u32).prop_map(Trip::Failures),
        (1..=100_u32, 1..8_u32).prop_map(|(percent, min_volume)| Trip::Ratio { percent, min_volume }),
    ];
    let times = (1..20_000_u64, 1..5000_u64, 1..2000_u64);
    (trip, prop_oneof![3 => 1..=4_u32, 1 => 1..=32_u32], 1..=4_u32, times).prop_map(
        |(trip, reporters, probes, (within, open_for, probe))| {
            CircuitBreaker::new(trip, span(within), reporters, span(open_for), probes, span(probe)).unwrap()
        },
    )
}

/// An operation of each guard, and of each kind, all on one key.
pub(crate) fn guards(key: &Key, breaker: CircuitBreaker, [own, other]: [Id; 2], number: u64) -> Vec<Op> {
    let (key, holder) = (|| key.clone(), own);
    let lease = span(number.clamp(1, Span::MAX.as_millis()));
    let reach = Reach { now: Timestamp::from_millis(number), leeway: 0, ..Reach::default() };
    let report = |probe| Op::Report {
        key: key(),
        breaker,
        reporter: other,
        successes: 1,
        failures: u32::from(number.is_multiple_of(2)),
        probe,
    };
    vec![
        Op::Acquire { key: key(), holder, lease, fenced: true },
        Op::Acquire { key: key(), holder, lease, fenced: false },
        Op::Extend { key: key(), holder, lease },
        Op::Release { key: key(), holder },
        Op::Reserve { key: key(), holder, fingerprint: other, lease },
        Op::Keep { key: key(), holder, ttl: lease, response: response(b"what was answered") },
        Op::Abandon { key: key(), holder },
        Op::View { key: key(), breaker },
        Op::Probe { key: key(), breaker, holder },
        report(None),
        report(Some(Probe { generation: number, holder })),
        Op::Force { key: key(), breaker, to: Force::Open(lease) },
        Op::Force { key: key(), breaker, to: Force::Closed },
        Op::IsRevoked { key: key() },
        Op::Revoke {
            key: key(),
            ttl: lease,
            reach: Reach { issued: Timestamp::from_millis(number), ..reach },
        },
        Op::Revoke { key: key(), ttl: lease, reach },
        Op::Reset { key: key() },
    ]
}

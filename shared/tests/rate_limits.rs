//! What the rate limits promise, held against the counters and against a list of everything admitted.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

mod support;

use proptest::prelude::*;
use support::{World, check, part, quota, share_of};
use tollgate_shared::rate_limit::{Algorithm, Check, Quota, Retry};

/// A request: how long after the one before, and its cost, both as a fraction (of the window, of the capacity).
type Asked = (u64, u64);

fn history(longest: usize) -> impl Strategy<Value = Vec<Asked>> {
    // Mostly close together, so that counters fill up.
    let gap = prop_oneof![4 => Just(0), 4 => 0..=100_u64, 2 => 0..=2500_u64];
    let cost = prop_oneof![3 => Just(0), 2 => 0..=500_u64, 1 => part()];
    prop::collection::vec((gap, cost), 0..longest)
}

/// When the first request comes: nowadays, or in the first window there is.
fn start() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..10_000_u64, THIS_CENTURY]
}

const THIS_CENTURY: core::ops::Range<u64> = 1_700_000_000_000..1_900_000_000_000;

fn cost_of(quota: &Quota, part: u64) -> u64 {
    share_of(quota.capacity(), part).max(1)
}

/// The counter after `history`, and the time it is then.
fn after(quota: Quota, start: u64, history: &[Asked]) -> (World, u64) {
    let (mut world, mut now) = (World::new(), start);
    for (gap, cost) in history {
        now += share_of(quota.window(), *gap);
        world.ask_one(&check(quota, 0, cost_of(&quota, *cost)), now);
    }
    (world, now)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn refused_until_retry_and_admitted_at_it(
        quota in quota(), start in start(), history in history(25), cost in part(), sample in part(),
    ) {
        let (world, now) = after(quota, start, &history);
        let check = check(quota, 0, cost_of(&quota, cost));
        match world.fork().ask_one(&check, now).retry {
            Retry::Now => {}
            Retry::Never => prop_assert!(false, "the cost is within the capacity"),
            Retry::After(retry) => {
                prop_assert!(retry > 0);
                for waited in [0, 1, share_of(retry - 1, sample), retry / 2, retry - 1] {
                    let waited = waited.min(retry - 1);
                    let still = world.fork().ask_one(&check, now + waited).retry;
                    prop_assert_eq!(still, Retry::After(retry - waited), "{} ms later", waited);
                }
                for waited in [retry, retry + 1, retry + share_of(quota.window(), sample)] {
                    let then = world.fork().ask_one(&check, now + waited).retry;
                    prop_assert_eq!(then, Retry::Now, "{} ms later", waited);
                }
            }
        }
    }

    #[test]
    fn remaining_and_reset_are_exact(
        quota in quota(), start in start(), history in history(25), sample in part(),
    ) {
        let (world, now) = after(quota, start, &history);
        let asked = |cost: u64, now: u64| world.fork().ask_one(&check(quota, 0, cost), now).retry;
        let standing = world.peek(&check(quota, 0, 1), now);
        if standing.remaining > 0 {
            prop_assert_eq!(asked(standing.remaining, now), Retry::Now);
        }
        prop_assert_ne!(asked(standing.remaining + 1, now), Retry::Now);
        prop_assert_eq!(standing.remaining == quota.capacity(), standing.reset == 0);
        if standing.reset > 0 {
            prop_assert_eq!(asked(standing.remaining + 1, now), Retry::After(standing.reset));
            for waited in [standing.reset - 1, share_of(standing.reset - 1, sample)] {
                let then = world.peek(&check(quota, 0, 1), now + waited);
                prop_assert_eq!(then.remaining, standing.remaining, "{} ms later", waited);
                prop_assert_eq!(then.reset, standing.reset - waited);
            }
            let then = world.peek(&check(quota, 0, 1), now + standing.reset);
            prop_assert!(then.remaining > standing.remaining);
        }
    }

    #[test]
    fn what_an_answer_says_is_what_a_look_afterwards_sees(
        quota in quota(), start in start(), history in history(25), cost in part(),
    ) {
        let (mut world, now) = after(quota, start, &history);
        let check = check(quota, 0, cost_of(&quota, cost));
        let before = world.peek(&check, now);
        let answer = world.ask_one(&check, now);
        let after = world.peek(&check, now);
        prop_assert_eq!((answer.remaining, answer.reset), (after.remaining, after.reset));
        let charged = if answer.retry == Retry::Now { check.cost } else { 0 };
        prop_assert_eq!(after.remaining, before.remaining - charged);
    }

    #[test]
    fn a_refused_request_changes_nothing(
        quota in quota(), start in start(), history in history(25), cost in part(), later in part(),
    ) {
        let (mut world, now) = after(quota, start, &history);
        let before = world.bytes();
        for cost in [cost_of(&quota, cost), quota.capacity() + 1, u64::MAX] {
            let now = now + share_of(quota.window(), later);
            if world.fork().ask_one(&check(quota, 0, cost), now).retry != Retry::Now {
                world.ask_one(&check(quota, 0, cost), now);
                prop_assert!(world.bytes() == before);
            }
        }
    }

    #[test]
    fn exactly_what_the_promise_leaves_room_for_is_admitted(
        quota in quota(), start in start(), history in history(60),
    ) {
        let (mut world, mut now) = (World::new(), start);
        let mut list = List { quota, admitted: Vec::new() };
        for (gap, cost) in &history {
            now += share_of(quota.window(), *gap);
            let cost = cost_of(&quota, *cost);
            let admitted = world.ask_one(&check(quota, 0, cost), now).retry == Retry::Now;
            prop_assert_eq!(admitted, list.has_room(cost, now), "cost {} at {}", cost, now);
            if admitted {
                list.admitted.push((now, cost));
            }
        }
        list.holds()?;
    }

    #[test]
    fn a_group_is_admitted_as_a_whole_or_not_at_all(
        places in prop::collection::vec((quota(), any::<bool>(), history(10), part()), 1..5),
        start in start(),
    ) {
        let (mut world, mut now) = (World::new(), start);
        let mut checks = Vec::new();
        for (number, (quota, enforced, history, cost)) in places.iter().enumerate() {
            for (_, cost) in history {
                world.ask_one(&check(*quota, number, cost_of(quota, *cost)), now);
            }
            checks.push(Check { enforced: *enforced, ..check(*quota, number, cost_of(quota, *cost)) });
        }
        now += 1;
        let alone: Vec<_> = checks.iter().map(|check| world.fork().ask_one(check, now).retry).collect();
        let expected = checks.iter().zip(&alone).all(|(check, retry)| !check.enforced || *retry == Retry::Now);
        let (before, bytes) = (world.fork(), world.bytes());

        let (admitted, standings) = world.ask(&checks, now);
        prop_assert_eq!(admitted, expected);
        prop_assert!(admitted || world.bytes() == bytes, "a refused group charges nobody");
        for ((check, standing), alone) in checks.iter().zip(&standings).zip(alone) {
            prop_assert_eq!(standing.retry, alone, "no limit changes what another one says");
            let charged = if admitted && alone == Retry::Now { check.cost } else { 0 };
            let (before, after) = (before.peek(check, now).remaining, world.peek(check, now).remaining);
            prop_assert_eq!(after, before - charged);
            prop_assert_eq!(standing.remaining, after);
        }
    }

    #[test]
    fn a_refund_right_after_a_charge_restores_its_room(
        quota in quota(), start in start(), history in history(25), cost in part(), later in part(),
    ) {
        let (mut world, now) = after(quota, start, &history);
        let check = check(quota, 0, cost_of(&quota, cost));
        let untouched = world.fork();
        if world.ask_one(&check, now).retry == Retry::Now {
            world.refund(std::slice::from_ref(&check), now, now);
            for now in [now, now + share_of(quota.window(), later)] {
                prop_assert_eq!(world.peek(&check, now), untouched.peek(&check, now));
            }
        }
    }

    /// The counter never has more room than the charges that were not given back leave.
    #[test]
    fn refunds_never_let_more_than_the_quota_through(
        quota in quota(), start in start(), history in history(60),
        refunds in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 60),
    ) {
        let (mut world, mut now) = (World::new(), start);
        let mut list = List { quota, admitted: Vec::new() };
        for ((gap, cost), (refund, which)) in history.iter().zip(refunds) {
            now += share_of(quota.window(), *gap);
            let cost = cost_of(&quota, *cost);
            if refund && !list.admitted.is_empty() {
                let (at, cost) = list.admitted.remove(which.index(list.admitted.len()));
                world.refund(&[check(quota, 0, cost)], at, now);
            } else if world.ask_one(&check(quota, 0, cost), now).retry == Retry::Now {
                list.admitted.push((now, cost));
            }
            let room = world.peek(&check(quota, 0, 1), now).remaining;
            prop_assert!(room == 0 || list.has_room(room, now), "room for {} at {}", room, now);
        }
        list.holds()?;
    }

    #[test]
    fn a_refund_that_finds_nothing_changes_nothing(
        quota in quota(), start in THIS_CENTURY, history in history(25), later in 0..4000_u64,
    ) {
        let (mut world, now) = after(quota, start, &history);
        let (bytes, now) = (world.bytes(), now + share_of(quota.window(), later));
        world.refund(&[check(quota, 1, 1)], now, now);
        prop_assert!(world.bytes() == bytes, "a counter that does not exist");
        // A window later nothing of one unit is left, whatever the algorithm.
        world.refund(&[check(quota, 0, 1)], now - quota.window(), now);
        prop_assert!(world.bytes() == bytes, "a charge that no longer counts");
    }

    /// A store's clock may step back a little. Whatever counted then still does.
    #[test]
    fn a_clock_that_steps_back_finds_what_it_left(
        quota in quota(), start in THIS_CENTURY, history in history(25), ahead in 0..1000_u64,
    ) {
        let (mut world, now) = after(quota, start, &history);
        let before = world.peek(&check(quota, 0, 1), now);
        // Something else happens in this shard, a refusal and a useless refund with it.
        world.ask_one(&check(quota, 1, 1), now + ahead);
        world.ask_one(&check(quota, 0, quota.capacity() + 1), now + ahead);
        world.refund(&[check(quota, 0, 1)], now + ahead - quota.window(), now + ahead);
        prop_assert_eq!(world.peek(&check(quota, 0, 1), now), before);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What a clock wrote that was ahead holds nothing up for more than a window longer than a right clock would have.
    #[test]
    fn a_clock_that_was_ahead_holds_up_nobody_for_long(
        quota in quota(), now in THIS_CENTURY, history in history(25),
        ahead in prop_oneof![0..3000_u64, Just(1 << 30)],
    ) {
        let (mut world, _) = after(quota, now + share_of(quota.window(), ahead), &history);
        let asked = check(quota, 0, 1);
        let Retry::After(retry) = world.ask_one(&asked, now).retry else { return Ok(()) };
        let longest = match quota.algorithm() {
            Algorithm::SlidingWindowCounter => 2 * quota.window(),
            Algorithm::Gcra => (quota.capacity() * quota.window()).div_ceil(quota.limit()),
            _ => quota.window(),
        };
        prop_assert!(retry <= quota.window() + longest, "{retry} ms");
        prop_assert_eq!(world.ask_one(&asked, now + retry).retry, Retry::Now);
    }
}

/// What was admitted and not given back.
struct List {
    quota: Quota,
    admitted: Vec<(u64, u64)>,
}

impl List {
    /// The promise of each algorithm as its definition has it, computed from the list alone.
    fn has_room(&self, cost: u64, now: u64) -> bool {
        let (limit, window) = (u128::from(self.quota.limit()), u128::from(self.quota.window()));
        let cost = u128::from(cost);
        let window_of = |at: u64| at / self.quota.window();
        match self.quota.algorithm() {
            Algorithm::FixedWindow => self.sum(|at| window_of(at) == window_of(now)) + cost <= limit,
            Algorithm::SlidingWindowLog => self.sum(|at| at + self.quota.window() > now) + cost <= limit,
            Algorithm::SlidingWindowCounter => {
                let previous = self.sum(|at| window_of(at) + 1 == window_of(now));
                let current = self.sum(|at| window_of(at) == window_of(now));
                let covered = window - u128::from(now) % window;
                previous * covered + (current + cost) * window <= limit * window
            }
            Algorithm::Gcra => {
                let (mut level, mut last) = (0, 0);
                for (at, cost) in &self.admitted {
                    level = u128::saturating_sub(level, u128::from(at - last) * limit)
                        + u128::from(*cost) * window;
                    last = *at;
                }
                level = level.saturating_sub(u128::from(now - last) * limit);
                level + cost * window <= u128::from(self.quota.capacity()) * window
            }
        }
    }

    /// The promise in the words of a user, over everything that was admitted.
    fn holds(&self) -> Result<(), TestCaseError> {
        let (limit, window) = (u128::from(self.quota.limit()), u128::from(self.quota.window()));
        let capacity = u128::from(self.quota.capacity());
        for (first, (from, _)) in self.admitted.iter().enumerate() {
            let mut sum = 0;
            for (to, cost) in &self.admitted[first..] {
                let time = u128::from(to - from);
                sum += u128::from(*cost);
                match self.quota.algorithm() {
                    Algorithm::FixedWindow => {
                        prop_assert!(sum <= limit || from / self.quota.window() != to / self.quota.window());
                    }
                    Algorithm::SlidingWindowLog => prop_assert!(sum <= limit || time >= window),
                    // Two windows' worth in any two windows; what lies between is its estimate.
                    Algorithm::SlidingWindowCounter => prop_assert!(sum <= 2 * limit || time >= window),
                    Algorithm::Gcra => prop_assert!(sum * window <= capacity * window + limit * time),
                }
            }
        }
        Ok(())
    }

    fn sum(&self, counts: impl Fn(u64) -> bool) -> u128 {
        self.admitted.iter().filter(|(at, _)| counts(*at)).map(|(_, cost)| u128::from(*cost)).sum()
    }
}

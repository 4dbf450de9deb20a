//! What circuit breakers did when the store was asked last.

use alloc::collections::BTreeMap;

use crate::circuit_breaker::BreakerState;
use crate::time::{Timestamp, Validity};

/// What circuit breakers did when the store was asked last, at most one for each guard of a policy.
///
/// While one is closed, one request in [`FRESH`] milliseconds asks, and the others go by what they know until it has its answer: a
/// breaker that opens is noticed after [`FRESH`] and a round trip, at most twice [`FRESH`].
#[derive(Debug, Default)]
pub(crate) struct Breakers(BTreeMap<usize, Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// For how long it is known to be closed.
    closed: Validity,
    /// For how long it is known to be open.
    open: Validity,
    /// When it is half-open, if nobody sets it by hand.
    half_open_at: Timestamp,
    /// For how long it is not to be asked again.
    asked: Validity,
    /// Of calls, since it was told last.
    successes: u32,
}

/// What is known of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Closed,
    Open {
        for_ms: u64,
    },
    /// It has to be asked, and told of so many successes.
    Unknown {
        successes: u32,
    },
}

impl Breakers {
    pub(crate) fn view(&mut self, guard: usize, now: Timestamp) -> View {
        let seen = self.0.entry(guard).or_default();
        if seen.open.covers(now) {
            return View::Open { for_ms: seen.half_open_at.since(now) };
        }
        if seen.closed.covers(now) && seen.asked.covers(now) {
            return View::Closed;
        }
        seen.asked = Validity::new(now, FRESH);
        View::Unknown { successes: core::mem::take(&mut seen.successes) }
    }

    /// A breaker that was asked at `asked` was in this state.
    pub(crate) fn seen(&mut self, guard: usize, state: BreakerState, asked: Timestamp, now: Timestamp) {
        let seen = self.0.entry(guard).or_default();
        match state {
            BreakerState::Closed => {
                seen.asked = Validity::new(asked, FRESH);
                seen.closed = Validity::new(asked, 2 * FRESH);
                seen.open = Validity::default();
            }
            BreakerState::Open { for_ms } => {
                (seen.open, seen.half_open_at) = (Validity::new(asked, for_ms.min(OPEN)), now.plus(for_ms));
                seen.closed = Validity::default();
            }
            BreakerState::HalfOpen { .. } => seen.closed = Validity::default(),
        }
    }

    /// Has a breaker asked again, because it was told something: the successes that it was not told of yet.
    pub(crate) fn forget(&mut self, guard: usize) -> u32 {
        self.0.remove(&guard).map_or(0, |seen| seen.successes)
    }

    /// A call succeeded, of which the breaker is told on occasion.
    pub(crate) fn succeeded(&mut self, guard: usize) {
        let seen = self.0.entry(guard).or_default();
        seen.successes = seen.successes.saturating_add(1);
    }
}

/// Milliseconds for which a breaker that is closed is taken for closed.
const FRESH: u64 = 100;
/// Most milliseconds for which a breaker that is open is taken for open: somebody may close it by hand.
const OPEN: u64 = 1000;
/// Most milliseconds for which a breaker is taken for what it was when it was asked.
pub(crate) const MAX_AGE: u64 = if OPEN > 2 * FRESH { OPEN } else { 2 * FRESH };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_one_asks_others_go_by_what_was_seen_last() {
        let (at, mut breakers) = (Timestamp::from_millis, Breakers::default());
        breakers.seen(0, BreakerState::Closed, at(1000), at(1020));
        for (now, view) in [
            (1099, View::Closed),
            (1100, View::Unknown { successes: 0 }),
            (1150, View::Closed),
            (1200, View::Unknown { successes: 0 }),
            (1250, View::Unknown { successes: 0 }),
        ] {
            assert_eq!(breakers.view(0, at(now)), view, "at {now}");
        }
        breakers.seen(0, BreakerState::Open { for_ms: 60_000 }, at(2000), at(2020));
        assert_eq!(breakers.view(0, at(2999)), View::Open { for_ms: 60_000 - 979 });
        assert_eq!(breakers.view(0, at(3000)), View::Unknown { successes: 0 });
    }

    #[test]
    fn a_clock_that_is_set_back_has_a_breaker_asked_again() {
        let at = Timestamp::from_millis;
        for state in [BreakerState::Open { for_ms: 60_000 }, BreakerState::Closed] {
            let mut breakers = Breakers::default();
            breakers.seen(0, state, at(100_000), at(100_000));
            assert_ne!(breakers.view(0, at(100_000)), View::Unknown { successes: 0 });
            assert_eq!(breakers.view(0, at(99_999)), View::Unknown { successes: 0 });
        }
    }
}

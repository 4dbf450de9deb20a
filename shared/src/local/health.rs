//! How the store is.

use crate::time::{Timestamp, Validity};

/// A circuit breaker around the store, so that a dead store costs nothing per request.
///
/// ```text
///            3 failures in a row                pause over: one request probes
///  Closed ──────────────────────▶ Open(pause) ─────────────────────────────▶ Probing(time)
///    ▲                              ▲   ▲                                       │  │
///    │ answered                     │   └──── failed: pause doubles, 10 s at most ┘  │
///    └──────────────────────────────┴── (from any state)          answered ◀────────┘
/// ```
///
/// A probe that nobody reports back on is given up after 5 s. A clock that is set back ends pause and probe.
#[derive(Debug)]
pub(crate) struct StoreHealth {
    state: Health,
    failures: u32,
    pause: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Closed,
    Open(Validity),
    Probing(Validity),
}

impl Default for StoreHealth {
    fn default() -> Self {
        Self { state: Health::Closed, failures: 0, pause: FIRST_PAUSE }
    }
}

impl StoreHealth {
    /// Whether the store is being left alone.
    pub(super) fn is_open(&self) -> bool {
        self.state != Health::Closed
    }

    /// Whether a request may ask the store; the one that may after a pause is the probe.
    pub(crate) fn admits(&mut self, now: Timestamp) -> bool {
        match self.state {
            Health::Closed => true,
            Health::Open(time) | Health::Probing(time) if time.covers(now) => false,
            Health::Open(_) | Health::Probing(_) => {
                self.state = Health::Probing(Validity::new(now, PROBE_EXPIRES));
                true
            }
        }
    }

    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }

    pub(super) fn failed(&mut self, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        match self.state {
            Health::Closed if self.failures < FAILURES => {}
            Health::Closed => self.state = Health::Open(Validity::new(now, self.pause)),
            Health::Probing(_) => {
                self.pause = self.pause.saturating_mul(2).min(LAST_PAUSE);
                self.state = Health::Open(Validity::new(now, self.pause));
            }
            // A call sent before the breaker opened.
            Health::Open(_) => {}
        }
    }
}

/// Failures in a row that open the breaker.
const FAILURES: u32 = 3;
/// Milliseconds until the first probe.
const FIRST_PAUSE: u64 = 500;
/// The longest pause between probes, in milliseconds.
const LAST_PAUSE: u64 = 10_000;
/// Milliseconds after which a probe that nobody reported back on is given up.
const PROBE_EXPIRES: u64 = 5_000;

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn the_breaker_opens_probes_and_closes() {
        let mut health = StoreHealth::default();
        for _ in 0..FAILURES {
            assert!(health.admits(at(0)));
            health.failed(at(0));
        }
        assert!(!health.admits(at(499)));
        assert!(health.admits(at(500)), "one probe");
        assert!(!health.admits(at(500)), "and no second");
        health.failed(at(550));
        assert!(!health.admits(at(1549)), "the pause doubled");
        assert!(health.admits(at(1550)));
        assert!(health.admits(at(1550 + PROBE_EXPIRES)), "a probe without report is given up");
        health.answered();
        assert!(health.admits(at(7000)) && health.admits(at(7000)));
    }

    #[test]
    fn a_clock_that_is_set_back_ends_pause_and_probe() {
        let mut health = StoreHealth::default();
        (0..FAILURES).for_each(|_| health.failed(at(2_000_000)));
        assert!(!health.admits(at(2_000_000)));
        assert!(health.admits(at(200_000)), "half an hour earlier by the clock: one probe");
        assert!(!health.admits(at(200_000)), "and no second");
        assert!(health.admits(at(100_000)), "set back once more while it is under way");
    }
}

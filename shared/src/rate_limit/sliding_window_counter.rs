//! The sliding window estimated from two fixed ones: the previous window counts in proportion to the part of it
//! that the sliding window still covers.
//!
//! With `W` the window and `e` the time since the current one began, what is used is `previous × (W − e) + current × W`,
//! in units of 1/W request, so that nothing is rounded.
//!
//! Words: start of the current window, consumed in the previous one, consumed in the current one.

use super::fixed_window::align;
use super::{Counter, Quota};

#[derive(Debug)]
pub(crate) struct SlidingWindowCounter {
    start: u64,
    previous: u64,
    current: u64,
}

impl SlidingWindowCounter {
    /// Milliseconds into the current window; zero if the clock was set back before it.
    fn elapsed(&self, quota: &Quota, now: u64) -> u64 {
        now.saturating_sub(self.start).min(quota.window)
    }

    /// Used, in units of 1/W.
    fn used(&self, quota: &Quota, now: u64) -> u64 {
        let covered = quota.window.saturating_sub(self.elapsed(quota, now));
        self.previous.saturating_mul(covered).saturating_add(self.current.saturating_mul(quota.window))
    }
}

impl Counter for SlidingWindowCounter {
    fn load(quota: &Quota, words: &[u64], now: u64) -> Self {
        let start = align(now, quota.window);
        let fresh = Self { start, previous: 0, current: 0 };
        let [stored, previous, current] = *words else { return fresh };
        if (start..=start.saturating_add(quota.window)).contains(&stored) {
            Self { start: stored, previous, current }
        } else if stored.saturating_add(quota.window) == start {
            Self { start, previous: current, current: 0 }
        } else {
            fresh
        }
    }

    fn words(&self, write: &mut dyn FnMut(u64)) {
        write(self.start);
        write(self.previous);
        write(self.current);
    }

    fn remaining(&self, quota: &Quota, now: u64) -> u64 {
        let whole = quota.limit.saturating_mul(quota.window);
        whole.saturating_sub(self.used(quota, now)).checked_div(quota.window).unwrap_or(0)
    }

    fn wait(&self, quota: &Quota, room: u64, now: u64) -> u64 {
        let target = quota.limit.saturating_sub(room);
        let used = self.used(quota, now);
        if used <= target.saturating_mul(quota.window) {
            return 0;
        }
        // `now` stands at the start of the window if the clock was set back before it.
        let behind = self.start.saturating_sub(now);
        if self.current <= target {
            // The previous window must fade until it leaves room.
            let excess = used.saturating_sub(target.saturating_mul(quota.window));
            behind.saturating_add(excess.div_ceil(self.previous.max(1)))
        } else {
            // The current window must become the previous one, and then fade.
            let left = quota.window.saturating_sub(self.elapsed(quota, now));
            let excess = self.current.saturating_sub(target).saturating_mul(quota.window);
            behind.saturating_add(left).saturating_add(excess.div_ceil(self.current))
        }
    }

    fn spend(&mut self, _quota: &Quota, cost: u64, _now: u64) {
        self.current = self.current.saturating_add(cost);
    }

    fn refund(&mut self, quota: &Quota, cost: u64, at: u64, _now: u64) -> bool {
        let counts = self.current > 0 && align(at, quota.window) == self.start;
        if counts {
            self.current = self.current.saturating_sub(cost);
        }
        counts
    }

    fn lapses(&self, quota: &Quota, now: u64) -> u64 {
        let windows = if self.current > 0 { 2 } else { 1 };
        self.start.saturating_add(quota.window.saturating_mul(windows)).saturating_sub(now)
    }
}

//! Fixed windows, aligned to the Unix epoch: a day begins at 00:00 UTC, an hour at minute zero.
//!
//! Words: start of the window, what was consumed in it.

use super::{Counter, Quota};

#[derive(Debug)]
pub(crate) struct FixedWindow {
    start: u64,
    used: u64,
}

impl Counter for FixedWindow {
    fn load(quota: &Quota, words: &[u64], now: u64) -> Self {
        let start = align(now, quota.window);
        match *words {
            [stored, used] if (start..=start.saturating_add(quota.window)).contains(&stored) => {
                Self { start: stored, used }
            }
            _ => Self { start, used: 0 },
        }
    }

    fn words(&self, write: &mut dyn FnMut(u64)) {
        write(self.start);
        write(self.used);
    }

    fn remaining(&self, quota: &Quota, _now: u64) -> u64 {
        quota.limit.saturating_sub(self.used)
    }

    fn wait(&self, quota: &Quota, room: u64, now: u64) -> u64 {
        if self.used.saturating_add(room) <= quota.limit { 0 } else { self.lapses(quota, now) }
    }

    fn spend(&mut self, _quota: &Quota, cost: u64, _now: u64) {
        self.used = self.used.saturating_add(cost);
    }

    fn refund(&mut self, quota: &Quota, cost: u64, at: u64, _now: u64) -> bool {
        let counts = self.used > 0 && align(at, quota.window) == self.start;
        if counts {
            self.used = self.used.saturating_sub(cost);
        }
        counts
    }

    fn lapses(&self, quota: &Quota, now: u64) -> u64 {
        self.start.saturating_add(quota.window).saturating_sub(now)
    }
}

/// The start of the window that `moment` lies in.
pub(super) const fn align(moment: u64, window: u64) -> u64 {
    match moment.checked_rem(window) {
        Some(into) => moment - into,
        None => moment,
    }
}

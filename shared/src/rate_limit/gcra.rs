//! The generic cell rate algorithm (ITU-T I.371), seen as a leaking bucket.
//!
//! Every unit pours `window` into the bucket, and each millisecond `quota` runs out, so the rate is quota per window
//! without a fraction. The bucket holds `burst × window`.
//!
//! Words: the level, and the moment it was measured.

use super::{Counter, Quota};

#[derive(Debug)]
pub(crate) struct Gcra {
    level: u64,
    at: u64,
}

impl Gcra {
    /// Milliseconds until the level has fallen to `target`.
    fn falls_to(&self, quota: &Quota, target: u64, now: u64) -> u64 {
        match self.level.checked_sub(target) {
            None | Some(0) => 0,
            // `at` is later than `now` if the clock was set back.
            Some(excess) => self.at.saturating_sub(now).saturating_add(excess.div_ceil(quota.limit.max(1))),
        }
    }
}

impl Counter for Gcra {
    fn load(quota: &Quota, words: &[u64], now: u64) -> Self {
        let fresh = Self { level: 0, at: now };
        let [level, at] = *words else { return fresh };
        if at > now.saturating_add(quota.window) {
            return fresh;
        }
        let drained = now.saturating_sub(at).saturating_mul(quota.limit);
        match level.saturating_sub(drained) {
            0 => fresh,
            level => Self { level, at: at.max(now) },
        }
    }

    fn words(&self, write: &mut dyn FnMut(u64)) {
        write(self.level);
        write(self.at);
    }

    fn remaining(&self, quota: &Quota, _now: u64) -> u64 {
        let whole = quota.burst.saturating_mul(quota.window);
        whole.saturating_sub(self.level).checked_div(quota.window).unwrap_or(0)
    }

    fn wait(&self, quota: &Quota, room: u64, now: u64) -> u64 {
        let target = quota.burst.saturating_sub(room).saturating_mul(quota.window);
        self.falls_to(quota, target, now)
    }

    fn spend(&mut self, quota: &Quota, cost: u64, _now: u64) {
        self.level = self.level.saturating_add(cost.saturating_mul(quota.window));
    }

    fn refund(&mut self, quota: &Quota, cost: u64, at: u64, now: u64) -> bool {
        // What may have run out since it was poured in cannot be taken out again.
        let drained = now.saturating_sub(at).saturating_mul(quota.limit);
        let left = cost.saturating_mul(quota.window).saturating_sub(drained);
        let changes = left > 0 && self.level > 0;
        self.level = self.level.saturating_sub(left);
        changes
    }

    fn lapses(&self, quota: &Quota, now: u64) -> u64 {
        self.falls_to(quota, 0, now)
    }
}

//! The exact sliding window: every unit admitted is remembered for one window.
//!
//! In Redis each unit is a member of a sorted set; here the units of one millisecond are one entry.
//!
//! Words: pairs of a moment and the units admitted in it, oldest first.

use alloc::vec::Vec;

use super::{Counter, Quota};

#[derive(Debug)]
pub(crate) struct SlidingWindowLog {
    entries: Vec<(u64, u64)>,
    used: u64,
}

impl Counter for SlidingWindowLog {
    fn load(quota: &Quota, words: &[u64], now: u64) -> Self {
        let entries: Vec<(u64, u64)> = words
            .as_chunks::<2>()
            .0
            .iter()
            .map(|[at, units]| (*at, *units))
            .filter(|(at, _)| {
                at.saturating_add(quota.window) > now && *at <= now.saturating_add(quota.window)
            })
            .collect();
        let used = entries.iter().fold(0, |used: u64, (_, units)| used.saturating_add(*units));
        Self { entries, used }
    }

    fn words(&self, write: &mut dyn FnMut(u64)) {
        for (at, units) in &self.entries {
            write(*at);
            write(*units);
        }
    }

    fn remaining(&self, quota: &Quota, _now: u64) -> u64 {
        quota.limit.saturating_sub(self.used)
    }

    fn wait(&self, quota: &Quota, room: u64, now: u64) -> u64 {
        let mut surplus = self.used.saturating_add(room).saturating_sub(quota.limit);
        if surplus == 0 {
            return 0;
        }
        for (at, units) in &self.entries {
            surplus = surplus.saturating_sub(*units);
            if surplus == 0 {
                return at.saturating_add(quota.window).saturating_sub(now);
            }
        }
        0
    }

    fn spend(&mut self, _quota: &Quota, cost: u64, now: u64) {
        if cost == 0 {
            return;
        }
        // Entries later than `now` exist only if the clock was set back.
        let place = self.entries.partition_point(|(at, _)| *at < now);
        match self.entries.get_mut(place) {
            Some((at, units)) if *at == now => *units = units.saturating_add(cost),
            _ => self.entries.insert(place, (now, cost)),
        }
        self.used = self.used.saturating_add(cost);
    }

    fn refund(&mut self, _quota: &Quota, cost: u64, at: u64, _now: u64) -> bool {
        // No entry is there twice, and those that left the window are gone.
        let mut taken = 0;
        for (_, units) in self.entries.iter_mut().filter(|(charged, _)| *charged == at) {
            taken = cost.min(*units);
            *units -= taken;
        }
        self.entries.retain(|(_, units)| *units > 0);
        self.used = self.used.saturating_sub(taken);
        taken > 0
    }

    fn lapses(&self, quota: &Quota, now: u64) -> u64 {
        self.entries.last().map_or(0, |(at, _)| at.saturating_add(quota.window).saturating_sub(now))
    }
}

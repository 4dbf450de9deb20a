//! Leases: one holder at a time, for a limited time. A lock is a lease that is released; deduplication is a lease that
//! nobody releases.
//!
//! A wrong *allow* runs something twice that was to run once; a wrong *deny* keeps somebody waiting for a holder that is
//! long gone. A lease ends by the store's clock, and its holder may not notice: what must never be done twice hands the
//! *fence* on, and whatever it guards refuses a fence smaller than one that it has seen.
//!
//! Words: the holder (two words), the moment the lease ends, the fence, for how long it was taken in milliseconds, and since when
//! it has seemed to end too late. A released lease ended at the epoch. `scripts/lease.lua` says the same in Lua.

use crate::id::Holder;
use crate::time::{Span, Term};

/// For how long a fence is remembered after its lease has ended, in milliseconds: a day. By then the clock has passed it.
pub(crate) const FENCE_KEPT: u64 = 24 * 60 * 60 * 1000;

/// Who holds something, and until when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lease {
    holder: Holder,
    fence: u64,
    term: Term,
}

impl Lease {
    /// The lease that `words` were written by; a free one for what cannot be read.
    pub(crate) fn load(words: &[u64], now: u64) -> Self {
        let [first, second, until, fence, span, noticed] = *words else { return Self::default() };
        let holder = Holder::from_words([first, second]);
        Self { holder, fence, term: Term::load([until, span, noticed], now) }
    }

    pub(crate) fn words(&self) -> [u64; 6] {
        let ([first, second], [until, span, noticed]) = (self.holder.words(), self.term.words());
        [first, second, until, self.fence, span, noticed]
    }

    /// Whether it has to be kept as it is now, even if nothing else changes it.
    pub(crate) fn has_changed(&self) -> bool {
        self.term.has_changed()
    }

    /// Takes the lease, or takes it once more: its fence; `None` while another one holds it.
    ///
    /// A holder that asks again, because an answer was lost, keeps its fence. Other fences are larger than every one before
    /// them, and at least the time; without `fenced` it is zero.
    pub(crate) fn acquire(&mut self, holder: Holder, lease: Span, fenced: bool, now: u64) -> Option<u64> {
        if self.is_held(now) {
            return self.extend(holder, lease, now);
        }
        self.holder = holder;
        self.fence = if fenced { next(self.fence, now) } else { 0 };
        self.prolong(lease, now);
        Some(self.fence)
    }

    /// Makes the lease end no earlier than `lease` from now: its fence; `None` unless `holder` holds it.
    pub(crate) fn extend(&mut self, holder: Holder, lease: Span, now: u64) -> Option<u64> {
        self.is_held_by(holder, now).then(|| {
            self.prolong(lease, now);
            self.fence
        })
    }

    /// Ends the lease, if `holder` holds it.
    pub(crate) fn release(&mut self, holder: Holder, now: u64) -> bool {
        let held = self.is_held_by(holder, now);
        if held {
            self.term.cancel();
        }
        held
    }

    /// Makes the lease end `span` from now, earlier or later than it would have.
    pub(crate) fn end_in(&mut self, span: Span, now: u64) {
        self.term.set(now.saturating_add(span.as_millis()), now);
    }

    pub(crate) fn is_held(&self, now: u64) -> bool {
        self.term.end(now) > now
    }

    pub(crate) fn is_held_by(&self, holder: Holder, now: u64) -> bool {
        self.is_held(now) && self.holder == holder
    }

    /// Milliseconds until the lease ends.
    pub(crate) fn rest(&self, now: u64) -> u64 {
        self.term.end(now).saturating_sub(now)
    }

    /// The moment from which the lease means nothing; `None` if that is now.
    pub(crate) fn expires(&self, now: u64) -> Option<u64> {
        match (self.term.latest(now).max(now), self.fence) {
            (until, 0) => (until > now).then_some(until),
            (until, _) => Some(until.saturating_add(FENCE_KEPT)),
        }
    }

    fn prolong(&mut self, lease: Span, now: u64) {
        self.term.prolong(now.saturating_add(lease.as_millis()), now);
    }
}

/// A number larger than `last`, and than any that was given out while the clock showed less than `now`: so that it rises even
/// if the last one has been forgotten.
pub(crate) fn next(last: u64, now: u64) -> u64 {
    last.saturating_add(1).max(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Holder = Holder::from_bytes([1; 16]);
    const B: Holder = Holder::from_bytes([2; 16]);
    const SECOND: Span = Span::from_millis(1000).unwrap();

    #[test]
    fn a_lease_ends_to_the_millisecond() {
        let mut lease = Lease::default();
        assert_eq!(lease.acquire(A, SECOND, true, 5000), Some(5000));
        assert_eq!(lease.acquire(B, SECOND, true, 5999), None);
        assert_eq!((lease.rest(5999), lease.is_held(5999), lease.is_held(6000)), (1, true, false));
        assert_eq!(lease.acquire(B, SECOND, true, 6000), Some(6000));
        assert_eq!(lease.extend(A, SECOND, 6000), None);
        assert!(!lease.release(A, 6000));
        assert_eq!(lease.rest(6000), 1000);
    }

    #[test]
    fn a_holder_that_asks_again_keeps_its_fence_and_gets_more_time() {
        let mut lease = Lease::default();
        assert_eq!(lease.acquire(A, SECOND, true, 5000), Some(5000));
        assert_eq!(lease.acquire(A, SECOND, true, 5300), Some(5000));
        assert_eq!(lease.extend(A, SECOND, 5400), Some(5000));
        assert_eq!(lease.rest(5400), 1000);
        // Never less than it was taken for.
        assert_eq!(lease.extend(A, Span::from_millis(1).unwrap(), 5400), Some(5000));
        assert_eq!(lease.rest(5400), 1000);
    }

    #[test]
    fn a_clock_that_was_ahead_keeps_nobody_waiting_for_longer_than_a_lease() {
        let mut lease = Lease::default();
        assert_eq!(lease.acquire(A, SECOND, true, 900_000), Some(900_000));
        let mut lease = Lease::load(&lease.words(), 5000);
        assert!(lease.has_changed());
        assert_eq!((lease.acquire(B, SECOND, true, 5000), lease.rest(5000)), (None, 1000));
        let mut lease = Lease::load(&lease.words(), 5999);
        assert!(!lease.has_changed());
        assert_eq!(lease.acquire(B, SECOND, true, 5999), None);
        assert_eq!(lease.acquire(B, SECOND, true, 6000), Some(900_001), "fences rise all the same");
    }

    #[test]
    fn a_clock_that_is_behind_for_a_moment_lets_no_second_holder_in() {
        let mut lease = Lease::default();
        let hour = Span::from_millis(3_600_000).unwrap();
        assert_eq!(lease.acquire(A, hour, true, 9_000_000), Some(9_000_000));
        let mut lease = Lease::load(&lease.words(), 5000);
        assert_eq!(lease.acquire(B, hour, true, 5000), None);
        let mut lease = Lease::load(&lease.words(), 9_003_000);
        assert_eq!((lease.acquire(B, hour, true, 9_003_000), lease.rest(9_003_000)), (None, 3_597_000));
        assert!(lease.is_held_by(A, 9_003_000));
    }

    #[test]
    fn clocks_that_differ_by_less_than_a_minute_let_no_second_holder_in() {
        let (mut lease, half) = (Lease::default(), Span::from_millis(30_000).unwrap());
        assert!(lease.acquire(A, half, true, 1_000_010).is_some());
        for (now, rest) in [(960_000, 70_010), (1_000_000, 30_010), (1_030_009, 1)] {
            lease = Lease::load(&lease.words(), now);
            assert_eq!((lease.acquire(B, half, true, now), lease.rest(now)), (None, rest));
        }
    }

    #[test]
    fn fences_rise_whatever_the_clock_does() {
        let mut lease = Lease::default();
        assert_eq!(lease.acquire(A, SECOND, true, 5000), Some(5000));
        assert!(lease.release(A, 5000));
        assert_eq!(lease.acquire(B, SECOND, true, 5000), Some(5001));
        assert!(lease.release(B, 4000));
        assert_eq!(lease.acquire(A, SECOND, true, 4000), Some(5002));
        assert_eq!(lease.acquire(A, SECOND, true, 9000), Some(9000), "after it lapsed it is another one");
    }

    #[test]
    fn what_is_kept_ends_a_day_after_the_lease_or_with_it() {
        let mut lease = Lease::default();
        lease.acquire(A, SECOND, false, 5000);
        assert_eq!((lease.fence, lease.expires(5000)), (0, Some(6000)));
        lease.release(A, 5500);
        assert_eq!(lease.expires(5500), None);
        lease.acquire(A, SECOND, true, 5500);
        assert_eq!(lease.expires(5500), Some(6500 + 86_400_000));
        lease.release(A, 5600);
        assert_eq!(lease.expires(5600), Some(5600 + 86_400_000));
    }

    #[test]
    fn words_come_back_as_the_same_lease() {
        let mut lease = Lease::default();
        lease.acquire(A, SECOND, true, 5000);
        assert_eq!(Lease::load(&lease.words(), 5000), lease);
        assert_eq!(Lease::load(&[1, 2, 3], 5000), Lease::default());
    }
}

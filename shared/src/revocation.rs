//! Revocations: tokens that are valid no more, although their signature and expiry say they are.
//!
//! A wrong *allow* lets a stolen or logged-out token in; a wrong *deny* logs somebody out. A revocation is kept as long as
//! what it revokes could be valid, and is never made shorter or moved back by a later one.
//!
//! Under the key of one token, presence says it all. Under the key of a subject, the moment that is kept says more: what was
//! issued at or before it is revoked. Three clocks have a part in it, those of the store, of the host that revokes and of the
//! issuer, and hosts accept tokens whose issuer is ahead of them by the leeway of the policy. So that none of these tokens
//! slips through, the moment is the later one of store and host plus the leeway; a new token of the subject is refused until then.
//!
//! Words: that moment, the moment the revocation ends, and in memory for how many milliseconds it was made and since when it has
//! seemed to end too late. A clock that is set back makes it end earlier; what is revoked stays so until then.
//! `scripts/revoke.lua` says the same in Lua. Asking is one plain `GETEX` there, which knows no time, so the host compares the
//! end, which was told by a host's clock. Redis itself forgets the key a minute after the end by its own clock. So a revocation
//! lasts too long only if both clocks were ahead.

use crate::time::{CLOCKS_DIFFER, Span, Term, Timestamp};

/// What is revoked under one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What was issued at or before this moment is revoked.
    pub before: Timestamp,
    /// When it ends, by the clock of the host that revoked.
    pub until: Timestamp,
}

impl Revocation {
    /// Whether it is in force. It is for a minute longer than it has to be, so that hosts' clocks need not be equal.
    pub(crate) fn is_in_force(&self, now: Timestamp) -> bool {
        now < self.until.plus(CLOCKS_DIFFER)
    }

    /// Whether a token is revoked that was issued then, or does not say when.
    pub(crate) fn covers(&self, issued: Option<Timestamp>, now: Timestamp) -> bool {
        self.is_in_force(now) && issued.is_none_or(|issued| issued <= self.before)
    }
}

/// Up to which moment a subject's tokens are revoked: the later one of store's and host's time, plus the leeway, and at
/// least the time at which the token was issued that asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The time by the host's clock.
    pub now: Timestamp,
    /// By how many milliseconds an issuer's clock may be ahead.
    pub leeway: u64,
    /// When the token was issued that asks for it.
    pub issued: Timestamp,
}

impl Reach {
    /// The moment, as far as the host knows it.
    pub(crate) fn least(&self) -> u64 {
        self.now.plus(self.leeway).max(self.issued).as_millis().min(LATEST)
    }
}

/// A revocation in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    before: u64,
    term: Term,
}

impl State {
    /// The revocation that `words` were written by; none for what cannot be read.
    pub(crate) fn load(words: &[u64], now: u64) -> Self {
        let [before, until, span, noticed] = *words else { return Self::default() };
        Self { before, term: Term::load([until, span, noticed], now) }
    }

    pub(crate) fn words(&self) -> [u64; 4] {
        let [until, span, noticed] = self.term.words();
        [self.before, until, span, noticed]
    }

    /// Whether it has to be kept as it is now, even if nothing else changes it.
    pub(crate) fn has_changed(&self) -> bool {
        self.term.has_changed()
    }

    /// Revokes what was issued within `reach`, for `ttl`: the moment up to which that is.
    pub(crate) fn revoke(&mut self, reach: &Reach, ttl: Span, now: u64) -> Timestamp {
        self.before = self.before.max(reach.least()).max(now.saturating_add(reach.leeway));
        self.term.prolong(ends(reach, ttl), now);
        Timestamp::from_millis(self.before)
    }

    /// What is revoked, if anything is.
    pub(crate) fn revocation(&self, now: u64) -> Option<Revocation> {
        let until = self.term.end(now);
        let [before, end] = [self.before, until].map(Timestamp::from_millis);
        (until > 0).then_some(Revocation { before, until: end })
    }

    /// The moment from which the revocation means nothing.
    pub(crate) fn expires(&self, now: u64) -> u64 {
        self.term.latest(now).saturating_add(CLOCKS_DIFFER)
    }
}

/// When a revocation ends, by the host's clock.
pub(crate) fn ends(reach: &Reach, ttl: Span) -> u64 {
    reach.now.plus(ttl.as_millis()).as_millis().min(LATEST)
}

/// For how long a revocation is kept of what can be valid for so many more milliseconds; nothing that lives longer is let in.
pub(crate) fn time_to_live(millis: u64) -> Span {
    Span::from_millis(millis.max(1)).unwrap_or(Span::MAX)
}

/// The latest moment that may be named: Lua counts in doubles, exact to 2⁵³.
const LATEST: u64 = (1 << 53) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Span = Span::from_millis(1000).unwrap();
    const MINUTE: Span = Span::from_millis(60_000).unwrap();

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn reach(now: u64, leeway: u64, issued: u64) -> Reach {
        Reach { now: at(now), leeway, issued: at(issued) }
    }

    #[test]
    fn the_latest_of_all_clocks_counts() {
        for (reach, store, before) in [
            (reach(5000, 0, 0), 5000, 5000),
            (reach(5000, 0, 0), 3000, 5000),
            (reach(5000, 0, 0), 7000, 7000),
            (reach(5000, 2000, 6000), 3000, 7000),
            (reach(5000, 2000, 6000), 8000, 10_000),
            (reach(5000, 0, 9000), 5000, 9000),
        ] {
            assert_eq!(State::default().revoke(&reach, MINUTE, store), at(before), "{reach:?}");
        }
    }

    #[test]
    fn a_revocation_lasts_for_its_time_and_a_minute() {
        let mut state = State::default();
        assert_eq!(state.revocation(5000), None);
        state.revoke(&reach(5000, 0, 0), SECOND, 5000);
        let revocation = state.revocation(5000).unwrap();
        assert_eq!(revocation, Revocation { before: at(5000), until: at(6000) });
        assert!(revocation.is_in_force(at(65_999)) && !revocation.is_in_force(at(66_000)));
        assert!(revocation.covers(Some(at(5000)), at(5000)) && !revocation.covers(Some(at(5001)), at(5000)));
        assert!(revocation.covers(None, at(5000)) && !revocation.covers(None, at(66_000)));
    }

    #[test]
    fn no_moment_is_later_than_lua_can_count_to() {
        const LAST: u64 = 9_007_199_254_740_991;
        assert_eq!(ends(&reach(u64::MAX, 0, 0), MINUTE), LAST);
        assert_eq!(reach(1, u64::MAX, 0).least(), LAST);
    }

    #[test]
    fn a_later_one_neither_shortens_nor_moves_back() {
        let mut state = State::default();
        state.revoke(&reach(5000, 0, 0), MINUTE, 5000);
        assert_eq!(state.revoke(&reach(5500, 0, 0), SECOND, 5500), at(5500));
        assert_eq!(state.revocation(5500), Some(Revocation { before: at(5500), until: at(65_000) }));
        assert_eq!(State::load(&state.words(), 5500), state);
    }

    #[test]
    fn a_clock_that_was_ahead_locks_nobody_out_for_longer_than_tokens_last() {
        let mut state = State::default();
        state.revoke(&reach(900_000, 2000, 0), MINUTE, 900_000);
        let mut state = State::load(&state.words(), 5000);
        assert!(state.has_changed());
        for now in [5000, 64_999] {
            state = State::load(&state.words(), now);
            assert_eq!(state.revocation(now), Some(Revocation { before: at(902_000), until: at(65_000) }));
        }
        assert!(!state.has_changed());
    }

    #[test]
    fn a_clock_that_is_behind_for_a_moment_lets_no_token_in() {
        let mut state = State::default();
        state.revoke(&reach(900_000, 0, 0), MINUTE, 900_000);
        let whole = state.revocation(900_000);
        let behind = State::load(&state.words(), 5000);
        assert!(behind.revocation(5000).unwrap().covers(Some(at(4000)), at(5000)));
        assert_eq!(State::load(&behind.words(), 901_000).revocation(901_000), whole);
    }
}

//! Revocations: tokens that are valid no more, although their signature and expiry say they are.
//!
//! A wrong *allow* lets a stolen or logged-out token in; a wrong *deny* logs somebody out. A revocation is kept as long as
//! what it revokes could be valid, and is never made shorter or moved back by a later one.
//!
//! Under the key of one token, presence says it all. Under the key of a subject, the moment that is kept says more:
//! what was issued at or before it is revoked.
//!
//! Words: that moment, and the moment the revocation ends. `scripts/revoke.lua` says the same in Lua. Asking is
//! one plain `GETEX` there, which knows no time, so Redis may go on revoking for a minute after the end; by then the token has
//! expired.

use crate::time::Span;

/// What is revoked under one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Revocation {
    before: u64,
    until: u64,
}

impl Revocation {
    /// The revocation that `words` were written by; none for what cannot be read.
    pub(crate) fn load(words: &[u64]) -> Self {
        let [before, until] = *words else { return Self::default() };
        Self { before, until }
    }

    pub(crate) fn words(&self) -> [u64; 2] {
        [self.before, self.until]
    }

    /// Revokes what was issued at or before `before`, for `ttl` from now.
    pub(crate) fn revoke(&mut self, before: u64, ttl: Span, now: u64) {
        self.before = self.before.max(before.min(LATEST));
        self.until = self.until.max(now.saturating_add(ttl.as_millis()));
    }

    /// The moment up to which what was issued is revoked.
    pub(crate) fn before(&self, now: u64) -> Option<u64> {
        (self.until > now).then_some(self.before)
    }

    /// The moment from which the revocation means nothing.
    pub(crate) fn expires(&self) -> u64 {
        self.until
    }
}

/// For how long a revocation is kept of what can be valid for so many more milliseconds; nothing that lives longer is let in.
pub(crate) fn time_to_live(millis: u64) -> Span {
    Span::from_millis(millis.max(1)).unwrap_or(Span::MAX)
}

/// The latest moment that may be named: Lua counts in doubles, exact to 2⁵³.
pub(crate) const LATEST: u64 = (1 << 53) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Span = Span::from_millis(1000).unwrap();
    const MINUTE: Span = Span::from_millis(60_000).unwrap();

    #[test]
    fn a_revocation_lasts_for_its_time() {
        let mut revocation = Revocation::default();
        assert_eq!(revocation.before(5000), None);
        revocation.revoke(4000, SECOND, 5000);
        assert_eq!(revocation.before(5999), Some(4000));
        assert_eq!(revocation.before(6000), None);
    }

    #[test]
    fn a_later_one_neither_shortens_nor_moves_back() {
        let mut revocation = Revocation::default();
        revocation.revoke(5000, MINUTE, 5000);
        revocation.revoke(4000, SECOND, 6000);
        assert_eq!((revocation.before(64_999), revocation.before(65_000)), (Some(5000), None));
        revocation.revoke(7000, SECOND, 7000);
        assert_eq!(revocation.words(), [7000, 65_000]);
        assert_eq!(Revocation::load(&revocation.words()), revocation);
    }
}

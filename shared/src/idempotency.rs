//! Idempotency: a request that is sent again is not carried out again, and its answer is the first one's.
//!
//! A wrong *allow* charges a card twice; a wrong *deny* leaves a client with no answer to a request that nobody carries
//! out. The first request reserves its key for a limited time and keeps its response there; a reservation never outlives
//! its lease, and a request that is late, whose reservation ended, cannot overwrite what a newer one keeps.
//!
//! Words: those of a [`lease`](crate::lease), the fingerprint (two words), whether a response is kept; then the
//! response's bytes. `scripts/idempotency.lua` says the same in Lua.

use alloc::vec::Vec;
use core::fmt;

use crate::id::{Fingerprint, Holder};
use crate::lease::Lease;
use crate::time::Span;

/// The largest response that is kept, in bytes: 256 KiB.
pub const MAX_RESPONSE: usize = 256 * 1024;

/// A response to be replayed, in whatever form its host writes it; at most [`MAX_RESPONSE`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredResponse(Vec<u8>);

impl StoredResponse {
    /// The response that `bytes` are; `None` if they are too many.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() <= MAX_RESPONSE).then_some(Self(bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Its length only: what is in it concerns one client.
impl fmt::Debug for StoredResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredResponse({} bytes)", self.0.len())
    }
}

/// What becomes of a request that asks for a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is the first: its fence.
    Reserved(u64),
    /// The first one is under way, for at most so many milliseconds.
    InProgress(u64),
    /// The key is used for another request.
    Mismatch,
    /// The response is kept.
    Replay,
}

/// What is remembered of an idempotency key, but for the response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reservation {
    /// Of the request under way; once a response is kept, the time for which it is.
    lease: Lease,
    fingerprint: Fingerprint,
    kept: bool,
}

impl Reservation {
    /// Bytes of the words, in front of those of a response.
    pub(crate) const BYTES: usize = 7 * 8;
    /// For how long a fence is remembered after what it belongs to has ended, in milliseconds: clocks step back.
    const FENCE_KEPT: u64 = 60 * 1000;

    /// The reservation that `words` were written by; none for what cannot be read.
    pub(crate) fn load(words: &[u64]) -> Self {
        let [lease @ .., first, second, kept] = words else { return Self::default() };
        let fingerprint = Fingerprint::from_words([*first, *second]);
        Self { lease: Lease::load(lease), fingerprint, kept: *kept != 0 }
    }

    pub(crate) fn words(&self) -> [u64; 7] {
        let ([a, b, c, d], [e, f]) = (self.lease.words(), self.fingerprint.words());
        [a, b, c, d, e, f, u64::from(self.kept)]
    }

    /// Reserves the key for the first who asks, and says what he is to do to everybody else.
    pub(crate) fn reserve(
        &mut self,
        holder: Holder,
        fingerprint: Fingerprint,
        lease: Span,
        now: u64,
    ) -> Answer {
        if self.lease.is_held(now) {
            if self.fingerprint != fingerprint {
                return Answer::Mismatch;
            }
            if self.kept {
                return Answer::Replay;
            }
        }
        match self.lease.acquire(holder, lease, true, now) {
            Some(fence) => {
                (self.fingerprint, self.kept) = (fingerprint, false);
                Answer::Reserved(fence)
            }
            None => Answer::InProgress(self.lease.rest(now)),
        }
    }

    /// Whether the reservation is `holder`'s, and whether a response is kept already.
    pub(crate) fn is_held_by(&self, holder: Holder, now: u64) -> (bool, bool) {
        (self.lease.is_held_by(holder, now), self.kept)
    }

    /// Takes note that the holder's response is kept, for `ttl` and no longer.
    pub(crate) fn keep(&mut self, ttl: Span, now: u64) {
        self.kept = true;
        self.lease.set_end(now.saturating_add(ttl.as_millis()));
    }

    /// Frees the key, if it is reserved for `holder` and no response is kept.
    pub(crate) fn abandon(&mut self, holder: Holder, now: u64) -> bool {
        !self.kept && self.lease.release(holder, now)
    }

    /// The moment from which nothing of it means anything.
    pub(crate) fn expires(&self, now: u64) -> u64 {
        now.saturating_add(self.lease.rest(now)).saturating_add(Self::FENCE_KEPT)
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::vec;

    use super::*;

    const A: Holder = Holder::from_bytes([1; 16]);
    const B: Holder = Holder::from_bytes([2; 16]);
    const ONE: Fingerprint = Fingerprint::from_bytes([11; 16]);
    const OTHER: Fingerprint = Fingerprint::from_bytes([12; 16]);
    const SECOND: Span = Span::from_millis(1000).unwrap();
    const MINUTE: Span = Span::from_millis(60_000).unwrap();

    #[test]
    fn one_is_first_and_the_others_wait_for_its_response() {
        let mut key = Reservation::default();
        assert_eq!(key.reserve(A, ONE, SECOND, 5000), Answer::Reserved(5000));
        assert_eq!(key.reserve(B, ONE, SECOND, 5400), Answer::InProgress(600));
        assert_eq!(key.reserve(B, OTHER, SECOND, 5400), Answer::Mismatch);
        assert_eq!(key.reserve(A, ONE, SECOND, 5500), Answer::Reserved(5000), "its answer was lost");
        assert_eq!(key.is_held_by(A, 6499), (true, false));
        key.keep(MINUTE, 6000);
        assert_eq!(key.reserve(B, ONE, SECOND, 65_999), Answer::Replay);
        assert_eq!(key.reserve(A, ONE, SECOND, 65_999), Answer::Replay);
        assert_eq!(key.reserve(B, OTHER, SECOND, 65_999), Answer::Mismatch);
        assert_eq!(key.reserve(B, OTHER, SECOND, 66_000), Answer::Reserved(66_000));
    }

    #[test]
    fn a_reservation_ends_with_its_lease() {
        let mut key = Reservation::default();
        assert_eq!(key.reserve(A, ONE, SECOND, 5000), Answer::Reserved(5000));
        assert_eq!(key.reserve(B, OTHER, SECOND, 6000), Answer::Reserved(6000));
        assert_eq!(key.is_held_by(A, 6000), (false, false));
        assert!(!key.abandon(A, 6000));
        assert_eq!(key.is_held_by(B, 6000), (true, false));
    }

    #[test]
    fn an_abandoned_one_is_free_for_another_request() {
        let mut key = Reservation::default();
        assert_eq!(key.reserve(A, ONE, SECOND, 5000), Answer::Reserved(5000));
        assert!(key.abandon(A, 5000));
        assert!(!key.abandon(A, 5000));
        assert_eq!(key.reserve(B, OTHER, SECOND, 5000), Answer::Reserved(5001));
        key.keep(MINUTE, 5000);
        assert!(!key.abandon(B, 5000), "what is kept stays");
    }

    #[test]
    fn a_response_is_kept_for_less_than_a_lease_too() {
        let mut key = Reservation::default();
        assert_eq!(key.reserve(A, ONE, MINUTE, 5000), Answer::Reserved(5000));
        key.keep(SECOND, 5000);
        assert_eq!(key.expires(5000), 66_000);
        assert_eq!(key.reserve(B, ONE, SECOND, 6000), Answer::Reserved(6000));
    }

    #[test]
    fn words_come_back_as_the_same_reservation() {
        let mut key = Reservation::default();
        key.reserve(A, ONE, SECOND, 5000);
        key.keep(MINUTE, 5000);
        assert_eq!(Reservation::load(&key.words()), key);
        assert_eq!(key.words().len() * 8, Reservation::BYTES);
        for damaged in [&[][..], &[1, 2], &[1; 6]] {
            assert!(!Reservation::load(damaged).lease.is_held(5000), "{damaged:?}");
        }
    }

    #[test]
    fn a_response_is_bounded_and_not_printed() {
        assert_eq!(StoredResponse::new(vec![0; MAX_RESPONSE + 1]), None);
        let largest = StoredResponse::new(vec![b'x'; MAX_RESPONSE]).unwrap();
        assert_eq!(format!("{largest:?}"), "StoredResponse(262144 bytes)");
    }
}

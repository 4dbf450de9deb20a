//! What is known of tokens: their bearers, the keys that verify them, and which of them were not revoked.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use subtle::ConstantTimeEq as _;

use crate::config::ConfigError;
use crate::jwt::{Bearer, JwtPolicy, KeySet, Token};
use crate::key::Digest;
use crate::time::{Timestamp, Validity};

/// Bearers of tokens whose signature holds: to know one again is to compare bytes. At most as many as the constructor says, and at
/// most [`MAX_BEARERS`] bytes of tokens; of more, somebody is forgotten.
///
/// They are found by the end of their signature, which nobody can guess a byte at a time, and compared in constant time.
#[derive(Debug)]
pub(crate) struct Bearers {
    at_most: usize,
    bytes: usize,
    by_signature: BTreeMap<[u8; 8], Known>,
}

/// A token as it is written, and its bearer.
type Known = (Box<[u8]>, Arc<Bearer>);

impl Bearers {
    pub(super) fn new(at_most: usize) -> Self {
        Self { at_most, bytes: 0, by_signature: BTreeMap::new() }
    }

    /// The bearer of the token that is written `text`. Whether it has expired is not asked.
    pub(crate) fn find(&self, text: &[u8]) -> Option<Arc<Bearer>> {
        let (known, bearer) = self.by_signature.get(text.last_chunk()?)?;
        is_equal(known, text).then(|| Arc::clone(bearer))
    }

    pub(crate) fn insert(&mut self, text: &[u8], token: Token) -> Arc<Bearer> {
        let bearer = Arc::new(Bearer::from(token));
        let Some(end) = text.last_chunk().filter(|_| self.at_most > 0) else { return bearer };
        while self.by_signature.len() >= self.at_most || self.bytes.saturating_add(text.len()) > MAX_BEARERS {
            // Signatures are evenly spread, so whoever is first is anybody.
            let Some((_, (forgotten, _))) = self.by_signature.pop_first() else { break };
            self.bytes = self.bytes.saturating_sub(forgotten.len());
        }
        self.bytes = self.bytes.saturating_add(text.len());
        if let Some((old, _)) = self.by_signature.insert(*end, (text.into(), Arc::clone(&bearer))) {
            self.bytes = self.bytes.saturating_sub(old.len());
        }
        bearer
    }

    pub(super) fn clear(&mut self) {
        (self.bytes, self.by_signature) = (0, BTreeMap::new());
    }
}

/// Compares in a time that depends on the lengths alone; eight bytes at a time, as tokens are long.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    let ((words, rest), (other_words, other_rest)) = (one.as_chunks::<8>(), other.as_chunks::<8>());
    let words = words.iter().zip(other_words).fold(rest.ct_eq(other_rest), |so_far, (one, other)| {
        so_far & u64::from_ne_bytes(*one).ct_eq(&u64::from_ne_bytes(*other))
    });
    one.len() == other.len() && words.into()
}

/// Keys that were fetched, and when.
#[derive(Debug, Default)]
pub(crate) struct FetchedKeys {
    pub(crate) set: Option<KeySet>,
    fetched: Timestamp,
    /// What they were read from.
    pub(crate) document: Option<Digest>,
    /// For how long they are not asked for again.
    asked: Validity,
    /// They are on their way.
    is_asked: bool,
}

impl FetchedKeys {
    /// Takes up a document, if one came: whether it says something else than the one before.
    pub(super) fn fetched(
        &mut self,
        jwt: Option<&JwtPolicy>,
        document: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<bool, ConfigError> {
        self.is_asked = false;
        let (Some(document), Some(jwt)) = (document, jwt) else { return Ok(false) };
        let digest = Some(Digest::of_parts(&[document]));
        let is_new = self.document != digest;
        if is_new {
            self.set = Some(KeySet::from_jwks(document, jwt.algorithms())?);
            self.document = digest;
        }
        self.fetched = now;
        Ok(is_new)
    }

    /// Forgets keys that could not be refreshed for too long: whether there were any.
    pub(super) fn forget_old(&mut self, refresh_millis: u64, now: Timestamp) -> bool {
        let is_old = now.since(self.fetched) >= refresh_millis.saturating_add(UNREFRESHED);
        if is_old {
            self.document = None;
        }
        is_old && self.set.take().is_some()
    }

    /// Whether a request is to wait for keys; `is_known` if one is there for its token. Then only one request in a while has them
    /// refreshed, and the others go by what there is.
    pub(crate) fn are_wanted(&mut self, is_known: bool, refresh_millis: u64, now: Timestamp) -> bool {
        let is_recent = self.asked.covers(now);
        if is_known && (is_recent || Validity::new(self.fetched, refresh_millis).covers(now)) {
            return false;
        }
        if is_recent {
            return self.is_asked;
        }
        (self.asked, self.is_asked) = (Validity::new(now, ASK_AGAIN), true);
        true
    }
}

/// Digests that are remembered for a time. At most as many as the constructor says; of more, some are forgotten.
#[derive(Debug)]
pub(crate) struct Recent {
    at_most: usize,
    valid: BTreeMap<Digest, Validity>,
}

impl Recent {
    pub(super) fn new(at_most: usize) -> Self {
        Self { at_most, valid: BTreeMap::new() }
    }

    pub(crate) fn has(&self, digest: &Digest, now: Timestamp) -> bool {
        self.valid.get(digest).is_some_and(|valid| valid.covers(now))
    }

    pub(crate) fn insert(&mut self, digest: Digest, valid: Validity, now: Timestamp) {
        if self.valid.len() >= self.at_most {
            self.valid.retain(|_, valid| valid.covers(now));
        }
        // Digests are evenly spread, so whoever is first is anybody.
        if self.valid.len() >= self.at_most {
            self.valid.pop_first();
        }
        if self.at_most > 0 {
            self.valid.insert(digest, valid);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.valid.clear();
    }
}

/// Most bytes of tokens that are remembered: 1 MiB.
const MAX_BEARERS: usize = 1 << 20;
/// Milliseconds before keys are fetched once more because one is missing: anybody can make a token that names a key which is not there.
const ASK_AGAIN: u64 = 10_000;
/// Milliseconds for which keys are believed that should have been refreshed and could not be: a day.
const UNREFRESHED: u64 = 24 * 60 * 60 * 1000;

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// A token with a signature of its own, and with a text so many times four bytes long.
    fn token(signature: [u8; 2], length: usize) -> Vec<u8> {
        // `{"alg":"HS256"}` and `{"a":"…"} `.
        [&b"eyJhbGciOiJIUzI1NiJ9.eyJhIjoi"[..], "YWFh".repeat(length).as_bytes(), b"In0g.AAAAAA", &signature]
            .concat()
    }

    #[test]
    fn no_more_bearers_are_known_than_may_be() {
        let long = 1024;
        let by_bytes = MAX_BEARERS / token(*b"AA", long).len();
        for (at_most, length, known) in [(0, 0, 0), (1, 0, 1), (3, 0, 3), (1000, long, by_bytes)] {
            let mut bearers = Bearers::new(at_most);
            let signatures = (b'A'..=b'Z').flat_map(|first| (b'A'..=b'Z').map(move |second| [first, second]));
            let tokens: Vec<Vec<u8>> = signatures.map(|signature| token(signature, length)).collect();
            for text in &tokens {
                bearers.insert(text, Token::parse(text).unwrap());
                assert_eq!(bearers.find(text).is_some(), at_most > 0);
            }
            let found: Vec<_> = tokens.iter().filter(|text| bearers.find(text).is_some()).collect();
            assert_eq!(found.len(), known, "{at_most}");
            assert_eq!(bearers.bytes, found.iter().map(|text| text.len()).sum::<usize>());
            bearers.clear();
            assert!(tokens.iter().all(|text| bearers.find(text).is_none()) && bearers.bytes == 0);
        }
    }

    #[test]
    fn no_more_digests_are_remembered_than_may_be() {
        let (at, digest) = (Timestamp::from_millis, |byte: u8| Digest::of_parts(&[&[byte]]));
        for at_most in 0..3_u8 {
            let mut recent = Recent::new(usize::from(at_most));
            for byte in 0..9 {
                recent.insert(digest(byte), Validity::new(at(1000), 1000), at(1000));
            }
            let known =
                |recent: &Recent, now| (0..9).filter(|byte| recent.has(&digest(*byte), at(now))).count();
            assert_eq!([known(&recent, 1000), known(&recent, 2000)], [usize::from(at_most), 0]);
            // What is over makes room first.
            for byte in 0..at_most {
                recent.insert(digest(byte), Validity::new(at(2000), 1000), at(2000));
            }
            assert_eq!(known(&recent, 2000), usize::from(at_most));
            recent.clear();
            assert_eq!(known(&recent, 2000), 0);
        }
    }

    #[test]
    fn a_clock_that_is_set_back_ends_what_is_remembered() {
        let (at, digest) = (Timestamp::from_millis, Digest::of_parts(&[b"token"]));
        let mut recent = Recent::new(1);
        recent.insert(digest, Validity::new(at(100_000), 1000), at(100_000));
        assert!(recent.has(&digest, at(100_000)) && !recent.has(&digest, at(99_999)));
        let mut keys = FetchedKeys::default();
        assert!(keys.are_wanted(true, 60_000, at(100_000)));
        keys.fetched(None, None, at(100_000)).unwrap();
        assert!(!keys.are_wanted(true, 60_000, at(100_000)));
        assert!(keys.are_wanted(true, 60_000, at(99_999)), "they are fetched again");
    }

    #[test]
    fn tokens_are_equal_to_the_last_byte() {
        let token: Vec<u8> = (0..45).collect();
        for length in 0..token.len() {
            let token = &token[..length];
            assert!(is_equal(token, token) && !is_equal(token, &[token, &[0]].concat()));
            for at in 0..length {
                let mut other = token.to_vec();
                other[at] ^= 0x80;
                assert!(!is_equal(token, &other), "{at} of {length}");
            }
        }
    }
}

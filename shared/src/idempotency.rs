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

/// A response to be replayed, at most [`MAX_RESPONSE`] bytes.
///
/// ```text
/// 1 │ status u16 │ fields u16 │ (name length u16, name, value length u16, value) … │ body        (big-endian)
/// ```
///
/// Status 0 says that a response was given and not kept.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredResponse(Vec<u8>);

impl StoredResponse {
    /// The response that `bytes` are; `None` if they are too many.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() <= MAX_RESPONSE).then_some(Self(bytes))
    }

    /// What is kept of a response that is not.
    pub fn not_kept() -> Self {
        Self(Vec::from([VERSION, 0, 0, 0, 0]))
    }

    /// Status, header fields and body; `None` for one that was not kept, that nobody of ours wrote, or
    /// that is not final.
    pub fn parts(&self) -> Option<Parts<'_>> {
        let (head, mut rest) = self.0.split_first_chunk::<5>()?;
        let [VERSION, a, b, c, d] = *head else { return None };
        let (status, count) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let mut fields = Vec::new();
        for _ in 0..count {
            let name = core::str::from_utf8(take(&mut rest)?).ok()?;
            fields.push((name, core::str::from_utf8(take(&mut rest)?).ok()?));
        }
        (200..=599).contains(&status).then_some(Parts { status, fields, body: rest })
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

/// A response in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// The status.
    pub status: u16,
    /// Header fields in their order, names in lower case.
    pub fields: Vec<(&'a str, &'a str)>,
    /// The body.
    pub body: &'a [u8],
}

/// Takes down a response while it passes.
#[derive(Clone)]
pub(crate) struct Recorder {
    bytes: Vec<u8>,
    at_most: usize,
    /// It does not fit, or cannot be taken down.
    is_lost: bool,
    is_whole: bool,
}

impl Recorder {
    /// Of a response with this status; of at most so many bytes.
    pub(crate) fn new(status: u16, at_most: usize) -> Self {
        let [a, b] = status.to_be_bytes();
        Self { bytes: Vec::from([VERSION, a, b, 0, 0]), at_most, is_lost: false, is_whole: false }
    }

    /// Takes down a header field, before any of the body. What concerns one message alone is left out, and what is made anew.
    pub(crate) fn field(&mut self, name: &str, value: &[u8]) {
        let name = name.to_ascii_lowercase();
        if LEFT_OUT.contains(&name.as_str()) || LEFT_OUT_FROM.iter().any(|start| name.starts_with(start)) {
            return;
        }
        let count = match self.bytes.as_slice() {
            [_, _, _, a, b, ..] => u16::from_be_bytes([*a, *b]).checked_add(1),
            _ => None,
        };
        let lengths = (u16::try_from(name.len()), u16::try_from(value.len()));
        let is_text = core::str::from_utf8(value).is_ok();
        let (Some(count), (Ok(name_length), Ok(value_length)), true) = (count, lengths, is_text) else {
            self.is_lost = true;
            return;
        };
        for (to, from) in self.bytes.iter_mut().skip(3).zip(count.to_be_bytes()) {
            *to = from;
        }
        for bytes in [&name_length.to_be_bytes()[..], name.as_bytes(), &value_length.to_be_bytes(), value] {
            self.body(bytes);
        }
    }

    /// Takes down a piece of the body.
    pub(crate) fn body(&mut self, piece: &[u8]) {
        self.is_lost |= self.bytes.len().saturating_add(piece.len()) > self.at_most;
        if self.is_lost {
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(piece);
        }
    }

    /// That was all of it.
    pub(crate) fn finish(&mut self) {
        self.is_whole = true;
    }

    /// What is to be kept: if it is not all there, that there was one.
    pub(crate) fn into_response(self) -> StoredResponse {
        let whole = (self.is_whole && !self.is_lost).then_some(self.bytes);
        whole.and_then(StoredResponse::new).unwrap_or_else(StoredResponse::not_kept)
    }
}

/// What is in it concerns one client.
impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recorder({} bytes)", self.bytes.len())
    }
}

/// Takes a length and as many bytes off the front.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<2>()?;
    let (taken, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    *rest = after;
    Some(taken)
}

/// Reads the value of `Idempotency-Key`: a string in quotes (RFC 8941 §3.3.3), as the draft has it, or the bare text that many
/// clients send. Both are the same key. `None` if it is empty, longer than 255 bytes, or not printable.
pub(crate) fn request_key(value: &[u8]) -> Option<&[u8]> {
    let value = value.trim_ascii();
    let inner = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let key = inner.unwrap_or(value);
    // In a string, these would have to be escaped; no client needs them.
    let is_plain = key.iter().all(|b| (b' '..=b'~').contains(b) && !matches!(b, b'"' | b'\\'));
    (is_plain && (1..=MAX_KEY).contains(&key.len())).then_some(key)
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
    pub(crate) const BYTES: usize = 9 * 8;
    /// For how long a fence is remembered after what it belongs to has ended, in milliseconds: clocks step back.
    const FENCE_KEPT: u64 = 60 * 1000;

    /// The reservation that `words` were written by; none for what cannot be read.
    pub(crate) fn load(words: &[u64], now: u64) -> Self {
        let [lease @ .., first, second, kept] = words else { return Self::default() };
        let fingerprint = Fingerprint::from_words([*first, *second]);
        Self { lease: Lease::load(lease, now), fingerprint, kept: *kept != 0 }
    }

    pub(crate) fn words(&self) -> [u64; 9] {
        let ([a, b, c, d, e, f], [g, h]) = (self.lease.words(), self.fingerprint.words());
        [a, b, c, d, e, f, g, h, u64::from(self.kept)]
    }

    /// Whether it has to be kept as it is now, even if nothing else changes it.
    pub(crate) fn has_changed(&self) -> bool {
        self.lease.has_changed()
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
        self.lease.end_in(ttl, now);
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

/// Most bytes of an idempotency key.
const MAX_KEY: usize = 255;
const VERSION: u8 = 1;
/// Header fields that are about one message or connection (RFC 9110 §7.6.1), or that the next host writes itself.
const LEFT_OUT: [&str; 12] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "ratelimit",
    "ratelimit-policy",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// The same, by what their names begin with: HTTP/2's own, Envoy's, limits', ours.
const LEFT_OUT_FROM: [&str; 4] = [":", "x-envoy-", "x-ratelimit-", "x-tollgate-"];

#[cfg(test)]
mod tests {
    use std::format;
    use std::vec;

    #[test]
    fn a_response_comes_back_in_parts() {
        let mut recorder = Recorder::new(201, 1000);
        let sent: [(&str, &[u8]); 5] = [
            (":status", b"201"),
            ("Content-Type", b"text/plain"),
            ("content-length", b"3"),
            ("set-cookie", b"a=b"),
            ("set-cookie", b"c=\xc3\xa9"),
        ];
        sent.iter().for_each(|(name, value)| recorder.field(name, value));
        recorder.body(b"\0\xff");
        recorder.body(b"x");
        let unfinished = recorder.clone().into_response();
        recorder.finish();
        let response = recorder.into_response();
        let parts = response.parts().unwrap();
        assert_eq!((parts.status, parts.body), (201, &b"\0\xffx"[..]));
        let fields = [("content-type", "text/plain"), ("set-cookie", "a=b"), ("set-cookie", "c=é")];
        assert_eq!(parts.fields, fields);
        assert_eq!(unfinished, StoredResponse::not_kept());
        assert_eq!(unfinished.parts(), None);
        for length in 0..response.as_bytes().len() - 3 {
            let cut = StoredResponse::new(response.as_bytes()[..length].to_vec()).unwrap();
            assert_eq!(cut.parts(), None, "{length}");
        }
    }

    /// Such as the 101 of a WebSocket, of which no host makes an answer.
    #[test]
    fn a_response_that_is_not_final_has_no_parts() {
        for (status, is_final) in [(101, false), (199, false), (200, true), (599, true), (600, false)] {
            let [a, b] = u16::to_be_bytes(status);
            let response = StoredResponse::new(Vec::from([VERSION, a, b, 0, 0])).unwrap();
            assert_eq!(response.parts().is_some(), is_final, "{status}");
        }
    }

    #[test]
    fn what_is_too_large_or_no_text_is_not_kept() {
        let of = |value: &[u8], body: &[u8]| {
            let mut recorder = Recorder::new(200, 20);
            recorder.field("a", value);
            recorder.body(body);
            recorder.finish();
            recorder.into_response().parts().is_some()
        };
        // Five bytes in front, six of the field.
        assert!(of(b"b", &[7; 9]) && !of(b"b", &[7; 10]) && !of(&[b'b'; 100], b"") && !of(b"\xff", b""));
    }

    #[test]
    fn a_key_is_the_same_with_quotes_and_without() {
        assert_eq!(request_key(b"\"8e03978e-40d5\""), Some(&b"8e03978e-40d5"[..]));
        assert_eq!(request_key(b" 8e03978e-40d5 "), Some(&b"8e03978e-40d5"[..]));
        for wrong in [&b""[..], b"\"\"", b"\"", b"a\"b", b"a\\b", b"\x00", b"\xff", &[b'a'; 256]] {
            assert_eq!(request_key(wrong), None, "{}", wrong.escape_ascii());
        }
        assert_eq!(request_key(&[b'a'; 255]), Some(&[b'a'; 255][..]));
    }

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
        assert_eq!(Reservation::load(&key.words(), 5000), key);
        assert_eq!(key.words().len() * 8, Reservation::BYTES);
        for damaged in [&[][..], &[1, 2], &[1; 6]] {
            assert!(!Reservation::load(damaged, 5000).lease.is_held(5000), "{damaged:?}");
        }
    }

    #[test]
    fn a_response_is_bounded_and_not_printed() {
        assert_eq!(StoredResponse::new(vec![0; MAX_RESPONSE + 1]), None);
        let largest = StoredResponse::new(vec![b'x'; MAX_RESPONSE]).unwrap();
        assert_eq!(format!("{largest:?}"), "StoredResponse(262144 bytes)");
    }
}

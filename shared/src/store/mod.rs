//! Store operations as data, and what they come back with.
//!
//! Two interpreters understand them: [`Memory`], and Redis by way of [`redis`](crate::redis). Whatever performs an
//! operation performs it atomically: all of its keys share a hash tag, hence a slot of a Redis Cluster and a shard
//! of the memory.

pub mod memory;
pub mod shard;

use alloc::vec::Vec;
use core::fmt;

use crate::circuit_breaker::{BreakerState, CircuitBreaker, Force};
use crate::id::{Fingerprint, Holder, Reporter};
use crate::idempotency::StoredResponse;
use crate::key::Key;
use crate::rate_limit::{Check, Retry, Standing};
use crate::revocation::{Reach, Revocation};
use crate::time::Span;
use crate::time::Timestamp;

pub use memory::Memory;

/// An operation on the store.
///
/// A holder that gets no answer may ask again for a lease, a reservation or a probe, or to keep a response, and has then what it
/// would have had the first time. Charges, refunds and reports would count twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Charges every counter that has room, unless an enforced one has none.
    RateLimit(Vec<Check>),
    /// Gives back what an admitted [`Op::RateLimit`] charged. What does not count any more is left alone, so a refund
    /// never admits more than the quota, however late it arrives.
    Refund {
        /// What was charged.
        checks: Vec<Check>,
        /// When, as its outcome said.
        at: Timestamp,
    },
    /// Takes a [lease](crate::lease) that nobody else holds: [`Outcome::Acquired`] or [`Outcome::Held`]. Its holder gets
    /// it again, with the same fence and more time.
    Acquire {
        /// What is leased.
        key: Key,
        /// For whom.
        holder: Holder,
        /// For how long at most.
        lease: Span,
        /// Whether it gets a fence, which is remembered for a day.
        fenced: bool,
    },
    /// Makes a lease end no earlier than `lease` from now: [`Outcome::Acquired`], or [`Outcome::Lost`] if it has ended.
    Extend {
        /// What is leased.
        key: Key,
        /// Who holds it.
        holder: Holder,
        /// For how long at most.
        lease: Span,
    },
    /// Ends a lease: [`Outcome::Released`], or [`Outcome::Lost`] if it had ended. Never touches another holder's.
    Release {
        /// What is leased.
        key: Key,
        /// Who holds it.
        holder: Holder,
    },
    /// Reserves an [idempotency key](crate::idempotency): [`Outcome::Reserved`] to the first, [`Outcome::InProgress`],
    /// [`Outcome::Mismatch`] or [`Outcome::Replay`] to whoever comes later.
    Reserve {
        /// The idempotency key, and whose it is.
        key: Key,
        /// For whom.
        holder: Holder,
        /// What the request is.
        fingerprint: Fingerprint,
        /// For how long at most.
        lease: Span,
    },
    /// Keeps the response to the request that reserved a key: [`Outcome::Kept`], or [`Outcome::Lost`] if the reservation
    /// has ended. What is kept already stays as it is.
    Keep {
        /// The idempotency key, and whose it is.
        key: Key,
        /// Who reserved it.
        holder: Holder,
        /// For how long it is replayed.
        ttl: Span,
        /// The response.
        response: StoredResponse,
    },
    /// Frees a reservation, so that a retry is carried out: [`Outcome::Released`], or [`Outcome::Lost`] if it has ended or
    /// a response is kept.
    Abandon {
        /// The idempotency key, and whose it is.
        key: Key,
        /// Who reserved it.
        holder: Holder,
    },
    /// Says what a [circuit breaker](crate::circuit_breaker) does with calls: [`Outcome::Breaker`]. Changes nothing.
    View {
        /// The breaker.
        key: Key,
        /// What it is.
        breaker: CircuitBreaker,
    },
    /// Begins a probe of a half-open breaker: [`Outcome::Probing`], or [`Outcome::Breaker`] if it is closed, open, or has no
    /// free probe.
    Probe {
        /// The breaker.
        key: Key,
        /// What it is.
        breaker: CircuitBreaker,
        /// Who probes.
        holder: Holder,
    },
    /// Tells a breaker of calls: [`Outcome::Breaker`] as it is then. Calls other than probes count in a closed one only.
    Report {
        /// The breaker.
        key: Key,
        /// What it is.
        breaker: CircuitBreaker,
        /// Which instance tells.
        reporter: Reporter,
        /// How many calls succeeded since it told last.
        successes: u32,
        /// How many failed.
        failures: u32,
        /// The probe that this is about, if it is one: any failure makes it a failed one; with neither successes nor
        /// failures it was called off.
        probe: Option<Probe>,
    },
    /// Sets a breaker by hand: [`Outcome::Breaker`] as it is then.
    Force {
        /// The breaker.
        key: Key,
        /// What it is.
        breaker: CircuitBreaker,
        /// What it becomes.
        to: Force,
    },
    /// Asks for a [revocation](crate::revocation): [`Outcome::Revoked`].
    IsRevoked {
        /// A token, or a subject.
        key: Key,
    },
    /// Revokes a token, or all of a subject's that were issued until now: [`Outcome::RevokedUpTo`].
    Revoke {
        /// A token, or a subject.
        key: Key,
        /// For how long; as long as what is revoked could be valid.
        ttl: Span,
        /// Up to when what was issued is revoked.
        reach: Reach,
    },
    /// Forgets what is kept under a key, whatever it is: [`Outcome::Reset`].
    Reset {
        /// A counter, or a mark.
        key: Key,
    },
}

/// A probe that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// As [`Outcome::Probing`] said.
    pub generation: u64,
    /// Who probes.
    pub holder: Holder,
}

impl Op {
    /// The counters concerned, all with one hash tag: those of [`Op::RateLimit`] and [`Op::Refund`], which are never none; no
    /// other operation has any.
    pub fn checks(&self) -> &[Check] {
        match self {
            Self::RateLimit(checks) | Self::Refund { checks, .. } => checks,
            _ => &[],
        }
    }

    /// Gives back what an [`Op::Acquire`] took.
    pub(crate) fn release(&self) -> Option<Self> {
        let Self::Acquire { key, holder, .. } = self else { return None };
        Some(Self::Release { key: key.clone(), holder: *holder })
    }

    /// The key concerned, the first of several.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::RateLimit(checks) | Self::Refund { checks, .. } => checks.first().map(|check| &check.key),
            Self::Acquire { key, .. }
            | Self::Extend { key, .. }
            | Self::Release { key, .. }
            | Self::Reserve { key, .. }
            | Self::Keep { key, .. }
            | Self::Abandon { key, .. }
            | Self::View { key, .. }
            | Self::Probe { key, .. }
            | Self::Report { key, .. }
            | Self::Force { key, .. }
            | Self::IsRevoked { key }
            | Self::Revoke { key, .. }
            | Self::Reset { key } => Some(key),
        }
    }
}

/// What an operation came back with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What the counters said.
    RateLimit {
        /// When, by the clock of whoever performed the operation.
        at: Timestamp,
        /// How each counter stands, in the order asked.
        standings: Vec<Standing>,
    },
    /// What could be given back was.
    Refunded,
    /// The lease is the holder's.
    Acquired {
        /// Larger than the fence of every holder before; zero without one.
        fence: u64,
    },
    /// Another one holds the lease.
    Held {
        /// Milliseconds until it ends, if it is not extended or released.
        for_ms: u64,
    },
    /// The lease or reservation has ended, or is another one's.
    Lost,
    /// The lease or reservation was ended.
    Released,
    /// The request is the first: it is to be carried out.
    Reserved {
        /// Larger than the fence of every reservation before, unless the clock has stepped back by more than a minute.
        fence: u64,
    },
    /// The first request is being carried out.
    InProgress {
        /// Milliseconds until its reservation ends, if nothing else happens.
        for_ms: u64,
    },
    /// The key was used for another request.
    Mismatch,
    /// The request was carried out, and this was the response.
    Replay(StoredResponse),
    /// It is in the store.
    Kept,
    /// What a circuit breaker does with calls.
    Breaker {
        /// What it does.
        state: BreakerState,
        /// Which time it has been open, a number that only grows; zero while it is closed.
        generation: u64,
    },
    /// The probe may begin.
    Probing {
        /// To be given back with its report.
        generation: u64,
    },
    /// Whether there is a revocation. For a token, that there is one is all that counts.
    Revoked(Option<Revocation>),
    /// The revocation is in the store: what was issued at or before this moment is revoked.
    RevokedUpTo(Timestamp),
    /// Nothing is kept there any more.
    Reset,
}

impl Outcome {
    /// Whether every enforced check of the operation had room.
    pub fn admitted(&self, checks: &[Check]) -> bool {
        match self {
            Self::RateLimit { standings, .. } => checks
                .iter()
                .zip(standings)
                .all(|(check, standing)| !check.enforced || standing.retry == Retry::Now),
            _ => true,
        }
    }
}

/// Why the store did not perform an operation, or cannot tell whether it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// No connection, or it broke.
    Unreachable,
    /// No answer in time; the operation may have been performed.
    Timeout,
    /// An HTTP status other than 200.
    Status(u16),
    /// An answer that is not what was asked for.
    Garbage,
    /// The store refused the operation; the code in front of its error text, such as `ERR` or `OOM`.
    Refused(ErrorCode),
    /// Not asked: the store failed too often just now.
    Open,
    /// Not asked: too many requests wait for the store already.
    Busy,
    /// The embedded memory was changed by other threads each time this one tried.
    Contention,
}

impl StoreError {
    /// Whether the store was asked, so that it may have performed the operation.
    pub const fn was_asked(&self) -> bool {
        !matches!(self, Self::Open | Self::Busy | Self::Contention)
    }

    /// A word for metrics and logs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Status(_) => "status",
            Self::Garbage => "garbage",
            Self::Refused(_) => "refused",
            Self::Open => "open",
            Self::Busy => "busy",
            Self::Contention => "contention",
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("the store cannot be reached"),
            Self::Timeout => f.write_str("the store did not answer in time"),
            Self::Status(401 | 403) => f.write_str("the store refused the token"),
            Self::Status(status) => write!(f, "the store answered with status {status}"),
            Self::Garbage => f.write_str("the store's answer is not what was asked for"),
            Self::Refused(code) => write!(f, "the store refused the operation ({})", code.as_str()),
            Self::Open => f.write_str("the store is not asked because it failed just now"),
            Self::Busy => f.write_str("too many requests wait for the store already"),
            Self::Contention => f.write_str("the embedded memory is contended"),
        }
    }
}

impl core::error::Error for StoreError {}

/// The capitals in front of a Redis error text; what follows them may hold keys and is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode {
    text: [u8; 16],
    length: u8,
}

impl ErrorCode {
    /// The code of an error text.
    pub fn of(text: &str) -> Self {
        let mut code = Self { text: [0; 16], length: 0 };
        for (to, from) in code.text.iter_mut().zip(text.bytes().take_while(u8::is_ascii_uppercase)) {
            *to = from;
            code.length += 1;
        }
        code
    }

    /// The code; `?` when the text had none.
    pub fn as_str(&self) -> &str {
        let text = self.text.get(..usize::from(self.length)).unwrap_or_default();
        match core::str::from_utf8(text) {
            Ok("") | Err(_) => "?",
            Ok(code) => code,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString as _;

    use super::*;

    #[test]
    fn a_code_is_the_capitals_in_front_of_an_error() {
        for (text, code) in [
            ("OOM command not allowed", "OOM"),
            ("NOPERM", "NOPERM"),
            ("ABCDEFGHIJKLMNOPQ", "ABCDEFGHIJKLMNOP"),
            ("", "?"),
            ("err tg:{secret}", "?"),
            ("ERRé", "ERR"),
        ] {
            assert_eq!(ErrorCode::of(text).as_str(), code, "{text}");
        }
    }

    #[test]
    fn an_error_says_whether_the_store_may_have_done_it() {
        for (error, was_asked, kind, text) in [
            (StoreError::Timeout, true, "timeout", "the store did not answer in time"),
            (StoreError::Status(403), true, "status", "the store refused the token"),
            (StoreError::Status(500), true, "status", "the store answered with status 500"),
            (
                StoreError::Refused(ErrorCode::of("OOM x")),
                true,
                "refused",
                "the store refused the operation (OOM)",
            ),
            (StoreError::Open, false, "open", "the store is not asked because it failed just now"),
            (StoreError::Busy, false, "busy", "too many requests wait for the store already"),
            (StoreError::Contention, false, "contention", "the embedded memory is contended"),
        ] {
            assert_eq!((error.was_asked(), error.kind(), &*error.to_string()), (was_asked, kind, text));
        }
    }
}

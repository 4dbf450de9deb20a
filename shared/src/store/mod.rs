//! Store operations as data, and what they come back with.
//!
//! Two interpreters understand them: [`Memory`], and Redis by way of [`redis`](crate::redis). Whatever performs an
//! operation performs it atomically: all of its keys share a hash tag, hence a slot of a Redis Cluster and a shard
//! of the memory.

pub mod memory;
pub mod shard;

use alloc::vec::Vec;
use core::fmt;

use crate::rate_limit::{Check, Retry, Standing};
use crate::time::Timestamp;

pub use memory::Memory;

/// An operation on the store.
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
}

impl Op {
    /// The counters concerned; never none, and all with one hash tag.
    pub fn checks(&self) -> &[Check] {
        match self {
            Self::RateLimit(checks) | Self::Refund { checks, .. } => checks,
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
}

impl Outcome {
    /// Whether every enforced check of the operation had room.
    pub fn admitted(&self, checks: &[Check]) -> bool {
        match self {
            Self::RateLimit { standings, .. } => checks
                .iter()
                .zip(standings)
                .all(|(check, standing)| !check.enforced || standing.retry == Retry::Now),
            Self::Refunded => true,
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

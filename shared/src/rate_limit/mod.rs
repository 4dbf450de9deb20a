//! Rate limits: quotas, and the four ways of counting.
//!
//! A wrong *allow* lets a client past the quota somebody relies on; a wrong *deny* turns away a customer. So all
//! arithmetic is on integers, a request's whole cost is part of the check, a refused request consumes nothing, and
//! `remaining`, `reset` and `retry` are exact: refused until then, admitted at it, if nobody else comes in between.
//!
//! | algorithm | what it promises | cost of one key |
//! | --- | --- | --- |
//! | [`fixed_window`] | at most the quota in each window, windows aligned to the Unix epoch (a day begins at 00:00 UTC); at a boundary twice the quota may pass in a short time | two integers |
//! | [`sliding_window_log`] | at most the quota in *any* window, exactly | one sorted-set member for each unit admitted |
//! | [`sliding_window_counter`] | as the log, estimated from two fixed windows | three integers |
//! | [`gcra`] | a steady rate of quota per window, with a burst | two integers |
//!
//! A token bucket is [`gcra`] under another name: capacity is the burst, the refill rate is quota per window.
//!
//! Each algorithm is written twice, here and in `scripts/rate_limit.lua` for Redis; random operation sequences
//! hold the two against each other.

pub mod fixed_window;
pub mod gcra;
pub mod sliding_window_counter;
pub mod sliding_window_log;

use alloc::vec::Vec;
use core::fmt;

use crate::config::MAX_QUOTA;
use crate::key::Key;
use crate::time::Span;

use fixed_window::FixedWindow;
use gcra::Gcra;
use sliding_window_counter::SlidingWindowCounter;
use sliding_window_log::SlidingWindowLog;

/// How requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Windows aligned to the Unix epoch.
    FixedWindow,
    /// Every admitted unit is remembered for one window.
    SlidingWindowLog,
    /// The previous window counts in proportion to what is left of it.
    SlidingWindowCounter,
    /// The generic cell rate algorithm, a token bucket without a timer.
    Gcra,
}

impl Algorithm {
    /// As written in a policy.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FixedWindow => "fixed_window",
            Self::SlidingWindowLog => "sliding_window_log",
            Self::SlidingWindowCounter => "sliding_window_counter",
            Self::Gcra => "gcra",
        }
    }

    /// The letter that stands for it in keys and scripts.
    pub const fn letter(self) -> &'static str {
        match self {
            Self::FixedWindow => "f",
            Self::SlidingWindowLog => "l",
            Self::SlidingWindowCounter => "c",
            Self::Gcra => "g",
        }
    }
}

/// How much may pass in what time.
///
/// Bounds: `limit` and `burst` are 1 to 1,000,000,000; of a sliding window log at most 10,000, because each unit is
/// kept; for `gcra` and the sliding window counter, quota × window and burst × window (in milliseconds) are at most
/// 2⁵⁰, so that Lua's numbers stay exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    algorithm: Algorithm,
    limit: u64,
    window: u64,
    burst: u64,
}

/// Why numbers do not make a [`Quota`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaError {
    /// The field at fault: `quota` or `burst`.
    pub field: &'static str,
    /// The largest value it may have here.
    pub at_most: u64,
}

impl Quota {
    /// `limit` per `window`; `burst` is for [`Algorithm::Gcra`] and ignored otherwise.
    ///
    /// # Errors
    /// The field that is zero or too large.
    pub fn new(algorithm: Algorithm, limit: u64, window: Span, burst: u64) -> Result<Self, QuotaError> {
        let window = window.as_millis();
        let at_most = match algorithm {
            Algorithm::FixedWindow => MAX_QUOTA,
            Algorithm::SlidingWindowLog => MAX_LOG,
            Algorithm::SlidingWindowCounter | Algorithm::Gcra => MAX_QUOTA.min(MAX_PRODUCT / window),
        };
        let burst = if algorithm == Algorithm::Gcra { burst } else { limit };
        for (field, value) in [("quota", limit), ("burst", burst)] {
            if value == 0 || value > at_most {
                return Err(QuotaError { field, at_most });
            }
        }
        Ok(Self { algorithm, limit, window, burst })
    }

    /// How requests are counted.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// How much may pass within the window.
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// The window, in milliseconds.
    pub const fn window(&self) -> u64 {
        self.window
    }

    /// How much may pass at one instant: the burst of `gcra`, the limit otherwise.
    pub const fn capacity(&self) -> u64 {
        self.burst
    }

    /// This instance's share when the quota is split over `instances`: rounded up, at least one.
    #[must_use]
    pub const fn share(self, instances: u32) -> Self {
        let n = if instances == 0 { 1 } else { instances as u64 };
        Self { limit: self.limit.div_ceil(n), burst: self.burst.div_ceil(n), ..self }
    }
}

/// One quota asked about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Whose counter.
    pub key: Key,
    /// How much may pass.
    pub quota: Quota,
    /// What the request consumes; at most the quota's capacity, or it is never admitted.
    pub cost: u64,
    /// `false` in shadow mode: decided, but without a say in whether the others admit.
    pub enforced: bool,
}

impl Check {
    /// Whether an admitted operation charged this one of its checks, which stands like this: a check in shadow mode
    /// without room is not charged.
    pub(crate) fn is_charged(&self, standing: &Standing) -> bool {
        self.cost > 0 && standing.retry == Retry::Now
    }
}

/// How a counter stands after it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What could still be consumed at once.
    pub remaining: u64,
    /// Milliseconds until more than `remaining` can be consumed; zero when the quota is whole.
    pub reset: u64,
    /// When this counter admits the cost asked for.
    pub retry: Retry,
}

/// When a cost is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It was, or would have been had no other limit refused.
    Now,
    /// After this many milliseconds, and no earlier.
    After(u64),
    /// The cost is more than the quota ever holds.
    Never,
}

/// Asks several counters at once: if every enforced one has room, each with room is charged; otherwise none is.
///
/// This is the whole rule of all-or-nothing, and `scripts/rate_limit.lua` says the same in Lua.
pub(crate) fn decide(states: &mut [State], checks: &[Check], now: u64) -> (bool, Vec<Standing>) {
    let has_room =
        |check: &Check, state: &State| check.cost <= check.quota.capacity() && state.wait(check, now) == 0;
    let admitted =
        checks.iter().zip(states.iter()).all(|(check, state)| !check.enforced || has_room(check, state));
    let standings = checks
        .iter()
        .zip(states)
        .map(|(check, state)| {
            let retry = if check.cost > check.quota.capacity() {
                Retry::Never
            } else {
                match state.wait(check, now) {
                    0 => Retry::Now,
                    millis => Retry::After(millis),
                }
            };
            if admitted && retry == Retry::Now {
                state.spend(&check.quota, check.cost, now);
            }
            state.standing(&check.quota, retry, now)
        })
        .collect();
    (admitted, standings)
}

/// A way of counting: what is remembered of one key.
///
/// All times are milliseconds since the Unix epoch. `now` may be earlier than a time remembered, when the store's clock
/// was set back: the remembered time then stands in for it, as long as it is at most a window ahead. What is further ahead was
/// written by a clock that was wrong, and the counter is a fresh one; otherwise it would stand still until the clock gets there.
trait Counter: Sized {
    /// The counter that `words` were written by, brought forward to `now`; a fresh one for what cannot be read.
    fn load(quota: &Quota, words: &[u64], now: u64) -> Self;
    /// What is to be remembered.
    fn words(&self, write: &mut dyn FnMut(u64));
    /// What could be consumed at once.
    fn remaining(&self, quota: &Quota, now: u64) -> u64;
    /// Milliseconds until `room` can be consumed at once; `room` is at most the quota's capacity.
    fn wait(&self, quota: &Quota, room: u64, now: u64) -> u64;
    /// Consumes `cost`, for which there is room.
    fn spend(&mut self, quota: &Quota, cost: u64, now: u64);
    /// Gives back `cost`, consumed at the moment `at`; never more than is certain still to count. Says whether
    /// anything changed.
    fn refund(&mut self, quota: &Quota, cost: u64, at: u64, now: u64) -> bool;
    /// Milliseconds until the counter means nothing.
    fn lapses(&self, quota: &Quota, now: u64) -> u64;
}

/// The counter of one key, whatever the algorithm.
#[derive(Debug)]
pub(crate) enum State {
    FixedWindow(FixedWindow),
    SlidingWindowLog(SlidingWindowLog),
    SlidingWindowCounter(SlidingWindowCounter),
    Gcra(Gcra),
}

/// Calls the same method on whichever counter a state is.
macro_rules! each {
    ($state:expr, $counter:ident => $call:expr) => {
        match $state {
            State::FixedWindow($counter) => $call,
            State::SlidingWindowLog($counter) => $call,
            State::SlidingWindowCounter($counter) => $call,
            State::Gcra($counter) => $call,
        }
    };
}

impl State {
    pub(crate) fn load(quota: &Quota, words: &[u64], now: u64) -> Self {
        match quota.algorithm {
            Algorithm::FixedWindow => Self::FixedWindow(FixedWindow::load(quota, words, now)),
            Algorithm::SlidingWindowLog => Self::SlidingWindowLog(SlidingWindowLog::load(quota, words, now)),
            Algorithm::SlidingWindowCounter => {
                Self::SlidingWindowCounter(SlidingWindowCounter::load(quota, words, now))
            }
            Algorithm::Gcra => Self::Gcra(Gcra::load(quota, words, now)),
        }
    }

    pub(crate) fn words(&self, write: &mut dyn FnMut(u64)) {
        each!(self, counter => counter.words(write));
    }

    pub(crate) fn lapses(&self, quota: &Quota, now: u64) -> u64 {
        each!(self, counter => counter.lapses(quota, now))
    }

    pub(crate) fn refund(&mut self, quota: &Quota, cost: u64, at: u64, now: u64) -> bool {
        each!(self, counter => counter.refund(quota, cost, at, now))
    }

    fn wait(&self, check: &Check, now: u64) -> u64 {
        each!(self, counter => counter.wait(&check.quota, check.cost, now))
    }

    fn spend(&mut self, quota: &Quota, cost: u64, now: u64) {
        each!(self, counter => counter.spend(quota, cost, now));
    }

    fn standing(&self, quota: &Quota, retry: Retry, now: u64) -> Standing {
        let remaining = each!(self, counter => counter.remaining(quota, now));
        let reset = if remaining >= quota.capacity() {
            0
        } else {
            each!(self, counter => counter.wait(quota, remaining + 1, now))
        };
        Standing { remaining, reset, retry }
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} per ", self.limit)?;
        match Span::from_millis(self.window) {
            Some(window) => write!(f, "{window}")?,
            None => write!(f, "{}ms", self.window)?,
        }
        if self.algorithm == Algorithm::Gcra {
            write!(f, ", at most {} at once", self.burst)?;
        }
        Ok(())
    }
}

/// The most units a sliding window log keeps for one key.
const MAX_LOG: u64 = 10_000;
/// Lua counts in doubles, exact to 2⁵³; twice this product and one cost more stay below it.
const MAX_PRODUCT: u64 = 1 << 50;

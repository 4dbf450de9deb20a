//! Operations as Redis commands, and their replies.
//!
//! Every operation is one command: a Lua script, atomic in one slot, called by its digest and, where Redis does not know it
//! yet, once more by its text; or a plain `GET` where a script buys nothing. [`rest`] wraps commands and replies in the Upstash REST dialect.

pub mod rest;
pub mod script;

use alloc::borrow::Cow;
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::circuit_breaker::{BreakerState, CircuitBreaker, Force};
use crate::id::Id;
use crate::idempotency::{MAX_RESPONSE, StoredResponse};
use crate::rate_limit::{Check, Retry, Standing};
use crate::revocation;
use crate::store::{Op, Outcome, StoreError};
use crate::time::{Span, Timestamp};

pub use rest::Pipeline;
pub use script::Script;

/// Which clock decides what time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The store's own, so that instances need no common clock.
    Store,
    /// The host's, in milliseconds since the Unix epoch: for stores whose scripts may not ask for the time.
    Host(Timestamp),
}

/// One command's arguments, in order.
trait Arguments {
    fn text(&mut self, text: &str);
    /// A text of letters and digits.
    fn plain(&mut self, text: &str);
    fn number(&mut self, number: u64);
    fn base64(&mut self, bytes: &[u8]);

    fn id(&mut self, id: Id) {
        self.plain(core::str::from_utf8(&id.hex()).unwrap_or_default());
    }

    fn millis(&mut self, span: Span) {
        self.number(span.as_millis());
    }
}

/// Writes the arguments of the script that performs `op`: number of keys, keys, arguments.
fn write_arguments(op: &Op, clock: Clock, to: &mut impl Arguments) {
    match op {
        Op::RateLimit(checks) => write_checks(checks, None, clock, to),
        Op::Refund { checks, at } => write_checks(checks, Some(*at), clock, to),
        _ => {
            to.number(1);
            if let Some(key) = op.key() {
                to.text(key.as_str());
            }
            write_now(clock, to);
            write_rest(op, to);
        }
    }
}

fn write_checks(checks: &[Check], at: Option<Timestamp>, clock: Clock, to: &mut impl Arguments) {
    to.number(checks.len() as u64);
    for check in checks {
        to.text(check.key.as_str());
    }
    write_now(clock, to);
    if let Some(at) = at {
        to.number(at.as_millis());
    }
    for check in checks {
        let letter = check.quota.algorithm().letter();
        if check.enforced {
            to.plain(letter);
        } else {
            to.plain(&letter.to_ascii_uppercase());
        }
        to.number(check.quota.limit());
        to.number(check.quota.window());
        to.number(check.quota.capacity());
        to.number(check.cost);
    }
}

fn write_now(clock: Clock, to: &mut impl Arguments) {
    match clock {
        Clock::Store => to.plain(""),
        Clock::Host(now) => to.number(now.as_millis()),
    }
}

/// Writes what stands behind the time in the arguments of an operation on one key.
fn write_rest(op: &Op, to: &mut impl Arguments) {
    match op {
        Op::RateLimit(_) | Op::Refund { .. } | Op::IsRevoked { .. } => {}
        Op::Acquire { holder, lease, fenced, .. } => {
            to.plain("a");
            to.id(*holder);
            to.millis(*lease);
            to.number(u64::from(*fenced));
        }
        Op::Extend { holder, lease, .. } => {
            to.plain("e");
            to.id(*holder);
            to.millis(*lease);
        }
        Op::Release { holder, .. } => {
            to.plain("r");
            to.id(*holder);
        }
        Op::Reserve { holder, fingerprint, lease, .. } => {
            to.plain("s");
            to.id(*holder);
            to.millis(*lease);
            to.id(*fingerprint);
        }
        Op::Keep { holder, ttl, response, .. } => {
            to.plain("k");
            to.id(*holder);
            to.millis(*ttl);
            to.base64(response.as_bytes());
        }
        Op::Abandon { holder, .. } => {
            to.plain("a");
            to.id(*holder);
        }
        Op::View { breaker, .. } => write_breaker("v", breaker, to),
        Op::Probe { breaker, holder, .. } => {
            write_breaker("p", breaker, to);
            to.id(*holder);
            to.millis(breaker.probe());
        }
        Op::Force { breaker, to: state, .. } => {
            write_breaker("f", breaker, to);
            to.number(match state {
                Force::Open(span) => span.as_millis(),
                Force::Closed => 0,
            });
            to.number(breaker.width());
        }
        Op::Report { breaker, reporter, successes, failures, probe, .. } => {
            write_breaker("r", breaker, to);
            to.millis(breaker.open_for());
            to.number(breaker.width());
            let [least, percent] = breaker.enough();
            for number in [least, percent, breaker.reporters()] {
                to.number(u64::from(number));
            }
            to.id(*reporter);
            to.number(u64::from(*successes));
            to.number(u64::from(*failures));
            match probe {
                Some(probe) => {
                    to.id(probe.holder);
                    to.number(probe.generation);
                }
                None => to.plain(""),
            }
        }
        Op::Revoke { ttl, before, .. } => {
            to.millis(*ttl);
            match before {
                Some(before) => to.number(before.as_millis().min(revocation::LATEST)),
                None => to.plain(""),
            }
        }
    }
}

fn write_breaker(verb: &str, breaker: &CircuitBreaker, to: &mut impl Arguments) {
    to.plain(verb);
    to.number(u64::from(breaker.probes()));
}

/// What a command came back with.
#[derive(Debug, Default)]
enum Reply<'a> {
    /// Nothing at all.
    #[default]
    Missing,
    Null,
    Integers(Vec<i64>),
    Text(Cow<'a, str>),
}

/// Reads the reply to the command that performed `op`.
fn read_reply(op: &Op, reply: &Reply<'_>) -> Result<Outcome, StoreError> {
    let outcome = match (op, reply) {
        (Op::RateLimit(checks), Reply::Integers(reply)) => read_standings(reply, checks.len()),
        (Op::Refund { .. }, Reply::Integers(_)) => Some(Outcome::Refunded),
        (Op::IsRevoked { .. }, Reply::Null) => Some(Outcome::Revoked(None)),
        (Op::IsRevoked { .. }, Reply::Text(text)) => read_revocation(text),
        (Op::Reserve { .. }, Reply::Text(text)) => read_response(text),
        (_, Reply::Integers(reply)) => read_integers(op, reply),
        _ => None,
    };
    outcome.ok_or(StoreError::Garbage)
}

fn read_integers(op: &Op, reply: &[i64]) -> Option<Outcome> {
    let number = |number: i64| u64::try_from(number).ok();
    Some(match (op, reply) {
        (Op::Acquire { .. } | Op::Extend { .. }, [0, fence]) => Outcome::Acquired { fence: number(*fence)? },
        (Op::Acquire { .. }, [1, for_ms]) => Outcome::Held { for_ms: number(*for_ms)? },
        (Op::Extend { .. } | Op::Release { .. } | Op::Keep { .. } | Op::Abandon { .. }, [1]) => Outcome::Lost,
        (Op::Release { .. } | Op::Abandon { .. }, [0]) => Outcome::Released,
        (Op::Reserve { .. }, [0, fence]) => Outcome::Reserved { fence: number(*fence)? },
        (Op::Reserve { .. }, [1, for_ms]) => Outcome::InProgress { for_ms: number(*for_ms)? },
        (Op::Reserve { .. }, [2]) => Outcome::Mismatch,
        (Op::Keep { .. } | Op::Revoke { .. }, [0]) => Outcome::Kept,
        (Op::Probe { .. }, [3, generation]) => Outcome::Probing { generation: number(*generation)? },
        (Op::View { .. } | Op::Probe { .. } | Op::Report { .. } | Op::Force { .. }, reply) => {
            let (state, generation) = match *reply {
                [0] => (BreakerState::Closed, 0),
                [1, for_ms, generation] => (BreakerState::Open { for_ms: number(for_ms)? }, generation),
                [2, free, for_ms, generation] => {
                    (BreakerState::HalfOpen { free: number(free)?, for_ms: number(for_ms)? }, generation)
                }
                _ => return None,
            };
            Outcome::Breaker { state, generation: number(generation)? }
        }
        _ => return None,
    })
}

fn read_revocation(text: &str) -> Option<Outcome> {
    let (before, _) = text.split_once(' ')?;
    Some(Outcome::Revoked(Some(Timestamp::from_millis(before.parse().ok()?))))
}

fn read_response(text: &str) -> Option<Outcome> {
    // Nothing is decoded only to be found too long.
    let text = Some(text).filter(|text| text.len() <= MAX_RESPONSE.div_ceil(3) * 4)?;
    StoredResponse::new(STANDARD.decode(text).ok()?).map(Outcome::Replay)
}

fn read_standings(reply: &[i64], checks: usize) -> Option<Outcome> {
    let (at, standings) = reply.split_first()?;
    let at = Timestamp::from_millis(u64::try_from(*at).ok()?);
    let (standings, []) = standings.as_chunks::<3>() else { return None };
    let standings: Vec<Standing> = standings.iter().map(read_standing).collect::<Option<_>>()?;
    (standings.len() == checks).then_some(Outcome::RateLimit { at, standings })
}

fn read_standing([remaining, reset, retry]: &[i64; 3]) -> Option<Standing> {
    Some(Standing {
        remaining: u64::try_from(*remaining).ok()?,
        reset: u64::try_from(*reset).ok()?,
        retry: match *retry {
            0 => Retry::Now,
            -1 => Retry::Never,
            millis => Retry::After(u64::try_from(millis).ok()?),
        },
    })
}

//! Operations as Redis commands, and their replies.
//!
//! Every operation is one command: a Lua script, atomic in one slot, called by its digest and, where Redis does not know it
//! yet, once more by its text; or a plain `GETEX` or `DEL` where a script buys nothing. Each of them goes to the server that
//! takes writes, never to a replica. [`rest`] wraps commands and replies in the Upstash REST dialect.

mod guards;
pub mod rest;
pub mod script;

use alloc::borrow::Cow;
use alloc::vec::Vec;

use crate::rate_limit::{Check, Retry, Standing};
use crate::store::{Op, Outcome, StoreError};
use crate::time::Timestamp;

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
}

/// Writes the arguments of the script that performs `op`: number of keys, keys, arguments.
fn write_arguments(op: &Op, clock: Clock, to: &mut impl Arguments) {
    match op {
        Op::RateLimit(checks) => write_checks(checks, None, clock, to),
        Op::Refund { checks, at } => write_checks(checks, Some(*at), clock, to),
        _ => guards::write_arguments(op, clock, to),
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

/// What a command came back with.
#[derive(Debug, Default)]
enum Reply<'a> {
    /// Nothing at all.
    #[default]
    Missing,
    Null,
    Integer(i64),
    Integers(Vec<i64>),
    Text(Cow<'a, str>),
}

/// Reads the reply to the command that performed `op`.
fn read_reply(op: &Op, reply: &Reply<'_>) -> Result<Outcome, StoreError> {
    let outcome = match (op, reply) {
        (Op::RateLimit(checks), Reply::Integers(reply)) => read_standings(reply, checks.len()),
        (Op::Refund { .. }, Reply::Integers(_)) => Some(Outcome::Refunded),
        (Op::RateLimit(_) | Op::Refund { .. }, _) => None,
        _ => guards::read_reply(op, reply),
    };
    outcome.ok_or(StoreError::Garbage)
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

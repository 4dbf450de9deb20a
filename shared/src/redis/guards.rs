//! Arguments and replies of operations that count nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Arguments, Clock, Reply, write_now};
use crate::circuit_breaker::{BreakerState, CircuitBreaker, Force};
use crate::id::Id;
use crate::idempotency::{MAX_RESPONSE, StoredResponse};
use crate::revocation::{self, Revocation};
use crate::store::{Op, Outcome};
use crate::time::{Span, Timestamp};

/// Writes the arguments of the script that performs `op`, which has one key.
pub(super) fn write_arguments(op: &Op, clock: Clock, to: &mut impl Arguments) {
    to.number(1);
    if let Some(key) = op.key() {
        to.text(key.as_str());
    }
    write_now(clock, to);
    write_rest(op, to);
}

/// Writes what stands behind the time in the arguments of an operation on one key.
fn write_rest(op: &Op, to: &mut impl Arguments) {
    match op {
        Op::RateLimit(_) | Op::Refund { .. } | Op::IsRevoked { .. } | Op::Reset { .. } => {}
        Op::Acquire { holder, lease, fenced, .. } => {
            to.plain("a");
            id(to, *holder);
            millis(to, *lease);
            to.number(u64::from(*fenced));
        }
        Op::Extend { holder, lease, .. } => {
            to.plain("e");
            id(to, *holder);
            millis(to, *lease);
        }
        Op::Release { holder, .. } => {
            to.plain("r");
            id(to, *holder);
        }
        Op::Reserve { holder, fingerprint, lease, .. } => {
            to.plain("s");
            id(to, *holder);
            millis(to, *lease);
            id(to, *fingerprint);
        }
        Op::Keep { holder, ttl, response, .. } => {
            to.plain("k");
            id(to, *holder);
            millis(to, *ttl);
            to.base64(response.as_bytes());
        }
        Op::Abandon { holder, .. } => {
            to.plain("a");
            id(to, *holder);
        }
        Op::View { breaker, .. } => write_breaker("v", breaker, to),
        Op::Probe { breaker, holder, .. } => {
            write_breaker("p", breaker, to);
            id(to, *holder);
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
            millis(to, breaker.open_for());
            to.number(breaker.width());
            let [least, percent] = breaker.enough();
            for number in [least, percent, breaker.reporters()] {
                to.number(u64::from(number));
            }
            id(to, *reporter);
            to.number(u64::from(*successes));
            to.number(u64::from(*failures));
            match probe {
                Some(probe) => {
                    id(to, probe.holder);
                    to.number(probe.generation);
                }
                None => to.plain(""),
            }
        }
        Op::Revoke { ttl, reach, .. } => {
            millis(to, *ttl);
            to.number(reach.least());
            to.number(reach.leeway);
            to.number(revocation::ends(reach, *ttl));
        }
    }
}

fn write_breaker(verb: &str, breaker: &CircuitBreaker, to: &mut impl Arguments) {
    to.plain(verb);
    to.number(u64::from(breaker.probes()));
    millis(to, breaker.probe());
}

fn id(to: &mut impl Arguments, id: Id) {
    to.plain(core::str::from_utf8(&id.hex()).unwrap_or_default());
}

fn millis(to: &mut impl Arguments, span: Span) {
    to.number(span.as_millis());
}

/// Reads the reply to the command that performed `op`; `None` if it is no reply to that.
pub(super) fn read_reply(op: &Op, reply: &Reply<'_>) -> Option<Outcome> {
    match (op, reply) {
        (Op::IsRevoked { .. }, Reply::Null) => Some(Outcome::Revoked(None)),
        (Op::IsRevoked { .. }, Reply::Text(text)) => read_revocation(text),
        (Op::Reserve { .. }, Reply::Text(text)) => read_response(text),
        // How many keys there were is not told: what has lapsed may still be there.
        (Op::Reset { .. }, Reply::Integer(0 | 1)) => Some(Outcome::Reset),
        (_, Reply::Integers(reply)) => read_integers(op, reply),
        _ => None,
    }
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
        (Op::Keep { .. }, [0]) => Outcome::Kept,
        (Op::Revoke { .. }, [0, before]) => Outcome::RevokedUpTo(Timestamp::from_millis(number(*before)?)),
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
    let (before, until) = text.split_once(' ')?;
    let moment = |text: &str| text.parse().ok().map(Timestamp::from_millis);
    Some(Outcome::Revoked(Some(Revocation { before: moment(before)?, until: moment(until)? })))
}

fn read_response(text: &str) -> Option<Outcome> {
    // Nothing is decoded only to be found too long.
    let text = Some(text).filter(|text| text.len() <= MAX_RESPONSE.div_ceil(3) * 4)?;
    StoredResponse::new(STANDARD.decode(text).ok()?).map(Outcome::Replay)
}

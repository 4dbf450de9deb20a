//! A decision that waits for a lock which another request holds.

use alloc::boxed::Box;

use super::guards::Asked;
use super::{Call, Decision, Reason, Ruling, Source, Step};
use crate::local::Local;
use crate::store::Op;
use crate::store::memory::Shards;
use crate::time::{Timestamp, Validity};

/// A decision that waits for a lock which another request holds: [`Later::resume`] after so long, or [`Later::give_up`].
///
/// Those who wait stand in no line: who asks first once it is free has it. What else the request has claimed it keeps meanwhile.
#[derive(Debug)]
pub struct Later {
    call: Box<Call>,
    held: Held,
    after: u64,
}

/// A lock that another request holds.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) asked: Asked,
    pub(super) op: Op,
    pub(super) source: Source,
    /// Milliseconds until it is free in any case.
    pub(super) for_ms: u64,
    /// For how long it is waited for.
    pub(super) patience: Validity,
}

impl Later {
    pub(super) fn new(call: Call, held: Held, now: Timestamp) -> Self {
        // In proportion to how long it has lasted already: soon at first, and not often where it lasts.
        let pause = (now.since(call.began) / 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        let after = apart(pause, &held.op).min(held.for_ms).min(held.patience.until().since(now)).max(1);
        Self { call: Box::new(call), held, after }
    }

    /// In how many milliseconds to go on, 1 to 750.
    pub fn after(&self) -> u64 {
        self.after
    }

    /// Asks for the lock once more; a host that was asleep for longer has lost what the request had claimed.
    pub fn resume<S: Shards>(self, local: &mut Local<S>, now: Timestamp) -> Step {
        if self.held.patience.until().plus(LONGEST_PAUSE) < now {
            return Step::Decide(self.give_up(local, now));
        }
        let Self { mut call, held: Held { asked, op, .. }, .. } = self;
        call.ask_again(asked, op);
        call.leave(local, now)
    }

    /// Refuses the request at once, for a host that cannot have it wait, or whose client has left.
    pub fn give_up<S: Shards>(self, local: &mut Local<S>, now: Timestamp) -> Decision {
        let Self { mut call, held: Held { asked, source, for_ms, .. }, .. } = self;
        call.report.add(asked.guard, Ruling::Refused, source);
        call.reason = Some(Reason::Locked { guard: asked.guard, for_ms });
        call.decide(local, now)
    }
}

/// Half of the time to one and a half of it: who began to wait together would otherwise ask together, and all but one in vain.
fn apart(pause: u64, op: &Op) -> u64 {
    let Op::Acquire { holder, .. } = op else { return pause };
    let [_, number] = holder.words();
    // Multiples of the golden ratio fall evenly, and holders of one instance are numbered.
    let part = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
    pause / 2 + ((pause * part) >> 8)
}

/// Milliseconds: a round trip to a near store, and most of a short request.
const SHORTEST_PAUSE: u64 = 20;
/// Milliseconds: who waits alone lets a free lock stand unused for half of this, on average.
const LONGEST_PAUSE: u64 = 500;

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::id::Holder;
    use crate::key::Key;
    use crate::time::Span;

    #[test]
    fn those_who_wait_ask_apart() {
        let pauses: Vec<u64> = (1..=100)
            .map(|number| {
                let (key, lease) = (Key::from_stored("tg:{a}:lock"), Span::MAX);
                apart(400, &Op::Acquire { key, holder: Holder::from_words([7, number]), lease, fenced: true })
            })
            .collect();
        assert!(pauses.iter().all(|pause| (200..600).contains(pause)), "{pauses:?}");
        for tenth in 0..10 {
            let part = 200 + tenth * 40..240 + tenth * 40;
            let asking = pauses.iter().filter(|pause| part.contains(*pause)).count();
            assert!((8..=12).contains(&asking), "{asking} of 100 in {part:?}: {pauses:?}");
        }
    }
}

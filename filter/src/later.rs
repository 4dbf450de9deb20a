//! Requests that wait for a lock.

use std::rc::Rc;

use tollgate_shared::exchange::{Decision, Later, Step};
use tollgate_shared::time::{Timestamp, Validity};

use crate::commit::Committer;
use crate::host;
use crate::queue::{self, Slot};

/// A request that waits for a lock.
#[derive(Debug)]
pub(crate) struct Sleeper {
    slot: Rc<Slot>,
    later: Later,
    /// When it wakes, by the time that decisions take.
    at: Timestamp,
    /// For how long it sleeps, by the host's clock.
    asleep: Validity,
}

impl Committer {
    /// Has a request wait for a lock, unless too many do already: then it is refused.
    pub(crate) fn sleep(&mut self, slot: &Rc<Slot>, later: Later, now: Timestamp) -> Option<Decision> {
        if self.sleepers.len() >= queue::MOST {
            return Some(later.give_up(&mut self.local, now));
        }
        let at = now.plus(later.after());
        let asleep = Validity::new(host::real_time(now), later.after());
        self.sleepers.push(Sleeper { slot: Rc::clone(slot), later, at, asleep });
        self.watch();
        None
    }

    /// Has those ask again whose time has come, and those leave whose clients have left.
    pub(crate) fn wake(&mut self, now: Timestamp) {
        let is_over = |sleeper: &mut Sleeper| !sleeper.asleep.covers(now) || sleeper.slot.gone.get();
        let over: Vec<Sleeper> = self.sleepers.extract_if(.., is_over).collect();
        for Sleeper { slot, later, at, .. } in over {
            let now = host::resumption_time(at);
            // What it goes on with began now, where tests' clocks stand still.
            slot.began.set(now);
            let step = if slot.gone.get() {
                Step::Decide(later.give_up(&mut self.local, now))
            } else {
                later.resume(&mut self.local, now)
            };
            if let Some(decision) = self.goes_on(step, &slot, now) {
                self.decided(&slot, decision, now);
            }
        }
    }
}

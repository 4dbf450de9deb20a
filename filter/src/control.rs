//! The [control path](tollgate_shared::control), there only where it is configured.

use std::rc::Rc;

use tollgate_shared::control::{Asked, Found, MAX_BODY, Step};
use tollgate_shared::request::Request as _;
use tollgate_shared::store::StoreError;

use crate::commit::Committer;
use crate::exchange::{all_failed, waiting};
use crate::host::{self, Received};
use crate::queue::{Member, Slot, Stage};

impl Committer {
    /// What comes of a request whose head has come; `None` for all that have nothing to do with the control path.
    pub(crate) fn asked(&mut self, slot: &Rc<Slot>, request: &Received, has_body: bool) -> Option<Stage> {
        match self.control.as_ref()?.find(request)? {
            Found::Answer(answer) => host::answer(&answer, false),
            Found::Asked(asked) if asked.takes_body() && has_body && !request.is_tunnel() => {
                slot.asked.set(Some(asked));
                return Some(Stage::Gathers(MAX_BODY + 1));
            }
            Found::Asked(asked) => return Some(self.ask(slot, asked, request)),
        }
        Some(Stage::Waits)
    }

    /// Does what a request asks for whose body has come.
    pub(crate) fn ask(&mut self, slot: &Rc<Slot>, asked: Asked, request: &Received) -> Stage {
        let now = request.time();
        slot.began.set(now);
        match asked.begin(&self.policy, &mut self.local, request.body(), now) {
            Step::Answer(answer) => host::answer(&answer, false),
            Step::Call(call) if self.has_room() => {
                self.queue.push(Member::Control { waiting: waiting(slot, now), call: Box::new(call) });
            }
            Step::Call(call) => {
                let failed = all_failed(call.batch(), &StoreError::Busy);
                let (answer, ops) = call.resume(&mut self.local, failed, now);
                self.settle(ops, now);
                host::answer(&answer, false);
            }
        }
        Stage::Waits
    }
}

//! What a request meets: the decision about it, its answer, its end.

use std::rc::Rc;

use tollgate_shared::answer::{self, Answer};
use tollgate_shared::exchange::{self, Before, Call, Completion, Decision, Later, Step};
use tollgate_shared::redis::rest::Outcomes;
use tollgate_shared::request::MAX_BODY;
use tollgate_shared::store::{Op, StoreError};
use tollgate_shared::time::Timestamp;

use crate::commit::Committer;
use crate::host::{self, Received};
use crate::queue::{Member, Slot, Stage, Waiting};

/// Somebody who waited, and what is to be told.
#[derive(Debug)]
pub(crate) struct Told {
    slot: Rc<Slot>,
    news: News,
    at: Timestamp,
}

/// A request that is over, and what is left to do.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) completion: Completion,
    pub(crate) began: Timestamp,
    /// All of it had come.
    pub(crate) is_whole: bool,
}

/// How it goes on with a request.
enum Next {
    Decided(Decision),
    Call(Box<Call>),
    Later(Later),
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all news are decisions")]
enum News {
    /// What becomes of the request.
    Decision(Decision),
    /// Whether the answer may go.
    Answer(bool),
    /// The answer of the control path.
    Control(Answer),
    /// Keys have come, or will not: the decision begins anew.
    Keys,
}

impl Committer {
    /// The head of a request has come, and its context is the current one.
    pub(crate) fn arrived(&mut self, slot: &Rc<Slot>, has_body: bool) -> Stage {
        let request = Received::fetch(false);
        if let Some(stage) = self.asked(slot, &request, has_body) {
            return stage;
        }
        if has_body && self.read_bodies && self.policy.reads_body(&request) && !request.is_tunnel() {
            return Stage::Gathers(MAX_BODY);
        }
        self.begin(slot, &request)
    }

    /// The body of a request has come too, as far as it is waited for.
    pub(crate) fn gathered(&mut self, slot: &Rc<Slot>) -> Stage {
        slot.has_body.set(true);
        let request = Received::fetch(true);
        match slot.asked.take() {
            Some(asked) => self.ask(slot, asked, &request),
            None => self.begin(slot, &request),
        }
    }

    fn begin(&mut self, slot: &Rc<Slot>, request: &Received) -> Stage {
        let now = request.time();
        slot.began.set(now);
        slot.grpc.set(request.is_grpc());
        let step = exchange::begin(&self.policy, &mut self.local, request, now);
        if matches!(step, Step::FetchKeys) && self.await_keys(slot) {
            return if slot.has_body.get() { Stage::Rereads } else { Stage::Waits };
        }
        let decision = self.goes_on(step, slot, now);
        let passes = decision.is_some_and(|decision| self.carry_out(decision, slot, now));
        if passes { Stage::Passes } else { Stage::Waits }
    }

    /// Goes on until there is a decision, or the request waits.
    pub(crate) fn goes_on(&mut self, step: Step, slot: &Rc<Slot>, now: Timestamp) -> Option<Decision> {
        match self.advance(step, slot, now) {
            Next::Decided(decision) => Some(decision),
            Next::Call(call) if self.has_room() => {
                self.queue.push(Member::Request { waiting: waiting(slot, now), call });
                None
            }
            Next::Call(call) => Some(self.fall_back(*call, slot, &StoreError::Busy)),
            Next::Later(later) => self.sleep(slot, later, now),
        }
    }

    /// A request that has waited is to be told.
    pub(crate) fn decided(&mut self, slot: &Rc<Slot>, decision: Decision, at: Timestamp) {
        self.decided.push_back(Told { slot: Rc::clone(slot), news: News::Decision(decision), at });
    }

    /// The head of the answer has come, with this status, and its context is the current one.
    pub(crate) fn responded(&mut self, slot: &Rc<Slot>, status: u16) -> Stage {
        let Some(mut completion) = slot.completion.take() else { return Stage::Passes };
        let now = host::resumption_time(slot.began.get());
        let before = completion.before_answer(&mut self.local, status, now);
        let mut ops = completion.responded(&mut self.local, status, now);
        if completion.records() {
            for (name, value) in host::response_fields().fields() {
                completion.record_field(&String::from_utf8_lossy(name), value);
            }
        }
        if completion.lasts() {
            slot.completion.replace(Some(completion));
        } else {
            ops.extend(completion.ended(&mut self.local, now));
        }
        let stage = match before {
            Before::Pass => Stage::Passes,
            Before::Ask(revoking) if self.has_room() => {
                self.queue.push(Member::Answer { waiting: waiting(slot, now), revoking });
                Stage::Waits
            }
            before => {
                if let Before::Ask(revoking) = before {
                    let failed = all_failed(revoking.as_ref(), &StoreError::Busy);
                    revoking.resume(&mut self.local, failed, now);
                }
                host::answer(&answer::not_revoked(), slot.grpc.get());
                Stage::Waits
            }
        };
        self.settle(ops, now);
        stage
    }

    /// The host has answered in the place of the upstream, because of the client.
    pub(crate) fn abandoned(&mut self, slot: &Slot) {
        let Some(mut completion) = slot.completion.take() else { return };
        let now = host::resumption_time(slot.began.get());
        let mut ops = completion.abandoned(&mut self.local, now);
        if completion.lasts() {
            slot.completion.replace(Some(completion));
        } else {
            ops.extend(completion.ended(&mut self.local, now));
        }
        self.settle(ops, now);
    }

    /// A request is over. If there was no answer and not all of the request has come, its client broke off.
    pub(crate) fn ended(&mut self, ended: Ended) {
        let Ended { mut completion, began, is_whole } = ended;
        let now = host::resumption_time(began);
        let mut ops = if is_whole { Vec::new() } else { completion.abandoned(&mut self.local, now) };
        ops.extend(completion.ended(&mut self.local, now));
        self.settle(ops, now);
    }

    /// Takes in what became of a member's operations; who has to ask once more comes back.
    pub(crate) fn go_on(&mut self, member: Member, outcomes: Outcomes, now: Timestamp) -> Option<Member> {
        match member {
            Member::Request { waiting, call } => {
                let step = call.resume(&mut self.local, outcomes, now);
                let slot = &waiting.slot;
                let decision = match self.advance(step, slot, now) {
                    Next::Decided(decision) => decision,
                    // It goes on waiting since it queued first.
                    Next::Call(call) if !self.queue.is_full() => {
                        return Some(Member::Request { waiting, call });
                    }
                    Next::Call(call) => self.fall_back(*call, slot, &StoreError::Busy),
                    Next::Later(later) => self.sleep(slot, later, now)?,
                };
                self.decided(slot, decision, now);
            }
            Member::Answer { waiting: Waiting { slot, .. }, revoking } => {
                let news = News::Answer(revoking.resume(&mut self.local, outcomes, now));
                self.decided.push_back(Told { slot, news, at: now });
            }
            Member::Control { waiting: Waiting { slot, .. }, call } => {
                let (answer, ops) = call.resume(&mut self.local, outcomes, now);
                self.settle(ops, now);
                self.decided.push_back(Told { slot, news: News::Control(answer), at: now });
            }
            Member::Settle { .. } => {}
        }
        None
    }

    /// Requests that waited for keys go on.
    pub(crate) fn begin_anew(&mut self, slots: Vec<Rc<Slot>>, now: Timestamp) {
        self.decided.extend(slots.into_iter().map(|slot| Told { slot, news: News::Keys, at: now }));
        self.tell();
    }

    /// Goes on without the store for a member that cannot wait for it any longer.
    pub(crate) fn give_up(&mut self, member: Member, error: &StoreError) {
        let outcomes = all_failed(member.as_ref(), error);
        let now = host::resumption_time(member.time());
        if let Some(Member::Request { waiting: Waiting { slot, .. }, call }) =
            self.go_on(member, outcomes, now)
        {
            let decision = self.fall_back(*call, &slot, error);
            self.decided(&slot, decision, now);
        }
    }

    /// Tells requests what became of them, a few in each event.
    ///
    /// The host resumes them one inside the other when the event ends: what the first one's response causes, such as our own
    /// look at its header fields, resumes the second. A whole batch at once would pile up on the host's stack.
    pub(crate) fn tell(&mut self) {
        for _ in 0..AT_ONCE {
            let Some(told) = self.decided.pop_front() else { return };
            self.release(told);
        }
        while !self.decided.is_empty() && !self.ring() {
            // Nobody will wake us: better deep than never.
            if let Some(told) = self.decided.pop_front() {
                self.release(told);
            }
        }
    }

    fn release(&mut self, Told { slot, news, at }: Told) {
        let is_there = !slot.gone.get() && host::enter(slot.context);
        match news {
            News::Decision(decision) if is_there => {
                if self.carry_out(decision, &slot, at) {
                    slot.request.set(Stage::Passes);
                    host::resume_request();
                }
            }
            News::Decision(mut decision) => {
                self.metrics.abandoned(1);
                self.settle(decision.settle(), at);
                if let Decision::Allow(admission) = &mut decision
                    && let Some(completion) = admission.completion()
                {
                    // The upstream has seen nothing of it.
                    self.ended(Ended { completion, began: slot.began.get(), is_whole: false });
                }
            }
            News::Answer(true) if is_there => {
                slot.response.set(Stage::Passes);
                host::resume_response();
            }
            News::Answer(false) if is_there => host::answer(&answer::not_revoked(), slot.grpc.get()),
            News::Control(answer) if is_there => host::answer(&answer, false),
            News::Answer(_) | News::Control(_) => {}
            News::Keys if is_there => {
                if self.begin(&slot, &Received::fetch(slot.has_body.get())) == Stage::Passes {
                    slot.request.set(Stage::Passes);
                    host::resume_request();
                }
            }
            News::Keys => self.metrics.abandoned(1),
        }
    }

    /// Prepares the current request for going on, or refuses it; whether it goes on.
    fn carry_out(&mut self, mut decision: Decision, slot: &Slot, now: Timestamp) -> bool {
        self.metrics.decided(&decision);
        let goes_on = match &mut decision {
            Decision::Allow(admission) => {
                host::set_request_fields(admission.onward());
                slot.fields.replace(answer::fields(&self.policy, admission.report(), now));
                slot.completion.replace(admission.completion());
                true
            }
            Decision::Deny(denial) => {
                host::answer(&answer::denial(&self.policy, denial, now), slot.grpc.get());
                false
            }
        };
        self.settle(decision.settle(), now);
        goes_on
    }

    /// Goes on until there is a decision, a call that has to be made for it, or a lock that is waited for.
    fn advance(&mut self, mut step: Step, slot: &Slot, now: Timestamp) -> Next {
        loop {
            step = match step {
                Step::Decide(decision) => return Next::Decided(decision),
                Step::Call(call) => return Next::Call(Box::new(call)),
                Step::Later(later) => return Next::Later(later),
                // Who cannot wait for keys goes by those that are there.
                Step::FetchKeys => {
                    let _ = self.local.keys_fetched(&self.policy, None, now);
                    host::enter(slot.context);
                    let request = Received::fetch(slot.has_body.get());
                    exchange::begin(&self.policy, &mut self.local, &request, now)
                }
                // Envoy has nothing that would verify a signature for us; a core that cannot either believes none.
                Step::Verify(verify) => {
                    host::enter(slot.context);
                    verify.resume(&mut self.local, &Received::fetch(slot.has_body.get()), false, now)
                }
            };
        }
    }

    fn fall_back(&mut self, mut call: Call, slot: &Slot, error: &StoreError) -> Decision {
        let now = host::resumption_time(call.began());
        loop {
            let outcomes = all_failed(call.batch(), error);
            let step = call.resume(&mut self.local, outcomes, now);
            call = match self.advance(step, slot, now) {
                Next::Decided(decision) => return decision,
                Next::Call(call) => *call,
                Next::Later(later) => return later.give_up(&mut self.local, now),
            };
        }
    }
}

pub(crate) fn waiting(slot: &Rc<Slot>, now: Timestamp) -> Waiting {
    Waiting { slot: Rc::clone(slot), queued: host::real_time(now) }
}

/// The outcomes of operations of which none was performed.
pub(crate) fn all_failed(ops: &[Op], error: &StoreError) -> Outcomes {
    ops.iter().map(|_| Err(error.clone())).collect()
}

/// Most requests that are told in one event.
const AT_ONCE: usize = 8;

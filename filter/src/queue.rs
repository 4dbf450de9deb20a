//! Whose operations wait for the store.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use tollgate_shared::answer::Fields;
use tollgate_shared::control::{self, Asked};
use tollgate_shared::exchange::{Call, Completion, Revoking};
use tollgate_shared::store::Op;
use tollgate_shared::time::{Timestamp, Validity};

/// What a request's context, the queue and its answer all know of it.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) context: u32,
    /// When it came.
    pub(crate) began: Cell<Timestamp>,
    /// The context is gone: the answer has left, or the client.
    pub(crate) gone: Cell<bool>,
    /// A refusal is told in gRPC's words.
    pub(crate) grpc: Cell<bool>,
    pub(crate) request: Cell<Stage>,
    pub(crate) response: Cell<Stage>,
    /// The body is there, in the host's buffer, as far as a decision goes by it.
    pub(crate) has_body: Cell<bool>,
    /// All of the request has come.
    pub(crate) is_whole: Cell<bool>,
    /// What it asks of the control path, while its body is waited for.
    pub(crate) asked: Cell<Option<Asked>>,
    /// Header fields for the response.
    pub(crate) fields: RefCell<Fields>,
    /// What is left to do with the answer.
    pub(crate) completion: RefCell<Option<Completion>>,
}

impl Slot {
    pub(crate) fn is_completion_due(&self) -> bool {
        self.completion.borrow().is_some()
    }
}

/// How far a message has come: whether what comes of it goes on, or waits in the host's buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It goes on.
    #[default]
    Passes,
    /// So many bytes of its body are waited for, or all of them.
    Gathers(usize),
    /// It waits, and its body is read once more then: of one that is held back, Envoy's wasm runtime would show what is no longer there.
    Rereads,
    /// It waits for the store, or for nothing any more: another answer goes in its place.
    Waits,
}

/// Somebody whose operations wait for the store.
#[derive(Debug)]
pub(crate) enum Member {
    /// A paused request.
    Request { waiting: Waiting, call: Box<Call> },
    /// A paused answer.
    Answer { waiting: Waiting, revoking: Revoking },
    /// A paused request of the control path.
    Control { waiting: Waiting, call: Box<control::Call> },
    /// Operations that nobody waits for, left over by something that was decided at `at`.
    Settle { ops: Vec<Op>, at: Timestamp },
}

/// Who waits, since `queued` by the host's clock.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) slot: Rc<Slot>,
    pub(crate) queued: Timestamp,
}

impl AsRef<[Op]> for Member {
    fn as_ref(&self) -> &[Op] {
        match self {
            Self::Request { call, .. } => call.batch(),
            Self::Answer { revoking, .. } => revoking.as_ref(),
            Self::Control { call, .. } => call.batch(),
            Self::Settle { ops, .. } => ops,
        }
    }
}

impl Member {
    pub(crate) fn waiting(&self) -> Option<&Waiting> {
        match self {
            Self::Request { waiting, .. } | Self::Answer { waiting, .. } | Self::Control { waiting, .. } => {
                Some(waiting)
            }
            Self::Settle { .. } => None,
        }
    }

    /// When what it is about happened.
    pub(crate) fn time(&self) -> Timestamp {
        match self {
            Self::Settle { at, .. } => *at,
            Self::Request { waiting, .. } | Self::Answer { waiting, .. } | Self::Control { waiting, .. } => {
                waiting.slot.began.get()
            }
        }
    }

    /// Whether its client has left before anything was decided. An answer has been given: what it
    /// revokes, it revokes. What operators ask for is done.
    pub(crate) fn is_abandoned(&self) -> bool {
        matches!(self, Self::Request { waiting, .. } if waiting.slot.gone.get())
    }

    fn is_late(&self, timeout: u64, now: Timestamp) -> bool {
        self.waiting().is_some_and(|waiting| !Validity::new(waiting.queued, timeout).covers(now))
    }
}

/// Members in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Queue(VecDeque<Member>);

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= MOST
    }

    pub(crate) fn push(&mut self, member: Member) {
        self.0.push_back(member);
    }

    /// Puts members in front that have waited before.
    pub(crate) fn push_again(&mut self, members: Vec<Member>) {
        members.into_iter().rev().for_each(|member| self.0.push_front(member));
    }

    /// Takes the first members until they have `operations`; and says how many were abandoned.
    pub(crate) fn take(&mut self, operations: usize) -> (Vec<Member>, usize) {
        let mut members = Vec::with_capacity(self.0.len().min(operations));
        let (mut taken, mut abandoned) = (0, 0);
        while taken < operations
            && let Some(member) = self.0.pop_front()
        {
            if member.is_abandoned() {
                abandoned += 1;
            } else {
                taken += member.as_ref().len();
                members.push(member);
            }
        }
        (members, abandoned)
    }

    /// Takes the members that have waited for `timeout` milliseconds, or whose waiting time is unknown because the clock was set back.
    pub(crate) fn take_late(&mut self, timeout: u64, now: Timestamp) -> VecDeque<Member> {
        // Who waits in front has waited longest.
        if !self.0.iter().find(|member| member.waiting().is_some()).is_some_and(|m| m.is_late(timeout, now)) {
            return VecDeque::new();
        }
        let late = |member: &Member| member.is_late(timeout, now);
        let (late, others) = std::mem::take(&mut self.0).into_iter().partition(late);
        self.0 = others;
        late
    }
}

/// Most members on one worker thread; what comes beyond them is decided as if the store had failed.
pub(crate) const MOST: usize = 8192;

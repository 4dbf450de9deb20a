//! A guard: a policy, what this isolate remembers, and the way to the store.

use std::cell::RefCell;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;

use tollgate_shared::exchange::{self, Call, Decision, LimitError, Step};
use tollgate_shared::local::Local;
use tollgate_shared::policy::Policy;
use tollgate_shared::redis::rest::Outcomes;
use tollgate_shared::request::Request;
use tollgate_shared::store::memory::HeapShards;
use tollgate_shared::store::{Memory, Op, StoreError};
use tollgate_shared::time::Timestamp;

use crate::host::{Level, Line, log};
use crate::settings::Checked;
use crate::store::{Answered, CallReport, Post, Question, Store, resumption_time};

/// Decides about requests. Nothing in here is borrowed while a call is under way, so any number of requests may decide
/// at once.
#[derive(Debug)]
pub(crate) struct Guard {
    policy: Arc<Policy>,
    local: RefCell<Local<HeapShards>>,
    store: Option<Rc<Store>>,
}

/// What a decision needs next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Ask the store, and hand what comes of it to [`Guard::came`].
    Ask(Asking),
    /// Nothing.
    Decided(Decided),
}

/// A decision that waits for the store.
#[derive(Debug)]
pub(crate) struct Asking {
    store: Rc<Store>,
    question: Question,
    call: Call,
}

/// A decision, and what it took.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) decision: Decision,
    /// When it was made.
    pub(crate) at: Timestamp,
    /// The call to the store, if there was one.
    pub(crate) call: Option<CallReport>,
}

impl Asking {
    /// What to post there; `None` when there is no time left.
    pub(crate) fn post(&self) -> Option<Post> {
        self.store.post(&self.question)
    }

    /// When the store was asked first.
    pub(crate) fn asked(&self) -> Timestamp {
        self.question.asked()
    }
}

impl Guard {
    pub(crate) fn new(mut policy: Policy, settings: Checked) -> Self {
        let Checked { store, key_prefix, replicas, denials } = settings;
        if let Some(prefix) = &key_prefix {
            policy = policy.with_key_prefix(prefix);
        }
        let memory = Memory::new(HeapShards::default(), HeapShards::COUNT);
        let local = match &store {
            Some(_) => Local::with_store(memory, denials, replicas),
            None => Local::without_store(memory, denials),
        };
        Self {
            policy: Arc::new(policy),
            local: RefCell::new(local),
            store: store.map(|settings| Rc::new(Store::new(settings))),
        }
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether the store is being left alone because it failed too often.
    pub(crate) fn store_is_open(&self) -> bool {
        self.local.borrow().store_is_open()
    }

    pub(crate) fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// Begins a decision about a request.
    pub(crate) fn begin(&self, request: &dyn Request, now: Timestamp) -> Next {
        let step = exchange::begin(&self.policy, &mut self.local.borrow_mut(), request, now);
        self.next(step, now, None)
    }

    /// Goes on with what came from the store: a status and a body, or an error.
    pub(crate) fn came(&self, asking: Asking, came: Result<(u16, &[u8]), StoreError>) -> Next {
        let Asking { store, question, call } = asking;
        let answered = match came {
            Ok((status, body)) => question.came(status, body),
            Err(error) => question.failed(&error),
        };
        match answered {
            Answered::Not(question) => Next::Ask(Asking { store, question, call }),
            Answered::With(outcomes, report) => self.resume(call, outcomes, report),
        }
    }

    /// Decides about a request.
    pub(crate) async fn check(&self, request: &dyn Request, now: Timestamp) -> Decided {
        self.decide(self.begin(request, now)).await
    }

    /// Decides about one limit, for the subject that `values` name.
    pub(crate) async fn limit(
        &self,
        name: &str,
        values: &[&str],
        cost: Option<NonZeroU64>,
        now: Timestamp,
    ) -> Result<Decided, LimitError> {
        let step =
            exchange::begin_limit(&self.policy, &mut self.local.borrow_mut(), name, values, cost, now)?;
        Ok(self.decide(self.next(step, now, None)).await)
    }

    async fn decide(&self, mut next: Next) -> Decided {
        loop {
            let Asking { store, question, call } = match next {
                Next::Decided(decided) => return decided,
                Next::Ask(asking) => asking,
            };
            let (outcomes, report) = store.ask(question).await;
            next = self.resume(call, outcomes, report);
        }
    }

    fn resume(&self, call: Call, outcomes: Outcomes, report: CallReport) -> Next {
        let now = resumption_time(call.began());
        self.note(&report, now);
        let step = call.resume(&mut self.local.borrow_mut(), outcomes, now);
        self.next(step, now, Some(report))
    }

    fn next(&self, mut step: Step, at: Timestamp, report: Option<CallReport>) -> Next {
        loop {
            let call = match step {
                Step::Decide(decision) => return Next::Decided(Decided { decision, at, call: report }),
                Step::Call(call) => call,
            };
            if let Some(store) = &self.store {
                let question = Question::new(call.batch().to_vec(), call.began());
                return Next::Ask(Asking { store: Rc::clone(store), question, call });
            }
            // Where there is no store, the memory has decided; nobody comes here.
            let outcomes = call.batch().iter().map(|_| Err(StoreError::Unreachable)).collect::<Vec<_>>();
            step = call.resume(&mut self.local.borrow_mut(), outcomes, at);
        }
    }

    /// Tells the store what a decision leaves to tell it. Nobody waits for that.
    pub(crate) async fn settle(&self, ops: Vec<Op>, began: Timestamp) -> Option<CallReport> {
        match &self.store {
            None => {
                let mut local = self.local.borrow_mut();
                ops.iter().for_each(|op| drop(local.memory().perform(op, began)));
                None
            }
            Some(_) if self.store_is_open() => None,
            Some(store) => {
                let (_, report) = store.ask(Question::new(ops, began)).await;
                self.note(&report, began);
                Some(report)
            }
        }
    }

    /// Asks the store whether it is there, if there is one.
    pub(crate) async fn ping(&self) -> Option<CallReport> {
        match &self.store {
            Some(store) => Some(store.ping().await),
            None => None,
        }
    }

    /// Remembers how the store is.
    fn note(&self, call: &CallReport, now: Timestamp) {
        let mut local = self.local.borrow_mut();
        let was_open = local.store_is_open();
        match &call.failure {
            None => local.store_answered(),
            Some(error) => {
                let message = format!("{error}; limits follow on_store_error");
                log(Level::Warn, &FailedCall { message: &message, kind: error.kind(), took_ms: call.took });
                local.store_failed(now);
            }
        }
        match (was_open, local.store_is_open()) {
            (false, true) => log(Level::Error, &Line { message: LEFT_ALONE }),
            (true, false) => log(Level::Info, &Line { message: "the store answers again" }),
            _ => {}
        }
    }
}

#[derive(Serialize)]
struct FailedCall<'a> {
    message: &'a str,
    kind: &'static str,
    took_ms: u64,
}

const LEFT_ALONE: &str =
    "the store failed repeatedly and is left alone for now; limits follow on_store_error";

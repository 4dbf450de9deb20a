//! A guard: a policy, what this isolate remembers, and the way to the store.

use std::cell::{OnceCell, RefCell, RefMut};
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;

use tollgate_shared::config::store::Remembered;
use tollgate_shared::exchange::{self, Call, Decision, Later, LimitError, Step, Verify};
use tollgate_shared::id::Id;
use tollgate_shared::local::Local;
use tollgate_shared::policy::Policy;
use tollgate_shared::redis::rest::Outcomes;
use tollgate_shared::request::Request;
use tollgate_shared::store::memory::HeapShards;
use tollgate_shared::store::{Memory, Op, StoreError};
use tollgate_shared::time::Timestamp;

use crate::host::{Level, Line, log};
use crate::settings::Checked;
use crate::store::{Answered, CallReport, Came, Post, Question, Store, resumption_time};

/// Decides about requests. Nothing in here is borrowed while a call is under way, so any number of requests may decide
/// at once.
#[derive(Debug)]
pub(crate) struct Guard {
    policy: Arc<Policy>,
    /// Made with the first request, because its name is drawn at random: before requests come, Workers have no randomness.
    local: OnceCell<RefCell<Local<HeapShards>>>,
    store: Option<Rc<Store>>,
    replicas: u32,
    remembered: Remembered,
}

/// What a decision needs next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Ask the store, and hand what comes of it to [`Guard::came`].
    Ask(Asking),
    /// Have the platform verify a signature, and hand what comes of it to [`Guard::verified`].
    Verify(Verify),
    /// Fetch keys of tokens, and hand what comes of it to [`Guard::keys_fetched`].
    FetchKeys,
    /// Wait for [`Asleep::ms`], and hand it to [`Guard::woken`].
    Sleep(Asleep),
    /// Nothing.
    Decided(Decided),
}

/// A decision that waits for the store; or something else that does.
#[derive(Debug)]
pub(crate) struct Asking<C = Call> {
    store: Rc<Store>,
    question: Question,
    call: C,
    /// Those before this one.
    calls: Vec<CallReport>,
}

/// A decision that waits for a lock.
#[derive(Debug)]
pub(crate) struct Asleep {
    later: Later,
    at: Timestamp,
    calls: Vec<CallReport>,
}

impl Asleep {
    /// For how many milliseconds.
    pub(crate) fn ms(&self) -> u32 {
        u32::try_from(self.later.after()).unwrap_or(u32::MAX)
    }
}

/// What came from the store for who waited.
#[derive(Debug)]
pub(crate) struct Heard<C> {
    pub(crate) call: C,
    pub(crate) outcomes: Outcomes,
    /// The calls to the store, in their order.
    pub(crate) calls: Vec<CallReport>,
    pub(crate) now: Timestamp,
    /// Since when the store was waited for.
    asked: Timestamp,
}

/// A decision, and what it took.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) decision: Decision,
    /// When it was made.
    pub(crate) at: Timestamp,
    /// The calls to the store, in their order.
    pub(crate) calls: Vec<CallReport>,
}

impl<C: AsRef<[Op]>> Asking<C> {
    fn new(
        store: &Rc<Store>,
        call: C,
        calls: Vec<CallReport>,
        began: Timestamp,
        asked: Option<Timestamp>,
    ) -> Self {
        let question = Question::new(call.as_ref().to_vec(), began, asked);
        Self { store: Rc::clone(store), question, call, calls }
    }

    /// What waits.
    pub(crate) fn call(&self) -> &C {
        &self.call
    }

    /// What to post there; `None` when there is no time left.
    pub(crate) fn post(&self) -> Option<Post> {
        self.store.post(&self.question)
    }
}

impl Guard {
    pub(crate) fn new(mut policy: Policy, settings: Checked) -> Self {
        let Checked { store, key_prefix, replicas, remembered, .. } = settings;
        if let Some(prefix) = &key_prefix {
            policy = policy.with_key_prefix(prefix);
        }
        let store = store.map(|settings| Rc::new(Store::new(settings)));
        Self { policy: Arc::new(policy), local: OnceCell::new(), store, replicas, remembered }
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(crate) fn store(&self) -> Option<&Rc<Store>> {
        self.store.as_ref()
    }

    /// What this isolate remembers.
    pub(crate) fn local(&self) -> RefMut<'_, Local<HeapShards>> {
        let local = self.local.get_or_init(|| {
            let (memory, id) = (Memory::new(HeapShards::default(), HeapShards::COUNT), random_id());
            RefCell::new(match &self.store {
                Some(_) => Local::with_store(memory, self.remembered, self.replicas, id),
                None => Local::without_store(memory, self.remembered, id),
            })
        });
        local.borrow_mut()
    }

    /// Begins a decision about a request.
    pub(crate) fn begin(&self, request: &dyn Request, now: Timestamp) -> Next {
        let step = exchange::begin(&self.policy, &mut self.local(), request, now);
        self.next(step, now, Vec::new(), None)
    }

    /// Begins a decision about one limit, for the subject that `values` name.
    pub(crate) fn begin_limit(
        &self,
        name: &str,
        values: &[&str],
        cost: Option<NonZeroU64>,
        now: Timestamp,
    ) -> Result<Next, LimitError> {
        let step = exchange::begin_limit(&self.policy, &mut self.local(), name, values, cost, now)?;
        Ok(self.next(step, now, Vec::new(), None))
    }

    /// Goes on with whether a signature holds. The request is the same one.
    pub(crate) fn verified(
        &self,
        verify: Verify,
        request: &dyn Request,
        holds: bool,
        now: Timestamp,
    ) -> Next {
        let step = verify.resume(&mut self.local(), request, holds, now);
        self.next(step, now, Vec::new(), None)
    }

    /// Takes up keys of tokens that were fetched, or that none were, and begins anew with a request that has waited for them.
    pub(crate) fn keys_fetched(
        &self,
        fetched: Result<Vec<u8>, String>,
        request: &dyn Request,
        now: Timestamp,
    ) -> Next {
        let (document, failure) = match fetched {
            Ok(document) => (Some(document), None),
            Err(failure) => (None, Some(failure)),
        };
        let refused = self.local().keys_fetched(&self.policy, document.as_deref(), now).err();
        if let Some(failure) = failure.or(refused.map(|error| error.to_string())) {
            log(Level::Warn, &Line { message: &format!("jwt.jwks: {failure}; the keys stay as they were") });
        }
        self.begin(request, now)
    }

    /// Begins anew with a request that cannot wait for keys of tokens: it goes by those that there are.
    pub(crate) fn without_keys(&self, request: &dyn Request, now: Timestamp) -> Next {
        // That none came is no failure of who keeps them.
        let _ = self.local().keys_fetched(&self.policy, None, now);
        self.begin(request, now)
    }

    /// Goes on with what came from the store.
    pub(crate) fn came(&self, asking: Asking, came: Came<'_>) -> Next {
        match self.heard(asking, came) {
            Err(asking) => Next::Ask(asking),
            Ok(Heard { call, outcomes, calls, now, asked }) => {
                let step = call.resume(&mut self.local(), outcomes, now);
                self.next(step, now, calls, Some(asked))
            }
        }
    }

    /// Goes on with who has slept.
    pub(crate) fn woken(&self, Asleep { later, at, calls }: Asleep) -> Next {
        let now = resumption_time(at.plus(later.after()));
        let step = later.resume(&mut self.local(), now);
        self.next(step, now, calls, None)
    }

    /// Goes on with who cannot wait for a lock any longer.
    pub(crate) fn gave_up(&self, Asleep { later, at, calls }: Asleep) -> Next {
        let now = resumption_time(at);
        let decision = later.give_up(&mut self.local(), now);
        Next::Decided(Decided { decision, at: now, calls })
    }

    /// Asks the store about something else than a decision; `None` where there is no store.
    pub(crate) fn ask<C: AsRef<[Op]>>(&self, call: C, began: Timestamp) -> Option<Asking<C>> {
        self.store.as_ref().map(|store| Asking::new(store, call, Vec::new(), began, None))
    }

    /// Takes what came from the store.
    ///
    /// # Errors
    /// The store is to be asked once more.
    pub(crate) fn heard<C>(&self, asking: Asking<C>, came: Came<'_>) -> Result<Heard<C>, Asking<C>> {
        let Asking { store, question, call, mut calls } = asking;
        let began = question.began();
        match question.answered(came) {
            Answered::Not(question) => Err(Asking { store, question, call, calls }),
            Answered::With(outcomes, report, asked) => {
                let now = resumption_time(began);
                self.note(&report, now);
                calls.push(report);
                Ok(Heard { call, outcomes, calls, now, asked })
            }
        }
    }

    /// `asked` is since when the decision has waited for the store, if it has.
    fn next(&self, mut step: Step, at: Timestamp, calls: Vec<CallReport>, asked: Option<Timestamp>) -> Next {
        loop {
            let call = match step {
                Step::Decide(decision) => return Next::Decided(Decided { decision, at, calls }),
                Step::Verify(verify) => return Next::Verify(verify),
                Step::FetchKeys => return Next::FetchKeys,
                Step::Later(later) => return Next::Sleep(Asleep { later, at, calls }),
                Step::Call(call) => call,
            };
            if let Some(store) = &self.store {
                return Next::Ask(Asking::new(store, call, calls, at, asked));
            }
            // Where there is no store, the memory has decided; nobody comes here.
            let outcomes = call.batch().iter().map(|_| Err(StoreError::Unreachable)).collect::<Vec<_>>();
            step = call.resume(&mut self.local(), outcomes, at);
        }
    }

    /// Remembers how the store is.
    pub(crate) fn note(&self, call: &CallReport, now: Timestamp) {
        let mut local = self.local();
        let was_open = local.store_is_open();
        match &call.failure {
            None => local.store_answered(),
            // It was not asked.
            Some(StoreError::Busy) => {}
            Some(error) => {
                let message = format!("{error}; guards follow on_store_error");
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

/// A name that no other instance has.
fn random_id() -> Id {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // Who cannot be told from others must not hold anything: this request fails, and each that follows.
        wasm_bindgen::throw_str("crypto.getRandomValues: found nothing, expected random bytes");
    }
    Id::from_bytes(bytes)
}

#[derive(Serialize)]
struct FailedCall<'a> {
    message: &'a str,
    kind: &'static str,
    took_ms: u64,
}

const LEFT_ALONE: &str =
    "the store failed repeatedly and is left alone for now; guards follow on_store_error";

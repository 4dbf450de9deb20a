//! A guard: a policy, what this isolate remembers, and the way to the store.

use std::cell::RefCell;
use std::num::NonZeroU64;
use std::sync::Arc;

use serde_json::json;

use tollgate_shared::exchange::{self, Decision, LimitError, Step};
use tollgate_shared::local::Local;
use tollgate_shared::policy::Policy;
use tollgate_shared::request::Request;
use tollgate_shared::store::memory::HeapShards;
use tollgate_shared::store::{Memory, Op, StoreError};
use tollgate_shared::time::Timestamp;

use crate::host::{Level, log};
use crate::settings::Checked;
use crate::store::{CallReport, Store, resumption_time};

/// Decides about requests. Nothing in here is borrowed while a call is under way, so any number of requests may decide
/// at once.
#[derive(Debug)]
pub(crate) struct Guard {
    policy: Arc<Policy>,
    local: RefCell<Local<HeapShards>>,
    store: Option<Store>,
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
        Self { policy: Arc::new(policy), local: RefCell::new(local), store: store.map(Store::new) }
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(crate) fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// Whether the store is being left alone because it failed too often.
    pub(crate) fn store_is_open(&self) -> bool {
        self.local.borrow().store_is_open()
    }

    /// Decides about a request.
    pub(crate) async fn check(&self, request: &dyn Request, now: Timestamp) -> Decided {
        let step = exchange::begin(&self.policy, &mut self.local.borrow_mut(), request, now);
        self.decide(step, now).await
    }

    /// Decides about one limit, for the subject that `values` name.
    #[cfg_attr(not(feature = "package"), allow(dead_code, reason = "a Worker has requests to ask about"))]
    pub(crate) async fn limit(
        &self,
        name: &str,
        values: &[&str],
        cost: Option<NonZeroU64>,
        now: Timestamp,
    ) -> Result<Decided, LimitError> {
        let step =
            exchange::begin_limit(&self.policy, &mut self.local.borrow_mut(), name, values, cost, now)?;
        Ok(self.decide(step, now).await)
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
                let (_, report) = store.perform(&ops, began).await;
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

    async fn decide(&self, mut step: Step, began: Timestamp) -> Decided {
        let (mut at, mut report) = (began, None);
        loop {
            let call = match step {
                Step::Decide(decision) => return Decided { decision, at, call: report },
                Step::Call(call) => call,
            };
            let outcomes = match &self.store {
                Some(store) => {
                    let (outcomes, came) = store.perform(call.batch(), began).await;
                    at = resumption_time(began);
                    self.note(&came, at);
                    report = Some(came);
                    outcomes
                }
                // Only who has a store is asked to call it.
                None => call.batch().iter().map(|_| Err(StoreError::Unreachable)).collect(),
            };
            step = call.resume(&mut self.local.borrow_mut(), outcomes, at);
        }
    }

    /// Remembers how the store is.
    fn note(&self, call: &CallReport, now: Timestamp) {
        let mut local = self.local.borrow_mut();
        let was_open = local.store_is_open();
        match &call.failure {
            None => local.store_answered(),
            Some(error) => {
                log(
                    Level::Warn,
                    &json!({
                        "message": format!("{error}; limits follow on_store_error"),
                        "kind": error.kind(),
                        "took_ms": call.took,
                    }),
                );
                local.store_failed(now);
            }
        }
        match (was_open, local.store_is_open()) {
            (false, true) => log(
                Level::Error,
                &json!({
                    "message": "the store failed repeatedly and is left alone for now; limits follow on_store_error",
                }),
            ),
            (true, false) => log(Level::Info, &json!({ "message": "the store answers again" })),
            _ => {}
        }
    }
}

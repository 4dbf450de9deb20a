//! The way to the store: one call for each stage of a decision.
//!
//! Requests do not share calls here, as they do in the filter: what one request awaits must not be driven by
//! another, or the runtime takes it for hung.

use tollgate_shared::config::store::StoreClock;
use tollgate_shared::redis::rest::{Outcomes, Progress};
use tollgate_shared::redis::{Clock, Pipeline};
use tollgate_shared::store::{Op, StoreError};
use tollgate_shared::time::Timestamp;

use crate::host;
use crate::settings::StoreSettings;

/// A store behind the Upstash dialect.
#[derive(Debug)]
pub(crate) struct Store {
    settings: StoreSettings,
}

/// Operations on their way to the store and back.
#[derive(Debug)]
pub(crate) struct Question {
    pipeline: Pipeline<Vec<Op>>,
    /// When the decision began that asks.
    began: Timestamp,
    /// Since when it has waited for the store.
    waits: Timestamp,
    asked: Timestamp,
}

/// What came from the store: a status and a body, or an error.
pub(crate) type Came<'a> = Result<(u16, &'a [u8]), StoreError>;

/// What JavaScript says came; `failure` is the name of the error that came instead.
pub(crate) fn came(status: u16, body: &str, failure: Option<String>) -> Came<'_> {
    match failure {
        None => Ok((status, body.as_bytes())),
        Some(error) => Err(host::store_error(&error)),
    }
}

/// What to post, and for how many milliseconds to wait for its answer.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) body: String,
    pub(crate) patience: u32,
}

/// What becomes of a question.
#[derive(Debug)]
pub(crate) enum Answered {
    /// Post it once more: the store did not know a script.
    Not(Question),
    /// This became of each operation; and since when the decision has waited for the store.
    With(Outcomes, CallReport, Timestamp),
}

/// What a call to the store was like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallReport {
    /// Operations it carried.
    pub(crate) operations: usize,
    /// Milliseconds until it was answered or given up.
    pub(crate) took: u64,
    /// Why it failed as a whole, if it did.
    pub(crate) failure: Option<StoreError>,
}

impl Store {
    pub(crate) fn new(settings: StoreSettings) -> Self {
        Self { settings }
    }

    /// For how many milliseconds a request may wait, in all.
    pub(crate) fn patience(&self) -> u32 {
        u32::try_from(self.settings.timeout.as_millis()).unwrap_or(u32::MAX)
    }

    /// What to post; `None` when there is no time left.
    pub(crate) fn post(&self, question: &Question) -> Option<Post> {
        let clock = match self.settings.clock {
            StoreClock::Store => Clock::Store,
            StoreClock::Host => Clock::Host(resumption_time(question.began)),
        };
        // A clock that is set back must not make anybody wait longer.
        let timeout = u64::from(self.patience());
        let left = question.waits.plus(timeout).since(host::now()).min(timeout);
        let patience = u32::try_from(left).unwrap_or(u32::MAX);
        (patience > 0).then(|| Post { body: question.pipeline.body(clock), patience })
    }
}

impl Question {
    /// About operations of a decision begun at `began`, which has waited for the store since `waits`, if it has.
    pub(crate) fn new(ops: Vec<Op>, began: Timestamp, waits: Option<Timestamp>) -> Self {
        let asked = host::now();
        Self { pipeline: Pipeline::new(vec![ops]), began, waits: waits.unwrap_or(asked), asked }
    }

    /// When the decision began that asks.
    pub(crate) fn began(&self) -> Timestamp {
        self.began
    }

    /// Takes what came.
    pub(crate) fn answered(mut self, came: Came<'_>) -> Answered {
        let progress = match came {
            Ok((status, body)) => self.pipeline.receive(status, body),
            Err(error) => self.pipeline.fail(&error),
        };
        if progress == Progress::Again {
            return Answered::Not(self);
        }
        let operations = self.pipeline.members().iter().map(Vec::len).sum();
        let took = host::now().since(self.asked);
        let report = CallReport { operations, took, failure: self.pipeline.failure().cloned() };
        let outcomes = self.pipeline.finish().flat_map(|(_, outcomes)| outcomes).collect();
        Answered::With(outcomes, report, self.waits)
    }
}

/// The time at which a decision that began at `began` goes on.
pub(crate) fn resumption_time(began: Timestamp) -> Timestamp {
    if cfg!(feature = "test-clock") { began } else { host::now() }
}

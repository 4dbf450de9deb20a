//! The way to the store: one call for each decision.
//!
//! Requests do not share calls here, as they do in the filter: what one request awaits must not be driven by
//! another, or the runtime takes it for hung.

use std::time::Duration;

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
    /// When it was asked first.
    asked: Timestamp,
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
    /// This became of each operation.
    With(Outcomes, CallReport),
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

    /// Where questions are posted to.
    pub(crate) fn url(&self) -> &str {
        &self.settings.url
    }

    /// The value of `authorization`.
    pub(crate) fn authorization(&self) -> &str {
        &self.settings.authorization
    }

    /// What to post; `None` when there is no time left.
    pub(crate) fn post(&self, question: &Question) -> Option<Post> {
        let clock = match self.settings.clock {
            StoreClock::Store => Clock::Store,
            StoreClock::Host => Clock::Host(resumption_time(question.began)),
        };
        // A clock that is set back must not make anybody wait longer.
        let timeout = millis(self.settings.timeout);
        let left = question.asked.plus(timeout).since(host::now()).min(timeout);
        let patience = u32::try_from(left).unwrap_or(u32::MAX);
        (patience > 0).then(|| Post { body: question.pipeline.body(clock), patience })
    }

    /// Asks, and asks again, in all for no longer than one call may take.
    pub(crate) async fn ask(&self, mut question: Question) -> (Outcomes, CallReport) {
        loop {
            let answered = match self.post(&question) {
                None => question.failed(&StoreError::Timeout),
                Some(Post { body, patience }) => {
                    match host::post(self.url(), self.authorization(), &body, patience).await {
                        Ok((status, body)) => question.came(status, body.as_bytes()),
                        Err(error) => question.failed(&error),
                    }
                }
            };
            match answered {
                Answered::Not(again) => question = again,
                Answered::With(outcomes, report) => return (outcomes, report),
            }
        }
    }

    /// Asks the store whether it is there.
    pub(crate) async fn ping(&self) -> CallReport {
        let asked = host::now();
        let patience = u32::try_from(millis(self.settings.timeout)).unwrap_or(u32::MAX);
        let failure = match host::post(self.url(), self.authorization(), r#"[["PING"]]"#, patience).await {
            Ok((200, _)) => None,
            Ok((status, _)) => Some(StoreError::Status(status)),
            Err(error) => Some(error),
        };
        CallReport { operations: 1, took: host::now().since(asked), failure }
    }
}

impl Question {
    /// About operations of a decision begun at `began`.
    pub(crate) fn new(ops: Vec<Op>, began: Timestamp) -> Self {
        Self { pipeline: Pipeline::new(vec![ops]), began, asked: host::now() }
    }

    /// When it was asked first.
    pub(crate) fn asked(&self) -> Timestamp {
        self.asked
    }

    /// The store answered.
    pub(crate) fn came(mut self, status: u16, body: &[u8]) -> Answered {
        match self.pipeline.receive(status, body) {
            Progress::Again => Answered::Not(self),
            Progress::Done => self.finish(),
        }
    }

    /// It did not.
    pub(crate) fn failed(mut self, error: &StoreError) -> Answered {
        self.pipeline.fail(error);
        self.finish()
    }

    fn finish(self) -> Answered {
        let took = host::now().since(self.asked);
        let operations = self.pipeline.members().iter().map(Vec::len).sum();
        let report = CallReport { operations, took, failure: self.pipeline.failure().cloned() };
        Answered::With(self.pipeline.finish().flat_map(|(_, outcomes)| outcomes).collect(), report)
    }
}

/// The time at which a decision that began at `began` goes on.
pub(crate) fn resumption_time(began: Timestamp) -> Timestamp {
    if cfg!(feature = "test-clock") { began } else { host::now() }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

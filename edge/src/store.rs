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

    /// Performs operations of a decision begun at `began`. That is two calls if the store does not know a script yet, but never
    /// longer than one may take.
    pub(crate) async fn perform(&self, ops: &[Op], began: Timestamp) -> (Outcomes, CallReport) {
        let StoreSettings { url, authorization, timeout, clock } = &self.settings;
        let mut pipeline = Pipeline::new(vec![ops]);
        let left = host::now();
        let deadline = left.plus(millis(*timeout));
        loop {
            let clock = match clock {
                StoreClock::Store => Clock::Store,
                StoreClock::Host => Clock::Host(resumption_time(began)),
            };
            // A clock that is set back must not make anybody wait longer.
            let patience = deadline.since(host::now()).min(millis(*timeout));
            let progress = if patience == 0 {
                pipeline.fail(&StoreError::Timeout)
            } else {
                let patience = u32::try_from(patience).unwrap_or(u32::MAX);
                match host::post(url, authorization, &pipeline.body(clock), patience).await {
                    Ok((status, body)) => pipeline.receive(status, body.as_bytes()),
                    Err(error) => pipeline.fail(&error),
                }
            };
            if progress == Progress::Done {
                let took = host::now().since(left);
                let report = CallReport { operations: ops.len(), took, failure: pipeline.failure().cloned() };
                return (pipeline.finish().flat_map(|(_, outcomes)| outcomes).collect(), report);
            }
        }
    }

    /// Asks the store whether it is there.
    pub(crate) async fn ping(&self) -> CallReport {
        let StoreSettings { url, authorization, timeout, .. } = &self.settings;
        let left = host::now();
        let patience = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let failure = match host::post(url, authorization, r#"[["PING"]]"#, patience).await {
            Ok((200, _)) => None,
            Ok((status, _)) => Some(StoreError::Status(status)),
            Err(error) => Some(error),
        };
        CallReport { operations: 1, took: host::now().since(left), failure }
    }
}

/// The time at which a decision that began at `began` goes on.
pub(crate) fn resumption_time(began: Timestamp) -> Timestamp {
    if cfg!(feature = "test-clock") { began } else { host::now() }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

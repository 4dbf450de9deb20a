//! Until when a request is waited for.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::{Answer, Broken, Connection, Pending};

/// When patience ends, and how much there was of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    patience: Duration,
}

impl Deadline {
    /// So long from now.
    pub(super) fn within(patience: Duration) -> Self {
        Self { at: Instant::now() + patience, patience }
    }

    /// Asks for `count` replies to `resp` over a connection.
    pub(super) async fn ask(self, connection: &Connection, resp: Bytes, count: usize) -> Answer {
        self.wait_for(connection.ask(resp, count)).await
    }

    /// Waits for the answer to what was asked already; what came in time is in it.
    pub(super) async fn wait_for(self, mut pending: Pending) -> Answer {
        match timeout_at(self.at, &mut pending).await {
            Ok(answer) => answer.unwrap_or_else(|_| Answer::missing(Broken::NotSent)),
            Err(_) => pending.cut_short(self.patience).await,
        }
    }

    /// Waits; `false` at once when no time would be left behind that.
    pub(super) async fn pause(self, pause: Duration) -> bool {
        if Instant::now() + pause >= self.at {
            return false;
        }
        if !pause.is_zero() {
            sleep(pause).await;
        }
        true
    }
}

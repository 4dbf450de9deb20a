//! One server: a few connections to it, taken in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::bail;
use bytes::Bytes;

use super::connection::{Answer, Broken, Connection};
use super::link::{ConnectError, Link, Options};
use super::replies::{Failure, Replies};
use crate::target::Target;

/// The connections to one server.
#[derive(Debug)]
pub(crate) struct Single {
    links: Box<[Link]>,
    next: AtomicUsize,
}

impl Single {
    /// Connects, and keeps trying in the background when the server is not there yet.
    pub(crate) async fn start(
        target: &Target,
        connections: usize,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let links: Box<[Link]> =
            (0..connections).map(|_| Link::open(target.address.clone(), options.clone())).collect();
        // Known before the first request comes: it finds a connection, or the reason why there is none.
        for link in &links {
            match link.attempted().await {
                Err(error) if matches!(*error, ConnectError::Mode(_)) => {
                    bail!("cannot serve {target}: {error}")
                }
                _ => {}
            }
        }
        Ok(Self { links, next: AtomicUsize::new(0) })
    }

    /// Sends `resp`, which calls for `count` replies, over one connection.
    pub(crate) async fn ask(&self, resp: Bytes, count: usize) -> Replies {
        match self.connection() {
            Ok(connection) => ask(&connection, resp, count).await,
            Err(error) => Replies::failed(Failure::Unreachable(error.to_string().into()), count),
        }
    }

    /// The next connection in turn that is up.
    fn connection(&self) -> Result<Connection, Arc<ConnectError>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.links.len().max(1);
        let mut reason = Arc::new(ConnectError::NotYet);
        for link in self.links.iter().cycle().skip(turn).take(self.links.len()) {
            match link.connection() {
                Ok(connection) => return Ok(connection),
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }
}

/// Sends `resp`, which calls for `count` replies.
pub(crate) async fn ask(connection: &Connection, resp: Bytes, count: usize) -> Replies {
    let unsent = Answer { replies: Bytes::new(), count: 0, failure: Some(Broken::NotSent) };
    let answer = connection.ask(resp, count).await.unwrap_or(unsent);
    let mut replies = Replies::whole(answer.replies, answer.count);
    let failure = match answer.failure {
        Some(Broken::NotSent) => Failure::Unreachable("the connection ended".into()),
        Some(Broken::TooLarge(most)) => Failure::TooLarge(most),
        Some(Broken::Lost) | None => Failure::Lost,
    };
    replies.push_failure(failure, count.saturating_sub(answer.count));
    replies
}

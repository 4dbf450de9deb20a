//! The Redis behind the gateway: connections to its nodes, and which commands go where.
//!
//! A wrong "it failed" makes a client repeat what has run; a wrong "it worked" loses a write. So nothing is ever sent
//! twice here, and an error says whether the command may have run.

pub(crate) mod connection;
mod link;
mod replies;
mod single;

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::command::Batch;
use crate::resp::{Item, Reader, command};
use crate::target::Target;
use link::{Mode, Options};
use single::Single;

pub(crate) use replies::{Failure, Replies};

/// One Redis, whatever its topology, as one thread sees it. Dropping it closes its connections.
#[derive(Debug)]
pub(crate) struct Backend {
    topology: Topology,
    patience: Duration,
}

#[derive(Debug)]
enum Topology {
    Single(Single),
}

impl Backend {
    /// Connects, and keeps trying in the background when Redis is not there yet. Fails only for a Redis that will never
    /// do. `patience` bounds every request, `largest` the bytes of replies to one.
    pub(crate) async fn start(
        target: &Target,
        connections: usize,
        patience: Duration,
        largest: usize,
    ) -> anyhow::Result<Self> {
        let options =
            Options { credentials: target.credentials.clone(), patience, largest, mode: Mode::Standalone };
        let topology = Topology::Single(Single::start(target, connections, &options).await?);
        Ok(Self { topology, patience })
    }

    /// Performs the commands that are to be sent, in order as far as they share keys.
    pub(crate) async fn run(&self, batch: &Batch) -> Replies {
        let count = batch.sending().count();
        if count == 0 {
            return Replies::default();
        }
        let replies = match &self.topology {
            Topology::Single(single) => single.ask(batch.resp().clone(), count),
        };
        timeout(self.patience, replies)
            .await
            .unwrap_or_else(|_| Replies::failed(Failure::TimedOut(self.patience), count))
    }

    /// Performs all of the commands as one transaction, or none. The replies are those inside the one to `EXEC`; an
    /// error text when Redis discarded the transaction.
    pub(crate) async fn transact(&self, batch: &Batch) -> Result<Replies, TransactionError> {
        let count = batch.sending().count();
        let resp = [&command(&["MULTI"])[..], batch.resp(), &command(&["EXEC"])].concat();
        let asked = match &self.topology {
            Topology::Single(single) => single.ask(resp.into(), count + 2),
        };
        let whole = timeout(self.patience, asked)
            .await
            .unwrap_or_else(|_| Replies::failed(Failure::TimedOut(self.patience), count + 2));
        let replies = whole.all()?;
        let mut reader = Reader(&replies);
        let begun = reader.reply().unwrap_or_default();
        // Redis did not begin a transaction (a user that may not use MULTI), whatever became of the rest.
        if let Some(Item::Error(error)) = Reader(begun).next() {
            return Err(TransactionError::Discarded(String::from_utf8_lossy(error).into_owned()));
        }
        for _ in 0..count {
            reader.reply();
        }
        match reader.next() {
            Some(Item::Array(results)) if usize::try_from(results).is_ok_and(|results| results == count) => {
                Ok(Replies::whole(replies.slice_ref(reader.0), count))
            }
            Some(Item::Error(error)) => {
                Err(TransactionError::Discarded(String::from_utf8_lossy(error).into_owned()))
            }
            _ => Err(TransactionError::Nonsense),
        }
    }

    /// Asks Redis whether it is there, for at most `bound`.
    pub(crate) async fn ping(&self, bound: Duration) -> Result<Bytes, Failure> {
        let bound = bound.min(self.patience);
        let asked = match &self.topology {
            Topology::Single(single) => single.ask(command(&["PING"]).into(), 1),
        };
        timeout(bound, asked).await.unwrap_or_else(|_| Replies::failed(Failure::TimedOut(bound), 1)).all()
    }
}

/// Why a transaction has no results.
#[derive(Debug)]
pub(crate) enum TransactionError {
    /// Redis discarded it, with this error.
    Discarded(String),
    /// Redis could not be asked, or did not answer.
    Failed(Failure),
    /// Redis answered `EXEC` with something else.
    Nonsense,
}

impl From<Failure> for TransactionError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}
